//! One request to a collector, over gRPC or as protobuf over HTTP; and what its answer means.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use http_body_util::{BodyExt, Limited};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, TE};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceResponse;
use prost::Message;
use reqwest::Certificate;

use crate::config::{OtelProtocol, OtelStore};

const GRPC_PATH: &str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";
const HTTP_PATH: &str = "/v1/logs";

/// How long it may take to be connected, and to be answered.
const CONNECT: Duration = Duration::from_secs(5);
const ANSWER: Duration = Duration::from_secs(10);

/// Bytes of an answer.
const MAX_ANSWER: usize = 64 << 10;

/// gRPC's usual bound of a message that a server takes.
const MOST_GRPC: usize = 4 << 20;

/// The way to a collector.
pub struct Client {
    http: reqwest::Client,
    url: String,
    headers: HeaderMap,
    is_grpc: bool,
}

/// The collector's answer to a request that got through.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Taken {
    /// How many records of it the collector did not want, and what it says to that.
    pub(super) refused: u64,
    pub(super) why: String,
}

/// A request that did not get through.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) why: String,
    pub(super) verdict: Verdict,
    /// When to come back, where the collector says so.
    pub(super) wait: Option<Duration>,
}

/// Whether the same request may get through another time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It may: the collector is not there, has too much to do, or wants other credentials.
    Later,
    /// It may, unless this very request is what the collector fails over.
    Doubtful,
    Never,
}

impl Failure {
    fn new(verdict: Verdict, why: impl Into<String>) -> Failure {
        Failure { why: why.into(), verdict, wait: None }
    }
}

