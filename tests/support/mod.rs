//! What the live tests stand on: servers, clients, the agent under test, and the oracles it is compared with.
//!
//! Everything started here ends when it goes out of scope, by its process id, and keeps its files in a folder of its
//! own. Nothing waits for a fixed time: all waiting is for an event, with a limit, and a missed limit shows the tail
//! of the logs. Each test file uses a part of this, hence the `allow`.
#![allow(dead_code, unused_macros, unused_imports)]

pub mod backend;
pub mod captured;
pub mod client;
pub mod docker;
pub mod forms;
pub mod h2load;
pub mod haproxy;
pub mod netns;
pub mod nginx;
pub mod payload;
pub mod program;
pub mod python;
pub mod receiver;
pub mod relay;
pub mod scene;
pub mod sides;
pub mod sidetap;
pub mod socket;
pub mod tls;
pub mod traffic;
pub mod wire;

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// The usual limit of a wait: far beyond what anything here needs, so that a slow machine does not fail a test.
pub const LIMIT: Duration = Duration::from_secs(15);

/// Asks `probe` until it has an answer or the limit has passed.
pub fn until<T>(limit: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(answer) = probe() {
            return Some(answer);
        }
        if Instant::now() >= end {
            return None;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// A port on 127.0.0.1 that nothing uses now.
pub fn free_port() -> u16 {
    let [port] = free_ports();
    port
}

/// So many of them, each another: one that is drawn alone may be drawn again before anything listens there.
pub fn free_ports<const COUNT: usize>() -> [u16; COUNT] {
    let listeners = [(); COUNT].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port is free"));
    listeners.map(|listener| listener.local_addr().expect("a bound socket has an address").port())
}

/// Fills `@name@` in a template.
///
/// # Panics
/// When a name is not in the template, or a place stays empty: the test and its data have come apart.
pub fn fill(template: &str, values: &[(&str, &str)]) -> String {
    let mut text = template.to_owned();
    for (name, value) in values {
        let place = format!("@{name}@");
        assert!(text.contains(&place), "no {place} in the template:\n{template}");
        text = text.replace(&place, value);
    }
    let left = text.lines().find(|line| line.matches('@').count() >= 2 && !line.trim_start().starts_with('#'));
    assert!(left.is_none(), "an unfilled place in the template: {left:?}");
    text
}

/// A file of `tests/data/live`.
pub fn data(name: &str) -> String {
    read_data(&format!("live/{name}"))
}

/// Debian's own, which has Debian's packages of grpcio and h2.
pub const PYTHON: &str = "/usr/bin/python3";

/// A program of `tests/data/live`.
pub fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/live").join(name)
}

/// A configuration of the guide, unchanged.
pub fn guide(name: &str) -> String {
    read_data(&format!("config/guide-{name}.yaml"))
}

fn read_data(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A folder that goes with its owner.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Scratch {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("sidetap-{name}-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Scratch(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file into the folder.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Sees to it that this process, and what it starts from now on, may have so many files open.
pub fn allow_open_files(count: u64) {
    let limits = fs::read_to_string("/proc/self/limits").expect("every process has limits");
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap_or_default();
    if line.split_whitespace().next().and_then(|soft| soft.parse().ok()).is_some_and(|soft: u64| soft >= count) {
        return;
    }
    let limit = format!("--nofile={count}:{count}");
    let own = std::process::id().to_string();
    let status = Command::new("prlimit").args(["--pid", &own, &limit]).status().expect("prlimit is installed");
    assert!(status.success(), "cannot raise the limit of open files to {count}: it is{line}");
}

/// A program as the kernel knows it; none, with the reason for the test's skipping, where it is not installed.
pub fn installed(name: &str) -> Option<PathBuf> {
    let found = Command::new("sh").args(["-c", "command -v \"$0\"", name]).output().expect("there is a shell");
    let path = fs::canonicalize(String::from_utf8_lossy(&found.stdout).trim()).ok();
    if path.is_none() {
        println!("skipped: {name} is not installed");
    }
    path
}

/// Makes of each function two tests, one for each way the agent can see socket I/O.
macro_rules! on_each_path {
    ($($name:ident),+ $(,)?) => {
        mod socket {
            $(#[test]
            fn $name() {
                crate::support::sidetap::run_on(crate::support::sidetap::CapturePath::Socket, super::$name);
            })+
        }
        mod syscall {
            $(#[test]
            fn $name() {
                crate::support::sidetap::run_on(crate::support::sidetap::CapturePath::Syscall, super::$name);
            })+
        }
    };
}
pub(crate) use on_each_path;
