//! The table fed with events: whatever way they come in, what is handed out is what was said, or is marked.

mod http2;
mod joined;
mod losses;
mod plain;
mod proxied;
pub(crate) mod traffic;
mod uncovered;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::bpf::{Data, Event, Flow, Opened, Owner, ProcessInfo, Role, Verdict};
use crate::config::{self, Settings};
use crate::exchange::{
    Address, ConnectionEvent, Container, ContainerFacts, Exchange, Message, Missing, Process, Record,
};
use crate::identity::Processes;
use crate::stats::{Memory, Stats};
use crate::tls::Secrets;
use traffic::{Dice, Kind, Script};

const ID: u64 = 7 << 10;
const BASE: [u32; 2] = [0xffff_ff00, 100];
const FULL: &str = "version: 2
services: {object_stores: [{type: stdout}]}
stacks:
  all:
    plugins:
      - type: http_capture
        config: {level: full, max_body_bytes: 64KiB}
tap: {http: {stack: all}}
";

#[derive(Default)]
struct FakeControl {
    orders: Mutex<Vec<Order>>,
    sockets: Mutex<HashMap<u64, SocketInfo>>,
    /// How often it was asked for one.
    lookups: Arc<AtomicU64>,
}

impl Control for FakeControl {
    fn order(&self, _connection: u64, order: &Order) {
        self.orders.lock().unwrap().push(*order);
    }

    fn judge(&self, _process: &Owner, _left_out: bool) {}

    fn socket(&self, key: u64) -> Option<SocketInfo> {
        self.lookups.fetch_add(1, Ordering::Relaxed);
        self.sockets.lock().unwrap().get(&key).cloned()
    }

    fn lost_events(&self) -> u64 {
        0
    }
}

/// A table and all that it is given.
struct Bench {
    table: Table,
    settings: Settings,
    processes: Processes,
    control: FakeControl,
    stats: Stats,
    memory: Memory,
    secrets: Secrets,
    ids: u64,
    settled: u64,
    boot_to_wall: i64,
    exchanges: Vec<Exchange>,
    events: Vec<ConnectionEvent>,
}

impl Bench {
    fn new() -> Bench {
        Bench::with_memory(1 << 30)
    }

    fn with_memory(ceiling: usize) -> Bench {
        Bench {
            table: Table::default(),
            settings: config::parse("test", FULL.as_bytes()).unwrap_or_else(|errors| panic!("{errors}")),
            processes: Processes::default(),
            control: FakeControl::default(),
            stats: Stats::default(),
            memory: Memory::new(ceiling),
            secrets: Secrets::new(),
            ids: 0,
            settled: 0,
            boot_to_wall: 0,
            exchanges: Vec::new(),
            events: Vec::new(),
        }
    }

    fn work(&mut self, work: impl FnOnce(&Table, &mut Env)) {
        let mut next_id = || {
            self.ids += 1;
            self.ids
        };
        let mut env = Env {
            settings: &self.settings,
            processes: &self.processes,
            control: &self.control,
            stats: &self.stats,
            memory: self.memory.account(),
            secrets: &self.secrets,
            boot_to_wall: self.boot_to_wall,
            settled: self.settled,
            traffic: self.stats.traffic.tally(),
            next_id: &mut next_id,
            packer: None,
            records: Vec::new(),
            record_bytes: 0,
        };
        work(&self.table, &mut env);
        // As a batch does when the sinks are done with it.
        self.memory.release(env.record_bytes);
        for record in env.records {
            match record {
                Record::Exchange { exchange, .. } => self.exchanges.push(*exchange),
                Record::Connection(event) => self.events.push(*event),
                Record::Artifact(_) => unreachable!("these come from object stores"),
                Record::Usage { .. } => {}
            }
        }
    }

    fn event(&mut self, event: Event) {
        self.work(|table, env| table.handle(event, env));
    }

    /// All events up to that time have come.
    fn settle(&mut self, time: u64) {
        self.settled = self.settled.max(time);
        self.work(|table, env| table.settle(0, 1, env));
    }

    fn open(&mut self, time: u64) {
        self.event(Event::Open(Box::new(Opened { time, info: info(Role::Server) })));
    }

    fn data(&mut self, flow: Flow, at: u32, payload: &[u8], time: u64) {
        self.event(Event::Data(piece(flow, at, payload, time)));
    }

    fn received(&mut self, at: u32, payload: &[u8], time: u64) {
        self.data(Flow::Received, at, payload, time);
    }

    fn sent(&mut self, at: u32, payload: &[u8], time: u64) {
        self.data(Flow::Sent, at, payload, time);
    }

    fn close(&mut self, sent: u32, received: u32, time: u64) {
        let final_positions = [BASE[0].wrapping_add(sent), BASE[1].wrapping_add(received)];
        self.event(Event::Close { time, info: Box::new(info(Role::Server)), final_positions });
        self.settle(time);
    }

    /// Nothing is left behind, in the table or in the books.
    fn assert_empty(&self) {
        assert_eq!((self.table.len(), self.memory.held()), (0, 0));
    }
}

fn info(role: Role) -> SocketInfo {
    let address = |text: &str| Address::Ip(text.parse::<SocketAddr>().unwrap());
    SocketInfo {
        connection: ID,
        socket: 1,
        owner: Owner { pid: 42, started: 10_000_000, exec_id: 2, user_id: None },
        netns: 1,
        role,
        opened: Some(1),
        base: Some(BASE),
        local: address("10.0.0.1:80"),
        remote: address("10.0.0.2:5000"),
        error: None,
        kernel_tls: false,
        lost: [None; 2],
        is_met: true,
    }
}

