//! Protocols: bytes in, messages out.
//!
//! Everything below this folder is pure: no I/O, no clock, no logging, no unsafe code. A decoder sees one
//! direction of one connection, in order, and answers with a [`Step`]. It never sees sockets or processes, and it
//! does not pair requests with responses: that is `exchange`'s work.
//!
//! # How to add a protocol
//!
//! 1. Add a folder with a `Decoder` that has `step`, `gap` and `finish` as [`http1::Decoder`] has them: `step`
//!    answers with a [`Step`], `gap` says whether so many unseen bytes can be stepped over, `finish` says what the
//!    end of the stream means.
//! 2. Chunking the same bytes differently must give the same messages: copy the property test of `http1`.
//! 3. Teach `conn::detect` to recognise it, and give it a case in `conn::Stream`.
#![forbid(unsafe_code)]

pub mod coding;
pub mod dns;
pub mod grpc;
pub mod http1;
pub mod http2;
pub mod proxy;

/// Methods with a meaning of their own (RFC 9110 section 9.3, RFC 5789).
pub const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

/// A part of a [`Head`]'s text: byte offsets, `start..end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    pub start: u32,
    pub end: u32,
}

impl Span {
    pub fn of<'a>(&self, text: &'a [u8]) -> &'a [u8] {
        text.get(self.start as usize..self.end as usize).unwrap_or_default()
    }
}

/// The first line of a message, HTTP/2's pseudo-headers included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartLine {
    Request { method: Span, target: Span },
    Response { status: u16, reason: Span },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    Http10,
    Http11,
    Http2,
}

/// What a request in HTTP/2 says beside method and path (RFC 9113 section 8.3.1, RFC 8441 section 4). Empty where it
/// does not, in responses and in HTTP/1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pseudo {
    pub scheme: Span,
    pub authority: Span,
    /// Of an extended CONNECT: what is spoken inside it.
    pub protocol: Span,
}

/// The head of a message: one buffer, and where in it each part lies. Two allocations a message, no copy a header.
///
/// Header names are as on the wire; values have no white space around them, and a folded value (obs-fold, RFC 9112
/// section 5.2) has its line breaks overwritten with spaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    pub text: Vec<u8>,
    pub start: StartLine,
    pub pseudo: Pseudo,
    pub version: Version,
    /// name, value, in wire order
    pub fields: Vec<(Span, Span)>,
    /// Of `fields`.
    names: Names,
}

/// A set of header names, in any case, that may hold more than were put in. Most of what a head is asked for it does not
/// have: this says so without a look at its headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Names(u64);

impl Names {
    #[inline]
    pub fn with(self, name: &[u8]) -> Names {
        Names(self.0 | Names::bit(name))
    }

    #[inline]
    pub fn may_have(self, name: &[u8]) -> bool {
        self.0 & Names::bit(name) != 0
    }

    /// Whether a name may be in both.
    pub fn may_meet(self, other: Names) -> bool {
        self.0 & other.0 != 0
    }

    /// The low bits of a letter are the same in both cases.
    #[inline]
    fn bit(name: &[u8]) -> u64 {
        let (Some(first), Some(last)) = (name.first(), name.last()) else { return 1 };
        1 << ((name.len() * 11 + usize::from(first & 31) * 5 + usize::from(last & 31) * 3) % 64)
    }
}

impl Head {
    /// Names must stay as they are from then on; values may change.
    pub fn new(text: Vec<u8>, start: StartLine, pseudo: Pseudo, version: Version, fields: Vec<(Span, Span)>) -> Head {
        let names = fields.iter().fold(Names::default(), |names, (name, _)| names.with(name.of(&text)));
        Head { text, start, pseudo, version, fields, names }
    }

    /// The headers in wire order.
    pub fn headers(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.fields.iter().map(|(name, value)| (name.of(&self.text), value.of(&self.text)))
    }

