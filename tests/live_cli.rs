//! The command line as an operator meets it: exit codes, messages, signals, recording and replay.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use support::client::{Client, Request};
use support::haproxy::{self, Haproxy};
use support::payload::bytes;
use support::scene::{Scene, proxies};
use support::sidetap::{CapturePath, Sidetap, binary, tap};
use support::{Scratch, free_port, guide, on_each_path};

on_each_path!(
    a_reload_takes_effect_and_a_bad_one_does_not,
    open_exchanges_are_written_at_the_end,
    a_recording_replays_to_the_same_transactions,
    the_log_is_not_in_the_output,
);

fn run(arguments: &[&str], folder: &Path) -> Output {
    Command::new(binary())
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .env_remove("SIDETAP_CONFIG")
        .env_remove("AWS_ACCESS_KEY_ID")
        .env_remove("AWS_SECRET_ACCESS_KEY")
        .output()
        .expect("the binary runs")
}

/// Exit code and standard error; standard output has to be empty or is shown.
fn outcome(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

const GUIDE: [&str; 8] = [
    "quick-start",
    "1-load-balancing",
    "2-health-checks",
    "3-backend-specific",
    "case-1-sticky-sessions",
    "case-2-blue-green",
    "case-3-rate-limiting",
    "case-4-datacenters",
];

#[test]
fn the_guides_configurations_are_valid() {
    let folder = Scratch::new("cli");
    for name in GUIDE {
        folder.file("guide.yaml", &guide(name));
        let (code, error) = outcome(&run(&["validate", "guide.yaml"], folder.path()));
        assert_eq!(code, Some(0), "{name}: {error}");
    }
}

#[test]
fn the_guides_store_in_s3_is_valid() {
    let folder = Scratch::new("cli");
    folder.file("s3.yaml", &guide("4-production-s3"));
    let mut command = Command::new(binary());
    command.args(["validate", "s3.yaml"]).current_dir(folder.path());
    command.env("AWS_ACCESS_KEY_ID", "key").env("AWS_SECRET_ACCESS_KEY", "secret");
    let (code, error) = outcome(&command.output().expect("the binary runs"));
    assert_eq!(code, Some(0), "{error}");
}

#[test]
fn a_configuration_can_come_from_standard_input() {
    let folder = Scratch::new("cli");
    let file = folder.file("in.yaml", &guide("quick-start"));
    let input = fs::File::open(file).expect("it was just written");
    let output = Command::new(binary()).args(["validate", "-"]).stdin(input).output().expect("the binary runs");
    assert_eq!(output.status.code(), Some(0), "{}", outcome(&output).1);
}

/// A valid configuration with one place replaced.
fn with(place: &str, replacement: &str) -> String {
    let valid = "version: 2\nrulekit:\n  macros:\n    - name: is_error\n      expr: http.res.status >= 400\n\
                 services:\n  object_stores:\n    - type: stdout\nstacks:\n  web:\n    plugins:\n      \
                 - type: http_capture\n        config:\n          level: full\n          rules:\n            \
                 - name: errors\n              expr: is_error()\n              level: full\n\
                 tap:\n  direction: all\n  http:\n    stack: web\n";
    assert!(valid.contains(place), "{place:?}");
    valid.replacen(place, replacement, 1)
}

#[test]
fn bad_files_are_refused_with_one_clear_message() {
    let folder = Scratch::new("cli");
    // What is wrong, the file, and what the message has to name: the place by line, the key, the way out.
    let cases: [(&str, String, &[&str]); 14] = [
        ("unknown key", with("direction: all", "directon: all"), &[":20:", "tap.directon", "direction"]),
        ("wrong type", with("version: 2", "version: [2]"), &[":1:", "version"]),
        ("another version", with("version: 2", "version: 1"), &[":1:", "version"]),
        ("bad enum", with("level: full", "level: fulll"), &[":14:", "stacks.web.plugins[0].config.level", "full"]),
        ("bad direction", with("direction: all", "direction: up"), &[":20:", "tap.direction", "ingress"]),
        ("bad regex", with("expr: is_error()", "expr: http.req.path matches /(/"), &[":17:", "rules[0].expr"]),
        ("unknown field", with("expr: is_error()", "expr: http.req.pth == 1"), &[":17:", "http.req.pth"]),
        ("unknown macro", with("expr: is_error()", "expr: is_eror()"), &[":17:", "is_eror"]),
        ("macro cycle", with("http.res.status >= 400", "is_error()"), &[":5:", "is_error"]),
        ("unknown stack", with("stack: web", "stack: wob"), &[":22:", "tap.http.stack", "wob"]),
        ("syntax", with("expr: is_error()", "expr: is_error( &&"), &[":17:"]),
        ("unknown plugin", with("http_capture", "http_captur"), &[":12:", "http_captur"]),
        ("not YAML", "version: 2\ntap: direction: all\n".to_owned(), &[":2:"]),
        ("empty", String::new(), &["empty"]),
    ];
    for (what, text, needles) in cases {
        folder.file("bad.yaml", &text);
        for arguments in [&["validate", "bad.yaml"][..], &["--config", "bad.yaml"][..]] {
            let output = run(arguments, folder.path());
            let (code, error) = outcome(&output);
            assert_eq!(code, Some(2), "{what}: {error}");
            assert!(output.stdout.is_empty(), "{what}: the message is on standard error");
            for needle in needles.iter().chain(&["bad.yaml"]) {
                assert!(error.contains(needle), "{what}: no {needle:?} in: {error}");
            }
            assert!(!error.contains("panicked"), "{what}: {error}");
            let messages = error.lines().filter(|line| line.contains("bad.yaml:")).count();
            assert!(messages <= 1, "{what}: one message: {error}");
        }
    }
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let folder = Scratch::new("cli");
    fs::write(folder.path().join("latin.yaml"), b"version: 2 # caf\xe9\n").expect("the folder is ours");
    for (file, needle) in [("missing.yaml", "No such file"), ("latin.yaml", "UTF-8"), (".", "directory")] {
        for arguments in [["validate", file], ["--config", file]] {
            let (code, error) = outcome(&run(&arguments, folder.path()));
            assert_eq!(code, Some(2), "{file}: {error}");
            let found = error.to_lowercase().contains(&needle.to_lowercase()) && error.contains(file);
            assert!(found, "{file}: no {needle:?} in: {error}");
        }
    }
}

#[test]
fn a_missing_variable_is_named() {
    let folder = Scratch::new("cli");
    let text = guide("4-production-s3").replace("AWS_ACCESS_KEY_ID", "SIDETAP_TEST_NOT_SET");
    folder.file("secret.yaml", &text);
    let (code, error) = outcome(&run(&["validate", "secret.yaml"], folder.path()));
    assert_eq!(code, Some(2));
    assert!(error.contains("SIDETAP_TEST_NOT_SET"), "{error}");
}

#[test]
fn leaving_out_haproxy_is_pointed_out() {
    let folder = Scratch::new("cli");
    folder.file("out.yaml", &(guide("quick-start") + "\n" + &guide("fragment-filters")));
    let output = run(&["validate", "out.yaml"], folder.path());
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "the guide's own snippet is accepted: {text}");
    assert!(text.contains("haproxy") && text.contains("only"), "{text}");
}

