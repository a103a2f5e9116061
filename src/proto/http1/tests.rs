//! What each section of RFC 9112 asks for, in its order, and what the decoder does where peers do otherwise.

use super::*;
use crate::proto::{Head, Version};

/// What a reader of one direction is told, body bytes joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    /// First line as method and target, or as status and reason; then the headers.
    Head(String, Vec<(String, String)>),
    Body(Vec<u8>),
    End,
    Trailers(Vec<(String, String)>),
    Invalid(Invalid),
    Left,
}

/// One direction of a connection, read in pieces as a caller does it.
pub(super) struct Reader {
    pub decoder: Decoder,
    pub events: Vec<Event>,
    unused: Vec<u8>,
    asked: Asked,
}

impl Reader {
    pub fn new(decoder: Decoder, asked: Asked) -> Reader {
        Reader { decoder, events: Vec::new(), unused: Vec::new(), asked }
    }

    pub fn read(&mut self, piece: &[u8]) {
        self.unused.extend_from_slice(piece);
        loop {
            let (event, used) = match self.decoder.step(&self.unused, self.asked) {
                Step::Head { head, used } => (Some(head_event(&head)), used),
                Step::Body { data, used } => (Some(Event::Body(data.to_vec())), used),
                Step::End { trailers: None, used } => (Some(Event::End), used),
                Step::End { trailers: Some(trailers), used } => {
                    let fields = trailers.fields.iter();
                    let fields = fields.map(|(n, v)| (lossy(n.of(&trailers.text)), lossy(v.of(&trailers.text))));
                    (Some(Event::Trailers(fields.collect())), used)
                }
                Step::More => return,
                Step::Invalid(invalid) => return self.tell_once(Event::Invalid(invalid)),
                Step::Left => {
                    self.unused.clear();
                    return self.tell_once(Event::Left);
                }
            };
            assert!(used <= self.unused.len(), "used {used} of {}", self.unused.len());
            self.unused.drain(..used);
            event.into_iter().for_each(|event| self.tell(event));
        }
    }

    fn tell(&mut self, event: Event) {
        match (self.events.last_mut(), event) {
            (_, Event::Body(more)) if more.is_empty() => {}
            (Some(Event::Body(body)), Event::Body(more)) => body.extend(more),
            (_, event) => self.events.push(event),
        }
    }

    fn tell_once(&mut self, event: Event) {
        if self.events.last() != Some(&event) {
            self.events.push(event);
        }
    }
}

fn head_event(head: &Head) -> Event {
    let headers = head.headers().map(|(name, value)| (lossy(name), lossy(value))).collect();
    match head.status() {
        0 => Event::Head(format!("{} {}", lossy(head.method()), lossy(head.target())), headers),
        status => Event::Head(format!("{status} {}", lossy(head.reason())), headers),
    }
}

pub(super) fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn requests(stream: impl AsRef<[u8]>) -> Vec<Event> {
    let mut reader = Reader::new(Decoder::request(), Asked::Normal);
    reader.read(stream.as_ref());
    reader.events
}

fn responses(stream: impl AsRef<[u8]>) -> Vec<Event> {
    responses_to(Asked::Normal, stream)
}

fn responses_to(asked: Asked, stream: impl AsRef<[u8]>) -> Vec<Event> {
    let mut reader = Reader::new(Decoder::response(), asked);
    reader.read(stream.as_ref());
    reader.events
}

fn head(line: &str, headers: &[(&str, &str)]) -> Event {
    let headers = headers.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    Event::Head(line.to_owned(), headers)
}

fn body(bytes: impl AsRef<[u8]>) -> Event {
    Event::Body(bytes.as_ref().to_vec())
}

/// The head of a stream that holds nothing else but maybe its end.
fn only_head(decoder: Decoder, stream: impl AsRef<[u8]>) -> Head {
    let mut decoder = decoder;
    match decoder.step(stream.as_ref(), Asked::Normal) {
        Step::Head { head, used } if used == stream.as_ref().len() => head,
        other => panic!("{other:?}"),
    }
}

