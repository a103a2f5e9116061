//! What user space tells the kernel of a connection, in memory that both see: no system call an order.

use std::os::fd::RawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering, fence};

use anyhow::{Context, Result};

use super::{Flow, types};

/// What to copy of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verdict {
    #[default]
    Capture,
    /// Only from the first call on that begins like a message.
    Look,
    Drop,
    /// Only what a TLS library was seen reading and writing.
    Plain,
}

/// All that is wanted of one connection. Stands until another connection takes the same place, which costs copies only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Order {
    pub verdict: Verdict,
    /// By [`Flow`]: bytes before that position are not wanted.
    pub skip_to: [Option<u32>; 2],
}

impl Order {
    pub fn skip(&mut self, flow: Flow, position: Option<u32>) {
        self.skip_to[flow as usize] = position;
    }
}

const SIZE: usize = types::limit::ORDERS.0 as usize * size_of::<types::order>();

/// `struct order` with fields that two sides may touch at once.
#[repr(C)]
struct Place {
    connection: AtomicU64,
    skip_to: [AtomicU32; 2],
    skips: [AtomicU8; 2],
    verdict: AtomicU8,
    pad: [u8; 5],
}

const _: () = assert!(size_of::<Place>() == size_of::<types::order>());

/// The map `orders`, mapped.
pub(super) struct Orders {
    places: NonNull<Place>,
}

// SAFETY: all access is through atomics.
unsafe impl Send for Orders {}
// SAFETY: as above.
unsafe impl Sync for Orders {}

impl Orders {
    pub(super) fn map(fd: RawFd) -> Result<Orders> {
        // SAFETY: a new mapping of a file descriptor; the length is the map's.
        let address = unsafe {
            libc::mmap(std::ptr::null_mut(), SIZE, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, fd, 0)
        };
        if address == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error()).context("cannot map the table of orders");
        }
        Ok(Orders { places: NonNull::new(address.cast()).context("the table of orders is mapped at 0")? })
    }

    pub(super) fn give(&self, connection: u64, order: &Order) {
        let place = self.place(connection);
        if place.connection.load(Ordering::Relaxed) != connection {
            place.connection.store(0, Ordering::Relaxed);
            fence(Ordering::Release);
        }
        for flow in 0..2 {
            place.skip_to[flow].store(order.skip_to[flow].unwrap_or_default(), Ordering::Relaxed);
            place.skips[flow].store(u8::from(order.skip_to[flow].is_some()), Ordering::Relaxed);
        }
        let verdict = match order.verdict {
            Verdict::Capture => types::verdict::VERDICT_CAPTURE,
            Verdict::Look => types::verdict::VERDICT_LOOK,
            Verdict::Drop => types::verdict::VERDICT_DROP,
            Verdict::Plain => types::verdict::VERDICT_PLAIN,
        };
        place.verdict.store(verdict.0 as u8, Ordering::Relaxed);
        place.connection.store(connection, Ordering::Release);
    }

    /// What was last said of a connection; none where nothing was, or another one has taken the place since.
    pub(super) fn verdict(&self, connection: u64) -> Option<Verdict> {
        let place = self.place(connection);
        if place.connection.load(Ordering::Acquire) != connection {
            return None;
        }
        Some(match types::verdict(place.verdict.load(Ordering::Relaxed).into()) {
            types::verdict::VERDICT_LOOK => Verdict::Look,
            types::verdict::VERDICT_DROP => Verdict::Drop,
            types::verdict::VERDICT_PLAIN => Verdict::Plain,
            _ => Verdict::Capture,
        })
    }

    fn place(&self, connection: u64) -> &Place {
        // The same place as in is_wanted() of bpf/emit.h.
        let slot = (connection >> 10) as usize & (types::limit::ORDERS.0 as usize - 1);
        // SAFETY: the mapping has ORDERS places.
        unsafe { self.places.add(slot).as_ref() }
    }
}

impl Drop for Orders {
    fn drop(&mut self) {
        // SAFETY: mapped with this length in `map`, and unmapped once.
        unsafe { libc::munmap(self.places.as_ptr().cast(), SIZE) };
    }
}
