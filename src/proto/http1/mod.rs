//! HTTP/1.0 and HTTP/1.1 (RFC 9112), one direction of a connection at a time.
//!
//! Owns the framing: where a head ends, how long its body is, what comes next. It does not pair requests with
//! responses, does not undo content codings and keeps no body bytes.
//!
//! # What it takes that senders must not send
//!
//! A watcher cannot refuse a message: where the watched peers go on, it has to. But where recipients disagree about
//! where a message ends, a claim could be false, and the bytes are `Invalid` instead.
//!
//! | leniency | why |
//! |---|---|
//! | LF alone ends a line, in heads, chunk-size lines and trailers | RFC 9112 section 2.2 lets recipients; old peers send it |
//! | up to 64 bytes of empty lines before a start line | the same section; clients send CRLF after a body |
//! | more than one space between the parts of a start line, spaces behind a request line | section 3 lets recipients |
//! | a status line that ends behind the status | servers leave the space out, section 4 |
//! | bytes from 0x80 up in a target | clients send raw UTF-8 and servers take it |
//! | folded values, also in requests | section 5.2; made one line with spaces, as a proxy does |
//! | white space before the colon, in responses only | section 5.1 has proxies remove it; in requests servers must refuse it |
//! | `Content-Length: 5, 5`, or twice the same | section 6.3 rule 5 |
//! | `Transfer-Encoding` beside `Content-Length` | the transfer coding decides: section 6.3 rule 3 |
//! | `Transfer-Encoding` in HTTP/1.0 | recipients that accept it go by it; the others close the connection, section 6.1 |
//!
//! Not taken: a CR or NUL inside a line, a first field line that starts with white space, a request whose last transfer
//! coding is not `chunked` (or names it twice), contents of `Content-Length` that are no number or differ, HTTP/0.9.

mod framing;
mod grammar;
mod head;
mod looks;
#[cfg(test)]
mod oracles;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

pub use framing::wants_upgrade;
pub use looks::{Looks, looks_like_request, looks_like_response, may_begin_with_method};

use super::{Invalid, Step};
use framing::{Framing, framing};
use head::Search;

/// The longest head or trailer section, in bytes.
pub const MAX_HEAD: usize = 1 << 20;
/// The most lines in a head or trailer section, start line not counted.
pub const MAX_FIELDS: usize = 1 << 14;
/// The longest method, in bytes.
pub const MAX_METHOD: usize = 64;
/// The longest chunk-size line with its extensions, in bytes.
pub const MAX_CHUNK_LINE: usize = 1 << 14;
/// The most bytes of empty lines before a start line.
const MAX_BLANK: usize = 64;

/// What the response decoder must know of the request it answers (RFC 9112 section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    Normal,
    Head,
    Connect,
}

/// What the end of the stream means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// It came between messages.
    Clean,
    /// It ends the open message, as the message said it would.
    Complete,
    /// It came in the midst of a message.
    Cut,
}

/// So many unseen bytes cannot be stepped over: where the next message starts is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Request,
    Response,
}

/// Where in the stream the decoder stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Between messages or in a head.
    Head,
    /// In a body with so many bytes left.
    Length(u64),
    UntilClose,
    ChunkSize,
    /// In a chunk with so many bytes left.
    ChunkData(u64),
    /// At the line break behind a chunk's data.
    ChunkEnd,
    Trailers,
    /// All of the message was seen; its `End` is still to be told.
    End,
    /// The same, and HTTP ends with it.
    LastEnd,
    Tunnel,
    /// The bytes are no message.
    Invalid(Invalid),
}

/// Decodes one direction of a connection.
///
/// The caller keeps the bytes not yet used and shows them with more behind them. It calls `step` until it answers
/// `More`, `Invalid` or `Left`, also when no byte is left: an `End` may be due.
#[derive(Debug)]
pub struct Decoder {
    side: Side,
    state: State,
    /// The search for the end of a head, trailer section or chunk-size line in progress.
    search: Search,
}

impl Decoder {
    /// For the direction that carries requests.
    pub fn request() -> Decoder {
        Decoder::new(Side::Request)
    }

    /// For the direction that carries responses.
    pub fn response() -> Decoder {
        Decoder::new(Side::Response)
    }

    fn new(side: Side) -> Decoder {
        Decoder { side, state: State::Head, search: Search::default() }
    }

