//! The processes of this machine, from memory: by what the kernel said of them at fork and exec, and what the identity
//! thread has found out.
//!
//! Workers call this for every connection: nothing here reads a file or waits. A process is kept for a while after its
//! end, since what it did may still be on its way through another CPU's buffer.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::RangeInclusive;
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::cgroup::container_of;
use super::containers::Containers;
use super::files::Files;
use super::proc::TICK;
use crate::bpf::{Owner, ProcessInfo};
use crate::exchange::{Container, Process};
use crate::names::{Names, Networks, Pods, Source};
use crate::stats::Stats;

/// More than this are not remembered: those that ended first are forgotten first; then new ones are known by id only.
const MAX_LIVES: usize = 65_536;

/// More mount namespaces than this have no names.
const MAX_NAMESPACES: usize = 4096;

/// A mount namespace is made before its files are in place, and its root: so long after the first exec in it was heard
/// of they are read again for each exec, in ns.
const SETTLES_WITHIN: u64 = 10_000_000_000;

/// How long a process that has ended is remembered, in ns.
const KEPT_FOR: u64 = 30_000_000_000;

/// Questions that wait for the identity thread.
const QUEUE: usize = 4096;

/// What only the identity thread can find out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Question {
    /// A runtime has said something new of containers.
    Containers,
    /// No event told of this process.
    Process(Owner),
    /// The files of a mount namespace, through a process in it.
    Files { mount_namespace: u32, pid: u32 },
}

#[derive(Default)]
pub struct Processes {
    known: RwLock<Known>,
    /// None: nobody to ask. What is not known then is known by its id only, at once.
    questions: Option<Sender<Question>>,
    /// Whether what is not known may become known: else nothing is waited for.
    patient: bool,
    stats: Arc<Stats>,
    pub containers: Arc<Containers>,
    pub networks: Networks,
    /// Names of pods, the same for all processes.
    pub(super) pods: Arc<Source<Pods>>,
}

/// One program, from the fork or exec that made it to its end or the next exec.
#[derive(Debug)]
struct Life {
    process: Arc<Process>,
    /// 0: from /proc, which does not tell.
    exec_id: u32,
    mount_namespace: u32,
    net_namespace: u32,
    /// When it began, as far as is known.
    since: u64,
    /// None while they are being read.
    files: Option<Arc<Files>>,
    ended: Option<u64>,
}

#[derive(Debug, Default)]
struct Pid {
    /// A few: an id is rarely reused within the time that its processes are kept.
    lives: Vec<Life>,
    /// When the process was started whose end came last.
    exited: u64,
}

#[derive(Debug, Default)]
struct Known {
    by_pid: HashMap<u32, Pid>,
    /// How many lives there are.
    lives: usize,
    /// When lives ended, and whose, in the order in which that was heard.
    ended: VecDeque<(u64, u32)>,
    mount_namespaces: HashMap<u32, MountNamespace>,
    /// Ids that the identity thread was asked for.
    asked: HashSet<u32>,
}

#[derive(Debug, Default)]
struct MountNamespace {
    /// None while they are being read.
    files: Option<Arc<Files>>,
    /// When the first exec in it was; 0: before our time.
    since: u64,
    /// Id of the container that the latest exec in it was in: the kernel gives a namespace's number to another one soon.
    container: Option<String>,
    /// The identity thread was asked for its files and has not begun to read them.
    is_asked: bool,
}

impl Processes {
    /// Questions go to the receiver, for the identity thread.
    pub(super) fn with_questions(stats: Arc<Stats>) -> (Processes, Receiver<Question>) {
        let (sender, receiver) = bounded(QUEUE);
        (Processes { questions: Some(sender), patient: true, stats, ..Processes::default() }, receiver)
    }

    /// Has the identity thread look at the containers again whenever a runtime says something new.
    pub(super) fn follow_containers(&self) {
        let questions = self.questions.clone();
        // Were the queue full, it would look a moment later.
        self.containers.when_changed(move || _ = questions.as_ref().map(|to| to.try_send(Question::Containers)));
    }

    /// For a replay: what is known comes with the recording.
    pub fn recorded() -> Processes {
        Processes { patient: true, ..Processes::default() }
    }

