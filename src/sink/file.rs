//! Records in a file, which is put aside once it is full or old enough.
//!
//! The file holds whole records only: also when the disk is full, and after the process was killed, once it is opened
//! again. What the disk does not take stays in a buffer of bounded size; what that does not take is refused.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::SystemTime;

use anyhow::{Context, Result};

use super::lines::{Lines, make_folder};
use super::put_aside::{put_aside, tidy};
use super::{Formatter, Sink};
use crate::config::{FileStore, Rotate};
use crate::exchange::Record;

/// The buffer is written out when it has this many bytes.
const FULL: usize = 256 * 1024;

/// Memory above this is given back after a large record.
const KEEP: usize = 4 * FULL;

pub struct File {
    path: PathBuf,
    rotate: Option<Rotate>,
    lines: Lines,
    /// When the file's first record was written, as near as can be known.
    began: SystemTime,
    formatter: Formatter,
    /// Whole records that are not in the file yet.
    buffer: Vec<u8>,
    waiting: u64,
    /// Compresses and deletes what was put aside.
    tidying: Option<JoinHandle<()>>,
    /// It was said that the file cannot be put aside.
    is_stuck: bool,
}

impl File {
    /// Opens the file to add to it. Folders that are missing are made.
    pub fn open(store: &FileStore) -> Result<File> {
        let path = store.path.clone();
        let what = || format!("cannot write to the file {}", path.display());
        make_folder(path.parent().unwrap_or(Path::new(""))).with_context(what)?;
        let (lines, cut) = Lines::open(&path).with_context(what)?;
        if cut > 0 {
            log::warn!("{}: {cut} bytes at its end were a piece of a record, and are cut off", path.display());
        }
        let began = began(&lines);
        let mut file = File {
            path,
            rotate: store.rotate,
            lines,
            began,
            formatter: Formatter::default(),
            buffer: Vec::new(),
            waiting: 0,
            tidying: None,
            is_stuck: false,
        };
        file.tidy();
        Ok(file)
    }

    fn write_out(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        self.lines.append(&self.buffer)?;
        self.buffer.clear();
        self.waiting = 0;
        if self.buffer.capacity() > KEEP {
            self.buffer.shrink_to(FULL);
        }
        Ok(())
    }

    /// Answers how many bytes are in the buffer.
    fn make_room(&mut self) -> io::Result<usize> {
        if self.buffer.len() >= FULL {
            self.write_out()?;
        }
        Ok(self.buffer.len())
    }

    /// A record was put behind the first `before` bytes of the buffer.
    fn added(&mut self, before: usize) {
        if self.is_due(before) {
            let record = self.buffer.split_off(before);
            // Where that fails the record stays in this file's buffer; the next one that is written out says so.
            if self.write_out().is_ok() {
                self.begin_anew();
            }
            self.buffer.extend_from_slice(&record);
        }
        self.waiting += 1;
    }

    /// Whether the record behind the first `before` bytes of the buffer belongs into the next file.
    fn is_due(&self, before: usize) -> bool {
        let Some(rotate) = self.rotate else { return false };
        if self.lines.len() + before as u64 == 0 {
            return false;
        }
        let is_full = rotate.max_bytes.is_some_and(|max| self.lines.len() + self.buffer.len() as u64 > max);
        // A clock that was set back makes no file old.
        let age = self.began.elapsed().unwrap_or_default();
        is_full || rotate.max_age.is_some_and(|max| age > max)
    }

    /// Goes on in a new file.
    fn begin_anew(&mut self) {
        let result = put_aside(&self.path).and_then(|()| Lines::open(&self.path));
        match result {
            Ok((lines, _)) => {
                (self.lines, self.began, self.is_stuck) = (lines, SystemTime::now(), false);
                self.tidy();
            }
            Err(error) if !std::mem::replace(&mut self.is_stuck, true) => {
                log::error!("{} cannot be put aside, and grows: {error}", self.path.display());
            }
            Err(_) => {}
        }
    }

    /// In a thread of its own: compressing takes seconds. While one is at it, what is new is left to the next.
    fn tidy(&mut self) {
        let Some(rotate) = self.rotate else { return };
        if self.tidying.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return;
        }
        let path = self.path.clone();
        let work = move || {
            if let Err(error) = tidy(&path, &rotate) {
                log::error!("what was put aside of {} cannot be put in order: {error}", path.display());
            }
        };
        self.tidying = thread::Builder::new().name("tidying".into()).spawn(work).ok();
    }
}

/// When the file was made; now where the file system does not say, or the file is empty.
fn began(lines: &Lines) -> SystemTime {
    let made = lines.file().metadata().and_then(|metadata: fs::Metadata| metadata.created());
    made.ok().filter(|_| lines.len() > 0).unwrap_or_else(SystemTime::now)
}

