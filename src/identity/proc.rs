//! Processes as /proc has them (proc(5)): for those older than the agent, and those no event told of.
//!
//! Reads files: for the identity thread and the start, never for a worker. Everything read is bounded.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

use crate::bpf::{Owner, ProcessInfo};

/// Times in /proc are in hundredths of a second (USER_HZ), whatever the kernel's own clock is.
pub(super) const TICK: u64 = 10_000_000;

/// Bytes read of a file about one process.
const MAX_FILE: u64 = 64 << 10;

/// What /proc says of a process; none where it has none of that id (any more). `started` is rounded down to a tick.
pub(super) fn look_up(pid: u32) -> Option<ProcessInfo> {
    let stat = read(pid, "stat", MAX_FILE)?;
    let (comm, started) = name_and_start(&stat)?;
    let user_id = read(pid, "status", MAX_FILE).and_then(|status| effective_user(&status));
    // Read last: had the process ended and its id gone to another, that would have another start.
    let cgroups = read(pid, "cgroup", MAX_FILE).unwrap_or_default();
    let info = ProcessInfo {
        owner: Owner { pid, started, exec_id: 0, user_id },
        exe: exe(pid),
        comm: comm.to_owned(),
        cgroups,
        mount_namespace: namespace(pid, "mnt").unwrap_or_default(),
        net_namespace: namespace(pid, "net").unwrap_or_default(),
    };
    let still = read(pid, "stat", MAX_FILE)?;
    (name_and_start(&still)?.1 == started).then_some(info)
}

/// The path of its executable; empty where it has none, or is gone.
pub(crate) fn exe(pid: u32) -> String {
    let exe = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default().to_string_lossy().into_owned();
    // The kernel's mark on a file that was replaced while it runs, as on an upgrade.
    exe.strip_suffix(" (deleted)").map(str::to_owned).unwrap_or(exe)
}

/// The ids of all processes that run now.
pub(crate) fn pids() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// Inode of one of its namespaces.
pub(crate) fn namespace(pid: u32, kind: &str) -> Option<u32> {
    let link = fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok()?;
    link.to_str()?.strip_prefix(kind)?.strip_prefix(":[")?.strip_suffix(']')?.parse().ok()
}

/// A file of the process, as far as it is of a sensible size; none where it is no plain file. A container chooses what
/// lies in its root: opening a pipe would wait, opening a device may do anything.
pub(super) fn read(pid: u32, name: &str, at_most: u64) -> Option<String> {
    let place = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(format!("/proc/{pid}/{name}")).ok()?;
    if !place.metadata().ok()?.is_file() {
        return None;
    }
    let file = File::open(format!("/proc/self/fd/{}", place.as_raw_fd())).ok()?;
    let mut text = Vec::new();
    file.take(at_most).read_to_end(&mut text).ok()?;
    Some(String::from_utf8_lossy(&text).into_owned())
}

/// From /proc/PID/stat: the command name, in parentheses and of whatever characters, and the start in nanoseconds.
fn name_and_start(stat: &str) -> Option<(&str, u64)> {
    let (before, after) = stat.rsplit_once(')')?;
    let (_, comm) = before.split_once('(')?;
    let ticks: u64 = after.split_whitespace().nth(19)?.parse().ok()?;
    Some((comm, ticks.saturating_mul(TICK)))
}

/// From /proc/PID/status: `Uid:` real, effective, saved, file system.
fn effective_user(status: &str) -> Option<u32> {
    status.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_found() {
        let me = look_up(std::process::id()).expect("a process finds itself");
        assert_eq!(Some(me.exe.as_str()), std::env::current_exe().unwrap().to_str());
        assert_eq!(me.owner.user_id, effective_user(&fs::read_to_string("/proc/self/status").unwrap()));
        assert!(me.owner.started > 0 && me.mount_namespace > 0 && me.net_namespace > 0);
        assert!(pids().contains(&std::process::id()));
        assert_eq!(look_up(u32::MAX), None);
    }

    #[test]
    fn a_command_name_may_hold_anything() {
        let after = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 250 20";
        assert_eq!(name_and_start(&format!("7 (a) b (c) {after}")), Some(("a) b (c", 2_500_000_000)));
        for broken in ["", "7", "7 (a)", "7 (a) S 1", ")(", "7 (a S 1 2"] {
            assert_eq!(name_and_start(broken), None, "{broken}");
        }
    }

    #[test]
    fn the_effective_user_is_the_second_number() {
        assert_eq!(effective_user("Name:\tx\nUid:\t1000\t33\t0\t0\n"), Some(33));
        assert_eq!(effective_user("Name:\tx\n"), None);
    }
}