    /// The process behind a socket; none while it is not known but soon may be. `is_settled`: whether all events until
    /// the socket was opened have been taken in.
    pub fn find(&self, owner: &Owner, now: u64, is_settled: bool) -> Option<Arc<Process>> {
        let mut known = self.read();
        if known.is_unconfirmed(owner) {
            if !is_settled {
                return None;
            }
            drop(known);
            self.write().confirm(owner);
            known = self.read();
        }
        let Some(life) = known.life(owner) else {
            return (!self.patient).then(|| bare(owner));
        };
        let Some(files) = &life.files else {
            if self.questions.is_none() {
                return Some(life.process.clone());
            }
            let mount_namespace = life.mount_namespace;
            drop(known);
            self.ask_for_files(mount_namespace, owner.pid);
            return None;
        };
        if files.has_become_stale(now) {
            self.ask(Question::Files { mount_namespace: life.mount_namespace, pid: owner.pid });
        }
        if owner.user_id.is_none() || life.process.user_id == owner.user_id {
            return Some(life.process.clone());
        }
        drop(known);
        Some(self.changed_user(owner))
    }

    /// The process behind a socket as far as it is known.
    pub fn guess(&self, owner: &Owner) -> Arc<Process> {
        let known = self.read();
        known.life(owner).map_or_else(|| bare(owner), |life| life.process.clone())
    }

    /// Has the identity thread look for a process that no event told of until now.
    pub fn look_for(&self, owner: &Owner, now: u64) {
        // One whose files are awaited is known.
        if self.read().life(owner).is_some() {
            return;
        }
        let is_new = self.questions.is_some() && self.write().asked.insert(owner.pid);
        if is_new && !self.ask(Question::Process(*owner)) {
            self.write().asked.remove(&owner.pid);
            self.stats.lost_identities.add(1);
            self.insert((*bare(owner)).clone(), owner.exec_id, now);
        }
    }

    /// What the kernel or /proc says of a process at that time; `is_exec`: since it has just become this program.
    pub fn learn(&self, info: &ProcessInfo, time: u64, is_exec: bool) -> Arc<Process> {
        let owner = info.owner;
        let mut known = self.write();
        known.forget_ended(time);
        let container = container_of(&info.cgroups).map(|found| self.containers.get(&found.id));
        if is_exec && known.has_moved(info) {
            known.mount_namespaces.remove(&info.mount_namespace);
        }
        let files = known.files_at(info.mount_namespace, container.as_deref(), time, is_exec);
        let is_unread = files.is_none();
        let process = Arc::new(Process {
            pid: owner.pid,
            started: owner.started,
            exe: info.exe.clone(),
            comm: info.comm.clone(),
            user_id: owner.user_id,
            user_name: owner.user_id.and_then(|id| files.as_ref()?.user(id)),
            container,
            names: Some(self.names(info.net_namespace, files.as_deref())),
        });
        let life = Life {
            process: process.clone(),
            exec_id: owner.exec_id,
            mount_namespace: info.mount_namespace,
            net_namespace: info.net_namespace,
            since: time,
            files,
            ended: None,
        };
        known.insert(owner.pid, life, time);
        drop(known);
        // A fork may be on its way into a namespace that is still being furnished: asked for when it matters.
        if is_unread && is_exec {
            self.ask_for_files(info.mount_namespace, owner.pid);
        }
        process
    }

    /// Takes what a recording says of a process.
    pub fn remember(&self, process: Process, exec_id: u32) {
        self.insert(process, exec_id, 0);
    }

    /// A process of which nothing more will be found out.
    fn insert(&self, process: Process, exec_id: u32, time: u64) {
        let life = Life {
            exec_id,
            mount_namespace: 0,
            net_namespace: 0,
            since: time,
            files: Some(Arc::default()),
            ended: None,
            process: Arc::new(process),
        };
        let pid = life.process.pid;
        self.write().insert(pid, life, time);
    }

    /// The process has ended.
    pub fn exited(&self, pid: u32, started: u64, time: u64) {
        let mut known = self.write();
        known.forget_ended(time);
        let known = &mut *known;
        let entry = known.by_pid.entry(pid).or_default();
        entry.exited = entry.exited.max(started);
        for life in entry.lives.iter_mut().filter(|life| is_same(life.process.started, started)) {
            life.ended.get_or_insert(time);
        }
        known.ended.push_back((time, pid));
    }

    /// What the identity thread found of a process that it was asked for; none: nothing.
    pub(super) fn answer(&self, owner: &Owner, found: Option<ProcessInfo>, now: u64) {
        match found.filter(|info| is_same(info.owner.started, owner.started)) {
            Some(info) => _ = self.learn(&info, now, false),
            // Its exec and its end may have been told of in the meantime.
            None if self.read().life(owner).is_some() => {}
            None => {
                self.insert((*bare(owner)).clone(), owner.exec_id, now);
                self.exited(owner.pid, owner.started, now);
            }
        }
        self.write().asked.remove(&owner.pid);
    }

