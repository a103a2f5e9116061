//! What comes out of two directions of bytes: a line an exchange, with what it lacks.

use std::net::SocketAddr;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::exchange::pairing::Wanted;
use crate::exchange::{Address, Direction, Exchange, Process};

/// The outside: takes exchanges, lends memory.
struct Outside {
    exchanges: Vec<Exchange>,
    wanted: usize,
    memory: usize,
    held: usize,
    full: bool,
}

impl Host for Outside {
    fn wanted(&mut self, _request: Option<&Head>, response: Option<&Head>) -> Wanted {
        let is_unwanted = response.is_some_and(|head| head.status() == 299);
        Wanted { body: if is_unwanted { 0 } else { self.wanted }, record: true }
    }

    fn reserve(&mut self, bytes: usize) -> bool {
        let fits = self.held + bytes <= self.memory;
        self.held += if fits { bytes } else { 0 };
        fits
    }

    fn release(&mut self, bytes: usize) {
        self.held -= bytes;
    }

    fn is_full(&self) -> bool {
        self.full
    }

    fn finished(&mut self, exchange: Box<Exchange>, _wanted: Wanted) {
        self.held -= exchange.kept();
        self.exchanges.push(*exchange);
    }

    fn still_open(&mut self, exchange: Box<Exchange>) -> u64 {
        self.exchanges.push(*exchange);
        7
    }
}

/// A connection on which each call is one time unit later than the one before.
struct Wire {
    http: Http1,
    outside: Outside,
    connection: Arc<Connection>,
    time: Nanos,
}

impl Wire {
    fn new() -> Wire {
        Wire::with(Http1::new(true))
    }

    /// Joined midway.
    fn joined() -> Wire {
        Wire::with(Http1::new(false))
    }

    fn with(http: Http1) -> Wire {
        let address = |text: &str| Address::Ip(text.parse::<SocketAddr>().unwrap());
        let connection = Connection {
            id: 1,
            direction: Direction::Ingress,
            local: address("10.0.0.1:80"),
            remote: address("10.0.0.2:5000"),
            process: Arc::new(Process::default()),
            tls: None,
            written: Default::default(),
        };
        let outside = Outside { exchanges: Vec::new(), wanted: 1000, memory: 10_000, held: 0, full: false };
        Wire { http, outside, connection: Arc::new(connection), time: 0 }
    }

    /// Bytes that wait neither for time nor for the other side; `\n` is a line break.
    fn call(&mut self, side: Side, text: &str) -> &mut Wire {
        self.time += 1;
        let bytes = text.replace('\n', "\r\n");
        let (http, host, time) = (&mut self.http, &mut self.outside, self.time);
        assert!(http.is_ready(side, true), "{side:?} has to wait: {text}");
        http.bytes(host, &self.connection, side, (bytes.as_bytes(), time, true), true);
        for side in [Side::Request, Side::Response] {
            http.resume(host, &self.connection, side, time);
        }
        http.pass_over(host, &self.connection, time);
        self
    }

    fn request(&mut self, text: &str) -> &mut Wire {
        self.call(Side::Request, text)
    }

    fn response(&mut self, text: &str) -> &mut Wire {
        self.call(Side::Response, text)
    }

    fn get(&mut self, path: &str) -> &mut Wire {
        self.request(&format!("GET {path} HTTP/1.1\nHost: a\n\n"))
    }

    fn ok(&mut self, body: &str) -> &mut Wire {
        self.response(&format!("HTTP/1.1 200 OK\nContent-Length: {}\n\n{body}", body.len()))
    }

    fn unseen(&mut self, side: Side, len: u64, why: Why) -> &mut Wire {
        self.time += 1;
        self.http.unseen(&mut self.outside, &self.connection, side, Gap { len, why, time: self.time });
        self
    }

    fn end(&mut self, side: Side) -> &mut Wire {
        self.time += 1;
        self.http.end(&mut self.outside, &self.connection, side, self.time);
        self
    }

    /// Both ends are gone.
    fn close(&mut self) -> &mut Wire {
        self.end(Side::Request).end(Side::Response);
        self.http.close(&mut self.outside, &self.connection, false);
        assert_eq!((self.http.held(), self.outside.held), (0, 0), "nothing is left behind");
        self
    }

