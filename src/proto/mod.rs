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
}

impl Head {
    /// The headers in wire order.
    pub fn headers(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.fields.iter().map(|(name, value)| (name.of(&self.text), value.of(&self.text)))
    }

    /// The first header of that name, in any case.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers().find(|(n, _)| n.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value)
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
