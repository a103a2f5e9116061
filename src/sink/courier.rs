//! What the stores over the network have in common: records on disk first, and somebody who brings them.
//!
//! The sink's own thread does nothing but add records to the [`Spool`], by its [`Intake`]; what was added is accepted. A
//! thread beside it brings the spool's segments to the store, one after the other, each until the store has it, whatever
//! happens in between: an outage, a refusal, the end of the process. How that is done is the [`Courier`]'s.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::runtime;
use tokio::sync::watch;
use tokio::time::{sleep, sleep_until};

use super::spool::{Segment, Spool};

/// The buffer is given to the spool when it has this many bytes.
const FULL: usize = 256 * 1024;

/// Memory above this is given back after a large record.
const KEEP: usize = 4 * FULL;

/// How long the courier looks away where there is nothing to do.
const IDLE: Duration = Duration::from_secs(60);

/// Brings what waits in a spool to a store.
pub(super) trait Courier: Send + 'static {
    /// Ends when the store has these lines, or has made it clear that it will never take what it has not. `pauses`: to be
    /// made between tries.
    fn deliver(&self, segment: &Segment, lines: Vec<u8>, pauses: Pauses) -> impl Future<Output = ()>;

    /// The store, as messages have it.
    fn name(&self) -> String;
}

/// How patient a courier is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// Before the second try; twice as long before each further one, up to `longest_wait`.
    pub(super) first_wait: Duration,
    pub(super) longest_wait: Duration,
    /// For everything that is left when the agent ends.
    pub(super) last_sends: Duration,
}

pub(super) const PACE: Pace = Pace {
    first_wait: Duration::from_millis(500),
    longest_wait: Duration::from_secs(30),
    last_sends: Duration::from_secs(5),
};

/// Where records are handed in.
pub(super) struct Intake {
    /// Whole records that are not in the spool yet.
    buffer: Vec<u8>,
    waiting: u64,
    spool: Arc<Spool>,
    /// Wakes the courier; true tells it to come to an end.
    signal: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
    name: String,
}

impl Intake {
    /// Starts to send what is in the spool.
    pub(super) fn open(spool: Arc<Spool>, courier: impl Courier, thread: &str, pace: Pace) -> Result<Intake> {
        let (signal, stop) = watch::channel(false);
        let (behind, name) = (spool.clone(), courier.name());
        let work = move || Round { spool: behind, courier, pace }.run(stop);
        let thread = std::thread::Builder::new().name(thread.to_owned()).spawn(work);
        let thread = Some(thread.with_context(|| format!("cannot start the thread that sends to {name}"))?);
        Ok(Intake { buffer: Vec::new(), waiting: 0, spool, signal, thread, name })
    }

    /// Takes a record, which `append` writes as a line, or as nothing. An error says that this one was not taken.
    pub(super) fn take(&mut self, append: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> io::Result<()> {
        if self.buffer.len() >= FULL {
            self.write_out()?;
        }
        let before = self.buffer.len();
        append(&mut self.buffer).inspect_err(|_| self.buffer.truncate(before))?;
        self.waiting += u64::from(self.buffer.len() > before);
        Ok(())
    }

    pub(super) fn write_out(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let is_news = self.spool.put(&self.buffer, self.waiting)?;
        self.buffer.clear();
        self.waiting = 0;
        if self.buffer.capacity() > KEEP {
            self.buffer.shrink_to(FULL);
        }
        if is_news {
            self.signal.send_replace(false);
        }
        Ok(())
    }

    /// The courier has a while for what is left.
    pub(super) fn close(&mut self) -> io::Result<()> {
        let result = self.write_out().and_then(|()| self.spool.close_if_older(Duration::ZERO));
        self.signal.send_replace(true);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            log::error!("the thread that sends to {} ended early: what it had not sent stays in the spool", self.name);
        }
        result
    }

    /// How many records were taken and are not in the spool yet.
    pub(super) fn waiting(&self) -> u64 {
        self.waiting
    }
}

/// What the courier's thread does.
struct Round<C> {
    spool: Arc<Spool>,
    courier: C,
    pace: Pace,
}

impl<C: Courier> Round<C> {
    /// Until `signal` is true and everything is sent, or the time for that is over.
    fn run(self, signal: watch::Receiver<bool>) {
        let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                log::error!("nothing can be sent to {}: {error}", self.courier.name());
                return;
            }
        };
        let mut ending = signal.clone();
        runtime.block_on(async {
            tokio::select! {
                () = self.work(signal) => {}
                () = async {
                    let _ = ending.wait_for(|end| *end).await;
                    sleep(self.pace.last_sends).await;
                } => {}
            }
        });
        let (records, bytes) = self.spool.waiting();
        if records > 0 {
            log::warn!(
                "{records} records ({bytes} bytes) for {} stay in {} and are sent at the next start",
                self.courier.name(),
                self.spool.folder().display()
            );
        }
    }

    async fn work(&self, mut signal: watch::Receiver<bool>) {
        let mut is_failing = false;
        loop {
            let is_end = *signal.borrow_and_update();
            match self.spool.close_if_due() {
                Ok(()) => is_failing = false,
                Err(error) => {
                    if !std::mem::replace(&mut is_failing, true) {
                        log::error!("the spool in {} cannot be written to: {error}", self.spool.folder().display());
                    }
                    sleep(Duration::from_secs(1)).await;
                }
            }
            if let Some(segment) = self.spool.take() {
                if let Some(lines) = self.spool.read(&segment) {
                    self.courier.deliver(&segment, lines, Pauses::new(self.pace, signal.clone())).await;
                    self.spool.done(&segment);
                }
                continue;
            }
            if is_end {
                return;
            }
            let due = self.spool.due().unwrap_or_else(|| Instant::now() + IDLE);
            tokio::select! {
                changed = signal.changed() => if changed.is_err() { return },
                () = sleep_until(due.into()) => {}
            }
        }
    }
}

/// The pauses between tries.
#[derive(Clone)]
pub(super) struct Pauses {
    pace: Pace,
    next: Duration,
    /// True when the agent is about to end.
    signal: watch::Receiver<bool>,
}

impl Pauses {
    fn new(pace: Pace, signal: watch::Receiver<bool>) -> Pauses {
        Pauses { pace, next: pace.first_wait, signal }
    }

    /// One pause, longer than the one before. `asked`: how long the store wants to be left alone.
    pub(super) async fn pause(&mut self, asked: Option<Duration>) {
        let asked = asked.unwrap_or_default().min(self.pace.longest_wait);
        let is_end = *self.signal.borrow();
        tokio::select! {
            () = sleep(asked + with_jitter(self.next)) => {}
            // Once more at once, then as often as may be: there is little time.
            _ = self.signal.wait_for(|end| *end), if !is_end => {}
        }
        let is_end = *self.signal.borrow();
        self.next = if is_end { self.pace.first_wait } else { (self.next * 2).min(self.pace.longest_wait) };
    }
}

/// Between half of it and all of it, so that many agents that wait for the same server do not all come back at once.
fn with_jitter(wait: Duration) -> Duration {
    // A hasher's keys are the random numbers that the standard library has.
    let random = RandomState::new().build_hasher().finish() % 1024;
    wait / 2 + wait / 2 * random as u32 / 1024
}
