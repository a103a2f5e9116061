//! Records to an OpenTelemetry collector, as logs (OTLP 1.x, <https://opentelemetry.io/docs/specs/otlp/>).
//!
//! They wait in a [`Spool`], a log record in OTLP's JSON a line, and go out in requests of many until the collector has
//! them. What it says it will never take is counted as lost.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;

use super::Sink;
use super::courier::{self, Intake, Pace};
use super::spool::{Bounds, Spool};
use crate::config::OtelStore;
use crate::exchange::{Nanos, Record};
use crate::machine;
use crate::stats::StoreStats;

mod client;
mod printed;
mod record;
mod sender;

pub use client::Client;
pub use printed::Printed;

use sender::Sender;

/// A request has so many records or bytes at most, or a single record. Receivers take 4 MiB of gRPC by default.
const MOST_RECORDS: usize = 512;
const FULL: usize = 1 << 20;

/// Segments of the spool are only a place to wait.
const SEGMENT_BYTES: u64 = 1 << 20;
const SEGMENT_AGE: Duration = Duration::from_millis(500);

/// Which conventions the names of attributes are of.
const CONVENTIONS: &str = "https://opentelemetry.io/schemas/1.27.0";

pub struct Otel {
    intake: Intake,
}

impl Otel {
    /// The way to the collector. Nothing is sent yet.
    pub fn connect(store: &OtelStore) -> Result<Client> {
        Client::new(store).with_context(|| format!("the otel store at {}", store.endpoint))
    }

    /// Opens the spool in `folder` and starts to send what is in it. `last_sends`: how long `close` waits for the collector.
    pub fn open(
        store: &OtelStore,
        collector: Client,
        folder: &Path,
        stats: Arc<StoreStats>,
        last_sends: Duration,
    ) -> Result<Otel> {
        let sender = Sender::new(store, collector, stats.clone());
        Otel::start(store, sender, folder, stats, Pace { last_sends, ..courier::PACE })
    }

    fn start(store: &OtelStore, sender: Sender, folder: &Path, stats: Arc<StoreStats>, pace: Pace) -> Result<Otel> {
        let bounds =
            Bounds { segment_bytes: SEGMENT_BYTES, segment_age: SEGMENT_AGE, total_bytes: store.spool.max_bytes };
        let spool = Arc::new(Spool::open(folder, bounds, stats)?);
        Ok(Otel { intake: Intake::open(spool, sender, "otel sender", pace)? })
    }
}

impl Sink for Otel {
    fn write(&mut self, record: &Record) -> io::Result<()> {
        self.intake.take(|buffer| {
            serde_json::to_writer(&mut *buffer, &log_record(record))?;
            buffer.push(b'\n');
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

fn log_record(record: &Record) -> LogRecord {
    record::log_record(record, machine::now().as_nanos() as Nanos)
}

/// Gathers records for one request.
struct Batch {
    resource: Resource,
    records: Vec<LogRecord>,
    bytes: usize,
}

impl Batch {
    fn new(store: &OtelStore) -> Batch {
        let resource = record::resource(&store.service_name, store.environment.as_deref());
        Batch { resource, records: Vec::new(), bytes: 0 }
    }

    fn add(&mut self, record: LogRecord) {
        self.bytes += record.encoded_len();
        self.records.push(record);
    }

    /// Nothing more is to be added.
    fn is_full(&self) -> bool {
        self.records.len() >= MOST_RECORDS || self.bytes >= FULL
    }

    /// A request of all records, none of which is here any more, and how many they are.
    fn take(&mut self) -> (ExportLogsServiceRequest, u64) {
        self.bytes = 0;
        let log_records = std::mem::take(&mut self.records);
        let count = log_records.len() as u64;
        let scope = InstrumentationScope {
            name: env!("CARGO_PKG_NAME").to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..InstrumentationScope::default()
        };
        let schema_url = CONVENTIONS.to_owned();
        let scope_logs = vec![ScopeLogs { scope: Some(scope), log_records, schema_url: schema_url.clone() }];
        let resource_logs = vec![ResourceLogs { resource: Some(self.resource.clone()), scope_logs, schema_url }];
        (ExportLogsServiceRequest { resource_logs }, count)
    }
}

#[cfg(test)]
mod tests;
