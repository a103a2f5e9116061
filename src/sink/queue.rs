//! From the workers to the sinks: batches over bounded channels, one for each store. A worker never waits here; what a
//! queue has no room for is lost as a whole and counted for that store. A batch that several stores take is shared.
//!
//! Stores may come and go while records flow: one that goes writes what it was given, a worker's pass that is under way
//! included, and one that takes its place begins after that.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock, RwLockReadGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use crossbeam_channel::{Receiver, Sender, bounded};

use super::Sink;
use crate::exchange::Record;
use crate::stats::{Memory, Stats, StoreStats};

mod batch;

pub use batch::Packer;
use batch::{Batch, Item, Parts};

/// Batches that wait for one sink. What they weigh together is bounded, too: the stores have equal shares of half of
/// what [`Memory`] allows, so that one whose end is stuck leaves the others theirs.
pub const QUEUE: usize = 4096;

/// A sink, and what it is for.
pub struct Destination {
    /// What it is called in messages and counters; no other store has the name, but one that goes.
    pub name: String,
    pub takes: Takes,
    pub lines: Lines,
    /// What only one sink at a time can have open, if there is such a thing.
    pub place: Option<PathBuf>,
    pub open: Opener,
}

/// Opens a sink, once nobody else has its place.
pub type Opener = Box<dyn FnOnce() -> Result<Box<dyn Sink>> + Send>;

/// Which records a store is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Takes {
    /// Exchanges.
    pub objects: bool,
    /// Connections' events, and objects that were put.
    pub events: bool,
}

impl Takes {
    fn has(self, is_object: bool) -> bool {
        if is_object { self.objects } else { self.events }
    }
}

/// Which records a store takes as lines that somebody else has written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lines {
    None,
    /// Those that are to be JSON, which it would make of all of them.
    Json,
    All,
}

/// The way to one sink.
#[derive(Clone)]
struct Queue {
    takes: Takes,
    lines: Lines,
    sender: Sender<(Arc<Batch>, Takes)>,
    backlog: Arc<Backlog>,
    store: Arc<StoreStats>,
}

/// The stores that are there, and how they take what is sent.
#[derive(Default)]
struct Ends {
    queues: Vec<Queue>,
    /// How many stores share the memory, those included that these are not.
    stores: usize,
    /// How objects and events can be sent to all that take them; none where nobody does.
    objects: Option<Lines>,
    events: Option<Lines>,
}

/// Memory of batches that were written, for the next ones.
#[derive(Default)]
struct Spare(Mutex<Vec<Parts>>);

/// What one sink still has to do.
#[derive(Default)]
struct Backlog {
    /// In batches that are not written, the one in hand included.
    bytes: AtomicUsize,
    records: AtomicU64,
    /// Records that the sink took and has not brought to their place.
    held: AtomicU64,
    /// Nobody waits for it any more: what is left is counted as lost.
    is_given_up: AtomicBool,
}

/// How much waits for one store.
pub struct Waiting {
    pub store: Arc<StoreStats>,
    pub batches: usize,
    pub bytes: usize,
}

/// Hands batches to every sink.
pub struct Outbox {
    /// Exchanged at a reload only.
    ends: Arc<RwLock<Arc<Ends>>>,
    /// Those of them that take events.
    event_ends: Arc<RwLock<Arc<Ends>>>,
    memory: Arc<Memory>,
    stats: Arc<Stats>,
    /// Bytes in batches that any sink still has to write, each batch counted once.
    queued: Arc<AtomicUsize>,
    /// Wait for room instead of losing: for a replay, where nobody else is kept waiting.
    patient: Arc<AtomicBool>,
    spare: Arc<Spare>,
    /// Hears of a sink whose other end is gone for good.
    closed: Sender<()>,
}

/// The sinks' threads.
#[derive(Default)]
pub struct SinkThreads {
    threads: Vec<SinkThread>,
}

struct SinkThread {
    name: String,
    backlog: Arc<Backlog>,
    store: Arc<StoreStats>,
    place: Option<PathBuf>,
    handle: JoinHandle<()>,
}

