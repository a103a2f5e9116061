//! What a rule can ask about: names of fields, resolved at load.
//!
//! Owns the names, their older spellings, what kind of value each has and when it is known. It does not know where
//! the values come from: that is [`Facts`](super::Facts).

use std::fmt;

use super::near::nearest;

/// A field, its name resolved. Header names are in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Field {
    Method,
    Path,
    Host,
    Url,
    Scheme,
    Query,
    RequestHeader(Box<str>),
    Status,
    DurationMs,
    ResponseHeader(Box<str>),
    Src(Peer),
    Dst(Peer),
    TlsEnabled,
    TlsVersion,
    TlsSni,
    TlsAlpn,
    TlsLibrary,
    Protocol,
    Direction,
    GrpcService,
    GrpcMethod,
    GrpcStatus,
    /// All tags, a list.
    Tags,
    /// One tag's value.
    Tag(Box<str>),
}

/// What is known about one end of a connection: `src.*` asks, `dst.*` answers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Peer {
    Ip,
    Port,
    Domain,
    ProcessPath,
    ProcessBinary,
    ProcessPid,
    ProcessUserName,
    ProcessUserId,
    ContainerName,
    ContainerImage,
    ContainerId,
    ContainerLabel(Box<str>),
    PodName,
    PodNamespace,
    PodLabel(Box<str>),
}

/// What values a field can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Text,
    /// Text that others write, such as headers and labels: a number in it compares as a number.
    Loose,
    Number,
    Bool,
    Ip,
    List,
}

impl Kind {
    /// For messages: "`http.res.status` is a number".
    pub fn name(self) -> &'static str {
        match self {
            Kind::Text | Kind::Loose => "text",
            Kind::Number => "a number",
            Kind::Bool => "true or false",
            Kind::Ip => "an IP address",
            Kind::List => "a list",
        }
    }
}

/// How much of an exchange must have been seen before a field, or a rule, is known for certain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    RequestHead,
    ResponseHead,
    End,
}

static PLAIN: [(&str, Field); 19] = [
    ("http.req.method", Field::Method),
    ("http.req.path", Field::Path),
    ("http.req.host", Field::Host),
    ("http.req.url", Field::Url),
    ("http.req.scheme", Field::Scheme),
    ("http.req.query", Field::Query),
    ("http.res.status", Field::Status),
    ("http.res.duration_ms", Field::DurationMs),
    ("tls.enabled", Field::TlsEnabled),
    ("tls.version", Field::TlsVersion),
    ("tls.sni", Field::TlsSni),
    ("tls.alpn", Field::TlsAlpn),
    ("tls.library", Field::TlsLibrary),
    ("protocol", Field::Protocol),
    ("direction", Field::Direction),
    ("grpc.service", Field::GrpcService),
    ("grpc.method", Field::GrpcMethod),
    ("grpc.status", Field::GrpcStatus),
    ("tags", Field::Tags),
];

static PEER: [(&str, Peer); 13] = [
    ("ip", Peer::Ip),
    ("port", Peer::Port),
    ("domain", Peer::Domain),
    ("process.path", Peer::ProcessPath),
    ("process.binary", Peer::ProcessBinary),
    ("process.pid", Peer::ProcessPid),
    ("process.user.name", Peer::ProcessUserName),
    ("process.user.id", Peer::ProcessUserId),
    ("container.name", Peer::ContainerName),
    ("container.image", Peer::ContainerImage),
    ("container.id", Peer::ContainerId),
    ("pod.name", Peer::PodName),
    ("pod.namespace", Peer::PodNamespace),
];

/// Prefixes that stand before a name of the user's choice.
const FAMILIES: [&str; 7] = [
    "http.req.headers",
    "http.res.headers",
    "src.container.labels",
    "dst.container.labels",
    "src.pod.labels",
    "dst.pod.labels",
    "tags",
];

const ALIASES: [(&str, &str); 4] =
    [("request.", "http.req."), ("response.", "http.res."), ("req.", "http.req."), ("res.", "http.res.")];

impl Field {
    /// Resolves a name as written in a rule. The error is a message that says what is wrong with it.
    pub fn parse(written: &str) -> Result<Field, String> {
        let name = canonical(written);
        if let Some((_, field)) = PLAIN.iter().find(|(plain, _)| *plain == name) {
            return Ok(field.clone());
        }
        if let Some(peer) = name.strip_prefix("src.").and_then(Peer::parse) {
            return Ok(Field::Src(peer));
        }
        if let Some(peer) = name.strip_prefix("dst.").and_then(Peer::parse) {
            return Ok(Field::Dst(peer));
        }
        if let Some(header) = member(&name, "http.req.headers") {
            return Ok(Field::RequestHeader(header.to_ascii_lowercase().into()));
        }
        if let Some(header) = member(&name, "http.res.headers") {
            return Ok(Field::ResponseHeader(header.to_ascii_lowercase().into()));
        }
        if let Some(tag) = member(&name, "tags") {
            return Ok(Field::Tag(tag.into()));
        }
        Err(unknown(written, &name))
    }

    pub fn kind(&self) -> Kind {
        match self {
            Field::RequestHeader(_) | Field::ResponseHeader(_) | Field::Tag(_) => Kind::Loose,
            Field::Status | Field::DurationMs | Field::GrpcStatus => Kind::Number,
            Field::TlsEnabled => Kind::Bool,
            Field::Tags => Kind::List,
            Field::Src(peer) | Field::Dst(peer) => peer.kind(),
            _ => Kind::Text,
        }
    }

