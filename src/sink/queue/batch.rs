//! What a worker sends at once: records, most of them as the lines that sinks would make of them.
//!
//! A worker writes a record right after it made it, while all of it is in its CPU's cache, and frees it there; what
//! crosses to the sinks' threads is text. Records that take long to write, or that a store wants as they are, cross as
//! they are.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Ends, Lines, Outbox, Spare, Takes};
use crate::exchange::{Level, Record};
use crate::sink::{Formatter, body};
use crate::stats::Memory;

/// A batch goes when it has so many records, or so many bytes of text.
const MOST: usize = 256;
const FULL: usize = 128 << 10;

/// What a record may weigh for a worker to write it.
const QUICK: usize = 64 << 10;

/// Records, or the lines that were made of them.
pub(super) struct Batch {
    parts: Parts,
    objects: usize,
    /// What it takes in memory.
    pub(super) bytes: usize,
    memory: Arc<Memory>,
    queued: Arc<AtomicUsize>,
    spare: Arc<Spare>,
}

/// The memory of a batch, which the next one takes over.
#[derive(Default)]
pub(super) struct Parts {
    entries: Vec<Entry>,
    /// The lines of all entries, one behind the other.
    text: Vec<u8>,
}

enum Entry {
    Line { len: usize, is_object: bool },
    Record(Record),
}

/// An entry, as a sink gets it.
pub(super) enum Item<'a> {
    Line(&'a [u8]),
    Record(&'a Record),
}

impl Batch {
    /// How many records are for a store that takes these.
    pub(super) fn wanted(&self, takes: Takes) -> u64 {
        let events = self.parts.entries.len() - self.objects;
        (usize::from(takes.objects) * self.objects + usize::from(takes.events) * events) as u64
    }

    pub(super) fn items(&self, takes: Takes) -> impl Iterator<Item = Item<'_>> {
        let mut text = &self.parts.text[..];
        self.parts.entries.iter().filter_map(move |entry| {
            let (item, is_object) = match entry {
                Entry::Line { len, is_object } => {
                    let (line, rest) = text.split_at(*len);
                    text = rest;
                    (Item::Line(line), *is_object)
                }
                Entry::Record(record) => (Item::Record(record), record.is_object()),
            };
            takes.has(is_object).then_some(item)
        })
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.memory.release(self.bytes);
        self.queued.fetch_sub(self.bytes, Ordering::Relaxed);
        self.spare.give(std::mem::take(&mut self.parts));
    }
}

impl Parts {
    /// Empty, but for its memory; nothing where that is not worth keeping.
    pub(super) fn emptied(mut self) -> Option<Parts> {
        self.entries.clear();
        self.text.clear();
        (self.text.capacity() <= 4 * FULL).then_some(self)
    }
}

/// Makes batches of what a worker hands in, for the stores that were there when it began.
pub struct Packer<'a> {
    outbox: &'a Outbox,
    ends: Arc<Ends>,
    formatter: Formatter,
    parts: Parts,
    objects: usize,
    bytes: usize,
}