impl Sink for File {
    fn write(&mut self, record: &Record) -> io::Result<()> {
        let before = self.make_room()?;
        self.formatter.append(&mut self.buffer, record);
        self.added(before);
        Ok(())
    }

    fn write_line(&mut self, line: &[u8]) -> io::Result<()> {
        let before = self.make_room()?;
        self.buffer.extend_from_slice(line);
        self.added(before);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.write_out()
    }

    fn close(&mut self) -> io::Result<()> {
        self.write_out()?;
        self.lines.sync()
    }

    fn waiting(&self) -> u64 {
        self.waiting
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::Compression;
    use crate::exchange::{Format, Level};
    use crate::sink::sample::{Folder, ingress, written};

    fn record(path: &str) -> Record {
        ingress().request(format!("GET {path} HTTP/1.1\nHost: a.test\n"), "").record(Level::Full, Format::Json)
    }

    fn store(folder: &Folder, rotate: Option<Rotate>) -> FileStore {
        FileStore { path: folder.0.join("logs/out.json"), rotate }
    }

    /// The files beside it, by name, without the time in it.
    fn names(store: &FileStore) -> Vec<String> {
        let files = fs::read_dir(store.path.parent().unwrap()).unwrap();
        let mut names: Vec<_> = files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn it_goes_on_where_it_was_and_repairs_a_torn_record() {
        let folder = Folder::new("file");
        let store = store(&folder, None);
        for _ in 0..2 {
            let mut file = File::open(&store).unwrap();
            file.write(&record("/a")).unwrap();
            assert_eq!(file.waiting(), 1);
            file.close().unwrap();
            assert_eq!(file.waiting(), 0);
        }
        let whole = fs::read(&store.path).unwrap();
        assert_eq!(whole, written(&record("/a")).repeat(2).into_bytes());
        fs::write(&store.path, &whole[..whole.len() - 10]).unwrap();
        let mut file = File::open(&store).unwrap();
        file.write(&record("/b")).unwrap();
        file.flush().unwrap();
        let text = fs::read_to_string(&store.path).unwrap();
        assert_eq!(text, written(&record("/a")) + &written(&record("/b")));
    }

    #[test]
    fn full_files_are_put_aside_compressed_and_only_so_many_are_kept() {
        for (compression, suffix) in [(Compression::Zstd, ".zst"), (Compression::Gzip, ".gz"), (Compression::None, "Z")]
        {
            let folder = Folder::new("file-rotate");
            let one = written(&record("/0")).len() as u64;
            let rotate = Rotate { max_bytes: Some(2 * one), max_age: None, keep: 3, compression };
            let store = store(&folder, Some(rotate));
            let mut file = File::open(&store).unwrap();
            for number in 0..9 {
                file.write(&record(&format!("/{number}"))).unwrap();
                if let Some(thread) = file.tidying.take() {
                    thread.join().unwrap();
                }
            }
            file.close().unwrap();
            drop(file);
            // As if it had been killed in the middle of compressing.
            fs::write(store.path.with_file_name("out.json.20000101T000000.000000000Z.zst.part"), "x").unwrap();
            File::open(&store).unwrap().tidying.take().expect("it tidies up").join().unwrap();
            let names = names(&store);
            assert_eq!(names.len(), 4, "{names:?}");
            assert!(names[1..].iter().all(|name| name.ends_with(suffix)), "{names:?}");
            assert_eq!(fs::read_to_string(&store.path).unwrap(), written(&record("/8")));
            let newest = fs::read(store.path.with_file_name(&names[3])).unwrap();
            let newest = match compression {
                Compression::Zstd => zstd::decode_all(&newest[..]).unwrap(),
                Compression::Gzip => {
                    io::read_to_string(flate2::read::GzDecoder::new(&newest[..])).unwrap().into_bytes()
                }
                Compression::None => newest,
            };
            assert_eq!(newest, (written(&record("/6")) + &written(&record("/7"))).into_bytes());
        }
    }

    #[test]
    fn an_old_file_is_put_aside() {
        let folder = Folder::new("file-age");
        let rotate =
            Rotate { max_bytes: None, max_age: Some(Duration::from_secs(60)), keep: 5, compression: Compression::None };
        let store = store(&folder, Some(rotate));
        let mut file = File::open(&store).unwrap();
        file.write(&record("/a")).unwrap();
        file.began -= Duration::from_secs(61);
        file.write(&record("/b")).unwrap();
        file.write(&record("/c")).unwrap();
        file.close().unwrap();
        assert_eq!(names(&store).len(), 2);
        assert_eq!(fs::read_to_string(&store.path).unwrap(), written(&record("/b")) + &written(&record("/c")));
    }

    #[test]
    fn a_path_that_cannot_be_is_named() {
        let store = FileStore { path: "/proc/none/out.json".into(), rotate: None };
        let error = format!("{:#}", File::open(&store).err().expect("an error"));
        assert!(error.starts_with("cannot write to the file /proc/none/out.json: "), "{error}");
    }
}
