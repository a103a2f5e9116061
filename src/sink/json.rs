//! Records as JSON, one a line.
//!
//! The keys and their order are the contract with users. What is not known has no key; numbers that are identifiers
//! are strings. Control characters and U+2028, U+2029 are escaped, so that a line is a line for every reader.

use super::body::Shown;
use super::encode::Json;
use super::incomplete::Found;
use super::{Shape, incomplete};
use crate::exchange::grpc::Call;
use crate::exchange::{
    Address, Artifact, BodyEncoding, Connection, ConnectionEvent, Container, Direction, Exchange, Level, Message,
    Process,
};
use crate::proto::{Span, grpc};
use crate::url::{self, Asked};

/// Working memory of [`append_exchange`].
#[derive(Debug, Default)]
pub(super) struct Scratch {
    url: Vec<u8>,
    groups: Groups,
}

/// Appends an exchange as a line.
pub(super) fn append_exchange(out: &mut Vec<u8>, scratch: &mut Scratch, exchange: &Exchange, shape: &Shape) {
    append(out, scratch, "http_transaction", exchange, shape, &[]);
}

/// Appends what is told of an exchange where its use is reported: a summary, and the values of these headers.
pub(super) fn append_usage(
    out: &mut Vec<u8>,
    scratch: &mut Scratch,
    exchange: &Exchange,
    headers: &[Box<str>],
    tags: &[(String, String)],
) {
    let (encoding, max_body_bytes) = (BodyEncoding::Auto, 0);
    let shape = Shape { level: Level::Summary, encoding, max_body_bytes, redact: None, tags };
    append(out, scratch, "usage", exchange, &shape, headers);
}

fn append(
    out: &mut Vec<u8>,
    scratch: &mut Scratch,
    kind: &'static str,
    exchange: &Exchange,
    shape: &Shape,
    promoted: &[Box<str>],
) {
    let mut json = Json::new(out);
    json.open(b'{');
    json.word("type", kind);
    let asked = exchange.request.as_ref().map(|message| (message, Asked::of(&message.head)));
    metadata(&mut json, exchange, asked.as_ref().map(|(_, asked)| asked), shape);
    let request = asked.map(|(message, asked)| request(&mut json, scratch, exchange, (message, &asked), shape));
    let response = exchange.response.as_ref().map(|message| response(&mut json, scratch, message, shape));
    if let Some(call) = Call::of(exchange) {
        grpc(&mut json, &call);
    }
    append_promoted(&mut json, exchange, promoted);
    ends(&mut json, &exchange.connection);
    tls(&mut json, &exchange.connection);
    if exchange.started() > 0 {
        json.time("transaction_time", exchange.started());
    }
    json.millis("duration_ms", exchange.duration());
    json.millis("ttfb_ms", exchange.ttfb());
    json.word("direction", exchange.connection.direction.name());
    incomplete_names(&mut json, exchange, shape.level, request.unwrap_or_default(), response.unwrap_or_default());
    json.close(b'}');
    json.end_line();
}

/// The first value of each header: the request's, else the response's.
fn append_promoted(json: &mut Json, exchange: &Exchange, names: &[Box<str>]) {
    let value = |name: &str| exchange.messages().find_map(|message| message.head.header(name));
    let mut found = names.iter().filter_map(|name| Some((name, value(name)?))).peekable();
    if found.peek().is_none() {
        return;
    }
    json.object("headers");
    for (name, value) in found {
        json.foreign_key(name.as_bytes());
        json.string(value);
    }
    json.close(b'}');
}

/// Appends a connection event as a line.
pub(super) fn append_connection(out: &mut Vec<u8>, event: &ConnectionEvent) {
    let connection = &event.connection;
    let ingress = connection.direction == Direction::Ingress;
    let mut json = Json::new(out);
    json.open(b'{');
    json.text("type", "connection");
    json.quoted_number("connection_id", connection.id);
    if let Some(opened) = event.opened {
        json.time("opened", opened);
    }
    json.time("observed", event.observed);
    json.text("direction", connection.direction.name());
    if let Some(protocol) = event.protocol {
        json.text("l7_protocol", protocol.name());
    }
    tls(&mut json, connection);
    event_end(&mut json, "source", connection.source(), (!ingress).then_some(&*connection.process));
    event_end(&mut json, "destination", connection.destination(), ingress.then_some(&*connection.process));
    json.number("bytes_sent", event.bytes_sent);
    json.number("bytes_received", event.bytes_received);
    if event.bytes_lost > 0 {
        json.number("bytes_lost", event.bytes_lost);
    }
    json.number("transactions", event.transactions);
    json.boolean("finalized", event.finalized);
    json.text("error", event.error.as_deref().unwrap_or_default());
    json.close(b'}');
    json.end_line();
}

