//! What each section of RFC 9113 asks for, what the decoder does where peers do otherwise, and the bounds.

use super::hpack::encoder::{Encoder, Way};
use super::*;
use crate::proto::{Head, Span};

/// What a reader of one direction is told, with all bytes of a body that come in a row as one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    Head { stream: u32, start: Vec<String>, fields: Vec<(String, String)>, end: bool, complete: bool },
    Promise { stream: u32, promised: u32, start: Vec<String>, fields: Vec<(String, String)>, complete: bool },
    Trailers { stream: u32, fields: Vec<(String, String)>, complete: bool },
    Data { stream: u32, data: Vec<u8>, end: bool },
    Reset { stream: u32, code: u32 },
    GoAway { last_stream: u32, code: u32 },
    Settings(Settings),
    Invalid(Invalid),
}

/// One direction of a connection, read in pieces as a caller does it.
pub(super) struct Reader {
    pub decoder: Decoder,
    pub events: Vec<Event>,
    /// The position behind each event.
    pub places: Vec<u64>,
    /// The position of the first byte not used.
    pub position: u64,
    unused: Vec<u8>,
    /// What comes next does not follow what was told.
    is_cut: bool,
}

impl Reader {
    pub fn new(decoder: Decoder, position: u64) -> Reader {
        Reader { decoder, events: Vec::new(), places: Vec::new(), position, unused: Vec::new(), is_cut: false }
    }

    pub fn read(&mut self, piece: &[u8]) {
        self.unused.extend_from_slice(piece);
        loop {
            let step = self.decoder.step(&self.unused);
            let used = step.used();
            assert!(used <= self.unused.len(), "used {used} of {}", self.unused.len());
            let is_done = matches!(step, Step::More | Step::Invalid(_));
            let event = event(step);
            assert!(is_done || used > 0 || event.is_some(), "a step uses bytes or says something");
            self.position += used as u64;
            self.unused.drain(..used);
            if let Some(event) = event {
                self.tell(event);
            }
            if is_done {
                return;
            }
        }
    }

    /// The bytes not used and `n` behind them were not seen.
    pub fn miss(&mut self, n: u64) -> Result<Missed, Lost> {
        let all = self.unused.len() as u64 + n;
        self.unused.clear();
        self.position += all;
        let missed = self.decoder.gap(all);
        self.is_cut = missed.is_err();
        missed
    }

    pub fn unused(&self) -> usize {
        self.unused.len()
    }

    fn tell(&mut self, event: Event) {
        let is_cut = std::mem::take(&mut self.is_cut);
        match (self.events.last_mut(), event) {
            (
                Some(Event::Data { stream, data, end: end @ false }),
                Event::Data { stream: other, data: more, end: more_end },
            ) if *stream == other && !is_cut => {
                data.extend(more);
                *end = more_end;
                *self.places.last_mut().unwrap() = self.position;
            }
            (Some(Event::Invalid(_)), Event::Invalid(_)) => {}
            (_, event) => {
                self.events.push(event);
                self.places.push(self.position);
            }
        }
    }
}

fn event(step: Step<'_>) -> Option<Event> {
    Some(match step {
        Step::Head { stream, head, end_stream: end, complete, .. } => {
            Event::Head { stream, start: start(&head), fields: strings(&head.text, &head.fields), end, complete }
        }
        Step::Promise { stream, promised, head, complete, .. } => Event::Promise {
            stream,
            promised,
            start: start(&head),
            fields: strings(&head.text, &head.fields),
            complete,
        },
        Step::Trailers { stream, trailers, complete, .. } => {
            Event::Trailers { stream, fields: strings(&trailers.text, &trailers.fields), complete }
        }
        Step::Data { stream, data, end_stream: end, .. } => Event::Data { stream, data: data.to_vec(), end },
        Step::Reset { stream, code, .. } => Event::Reset { stream, code },
        Step::GoAway { last_stream, code, .. } => Event::GoAway { last_stream, code },
        Step::Settings { settings, .. } => Event::Settings(settings),
        Step::Framing { .. } | Step::More => return None,
        Step::Invalid(invalid) => Event::Invalid(invalid),
    })
}