impl Outbox {
    /// Starts a thread for every sink. `closed` hears of a sink whose other end is gone for good.
    pub fn start(
        destinations: Vec<Destination>,
        memory: Arc<Memory>,
        stats: Arc<Stats>,
        closed: &Sender<()>,
    ) -> Result<(Outbox, SinkThreads)> {
        let outbox = Outbox {
            ends: Arc::default(),
            event_ends: Arc::default(),
            memory,
            stats,
            queued: Arc::default(),
            patient: Arc::default(),
            spare: Arc::default(),
            closed: closed.clone(),
        };
        let mut threads = SinkThreads::default();
        threads.replace(&outbox, &[], destinations)?;
        Ok((outbox, threads))
    }

    /// A way to the event stores alone, whichever there are, for a sink that has something to tell them. While it is
    /// there, they go on.
    pub fn to_event_stores(&self) -> Outbox {
        Outbox {
            ends: self.event_ends.clone(),
            event_ends: self.event_ends.clone(),
            memory: self.memory.clone(),
            stats: self.stats.clone(),
            queued: self.queued.clone(),
            patient: self.patient.clone(),
            spare: self.spare.clone(),
            closed: self.closed.clone(),
        }
    }

    /// What waits for each store.
    pub fn waiting(&self) -> Vec<Waiting> {
        let waiting = |queue: &Queue| Waiting {
            store: queue.store.clone(),
            batches: queue.sender.len(),
            bytes: queue.backlog.bytes.load(Ordering::Relaxed),
        };
        self.ends().queues.iter().map(waiting).collect()
    }

    /// Bytes that wait for the sinks.
    pub fn queued(&self) -> usize {
        self.queued.load(Ordering::Relaxed)
    }

    /// For a replay: from now on `send` waits for room.
    pub fn be_patient(&self) {
        self.patient.store(true, Ordering::Relaxed);
    }

    /// For what a worker makes in one pass.
    pub fn packer(&self) -> Packer<'_> {
        Packer::new(self, self.ends())
    }

    /// Sends these by themselves. `bytes`: what they weigh, not counted in memory yet.
    pub fn send(&self, mut records: Vec<Record>, bytes: usize) {
        let mut packer = self.packer();
        let weight = packer.add(&mut records, bytes);
        self.memory.account().adjust(0, weight);
        packer.send();
    }

    /// As `send`, for a record of little weight.
    pub fn send_one(&self, record: Record) {
        self.send(vec![record], size_of::<Record>());
    }

    fn hand_out(&self, ends: &Ends, batch: &Arc<Batch>) {
        let patient = self.patient.load(Ordering::Relaxed);
        let share = self.memory.ceiling() / 2 / ends.stores.max(1);
        for queue in &ends.queues {
            let wanted = batch.wanted(queue.takes);
            if wanted > 0 && !queue.send(batch, wanted, share, patient) {
                queue.store.lost_queue.add(wanted);
            }
        }
    }

    fn ends(&self) -> Arc<Ends> {
        read(&self.ends).clone()
    }
}

fn read(ends: &RwLock<Arc<Ends>>) -> RwLockReadGuard<'_, Arc<Ends>> {
    ends.read().expect("no thread panics with the stores locked")
}

fn exchange(ends: &RwLock<Arc<Ends>>, new: Ends) {
    *ends.write().expect("no thread panics with the stores locked") = Arc::new(new);
}

impl Ends {
    fn new(queues: Vec<Queue>, stores: usize) -> Ends {
        let lines = |is_object| {
            let takers = queues.iter().filter(|queue| queue.takes.has(is_object));
            takers.map(|queue| queue.lines).min()
        };
        let (objects, events) = (lines(true), lines(false));
        Ends { queues, stores, objects, events }
    }

    fn lines(&self, is_object: bool) -> Option<Lines> {
        if is_object { self.objects } else { self.events }
    }
}

impl Spare {
    /// How many are kept at most.
    const MOST: usize = 8;

    fn take(&self) -> Parts {
        self.all().pop().unwrap_or_default()
    }

    fn give(&self, parts: Parts) {
        let Some(parts) = parts.emptied() else { return };
        let mut all = self.all();
        if all.len() < Spare::MOST {
            all.push(parts);
        }
    }

    fn all(&self) -> MutexGuard<'_, Vec<Parts>> {
        self.0.lock().expect("no thread panics with spare memory locked")
    }
}