fn refused(events: &[Event]) -> Option<Invalid> {
    match events {
        [Event::Invalid(invalid)] => Some(*invalid),
        _ => None,
    }
}

// Section 2: messages

#[test]
fn a_request_and_its_parts() {
    let stream = "POST /a?b=c HTTP/1.1\r\nHost: example.org\r\nContent-Length: 5\r\n\r\nhello";
    let headers = [("Host", "example.org"), ("Content-Length", "5")];
    assert_eq!(requests(stream), [head("POST /a?b=c", &headers), body("hello"), Event::End]);
    assert_eq!(only_head(Decoder::request(), "GET / HTTP/1.0\r\n\r\n").version, Version::Http10);
    assert_eq!(only_head(Decoder::request(), "GET / HTTP/1.1\r\n\r\n").version, Version::Http11);
    assert_eq!(only_head(Decoder::request(), "GET / HTTP/1.7\r\n\r\n").version, Version::Http11);
}

#[test]
fn the_text_of_a_head_is_the_head_and_no_more() {
    let head = only_head(Decoder::request(), "\r\nGET / HTTP/1.1\r\nA: b\r\n\r\n");
    assert_eq!(lossy(&head.text), "GET / HTTP/1.1\r\nA: b\r\n\r\n");
}

#[test]
fn lf_alone_ends_lines_too() {
    assert_eq!(requests("GET / HTTP/1.1\nA: b\n\n"), [head("GET /", &[("A", "b")]), Event::End]);
    assert_eq!(requests("GET / HTTP/1.1\r\nA: b\n\r\n"), [head("GET /", &[("A", "b")]), Event::End]);
    let chunked = "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n3\nabc\n0\nT: u\n\n";
    let trailers = Event::Trailers(vec![("T".into(), "u".into())]);
    assert_eq!(responses(chunked), [head("200 OK", &[("Transfer-Encoding", "chunked")]), body("abc"), trailers]);
}

#[test]
fn empty_lines_before_a_start_line_are_no_message() {
    assert_eq!(requests("\r\n\n\r\nGET / HTTP/1.1\r\n\r\n\r\n"), [head("GET /", &[]), Event::End]);
    assert_eq!(requests("\n".repeat(64) + "GET / HTTP/1.1\r\n\r\n"), [head("GET /", &[]), Event::End]);
    assert_eq!(refused(&requests("\n".repeat(65))), Some(Invalid::StartLine));
    assert_eq!(refused(&requests("\r\rGET / HTTP/1.1\r\n\r\n")), Some(Invalid::StartLine));
}

#[test]
fn other_protocols_are_refused_with_their_first_bytes() {
    for bytes in [
        &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..],
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET /\r\n",
        b"GET / HTTP/2.0",
        b"GET / http/1.1\r\n\r\n",
        b"get it done \x00",
        b" GET / HTTP/1.1\r\n\r\n",
        b"GET\t/ HTTP/1.1\r\n\r\n",
        b"GET  HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1 x\r\n\r\n",
        b"GET /a b HTTP/1.1\r\n\r\n",
        b"G(T / HTTP/1.1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"GET / HTTP/1.\r\n\r\n",
        b"GET /\x7f HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.10\r\n\r\n",
        b"\x7fELF",
        b"EHLO example.org\r\n",
        &[b'A'; 65],
        [&[b'A'; 65], &b" / HTTP/1.1\r\n\r\n"[..]].concat().as_slice(),
    ] {
        assert_eq!(refused(&requests(bytes)), Some(Invalid::StartLine), "{:?}", lossy(bytes));
    }
    for bytes in [
        "HTTP/2 200\r\n\r\n",
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1 099 x\r\n\r\n",
        "220 ready",
        "HTTP/1.1 200 O\rK\r\n\r\n",
    ] {
        assert_eq!(refused(&responses(bytes)), Some(Invalid::StartLine), "{bytes:?}");
    }
}

// Section 3: request lines

