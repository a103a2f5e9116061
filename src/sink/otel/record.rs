//! Records as OTLP log records, with the attributes of OpenTelemetry's semantic conventions for HTTP, network, process,
//! container, Kubernetes and RPC. What these have no name for begins with `sidetap.`.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, SeverityNumber};
use opentelemetry_proto::tonic::resource::v1::Resource;

use super::super::body::Shown;
use super::super::incomplete::{self, Found};
use crate::exchange::grpc::Call;
use crate::exchange::{
    Address, Artifact, Connection, ConnectionEvent, Direction, Exchange, Level, Message, Nanos, Process, Record,
};
use crate::machine;
use crate::plugin::lot::trace_id;
use crate::proto::{METHODS, Span, Version};
use crate::redact::Redact;
use crate::url;

/// Who sends the records.
pub(super) fn resource(service: &str, environment: Option<&str>) -> Resource {
    let mut attributes = Attributes::default();
    attributes.text("service.name", service);
    attributes.text("deployment.environment.name", environment.unwrap_or_default());
    attributes.text("host.name", machine::name());
    Resource { attributes: attributes.0, ..Resource::default() }
}

pub(super) fn log_record(record: &Record, observed: Nanos) -> LogRecord {
    let record = match record {
        Record::Exchange { exchange, level, max_body_bytes, redact, tags, .. } => {
            let mut record = of_exchange(exchange, "sidetap.http.transaction", *level, tags);
            let mut more = Attributes::default();
            content(&mut more, exchange, *level, *max_body_bytes, redact.as_deref());
            record.attributes.extend(more.0);
            record
        }
        Record::Usage { exchange, headers, tags } => {
            let mut record = of_exchange(exchange, "sidetap.http.usage", Level::Summary, tags);
            let mut more = Attributes::default();
            promoted(&mut more, exchange, headers);
            record.attributes.extend(more.0);
            record
        }
        Record::Connection(event) => of_connection(event),
        Record::Artifact(artifact) => of_artifact(artifact),
    };
    LogRecord { observed_time_unix_nano: observed, ..record }
}

fn of_artifact(artifact: &Artifact) -> LogRecord {
    let mut all = Attributes::default();
    all.text("url.full", &artifact.url);
    all.text("sidetap.artifact.sha256", &artifact.digest);
    all.int("sidetap.artifact.bytes", artifact.bytes);
    all.int("sidetap.artifact.transactions", artifact.transactions);
    LogRecord {
        time_unix_nano: artifact.time,
        body: Some(text_value(&artifact.url)),
        attributes: all.0,
        event_name: "sidetap.artifact".to_owned(),
        ..with_severity(SeverityNumber::Info)
    }
}

fn of_exchange(exchange: &Exchange, name: &str, level: Level, tags: &[(String, String)]) -> LogRecord {
    let connection = &*exchange.connection;
    let status = exchange.response.as_ref().map_or(0, |response| response.head.status());
    let mut all = Attributes::default();
    request(&mut all, exchange);
    all.positive("http.response.status_code", status.into());
    if let Some(response) = &exchange.response {
        all.int("http.response.body.size", response.body.wire_bytes);
    }
    all.text("network.protocol.name", "http");
    if let Some(message) = exchange.request.as_ref().or(exchange.response.as_ref()) {
        all.text("network.protocol.version", version(message.head.version));
    }
    ends(&mut all, connection, exchange.request.as_ref());
    process(&mut all, &connection.process);
    call(&mut all, exchange);
    let mut lacking = Vec::new();
    incomplete::each(exchange, level, Found::default(), Found::default(), |name| lacking.push(name.to_string()));
    let is_error = status >= if connection.direction == Direction::Ingress { 500 } else { 400 };
    match &exchange.response {
        Some(_) if is_error => all.text("error.type", status.to_string()),
        Some(_) => {}
        None => all.text("error.type", lacking.first().map_or("response_missing", String::as_str)),
    }
    all.text("sidetap.request_id", exchange.id.to_string());
    all.text("sidetap.connection_id", connection.id.to_string());
    all.text("sidetap.direction", connection.direction.name());
    all.positive("sidetap.http2.stream_id", exchange.stream.map_or(0, |stream| stream.id.into()));
    all.double("sidetap.duration_ms", exchange.duration_ms());
    all.double("sidetap.ttfb_ms", exchange.ttfb_ms());
    all.texts("sidetap.incomplete", lacking);
    for (key, value) in tags {
        all.text(&format!("sidetap.tags.{key}"), value);
    }
    let severity = match status {
        500.. => SeverityNumber::Error,
        400..500 => SeverityNumber::Warn,
        _ if exchange.response.is_none() => SeverityNumber::Warn,
        _ => SeverityNumber::Info,
    };
    let (trace_id, span_id, flags) = trace(exchange).unwrap_or_default();
    LogRecord {
        time_unix_nano: exchange.started(),
        body: Some(text_value(&headline(exchange, status))),
        attributes: all.0,
        flags,
        trace_id,
        span_id,
        event_name: name.to_owned(),
        ..with_severity(severity)
    }
}

