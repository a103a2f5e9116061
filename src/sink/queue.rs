//! From the workers to the sinks: batches over bounded channels, one for each store. A worker never waits here; what a
//! queue has no room for is lost as a whole and counted for that store. A batch that several stores take is shared.
//!
//! Sinks can be exchanged for others while records flow: what comes in between is held, and goes to the new ones.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use crossbeam_channel::{Receiver, Sender, bounded};

use super::Sink;
use crate::exchange::Record;
use crate::stats::{Memory, Stats, StoreStats};

/// Batches that wait for one sink. What they weigh together is bounded, too: the stores have equal shares of half of
/// what [`Memory`] allows, so that one whose end is stuck leaves the others theirs.
pub const QUEUE: usize = 4096;

const LOCK: &str = "no thread panics with the routes locked";

/// A sink, and what it is for.
pub struct Destination {
    /// What it is called in messages and counters; no other store has the name.
    pub name: String,
    pub takes: Takes,
    pub sink: Box<dyn Sink>,
}

/// Which records a store is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Takes {
    /// Exchanges.
    pub objects: bool,
    /// Connections' events, and objects that were put.
    pub events: bool,
}

impl Takes {
    fn has(self, record: &Record) -> bool {
        if record.is_object() { self.objects } else { self.events }
    }
}

/// Records of one pass of a worker, and what they weigh.
struct Batch {
    records: Vec<Record>,
    objects: usize,
    bytes: usize,
    memory: Arc<Memory>,
    queued: Arc<AtomicUsize>,
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.memory.release(self.bytes);
        self.queued.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The way to one sink.
#[derive(Clone)]
struct Queue {
    takes: Takes,
    sender: Sender<Arc<Batch>>,
    /// Bytes in batches that the sink still has to write.
    waiting: Arc<AtomicUsize>,
    store: Arc<StoreStats>,
}

/// Where batches go.
enum Routes {
    To(Vec<Queue>),
    /// Nowhere for now.
    Held(Mutex<Vec<Arc<Batch>>>),
}

/// How much waits for one store.
pub struct Waiting {
    pub store: Arc<StoreStats>,
    pub batches: usize,
    pub bytes: usize,
}

/// Hands batches to every sink.
pub struct Outbox {
    /// Locked for writing at a reload only, and never for long.
    routes: RwLock<Routes>,
    memory: Arc<Memory>,
    stats: Arc<Stats>,
    /// Bytes in batches that any sink still has to write, each batch counted once.
    queued: Arc<AtomicUsize>,
    /// Wait for room instead of losing: for a replay, where nobody else is kept waiting.
    patient: Arc<AtomicBool>,
    /// How many stores share the memory.
    stores: Arc<AtomicUsize>,
}

/// The sinks' threads.
#[derive(Default)]
pub struct SinkThreads {
    threads: Vec<(String, JoinHandle<()>)>,
}

impl Outbox {
    /// Starts a thread for every sink. `closed` hears of a sink whose other end is gone for good.
    pub fn start(
        destinations: Vec<Destination>,
        memory: Arc<Memory>,
        stats: Arc<Stats>,
        closed: &Sender<()>,
    ) -> Result<(Outbox, SinkThreads)> {
        let (queued, patient, stores) = (Arc::default(), Arc::default(), Arc::default());
        let routes = RwLock::new(Routes::To(Vec::new()));
        let mut outbox = Outbox { routes, memory, stats, queued, patient, stores };
        let mut threads = SinkThreads::default();
        for destination in destinations {
            outbox.add(destination, &mut threads, closed)?;
        }
        Ok((outbox, threads))
    }

