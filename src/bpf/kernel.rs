//! Loading, attaching and the maps that are written while running.

use std::io::Read;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use anyhow::{Context, Result, bail};
use libbpf_rs::skel::{OpenSkel, Skel, SkelBuilder};
use libbpf_rs::{Iter, Link, MapCore, MapFlags, MapHandle, UprobeOpts};
use libbpf_sys as sys;
use zeroize::Zeroizing;

use super::event::{Owner, SocketInfo, copied};
use super::orders::{Order, Orders, Verdict};
use super::reader::Reader;
use super::skel::{OpenSidetapSkel, SidetapSkel, SidetapSkelBuilder};
use super::types;
use super::vault::{SocketKey, Vault};
use crate::tls::KEPT;

/// How the names of programs end that run after another one of the same kind (bpf/io.h).
const SECOND: &str = "_again";

/// The section of the programs at functions of plaintext (bpf/plain.bpf.c).
const PLAIN: &str = "uprobe/plain";

/// How socket I/O is seen. README, "Requirements", says which kernels have which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum CapturePath {
    /// One program run per send or receive of a socket (Linux 6.3 and newer).
    Socket,
    /// One program at the exit of system calls (Linux 5.10 and newer).
    Syscall,
}

impl CapturePath {
    pub fn name(self) -> &'static str {
        match self {
            CapturePath::Socket => "socket",
            CapturePath::Syscall => "syscall",
        }
    }

    /// The paths that the running kernel has, by its type information; the better one first.
    pub fn available() -> Result<Vec<CapturePath>> {
        let has_socket = has_kernel_type("btf_trace_sock_send_length")?;
        Ok(if has_socket { vec![CapturePath::Socket, CapturePath::Syscall] } else { vec![CapturePath::Syscall] })
    }

    /// The better path that the running kernel has.
    pub fn detect() -> Result<CapturePath> {
        Ok(Self::available()?[0])
    }
}

/// A function of a TLS library that shows secrets. bpf/secrets.bpf.c has a program for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Function {
    OpensslDerive,
    OpensslKeyLog,
    OpensslCtrl,
    NettleExtract,
    NettleExpand,
    GnutlsPrf,
    BoringsslExpand,
    BoringsslPrf,
    GoKeyLog,
}

/// A place in a library or in a program of Go where plaintext passes. bpf/plain.bpf.c has a program for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PlainPlace {
    Read,
    ReadEx,
    Write,
    WriteEx,
    WriteEx2,
    GnutlsRead,
    GnutlsWrite,
    /// A return instruction of one of these.
    Return,
    /// The entry of a function that ends an object, or readies it for another connection.
    End,
    /// The entry of another function that moves plaintext.
    Doubt,
    /// Behind what Go does first in a function.
    GoRead,
    GoReadReturn,
    GoWrite,
    GoWriteReturn,
}

/// A connection that is older than the agent, and a process that has it open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Older {
    pub connection: u64,
    /// Key of the connection in the kernel's table.
    pub socket: u64,
    pub pid: u32,
}

/// A program of ours at a function. Dropping it takes it away.
pub struct Probe {
    _link: Link,
}

/// What the kernel side is to leave out by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tap {
    /// Only connections that the process accepted, or only those that it made; none: both.
    pub role: Option<super::Role>,
    pub ignore_loopback: bool,
    /// Whether processes are judged at all.
    pub filter_processes: bool,
    /// Attach everything and do nothing: the floor of what watching costs.
    pub empty: bool,
}

/// Counted in the kernel, summed over the CPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    pub calls: u64,
    /// But for those of processes.
    pub events: u64,
    pub process_events: u64,
    pub lost_data: u64,
    pub lost_connections: u64,
    pub lost_processes: u64,
    pub lost_dns: u64,
    pub lost_secrets: u64,
    pub faults: u64,
    pub table_full: u64,
    pub left_out: u64,
    pub skipped: u64,
    /// Runs of programs that the kernel left out, as it does where it interrupted a run of the same program on that CPU,
    /// and that no other program made up for.
    pub missed: u64,
}

