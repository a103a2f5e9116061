//! Records on disk until their store has them: a folder of segments, each of them whole lines, sent one after the other.
//!
//! What [`Spool::put`] took survives the end of the process at any moment: it is in the kernel's hands, in the segment that
//! is open. A segment is closed when it is full or old enough; then it is on the disk itself (fdatasync(2)), so that a
//! failure of the machine costs at most what came since the segment was begun. A segment goes when the store has it, or,
//! the oldest first, when the folder is full: that is counted. One that cannot be read as it was written is set aside.
//!
//! A closed segment says in its name how to check it: `ID-RECORDS-BYTES-CRC.ndjson`, an open one is `ID.open`. Its id is the
//! time at which it was begun, in µs since the epoch, and stays the same however often it is sent.

use std::collections::VecDeque;
use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use flate2::Crc;
use serde::de::IgnoredAny;

use super::lines::{Lines, make_folder};
use crate::machine;
use crate::stats::StoreStats;

/// Where segments go that are not what they were.
const ASIDE: &str = "corrupt";

/// How large a segment grows, how old it gets, and how large all of them together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) segment_bytes: u64,
    pub(super) segment_age: Duration,
    pub(super) total_bytes: u64,
}

pub(super) struct Spool {
    folder: PathBuf,
    bounds: Bounds,
    state: Mutex<State>,
    stats: Arc<StoreStats>,
    /// Locked as long as the spool is open.
    _lock: File,
}

#[derive(Default)]
struct State {
    open: Option<Open>,
    /// Closed, the oldest first.
    closed: VecDeque<Segment>,
    closed_bytes: u64,
    /// Of the segment that is being sent.
    in_hand: Option<u64>,
    last_id: u64,
    /// Batches and bytes, as they were last told to the counters.
    told: (u64, u64),
    /// It was said that records are dropped.
    is_dropping: bool,
}

/// The segment that is written to.
struct Open {
    id: u64,
    lines: Lines,
    records: u64,
    crc: Crc,
    began: Instant,
}

/// A closed segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    /// When it was begun, in µs since the epoch.
    pub(super) id: u64,
    pub(super) records: u64,
    pub(super) bytes: u64,
    crc: u32,
}

