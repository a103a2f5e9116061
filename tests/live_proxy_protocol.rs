//! The PROXY protocol between two HAProxys, both watched: what its header is in front of is recorded as without one.

mod support;

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use support::backend::Backend;
use support::captured::Transaction;
use support::client::{Client, Request, Response};
use support::haproxy::{self, Haproxy};
use support::payload::{assert_same, bytes};
use support::sidetap::{CapturePath, Sidetap, tap};
use support::tls::{Authority, Key, NAME};
use support::{Scratch, free_ports, on_each_path};

on_each_path!(what_is_behind_its_header_is_recorded);

/// Version 1, version 2, and that with more than addresses.
const HEADERS: [&str; 3] = ["send-proxy", "send-proxy-v2", "send-proxy-v2-ssl-cn"];

/// What follows on it: options of the server, of the line that listens, the protocol, and whether it is within TLS.
const LINKS: [(&str, &str, &str, bool); 4] = [
    ("", "", "http1", false),
    ("proto h2", "proto h2", "http2", false),
    ("ssl verify none", "ssl crt @pem@", "http1", true),
    ("ssl verify none sni str(@name@) alpn h2", "ssl crt @pem@ alpn h2", "http2", true),
];

/// An agent that is built for debugging takes long for all those bodies on a machine with other work.
const PATIENCE: Duration = Duration::from_secs(60);

/// Lines of the first and of the second, by which their responses say whose connections they were.
const FIRST: &str = "    http-response set-header X-First %[src]:%[src_port]|%[bc_src]:%[bc_src_port]\n";
const SECOND: &str = "    http-response set-header X-Second %[src]:%[src_port]\n";

/// A request, as both have told of it in its response.
struct Asked {
    id: String,
    body: Vec<u8>,
    /// The first one's end of the connection to the second.
    own: SocketAddr,
}

impl Asked {
    fn new(client: &mut Client, request: &Request, id: &str, body: Vec<u8>) -> Asked {
        let response: Response = client.ask(request);
        assert_same("what the client got", &response.body, &body);
        let word = |header: &str| response.head.header(header).unwrap_or_else(|| panic!("{id}: no {header}"));
        let (from, own) = word("x-first").split_once('|').expect("the line has one");
        let address = |text: &str| text.parse::<SocketAddr>().unwrap_or_else(|_| panic!("{id}: {text:?}"));
        assert_eq!(address(from), client.local(), "{id}");
        // There was a header, and it said who the client was.
        assert_eq!(word("x-second"), from, "{id}");
        Asked { id: id.to_owned(), body, own: address(own) }
    }
}

fn what_is_behind_its_header_is_recorded(path: CapturePath) {
    const SIZES: [usize; 3] = [0, 3000, 40_000];
    let (authority, backend) = (Authority::new(), Backend::start());
    let pem = authority.pem(Key::Ecdsa).display().to_string();
    let (mut first, mut second, mut ways) = (String::new(), String::new(), Vec::new());
    let mut ports = free_ports::<{ HEADERS.len() * LINKS.len() * 2 }>().into_iter();
    let mut port = || ports.next().expect("there is one for each end of each link");
    for header in HEADERS {
        for (server, bind, protocol, is_tls) in LINKS {
            let (number, front, middle) = (ways.len(), port(), port());
            let (server, bind) = (server.replace("@name@", NAME), bind.replace("@pem@", &pem));
            write!(
                first,
                "frontend front-{number}\n    bind 127.0.0.1:{front}\n{FIRST}    default_backend servers-{number}\n\
                 backend servers-{number}\n    server one 127.0.0.1:{middle} {header} {server}\n"
            )
            .expect("a string takes everything");
            write!(
                second,
                "frontend front-{number}\n    bind 127.0.0.1:{middle} accept-proxy {bind}\n{SECOND}    \
                 default_backend servers\n"
            )
            .expect("a string takes everything");
            ways.push((front, middle, protocol, is_tls));
        }
    }
    write!(second, "backend servers\n    server one 127.0.0.1:{}\n", backend.port()).expect("as above");
    // Other HAProxys of this machine have nothing to do with it.
    let program = Scratch::new("program");
    let exe = program.path().join("haproxy");
    fs::copy(haproxy::EXE, &exe).expect("HAProxy is installed");
    let (second, first) = (Haproxy::with_exe(&exe, &second), Haproxy::with_exe(&exe, &first));
    let mut sidetap = Sidetap::start(&tap(&exe.display().to_string(), "level: full"), path);
    let mut asked = Vec::new();
    for (number, (front, ..)) in ways.iter().enumerate() {
        let mut client = Client::tcp(*front);
        for size in SIZES {
            let (id, body) = (format!("proxied-{number}-{size}"), bytes(size));
            let request = Request::new("POST", "/mirror", &id).body(body.clone());
            asked.push((number, Asked::new(&mut client, &request, &id, body)));
        }
        // The header was for that client: another one's connection to the server has another.
        let id = format!("proxied-{number}-again");
        let request = Request::new("GET", "/bytes/10", &id);
        asked.push((number, Asked::new(&mut Client::tcp(*front), &request, &id, bytes(10))));
    }
    let count = asked.len() * 4;
    sidetap.wait_within(PATIENCE, &format!("{count} records"), |output| output.transactions.len() >= count);
    let captured = sidetap.stop();
    for (number, Asked { id, body, own }) in asked {
        let (_, middle, protocol, is_tls) = ways[number];
        let all = captured.of(&id);
        for transaction in &all {
            let what = format!("{:#}", transaction.0);
            assert_eq!((transaction.status(), transaction.incomplete()), (200, vec![]), "{what}");
            assert_same(&what, &transaction.body("response").unwrap_or_default(), &body);
        }
        assert_eq!(all.len(), 4, "{id}: both sides of both");
        let between = |pid: u32, is_ingress: bool| {
            let of_it = |found: &&&Transaction| found.pid() == pid.to_string() && found.is_ingress() == is_ingress;
            let found = all.iter().find(of_it).unwrap_or_else(|| panic!("{id}: none of {pid}"));
            assert_eq!(found.0["request"]["protocol"], protocol, "{:#}", found.0);
            assert_eq!(found.0.get("tls").is_some(), is_tls, "{:#}", found.0);
            assert_eq!(found.source(), Some(own), "{:#}", found.0);
            assert_eq!(found.destination().map(|peer| peer.port()), Some(middle), "{:#}", found.0);
        };
        between(first.pid(), false);
        between(second.pid(), true);
    }
}
