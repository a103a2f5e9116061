//! This machine's clock and name.

use std::time::{Duration, SystemTime};

/// What the clock on the wall says, since the epoch.
pub fn now() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// The name of the machine, or of the container that this runs in; empty where it cannot be told.
pub fn name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}
