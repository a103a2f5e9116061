//! Against a collector of our own, over both protocols: what it reads with OpenTelemetry's types, and what becomes of
//! records that it does not take.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::sync::Mutex;
use std::time::Instant;

use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::HeaderMap;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsPartialSuccess, ExportLogsServiceResponse};
use opentelemetry_proto::tonic::common::v1::AnyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use tokio::net::TcpListener;

use super::*;
use crate::config::{OtelProtocol, Secret, SpoolFolder};
use crate::exchange::{Format, Level, Missing};
use crate::sink::sample::{Folder, START, egress, ingress};

/// What the collector is to answer.
#[derive(Clone, Copy)]
enum Say {
    Yes,
    /// That it is too busy; over HTTP with a time to come back.
    Later,
    /// That something went wrong.
    Oops,
    /// That this is not what it wants.
    No,
    /// That it took all but so many.
    But(i64),
}

#[derive(Default)]
struct Received {
    paths: Vec<String>,
    headers: Vec<BTreeMap<String, String>>,
    requests: Vec<ExportLogsServiceRequest>,
}

struct Collector {
    address: String,
    received: Arc<Mutex<Received>>,
}

impl Collector {
    /// Answers as it is told, then with yes.
    fn start(protocol: OtelProtocol, answers: &[Say]) -> Collector {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let received = Arc::new(Mutex::new(Received::default()));
        let answers = Arc::new(Mutex::new(VecDeque::from_iter(answers.iter().copied())));
        let shelf = received.clone();
        // It ends with the test's process.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = TcpListener::from_std(listener).unwrap();
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    let (shelf, answers) = (shelf.clone(), answers.clone());
                    let service = service_fn(move |request| answer(protocol, request, shelf.clone(), answers.clone()));
                    tokio::spawn(async move {
                        let stream = TokioIo::new(stream);
                        let _ = match protocol {
                            OtelProtocol::Grpc => {
                                let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                                server.serve_connection(stream, service).await
                            }
                            _ => hyper::server::conn::http1::Builder::new().serve_connection(stream, service).await,
                        };
                    });
                }
            });
        });
        Collector { address, received }
    }

    /// Writes so many records to a sink for it, with its spool in the folder, and ends that. What was lost on the way.
    fn send(&self, protocol: OtelProtocol, folder: &Folder, records: usize) -> u64 {
        send(&store(protocol, &self.address), folder, records, PACE, PATIENCE)
    }

    fn records(&self) -> Vec<LogRecord> {
        let received = self.received.lock().unwrap();
        let logs = received.requests.iter().flat_map(|request| &request.resource_logs);
        logs.flat_map(|logs| &logs.scope_logs).flat_map(|logs| logs.log_records.clone()).collect()
    }
}

fn store(protocol: OtelProtocol, endpoint: &str) -> OtelStore {
    OtelStore {
        protocol,
        endpoint: endpoint.to_owned(),
        service_name: "edge".to_owned(),
        environment: Some("staging".to_owned()),
        headers: vec![("x-tenant".to_owned(), Secret::new("s3cret".to_owned()))],
        tls: false,
        insecure_skip_verify: false,
        ca_file: None,
        spool: SpoolFolder { path: None, max_bytes: 8 << 20 },
    }
}

/// Little patience between tries, much at the end.
const PACE: Pace = Pace {
    first_wait: Duration::from_millis(2),
    longest_wait: Duration::from_millis(20),
    last_sends: Duration::from_secs(30),
};

/// Longer than any test takes.
const PATIENCE: Duration = Duration::from_secs(600);

fn send(store: &OtelStore, folder: &Folder, records: usize, pace: Pace, doubt: Duration) -> u64 {
    let stats = Arc::new(StoreStats::default());
    let mut sender = Sender::new(store, Otel::connect(store).unwrap(), stats.clone());
    sender.doubt = doubt;
    let mut sink = Otel::start(store, sender, &folder.0, stats.clone(), pace).unwrap();
    (0..records).for_each(|_| sink.write(&post()).unwrap());
    sink.close().unwrap();
    stats.lost()
}

type Answer = Response<StreamBody<futures_util::stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>>>;

