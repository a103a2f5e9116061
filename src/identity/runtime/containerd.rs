//! containerd's own API: containers of `nerdctl`, `ctr` and kubernetes.
//!
//! One thread, one session: subscribe to events, list the containers of every namespace, then ask for each that an
//! event names. Docker's own namespace is left to `docker`, which knows more. containerd knows no networks; what
//! nerdctl's labels say of them is taken.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use prost::Message;
use tokio::time::timeout;

use super::super::containers::{MAX_CONTAINERS, Source};
use super::rpc::{Code, List, Rpc, failed_with};
use super::{LIST_EVERY, Link, TO_LIST, TO_TELL, Untold, in_time};
use crate::exchange::{ContainerFacts, Pod, Shares};

/// Docker's. Its containers have no names there.
const DOCKER: &str = "moby";

const MAX_NAMESPACES: usize = 64;

/// The second list follows the first after this time, for nothing tells when the subscription has begun.
const SECOND_LIST: Duration = Duration::from_secs(2);

const NAMESPACES: &str = "/containerd.services.namespaces.v1.Namespaces/List";
const CONTAINERS: &str = "/containerd.services.containers.v1.Containers/ListStream";
const CONTAINER: &str = "/containerd.services.containers.v1.Containers/Get";
const EVENTS: &str = "/containerd.services.events.v1.Events/Subscribe";
const TOPICS: [&str; 3] = ["/containers/create", "/containers/update", "/containers/delete"];

/// Follows containerd until something fails.
pub(super) async fn session(link: &Link) -> Result<Infallible> {
    let mut rpc = Rpc::over(link.connect().await?).await?;
    let filters = TOPICS.iter().map(|topic| format!("topic=={topic:?}")).collect();
    let mut events = rpc.follow::<_, Envelope>(EVENTS, Subscribe { filters });
    let mut untold = Untold::default();
    let mut pauses = [SECOND_LIST].into_iter().chain(std::iter::repeat(LIST_EVERY));
    loop {
        let listed = in_time(TO_LIST, list(link, &mut rpc)).await.unwrap_or_else(|late| Err(late.into()));
        listed.context("no list of containers")?;
        link.known();
        let list_at = Instant::now() + pauses.next().unwrap_or(LIST_EVERY);
        while let Ok(event) = timeout(list_at.saturating_duration_since(Instant::now()), events.recv()).await {
            let event = event.context("the stream of events ended")?.context("no more events")?;
            let told = take(link, &mut rpc, event).await;
            untold.unless_late(told)?;
        }
    }
}

async fn list(link: &Link, rpc: &mut Rpc) -> Result<()> {
    let namespaces: Namespaces = rpc.call(NAMESPACES, None, Nothing {}, TO_LIST).await?;
    let mut all = Vec::new();
    for namespace in namespaces.0.iter().map(|namespace| namespace.name.as_str()).filter(|&name| name != DOCKER) {
        if all.len() >= MAX_CONTAINERS {
            break;
        }
        rpc.list(CONTAINERS, Some(namespace), Nothing {}, TO_LIST, |answer: OneContainer| {
            all.extend(answer.container.map(facts));
            all.len() < MAX_CONTAINERS
        })
        .await?;
    }
    link.containers.replace_all(Source::Containerd, all);
    Ok(())
}

async fn take(link: &Link, rpc: &mut Rpc, event: Envelope) -> Result<()> {
    let Some(id) = event.container().context("an event is not as documented")? else { return Ok(()) };
    let answer = rpc.call(CONTAINER, Some(&event.namespace), OneId { id: id.clone() }, TO_TELL).await;
    match answer {
        Ok(OneContainer { container: Some(container) }) if container.id == id => {
            let (id, facts) = facts(container);
            link.containers.update(Source::Containerd, &id, facts);
        }
        Ok(_) => bail!("it was asked for {id:?} and told of another container"),
        Err(error) if failed_with(&error, Code::NotFound) => link.containers.remove(Source::Containerd, &id),
        Err(error) => return Err(error),
    }
    Ok(())
}

