//! What must hold for every stream: cutting it differently changes nothing, no bytes panic, gaps inside bodies harm
//! nothing behind them, work is linear, and another parser reads the same heads.

use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::tests::{Event, Reader, lossy};
use super::*;
use crate::proto::{Head, Version};

/// A message as bytes, where in them its body's data lie, and what a reader is to be told of it.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    pub(super) bytes: Vec<u8>,
    data: Vec<std::ops::Range<usize>>,
    events: Vec<Event>,
}

#[derive(Debug, Clone)]
enum Content {
    None,
    Length(Vec<u8>),
    Chunked { chunks: Vec<(Vec<u8>, String)>, trailers: Vec<(String, String)> },
}

fn sample(start: &str, mut headers: Vec<(String, String)>, content: Content, no_content: &str) -> Sample {
    let seen = start.replace(" HTTP/1.1", "").replace("HTTP/1.1 ", "");
    match &content {
        Content::None if no_content.is_empty() => {}
        Content::None => headers.push((no_content.to_owned(), "0".to_owned())),
        Content::Length(body) => headers.push(("Content-Length".to_owned(), body.len().to_string())),
        Content::Chunked { .. } => headers.push(("Transfer-Encoding".to_owned(), "chunked".to_owned())),
    }
    let mut sample = Sample { bytes: format!("{start}\r\n").into_bytes(), data: Vec::new(), events: Vec::new() };
    sample.fields(&headers);
    sample.events.push(Event::Head(seen, headers));
    match content {
        Content::None => sample.events.push(Event::End),
        Content::Length(body) => {
            sample.data(&body);
            sample.told_body(body);
            sample.events.push(Event::End);
        }
        Content::Chunked { chunks, trailers } => {
            for (chunk, extension) in &chunks {
                sample.bytes.extend(format!("{:x}{extension}\r\n", chunk.len()).bytes());
                sample.data(chunk);
                sample.bytes.extend(b"\r\n");
            }
            sample.told_body(chunks.into_iter().flat_map(|(chunk, _)| chunk).collect());
            sample.bytes.extend(b"0\r\n");
            sample.fields(&trailers);
            sample.events.push(if trailers.is_empty() { Event::End } else { Event::Trailers(trailers) });
        }
    }
    sample
}

impl Sample {
    fn fields(&mut self, fields: &[(String, String)]) {
        let lines = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n"));
        self.bytes.extend(lines.collect::<String>().bytes());
        self.bytes.extend(b"\r\n");
    }

    fn data(&mut self, data: &[u8]) {
        self.data.push(self.bytes.len()..self.bytes.len() + data.len());
        self.bytes.extend(data);
    }

    fn told_body(&mut self, body: Vec<u8>) {
        if !body.is_empty() {
            self.events.push(Event::Body(body));
        }
    }
}

fn fields() -> impl Strategy<Value = Vec<(String, String)>> {
    // the X keeps generated names from being those that mean framing
    vec(("X[!#$%&'*+.^_`|~0-9A-Za-z-]{0,12}", "([!-~\u{e9}]([ -~\t]{0,20}[!-~])?)?"), 0..6)
}

fn content() -> impl Strategy<Value = Content> {
    let chunk = (vec(any::<u8>(), 1..40), select(vec!["", ";a", " ; b=\"c;d\"", ";\t"]));
    let chunk = chunk.prop_map(|(data, extension)| (data, extension.to_owned()));
    prop_oneof![
        Just(Content::None),
        vec(any::<u8>(), 0..100).prop_map(Content::Length),
        (vec(chunk, 0..6), fields()).prop_map(|(chunks, trailers)| Content::Chunked { chunks, trailers }),
    ]
}

pub(super) fn request() -> impl Strategy<Value = Sample> {
    ("[A-Z-]{1,12} [!-~]{1,40} HTTP/1[.]1", fields(), content())
        .prop_map(|(start, headers, content)| sample(&start, headers, content, ""))
}

pub(super) fn response() -> impl Strategy<Value = Sample> {
    let interim = (select(vec![100, 102, 103]), fields()).prop_map(|(status, headers)| {
        let mut interim = sample(&format!("HTTP/1.1 {status} Wait"), headers, Content::None, "");
        interim.events.pop();
        interim
    });
    let last = ("HTTP/1[.]1 [2-5](0[0-35-9]|[1-9][0-9]) [!-~]{0,10}", fields(), content())
        .prop_filter("304 has no body", |(start, ..)| !start.contains(" 304 "))
        .prop_map(|(start, headers, content)| sample(&start, headers, content, "Content-Length"));
    prop_oneof![1 => interim, 4 => last]
}