/// The programs, loaded and attached. Dropping it detaches them.
pub struct Kernel {
    skel: SidetapSkel<'static>,
    links: Vec<Link>,
    orders: Orders,
    processes: MapHandle,
    connections: MapHandle,
    unix_connections: MapHandle,
    path: CapturePath,
    /// Whether the programs at functions may sleep.
    sleeping: bool,
    /// Bytes for the events of one CPU.
    buffer: usize,
    /// The most that was ever missed. A run that the kernel left out is made up for a moment later, and a counter that has
    /// counted it in between is not to go back.
    most_missed: AtomicU64,
    /// What the next agent needs of connections, where it is kept.
    vault: Option<Vault>,
    /// Whether the programs at functions of plaintext are loaded.
    has_plain: bool,
    /// Another number for whatever the programs remember by what they were told before.
    generation: AtomicU32,
}

// SAFETY: the skeleton holds pointers into libbpf's objects. What workers share is `orders` (atomics) and the map
// handles (file descriptors); attaching to functions only reads libbpf's object; everything else takes `&mut self` or
// writes single bytes that the kernel reads.
unsafe impl Sync for Kernel {}
// SAFETY: libbpf's objects have no thread affinity.
unsafe impl Send for Kernel {}

impl Kernel {
    /// Loads the programs for `path`. Nothing runs before [`Kernel::attach`]. `buffer`: bytes for the events of one CPU.
    pub fn load(path: CapturePath, tap: Tap, buffer: usize) -> Result<Kernel> {
        let (loaded, has_plain) = match open_for(path, true)?.load() {
            Ok(skel) => (Ok(skel), true),
            // Without them, what all others do is still there.
            Err(_) => (open_for(path, false)?.load(), false),
        };
        let skel = loaded.with_context(|| {
            format!(
                "the kernel refused the BPF programs of the {} path; `sidetap check` says what is missing",
                path.name()
            )
        })?;
        if !has_plain {
            log::warn!(
                "TLS connections that are open now cannot be read: the kernel refused the BPF programs at the functions \
                 that read and write; `sidetap check` says why"
            );
        }

        let kernel = Kernel {
            orders: Orders::map(skel.maps.orders.as_fd().as_raw_fd())?,
            processes: MapHandle::try_from(&skel.maps.processes)?,
            connections: MapHandle::try_from(&skel.maps.connections)?,
            unix_connections: MapHandle::try_from(&skel.maps.unix_connections)?,
            links: Vec::new(),
            skel,
            path,
            sleeping: has_sleeping_uprobes(),
            buffer,
            most_missed: AtomicU64::new(0),
            vault: None,
            has_plain,
            generation: AtomicU32::new(0),
        };
        kernel.set_tap(tap);
        Ok(kernel)
    }

    /// Keeps secrets of open connections for the agent that comes after this one, and takes over what the one before has
    /// kept. To be asked for before [`Kernel::attach`].
    pub fn keep_secrets(&mut self) -> Result<()> {
        self.vault = Some(Vault::open()?);
        Ok(())
    }

    /// Attaches in the order that leaves no doubt about roles: ports that begin to listen, then those that do, then I/O.
    pub fn attach(&mut self) -> Result<()> {
        let progs = &self.skel.progs;
        let mut attach = |program: &libbpf_rs::ProgramMut| -> Result<()> {
            let link =
                program.attach().with_context(|| format!("cannot attach the BPF program {:?}", program.name()))?;
            self.links.push(link);
            Ok(())
        };
        attach(&progs.process_exec)?;
        attach(&progs.process_forked)?;
        attach(&progs.process_exit)?;
        attach(&progs.state_changed)?;
        attach(&progs.socket_destroyed)?;
        // The kernel runs the iterator's program over every file of every process while it is read.
        let link = progs.open_sockets.attach().context("cannot attach the iterator over open sockets")?;
        // Before the sockets: what is kept from now on is of open ones.
        let kept = self.vault.as_ref().map(Vault::keys).unwrap_or_default();
        let mut open = Vec::new();
        Iter::new(&link)?.read_to_end(&mut open).context("cannot list the open sockets")?;
        if let Some(vault) = &self.vault {
            vault.drop_closed(kept, &open);
        }
        match self.path {
            CapturePath::Socket => {
                attach(&progs.socket_sent)?;
                attach(&progs.socket_received)?;
                attach(&progs.socket_spliced)?;
            }
            CapturePath::Syscall if has_bpf_loop() => attach(&progs.syscall_exit)?,
            CapturePath::Syscall => attach(&progs.syscall_exit_bounded)?,
        }
        // Each runs after the one that was there before it.
        match self.path {
            _ if !is_preemptible() => {}
            CapturePath::Socket => {
                attach(&progs.socket_sent_again)?;
                attach(&progs.socket_received_again)?;
                attach(&progs.socket_spliced_again)?;
            }
            CapturePath::Syscall => attach(&progs.syscall_exit_again)?,
        }
        Ok(())
    }