/// `GET http://a.test/ 200`.
fn headline(exchange: &Exchange, status: u16) -> String {
    let asked = exchange.request.as_ref().map(|request| {
        let method = String::from_utf8_lossy(request.head.method());
        format!("{method} {}", url::url(&exchange.connection, &request.head))
    });
    let asked = asked.unwrap_or_else(|| "no request seen".to_owned());
    if status > 0 { format!("{asked} {status}") } else { asked }
}

fn request(all: &mut Attributes, exchange: &Exchange) {
    let Some(request) = &exchange.request else { return };
    let (connection, head) = (&*exchange.connection, &request.head);
    let method = String::from_utf8_lossy(head.method());
    if METHODS.contains(&&*method) {
        all.text("http.request.method", &*method);
    } else {
        all.text("http.request.method", "_OTHER");
        all.text("http.request.method_original", &*method);
    }
    all.text("url.full", url::url(connection, head));
    all.bytes("url.scheme", url::scheme(connection, head).unwrap_or_default());
    all.bytes("url.path", url::path(head));
    all.bytes("url.query", url::query(head).unwrap_or_default());
    all.bytes("user_agent.original", head.header("user-agent").unwrap_or_default());
    all.int("http.request.body.size", request.body.wire_bytes);
}

fn version(version: Version) -> &'static str {
    match version {
        Version::Http10 => "1.0",
        Version::Http11 => "1.1",
        Version::Http2 => "2",
    }
}

/// Who asked whom. For egress the server is the peer that was connected to, as in the URL.
fn ends(all: &mut Attributes, connection: &Connection, request: Option<&Message>) {
    let (client, server) = (connection.source(), connection.destination());
    let name = match (connection.direction, request) {
        (Direction::Ingress, Some(request)) => Some(url::host(connection, &request.head).into_owned()),
        _ => url::peer_name(connection).map(|name| name.to_string()),
    };
    match name {
        Some(name) => all.text("server.address", name),
        None => all.address("server.address", server),
    }
    all.positive("server.port", server.port().unwrap_or_default().into());
    all.address("client.address", client);
    all.positive("client.port", client.port().unwrap_or_default().into());
    for (prefix, address) in [("network.local", &connection.local), ("network.peer", &connection.remote)] {
        all.address(&format!("{prefix}.address"), address);
        all.positive(&format!("{prefix}.port"), address.port().unwrap_or_default().into());
    }
    let is_ip = matches!(connection.remote, Address::Ip(_));
    all.text("network.transport", if is_ip { "tcp" } else { "unix" });
}

fn process(all: &mut Attributes, process: &Process) {
    all.int("process.pid", process.pid.into());
    all.text("process.executable.path", &process.exe);
    all.text("process.executable.name", process.binary());
    all.text("process.owner", process.user_name.as_deref().unwrap_or_default());
    let Some(container) = &process.container else { return };
    all.text("container.id", &container.id);
    let Some(facts) = container.facts() else { return };
    all.text("container.name", &facts.name);
    all.text("container.image.name", &facts.image);
    if let Some(pod) = &facts.pod {
        all.text("k8s.pod.name", &pod.name);
        all.text("k8s.namespace.name", &pod.namespace);
    }
}

fn call(all: &mut Attributes, exchange: &Exchange) {
    let Some(call) = Call::of(exchange) else { return };
    all.text("rpc.system", "grpc");
    all.bytes("rpc.service", call.service.unwrap_or_default());
    all.bytes("rpc.method", call.method.unwrap_or_default());
    if let Some(status) = call.status {
        all.int("rpc.grpc.status_code", status.into());
    }
    all.bytes("sidetap.grpc.message", &call.message);
}

/// Headers and bodies, as far as the level has them.
fn content(all: &mut Attributes, exchange: &Exchange, level: Level, limit: usize, redact: Option<&Redact>) {
    for (side, message) in [("request", &exchange.request), ("response", &exchange.response)] {
        let Some(message) = message else { continue };
        if level >= Level::Headers {
            headers(all, &format!("http.{side}.header"), &message.head.text, &message.head.fields);
            if let Some(trailers) = &message.trailers {
                headers(all, &format!("sidetap.{side}.trailer"), &trailers.text, &trailers.fields);
            }
        }
        if level < Level::Full {
            continue;
        }
        let shown = Shown::new(message, limit, redact);
        if shown.bytes.is_empty() {
            continue;
        }
        let value = match shown.text() {
            Some(text) => text_value(text),
            None => AnyValue { value: Some(Value::BytesValue(shown.bytes.to_vec())) },
        };
        all.value(&format!("sidetap.{side}.body"), value);
    }
}

/// By their names in lower case, each with all of its values.
fn headers(all: &mut Attributes, prefix: &str, text: &[u8], fields: &[(Span, Span)]) {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in fields {
        let name = String::from_utf8_lossy(name.of(text)).to_ascii_lowercase();
        found.entry(name).or_default().push(String::from_utf8_lossy(value.of(text)).into_owned());
    }
    for (name, values) in found {
        all.texts(&format!("{prefix}.{name}"), values);
    }
}

