//! Joining midway: connections that are older than the agent, or that it did not watch from the first byte on.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;

use support::backend::Backend;
use support::captured::Captured;
use support::client::{Client, Request};
use support::haproxy::{self, Haproxy};
use support::payload::{assert_same, bytes};
use support::scene::proxies;
use support::sidetap::{CapturePath, Sidetap, tap};
use support::{free_port, on_each_path};

on_each_path!(
    connections_from_before_the_start_are_recorded,
    a_restarted_agent_goes_on,
    connections_of_a_process_that_was_left_out_are_recorded_from_then_on,
    connections_of_a_process_that_is_left_out_are_not_recorded_from_then_on,
    a_socket_that_connects_again_is_another_connection,
    a_request_half_sent_at_the_start_does_not_spoil_the_next,
    a_response_half_sent_at_the_start_does_not_spoil_the_next,
);

/// HAProxy with connections open on both sides.
struct Running {
    clients: Vec<Client>,
    haproxy: Haproxy,
    backend: Backend,
    front: u16,
}

impl Running {
    fn start(connections: usize) -> Running {
        let (backend, front) = (Backend::start(), free_port());
        // Each client keeps its own connection to the server, so the servers' side is as old as the clients'.
        let haproxy = Haproxy::with(&proxies(front, backend.port(), "    http-reuse never\n"));
        let mut running = Running { clients: Vec::new(), haproxy, backend, front };
        running.connect(connections);
        running
    }

    /// Opens so many connections, on each of which there is something before the test looks.
    fn connect(&mut self, connections: usize) {
        for number in 0..connections {
            let mut client = Client::tcp(self.front);
            client.get("/bytes/100", &format!("before-{number}"));
            client.ask(&Request::new("POST", "/echo", &format!("before-post-{number}")).body(bytes(10)));
            self.clients.push(client);
        }
    }

    /// Each connection asks three times.
    fn ask(&mut self, round: &str) {
        for (number, client) in self.clients.iter_mut().enumerate() {
            client.get("/bytes/3000", &format!("{round}-{number}-a"));
            client.ask(&Request::new("POST", "/mirror", &format!("{round}-{number}-b")).chunked(bytes(2000), 300));
            client.get("/chunked/5000", &format!("{round}-{number}-c"));
        }
    }

    /// All of a round, with the directions and peers that HAProxy logged and the bodies that were sent.
    fn check(&mut self, round: &str, captured: &Captured) {
        for (number, client) in self.clients.iter_mut().enumerate() {
            for (part, size) in [("a", 3000), ("b", 2000), ("c", 5000)] {
                let id = format!("{round}-{number}-{part}");
                let logged = self.haproxy.logged_as(&id);
                let (ingress, egress) = (captured.ingress(&id), captured.egress(&id));
                assert_eq!(ingress.source(), Some(client.local()), "{id}");
                assert_eq!(ingress.destination().map(|address| address.port()), Some(self.front), "{id}");
                assert_eq!((egress.source(), egress.destination()), (logged.own, logged.server), "{id}");
                assert_eq!(egress.direction(), "egress-internal", "{id}");
                for transaction in [ingress, egress] {
                    let what = format!("{id} {}", transaction.direction());
                    assert_eq!(transaction.incomplete(), Vec::<&str>::new(), "{what}");
                    assert_same(&what, &transaction.body("response").unwrap_or_default(), &bytes(size));
                }
            }
        }
        let expected = self.clients.len() * 3 * 2;
        let of_round = captured.transactions.iter().filter(|t| t.id().starts_with(round)).count();
        assert_eq!(of_round, expected, "{round}: nothing is recorded twice");
        assert_eq!(captured.transactions.len(), expected, "{round}: and nothing else");
    }
}

fn agent(path: CapturePath, running: &Running) -> Sidetap {
    Sidetap::start(&tap(haproxy::EXE, "level: full"), path).of(running.haproxy.pid())
}

