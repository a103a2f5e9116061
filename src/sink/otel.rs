//! Records to an OpenTelemetry collector, as logs (OTLP 1.x, <https://opentelemetry.io/docs/specs/otlp/>).
//!
//! Records gather in memory until there are enough of them or nothing more is to come, and go out as one request. A
//! request that did not get through is tried again for a while, with growing pauses; meanwhile records wait in the
//! sink's queue. What is given up, or refused, is counted as lost. Everything runs on the sink's own thread.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;

use super::Sink;
use crate::config::{OtelProtocol, OtelStore};
use crate::exchange::{Nanos, Record};
use crate::machine;
use crate::stats::StoreStats;

mod client;
mod record;

use client::{Client, Failure};

/// A request is sent when it has so many records or bytes. Receivers take 4 MiB of gRPC by default.
const MOST_RECORDS: usize = 512;
const FULL: usize = 1 << 20;

/// How long a request is tried again, and the pauses in between.
#[derive(Debug, Clone, Copy)]
struct Patience {
    total: Duration,
    first: Duration,
    longest: Duration,
}

const PATIENCE: Patience =
    Patience { total: Duration::from_secs(60), first: Duration::from_millis(250), longest: Duration::from_secs(10) };

/// Which conventions the names of attributes are of.
const CONVENTIONS: &str = "https://opentelemetry.io/schemas/1.27.0";

pub struct Otel {
    resource: Resource,
    /// To be sent; and how large they are.
    records: Vec<LogRecord>,
    bytes: usize,
    /// None: OTLP in JSON on stdout, a request a line.
    client: Option<Client>,
    patience: Patience,
    /// The last request did not get through, which was said.
    is_failing: bool,
    stats: Arc<StoreStats>,
}

impl Otel {
    /// Nobody is connected to yet. What the collector does not take is counted in `stats`.
    pub fn new(store: &OtelStore, stats: Arc<StoreStats>) -> Result<Otel> {
        let client = match store.protocol {
            OtelProtocol::Grpc | OtelProtocol::Http => Some(Client::new(store)),
            OtelProtocol::Stdout => None,
        };
        let client = client.transpose().with_context(|| format!("the otel store at {}", store.endpoint))?;
        let resource = record::resource(&store.service_name, store.environment.as_deref());
        let (records, bytes) = (Vec::new(), 0);
        Ok(Otel { resource, records, bytes, client, patience: PATIENCE, is_failing: false, stats })
    }

    /// Sends what is there. An error is about stdout; what a collector did not take is counted here.
    fn send(&mut self) -> io::Result<()> {
        if self.records.is_empty() {
            return Ok(());
        }
        let records = std::mem::take(&mut self.records);
        self.bytes = 0;
        let count = records.len() as u64;
        let scope = InstrumentationScope {
            name: env!("CARGO_PKG_NAME").to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..InstrumentationScope::default()
        };
        let request = ExportLogsServiceRequest {
            resource_logs: vec![ResourceLogs {
                resource: Some(self.resource.clone()),
                scope_logs: vec![ScopeLogs {
                    scope: Some(scope),
                    log_records: records,
                    schema_url: CONVENTIONS.to_owned(),
                }],
                schema_url: CONVENTIONS.to_owned(),
            }],
        };
        let Some(client) = &self.client else {
            return write_line(&request).inspect_err(|_| self.stats.lost_sink.add(count));
        };
        let lost = match deliver(client, &request.encode_to_vec(), self.patience) {
            Ok(client::Taken { refused: 0, .. }) => {
                if std::mem::take(&mut self.is_failing) {
                    log::info!("the otel store at {} takes records again", client.endpoint());
                }
                return Ok(());
            }
            Ok(client::Taken { refused, why }) => {
                self.complain(format_args!("refuses records: {why}"));
                refused.min(count)
            }
            Err(failure) => {
                self.complain(format_args!("does not take records: {}", failure.why));
                count
            }
        };
        self.stats.lost_sink.add(lost);
        Ok(())
    }

    /// Once, until it works again.
    fn complain(&mut self, what: std::fmt::Arguments) {
        if let Some(client) = &self.client
            && !std::mem::replace(&mut self.is_failing, true)
        {
            log::error!("the otel store at {} {what}; what is lost is counted", client.endpoint());
        }
    }
}

/// Until it gets through, is refused, or took too long.
fn deliver(client: &Client, request: &[u8], patience: Patience) -> Result<client::Taken, Failure> {
    let (began, mut pause) = (Instant::now(), patience.first);
    loop {
        let failure = match client.export(request) {
            Ok(taken) => return Ok(taken),
            Err(failure) => failure,
        };
        // Up to half of it more, so that many agents do not come back at the same moment.
        let jitter = pause.mul_f64(f64::from(now() as u32 % 1000) / 2000.0);
        let pause_now = failure.wait.unwrap_or(pause + jitter).min(patience.longest);
        if !failure.is_passing || began.elapsed() + pause_now > patience.total {
            return Err(failure);
        }
        log::debug!("the otel store at {}: {}; tried again in {pause_now:?}", client.endpoint(), failure.why);
        std::thread::sleep(pause_now);
        pause = (pause * 2).min(patience.longest);
    }
}

fn write_line(request: &ExportLogsServiceRequest) -> io::Result<()> {
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    let mut stdout = io::stdout().lock();
    stdout.write_all(&line)?;
    stdout.flush()
}

fn now() -> Nanos {
    machine::now().as_nanos() as Nanos
}

impl Sink for Otel {
    fn write(&mut self, record: &Record) -> io::Result<()> {
        let record = record::log_record(record, now());
        self.bytes += record.encoded_len();
        self.records.push(record);
        if self.records.len() < MOST_RECORDS && self.bytes < FULL {
            return Ok(());
        }
        self.send()
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send()
    }
}

#[cfg(test)]
mod tests;
