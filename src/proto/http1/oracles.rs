//! What others make of the same bytes: the tests of llhttp, the parser of Node.js, as a table (tests/data/llhttp), and the
//! parsers in Python's standard library, asked where there is a python3.

use std::io::Write;
use std::process::{Command, Stdio};

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde::Deserialize;

use super::properties::{damaged, pipelined, request, response};
use super::tests::{Event, Reader};
use super::*;

#[derive(Debug, Default, Clone, PartialEq, Deserialize)]
struct Message {
    /// Method and target, or the status.
    start: Vec<String>,
    headers: Vec<(String, String)>,
    trailers: Vec<(String, String)>,
    body: String,
    complete: bool,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    side: String,
    bytes: String,
    messages: Vec<Message>,
    error: Option<String>,
}

/// What the decoder makes of a stream, whether it refuses the rest, and what the stream's end would mean to it.
fn ours(is_request: bool, bytes: &[u8]) -> (Vec<Message>, bool, Finish) {
    let decoder = if is_request { Decoder::request() } else { Decoder::response() };
    let mut reader = Reader::new(decoder, Asked::Normal);
    reader.read(bytes);
    let (mut messages, mut refuses) = (Vec::<Message>::new(), false);
    for event in reader.events {
        match (event, messages.last_mut()) {
            (Event::Head(start, headers), _) => {
                let parts = if is_request { 2 } else { 1 };
                let start: Vec<String> = start.split(' ').take(parts).map(str::to_owned).collect();
                // An interim response has no end.
                let complete = start[0].starts_with('1');
                messages.push(Message { start, headers, complete, ..Message::default() });
            }
            (Event::Body(body), Some(message)) => message.body = latin1(&body),
            (Event::End, Some(message)) => message.complete = true,
            (Event::Trailers(trailers), Some(message)) => {
                message.complete = true;
                message.trailers = trailers;
            }
            (Event::Invalid(_), _) => refuses = true,
            _ => {}
        }
    }
    (messages.into_iter().map(plain).collect(), refuses, reader.decoder.finish())
}

fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| char::from(byte)).collect()
}

fn bytes(latin1: &str) -> Vec<u8> {
    latin1.chars().map(|c| c as u8).collect()
}

/// Runs of white space in values are one space: folded ones are joined in different ways.
fn plain(mut message: Message) -> Message {
    for (_, value) in message.headers.iter_mut().chain(&mut message.trailers) {
        *value = value.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
    }
    message
}

/// The same, of text that holds bytes as characters: as the others show it here.
fn plain_latin1(mut message: Message) -> Message {
    let text = |text: &str| String::from_utf8_lossy(&bytes(text)).into_owned();
    message.start.iter_mut().for_each(|part| *part = text(part));
    for (name, value) in message.headers.iter_mut().chain(&mut message.trailers) {
        (*name, *value) = (text(name), text(value));
    }
    plain(message)
}

/// What llhttp refuses, by what it says, and we take: a watcher cannot refuse what the peers agree on.
const LAXER: &[(&str, &str)] = &[
    ("Data after `Connection: close`", "what follows is shown as what it looks like"),
    ("Invalid method for HTTP/x.x request", "any token is a method"),
    ("Expected space after method", "any token is a method"),
    ("Expected CRLF after version", "LF alone ends a line"),
    ("Missing expected CR after header value", "LF alone ends a line"),
    ("Missing expected CR after response line", "LF alone ends a line"),
    ("Invalid header value char", "control characters in values, and LF alone"),
    ("Unexpected whitespace after header value", "folded values in requests"),
    ("Invalid char in url path", "raw UTF-8 in targets"),
    ("Invalid status code", "more than one space in a start line"),
    ("Invalid character in chunk size", "white space behind a chunk's size"),
    ("Invalid character in chunk extensions", "chunk extensions are stepped over as they are"),
];

/// What llhttp takes and we refuse, by the beginning of a line.
const STRICTER: &[(&str, &str)] = &[
    ("SOURCE /music/sweet/music ICE/", "not HTTP"),
    ("OPTIONS /music/sweet/music RTSP/", "not HTTP"),
    ("ANNOUNCE /music/sweet/music RTSP/", "not HTTP"),
    ("RTSP/", "not HTTP"),
    ("ICE/", "not HTTP"),
    ("GET /\r\n", "HTTP/0.9"),
    ("HTTP/0.9 ", "HTTP/0.9"),
];

#[test]
fn the_tests_of_llhttp_come_out_the_same_but_for_what_is_listed() {
    let cases = include_str!("../../../tests/data/llhttp/cases.jsonl");
    let (mut other, mut count) = (Vec::new(), 0);
    for line in cases.lines() {
        let case: Case = serde_json::from_str(line).unwrap();
        let (ours, refuses, finish) = ours(case.side == "request", &bytes(&case.bytes));
        let theirs: Vec<Message> = case.messages.into_iter().map(plain_latin1).collect();
        let whole = |messages: &[Message]| -> Vec<Message> {
            messages.iter().filter(|message| message.complete).cloned().collect()
        };
        let heads = |messages: &[Message]| -> Vec<Message> {
            let head = |one: &Message| Message {
                start: one.start.clone(),
                headers: one.headers.clone(),
                ..Message::default()
            };
            messages.iter().take(theirs.len()).map(head).collect()
        };
        let error = case.error.as_deref();
        let is_listed = |list: &[(&str, &str)], text: &str| list.iter().any(|(start, _)| text.starts_with(start));
        let agrees = match error {
            None if is_listed(STRICTER, &case.bytes) => refuses && ours.is_empty(),
            None => !refuses && ours == theirs,
            // It takes the request's word for it, and stops; we wait for the response's.
            Some(error) if error.starts_with("Pause on") => heads(&ours) == heads(&theirs),
            Some(error) if is_listed(LAXER, error) => whole(&ours).starts_with(&whole(&theirs)),
            // It says so at once, we where the head ends.
            Some(_) => (refuses || finish == Finish::Cut) && whole(&ours) == whole(&theirs),
        };
        count += 1;
        if !agrees {
            other.push(format!("{} {:?}\n  {error:?} {theirs:?}\n  {refuses} {ours:?}", case.name, case.bytes));
        }
    }
    assert!(other.is_empty(), "{} of {count}:\n{}", other.len(), other.join("\n"));
    assert!(count > 150, "{count} cases");
}

