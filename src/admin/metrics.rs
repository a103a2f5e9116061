//! The page of metrics: what the agent counts anyway, written down when somebody asks for it.
//!
//! Asking touches no lock that a worker holds for longer than it takes to copy a number. Every label has a small set of
//! values that no traffic can make larger.
//!
//! # How to add metrics
//!
//! 1. Count where it happens, in atomics ([`crate::stats::Count`]).
//! 2. Add them to one of the functions below, or a function of your own to [`page`].
//! 3. `README.md` lists them; `config/grafana.json` shows the ones worth a look.

use std::sync::Arc;

use super::text::{Kind, Text};
use super::{State, own};
use crate::bpf::{Fill, Kernel};
use crate::pipeline::Pipeline;
use crate::plugin::http_metrics::{self, Class};
use crate::sink::queue::{self, Waiting};
use crate::stats::traffic::{BOUNDS, DIRECTIONS, PROTOCOLS, STATUSES};
use crate::stats::{Memory, Stats, StoreStats};

use Kind::{Counter, Gauge, Histogram};

/// What there is to count once the agent captures.
pub struct Sources {
    pub pipeline: Arc<Pipeline>,
    pub kernel: Arc<Kernel>,
    /// Of each CPU's event buffer.
    pub fills: Vec<Fill>,
}

/// All metrics; before anything is captured, those of the process alone.
pub(super) fn page(state: &State) -> String {
    let mut text = Text::default();
    let sources = state.sources.get();
    text.family("sidetap_build_info", Gauge, "Which sidetap this is, and how it sees socket I/O.");
    let path = sources.map_or("none", |sources| sources.kernel.path().name());
    text.sample(&[("version", env!("CARGO_PKG_VERSION")), ("capture_path", path)], 1);
    text.single("sidetap_ready", Gauge, "1 while it captures.", u8::from(state.is_ready()));
    if let Some(Sources { pipeline, kernel, fills }) = sources {
        traffic(&mut text, &pipeline.stats);
        by_name(&mut text, &pipeline.stats);
        lost(&mut text, &pipeline.stats, kernel);
        in_the_kernel(&mut text, &pipeline.stats, kernel, fills);
        stores(&mut text, pipeline);
        tables(&mut text, pipeline);
        memory(&mut text, &pipeline.memory);
        reloads(&mut text, &pipeline.stats);
    }
    own::append(&mut text);
    text.into_page()
}

fn traffic(text: &mut Text, stats: &Stats) {
    let traffic = &stats.traffic;
    let pairs = || {
        let named = DIRECTIONS.iter().enumerate();
        named.flat_map(|(d, direction)| {
            PROTOCOLS.iter().enumerate().map(move |(p, protocol)| ((d, p), direction.name(), protocol.name()))
        })
    };
    text.family(
        "sidetap_transactions_total",
        Counter,
        "Transactions that ended, whatever the rules made of them. Status none: no response was seen.",
    );
    for ((d, p), direction, protocol) in pairs() {
        for (s, status) in STATUSES.iter().enumerate() {
            let labels = [("direction", direction), ("protocol", protocol), ("status", status)];
            text.sample(&labels, traffic.transactions(d, p, s));
        }
    }
    text.family(
        "sidetap_transaction_duration_seconds",
        Histogram,
        "First byte of the request to last byte of the response, where both were seen.",
    );
    for ((d, p), direction, protocol) in pairs() {
        let durations = traffic.durations(d, p);
        let labels = [("direction", direction), ("protocol", protocol)];
        text.histogram(&labels, BOUNDS.map(seconds), &durations.buckets, seconds(durations.nanos));
    }
    text.family(
        "sidetap_transaction_bytes_total",
        Counter,
        "Bytes of heads and bodies that the watched processes sent and received.",
    );
    for ((d, p), direction, protocol) in pairs() {
        let bytes = traffic.bytes(d, p);
        for (flow, bytes) in [("sent", bytes.sent), ("received", bytes.received)] {
            text.sample(&[("direction", direction), ("protocol", protocol), ("flow", flow)], bytes);
        }
    }
}

