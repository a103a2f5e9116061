//! Who: the process behind a socket, and the names it has for its peers.
//!
//! Knows processes by what the kernel says of them at exec and by /proc, and remembers them while they run. It reads
//! /proc once a process, when its first connection or exec is seen, and its hosts file; both answer from memory.

use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use crate::exchange::Process;
use crate::url::Names;

/// More processes than this are not remembered; they are looked up again.
const MAX_PROCESSES: usize = 65_536;

/// Bytes read of a hosts file.
const MAX_HOSTS: u64 = 256 << 10;

/// How long the names of a hosts file are taken for those of another process in the same mount namespace.
const HOSTS_FOR: Duration = Duration::from_secs(10);

/// Mount namespace to the names of its hosts file and when they were read.
type Hosts = HashMap<PathBuf, (Instant, Option<Arc<Names>>)>;

#[derive(Debug, Default)]
pub struct Processes {
    known: RwLock<HashMap<u32, Arc<Process>>>,
    /// User names by id, from /etc/passwd. Not through libc: its name services do not work in a static binary.
    users: HashMap<u32, String>,
    hosts: Mutex<Hosts>,
}

impl Processes {
    /// Reads the user names of this machine.
    pub fn new() -> Processes {
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let users = passwd.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let id = fields.nth(1)?.parse().ok()?;
            Some((id, name.to_owned()))
        });
        Processes { known: RwLock::default(), users: users.collect(), hosts: Mutex::default() }
    }

    /// The process of that id, as far as it can be known.
    pub fn get(&self, pid: u32) -> Arc<Process> {
        if let Some(process) = self.known.read().expect("no thread panics with the lock").get(&pid) {
            return process.clone();
        }
        self.learn(self.look_up(pid))
    }

    /// The process became another program. `filename`: what was executed; `comm`: its short name.
    pub fn executed(&self, pid: u32, comm: &str, filename: &str) -> Arc<Process> {
        let mut process = self.look_up(pid);
        if process.exe.is_empty() {
            // It has ended already.
            process.exe = if filename.starts_with('/') { filename } else { comm }.to_owned();
        }
        self.learn(process)
    }

    /// Takes what a recording says of a process.
    pub fn learn(&self, process: Process) -> Arc<Process> {
        let process = Arc::new(process);
        let mut known = self.known.write().expect("no thread panics with the lock");
        if known.len() >= MAX_PROCESSES {
            known.clear();
        }
        known.insert(process.pid, process.clone());
        process
    }

    /// Nothing of that process will come any more.
    pub fn forget(&self, pid: u32) {
        self.known.write().expect("no thread panics with the lock").remove(&pid);
    }

    /// All processes that run now, without kernel threads.
    pub fn running(&self) -> Vec<Arc<Process>> {
        let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
        let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        pids.map(|pid| self.get(pid)).filter(|process| !process.exe.is_empty()).collect()
    }

    fn look_up(&self, pid: u32) -> Process {
        let exe = fs::read_link(format!("/proc/{pid}/exe")).map(|path| path.to_string_lossy().into_owned());
        let exe = exe.unwrap_or_default();
        let user_id = fs::read_to_string(format!("/proc/{pid}/status")).ok().and_then(|status| effective_user(&status));
        Process {
            pid,
            // The kernel's mark on a file that was replaced while it runs, as on an upgrade.
            exe: exe.strip_suffix(" (deleted)").unwrap_or(&exe).to_owned(),
            user_id,
            user_name: user_id.and_then(|id| self.users.get(&id).cloned()),
            container: None,
            names: self.names(pid),
        }
    }

    /// The names in the process's own hosts file, which it may have to itself (a container, a mount namespace).
    fn names(&self, pid: u32) -> Option<Arc<Names>> {
        let namespace = fs::read_link(format!("/proc/{pid}/ns/mnt")).ok()?;
        let known = &mut *self.hosts.lock().expect("no thread panics with the lock");
        if let Some((read, names)) = known.get(&namespace)
            && read.elapsed() < HOSTS_FOR
        {
            return names.clone();
        }
        let names = read_hosts(pid).map(|text| Arc::new(Names::from_hosts(&text)));
        known.retain(|_, (read, _)| read.elapsed() < HOSTS_FOR);
        known.insert(namespace, (Instant::now(), names.clone()));
        names
    }
}

/// A hosts file's text, as far as it is of a sensible size.
fn read_hosts(pid: u32) -> Option<String> {
    let file = fs::File::open(format!("/proc/{pid}/root/etc/hosts")).ok()?;
    // Not a pipe or a device, which a container may have put there.
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut text = Vec::new();
    file.take(MAX_HOSTS).read_to_end(&mut text).ok()?;
    Some(String::from_utf8_lossy(&text).into_owned())
}

/// From /proc/PID/status: `Uid:` real, effective, saved, file system.
fn effective_user(status: &str) -> Option<u32> {
    status.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_known_by_its_executable() {
        let processes = Processes::new();
        let me = processes.get(std::process::id());
        assert_eq!(Some(me.exe.as_str()), std::env::current_exe().unwrap().to_str());
        assert_eq!(me.user_id, effective_user(&fs::read_to_string("/proc/self/status").unwrap()));
    }

    #[test]
    fn a_process_that_has_ended_keeps_the_name_it_was_started_by() {
        let processes = Processes::new();
        assert_eq!(processes.executed(u32::MAX, "curl", "/usr/bin/curl").exe, "/usr/bin/curl");
        assert_eq!(processes.executed(u32::MAX, "curl", "./curl").exe, "curl");
        assert_eq!(processes.get(u32::MAX).exe, "curl");
    }

    #[test]
    fn the_effective_user_is_the_second_number() {
        assert_eq!(effective_user("Name:\tx\nUid:\t1000\t33\t0\t0\n"), Some(33));
        assert_eq!(effective_user("Name:\tx\n"), None);
    }
}