    /// The identity thread begins to read the files of a mount namespace: what is asked from now on is not answered by
    /// that. Answers with what they said before.
    pub(super) fn begin_files(&self, mount_namespace: u32) -> Option<Arc<Files>> {
        let mut known = self.write();
        let namespace = known.mount_namespaces.get_mut(&mount_namespace)?;
        namespace.is_asked = false;
        namespace.files.clone()
    }

    /// What the files of a mount namespace say; nothing where they could not be read. `during`: from when on the process
    /// was in it that they were read through, until they were read. Of programs that ran at no such time another namespace
    /// may have had the number; so of those that are `gone`, though their end was not heard of yet.
    pub(super) fn learn_files(
        &self,
        mount_namespace: u32,
        files: Arc<Files>,
        during: RangeInclusive<u64>,
        gone: &HashSet<u32>,
    ) {
        let known = &mut *self.write();
        if known.has_room_for_namespaces() {
            known.mount_namespaces.entry(mount_namespace).or_default().files = Some(files.clone());
        }
        let lives = known.by_pid.values_mut().flat_map(|pid| &mut pid.lives);
        let ran = |life: &Life| life.since <= *during.end() && life.ended.is_none_or(|end| end >= *during.start());
        let is_gone = |life: &Life| life.since < *during.start() && gone.contains(&life.process.pid);
        for life in lives.filter(|life| life.mount_namespace == mount_namespace && ran(life) && !is_gone(life)) {
            if life.files.as_ref().is_some_and(|before| Arc::ptr_eq(before, &files)) {
                continue;
            }
            let mut process = (*life.process).clone();
            process.names = Some(self.names(life.net_namespace, Some(&files)));
            process.user_name = process.user_id.and_then(|id| files.user(id));
            (life.process, life.files) = (Arc::new(process), Some(files.clone()));
        }
    }

    /// Forgets the namespaces that no process is in any more.
    pub(super) fn forget_namespaces(&self) {
        self.write().forget_namespaces();
    }

    /// Whether the files of a mount namespace have been read.
    pub(super) fn has_files(&self, mount_namespace: u32) -> bool {
        let known = self.read();
        known.mount_namespaces.get(&mount_namespace).is_some_and(|namespace| namespace.files.is_some())
    }

    /// Processes that run in a mount namespace, a few, and since when: `first`, then others.
    pub(super) fn in_mount_namespace(&self, mount_namespace: u32, first: u32) -> Vec<(u32, u64)> {
        let known = self.read();
        let is_in = |life: &&Life| life.ended.is_none() && life.mount_namespace == mount_namespace;
        let since = known.by_pid.get(&first).and_then(|pid| pid.lives.iter().rfind(is_in)).map_or(0, |life| life.since);
        let lives = known.by_pid.values().flat_map(|pid| &pid.lives).filter(is_in);
        let others = lives.map(|life| (life.process.pid, life.since)).filter(|(pid, _)| *pid != first);
        // What is read through the oldest holds for the most.
        let mut others: Vec<_> = others.collect();
        others.sort_unstable_by_key(|&(_, since)| since);
        [(first, since)].into_iter().chain(others.into_iter().take(7)).collect()
    }

    /// Processes in a mount namespace that began before that time and have not ended, as far as is known.
    pub(super) fn older_than(&self, mount_namespace: u32, time: u64) -> Vec<u32> {
        let known = self.read();
        let is_in = |life: &&Life| life.ended.is_none() && life.mount_namespace == mount_namespace && life.since < time;
        known.by_pid.values().flat_map(|pid| &pid.lives).filter(is_in).map(|life| life.process.pid).collect()
    }

    /// All processes that have not ended, as far as is known, with the program that each is.
    pub fn running(&self) -> Vec<(Owner, Arc<Process>)> {
        let known = self.read();
        let lives = known.by_pid.values().flat_map(|pid| &pid.lives);
        lives.filter(|life| life.ended.is_none()).map(|life| (life.owner(), life.process.clone())).collect()
    }

    /// Ends those that have gone without a word: `pids` are the ids of all that ran at that time.
    pub(super) fn keep_to(&self, pids: &HashSet<u32>, time: u64) {
        let gone = self.running().into_iter().filter(|(owner, _)| !pids.contains(&owner.pid));
        gone.filter(|(owner, _)| owner.started < time)
            .for_each(|(owner, _)| self.exited(owner.pid, owner.started, time));
    }