/// What the plugin `http_metrics` counts by name: of as few names as its settings say.
fn by_name(text: &mut Text, stats: &Stats) {
    let (hosts, backends) = (stats.http.hosts(), stats.http.backends());
    let host = ("host", "sidetap_host_transactions_total", "sidetap_host_transaction_duration_seconds", hosts);
    let backend =
        ("backend", "sidetap_backend_transactions_total", "sidetap_backend_transaction_duration_seconds", backends);
    for (label, transactions, durations, names) in [host, backend] {
        if names.is_empty() {
            continue;
        }
        text.family(transactions, Counter, "Transactions, by name, where the plugin http_metrics counts them.");
        for (name, classes) in &names {
            for (class, series) in Class::ALL.iter().zip(classes.iter()) {
                text.sample(&[(label, &**name), ("status", class.name())], series.count.get());
            }
        }
        text.family(durations, Histogram, "Their durations, where both sides were seen.");
        for (name, classes) in &names {
            let mut buckets = [0; http_metrics::BOUNDS.len() + 1];
            for series in classes.iter() {
                let mut below = 0;
                for (bucket, (_, count)) in buckets.iter_mut().zip(series.durations.cumulative()) {
                    *bucket += count - std::mem::replace(&mut below, count);
                }
            }
            let sum = classes.iter().map(|series| series.durations.sum()).sum();
            text.histogram(&[(label, &**name)], http_metrics::BOUNDS, &buckets, sum);
        }
    }
}

fn lost(text: &mut Text, stats: &Stats, kernel: &Kernel) {
    let kernel = kernel.counters();
    text.family(
        "sidetap_lost_total",
        Counter,
        "What was lost on the way, by place and cause; the README says what is counted.",
    );
    for (place, cause, lost) in [
        ("ring_buffer", "data_event", kernel.lost_data),
        ("ring_buffer", "connection_event", kernel.lost_connections),
        ("ring_buffer", "process_event", kernel.lost_processes),
        ("ring_buffer", "dns_event", kernel.lost_dns),
        ("ring_buffer", "secret_event", kernel.lost_secrets),
        ("kernel", "table_full", kernel.table_full),
        ("kernel", "unreadable", kernel.faults),
        ("kernel", "missed", kernel.missed),
        ("agent", "bad_event", stats.bad_events.get()),
        ("agent", "unknown_connection", stats.lost_connections.get()),
        ("agent", "unknown_process", stats.lost_identities.get()),
        ("store", "queue_full", stats.lost(|store| &store.lost_queue)),
        ("store", "failed", stats.lost(|store| &store.lost_sink)),
        ("store", "spool", stats.lost(|store| &store.lost_spool)),
        ("recording", "too_slow", stats.lost_recording.get()),
        ("keylog", "failed", stats.lost_keylog.get()),
    ] {
        text.sample(&[("place", place), ("cause", cause)], lost);
    }
    text.family(
        "sidetap_tls_uncovered_total",
        Counter,
        "Connections within TLS that could not be opened, by program and the library that it was seen using.",
    );
    for (exe, library, count) in stats.uncovered.all() {
        text.sample(&[("exe", &exe), ("library", library)], count);
    }
    let lost = stats.lost_bytes.get();
    text.single("sidetap_lost_bytes_total", Counter, "Bytes of HTTP streams that did not arrive in the agent.", lost);

    text.family("sidetap_kernel_calls_total", Counter, "Calls of watched processes that moved bytes, by their fate.");
    let copied = kernel.calls.saturating_sub(kernel.skipped);
    for (fate, calls) in [("copied", copied), ("skipped", kernel.skipped), ("left_out", kernel.left_out)] {
        text.sample(&[("fate", fate)], calls);
    }
    text.family("sidetap_kernel_events_total", Counter, "Events that the BPF programs sent.");
    for (kind, events) in [("socket", kernel.events), ("process", kernel.process_events)] {
        text.sample(&[("kind", kind)], events);
    }
}