#[test]
fn any_method_and_any_form_of_target() {
    let longest = "M".repeat(MAX_METHOD);
    for method in ["GET", "get", "M-SEARCH", "X", "!#$%&'*+-.^_`|~09", longest.as_str()] {
        let target = match method {
            "GET" => "http://example.org:80/a?b#c",
            "X" => "*",
            "get" => "example.org:443",
            _ => "/",
        };
        let line = format!("{method} {target}");
        assert_eq!(requests(format!("{line} HTTP/1.1\r\n\r\n")), [head(&line, &[]), Event::End]);
    }
}

#[test]
fn targets_beyond_the_grammar_are_taken_as_they_are() {
    for target in ["/gr\u{fc}n", "/{a}|b^\"<>", "//", "?"] {
        let line = format!("GET {target}");
        assert_eq!(requests(format!("{line} HTTP/1.1\r\n\r\n")), [head(&line, &[]), Event::End]);
    }
}

#[test]
fn spaces_in_request_lines_may_be_many() {
    assert_eq!(requests("GET   /   HTTP/1.1  \r\n\r\n"), [head("GET /", &[]), Event::End]);
}

// Section 4: status lines

#[test]
fn status_lines_with_and_without_reason() {
    for (line, seen) in [
        ("HTTP/1.1 404 Not Found", "404 Not Found"),
        ("HTTP/1.0 200", "200 "),
        ("HTTP/1.1 200 ", "200 "),
        ("HTTP/1.1  999  w\u{e9}ird  ", "999 w\u{e9}ird"),
    ] {
        let stream = format!("{line}\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(responses(stream), [head(seen, &[("Content-Length", "0")]), Event::End], "{line:?}");
    }
}

// Section 5: fields

#[test]
fn values_have_no_white_space_around_them() {
    let stream = "GET / HTTP/1.1\r\nA:b\r\nC: \t d e \t\r\nF:\r\nG: \r\nH: i:j\r\n\r\n";
    let headers = [("A", "b"), ("C", "d e"), ("F", ""), ("G", ""), ("H", "i:j")];
    assert_eq!(requests(stream), [head("GET /", &headers), Event::End]);
}

#[test]
fn headers_are_found_in_any_case_and_kept_as_sent() {
    let head = only_head(Decoder::request(), "GET / HTTP/1.1\r\nx-ID: 1\r\nX-Id: 2\r\n\r\n");
    assert_eq!(head.header("X-ID"), Some(&b"1"[..]));
    assert_eq!(head.headers().map(|(name, _)| lossy(name)).collect::<Vec<_>>(), ["x-ID", "X-Id"]);
}

#[test]
fn folded_values_become_one_line() {
    for (folded, value) in [
        ("A: b\r\n c", "b   c"),
        ("A: b\n\tc", "b \tc"),
        ("A: b  \r\n  c\r\n d", "b      c   d"),
        ("A:\r\n b", "b"),
        ("A: b\r\n  \r\n c", "b       c"),
        ("A: b\r\n \t ", "b"),
    ] {
        let stream = format!("GET / HTTP/1.1\r\n{folded}\r\nZ: z\r\n\r\n");
        assert_eq!(requests(stream), [head("GET /", &[("A", value), ("Z", "z")]), Event::End], "{folded:?}");
    }
}

#[test]
fn folded_framing_counts() {
    let stream = "POST / HTTP/1.1\r\nTransfer-Encoding:\r\n chunked\r\n\r\n1\r\na\r\n0\r\n\r\n";
    assert_eq!(requests(stream)[1..], [body("a"), Event::End]);
}

#[test]
fn lines_that_are_no_fields_are_refused() {
    for line in ["no colon", ": no name", " folds nothing", "a(b): c", "A: \0", "A\u{e9}: b", "A: b\rC: d", "\r"] {
        let stream = format!("GET / HTTP/1.1\r\n{line}\r\n\r\n");
        assert_eq!(refused(&requests(&stream)), Some(Invalid::Header), "{line:?}");
        let stream = format!("HTTP/1.1 200 OK\r\n{line}\r\n\r\n");
        assert_eq!(refused(&responses(&stream)), Some(Invalid::Header), "{line:?}");
    }
}

#[test]
fn heads_have_a_limit() {
    let exact = |extra: usize| {
        let frame = "GET / HTTP/1.1\r\nA: \r\n\r\n";
        format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "a".repeat(MAX_HEAD - frame.len() + extra))
    };
    assert_eq!(exact(0).len(), MAX_HEAD);
    assert!(matches!(requests(exact(0))[..], [Event::Head(..), Event::End]));
    assert_eq!(refused(&requests(exact(1))), Some(Invalid::HeadTooLarge));
    assert_eq!(refused(&requests(format!("GET /{}", "a".repeat(MAX_HEAD)))), Some(Invalid::HeadTooLarge));

    let fields = |count: usize| format!("GET / HTTP/1.1\r\n{}\r\n", "a:b\r\n".repeat(count));
    assert!(matches!(&requests(fields(MAX_FIELDS))[0], Event::Head(_, headers) if headers.len() == MAX_FIELDS));
    assert_eq!(refused(&requests(fields(MAX_FIELDS + 1))), Some(Invalid::HeadTooLarge));
}

