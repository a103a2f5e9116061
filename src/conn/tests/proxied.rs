//! Connections on which a load balancer says in front whose they are (the PROXY protocol): what follows is read as if
//! nothing were there.

use super::*;
use crate::tls::Side;
use crate::tls::tests::pair::{Ends, suite};

const LINE: &[u8] = b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n";

/// Version 2, with something behind the addresses.
fn binary() -> Vec<u8> {
    let start = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x30\xC0\0\x02\x01\xC0\0\x02\x02\xDC\x04\x01\xBB";
    [&start[..], &[b'G'; 36]].concat()
}

/// The header with what follows in one call, in a call of its own, and byte for byte.
fn cuts(header: &[u8], rest: &[u8]) -> [Vec<Vec<u8>>; 3] {
    let whole = [header, rest].concat();
    let bytes = whole.iter().map(|&byte| vec![byte]).collect();
    [vec![whole], vec![header.to_vec(), rest.to_vec()], bytes]
}

/// The client's calls, then the server's; where both streams stand.
fn talk(bench: &mut Bench, calls: &[Vec<u8>], answer: &[u8]) -> [u32; 2] {
    let mut at = 0;
    for call in calls {
        bench.received(at, call, 11);
        at += call.len() as u32;
    }
    bench.sent(0, answer, 12);
    [answer.len() as u32, at]
}

#[test]
fn a_request_behind_it_is_whole() {
    for header in [LINE.to_vec(), binary()] {
        for calls in cuts(&header, GET) {
            let mut bench = Bench::new();
            bench.open(10);
            let [sent, received] = talk(&mut bench, &calls, OK);
            assert_eq!(bench.exchanges.len(), 1, "{} calls", calls.len());
            assert_eq!((&*bench.exchanges[0].missing, bench.stats.lost_bytes.get()), (&[][..], 0));
            // The next one, for which nothing has to be decided any more.
            bench.received(received, GET, 13);
            bench.sent(sent, OK, 14);
            bench.close(2 * sent, received + GET.len() as u32, 20);
            assert_eq!(bench.exchanges.len(), 2);
            assert_eq!(bench.events[0].bytes_received, u64::from(received) + GET.len() as u64);
            bench.assert_empty();
        }
    }
}

/// As each connection to a server has it that a HAProxy with `send-proxy` opens.
#[test]
fn so_is_one_that_is_sent() {
    let mut bench = Bench::new();
    bench.event(Event::Open(Box::new(Opened { time: 10, info: info(Role::Client) })));
    bench.sent(0, &binary(), 11);
    bench.sent(binary().len() as u32, GET, 12);
    bench.received(0, OK, 13);
    assert_eq!((bench.exchanges.len(), &*bench.exchanges[0].missing), (1, &[][..]));
}

#[test]
fn so_is_one_in_http2() {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    // :method GET, :scheme http, :path /, :authority a
    let request = b"\0\0\x06\x01\x05\0\0\0\x01\x82\x86\x84\x41\x01a";
    let answer = b"\0\0\0\x04\0\0\0\0\0\0\0\x01\x01\x05\0\0\0\x01\x88";
    for header in [LINE.to_vec(), binary()] {
        for calls in cuts(&header, &[&preface[..], request].concat()) {
            let mut bench = Bench::new();
            bench.open(10);
            talk(&mut bench, &calls, answer);
            bench.settle(20);
            assert_eq!((bench.exchanges.len(), &*bench.exchanges[0].missing), (1, &[][..]));
            assert_eq!(bench.exchanges[0].protocol, crate::exchange::Protocol::Http2);
        }
    }
}

#[test]
fn so_is_one_within_tls() {
    let mut ends = Ends::new(suite("TLS13_AES_128_GCM_SHA256"));
    ends.server.alpn_protocols = vec![b"http/1.1".to_vec()];
    let mut pair = ends.meet();
    pair.carry();
    pair.say(Side::Client, GET);
    pair.say(Side::Server, OK);
    let wire = pair.part();
    for header in [LINE.to_vec(), binary()] {
        for calls in cuts(&header, &wire.chunks[0].1) {
            let mut bench = Bench::new();
            wire.secrets.iter().for_each(|secret| bench.secrets.put(10, secret.clone()));
            bench.open(10);
            let [_, mut received] = talk(&mut bench, &calls, b"");
            let mut sent = 0;
            for (side, bytes) in &wire.chunks[1..] {
                let (flow, at) = match side {
                    Side::Client => (Flow::Received, &mut received),
                    Side::Server => (Flow::Sent, &mut sent),
                };
                bench.data(flow, *at, bytes, 13);
                *at += bytes.len() as u32;
            }
            bench.settle(20);
            assert_eq!((bench.exchanges.len(), &*bench.exchanges[0].missing), (1, &[][..]));
            let tls = bench.exchanges[0].connection.tls.as_ref().expect("it was within TLS");
            assert_eq!(tls.info.sni.as_deref(), Some("app.example"));
        }
    }
}

/// A load balancer that asks whether the server is there may say nothing else.
#[test]
fn one_that_nothing_follows_is_nothing() {
    for header in [LINE.to_vec(), binary(), binary()[..20].to_vec(), LINE[..20].to_vec()] {
        let mut bench = Bench::new();
        bench.open(10);
        bench.received(0, &header, 11);
        bench.settle(12);
        bench.close(0, header.len() as u32, 20);
        assert_eq!((bench.exchanges.len(), bench.events.len()), (0, 1));
        bench.assert_empty();
    }
}

/// What only may be one is no reason to wait once the server has answered.
#[test]
fn a_beginning_of_one_holds_nothing_back_that_was_answered() {
    let mut bench = Bench::new();
    bench.open(10);
    bench.received(0, b"\r\n", 11);
    bench.received(2, GET, 12);
    bench.sent(0, OK, 13);
    assert_eq!(bench.exchanges.len(), 1);
}