    /// Starts one more.
    pub fn add(&mut self, destination: Destination, threads: &mut SinkThreads, closed: &Sender<()>) -> Result<()> {
        let Destination { name, takes, sink } = destination;
        let (sender, receiver) = bounded(QUEUE);
        let (store, waiting) = (self.stats.store(&name), Arc::<AtomicUsize>::default());
        let writer = Writer {
            sink,
            name: name.clone(),
            takes,
            waiting: waiting.clone(),
            store: store.clone(),
            stats: self.stats.clone(),
            closed: closed.clone(),
            is_failing: false,
        };
        let thread = thread::Builder::new()
            .name(format!("sink {name}"))
            .spawn(move || writer.run(&receiver))
            .with_context(|| format!("cannot start the thread of the {name} store"))?;
        threads.threads.push((name, thread));
        if let Routes::To(queues) = self.routes.get_mut().expect(LOCK) {
            queues.push(Queue { takes, sender, waiting, store });
        }
        self.stores.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// From now on nothing goes to the sinks, which end once they have written what they were given: it is held for others,
    /// as far as memory allows.
    pub fn hold(&self) {
        *self.routes.write().expect(LOCK) = Routes::Held(Mutex::default());
    }

    /// One without a sink, for those that this one is to [`Outbox::resume`] with.
    pub fn successor(&self) -> Outbox {
        Outbox { stores: Arc::default(), ..self.with(Vec::new()) }
    }

    /// Goes on with the sinks of `other`: what was held goes to them first.
    pub fn resume(&self, other: Outbox) {
        let queues = match other.routes.into_inner().expect(LOCK) {
            Routes::To(queues) => queues,
            Routes::Held(_) => Vec::new(),
        };
        self.stores.store(other.stores.load(Ordering::Relaxed), Ordering::Relaxed);
        let mut routes = self.routes.write().expect(LOCK);
        let before = std::mem::replace(&mut *routes, Routes::To(queues));
        if let (Routes::Held(held), Routes::To(queues)) = (before, &*routes) {
            held.into_inner().expect(LOCK).iter().for_each(|batch| self.send_to(queues, batch));
        }
    }

    /// What waits for each store.
    pub fn waiting(&self) -> Vec<Waiting> {
        let waiting = |queue: &Queue| Waiting {
            store: queue.store.clone(),
            batches: queue.sender.len(),
            bytes: queue.waiting.load(Ordering::Relaxed),
        };
        match &*self.routes.read().expect(LOCK) {
            Routes::To(queues) => queues.iter().map(waiting).collect(),
            Routes::Held(_) => Vec::new(),
        }
    }

    /// A way to the event stores alone, for a sink that has something to tell them. While it is there, they go on.
    pub fn to_event_stores(&self) -> Outbox {
        let queues = match &*self.routes.read().expect(LOCK) {
            Routes::To(queues) => queues.iter().filter(|queue| queue.takes.events).cloned().collect(),
            Routes::Held(_) => Vec::new(),
        };
        self.with(queues)
    }

    /// Another one that counts with this one.
    fn with(&self, queues: Vec<Queue>) -> Outbox {
        Outbox {
            routes: RwLock::new(Routes::To(queues)),
            memory: self.memory.clone(),
            stats: self.stats.clone(),
            queued: self.queued.clone(),
            patient: self.patient.clone(),
            stores: self.stores.clone(),
        }
    }

    /// Bytes that wait for the sinks.
    pub fn queued(&self) -> usize {
        self.queued.load(Ordering::Relaxed)
    }

    /// For a replay: from now on `send` waits for room.
    pub fn be_patient(&self) {
        self.patient.store(true, Ordering::Relaxed);
    }

    /// Never waits, unless told to be patient. `bytes`: what the records weigh, counted in memory; given back when all sinks are done.
    pub fn send(&self, records: Vec<Record>, bytes: usize) {
        let objects = records.iter().filter(|record| record.is_object()).count();
        self.queued.fetch_add(bytes, Ordering::Relaxed);
        let (memory, queued) = (self.memory.clone(), self.queued.clone());
        let batch = Arc::new(Batch { records, objects, bytes, memory, queued });
        match &*self.routes.read().expect(LOCK) {
            Routes::To(queues) => self.send_to(queues, &batch),
            Routes::Held(held) if self.queued() <= self.memory.ceiling() / 2 => held.lock().expect(LOCK).push(batch),
            Routes::Held(_) => self.stats.lost_queue.add(batch.records.len() as u64),
        }
    }

    fn send_to(&self, queues: &[Queue], batch: &Arc<Batch>) {
        let patient = self.patient.load(Ordering::Relaxed);
        let share = self.memory.ceiling() / 2 / self.stores.load(Ordering::Relaxed).max(1);
        for queue in queues {
            let wanted = queue.wanted(batch);
            if wanted > 0 && !queue.send(batch, share, patient) {
                self.stats.lost_queue.add(wanted as u64);
                queue.store.lost_queue.add(wanted as u64);
            }
        }
    }

    /// As `send`, for a record of little weight that nobody has counted.
    pub fn send_one(&self, record: Record) {
        let bytes = size_of::<Record>();
        self.memory.adjust(0, bytes);
        self.send(vec![record], bytes);
    }
}

impl Queue {
    /// How many of the records are for this store.
    fn wanted(&self, batch: &Batch) -> usize {
        let events = batch.records.len() - batch.objects;
        usize::from(self.takes.objects) * batch.objects + usize::from(self.takes.events) * events
    }

