//! The sink against a server that does what the test tells it to.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;

use super::*;
use crate::config::{Compression, Secret, SpoolFolder};
use crate::exchange::{Format, Level};
use crate::sink::queue::{Destination, Lines, Opener, SinkThreads, Takes};
use crate::sink::sample::{Folder, ingress, written};
use crate::sink::stdout::Stdout;
use crate::stats::{Memory, Stats};

pub(super) fn store(endpoint: &str) -> S3Store {
    S3Store {
        endpoint: endpoint.into(),
        region: "us-east-1".into(),
        bucket: "bucket".into(),
        keys: Some((Secret::new("access".into()), Secret::new("hidden".into()))),
        session_token: None,
        insecure: true,
        ca_file: None,
        path_style: true,
        access_url: None,
        prefix: String::new(),
        mode: S3Mode::Batch(Compression::None),
        batch: Batch { max_bytes: 4000, max_age: Duration::from_millis(50) },
        spool: SpoolFolder { path: None, max_bytes: 1 << 20 },
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Mood {
    Takes,
    Answers(&'static str),
    Hangs,
}

#[derive(Default)]
struct Shared {
    objects: BTreeMap<String, Vec<u8>>,
    mood: Option<Mood>,
    asked: usize,
    heads: Vec<String>,
}

/// Keeps what is put into it, by path.
struct Server {
    address: String,
    shared: Arc<Mutex<Shared>>,
}

impl Server {
    fn start(mood: Mood) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let shared = Arc::new(Mutex::new(Shared { mood: Some(mood), ..Shared::default() }));
        let server = Server { address, shared: shared.clone() };
        // Ends with the test's process.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = shared.clone();
                thread::spawn(move || while serve(&stream, &shared).is_ok() {});
            }
        });
        server
    }

    fn be(&self, mood: Mood) {
        self.shared.lock().unwrap().mood = Some(mood);
    }

    fn wait_until(&self, what: &str, is_so: impl Fn(&Shared) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !is_so(&self.shared.lock().unwrap()) {
            assert!(Instant::now() < deadline, "waited in vain: {what}");
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// All contents, in the order of the keys.
    fn text(&self) -> String {
        let shared = self.shared.lock().unwrap();
        String::from_utf8(shared.objects.values().flatten().copied().collect()).unwrap()
    }
}

/// One request.
fn serve(mut stream: &TcpStream, shared: &Mutex<Shared>) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.extend(byte);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let length =
        head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body)?;
    let mut shared = shared.lock().unwrap();
    shared.asked += 1;
    shared.heads.push(head.clone());
    let answer = match shared.mood.expect("it has one") {
        Mood::Takes => {
            let path = head.split(' ').nth(1).unwrap_or_default().replace("%3D", "=");
            shared.objects.insert(path, body);
            "200 OK\r\nETag: \"x\"\r\nContent-Length: 0"
        }
        Mood::Answers(answer) => answer,
        Mood::Hangs => {
            drop(shared);
            thread::sleep(Duration::from_secs(60));
            return Err(io::ErrorKind::TimedOut.into());
        }
    };
    drop(shared);
    let end = if answer.contains("\r\n\r\n") { "" } else { "\r\n\r\n" };
    stream.write_all(format!("HTTP/1.1 {answer}{end}").as_bytes())
}

/// A sink with a server, and with an event store that writes to a file.
struct Rig {
    folder: Folder,
    store: S3Store,
    stats: Arc<Stats>,
}

const TIMEOUT: Duration = Duration::from_millis(500);
const QUICK: Pace = Pace {
    first_wait: Duration::from_millis(5),
    longest_wait: Duration::from_millis(50),
    last_sends: Duration::from_millis(300),
};

impl Rig {
    fn new(name: &str, address: &str) -> Rig {
        Rig { folder: Folder::new(name), store: store(address), stats: Arc::default() }
    }

    fn sink(&self) -> (S3, SinkThreads) {
        let (closed, _) = bounded(1);
        let memory = Arc::new(Memory::new(1 << 20));
        let events = std::fs::File::create(self.folder.0.join("events")).unwrap();
        let takes = Takes { objects: false, events: true };
        let open: Opener = Box::new(|| Ok(Box::new(Stdout::on(events))));
        let events =
            Destination { name: "events".into(), takes, lines: Lines::None, place: Some("events".into()), open };
        let (outbox, threads) = Outbox::start(vec![events], memory, self.stats.clone(), &closed).unwrap();
        let (stats, folder) = (self.stats.store("s3"), self.folder.0.join("spool"));
        let client = client::connect(&self.store, TIMEOUT).unwrap();
        (S3::start(&self.store, client, &folder, stats, outbox.to_event_stores(), QUICK).unwrap(), threads)
    }
}

fn record(number: usize) -> Record {
    ingress().request(format!("GET /{number} HTTP/1.1\nHost: a.test\n"), "").record(Level::Full, Format::Text)
}

fn lines(numbers: std::ops::Range<usize>) -> String {
    let json = |number| {
        ingress().request(format!("GET /{number} HTTP/1.1\nHost: a.test\n"), "").record(Level::Full, Format::Json)
    };
    numbers.map(|number| written(&json(number))).collect()
}

fn fill(sink: &mut S3, numbers: std::ops::Range<usize>) {
    for number in numbers {
        sink.write(&record(number)).unwrap();
        sink.flush().unwrap();
    }
}