impl Queue {
    fn send(&self, batch: &Arc<Batch>, wanted: u64, share: usize, patient: bool) -> bool {
        let is_full = || self.backlog.bytes.load(Ordering::Relaxed) > share;
        while patient && is_full() {
            thread::sleep(Duration::from_millis(1));
        }
        if is_full() {
            return false;
        }
        self.backlog.add(batch, wanted);
        let sent = match patient {
            true => self.sender.send((batch.clone(), self.takes)).is_ok(),
            false => self.sender.try_send((batch.clone(), self.takes)).is_ok(),
        };
        if !sent {
            self.backlog.remove(batch, wanted);
        }
        sent
    }
}

impl Backlog {
    fn add(&self, batch: &Batch, wanted: u64) {
        self.bytes.fetch_add(batch.bytes, Ordering::Relaxed);
        self.records.fetch_add(wanted, Ordering::Relaxed);
    }

    fn remove(&self, batch: &Batch, wanted: u64) {
        self.bytes.fetch_sub(batch.bytes, Ordering::Relaxed);
        self.records.fetch_sub(wanted, Ordering::Relaxed);
    }

    /// From now on the sink takes no batch. How many records it leaves.
    fn give_up(&self) -> u64 {
        self.is_given_up.store(true, Ordering::Relaxed);
        self.records.load(Ordering::Relaxed) + self.held.load(Ordering::Relaxed)
    }
}

impl SinkThreads {
    /// From now on records go to those stores that are there and named in `keep`, and to `new` ones. The others write what
    /// they were given and end; a new one at the place of such a one begins after that, any other one at once. After an
    /// error everything is as it was.
    pub fn replace(&mut self, outbox: &Outbox, keep: &[(String, Takes)], new: Vec<Destination>) -> Result<()> {
        self.threads.retain(|thread| !thread.handle.is_finished());
        let mut opened = Vec::new();
        for destination in new {
            let open: Opener = if self.at(&destination.place).is_some() {
                destination.open
            } else {
                let sink = (destination.open)()?;
                Box::new(|| Ok(sink))
            };
            opened.push(Destination { open, ..destination });
        }
        let mut added = Vec::new();
        for destination in opened {
            added.push(self.spawn(outbox, destination)?);
        }
        let mut queues = outbox.ends().queues.clone();
        queues.retain_mut(|queue| {
            let kept = keep.iter().find(|(name, _)| *name == queue.store.name);
            queue.takes = kept.map_or(queue.takes, |(_, takes)| *takes);
            kept.is_some()
        });
        queues.append(&mut added);
        let (stores, takes_events) = (queues.len(), |queue: &&Queue| queue.takes.events);
        exchange(&outbox.event_ends, Ends::new(queues.iter().filter(takes_events).cloned().collect(), stores));
        exchange(&outbox.ends, Ends::new(queues, stores));
        Ok(())
    }

    /// Which thread has the place.
    fn at(&self, place: &Option<PathBuf>) -> Option<usize> {
        self.threads.iter().position(|thread| place.is_some() && thread.place == *place)
    }

    /// Starts a sink behind a queue of its own.
    fn spawn(&mut self, outbox: &Outbox, destination: Destination) -> Result<Queue> {
        let Destination { name, takes, lines, place, open } = destination;
        let before = self.at(&place).map(|at| self.threads.swap_remove(at).handle);
        let (sender, receiver) = bounded(QUEUE);
        let (store, backlog) = (outbox.stats.store(&name), Arc::<Backlog>::default());
        let (queue, title) = (Queue { takes, lines, sender, backlog, store }, format!("sink {name}"));
        let (backlog, store) = (queue.backlog.clone(), queue.store.clone());
        let (stats, closed, called) = (outbox.stats.clone(), outbox.closed.clone(), name.clone());
        let work = move || {
            // Were it to fail, the log has been told of its panic.
            before.map(JoinHandle::join);
            let sink = open().unwrap_or_else(|error| Box::new(Unopened(format!("{error:#}"))));
            Writer { sink, name: called, backlog, store, stats, closed, is_failing: false }.run(&receiver);
        };
        let handle = thread::Builder::new().name(title).spawn(work);
        let handle = handle.with_context(|| format!("cannot start the thread of the {name} store"))?;
        let (backlog, store) = (queue.backlog.clone(), queue.store.clone());
        self.threads.push(SinkThread { name, backlog, store, place, handle });
        Ok(queue)
    }

