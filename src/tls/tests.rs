//! Whole connections: between two ends of rustls, and as OpenSSL was recorded.

mod gaps;
mod kept;
pub(crate) mod pair;
mod recorded;

use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use ring::digest::digest;

use self::pair::{Ends, Pair, Wire, all_suites, handshake_secret, noise, suite};
use super::suite::Hash;
use super::*;

/// What a reader was told.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    client: Vec<u8>,
    server: Vec<u8>,
    /// Bytes not seen, in all.
    unseen: [Vec<u64>; 2],
    ended: [bool; 2],
}

impl Told {
    fn add(&mut self, side: Side, piece: Piece) {
        let number = side as usize;
        assert!(!self.ended[number], "nothing follows the end");
        match piece {
            Piece::Bytes { data, .. } => {
                assert!(!data.is_empty());
                match side {
                    Side::Client => self.client.extend_from_slice(data),
                    Side::Server => self.server.extend_from_slice(data),
                }
            }
            Piece::Unseen { len, .. } => self.unseen[number].push(len),
            Piece::End { .. } => self.ended[number] = true,
        }
    }
}

/// A store with these secrets.
fn knowing(secrets: &[Secret]) -> Secrets {
    let store = Secrets::new();
    for secret in secrets {
        store.put(0, secret.clone());
    }
    store
}

fn bytes(data: &[u8]) -> Piece<'_> {
    Piece::Bytes { data, time: 1, call_start: true }
}

/// What is read off a wire by one who knows its secrets beforehand.
fn read(wire: &Wire) -> (Session, Told) {
    let (secrets, mut session, mut told) = (knowing(&wire.secrets), Session::new(), Told::default());
    for (side, data) in &wire.chunks {
        session.take(*side, bytes(data), &secrets, &mut |side, piece| told.add(side, piece));
    }
    (session, told)
}

/// Asserts that all that was said was read, and both ends.
fn assert_all_read(wire: &Wire) -> Session {
    let (session, told) = read(wire);
    assert_eq!(session.state(), State::Open);
    assert_told_all(wire, &told);
    session
}

fn assert_told_all(wire: &Wire, told: &Told) {
    assert!(told.client == wire.client, "client: {} of {}", told.client.len(), wire.client.len());
    assert!(told.server == wire.server, "server: {} of {}", told.server.len(), wire.server.len());
    assert_eq!((told.unseen.concat(), told.ended), (vec![], [true, true]));
}

/// A few requests and answers of any size.
fn talk(pair: &mut Pair) {
    for (number, len) in [1, 300, 16_384, 16_385, 100_000].into_iter().enumerate() {
        pair.say(Side::Client, &noise(len / 3 + 1, number as u64));
        pair.say(Side::Server, &noise(len, 99 + number as u64));
    }
}

fn talked(ends: &Ends) -> Wire {
    let mut pair = ends.meet();
    pair.carry();
    talk(&mut pair);
    pair.part()
}

#[test]
fn every_suite_of_both_versions_is_opened() {
    for suite in all_suites() {
        let session = assert_all_read(&talked(&Ends::new(suite)));
        let info = session.info();
        let name = format!("{:?}", suite.suite()).replace("TLS13_", "TLS_");
        assert_eq!(info.cipher.as_deref(), Some(name.as_str()));
        assert_eq!(info.version, Some(if suite.tls13().is_some() { "1.3" } else { "1.2" }));
        assert_eq!((info.sni.as_deref(), info.alpn.as_deref()), (Some("app.example"), Some("h2")));
    }
}

#[test]
fn a_resumed_connection_is_opened() {
    for suite in all_suites() {
        let ends = Ends::new(suite);
        let first = talked(&ends);
        let again = talked(&ends);
        let handshake = |wire: &Wire| wire.sent(Side::Server).len() - wire.server.len();
        assert!(handshake(&again) < handshake(&first), "the second has no certificate");
        assert_all_read(&again);
    }
}

