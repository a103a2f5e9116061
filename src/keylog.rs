//! The file of `--keylog`: the secrets of the connections that are opened, as lines of an NSS key log, for Wireshark.
//!
//! Whoever has the file can read these connections: it is its owner's only, and is refused where it is not. A thread of
//! its own writes it; workers never wait for a disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, ensure};
use crossbeam_channel::{Receiver, Sender, bounded};
use zeroize::Zeroizing;

use crate::stats::Stats;
use crate::tls::keylog::Line;

/// Lines that wait to be written: those of some seconds of a busy machine.
const QUEUE: usize = 65_536;
/// The longest: a label, two random halves and two spaces.
const LONGEST: usize = 256;

/// The workers' end of the file. What the disk is too slow for is lost and counted.
pub struct KeyLog {
    lines: Sender<Zeroizing<String>>,
    stats: Arc<Stats>,
}

impl KeyLog {
    /// Opens or makes the file, and starts the thread that writes behind what is there; it ends with the key log.
    pub fn open(path: &Path, stats: Arc<Stats>) -> Result<(KeyLog, JoinHandle<()>)> {
        let name = path.display().to_string();
        let file = open(path).with_context(|| format!("cannot open the key log {name}"))?;
        let (lines, queue) = bounded(QUEUE);
        let of_thread = stats.clone();
        let thread = thread::Builder::new().name("keylog".into()).spawn(move || {
            if let Err(error) = write(file, &queue) {
                log::error!("cannot write the key log {name}: {error}; it ends here");
                of_thread.lost_keylog.add(1);
            }
        });
        Ok((KeyLog { lines, stats }, thread.context("cannot start the thread of the key log")?))
    }

    pub fn write(&self, line: &Line) {
        use std::fmt::Write;

        // Had it to grow, the secret would stay in what it leaves behind.
        let mut text = Zeroizing::new(String::with_capacity(LONGEST));
        writeln!(text, "{line}").expect("a string takes everything");
        if self.lines.try_send(text).is_err() {
            self.stats.lost_keylog.add(1);
        }
    }
}

/// To append to; for its owner only.
fn open(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    // Neither where a link leads, nor wait for the reader of a pipe.
    options.append(true).create(true).mode(0o600).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let file = options.open(path).map_err(|error| match error.raw_os_error() {
        Some(libc::ELOOP) => io::Error::new(error.kind(), "it is a symbolic link; name the file itself"),
        _ => error,
    })?;
    let metadata = file.metadata()?;
    ensure!(metadata.is_file(), "it is no plain file");
    ensure!(metadata.mode() & 0o077 == 0, "others may read or write it; `chmod 600` it, or name another");
    let user = fs::metadata("/proc/self").context("cannot tell whose process this is")?.uid();
    ensure!(metadata.uid() == user, "it belongs to user {}, not to {user}; name another", metadata.uid());
    Ok(file)
}

/// Until no more come. What there is is in the file before more is waited for: somebody may be looking at it.
fn write(file: File, queue: &Receiver<Zeroizing<String>>) -> io::Result<()> {
    let mut file = BufWriter::with_capacity(1 << 16, file);
    for line in queue {
        file.write_all(line.as_bytes())?;
        if queue.is_empty() {
            file.flush()?;
        }
    }
    file.flush()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::PathBuf;

    use super::*;
    use crate::tls::LogLabel;

    const LINE: Line = Line { label: LogLabel::ClientRandom, client_random: &[0xA5; 32], secret: &[0x0F; 48] };

    /// An empty folder for a test.
    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("sidetap-keylog-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir(&folder).unwrap();
        folder
    }

    fn refused(path: &Path) -> String {
        let error = KeyLog::open(path, Arc::default()).err().expect("it is refused");
        format!("{error:#}")
    }

    #[test]
    fn lines_are_appended_to_a_file_of_its_owner() {
        let folder = folder("append");
        let path = folder.join("keys");
        for _ in 0..2 {
            let (log, thread) = KeyLog::open(&path, Arc::default()).unwrap();
            log.write(&LINE);
            drop(log);
            thread.join().unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{LINE}\n{LINE}\n"));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert!(LINE.to_string().len() < LONGEST);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn what_others_may_read_is_refused() {
        let folder = folder("refuse");
        let (path, link) = (folder.join("keys"), folder.join("link"));
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(refused(&path).ends_with("`chmod 600` it, or name another"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        symlink(&path, &link).unwrap();
        assert!(refused(&link).ends_with("it is a symbolic link; name the file itself"));
        assert!(refused(Path::new("/dev/null")).ends_with("it is no plain file"));
        assert!(refused(&folder).starts_with("cannot open the key log"));
        assert!(KeyLog::open(&path, Arc::default()).is_ok());
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn what_the_disk_cannot_take_is_counted() {
        let (lines, queue) = bounded(1);
        let stats = Arc::new(Stats::default());
        let log = KeyLog { lines, stats: stats.clone() };
        log.write(&LINE);
        log.write(&LINE);
        assert_eq!((queue.len(), stats.lost_keylog.get()), (1, 1));
    }
}