/// Method, target, scheme, authority and protocol, or the status.
fn start(head: &Head) -> Vec<String> {
    if let crate::proto::StartLine::Response { status, .. } = head.start {
        return vec![status.to_string()];
    }
    [head.method(), head.target(), head.scheme(), head.authority(), head.protocol()].map(lossy).to_vec()
}

fn strings(text: &[u8], fields: &[(Span, Span)]) -> Vec<(String, String)> {
    fields.iter().map(|(name, value)| (lossy(name.of(text)), lossy(value.of(text)))).collect()
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PUSH_PROMISE: u8 = 5;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const END_STREAM: u8 = 1;
pub(super) const ACK: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;
pub(super) const PADDED: u8 = 8;
pub(super) const WITH_PRIORITY: u8 = 0x20;

pub(super) const PLAIN: Way =
    Way { is_indexed: true, is_added: true, has_name_index: true, is_huffman: true, is_secret: false };

pub(super) fn block(encoder: &mut Encoder, fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    fields.iter().for_each(|&(name, value)| encoder.field(&(name.to_owned(), value.to_owned()), PLAIN, &mut block));
    block
}

const GET: [(&str, &str); 5] =
    [(":method", "GET"), (":scheme", "http"), (":authority", "example.org"), (":path", "/a?b"), ("accept", "*/*")];

fn get() -> Vec<u8> {
    block(&mut Encoder::new(), &GET)
}

/// A client's bytes behind its preface and first SETTINGS.
fn client(frames: &[Vec<u8>]) -> Reader {
    let mut reader = Reader::new(Decoder::client(), 0);
    reader.read(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat());
    reader.events.clear();
    reader.read(&frames.concat());
    reader
}

fn server(frames: &[Vec<u8>]) -> Reader {
    let mut reader = Reader::new(Decoder::server(), 0);
    reader.read(&frame(SETTINGS, 0, 0, &[]));
    reader.events.clear();
    reader.read(&frames.concat());
    reader
}

fn told(frames: &[Vec<u8>]) -> Vec<Event> {
    client(frames).events
}

fn refused(frames: &[Vec<u8>]) -> Option<Invalid> {
    match client(frames).events.last() {
        Some(Event::Invalid(invalid)) => Some(*invalid),
        _ => None,
    }
}

fn the_get(stream: u32, end: bool) -> Event {
    let start = ["GET", "/a?b", "http", "example.org", ""].map(str::to_owned).to_vec();
    Event::Head { stream, start, fields: vec![("accept".into(), "*/*".into())], end, complete: true }
}

fn data(stream: u32, data: &[u8], end: bool) -> Event {
    Event::Data { stream, data: data.to_vec(), end }
}

#[test]
fn a_connection_starts_with_a_preface_and_settings() {
    let settings = frame(SETTINGS, 0, 0, &[0, 1, 0, 0, 0x20, 0, 0, 5, 0, 1, 0, 0, 0, 3, 0, 0, 0, 100]);
    let mut reader = Reader::new(Decoder::client(), 0);
    reader.read(&[PREFACE, &settings, &frame(SETTINGS, ACK, 0, &[])].concat());
    let expected = Settings { table_size: Some(8192), frame_size: Some(65536) };
    assert_eq!(reader.events, [Event::Settings(expected)]);
    assert_eq!((reader.decoder.finish(), reader.unused()), (Finish::Clean, 0));

    let mut reader = Reader::new(Decoder::client(), 0);
    reader.read(b"PRI * HTTP/2.0\r\n\r\nSX");
    assert_eq!(reader.events, [Event::Invalid(Invalid::Preface)]);
    for first in [frame(SETTINGS, ACK, 0, &[]), frame(PING, 0, 0, &[0; 8]), frame(HEADERS, END_HEADERS, 1, &get())] {
        let mut reader = Reader::new(Decoder::server(), 0);
        reader.read(&first);
        assert_eq!(reader.events, [Event::Invalid(Invalid::Preface)]);
    }
}

#[test]
fn a_header_block_comes_in_one_frame_or_many_with_priority_and_padding() {
    let block = get();
    let priority = [&[0x80, 0, 0, 3, 15], &block[..]].concat();
    let padded = [&[4, 0x80, 0, 0, 3, 15], &block[..], &[0; 4]].concat();
    for frames in [
        vec![frame(HEADERS, END_STREAM | END_HEADERS, 1, &block)],
        vec![frame(HEADERS, END_STREAM | END_HEADERS | WITH_PRIORITY, 1, &priority)],
        vec![frame(HEADERS, END_STREAM | END_HEADERS | WITH_PRIORITY | PADDED, 1, &padded)],
        vec![frame(HEADERS, END_STREAM, 1, &block[..3]), frame(CONTINUATION, END_HEADERS, 1, &block[3..])],
        vec![
            frame(HEADERS, END_STREAM, 1, &[]),
            frame(CONTINUATION, 0, 1, &block[..9]),
            frame(CONTINUATION, 0, 1, &block[9..]),
            frame(CONTINUATION, END_HEADERS, 1, &[]),
        ],
    ] {
        assert_eq!(told(&frames), [the_get(1, true)]);
    }
}

#[test]
fn bodies_of_many_streams_come_without_their_padding() {
    let reader = client(&[
        frame(HEADERS, END_HEADERS, 1, &get()),
        frame(DATA, 0, 1, b"ab"),
        frame(DATA, 0, 3, b"xy"),
        frame(DATA, PADDED, 1, b"\x03cd\0\0\0"),
        frame(DATA, PADDED, 1, b"\x02\0\0"),
        frame(WINDOW_UPDATE, 0, 0, &[0, 0, 1, 0]),
        frame(0xbe, 0xff, 77, b"what an extension sends"),
        frame(PRIORITY, 0, 5, &[0; 5]),
        frame(PING, 0, 0, &[7; 8]),
        frame(DATA, END_STREAM | PADDED, 1, b"\x01e\0"),
        frame(DATA, END_STREAM, 3, b""),
    ]);
    let expected =
        [the_get(1, false), data(1, b"ab", false), data(3, b"xy", false), data(1, b"cde", true), data(3, b"", true)];
    assert_eq!(reader.events, expected);
    assert_eq!(reader.decoder.finish(), Finish::Clean);
}

#[test]
fn interim_heads_trailers_and_pushed_requests_are_told_apart() {
    let mut encoder = Encoder::new();
    let promise = [&[0, 0, 0, 2][..], &block(&mut encoder, &GET)].concat();
    let frames = [
        frame(PUSH_PROMISE, END_HEADERS, 1, &promise),
        frame(HEADERS, END_HEADERS, 1, &block(&mut encoder, &[(":status", "103"), ("link", "</x>")])),
        frame(HEADERS, END_HEADERS, 1, &block(&mut encoder, &[(":status", "200")])),
        frame(DATA, 0, 1, b"body"),
        frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&mut encoder, &[("grpc-status", "0")])),
    ];
    let Event::Head { start, fields, .. } = the_get(1, true) else { unreachable!() };
    let head = |status: &str, fields: &[(&str, &str)]| Event::Head {
        stream: 1,
        start: vec![status.to_owned()],
        fields: fields.iter().map(|&(n, v)| (n.to_owned(), v.to_owned())).collect(),
        end: false,
        complete: true,
    };
    let trailers = vec![("grpc-status".to_owned(), "0".to_owned())];
    let expected = [
        Event::Promise { stream: 1, promised: 2, start, fields, complete: true },
        head("103", &[("link", "</x>")]),
        head("200", &[]),
        data(1, b"body", false),
        Event::Trailers { stream: 1, fields: trailers, complete: true },
    ];
    assert_eq!(server(&frames).events, expected);
}

