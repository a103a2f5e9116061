//! Names in containers: of the containers themselves and of what they connect to, wherever the name is from; with the
//! runtime gone for a while, with addresses used twice, with containers left out.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use support::backend::Backend;
use support::captured::{Captured, Transaction};
use support::client::{Client, Request};
use support::docker::{Container, Engine, Project};
use support::netns::Pair;
use support::relay::Relay;
use support::sidetap::{CapturePath, Sidetap, tap};
use support::{LIMIT, Scratch, data, free_port, until};

/// HAProxy's executable in its image.
const EXE: &str = "/usr/local/sbin/haproxy";
const BY_DNS: Container = Container("sidetap-by-dns");
const BY_HOSTS: Container = Container("sidetap-by-hosts");
const BY_ADDRESS: Container = Container("sidetap-by-address");
/// The machine as seen from the proxies' network, and the service's address there: those of the compose file.
const GATEWAY: &str = "10.213.7.1";
const SERVICE: &str = "10.213.7.10";
/// Within which a new container is to be known.
const KNOWN: Duration = Duration::from_secs(1);

/// The proxies, and the server on the machine that some of them lead to.
struct Proxies<'a> {
    project: Project<'a>,
    machine: Backend,
    by_dns: u16,
    by_hosts: u16,
    by_address: u16,
}

impl<'a> Proxies<'a> {
    fn new(engine: &'a Engine) -> Proxies<'a> {
        let files = [
            ("docker-compose.yaml", data("containers/proxies.yaml")),
            ("haproxy.cfg", data("containers/one-server.cfg")),
            ("backend-service.py", data("guide/backend-service.py")),
        ];
        let mut project = Project::new(engine, "proxies", &files.each_ref().map(|(name, text)| (*name, text.as_str())));
        let machine = Backend::start_at("0.0.0.0");
        let (by_dns, by_hosts, by_address) = (free_port(), free_port(), free_port());
        project.set("BACKEND_PORT", machine.port());
        project.set("BY_DNS_PORT", by_dns);
        project.set("BY_HOSTS_PORT", by_hosts);
        project.set("BY_ADDRESS_PORT", by_address);
        Proxies { project, machine, by_dns, by_hosts, by_address }
    }

    /// Starts these and waits until each has answered.
    fn up(&self, services: &[&str]) {
        self.project.up(services);
        for service in services {
            let port = match *service {
                "by-dns" => self.by_dns,
                "by-hosts" => self.by_hosts,
                "by-address" => self.by_address,
                _ => continue,
            };
            let answer = until(LIMIT, || try_get(port, "/ready", "ready").filter(|status| *status == 200));
            assert!(answer.is_some(), "{service} does not answer");
        }
    }
}

/// One request on a connection of its own; none where there is no response. The port of a container can be connected to
/// before anything listens in it.
fn try_get(port: u16, path: &str, id: &str) -> Option<u16> {
    let mut client = Client::tcp(port);
    client.try_send(&Request::new("GET", path, id).bytes()).ok()?;
    client.try_response("GET").ok().map(|response| response.status)
}

fn get(port: u16, path: &str, id: &str) {
    assert_eq!(Client::tcp(port).get(path, id).status, 200, "{id}");
}

fn metadata<'t>(transaction: &'t Transaction, key: &str) -> &'t str {
    transaction.0["metadata"][key].as_str().unwrap_or_default()
}

/// Both sides of a request are the container's, by every name it has.
fn check_container(captured: &Captured, id: &str, container: &Identity) {
    for transaction in [captured.ingress(id), captured.egress(id)] {
        assert_eq!(transaction.pid(), container.worker.to_string(), "{id}");
        assert_eq!(transaction.exe(), EXE, "{id}");
        assert_eq!(metadata(transaction, "container_id"), container.id, "{id}");
        assert_eq!(metadata(transaction, "container_name"), container.name, "{id}");
        assert_eq!(metadata(transaction, "container_image"), "haproxy:2.9-alpine", "{id}");
    }
}

