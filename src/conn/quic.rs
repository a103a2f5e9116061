//! Connections of QUIC, of which nobody sees more than that they begin: counted, so that users know what they miss.

use super::connection::Env;
use crate::bpf::Owner;
use crate::stats::uncovered::QUIC;

/// A process received the beginning of one.
pub(super) fn began(owner: &Owner, env: &mut Env) {
    // Without waiting: a count is not worth holding anything back.
    let process = env.processes.guess(owner);
    if env.settings.tap.filters.admits(&process) && env.stats.uncovered.add(&process.exe, Some(QUIC)) {
        log::info!("{} speaks QUIC, which is not read: its connections are counted only", process.exe);
    }
}
