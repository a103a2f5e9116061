//! Connections within TLS that cannot be opened, most of them from before the agent: counted and told of, and nothing
//! made of them.

use super::*;
use crate::tls::tests::pair::{Ends, Pair, suite};
use crate::tls::{Side, Uncovered};

pub(super) fn older() -> Bench {
    let mut bench = Bench::new();
    let info = SocketInfo { base: None, opened: None, ..info(Role::Server) };
    bench.event(Event::Open(Box::new(Opened { time: 10, info })));
    bench
}

/// A record with so many bytes that nobody can make anything of.
pub(super) fn record(len: u8) -> Vec<u8> {
    let sealed = (0..len).map(|number| number.wrapping_mul(0x9D) ^ 0xA5);
    [23, 3, 3, 0, len].into_iter().chain(sealed).collect()
}

pub(super) fn uncovered(bench: &Bench) -> Option<Uncovered> {
    bench.events.last().unwrap().connection.tls.as_ref().and_then(|tls| tls.uncovered)
}

#[test]
fn records_of_tls_are_told_of_once() {
    let mut bench = older();
    bench.received(0, &record(90)[..5], 11);
    bench.received(5, &record(90)[5..], 12);
    bench.sent(0, &record(200), 13);
    bench.settle(20);
    assert_eq!(bench.control.orders.lock().unwrap().last().unwrap().verdict, Verdict::Drop);
    bench.received(95, &record(90), 21);
    bench.close(205, 190, 30);
    bench.assert_empty();
    assert_eq!((bench.exchanges.len(), bench.events.len(), bench.stats.uncovered.total()), (0, 1, 1));
    assert_eq!(uncovered(&bench), Some(Uncovered::Older));
}

#[test]
fn a_single_record_proves_nothing() {
    let mut bench = older();
    bench.received(0, &record(90), 11);
    bench.settle(20);
    bench.close(0, 95, 30);
    assert_eq!((uncovered(&bench), bench.stats.uncovered.total()), (None, 0));
}

#[test]
fn where_http_was_found_records_are_what_it_carries() {
    let mut bench = older();
    let records = [record(80), record(90)].concat();
    let head = format!("POST /0 HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", records.len());
    bench.received(0, head.as_bytes(), 11);
    bench.settle(12);
    bench.received(head.len() as u32, &records, 13);
    bench.sent(0, OK, 14);
    bench.settle(20);
    bench.close(OK.len() as u32, (head.len() + records.len()) as u32, 30);
    assert_eq!((bench.exchanges.len(), uncovered(&bench)), (1, None));
    assert_eq!(bench.exchanges[0].request.as_ref().unwrap().body.kept, records);
}

/// It was opened before the agent looked at calls, and after it looked at openings.
#[test]
fn a_handshake_that_was_missed_at_the_start_is_told_of() {
    let mut bench = Bench::new();
    bench.open(10);
    bench.received(700, &[record(40), record(60)].concat(), 11);
    bench.settle(20);
    bench.received(811, &[record(40), record(60)].concat(), 21);
    bench.settle(30);
    bench.close(0, 921, 40);
    assert_eq!((bench.exchanges.len(), uncovered(&bench)), (0, Some(Uncovered::Older)));
}

/// A handshake, and what `talk` says behind it, as the server's process has it, on a socket that has the kernel's TLS.
fn on_socket_of_kernel_tls(talk: fn(&mut Pair)) -> (Bench, [u32; 2]) {
    let mut ends = Ends::new(suite("TLS13_AES_256_GCM_SHA384"));
    ends.server.alpn_protocols = vec![b"http/1.1".to_vec()];
    let mut pair = ends.meet();
    pair.carry();
    talk(&mut pair);
    let ends_at = [Side::Server, Side::Client].map(|side| pair.sent(side) as u32);
    let wire = pair.part();
    let mut bench = Bench::new();
    wire.secrets.iter().for_each(|secret| bench.secrets.put(10, secret.clone()));
    bench.open(10);
    let mut at = [0; 2];
    for (side, bytes) in &wire.chunks {
        let flow = if *side == Side::Client { Flow::Received } else { Flow::Sent };
        let at = &mut at[flow as usize];
        if *at < ends_at[flow as usize] {
            bench.data(flow, *at, bytes, 11);
            *at += bytes.len() as u32;
        }
    }
    (bench, ends_at)
}

fn close_with_kernel_tls(bench: &mut Bench, [sent, received]: [u32; 2]) {
    let final_positions = [BASE[0].wrapping_add(sent), BASE[1].wrapping_add(received)];
    let info = SocketInfo { kernel_tls: true, ..info(Role::Server) };
    bench.event(Event::Close { time: 30, info: Box::new(info), final_positions });
    bench.settle(30);
    bench.assert_empty();
}

#[test]
fn what_the_kernel_seals_is_told_of() {
    const HEAD: u32 = 5;
    const HEAD_AND_TAG: u32 = HEAD + 1 + 16;
    let (mut bench, [sent, received]) = on_socket_of_kernel_tls(|_| {});
    // Heads and tags of records do not come by the process.
    bench.received(received + HEAD, GET, 12);
    bench.sent(sent + HEAD, OK, 13);
    bench.settle(20);
    let ends_at = [sent + OK.len() as u32 + HEAD_AND_TAG, received + GET.len() as u32 + HEAD_AND_TAG];
    close_with_kernel_tls(&mut bench, ends_at);
    assert_eq!((bench.exchanges.len(), uncovered(&bench)), (0, Some(Uncovered::Kernel)));
    let all = bench.stats.uncovered.all();
    assert_eq!(all.iter().map(|(_, library, count)| (*library, *count)).collect::<Vec<_>>(), [("ktls", 1)]);
}

/// A library may have asked for the kernel's TLS in case that it would use it.
#[test]
fn what_is_opened_was_not_the_kernels() {
    let (mut bench, ends_at) = on_socket_of_kernel_tls(|pair| {
        pair.say(Side::Client, GET);
        pair.say(Side::Server, OK);
    });
    close_with_kernel_tls(&mut bench, ends_at);
    assert_eq!((bench.exchanges.len(), uncovered(&bench), bench.stats.uncovered.total()), (1, None, 0));
    let (mut bench, ends_at) = on_socket_of_kernel_tls(|_| {});
    close_with_kernel_tls(&mut bench, ends_at);
    assert_eq!((uncovered(&bench), bench.stats.uncovered.total()), (None, 0));
}
