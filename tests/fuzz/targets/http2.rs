//! Any bytes, as either direction, from the start or joined: no panic, never more used than given, bounded memory, and
//! the same steps however they are cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sidetap_fuzz::proto::http2::{Decoder, Finish, Invalid, Settings, Side, Step, frames_at_start};
use sidetap_fuzz::proto::{Head, Trailers};

#[derive(Debug, PartialEq)]
enum Event {
    Head(u32, Head, bool, bool),
    Trailers(u32, Trailers, bool),
    Data(u32, Vec<u8>, bool),
    Reset(u32, u32),
    GoAway(u32, u32),
    Settings(Settings),
    Promise(u32, u32, Head, bool),
    Invalid(Invalid),
}

fuzz_target!(|stream: &[u8]| {
    same_however_cut(Decoder::client, stream);
    same_however_cut(Decoder::server, stream);
    for side in [Side::Client, Side::Server] {
        same_however_cut(|| Decoder::joined(side), stream);
        same_however_cut(|| Decoder::joined_at_frame(side), stream);
        let _ = frames_at_start(stream, side);
        survives_gaps(Decoder::joined_at_frame(side), stream);
    }
});

fn same_however_cut(decoder: impl Fn() -> Decoder, stream: &[u8]) {
    let whole = told(decoder(), stream, stream.len().max(1));
    assert_eq!(told(decoder(), stream, 1), whole);
    assert_eq!(told(decoder(), stream, 7), whole);
}

/// What a reader is told that gets so many bytes at a time, body bytes joined; how far it came; what the end means.
fn told(mut decoder: Decoder, stream: &[u8], at_a_time: usize) -> (Vec<Event>, usize, Finish) {
    let (mut events, mut begin) = (Vec::new(), 0);
    for end in (0..=stream.len()).step_by(at_a_time).chain([stream.len()]) {
        loop {
            let given = &stream[begin..end];
            let step = decoder.step(given);
            let used = step.used();
            assert!(used <= given.len());
            let event = match step {
                Step::Head { stream, head, end_stream, complete, .. } => {
                    Event::Head(stream, head, end_stream, complete)
                }
                Step::Trailers { stream, trailers, complete, .. } => Event::Trailers(stream, trailers, complete),
                Step::Data { stream, data, end_stream, .. } => Event::Data(stream, data.to_vec(), end_stream),
                Step::Reset { stream, code, .. } => Event::Reset(stream, code),
                Step::GoAway { last_stream, code, .. } => Event::GoAway(last_stream, code),
                Step::Settings { settings, .. } => Event::Settings(settings),
                Step::Promise { stream, promised, head, complete, .. } => {
                    Event::Promise(stream, promised, head, complete)
                }
                Step::Framing { used } => {
                    assert!(used > 0);
                    begin += used;
                    continue;
                }
                Step::More => break,
                Step::Invalid(invalid) => {
                    events.push(Event::Invalid(invalid));
                    return (events, begin, decoder.finish());
                }
            };
            begin += used;
            match (events.last_mut(), event) {
                (Some(Event::Data(one, body, is_last @ false)), Event::Data(other, more, end)) if *one == other => {
                    body.extend(more);
                    *is_last = end;
                }
                (_, event) => events.push(event),
            }
        }
        assert!(decoder.weight() < 2 << 20);
    }
    (events, begin, decoder.finish())
}

/// Every third piece is not seen.
fn survives_gaps(mut decoder: Decoder, stream: &[u8]) {
    let mut unused = Vec::new();
    for (number, piece) in stream.chunks(11).enumerate() {
        if number % 3 < 2 {
            unused.extend_from_slice(piece);
        } else {
            let missing = unused.len() + piece.len();
            unused.clear();
            if decoder.gap(missing as u64).is_err() {
                decoder.resync();
            }
        }
        loop {
            let step = decoder.step(&unused);
            if matches!(step, Step::More | Step::Invalid(_)) {
                break;
            }
            let used = step.used();
            unused.drain(..used);
        }
    }
}
