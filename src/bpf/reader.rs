//! One CPU's event buffer: a BPF ring buffer of its own, read by one thread.
//!
//! libbpf maps the whole of a ring buffer, twice, which would count as memory of ours; here a window is mapped for each
//! look at what is new. Nobody is woken for an event: a reader sleeps for a time, or until the programs wake it because
//! the buffer is filling.

use std::ffi::c_void;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use libbpf_rs::{MapHandle, MapType};
use libbpf_sys as sys;

/// Bytes of the buffer mapped at once: more than the largest record.
const WINDOW: usize = 1 << 20;

/// A record is a header of 8 bytes, the first 4 its length and flags, then the event (kernel/bpf/ringbuf.c).
const HEADER: usize = sys::BPF_RINGBUF_HDR_SZ as usize;

/// The programs wake a reader when its buffer has been filled by one part in so many.
const WATERMARK: usize = 4;

pub struct Reader {
    map: MapHandle,
    /// How far we have read; the kernel writes where that is not.
    consumer: Mapping,
    /// How far the kernel has written.
    producer: Mapping,
    bytes: usize,
    wakeups: OwnedFd,
    /// The most bytes that were found unread at once.
    peak: Arc<AtomicUsize>,
    pub cpu: usize,
}

/// How full one CPU's buffer is, for whoever only looks: the reader does not notice.
pub struct Fill {
    consumer: Mapping,
    producer: Mapping,
    peak: Arc<AtomicUsize>,
    pub cpu: usize,
    /// What it has room for, in bytes.
    pub room: usize,
}

impl Fill {
    /// Bytes that wait to be read.
    pub fn used(&self) -> usize {
        // In this order: what is read meanwhile makes it less, not more than there ever was.
        let written = self.producer.counter().load(Ordering::Acquire);
        let read = self.consumer.counter().load(Ordering::Acquire);
        written.saturating_sub(read)
    }

    /// The most bytes that the reader ever found waiting.
    pub fn peak(&self) -> usize {
        self.peak.load(Ordering::Relaxed)
    }
}

/// How a look at the buffer ended.
enum Seen {
    All,
    /// There is more behind the window.
    Window,
}

impl Reader {
    /// Makes the buffer of one CPU, `bytes` large (a power of two of pages). Answers its map, too, which the programs
    /// find it by.
    pub(super) fn open(cpu: usize, bytes: usize) -> Result<Reader> {
        let name = format!("buffer_{cpu}");
        let what = || format!("cannot make the event buffer of CPU {cpu} ({bytes} bytes)");
        let options = sys::bpf_map_create_opts { sz: size_of::<sys::bpf_map_create_opts>() as _, ..Default::default() };
        let size = u32::try_from(bytes).with_context(what)?;
        let map = MapHandle::create(MapType::RingBuf, Some(name), 0, 0, size, &options).with_context(what)?;
        let fd = map.as_fd().as_raw_fd();
        Ok(Reader {
            consumer: Mapping::new(fd, 0, page_size(), libc::PROT_READ | libc::PROT_WRITE).with_context(what)?,
            producer: Mapping::new(fd, page_size(), page_size(), libc::PROT_READ).with_context(what)?,
            wakeups: wakeups_of(fd).with_context(what)?,
            peak: Arc::default(),
            map,
            bytes,
            cpu,
        })
    }

    /// The buffer as seen from beside it.
    pub fn fill(&self) -> Result<Fill> {
        let (cpu, fd) = (self.cpu, self.map());
        let counter = |page: usize| Mapping::new(fd, page * page_size(), page_size(), libc::PROT_READ);
        let what = || format!("cannot look at the event buffer of CPU {cpu}");
        Ok(Fill {
            consumer: counter(0).with_context(what)?,
            producer: counter(1).with_context(what)?,
            peak: self.peak.clone(),
            cpu,
            room: self.bytes,
        })
    }

    /// The fill, in bytes, at which the reader of a buffer of `bytes` is woken.
    pub(super) fn watermark(bytes: usize) -> usize {
        bytes / WATERMARK
    }

    pub(super) fn map(&self) -> RawFd {
        self.map.as_fd().as_raw_fd()
    }

    /// Waits until the buffer has reached its watermark or the time is up.
    pub fn wait(&self, timeout: Duration) {
        let epoll = self.wakeups.as_raw_fd();
        let mut ready = libc::pollfd { fd: epoll, events: libc::POLLIN, revents: 0 };
        let time = libc::timespec {
            tv_sec: timeout.as_secs() as libc::time_t,
            tv_nsec: timeout.subsec_nanos() as libc::c_long,
        };
        // epoll_wait(2) itself counts in milliseconds, which is too coarse for workers that are to wake together.
        // SAFETY: one descriptor and a time, both valid for the call. An interruption is as good as a timeout.
        if unsafe { libc::ppoll(&raw mut ready, 1, &raw const time, std::ptr::null()) } > 0 {
            let mut event = libc::epoll_event { events: 0, u64: 0 };
            // SAFETY: room for one event, which is there.
            unsafe { libc::epoll_wait(epoll, &raw mut event, 1, 0) };
        }
    }

