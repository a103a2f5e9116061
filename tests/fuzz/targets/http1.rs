//! Any bytes, as either direction: no panic, never more used than given, and the same messages however they are cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sidetap_fuzz::proto::http1::{Asked, Decoder, Finish};
use sidetap_fuzz::proto::{Head, Invalid, Step, Trailers};

#[derive(Debug, PartialEq)]
enum Event {
    Head(Head),
    Body(Vec<u8>),
    End(Option<Trailers>),
    Invalid(Invalid),
    Left,
}

fuzz_target!(|stream: &[u8]| {
    for asked in [Asked::Normal, Asked::Head, Asked::Connect] {
        same_however_cut(Decoder::response, asked, stream);
    }
    same_however_cut(Decoder::request, Asked::Normal, stream);
});

fn same_however_cut(decoder: fn() -> Decoder, asked: Asked, stream: &[u8]) {
    let whole = told(decoder(), asked, stream, stream.len().max(1));
    assert_eq!(told(decoder(), asked, stream, 1), whole);
    assert_eq!(told(decoder(), asked, stream, 7), whole);
}

/// What a reader is told that gets so many bytes at a time, body bytes joined, and what the end means to it.
fn told(mut decoder: Decoder, asked: Asked, stream: &[u8], at_a_time: usize) -> (Vec<Event>, Finish) {
    let (mut events, mut begin) = (Vec::new(), 0);
    for end in (0..=stream.len()).step_by(at_a_time).chain([stream.len()]) {
        loop {
            let given = &stream[begin..end];
            let (event, used) = match decoder.step(given, asked) {
                Step::Head { head, used } => (Event::Head(head), used),
                Step::Body { data, used } => (Event::Body(data.to_vec()), used),
                Step::End { trailers, used } => (Event::End(trailers), used),
                Step::More => break,
                Step::Invalid(invalid) => {
                    events.push(Event::Invalid(invalid));
                    return (events, decoder.finish());
                }
                Step::Left => {
                    events.push(Event::Left);
                    return (events, decoder.finish());
                }
            };
            assert!(used <= given.len());
            assert!(used > 0 || matches!(event, Event::End(_)), "a step must use something or end a message");
            begin += used;
            match (events.last_mut(), event) {
                (Some(Event::Body(body)), Event::Body(more)) => body.extend(more),
                (_, Event::Body(body)) if body.is_empty() => {}
                (_, event) => events.push(event),
            }
        }
    }
    (events, decoder.finish())
}
