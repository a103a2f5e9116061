//! What comes out of two directions of frames: a line an exchange, with what it lacks.

use std::net::SocketAddr;

use proptest::collection::vec;
use proptest::prelude::*;

use super::frames::*;
use super::*;
use crate::conn::Why;
use crate::exchange::http::Http;
use crate::exchange::pairing::Wanted;
use crate::exchange::{Address, Direction, Exchange, Process};
use crate::proto::http2::PREFACE;

/// The outside: takes exchanges, lends memory.
struct Outside {
    exchanges: Vec<Exchange>,
    wanted: usize,
    held: usize,
    full: bool,
}

impl Host for Outside {
    fn wanted(&mut self, _request: Option<&Head>, response: Option<&Head>) -> Wanted {
        let is_unwanted = response.is_some_and(|head| head.status() == 299);
        Wanted { body: if is_unwanted { 0 } else { self.wanted }, record: true }
    }

    fn reserve(&mut self, bytes: usize) -> bool {
        self.held += bytes;
        true
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
    http: Http,
    outside: Outside,
    connection: Arc<Connection>,
    time: Nanos,
}

impl Wire {
    /// Both sides have said that they speak HTTP/2.
    fn new() -> Wire {
        let mut wire = Wire::with(Http::new(true));
        wire.request([PREFACE, &settings()].concat()).response(settings());
        wire
    }

    fn joined() -> Wire {
        Wire::with(Http::new(false))
    }

    fn with(http: Http) -> Wire {
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
        let outside = Outside { exchanges: Vec::new(), wanted: 1000, held: 0, full: false };
        Wire { http, outside, connection: Arc::new(connection), time: 0 }
    }

    fn call(&mut self, side: Side, bytes: impl AsRef<[u8]>) -> &mut Wire {
        self.time += 1;
        self.http.bytes(&mut self.outside, &self.connection, side, (bytes.as_ref(), self.time, true), true);
        self
    }

    fn request(&mut self, bytes: impl AsRef<[u8]>) -> &mut Wire {
        self.call(Side::Request, bytes)
    }

    fn response(&mut self, bytes: impl AsRef<[u8]>) -> &mut Wire {
        self.call(Side::Response, bytes)
    }

    fn unseen(&mut self, side: Side, len: u64, why: Why) -> &mut Wire {
        self.time += 1;
        self.http.unseen(&mut self.outside, &self.connection, side, Gap { len, why, time: self.time });
        self
    }

    /// All that came so far was all that there was.
    fn settle(&mut self) -> &mut Wire {
        self.http.settle(&mut self.outside, &self.connection, self.time);
        self
    }

    fn close(&mut self) -> &mut Wire {
        self.settle();
        for side in [Side::Request, Side::Response] {
            self.http.end(&mut self.outside, &self.connection, side, self.time);
        }
        self.http.close(&mut self.outside, &self.connection, false);
        assert_eq!(self.outside.held, 0, "nothing is left behind");
        self
    }

    /// `stream: METHOD path body -> status body [missing]`, a line an exchange.
    fn seen(&self) -> Vec<String> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let message = |start: String, message: &Message| format!("{start} {}", text(&message.body.kept));
        let of_request = |request: &Message| {
            message(format!("{} {}", text(request.head.method()), text(request.head.target())), request)
        };
        let of_response = |response: &Message| message(response.head.status().to_string(), response);
        self.outside
            .exchanges
            .iter()
            .map(|exchange| {
                assert_eq!(exchange.protocol, Protocol::Http2);
                let request = exchange.request.as_ref().map_or("?".into(), of_request);
                let response = exchange.response.as_ref().map_or("?".into(), of_response);
                let missing = match &exchange.missing[..] {
                    [] => String::new(),
                    missing => format!(" {missing:?}"),
                };
                let stream = exchange.stream.unwrap();
                let pushed = if stream.pushed { " pushed" } else { "" };
                format!("{}{pushed}: {} -> {}{missing}", stream.id, request.trim(), response.trim())
            })
            .collect()
    }

    #[track_caller]
    fn assert(&self, lines: &[&str]) {
        assert_eq!(self.seen(), lines);
    }
}

