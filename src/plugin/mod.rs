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

pub mod http_capture;

use crate::config::{Stack, Tags};
use crate::exchange::{Connection, Exchange, Record};
use crate::proto::Head;

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
pub fn finish(stack: &Stack, tags: &Tags, exchange: Box<Exchange>, records: &mut Vec<Record>) {
    let Some((last, others)) = stack.capture.split_last() else { return };
    for capture in others {
        records.extend(http_capture::record(capture, tags, exchange.clone()));
    }
    records.extend(http_capture::record(last, tags, exchange));
}
