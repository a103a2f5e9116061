//! The guide's walk: its HAProxy with five backend services, its seven requests, its configuration to the letter.

mod support;

use std::process::Command;

use serde_json::Value;
use support::captured::{Block, Captured, Transaction, blocks};
use support::haproxy::Haproxy;
use support::program::{Program, listens};
use support::sidetap::{CapturePath, Sidetap};
use support::{LIMIT, Scratch, data, fill, free_port, guide, on_each_path};

on_each_path!(the_seven_requests_in_json, the_seven_requests_in_text);

const SERVICES: [&str; 5] = ["api-1", "api-2", "web-1", "web-2", "static"];
const POSTED: &str = r#"{"name": "Alice", "role": "admin"}"#;
/// The guide's requests with their number; `/health` is the client's, not HAProxy's own check.
const REQUESTS: [(&str, usize); 6] =
    [("/", 7), ("/api/users", 1), ("/api/data", 6), ("/api/create", 1), ("/static/image.png", 1), ("/health", 1)];
const COUNT: usize = 17;

/// The guide's set-up on 127.0.0.1.
struct Demo {
    haproxy: Haproxy,
    front: u16,
    ports: Vec<(&'static str, u16)>,
    _services: Vec<Program>,
    _folder: Scratch,
}

impl Demo {
    fn start() -> Demo {
        let folder = Scratch::new("guide");
        let script = folder.file("backend-service.py", &data("guide/backend-service.py"));
        let ports: Vec<(&str, u16)> = SERVICES.iter().map(|name| (*name, free_port())).collect();
        let mut services: Vec<Program> = Vec::new();
        for (name, port) in &ports {
            let mut command = Command::new("/usr/bin/python3");
            command.arg(&script).arg(port.to_string());
            command.env("SERVICE_NAME", format!("backend-{name}")).env("PORT", port.to_string());
            services.push(Program::start(name, &mut command, folder.path()));
        }
        for (service, (_, port)) in services.iter_mut().zip(&ports) {
            service.wait_ready("listening socket", LIMIT, |_| listens(*port));
        }
        let (front, stats) = (free_port().to_string(), free_port().to_string());
        let texts: Vec<String> = ports.iter().map(|(_, port)| port.to_string()).collect();
        let mut values = vec![("front", front.as_str()), ("stats", stats.as_str())];
        values.extend(SERVICES.iter().copied().zip(texts.iter().map(String::as_str)));
        let haproxy = Haproxy::start(&fill(&data("guide/haproxy.cfg"), &values));
        let front = front.parse().expect("it was a number");
        Demo { haproxy, front, ports, _services: services, _folder: folder }
    }

    fn port(&self, name: &str) -> u16 {
        self.ports.iter().find(|(n, _)| *n == name).map(|(_, port)| *port).expect("a service of the guide")
    }

    /// The seven requests, as the guide sends them.
    fn ask(&self) {
        for (path, count) in REQUESTS {
            for _ in 0..count {
                self.curl(path);
            }
        }
    }

    fn curl(&self, path: &str) {
        let mut command = Command::new("curl");
        command.args(["-sS", "--fail", "-m", "10", &format!("http://localhost:{}{path}", self.front)]);
        if path == "/api/create" {
            command.args(["-X", "POST", "-H", "Content-Type: application/json", "-d", POSTED]);
        }
        let output = command.output().expect("curl is installed");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "curl {path}: {error}{}", self.haproxy.tail());
    }

    /// Which services may answer a path.
    fn servers(&self, path: &str) -> Vec<u16> {
        let names: &[&str] = match path {
            "/static/image.png" | "/health" => &["static"],
            "/" => &["web-1", "web-2"],
            _ => &["api-1", "api-2"],
        };
        names.iter().map(|name| self.port(name)).collect()
    }
}

/// The port in a URL on this machine, by address or by the name that /etc/hosts has for it.
fn local_port(url: &str) -> Option<u16> {
    let rest = url.strip_prefix("http://127.0.0.1:").or_else(|| url.strip_prefix("http://localhost:"))?;
    rest.split('/').next()?.parse().ok()
}

