//! The plugin `http_capture`: rules decide how much of each exchange goes to the object stores.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::sync::Arc;

use super::lot::lot;
use crate::config::{HttpCapture, Tags};
use crate::exchange::pairing::Wanted;
use crate::exchange::{
    Address, Connection, Container, ContainerFacts, Direction, Exchange, Level, Missing, Pod, Protocol, Record,
    TagList, Tls, grpc,
};
use crate::proto::{Head, Version};
use crate::rules::{Fact, Facts, Field, Peer, decide};
use crate::url;

/// See [`super::wanted`].
pub fn wanted(
    capture: &HttpCapture,
    tags: &Tags,
    connection: &Connection,
    request: Option<&Head>,
    response: Option<&Head>,
) -> Wanted {
    if !capture.sample.has(|| lot(connection, request)) {
        return Wanted::NOTHING;
    }
    let max = match &capture.rules[..] {
        [] => capture.level,
        rules => decide(rules, capture.level, &SoFar { request, response, ..SoFar::new(connection, tags) }).max,
    };
    let body = match max {
        Level::Full => usize::try_from(capture.max_body_bytes).unwrap_or(usize::MAX),
        _ => 0,
    };
    Wanted { body, record: max > Level::None }
}

/// The record of a finished exchange; none where the level is `none`.
pub fn record(capture: &HttpCapture, tags: &Tags, mut exchange: Box<Exchange>) -> Option<Record> {
    if !capture.sample.has(|| lot(&exchange.connection, exchange.request.as_ref().map(|request| &request.head))) {
        return None;
    }
    let finished = SoFar {
        request: exchange.request.as_ref().map(|request| &request.head),
        response: exchange.response.as_ref().map(|response| &response.head),
        duration_ms: exchange.duration_ms(),
        grpc_status: exchange.response.as_ref().and_then(grpc::status),
        is_finished: true,
        ..SoFar::new(&exchange.connection, tags)
    };
    let level = decide(&capture.rules, capture.level, &finished).max;
    // Of what is still open only those want to hear who want to hear all.
    let least = if exchange.missing.contains(&Missing::StillOpen) { Level::Full } else { Level::Summary };
    if level < least {
        return None;
    }
    let tags = finished.tags().clone();
    if let Some(redact) = &capture.redact {
        redact.exchange(&mut exchange);
    }
    Some(Record::Exchange {
        exchange,
        level,
        format: capture.format,
        encoding: capture.body_encoding,
        max_body_bytes: usize::try_from(capture.max_body_bytes).unwrap_or(usize::MAX),
        redact: capture.redact.as_ref().filter(|redact| redact.is_for_bodies()).cloned(),
        tags,
    })
}

/// An exchange as far as it is known: what is not there yet may still come, until it is finished.
struct SoFar<'a> {
    connection: &'a Connection,
    request: Option<&'a Head>,
    response: Option<&'a Head>,
    duration_ms: Option<f64>,
    grpc_status: Option<u32>,
    is_finished: bool,
    tag_settings: &'a Tags,
    /// Looked up once, where it is asked for: what the runtime says of a container may change at any time.
    container: OnceCell<Option<Arc<ContainerFacts>>>,
    /// Of the other end.
    other: OnceCell<Other>,
    tags: OnceCell<TagList>,
}