/// The first call on a fresh connection moves position 0.
fn piece(flow: Flow, at: u32, payload: &[u8], time: u64) -> Data<'_> {
    Data {
        time,
        connection: ID,
        socket: 1,
        flow,
        position: BASE[flow as usize].wrapping_add(at),
        moved: payload.len() as u32,
        payload,
        call_start: true,
        unobservable: false,
    }
}

const GET: &[u8] = b"GET /0 HTTP/1.1\r\nHost: a\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nX-Id: 0\r\nContent-Length: 2\r\n\r\nhi";

fn path_id(request: &Message) -> usize {
    String::from_utf8_lossy(&request.head.target()[1..]).parse().expect("a path is a number")
}

fn header_id(response: &Message) -> usize {
    let value = response.head.header("x-id").expect("every response has an id");
    String::from_utf8_lossy(value).parse().expect("an id is a number")
}

#[test]
fn an_exchange_goes_out_as_soon_as_it_is_complete() {
    let mut bench = Bench::new();
    bench.open(10);
    bench.received(0, GET, 11);
    bench.sent(0, OK, 12);
    assert_eq!(bench.exchanges.len(), 1);
    assert_eq!(bench.exchanges[0].missing, []);
    assert_eq!(bench.exchanges[0].response.as_ref().unwrap().body.kept, b"hi");
    bench.close(OK.len() as u32, GET.len() as u32, 20);
    bench.assert_empty();
    let event = &bench.events[0];
    assert_eq!((event.bytes_sent, event.bytes_received, event.transactions), (OK.len() as u64, GET.len() as u64, 1));
}

#[test]
fn a_response_that_arrives_before_its_request_waits_for_it() {
    let mut bench = Bench::new();
    bench.open(10);
    bench.sent(0, OK, 12);
    assert_eq!(bench.exchanges.len(), 0);
    bench.received(0, GET, 11);
    assert_eq!(bench.exchanges.len(), 1);
    assert_eq!(bench.exchanges[0].missing, []);
}

#[test]
fn bytes_that_come_before_the_opening_across_the_wrap_of_positions_count() {
    let mut bench = Bench::new();
    let long = [b"HTTP/1.1 200 OK\r\nX-Id: 0\r\nContent-Length: 400\r\n\r\n".to_vec(), vec![b'x'; 400]].concat();
    // Position 0x100 is number 0 of the next round.
    bench.sent(300, &long[300..], 13);
    bench.open(10);
    bench.received(0, GET, 11);
    bench.sent(0, &long[..300], 12);
    assert_eq!(bench.exchanges.len(), 1);
    assert_eq!(bench.exchanges[0].response.as_ref().unwrap().body.wire_bytes, 400);
}

#[test]
fn spliced_bytes_are_not_lost_ones_even_when_the_next_call_follows_at_once() {
    let mut bench = Bench::new();
    let request = b"POST /0 HTTP/1.1\r\nContent-Length: 1000\r\n\r\n";
    let head = request.len() as u32;
    bench.open(10);
    bench.received(0, request, 11);
    // Says where the stream stands, without bytes.
    bench.received(head + 1000, b"", 12);
    bench.received(head + 1000, GET, 13);
    bench.settle(13);
    bench.sent(0, OK, 14);
    assert_eq!(bench.exchanges[0].missing, [Missing::RequestBodyNotObservable(1000)]);
    assert_eq!(bench.stats.lost_bytes.get(), 0);
}

#[test]
fn a_socket_pair_without_names_is_a_server_where_it_receives_first() {
    let mut bench = Bench::new();
    let info = SocketInfo {
        base: Some([0, 0]),
        local: Address::Unix(String::new()),
        remote: Address::Unix(String::new()),
        ..info(Role::Unknown)
    };
    bench.event(Event::Open(Box::new(Opened { time: 10, info })));
    bench.event(Event::Data(Data { position: 0, ..piece(Flow::Received, 0, GET, 11) }));
    bench.event(Event::Data(Data { position: 0, ..piece(Flow::Sent, 0, OK, 12) }));
    assert_eq!(bench.exchanges.len(), 1);
    assert_eq!(bench.exchanges[0].connection.direction, crate::exchange::Direction::Ingress);
}

#[test]
fn an_opening_that_was_lost_is_looked_up() {
    let mut bench = Bench::new();
    bench.control.sockets.lock().unwrap().insert(1, info(Role::Server));
    bench.received(0, GET, 11);
    bench.sent(0, OK, 12);
    bench.settle(12);
    assert_eq!(bench.exchanges.len(), 1);
    assert_eq!(bench.exchanges[0].missing, []);
}

#[test]
fn a_connection_that_nobody_knows_is_given_up() {
    let mut bench = Bench::new();
    bench.received(0, GET, 11);
    assert!(bench.memory.held() > 0);
    bench.settle(11);
    bench.assert_empty();
    assert_eq!(bench.stats.lost_connections.get(), 1);
}

