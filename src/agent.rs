//! The agent: load, attach, spawn, wait, stop, in order.
//!
//! | thread | owns | is stopped by |
//! |---|---|---|
//! | main | signals, reloading, the order of things | SIGINT, SIGTERM, a closed stdout |
//! | admin | the admin listener | the main thread, by letting go of it |
//! | worker, one a CPU | that CPU's event buffer | the stop flag; reads once more after it |
//! | identity | files about processes; which names hold where | the stop flag |
//! | fallback | probes in processes with TLS connections from before the start | nothing: ends with the last of these |
//! | probes | files that TLS libraries are in | nothing: a file may keep it waiting; ends with the process |
//! | letting go | probes in files that nobody has mapped any more | itself, when they are gone |
//! | docker, containerd, cri | the socket of a container runtime | the main thread, by letting go of them |
//! | sink, one a store | its output | the last sender of its queue |
//! | s3 sender, otel sender, one a store of that type | what its sink has put on disk | its sink, by the end of its queue |
//! | tidying | files put aside by a `file` store | itself, when it is done |
//! | signals | nothing: passes them on | the end of the process |
//! | recording, with `--record` | the file | the last recorder |
//! | keylog, with `--keylog` | the file | the end of the pipeline, which holds the secrets |

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use crossbeam_channel::{Receiver, bounded, never, select, tick};
use log::LevelFilter;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::admin::{self, ReloadRequest, Server, Sources};
use crate::bpf::{self, CapturePath, Kernel, Role, Tap};
use crate::cli::Run;
use crate::config::{Settings, TapDirection, Tapped};
use crate::identity::Identity;
use crate::identity::runtime::{self, Sockets};
use crate::keylog::KeyLog;
use crate::machine;
use crate::pipeline::Pipeline;
use crate::privileges;
use crate::probes::Probes;
use crate::recording::Recorder;
use crate::sink::stores::Stores;
use crate::stats::{Memory, Stats};
use crate::tls::Secrets;
use crate::worker;

mod reload;

use reload::{Reloader, Watch};

/// How long the sinks may take to write what they have been given when the agent ends.
const LAST_WRITES: Duration = Duration::from_secs(10);

/// How long the stores over the network have of that for what is left; the rest is sent at the next start.
const LAST_SENDS: Duration = Duration::from_secs(5);

/// How long the start waits for what container runtimes know.
const FIRST_WORDS: Duration = Duration::from_secs(2);

/// How often it is looked whether the configuration file is another, with `--watch`.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// All buffers together; more CPUs have smaller ones.
const BUFFERS_MAX: usize = 256 << 20;

