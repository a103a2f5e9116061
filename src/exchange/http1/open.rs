//! An exchange in the making: what was seen of it, what is kept, and what it lacks.

use super::{Host, Side};
use crate::conn::Why;
use crate::exchange::{Message, Missing, Nanos};
use crate::proto::http1::Asked;

/// An exchange in the making.
#[derive(Debug, Default)]
pub(super) struct Open {
    /// When the request began; where it was not seen, the response.
    pub(super) began: Nanos,
    pub(super) request: Option<Message>,
    pub(super) response: Option<Message>,
    pub(super) missing: Vec<Missing>,
    pub(super) request_done: bool,
    pub(super) response_done: bool,
    /// Body bytes wanted of each side.
    pub(super) wanted: usize,
    /// The request asks to leave HTTP: what follows it depends on the response.
    pub(super) may_leave: bool,
    /// Requests may have gone by unseen before this one.
    pub(super) after_loss: bool,
}

impl Open {
    pub(super) fn asked(&self) -> Asked {
        match self.request.as_ref().map(|request| request.head.method()) {
            Some(b"HEAD") => Asked::Head,
            Some(b"CONNECT") => Asked::Connect,
            _ => Asked::Normal,
        }
    }

    pub(super) fn message(&mut self, side: Side) -> Option<&mut Message> {
        match side {
            Side::Request => self.request.as_mut(),
            Side::Response => self.response.as_mut(),
        }
    }

    /// Whether it is the response to that request, for sure. If it is one to HEAD it has no body, whatever its head says.
    pub(super) fn is_paired(&self) -> bool {
        self.request.is_some() && !self.missing.contains(&Missing::PairingUncertain)
    }

    pub(super) fn set_done(&mut self, side: Side) {
        match side {
            Side::Request => self.request_done = true,
            Side::Response => self.response_done = true,
        }
    }

    pub(super) fn miss(&mut self, missing: Missing) {
        if !self.missing.contains(&missing) {
            self.missing.push(missing);
        }
    }

    pub(super) fn kept(&self) -> usize {
        let kept = |message: &Option<Message>| message.as_ref().map_or(0, |message| message.body.kept.len());
        kept(&self.request) + kept(&self.response)
    }

    /// Counts body bytes and keeps those that are wanted: always a prefix.
    pub(super) fn keep(&mut self, host: &mut dyn Host, side: Side, data: &[u8], time: Nanos) {
        let wanted = self.wanted;
        let over_memory = match side {
            Side::Request => Missing::RequestBodyOverMemory,
            Side::Response => Missing::ResponseBodyOverMemory,
        };
        let Some(message) = self.message(side) else { return };
        let body = &mut message.body;
        let is_prefix = body.kept.len() as u64 == body.wire_bytes;
        body.wire_bytes += data.len() as u64;
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
        let wanted = self.wanted;
        let Some(message) = self.message(side) else { return };
        let body = &mut message.body;
        let was_wanted = body.kept.len() < wanted && body.kept.len() as u64 == body.wire_bytes;
        body.wire_bytes += bytes;
        message.last_byte = message.last_byte.max(time);
        // What is skipped, or lies behind a body that is full, was not wanted; `mark_truncated` tells of the latter.
        let is_wanted = was_wanted || self.has_unseen(side);
        if why == Why::Skipped || wanted == 0 || !is_wanted {
            return;
        }
        for missing in &mut self.missing {
            if let Some(sum) = sum_of(missing, side, why) {
                *sum += bytes;
                return;
            }
        }
        self.missing.push(unseen(side, bytes, why));
    }

    fn has_unseen(&mut self, side: Side) -> bool {
        self.missing.iter_mut().any(|missing| {
            sum_of(missing, side, Why::Unobservable).is_some() || sum_of(missing, side, Why::Lost).is_some()
        })
    }

    /// Says of bodies that they are longer than what was wanted of them.
    pub(super) fn mark_truncated(&mut self) {
        let wanted = self.wanted as u64;
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
