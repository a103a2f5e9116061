//! Bodies: byte for byte up to the limit, beyond it cut and marked, sizes exact, and what never passed through the
//! process's memory named as such.

mod support;

use support::backend::coded_text;
use support::captured::{Captured, Transaction};
use support::client::{Client, Request};
use support::nginx::{self, Nginx};
use support::on_each_path;
use support::payload::{assert_same, bytes, checksum};
use support::scene::Scene;
use support::sidetap::{CapturePath, Sidetap, tap};

on_each_path!(
    all_sizes_are_recorded_byte_for_byte,
    beyond_the_limit_bodies_are_cut_and_marked,
    sizes_are_exact_where_no_body_is_kept,
    content_codings_are_undone,
    spliced_downloads_are_complete_but_not_observable,
    spliced_uploads_are_complete_but_not_observable,
    sent_files_are_complete_but_not_observable,
);

const MIB: usize = 1 << 20;
const SIZES: [usize; 6] = [0, 1, 100, 16 * 1024, MIB, 20 * MIB];

/// Both sides of a request.
fn both<'a>(captured: &'a Captured, id: &str) -> [&'a Transaction; 2] {
    [captured.ingress(id), captured.egress(id)]
}

/// A whole body on one side of a transaction.
fn assert_body(transaction: &Transaction, side: &str, expected: &[u8]) {
    let what = format!("{} {} {side} of {} bytes", transaction.direction(), transaction.id(), expected.len());
    assert_eq!(transaction.incomplete(), Vec::<&str>::new(), "{what}");
    assert_same(&what, &transaction.body(side).unwrap_or_default(), expected);
    assert_eq!(transaction.body_bytes(side).unwrap_or(0), expected.len() as u64, "{what}");
}

/// A whole body on both sides of a request.
fn assert_bodies(captured: &Captured, id: &str, side: &str, expected: &[u8]) {
    for transaction in both(captured, id) {
        assert_body(transaction, side, expected);
    }
}

fn all_sizes_are_recorded_byte_for_byte(path: CapturePath) {
    let scene = Scene::start(path, "level: full, max_body_bytes: 33554432, body_encoding: base64");
    let mut client = scene.client();
    for size in SIZES {
        let body = bytes(size);
        let answer = client.ask(&Request::new("POST", "/mirror", &format!("length-{size}")).body(body.clone()));
        assert_same("the client's own body", &answer.body, &body);
        let upload = Request::new("POST", "/echo", &format!("chunked-up-{size}")).chunked(body.clone(), 7000);
        let answer = client.ask(&upload);
        assert_eq!(answer.body, format!("{size} {:016x}", checksum(&body)).into_bytes());
        let target = format!("/chunked/{size}?size=3000&extension=1&trailers=1");
        assert_same("the client's own body", &client.get(&target, &format!("chunked-down-{size}")).body, &body);
    }
    let Scene { mut sidetap, backend, .. } = scene;
    sidetap.wait_for(2 * 3 * SIZES.len());
    let captured = sidetap.stop();
    assert_eq!(captured.transactions.len(), 2 * 3 * SIZES.len());
    for size in SIZES {
        let body = bytes(size);
        for transaction in both(&captured, &format!("length-{size}")) {
            assert_body(transaction, "request", &body);
            assert_body(transaction, "response", &body);
        }
        let id = format!("chunked-up-{size}");
        assert_eq!(backend.served_as(&id).checksum, checksum(&body), "the oracle has the same");
        assert_bodies(&captured, &id, "request", &body);
        let id = format!("chunked-down-{size}");
        assert_bodies(&captured, &id, "response", &body);
    }
}

fn beyond_the_limit_bodies_are_cut_and_marked(path: CapturePath) {
    const LIMIT: usize = 1000;
    let scene = Scene::start(path, "level: full, max_body_bytes: 1000");
    let mut client = scene.client();
    for size in [LIMIT, LIMIT + 1, 100_000, 20 * MIB] {
        client.ask(&Request::new("POST", "/mirror", &format!("length-{size}")).body(bytes(size)));
        client.ask(&Request::new("POST", "/echo", &format!("up-{size}")).chunked(bytes(size), 5000));
        client.get(&format!("/chunked/{size}?size=1234"), &format!("down-{size}"));
    }
    client.get("/bytes/10", "last");
    let captured = scene.stop_after("last");
    for size in [LIMIT, LIMIT + 1, 100_000, 20 * MIB] {
        let cases = [("length", "request"), ("length", "response"), ("up", "request"), ("down", "response")];
        for (kind, side) in cases {
            for transaction in both(&captured, &format!("{kind}-{size}")) {
                let what = format!("{} {kind}-{size} {side}", transaction.direction());
                assert_same(&what, &transaction.body(side).unwrap_or_default(), &bytes(LIMIT));
                assert_eq!(transaction.body_bytes(side), Some(size as u64), "{what}");
                let mark = transaction.marked(&format!("{side}_body_truncated"));
                assert_eq!(mark, (size > LIMIT).then_some(LIMIT as u64), "{what}: {:?}", transaction.incomplete());
            }
        }
    }
    assert_bodies(&captured, "last", "response", &bytes(10));
}