    /// Waits until the sinks have written what they were given; the outbox must be gone. Names those that did not
    /// make it in time, and how many records they leave, which are counted as lost.
    pub fn join(self, patience: Duration) -> Vec<(String, u64)> {
        let deadline = Instant::now() + patience;
        let mut late = Vec::new();
        for SinkThread { name, backlog, store, handle, .. } in self.threads {
            while !handle.is_finished() && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(2));
            }
            if handle.is_finished() {
                let _ = handle.join();
            } else {
                let left = backlog.give_up();
                store.lost_end.add(left);
                late.push((name, left));
            }
        }
        late
    }
}

/// Stands for a sink that could not be opened when its place was free: why.
struct Unopened(String);

impl Sink for Unopened {
    fn write(&mut self, _: &Record) -> io::Result<()> {
        self.flush()
    }

    fn write_line(&mut self, _: &[u8]) -> io::Result<()> {
        self.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        Err(io::Error::other(self.0.clone()))
    }
}

/// What a sink's thread does.
struct Writer {
    sink: Box<dyn Sink>,
    name: String,
    /// As in its queue.
    backlog: Arc<Backlog>,
    store: Arc<StoreStats>,
    stats: Arc<Stats>,
    closed: Sender<()>,
    /// The sink failed, and did not succeed since: said once.
    is_failing: bool,
}

impl Writer {
    /// Ends when all senders are gone and everything is written, or nobody waits for that any more.
    fn run(mut self, queue: &Receiver<(Arc<Batch>, Takes)>) {
        while let Ok((batch, takes)) = queue.recv() {
            if self.backlog.is_given_up.load(Ordering::Relaxed) {
                return;
            }
            self.write(&batch, takes);
            self.backlog.held.store(self.sink.waiting(), Ordering::Relaxed);
            self.backlog.remove(&batch, batch.wanted(takes));
            drop(batch);
            if queue.is_empty() {
                let result = self.sink.flush();
                self.note(result);
                self.backlog.held.store(self.sink.waiting(), Ordering::Relaxed);
            }
        }
        let result = self.sink.close();
        self.note(result);
        self.store.lost_sink.add(self.sink.waiting());
    }

    fn write(&mut self, batch: &Batch, takes: Takes) {
        let (mut written, mut lost) = (0, 0);
        for item in batch.items(takes) {
            let result = match item {
                Item::Line(line) => self.sink.write_line(line),
                Item::Record(record) => self.sink.write(record),
            };
            match result {
                Ok(()) => written += 1,
                Err(_) => {
                    lost += 1;
                    self.note(result);
                }
            }
        }
        self.stats.written.add(written);
        self.store.written.add(written);
        self.store.lost_sink.add(lost);
    }

