//! What the agent itself costs, under the names that Prometheus's client libraries give it: from proc(5).

use std::fs;

use super::text::{Kind, Text};

/// Times in /proc are in hundredths of a second (USER_HZ), whatever the kernel's own clock is.
const TICKS: f64 = 100.0;

/// What cannot be read is left out.
pub(super) fn append(text: &mut Text) {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    if let Some(own) = Own::parse(&stat) {
        text.single("process_cpu_seconds_total", Kind::Counter, "CPU time of the agent.", own.cpu);
        text.single("process_threads", Kind::Gauge, "Threads of the agent.", own.threads);
        text.single("process_virtual_memory_bytes", Kind::Gauge, "Virtual memory of the agent.", own.virtual_bytes);
        let resident = own.resident_pages * rustix::param::page_size() as u64;
        text.single("process_resident_memory_bytes", Kind::Gauge, "Resident memory of the agent.", resident);
        if let Some(booted) = booted() {
            let started = booted + own.started;
            text.single("process_start_time_seconds", Kind::Gauge, "When it was started, since the epoch.", started);
        }
    }
    if let Ok(files) = fs::read_dir("/proc/self/fd") {
        text.single("process_open_fds", Kind::Gauge, "Files that the agent has open.", files.count());
    }
}

#[derive(Debug, PartialEq)]
struct Own {
    /// User and system time, in seconds.
    cpu: f64,
    threads: u64,
    /// Seconds after the machine.
    started: f64,
    virtual_bytes: u64,
    resident_pages: u64,
}

impl Own {
    /// From /proc/self/stat. The command's name, in parentheses, may hold anything.
    fn parse(stat: &str) -> Option<Own> {
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        // Numbered in proc(5) from 1, with two before these.
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Own {
            cpu: (field(14)? + field(15)?) as f64 / TICKS,
            threads: field(20)?,
            started: field(22)? as f64 / TICKS,
            virtual_bytes: field(23)?,
            resident_pages: field(24)?,
        })
    }
}

/// When the machine was started, in seconds since the epoch.
fn booted() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_numbers_are_at_their_places() {
        let stat = "42 (a) b) S 1 42 42 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 7 0 12345 1000000 250 184467";
        let own = Own { cpu: 2.0, threads: 7, started: 123.45, virtual_bytes: 1_000_000, resident_pages: 250 };
        assert_eq!(Own::parse(stat), Some(own));
        for broken in ["", "42 (a", "42 (a) S 1", "42 (a) S x x x x x x x x x x x x x x x x x x x x x x"] {
            assert_eq!(Own::parse(broken), None, "{broken}");
        }
    }

    #[test]
    fn this_process_has_all_of_them() {
        let mut text = Text::default();
        append(&mut text);
        let page = text.into_page();
        for name in ["cpu_seconds_total", "resident_memory_bytes", "start_time_seconds", "open_fds", "threads"] {
            assert!(page.contains(&format!("\nprocess_{name} ")), "{name}: {page}");
        }
    }
}