/// Appends a line about an object in a store.
pub(super) fn append_artifact(out: &mut Vec<u8>, artifact: &Artifact) {
    let mut json = Json::new(out);
    json.open(b'{');
    json.text("type", "artifact_record");
    json.time("time", artifact.time);
    json.text("digest", &artifact.digest);
    json.text("url", &artifact.url);
    json.number("bytes", artifact.bytes);
    json.object("summary");
    json.number("transactions", artifact.transactions);
    if let Some(summary) = &artifact.summary {
        json.text("request_id", &summary.request_id);
        json.text("method", &summary.method);
        json.text("url", &summary.url);
        if summary.status > 0 {
            json.number("status", summary.status.into());
        }
    }
    json.close(b'}');
    json.close(b'}');
    json.end_line();
}

/// What is the same in all records of a connection: its id; the process; the ends, the last one still to be closed.
fn fixed(connection: &Connection) -> [&[u8]; 3] {
    connection.written.get_or_make(|| {
        const USUAL: usize = 288;
        let mut text = Vec::with_capacity(USUAL);
        Json::new(&mut text).quoted_number("connection_id", connection.id);
        let process_at = text.len();
        let (mut json, process) = (Json::new(&mut text), &*connection.process);
        json.quoted_number("process_id", process.pid.into());
        json.text("process_exe", &process.exe);
        json.text("exe", &process.exe);
        let ends_at = text.len();
        let mut json = Json::new(&mut text);
        if has_end(connection.source()) {
            open_end(&mut json, "source", connection.source());
            json.close(b'}');
        }
        if has_end(connection.destination()) {
            open_end(&mut json, "destination", connection.destination());
        }
        (text, [process_at, ends_at])
    })
}

fn metadata(json: &mut Json, exchange: &Exchange, asked: Option<&Asked>, shape: &Shape) {
    let connection = &*exchange.connection;
    let process = &*connection.process;
    let [id, process_text, _] = fixed(connection);
    json.object("metadata");
    json.quoted_number("request_id", exchange.id);
    json.written(id);
    if let Some(asked) = asked {
        json.text("endpoint_id", &*asked.host(connection));
    }
    json.written(process_text);
    if let Some(container) = &process.container {
        json.text("container_id", &container.id);
        if let Some(facts) = container.facts() {
            json.text("container_name", &facts.name);
            json.text("container_image", &facts.image);
            if let Some(pod) = &facts.pod {
                json.text("pod_name", &pod.name);
                json.text("pod_namespace", &pod.namespace);
            }
        }
    }
    if let Some(bytes) = exchange.bytes_sent() {
        json.number("bytes_sent", bytes);
    }
    if let Some(bytes) = exchange.bytes_received() {
        json.number("bytes_received", bytes);
    }
    if !shape.tags.is_empty() {
        json.object("tags");
        for (key, value) in shape.tags {
            json.foreign_key(key.as_bytes());
            json.string(value.as_bytes());
        }
        json.close(b'}');
    }
    json.close(b'}');
}

fn request(
    json: &mut Json,
    scratch: &mut Scratch,
    exchange: &Exchange,
    (message, asked): (&Message, &Asked),
    shape: &Shape,
) -> Found {
    let connection = &*exchange.connection;
    let head = &message.head;
    json.replaced = false;
    json.object("request");
    json.text("method", head.method());
    scratch.url.clear();
    asked.append_url(&mut scratch.url, connection);
    json.text("url", &scratch.url);
    json.text("scheme", asked.scheme(connection).unwrap_or_default());
    json.text("path", asked.path());
    json.text("query", asked.query().unwrap_or_default());
    json.text("authority", asked.authority().unwrap_or_default());
    json.word("protocol", exchange.protocol.name());
    if let Some(stream) = exchange.stream {
        json.number("stream_id", stream.id.into());
        if stream.pushed {
            json.boolean("pushed", true);
        }
    }
    json.text("user_agent", head.header("user-agent").unwrap_or_default());
    json.text("content_type", head.header("content-type").unwrap_or_default());
    let found = headers_and_body(json, &mut scratch.groups, message, shape);
    json.close(b'}');
    found
}