impl Client {
    /// Prepares everything; nothing is sent yet.
    pub(super) fn new(store: &OtelStore) -> Result<Client> {
        // The client takes the process's provider of cryptography. It is no error that there is one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let is_grpc = store.protocol == OtelProtocol::Grpc;
        let mut http = reqwest::Client::builder()
            .connect_timeout(CONNECT)
            .timeout(ANSWER)
            .redirect(reqwest::redirect::Policy::none())
            .tls_danger_accept_invalid_certs(store.insecure_skip_verify);
        if let Some(path) = &store.ca_file {
            let what = || format!("cannot read the certificates in {}", path.display());
            let pem = fs::read(path).with_context(what)?;
            let certificates = Certificate::from_pem_bundle(&pem).with_context(what)?;
            ensure!(!certificates.is_empty(), "there are no certificates (PEM) in {}", path.display());
            http = http.tls_certs_merge(certificates);
        }
        if is_grpc {
            http = http.http2_prior_knowledge();
        }
        let mut headers = HeaderMap::new();
        for (name, value) in &store.headers {
            let name = HeaderName::try_from(name).with_context(|| format!("no header's name: {name:?}"))?;
            let Ok(mut value) = HeaderValue::try_from(value.reveal()) else {
                bail!("the value of the header {name} has characters that none may have");
            };
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        let content_type = if is_grpc { "application/grpc" } else { "application/x-protobuf" };
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        if is_grpc {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        }
        Ok(Client { http: http.build().context("cannot set up the client")?, url: url(store), headers, is_grpc })
    }

    /// Sends one `ExportLogsServiceRequest`, once.
    pub(super) async fn export(&self, request: &[u8]) -> Result<Taken, Failure> {
        let (body, size) = (if self.is_grpc { framed(request) } else { request.to_vec() }, request.len());
        let request = self.http.post(&self.url).headers(self.headers.clone()).body(body);
        let answer = request.send().await.map_err(|error| Failure::new(Verdict::Later, said(&error)))?;
        self.understand(answer, size).await
    }

    /// `size`: of the request, in bytes.
    async fn understand(&self, answer: reqwest::Response, size: usize) -> Result<Taken, Failure> {
        let status = answer.status().as_u16();
        let (head, body) = hyper::http::Response::from(answer).into_parts();
        let wait = head.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let wait = wait.map(Duration::from_secs);
        if let Some(verdict) = of_status(status) {
            return Err(Failure { wait, ..Failure::new(verdict, format!("status {status}")) });
        }
        let whole = Limited::new(body, MAX_ANSWER).collect().await;
        let whole = whole.map_err(|error| Failure::new(Verdict::Later, format!("its answer broke off: {error}")))?;
        let trailers = whole.trailers().cloned().unwrap_or_default();
        let bytes = whole.to_bytes();
        if self.is_grpc {
            check_grpc(if trailers.contains_key("grpc-status") { &trailers } else { &head.headers }, size)?;
        }
        let message = if self.is_grpc { bytes.get(5..).unwrap_or_default() } else { &bytes };
        // Whoever says 200 has the records, whatever else is said.
        let partial = ExportLogsServiceResponse::decode(message).unwrap_or_default().partial_success;
        let partial = partial.unwrap_or_default();
        Ok(Taken { refused: partial.rejected_log_records.try_into().unwrap_or(0), why: short(&partial.error_message) })
    }
}

/// A host, with or without a scheme and a path.
fn url(store: &OtelStore) -> String {
    let scheme = if store.tls { "https" } else { "http" };
    let endpoint = store.endpoint.trim_end_matches('/');
    let (scheme, rest) = endpoint.split_once("://").unwrap_or((scheme, endpoint));
    match store.protocol {
        OtelProtocol::Grpc => format!("{scheme}://{rest}{GRPC_PATH}"),
        _ if rest.contains('/') => format!("{scheme}://{rest}"),
        _ => format!("{scheme}://{rest}{HTTP_PATH}"),
    }
}

/// A message of gRPC: not compressed, its length, the message.
fn framed(message: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(message.len() + 5);
    frame.push(0);
    frame.extend_from_slice(&(message.len() as u32).to_be_bytes());
    frame.extend_from_slice(message);
    frame
}

/// None for success. Beyond what OTLP's specification calls retryable, answers are waited out that the operator can do
/// something about: what was captured is on disk and can wait.
pub(super) fn of_status(status: u16) -> Option<Verdict> {
    match status {
        200..300 => None,
        // Redirects are not followed: records go where the configuration says.
        300..=399 | 401 | 403 | 404 | 407 | 408 | 429 | 502..=504 => Some(Verdict::Later),
        500.. => Some(Verdict::Doubtful),
        _ => Some(Verdict::Never),
    }
}

/// As `of_status`, for a gRPC status. `size`: of the request, in bytes.
pub(super) fn of_grpc(code: u32, size: usize) -> Option<Verdict> {
    match code {
        0 => None,
        // RESOURCE_EXHAUSTED: usually that there is too much to do, but also what a message is answered that is too large.
        8 if size > MOST_GRPC => Some(Verdict::Never),
        // CANCELLED, DEADLINE_EXCEEDED, PERMISSION_DENIED, RESOURCE_EXHAUSTED, ABORTED, UNIMPLEMENTED, UNAVAILABLE,
        // UNAUTHENTICATED
        1 | 4 | 7 | 8 | 10 | 12 | 14 | 16 => Some(Verdict::Later),
        // UNKNOWN, OUT_OF_RANGE, INTERNAL, DATA_LOSS
        2 | 11 | 13 | 15 => Some(Verdict::Doubtful),
        _ => Some(Verdict::Never),
    }
}

/// What comes with `grpc-status`.
fn check_grpc(fields: &HeaderMap, size: usize) -> Result<(), Failure> {
    let text = |name: &str| fields.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let why = || match text("grpc-message") {
        "" => format!("gRPC status {}", text("grpc-status")),
        message => format!("gRPC status {}: {}", text("grpc-status"), short(message)),
    };
    match text("grpc-status").parse() {
        Ok(code) => of_grpc(code, size).map_or(Ok(()), |verdict| Err(Failure::new(verdict, why()))),
        Err(_) => Err(Failure::new(Verdict::Doubtful, "an answer without a gRPC status")),
    }
}

/// The innermost reason, without the URL, in which a user may have put a secret.
fn said(error: &reqwest::Error) -> String {
    let mut reason: &dyn std::error::Error = error;
    while let Some(source) = reason.source() {
        reason = source;
    }
    if error.is_timeout() { "no answer in time".to_owned() } else { short(&reason.to_string()) }
}

/// What another machine says, made fit for a log.
fn short(text: &str) -> String {
    text.chars().take(200).flat_map(char::escape_debug).collect()
}