    /// Whether programs at functions can fetch what the process has not touched yet.
    pub fn fetches_memory(&self) -> bool {
        self.sleeping
    }

    /// Runs our program for `function` in every process, now and later, that comes to `offset` of the file.
    pub fn attach_to(&self, function: Function, file: &Path, offset: u64) -> Result<Probe> {
        let progs = &self.skel.progs;
        let program = match (function, self.sleeping) {
            (Function::OpensslDerive, false) => &progs.openssl_derive,
            (Function::OpensslDerive, true) => &progs.openssl_derive_sleeping,
            (Function::OpensslKeyLog, false) => &progs.openssl_key_log,
            (Function::OpensslKeyLog, true) => &progs.openssl_key_log_sleeping,
            (Function::OpensslCtrl, false) => &progs.openssl_ctrl,
            (Function::OpensslCtrl, true) => &progs.openssl_ctrl_sleeping,
            (Function::NettleExtract, false) => &progs.nettle_extract,
            (Function::NettleExtract, true) => &progs.nettle_extract_sleeping,
            (Function::NettleExpand, false) => &progs.nettle_expand,
            (Function::NettleExpand, true) => &progs.nettle_expand_sleeping,
            (Function::GnutlsPrf, false) => &progs.gnutls_prf,
            (Function::GnutlsPrf, true) => &progs.gnutls_prf_sleeping,
            (Function::BoringsslExpand, false) => &progs.boringssl_expand,
            (Function::BoringsslExpand, true) => &progs.boringssl_expand_sleeping,
            (Function::BoringsslPrf, false) => &progs.boringssl_prf,
            (Function::BoringsslPrf, true) => &progs.boringssl_prf_sleeping,
            (Function::GoKeyLog, false) => &progs.go_key_log,
            (Function::GoKeyLog, true) => &progs.go_key_log_sleeping,
        };
        let offset = usize::try_from(offset).context("an offset beyond this machine's memory")?;
        let link = program
            .attach_uprobe_with_opts(-1, file, offset, UprobeOpts::default())
            .with_context(|| format!("cannot attach the BPF program {:?}", program.name()))?;
        Ok(Probe { _link: link })
    }

    /// Runs our program for `place` in one process when it comes to `offset` of the file.
    pub fn attach_plain(&self, place: PlainPlace, pid: u32, file: &Path, offset: u64) -> Result<Probe> {
        let progs = &self.skel.progs;
        let program = match place {
            PlainPlace::Read => &progs.openssl_read,
            PlainPlace::ReadEx => &progs.openssl_read_ex,
            PlainPlace::Write => &progs.openssl_write,
            PlainPlace::WriteEx => &progs.openssl_write_ex,
            PlainPlace::WriteEx2 => &progs.openssl_write_ex2,
            PlainPlace::GnutlsRead => &progs.gnutls_read,
            PlainPlace::GnutlsWrite => &progs.gnutls_write,
            PlainPlace::Return => &progs.thread_returns,
            PlainPlace::End => &progs.object_ends,
            PlainPlace::Doubt => &progs.object_in_doubt,
            PlainPlace::GoRead => &progs.go_read,
            PlainPlace::GoReadReturn => &progs.go_read_returns,
            PlainPlace::GoWrite => &progs.go_write,
            PlainPlace::GoWriteReturn => &progs.go_write_returns,
        };
        let pid = i32::try_from(pid).context("no process has that id")?;
        let offset = usize::try_from(offset).context("an offset beyond this machine's memory")?;
        let link = program
            .attach_uprobe_with_opts(pid, file, offset, UprobeOpts::default())
            .with_context(|| format!("cannot attach the BPF program {:?}", program.name()))?;
        Ok(Probe { _link: link })
    }