/// Messages behind each other, with empty lines between some.
pub(super) fn pipelined(message: impl Strategy<Value = Sample>) -> impl Strategy<Value = Sample> {
    vec((message, select(vec!["", "", "\r\n", "\n\r\n"])), 0..5).prop_map(|messages| {
        let mut all = Sample { bytes: Vec::new(), data: Vec::new(), events: Vec::new() };
        for (message, blank) in messages {
            all.bytes.extend(blank.bytes());
            let at = all.bytes.len();
            all.data.extend(message.data.into_iter().map(|data| data.start + at..data.end + at));
            all.bytes.extend(message.bytes);
            all.events.extend(message.events);
        }
        all
    })
}

/// Bytes made of what HTTP is made of, in any order.
fn soup() -> impl Strategy<Value = Vec<u8>> {
    let words = select(vec![
        "GET / HTTP/1.1\r\n",
        "POST /a HTTP/1.1\r\nContent-Length: 3\r\n\r\n",
        "PUT /b HTTP/1.0\nTransfer-Encoding: chunked\n\n",
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\n\r\n",
        "HTTP/1.0 304\n\n",
        "Content-Length: 3\r\n",
        "Transfer-Encoding: chunked\r\n",
        "A: b\r\n",
        " fold\r\n",
        "\r\n",
        "\r\n\r\n",
        "\n",
        "\r",
        "0\r\n\r\n",
        "1\r\na\r\n",
        "2;ext\r\nab\r\n",
        "3\nabc\n",
        "f",
        ":",
        " ",
        "HTTP/1.",
    ]);
    let piece = prop_oneof![9 => words.prop_map(|word| word.as_bytes().to_vec()), 1 => vec(any::<u8>(), 1..4)];
    vec(piece, 0..20).prop_map(|pieces| pieces.concat())
}

pub(super) fn damaged(stream: impl Strategy<Value = Sample>) -> impl Strategy<Value = Vec<u8>> {
    let damage = (any::<Index>(), prop_oneof![any::<u8>(), select(b"\r\n :;,0\t\0".to_vec())], 0..3u8);
    (stream, vec(damage, 0..4)).prop_map(|(sample, damages)| {
        let mut bytes = sample.bytes;
        for (at, byte, kind) in damages {
            let at = at.index(bytes.len() + 1);
            match kind {
                0 => bytes.insert(at, byte),
                _ if at == bytes.len() => {}
                1 => bytes[at] = byte,
                _ => drop(bytes.remove(at)),
            }
        }
        bytes
    })
}

fn any_stream() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![vec(any::<u8>(), 0..200), soup(), damaged(pipelined(request())), damaged(pipelined(response())),]
}

fn asked() -> impl Strategy<Value = Asked> {
    select(vec![Asked::Normal, Asked::Normal, Asked::Head, Asked::Connect])
}

fn decoder(is_request: bool) -> Decoder {
    if is_request { Decoder::request() } else { Decoder::response() }
}

/// What a reader of these pieces is told, and what the end of the stream means to it.
fn told<'a>(is_request: bool, asked: Asked, pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Event>, Finish) {
    let mut reader = Reader::new(decoder(is_request), asked);
    pieces.into_iter().for_each(|piece| reader.read(piece));
    let finish = reader.decoder.finish();
    (reader.events, finish)
}

/// The bytes cut at these places.
fn cut<'a>(bytes: &'a [u8], cuts: &[Index]) -> Vec<&'a [u8]> {
    let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    places.extend([0, bytes.len()]);
    places.sort_unstable();
    places.windows(2).map(|ends| &bytes[ends[0]..ends[1]]).collect()
}