#[test]
fn a_request_and_its_response() {
    let mut wire = Wire::new();
    wire.request(post(1, "/a")).request(data(1, END_STREAM, "hi"));
    wire.response([status(1, 0, 200), data(1, 0, "the")].concat()).response(data(1, END_STREAM, "re"));
    wire.assert(&["1: POST /a hi -> 200 there"]);
    assert_eq!(wire.http.protocol(), Some(Protocol::Http2));
    let exchange = &wire.outside.exchanges[0];
    let (request, response) = (exchange.request.as_ref().unwrap(), exchange.response.as_ref().unwrap());
    assert_eq!((request.first_byte, request.last_byte, response.first_byte, response.last_byte), (3, 4, 5, 6));
}

#[test]
fn streams_are_answered_in_any_order() {
    let mut wire = Wire::new();
    wire.request([get(1, "/1"), post(3, "/3"), get(5, "/5")].concat());
    wire.response([status(5, END_STREAM, 204), status(1, 0, 200), status(3, 0, 404)].concat());
    wire.request(data(3, END_STREAM, "up"));
    wire.response([data(3, 0, "n"), data(1, 0, "o"), data(3, END_STREAM, "o"), data(1, END_STREAM, "ne")].concat());
    wire.assert(&["5: GET /5 -> 204", "3: POST /3 up -> 404 no", "1: GET /1 -> 200 one"]);
}

#[test]
fn a_response_taken_in_before_its_request_waits_for_it() {
    let mut wire = Wire::new();
    wire.response([status(1, 0, 200), data(1, END_STREAM, "a")].concat()).assert(&[]);
    assert!(wire.http.is_held_back(0));
    wire.request(get(1, "/")).assert(&["1: GET / -> 200 a"]);
    wire.response(status(3, END_STREAM, 200)).settle();
    wire.request(get(5, "/b")).response(status(5, END_STREAM, 200));
    wire.assert(&["1: GET / -> 200 a", "3: ? -> 200 [Request]", "5: GET /b -> 200"]);
    wire.close();
    assert_eq!(wire.outside.exchanges.len(), 3, "each once");
}

#[test]
fn interim_responses_answer_nothing_and_trailers_end() {
    let mut wire = Wire::new();
    wire.request(post(1, "/")).response([status(1, 0, 100), status(1, 0, 103)].concat());
    wire.request([data(1, 0, "x"), headers(1, END_STREAM, "up: 1")].concat());
    wire.response([status(1, 0, 200), data(1, 0, "y"), headers(1, END_STREAM, "sum: 1")].concat());
    wire.assert(&["1: POST / x -> 200 y"]);
    let exchange = &wire.outside.exchanges[0];
    for message in [&exchange.request, &exchange.response] {
        assert_eq!(message.as_ref().unwrap().trailers.as_ref().unwrap().fields.len(), 1);
    }
}

#[test]
fn a_stream_that_is_given_up_says_by_whom_and_why() {
    let mut wire = Wire::new();
    wire.request([get(1, "/1"), post(3, "/3"), get(5, "/5")].concat()).request(reset(1, 8));
    // What was on its way when the client gave up comes through another CPU.
    wire.response([status(1, 0, 200), data(1, 0, "ab")].concat());
    wire.response([status(3, END_STREAM, 413), reset(3, 0)].concat()).response(reset(5, 0x99)).settle();
    wire.response(data(1, END_STREAM, "late"));
    wire.assert(&[
        "1: GET /1 -> 200 ab [ResetByClient(8), ResponseAborted]",
        "3: POST /3 -> 413 [ResetByServer(0), RequestAborted]",
        "5: GET /5 -> ? [ResetByServer(153), Response]",
    ]);
    wire.close();
    assert_eq!(wire.outside.exchanges.len(), 3, "each once");
}

#[test]
fn a_connection_that_is_ended_names_what_was_not_taken() {
    let mut wire = Wire::new();
    wire.request([get(1, "/1"), get(3, "/3"), get(5, "/5")].concat()).response(goaway(3, 0));
    wire.response(status(1, END_STREAM, 200)).settle();
    wire.assert(&["1: GET /1 -> 200", "5: GET /5 -> ? [GoAway(0), Response]"]);
    wire.response(goaway(3, 11)).close();
    assert_eq!(wire.seen()[2], "3: GET /3 -> ? [GoAway(11), Response]");
}

#[test]
fn pushed_responses_are_recorded_as_such() {
    let mut wire = Wire::new();
    let promised =
        [&2u32.to_be_bytes()[..], &block(":method: GET\n:scheme: http\n:path: /style\n:authority: a")].concat();
    wire.request(get(1, "/")).response(frame(5, END_HEADERS, 1, &promised));
    wire.response([status(1, END_STREAM, 200), status(2, 0, 200), data(2, END_STREAM, "css")].concat());
    wire.assert(&["1: GET / -> 200", "2 pushed: GET /style -> 200 css"]);
}