    /// `METHOD /path body -> status body [missing]`, a line an exchange.
    fn seen(&self) -> String {
        let mut lines = String::new();
        for exchange in &self.outside.exchanges {
            let body = |message: &Message| String::from_utf8_lossy(&message.body.kept).into_owned();
            let request = exchange.request.as_ref().map_or("?".into(), |request| {
                let text = String::from_utf8_lossy(&request.head.text);
                format!("{} {}", text.rsplit_once(" HTTP").unwrap().0, body(request))
            });
            let response = exchange
                .response
                .as_ref()
                .map_or("?".into(), |response| format!("{} {}", response.head.status(), body(response)));
            let missing = if exchange.missing.is_empty() { String::new() } else { format!("{:?}", exchange.missing) };
            lines += &format!("{} -> {} {missing}\n", request.trim(), response.trim()).replace(" \n", "\n");
        }
        lines
    }

    #[track_caller]
    fn assert(&self, lines: &[&str]) {
        let seen = self.seen();
        assert_eq!(seen.lines().collect::<Vec<_>>(), lines);
    }
}

#[test]
fn a_request_and_its_response() {
    let mut wire = Wire::new();
    wire.request("POST /a HTTP/1.1\nContent-Length: 2\n\nhi").ok("there");
    wire.assert(&["POST /a hi -> 200 there"]);
    let exchange = &wire.outside.exchanges[0];
    let (request, response) = (exchange.request.as_ref().unwrap(), exchange.response.as_ref().unwrap());
    assert_eq!((request.first_byte, request.last_byte, response.first_byte, response.last_byte), (1, 1, 2, 2));
}

#[test]
fn times_are_those_of_the_first_and_last_byte() {
    let mut wire = Wire::new();
    wire.request("POST /a HT").request("TP/1.1\nContent-Length: 2\n\nh").request("i");
    wire.response("HTTP/1.1 200 OK\nContent-Length: 2\n").response("\nx").response("y");
    let exchange = &wire.outside.exchanges[0];
    let (request, response) = (exchange.request.as_ref().unwrap(), exchange.response.as_ref().unwrap());
    assert_eq!((request.first_byte, request.last_byte, response.first_byte, response.last_byte), (1, 3, 4, 6));
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let mut wire = Wire::new();
    wire.request("GET /1 HTTP/1.1\n\nHEAD /2 HTTP/1.1\n\nGET /3 HTTP/1.1\n\n");
    wire.ok("1").response("HTTP/1.1 200 OK\nContent-Length: 9\n\nHTTP/1.1 404 No\nContent-Length: 0\n\n");
    wire.assert(&["GET /1 -> 200 1", "HEAD /2 -> 200", "GET /3 -> 404"]);
}

#[test]
fn interim_responses_answer_nothing() {
    let mut wire = Wire::new();
    wire.request("POST /a HTTP/1.1\nExpect: 100-continue\nContent-Length: 2\n\n");
    wire.response("HTTP/1.1 100 Continue\n\n").request("hi").response("HTTP/1.1 103 Early Hints\nLink: </x>\n\n");
    wire.response("HTTP/1.1 204 No Content\n\n").get("/b").response("HTTP/1.1 304 Not Modified\nContent-Length: 5\n\n");
    wire.assert(&["POST /a hi -> 204", "GET /b -> 304"]);
}

#[test]
fn chunks_and_trailers() {
    let mut wire = Wire::new();
    wire.get("/").response("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n2;x=y\nhi\n0\nSum: 1\n\n").get("/b").ok("");
    wire.assert(&["GET / -> 200 hi", "GET /b -> 200"]);
    assert!(wire.outside.exchanges[0].response.as_ref().unwrap().trailers.is_some());
}

#[test]
fn a_body_until_close() {
    let mut wire = Wire::new();
    wire.get("/").response("HTTP/1.0 200 OK\n\nall").response(" of it");
    wire.assert(&[]);
    wire.close().assert(&["GET / -> 200 all of it"]);
}

