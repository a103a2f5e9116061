//! Programs at the functions of OpenSSL, GnuTLS and Go that read and write: only in processes that had connections when the
//! agent began, and only as long as one of these is open and was seen to be within TLS.
//!
//! Nobody has seen the handshakes of these connections, so that their records stay shut. All are put in place before
//! anything is captured: a call that goes by in between would be missing in the plaintext, and nobody would know.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use crossbeam_channel::{Receiver, Sender, bounded};

use super::elf;
use super::places::{self, FileId, Mapping};
use crate::bpf::{Kernel, Older, PlainPlace, Probe, SocketKey};
use crate::privileges;
use crate::stats::Stats;

/// A process takes about a dozen probes, of two file descriptors each.
const MAX_PROCESSES: usize = 32;

/// How often it is looked which connections are left.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How often in a row none may be left before the programs go. That is also how long one that was not used since the start
/// is waited for: a proxy keeps many open to servers without TLS, and pays for the programs at each call meanwhile.
const LOOKS: u32 = 10;

/// How long the start waits for the programs.
const ATTACHED_WITHIN: Duration = Duration::from_secs(10);

/// Places in a file, each with its offset.
type Places = Vec<(PlainPlace, u64)>;

/// A process that we are attached to.
struct Watched {
    pid: u32,
    exe: String,
    connections: Vec<Older>,
    /// Looks since the last one that found a connection.
    idle: u32,
    probes: Vec<Probe>,
}

/// The thread that may attach, which waits for the word. See the module.
pub struct Fallback {
    go: Sender<()>,
    done: Receiver<()>,
}

impl Fallback {
    /// To be asked for while the calling thread may attach. `readable`: files that hold TLS, beside `libssl`, which may
    /// have nothing else that we look for. None where there is no thread to be had: all else goes on without.
    pub(super) fn new(kernel: Arc<Kernel>, stats: Arc<Stats>, readable: HashSet<FileId>) -> Option<Fallback> {
        let ((go, may_go), (is_done, done)) = (bounded(0), bounded(0));
        let attacher = Attacher { kernel, stats, readable, watched: Vec::new() };
        let thread = thread::Builder::new().name("fallback".into()).spawn(move || {
            privileges::reduce_or_warn(privileges::PROBES);
            if may_go.recv().is_ok() {
                attacher.run(&is_done);
            }
        });
        match thread {
            Ok(_) => Some(Fallback { go, done }),
            Err(error) => {
                log::warn!("TLS connections that are open now cannot be read: cannot start a thread: {error}");
                None
            }
        }
    }

    /// Attaches to the processes that have older connections. To be called once it is known which processes are left out,
    /// and before anything is captured.
    pub fn attach(self) {
        let is_done = self.go.send(()).is_ok() && self.done.recv_timeout(ATTACHED_WITHIN).is_ok();
        if !is_done {
            log::warn!("TLS connections that are open now cannot be read: no probes within {ATTACHED_WITHIN:?}");
        }
    }
}

struct Attacher {
    kernel: Arc<Kernel>,
    stats: Arc<Stats>,
    readable: HashSet<FileId>,
    watched: Vec<Watched>,
}

impl Attacher {
    /// Takes the programs away when they are not needed any more, and ends then.
    fn run(mut self, done: &Sender<()>) {
        self.attach();
        self.kernel.watch_plain(!self.watched.is_empty());
        // Whoever waited does not any more: what went by meanwhile would be missing.
        if done.send(()).is_err() {
            self.watched.clear();
        }
        thread::sleep(LOOK_EVERY);
        self.add_late();
        while !self.watched.is_empty() {
            self.look();
            thread::sleep(LOOK_EVERY);
        }
        self.kernel.watch_plain(false);
    }

