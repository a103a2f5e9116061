//! The identity thread: everything about processes that takes files to find out.
//!
//! It answers the questions of [`Processes`] one after the other, and looks for processes that have gone without a
//! word.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use crossbeam_channel::Receiver;

use super::files::Files;
use super::proc;
use super::processes::{Processes, Question};
use crate::bpf;
use crate::stats::Stats;

/// How often it is looked for processes whose end was not heard of.
const SWEEP_EVERY: u64 = 60_000_000_000;

/// How often the thread looks whether it is to end.
const PAUSE: Duration = Duration::from_millis(200);

/// Finds out what takes files.
pub struct Identity {
    processes: Arc<Processes>,
    questions: Receiver<Question>,
}

impl Identity {
    pub fn new(stats: Arc<Stats>) -> Identity {
        let (processes, questions) = Processes::with_questions(stats);
        Identity { processes: Arc::new(processes), questions }
    }

    pub fn processes(&self) -> Arc<Processes> {
        self.processes.clone()
    }

    /// Learns of every process that runs now, and what its files say. Kernel threads, which have no executable, are
    /// left out.
    pub fn scan(&self) {
        for pid in proc::pids() {
            // The time before the look: what the kernel tells of later counts more.
            let now = bpf::boot_time();
            let Some(info) = proc::look_up(pid).filter(|info| !info.exe.is_empty()) else { continue };
            if self.processes.files(info.mount_namespace).is_none() {
                self.read_files(info.mount_namespace, pid);
            }
            self.processes.learn(&info, now);
        }
    }

    /// Answers questions until `stop` is set.
    pub fn start(self, stop: Arc<AtomicBool>) -> Result<JoinHandle<()>> {
        let thread = thread::Builder::new().name("identity".into()).spawn(move || self.run(&stop));
        thread.context("cannot start the thread that finds out about processes")
    }

    fn run(&self, stop: &AtomicBool) {
        // What began between the first look and the first event was told by neither.
        self.scan();
        let mut next_sweep = bpf::boot_time() + SWEEP_EVERY;
        while !stop.load(Ordering::Acquire) {
            if let Ok(question) = self.questions.recv_timeout(PAUSE) {
                self.answer(question);
            }
            let now = bpf::boot_time();
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
            Question::Files { mount_namespace, pid } => self.read_files(mount_namespace, pid),
        }
    }

    /// Through that process, or another one in its mount namespace where that has ended.
    fn read_files(&self, mount_namespace: u32, pid: u32) {
        let now = bpf::boot_time();
        let before = self.processes.files(mount_namespace);
        let read = |pid| Files::read(pid, mount_namespace, before.clone(), now);
        let others = || self.processes.in_mount_namespace(mount_namespace).into_iter().find_map(read);
        self.processes.learn_files(mount_namespace, read(pid).or_else(others));
    }
}
