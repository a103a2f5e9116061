//! What a collector would get, on stdout, to look at: OTLP in JSON, a request a line.

use std::io::{self, Write};
use std::sync::Arc;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;

use super::{Batch, log_record};
use crate::config::OtelStore;
use crate::exchange::Record;
use crate::sink::Sink;
use crate::stats::StoreStats;

pub struct Printed {
    batch: Batch,
    stats: Arc<StoreStats>,
}

impl Printed {
    pub fn new(store: &OtelStore, stats: Arc<StoreStats>) -> Printed {
        Printed { batch: Batch::new(store), stats }
    }
}

impl Sink for Printed {
    fn write(&mut self, record: &Record) -> io::Result<()> {
        if self.batch.is_full() {
            self.flush()?;
        }
        self.batch.add(log_record(record));
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.batch.records.is_empty() {
            return Ok(());
        }
        let (request, count) = self.batch.take();
        write_line(&request).inspect_err(|_| self.stats.lost_sink.add(count))
    }
}

fn write_line(request: &ExportLogsServiceRequest) -> io::Result<()> {
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    let mut stdout = io::stdout().lock();
    stdout.write_all(&line)?;
    stdout.flush()
}
