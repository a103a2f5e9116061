//! What HTTP/2 has and HTTP/1 does not: tunnels within a stream (RFC 8441), and responses that nobody asked for.

mod support;

use std::process::Command;

use support::captured::Transaction;
use support::haproxy::{self, Haproxy};
use support::program::{Program, listens};
use support::sidetap::{CapturePath, Sidetap, tap};
use support::{LIMIT, Scratch, free_port, on_each_path, script};

on_each_path!(
    websockets_share_a_connection_with_requests,
    what_a_server_pushes_is_recorded_as_pushed,
    a_push_that_the_client_gives_up_says_so,
);

/// Node's servers of HTTP/2 and of WebSocket over HTTP/1.
struct Servers {
    program: Program,
    http2: u16,
    web: u16,
    folder: Scratch,
}

impl Servers {
    fn start() -> Servers {
        let (folder, http2, web) = (Scratch::new("node"), free_port(), free_port());
        let mut command = Command::new("node");
        command.arg(script("http2/server.mjs")).args([http2.to_string(), web.to_string()]);
        let mut program = Program::start("servers", &mut command, folder.path());
        program.wait_ready("listening sockets", LIMIT, |_| listens(http2) && listens(web));
        Servers { program, http2, web, folder }
    }

    /// The program that they run in.
    fn exe(&self) -> String {
        let exe = std::fs::read_link(format!("/proc/{}/exe", self.program.pid())).expect("they run");
        exe.display().to_string()
    }

    /// What Node's client says: a line `ID STATUS BYTES` for each request.
    fn client(&self, mode: &str, port: u16) -> Vec<String> {
        let mut command = Command::new("node");
        command.arg(script("http2/client.mjs")).args([mode, &port.to_string()]);
        let mut client = Program::start("client", &mut command, self.folder.path());
        let status = client.wait_exit(LIMIT);
        assert!(status.success(), "{status}{}", client.tail());
        client.stdout().lines().map(str::to_owned).collect()
    }
}

/// HAProxy passes tunnels on in either version.
fn websockets_share_a_connection_with_requests(path: CapturePath) {
    let (servers, front) = (Servers::start(), free_port());
    let haproxy = Haproxy::with(&format!(
        "frontend front\n    bind 127.0.0.1:{front} proto h2\n    @log@\n    use_backend over-http1 if {{ path_beg /http1 }}\n\
         \x20   default_backend over-http2\n\
         backend over-http2\n    server one 127.0.0.1:{} proto h2 ws h2\n\
         backend over-http1\n    server one 127.0.0.1:{}\n",
        servers.http2, servers.web
    ));
    let mut sidetap = Sidetap::start(&tap(haproxy::EXE, "level: full"), path).of(haproxy.pid());
    let said = servers.client("websocket", front);
    assert_eq!(said, ["over-2 200 42", "over-1 200 42", "beside 200 14", "refused 403 0", "behind 200 14"]);
    sidetap.wait_for(said.len() * 2);
    let captured = sidetap.stop();
    assert_eq!(captured.transactions.len(), said.len() * 2, "what tunnels carry is none");
    let brief = |transaction: &Transaction| {
        // Of a tunnel that is refused one side had not ended, and is given up.
        let is_whole = transaction.incomplete().is_empty() || transaction.status() == 403;
        assert!(is_whole, "{:#}", transaction.0);
        let protocol = transaction.0.pointer("/request/protocol").and_then(|name| name.as_str()).unwrap_or_default();
        let body = transaction.body("response").unwrap_or_default();
        let (method, path, status) = (transaction.method(), transaction.path(), transaction.status());
        format!("{protocol} {method} {path} {status} {}", String::from_utf8_lossy(&body)).trim().to_owned()
    };
    for (id, ingress, egress) in [
        ("over-2", "http2 CONNECT /http2/chat 200", "http2 CONNECT /http2/chat 200"),
        ("over-1", "http2 CONNECT /http1/chat 200", "http1 GET /http1/chat 101"),
        ("refused", "http2 CONNECT /http2/refused 403 refused", "http2 CONNECT /http2/refused 403 refused"),
        ("beside", "http2 GET /http2/beside 200 /http2/beside", "http2 GET /http2/beside 200 /http2/beside"),
        ("behind", "http2 GET /http2/behind 200 /http2/behind", "http2 GET /http2/behind 200 /http2/behind"),
    ] {
        let (front, back) = (captured.ingress(id), captured.egress(id));
        assert_eq!((brief(front), brief(back)), (ingress.to_owned(), egress.to_owned()), "{id}");
        assert_eq!(front.connection(), captured.ingress("behind").connection(), "{id}");
    }
}

/// Whether the stream is a server's, and is recorded as pushed; what was asked for and answered, and what lacks.
fn streams(transactions: &[Transaction]) -> Vec<String> {
    let line = |transaction: &Transaction| {
        let request = &transaction.0["request"];
        let even = if request["stream_id"].as_u64().is_some_and(|id| id % 2 == 0) { "even: " } else { "" };
        let pushed = if request["pushed"] == true { "pushed " } else { "" };
        let body = transaction.body("response").unwrap_or_default();
        let (path, status, missing) = (transaction.path(), transaction.status(), transaction.incomplete().join(" "));
        let line = format!("{even}{pushed}{path} {status} {} {missing}", String::from_utf8_lossy(&body).trim());
        line.trim().to_owned()
    };
    let mut streams: Vec<String> = transactions.iter().map(line).collect();
    streams.sort();
    streams
}

/// nghttp takes what is pushed, and writes it out.
fn what_a_server_pushes_is_recorded_as_pushed(path: CapturePath) {
    let servers = Servers::start();
    let mut sidetap = Sidetap::start(&tap(&servers.exe(), "level: full"), path).of(servers.program.pid());
    let page = format!("http://127.0.0.1:{}/page", servers.http2);
    let output = Command::new("nghttp").arg(page).output().expect("nghttp is installed");
    let got = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(["/page\n", "/style\n", "/script\n"].iter().all(|part| got.contains(part)), "nghttp got {got:?}");
    sidetap.wait_for(3);
    let captured = sidetap.stop();
    let seen = streams(&captured.transactions);
    assert_eq!(seen, ["/page 200 /page", "even: pushed /script 200 /script", "even: pushed /style 200 /style"]);
}

fn a_push_that_the_client_gives_up_says_so(path: CapturePath) {
    let servers = Servers::start();
    let mut sidetap = Sidetap::start(&tap(&servers.exe(), "level: full"), path).of(servers.program.pid());
    assert_eq!(servers.client("cancel", servers.http2), ["held 200 6", "behind 200 8"]);
    sidetap.wait_for(3);
    let captured = sidetap.stop();
    let endless = "even: pushed /endless 200 begun reset_by_client:CANCEL response_aborted";
    assert_eq!(streams(&captured.transactions), ["/behind 200 /behind", "/held 200 /held", endless]);
}