#[test]
fn a_connection_whose_end_was_lost_is_asked_for() {
    let mut bench = Bench::new();
    bench.open(10);
    bench.received(0, GET, 11);
    bench.settle(40_000_000_000);
    bench.work(|table, env| table.tick(0, 1, 40_000_000_000, env));
    bench.assert_empty();
    assert_eq!(bench.exchanges[0].missing, [Missing::Response]);
    assert!(bench.events.last().unwrap().finalized);
}

#[test]
fn another_protocol_is_ignored_and_the_kernel_told() {
    let mut bench = Bench::new();
    bench.open(10);
    bench.received(0, b"\x03\x00\x00\x13\x0e", 11);
    bench.sent(0, b"\x03\x00\x00\x13\x0e", 12);
    assert_eq!(bench.control.orders.lock().unwrap().last().unwrap().verdict, Verdict::Drop);
    bench.received(5, GET, 13);
    bench.close(5, 5 + GET.len() as u32, 20);
    bench.assert_empty();
    assert_eq!((bench.exchanges.len(), bench.events.len()), (0, 1));
}

#[test]
fn the_kernel_is_told_to_skip_what_nobody_wants_and_to_stop_skipping() {
    let mut bench = Bench::new();
    bench.open(10);
    bench.received(0, GET, 11);
    let head = b"HTTP/1.1 200 OK\r\nX-Id: 0\r\nContent-Length: 1000000\r\n\r\n";
    let body = vec![b'x'; 65_536];
    bench.sent(0, head, 12);
    bench.sent(head.len() as u32, &body, 13);
    let end = head.len() as u32 + 1_000_000;
    let ordered = bench.control.orders.lock().unwrap().last().copied().unwrap();
    assert_eq!(ordered.skip_to, [Some(BASE[0].wrapping_add(end)), None]);
    // The call that ends there is told of without bytes.
    bench.sent(end, b"", 14);
    assert_eq!(bench.exchanges[0].missing, [Missing::ResponseBodyTruncated(65_536)]);
    assert_eq!(bench.exchanges[0].response.as_ref().unwrap().body.wire_bytes, 1_000_000);
    bench.received(GET.len() as u32, GET, 15);
    assert_eq!(bench.control.orders.lock().unwrap().last().unwrap().skip_to, [None, None]);
}

#[test]
fn a_tunnel_is_not_copied_and_holds_nothing() {
    let mut bench = Bench::new();
    bench.open(10);
    let request = b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n";
    let response = b"HTTP/1.1 200 OK\r\n\r\n";
    bench.received(0, request, 11);
    bench.sent(0, response, 12);
    assert_eq!(bench.control.orders.lock().unwrap().last().unwrap().verdict, Verdict::Drop);
    for at in 0..100 {
        bench.received(request.len() as u32 + 1000 + at * 10, b"tunnel", 13 + u64::from(at));
    }
    assert_eq!(bench.memory.held(), 0);
    bench.close(response.len() as u32, request.len() as u32 + 2000, 200);
    bench.assert_empty();
    assert_eq!((bench.exchanges.len(), bench.exchanges[0].missing.len()), (1, 0));
}

#[test]
fn many_small_pieces_behind_a_gap_are_bounded() {
    let mut bench = Bench::with_memory(1 << 20);
    bench.open(10);
    for at in 0..100_000 {
        bench.received(10 + 2 * at, b"x", 20);
    }
    // Bookkeeping counts, too: a piece of one byte takes more than a byte.
    assert!(bench.memory.held() < 1_100_000, "{}", bench.memory.held());
    bench.close(0, 300_000, 30);
    bench.assert_empty();
}

#[test]
fn heads_of_requests_that_nobody_answers_are_bounded() {
    let mut bench = Bench::with_memory(4 << 20);
    bench.open(10);
    let request = [b"GET /0 HTTP/1.1\r\nHost: a\r\nX: ".to_vec(), vec![b'x'; 60_000], b"\r\n\r\n".to_vec()].concat();
    let mut most = 0;
    for at in 0..1000 {
        bench.received(at * request.len() as u32, &request, 20 + u64::from(at));
        most = most.max(bench.memory.held());
    }
    assert!((1 << 20..5 << 20).contains(&most), "{most}");
    bench.close(0, 1000 * request.len() as u32, 30_000);
    bench.assert_empty();
    assert_eq!(bench.exchanges.len(), 1000);
    assert!(bench.exchanges.iter().all(|exchange| exchange.missing.contains(&Missing::Response)));
}

#[test]
fn over_its_memory_the_oldest_bodies_go_and_say_so() {
    let mut bench = Bench::with_memory(10_000);
    bench.open(10);
    let request = [b"POST /0 HTTP/1.1\r\nContent-Length: 11000\r\n\r\n".to_vec(), vec![b'x'; 11_000]].concat();
    bench.received(0, &request, 11);
    let excess = bench.memory.account().excess();
    assert!(excess > 0);
    bench.work(|table, env| table.evict(excess, env));
    assert_eq!(bench.memory.account().excess(), 0);
    bench.sent(0, OK, 12);
    assert_eq!(bench.exchanges[0].missing, [Missing::RequestBodyOverMemory]);
    bench.close(OK.len() as u32, request.len() as u32, 20);
    bench.assert_empty();
}

