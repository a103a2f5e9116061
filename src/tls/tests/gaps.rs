//! Bytes that were not seen: what is told is right and in its place, and what is missing is marked.

#![expect(clippy::single_range_in_vec_init, reason = "a list of gaps with one in it")]

use super::*;
use crate::conn::Why;

/// What a reader was told, in order; pieces without a gap between them are one.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    Plain(Vec<u8>),
    Unseen(u64),
}

/// Reads a wire of which one side's bytes in these ranges are not seen. What is missing is told with the gaps' own
/// reason, unless the session was lost over them.
fn read_without(wire: &Wire, side: Side, gaps: &[std::ops::Range<usize>]) -> (Session, Vec<Part>) {
    let (secrets, mut session) = (knowing(&wire.secrets), Session::new());
    let (mut parts, mut reasons) = (Vec::new(), Vec::new());
    let mut out = |from: Side, piece: Piece| {
        if from != side {
            return;
        }
        match (piece, parts.last_mut()) {
            (Piece::Bytes { data, .. }, Some(Part::Plain(before))) => before.extend_from_slice(data),
            (Piece::Bytes { data, .. }, _) => parts.push(Part::Plain(data.to_vec())),
            (Piece::Unseen { len, why, .. }, _) => {
                reasons.push(why);
                parts.push(Part::Unseen(len));
            }
            (Piece::End { .. }, _) => {}
        }
    };
    let mut position = 0;
    for (from, data) in &wire.chunks {
        if *from != side {
            session.take(*from, bytes(data), &secrets, &mut out);
            continue;
        }
        let end = position + data.len();
        while position < end {
            let within = |at: usize| gaps.iter().find(|gap| gap.contains(&at));
            let next = match within(position) {
                Some(gap) => gap.end.min(end),
                None => {
                    gaps.iter().map(|gap| gap.start).filter(|&start| start > position).min().unwrap_or(end).min(end)
                }
            };
            let piece = match within(position) {
                Some(_) => Piece::Unseen { len: (next - position) as u64, time: 1, why: Why::Skipped },
                None => bytes(&data[data.len() - (end - position)..data.len() - (end - next)]),
            };
            session.take(*from, piece, &secrets, &mut out);
            position = next;
        }
    }
    for side in [Side::Client, Side::Server] {
        session.take(side, Piece::End { time: 2 }, &secrets, &mut out);
    }
    let is_lost = session.state() == State::Lost;
    let fits = |why: &Why| *why == Why::Skipped || is_lost && *why == Why::Lost;
    assert!(reasons.iter().all(fits), "{reasons:?}, {:?}", session.state());
    (session, parts)
}

/// Asserts that parts are in the text in their order, with a gap wherever something of it is missing. Whether gaps have
/// the right length.
fn fit(text: &[u8], parts: &[Part]) -> bool {
    let (mut at, mut is_exact, mut unseen) = (0, true, None);
    for part in parts {
        match part {
            Part::Unseen(len) => unseen = Some(unseen.unwrap_or(0) + len),
            Part::Plain(plain) => {
                let probe = &plain[..plain.len().min(32)];
                let skipped = text[at..].windows(probe.len()).position(|window| window == probe);
                let skipped = skipped.expect("only what was said is told, in its order");
                assert!(text[at + skipped..].starts_with(plain));
                assert!(skipped == 0 || unseen.is_some(), "what is missing is marked");
                is_exact &= skipped as u64 == unseen.take().unwrap_or(0);
                at += skipped + plain.len();
            }
        }
    }
    assert!(at == text.len() || unseen.is_some(), "what is missing at the end is marked");
    is_exact
}

/// Where a side's records are in what it sent.
fn records(wire: &Wire, side: Side) -> Vec<std::ops::Range<usize>> {
    let sent = wire.sent(side);
    let (mut records, mut at) = (Vec::new(), 0);
    while at < sent.len() {
        let end = at + 5 + usize::from(u16::from_be_bytes([sent[at + 3], sent[at + 4]]));
        records.push(at..end);
        at = end;
    }
    records
}

/// A server that says much, in records of many sizes.
fn chatty(ends: &Ends) -> Wire {
    let mut pair = ends.meet();
    pair.carry();
    for number in 0..40 {
        pair.say(Side::Client, &noise(40 + number * 3, number as u64));
        pair.say(Side::Server, &noise(40 + 700 * number, 1000 + number as u64));
    }
    pair.part()
}

#[test]
fn a_lost_record_of_data_is_marked_with_its_length() {
    for suite in all_suites() {
        let wire = chatty(&Ends::new(suite));
        let records = records(&wire, Side::Server);
        let at = records.len() - 10;
        for gap in [
            records[at].clone(),
            records[at].start + 7..records[at].start + 9,
            records[at].end - 1..records[at].end,
            records[at].start + 2..records[at + 3].start + 4,
        ] {
            let (session, parts) = read_without(&wire, Side::Server, std::slice::from_ref(&gap));
            assert_eq!(session.state(), State::Open);
            assert_eq!(parts.len(), 3, "one gap in {gap:?}");
            assert!(fit(&wire.server, &parts), "exact in {gap:?}");
        }
    }
}

