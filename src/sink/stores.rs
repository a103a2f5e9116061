//! From the stores of a configuration to running sinks: which there are, what they are called, what each of them takes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use crossbeam_channel::Sender;

use super::queue::{Destination, Lines, Opener, Outbox, SinkThreads, Takes};
use super::{File, Otel, S3, Stdout, otel};
use crate::config::{OtelProtocol, Settings, SpoolFolder, Store};
use crate::stats::{Memory, Stats};

/// Where records wait for a store that does not say where, each in a folder of its own.
const SPOOLS: &str = "/var/lib/sidetap/spool";

/// That of an `otel` store. No bucket's name has an underscore.
const OTEL_FOLDER: &str = "otel_logs";

/// The stores that records go to, and the sinks' threads.
pub struct Stores {
    running: Vec<Planned>,
    threads: SinkThreads,
    stats: Arc<Stats>,
    last_sends: Duration,
}

impl Stores {
    /// Starts the sinks of all stores. `closed` hears of one whose other end is gone for good. `last_sends`: how long
    /// stores over the network may take at their end; what they keep on disk they send at the next start.
    pub fn start(
        settings: &Settings,
        memory: Arc<Memory>,
        stats: Arc<Stats>,
        closed: &Sender<()>,
        last_sends: Duration,
    ) -> Result<(Outbox, Stores)> {
        let (outbox, threads) = Outbox::start(Vec::new(), memory, stats.clone(), closed)?;
        let mut stores = Stores { running: Vec::new(), threads, stats, last_sends };
        stores.replace(settings, &outbox)?;
        Ok((outbox, stores))
    }

    /// From now on records go where these settings say. A store that was there before goes on as it is. After an error
    /// everything is as it was.
    pub fn replace(&mut self, settings: &Settings, outbox: &Outbox) -> Result<()> {
        let planned = plan(settings, &self.running)?;
        let (mut keep, mut new) = (Vec::new(), Vec::new());
        for Planned { name, takes, store, place } in planned.clone() {
            if self.running.iter().any(|running| running.store == store) {
                keep.push((name, takes));
            } else {
                let open = self.opener(&name, &store, place.as_deref(), outbox)?;
                new.push(Destination { name, takes, lines: lines(&store), place, open });
            }
        }
        self.threads.replace(outbox, &keep, new)?;
        self.running = planned;
        Ok(())
    }

    /// What can be found wrong without the store's place is found here.
    fn opener(&self, name: &str, store: &Store, place: Option<&Path>, outbox: &Outbox) -> Result<Opener> {
        Ok(match store {
            Store::Stdout => Box::new(|| Ok(Box::new(Stdout::default()))),
            Store::File(file) => {
                let file = file.clone();
                Box::new(move || Ok(Box::new(File::open(&file)?)))
            }
            Store::S3(s3) => {
                let what = format!("the store for the bucket {} cannot start", s3.bucket);
                let bucket = S3::connect(s3).with_context(|| what.clone())?;
                let folder = place.context("a spool is in a folder")?.to_owned();
                let (s3, last_sends) = (s3.clone(), self.last_sends);
                let (stats, artifacts) = (self.stats.store(name), outbox.to_event_stores());
                Box::new(move || {
                    let sink = S3::open(&s3, bucket, &folder, stats, artifacts, last_sends);
                    Ok(Box::new(sink.context(what)?))
                })
            }
            Store::Otel(otel) if otel.protocol == OtelProtocol::Stdout => {
                let sink = otel::Printed::new(otel, self.stats.store(name));
                Box::new(|| Ok(Box::new(sink)))
            }
            Store::Otel(otel) => {
                let collector = Otel::connect(otel)?;
                let what = format!("the otel store at {} cannot start", otel.endpoint);
                let folder = place.context("a spool is in a folder")?.to_owned();
                let (otel, stats, last_sends) = (otel.clone(), self.stats.store(name), self.last_sends);
                Box::new(move || {
                    let sink = Otel::open(&otel, collector, &folder, stats, last_sends);
                    Ok(Box::new(sink.context(what)?))
                })
            }
            Store::Disabled => bail!("nothing is written to a disabled store"),
        })
    }