proptest! {
    #[test]
    fn cutting_a_stream_differently_changes_nothing(
        stream in any_stream(), is_request: bool, asked in asked(), cuts in vec(any::<Index>(), 0..8)
    ) {
        let whole = told(is_request, asked, [&stream[..]]);
        prop_assert_eq!(&told(is_request, asked, cut(&stream, &cuts)), &whole);
        prop_assert_eq!(&told(is_request, asked, stream.chunks(1)), &whole);
    }

    #[test]
    fn pipelined_requests_come_out_as_they_went_in(stream in pipelined(request()), cuts in vec(any::<Index>(), 0..8)) {
        let (events, finish) = told(true, Asked::Normal, cut(&stream.bytes, &cuts));
        prop_assert_eq!(events, stream.events);
        prop_assert_eq!(finish, Finish::Clean);
    }

    #[test]
    fn pipelined_responses_come_out_as_they_went_in(stream in pipelined(response()), cuts in vec(any::<Index>(), 0..8)) {
        let (events, finish) = told(false, Asked::Normal, cut(&stream.bytes, &cuts));
        prop_assert_eq!(events, stream.events);
        prop_assert_eq!(finish, Finish::Clean);
    }

    /// A piece of a body of known length, or of one chunk, that was not seen is missing in that body and nowhere else.
    #[test]
    fn a_gap_inside_a_body_harms_nothing_else(
        stream in pipelined(response()).prop_filter("needs data", |s| s.data.iter().any(|data| !data.is_empty())),
        which: Index, from: Index, to: Index
    ) {
        let data: Vec<_> = stream.data.iter().filter(|data| !data.is_empty()).collect();
        let data = which.get(&data);
        let (one, other) = (from.index(data.len() + 1), to.index(data.len() + 1));
        let gap = data.start + one.min(other)..data.start + one.max(other);

        let mut reader = Reader::new(Decoder::response(), Asked::Normal);
        reader.read(&stream.bytes[..gap.start]);
        prop_assert!(gap.is_empty() || reader.decoder.certain_body() >= gap.len() as u64);
        prop_assert_eq!(reader.decoder.gap(gap.len() as u64), Ok(gap.len() as u64));
        reader.read(&stream.bytes[gap.end..]);

        let body_bytes = |events: &[Event]| events.iter().map(|e| if let Event::Body(b) = e { b.len() } else { 0 }).sum::<usize>();
        let others = |events: &[Event]| -> Vec<Event> {
            events.iter().filter(|event| !matches!(event, Event::Body(_))).cloned().collect()
        };
        prop_assert_eq!(others(&reader.events), others(&stream.events));
        prop_assert_eq!(body_bytes(&reader.events) + gap.len(), body_bytes(&stream.events));
        prop_assert_eq!(reader.decoder.finish(), Finish::Clean);
    }

    #[test]
    fn gaps_and_new_starts_anywhere_never_panic(
        pieces in vec((soup(), prop_oneof![0..20u64, any::<u64>()]), 0..6), is_request: bool, asked in asked()
    ) {
        let mut reader = Reader::new(decoder(is_request), asked);
        for (piece, gap) in pieces {
            reader.read(&piece);
            let certain = reader.decoder.certain_body();
            match reader.decoder.gap(gap) {
                Ok(body) => prop_assert!(gap <= certain && body <= gap),
                Err(Lost) => {
                    prop_assert!(gap > certain);
                    reader = Reader::new(reader.decoder, asked);
                    reader.decoder.resync();
                }
            }
        }
    }

    /// `looks_like` never takes back what it said, and agrees with the decoder.
    #[test]
    fn first_bytes_are_judged_as_the_decoder_does(stream in any_stream(), is_request: bool) {
        let looks_like = if is_request { looks_like_request } else { looks_like_response };
        let mut before = Looks::Maybe;
        for length in 0..=stream.len() {
            let looks = looks_like(&stream[..length]);
            prop_assert!(before == Looks::Maybe || looks == before, "{:?} became {:?} at {}", before, looks, length);
            before = looks;
        }
        let refused = decoder(is_request).step(&stream, Asked::Normal) == Step::Invalid(Invalid::StartLine);
        prop_assert_eq!(refused, before == Looks::No);
    }

    #[test]
    fn httparse_reads_the_same_requests(stream in any_stream()) {
        let mut fields = [httparse::EMPTY_HEADER; 64];
        let mut theirs = httparse::Request::new(&mut fields);
        let Ok(httparse::Status::Complete(length)) = theirs.parse(&stream) else { return Ok(()) };
        let (Some(method), Some(target)) = (theirs.method, theirs.path) else { panic!("complete without a start line") };
        match Decoder::request().step(&stream, Asked::Normal) {
            Step::Head { head, used } => {
                prop_assert_eq!(lossy(head.method()), method);
                prop_assert_eq!(lossy(head.target()), target);
                same_rest(&head, used, theirs.version, theirs.headers, length)?;
            }
            other => prop_assert!(ours_alone(&other, theirs.headers), "{:?} for {:?}", other, lossy(&stream)),
        }
    }

    #[test]
    fn httparse_reads_the_same_responses(stream in any_stream()) {
        let mut fields = [httparse::EMPTY_HEADER; 64];
        let mut theirs = httparse::Response::new(&mut fields);
        let Ok(httparse::Status::Complete(length)) = theirs.parse(&stream) else { return Ok(()) };
        match Decoder::response().step(&stream, Asked::Normal) {
            Step::Head { head, used } => {
                prop_assert_eq!(Some(head.status()), theirs.code);
                if head.reason().is_ascii() {
                    prop_assert_eq!(Some(lossy(head.reason())), theirs.reason.map(|reason| reason.trim().to_owned()));
                }
                same_rest(&head, used, theirs.version, theirs.headers, length)?;
            }
            Step::Invalid(Invalid::StartLine) => prop_assert!(theirs.code < Some(100)),
            other => prop_assert!(ours_alone(&other, theirs.headers), "{:?} for {:?}", other, lossy(&stream)),
        }
    }
}

