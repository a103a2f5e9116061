//! HAProxy with TLS on either side and on both: each request once, whole, in the clear, on its own connection.
//!
//! The oracles are nginx's log, HAProxy's log, and what both say of a connection's TLS in headers that only they can
//! have written.

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use support::backend::Backend;
use support::client::Request;
use support::forms::{Scene, all_forms, check};
use support::h2load::Load;
use support::haproxy::{self, Haproxy, Root};
use support::payload::{assert_same, bytes};
use support::sides::recorded;
use support::sidetap::{CapturePath, Sidetap, tap};
use support::tls::{Authority, FORMS, FRONT_HEADER, FRONT_WORDS, Key, NAME, Words};
use support::{PYTHON, Scratch, free_port, on_each_path, script, until};

on_each_path!(
    in_front_of_plain_servers,
    plain_in_front_of_tls_servers,
    on_both_sides_with_one_thread,
    on_both_sides_with_four_threads,
    bodies_byte_for_byte_on_both_sides,
    resumed_by_clients,
    resumed_by_haproxy,
    early_data_is_part_of_its_request,
    keys_are_updated,
);

/// This machine's HAProxy.
fn own(path: CapturePath, sides: (bool, bool), options: &str) {
    all_forms(&Root::machine(), path, sides, options, |_| {});
}

fn in_front_of_plain_servers(path: CapturePath) {
    own(path, (true, false), "");
}

fn plain_in_front_of_tls_servers(path: CapturePath) {
    own(path, (false, true), "");
}

fn on_both_sides_with_one_thread(path: CapturePath) {
    own(path, (true, true), "global\n    nbthread 1\n");
}

fn on_both_sides_with_four_threads(path: CapturePath) {
    own(path, (true, true), "global\n    nbthread 4\n");
}

/// Two HAProxys: the one that is watched, TLS on both sides, and one that ends TLS for the backend.
struct Chain {
    backend: Backend,
    haproxy: Haproxy,
    _server: Haproxy,
    front: u16,
    authority: Authority,
}

impl Chain {
    /// `bind`: more options of the watched frontend; `to_server`: of its server.
    fn start(bind: &str, to_server: &str) -> Chain {
        let (authority, backend, front, middle) = (Authority::new(), Backend::start(), free_port(), free_port());
        let pem = authority.pem(Key::Ecdsa).display().to_string();
        let server = Haproxy::with(&format!(
            "frontend front\n    bind 127.0.0.1:{middle} ssl crt {pem} alpn h2,http/1.1\n    @log@\n    \
             default_backend servers\nbackend servers\n    server one 127.0.0.1:{}\n",
            backend.port()
        ));
        let haproxy = Haproxy::with(&format!(
            "frontend front\n    bind 127.0.0.1:{front} ssl crt {pem} alpn h2,http/1.1 {bind}\n    @log@\n{FRONT_WORDS}    \
             default_backend servers\nbackend servers\n    server one 127.0.0.1:{middle} ssl verify required ca-file {} \
             sni str({NAME}) {to_server}\n",
            authority.ca().display()
        ));
        Chain { backend, haproxy, _server: server, front, authority }
    }

    fn watched(&self, path: CapturePath, capture: &str) -> Sidetap {
        Sidetap::start(&tap(haproxy::EXE, capture), path).of(self.haproxy.pid())
    }
}

fn bodies_byte_for_byte_on_both_sides(path: CapturePath) {
    const SIZES: [usize; 9] = [0, 1, 1000, 16_383, 16_384, 16_385, 100_000, 1 << 20, 5 << 20];
    let folder = Scratch::new("bodies");
    for (alpn, to_server) in [("--http1.1", "alpn h2"), ("--http2", "alpn http/1.1")] {
        let chain = Chain::start("", to_server);
        let mut sidetap = chain.watched(path, "level: full, max_body_bytes: 16777216, body_encoding: base64");
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--fail", alpn, "-m", "60", "--cacert"]).arg(chain.authority.ca());
        for (number, size) in SIZES.iter().enumerate() {
            let file = folder.path().join(format!("{number}.up"));
            std::fs::write(&file, bytes(*size)).expect("the scratch folder is ours");
            if number > 0 {
                curl.args(["--next", "-sS", "--fail", alpn, "-m", "60", "--cacert"]).arg(chain.authority.ca());
            }
            curl.args(["--connect-to", &format!("{NAME}:443:127.0.0.1:{}", chain.front)]);
            curl.args(["-H", &format!("X-Request-Id: body-{number}"), "-H", "Expect:", "--data-binary"]);
            curl.arg(format!("@{}", file.display())).arg("-o").arg(folder.path().join(format!("{number}.down")));
            curl.arg(format!("https://{NAME}/mirror"));
        }
        let output = curl.output().expect("curl is installed");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        // They are 26 MiB in base64, and a machine that is busy takes its time.
        sidetap.wait_within(Duration::from_secs(60), "both sides of each", |output| {
            output.transactions.len() >= SIZES.len() * 2
        });
        let captured = sidetap.stop();
        for (number, size) in SIZES.iter().enumerate() {
            let (id, expected) = (format!("body-{number}"), bytes(*size));
            let answer = std::fs::read(folder.path().join(format!("{number}.down"))).unwrap_or_default();
            assert_same("what curl got", &answer, &expected);
            for transaction in [captured.ingress(&id), captured.egress(&id)] {
                let what = format!("{alpn} {id} {}", transaction.direction());
                assert_eq!(transaction.incomplete(), Vec::<&str>::new(), "{what}");
                assert!(transaction.0.get("tls").is_some(), "{what}");
                for side in ["request", "response"] {
                    assert_same(&what, &transaction.body(side).unwrap_or_default(), &expected);
                }
            }
            assert_eq!(captured.ingress(&id).source(), chain.haproxy.logged_as(&id).client, "{id}");
            assert_eq!(captured.egress(&id).source(), chain.haproxy.logged_as(&id).own, "{id}");
        }
        assert_eq!(captured.transactions.len(), SIZES.len() * 2, "each once");
    }
}