// Section 6: bodies

#[test]
fn a_request_without_framing_has_no_body() {
    let two = "GET /1 HTTP/1.1\r\n\r\nGET /2 HTTP/1.1\r\n\r\n";
    assert_eq!(requests(two), [head("GET /1", &[]), Event::End, head("GET /2", &[]), Event::End]);
}

#[test]
fn a_response_without_framing_lasts_until_close() {
    for head in [
        "HTTP/1.0 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nContent-Length: 3\r\n\r\n",
    ] {
        let mut reader = Reader::new(Decoder::response(), Asked::Normal);
        reader.read(format!("{head}abc").as_bytes());
        assert_eq!(reader.decoder.certain_body(), u64::MAX);
        reader.read(b"HTTP/1.1 200 OK\r\n\r\n");
        assert_eq!(reader.events[1..], [body("abcHTTP/1.1 200 OK\r\n\r\n")]);
        assert_eq!(reader.decoder.finish(), Finish::Complete);
    }
}

#[test]
fn responses_that_never_have_a_body() {
    let framed = "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    for status in ["204 No Content", "304 Not Modified"] {
        let events = responses(format!("HTTP/1.1 {status}\r\n{framed}"));
        assert!(matches!(events[..], [Event::Head(..), Event::End, Event::Head(..), Event::End]), "{events:?}");
    }
    let events = responses_to(Asked::Head, format!("HTTP/1.1 200 OK\r\n{framed}"));
    assert!(matches!(events[..], [Event::Head(..), Event::End, Event::Head(..), Event::End]), "{events:?}");
}

#[test]
fn interim_responses_have_no_end() {
    let stream = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\nContent-Length: 5\r\n\r\n\
                  HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab";
    let events = responses(stream);
    assert!(matches!(events[..], [Event::Head(..), Event::Head(..), Event::Head(..), Event::Body(_), Event::End]));
}