/// The container's id and what its labels say. Names are put there by nerdctl and by containerd's CRI service.
fn facts(container: Container) -> (String, ContainerFacts) {
    let labels: BTreeMap<String, String> = container.labels.into_iter().collect();
    let label = |name: &str| labels.get(name).cloned().filter(|value| !value.is_empty());
    let name = label("nerdctl/name").or_else(|| label("io.kubernetes.container.name"));
    let pod = label("io.kubernetes.pod.name").map(|name| {
        let namespace = label("io.kubernetes.pod.namespace").unwrap_or_default();
        Arc::new(Pod { name, namespace, ..Pod::default() })
    });
    let facts = ContainerFacts {
        name: name.unwrap_or_else(|| container.id.clone()),
        image: container.image,
        networks: Vec::new(),
        shares: label("nerdctl/networks").and_then(|networks| shared(&networks)),
        pod,
        labels,
    };
    (container.id, facts)
}

/// nerdctl's networks are a list in JSON: `["bridge"]`, `["host"]`, `["container:<id>"]`.
fn shared(networks: &str) -> Option<Shares> {
    let networks: Vec<String> = serde_json::from_str(networks).ok()?;
    match networks.first()?.as_str() {
        "host" => Some(Shares::Machine),
        network => network.strip_prefix("container:").map(|id| Shares::Container(id.to_owned())),
    }
}

// The messages, with the fields that are of use, from containerd's api/services/containers/v1/containers.proto,
// api/services/namespaces/v1/namespace.proto, api/services/events/v1/events.proto, api/types/event.proto and
// api/events/container.proto.

/// `ListNamespacesRequest`, `ListContainersRequest`: no filters.
#[derive(Clone, PartialEq, Message)]
struct Nothing {}

/// `ListNamespacesResponse`: `repeated Namespace namespaces = 1`
type Namespaces = List<MAX_NAMESPACES, Namespace>;

#[derive(Clone, PartialEq, Message)]
struct Namespace {
    #[prost(string, tag = "1")]
    name: String,
}

/// `GetContainerRequest`; also the events `ContainerCreate`, `ContainerUpdate` and `ContainerDelete`
#[derive(Clone, PartialEq, Message)]
struct OneId {
    #[prost(string, tag = "1")]
    id: String,
}

/// `GetContainerResponse`, `ListContainerMessage`
#[derive(Clone, PartialEq, Message)]
struct OneContainer {
    #[prost(message, optional, tag = "1")]
    container: Option<Container>,
}

#[derive(Clone, PartialEq, Message)]
struct Container {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(map = "string, string", tag = "2")]
    labels: HashMap<String, String>,
    #[prost(string, tag = "3")]
    image: String,
}

/// `SubscribeRequest`
#[derive(Clone, PartialEq, Message)]
struct Subscribe {
    #[prost(string, repeated, tag = "1")]
    filters: Vec<String>,
}

/// An event. `google.protobuf.Any event = 4`
#[derive(Clone, PartialEq, Message)]
struct Envelope {
    #[prost(string, tag = "2")]
    namespace: String,
    #[prost(string, tag = "3")]
    topic: String,
    #[prost(message, optional, tag = "4")]
    event: Option<Any>,
}

/// google/protobuf/any.proto
#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

