//! Where TLS libraries lie: in what a process has mapped, in its executable, in the usual folders of its root.
//!
//! Reads files of other processes, who choose what lies there: for the thread of this folder only.

use std::collections::HashSet;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::bpf;

/// Bytes read of a process's list of mappings; one is about a hundred.
const MAX_MAPS: u64 = 8 << 20;

/// More files of one folder are not looked through.
const MAX_FILES: usize = 65_536;

/// How the files of TLS libraries begin: their functions may be in no process yet.
const LIBRARIES: [&str; 6] = ["libcrypto.so", "libcrypto-", "libssl.so", "libssl-", "libgnutls.so", "libnettle.so"];

/// Folders of libraries, and those whose subfolders for an architecture are (Debian's).
const FOLDERS: [&str; 7] = ["usr/lib64", "usr/lib", "lib64", "lib", "usr/local/lib64", "usr/local/lib", "opt/ssl/lib"];
const ARCHITECTURES: [&str; 2] = ["usr/lib", "lib"];

/// A file, whatever path leads to it; another one that gets its number has another size or time. Not the time of its
/// inode's change: that is another one when the file loses its name, as on an upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct FileId {
    /// 0 for a file seen through an overlay: containers of one image share what lies beneath.
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

/// Code that a process has mapped from a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mapping {
    /// As the list of mappings writes it.
    pub device: String,
    pub inode: u64,
    /// The file itself, also where its path leads elsewhere by now.
    pub file: PathBuf,
    /// What to call it.
    pub name: String,
}

/// The code that a process has mapped, each file once.
pub(super) fn mappings(pid: u32) -> Vec<Mapping> {
    let Ok(maps) = File::open(format!("/proc/{pid}/maps")) else { return Vec::new() };
    let mut seen = HashSet::new();
    let mut mappings = Vec::new();
    let mut lines = BufReader::new(maps.take(MAX_MAPS));
    let mut line = Vec::new();
    while matches!(lines.read_until(b'\n', &mut line), Ok(read) if read > 0) {
        if let Some(mapping) = mapping(pid, &String::from_utf8_lossy(&line))
            && seen.insert((mapping.device.clone(), mapping.inode))
        {
            mappings.push(mapping);
        }
        line.clear();
    }
    mappings
}

/// The files that a process has mapped code from, as far as they can be opened.
pub(super) fn mapped_files(pid: u32) -> Vec<FileId> {
    mappings(pid).iter().filter_map(|mapping| open(&mapping.file)).map(|(_, id)| id).collect()
}

/// From `start-end perms offset device inode path`; none where it is no code of a file.
fn mapping(pid: u32, line: &str) -> Option<Mapping> {
    let mut fields = line.trim_end().splitn(6, ' ');
    let (range, permissions) = (fields.next()?, fields.next()?);
    let (device, inode, path) = (fields.nth(1)?, fields.next()?, fields.next()?);
    let inode = inode.parse().ok().filter(|&inode| inode != 0)?;
    // The list pads addresses with zeros, the names in map_files have none.
    let (start, end) = range.split_once('-')?;
    let (start, end) = (start.trim_start_matches('0'), end.trim_start_matches('0'));
    (permissions.as_bytes().get(2) == Some(&b'x')).then(|| Mapping {
        device: device.to_owned(),
        inode,
        file: format!("/proc/{pid}/map_files/{start}-{end}").into(),
        name: path.trim_start().to_owned(),
    })
}

/// The libraries of TLS in the usual folders beneath `root`.
pub(super) fn libraries(root: &Path) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = FOLDERS.iter().map(|folder| root.join(folder)).collect();
    for folder in ARCHITECTURES {
        folders.extend(entries(&root.join(folder), |name| name.ends_with("-linux-gnu")));
    }
    let is_library = |name: &str| LIBRARIES.iter().any(|library| name.starts_with(library));
    folders.iter().flat_map(|folder| entries(folder, is_library)).collect()
}

fn entries(folder: &Path, is_wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let wanted = entries.take(MAX_FILES).flatten().filter(|entry| entry.file_name().to_str().is_some_and(&is_wanted));
    wanted.map(|entry| entry.path()).collect()
}

/// A plain file and which one it is. A container chooses what lies in its root: opening a pipe would wait, opening a
/// device may do anything.
pub(super) fn open(path: &Path) -> Option<(File, FileId)> {
    let place = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path).ok()?;
    let metadata = place.metadata().ok()?;
    if !metadata.is_file() {
        return None;
    }
    let file = File::open(format!("/proc/self/fd/{}", place.as_raw_fd())).ok()?;
    let id = FileId::new(&metadata, bpf::is_overlay(&file));
    Some((file, id))
}

impl FileId {
    fn new(metadata: &Metadata, is_overlay: bool) -> FileId {
        FileId {
            device: if is_overlay { 0 } else { metadata.dev() },
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_of_files_is_found_in_a_list_of_mappings() {
        let line = "7f0-7f8 r-xp 00001000 fe:01 1234                       /usr/lib/lib a.so (deleted)\n";
        let found = mapping(5, line).expect("code of a file");
        assert_eq!(
            (found.device.as_str(), found.inode, found.name.as_str()),
            ("fe:01", 1234, "/usr/lib/lib a.so (deleted)")
        );
        assert_eq!(found.file, Path::new("/proc/5/map_files/7f0-7f8"));
        let low = mapping(5, "00401000-0059f000 r-xp 00001000 fe:01 7 /a\n").expect("code at a low address");
        assert_eq!(low.file, Path::new("/proc/5/map_files/401000-59f000"));
        for other in [
            "7f0-7f8 r--p 0 fe:01 1234 /a",
            "7f0-7f8 r-xp 0 00:00 0 [vdso]",
            "7f0-7f8 r-xp 0 00:00 0",
            "",
            "a b c",
            "\n",
        ] {
            assert_eq!(mapping(5, other), None, "{other}");
        }
    }

    #[test]
    fn one_file_is_the_same_by_every_path() {
        let id = |path: &Path| open(path).expect("a plain file").1;
        let exe = std::env::current_exe().unwrap();
        assert_eq!(id(&exe), id(Path::new("/proc/self/exe")));
        assert_ne!(id(&exe), id(Path::new("/etc/passwd")));
        assert!(open(Path::new("/dev/null")).is_none() && open(Path::new("/etc")).is_none());
        let own = mappings(std::process::id());
        assert!(own.iter().any(|mapping| Path::new(&mapping.name) == exe), "{own:?}");
    }
}