#[test]
fn early_data_is_opened_if_it_was_accepted() {
    for is_accepted in [true, false] {
        let mut ends = Ends::new(suite("TLS13_AES_128_GCM_SHA256"));
        ends.client.enable_early_data = true;
        ends.server.max_early_data_size = 1 << 20;
        talked(&ends);
        if !is_accepted {
            // It does not know the client any more.
            ends.server.session_storage = rustls::server::ServerSessionMemoryCache::new(32);
        }
        let mut pair = ends.meet();
        pair.say_early(&noise(4000, 5), is_accepted);
        pair.carry();
        assert_eq!(pair.client.is_early_data_accepted(), is_accepted);
        talk(&mut pair);
        assert_all_read(&pair.part());
    }
}

#[test]
fn what_the_server_says_before_the_client_has_finished_is_opened() {
    let mut ends = Ends::new(suite("TLS13_CHACHA20_POLY1305_SHA256"));
    ends.server.send_half_rtt_data = true;
    let mut pair = ends.meet();
    pair.say(Side::Server, b"welcome");
    talk(&mut pair);
    assert_all_read(&pair.part());
}

#[test]
fn updated_keys_are_followed() {
    let mut pair = Ends::new(suite("TLS13_AES_256_GCM_SHA384")).meet();
    pair.carry();
    for round in 0..5 {
        pair.update_keys(if round % 2 == 0 { Side::Client } else { Side::Server });
        talk(&mut pair);
    }
    assert_all_read(&pair.part());
}

#[test]
fn a_client_with_a_certificate_is_opened() {
    for suite in [suite("TLS13_AES_128_GCM_SHA256"), suite("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256")] {
        assert_all_read(&talked(&Ends::with_client_certificate(suite)));
    }
}

#[test]
fn a_retried_hello_is_opened() {
    let session = assert_all_read(&talked(&Ends::retried()));
    assert_eq!(session.info().alpn.as_deref(), Some("h2"));
}

/// The first message of each side's first record, or of the one `at` there.
fn hello(wire: &Wire, side: Side, at: usize) -> Vec<u8> {
    let (sent, mut framer, mut from) = (wire.sent(side), record::Framer::default(), 0);
    let mut rest = &sent[..];
    while let Some(record) = framer.next(&mut rest, (0, false)) {
        if record.head.kind() == record::HANDSHAKE {
            if from == at {
                return record.body.to_vec();
            }
            from += 1;
        }
        framer.done(&mut rest);
    }
    panic!("there is no such record")
}

/// What the library of one end derives, as HKDF-Expand-Label shows it. The key exchange is the one of `pair`.
fn expanded(epoch: Epoch, hash: Hash, transcript: &[&[u8]]) -> Secret {
    let context = digest(hash.digest(), &transcript.concat()).as_ref().to_vec();
    Secret::Expand { epoch, secret: handshake_secret(hash), context }
}

#[test]
fn the_handshake_secret_alone_opens_all_and_is_found_by_the_transcript() {
    for suite in all_suites().into_iter().filter(|suite| suite.tls13().is_some()) {
        let mut wire = talked(&Ends::new(suite));
        let logged = std::mem::take(&mut wire.secrets);
        let hash = if format!("{:?}", suite.suite()).ends_with("384") { Hash::Sha384 } else { Hash::Sha256 };
        let hellos = [hello(&wire, Side::Client, 0), hello(&wire, Side::Server, 0)];
        wire.secrets = vec![expanded(Epoch::Handshake, hash, &[&hellos[0], &hellos[1]])];
        assert_all_read(&wire);

        // And what is told of them is what the ends logged.
        let lines = Arc::new(Mutex::new(Vec::new()));
        let told = lines.clone();
        let store = Secrets::logging(move |line| told.lock().unwrap().extend(keylog::parse(&line.to_string())));
        store.put(0, wire.secrets.remove(0));
        let mut session = Session::new();
        for (side, data) in &wire.chunks {
            session.take(*side, bytes(data), &store, &mut |_, _| {});
        }
        let lines = lines.lock().unwrap();
        assert_eq!(lines.len(), 4);
        assert!(lines.iter().all(|line| logged.contains(line)), "{lines:?}");
    }
}