    /// A process is a program of Go whose functions are looked at. One that there is no room for is not read.
    pub fn watch_go(&self, pid: u32) {
        if let Err(error) = self.skel.maps.go_processes.update(&pid.to_ne_bytes(), &[1], MapFlags::ANY) {
            log::debug!("PID {pid} as a program of Go: {error}");
        }
    }

    /// Forgets what is known of a process and of who is in which function there, and with what: its functions are not
    /// looked at any more.
    pub fn forget_plain(&self, pid: u32) {
        // What is not there, or has just gone, is no trouble.
        let maps = &self.skel.maps;
        let _ = maps.go_processes.delete(&pid.to_ne_bytes());
        for map in [&maps.tls_calls, &maps.tls_objects] {
            // Both keys have the process behind eight bytes.
            let is_its = |key: &Vec<u8>| key.get(8..12) == Some(&pid.to_ne_bytes()[..]);
            for key in map.keys().filter(is_its).collect::<Vec<_>>() {
                let _ = map.delete(&key);
            }
        }
    }

    /// Whether what TLS libraries read and write is looked at in any process: with system calls, too.
    pub fn watch_plain(&self, is_watching: bool) {
        let Some(bss) = self.skel.maps.bss_data.as_deref() else { return };
        // SAFETY: as in `set_tap`.
        unsafe { (&raw const bss.watches_plain).cast_mut().cast::<bool>().write_volatile(is_watching) };
    }

    /// The open TCP connections that are older than the agent, for each process that has them open; none where nothing
    /// could be made of them.
    pub fn older(&self) -> Result<Vec<Older>> {
        if !self.has_plain {
            return Ok(Vec::new());
        }
        let link = self.skel.progs.older_connections.attach().context("cannot attach the iterator over connections")?;
        let mut listed = Vec::new();
        Iter::new(&link)?.read_to_end(&mut listed).context("cannot list the open connections")?;
        let older = listed.chunks_exact(size_of::<types::older_connection>());
        let older = older.filter_map(copied::<types::older_connection>);
        Ok(older.map(|one| Older { connection: one.connection, socket: one.socket, pid: one.pid }).collect())
    }

    /// Whether a connection is open and read by what a TLS library was seen reading and writing.
    pub fn is_plain(&self, older: &Older) -> bool {
        let is_open = self.socket(older.socket).is_some_and(|info| info.connection == older.connection);
        is_open && self.orders.verdict(older.connection) == Some(Verdict::Plain)
    }

    /// Whether user space has left out a process.
    pub fn is_left_out(&self, pid: u32) -> bool {
        let left_out = types::process_verdict::PROCESS_LEFT_OUT.0;
        self.judgement(pid).is_some_and(|judgement| u32::from(judgement.verdict) == left_out)
    }

    /// Opens the event buffer of every CPU.
    pub fn readers(&self) -> Result<Vec<Reader>> {
        let cpus = libbpf_rs::num_possible_cpus()?;
        let open = |cpu: usize| {
            let reader = Reader::open(cpu, self.buffer)?;
            let (key, fd) = ((cpu as u32).to_ne_bytes(), reader.map().to_ne_bytes());
            let buffers = &self.skel.maps.buffers;
            buffers
                .update(&key, &fd, MapFlags::ANY)
                .with_context(|| format!("cannot give CPU {cpu} its event buffer"))?;
            Ok(reader)
        };
        let readers: Vec<Reader> = (0..cpus).filter(|&cpu| is_online(cpu)).map(open).collect::<Result<_>>()?;
        if readers.is_empty() {
            bail!("no CPU is online");
        }
        Ok(readers)
    }

