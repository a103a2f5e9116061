//! What a configuration means, once it was found to be without error. Plain values: no file, no key, no position.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::filters::Filters;
use crate::exchange::{BodyEncoding, ContainerFacts, Format, Level, TagList};
use crate::redact::Redact;
use crate::rules::{CompiledRule, Sample};

#[derive(Debug, Clone)]
pub struct Settings {
    /// Where connections' events go; each gets all of them.
    pub event_stores: Vec<Store>,
    /// Where exchanges go; each gets all of them.
    pub object_stores: Vec<Store>,
    pub stacks: Vec<Stack>,
    /// The stack for what no endpoint names, an index into `stacks`; none: not captured.
    pub default_stack: Option<usize>,
    pub endpoints: Vec<EndpointRule>,
    pub tap: Tap,
    pub tags: Tags,
    /// What is accepted, but will not do what one might expect. One line each.
    pub warnings: Vec<String>,
}

/// What is done with exchanges.
#[derive(Debug, Clone)]
pub struct Stack {
    pub name: String,
    pub capture: Vec<HttpCapture>,
    pub usage: Vec<ReportUsage>,
    pub metrics: Option<MetricsSettings>,
}

/// The plugin `http_capture`: exchanges to the object stores. So are `access_logs` and `detect_errors`, with other keys.
#[derive(Debug, Clone)]
pub struct HttpCapture {
    /// For exchanges of which no rule is true.
    pub level: Level,
    pub format: Format,
    pub rules: Vec<CompiledRule>,
    /// For each direction; what is longer is cut.
    pub max_body_bytes: u64,
    pub body_encoding: BodyEncoding,
    /// Of the exchanges that are not in it nothing is captured.
    pub sample: Sample,
    /// None: nothing is masked.
    pub redact: Option<Arc<Redact>>,
}

/// The plugin `report_usage`: an event for each exchange to the event stores.
#[derive(Debug, Clone)]
pub struct ReportUsage {
    /// Whose values are told.
    pub headers: Arc<[Box<str>]>,
    pub sample: Sample,
    pub redact: Option<Arc<Redact>>,
}

/// The plugin `http_metrics`. How many hosts and backends are counted each by its name, 0 for none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetricsSettings {
    pub max_hosts: usize,
    pub max_backends: usize,
}

/// Another stack for one domain.
#[derive(Debug, Clone)]
pub struct EndpointRule {
    /// `example.com`, or `*.example.com` for everything below it; in lower case.
    pub domain: String,
    /// An index into the stacks; none: not captured.
    pub stack: Option<usize>,
}

#[derive(Debug, Clone, Default)]
pub struct Tap {
    pub direction: TapDirection,
    pub ignore_loopback: bool,
    pub audit_include_dns: bool,
    pub filters: Filters,
}

/// Which connections of a watched process are tapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TapDirection {
    #[default]
    All,
    /// Those it accepted.
    Ingress,
    /// Those it opened.
    Egress,
    /// Those it opened to private, loopback, link-local or Unix addresses.
    EgressInternal,
    /// Those it opened to public addresses.
    EgressExternal,
}

/// What every exchange is tagged with.
#[derive(Debug, Clone, Default)]
pub struct Tags {
    /// Those whose values are the same for all: from the agent's environment.
    fixed: TagList,
    /// Those that the watched process's container has or has not.
    looked_up: Vec<Tag>,
}

/// A tag whose value is a label or an annotation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag {
    pub key: String,
    pub source: TagSource,
    /// The name of the label or annotation.
    pub location: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TagSource {
    /// The agent's environment, when the configuration is read.
    Env,
    ContainerLabel,
    K8sLabel,
    K8sAnnotation,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Store {
    Stdout,
    Disabled,
    File(FileStore),
    S3(Box<S3Store>),
    Otel(Box<OtelStore>),
}

#[derive(Debug, Clone, PartialEq)]
pub struct FileStore {
    pub path: PathBuf,
    pub rotate: Option<Rotate>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotate {
    /// A file that would grow beyond this many bytes is put aside.
    pub max_bytes: Option<u64>,
    /// A file that is older than this is put aside before the next record.
    pub max_age: Option<Duration>,
    /// How many files put aside are kept.
    pub keep: u32,
    /// Of files put aside.
    pub compression: Compression,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    Zstd,
    Gzip,
    None,
}

#[derive(Debug, Clone, PartialEq)]
pub struct S3Store {
    pub endpoint: String,
    pub region: String,
    pub bucket: String,
    /// Access key and secret key; none: the usual credential chain.
    pub keys: Option<(Secret, Secret)>,
    /// Belongs to keys that were lent for a while.
    pub session_token: Option<Secret>,
    /// Plain HTTP instead of HTTPS.
    pub insecure: bool,
    /// Certificates that are trusted beside the system's, PEM.
    pub ca_file: Option<PathBuf>,
    /// The bucket in the path instead of the host's name.
    pub path_style: bool,
    /// The URL under which an object can be had, with `{{SCHEME}} {{ENDPOINT}} {{BUCKET}} {{KEY}} {{DIGEST}}`.
    pub access_url: Option<String>,
    /// Before the name of each object; empty, or with a slash at its end.
    pub prefix: String,
    pub mode: S3Mode,
    pub batch: Batch,
    pub spool: SpoolFolder,
}

/// What an object is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum S3Mode {
    /// Many transactions, one a line, compressed.
    Batch(Compression),
    /// One transaction; its name is a template with `{{DIGEST}} {{DATE}} {{HOUR}} {{HOST}}`.
    Object(String),
}

/// Where records wait on disk until they are sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpoolFolder {
    /// None: one by the bucket's name, or the store's type.
    pub path: Option<PathBuf>,
    /// Above this the oldest are dropped.
    pub max_bytes: u64,
}