fn connections_from_before_the_start_are_recorded(path: CapturePath) {
    let mut running = Running::start(20);
    let connections = |backend: &Backend| backend.served().iter().map(|served| served.connection).max();
    let before = connections(&running.backend);
    let mut sidetap = agent(path, &running);
    running.ask("after");
    assert_eq!(connections(&running.backend), before, "no new connection was needed");
    sidetap.wait_for(20 * 3 * 2);
    running.check("after", &sidetap.stop());
}

fn a_restarted_agent_goes_on(path: CapturePath) {
    let mut running = Running::start(5);
    for round in ["first", "second"] {
        let mut sidetap = agent(path, &running);
        running.ask(round);
        sidetap.wait_for(5 * 3 * 2);
        running.check(round, &sidetap.stop());
        // Requests that no agent sees, so that the positions move on in between.
        running.clients[0].get("/bytes/70000", "unseen");
    }
}

/// What went by unwatched is no loss, and leaves no mark on what follows.
fn connections_of_a_process_that_was_left_out_are_recorded_from_then_on(path: CapturePath) {
    let mut running = Running::start(0);
    let mut sidetap = Sidetap::start(&tap("/nobody", "level: full"), path).of(running.haproxy.pid());
    running.connect(5);
    fs::write(sidetap.config_file(), tap(haproxy::EXE, "level: full")).expect("the folder is ours");
    sidetap.program().signal("HUP");
    sidetap.wait_log("reloaded");
    running.ask("after");
    sidetap.wait_for(5 * 3 * 2);
    let captured = sidetap.stop();
    running.check("after", &captured);
    let lossy: Vec<_> = captured.connections.iter().filter(|event| event.get("bytes_lost").is_some()).collect();
    assert!(lossy.is_empty(), "{lossy:#?}");
    assert!(!captured.connections.is_empty());
}

/// What was found out of a connection at its earlier calls holds only until filters change.
fn connections_of_a_process_that_is_left_out_are_not_recorded_from_then_on(path: CapturePath) {
    let mut running = Running::start(5);
    let mut sidetap = agent(path, &running);
    running.ask("watched");
    sidetap.wait_for(5 * 3 * 2);
    let mut reloads = 0;
    for (exe, round) in [("/nobody", "unseen"), (haproxy::EXE, "again")] {
        fs::write(sidetap.config_file(), tap(exe, "level: full")).expect("the folder is ours");
        sidetap.program().signal("HUP");
        reloads += 1;
        sidetap.wait_log_times("reloaded", reloads);
        running.ask(round);
    }
    sidetap.wait_for(2 * 5 * 3 * 2);
    let captured = sidetap.stop();
    for round in ["watched", "again"] {
        for (number, part) in (0..5).flat_map(|number| ["a", "b", "c"].map(|part| (number, part))) {
            let id = format!("{round}-{number}-{part}");
            for transaction in [captured.ingress(&id), captured.egress(&id)] {
                assert_eq!(transaction.status(), 200, "{id}");
                // What went by while nobody was to look counts as lost on a connection that is looked at again.
                assert!(
                    round == "again" || transaction.incomplete().is_empty(),
                    "{id}: {:?}",
                    transaction.incomplete()
                );
            }
        }
    }
    assert_eq!(captured.transactions.len(), 2 * 5 * 3 * 2, "and nothing else");
}

