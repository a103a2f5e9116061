//! Exchanges as blocks of text, for people.
//!
//! The block is the contract with users, to the letter. Two things are not as on the wire: control characters are
//! escaped (`\x1b`; bodies keep line feeds and tabs), so that traffic cannot disturb a terminal or forge a line; and
//! the words `HTTP Transaction` inside an exchange are written `HTTP\x20Transaction`, so that
//! `grep -c "HTTP Transaction"` counts transactions whatever passes by. JSON has every byte.

use std::io::Write;

use super::body::Shown;
use super::encode::append_visible;
use super::incomplete::Found;
use super::{Shape, incomplete};
use crate::exchange::grpc::Call;
use crate::exchange::{Direction, Exchange, Level, Message, Missing, Process};
use crate::proto::{Span, grpc};
use crate::url;

/// Appends an exchange as a block with an empty line behind it.
pub(super) fn append_exchange(out: &mut Vec<u8>, exchange: &Exchange, shape: &Shape) {
    let mut found = (Found::default(), Found::default());
    let request = exchange.request.as_ref().map(|message| (message, shown(message, shape, &mut found.0)));
    let response = exchange.response.as_ref().map(|message| (message, shown(message, shape, &mut found.1)));

    out.extend_from_slice(b"=== HTTP Transaction ===\n");
    append_summary(out, exchange);
    append_incomplete(out, exchange, shape.level, found);
    if let Some((message, body)) = &request {
        append_sections(out, "Request", message, body.as_ref(), shape.level);
    }
    if let Some((message, body)) = &response {
        append_sections(out, "Response", message, body.as_ref(), shape.level);
    }
    out.extend_from_slice(b"========================\n\n");
}

/// The body, at a level that has bodies; and what came up about the message.
fn shown<'a>(message: &'a Message, shape: &Shape, found: &mut Found) -> Option<Shown<'a>> {
    let written = if shape.level >= Level::Headers { &message.head.text } else { message.head.target() };
    found.replaced = std::str::from_utf8(written).is_err();
    if shape.level < Level::Full {
        return None;
    }
    let shown = Shown::new(message, shape.max_body_bytes, shape.redact);
    found.body(&shown);
    Some(shown)
}

fn append_summary(out: &mut Vec<u8>, exchange: &Exchange) {
    let connection = &*exchange.connection;
    let process = &*connection.process;
    append_process(out, process);
    match connection.direction {
        Direction::Ingress => {
            out.extend_from_slice("Direction: INGRESS ← (client to ".as_bytes());
            append_plain(out, binary(process).as_bytes());
            out.extend_from_slice(b")\n");
        }
        Direction::EgressInternal | Direction::EgressExternal => {
            out.extend_from_slice("Direction: EGRESS → (".as_bytes());
            append_plain(out, binary(process).as_bytes());
            out.extend_from_slice(b" to backend)\n");
        }
    }
    match &exchange.request {
        Some(request) => {
            append_line(out, "Method: ", request.head.method());
            append_line(out, "URL: ", url::url(connection, &request.head).as_bytes());
        }
        None => out.extend_from_slice(b"Method: none (no request seen)\n"),
    }
    match &exchange.response {
        Some(response) if response.head.status() == 0 => out.extend_from_slice(b"Status: unknown\n"),
        Some(response) => append_status(out, response),
        None => append_line(out, "Status: ", why_no_response(exchange).as_bytes()),
    }
    if let Some(call) = Call::of(exchange) {
        append_call(out, &call);
    }
    if let Some(duration) = exchange.duration_ms() {
        append(out, format_args!("Duration: {duration:.0}ms\n"));
    }
}