/// How much is gathered before it is put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch {
    pub max_bytes: u64,
    pub max_age: Duration,
}

#[derive(Debug, Clone, PartialEq)]
pub struct OtelStore {
    pub protocol: OtelProtocol,
    pub endpoint: String,
    pub service_name: String,
    pub environment: Option<String>,
    pub headers: Vec<(String, Secret)>,
    pub tls: bool,
    /// Accept any certificate.
    pub insecure_skip_verify: bool,
    /// Certificates that are trusted beside the system's, PEM.
    pub ca_file: Option<PathBuf>,
    /// Not used by [`OtelProtocol::Stdout`].
    pub spool: SpoolFolder,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OtelProtocol {
    Grpc,
    Http,
    Stdout,
}

/// A value that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(value: String) -> Secret {
        Secret(value)
    }

    /// The value itself: for the one who needs it, not for logs.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Store {
    /// The name under `type`.
    pub fn name(&self) -> &'static str {
        match self {
            Store::Stdout => "stdout",
            Store::Disabled => "disabled",
            Store::File(_) => "file",
            Store::S3(_) => "s3",
            Store::Otel(_) => "otel",
        }
    }
}

impl Tags {
    pub fn new(fixed: Vec<(String, String)>, looked_up: Vec<Tag>) -> Tags {
        Tags { fixed: fixed.into(), looked_up }
    }

    pub fn is_empty(&self) -> bool {
        self.fixed.is_empty() && self.looked_up.is_empty()
    }

    /// Whether what the process's container is labelled with matters.
    pub fn need_container(&self) -> bool {
        !self.looked_up.is_empty()
    }

    /// Keys and values for a process in that container; a label that it lacks gives no tag.
    pub fn of(&self, container: Option<&ContainerFacts>) -> TagList {
        let found = self.looked_up.iter().filter_map(|tag| Some((tag.key.clone(), tag.value(container?)?.to_owned())));
        let mut found = found.peekable();
        if found.peek().is_none() {
            return self.fixed.clone();
        }
        self.fixed.iter().cloned().chain(found).collect::<Vec<_>>().into()
    }
}

impl Tag {
    fn value<'a>(&self, container: &'a ContainerFacts) -> Option<&'a str> {
        let pod = container.pod.as_ref();
        let values = match self.source {
            TagSource::Env => return None,
            TagSource::ContainerLabel => &container.labels,
            TagSource::K8sLabel => &pod?.labels,
            TagSource::K8sAnnotation => &pod?.annotations,
        };
        values.get(&self.location).map(String::as_str)
    }
}

impl Settings {
    /// The stack for a host, with or without a port: that of its own endpoint, else of the `*.` endpoint with the
    /// longest domain, else the default one. None: not captured.
    pub fn stack_for(&self, host: &str) -> Option<&Stack> {
        if self.endpoints.is_empty() {
            return self.stacks.get(self.default_stack?);
        }
        let host = without_port(host).trim_end_matches('.');
        let endpoint = self.endpoints.iter().filter(|endpoint| endpoint.matches(host));
        // An exact domain is longer than any `*.` domain that matches too.
        let best = endpoint.max_by_key(|endpoint| (!endpoint.domain.starts_with('*'), endpoint.domain.len()));
        let index = best.map_or(self.default_stack, |endpoint| endpoint.stack);
        self.stacks.get(index?)
    }
}

impl EndpointRule {
    fn matches(&self, host: &str) -> bool {
        let Some(zone) = self.domain.strip_prefix('*') else { return host.eq_ignore_ascii_case(&self.domain) };
        let (host, zone) = (host.as_bytes(), zone.as_bytes());
        host.len() > zone.len() && host[host.len() - zone.len()..].eq_ignore_ascii_case(zone)
    }
}

/// `[::1]:80` is `[::1]`, `example.com:80` is `example.com`.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|c| c.is_ascii_digit()) => name,
        _ => host,
    }
}
