//! The session against an engine that behaves, and against some that do not.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::super::super::containers::{Containers, Source};
use super::super::fake::{Directory, HttpServer, Then, Watched, answer, begin, chunk, session_with};
use super::super::{Late, Link, Sockets};
use super::{LIST, Waiting, get, list, session};

const COMPOSE: &str = include_str!("../../../../tests/data/docker/compose.json");
const TWO_NETWORKS: &str = include_str!("../../../../tests/data/docker/two-networks.json");

/// An engine with some containers.
#[derive(Clone, Default)]
struct Engine(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    containers: BTreeMap<String, Value>,
    subscribers: Vec<UnixStream>,
    inspected: usize,
}

impl Engine {
    fn serve(&self, socket: &Path) -> HttpServer {
        let engine = self.clone();
        HttpServer::new(socket, move |target, stream| engine.answer(target, stream))
    }

    fn answer(&self, target: &str, stream: &mut UnixStream) -> Then {
        let state = &mut *self.0.lock().unwrap();
        if target.starts_with("/events?") {
            begin(stream);
            state.subscribers.push(stream.try_clone().unwrap());
            return Then::Keep;
        }
        if target == LIST {
            let running = state.containers.values().filter(|container| container["State"]["Running"] == true);
            let list: Vec<Value> = running.map(listed).collect();
            return answer(stream, 200, json!(list).to_string().as_bytes());
        }
        let id = target.strip_prefix("/containers/").and_then(|rest| rest.strip_suffix("/json")).unwrap();
        state.inspected += 1;
        match state.containers.get(id) {
            Some(container) => answer(stream, 200, container.to_string().as_bytes()),
            None => answer(stream, 404, b"{\"message\":\"No such container\"}"),
        }
    }

    fn put(&self, container: &Value) -> String {
        let id = container["Id"].as_str().unwrap().to_owned();
        self.0.lock().unwrap().containers.insert(id.clone(), container.clone());
        id
    }

    fn remove(&self, id: &str) {
        self.0.lock().unwrap().containers.remove(id);
    }

    fn happened(&self, event: &Value) {
        for stream in &mut self.0.lock().unwrap().subscribers {
            let _ = chunk(stream, format!("{event}\n").as_bytes());
        }
    }
}

fn container_event(action: &str, id: &str) -> Value {
    json!({"Type": "container", "Action": action, "Actor": {"ID": id, "Attributes": {"name": "x"}}, "scope": "local"})
}

fn network_event(action: &str, id: &str) -> Value {
    json!({"Type": "network", "Action": action, "Actor": {"ID": "n", "Attributes": {"container": id}}})
}

/// As the list has it: without names for the network.
fn listed(container: &Value) -> Value {
    let mut networks = container["NetworkSettings"]["Networks"].clone();
    for endpoint in networks.as_object_mut().unwrap().values_mut() {
        endpoint["Aliases"] = Value::Null;
        endpoint["DNSNames"] = Value::Null;
    }
    json!({
        "Id": container["Id"], "Names": [container["Name"]], "Image": container["Config"]["Image"],
        "Labels": container["Config"]["Labels"], "State": "running",
        "HostConfig": {"NetworkMode": container["HostConfig"]["NetworkMode"]},
        "NetworkSettings": {"Networks": networks},
    })
}

fn numbered(number: usize) -> Value {
    let mut container: Value = serde_json::from_str(COMPOSE).unwrap();
    container["Id"] = format!("{number:064x}").into();
    container["Name"] = format!("/web-{number}").into();
    container
}

/// Names that the list does not give: aliases. Two it does, the container's name and its service.
fn knows_aliases(watched: &Watched, id: &str) -> bool {
    let facts = watched.facts(id);
    facts.is_some_and(|facts| facts.networks.first().is_some_and(|network| network.names.len() > 2))
}

fn watched(socket: &Path) -> Watched {
    Watched::new(Sockets { docker: Some(socket.to_owned()), ..Sockets::default() })
}

