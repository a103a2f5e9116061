//! Other programs' TLS, each watched itself: every request once, of the right process, with the right peer, and bodies
//! byte for byte.

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use support::backend::Backend;
use support::captured::{Captured, Transaction};
use support::h2load::Load;
use support::haproxy::Haproxy;
use support::nginx::{self, Nginx};
use support::payload::{assert_same, bytes, sha256};
use support::program::{Program, listens};
use support::sidetap::{CapturePath, Sidetap, tap};
use support::tls::{Authority, FRONT_HEADER, FRONT_WORDS, Key, NAME, SERVER_HEADER, Words, build_go};
use support::{LIMIT, PYTHON, Scratch, free_port, installed, on_each_path, script};

on_each_path!(
    curl,
    wget,
    python_ssl,
    python_asyncio,
    python_threads,
    python_mac_then_encrypt,
    node_https,
    node_http2,
    go,
    boringssl,
    aws_lc,
    nginx_itself,
);

const COUNT: usize = 30;

/// HAProxy with TLS in front of a backend: a frontend for TLS 1.3, one for what was before. Not watched.
struct Scene {
    haproxy: Haproxy,
    fronts: [u16; 2],
    authority: Authority,
    folder: Scratch,
    _backend: Backend,
}

/// A request as the client tells it.
#[derive(Debug)]
struct Said {
    id: String,
    status: u64,
    sha256: String,
    /// Its own; none where it does not know.
    port: Option<u64>,
}

impl Said {
    fn read(line: &str) -> Said {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let text = |key: &str| value[key].as_str().unwrap_or_else(|| panic!("no {key}: {line}")).to_owned();
        Said {
            id: text("id"),
            status: value["status"].as_u64().unwrap_or_default(),
            sha256: text("sha256"),
            port: value["port"].as_u64(),
        }
    }
}

impl Scene {
    fn start() -> Scene {
        let (authority, backend, fronts) = (Authority::new(), Backend::start(), [free_port(), free_port()]);
        let pems = [Key::Ecdsa, Key::Rsa].map(|key| format!("crt {}", authority.pem(key).display())).join(" ");
        let front = |number: usize, options: &str| {
            let port = fronts[number];
            format!(
                "frontend front-{number}\n    bind 127.0.0.1:{port} ssl {pems} alpn h2,http/1.1 {options}\n    @log@\n\
                 {FRONT_WORDS}    default_backend servers\n"
            )
        };
        // CBC is no more among HAProxy's own choice of ciphers.
        let proxies = format!(
            "{}{}backend servers\n    server one 127.0.0.1:{}\n",
            front(0, "ssl-min-ver TLSv1.3"),
            front(1, "ssl-max-ver TLSv1.2 ciphers ALL"),
            backend.port()
        );
        let haproxy = Haproxy::with(&proxies);
        Scene { haproxy, fronts, authority, folder: Scratch::new("client"), _backend: backend }
    }

    /// Runs a client that is given `MODE PORT CA PREFIX COUNT`; answers with its process and what it says.
    fn run(&self, command: &mut Command, mode: &str, front: usize) -> (u32, Vec<Said>) {
        command.arg(mode).arg(self.fronts[front].to_string()).arg(self.authority.ca());
        command.args([&format!("of-{front}"), &COUNT.to_string()]);
        let mut client = Program::start("client", command, self.folder.path());
        let pid = client.pid();
        assert!(client.wait_exit(Duration::from_secs(60)).success(), "{}", client.tail());
        let said: Vec<Said> = client.stdout().lines().map(Said::read).collect();
        assert_eq!(said.len(), COUNT, "{}", client.tail());
        (pid, said)
    }