#[test]
fn a_response_after_a_loss_of_both_sides_is_not_taken_for_that_of_the_last_request_seen() {
    let mut bench = Bench::new();
    bench.open(10);
    let (up, down) = (GET.len() as u32, Kind::Get.response(0).len() as u32);
    bench.received(0, GET, 11);
    // Lost: the response, the next request.
    bench.sent(down, &Kind::Get.response(1), 14);
    bench.settle(14);
    bench.received(2 * up, &Kind::Get.request(2), 15);
    bench.settle(15);
    bench.sent(2 * down, &Kind::Get.response(2), 16);
    bench.settle(16);
    assert_never_wrong(&bench.exchanges, &[Kind::Get; 3]);
    assert_eq!(bench.exchanges.last().unwrap().missing, []);
}

#[test]
fn after_an_unseen_response_the_next_one_waits_for_its_own_request() {
    let mut bench = Bench::new();
    bench.open(10);
    let (up, down) = (GET.len() as u32, Kind::Get.response(0).len() as u32);
    bench.received(0, GET, 11);
    bench.event(Event::Data(Data { moved: down, ..piece(Flow::Sent, 0, b"", 12) }));
    // Through another CPU, which is ahead.
    bench.sent(down, &Kind::Get.response(1), 14);
    bench.received(up, &Kind::Get.request(1), 13);
    bench.settle(14);
    let ids =
        bench.exchanges.iter().map(|one| (one.request.as_ref().map(path_id), one.response.as_ref().map(header_id)));
    assert_eq!(ids.collect::<Vec<_>>(), [(Some(0), None), (Some(1), Some(1))]);
    assert_eq!(bench.exchanges[1].missing, []);
}

#[test]
fn after_a_lost_response_the_next_ones_are_paired_right() {
    let mut bench = Bench::new();
    bench.open(10);
    for id in 0..5 {
        let (request, response) = (Kind::Get.request(id), Kind::Get.response(id));
        let (up, down) = (id * request.len(), id * response.len());
        bench.received(up as u32, &request, 20 + 2 * id as u64);
        if id != 1 {
            bench.sent(down as u32, &response, 21 + 2 * id as u64);
        }
    }
    bench.settle(100);
    let paired: Vec<usize> = bench
        .exchanges
        .iter()
        .filter(|one| one.response.is_some())
        .map(|one| path_id(one.request.as_ref().unwrap()))
        .collect();
    assert_eq!(paired, [0, 2, 3, 4]);
    assert_never_wrong(&bench.exchanges, &[Kind::Get; 5]);
    assert!(bench.exchanges.last().unwrap().missing.is_empty(), "the loss is over");
}

/// The first requests that were not waited with came behind a response whose end was lost; each of the two was taken for
/// the only one, and the response to the first for that to the second.
#[test]
fn requests_in_one_call_are_pipelined_even_behind_a_loss() {
    let mut bench = Bench::new();
    bench.open(10);
    let (up, down) = (GET.len() as u32, Kind::Get.response(0).len() as u32);
    bench.received(0, GET, 11);
    bench.sent(0, &Kind::Get.response(0)[..20], 12);
    bench.received(up, &[Kind::Get.request(1), Kind::Get.request(2)].concat(), 13);
    for (id, time) in [(1, 14), (2, 15)] {
        bench.sent(id * down, &Kind::Get.response(id as usize), time);
        bench.settle(time);
    }
    bench.close(3 * down, 3 * up, 20);
    assert_never_wrong(&bench.exchanges, &[Kind::Get; 3]);
    bench.assert_empty();
}

#[test]
fn times_are_those_of_the_wall_clock_even_where_it_is_set_back() {
    let mut bench = Bench::new();
    bench.boot_to_wall = 1000;
    bench.open(10);
    bench.received(0, GET, 11);
    bench.sent(0, OK, 13);
    bench.boot_to_wall = 500;
    bench.received(GET.len() as u32, GET, 14);
    bench.sent(OK.len() as u32, OK, 16);
    let times = |exchange: &Exchange| (exchange.started(), exchange.duration_ms());
    assert_eq!(bench.exchanges.iter().map(times).collect::<Vec<_>>(), [(1011, Some(2e-6)), (514, Some(2e-6))]);
    // A loss does not turn that into doubt.
    bench.received(2 * GET.len() as u32 + 100, GET, 20);
    bench.settle(20);
    bench.sent(2 * OK.len() as u32, OK, 21);
    assert_eq!(bench.exchanges[2].missing, []);
}

/// How a script's calls come in.
#[derive(Debug, Clone)]
struct Arrival {
    /// The CPU of each call, over and over again.
    cpus: Dice,
    /// Which CPU is read next, and how far.
    reads: Dice,
}

/// What becomes of a call on its way.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    Arrives,
    Unobservable,
    Lost,
}

const CPUS: usize = 3;

