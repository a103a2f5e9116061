//! The oracles themselves: what the other live tests compare the agent with has to be right first.

mod support;

use std::process::Command;

use serde_json::json;
use support::backend::{Backend, coded_text};
use support::captured::{Transaction, blocks, counters, epoch_ms};
use support::client::{Client, Request};
use support::docker::{Engine, docker};
use support::haproxy::Haproxy;
use support::netns::Pair;
use support::nginx::Nginx;
use support::payload::{assert_same, bytes, checksum};
use support::program::Program;
use support::relay::Relay;
use support::scene::proxies;
use support::{LIMIT, Scratch, data, free_port, until};

fn through_haproxy() -> (Haproxy, Backend, u16) {
    let backend = Backend::start();
    let front = free_port();
    (Haproxy::with(&proxies(front, backend.port(), "")), backend, front)
}

#[test]
fn every_answer_of_the_backend_arrives_through_haproxy() {
    let (haproxy, backend, front) = through_haproxy();
    let mut client = Client::tcp(front);
    for (id, path, expected) in [
        ("a", "/bytes/100000", bytes(100_000)),
        ("b", "/chunked/100000?size=777&extension=1&trailers=1", bytes(100_000)),
        ("c", "/bytes/0", bytes(0)),
        ("d", "/status/404", b"status 404\n".to_vec()),
        ("e", "/early-hints", b"after the hints".to_vec()),
        ("f", "/drip/4000/5", bytes(4000)),
    ] {
        assert_same(path, &client.get(path, id).body, &expected);
        assert_eq!(haproxy.logged_as(id).client, Some(client.local()));
        assert_eq!(backend.served_as(id).peer, haproxy.logged_as(id).own);
    }
    assert_same("/close", &Client::tcp(front).get("/close/5000", "g").body, &bytes(5000));
    assert_eq!(haproxy.wait_log(7).len(), 7);
}

#[test]
fn uploads_are_summed_up_by_the_backend() {
    let (_haproxy, backend, front) = through_haproxy();
    let mut client = Client::tcp(front);
    let body = bytes(50_000);
    let expected = format!("50000 {:016x}", checksum(&body));
    let answer = client.ask(&Request::new("POST", "/echo", "sized").body(body.clone()));
    assert_eq!(String::from_utf8_lossy(&answer.body), expected);
    let answer = client.ask(&Request::new("POST", "/echo", "chunked").chunked(body.clone(), 1234));
    assert_eq!(String::from_utf8_lossy(&answer.body), expected);
    let served = backend.served_as("chunked");
    assert_eq!((served.received, served.checksum), (50_000, checksum(&body)));
    assert_same("/mirror", &client.ask(&Request::new("PUT", "/mirror", "m").body(body.clone())).body, &body);
}

#[test]
fn interim_and_bodyless_answers_are_told_from_final_ones() {
    let backend = Backend::start();
    let mut client = Client::tcp(backend.port());
    assert_eq!(client.get("/early-hints", "").interim, [103]);
    let expect = Request::new("POST", "/echo", "").header("Expect", "100-continue").body(b"abc".to_vec());
    assert_eq!(client.ask(&expect).interim, [100]);
    assert_eq!(client.ask(&Request::new("HEAD", "/bytes/1000", "")).head.content_length(), Some(1000));
    assert_eq!(client.get("/status/204", "").status, 204);
    assert_eq!(client.get("/status/304", "").body.len(), 0);
    let upgrade = Request::new("GET", "/upgrade", "").websocket();
    assert_eq!(client.ask(&upgrade).status, 101);
    client.send(b"\x82\x03abc");
    assert_eq!(client.exactly(5), b"\x82\x03abc");
}

#[test]
fn a_dropped_answer_is_an_error_for_the_client() {
    let backend = Backend::start();
    let mut client = Client::tcp(backend.port());
    client.send(&Request::new("GET", "/drop", "x").bytes());
    assert!(client.try_response("GET").is_err());
}

#[test]
fn coded_bodies_have_the_text_inside() {
    let backend = Backend::start();
    let mut client = Client::tcp(backend.port());
    let mut text = String::new();
    let answer = client.get("/coded/gzip/10000", "");
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&answer.body[..]), &mut text).expect("gzip");
    assert_eq!(text, coded_text(10_000));
    let answer = client.get("/coded/zstd/10000", "");
    assert_eq!(zstd::decode_all(&answer.body[..]).expect("zstd"), coded_text(10_000).into_bytes());
    for coding in ["deflate", "br"] {
        let answer = client.get(&format!("/coded/{coding}/10000"), "");
        assert!(!answer.body.is_empty() && answer.body.len() < 5000, "{coding}: {} bytes", answer.body.len());
    }
}

