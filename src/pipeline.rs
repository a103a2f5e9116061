//! From an event's bytes to records on their way to the sinks: the same for a live worker and for a replay.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use crossbeam_utils::CachePadded;

use crate::bpf::Event;
use crate::config::Settings;
use crate::conn::{Control, Env, Progress, Table};
use crate::identity::Processes;
use crate::probes::Watch;
use crate::sink::queue::{Outbox, Packer};
use crate::stats::{Memory, Stats};
use crate::tls::Secrets;

/// Everything that workers share.
pub struct Pipeline {
    pub settings: RwLock<Arc<Settings>>,
    pub table: Table,
    pub processes: Arc<Processes>,
    pub control: Arc<dyn Control>,
    pub stats: Arc<Stats>,
    pub memory: Arc<Memory>,
    pub secrets: Secrets,
    pub progress: Progress,
    pub outbox: Outbox,
    pub watch: Watch,
    /// Exchanges numbered so far, by all workers or by each.
    numbered: Vec<CachePadded<AtomicU64>>,
    first_id: u64,
    /// What to add to CLOCK_BOOTTIME to get nanoseconds since the epoch.
    boot_to_wall: AtomicI64,
}

/// The wall clock must be set by as much before times follow it: reading two clocks differs by less.
const CLOCK_STEP: i64 = 1_000_000;

impl Pipeline {
    pub fn new(
        settings: Settings,
        control: Arc<dyn Control>,
        stats: Arc<Stats>,
        memory: Arc<Memory>,
        outbox: Outbox,
        workers: usize,
        boot_to_wall: i64,
    ) -> Pipeline {
        Pipeline {
            settings: RwLock::new(Arc::new(settings)),
            table: Table::default(),
            processes: Arc::default(),
            control,
            stats,
            memory,
            secrets: Secrets::new(),
            progress: Progress::new(workers),
            outbox,
            watch: Watch::default(),
            numbered: vec![CachePadded::default()],
            first_id: 1,
            boot_to_wall: AtomicI64::new(boot_to_wall),
        }
    }

    /// Who is asked whose connections are; without, they are known by the process's id only.
    pub fn with_processes(self, processes: Arc<Processes>) -> Pipeline {
        Pipeline { processes, ..self }
    }

    /// Who is told where libraries of TLS may be met.
    pub fn with_watch(self, watch: Watch) -> Pipeline {
        Pipeline { watch, ..self }
    }

    /// With secrets that tell a key log.
    pub fn with_secrets(self, secrets: Secrets) -> Pipeline {
        Pipeline { secrets, ..self }
    }

    /// Numbers exchanges from there on, instead of from 1, and lets each of so many workers have numbers of its own.
    pub fn with_ids_from(self, first_id: u64, workers: usize) -> Pipeline {
        Pipeline { first_id, numbered: (0..workers.max(1)).map(|_| CachePadded::default()).collect(), ..self }
    }

    /// The clocks' difference as before, unless the wall clock was set: so that times of one exchange fit together.
    pub fn follow_clock(&self, boot_to_wall: i64) {
        if self.boot_to_wall.load(Ordering::Relaxed).abs_diff(boot_to_wall) > CLOCK_STEP.unsigned_abs() {
            self.boot_to_wall.store(boot_to_wall, Ordering::Relaxed);
        }
    }

    /// Runs `work` with everything that a pass of that worker needs, then sends what came of it.
    pub fn pass(&self, worker: usize, settled: u64, work: impl FnOnce(&mut Pass)) {
        let settings = self.settings.read().expect("no thread panics with the settings locked").clone();
        let (own, of) = (worker % self.numbered.len(), self.numbered.len() as u64);
        let mut next_id = || self.numbered[own].fetch_add(1, Ordering::Relaxed) * of + own as u64 + self.first_id;
        let env = Env {
            settings: &settings,
            processes: &self.processes,
            control: &*self.control,
            stats: &self.stats,
            memory: self.memory.account(),
            traffic: self.stats.traffic.tally(),
            secrets: &self.secrets,
            boot_to_wall: self.boot_to_wall.load(Ordering::Relaxed),
            settled,
            next_id: &mut next_id,
            packer: Some(self.outbox.packer()),
            records: Vec::new(),
            record_bytes: 0,
        };
        let mut pass = Pass { pipeline: self, env };
        work(&mut pass);
        pass.env.packer.iter_mut().for_each(Packer::send);
    }
}

/// One round of a worker: the events that were in its buffer, and what they let go on.
pub struct Pass<'a> {
    pipeline: &'a Pipeline,
    pub env: Env<'a>,
}

impl Pass<'_> {
    /// Takes in one event as the kernel wrote it.
    pub fn event(&mut self, bytes: &[u8]) {
        match Event::parse(bytes) {
            Some(event) => {
                self.pipeline.watch.see(&event);
                self.pipeline.table.handle(event, &mut self.env);
            }
            None => self.env.stats.bad_events.add(1),
        }
    }

    /// Lets a worker's share of the connections go on where all events up to `settled` have been taken in.
    pub fn settle(&mut self, worker: usize, workers: usize, settled: u64) {
        self.env.settled = settled;
        self.pipeline.table.settle(worker, workers, &mut self.env);
        // What waits for the sinks is out of the table's hands.
        let excess = self.env.memory.excess().saturating_sub(self.pipeline.outbox.queued());
        if excess > 0 {
            self.pipeline.table.evict(excess, &mut self.env);
        }
    }
}

#[cfg(test)]
mod tests;