/// Captures until told to stop.
pub fn run(run: &Run, settings: Settings) -> Result<()> {
    let signals = listen_to_signals()?;
    let (ask_for_reload, reloads) = bounded(4);
    let state = admin::State::new(ask_for_reload);
    let server = Server::start(run.listen.http_listen.clone(), state.clone())?;
    let path = run.capture_path.map_or_else(CapturePath::detect, Ok)?;
    let tap_now = tap(&settings, run.empty_probes);
    // Nothing is captured before all programs are attached: half a connection would be worse than none.
    let mut kernel = Kernel::load(path, Tap { empty: true, ..tap_now }, buffer_size(run)?)?;

    let stats = Arc::new(Stats::default());
    let memory = Arc::new(Memory::new((run.memory_limit as usize) << 20));
    let readers = kernel.readers()?;
    let fills = readers.iter().map(bpf::Reader::fill).collect::<Result<_>>()?;
    let workers = readers.len();
    if run.forget_secrets {
        bpf::forget_secrets()?;
    } else if let Err(error) = kernel.keep_secrets() {
        log::info!("TLS connections that are open now cannot be read after a restart: {error:#}");
    }
    kernel.attach()?;
    let kernel = Arc::new(kernel);
    let mut probes = Probes::new(kernel.clone(), stats.clone());
    let watch = probes.watch();
    probes.keep_to(&settings.tap.filters);
    probes.scan();
    let fallback = probes.fallback();
    probes.start()?;
    // Before all threads but those that do so by themselves.
    privileges::reduce_or_warn(privileges::AGENT);

    let (closed, stdout_closed) = bounded(1);
    let (outbox, mut stores) = Stores::start(&settings, memory.clone(), stats.clone(), &closed, LAST_SENDS)?;
    let clock = bpf::boot_to_wall();
    let recording = run.record.as_deref().map(|path| Recorder::create(path, clock, workers, stats.clone()));
    let recording = recording.transpose()?;
    let (recorder, recording) = recording.unzip();
    let recorder = if run.record_secrets { recorder.map(Recorder::with_secrets) } else { recorder };
    if let Some(path) = &run.record {
        log::warn!("{} will hold all traffic as it is: passwords, cookies, everything", path.display());
    }
    let key_log = run.keylog.as_deref().map(|path| KeyLog::open(path, stats.clone())).transpose()?;
    let (key_log, key_log_thread) = key_log.unzip();
    let secrets = key_log.map_or_else(Secrets::new, |log| Secrets::logging(move |line| log.write(line)));
    if let Some(path) = &run.keylog {
        log::warn!("whoever has {} can read the TLS connections that are opened from now on", path.display());
    }

    let mut identity = Identity::new(stats.clone());
    // Early: what runs already is to have its name from the first transaction on.
    let runtimes = runtime::watch(&sockets(run), identity.containers())?;

    let pipeline = Pipeline::new(settings, kernel.clone(), stats.clone(), memory, outbox, workers, clock)
        .with_processes(identity.processes())
        .with_secrets(secrets)
        .with_ids_from(first_id(), workers);
    let pipeline = Arc::new(pipeline.with_watch(watch));
    identity.scan();
    runtimes.wait_for_first_words(FIRST_WORDS);
    identity.name_networks();
    judge_running(&pipeline, &kernel);
    if let Some(fallback) = fallback {
        fallback.attach();
    }
    kernel.set_tap(tap_now);

    let stop = Arc::new(AtomicBool::new(false));
    let mut threads = vec![identity.start(stop.clone())?];
    for (index, reader) in readers.into_iter().enumerate() {
        let (pipeline, stop, recorder) = (pipeline.clone(), stop.clone(), recorder.clone());
        let thread = thread::Builder::new().name(format!("worker {}", reader.cpu));
        let watch = state.watch_worker();
        let work = move || {
            let _watch = watch;
            worker::run(index, workers, reader, &pipeline, recorder, &stop);
        };
        threads.push(thread.spawn(work).context("cannot start a worker")?);
    }
    drop(recorder);
    log::info!("capturing ({} path, {workers} CPUs)", path.name());

    state.capturing(Sources { pipeline: pipeline.clone(), kernel: kernel.clone(), fills });
    let reloader = Reloader { run, pipeline: &pipeline, kernel: &kernel, stores: &mut stores };
    wait(&signals, &stdout_closed, &reloads, reloader);

    log::info!("stopping");
    state.stopping();
    stop.store(true, Ordering::Release);
    for thread in threads {
        if thread.join().is_err() {
            log::error!("a thread ended early: what it had not read is lost");
        }
    }
    drop(runtimes);
    pipeline.pass(0, u64::MAX, |pass| {
        // The workers look once a second.
        if kernel.lost_data() > 0 {
            pipeline.table.find_losses(0, 1, bpf::boot_time, &mut pass.env);
        }
        pipeline.table.finish(&mut pass.env);
    });
    let counters = kernel.counters();
    // With the pipeline goes the outbox, and with it the sinks' queues end.
    drop((server, state, pipeline));
    for (name, left) in stores.join(LAST_WRITES) {
        let seconds = LAST_WRITES.as_secs();
        log::error!("the {name} store did not take its last records within {seconds} s: {left} are lost");
    }
    if let Some(recording) = recording {
        recording.join().unwrap_or_else(|_| anyhow::bail!("the recording ended early"))?;
    }
    if let Some(thread) = key_log_thread {
        thread.join().map_err(|_| anyhow::anyhow!("the key log ended early"))?;
    }
    for (exe, library, count) in stats.uncovered.all() {
        log::info!("not opened: {count} TLS connections of {exe} (library: {library})");
    }
    log::info!("{}", stats.line(&counters));
    // The last line: threads that nobody waits for have nothing to add, such as that the last probe of a process is gone.
    log::set_max_level(LevelFilter::Off);
    Ok(())
}

