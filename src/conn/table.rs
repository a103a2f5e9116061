//! The table of connections, shared by all workers: in shards, each under its own short lock.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};

use crossbeam_utils::CachePadded;

use super::connection::{Conn, Env};
use super::{dns, quic};
use crate::bpf::{Data, Event};
use crate::config::Tapped;
use crate::exchange::Nanos;

const SHARDS: usize = 256;

/// Between the event of a call and its arrival in the buffer; a virtual CPU may be taken away in between.
const SLACK: u64 = 50_000_000;

/// How often an open connection is reported.
const REPORT_EVERY: Nanos = 10_000_000_000;

/// After so long without an event a connection is asked for: the event of its end may have been lost.
const ASK_AFTER: u64 = 30_000_000_000;

/// How far each worker has read. A gap is a loss only once all of them have read past it.
#[derive(Debug)]
pub struct Progress(Vec<AtomicU64>);

impl Progress {
    pub fn new(workers: usize) -> Progress {
        Progress((0..workers).map(|_| AtomicU64::new(0)).collect())
    }

    /// This worker has taken in all events of its CPU before `time` (CLOCK_BOOTTIME).
    pub fn reached(&self, worker: usize, time: u64) {
        if let Some(reached) = self.0.get(worker) {
            reached.store(time, Ordering::Release);
        }
    }

    /// The time before which nothing can come any more.
    pub fn settled(&self) -> u64 {
        let least = self.0.iter().map(|time| time.load(Ordering::Acquire)).min();
        least.unwrap_or(0).saturating_sub(SLACK)
    }
}

/// Spreads ids over a table. They are made by our kernel programs, so that no peer can choose ones that collide, and a
/// multiplication is enough.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write_u64(&mut self, id: u64) {
        // 2^64 over the golden ratio (Knuth, The Art of Computer Programming, 6.4). What is best mixed are the high bits;
        // the table looks at both ends.
        self.0 = (self.0 ^ id).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u64(byte.into()));
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[derive(Default)]
struct Shard {
    conns: HashMap<u64, Conn, BuildHasherDefault<IdHasher>>,
    /// Ids of connections that only time lets go on; each once.
    waiting: Vec<u64>,
}

pub struct Table {
    /// Workers lock them at each event: each has lines of the cache of its own.
    shards: Vec<CachePadded<Mutex<Shard>>>,
    /// Connections in all shards.
    len: AtomicUsize,
}

impl Default for Table {
    fn default() -> Table {
        Table { shards: (0..SHARDS).map(|_| CachePadded::default()).collect(), len: AtomicUsize::new(0) }
    }
}

impl Table {
    /// Takes in one event.
    pub fn handle(&self, event: Event, env: &mut Env) {
        match event {
            Event::Data(data) => self.data(&data, env),
            Event::Plain { data, library, is_doubtful } => {
                self.with(data.connection, data.socket, env, |conn, env| {
                    conn.plain(&data, library, is_doubtful, env);
                });
            }
            Event::Open(opened) => {
                self.with(opened.info.connection, opened.info.socket, env, |conn, env| {
                    conn.latest = conn.latest.max(opened.time);
                    conn.open(&opened.info, env);
                    conn.advance(env);
                });
            }
            Event::End { time, connection, flow, position } => {
                let shard = &mut *self.shard(connection);
                if let Some(conn) = shard.conns.get_mut(&connection) {
                    conn.end(flow, position, time, env);
                    note_waiting(&mut shard.waiting, conn, connection);
                }
            }
            Event::Close { time, info, final_positions } => {
                self.with(info.connection, info.socket, env, |conn, env| {
                    conn.close(&info, final_positions, time, env);
                    conn.advance(env);
                });
            }
            Event::Dns { time, info, moved, message } => dns::answered(time, &info, moved, message, env),
            Event::Quic { owner, .. } => quic::began(&owner, env),
            Event::Process { time, is_exec, info } => {
                env.secrets.libraries.began(info.owner.pid, time);
                let process = env.processes.learn(&info, time, is_exec);
                let filters = &env.settings.tap.filters;
                let verdict = filters.verdict(&process);
                // That it is tapped is worth telling, too: where that is known, nobody asks at each call.
                if filters.is_any() && verdict != Tapped::NotYet {
                    env.control.judge(&info.owner, verdict == Tapped::No);
                }
            }
            Event::Exit { time, pid, started } => env.processes.exited(pid, started, time),
            Event::Secret { time, pid, library, secret } => {
                if let Some(library) = library {
                    env.secrets.libraries.saw(pid, library, time);
                }
                env.secrets.put(time, secret);
            }
        }
    }

    fn data(&self, data: &Data, env: &mut Env) {
        self.with(data.connection, data.socket, env, |conn, env| conn.data(data, env));
    }