#[test]
fn connect_asks_for_an_authority_and_extended_connect_for_a_protocol() {
    let plain = [(":method", "CONNECT"), (":authority", "example.org:443")];
    let frames = [frame(HEADERS, END_HEADERS, 1, &block(&mut Encoder::new(), &plain))];
    let starts = |events: Vec<Event>| match &events[..] {
        [Event::Head { start, .. }] => start.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(starts(told(&frames)), ["CONNECT", "example.org:443", "", "example.org:443", ""]);
    let extended = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "https"),
        (":path", "/chat"),
        (":authority", "example.org"),
    ];
    let frames = [frame(HEADERS, END_HEADERS, 1, &block(&mut Encoder::new(), &extended))];
    assert_eq!(starts(told(&frames)), ["CONNECT", "/chat", "https", "example.org", "websocket"]);
}

#[test]
fn a_stream_or_connection_that_is_given_up_says_why() {
    let frames = [frame(RST_STREAM, 0, 5, &[0, 0, 0, 8]), frame(GOAWAY, 0, 0, b"\0\0\0\x07\0\0\0\x0bslow down")];
    assert_eq!(told(&frames), [Event::Reset { stream: 5, code: 8 }, Event::GoAway { last_stream: 7, code: 11 }]);
    assert_eq!((error_name(8), error_name(11)), (Some("CANCEL"), Some("ENHANCE_YOUR_CALM")));
    assert_eq!((error_name(13), error_name(14), error_name(u32::MAX)), (Some("HTTP_1_1_REQUIRED"), None, None));
}

