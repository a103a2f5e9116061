//! The plugin `report_usage`: one event for each exchange, to the event stores: who called what, how it ended, and the
//! values of a few headers, such as a tenant's or a version's. Never bodies.

use super::lot::lot;
use crate::config::{ReportUsage, Tags};
use crate::exchange::{Body, Exchange, Message, Record};

/// The event of a finished exchange; none where it is not in the sample.
pub fn record(usage: &ReportUsage, tags: &Tags, exchange: &Exchange) -> Option<Record> {
    let connection = &exchange.connection;
    if !usage.sample.has(|| lot(connection, exchange.request.as_ref().map(|request| &request.head))) {
        return None;
    }
    let mut exchange = Box::new(Exchange {
        request: exchange.request.as_ref().map(without_body),
        response: exchange.response.as_ref().map(without_body),
        connection: connection.clone(),
        missing: exchange.missing.clone(),
        ..*exchange
    });
    if let Some(redact) = &usage.redact {
        redact.exchange(&mut exchange);
    }
    let container = if tags.need_container() { exchange.connection.process.container_facts() } else { None };
    Some(Record::Usage { tags: tags.of(container.as_deref()), headers: usage.headers.clone(), exchange })
}

fn without_body(message: &Message) -> Message {
    let body = Body { kept: Vec::new(), wire_bytes: message.body.wire_bytes, grpc: message.body.grpc.clone() };
    Message { head: message.head.clone(), body, trailers: message.trailers.clone(), ..*message }
}
