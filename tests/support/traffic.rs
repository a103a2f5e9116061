//! Traffic that does not end by itself, and what a process holds while it goes on.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::client::Client;
use super::program::Program;
use super::{LIMIT, until};

/// Clients that ask without a pause until told to end, on connections that last a few requests each.
pub struct Traffic {
    stop: &'static AtomicBool,
    threads: Vec<thread::JoinHandle<Vec<String>>>,
    done: &'static AtomicUsize,
}

impl Traffic {
    pub fn start(front: u16, clients: usize) -> Traffic {
        // A few bytes, for the life of the test.
        let (stop, done) = (Box::leak(Box::default()), Box::leak(Box::default()));
        let (stop, done): (&AtomicBool, &AtomicUsize) = (stop, done);
        let client = |number: usize| {
            move || {
                let mut ids = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let mut client = Client::tcp(front);
                    for _ in 0..7 {
                        let id = format!("{number}-{}", ids.len());
                        let response = client.get(&format!("/bytes/{}", ids.len() % 3000), &id);
                        assert_eq!(response.status, 200, "{id}");
                        ids.push(id);
                        done.fetch_add(1, Ordering::Relaxed);
                        // Not to outrun a machine that is slow: what counts is that there is always something under way.
                        thread::sleep(Duration::from_millis(2));
                    }
                }
                ids
            }
        };
        Traffic { stop, done, threads: (0..clients).map(|number| thread::spawn(client(number))).collect() }
    }

    /// Waits until some more requests have been answered.
    pub fn go_on(&self) {
        let before = self.done.load(Ordering::Relaxed);
        until(LIMIT, || (self.done.load(Ordering::Relaxed) >= before + 5).then_some(())).expect("clients are served");
    }

    /// The ids of all requests.
    pub fn stop(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().flat_map(|thread| thread.join().expect("all were served")).collect()
    }
}

/// Threads and open files of a process.
pub fn possessions(program: &Program) -> (usize, usize) {
    let count = |what: &str| fs::read_dir(format!("/proc/{}/{what}", program.pid())).map_or(0, |all| all.count());
    (count("task"), count("fd"))
}
