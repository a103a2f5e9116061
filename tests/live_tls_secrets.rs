//! What the probes on TLS libraries see is what the libraries themselves write to their key logs.

mod support;

use std::collections::HashMap;
use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use sidetap::bpf::Event;
use sidetap::recording::{Frame, Recording};
use sidetap::tls::{Epoch, LogLabel, Secret};
use support::program::Program;
use support::sidetap::{CapturePath, Sidetap, assert_root, tap};
use support::{LIMIT, Scratch, free_port};

/// Lines of a key log: label and client random to the secret, all in hexadecimal.
type KeyLog = HashMap<(String, String), String>;

/// A web server of OpenSSL's own, which writes a key log.
struct Server {
    program: Program,
    folder: Scratch,
    port: u16,
}

impl Server {
    fn start() -> Server {
        let folder = Scratch::new("tls");
        let file = |name: &str| folder.path().join(name);
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"])
            .args(["-subj", "/CN=localhost", "-keyout"])
            .arg(file("key.pem"))
            .arg("-out")
            .arg(file("cert.pem"))
            .output()
            .expect("openssl is installed");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let port = free_port();
        let mut command = Command::new("openssl");
        command.args(["s_server", "-www", "-quiet", "-accept", &port.to_string(), "-key"]).arg(file("key.pem"));
        command.arg("-cert").arg(file("cert.pem")).arg("-keylogfile").arg(file("server.log"));
        let mut program = Program::start("s_server", &mut command, folder.path());
        program.wait_ready("its port", LIMIT, |_| TcpStream::connect(("127.0.0.1", port)).is_ok());
        Server { program, folder, port }
    }

    /// Has a client ask once. Answers its id.
    fn asked_by(&self, client: &str, arguments: &[&str]) -> u32 {
        let url = format!("https://localhost:{}/", self.port);
        let mut command = Command::new(client);
        command.args(arguments).arg(url).env("SSLKEYLOGFILE", self.folder.path().join("client.log"));
        let mut program = Program::start(client, &mut command, self.folder.path());
        let pid = program.pid();
        let status = program.wait_exit(LIMIT);
        assert!(status.success(), "{client} {arguments:?}: {status}: {}", program.stderr());
        pid
    }

    fn key_log(&self, name: &str) -> KeyLog {
        key_log(&self.folder.path().join(name))
    }
}

fn key_log(path: &Path) -> KeyLog {
    let text = fs::read_to_string(path).expect("the key log is there");
    let line = |line: &str| {
        let mut words = line.split_whitespace().map(str::to_lowercase);
        Some(((words.next()?, words.next()?), words.next()?))
    };
    text.lines().filter(|line| !line.starts_with('#')).filter_map(line).collect()
}

