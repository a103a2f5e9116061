//! One request to a collector, over gRPC or as protobuf over HTTP; and what its answer means.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use http_body_util::{BodyExt, Limited};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, TE};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceResponse;
use prost::Message;
use tokio::runtime::{Builder, Runtime};

use crate::config::{OtelProtocol, OtelStore};

const GRPC_PATH: &str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";
const HTTP_PATH: &str = "/v1/logs";

/// How long it may take to be connected, and to be answered.
const CONNECT: Duration = Duration::from_secs(5);
const ANSWER: Duration = Duration::from_secs(10);

/// Bytes of an answer.
const MAX_ANSWER: usize = 64 << 10;

pub(super) struct Client {
    runtime: Runtime,
    http: reqwest::Client,
    endpoint: String,
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
    /// Another time it may get through.
    pub(super) is_passing: bool,
    /// When to come back, where the collector says so.
    pub(super) wait: Option<Duration>,
}

impl Failure {
    fn passing(why: impl Into<String>) -> Failure {
        Failure { why: why.into(), is_passing: true, wait: None }
    }

    fn lasting(why: impl Into<String>) -> Failure {
        Failure { why: why.into(), is_passing: false, wait: None }
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
        Ok(Client {
            runtime: Builder::new_current_thread().enable_all().build().context("cannot start a runtime")?,
            http: http.build().context("cannot set up the client")?,
            endpoint: store.endpoint.clone(),
            url: url(store),
            headers,
            is_grpc,
        })
    }

    pub(super) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Sends one `ExportLogsServiceRequest`, once.
    pub(super) fn export(&self, request: &[u8]) -> Result<Taken, Failure> {
        self.runtime.block_on(async {
            let body = if self.is_grpc { framed(request) } else { request.to_vec() };
            let request = self.http.post(&self.url).headers(self.headers.clone()).body(body);
            let answer = request.send().await.map_err(|error| Failure::passing(said(&error)))?;
            self.understand(answer).await
        })
    }

    async fn understand(&self, answer: reqwest::Response) -> Result<Taken, Failure> {
        let status = answer.status().as_u16();
        let (head, body) = hyper::http::Response::from(answer).into_parts();
        let wait = head.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let wait = wait.map(Duration::from_secs);
        match status {
            200..300 => {}
            429 | 502..=504 => return Err(Failure { wait, ..Failure::passing(format!("status {status}")) }),
            _ => return Err(Failure::lasting(format!("status {status}"))),
        }
        let whole = Limited::new(body, MAX_ANSWER).collect().await;
        let whole = whole.map_err(|error| Failure::passing(format!("its answer broke off: {error}")))?;
        let trailers = whole.trailers().cloned().unwrap_or_default();
        let bytes = whole.to_bytes();
        if self.is_grpc {
            check_grpc(if trailers.contains_key("grpc-status") { &trailers } else { &head.headers })?;
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

/// What comes with `grpc-status`. Which codes may pass is said in OTLP's specification.
fn check_grpc(fields: &HeaderMap) -> Result<(), Failure> {
    let text = |name: &str| fields.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let why = || match text("grpc-message") {
        "" => format!("gRPC status {}", text("grpc-status")),
        message => format!("gRPC status {}: {}", text("grpc-status"), short(message)),
    };
    match text("grpc-status").parse::<u32>() {
        Ok(0) => Ok(()),
        // CANCELLED, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, ABORTED, OUT_OF_RANGE, UNAVAILABLE, DATA_LOSS
        Ok(1 | 4 | 8 | 10 | 11 | 14 | 15) => Err(Failure::passing(why())),
        Ok(_) => Err(Failure::lasting(why())),
        Err(_) => Err(Failure::lasting("an answer without a gRPC status")),
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
