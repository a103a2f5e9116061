//! The plugin `http_capture`: rules decide how much of each exchange goes to the object stores.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::sync::Arc;

use crate::config::{HttpCapture, Tags};
use crate::exchange::{
    Address, Connection, ContainerFacts, Direction, Exchange, Level, Missing, Protocol, Record, grpc,
};
use crate::proto::{Head, Version};
use crate::rules::{Fact, Facts, Field, Peer, decide};
use crate::url;

/// See [`super::body_wanted`].
pub fn body_wanted(
    capture: &HttpCapture,
    tags: &Tags,
    connection: &Connection,
    request: Option<&Head>,
    response: Option<&Head>,
) -> usize {
    let so_far = SoFar { request, response, ..SoFar::new(connection, tags) };
    match decide(&capture.rules, capture.level, &so_far).max {
        Level::Full => usize::try_from(capture.max_body_bytes).unwrap_or(usize::MAX),
        _ => 0,
    }
}

/// The record of a finished exchange; none where the level is `none`.
pub fn record(capture: &HttpCapture, tags: &Tags, exchange: Box<Exchange>) -> Option<Record> {
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
    Some(Record::Exchange {
        exchange,
        level,
        format: capture.format,
        encoding: capture.body_encoding,
        max_body_bytes: usize::try_from(capture.max_body_bytes).unwrap_or(usize::MAX),
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
    tags: OnceCell<Arc<Vec<(String, String)>>>,
}

impl Facts for SoFar<'_> {
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
            Field::TlsEnabled => Fact::Bool(false),
            Field::TlsVersion | Field::TlsSni | Field::TlsAlpn => Fact::Absent,
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

    /// What the runtime says of the watched process's container.
    fn container(&self) -> Option<&ContainerFacts> {
        self.container.get_or_init(|| self.connection.process.container_facts()).as_deref()
    }

    /// Whether there is a container of which more may become known.
    fn is_container_open(&self) -> bool {
        !self.is_finished && self.connection.process.container.is_some() && self.container().is_none()
    }

    fn tags(&self) -> &Arc<Vec<(String, String)>> {
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

    /// `is_source`: the end that asks. The watched process is at one end; of the other only the address is known.
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
            Peer::ContainerId => text(process.and_then(|process| Some(process.container.as_ref()?.id.as_str()))),
            _ if !is_watched => Fact::Absent,
            _ if self.is_container_open() => Fact::NotYet,
            _ => text(self.container().and_then(|container| of_container(peer, container)).filter(|v| !v.is_empty())),
        }
    }
}

/// What a container, or its pod, answers.
fn of_container<'a>(peer: &Peer, container: &'a ContainerFacts) -> Option<&'a str> {
    let pod = container.pod.as_ref();
    match peer {
        Peer::ContainerName => Some(&container.name),
        Peer::ContainerImage => Some(&container.image),
        Peer::ContainerLabel(name) => container.labels.get(&**name).map(String::as_str),
        Peer::PodName => Some(&pod?.name),
        Peer::PodNamespace => Some(&pod?.namespace),
        Peer::PodLabel(name) => pod?.labels.get(&**name).map(String::as_str),
        _ => None,
    }
}

fn header<'a>(head: &'a Head, name: &str) -> Option<Cow<'a, str>> {
    head.header(name).map(text)
}

fn text(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}