impl<'a> Packer<'a> {
    pub(super) fn new(outbox: &'a Outbox, ends: Arc<Ends>) -> Packer<'a> {
        let formatter = Formatter::default();
        Packer { outbox, ends, formatter, parts: Parts::default(), objects: 0, bytes: 0 }
    }

    /// Takes all of the records. `bytes`: what they weigh, counted in memory. Answers what there is to be counted instead;
    /// from then on that is the packer's business.
    pub fn add(&mut self, records: &mut Vec<Record>, bytes: usize) -> usize {
        if self.parts.entries.capacity() == 0 {
            self.parts = self.outbox.spare.take();
        }
        let (before, entries, mut kept) = (self.parts.text.len(), self.parts.entries.len(), 0);
        for record in records.drain(..) {
            let is_object = record.is_object();
            let Some(lines) = self.ends.lines(is_object) else { continue };
            if lines.has(&record) && is_quick(&record) {
                let start = self.parts.text.len();
                self.formatter.append(&mut self.parts.text, &record);
                self.parts.entries.push(Entry::Line { len: self.parts.text.len() - start, is_object });
            } else {
                kept = bytes;
                self.parts.entries.push(Entry::Record(record));
            }
            self.objects += usize::from(is_object);
        }
        let weight = (self.parts.entries.len() - entries) * size_of::<Entry>() + self.parts.text.len() - before + kept;
        self.bytes += weight;
        if self.parts.entries.len() >= MOST || self.parts.text.len() >= FULL {
            self.send();
        }
        weight
    }

    /// Sends what there is. Never waits, unless the outbox was told to be patient.
    pub fn send(&mut self) {
        if self.parts.entries.is_empty() {
            return;
        }
        let outbox = self.outbox;
        let (bytes, objects) = (std::mem::take(&mut self.bytes), std::mem::take(&mut self.objects));
        outbox.queued.fetch_add(bytes, Ordering::Relaxed);
        let (memory, queued, spare) = (outbox.memory.clone(), outbox.queued.clone(), outbox.spare.clone());
        let parts = std::mem::take(&mut self.parts);
        outbox.hand_out(&self.ends, &Arc::new(Batch { parts, objects, bytes, memory, queued, spare }));
    }
}

impl Lines {
    fn has(self, record: &Record) -> bool {
        match self {
            Lines::None => false,
            Lines::Json => record.is_json(),
            Lines::All => true,
        }
    }
}

/// Whether writing it takes a worker no longer than making it did.
fn is_quick(record: &Record) -> bool {
    match record {
        Record::Exchange { exchange, level: Level::Full, redact, .. } => {
            redact.is_none() && exchange.kept() + exchange.weight() <= QUICK && !exchange.messages().any(body::is_coded)
        }
        Record::Exchange { exchange, .. } | Record::Usage { exchange, .. } => exchange.weight() <= QUICK,
        Record::Connection(_) | Record::Artifact(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Mutex;
    use std::time::Duration;

    use crossbeam_channel::bounded;

    use super::super::{Destination, SinkThreads};
    use super::*;
    use crate::exchange::{Connection, ConnectionEvent, Direction, Exchange, Format};
    use crate::redact::Redact;
    use crate::sink::Sink;
    use crate::sink::sample::{connection, egress, ingress, ip, written};
    use crate::stats::Stats;

    /// Each record as it came: whether it was a line, and the line.
    #[derive(Clone, Default)]
    struct Got(Arc<Mutex<Vec<(bool, String)>>>);

    impl Sink for Got {
        fn write(&mut self, record: &Record) -> io::Result<()> {
            self.0.lock().unwrap().push((false, written(record)));
            Ok(())
        }

        fn write_line(&mut self, line: &[u8]) -> io::Result<()> {
            self.0.lock().unwrap().push((true, String::from_utf8(line.to_vec()).unwrap()));
            Ok(())
        }
    }

    fn outbox(stores: &[(Takes, Lines, &Got)], memory: &Arc<Memory>) -> (Outbox, SinkThreads) {
        let destination = |(at, (takes, lines, got)): (usize, &(Takes, Lines, &Got))| Destination {
            name: at.to_string(),
            takes: *takes,
            lines: *lines,
            place: None,
            open: {
                let sink = (*got).clone();
                Box::new(|| Ok(Box::new(sink)))
            },
        };
        let destinations = stores.iter().enumerate().map(destination).collect();
        Outbox::start(destinations, memory.clone(), Arc::new(Stats::default()), &bounded(1).0).unwrap()
    }

    const ALL: Takes = Takes { objects: true, events: true };

    /// What stores get of these records, which one worker sends.
    fn sent<const STORES: usize>(
        stores: [(Takes, Lines); STORES],
        make: impl Fn() -> Vec<Record>,
    ) -> [Vec<(bool, String)>; STORES] {
        let memory = Arc::new(Memory::new(1 << 30));
        let got = [(); STORES].map(|()| Got::default());
        let stores: Vec<_> = stores.iter().zip(&got).map(|((takes, lines), got)| (*takes, *lines, got)).collect();
        let (outbox, threads) = outbox(&stores, &memory);
        let mut packer = outbox.packer();
        for record in make() {
            let weight = packer.add(&mut vec![record], 1000);
            memory.account().adjust(0, weight);
        }
        packer.send();
        drop(packer);
        drop(outbox);
        assert!(threads.join(Duration::from_secs(60)).is_empty());
        assert_eq!(memory.held(), 0, "all is given back");
        got.map(|got| std::mem::take(&mut *got.0.lock().unwrap()))
    }

    fn event() -> Record {
        let connection: Connection = connection(Direction::Ingress, ip("172.18.0.2:80"), ip("172.18.0.1:40312"));
        Record::Connection(Box::new(ConnectionEvent {
            connection: Arc::new(connection),
            protocol: None,
            opened: None,
            observed: 1,
            bytes_sent: 2,
            bytes_received: 3,
            bytes_lost: 0,
            transactions: 4,
            finalized: true,
            error: None,
        }))
    }

    fn usual() -> Exchange {
        let request = ingress().request("POST /a?b=c HTTP/1.1\nHost: a.test\nCookie: x=y\n", "the \"body\" \u{1}");
        request.response("HTTP/1.1 200 OK\nServer: b\nSet-Cookie: c=d\nSet-Cookie: e=f\n", [b'x'; 300])
    }

    fn coded() -> Exchange {
        egress().request("GET / HTTP/1.1\n", "").response("HTTP/1.1 200 OK\nContent-Encoding: gzip\n", "no gzip")
    }

    fn large() -> Exchange {
        ingress().request("PUT / HTTP/1.1\n", vec![b'a'; QUICK])
    }

    fn redacted() -> Record {
        let mut record = usual().record(Level::Full, Format::Json);
        if let Record::Exchange { redact, .. } = &mut record {
            *redact = Some(Arc::new(Redact::new(Vec::new(), vec!["token".into()], Vec::new(), Vec::new())));
        }
        record
    }

    /// Of every kind and form: whether a worker writes it, and it.
    fn records() -> Vec<(bool, Record)> {
        vec![
            (true, usual().record(Level::Full, Format::Json)),
            (true, usual().record(Level::Headers, Format::Text)),
            (false, coded().record(Level::Full, Format::Json)),
            (true, coded().record(Level::Headers, Format::Json)),
            (true, event()),
            (false, large().record(Level::Full, Format::Text)),
            (true, large().record(Level::Summary, Format::Json)),
            (true, usual().record(Level::Summary, Format::Combined)),
            (false, redacted()),
            (true, usual().record(Level::Full, Format::Json)),
        ]
    }

    #[test]
    fn a_store_gets_the_same_in_the_same_order_whoever_writes_it() {
        let all = || records().into_iter().map(|(_, record)| record).collect();
        let [lines] = sent([(ALL, Lines::All)], all);
        let [records_alone] = sent([(ALL, Lines::None)], all);
        let of = |got: &[(bool, String)]| got.iter().map(|(_, line)| line.clone()).collect::<Vec<_>>();
        assert_eq!(of(&lines), of(&records_alone));
        assert!(records_alone.iter().all(|(is_line, _)| !is_line));
        let by_workers: Vec<_> = records().iter().map(|(by_worker, _)| *by_worker).collect();
        assert_eq!(lines.iter().map(|(is_line, _)| *is_line).collect::<Vec<_>>(), by_workers);
    }

    #[test]
    fn what_one_of_the_stores_cannot_take_as_a_line_is_none_for_all() {
        let all = || records().into_iter().map(|(_, record)| record).collect();
        let [stdout, s3] = sent([(ALL, Lines::All), (ALL, Lines::Json)], all);
        assert_eq!(stdout, s3);
        for ((by_worker, record), (is_line, _)) in records().iter().zip(stdout) {
            assert_eq!(is_line, *by_worker && record.is_json());
        }
        let objects = Takes { objects: true, events: false };
        let events = Takes { objects: false, events: true };
        let [objects, events] = sent([(objects, Lines::All), (events, Lines::None)], all);
        assert_eq!((objects.len(), events.len()), (9, 1));
        assert!(objects.iter().any(|(is_line, _)| *is_line), "who takes events alone has no say in objects");
        assert!(!events[0].0);
    }

    #[test]
    fn batches_go_before_they_are_large_and_their_memory_comes_back() {
        let (memory, got) = (Arc::new(Memory::new(1 << 30)), Got::default());
        let (outbox, threads) = outbox(&[(ALL, Lines::All, &got)], &memory);
        for pass in 1..=20 {
            let mut packer = outbox.packer();
            for _ in 0..1000 {
                let weight = packer.add(&mut vec![usual().record(Level::Full, Format::Json)], 1000);
                memory.account().adjust(0, weight);
                assert!(packer.parts.entries.len() < MOST && packer.parts.text.len() < FULL);
            }
            packer.send();
            while got.0.lock().unwrap().len() < pass * 1000 {
                std::thread::yield_now();
            }
        }
        let spare = outbox.spare.all().len();
        assert!((1..=super::super::Spare::MOST).contains(&spare), "{spare}");
        drop(outbox);
        assert!(threads.join(Duration::from_secs(60)).is_empty());
        assert_eq!(memory.held(), 0);
    }
}
