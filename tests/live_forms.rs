//! HTTP/1 as it is in the wild, each form on a connection that goes on afterwards.

mod support;

use std::fs;
use std::process::Command;

use support::backend::Backend;
use support::captured::{Captured, Transaction};
use support::client::{Client, Request};
use support::haproxy::{self, Haproxy};
use support::nginx::{self, Nginx};
use support::payload::{assert_same, bytes};
use support::program::{Program, listens};
use support::scene::Scene;
use support::sidetap::{CapturePath, Sidetap, tap};
use support::{LIMIT, Scratch, data, free_port, on_each_path};

on_each_path!(
    pipelined_requests_are_paired_in_order,
    answers_without_a_body_end_where_they_should,
    interim_answers_are_not_the_answer,
    an_upgrade_is_recorded_and_its_frames_are_not,
    a_connect_is_recorded_and_its_tunnel_is_not,
    unix_sockets_are_recorded,
    a_client_that_leaves_is_recorded_as_incomplete,
    a_server_that_leaves_is_recorded_as_incomplete,
    a_server_that_is_down_is_seen_as_a_failed_connection,
    a_server_that_shuts_before_it_closes_has_sent_what_it_sent,
    unusual_heads_are_read,
);

/// A frame that holds what would be a request if it were read as HTTP.
const DISGUISED: &[u8] = b"GET /disguised HTTP/1.1\r\nHost: x\r\nX-Request-Id: disguised\r\n\r\n";

fn assert_complete(transaction: &Transaction, status: u64, body: &[u8]) {
    let what = format!("{} {}", transaction.direction(), transaction.id());
    assert_eq!((transaction.status(), transaction.incomplete()), (status, vec![]), "{what}");
    assert_same(&what, &transaction.body("response").unwrap_or_default(), body);
}

fn assert_complete_on_both(captured: &Captured, id: &str, status: u64, body: &[u8]) {
    assert_complete(captured.ingress(id), status, body);
    assert_complete(captured.egress(id), status, body);
}

fn pipelined_requests_are_paired_in_order(path: CapturePath) {
    let nginx = Nginx::start(false, &[]);
    let mut sidetap = Sidetap::start(&tap(nginx::EXE, "level: full"), path).of(nginx.pid());
    for depth in [8, 100] {
        let mut client = Client::tcp(nginx.port());
        let request = |number| Request::new("GET", &format!("/text/{number}"), &format!("{depth}-{number}")).bytes();
        client.send(&(0..depth).flat_map(request).collect::<Vec<u8>>());
        for number in 0..depth {
            let expected = format!("hello from nginx to /text/{number}\n");
            assert_eq!(client.response("GET").body, expected.as_bytes());
        }
    }
    sidetap.wait_for(108);
    let captured = sidetap.stop();
    assert_eq!(captured.transactions.len(), 108);
    for depth in [8, 100] {
        for number in 0..depth {
            let body = format!("hello from nginx to /text/{number}\n");
            assert_complete(captured.ingress(&format!("{depth}-{number}")), 200, body.as_bytes());
        }
    }
}

fn answers_without_a_body_end_where_they_should(path: CapturePath) {
    let scene = Scene::start(path, "level: full");
    let mut client = scene.client();
    assert_eq!(client.ask(&Request::new("HEAD", "/bytes/5000", "head")).head.content_length(), Some(5000));
    client.get("/bytes/100", "behind-head");
    client.get("/status/204", "204");
    client.get("/bytes/200", "behind-204");
    client.get("/status/304", "304");
    client.get("/bytes/300", "last");
    let captured = scene.stop_after("last");
    assert_complete_on_both(&captured, "head", 200, b"");
    assert_complete_on_both(&captured, "behind-head", 200, &bytes(100));
    assert_complete_on_both(&captured, "204", 204, b"");
    assert_complete_on_both(&captured, "behind-204", 200, &bytes(200));
    assert_complete_on_both(&captured, "304", 304, b"");
    assert_complete_on_both(&captured, "last", 200, &bytes(300));
    assert_eq!(captured.transactions.len(), 12);
}