fn sizes_are_exact_where_no_body_is_kept(path: CapturePath) {
    for level in ["summary", "headers"] {
        let mut scene = Scene::start(path, &format!("level: {level}"));
        let mut client = scene.client();
        for size in SIZES {
            client.ask(&Request::new("POST", "/mirror", "").body(bytes(size)));
            client.ask(&Request::new("PUT", "/echo", "").chunked(bytes(size), 9000));
            client.get(&format!("/chunked/{size}"), "");
        }
        let count = 2 * 3 * SIZES.len();
        scene.sidetap.wait_for(count);
        let captured = scene.sidetap.stop();
        assert_eq!(captured.transactions.len(), count, "{level}");
        for transaction in &captured.transactions {
            let kept = ["request", "response"].map(|side| transaction.body(side));
            assert_eq!(kept, [None, None], "{level}");
            assert_eq!(transaction.incomplete(), Vec::<&str>::new(), "{level}: a body nobody asked for is not missing");
        }
        for is_side in [Transaction::is_ingress, Transaction::is_egress] {
            let sizes = |method: &str, side: &str| {
                let of_side = captured.transactions.iter().filter(|t| is_side(t) && t.method() == method);
                let mut sizes: Vec<u64> = of_side.map(|t| t.body_bytes(side).unwrap_or(0)).collect();
                sizes.sort_unstable();
                sizes
            };
            let expected = SIZES.map(|size| size as u64);
            assert_eq!(sizes("POST", "request"), expected, "{level}");
            assert_eq!(sizes("POST", "response"), expected, "{level}");
            assert_eq!(sizes("PUT", "request"), expected, "{level}");
            assert_eq!(sizes("GET", "response"), expected, "{level}");
        }
    }
}

fn content_codings_are_undone(path: CapturePath) {
    const CODINGS: [&str; 4] = ["gzip", "deflate", "br", "zstd"];
    let scene = Scene::start(path, "level: full, max_body_bytes: 100000");
    let mut client = scene.client();
    for coding in CODINGS {
        client.get(&format!("/coded/{coding}/50000"), coding);
        client.get(&format!("/coded/{coding}/2000000"), &format!("{coding}-long"));
    }
    let wire: Vec<u64> = CODINGS.map(|coding| scene.backend.served_as(coding).sent as u64).to_vec();
    client.get("/bytes/1", "last");
    let captured = scene.stop_after("last");
    for (coding, wire) in CODINGS.iter().zip(wire) {
        for transaction in both(&captured, coding) {
            assert_same(coding, &transaction.body("response").unwrap_or_default(), coded_text(50_000).as_bytes());
            assert_eq!(transaction.body_bytes("response"), Some(wire), "{coding}: the wire's bytes are counted");
            assert_ne!(transaction.0["response"]["body_encoding"], "base64", "{coding}: the text is readable");
        }
        // Small on the wire, larger than the limit when undone.
        for transaction in both(&captured, &format!("{coding}-long")) {
            let body = transaction.body("response").unwrap_or_default();
            assert_same(coding, &body, coded_text(100_000).as_bytes());
            assert_eq!(transaction.marked("response_body_truncated"), Some(100_000), "{coding}");
        }
    }
}

/// A body of which a part went by unseen: what is kept is a prefix, the rest is counted, the size is exact.
fn assert_not_observable(transaction: &Transaction, side: &str, size: usize) {
    let what = format!("{} {side}: {:?}", transaction.direction(), transaction.incomplete());
    assert_eq!(transaction.body_bytes(side), Some(size as u64), "{what}");
    let unseen = transaction.marked(&format!("{side}_body_not_observable")).unwrap_or(0) as usize;
    assert!(unseen > 0, "{what}");
    let kept = transaction.body(side).unwrap_or_default();
    assert!(kept.len() + unseen <= size, "{what}, {} bytes kept", kept.len());
    assert_same(&what, &kept, &bytes(kept.len()));
    assert_eq!(transaction.status(), 200, "{what}");
    let marks = transaction.incomplete();
    assert!(marks.iter().all(|mark| mark.contains("_body_not_observable:")), "nothing else is missing: {marks:?}");
}