    /// The record of each request is that of what the client said, HAProxy logged, and HAProxy says of its TLS.
    fn check(&self, captured: &Captured, pid: u32, exe: &Path, front: usize, said: &[Said]) {
        for one in said {
            let transaction = captured.egress(&one.id);
            let what = format!("{one:?}: {:#}", transaction.0);
            let logged = self.haproxy.logged_as(&one.id);
            assert_eq!((transaction.status(), transaction.incomplete()), (one.status, vec![]), "{what}");
            assert_eq!(
                (transaction.pid(), transaction.exe()),
                (&*pid.to_string(), &*exe.display().to_string()),
                "{what}"
            );
            assert_eq!(transaction.source(), logged.client, "{what}");
            let port = transaction.source().map(|source| u64::from(source.port()));
            assert!(one.port.is_none() || one.port == port, "{what}");
            assert_eq!(transaction.destination().map(|peer| peer.port()), Some(self.fronts[front]), "{what}");
            assert_eq!(sha256(&transaction.body("response").unwrap_or_default()), one.sha256, "{what}");
            if transaction.path() == "/mirror" {
                assert_eq!(sha256(&transaction.body("request").unwrap_or_default()), one.sha256, "{what}");
            }
            let words = Words::read(transaction, FRONT_HEADER).expect("HAProxy says what it was");
            assert_eq!(words.version, ["TLSv1.3", "TLSv1.2"][front]);
            assert_eq!(words.wrong(transaction), None, "{what}");
        }
    }
}

const CAPTURE: &str = "level: full, max_body_bytes: 16777216, body_encoding: base64";

/// A client, over TLS 1.3 and over TLS 1.2.
fn client(path: CapturePath, exe: &Path, program: &Path, mode: &str, fronts: &[usize]) {
    let scene = Scene::start();
    for &front in fronts {
        let sidetap = Sidetap::start(&tap(&exe.display().to_string(), CAPTURE), path);
        let (pid, said) = scene.run(Command::new(exe).arg(program), mode, front);
        let mut sidetap = sidetap.of(pid);
        sidetap.wait_for(COUNT);
        let captured = sidetap.stop();
        scene.check(&captured, pid, exe, front, &said);
        assert_eq!(captured.transactions.len(), COUNT, "each once");
    }
}

fn python(path: CapturePath, mode: &str, fronts: &[usize]) {
    let Some(exe) = installed(PYTHON) else { return };
    client(path, &exe, &script("tls/client.py"), mode, fronts);
}

fn python_ssl(path: CapturePath) {
    python(path, "ssl", &[0, 1]);
}

fn python_asyncio(path: CapturePath) {
    python(path, "asyncio", &[0, 1]);
}

fn python_threads(path: CapturePath) {
    python(path, "threads", &[0]);
}

fn python_mac_then_encrypt(path: CapturePath) {
    python(path, "mac-then-encrypt", &[1]);
}

/// Node has OpenSSL in its executable, which is looked at when it is seen first: that may last longer than a handshake.
fn idle_node(exe: &Path, folder: &Scratch) -> Program {
    Program::start("idle", Command::new(exe).args(["-e", "setInterval(() => {}, 1000)"]), folder.path())
}

fn node_https(path: CapturePath) {
    let Some(exe) = installed("node") else { return };
    let folder = Scratch::new("idle");
    let _idle = idle_node(&exe, &folder);
    client(path, &exe, &script("tls/client.mjs"), "https", &[0, 1]);
}

fn node_http2(path: CapturePath) {
    let Some(exe) = installed("node") else { return };
    let folder = Scratch::new("idle");
    let _idle = idle_node(&exe, &folder);
    client(path, &exe, &script("tls/client.mjs"), "http2", &[0, 1]);
}

/// Several processes, each with several requests on one connection.
fn curl(path: CapturePath) {
    const EACH: usize = 3;
    let Some(exe) = installed("curl") else { return };
    let scene = Scene::start();
    for (front, version) in [(0, "--http1.1"), (0, "--http2"), (1, "--http1.1"), (1, "--http2")] {
        let sidetap = Sidetap::start(&tap(&exe.display().to_string(), CAPTURE), path);
        let mut command = Command::new(&exe);
        let id = |number: usize| format!("curl{version}-{front}-{number}");
        let body = |number: usize| scene.folder.path().join(id(number));
        for number in 0..EACH {
            if number > 0 {
                command.arg("--next");
            }
            let to = format!("{NAME}:443:127.0.0.1:{}", scene.fronts[front]);
            command.args(["-sS", "--fail", version, "--connect-to", &to, "--cacert"]).arg(scene.authority.ca());
            command.args(["-H", &format!("X-Request-Id: {}", id(number)), "-w", "%{local_port}\\n", "-o"]);
            command.arg(body(number)).arg(format!("https://{NAME}/bytes/{}", number * 50_000));
        }
        let mut client = Program::start("curl", &mut command, scene.folder.path());
        let pid = client.pid();
        assert!(client.wait_exit(LIMIT).success(), "{}", client.tail());
        let ports: Vec<u64> = client.stdout().lines().map(|line| line.parse().expect("it is a port")).collect();
        assert_eq!(ports.len(), EACH, "{}", client.tail());
        let said: Vec<Said> = (0..EACH)
            .map(|number| {
                let got = fs::read(body(number)).unwrap_or_default();
                assert_same("what curl got", &got, &bytes(number * 50_000));
                Said { id: id(number), status: 200, sha256: sha256(&got), port: Some(ports[number]) }
            })
            .collect();
        let mut sidetap = sidetap.of(pid);
        sidetap.wait_for(EACH);
        let captured = sidetap.stop();
        scene.check(&captured, pid, &exe, front, &said);
        assert_eq!(captured.transactions.len(), EACH, "each once");
    }
}