    /// Waits until the sinks have written what they were given; the outbox must be gone. Names those that did not
    /// make it in time, and how many records they leave, which are counted as lost.
    pub fn join(self, patience: Duration) -> Vec<(String, u64)> {
        self.threads.join(patience)
    }
}

/// A store, and what is to become of it.
#[derive(Debug, Clone, PartialEq)]
struct Planned {
    name: String,
    takes: Takes,
    store: Store,
    /// What nobody else can write to while this store does.
    place: Option<PathBuf>,
}

fn lines(store: &Store) -> Lines {
    match store {
        Store::Stdout | Store::File(_) => Lines::All,
        Store::S3(_) => Lines::Json,
        Store::Otel(_) | Store::Disabled => Lines::None,
    }
}

/// A store that is listed for both, or twice, is one. Several of a type are told apart by number: `file`, `file-2`. What is
/// running keeps name and place.
fn plan(settings: &Settings, running: &[Planned]) -> Result<Vec<Planned>> {
    let objects = settings.object_stores.iter().map(|store| (store, Takes { objects: true, events: false }));
    let events = settings.event_stores.iter().map(|store| (store, Takes { objects: false, events: true }));
    let mut wanted: Vec<(&Store, Takes)> = Vec::new();
    for (store, takes) in objects.chain(events) {
        if let Some((_, same)) = wanted.iter_mut().find(|(wanted, _)| *wanted == store) {
            same.objects |= takes.objects;
            same.events |= takes.events;
        } else if *store != Store::Disabled {
            wanted.push((store, takes));
        }
    }
    let mut planned: Vec<Planned> = Vec::new();
    for (store, takes) in &wanted {
        let same = running.iter().find(|running| running.store == **store);
        planned.extend(same.map(|same| Planned { takes: *takes, ..same.clone() }));
    }
    for (store, takes) in wanted {
        if planned.iter().any(|planned| planned.store == *store) {
            continue;
        }
        let name = first_free(store.name(), |name| planned.iter().any(|planned| planned.name == name));
        let place = place(store, &planned);
        if let Some(place) = &place
            && let Some(other) = planned.iter().find(|planned| planned.place.as_ref() == Some(place))
        {
            let place = place.display();
            bail!("the stores {} and {name} are both to write to {place}; each needs its own", other.name);
        }
        planned.push(Planned { name, takes, store: store.clone(), place });
    }
    Ok(planned)
}

/// What a store has open for itself; a folder that none of the `others` has, where it does not say which.
fn place(store: &Store, others: &[Planned]) -> Option<PathBuf> {
    match store {
        Store::File(file) => Some(file.path.clone()),
        Store::S3(s3) => Some(spool_folder(&s3.spool, &s3.bucket, others)),
        Store::Otel(otel) if otel.protocol != OtelProtocol::Stdout => {
            Some(spool_folder(&otel.spool, OTEL_FOLDER, others))
        }
        Store::Stdout => Some("/dev/stdout".into()),
        Store::Disabled | Store::Otel(_) => None,
    }
}

/// The one that is named, or one of its own.
fn spool_folder(spool: &SpoolFolder, name: &str, others: &[Planned]) -> PathBuf {
    let folder = |name: &str| Path::new(SPOOLS).join(name);
    let is_taken = |name: &str| others.iter().any(|other| other.place.as_ref() == Some(&folder(name)));
    spool.path.clone().unwrap_or_else(|| folder(&first_free(name, is_taken)))
}