#[test]
fn the_transcript_of_a_retried_hello_has_the_first_hellos_hash() {
    let mut wire = talked(&Ends::retried());
    let hash = Hash::Sha384;
    let first = digest(hash.digest(), &hello(&wire, Side::Client, 0)).as_ref().to_vec();
    let transcript = [
        [&[254, 0, 0, 48][..], &first].concat(),
        hello(&wire, Side::Server, 0),
        hello(&wire, Side::Client, 1),
        hello(&wire, Side::Server, 1),
    ];
    wire.secrets = vec![expanded(Epoch::Handshake, hash, &transcript.each_ref().map(Vec::as_slice))];
    assert_all_read(&wire);
}

#[test]
fn secrets_may_come_after_all_else() {
    for suite in all_suites() {
        let wire = talked(&Ends::new(suite));
        let (secrets, mut session, mut told) = (Secrets::new(), Session::new(), Told::default());
        for (side, data) in &wire.chunks {
            session.take(*side, bytes(data), &secrets, &mut |side, piece| told.add(side, piece));
        }
        assert_eq!((session.state(), session.is_waiting()), (State::Handshake, true));
        assert!(session.held() > 100_000);
        assert_eq!(told, Told::default());
        for secret in &wire.secrets {
            secrets.put(0, secret.clone());
        }
        session.resume(1, &secrets, &mut |side, piece| told.add(side, piece));
        assert_told_all(&wire, &told);
        assert!(!session.is_waiting());
        assert!(session.held() < 10_000, "{}", session.held());
    }
}

#[test]
fn a_secret_that_does_not_come_is_given_up_in_time() {
    let wire = talked(&Ends::new(suite("TLS13_AES_128_GCM_SHA256")));
    let (secrets, mut session, mut told) = (Secrets::new(), Session::new(), Told::default());
    for (side, data) in &wire.chunks {
        session.take(*side, bytes(data), &secrets, &mut |side, piece| told.add(side, piece));
    }
    session.take(Side::Client, Piece::End { time: 2 }, &secrets, &mut |side, piece| told.add(side, piece));
    session.resume(3_000_000_000, &secrets, &mut |side, piece| told.add(side, piece));
    assert!(session.is_waiting());
    session.resume(6_000_000_000, &secrets, &mut |side, piece| told.add(side, piece));
    assert_eq!(session.state(), State::Uncovered(Uncovered::NoSecret));
    assert!(!session.is_waiting());
    assert!(session.held() < 5_000, "{}", session.held());
    assert_eq!(told, Told { ended: [true, false], ..Told::default() });
    assert_eq!(session.info().sni.as_deref(), Some("app.example"));
}

#[test]
fn what_is_held_is_bounded() {
    let mut pair = Ends::new(suite("TLS13_AES_128_GCM_SHA256")).meet();
    pair.carry();
    for number in 0..30 {
        pair.say(Side::Server, &noise(100_000, number));
    }
    let (wire, secrets, mut session) = (pair.part(), Secrets::new(), Session::new());
    for (side, data) in &wire.chunks {
        session.take(*side, bytes(data), &secrets, &mut |_, _| panic!("nothing can be opened"));
        assert!(session.held() < (1 << 20) + 150_000);
    }
    assert_eq!(session.state(), State::Uncovered(Uncovered::NoSecret));
}

#[test]
fn a_wrong_secret_opens_nothing() {
    for suite in all_suites() {
        let mut wire = talked(&Ends::new(suite));
        for secret in &mut wire.secrets {
            let Secret::Log { secret, .. } = secret else { unreachable!() };
            secret[0] ^= 1;
        }
        let (session, told) = read(&wire);
        assert_eq!(session.state(), State::Uncovered(Uncovered::WrongSecret));
        assert_eq!(told, Told::default());
    }
}

