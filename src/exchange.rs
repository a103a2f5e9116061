//! The one record: request, response, times, sizes, and what is missing.
//!
//! Owns the types that decoders fill, rules look at and sinks write. It does no I/O and knows no socket: where the
//! bytes came from is in [`Connection`], by value.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};

use crate::proto::grpc::Messages;
use crate::proto::{Head, Trailers};
use crate::redact::Redact;
use crate::tls::{Info, Uncovered};

pub mod grpc;
pub mod http;
mod http1;
pub(crate) mod http2;
pub mod pairing;
mod who;

pub use who::{Attachment, Container, ContainerFacts, Pod, Process, Shares};

/// Nanoseconds since the Unix epoch.
pub type Nanos = u64;

/// Which side of the watched process a connection is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// The process was connected to.
    Ingress,
    /// The process connected to a private, loopback, link-local or Unix address.
    EgressInternal,
    /// The process connected to a public address.
    EgressExternal,
}

impl Direction {
    pub fn name(self) -> &'static str {
        match self {
            Direction::Ingress => "ingress",
            Direction::EgressInternal => "egress-internal",
            Direction::EgressExternal => "egress-external",
        }
    }
}

/// One end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    Ip(SocketAddr),
    /// A Unix socket's path, `@name` for an abstract one, empty for an unnamed one.
    Unix(String),
}

impl Address {
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Address::Ip(address) => Some(address.ip()),
            Address::Unix(_) => None,
        }
    }

    pub fn port(&self) -> Option<u16> {
        match self {
            Address::Ip(address) => Some(address.port()),
            Address::Unix(_) => None,
        }
    }
}

/// What holds for all exchanges of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    pub id: u64,
    pub direction: Direction,
    pub local: Address,
    pub remote: Address,
    pub process: Arc<Process>,
    /// None in the clear.
    pub tls: Option<Tls>,
    pub written: Written,
}

/// What is written of a connection in each of its records, made once: text of three parts, and where the second and the
/// third begin. No part of what is known of it: a copy, which may differ, begins without, and all are equal.
#[derive(Debug, Default)]
pub struct Written(OnceLock<(Vec<u8>, [usize; 2])>);

impl Written {
    /// The parts, from `make` where there are none yet: to whoever asks, the same.
    pub fn get_or_make(&self, make: impl FnOnce() -> (Vec<u8>, [usize; 2])) -> [&[u8]; 3] {
        let (text, [second, third]) = self.0.get_or_init(make);
        [&text[..*second], &text[*second..*third], &text[*third..]]
    }
}

impl Clone for Written {
    fn clone(&self) -> Written {
        Written::default()
    }
}

impl PartialEq for Written {
    fn eq(&self, _: &Written) -> bool {
        true
    }
}

impl Eq for Written {}

/// TLS on a connection, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tls {
    /// What its handshake says.
    pub info: Info,
    /// The one that the watched process uses.
    pub library: Option<&'static str>,
    /// Why the connection cannot be opened; none where it can, or may yet.
    pub uncovered: Option<Uncovered>,
}

impl Connection {
    /// Who asks: the peer for ingress, the watched process for egress.
    pub fn source(&self) -> &Address {
        if self.direction == Direction::Ingress { &self.remote } else { &self.local }
    }

    /// Who answers.
    pub fn destination(&self) -> &Address {
        if self.direction == Direction::Ingress { &self.local } else { &self.remote }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2,
    /// In connection events only.
    Dns,
}

impl Protocol {
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Http1 => "http1",
            Protocol::Http2 => "http2",
            Protocol::Dns => "dns",
        }
    }
}

/// How much of an exchange is kept. The order is that of the amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    #[default]
    None,
    Summary,
    #[serde(alias = "details")]
    Headers,
    Full,
}

/// A message body: what was kept of it and what there was.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Body {
    /// The body as on the wire without transfer coding, as far as it was kept: always a prefix.
    pub kept: Vec<u8>,
    /// How many body bytes the wire carried, kept or not, without the framing of the transfer coding.
    pub wire_bytes: u64,
    /// The messages of gRPC in it, where it is some.
    pub grpc: Option<Box<Messages>>,
}