fn response(json: &mut Json, scratch: &mut Scratch, message: &Message, shape: &Shape) -> Found {
    json.replaced = false;
    json.object("response");
    // One that refers to what was sent before the agent came is not known.
    if message.head.status() > 0 {
        json.number("status", message.head.status().into());
    }
    json.text("content_type", message.head.header("content-type").unwrap_or_default());
    let found = headers_and_body(json, &mut scratch.groups, message, shape);
    json.close(b'}');
    found
}

fn grpc(json: &mut Json, call: &Call) {
    json.object("grpc");
    json.text("service", call.service.unwrap_or_default());
    json.text("method", call.method.unwrap_or_default());
    if let Some(status) = call.status {
        json.number("status", status.into());
        json.text("status_name", grpc::status_name(status).unwrap_or_default());
    }
    json.text("message", &call.message);
    for (key, count) in [("request_messages", call.request_messages), ("response_messages", call.response_messages)] {
        if let Some(count) = count {
            json.number(key, count);
        }
    }
    json.close(b'}');
}

fn headers_and_body(json: &mut Json, groups: &mut Groups, message: &Message, shape: &Shape) -> Found {
    let mut found = Found::default();
    if shape.level >= Level::Headers {
        headers(json, groups, "headers", &message.head.text, &message.head.fields);
    }
    if shape.level >= Level::Full {
        body(json, message, shape, &mut found);
    }
    json.number("body_bytes", message.body.wire_bytes);
    if let Some(trailers) = message.trailers.as_ref().filter(|_| shape.level >= Level::Headers) {
        headers(json, groups, "trailers", &trailers.text, &trailers.fields);
    }
    found.replaced = json.replaced;
    found
}

fn body(json: &mut Json, message: &Message, shape: &Shape, found: &mut Found) {
    let shown = Shown::new(message, shape.max_body_bytes, shape.redact);
    found.body(&shown);
    if shown.bytes.is_empty() {
        return;
    }
    let text = match shape.encoding {
        BodyEncoding::Auto => shown.text(),
        BodyEncoding::Base64 => None,
    };
    match text {
        Some(text) => {
            json.text("body", text);
            json.word("body_encoding", "text");
        }
        None => {
            json.base64("body", &shown.bytes);
            json.word("body_encoding", "base64");
        }
    }
}

/// Headers in the order in which their names first appear, spelled as they first were. Repeated ones are joined
/// (RFC 9110 section 5.3), but for `Set-Cookie`, whose values hold commas: those are an array, be there one or many.
fn headers(json: &mut Json, groups: &mut Groups, key: &str, text: &[u8], fields: &[(Span, Span)]) {
    if fields.is_empty() {
        return;
    }
    json.object(key);
    if are_distinct(text, fields) {
        for (name, value) in fields {
            header(json, name.of(text), std::iter::once(value.of(text)));
        }
        return json.close(b'}');
    }
    groups.find(text, fields);
    for first in 0..fields.len() {
        if !groups.repeats[first] {
            let values = groups.group(first).map(|position| fields[position].1.of(text));
            header(json, fields[first].0.of(text), values);
        }
    }
    json.close(b'}');
}

fn header<'v>(json: &mut Json, name: &[u8], values: impl Iterator<Item = &'v [u8]>) {
    json.foreign_key(name);
    if name.eq_ignore_ascii_case(b"set-cookie") {
        json.open(b'[');
        values.for_each(|value| json.string(value));
        json.close(b']');
    } else {
        json.joined(values);
    }
}

/// Whether these certainly are headers of different names: the usual head, which needs no sorting.
fn are_distinct(text: &[u8], fields: &[(Span, Span)]) -> bool {
    const FEW: usize = 24;
    let mut parts = [0; FEW];
    fields.len() <= FEW
        && fields.iter().enumerate().all(|(at, (name, _))| {
            parts[at] = last_bytes(name.of(text));
            !parts[..at].contains(&parts[at])
        })
}

/// Which headers have the same name: by sorting, since a head of 1 MiB may hold 200,000 of them.
#[derive(Debug, Default)]
struct Groups {
    /// for each header: a part of its name, and its position
    order: Vec<(u64, usize)>,
    /// for each header: the next one of its name, or itself
    next: Vec<usize>,
    /// for each header: whether an earlier one has its name
    repeats: Vec<bool>,
}