#[test]
fn what_is_no_tls_is_told_so() {
    let secrets = Secrets::new();
    for (client, server) in [
        (&b"GET / HTTP/1.1\r\nHost: app\r\n\r\n"[..], &b"HTTP/1.1 200 OK\r\n\r\n"[..]),
        (&[0; 40], &[]),
        (&[22, 3, 1, 0xFF, 0xFF, 1, 0, 0xFF], &[]),
        (&[22, 3, 1, 0, 4, 2, 0, 0, 0], &[]),
    ] {
        let mut session = Session::new();
        session.take(Side::Client, bytes(client), &secrets, &mut |_, _| panic!("there is nothing to tell"));
        session.take(Side::Server, bytes(server), &secrets, &mut |_, _| panic!("there is nothing to tell"));
        assert_eq!(session.state(), State::NotTls);
    }
}

#[test]
fn a_refused_handshake_has_failed() {
    let wire = talked(&Ends::new(suite("TLS13_AES_128_GCM_SHA256")));
    let (secrets, mut session) = (Secrets::new(), Session::new());
    session.take(Side::Client, bytes(&wire.chunks[0].1), &secrets, &mut |_, _| {});
    session.take(Side::Server, bytes(&[21, 3, 3, 0, 2, 2, 40]), &secrets, &mut |_, _| {});
    assert_eq!(session.state(), State::Failed);
    assert_eq!(session.info().sni.as_deref(), Some("app.example"));
}

fn cut(data: &[u8], at: &[prop::sample::Index]) -> Vec<Vec<u8>> {
    let mut cuts: Vec<usize> = at.iter().map(|index| index.index(data.len() + 1)).chain([0, data.len()]).collect();
    cuts.sort_unstable();
    cuts.windows(2).map(|pair| data[pair[0]..pair[1]].to_vec()).filter(|piece| !piece.is_empty()).collect()
}

/// A connection with all that a handshake can have, of each version.
fn rich(is_13: bool) -> Wire {
    let mut ends =
        Ends::new(suite(if is_13 { "TLS13_AES_128_GCM_SHA256" } else { "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384" }));
    ends.client.enable_early_data = true;
    ends.server.max_early_data_size = 1 << 20;
    talked(&ends);
    let mut pair = ends.meet();
    if is_13 {
        pair.say_early(&noise(3000, 5), true);
    }
    pair.carry();
    talk(&mut pair);
    if is_13 {
        pair.update_keys(Side::Client);
        pair.update_keys(Side::Server);
    }
    talk(&mut pair);
    pair.part()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_cut_any_order_and_any_delay_give_the_same(
        is_13: bool,
        client_cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..40),
        server_cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..40),
        order in proptest::collection::vec(0..3u8, 0..200),
    ) {
        let wire = rich(is_13);
        let mut sides = [cut(&wire.sent(Side::Client), &client_cuts), cut(&wire.sent(Side::Server), &server_cuts)]
            .map(Vec::into_iter);
        let mut late = wire.secrets.clone().into_iter();
        let (secrets, mut session, mut told) = (Secrets::new(), Session::new(), Told::default());
        for what in order.into_iter().chain([0; 50]).chain([1; 50]).chain([2; 10]) {
            let side = [Side::Client, Side::Server][usize::from(what % 2)];
            if what == 2 {
                if let Some(secret) = late.next() {
                    secrets.put(0, secret);
                    session.resume(0, &secrets, &mut |side, piece| told.add(side, piece));
                }
            } else if let Some(data) = sides[usize::from(what)].next() {
                session.take(side, bytes(&data), &secrets, &mut |side, piece| told.add(side, piece));
            }
        }
        prop_assert_eq!(session.state(), State::Open);
        assert_told_all(&wire, &told);
    }

    #[test]
    fn no_bytes_do_harm(
        is_13: bool,
        is_client: bool,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
    ) {
        let mut wire = rich(is_13);
        let side = if is_client { Side::Client } else { Side::Server };
        let chunk = wire.chunks.iter_mut().find(|(from, _)| *from == side).unwrap();
        for (at, byte) in changes {
            *at.get_mut(&mut chunk.1) = byte;
        }
        let (_, told) = read(&wire);
        let starts_with = |whole: &[u8], part: &[u8]| whole.starts_with(part);
        prop_assert!(starts_with(&wire.client, &told.client));
        prop_assert!(starts_with(&wire.server, &told.server));
    }
}