#[test]
fn what_breaks_a_connection_is_refused() {
    let half = || frame(HEADERS, 0, 1, &get());
    for (frames, expected) in [
        (vec![frame(DATA, 0, 0, b"x")], Invalid::FrameStream),
        (vec![frame(HEADERS, END_HEADERS, 0, &get())], Invalid::FrameStream),
        (vec![frame(RST_STREAM, 0, 0, &[0; 4])], Invalid::FrameStream),
        (vec![frame(SETTINGS, 0, 1, &[])], Invalid::FrameStream),
        (vec![frame(PING, 0, 1, &[0; 8])], Invalid::FrameStream),
        (vec![frame(GOAWAY, 0, 1, &[0; 8])], Invalid::FrameStream),
        (vec![frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 0, 0x82])], Invalid::FrameStream),
        (vec![frame(RST_STREAM, 0, 1, &[0; 5])], Invalid::FrameSize),
        (vec![frame(SETTINGS, 0, 0, &[0; 5])], Invalid::FrameSize),
        (vec![frame(SETTINGS, ACK, 0, &[0; 6])], Invalid::FrameSize),
        (vec![frame(PING, 0, 0, &[0; 7])], Invalid::FrameSize),
        (vec![frame(GOAWAY, 0, 0, &[0; 7])], Invalid::FrameSize),
        (vec![frame(WINDOW_UPDATE, 0, 0, &[0; 3])], Invalid::FrameSize),
        (vec![frame(HEADERS, END_HEADERS | WITH_PRIORITY, 1, &[0; 4])], Invalid::FrameSize),
        (vec![frame(PUSH_PROMISE, END_HEADERS, 1, &[0; 3])], Invalid::FrameSize),
        (vec![frame(DATA, PADDED, 1, &[])], Invalid::Padding),
        (vec![frame(DATA, PADDED, 1, &[2, 0])], Invalid::Padding),
        (vec![frame(HEADERS, END_HEADERS | PADDED, 1, &[2, 0x82])], Invalid::Padding),
        (vec![frame(CONTINUATION, END_HEADERS, 1, &get())], Invalid::FrameOrder),
        (vec![half(), frame(PING, 0, 0, &[0; 8])], Invalid::FrameOrder),
        (vec![half(), frame(CONTINUATION, END_HEADERS, 3, &[])], Invalid::FrameOrder),
        (vec![half(), half()], Invalid::FrameOrder),
        (vec![frame(HEADERS, END_HEADERS, 1, &[0xbe])], Invalid::HeaderBlock),
    ] {
        assert_eq!(refused(&frames), Some(expected), "{frames:?}");
    }
    assert_eq!(told(&[frame(PRIORITY, 0, 1, &[0; 4])]), [], "an error of the stream only");
    assert_eq!(told(&[frame(WINDOW_UPDATE, 0, 1, &[0; 4])]), [], "the same");
}

