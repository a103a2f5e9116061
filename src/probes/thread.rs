//! The thread that looks into files and attaches.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::elf::{self, Found};
use super::fallback::Fallback;
use super::places::{self, FileId};
use super::watch::{Shared, Told, Watch};
use crate::bpf::{Function, Kernel, Probe};
use crate::config::{Filters, Strategy};
use crate::identity::proc;
use crate::privileges;
use crate::stats::Stats;

/// A probe takes two file descriptors.
const MAX_PROBES: usize = 256;

/// How often it is looked, at most, which files nobody has mapped any more, where no further program can be put anywhere.
const FORGET_EVERY: Duration = Duration::from_secs(60);

/// More files without TLS functions than this are not remembered: all are forgotten, which costs looks.
const MAX_FILES: usize = 65_536;

/// When a new program has its libraries mapped, and those that it loads while it starts.
const MAPPED_AFTER: [Duration; 2] = [Duration::from_millis(10), Duration::from_secs(1)];

/// Looks at mappings that are to come.
const MAX_LATER: usize = 8192;

/// For so long the libraries in a root are taken to be those that were found, and mapped files to be those of their
/// number.
const FRESH_FOR: Duration = Duration::from_secs(10);

/// How often the thread looks at everything, at most, where it could not be told all.
const SCAN_EVERY: Duration = Duration::from_secs(10);

/// Where the kernel says that it can attach to functions of files.
const SUPPORT: &str = "/sys/bus/event_source/devices/uprobe/type";

/// Finds TLS libraries and attaches to them.
pub struct Probes {
    kernel: Arc<Kernel>,
    stats: Arc<Stats>,
    watch: Option<Watch>,
    told: Receiver<Told>,
    shared: Arc<Shared>,
    /// Files that we are attached to: that keeps their inodes from becoming another file's.
    attached: HashMap<FileId, Vec<Probe>>,
    /// When those of them were let go that nobody has mapped.
    forgot: Option<Instant>,
    /// Files that there is nothing to attach to in, or for which there was no room.
    others: HashSet<FileId>,
    /// Which programs are not looked at: nobody reads their traffic, and a program of ours costs who runs into it.
    filters: Filters,
    /// Executables that filters name: they may run again.
    named: HashSet<FileId>,
    /// Device and inode of mapped files looked at lately, without opening them.
    mapped: HashSet<(String, u64)>,
    mapped_since: Instant,
    /// When libraries were looked for: by mount namespace, and device and inode of the root in it.
    roots: HashMap<(u32, u64, u64), Instant>,
    later: VecDeque<(Instant, u32)>,
    /// The mount namespace of the first process that is seen from here.
    machine: Option<u32>,
    is_full: bool,
    /// Files that hold TLS which can be read where it reads and writes.
    readable: HashSet<FileId>,
    /// All TLS of OpenSSL 3 that was met shows where it hands its secrets to a key log. Then nothing is put where the
    /// library beneath it derives keys.
    by_key_log: bool,
}

impl Probes {
    pub fn new(kernel: Arc<Kernel>, stats: Arc<Stats>) -> Probes {
        let (watch, told, shared) = Watch::new();
        // The key log's labels are read by nobody else where there is no key log: they may have to be fetched.
        let by_key_log = kernel.fetches_memory();
        Probes {
            by_key_log,
            kernel,
            stats,
            watch: Some(watch),
            told,
            shared,
            attached: HashMap::new(),
            forgot: None,
            others: HashSet::new(),
            filters: Filters::default(),
            named: HashSet::new(),
            mapped: HashSet::new(),
            mapped_since: Instant::now(),
            roots: HashMap::new(),
            later: VecDeque::new(),
            machine: proc::namespace(1, "mnt"),
            is_full: false,
            readable: HashSet::new(),
        }
    }

    /// What reads connections that are older than the agent. To be asked for after the first scan.
    pub fn fallback(&self) -> Option<Fallback> {
        Fallback::new(self.kernel.clone(), self.stats.clone(), self.readable.clone())
    }

    /// For the workers. Answers the same once; a second one tells nobody.
    pub fn watch(&mut self) -> Watch {
        self.watch.take().unwrap_or_default()
    }

    /// Attaches to what processes have mapped now, and to the libraries of this machine that none has.
    pub fn scan(&mut self) {
        if !is_supported() {
            return;
        }
        self.look_for_libraries(Path::new("/"));
        for pid in self.looked_at() {
            self.look_at_mappings(pid);
        }
    }

    /// The processes whose programs are not left out, as far as their names can be told.
    fn looked_at(&self) -> Vec<u32> {
        let is_left_out = |exe: &str| !exe.is_empty() && self.filters.leaves_out(exe);
        proc::pids().into_iter().filter(|&pid| !is_left_out(&proc::exe(pid))).collect()
    }

    /// From now on looks at no program that these leave out. Attaches to the executables that they keep to, also where they
    /// do not run yet: they may be what holds a library.
    pub fn keep_to(&mut self, filters: &Filters) {
        self.filters = filters.clone();
        self.named.clear();
        if !is_supported() {
            return;
        }
        for exe in filters.only.iter().filter(|exe| matches!(exe.strategy, Strategy::Exact)) {
            let path = PathBuf::from(format!("/proc/1/root{}", exe.exe));
            self.look_at(&path, Some(&exe.exe));
            self.named.extend(places::open(&path).map(|(_, id)| id));
        }
    }