/// Asks as a process that dissolves its connection and takes the same socket for the next one.
fn a_socket_that_connects_again_is_another_connection(path: CapturePath) {
    let (first, second) = (Backend::start(), Backend::start());
    let exe = std::env::current_exe().expect("the test has a path").display().to_string();
    let mut sidetap = Sidetap::start(&tap(&exe, "level: full"), path).of(std::process::id());
    let mut socket = TcpStream::connect(("127.0.0.1", first.port())).expect("it listens");
    for (number, port) in [first.port(), second.port(), first.port()].into_iter().enumerate() {
        if number > 0 {
            connect_again(&socket, port);
        }
        for part in ["a", "b"] {
            let request = Request::new("GET", "/bytes/100", &format!("again-{number}-{part}")).bytes();
            socket.write_all(&request).expect("it is connected");
            let mut answer = Vec::new();
            while !answer.ends_with(&bytes(100)) {
                let mut some = [0; 1000];
                let read = socket.read(&mut some).expect("it answers");
                assert!(read > 0, "{}", String::from_utf8_lossy(&answer));
                answer.extend(&some[..read]);
            }
        }
    }
    sidetap.wait_for(2 * 6);
    let captured = sidetap.stop();
    let mut connections = Vec::new();
    for (number, port) in [first.port(), second.port(), first.port()].into_iter().enumerate() {
        let of_both = ["a", "b"].map(|part| captured.egress(&format!("again-{number}-{part}")));
        for transaction in of_both {
            assert_eq!(transaction.destination().map(|address| address.port()), Some(port), "{number}");
            assert_eq!(transaction.incomplete(), Vec::<&str>::new(), "{number}");
        }
        assert_eq!(of_both[0].connection(), of_both[1].connection(), "{number}");
        connections.push(of_both[0].connection());
    }
    connections.sort();
    connections.dedup();
    assert_eq!(connections.len(), 3, "{connections:?}");
}

/// As connect(2) has it: with AF_UNSPEC the connection is dissolved.
fn connect_again(socket: &TcpStream, port: u16) {
    let mut address = libc::sockaddr_in {
        sin_family: libc::AF_UNSPEC as u16,
        sin_port: port.to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes([127, 0, 0, 1]) },
        sin_zero: [0; 8],
    };
    for family in [libc::AF_UNSPEC, libc::AF_INET] {
        address.sin_family = family as u16;
        // SAFETY: a whole address, alive for the call.
        let result = unsafe {
            libc::connect(socket.as_raw_fd(), (&raw const address).cast(), size_of_val(&address) as libc::socklen_t)
        };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    }
}

fn a_request_half_sent_at_the_start_does_not_spoil_the_next(path: CapturePath) {
    let mut running = Running::start(1);
    let upload = Request::new("POST", "/echo", "half").body(bytes(200_000)).bytes();
    let (first, second) = upload.split_at(upload.len() / 2);
    running.clients[0].send(first);
    let mut sidetap = agent(path, &running);
    running.clients[0].send(second);
    let answer = running.clients[0].response("POST");
    assert!(answer.body.starts_with(b"200000 "));
    running.ask("after");
    for part in ["a", "b", "c"] {
        sidetap.wait_for_pair(&format!("after-0-{part}"));
    }
    let captured = sidetap.stop();
    assert!(captured.of("half").is_empty(), "its head was never seen");
    for part in ["a", "b", "c"] {
        let id = format!("after-0-{part}");
        let statuses = [captured.ingress(&id), captured.egress(&id)].map(|t| (t.status(), t.incomplete().len()));
        assert_eq!(statuses, [(200, 0), (200, 0)], "{id}");
    }
}

fn a_response_half_sent_at_the_start_does_not_spoil_the_next(path: CapturePath) {
    let mut running = Running::start(1);
    // The client does not read, so most of the answer is still on its way when the agent starts.
    running.clients[0].send(&Request::new("GET", "/bytes/30000000", "half").bytes());
    running.backend.served_as("half");
    let mut sidetap = agent(path, &running);
    assert_same("the long answer", &running.clients[0].response("GET").body, &bytes(30_000_000));
    running.ask("after");
    for part in ["a", "b", "c"] {
        sidetap.wait_for_pair(&format!("after-0-{part}"));
    }
    let captured = sidetap.stop();
    assert!(captured.of("half").is_empty(), "its request was never seen");
    for part in ["a", "b", "c"] {
        let id = format!("after-0-{part}");
        let statuses = [captured.ingress(&id), captured.egress(&id)].map(|t| (t.status(), t.incomplete().len()));
        assert_eq!(statuses, [(200, 0), (200, 0)], "{id}");
    }
}