    /// Hands the events in the buffer to `callback`, oldest first, for about as long as `patience`. Answers whether it
    /// has reached the end.
    pub fn drain(&mut self, patience: Duration, mut callback: impl FnMut(&[u8])) -> Result<bool> {
        let start = Instant::now();
        loop {
            let seen = self
                .read_window(&mut callback)
                .with_context(|| format!("cannot read the event buffer of CPU {}", self.cpu))?;
            match seen {
                Seen::All => return Ok(true),
                Seen::Window if start.elapsed() > patience => return Ok(false),
                Seen::Window => {}
            }
        }
    }

    fn read_window(&mut self, callback: &mut impl FnMut(&[u8])) -> Result<Seen> {
        // The kernel counts with `unsigned long` and never turns back.
        let mut read = self.consumer.counter().load(Ordering::Relaxed);
        let unread = self.producer.counter().load(Ordering::Acquire).wrapping_sub(read);
        if unread == 0 {
            return Ok(Seen::All);
        }
        self.peak.fetch_max(unread, Ordering::Relaxed);
        let lead = read % page_size();
        let first = read % self.bytes - lead;
        let len = (lead + unread).min(WINDOW);
        // Behind the counters' pages the buffer lies twice in a row, so that what wraps is whole.
        let window = Mapping::new(self.map(), 2 * page_size() + first, len, libc::PROT_READ)?;
        let mut at = lead;
        while let Some(header) = window.get(at, HEADER) {
            // SAFETY: records begin at multiples of 8 bytes, and `get` has checked that the header is in the window.
            let length = unsafe { header.cast::<AtomicU32>().as_ref() }.load(Ordering::Acquire);
            if length & sys::BPF_RINGBUF_BUSY_BIT != 0 {
                // Still being written.
                return Ok(Seen::All);
            }
            let size = (length & !sys::BPF_RINGBUF_DISCARD_BIT) as usize;
            let Some(event) = window.get(at + HEADER, size) else { break };
            if length & sys::BPF_RINGBUF_DISCARD_BIT == 0 {
                // SAFETY: within the window, and the kernel leaves it alone until the counter has passed it.
                callback(unsafe { std::slice::from_raw_parts(event.as_ptr(), size) });
            }
            let whole = (HEADER + size).next_multiple_of(HEADER);
            at += whole;
            read = read.wrapping_add(whole);
            self.consumer.counter().store(read, Ordering::Release);
        }
        Ok(if at - lead < unread { Seen::Window } else { Seen::All })
    }
}

/// Says when the programs wake the reader, once each time: asked in the ordinary way, the map is readable whenever it
/// holds anything.
fn wakeups_of(map: RawFd) -> Result<OwnedFd> {
    let mut event = libc::epoll_event { events: (libc::EPOLLIN | libc::EPOLLET) as u32, u64: 0 };
    // SAFETY: a new file descriptor, owned from here on; `event` is valid for the call.
    unsafe {
        let epoll = libc::epoll_create1(libc::EPOLL_CLOEXEC);
        if epoll < 0 {
            return Err(std::io::Error::last_os_error().into());
        }
        let epoll = OwnedFd::from_raw_fd(epoll);
        if libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, map, &raw mut event) < 0 {
            return Err(std::io::Error::last_os_error().into());
        }
        Ok(epoll)
    }
}

fn page_size() -> usize {
    // SAFETY: no pointers.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

/// A part of a buffer's file, mapped while this lives.
struct Mapping {
    address: NonNull<u8>,
    len: usize,
}

// SAFETY: a mapping belongs to the process; what several threads may touch goes through atomics.
unsafe impl Send for Mapping {}
// SAFETY: as above; a shared one gives out addresses and atomics, nothing that it would change by itself.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// `offset`: a multiple of the page size.
    fn new(map: RawFd, offset: usize, len: usize, access: i32) -> Result<Mapping> {
        // SAFETY: a new mapping at an address of the kernel's choice.
        let address =
            unsafe { libc::mmap(std::ptr::null_mut(), len, access, libc::MAP_SHARED, map, offset as libc::off_t) };
        if address == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error()).context("cannot map it");
        }
        Ok(Mapping { address: NonNull::new(address.cast()).context("it is mapped at 0")?, len })
    }

    /// The counter at the start of a page of counters.
    fn counter(&self) -> &AtomicUsize {
        // SAFETY: a page is large enough and aligned; both sides use it as an atomic `unsigned long`.
        unsafe { self.address.cast::<AtomicUsize>().as_ref() }
    }

    /// `len` bytes at `at`, where the mapping has them.
    fn get(&self, at: usize, len: usize) -> Option<NonNull<u8>> {
        let end = at.checked_add(len)?;
        // SAFETY: within the mapping.
        (end <= self.len).then(|| unsafe { self.address.add(at) })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped with this length, and unmapped once.
        unsafe { libc::munmap(self.address.as_ptr().cast::<c_void>(), self.len) };
    }
}