/// Many connections, each with the session of the one before it, by tickets and by ids.
fn resumed_by_clients(path: CapturePath) {
    const EACH: usize = 30;
    for (version, bind) in [("1.3", ""), ("1.2", ""), ("1.2", "no-tls-tickets")] {
        let chain = Chain::start(bind, "");
        let mut sidetap = chain.watched(path, "level: full");
        let mut client = Command::new(PYTHON);
        client.arg(script("tls/client.py")).arg(format!("resume-{version}"));
        client.arg(chain.front.to_string()).arg(chain.authority.ca()).args(["again", &EACH.to_string()]);
        let output = client.output().expect("Python is installed");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        sidetap.wait_for(EACH * 2);
        let captured = sidetap.stop();
        let mut resumed = 0;
        for number in 0..EACH {
            let id = format!("again-{number}");
            let transaction = captured.ingress(&id);
            let words = Words::read(transaction, FRONT_HEADER).expect("HAProxy says what it was");
            resumed += usize::from(words.resumed);
            assert_eq!(words.wrong(transaction), None, "{:#}", transaction.0);
            assert_eq!((transaction.status(), transaction.incomplete()), (200, vec![]), "{id}");
            assert_same(&id, &transaction.body("response").unwrap_or_default(), &bytes(number * 37));
            assert_eq!(transaction.source(), chain.haproxy.logged_as(&id).client, "{id}");
            assert!(captured.egress(&id).0.get("tls").is_some(), "{id}");
        }
        println!("TLS {version} {bind}: {resumed} of {EACH} resumed");
        assert!(resumed >= EACH - 1, "TLS {version} {bind}: {resumed} of {EACH} resumed");
    }
}

/// HAProxy opens a connection for each request, with the session of one before it.
fn resumed_by_haproxy(path: CapturePath) {
    let scene = Scene::start(
        &Root::machine(),
        false,
        true,
        "defaults\n    mode http\n    log global\n    timeout connect 5s\n    \
        timeout client 60s\n    timeout server 60s\n    http-reuse never\n    option http-server-close\n",
    );
    let sidetap = Sidetap::start(&tap(haproxy::EXE, "level: full"), path);
    // A connection to the server that speaks HTTP/2 lasts as long as the client's.
    const ROUNDS: usize = 10;
    let load = Load { connections: 2, streams: 1, requests: 4 };
    for front in &scene.fronts {
        for _ in 0..ROUNDS {
            load.run(*front, &["--h1"]);
        }
    }
    let made = ROUNDS * load.requests * FORMS.len();
    let spoken = check(recorded(sidetap, scene.haproxy.pid()), &scene, made);
    for form in FORMS {
        let of_form = || spoken.values().filter(|words| words.cipher == form.cipher);
        let resumed = of_form().filter(|words| words.resumed).count();
        println!("{}: {resumed} of {} resumed", form.cipher, of_form().count());
        assert!(resumed > 0, "{form:?}: HAProxy resumed nothing");
    }
}

/// `openssl s_client` on one connection.
fn s_client(front: u16, folder: &Scratch, arguments: &[&str]) -> Command {
    let mut command = Command::new("openssl");
    command.current_dir(folder.path()).args(["s_client", "-connect", &format!("127.0.0.1:{front}")]);
    command.args(["-servername", NAME]).args(arguments);
    command
}