impl Envelope {
    /// The container that the event is about, where it is one of ours.
    fn container(&self) -> Result<Option<String>> {
        let is_ours = self.namespace != DOCKER && TOPICS.contains(&self.topic.as_str());
        let Some(event) = self.event.as_ref().filter(|_| is_ours) else { return Ok(None) };
        Ok(Some(OneId::decode(&*event.value)?.id).filter(|id| !id.is_empty()))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::{Mutex, MutexGuard};

    use tokio::sync::mpsc;

    use super::super::Sockets;
    use super::super::fake::{Directory, Reply, RpcServer, Watched, message, session_with};
    use super::*;

    /// A containerd with some containers, by namespace and id.
    #[derive(Clone, Default)]
    struct Fake(Arc<Mutex<State>>);

    #[derive(Default)]
    struct State {
        containers: BTreeMap<(String, String), Container>,
        events: Option<mpsc::UnboundedSender<Vec<u8>>>,
    }

    impl Fake {
        fn serve(&self, socket: &Path) -> RpcServer {
            let fake = self.clone();
            RpcServer::new(socket, move |path, namespace, question| fake.answer(path, namespace, question))
        }

        fn state(&self) -> MutexGuard<'_, State> {
            self.0.lock().unwrap()
        }

        fn answer(&self, path: &str, namespace: &str, question: &[u8]) -> Reply {
            let mut state = self.state();
            match path {
                NAMESPACES => {
                    let mut names: Vec<_> = state.containers.keys().map(|(namespace, _)| namespace.clone()).collect();
                    names.dedup();
                    message(List::<100, _>(names.into_iter().map(|name| Namespace { name }).collect()))
                }
                CONTAINERS => {
                    let all = state.containers.iter().filter(|((of, _), _)| of == namespace);
                    let all = all.map(|(_, container)| OneContainer { container: Some(container.clone()) });
                    Reply::Messages(all.map(|one| one.encode_to_vec()).collect())
                }
                CONTAINER => {
                    let id = OneId::decode(question).unwrap().id;
                    let container = state.containers.get(&(namespace.to_owned(), id)).cloned();
                    container.map_or(Reply::Error(5), |one| message(OneContainer { container: Some(one) }))
                }
                EVENTS => {
                    assert_eq!(Subscribe::decode(question).unwrap().filters[0], "topic==\"/containers/create\"");
                    let (sender, receiver) = mpsc::unbounded_channel();
                    state.events = Some(sender);
                    Reply::Events(receiver)
                }
                other => panic!("{other}"),
            }
        }

        fn put(&self, namespace: &str, id: &str, labels: &[(&str, &str)]) {
            let labels = labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
            let container = Container { id: id.into(), labels, image: "docker.io/library/nginx:1".into() };
            self.state().containers.insert((namespace.into(), id.into()), container);
        }

        fn happened(&self, namespace: &str, topic: &str, id: &str) {
            let event = Any { value: OneId { id: id.into() }.encode_to_vec() };
            let event = Envelope { namespace: namespace.into(), topic: topic.into(), event: Some(event) };
            let state = self.state();
            state.events.as_ref().expect("somebody subscribed").send(event.encode_to_vec()).unwrap();
        }
    }

    fn watched(socket: &Path) -> Watched {
        Watched::new(Sockets { containerd: Some(socket.to_owned()), ..Sockets::default() })
    }

    fn sorted(now: &Watched) -> Vec<String> {
        let mut names = now.names();
        names.sort();
        names
    }

    #[test]
    fn containers_of_all_namespaces_but_dockers() {
        let (directory, fake) = (Directory::new(), Fake::default());
        fake.put("default", "a", &[("nerdctl/name", "web"), ("nerdctl/networks", "[\"host\"]")]);
        fake.put("default", "my-redis", &[]);
        fake.put("moby", "b", &[]);
        let pod = [
            ("io.kubernetes.container.name", "nginx"),
            ("io.kubernetes.pod.name", "web-0"),
            ("io.kubernetes.pod.namespace", "shop"),
        ];
        fake.put("k8s.io", "c", &pod);
        let _server = fake.serve(&directory.socket());
        let watched = watched(&directory.socket());
        watched.until(|now| now.names().len() == 3);
        assert_eq!(sorted(&watched), ["my-redis", "nginx", "web"]);
        let web = watched.facts("a").unwrap();
        assert_eq!((web.image.as_str(), &web.shares), ("docker.io/library/nginx:1", &Some(Shares::Machine)));
        let pod = watched.facts("c").unwrap().pod.clone().unwrap();
        assert_eq!((pod.name.as_str(), pod.namespace.as_str()), ("web-0", "shop"));

        fake.put("default", "d", &[("nerdctl/name", "new")]);
        fake.happened("default", "/containers/create", "d");
        let took = watched.until(|now| now.facts("d").is_some());
        assert!(took < Duration::from_secs(1), "{took:?}");
        fake.put("default", "d", &[("nerdctl/name", "renamed")]);
        fake.happened("moby", "/containers/create", "b");
        fake.happened("default", "/tasks/start", "d");
        fake.happened("default", "/containers/update", "d");
        watched.until(|now| now.facts("d").unwrap().name == "renamed");
        assert!(watched.facts("b").is_none(), "docker's");
        fake.state().containers.remove(&("default".into(), "d".into()));
        fake.happened("default", "/containers/delete", "d");
        watched.until(|now| now.names().last().is_some_and(|last| last == "renamed"));
    }

