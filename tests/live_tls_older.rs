//! Connections within TLS that are older than the agent: told of where nobody has seen their handshake, read where an
//! earlier agent has.

mod support;

use std::collections::{HashMap, HashSet};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;
use support::backend::Backend;
use support::captured::Transaction;
use support::haproxy::{self, Haproxy};
use support::payload::sha256;
use support::program::Program;
use support::sidetap::{CapturePath, Sidetap, tap};
use support::tls::{Authority, FRONT_HEADER, FRONT_WORDS, Key, Words};
use support::{LIMIT, PYTHON, Scratch, free_port, on_each_path, script};

on_each_path!(older_ones_are_told_of, a_restarted_agent_goes_on);

const CONNECTIONS: usize = 12;

/// HAProxy with TLS in front, and a client whose connections ask it all the time.
struct Running {
    client: Program,
    haproxy: Haproxy,
    front: u16,
    _backend: Backend,
    _authority: Authority,
    _folder: Scratch,
}

impl Running {
    fn start(before: impl FnOnce(&Haproxy) -> Option<Sidetap>) -> (Running, Option<Sidetap>) {
        let (authority, backend, front) = (Authority::new(), Backend::start(), free_port());
        let haproxy = Haproxy::with(&format!(
            "frontend front\n    bind 127.0.0.1:{front} ssl crt {}\n    @log@\n{FRONT_WORDS}    \
             default_backend servers\nbackend servers\n    server one 127.0.0.1:{}\n",
            authority.pem(Key::Ecdsa).display(),
            backend.port()
        ));
        let sidetap = before(&haproxy);
        let folder = Scratch::new("older");
        let mut command = Command::new(PYTHON);
        command.arg(script("tls/client.py")).args(["steady", &front.to_string()]).arg(authority.ca());
        let client = Program::start("client", command.args(["ask", &CONNECTIONS.to_string()]), folder.path());
        let mut running = Running { client, haproxy, front, _backend: backend, _authority: authority, _folder: folder };
        running.wait_for_more();
        (running, sidetap)
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

fn agent(path: CapturePath, haproxy: &Haproxy, arguments: &[&str]) -> Sidetap {
    Sidetap::start_with(&tap(haproxy::EXE, "level: full"), path, arguments).of(haproxy.pid())
}

/// Milliseconds since the Unix epoch.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later").as_secs_f64() * 1000.0
}

fn older_ones_are_told_of(path: CapturePath) {
    let (mut running, _) = Running::start(|_| None);
    let sidetap = agent(path, &running.haproxy, &["--forget-secrets"]);
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

/// What is wrong with what is recorded of a request.
fn wrong(said: &Value, recorded: &[&Transaction]) -> Option<String> {
    let [transaction] = recorded else { return Some(format!("recorded {} times", recorded.len())) };
    let body = transaction.body("response").unwrap_or_default();
    let words = Words::read(transaction, FRONT_HEADER);
    let is_right = transaction.status() == 200
        && transaction.incomplete().is_empty()
        && Some(&*sha256(&body)) == said["sha256"].as_str()
        && transaction.0["tls"]["library"] == "openssl"
        && words.is_some_and(|words| words.wrong(transaction).is_none());
    (!is_right).then(|| format!("{:#}", transaction.0))
}

/// Everything that began between two times is recorded, once, and all that is recorded is on its own connection.
fn check(said: &[Value], transactions: &[Transaction], from: f64, to: f64) -> usize {
    let mut by_id: HashMap<&str, Vec<&Transaction>> = HashMap::new();
    for transaction in transactions.iter().filter(|transaction| transaction.is_ingress()) {
        by_id.entry(transaction.id()).or_default().push(transaction);
    }
    let (mut checked, mut problems) = (0, Vec::new());
    for said in said {
        let id = said["id"].as_str().expect("each has an id");
        let recorded = by_id.get(id).map_or(&[][..], Vec::as_slice);
        for transaction in recorded {
            let port = transaction.source().map(|source| u64::from(source.port()));
            assert_eq!(port, said["port"].as_u64(), "on a wrong connection: {:#}", transaction.0);
        }
        let began = said["began"].as_f64().expect("each has begun");
        if (from..to).contains(&began) {
            checked += 1;
            problems.extend(wrong(said, recorded).map(|problem| format!("{said}: {problem}")));
        }
    }
    assert!(problems.is_empty(), "{} of {checked}, the first: {}", problems.len(), problems[0]);
    checked
}

/// Waits until all that began between two times is recorded.
fn wait_for(sidetap: &mut Sidetap, said: &[Value], from: f64, to: f64) {
    let is_between = |said: &&Value| said["began"].as_f64().is_some_and(|began| (from..to).contains(&began));
    let wanted: HashSet<&str> = said.iter().filter(is_between).filter_map(|said| said["id"].as_str()).collect();
    sidetap.wait_until("all that was asked", |output| {
        let ingress = output.transactions.iter().filter(|transaction| transaction.is_ingress());
        let recorded: HashSet<&str> = ingress.map(Transaction::id).collect();
        recorded.is_superset(&wanted)
    });
}

/// Ended in order, then killed.
fn a_restarted_agent_goes_on(path: CapturePath) {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    if !mounts.lines().any(|mount| mount.contains(" /sys/fs/bpf bpf ")) {
        println!("skipped: no BPF file system is mounted at /sys/fs/bpf");
        return;
    }
    let (mut running, first) = Running::start(|haproxy| Some(agent(path, haproxy, &[])));
    first.expect("it was asked for").stop();
    let mut second = agent(path, &running.haproxy, &[]);
    let second_began = now();
    running.wait_for_more();
    let second_ends = now();
    // So that what began before is answered.
    running.wait_for_more();
    wait_for(&mut second, &running.said(), second_began, second_ends);
    second.program().signal("KILL");
    let recorded = second.transactions().to_vec();
    drop(second);

    let mut third = agent(path, &running.haproxy, &[]);
    let third_began = now();
    let rounds = if std::env::var_os("SIDETAP_LONG").is_some() { 100 } else { 2 };
    (0..rounds).for_each(|_| running.wait_for_more());
    let front = running.front;
    assert_eq!(kept(front), CONNECTIONS, "each is kept");
    let said = running.stop();
    wait_for(&mut third, &said, third_began, f64::MAX);
    let captured = third.stop();
    let of_second = check(&said, &recorded, second_began, second_ends);
    let of_third = check(&said, &captured.transactions, third_began, f64::MAX);
    println!("recorded after the first restart: {of_second} requests, after the second: {of_third}");
    assert!(of_second >= CONNECTIONS && of_third >= CONNECTIONS);
    assert_eq!(captured.counters.get("tls.uncovered"), Some(&0));
    assert_eq!(kept(front), 0, "nothing is kept of connections that are closed");
}

/// How many connections to that port have secrets kept.
fn kept(port: u16) -> usize {
    let mut bpftool = Command::new("bpftool");
    bpftool.args(["-j", "map", "dump", "pinned", "/sys/fs/bpf/sidetap/tls"]);
    let output = bpftool.output().expect("bpftool is installed");
    let entries: Vec<Value> = serde_json::from_slice(&output.stdout).expect("the map is pinned there");
    // Behind the socket's address.
    let of_port = port.to_be_bytes().map(|byte| format!("{byte:#04x}"));
    entries.iter().filter(|entry| of_port.iter().zip(8..).all(|(byte, at)| entry["key"][at] == **byte)).count()
}
