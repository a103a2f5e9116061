//! Connections on which a load balancer says in front whose they are (the PROXY protocol): what follows is read as if
//! nothing were there.

use std::sync::LazyLock;

use super::*;
use crate::exchange::Protocol;
use crate::exchange::http2::frames::{END_STREAM, data, get, post, settings, status};
use crate::proto::http2::PREFACE;
use crate::tls::Side;
use crate::tls::tests::pair::{Ends, Wire, suite};

pub(super) const LINE: &[u8] = b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n";

/// Version 2, with something behind the addresses.
pub(super) fn binary() -> Vec<u8> {
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
            assert_eq!(bench.exchanges[0].protocol, Protocol::Http2);
        }
    }
}

/// A request and its response within TLS, from the hello to the end.
static WITHIN_TLS: LazyLock<Wire> = LazyLock::new(|| {
    let mut ends = Ends::new(suite("TLS13_AES_128_GCM_SHA256"));
    ends.server.alpn_protocols = vec![b"http/1.1".to_vec()];
    let mut pair = ends.meet();
    pair.carry();
    pair.say(Side::Client, GET);
    pair.say(Side::Server, OK);
    pair.part()
});

fn flow_of(side: Side) -> Flow {
    if side == Side::Client { Flow::Received } else { Flow::Sent }
}

/// What both sides say behind that, from where they stand.
fn go_on(bench: &mut Bench, chunks: &[(Side, Vec<u8>)], mut at: [u32; 2], time: u64) {
    for (side, bytes) in chunks {
        let flow = flow_of(*side);
        bench.data(flow, at[flow as usize], bytes, time);
        at[flow as usize] += bytes.len() as u32;
    }
}