/// The name, or with the first number from 2 on under which it is not taken.
fn first_free(name: &str, is_taken: impl Fn(&str) -> bool) -> String {
    let numbered = (2..).map(|number| format!("{name}-{number}"));
    let mut names = std::iter::once(name.to_owned()).chain(numbered);
    names.find(|name| !is_taken(name)).expect("there is always one more")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::exchange::{Format, Level};
    use crate::sink::sample::{Folder, ingress, written};

    fn settings(objects: &str, events: &str) -> Settings {
        let text = format!("version: 2\nservices:\n  object_stores: [{objects}]\n  event_stores: [{events}]\n");
        config::parse("test", text.as_bytes()).unwrap_or_else(|errors| panic!("{errors}"))
    }

    #[test]
    fn a_store_that_is_listed_twice_is_one() {
        let settings = settings(
            "{type: stdout}, {type: file, path: /a}, {type: file, path: /b}, {type: stdout}",
            "{type: file, path: /b}, {type: stdout}, {type: file, path: /c}, {type: disabled}",
        );
        let planned: Vec<_> = plan(&settings, &[]).unwrap().into_iter().map(|one| (one.name, one.takes)).collect();
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

    #[test]
    fn what_is_running_keeps_its_name_and_its_place() {
        let objects =
            "{type: file, path: /a}, {type: file, path: /b}, {type: s3, bucket: x}, {type: s3, bucket: x, prefix: p}";
        let first = plan(&settings(objects, ""), &[]).unwrap();
        let objects = "{type: file, path: /c}, {type: s3, bucket: x, prefix: q}, {type: s3, bucket: x, prefix: p}";
        let second = plan(&settings(objects, "{type: file, path: /b}"), &first).unwrap();
        let shown = |planned: &[Planned]| -> Vec<String> {
            planned.iter().map(|one| format!("{} {}", one.name, one.place.as_ref().unwrap().display())).collect()
        };
        let spool = |name: &str| format!("{SPOOLS}/{name}");
        let expected =
            ["file /a".into(), "file-2 /b".into(), format!("s3 {}", spool("x")), format!("s3-2 {}", spool("x-2"))];
        assert_eq!(shown(&first), expected);
        let expected =
            [format!("s3-2 {}", spool("x-2")), "file-2 /b".into(), "file /c".into(), format!("s3 {}", spool("x"))];
        assert_eq!(shown(&second), expected);
        assert_eq!(second[1].takes, Takes { objects: false, events: true });
    }

    #[test]
    fn two_stores_at_the_same_place_are_refused() {
        let twice = settings("{type: file, path: /a}, {type: file, path: /a, rotate: {max_bytes: 1MiB}}", "");
        let error = plan(&twice, &[]).unwrap_err().to_string();
        assert_eq!(error, "the stores file and file-2 are both to write to /a; each needs its own");
    }

    #[test]
    fn a_file_that_is_to_rotate_from_now_on_goes_on_where_it_was() {
        let (folder, bounds) = (Folder::new("stores"), Duration::from_secs(60));
        let path = folder.0.join("out.json");
        let (stats, memory) = (Arc::new(Stats::default()), Arc::new(Memory::new(1 << 20)));
        let (closed, _closed) = crossbeam_channel::bounded(1);
        let file = |more: &str| settings(&format!("{{type: file, path: {}{more}}}", path.display()), "");
        let record = ingress().request("GET / HTTP/1.1\n", "").record(Level::Full, Format::Json);
        let line = written(&record);
        let send = |outbox: &Outbox, times: usize| {
            (0..times).for_each(|_| {
                let record = ingress().request("GET / HTTP/1.1\n", "").record(Level::Full, Format::Json);
                outbox.send(vec![record], 0);
            })
        };
        let (outbox, mut stores) = Stores::start(&file(""), memory, stats.clone(), &closed, bounds).unwrap();
        send(&outbox, 20);
        stores.replace(&file(", rotate: {max_bytes: 1MiB}"), &outbox).unwrap();
        send(&outbox, 20);
        let nowhere = settings("{type: file, path: /proc/none/out.json}", "");
        assert!(stores.replace(&nowhere, &outbox).is_err());
        send(&outbox, 2);
        drop(outbox);
        assert!(stores.join(bounds).is_empty());
        assert_eq!(std::fs::read_to_string(path).unwrap(), line.repeat(42));
        assert_eq!((stats.store("file").written.get(), stats.store("file").lost()), (42, 0));
    }
}
