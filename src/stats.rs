//! What was seen, written and lost, by cause. Every loss on the way from the kernel to the sinks is counted here or in
//! the kernel's own counters, and shown when the agent ends.

use std::fmt;
use std::sync::atomic::{AtomicIsize, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::plugin::http_metrics::HttpMetrics;

pub mod traffic;
pub mod uncovered;

/// A number that several threads add to.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down, the sum of what several contribute.
#[derive(Debug, Default)]
pub struct Level(AtomicU64);

impl Level {
    /// A contribution was `before` and is `after`.
    pub fn adjust(&self, before: u64, after: u64) {
        // A number below zero is one that wraps around, and back again.
        self.0.fetch_add(after.wrapping_sub(before), Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Default)]
pub struct Stats {
    /// Records that a sink took.
    pub written: Count,
    /// Bytes of HTTP streams that were moved but did not arrive here.
    pub lost_bytes: Count,
    /// Events that were no event.
    pub bad_events: Count,
    /// Connections whose opening was lost and that were gone when asked for.
    pub lost_connections: Count,
    /// Processes, or the names of one, that nobody had the time to find out: known by their ids only.
    pub lost_identities: Count,
    /// Functions of TLS libraries that a program is attached to.
    pub probes: Level,
    /// Functions of TLS libraries that no program could be attached to.
    pub lost_probes: Count,
    /// Connections within TLS that could not be opened.
    pub uncovered: uncovered::Uncovered,
    /// Raw events that the recording could not take in time.
    pub lost_recording: Count,
    /// Lines of the key log that could not be written, or not in time.
    pub lost_keylog: Count,
    /// What the plugin `http_metrics` counts.
    pub http: HttpMetrics,
    /// What became of records, for each store by itself.
    stores: Mutex<Vec<Arc<StoreStats>>>,
    /// Configurations that were read while the agent ran, and those of them that were refused.
    pub reloads: Count,
    pub refused_reloads: Count,
    /// Exchanges that ended, whatever the rules made of them.
    pub traffic: traffic::Traffic,
}

/// What became of the records for one store.
#[derive(Debug, Default)]
pub struct StoreStats {
    pub name: String,
    /// Records that it took.
    pub written: Count,
    /// Records for which its queue had no room.
    pub lost_queue: Count,
    /// Records that it failed to write.
    pub lost_sink: Count,
    /// Records that were dropped, or found damaged, while they waited on disk.
    pub lost_spool: Count,
    /// Records that were left when the time for the last ones was over.
    pub lost_end: Count,
    /// How often something was not taken and will be sent again.
    pub retries: Count,
    /// What waits on disk: batches, the one that is being written included, and bytes.
    pub spool_batches: Level,
    pub spool_bytes: Level,
}

impl StoreStats {
    pub fn lost(&self) -> u64 {
        self.lost_queue.get() + self.lost_sink.get() + self.lost_spool.get() + self.lost_end.get()
    }
}

impl Stats {
    /// The counters of a store, made where there are none of that name.
    pub fn store(&self, name: &str) -> Arc<StoreStats> {
        let mut stores = self.stores.lock().expect("no thread panics with the stores locked");
        if let Some(store) = stores.iter().find(|store| store.name == name) {
            return store.clone();
        }
        let store = Arc::new(StoreStats { name: name.to_owned(), ..StoreStats::default() });
        stores.push(store.clone());
        store
    }

    /// Those of all stores, in the order in which they were started.
    pub fn stores(&self) -> Vec<Arc<StoreStats>> {
        self.stores.lock().expect("no thread panics with the stores locked").clone()
    }

    /// Exchanges that ended, whatever the rules made of them.
    pub fn seen(&self) -> u64 {
        self.traffic.all()
    }

    /// A count of losses, summed over the stores.
    pub fn lost(&self, count: fn(&StoreStats) -> &Count) -> u64 {
        self.stores().iter().map(|store| count(store).get()).sum()
    }

    /// One line of `key=value`; `lost` is the sum of what users miss: records.
    pub fn line(&self, kernel: &crate::bpf::Counters) -> String {
        let mut line = String::new();
        self.write(&mut line, kernel).expect("a string takes everything");
        line
    }

    fn write(&self, out: &mut impl fmt::Write, kernel: &crate::bpf::Counters) -> fmt::Result {
        let lost_by_stores: u64 = self.stores().iter().map(|store| store.lost()).sum();
        let lost = lost_by_stores + kernel.lost_data + kernel.lost_connections;
        write!(out, "counters seen={} written={} lost={lost}", self.seen(), self.written.get())?;
        let details = [
            ("lost.buffer_events", kernel.lost_data),
            ("lost.connection_events", kernel.lost_connections),
            ("lost.process_events", kernel.lost_processes),
            ("lost.dns_events", kernel.lost_dns),
            ("lost.secret_events", kernel.lost_secrets),
            ("lost.bytes", self.lost_bytes.get()),
            ("lost.unknown_connections", self.lost_connections.get()),
            ("lost.identities", self.lost_identities.get()),
            ("lost.queue_full", self.lost(|store| &store.lost_queue)),
            ("lost.sink_failed", self.lost(|store| &store.lost_sink)),
            ("tls.uncovered", self.uncovered.total()),
            ("lost.spool", self.lost(|store| &store.lost_spool)),
            ("lost.at_end", self.lost(|store| &store.lost_end)),
            ("lost.recording", self.lost_recording.get()),
            ("lost.keylog", self.lost_keylog.get()),
            ("lost.probes", self.lost_probes.get()),
            ("lost.bad_events", self.bad_events.get()),
            ("kernel.calls", kernel.calls),
            ("kernel.events", kernel.events),
            ("kernel.process_events", kernel.process_events),
            ("kernel.skipped", kernel.skipped),
            ("kernel.left_out", kernel.left_out),
            ("kernel.unreadable", kernel.faults),
            ("kernel.table_full", kernel.table_full),
            ("kernel.missed", kernel.missed),
        ];
        for (name, value) in details {
            write!(out, " {name}={value}")?;
        }
        for store in self.stores() {
            let (name, retries) = (&store.name, store.retries.get());
            write!(
                out,
                " {name}.written={} {name}.lost={} {name}.retries={retries}",
                store.written.get(),
                store.lost()
            )?;
        }
        Ok(())
    }
}

/// Bytes of captured data held in memory, against a ceiling.
#[derive(Debug)]
pub struct Memory {
    /// Below zero for moments: what one worker counts in late, another has given back.
    held: AtomicIsize,
    ceiling: usize,
}

impl Memory {
    pub fn new(ceiling: usize) -> Memory {
        Memory { held: AtomicIsize::new(0), ceiling }
    }

    /// For one worker's pass.
    pub fn account(&self) -> Account<'_> {
        Account { memory: self, change: 0 }
    }

    pub fn release(&self, bytes: usize) {
        self.held.fetch_sub(bytes as isize, Ordering::Relaxed);
    }

    pub fn ceiling(&self) -> usize {
        self.ceiling
    }

    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed).max(0) as usize
    }
}