impl Facts for SoFar<'_> {
    fn lot(&self) -> u64 {
        lot(self.connection, self.request)
    }

    fn fact(&self, field: &Field) -> Fact<'_> {
        match field {
            Field::Method => self.request_text(|head| Some(text(head.method()))),
            Field::Path => self.request_text(|head| Some(text(url::path(head)))),
            Field::Host => self.request_text(|head| Some(url::host(self.connection, head))),
            Field::Url => self.request_text(|head| Some(Cow::Owned(url::url(self.connection, head)))),
            Field::Scheme => self.request_text(|head| url::scheme(self.connection, head).map(text)),
            Field::Query => self.request_text(|head| url::query(head).map(text)),
            Field::RequestHeader(name) => self.request_text(|head| header(head, name)),
            Field::ResponseHeader(name) => self.known(self.response, |head| header(head, name).map(Fact::Text)),
            Field::Status => {
                self.known(self.response.filter(|head| head.status() > 0), |head| Some(Fact::Int(head.status().into())))
            }
            Field::DurationMs => self.known(self.duration_ms, |ms| Some(Fact::Float(ms))),
            Field::Src(peer) => self.peer(peer, self.connection.source(), true),
            Field::Dst(peer) => self.peer(peer, self.connection.destination(), false),
            Field::TlsEnabled => Fact::Bool(self.connection.tls.is_some()),
            Field::TlsVersion => self.tls(|tls| tls.info.version),
            Field::TlsSni => self.tls(|tls| tls.info.sni.as_deref()),
            Field::TlsAlpn => self.tls(|tls| tls.info.alpn.as_deref()),
            Field::TlsLibrary => self.tls(|tls| tls.library),
            Field::Protocol => Fact::Text(Cow::Borrowed(self.protocol().name())),
            Field::GrpcService => self.request_text(|head| Some(text(grpc::called(head)?.0))),
            Field::GrpcMethod => self.request_text(|head| Some(text(grpc::called(head)?.1))),
            Field::GrpcStatus => self.known(self.grpc_status, |status| Some(Fact::Int(status.into()))),
            Field::Direction => Fact::Text(Cow::Borrowed(self.connection.direction.name())),
            Field::Tags if self.tag_settings.need_container() && self.is_container_open() => Fact::NotYet,
            Field::Tags => Fact::Tags(self.tags()),
            Field::Tag(key) => self.tag(key),
        }
    }
}