#[test]
fn content_length_lists_must_agree() {
    for (fields, length) in [
        ("Content-Length: 5, 5", Ok("hello")),
        ("Content-Length: 5\r\nContent-Length: 05", Ok("hello")),
        ("content-length:5", Ok("hello")),
        ("Content-Length: 5, 6", Err(Invalid::ContentLength)),
        ("Content-Length: 5\r\nContent-Length: 6", Err(Invalid::ContentLength)),
        ("Content-Length:", Err(Invalid::ContentLength)),
        ("Content-Length: 5,", Err(Invalid::ContentLength)),
        ("Content-Length: +5", Err(Invalid::ContentLength)),
        ("Content-Length: -5", Err(Invalid::ContentLength)),
        ("Content-Length: 0x5", Err(Invalid::ContentLength)),
        ("Content-Length: 5 5", Err(Invalid::ContentLength)),
        ("Content-Length: 18446744073709551616", Err(Invalid::ContentLength)),
    ] {
        let request = requests(format!("POST / HTTP/1.1\r\n{fields}\r\n\r\nhello"));
        let response = responses(format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\nhello"));
        for events in [request, response] {
            match length {
                Ok(content) => assert_eq!(events[1..], [body(content), Event::End], "{fields:?}"),
                Err(invalid) => assert_eq!(refused(&events), Some(invalid), "{fields:?}"),
            }
        }
    }
}

#[test]
fn the_longest_body_is_counted_right() {
    let mut reader = Reader::new(Decoder::response(), Asked::Normal);
    reader.read(b"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551615\r\n\r\nabc");
    assert_eq!(reader.decoder.certain_body(), u64::MAX - 3);
    assert_eq!(reader.decoder.gap(u64::MAX - 4), Ok(u64::MAX - 4));
    reader.read(b"z");
    assert_eq!(reader.events[1..], [body("abcz"), Event::End]);
}

/// What request smuggling is made of: shapes in which two readers of one stream see different messages. In a request,
/// a shape that servers must refuse gives no message here; one that they may take is read as RFC 9112 section 6.3 says.
#[test]
fn smuggling_shapes() {
    enum Read {
        /// The body is read as chunks.
        Chunked,
        Refused(Invalid),
    }
    use Read::*;
    for (shape, fields, request, response) in [
        ("CL.TE", "Content-Length: 30\r\nTransfer-Encoding: chunked", Chunked, Some("ab")),
        ("TE.CL", "Transfer-Encoding: chunked\r\nContent-Length: 3", Chunked, Some("ab")),
        ("TE and a bad CL", "Transfer-Encoding: chunked\r\nContent-Length: 3, 4", Chunked, Some("ab")),
        ("case", "tRANSFER-eNCODING: cHUNKED", Chunked, Some("ab")),
        ("TE list", "Transfer-Encoding: gzip, chunked", Chunked, Some("ab")),
        ("TE in two lines", "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked", Chunked, Some("ab")),
        ("empty list elements", "Transfer-Encoding: ,chunked, ", Chunked, Some("ab")),
        ("tab before the value", "Transfer-Encoding:\tchunked", Chunked, Some("ab")),
        ("chunked not last", "Transfer-Encoding: chunked, gzip", Refused(Invalid::Header), None),
        ("chunked twice", "Transfer-Encoding: chunked, chunked", Refused(Invalid::Header), Some("ab")),
        ("chunked and identity", "Transfer-Encoding: chunked, identity", Refused(Invalid::Header), None),
        ("not quite chunked", "Transfer-Encoding: xchunked", Refused(Invalid::Header), None),
        ("a parameter", "Transfer-Encoding: chunked;a=b", Refused(Invalid::Header), None),
        ("a vertical tab", "Transfer-Encoding: \x0bchunked", Refused(Invalid::Header), None),
        ("quotes", "Transfer-Encoding: \"chunked\"", Refused(Invalid::Header), None),
        ("empty TE", "Transfer-Encoding:", Refused(Invalid::Header), None),
        ("space before the colon", "Transfer-Encoding : chunked", Refused(Invalid::Header), Some("ab")),
    ] {
        let chunks = "2\r\nab\r\n0\r\n\r\n";
        let events = requests(format!("POST / HTTP/1.1\r\n{fields}\r\n\r\n{chunks}"));
        match request {
            Chunked => assert_eq!(events[1..], [body("ab"), Event::End], "{shape}"),
            Refused(invalid) => assert_eq!(refused(&events), Some(invalid), "{shape}"),
        }
        let events = responses(format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n{chunks}"));
        match response {
            Some(content) => assert_eq!(events[1..], [body(content), Event::End], "{shape}"),
            None => assert_eq!(events[1..], [body(chunks)], "{shape}: until close"),
        }
    }
    // a CR inside a line is no line break and nothing else either
    let hidden = "POST / HTTP/1.1\r\nA: b\rTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(refused(&requests(hidden)), Some(Invalid::Header));
    // HTTP/1.0 knows no transfer codings, but whoever takes such a message goes by them
    let old = "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n";
    assert_eq!(requests(old)[1..], [body("ab"), Event::End]);
}

// Section 7: chunks

fn chunks(chunks: &str) -> Vec<Event> {
    responses(format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"))[1..].to_vec()
}

#[test]
fn chunk_sizes_and_extensions() {
    let ended = [body("0123456789"), Event::End];
    assert_eq!(chunks("a\r\n0123456789\r\n0\r\n\r\n"), ended);
    assert_eq!(chunks("0000A\r\n0123456789\r\n000\r\n\r\n"), ended);
    assert_eq!(chunks("1;a=\"b;c\"\r\n0\r\n9 \t;d\r\n123456789\r\n0 ;e=f\r\n\r\n"), ended);
    for bad in ["", ";a", "g", "1x", "-1", " 1", "1 2", "0x1", "1\r", "1;a\rb", "10000000000000000"] {
        assert_eq!(chunks(&format!("{bad}\r\n1")), [Event::Invalid(Invalid::ChunkSize)], "{bad:?}");
    }
    assert_eq!(chunks("no size"), [Event::Invalid(Invalid::ChunkSize)], "before its line is complete");
}

#[test]
fn the_largest_chunk_is_counted_right() {
    let mut reader = Reader::new(Decoder::response(), Asked::Normal);
    reader.read(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFF\r\nabc");
    assert_eq!(reader.decoder.certain_body(), u64::MAX - 3);
    assert_eq!(reader.decoder.gap(u64::MAX - 3), Ok(u64::MAX - 3));
    reader.read(b"\r\n0\r\n\r\n");
    assert_eq!(reader.events[1..], [body("abc"), Event::End]);
}

#[test]
fn data_behind_a_chunk_are_refused() {
    assert_eq!(chunks("2\r\nabc"), [body("ab"), Event::Invalid(Invalid::ChunkEnd)]);
    assert_eq!(chunks("2\r\nab\rc"), [body("ab"), Event::Invalid(Invalid::ChunkEnd)]);
}

#[test]
fn chunk_lines_have_a_limit() {
    let line = |extension: usize| format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(extension));
    assert_eq!(chunks(&line(MAX_CHUNK_LINE - 4)), [body("a"), Event::End]);
    assert_eq!(chunks(&line(MAX_CHUNK_LINE - 3)), [Event::Invalid(Invalid::ChunkSize)]);
    assert_eq!(chunks(&"0".repeat(MAX_CHUNK_LINE)), [Event::Invalid(Invalid::ChunkSize)]);
}

#[test]
fn trailers_come_with_the_end() {
    let trailers = vec![("Digest".into(), "abc   d".into()), ("Empty".into(), "".into())];
    assert_eq!(chunks("0\r\nDigest: abc\r\n d\r\nEmpty:\r\n\r\n"), [Event::Trailers(trailers)]);
    assert_eq!(chunks("0\r\nno field\r\n\r\n"), [Event::Invalid(Invalid::Header)]);
    assert_eq!(chunks(&format!("0\r\nA: {}", "a".repeat(MAX_HEAD))), [Event::Invalid(Invalid::HeadTooLarge)]);
}

// Section 9: the connection's end, upgrades and tunnels

#[test]
fn what_the_end_of_the_stream_means() {
    for (stream, meaning) in [
        ("", Finish::Clean),
        ("\r\n\r", Finish::Clean),
        ("H", Finish::Cut),
        ("HTTP/1.1 200 OK\r\nA: b\r\n", Finish::Cut),
        ("HTTP/1.1 100 Continue\r\n\r\n", Finish::Clean),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Finish::Clean),
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", Finish::Cut),
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab", Finish::Cut),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Finish::Cut),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\na", Finish::Cut),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na", Finish::Cut),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", Finish::Cut),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Finish::Clean),
        ("HTTP/1.1 200 OK\r\n\r\n", Finish::Complete),
        ("HTTP/1.1 101 Switching Protocols\r\n\r\n\x01\x02", Finish::Clean),
        ("nonsense\r\n", Finish::Cut),
    ] {
        let mut reader = Reader::new(Decoder::response(), Asked::Normal);
        reader.read(stream.as_bytes());
        assert_eq!(reader.decoder.finish(), meaning, "{stream:?}");
    }
}

