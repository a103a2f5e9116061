//! Connections that speak HTTP/2: what the table makes of their events.

use super::*;
use crate::exchange::Protocol;
use crate::exchange::http2::frames::{END_STREAM, data, get, headers, reset, settings, status};
use crate::proto::http2::PREFACE;

fn preface() -> Vec<u8> {
    [PREFACE, &settings()].concat()
}

#[test]
fn streams_need_no_time_to_settle_whatever_comes_first() {
    let mut bench = Bench::new();
    bench.open(10);
    let requests = [preface(), get(1, "/1"), get(3, "/3")].concat();
    let responses = [settings(), status(3, END_STREAM, 204), status(1, 0, 200), data(1, END_STREAM, "hi")].concat();
    bench.sent(9, &responses[9..], 13);
    bench.sent(0, &responses[..9], 11);
    bench.received(0, &requests, 12);
    assert_eq!(bench.exchanges.len(), 2);
    assert!(bench.exchanges.iter().all(|exchange| exchange.missing.is_empty()));
    bench.close(responses.len() as u32, requests.len() as u32, 20);
    bench.assert_empty();
    assert_eq!(bench.events[0].protocol, Some(Protocol::Http2));
    assert_eq!(bench.events[0].transactions, 2);
}

#[test]
fn a_stream_given_up_waits_for_what_other_cpus_have_of_it() {
    let mut bench = Bench::new();
    bench.open(10);
    let requests = [preface(), get(1, "/1"), reset(1, 8)].concat();
    bench.received(0, &requests, 15);
    assert_eq!(bench.exchanges.len(), 0);
    bench.sent(0, &[settings(), status(1, 0, 200)].concat(), 14);
    bench.settle(15);
    assert_eq!(bench.exchanges.len(), 1);
    assert_eq!(bench.exchanges[0].missing, [Missing::ResetByClient(8), Missing::ResponseAborted]);
}

#[test]
fn frames_are_found_on_a_connection_that_was_doubted() {
    let mut bench = Bench::new();
    let older = SocketInfo { base: None, opened: None, ..info(Role::Server) };
    bench.event(Event::Open(Box::new(Opened { time: 10, info: older })));
    // In the midst of a large frame.
    let mut at = 0;
    for time in 0..40 {
        bench.received(at, &[b'x'; 100], 11 + time);
        at += 100;
    }
    bench.settle(60);
    assert_eq!(bench.control.orders.lock().unwrap().last().unwrap().verdict, Verdict::Look);
    // What does not look like a frame is not sent to us.
    at += 5000;
    let request = get(7, "/7");
    bench.received(at, &request, 70);
    let response = [status(7, 0, 200), data(7, END_STREAM, "hi")].concat();
    bench.sent(0, &response, 71);
    bench.settle(80);
    bench.received(at + request.len() as u32, &get(9, "/9"), 81);
    bench.sent(response.len() as u32, &status(9, END_STREAM, 204), 82);
    bench.settle(90);
    let statuses: Vec<u16> =
        bench.exchanges.iter().map(|exchange| exchange.response.as_ref().unwrap().head.status()).collect();
    assert_eq!(statuses, [200, 204]);
    assert!(bench.exchanges.iter().all(|exchange| exchange.missing.is_empty()));
}

#[test]
fn of_a_long_frame_that_nobody_wants_the_rest_is_skipped() {
    let mut bench = Bench::new();
    bench.open(10);
    bench.received(0, &[preface(), get(1, "/")].concat(), 11);
    let head = [settings(), status(1, 0, 200)].concat();
    let body = "x".repeat(1 << 20);
    let frame = data(1, END_STREAM, &body);
    bench.sent(0, &head, 12);
    bench.sent(head.len() as u32, &frame[..100_000], 13);
    let end = (head.len() + frame.len()) as u32;
    let ordered = bench.control.orders.lock().unwrap().last().copied().unwrap();
    assert_eq!(ordered.skip_to, [Some(BASE[0].wrapping_add(end)), None]);
    bench.sent(end, b"", 14);
    assert_eq!(bench.exchanges[0].missing, [Missing::ResponseBodyTruncated(65_536)]);
    assert_eq!(bench.exchanges[0].response.as_ref().unwrap().body.wire_bytes, 1 << 20);
}

#[test]
fn a_long_call_is_told_of_while_it_is_open() {
    const SECOND: u64 = 1_000_000_000;
    let mut bench = Bench::new();
    bench.open(10);
    let call = ":method: POST\n:scheme: http\n:path: /shop.Cart/Watch\n:authority: a\ncontent-type: application/grpc";
    bench.received(0, &[preface(), headers(1, 0, call), get(3, "/slow"), data(1, 0, "\0\0\0\0\x01a")].concat(), 11);
    for time in [5, 12, 13, 23] {
        bench.work(|table, env| table.tick(0, 1, time * SECOND, env));
    }
    assert_eq!(bench.exchanges.len(), 2, "every ten seconds, calls only");
    for exchange in &bench.exchanges {
        assert_eq!(exchange.missing, [Missing::StillOpen]);
        let body = &exchange.request.as_ref().unwrap().body;
        assert_eq!((body.kept.len(), body.grpc.as_ref().unwrap().count()), (0, Some(1)));
    }
    assert_eq!(bench.stats.seen(), 0);
    let end = headers(1, END_STREAM, ":status: 200\ncontent-type: application/grpc\ngrpc-status: 0");
    bench.sent(0, &[settings(), end, reset(1, 0)].concat(), 25 * SECOND);
    bench.settle(26 * SECOND);
    let last = bench.exchanges.last().unwrap();
    assert_eq!((last.id, last.request.as_ref().unwrap().body.kept.len()), (bench.exchanges[0].id, 6));
}

#[test]
fn a_stream_whose_end_was_lost_goes_out_before_the_connection_ends() {
    const SECOND: u64 = 1_000_000_000;
    let mut bench = Bench::new();
    bench.control.sockets.lock().unwrap().insert(1, info(Role::Server));
    bench.open(10);
    bench.received(0, &[preface(), get(1, "/1"), get(3, "/3")].concat(), 11);
    let head = [settings(), status(1, 0, 200), data(1, 0, "hi")].concat();
    bench.sent(0, &head, 12);
    let behind = [status(3, 0, 200), data(3, END_STREAM, "hi")].concat();
    bench.sent(head.len() as u32 + 9, &behind, 13);
    for time in [1, 30, 59] {
        bench.settle(time * SECOND);
        bench.work(|table, env| table.tick(0, 1, time * SECOND, env));
    }
    assert_eq!(bench.exchanges.len(), 1, "it may be on its way");
    bench.settle(70 * SECOND);
    bench.work(|table, env| table.tick(0, 1, 70 * SECOND, env));
    let missing: Vec<_> = bench.exchanges.iter().map(|exchange| &exchange.missing[..]).collect();
    assert_eq!(missing, [[Missing::ResponseLost], [Missing::ResponseLost]]);
}