fn interim_answers_are_not_the_answer(path: CapturePath) {
    let scene = Scene::start(path, "level: full");
    let mut client = scene.client();
    assert_eq!(client.get("/early-hints", "hints").interim, [103]);
    let upload = Request::new("POST", "/mirror", "expect").header("Expect", "100-continue").body(bytes(9000));
    client.send(&upload.head_bytes());
    client.wait_interim(100);
    client.send(&upload.body_bytes());
    assert_same("mirrored", &client.response("POST").body, &bytes(9000));
    client.get("/bytes/10", "last");
    let captured = scene.stop_after("last");
    assert_complete_on_both(&captured, "hints", 200, b"after the hints");
    assert_complete_on_both(&captured, "expect", 200, &bytes(9000));
    for transaction in captured.of("expect") {
        assert_same("upload", &transaction.body("request").unwrap_or_default(), &bytes(9000));
    }
    assert_complete_on_both(&captured, "last", 200, &bytes(10));
    assert_eq!(captured.transactions.len(), 6);
}

fn an_upgrade_is_recorded_and_its_frames_are_not(path: CapturePath) {
    let scene = Scene::start(path, "level: full");
    let mut client = scene.client();
    let upgrade = Request::new("GET", "/upgrade", "upgrade").websocket();
    assert_eq!(client.ask(&upgrade).status, 101);
    for _ in 0..50 {
        client.send(DISGUISED);
        assert_eq!(client.exactly(DISGUISED.len()), DISGUISED);
    }
    drop(client);
    scene.client().get("/bytes/10", "last");
    let captured = scene.stop_after("last");
    assert_eq!((captured.ingress("upgrade").status(), captured.egress("upgrade").status()), (101, 101));
    assert_complete_on_both(&captured, "last", 200, &bytes(10));
    assert_eq!(captured.transactions.len(), 4, "frames are no transactions");
}

fn a_connect_is_recorded_and_its_tunnel_is_not(path: CapturePath) {
    let scene = Scene::start(path, "level: full");
    let mut client = scene.client();
    assert_eq!(client.ask(&Request::new("CONNECT", "example.test:443", "connect")).status, 200);
    for _ in 0..50 {
        client.send(DISGUISED);
        assert_eq!(client.exactly(DISGUISED.len()), DISGUISED);
    }
    drop(client);
    scene.client().get("/bytes/10", "last");
    let captured = scene.stop_after("last");
    for transaction in [captured.ingress("connect"), captured.egress("connect")] {
        assert_eq!((transaction.method(), transaction.status()), ("CONNECT", 200));
    }
    assert_complete_on_both(&captured, "last", 200, &bytes(10));
    assert_eq!(captured.transactions.len(), 4, "what is in the tunnel is no transaction");
}

fn unix_sockets_are_recorded(path: CapturePath) {
    let folder = Scratch::new("unix");
    let (front, server) = (folder.path().join("front.sock"), folder.path().join("server.sock"));
    let _backend = Backend::start_unix(&server);
    let haproxy = Haproxy::with(&format!(
        "listen front\n    bind unix@{}\n    @log@\n    server one unix@{}\n",
        front.display(),
        server.display()
    ));
    let mut older = Client::unix(&front);
    older.get("/bytes/10", "before");
    let mut sidetap = Sidetap::start(&tap(haproxy::EXE, "level: full"), path).of(haproxy.pid());
    let mut newer = Client::unix(&front);
    for (client, name) in [(&mut older, "older"), (&mut newer, "newer")] {
        client.ask(&Request::new("POST", "/mirror", &format!("{name}-post")).body(bytes(70_000)));
        client.get("/chunked/5000", &format!("{name}-get"));
    }
    sidetap.wait_for(8);
    let captured = sidetap.stop();
    for name in ["older", "newer"] {
        assert_complete_on_both(&captured, &format!("{name}-post"), 200, &bytes(70_000));
        assert_complete_on_both(&captured, &format!("{name}-get"), 200, &bytes(5000));
        for transaction in captured.of(&format!("{name}-post")) {
            assert_same("upload", &transaction.body("request").unwrap_or_default(), &bytes(70_000));
            assert_eq!(transaction.pid(), haproxy.pid().to_string());
        }
        assert_eq!(captured.egress(&format!("{name}-get")).direction(), "egress-internal");
    }
    assert_eq!(captured.transactions.len(), 8);
}