async fn answer(
    protocol: OtelProtocol,
    request: Request<Incoming>,
    shelf: Arc<Mutex<Received>>,
    answers: Arc<Mutex<VecDeque<Say>>>,
) -> Result<Answer, Infallible> {
    let is_grpc = protocol == OtelProtocol::Grpc;
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let say = answers.lock().unwrap().pop_front().unwrap_or(Say::Yes);
    if matches!(say, Say::Yes | Say::But(_)) {
        let message = if is_grpc { &body[5..] } else { &body[..] };
        let mut received = shelf.lock().unwrap();
        received.paths.push(head.uri.path().to_owned());
        let text = |headers: &HeaderMap| {
            headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect()
        };
        received.headers.push(text(&head.headers));
        received.requests.push(ExportLogsServiceRequest::decode(message).unwrap());
    }
    let refused = if let Say::But(refused) = say { refused } else { 0 };
    let partial = ExportLogsPartialSuccess { rejected_log_records: refused, error_message: "too old".to_owned() };
    let message = ExportLogsServiceResponse { partial_success: (refused > 0).then_some(partial) }.encode_to_vec();
    let mut response = Response::builder();
    let mut frames = Vec::new();
    if is_grpc {
        let status = match say {
            Say::Yes | Say::But(_) => "0",
            Say::Later => "14",
            Say::Oops => "13",
            Say::No => "3",
        };
        let mut framed = vec![0];
        framed.extend_from_slice(&(message.len() as u32).to_be_bytes());
        framed.extend_from_slice(&message);
        frames.push(Ok(Frame::data(framed.into())));
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", status.parse().unwrap());
        frames.push(Ok(Frame::trailers(trailers)));
    } else {
        response = match say {
            Say::Yes | Say::But(_) => response,
            Say::Later => response.status(503).header("retry-after", "0"),
            Say::Oops => response.status(500),
            Say::No => response.status(400),
        };
        frames.push(Ok(Frame::data(message.into())));
    }
    Ok(response.body(StreamBody::new(futures_util::stream::iter(frames))).unwrap())
}

const BOTH: [OtelProtocol; 2] = [OtelProtocol::Grpc, OtelProtocol::Http];

/// As `key value`, in order.
fn attributes(record: &LogRecord) -> Vec<String> {
    fn shown(value: &AnyValue) -> String {
        match value.value.as_ref().unwrap() {
            Value::StringValue(text) => text.clone(),
            Value::IntValue(number) => format!("{number} (int)"),
            Value::DoubleValue(number) => format!("{number} (double)"),
            Value::BoolValue(value) => format!("{value} (bool)"),
            Value::BytesValue(bytes) => format!("{bytes:?}"),
            Value::ArrayValue(array) => format!("{:?}", array.values.iter().map(shown).collect::<Vec<_>>()),
            other => panic!("{other:?}"),
        }
    }
    record.attributes.iter().map(|one| format!("{} {}", one.key, shown(one.value.as_ref().unwrap()))).collect()
}

fn post() -> Record {
    let request = "POST /cart?item=7 HTTP/1.1\nHost: shop.test:8080\nUser-Agent: curl/8\nX-Two: a\nX-Two: b\n\
                   traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\n";
    let exchange = ingress().request(request, "{\"n\":1}").response("HTTP/1.1 503 Busy\nRetry-After: 3\n", b"\xff\x00");
    exchange.record(Level::Full, Format::Json)
}

#[test]
fn a_collector_gets_attributes_of_the_conventions_over_both_protocols() {
    for protocol in BOTH {
        let collector = Collector::start(protocol, &[]);
        assert_eq!(collector.send(protocol, &Folder::new("otel"), 1), 0);

        let records = collector.records();
        assert_eq!(records.len(), 1);
        let record = &records[0];
        assert_eq!((record.time_unix_nano, &*record.severity_text), (START, "ERROR"));
        assert_eq!((record.severity_number, &*record.event_name), (17, "sidetap.http.transaction"));
        assert!(record.observed_time_unix_nano > START);
        assert_eq!((record.trace_id.len(), record.trace_id[0], record.span_id[7], record.flags), (16, 0x0a, 0x31, 1));
        insta::assert_snapshot!("attributes", attributes(record).join("\n"));

        let received = collector.received.lock().unwrap();
        let (path, content_type) = match protocol {
            OtelProtocol::Grpc => ("/opentelemetry.proto.collector.logs.v1.LogsService/Export", "application/grpc"),
            _ => ("/v1/logs", "application/x-protobuf"),
        };
        assert_eq!((&*received.paths[0], &*received.headers[0]["content-type"]), (path, content_type));
        assert_eq!(received.headers[0]["x-tenant"], "s3cret");
        let resource = received.requests[0].resource_logs[0].resource.clone().unwrap();
        let of_resource = attributes(&LogRecord { attributes: resource.attributes, ..LogRecord::default() });
        assert_eq!(of_resource[..2], ["service.name edge", "deployment.environment.name staging"]);
    }
}

