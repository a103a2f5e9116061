//! Connections within TLS that are older than the agent: told of, and nothing made of them.

mod support;

use std::collections::HashMap;
use std::process::Command;

use serde_json::Value;
use support::backend::Backend;
use support::haproxy::{self, Haproxy};
use support::program::Program;
use support::sidetap::{CapturePath, Sidetap, tap};
use support::tls::{Authority, Key};
use support::{LIMIT, PYTHON, Scratch, free_port, on_each_path, script};

on_each_path!(older_ones_are_told_of);

const CONNECTIONS: usize = 12;

/// HAProxy with TLS in front, and a client whose connections ask it all the time.
struct Running {
    client: Program,
    haproxy: Haproxy,
    _backend: Backend,
    _authority: Authority,
    _folder: Scratch,
}

impl Running {
    fn start() -> Running {
        let (authority, backend, front) = (Authority::new(), Backend::start(), free_port());
        let haproxy = Haproxy::with(&format!(
            "frontend front\n    bind 127.0.0.1:{front} ssl crt {}\n    @log@\n    default_backend servers\n\
             backend servers\n    server one 127.0.0.1:{}\n",
            authority.pem(Key::Ecdsa).display(),
            backend.port()
        ));
        let folder = Scratch::new("older");
        let mut command = Command::new(PYTHON);
        command.arg(script("tls/client.py")).args(["steady", &front.to_string()]).arg(authority.ca());
        let client = Program::start("client", command.args(["ask", &CONNECTIONS.to_string()]), folder.path());
        let mut running = Running { client, haproxy, _backend: backend, _authority: authority, _folder: folder };
        running.wait_for_more();
        running
    }

    /// Waits until each connection has asked some times more.
    fn wait_for_more(&mut self) {
        let enough = self.said().len() + 10 * CONNECTIONS;
        self.client.wait_ready("more requests", LIMIT, |client| client.stdout().lines().count() >= enough);
    }

    /// What the client says of each request that was answered.
    fn said(&self) -> Vec<Value> {
        let text = self.client.stdout();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(|line| serde_json::from_str(line).expect("the client writes JSON")).collect()
    }

    fn stop(mut self) -> Vec<Value> {
        self.client.signal("TERM");
        let status = self.client.wait_exit(LIMIT);
        assert!(status.success(), "{}", self.client.tail());
        self.said()
    }
}

fn older_ones_are_told_of(path: CapturePath) {
    let mut running = Running::start();
    let sidetap = Sidetap::start(&tap(haproxy::EXE, "level: full"), path).of(running.haproxy.pid());
    running.wait_for_more();
    running.wait_for_more();
    let ports: Vec<u64> = running.said().iter().filter_map(|said| said["port"].as_u64()).collect();
    running.stop();
    let captured = sidetap.stop();
    let older: HashMap<u64, &Value> = captured
        .connections
        .iter()
        .filter(|event| event["tls"]["uncovered"] == "older")
        .filter_map(|event| Some((event["source"]["port"].as_u64()?, event)))
        .collect();
    assert_eq!(older.len(), CONNECTIONS, "{older:#?}");
    assert!(older.iter().all(|(port, event)| ports.contains(port) && event["transactions"] == 0), "{older:#?}");
    assert_eq!(captured.counters.get("tls.uncovered"), Some(&(CONNECTIONS as u64)), "each once");
    let invented: Vec<_> = captured.transactions.iter().filter(|transaction| transaction.is_ingress()).collect();
    assert!(invented.is_empty(), "{:#}", invented[0].0);
}
