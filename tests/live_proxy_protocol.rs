//! The PROXY protocol between two HAProxys, both watched: what its header is in front of is recorded as without one.

mod support;

use std::fmt::Write as _;

use support::backend::Backend;
use support::captured::Transaction;
use support::client::{Client, Request};
use support::haproxy::{self, Haproxy};
use support::payload::{assert_same, bytes};
use support::sidetap::{CapturePath, Sidetap, tap};
use support::tls::{Authority, Key, NAME};
use support::{free_ports, on_each_path};

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

fn what_is_behind_its_header_is_recorded(path: CapturePath) {
    const SIZES: [usize; 3] = [0, 3000, 200_000];
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
                "frontend front-{number}\n    bind 127.0.0.1:{front}\n    @log@\n    default_backend servers-{number}\n\
                 backend servers-{number}\n    server one 127.0.0.1:{middle} {header} {server}\n"
            )
            .expect("a string takes everything");
            write!(
                second,
                "frontend front-{number}\n    bind 127.0.0.1:{middle} accept-proxy {bind}\n    @log@\n    \
                 default_backend servers\n"
            )
            .expect("a string takes everything");
            ways.push((front, middle, protocol, is_tls));
        }
    }
    write!(second, "backend servers\n    server one 127.0.0.1:{}\n", backend.port()).expect("as above");
    let (second, first) = (Haproxy::with(&second), Haproxy::with(&first));
    let mut sidetap = Sidetap::start(&tap(haproxy::EXE, "level: full"), path).containing("proxied-");
    let mut clients = Vec::new();
    for (number, (front, ..)) in ways.iter().enumerate() {
        let mut client = Client::tcp(*front);
        for size in SIZES {
            let request = Request::new("POST", "/mirror", &format!("proxied-{number}-{size}")).body(bytes(size));
            assert_same("what the client got", &client.ask(&request).body, &bytes(size));
        }
        // The header was for the client: another one's connection to the server has another.
        Client::tcp(*front).get("/bytes/10", &format!("proxied-{number}-again"));
        clients.push(client);
    }
    sidetap.wait_for(ways.len() * (SIZES.len() + 1) * 4);
    let captured = sidetap.stop();
    for (number, (_, middle, protocol, is_tls)) in ways.into_iter().enumerate() {
        let mut ids: Vec<(String, Vec<u8>)> =
            SIZES.iter().map(|size| (format!("proxied-{number}-{size}"), bytes(*size))).collect();
        ids.push((format!("proxied-{number}-again"), bytes(10)));
        for (id, body) in ids {
            let all = captured.of(&id);
            for transaction in &all {
                let what = format!("{:#}", transaction.0);
                assert_eq!((transaction.status(), transaction.incomplete()), (200, vec![]), "{what}");
                assert_same(&what, &transaction.body("response").unwrap_or_default(), &body);
            }
            assert_eq!(all.len(), 4, "{id}: both sides of both");
            let logged = first.logged_as(&id);
            let between = |pid: u32, is_ingress: bool| {
                let of_it = |found: &&&Transaction| found.pid() == pid.to_string() && found.is_ingress() == is_ingress;
                let found = all.iter().find(of_it).unwrap_or_else(|| panic!("{id}: none of {pid}"));
                assert_eq!(found.0["request"]["protocol"], protocol, "{:#}", found.0);
                assert_eq!(found.0.get("tls").is_some(), is_tls, "{:#}", found.0);
                assert_eq!(found.source(), logged.own, "{:#}", found.0);
                assert_eq!(found.destination().map(|peer| peer.port()), Some(middle), "{:#}", found.0);
            };
            between(first.pid(), false);
            between(second.pid(), true);
            // There was a header, and it said who the client was.
            assert_eq!(second.logged_as(&id).client, logged.client, "{id}");
        }
    }
}