#[test]
fn switching_protocols_ends_http() {
    let upgraded = "HTTP/1.1 101 Switching Protocols\r\nContent-Length: 5\r\n\r\n\x01\x05hello";
    let events = responses(upgraded);
    assert!(matches!(events[..], [Event::Head(..), Event::End, Event::Left]), "{events:?}");
    let opened = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\x16\x03\x03";
    let events = responses_to(Asked::Connect, opened);
    assert!(matches!(events[..], [Event::Head(..), Event::End, Event::Left]), "{events:?}");
    let refused = "HTTP/1.1 407 No\r\nContent-Length: 2\r\n\r\nno";
    assert_eq!(responses_to(Asked::Connect, refused)[1..], [body("no"), Event::End]);
}

#[test]
fn requests_that_ask_to_leave_end_as_others_do() {
    let stream = "CONNECT a:443 HTTP/1.1\r\n\r\n";
    assert_eq!(requests(stream), [head("CONNECT a:443", &[]), Event::End]);
    for (request, wants) in [
        ("CONNECT a:443 HTTP/1.0\r\n\r\n", true),
        ("GET / HTTP/1.1\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n", true),
        ("GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n", false),
        ("GET / HTTP/1.1\r\nConnection: upgrade\r\n\r\n", false),
        ("GET / HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", false),
        ("GET / HTTP/1.1\r\n\r\n", false),
    ] {
        assert_eq!(wants_upgrade(&only_head(Decoder::request(), request)), wants, "{request:?}");
    }
}

