//! Huffman coding of strings (RFC 7541 section 5.2 and appendix B).
//!
//! The code is canonical: codes of one length count up in the order of their symbols. Lengths alone are the table.

/// Bits of the code of each byte value, and of the end of the string, which must not be sent.
#[rustfmt::skip]
const LENGTHS: [u8; SYMBOLS] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
     6, 10, 10, 12, 13,  6,  8, 11, 10, 10,  8, 11,  8,  6,  6,  6,
     5,  5,  5,  6,  6,  6,  6,  6,  6,  6,  7,  8, 15,  6, 12, 10,
    13,  6,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,
     7,  7,  7,  7,  7,  7,  7,  7,  8,  7,  8, 13, 19, 13, 14,  6,
    15,  5,  6,  5,  6,  5,  6,  6,  6,  5,  7,  7,  6,  6,  6,  5,
     6,  7,  6,  5,  5,  6,  7,  7,  7,  7,  7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];

const SYMBOLS: usize = 257;
const END_OF_STRING: u16 = 256;
const LONGEST: usize = 30;

/// Symbols in the order of their codes.
const ORDERED: [u16; SYMBOLS] = ordered();
/// Of the codes with so many bits: where in `ORDERED` the first is, and the first code, at the top of 32 bits.
const FIRSTS: [(u16, u32); LONGEST + 1] = firsts();
/// What a byte begins with: a symbol and the bits of its code; 0 bits where the code is longer.
const SHORT: [(u8, u8); 256] = short();

const fn ordered() -> [u16; SYMBOLS] {
    let mut ordered = [0; SYMBOLS];
    let (mut at, mut bits) = (0, 0);
    while bits <= LONGEST {
        let mut symbol = 0;
        while symbol < SYMBOLS {
            if LENGTHS[symbol] as usize == bits {
                ordered[at] = symbol as u16;
                at += 1;
            }
            symbol += 1;
        }
        bits += 1;
    }
    ordered
}

const fn firsts() -> [(u16, u32); LONGEST + 1] {
    let mut firsts = [(0, 0); LONGEST + 1];
    let (mut at, mut code, mut bits) = (0, 0u64, 1);
    while bits <= LONGEST {
        firsts[bits] = (at as u16, code as u32);
        while at < SYMBOLS && LENGTHS[ORDERED[at] as usize] as usize == bits {
            code += 1 << (32 - bits);
            at += 1;
        }
        bits += 1;
    }
    firsts
}

const fn short() -> [(u8, u8); 256] {
    let mut short = [(0, 0); 256];
    let mut at = 0;
    let mut byte = 0;
    while byte < 256 {
        let symbol = ORDERED[at];
        let bits = LENGTHS[symbol as usize];
        if bits > 8 {
            break;
        }
        short[byte] = (symbol as u8, bits);
        // the code of this symbol fills all bytes that begin with it
        byte += 1;
        if byte % (1 << (8 - bits)) == 0 {
            at += 1;
        }
    }
    short
}

/// Appends the string to `out`; none where it is not coded as it must be: padded with ones, fewer than eight, and
/// without the symbol for its end.
pub(super) fn decode(coded: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let mut bytes = coded.iter();
    // the bits not yet decoded, at the top, with ones behind them
    let (mut bits, mut count) = (u64::MAX, 0);
    loop {
        while count <= 56
            && let Some(&byte) = bytes.next()
        {
            bits &= !(0xff << (56 - count)) | u64::from(byte) << (56 - count);
            count += 8;
        }
        let (symbol, length) = match SHORT[(bits >> 56) as usize] {
            (_, 0) => long((bits >> 32) as u32),
            (symbol, length) => (u16::from(symbol), u32::from(length)),
        };
        if length > count {
            let padding = bits == u64::MAX && count < 8;
            return padding.then_some(());
        }
        if symbol == END_OF_STRING {
            return None;
        }
        out.push(symbol as u8);
        bits = bits << length | ((1 << length) - 1);
        count -= length;
    }
}

