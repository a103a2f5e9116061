//! A program started by a test: its files, its signals, its end.

use std::fs::{self, File};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use super::until;

/// A running program, its standard output and error in files. Killed and waited for when dropped.
pub struct Program {
    name: String,
    child: Child,
    out: PathBuf,
    err: PathBuf,
}

impl Program {
    /// Starts `command` with its output in `folder`.
    pub fn start(name: &str, command: &mut Command, folder: &Path) -> Program {
        let (out, err) = (folder.join(format!("{name}.out")), folder.join(format!("{name}.err")));
        let create = |path: &Path| File::create(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let child = command
            .stdin(Stdio::null())
            .stdout(create(&out))
            .stderr(create(&err))
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name} ({command:?}): {error}"));
        Program { name: name.to_owned(), child, out, err }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn out_path(&self) -> &Path {
        &self.out
    }

    pub fn stdout(&self) -> String {
        read(&self.out)
    }

    pub fn stderr(&self) -> String {
        read(&self.err)
    }

    /// Sends a signal by its name without `SIG`.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.pid().to_string()]).status();
        assert!(status.is_ok_and(|status| status.success()), "cannot send {name} to {}{}", self.name, self.tail());
    }

    pub fn has_exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the child is ours to wait for")
    }

    /// Waits for the program to end by itself.
    pub fn wait_exit(&mut self, limit: Duration) -> ExitStatus {
        until(limit, || self.has_exited())
            .unwrap_or_else(|| panic!("{} still runs after {limit:?}{}", self.name, self.tail()))
    }

    /// Waits until `ready`, and fails at once when the program ends before.
    pub fn wait_ready(&mut self, what: &str, limit: Duration, mut ready: impl FnMut(&Program) -> bool) {
        let answer = until(limit, || {
            if ready(self) {
                return Some(Ok(()));
            }
            self.has_exited().map(Err)
        });
        match answer {
            Some(Ok(())) => {}
            Some(Err(status)) => panic!("{} ended before {what}: {status}{}", self.name, self.tail()),
            None => panic!("{}: no {what} within {limit:?}{}", self.name, self.tail()),
        }
    }

    /// Resident memory in bytes, now.
    pub fn resident(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// The most that was ever resident, in bytes.
    pub fn peak_resident(&self) -> u64 {
        self.memory("VmHWM:")
    }

    fn memory(&self, key: &str) -> u64 {
        let status = read(Path::new(&format!("/proc/{}/status", self.pid())));
        let line = status.lines().find(|line| line.starts_with(key));
        let kib = line.and_then(|line| line.split_whitespace().nth(1)).and_then(|number| number.parse::<u64>().ok());
        kib.unwrap_or_else(|| panic!("{} has no {key} in its status: it has ended{}", self.name, self.tail())) * 1024
    }

    /// The last lines of both outputs, for messages.
    pub fn tail(&self) -> String {
        let last = |text: String| {
            let lines: Vec<&str> = text.lines().rev().take(15).map(|line| line.get(..400).unwrap_or(line)).collect();
            lines.into_iter().rev().collect::<Vec<_>>().join("\n")
        };
        format!(
            "\n--- {} stdout\n{}\n--- {} stderr\n{}",
            self.name,
            last(self.stdout()),
            self.name,
            last(self.stderr())
        )
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether something listens on the TCP port, found without connecting to it: a connection would be traffic.
pub fn listens(port: u16) -> bool {
    const LISTEN: &str = "0A";
    let suffix = format!(":{port:04X}");
    ["/proc/net/tcp", "/proc/net/tcp6"].iter().any(|table| {
        read(Path::new(table)).lines().skip(1).any(|line| {
            let mut columns = line.split_whitespace().skip(1);
            let local = columns.next().unwrap_or_default();
            local.ends_with(&suffix) && columns.nth(1) == Some(LISTEN)
        })
    })
}

fn read(path: &Path) -> String {
    // A pipe would be drained, or waited for.
    if fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo()) {
        return String::new();
    }
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}
