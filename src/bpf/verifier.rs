//! What the kernel's verifier says of each program: how close it is to being refused elsewhere.

use std::ffi::CStr;

use anyhow::{Context, Result};
use libbpf_rs::AsRawLibbpf;
use libbpf_rs::skel::OpenSkel;
use libbpf_sys as sys;

use super::kernel::{CapturePath, open_for};

/// The verifier's statistics and nothing else (BPF_LOG_STATS in include/linux/bpf_verifier.h).
const LOG_STATS: u32 = 4;
/// Room for them: a few short lines.
const LOG_SIZE: usize = 4096;

/// Puts the programs of `path` through the verifier. Answers each one's name and how many instructions were looked at
/// for it, on all ways through the program together; the kernel gives up after a million. Those that the agent can do
/// without are left out where the kernel refuses them, which the log says.
pub fn verify(path: CapturePath) -> Result<Vec<(String, u64)>> {
    verify_with(path, true).or_else(|error| {
        let programs = verify_with(path, false)?;
        log::warn!("without the BPF programs at the functions that read and write TLS: {error:#}");
        Ok(programs)
    })
}

fn verify_with(path: CapturePath, with_plain: bool) -> Result<Vec<(String, u64)>> {
    let mut logs = Vec::new();
    let mut open = open_for(path, with_plain)?;
    for mut program in open.open_object_mut().progs_mut().filter(|program| program.autoload()) {
        let mut log = vec![0u8; LOG_SIZE];
        program.set_log_level(LOG_STATS);
        let (object, text) = (program.as_libbpf_object().as_ptr(), log.as_mut_ptr().cast());
        // SAFETY: the log keeps its place on the heap and lives for longer than `open`.
        let error = unsafe { sys::bpf_program__set_log_buf(object, text, log.len() as sys::size_t) };
        anyhow::ensure!(error == 0, "cannot set the verifier's log: error {error}");
        logs.push((program.name().to_string_lossy().into_owned(), log));
    }
    drop(open.load().with_context(|| format!("the kernel refused the BPF programs of the {} path", path.name()))?);
    logs.into_iter()
        .map(|(name, log)| {
            let text = CStr::from_bytes_until_nul(&log).unwrap_or_default().to_string_lossy();
            let instructions = processed(&text).with_context(|| format!("no count in the verifier's log of {name}"))?;
            Ok((name, instructions))
        })
        .collect()
}

/// From "processed 1234 insns (limit 1000000) …" (print_verification_stats in kernel/bpf/verifier.c).
fn processed(log: &str) -> Option<u64> {
    let line = log.lines().find_map(|line| line.strip_prefix("processed "))?;
    line.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_found_in_the_verifiers_log() {
        let log =
            "verification time 57 usec\nstack depth 8\nprocessed 1234 insns (limit 1000000) max_states_per_insn 1\n";
        assert_eq!(processed(log), Some(1234));
        assert_eq!(processed("processed many insns"), None);
        assert_eq!(processed(""), None);
    }
}
