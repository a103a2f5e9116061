//! HTTP/2 against real peers: every request once and whole, at any number of streams, through HAProxy and without.

mod support;

use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use support::backend::Backend;
use support::captured::Transaction;
use support::client::Client;
use support::h2load::Load;
use support::haproxy::{self, Haproxy};
use support::nginx::{self, Accessed, Nginx};
use support::payload::bytes;
use support::program::{Program, listens};
use support::sides::{Recorded, assert_all, is_as_logged, recorded, recorded_each};
use support::sidetap::{CapturePath, Sidetap, tap};
use support::{PYTHON, Scratch, data, free_port, on_each_path, script, until};

on_each_path!(
    each_request_to_a_server_is_recorded_once,
    each_request_through_haproxy_is_recorded_once,
    one_side_in_http1_changes_nothing,
    bodies_on_a_hundred_streams_are_recorded_byte_for_byte,
    joined_midway_what_starts_afterwards_is_recorded,
    joined_in_a_long_download_what_follows_is_recorded,
    frames_are_found_on_a_connection_that_was_doubted,
    an_upgrade_from_http1_is_followed,
);

/// With `SIDETAP_LONG` set, 100,000 requests; else as many as tell the same in a few seconds.
fn requests() -> usize {
    if std::env::var_os("SIDETAP_LONG").is_some() { 100_000 } else { 6_000 }
}

/// One after the other to a hundred at once, over one connection to fifty.
fn loads() -> [Load; 6] {
    [(1, 1), (1, 2), (1, 100), (8, 10), (50, 2), (50, 100)].map(|(connections, streams)| Load {
        connections,
        streams,
        requests: requests() / 6,
    })
}

/// HAProxy gives each request an id that both its sides and both logs carry.
fn proxies(front: u16, server: u16, in_http2: [bool; 2]) -> String {
    let log = data("frontend.cfg").replace("%[capture.req.hdr(0)]", "%ID");
    let [bind, to_server] = in_http2.map(|is_http2| if is_http2 { " proto h2" } else { "" });
    format!(
        "frontend front\n    bind 127.0.0.1:{front}{bind}\n    unique-id-format %pid-%rt\n    unique-id-header X-Request-Id\n\
         {log}    http-response set-header X-Request-Id %[unique-id]\n    default_backend servers\n\
         backend servers\n    http-reuse always\n    server one 127.0.0.1:{server}{to_server}\n"
    )
}

/// What is wrong with the record of a request; none where it is whole and is what was logged.
fn wrong(transactions: &[Transaction], logged: &Accessed, protocol: &str) -> Option<String> {
    let [transaction] = transactions else { return Some(format!("recorded {} times", transactions.len())) };
    let stream = transaction.0.pointer("/request/stream_id").and_then(serde_json::Value::as_u64);
    let is_right = is_as_logged(transaction, logged)
        && transaction.0.pointer("/request/protocol").is_some_and(|name| name == protocol)
        && stream.is_some_and(|id| id % 2 == 1) == (protocol == "http2");
    (!is_right).then(|| format!("{:#}", transaction.0))
}

/// Compares with nginx's log, line by line.
fn check(mut recorded: Recorded, served: &[Accessed], [ingress, egress]: [Option<&str>; 2]) {
    let mut problems = Vec::new();
    for line in served {
        let sides = recorded.remove(&line.id).unwrap_or_default();
        for (transactions, protocol) in [(&sides.ingress, ingress), (&sides.egress, egress)] {
            let problem = match protocol {
                Some(protocol) => wrong(transactions, line, protocol),
                None => (!transactions.is_empty()).then(|| "recorded on a side that has none".to_owned()),
            };
            problems.extend(problem.map(|problem| format!("{line:?}: {problem}")));
        }
    }
    assert_all(served, &problems, &recorded);
}

fn each_request_to_a_server_is_recorded_once(path: CapturePath) {
    let nginx = Nginx::http2(&[]);
    let sidetap = Sidetap::start(&tap(nginx::EXE, "level: full"), path);
    let mut made = 0;
    for load in loads() {
        load.run(nginx.port(), &[]);
        made += load.requests;
    }
    let served = nginx.wait_log(made);
    assert_eq!(served.len(), made);
    check(recorded(sidetap, nginx.pid()), &served, [Some("http2"), None]);
}

fn through_haproxy(path: CapturePath, in_http2: [bool; 2], loads: &[Load]) {
    let nginx = if in_http2[1] { Nginx::http2(&[]) } else { Nginx::start(false, &[]) };
    let front = free_port();
    let haproxy = Haproxy::with(&proxies(front, nginx.port(), in_http2));
    let sidetap = Sidetap::start(&tap(haproxy::EXE, "level: full"), path);
    let mut made = 0;
    for load in loads {
        load.run(front, if in_http2[0] { &[] } else { &["--h1"] });
        made += load.requests;
    }
    let served = nginx.wait_log(made);
    assert_eq!(served.len(), made);
    let protocols = in_http2.map(|is_http2| Some(if is_http2 { "http2" } else { "http1" }));
    check(recorded(sidetap, haproxy.pid()), &served, protocols);
}

