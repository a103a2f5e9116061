//! What pairing stands on in each version of HTTP: the outside, what is told of bytes, and an exchange in the making.

use std::sync::Arc;

use super::{Body, Connection, Exchange, Message, Missing, Nanos, Protocol};
use crate::conn::Why;
use crate::proto::http1::Asked;
use crate::proto::{Head, grpc};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Request,
    Response,
}

/// What may still be wanted of an exchange, whatever becomes known of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// So many bytes of each body.
    pub body: usize,
    /// Any record at all.
    pub record: bool,
}

impl Wanted {
    pub const NOTHING: Wanted = Wanted { body: 0, record: false };
}

/// What pairing asks of the outside.
pub trait Host {
    /// What any rule may still want, given what is known.
    fn wanted(&mut self, request: Option<&Head>, response: Option<&Head>) -> Wanted;
    /// Reserves memory for body bytes; false when there is none left.
    fn reserve(&mut self, bytes: usize) -> bool;
    /// Gives back what was reserved for body bytes that are dropped.
    fn release(&mut self, bytes: usize);
    /// Whether more is held in memory than there should be.
    fn is_full(&self) -> bool;
    /// Takes an exchange that is as complete as it will get; `wanted`: the last answer as to that.
    fn finished(&mut self, exchange: Box<Exchange>, wanted: Wanted);
    /// Takes what is known by now of an exchange that goes on for long; answers its id, for what is told of it later.
    fn still_open(&mut self, exchange: Box<Exchange>) -> u64;
}

/// What is known of the connection as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// No message was seen yet.
    Unrecognised,
    /// No message in many calls, but the start of the connection was not seen either.
    Doubtful,
    /// The first bytes were no message.
    NotHttp,
    Http,
    /// The peers left HTTP for another protocol.
    Tunnel,
    /// The peers go on in HTTP/2.
    Upgraded,
}

/// How many bytes went by unseen, and why.
#[derive(Debug, Clone, Copy)]
pub struct Gap {
    pub len: u64,
    pub why: Why,
    pub time: Nanos,
}

/// An exchange in the making.
#[derive(Debug)]
pub(super) struct Open {
    /// As far as it is known: where it lies, it stays until the plugins have it.
    pub(super) exchange: Box<Exchange>,
    /// When the request began; where it was not seen, the response.
    pub(super) began: Nanos,
    pub(super) request_done: bool,
    pub(super) response_done: bool,
    /// What is wanted of it. Its body bytes are those of each side.
    pub(super) wanted: Wanted,
    /// The request asks to leave HTTP: what follows it depends on the response.
    pub(super) may_leave: bool,
    /// Requests may have gone by unseen before this one.
    pub(super) after_loss: bool,
    /// Bytes of the response's body went by unseen.
    pub(super) has_gap: bool,
}

impl Message {
    /// A message of which the head was seen.
    pub(super) fn begin(head: Head, first_byte: Nanos, last_byte: Nanos) -> Message {
        let grpc = grpc::form_of(&head).map(|form| Box::new(grpc::Messages::new(form)));
        let body = Body { grpc, ..Body::default() };
        Message { head, body, trailers: None, first_byte, last_byte }
    }
}

impl Open {
    pub(super) fn new(connection: &Arc<Connection>, protocol: Protocol) -> Open {
        Open {
            exchange: Box::new(Exchange {
                id: 0,
                connection: connection.clone(),
                protocol,
                stream: None,
                request: None,
                response: None,
                missing: Vec::new(),
            }),
            began: 0,
            request_done: false,
            response_done: false,
            wanted: Wanted { body: 0, record: true },
            may_leave: false,
            after_loss: false,
            has_gap: false,
        }
    }

    /// Neither side of it was seen.
    pub(super) fn is_empty(&self) -> bool {
        self.exchange.messages().next().is_none()
    }

    /// Its response begins.
    pub(super) fn begin_response(&mut self, host: &mut dyn Host, head: Head, first_byte: Nanos, last_byte: Nanos) {
        self.wanted = host.wanted(self.exchange.request.as_ref().map(|request| &request.head), Some(&head));
        if self.wanted.body == 0
            && let Some(request) = &mut self.exchange.request
        {
            host.release(std::mem::take(&mut request.body.kept).len());
        }
        self.exchange.response = Some(Message::begin(head, first_byte, last_byte));
    }

    /// Hands it out, as complete as it will get. What is known of the connection may be more than when it began.
    pub(super) fn finish(mut self, host: &mut dyn Host, connection: &Arc<Connection>) {
        self.mark_truncated();
        self.take_trailers();
        if !Arc::ptr_eq(&self.exchange.connection, connection) {
            self.exchange.connection = connection.clone();
        }
        host.finished(self.exchange, self.wanted);
    }

