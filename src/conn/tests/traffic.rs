//! Conversations over HTTP/1 for tests: messages that say whose they are, cut into calls, with the truth beside them.

use std::ops::Range;

use crate::bpf::Flow;

/// What one request and its response look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Get,
    /// Bytes up and down, with lengths.
    Length(usize, usize),
    /// Bytes up and down, in chunks; trailers down.
    Chunked(usize, usize),
    Head,
    NoContent,
    NotModified,
    /// Two interim responses before the final one.
    Interim,
    /// Refuses to leave HTTP.
    Refused,
    /// These end the conversation.
    UntilClose(usize),
    Connect,
    Upgrade,
}

impl Kind {
    pub fn is_last(self) -> bool {
        matches!(self, Kind::UntilClose(_) | Kind::Connect | Kind::Upgrade)
    }

    /// The client waits for the response before it sends more.
    pub fn is_alone(self) -> bool {
        self.is_last() || self == Kind::Refused
    }

    fn up(self) -> usize {
        match self {
            Kind::Length(up, _) | Kind::Chunked(up, _) => up,
            _ => 0,
        }
    }

    fn down(self) -> usize {
        match self {
            Kind::Get | Kind::Interim | Kind::Refused => 5,
            Kind::Length(_, down) | Kind::Chunked(_, down) | Kind::UntilClose(down) => down,
            _ => 0,
        }
    }

    pub fn request_body(self, id: usize) -> Vec<u8> {
        body('u', id, self.up())
    }

    pub fn response_body(self, id: usize) -> Vec<u8> {
        body('d', id, self.down())
    }

    /// The request as on the wire; its path is the id.
    pub fn request(self, id: usize) -> Vec<u8> {
        let (method, fields) = match self {
            Kind::Head => ("HEAD", String::new()),
            Kind::Length(up, _) => ("POST", format!("Content-Length: {up}\r\n")),
            Kind::Chunked(..) => ("PUT", "Transfer-Encoding: chunked\r\n".into()),
            Kind::Connect => ("CONNECT", String::new()),
            Kind::Upgrade | Kind::Refused => ("GET", "Connection: upgrade\r\nUpgrade: websocket\r\n".into()),
            _ => ("GET", String::new()),
        };
        let mut wire = format!("{method} /{id} HTTP/1.1\r\nHost: a\r\n{fields}\r\n").into_bytes();
        match self {
            Kind::Chunked(..) => wire.extend(chunks(&self.request_body(id), "")),
            _ => wire.extend(self.request_body(id)),
        }
        wire
    }

    /// The response as on the wire, interim ones first; its header `X-Id` is the id.
    pub fn response(self, id: usize) -> Vec<u8> {
        let down = self.down();
        let (interim, status, fields) = match self {
            Kind::Get | Kind::Length(..) | Kind::Refused => ("", "200 OK", format!("Content-Length: {down}\r\n")),
            Kind::Chunked(..) => ("", "200 OK", "Transfer-Encoding: chunked\r\n".into()),
            Kind::Head => ("", "200 OK", "Content-Length: 500\r\n".into()),
            Kind::NoContent => ("", "204 No Content", String::new()),
            Kind::NotModified => ("", "304 Not Modified", "Content-Length: 500\r\n".into()),
            Kind::Interim => (
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n",
                "201 Created",
                format!("Content-Length: {down}\r\n"),
            ),
            Kind::UntilClose(_) => ("", "200 OK", "Connection: close\r\n".into()),
            Kind::Connect => ("", "200 OK", String::new()),
            Kind::Upgrade => ("", "101 Switching Protocols", "Upgrade: websocket\r\n".into()),
        };
        let mut wire = format!("{interim}HTTP/1.1 {status}\r\nX-Id: {id}\r\n{fields}\r\n").into_bytes();
        match self {
            Kind::Chunked(..) => wire.extend(chunks(&self.response_body(id), "X-Sum: 1\r\n")),
            _ => wire.extend(self.response_body(id)),
        }
        wire
    }
}

/// Bytes that are their own and hold no line break.
fn body(way: char, id: usize, len: usize) -> Vec<u8> {
    format!("<{way}{id}>").bytes().cycle().take(len).collect()
}

fn chunks(body: &[u8], trailers: &str) -> Vec<u8> {
    let mut wire = Vec::new();
    for chunk in body.chunks(700) {
        wire.extend(format!("{:x};n=v\r\n", chunk.len()).into_bytes());
        wire.extend(chunk);
        wire.extend(b"\r\n");
    }
    wire.extend(format!("0\r\n{trailers}\r\n").into_bytes());
    wire
}

/// Numbers that a test drew, over and over again.
#[derive(Clone)]
pub struct Dice(pub Vec<u16>, pub usize);

