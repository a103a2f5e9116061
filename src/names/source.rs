//! What workers look into for each record, and others change now and then.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{RwLock, RwLockReadGuard};

use super::LOCK;

/// Something behind a lock. While it is empty, and on most machines most of these are, a look at it writes to no memory:
/// even a lock for readers is a place where all workers would write.
#[derive(Debug, Default)]
pub struct Source<T> {
    is_filled: AtomicBool,
    held: RwLock<T>,
}

impl<T> Source<T> {
    /// None while it is empty.
    pub(super) fn read(&self) -> Option<RwLockReadGuard<'_, T>> {
        self.is_filled.load(Ordering::Acquire).then(|| self.held.read().expect(LOCK))
    }

    /// `work` answers whether it holds anything from then on.
    pub(super) fn change(&self, work: impl FnOnce(&mut T) -> bool) {
        let mut held = self.held.write().expect(LOCK);
        let is_filled = work(&mut held);
        self.is_filled.store(is_filled, Ordering::Release);
    }
}
