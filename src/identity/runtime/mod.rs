//! Asks the container runtimes of this machine what they run, and follows them.
//!
//! One thread a runtime, each with its socket and a session: subscribe to events, read the list, then follow. What it
//! learns goes into [`Containers`]; whoever needs a name finds it there and never waits for a runtime. A session that
//! fails, whatever the reason, is begun anew after a pause that grows from 1 s to 30 s, or as soon as the socket is a
//! new one; until then what is known stays as it is. A runtime is not trusted: each answer has a largest size and each
//! call a time limit, and the log is told of trouble once, not each time.
#![forbid(unsafe_code)]

mod containerd;
mod cri;
mod docker;
mod rpc;

#[cfg(test)]
mod fake;

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use crossbeam_channel::{Receiver, Sender, bounded};
use log::Level;
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::containers::Containers;

const DOCKER: &[&str] = &["/var/run/docker.sock"];
const CONTAINERD: &[&str] = &["/run/containerd/containerd.sock", "/run/k3s/containerd/containerd.sock"];
const CRI: &[&str] = &["/run/crio/crio.sock", "/run/containerd/containerd.sock", "/run/k3s/containerd/containerd.sock"];

/// How long a runtime may take to accept a connection.
const TO_CONNECT: Duration = Duration::from_secs(5);
/// How long it may take to tell of one container.
const TO_TELL: Duration = Duration::from_secs(2);
/// How long it may take to tell of all of them.
const TO_LIST: Duration = Duration::from_secs(30);
/// Containers in a row of which it does not tell in time before it is taken for stuck.
const MAX_UNTOLD: u32 = 3;
/// After so long the list is read again: a runtime drops events for whom it finds too slow.
const LIST_EVERY: Duration = Duration::from_secs(60);

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A session this long had no trouble of its own: the pauses start over, and the log is told of its end.
const STEADY: Duration = Duration::from_secs(30);
/// How often what ended is tidied away.
const TIDY_EVERY: Duration = Duration::from_secs(5);

/// Where the runtimes listen. None: at their usual places. An empty path: not to be asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sockets {
    pub docker: Option<PathBuf>,
    pub containerd: Option<PathBuf>,
    pub cri: Option<PathBuf>,
}

impl Sockets {
    /// Fills in what is not given from the environment: `DOCKER_HOST`. A host that is not a Unix socket is an error.
    pub fn or_environment(mut self, variable: &dyn Fn(&str) -> Option<String>) -> Result<Sockets> {
        if self.docker.is_some() {
            return Ok(self);
        }
        let Some(host) = variable("DOCKER_HOST").filter(|host| !host.is_empty()) else { return Ok(self) };
        match host.strip_prefix("unix://") {
            Some(path) if path.starts_with('/') => self.docker = Some(path.into()),
            _ => bail!(
                "DOCKER_HOST is `{host}`, but only a socket of this machine can tell of its containers: \
                 set unix:///path/to/docker.sock, or give --docker-socket"
            ),
        }
        Ok(self)
    }
}

/// The threads that follow the runtimes, until dropped.
pub struct Watchers {
    /// Dropped to stop the threads.
    stop: Vec<oneshot::Sender<Infallible>>,
    threads: Vec<JoinHandle<()>>,
    /// Ends when each runtime has said a first word, or was found not to be there.
    first_words: Receiver<Infallible>,
}

impl Drop for Watchers {
    fn drop(&mut self) {
        self.stop.clear();
        for thread in self.threads.drain(..) {
            // It panicked, of which the log was told; there is nothing left to stop.
            let _ = thread.join();
        }
    }
}

/// Follows the runtimes behind `sockets`. Fails only where no thread can be had; a runtime may come at any time.
pub fn watch(sockets: &Sockets, containers: &Arc<Containers>) -> Result<Watchers> {
    let (first_word, first_words) = bounded(0);
    let mut watchers = Watchers { stop: Vec::new(), threads: Vec::new(), first_words };
    let link = |runtime, given, usual| {
        let link = Link::new(runtime, places(given, usual), containers.clone());
        Link { first_word: Cell::new(Some(first_word.clone())), ..link }
    };
    watchers.start(link("docker", &sockets.docker, DOCKER), docker::session)?;
    watchers.start(link("containerd", &sockets.containerd, CONTAINERD), containerd::session)?;
    watchers.start(link("cri", &sockets.cri, CRI), cri::session)?;
    Ok(watchers)
}