fn play(bench: &mut Bench, script: &Script, arrival: &Arrival, fate: &dyn Fn(usize) -> Fate) {
    let mut arrival = arrival.clone();
    let mut queues: Vec<Vec<Event>> = vec![Vec::new(); CPUS];
    queues[0].push(Event::Open(Box::new(Opened { time: 10, info: info(Role::Server) })));
    for (number, call) in script.calls.iter().enumerate() {
        let cpu = arrival.cpus.roll(CPUS);
        let payload: &[u8] = if fate(number) == Fate::Unobservable { b"" } else { &call.bytes };
        let data = Data { moved: call.bytes.len() as u32, ..piece(call.flow, call.at as u32, payload, call.time) };
        if fate(number) != Fate::Lost {
            queues[cpu].push(Event::Data(data));
        }
    }
    let end = script.time + 1000;
    let final_positions = [0, 1].map(|flow| BASE[flow].wrapping_add(script.sent[flow] as u32));
    for (flow, position) in [(Flow::Sent, final_positions[0]), (Flow::Received, final_positions[1])] {
        let cpu = arrival.cpus.roll(CPUS);
        queues[cpu].push(Event::End { time: end - 500, connection: ID, flow, position });
    }
    queues[arrival.cpus.roll(CPUS)].push(Event::Close {
        time: end,
        info: Box::new(info(Role::Server)),
        final_positions,
    });

    let mut next = [0; CPUS];
    while (0..CPUS).any(|cpu| next[cpu] < queues[cpu].len()) {
        let cpu = arrival.reads.roll(CPUS);
        for _ in 0..1 + arrival.reads.roll(6) {
            if let Some(event) = queues[cpu].get(next[cpu]) {
                bench.event(event.clone());
                next[cpu] += 1;
            }
        }
        let unread = |cpu: usize| queues[cpu].get(next[cpu]).map_or(end, |event| time(event) - 1);
        if arrival.reads.roll(3) == 0 {
            bench.settle((0..CPUS).map(unread).min().unwrap_or(0));
        }
    }
    bench.settle(end);
}

fn time(event: &Event) -> u64 {
    match event {
        Event::Data(data) | Event::Plain { data, .. } => data.time,
        Event::Open(opened) => opened.time,
        Event::End { time, .. } | Event::Close { time, .. } => *time,
        Event::Process { time, .. }
        | Event::Exit { time, .. }
        | Event::Dns { time, .. }
        | Event::Quic { time, .. }
        | Event::Secret { time, .. } => *time,
    }
}

/// Everything that was said was handed out, in order and whole.
fn assert_same(exchanges: &[Exchange], kinds: &[Kind]) {
    let ids: Vec<usize> = exchanges.iter().map(|exchange| path_id(exchange.request.as_ref().unwrap())).collect();
    assert_eq!(ids, (0..kinds.len()).collect::<Vec<_>>());
    for (id, (exchange, kind)) in exchanges.iter().zip(kinds).enumerate() {
        assert_eq!(exchange.missing, [], "{id} {kind:?}");
        assert_whole(exchange, id, *kind);
    }
}

fn assert_whole(exchange: &Exchange, id: usize, kind: Kind) {
    let (request, response) = (exchange.request.as_ref().unwrap(), exchange.response.as_ref().unwrap());
    assert_eq!((path_id(request), header_id(response)), (id, id));
    assert_eq!(request.body.kept, kind.request_body(id));
    assert_eq!(response.body.kept, kind.response_body(id));
    assert_eq!(request.body.wire_bytes, kind.request_body(id).len() as u64);
    assert_eq!(response.body.wire_bytes, kind.response_body(id).len() as u64);
    assert_eq!(response.trailers.is_some(), matches!(kind, Kind::Chunked(..)));
    assert!(request.first_byte <= request.last_byte && request.first_byte < response.first_byte);
}

/// Whatever was handed out is right or marked, and nothing twice.
fn assert_never_wrong(exchanges: &[Exchange], kinds: &[Kind]) {
    let (mut requests, mut responses) = (Vec::new(), Vec::new());
    for exchange in exchanges {
        let request = exchange.request.as_ref().map(path_id);
        let response = exchange.response.as_ref().map(header_id);
        requests.extend(request);
        responses.extend(response);
        let is_uncertain = exchange.missing.contains(&Missing::PairingUncertain);
        if let (Some(request), Some(response)) = (request, response) {
            assert!(request == response || is_uncertain, "{request} with {response}: {:?}", exchange.missing);
        }
        assert!(request.is_some() || exchange.missing.contains(&Missing::Request));
        if exchange.missing.is_empty() {
            let id = request.expect("marked without");
            assert_whole(exchange, id, kinds[id]);
        }
    }
    for ids in [&mut requests, &mut responses] {
        ids.sort_unstable();
        assert!(ids.windows(2).all(|two| two[0] != two[1]), "twice: {ids:?}");
    }
}

fn kind() -> impl Strategy<Value = Kind> {
    let len = || prop_oneof![0usize..20, 0usize..3000];
    prop_oneof![
        3 => Just(Kind::Get),
        3 => (len(), len()).prop_map(|(up, down)| Kind::Length(up, down)),
        2 => (len(), len()).prop_map(|(up, down)| Kind::Chunked(up, down)),
        1 => Just(Kind::Head),
        1 => Just(Kind::NoContent),
        1 => Just(Kind::NotModified),
        1 => Just(Kind::Interim),
        1 => Just(Kind::Refused),
    ]
}

/// Exchanges, the last of which may end the connection.
fn kinds(most: usize) -> impl Strategy<Value = Vec<Kind>> {
    let last = prop_oneof![
        Just(Kind::Get),
        (0usize..3000).prop_map(Kind::UntilClose),
        Just(Kind::Connect),
        Just(Kind::Upgrade)
    ];
    (vec(kind(), 0..most), last).prop_map(|(mut kinds, last)| {
        kinds.push(last);
        kinds
    })
}

fn dice() -> impl Strategy<Value = Dice> {
    vec(any::<u16>(), 40).prop_map(|rolls| Dice(rolls, 0))
}