/// What the engine says of a proxy.
struct Identity {
    name: &'static str,
    id: String,
    worker: u32,
}

impl Identity {
    fn of(container: Container) -> Identity {
        Identity { name: container.0, id: container.id(), worker: container.worker() }
    }
}

fn with_proxies(body: fn(Proxies)) {
    if let Some(engine) = Engine::or_skip() {
        body(Proxies::new(&engine));
    }
}

#[test]
fn a_server_goes_by_the_name_that_its_proxy_has_for_it() {
    with_proxies(|proxies| {
        let mut early = Sidetap::start(&tap(EXE, "level: full, format: json"), CapturePath::best());
        proxies.up(&["by-dns", "by-hosts", "by-address"]);
        let mut late = Sidetap::start(&tap(EXE, "level: full, format: json"), CapturePath::best());
        for (id, port) in [("dns", proxies.by_dns), ("hosts", proxies.by_hosts), ("address", proxies.by_address)] {
            get(port, "/bytes/10", id);
        }
        let port = proxies.machine.port();
        for (which, sidetap) in [("early", &mut early), ("late", &mut late)] {
            println!("the agent started {which}");
            ["dns", "hosts", "address"].iter().for_each(|id| sidetap.wait_for_pair(id));
        }
        for captured in [early.stop(), late.stop()] {
            let url = |id: &str| captured.egress(id).url().to_owned();
            assert_eq!(url("dns"), "http://sidetap-backend:8001/bytes/10");
            assert_eq!(url("hosts"), format!("http://shop.example:{port}/bytes/10"));
            assert_eq!(url("address"), format!("http://{GATEWAY}:{port}/bytes/10"));
            check_container(&captured, "dns", &Identity::of(BY_DNS));
            check_container(&captured, "hosts", &Identity::of(BY_HOSTS));
            check_container(&captured, "address", &Identity::of(BY_ADDRESS));
        }
    });
}

#[test]
fn rules_tell_the_container_that_was_asked() {
    with_proxies(|proxies| {
        let rule = "{name: to-service, expr: 'dst.container.name == \"sidetap-backend\" && \
                    dst.container.image matches /python/', level: headers}";
        let config = tap(EXE, &format!("level: none, format: json, rules: [{rule}]"));
        let mut sidetap = Sidetap::start(&config, CapturePath::best());
        proxies.up(&["by-dns", "by-address"]);
        // What is promised is a time.
        thread::sleep(KNOWN);
        // The server of that proxy is no container.
        get(proxies.by_address, "/bytes/10", "to-machine");
        get(proxies.by_dns, "/api", "to-service");
        let is_it = |t: &Transaction| t.id() == "to-service";
        sidetap.wait_until("what went to the service", |output| output.transactions.iter().any(is_it));
        let captured = sidetap.stop();
        assert_eq!(captured.egress("to-service").url(), "http://sidetap-backend:8001/api");
        let others: Vec<_> = captured.transactions.iter().filter(|t| !is_it(t) && !t.id().is_empty()).collect();
        assert!(others.iter().all(|t| t.id() == "ready"), "{others:#?}");
        assert_eq!(captured.transactions.iter().filter(|t| is_it(t)).count(), 1, "and not from the client");
    });
}

#[test]
fn without_a_runtime_a_name_is_learnt_from_the_answers_of_dns() {
    with_proxies(|proxies| {
        let arguments = ["--docker-socket", "/nonexistent/docker.sock"];
        let config = tap(EXE, "level: full, format: json");
        let mut sidetap = Sidetap::start_with(&config, CapturePath::best(), &arguments);
        proxies.up(&["by-dns"]);
        get(proxies.by_dns, "/api", "dns");
        sidetap.wait_for_pair("dns");
        let captured = sidetap.stop();
        assert_eq!(captured.egress("dns").url(), "http://sidetap-backend:8001/api");
        // The kernel knows the container; its name it cannot know.
        assert_eq!(metadata(captured.egress("dns"), "container_id"), BY_DNS.id());
        assert_eq!(captured.egress("dns").0["metadata"].get("container_name"), None);
    });
}