#[test]
fn what_a_tunnel_carries_is_no_body() {
    let mut wire = Wire::new();
    wire.request(headers(1, 0, ":method: CONNECT\n:authority: a:1")).request(data(1, 0, "early"));
    wire.response([status(1, 0, 200), data(1, 0, "inside")].concat());
    let websocket = ":method: CONNECT\n:protocol: websocket\n:scheme: http\n:path: /chat\n:authority: a";
    wire.request(headers(3, 0, websocket)).response([status(3, 0, 200), data(3, END_STREAM, "inside")].concat());
    wire.request(headers(5, 0, websocket)).response([status(5, 0, 403), data(5, END_STREAM, "no")].concat());
    wire.request(data(5, END_STREAM, "")).close();
    wire.assert(&["1: CONNECT a:1 -> 200", "3: CONNECT /chat -> 200", "5: CONNECT /chat -> 403 no"]);
}

#[test]
fn an_upgrade_is_answered_on_stream_1() {
    let mut wire = Wire::with(Http::new(true));
    wire.request("GET /up HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n");
    let switching = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n";
    wire.response([switching.as_bytes(), &settings(), &status(1, 0, 200)].concat());
    wire.request([PREFACE, &settings(), &get(3, "/next")].concat());
    wire.response([data(1, END_STREAM, "up"), status(3, END_STREAM, 204)].concat());
    wire.assert(&["1: GET /up -> 200 up", "3: GET /next -> 204"]);
}

#[test]
fn the_first_bytes_tell_the_version() {
    // In pieces, and the server first.
    let mut wire = Wire::with(Http::new(true));
    wire.response(settings());
    let bytes = [PREFACE, &settings(), &get(1, "/")].concat();
    for byte in bytes {
        wire.request([byte]);
    }
    wire.response(status(1, END_STREAM, 200)).assert(&["1: GET / -> 200"]);

    let mut wire = Wire::with(Http::new(true));
    wire.request("P").request("RI").request("VATE / HTTP/1.1\r\n\r\n").response("HTTP/1.1 204 No Content\r\n\r\n");
    assert_eq!(wire.outside.exchanges[0].protocol, Protocol::Http1);
    assert_eq!(wire.outside.exchanges[0].request.as_ref().unwrap().head.method(), b"PRIVATE");
}

#[test]
fn joined_midway_nothing_that_starts_afterwards_is_missed() {
    let mut wire = Wire::joined();
    // Of a stream from before.
    wire.response(data(5, 0, "old")).request(get(7, "/7"));
    wire.response([status(7, 0, 200), data(7, END_STREAM, "x"), data(5, END_STREAM, "old")].concat());
    wire.request(get(9, "/9")).response(status(9, END_STREAM, 404));
    wire.assert(&["7: GET /7 -> 200 x", "9: GET /9 -> 404"]);
}

#[test]
fn joined_midway_what_was_open_lacks_its_request() {
    let mut wire = Wire::joined();
    wire.request(get(7, "/7")).response([status(5, 0, 201), data(5, END_STREAM, "old")].concat());
    wire.response(headers(3, END_STREAM, "sum: 1")).response(status(7, END_STREAM, 200)).settle();
    wire.assert(&["7: GET /7 -> 200", "5: ? -> 201 old [Request]"]);
}

#[test]
fn what_was_sent_before_the_join_is_unknown() {
    let mut wire = Wire::joined();
    // The second and third field refer to the newest two entries of a table that was not seen.
    let known = block(":path: /7\nx: y");
    wire.request(frame(1, END_HEADERS | END_STREAM, 7, &[&[0x82, 0xbe, 0xbf], &known[..]].concat()));
    wire.response(frame(1, END_HEADERS | END_STREAM, 7, &[0xbe])).settle().close();
    wire.assert(&["7: GET /7 -> 0 [RequestHeadersUnknown, ResponseHeadersUnknown]"]);
    let request = wire.outside.exchanges[0].request.as_ref().unwrap();
    assert_eq!(request.head.header("x"), Some(&b"y"[..]));
}