    #[test]
    fn one_that_was_killed_is_asked_again() {
        let (directory, fake) = (Directory::new(), Fake::default());
        fake.put("default", "a", &[("nerdctl/name", "web")]);
        let server = fake.serve(&directory.socket());
        let watched = watched(&directory.socket());
        watched.until(|now| now.names() == ["web"]);
        drop(server);
        std::fs::remove_file(directory.socket()).unwrap();
        fake.put("default", "b", &[("nerdctl/name", "db")]);
        let _server = fake.serve(&directory.socket());
        watched.until(|now| sorted(now) == ["db", "web"]);
    }

    #[test]
    fn thousands_of_containers() {
        let (directory, fake) = (Directory::new(), Fake::default());
        for number in 0..MAX_CONTAINERS + 100 {
            fake.put("default", &format!("{number}"), &[]);
        }
        let _server = fake.serve(&directory.socket());
        let watched = watched(&directory.socket());
        watched.until(|now| now.containers.all().len() == MAX_CONTAINERS);
    }

    #[test]
    fn labels_of_a_mebibyte_are_left_out() {
        let (directory, fake) = (Directory::new(), Fake::default());
        fake.put("default", "a", &[("huge", &"x".repeat(1 << 20)), ("nerdctl/name", "web")]);
        let _server = fake.serve(&directory.socket());
        let watched = watched(&directory.socket());
        watched.until(|now| now.names() == ["web"]);
        assert_eq!(watched.facts("a").unwrap().labels.len(), 1);
    }

    /// `events` and `list` are what it says when asked for those.
    fn hostile(list: fn() -> Reply, events: fn() -> Reply) -> String {
        let directory = Directory::new();
        let _server = RpcServer::new(&directory.socket(), move |path, _, _| match path {
            NAMESPACES => message(List::<1, Namespace>(vec![Namespace { name: "default".into() }])),
            CONTAINERS => list(),
            EVENTS => events(),
            _ => Reply::Messages(vec![Vec::new()]),
        });
        session_with(&directory.socket(), session).0
    }

    fn none() -> Reply {
        Reply::Messages(Vec::new())
    }

    fn event(bytes: Vec<u8>) -> Reply {
        let any = Some(Any { value: bytes });
        message(Envelope { namespace: "default".into(), topic: "/containers/create".into(), event: any })
    }

    #[test]
    fn answers_that_are_none_end_the_session() {
        let silence: fn() -> Reply = || Reply::Silence;
        for (list, events, expected) in [
            ((|| Reply::Messages(vec![vec![0x0a, 0x05, 0x0a]])) as fn() -> Reply, silence, "no list of containers"),
            (|| Reply::Messages(vec![b"hello".to_vec()]), silence, "no list of containers"),
            (|| Reply::Messages(vec![vec![0; 9 << 20]]), silence, "too large"),
            (|| Reply::Bytes(vec![0, 0xff, 0xff, 0xff, 0xff]), silence, "too large"),
            (|| Reply::Bytes(vec![1, 0, 0, 0, 1, 0]), silence, "no list of containers"),
            (|| Reply::Bytes(vec![7; 100]), silence, "no list of containers"),
            (|| Reply::Error(13), silence, "Internal"),
            (|| Reply::Error(99), silence, "no list of containers"),
            (none, || Reply::Messages(vec![b"hello".to_vec()]), "no more events"),
            (none, none, "the stream of events ended"),
            (none, || Reply::Error(12), "Unimplemented"),
            (none, || event(b"hello".to_vec()), "an event is not as documented"),
            (none, || event(OneId { id: "a".into() }.encode_to_vec()), "told of another container"),
        ] {
            let error = hostile(list, events);
            assert!(error.contains(expected), "{error} is not {expected}");
            assert!(error.len() < 500, "{error}");
        }
    }

    #[test]
    fn what_is_no_http2_ends_the_session() {
        use super::super::fake::{HttpServer, answer};
        let directory = Directory::new();
        let _server = HttpServer::new(&directory.socket(), |_, stream| answer(stream, 200, b"hello"));
        let error = session_with(&directory.socket(), session).0;
        assert!(error.contains("no list of containers"), "{error}");
    }

    #[test]
    fn networks_of_nerdctl() {
        assert_eq!(shared("[\"host\"]"), Some(Shares::Machine));
        assert_eq!(shared("[\"container:abc\"]"), Some(Shares::Container("abc".into())));
        for other in ["[\"bridge\"]", "[]", "", "{}", "[1]", "null"] {
            assert_eq!(shared(other), None, "{other}");
        }
    }
}