#[test]
fn a_connect_that_succeeds_ends_http() {
    let mut wire = Wire::new();
    wire.request("CONNECT a:1 HTTP/1.1\n\n").response("HTTP/1.1 200 OK\n\n");
    assert_eq!(wire.http.state(), State::Tunnel);
    wire.get("/in-the-tunnel").response("\0\0").close().assert(&["CONNECT a:1 -> 200"]);
}

#[test]
fn a_connect_that_fails_does_not() {
    let mut wire = Wire::new();
    wire.request("CONNECT a:1 HTTP/1.1\n\n").response("HTTP/1.1 403 No\nContent-Length: 0\n\n").get("/").ok("");
    wire.assert(&["CONNECT a:1 -> 403", "GET / -> 200"]);
}

#[test]
fn what_follows_a_request_to_upgrade_waits_for_the_answer() {
    let upgrade = "GET /ws HTTP/1.1\nConnection: Upgrade\nUpgrade: websocket\n\n";
    let mut accepted = Wire::new();
    accepted.request(&format!("{upgrade}GET /frame HTTP/1.1\n\n"));
    assert!(!accepted.http.is_ready(Side::Request, true));
    accepted.response("HTTP/1.1 101 Switching Protocols\nUpgrade: websocket\n\n\0\x01").close();
    accepted.assert(&["GET /ws -> 101"]);

    let mut refused = Wire::new();
    refused.request(&format!("{upgrade}GET /next HTTP/1.1\n\n")).ok("no").ok("yes");
    refused.assert(&["GET /ws -> 200 no", "GET /next -> 200 yes"]);
}

#[test]
fn a_request_without_a_response_and_the_other_way_round() {
    let mut wire = Wire::new();
    wire.ok("why").get("/a").close();
    wire.assert(&["? -> 200 why [Request]", "GET /a -> ? [Response]"]);
}

#[test]
fn a_response_does_not_overtake_its_request() {
    let mut wire = Wire::new();
    assert!(!wire.http.is_ready(Side::Response, false), "the request may come through another CPU");
    wire.get("/a");
    assert!(wire.http.is_ready(Side::Response, false));
}

#[test]
fn messages_cut_short_by_the_end() {
    let mut wire = Wire::new();
    wire.request("POST /a HTTP/1.1\nContent-Length: 9\n\nhi")
        .response("HTTP/1.1 400 Bad\nContent-Length: 9\n\nno")
        .close();
    wire.assert(&["POST /a hi -> 400 no [RequestAborted, ResponseAborted]"]);
}

#[test]
fn what_is_open_when_the_agent_stops_says_so() {
    let mut wire = Wire::new();
    wire.get("/a").response("HTTP/1.1 200 OK\nContent-Length: 9\n\nno");
    wire.http.close(&mut wire.outside, &wire.connection, true);
    wire.assert(&["GET /a -> 200 no [AgentStopped, ResponseAborted]"]);
}

#[test]
fn an_answer_before_the_upload_is_over() {
    let mut wire = Wire::new();
    wire.request("POST /a HTTP/1.1\nContent-Length: 4\n\nhi").ok("done").request("ho").get("/b").ok("b");
    wire.assert(&["POST /a hiho -> 200 done", "GET /b -> 200 b"]);
}

#[test]
fn a_second_answer_during_an_upload_takes_nothing_from_it() {
    let mut wire = Wire::new();
    wire.request("POST /a HTTP/1.1\nContent-Length: 4\n\nhi").ok("one");
    wire.response("HTTP/1.1 200 OK\nContent-Length: 3\n\nt").request("ho").response("wo");
    wire.assert(&["POST /a hiho -> 200 one", "? -> 200 two [Request]"]);
}

#[test]
fn a_stray_line_break_is_not_a_response() {
    let mut wire = Wire::new();
    wire.get("/a").ok("a").response("\n").get("/b").ok("b").close();
    wire.assert(&["GET /a -> 200 a", "GET /b -> 200 b"]);
    assert_eq!(wire.outside.exchanges[1].response.as_ref().unwrap().first_byte, 5, "the line break came at 3");
}