#[test]
fn a_gap_in_a_body_is_stepped_over() {
    let mut wire = Wire::new();
    wire.request([get(1, "/1"), get(3, "/3")].concat()).response([status(1, 0, 200), status(3, 0, 200)].concat());
    let body = data(1, END_STREAM, "0123456789");
    wire.response(&body[..11]).unseen(Side::Response, 8, Why::Lost).response(data(3, END_STREAM, "x"));
    wire.assert(&["1: GET /1 -> 200 01 [ResponseBodyLost(8)]", "3: GET /3 -> 200 x"]);
}

#[test]
fn after_a_gap_between_frames_what_was_open_is_marked() {
    let mut wire = Wire::new();
    wire.request([get(1, "/1"), get(3, "/3")].concat()).response(status(1, 0, 200));
    wire.unseen(Side::Response, 50, Why::Lost);
    wire.response([data(1, END_STREAM, "x"), status(3, END_STREAM, 204)].concat());
    wire.request(get(5, "/5")).response([status(5, 0, 200), data(5, END_STREAM, "y")].concat());
    wire.assert(&["1: GET /1 -> 200 x [ResponseLost]", "3: GET /3 -> 204 [ResponseLost]", "5: GET /5 -> 200 y"]);

    let mut wire = Wire::new();
    wire.unseen(Side::Request, 50, Why::Lost).request([get(5, "/5"), get(7, "/7"), get(9, "/9")].concat());
    wire.response([3, 5, 1].map(|stream| status(stream, END_STREAM, 200)).concat()).settle();
    wire.assert(&["5: GET /5 -> 200", "3: ? -> 200 [Request]", "1: ? -> 200 [Request]"]);
}

#[test]
fn a_request_whose_end_may_be_lost_goes_out_once_it_is_answered() {
    let mut wire = Wire::new();
    wire.request([post(1, "/1"), data(1, 0, "ab")].concat()).unseen(Side::Request, 50, Why::Lost);
    wire.response([status(1, 0, 200), data(1, END_STREAM, "x")].concat()).assert(&[]);
    // Its end may still come through another CPU.
    wire.settle().assert(&["1: POST /1 ab -> 200 x [RequestLost]"]);

    let mut wire = Wire::new();
    wire.request([post(1, "/1"), data(1, 0, "ab")].concat()).response(status(1, END_STREAM, 413));
    wire.unseen(Side::Request, 50, Why::Lost).settle().assert(&["1: POST /1 ab -> 413 [RequestLost]"]);
}

#[test]
fn a_request_that_goes_on_behind_a_loss_has_not_ended_in_it() {
    let mut wire = Wire::new();
    wire.request([post(1, "/1"), data(1, 0, "a")].concat()).unseen(Side::Request, 50, Why::Lost);
    wire.request([data(1, 0, "b"), get(3, "/3")].concat());
    wire.response([status(1, END_STREAM, 413), status(3, END_STREAM, 200)].concat()).settle();
    wire.assert(&["3: GET /3 -> 200"]);
    wire.request(data(1, END_STREAM, "c"));
    wire.assert(&["3: GET /3 -> 200", "1: POST /1 abc -> 413 [RequestLost]"]);
}

#[test]
fn a_response_as_long_as_announced_goes_out_without_its_end() {
    let mut wire = Wire::new();
    let head = ":method: HEAD\n:scheme: http\n:path: /5\n:authority: a";
    wire.request([get(1, "/1"), get(3, "/3"), headers(5, END_STREAM, head)].concat());
    let sized = |stream| headers(stream, 0, ":status: 200\ncontent-length: 2");
    wire.response([sized(1), data(1, 0, "hi"), sized(3), data(3, 0, "h"), sized(5)].concat());
    wire.unseen(Side::Response, 9, Why::Lost).settle();
    wire.assert(&["1: GET /1 -> 200 hi [ResponseLost]", "5: HEAD /5 -> 200 [ResponseLost]"]);
    wire.close();
    assert_eq!(wire.seen()[2..], ["3: GET /3 -> 200 h [ResponseLost, ResponseAborted]"]);
}

