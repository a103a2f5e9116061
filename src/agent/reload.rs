//! Reading the configuration again while the agent captures.
//!
//! What is under way goes on: a pass of a worker ends with the settings it began with, and a store that
//! goes writes what it was given. A bad file leaves everything as it is.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{judge_running, tap};
use crate::admin::Reloaded;
use crate::bpf::Kernel;
use crate::cli::Run;
use crate::config;
use crate::pipeline::Pipeline;
use crate::sink::stores::Stores;

/// What a reload changes.
pub(super) struct Reloader<'a> {
    pub(super) run: &'a Run,
    pub(super) pipeline: &'a Pipeline,
    pub(super) kernel: &'a Kernel,
    pub(super) stores: &'a mut Stores,
}

impl Reloader<'_> {
    /// Tells the log of it, and answers with the same.
    pub(super) fn reload(&mut self) -> Reloaded {
        let Some(path) = &self.run.config else {
            let why = "there is no configuration file to reload: the agent was started without one";
            log::warn!("{why}");
            return Err(why.to_owned());
        };
        let stats = &self.pipeline.stats;
        match self.read(path) {
            Ok(warnings) => {
                stats.reloads.add(1);
                let done = format!("reloaded {}", path.display());
                warnings.iter().for_each(|warning| log::warn!("{warning}"));
                log::info!("{done}");
                Ok(warnings.iter().map(|warning| format!("warning: {warning}\n")).collect::<String>() + &done)
            }
            Err(why) => {
                stats.refused_reloads.add(1);
                why.lines().for_each(|line| log::error!("{line}"));
                Err(why)
            }
        }
    }

    /// Answers with warnings.
    fn read(&mut self, path: &Path) -> Result<Vec<String>, String> {
        let name = path.display();
        let stays = |why: &dyn std::fmt::Display| {
            format!("{why}\n{name} was not reloaded: the configuration before it stays in force")
        };
        let settings = config::load_guarded(path).map_err(|errors| stays(&errors))?;
        // The stores first: what the new settings send somewhere finds it there.
        let replaced = self.stores.replace(&settings, &self.pipeline.outbox);
        replaced.map_err(|error| stays(&format!("{error:#}")))?;

        let warnings = settings.warnings.clone();
        self.kernel.set_tap(tap(&settings, self.run.empty_probes));
        self.pipeline.watch.keep_to(&settings.tap.filters);
        *self.pipeline.settings.write().expect("no thread panics with the settings locked") = Arc::new(settings);
        judge_running(self.pipeline, self.kernel);
        Ok(warnings)
    }
}

/// Notices when a file has become another, whether it was written to or replaced: looks at it now and then.
pub(super) struct Watch {
    path: PathBuf,
    /// As it was when it was last read, or at the start.
    read: Option<Stamp>,
    /// As it was at the last look.
    seen: Option<Stamp>,
}

/// Tells one content of a file from another: device, inode, size, and when content and inode were changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp(u64, u64, u64, (i64, i64), (i64, i64));

impl Watch {
    pub(super) fn new(path: &Path) -> Watch {
        let now = stamp(path);
        Watch { path: path.to_owned(), read: now, seen: now }
    }

    /// Whether it is to be read: it is there, is not what it was, and has not changed since the last look, so that nobody
    /// is in the midst of writing it.
    pub(super) fn has_changed(&mut self) -> bool {
        let now = stamp(&self.path);
        let is_steady = now == self.seen;
        self.seen = now;
        if now.is_none() || !is_steady || now == self.read {
            return false;
        }
        self.read = now;
        true
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let found = fs::metadata(path).ok()?;
    let (written, changed) = ((found.mtime(), found.mtime_nsec()), (found.ctime(), found.ctime_nsec()));
    Some(Stamp(found.dev(), found.ino(), found.size(), written, changed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_written_to_or_replaced_is_noticed_once_it_is_steady() {
        let folder = std::env::temp_dir().join(format!("sidetap-watch-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (file, other) = (folder.join("a.yaml"), folder.join("b.yaml"));
        fs::write(&file, "one").unwrap();
        let mut watch = Watch::new(&file);
        assert!(!watch.has_changed());
        fs::write(&file, "longer").unwrap();
        assert!(!watch.has_changed(), "somebody may still be writing");
        assert!(watch.has_changed());
        assert!(!watch.has_changed(), "once");
        // As editors do.
        fs::write(&other, "other!").unwrap();
        fs::rename(&other, &file).unwrap();
        assert_eq!((watch.has_changed(), watch.has_changed(), watch.has_changed()), (false, true, false));
        fs::remove_file(&file).unwrap();
        assert_eq!((watch.has_changed(), watch.has_changed()), (false, false), "nothing to read");
        fs::write(&file, "again").unwrap();
        assert_eq!((watch.has_changed(), watch.has_changed()), (false, true));
        fs::remove_dir_all(&folder).unwrap();
    }
}
