//! A Unix socket in front of the Docker engine's, to be taken away and put back without disturbing the engine.

use std::fs;
use std::io;
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

/// The engine's own socket.
const ENGINE: &str = "/var/run/docker.sock";

/// Gone when dropped: its connections end, its path is free.
pub struct Relay {
    path: PathBuf,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    open: Mutex<Vec<UnixStream>>,
    accepted: AtomicUsize,
    ending: AtomicBool,
}

impl Relay {
    pub fn start(path: &Path) -> Relay {
        let listener = UnixListener::bind(path).unwrap_or_else(|error| panic!("bind {}: {error}", path.display()));
        let shared = Arc::new(Shared::default());
        let for_accept = Arc::clone(&shared);
        let accepting = thread::spawn(move || {
            for client in listener.incoming() {
                if for_accept.ending.load(Ordering::Acquire) {
                    return;
                }
                // A client that is gone already needs no relaying.
                let _ = client.and_then(|client| for_accept.relay(client));
            }
        });
        Relay { path: path.to_owned(), shared, accepting: Some(accepting) }
    }

    /// How many connections there have been.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::Acquire)
    }
}

impl Shared {
    fn relay(&self, client: UnixStream) -> io::Result<()> {
        let engine = UnixStream::connect(ENGINE)?;
        for (from, to) in [(client.try_clone()?, engine.try_clone()?), (engine.try_clone()?, client.try_clone()?)] {
            thread::spawn(move || {
                let (mut from, mut to) = (from, to);
                let _ = io::copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Write);
            });
        }
        self.open.lock().expect("no holder panicked").extend([client, engine]);
        self.accepted.fetch_add(1, Ordering::Release);
        Ok(())
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.ending.store(true, Ordering::Release);
        // The accepting thread is woken by one last connection.
        let _ = UnixStream::connect(&self.path);
        let _ = self.accepting.take().map(JoinHandle::join);
        for stream in self.shared.open.lock().expect("no holder panicked").drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        let _ = fs::remove_file(&self.path);
    }
}