fn in_the_kernel(text: &mut Text, stats: &Stats, kernel: &Kernel, fills: &[Fill]) {
    text.single("sidetap_bpf_programs_attached", Gauge, "BPF programs that are attached.", kernel.attached());
    text.family(
        "sidetap_tls_probes",
        Gauge,
        "Functions of TLS libraries, by whether a BPF program is attached to them.",
    );
    for (state, count) in [("attached", stats.probes.get()), ("failed", stats.lost_probes.get())] {
        text.sample(&[("state", state)], count);
    }
    let mut each = |name, help, value: fn(&Fill) -> usize| {
        text.family(name, Gauge, help);
        for fill in fills {
            text.sample(&[("cpu", &fill.cpu.to_string())], value(fill));
        }
    };
    each("sidetap_ring_buffer_size_bytes", "Room for events, by CPU.", |fill| fill.room);
    each("sidetap_ring_buffer_used_bytes", "Events that wait to be read now.", Fill::used);
    each("sidetap_ring_buffer_peak_bytes", "The most that ever waited; at the size, events are lost.", Fill::peak);
}

fn stores(text: &mut Text, pipeline: &Pipeline) {
    let stores = pipeline.stats.stores();
    let mut each = |name, help, count: fn(&StoreStats) -> u64| {
        text.family(name, Counter, help);
        for store in &stores {
            text.sample(&[("store", &store.name)], count(store));
        }
    };
    each("sidetap_store_written_records_total", "Records that a store took.", |store| store.written.get());
    each("sidetap_store_retries_total", "How often something was not taken and sent again.", |store| {
        store.retries.get()
    });
    text.family("sidetap_store_lost_records_total", Counter, "Records that a store did not get.");
    for store in &stores {
        let causes = [("queue_full", &store.lost_queue), ("failed", &store.lost_sink), ("spool", &store.lost_spool)];
        for (cause, lost) in causes {
            text.sample(&[("store", &store.name), ("cause", cause)], lost.get());
        }
    }
    let waiting = pipeline.outbox.waiting();
    let mut each = |name, help, value: fn(&Waiting) -> usize| {
        text.family(name, Gauge, help);
        for queue in &waiting {
            text.sample(&[("store", &queue.store.name)], value(queue));
        }
    };
    each("sidetap_store_queue_batches", "Batches of records that wait for a store.", |queue| queue.batches);
    each("sidetap_store_queue_bytes", "What they weigh in memory.", |queue| queue.bytes);
    let mut each = |name, help, level: fn(&StoreStats) -> u64| {
        text.family(name, Gauge, help);
        for store in &stores {
            text.sample(&[("store", &store.name)], level(store));
        }
    };
    each("sidetap_store_spool_batches", "Batches on disk that wait to be sent.", |store| store.spool_batches.get());
    each("sidetap_store_spool_bytes", "Their size.", |store| store.spool_bytes.get());
    let limit = "For how many batches each store has room.";
    text.single("sidetap_store_queue_limit_batches", Gauge, limit, queue::QUEUE);
}

fn tables(text: &mut Text, pipeline: &Pipeline) {
    text.family("sidetap_table_entries", Gauge, "What is remembered, by table.");
    let processes = &pipeline.processes;
    for (table, entries) in [
        ("connections", pipeline.table.len()),
        ("processes", processes.len()),
        ("containers", processes.containers.len()),
        ("network_namespaces", processes.networks.len()),
    ] {
        text.sample(&[("table", table)], entries);
    }
}

fn memory(text: &mut Text, memory: &Memory) {
    text.single("sidetap_captured_bytes", Gauge, "Captured data held in memory.", memory.held());
    text.single("sidetap_captured_limit_bytes", Gauge, "Above this, bodies are dropped.", memory.ceiling());
}

fn reloads(text: &mut Text, stats: &Stats) {
    text.family("sidetap_reloads_total", Counter, "Configurations read while running, by what became of them.");
    for (result, count) in [("accepted", &stats.reloads), ("refused", &stats.refused_reloads)] {
        text.sample(&[("result", result)], count.get());
    }
}

fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}
