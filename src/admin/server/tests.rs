//! Over real sockets: what clients get, the well-behaved and the others.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};

use super::super::{Address, Server, State, client};
use super::*;

/// A listener at a port of its own, and where reloads are asked for.
struct Scene {
    address: SocketAddr,
    state: Arc<State>,
    reloads: Receiver<ReloadRequest>,
    _server: Server,
}

impl Scene {
    fn start() -> Scene {
        let (ask, reloads) = bounded(1);
        let state = State::new(ask);
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let server = Server::start(Address::Tcp(address), state.clone()).unwrap().expect("it is not none");
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < deadline, "it does not listen");
            thread::sleep(Duration::from_millis(1));
        }
        Scene { address, state, reloads, _server: server }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }

    /// Status, head and body of the answer to a request's head, given without its last empty line.
    fn ask(&self, head: &str) -> (u16, String, String) {
        let mut stream = self.connect();
        // It may answer before it has read everything, and close.
        let _ = stream.write_all(format!("{head}\r\nHost: a\r\n\r\n").as_bytes());
        answer_of(stream)
    }
}

fn answer_of(mut stream: TcpStream) -> (u16, String, String) {
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.get(9..12).and_then(|status| status.parse().ok()).unwrap_or(0);
    (status, head.to_owned(), body.to_owned())
}

#[test]
fn it_says_that_it_starts_and_that_it_stops() {
    let scene = Scene::start();
    assert_eq!(scene.ask("GET /healthz HTTP/1.1").0, 200);
    let (status, _, body) = scene.ask("GET /readyz HTTP/1.1");
    assert_eq!((status, body.as_str()), (503, "starting\n"));
    scene.state.stopping();
    let (status, _, body) = scene.ask("GET /readyz HTTP/1.0");
    assert_eq!((status, body.as_str()), (503, "stopping\n"));
}

#[test]
fn a_worker_that_panics_is_no_good_health() {
    let scene = Scene::start();
    let watch = scene.state.watch_worker();
    drop(scene.state.watch_worker());
    assert_eq!(scene.ask("GET /healthz HTTP/1.1").0, 200, "one that ends is well");
    let worker = thread::spawn(move || {
        let _watch = watch;
        // Without the hook that would write of it.
        std::panic::resume_unwind(Box::new("on purpose"));
    });
    assert!(worker.join().is_err());
    let (status, _, body) = scene.ask("GET /healthz HTTP/1.1");
    assert!(status == 503 && body.contains("worker"), "{status}: {body}");
}

#[test]
fn metrics_of_the_process_are_there_from_the_start() {
    let scene = Scene::start();
    let (status, head, body) = scene.ask("GET /metrics HTTP/1.1");
    assert_eq!(status, 200);
    assert!(head.contains("text/plain; version=0.0.4"), "{head}");
    assert!(body.contains("\nsidetap_ready 0\n") && body.contains("\nprocess_cpu_seconds_total "), "{body}");
    let (status, head, body) = scene.ask("HEAD /metrics HTTP/1.1");
    assert_eq!((status, body.as_str()), (200, ""), "{head}");
}

#[test]
fn other_paths_and_methods_are_refused() {
    let scene = Scene::start();
    for (head, expected) in [
        ("GET / HTTP/1.1", 404),
        ("GET /metrics/ HTTP/1.1", 404),
        ("POST /metrics HTTP/1.1", 405),
        ("GET /reload HTTP/1.1", 405),
        ("DELETE /reload HTTP/1.1", 405),
        ("POST /reload HTTP/1.1\r\nOrigin: http://evil.test", 403),
    ] {
        assert_eq!(scene.ask(head).0, expected, "{head}");
    }
    assert!(scene.reloads.is_empty());
}

#[test]
fn a_reload_is_passed_on_and_answered() {
    let scene = Scene::start();
    let reloads = scene.reloads.clone();
    let main = thread::spawn(move || {
        for answer in [Ok("reloaded a.yaml".to_owned()), Err("a.yaml:1:1: no".to_owned())] {
            let _ = reloads.recv().unwrap().answer.send(answer);
        }
        // As when the agent stops.
        drop(reloads.recv().unwrap());
    });
    let reload = || client::reload(&Address::Tcp(scene.address));
    assert_eq!(reload().unwrap(), Ok("reloaded a.yaml".to_owned()));
    assert_eq!(reload().unwrap(), Err("a.yaml:1:1: no".to_owned()));
    assert!(format!("{:#}", reload().unwrap_err()).contains("stopping"));
    main.join().unwrap();
    let nobody = Address::Unix("/nonexistent/sidetap.sock".into());
    assert!(format!("{:#}", client::reload(&nobody).unwrap_err()).contains("is it running"));
}

#[test]
fn heads_that_are_too_large_are_refused() {
    let scene = Scene::start();
    let large = format!("GET /healthz HTTP/1.1\r\nX: {}", "x".repeat(4 * MAX_HEAD));
    let many = format!("GET /healthz HTTP/1.1{}", "\r\nX: y".repeat(MAX_FIELDS + 1));
    for head in [large, many, "GET /healthz".to_owned(), "\u{0}\u{1}".to_owned()] {
        let (status, _, _) = scene.ask(&head);
        // Where more was on the way than it read, the reset may overtake the answer.
        assert!(matches!(status, 0 | 400..=431), "{status}: {}", head.get(..40).unwrap_or(&head));
    }
    assert_eq!(scene.ask("GET /healthz HTTP/1.1").0, 200);
}

#[test]
fn those_who_say_nothing_are_sent_away_and_the_next_one_is_served() {
    let scene = Scene::start();
    let idle: Vec<TcpStream> = (0..MAX_CONNECTIONS).map(|_| scene.connect()).collect();
    for mut stream in &idle {
        stream.write_all(b"GET /healthz HTTP/1.1\r\nX: ").unwrap();
    }
    // Waits behind them, until their time is over.
    assert_eq!(scene.ask("GET /healthz HTTP/1.1").0, 200);
    // One that has asked and closed its side still gets its answer.
    let mut half = scene.connect();
    half.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    half.shutdown(Shutdown::Write).unwrap();
    assert_eq!(answer_of(half).0, 200);
}

#[test]
fn an_address_that_is_taken_is_had_once_it_is_free() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let (ask, _reloads) = bounded(1);
    let _server = Server::start(Address::Tcp(address), State::new(ask)).unwrap();
    drop(taken);
    let deadline = Instant::now() + Duration::from_secs(60);
    while TcpStream::connect(address).is_err() {
        assert!(Instant::now() < deadline, "it does not listen");
        thread::sleep(Duration::from_millis(10));
    }
}