impl Spool {
    /// Opens a folder, or makes it, and takes over what an earlier process left in it.
    pub(super) fn open(folder: &Path, bounds: Bounds, stats: Arc<StoreStats>) -> Result<Spool> {
        let what = || format!("cannot use the spool folder {}; name another under `spool.path`", folder.display());
        make_folder(folder).with_context(what)?;
        let lock =
            fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(folder.join("lock"));
        let mut lock = lock.with_context(what)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!(
                "the spool folder {} is in use by another process or store; each needs its own: set `spool.path`",
                folder.display()
            ),
            Err(TryLockError::Error(error)) => return Err(error).with_context(what),
        }
        // A folder on a disk that is full or read-only is better known now.
        lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id())).with_context(what)?;
        let spool = Spool { folder: folder.to_owned(), bounds, state: Mutex::default(), stats, _lock: lock };
        spool.take_over().with_context(what)?;
        Ok(spool)
    }

    /// Adds whole lines. After an error none of them was taken. Answers whether the one who sends has something new to
    /// look at: a segment was begun or closed.
    pub(super) fn put(&self, lines: &[u8], records: u64) -> io::Result<bool> {
        let mut state = self.state();
        let mut is_news = false;
        if state.open.is_none() {
            state.open = Some(self.begin(&mut state.last_id)?);
            is_news = true;
        }
        let open = state.open.as_mut().expect("it was just begun");
        open.lines.append(lines)?;
        open.records += records;
        open.crc.update(lines);
        // By age, too: during an outage the one who sends has no time to look.
        if open.lines.len() >= self.bounds.segment_bytes || open.began.elapsed() >= self.bounds.segment_age {
            self.close_in(&mut state)?;
            is_news = true;
        }
        self.keep_within_bounds(&mut state);
        self.tell(&mut state);
        Ok(is_news)
    }

    /// Closes the segment that is written to, if it is at least so old.
    pub(super) fn close_if_older(&self, age: Duration) -> io::Result<()> {
        let mut state = self.state();
        if state.open.as_ref().is_some_and(|open| open.began.elapsed() >= age) {
            self.close_in(&mut state)?;
        }
        Ok(())
    }

    /// When the segment that is written to is to be closed.
    pub(super) fn due(&self) -> Option<Instant> {
        self.state().open.as_ref().map(|open| open.began + self.bounds.segment_age)
    }

    pub(super) fn close_if_due(&self) -> io::Result<()> {
        self.close_if_older(self.bounds.segment_age)
    }

    /// The oldest segment, which stays until it is [`Spool::done`] with.
    pub(super) fn take(&self) -> Option<Segment> {
        let mut state = self.state();
        let oldest = state.closed.front().copied();
        state.in_hand = oldest.map(|segment| segment.id);
        oldest
    }

    /// A segment's lines. One that is not what it was is set aside, and none.
    pub(super) fn read(&self, segment: &Segment) -> Option<Vec<u8>> {
        let path = self.folder.join(segment.name());
        let result = fs::read(&path).map_err(|error| error.to_string()).and_then(|lines| {
            let mut crc = Crc::new();
            crc.update(&lines);
            let is_same = lines.len() as u64 == segment.bytes && crc.sum() == segment.crc;
            is_same.then_some(lines).ok_or_else(|| "its checksum is wrong".to_owned())
        });
        match result {
            Ok(lines) => Some(lines),
            Err(why) => {
                self.set_aside(&path, &why);
                self.stats.lost_spool.add(segment.records);
                self.forget(segment);
                None
            }
        }
    }

    /// The store has it.
    pub(super) fn done(&self, segment: &Segment) {
        let path = self.folder.join(segment.name());
        if let Err(error) = fs::remove_file(&path) {
            log::error!("{} was sent and cannot be deleted, it will be sent again: {error}", path.display());
        }
        self.forget(segment);
    }

    /// Records and bytes that wait to be sent.
    pub(super) fn waiting(&self) -> (u64, u64) {
        let state = self.state();
        let open = state.open.as_ref().map_or((0, 0), |open| (open.records, open.lines.len()));
        let records = state.closed.iter().map(|segment| segment.records).sum::<u64>();
        (records + open.0, state.closed_bytes + open.1)
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics with the spool locked")
    }

    fn begin(&self, last_id: &mut u64) -> io::Result<Open> {
        // Later than the last one, also where the clock was set back.
        let id = (machine::now().as_micros() as u64).max(*last_id + 1);
        let (lines, _) = Lines::open(&self.folder.join(open_name(id)))?;
        *last_id = id;
        Ok(Open { id, lines, records: 0, crc: Crc::new(), began: Instant::now() })
    }

    fn close_in(&self, state: &mut State) -> io::Result<()> {
        let Some(open) = &state.open else { return Ok(()) };
        if open.records == 0 {
            // The disk was full when it was begun.
            let path = self.folder.join(open_name(open.id));
            state.open = None;
            return fs::remove_file(path);
        }
        open.lines.sync()?;
        let segment = Segment { id: open.id, records: open.records, bytes: open.lines.len(), crc: open.crc.sum() };
        fs::rename(self.folder.join(open_name(open.id)), self.folder.join(segment.name()))?;
        state.open = None;
        state.closed_bytes += segment.bytes;
        state.closed.push_back(segment);
        // The name, too, is to survive the machine.
        File::open(&self.folder)?.sync_all()
    }

    /// Drops the oldest segments that nobody is sending.
    fn keep_within_bounds(&self, state: &mut State) {
        while state.closed_bytes + state.open.as_ref().map_or(0, |open| open.lines.len()) > self.bounds.total_bytes {
            let Some(at) = state.closed.iter().position(|segment| Some(segment.id) != state.in_hand) else { return };
            let segment = state.closed.remove(at).expect("it was just found");
            state.closed_bytes -= segment.bytes;
            self.stats.lost_spool.add(segment.records);
            if !std::mem::replace(&mut state.is_dropping, true) {
                log::error!(
                    "the spool of the {} store is full ({} bytes in {}): the oldest records are lost until it has room",
                    self.stats.name,
                    self.bounds.total_bytes,
                    self.folder.display()
                );
            }
            if let Err(error) = fs::remove_file(self.folder.join(segment.name())) {
                log::error!("{} cannot be deleted: {error}", self.folder.join(segment.name()).display());
                return;
            }
        }
    }

    fn forget(&self, segment: &Segment) {
        let mut state = self.state();
        state.closed.retain(|other| other.id != segment.id);
        state.closed_bytes = state.closed.iter().map(|segment| segment.bytes).sum();
        state.in_hand = None;
        state.is_dropping &= !state.closed.is_empty();
        self.tell(&mut state);
    }

    /// Tells the counters how much waits.
    fn tell(&self, state: &mut State) {
        let open = state.open.as_ref().map_or(0, |open| open.lines.len());
        let batches = state.closed.len() + usize::from(state.open.is_some());
        let now = (batches as u64, state.closed_bytes + open);
        let before = std::mem::replace(&mut state.told, now);
        self.stats.spool_batches.adjust(before.0, now.0);
        self.stats.spool_bytes.adjust(before.1, now.1);
    }

    /// What is in the folder from before.
    fn take_over(&self) -> io::Result<()> {
        let mut state = self.state();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let segment = if let Some(id) = name.strip_suffix(".open").and_then(|id| id.parse().ok()) {
                self.recover(id, &entry.path())?
            } else if name.ends_with(".ndjson") {
                self.known(&name, &entry)?
            } else {
                None
            };
            state.closed.extend(segment);
        }
        state.closed.make_contiguous().sort_by_key(|segment| segment.id);
        state.closed_bytes = state.closed.iter().map(|segment| segment.bytes).sum();
        state.last_id = state.closed.back().map_or(0, |segment| segment.id);
        self.keep_within_bounds(&mut state);
        self.tell(&mut state);
        let records: u64 = state.closed.iter().map(|segment| segment.records).sum();
        if records > 0 {
            log::info!("{records} records in {} from before are sent first", self.folder.display());
        }
        Ok(())
    }

    /// A closed segment, if it is as long as its name says; the checksum is looked at when it is sent.
    fn known(&self, name: &str, entry: &fs::DirEntry) -> io::Result<Option<Segment>> {
        let segment = Segment::from_name(name);
        let bytes = entry.metadata()?.len();
        if let Some(segment) = segment.filter(|segment| segment.bytes == bytes) {
            return Ok(Some(segment));
        }
        self.set_aside(&entry.path(), "it is not as long as its name says");
        self.stats.lost_spool.add(segment.map_or(0, |segment| segment.records));
        Ok(None)
    }

    /// A segment that a process wrote to when it ended.
    fn recover(&self, id: u64, path: &Path) -> io::Result<Option<Segment>> {
        let (lines, cut) = Lines::open(path)?;
        if cut > 0 {
            log::warn!("{}: {cut} bytes at its end were a piece of a record, and are cut off", path.display());
        }
        if lines.len() == 0 {
            fs::remove_file(path)?;
            return Ok(None);
        }
        let bytes = fs::read(path)?;
        let is_record = |line: &[u8]| serde_json::from_slice::<IgnoredAny>(line).is_ok();
        if !bytes.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).all(is_record) {
            self.set_aside(path, "it has lines that are no records");
            return Ok(None);
        }
        let mut crc = Crc::new();
        crc.update(&bytes);
        let records = memchr::memchr_iter(b'\n', &bytes).count() as u64;
        let segment = Segment { id, records, bytes: lines.len(), crc: crc.sum() };
        lines.sync()?;
        fs::rename(path, self.folder.join(segment.name()))?;
        Ok(Some(segment))
    }

    fn set_aside(&self, path: &Path, why: &str) {
        let aside = self.folder.join(ASIDE);
        let to = aside.join(path.file_name().unwrap_or_default());
        match make_folder(&aside).and_then(|()| fs::rename(path, &to)) {
            Ok(()) => log::error!("{} is corrupt ({why}), and set aside as {}", path.display(), to.display()),
            Err(error) if error.kind() == ErrorKind::NotFound => log::error!("{} is gone", path.display()),
            Err(error) => log::error!("{} is corrupt ({why}), and cannot be set aside: {error}", path.display()),
        }
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        let (batches, bytes) = self.state().told;
        self.stats.spool_batches.adjust(batches, 0);
        self.stats.spool_bytes.adjust(bytes, 0);
    }
}

