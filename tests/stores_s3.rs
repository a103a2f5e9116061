//! Recordings replayed into a bucket: a server of S3 from the Python package index (moto), and its objects read with
//! DuckDB, as the bucket's users would. Needs no root, but the network once: both are installed into a folder of Cargo's.

mod support;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use support::program::{Program, listens};
use support::sidetap::binary;
use support::{Scratch, free_port, until};

const LIMIT: Duration = Duration::from_secs(60);

/// Without what moto brings along for services other than S3.
const PACKAGES: [&str; 4] = ["moto[s3]>=5,<6", "flask<4", "flask-cors", "duckdb"];

fn python() -> PathBuf {
    support::python::with_packages("stores", &[], &PACKAGES).unwrap_or_else(|error| panic!("{error}"))
}

fn s3(arguments: &[&str]) -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/stores/s3.py");
    let output = Command::new(python()).arg(script).args(arguments).output().expect("Python runs");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

/// A server with an empty bucket.
struct Server {
    port: u16,
    _program: Program,
}

impl Server {
    fn start(folder: &Path, port: u16) -> Server {
        let mut command = Command::new(python());
        command.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()]);
        let mut program = Program::start("moto", &mut command, folder);
        program.wait_ready("server of S3", LIMIT, |_| listens(port));
        let server = Server { port, _program: program };
        s3(&["make", &server.url(), "bucket"]);
        server
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// All batches, unpacked, in the order of their names.
    fn text(&self, folder: &Path) -> String {
        let objects = folder.join("objects");
        let _ = fs::remove_dir_all(&objects);
        s3(&["fetch", &self.url(), "bucket", objects.to_str().expect("a plain path")]);
        let mut batches = Vec::new();
        find(&objects, &mut batches);
        batches.sort();
        let unpack = |path: &PathBuf| {
            let bytes = fs::read(path).expect("it was just found");
            String::from_utf8(zstd::decode_all(&bytes[..]).expect("zstd")).expect("JSON is text")
        };
        batches.iter().map(unpack).collect()
    }
}

fn find(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.expect("it can be read").path();
        if path.is_dir() { find(&path, files) } else { files.push(path) }
    }
}

/// The guide's configuration for production, with the server's address, errors and all else, and a copy on stdout.
fn config(folder: &Scratch, port: u16, bucket: &str) -> PathBuf {
    let text = format!(
        "version: 2
services:
  object_stores:
    - type: stdout
    - type: s3
      endpoint: 127.0.0.1:{port}
      region: us-east-1
      bucket: {bucket}
      access_key: {{type: text, value: key}}
      secret_key: {{type: text, value: planted-secret}}
      insecure: true
      batch: {{max_bytes: 4KiB, max_age: 100ms}}
      spool: {{path: {}/spool}}
stacks:
  all:
    plugins:
      - type: http_capture
        config: {{level: full, format: json}}
tags:
  - {{key: round, source: env, location: ROUND}}
tap: {{http: {{stack: all}}}}
",
        folder.path().display()
    );
    folder.file("sidetap.yaml", &text)
}

fn recording(name: &str) -> String {
    format!("{}/tests/data/recordings/{name}.rec", env!("CARGO_MANIFEST_DIR"))
}

fn replay(name: &str, config: &Path, round: usize) -> Command {
    let mut command = Command::new(binary());
    command.args(["replay", &recording(name), "--config"]).arg(config).env("ROUND", round.to_string());
    command
}

/// To its end; answers what it wrote to stdout.
fn whole_replay(name: &str, config: &Path, round: usize) -> String {
    let output = replay(name, config, round).stdin(Stdio::null()).output().expect("the binary runs");
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !log.contains("planted-secret"), "{log}");
    String::from_utf8(output.stdout).expect("JSON is text")
}

#[test]
fn everything_arrives_and_duckdb_reads_it() {
    let folder = Scratch::new("stores");
    let server = Server::start(folder.path(), free_port());
    let config = config(&folder, server.port, "bucket");
    let printed = ["failing", "lost-events", "spliced"].map(|name| whole_replay(name, &config, 0)).concat();
    assert!(printed.lines().count() >= 20);
    assert_same(&server.text(folder.path()), &printed);

    let answer = s3(&["query", folder.path().join("objects").to_str().expect("a plain path")]);
    let highest = printed.lines().filter_map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        line["response"]["status"].as_u64()
    });
    let highest = highest.max().expect("there are responses");
    let words: Vec<u64> = answer.split(' ').map(|word| word.parse().expect("a number")).collect();
    assert_eq!(words[..2], [printed.lines().count() as u64, highest], "{answer}");
    assert!(matches!(words[2..], [1 | 2, 1]), "days and hosts: {answer}");
}