    /// Takes effect at the next call.
    pub fn set_tap(&self, tap: Tap) {
        let Some(bss) = self.skel.maps.bss_data.as_deref() else { return };
        let role = match tap.role {
            Some(super::Role::Client) => types::role::ROLE_CLIENT,
            Some(super::Role::Server) => types::role::ROLE_SERVER,
            _ => types::role::ROLE_UNKNOWN,
        };
        let settings = types::settings {
            slf: std::process::id(),
            watermark: Reader::watermark(self.buffer) as u32,
            role: role.0 as u8,
            ignore_loopback: tap.ignore_loopback.into(),
            filter_processes: tap.filter_processes.into(),
            empty: tap.empty.into(),
            generation: self.generation.load(Ordering::Relaxed),
        };
        // SAFETY: the section is mapped for as long as the skeleton lives; the kernel reads each field by itself, so
        // that one run seeing old and new fields is harmless.
        unsafe { (&raw const bss.settings).cast_mut().write_volatile(settings) };
        self.forget_remembered();
    }

    /// What the programs remember by what they were told before holds no more.
    fn forget_remembered(&self) {
        let Some(bss) = self.skel.maps.bss_data.as_deref() else { return };
        let generation = self.generation.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        // SAFETY: as in `set_tap`.
        unsafe { (&raw const bss.settings.generation).cast_mut().write_volatile(generation) };
    }

    /// How many programs are attached.
    pub fn attached(&self) -> usize {
        self.links.len()
    }

    pub fn path(&self) -> CapturePath {
        self.path
    }

    /// Data events that found no room in a buffer.
    pub fn lost_data(&self) -> u64 {
        self.counter(types::counter::COUNT_LOST_DATA)
    }

    fn counter(&self, counter: types::counter) -> u64 {
        let values = self.skel.maps.counters.lookup_percpu(&counter.0.to_ne_bytes(), MapFlags::ANY);
        let values = values.ok().flatten().unwrap_or_default();
        values.iter().filter_map(|value| Some(u64::from_ne_bytes(value.get(..8)?.try_into().ok()?))).sum()
    }

    /// What was counted since loading.
    pub fn counters(&self) -> Counters {
        let get = |counter| self.counter(counter);
        Counters {
            calls: get(types::counter::COUNT_CALLS),
            events: get(types::counter::COUNT_EVENTS),
            process_events: get(types::counter::COUNT_PROCESS_EVENTS),
            lost_data: self.lost_data(),
            lost_connections: get(types::counter::COUNT_LOST_OPEN)
                + get(types::counter::COUNT_LOST_END)
                + get(types::counter::COUNT_LOST_CLOSE),
            lost_processes: get(types::counter::COUNT_LOST_PROCESS),
            lost_dns: get(types::counter::COUNT_LOST_DNS),
            lost_secrets: get(types::counter::COUNT_LOST_SECRET),
            faults: get(types::counter::COUNT_FAULTS),
            table_full: get(types::counter::COUNT_TABLE_FULL),
            left_out: get(types::counter::COUNT_LEFT_OUT),
            skipped: get(types::counter::COUNT_SKIPPED),
            missed: self.missed(),
        }
    }

    fn missed(&self) -> u64 {
        let missed = |program: libbpf_rs::Program| {
            let mut info = sys::bpf_prog_info::default();
            let mut size = size_of_val(&info) as u32;
            let program = program.as_fd().as_raw_fd();
            // SAFETY: the kernel fills in at most `size` bytes; kernels before 5.12 leave the count at 0.
            let error = unsafe { sys::bpf_prog_get_info_by_fd(program, &raw mut info, &raw mut size) };
            if error == 0 { info.recursion_misses } else { 0 }
        };
        let is_first =
            |program: &libbpf_rs::Program| program.autoload() && !program.name().to_string_lossy().ends_with(SECOND);
        let missed: u64 = self.skel.object().progs().filter(is_first).map(missed).sum();
        let missed = missed.saturating_sub(self.counter(types::counter::COUNT_AGAIN));
        self.most_missed.fetch_max(missed, Ordering::Relaxed).max(missed)
    }

