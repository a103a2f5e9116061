//! Stores that are exchanged at reloads, under traffic: what was captured is in each of them, once.

mod support;

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use support::backend::Backend;
use support::haproxy::{self, Haproxy};
use support::receiver::Receiver;
use support::scene::proxies;
use support::sidetap::{CapturePath, Sidetap, tap};
use support::traffic::{Traffic, possessions};
use support::{LIMIT, Scratch, free_port, until};

/// How long the last batches may take.
const ARRIVAL: Duration = Duration::from_secs(60);

/// Connections to the stores come and go: so many descriptors more are none that a reload has left, which would be more.
const SLACK: usize = 12;

/// How often; more by hand.
fn reloads() -> usize {
    std::env::var("RELOADS").ok().and_then(|number| number.parse().ok()).unwrap_or(30)
}

/// Each round has another bucket's prefix and another service's name; the file is the same for two rounds, but that it
/// rotates in the second of them.
fn config(folder: &Path, port: u16, round: usize) -> String {
    let (folder, file) = (folder.display(), round / 2 % 2);
    let rotate = if round.is_multiple_of(2) { "" } else { ", rotate: {max_bytes: 20KiB, keep: 10000}" };
    let keys = "access_key: {type: text, value: key}, secret_key: {type: text, value: secret}";
    let stores = format!(
        "  object_stores:
    - type: stdout
    - {{type: file, path: {folder}/out-{file}.json{rotate}}}
    - {{type: s3, endpoint: '127.0.0.1:{port}', insecure: true, bucket: bucket, prefix: round-{round}, {keys},
       batch: {{max_age: 100ms, compression: none}}, spool: {{path: {folder}/spool-s3}}}}
    - {{type: otel, protocol: http, endpoint: '127.0.0.1:{port}', service_name: round-{round},
       spool: {{path: {folder}/spool-otel}}}}
"
    );
    let text = tap(haproxy::EXE, "level: headers");
    let only_stdout = "  object_stores:\n    - type: stdout\n";
    assert!(text.contains(only_stdout), "{text}");
    text.replacen(only_stdout, &stores, 1)
}

/// The numbers of the transactions in lines of JSON.
fn numbers(lines: &str) -> Vec<String> {
    let number = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        line["metadata"]["request_id"].as_str().map(str::to_owned)
    };
    lines.lines().filter_map(number).collect()
}

/// Those in the bucket; an object that was put twice is one.
fn in_bucket(receiver: &Receiver) -> Vec<String> {
    let objects: HashMap<_, _> =
        receiver.taken().into_iter().filter(|(path, _)| path.starts_with("/bucket/")).collect();
    objects.values().flat_map(|content| numbers(&String::from_utf8_lossy(content))).collect()
}

fn in_collector(receiver: &Receiver) -> Vec<String> {
    let number = |record: &opentelemetry_proto::tonic::logs::v1::LogRecord| {
        let value = record.attributes.iter().find(|one| one.key == "sidetap.request_id");
        let Some(Value::StringValue(number)) = value.and_then(|one| one.value.clone()?.value) else {
            panic!("no number in {record:?}")
        };
        number
    };
    receiver.log_records().iter().map(number).collect()
}

#[test]
fn stores_that_are_exchanged_under_traffic_lose_nothing() {
    let (backend, front) = (Backend::start(), free_port());
    let haproxy = Haproxy::with(&proxies(front, backend.port(), ""));
    let receiver = Receiver::start(free_port());
    let folder = Scratch::new("exchange");
    let config = |round| config(folder.path(), receiver.port(), round);
    let mut sidetap = Sidetap::start(&config(0), CapturePath::best()).of(haproxy.pid());
    let traffic = Traffic::start(front, 2);
    let mut before = (0, 0);
    for round in 1..=reloads() {
        let file = sidetap.config_file();
        fs::write(&file, config(round)).expect("the folder is ours");
        sidetap.program().signal("HUP");
        let is_done = |log: String| (log.matches("reloaded ").count() == round).then_some(());
        until(LIMIT, || is_done(sidetap.program().stderr())).expect("it reloads");
        traffic.go_on();
        if round == 2 {
            before = possessions(sidetap.program());
        }
    }
    let ids = traffic.stop();
    sidetap.wait_until_quiet();
    let count = sidetap.transactions().len();
    let everywhere = until(ARRIVAL, || {
        // Looking takes as long as many records do.
        thread::sleep(Duration::from_millis(200));
        (in_bucket(&receiver).len() >= count && in_collector(&receiver).len() >= count).then_some(())
    });
    assert!(
        everywhere.is_some(),
        "{count} on stdout, {} in the bucket, {} in the collector{}",
        in_bucket(&receiver).len(),
        in_collector(&receiver).len(),
        sidetap.program().tail()
    );
    // What goes ends in its own time.
    let is_settled = |now: (usize, usize)| now.0 <= before.0 && now.1 <= before.1 + SLACK;
    let settled = until(LIMIT, || is_settled(possessions(sidetap.program())).then_some(()));
    assert!(settled.is_some(), "threads and files: {before:?} before, {:?} now", possessions(sidetap.program()));

    let captured = sidetap.stop();
    println!("{} requests during {} reloads, threads and files: {before:?}", ids.len(), reloads());
    for id in &ids {
        assert_eq!(captured.of(id).len(), 2, "{id}");
    }
    let printed: BTreeSet<String> = numbers(&captured.stdout).into_iter().collect();
    let mut files = String::new();
    for entry in fs::read_dir(folder.path()).expect("it is ours").flatten() {
        if entry.file_name().to_string_lossy().starts_with("out-") {
            files.push_str(&fs::read_to_string(entry.path()).expect("it is text"));
        }
    }
    for (store, found) in [("file", numbers(&files)), ("s3", in_bucket(&receiver)), ("otel", in_collector(&receiver))] {
        let unique: BTreeSet<String> = found.iter().cloned().collect();
        assert_eq!(unique.len(), found.len(), "{store} has some twice");
        let missing: Vec<_> = printed.difference(&unique).collect();
        assert!(missing.is_empty(), "{store} lacks {} of {}: {missing:?}", missing.len(), printed.len());
        assert_eq!(unique.len(), printed.len(), "{store} has what stdout has");
    }
    assert_eq!(captured.counters["lost"], 0, "{}", captured.stderr);
}