#[test]
fn a_request_stream_that_left_is_not_read() {
    let mut reader = Reader::new(Decoder::request(), Asked::Normal);
    reader.read(b"CONNECT a:443 HTTP/1.1\r\n\r\n");
    reader.decoder.leave();
    assert_eq!(reader.decoder.certain_body(), u64::MAX);
    reader.read(b"GET / HTTP/1.1\r\n\r\n");
    assert_eq!(reader.events[2..], [Event::Left]);
    assert_eq!(reader.decoder.gap(1 << 40), Ok(0));
    assert_eq!(reader.decoder.finish(), Finish::Clean);
}

// Gaps and new starts

#[test]
fn gaps_are_stepped_over_where_framing_allows() {
    const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    const LENGTH: &str = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n";
    for (seen, gap, answer) in [
        (LENGTH.to_owned(), 10, Ok(10)),
        (format!("{LENGTH}abc"), 7, Ok(7)),
        (format!("{LENGTH}abc"), 3, Ok(3)),
        (format!("{LENGTH}abc"), 8, Err(Lost)),
        (format!("{LENGTH}0123456789"), 1, Err(Lost)),
        ("HTTP/1.1 200 OK\r\n\r\n".to_owned(), u64::MAX, Ok(u64::MAX)),
        (format!("{CHUNKED}5\r\nab"), 3, Ok(3)),
        (format!("{CHUNKED}5\r\nab"), 4, Err(Lost)),
        (format!("{CHUNKED}2\r\nab"), 1, Err(Lost)),
        (format!("{CHUNKED}2\r\nab\r\n"), 1, Err(Lost)),
        (format!("{CHUNKED}0\r\n"), 1, Err(Lost)),
        (CHUNKED.to_owned(), 1, Err(Lost)),
        (CHUNKED.to_owned(), 0, Ok(0)),
        (String::new(), 1, Err(Lost)),
        (String::new(), 0, Ok(0)),
        ("HTTP/1.1 101 x\r\n\r\n".to_owned(), 7, Ok(0)),
        ("nonsense\r\n".to_owned(), 1, Err(Lost)),
    ] {
        let mut reader = Reader::new(Decoder::response(), Asked::Normal);
        reader.read(seen.as_bytes());
        let open = reader.decoder.finish();
        assert_eq!(reader.decoder.gap(gap), answer, "{seen:?} {gap}");
        if answer.is_err() {
            assert_eq!(reader.decoder.finish(), open, "a lost gap changes nothing: {seen:?}");
        }
    }
}