fn same_rest(
    head: &Head,
    used: usize,
    version: Option<u8>,
    headers: &[httparse::Header<'_>],
    length: usize,
) -> Result<(), TestCaseError> {
    prop_assert_eq!(used, length);
    prop_assert_eq!(head.version == Version::Http11, version == Some(1));
    let ours: Vec<_> = head.headers().map(|(name, value)| (lossy(name), value)).collect();
    let theirs: Vec<_> = headers.iter().map(|header| (header.name.to_owned(), header.value)).collect();
    prop_assert_eq!(ours, theirs);
    Ok(())
}

/// A head that `httparse` takes is refused here only for what it says of the body, which `httparse` does not read.
fn ours_alone(step: &Step<'_>, headers: &[httparse::Header<'_>]) -> bool {
    let has = |name: &str| headers.iter().any(|header| header.name.eq_ignore_ascii_case(name));
    match step {
        Step::Invalid(Invalid::ContentLength) => has("content-length"),
        Step::Invalid(Invalid::Header) => has("transfer-encoding"),
        _ => false,
    }
}

/// The seeds of the fuzz target, so that what a fuzzer found stays found without one.
#[test]
fn fuzz_seeds_are_read_the_same_however_cut() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fuzz/seeds/http1");
    let mut seeds = 0;
    for seed in std::fs::read_dir(folder).expect("the seeds are part of the source") {
        let stream = std::fs::read(seed.unwrap().path()).unwrap();
        for (is_request, asked) in
            [(true, Asked::Normal), (false, Asked::Normal), (false, Asked::Head), (false, Asked::Connect)]
        {
            let whole = told(is_request, asked, [&stream[..]]);
            assert_eq!(told(is_request, asked, stream.chunks(1)), whole);
            assert_eq!(told(is_request, asked, stream.chunks(7)), whole);
        }
        seeds += 1;
    }
    assert!(seeds >= 10, "{seeds} seeds");
}

/// Shows the decoder a stream that grows by one byte a step, as the slowest of peers would send it.
fn byte_by_byte(decoder: &mut Decoder, stream: &[u8]) -> usize {
    let mut used = 0;
    for end in 1..=stream.len() {
        loop {
            used += match decoder.step(&stream[used..end], Asked::Normal) {
                Step::Head { used, .. } | Step::Body { used, .. } | Step::End { used, .. } => used,
                _ => break,
            };
        }
    }
    used
}

/// Work grows with the bytes, not with their square. Each of these streams takes a fraction of a second; looking at
/// every byte again with each new one would take minutes.
#[test]
fn the_slowest_peers_cost_no_more_than_others() {
    let long_value = format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "a".repeat(MAX_HEAD - 100));
    let long_target = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(MAX_HEAD - 100));
    let many_fields = format!("GET / HTTP/1.1\r\n{}\r\n", "a:b\r\n".repeat(MAX_FIELDS));
    let many_folds = format!("GET / HTTP/1.1\r\nA: b\r\n{}\r\n", " c\r\n".repeat(MAX_FIELDS - 1));
    let chunked = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
    let tiny_chunks = format!("{chunked}{}0\r\n\r\n", "1\r\na\r\n".repeat(100_000));
    let extension = "x".repeat(MAX_CHUNK_LINE - 10);
    let long_extensions = format!("{chunked}{}0\r\n\r\n", format!("1;{extension}\r\na\r\n").repeat(50));
    let long_trailer = format!("{chunked}0\r\nA: {}\r\n\r\n", "a".repeat(MAX_HEAD - 100));
    for stream in [long_value, long_target, many_fields, many_folds, tiny_chunks, long_extensions, long_trailer] {
        let started = Instant::now();
        assert_eq!(byte_by_byte(&mut Decoder::request(), stream.as_bytes()), stream.len());
        assert!(started.elapsed() < Duration::from_secs(10), "{:?} for {:.40}", started.elapsed(), stream);
    }
}

#[test]
fn many_tiny_chunks_in_one_piece_are_read_in_one_pass() {
    let stream =
        format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n", "1\r\na\r\n".repeat(100_000));
    let (mut decoder, mut used, mut steps) = (Decoder::request(), 0, 0);
    while let Step::Head { used: n, .. } | Step::Body { used: n, .. } | Step::End { used: n, .. } =
        decoder.step(&stream.as_bytes()[used..], Asked::Normal)
    {
        used += n;
        steps += 1;
    }
    assert_eq!(used, stream.len());
    assert_eq!(steps, 100_002, "a head, one step a chunk, and an end");
}