/// Debian's is a build with GnuTLS.
fn wget(path: CapturePath) {
    let Some(exe) = installed("wget") else { return };
    let version = Command::new(&exe).arg("--version").output().expect("it is installed").stdout;
    let library = if String::from_utf8_lossy(&version).contains("+ssl/gnutls") { "GnuTLS" } else { "another library" };
    println!("this wget has {library}");
    let scene = Scene::start();
    for front in [0, 1] {
        let sidetap = Sidetap::start(&tap(&exe.display().to_string(), CAPTURE), path);
        let id = format!("wget-{front}");
        let got = scene.folder.path().join(&id);
        let mut command = Command::new(&exe);
        command.args(["-q", "-O"]).arg(&got).arg("--ca-certificate").arg(scene.authority.ca());
        command.arg(format!("--header=X-Request-Id: {id}")).arg(format!("--header=Host: {NAME}"));
        command.arg(format!("https://localhost:{}/bytes/70000", scene.fronts[front]));
        let mut client = Program::start("wget", &mut command, scene.folder.path());
        let pid = client.pid();
        assert!(client.wait_exit(LIMIT).success(), "{}", client.tail());
        let got = fs::read(got).unwrap_or_default();
        assert_same("what wget got", &got, &bytes(70_000));
        let mut sidetap = sidetap.of(pid);
        sidetap.wait_for(1);
        let captured = sidetap.stop();
        let said = Said { id, status: 200, sha256: sha256(&got), port: None };
        scene.check(&captured, pid, &exe, front, &[said]);
        assert_eq!(captured.transactions.len(), 1, "each once");
    }
}

/// A client and a server, as built and stripped.
fn go(path: CapturePath) {
    if installed("go").is_none() {
        return;
    }
    for (name, flags) in [("plain", ""), ("stripped", "-s -w")] {
        let scene = Scene::start();
        let exe = scene.folder.path().join(name);
        build_go(&exe, flags);
        let config = tap(&exe.display().to_string(), CAPTURE);
        // As with Node, a process that is there before.
        let mut idle = Command::new(&exe);
        idle.args(["server", &free_port().to_string()]).arg(scene.authority.pem(Key::Ecdsa));
        let _idle = Program::start("idle", &mut idle, scene.folder.path());
        for front in [0, 1] {
            let sidetap = Sidetap::start(&config, path);
            let (pid, said) = scene.run(&mut Command::new(&exe), "client", front);
            let mut sidetap = sidetap.of(pid);
            sidetap.wait_for(COUNT);
            let captured = sidetap.stop();
            scene.check(&captured, pid, &exe, front, &said);
            assert_eq!(captured.transactions.len(), COUNT, "each once");
        }
        server(path, &scene, &exe, &["--http1.1", "--http2"]);
    }
}

/// A server that is started with `server PORT PEM`, and answers with what it is sent.
fn server(path: CapturePath, scene: &Scene, exe: &Path, versions: &[&str]) {
    let (port, sent) = (free_port(), bytes(200_000));
    let upload = scene.folder.file("upload", "");
    fs::write(&upload, &sent).expect("the scratch folder is ours");
    let mut command = Command::new(exe);
    command.args(["server", &port.to_string()]).arg(scene.authority.pem(Key::Ecdsa));
    let mut server = Program::start("server", &mut command, scene.folder.path());
    server.wait_ready("listening socket", LIMIT, |_| listens(port));
    let mut sidetap = Sidetap::start(&tap(&exe.display().to_string(), CAPTURE), path).of(server.pid());
    for version in versions {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--fail", version, "--connect-to", &format!("{NAME}:443:127.0.0.1:{port}"), "--cacert"]);
        curl.arg(scene.authority.ca()).args(["-H", &format!("X-Request-Id: {version}"), "-H", "Expect:"]);
        curl.arg("--data-binary").arg(format!("@{}", upload.display())).arg(format!("https://{NAME}/mirror"));
        let output = curl.output().expect("curl is installed");
        assert_same("what curl got", &output.stdout, &sent);
    }
    sidetap.wait_for(versions.len());
    let captured = sidetap.stop();
    for id in versions {
        let transaction = captured.ingress(id);
        assert_eq!((transaction.status(), transaction.incomplete()), (200, vec![]), "{:#}", transaction.0);
        for side in ["request", "response"] {
            assert_same(id, &transaction.body(side).unwrap_or_default(), &sent);
        }
    }
}

