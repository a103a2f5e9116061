//! Each configuration of the guide, unchanged, does what its text says. They tap everything, so the tests look at
//! what is HAProxy's.

mod support;

use std::collections::HashMap;

use support::backend::Backend;
use support::captured::{Captured, Transaction};
use support::client::{Client, Request};
use support::haproxy::Haproxy;
use support::payload::bytes;
use support::scene::proxies;
use support::sidetap::{CapturePath, Sidetap};
use support::{LIMIT, free_port, guide, on_each_path, until};

on_each_path!(
    load_balancing_shows_egress_only,
    healthy_checks_are_skipped_and_failing_ones_kept,
    api_in_full_slow_as_headers_errors_in_full,
    sticky_sessions_show_one_server,
    blue_green_shows_the_split,
    rate_limits_and_retries,
    backup_servers_by_url,
);

/// HAProxy and the agent with a configuration of the guide.
struct Case {
    sidetap: Sidetap,
    haproxy: Haproxy,
    front: u16,
}

impl Case {
    fn start(path: CapturePath, config: &str, proxies: &str, front: u16) -> Case {
        let haproxy = Haproxy::with(proxies);
        Case { sidetap: Sidetap::start(&guide(config), path), haproxy, front }
    }

    /// Ends with a request that the configuration records, and returns what is HAProxy's.
    fn stop_after(mut self, last: &str) -> (Haproxy, Vec<Transaction>) {
        let pid = self.haproxy.pid().to_string();
        self.sidetap.wait_until(last, |output| output.transactions.iter().any(|t| t.pid() == pid && t.path() == last));
        let Captured { transactions, .. } = self.sidetap.stop();
        (self.haproxy, transactions.into_iter().filter(|t| t.pid() == pid).collect())
    }
}

/// How much of a transaction is there: what the three levels differ in.
fn level(transaction: &Transaction) -> &'static str {
    let has = |key: &str| ["request", "response"].iter().any(|side| transaction.0[side].get(key).is_some());
    match (has("headers"), has("body")) {
        (_, true) => "full",
        (true, false) => "headers",
        (false, false) => "summary",
    }
}

/// The sides and levels of a path's transactions, ingress first.
fn recorded(transactions: &[Transaction], path: &str) -> Vec<(&'static str, &'static str)> {
    let side = |t: &Transaction| if t.is_ingress() { "ingress" } else { "egress" };
    let mut found: Vec<_> = transactions.iter().filter(|t| t.path() == path).map(|t| (side(t), level(t))).collect();
    found.sort_by_key(|(side, _)| *side != "ingress");
    found
}

const BOTH_FULL: [(&str, &str); 2] = [("ingress", "full"), ("egress", "full")];
const BOTH_HEADERS: [(&str, &str); 2] = [("ingress", "headers"), ("egress", "headers")];

/// Two servers behind one frontend, with lines of `backend`.
fn two_servers(front: u16, lines: &str, servers: [&Backend; 2]) -> String {
    let [one, two] = servers.map(Backend::port);
    format!(
        "frontend front\n    bind 127.0.0.1:{front}\n    @log@\n    default_backend servers\n\
         backend servers\n{lines}    server one 127.0.0.1:{one}\n    server two 127.0.0.1:{two}\n"
    )
}

/// How many egress transactions went to each port, by their URL.
fn by_port(transactions: &[Transaction]) -> HashMap<u16, usize> {
    let mut counts = HashMap::new();
    for transaction in transactions.iter().filter(|t| t.is_egress()) {
        let authority = transaction.url().strip_prefix("http://").and_then(|rest| rest.split('/').next());
        let port = authority.and_then(|authority| authority.rsplit(':').next()?.parse().ok());
        *counts.entry(port.unwrap_or_else(|| panic!("no port in {}", transaction.url()))).or_default() += 1;
    }
    counts
}

