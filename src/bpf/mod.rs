//! The kernel seen from Rust: loading, attaching, one reader per CPU, events, and what is told back.
//!
//! The only folder with unsafe code. It knows bytes from the kernel and nothing of what they mean.

mod event;
mod kernel;
mod orders;
mod reader;
mod vault;
mod verifier;

// Generated from bpf/sidetap.bpf.c by build.rs.
#[allow(clippy::all, clippy::undocumented_unsafe_blocks, dead_code, non_camel_case_types, unused_imports)]
mod skel {
    include!(concat!(env!("OUT_DIR"), "/sidetap.skel.rs"));
}

pub use event::{Data, Event, Flow, Opened, Owner, ProcessInfo, Role, SocketInfo};
pub use kernel::{CapturePath, Counters, Function, Kernel, Older, PlainPlace, Probe, Tap, version};
pub use orders::{Order, Verdict};
pub use reader::{Fill, Reader};
pub use vault::{SocketKey, forget_secrets};
pub use verifier::verify;

pub(crate) use skel::types;

/// CLOCK_BOOTTIME, the clock of all events, in nanoseconds.
pub fn boot_time() -> u64 {
    clock(libc::CLOCK_BOOTTIME)
}

/// What to add to an event's time to get nanoseconds since the Unix epoch.
pub fn boot_to_wall() -> i64 {
    clock(libc::CLOCK_REALTIME).wrapping_sub(boot_time()) as i64
}

fn clock(id: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for writes; both clocks exist on every kernel that can load the programs.
    unsafe { libc::clock_gettime(id, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Takes in what other threads have freed of the calling thread's memory, and gives back to the system what nobody has used
/// for a while. Without it that waits until this thread allocates again.
pub fn give_back_memory() {
    // SAFETY: no pointers; it may be called at any time, from any thread.
    unsafe { libmimalloc_sys::mi_collect(false) };
}

/// Whether a file was opened through an overlay: its inode number is then that of the file beneath, its device is not.
pub fn is_overlay(file: &std::fs::File) -> bool {
    // SAFETY: a zeroed statfs is a valid one.
    let mut found: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: an open file, and `found` is valid for writes.
    let result = unsafe { libc::fstatfs(std::os::fd::AsRawFd::as_raw_fd(file), &raw mut found) };
    result == 0 && found.f_type == libc::OVERLAYFS_SUPER_MAGIC
}

/// Lets the calling thread run soon after it wakes: `nice` as in setpriority(2), which on Linux is a thread's own.
pub fn set_nice(nice: i32) -> std::io::Result<()> {
    // SAFETY: no pointers; 0 is the calling thread.
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// Keeps the calling thread on one CPU.
pub fn pin_to_cpu(cpu: usize) -> std::io::Result<()> {
    // SAFETY: a zeroed cpu_set_t is an empty one.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    if cpu >= libc::CPU_SETSIZE as usize {
        return Err(std::io::ErrorKind::Unsupported.into());
    }
    // SAFETY: `cpu` is within the set; 0 is the calling thread.
    let result = unsafe {
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &set)
    };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}
