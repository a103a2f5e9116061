//! HAProxy with a frontend and a backend for each form of TLS, the load on them, and what must have been recorded of it.
//!
//! The oracles are nginx's log, HAProxy's log, and what both say of a connection's TLS in headers that only they can
//! have written.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::SocketAddr;

use super::captured::Transaction;
use super::h2load::Load;
use super::haproxy::{Haproxy, Root};
use super::nginx::{Accessed, Nginx};
use super::sides::{Recorded, assert_all, is_as_logged, recorded_each};
use super::sidetap::{CapturePath, Sidetap, tap};
use super::tls::{Authority, FORMS, FRONT_HEADER, FRONT_WORDS, NAME, SERVER_HEADER, Words};
use super::{data, free_ports};

/// With `SIDETAP_LONG` set, 100,000 requests; else as many as tell the same in a few seconds.
fn requests(root: &Root) -> usize {
    match std::env::var_os("SIDETAP_LONG") {
        Some(_) => 100_000,
        // HAProxy 2.2 shakes hands with the server for nearly every request.
        None if root.is_other_release() => 900,
        None => 3_600,
    }
}

/// One frontend and one backend for each form of TLS, all in one HAProxy.
pub struct Scene {
    nginx: Nginx,
    pub haproxy: Haproxy,
    pub fronts: Vec<u16>,
    requests: usize,
    in_front: bool,
    behind: bool,
    _authority: Authority,
}

impl Scene {
    pub fn start(root: &Root, in_front: bool, behind: bool, options: &str) -> Scene {
        let authority = Authority::new();
        let nginx = if behind { Nginx::tls(&authority) } else { Nginx::start(false, &[]) };
        let fronts = free_ports::<{ FORMS.len() }>().to_vec();
        // HAProxy 2.2 knows no path but that of the origin.
        let log = data("frontend.cfg").replace("%[capture.req.hdr(0)]", "%ID").replace("%HPO", "%HP");
        let mut proxies = options.to_owned();
        for (number, (form, front)) in FORMS.iter().zip(&fronts).enumerate() {
            let alpn = if form.only_http1 { "http/1.1" } else { "h2,http/1.1" };
            let (bind, words) = match in_front {
                true => (
                    format!(" ssl crt {} {} alpn {alpn}", authority.pem(form.key).display(), form.options),
                    FRONT_WORDS,
                ),
                false => (String::new(), ""),
            };
            let to_server = match behind {
                true => format!(" ssl verify none sni str({NAME}) {} alpn {alpn}", form.options),
                false => String::new(),
            };
            write!(
                proxies,
                "frontend front-{number}\n    bind 127.0.0.1:{front}{bind}\n    unique-id-format %pid-%rt\n    \
                 unique-id-header X-Request-Id\n{log}{words}    http-response set-header X-Request-Id %[unique-id]\n    \
                 default_backend servers-{number}\nbackend servers-{number}\n    server one 127.0.0.1:{}{to_server}\n",
                nginx.port()
            )
            .expect("a string takes everything");
        }
        let (haproxy, requests) = (Haproxy::of(root, &proxies), requests(root));
        Scene { nginx, haproxy, fronts, requests, in_front, behind, _authority: authority }
    }

    /// A part of the load for each form, in both protocols where both may be.
    fn load(&self) -> usize {
        let mut made = 0;
        let mut run = |port, streams, options: &[&str]| {
            let load = Load { connections: 4, streams, requests: self.requests / 2 / FORMS.len() };
            match self.in_front {
                true => load.run_tls(port, options),
                false => load.run(port, options),
            }
            made += load.requests;
        };
        for (form, port) in FORMS.iter().zip(&self.fronts) {
            run(*port, 1, &["--h1"]);
            if self.in_front && !form.only_http1 {
                run(*port, 10, &[]);
            }
        }
        made
    }
}

/// What is wrong with one side of a request. `words`: the header that says what TLS was there; none where none was.
fn wrong(
    transactions: &[Transaction],
    logged: &Accessed,
    client: Option<SocketAddr>,
    words: Option<&str>,
) -> Option<String> {
    let [transaction] = transactions else { return Some(format!("recorded {} times", transactions.len())) };
    let problem = match words {
        None => transaction.0.get("tls").map(|tls| format!("tls {tls} where there is none")),
        Some(header) => match Words::read(transaction, header) {
            None => Some(format!("no {header}")),
            Some(words) => words.wrong(transaction),
        },
    };
    let is_right =
        problem.is_none() && is_as_logged(transaction, logged) && (client.is_none() || transaction.source() == client);
    (!is_right).then(|| format!("{} from {client:?}: {:#}", problem.unwrap_or_default(), transaction.0))
}

/// Each request that nginx has logged is there once on each side, and nothing else is.
pub fn check(mut recorded: Recorded, scene: &Scene, made: usize) -> HashMap<String, Words> {
    let served = scene.nginx.wait_log(made);
    assert_eq!(served.len(), made, "nginx has logged each once");
    // HAProxy drops a line now and then when its threads want to log at the same time.
    let clients: HashMap<String, Option<SocketAddr>> =
        scene.haproxy.log().into_iter().map(|line| (line.id, line.client)).collect();
    assert!(clients.len() >= made * 99 / 100, "haproxy logged {} of {made}", clients.len());
    let (mut problems, mut spoken) = (Vec::new(), HashMap::new());
    for line in &served {
        let sides = recorded.remove(&line.id).unwrap_or_default();
        let client = clients.get(&line.id).copied().flatten();
        for (name, transactions, address, words) in [
            ("ingress", &sides.ingress, client, scene.in_front.then_some(FRONT_HEADER)),
            ("egress", &sides.egress, line.client, scene.behind.then_some(SERVER_HEADER)),
        ] {
            let problem = wrong(transactions, line, address, words);
            problems.extend(problem.map(|problem| format!("{name} of {line:?}: {problem}")));
            for transaction in transactions {
                let words = words.and_then(|header| Words::read(transaction, header));
                spoken.extend(words.map(|words| (format!("{name} {}", line.id), words)));
            }
        }
    }
    assert_all(&served, &problems, &recorded);
    spoken
}

/// Versions and ciphers must have been those that the forms ask for, or nothing was shown of them.
fn assert_each_form(spoken: &HashMap<String, Words>, side: &str) {
    for form in FORMS {
        let is_one = |words: &Words| words.version == form.version && words.cipher == form.cipher;
        let count = spoken.iter().filter(|(key, words)| key.starts_with(side) && is_one(words)).count();
        println!("{side} {} {}: {count} requests", form.version, form.cipher);
        assert!(count > 0, "no request on {side} by {form:?}");
    }
}

/// That HAProxy, watched under the load; `look` is shown each transaction.
pub fn all_forms(
    root: &Root,
    path: CapturePath,
    (in_front, behind): (bool, bool),
    options: &str,
    look: impl FnMut(&Transaction),
) {
    let scene = Scene::start(root, in_front, behind, options);
    let sidetap = Sidetap::start(&tap(&root.exe(), "level: full"), path);
    let made = scene.load();
    let spoken = check(recorded_each(sidetap, scene.haproxy.pid(), look), &scene, made);
    if in_front {
        assert_each_form(&spoken, "ingress");
    }
    if behind {
        assert_each_form(&spoken, "egress");
    }
}
