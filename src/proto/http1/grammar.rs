//! The grammar of RFC 9112: start lines, field lines and chunk-size lines, one function a rule.
//!
//! Every function takes one line without its line break. Where it accepts more than the RFC lets senders write, the
//! module documentation of [`http1`](super) names the leniency. It decides nothing about framing: that is `framing`.

use nom::bytes::complete::{tag, take, take_while, take_while_m_n, take_while1};
use nom::combinator::{eof, opt, rest, verify};
use nom::sequence::preceded;
use nom::{IResult, Parser};

use super::MAX_METHOD;
use crate::proto::Version;
use crate::words::{HIGH, below};

/// A parser's answer. There is no error value: the caller knows which line it gave.
type Parsed<'a, T> = IResult<&'a [u8], T, ()>;

pub(super) struct RequestLine<'a> {
    pub method: &'a [u8],
    pub target: &'a [u8],
    pub version: Version,
}

pub(super) struct StatusLine<'a> {
    pub version: Version,
    pub status: u16,
    pub reason: &'a [u8],
}

/// `request-line = method SP request-target SP HTTP-version` (RFC 9112 section 3).
pub(super) fn request_line(line: &[u8]) -> Option<RequestLine<'_>> {
    let mut parts = (method, spaces, target, spaces, version, space_bytes, eof);
    let (_, (method, _, target, _, version, ..)) = parts.parse(line).ok()?;
    Some(RequestLine { method, target, version })
}

/// `status-line = HTTP-version SP status-code SP [ reason-phrase ]` (RFC 9112 section 4).
pub(super) fn status_line(line: &[u8]) -> Option<StatusLine<'_>> {
    let (_, (version, _, status, reason)) = (version, spaces, status, reason).parse(line).ok()?;
    Some(StatusLine { version, status, reason })
}

/// `field-line = field-name ":" OWS field-value OWS` (RFC 9112 section 5): name and value.
///
/// `space_before_colon`: white space between name and colon is dropped instead of refused (section 5.1).
pub(super) fn field_line(line: &[u8], space_before_colon: bool) -> Option<(&[u8], &[u8])> {
    let (after_name, name) = token(line).ok()?;
    let after_name = if space_before_colon { trim_start(after_name) } else { after_name };
    let (_, value) = preceded(tag_colon, rest::<_, ()>).parse(after_name).ok()?;
    Some((name, field_content(value)?))
}

/// The same with its line break, from bytes that go on behind it: name, value and what goes on. None also where the line
/// is not complete.
pub(super) fn whole_field_line(input: &[u8], space_before_colon: bool) -> Option<(&[u8], &[u8], &[u8])> {
    let (after_name, name) = token(input).ok()?;
    let after_name = if space_before_colon { trim_start(after_name) } else { after_name };
    let value = after_name.strip_prefix(b":")?;
    let end = line_end(value)?;
    match &value[end..] {
        [b'\n', behind @ ..] | [b'\r', b'\n', behind @ ..] => Some((name, trim(&value[..end]), behind)),
        _ => None,
    }
}

/// Where the first LF is, or a byte that must not stand before it: see [`field_content`]. Values are short mostly: eight
/// bytes at a time are faster then than a call of `memchr`.
fn line_end(bytes: &[u8]) -> Option<usize> {
    const SHORT: usize = 64;
    let is_end = |byte: u8| matches!(byte, b'\n' | b'\r' | 0);
    let mut at = 0;
    while at < SHORT
        && let Some(chunk) = bytes.get(at..).and_then(<[u8]>::first_chunk)
    {
        let low = below(u64::from_le_bytes(*chunk), b'\r' + 1) & HIGH;
        if low == 0 {
            at += chunk.len();
            continue;
        }
        // The first one that is told is one for sure, but may be a tab.
        at += low.trailing_zeros() as usize / 8;
        if is_end(bytes[at]) {
            return Some(at);
        }
        at += 1;
    }
    memchr::memchr3(b'\n', b'\r', 0, &bytes[at..]).map(|end| at + end)
}

/// A field's value without the white space around it; none where it holds a byte that makes recipients disagree about
/// where the line ends: CR or NUL (RFC 9110 section 5.5). Other control characters are kept.
pub(super) fn field_content(value: &[u8]) -> Option<&[u8]> {
    if memchr::memchr2(b'\r', 0, value).is_some() {
        return None;
    }
    Some(trim(value))
}