#[test]
fn everything_arrives_as_lines_in_order() {
    let server = Server::start(Mood::Takes);
    let rig = Rig::new("s3", &server.address);
    let (mut sink, _threads) = rig.sink();
    fill(&mut sink, 0..50);
    sink.close().unwrap();
    assert_eq!(server.text(), lines(0..50));
    let shared = server.shared.lock().unwrap();
    let key = shared.objects.keys().next().unwrap();
    assert!(key.starts_with("/bucket/dt=20") && key.ends_with(".ndjson") && key.contains("/hour="), "{key}");
    assert!(shared.objects.len() > 3 && shared.heads[0].contains("AWS4-HMAC-SHA256"), "{:?}", shared.heads[0]);
}

#[test]
fn what_is_young_is_sent_when_it_is_old_enough() {
    let server = Server::start(Mood::Takes);
    let rig = Rig::new("s3-age", &server.address);
    let (mut sink, _threads) = rig.sink();
    fill(&mut sink, 0..1);
    server.wait_until("the batch is sent by its age", |shared| shared.objects.len() == 1);
    fill(&mut sink, 1..2);
    server.wait_until("so is the next", |shared| shared.objects.len() == 2);
    assert_eq!(server.text(), lines(0..2));
}

#[test]
fn trouble_loses_nothing() {
    for mood in [
        Mood::Answers("503 Slow Down\r\nContent-Length: 0"),
        Mood::Answers("403 Forbidden\r\nContent-Length: 0"),
        Mood::Answers("404 Not Found\r\nContent-Length: 0"),
        Mood::Hangs,
    ] {
        let server = Server::start(mood);
        let rig = Rig::new("s3-trouble", &server.address);
        let (mut sink, _threads) = rig.sink();
        fill(&mut sink, 0..30);
        server.wait_until("it is tried again", |shared| shared.asked > 2);
        server.be(Mood::Takes);
        server.wait_until("everything arrives", |shared| {
            shared.objects.values().map(Vec::len).sum::<usize>() == lines(0..30).len()
        });
        sink.close().unwrap();
        assert_eq!(server.text(), lines(0..30));
        assert!(rig.stats.store("s3").retries.get() > 0);
    }
}

#[test]
fn what_could_not_be_sent_is_sent_by_the_next_process() {
    let server = Server::start(Mood::Hangs);
    let rig = Rig::new("s3-next", &server.address);
    let (mut sink, _threads) = rig.sink();
    fill(&mut sink, 0..30);
    let began = Instant::now();
    sink.close().unwrap();
    assert!(began.elapsed() < Duration::from_secs(20), "the end waits for {:?}", QUICK.last_sends);
    drop(sink);
    server.be(Mood::Takes);
    let (mut sink, _threads) = rig.sink();
    sink.close().unwrap();
    assert_eq!(server.text(), lines(0..30));
}

#[test]
fn each_transaction_is_an_object_whose_url_is_told() {
    let server = Server::start(Mood::Takes);
    let mut rig = Rig::new("s3-object", &server.address);
    rig.store.mode = S3Mode::Object("{{DIGEST}}".into());
    rig.store.access_url = Some("{{SCHEME}}://{{ENDPOINT}}/{{BUCKET}}/{{DIGEST}}".into());
    let (mut sink, threads) = rig.sink();
    fill(&mut sink, 0..40);
    sink.close().unwrap();
    drop(sink);
    assert!(threads.join(Duration::from_secs(30)).is_empty());
    let events = std::fs::read_to_string(rig.folder.0.join("events")).unwrap();
    let events: Vec<serde_json::Value> = events.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let shared = server.shared.lock().unwrap();
    assert_eq!((shared.objects.len(), events.len()), (40, 40));
    for event in events {
        assert_eq!(event["type"], "artifact_record");
        let path = format!("/bucket/{}", event["digest"].as_str().unwrap());
        assert_eq!(event["url"], format!("http://{}{path}", server.address));
        let object: serde_json::Value = serde_json::from_slice(&shared.objects[&path]).unwrap();
        assert_eq!(event["summary"]["url"], object["request"]["url"]);
        assert_eq!(event["bytes"], shared.objects[&path].len());
    }
}

#[test]
fn trouble_is_told_apart() {
    let said = |answer: &'static str| {
        let server = Server::start(Mood::Answers(answer));
        let store = store(&server.address);
        let client = client::connect(&store, sender::TIMEOUT).unwrap();
        put(&client, &store)
    };
    let xml = "403 Forbidden\r\nContent-Length: 89\r\n\r\n<Error><Code>SignatureDoesNotMatch</Code><Message>Check your key</Message></Error>       ";
    assert_eq!(said(xml), (client::Trouble::Refused, "403 Forbidden: SignatureDoesNotMatch, Check your key".into()));
    assert_eq!(said("404 Not Found\r\nContent-Length: 0").0, client::Trouble::NoBucket);
    assert_eq!(said("503 Slow Down\r\nContent-Length: 0").0, client::Trouble::Busy);
    let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let store = store(&unused);
    let (trouble, said) = put(&client::connect(&store, sender::TIMEOUT).unwrap(), &store);
    assert_eq!((trouble, said.contains("refused")), (client::Trouble::Unreachable, true), "{said}");
}

fn put(client: &object_store::aws::AmazonS3, store: &S3Store) -> (client::Trouble, String) {
    use object_store::{ObjectStore, PutOptions};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let path = object_store::path::Path::from("a");
    let result = runtime.block_on(client.put_opts(&path, "x".into(), PutOptions::default()));
    client::Trouble::of(&result.expect_err("an error"), store)
}