#[test]
fn a_lost_handshake_message_costs_nothing_if_the_keys_are_logged() {
    for suite in all_suites() {
        let wire = chatty(&Ends::new(suite));
        for side in [Side::Client, Side::Server] {
            let records = records(&wire, side);
            // Behind the hello, and before the data.
            for record in &records[1..3] {
                let (session, parts) = read_without(&wire, side, std::slice::from_ref(record));
                let state = session.state();
                assert_eq!(state, State::Open, "{:?} {side:?} without {record:?}", suite.suite());
                fit(wire.plain(side), &parts);
            }
        }
    }
}

#[test]
fn with_the_servers_messages_lost_the_transcript_is_found_by_the_master_secret() {
    let mut wire = chatty(&Ends::new(suite("TLS13_AES_128_GCM_SHA256")));
    let hash = Hash::Sha256;
    let hellos = [hello(&wire, Side::Client, 0), hello(&wire, Side::Server, 0)];
    let handshake = expanded(Epoch::Handshake, hash, &[&hellos[0], &hellos[1]]);
    // What a whole connection would have come to: the hash that its own schedule has.
    let finished = {
        let store = knowing(std::slice::from_ref(&handshake));
        let mut session = Session::new();
        for (side, data) in &wire.chunks[..2] {
            session.take(*side, bytes(data), &store, &mut |_, _| {});
        }
        session.keys.as_ref().and_then(|keys| keys.finished()).expect("the server has finished")
    };
    let master = super::schedule::Expander::new(hash, &handshake_secret(hash)).master().to_vec();
    let record = records(&wire, Side::Server)[2].clone();
    wire.secrets = vec![handshake];
    let (session, parts) = read_without(&wire, Side::Server, std::slice::from_ref(&record));
    assert_eq!((session.state(), parts.len()), (State::Handshake, 0));
    wire.secrets.push(Secret::Expand { epoch: Epoch::Application, secret: master, context: finished });
    let (session, parts) = read_without(&wire, Side::Server, &[record]);
    assert_eq!(session.state(), State::Open);
    fit(&wire.server, &parts);
    assert!(parts.iter().any(|part| matches!(part, Part::Plain(_))));
}

#[test]
fn a_lost_hello_is_a_lost_connection() {
    let wire = chatty(&Ends::new(suite("TLS13_AES_128_GCM_SHA256")));
    for side in [Side::Client, Side::Server] {
        let (session, parts) = read_without(&wire, side, &[20..30]);
        assert_eq!((session.state(), parts.len()), (State::Lost, 0));
    }
}

#[test]
fn a_lost_key_update_is_found_out() {
    let mut pair = Ends::new(suite("TLS13_AES_128_GCM_SHA256")).meet();
    pair.carry();
    talk(&mut pair);
    let before = pair.sent(Side::Server);
    pair.update_keys(Side::Server);
    talk(&mut pair);
    let wire = pair.part();
    let (session, parts) = read_without(&wire, Side::Server, &[before..before + 30]);
    assert_eq!(session.state(), State::Open);
    fit(&wire.server, &parts);
    assert!(parts.len() > 2);
}

#[test]
fn a_direction_that_cannot_be_found_again_is_lost_and_the_other_goes_on() {
    let mut wire = chatty(&Ends::new(suite("TLS13_AES_128_GCM_SHA256")));
    let records = records(&wire, Side::Server);
    let (gap, mut position) = (records[10].clone(), 0);
    for (_, data) in wire.chunks.iter_mut().filter(|(side, _)| *side == Side::Server) {
        for byte in data {
            if position > gap.end {
                *byte = 0;
            }
            position += 1;
        }
    }
    let (session, parts) = read_without(&wire, Side::Client, &[]);
    assert!(fit(&wire.client, &parts));
    assert_eq!(session.state(), State::Lost);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_gaps_leave_only_marked_holes(
        number in 0..all_suites().len(),
        is_client: bool,
        starts in proptest::collection::vec((any::<prop::sample::Index>(), 1..40_000usize), 1..6),
    ) {
        let wire = chatty(&Ends::new(all_suites()[number]));
        let side = if is_client { Side::Client } else { Side::Server };
        let len = wire.sent(side).len();
        let gaps: Vec<_> = starts.iter().map(|(at, size)| { let at = at.index(len); at..(at + size).min(len) }).collect();
        let (session, parts) = read_without(&wire, side, &gaps);
        if session.state() == State::Open {
            fit(wire.plain(side), &parts);
        }
    }
}