#[test]
fn a_container_is_known_from_its_creation_to_a_while_after_its_end() {
    let (directory, engine) = (Directory::new(), Engine::default());
    let first: Value = serde_json::from_str(COMPOSE).unwrap();
    let first_id = engine.put(&first);
    let _server = engine.serve(&directory.socket());
    let watched = watched(&directory.socket());
    watched.until(|now| knows_aliases(now, &first_id));
    assert_eq!(watched.names(), ["haproxy-demo"]);

    let mut second: Value = serde_json::from_str(TWO_NETWORKS).unwrap();
    let networks = second["NetworkSettings"]["Networks"].take();
    second["State"] = json!({"Running": false, "Status": "created"});
    let second_id = engine.put(&second);
    engine.happened(&container_event("create", &second_id));
    watched.until(|now| now.facts(&second_id).is_some());
    assert!(watched.facts(&second_id).unwrap().networks.is_empty());

    second["NetworkSettings"]["Networks"] = networks;
    second["State"] = json!({"Running": true, "Status": "running"});
    engine.put(&second);
    engine.happened(&network_event("connect", &second_id));
    engine.happened(&container_event("start", &second_id));
    let took = watched.until(|now| now.facts(&second_id).unwrap().networks.len() == 2);
    assert!(took < Duration::from_secs(1), "{took:?}");

    second["Name"] = "/renamed".into();
    engine.put(&second);
    engine.happened(&container_event("rename", &second_id));
    watched.until(|now| now.facts(&second_id).unwrap().name == "renamed");

    second["NetworkSettings"]["Networks"].as_object_mut().unwrap().remove("back");
    engine.put(&second);
    engine.happened(&network_event("disconnect", &second_id));
    watched.until(|now| now.facts(&second_id).unwrap().networks.len() == 1);

    second["State"] = json!({"Running": false, "Status": "exited"});
    second["NetworkSettings"]["Networks"]["front"]["IPAddress"] = "".into();
    engine.put(&second);
    engine.happened(&container_event("die", &second_id));
    watched.until(|now| now.names() == ["haproxy-demo", "renamed"]);
    engine.remove(&first_id);
    engine.happened(&container_event("destroy", &first_id));
    watched.until(|now| now.containers.told(Source::Docker, &first_id).is_none());
    assert_eq!(watched.facts(&second_id).unwrap().networks[0].addresses.len(), 1, "with its last address");
    assert_eq!(watched.facts(&first_id).unwrap().name, "haproxy-demo");
}

#[test]
fn an_engine_that_was_killed_is_asked_again() {
    let (directory, engine) = (Directory::new(), Engine::default());
    let ids: Vec<String> = (0..3).map(|number| engine.put(&numbered(number))).collect();
    let server = engine.serve(&directory.socket());
    let watched = watched(&directory.socket());
    watched.until(|now| now.names().len() == 3);
    drop(server);
    assert_eq!(watched.facts(&ids[0]).unwrap().name, "web-0", "its containers go on without it");

    let again = Engine::default();
    again.put(&numbered(1));
    again.put(&numbered(4));
    std::fs::remove_file(directory.socket()).unwrap();
    let _server = again.serve(&directory.socket());
    let took = watched.until(|now| now.names().contains(&"web-4".to_owned()));
    assert!(took < Duration::from_secs(3), "{took:?}");
    watched.until(|now| now.names().len() == 4);
    let mut running = watched.names();
    running.truncate(2);
    running.sort();
    assert_eq!(running, ["web-1", "web-4"]);
}

#[test]
fn an_engine_may_come_later() {
    let (directory, engine) = (Directory::new(), Engine::default());
    engine.put(&numbered(1));
    let watched = watched(&directory.socket());
    let _server = engine.serve(&directory.socket());
    watched.until(|now| now.names() == ["web-1"]);
}

#[test]
fn thousands_of_containers() {
    let (directory, engine) = (Directory::new(), Engine::default());
    for number in 0..5_000 {
        engine.put(&numbered(number));
    }
    let _server = engine.serve(&directory.socket());
    let watched = watched(&directory.socket());
    watched.until(|now| now.containers.all().len() == 5_000);
    let id = engine.put(&numbered(9_999));
    engine.happened(&container_event("start", &id));
    let took = watched.until(|now| now.facts(&id).is_some());
    assert!(took < Duration::from_secs(1), "a new one does not wait for the others: {took:?}");
}

#[test]
fn labels_of_a_mebibyte_are_left_out() {
    let (directory, engine) = (Directory::new(), Engine::default());
    let mut container = numbered(1);
    container["Config"]["Labels"]["huge"] = "x".repeat(1 << 20).into();
    let id = engine.put(&container);
    let _server = engine.serve(&directory.socket());
    let watched = watched(&directory.socket());
    watched.until(|now| knows_aliases(now, &id));
    let facts = watched.facts(&id).unwrap();
    assert!(!facts.labels.contains_key("huge"));
    assert_eq!(facts.labels["team"], "edge");
}