fn early_data_is_part_of_its_request(path: CapturePath) {
    const TIMES: usize = 5;
    let chain = Chain::start("allow-0rtt", "");
    let mut sidetap = chain.watched(path, "level: full");
    let folder = Scratch::new("early");
    let closing = |target: &str, id: &str| Request::new("GET", target, id).header("Connection", "close").bytes();
    // A first connection for the session. With -ign_eof it waits for the end of the server's words.
    let first = folder.path().join("first");
    std::fs::write(&first, closing("/bytes/10", "first")).expect("the scratch folder is ours");
    let mut command = s_client(chain.front, &folder, &["-tls1_3", "-ign_eof", "-sess_out", "session"]);
    let input = std::fs::File::open(&first).expect("it was just written");
    let output = command.stdin(input).output().expect("openssl is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for number in 0..TIMES {
        // The half of them with the rest of the request behind the handshake.
        let request = closing("/bytes/20000", &format!("early-{number}"));
        let at = if number % 2 == 0 { request.len() } else { 40 };
        let early = folder.path().join("early");
        std::fs::write(&early, &request[..at]).expect("the scratch folder is ours");
        let rest = folder.path().join("rest");
        std::fs::write(&rest, &request[at..]).expect("the scratch folder is ours");
        let options = ["-tls1_3", "-ign_eof", "-sess_in", "session", "-early_data", "early"];
        let mut command = s_client(chain.front, &folder, &options);
        let input = std::fs::File::open(&rest).expect("it was just written");
        let output = command.stdin(input).output().expect("openssl is installed");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.contains("Early data was accepted"), "{said}{}", String::from_utf8_lossy(&output.stderr));
    }
    sidetap.wait_for((1 + TIMES) * 2);
    let captured = sidetap.stop();
    for number in 0..TIMES {
        let id = format!("early-{number}");
        for transaction in [captured.ingress(&id), captured.egress(&id)] {
            assert_eq!((transaction.status(), transaction.incomplete()), (200, vec![]), "{:#}", transaction.0);
            assert_same(&id, &transaction.body("response").unwrap_or_default(), &bytes(20_000));
        }
        assert_eq!(captured.ingress(&id).source(), chain.haproxy.logged_as(&id).client, "{id}");
    }
    assert_eq!(captured.transactions.len(), (1 + TIMES) * 2, "each once");
    assert_eq!(chain.backend.served().len(), 1 + TIMES);
}

/// The client changes its keys between requests and asks the server to do the same (RFC 8446 section 4.6.3).
fn keys_are_updated(path: CapturePath) {
    const TIMES: usize = 6;
    let chain = Chain::start("", "");
    let mut sidetap = chain.watched(path, "level: full");
    let folder = Scratch::new("updated");
    let mut command = s_client(chain.front, &folder, &["-tls1_3"]);
    let told = folder.path().join("told");
    let for_told = std::fs::File::create(&told).expect("the scratch folder is ours");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(for_told);
    let mut client = command.spawn().expect("openssl is installed");
    let mut to_client = client.stdin.take().expect("it is piped");
    let mut said = BufReader::new(client.stdout.take().expect("it is piped"));
    for number in 0..TIMES {
        let id = format!("updated-{number}");
        to_client.write_all(&Request::new("GET", "/bytes/3000", &id).bytes()).expect("s_client reads");
        let mut line = String::new();
        while !line.to_ascii_lowercase().starts_with("content-length: 3000") {
            line.clear();
            assert!(said.read_line(&mut line).is_ok_and(|count| count > 0), "s_client ended at request {number}");
        }
        while line.trim_end() != "" {
            line.clear();
            said.read_line(&mut line).expect("the head goes on");
        }
        let mut body = vec![0; 3000];
        said.read_exact(&mut body).expect("the body follows");
        assert_same("what s_client got", &body, &bytes(3000));
        // K: mine and yours; k: mine alone.
        to_client.write_all(if number % 2 == 0 { b"K\n" } else { b"k\n" }).expect("s_client reads");
        let said_so = until(support::LIMIT, || {
            let told = std::fs::read_to_string(&told).unwrap_or_default();
            (told.matches("KEYUPDATE").count() > number).then_some(())
        });
        assert!(said_so.is_some(), "s_client has not updated its keys");
    }
    drop(to_client);
    let _ = client.kill();
    let _ = client.wait();
    sidetap.wait_for(TIMES * 2);
    let captured = sidetap.stop();
    for number in 0..TIMES {
        let id = format!("updated-{number}");
        let transaction = captured.ingress(&id);
        assert_eq!((transaction.status(), transaction.incomplete()), (200, vec![]), "{:#}", transaction.0);
        assert_same(&id, &transaction.body("response").unwrap_or_default(), &bytes(3000));
    }
    assert_eq!(captured.transactions.len(), TIMES * 2, "each once");
}