impl<'a> SoFar<'a> {
    fn new(connection: &'a Connection, tag_settings: &'a Tags) -> SoFar<'a> {
        SoFar {
            connection,
            request: None,
            response: None,
            duration_ms: None,
            grpc_status: None,
            is_finished: false,
            tag_settings,
            container: OnceCell::new(),
            other: OnceCell::new(),
            tags: OnceCell::new(),
        }
    }

    fn protocol(&self) -> Protocol {
        let is_http2 = |head: &Head| head.version == Version::Http2;
        match self.request.or(self.response) {
            Some(head) if is_http2(head) => Protocol::Http2,
            _ => Protocol::Http1,
        }
    }

    fn tls<'s>(&'s self, part: impl FnOnce(&'s Tls) -> Option<&'s str>) -> Fact<'s> {
        let part = self.connection.tls.as_ref().and_then(part);
        part.map_or(Fact::Absent, |part| Fact::Text(Cow::Borrowed(part)))
    }

    /// What the runtime says of the watched process's container.
    fn container(&self) -> Option<&ContainerFacts> {
        self.container.get_or_init(|| self.connection.process.container_facts()).as_deref()
    }

    /// Whether there is a container of which more may become known.
    fn is_container_open(&self) -> bool {
        !self.is_finished && self.connection.process.container.is_some() && self.container().is_none()
    }

    fn tags(&self) -> &TagList {
        self.tags.get_or_init(|| {
            let container = if self.tag_settings.need_container() { self.container() } else { None };
            self.tag_settings.of(container)
        })
    }

    fn tag(&self, key: &str) -> Fact<'_> {
        match self.tags().iter().find(|(known, _)| known == key) {
            Some((_, value)) => Fact::Text(Cow::Borrowed(value)),
            None if self.tag_settings.need_container() && self.is_container_open() => Fact::NotYet,
            None => Fact::Absent,
        }
    }

    fn known<'s, T>(&'s self, value: Option<T>, fact: impl FnOnce(T) -> Option<Fact<'s>>) -> Fact<'s> {
        match value {
            Some(value) => fact(value).unwrap_or(Fact::Absent),
            None if self.is_finished => Fact::Absent,
            None => Fact::NotYet,
        }
    }

    /// A request that was not seen before its response will not be.
    fn request_text<'s>(&'s self, value: impl FnOnce(&'s Head) -> Option<Cow<'s, str>>) -> Fact<'s> {
        match self.request {
            Some(head) => value(head).map_or(Fact::Absent, Fact::Text),
            None => Fact::Absent,
        }
    }

    /// Who has the address at the other end, as far as the container runtimes know that now.
    fn other(&self) -> &Other {
        self.other.get_or_init(|| {
            let ip = match self.connection.direction {
                Direction::Ingress => self.connection.source().ip(),
                Direction::EgressInternal | Direction::EgressExternal => self.connection.destination().ip(),
            };
            let (Some(ip), Some(names)) = (ip, &self.connection.process.names) else { return Other::default() };
            let container = names.container(ip);
            let facts = container.as_ref().and_then(|container| container.facts());
            Other {
                pod: facts.as_ref().and_then(|facts| facts.pod.clone()).or_else(|| names.pod(ip)),
                container,
                facts,
            }
        })
    }

    /// `is_source`: the end that asks. The watched process is at one end; of the other the address is known, and its
    /// container or pod where a runtime gave that address to one.
    fn peer<'s>(&'s self, peer: &Peer, address: &'s Address, is_source: bool) -> Fact<'s> {
        let is_watched = is_source != (self.connection.direction == Direction::Ingress);
        let process = is_watched.then_some(&*self.connection.process);
        let text = |value: Option<&'s str>| value.map_or(Fact::Absent, |value| Fact::Text(Cow::Borrowed(value)));
        match peer {
            Peer::Ip => address.ip().map_or(Fact::Absent, Fact::Ip),
            Peer::Port => address.port().map_or(Fact::Absent, |port| Fact::Int(port.into())),
            Peer::Domain if is_source => Fact::Absent,
            Peer::Domain => self.request_text(|head| Some(url::host(self.connection, head))),
            Peer::ProcessPath => text(process.map(|process| process.exe.as_str())),
            Peer::ProcessBinary => text(process.map(|process| process.binary())),
            Peer::ProcessPid => process.map_or(Fact::Absent, |process| Fact::Int(process.pid.into())),
            Peer::ProcessUserName => text(process.and_then(|process| process.user_name.as_deref())),
            Peer::ProcessUserId => {
                process.and_then(|process| process.user_id).map_or(Fact::Absent, |id| Fact::Int(id.into()))
            }
            Peer::ContainerId => {
                let container =
                    process.map_or_else(|| self.other().container.as_ref(), |process| process.container.as_ref());
                text(container.map(|container| container.id.as_str()))
            }
            _ if is_watched && self.is_container_open() => Fact::NotYet,
            _ => {
                let (container, pod) = match is_watched {
                    true => (self.container(), self.container().and_then(|facts| facts.pod.as_deref())),
                    false => (self.other().facts.as_deref(), self.other().pod.as_deref()),
                };
                let value = container.and_then(|facts| of_container(peer, facts)).or_else(|| of_pod(peer, pod?));
                text(value.filter(|value| !value.is_empty()))
            }
        }
    }
}

/// What is known of the end that is not watched.
#[derive(Default)]
struct Other {
    container: Option<Arc<Container>>,
    facts: Option<Arc<ContainerFacts>>,
    pod: Option<Arc<Pod>>,
}

fn of_container<'a>(peer: &Peer, container: &'a ContainerFacts) -> Option<&'a str> {
    match peer {
        Peer::ContainerName => Some(&container.name),
        Peer::ContainerImage => Some(&container.image),
        Peer::ContainerLabel(name) => container.labels.get(&**name).map(String::as_str),
        _ => None,
    }
}

fn of_pod<'a>(peer: &Peer, pod: &'a Pod) -> Option<&'a str> {
    match peer {
        Peer::PodName => Some(&pod.name),
        Peer::PodNamespace => Some(&pod.namespace),
        Peer::PodLabel(name) => pod.labels.get(&**name).map(String::as_str),
        _ => None,
    }
}

fn header<'a>(head: &'a Head, name: &str) -> Option<Cow<'a, str>> {
    head.header(name).map(text)
}