/// The request's, else the response's.
fn promoted(all: &mut Attributes, exchange: &Exchange, names: &[Box<str>]) {
    for name in names {
        let of = |message: &Option<Message>| {
            let value = message.as_ref()?.head.header(name)?;
            Some(String::from_utf8_lossy(value).into_owned())
        };
        let (side, value) = match (of(&exchange.request), of(&exchange.response)) {
            (Some(value), _) => ("request", value),
            (None, Some(value)) => ("response", value),
            (None, None) => continue,
        };
        all.texts(&format!("http.{side}.header.{}", name.to_ascii_lowercase()), vec![value]);
    }
}

fn of_connection(event: &ConnectionEvent) -> LogRecord {
    let connection = &*event.connection;
    let mut all = Attributes::default();
    ends(&mut all, connection, None);
    process(&mut all, &connection.process);
    all.text("network.protocol.name", event.protocol.map(|protocol| protocol.name()).unwrap_or_default());
    all.text("error.type", event.error.as_deref().unwrap_or_default());
    all.text("sidetap.connection_id", connection.id.to_string());
    all.text("sidetap.direction", connection.direction.name());
    all.int("sidetap.bytes_sent", event.bytes_sent);
    all.int("sidetap.bytes_received", event.bytes_received);
    if event.bytes_lost > 0 {
        all.int("sidetap.bytes_lost", event.bytes_lost);
    }
    all.int("sidetap.transactions", event.transactions);
    all.value("sidetap.finalized", AnyValue { value: Some(Value::BoolValue(event.finalized)) });
    let severity = if event.error.is_some() { SeverityNumber::Warn } else { SeverityNumber::Info };
    LogRecord {
        time_unix_nano: event.observed,
        attributes: all.0,
        event_name: "sidetap.connection".to_owned(),
        ..with_severity(severity)
    }
}

/// The trace that the request belongs to, the span that sent it, and flags (W3C Trace Context section 3.2).
fn trace(exchange: &Exchange) -> Option<(Vec<u8>, Vec<u8>, u32)> {
    let header = exchange.request.as_ref()?.head.header("traceparent")?;
    let span = header.get(36..52).filter(|_| header.get(52) == Some(&b'-'))?;
    let flags = hex(header.get(53..55)?)?;
    Some((hex(trace_id(header)?)?, hex(span)?, flags[0].into()))
}

fn hex(digits: &[u8]) -> Option<Vec<u8>> {
    let digit = |digit: u8| char::from(digit).to_digit(16);
    digits.chunks(2).map(|pair| Some((digit(pair[0])? * 16 + digit(*pair.get(1)?)?) as u8)).collect()
}

fn with_severity(severity: SeverityNumber) -> LogRecord {
    let severity_text = match severity {
        SeverityNumber::Error => "ERROR",
        SeverityNumber::Warn => "WARN",
        _ => "INFO",
    };
    LogRecord { severity_number: severity.into(), severity_text: severity_text.to_owned(), ..LogRecord::default() }
}

fn text_value(text: &str) -> AnyValue {
    AnyValue { value: Some(Value::StringValue(text.to_owned())) }
}

/// What is not known has no attribute.
#[derive(Default)]
struct Attributes(Vec<KeyValue>);

impl Attributes {
    fn value(&mut self, key: &str, value: AnyValue) {
        self.0.push(KeyValue { key: key.to_owned(), value: Some(value), ..KeyValue::default() });
    }

    fn text(&mut self, key: &str, text: impl AsRef<str>) {
        if !text.as_ref().is_empty() {
            self.value(key, text_value(text.as_ref()));
        }
    }

    fn bytes(&mut self, key: &str, text: &[u8]) {
        self.text(key, String::from_utf8_lossy(text));
    }

    fn texts(&mut self, key: &str, texts: Vec<String>) {
        if !texts.is_empty() {
            let values = texts.iter().map(|text| text_value(text)).collect();
            self.value(key, AnyValue { value: Some(Value::ArrayValue(ArrayValue { values })) });
        }
    }

    fn int(&mut self, key: &str, number: u64) {
        let number = i64::try_from(number).unwrap_or(i64::MAX);
        self.value(key, AnyValue { value: Some(Value::IntValue(number)) });
    }

    fn positive(&mut self, key: &str, number: u64) {
        if number > 0 {
            self.int(key, number);
        }
    }

    fn double(&mut self, key: &str, number: Option<f64>) {
        if let Some(number) = number {
            self.value(key, AnyValue { value: Some(Value::DoubleValue(number)) });
        }
    }

    fn address(&mut self, key: &str, address: &Address) {
        match address {
            Address::Ip(address) => self.text(key, address.ip().to_canonical().to_string()),
            Address::Unix(path) => self.text(key, path),
        }
    }
}
