//! Integers (RFC 7541 section 5.1).

use nom::IResult;
use nom::bytes::complete::take_while_m_n;
use nom::number::complete::u8;

/// Bytes behind the prefix that hold 32 bits.
const MAX_MORE: usize = 5;

/// An integer whose first `prefix` bits, counted from the low end, are in the first byte.
///
/// ```text
///   0   1   2   3   4   5   6   7
/// +---+---+---+---+---+---+---+---+
/// | ?   ?   ? | 1   1   1   1   1 |   prefix 5
/// +---+---+---+-------------------+
/// | 1 |    Value-(2^N-1) LSB      |
/// +---+---------------------------+
///                ...
/// +---+---------------------------+
/// | 0 |    Value-(2^N-1) MSB      |
/// +---+---------------------------+
/// ```
///
/// What needs more than 32 bits, or more bytes than those need, is refused: no index, length or size comes near.
pub(super) fn integer(prefix: u32, input: &[u8]) -> IResult<&[u8], u32, ()> {
    let (rest, first) = u8(input)?;
    let mask = (1 << prefix) - 1;
    let low = u32::from(first) & mask;
    if low < mask {
        return Ok((rest, low));
    }
    let (rest, more) = take_while_m_n(0, MAX_MORE, |byte| byte & 0x80 != 0)(rest)?;
    let (rest, last) = u8(rest)?;
    let digits = more.iter().chain([&last]).enumerate();
    let value = digits.fold(0, |sum, (place, &digit)| sum + (u64::from(digit & 0x7f) << (7 * place)));
    match u32::try_from(u64::from(low) + value) {
        Ok(value) if last & 0x80 == 0 && more.len() < MAX_MORE => Ok((rest, value)),
        _ => Err(nom::Err::Error(())),
    }
}

#[cfg(test)]
mod tests {
    use super::integer;

    /// RFC 7541 appendix C.1.
    #[test]
    fn integers_of_the_rfc() {
        assert_eq!(integer(5, &[0b1110_1010]), Ok((&[][..], 10)));
        assert_eq!(integer(5, &[0b0001_1111, 0b1001_1010, 0b0000_1010, 7]), Ok((&[7][..], 1337)));
        assert_eq!(integer(8, &[42]), Ok((&[][..], 42)));
    }

    #[test]
    fn an_integer_has_32_bits_and_an_end() {
        assert_eq!(integer(7, &[0x7f, 0x80, 0xff, 0xff, 0xff, 0x0f]), Ok((&[][..], u32::MAX)));
        assert!(integer(7, &[0x7f, 0x81, 0xff, 0xff, 0xff, 0x0f]).is_err(), "one more");
        assert!(integer(7, &[0x7f, 0x80, 0x80, 0x80, 0x80, 0x80, 0]).is_err(), "zeros without end");
        assert!(integer(7, &[0x7f, 0x80]).is_err());
        assert!(integer(7, &[]).is_err());
    }
}