    pub(super) fn asked(&self) -> Asked {
        match self.exchange.request.as_ref().map(|request| request.head.method()) {
            Some(b"HEAD") => Asked::Head,
            Some(b"CONNECT") => Asked::Connect,
            _ => Asked::Normal,
        }
    }

    pub(super) fn message(&mut self, side: Side) -> Option<&mut Message> {
        match side {
            Side::Request => self.exchange.request.as_mut(),
            Side::Response => self.exchange.response.as_mut(),
        }
    }

    /// Whether the request asks for a tunnel.
    pub(super) fn is_connect(&self) -> bool {
        self.asked() == Asked::Connect
    }

    /// Whether it is the response to that request, for sure. If it is one to HEAD it has no body, whatever its head says.
    pub(super) fn is_paired(&self) -> bool {
        self.exchange.request.is_some() && !self.exchange.missing.contains(&Missing::PairingUncertain)
    }

    /// Whether the response's body is as long as its head, and what it answers, say (RFC 9113 section 8.1.1).
    pub(super) fn has_whole_response(&self) -> bool {
        let Some(response) = &self.exchange.response else { return false };
        if self.asked() == Asked::Head || matches!(response.head.status(), 204 | 304) {
            return true;
        }
        let length = response.head.header("content-length").and_then(|length| str::from_utf8(length).ok());
        length.and_then(|length| length.parse().ok()) == Some(response.body.wire_bytes)
    }

    pub(super) fn set_done(&mut self, side: Side) {
        match side {
            Side::Request => self.request_done = true,
            Side::Response => self.response_done = true,
        }
    }

    pub(super) fn miss(&mut self, missing: Missing) {
        if !self.exchange.missing.contains(&missing) {
            self.exchange.missing.push(missing);
        }
    }

    pub(super) fn kept(&self) -> usize {
        self.exchange.kept()
    }

    /// Counts body bytes and keeps those that are wanted: always a prefix.
    pub(super) fn keep(&mut self, host: &mut dyn Host, side: Side, data: &[u8], time: Nanos) {
        let wanted = self.wanted.body;
        let over_memory = match side {
            Side::Request => Missing::RequestBodyOverMemory,
            Side::Response => Missing::ResponseBodyOverMemory,
        };
        let Some(message) = self.message(side) else { return };
        let body = &mut message.body;
        let is_prefix = body.kept.len() as u64 == body.wire_bytes;
        body.wire_bytes += data.len() as u64;
        if let Some(grpc) = &mut body.grpc {
            grpc.feed(data);
        }
        message.last_byte = message.last_byte.max(time);
        let room = wanted.saturating_sub(body.kept.len()).min(data.len());
        if !is_prefix || room == 0 {
            return;
        }
        if host.reserve(room) {
            body.kept.extend_from_slice(&data[..room]);
        } else {
            self.miss(over_memory);
        }
    }

    pub(super) fn count_unseen(&mut self, side: Side, bytes: u64, why: Why, time: Nanos) {
        let wanted = self.wanted.body;
        self.has_gap |= side == Side::Response;
        let Some(message) = self.message(side) else { return };
        let body = &mut message.body;
        let was_wanted = body.kept.len() < wanted && body.kept.len() as u64 == body.wire_bytes;
        body.wire_bytes += bytes;
        if let Some(grpc) = &mut body.grpc {
            grpc.unseen(bytes);
        }
        message.last_byte = message.last_byte.max(time);
        // What is skipped, or lies behind a body that is full, was not wanted; `mark_truncated` tells of the latter.
        let is_wanted = was_wanted || self.has_unseen(side);
        if why == Why::Skipped || wanted == 0 || !is_wanted {
            return;
        }
        for missing in &mut self.exchange.missing {
            if let Some(sum) = sum_of(missing, side, why) {
                *sum += bytes;
                return;
            }
        }
        self.exchange.missing.push(unseen(side, bytes, why));
    }

    fn has_unseen(&mut self, side: Side) -> bool {
        self.exchange.missing.iter_mut().any(|missing| {
            sum_of(missing, side, Why::Unobservable).is_some() || sum_of(missing, side, Why::Lost).is_some()
        })
    }

