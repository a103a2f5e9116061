//! The agent under test.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use super::captured::{Captured, Output, Transaction, counters};
use super::program::Program;
use super::{LIMIT, Scratch, data, fill, until};

/// A pause this long says that the agent has nothing more to write.
const QUIET: Duration = Duration::from_millis(300);

/// How long attaching may take, the verifier's time included.
const ATTACH: Duration = Duration::from_secs(60);
/// How long stopping may take.
const STOP: Duration = Duration::from_secs(20);

/// The two ways the agent can see socket I/O.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CapturePath {
    Socket,
    Syscall,
}

impl CapturePath {
    pub fn name(self) -> &'static str {
        match self {
            CapturePath::Socket => "socket",
            CapturePath::Syscall => "syscall",
        }
    }

    /// The one that the agent takes by itself.
    pub fn best() -> CapturePath {
        if CapturePath::Socket.unavailable().is_none() { CapturePath::Socket } else { CapturePath::Syscall }
    }

    /// Why this kernel does not have it.
    fn unavailable(self) -> Option<&'static str> {
        const TRACEPOINT: &[u8] = b"btf_trace_sock_send_length";
        let btf = fs::read("/sys/kernel/btf/vmlinux").unwrap_or_default();
        let has_it = self == CapturePath::Syscall || btf.windows(TRACEPOINT.len()).any(|name| name == TRACEPOINT);
        (!has_it).then_some("this kernel's BTF has no sock_send_length tracepoint (it came with Linux 6.3)")
    }
}

/// Runs a test's body on one path, or says why it cannot.
pub fn run_on(path: CapturePath, body: fn(CapturePath)) {
    println!("capture path: {}", path.name());
    assert_root();
    match path.unavailable() {
        Some(reason) => println!("skipped: {reason}"),
        None => body(path),
    }
}

pub fn assert_root() {
    let is_root = fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
    assert!(is_root, "live tests need root and BPF: leave them out with -E 'not binary(/^live_/)'");
}

/// The binary under test: `SIDETAP_BIN`, else the one of this build.
pub fn binary() -> PathBuf {
    std::env::var_os("SIDETAP_BIN").map_or_else(|| env!("CARGO_BIN_EXE_sidetap").into(), PathBuf::from)
}

/// A configuration that taps one executable, with these settings of `http_capture` (`level: full, format: json`).
pub fn tap(exe: &str, capture: &str) -> String {
    fill(&data("tap.yaml"), &[("exe", exe), ("capture", capture)])
}

pub struct Sidetap {
    program: Program,
    output: Output,
    pub folder: Scratch,
}

/// Of requests with ids, some of those that were recorded less often than others.
fn rare(transactions: &[Transaction]) -> String {
    let mut times = BTreeMap::<&str, usize>::new();
    transactions.iter().for_each(|transaction| *times.entry(transaction.id()).or_default() += 1);
    let most = times.values().max().copied().unwrap_or_default();
    let rare: Vec<_> = times.iter().filter(|&(_, &count)| count < most).take(20).collect();
    if rare.is_empty() { String::new() } else { format!(", fewer than {most} of {rare:?}") }
}

impl Sidetap {
    /// Starts it and waits until it says `capturing`.
    pub fn start(config: &str, path: CapturePath) -> Sidetap {
        Sidetap::start_with(config, path, &[])
    }

    pub fn start_with(config: &str, path: CapturePath, arguments: &[&str]) -> Sidetap {
        Sidetap::start_in(Scratch::new("agent"), config, path, arguments)
    }

    /// Starts it with a pipe as standard output that nobody reads while the returned end is held.
    pub fn start_unread(config: &str, path: CapturePath, arguments: &[&str]) -> (Sidetap, File) {
        const O_NONBLOCK: i32 = 0o4000;
        let folder = Scratch::new("agent");
        let pipe = folder.path().join("sidetap.out");
        let made = Command::new("mkfifo").arg(&pipe).status();
        assert!(made.is_ok_and(|status| status.success()), "cannot make {}", pipe.display());
        let end = OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(&pipe).expect("the pipe is ours");
        (Sidetap::start_in(folder, config, path, arguments), end)
    }

    fn start_in(folder: Scratch, config: &str, path: CapturePath, arguments: &[&str]) -> Sidetap {
        let file = folder.file("sidetap.yaml", config);
        let mut command = Command::new(binary());
        command.arg("--config").arg(&file).args(["--capture-path", path.name()]).args(arguments);
        command.current_dir(folder.path());
        let mut program = Program::start("sidetap", &mut command, folder.path());
        program.wait_ready("line \"capturing\"", ATTACH, |program| program.stderr().contains("capturing"));
        let output = Output::new(program.out_path());
        Sidetap { program, output, folder }
    }

    /// Only what this process did counts: others of the same executable may run on this machine.
    pub fn of(mut self, process: u32) -> Sidetap {
        self.output.process = Some(process);
        self
    }

