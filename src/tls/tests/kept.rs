//! Connections that one agent has kept and the next one goes on with.

use super::*;

/// What one who was there from the start keeps after so many chunks, and how far each side has come then.
fn kept_after(wire: &Wire, chunks: usize) -> Option<Kept> {
    let (secrets, mut session, mut stands) = (knowing(&wire.secrets), Session::new(), [0u32; 2]);
    for (side, data) in &wire.chunks[..chunks] {
        session.take(*side, bytes(data), &secrets, &mut |_, _| {});
        stands[*side as usize] += data.len() as u32;
    }
    let kept = Kept { library: Some("openssl"), ..session.keep(|side| Some(stands[side as usize]))? };
    Kept::from_bytes(&kept.to_bytes()[..])
}

/// What one who knows nothing but that reads, from a later chunk on; of each side's first one not the first bytes.
fn go_on(wire: &Wire, kept: &Kept, chunks: usize, cut: usize) -> (Session, Told) {
    let (secrets, mut told) = (Secrets::new(), Told::default());
    let mut session = Session::of_kept(kept, &secrets);
    let (mut stands, mut has_begun) = ([0u32; 2], [false; 2]);
    for (number, (side, data)) in wire.chunks.iter().enumerate() {
        let (at, out) = (*side as usize, &mut |side, piece: Piece| told.add(side, piece));
        if number >= chunks {
            let is_first = !std::mem::replace(&mut has_begun[at], true);
            let cut = if is_first { cut } else { 0 };
            let lost = stands[at] + cut as u32 - kept.position(*side);
            if is_first && lost > 0 {
                let gap = Piece::Unseen { len: lost.into(), time: 1, why: crate::conn::Why::Lost };
                session.take(*side, gap, &secrets, out);
            }
            session.take(*side, bytes(&data[cut..]), &secrets, out);
        }
        stands[at] += data.len() as u32;
    }
    (session, told)
}

/// Much that is said in pieces of any size.
fn long(ends: &Ends) -> Wire {
    let mut pair = ends.meet();
    pair.carry();
    for number in 0..60 {
        pair.say(Side::Client, &noise(60 + number * 3, number as u64));
        pair.say(Side::Server, &noise(40 + 300 * number, 1000 + number as u64));
    }
    pair.part()
}

#[test]
fn the_next_one_goes_on_where_it_comes_in() {
    for suite in all_suites() {
        let wire = long(&Ends::new(suite));
        let mut count = 0;
        for left in (0..wire.chunks.len()).step_by(7) {
            let Some(kept) = kept_after(&wire, left) else { continue };
            for (came, cut) in [(left, 0), (left + 1, 0), (left + 2, 3), (left + 30, 0), (left + 31, 20)] {
                if came + 6 > wire.chunks.len() {
                    continue;
                }
                let (session, told) = go_on(&wire, &kept, came, cut);
                assert_eq!(session.state(), State::Open, "{:?}: {left} to {came}", suite.suite());
                assert!(wire.client.ends_with(&told.client) && wire.server.ends_with(&told.server));
                assert!(!told.client.is_empty() && !told.server.is_empty(), "{left} to {came}");
                // What nobody saw begin is not told of.
                assert!(told.unseen.concat().is_empty());
                let info = session.info();
                assert_eq!((info.sni.as_deref(), info.alpn.as_deref()), (Some("app.example"), Some("h2")));
                assert_eq!(info.version, Some(if suite.tls13().is_some() { "1.3" } else { "1.2" }));
                count += 1;
            }
        }
        assert!(count > 20, "{:?}: {count}", suite.suite());
    }
}

/// Only what was missed before the first record is nobody's loss.
#[test]
fn what_is_lost_later_is_marked() {
    let wire = long(&Ends::new(suite("TLS13_AES_128_GCM_SHA256")));
    let left = (0..wire.chunks.len() / 2).rev().find(|&left| kept_after(&wire, left).is_some());
    let (left, secrets, mut told) = (left.expect("it can be kept"), Secrets::new(), Told::default());
    let mut session = Session::of_kept(&kept_after(&wire, left).expect("as before"), &secrets);
    for (number, (side, data)) in wire.chunks[left..].iter().enumerate() {
        let piece = match number {
            8 | 9 => Piece::Unseen { len: data.len() as u64, time: 1, why: crate::conn::Why::Lost },
            _ => bytes(data),
        };
        session.take(*side, piece, &secrets, &mut |side, piece| told.add(side, piece));
    }
    assert_eq!(session.state(), State::Open);
    assert!(told.unseen.iter().all(|unseen| unseen.len() == 1), "{:?}", told.unseen);
}

#[test]
fn keys_that_are_updated_meanwhile_are_found() {
    let mut pair = Ends::new(suite("TLS13_AES_128_GCM_SHA256")).meet();
    pair.carry();
    talk(&mut pair);
    let before = pair.sent(Side::Server);
    pair.update_keys(Side::Server);
    talk(&mut pair);
    let wire = pair.part();
    let mut sent = 0;
    let is_before = |(side, data): &&(Side, Vec<u8>)| {
        sent += if *side == Side::Server { data.len() } else { 0 };
        sent <= before
    };
    let updated = wire.chunks.iter().take_while(is_before).count();
    let kept = (0..updated).rev().find_map(|chunks| kept_after(&wire, chunks)).expect("it can be kept");
    let (session, told) = go_on(&wire, &kept, updated + 2, 0);
    assert_eq!(session.state(), State::Open);
    assert!(wire.server.ends_with(&told.server) && !told.server.is_empty());
}

#[test]
fn another_connection_is_not_gone_on_with() {
    let wires =
        [long(&Ends::new(suite("TLS13_AES_128_GCM_SHA256"))), long(&Ends::new(suite("TLS13_AES_128_GCM_SHA256")))];
    let half = wires[0].chunks.len() / 2;
    let kept = (0..half).rev().find_map(|chunks| kept_after(&wires[0], chunks)).expect("it can be kept");
    let (session, told) = go_on(&wires[1], &kept, half + 3, 0);
    assert_eq!(session.state(), State::Uncovered(Uncovered::Older));
    assert_eq!(told, Told::default());
}

#[test]
fn nothing_is_made_of_other_bytes() {
    let wire = long(&Ends::new(suite("TLS13_AES_256_GCM_SHA384")));
    let kept = (0..wire.chunks.len()).rev().find_map(|chunks| kept_after(&wire, chunks)).expect("it can be kept");
    let whole = kept.to_bytes();
    assert!(Kept::from_bytes(&whole[..]).is_some_and(|again| again == kept));
    assert_eq!(kept.library, Some("openssl"));
    assert!(Kept::from_bytes(&whole[..100]).is_none() && Kept::from_bytes(&[0; KEPT]).is_none());
    for at in 0..6 {
        let mut changed = *whole;
        changed[at] ^= 0x80;
        // The flag of TLS 1.2's MACs says nothing here.
        assert_eq!(Kept::from_bytes(&changed).is_none(), !matches!(at, 1 | 2), "byte {at}");
    }
}

#[test]
fn the_longest_names_fit() {
    for suite in all_suites() {
        let wire = long(&Ends::new(suite));
        let kept = (0..wire.chunks.len()).rev().find_map(|chunks| kept_after(&wire, chunks)).expect("it can be kept");
        let (sni, alpn) = (Some("s".repeat(255)), Some("a".repeat(32)));
        let kept = Kept { sni, alpn, ..kept };
        assert!(Kept::from_bytes(&kept.to_bytes()[..]).is_some_and(|again| again == kept));
    }
}