    /// How many are remembered, those that have ended a while ago included.
    pub fn len(&self) -> usize {
        self.read().lives
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Once, until they are being read.
    fn ask_for_files(&self, mount_namespace: u32, pid: u32) {
        if self.questions.is_none() {
            return;
        }
        let mut known = self.write();
        let namespace = known.mount_namespaces.entry(mount_namespace).or_default();
        if std::mem::replace(&mut namespace.is_asked, true) {
            return;
        }
        drop(known);
        if !self.ask(Question::Files { mount_namespace, pid }) {
            self.stats.lost_identities.add(1);
            self.begin_files(mount_namespace);
            self.learn_files(mount_namespace, Arc::default(), 0..=u64::MAX, &HashSet::new());
        }
    }

    fn ask(&self, question: Question) -> bool {
        self.questions.as_ref().is_some_and(|questions| questions.try_send(question).is_ok())
    }

    fn names(&self, net_namespace: u32, files: Option<&Files>) -> Arc<Names> {
        Arc::new(Names {
            network: self.networks.get(net_namespace),
            hosts: files.and_then(|files| files.hosts.clone()),
            pods: Some(self.pods.clone()),
        })
    }

    /// Network namespaces in use, with a container that lives in each where there is one.
    pub(super) fn net_namespaces(&self) -> HashMap<u32, Option<String>> {
        let known = self.read();
        let mut namespaces = HashMap::new();
        let lives = known.by_pid.values().flat_map(|pid| &pid.lives);
        for life in lives.filter(|life| life.ended.is_none()) {
            let container: &mut Option<String> = namespaces.entry(life.net_namespace).or_default();
            if let (None, Some(found)) = (&container, &life.process.container) {
                *container = Some(found.id.clone());
            }
        }
        namespaces
    }

    fn changed_user(&self, owner: &Owner) -> Arc<Process> {
        let mut known = self.write();
        let Some(life) = known.life_mut(owner) else { return bare(owner) };
        let mut process = (*life.process).clone();
        process.user_id = owner.user_id;
        process.user_name = owner.user_id.and_then(|id| life.files.as_ref()?.user(id));
        life.process = Arc::new(process);
        life.process.clone()
    }

    fn read(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().expect("no thread panics with the lock")
    }

    fn write(&self) -> RwLockWriteGuard<'_, Known> {
        self.known.write().expect("no thread panics with the lock")
    }
}

impl Known {
    fn life(&self, owner: &Owner) -> Option<&Life> {
        let pid = self.by_pid.get(&owner.pid)?;
        Some(&pid.lives[pid.position(owner)?])
    }

    fn life_mut(&mut self, owner: &Owner) -> Option<&mut Life> {
        let pid = self.by_pid.get_mut(&owner.pid)?;
        let position = pid.position(owner)?;
        Some(&mut pid.lives[position])
    }

    /// Whether all that is known is what /proc told, without saying which program of the process that was: an exec may
    /// be on its way through another CPU's buffer.
    fn is_unconfirmed(&self, owner: &Owner) -> bool {
        owner.started != 0 && self.life(owner).is_some_and(|life| life.exec_id == 0 && owner.exec_id != 0)
    }

    /// No exec came: the program that /proc told of is that one. Its start is known to the tick no more but exactly, as it
    /// must be for what is said of it to the kernel.
    fn confirm(&mut self, owner: &Owner) {
        if let Some(life) = self.life_mut(owner).filter(|life| life.exec_id == 0) {
            life.exec_id = owner.exec_id;
            if owner.exec_id != 0 && owner.started != 0 {
                life.process = Arc::new(Process { started: owner.started, ..(*life.process).clone() });
            }
        }
    }

    fn insert(&mut self, pid: u32, mut life: Life, time: u64) {
        while self.lives >= MAX_LIVES {
            let Some((_, oldest)) = self.ended.pop_front() else { return };
            self.drop_ended(oldest, u64::MAX);
        }
        let entry = self.by_pid.entry(pid).or_default();
        let started = life.process.started;
        // Its end, or its next exec, may have been heard of first, through another CPU.
        let has_ended = started > 0 && started <= entry.exited;
        if has_ended || entry.lives.iter().any(|other| other.follows(&life)) {
            life.ended = Some(time);
        }
        for other in entry.lives.iter_mut().filter(|other| life.follows(other)) {
            other.ended.get_or_insert(time);
        }
        self.ended.push_back((time, pid));
        let is_known = |other: &Life| is_same(other.process.started, started) && other.exec_id == life.exec_id;
        match entry.lives.iter().position(is_known) {
            Some(position) => entry.lives[position] = life,
            None => {
                entry.lives.push(life);
                self.lives += 1;
            }
        }
    }