/// `gRPC: shop.Cart/Add, status 5 NOT_FOUND (no such cart), messages: 1 sent, 0 returned`.
fn append_call(out: &mut Vec<u8>, call: &Call) {
    out.extend_from_slice(b"gRPC: ");
    append_plain(out, call.service.unwrap_or(b"unknown service"));
    out.push(b'/');
    append_plain(out, call.method.unwrap_or(b"unknown method"));
    match call.status {
        Some(status) => append(out, format_args!(", status {status}")),
        None => out.extend_from_slice(b", no status"),
    }
    if let Some(name) = call.status.and_then(grpc::status_name) {
        append(out, format_args!(" {name}"));
    }
    if !call.message.is_empty() {
        out.extend_from_slice(b" (");
        append_plain(out, &call.message);
        out.push(b')');
    }
    let counts = [call.request_messages, call.response_messages];
    if counts != [None, None] {
        let [sent, returned] = counts.map(|count| count.map_or("unknown".to_owned(), |count| count.to_string()));
        append(out, format_args!(", messages: {sent} sent, {returned} returned"));
    }
    out.push(b'\n');
}

fn append_process(out: &mut Vec<u8>, process: &Process) {
    out.extend_from_slice(b"Source Process: ");
    append_plain(out, binary(process).as_bytes());
    append(out, format_args!(" (PID: {}", process.pid));
    if let Some(container) = &process.container {
        out.extend_from_slice(b", Container: ");
        match container.facts().filter(|facts| !facts.name.is_empty()) {
            Some(facts) => append_plain(out, facts.name.as_bytes()),
            None => append_plain(out, container.short_id().as_bytes()),
        }
    }
    out.extend_from_slice(b")\n");
}

fn binary(process: &Process) -> &str {
    match process.binary() {
        "" => "unknown",
        name => name,
    }
}

fn append_status(out: &mut Vec<u8>, response: &Message) {
    let status = response.head.status();
    let reason = match response.head.reason() {
        b"" => standard_reason(status).as_bytes(),
        reason => reason,
    };
    append(out, format_args!("Status: {status}"));
    if !reason.is_empty() {
        out.push(b' ');
        append_plain(out, reason);
    }
    out.push(b'\n');
}

fn why_no_response(exchange: &Exchange) -> &'static str {
    let is = |missing: Missing| exchange.missing.contains(&missing);
    let any = |matches: fn(&Missing) -> bool| exchange.missing.iter().any(matches);
    if is(Missing::StillOpen) {
        "none yet"
    } else if any(|missing| matches!(missing, Missing::ResetByClient(_))) {
        "none (the client gave the request up)"
    } else if any(|missing| matches!(missing, Missing::ResetByServer(_))) {
        "none (the server gave the request up)"
    } else if any(|missing| matches!(missing, Missing::GoAway(_))) {
        "none (the server ended the connection)"
    } else if is(Missing::AgentStopped) {
        "none (sidetap stopped before the response)"
    } else if is(Missing::RequestAborted) {
        "none (the request was aborted)"
    } else if is(Missing::ResponseMalformed) {
        "none (what came back is not HTTP)"
    } else {
        "none (no response seen)"
    }
}

fn append_incomplete(out: &mut Vec<u8>, exchange: &Exchange, level: Level, found: (Found, Found)) {
    let mut any = false;
    incomplete::each(exchange, level, found.0, found.1, |name| {
        out.extend_from_slice(if any { b", " } else { b"Incomplete: " });
        append(out, name);
        any = true;
    });
    if any {
        out.push(b'\n');
    }
}

fn append_sections(out: &mut Vec<u8>, side: &str, message: &Message, body: Option<&Shown>, level: Level) {
    if level < Level::Headers {
        return;
    }
    append_headers(out, side, "Headers", &message.head.text, &message.head.fields);
    if let Some(body) = body {
        append_body(out, side, message, body);
    }
    if let Some(trailers) = &message.trailers {
        append_headers(out, side, "Trailers", &trailers.text, &trailers.fields);
    }
}

fn append_headers(out: &mut Vec<u8>, side: &str, what: &str, text: &[u8], fields: &[(Span, Span)]) {
    if fields.is_empty() {
        return;
    }
    append(out, format_args!("\n--- {side} {what} ---\n"));
    for (name, value) in fields {
        append_plain(out, name.of(text));
        out.extend_from_slice(b": ");
        append_plain(out, value.of(text));
        out.push(b'\n');
    }
}