fn places(given: &Option<PathBuf>, usual: &[&str]) -> Vec<PathBuf> {
    match given {
        Some(path) if path.as_os_str().is_empty() => Vec::new(),
        Some(path) => vec![path.clone()],
        None => usual.iter().map(PathBuf::from).collect(),
    }
}

impl Watchers {
    /// Waits, at most so long, until all that the runtimes know from the start is known here too.
    pub fn wait_for_first_words(&self, at_most: Duration) {
        // Nothing is ever sent: the last sender is dropped.
        let _ = self.first_words.recv_timeout(at_most);
    }

    fn start<S>(&mut self, link: Link, session: S) -> Result<()>
    where
        S: AsyncFn(&Link) -> Result<Infallible> + Send + 'static,
    {
        if link.places.is_empty() {
            return Ok(());
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
        let runtime = runtime.with_context(|| format!("cannot poll the socket of {}", link.runtime))?;
        let (stop, stopped) = oneshot::channel();
        let thread = Builder::new().name(link.runtime.to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = stopped => (),
                    _ = link.follow(&session) => (),
                    _ = link.tidy() => (),
                }
            });
        });
        self.threads.push(thread.context("cannot start a thread for a container runtime")?);
        self.stop.push(stop);
        Ok(())
    }
}

/// One runtime: where it listens, where to put what it says, and what the log was told of it.
struct Link {
    runtime: &'static str,
    /// Best first.
    places: Vec<PathBuf>,
    containers: Arc<Containers>,
    /// The place that was connected to.
    place: RefCell<PathBuf>,
    /// Its list was read.
    is_known: Cell<bool>,
    /// The log was told of trouble, and it has not been steady since.
    complained: Cell<bool>,
    /// It comes and goes faster than anybody wants to read.
    flaps: Cell<bool>,
    /// Dropped when it has said its first word or was found not to be there.
    first_word: Cell<Option<Sender<Infallible>>>,
}

impl Link {
    fn new(runtime: &'static str, places: Vec<PathBuf>, containers: Arc<Containers>) -> Link {
        Link {
            runtime,
            place: RefCell::new(places.first().cloned().unwrap_or_default()),
            places,
            containers,
            is_known: Cell::new(false),
            complained: Cell::new(false),
            flaps: Cell::new(false),
            first_word: Cell::new(None),
        }
    }

    /// Connects to the first place where somebody listens.
    async fn connect(&self) -> Result<UnixStream> {
        let mut trouble = None;
        for place in self.places.iter().flat_map(|place| with_twin(place)) {
            match connect(&place).await {
                Ok(stream) => {
                    *self.place.borrow_mut() = place;
                    return Ok(stream);
                }
                Err(error) => trouble = trouble.or(Some(Absent(format!("{error:#}")))),
            }
        }
        Err(trouble.unwrap_or_else(|| Absent("no socket to connect to".to_owned())).into())
    }

    /// Its list has been read. Whether the log was told.
    fn known(&self) -> bool {
        self.first_word.take();
        let is_news = !self.is_known.replace(true) && !self.flaps.get();
        if is_news {
            log::info!("{}: containers are known from {}", self.runtime, self.place.borrow().display());
        }
        is_news
    }

    /// A session ended. The level at which the log was told.
    fn lost(&self, error: &anyhow::Error, lasted: Duration) -> Level {
        self.first_word.take();
        let was_known = self.is_known.replace(false);
        if lasted >= STEADY {
            self.complained.set(false);
        }
        let is_news = !error.is::<Absent>() && !self.complained.get();
        if is_news {
            self.complained.set(true);
        }
        if was_known {
            self.flaps.set(!is_news);
        }
        let (level, what) = match (is_news, was_known) {
            (true, true) => (Level::Info, "lost, its containers keep their names"),
            (true, false) => (Level::Warn, "its containers cannot be known, which is tried again and again"),
            (false, _) => (Level::Debug, "not there"),
        };
        log::log!(level, "{}: {what}: {error:#}", self.runtime);
        level
    }

