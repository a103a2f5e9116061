//! gRPC through HAProxy: what was called, how it ended and how many messages went each way, against what the client says.

mod support;

use std::process::Command;

use serde_json::Value;
use support::captured::Transaction;
use support::haproxy::{self, Haproxy};
use support::program::{Program, listens};
use support::sidetap::{CapturePath, Sidetap, tap};
use support::{LIMIT, PYTHON, Scratch, free_port, on_each_path, python, script};

on_each_path!(
    each_call_has_its_service_method_status_and_messages,
    rules_can_ask_about_calls,
    calls_over_http1_end_in_their_bodies,
);

const ROUNDS: usize = 48;

struct Scene {
    haproxy: Haproxy,
    _server: Program,
    front: u16,
    _folder: Scratch,
}

impl Scene {
    fn start() -> Scene {
        let (folder, port, front) = (Scratch::new("grpc"), free_port(), free_port());
        let mut command = Command::new(PYTHON);
        command.arg(script("grpc/server.py")).arg(port.to_string());
        let mut server = Program::start("server", &mut command, folder.path());
        server.wait_ready("listening socket", LIMIT, |_| listens(port));
        let haproxy = Haproxy::with(&format!(
            "frontend front\n    bind 127.0.0.1:{front} proto h2\n    @log@\n    default_backend servers\n\
             backend servers\n    http-reuse always\n    server one 127.0.0.1:{port} proto h2\n"
        ));
        Scene { haproxy, _server: server, front, _folder: folder }
    }

    /// What the client says of each call.
    fn call(&self, rounds: usize) -> Vec<Value> {
        let mut client = Command::new(PYTHON);
        client.arg(script("grpc/client.py")).args([self.front.to_string(), rounds.to_string()]);
        said_by(&mut client)
    }
}

/// What a client says of each call.
fn said_by(client: &mut Command) -> Vec<Value> {
    let output = client.output().expect("Python is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8_lossy(&output.stdout);
    said.lines().map(|line| serde_json::from_str(line).expect("the client writes JSON")).collect()
}

fn each_call_has_its_service_method_status_and_messages(path: CapturePath) {
    let scene = Scene::start();
    let sidetap = Sidetap::start(&tap(haproxy::EXE, "level: full"), path).of(scene.haproxy.pid());
    let calls = scene.call(ROUNDS);
    assert_eq!(calls.len(), ROUNDS * 8);
    let captured = sidetap.stop();
    for call in &calls {
        let id = call["id"].as_str().expect("each call has an id");
        for transaction in [captured.ingress(id), captured.egress(id)] {
            if let Some(problem) = wrong(transaction, call) {
                panic!("{problem}\n{call}\n{:#}", transaction.0);
            }
        }
    }
    assert_eq!(captured.transactions.len(), calls.len() * 2, "each once");
}

/// How the record differs from what the client says.
fn wrong(transaction: &Transaction, call: &Value) -> Option<&'static str> {
    let Some(grpc) = transaction.0.get("grpc") else { return Some("no call") };
    if grpc["service"] != call["service"] || grpc["method"] != call["method"] {
        return Some("another service or method");
    }
    if grpc["request_messages"] != call["sent"] {
        return Some("another number of messages sent");
    }
    if call["given_up"] == true {
        // The client says so to itself; the server may have said it too.
        let status = grpc.get("status");
        if status.is_some_and(|status| *status != call["status"] && *status != 1) {
            return Some("a status that nobody sent");
        }
        let is_marked = transaction.incomplete().contains(&"reset_by_client:CANCEL");
        return (!is_marked && status.is_none()).then_some("no word of how it ended");
    }
    if !transaction.incomplete().is_empty() {
        return Some("something is missing");
    }
    if grpc["status"] != call["status"] || grpc["status_name"] != call["name"] {
        return Some("another status");
    }
    if grpc.get("message").and_then(Value::as_str).unwrap_or_default() != call["message"].as_str().unwrap_or_default() {
        return Some("another message");
    }
    let returned = grpc.get("response_messages").and_then(Value::as_u64).unwrap_or(0);
    if call["returned"] != returned {
        return Some("another number of messages returned");
    }
    // What was compressed is shown as it was before.
    let is_long = call["method"] == "Get" && returned == 1;
    let needle: &[u8] = b"what is said again and again what is said again";
    let has_text =
        |side| transaction.body(side).is_some_and(|body| body.windows(needle.len()).any(|part| part == needle));
    (is_long && !(has_text("request") && has_text("response"))).then_some("its messages are not readable")
}

fn rules_can_ask_about_calls(path: CapturePath) {
    let scene = Scene::start();
    let rules = "level: none, rules: [{name: failed, expr: 'grpc.service == \"shop.Cart\" and grpc.method == \"Get\" and \
                 grpc.status > 0', level: summary}]";
    let sidetap = Sidetap::start(&tap(haproxy::EXE, rules), path).of(scene.haproxy.pid());
    let calls = scene.call(4);
    let captured = sidetap.stop();
    let failed = calls.iter().filter(|call| call["method"] == "Get" && call["status"] != 0).count();
    assert!(failed > 0);
    assert_eq!(captured.transactions.len(), failed * 2);
    assert!(captured.transactions.iter().all(|transaction| transaction.0["grpc"]["status"].as_u64() > Some(0)));
}

/// gRPC-Web, spoken by a server and a client from Python's index: its trailers are in the body, in base64 where the client asks
/// for text.
fn calls_over_http1_end_in_their_bodies(path: CapturePath) {
    // Debian has gRPC itself.
    let packages = ["--no-deps", "sonora==0.2.3", "urllib3<2"];
    let python = match python::with_packages("grpc-web", &["--system-site-packages"], &packages) {
        Ok(python) => python,
        Err(error) => return println!("skipped: sonora cannot be had: {error}"),
    };
    let (folder, port, front) = (Scratch::new("grpc-web"), free_port(), free_port());
    let mut command = Command::new(&python);
    command.arg(script("grpc/web_server.py")).arg(port.to_string());
    let mut server = Program::start("server", &mut command, folder.path());
    server.wait_ready("listening socket", LIMIT, |_| listens(port));
    let haproxy = Haproxy::with(&format!(
        "frontend front\n    bind 127.0.0.1:{front}\n    @log@\n    default_backend servers\n\
         backend servers\n    server one 127.0.0.1:{port}\n"
    ));
    let mut sidetap = Sidetap::start(&tap(haproxy::EXE, "level: full"), path).of(haproxy.pid());
    let calls = said_by(Command::new(python).arg(script("grpc/web_client.py")).arg(front.to_string()));
    assert_eq!(calls.len(), 17 * 4);
    sidetap.wait_for(calls.len() * 2);
    let captured = sidetap.stop();
    for call in &calls {
        let id = call["id"].as_str().expect("each call has an id");
        for transaction in [captured.ingress(id), captured.egress(id)] {
            assert_eq!(transaction.0["request"]["protocol"], "http1", "{id}");
            if let Some(problem) = wrong(transaction, call) {
                panic!("{problem}\n{call}\n{:#}", transaction.0);
            }
        }
    }
    assert_eq!(captured.transactions.len(), calls.len() * 2, "each once");
}