/// One side of an exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub head: Head,
    pub body: Body,
    pub trailers: Option<Trailers>,
    pub first_byte: Nanos,
    pub last_byte: Nanos,
}

/// What an exchange lacks, and why. The names are what users see in `incomplete`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Missing {
    /// No request was seen for this response: joined midway, or lost.
    Request,
    /// No response was seen for this request.
    Response,
    /// The connection ended, or the agent stopped, before the message was complete.
    RequestAborted,
    ResponseAborted,
    /// The body is longer than `max_body_bytes`; the first so many bytes are there.
    RequestBodyTruncated(u64),
    ResponseBodyTruncated(u64),
    /// So many body bytes went by without passing through the process's memory (sendfile, splice, io_uring).
    RequestBodyNotObservable(u64),
    ResponseBodyNotObservable(u64),
    /// So many body bytes were lost on the way from the kernel.
    RequestBodyLost(u64),
    ResponseBodyLost(u64),
    /// The body was dropped because the agent reached its memory limit.
    RequestBodyOverMemory,
    ResponseBodyOverMemory,
    /// The message does not follow its protocol from some point on.
    RequestMalformed,
    ResponseMalformed,
    /// Bytes were lost before this exchange, and more than one request may have been open: the two may not belong
    /// together.
    PairingUncertain,
    /// The exchange was still open when the agent stopped.
    AgentStopped,
    /// Names or values of this head or its trailers were sent before the agent came, and read `<unknown>` (HPACK).
    RequestHeadersUnknown,
    ResponseHeadersUnknown,
    /// Bytes of the connection were lost while this side was open: any part of it may be missing.
    RequestLost,
    ResponseLost,
    /// The stream was given up (RST_STREAM), with that error code.
    ResetByClient(u32),
    ResetByServer(u32),
    /// It goes on: this is what is known by now, without bodies. Another record follows.
    StillOpen,
    /// The server has ended the connection without an answer to this stream (GOAWAY), with that error code.
    GoAway(u32),
}

/// Where in a connection of HTTP/2 an exchange is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamInfo {
    pub id: u32,
    /// The server began it by itself, with a request of its own making (PUSH_PROMISE).
    pub pushed: bool,
}

/// A request and its response, or what was seen of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// Unique on this machine, also after a restart; in a replay counted from 1.
    pub id: u64,
    pub connection: Arc<Connection>,
    pub protocol: Protocol,
    pub stream: Option<StreamInfo>,
    pub request: Option<Message>,
    pub response: Option<Message>,
    pub missing: Vec<Missing>,
}

impl Exchange {
    /// Time of the first byte: the request's, or the response's where there is no request.
    pub fn started(&self) -> Nanos {
        self.request.as_ref().or(self.response.as_ref()).map_or(0, |message| message.first_byte)
    }

    /// Body bytes held in memory.
    pub fn kept(&self) -> usize {
        let kept = |message: &Option<Message>| message.as_ref().map_or(0, |message| message.body.kept.len());
        kept(&self.request) + kept(&self.response)
    }

    /// Bytes of memory that it takes beside its bodies.
    pub fn weight(&self) -> usize {
        let weight = |message: &Message| message.head.weight() + message.trailers.as_ref().map_or(0, Trailers::weight);
        size_of::<Exchange>() + self.messages().map(weight).sum::<usize>()
    }

    /// What the watched process sent of it, without the framing of chunks and without trailers; none where that side was
    /// not seen.
    pub fn bytes_sent(&self) -> Option<u64> {
        let is_server = self.connection.direction == Direction::Ingress;
        if is_server { self.response.as_ref() } else { self.request.as_ref() }.map(Message::size)
    }

    /// What the watched process received of it, likewise.
    pub fn bytes_received(&self) -> Option<u64> {
        let is_server = self.connection.direction == Direction::Ingress;
        if is_server { self.request.as_ref() } else { self.response.as_ref() }.map(Message::size)
    }

    /// Those of the two that were seen, the request first.
    pub fn messages(&self) -> impl Iterator<Item = &Message> {
        [&self.request, &self.response].into_iter().flatten()
    }

    pub fn messages_mut(&mut self) -> impl Iterator<Item = &mut Message> {
        [&mut self.request, &mut self.response].into_iter().flatten()
    }

