//! The container runtime interface of kubernetes: cri-o, and containerd's CRI service. It knows pods.
//!
//! One thread, one session: list the containers every second, ask once for each pod that they name. Where the runtime
//! sends events, one of them brings the next list at once, and otherwise it may be later: but whether it sends any is
//! known only when the first has come, for some accept the subscription and stay silent.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use prost::Message;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::super::containers::{MAX_CONTAINERS, MAX_NETWORKS, Source};
use super::rpc::{Code, List, Rpc, failed_with};
use super::{Absent, Link, TO_LIST, TO_TELL, Untold};
use crate::exchange::{ContainerFacts, Pod, Shares};

const CONTAINERS: &str = "/runtime.v1.RuntimeService/ListContainers";
const POD: &str = "/runtime.v1.RuntimeService/PodSandboxStatus";
const EVENTS: &str = "/runtime.v1.RuntimeService/GetContainerEvents";

/// How often the list is read without events, and with them.
const EVERY: Duration = Duration::from_secs(1);
const EVERY_WITH_EVENTS: Duration = Duration::from_secs(10);
/// Events come in bursts: the list is read this long after the first.
const BURST: Duration = Duration::from_millis(100);

/// Follows the runtime until something fails.
pub(super) async fn session(link: &Link) -> Result<Infallible> {
    let mut rpc = Rpc::over(link.connect().await?).await?;
    let mut events = Some(rpc.follow::<_, Event>(EVENTS, Nothing {}));
    let mut every = EVERY;
    let mut pods = Pods::default();
    loop {
        let listed: Result<Containers> = rpc.call(CONTAINERS, None, Nothing {}, TO_LIST).await;
        let List(mut list) = listed.map_err(|error| match failed_with(&error, Code::Unimplemented) {
            // As of a containerd that serves docker alone.
            true => Absent(format!("{error:#}")).into(),
            false => error.context("no list of containers"),
        })?;
        list.retain(Container::is_there);
        pods.learn(&mut rpc, &list).await?;
        let all = list.into_iter().map(|container| facts(container, &pods)).collect();
        link.containers.replace_all(Source::Cri, all);
        link.known();
        match &mut events {
            None => sleep(every).await,
            Some(stream) => match timeout(every, happened(stream)).await {
                Err(_) => (),
                Ok(true) => every = EVERY_WITH_EVENTS,
                Ok(false) => (events, every) = (None, EVERY),
            },
        }
    }
}

/// Waits for events; false where none will come any more.
async fn happened(stream: &mut mpsc::Receiver<Result<Event>>) -> bool {
    let Some(Ok(_)) = stream.recv().await else { return false };
    sleep(BURST).await;
    while let Ok(event) = stream.try_recv() {
        if event.is_err() {
            return false;
        }
    }
    true
}

/// What is known of the pods of the containers of the last list, by the id of their sandbox.
#[derive(Default)]
struct Pods {
    known: HashMap<String, (Arc<Pod>, Shares)>,
    /// Had no address yet.
    unfinished: HashSet<String>,
    untold: Untold,
}

impl Pods {
    /// Asks for the pods that are not known yet, for a second at most: meanwhile there may be a new list.
    async fn learn(&mut self, rpc: &mut Rpc, containers: &[Container]) -> Result<()> {
        let sandboxes: HashSet<&str> = containers.iter().map(|container| container.sandbox.as_str()).collect();
        self.known.retain(|id, _| sandboxes.contains(id.as_str()));
        self.unfinished.retain(|id| sandboxes.contains(id.as_str()));
        let started = Instant::now();
        for id in sandboxes.into_iter().take_while(|_| started.elapsed() < EVERY) {
            if self.known.contains_key(id) && !self.unfinished.contains(id) {
                continue;
            }
            let question = PodQuestion { id: id.to_owned() };
            let status = match rpc.call(POD, None, question, TO_TELL).await {
                // It went while we asked.
                Err(error) if failed_with(&error, Code::NotFound) => continue,
                answer => self.untold.unless_late(answer).with_context(|| format!("nothing of pod {id:?}"))?,
            };
            if let Some(PodAnswer { status: Some(status) }) = status {
                self.take(id, status);
            }
        }
        Ok(())
    }