    pub fn stage(&self) -> Stage {
        match self {
            Field::DurationMs | Field::GrpcStatus => Stage::End,
            Field::Status | Field::ResponseHeader(_) => Stage::ResponseHead,
            _ => Stage::RequestHead,
        }
    }
}

impl Peer {
    fn parse(name: &str) -> Option<Peer> {
        if let Some((_, peer)) = PEER.iter().find(|(plain, _)| *plain == name) {
            return Some(peer.clone());
        }
        if let Some(label) = member(name, "container.labels") {
            return Some(Peer::ContainerLabel(label.into()));
        }
        member(name, "pod.labels").map(|label| Peer::PodLabel(label.into()))
    }

    fn kind(&self) -> Kind {
        match self {
            Peer::Ip => Kind::Ip,
            Peer::Port | Peer::ProcessPid | Peer::ProcessUserId => Kind::Number,
            Peer::ContainerLabel(_) | Peer::PodLabel(_) => Kind::Loose,
            _ => Kind::Text,
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Field::RequestHeader(name) => write!(f, "http.req.headers.{name}"),
            Field::ResponseHeader(name) => write!(f, "http.res.headers.{name}"),
            Field::Tag(name) => write!(f, "tags.{name}"),
            Field::Src(peer) => write!(f, "src.{peer}"),
            Field::Dst(peer) => write!(f, "dst.{peer}"),
            _ => f.write_str(PLAIN.iter().find(|(_, field)| field == self).map_or("", |(name, _)| name)),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::ContainerLabel(name) => write!(f, "container.labels.{name}"),
            Peer::PodLabel(name) => write!(f, "pod.labels.{name}"),
            _ => f.write_str(PEER.iter().find(|(_, peer)| peer == self).map_or("", |(name, _)| name)),
        }
    }
}

fn canonical(written: &str) -> String {
    for (alias, prefix) in ALIASES {
        if let Some(rest) = written.strip_prefix(alias) {
            return format!("{prefix}{rest}");
        }
    }
    written.to_string()
}

/// The `NAME` of `family.NAME`.
fn member<'a>(name: &'a str, family: &str) -> Option<&'a str> {
    name.strip_prefix(family)?.strip_prefix('.').filter(|rest| !rest.is_empty())
}

fn unknown(written: &str, name: &str) -> String {
    if let Some(family) = FAMILIES.iter().find(|family| name.trim_end_matches('.') == **family) {
        return format!("`{written}` lacks a name; write `{family}.NAME`");
    }
    match suggestion(name) {
        Some(near) => format!("unknown field `{written}` (did you mean `{near}`?)"),
        None => format!("unknown field `{written}`"),
    }
}

fn suggestion(name: &str) -> Option<String> {
    // `http.req.header.host`: a family with a typo.
    for family in FAMILIES {
        let Some((end, _)) = name.match_indices('.').nth(family.matches('.').count()) else { continue };
        if nearest(&name[..end], [family]).is_some() {
            return Some(format!("{family}{}", &name[end..]));
        }
    }
    // `status`, `http.response.status`: the right end of a name, with the wrong beginning or none.
    if !name.starts_with("src.") && !name.starts_with("dst.") {
        let last = name.rsplit('.').next();
        let right_end = PLAIN.iter().map(|(plain, _)| *plain).find(|plain| plain.rsplit('.').next() == last);
        if let Some(plain) = right_end {
            return Some(plain.to_string());
        }
    }
    let of_peers =
        ["src", "dst"].into_iter().flat_map(|side| PEER.iter().map(move |(peer, _)| format!("{side}.{peer}")));
    let names: Vec<String> = PLAIN.iter().map(|(plain, _)| plain.to_string()).chain(of_peers).collect();
    nearest(name, names.iter().map(String::as_str)).map(str::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_read_back() {
        let of_peers =
            ["src", "dst"].iter().flat_map(|side| PEER.iter().map(move |(peer, _)| format!("{side}.{peer}")));
        let of_families = FAMILIES.iter().map(|family| format!("{family}.com.example/x-y"));
        let plain = PLAIN.iter().map(|(name, _)| name.to_string());
        for name in plain.chain(of_peers).chain(of_families) {
            assert_eq!(Field::parse(&name).map(|field| field.to_string()), Ok(name));
        }
    }

    #[test]
    fn older_spellings_are_the_same_fields() {
        for (old, new) in [
            ("request.path", "http.req.path"),
            ("req.headers.Content-Type", "http.req.headers.content-type"),
            ("response.status", "http.res.status"),
            ("res.headers.x", "http.res.headers.x"),
        ] {
            assert_eq!(Field::parse(old), Field::parse(new));
            assert!(Field::parse(old).is_ok(), "{old}");
        }
    }

    #[test]
    fn an_unknown_name_says_what_was_meant() {
        for (name, message) in [
            ("http.req.pth", "unknown field `http.req.pth` (did you mean `http.req.path`?)"),
            ("status", "unknown field `status` (did you mean `http.res.status`?)"),
            ("http.response.status", "unknown field `http.response.status` (did you mean `http.res.status`?)"),
            ("http.req.header.host", "unknown field `http.req.header.host` (did you mean `http.req.headers.host`?)"),
            ("src.process.binery", "unknown field `src.process.binery` (did you mean `src.process.binary`?)"),
            ("http.req.headers", "`http.req.headers` lacks a name; write `http.req.headers.NAME`"),
            ("weather", "unknown field `weather`"),
        ] {
            assert_eq!(Field::parse(name), Err(message.to_string()));
        }
    }
}
