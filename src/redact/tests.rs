//! Secrets and where they may be: none of them is left, and what stands around them is.

use std::borrow::Cow;

use proptest::prelude::*;

use super::line::{After, mask_cookies, mask_credentials, mask_parameters, mask_ranges, mask_user};
use super::*;
use crate::exchange::{Format, Level, Record};
use crate::sink::sample::{egress, ingress, trailers, written};

fn with(mask: impl FnOnce(&mut [u8]) -> usize, text: &str) -> String {
    let mut text = text.as_bytes().to_vec();
    let len = mask(&mut text);
    text.truncate(len);
    String::from_utf8(text).unwrap()
}

fn names(names: &[&str]) -> Vec<Box<str>> {
    names.iter().map(|&name| name.into()).collect()
}

fn patterns(patterns: &[&str]) -> Vec<Regex> {
    patterns.iter().map(|pattern| Regex::new(pattern).unwrap()).collect()
}

fn paths(paths: &[&str]) -> Vec<Path> {
    paths.iter().map(|path| Path::parse(path).unwrap()).collect()
}

#[test]
fn credentials_keep_their_scheme() {
    for (value, masked) in [
        ("Bearer s3cret", "Bearer ***"),
        ("Basic dXNlcjpwYXNz", "Basic ***"),
        ("Digest username=\"u\", response=\"s3cret\"", "Digest ***"),
        ("s3cret", "***"),
        ("se\u{e9}cret x", "***"),
        ("ab", "**"),
        ("", ""),
    ] {
        assert_eq!(with(mask_credentials, value), masked, "{value}");
    }
}

#[test]
fn cookies_keep_their_names() {
    for (set, value, masked) in [
        (false, "sid=s3cret; theme=dark;x=", "sid=***; theme=***;x="),
        (false, "s3cret; a=b=c", "***; a=***"),
        (true, "sid=s3cret; Path=/; HttpOnly", "sid=***; Path=/; HttpOnly"),
        (true, "sid=\"a;s3cret\"; secure", "sid=**;***; secure"),
        (true, "s3cret", "***"),
    ] {
        assert_eq!(with(|text| mask_cookies(text, set), value), masked, "{value}");
    }
}

#[test]
fn a_url_loses_who_asks() {
    for (url, masked) in [
        ("http://user:s3cret@a.test/x@y", "http://***@a.test/x@y"),
        ("user:s3cret@a.test:443", "***@a.test:443"),
        ("http://a:b@s3cret@a.test", "http://***@a.test"),
        ("/path/@x", "/path/@x"),
        ("https://a.test?next=b@c", "https://a.test?next=b@c"),
    ] {
        assert_eq!(with(mask_user, url), masked);
    }
}

#[test]
fn parameters_are_found_however_they_are_written() {
    let hidden = names(&["token", "api key"]);
    for (after, text, masked) in [
        (After::Mark, "/a?x=1&token=s3cret&y=2#top", "/a?x=1&token=***&y=2#top"),
        (After::Mark, "/token=a?tokens=b&atoken=c", "/token=a?tokens=b&atoken=c"),
        (After::Mark, "/a?%74OKEN=s3cret;s3cret", "/a?%74OKEN=***"),
        (After::Mark, "/a?api+key=s3cret&api%20key=s3cret", "/a?api+key=***&api%20key=***"),
        (After::Mark, "/a?b;token=s3cret?&token&token=", "/a?b;token=***&token&token="),
        (After::Mark, "/cb#token=s3cret&state=1", "/cb#token=***&state=1"),
        (After::Start, "token=s3cret&a=b", "token=***&a=b"),
        (
            After::MarkInText,
            "</a?token=s3cret>; rel=next, </b?q&token=s3cret>",
            "</a?token=***>; rel=next, </b?q&token=***>",
        ),
        (After::MarkInText, "text/html; token=x", "text/html; token=x"),
    ] {
        assert_eq!(with(|line| mask_parameters(line, &hidden, after), text), masked);
    }
}