fn append_body(out: &mut Vec<u8>, side: &str, message: &Message, body: &Shown) {
    let wire_bytes = message.body.wire_bytes;
    if wire_bytes == 0 {
        return;
    }
    append(out, format_args!("\n--- {side} Body ---\n"));
    if body.bytes.is_empty() {
        return append(out, format_args!("<not captured, {wire_bytes} bytes>\n"));
    }
    // A NUL is in no text that people read.
    match body.text().filter(|text| !text.contains('\0')) {
        Some(text) => {
            append_escaped(out, text.as_bytes(), &['\n', '\t']);
            if !text.ends_with('\n') {
                out.push(b'\n');
            }
        }
        None => append(out, format_args!("<binary, {wire_bytes} bytes>\n")),
    }
}

fn append_line(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    append_plain(out, value);
    out.push(b'\n');
}

/// Appends what must stay on its line.
fn append_plain(out: &mut Vec<u8>, value: &[u8]) {
    append_escaped(out, value, &['\t']);
}

fn append_escaped(out: &mut Vec<u8>, mut value: &[u8], plain: &[char]) {
    const FIRST: &[u8] = b"HTTP";
    const SECOND: &[u8] = b" Transaction";
    while let Some(found) = find_phrase(value) {
        let (before, rest) = value.split_at(found + FIRST.len());
        append_visible(out, before, plain);
        out.extend_from_slice(b"\\x20Transaction");
        value = &rest[SECOND.len()..];
    }
    append_visible(out, value, plain);
}

/// Where `HTTP Transaction` begins.
fn find_phrase(value: &[u8]) -> Option<usize> {
    const PHRASE: &[u8] = b"HTTP Transaction";
    let mut from = 0;
    loop {
        let at = from + value[from..].iter().position(|&byte| byte == b'H')?;
        if value[at..].starts_with(PHRASE) {
            return Some(at);
        }
        from = at + 1;
    }
}

fn append(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("writing to memory never fails");
}