#[test]
fn a_gap_inside_a_body_of_known_length_costs_only_its_bytes() {
    let mut wire = Wire::new();
    wire.get("/a").response("HTTP/1.1 200 OK\nContent-Length: 9\n\nab").unseen(Side::Response, 3, Why::Unobservable);
    wire.response("fghi").get("/b").ok("b");
    wire.assert(&["GET /a -> 200 ab [ResponseBodyNotObservable(3)]", "GET /b -> 200 b"]);
    assert_eq!(wire.outside.exchanges[0].response.as_ref().unwrap().body.wire_bytes, 9);
}

#[test]
fn a_gap_that_ends_a_body_ends_the_exchange() {
    let mut wire = Wire::new();
    wire.get("/a").response("HTTP/1.1 200 OK\nContent-Length: 9\n\n").unseen(Side::Response, 9, Why::Lost);
    wire.assert(&["GET /a -> 200 [ResponseBodyLost(9)]"]);
    assert_eq!(wire.outside.exchanges[0].response.as_ref().unwrap().last_byte, 3);
}

#[test]
fn what_is_skipped_was_not_wanted() {
    let mut wire = Wire::new();
    wire.outside.wanted = 2;
    wire.get("/a").response("HTTP/1.1 200 OK\nContent-Length: 100000\n\nabc");
    assert_eq!(wire.http.unwanted(Side::Response), 99_997);
    wire.unseen(Side::Response, 99_997, Why::Skipped).assert(&["GET /a -> 200 ab [ResponseBodyTruncated(2)]"]);
}

#[test]
fn a_body_that_the_response_makes_unwanted_is_dropped() {
    let mut wire = Wire::new();
    wire.request("POST /a HTTP/1.1\nContent-Length: 2\n\nhi").response("HTTP/1.1 299 Fine\nContent-Length: 2\n\nxy");
    wire.assert(&["POST /a -> 299"]);
    assert_eq!(wire.outside.held, 0);
}

#[test]
fn bodies_that_memory_has_no_room_for() {
    let mut wire = Wire::new();
    wire.outside.memory = 3;
    wire.request("POST /a HTTP/1.1\nContent-Length: 4\n\nhi").request("ho").ok("x").close();
    wire.assert(&["POST /a hi -> 200 x [RequestBodyOverMemory]"]);
}

#[test]
fn bodies_that_are_given_up_leave_a_mark() {
    let mut wire = Wire::new();
    wire.request("POST /a HTTP/1.1\nContent-Length: 4\n\nhi");
    assert_eq!(wire.http.oldest_body(), Some(1));
    let freed = wire.http.drop_bodies();
    assert_eq!((freed, wire.http.oldest_body()), (2, None));
    wire.outside.release(freed);
    wire.request("ho").ok("x").close().assert(&["POST /a -> 200 x [RequestBodyOverMemory]"]);
}

#[test]
fn a_malformed_request_takes_the_response_to_it() {
    let mut wire = Wire::new();
    wire.get("/a").ok("a").request("GET / HTTP/1.1\nbad\n\n").response("HTTP/1.1 400 Bad\nContent-Length: 0\n\n");
    wire.assert(&["GET /a -> 200 a", "? -> 400 [RequestMalformed]"]);
    wire.get("/b").ok("b");
    assert!(wire.seen().ends_with("GET /b -> 200 b\n"), "{}", wire.seen());
}

#[test]
fn a_malformed_response_does_not_take_the_place_of_the_right_one() {
    let mut wire = Wire::new();
    wire.get("/a").response("what?").get("/b").ok("b").close();
    wire.assert(&["GET /a -> ? [ResponseMalformed, Response]", "GET /b -> 200 b"]);
}

#[test]
fn a_malformed_body_ends_its_message() {
    let mut wire = Wire::new();
    wire.get("/a").response("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n2\nhi\nX").get("/b").ok("b").close();
    wire.assert(&["GET /a -> 200 hi [ResponseMalformed]", "GET /b -> 200 b"]);
}

#[test]
fn many_malformed_requests_that_nobody_answers_are_not_kept() {
    let mut wire = Wire::new();
    for _ in 0..3 * MAX_OPEN {
        wire.request("GET / HTTP/1.1\nbad\n\n");
    }
    assert!(wire.http.open.len() <= MAX_OPEN);
    wire.close();
}