fn text(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr};

    use super::*;
    use crate::exchange::{Attachment, Process};
    use crate::names::{Names, RuntimeNames};
    use crate::tls::Info;

    const ME: &str = "172.18.0.2";
    const OTHER: &str = "172.18.0.5";
    const UNKNOWN: &str = "172.18.0.9";

    fn container(name: &str, address: &str) -> Arc<Container> {
        let container = Container::new(format!("id-of-{name}"));
        let networks = vec![Attachment {
            network: "demo".into(),
            addresses: vec![address.parse().unwrap()],
            names: vec![name.into()],
        }];
        let pod =
            Pod { name: format!("pod-of-{name}"), labels: [("app".into(), "shop".into())].into(), ..Pod::default() };
        container.learn(Some(Arc::new(ContainerFacts {
            name: name.into(),
            labels: [("tier".into(), "web".into())].into(),
            networks,
            pod: Some(Arc::new(pod)),
            ..ContainerFacts::default()
        })));
        Arc::new(container)
    }

    /// Between the watched process, in a container, and that address.
    fn connection(direction: Direction, peer: &str) -> Connection {
        let all = [container("me", ME), container("other", OTHER)];
        let names = Names::default();
        names.network.set_runtime(RuntimeNames::new(&all).of(Some("id-of-me")));
        let process = Process { container: Some(all[0].clone()), names: Some(Arc::new(names)), ..Process::default() };
        let address = |ip: &str| Address::Ip(SocketAddr::new(ip.parse::<IpAddr>().unwrap(), 80));
        Connection {
            id: 1,
            direction,
            local: address(ME),
            remote: address(peer),
            process: Arc::new(process),
            tls: None,
            written: Default::default(),
        }
    }

    fn fact(connection: &Connection, field: &str) -> Option<String> {
        let tags = Tags::default();
        match SoFar::new(connection, &tags).fact(&Field::parse(field).expect("a field")) {
            Fact::Text(text) => Some(text.into_owned()),
            Fact::Absent => None,
            other => panic!("{field}: {other:?}"),
        }
    }

    #[test]
    fn rules_see_what_tls_is_on_the_connection() {
        let mut connection = connection(Direction::Ingress, OTHER);
        let enabled = |connection: &Connection| {
            let tags = Tags::default();
            let facts = SoFar::new(connection, &tags);
            matches!(facts.fact(&Field::TlsEnabled), Fact::Bool(true))
        };
        assert!(!enabled(&connection));
        assert_eq!(fact(&connection, "tls.sni"), None);
        let info = Info { version: Some("1.2"), sni: Some("shop.test".into()), ..Info::default() };
        connection.tls = Some(Tls { info, library: Some("go"), ..Tls::default() });
        assert!(enabled(&connection));
        assert_eq!(fact(&connection, "tls.sni").as_deref(), Some("shop.test"));
        assert_eq!(fact(&connection, "tls.version").as_deref(), Some("1.2"));
        assert_eq!(fact(&connection, "tls.alpn"), None);
        assert_eq!(fact(&connection, "tls.library").as_deref(), Some("go"));
    }

    #[test]
    fn both_ends_have_the_container_that_has_their_address() {
        for (direction, mine, others) in [(Direction::Ingress, "dst", "src"), (Direction::EgressInternal, "src", "dst")]
        {
            let connection = connection(direction, OTHER);
            for (end, name) in [(mine, "me"), (others, "other")] {
                let fact = |field: &str| fact(&connection, &format!("{end}.{field}"));
                assert_eq!(fact("container.name").as_deref(), Some(name));
                assert_eq!(fact("container.id"), Some(format!("id-of-{name}")));
                assert_eq!(fact("container.labels.tier").as_deref(), Some("web"));
                assert_eq!(fact("container.labels.none"), None);
                assert_eq!(fact("container.image"), None);
                assert_eq!(fact("pod.name"), Some(format!("pod-of-{name}")));
                assert_eq!(fact("pod.labels.app").as_deref(), Some("shop"));
            }
        }
    }

    #[test]
    fn of_an_address_that_no_container_has_nothing_is_known() {
        let connection = connection(Direction::EgressInternal, UNKNOWN);
        for field in ["container.name", "container.id", "container.labels.tier", "pod.name", "process.binary"] {
            assert_eq!(fact(&connection, &format!("dst.{field}")), None, "{field}");
        }
    }
}