/// The secrets in a recording, each with its process.
fn secrets(recording: &Path) -> Vec<(u32, Secret)> {
    let mut recording = Recording::open(recording).expect("the agent has made a recording");
    let mut secrets = Vec::new();
    while let Some(frame) = recording.next_frame().expect("the recording is whole") {
        if let Frame::Event(bytes) = frame
            && let Some(Event::Secret { pid, secret, .. }) = Event::parse(bytes)
        {
            secrets.push((pid, secret));
        }
    }
    secrets
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// HKDF-Expand-Label of RFC 8446 section 7.1, as OpenSSL's command computes it.
fn expanded(secret: &[u8], label: &str, context: &[u8]) -> String {
    let label = format!("tls13 {label}");
    let mut info = vec![0, secret.len() as u8, label.len() as u8];
    info.extend(label.bytes());
    info.push(context.len() as u8);
    info.extend(context);
    let digest = if secret.len() == 48 { "SHA384" } else { "SHA256" };
    let output = Command::new("openssl")
        .args(["kdf", "-keylen", &secret.len().to_string(), "-kdfopt", &format!("digest:{digest}")])
        .args(["-kdfopt", &format!("hexkey:{}", hex(secret)), "-kdfopt", &format!("hexinfo:{}", hex(&info))])
        .args(["-kdfopt", "mode:EXPAND_ONLY", "HKDF"])
        .output()
        .expect("openssl is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().replace(':', "").to_lowercase()
}

/// What of a key log the secrets that a process was seen using are or lead to.
fn derived(secrets: &[(u32, Secret)], process: u32) -> Vec<(String, String)> {
    let mut derived = Vec::new();
    for (_, secret) in secrets.iter().filter(|(pid, _)| *pid == process) {
        match secret {
            Secret::Expand { epoch, secret, context } => {
                let (line, texts) = match epoch {
                    Epoch::Handshake => ("handshake_traffic_secret", ["c hs traffic", "s hs traffic"]),
                    Epoch::Application => ("traffic_secret_0", ["c ap traffic", "s ap traffic"]),
                    other => panic!("not needed: {other:?}"),
                };
                for (side, text) in ["client", "server"].into_iter().zip(texts) {
                    derived.push((format!("{side}_{line}"), expanded(secret, text, context)));
                }
            }
            Secret::Master { master, client_random } => {
                derived.push((format!("client_random {}", hex(client_random)), hex(master)));
            }
            Secret::Log { label, client_random, secret } => {
                let line = match label {
                    LogLabel::ClientRandom => "client_random",
                    LogLabel::ClientEarly => panic!("there was no early data"),
                    LogLabel::ClientHandshake => "client_handshake_traffic_secret",
                    LogLabel::ServerHandshake => "server_handshake_traffic_secret",
                    LogLabel::ClientApplication => "client_traffic_secret_0",
                    LogLabel::ServerApplication => "server_traffic_secret_0",
                };
                derived.push((format!("{line} {}", hex(client_random)), hex(secret)));
            }
        }
    }
    derived
}

/// Whether all that a process derived is in a key log, and so many lines of it.
fn assert_logged(secrets: &[(u32, Secret)], process: u32, log: &KeyLog, lines: usize) {
    let derived = derived(secrets, process);
    assert_eq!(derived.len(), lines, "{secrets:?} of {process}");
    for (line, secret) in derived {
        let is_there = log.iter().any(|((label, random), logged)| {
            *logged == secret && (*label == line || format!("{label} {random}") == line)
        });
        assert!(is_there, "{line} is not in the key log: {log:?}");
    }
}

/// The agent, with a recording in that folder.
fn agent(folder: &Scratch, arguments: &[&str]) -> Sidetap {
    let recording = folder.path().join("recording").display().to_string();
    let arguments = [&["--record", &recording, "--log-level", "debug"], arguments].concat();
    let config = tap("/", "level: summary").replace("strategy: exact", "strategy: prefix");
    Sidetap::start_with(&config, CapturePath::best(), &arguments)
}

#[test]
fn secrets_are_those_of_the_key_log() {
    assert_root();
    let (server, folder) = (Server::start(), Scratch::new("recording"));
    let agent = agent(&folder, &["--record-secrets"]);
    let tls12 = "--ciphers=NORMAL:-VERS-ALL:+VERS-TLS1.2:%COMPAT";
    let openssl13 = server.asked_by("curl", &["-sk", "--tlsv1.3"]);
    let openssl12 = server.asked_by("curl", &["-sk", "--tls-max", "1.2"]);
    let gnutls13 = server.asked_by("wget", &["-qO/dev/null", "--no-check-certificate"]);
    let gnutls12 = server.asked_by("wget", &["-qO/dev/null", "--no-check-certificate", tls12]);
    let captured = agent.stop();
    assert_eq!((captured.counters["lost.secret_events"], captured.counters["lost.probes"]), (0, 0));

    let recording = folder.path().join("recording");
    assert_eq!(fs::metadata(&recording).expect("it is there").permissions().mode() & 0o777, 0o600);
    let seen = secrets(&recording);
    let (client, of_server) = (server.key_log("client.log"), server.key_log("server.log"));
    assert_logged(&seen, openssl13, &client, 4);
    assert_logged(&seen, openssl12, &client, 1);
    assert_logged(&seen, gnutls13, &client, 4);
    assert_logged(&seen, gnutls12, &client, 1);
    assert_logged(&seen, server.program.pid(), &of_server, 4 + 1 + 4 + 1);
}

#[test]
fn a_recording_holds_no_secrets_unless_asked() {
    assert_root();
    let (server, folder) = (Server::start(), Scratch::new("recording"));
    let agent = agent(&folder, &[]);
    server.asked_by("curl", &["-sk"]);
    agent.stop();
    let recording = folder.path().join("recording");
    assert!(fs::metadata(&recording).is_ok_and(|file| file.len() > 1000), "there was something to record");
    assert_eq!(secrets(&recording), []);
}

#[test]
fn a_key_log_is_the_clients_own() {
    assert_root();
    let (server, folder) = (Server::start(), Scratch::new("keylog"));
    let keys = folder.path().join("keys");
    let mut agent = agent(&folder, &["--keylog", &keys.display().to_string()]);
    server.asked_by("curl", &["-sk", "--tlsv1.3"]);
    server.asked_by("curl", &["-sk", "--tls-max", "1.2"]);
    server.asked_by("wget", &["-qO/dev/null", "--no-check-certificate"]);
    // At both ends.
    agent.wait_for(2 * 3);
    let captured = agent.stop();
    assert_eq!((captured.counters["lost.keylog"], captured.counters["tls.uncovered"]), (0, 0));
    for transaction in &captured.transactions {
        let library = transaction.0.pointer("/tls/library").and_then(|library| library.as_str());
        let of_exe = if transaction.exe().ends_with("/wget") { "gnutls" } else { "openssl" };
        // The word of a process's first secret may come through another CPU, after all that the server's has opened.
        assert!(library.is_none_or(|library| library == of_exe), "{}: {library:?}", transaction.exe());
    }
    let of_server = captured.transactions.iter().rfind(|transaction| transaction.is_ingress());
    assert_eq!(of_server.expect("there is one").0["tls"]["library"], "openssl");
    assert_eq!(fs::metadata(&keys).expect("it is there").permissions().mode() & 0o777, 0o600);
    let mut expected = server.key_log("client.log");
    expected.retain(|(label, _), _| label != "exporter_secret");
    assert_eq!(expected.len(), 4 + 1 + 4);
    assert_eq!(key_log(&keys), expected);
}
