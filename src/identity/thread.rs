//! The identity thread: everything about processes that takes files to find out.
//!
//! It answers the questions of [`Processes`] one after the other, gives each network namespace the names that container
//! runtimes know in it, and looks for processes that have gone without a word. The runtimes have threads of their own.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use crossbeam_channel::Receiver;

use super::containers::Containers;
use super::files::Files;
use super::proc;
use super::processes::{Processes, Question};
use crate::bpf;
use crate::names::{Pods, RuntimeNames, RuntimeView};
use crate::stats::Stats;

/// How often it is looked for processes whose end was not heard of.
const SWEEP_EVERY: u64 = 60_000_000_000;

/// How often names whose time is over are let go of.
const EXPIRE_EVERY: u64 = 1_000_000_000;

/// How often the thread looks whether it is to end.
const PAUSE: Duration = Duration::from_millis(200);

/// What the names of networks were made from.
#[derive(Default)]
struct Seen {
    /// Of the containers.
    generation: u64,
    /// Network namespaces, with a container in each.
    namespaces: HashMap<u32, Option<String>>,
    names: RuntimeNames,
}

/// Finds out what takes files.
pub struct Identity {
    processes: Arc<Processes>,
    questions: Receiver<Question>,
    seen: Seen,
}

impl Identity {
    pub fn new(stats: Arc<Stats>) -> Identity {
        let (processes, questions) = Processes::with_questions(stats);
        Identity { processes: Arc::new(processes), questions, seen: Seen::default() }
    }

    pub fn processes(&self) -> Arc<Processes> {
        self.processes.clone()
    }

    /// Where container runtimes tell of containers.
    pub fn containers(&self) -> &Arc<Containers> {
        &self.processes.containers
    }

    /// Learns of every process that runs now, and what its files say. Kernel threads, which have no executable, are
    /// left out.
    pub fn scan(&self) {
        for pid in proc::pids() {
            // The time before the look: what the kernel tells of later counts more.
            let now = bpf::boot_time();
            let Some(info) = proc::look_up(pid).filter(|info| !info.exe.is_empty()) else { continue };
            if !self.processes.has_files(info.mount_namespace) {
                self.read_files(info.mount_namespace, pid);
            }
            self.processes.learn(&info, now, false);
        }
    }

    /// Answers questions until `stop` is set.
    pub fn start(self, stop: Arc<AtomicBool>) -> Result<JoinHandle<()>> {
        let thread = thread::Builder::new().name("identity".into()).spawn(move || self.run(&stop));
        thread.context("cannot start the thread that finds out about processes")
    }

    fn run(mut self, stop: &AtomicBool) {
        self.processes.follow_containers();
        // What began between the first look and the first event was told by neither.
        self.scan();
        let mut next_expiry = bpf::boot_time() + EXPIRE_EVERY;
        let mut next_sweep = bpf::boot_time() + SWEEP_EVERY;
        while !stop.load(Ordering::Acquire) {
            if let Ok(question) = self.questions.recv_timeout(PAUSE) {
                self.answer(question);
            }
            if self.questions.is_empty() {
                self.name_networks();
            }
            let now = bpf::boot_time();
            if now >= next_expiry {
                next_expiry = now + EXPIRE_EVERY;
                self.processes.networks.expire(now);
                self.processes.forget_namespaces();
            }
            if now >= next_sweep {
                next_sweep = now + SWEEP_EVERY;
                let pids: HashSet<u32> = proc::pids().into_iter().collect();
                self.processes.keep_to(&pids, now);
            }
        }
    }

    fn answer(&self, question: Question) {
        let now = bpf::boot_time();
        match question {
            Question::Process(owner) => self.processes.answer(&owner, proc::look_up(owner.pid), now),
            // Looked at after every question.
            Question::Containers => {}
            Question::Files { mount_namespace, pid } => self.read_files(mount_namespace, pid),
        }
    }

    /// Gives every network namespace the names that the runtimes know in it, where any of that is new.
    pub fn name_networks(&mut self) {
        let seen = &mut self.seen;
        let generation = self.processes.containers.generation();
        let namespaces = self.processes.net_namespaces();
        if seen.generation == generation && seen.namespaces == namespaces {
            return;
        }
        if seen.generation != generation {
            let containers = self.processes.containers.all();
            seen.names = RuntimeNames::new(&containers);
            self.processes.pods.set(Pods::new(&containers));
        }
        // The agent may be in a container, but not the first process that it sees.
        let machine = proc::namespace(1, "net");
        for (namespace, network) in self.processes.networks.all() {
            let container = namespaces.get(&namespace).and_then(Option::as_deref);
            let names = match container {
                _ if Some(namespace) == machine => seen.names.of(None),
                Some(id) => seen.names.of(Some(id)),
                None => RuntimeView::default(),
            };
            network.set_runtime(names);
        }
        (seen.generation, seen.namespaces) = (generation, namespaces);
    }

    /// Through that process, or another one in its mount namespace where that has ended.
    fn read_files(&self, mount_namespace: u32, pid: u32) {
        let before = self.processes.begin_files(mount_namespace);
        let now = bpf::boot_time();
        let mut readers = self.processes.in_mount_namespace(mount_namespace, pid).into_iter();
        let read = readers.find_map(|(pid, since)| Some((Files::read(pid, mount_namespace, before.clone())?, since)));
        // What they said before may have been another namespace's, of the same number.
        let (files, since) = read.unwrap_or_default();
        files.read_at(now);
        // The event of an end is read later than the files are.
        let older = self.processes.older_than(mount_namespace, since).into_iter();
        let gone = older.filter(|&pid| proc::namespace(pid, "mnt") != Some(mount_namespace)).collect();
        self.processes.learn_files(mount_namespace, files, since..=now, &gone);
    }
}