impl std::fmt::Debug for Dice {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl Dice {
    pub fn roll(&mut self, sides: usize) -> usize {
        self.1 += 1;
        usize::from(self.0[self.1 % self.0.len()]) % sides.max(1)
    }
}

/// Bytes that one call moved.
#[derive(Debug, Clone)]
pub struct Call {
    pub flow: Flow,
    /// Of the first byte, from the start of the stream.
    pub at: usize,
    pub bytes: Vec<u8>,
    pub time: u64,
}

/// Calls in the order in which a server made them.
#[derive(Debug, Clone, Default)]
pub struct Script {
    pub calls: Vec<Call>,
    pub time: u64,
    pub sent: [usize; 2],
    /// Body bytes of known length: stream positions, by flow.
    pub bodies: [Vec<Range<usize>>; 2],
}

impl Script {
    /// So many bytes of some messages, moved by calls of drawn sizes; a start line is never cut.
    pub fn say(&mut self, flow: Flow, messages: &[Vec<u8>], dice: &mut Dice) {
        let mut bytes = Vec::new();
        let mut uncut = Vec::new();
        for message in messages {
            let line = message.iter().position(|&byte| byte == b'\n').map_or(message.len(), |end| end + 1);
            uncut.push(bytes.len()..bytes.len() + line);
            bytes.extend(message);
        }
        let mut at = 0;
        while at < bytes.len() {
            let most = [8, 60, 400, 40_000][dice.roll(4)];
            let mut end = (at + 1 + dice.roll(most)).min(bytes.len());
            if let Some(start_line) = uncut.iter().find(|line| line.start < end && end < line.end) {
                end = start_line.end;
            }
            self.call(flow, &bytes[at..end]);
            at = end;
        }
    }

    pub fn call(&mut self, flow: Flow, bytes: &[u8]) {
        self.time += 1000;
        let at = self.sent[flow as usize];
        self.calls.push(Call { flow, at, bytes: bytes.to_vec(), time: self.time });
        self.sent[flow as usize] += bytes.len();
    }

    /// Exchanges in groups of requests that are sent before the first of their responses.
    pub fn converse(kinds: &[Kind], groups: &mut Dice, most: usize, dice: &mut Dice) -> Script {
        Script::converse_in(kinds, &Script::groups(kinds, groups, most), dice)
    }

    /// Which requests are sent before the first of their responses: `most` at once.
    pub fn groups(kinds: &[Kind], dice: &mut Dice, most: usize) -> Vec<Range<usize>> {
        let (mut groups, mut at) = (Vec::new(), 0);
        while at < kinds.len() {
            let mut size = 1 + dice.roll(most);
            size = size.min(kinds.len() - at);
            if let Some(alone) = kinds[at..at + size].iter().position(|kind| kind.is_alone()) {
                size = alone.max(1);
            }
            groups.push(at..at + size);
            at += size;
        }
        groups
    }

    /// Says these exchanges, those of a group at once.
    pub fn converse_in(kinds: &[Kind], groups: &[Range<usize>], dice: &mut Dice) -> Script {
        let mut script = Script { time: 1_000_000, ..Script::default() };
        for group in groups {
            let end = group.end;
            let group: Vec<(usize, Kind)> = group.clone().map(|id| (id, kinds[id])).collect();
            let requests: Vec<Vec<u8>> = group.iter().map(|&(id, kind)| kind.request(id)).collect();
            let responses: Vec<Vec<u8>> = group.iter().map(|&(id, kind)| kind.response(id)).collect();
            for (flow, messages) in [(Flow::Received, &requests), (Flow::Sent, &responses)] {
                let mut start = script.sent[flow as usize];
                for (message, &(id, kind)) in messages.iter().zip(&group) {
                    let len = match (flow, kind) {
                        (_, Kind::Chunked(..) | Kind::UntilClose(_)) => 0,
                        (Flow::Received, _) => kind.request_body(id).len(),
                        (Flow::Sent, _) => kind.response_body(id).len(),
                    };
                    start += message.len();
                    script.bodies[flow as usize].push(start - len..start);
                }
                script.say(flow, messages, dice);
            }
            if group.iter().any(|(_, kind)| matches!(kind, Kind::Connect | Kind::Upgrade)) {
                for (flow, bytes) in
                    [(Flow::Received, b"GET "), (Flow::Sent, b"\0\x01\x02\x03"), (Flow::Received, b"more")]
                {
                    script.call(flow, bytes);
                }
            }
            if kinds[end - 1].is_last() {
                break;
            }
        }
        script
    }
}

impl Dice {
    /// The same dice, so many rolls on.
    pub fn skip(mut self, rolls: usize) -> Dice {
        self.1 += rolls;
        self
    }
}
