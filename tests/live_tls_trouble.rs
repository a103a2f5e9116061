//! TLS that goes wrong or is given up, agents that are killed, and the wire as tshark reads it.

mod support;

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use support::backend::Backend;
use support::captured::Transaction;
use support::h2load::Load;
use support::haproxy::{self, Haproxy};
use support::payload::{assert_same, bytes, sha256};
use support::program::Program;
use support::sidetap::{CapturePath, Sidetap, tap};
use support::tls::{Authority, FRONT_HEADER, FRONT_WORDS, Key, NAME, Words};
use support::{LIMIT, PYTHON, Scratch, free_port, on_each_path, script, until};

on_each_path!(
    handshakes_that_fail,
    secrets_that_fit_no_connection,
    connections_opened_and_ended_in_every_way,
    an_agent_that_is_killed_disturbs_nobody,
    the_wire_says_the_same,
);

const MIB: u64 = 1 << 20;

/// HAProxy, TLS in front of a plain backend.
struct Scene {
    haproxy: Haproxy,
    _backend: Backend,
    authority: Authority,
    front: u16,
}

impl Scene {
    fn start() -> Scene {
        let (authority, backend, front) = (Authority::new(), Backend::start(), free_port());
        let haproxy = Haproxy::with(&format!(
            "frontend front\n    bind 127.0.0.1:{front} ssl crt {} alpn h2,http/1.1\n    @log@\n{FRONT_WORDS}    \
             default_backend servers\nbackend servers\n    http-reuse always\n    server one 127.0.0.1:{}\n",
            authority.pem(Key::Ecdsa).display(),
            backend.port()
        ));
        Scene { haproxy, _backend: backend, authority, front }
    }

    fn watched(&self, path: CapturePath) -> Sidetap {
        Sidetap::start(&tap(haproxy::EXE, "level: full"), path).of(self.haproxy.pid())
    }

    fn curl(&self, id: &str, path: &str) -> Command {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--fail", "--connect-to", &format!("{NAME}:443:127.0.0.1:{}", self.front), "--cacert"]);
        curl.arg(self.authority.ca()).args(["-H", &format!("X-Request-Id: {id}"), &format!("https://{NAME}{path}")]);
        curl
    }

    /// A request as it should be, recorded on both sides.
    fn ask_well(&self, id: &str, sidetap: &mut Sidetap) {
        let output = self.curl(id, "/bytes/3000").output().expect("curl is installed");
        assert_same("what curl got", &output.stdout, &bytes(3000));
        sidetap.wait_for_pair(id);
    }

    /// The modes of the client in Python; what it says of each request.
    fn python(&self, mode: &str, prefix: &str, count: usize, folder: &Scratch) -> (u32, Vec<Value>) {
        let mut command = Command::new(PYTHON);
        command.arg(script("tls/client.py")).arg(mode).arg(self.front.to_string()).arg(self.authority.ca());
        let mut client = Program::start("client", command.args([prefix, &count.to_string()]), folder.path());
        let pid = client.pid();
        assert!(client.wait_exit(Duration::from_secs(90)).success(), "{}", client.tail());
        let said = client.stdout();
        (pid, said.lines().map(|line| serde_json::from_str(line).expect("the client writes JSON")).collect())
    }
}

fn handshakes_that_fail(path: CapturePath) {
    const TIMES: usize = 15;
    let scene = Scene::start();
    let mut sidetap = scene.watched(path).containing("good-");
    scene.ask_well("good-first", &mut sidetap);
    let before = sidetap.program().resident();
    for number in 0..TIMES {
        let unknown = Command::new("curl")
            .args(["-sS", "-m", "10", "--connect-to", &format!("{NAME}:443:127.0.0.1:{}", scene.front)])
            .arg(format!("https://{NAME}/"))
            .output();
        assert_eq!(unknown.expect("curl is installed").status.code(), Some(60), "the authority is not known to it");
        let url = format!("http://127.0.0.1:{}/", scene.front);
        let plain = Command::new("curl").args(["-sS", "-m", "10", &url]).output();
        assert!(!plain.expect("curl is installed").status.success(), "HAProxy does not speak HTTP there");
        let old = ["-connect", &format!("127.0.0.1:{}", scene.front), "-tls1", "-cipher", "ALL:@SECLEVEL=0"];
        let old = Command::new("openssl").arg("s_client").args(old).stdin(Stdio::null()).output();
        assert!(!old.expect("openssl is installed").status.success(), "HAProxy does not speak TLS 1.0");
        // A hello that stops, and one that goes on as something else.
        let hello = [&[22, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3][..], &bytes(60)].concat();
        let other = [&[22, 3, 1, 0, 40][..], &bytes(4000)].concat();
        for bad in [hello, other] {
            let mut stream = TcpStream::connect(("127.0.0.1", scene.front)).expect("haproxy listens");
            let _ = stream.write_all(&bad);
        }
        scene.ask_well(&format!("good-{number}"), &mut sidetap);
    }
    let grown = sidetap.program().resident().saturating_sub(before) / MIB;
    println!("after {} failed handshakes: {grown} MiB more than before", 5 * TIMES);
    assert!(grown < 32, "{grown} MiB more");
    let captured = sidetap.stop();
    for number in 0..TIMES {
        let transaction = captured.ingress(&format!("good-{number}"));
        assert_eq!((transaction.status(), transaction.incomplete()), (200, vec![]), "{:#}", transaction.0);
        assert_same("recorded", &transaction.body("response").unwrap_or_default(), &bytes(3000));
    }
    assert_eq!(captured.transactions.len(), 2 * (TIMES + 1), "each once");
}