fn arrival() -> impl Strategy<Value = Arrival> {
    (dice(), dice()).prop_map(|(cpus, reads)| Arrival { cpus, reads })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn any_cut_on_any_cpu_gives_the_same_exchanges(
        kinds in kinds(10), mut groups in dice(), mut cuts in dice(), arrival in arrival(),
    ) {
        let script = Script::converse(&kinds, &mut groups, 4, &mut cuts);
        let mut bench = Bench::new();
        play(&mut bench, &script, &arrival, &|_| Fate::Arrives);
        assert_same(&bench.exchanges, &kinds);
        bench.assert_empty();
        prop_assert_eq!(bench.events.len(), 1);
        prop_assert_eq!(bench.events[0].bytes_sent, script.sent[0] as u64);
        prop_assert_eq!(bench.events[0].bytes_received, script.sent[1] as u64);
    }

    #[test]
    fn gaps_inside_bodies_of_known_length_cost_only_the_bytes(
        kinds in kinds(10), mut groups in dice(), mut cuts in dice(), arrival in arrival(), fates in dice(),
    ) {
        let script = Script::converse(&kinds, &mut groups, 4, &mut cuts);
        let is_inside = |number: usize| {
            let call = &script.calls[number];
            let end = call.at + call.bytes.len();
            script.bodies[call.flow as usize].iter().any(|body| body.start <= call.at && end <= body.end)
        };
        let fate = |number: usize| match fates.clone().skip(number).roll(3) {
            0 if is_inside(number) => Fate::Lost,
            1 if is_inside(number) => Fate::Unobservable,
            _ => Fate::Arrives,
        };
        let mut bench = Bench::new();
        play(&mut bench, &script, &arrival, &fate);
        bench.assert_empty();
        let lost = script.calls.iter().enumerate().filter(|&(number, _)| matches!(fate(number), Fate::Lost));
        prop_assert_eq!(bench.events[0].bytes_lost, lost.map(|(_, call)| call.bytes.len() as u64).sum::<u64>());
        prop_assert_eq!(bench.exchanges.len(), kinds.len());
        for (id, (exchange, kind)) in bench.exchanges.iter().zip(&kinds).enumerate() {
            let (request, response) = (exchange.request.as_ref().unwrap(), exchange.response.as_ref().unwrap());
            prop_assert_eq!((path_id(request), header_id(response)), (id, id));
            prop_assert!(!exchange.missing.contains(&Missing::PairingUncertain));
            for (message, body) in [(request, kind.request_body(id)), (response, kind.response_body(id))] {
                prop_assert_eq!(message.body.wire_bytes, body.len() as u64);
                prop_assert!(body.starts_with(&message.body.kept));
            }
            let is_whole = request.body.kept.len() as u64 == request.body.wire_bytes
                && response.body.kept.len() as u64 == response.body.wire_bytes;
            prop_assert_eq!(exchange.missing.is_empty(), is_whole, "{:?}", exchange.missing);
        }
    }

    #[test]
    fn with_losses_anywhere_nothing_wrong_goes_unmarked(
        kinds in kinds(14), mut cuts in dice(), arrival in arrival(), fates in dice(), rate in 1usize..30,
    ) {
        let script = Script::converse(&kinds, &mut Dice(vec![0], 0), 1, &mut cuts);
        let fate = |number: usize| match fates.clone().skip(number).roll(rate + 2) {
            0 => Fate::Lost,
            1 => Fate::Unobservable,
            _ => Fate::Arrives,
        };
        let mut bench = Bench::new();
        play(&mut bench, &script, &arrival, &fate);
        assert_never_wrong(&bench.exchanges, &kinds);
        bench.assert_empty();
    }

    #[test]
    fn with_losses_anywhere_a_client_that_pipelines_gets_nothing_wrong_unmarked(
        kinds in kinds(14), mut groups in dice(), mut cuts in dice(), arrival in arrival(), fates in dice(),
        rate in 1usize..30,
    ) {
        // It is known to pipeline from its first requests on.
        let kinds = [vec![Kind::Get; 2], kinds].concat();
        groups.0[1] = 1;
        let script = Script::converse(&kinds, &mut groups, 4, &mut cuts);
        let seen = kinds[..2].iter().enumerate().map(|(id, kind)| kind.response(id).len()).sum::<usize>();
        let known = script.calls.iter().position(|call| call.flow == Flow::Sent && call.at >= seen).unwrap_or(usize::MAX);
        let fate = |number: usize| match fates.clone().skip(number).roll(rate + 2) {
            _ if number < known => Fate::Arrives,
            0 => Fate::Lost,
            1 => Fate::Unobservable,
            _ => Fate::Arrives,
        };
        let mut bench = Bench::new();
        play(&mut bench, &script, &arrival, &fate);
        assert_never_wrong(&bench.exchanges, &kinds);
        bench.assert_empty();
    }

    #[test]
    fn no_sequence_of_events_panics_or_leaves_anything(events in vec(wild(), 0..60)) {
        let mut bench = Bench::new();
        for (number, event) in events.iter().enumerate() {
            match event {
                Wild::Open(base) => {
                    let info = SocketInfo { base: *base, ..info(Role::Unknown) };
                    bench.event(Event::Open(Box::new(Opened { time: number as u64, info })));
                }
                Wild::Data { flow, position, beyond, payload, time } => {
                    let moved = (payload.len() as u32).saturating_add(*beyond);
                    let data = Data { position: *position, moved, ..piece(*flow, 0, payload, *time) };
                    bench.event(Event::Data(data));
                }
                Wild::End(flow, position) => {
                    bench.event(Event::End { time: number as u64, connection: ID, flow: *flow, position: *position });
                }
                Wild::Close(final_positions) => {
                    let info = Box::new(info(Role::Server));
                    bench.event(Event::Close { time: number as u64, info, final_positions: *final_positions });
                }
                Wild::Settle(time) => bench.settle(*time),
                Wild::Evict => bench.work(|table, env| table.evict(usize::MAX, env)),
            }
        }
        bench.settled = u64::MAX;
        bench.work(|table, env| table.finish(env));
        bench.assert_empty();
    }
}