fn assert_near(what: &str, got: f64, expected: f64, tolerance: f64) {
    assert!((got - expected).abs() <= tolerance, "{what}: {got:.1} ms, expected {expected:.1}");
}

fn assert_within(what: &str, got: f64, from: f64, to: f64) {
    let range = from - TICKS_MS..=to + TICKS_MS;
    assert!(range.contains(&got), "{what}: {got:.1} ms, expected {from:.1} to {to:.1}");
}

const SPLICE: &str = "    option splice-auto\n    option splice-request\n    option splice-response\n";
/// HAProxy reads its clock once in each turn of its loop, and may not have the CPU for a while after that. An end taken
/// from the last byte that was seen would be off by more than four times as much.
const TOLERANCE_MS: f64 = 100.0;
/// Two clocks that tick in milliseconds.
const TICKS_MS: f64 = 2.0;

fn spliced_downloads_are_complete_but_not_observable(path: CapturePath) {
    let scene = Scene::with_options(path, "level: full, max_body_bytes: 33554432", SPLICE);
    let size = 8 * MIB;
    let mut client = scene.client();
    // Four parts, 150 ms apart: an end taken from the last byte that was seen would be far off.
    assert_same("the client's own body", &client.get(&format!("/drip/{size}/150"), "spliced").body, &bytes(size));
    assert_same("the next on the connection", &client.get("/bytes/1000", "next").body, &bytes(1000));
    let logged = scene.haproxy.logged_as("spliced");
    let captured = scene.stop_after("next");
    for transaction in both(&captured, "spliced") {
        assert_not_observable(transaction, "response", size);
        let duration = transaction.duration_ms().expect("it is complete");
        assert_near(transaction.direction(), duration, logged.active_ms, TOLERANCE_MS);
    }
    assert_bodies(&captured, "next", "response", &bytes(1000));
}

fn spliced_uploads_are_complete_but_not_observable(path: CapturePath) {
    let scene = Scene::with_options(path, "level: full, max_body_bytes: 33554432", SPLICE);
    let size = 8 * MIB;
    let mut client = scene.client();
    let answer = client.ask(&Request::new("POST", "/echo", "spliced").body(bytes(size)));
    assert_eq!(answer.body, format!("{size} {:016x}", checksum(&bytes(size))).into_bytes());
    client.get("/bytes/1000", "next");
    let captured = scene.stop_after("next");
    for transaction in both(&captured, "spliced") {
        assert_not_observable(transaction, "request", size);
        assert_same("answer", &transaction.body("response").unwrap_or_default(), &answer.body);
    }
    assert_bodies(&captured, "next", "response", &bytes(1000));
}

fn sent_files_are_complete_but_not_observable(path: CapturePath) {
    let size = 4 * MIB;
    let nginx = Nginx::start(true, &[("large", &bytes(size))]);
    let mut sidetap = Sidetap::start(&tap(nginx::EXE, "level: full, max_body_bytes: 33554432"), path).of(nginx.pid());
    let mut client = Client::tcp(nginx.port());
    // At the rate that the location allows this takes half a second.
    assert_same("the client's own body", &client.get("/slow-file/large", "sent").body, &bytes(size));
    assert_same("the client's own body", &client.get("/file/large", "fast").body, &bytes(size));
    client.get("/text/next", "next");
    sidetap.wait_for(3);
    let (logged, logged_next) = (nginx.logged_as("sent"), nginx.logged_as("fast"));
    let captured = sidetap.stop();
    assert_not_observable(captured.ingress("sent"), "response", size);
    assert_not_observable(captured.ingress("fast"), "response", size);
    assert_body(captured.ingress("next"), "response", b"hello from nginx to /text/next\n");
    let sent = captured.ingress("sent");
    // nginx reads its clock at the beginning of each turn of its loop: of the one in which a request comes, the one in which
    // the last bytes go, and a later one in which the next request comes.
    let [began, ended, next] = [logged.ended - logged.seconds, logged.ended, logged_next.ended - logged_next.seconds];
    let start = sent.started_ms();
    assert_within("start", start, began * 1000.0, ended * 1000.0);
    assert_within("end", start + sent.duration_ms().expect("it is complete"), ended * 1000.0, next * 1000.0);
}
