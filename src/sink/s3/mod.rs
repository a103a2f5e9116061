//! Records in a bucket of S3, or of anything that speaks like it.
//!
//! They wait in a [`Spool`] until the bucket has them. Names of objects follow from the segment and its content, so that
//! one that is sent twice is the same object.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use object_store::aws::AmazonS3;

use super::courier::{self, Intake, Pace};
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

use sender::Sender;

/// Where an object is a transaction, segments are only a place to wait.
const OBJECTS: Batch = Batch { max_bytes: 1 << 20, max_age: Duration::from_secs(1) };

pub struct S3 {
    formatter: Formatter,
    intake: Intake,
}

impl S3 {
    /// The way to the bucket. Nothing is sent yet.
    pub fn connect(store: &S3Store) -> Result<AmazonS3> {
        client::connect(store, sender::TIMEOUT)
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
        let pace = Pace { last_sends, ..courier::PACE };
        S3::start(store, bucket, folder, stats, artifacts, pace)
    }

    fn start(
        store: &S3Store,
        bucket: AmazonS3,
        folder: &Path,
        stats: Arc<StoreStats>,
        artifacts: Outbox,
        pace: Pace,
    ) -> Result<S3> {
        let batch = if matches!(store.mode, S3Mode::Batch(_)) { store.batch } else { OBJECTS };
        let bounds =
            Bounds { segment_bytes: batch.max_bytes, segment_age: batch.max_age, total_bytes: store.spool.max_bytes };
        let spool = Arc::new(Spool::open(folder, bounds, stats.clone())?);
        let intake = Intake::open(spool, Sender::new(store, bucket, stats, artifacts), "s3 sender", pace)?;
        Ok(S3 { formatter: Formatter::default(), intake })
    }
}

impl Sink for S3 {
    fn write(&mut self, record: &Record) -> io::Result<()> {
        self.intake.take(|buffer| {
            self.formatter.append_json(buffer, record);
            Ok(())
        })
    }

    fn write_line(&mut self, line: &[u8]) -> io::Result<()> {
        self.intake.take(|buffer| {
            buffer.extend_from_slice(line);
            Ok(())
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        self.intake.write_out()
    }

    fn close(&mut self) -> io::Result<()> {
        self.intake.close()
    }

    fn waiting(&self) -> u64 {
        self.intake.waiting()
    }
}