fn cases() -> u32 {
    std::env::var("CASES").map_or(400, |n| n.parse().unwrap())
}

#[derive(Debug, Clone)]
enum Wild {
    Open(Option<[u32; 2]>),
    Data { flow: Flow, position: u32, beyond: u32, payload: Vec<u8>, time: u64 },
    End(Flow, u32),
    Close([u32; 2]),
    Settle(u64),
    Evict,
}

fn wild() -> impl Strategy<Value = Wild> {
    let flow = || prop_oneof![Just(Flow::Sent), Just(Flow::Received)];
    let position = || prop_oneof![0u32..200, any::<u32>(), Just(u32::MAX), Just(1 << 31)];
    let time = || prop_oneof![0u64..100, any::<u64>()];
    let payload = prop_oneof![
        (0usize..3, kind()).prop_map(|(id, kind)| kind.request(id)),
        (0usize..3, kind()).prop_map(|(id, kind)| kind.response(id)),
        Just(proxied::LINE.to_vec()),
        Just(proxied::binary()),
        vec(any::<u8>(), 0..40),
    ];
    let beyond = prop_oneof![4 => Just(0), 1 => 0u32..1000, 1 => Just(u32::MAX)];
    prop_oneof![
        1 => proptest::option::of([any::<u32>(), any::<u32>()]).prop_map(Wild::Open),
        8 => (flow(), position(), beyond, payload, time()).prop_map(|(flow, position, beyond, payload, time)| {
            Wild::Data { flow, position, beyond, payload, time }
        }),
        1 => (flow(), position()).prop_map(|(flow, position)| Wild::End(flow, position)),
        1 => [position(), position()].prop_map(Wild::Close),
        2 => time().prop_map(Wild::Settle),
        1 => Just(Wild::Evict),
    ]
}

const REQUEST: &[u8] = b"GET /a HTTP/1.1\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";
const MS: u64 = 1_000_000;

/// The owner of [`info`]'s socket became that program.
fn exec(exe: &str, exec_id: u32, time: u64) -> Event<'static> {
    let owner = Owner { exec_id, ..info(Role::Server).owner };
    let info = ProcessInfo { owner, exe: exe.to_owned(), ..ProcessInfo::default() };
    Event::Process { time, is_exec: true, info: Box::new(info) }
}

fn exes(bench: &Bench) -> Vec<&str> {
    bench.exchanges.iter().map(|exchange| exchange.connection.process.exe.as_str()).collect()
}

#[test]
fn a_connection_waits_for_the_exec_of_its_process() {
    let mut bench = Bench { processes: Processes::recorded(), ..Bench::new() };
    // The program before it is known, but it is not the one that opened the connection.
    bench.event(exec("/bin/sh", 1, MS));
    bench.open(10 * MS);
    bench.received(0, REQUEST, 11 * MS);
    bench.sent(0, RESPONSE, 12 * MS);
    bench.settle(100 * MS);
    assert!(bench.exchanges.is_empty(), "nobody knows yet whose it is");
    bench.event(exec("/usr/bin/curl", 2, 9 * MS));
    bench.settle(101 * MS);
    assert_eq!(exes(&bench), ["/usr/bin/curl"]);
    assert_eq!(bench.exchanges[0].missing, []);
    bench.close(RESPONSE.len() as u32, REQUEST.len() as u32, 120 * MS);
    bench.assert_empty();
}

#[test]
fn a_connection_goes_on_without_a_process_that_nobody_knows() {
    let mut bench = Bench { processes: Processes::recorded(), ..Bench::new() };
    bench.open(10 * MS);
    bench.received(0, REQUEST, 11 * MS);
    bench.sent(0, RESPONSE, 12 * MS);
    bench.close(RESPONSE.len() as u32, REQUEST.len() as u32, 20 * MS);
    bench.settle(209 * MS);
    assert_eq!((bench.exchanges.len(), bench.events.len()), (0, 0));
    bench.settle(211 * MS);
    assert_eq!((exes(&bench), bench.exchanges[0].connection.process.pid), (vec![""], 42));
    assert!(bench.events[0].finalized);
    bench.assert_empty();
}

#[test]
fn the_end_of_the_agent_does_not_wait_for_a_process() {
    let mut bench = Bench { processes: Processes::recorded(), ..Bench::new() };
    bench.open(10 * MS);
    bench.received(0, REQUEST, 11 * MS);
    bench.sent(0, RESPONSE, 12 * MS);
    bench.work(|table, env| table.finish(env));
    assert_eq!((exes(&bench), &bench.exchanges[0].missing[..]), (vec![""], &[][..]));
    bench.assert_empty();
}