    /// First byte of the request to last byte of the response; none unless both were seen.
    pub fn duration(&self) -> Option<Nanos> {
        let (request, response) = (self.request.as_ref()?, self.response.as_ref()?);
        Some(response.last_byte.saturating_sub(request.first_byte))
    }

    /// The same in milliseconds.
    pub fn duration_ms(&self) -> Option<f64> {
        self.duration().map(millis)
    }

    /// First byte of the request to first byte of the response; none unless both were seen.
    pub fn ttfb(&self) -> Option<Nanos> {
        let (request, response) = (self.request.as_ref()?, self.response.as_ref()?);
        Some(response.first_byte.saturating_sub(request.first_byte))
    }

    /// The same in milliseconds.
    pub fn ttfb_ms(&self) -> Option<f64> {
        self.ttfb().map(millis)
    }
}

impl Message {
    /// Bytes of head and body on the wire.
    fn size(&self) -> u64 {
        self.head.text.len() as u64 + self.body.wire_bytes
    }
}

fn millis(nanos: Nanos) -> f64 {
    nanos as f64 / 1e6
}

/// A connection's own event, for the event stores: written when it closes and every 10 s while it is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionEvent {
    pub connection: Arc<Connection>,
    /// None while nothing was recognised.
    pub protocol: Option<Protocol>,
    /// When it was opened; none for a connection older than the agent.
    pub opened: Option<Nanos>,
    pub observed: Nanos,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    /// Of both: what did not arrive here.
    pub bytes_lost: u64,
    pub transactions: u64,
    /// The connection is closed; this is its last event.
    pub finalized: bool,
    /// An errno name (`ECONNREFUSED`), where the connection failed.
    pub error: Option<String>,
}

/// An object that was put into an object store, for the event stores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    pub time: Nanos,
    pub url: String,
    pub bytes: u64,
    /// SHA-256 of the object, in hexadecimal.
    pub digest: String,
    /// How many are in it.
    pub transactions: u64,
    /// Where it is a single one.
    pub summary: Option<Summary>,
}

/// Of a transaction, enough to know it again. What is not known is empty, or 0.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    pub request_id: String,
    pub method: String,
    pub url: String,
    pub status: u16,
}

/// Keys and values, shared by the records that have the same; of most, none, which costs nothing to share.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TagList(Option<Arc<Vec<(String, String)>>>);

impl From<Vec<(String, String)>> for TagList {
    fn from(tags: Vec<(String, String)>) -> TagList {
        TagList((!tags.is_empty()).then(|| Arc::new(tags)))
    }
}

impl std::ops::Deref for TagList {
    type Target = [(String, String)];

    fn deref(&self) -> &[(String, String)] {
        self.0.as_ref().map_or(&[], |tags| tags)
    }
}

/// What goes to the sinks.
#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    /// An exchange, with how much of it is to be written and in which form.
    Exchange {
        exchange: Box<Exchange>,
        level: Level,
        format: Format,
        encoding: BodyEncoding,
        max_body_bytes: usize,
        /// What to mask in bodies; heads have been.
        redact: Option<Arc<Redact>>,
        tags: TagList,
    },
    /// What `report_usage` tells of an exchange, with values of these headers. It has no bodies.
    Usage {
        exchange: Box<Exchange>,
        headers: Arc<[Box<str>]>,
        tags: TagList,
    },
    Connection(Box<ConnectionEvent>),
    Artifact(Box<Artifact>),
}

impl Record {
    /// For the object stores, not the event stores.
    pub fn is_object(&self) -> bool {
        matches!(self, Record::Exchange { .. })
    }

    /// Whether it is to be written as JSON.
    pub fn is_json(&self) -> bool {
        !matches!(self, Record::Exchange { format, .. } if *format != Format::Json)
    }
}

/// How an exchange is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    #[default]
    Json,
    Text,
    /// One line, for people.
    Console,
    /// The Common Log Format: one line, for tools that read logs of web servers.
    Common,
    /// The same with `Referer` and `User-Agent`: the Combined Log Format.
    Combined,
}

/// How a body is written in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BodyEncoding {
    /// Text where the body is UTF-8, else base64.
    #[default]
    Auto,
    Base64,
}
