//! What users see of records as JSON.

use std::io::Write;
use std::sync::Arc;

use insta::assert_snapshot;
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::exchange::{Format, Missing, Protocol, Record, Tls};
use crate::sink::sample::{START, connection, egress, ingress, ip, trailers, written};
use crate::tls::Info;

const REQUEST: &str = concat!(
    "POST /api/create?dry=1 HTTP/1.1\nHost: localhost:8085\nUser-Agent: curl/7.81.0\n",
    "accept: text/html\nContent-Type: application/json\nAccept: */*\n"
);
const RESPONSE: &str = "HTTP/1.1 201 Created\nContent-Type: text/plain\nSet-Cookie: a=1; Path=/\nset-cookie: b=2\n";

fn posted() -> Exchange {
    ingress().request(REQUEST, "{\"name\": \"Zoë\"}").response(RESPONSE, "done\n")
}

fn parsed(line: &str) -> Value {
    serde_json::from_str(line).expect("valid JSON")
}

/// A line, broken before its keys, for a reader of this file.
fn keys_in_lines(line: &str) -> String {
    assert_eq!(line.find('\n'), Some(line.len() - 1), "a record is one line");
    line.replace(",\"", ",\n\"").replace("{\"", "{\n\"")
}

#[test]
fn an_exchange_in_full() {
    assert_snapshot!(keys_in_lines(&posted().json(Level::Full)), @r#"
    {
    "type":"http_transaction",
    "metadata":{
    "request_id":"42",
    "connection_id":"7",
    "endpoint_id":"localhost",
    "process_id":"987",
    "process_exe":"/usr/local/sbin/haproxy",
    "exe":"/usr/local/sbin/haproxy",
    "container_id":"4f0c8a1b2c3d4e5f60718293a4b5c6d7",
    "container_name":"haproxy-demo",
    "container_image":"haproxy:2.9-alpine",
    "bytes_sent":91,
    "bytes_received":154},
    "request":{
    "method":"POST",
    "url":"http://localhost:8085/api/create?dry=1",
    "scheme":"http",
    "path":"/api/create",
    "query":"dry=1",
    "authority":"localhost:8085",
    "protocol":"http1",
    "user_agent":"curl/7.81.0",
    "content_type":"application/json",
    "headers":{
    "Host":"localhost:8085",
    "User-Agent":"curl/7.81.0",
    "accept":"text/html, */*",
    "Content-Type":"application/json"},
    "body":"{\"name\": \"Zoë\"}",
    "body_encoding":"text",
    "body_bytes":16},
    "response":{
    "status":201,
    "content_type":"text/plain",
    "headers":{
    "Content-Type":"text/plain",
    "Set-Cookie":["a=1; Path=/",
    "b=2"]},
    "body":"done\n",
    "body_encoding":"text",
    "body_bytes":5},
    "source":{
    "ip":"172.18.0.1",
    "port":40312},
    "destination":{
    "ip":"172.18.0.2",
    "port":80},
    "transaction_time":"2026-03-01T12:00:00.123456789Z",
    "duration_ms":12.345,
    "ttfb_ms":11.200,
    "direction":"ingress"}
    "#);
}

#[test]
fn an_exchange_with_headers() {
    assert_snapshot!(keys_in_lines(&posted().json(Level::Headers)), @r#"
    {
    "type":"http_transaction",
    "metadata":{
    "request_id":"42",
    "connection_id":"7",
    "endpoint_id":"localhost",
    "process_id":"987",
    "process_exe":"/usr/local/sbin/haproxy",
    "exe":"/usr/local/sbin/haproxy",
    "container_id":"4f0c8a1b2c3d4e5f60718293a4b5c6d7",
    "container_name":"haproxy-demo",
    "container_image":"haproxy:2.9-alpine",
    "bytes_sent":91,
    "bytes_received":154},
    "request":{
    "method":"POST",
    "url":"http://localhost:8085/api/create?dry=1",
    "scheme":"http",
    "path":"/api/create",
    "query":"dry=1",
    "authority":"localhost:8085",
    "protocol":"http1",
    "user_agent":"curl/7.81.0",
    "content_type":"application/json",
    "headers":{
    "Host":"localhost:8085",
    "User-Agent":"curl/7.81.0",
    "accept":"text/html, */*",
    "Content-Type":"application/json"},
    "body_bytes":16},
    "response":{
    "status":201,
    "content_type":"text/plain",
    "headers":{
    "Content-Type":"text/plain",
    "Set-Cookie":["a=1; Path=/",
    "b=2"]},
    "body_bytes":5},
    "source":{
    "ip":"172.18.0.1",
    "port":40312},
    "destination":{
    "ip":"172.18.0.2",
    "port":80},
    "transaction_time":"2026-03-01T12:00:00.123456789Z",
    "duration_ms":12.345,
    "ttfb_ms":11.200,
    "direction":"ingress"}
    "#);
}

#[test]
fn a_summary() {
    assert_snapshot!(keys_in_lines(&posted().json(Level::Summary)), @r#"
    {
    "type":"http_transaction",
    "metadata":{
    "request_id":"42",
    "connection_id":"7",
    "endpoint_id":"localhost",
    "process_id":"987",
    "process_exe":"/usr/local/sbin/haproxy",
    "exe":"/usr/local/sbin/haproxy",
    "container_id":"4f0c8a1b2c3d4e5f60718293a4b5c6d7",
    "container_name":"haproxy-demo",
    "container_image":"haproxy:2.9-alpine",
    "bytes_sent":91,
    "bytes_received":154},
    "request":{
    "method":"POST",
    "url":"http://localhost:8085/api/create?dry=1",
    "scheme":"http",
    "path":"/api/create",
    "query":"dry=1",
    "authority":"localhost:8085",
    "protocol":"http1",
    "user_agent":"curl/7.81.0",
    "content_type":"application/json",
    "body_bytes":16},
    "response":{
    "status":201,
    "content_type":"text/plain",
    "body_bytes":5},
    "source":{
    "ip":"172.18.0.1",
    "port":40312},
    "destination":{
    "ip":"172.18.0.2",
    "port":80},
    "transaction_time":"2026-03-01T12:00:00.123456789Z",
    "duration_ms":12.345,
    "ttfb_ms":11.200,
    "direction":"ingress"}
    "#);
    assert_eq!(posted().json(Level::None), "");
}

#[test]
fn sent_and_received_are_the_watched_process_s() {
    let (head, answer) = ("GET /12 HTTP/1.1\n", "HTTP/1.1 200 OK\n");
    let egress = parsed(&egress().request(head, "").response(answer, "four").json(Level::Summary));
    assert_eq!(egress["metadata"]["bytes_sent"], head.len());
    assert_eq!(egress["metadata"]["bytes_received"], answer.len() + 4);
    let ingress = parsed(&ingress().request(head, "").response(answer, "four").json(Level::Summary));
    assert_eq!(ingress["metadata"]["bytes_sent"], answer.len() + 4);
    assert_eq!(ingress["metadata"]["bytes_received"], head.len());
}

#[test]
fn a_grpc_call_over_http2() {
    let call = "POST /shop.v1.Cart/Add HTTP/2\ncontent-type: application/grpc\n";
    let answer = "HTTP/2 200\ncontent-type: application/grpc+proto\n";
    let mut exchange =
        ingress().request(call, "\0\0\0\0\x02hi").response(answer, "").over_http2(5, "https", "shop.test");
    exchange.response.as_mut().unwrap().trailers = Some(trailers(b"grpc-status: 5\ngrpc-message: no%20cart\n"));
    let value = parsed(&exchange.clone().json(Level::Summary));
    let request = &value["request"];
    assert_eq!((&request["protocol"], &request["stream_id"]), (&"http2".into(), &5.into()));
    assert_eq!((&request["scheme"], &request["authority"]), (&"https".into(), &"shop.test".into()));
    assert_eq!(request["url"], "https://shop.test/shop.v1.Cart/Add");
    assert_eq!(value["metadata"]["endpoint_id"], "shop.test");
    let expected = serde_json::json!({
        "service": "shop.v1.Cart", "method": "Add", "status": 5, "status_name": "NOT_FOUND", "message": "no cart",
        "request_messages": 1, "response_messages": 0,
    });
    assert_eq!(value["grpc"], expected);
    let text = exchange.text(Level::Summary);
    let line = "\ngRPC: shop.v1.Cart/Add, status 5 NOT_FOUND (no cart), messages: 1 sent, 0 returned\n";
    assert!(text.contains(line), "{text}");
    assert_eq!(parsed(&posted().json(Level::Full)).get("grpc"), None);
}

#[test]
fn what_tls_is_on_the_connection() {
    let mut exchange = ingress().request("GET /a HTTP/1.1\nHost: shop.test\n", "");
    assert_eq!(parsed(&exchange.clone().json(Level::Summary)).get("tls"), None);
    let info = Info { version: Some("1.3"), sni: Some("shop.test".into()), ..Info::default() };
    let known = Tls { info, library: Some("openssl"), ..Tls::default() };
    exchange.connection = Arc::new(Connection { tls: Some(known), ..(*exchange.connection).clone() });
    let value = parsed(&exchange.json(Level::Summary));
    assert_eq!(value["tls"], serde_json::json!({"version": "1.3", "sni": "shop.test", "library": "openssl"}));
    assert_eq!(value["request"]["url"], "https://shop.test/a");
    assert_eq!(value["request"]["scheme"], "https");
}

#[test]
fn a_status_that_is_not_known_is_not_told() {
    let exchange = egress().response("HTTP/2 0\n", "").missing(Missing::ResponseHeadersUnknown);
    assert_eq!(parsed(&exchange.clone().json(Level::Full))["response"].get("status"), None);
    assert!(exchange.text(Level::Full).contains("\nStatus: unknown\n"));
}

#[test]
fn pushed_responses_say_so() {
    let mut exchange = ingress().request("GET /style HTTP/2\n", "").over_http2(2, "http", "a");
    assert_eq!(parsed(&exchange.clone().json(Level::Summary))["request"].get("pushed"), None);
    exchange.stream.as_mut().unwrap().pushed = true;
    assert_eq!(parsed(&exchange.json(Level::Summary))["request"]["pushed"], true);
}

#[test]
fn a_request_without_a_response() {
    let exchange = egress().request("GET /health HTTP/1.0\n", "").missing(Missing::Response);
    assert_snapshot!(keys_in_lines(&exchange.json(Level::Full)), @r#"
    {
    "type":"http_transaction",
    "metadata":{
    "request_id":"42",
    "connection_id":"7",
    "endpoint_id":"172.18.0.5",
    "process_id":"987",
    "process_exe":"/usr/local/sbin/haproxy",
    "exe":"/usr/local/sbin/haproxy",
    "container_id":"4f0c8a1b2c3d4e5f60718293a4b5c6d7",
    "container_name":"haproxy-demo",
    "container_image":"haproxy:2.9-alpine",
    "bytes_sent":21},
    "request":{
    "method":"GET",
    "url":"http://172.18.0.5:8001/health",
    "scheme":"http",
    "path":"/health",
    "protocol":"http1",
    "body_bytes":0},
    "source":{
    "ip":"172.18.0.2",
    "port":55044},
    "destination":{
    "ip":"172.18.0.5",
    "port":8001},
    "transaction_time":"2026-03-01T12:00:00.123456789Z",
    "direction":"egress-internal",
    "incomplete":["response_missing"]}
    "#);
}

#[test]
fn a_response_without_a_request() {
    let exchange = egress().response("HTTP/1.1 204 No Content\n", "").missing(Missing::Request);
    assert_snapshot!(keys_in_lines(&exchange.json(Level::Full)), @r#"
    {
    "type":"http_transaction",
    "metadata":{
    "request_id":"42",
    "connection_id":"7",
    "process_id":"987",
    "process_exe":"/usr/local/sbin/haproxy",
    "exe":"/usr/local/sbin/haproxy",
    "container_id":"4f0c8a1b2c3d4e5f60718293a4b5c6d7",
    "container_name":"haproxy-demo",
    "container_image":"haproxy:2.9-alpine",
    "bytes_received":24},
    "response":{
    "status":204,
    "body_bytes":0},
    "source":{
    "ip":"172.18.0.2",
    "port":55044},
    "destination":{
    "ip":"172.18.0.5",
    "port":8001},
    "transaction_time":"2026-03-01T12:00:00.134656789Z",
    "direction":"egress-internal",
    "incomplete":["request_missing"]}
    "#);
}

#[test]
fn tags_and_unix_sockets() {
    let mut exchange = ingress().request("GET / HTTP/1.1\n", "");
    let (local, remote) = (Address::Unix("/run/api.sock".to_owned()), Address::Unix(String::new()));
    exchange.connection = Arc::new(connection(Direction::Ingress, local, remote));
    let mut record = exchange.record(Level::Summary, Format::Json);
    if let Record::Exchange { tags, .. } = &mut record {
        *tags = vec![("env".to_owned(), "prod".to_owned()), ("a \"b\"".to_owned(), "c".to_owned())].into();
    }
    let value = parsed(&written(&record));
    assert_eq!(value["metadata"]["tags"], serde_json::json!({"env": "prod", "a \"b\"": "c"}));
    assert_eq!(value["destination"], serde_json::json!({"path": "/run/api.sock"}));
    assert_eq!(value.get("source"), None);
}

#[test]
fn every_lack_has_its_name() {
    let all = [
        Missing::Request,
        Missing::Response,
        Missing::RequestAborted,
        Missing::ResponseAborted,
        Missing::RequestBodyTruncated(1),
        Missing::ResponseBodyTruncated(2),
        Missing::RequestBodyNotObservable(3),
        Missing::ResponseBodyNotObservable(4),
        Missing::RequestBodyLost(5),
        Missing::ResponseBodyLost(6),
        Missing::RequestBodyOverMemory,
        Missing::ResponseBodyOverMemory,
        Missing::RequestMalformed,
        Missing::ResponseMalformed,
        Missing::PairingUncertain,
        Missing::AgentStopped,
        Missing::RequestHeadersUnknown,
        Missing::ResponseHeadersUnknown,
        Missing::RequestLost,
        Missing::ResponseLost,
        Missing::ResetByClient(8),
        Missing::ResetByServer(0x1f),
        Missing::GoAway(0),
        Missing::StillOpen,
    ];
    let names = |level| {
        let exchange = all.into_iter().fold(ingress(), Exchange::missing);
        let names = parsed(&exchange.json(level))["incomplete"].as_array().expect("an array").clone();
        names.iter().map(|name| name.as_str().expect("a string").to_owned()).collect::<Vec<_>>().join("\n")
    };
    assert_snapshot!(names(Level::Full), @r#"
    request_missing
    response_missing
    request_aborted
    response_aborted
    request_body_truncated:1
    response_body_truncated:2
    request_body_not_observable:3
    response_body_not_observable:4
    request_body_lost:5
    response_body_lost:6
    request_body_over_memory
    response_body_over_memory
    request_malformed
    response_malformed
    pairing_uncertain
    agent_stopped
    request_headers_unknown
    response_headers_unknown
    request_lost
    response_lost
    reset_by_client:CANCEL
    reset_by_server:0x1f
    goaway:NO_ERROR
    still_open
    "#);
    assert_snapshot!(names(Level::Headers), @r#"
    request_missing
    response_missing
    request_aborted
    response_aborted
    request_malformed
    response_malformed
    pairing_uncertain
    agent_stopped
    request_headers_unknown
    response_headers_unknown
    request_lost
    response_lost
    reset_by_client:CANCEL
    reset_by_server:0x1f
    goaway:NO_ERROR
    still_open
    "#);
}

#[test]
fn bodies_that_are_no_text_are_base64() {
    let value = parsed(&ingress().request("PUT / HTTP/1.1\n", b"\xff\xfe\0").json(Level::Full));
    assert_eq!(value["request"]["body"], "//4A");
    assert_eq!(value["request"]["body_encoding"], "base64");
    assert_eq!(value.get("incomplete"), None);
}

#[test]
fn base64_where_it_is_asked_for() {
    let mut record = ingress().request("PUT / HTTP/1.1\n", "text").record(Level::Full, Format::Json);
    if let Record::Exchange { encoding, .. } = &mut record {
        *encoding = BodyEncoding::Base64;
    }
    let value = parsed(&written(&record));
    assert_eq!(value["request"]["body"], "dGV4dA==");
    assert_eq!(value["request"]["body_encoding"], "base64");
}

fn gzipped(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(text).expect("writing to memory never fails");
    encoder.finish().expect("writing to memory never fails")
}

fn answered(coding: &str, body: &[u8], limit: usize) -> Value {
    let head = format!("HTTP/1.1 200 OK\nContent-Encoding: {coding}\n");
    let mut record = ingress().response(head, body).record(Level::Full, Format::Json);
    if let Record::Exchange { max_body_bytes, .. } = &mut record {
        *max_body_bytes = limit;
    }
    parsed(&written(&record))
}

#[test]
fn content_codings_are_undone() {
    let body = gzipped(b"{\"plain\":true}");
    let value = answered("gzip", &body, 1000);
    assert_eq!(value["response"]["body"], "{\"plain\":true}");
    assert_eq!(value["response"]["body_encoding"], "text");
    assert_eq!(value["response"]["body_bytes"], body.len());
    assert_eq!(value.get("incomplete"), None);
    assert_eq!(answered("identity", b"as it is", 1000)["response"]["body"], "as it is");
}

#[test]
fn codings_that_cannot_be_undone_are_named() {
    let value = answered("gzip", &gzipped(&[b'a'; 5000]), 1000);
    assert_eq!(value["response"]["body"], "a".repeat(1000));
    assert_eq!(value["incomplete"], serde_json::json!(["response_body_truncated:1000"]));

    let value = answered("gzip", b"no gzip at all", 1000);
    assert_eq!(value["response"]["body"], "no gzip at all");
    assert_eq!(value["incomplete"], serde_json::json!(["response_body_coding_broken"]));

    let value = answered("rot13", b"uryyb", 1000);
    assert_eq!(value["response"]["body"], "uryyb");
    assert_eq!(value["incomplete"], serde_json::json!(["response_body_coding_unknown"]));
}

#[test]
fn a_body_above_the_limit_is_cut_between_characters() {
    let cut = ingress().request("PUT / HTTP/1.1\n", "aé€").missing(Missing::RequestBodyTruncated(6));
    let mut record = cut.record(Level::Full, Format::Json);
    if let Record::Exchange { max_body_bytes, .. } = &mut record {
        *max_body_bytes = 4;
    }
    let value = parsed(&written(&record));
    assert_eq!(value["request"]["body"], "aé");
    assert_eq!(value["request"]["body_bytes"], 6);
    assert_eq!(value["incomplete"], serde_json::json!(["request_body_truncated:4"]));
}

#[test]
fn bytes_that_are_not_utf8_are_replaced_and_named() {
    let request = b"GET /caf\xe9 HTTP/1.1\nHost: a.test\nX-\xff: \xe9t\xe9\n";
    let line = ingress().request(request, "").response("HTTP/1.1 200 OK\n", "").json(Level::Headers);
    let value = parsed(&line);
    assert_eq!(value["request"]["path"], "/caf\u{fffd}");
    assert_eq!(value["request"]["headers"]["X-\u{fffd}"], "\u{fffd}t\u{fffd}");
    assert_eq!(value["incomplete"], serde_json::json!(["request_not_utf8"]));
}

#[test]
fn trailers_follow_the_body() {
    let mut exchange = ingress().response("HTTP/1.1 200 OK\n", "x");
    exchange.response.as_mut().expect("just made").trailers = Some(trailers(b"X-Sum: 1\nx-sum: 2\n"));
    let line = exchange.json(Level::Full);
    assert!(line.contains(r#""body_bytes":1,"trailers":{"X-Sum":"1, 2"}}"#), "{line}");
}

#[test]
fn repeated_headers_keep_their_order() {
    let mut head = "GET / HTTP/1.1\n".to_owned();
    let mut expected = [const { Vec::new() }; 3];
    for number in 0..900 {
        let name = number * 7 % 11 % 3;
        head.push_str(&format!("{}: {number}\n", ["Even", "eVENs", "Event"][name]));
        expected[name].push(number.to_string());
    }
    let value = parsed(&ingress().request(head, "").json(Level::Headers));
    let headers = &value["request"]["headers"];
    assert_eq!(headers["Even"], expected[0].join(", "));
    assert_eq!(headers["eVENs"], expected[1].join(", "));
    assert_eq!(headers["Event"], expected[2].join(", "));
}

#[test]
fn a_head_of_many_headers_takes_no_quadratic_time() {
    let mut head = "GET / HTTP/1.1\n".to_owned();
    for number in 0..100_000 {
        head.push_str(&format!("h{}: {number}\n", number % 50_000));
    }
    let start = std::time::Instant::now();
    let value = parsed(&ingress().request(head, "").json(Level::Headers));
    assert!(start.elapsed().as_secs() < 20, "took {:?}", start.elapsed());
    let headers = value["request"]["headers"].as_object().expect("an object");
    assert_eq!(headers.len(), 50_000);
    assert_eq!(headers["h7"], "7, 50007");
}

fn event() -> ConnectionEvent {
    ConnectionEvent {
        connection: Arc::new(connection(Direction::EgressExternal, ip("10.0.0.2:40000"), ip("[2001:db8::1]:80"))),
        protocol: Some(Protocol::Http1),
        opened: Some(START),
        observed: START + 1_000_000_000,
        bytes_sent: 120,
        bytes_received: 3400,
        bytes_lost: 0,
        transactions: 2,
        finalized: true,
        error: None,
    }
}

#[test]
fn connection_events() {
    assert_snapshot!(keys_in_lines(&written(&Record::Connection(Box::new(event())))), @r#"
    {
    "type":"connection",
    "connection_id":"7",
    "opened":"2026-03-01T12:00:00.123456789Z",
    "observed":"2026-03-01T12:00:01.123456789Z",
    "direction":"egress-external",
    "l7_protocol":"http1",
    "source":{
    "ip":"10.0.0.2",
    "port":40000,
    "process":{
    "exe":"/usr/local/sbin/haproxy",
    "pid":987,
    "user":"haproxy"},
    "container":{
    "id":"4f0c8a1b2c3d4e5f60718293a4b5c6d7",
    "name":"haproxy-demo",
    "image":"haproxy:2.9-alpine"}},
    "destination":{
    "ip":"2001:db8::1",
    "port":80},
    "bytes_sent":120,
    "bytes_received":3400,
    "transactions":2,
    "finalized":true}
    "#);
    let mut refused =
        ConnectionEvent { protocol: None, opened: None, error: Some("ECONNREFUSED".to_owned()), ..event() };
    refused.connection = ingress().connection;
    refused.bytes_lost = 24;
    assert_snapshot!(keys_in_lines(&written(&Record::Connection(Box::new(refused)))), @r#"
    {
    "type":"connection",
    "connection_id":"7",
    "observed":"2026-03-01T12:00:01.123456789Z",
    "direction":"ingress",
    "source":{
    "ip":"172.18.0.1",
    "port":40312},
    "destination":{
    "ip":"172.18.0.2",
    "port":80,
    "process":{
    "exe":"/usr/local/sbin/haproxy",
    "pid":987,
    "user":"haproxy"},
    "container":{
    "id":"4f0c8a1b2c3d4e5f60718293a4b5c6d7",
    "name":"haproxy-demo",
    "image":"haproxy:2.9-alpine"}},
    "bytes_sent":120,
    "bytes_received":3400,
    "bytes_lost":24,
    "transactions":2,
    "finalized":true,
    "error":"ECONNREFUSED"}
    "#);
}

proptest! {
    #[test]
    fn a_record_is_one_line_that_parses(
        target in proptest::collection::vec(any::<u8>(), 1..20),
        fields in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 1..5), proptest::collection::vec(any::<u8>(), 0..12)), 0..8),
        body in proptest::collection::vec(any::<u8>(), 0..60),
        level in prop_oneof![Just(Level::Summary), Just(Level::Headers), Just(Level::Full)],
    ) {
        let mut exchange = egress().request("GET / HTTP/1.1\n", &body).response("HTTP/1.1 200 OK\n", &body);
        let head = &mut exchange.request.as_mut().expect("just made").head;
        head.text.clear();
        let mut add = |bytes: &[u8]| {
            let start = head.text.len() as u32;
            head.text.extend_from_slice(bytes);
            Span { start, end: head.text.len() as u32 }
        };
        let (method, target) = (add(b"GET"), add(&target));
        head.fields = fields.iter().map(|(name, value)| (add(name), add(value))).collect();
        head.start = crate::proto::StartLine::Request { method, target };
        let line = exchange.json(level);
        let breaks = |c: char| c.is_control() || ['\u{2028}', '\u{2029}'].contains(&c);
        prop_assert!(!line.trim_end_matches('\n').contains(breaks), "{}", line);
        let value = parsed(&line);
        if level == Level::Full && std::str::from_utf8(&body).is_ok() && !body.is_empty() {
            prop_assert_eq!(value["request"]["body"].as_str().map(str::as_bytes), Some(&body[..]));
        }
    }
}

#[test]
fn what_is_written_of_a_connection_once_is_that_of_no_other() {
    let exchange = ingress().request("GET / HTTP/1.1\nHost: a\n", "");
    let first = parsed(&exchange.clone().json(Level::Summary));
    assert_eq!(parsed(&exchange.clone().json(Level::Summary)), first, "the second time it is copied");
    let process = Arc::new(Process { pid: 4711, exe: "/usr/bin/other".into(), ..Process::default() });
    let connection = Connection { id: 8, process, remote: ip("192.0.2.1:999"), ..(*exchange.connection).clone() };
    let other = parsed(&Exchange { connection: Arc::new(connection), ..exchange }.json(Level::Summary));
    assert_eq!(other["metadata"]["connection_id"], "8");
    assert_eq!(other["metadata"]["process_id"], "4711");
    assert_eq!(other["metadata"]["exe"], "/usr/bin/other");
    assert_eq!(other["source"], serde_json::json!({"ip": "192.0.2.1", "port": 999}));
    assert_eq!(other["destination"], first["destination"]);
}
