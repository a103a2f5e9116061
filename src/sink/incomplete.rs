//! The names of what an exchange lacks, as users see them in `incomplete`.
//!
//! A name may have a detail behind a colon: a number of bytes, or an error of HTTP/2 by its name. Below level full, what concerns the bytes of a
//! body is left out: nobody asked for them.

use std::fmt::Arguments;

use super::body::Shown;
use crate::exchange::{Exchange, Level, Missing};
use crate::proto::coding::Outcome;
use crate::proto::http2::error_name;

/// What came up about one message while it was written.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Found {
    /// Names, values or the target held bytes that are not UTF-8.
    pub(super) replaced: bool,
    coding: Option<Outcome>,
    truncated: Option<u64>,
}

impl Found {
    pub(super) fn body(&mut self, body: &Shown) {
        self.coding = body.coding;
        self.truncated = body.truncated;
    }
}

/// Calls `name` with each name, in the order things came up.
pub(super) fn each(
    exchange: &Exchange,
    level: Level,
    request: Found,
    response: Found,
    mut name: impl FnMut(Arguments<'_>),
) {
    for missing in &exchange.missing {
        let named_below = match missing {
            Missing::RequestBodyTruncated(_) => request.truncated.is_some(),
            Missing::ResponseBodyTruncated(_) => response.truncated.is_some(),
            _ => false,
        };
        let wanted = level == Level::Full || !concerns_body(*missing);
        if wanted && !named_below {
            each_missing(*missing, &mut name);
        }
    }
    each_found("request", request, &mut name);
    each_found("response", response, &mut name);
}

fn concerns_body(missing: Missing) -> bool {
    match missing {
        Missing::RequestBodyTruncated(_)
        | Missing::ResponseBodyTruncated(_)
        | Missing::RequestBodyNotObservable(_)
        | Missing::ResponseBodyNotObservable(_)
        | Missing::RequestBodyLost(_)
        | Missing::ResponseBodyLost(_)
        | Missing::RequestBodyOverMemory
        | Missing::ResponseBodyOverMemory => true,
        Missing::Request
        | Missing::Response
        | Missing::RequestAborted
        | Missing::ResponseAborted
        | Missing::RequestMalformed
        | Missing::ResponseMalformed
        | Missing::PairingUncertain
        | Missing::AgentStopped
        | Missing::RequestHeadersUnknown
        | Missing::ResponseHeadersUnknown
        | Missing::RequestLost
        | Missing::ResponseLost
        | Missing::ResetByClient(_)
        | Missing::ResetByServer(_)
        | Missing::GoAway(_)
        | Missing::StillOpen => false,
    }
}

fn each_missing(missing: Missing, name: &mut impl FnMut(Arguments<'_>)) {
    match missing {
        Missing::Request => name(format_args!("request_missing")),
        Missing::Response => name(format_args!("response_missing")),
        Missing::RequestAborted => name(format_args!("request_aborted")),
        Missing::ResponseAborted => name(format_args!("response_aborted")),
        Missing::RequestBodyTruncated(kept) => name(format_args!("request_body_truncated:{kept}")),
        Missing::ResponseBodyTruncated(kept) => name(format_args!("response_body_truncated:{kept}")),
        Missing::RequestBodyNotObservable(bytes) => name(format_args!("request_body_not_observable:{bytes}")),
        Missing::ResponseBodyNotObservable(bytes) => name(format_args!("response_body_not_observable:{bytes}")),
        Missing::RequestBodyLost(bytes) => name(format_args!("request_body_lost:{bytes}")),
        Missing::ResponseBodyLost(bytes) => name(format_args!("response_body_lost:{bytes}")),
        Missing::RequestBodyOverMemory => name(format_args!("request_body_over_memory")),
        Missing::ResponseBodyOverMemory => name(format_args!("response_body_over_memory")),
        Missing::RequestMalformed => name(format_args!("request_malformed")),
        Missing::ResponseMalformed => name(format_args!("response_malformed")),
        Missing::PairingUncertain => name(format_args!("pairing_uncertain")),
        Missing::AgentStopped => name(format_args!("agent_stopped")),
        Missing::RequestHeadersUnknown => name(format_args!("request_headers_unknown")),
        Missing::ResponseHeadersUnknown => name(format_args!("response_headers_unknown")),
        Missing::RequestLost => name(format_args!("request_lost")),
        Missing::ResponseLost => name(format_args!("response_lost")),
        Missing::ResetByClient(code) => each_error("reset_by_client", code, name),
        Missing::ResetByServer(code) => each_error("reset_by_server", code, name),
        Missing::GoAway(code) => each_error("goaway", code, name),
        Missing::StillOpen => name(format_args!("still_open")),
    }
}

fn each_error(what: &str, code: u32, name: &mut impl FnMut(Arguments<'_>)) {
    match error_name(code) {
        Some(error) => name(format_args!("{what}:{error}")),
        None => name(format_args!("{what}:{code:#x}")),
    }
}

fn each_found(side: &str, found: Found, name: &mut impl FnMut(Arguments<'_>)) {
    if found.replaced {
        name(format_args!("{side}_not_utf8"));
    }
    if let Some(kept) = found.truncated {
        name(format_args!("{side}_body_truncated:{kept}"));
    }
    match found.coding {
        // what is cut has its name already
        None | Some(Outcome::Whole | Outcome::Cut) => {}
        Some(Outcome::Short) => name(format_args!("{side}_body_coding_short")),
        Some(Outcome::Broken) => name(format_args!("{side}_body_coding_broken")),
        Some(Outcome::Unknown) => name(format_args!("{side}_body_coding_unknown")),
    }
}