/// Android's build, in a folder of its own: no other program's library.
fn boringssl(path: CapturePath) {
    let libraries = Path::new("/usr/lib/x86_64-linux-gnu/android");
    let rpath = format!("-Wl,-rpath,{}", libraries.display());
    boringssl_of(path, Path::new("/usr/include/android"), libraries, &["-lssl", "-lcrypto", &rpath]);
}

/// Within the executable: `scripts/test` builds it.
fn aws_lc(path: CapturePath) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/aws-lc");
    let libraries = ["-l:libssl.a", "-l:libcrypto.a", "-lstdc++", "-lpthread"];
    boringssl_of(path, &folder.join("include"), &folder.join("lib"), &libraries);
}

/// A client and a server that are built with these libraries.
fn boringssl_of(path: CapturePath, headers: &Path, folder: &Path, libraries: &[&str]) {
    if !headers.join("openssl/ssl.h").exists() {
        println!("skipped: {} has no headers of BoringSSL or AWS-LC", headers.display());
        return;
    }
    let scene = Scene::start();
    let exe = scene.folder.path().join("boringssl");
    let mut build = Command::new("cc");
    build.args(["-O1", "-I"]).arg(headers).arg("-o").arg(&exe).arg(script("tls/boringssl.c"));
    build.arg("-L").arg(folder).args(libraries);
    let output = build.output().expect("there is a C compiler");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // As with Node, a process that is there before.
    let mut idle = Command::new(&exe);
    idle.args(["server", &free_port().to_string()]).arg(scene.authority.pem(Key::Ecdsa));
    let _idle = Program::start("idle", &mut idle, scene.folder.path());
    for front in [0, 1] {
        let sidetap = Sidetap::start(&tap(&exe.display().to_string(), CAPTURE), path);
        let (pid, said) = scene.run(&mut Command::new(&exe), "client", front);
        let mut sidetap = sidetap.of(pid);
        sidetap.wait_for(COUNT);
        let captured = sidetap.stop();
        scene.check(&captured, pid, &exe, front, &said);
        assert_eq!(captured.transactions.len(), COUNT, "each once");
        for transaction in &captured.transactions {
            assert_eq!(transaction.0["tls"]["library"], "boringssl", "{:#}", transaction.0);
        }
    }
    server(path, &scene, &exe, &["--http1.1"]);
}

fn nginx_itself(path: CapturePath) {
    let authority = Authority::new();
    let nginx = Nginx::tls(&authority);
    let mut sidetap = Sidetap::start(&tap(nginx::EXE, "level: full"), path).of(nginx.pid());
    let load = Load { connections: 4, streams: 5, requests: 400 };
    for options in [&["--h1"][..], &[]] {
        load.run_tls(nginx.port(), options);
    }
    let served = nginx.wait_log(2 * load.requests);
    sidetap.wait_for(served.len());
    let captured = sidetap.stop();
    for line in &served {
        let of_it: Vec<&Transaction> =
            captured.transactions.iter().filter(|t| t.header("response", "x-request-id") == Some(&line.id)).collect();
        let [transaction] = of_it[..] else { panic!("recorded {} times: {line:?}", of_it.len()) };
        let words = Words::read(transaction, SERVER_HEADER).expect("nginx says what it was");
        assert_eq!(words.wrong(transaction), None, "{:#}", transaction.0);
        assert_eq!(transaction.source(), line.client, "{line:?}");
        assert_eq!((transaction.path(), transaction.status()), (&*line.path, u64::from(line.status)));
        assert_eq!(transaction.body_bytes("response"), Some(line.body_sent), "{line:?}");
    }
    assert_eq!(captured.transactions.len(), served.len(), "each once");
}