fn a_client_that_leaves_is_recorded_as_incomplete(path: CapturePath) {
    let mut scene = Scene::start(path, "level: full");
    let mut reading = scene.client();
    reading.send(&Request::new("GET", "/drip/400000/500", "left-reading").bytes());
    reading.exactly(100_000);
    drop(reading);
    let mut sending = scene.client();
    let upload = Request::new("POST", "/echo", "left-sending").body(bytes(100_000));
    sending.send(&upload.head_bytes());
    sending.send(&bytes(60_000));
    drop(sending);
    for id in ["left-reading", "left-sending"] {
        scene.sidetap.wait_until(id, |output| output.transactions.iter().any(|t| t.id() == id && t.is_ingress()));
    }
    scene.client().get("/bytes/10", "last");
    let captured = scene.stop_after("last");
    let reading = captured.ingress("left-reading");
    assert!(reading.incomplete().contains(&"response_aborted"), "{:?}", reading.incomplete());
    assert_eq!(reading.status(), 200);
    let kept = reading.body("response").unwrap_or_default();
    assert!(kept.len() >= 99_000, "what was sent before is there: {} bytes", kept.len());
    assert_same("kept", &kept, &bytes(kept.len()));
    let sending = captured.ingress("left-sending");
    assert!(sending.incomplete().contains(&"request_aborted"), "{:?}", sending.incomplete());
    assert_same("sent before leaving", &sending.body("request").unwrap_or_default(), &bytes(60_000));
    assert_complete_on_both(&captured, "last", 200, &bytes(10));
}

fn a_server_that_leaves_is_recorded_as_incomplete(path: CapturePath) {
    let scene = Scene::start(path, "level: full");
    let mut client = scene.client();
    client.send(&Request::new("GET", "/drop", "dropped").bytes());
    assert!(client.try_response("GET").is_err(), "the client sees it too");
    drop(client);
    scene.client().get("/close/5000", "until-close");
    scene.client().get("/bytes/10", "last");
    let captured = scene.stop_after("last");
    for transaction in [captured.ingress("dropped"), captured.egress("dropped")] {
        let what = format!("{}: {:?}", transaction.direction(), transaction.incomplete());
        assert!(transaction.incomplete().contains(&"response_aborted"), "{what}");
        assert_same(&what, &transaction.body("response").unwrap_or_default(), &bytes(500));
    }
    assert_complete_on_both(&captured, "until-close", 200, &bytes(5000));
    assert_complete_on_both(&captured, "last", 200, &bytes(10));
}

fn a_server_that_is_down_is_seen_as_a_failed_connection(path: CapturePath) {
    let (front, closed) = (free_port(), free_port());
    let haproxy = Haproxy::with(&support::scene::proxies(front, closed, "    retries 0\n"));
    let mut sidetap = Sidetap::start(&tap(haproxy::EXE, "level: full"), path).of(haproxy.pid());
    assert_eq!(Client::tcp(front).get("/bytes/10", "refused").status, 503);
    sidetap.wait_until("a failed connection", |output| {
        output.connections.iter().any(|event| {
            event["error"] == "ECONNREFUSED"
                && event["destination"]["port"] == closed
                && event["direction"] == "egress-internal"
                && event["finalized"] == true
                && event["source"]["process"]["pid"] == haproxy.pid()
        })
    });
    sidetap.wait_for(1);
    let captured = sidetap.stop();
    assert_eq!(captured.ingress("refused").status(), 503);
    assert_eq!(captured.transactions.len(), 1, "nothing was sent to the server");
}

