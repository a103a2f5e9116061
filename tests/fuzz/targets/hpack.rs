//! Any header blocks in a row (each behind its length in two bytes): no panic, bounded text, and what one says who
//! joined midway is what one says who saw all, or that it is not known.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sidetap_fuzz::proto::http2::hpack::{Decoder, Fields};
use sidetap_fuzz::proto::http2::{MAX_BLOCK, MAX_FIELDS, UNKNOWN};

fuzz_target!(|bytes: &[u8]| {
    let blocks = blocks(bytes);
    for joined_at in 0..blocks.len().min(4) {
        let (mut whole, mut joined) = (Decoder::from_start(), Decoder::joined());
        for (number, block) in blocks.iter().enumerate() {
            let Ok(truth) = whole.decode(block) else { break };
            assert!(truth.text.len() <= MAX_BLOCK && truth.fields.len() <= MAX_FIELDS && whole.weight() < 1 << 20);
            if number < joined_at {
                continue;
            }
            // a text of placeholders may be longer than what they stand for
            let Ok(claim) = joined.decode(block) else { break };
            assert!(agrees(&claim, &truth), "{claim:?} was claimed of {truth:?}");
        }
    }
});

fn blocks(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut blocks = Vec::new();
    while let Some((&[high, low], rest)) = bytes.split_first_chunk() {
        let (block, behind) = rest.split_at(rest.len().min(usize::from(high) << 8 | usize::from(low)));
        blocks.push(block);
        bytes = behind;
    }
    blocks
}

fn agrees(claim: &Fields, truth: &Fields) -> bool {
    let unknown = UNKNOWN.as_bytes();
    let texts = |fields: &Fields| -> Vec<Vec<u8>> {
        fields
            .fields
            .iter()
            .flat_map(|&(name, value)| [name, value])
            .map(|span| span.of(&fields.text).to_vec())
            .collect()
    };
    let (claims, truths) = (texts(claim), texts(truth));
    let is_complete = claim.unknown.is_none();
    claims.len() == truths.len()
        && claims.iter().zip(&truths).all(|(claim, truth)| claim == truth || !is_complete && claim == unknown)
}