#[test]
fn the_same_address_on_another_network_is_somebody_else() {
    with_proxies(|proxies| {
        proxies.up(&["by-dns"]);
        // Two namespaces of no container, on a network with the same addresses.
        let other = Pair::new("10.213.7.20", SERVICE);
        let folder = Scratch::new("other");
        let script = folder.file("backend-service.py", &data("guide/backend-service.py"));
        let _server = other.serve(&script, 8001);
        let config = tap("/usr/bin/curl", "level: full, format: json")
            .replace("    only:", &format!("    only:\n      - exe: {EXE}\n        strategy: exact"));
        let mut sidetap = Sidetap::start(&config, CapturePath::best());
        get(proxies.by_dns, "/api", "container");
        let url = format!("http://{SERVICE}:8001/api");
        other.curl(&["-H", "X-Request-Id: other", &url]);
        other.set_hosts(&format!("{SERVICE} other.example\n"));
        let arguments = ["-H", "X-Request-Id: named", "-H", "Host: elsewhere.example:8001", &url];
        let _namespace = other.curl_and_stay(&arguments);
        sidetap.wait_for_pair("container");
        sidetap.wait_until("the requests of curl", |output| {
            ["other", "named"].iter().all(|id| output.transactions.iter().any(|t| t.id() == *id))
        });
        let captured = sidetap.stop();
        assert_eq!(captured.egress("container").url(), "http://sidetap-backend:8001/api");
        assert_eq!(captured.egress("other").url(), url);
        assert_eq!(captured.egress("named").url(), "http://other.example:8001/api");
        assert_eq!(captured.egress("other").0["metadata"].get("container_id"), None);
    });
}

#[test]
fn a_runtime_that_goes_away_costs_nothing_but_names() {
    with_proxies(|proxies| {
        let folder = Scratch::new("relay");
        let socket = folder.path().join("docker.sock");
        let relay = Relay::start(&socket);
        proxies.up(&["by-dns"]);
        let config = tap(EXE, "level: headers, format: json");
        let arguments = ["--docker-socket", &socket.display().to_string()];
        let mut sidetap = Sidetap::start_with(&config, CapturePath::best(), &arguments);
        let load = Load::start(proxies.by_dns);
        sidetap.wait_until("transactions with names", |output| output.transactions.iter().filter(named).count() > 20);

        drop(relay);
        proxies.up(&["by-address"]);
        get(proxies.by_address, "/bytes/10", "unnamed");
        load.wait_for_more(50);

        let relay = Relay::start(&socket);
        until(2 * LIMIT, || (relay.accepted() > 0).then_some(())).expect("the agent connects again");
        let mut asked = 0;
        let found = until(LIMIT, || {
            asked += 1;
            let id = format!("again-{asked}");
            get(proxies.by_address, "/bytes/10", &id);
            sidetap.wait_for_pair(&id);
            sidetap.transactions().iter().any(|t| t.id() == id && named(&t)).then_some(id)
        });
        let id = found.expect("the container that came while the runtime was away is known by its name");
        load.wait_for_more(50);
        let count = load.stop();
        (0..count).for_each(|n| sidetap.wait_for_pair(&format!("load-{n}")));
        let captured = sidetap.stop();
        let loaded = Identity::of(BY_DNS);
        // Exactly one for each side, and it stayed known by its name all the time.
        (0..count).for_each(|n| check_container(&captured, &format!("load-{n}"), &loaded));
        check_container(&captured, &id, &Identity::of(BY_ADDRESS));
        assert_eq!(metadata(captured.ingress("unnamed"), "container_id"), BY_ADDRESS.id());
    });
}

fn named(transaction: &&Transaction) -> bool {
    !metadata(transaction, "container_name").is_empty()
}

/// Requests one after the other, each on a connection of its own: `load-0` and on.
struct Load {
    ending: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    thread: thread::JoinHandle<()>,
}