    /// Says once that the sink fails, and once that it no longer does: how much is lost is in the counters.
    fn note(&mut self, result: io::Result<()>) {
        match result {
            Ok(()) if std::mem::take(&mut self.is_failing) => log::info!("the {} store works again", self.name),
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                // Once is enough: the channel has one place.
                let _ = self.closed.try_send(());
            }
            Err(error) if !std::mem::replace(&mut self.is_failing, true) => {
                log::error!("the {} store cannot be written to: {error}; until it can, records are lost", self.name);
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::super::sample::ingress;
    use super::*;
    use crate::exchange::{Format, Level};

    /// Writes nothing until the other end of the channel is gone.
    struct Stuck(Receiver<()>);

    impl Sink for Stuck {
        fn write(&mut self, _: &Record) -> io::Result<()> {
            let _ = self.0.recv();
            Ok(())
        }
    }

    /// Counts records; refuses them while it is told to.
    #[derive(Clone, Default)]
    struct Counting(Arc<Mutex<(usize, bool)>>);

    impl Sink for Counting {
        fn write(&mut self, _: &Record) -> io::Result<()> {
            let mut state = self.0.lock().unwrap();
            if state.1 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            state.0 += 1;
            Ok(())
        }
    }

    const OBJECTS: Takes = Takes { objects: true, events: false };

    fn destination(name: &str, sink: impl Sink + 'static) -> Destination {
        Destination {
            name: name.into(),
            takes: OBJECTS,
            lines: Lines::None,
            place: Some(name.into()),
            open: Box::new(|| Ok(Box::new(sink))),
        }
    }

    fn record() -> Record {
        ingress().request("GET / HTTP/1.1\n", "").record(Level::Full, Format::Json)
    }

    #[test]
    fn a_stuck_store_loses_its_own_records_and_nobody_elses() {
        let (memory, stats) = (Arc::new(Memory::new(1 << 20)), Arc::new(Stats::default()));
        let (closed, _closed) = bounded(1);
        let (release, stuck) = bounded::<()>(0);
        let counting = Counting::default();
        let destinations = vec![destination("stuck", Stuck(stuck)), destination("free", counting.clone())];
        let (outbox, threads) = Outbox::start(destinations, memory.clone(), stats.clone(), &closed).unwrap();
        for _ in 0..1000 {
            assert!(memory.held() + 10_000 < memory.ceiling(), "what is stuck leaves room");
            outbox.send(vec![record()], 10_000);
            while outbox.waiting()[1].bytes > 0 {
                thread::yield_now();
            }
        }
        let (stuck, free) = (stats.store("stuck"), stats.store("free"));
        let fit = (1 << 20) / 4 / 10_000 + 1;
        assert_eq!((stuck.lost(), free.lost()), (1000 - fit, 0));
        drop((outbox, release));
        assert!(threads.join(Duration::from_secs(60)).is_empty());
        assert_eq!(
            (stuck.written.get(), free.written.get(), stats.lost(|store| &store.lost_queue)),
            (fit, 1000, 1000 - fit)
        );
        assert_eq!((counting.0.lock().unwrap().0, memory.held()), (1000, 0));
    }

    #[test]
    fn what_is_left_when_the_time_is_over_is_counted() {
        let (memory, stats) = (Arc::new(Memory::new(1 << 20)), Arc::new(Stats::default()));
        let (closed, _closed) = bounded(1);
        let (release, stuck) = bounded::<()>(0);
        let destinations = vec![destination("stuck", Stuck(stuck))];
        let (outbox, threads) = Outbox::start(destinations, memory, stats.clone(), &closed).unwrap();
        (0..5).for_each(|_| outbox.send(vec![record(), record()], 0));
        drop(outbox);
        assert_eq!(threads.join(Duration::from_millis(200)), [("stuck".to_owned(), 10)]);
        assert_eq!((stats.store("stuck").lost(), stats.lost(|store| &store.lost_end)), (10, 10));
        drop(release);
    }

    #[test]
    fn what_a_store_refuses_is_counted_for_it() {
        let (memory, stats) = (Arc::new(Memory::new(1 << 20)), Arc::new(Stats::default()));
        let (closed, _closed) = bounded(1);
        let counting = Counting::default();
        counting.0.lock().unwrap().1 = true;
        let (outbox, threads) =
            Outbox::start(vec![destination("full", counting.clone())], memory, stats.clone(), &closed).unwrap();
        outbox.send(vec![record(), record()], 0);
        drop(outbox);
        threads.join(Duration::from_secs(60));
        let full = stats.store("full");
        assert_eq!((full.written.get(), full.lost(), stats.lost(|store| &store.lost_sink)), (0, 2, 2));
    }

    /// What was written, by whom.
    type Written = Arc<Mutex<Vec<(&'static str, u64)>>>;

    /// Writes a record once it is let.
    struct Gated {
        name: &'static str,
        written: Written,
        gate: Receiver<()>,
    }

    impl Sink for Gated {
        fn write(&mut self, record: &Record) -> io::Result<()> {
            let _ = self.gate.recv();
            let Record::Exchange { exchange, .. } = record else { panic!("only exchanges were sent") };
            self.written.lock().unwrap().push((self.name, exchange.id));
            Ok(())
        }
    }

    fn send(outbox: &Outbox, ids: std::ops::RangeInclusive<u64>) {
        for id in ids {
            let mut exchange = ingress().request("GET / HTTP/1.1\n", "");
            exchange.id = id;
            outbox.send(vec![exchange.record(Level::Full, Format::Json)], 0);
        }
    }

    #[test]
    fn a_store_that_takes_the_place_of_another_begins_when_that_has_written_everything() {
        let (written, (open, gate), (closed, _)) = (Written::default(), bounded::<()>(0), bounded(1));
        let gated = |name| Gated { name, written: written.clone(), gate: gate.clone() };
        let (memory, stats) = (Arc::new(Memory::new(1 << 20)), Arc::new(Stats::default()));
        let destinations = vec![destination("a", gated("first a")), destination("b", gated("b"))];
        let (outbox, mut threads) = Outbox::start(destinations, memory, stats.clone(), &closed).unwrap();
        send(&outbox, 1..=3);
        let is_open = Arc::new(AtomicBool::new(false));
        let (second, flag) = (gated("second a"), is_open.clone());
        let second = Destination {
            open: Box::new(move || {
                flag.store(true, Ordering::Relaxed);
                Ok(Box::new(second))
            }),
            ..destination("a", Counting::default())
        };
        threads.replace(&outbox, &[("b".into(), OBJECTS)], vec![second]).unwrap();
        send(&outbox, 4..=5);
        threads.replace(&outbox, &[("a".into(), OBJECTS), ("b".into(), Takes::default())], Vec::new()).unwrap();
        send(&outbox, 6..=6);
        let names: Vec<String> = outbox.waiting().into_iter().map(|queue| queue.store.name.clone()).collect();
        assert_eq!((names, is_open.load(Ordering::Relaxed)), (vec!["b".to_owned(), "a".to_owned()], false));
        // From here on nobody waits.
        drop((open, outbox));
        assert!(threads.join(Duration::from_secs(60)).is_empty());
        let all = written.lock().unwrap().clone();
        let by = |name: &str| all.iter().filter(|(by, _)| *by == name).map(|(_, id)| *id).collect::<Vec<_>>();
        assert_eq!((by("first a"), by("second a"), by("b")), (vec![1, 2, 3], vec![4, 5, 6], vec![1, 2, 3, 4, 5]));
        let in_a: Vec<u64> = all.iter().filter(|(name, _)| name.ends_with('a')).map(|(_, id)| *id).collect();
        assert_eq!(in_a, [1, 2, 3, 4, 5, 6], "one after the other");
        assert_eq!((stats.written.get(), stats.store("a").written.get()), (11, 6));
    }

    #[test]
    fn what_is_wrong_with_a_store_is_said_whatever_it_is_given() {
        let mut sink = Unopened("the disk is gone".into());
        for result in [sink.write(&record()), sink.write_line(b"x\n"), sink.flush(), sink.close()] {
            assert_eq!(result.unwrap_err().to_string(), "the disk is gone");
        }
    }

    #[test]
    fn a_store_that_goes_for_good_ends_and_one_that_cannot_be_opened_changes_nothing() {
        let (written, (open, gate), (closed, _)) = (Written::default(), bounded::<()>(0), bounded(1));
        drop(open);
        let (memory, stats) = (Arc::new(Memory::new(1 << 20)), Arc::new(Stats::default()));
        let gated = Gated { name: "a", written: written.clone(), gate };
        let (outbox, mut threads) =
            Outbox::start(vec![destination("a", gated)], memory, stats.clone(), &closed).unwrap();
        let broken = |place: &str| Destination {
            open: Box::new(|| anyhow::bail!("it cannot be opened")),
            ..destination(place, Counting::default())
        };
        assert!(threads.replace(&outbox, &[], vec![broken("b")]).is_err());
        send(&outbox, 1..=1);
        threads.replace(&outbox, &[], Vec::new()).unwrap();
        // Nobody wants it, so that nothing is lost.
        send(&outbox, 2..=2);
        assert!(threads.join(Duration::from_secs(60)).is_empty(), "the outbox is still there");
        assert_eq!(*written.lock().unwrap(), [("a", 1)]);
        assert_eq!((stats.lost(|store| &store.lost_queue), outbox.queued()), (0, 0));

        let mut threads = SinkThreads::default();
        let (release, stuck) = bounded::<()>(0);
        threads.replace(&outbox, &[], vec![destination("c", Stuck(stuck))]).unwrap();
        threads.replace(&outbox, &[], vec![broken("c")]).unwrap();
        send(&outbox, 3..=5);
        drop((release, outbox));
        assert!(threads.join(Duration::from_secs(60)).is_empty());
        assert_eq!(
            (stats.store("c").lost(), stats.lost(|store| &store.lost_sink)),
            (3, 3),
            "its place was not free at first"
        );
    }
}
