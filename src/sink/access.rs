//! Exchanges as lines of an access log: one for people, and the two formats that tools for web servers' logs read.
//!
//! A line has what a summary has, never headers' values beyond `Referer` and `User-Agent`, never bodies. Control
//! characters are escaped, in quotes `"` and `\` too, so that traffic cannot forge a line or a column.

use std::io::Write;
use std::net::SocketAddr;

use super::encode::{append_time, append_visible, date, fill_clock};
use super::incomplete::{self, Found};
use crate::digits::{self, append_ip, append_number};
use crate::exchange::{Address, Exchange, Level, Nanos, Process};
use crate::proto::{Head, Version};
use crate::url;

const MONTHS: [&[u8; 3]; 12] =
    [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];

/// `2026-03-01T12:00:00.123Z ingress 172.18.0.1:40312 "GET http://a.test/" 200 12.345ms in=0B out=151B haproxy[987]@web`.
pub(super) fn append_console(out: &mut Vec<u8>, exchange: &Exchange) {
    let connection = &*exchange.connection;
    append_time(out, exchange.started());
    // To the millisecond.
    out.truncate(out.len() - "456789Z".len());
    out.extend_from_slice(b"Z ");
    out.extend_from_slice(connection.direction.name().as_bytes());
    out.push(b' ');
    append_address(out, connection.source());
    out.extend_from_slice(b" \"");
    match &exchange.request {
        Some(request) => {
            append_quoted(out, request.head.method());
            out.push(b' ');
            append_quoted(out, url::url(connection, &request.head).as_bytes());
        }
        None => out.push(b'-'),
    }
    out.extend_from_slice(b"\" ");
    append_status(out, exchange);
    match exchange.duration_ms() {
        Some(duration) => append(out, format_args!(" {duration:.3}ms")),
        None => out.extend_from_slice(b" -"),
    }
    for (name, message) in [(" in=", &exchange.request), (" out=", &exchange.response)] {
        out.extend_from_slice(name.as_bytes());
        append_number(out, message.as_ref().map_or(0, |message| message.body.wire_bytes));
        out.push(b'B');
    }
    out.push(b' ');
    append_process(out, &connection.process);
    let mut separator = " incomplete=";
    incomplete::each(exchange, Level::Summary, Found::default(), Found::default(), |name| {
        append(out, format_args!("{separator}{name}"));
        separator = ",";
    });
    out.push(b'\n');
}

/// `172.18.0.1 - - [01/Mar/2026:12:00:00 +0000] "GET / HTTP/1.1" 200 151`: client, time, request line, status, bytes of
/// the response's body.
pub(super) fn append_common(out: &mut Vec<u8>, exchange: &Exchange) {
    append_common_columns(out, exchange);
    out.push(b'\n');
}

/// The same with `"Referer" "User-Agent"` behind it.
pub(super) fn append_combined(out: &mut Vec<u8>, exchange: &Exchange) {
    append_common_columns(out, exchange);
    for name in ["referer", "user-agent"] {
        let value = exchange.request.as_ref().and_then(|request| request.head.header(name));
        out.extend_from_slice(b" \"");
        append_quoted(out, value.filter(|value| !value.is_empty()).unwrap_or(b"-"));
        out.push(b'"');
    }
    out.push(b'\n');
}

fn append_common_columns(out: &mut Vec<u8>, exchange: &Exchange) {
    match exchange.connection.source().ip() {
        Some(ip) => append_ip(out, ip),
        None => out.push(b'-'),
    }
    out.extend_from_slice(b" - - [");
    append_log_time(out, exchange.started());
    out.extend_from_slice(b"] \"");
    match &exchange.request {
        Some(request) => append_request_line(out, &request.head),
        None => out.push(b'-'),
    }
    out.extend_from_slice(b"\" ");
    append_status(out, exchange);
    out.push(b' ');
    match exchange.response.as_ref().map_or(0, |response| response.body.wire_bytes) {
        0 => out.push(b'-'),
        bytes => append_number(out, bytes),
    }
}

fn append_request_line(out: &mut Vec<u8>, head: &Head) {
    append_quoted(out, head.method());
    out.push(b' ');
    append_quoted(out, head.target());
    out.extend_from_slice(match head.version {
        Version::Http10 => b" HTTP/1.0",
        Version::Http11 => b" HTTP/1.1",
        Version::Http2 => b" HTTP/2.0",
    });
}

fn append_status(out: &mut Vec<u8>, exchange: &Exchange) {
    match exchange.response.as_ref().map_or(0, |response| response.head.status()) {
        0 => out.push(b'-'),
        status => append_number(out, status.into()),
    }
}