#[test]
fn a_stream_that_is_silent_behind_a_loss_is_given_up() {
    let mut wire = Wire::new();
    wire.request([1, 3, 5].map(|stream| get(stream, &format!("/{stream}"))).concat());
    wire.request(post(7, "/7")).response([status(1, 0, 200), data(1, 0, "a")].concat());
    wire.unseen(Side::Response, 50, Why::Lost);
    let lost = wire.time;
    wire.response([status(5, 0, 200), data(5, 0, "b")].concat()).settle();
    let give_up = |wire: &mut Wire, before| wire.http.give_up(&mut wire.outside, &wire.connection, before);
    give_up(&mut wire, lost - 1);
    wire.assert(&[]);
    // One goes on, and of one the client has not ended.
    give_up(&mut wire, lost);
    let silent = ["1: GET /1 -> 200 a [ResponseLost]", "3: GET /3 -> ? [ResponseLost, Response]"];
    wire.assert(&silent);
    // What comes of them all the same is not told of once more.
    wire.response([data(1, END_STREAM, "late"), status(3, END_STREAM, 200), data(5, END_STREAM, "c")].concat());
    wire.request(data(7, END_STREAM, "up"));
    give_up(&mut wire, lost);
    wire.close();
    let others = ["5: GET /5 -> 200 bc [ResponseLost]", "7: POST /7 up -> ? [ResponseLost, Response]"];
    wire.assert(&[silent, others].concat());
}

#[test]
fn bodies_nobody_wants_are_not_kept_and_may_be_skipped() {
    let mut wire = Wire::new();
    wire.outside.wanted = 4;
    wire.request(get(1, "/")).response(status(1, 0, 200)).response(&data(1, END_STREAM, "0123456789")[..12]);
    assert_eq!(wire.http.unwanted(Side::Response), 0);
    wire.response("34");
    assert_eq!(wire.http.unwanted(Side::Response), 5);
    wire.unseen(Side::Response, 5, Why::Skipped).assert(&["1: GET / -> 200 0123 [ResponseBodyTruncated(4)]"]);
    assert_eq!(wire.outside.exchanges[0].response.as_ref().unwrap().body.wire_bytes, 10);
}

#[test]
fn streams_given_up_at_once_are_bounded_and_each_is_told_of() {
    let mut wire = Wire::new();
    for id in 0..MAX_OPEN as u32 + 50 {
        wire.request([get(2 * id + 1, "/"), reset(2 * id + 1, 8)].concat());
    }
    assert_eq!(wire.outside.exchanges.len(), 50);
    wire.settle();
    assert_eq!(wire.outside.exchanges.len(), MAX_OPEN + 50);
    assert!(wire.http.held() < 20_000, "{}", wire.http.held());
}

#[test]
fn storms_of_frames_without_meaning_leave_nothing() {
    let mut wire = Wire::new();
    let storm = [frame(4, 0, 0, &[0, 3, 0, 0, 0, 9]), frame(6, 0, 0, &[0; 8]), frame(8, 0, 0, &[0, 0, 0, 1])].concat();
    let before = wire.http.held();
    for _ in 0..10_000 {
        wire.request(&storm).response(&storm);
    }
    assert_eq!(wire.http.held(), before);
    wire.request(get(1, "/")).response(status(1, END_STREAM, 200)).assert(&["1: GET / -> 200"]);
}

#[test]
fn while_memory_is_short_heads_do_not_pile_up() {
    let mut wire = Wire::new();
    wire.outside.full = true;
    let long = format!(":method: GET\n:scheme: http\n:path: /\n{}", format!("x: {}\n", "y".repeat(120)).repeat(100));
    for id in 0..500 {
        wire.request(headers(2 * id + 1, END_STREAM, &long));
    }
    assert!(wire.http.held() < 4 << 20, "{}", wire.http.held());
    assert!(wire.outside.exchanges.len() > 300);
    wire.close();
    assert_eq!(wire.outside.exchanges.len(), 500);
}

#[test]
fn grpc_messages_are_counted_and_the_trailers_end_the_call() {
    let mut wire = Wire::new();
    let call = ":method: POST\n:scheme: http\n:path: /shop.Cart/Add\n:authority: a\ncontent-type: application/grpc";
    wire.request([headers(1, 0, call), data(1, END_STREAM, "\0\0\0\0\x02hi")].concat());
    wire.response(
        [
            headers(1, 0, ":status: 200\ncontent-type: application/grpc+proto"),
            data(1, 0, "\0\0\0\0\x01a\0\0"),
            data(1, 0, "\0\0\x01b"),
            headers(1, END_STREAM, "grpc-status: 5\ngrpc-message: no%20cart"),
        ]
        .concat(),
    );
    let call = crate::exchange::grpc::Call::of(&wire.outside.exchanges[0]).unwrap();
    assert_eq!((call.service, call.method), (Some(&b"shop.Cart"[..]), Some(&b"Add"[..])));
    assert_eq!((call.status, &call.message[..]), (Some(5), &b"no cart"[..]));
    assert_eq!((call.request_messages, call.response_messages), (Some(1), Some(2)));
}