    /// What the stream holds next. `input`: all bytes not yet used, in order.
    ///
    /// `asked` only matters when the head of a response completes. After `Invalid` the answer stays the same until
    /// [`resync`](Decoder::resync).
    pub fn step<'a>(&mut self, input: &'a [u8], asked: Asked) -> Step<'a> {
        self.search.check(input);
        match self.state {
            State::Head => self.head(input, asked),
            State::Length(left) => self.known_length(input, left),
            State::UntilClose if input.is_empty() => Step::More,
            State::UntilClose => Step::Body { data: input, used: input.len() },
            State::ChunkSize | State::ChunkData(_) | State::ChunkEnd => {
                self.chunked(input).unwrap_or_else(|why| self.invalid(why))
            }
            State::Trailers => self.trailers(input, 0).unwrap_or_else(|why| self.invalid(why)),
            State::End => self.end(State::Head),
            State::LastEnd => self.end(State::Tunnel),
            State::Tunnel => Step::Left,
            State::Invalid(why) => Step::Invalid(why),
        }
    }

    fn invalid<'a>(&mut self, why: Invalid) -> Step<'a> {
        self.state = State::Invalid(why);
        Step::Invalid(why)
    }

    /// `n` bytes of the stream, behind all that was used, were not seen. Answers how many of them were body bytes.
    ///
    /// A body of known length, a body until close, the data of one chunk and a tunnel let them be stepped over, as far
    /// as they reach. Elsewhere, and beyond, it is `Lost` and nothing changes: [`finish`](Decoder::finish) can still
    /// tell whether a message was open, then [`resync`](Decoder::resync) looks for the next.
    pub fn gap(&mut self, n: u64) -> Result<u64, Lost> {
        match self.state {
            State::Length(left) if n <= left => self.state = State::length(left - n),
            State::ChunkData(left) if n <= left => self.state = State::chunk_data(left - n),
            State::UntilClose => {}
            State::Tunnel => return Ok(0),
            _ if n == 0 => {}
            _ => return Err(Lost),
        }
        Ok(n)
    }

    /// The stream ended here. What does that mean for the open message?
    pub fn finish(&self) -> Finish {
        match self.state {
            State::Head if self.search.is_in_message() => Finish::Cut,
            State::Head | State::Tunnel => Finish::Clean,
            State::UntilClose | State::End | State::LastEnd => Finish::Complete,
            _ => Finish::Cut,
        }
    }

    /// How many body bytes certainly follow before there is anything to parse: `u64::MAX` until close and in a
    /// tunnel, 0 between messages and in heads.
    pub fn certain_body(&self) -> u64 {
        match self.state {
            State::Length(left) | State::ChunkData(left) => left,
            State::UntilClose | State::Tunnel => u64::MAX,
            _ => 0,
        }
    }

    /// Forgets what was open and looks for the start of a message at the next byte shown.
    pub fn resync(&mut self) {
        self.state = State::Head;
        self.search.reset();
    }

    /// The peers leave HTTP: what follows in this direction is a tunnel. For the request side, once the response to a
    /// request that [wants it](wants_upgrade) is known.
    pub fn leave(&mut self) {
        self.state = State::Tunnel;
        self.search.reset();
    }

    /// Its answer is large, and made in its place.
    fn head<'a>(&mut self, input: &[u8], asked: Asked) -> Step<'a> {
        let (head, used) = match self.search.head(input, self.side) {
            Ok(Some(found)) => found,
            Ok(None) => return Step::More,
            Err(why) => return self.invalid(why),
        };
        self.state = match framing(&head, self.side, asked) {
            Ok(Framing::NextHead) => State::Head,
            Ok(Framing::Length(length)) => State::length(length),
            Ok(Framing::Chunked) => State::ChunkSize,
            Ok(Framing::UntilClose) => State::UntilClose,
            Ok(Framing::Tunnel) => State::LastEnd,
            Err(why) => return self.invalid(why),
        };
        Step::Head { head, used }
    }

    fn known_length<'a>(&mut self, input: &'a [u8], left: u64) -> Step<'a> {
        if input.is_empty() {
            return Step::More;
        }
        let data = first(input, left);
        self.state = State::length(left - data.len() as u64);
        Step::Body { data, used: data.len() }
    }

    /// Steps through framing until there are data, the body ends or the input does (RFC 9112 section 7.1).
    fn chunked<'a>(&mut self, input: &'a [u8]) -> Result<Step<'a>, Invalid> {
        let mut used = 0;
        loop {
            let rest = &input[used..];
            let framing = match self.state {
                State::ChunkSize => self.chunk_size(rest)?,
                State::ChunkEnd => self.chunk_end(rest)?,
                State::ChunkData(left) if !rest.is_empty() => {
                    let data = first(rest, left);
                    self.state = State::chunk_data(left - data.len() as u64);
                    return Ok(Step::Body { data, used: used + data.len() });
                }
                State::Trailers => return self.trailers(rest, used),
                _ => None,
            };
            match framing {
                Some(bytes) => used += bytes,
                None if used == 0 => return Ok(Step::More),
                None => return Ok(Step::Body { data: &[], used }),
            }
        }
    }

    /// The bytes of a chunk-size line; none while it is not complete.
    fn chunk_size(&mut self, input: &[u8]) -> Result<Option<usize>, Invalid> {
        let Some((line, used)) = self.search.chunk_line(input)? else { return Ok(None) };
        self.state = match grammar::chunk_size(line).ok_or(Invalid::ChunkSize)? {
            0 => State::Trailers,
            size => State::ChunkData(size),
        };
        Ok(Some(used))
    }

    /// The bytes of the line break behind a chunk; none while it is not complete.
    fn chunk_end(&mut self, input: &[u8]) -> Result<Option<usize>, Invalid> {
        let used = match input {
            [b'\r', b'\n', ..] => 2,
            [b'\n', ..] => 1,
            [] | [b'\r'] => return Ok(None),
            _ => return Err(Invalid::ChunkEnd),
        };
        self.state = State::ChunkSize;
        Ok(Some(used))
    }

    /// `before`: bytes of the last chunk's line before `input`, which are used with it.
    fn trailers<'a>(&mut self, input: &[u8], before: usize) -> Result<Step<'a>, Invalid> {
        match self.search.trailers(input, self.side)? {
            Some((trailers, used)) => {
                self.state = State::Head;
                Ok(Step::End { trailers, used: before + used })
            }
            None if before == 0 => Ok(Step::More),
            None => Ok(Step::Body { data: &[], used: before }),
        }
    }

    fn end<'a>(&mut self, next: State) -> Step<'a> {
        self.state = next;
        Step::End { trailers: None, used: 0 }
    }
}

impl State {
    fn length(left: u64) -> State {
        if left == 0 { State::End } else { State::Length(left) }
    }

    fn chunk_data(left: u64) -> State {
        if left == 0 { State::ChunkEnd } else { State::ChunkData(left) }
    }
}

/// The first `n` bytes, or as many as there are.
fn first(input: &[u8], n: u64) -> &[u8] {
    let n = usize::try_from(n).unwrap_or(usize::MAX).min(input.len());
    &input[..n]
}
