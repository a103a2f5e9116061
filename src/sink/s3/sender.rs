//! Sends the spool's segments, one after the other, on a thread of its own.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use object_store::aws::AmazonS3;
use object_store::path::Path;
use object_store::{Attribute, Attributes, ObjectStore, PutOptions, PutPayload};
use tokio::runtime;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until};

use super::client::Trouble;
use super::names;
use super::objects::{Object, objects};
use crate::config::S3Store;
use crate::exchange::{Artifact, Record};
use crate::machine;
use crate::sink::queue::Outbox;
use crate::sink::spool::{Segment, Spool};
use crate::stats::StoreStats;

/// How many objects of a segment are on their way at once.
const AT_ONCE: usize = 16;

/// How long the sender looks away where there is nothing to do.
const IDLE: Duration = Duration::from_secs(60);

/// How patient it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// For one request, answer included.
    pub(super) timeout: Duration,
    /// Before the second try; twice as long before each further one, up to `longest_wait`.
    pub(super) first_wait: Duration,
    pub(super) longest_wait: Duration,
    /// For everything that is left when the agent ends.
    pub(super) last_sends: Duration,
}

pub(super) const PACE: Pace = Pace {
    timeout: Duration::from_secs(60),
    first_wait: Duration::from_millis(500),
    longest_wait: Duration::from_secs(30),
    last_sends: Duration::from_secs(5),
};

pub(super) struct Sender {
    spool: Arc<Spool>,
    bucket: Arc<Bucket>,
}

/// Where objects go, and who hears of it.
struct Bucket {
    store: S3Store,
    client: AmazonS3,
    host: String,
    stats: Arc<StoreStats>,
    artifacts: Outbox,
    pace: Pace,
    /// What was last said to be wrong.
    trouble: Mutex<Option<Trouble>>,
}

impl Sender {
    pub(super) fn new(
        store: &S3Store,
        client: AmazonS3,
        spool: Arc<Spool>,
        stats: Arc<StoreStats>,
        artifacts: Outbox,
        pace: Pace,
    ) -> Sender {
        let (store, host, trouble) = (store.clone(), names::host(), Mutex::default());
        let bucket = Arc::new(Bucket { store, client, host, stats, artifacts, pace, trouble });
        Sender { spool, bucket }
    }

    /// Until `signal` is true and everything is sent, or the time for that is over.
    pub(super) fn run(self, signal: watch::Receiver<bool>) {
        let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                log::error!("nothing can be sent to {}: {error}", self.bucket.name());
                return;
            }
        };
        let mut ending = signal.clone();
        runtime.block_on(async {
            tokio::select! {
                () = self.work(signal) => {}
                () = async {
                    let _ = ending.wait_for(|end| *end).await;
                    sleep(self.bucket.pace.last_sends).await;
                } => {}
            }
        });
        let (records, bytes) = self.spool.waiting();
        if records > 0 {
            log::warn!(
                "{records} records ({bytes} bytes) for {} stay in {} and are sent at the next start",
                self.bucket.name(),
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
                self.send(segment, &signal).await;
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

    async fn send(&self, segment: Segment, signal: &watch::Receiver<bool>) {
        let Some(lines) = self.spool.read(&segment) else { return };
        let mut running = JoinSet::new();
        for object in objects(&self.bucket.store, &self.bucket.host, segment.id, lines) {
            if running.len() == AT_ONCE {
                running.join_next().await;
            }
            running.spawn(self.bucket.clone().put(object, signal.clone()));
        }
        while running.join_next().await.is_some() {}
        self.spool.done(&segment);
    }
}

impl Bucket {
    /// Until the bucket has it.
    async fn put(self: Arc<Self>, object: Object, mut signal: watch::Receiver<bool>) {
        let path = Path::parse(&object.key).unwrap_or_else(|_| Path::from(object.key.as_str()));
        let mut wait = self.pace.first_wait;
        loop {
            let attributes = Attributes::from_iter([(Attribute::ContentType, object.content_type)]);
            let payload = PutPayload::from(object.content.clone());
            match self.client.put_opts(&path, payload, PutOptions { attributes, ..PutOptions::default() }).await {
                Ok(_) => break,
                Err(error) => self.failed(&error),
            }
            let is_end = *signal.borrow();
            tokio::select! {
                () = sleep(with_jitter(wait)) => {}
                // Once more at once, then as often as may be: there is little time.
                _ = signal.wait_for(|end| *end), if !is_end => {}
            }
            wait = if *signal.borrow() { self.pace.first_wait } else { (wait * 2).min(self.pace.longest_wait) };
        }
        self.succeeded();
        if let Some(url) = names::url(&self.store, &object.key, &object.digest) {
            self.artifacts.send_one(Record::Artifact(Box::new(Artifact {
                time: machine::now().as_nanos() as u64,
                url,
                bytes: object.content.len() as u64,
                digest: object.digest,
                transactions: object.transactions,
                summary: object.summary,
            })));
        }
    }

    /// Says what is wrong when that changes; how often is in the counters.
    fn failed(&self, error: &object_store::Error) {
        self.stats.retries.add(1);
        let (trouble, said) = Trouble::of(error, &self.store);
        let mut before = self.trouble.lock().expect("no thread panics with it locked");
        if before.replace(trouble) == Some(trouble) {
            return;
        }
        drop(before);
        let name = self.name();
        let waits = "what is captured waits in the spool";
        match trouble {
            Trouble::Refused => log::error!("{name} refuses the credentials: {said}; {waits}"),
            Trouble::NoCredentials => log::error!(
                "there are no credentials for {name}: give `access_key` and `secret_key`, or set AWS_ACCESS_KEY_ID and \
                 AWS_SECRET_ACCESS_KEY (asked last: this machine's role, {said}); {waits}"
            ),
            Trouble::NoBucket => log::error!("{name} is not there: {said}; {waits}"),
            Trouble::Busy => log::warn!("{name} takes nothing at the moment: {said}; {waits}"),
            Trouble::Unreachable => log::warn!("{name} cannot be reached: {said}; {waits}"),
        }
    }

    fn succeeded(&self) {
        if self.trouble.lock().expect("no thread panics with it locked").take().is_some() {
            log::info!("{} works again", self.name());
        }
    }

    fn name(&self) -> String {
        format!("the bucket {} at {}", self.store.bucket, self.store.endpoint)
    }
}

/// Between half of it and all of it, so that many agents that wait for the same server do not all come back at once.
fn with_jitter(wait: Duration) -> Duration {
    // A hasher's keys are the random numbers that the standard library has.
    let random = RandomState::new().build_hasher().finish() % 1024;
    wait / 2 + wait / 2 * random as u32 / 1024
}