    async fn follow(&self, session: &impl AsyncFn(&Link) -> Result<Infallible>) -> Infallible {
        let mut pause = FIRST_PAUSE;
        loop {
            let started = Instant::now();
            let Err(error) = session(self).await;
            let lasted = started.elapsed();
            self.lost(&error, lasted);
            if lasted >= STEADY {
                pause = FIRST_PAUSE;
            }
            self.wait(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Waits, but no longer than until there is another socket, for then a runtime has just started.
    async fn wait(&self, pause: Duration) {
        let before = self.sockets();
        let started = Instant::now();
        while started.elapsed() < pause {
            sleep(FIRST_PAUSE.min(pause)).await;
            if self.sockets() != before {
                return;
            }
        }
    }

    /// What tells each place's socket from a later one; none where there is none.
    fn sockets(&self) -> Vec<Option<(u64, i64)>> {
        let socket = |place: PathBuf| std::fs::metadata(place).ok().map(|file| (file.ino(), file.ctime_nsec()));
        self.places.iter().flat_map(|place| with_twin(place)).map(socket).collect()
    }

    async fn tidy(&self) -> Infallible {
        loop {
            sleep(TIDY_EVERY).await;
            self.containers.expire(Instant::now());
        }
    }
}

/// The place itself and, where there is a socket, the same path as the machine's first process sees it. A socket that
/// is mounted into the agent's container is dead once its runtime has made a new one; in the machine's own files is
/// the new one. Where nothing is mounted, nothing is looked for either.
fn with_twin(place: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    // The link /var/run leads to /run of whoever follows it.
    let path = place.strip_prefix("/var").ok().filter(|path| path.starts_with("run")).unwrap_or(place);
    let twin = Path::new("/proc/1/root").join(path.strip_prefix("/").unwrap_or(path));
    std::iter::once(place.to_owned()).chain(place.exists().then_some(twin))
}

async fn connect(place: &Path) -> Result<UnixStream> {
    let connected = in_time(TO_CONNECT, UnixStream::connect(place)).await;
    connected?.with_context(|| format!("cannot connect to {}", place.display()))
}

/// Nobody is there, which is no trouble: most machines have one runtime, not three.
#[derive(Debug)]
struct Absent(String);

impl fmt::Display for Absent {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for Absent {}

/// It did not answer in time.
#[derive(Debug)]
struct Late(Duration);

impl fmt::Display for Late {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        write!(formatter, "no whole answer within {} s", self.0.as_secs())
    }
}

impl std::error::Error for Late {}

async fn in_time<T>(limit: Duration, call: impl Future<Output = T>) -> Result<T, Late> {
    timeout(limit, call).await.map_err(|_| Late(limit))
}

/// Counts containers of which a runtime does not tell in time: docker, for one, can be stuck with a single container.
#[derive(Default)]
struct Untold(u32);

impl Untold {
    /// None where the call was late, an error where it failed or too many in a row were late.
    fn unless_late<T>(&mut self, answer: Result<T>) -> Result<Option<T>> {
        match answer {
            Err(error) if error.is::<Late>() && self.0 + 1 < MAX_UNTOLD => {
                self.0 += 1;
                Ok(None)
            }
            answer => {
                self.0 = 0;
                answer.map(Some)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(docker_host: &str) -> Result<Sockets> {
        Sockets::default().or_environment(&|name| (name == "DOCKER_HOST").then(|| docker_host.to_owned()))
    }

    #[test]
    fn docker_host_names_a_socket_of_this_machine() {
        assert_eq!(
            from("unix:///run/user/1000/docker.sock").unwrap().docker,
            Some("/run/user/1000/docker.sock".into())
        );
        assert_eq!(from("").unwrap(), Sockets::default());
        for host in ["tcp://10.0.0.1:2375", "ssh://me@there", "unix://", "unix://relative", "/var/run/docker.sock"] {
            let error = from(host).unwrap_err().to_string();
            assert!(error.contains(host) && error.contains("unix:///"), "{error}");
        }
    }

    #[test]
    fn what_is_given_comes_before_the_environment() {
        let given = Sockets { docker: Some("/run/podman/podman.sock".into()), ..Sockets::default() };
        assert_eq!(given.clone().or_environment(&|_| Some("tcp://x".into())).unwrap(), given);
    }

    #[test]
    fn the_log_is_told_what_is_news() {
        let absent = || anyhow::Error::from(Absent("nobody is there".into()));
        let broken = || anyhow::anyhow!("not as documented");
        let link = || Link::new("docker", Vec::new(), Arc::new(Containers::new()));
        let short = Duration::from_secs(1);

        let restarted = link();
        assert_eq!(restarted.lost(&absent(), short), Level::Debug, "most machines have none");
        assert!(restarted.known());
        assert!(!restarted.known(), "each list");
        assert_eq!(restarted.lost(&broken(), STEADY), Level::Info);
        assert_eq!(restarted.lost(&absent(), short), Level::Debug);
        assert!(restarted.known());
        assert_eq!(restarted.lost(&broken(), STEADY), Level::Info);

        let hostile = link();
        assert_eq!(hostile.lost(&broken(), short), Level::Warn);
        for _ in 0..3 {
            assert_eq!(hostile.lost(&broken(), STEADY / 2), Level::Debug);
        }

        let flapping = link();
        let mut told = Vec::new();
        for _ in 0..10 {
            told.push((flapping.known(), flapping.lost(&broken(), short) != Level::Debug));
            flapping.lost(&absent(), short);
        }
        assert_eq!(told[..3], [(true, true), (true, false), (false, false)]);
        assert!(told[3..].iter().all(|&told| told == (false, false)), "{told:?}");
        flapping.known();
        assert_eq!(flapping.lost(&broken(), STEADY), Level::Info, "after a time without trouble");
        assert!(flapping.known());
    }

    #[test]
    fn a_new_socket_ends_the_pause() {
        let directory = fake::Directory::new();
        let link = Link::new("docker", vec![directory.socket()], Arc::new(Containers::new()));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let started = Instant::now();
        runtime.block_on(async {
            let listen = async { std::os::unix::net::UnixListener::bind(directory.socket()) };
            let (_, listener) = tokio::join!(link.wait(LONGEST_PAUSE), listen);
            listener.unwrap();
        });
        assert!(started.elapsed() < LONGEST_PAUSE / 2, "{:?}", started.elapsed());
    }

    #[test]
    fn a_mounted_socket_has_a_twin_in_the_machines_files() {
        let twins =
            |place: &str| with_twin(place.as_ref()).map(|place| place.display().to_string()).collect::<Vec<_>>();
        assert_eq!(twins("/no/such.sock"), ["/no/such.sock"]);
        assert_eq!(twins("/dev/null"), ["/dev/null", "/proc/1/root/dev/null"]);
        assert_eq!(twins("/var/run/."), ["/var/run/.", "/proc/1/root/run"]);
        assert_eq!(twins("/var/lib"), ["/var/lib", "/proc/1/root/var/lib"]);
    }

    #[test]
    fn where_no_runtime_is_nobody_waits_for_its_first_word() {
        let absent = Some(PathBuf::from("/nonexistent/socket"));
        let sockets = Sockets { docker: absent.clone(), containerd: absent, cri: Some(PathBuf::new()) };
        let watchers = watch(&sockets, &Arc::new(Containers::new())).unwrap();
        let started = Instant::now();
        watchers.wait_for_first_words(Duration::from_secs(60));
        assert!(started.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn an_empty_path_is_not_asked() {
        let none = Some(PathBuf::new());
        let sockets = Sockets { docker: none.clone(), containerd: none.clone(), cri: none };
        let watchers = watch(&sockets, &Arc::new(Containers::new())).unwrap();
        assert!(watchers.threads.is_empty());
    }
}