#[test]
fn a_malformed_head_is_told_as_it_was_sent() {
    let fields = [(":method", "GET"), ("Upper", "x"), (":method", "PUT"), (":other", "y")];
    let frames = [frame(HEADERS, END_HEADERS, 1, &block(&mut Encoder::new(), &fields))];
    let fields = vec![("Upper".to_owned(), "x".to_owned()), (":other".to_owned(), "y".to_owned())];
    let start = ["GET", "", "", "", ""].map(str::to_owned).to_vec();
    assert_eq!(told(&frames), [Event::Head { stream: 1, start, fields, end: false, complete: true }]);
    let frames = [frame(HEADERS, END_HEADERS, 1, &block(&mut Encoder::new(), &[(":status", "2000")]))];
    assert!(matches!(&server(&frames).events[..], [Event::Head { start, .. }] if start == &["0"]));
}

#[test]
fn unseen_body_bytes_are_stepped_over() {
    let mut reader = client(&[frame(DATA, PADDED | END_STREAM, 7, b"\x02abcdefgh\0\0")[..12].to_vec()]);
    assert_eq!((reader.decoder.certain_body(), reader.decoder.body_stream()), (6, Some(7)));
    assert_eq!(reader.miss(4), Ok(Missed { stream: 7, body: 4 }));
    assert_eq!(reader.decoder.gap(5), Err(Lost), "more than the frame");
    assert_eq!(reader.miss(3), Ok(Missed { stream: 7, body: 2 }), "one byte of padding too");
    assert_eq!(reader.decoder.finish(), Finish::Cut);
    reader.read(&[&[0][..], &frame(PING, 0, 0, &[0; 8])].concat());
    assert_eq!(reader.events, [data(7, b"ab", true)], "the end is told although the last byte was not seen");
    assert_eq!(reader.decoder.finish(), Finish::Clean);

    let mut reader = client(&[frame(PING, 0, 0, &[0; 8])[..12].to_vec()]);
    assert_eq!(reader.miss(5), Ok(Missed::default()), "the rest of a ping");
    assert!(reader.decoder.at_frame());
    assert_eq!(reader.miss(1), Err(Lost), "between frames");
    let mut reader = client(&[frame(HEADERS, END_HEADERS, 1, &get())[..12].to_vec()]);
    assert_eq!(reader.miss(1), Err(Lost), "in a header block");
}

fn no_bytes_are_claimed(side: Side, bytes: &[u8]) {
    let mut reader = Reader::new(Decoder::joined(side), 0);
    reader.read(bytes);
    assert_eq!(reader.events, []);
    assert!(reader.decoder.is_searching());
}

#[test]
fn a_request_is_found_in_the_midst_of_a_direction() {
    let mut reader = Reader::new(Decoder::joined(Side::Client), 0);
    reader.read(b"the rest of some body");
    assert!(reader.decoder.is_searching());
    reader.read(&frame(HEADERS, END_HEADERS | END_STREAM, 9, &get()));
    assert_eq!(reader.events, [the_get(9, true)]);
    assert!(!reader.decoder.is_searching());
}

#[test]
fn one_small_frame_is_no_proof_and_two_are() {
    let window = frame(WINDOW_UPDATE, 0, 0, &[0, 0, 1, 0]);
    no_bytes_are_claimed(Side::Server, &[b"????", &window[..]].concat());
    let mut reader = Reader::new(Decoder::joined(Side::Server), 0);
    reader.read(&[b"????", &window[..], &window[..]].concat());
    assert!(!reader.decoder.is_searching());
    no_bytes_are_claimed(Side::Server, &vec![0; 100_000]);
    no_bytes_are_claimed(Side::Client, &vec![1; 100_000]);
    no_bytes_are_claimed(Side::Client, &[0, 0, 0, 1, 0, 0, 0, 3].repeat(10_000));
    no_bytes_are_claimed(Side::Client, "the quick brown fox, 0123456789\r\n".repeat(10_000).as_bytes());
}