    /// What to copy of a connection from now on. Costs no system call.
    pub fn order(&self, connection: u64, order: &Order) {
        self.orders.give(connection, order);
    }

    /// Whether a process is left out, as long as it is that program; where `process` does not say which, until its end
    /// or next exec. Until told, it is not left out.
    pub fn judge(&self, process: &Owner, left_out: bool) {
        let verdict =
            if left_out { types::process_verdict::PROCESS_LEFT_OUT } else { types::process_verdict::PROCESS_TAPPED };
        let is_exact = process.started != 0 && process.exec_id != 0;
        let (started, exec_id) = if is_exact { (process.started, process.exec_id) } else { (0, 0) };
        let before = self.judgement(process.pid);
        // An exec since /proc was looked into has left its mark: that program is judged by its own event.
        if !is_exact && before.is_some_and(|judgement| judgement.started != 0) {
            return;
        }
        // So has an exec that this word comes too late for.
        if is_exact && before.is_some_and(|before| before.started == started && before.exec_id > exec_id) {
            return;
        }
        let judgement = types::judgement { started, exec_id, verdict: verdict.0 as u8, ..Default::default() };
        // SAFETY: plain integers without padding (asserted beside the definition), alive for the call.
        let value = unsafe { plain::as_bytes(&judgement) };
        // Where it fails, the process stays tapped in the kernel; user space filters again.
        let _ = self.processes.update(&process.pid.to_ne_bytes(), value, MapFlags::ANY);
        // One that was pushed out may have been remembered.
        let was_other = |before: types::judgement| before.verdict != 0 && before.verdict != judgement.verdict;
        if before.map_or(left_out, was_other) {
            self.forget_remembered();
        }
    }

    fn judgement(&self, pid: u32) -> Option<types::judgement> {
        copied(&self.processes.lookup(&pid.to_ne_bytes(), MapFlags::ANY).ok().flatten()?)
    }

    /// Keeps something of a connection over the end of the agent.
    pub fn keep(&self, key: &SocketKey, value: &[u8; KEPT]) {
        if let Some(vault) = &self.vault {
            vault.put(key, value);
        }
    }

    /// What was kept of a connection.
    pub fn kept(&self, key: &SocketKey) -> Option<Zeroizing<Vec<u8>>> {
        self.vault.as_ref()?.get(key)
    }

    pub fn forget(&self, key: &SocketKey) {
        if let Some(vault) = &self.vault {
            vault.remove(key);
        }
    }

    /// The kernel's entry for a socket, while it has one.
    pub fn socket(&self, key: u64) -> Option<SocketInfo> {
        let key = key.to_ne_bytes();
        let look_up = |map: &MapHandle| map.lookup(&key, MapFlags::ANY).ok().flatten();
        let value = look_up(&self.connections).or_else(|| look_up(&self.unix_connections))?;
        Some(SocketInfo::from_kernel(&copied::<types::connection>(&value)?))
    }
}

/// The object of `path`, ready to be loaded. `with_plain`: with the programs at functions of plaintext.
pub(super) fn open_for(path: CapturePath, with_plain: bool) -> Result<OpenSidetapSkel<'static>> {
    let cpus = libbpf_rs::num_possible_cpus().context("cannot tell the number of CPUs")?;
    // Leaked: the skeleton borrows it, and there are a few at most in the life of the process.
    let storage = Box::leak(Box::new(MaybeUninit::uninit()));
    let mut open = SidetapSkelBuilder::default().open(storage).context("cannot open the BPF object")?;
    open.maps.scratches.set_max_entries(cpus as u32).context("cannot size the BPF map `scratches`")?;
    open.maps.buffers.set_max_entries(cpus as u32).context("cannot size the BPF map `buffers`")?;
    let constants = open.maps.rodata_data.as_deref_mut().context("the BPF object has no constants")?;
    constants.is_preemptible = is_preemptible();
    constants.reads_plain = with_plain;
    constants.remembers = path == CapturePath::Socket;
    if !with_plain {
        let maps = &mut open.maps;
        for map in [&mut maps.tls_calls, &mut maps.tls_objects, &mut maps.tls_sockets] {
            map.set_max_entries(1).context("cannot size the BPF maps of TLS objects")?;
        }
    }
    choose_programs(&mut open, path, with_plain);
    Ok(open)
}