#[test]
fn what_is_not_there_has_no_attribute() {
    let lone = egress().request("BREW /pot HTTP/1.1\nHost: b.test\n", "").missing(Missing::Response);
    let record = record::log_record(&lone.record(Level::Summary, Format::Json), 1);
    let found = attributes(&record);
    for expected in ["http.request.method _OTHER", "http.request.method_original BREW", "error.type response_missing"] {
        assert!(found.iter().any(|one| one == expected), "{expected} in {found:#?}");
    }
    let lacks = |name: &str| found.iter().all(|one| !one.starts_with(name));
    assert!(lacks("http.response") && lacks("http.request.header") && lacks("sidetap.duration_ms"), "{found:#?}");
    assert_eq!((&*record.severity_text, record.trace_id.len()), ("WARN", 0));
}

#[test]
fn a_record_is_the_same_after_it_was_on_disk() {
    let lone = egress().request("BREW /pot HTTP/1.1\nHost: b.test\n", "").missing(Missing::Response);
    for record in [post(), lone.record(Level::Full, Format::Json)] {
        let record = log_record(&record);
        let line = serde_json::to_vec(&record).unwrap();
        assert!(!line.contains(&b'\n'));
        assert_eq!(serde_json::from_slice::<LogRecord>(&line).unwrap(), record);
    }
}

#[test]
fn what_did_not_get_through_is_sent_again() {
    for protocol in BOTH {
        let collector = Collector::start(protocol, &[Say::Later, Say::Oops, Say::Later]);
        let lost = collector.send(protocol, &Folder::new("otel-again"), 1);
        assert_eq!((collector.records().len(), lost), (1, 0));
    }
}

#[test]
fn what_is_refused_or_given_up_is_counted() {
    for protocol in BOTH {
        let collector = Collector::start(protocol, &[Say::No, Say::But(2)]);
        let folder = Folder::new("otel-refused");
        let lost = [3, 4].map(|records| collector.send(protocol, &folder, records));
        assert_eq!((collector.records().len(), lost), (4, [3, 2]));
        let collector = Collector::start(protocol, &[Say::Oops; 1000]);
        let store = store(protocol, &collector.address);
        let lost = send(&store, &folder, 5, PACE, Duration::from_millis(50));
        assert_eq!((lost, collector.records().len()), (5, 0), "this may be what it fails over");
    }
}

#[test]
fn what_could_not_be_sent_is_sent_by_the_next_process() {
    for protocol in BOTH {
        let folder = Folder::new("otel-next");
        // Nobody listens there.
        let began = Instant::now();
        let hurry = Pace { last_sends: Duration::from_millis(100), ..PACE };
        assert_eq!(send(&store(protocol, "127.0.0.1:1"), &folder, 7, hurry, PATIENCE), 0);
        assert!(began.elapsed() < Duration::from_secs(20), "the end waits for {:?}", hurry.last_sends);
        let collector = Collector::start(protocol, &[]);
        assert_eq!((collector.send(protocol, &folder, 0), collector.records().len()), (0, 7));
        assert_eq!((collector.send(protocol, &folder, 0), collector.records().len()), (0, 7), "once");
    }
}

#[test]
fn what_answers_mean() {
    use client::{Verdict, of_grpc, of_status};
    for (status, grpc, verdict) in [
        (200, 0, None),
        (503, 14, Some(Verdict::Later)),
        (429, 8, Some(Verdict::Later)),
        (401, 16, Some(Verdict::Later)),
        (404, 12, Some(Verdict::Later)),
        (500, 13, Some(Verdict::Doubtful)),
        (400, 3, Some(Verdict::Never)),
    ] {
        assert_eq!((of_status(status), of_grpc(grpc, 1000)), (verdict, verdict), "{status}, {grpc}");
    }
    assert_eq!(of_status(413), Some(Verdict::Never));
    assert_eq!(of_grpc(8, 5 << 20), Some(Verdict::Never), "it is too large");
}

#[test]
fn a_request_has_a_bounded_number_of_records_and_bytes() {
    let mut batch = Batch::new(&store(OtelProtocol::Http, "127.0.0.1:1"));
    let large = ingress().request("PUT / HTTP/1.1\n", "x".repeat(FULL)).record(Level::Full, Format::Json);
    let (small, large) = (log_record(&post()), log_record(&large));
    let mut sizes = Vec::new();
    for record in std::iter::repeat_n(&small, MOST_RECORDS + 1).chain([&large, &large]) {
        batch.add(record.clone());
        if batch.is_full() {
            sizes.push(batch.take().1);
        }
    }
    assert_eq!((sizes, batch.take().1), (vec![MOST_RECORDS as u64, 2, 1], 0));
}

#[test]
fn a_header_that_cannot_be_sent_is_an_error_that_does_not_show_it() {
    let mut store = store(OtelProtocol::Http, "127.0.0.1:1");
    store.headers[0].1 = Secret::new("s3cret\n".to_owned());
    let Err(error) = Otel::connect(&store) else { panic!("it was taken") };
    let error = format!("{error:#}");
    assert!(error.contains("x-tenant") && !error.contains("s3cret"), "{error}");
}
