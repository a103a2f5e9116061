//! Files that were put aside: their names, their compression, and how many of them are kept.
//!
//! `out.json` becomes `out.json.20260301T120000.123456789Z`, then the same with `.zst` or `.gz`. What a killed process
//! left half done is done again by the next.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::encode::rfc3339;
use crate::config::{Compression, Rotate};
use crate::machine;

/// What a file is called while it is being compressed.
const PART: &str = ".part";

/// Moves the file out of the way.
pub(super) fn put_aside(path: &Path) -> io::Result<()> {
    let stamp = rfc3339(machine::now().as_nanos() as u64).replace(['-', ':'], "");
    let mut aside = path.as_os_str().to_owned();
    aside.push(".");
    aside.push(stamp);
    fs::rename(path, aside)
}

/// Compresses what was put aside of this file, and deletes what is too much.
pub(super) fn tidy(path: &Path, rotate: &Rotate) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let own = path.file_name().unwrap_or_default().to_string_lossy();
    let mut aside = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let Some(rest) = name.strip_prefix(&*own).and_then(|rest| rest.strip_prefix('.')) else { continue };
        let Some((stamp, suffix)) = rest.split_at_checked(STAMP.len()).filter(|(stamp, _)| is_stamp(stamp)) else {
            continue;
        };
        match suffix {
            "" | ".zst" | ".gz" => aside.push((stamp.to_owned(), suffix.to_owned(), folder.join(&name))),
            ".zst.part" | ".gz.part" => fs::remove_file(folder.join(&name))?,
            _ => {}
        }
    }
    aside.sort_by(|(a, ..), (b, ..)| b.cmp(a));
    let mut kept = 0;
    let mut before: Option<String> = None;
    for (stamp, suffix, file) in &aside {
        if before.as_ref() != Some(stamp) {
            kept += 1;
            before = Some(stamp.clone());
        }
        if kept > rotate.keep {
            fs::remove_file(file)?;
        } else if suffix.is_empty() && rotate.compression != Compression::None {
            compress(file, rotate.compression)?;
        }
    }
    Ok(())
}

/// The compressed file appears at once and whole, and only then the other one goes.
fn compress(path: &Path, compression: Compression) -> io::Result<()> {
    let with = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(compression.suffix());
        name.push(suffix);
        name
    };
    let part = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(with(PART))?;
    compression.copy(File::open(path)?, &part)?;
    part.sync_data()?;
    fs::rename(with(PART), with(""))?;
    fs::remove_file(path)
}

/// What a time looks like in a name.
const STAMP: &str = "00000000T000000.000000000Z";

fn is_stamp(text: &str) -> bool {
    let fits = |(byte, form): (u8, u8)| if form == b'0' { byte.is_ascii_digit() } else { byte == form };
    text.len() == STAMP.len() && text.bytes().zip(STAMP.bytes()).all(fits)
}