#[test]
fn a_connection_of_a_process_that_has_ended_is_still_its_own() {
    let mut bench = Bench { processes: Processes::recorded(), ..Bench::new() };
    let Owner { pid, started, .. } = info(Role::Server).owner;
    bench.event(exec("/usr/bin/curl", 2, 9 * MS));
    bench.event(Event::Exit { time: 20 * MS, pid, started });
    bench.open(10 * MS);
    bench.received(0, REQUEST, 11 * MS);
    bench.sent(0, RESPONSE, 12 * MS);
    assert_eq!(exes(&bench), ["/usr/bin/curl"]);
}

#[test]
fn a_filter_by_container_waits_for_its_name() {
    let settings = FULL.replace("tap: {", "tap: {filters: {containers: {ignore: ['*-db']}}, ");
    for (name, exchanges) in [("web", 1), ("web-db", 0)] {
        let mut bench = Bench { processes: Processes::recorded(), ..Bench::new() };
        bench.settings = config::parse("test", settings.as_bytes()).unwrap_or_else(|errors| panic!("{errors}"));
        let container = Arc::new(Container::new("4f".to_owned()));
        let owner = info(Role::Server).owner;
        let process = Process { pid: 42, started: owner.started, ..Process::default() };
        bench.processes.remember(Process { container: Some(container.clone()), ..process }, owner.exec_id);
        bench.open(10 * MS);
        bench.received(0, REQUEST, 11 * MS);
        bench.sent(0, RESPONSE, 12 * MS);
        bench.settle(100 * MS);
        assert!(bench.exchanges.is_empty());
        container.learn(Some(Arc::new(ContainerFacts { name: name.to_owned(), ..ContainerFacts::default() })));
        bench.settle(101 * MS);
        assert_eq!(bench.exchanges.len(), exchanges, "{name}");
    }
}

/// `web.test` is 10.0.0.2 for a minute.
const ANSWER: &[u8] = b"\0\x01\x81\x80\0\x01\0\x01\0\0\0\0\x03web\x04test\0\0\x01\0\x01\
    \xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\x0a\0\0\x02";

fn dns_answer() -> Event<'static> {
    let address = |text: &str| Address::Ip(text.parse::<SocketAddr>().unwrap());
    let ends = SocketInfo { remote: address("127.0.0.11:53"), ..info(Role::Client) };
    Event::Dns { time: 5 * MS, info: Box::new(ends), moved: ANSWER.len() as u32, message: ANSWER }
}

#[test]
fn a_dns_answer_names_the_peers_of_its_network_namespace() {
    for (net_namespace, name) in [(1, Some("web.test")), (2, None)] {
        let mut bench = Bench { processes: Processes::recorded(), ..Bench::new() };
        let owner = info(Role::Client).owner;
        let process = ProcessInfo { owner, net_namespace, ..ProcessInfo::default() };
        bench.event(Event::Process { time: MS, is_exec: true, info: Box::new(process) });
        bench.event(dns_answer());
        bench.event(Event::Open(Box::new(Opened { time: 10 * MS, info: info(Role::Client) })));
        bench.sent(0, REQUEST, 11 * MS);
        bench.received(0, RESPONSE, 12 * MS);
        let connection = &bench.exchanges[0].connection;
        assert_eq!(crate::url::peer_name(connection).as_deref(), name);
        assert!(bench.events.is_empty(), "nobody asked for an audit");
    }
}

#[test]
fn dns_is_audited_where_that_is_asked_for() {
    for (setting, events) in [("", 1), ("ignore_loopback: true, ", 0), ("direction: ingress, ", 0)] {
        let mut bench = Bench::new();
        let settings = FULL.replace("tap: {", &format!("tap: {{audit_include_dns: true, {setting}"));
        bench.settings = config::parse("test", settings.as_bytes()).unwrap_or_else(|errors| panic!("{errors}"));
        bench.event(dns_answer());
        assert_eq!(bench.events.len(), events, "{setting}");
        for event in &bench.events {
            assert_eq!((event.protocol, event.finalized), (Some(crate::exchange::Protocol::Dns), true));
            assert_eq!((event.bytes_received, event.connection.process.pid), (ANSWER.len() as u64, 42));
        }
    }
}

#[test]
fn a_dns_answer_over_tcp_names_peers_too() {
    let mut bench = Bench { processes: Processes::recorded(), ..Bench::new() };
    let owner = info(Role::Client).owner;
    let process = ProcessInfo { owner, net_namespace: 1, ..ProcessInfo::default() };
    let process = bench.processes.learn(&process, MS, true);
    let remote = Address::Ip("10.0.0.53:53".parse().unwrap());
    bench.event(Event::Open(Box::new(Opened { time: 10 * MS, info: SocketInfo { remote, ..info(Role::Client) } })));
    let mut framed = vec![0, ANSWER.len() as u8];
    framed.extend(ANSWER);
    bench.sent(0, b"\0\x02??", 11 * MS);
    bench.received(0, &framed[..5], 12 * MS);
    let name = |process: &Process| process.names.as_ref()?.of("10.0.0.2".parse().unwrap());
    assert_eq!(name(&process), None);
    bench.received(5, &framed[5..], 13 * MS);
    assert_eq!(name(&process).as_deref(), Some("web.test"));
    bench.close(4, framed.len() as u32, 14 * MS);
    assert_eq!(bench.events[0].protocol, Some(crate::exchange::Protocol::Dns));
    assert_eq!((bench.events[0].bytes_sent, bench.events[0].bytes_received), (4, framed.len() as u64));
    bench.assert_empty();
}