#[test]
fn a_server_that_comes_late_gets_everything() {
    let folder = Scratch::new("stores");
    let port = free_port();
    let config = config(&folder, port, "bucket");
    let mut agent = Program::start("sidetap", &mut replay("failing", &config, 0), folder.path());
    agent.wait_ready("complaint", LIMIT, |agent| agent.stderr().contains("cannot be reached"));
    let server = Server::start(folder.path(), port);
    assert!(agent.wait_exit(LIMIT).success());
    assert_same(&server.text(folder.path()), &agent.stdout());
    assert!(agent.stderr().contains("works again"), "{}", agent.stderr());
}

#[test]
fn what_is_wrong_is_said_once_and_kept_for_later() {
    let folder = Scratch::new("stores");
    let server = Server::start(folder.path(), free_port());
    let wrong = config(&folder, server.port, "no-such-bucket");
    let mut agent = Program::start("sidetap", &mut replay("failing", &wrong, 0), folder.path());
    agent.wait_ready("complaint", LIMIT, |agent| agent.stderr().contains("no-such-bucket"));
    let expected = "the bucket no-such-bucket at 127.0.0.1:";
    assert!(agent.stderr().contains(expected) && agent.stderr().contains(" is not there: 404"), "{}", agent.stderr());
    let second = replay("failing", &wrong, 0).output().expect("the binary runs");
    let log = String::from_utf8_lossy(&second.stderr);
    assert!(!second.status.success() && log.contains("is in use by another process"), "{log}");
    // A second later there were more tries, and no more words.
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(agent.stderr().matches("is not there").count(), 1);
    let printed = agent.stdout();
    drop(agent);
    let right = config(&folder, server.port, "bucket");
    let more = whole_replay("chunked", &right, 1);
    assert_same(&server.text(folder.path()), &(printed + &more));
}

/// The bucket has what stdout had, to the byte.
fn assert_same(bucket: &str, stdout: &str) {
    let (in_bucket, on_stdout) = (bucket.lines().count(), stdout.lines().count());
    assert!(bucket == stdout, "{in_bucket} records are in the bucket, {on_stdout} on stdout, and they differ");
}

/// Each run is killed in its first milliseconds; some find the server, some do not. What was on disk when a run was killed
/// has arrived at the end, and nothing twice.
#[test]
fn nothing_accepted_is_lost_when_the_agent_is_killed() {
    let folder = Scratch::new("stores");
    let server = Server::start(folder.path(), free_port());
    let reachable = fs::read_to_string(config(&folder, server.port, "bucket")).expect("it was just written");
    let unreachable = reachable.replace(&format!(":{}\n", server.port), &format!(":{}\n", free_port()));
    let mut accepted: HashMap<String, usize> = HashMap::new();
    let names = ["failing", "lost-events", "spliced"];
    for round in 0..10 {
        let config = folder.file("sidetap.yaml", if round % 3 == 2 { &reachable } else { &unreachable });
        let mut agent = Program::start("sidetap", &mut replay(names[round % 3], &config, round), folder.path());
        // The first record of this run, then a moment that differs from run to run.
        let mark = format!("\"round\":\"{round}\"");
        until(LIMIT, || (spooled(folder.path()).contains(&mark) || agent.has_exited().is_some()).then_some(()));
        std::thread::sleep(Duration::from_millis(3 * round as u64));
        agent.signal("KILL");
        agent.wait_exit(LIMIT);
        for line in spooled(folder.path()).lines() {
            accepted.insert(line.to_owned(), round);
        }
    }
    assert!(accepted.len() > 50, "{} records were on disk", accepted.len());
    let config = folder.file("sidetap.yaml", &reachable);
    let last = whole_replay("chunked", &config, 10);
    accepted.extend(last.lines().map(|line| (line.to_owned(), 10)));
    let arrived = server.text(folder.path());
    let mut times: HashMap<&str, usize> = HashMap::new();
    for line in arrived.lines() {
        *times.entry(line).or_default() += 1;
    }
    let missing: Vec<_> = accepted.iter().filter(|(line, _)| !times.contains_key(line.as_str())).collect();
    assert!(missing.is_empty(), "{} of {} are missing: {:?}", missing.len(), accepted.len(), missing.first());
    assert_eq!(times.values().max(), Some(&1), "an object that is sent twice is the same object");
    assert_eq!(spooled(folder.path()), "", "nothing is left on disk");
}

/// The whole lines in all segments.
fn spooled(folder: &Path) -> String {
    let mut files = Vec::new();
    find(&folder.join("spool"), &mut files);
    let mut all = String::new();
    for file in files.iter().filter(|file| file.extension().is_some_and(|kind| kind == "open" || kind == "ndjson")) {
        let text = fs::read(file).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        all.push_str(&text[..text.rfind('\n').map_or(0, |end| end + 1)]);
    }
    all
}
