//! Any bytes, of both sides, with any secrets and gaps: no panic, bounded memory, and the same plaintext however they
//! are cut. An input is told apart into steps: what it is (8), length (16), and so many bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sidetap_fuzz::conn::Why;
use sidetap_fuzz::tls::{Epoch, LogLabel, Piece, Secret, Secrets, Session, Side, State, keylog, looks_like_client};

fuzz_target!(|input: &[u8]| {
    let _ = looks_like_client(input);
    if let Some(Secret::Log { secret, .. }) = std::str::from_utf8(input).ok().and_then(keylog::parse) {
        assert!(secret.len() <= 48);
    }
    let whole = told(input, usize::MAX);
    assert_eq!(told(input, 1), whole);
    assert_eq!(told(input, 7), whole);
});

/// What comes out for each side: plaintext, and how much of it is missing where.
#[derive(Debug, Default, PartialEq)]
struct Told {
    plain: [Vec<u8>; 2],
    gaps: [Vec<usize>; 2],
    ended: [bool; 2],
}

/// What a session tells that gets so many bytes at a time.
fn told(mut input: &[u8], at_a_time: usize) -> (Told, State) {
    let (secrets, mut session, mut told) = (Secrets::new(), Session::new(), Told::default());
    let mut out = |side: Side, piece: Piece| {
        let side = side as usize;
        assert!(!told.ended[side]);
        match piece {
            Piece::Bytes { data, .. } => told.plain[side].extend_from_slice(data),
            Piece::Unseen { len, .. } => {
                assert!(len > 0);
                let at = told.plain[side].len();
                if told.gaps[side].last() != Some(&at) {
                    told.gaps[side].push(at);
                }
            }
            Piece::End { .. } => told.ended[side] = true,
        }
    };
    while let [kind, high, low, rest @ ..] = input {
        let (data, rest) = rest.split_at(rest.len().min(usize::from(u16::from_be_bytes([*high, *low]))));
        input = rest;
        let side = if kind & 1 == 0 { Side::Client } else { Side::Server };
        match kind >> 1 {
            0 => {
                for data in data.chunks(at_a_time) {
                    session.take(side, Piece::Bytes { data, time: 0, call_start: true }, &secrets, &mut out);
                }
            }
            1 => {
                let piece = Piece::Unseen { len: 1 + data.len() as u64, time: 0, why: Why::Lost };
                session.take(side, piece, &secrets, &mut out);
            }
            2 => session.take(side, Piece::End { time: 0 }, &secrets, &mut out),
            3 => session.resume(1 << 40, &secrets, &mut out),
            kind => {
                if let Some(secret) = secret(kind, data) {
                    secrets.put(0, secret);
                }
                session.resume(0, &secrets, &mut out);
            }
        }
        assert!(session.held() < 3 << 20);
    }
    let _ = (session.info(), session.is_waiting());
    secrets.expire(u64::MAX);
    (told, session.state())
}

/// A secret, if there is enough for one.
fn secret(kind: u8, data: &[u8]) -> Option<Secret> {
    const EPOCHS: [Epoch; 3] = [Epoch::Early, Epoch::Handshake, Epoch::Application];
    const LOG_LABELS: [LogLabel; 5] = [
        LogLabel::ClientEarly,
        LogLabel::ClientHandshake,
        LogLabel::ServerHandshake,
        LogLabel::ClientApplication,
        LogLabel::ServerApplication,
    ];
    let (&label, data) = data.split_first()?;
    let (&first, rest) = data.split_first_chunk::<32>()?;
    let (label, secret) = (usize::from(label), rest.to_vec());
    Some(match kind {
        4 => Secret::Master { master: secret, client_random: first },
        5 => Secret::Log { label: LOG_LABELS[label % 5], client_random: first, secret },
        _ => Secret::Expand { epoch: EPOCHS[label % 3], secret: first.to_vec(), context: secret },
    })
}
