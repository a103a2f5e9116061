//! How long a message's body is: RFC 9112 section 6.3, rule by rule, and which messages end HTTP on a connection.

use super::grammar::{content_length, list};
use super::{Asked, Side};
use crate::proto::{Head, Invalid, Version};

/// What follows a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// Another head: this one was interim (1xx).
    NextHead,
    /// A body of so many bytes, maybe none.
    Length(u64),
    Chunked,
    UntilClose,
    /// No body, and no HTTP after it.
    Tunnel,
}

/// What follows this head (RFC 9112 section 6.3).
pub(super) fn framing(head: &Head, side: Side, asked: Asked) -> Result<Framing, Invalid> {
    match side {
        Side::Request => request(head),
        Side::Response => response(head, asked),
    }
}

fn request(head: &Head) -> Result<Framing, Invalid> {
    match transfer_coding(head) {
        // rule 4: a server cannot know where such a request ends
        TransferCoding::Other => Err(Invalid::Header),
        TransferCoding::ChunkedLast { times: 1 } => Ok(Framing::Chunked),
        TransferCoding::ChunkedLast { .. } => Err(Invalid::Header),
        // rules 5, 6 and 7
        TransferCoding::None => Ok(Framing::Length(length(head)?.unwrap_or(0))),
    }
}

fn response(head: &Head, asked: Asked) -> Result<Framing, Invalid> {
    match (head.status(), asked) {
        (101, _) => return Ok(Framing::Tunnel),
        (100..=199, _) => return Ok(Framing::NextHead),
        // rule 2
        (200..=299, Asked::Connect) => return Ok(Framing::Tunnel),
        // rule 1
        (204 | 304, _) | (_, Asked::Head) => return Ok(Framing::Length(0)),
        _ => {}
    }
    match transfer_coding(head) {
        TransferCoding::ChunkedLast { .. } => Ok(Framing::Chunked),
        // rule 4
        TransferCoding::Other => Ok(Framing::UntilClose),
        // rules 5, 6 and 8
        TransferCoding::None => Ok(length(head)?.map_or(Framing::UntilClose, Framing::Length)),
    }
}

enum TransferCoding {
    None,
    /// The last coding is `chunked`; it is named so many times.
    ChunkedLast {
        times: usize,
    },
    Other,
}

/// All `Transfer-Encoding` lines as one list. It counts in HTTP/1.0 messages too, as it does for most recipients.
fn transfer_coding(head: &Head) -> TransferCoding {
    let mut present = false;
    let mut times = 0;
    let mut last: &[u8] = b"";
    for value in head.values("transfer-encoding") {
        present = true;
        for coding in list(value).filter(|coding| !coding.is_empty()) {
            last = coding;
            times += usize::from(is_chunked(coding));
        }
    }
    match (present, is_chunked(last)) {
        (false, _) => TransferCoding::None,
        (true, true) => TransferCoding::ChunkedLast { times },
        (true, false) => TransferCoding::Other,
    }
}

/// `chunked` has no parameters (RFC 9112 section 7.1), so with one it is another coding.
fn is_chunked(coding: &[u8]) -> bool {
    coding.eq_ignore_ascii_case(b"chunked")
}

/// All `Content-Length` lines as one list: its value where all are the same (rule 5), none where there is none.
fn length(head: &Head) -> Result<Option<u64>, Invalid> {
    let mut length = None;
    let mut take = |value: Option<u64>| match value {
        Some(value) if length.is_none_or(|before| before == value) => {
            length = Some(value);
            Ok(())
        }
        _ => Err(Invalid::ContentLength),
    };
    for line in head.values("content-length") {
        // One number, nearly always.
        match content_length(line) {
            Some(value) => take(Some(value))?,
            None => list(line).try_for_each(|element| take(content_length(element)))?,
        }
    }
    Ok(length)
}

/// Whether this request asks to leave HTTP: a `CONNECT`, or an `Upgrade` (RFC 9110 section 7.8; HTTP/1.0 has none).
///
/// What the client sends behind it belongs to HTTP or to the tunnel according to the response; until that is known the
/// caller holds the request stream.
pub fn wants_upgrade(head: &Head) -> bool {
    if head.method() == b"CONNECT" {
        return true;
    }
    let connection_says_so = || {
        let mut options = head.values("connection").flat_map(list);
        options.any(|option| option.eq_ignore_ascii_case(b"upgrade"))
    };
    head.version == Version::Http11 && head.header("upgrade").is_some() && connection_says_so()
}