    /// Lets connections of this worker's share of the table go on, as far as time has settled things.
    pub fn settle(&self, worker: usize, workers: usize, env: &mut Env) {
        for shard in self.share(worker, workers) {
            let shard = &mut *lock(shard);
            for id in std::mem::take(&mut shard.waiting) {
                let Some(conn) = shard.conns.get_mut(&id) else { continue };
                conn.is_noted = false;
                if conn.is_awaiting() {
                    conn.identify(env);
                } else if !conn.is_known() && conn.latest <= env.settled {
                    look_up(conn, id, env);
                }
                if conn.is_over(env.settled) || conn.ignored && !conn.is_known() && !conn.is_awaiting() {
                    self.remove(shard, id, env);
                    continue;
                }
                conn.advance(env);
                note_waiting(&mut shard.waiting, conn, id);
            }
        }
    }

    /// Once a second: reports open connections, and asks for those that may have gone without a word.
    pub fn tick(&self, worker: usize, workers: usize, now: u64, env: &mut Env) {
        let wall = env.wall(now);
        if worker == 0 {
            env.secrets.expire(env.settled);
        }
        for shard in self.share(worker, workers) {
            let mut shard = lock(shard);
            let mut gone = Vec::new();
            for (&id, conn) in &mut shard.conns {
                if conn.latest.saturating_add(ASK_AFTER) < now && conn.latest <= env.settled {
                    match env.control.socket(conn.socket) {
                        Some(info) if info.connection == id => conn.latest = now,
                        _ => {
                            gone.push(id);
                            continue;
                        }
                    }
                }
                conn.keep_again(now, env);
                if conn.is_known() && conn.reported().saturating_add(REPORT_EVERY) <= wall {
                    conn.report_open(now, env);
                    conn.report(wall, false, None, env);
                }
            }
            for id in gone {
                self.remove(&mut shard, id, env);
            }
        }
    }

    /// Drops the bodies of the oldest exchanges until `excess` bytes are free.
    pub fn evict(&self, excess: usize, env: &mut Env) {
        let mut oldest: Vec<(Nanos, u64)> = Vec::new();
        for shard in &self.shards {
            let shard = lock(shard);
            oldest.extend(shard.conns.iter().filter_map(|(&id, conn)| Some((conn.oldest_body()?, id))));
        }
        oldest.sort_unstable();
        let mut freed = 0;
        for (_, id) in oldest {
            if freed >= excess {
                return;
            }
            if let Some(conn) = self.shard(id).conns.get_mut(&id) {
                freed += conn.drop_bodies(env);
            }
        }
    }

    /// Events found no room in a buffer. Where others follow they show the gap; for those that were the last of a message,
    /// the kernel is asked where they ended. `now`: asked after the kernel is, since what it tells of was lost by then, and
    /// maybe just then.
    pub fn find_losses(&self, worker: usize, workers: usize, now: impl Fn() -> u64, env: &mut Env) {
        for shard in self.share(worker, workers) {
            let shard = &mut *lock(shard);
            for (&id, conn) in shard.conns.iter_mut().filter(|(_, conn)| !conn.ignored) {
                if let Some(info) = env.control.socket(conn.socket).filter(|info| info.connection == id) {
                    conn.lost(info.lost, now(), env);
                    note_waiting(&mut shard.waiting, conn, id);
                }
            }
        }
    }

    /// The agent stops: everything open goes out as it is.
    pub fn finish(&self, env: &mut Env) {
        for shard in &self.shards {
            for (_, mut conn) in std::mem::take(&mut lock(shard).conns) {
                self.len.fetch_sub(1, Ordering::Relaxed);
                let is_over = conn.is_over(env.settled);
                conn.finish(env, !is_over);
            }
        }
    }

    /// Connections known.
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn with(&self, id: u64, socket: u64, env: &mut Env, work: impl FnOnce(&mut Conn, &mut Env)) {
        let shard = &mut *self.shard(id);
        let conn = shard.conns.entry(id).or_insert_with(|| {
            self.len.fetch_add(1, Ordering::Relaxed);
            Conn::new(id, socket)
        });
        work(conn, env);
        note_waiting(&mut shard.waiting, conn, id);
    }

    fn remove(&self, shard: &mut Shard, id: u64, env: &mut Env) {
        if let Some(mut conn) = shard.conns.remove(&id) {
            self.len.fetch_sub(1, Ordering::Relaxed);
            conn.finish(env, false);
        }
    }

    fn shard(&self, id: u64) -> MutexGuard<'_, Shard> {
        // Ids are a time and a CPU: the low bits of the time differ.
        lock(&self.shards[(id >> 10) as usize % SHARDS])
    }

    fn share(&self, worker: usize, workers: usize) -> impl Iterator<Item = &CachePadded<Mutex<Shard>>> {
        self.shards.iter().skip(worker).step_by(workers.max(1))
    }
}

fn note_waiting(waiting: &mut Vec<u64>, conn: &mut Conn, id: u64) {
    if conn.is_waiting && !conn.is_noted {
        conn.is_noted = true;
        waiting.push(id);
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().expect("no thread panics with a shard locked")
}

/// The event of its opening was lost: the kernel may still have it.
fn look_up(conn: &mut Conn, id: u64, env: &mut Env) {
    match env.control.socket(conn.socket) {
        Some(info) if info.connection == id => conn.open(&info, env),
        _ => {
            env.stats.lost_connections.add(1);
            conn.ignored = true;
        }
    }
}