    /// Says of bodies that they are longer than what was wanted of them.
    fn mark_truncated(&mut self) {
        let wanted = self.wanted.body as u64;
        for side in [Side::Request, Side::Response] {
            let Some(message) = self.message(side) else { continue };
            let is_cut = wanted > 0 && message.body.kept.len() as u64 == wanted && message.body.wire_bytes > wanted;
            if is_cut {
                self.miss(match side {
                    Side::Request => Missing::RequestBodyTruncated(wanted),
                    Side::Response => Missing::ResponseBodyTruncated(wanted),
                });
            }
        }
    }

    /// How many of the body bytes that follow on this side nobody wants; `certain`: how many there are for sure.
    pub(super) fn unwanted(&self, side: Side, certain: u64) -> u64 {
        let message = match side {
            Side::Request => &self.exchange.request,
            Side::Response => &self.exchange.response,
        };
        let Some(body) = message.as_ref().map(|message| &message.body) else { return 0 };
        let is_full = body.kept.len() >= self.wanted.body;
        let is_broken = body.wire_bytes > body.kept.len() as u64;
        match &body.grpc {
            _ if !is_full && !is_broken => 0,
            // Each message in it is counted.
            Some(grpc) => certain.min(grpc.certain()),
            None => certain,
        }
    }

    /// As it stands, for a report. Its bodies stay here.
    pub(super) fn report(&self, connection: &Arc<Connection>) -> Box<Exchange> {
        let without_body = |message: &Message| Message {
            head: message.head.clone(),
            body: Body { kept: Vec::new(), wire_bytes: message.body.wire_bytes, grpc: message.body.grpc.clone() },
            trailers: None,
            ..*message
        };
        let mut missing = self.exchange.missing.clone();
        missing.push(Missing::StillOpen);
        Box::new(Exchange {
            id: self.exchange.id,
            connection: connection.clone(),
            protocol: self.exchange.protocol,
            stream: self.exchange.stream,
            request: self.exchange.request.as_ref().map(without_body),
            response: self.exchange.response.as_ref().map(without_body),
            missing,
        })
    }

    /// Whether it is a gRPC call.
    pub(super) fn is_grpc(&self) -> bool {
        self.exchange.messages().any(|message| message.body.grpc.is_some())
    }

    /// Marks what was open when the connection ended or was given up.
    pub(super) fn mark_open(&mut self) {
        if self.exchange.request.is_some() && !self.request_done {
            self.miss(Missing::RequestAborted);
        }
        match &self.exchange.response {
            None => self.miss(Missing::Response),
            Some(_) if !self.response_done => self.miss(Missing::ResponseAborted),
            Some(_) => {}
        }
    }

    /// Bytes of the heads in it.
    pub(super) fn heads(&self) -> usize {
        self.exchange.messages().map(|message| message.head.weight()).sum()
    }

    /// Those of gRPC-Web are in the body.
    fn take_trailers(&mut self) {
        for message in self.exchange.messages_mut() {
            if message.trailers.is_none() {
                message.trailers = message.body.grpc.as_ref().and_then(|grpc| grpc.trailers());
            }
        }
    }

    pub(super) fn drop_bodies(&mut self) -> usize {
        let freed = self.kept();
        for (side, missing) in
            [(Side::Request, Missing::RequestBodyOverMemory), (Side::Response, Missing::ResponseBodyOverMemory)]
        {
            let Some(message) = self.message(side) else { continue };
            if !message.body.kept.is_empty() {
                message.body.kept = Vec::new();
                self.miss(missing);
            }
        }
        freed
    }
}

pub(super) fn aborted(side: Side) -> Missing {
    match side {
        Side::Request => Missing::RequestAborted,
        Side::Response => Missing::ResponseAborted,
    }
}

pub(super) fn unseen(side: Side, bytes: u64, why: Why) -> Missing {
    match (side, why) {
        (Side::Request, Why::Lost) => Missing::RequestBodyLost(bytes),
        (Side::Request, _) => Missing::RequestBodyNotObservable(bytes),
        (Side::Response, Why::Lost) => Missing::ResponseBodyLost(bytes),
        (Side::Response, _) => Missing::ResponseBodyNotObservable(bytes),
    }
}

fn sum_of(missing: &mut Missing, of: Side, why: Why) -> Option<&mut u64> {
    match (missing, of, why) {
        (Missing::RequestBodyLost(sum), Side::Request, Why::Lost)
        | (Missing::RequestBodyNotObservable(sum), Side::Request, Why::Unobservable)
        | (Missing::ResponseBodyLost(sum), Side::Response, Why::Lost)
        | (Missing::ResponseBodyNotObservable(sum), Side::Response, Why::Unobservable) => Some(sum),
        _ => None,
    }
}
