//! Any bytes as a DNS message, and as a stream of them: no panic, names within their bounds, and the same messages
//! however the stream is cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sidetap::proto::dns::{Data, Frames, MAX_ANSWERS, message};

/// 255 octets on the wire, each of them four characters at most.
const MAX_NAME: usize = 4 * 255;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(message) = message(bytes) {
        assert!(message.answers.len() <= MAX_ANSWERS);
        let names = message.answers.iter().flat_map(|answer| match &answer.data {
            Data::Cname(name) => vec![&answer.name, name],
            Data::A(_) | Data::Aaaa(_) => vec![&answer.name],
        });
        for name in names.chain(message.question.as_ref().map(|question| &question.name)) {
            assert!(name.len() <= MAX_NAME && name.chars().all(|c| c.is_ascii_graphic()), "{name:?}");
            assert!(!name.contains(|c: char| c.is_ascii_uppercase()), "{name:?}");
        }
    }
    let whole = framed(bytes, bytes.len().max(1));
    assert_eq!(framed(bytes, 1), whole);
    assert_eq!(framed(bytes, 7), whole);
});

fn framed(stream: &[u8], at_a_time: usize) -> Vec<Vec<u8>> {
    let (mut frames, mut messages) = (Frames::default(), Vec::new());
    for piece in stream.chunks(at_a_time) {
        frames.push(piece, |message| messages.push(message.to_vec()));
    }
    messages
}
