//! The whole way, from an event's bytes to a sink, with the books balanced in the end.

mod kernel;
mod properties;
mod secrets;
mod tls;

use std::io;
use std::mem::offset_of;
use std::sync::Mutex;
use std::time::Duration;

use crossbeam_channel::bounded;

use super::*;
use crate::bpf::types::{connection, data_event, event_head, event_kind, open_event, role};
use crate::config;
use crate::conn::NoControl;
use crate::exchange::{Exchange, Missing, Record};
use crate::sink::Sink;
use crate::sink::queue::{Destination, Lines, Opener, Takes};

const FULL: &str = "version: 2
services: {object_stores: [{type: stdout}]}
stacks:
  all:
    plugins:
      - type: http_capture
        config: {level: full, max_body_bytes: 1MiB}
tap: {http: {stack: all}}
";

/// Keeps what it is given.
struct Shelf(Arc<Mutex<Vec<Exchange>>>);

impl Sink for Shelf {
    fn write(&mut self, record: &Record) -> io::Result<()> {
        if let Record::Exchange { exchange, .. } = record {
            self.0.lock().unwrap().push((**exchange).clone());
        }
        Ok(())
    }
}

/// Runs `work` on a pipeline for two workers; answers what the sink got, once nothing is held in memory any more.
fn run(ceiling: usize, work: impl FnOnce(&Pipeline)) -> Vec<Exchange> {
    run_with(FULL, ceiling, Arc::new(NoControl), 2, work)
}