impl Groups {
    fn find(&mut self, text: &[u8], fields: &[(Span, Span)]) {
        let name = |position: usize| fields[position].0.of(text);
        let folded = |position: usize| name(position).iter().map(u8::to_ascii_lowercase);
        self.order.clear();
        self.order.extend((0..fields.len()).map(|position| (last_bytes(name(position)), position)));
        self.order.sort_unstable_by(|&(part_a, a), &(part_b, b)| {
            part_a.cmp(&part_b).then_with(|| folded(a).cmp(folded(b))).then(a.cmp(&b))
        });
        self.next.clear();
        self.next.extend(0..fields.len());
        self.repeats.clear();
        self.repeats.resize(fields.len(), false);
        for pair in self.order.windows(2) {
            let (one, other) = (pair[0].1, pair[1].1);
            if name(one).eq_ignore_ascii_case(name(other)) {
                self.next[one] = other;
                self.repeats[other] = true;
            }
        }
    }

    /// The headers of the same name as `first`, which none of them is before, in wire order.
    fn group(&self, first: usize) -> impl Iterator<Item = usize> {
        std::iter::successors(Some(first), |&position| Some(self.next[position]).filter(|&next| next != position))
    }
}

/// The end of a name as a number, the same for capital and small letters: where two differ, and they mostly do, the names
/// need not be compared.
fn last_bytes(name: &[u8]) -> u64 {
    const SMALL: u64 = 0x2020_2020_2020_2020;
    match name.last_chunk() {
        Some(last) => u64::from_ne_bytes(*last) | SMALL,
        None => name.iter().fold(0, |number, byte| number << 8 | u64::from(byte | 0x20)),
    }
}

fn ends(json: &mut Json, connection: &Connection) {
    let [.., ends] = fixed(connection);
    json.written(ends);
    if has_end(connection.destination()) {
        json.text("name", url::peer_name(connection).as_deref().unwrap_or_default());
        json.close(b'}');
    }
}

fn tls(json: &mut Json, connection: &Connection) {
    let Some(tls) = &connection.tls else { return };
    json.object("tls");
    json.text("version", tls.info.version.unwrap_or_default());
    json.text("sni", tls.info.sni.as_deref().unwrap_or_default());
    json.text("alpn", tls.info.alpn.as_deref().unwrap_or_default());
    json.text("cipher", tls.info.cipher.as_deref().unwrap_or_default());
    json.text("library", tls.library.unwrap_or_default());
    json.text("uncovered", tls.uncovered.map(|why| why.to_string()).unwrap_or_default());
    json.close(b'}');
}

/// An unnamed Unix socket has nothing to tell and is left out.
fn has_end(address: &Address) -> bool {
    !matches!(address, Address::Unix(path) if path.is_empty())
}

/// Its object, still to be closed.
fn open_end(json: &mut Json, key: &str, address: &Address) {
    json.object(key);
    append_address(json, address);
}

fn event_end(json: &mut Json, key: &str, address: &Address, process: Option<&Process>) {
    open_end(json, key, address);
    if let Some(process) = process {
        append_process(json, process);
        if let Some(container) = &process.container {
            append_container(json, container);
        }
    }
    json.close(b'}');
}

fn append_address(json: &mut Json, address: &Address) {
    match address {
        Address::Ip(address) => {
            json.ip("ip", address.ip());
            json.number("port", address.port().into());
        }
        Address::Unix(path) => json.text("path", path),
    }
}

fn append_process(json: &mut Json, process: &Process) {
    json.object("process");
    json.text("exe", &process.exe);
    json.number("pid", process.pid.into());
    match (&process.user_name, process.user_id) {
        (Some(name), _) => json.text("user", name),
        (None, Some(id)) => json.quoted_number("user", id.into()),
        (None, None) => {}
    }
    json.close(b'}');
}

fn append_container(json: &mut Json, container: &Container) {
    json.object("container");
    json.text("id", &container.id);
    let facts = container.facts();
    if let Some(facts) = &facts {
        json.text("name", &facts.name);
        json.text("image", &facts.image);
    }
    json.close(b'}');
    if let Some(pod) = facts.as_ref().and_then(|facts| facts.pod.as_ref()) {
        json.object("pod");
        json.text("name", &pod.name);
        json.text("namespace", &pod.namespace);
        json.close(b'}');
    }
}

fn incomplete_names(json: &mut Json, exchange: &Exchange, level: Level, request: Found, response: Found) {
    let mut any = false;
    incomplete::each(exchange, level, request, response, |name| {
        if !any {
            json.key("incomplete");
            json.open(b'[');
            any = true;
        }
        json.string(name.to_string().as_bytes());
    });
    if any {
        json.close(b']');
    }
}

#[cfg(test)]
mod tests;