fn the_seven_requests_in_json(path: CapturePath) {
    let demo = Demo::start();
    let config = guide("quick-start").replace("format: text", "format: json");
    let mut sidetap = Sidetap::start(&config, path);
    demo.ask();
    let pid = demo.haproxy.pid().to_string();
    let own_check =
        |t: &Transaction| t.is_egress() && t.path() == "/health" && t.0["request"].get("authority").is_none();
    sidetap.wait_until("34 transactions and two health checks of haproxy", |output| {
        let of_haproxy = output.transactions.iter().filter(|t| t.pid() == pid);
        let (checks, others): (Vec<_>, Vec<_>) = of_haproxy.partition(|t| own_check(t));
        others.len() >= 2 * COUNT && checks.len() >= 2
    });
    let captured = sidetap.stop();
    let of_haproxy: Vec<&Transaction> = captured.transactions.iter().filter(|t| t.pid() == pid).collect();
    let (checks, asked): (Vec<&Transaction>, Vec<&Transaction>) = of_haproxy.into_iter().partition(|t| own_check(t));

    for (path, count) in REQUESTS {
        let of_path = asked.iter().copied().filter(|t| t.path() == path);
        let (ingress, egress): (Vec<&Transaction>, Vec<&Transaction>) = of_path.partition(|t| t.is_ingress());
        assert_eq!((ingress.len(), egress.len()), (count, count), "{path}");
        let servers = demo.servers(path);
        for transaction in &ingress {
            assert_eq!(transaction.url(), format!("http://localhost:{}{path}", demo.front));
            assert_eq!(transaction.destination().map(|address| address.port()), Some(demo.front));
        }
        for transaction in &egress {
            check_server(transaction, path, &servers);
        }
    }
    assert_eq!(asked.len(), 2 * COUNT, "nothing is recorded twice");
    for transaction in &asked {
        assert!(transaction.exe().ends_with("/haproxy"), "exe {:?}", transaction.exe());
        assert_eq!((transaction.status(), transaction.incomplete()), (200, vec![]), "{:#}", transaction.0);
    }
    // Both of the balanced services were seen to answer.
    for name in ["api-1", "api-2"] {
        assert!(asked.iter().any(|t| t.is_egress() && local_port(t.url()) == Some(demo.port(name))), "{name}");
    }
    for transaction in asked.iter().filter(|t| t.path() == "/api/create") {
        assert_eq!(transaction.body("request").as_deref(), Some(POSTED.as_bytes()), "{}", transaction.direction());
        assert_eq!(transaction.header("request", "content-type"), Some("application/json"));
        let answer: Value = serde_json::from_slice(&transaction.body("response").expect("a body")).expect("JSON");
        assert_eq!(answer["received"], POSTED, "{}", transaction.direction());
    }
    for check in checks {
        assert_eq!((check.method(), check.status()), ("GET", 200));
        let port = local_port(check.url());
        assert!(port == Some(demo.port("api-1")) || port == Some(demo.port("api-2")), "{}", check.url());
    }
    no_foreign_lines(&captured);
}

/// An egress transaction names the server that answered: the services say their port in the body.
fn check_server(transaction: &Transaction, path: &str, servers: &[u16]) {
    let port = local_port(transaction.url()).unwrap_or_else(|| panic!("no local URL: {}", transaction.url()));
    assert!(servers.contains(&port), "{path} went to {port}, of {servers:?}");
    assert_eq!(transaction.destination().map(|address| address.port()), Some(port));
    if path != "/health" {
        let body = transaction.body("response").unwrap_or_else(|| panic!("no body: {:#}", transaction.0));
        let answer: Value = serde_json::from_slice(&body).expect("the services answer in JSON");
        assert_eq!(answer["port"], port.to_string(), "{path}");
    }
}

/// stdout is for captured data alone.
fn no_foreign_lines(captured: &Captured) {
    let foreign: Vec<&str> = captured.stdout.lines().filter(|line| !line.starts_with('{')).collect();
    assert!(foreign.is_empty(), "{foreign:#?}");
}

