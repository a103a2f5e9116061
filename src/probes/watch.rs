//! The workers' end: says where a TLS library may be met, and never waits.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::bpf::Event;
use crate::config::Filters;

/// What waits to be looked at.
const QUEUE: usize = 1024;

/// Processes whose first connection is remembered; others push them out, which costs a look.
const CONNECTED: usize = 1024;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Told {
    /// A process has become another program, of that path in its mount namespace.
    Executed { pid: u32, mount_namespace: u32, exe: String },
    /// A process has its first connection, as far as is remembered.
    Connected { pid: u32 },
    /// The filters are others.
    Filtered,
}

/// Passes on what events say of processes. The default tells nobody.
#[derive(Default)]
pub struct Watch {
    to: Option<Sender<Told>>,
    shared: Arc<Shared>,
}

/// What the thread sees of it, too.
#[derive(Default)]
pub(super) struct Shared {
    /// Something could not be told: all processes are to be looked at.
    pub missed: AtomicBool,
    /// Those that are in force from now on, until the thread has taken them.
    filters: Mutex<Option<Filters>>,
    connected: Vec<AtomicU64>,
}

impl Watch {
    pub(super) fn new() -> (Watch, Receiver<Told>, Arc<Shared>) {
        let (to, told) = bounded(QUEUE);
        let connected = (0..CONNECTED).map(|_| AtomicU64::new(0)).collect();
        let shared = Arc::new(Shared { connected, ..Shared::default() });
        (Watch { to: Some(to), shared: shared.clone() }, told, shared)
    }

    /// Takes in an event.
    pub fn see(&self, event: &Event) {
        let Some(to) = &self.to else { return };
        let told = match event {
            Event::Process { is_exec: true, info, .. } => {
                let (pid, mount_namespace) = (info.owner.pid, info.mount_namespace);
                Told::Executed { pid, mount_namespace, exe: info.exe.clone() }
            }
            Event::Open(opened) if self.is_first_of(opened.info.owner.pid, opened.info.owner.started) => {
                Told::Connected { pid: opened.info.owner.pid }
            }
            _ => return,
        };
        if to.try_send(told).is_err() {
            self.shared.missed.store(true, Ordering::Release);
        }
    }

    /// From now on, programs are looked at that these filters do not leave out.
    pub fn keep_to(&self, filters: &Filters) {
        let Some(to) = &self.to else { return };
        *self.shared.filters() = Some(filters.clone());
        // Where there is no room, the thread is awake and finds them.
        _ = to.try_send(Told::Filtered);
    }

    fn is_first_of(&self, pid: u32, started: u64) -> bool {
        let process = started ^ u64::from(pid).rotate_left(40);
        let place = &self.shared.connected[pid as usize % CONNECTED];
        pid != 0 && place.load(Ordering::Relaxed) != process && place.swap(process, Ordering::Relaxed) != process
    }
}

impl Shared {
    pub fn filters(&self) -> MutexGuard<'_, Option<Filters>> {
        self.filters.lock().expect("no thread panics with the filters locked")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bpf::{Owner, ProcessInfo};

    fn exec(pid: u32) -> Event<'static> {
        let owner = Owner { pid, ..Owner::default() };
        Event::Process {
            time: 1,
            is_exec: true,
            info: Box::new(ProcessInfo {
                owner,
                mount_namespace: 9,
                exe: "/bin/a".to_owned(),
                ..ProcessInfo::default()
            }),
        }
    }

    #[test]
    fn programs_are_told_of_until_there_is_no_room() {
        let (watch, told, shared) = Watch::new();
        watch.see(&exec(5));
        assert_eq!(told.try_recv(), Ok(Told::Executed { pid: 5, mount_namespace: 9, exe: "/bin/a".to_owned() }));
        for _ in 0..QUEUE {
            watch.see(&exec(5));
        }
        assert!(!shared.missed.load(Ordering::Relaxed));
        watch.see(&exec(5));
        assert!(shared.missed.load(Ordering::Relaxed));
        Watch::default().see(&exec(5));
    }

    #[test]
    fn of_the_connections_of_a_process_the_first_one_counts() {
        let (watch, _told, _) = Watch::new();
        assert!(watch.is_first_of(7, 1));
        assert!(!watch.is_first_of(7, 1));
        assert!(watch.is_first_of(7, 2), "another process with the same id");
        assert!(!watch.is_first_of(0, 1), "not known whose");
    }
}
