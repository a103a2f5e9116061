//! `sidetap check`: whether this machine can capture, point by point, each with what to do about it.

use std::fs;
use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::bpf::{CapturePath, Kernel, Tap, verify, version};

const BTF: &str = "/sys/kernel/btf/vmlinux";
/// The oldest kernel that has all that the syscall path needs.
const OLDEST: (u32, u32) = (5, 10);

/// From linux/capability.h; what loading, attaching and reading other processes' memory take.
const CAPABILITIES: [(u32, &str); 4] =
    [(39, "CAP_BPF"), (38, "CAP_PERFMON"), (21, "CAP_SYS_ADMIN"), (19, "CAP_SYS_PTRACE")];

enum Verdict {
    Good(String),
    /// Worth knowing, not in the way.
    Note(String),
    /// What is wrong and what to do about it.
    Bad(String),
}

use Verdict::{Bad, Good, Note};

/// Prints every point; fails when capture cannot work. `programs`: also what the verifier says of each BPF program.
pub fn run(programs: bool) -> ExitCode {
    let mut points = vec![
        ("root", root()),
        ("capabilities", capabilities()),
        ("kernel", kernel()),
        ("type information", btf()),
        ("lockdown", lockdown()),
        ("tracefs", tracefs()),
        ("memlock", memlock()),
    ];
    let is_hopeless = points.iter().any(|(_, verdict)| matches!(verdict, Bad(_)));
    if !is_hopeless {
        points.push(("capture path", capture_path()));
    }
    for (name, verdict) in &points {
        let (mark, text) = match verdict {
            Good(text) => ("ok  ", text),
            Note(text) => ("note", text),
            Bad(text) => ("FAIL", text),
        };
        println!("{mark}  {name:<17} {text}");
    }
    if points.iter().any(|(_, verdict)| matches!(verdict, Bad(_))) {
        println!("\nsidetap cannot capture on this machine");
        return ExitCode::FAILURE;
    }
    if programs && let Err(error) = list_programs() {
        println!("\n{error:#}");
        return ExitCode::FAILURE;
    }
    println!("\nsidetap can capture on this machine");
    ExitCode::SUCCESS
}

/// Every BPF program on every path that this kernel has, with the instructions that the verifier looked at.
fn list_programs() -> Result<()> {
    for path in CapturePath::available()? {
        println!("\n{} path, instructions verified of at most 1000000:", path.name());
        for (program, instructions) in verify(path)? {
            println!("{instructions:>10}  {program}");
        }
    }
    Ok(())
}

/// An error that names what is missing, before anything is tried.
pub fn refuse_hopeless() -> Result<()> {
    for (name, verdict) in
        [("root", root()), ("kernel", kernel()), ("type information", btf()), ("lockdown", lockdown())]
    {
        if let Bad(text) = verdict {
            bail!("cannot capture: {name}: {text}");
        }
    }
    Ok(())
}

fn root() -> Verdict {
    match status_field("Uid:").as_deref().map(|uids| uids.split_whitespace().nth(1) == Some("0")) {
        Some(true) => Good("running as root".into()),
        _ => Bad("not running as root: start it with sudo, or as a service of the system".into()),
    }
}

fn capabilities() -> Verdict {
    let set = status_field("CapEff:").and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).unwrap_or(0);
    let missing: Vec<&str> =
        CAPABILITIES.iter().filter(|(bit, _)| set >> bit & 1 == 0).map(|(_, name)| *name).collect();
    if missing.is_empty() {
        return Good("BPF, PERFMON, SYS_ADMIN and SYS_PTRACE are there".into());
    }
    Bad(format!("missing {}: in a container, start it with --privileged and --pid=host", missing.join(", ")))
}

fn kernel() -> Verdict {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    match version(release) {
        Some(version) if version >= OLDEST => Good(format!("Linux {release}")),
        Some(_) => Bad(format!("Linux {release} is too old: {}.{} or newer is needed", OLDEST.0, OLDEST.1)),
        None => Note(format!("cannot read the version from {release:?}; {}.{} or newer is needed", OLDEST.0, OLDEST.1)),
    }
}

fn btf() -> Verdict {
    match fs::metadata(BTF) {
        Ok(_) => Good(format!("{BTF} is there")),
        Err(error) => Bad(format!(
            "{BTF}: {error}: the kernel must be built with CONFIG_DEBUG_INFO_BTF=y (the distributions' kernels are); \
             in a container, mount /sys"
        )),
    }
}

fn lockdown() -> Verdict {
    let Ok(modes) = fs::read_to_string("/sys/kernel/security/lockdown") else {
        return Good("not in force".into());
    };
    if modes.contains("[confidentiality]") {
        return Bad("the kernel is locked down for confidentiality, which forbids reading other processes' data: \
                    boot with lockdown=integrity or without it"
            .into());
    }
    Good(modes.trim().into())
}

fn tracefs() -> Verdict {
    let is_there = ["/sys/kernel/tracing/events", "/sys/kernel/debug/tracing/events"]
        .iter()
        .any(|path| fs::exists(path).unwrap_or(false));
    match is_there {
        true => Good("mounted (not needed)".into()),
        false => Note("not mounted; not needed: tracepoints are found by type information".into()),
    }
}

fn memlock() -> Verdict {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    if version(release.trim()).is_some_and(|version| version >= (5, 11)) {
        return Good("not counted for BPF on this kernel".into());
    }
    Note("raised by the agent at start; where that is forbidden, set ulimits: memlock: -1".into())
}

/// The proof: all programs through this kernel's verifier.
fn capture_path() -> Verdict {
    let path = match CapturePath::detect() {
        Ok(path) => path,
        Err(error) => return Bad(format!("{error:#}")),
    };
    // Nothing is attached, so the buffers may have no room.
    match Kernel::load(path, Tap::default(), 0) {
        Ok(_) if path == CapturePath::Socket => Good("socket: one program run per send or receive".into()),
        Ok(_) => Good("syscall: this kernel has no socket tracepoints (they came with Linux 6.3)".into()),
        Err(error) => Bad(format!("{error:#}")),
    }
}

fn status_field(name: &str) -> Option<String> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert_eq!(version("6.1.0-18-amd64"), Some((6, 1)));
        assert!(version("5.4.0-generic") < Some(OLDEST) && version("5.10.0-28") >= Some(OLDEST));
        assert!(version("10.0-rc1") > Some(OLDEST));
        assert_eq!(version("weird"), None);
    }
}
