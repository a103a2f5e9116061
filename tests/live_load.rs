//! Ground truth under load: requests made = exchanges recorded, each once, on the right connection.

mod support;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::process::Command;

use support::captured::Transaction;
use support::haproxy::{self, Haproxy};
use support::nginx::Nginx;
use support::sidetap::{CapturePath, Sidetap, tap};
use support::{Scratch, data, free_port, on_each_path};

on_each_path!(a_hundred_thousand_requests_each_recorded_once);

const REQUESTS: usize = 100_000;

/// HAProxy gives each request an id that its log, the request to the server and the response to the client carry.
fn proxies(front: u16, server: u16) -> String {
    let log = data("frontend.cfg").replace("%[capture.req.hdr(0)]", "%ID");
    format!(
        "frontend front\n    bind 127.0.0.1:{front}\n    unique-id-format %pid-%rt\n    unique-id-header X-Request-Id\n\
         {log}    http-response set-header X-Request-Id %[unique-id]\n    default_backend servers\n\
         backend servers\n    server one 127.0.0.1:{server}\n"
    )
}

/// What was recorded of one request.
#[derive(Default)]
struct Sides {
    ingress: Vec<Option<SocketAddr>>,
    egress: Vec<Option<SocketAddr>>,
}

fn a_hundred_thousand_requests_each_recorded_once(path: CapturePath) {
    let nginx = Nginx::start(false, &[]);
    let front = free_port();
    let haproxy = Haproxy::with(&proxies(front, nginx.port()));
    let sidetap = Sidetap::start(&tap(haproxy::EXE, "level: full"), path);
    h2load(front);
    let served = nginx.wait_log(REQUESTS);
    assert_eq!(served.len(), REQUESTS, "nginx has logged each once");
    // HAProxy drops a line now and then when its threads want to log at the same time.
    let clients: HashMap<String, Option<SocketAddr>> =
        haproxy.log().into_iter().map(|line| (line.id, line.client)).collect();
    assert!(clients.len() > REQUESTS * 99 / 100, "haproxy logged {}", clients.len());
    let peak = sidetap.program().peak_resident() / (1 << 20);

    let pid = haproxy.pid().to_string();
    let mut recorded: HashMap<String, Sides> = HashMap::with_capacity(REQUESTS);
    let mut strangers = Vec::new();
    let counters = sidetap.stop_each(|line| {
        let value = serde_json::from_str(line).expect("stdout is JSON lines");
        let transaction = Transaction(value);
        if transaction.0["type"] != "http_transaction" || transaction.pid() != pid {
            return;
        }
        if !is_whole(&transaction) {
            strangers.push(format!("{:#}", transaction.0));
            return;
        }
        let id = transaction.header("response", "x-request-id").or(transaction.header("request", "x-request-id"));
        let sides = recorded.entry(id.unwrap_or_default().to_owned()).or_default();
        let side = if transaction.is_ingress() { &mut sides.ingress } else { &mut sides.egress };
        side.push(transaction.source());
    });
    println!("peak resident memory {peak} MiB; counters {counters:?}");

    assert!(strangers.is_empty(), "{} transactions are not whole, the first: {}", strangers.len(), strangers[0]);
    let mut wrong = Vec::new();
    for line in &served {
        let sides = recorded.remove(&line.id).unwrap_or_default();
        let is_ingress_right = match clients.get(&line.id) {
            Some(client) => sides.ingress == [*client],
            None => sides.ingress.len() == 1,
        };
        if !is_ingress_right || sides.egress != [line.client] {
            let Sides { ingress, egress } = sides;
            wrong.push(format!("{line:?}: ingress from {ingress:?}, egress from {egress:?}"));
        }
    }
    let first = wrong.first();
    assert!(wrong.is_empty(), "{} of {REQUESTS} requests are not recorded once a side: {first:?}", wrong.len());
    let unknown: Vec<_> = recorded.keys().take(5).collect();
    assert!(recorded.is_empty(), "{} ids were recorded that nginx did not log: {unknown:?}", recorded.len());
    let lost: Vec<_> = counters.iter().filter(|(name, count)| name.starts_with("lost") && **count > 0).collect();
    assert!(counters.contains_key("lost") && lost.is_empty(), "counters at the end: {counters:?}");
}

/// The response belongs to the request: nginx repeats the path in the body.
fn is_whole(transaction: &Transaction) -> bool {
    let expected = format!("hello from nginx to {}\n", transaction.path());
    transaction.incomplete().is_empty()
        && transaction.status() == 200
        && transaction.body("response").as_deref() == Some(expected.as_bytes())
}

/// Sends the requests over 32 keep-alive connections, each cycling through 1,000 paths.
fn h2load(front: u16) {
    let folder = Scratch::new("load");
    let urls: String = (0..1000).map(|number| format!("http://127.0.0.1:{front}/text/{number}\n")).collect();
    let list = folder.file("urls", &urls);
    let mut command = Command::new("h2load");
    command.args(["--h1", "-c", "32", "-t", "1", "-n", &REQUESTS.to_string(), "-i"]).arg(&list);
    let output = command.output().expect("h2load is installed");
    let summary = String::from_utf8_lossy(&output.stdout);
    let expected = format!("{REQUESTS} done, {REQUESTS} succeeded, 0 failed, 0 errored, 0 timeout");
    assert!(summary.contains(&expected), "{summary}{}", String::from_utf8_lossy(&output.stderr));
    println!("{}", summary.lines().find(|line| line.starts_with("finished")).unwrap_or_default());
}
