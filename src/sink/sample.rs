//! Exchanges for tests, written down as they go over the wire.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::exchange::{
    Address, Body, BodyEncoding, Connection, Container, ContainerFacts, Direction, Exchange, Format, Level, Message,
    Missing, Process, Protocol, Record, StreamInfo, TagList,
};
use crate::proto::{Head, Pseudo, Span, StartLine, Trailers, Version, grpc};

/// 2026-03-01 12:00:00 UTC and some.
pub(crate) const START: u64 = 1_772_366_400_123_456_789;

/// Reads a head that is known to be good: lines that end in `\n`, `name: value`.
pub(crate) fn head(text: &[u8]) -> Head {
    let mut lines = lines(text).into_iter();
    let first = lines.next().expect("a start line");
    let words: Vec<Span> = spans(text, first, b' ').collect();
    let start = if first.of(text).starts_with(b"HTTP/") {
        let status = std::str::from_utf8(words[1].of(text)).expect("a status").parse().expect("a status");
        let reason = Span { start: words.get(2).map_or(first.end, |word| word.start), end: first.end };
        StartLine::Response { status, reason }
    } else {
        StartLine::Request { method: words[0], target: words[1] }
    };
    Head::new(text.to_vec(), start, Pseudo::default(), Version::Http11, fields(text, lines))
}

pub(crate) fn trailers(text: &[u8]) -> Trailers {
    Trailers { text: text.to_vec(), fields: fields(text, lines(text).into_iter()) }
}

/// Makes it a head of HTTP/2.
pub(crate) fn over_http2(head: &mut Head, scheme: &str, authority: &str) {
    let mut add = |text: &str| {
        let start = head.text.len() as u32;
        head.text.extend_from_slice(text.as_bytes());
        Span { start, end: head.text.len() as u32 }
    };
    head.pseudo = Pseudo { scheme: add(scheme), authority: add(authority), ..Pseudo::default() };
    head.version = Version::Http2;
}

fn lines(text: &[u8]) -> Vec<Span> {
    let whole = Span { start: 0, end: text.len() as u32 };
    spans(text, whole, b'\n').filter(|line| line.start < line.end).collect()
}

fn fields(text: &[u8], lines: impl Iterator<Item = Span>) -> Vec<(Span, Span)> {
    lines
        .map(|line| {
            let colon = line.of(text).iter().position(|&byte| byte == b':').expect("a colon") as u32;
            let name = Span { start: line.start, end: line.start + colon };
            let mut value = Span { start: name.end + 1, end: line.end };
            if value.of(text).starts_with(b" ") {
                value.start += 1;
            }
            (name, value)
        })
        .collect()
}

fn spans(text: &[u8], within: Span, separator: u8) -> impl Iterator<Item = Span> {
    let mut start = within.start;
    within.of(text).split(move |&byte| byte == separator).map(move |part| {
        let span = Span { start, end: start + part.len() as u32 };
        start = span.end + 1;
        span
    })
}

pub(crate) fn ip(address: &str) -> Address {
    Address::Ip(address.parse::<SocketAddr>().expect("an address"))
}

pub(crate) fn connection(direction: Direction, local: Address, remote: Address) -> Connection {
    let container = Container::new("4f0c8a1b2c3d4e5f60718293a4b5c6d7".to_owned());
    container.learn(Some(Arc::new(ContainerFacts {
        name: "haproxy-demo".to_owned(),
        image: "haproxy:2.9-alpine".to_owned(),
        ..ContainerFacts::default()
    })));
    let process = Process {
        pid: 987,
        exe: "/usr/local/sbin/haproxy".to_owned(),
        user_id: Some(99),
        user_name: Some("haproxy".to_owned()),
        container: Some(Arc::new(container)),
        ..Process::default()
    };
    Connection { id: 7, direction, local, remote, process: Arc::new(process), tls: None, written: Default::default() }
}

/// A client at 172.18.0.1 asks HAProxy.
pub(crate) fn ingress() -> Exchange {
    exchange(connection(Direction::Ingress, ip("172.18.0.2:80"), ip("172.18.0.1:40312")))
}

/// HAProxy asks a backend.
pub(crate) fn egress() -> Exchange {
    exchange(connection(Direction::EgressInternal, ip("172.18.0.2:55044"), ip("172.18.0.5:8001")))
}

fn exchange(connection: Connection) -> Exchange {
    Exchange {
        id: 42,
        connection: Arc::new(connection),
        protocol: Protocol::Http1,
        stream: None,
        request: None,
        response: None,
        missing: Vec::new(),
    }
}

fn message(head_text: &[u8], body: &[u8], first_byte: u64) -> Message {
    let head = head(head_text);
    let grpc = grpc::form_of(&head).map(|form| {
        let mut messages = grpc::Messages::new(form);
        messages.feed(body);
        Box::new(messages)
    });
    Message {
        head,
        body: Body { kept: body.to_vec(), wire_bytes: body.len() as u64, grpc },
        trailers: None,
        first_byte,
        last_byte: first_byte + 1_145_000,
    }
}

impl Exchange {
    pub(crate) fn request(mut self, head: impl AsRef<[u8]>, body: impl AsRef<[u8]>) -> Exchange {
        self.request = Some(message(head.as_ref(), body.as_ref(), START));
        self
    }

    /// The response, which is complete 12.345 ms after the request began.
    pub(crate) fn response(mut self, head: impl AsRef<[u8]>, body: impl AsRef<[u8]>) -> Exchange {
        self.response = Some(message(head.as_ref(), body.as_ref(), START + 11_200_000));
        self
    }

    /// What the request says beside method and path, in HTTP/2.
    pub(crate) fn over_http2(mut self, stream: u32, scheme: &str, authority: &str) -> Exchange {
        self.protocol = Protocol::Http2;
        self.stream = Some(StreamInfo { id: stream, pushed: false });
        if let Some(request) = &mut self.request {
            over_http2(&mut request.head, scheme, authority);
        }
        self
    }

    pub(crate) fn missing(mut self, missing: Missing) -> Exchange {
        self.missing.push(missing);
        self
    }

    pub(crate) fn record(self, level: Level, format: Format) -> Record {
        Record::Exchange {
            exchange: Box::new(self),
            level,
            format,
            encoding: BodyEncoding::Auto,
            max_body_bytes: 1 << 20,
            redact: None,
            tags: TagList::default(),
        }
    }

    pub(crate) fn json(self, level: Level) -> String {
        written(&self.record(level, Format::Json))
    }

    pub(crate) fn text(self, level: Level) -> String {
        written(&self.record(level, Format::Text))
    }
}

/// What a sink would write.
pub(crate) fn written(record: &Record) -> String {
    let mut out = Vec::new();
    super::Formatter::default().append(&mut out, record);
    String::from_utf8(out).expect("output is always UTF-8")
}

/// A folder of its own for a test, gone at its end.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("sidetap-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("a folder for temporary files");
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