    /// The first header of that name, in any case.
    #[inline]
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.values(name).next()
    }

    /// The headers of that name, in any case, in wire order.
    #[inline]
    pub fn values<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        let that_may_be = if self.names.may_have(name.as_bytes()) { &self.fields[..] } else { &[] };
        let is_named = |(known, _): &&(Span, Span)| known.of(&self.text).eq_ignore_ascii_case(name.as_bytes());
        that_may_be.iter().filter(is_named).map(|(_, value)| value.of(&self.text))
    }

    /// Which names its headers may have.
    pub fn names(&self) -> Names {
        self.names
    }

    /// Bytes of memory behind it.
    pub fn weight(&self) -> usize {
        self.text.capacity() + self.fields.capacity() * size_of::<(Span, Span)>()
    }

    /// The method of a request; empty for a response.
    pub fn method(&self) -> &[u8] {
        match self.start {
            StartLine::Request { method, .. } => method.of(&self.text),
            StartLine::Response { .. } => &[],
        }
    }

    /// The target of a request as on the wire; empty for a response.
    pub fn target(&self) -> &[u8] {
        match self.start {
            StartLine::Request { target, .. } => target.of(&self.text),
            StartLine::Response { .. } => &[],
        }
    }

    /// The scheme a request in HTTP/2 names, else empty.
    pub fn scheme(&self) -> &[u8] {
        self.pseudo.scheme.of(&self.text)
    }

    /// The `:authority` of a request in HTTP/2, else empty.
    pub fn authority(&self) -> &[u8] {
        self.pseudo.authority.of(&self.text)
    }

    /// The `:protocol` of an extended CONNECT, else empty.
    pub fn protocol(&self) -> &[u8] {
        self.pseudo.protocol.of(&self.text)
    }

    /// The status of a response; 0 for a request, and for a response whose status could not be read.
    pub fn status(&self) -> u16 {
        match self.start {
            StartLine::Request { .. } => 0,
            StartLine::Response { status, .. } => status,
        }
    }

    /// The reason phrase of a response; empty for a request.
    pub fn reason(&self) -> &[u8] {
        match self.start {
            StartLine::Request { .. } => &[],
            StartLine::Response { reason, .. } => reason.of(&self.text),
        }
    }
}

/// What a decoder makes of the bytes it was shown. `used` bytes are done with; the rest is shown again with more
/// behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step<'a> {
    /// The head of a message (an interim 1xx response too; it has no `End`).
    Head { head: Head, used: usize },
    /// Body bytes without their framing; empty where only framing was used.
    Body { data: &'a [u8], used: usize },
    /// The message is complete. Trailer fields, where there were any, as a `Head`'s text and fields.
    End { trailers: Option<Trailers>, used: usize },
    /// Nothing can be said before more bytes are there.
    More,
    /// These bytes are no message of this protocol; `resync` finds the next that is.
    Invalid(Invalid),
    /// The peers left HTTP for good: the rest of the stream is a tunnel or another protocol.
    Left,
}

/// Trailer fields: text, then name and value in wire order, as in [`Head`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trailers {
    pub text: Vec<u8>,
    pub fields: Vec<(Span, Span)>,
}

impl Trailers {
    /// Bytes of memory behind it.
    pub fn weight(&self) -> usize {
        self.text.capacity() + self.fields.capacity() * size_of::<(Span, Span)>()
    }
}

/// Why bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Invalid {
    StartLine,
    Header,
    HeadTooLarge,
    ContentLength,
    ChunkSize,
    ChunkEnd,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn headers_are_found_in_any_case(
            names in proptest::collection::vec("[a-cA-C-]{0,3}", 0..12),
            asked in "[a-cA-C-]{0,3}",
        ) {
            let mut text = Vec::new();
            let mut fields = Vec::new();
            for name in &names {
                let start = text.len() as u32;
                text.extend_from_slice(name.as_bytes());
                let value = Span { start, end: text.len() as u32 };
                fields.push((value, value));
            }
            let start = StartLine::Response { status: 200, reason: Span::default() };
            let head = Head::new(text, start, Pseudo::default(), Version::Http11, fields);
            let named = names.iter().filter(|name| name.eq_ignore_ascii_case(&asked));
            let expected: Vec<&[u8]> = named.map(String::as_bytes).collect();
            prop_assert_eq!(head.values(&asked).collect::<Vec<_>>(), expected.clone());
            prop_assert_eq!(head.header(&asked), expected.first().copied());
        }
    }
}
