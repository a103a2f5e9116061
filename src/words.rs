//! Eight bytes at a time, as those of one word: the way that "Bit Twiddling Hacks" (Sean Eron Anderson) looks for a byte.

/// One in each byte.
pub const ONES: u64 = u64::MAX / 255;

/// The highest bit of each byte.
pub const HIGH: u64 = ONES << 7;

/// Says in the highest bit of each byte whether it is less than `bound`, which is at most 0x80; the other bits say nothing.
/// The lowest byte of which that is said is one for sure, and where it is said of none, there is none.
#[inline]
pub fn below(word: u64, bound: u8) -> u64 {
    word.wrapping_sub(ONES * u64::from(bound)) & !word
}