fn the_seven_requests_in_text(path: CapturePath) {
    let demo = Demo::start();
    let mut sidetap = Sidetap::start(&guide("quick-start"), path);
    let process = format!("haproxy (PID: {})", demo.haproxy.pid());
    demo.ask();
    let of_haproxy = |text: &str| -> Vec<Block> {
        // The last block may be in the writing.
        let whole = text.rfind("\n========================\n").map_or("", |end| &text[..end + 25]);
        blocks(whole).into_iter().filter(|block| block.field("Source Process") == process).collect()
    };
    sidetap.wait_text("34 blocks and a health check", |text| of_haproxy(text).len() > 2 * COUNT);
    let captured = sidetap.stop();
    let found = of_haproxy(&captured.stdout);
    let headings = captured.stdout.matches("HTTP Transaction").count();
    assert_eq!(headings, blocks(&captured.stdout).len(), "grep -c counts transactions");

    let (ingress, egress): (Vec<Block>, Vec<Block>) =
        found.into_iter().partition(|block| block.field("Direction") == "INGRESS ← (client to haproxy)");
    assert_eq!(ingress.len(), COUNT, "blocks with the guide's ingress line");
    for block in ingress.iter().chain(&egress) {
        assert_eq!(block.order, ["Source Process", "Direction", "Method", "URL", "Status", "Duration"]);
        let duration = block.field("Duration").strip_suffix("ms").and_then(|number| number.parse::<u32>().ok());
        assert!(duration.is_some(), "duration {:?}", block.field("Duration"));
        assert_eq!(block.field("Status"), "200 OK", "{block:#?}");
    }
    for block in &egress {
        assert_eq!(block.field("Direction"), "EGRESS → (haproxy to backend)");
        assert!(local_port(block.field("URL")).is_some(), "{}", block.field("URL"));
    }
    for (path, count) in REQUESTS {
        let url = format!("http://localhost:{}{path}", demo.front);
        assert_eq!(ingress.iter().filter(|block| block.field("URL") == url).count(), count, "{url}");
        let servers = demo.servers(path);
        let to_server = egress.iter().filter(|block| {
            let url = block.field("URL");
            let path_of_url = url.splitn(4, '/').nth(3).map(|rest| format!("/{rest}"));
            path_of_url.as_deref() == Some(path) && local_port(url).is_some_and(|port| servers.contains(&port))
        });
        assert_eq!(to_server.count(), count, "egress to {path}");
    }
    let posts: Vec<&Block> = ingress.iter().chain(&egress).filter(|block| block.field("Method") == "POST").collect();
    assert_eq!(posts.len(), 2);
    for block in posts {
        assert_eq!(block.section("Request Body").as_deref(), Some(POSTED), "{}", block.field("Direction"));
        assert_eq!(block.header("Request Headers", "Content-Type"), Some("application/json"));
        assert_eq!(block.header("Response Headers", "Content-Type"), Some("application/json"));
        let answer: Value = serde_json::from_str(&block.section("Response Body").expect("a section")).expect("JSON");
        assert_eq!(answer["received"], POSTED);
    }
    check_of_haproxy(&egress, &demo);
}

/// HAProxy's own checks are egress: HTTP/1.0, without a Host, to the services that have a check of that kind.
fn check_of_haproxy(egress: &[Block], demo: &Demo) {
    let checks: Vec<&Block> = egress.iter().filter(|block| block.header("Request Headers", "host").is_none()).collect();
    assert!(!checks.is_empty());
    for block in checks {
        let port = local_port(block.field("URL"));
        assert!(port == Some(demo.port("api-1")) || port == Some(demo.port("api-2")), "{}", block.field("URL"));
        assert!(block.field("URL").ends_with("/health"));
        // The status is all that a check looks at: HAProxy hangs up without reading a body that comes after the head.
        let body = block.section("Response Body");
        assert!(body.is_none() || body.as_deref() == Some("OK"), "{block:#?}");
    }
}
