//! Plugins: what is done with an exchange. They decide what is kept of it and hand records to the sinks.
//!
//! A plugin sees exchanges, never bytes or sockets, and runs on a worker's path: it must not wait for anything.
//!
//! # How to add a plugin
//!
//! 1. Add a file with a function that turns an [`Exchange`] into [`Record`]s, and one that says how much of the bodies
//!    it may still want, as [`http_capture`] has them.
//! 2. Give `config`'s `Stack` a list of its settings, and check them where the others are checked.
//! 3. Call both functions below.
//!
//! `access_logs` and `detect_errors` are [`http_capture`] with other keys and defaults.

pub mod http_capture;
pub mod http_metrics;
pub mod lot;
pub mod report_usage;

use crate::config::{Stack, Tags};
use crate::exchange::{Connection, Exchange, Missing, Record};
use crate::proto::Head;
use crate::stats::Stats;

/// How many bytes of each body any plugin of the stack may still want, given the heads seen so far.
pub fn body_wanted(
    stack: &Stack,
    tags: &Tags,
    connection: &Connection,
    request: Option<&Head>,
    response: Option<&Head>,
) -> usize {
    let wanted = |capture| http_capture::body_wanted(capture, tags, connection, request, response);
    stack.capture.iter().map(wanted).max().unwrap_or(0)
}

/// What the stack's plugins make of a finished exchange.
pub fn finish(stack: &Stack, tags: &Tags, stats: &Stats, exchange: Box<Exchange>, records: &mut Vec<Record>) {
    // What goes on is finished later, and counts once.
    if !exchange.missing.contains(&Missing::StillOpen) {
        if let Some(metrics) = &stack.metrics {
            stats.http.add(metrics, &exchange);
        }
        records.extend(stack.usage.iter().filter_map(|usage| report_usage::record(usage, tags, &exchange)));
    }
    let Some((last, others)) = stack.capture.split_last() else { return };
    for capture in others {
        records.extend(http_capture::record(capture, tags, exchange.clone()));
    }
    records.extend(http_capture::record(last, tags, exchange));
}
