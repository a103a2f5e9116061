//! Sends a segment's records to the collector, request by request.

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::logs::v1::LogRecord;
use prost::Message;

use super::Batch;
use super::client::{Client, Failure, Taken, Verdict};
use crate::config::OtelStore;
use crate::sink::courier::{Courier, Pauses};
use crate::sink::spool::Segment;
use crate::stats::StoreStats;

/// How long a request is tried again that may itself be what the collector fails over.
const DOUBT: Duration = Duration::from_secs(600);

pub(super) struct Sender {
    store: OtelStore,
    client: Client,
    stats: Arc<StoreStats>,
    /// That long.
    pub(super) doubt: Duration,
    /// What was last said to be wrong.
    said: Cell<Option<Said>>,
}

#[derive(Clone, Copy, PartialEq)]
enum Said {
    Waits,
    Loses,
}

impl Sender {
    pub(super) fn new(store: &OtelStore, client: Client, stats: Arc<StoreStats>) -> Sender {
        Sender { store: store.clone(), client, stats, doubt: DOUBT, said: Cell::default() }
    }

    async fn send(&self, batch: &mut Batch, pauses: Pauses) {
        let (request, count) = batch.take();
        if count == 0 {
            return;
        }
        let lost = match self.until_taken(&request.encode_to_vec(), pauses).await {
            Ok(Taken { refused: 0, .. }) => {
                if self.said.take().is_some() {
                    log::info!("{} takes records again", self.name());
                }
                return;
            }
            Ok(Taken { refused, why }) => {
                self.complain(Said::Loses, |name| {
                    log::error!("{name} refuses records, which are lost and counted: {why}");
                });
                refused.min(count)
            }
            Err(failure) => {
                let why = failure.why;
                self.complain(Said::Loses, |name| {
                    log::error!("{name} refuses a request, whose records are lost and counted: {why}");
                });
                count
            }
        };
        self.stats.lost_sink.add(lost);
    }

    /// Until it gets through, or is refused for good.
    async fn until_taken(&self, request: &[u8], mut pauses: Pauses) -> Result<Taken, Failure> {
        let began = Instant::now();
        loop {
            let failure = match self.client.export(request).await {
                Ok(taken) => return Ok(taken),
                Err(failure) => failure,
            };
            let is_over = match failure.verdict {
                Verdict::Later => false,
                Verdict::Doubtful => began.elapsed() >= self.doubt,
                Verdict::Never => true,
            };
            if is_over {
                return Err(failure);
            }
            self.stats.retries.add(1);
            let why = &failure.why;
            self.complain(Said::Waits, |name| {
                log::warn!("{name} does not take records: {why}; what is captured waits in the spool");
            });
            pauses.pause(failure.wait).await;
        }
    }

    /// Once, until it is something else.
    fn complain(&self, what: Said, say: impl FnOnce(String)) {
        if self.said.replace(Some(what)) != Some(what) {
            say(self.name());
        }
    }
}

impl Courier for Sender {
    async fn deliver(&self, segment: &Segment, lines: Vec<u8>, pauses: Pauses) {
        let mut batch = Batch::new(&self.store);
        for line in lines.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
            match serde_json::from_slice::<LogRecord>(line) {
                Ok(record) => batch.add(record),
                Err(error) => {
                    log::error!("a record in segment {} of the spool is none of OTLP's: {error}", segment.id);
                    self.stats.lost_spool.add(1);
                }
            }
            if batch.is_full() {
                self.send(&mut batch, pauses.clone()).await;
            }
        }
        self.send(&mut batch, pauses).await;
    }

    fn name(&self) -> String {
        format!("the collector at {}", self.store.endpoint)
    }
}