#[test]
fn values_in_json_are_found_by_path() {
    let masked = |path: &str, text: &str| {
        let redact = Redact::new(Vec::new(), Vec::new(), paths(&[path]), Vec::new());
        String::from_utf8(redact.body(b"", Cow::Borrowed(text.as_bytes())).into_owned()).unwrap()
    };
    let text = r#"{"user":{"name":"a","Password":"s\"3","card":{"no":[1,{"x":2}]}},"list":[{"password":7},{"n":null}],"password":true}"#;
    assert_eq!(
        masked("password", text),
        r#"{"user":{"name":"a","Password":"***","card":{"no":[1,{"x":2}]}},"list":[{"password":"***"},{"n":null}],"password":"***"}"#
    );
    assert_eq!(masked("user.password", text), text.replace(r#""s\"3""#, "\"***\""));
    assert_eq!(masked("$.password", text), text.replace("true", "\"***\""));
    assert_eq!(masked("list[*].n", text), text.replace("null", "\"***\""));
    assert_eq!(masked("card", text), text.replace(r#"{"no":[1,{"x":2}]}"#, "\"***\""));
    assert_eq!(masked("$.user.*.no", text), text.replace(r#"[1,{"x":2}]"#, "\"***\""));
    assert_eq!(masked("$.*", r#"{"a":1,"b":{"c":2}}"#), r#"{"a":"***","b":"***"}"#);
    assert_eq!(masked("nobody", text), text);
    assert_eq!(masked("password", r#"{"p\u0061ssword":1}"#), r#"{"p\u0061ssword":"***"}"#);
    assert_eq!(masked("a", "{\"a\":1}\n{\"b\":2,\"a\":[3]}\n"), "{\"a\":\"***\"}\n{\"b\":2,\"a\":\"***\"}\n");
    assert_eq!(masked("a", "plain a: 1"), "plain a: 1");
}

#[test]
fn json_that_is_cut_or_broken_shows_nothing_that_may_be_hidden() {
    let redact = Redact::new(Vec::new(), Vec::new(), paths(&["password"]), Vec::new());
    let masked = |content_type: &str, text: &str| {
        String::from_utf8(redact.body(content_type.as_bytes(), Cow::Borrowed(text.as_bytes())).into_owned()).unwrap()
    };
    for (text, expected) in [
        (r#"{"a":1,"password":"s3cr"#, r#"{"a":1,"password":"***""#),
        (r#"{"a":1,"password":{"b":["s3cr"#, r#"{"a":1,"password":"***""#),
        (r#"{"a":1,"password":{'b':"s3cret"}}"#, r#"{"a":1,"password":"***""#),
        (r#"{"a":1,"passw"#, r#"{"a":1,"passw"#),
        (r#"{"a":1 'password':"s3cret"}"#, r#"{"a":1 ***"#),
        (r#")]}',{"password":"s3cret"}"#, "***"),
        ("", ""),
    ] {
        assert_eq!(masked("application/problem+JSON", text), expected);
    }
    assert_eq!(masked("text/plain", "[info] password s3cret"), "[info] password s3cret", "is not called JSON");
    let deep = format!("{}{}", r#"{"a":"#.repeat(1000), r#"{"password":"s3cret"}"#);
    assert!(!masked("application/json", &deep).contains("s3cret"));
}

#[test]
fn paths_that_are_none() {
    for path in ["", ".", "a..b", "$", "$a", "a.", "a[0]", "*", "a*"] {
        assert!(Path::parse(path).is_err(), "{path}");
    }
}

#[test]
fn patterns_hide_what_they_match_or_their_groups() {
    let masked = |pattern: &str, text: &str| {
        let redact = Redact::new(Vec::new(), Vec::new(), Vec::new(), patterns(&[pattern]));
        String::from_utf8(redact.body(b"", Cow::Borrowed(text.as_bytes())).into_owned()).unwrap()
    };
    assert_eq!(masked(r"\d{4}-\d{4}", "card 1234-5678, 1234-5678"), "card ***, ***");
    assert_eq!(masked(r"pin=(\d+)( .)?", "pin=12345 x pin=6"), "pin=***** pin=*", "two groups side by side");
    assert_eq!(masked("(a(b+)c)", "xabbbc"), "x***", "a group within a group");
}

/// An exchange with a secret wherever one may be, each spelled `s3cret`.
fn planted() -> crate::exchange::Exchange {
    let body = r#"{"user":"ann","password":"s3cret","note":"key sk_s3cret!"}"#;
    let request = "POST http://ann:s3cret@a.test/login?token=s3cret&page=2 HTTP/1.1\nHost: a.test\n\
                   Authorization: Bearer s3cret\nProxy-Authorization: Basic s3cret\nCookie: sid=s3cret; b=s3cret\n\
                   X-API-KEY: s3cret\nX-Session: s3cret\nReferer: http://ann:s3cret@a.test/?token=s3cret\n\
                   X-Note: sk_s3cret\nContent-Type: application/json\nX-Plain: open\n";
    let response = "HTTP/1.1 302 sk_s3cret\nSet-Cookie: sid=s3cret; Path=/\nLocation: /next?token=s3cret#token=s3cret\n\
                    Content-Type: application/x-www-form-urlencoded\n";
    let mut exchange = ingress().request(request, body).response(response, "token=s3cret&state=open");
    exchange.request.as_mut().unwrap().trailers = Some(trailers(b"X-Session: s3cret\nX-Sum: sk_s3cret\n"));
    exchange
}

fn all() -> Redact {
    Redact::new(names(&["x-session"]), names(&["token"]), paths(&["password"]), patterns(&["sk_\\w+"]))
}

fn record(redact: Option<Redact>, format: Format) -> Record {
    let mut exchange = planted();
    if let Some(redact) = &redact {
        redact.exchange(&mut exchange);
    }
    let Record::Exchange { exchange, level, format, encoding, max_body_bytes, tags, .. } =
        exchange.record(Level::Full, format)
    else {
        unreachable!()
    };
    Record::Exchange { exchange, level, format, encoding, max_body_bytes, tags, redact: redact.map(Into::into) }
}

#[test]
fn no_secret_is_in_any_form_of_output() {
    for format in [Format::Json, Format::Text, Format::Console, Format::Common, Format::Combined] {
        let (shown, masked) = (written(&record(None, format)), written(&record(Some(all()), format)));
        assert!(shown.contains("s3cret"), "{format:?} has none to hide:\n{shown}");
        assert!(!masked.contains("s3cret"), "{format:?}:\n{masked}");
    }
    let masked = written(&record(Some(all()), Format::Text));
    for kept in [
        "token=***&page=2",
        "Bearer ***",
        "Basic ***",
        "sid=***; b=***",
        "sid=***; Path=/",
        "X-Plain: open",
        "state=open",
    ] {
        assert!(masked.contains(kept), "{kept} in\n{masked}");
    }
}

#[test]
fn sizes_stay_those_of_the_wire() {
    let sizes = |redact| {
        let json: serde_json::Value = serde_json::from_str(&written(&record(redact, Format::Json))).unwrap();
        let at = |path: &str| json.pointer(path).unwrap().clone();
        ["/metadata/bytes_sent", "/metadata/bytes_received", "/request/body_bytes", "/response/body_bytes"].map(at)
    };
    assert_eq!(sizes(None), sizes(Some(all())));
}

#[test]
fn what_is_hidden_is_gone_from_memory() {
    let mut exchange = planted();
    all().exchange(&mut exchange);
    for message in [exchange.request, exchange.response].into_iter().flatten() {
        let text = String::from_utf8(message.head.text).unwrap();
        assert!(!text.contains("s3cret"), "{text}");
        assert!(message.trailers.is_none_or(|trailers| !trailers.text.windows(6).any(|part| part == b"s3cret")));
    }
}

#[test]
fn credentials_and_cookies_are_masked_without_being_asked_for() {
    let mut exchange =
        egress().request("GET /?token=a HTTP/1.1\nHost: a.test\nAuthorization: Bearer s3cret\nX-Session: b\n", "c");
    exchange =
        exchange.over_http2(1, "http", "ann:s3cret@a.test").response("HTTP/1.1 200 OK\nSet-Cookie: a=s3cret\n", "");
    Redact::default().exchange(&mut exchange);
    let text = exchange.text(Level::Full);
    assert!(!text.contains("s3cret") && text.contains("token=a") && text.contains("X-Session: b"), "{text}");
    assert!(!Redact::default().is_for_bodies());
}

proptest! {
    #[test]
    fn any_text_is_survived_and_none_grows(text in "[a=&;?#@:/%+ \"{}\\[\\],\\\\*.-]{0,40}", set in any::<bool>()) {
        let hidden = names(&["a", "a a"]);
        for after in [After::Start, After::Mark, After::MarkInText] {
            prop_assert!(with(|line| mask_parameters(line, &hidden, after), &text).len() <= text.len());
        }
        prop_assert!(with(mask_user, &text).len() <= text.len());
        prop_assert!(with(mask_credentials, &text).len() <= text.len());
        prop_assert!(with(|line| mask_cookies(line, set), &text).len() <= text.len());
        let _ = all().body(b"application/json", Cow::Borrowed(text.as_bytes()));
    }

    #[test]
    fn any_ranges_are_survived(text in "[a-z]{0,20}", mut ranges in proptest::collection::vec((0usize..20, 0usize..20), 0..5)) {
        ranges.retain(|range| range.1 <= text.len());
        ranges.sort_unstable();
        prop_assert!(with(|line| mask_ranges(line, &ranges), &text).len() <= text.len());
    }

    /// Whatever JSON it is in, a string under a hidden key is not there any more, and what is left is JSON.
    #[test]
    fn no_value_under_a_hidden_key_is_left(before in "[ -~é]{0,10}", depth in 0usize..20, secret in "[ -~é]{0,6}", cut in 0usize..200) {
        let mut value = serde_json::json!({"password": [format!("s3cret{secret}")], "x": before, "y": [1.5, null, {}]});
        for level in 0..depth {
            value = if level % 2 == 0 { serde_json::json!([before, value]) } else { serde_json::json!({before.clone(): value, "z": 1}) };
        }
        let text = value.to_string();
        let masked = all().body(b"", Cow::Borrowed(text.as_bytes())).into_owned();
        prop_assert!(!masked.windows(6).any(|part| part == b"s3cret"));
        prop_assert!(serde_json::from_slice::<serde_json::Value>(&masked).is_ok());
        let cut = &text.as_bytes()[..cut.min(text.len())];
        let masked = all().body(b"application/json", Cow::Borrowed(cut)).into_owned();
        prop_assert!(!masked.windows(6).any(|part| part == b"s3cret"));
    }
}
