//! Traffic that means harm: nothing crashes, nothing grows, the next good request is recorded.
//!
//! HAProxy in TCP mode passes any bytes on, in both directions, so that the agent sees on a watched process what no
//! HTTP server would let through. The same bytes go to an HTTP frontend too.

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use support::backend::Backend;
use support::client::{Client, Request};
use support::haproxy::{self, Haproxy};
use support::payload::bytes;
use support::sidetap::{CapturePath, Sidetap, tap};
use support::{free_port, on_each_path};

on_each_path!(
    random_bytes,
    heads_without_an_end,
    chunks_without_an_end,
    lengths_beyond_all_numbers,
    smuggling_shapes,
    one_byte_segments,
    thousands_of_half_heads,
    answers_without_a_question,
);

const MIB: usize = 1 << 20;
/// How much the agent may grow over one of these tests: the ceiling it was given for what it captures, and as much
/// again for all else.
const GROWTH: u64 = 128 << 20;
const CEILING: [&str; 2] = ["--memory-limit", "64"];

/// What a hostile server does with a connection.
type Server = fn(TcpStream);

struct Arena {
    sidetap: Sidetap,
    haproxy: Haproxy,
    _backend: Backend,
    good: u16,
    raw: u16,
    resident: u64,
    asked: usize,
}

impl Arena {
    fn start(path: CapturePath, server: Server) -> Arena {
        let (backend, good, raw) = (Backend::start(), free_port(), free_port());
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let hostile = listener.local_addr().expect("a bound socket has an address").port();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || server(stream));
            }
        });
        let haproxy = Haproxy::with(&format!(
            "{}listen raw\n    mode tcp\n    bind 127.0.0.1:{raw}\n    server one 127.0.0.1:{hostile}\n",
            support::scene::proxies(good, backend.port(), "")
        ));
        let config = tap(haproxy::EXE, "level: full");
        let sidetap = Sidetap::start_with(&config, path, &CEILING).of(haproxy.pid()).containing("good-");
        let mut arena = Arena { sidetap, haproxy, _backend: backend, good, raw, resident: 0, asked: 0 };
        arena.ask_well();
        arena.resident = arena.sidetap.program().resident();
        arena
    }

    /// Sends bytes to both frontends until they are all taken or refused, then looks at the agent.
    fn send(&mut self, what: &str, hostile: &[u8]) {
        for port in [self.raw, self.good] {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("haproxy listens");
            let limit = Some(Duration::from_secs(10));
            stream.set_write_timeout(limit).and(stream.set_read_timeout(limit)).expect("options are taken");
            // Being refused is fine: what was taken has been seen.
            let _ = stream.write_all(hostile);
            let _ = stream.shutdown(Shutdown::Write);
            let _ = stream.read_to_end(&mut Vec::new());
        }
        self.survived(what);
    }

    /// The agent lives, has not grown, and records the next good request.
    fn survived(&mut self, what: &str) {
        // What the flood itself made may have been too much for the ceiling, and was counted; what comes after it is not.
        self.sidetap.wait_until_quiet();
        self.ask_well();
        let grown = self.sidetap.program().peak_resident().saturating_sub(self.resident);
        assert!(grown <= GROWTH, "{what}: the agent grew by {} MiB", grown / MIB as u64);
    }

    fn ask_well(&mut self) {
        let id = format!("good-{}", self.asked);
        self.asked += 1;
        Client::tcp(self.good).get("/bytes/1000", &id);
        self.sidetap.wait_for_pair(&id);
    }

    fn stop(self) {
        let asked = self.asked;
        let captured = self.sidetap.stop();
        for number in 0..asked {
            let id = format!("good-{number}");
            for transaction in [captured.ingress(&id), captured.egress(&id)] {
                assert_eq!((transaction.status(), transaction.incomplete()), (200, vec![]), "{id}");
                assert_eq!(transaction.body("response"), Some(bytes(1000)), "{id}");
            }
        }
        drop(self.haproxy);
    }
}

/// Takes everything, then hangs up.
fn swallow(mut stream: TcpStream) {
    let _ = std::io::copy(&mut stream, &mut std::io::sink());
}

/// Sends back what comes.
fn mirror(stream: TcpStream) {
    let (mut from, mut to) = (&stream, &stream);
    let _ = std::io::copy(&mut from, &mut to);
}

/// So much of a pattern.
fn repeated(head: &str, pattern: &str, size: usize) -> Vec<u8> {
    let mut out = head.as_bytes().to_vec();
    while out.len() < size {
        out.extend_from_slice(pattern.as_bytes());
    }
    out
}

fn random_bytes(path: CapturePath) {
    let mut arena = Arena::start(path, mirror);
    let noise = bytes(8 * MIB);
    arena.send("8 MiB of noise", &noise);
    for start in 0..20 {
        arena.send("a piece of noise", &noise[start * 1001..start * 1001 + 3000]);
    }
    let mut behind = Request::new("GET", "/x", "").bytes();
    behind.extend_from_slice(&noise);
    arena.send("noise behind a request", &behind);
    arena.stop();
}