fn load_balancing_shows_egress_only(path: CapturePath) {
    let (one, two, front) = (Backend::start(), Backend::start(), free_port());
    let proxies = two_servers(front, "    balance roundrobin\n", [&one, &two]);
    let case = Case::start(path, "1-load-balancing", &proxies, front);
    let mut client = Client::tcp(case.front);
    for number in 0..9 {
        client.get(&format!("/bytes/{number}"), "");
    }
    client.get("/bytes/9", "");
    let (_, transactions) = case.stop_after("/bytes/9");
    assert_eq!(transactions.len(), 10);
    assert_eq!(by_port(&transactions), HashMap::from([(one.port(), 5), (two.port(), 5)]));
    for (number, transaction) in transactions.iter().enumerate() {
        assert_eq!((transaction.direction(), level(transaction)), ("egress-internal", "summary"));
        let expected = transaction.path().strip_prefix("/bytes/").and_then(|count| count.parse().ok());
        assert_eq!(transaction.body_bytes("response"), expected, "number {number}");
    }
}

fn healthy_checks_are_skipped_and_failing_ones_kept(path: CapturePath) {
    let (backend, front) = (Backend::start(), free_port());
    let proxies = format!(
        "frontend front\n    bind 127.0.0.1:{front}\n    @log@\n    default_backend servers\n\
         backend servers\n    option httpchk GET /health\n    http-check expect status 200\n    \
         server one 127.0.0.1:{} check inter 50ms fall 1000\n",
        backend.port()
    );
    let case = Case::start(path, "2-health-checks", &proxies, front);
    let mut client = Client::tcp(case.front);
    client.get("/bytes/10", "");
    client.get("/status/500", "");
    let checked = until(LIMIT, || backend.served().iter().any(|served| served.path == "/health").then_some(()));
    assert!(checked.is_some(), "haproxy has not checked while all was well");
    backend.set_health(503);
    let (_, transactions) = case.stop_after("/health");
    assert_eq!(recorded(&transactions, "/status/500"), [("egress", "full")]);
    assert_eq!(recorded(&transactions, "/bytes/10"), []);
    let checks: Vec<_> = transactions.iter().filter(|t| t.path() == "/health").collect();
    for check in &checks {
        assert_eq!((check.status(), level(check), check.direction()), (503, "full", "egress-internal"));
        assert_eq!(check.body("response").as_deref(), Some(&b"health\n"[..]));
    }
    assert_eq!(transactions.len(), checks.len() + 1, "nothing else is recorded");
}

fn api_in_full_slow_as_headers_errors_in_full(path: CapturePath) {
    let (backend, front) = (Backend::start(), free_port());
    let case = Case::start(path, "3-backend-specific", &proxies(front, backend.port(), ""), front);
    let mut client = Client::tcp(case.front);
    client.get("/api/users", "");
    client.get("/drip/400/200", "");
    client.get("/bytes/400", "");
    client.get("/status/404", "");
    client.get("/api/last", "");
    let (_, transactions) = case.stop_after("/api/last");
    assert_eq!(recorded(&transactions, "/api/users"), BOTH_FULL);
    assert_eq!(recorded(&transactions, "/drip/400/200"), BOTH_HEADERS);
    assert_eq!(recorded(&transactions, "/bytes/400"), [], "fast, no API, no error");
    assert_eq!(recorded(&transactions, "/status/404"), BOTH_FULL);
    for transaction in transactions.iter().filter(|t| t.path() == "/drip/400/200") {
        let duration = transaction.duration_ms().expect("a complete exchange has a duration");
        assert!((600.0..2000.0).contains(&duration), "{duration} ms for four pauses of 200 ms");
        assert_eq!(transaction.body_bytes("response"), Some(400));
    }
}

fn sticky_sessions_show_one_server(path: CapturePath) {
    let (one, two, front) = (Backend::start(), Backend::start(), free_port());
    let proxies = two_servers(front, "    balance source\n    hash-type consistent\n", [&one, &two]);
    let case = Case::start(path, "case-1-sticky-sessions", &proxies, front);
    for number in 0..6 {
        Client::tcp(case.front).get(&format!("/bytes/{number}"), "");
    }
    let (_, transactions) = case.stop_after("/bytes/5");
    let served = [&one, &two].map(|backend| (backend.port(), backend.served().len()));
    let expected: HashMap<u16, usize> = served.into_iter().filter(|(_, count)| *count > 0).collect();
    assert_eq!(expected.len(), 1, "one client, one server");
    assert_eq!(by_port(&transactions), expected);
    assert!(transactions.iter().all(|t| level(t) == "summary"));
}