/// Whatever two peers may do to each other.
#[derive(Debug, Clone)]
enum Wild {
    Call(bool, Vec<u8>),
    Unseen(bool, u64),
    Settle,
    GiveUp,
    Drop,
}

fn wild_frames() -> impl Strategy<Value = Vec<u8>> {
    let id = 1..12u32;
    let flags = prop_oneof![Just(0), Just(END_STREAM)];
    prop_oneof![
        (id.clone()).prop_map(|id| get(id, "/")),
        (id.clone()).prop_map(|id| post(id, "/")),
        (id.clone(), flags.clone(), 100..600u16).prop_map(|(id, flags, code)| status(id, flags, code)),
        (id.clone(), flags.clone(), "[a-z]{0,20}").prop_map(|(id, flags, text)| data(id, flags, &text)),
        (id.clone(), flags).prop_map(|(id, flags)| headers(id, flags, "t: 1")),
        (id.clone(), any::<u32>()).prop_map(|(id, code)| reset(id, code)),
        (id.clone(), any::<u32>()).prop_map(|(id, code)| goaway(id, code)),
        (id.clone(), id).prop_map(|(id, other)| {
            frame(5, END_HEADERS, id, &[&other.to_be_bytes()[..], &block(":method: GET\n:path: /")].concat())
        }),
        vec(any::<u8>(), 0..30),
    ]
}

fn wild() -> impl Strategy<Value = Wild> {
    prop_oneof![
        8 => (any::<bool>(), wild_frames()).prop_map(|(side, bytes)| Wild::Call(side, bytes)),
        1 => (any::<bool>(), 0..40u64).prop_map(|(side, len)| Wild::Unseen(side, len)),
        1 => Just(Wild::Settle),
        1 => Just(Wild::GiveUp),
        1 => Just(Wild::Drop),
    ]
}

proptest! {
    #[test]
    fn nothing_panics_and_nothing_is_left(events in vec(wild(), 0..80), from_start: bool) {
        let mut wire = if from_start { Wire::new() } else { Wire::joined() };
        let side = |is_request: bool| if is_request { Side::Request } else { Side::Response };
        for event in events {
            match event {
                Wild::Call(is_request, bytes) => {
                    wire.call(side(is_request), bytes);
                }
                Wild::Unseen(is_request, len) => {
                    wire.unseen(side(is_request), len, Why::Lost);
                }
                Wild::Settle => {
                    wire.settle();
                }
                Wild::GiveUp => wire.http.give_up(&mut wire.outside, &wire.connection, wire.time),
                Wild::Drop => {
                    let freed = wire.http.drop_bodies();
                    wire.outside.release(freed);
                }
            }
            wire.http.unwanted(Side::Request);
            wire.http.unwanted(Side::Response);
        }
        wire.close();
    }

    /// However calls are cut and whichever side comes first, it is the same exchanges.
    #[test]
    fn cuts_and_order_do_not_matter(cuts in vec((any::<bool>(), 1..60usize), 1..60)) {
        let mut requests = [PREFACE, &settings()].concat();
        let mut responses = settings();
        let mut expected = Vec::new();
        for id in (1..40).step_by(2) {
            let path = format!("/{id}");
            requests.extend([post(id, &path), data(id, END_STREAM, &path)].concat());
            responses.extend([status(id, 0, 200), data(id, 0, "o"), data(id, END_STREAM, "k")].concat());
            expected.push(format!("{id}: POST {path} {path} -> 200 ok"));
        }
        let mut wire = Wire::with(Http::new(true));
        let mut left = [(Side::Request, &requests[..]), (Side::Response, &responses[..])];
        for (is_request, cut) in cuts.into_iter().chain([(true, usize::MAX), (false, usize::MAX)]) {
            let (side, bytes) = &mut left[usize::from(!is_request)];
            let (now, later) = bytes.split_at(cut.min(bytes.len()));
            *bytes = later;
            wire.call(*side, now);
        }
        wire.settle();
        let mut seen = wire.seen();
        seen.sort_by_key(|line| line.split(':').next().unwrap().parse::<u32>().unwrap());
        prop_assert_eq!(seen, expected);
    }
}