/// Where the container runtimes of this machine are asked.
fn sockets(run: &Run) -> Sockets {
    let given = Sockets {
        docker: run.docker_socket.clone(),
        containerd: run.containerd_socket.clone(),
        cri: run.cri_socket.clone(),
    };
    // A shell may have it for reasons that have nothing to do with this machine's containers.
    given.clone().or_environment(&|name| std::env::var(name).ok()).unwrap_or_else(|error| {
        log::warn!("{error:#}");
        given
    })
}

/// Until the agent is to stop: reloads on SIGHUP, when asked to, and with `--watch` when the file is another.
fn wait(
    signals: &Receiver<i32>,
    stdout_closed: &Receiver<()>,
    requests: &Receiver<ReloadRequest>,
    mut reloader: Reloader,
) {
    let mut watch = reloader.run.config.as_deref().filter(|_| reloader.run.watch).map(Watch::new);
    let looks = if watch.is_some() { tick(WATCH_EVERY) } else { never() };
    loop {
        select! {
            recv(signals) -> signal => match signal {
                Ok(SIGHUP) => _ = reloader.reload(),
                _ => return,
            },
            recv(requests) -> request => {
                let reloaded = reloader.reload();
                // Whoever asked may have gone.
                _ = request.map(|request| request.answer.send(reloaded));
            }
            recv(looks) -> _ => {
                if watch.as_mut().is_some_and(Watch::has_changed) {
                    _ = reloader.reload();
                }
            }
            recv(stdout_closed) -> _ => {
                log::error!("stdout is closed: nobody reads what is captured");
                return;
            }
        }
    }
}

/// Tells the kernel which of the running processes are left out, and the user where that may be a surprise.
fn judge_running(pipeline: &Pipeline, kernel: &Kernel) {
    let settings = pipeline.settings.read().expect("no thread panics with the settings locked").clone();
    let filters = &settings.tap.filters;
    if !filters.is_any() {
        return;
    }
    let running = pipeline.processes.running();
    let mut left_out = 0;
    for (owner, process) in &running {
        let is_left_out = filters.verdict(process) == Tapped::No;
        kernel.judge(owner, is_left_out);
        left_out += usize::from(is_left_out);
        if is_left_out && process.binary() == "haproxy" {
            log::warn!(
                "the filters leave out haproxy (PID {}): `tap.filters.custom` names processes to leave out, \
                 `tap.filters.only` those to keep to",
                process.pid
            );
        }
    }
    log::info!("filters leave out {left_out} of {} running processes", running.len());
}

/// What the kernel decides by itself.
fn tap(settings: &Settings, empty: bool) -> Tap {
    let role = match settings.tap.direction {
        TapDirection::All => None,
        TapDirection::Ingress => Some(Role::Server),
        TapDirection::Egress | TapDirection::EgressInternal | TapDirection::EgressExternal => Some(Role::Client),
    };
    let filter_processes = settings.tap.filters.is_any();
    Tap { role, ignore_loopback: settings.tap.ignore_loopback, filter_processes, empty }
}

/// Bytes for the buffer of one CPU.
fn buffer_size(run: &Run) -> Result<usize> {
    let cpus = libbpf_rs::num_possible_cpus().context("cannot tell the number of CPUs")?;
    let mut bytes = run.buffer_size << 10;
    while bytes * cpus > BUFFERS_MAX && bytes > 256 << 10 {
        bytes /= 2;
    }
    Ok(bytes)
}

/// Where this run begins to number exchanges: at the time in µs. An earlier run has not come so far, unless it had a
/// million of them a second, so that a record that a store got twice is known by its number.
fn first_id() -> u64 {
    machine::now().as_micros() as u64
}

fn listen_to_signals() -> Result<Receiver<i32>> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("cannot listen to signals")?;
    let (sender, receiver) = bounded(16);
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            privileges::reduce_or_warn(privileges::AGENT);
            for signal in signals.forever() {
                let _ = sender.send(signal);
            }
        })
        .context("cannot start the thread that listens to signals")?;
    Ok(receiver)
}