impl Segment {
    fn name(&self) -> String {
        format!("{:020}-{}-{}-{:08x}.ndjson", self.id, self.records, self.bytes, self.crc)
    }

    fn from_name(name: &str) -> Option<Segment> {
        let mut parts = name.strip_suffix(".ndjson")?.split('-');
        let segment = Segment {
            id: parts.next()?.parse().ok()?,
            records: parts.next()?.parse().ok()?,
            bytes: parts.next()?.parse().ok()?,
            crc: u32::from_str_radix(parts.next()?, 16).ok()?,
        };
        (segment.name() == name).then_some(segment)
    }
}

fn open_name(id: u64) -> String {
    format!("{id:020}.open")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::sample::Folder;

    const BOUNDS: Bounds = Bounds { segment_bytes: 100, segment_age: Duration::from_secs(60), total_bytes: 1000 };

    fn open(folder: &Folder) -> Result<Spool> {
        Spool::open(&folder.0.join("spool"), BOUNDS, Arc::default())
    }

    /// A line of 50 bytes.
    fn line(number: usize) -> Vec<u8> {
        let mut line = format!("{{\"number\":{number},\"fill\":\"").into_bytes();
        line.resize(47, b'x');
        line.extend(b"\"}\n");
        line
    }

    fn put(spool: &Spool, numbers: std::ops::Range<usize>) {
        for number in numbers {
            spool.put(&line(number), 1).unwrap();
        }
    }

    /// Everything that is in it, as the one who sends sees it.
    fn drain(spool: &Spool) -> String {
        let mut all = Vec::new();
        while let Some(segment) = spool.take() {
            if let Some(lines) = spool.read(&segment) {
                all.extend(lines);
                spool.done(&segment);
            }
        }
        String::from_utf8(all).unwrap()
    }

    fn lines(numbers: std::ops::Range<usize>) -> String {
        String::from_utf8(numbers.flat_map(line).collect()).unwrap()
    }

    fn files(spool: &Spool) -> Vec<String> {
        let files = fs::read_dir(spool.folder()).unwrap();
        let mut names: Vec<_> = files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| name != "lock");
        names.sort();
        names
    }

    #[test]
    fn what_was_put_comes_out_in_order_once() {
        let folder = Folder::new("spool");
        let spool = open(&folder).unwrap();
        let news: Vec<_> = (0..5).map(|number| spool.put(&line(number), 1).unwrap()).collect();
        assert_eq!(news, [true, true, true, true, true]);
        assert_eq!(spool.waiting(), (5, 250));
        assert_eq!((spool.stats.spool_batches.get(), spool.stats.spool_bytes.get()), (3, 250));
        assert!(spool.due().is_some());
        spool.close_if_due().unwrap();
        assert!(spool.due().is_some(), "it is not a minute old");
        spool.close_if_older(Duration::ZERO).unwrap();
        assert_eq!(drain(&spool), lines(0..5));
        assert_eq!((spool.waiting(), files(&spool).len()), ((0, 0), 0));
        assert_eq!((spool.stats.spool_batches.get(), spool.stats.spool_bytes.get()), (0, 0));
    }

    #[test]
    fn what_was_put_is_there_after_the_process_was_killed() {
        let folder = Folder::new("spool-kill");
        let spool = open(&folder).unwrap();
        put(&spool, 0..3);
        // Nothing is closed or told to end, as after SIGKILL; the one that was being written is torn.
        let open_file = files(&spool).into_iter().find(|name| name.ends_with(".open")).unwrap();
        let path = spool.folder().join(open_file);
        drop(spool);
        fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"torn").unwrap();
        let spool = open(&folder).unwrap();
        assert_eq!(spool.waiting(), (3, 150));
        spool.put(&line(3), 1).unwrap();
        spool.close_if_older(Duration::ZERO).unwrap();
        assert_eq!(drain(&spool), lines(0..4));
    }

    #[test]
    fn what_is_old_enough_is_closed_though_nobody_sends() {
        let folder = Folder::new("spool-age");
        let spool = open(&folder).unwrap();
        spool.put(&line(0), 1).unwrap();
        spool.state().open.as_mut().unwrap().began -= BOUNDS.segment_age;
        assert!(spool.put(b"{}\n", 1).unwrap());
        assert_eq!(spool.take().map(|segment| segment.records), Some(2));
    }

    #[test]
    fn over_the_bound_the_oldest_go_and_are_counted() {
        let folder = Folder::new("spool-bound");
        let spool = open(&folder).unwrap();
        spool.put(&line(0), 1).unwrap();
        spool.put(&line(1), 1).unwrap();
        let in_hand = spool.take().unwrap();
        put(&spool, 2..40);
        assert_eq!(spool.waiting(), (20, 1000));
        assert_eq!(spool.stats.lost_spool.get(), 20);
        assert!(spool.read(&in_hand).is_some(), "what is being sent stays");
        assert_eq!(drain(&spool), lines(0..2) + &lines(22..40));
    }

    #[test]
    fn a_spool_has_one_owner() {
        let folder = Folder::new("spool-owner");
        let spool = open(&folder).unwrap();
        let error = open(&folder).err().expect("refused").to_string();
        assert!(error.contains("is in use by another process"), "{error}");
        drop(spool);
        open(&folder).unwrap();
    }

    #[test]
    fn what_waits_is_told_as_long_as_somebody_may_send_it() {
        let folder = Folder::new("spool-told");
        let stats = Arc::<StoreStats>::default();
        let open = || Spool::open(&folder.0.join("spool"), BOUNDS, stats.clone()).unwrap();
        let told = || (stats.spool_batches.get(), stats.spool_bytes.get());
        let spool = open();
        put(&spool, 0..3);
        assert_eq!(told(), (2, 150));
        drop(spool);
        assert_eq!(told(), (0, 0));
        let _spool = open();
        assert_eq!(told(), (2, 150));
    }

    #[test]
    fn what_is_corrupt_is_set_aside() {
        let folder = Folder::new("spool-corrupt");
        let spool = open(&folder).unwrap();
        put(&spool, 0..9);
        let names = files(&spool);
        let path = |number: usize| spool.folder().join(&names[number]);
        fs::write(path(0), line(7).repeat(2)).unwrap();
        fs::write(path(1), "short").unwrap();
        fs::remove_file(path(2)).unwrap();
        fs::write(path(4), "\0\0\0\n").unwrap();
        fs::write(spool.folder().join("1-2-3.ndjson"), "no such name").unwrap();
        drop(spool);
        let spool = open(&folder).unwrap();
        assert_eq!(drain(&spool), lines(6..8));
        let aside = fs::read_dir(spool.folder().join(ASIDE)).unwrap().count();
        assert_eq!((aside, spool.stats.lost_spool.get()), (4, 4));
        assert_eq!(files(&spool), [ASIDE]);
    }

    #[test]
    fn a_folder_that_cannot_be_used_is_named() {
        let error = Spool::open(Path::new("/proc/none"), BOUNDS, Arc::default()).err().expect("an error");
        let error = format!("{error:#}");
        assert!(
            error.starts_with("cannot use the spool folder /proc/none; name another under `spool.path`: "),
            "{error}"
        );
    }
}