#[test]
fn wrong_arguments_are_refused() {
    let folder = Scratch::new("cli");
    for arguments in [&["--no-such-flag"][..], &["--capture-path", "magic"], &["replay"], &["--log-level", "loud"]] {
        let (code, error) = outcome(&run(arguments, folder.path()));
        assert_eq!(code, Some(2), "{arguments:?}: {error}");
        assert!(!error.is_empty(), "{arguments:?}");
    }
    let output = run(&["--help"], folder.path());
    assert_eq!(output.status.code(), Some(0));
    let help = String::from_utf8_lossy(&output.stdout);
    for word in ["validate", "replay", "check", "--config", "--capture-path", "--record", "SIDETAP_CONFIG"] {
        assert!(help.contains(word), "no {word} in the help:\n{help}");
    }
}

/// The binary where a user without rights can reach it, and a command that runs it as such.
fn as_nobody(folder: &Scratch) -> Command {
    let copy: PathBuf = folder.path().join("sidetap");
    fs::copy(binary(), &copy).expect("the binary can be copied");
    for path in [folder.path(), &copy] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("they are ours");
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(copy);
    command.current_dir(folder.path()).stdin(Stdio::null());
    command
}

#[test]
fn without_rights_it_says_what_is_missing() {
    let folder = Scratch::new("cli");
    folder.file("good.yaml", &guide("quick-start"));
    for arguments in [&["--config", "good.yaml"][..], &["check"][..]] {
        let output = as_nobody(&folder).args(arguments).output().expect("setpriv runs");
        let all = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {all}");
        assert!(all.contains("root") || all.contains("CAP_BPF"), "{arguments:?}: {all}");
        assert!(!all.contains("panicked"), "{all}");
    }
    let output = as_nobody(&folder).args(["validate", "good.yaml"]).output().expect("setpriv runs");
    assert_eq!(output.status.code(), Some(0), "validation needs no rights");
}