#[test]
fn more_requests_than_are_kept_go_out_and_their_late_answers_are_nobodys() {
    let mut wire = Wire::new();
    for _ in 0..MAX_OPEN {
        wire.get("/early");
    }
    wire.get("/late").ok("early");
    assert_eq!(wire.outside.exchanges.len(), MAX_OPEN + 1);
    let late = wire.outside.exchanges.last().unwrap();
    assert!(late.missing.contains(&Missing::PairingUncertain), "{:?}", late.missing);
}

#[test]
fn another_protocol() {
    let mut wire = Wire::new();
    wire.request("\x16\x03\x01").response("\x16\x03\x03").close().assert(&[]);
    assert_eq!(wire.http.state(), State::NotHttp);
}

#[test]
fn joined_midway_through_a_response() {
    let mut wire = Wire::joined();
    wire.response("of a body that began before").response("more of it").get("/a").ok("a");
    wire.assert(&["GET /a -> 200 a"]);
}

#[test]
fn joined_midway_between_a_request_and_its_response() {
    let mut wire = Wire::joined();
    wire.ok("earlier").get("/a").ok("a");
    wire.assert(&["? -> 200 earlier [Request]", "GET /a -> 200 a"]);
}

#[test]
fn joined_midway_before_the_response_to_head() {
    let mut wire = Wire::joined();
    wire.response("HTTP/1.1 200 OK\nContent-Length: 500\n\n").get("/a").ok("a").get("/b").ok("b").close();
    wire.assert(&["? -> 200 [Request]", "GET /a -> 200 a", "GET /b -> 200 b"]);
}

/// Each response went to the last request of its batch, and nothing said so.
#[test]
fn joined_midway_before_pipelined_requests() {
    let mut wire = Wire::joined();
    let batch: String = ["/a", "/b", "/c"].map(|path| format!("GET {path} HTTP/1.1\nHost: a\n\n")).concat();
    wire.request(&batch).ok("a").ok("b").ok("c").get("/d").ok("d");
    wire.assert(&[
        "GET /a -> 200 a [PairingUncertain]",
        "GET /b -> 200 b [PairingUncertain]",
        "GET /c -> 200 c [PairingUncertain]",
        "GET /d -> 200 d [PairingUncertain]",
    ]);
}

/// The server reads them one by one, but answers late.
#[test]
fn joined_midway_before_pipelined_requests_in_calls_of_their_own() {
    let mut wire = Wire::joined();
    wire.get("/a").get("/b").ok("a").ok("b").get("/c").ok("c");
    wire.assert(&[
        "GET /a -> 200 a [PairingUncertain]",
        "GET /b -> 200 b [PairingUncertain]",
        "GET /c -> 200 c [PairingUncertain]",
    ]);
}

#[test]
fn nothing_of_a_response_is_skipped_that_may_answer_head() {
    let mut wire = Wire::joined();
    wire.outside.wanted = 0;
    wire.response("HTTP/1.1 200 OK\nContent-Length: 1000000\n\n");
    assert_eq!(wire.http.unwanted(Side::Response), 0);
}

#[test]
fn joined_midway_a_start_line_may_come_in_pieces() {
    let mut wire = Wire::joined();
    wire.request("GE").request("T /a HT").request("TP/1.1\nHost: a\n\n");
    wire.response("HTTP/1.").response("1 200 OK\nContent-Length: 1\n\n").response("a");
    wire.assert(&["GET /a -> 200 a"]);
}

#[test]
fn joined_midway_what_might_have_become_a_start_line_is_let_go() {
    let mut wire = Wire::joined();
    wire.request("GE").get("/a").response("HTTP/1.").unseen(Side::Response, 10, Why::Lost);
    wire.response("1 200 OK\nContent-Length: 1\n\na").ok("a");
    wire.assert(&["GET /a -> 200 a [PairingUncertain]"]);

    let mut wire = Wire::joined();
    (0..100).fold(wire.request("GET /"), |wire, _| wire.request(&"x".repeat(500)));
    assert!(wire.http.held() <= 2 * START_MOST, "{}", wire.http.held());

    let mut wire = Wire::joined();
    (0..=DOUBT_CALLS).fold(&mut wire, |wire, _| wire.request("P"));
    assert_eq!(wire.http.state(), State::Doubtful);
}

