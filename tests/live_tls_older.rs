//! Connections within TLS that are older than the agent: read by their keys where an earlier agent has seen the handshake,
//! else by what OpenSSL gives and takes, and told of where that cannot be.

mod support;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use support::backend::Backend;
use support::captured::Transaction;
use support::haproxy::{self, Haproxy};
use support::payload::sha256;
use support::program::{Program, listens};
use support::sidetap::{CapturePath, Sidetap, tap};
use support::tls::{Authority, FRONT_HEADER, FRONT_WORDS, Key, Words, build_go};
use support::{LIMIT, PYTHON, Scratch, free_port, installed, on_each_path, script, until};

on_each_path!(
    older_ones_are_read,
    older_ones_of_gnutls_are_read,
    older_ones_of_go_are_read,
    older_ones_are_told_of,
    older_ones_that_are_corked_are_told_of,
    a_restarted_agent_goes_on,
);

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
    /// `mode`: one of Python's client.
    fn start(mode: &str, before: impl FnOnce(&Haproxy) -> Option<Sidetap>) -> (Running, Option<Sidetap>) {
        let mut client = Command::new(PYTHON);
        client.arg(script("tls/client.py")).arg(mode);
        Running::start_with(client, before)
    }

    /// `client`: with all arguments up to its mode.
    fn start_with(mut client: Command, before: impl FnOnce(&Haproxy) -> Option<Sidetap>) -> (Running, Option<Sidetap>) {
        let (authority, backend, front) = (Authority::new(), Backend::start(), free_port());
        let haproxy = Haproxy::with(&format!(
            "frontend front\n    bind 127.0.0.1:{front} ssl crt {} alpn h2,http/1.1\n    @log@\n{FRONT_WORDS}    \
             default_backend servers\nbackend servers\n    server one 127.0.0.1:{}\n",
            authority.pem(Key::Ecdsa).display(),
            backend.port()
        ));
        let sidetap = before(&haproxy);
        let folder = Scratch::new("older");
        client.arg(front.to_string()).arg(authority.ca()).args(["ask", &CONNECTIONS.to_string()]);
        let client = Program::start("client", &mut client, folder.path());
        let mut running = Running { client, haproxy, front, _backend: backend, _authority: authority, _folder: folder };
        running.wait_for_more();
        (running, sidetap)
    }

    fn wait_for_more(&mut self) {
        wait_for_more(&mut self.client);
    }

    fn said(&self) -> Vec<Value> {
        said(&self.client)
    }

    fn stop(self) -> Vec<Value> {
        stop(self.client)
    }
}

/// How often it is waited for more requests.
fn rounds() -> usize {
    if std::env::var_os("SIDETAP_LONG").is_some() { 100 } else { 2 }
}

/// Waits until each of a client's connections has asked some times more.
fn wait_for_more(client: &mut Program) {
    let enough = said(client).len() + 10 * CONNECTIONS;
    client.wait_ready("more requests", LIMIT, |client| client.stdout().lines().count() >= enough);
}

/// What a client says of each request that was answered.
fn said(client: &Program) -> Vec<Value> {
    let text = client.stdout();
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().map(|line| serde_json::from_str(line).expect("the client writes JSON")).collect()
}

fn stop(mut client: Program) -> Vec<Value> {
    client.signal("TERM");
    let status = client.wait_exit(LIMIT);
    assert!(status.success(), "{}", client.tail());
    said(&client)
}

fn agent(path: CapturePath, haproxy: &Haproxy, arguments: &[&str]) -> Sidetap {
    Sidetap::start_with(&tap(haproxy::EXE, "level: full"), path, arguments).of(haproxy.pid())
}

/// Milliseconds since the Unix epoch.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later").as_secs_f64() * 1000.0
}

/// Half of them with HTTP/2. No agent has seen a handshake of theirs, and none is disturbed when one is killed.
fn older_ones_are_read(path: CapturePath) {
    let (mut running, _) = Running::start("steady-mixed", |_| None);
    let mut first = agent(path, &running.haproxy, &["--forget-secrets"]);
    let first_began = now();
    running.wait_for_more();
    running.wait_for_more();
    let first_ends = now();
    // So that what began before is answered.
    running.wait_for_more();
    wait_for(&mut first, &running.said(), first_began, first_ends);
    first.program().signal("KILL");
    let recorded = first.transactions().to_vec();
    drop(first);

    let mut second = agent(path, &running.haproxy, &["--forget-secrets"]);
    let second_began = now();
    running.wait_for_more();
    running.wait_for_more();
    let probes_before = probes(second.program().pid());
    let said = running.stop();
    wait_for(&mut second, &said, second_began, f64::MAX);
    let pid = second.program().pid();
    until(LIMIT, || (probes(pid) < probes_before).then_some(())).expect("the probes are taken away");
    // In the midst of that, which takes longer than all else that is to end.
    let captured = second.stop();
    let of_first = check(&said, &recorded, first_began, first_ends, is_plain);
    let of_second = check(&said, &captured.transactions, second_began, f64::MAX, is_plain);
    println!("recorded by the first agent: {of_first} requests, by the second: {of_second}");
    assert!(of_first >= CONNECTIONS && of_second >= CONNECTIONS);
    assert!(said.iter().all(|said| said["status"] == 200), "a request failed");
    for counter in ["tls.uncovered", "lost.probes"] {
        assert_eq!(captured.counters.get(counter), Some(&0), "{counter}");
    }
}