fn run_with(
    settings: &str,
    ceiling: usize,
    control: Arc<dyn Control>,
    workers: usize,
    work: impl FnOnce(&Pipeline),
) -> Vec<Exchange> {
    let shelf = Arc::new(Mutex::new(Vec::new()));
    let (stats, memory) = (Arc::new(Stats::default()), Arc::new(Memory::new(ceiling)));
    let (closed, _) = bounded(1);
    let takes = Takes { objects: true, events: true };
    let sink = Shelf(shelf.clone());
    let open: Opener = Box::new(|| Ok(Box::new(sink)));
    let sinks =
        vec![Destination { name: "shelf".into(), takes, lines: Lines::None, place: Some("shelf".into()), open }];
    let (outbox, sinks) = Outbox::start(sinks, memory.clone(), stats.clone(), &closed).unwrap();
    let settings = config::parse("test", settings.as_bytes()).unwrap_or_else(|errors| panic!("{errors}"));
    let pipeline = Pipeline::new(settings, control, stats, memory.clone(), outbox, workers, 0);
    work(&pipeline);
    pipeline.pass(0, u64::MAX, |pass| pipeline.table.finish(&mut pass.env));
    drop(pipeline);
    assert!(sinks.join(Duration::from_secs(60)).is_empty(), "the sink did not end");
    assert_eq!(memory.held(), 0);
    std::mem::take(&mut shelf.lock().unwrap())
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

fn event<T>(kind: event_kind, time: u64) -> Vec<u8> {
    let mut bytes = vec![0; size_of::<T>()];
    put(&mut bytes, offset_of!(event_head, time), &time.to_ne_bytes());
    put(&mut bytes, offset_of!(event_head, kind), &kind.0.to_ne_bytes());
    bytes
}

fn open(id: u64, time: u64) -> Vec<u8> {
    let mut bytes = event::<open_event>(event_kind::EVENT_OPEN, time);
    let at = offset_of!(open_event, connection);
    put(&mut bytes, at + offset_of!(connection, id), &id.to_ne_bytes());
    put(&mut bytes, at + offset_of!(connection, pid), &u32::MAX.to_ne_bytes());
    put(&mut bytes, at + offset_of!(connection, base), &[1, 0, 0, 0, 1, 0, 0, 0]);
    put(&mut bytes, at + offset_of!(connection, family), &[libc::AF_INET as u8]);
    put(&mut bytes, at + offset_of!(connection, role), &[role::ROLE_SERVER.0 as u8]);
    bytes
}

/// `flow`: 0 for sent, 1 for received. The first byte has position 1.
fn data(id: u64, flow: u8, position: usize, payload: &[u8], time: u64) -> Vec<u8> {
    let mut bytes = event::<data_event>(event_kind::EVENT_DATA, time);
    put(&mut bytes, offset_of!(data_event, connection), &id.to_ne_bytes());
    put(&mut bytes, offset_of!(data_event, position), &(position as u32).to_ne_bytes());
    put(&mut bytes, offset_of!(data_event, moved), &(payload.len() as u32).to_ne_bytes());
    put(&mut bytes, offset_of!(data_event, attached), &(payload.len() as u32).to_ne_bytes());
    put(&mut bytes, offset_of!(data_event, direction), &[flow]);
    put(&mut bytes, offset_of!(data_event, flags), &[1]);
    bytes.extend(payload);
    bytes
}

#[test]
fn events_become_exchanges_at_the_sink() {
    let exchanges = run(1 << 20, |pipeline| {
        pipeline.pass(0, 0, |pass| {
            pass.event(&open(1 << 10, 1));
            pass.event(&data(1 << 10, 1, 1, b"GET /a HTTP/1.1\r\n\r\n", 2));
            pass.event(&data(1 << 10, 0, 1, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", 3));
            pass.event(b"no event");
        });
        assert_eq!((pipeline.stats.seen(), pipeline.stats.bad_events.get()), (1, 1));
        assert!(pipeline.table.len() == 1);
    });
    assert_eq!(exchanges.len(), 1);
    assert_eq!((exchanges[0].id, &exchanges[0].missing[..]), (1, &[][..]));
    assert_eq!(exchanges[0].response.as_ref().unwrap().body.kept, b"hi");
}

#[test]
fn what_only_time_settles_goes_on_once_every_worker_has_read_past_it() {
    let exchanges = run(1 << 20, |pipeline| {
        pipeline.pass(0, 0, |pass| {
            pass.event(&open(1 << 10, 1));
            // No request was seen for it.
            pass.event(&data(1 << 10, 0, 1, b"HTTP/1.1 408 Timeout\r\nContent-Length: 0\r\n\r\n", 3));
        });
        let second = 1_000_000_000;
        pipeline.progress.reached(0, second);
        pipeline.pass(0, 0, |pass| (0..2).for_each(|worker| pass.settle(worker, 2, pipeline.progress.settled())));
        assert_eq!(pipeline.stats.seen(), 0);
        pipeline.progress.reached(1, second);
        pipeline.pass(0, 0, |pass| (0..2).for_each(|worker| pass.settle(worker, 2, pipeline.progress.settled())));
        assert_eq!(pipeline.stats.seen(), 1);
    });
    assert_eq!(exchanges[0].missing, [Missing::Request]);
}

/// The response to HEAD, taken with doubt for that to the GET before, had the next response for its body.
#[test]
fn a_response_to_head_whose_request_was_lost_does_not_swallow_the_next() {
    let exchanges = run(1 << 20, |pipeline| {
        let get = |id: usize| format!("GET /{id} HTTP/1.1\r\n\r\n").into_bytes();
        let (up, down) = (get(0).len(), 100);
        let to_head = b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n";
        pipeline.pass(0, u64::MAX, |pass| {
            pass.event(&open(1 << 10, 1));
            pass.event(&data(1 << 10, 1, 1, &get(0), 2));
            // Lost: the response to it, and HEAD.
            pass.event(&data(1 << 10, 0, 1 + down, to_head, 5));
            pass.event(&data(1 << 10, 1, 1 + 2 * up, &get(2), 6));
            let ok = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
            pass.event(&data(1 << 10, 0, 1 + down + to_head.len(), ok, 7));
        });
    });
    let last = exchanges.last().unwrap();
    assert_eq!((last.request.as_ref().unwrap().head.target(), &last.missing[..]), (&b"/2"[..], &[][..]));
    assert_eq!(last.response.as_ref().unwrap().body.kept, b"hi");
}

/// A body that lasts until the end of its connection was whole where the event of that end was lost, and those of its last
/// bytes with it.
#[test]
fn a_body_until_the_end_is_not_whole_where_the_end_was_not_seen() {
    let exchanges = run(1 << 20, |pipeline| {
        pipeline.pass(0, 0, |pass| {
            pass.event(&open(1 << 10, 1));
            pass.event(&data(1 << 10, 1, 1, b"GET /a HTTP/1.1\r\n\r\n", 2));
            pass.event(&data(1 << 10, 0, 1, b"HTTP/1.1 200 OK\r\n\r\nhi", 3));
        });
        let minute = 60_000_000_000;
        pipeline.pass(0, minute, |pass| pipeline.table.tick(0, 1, minute, &mut pass.env));
        assert!(pipeline.table.is_empty());
    });
    assert_eq!(exchanges[0].missing, [Missing::ResponseAborted]);
}

#[test]
fn uploads_of_many_connections_stay_below_the_ceiling() {
    let ceiling = 1 << 20;
    let exchanges = run(ceiling, |pipeline| {
        let head = b"POST /a HTTP/1.1\r\nContent-Length: 100000\r\n\r\n";
        let body = vec![b'x'; 100_000];
        for id in 1..100u64 {
            pipeline.pass(0, 0, |pass| {
                pass.event(&open(id << 10, id));
                pass.event(&data(id << 10, 1, 1, head, id));
                pass.event(&data(id << 10, 1, 1 + head.len(), &body, id));
                pass.settle(0, 1, 0);
            });
            assert!(pipeline.memory.held() <= ceiling + ceiling / 4);
        }
    });
    assert_eq!(exchanges.len(), 99);
    let dropped = exchanges.iter().filter(|one| one.missing.contains(&Missing::RequestBodyOverMemory)).count();
    let whole = exchanges.iter().filter(|one| one.kept() == 100_000).count();
    assert!(whole > 5 && dropped > 50 && whole + dropped == 99, "{whole} whole, {dropped} dropped");
}