#[test]
fn joined_midway_into_something_else_is_doubted() {
    let mut wire = Wire::joined();
    for _ in 0..DOUBT_CALLS {
        wire.response("\0\x01\x02");
    }
    assert_eq!(wire.http.state(), State::Doubtful);
    wire.get("/a").ok("a").assert(&["GET /a -> 200 a"]);
}

#[test]
fn after_a_lost_response_the_next_one_is_for_the_last_request() {
    let mut wire = Wire::new();
    wire.get("/a").get("/b").unseen(Side::Response, 50, Why::Lost).ok("b").get("/c").ok("c");
    wire.assert(&["GET /a -> ? [Response]", "GET /b -> 200 b [PairingUncertain]", "GET /c -> 200 c"]);
}

#[test]
fn a_lost_request_leaves_its_response_alone() {
    let mut wire = Wire::new();
    wire.get("/a").ok("a").ok("b").unseen(Side::Request, 50, Why::Lost).get("/c").ok("c");
    wire.assert(&["GET /a -> 200 a", "? -> 200 b [Request]", "GET /c -> 200 c"]);
}

#[test]
fn a_loss_while_the_client_pipelines_leaves_nothing_certain() {
    let mut wire = Wire::new();
    wire.request("GET /a HTTP/1.1\n\nGET /b HTTP/1.1\n\n").ok("a").unseen(Side::Request, 50, Why::Lost);
    wire.get("/d").ok("b").ok("c").ok("d");
    wire.assert(&[
        "GET /a -> 200 a",
        "GET /b -> 200 b [PairingUncertain]",
        "GET /d -> 200 c [PairingUncertain]",
        "? -> 200 d [Request]",
    ]);
}

#[test]
fn a_loss_between_chunks_ends_the_message() {
    let mut wire = Wire::new();
    wire.get("/a").response("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n2\nhi\n").unseen(
        Side::Response,
        7,
        Why::Lost,
    );
    wire.response("not a start").get("/b").ok("b");
    wire.assert(&["GET /a -> 200 hi [ResponseBodyLost(7)]", "GET /b -> 200 b"]);
}

/// All that followed was taken for the rest of a body that there was not, since the next response had lost its start.
#[test]
fn a_response_that_may_answer_head_ends_at_the_next_that_is_seen() {
    let mut wire = Wire::new();
    wire.unseen(Side::Request, 30, Why::Lost).response("HTTP/1.1 200 OK\nContent-Length: 500\n\n");
    wire.get("/4").unseen(Side::Response, 17, Why::Lost).response("Content-Length: 5\n\nhello");
    wire.get("/5").ok("x").get("/6").ok("y");
    wire.assert(&[
        "? -> 200 [Request, ResponseBodyLost(17)]",
        "GET /4 -> ? [Response]",
        "GET /5 -> 200 x",
        "GET /6 -> 200 y",
    ]);
}

#[test]
fn the_room_that_a_long_head_took_is_given_back() {
    let mut wire = Wire::new();
    wire.request("GET /a HTTP/1.1\nX: ").request(&"x".repeat(100_000)).request("\n\n").ok("a");
    assert_eq!(wire.http.held(), 0);
}

#[test]
fn as_many_requests_as_are_kept_are_answered_in_turn() {
    let mut wire = Wire::new();
    wire.outside.wanted = 0;
    wire.request("bad").response("HTTP/1.1 400 Bad\nContent-Length: 0\n\n");
    for _ in 0..2 {
        for _ in 0..MAX_OPEN - 1 {
            wire.get("/");
        }
        for _ in 0..MAX_OPEN - 1 {
            wire.response("HTTP/1.1 204 No Content\n\n");
        }
    }
    assert_eq!(wire.outside.exchanges.len(), 1 + 2 * (MAX_OPEN - 1));
    assert!(wire.outside.exchanges.iter().all(|exchange| exchange.response.is_some()));
}