#[test]
fn a_container_that_the_engine_is_stuck_with_leaves_the_others_their_names() {
    let (directory, engine) = (Directory::new(), Engine::default());
    let stuck = engine.put(&numbered(0));
    for number in 1..4 {
        engine.put(&numbered(number));
    }
    let (engine_too, lists) = (engine.clone(), Arc::new(AtomicUsize::new(0)));
    let count = lists.clone();
    let _server = HttpServer::new(&directory.socket(), move |target, stream| {
        count.fetch_add(usize::from(target == LIST), Ordering::SeqCst);
        if target.contains(&stuck) { Then::Keep } else { engine_too.answer(target, stream) }
    });
    let watched = watched(&directory.socket());
    watched.until(|now| (1..4).all(|number| knows_aliases(now, &format!("{number:064x}"))));
    assert_eq!(watched.facts(&format!("{:064x}", 0)).unwrap().name, "web-0", "from the list");
    assert_eq!(lists.load(Ordering::SeqCst), 1, "in one session");
}

#[test]
fn a_list_read_again_finds_what_no_event_told() {
    let (directory, engine) = (Directory::new(), Engine::default());
    let (kept, ended) = (engine.put(&numbered(1)), engine.put(&numbered(2)));
    let _server = engine.serve(&directory.socket());
    let containers = Arc::new(Containers::new());
    let link = Link::new("docker", vec![directory.socket()], containers.clone());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut waiting = Waiting::default();
    let mut waits = || {
        runtime.block_on(list(&link, &mut waiting)).unwrap();
        let waits: Vec<String> = std::iter::from_fn(|| waiting.pop()).collect();
        waiting.inspected.extend(waits.clone());
        waits.len()
    };
    assert_eq!((waits(), waits()), (2, 0), "what is known is not asked for again");
    engine.remove(&ended);
    assert_eq!(waits(), 0);
    assert!(containers.told(Source::Docker, &ended).is_none());
    let mut renamed = numbered(1);
    renamed["Name"] = "/renamed".into();
    engine.put(&renamed);
    assert_eq!(waits(), 1);
    assert!(containers.told(Source::Docker, &kept).is_some());
}

#[test]
fn an_engine_that_is_killed_while_it_tells_is_asked_for_the_rest() {
    let (directory, engine) = (Directory::new(), Engine::default());
    let id = engine.put(&numbered(1));
    let engine_too = engine.clone();
    let server =
        HttpServer::new(&directory.socket(), move |target, stream| match target.starts_with("/containers/0") {
            true => Then::Close,
            false => engine_too.answer(target, stream),
        });
    let watched = watched(&directory.socket());
    watched.until(|now| now.names() == ["web-1"]);
    drop(server);
    std::fs::remove_file(directory.socket()).unwrap();
    let _server = engine.serve(&directory.socket());
    watched.until(|now| knows_aliases(now, &id));
}