#[test]
fn what_was_sent_before_the_join_reads_unknown() {
    let mut encoder = Encoder::new();
    let first = [(":method", "PUT"), (":scheme", "http"), (":authority", "a.example"), (":path", "/1"), ("x", "old")];
    block(&mut encoder, &first);
    let second = [
        (":method", "PUT"),
        (":scheme", "http"),
        (":authority", "a.example"),
        (":path", "/2"),
        ("x", "old"),
        ("y", "new"),
    ];
    let mut reader = Reader::new(Decoder::joined_at_frame(Side::Client), 0);
    reader.read(&frame(HEADERS, END_HEADERS, 3, &block(&mut encoder, &second)));
    let field = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let unknown = || field(UNKNOWN, UNKNOWN);
    let expected = Event::Head {
        stream: 3,
        start: [UNKNOWN, "/2", "http", UNKNOWN, UNKNOWN].map(str::to_owned).to_vec(),
        fields: vec![unknown(), unknown(), unknown(), field("y", "new")],
        end: false,
        complete: false,
    };
    assert_eq!(reader.events, [expected]);
    reader.read(&frame(
        HEADERS,
        END_HEADERS,
        5,
        &block(&mut encoder, &[(":method", "GET"), (":scheme", "http"), (":path", "/2"), ("y", "new")]),
    ));
    let start = ["GET", "/2", "http", "", ""].map(str::to_owned).to_vec();
    let expected = Event::Head { stream: 5, start, fields: vec![field("y", "new")], end: false, complete: true };
    assert_eq!(reader.events[1], expected);
}

#[test]
fn a_status_or_trailers_from_before_the_join_are_a_head_that_may_be_trailers() {
    let mut encoder = Encoder::new();
    block(&mut encoder, &[(":status", "201"), ("grpc-status", "0")]);
    for fields in [[(":status", "201")], [("grpc-status", "0")]] {
        let bytes = frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&mut encoder, &fields));
        let mut decoder = Decoder::joined_at_frame(Side::Server);
        match decoder.step(&bytes) {
            Step::Head { head, complete: false, .. } => {
                assert!(may_be_trailers(&head));
                assert_eq!(into_trailers(head).fields.len(), 1);
            }
            other => panic!("{other:?}"),
        }
    }
    let bytes = frame(HEADERS, END_HEADERS, 1, &block(&mut encoder, &[(":status", "200"), ("grpc-status", "0")]));
    match Decoder::joined_at_frame(Side::Server).step(&bytes) {
        Step::Head { head, complete: false, .. } => assert!(!may_be_trailers(&head) && head.status() == 200),
        other => panic!("{other:?}"),
    }
}

#[test]
fn connections_are_told_by_their_first_bytes() {
    assert_eq!(looks_like_client(b""), Looks::Maybe);
    assert_eq!(looks_like_client(b"PRI * HTTP/2"), Looks::Maybe);
    assert_eq!(looks_like_client(PREFACE), Looks::Yes);
    assert_eq!(looks_like_client(b"PUT / HTTP/1.1\r\n"), Looks::No);
    let settings = frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]);
    assert_eq!(looks_like_server(&settings[..5]), Looks::Maybe);
    assert_eq!(looks_like_server(&settings), Looks::Yes);
    assert_eq!(looks_like_server(&frame(SETTINGS, 0, 0, &[])), Looks::Yes);
    for other in [frame(SETTINGS, ACK, 0, &[]), frame(SETTINGS, 0, 0, &[0; 7]), b"HTTP/1.1 101".to_vec()] {
        assert_eq!(looks_like_server(&other), Looks::No);
    }
}

#[test]
fn frames_at_the_start_of_a_call_are_evidence() {
    let request = frame(HEADERS, END_HEADERS | END_STREAM, 9, &get());
    assert_eq!(frames_at_start(&request, Side::Client), Some(PROOF));
    assert_eq!(frames_at_start(&request[..request.len() - 1], Side::Client), Some(0));
    assert_eq!(frames_at_start(&request, Side::Server), Some(2), "no server sends that, and trailers read like it");
    let response = frame(HEADERS, END_HEADERS, 9, &block(&mut Encoder::new(), &[(":status", "200")]));
    assert_eq!(frames_at_start(&response, Side::Server), Some(3));
    let body = frame(DATA, END_STREAM, 9, b"body");
    assert_eq!(frames_at_start(&[&response[..], &body].concat(), Side::Server), Some(PROOF));
    assert_eq!(frames_at_start(&body, Side::Server), Some(1));
    for other in
        [&b"GET / HTTP/1.1\r\n\r\n"[..], b"HTTP/1.1 200 OK\r\n\r\n", &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc], &[0; 9]]
    {
        assert_eq!(frames_at_start(other, Side::Server), None, "{other:?}");
    }
    assert_eq!(frames_at_start(&frame(DATA, 0, 2, b"x"), Side::Client), None, "a client sends on its own streams");
}

