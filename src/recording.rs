//! Recordings: raw events as they came from the kernel, in a file, to run the pipeline on again without root.
//!
//! A recording holds traffic in the clear, but no secrets of TLS unless these are asked for, too. The file is made for its
//! owner only, and only when asked for.
//!
//! Format: the magic, the clock's offset (i64, ns), the number of workers (u64), then frames: length of the rest (u32),
//! kind (u8), worker (u16), content. All little-endian.

use std::collections::BTreeMap;
use std::fs::{OpenOptions, Permissions};
use std::io::{BufReader, BufWriter, Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, bail, ensure};
use crossbeam_channel::{Receiver, Sender, bounded};
use serde::{Deserialize, Serialize};

use crate::bpf::{Event, Owner};
use crate::exchange::{Container, ContainerFacts, Pod, Process};
use crate::identity::Processes;
use crate::names::{NameMap, Names};
use crate::stats::Stats;

const MAGIC: &[u8; 8] = b"sidetap\x01";

/// Frames, and their bytes, that wait to be written.
const QUEUE: usize = 65_536;
const QUEUE_BYTES: usize = 64 << 20;

/// The longest frame taken from a file: an event has at most 32 KiB of payload.
const MAX_FRAME: usize = 64 << 10;

/// Processes of which nothing is known yet: how many, and how long after their first event that is awaited, in ns.
const MAX_UNKNOWN: usize = 1024;
const SAID_WITHIN: u64 = 1_000_000_000;

const EVENT: u8 = 0;
const PROCESS: u8 = 1;
const REACHED: u8 = 2;

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct ProcessFrame {
    pid: u32,
    started: u64,
    exec_id: u32,
    exe: String,
    comm: String,
    user_id: Option<u32>,
    user_name: Option<String>,
    container: Option<ContainerFrame>,
    /// The name that it has for the peer of the connection that is opened next.
    peer: Option<(IpAddr, String)>,
}

/// What was known of a container when its process was met.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct ContainerFrame {
    id: String,
    name: String,
    image: String,
    labels: BTreeMap<String, String>,
    pod: Option<PodFrame>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct PodFrame {
    name: String,
    namespace: String,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
}

impl ProcessFrame {
    fn new(process: &Process, exec_id: u32, peer: Option<IpAddr>) -> ProcessFrame {
        let name = |ip| Some((ip, process.names.as_ref()?.of(ip)?.to_string()));
        ProcessFrame {
            peer: peer.and_then(name),
            pid: process.pid,
            started: process.started,
            exec_id,
            exe: process.exe.clone(),
            comm: process.comm.clone(),
            user_id: process.user_id,
            user_name: process.user_name.clone(),
            container: process.container.as_deref().map(ContainerFrame::new),
        }
    }
}

impl ContainerFrame {
    fn new(container: &Container) -> ContainerFrame {
        let facts = container.facts().unwrap_or_default();
        let pod = facts.pod.as_deref().map(|pod| PodFrame {
            name: pod.name.clone(),
            namespace: pod.namespace.clone(),
            labels: pod.labels.clone(),
            annotations: pod.annotations.clone(),
        });
        let (name, image, labels) = (facts.name.clone(), facts.image.clone(), facts.labels.clone());
        ContainerFrame { id: container.id.clone(), name, image, labels, pod }
    }
}

impl From<ProcessFrame> for Process {
    fn from(frame: ProcessFrame) -> Process {
        let ProcessFrame { pid, started, exec_id: _, exe, comm, user_id, user_name, container, peer } = frame;
        let container = container.map(|container| Arc::new(container.into()));
        let names = peer.map(|(ip, name)| {
            let mut known = NameMap::default();
            known.insert(ip, [name.as_str()]);
            Arc::new(Names { hosts: Some(Arc::new(known)), ..Names::default() })
        });
        Process { pid, started, exe, comm, user_id, user_name, container, names }
    }
}