impl Load {
    /// The most there will be, whatever the test does.
    const MOST: usize = 5_000;
    /// Between two requests, so that a test of names is none of throughput.
    const PAUSE: Duration = Duration::from_millis(5);

    fn start(port: u16) -> Load {
        let (ending, asked) = <(Arc<AtomicBool>, Arc<AtomicUsize>)>::default();
        let (for_thread, count) = (Arc::clone(&ending), Arc::clone(&asked));
        let thread = thread::spawn(move || {
            for n in 0..Load::MOST {
                if for_thread.load(Ordering::Acquire) {
                    return;
                }
                get(port, "/api", &format!("load-{n}"));
                count.store(n + 1, Ordering::Release);
                thread::sleep(Load::PAUSE);
            }
        });
        Load { ending, asked, thread }
    }

    fn wait_for_more(&self, count: usize) {
        let wanted = self.asked.load(Ordering::Acquire) + count;
        let done = until(LIMIT, || (self.asked.load(Ordering::Acquire) >= wanted).then_some(()));
        assert!(done.is_some(), "the load has stopped by itself");
    }

    /// How many there were.
    fn stop(self) -> usize {
        self.ending.store(true, Ordering::Release);
        self.thread.join().expect("every request was answered");
        self.asked.load(Ordering::Acquire)
    }
}

#[test]
fn only_the_containers_named_are_recorded() {
    with_proxies(|proxies| filtered(&proxies, "only: ['sidetap-by-h*', nothing-else]"));
}

#[test]
fn the_containers_named_are_left_out() {
    with_proxies(|proxies| filtered(&proxies, "ignore: [sidetap-by-address, '*-by-dns']"));
}

/// With a filter that leaves `by-hosts` in and the other two out; one of those is started after the agent.
fn filtered(proxies: &Proxies, filter: &str) {
    const REQUESTS: usize = 300;
    let config = format!("{}    containers: {{{filter}}}\n", tap(EXE, "level: headers, format: json"));
    proxies.up(&["by-hosts", "by-dns"]);
    let mut sidetap = Sidetap::start(&config, CapturePath::best());
    proxies.up(&["by-address"]);
    // What is promised is a time.
    thread::sleep(KNOWN);
    for port in [proxies.by_dns, proxies.by_address] {
        (0..REQUESTS).for_each(|n| get(port, "/bytes/10", &format!("out-{port}-{n}")));
    }
    get(proxies.by_hosts, "/bytes/10", "in");
    sidetap.wait_for_pair("in");
    let captured = sidetap.stop();
    check_container(&captured, "in", &Identity::of(BY_HOSTS));
    let leaked: Vec<&Value> =
        captured.transactions.iter().filter(|t| t.id().starts_with("out-")).map(|t| &t.0).collect();
    assert!(leaked.is_empty(), "{leaked:#?}");
    // A request is at least four calls of the proxy, each of which would have been an event.
    let (left_out, events) = (captured.counters["kernel.left_out"], captured.counters["kernel.events"]);
    assert!(left_out >= 2 * 4 * REQUESTS as u64, "left out {left_out}");
    assert!(events < REQUESTS as u64, "events {events}");
}

#[test]
fn a_container_is_known_within_a_second_of_its_start() {
    with_proxies(|proxies| {
        let mut sidetap = Sidetap::start(&tap(EXE, "level: headers, format: json"), CapturePath::best());
        for round in 0..3 {
            proxies.up(&["by-address"]);
            thread::sleep(KNOWN);
            let id = format!("round-{round}");
            get(proxies.by_address, "/bytes/10", &id);
            sidetap.wait_for_pair(&id);
            let found: Vec<_> = sidetap.transactions().iter().filter(|t| t.id() == id).cloned().collect();
            for transaction in found {
                assert_eq!(metadata(&transaction, "container_name"), BY_ADDRESS.0);
                assert_eq!(metadata(&transaction, "container_id"), BY_ADDRESS.id());
                assert_eq!(transaction.pid(), BY_ADDRESS.worker().to_string());
            }
            BY_ADDRESS.remove();
        }
        sidetap.stop();
    });
}