/// A client and a server, whose goroutines wait in their read functions when the agent comes.
fn older_ones_of_go_are_read(path: CapturePath) {
    if installed("go").is_none() {
        return;
    }
    let (authority, folder, port) = (Authority::new(), Scratch::new("older"), free_port());
    let exe = folder.path().join("older");
    build_go(&exe, "-s -w");
    let mut command = Command::new(&exe);
    command.args(["server", &port.to_string()]).arg(authority.pem(Key::Ecdsa));
    let mut server = Program::start("server", &mut command, folder.path());
    server.wait_ready("listening socket", LIMIT, |_| listens(port));
    let mut command = Command::new(&exe);
    command.args(["steady", &port.to_string()]).arg(authority.ca()).args(["ask", &CONNECTIONS.to_string()]);
    let mut client = Program::start("client", &mut command, folder.path());
    wait_for_more(&mut client);

    let config = tap(&exe.display().to_string(), "level: full, body_encoding: base64");
    let mut sidetap = Sidetap::start_with(&config, path, &["--forget-secrets"]);
    let began = now();
    (0..rounds()).for_each(|_| wait_for_more(&mut client));
    let client_pid = client.pid();
    let said = stop(client);
    let wanted: Vec<&Value> = said.iter().filter(|said| said["began"].as_f64() >= Some(began)).collect();
    sidetap.wait_for(2 * wanted.len());
    let captured = sidetap.stop();
    assert!(wanted.len() >= CONNECTIONS && said.iter().all(|said| said["status"] == 200));
    for (pid, direction) in [(server.pid(), "ingress"), (client_pid, "egress-internal")] {
        check_process(&wanted, &captured.transactions, (pid, direction), "go");
    }
    println!("recorded, on both sides: {} requests", wanted.len());
    assert_eq!(captured.counters.get("lost.probes"), Some(&0));
}

/// A client whose threads wait in its read function for each answer.
fn older_ones_of_gnutls_are_read(path: CapturePath) {
    let folder = Scratch::new("older");
    let Some(exe) = build_gnutls(&folder) else { return };
    let mut client = Command::new(&exe);
    client.arg("steady");
    let (mut running, _) = Running::start_with(client, |_| None);

    let config = tap(&exe.display().to_string(), "level: full, body_encoding: base64");
    let mut sidetap = Sidetap::start_with(&config, path, &["--forget-secrets"]);
    // The answer that a thread waits for already cannot be read.
    running.wait_for_more();
    let began = now();
    (0..rounds()).for_each(|_| running.wait_for_more());
    let pid = running.client.pid();
    let said = running.stop();
    let wanted: Vec<&Value> = said.iter().filter(|said| said["began"].as_f64() >= Some(began)).collect();
    sidetap.wait_for(wanted.len());
    let captured = sidetap.stop();
    assert!(wanted.len() >= CONNECTIONS && said.iter().all(|said| said["status"] == 200));
    check_process(&wanted, &captured.transactions, (pid, "egress-internal"), "gnutls");
    println!("recorded: {} requests", wanted.len());
    assert_eq!(captured.counters.get("lost.probes"), Some(&0));
}

/// What was asked by `?id=` is recorded once for a process in one direction, read at the library's functions.
fn check_process(wanted: &[&Value], transactions: &[Transaction], (pid, direction): (u32, &str), library: &str) {
    let mut by_id: HashMap<&str, Vec<&Transaction>> = HashMap::new();
    for transaction in transactions.iter().filter(|transaction| transaction.direction() == direction) {
        assert_eq!(transaction.pid(), pid.to_string(), "{:#}", transaction.0);
        // In a header, HTTP/2 may refer to names that nobody has seen.
        let id = transaction.url().split_once("?id=").map_or("", |(_, id)| id);
        by_id.entry(id).or_default().push(transaction);
    }
    for said in wanted {
        let id = said["id"].as_str().expect("each has an id");
        let recorded = by_id.get(id).map_or(&[][..], Vec::as_slice);
        let [transaction] = recorded else { panic!("PID {pid}: recorded {} times: {said}", recorded.len()) };
        let unknown = ["request_headers_unknown", "response_headers_unknown"];
        let is_http2 = transaction.0["request"]["protocol"] == "http2";
        let is_right = transaction.status() == 200
            && transaction.source().map(|source| u64::from(source.port())) == said["port"].as_u64()
            && Some(&*sha256(&transaction.body("response").unwrap_or_default())) == said["sha256"].as_str()
            && transaction.0["tls"] == json!({"library": library})
            && transaction.incomplete().iter().all(|mark| is_http2 && unknown.contains(mark));
        assert!(is_right, "{said}: {:#}", transaction.0);
    }
}