/// Only the programs that will run: the others may not load on this kernel.
fn choose_programs(open: &mut OpenSidetapSkel, path: CapturePath, with_plain: bool) {
    let progs = &mut open.progs;
    let socket = path == CapturePath::Socket;
    let bounded = !socket && !has_bpf_loop();
    progs.socket_sent.set_autoload(socket);
    progs.socket_received.set_autoload(socket);
    progs.socket_spliced.set_autoload(socket);
    progs.syscall_exit.set_autoload(!socket && !bounded);
    progs.syscall_exit_bounded.set_autoload(bounded);
    let twice = is_preemptible();
    progs.socket_sent_again.set_autoload(socket && twice);
    progs.socket_received_again.set_autoload(socket && twice);
    progs.socket_spliced_again.set_autoload(socket && twice);
    progs.syscall_exit_again.set_autoload(!socket && twice);
    progs.older_connections.set_autoload(with_plain);
    let sleeping = has_sleeping_uprobes();
    for mut program in open.open_object_mut().progs_mut() {
        match program.section().to_string_lossy().as_ref() {
            "uprobe" => program.set_autoload(!sleeping),
            "uprobe.s" => program.set_autoload(sleeping),
            PLAIN => program.set_autoload(with_plain),
            _ => {}
        }
    }
}

/// Whether tasks can lose the CPU in the midst of a program (bpf/compat.h).
fn is_preemptible() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    version(&release).is_some_and(|version| version >= (7, 0))
}

/// `6.1.0-18-amd64` is (6, 1).
pub fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// bpf_loop() came with Linux 5.17.
fn has_bpf_loop() -> bool {
    // SAFETY: a probe without pointers to own; it loads a tiny program and closes it again.
    unsafe { sys::libbpf_probe_bpf_helper(sys::BPF_PROG_TYPE_TRACEPOINT, sys::BPF_FUNC_loop, std::ptr::null()) == 1 }
}

/// Programs at user functions that may sleep came with Linux 6.0 (8c7dcb84e3b7, "bpf: implement sleepable uprobes by
/// chaining gps").
fn has_sleeping_uprobes() -> bool {
    // r0 = 0; exit
    let nothing = [
        sys::bpf_insn { code: (sys::BPF_ALU64 | sys::BPF_MOV | sys::BPF_K) as u8, ..Default::default() },
        sys::bpf_insn { code: (sys::BPF_JMP | sys::BPF_EXIT) as u8, ..Default::default() },
    ];
    let mut options = sys::bpf_prog_load_opts {
        sz: size_of::<sys::bpf_prog_load_opts>() as _,
        prog_flags: sys::BPF_F_SLEEPABLE,
        ..Default::default()
    };
    // SAFETY: the instructions, the options and the texts live for the call, which only reads them.
    let fd = unsafe {
        let (name, license) = (c"sleeping".as_ptr(), c"GPL".as_ptr());
        sys::bpf_prog_load(
            sys::BPF_PROG_TYPE_KPROBE,
            name,
            license,
            nothing.as_ptr(),
            nothing.len() as _,
            &raw mut options,
        )
    };
    if fd < 0 {
        return false;
    }
    // SAFETY: a file descriptor that was just made for us.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
    true
}

fn has_kernel_type(name: &str) -> Result<bool> {
    let btf = libbpf_rs::btf::Btf::from_vmlinux()
        .context("the kernel has no type information (BTF): it needs CONFIG_DEBUG_INFO_BTF")?;
    Ok(btf.type_by_name::<libbpf_rs::btf::types::Typedef>(name).is_some())
}

fn is_online(cpu: usize) -> bool {
    // CPU 0 often has no such file: it cannot be taken away.
    let file = format!("/sys/devices/system/cpu/cpu{cpu}/online");
    std::fs::read_to_string(file).map_or(cpu == 0, |text| text.trim() == "1")
}