/// `chunk-size [ chunk-ext ]` (RFC 9112 section 7.1): the size. Extensions are stepped over unread.
pub(super) fn chunk_size(line: &[u8]) -> Option<u64> {
    let (extension, digits) = take_while1::<_, _, ()>(|b: u8| b.is_ascii_hexdigit()).parse(line).ok()?;
    let extension = trim_start(extension);
    let well_formed = extension.is_empty() || extension[0] == b';' && memchr::memchr(b'\r', extension).is_none();
    if !well_formed {
        return None;
    }
    digits.iter().try_fold(0u64, |size, &digit| {
        let digit = (digit as char).to_digit(16)?;
        size.checked_mul(16)?.checked_add(u64::from(digit))
    })
}

/// `Content-Length = 1*DIGIT` (RFC 9110 section 8.6), one element of what may be a list.
pub(super) fn content_length(element: &[u8]) -> Option<u64> {
    if element.is_empty() {
        return None;
    }
    element.iter().try_fold(0u64, |length, &digit| {
        let digit = (digit as char).to_digit(10)?;
        length.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

/// The elements of a comma-separated list, without white space; empty ones too (RFC 9110 section 5.6.1).
pub(super) fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&b| b == b',').map(trim)
}

/// Without the white space (space and tab) around it.
pub(super) fn trim(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().rposition(|&b| !is_white(b)).map_or(0, |last| last + 1);
    trim_start(&bytes[..end])
}

pub(super) fn trim_start(bytes: &[u8]) -> &[u8] {
    let start = bytes.iter().position(|&b| !is_white(b)).unwrap_or(bytes.len());
    &bytes[start..]
}

pub(super) fn is_white(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

/// `tchar` (RFC 9110 section 5.6.2).
pub(super) fn is_tchar(byte: u8) -> bool {
    TCHAR[byte as usize]
}

/// What may stand in a request target: all but white space and control characters. Bytes from 0x80 up are no part of
/// the URI grammar, yet clients send them and servers take them.
pub(super) fn is_target(byte: u8) -> bool {
    byte > b' ' && byte != 0x7f
}

const TCHAR: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let marks = b"!#$%&'*+-.^_`|~";
    let mut mark = 0;
    while mark < marks.len() {
        table[marks[mark] as usize] = true;
        mark += 1;
    }
    table
};

fn method(input: &[u8]) -> Parsed<'_, &[u8]> {
    take_while_m_n(1, MAX_METHOD, is_tchar).parse(input)
}

fn token(input: &[u8]) -> Parsed<'_, &[u8]> {
    take_while1(is_tchar).parse(input)
}

fn target(input: &[u8]) -> Parsed<'_, &[u8]> {
    take_while1(is_target).parse(input)
}

fn tag_colon(input: &[u8]) -> Parsed<'_, &[u8]> {
    tag(&b":"[..]).parse(input)
}

/// One space by the RFC; more where the sender was careless (section 3 lets recipients split at white space).
fn spaces(input: &[u8]) -> Parsed<'_, &[u8]> {
    take_while1(|b| b == b' ').parse(input)
}

fn space_bytes(input: &[u8]) -> Parsed<'_, &[u8]> {
    take_while(|b| b == b' ').parse(input)
}

/// `HTTP-version = "HTTP/" DIGIT "." DIGIT` (RFC 9112 section 2.3), major version 1 only.
fn version(input: &[u8]) -> Parsed<'_, Version> {
    let minor = verify(take(1usize), |digit: &[u8]| digit[0].is_ascii_digit());
    let (input, minor) = preceded(tag(&b"HTTP/1."[..]), minor).parse(input)?;
    Ok((input, if minor == b"0" { Version::Http10 } else { Version::Http11 }))
}

/// `status-code = 3DIGIT`, 100 and up.
fn status(input: &[u8]) -> Parsed<'_, u16> {
    let digits = verify(take(3usize), |digits: &[u8]| digits.iter().all(u8::is_ascii_digit) && digits[0] != b'0');
    digits.map(|digits: &[u8]| digits.iter().fold(0, |n, digit| n * 10 + u16::from(digit - b'0'))).parse(input)
}

/// What is left of a status line: nothing, or a space and the reason phrase, which may be empty.
fn reason(input: &[u8]) -> Parsed<'_, &[u8]> {
    let (input, space) = opt(spaces).parse(input)?;
    if space.is_none() {
        return eof.parse(input);
    }
    let clean = |reason: &&[u8]| memchr::memchr2(b'\r', 0, reason).is_none();
    verify(rest, clean).map(trim).parse(input)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_line_ends_where_its_first_bad_byte_is(bytes in proptest::collection::vec(
            prop_oneof![30 => b' '..=0xff, 1 => 0..b' ', 1 => Just(b'\t')], 0..150,
        )) {
            let end = bytes.iter().position(|byte| b"\n\r\0".contains(byte));
            prop_assert_eq!(line_end(&bytes), end);
        }
    }
}