fn blue_green_shows_the_split(path: CapturePath) {
    let (blue, green, front) = (Backend::start(), Backend::start(), free_port());
    let proxies = format!(
        "frontend front\n    bind 127.0.0.1:{front}\n    @log@\n    default_backend servers\nbackend servers\n    \
         server blue 127.0.0.1:{} weight 90\n    server green 127.0.0.1:{} weight 10\n",
        blue.port(),
        green.port()
    );
    let case = Case::start(path, "case-2-blue-green", &proxies, front);
    let mut client = Client::tcp(case.front);
    for number in 0..20 {
        client.get(&format!("/bytes/{number}"), "");
    }
    let (haproxy, transactions) = case.stop_after("/bytes/19");
    let mut logged = HashMap::new();
    for line in haproxy.wait_log(20) {
        *logged.entry(line.server.expect("each was answered by a server").port()).or_default() += 1;
    }
    assert_eq!(logged.len(), 2, "both colours answered");
    assert_eq!(by_port(&transactions), logged, "haproxy says the same");
    assert!(transactions.iter().all(|t| t.is_egress() && level(t) == "summary"));
}

fn rate_limits_and_retries(path: CapturePath) {
    let (backend, front) = (Backend::start(), free_port());
    let case = Case::start(path, "case-3-rate-limiting", &proxies(front, backend.port(), ""), front);
    let mut client = Client::tcp(case.front);
    for status in [429, 503, 500, 404] {
        client.get(&format!("/status/{status}"), "");
    }
    client.ask(&Request::new("GET", "/bytes/50", "").header("Retry-After", "1"));
    client.get("/bytes/60", "");
    client.ask(&Request::new("POST", "/status/429?last", "").body(bytes(100)));
    let (_, transactions) = case.stop_after("/status/429");
    assert_eq!(recorded(&transactions, "/status/503"), BOTH_FULL);
    assert_eq!(recorded(&transactions, "/bytes/50"), BOTH_HEADERS);
    for path in ["/status/500", "/status/404", "/bytes/60"] {
        assert_eq!(recorded(&transactions, path), [], "{path} is neither limited nor a retry");
    }
    let limited: Vec<_> = transactions.iter().filter(|t| t.path() == "/status/429").collect();
    assert!(limited.iter().all(|t| level(t) == "full" && t.status() == 429));
    assert_eq!(limited.len(), 4);
    let posted = limited.iter().filter(|t| t.body("request") == Some(bytes(100)));
    assert_eq!(posted.count(), 2, "the body of the limited POST, on both sides");
}

fn backup_servers_by_url(path: CapturePath) {
    let (primary, backup) = (Backend::start_at("127.77.0.1"), Backend::start_at("127.77.0.2"));
    let front = free_port();
    let hosts = "127.0.0.1 localhost\n127.77.0.1 dc1-web-1\n127.77.0.2 dc2-web-1\n";
    let proxies = format!(
        "frontend front\n    bind 127.0.0.1:{front}\n    @log@\n    default_backend geo_distributed\n\
         backend geo_distributed\n    option httpchk GET /health\n    \
         server dc1-web1 dc1-web-1:{} check inter 50ms\n    server dc2-web1 dc2-web-1:{} check inter 50ms backup\n",
        primary.port(),
        backup.port()
    );
    let haproxy = Haproxy::with_hosts(&proxies, hosts);
    let case = Case { sidetap: Sidetap::start(&guide("case-4-datacenters"), path), haproxy, front };
    let mut client = Client::tcp(case.front);
    client.get("/bytes/10", "");
    client.get("/status/500", "");
    client.get("/status/404", "");
    primary.set_health(500);
    case.haproxy.wait_line("Running on backup");
    client.get("/bytes/20", "");
    let (_, transactions) = case.stop_after("/bytes/20");

    assert_eq!(recorded(&transactions, "/bytes/10"), [], "the primary, no error");
    assert_eq!(recorded(&transactions, "/status/404"), [], "the primary, no error of the server's");
    assert_eq!(recorded(&transactions, "/status/500"), [("egress", "full")]);
    assert_eq!(recorded(&transactions, "/bytes/20"), [("egress", "full")]);
    let to_backup = transactions.iter().find(|t| t.path() == "/bytes/20").expect("it was recorded");
    assert_eq!(to_backup.url(), format!("http://dc2-web-1:{}/bytes/20", backup.port()));
    assert!(transactions.iter().all(|t| t.status() >= 500 || t.url().contains("dc2-")));
}