#[test]
fn check_says_that_capture_works_here() {
    let folder = Scratch::new("cli");
    let output = run(&["check"], folder.path());
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{text}");
    for word in ["BTF", "kernel", "lockdown", "tracefs", "socket"] {
        assert!(text.to_lowercase().contains(&word.to_lowercase()), "no {word} in:\n{text}");
    }
}

fn a_reload_takes_effect_and_a_bad_one_does_not(path: CapturePath) {
    let mut scene = Scene::start(path, "level: headers");
    let mut client = scene.client();
    let config = scene.sidetap.config_file();
    client.get("/bytes/10", "headers");
    scene.sidetap.wait_for_pair("headers");

    fs::write(&config, tap(haproxy::EXE, "level: full")).expect("the folder is ours");
    scene.sidetap.program().signal("HUP");
    scene.sidetap.wait_log("reloaded");
    client.get("/bytes/10", "full");
    scene.sidetap.wait_for_pair("full");

    fs::write(&config, tap(haproxy::EXE, "level: nonsense")).expect("the folder is ours");
    scene.sidetap.program().signal("HUP");
    scene.sidetap.wait_log("nonsense");
    client.get("/bytes/10", "still-full");
    scene.sidetap.wait_for_pair("still-full");

    let captured = scene.sidetap.stop();
    for (id, body) in [("headers", None), ("full", Some(bytes(10))), ("still-full", Some(bytes(10)))] {
        for transaction in [captured.ingress(id), captured.egress(id)] {
            assert_eq!(transaction.body("response"), body, "{id}");
        }
    }
}

fn open_exchanges_are_written_at_the_end(path: CapturePath) {
    let mut scene = Scene::start(path, "level: full");
    let mut waiting = scene.client();
    waiting.send(&Request::new("GET", "/slow/8000", "waiting").bytes());
    scene.backend.served_as("waiting");
    let mut reading = scene.client();
    reading.send(&Request::new("GET", "/drip/40000/3000", "reading").bytes());
    reading.exactly(5000);
    scene.client().get("/bytes/10", "whole");
    scene.sidetap.wait_for_pair("whole");
    let captured = scene.sidetap.stop_by("TERM");
    for transaction in [captured.ingress("waiting"), captured.egress("waiting")] {
        let marks = transaction.incomplete();
        assert!(marks.contains(&"agent_stopped"), "{marks:?}");
        assert_eq!((transaction.path(), transaction.status()), ("/slow/8000", 0));
    }
    for transaction in [captured.ingress("reading"), captured.egress("reading")] {
        let marks = transaction.incomplete();
        assert!(marks.contains(&"agent_stopped"), "{marks:?}");
        assert_eq!(transaction.status(), 200);
        let kept = transaction.body("response").unwrap_or_default();
        assert!(kept.len() >= 4000 && kept == bytes(kept.len()), "{} bytes were seen", kept.len());
    }
    let counted = |name: &str| captured.counters.get(name).copied();
    assert_eq!(counted("lost"), Some(0), "counters at the end: {}", captured.stderr);
    assert!(counted("written") >= Some(6), "counters at the end: {}", captured.stderr);
}