    fn take(&mut self, id: &str, status: PodStatus) {
        let shares = match status.network_mode() {
            NODE => Shares::Machine,
            _ => Shares::Container(id.to_owned()),
        };
        let network = status.network.unwrap_or_default();
        let texts = [network.ip].into_iter().chain(network.more.into_iter().map(|more| more.ip));
        let addresses: Vec<_> = texts.filter_map(|text| text.parse().ok()).take(MAX_NETWORKS).collect();
        // In the machine's namespace, the machine's addresses would name it after one of its pods.
        let addresses = if shares == Shares::Machine { Vec::new() } else { addresses };
        match addresses.is_empty() && shares != Shares::Machine {
            true => self.unfinished.insert(id.to_owned()),
            false => self.unfinished.remove(id),
        };
        let metadata = status.metadata.unwrap_or_default();
        let pod = Pod {
            name: metadata.name,
            namespace: metadata.namespace,
            labels: status.labels.into_iter().collect(),
            annotations: status.annotations.into_iter().collect(),
            addresses,
        };
        self.known.insert(id.to_owned(), (Arc::new(pod), shares));
    }
}

fn facts(container: Container, pods: &Pods) -> (String, ContainerFacts) {
    let pod = pods.known.get(&container.sandbox);
    let image = container.image.unwrap_or_default();
    let images = [image.user_specified, image.image, container.image_ref];
    let labels: BTreeMap<String, String> = container.labels.into_iter().collect();
    let facts = ContainerFacts {
        name: container.metadata.unwrap_or_default().name,
        image: images.into_iter().find(|image| !image.is_empty()).unwrap_or_default(),
        labels,
        networks: Vec::new(),
        shares: pod.map(|(_, shares)| shares.clone()),
        pod: pod.map(|(pod, _)| pod.clone()),
    };
    (container.id, facts)
}

// The messages, with the fields that are of use, from kubernetes' cri-api pkg/apis/runtime/v1/api.proto.

/// `ListContainersRequest`, `GetEventsRequest`: no filters.
#[derive(Clone, PartialEq, Message)]
struct Nothing {}

/// `ListContainersResponse`: `repeated Container containers = 1`
type Containers = List<MAX_CONTAINERS, Container>;

#[derive(Clone, PartialEq, Message)]
struct Container {
    #[prost(string, tag = "1")]
    id: String,
    /// Of the pod it is in: `pod_sandbox_id`
    #[prost(string, tag = "2")]
    sandbox: String,
    /// `ContainerMetadata`
    #[prost(message, optional, tag = "3")]
    metadata: Option<Metadata>,
    #[prost(message, optional, tag = "4")]
    image: Option<Image>,
    #[prost(string, tag = "5")]
    image_ref: String,
    /// `ContainerState`
    #[prost(int32, tag = "6")]
    state: i32,
    #[prost(map = "string, string", tag = "8")]
    labels: HashMap<String, String>,
}

impl Container {
    /// `CONTAINER_CREATED = 0`, `CONTAINER_RUNNING = 1`; `CONTAINER_EXITED = 2`, `CONTAINER_UNKNOWN = 3`.
    fn is_there(&self) -> bool {
        matches!(self.state, 0 | 1)
    }
}

/// `ContainerMetadata`, which has no namespace, and `PodSandboxMetadata`
#[derive(Clone, PartialEq, Message)]
struct Metadata {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "3")]
    namespace: String,
}

/// `ImageSpec`
#[derive(Clone, PartialEq, Message)]
struct Image {
    #[prost(string, tag = "1")]
    image: String,
    /// `user_specified_image`
    #[prost(string, tag = "18")]
    user_specified: String,
}

/// `PodSandboxStatusRequest`
#[derive(Clone, PartialEq, Message)]
struct PodQuestion {
    /// `pod_sandbox_id`
    #[prost(string, tag = "1")]
    id: String,
}

/// `PodSandboxStatusResponse`
#[derive(Clone, PartialEq, Message)]
struct PodAnswer {
    #[prost(message, optional, tag = "1")]
    status: Option<PodStatus>,
}

/// `PodSandboxStatus`
#[derive(Clone, PartialEq, Message)]
struct PodStatus {
    #[prost(message, optional, tag = "2")]
    metadata: Option<Metadata>,
    /// `PodSandboxNetworkStatus`
    #[prost(message, optional, tag = "5")]
    network: Option<Network>,
    /// `LinuxPodSandboxStatus`
    #[prost(message, optional, tag = "6")]
    linux: Option<Linux>,
    #[prost(map = "string, string", tag = "7")]
    labels: HashMap<String, String>,
    #[prost(map = "string, string", tag = "8")]
    annotations: HashMap<String, String>,
}

impl PodStatus {
    /// `NamespaceMode`
    fn network_mode(&self) -> i32 {
        let namespaces = self.linux.as_ref().and_then(|linux| linux.namespaces.as_ref());
        namespaces.and_then(|namespaces| namespaces.options.as_ref()).map_or(0, |options| options.network)
    }
}

/// `NamespaceMode.NODE`: the machine's own namespace.
const NODE: i32 = 2;

