//! Recordings replayed to a collector of OpenTelemetry that is not always there. Needs no root.

mod support;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use support::program::Program;
use support::receiver::Receiver;
use support::sidetap::binary;
use support::{Scratch, free_port, until};

const LIMIT: Duration = Duration::from_secs(60);

fn config(folder: &Scratch, port: u16) -> PathBuf {
    let text = format!(
        "version: 2
services:
  object_stores:
    - {{type: stdout}}
    - {{type: otel, protocol: http, endpoint: '127.0.0.1:{port}', spool: {{path: {}/spool}}}}
stacks:
  all: {{plugins: [{{type: http_capture, config: {{level: full, format: json}}}}]}}
tags:
  - {{key: round, source: env, location: ROUND}}
tap: {{http: {{stack: all}}}}
",
        folder.path().display()
    );
    folder.file("sidetap.yaml", &text)
}

fn replay(name: &str, config: &Path, round: usize, folder: &Path) -> Program {
    let mut command = Command::new(binary());
    let recording = format!("{}/tests/data/recordings/{name}.rec", env!("CARGO_MANIFEST_DIR"));
    command.args(["replay", &recording, "--config"]).arg(config).env("ROUND", round.to_string());
    Program::start("sidetap", &mut command, folder)
}

/// Round and number of a transaction.
fn key(record: &LogRecord) -> (String, String) {
    let value = |name: &str| {
        let value = record.attributes.iter().find(|one| one.key == name).and_then(|one| one.value.clone()?.value);
        let Some(Value::StringValue(text)) = value else { panic!("no {name} in {record:?}") };
        text
    };
    (value("sidetap.tags.round"), value("sidetap.request_id"))
}

/// The whole lines in all segments.
fn spooled(folder: &Path) -> Vec<LogRecord> {
    let mut records = Vec::new();
    for entry in fs::read_dir(folder.join("spool")).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|kind| kind == "open" || kind == "ndjson") {
            let bytes = fs::read(&path).unwrap_or_default();
            let whole = &bytes[..bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1)];
            let lines = whole.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
            records.extend(lines.map(|line| serde_json::from_slice::<LogRecord>(line).expect("a record a line")));
        }
    }
    records
}

/// Each run but the last is killed: three while nobody listens, three while the collector takes records or says that it
/// has too much to do. What was on disk when a run was killed has arrived at the end.
#[test]
fn nothing_accepted_is_lost_through_an_outage_and_kills() {
    const KILLS: usize = 6;
    let (folder, port) = (Scratch::new("stores-otel"), free_port());
    let config = config(&folder, port);
    let mut accepted = HashMap::new();
    let mut collector = None;
    let names = ["failing", "lost-events", "spliced"];
    for round in 0..KILLS {
        if round == KILLS / 2 {
            collector = Some(Receiver::start(port));
        }
        if let Some(collector) = &collector {
            collector.refuse(&[503, 500, 429][..round - KILLS / 2 + 1]);
        }
        let mut agent = replay(names[round % names.len()], &config, round, folder.path());
        let is_accepted = || spooled(folder.path()).iter().any(|record| key(record).0 == round.to_string());
        until(LIMIT, || (is_accepted() || agent.has_exited().is_some()).then_some(()));
        // A moment that differs from run to run: within the first batch, or while some are sent.
        std::thread::sleep(Duration::from_millis(250 * (round % names.len()) as u64));
        // It may have ended by itself.
        if agent.has_exited().is_none() {
            agent.signal("KILL");
            agent.wait_exit(LIMIT);
        }
        accepted.extend(spooled(folder.path()).iter().map(|record| (key(record), round)));
    }
    assert!(accepted.len() > 10, "{} records were on disk", accepted.len());
    let mut last = replay("chunked", &config, KILLS, folder.path());
    assert!(last.wait_exit(LIMIT).success(), "{}", last.stderr());

    let mut arrived: HashMap<_, usize> = HashMap::new();
    for record in collector.expect("it came in time").log_records() {
        *arrived.entry(key(&record)).or_default() += 1;
    }
    let missing: Vec<_> = accepted.keys().filter(|key| !arrived.contains_key(key)).collect();
    assert!(missing.is_empty(), "{} of {} are missing: {:?}", missing.len(), accepted.len(), missing.first());
    for ((round, id), times) in &arrived {
        // What is sent twice is what a kill came upon while it was sent.
        let most = if *round == KILLS.to_string() { 1 } else { 1 + KILLS / 2 };
        assert!(*times <= most, "{id} of round {round} arrived {times} times");
    }
    assert!(arrived.keys().any(|(round, _)| *round == KILLS.to_string()), "those of the last run are there, too");
    assert_eq!(spooled(folder.path()).len(), 0, "nothing is left on disk");
}

#[test]
fn a_collector_that_comes_late_gets_everything() {
    let (folder, port) = (Scratch::new("stores-otel"), free_port());
    let mut agent = replay("failing", &config(&folder, port), 0, folder.path());
    agent.wait_ready("complaint", LIMIT, |agent| agent.stderr().contains("what is captured waits in the spool"));
    let collector = Receiver::start(port);
    assert!(agent.wait_exit(LIMIT).success(), "{}", agent.stderr());
    assert!(agent.stderr().contains("takes records again"), "{}", agent.stderr());
    let printed = agent.stdout().lines().count();
    assert!(printed > 5, "{printed} records");
    assert_eq!((collector.log_records().len(), spooled(folder.path()).len()), (printed, 0));
    assert_eq!(agent.stderr().matches("does not take records").count(), 1, "{}", agent.stderr());
}