/// A transaction without what numbers the run it was seen in.
fn comparable(value: &Value) -> String {
    let mut value = value.clone();
    if let Some(metadata) = value["metadata"].as_object_mut() {
        metadata.remove("request_id");
        metadata.remove("connection_id");
    }
    value.to_string()
}

fn a_recording_replays_to_the_same_transactions(path: CapturePath) {
    let backend = support::backend::Backend::start();
    let front = free_port();
    let haproxy = Haproxy::with(&proxies(front, backend.port(), ""));
    let config = tap(haproxy::EXE, "level: full");
    let recording = Scratch::new("recording");
    let file = recording.path().join("events.rec");
    let mut older = Client::tcp(front);
    older.get("/bytes/10", "before");
    let mut sidetap = Sidetap::start_with(&config, path, &["--record", &file.display().to_string()]).of(haproxy.pid());
    for (number, client) in [&mut older, &mut Client::tcp(front)].into_iter().enumerate() {
        client.get("/chunked/100000", &format!("{number}-get"));
        client.ask(&Request::new("POST", "/mirror", &format!("{number}-post")).body(bytes(300_000)));
        client.ask(&Request::new("HEAD", "/bytes/10", &format!("{number}-head")));
    }
    sidetap.wait_for(12);
    let live = sidetap.stop();
    let pid = haproxy.pid().to_string();
    // The watched process is gone by the time of the replay, as it is when a recording goes with a bug report.
    drop(haproxy);

    recording.file("replay.yaml", &config);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("it was recorded by us");
    let mut command = as_nobody(&recording);
    let output = command.arg("replay").arg(&file).args(["--config", "replay.yaml"]).output().expect("setpriv runs");
    assert!(output.status.success(), "{}", outcome(&output).1);
    let text = String::from_utf8(output.stdout).expect("stdout is UTF-8");
    let replayed = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("stdout is JSON lines"));
    let mut replayed: Vec<String> = replayed
        .filter(|value| value["type"] == "http_transaction" && value["metadata"]["process_id"] == pid)
        .map(|value| comparable(&value))
        .collect();
    let mut expected: Vec<String> = live.transactions.iter().map(|transaction| comparable(&transaction.0)).collect();
    replayed.sort_unstable();
    expected.sort_unstable();
    assert_eq!(expected.len(), 12, "{expected:#?}");
    assert_eq!(replayed.len(), expected.len(), "{}", String::from_utf8_lossy(&output.stderr));
    for (replayed, expected) in replayed.iter().zip(&expected) {
        let place = replayed.bytes().zip(expected.bytes()).position(|(a, b)| a != b).unwrap_or(0);
        let around =
            |text: &str| text.get(place.saturating_sub(100)..).unwrap_or(text).chars().take(300).collect::<String>();
        assert!(replayed == expected, "replayed …{}…\nlive …{}…", around(replayed), around(expected));
    }
}

fn the_log_is_not_in_the_output(path: CapturePath) {
    let backend = support::backend::Backend::start();
    let front = free_port();
    let haproxy = Haproxy::with(&proxies(front, backend.port(), ""));
    let arguments = ["--log-level", "trace", "--log-encoding", "json"];
    let mut sidetap = Sidetap::start_with(&tap(haproxy::EXE, "level: full"), path, &arguments).of(haproxy.pid());
    Client::tcp(front).get("/bytes/10", "one");
    sidetap.wait_for_pair("one");
    let captured = sidetap.stop();
    assert_eq!(captured.transactions.len(), 2);
    for line in captured.stdout.lines() {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("stdout: {error}: {line}"));
        assert!(value["type"] == "http_transaction" || value["type"] == "connection", "{line}");
    }
    for line in captured.stderr.lines() {
        assert!(serde_json::from_str::<Value>(line).is_ok(), "stderr in JSON: {line}");
    }
}