/// How many probes a process has in place.
fn probes(pid: u32) -> usize {
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs");
    let is_probe = |link: PathBuf| link.as_os_str() == "anon_inode:[perf_event]";
    files.flatten().filter(|file| std::fs::read_link(file.path()).is_ok_and(is_probe)).count()
}

/// Read at the library's functions: what was said in the handshake is not known, nor what HTTP/2 has said before.
fn is_plain(transaction: &Transaction, words: &Words) -> bool {
    let (protocol, unknown) = match words.alpn.as_deref() {
        Some("h2") => ("http2", &["request_headers_unknown"][..]),
        _ => ("http1", &[][..]),
    };
    transaction.0["tls"] == json!({"library": "openssl"})
        && transaction.0["request"]["protocol"] == protocol
        && transaction.incomplete() == unknown
}

/// The client of GnuTLS; none where there are no headers.
fn build_gnutls(folder: &Scratch) -> Option<PathBuf> {
    if !Path::new("/usr/include/gnutls/gnutls.h").exists() {
        println!("skipped: there are no headers of GnuTLS");
        return None;
    }
    let exe = folder.path().join("older");
    let mut build = Command::new("cc");
    build.args(["-D_GNU_SOURCE", "-O1", "-o"]).arg(&exe).arg(script("tls/gnutls.c")).args(["-lgnutls", "-lpthread"]);
    let output = build.output().expect("there is a C compiler");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(exe)
}

/// Where a library never sees the socket, nobody can tell which connection it is at.
fn older_ones_are_told_of(path: CapturePath) {
    let exe = std::fs::canonicalize(PYTHON).expect("Python is installed");
    let (running, _) = Running::start("steady-memory", |_| None);
    are_told_of(path, &exe, running);
}

/// What a library takes before it sends it goes through it twice.
fn older_ones_that_are_corked_are_told_of(path: CapturePath) {
    let folder = Scratch::new("older");
    let Some(exe) = build_gnutls(&folder) else { return };
    let mut client = Command::new(&exe);
    client.arg("corked");
    let (running, _) = Running::start_with(client, |_| None);
    are_told_of(path, &exe, running);
}

/// Nothing is recorded of a client's connections but that there is TLS.
fn are_told_of(path: CapturePath, exe: &Path, mut running: Running) {
    let config = tap(&exe.display().to_string(), "level: full");
    let sidetap = Sidetap::start_with(&config, path, &["--forget-secrets"]).of(running.client.pid());
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
    assert!(captured.counters.get("tls.uncovered") >= Some(&(CONNECTIONS as u64)));
    assert!(captured.transactions.is_empty(), "{:#}", captured.transactions[0].0);
}

/// Opened by its keys.
fn is_opened(transaction: &Transaction, words: &Words) -> bool {
    transaction.0["tls"]["library"] == "openssl"
        && transaction.incomplete().is_empty()
        && words.wrong(transaction).is_none()
}

/// What is wrong with what is recorded of a request. `is_right`: what is said of TLS, beside what HAProxy says of it.
fn wrong(said: &Value, recorded: &[&Transaction], is_right: impl Fn(&Transaction, &Words) -> bool) -> Option<String> {
    let [transaction] = recorded else { return Some(format!("recorded {} times", recorded.len())) };
    let body = transaction.body("response").unwrap_or_default();
    let words = Words::read(transaction, FRONT_HEADER);
    let is_whole = transaction.status() == 200
        && Some(&*sha256(&body)) == said["sha256"].as_str()
        && Some(transaction.path()) == said["path"].as_str()
        && words.is_some_and(|words| is_right(transaction, &words));
    (!is_whole).then(|| format!("{:#}", transaction.0))
}

/// Everything that began between two times is recorded, once, and all that is recorded is on its own connection.
fn check(
    said: &[Value],
    transactions: &[Transaction],
    from: f64,
    to: f64,
    is_right: impl Fn(&Transaction, &Words) -> bool + Copy,
) -> usize {
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
            problems.extend(wrong(said, recorded, is_right).map(|problem| format!("{said}: {problem}")));
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
    let (mut running, first) = Running::start("steady", |haproxy| Some(agent(path, haproxy, &[])));
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
    (0..rounds()).for_each(|_| running.wait_for_more());
    let front = running.front;
    assert_eq!(kept(front), CONNECTIONS, "each is kept");
    let said = running.stop();
    wait_for(&mut third, &said, third_began, f64::MAX);
    until(LIMIT, || (kept(front) == 0).then_some(())).expect("nothing is kept of connections that are closed");
    let captured = third.stop();
    let of_second = check(&said, &recorded, second_began, second_ends, is_opened);
    let of_third = check(&said, &captured.transactions, third_began, f64::MAX, is_opened);
    println!("recorded after the first restart: {of_second} requests, after the second: {of_third}");
    assert!(of_second >= CONNECTIONS && of_third >= CONNECTIONS);
    assert_eq!(captured.counters.get("tls.uncovered"), Some(&0));
    assert_eq!(kept(front), 0, "nor is it again at the end");
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
