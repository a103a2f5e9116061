//! Connections within TLS, one after the other: what is held for them is let go of.

use proptest::prelude::*;

use super::*;
use crate::bpf::types::close_event;
use crate::exchange::Message;
use crate::tls::tests::pair::{Ends, Wire, suite};
use crate::tls::{Library, Side};

const MS: u64 = 1_000_000;
const MINUTE: u64 = 60_000 * MS;
const MANY: u64 = 300;

fn close(id: u64, ends_at: [usize; 2], time: u64) -> Vec<u8> {
    let mut bytes = event::<close_event>(event_kind::EVENT_CLOSE, time);
    let at = offset_of!(close_event, connection);
    let ends_at = ends_at.map(|end| (end as u32).to_ne_bytes()).concat();
    put(&mut bytes, at + offset_of!(connection, id), &id.to_ne_bytes());
    put(&mut bytes, at + offset_of!(connection, r#final), &ends_at);
    bytes
}

/// A request and its answer.
fn wire(suite_name: &str) -> Wire {
    let mut ends = Ends::new(suite(suite_name));
    ends.server.alpn_protocols = vec![b"http/1.1".to_vec()];
    let mut pair = ends.meet();
    pair.carry();
    pair.say(Side::Client, b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n");
    pair.say(Side::Server, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi");
    pair.part()
}

/// As the server's process has it. Returns where its streams stand in the end.
fn talk(pass: &mut Pass, wire: &Wire, (id, time): (u64, u64)) -> [usize; 2] {
    let mut ends_at = [1, 1];
    pass.event(&open(id, time));
    for (side, bytes) in &wire.chunks {
        let flow = usize::from(*side == Side::Client);
        pass.event(&data(id, flow as u8, ends_at[flow], bytes, time));
        ends_at[flow] += bytes.len();
    }
    ends_at
}

#[test]
fn closed_connections_leave_nothing_behind() {
    let wires = ["TLS13_AES_128_GCM_SHA256", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"].map(wire);
    let exchanges = run(64 << 20, |pipeline| {
        for number in 1..=MANY {
            let (id, time) = (number << 10, number * MS);
            let wire = &wires[number as usize % wires.len()];
            pipeline.pass(0, time, |pass| {
                let ends_at = talk(pass, wire, (id, time));
                // The secrets of some connections never come.
                if !number.is_multiple_of(3) {
                    wire.secrets.iter().for_each(|secret| pipeline.secrets.put(time, secret.clone()));
                }
                // The events of some ends are lost.
                if !number.is_multiple_of(5) {
                    pass.event(&close(id, ends_at, time));
                }
                pass.settle(0, 1, time);
            });
        }
        assert!(!pipeline.secrets.is_empty());
        let end = MANY * MS + 2 * MINUTE;
        pipeline.pass(0, end, |pass| {
            pass.settle(0, 1, end);
            pipeline.table.tick(0, 1, end, &mut pass.env);
        });
        assert!(pipeline.table.is_empty() && pipeline.secrets.is_empty());
    });
    // All connections of a version have the same randoms, so that secrets may serve several.
    assert!(exchanges.len() as u64 >= MANY - MANY / 3, "{}", exchanges.len());
}

#[test]
fn the_library_is_that_of_the_process() {
    let wire = wire("TLS13_AES_128_GCM_SHA256");
    for (process, library) in [(u32::MAX, Some("gnutls")), (7, None)] {
        let exchanges = run(1 << 20, |pipeline| {
            pipeline.pass(0, 0, |pass| {
                wire.secrets.iter().for_each(|secret| pipeline.secrets.put(1, secret.clone()));
                pipeline.secrets.libraries.saw(process, Library::GnuTls, 1);
                talk(pass, &wire, (1 << 10, 1));
            });
        });
        assert_eq!(exchanges[0].connection.tls.as_ref().expect("it is within TLS").library, library);
    }
}

/// So many requests and their answers, one after the other.
fn long_wire(suite_name: &str, requests: usize) -> Wire {
    let mut ends = Ends::new(suite(suite_name));
    ends.server.alpn_protocols = vec![b"http/1.1".to_vec()];
    let mut pair = ends.meet();
    pair.carry();
    for number in 0..requests {
        let body = "x".repeat(number * 700);
        let request = format!("POST /{number} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        pair.say(Side::Client, request.as_bytes());
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}!", body.len() + 1);
        pair.say(Side::Server, answer.as_bytes());
    }
    pair.part()
}

/// What comes of the wire, cut by `cuts` and with neighbours of different directions in the wrong order where `swaps` says
/// so, as through two CPUs. While the library is not known, all that comes is kept before it is opened.
fn told(
    wire: &Wire,
    cuts: &[usize],
    swaps: &[bool],
    is_library_known: bool,
) -> Vec<(Option<Message>, Option<Message>)> {
    let (mut cuts, mut swaps) = (cuts.iter().cycle(), swaps.iter().cycle());
    let (mut events, mut ends_at, mut time) = (Vec::new(), [1, 1], MS);
    for (side, bytes) in &wire.chunks {
        let flow = usize::from(*side == Side::Client);
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
            events.push((flow, data(1 << 10, flow as u8, ends_at[flow], piece, time)));
            (rest, time, ends_at[flow]) = (behind, time + MS, ends_at[flow] + piece.len());
        }
    }
    for at in 1..events.len() {
        if *swaps.next().unwrap() && events[at - 1].0 != events[at].0 {
            events.swap(at - 1, at);
        }
    }
    let exchanges = run(64 << 20, |pipeline| {
        wire.secrets.iter().for_each(|secret| pipeline.secrets.put(1, secret.clone()));
        if is_library_known {
            pipeline.secrets.libraries.saw(u32::MAX, Library::OpenSsl, 1);
        }
        pipeline.pass(0, 0, |pass| {
            pass.event(&open(1 << 10, 1));
            events.iter().for_each(|(_, event)| pass.event(event));
            pass.settle(0, 1, time);
        });
    });
    exchanges.into_iter().map(|exchange| (exchange.request, exchange.response)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]
    #[test]
    fn what_is_opened_as_it_comes_is_what_is_kept_first(
        is_older in any::<bool>(),
        cuts in proptest::collection::vec(prop_oneof![1usize..40, 200usize..3000, Just(usize::MAX)], 1..20),
        swaps in proptest::collection::vec(any::<bool>(), 1..20),
    ) {
        let suite_name =
            if is_older { "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256" } else { "TLS13_AES_128_GCM_SHA256" };
        let wire = long_wire(suite_name, 12);
        let kept = told(&wire, &cuts, &swaps, false);
        prop_assert_eq!(kept.len(), 12);
        prop_assert!(kept.iter().all(|(request, response)| request.is_some() && response.is_some()));
        prop_assert_eq!(told(&wire, &cuts, &swaps, true), kept);
    }
}