/// Reads lines of [side, bytes] and answers each with what Python's own parser makes of it.
const PYTHON: &str = r#"
import http.client, http.server, io, json, sys

class Socket:
    def __init__(self, data):
        self.data = data
    def makefile(self, *_):
        return io.BytesIO(self.data)

class Handler(http.server.BaseHTTPRequestHandler):
    def __init__(self, data):
        self.rfile, self.wfile, self.error = io.BytesIO(data), io.BytesIO(), None
        self.raw_requestline = self.rfile.readline(65537)
        self.ok = self.parse_request() and self.error is None
    def send_error(self, code, *_):
        self.error = code

def response(data):
    response = http.client.HTTPResponse(Socket(data))
    response.begin()
    return [str(response.status)], response.getheaders(), response.read().decode("latin-1")

def request(data):
    handler = Handler(data)
    if not handler.ok:
        raise ValueError(handler.error)
    return [handler.command, handler.path], handler.headers.items(), ""

for line in sys.stdin:
    side, data = json.loads(line)
    try:
        start, headers, body = {"request": request, "response": response}[side](data.encode("latin-1"))
        print(json.dumps({"start": start, "headers": headers, "trailers": [], "body": body, "complete": True}))
    except Exception as error:
        print("null")
"#;

/// What Python makes of each stream's first message; none where there is no python3.
fn pythons(streams: &[(bool, Vec<u8>)]) -> Option<Vec<Option<Message>>> {
    let python = Command::new("python3").args(["-c", PYTHON]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut python = python.ok()?;
    let mut input = python.stdin.take().expect("it is piped");
    let lines: Vec<String> = streams
        .iter()
        .map(|(is_request, bytes)| {
            let side = if *is_request { "request" } else { "response" };
            serde_json::to_string(&(side, latin1(bytes))).expect("strings can be written")
        })
        .collect();
    let writer = std::thread::spawn(move || {
        for line in lines {
            writeln!(input, "{line}").expect("python3 reads all of it");
        }
    });
    let output = python.wait_with_output().expect("python3 was started");
    writer.join().expect("python3 reads all of it");
    assert!(output.status.success());
    let answers = String::from_utf8(output.stdout).expect("JSON is text");
    Some(answers.lines().map(|line| serde_json::from_str(line).expect("python3 writes JSON")).collect())
}

/// So many values, the same each time.
fn drawn<T: std::fmt::Debug>(strategy: impl Strategy<Value = T>, count: usize) -> Vec<T> {
    let mut runner = TestRunner::deterministic();
    (0..count).map(|_| strategy.new_tree(&mut runner).expect("it can be drawn").current()).collect()
}

#[test]
fn pythons_own_parsers_read_the_same() {
    let good_requests = drawn(request(), 300).into_iter().map(|sample| (true, sample.bytes));
    let good_responses = drawn(response(), 300).into_iter().map(|sample| (false, sample.bytes));
    let mut streams: Vec<(bool, Vec<u8>)> = good_requests.chain(good_responses).collect();
    let good = streams.len();
    streams.extend(drawn(damaged(pipelined(request())), 1000).into_iter().map(|bytes| (true, bytes)));
    streams.extend(drawn(damaged(pipelined(response())), 1000).into_iter().map(|bytes| (false, bytes)));
    let Some(theirs) = pythons(&streams) else {
        eprintln!("skipped: there is no python3");
        return;
    };
    assert_eq!(theirs.len(), streams.len());
    let mut compared = 0;
    for (at, ((is_request, bytes), theirs)) in streams.iter().zip(theirs).enumerate() {
        let ours = ours(*is_request, bytes).0.into_iter().next();
        // 1xx but 100 are responses to Python; and what ends with the connection has no end here.
        let is_final = ours.as_ref().is_some_and(|ours| ours.complete && !ours.start[0].starts_with('1'));
        let (Some(ours), Some(theirs), true) = (ours, theirs.map(plain_latin1), is_final) else {
            let is_interim = !is_request && bytes.starts_with(b"HTTP/1.1 1");
            assert!(at >= good || is_interim, "only one of us reads {:?}", latin1(bytes));
            continue;
        };
        let same_head = start(&ours) == start(&theirs) && ours.headers == theirs.headers;
        assert!(at >= good || same_head, "{:?}: ours {ours:?}, theirs {theirs:?}", latin1(bytes));
        // It reads no body of a request.
        if same_head && !is_request {
            assert_eq!(ours.body, theirs.body, "{:?}", latin1(bytes));
        }
        compared += usize::from(same_head);
    }
    assert!(compared > 1000, "{compared} were compared");
}

/// Python makes one of several slashes at the beginning of a target.
fn start(message: &Message) -> Vec<String> {
    let one_slash = |part: &String| match part.trim_start_matches('/') {
        rest if rest.len() < part.len() => format!("/{rest}"),
        rest => rest.to_owned(),
    };
    message.start.iter().map(one_slash).collect()
}