#[test]
fn a_slow_answer_is_given_up() {
    let directory = Directory::new();
    let _server = HttpServer::new(&directory.socket(), |_, stream| {
        begin(stream);
        while chunk(stream, b" ").is_ok() {
            std::thread::sleep(Duration::from_millis(5));
        }
        Then::Close
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let started = Instant::now();
    let limit = Duration::from_millis(200);
    let error = runtime.block_on(get(&directory.socket(), LIST, 1000, limit)).unwrap_err();
    assert!(error.is::<Late>() && started.elapsed() < 10 * limit, "{error:#} after {:?}", started.elapsed());
}

/// Answers the list and the events with bytes of its own, and an inspection with `inspected`.
fn hostile(list: Vec<u8>, events: Vec<u8>, inspected: Vec<u8>) -> String {
    let directory = Directory::new();
    let _server = HttpServer::new(&directory.socket(), move |target, stream| {
        if target.starts_with("/events?") {
            begin(stream);
            return match chunk(stream, &events) {
                Ok(()) if events.is_empty() => Then::Close,
                _ => Then::Keep,
            };
        }
        let body = if target == LIST { &list } else { &inspected };
        let _ = stream.write_all(body);
        Then::Close
    });
    session_with(&directory.socket(), session).0
}

fn ok(body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

#[test]
fn answers_that_are_none_end_the_session() {
    let one = ok(json!([listed(&numbered(1))]).to_string().as_bytes());
    let inspected = ok(numbered(1).to_string().as_bytes());
    let event = format!("{}\n", container_event("start", &format!("{:064x}", 1))).into_bytes();
    let half = one[..one.len() / 2].to_vec();
    let deep = ok(["[".repeat(100_000), "]".repeat(100_000)].concat().as_bytes());
    let huge = [b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), vec![b' '; 40 << 20]].concat();
    let error = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n".to_vec();
    let chatty = [b"HTTP/1.1 200 OK\r\n".to_vec(), b"X-Header: y\r\n".repeat(100_000)].concat();
    for (list, events, inspected, expected) in [
        (ok(b"hello"), &event, &inspected, "not as documented"),
        (ok(b""), &event, &inspected, "not as documented"),
        (ok(b"[{\"Id\": 7}]"), &event, &inspected, "not as documented"),
        (ok(b"{}"), &event, &inspected, "not as documented"),
        (ok(b"\xff\xfe"), &event, &inspected, "not as documented"),
        (deep, &event, &inspected, "not as documented"),
        (half, &event, &inspected, "no list of containers"),
        (huge, &event, &inspected, "length limit exceeded"),
        (chatty, &event, &inspected, "no list of containers"),
        (error, &event, &inspected, "status 500"),
        (b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(), &event, &inspected, "no list of containers"),
        (Vec::new(), &event, &inspected, "no list of containers"),
        (one.clone(), &Vec::new(), &inspected, "the stream ended"),
        (one.clone(), &b"hello\n".to_vec(), &inspected, "an event is not as documented"),
        (one.clone(), &vec![b' '; 9 << 20], &inspected, "more than 8 MiB"),
        (one.clone(), &event, &ok(b"{}"), "not as documented"),
        (one.clone(), &event, &ok(numbered(2).to_string().as_bytes()), "told of"),
        (one.clone(), &event, &ok(&vec![b' '; 9 << 20]), "length limit exceeded"),
    ] {
        let error = hostile(list, events.clone(), inspected.clone());
        assert!(error.contains(expected), "{error} is not {expected}");
        assert!(error.len() < 500, "{error}");
    }
}

#[test]
fn an_id_cannot_lead_a_request_astray() {
    let directory = Directory::new();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let targets = asked.clone();
    let _server = HttpServer::new(&directory.socket(), move |target, stream| {
        targets.lock().unwrap().push(target.to_owned());
        if target.starts_with("/events?") {
            begin(stream);
            for id in ["../images", "a b", "a\r\nX: y", "", "é", &"a".repeat(1 << 20)] {
                let _ = chunk(stream, format!("{}\n", container_event("start", id)).as_bytes());
            }
            let _ = chunk(stream, b"bye\n");
            return Then::Keep;
        }
        let mut list = Vec::new();
        for id in ["../images", "a/b", ""] {
            let mut container = listed(&numbered(1));
            container["Id"] = id.into();
            list.push(container);
        }
        answer(stream, 200, json!(list).to_string().as_bytes())
    });
    let (_, containers) = session_with(&directory.socket(), session);
    assert!(containers.all().is_empty());
    assert_eq!(asked.lock().unwrap().len(), 2, "{:?}", asked.lock().unwrap());
}

#[test]
fn events_in_pieces() {
    let directory = Directory::new();
    let engine = Engine::default();
    let id = engine.put(&numbered(1));
    engine.0.lock().unwrap().containers.get_mut(&id).unwrap()["State"]["Running"] = false.into();
    engine.0.lock().unwrap().containers.get_mut(&id).unwrap()["State"]["Status"] = "created".into();
    let event = format!("\n{}\n{}\n", container_event("top", &id), container_event("create", &id));
    let _server = HttpServer::new(&directory.socket(), move |target, stream| {
        if !target.starts_with("/events?") {
            return engine.answer(target, stream);
        }
        begin(stream);
        for byte in event.trim_start().as_bytes() {
            let _ = chunk(stream, &[*byte]);
        }
        Then::Keep
    });
    let watched = watched(&directory.socket());
    watched.until(|now| now.names() == ["web-1"]);
}