fn each_request_through_haproxy_is_recorded_once(path: CapturePath) {
    through_haproxy(path, [true, true], &loads());
}

fn one_side_in_http1_changes_nothing(path: CapturePath) {
    let load = |connections, streams| Load { connections, streams, requests: requests() / 4 };
    through_haproxy(path, [true, false], &[load(10, 10)]);
    through_haproxy(path, [false, true], &[load(20, 1)]);
}

/// Up and down at once: each stream sends a body, and gets it back.
fn bodies_on_a_hundred_streams_are_recorded_byte_for_byte(path: CapturePath) {
    const MIB: usize = 1 << 20;
    let sizes: Vec<usize> = (0..100)
        .map(|number| match number {
            0 => 0,
            25 => 10 * MIB,
            50 => 5 * MIB,
            75 => 10 * MIB,
            number => number * number * 13,
        })
        .collect();
    let backend = Backend::start();
    let front = free_port();
    let proxies = format!(
        "frontend front\n    bind 127.0.0.1:{front} proto h2\n    @log@\n    default_backend servers\n\
         backend servers\n    server one 127.0.0.1:{}\n",
        backend.port()
    );
    let haproxy = Haproxy::with(&proxies);
    let capture = "level: full, max_body_bytes: 16777216, body_encoding: base64";
    let mut sidetap = Sidetap::start(&tap(haproxy::EXE, capture), path).of(haproxy.pid());
    let folder = Scratch::new("bodies");
    for (number, size) in sizes.iter().enumerate() {
        let file = folder.path().join(format!("{number}.up"));
        std::fs::write(&file, bytes(*size)).expect("the scratch folder is ours");
    }
    let mut client = Command::new(PYTHON);
    client.arg(script("http2/upload.py")).arg(front.to_string()).arg(folder.path());
    let output = client.output().expect("Python is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // They are 80 MiB in base64, and a disk that is busy takes its time.
    sidetap.wait_within(Duration::from_secs(60), "both sides of each", |output| {
        output.transactions.len() >= sizes.len() * 2
    });
    let captured = sidetap.stop();
    for (number, size) in sizes.iter().enumerate() {
        let expected = bytes(*size);
        let answer = std::fs::read(folder.path().join(format!("{number}.down"))).unwrap_or_default();
        assert!(answer == expected, "the client itself got {} bytes of {size}", answer.len());
        let id = format!("body-{number}");
        for transaction in [captured.ingress(&id), captured.egress(&id)] {
            let what = format!("{id} {}", transaction.direction());
            assert_eq!(transaction.incomplete(), Vec::<&str>::new(), "{what}");
            for side in ["request", "response"] {
                support::payload::assert_same(&what, &transaction.body(side).unwrap_or_default(), &expected);
            }
        }
        assert_eq!(captured.ingress(&id).0.pointer("/request/protocol").unwrap(), "http2");
    }
    let connections: std::collections::HashSet<String> =
        (0..sizes.len()).map(|number| captured.ingress(&format!("body-{number}")).connection()).collect();
    println!("{} streams on {} connections", sizes.len(), connections.len());
}

/// Clients and their connections are older than the agent, and so are those to the server.
fn joined_midway_what_starts_afterwards_is_recorded(path: CapturePath) {
    let nginx = Nginx::http2(&[]);
    let front = free_port();
    let haproxy = Haproxy::with(&proxies(front, nginx.port(), [true, true]));
    let folder = Scratch::new("midway");
    let load = Load { connections: 4, streams: 10, requests: 12_000 };
    // h2load's own fields, repeated in each request, go through its table of fields.
    let mut command = load.command(front, &folder, &["--rps", "300", "-H", "x-fixed: the-same-each-time"]);
    let mut client = Program::start("h2load", &mut command, folder.path());
    until(Duration::from_secs(10), || (nginx.log().len() > 400).then_some(())).expect("requests are served");
    let sidetap = Sidetap::start(&tap(haproxy::EXE, "level: headers"), path);
    let began = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_secs_f64();
    client.wait_exit(Duration::from_secs(60));
    let served = nginx.wait_log(load.requests);
    let (mut fields, mut unknown, mut problems) = (0, 0, Vec::new());
    let recorded = recorded_each(sidetap, haproxy.pid(), |transaction| {
        for (name, value) in headers(transaction) {
            fields += 1;
            match (name.as_str(), value.as_str()) {
                ("<unknown>", "<unknown>") => unknown += 1,
                (name, value) if is_right(name, value, front) => {}
                _ => problems.push(format!("{name}: {value}")),
            }
        }
    });
    let after: Vec<&Accessed> = served.iter().filter(|line| line.ended - line.seconds > began + 0.01).collect();
    assert!(after.len() > 2000, "the load ended too early: {} requests after the start", after.len());
    for line in &after {
        let Some(sides) = recorded.get(&line.id) else {
            problems.push(format!("not recorded: {line:?}"));
            continue;
        };
        for transactions in [&sides.ingress, &sides.egress] {
            match &transactions[..] {
                [one]
                    if one.path() == line.path
                        && one.method() == line.method
                        && one.status() == u64::from(line.status) => {}
                other => problems.push(format!("{line:?}: {other:#?}")),
            }
        }
    }
    println!(
        "{} requests after the start; of {fields} header fields {unknown} are unknown ({:.1} %)",
        after.len(),
        unknown as f64 / f64::from(fields.max(1)) * 100.0
    );
    assert!(problems.is_empty(), "{} problems, the first: {}", problems.len(), problems[0]);
    assert!(unknown > 0, "the clients' tables are older than the agent");
}

fn joined_in_a_long_download_what_follows_is_recorded(path: CapturePath) {
    const AFTERWARDS: usize = 200;
    let nginx = Nginx::http2(&[("long", &bytes(40 << 20))]);
    let front = free_port();
    let haproxy = Haproxy::with(&proxies(front, nginx.port(), [true, true]));
    let folder = Scratch::new("download");
    let texts: String = (0..AFTERWARDS).map(|number| format!("http://127.0.0.1:{front}/text/{number}\n")).collect();
    // At 8 MiB a second it takes longer than the agent does to start.
    let urls = folder.file("urls", &format!("http://127.0.0.1:{front}/slow-file/long\n{texts}"));
    let mut command = Command::new("h2load");
    command.args(["-t", "1", "-c", "1", "-m", "1", "-n", &(AFTERWARDS + 1).to_string(), "-i"]).arg(urls);
    let mut client = Program::start("h2load", &mut command, folder.path());
    let sidetap = Sidetap::start(&tap(haproxy::EXE, "level: full"), path);
    assert_eq!(nginx.log().len(), 0, "the download has ended before the agent was there");
    client.wait_exit(Duration::from_secs(60));
    let served: Vec<Accessed> =
        nginx.wait_log(AFTERWARDS + 1).into_iter().filter(|line| line.path.starts_with("/text/")).collect();
    assert_eq!(served.len(), AFTERWARDS);
    let mut recorded = recorded(sidetap, haproxy.pid());
    // Of the download, at most what came of it.
    recorded.retain(|id, _| served.iter().any(|line| line.id == *id));
    let mut problems = Vec::new();
    for line in &served {
        let sides = recorded.remove(&line.id).unwrap_or_default();
        for transactions in [&sides.ingress, &sides.egress] {
            match &transactions[..] {
                [one] if one.path() == line.path && one.status() == 200 => {}
                other => problems.push(format!("{line:?}: {other:#?}")),
            }
        }
    }
    assert!(problems.is_empty(), "{} problems, the first: {}", problems.len(), problems[0]);
}

/// Calls that begin in the midst of a frame make a connection doubtful, and nothing of it is copied until a call begins with a
/// frame again.
fn frames_are_found_on_a_connection_that_was_doubted(path: CapturePath) {
    const BODY: usize = 16_000;
    let backend = Backend::start();
    let front = free_port();
    let haproxy = Haproxy::with(&format!(
        "frontend front\n    bind 127.0.0.1:{front} proto h2\n    @log@\n    default_backend servers\n\
         backend servers\n    server one 127.0.0.1:{}\n",
        backend.port()
    ));
    let mut client = Client::tcp(front);
    let length = format!("content-length: {BODY}");
    let upload = request(1, "POST", "/echo", "upload", Some(&length));
    let body_head = frame(0, 1, 1, &[b'x'; BODY])[..9].to_vec();
    client.send(&[&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(4, 0, 0, &[]), &upload, &body_head].concat());
    client.send(&[b'x'; 1000]);
    let mut sidetap = Sidetap::start(&tap(haproxy::EXE, "level: full"), path).of(haproxy.pid());
    for _ in 0..(BODY - 1000) / 150 {
        client.send(&[b'x'; 150]);
        // HAProxy is to receive each by itself, and says nothing of that.
        std::thread::sleep(Duration::from_millis(3));
    }
    backend.served_as("upload");
    for (stream, id) in [(3, "first"), (5, "second"), (7, "third")] {
        client.send(&request(stream, "GET", "/bytes/100", id, None));
        backend.served_as(id);
    }
    sidetap.wait_for_pair("third");
    let captured = sidetap.stop();
    for id in ["first", "second", "third"] {
        assert_eq!((captured.ingress(id).status(), captured.ingress(id).path()), (200, "/bytes/100"), "{id}");
        assert_eq!(captured.ingress(id).incomplete(), Vec::<&str>::new(), "{id}");
    }
    assert!(captured.counters["kernel.skipped"] > 10, "it was copied all the time: {:?}", captured.counters);
}

/// HAProxy and nginx upgrade nothing; nghttp2's proxy does.
fn an_upgrade_from_http1_is_followed(path: CapturePath) {
    const NGHTTPX: &str = "/usr/sbin/nghttpx";
    let (backend, front, folder) = (Backend::start(), free_port(), Scratch::new("upgrade"));
    let mut command = Command::new(NGHTTPX);
    command.args([format!("-f127.0.0.1,{front};no-tls"), format!("-b127.0.0.1,{}", backend.port())]);
    command.args(["--single-process", "--workers=1", "--errorlog-file=/dev/null", "--conf=/dev/null"]);
    let mut proxy = Program::start("nghttpx", &mut command, folder.path());
    proxy.wait_ready("listening socket", support::LIMIT, |_| listens(front));
    let mut sidetap = Sidetap::start(&tap(NGHTTPX, "level: full"), path).of(proxy.pid());
    let url = |path: &str| format!("http://127.0.0.1:{front}{path}");
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--http2", "--output", "/dev/null", "--write-out", "%{http_version} %{http_code}\n"]);
    curl.args(["-H", "X-Request-Id: up", &url("/bytes/3000")]);
    // Options hold up to `--next`, and it goes on with the same connection.
    curl.args([
        "--next",
        "--silent",
        "--http2",
        "--output",
        "/dev/null",
        "-H",
        "X-Request-Id: next",
        &url("/status/404"),
    ]);
    let output = curl.output().expect("curl is installed");
    assert!(output.stdout.starts_with(b"2 200"), "{}", String::from_utf8_lossy(&output.stdout));
    sidetap.wait_for_pair("up");
    sidetap.wait_for_pair("next");
    let captured = sidetap.stop();
    for (id, stream, status) in [("up", 1, 200), ("next", 3, 404)] {
        let request = &captured.ingress(id).0["request"];
        assert_eq!((&request["protocol"], &request["stream_id"]), (&"http2".into(), &stream.into()), "{id}");
        assert_eq!(captured.ingress(id).status(), status, "{id}");
        assert_eq!(captured.ingress(id).incomplete(), Vec::<&str>::new(), "{id}");
    }
    assert_eq!(captured.ingress("up").body("response"), Some(bytes(3000)));
    assert_eq!(captured.ingress("up").connection(), captured.ingress("next").connection());
}

/// HEADERS of a request whose stream ends with them unless it has another `field`; no table is used.
fn request(stream: u32, method: &str, path: &str, id: &str, field: Option<&str>) -> Vec<u8> {
    let pseudo = format!(":method: {method}\n:scheme: http\n:path: {path}\n:authority: a\nx-request-id: {id}");
    let mut block = Vec::new();
    for line in pseudo.lines().chain(field) {
        let (name, value) = line.split_once(": ").expect("a field");
        block.push(0);
        for text in [name, value] {
            block.push(text.len() as u8);
            block.extend(text.as_bytes());
        }
    }
    frame(1, if field.is_some() { 4 } else { 5 }, stream, &block)
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Names and values of both heads; an unknown one may stand for several.
fn headers(transaction: &Transaction) -> Vec<(String, String)> {
    let of =
        |side: &str| transaction.0.pointer(&format!("/{side}/headers")).and_then(serde_json::Value::as_object).cloned();
    let both = [of("request"), of("response")].into_iter().flatten().flatten();
    both.flat_map(|(name, value)| {
        let value = value.as_str().unwrap_or_default().to_owned();
        let values: Vec<String> =
            if name == "<unknown>" { value.split(", ").map(str::to_owned).collect() } else { vec![value] };
        values.into_iter().map(move |value| (name.clone(), value)).collect::<Vec<_>>()
    })
    .collect()
}

/// Whether this load can have a field of that value: what is wrong was resolved to another field's value.
fn is_right(name: &str, value: &str, front: u16) -> bool {
    match name {
        "x-fixed" => value == "the-same-each-time",
        "user-agent" => value.starts_with("h2load nghttp2/"),
        "host" => value == format!("127.0.0.1:{front}"),
        "x-request-id" => value.contains('-') && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'),
        "server" => value.starts_with("nginx/"),
        "date" => value.ends_with(" GMT"),
        "content-type" => value == "text/plain" || value == "application/octet-stream",
        "content-length" => value.parse::<u32>().is_ok(),
        _ => false,
    }
}
