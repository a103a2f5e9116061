//! From the workers to the sinks: batches over bounded channels. A worker never waits here; what a queue has no room
//! for is lost as a whole and counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use crossbeam_channel::{Receiver, Sender, bounded};

use super::Sink;
use crate::exchange::Record;
use crate::stats::{Memory, Stats};

/// Batches that wait for one sink. What they weigh together is bounded by half of what [`Memory`] allows.
const QUEUE: usize = 4096;

/// Records of one pass of a worker, and what they weigh.
pub struct Batch {
    pub records: Vec<Record>,
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

/// Hands batches to every sink.
pub struct Outbox {
    queues: Vec<Sender<Arc<Batch>>>,
    memory: Arc<Memory>,
    stats: Arc<Stats>,
    /// Bytes in batches that a sink still has to write.
    queued: Arc<AtomicUsize>,
    /// Wait for room instead of losing: for a replay, where nobody else is kept waiting.
    patient: bool,
}

/// The sinks' threads.
pub struct SinkThreads {
    threads: Vec<(String, JoinHandle<()>)>,
}

impl Outbox {
    /// Starts a thread for every sink. `closed` hears of a sink whose other end is gone for good.
    pub fn start(
        sinks: Vec<(String, Box<dyn Sink>)>,
        memory: Arc<Memory>,
        stats: Arc<Stats>,
        closed: &Sender<()>,
    ) -> Result<(Outbox, SinkThreads)> {
        let (mut queues, mut threads) = (Vec::new(), Vec::new());
        for (name, sink) in sinks {
            let (sender, receiver) = bounded(QUEUE);
            let (stats, closed) = (stats.clone(), closed.clone());
            let thread = thread::Builder::new()
                .name(format!("sink {name}"))
                .spawn(move || run(sink, &receiver, &stats, &closed))
                .with_context(|| format!("cannot start the thread of the {name} sink"))?;
            queues.push(sender);
            threads.push((name, thread));
        }
        Ok((Outbox { queues, memory, stats, queued: Arc::default(), patient: false }, SinkThreads { threads }))
    }

    /// Bytes that wait for the sinks.
    pub fn queued(&self) -> usize {
        self.queued.load(Ordering::Relaxed)
    }

    /// For a replay: from now on `send` waits for room.
    pub fn be_patient(&mut self) {
        self.patient = true;
    }

    /// Never waits, unless told to be patient. `bytes`: what the records weigh, counted in memory; given back when all sinks are done.
    pub fn send(&self, records: Vec<Record>, bytes: usize) {
        let is_full = || self.queued() > self.memory.ceiling() / 2;
        while self.patient && is_full() {
            thread::sleep(Duration::from_millis(1));
        }
        let has_room = !is_full();
        self.queued.fetch_add(bytes, Ordering::Relaxed);
        let (memory, queued) = (self.memory.clone(), self.queued.clone());
        let batch = Arc::new(Batch { records, bytes, memory, queued });
        for queue in &self.queues {
            let sent = match self.patient {
                true => queue.send(batch.clone()).is_ok(),
                false => has_room && queue.try_send(batch.clone()).is_ok(),
            };
            if !sent {
                self.stats.lost_queue.add(batch.records.len() as u64);
            }
        }
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

/// A sink's thread: ends when all senders are gone and everything is written.
fn run(mut sink: Box<dyn Sink>, queue: &Receiver<Arc<Batch>>, stats: &Stats, closed: &Sender<()>) {
    while let Ok(batch) = queue.recv() {
        let mut written = 0;
        for record in &batch.records {
            if !sink.wants(record) {
                continue;
            }
            match sink.write(record) {
                Ok(()) => written += 1,
                Err(error) => {
                    stats.lost_sink.add(1);
                    note(&error, closed);
                }
            }
        }
        stats.written.add(written);
        drop(batch);
        if queue.is_empty()
            && let Err(error) = sink.flush()
        {
            note(&error, closed);
        }
    }
    if let Err(error) = sink.flush() {
        note(&error, closed);
    }
}

fn note(error: &std::io::Error, closed: &Sender<()>) {
    if error.kind() == std::io::ErrorKind::BrokenPipe {
        // Once is enough: the channel has one place.
        let _ = closed.try_send(());
    }
}