/// Frames without end cost no memory, and the sums are checked.
#[test]
fn hostile_senders_are_bounded() {
    let mut flood = vec![frame(HEADERS, 0, 1, &get())];
    flood.resize(MAX_FRAGMENTS as usize + 1, frame(CONTINUATION, 0, 1, &[]));
    assert_eq!(refused(&flood), Some(Invalid::HeadTooLarge), "many empty pieces");
    let piece = [&[0, 1, b'a', 0x7f, 0x80, 0x7e][..], &[b'a'; 16255]].concat();
    let mut flood = vec![frame(HEADERS, 0, 1, &piece)];
    flood.resize(100, frame(CONTINUATION, 0, 1, &piece));
    let reader = client(&flood);
    assert_eq!(reader.events.last(), Some(&Event::Invalid(Invalid::HeadTooLarge)), "a block without end");
    assert!(reader.decoder.weight() < 4 * MAX_BLOCK);

    let long = [0x10, 0, 0, HEADERS, END_HEADERS, 0, 0, 0, 1];
    assert_eq!(told(&[long.to_vec()]), [], "a block of the largest size is waited for");
    let longer = [0x10, 0, 1, HEADERS, END_HEADERS, 0, 0, 0, 1];
    assert_eq!(refused(&[longer.to_vec()]), Some(Invalid::FrameSize), "and a longer one is not");
    assert_eq!(refused(&[frame(SETTINGS, 0, 0, &[0; 6 * 257])]), Some(Invalid::FrameSize));

    let mut encoder = Encoder::new();
    let mut bomb = block(&mut encoder, &[("x", &"y".repeat(4000))]);
    bomb.resize(16_000, 0xbe);
    assert_eq!(refused(&[frame(HEADERS, END_HEADERS, 1, &bomb)]), Some(Invalid::HeadTooLarge));
}

#[test]
fn storms_of_small_frames_and_streams_leave_nothing_behind() {
    let mut decoder = Decoder::joined_at_frame(Side::Client);
    let get = get();
    let mut steps = 0;
    for number in 0..20_000u32 {
        let stream = (u32::MAX >> 1).wrapping_sub(2 * number);
        let frames = [
            frame(HEADERS, END_HEADERS, stream, &get),
            frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]),
            frame(SETTINGS, 0, 0, &[0, 1, 0, 0, 0x10, 0].repeat(10)),
            frame(PING, 0, 0, &[0; 8]),
        ]
        .concat();
        let mut used = 0;
        loop {
            let step = decoder.step(&frames[used..]);
            used += step.used();
            match step {
                Step::More | Step::Invalid(_) => break,
                _ => steps += 1,
            }
        }
        assert_eq!(used, frames.len());
    }
    assert!(steps >= 3 * 20_000);
    assert!(decoder.weight() < 256 << 10, "{} bytes", decoder.weight());
}

/// DATA of the largest size is handed out as it comes.
#[test]
fn a_frame_of_sixteen_megabytes_is_not_collected() {
    let mut reader = client(&[vec![0xff, 0xff, 0xff, DATA, END_STREAM, 0, 0, 0, 1]]);
    let mut left = (1 << 24) - 1;
    while left > 0 {
        let piece = vec![b'x'; left.min(100_000)];
        reader.read(&piece);
        assert_eq!(reader.unused(), 0);
        left -= piece.len();
    }
    assert!(matches!(&reader.events[..], [Event::Data { data, end: true, .. }] if data.len() == (1 << 24) - 1));
}