fn heads_without_an_end(path: CapturePath) {
    let mut arena = Arena::start(path, swallow);
    arena.send("a target without an end", &repeated("GET /", "a", 32 * MIB));
    arena.send("a header without an end", &repeated("GET / HTTP/1.1\r\nX-A: ", "a", 32 * MIB));
    arena.send("headers without an end", &repeated("GET / HTTP/1.1\r\n", "X-Header: some value\r\n", 32 * MIB));
    arena.send("tiny headers without an end", &repeated("GET / HTTP/1.1\r\n", "a:\n", 8 * MIB));
    arena.send("folds without an end", &repeated("GET / HTTP/1.1\r\nX-A: b\r\n", " c\r\n", 8 * MIB));
    arena.send("empty lines without an end", &repeated("", "\r\n", 8 * MIB));
    arena.stop();
}

fn chunks_without_an_end(path: CapturePath) {
    const HEAD: &str = "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut arena = Arena::start(path, swallow);
    arena.send("tiny chunks", &repeated(HEAD, "1\r\na\r\n", 16 * MIB));
    arena.send("a size of zeros", &repeated(HEAD, "0", 16 * MIB));
    arena.send("an extension without an end", &repeated(&format!("{HEAD}1;a="), "b", 16 * MIB));
    arena.send("extensions", &repeated(HEAD, "1;name=value;name=value;name=value\r\na\r\n", 16 * MIB));
    arena.send("trailers without an end", &repeated(&format!("{HEAD}0\r\n"), "X-Trailer: value\r\n", 16 * MIB));
    arena.stop();
}

fn lengths_beyond_all_numbers(path: CapturePath) {
    let mut arena = Arena::start(path, swallow);
    for length in ["18446744073709551615", "18446744073709551616", "9223372036854775807", "-1", "0x10", "1e9", ""] {
        let head = format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n");
        arena.send(&format!("a length of {length:?}"), &repeated(&head, "body", 2 * MIB));
    }
    for size in ["ffffffffffffffff", "10000000000000000", "7fffffffffffffff", "-1", "g", ""] {
        let head = format!("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{size}\r\n");
        arena.send(&format!("a chunk of {size:?}"), &repeated(&head, "body", 2 * MIB));
    }
    arena.stop();
}

fn smuggling_shapes(path: CapturePath) {
    let mut arena = Arena::start(path, mirror);
    const SHAPES: [&str; 12] = [
        "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG",
        "Content-Length: 3\r\nContent-Length: 5\r\n\r\nabcde",
        "Content-Length: 5, 6\r\n\r\nabcde",
        "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding:\u{b}chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
        "Content-Length: +5\r\n\r\nabcde",
        "X: a\rContent-Length: 5\r\n\r\nabcde",
        "X: \0\r\nContent-Length: 5\r\n\r\nabcde",
        "Transfer-Encoding: chunked\r\n\r\n5\nabcde\n0\n\n",
    ];
    for shape in SHAPES {
        let mut hostile = format!("POST /shape HTTP/1.1\r\nHost: x\r\n{shape}").into_bytes();
        hostile.extend(Request::new("GET", "/behind", "").bytes());
        arena.send(shape, &hostile);
    }
    arena.stop();
}

fn one_byte_segments(path: CapturePath) {
    let mut arena = Arena::start(path, mirror);
    for port in [arena.raw, arena.good] {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("haproxy listens");
        stream.set_nodelay(true).expect("options are taken");
        let head = "POST /slowly HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n";
        for byte in repeated(head, "1\r\na\r\n", 20_000) {
            if stream.write_all(&[byte]).is_err() {
                break;
            }
        }
    }
    arena.survived("one byte at a time");
    arena.stop();
}

fn thousands_of_half_heads(path: CapturePath) {
    let mut arena = Arena::start(path, swallow);
    let half = repeated("GET / HTTP/1.1\r\nHost: x\r\nX-A: ", "a", 8000);
    let open: Vec<TcpStream> = (0..2000)
        .map(|_| {
            let mut stream = TcpStream::connect(("127.0.0.1", arena.raw)).expect("haproxy listens");
            stream.write_all(&half).expect("haproxy takes it");
            stream
        })
        .collect();
    arena.survived("2,000 half heads");
    drop(open);
    arena.survived("2,000 connections that ended in a head");
    arena.stop();
}

/// Speaks first, and says what no one asked for, without an end.
fn babble(mut stream: TcpStream) {
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc";
    let _ = stream.write_all(&repeated("", answer, 4 * MIB));
    let _ = stream.write_all(&repeated("HTTP/1.1 200 OK\r\n", "X-A: b\r\n", 8 * MIB));
    let _ = stream.shutdown(Shutdown::Both);
}

fn answers_without_a_question(path: CapturePath) {
    let mut arena = Arena::start(path, babble);
    for _ in 0..3 {
        let stream = TcpStream::connect(("127.0.0.1", arena.raw)).expect("haproxy listens");
        swallow(stream);
        arena.survived("answers without a question");
    }
    arena.send("a question and too many answers", &Request::new("GET", "/x", "").bytes());
    arena.stop();
}
