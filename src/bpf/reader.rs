//! One CPU's perf buffer. `libbpf_rs::PerfBuffer` reads all CPUs from one thread; here each worker has its own.

use std::ffi::{c_int, c_void};
use std::os::fd::RawFd;
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use libbpf_sys as sys;

/// Called with each event's bytes; alive only while `drain` runs.
type Callback<'a> = &'a mut dyn FnMut(&[u8]);

/// Bytes after which libbpf gives the room back to the kernel: while a whole buffer was being read it would stay full.
const PORTION: usize = 256 << 10;

/// What `on_record` needs.
#[derive(Default)]
struct Context {
    callback: Option<NonNull<Callback<'static>>>,
    /// Bytes left of the portion.
    left: usize,
}

pub struct Reader {
    buffer: NonNull<sys::perf_buffer>,
    // Boxed: libbpf keeps its address.
    context: Box<Context>,
    pub cpu: usize,
}

// SAFETY: a perf_buffer has no thread affinity; it is only used through `&mut self`.
unsafe impl Send for Reader {}

impl Reader {
    /// Opens the buffer of one CPU, `bytes` large (a power of two of pages), waking its reader when a quarter is full.
    pub(super) fn open(events: RawFd, cpu: usize, bytes: usize) -> Result<Reader> {
        let page = 4096;
        let mut attr = sys::perf_event_attr {
            type_: sys::PERF_TYPE_SOFTWARE,
            size: size_of::<sys::perf_event_attr>() as u32,
            config: u64::from(sys::PERF_COUNT_SW_BPF_OUTPUT),
            sample_type: u64::from(sys::PERF_SAMPLE_RAW),
            ..Default::default()
        };
        attr.__bindgen_anon_1.sample_period = 1;
        attr.set_watermark(1);
        attr.__bindgen_anon_2.wakeup_watermark = (bytes / 4) as u32;

        let mut context = Box::<Context>::default();
        let (mut cpus, mut keys) = ([cpu as c_int], [cpu as c_int]);
        let options = sys::perf_buffer_raw_opts {
            sz: size_of::<sys::perf_buffer_raw_opts>() as _,
            cpu_cnt: 1,
            cpus: cpus.as_mut_ptr(),
            map_keys: keys.as_mut_ptr(),
            ..Default::default()
        };
        // SAFETY: all pointers are valid for the call; `context` is boxed and lives as long as the buffer.
        let buffer = unsafe {
            sys::perf_buffer__new_raw(
                events,
                (bytes / page) as _,
                &mut attr,
                Some(on_record),
                (&raw mut *context).cast::<c_void>(),
                &options,
            )
        };
        let buffer = NonNull::new(buffer)
            .ok_or_else(std::io::Error::last_os_error)
            .with_context(|| format!("cannot open the event buffer of CPU {cpu} ({bytes} bytes)"))?;
        Ok(Reader { buffer, context, cpu })
    }

    /// Waits until the buffer has reached its watermark or the time is up.
    pub fn wait(&self, timeout: Duration) {
        // SAFETY: the buffer is valid and has one CPU, at index 0.
        let fd = unsafe { sys::perf_buffer__buffer_fd(self.buffer.as_ptr(), 0) };
        let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        let timeout = libc::timespec { tv_sec: timeout.as_secs() as _, tv_nsec: timeout.subsec_nanos() as _ };
        // SAFETY: one valid pollfd; no signal mask. An interruption is as good as a timeout.
        unsafe { libc::ppoll(&mut poll, 1, &timeout, std::ptr::null()) };
    }

    /// Hands the events in the buffer to `callback`, oldest first, for about as long as `patience`. Answers whether it
    /// has reached the end.
    pub fn drain(&mut self, patience: Duration, mut callback: impl FnMut(&[u8])) -> Result<bool> {
        let start = Instant::now();
        let mut callback: Callback = &mut callback;
        // The lifetime ends with this function, as the context is emptied before it returns.
        self.context.callback = NonNull::new((&raw mut callback).cast::<Callback<'static>>());
        let result = loop {
            self.context.left = PORTION;
            // SAFETY: the buffer is valid; `on_record` finds `callback` through the context and nowhere else.
            let result = unsafe { sys::perf_buffer__consume_buffer(self.buffer.as_ptr(), 0) };
            let is_end = self.context.left > 0;
            if result < 0 || is_end || start.elapsed() > patience {
                break if result < 0 { Err(std::io::Error::from_raw_os_error(-result)) } else { Ok(is_end) };
            }
        };
        self.context.callback = None;
        result.with_context(|| format!("cannot read the event buffer of CPU {}", self.cpu))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // SAFETY: made by perf_buffer__new_raw and not freed before.
        unsafe { sys::perf_buffer__free(self.buffer.as_ptr()) };
    }
}

/// A record: `struct perf_event_header`, then for a sample a 32-bit size and as many bytes (perf_event_open(2)).
unsafe extern "C" fn on_record(context: *mut c_void, _cpu: c_int, header: *mut sys::perf_event_header) -> c_int {
    // SAFETY: the context is the reader's, which nothing else touches while libbpf reads; libbpf hands out a whole
    // record of `header.size` bytes.
    unsafe {
        let context = &mut *context.cast::<Context>();
        context.left = context.left.saturating_sub(usize::from((*header).size));
        // What did not fit is counted where it happened, in the kernel programs, by kind.
        if (*header).type_ == sys::PERF_RECORD_SAMPLE {
            let body = header.cast::<u8>().add(size_of::<sys::perf_event_header>());
            let room = usize::from((*header).size).saturating_sub(size_of::<sys::perf_event_header>() + 4);
            let size = (body.cast::<u32>().read_unaligned() as usize).min(room);
            if let Some(mut callback) = context.callback {
                (callback.as_mut())(std::slice::from_raw_parts(body.add(4), size));
            }
        }
        if context.left > 0 { sys::LIBBPF_PERF_EVENT_CONT } else { sys::LIBBPF_PERF_EVENT_DONE }
    }
}