    /// Only records that contain this text count.
    pub fn containing(mut self, text: &'static str) -> Sidetap {
        self.output.containing = text;
        self
    }

    pub fn program(&self) -> &Program {
        &self.program
    }

    /// The configuration file it was started with, to be rewritten before a SIGHUP.
    pub fn config_file(&self) -> PathBuf {
        self.folder.path().join("sidetap.yaml")
    }

    pub fn transactions(&mut self) -> &[Transaction] {
        self.output.refresh();
        &self.output.transactions
    }

    /// Waits for so many transactions.
    pub fn wait_for(&mut self, count: usize) {
        self.wait_until(&format!("{count} transactions"), |output| output.transactions.len() >= count);
    }

    /// Waits for both sides of a request.
    pub fn wait_for_pair(&mut self, id: &str) {
        self.wait_until(&format!("both sides of {id:?}"), |output| {
            output.transactions.iter().filter(|transaction| transaction.id() == id).count() >= 2
        });
    }

    /// Waits until the agent has written what it had to write: nothing more for a while.
    pub fn wait_until_quiet(&mut self) {
        let last = Cell::new((usize::MAX, Instant::now()));
        self.wait_until("a pause in what is written", |output| {
            let count = output.transactions.len();
            if count != last.get().0 {
                last.set((count, Instant::now()));
            }
            last.get().1.elapsed() > QUIET
        });
    }

    pub fn wait_until(&mut self, what: &str, ready: impl Fn(&Output) -> bool) {
        self.wait_within(LIMIT, what, ready);
    }

    pub fn wait_within(&mut self, limit: Duration, what: &str, ready: impl Fn(&Output) -> bool) {
        let Sidetap { output, program, .. } = self;
        let done = until(limit, || {
            output.refresh();
            ready(output).then_some(())
        });
        if done.is_none() {
            let brief = |t: &Transaction| format!("{} {} {} {}", t.direction(), t.method(), t.url(), t.status());
            let last: Vec<String> = output.transactions.iter().rev().take(20).map(brief).collect();
            let count = output.transactions.len();
            let rare = rare(&output.transactions);
            // Ended, it says what it has counted.
            program.signal("INT");
            _ = until(STOP, || program.has_exited());
            panic!(
                "not within {limit:?}: {what}; {count} transactions{rare}, the last are {last:#?}{}",
                program.tail()
            );
        }
    }

    /// Waits for something in `format: text`, where transactions are no JSON.
    pub fn wait_text(&mut self, what: &str, ready: impl Fn(&str) -> bool) {
        self.program.wait_ready(what, LIMIT, |program| ready(&program.stdout()));
    }

    /// Waits for a line of its log.
    pub fn wait_log(&mut self, text: &str) {
        self.wait_log_times(text, 1);
    }

    /// Waits until so many lines of its log have it.
    pub fn wait_log_times(&mut self, text: &str, times: usize) {
        let is_there = |program: &Program| program.stderr().matches(text).count() >= times;
        self.program.wait_ready(&format!("line {text:?}, {times} times"), LIMIT, is_there);
    }

    /// SIGINT, the end, and everything it wrote.
    pub fn stop(self) -> Captured {
        self.stop_by("INT")
    }

    pub fn stop_by(mut self, signal: &str) -> Captured {
        self.end(signal);
        self.output.refresh();
        let stderr = self.program.stderr();
        Captured {
            transactions: std::mem::take(&mut self.output.transactions),
            connections: std::mem::take(&mut self.output.connections),
            stdout: self.program.stdout(),
            counters: counters(&stderr),
            stderr,
        }
    }

    /// Like [`Sidetap::stop`] for outputs too large to hold: shows each line, then returns the counters.
    pub fn stop_each(mut self, mut line: impl FnMut(&str)) -> HashMap<String, u64> {
        self.end("INT");
        let file = File::open(self.program.out_path()).expect("the output is there");
        for text in BufReader::new(file).lines() {
            line(&text.expect("stdout is UTF-8"));
        }
        counters(&self.program.stderr())
    }

    /// Like [`Sidetap::stop`] where the output is not to be read: the counters alone.
    pub fn stop_unread(mut self) -> HashMap<String, u64> {
        self.end("INT");
        counters(&self.program.stderr())
    }

    fn end(&mut self, signal: &str) {
        self.program.signal(signal);
        let status = self.program.wait_exit(STOP);
        assert!(status.success(), "after SIG{signal}: {status}{}", self.program.tail());
        let stderr = self.program.stderr();
        assert!(!stderr.contains("panicked"), "a thread panicked{}", self.program.tail());
        // Shown where a test fails: a loss explains much.
        let last = stderr.lines().last().unwrap_or_default();
        println!("{last}");
        assert!(last.contains(" seen="), "the last line has no counters{}", self.program.tail());
    }
}
