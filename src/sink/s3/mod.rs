//! Records in a bucket of S3, or of anything that speaks like it.
//!
//! The sink's own thread does nothing but add records to the [`Spool`]; what was added is accepted. A thread beside it
//! sends the spool's segments, each until the bucket has it, whatever happens in between: an outage, a refusal, the end of
//! the process. Names of objects follow from the segment and its content, so that one that is sent twice is the same object.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use object_store::aws::AmazonS3;
use tokio::sync::watch;

use super::queue::Outbox;
use super::spool::{Bounds, Spool};
use super::{Formatter, Sink};
use crate::config::{Batch, S3Mode, S3Store};
use crate::exchange::Record;
use crate::stats::StoreStats;

mod client;
mod names;
mod objects;
mod profile;
mod sender;
#[cfg(test)]
mod tests;

use sender::{Pace, Sender};

/// The buffer is given to the spool when it has this many bytes.
const FULL: usize = 256 * 1024;

/// Memory above this is given back after a large record.
const KEEP: usize = 4 * FULL;

/// Where an object is a transaction, segments are only a place to wait.
const OBJECTS: Batch = Batch { max_bytes: 1 << 20, max_age: Duration::from_secs(1) };

pub struct S3 {
    formatter: Formatter,
    /// Whole records that are not in the spool yet.
    buffer: Vec<u8>,
    waiting: u64,
    spool: Arc<Spool>,
    /// Wakes the sender; true tells it to come to an end.
    signal: watch::Sender<bool>,
    sender: Option<JoinHandle<()>>,
}

impl S3 {
    /// The way to the bucket. Nothing is sent yet.
    pub fn connect(store: &S3Store) -> Result<AmazonS3> {
        client::connect(store, sender::PACE.timeout)
    }

    /// Opens the spool in `folder` and starts to send what is in it. `artifacts`: who is told of objects' URLs.
    /// `last_sends`: how long `close` waits for the bucket.
    pub fn open(
        store: &S3Store,
        bucket: AmazonS3,
        folder: &Path,
        stats: Arc<StoreStats>,
        artifacts: Outbox,
        last_sends: Duration,
    ) -> Result<S3> {
        let batch = if matches!(store.mode, S3Mode::Batch(_)) { store.batch } else { OBJECTS };
        let bounds =
            Bounds { segment_bytes: batch.max_bytes, segment_age: batch.max_age, total_bytes: store.spool.max_bytes };
        let spool = Arc::new(Spool::open(folder, bounds, stats.clone())?);
        let pace = Pace { last_sends, ..sender::PACE };
        S3::start(Sender::new(store, bucket, spool.clone(), stats, artifacts, pace), spool)
    }

    fn start(sender: Sender, spool: Arc<Spool>) -> Result<S3> {
        let (signal, stop) = watch::channel(false);
        let thread = std::thread::Builder::new().name("s3 sender".into());
        let thread = thread.spawn(move || sender.run(stop)).context("cannot start the thread that sends to S3")?;
        Ok(S3 { formatter: Formatter::default(), buffer: Vec::new(), waiting: 0, spool, signal, sender: Some(thread) })
    }

    fn write_out(&mut self) -> io::Result<()> {
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
}

impl Sink for S3 {
    fn write(&mut self, record: &Record) -> io::Result<()> {
        if self.buffer.len() >= FULL {
            self.write_out()?;
        }
        let before = self.buffer.len();
        self.formatter.append_json(&mut self.buffer, record);
        self.waiting += u64::from(self.buffer.len() > before);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.write_out()
    }

    fn close(&mut self) -> io::Result<()> {
        let result = self.write_out().and_then(|()| self.spool.close_if_older(Duration::ZERO));
        self.signal.send_replace(true);
        if self.sender.take().is_some_and(|sender| sender.join().is_err()) {
            log::error!("the thread that sends to S3 ended early: what it had not sent stays in the spool");
        }
        result
    }

    fn waiting(&self) -> u64 {
        self.waiting
    }
}