/// The phrase the HTTP Status Code Registry has for a status; HTTP/1.1 allows servers to send none.
fn standard_reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        102 => "Processing",
        103 => "Early Hints",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        205 => "Reset Content",
        206 => "Partial Content",
        207 => "Multi-Status",
        208 => "Already Reported",
        226 => "IM Used",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        305 => "Use Proxy",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        423 => "Locked",
        424 => "Failed Dependency",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        506 => "Variant Also Negotiates",
        507 => "Insufficient Storage",
        508 => "Loop Detected",
        511 => "Network Authentication Required",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use proptest::prelude::*;

    use super::super::sample::{egress, ingress, trailers};
    use super::*;
    use crate::exchange::Container;

    #[test]
    fn a_stream_that_was_given_up_says_by_whom() {
        for (missing, status) in [
            (Missing::ResetByClient(8), "none (the client gave the request up)\nIncomplete: reset_by_client:CANCEL\n"),
            (
                Missing::ResetByServer(7),
                "none (the server gave the request up)\nIncomplete: reset_by_server:REFUSED_STREAM\n",
            ),
            (Missing::GoAway(0), "none (the server ended the connection)\nIncomplete: goaway:NO_ERROR\n"),
            (Missing::StillOpen, "none yet\nIncomplete: still_open\n"),
        ] {
            let text = ingress().request("GET / HTTP/2\n", "").missing(missing).text(Level::Summary);
            assert!(text.contains(&format!("\nStatus: {status}")), "{text}");
        }
    }

    #[test]
    fn blocks_are_those_of_the_guide() {
        let body = r#"{"name": "Alice", "role": "admin"}"#;
        let answer = concat!(
            r#"{"service":"backend-api-1","port":"8001","method":"POST","received":"{\"name\": \"Alice\", "#,
            r#"\"role\": \"admin\"}","message":"POST received by backend-api-1"}"#
        );
        let request = "POST /api/create HTTP/1.1\nHost: localhost:8085\nUser-Agent: curl/7.81.0\nContent-Type: application/json\n";
        let exchange =
            ingress().request(request, body).response("HTTP/1.0 200 OK\nContent-Type: application/json\n", answer);
        let expected = r#"=== HTTP Transaction ===
Source Process: haproxy (PID: 987, Container: haproxy-demo)
Direction: INGRESS ← (client to haproxy)
Method: POST
URL: http://localhost:8085/api/create
Status: 200 OK
Duration: 12ms

--- Request Headers ---
Host: localhost:8085
User-Agent: curl/7.81.0
Content-Type: application/json

--- Request Body ---
{"name": "Alice", "role": "admin"}

--- Response Headers ---
Content-Type: application/json

--- Response Body ---
{"service":"backend-api-1","port":"8001","method":"POST","received":"{\"name\": \"Alice\", \"role\": \"admin\"}","message":"POST received by backend-api-1"}
========================

"#;
        assert_eq!(exchange.text(Level::Full), expected);

        let mut exchange = egress()
            .request("POST /api/create HTTP/1.1\nHost: 172.18.0.5:8001\n", body)
            .response("HTTP/1.0 200 OK\n", "");
        exchange.request.as_mut().unwrap().head.fields.clear();
        exchange.response.as_mut().unwrap().last_byte = exchange.started() + 8_000_000;
        let expected = r#"=== HTTP Transaction ===
Source Process: haproxy (PID: 987, Container: haproxy-demo)
Direction: EGRESS → (haproxy to backend)
Method: POST
URL: http://172.18.0.5:8001/api/create
Status: 200 OK
Duration: 8ms

--- Request Body ---
{"name": "Alice", "role": "admin"}
========================

"#;
        assert_eq!(exchange.text(Level::Full), expected);
    }

    #[test]
    fn levels_leave_sections_out() {
        let exchange =
            || ingress().request("GET / HTTP/1.1\nHost: a.test\n", "question").response("HTTP/1.1 404\n", "no");
        assert_snapshot!(exchange().text(Level::Summary), @r#"
        === HTTP Transaction ===
        Source Process: haproxy (PID: 987, Container: haproxy-demo)
        Direction: INGRESS ← (client to haproxy)
        Method: GET
        URL: http://a.test/
        Status: 404 Not Found
        Duration: 12ms
        ========================
        "#);
        assert_snapshot!(exchange().text(Level::Headers), @r#"
        === HTTP Transaction ===
        Source Process: haproxy (PID: 987, Container: haproxy-demo)
        Direction: INGRESS ← (client to haproxy)
        Method: GET
        URL: http://a.test/
        Status: 404 Not Found
        Duration: 12ms

        --- Request Headers ---
        Host: a.test
        ========================
        "#);
        assert_eq!(exchange().text(Level::None), "");
    }

    #[test]
    fn outside_a_container_none_is_named() {
        let mut exchange = ingress().request("GET / HTTP/1.1\nHost: a.test\n", "");
        let connection = std::sync::Arc::make_mut(&mut exchange.connection);
        let process = std::sync::Arc::make_mut(&mut connection.process);
        process.container = Some(Container::new(process.container.as_ref().unwrap().id.clone()).into());
        assert!(exchange.clone().text(Level::Summary).contains("(PID: 987, Container: 4f0c8a1b2c3d)\n"));
        let connection = std::sync::Arc::make_mut(&mut exchange.connection);
        std::sync::Arc::make_mut(&mut connection.process).container = None;
        assert!(exchange.text(Level::Summary).contains("Source Process: haproxy (PID: 987)\n"));
    }

    #[test]
    fn a_missing_message_is_named() {
        let request = ingress().request("GET / HTTP/1.1\nHost: a.test\n", "").missing(Missing::Response);
        assert_snapshot!(request.text(Level::Full), @r#"
        === HTTP Transaction ===
        Source Process: haproxy (PID: 987, Container: haproxy-demo)
        Direction: INGRESS ← (client to haproxy)
        Method: GET
        URL: http://a.test/
        Status: none (no response seen)
        Incomplete: response_missing

        --- Request Headers ---
        Host: a.test
        ========================
        "#);
        let response = egress().response("HTTP/1.1 200 Fine\n", "yes").missing(Missing::Request);
        assert_snapshot!(response.text(Level::Full), @r#"
        === HTTP Transaction ===
        Source Process: haproxy (PID: 987, Container: haproxy-demo)
        Direction: EGRESS → (haproxy to backend)
        Method: none (no request seen)
        Status: 200 Fine
        Incomplete: request_missing

        --- Response Body ---
        yes
        ========================
        "#);
        let stopped =
            ingress().request("GET / HTTP/1.1\n", "").missing(Missing::Response).missing(Missing::AgentStopped);
        assert!(stopped.text(Level::Full).contains("Status: none (sidetap stopped before the response)\n"));
    }

    #[test]
    fn a_body_that_ends_its_last_line_gets_no_empty_one() {
        let text = ingress().response("HTTP/1.1 200 OK\n", "done\n").text(Level::Full);
        assert!(text.ends_with("--- Response Body ---\ndone\n========================\n\n"), "{text}");
    }

    #[test]
    fn bodies_that_are_no_text_are_one_line() {
        let mut exchange = ingress()
            .request("PUT / HTTP/1.1\nHost: a.test\n", b"\x89PNG\r\n\x1a\n\xff")
            .response("HTTP/1.1 200 OK\n", "\0\0");
        assert_snapshot!(exchange.clone().text(Level::Full), @r#"
        === HTTP Transaction ===
        Source Process: haproxy (PID: 987, Container: haproxy-demo)
        Direction: INGRESS ← (client to haproxy)
        Method: PUT
        URL: http://a.test/
        Status: 200 OK
        Duration: 12ms

        --- Request Headers ---
        Host: a.test

        --- Request Body ---
        <binary, 9 bytes>

        --- Response Body ---
        <binary, 2 bytes>
        ========================
        "#);
        let body = &mut exchange.response.as_mut().unwrap().body;
        body.kept.clear();
        body.wire_bytes = 70_000;
        let text = exchange.missing(Missing::ResponseBodyNotObservable(70_000)).text(Level::Full);
        assert!(text.contains("Incomplete: response_body_not_observable:70000\n"), "{text}");
        assert!(text.contains("--- Response Body ---\n<not captured, 70000 bytes>\n==="), "{text}");
    }

    #[test]
    fn traffic_cannot_disturb_a_terminal_or_forge_lines() {
        let request = "GET /\x1b[2J HTTP/1.1\nHost: a.test\nX\x07: \x1b]0;title\x07 a\tb\u{9b}\n";
        let mut exchange = ingress().request(request, "line\n\ttab\r\nbell\x07").response("HTTP/1.1 200 OK\n", "");
        exchange.response.as_mut().unwrap().trailers = Some(trailers(b"X-Sum: \x1b[0m\n"));
        assert_snapshot!(exchange.text(Level::Full), @r#"
        === HTTP Transaction ===
        Source Process: haproxy (PID: 987, Container: haproxy-demo)
        Direction: INGRESS ← (client to haproxy)
        Method: GET
        URL: http://a.test/\x1b[2J
        Status: 200 OK
        Duration: 12ms

        --- Request Headers ---
        Host: a.test
        X\x07: \x1b]0;title\x07 a	b\u{9b}

        --- Request Body ---
        line
        	tab\r
        bell\x07

        --- Response Trailers ---
        X-Sum: \x1b[0m
        ========================
        "#);
    }

    #[test]
    fn counting_the_first_lines_counts_transactions() {
        let forged = "a\n========================\n\n=== HTTP Transaction ===\nSource Process: x\nHTTP Transactions, HHTTP Transaction";
        let request = "GET /HTTP HTTP/1.1\nHost: a.test\nX-Title: HTTP Transaction\n";
        let text =
            ingress().request(request, forged).response("HTTP/1.1 200 HTTP Transaction\n", forged).text(Level::Full);
        assert_eq!(text.matches("HTTP Transaction").count(), 1);
        assert_eq!(text.matches("HTTP\\x20Transaction").count(), 8);
    }

    proptest! {
        #[test]
        fn output_has_no_control_characters(target in "[^ \n]{1,20}", value in "[^\n]{0,20}", body in proptest::collection::vec(any::<u8>(), 0..80)) {
            let request = format!("GET {target} HTTP/1.1\nHost: {value}\nX: {value}\n");
            let text = ingress().request(request, &body).response("HTTP/1.1 200 OK\n", &body).text(Level::Full);
            prop_assert!(!text.contains(|c: char| c.is_control() && c != '\n' && c != '\t'));
            prop_assert_eq!(text.matches("HTTP Transaction").count(), 1);
            prop_assert!(text.ends_with("\n========================\n\n"));
        }
    }
}