#[test]
fn so_is_one_within_tls() {
    let wire = &*WITHIN_TLS;
    for header in [LINE.to_vec(), binary()] {
        for calls in cuts(&header, &wire.chunks[0].1) {
            let mut bench = Bench::new();
            wire.secrets.iter().for_each(|secret| bench.secrets.put(10, secret.clone()));
            bench.open(10);
            let [sent, received] = talk(&mut bench, &calls, b"");
            go_on(&mut bench, &wire.chunks[1..], [sent, received], 13);
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
        assert_eq!(bench.events[0].bytes_received, header.len() as u64);
        bench.assert_empty();
    }
}

#[test]
fn a_loss_within_it_costs_nothing_once_its_length_is_known() {
    let header = binary();
    for calls in [[0..16, 40..header.len()], [0..20, 20..20]] {
        let mut bench = Bench::new();
        bench.open(10);
        for call in calls {
            bench.received(call.start as u32, &header[call], 11);
        }
        bench.received(header.len() as u32, GET, 12);
        bench.sent(0, OK, 13);
        assert_eq!(bench.exchanges.len(), 1);
        assert_eq!((&*bench.exchanges[0].missing, bench.stats.lost_bytes.get()), (&[][..], 0));
    }
}

/// Its length is not known: what follows is found as behind any loss.
#[test]
fn a_loss_of_its_beginning_costs_no_request() {
    for (header, seen) in [(LINE.to_vec(), 0..0), (LINE.to_vec(), 0..9), (binary(), 0..0)] {
        let mut bench = Bench::new();
        bench.open(10);
        bench.received(0, &header[seen.clone()], 11);
        let at = header.len() as u32;
        bench.received(at, GET, 12);
        bench.settle(12);
        bench.sent(0, OK, 13);
        bench.settle(13);
        bench.received(at + GET.len() as u32, GET, 14);
        bench.sent(OK.len() as u32, OK, 15);
        bench.settle(15);
        let known = bench.exchanges.iter().filter(|exchange| exchange.request.is_some()).count();
        assert_eq!(known, 2, "{seen:?} of {header:02x?}: {:?}", bench.exchanges);
    }
}

/// Opened before anybody looked, but what the client said first was seen.
#[test]
fn the_first_that_is_seen_of_an_older_connection_may_be_one() {
    let wire = &*WITHIN_TLS;
    for header in [LINE.to_vec(), binary()] {
        for calls in cuts(&header, &wire.chunks[0].1) {
            let mut bench = Bench::new();
            wire.secrets.iter().for_each(|secret| bench.secrets.put(10, secret.clone()));
            let older = SocketInfo { base: None, opened: None, ..info(Role::Server) };
            bench.event(Event::Open(Box::new(Opened { time: 10, info: older })));
            let mut at = 0;
            for (call, time) in calls.iter().zip(11..) {
                bench.received(at, call, time);
                at += call.len() as u32;
                bench.settle(time);
            }
            go_on(&mut bench, &wire.chunks[1..], [0, at], 1000);
            bench.settle(1000);
            assert_eq!(bench.exchanges.len(), 1, "{} calls", calls.len());
            assert!(bench.exchanges[0].connection.tls.is_some());
        }
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

fn header() -> impl Strategy<Value = Vec<u8>> {
    let long = (any::<bool>(), vec(any::<u8>(), 0..400)).prop_map(|(is_local, rest)| {
        let start = b"\r\n\r\n\0\r\nQUIT\n";
        let command = if is_local { 0x20 } else { 0x21 };
        [&start[..], &[command, 0x11], &(rest.len() as u16).to_be_bytes(), &rest].concat()
    });
    prop_oneof![Just(LINE.to_vec()), Just(b"PROXY UNKNOWN\r\n".to_vec()), Just(binary()), long]
}

/// What both sides say in turn, the client first and behind that header, all of it cut anywhere.
fn script<'a>(header: &[u8], said: impl IntoIterator<Item = (Flow, &'a [u8])>, dice: &mut Dice) -> Script {
    let mut script = Script { time: 1_000_000, ..Script::default() };
    for (number, (flow, bytes)) in said.into_iter().enumerate() {
        let all = if number == 0 { [header, bytes].concat() } else { bytes.to_vec() };
        let mut rest = &all[..];
        while !rest.is_empty() {
            let most = [2, 16, 60, 400, 40_000][dice.roll(5)];
            let (call, behind) = rest.split_at((1 + dice.roll(most)).min(rest.len()));
            script.call(flow, call);
            rest = behind;
        }
    }
    script
}

fn assert_over(bench: &Bench, script: &Script) {
    bench.assert_empty();
    let moved: Vec<_> = bench.events.iter().map(|event| [event.bytes_sent, event.bytes_received]).collect();
    assert_eq!(moved, [script.sent.map(|bytes| bytes as u64)]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn any_cut_of_it_and_of_what_follows_gives_the_same_exchanges(
        header in header(), kinds in kinds(6), mut groups in dice(), mut cuts in dice(), arrival in arrival(),
    ) {
        let all = |ids: std::ops::Range<usize>, message: fn(Kind, usize) -> Vec<u8>| {
            ids.flat_map(|id| message(kinds[id], id)).collect::<Vec<u8>>()
        };
        let said: Vec<(Flow, Vec<u8>)> = Script::groups(&kinds, &mut groups, 4)
            .into_iter()
            .flat_map(|ids| [(Flow::Received, all(ids.clone(), Kind::request)), (Flow::Sent, all(ids, Kind::response))])
            .collect();
        let script = script(&header, said.iter().map(|(flow, bytes)| (*flow, &bytes[..])), &mut cuts);
        let mut bench = Bench::new();
        play(&mut bench, &script, &arrival, &|_| Fate::Arrives);
        assert_same(&bench.exchanges, &kinds);
        assert_over(&bench, &script);
    }

    #[test]
    fn any_cut_of_it_and_of_http2_gives_the_same_exchanges(
        header in header(), mut cuts in dice(), arrival in arrival(),
    ) {
        let requests = [PREFACE, &settings(), &get(1, "/1"), &post(3, "/3"), &data(3, END_STREAM, "what")].concat();
        let responses = [settings(), status(3, END_STREAM, 204), status(1, 0, 200), data(1, END_STREAM, "hi")].concat();
        let script = script(&header, [(Flow::Received, &requests[..]), (Flow::Sent, &responses)], &mut cuts);
        let mut bench = Bench::new();
        play(&mut bench, &script, &arrival, &|_| Fate::Arrives);
        let mut found: Vec<_> = bench.exchanges.iter().map(|exchange| {
            let (request, response) = (exchange.request.as_ref().unwrap(), exchange.response.as_ref().unwrap());
            let bodies = [&request.body.kept, &response.body.kept].map(|body| String::from_utf8_lossy(body).into_owned());
            (path_id(request), response.head.status(), bodies, exchange.missing.clone(), exchange.protocol)
        }).collect();
        found.sort_by_key(|found| found.0);
        let of = |id, status, bodies: [&str; 2]| (id, status, bodies.map(str::to_owned), vec![], Protocol::Http2);
        prop_assert_eq!(found, [of(1, 200, ["", "hi"]), of(3, 204, ["what", ""])]);
        assert_over(&bench, &script);
    }

    #[test]
    fn any_cut_of_it_and_of_tls_gives_the_same_exchange(
        header in header(), mut cuts in dice(), arrival in arrival(),
    ) {
        let said = WITHIN_TLS.chunks.iter().map(|(side, bytes)| (flow_of(*side), &bytes[..]));
        let script = script(&header, said, &mut cuts);
        let mut bench = Bench::new();
        WITHIN_TLS.secrets.iter().for_each(|secret| bench.secrets.put(10, secret.clone()));
        play(&mut bench, &script, &arrival, &|_| Fate::Arrives);
        prop_assert_eq!(bench.exchanges.len(), 1);
        let exchange = &bench.exchanges[0];
        prop_assert_eq!((&exchange.missing[..], exchange.connection.tls.is_some()), (&[][..], true));
        prop_assert_eq!(&exchange.response.as_ref().unwrap().body.kept, b"hi");
        assert_over(&bench, &script);
    }
}