impl From<ContainerFrame> for Container {
    fn from(frame: ContainerFrame) -> Container {
        let ContainerFrame { id, name, image, labels, pod } = frame;
        let pod = pod.map(|PodFrame { name, namespace, labels, annotations }| {
            Arc::new(Pod { name, namespace, labels, annotations, addresses: Vec::new() })
        });
        let container = Container::new(id);
        if !name.is_empty() {
            container.learn(Some(Arc::new(ContainerFacts { name, image, labels, pod, ..ContainerFacts::default() })));
        }
        container
    }
}

/// The process that opens a connection, and the address of its peer.
type Met = (Owner, Option<IpAddr>);

/// The workers' end of a recording. Never waits: what the disk is too slow for is lost and counted.
#[derive(Clone)]
pub struct Recorder {
    frames: Sender<Vec<u8>>,
    /// Bytes of frames that wait.
    waiting: Arc<AtomicUsize>,
    stats: Arc<Stats>,
    /// Processes met of which nothing is known yet.
    unknown: Vec<(u64, Met)>,
    /// Whether secrets of TLS are recorded, too.
    with_secrets: bool,
}

impl Recorder {
    /// Creates the file, for its owner only, and starts the thread that writes it; that ends with the last recorder.
    pub fn create(
        path: &Path,
        boot_to_wall: i64,
        workers: usize,
        stats: Arc<Stats>,
    ) -> Result<(Recorder, JoinHandle<Result<()>>)> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path)
            .with_context(|| format!("cannot create the recording {}", path.display()))?;
        if file.metadata()?.is_file() {
            // There may have been one that others can read.
            let private = file.set_permissions(Permissions::from_mode(0o600));
            private.with_context(|| format!("cannot keep others from reading the recording {}", path.display()))?;
        }
        let mut file = BufWriter::with_capacity(1 << 20, file);
        file.write_all(MAGIC)?;
        file.write_all(&boot_to_wall.to_le_bytes())?;
        file.write_all(&(workers as u64).to_le_bytes())?;
        let (frames, queue): (_, Receiver<Vec<u8>>) = bounded(QUEUE);
        let waiting = Arc::new(AtomicUsize::new(0));
        let written = waiting.clone();
        let name = path.display().to_string();
        let thread = thread::Builder::new().name("recording".into()).spawn(move || {
            for frame in queue {
                file.write_all(&frame).with_context(|| format!("cannot write the recording {name}"))?;
                written.fetch_sub(frame.len(), Ordering::Relaxed);
            }
            file.flush().with_context(|| format!("cannot write the recording {name}"))
        })?;
        Ok((Recorder { frames, waiting, stats, unknown: Vec::new(), with_secrets: false }, thread))
    }

    /// Records secrets of TLS, too.
    pub fn with_secrets(self) -> Recorder {
        Recorder { with_secrets: true, ..self }
    }

    /// An event, preceded by what is known of the process where it opens a connection.
    pub fn event(&mut self, worker: usize, bytes: &[u8], processes: &Processes) {
        match Event::parse(bytes) {
            Some(Event::Secret { .. } | Event::Plain { .. }) if !self.with_secrets => return,
            Some(Event::Open(opened)) => {
                self.process(worker, opened.time, (opened.info.owner, opened.info.remote.ip()), processes, false);
            }
            _ => {}
        }
        self.frame(EVENT, worker, bytes);
    }

    /// What is known of a process; where that is nothing yet, it is said later. `is_settled`: as for [`Processes::find`].
    fn process(&mut self, worker: usize, time: u64, (owner, peer): Met, processes: &Processes, is_settled: bool) {
        match processes.find(&owner, time, is_settled) {
            Some(process) => {
                let mut frame = ProcessFrame::new(&process, owner.exec_id, peer);
                let mut content = serde_json::to_vec(&frame).unwrap_or_default();
                if content.len() + 3 > MAX_FRAME {
                    // Labels may be of any size.
                    frame.container = None;
                    content = serde_json::to_vec(&frame).unwrap_or_default();
                }
                self.frame(PROCESS, worker, &content);
            }
            None if self.unknown.len() < MAX_UNKNOWN => self.unknown.push((time, (owner, peer))),
            None => {}
        }
    }

    /// A worker has read everything of its CPU before that time.
    pub fn reached(&mut self, worker: usize, time: u64, processes: &Processes) {
        for (since, met) in std::mem::take(&mut self.unknown) {
            if since.saturating_add(SAID_WITHIN) > time {
                self.process(worker, since, met, processes, true);
            }
        }
        self.frame(REACHED, worker, &time.to_le_bytes());
    }

    fn frame(&self, kind: u8, worker: usize, content: &[u8]) {
        let mut frame = Vec::with_capacity(content.len() + 7);
        frame.extend_from_slice(&(content.len() as u32 + 3).to_le_bytes());
        frame.push(kind);
        frame.extend_from_slice(&(worker as u16).to_le_bytes());
        frame.extend_from_slice(content);
        let len = frame.len();
        let fits = self.waiting.fetch_add(len, Ordering::Relaxed) + len <= QUEUE_BYTES;
        if !fits || self.frames.try_send(frame).is_err() {
            self.waiting.fetch_sub(len, Ordering::Relaxed);
            self.stats.lost_recording.add(1);
        }
    }
}