#[test]
fn after_a_gap_the_rest_of_the_message_is_read() {
    let mut reader = Reader::new(Decoder::response(), Asked::Normal);
    reader.read(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab");
    assert_eq!(reader.decoder.certain_body(), 3);
    assert_eq!(reader.decoder.gap(3), Ok(3));
    assert_eq!(reader.decoder.certain_body(), 0);
    reader.read(b"\r\n1\r\nc\r\n0\r\n\r\nHTTP/1.1 204 No\r\n\r\n");
    assert_eq!(reader.events[1..], [body("abc"), Event::End, head("204 No", &[]), Event::End]);
}

#[test]
fn resync_starts_anew() {
    let mut decoder = Decoder::request();
    assert!(matches!(decoder.step(b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n", Asked::Normal), Step::Head { .. }));
    assert_eq!((decoder.certain_body(), decoder.finish()), (9, Finish::Cut));
    decoder.resync();
    assert_eq!((decoder.certain_body(), decoder.finish()), (0, Finish::Clean));
    assert!(matches!(decoder.step(b"no \r\n\r\n", Asked::Normal), Step::Invalid(Invalid::StartLine)));
    assert!(matches!(decoder.step(b"GET / HTTP/1.1\r\n\r\n", Asked::Normal), Step::Invalid(Invalid::StartLine)));
    decoder.resync();
    assert!(matches!(decoder.step(b"GET / HTTP/1.1\r\n\r\n", Asked::Normal), Step::Head { .. }));
}

#[test]
fn bytes_taken_back_do_no_harm() {
    let mut decoder = Decoder::request();
    assert_eq!(decoder.step(b"GET / HTTP/1.1\r\nA: b\r\n", Asked::Normal), Step::More);
    assert_eq!(decoder.step(b"GET", Asked::Normal), Step::More);
    assert!(matches!(decoder.step(b"GET / HTTP/1.0\r\n\r\n", Asked::Normal), Step::Head { used: 18, .. }));
}

#[test]
fn what_the_first_bytes_look_like() {
    use Looks::{Maybe, No, Yes};
    let long_method = format!("{} /", "A".repeat(MAX_METHOD + 1));
    for (bytes, request, response) in [
        ("", Maybe, Maybe),
        ("\r", Maybe, Maybe),
        ("\r\n", Maybe, Maybe),
        ("G", Maybe, No),
        ("H", Maybe, Maybe),
        ("HTTP/1.1", No, Maybe),
        ("GET /a", Maybe, No),
        ("GET /a HTTP/1.1\r", Maybe, No),
        ("GET /a HTTP/1.1\r\n", Yes, No),
        ("\r\nGET /a HTTP/1.0\n", Yes, No),
        ("HTTP/1.1 200", No, Maybe),
        ("HTTP/1.1 200\r", No, Maybe),
        ("HTTP/1.1 200 O", No, Maybe),
        ("HTTP/1.1 200 OK\r\n", No, Yes),
        ("HTTP/1.1 200\r\nA", No, Yes),
        ("HTTP/1.1 2x", No, No),
        ("HTTP/1.1 0", No, No),
        (" /", No, No),
        (long_method.as_str(), No, No),
        ("HTTP/2", No, No),
        ("PRI * HTTP/2.0\r\n", No, No),
        ("PRI * HTTP/2", No, No),
        ("SSH-2.0-OpenSSH", Maybe, No),
        ("SSH-2.0-OpenSSH_9\r\n", No, No),
        ("\x16\x03\x01", No, No),
    ] {
        assert_eq!(looks_like_request(bytes.as_bytes()), request, "{bytes:?} as a request");
        assert_eq!(looks_like_response(bytes.as_bytes()), response, "{bytes:?} as a response");
    }
}
