//! Secrets that pass by, on the whole way to what is written: none is in it, unless masking is off.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::*;
use crate::sink::Stdout;

/// Keeps what a store would write.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Each secret is another one, so that a failure says which.
const SECRETS: [&str; 12] = [
    "s3cret-bearer",
    "s3cret-cookie",
    "s3cret-key",
    "s3cret-session",
    "s3cret-query",
    "s3cret-referer",
    "s3cret-json",
    "s3cret-note",
    "s3cret-set",
    "s3cret-location",
    "s3cret-gzip",
    "s3cret-trailer",
];

fn settings(redact: &str) -> String {
    format!(
        "version: 2
services: {{object_stores: [{{type: stdout}}], event_stores: [{{type: stdout}}]}}
stacks:
  all:
    plugins:
      - {{type: http_capture, config: {{level: full, redact: {redact}}}}}
      - {{type: http_capture, config: {{level: full, format: text, redact: {redact}}}}}
      - {{type: detect_errors, config: {{redact: {redact}}}}}
      - {{type: access_logs, config: {{redact: {redact}}}}}
      - {{type: access_logs, config: {{format: combined, redact: {redact}}}}}
      - {{type: report_usage, config: {{headers: [Authorization, Location], redact: {redact}}}}}
tap: {{http: {{stack: all}}}}
"
    )
}

/// What is written of one exchange that is full of secrets.
fn written(redact: &str) -> String {
    let json = br#"{"user":"ann","password":"s3cret-json","note":"sk_s3cret-note"}"#;
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(br#"{"token":{"password":["s3cret-gzip"]},"open":"seen"}"#).unwrap();
    let gzip = gzip.finish().unwrap();
    let mut request = format!(
        "POST /login?token=s3cret-query&page=2 HTTP/1.1\r\nHost: a.test\r\nAuthorization: Bearer s3cret-bearer\r\n\
         Cookie: sid=s3cret-cookie\r\nX-Api-Key: s3cret-key\r\nX-Session: s3cret-session\r\n\
         Referer: http://a.test/?token=s3cret-referer\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        json.len()
    )
    .into_bytes();
    request.extend_from_slice(json);
    let mut response = format!(
        "HTTP/1.1 401 Unauthorized\r\nSet-Cookie: sid=s3cret-set; Path=/\r\nLocation: /next?token=s3cret-location\r\n\
         Content-Type: application/json\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n",
        gzip.len()
    )
    .into_bytes();
    response.extend_from_slice(&gzip);
    response.extend_from_slice(b"\r\n0\r\nX-Session: s3cret-trailer\r\n\r\n");

    let end = Written::default();
    let (stats, memory) = (Arc::new(Stats::default()), Arc::new(Memory::new(1 << 20)));
    let (closed, _) = bounded(1);
    let (sink, takes) = (Stdout::on(end.clone()), Takes { objects: true, events: true });
    let opener: Opener = Box::new(|| Ok(Box::new(sink)));
    let written = Destination { name: "written".into(), takes, lines: Lines::All, place: None, open: opener };
    let (outbox, sinks) = Outbox::start(vec![written], memory.clone(), stats.clone(), &closed).unwrap();
    let settings = config::parse("test", settings(redact).as_bytes()).unwrap_or_else(|errors| panic!("{errors}"));
    let pipeline = Pipeline::new(settings, Arc::new(NoControl), stats, memory, outbox, 1, 0);
    pipeline.pass(0, u64::MAX, |pass| {
        let mut times = 1..;
        let mut time = || times.next().expect("there is always a later time");
        pass.event(&open(1 << 10, time()));
        // In pieces, as a client may send them.
        let mut position = 1;
        for piece in request.chunks(100) {
            pass.event(&data(1 << 10, 1, position, piece, time()));
            position += piece.len();
        }
        pass.event(&data(1 << 10, 0, 1, &response, time()));
    });
    pipeline.pass(0, u64::MAX, |pass| pipeline.table.finish(&mut pass.env));
    drop(pipeline);
    assert!(sinks.join(Duration::from_secs(60)).is_empty(), "the sink did not end");
    let bytes = std::mem::take(&mut *end.0.lock().unwrap());
    String::from_utf8(bytes).unwrap()
}

#[test]
fn no_secret_gets_out_of_any_plugin() {
    let masked = written("{headers: [x-session], query: [token], json: [password], patterns: ['sk_[\\w-]+']}");
    let found: Vec<_> = SECRETS.iter().filter(|secret| masked.contains(**secret)).collect();
    assert!(found.is_empty(), "{found:?} in\n{masked}");
    assert!(!masked.contains("s3cret"), "{masked}");
    // Two transactions and an error in JSON, a use and a connection; a block of text; two lines.
    assert_eq!(masked.lines().filter(|line| line.starts_with("{\"type\":")).count(), 4, "{masked}");
    for kept in ["/login?token=***&page=2", "Bearer ***", "sid=***; Path=/", r#"\"open\":\"seen\""#, "\"user\":\"ann\""]
    {
        assert!(masked.contains(kept), "{kept} in\n{masked}");
    }
}

#[test]
fn what_proves_who_somebody_is_gets_out_only_where_masking_is_off() {
    let masked = written("{}");
    for secret in ["s3cret-bearer", "s3cret-cookie", "s3cret-key", "s3cret-set"] {
        assert!(!masked.contains(secret), "{secret} in\n{masked}");
    }
    let shown = written("off");
    let lacking: Vec<_> = SECRETS.iter().filter(|secret| !shown.contains(**secret)).collect();
    assert!(lacking.is_empty(), "{lacking:?} not in\n{shown}");
}