#[derive(Clone, PartialEq, Message)]
struct Network {
    #[prost(string, tag = "1")]
    ip: String,
    /// `additional_ips`
    #[prost(message, repeated, tag = "2")]
    more: Vec<PodIp>,
}

#[derive(Clone, PartialEq, Message)]
struct PodIp {
    #[prost(string, tag = "1")]
    ip: String,
}

#[derive(Clone, PartialEq, Message)]
struct Linux {
    #[prost(message, optional, tag = "1")]
    namespaces: Option<Namespaces>,
}

/// `Namespace`
#[derive(Clone, PartialEq, Message)]
struct Namespaces {
    #[prost(message, optional, tag = "2")]
    options: Option<NamespaceOptions>,
}

#[derive(Clone, PartialEq, Message)]
struct NamespaceOptions {
    #[prost(int32, tag = "1")]
    network: i32,
}

/// `ContainerEventResponse`. That something happened is all that is asked of it.
#[derive(Clone, PartialEq, Message)]
struct Event {}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::{Mutex, MutexGuard};

    use super::super::Sockets;
    use super::super::fake::{Directory, Reply, RpcServer, Watched, message, session_with};
    use super::*;

    #[derive(Clone, Default)]
    struct Fake(Arc<Mutex<State>>);

    #[derive(Default)]
    struct State {
        containers: BTreeMap<String, Container>,
        pods: BTreeMap<String, PodStatus>,
        has_events: bool,
        events: Option<mpsc::UnboundedSender<Vec<u8>>>,
        /// Questions for the list and for pods.
        lists: usize,
        asked: Vec<String>,
    }

    impl Fake {
        fn serve(&self, socket: &Path) -> RpcServer {
            let fake = self.clone();
            RpcServer::new(socket, move |path, _, question| fake.answer(path, question))
        }

        fn state(&self) -> MutexGuard<'_, State> {
            self.0.lock().unwrap()
        }

        fn answer(&self, path: &str, question: &[u8]) -> Reply {
            let mut state = self.state();
            match path {
                CONTAINERS => {
                    state.lists += 1;
                    message(List::<MAX_CONTAINERS, Container>(state.containers.values().cloned().collect()))
                }
                POD => {
                    let id = PodQuestion::decode(question).unwrap().id;
                    state.asked.push(id.clone());
                    let status = state.pods.get(&id).cloned();
                    status.map_or(Reply::Error(5), |status| message(PodAnswer { status: Some(status) }))
                }
                EVENTS if !state.has_events => Reply::Error(12),
                EVENTS => {
                    let (sender, receiver) = mpsc::unbounded_channel();
                    state.events = Some(sender);
                    Reply::Events(receiver)
                }
                other => panic!("{other}"),
            }
        }

        fn put(&self, id: &str, sandbox: &str, name: &str) {
            let container = Container {
                id: id.into(),
                sandbox: sandbox.into(),
                metadata: Some(Metadata { name: name.into(), namespace: String::new() }),
                image: Some(Image { image: "sha256:01".into(), user_specified: "nginx:1".into() }),
                state: 1,
                ..Container::default()
            };
            self.state().containers.insert(id.into(), container);
        }

        fn put_pod(&self, id: &str, name: &str, mode: i32, ips: &[&str]) {
            let ip = |ip: &&str| PodIp { ip: ip.to_string() };
            let options = Some(NamespaceOptions { network: mode });
            let status = PodStatus {
                metadata: Some(Metadata { name: name.into(), namespace: "shop".into() }),
                network: ips
                    .split_first()
                    .map(|(first, more)| Network { ip: first.to_string(), more: more.iter().map(ip).collect() }),
                linux: Some(Linux { namespaces: Some(Namespaces { options }) }),
                labels: HashMap::from([("app".into(), "web".into())]),
                annotations: HashMap::from([("team".into(), "edge".into())]),
            };
            self.state().pods.insert(id.into(), status);
        }
    }

    fn watched(socket: &Path) -> Watched {
        Watched::new(Sockets { cri: Some(socket.to_owned()), ..Sockets::default() })
    }

    #[test]
    fn containers_and_their_pods() {
        let (directory, fake) = (Directory::new(), Fake::default());
        fake.put("a", "pod-1", "nginx");
        fake.put("b", "pod-1", "sidecar");
        fake.put("c", "pod-2", "proxy");
        fake.put("d", "pod-3", "orphan");
        fake.put("e", "pod-3", "ended");
        fake.state().containers.get_mut("e").unwrap().state = 2;
        fake.put_pod("pod-1", "web-0", 0, &["10.1.0.5", "fd00::5", "no address"]);
        fake.put_pod("pod-2", "kube-proxy", NODE, &["192.168.0.10"]);
        let _server = fake.serve(&directory.socket());
        let watched = watched(&directory.socket());
        watched.until(|now| now.names().len() == 4);

        let nginx = watched.facts("a").unwrap();
        assert_eq!((nginx.name.as_str(), nginx.image.as_str()), ("nginx", "nginx:1"));
        assert_eq!(nginx.shares, Some(Shares::Container("pod-1".into())));
        let pod = nginx.pod.clone().unwrap();
        assert_eq!((pod.name.as_str(), pod.namespace.as_str()), ("web-0", "shop"));
        assert_eq!((&pod.labels["app"][..], &pod.annotations["team"][..]), ("web", "edge"));
        assert_eq!(pod.addresses, ["10.1.0.5", "fd00::5"].map(|text| text.parse::<std::net::IpAddr>().unwrap()));
        assert_eq!(watched.facts("b").unwrap().pod.as_deref(), Some(&*pod));
        let proxy = watched.facts("c").unwrap();
        assert_eq!(proxy.shares, Some(Shares::Machine));
        assert!(proxy.pod.as_ref().unwrap().addresses.is_empty(), "the machine's are not the pod's");
        assert!(watched.facts("d").unwrap().pod.is_none());
        assert!(watched.facts("e").is_none(), "it has ended");
    }

    #[test]
    fn without_events_the_list_is_read_every_second() {
        let (directory, fake) = (Directory::new(), Fake::default());
        fake.put("a", "pod-1", "nginx");
        fake.put_pod("pod-1", "web-0", 0, &[]);
        let _server = fake.serve(&directory.socket());
        let watched = watched(&directory.socket());
        watched.until(|now| now.names() == ["nginx"]);
        fake.put_pod("pod-1", "web-0", 0, &["10.1.0.5"]);
        fake.put("b", "pod-1", "sidecar");
        watched.until(|now| now.names().len() == 2);
        let asked = fake.state().asked.len();
        assert_eq!(
            watched.facts("b").unwrap().pod.as_ref().unwrap().addresses.len(),
            1,
            "which it did not have before"
        );
        fake.state().containers.remove("b");
        watched.until(|now| now.names() == ["nginx", "sidecar"]);
        fake.put("c", "pod-1", "third");
        watched.until(|now| now.facts("c").is_some());
        assert_eq!(fake.state().asked.len(), asked, "a pod that is known whole is not asked for again");
    }

    #[test]
    fn with_events_it_is_read_when_something_happens() {
        let (directory, fake) = (Directory::new(), Fake::default());
        fake.state().has_events = true;
        let _server = fake.serve(&directory.socket());
        let watched = watched(&directory.socket());
        for number in 0..3 {
            let id = format!("{number}");
            fake.put(&id, "pod-1", &id);
            let sender = fake.state().events.clone();
            if let Some(sender) = sender {
                sender.send(Event {}.encode_to_vec()).unwrap();
            }
            let took = watched.until(|now| now.facts(&id).is_some());
            assert!(took < Duration::from_millis(1500), "{took:?}");
        }
        let lists = fake.state().lists;
        // Nothing tells of a list that is not read.
        std::thread::sleep(2 * EVERY);
        assert_eq!(fake.state().lists, lists);
    }

    #[test]
    fn one_without_the_service_is_as_none_at_all() {
        let directory = Directory::new();
        let _server = RpcServer::new(&directory.socket(), |_, _, _| Reply::Error(12));
        let is_absent = std::cell::Cell::new(false);
        session_with(&directory.socket(), async |link: &Link| {
            let Err(error) = session(link).await;
            is_absent.set(error.is::<Absent>());
            Err(error)
        });
        assert!(is_absent.get());
    }

    #[test]
    fn answers_that_are_none_end_the_session() {
        let pod: fn() -> Reply = || Reply::Messages(vec![b"hello".to_vec()]);
        let list: fn() -> Reply = || {
            let container = Container { id: "a".into(), sandbox: "pod-1".into(), ..Container::default() };
            message(List::<1, Container>(vec![container]))
        };
        for (list, expected) in [
            (list, "nothing of pod"),
            (|| Reply::Messages(vec![b"hello".to_vec()]), "no list of containers"),
            (|| Reply::Messages(Vec::new()), "no list of containers"),
            (|| Reply::Messages(vec![vec![0; 9 << 20]]), "too large"),
            (|| Reply::Error(16), "Unauthenticated"),
        ] {
            let directory = Directory::new();
            let _server = RpcServer::new(&directory.socket(), move |path, _, _| match path {
                CONTAINERS => list(),
                POD => pod(),
                _ => Reply::Silence,
            });
            let error = session_with(&directory.socket(), session).0;
            assert!(error.contains(expected), "{error} is not {expected}");
        }
    }
}
