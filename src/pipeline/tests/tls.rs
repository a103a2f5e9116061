//! Connections within TLS, one after the other: what is held for them is let go of.

use super::*;
use crate::bpf::types::close_event;
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
