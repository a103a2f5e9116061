//! The admin listener: whether the agent is well (`/healthz`), whether it captures (`/readyz`), its counters
//! (`/metrics`), and a way to have its configuration read again (`/reload`).
//!
//! On a thread of its own with a runtime of its own. It reads what others count and stands in nobody's way. Whoever
//! connects is not trusted: connections, heads and times are bounded. That its address cannot be had never stops the
//! capture.
#![forbid(unsafe_code)]

mod address;
pub mod client;
pub mod metrics;
mod own;
mod server;
mod text;

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result};
use crossbeam_channel::Sender;
use tokio::sync::oneshot;

pub use address::Address;
pub use metrics::Sources;

use crate::privileges;

/// Somebody wants the configuration to be read again, and to hear what became of it.
pub struct ReloadRequest {
    pub answer: oneshot::Sender<Reloaded>,
}

/// What was done, or why not: lines of text.
pub type Reloaded = Result<String, String>;

/// What the listener knows of the agent.
pub struct State {
    sources: OnceLock<Sources>,
    is_stopping: AtomicBool,
    /// A worker has ended before its time.
    is_broken: AtomicBool,
    reloads: Sender<ReloadRequest>,
}

impl State {
    /// Who wants a reload asks for it through `reloads`.
    pub fn new(reloads: Sender<ReloadRequest>) -> Arc<State> {
        let (is_stopping, is_broken) = (AtomicBool::new(false), AtomicBool::new(false));
        Arc::new(State { sources: OnceLock::new(), is_stopping, is_broken, reloads })
    }

    /// From now on it captures.
    pub fn capturing(&self, sources: Sources) {
        // It does so once.
        let _ = self.sources.set(sources);
    }

    pub fn stopping(&self) {
        self.is_stopping.store(true, Ordering::Relaxed);
    }

    /// To be held by a worker: notes when it panics.
    pub fn watch_worker(self: &Arc<Self>) -> WorkerWatch {
        WorkerWatch(self.clone())
    }

    fn is_ready(&self) -> bool {
        self.sources.get().is_some() && !self.is_stopping.load(Ordering::Relaxed)
    }
}

/// See [`State::watch_worker`].
pub struct WorkerWatch(Arc<State>);

impl Drop for WorkerWatch {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.is_broken.store(true, Ordering::Relaxed);
        }
    }
}

/// The listener's thread, until dropped.
pub struct Server {
    /// Dropped to stop it.
    stop: Option<oneshot::Sender<Infallible>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens at that address, or tries to until it can. None for [`Address::None`].
    pub fn start(address: Address, state: Arc<State>) -> Result<Option<Server>> {
        if address == Address::None {
            return Ok(None);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
        let runtime = runtime.context("cannot prepare the admin listener")?;
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new().name("admin".into()).spawn(move || {
            privileges::reduce_or_warn(privileges::AGENT);
            runtime.block_on(async {
                tokio::select! {
                    _ = stopped => (),
                    _ = server::run(&address, &state) => (),
                }
            });
        });
        let thread = Some(thread.context("cannot start the thread of the admin listener")?);
        Ok(Some(Server { stop: Some(stop), thread }))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            // Had it panicked, the log was told.
            let _ = thread.join();
        }
    }
}
