//! Whether bytes are the start of a message: for recognising HTTP/1 on a new connection, and for finding the next
//! message after bytes were lost.

use super::grammar::{self, is_target, is_tchar};
use super::head::skip_blank;
use super::{MAX_METHOD, Side};
use crate::proto::METHODS;

/// What can be said of bytes at the start of one send or receive call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Looks {
    /// They hold a complete start line.
    Yes,
    /// They are too few to say.
    Maybe,
    /// No bytes behind them could make them a message.
    No,
}

/// Whether these bytes start a request. HTTP/2's preface does not.
pub fn looks_like_request(bytes: &[u8]) -> Looks {
    after_blank(bytes, Side::Request)
}

/// Whether these bytes start a response.
pub fn looks_like_response(bytes: &[u8]) -> Looks {
    after_blank(bytes, Side::Response)
}

/// Whether these bytes begin with a method of [`METHODS`], or may with those that follow.
pub fn may_begin_with_method(bytes: &[u8]) -> bool {
    METHODS.iter().any(|method| match bytes.strip_prefix(method.as_bytes()) {
        Some(rest) => rest.first().is_none_or(|&byte| byte == b' '),
        None => method.as_bytes().starts_with(bytes),
    })
}

fn after_blank(bytes: &[u8], side: Side) -> Looks {
    match skip_blank(bytes) {
        Some(begin) => looks_like(&bytes[begin..], side),
        None => Looks::No,
    }
}

/// The same for bytes without empty lines before them.
pub(super) fn looks_like(bytes: &[u8], side: Side) -> Looks {
    if let Some(lf) = memchr::memchr(b'\n', bytes) {
        let line = bytes[..lf].strip_suffix(b"\r").unwrap_or(&bytes[..lf]);
        let complete = match side {
            Side::Request => grammar::request_line(line).is_some(),
            Side::Response => grammar::status_line(line).is_some(),
        };
        return if complete { Looks::Yes } else { Looks::No };
    }
    if bytes == b"\r" {
        return Looks::Maybe;
    }
    let possible = match side {
        Side::Request => can_become_request_line(bytes),
        Side::Response => can_become_status_line(bytes),
    };
    if possible { Looks::Maybe } else { Looks::No }
}

fn can_become_request_line(line: &[u8]) -> bool {
    let method = prefix(line, is_tchar);
    let Some(rest) = behind_spaces(&line[method..]) else {
        return method <= MAX_METHOD && method == line.len();
    };
    if method == 0 || method > MAX_METHOD {
        return false;
    }
    let target = prefix(rest, is_target);
    let Some(rest) = behind_spaces(&rest[target..]) else {
        return target == rest.len();
    };
    target > 0 && can_become_version(rest)
}

fn can_become_status_line(line: &[u8]) -> bool {
    let Some(rest) = behind_version(line) else { return can_become_version(line) };
    let Some(rest) = behind_spaces(rest) else { return rest.is_empty() };
    let digits = prefix(rest, |b| b.is_ascii_digit());
    let ended = rest.get(3).is_none_or(|&b| b == b' ' || b == b'\r');
    digits.min(3) == rest.len().min(3) && rest.first() != Some(&b'0') && ended
}

fn can_become_version(line: &[u8]) -> bool {
    let known = line.len().min(VERSION.len());
    line[..known] == VERSION[..known] && line.get(VERSION.len()).is_none_or(u8::is_ascii_digit)
}

fn behind_version(line: &[u8]) -> Option<&[u8]> {
    let (minor, rest) = line.strip_prefix(VERSION)?.split_first()?;
    minor.is_ascii_digit().then_some(rest)
}

const VERSION: &[u8] = b"HTTP/1.";

/// What stands behind the spaces at the start; none where there are no spaces.
fn behind_spaces(bytes: &[u8]) -> Option<&[u8]> {
    let spaces = prefix(bytes, |b| b == b' ');
    (spaces > 0).then(|| &bytes[spaces..])
}

fn prefix(bytes: &[u8], accept: fn(u8) -> bool) -> usize {
    bytes.iter().position(|&b| !accept(b)).unwrap_or(bytes.len())
}
