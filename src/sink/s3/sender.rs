//! Puts the objects that a segment is sent as into the bucket.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use object_store::aws::AmazonS3;
use object_store::path::Path;
use object_store::{Attribute, Attributes, ObjectStore, PutOptions, PutPayload};
use tokio::task::JoinSet;

use super::client::Trouble;
use super::names;
use super::objects::{Object, objects};
use crate::config::S3Store;
use crate::exchange::{Artifact, Record};
use crate::machine;
use crate::sink::courier::{Courier, Pauses};
use crate::sink::queue::Outbox;
use crate::sink::spool::Segment;
use crate::stats::StoreStats;

/// How many objects of a segment are on their way at once.
const AT_ONCE: usize = 16;

/// For one request, answer included.
pub(super) const TIMEOUT: Duration = Duration::from_secs(60);

pub(super) struct Sender(Arc<Bucket>);

/// Where objects go, and who hears of it.
struct Bucket {
    store: S3Store,
    client: AmazonS3,
    host: String,
    stats: Arc<StoreStats>,
    artifacts: Outbox,
    /// What was last said to be wrong.
    trouble: Mutex<Option<Trouble>>,
}

impl Sender {
    pub(super) fn new(store: &S3Store, client: AmazonS3, stats: Arc<StoreStats>, artifacts: Outbox) -> Sender {
        let (store, host, trouble) = (store.clone(), names::host(), Mutex::default());
        Sender(Arc::new(Bucket { store, client, host, stats, artifacts, trouble }))
    }
}

impl Courier for Sender {
    async fn deliver(&self, segment: &Segment, lines: Vec<u8>, pauses: Pauses) {
        let bucket = &self.0;
        let mut running = JoinSet::new();
        for object in objects(&bucket.store, &bucket.host, segment.id, lines) {
            if running.len() == AT_ONCE {
                running.join_next().await;
            }
            running.spawn(bucket.clone().put(object, pauses.clone()));
        }
        while running.join_next().await.is_some() {}
    }

    fn name(&self) -> String {
        self.0.name()
    }
}

impl Bucket {
    /// Until the bucket has it.
    async fn put(self: Arc<Self>, object: Object, mut pauses: Pauses) {
        let path = Path::parse(&object.key).unwrap_or_else(|_| Path::from(object.key.as_str()));
        loop {
            let attributes = Attributes::from_iter([(Attribute::ContentType, object.content_type)]);
            let payload = PutPayload::from(object.content.clone());
            match self.client.put_opts(&path, payload, PutOptions { attributes, ..PutOptions::default() }).await {
                Ok(_) => break,
                Err(error) => self.failed(&error),
            }
            pauses.pause(None).await;
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