#[test]
fn the_backend_and_the_client_speak_over_unix_sockets() {
    let folder = Scratch::new("unix");
    let backend = Backend::start_unix(&folder.path().join("backend.sock"));
    let front = folder.path().join("front.sock");
    let _haproxy = Haproxy::with(&format!(
        "listen front\n    bind unix@{}\n    @log@\n    server one unix@{}\n",
        front.display(),
        folder.path().join("backend.sock").display()
    ));
    assert_same("over unix", &Client::unix(&front).get("/bytes/70000", "u").body, &bytes(70_000));
    assert_eq!(backend.served_as("u").peer, None);
}

#[test]
fn nginx_serves_files_and_logs_them() {
    let body = bytes(300_000);
    let nginx = Nginx::start(true, &[("large", &body)]);
    let mut client = Client::tcp(nginx.port());
    assert_same("file", &client.get("/file/large", "one").body, &body);
    let logged = nginx.logged_as("one");
    assert_eq!((logged.status, logged.body_sent, logged.client), (200, 300_000, Some(client.local())));
    assert!(logged.ended > 1.6e9 && nginx.wait_log(1).len() == 1);
}

#[test]
fn records_are_read_back() {
    let transaction = Transaction(json!({
        "request": {"headers": {"x-ReQuest-id": "7"}, "body": "AAEC", "body_encoding": "base64", "body_bytes": 3},
        "response": {"status": 200, "body": "text"},
        "source": {"ip": "::1", "port": 80},
        "incomplete": ["request_body_truncated:3", "response_missing"],
        "transaction_time": "2024-02-29T12:00:00.250000000Z",
    }));
    assert_eq!((transaction.id(), transaction.status()), ("7", 200));
    assert_eq!(transaction.body("request").as_deref(), Some(&[0, 1, 2][..]));
    assert_eq!(transaction.body("response").as_deref(), Some(&b"text"[..]));
    assert_eq!(transaction.marked("request_body_truncated"), Some(3));
    assert_eq!(transaction.source().map(|address| address.to_string()).as_deref(), Some("[::1]:80"));
    assert_eq!(transaction.started_ms(), 1_709_208_000_250.0);
    assert_eq!(epoch_ms("1970-01-01T00:00:01Z"), Some(1000.0));
    assert_eq!(epoch_ms("2024-02-29T12:00:00+01:00"), None);
}

#[test]
fn text_blocks_are_read_back() {
    let found = blocks(
        "{\"type\":\"connection\"}\n=== HTTP Transaction ===\nSource Process: haproxy (PID: 9)\nMethod: GET\n\
         URL: http://a:1/x\n\n--- Request Headers ---\nHost: a\n\n--- Request Body ---\none\n\ntwo\n\
         ========================\n\n",
    );
    let [block] = &found[..] else { panic!("{found:#?}") };
    assert_eq!(block.order, ["Source Process", "Method", "URL"]);
    assert_eq!(block.field("URL"), "http://a:1/x");
    assert_eq!(block.header("Request Headers", "host"), Some("a"));
    assert_eq!(block.section("Request Body").as_deref(), Some("one\n\ntwo"));
}

#[test]
fn counters_are_read_back() {
    let counters = counters("[INFO] start\n[INFO] counters seen=10 written=9 lost=1 lost.queue_full=1\n[INFO] bye");
    assert_eq!((counters["seen"], counters["written"], counters["lost.queue_full"], counters.len()), (10, 9, 1, 4));
}

#[test]
fn the_relay_passes_on_what_the_engine_says_until_it_is_gone() {
    let Some(_engine) = Engine::or_skip() else { return };
    let folder = Scratch::new("relay");
    let socket = folder.path().join("docker.sock");
    let host = format!("unix://{}", socket.display());
    let ask = |arguments: &[&str]| {
        let output = Command::new("docker").args(["-H", &host]).args(arguments).output().expect("docker runs");
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let version = ["version", "-f", "{{.Server.Version}}"];
    let relay = Relay::start(&socket);
    assert_eq!(ask(&version), Some(docker(&version)));
    assert!(relay.accepted() > 0);
    // A connection that is open ends with it.
    let mut events = Program::start("events", Command::new("docker").args(["-H", &host, "events"]), folder.path());
    let before = relay.accepted();
    until(LIMIT, || (relay.accepted() > before).then_some(())).expect("docker events connects");
    drop(relay);
    events.wait_exit(LIMIT);
    assert_eq!(ask(&version), None);
    let _relay = Relay::start(&socket);
    assert_eq!(ask(&version), Some(docker(&version)));
}

#[test]
fn a_pair_of_namespaces_is_a_network_of_its_own() {
    let (one, two) = (Pair::new("10.213.8.20", "10.213.8.10"), Pair::new("10.213.8.20", "10.213.8.10"));
    let folder = Scratch::new("pair");
    let script = folder.file("backend-service.py", &data("guide/backend-service.py"));
    let _servers = [one.serve(&script, 8001), two.serve(&script, 8001)];
    one.set_hosts("10.213.8.10 there.example\n");
    one.curl(&["http://there.example:8001/api"]);
    two.curl(&["http://10.213.8.10:8001/api"]);
}