    fn send(&self, batch: &Arc<Batch>, share: usize, patient: bool) -> bool {
        let is_full = || self.waiting.load(Ordering::Relaxed) > share;
        while patient && is_full() {
            thread::sleep(Duration::from_millis(1));
        }
        if is_full() {
            return false;
        }
        self.waiting.fetch_add(batch.bytes, Ordering::Relaxed);
        let sent = match patient {
            true => self.sender.send(batch.clone()).is_ok(),
            false => self.sender.try_send(batch.clone()).is_ok(),
        };
        if !sent {
            self.waiting.fetch_sub(batch.bytes, Ordering::Relaxed);
        }
        sent
    }
}

impl SinkThreads {
    /// Waits until the sinks have written what they were given; the outbox must be gone. Names those that did not
    /// make it in time.
    pub fn join(self, patience: Duration) -> Vec<String> {
        let deadline = Instant::now() + patience;
        let mut late = Vec::new();
        for (name, thread) in self.threads {
            while !thread.is_finished() && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(2));
            }
            if thread.is_finished() {
                let _ = thread.join();
            } else {
                late.push(name);
            }
        }
        late
    }
}

/// What a sink's thread does.
struct Writer {
    sink: Box<dyn Sink>,
    name: String,
    takes: Takes,
    /// As in its queue.
    waiting: Arc<AtomicUsize>,
    store: Arc<StoreStats>,
    stats: Arc<Stats>,
    closed: Sender<()>,
    /// The sink failed, and did not succeed since: said once.
    is_failing: bool,
}

impl Writer {
    /// Ends when all senders are gone and everything is written.
    fn run(mut self, queue: &Receiver<Arc<Batch>>) {
        while let Ok(batch) = queue.recv() {
            self.write(&batch.records);
            self.waiting.fetch_sub(batch.bytes, Ordering::Relaxed);
            drop(batch);
            if queue.is_empty() {
                let result = self.sink.flush();
                self.note(result);
            }
        }
        let result = self.sink.close();
        self.note(result);
        let left = self.sink.waiting();
        self.lose(left);
    }

    fn write(&mut self, records: &[Record]) {
        let (mut written, mut lost) = (0, 0);
        let takes = self.takes;
        for record in records.iter().filter(|record| takes.has(record)) {
            let result = self.sink.write(record);
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
        self.lose(lost);
    }

    fn lose(&self, records: u64) {
        self.stats.lost_sink.add(records);
        self.store.lost_sink.add(records);
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
        Destination { name: name.into(), takes: OBJECTS, sink: Box::new(sink) }
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
            assert!(memory.reserve(10_000), "what is stuck leaves room");
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
        assert_eq!((stuck.written.get(), free.written.get(), stats.lost_queue.get()), (fit, 1000, 1000 - fit));
        assert_eq!((counting.0.lock().unwrap().0, memory.held()), (1000, 0));
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
        assert_eq!((full.written.get(), full.lost(), stats.lost_sink.get()), (0, 2, 2));
    }

    /// Writes down ids once it is let.
    struct Gated(Receiver<()>, Arc<Mutex<Vec<u64>>>);

    impl Sink for Gated {
        fn write(&mut self, record: &Record) -> io::Result<()> {
            let _ = self.0.recv();
            let Record::Exchange { exchange, .. } = record else { panic!("only exchanges were sent") };
            self.1.lock().unwrap().push(exchange.id);
            Ok(())
        }
    }

    fn numbered(id: u64) -> Record {
        let mut exchange = ingress().request("GET / HTTP/1.1\n", "");
        exchange.id = id;
        exchange.record(Level::Full, Format::Json)
    }

    #[test]
    fn sinks_are_exchanged_without_a_record_lost_or_out_of_order() {
        let (memory, stats) = (Arc::new(Memory::new(1 << 20)), Arc::new(Stats::default()));
        let (closed, _closed) = bounded(1);
        let (open, gate) = bounded::<()>(0);
        let (first, second) = (Arc::<Mutex<Vec<u64>>>::default(), Arc::<Mutex<Vec<u64>>>::default());
        let gated = |gate: &Receiver<()>, written: &Arc<Mutex<Vec<u64>>>| {
            vec![destination("a", Gated(gate.clone(), written.clone()))]
        };
        let (outbox, old) = Outbox::start(gated(&gate, &first), memory.clone(), stats.clone(), &closed).unwrap();
        (1..=3).for_each(|id| outbox.send(vec![numbered(id)], 0));
        outbox.hold();
        (4..=5).for_each(|id| outbox.send(vec![numbered(id)], 0));
        assert!(outbox.waiting().is_empty());
        // From here on nobody waits.
        drop(open);
        assert!(old.join(Duration::from_secs(60)).is_empty(), "they end, though the outbox is still there");
        assert_eq!(*first.lock().unwrap(), [1, 2, 3]);

        let (mut other, mut new) = (outbox.successor(), SinkThreads::default());
        for destination in gated(&gate, &second) {
            other.add(destination, &mut new, &closed).unwrap();
        }
        outbox.resume(other);
        outbox.send(vec![numbered(6)], 0);
        drop(outbox);
        assert!(new.join(Duration::from_secs(60)).is_empty());
        assert_eq!(*second.lock().unwrap(), [4, 5, 6]);
        assert_eq!((stats.written.get(), stats.lost_queue.get(), memory.held()), (6, 0, 0));
    }
}