    /// Follows what workers tell until there are none. Nobody waits for the thread: a file may keep it for any time.
    pub fn start(self) -> Result<()> {
        if !is_supported() {
            log::warn!("TLS cannot be read: this kernel has no uprobes (CONFIG_UPROBE_EVENTS); {SUPPORT} is not there");
            return Ok(());
        }
        let thread = thread::Builder::new().name("probes".into()).spawn(move || {
            privileges::reduce_or_warn(privileges::PROBES);
            self.run();
        });
        thread.context("cannot start the thread that finds TLS libraries")?;
        Ok(())
    }

    fn run(mut self) {
        // What was mapped between the first look and the first event was told by neither.
        self.scan();
        let mut next_scan = Instant::now() + SCAN_EVERY;
        loop {
            let now = Instant::now();
            let next = self.later.front().map_or(SCAN_EVERY, |(due, _)| due.saturating_duration_since(now));
            match self.told.recv_timeout(next) {
                Ok(told) => self.take(told),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let filters = self.shared.filters().take();
            if let Some(filters) = filters {
                self.keep_to(&filters);
                self.scan();
                // Some may be taken in whose libraries are not loaded yet.
                for pid in self.looked_at() {
                    self.look_at_root(pid, proc::namespace(pid, "mnt").unwrap_or_default());
                }
            }
            let now = Instant::now();
            while let Some(&(_, pid)) = self.later.front().filter(|(due, _)| *due <= now) {
                self.later.pop_front();
                self.look_at_mappings(pid);
            }
            if now >= next_scan && self.shared.missed.swap(false, Ordering::AcqRel) {
                next_scan = now + SCAN_EVERY;
                self.scan();
            }
        }
    }

    fn take(&mut self, told: Told) {
        match told {
            Told::Executed { exe, .. } if self.filters.leaves_out(&exe) => {}
            Told::Executed { pid, mount_namespace, exe } => {
                let is_found = self.look_at(&PathBuf::from(format!("/proc/{pid}/exe")), Some(&exe));
                // It has ended already: for the next one, which sees the same file where it is of the machine itself.
                if !is_found && Some(mount_namespace) == self.machine {
                    self.look_at(&PathBuf::from(format!("/proc/1/root{exe}")), Some(&exe));
                }
                self.look_at_root(pid, mount_namespace);
                self.look_later(pid);
            }
            Told::Connected { pid } => self.look_at_mappings(pid),
            Told::Filtered => {}
        }
    }

    fn look_later(&mut self, pid: u32) {
        let now = Instant::now();
        if self.later.len() + MAPPED_AFTER.len() > MAX_LATER {
            self.shared.missed.store(true, Ordering::Release);
            return;
        }
        for after in MAPPED_AFTER {
            let due = now + after;
            let place = self.later.partition_point(|(other, _)| *other <= due);
            self.later.insert(place, (due, pid));
        }
    }

    fn look_at_root(&mut self, pid: u32, mount_namespace: u32) {
        let root = PathBuf::from(format!("/proc/{pid}/root"));
        let Ok(metadata) = fs::metadata(&root) else { return };
        let now = Instant::now();
        let key = (mount_namespace, metadata.dev(), metadata.ino());
        if self.roots.get(&key).is_some_and(|since| now.duration_since(*since) < FRESH_FOR) {
            return;
        }
        self.roots.retain(|_, since| now.duration_since(*since) < FRESH_FOR);
        self.roots.insert(key, now);
        self.look_for_libraries(&root);
    }

    fn look_for_libraries(&mut self, root: &Path) {
        for library in places::libraries(root) {
            self.look_at(&library, None);
        }
    }

    fn look_at_mappings(&mut self, pid: u32) {
        // An inode number may be another file's by now.
        if self.mapped_since.elapsed() > FRESH_FOR || self.mapped.len() > MAX_FILES {
            self.mapped.clear();
            self.mapped_since = Instant::now();
        }
        for mapping in places::mappings(pid) {
            let key = (mapping.device, mapping.inode);
            // Where the process has ended before its file could be opened, the next one's may be.
            if !self.mapped.contains(&key) && self.look_at(&mapping.file, Some(&mapping.name)) {
                self.mapped.insert(key);
            }
        }
    }

    /// Attaches to the functions of a file, once. `name`: what to call it, where its path is none that a user knows.
    /// Answers whether the file could be looked at.
    fn look_at(&mut self, path: &Path, name: Option<&str>) -> bool {
        let Some((file, id)) = places::open(path) else { return false };
        if !self.attached.contains_key(&id) && !self.others.contains(&id) {
            self.look_into(&file, id, || name.map_or_else(|| path.display().to_string(), str::to_owned));
        }
        true
    }

    fn look_into(&mut self, file: &File, id: FileId, name: impl Fn() -> String) {
        let found = elf::find(file).unwrap_or_else(|error| {
            log::debug!("cannot look for TLS functions in {}: {error}", name());
            Found::default()
        });
        let functions = self.choose(found, id, &name);
        let is_full = !self.has_room(functions.len());
        // Making room may have led here already.
        if self.attached.contains_key(&id) {
            return;
        }
        if is_full {
            self.say_full(&name());
        }
        if functions.is_empty() || is_full {
            if self.others.len() >= MAX_FILES {
                self.others.clear();
            }
            self.others.insert(id);
            return;
        }
        let (wanted, has_key_log) =
            (functions.len(), functions.iter().any(|(what, _)| *what == Function::OpensslKeyLog));
        let attach = |(function, offset)| self.attach(function, file, offset, &name());
        let probes: Vec<Probe> = functions.into_iter().filter_map(attach).collect();
        let is_whole = probes.len() == wanted;
        self.attached.insert(id, probes);
        if !is_whole && has_key_log {
            self.look_at_derivations();
        }
    }

    /// Whether so many more probes may be put in place; lets those go that nobody needs where they may not.
    fn has_room(&mut self, wanted: usize) -> bool {
        let count = |attached: &HashMap<FileId, Vec<Probe>>| attached.values().map(Vec::len).sum::<usize>();
        if count(&self.attached) + wanted <= MAX_PROBES {
            return true;
        }
        if self.forgot.is_some_and(|at| at.elapsed() < FORGET_EVERY) {
            return false;
        }
        self.forgot = Some(Instant::now());
        let mapped: HashSet<FileId> = self.looked_at().into_iter().flat_map(places::mapped_files).collect();
        let before = count(&self.attached);
        let named = &self.named;
        let is_unused = |id: &FileId, _: &mut Vec<Probe>| !mapped.contains(id) && !named.contains(id);
        let unused: Vec<_> = self.attached.extract_if(is_unused).collect();
        self.stats.probes.adjust(before as u64, count(&self.attached) as u64);
        log::info!("{} files with TLS functions that nobody has mapped any more are not looked at", unused.len());
        // The kernel takes its time for each of them.
        let let_go = thread::Builder::new().name("letting go".into()).spawn(move || drop(unused));
        if let Err(error) = let_go {
            log::debug!("no thread to let go of probes: {error}");
        }
        self.is_full = false;
        self.look_anew();
        // Those of the machine itself may be needed at any time.
        self.look_for_libraries(Path::new("/"));
        count(&self.attached) + wanted <= MAX_PROBES
    }

    /// Of what was found in a file, where programs are to be put. Each call at which OpenSSL 3 derives something costs its
    /// process a trap, more than twenty a handshake; of secrets for a key log there are five.
    fn choose(&mut self, found: Found, id: FileId, name: &impl Fn() -> String) -> Vec<(Function, u64)> {
        let Found { mut functions, has_openssl } = found;
        let has = |wanted: Function| functions.iter().any(|(function, _)| *function == wanted);
        let has_key_log = has(Function::OpensslKeyLog);
        let derives = has(Function::OpensslDerive) || has(Function::OpensslCtrl);
        if derives || has_openssl || has(Function::GnutlsPrf) || has(Function::GoKeyLog) {
            self.readable.insert(id);
        }
        if self.by_key_log && has_openssl && !has_key_log && !derives {
            log::debug!("where {} hands its secrets to a key log cannot be told: each derivation is looked at", name());
            self.look_at_derivations();
        }
        // What is derived in the same file is seen there, one way or the other.
        let unwanted = match (self.by_key_log, has_openssl) {
            (true, true) if !has_key_log => None,
            (true, _) => Some(Function::OpensslDerive),
            (false, _) => Some(Function::OpensslKeyLog),
        };
        functions.retain(|(function, _)| Some(*function) != unwanted);
        functions
    }

    /// From now on, OpenSSL 3 is looked at where it derives something: also what was passed over so far.
    fn look_at_derivations(&mut self) {
        self.by_key_log = false;
        self.look_anew();
        self.scan();
    }

    /// What was looked at without attaching to it is to be looked at again.
    fn look_anew(&mut self) {
        self.others.clear();
        self.mapped.clear();
        self.roots.clear();
    }

    fn attach(&self, function: Function, file: &File, offset: u64, name: &str) -> Option<Probe> {
        // The file that was looked into, whatever its path leads to by now.
        let through = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        match self.kernel.attach_to(function, &through, offset) {
            Ok(probe) => {
                log::debug!("attached to {function:?} of {name}, at {offset:#x}");
                self.stats.probes.adjust(0, 1);
                Some(probe)
            }
            Err(error) => {
                self.stats.lost_probes.add(1);
                log::warn!("TLS of {name} cannot be read: {error:#}");
                None
            }
        }
    }

    fn say_full(&mut self, name: &str) {
        self.stats.lost_probes.add(1);
        if !std::mem::replace(&mut self.is_full, true) {
            log::warn!("TLS of {name} and of all found after it cannot be read: {MAX_PROBES} probes are in place");
        }
    }
}

fn is_supported() -> bool {
    fs::exists(SUPPORT).unwrap_or(false)
}