    /// Whether the process was in another mount namespace before this exec: what was read of the one it is in may be of
    /// one that has ended, whose number it has.
    fn has_moved(&self, info: &ProcessInfo) -> bool {
        let Some(pid) = self.by_pid.get(&info.owner.pid) else { return false };
        let before = pid.lives.iter().filter(|life| is_same(life.process.started, info.owner.started));
        let last = before.filter(|life| life.exec_id < info.owner.exec_id).max_by_key(|life| life.exec_id);
        last.is_some_and(|life| life.mount_namespace != info.mount_namespace)
    }

    /// The files that hold for a program that begins at that time; none: they are to be read.
    fn files_at(
        &mut self,
        mount_namespace: u32,
        container: Option<&Container>,
        time: u64,
        is_exec: bool,
    ) -> Option<Arc<Files>> {
        if is_exec && self.has_room_for_namespaces() {
            let container = container.map(|container| container.id.as_str());
            let new =
                || MountNamespace { since: time, container: container.map(str::to_owned), ..MountNamespace::default() };
            let namespace = self.mount_namespaces.entry(mount_namespace).or_insert_with(new);
            if container.is_some() && namespace.container.as_deref() != container {
                *namespace = MountNamespace { is_asked: namespace.is_asked, ..new() };
            }
            if namespace.since > 0 && time < namespace.since + SETTLES_WITHIN {
                return None;
            }
        }
        self.mount_namespaces.get(&mount_namespace)?.files.clone()
    }

    /// Namespaces that no process is in any more make room.
    fn has_room_for_namespaces(&mut self) -> bool {
        if self.mount_namespaces.len() >= MAX_NAMESPACES {
            self.forget_namespaces();
        }
        self.mount_namespaces.len() < MAX_NAMESPACES
    }

    /// Forgets those that no process is in any more.
    fn forget_namespaces(&mut self) {
        let lives = self.by_pid.values().flat_map(|pid| &pid.lives);
        let used: HashSet<u32> = lives.filter(|life| life.ended.is_none()).map(|life| life.mount_namespace).collect();
        self.mount_namespaces.retain(|namespace, state| state.is_asked || used.contains(namespace));
    }

    fn forget_ended(&mut self, now: u64) {
        while let Some(&(time, pid)) = self.ended.front() {
            if time.saturating_add(KEPT_FOR) > now {
                return;
            }
            self.ended.pop_front();
            self.drop_ended(pid, time);
        }
    }

    /// Drops lives of that id that ended by `time`.
    fn drop_ended(&mut self, pid: u32, time: u64) {
        let Some(entry) = self.by_pid.get_mut(&pid) else { return };
        let before = entry.lives.len();
        entry.lives.retain(|life| life.ended.is_none_or(|ended| ended > time));
        self.lives -= before - entry.lives.len();
        if entry.lives.is_empty() {
            self.by_pid.remove(&pid);
        }
    }
}

impl Life {
    fn owner(&self) -> Owner {
        let process = &self.process;
        Owner { pid: process.pid, started: process.started, exec_id: self.exec_id, user_id: process.user_id }
    }

    /// Whether this is what came of that one, or came after it had ended.
    fn follows(&self, other: &Life) -> bool {
        match is_same(self.process.started, other.process.started) {
            true => self.exec_id > other.exec_id,
            false => self.process.started > other.process.started,
        }
    }
}

impl Pid {
    /// The life that an event's process was in: that very one; else one from /proc, which knows no exec; else, where
    /// the event does not say, the latest.
    fn position(&self, owner: &Owner) -> Option<usize> {
        if owner.started == 0 {
            let when = |(_, life): &(usize, &Life)| (life.process.started, life.exec_id);
            return self.lives.iter().enumerate().max_by_key(when).map(|(position, _)| position);
        }
        let of_exec = |exec_id: u32| {
            let is_it = |life: &Life| is_same(life.process.started, owner.started) && life.exec_id == exec_id;
            self.lives.iter().position(is_it)
        };
        of_exec(owner.exec_id).or_else(|| of_exec(0))
    }
}

/// Whether two starts are the same, of which one may be rounded down to a tick, or not known.
fn is_same(one: u64, other: u64) -> bool {
    one == 0 || other == 0 || one / TICK == other / TICK
}

fn bare(owner: &Owner) -> Arc<Process> {
    Arc::new(Process { pid: owner.pid, started: owner.started, user_id: owner.user_id, ..Process::default() })
}

#[cfg(test)]
mod tests;
