//! Connections within TLS from before the agent, whose library was seen giving and taking plaintext.

use super::uncovered::{older, record, uncovered};
use super::*;
use crate::tls::{Library, Uncovered};

/// What its TLS library has given (received) or taken (sent), from the first byte that was seen.
fn plain(bench: &mut Bench, flow: Flow, position: u32, payload: &[u8], time: u64) {
    let data = Data { position, ..piece(flow, 0, payload, time) };
    bench.event(Event::Plain { data, library: Some(Library::OpenSsl), is_doubtful: false });
}

fn doubt(bench: &mut Bench, time: u64) {
    let data = Data { position: 0, ..piece(Flow::Sent, 0, b"", time) };
    bench.event(Event::Plain { data, library: None, is_doubtful: true });
}

fn verdict(bench: &Bench) -> Verdict {
    bench.control.orders.lock().unwrap().last().expect("one was given").verdict
}

#[test]
fn what_a_library_gives_and_takes_is_read_in_place_of_its_records() {
    let mut bench = older();
    bench.received(0, &record(90)[..5], 11);
    plain(&mut bench, Flow::Sent, 0, b"", 12);
    assert_eq!(verdict(&bench), Verdict::Plain);
    // On its way when that was said.
    bench.received(5, &record(90)[5..], 13);
    for number in 0..2 {
        let time = 20 + 10 * number;
        plain(&mut bench, Flow::Received, number as u32 * GET.len() as u32, GET, time);
        bench.sent(number as u32 * 205, &record(200), time + 1);
        plain(&mut bench, Flow::Sent, number as u32 * OK.len() as u32, OK, time + 2);
    }
    bench.settle(50);
    bench.close(410, 190, 60);
    bench.assert_empty();
    assert_eq!(bench.exchanges.len(), 2);
    let tls = bench.exchanges[1].connection.tls.as_ref().expect("it is within TLS");
    assert_eq!((tls.library, tls.uncovered), (Some("openssl"), None));
    assert_eq!((uncovered(&bench), bench.stats.uncovered.total()), (None, 0));
}

/// Events of other CPUs come in another order.
#[test]
fn plaintext_that_comes_before_word_of_it_counts() {
    let mut bench = Bench::new();
    plain(&mut bench, Flow::Sent, 0, OK, 13);
    plain(&mut bench, Flow::Received, 0, GET, 12);
    plain(&mut bench, Flow::Sent, 0, b"", 11);
    let info = SocketInfo { base: None, opened: None, ..info(Role::Server) };
    bench.event(Event::Open(Box::new(Opened { time: 10, info })));
    bench.settle(20);
    assert_eq!(bench.exchanges.len(), 1);
}

#[test]
fn in_doubt_nothing_more_is_read_and_that_is_told() {
    let mut bench = older();
    plain(&mut bench, Flow::Received, 0, GET, 11);
    doubt(&mut bench, 12);
    plain(&mut bench, Flow::Sent, 0, OK, 13);
    bench.settle(20);
    assert_eq!(verdict(&bench), Verdict::Drop);
    bench.close(205, 190, 30);
    bench.assert_empty();
    assert!(bench.exchanges.iter().all(|exchange| exchange.response.is_none()), "{:?}", bench.exchanges);
    assert_eq!((uncovered(&bench), bench.stats.uncovered.total()), (Some(Uncovered::Older), 1));
}

#[test]
fn what_was_not_seen_of_plaintext_is_a_gap() {
    let mut bench = older();
    plain(&mut bench, Flow::Received, 0, GET, 11);
    let (head, rest) = OK.split_at(OK.len() - 1);
    plain(&mut bench, Flow::Sent, 0, head, 12);
    // Its last byte was lost.
    plain(&mut bench, Flow::Received, GET.len() as u32, GET, 20);
    plain(&mut bench, Flow::Sent, (head.len() + rest.len()) as u32, OK, 21);
    bench.settle(30);
    bench.close(205, 190, 40);
    let marks: Vec<bool> = bench.exchanges.iter().map(|exchange| exchange.missing.is_empty()).collect();
    assert_eq!(marks, [false, true], "{:?}", bench.exchanges);
}
