//! From the stores of a configuration to running sinks: which there are, what they are called, what each of them takes.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use crossbeam_channel::Sender;

use super::queue::{Destination, Outbox, SinkThreads, Takes};
use super::{File, Otel, S3, Sink, Stdout};
use crate::config::{Settings, Store};
use crate::stats::{Memory, Stats};

/// Where records wait for a store that does not say where, each in a folder of its own.
const SPOOLS: &str = "/var/lib/sidetap/spool";

/// Starts the sinks of all stores. `closed` hears of one whose other end is gone for good. `last_sends`: how long stores
/// over the network may take at the end; what they keep on disk they send at the next start.
pub fn start(
    settings: &Settings,
    memory: Arc<Memory>,
    stats: Arc<Stats>,
    closed: &Sender<()>,
    last_sends: Duration,
) -> Result<(Outbox, SinkThreads)> {
    let (mut outbox, mut threads) = Outbox::start(Vec::new(), memory, stats.clone(), closed)?;
    fill(settings, &mut outbox, &mut threads, &stats, closed, last_sends)?;
    Ok((outbox, threads))
}

/// Starts the sinks of all stores and has the outbox send to them.
fn fill(
    settings: &Settings,
    outbox: &mut Outbox,
    threads: &mut SinkThreads,
    stats: &Stats,
    closed: &Sender<()>,
    last_sends: Duration,
) -> Result<()> {
    let mut planned = plan(settings);
    // Those that have something to tell the event stores come after these.
    planned.sort_by_key(|planned| matches!(planned.store, Store::S3(_)));
    let mut buckets = Vec::new();
    for Planned { name, takes, store } in planned {
        let sink: Box<dyn Sink> = match store {
            Store::Disabled => continue,
            Store::Stdout => Box::new(Stdout::default()),
            Store::Otel(otel) => Box::new(Otel::new(otel, stats.store(&name))?),
            Store::File(file) => Box::new(File::open(file)?),
            Store::S3(s3) => {
                let others = buckets.iter().filter(|bucket| **bucket == s3.bucket).count();
                buckets.push(s3.bucket.clone());
                let number = if others == 0 { String::new() } else { format!("-{}", others + 1) };
                let folder = Path::new(SPOOLS).join(format!("{}{number}", s3.bucket));
                let sink = S3::open(s3, &folder, stats.store(&name), outbox.to_event_stores(), last_sends);
                Box::new(sink.with_context(|| format!("the store for the bucket {} cannot start", s3.bucket))?)
            }
        };
        outbox.add(Destination { name, takes, sink }, threads, closed)?;
    }
    Ok(())
}

/// Exchanges the sinks for those of other settings. Those there were write what they were given first, for as long as
/// `patience`; what comes meanwhile is held. Where one of the new ones cannot be started, the old ones are again.
pub fn exchange(
    (old, new): (&Settings, &Settings),
    outbox: &Outbox,
    threads: &mut SinkThreads,
    (stats, closed): (&Stats, &Sender<()>),
    (patience, last_sends): (Duration, Duration),
) -> Result<()> {
    outbox.hold();
    for name in std::mem::take(threads).join(patience) {
        log::error!("the {name} store did not take its records within {} s: it goes on with them", patience.as_secs());
    }
    let start = |settings: &Settings| {
        let (mut others, mut threads) = (outbox.successor(), SinkThreads::default());
        let filled = fill(settings, &mut others, &mut threads, stats, closed, last_sends);
        filled.map(|()| (others, threads))
    };
    let started = start(new).or_else(|error| match start(old) {
        Ok(again) => Err((error, Some(again))),
        Err(worse) => {
            log::error!("nothing is written until a reload succeeds: {worse:#}");
            Err((error, None))
        }
    });
    let (running, result) = match started {
        Ok(running) => (Some(running), Ok(())),
        Err((error, again)) => (again, Err(error)),
    };
    let (others, running) = running.unwrap_or_else(|| (outbox.successor(), SinkThreads::default()));
    outbox.resume(others);
    *threads = running;
    result
}

/// A store, and what is to become of it.
#[derive(Debug, PartialEq)]
struct Planned<'a> {
    name: String,
    takes: Takes,
    store: &'a Store,
}

/// A store that is listed for both, or twice, is one. Several of a type are told apart by number: `file`, `file-2`.
fn plan(settings: &Settings) -> Vec<Planned<'_>> {
    let objects = settings.object_stores.iter().map(|store| (store, Takes { objects: true, events: false }));
    let events = settings.event_stores.iter().map(|store| (store, Takes { objects: false, events: true }));
    let mut planned: Vec<Planned> = Vec::new();
    for (store, takes) in objects.chain(events) {
        if let Some(same) = planned.iter_mut().find(|planned| planned.store == store) {
            same.takes.objects |= takes.objects;
            same.takes.events |= takes.events;
            continue;
        }
        let number = 1 + planned.iter().filter(|planned| planned.store.name() == store.name()).count();
        let name = if number == 1 { store.name().to_owned() } else { format!("{}-{number}", store.name()) };
        planned.push(Planned { name, takes, store });
    }
    planned
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn a_store_that_is_listed_twice_is_one() {
        let text = "version: 2
services:
  object_stores: [{type: stdout}, {type: file, path: /a}, {type: file, path: /b}, {type: stdout}]
  event_stores: [{type: file, path: /b}, {type: stdout}, {type: file, path: /c}]
";
        let settings = config::parse("test", text.as_bytes()).unwrap_or_else(|errors| panic!("{errors}"));
        let planned: Vec<_> = plan(&settings).into_iter().map(|one| (one.name, one.takes)).collect();
        let takes = |objects, events| Takes { objects, events };
        assert_eq!(
            planned,
            [
                ("stdout".to_owned(), takes(true, true)),
                ("file".to_owned(), takes(true, false)),
                ("file-2".to_owned(), takes(true, true)),
                ("file-3".to_owned(), takes(false, true)),
            ]
        );
    }
}
