//! A file of whole lines: what is appended to it is in it in full or not at all, also after the process was killed.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// How much is read at a time in search of the last line's end.
const STEP: u64 = 64 * 1024;

/// Nobody else writes to it while it is open: it is locked (flock(2)).
pub(super) struct Lines {
    file: File,
    len: u64,
    /// What could not be written whole could not be cut off either: to be done before anything else.
    is_torn: bool,
}

impl Lines {
    /// Opens the file, or makes it for its owner alone, and cuts off what follows its last line end: so many bytes.
    pub(super) fn open(path: &Path) -> io::Result<(Lines, u64)> {
        let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(ErrorKind::InvalidInput, "not a regular file"));
        }
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(io::Error::new(ErrorKind::WouldBlock, "another store or process is writing to it"));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let found = file.metadata()?.len();
        let len = whole_lines(&mut file, found)?;
        if len < found {
            file.set_len(len)?;
        }
        Ok((Lines { file, len, is_torn: false }, found - len))
    }

    /// Bytes in the file.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Appends whole lines. After an error none of them is in the file.
    pub(super) fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.is_torn {
            self.file.set_len(self.len)?;
            self.is_torn = false;
        }
        if let Err(error) = self.file.write_all(lines) {
            self.is_torn = self.file.set_len(self.len).is_err();
            return Err(error);
        }
        self.len += lines.len() as u64;
        Ok(())
    }

    /// Waits until all of it is on the disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }
}

/// Makes a folder and those above it, for their owner alone.
pub(super) fn make_folder(path: &Path) -> io::Result<()> {
    if path.as_os_str().is_empty() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// How many bytes there are up to the last line end, that included.
fn whole_lines(file: &mut File, len: u64) -> io::Result<u64> {
    let mut end = len;
    let mut step = Vec::new();
    while end > 0 {
        let start = end.saturating_sub(STEP);
        file.seek(SeekFrom::Start(start))?;
        step.resize((end - start) as usize, 0);
        file.read_exact(&mut step)?;
        if let Some(at) = memchr::memrchr(b'\n', &step) {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::sink::sample::Folder;

    #[test]
    fn a_torn_line_is_cut_off() {
        let folder = Folder::new("lines");
        let path = folder.0.join("file");
        let long = "x".repeat(3 * STEP as usize);
        for (before, after) in [
            ("", ""),
            ("torn", ""),
            ("a\n", "a\n"),
            ("a\nb", "a\n"),
            (&format!("{long}\n"), &format!("{long}\n")),
            (&format!("a\n{long}"), "a\n"),
            (&format!("{long}\n{long}"), &format!("{long}\n")),
        ] {
            fs::write(&path, before).unwrap();
            let (mut lines, cut) = Lines::open(&path).unwrap();
            assert_eq!((cut as usize, lines.len() as usize), (before.len() - after.len(), after.len()));
            lines.append(b"next\n").unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), format!("{after}next\n"));
        }
    }

    #[test]
    fn only_the_owner_may_read_it_and_only_one_may_write_to_it() {
        let folder = Folder::new("lines-lock");
        let path = folder.0.join("file");
        let (lines, _) = Lines::open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let error = Lines::open(&path).err().expect("refused");
        assert_eq!(error.to_string(), "another store or process is writing to it");
        drop(lines);
        assert!(Lines::open(&path).is_ok());
        assert_eq!(Lines::open(Path::new("/dev/null")).err().expect("refused").to_string(), "not a regular file");
    }

    /// /dev/full takes nothing; a limit on the size of files takes a part. Neither is at hand here without other tests
    /// noticing, so the file is replaced by one that is open for reading only: what is asserted is the answer.
    #[test]
    fn what_cannot_be_written_is_not_there() {
        let folder = Folder::new("lines-full");
        let path = folder.0.join("file");
        let (mut lines, _) = Lines::open(&path).unwrap();
        lines.append(b"a\n").unwrap();
        let writable = std::mem::replace(&mut lines.file, File::open(&path).unwrap());
        assert!(lines.append(b"b\n").is_err());
        assert!(lines.is_torn && lines.len() == 2);
        // As if a part of the line had made it.
        fs::write(&path, "a\nb").unwrap();
        lines.file = writable;
        lines.append(b"c\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "a\nc\n");
    }
}