/// A process whose handshakes go over no socket has secrets without connections.
fn secrets_that_fit_no_connection(path: CapturePath) {
    const HANDSHAKES: usize = 1500;
    let scene = Scene::start();
    let exe = fs::canonicalize(PYTHON).expect("Python is installed").display().to_string();
    let sidetap = Sidetap::start(&tap(&exe, "level: full"), path);
    let folder = Scratch::new("unmatched");
    scene.python("unmatched", "warm", HANDSHAKES / 3, &folder);
    let before = sidetap.program().resident();
    let (pid, said) = scene.python("unmatched", "last", HANDSHAKES, &folder);
    let grown = sidetap.program().resident().saturating_sub(before) / MIB;
    println!("after {HANDSHAKES} handshakes on no socket: {grown} MiB more than before");
    let mut sidetap = sidetap.of(pid);
    sidetap.wait_for(1);
    let captured = sidetap.stop();
    let transaction = captured.egress("last-0");
    assert_eq!((transaction.status(), transaction.incomplete()), (200, vec![]), "{:#}", transaction.0);
    assert_eq!(said.len(), 1);
    assert!(grown < 16, "{grown} MiB more");
}

/// Closed in order, closed without a word, reset, and left within a request.
fn connections_opened_and_ended_in_every_way(path: CapturePath) {
    // As many as a client makes in half a minute.
    const PART: usize = 6000;
    let count = if std::env::var_os("SIDETAP_LONG").is_some() { 100_000 } else { 3000 };
    let scene = Scene::start();
    let folder = Scratch::new("churn");
    // Half requests have no id; what is wrong with them is another test's.
    let mut sidetap = scene.watched(path).containing("churn-");
    let mut made = Vec::new();
    let mut resident = Vec::new();
    // A part to come to its size, then as much again and again.
    let parts = (count / PART).max(3);
    for part in 0..parts {
        let prefix = format!("churn-{part}");
        let (_, said) = scene.python("churn", &prefix, count / parts, &folder);
        made.extend(said);
        sidetap.wait_within(Duration::from_secs(60), "both sides of each", |output| {
            output.transactions.len() >= 2 * made.len()
        });
        resident.push(sidetap.program().resident() / 1024);
    }
    // What the test itself holds back is nothing: the agent writes to a file.
    println!("{} connections; KiB resident after each part: {resident:?}", made.len());
    let captured = sidetap.stop();
    let mut by_id: HashMap<&str, Vec<&Transaction>> = HashMap::new();
    for transaction in captured.transactions.iter().filter(|transaction| transaction.is_ingress()) {
        by_id.entry(transaction.id()).or_default().push(transaction);
    }
    for said in &made {
        let id = said["id"].as_str().expect("each has an id");
        let [transaction] = by_id.get(id).map_or(&[][..], Vec::as_slice) else {
            panic!("recorded {} times: {said}", by_id.get(id).map_or(0, Vec::len));
        };
        let what = format!("{said}: {:#}", transaction.0);
        assert_eq!((transaction.status(), transaction.incomplete()), (200, vec![]), "{what}");
        let port = transaction.source().map(|source| u64::from(source.port()));
        assert_eq!(port, said["port"].as_u64(), "{what}");
        let body = transaction.body("response").unwrap_or_default();
        // As much of it as is kept by default.
        if body.len() as u64 == said["size"].as_u64().unwrap_or_default() {
            assert_eq!(Some(&*sha256(&body)), said["sha256"].as_str(), "{what}");
        }
        let words = Words::read(transaction, FRONT_HEADER).expect("HAProxy says what it was");
        assert_eq!(words.wrong(transaction), None, "{what}");
    }
    assert_eq!(captured.transactions.len(), 2 * made.len(), "each once");
    assert!(resident[parts - 1] < resident[0] + 8 * 1024, "KiB resident after each part: {resident:?}");
}