fn unusual_heads_are_read(path: CapturePath) {
    // In TCP mode HAProxy passes on whatever comes, so both directions may be as unusual as they like.
    let (backend, front) = (Backend::start(), free_port());
    let haproxy = Haproxy::with(&format!(
        "listen front\n    mode tcp\n    bind 127.0.0.1:{front}\n    server one 127.0.0.1:{}\n",
        backend.port()
    ));
    let mut sidetap = Sidetap::start(&tap(haproxy::EXE, "level: full"), path).of(haproxy.pid());
    let mut client = Client::tcp(front);
    client.ask(&Request::new("GET", "http://example.test/bytes/1", "absolute"));
    client.ask(&Request::new("M-SEARCH", "/bytes/2", "method"));
    client.ask(&Request::new("OPTIONS", "*", "asterisk"));
    let mut long = Request::new("GET", "/bytes/3", "long");
    for number in 0..9 {
        long = long.header(&format!("X-Long-{number}"), &"v".repeat(100_000));
    }
    client.ask(&long);
    for byte in Request::new("POST", "/echo", "byte-by-byte").chunked(b"abc".to_vec(), 2).bytes() {
        client.send(&[byte]);
    }
    client.response("POST");
    client.send(b"GET /bytes/4 HTTP/1.0\r\nX-Request-Id: old\r\n\r\n");
    client.response("GET");
    sidetap.wait_for(12);
    let captured = sidetap.stop();
    for (id, method, body) in [
        ("absolute", "GET", b"http://example.test/bytes/1".to_vec()),
        ("method", "M-SEARCH", bytes(2)),
        ("asterisk", "OPTIONS", b"*".to_vec()),
        ("long", "GET", bytes(3)),
        ("old", "GET", bytes(4)),
    ] {
        assert_complete_on_both(&captured, id, 200, &body);
        assert_eq!(captured.ingress(id).method(), method);
    }
    assert_eq!(captured.ingress("absolute").url(), "http://example.test/bytes/1");
    let last = captured.egress("long").header("request", "x-long-8").map(str::len);
    assert_eq!(last, Some(100_000), "a head of 900 kB is there to its end");
    for transaction in captured.of("byte-by-byte") {
        assert_eq!(transaction.body("request").as_deref(), Some(&b"abc"[..]));
    }
}

/// The end of a stream has a place among its bytes, and must not be counted as one.
fn a_server_that_shuts_before_it_closes_has_sent_what_it_sent(path: CapturePath) {
    let folder = Scratch::new("shuts");
    let script = folder.file("server.py", &data("guide/backend-service.py"));
    let port = free_port();
    let python = fs::canonicalize("/usr/bin/python3").expect("Python is installed").display().to_string();
    let mut command = Command::new(&python);
    command.arg("-u").arg(script).arg(port.to_string());
    let mut server = Program::start("server", &mut command, folder.path());
    server.wait_ready("listening server", LIMIT, |_| listens(port));
    let mut sidetap = Sidetap::start(&tap(&python, "level: full, format: json"), path);
    for id in ["1", "2", "3"] {
        // It answers in HTTP/1.0: until the end.
        let mut client = Client::tcp(port);
        client.send(&Request::new("GET", "/api", id).bytes());
        client.response("GET");
        sidetap.wait_until("the transaction", |output| output.transactions.iter().any(|t| t.id() == id));
    }
    let captured = sidetap.stop();
    assert_eq!(captured.transactions.len(), 3);
    assert!(captured.transactions.iter().all(|t| t.incomplete().is_empty()), "{:#?}", captured.transactions);
    assert_eq!(captured.counters["lost.bytes"], 0);
}