/// What a recording holds, in order.
pub enum Frame<'a> {
    Event(&'a [u8]),
    /// A process, and which of its programs: see [`Owner`].
    Process(Process, u32),
    Reached {
        worker: usize,
        time: u64,
    },
}

/// A recording being read.
pub struct Recording {
    file: BufReader<std::fs::File>,
    pub boot_to_wall: i64,
    pub workers: usize,
    name: String,
    /// The frame last read.
    frame: Vec<u8>,
}

impl Recording {
    pub fn open(path: &Path) -> Result<Recording> {
        let name = path.display().to_string();
        let file = std::fs::File::open(path).with_context(|| format!("cannot open the recording {name}"))?;
        let mut file = BufReader::with_capacity(1 << 20, file);
        let mut head = [0; 24];
        let is_whole = file.read_exact(&mut head).is_ok();
        ensure!(is_whole && head.starts_with(MAGIC), "{name} is no recording of this version of sidetap");
        let number = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
        let workers = usize::try_from(number(16)).unwrap_or(usize::MAX).clamp(1, 1 << 16);
        Ok(Recording { file, boot_to_wall: number(8) as i64, workers, name, frame: Vec::new() })
    }

    /// The next frame; none at the end. A frame cut short, as by a full disk, ends the recording.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>> {
        // A kind that a later version adds says nothing that this one needs.
        while self.read_frame()? {
            if matches!(self.frame[0], EVENT | PROCESS | REACHED) {
                return self.parse_frame().map(Some);
            }
        }
        Ok(None)
    }

    /// Reads the next frame into `frame`; false at the end.
    fn read_frame(&mut self) -> Result<bool> {
        let mut length = [0; 4];
        if self.file.read_exact(&mut length).is_err() {
            return Ok(false);
        }
        let length = u32::from_le_bytes(length) as usize;
        ensure!((3..=MAX_FRAME).contains(&length), "{} is damaged: a frame of {length} bytes", self.name);
        self.frame.resize(length, 0);
        if self.file.read_exact(&mut self.frame).is_err() {
            log::warn!("{} ends in the midst of a frame", self.name);
            return Ok(false);
        }
        Ok(true)
    }

    fn parse_frame(&self) -> Result<Frame<'_>> {
        let worker = usize::from(u16::from_le_bytes([self.frame[1], self.frame[2]]));
        let content = &self.frame[3..];
        match self.frame[0] {
            PROCESS => {
                let process: ProcessFrame =
                    serde_json::from_slice(content).with_context(|| format!("{} is damaged", self.name))?;
                let exec_id = process.exec_id;
                Ok(Frame::Process(process.into(), exec_id))
            }
            REACHED => {
                let Ok(time) = content.try_into() else { bail!("{} is damaged: a time of odd length", self.name) };
                Ok(Frame::Reached { worker, time: u64::from_le_bytes(time) })
            }
            _ => Ok(Frame::Event(content)),
        }
    }
}

#[cfg(test)]
mod tests;