#[test]
fn grpc_web_ends_in_its_body() {
    let trailers = b"grpc-status: 7\r\ngrpc-message: no\r\n";
    let message = b"\0\0\0\0\x02hi";
    let body = [&message[..], b"\x80\0\0\0", &[trailers.len() as u8], trailers].concat();
    let mut wire = Wire::new();
    wire.outside.wanted = 0;
    wire.request("POST /shop.Cart/Add HTTP/1.1\nContent-Type: application/grpc-web+proto\nContent-Length: 7\n\n");
    assert_eq!(wire.http.unwanted(Side::Request), 0, "each message is counted");
    let head = format!("HTTP/1.1 200 OK\nContent-Type: application/grpc-web\nContent-Length: {}\n\n", body.len());
    for (side, bytes) in [(Side::Request, &message[..]), (Side::Response, head.replace('\n', "\r\n").as_bytes())] {
        wire.http.bytes(&mut wire.outside, &wire.connection, side, (bytes, 2, true), true);
    }
    for byte in body {
        wire.http.bytes(&mut wire.outside, &wire.connection, Side::Response, (&[byte], 3, true), true);
    }
    let call = crate::exchange::grpc::Call::of(&wire.outside.exchanges[0]).unwrap();
    assert_eq!((call.service, call.status, &call.message[..]), (Some(&b"shop.Cart"[..]), Some(7), &b"no"[..]));
    assert_eq!((call.request_messages, call.response_messages), (Some(1), Some(1)));
}

/// What may happen on a connection, in any order.
#[derive(Debug, Clone)]
enum Wild {
    Call(bool, Vec<u8>, bool),
    Unseen(bool, u64, u8),
    End(bool),
    Settle,
    Drop,
}

fn wild() -> impl Strategy<Value = Wild> {
    let text = proptest::sample::select(vec![
        "GET /a HTTP/1.1\r\n\r\n",
        "HEAD /a HTTP/1.1\r\n\r\n",
        "CONNECT a:1 HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
        "POST /b HTTP/1.1\r\nContent-Length: 18446744073709551615\r\n\r\n",
        "POST /b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551615\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\n\r\n",
        "5\r\nhello\r\n0\r\n\r\n",
        "hello",
        "\r\n",
        "\0",
    ]);
    let bytes = prop_oneof![4 => text.prop_map(|text| text.as_bytes().to_vec()), 1 => vec(any::<u8>(), 0..9)];
    prop_oneof![
        10 => (any::<bool>(), bytes, any::<bool>()).prop_map(|(side, bytes, settled)| Wild::Call(side, bytes, settled)),
        2 => (any::<bool>(), prop_oneof![0u64..20, 0..=u64::from(u32::MAX)], 0u8..3).prop_map(|(side, len, why)| Wild::Unseen(side, len, why)),
        1 => any::<bool>().prop_map(Wild::End),
        2 => Just(Wild::Settle),
        1 => Just(Wild::Drop),
    ]
}

proptest! {
    #[test]
    fn nothing_panics_and_nothing_is_left(events in vec(wild(), 0..80), from_start: bool) {
        let mut wire = Wire::with(Http1::new(from_start));
        for event in events {
            wire.time += 1;
            let (http, host, connection, time) = (&mut wire.http, &mut wire.outside, &wire.connection, wire.time);
            let side = |is_request: bool| if is_request { Side::Request } else { Side::Response };
            match event {
                Wild::Call(is_request, bytes, settled) => {
                    let data = (&bytes[..], time, true);
                    http.bytes(host, connection, side(is_request), data, settled);
                }
                Wild::Unseen(is_request, len, why) => {
                    let why = [Why::Lost, Why::Skipped, Why::Unobservable][usize::from(why)];
                    http.unseen(host, connection, side(is_request), Gap { len, why, time });
                }
                Wild::End(is_request) => http.end(host, connection, side(is_request), time),
                Wild::Settle => {
                    http.resume(host, connection, Side::Request, time);
                    http.resume(host, connection, Side::Response, time);
                    http.pass_over(host, connection, time);
                }
                Wild::Drop => {
                    let freed = http.drop_bodies();
                    host.release(freed);
                }
            }
            http.unwanted(Side::Request);
            http.unwanted(Side::Response);
        }
        wire.close();
    }
}