/// A worker's part in [`Memory`]. What it counts in and out is told to the others in lots and in the end: a number that
/// two CPUs write to at each event would cost them more than the event.
#[derive(Debug)]
pub struct Account<'a> {
    memory: &'a Memory,
    /// Not told yet.
    change: isize,
}

impl Account<'_> {
    /// What is not told to others is less, in bytes.
    const LOT: usize = 64 << 10;

    /// Counts bytes in; false, and nothing counted, when a quarter above the ceiling is reached: eviction is behind.
    pub fn reserve(&mut self, bytes: usize) -> bool {
        let ceiling = self.memory.ceiling;
        if self.held().saturating_add(bytes) > ceiling + ceiling / 4 {
            return false;
        }
        self.adjust(0, bytes);
        true
    }

    pub fn release(&mut self, bytes: usize) {
        self.adjust(bytes, 0);
    }

    /// Counts in what is held for a moment, whatever the ceiling: `before` bytes have become `after`.
    pub fn adjust(&mut self, before: usize, after: usize) {
        self.change += after as isize - before as isize;
        if self.change.unsigned_abs() >= Account::LOT {
            self.tell();
        }
    }

    /// How many bytes to free to be well below the ceiling; 0 while it is not reached.
    pub fn excess(&self) -> usize {
        let (held, ceiling) = (self.held(), self.memory.ceiling);
        if held > ceiling { held - ceiling * 7 / 8 } else { 0 }
    }

    fn held(&self) -> usize {
        (self.memory.held.load(Ordering::Relaxed) + self.change).max(0) as usize
    }

    fn tell(&mut self) {
        self.memory.held.fetch_add(std::mem::take(&mut self.change), Ordering::Relaxed);
    }
}

impl Drop for Account<'_> {
    fn drop(&mut self) {
        self.tell();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_has_a_ceiling() {
        let memory = Memory::new(1000);
        let mut account = memory.account();
        assert!(account.reserve(1000));
        assert_eq!(account.excess(), 0);
        assert!(account.reserve(250));
        assert_eq!(account.excess(), 375);
        assert!(!account.reserve(1));
        account.release(375);
        assert_eq!(account.excess(), 0);
        drop(account);
        assert_eq!(memory.held(), 875);
    }

    #[test]
    fn workers_hear_of_each_other_lot_by_lot() {
        let memory = Memory::new(Account::LOT);
        let (mut one, mut other) = (memory.account(), memory.account());
        one.adjust(0, Account::LOT - 1);
        assert_eq!((memory.held(), other.excess()), (0, 0));
        one.adjust(0, 2);
        assert_eq!(memory.held(), Account::LOT + 1);
        assert!(other.excess() > 0);
        other.release(Account::LOT);
        assert_eq!((memory.held(), one.excess()), (1, 0));
        // What is given back before it was counted in.
        other.release(10);
        drop(other);
        assert_eq!(memory.held(), 0);
        one.adjust(0, 9);
        drop(one);
        assert_eq!(memory.held(), 0);
    }
}
