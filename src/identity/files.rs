//! What the files of a mount namespace say: names for addresses (/etc/hosts) and for users (/etc/passwd). A container
//! has its own.
//!
//! Reads files: for the identity thread and the start, never for a worker. User names are not asked of libc: its name
//! services do not work in a static binary.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::proc;
use crate::names::NameMap;

/// Bytes read of one file.
const MAX_FILE: u64 = NameMap::MAX_HOSTS as u64;

/// More users than this are not remembered.
const MAX_USERS: usize = 4096;

/// How long they are taken as they were read, in ns.
const FRESH_FOR: u64 = 10_000_000_000;

#[derive(Debug, Default)]
pub(super) struct Files {
    pub hosts: Option<Arc<NameMap>>,
    users: HashMap<u32, String>,
    /// Of their text, to see whether they have changed.
    hash: u64,
    /// CLOCK_BOOTTIME in ns when they are to be read again.
    stale_at: AtomicU64,
}

impl Files {
    /// Reads the files that a process sees; none where it has ended or is not in that mount namespace (any more).
    /// Answers with `before` where nothing has changed since.
    pub fn read(pid: u32, mount_namespace: u32, before: Option<Arc<Files>>) -> Option<Arc<Files>> {
        let hosts = proc::read(pid, "root/etc/hosts", MAX_FILE).unwrap_or_default();
        let passwd = proc::read(pid, "root/etc/passwd", MAX_FILE).unwrap_or_default();
        // Only now: had the process ended in between, it would have no namespace.
        if proc::namespace(pid, "mnt")? != mount_namespace {
            return None;
        }
        let mut hasher = DefaultHasher::new();
        (&hosts, &passwd).hash(&mut hasher);
        let hash = hasher.finish();
        let files = match before {
            Some(before) if before.hash == hash => before,
            _ => Arc::new(Files { hash, ..Files::parse(&hosts, &passwd) }),
        };
        Some(files)
    }

    fn parse(hosts: &str, passwd: &str) -> Files {
        let hosts = (!hosts.is_empty()).then(|| Arc::new(NameMap::from_hosts(hosts)));
        let users = passwd.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next().filter(|name| !name.is_empty())?;
            Some((fields.nth(1)?.parse().ok()?, name.to_owned()))
        });
        // Two names for one id: the first is the one that getpwuid(3) answers with.
        let mut by_id = HashMap::new();
        for (id, name) in users.take(MAX_USERS) {
            by_id.entry(id).or_insert(name);
        }
        Files { hosts, users: by_id, ..Files::default() }
    }

    /// They were read at that time, or it was tried.
    pub fn read_at(&self, now: u64) {
        self.stale_at.store(now + FRESH_FOR, Ordering::Relaxed);
    }

    pub fn user(&self, id: u32) -> Option<String> {
        self.users.get(&id).cloned()
    }

    /// Whether they should be read again; answers so once, until they have been.
    pub fn has_become_stale(&self, now: u64) -> bool {
        self.stale_at.load(Ordering::Relaxed) <= now && self.stale_at.swap(u64::MAX, Ordering::Relaxed) <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_files_are_read_and_shared_until_they_change() {
        let pid = std::process::id();
        let namespace = proc::namespace(pid, "mnt").expect("every process has one");
        let files = Files::read(pid, namespace, None).expect("own files can be read");
        assert_eq!(files.user(0).as_deref(), Some("root"));
        let again = Files::read(pid, namespace, Some(files.clone())).expect("own files can be read");
        assert!(Arc::ptr_eq(&files, &again));
        files.read_at(6);
        assert!(Files::read(pid, namespace + 1, None).is_none(), "another namespace's");
        assert!(!files.has_become_stale(6 + FRESH_FOR - 1));
        assert!(files.has_become_stale(6 + FRESH_FOR));
        assert!(!files.has_become_stale(u64::MAX - 1), "it is being read already");
    }

    #[test]
    fn the_first_name_of_a_user_counts() {
        let files = Files::parse("", "root:x:0:0::/:/bin/sh\ntoor:x:0:0\n:x:5\nbad\nweb:x:33\n");
        assert_eq!((files.user(0), files.user(33)), (Some("root".to_owned()), Some("web".to_owned())));
        assert_eq!((files.user(5), files.hosts.is_none()), (None, true));
    }
}