/// The symbol of more than 8 bits that begins at the top, and its bits.
fn long(top: u32) -> (u16, u32) {
    let mut bits = 9;
    while bits < LONGEST && top >= FIRSTS[bits + 1].1 {
        bits += 1;
    }
    let (at, first) = FIRSTS[bits];
    let nth = (top - first) >> (32 - bits);
    (ORDERED[at as usize + nth as usize], bits as u32)
}

/// The other half, for tests.
#[cfg(test)]
pub(super) mod encoder {
    use super::*;

    /// The code of a symbol, right-aligned, and its bits.
    pub fn code(symbol: u16) -> (u32, u32) {
        let at = ORDERED.iter().position(|&s| s == symbol).unwrap();
        let bits = usize::from(LENGTHS[usize::from(symbol)]);
        let (first, from) = FIRSTS[bits];
        ((from >> (32 - bits)) + (at - usize::from(first)) as u32, bits as u32)
    }

    pub fn encode(text: &[u8]) -> Vec<u8> {
        let (mut coded, mut bits, mut count) = (Vec::new(), 0u64, 0);
        for &byte in text {
            let (code, length) = code(u16::from(byte));
            bits = bits << length | u64::from(code);
            count += length;
            while count >= 8 {
                count -= 8;
                coded.push((bits >> count) as u8);
            }
        }
        if count > 0 {
            coded.push((bits << (8 - count)) as u8 | (0xff >> count));
        }
        coded
    }
}

#[cfg(test)]
mod tests {
    use super::encoder::{code, encode};
    use super::*;

    fn decoded(coded: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        decode(coded, &mut out).map(|()| out)
    }

    /// Codes of each length as appendix B prints them.
    #[test]
    fn codes_are_those_of_the_rfc() {
        for (symbol, expected) in [
            (b'0' as u16, (0x0, 5)),
            (b't' as u16, (0x9, 5)),
            (b' ' as u16, (0x14, 6)),
            (b'u' as u16, (0x2d, 6)),
            (b':' as u16, (0x5c, 7)),
            (b'z' as u16, (0x7b, 7)),
            (b'&' as u16, (0xf8, 8)),
            (b'Z' as u16, (0xfd, 8)),
            (b'!' as u16, (0x3f8, 10)),
            (b'|' as u16, (0x7fc, 11)),
            (b'#' as u16, (0xffa, 12)),
            (0, (0x1ff8, 13)),
            (b'^' as u16, (0x3ffc, 14)),
            (b'<' as u16, (0x7ffc, 15)),
            (b'\\' as u16, (0x7fff0, 19)),
            (128, (0xfffe6, 20)),
            (153, (0x1fffdc, 21)),
            (129, (0x3fffd2, 22)),
            (1, (0x7fffd8, 23)),
            (9, (0xffffea, 24)),
            (199, (0x1ffffec, 25)),
            (192, (0x3ffffe0, 26)),
            (203, (0x7ffffde, 27)),
            (2, (0xfffffe2, 28)),
            (254, (0x7fffff0, 27)),
            (249, (0xffffffe, 28)),
            (10, (0x3ffffffc, 30)),
            (END_OF_STRING, (0x3fffffff, 30)),
        ] {
            assert_eq!(code(symbol), expected, "of {symbol}");
        }
    }

    #[test]
    fn every_byte_comes_back_beside_every_other() {
        for first in 0..=255u8 {
            let text: Vec<u8> = (0..=255u8).flat_map(|second| [first, second]).collect();
            assert_eq!(decoded(&encode(&text)).as_ref(), Some(&text));
        }
    }

    #[test]
    fn padding_is_less_than_a_byte_of_ones() {
        assert_eq!(decoded(&[]), Some(Vec::new()));
        assert_eq!(decoded(&[0b0000_0111]), Some(b"0".to_vec()));
        assert_eq!(decoded(&[0b0000_0110]), None, "a zero in the padding");
        assert_eq!(decoded(&[0xff]), None, "eight bits of padding");
        assert_eq!(decoded(&[0b0000_0111, 0xff]), None, "eleven bits of padding");
        assert_eq!(decoded(&[0xff, 0xff, 0xff, 0xff]), None, "the end of the string, spelled out");
        assert_eq!(decoded(&[0xff, 0xff, 0xff, 0xfc]), None, "and cut");
    }
}