    fn attach(&mut self) {
        let mut files = HashMap::new();
        for (pid, connections) in self.older() {
            let exe = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default().display().to_string();
            if self.watched.len() >= MAX_PROCESSES {
                log::warn!(
                    "TLS connections of {exe} (PID {pid}) that are open now cannot be read: \
                     {MAX_PROCESSES} processes with such connections are watched"
                );
                continue;
            }
            let places = places_of(pid, &self.readable, &mut files);
            if places.is_empty() {
                continue;
            }
            match self.put(pid, &places) {
                Ok(probes) => {
                    let count = connections.len();
                    log::info!(
                        "{exe} (PID {pid}) has {count} connections older than this agent: what is read and written \
                         there within TLS is looked at until they are closed ({} probes)",
                        probes.len()
                    );
                    self.watched.push(Watched { pid, exe, connections, idle: 0, probes });
                }
                Err(error) => {
                    self.kernel.forget_plain(pid);
                    self.stats.lost_probes.add(1);
                    log::warn!("TLS connections of {exe} (PID {pid}) that are open now cannot be read: {error:#}");
                }
            }
        }
    }

    /// By process; without those that secrets were kept of.
    fn older(&self) -> BTreeMap<u32, Vec<Older>> {
        let listed = self.kernel.older().unwrap_or_else(|error| {
            log::warn!("TLS connections that are open now cannot be read: {error:#}");
            Vec::new()
        });
        let mut older: BTreeMap<u32, Vec<Older>> = BTreeMap::new();
        for one in listed {
            if one.pid != std::process::id() && !self.kernel.is_left_out(one.pid) && !self.is_kept(&one) {
                older.entry(one.pid).or_default().push(one);
            }
        }
        older
    }

    /// Whether the agent before this one has kept what it takes to read a connection.
    fn is_kept(&self, older: &Older) -> bool {
        let info = self.kernel.socket(older.socket);
        let key = info.and_then(|info| SocketKey::new(older.socket, &info.local, &info.remote));
        key.is_some_and(|key| self.kernel.kept(&key).is_some())
    }

    /// Puts programs at all places, or at none.
    fn put(&self, pid: u32, files: &[(File, Places)]) -> Result<Vec<Probe>> {
        let mut probes = Vec::new();
        if files.iter().flat_map(|(_, places)| places).any(|(place, _)| *place == PlainPlace::GoRead) {
            self.kernel.watch_go(pid);
        }
        for (file, places) in files {
            // The file that was looked into, whatever its path leads to by now.
            let through = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
            for &(place, offset) in places {
                probes.push(self.kernel.attach_plain(place, pid, &through, offset)?);
            }
        }
        Ok(probes)
    }

    /// Connections that were opened while the programs were put in place, and not seen from their first byte on.
    fn add_late(&mut self) {
        let mut older = self.older();
        for watched in &mut self.watched {
            let late = older.remove(&watched.pid).unwrap_or_default();
            watched
                .connections
                .extend(late.into_iter().filter(|one| !watched.connections.contains(one)).collect::<Vec<_>>());
        }
    }

    fn look(&mut self) {
        let kernel = &self.kernel;
        let is_over = |watched: &mut Watched| {
            let is_idle = !watched.connections.iter().any(|older| kernel.is_plain(older));
            watched.idle = if is_idle { watched.idle + 1 } else { 0 };
            watched.idle >= LOOKS
        };
        for Watched { pid, exe, probes, .. } in self.watched.extract_if(.., is_over).collect::<Vec<_>>() {
            // The kernel takes a tenth of a second for each, in which the process still pays for it. Where calls begin
            // first, so that those that go on are seen to end.
            probes.into_iter().rev().for_each(drop);
            kernel.forget_plain(pid);
            log::info!(
                "{exe} (PID {pid}) uses no such connections within TLS: what is read and written there is not looked at any more"
            );
        }
    }
}

/// The files of a process that hold TLS, each with the places in it. `known`: what was found of files already.
fn places_of(pid: u32, readable: &HashSet<FileId>, known: &mut HashMap<FileId, Places>) -> Vec<(File, Places)> {
    let mut found = Vec::new();
    for Mapping { file: path, name, .. } in places::mappings(pid) {
        let is_library = name.rsplit('/').next().is_some_and(|name| name.starts_with("libssl"));
        let Some((file, id)) = places::open(&path) else { continue };
        if !is_library && !readable.contains(&id) {
            continue;
        }
        let places = known.entry(id).or_insert_with(|| {
            elf::plain_places(&file).unwrap_or_else(|error| {
                log::warn!("TLS connections that are open now cannot be read where {name} is used: {error:#}");
                Vec::new()
            })
        });
        if !places.is_empty() {
            found.push((file, places.clone()));
        }
    }
    found
}