fn append_process(out: &mut Vec<u8>, process: &Process) {
    append_visible(out, process.binary().as_bytes(), &[]);
    append(out, format_args!("[{}]", process.pid));
    if let Some(container) = &process.container {
        out.push(b'@');
        match container.facts().filter(|facts| !facts.name.is_empty()) {
            Some(facts) => append_visible(out, facts.name.as_bytes(), &[]),
            None => append_visible(out, container.short_id().as_bytes(), &[]),
        }
    }
}

fn append_address(out: &mut Vec<u8>, address: &Address) {
    match address {
        Address::Ip(address) => {
            append(out, format_args!("{}", SocketAddr::new(address.ip().to_canonical(), address.port())));
        }
        Address::Unix(path) if path.is_empty() => out.push(b'-'),
        Address::Unix(path) => append_quoted(out, path.as_bytes()),
    }
}

/// `01/Mar/2026:12:00:00 +0000`.
fn append_log_time(out: &mut Vec<u8>, nanos: Nanos) {
    let (year, month, day) = date(nanos);
    let mut time = *b"00/Jan/0000:00:00:00 +0000";
    digits::fill(&mut time[..2], day);
    time[3..6].copy_from_slice(MONTHS[(month as usize).saturating_sub(1) % MONTHS.len()]);
    digits::fill(&mut time[7..11], year);
    fill_clock(&mut time[12..20], nanos);
    out.extend_from_slice(&time);
}

/// Appends what stands between quotes.
fn append_quoted(out: &mut Vec<u8>, value: &[u8]) {
    for part in value.split_inclusive(|byte| b"\"\\".contains(byte)) {
        let (last, before) = part.split_last().expect("a part that ends in something");
        if b"\"\\".contains(last) {
            append_visible(out, before, &[]);
            out.extend_from_slice(&[b'\\', *last]);
        } else {
            append_visible(out, part, &[]);
        }
    }
}

fn append(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("writing to memory never fails");
}

#[cfg(test)]
mod tests {
    use super::super::sample::{egress, ingress};
    use super::*;
    use crate::exchange::{Format, Missing};

    fn line(exchange: Exchange, format: Format) -> String {
        super::super::sample::written(&exchange.record(Level::Summary, format))
    }

    fn post() -> Exchange {
        let request = "POST /api/create?a=\"b\" HTTP/1.1\nHost: localhost:8085\nReferer: http://a.test/\nUser-Agent: x \"y\" \\z\n";
        ingress().request(request, "question").response("HTTP/1.1 201 Created\n", "an answer")
    }

    #[test]
    fn a_line_for_people() {
        assert_eq!(
            line(post(), Format::Console),
            "2026-03-01T12:00:00.123Z ingress 172.18.0.1:40312 \"POST http://localhost:8085/api/create?a=\\\"b\\\"\" 201 12.345ms \
             in=8B out=9B haproxy[987]@haproxy-demo\n"
        );
        let lone =
            egress().response("HTTP/1.1 200 OK\n", "").missing(Missing::Request).missing(Missing::PairingUncertain);
        assert_eq!(
            line(lone, Format::Console),
            "2026-03-01T12:00:00.134Z egress-internal 172.18.0.2:55044 \"-\" 200 - in=0B out=0B haproxy[987]@haproxy-demo \
             incomplete=request_missing,pairing_uncertain\n"
        );
    }

    #[test]
    fn lines_for_tools() {
        let common = "172.18.0.1 - - [01/Mar/2026:12:00:00 +0000] \"POST /api/create?a=\\\"b\\\" HTTP/1.1\" 201 9";
        assert_eq!(line(post(), Format::Common), format!("{common}\n"));
        assert_eq!(line(post(), Format::Combined), format!("{common} \"http://a.test/\" \"x \\\"y\\\" \\\\z\"\n"));
        let lone = egress().response("HTTP/1.1 204\n", "");
        assert_eq!(
            line(lone, Format::Combined),
            "172.18.0.2 - - [01/Mar/2026:12:00:00 +0000] \"-\" 204 - \"-\" \"-\"\n"
        );
    }

    #[test]
    fn traffic_cannot_forge_a_line() {
        let hostile = || ingress().request("GET /\x1b[2J\r\x0b HTTP/1.1\nHost: a.test\nUser-Agent: \x07\u{9b}\n", "");
        for format in [Format::Console, Format::Common, Format::Combined] {
            let line = line(hostile(), format);
            assert!(line.ends_with('\n') && !line.trim_end().contains(char::is_control), "{line:?}");
        }
    }
}