fn an_agent_that_is_killed_disturbs_nobody(path: CapturePath) {
    let agents = if std::env::var_os("SIDETAP_LONG").is_some() { 50 } else { 4 };
    let scene = Scene::start();
    let (front, is_enough) = (scene.front, AtomicBool::new(false));
    let made = thread::scope(|scope| {
        let load = scope.spawn(|| {
            // A hundred requests a second on each connection, so that something is always under way.
            let load = Load { connections: 10, streams: 2, requests: 1000 };
            let mut made = 0;
            while !is_enough.load(Ordering::Relaxed) {
                load.run_tls(front, &["--rps", "100"]);
                made += load.requests;
            }
            made
        });
        for _ in 0..agents {
            let sidetap = scene.watched(path);
            sidetap.program().signal("KILL");
            drop(sidetap);
        }
        is_enough.store(true, Ordering::Relaxed);
        load.join().expect("each request is answered, whoever watches")
    });
    println!("{agents} agents were killed in {made} requests");
    until(LIMIT, || (scene.haproxy.log().len() >= made * 99 / 100).then_some(())).expect("haproxy has logged them");
    let mut sidetap = scene.watched(path);
    scene.ask_well("afterwards", &mut sidetap);
    let captured = sidetap.stop();
    let transaction = captured.ingress("afterwards");
    assert_eq!(transaction.source(), scene.haproxy.logged_as("afterwards").client);
    assert_same("recorded", &transaction.body("response").unwrap_or_default(), &bytes(3000));
}

/// What tcpdump saw and the client's own key log opens is what was recorded, in that order.
fn the_wire_says_the_same(path: CapturePath) {
    if !Command::new("tshark").arg("--version").output().is_ok_and(|output| output.status.success()) {
        println!("skipped: tshark is not installed");
        return;
    }
    const EACH: usize = 8;
    let scene = Scene::start();
    let mut sidetap = scene.watched(path);
    let folder = Scratch::new("wire");
    let (wire, keys) = (folder.path().join("wire.pcap"), folder.path().join("keys"));
    let mut command = Command::new("tcpdump");
    command.args(["-i", "lo", "-U", "-Z", "root", "-w"]).arg(&wire).arg(format!("tcp port {}", scene.front));
    let mut tcpdump = Program::start("tcpdump", &mut command, folder.path());
    tcpdump.wait_ready("line \"listening\"", LIMIT, |program| program.stderr().contains("listening on"));
    let mut made = 0;
    for options in
        [["--http1.1", "--tls-max", "1.2"], ["--http1.1", "--tls-max", "1.3"], ["--http2", "--tls-max", "1.3"]]
    {
        for _ in 0..EACH {
            let mut curl = scene.curl(&format!("wire-{made}"), &format!("/bytes/{}", made * 1000));
            let output = curl.args(options).env("SSLKEYLOGFILE", &keys).output().expect("curl is installed");
            assert_same("what curl got", &output.stdout, &bytes(made * 1000));
            made += 1;
        }
    }
    sidetap.wait_for(2 * made);
    let shown = until(LIMIT, || {
        let shown = decoded(&wire, &keys, scene.front);
        (shown.len() >= 2 * made).then_some(shown)
    });
    tcpdump.signal("INT");
    tcpdump.wait_exit(LIMIT);
    let shown = shown.unwrap_or_else(|| panic!("{:?}", decoded(&wire, &keys, scene.front)));

    let captured = sidetap.stop();
    let mut recorded: Vec<&Transaction> = captured.transactions.iter().filter(|t| t.is_ingress()).collect();
    recorded.sort_by(|one, other| one.started_ms().total_cmp(&other.started_ms()));
    let recorded: Vec<[String; 3]> = recorded
        .iter()
        .flat_map(|t| {
            let port = t.source().map(|source| source.port()).unwrap_or_default().to_string();
            let length = t.body("response").unwrap_or_default().len().to_string();
            [[port.clone(), t.method().to_owned(), t.path().to_owned()], [port, t.status().to_string(), length]]
        })
        .collect();
    assert_eq!(recorded, shown);
}

/// Requests (client's port, method, path) and responses (client's port, status, Content-Length) as tshark finds them.
fn decoded(wire: &std::path::Path, keys: &std::path::Path, front: u16) -> Vec<[String; 3]> {
    let mut tshark = Command::new("tshark");
    tshark.arg("-r").arg(wire).args(["-o", &format!("tls.keylog_file:{}", keys.display())]);
    tshark.args(["-d", &format!("tcp.port=={front},tls"), "-Y", "http || http2.headers", "-T", "fields"]);
    for field in [
        "tcp.srcport",
        "tcp.dstport",
        "http.request.method",
        "http.request.uri",
        "http.response.code",
        "http.content_length_header",
        "http2.headers.method",
        "http2.headers.path",
        "http2.headers.status",
        "http2.headers.content_length",
    ] {
        tshark.args(["-e", field]);
    }
    let output = tshark.output().expect("it is installed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines()
        .map(|line| {
            let fields: Vec<&str> = line.split('\t').collect();
            let first = |one: usize, other: usize| if fields[one].is_empty() { fields[other] } else { fields[one] };
            let from_client = fields[1] == front.to_string();
            let (port, names) = if from_client { (fields[0], [(2, 6), (3, 7)]) } else { (fields[1], [(4, 8), (5, 9)]) };
            [port, first(names[0].0, names[0].1), first(names[1].0, names[1].1)].map(str::to_owned)
        })
        .collect()
}
