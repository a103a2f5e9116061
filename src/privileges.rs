//! What the agent may do that others may not. To load and attach takes nearly everything; what is not needed after
//! that is given up for good.
//!
//! Capabilities belong to a thread, and a thread begins with those of the one that starts it: each thread that was
//! started before the main one has reduced its own does so by itself.
#![forbid(unsafe_code)]

use anyhow::{Context, Result};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, remove_capability_from_bounding_set, set_capabilities,
    set_no_new_privs,
};

/// What the agent keeps while it runs, and what for.
pub const AGENT: CapabilitySet = CapabilitySet::BPF // bpf(2): before Linux 5.19 also for maps that are open
    .union(CapabilitySet::SYS_PTRACE) // /proc of other users' processes
    .union(CapabilitySet::DAC_READ_SEARCH) // what lies in their roots; a configuration of another user
    .union(CapabilitySet::DAC_OVERRIDE) // sockets of container runtimes and folders of stores that another user owns
    .union(CapabilitySet::SYS_NICE); // the priority and CPU of each worker

/// What the thread keeps that attaches to libraries that are loaded later. To make a uprobe takes CAP_SYS_ADMIN: that of
/// CAP_PERFMON is not enough (perf_event_open(2)), seen on Linux 6.18.
pub const PROBES: CapabilitySet = CapabilitySet::SYS_ADMIN // which lets it follow the files that processes have mapped, too
    .union(CapabilitySet::BPF)
    .union(CapabilitySet::SYS_PTRACE)
    .union(CapabilitySet::DAC_READ_SEARCH);

/// Gives up, for the calling thread and those that it will start, every capability but those in `kept`, and that any
/// program started from it could ever have one.
pub fn reduce(kept: CapabilitySet) -> Result<()> {
    set_no_new_privs(true).context("cannot rule out new privileges")?;
    for bit in 0..u64::BITS {
        // Ends at the first one that the kernel does not know. Whoever may not do this has nothing to lose by it: with the
        // line above nothing that is given up comes back.
        if remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << bit)).is_err() {
            break;
        }
    }
    let now = capabilities(None).context("cannot tell the capabilities")?;
    let sets = CapabilitySets {
        effective: now.effective & kept,
        permitted: now.permitted & kept,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, sets).context("cannot reduce the capabilities")
}

/// As [`reduce`]. Where it fails the log is told, for it is better to record with more than needed than not to record.
pub fn reduce_or_warn(kept: CapabilitySet) {
    if let Err(error) = reduce(kept) {
        log::warn!("capabilities that are not needed any more stay: {error:#}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_given_up_for_good() {
        // On a thread of its own: the others keep theirs.
        let thread = std::thread::spawn(|| {
            let before = capabilities(None).unwrap();
            reduce(PROBES).unwrap();
            reduce(AGENT).unwrap();
            let after = capabilities(None).unwrap();
            assert!((AGENT & PROBES).contains(after.effective) && after.inheritable.is_empty());
            assert!(set_capabilities(None, before).is_err() || before == after, "none comes back");
            assert!(rustix::thread::no_new_privs().unwrap());
        });
        thread.join().unwrap();
    }
}
