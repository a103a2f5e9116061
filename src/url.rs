//! The URL of a request: what users see, and what rules call `http.req.url`.
//!
//! For ingress it is what the client asked for. For egress it names the peer that was really connected to, since a
//! load balancer passes its client's `Host` on. Everything here works on the request's head and its connection alone,
//! so that a rule can be decided when the head is read. Nobody is asked for a name: [`Names`] holds what is known already.

use std::borrow::Cow;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::digits::{self, append_number};
use crate::exchange::{Address, Connection, Direction};
use crate::names::{Names, is_localhost};
use crate::proto::http2::UNKNOWN;
use crate::proto::{Head, Version};

const DEFAULT_PORT: u16 = 80;
const DEFAULT_PORT_TLS: u16 = 443;

/// The request's URL. Bytes that are not UTF-8 are replaced by U+FFFD.
pub fn url(connection: &Connection, head: &Head) -> String {
    let mut out = Vec::new();
    Asked::of(head).append_url(&mut out, connection);
    into_text(out)
}

/// The host that was asked for, without its port: of an absolute target, else of `Host`; where neither names one, the
/// address that was connected to. An IPv6 address has its brackets.
pub fn host<'a>(connection: &'a Connection, head: &'a Head) -> Cow<'a, str> {
    Asked::of(head).host(connection)
}

/// The scheme: for ingress an absolute target's own; `https` within TLS; for ingress `:scheme`; else `http`. CONNECT has
/// none.
pub fn scheme<'a>(connection: &Connection, head: &'a Head) -> Option<&'a [u8]> {
    Target::of(head).scheme(connection, head)
}

/// The target's path, without the query: `/` where an absolute target has none, `*` for `OPTIONS *`, empty for CONNECT.
pub fn path(head: &Head) -> &[u8] {
    Target::of(head).path()
}

/// What follows the target's first `?`, where something does.
pub fn query(head: &Head) -> Option<&[u8]> {
    Target::of(head).query()
}

/// What a head says of what is asked for, taken apart once: for who wants to know more than one thing of it.
pub struct Asked<'a> {
    head: &'a Head,
    target: Target<'a>,
    authority: Option<&'a [u8]>,
    host_port: Option<HostPort<'a>>,
}

impl<'a> Asked<'a> {
    pub fn of(head: &'a Head) -> Asked<'a> {
        let target = Target::of(head);
        let authority = target.authority(head);
        Asked { head, target, authority, host_port: authority.and_then(HostPort::parse) }
    }

    /// As [`host`].
    pub fn host(&self, connection: &'a Connection) -> Cow<'a, str> {
        if let Some(asked) = self.host_port {
            return Cow::Borrowed(asked.host);
        }
        match connection.destination() {
            Address::Ip(address) => {
                let mut out = Vec::new();
                append_ip(&mut out, address.ip());
                Cow::Owned(into_text(out))
            }
            Address::Unix(path) => Cow::Borrowed(path),
        }
    }

    /// The authority as the client sent it: the target's own where it has one (RFC 9112 section 3.2.2), `:authority` in
    /// HTTP/2, else `Host`.
    pub fn authority(&self) -> Option<&'a [u8]> {
        self.authority
    }

    /// As [`scheme`].
    pub fn scheme(&self, connection: &Connection) -> Option<&'a [u8]> {
        self.target.scheme(connection, self.head)
    }

    /// As [`path`].
    pub fn path(&self) -> &'a [u8] {
        self.target.path()
    }

    /// As [`query`].
    pub fn query(&self) -> Option<&'a [u8]> {
        self.target.query()
    }

    /// Appends the request's URL to `out`, its bytes as on the wire.
    pub fn append_url(&self, out: &mut Vec<u8>, connection: &Connection) {
        let ingress = connection.direction == Direction::Ingress;
        let rest = match self.target {
            Target::Authority(authority) => return out.extend_from_slice(authority),
            Target::Absolute { .. } if ingress => return out.extend_from_slice(self.head.target()),
            Target::Absolute { rest, .. } | Target::Origin(rest) => rest,
            // RFC 9112 section 3.3: the URL of `*` is the authority alone.
            Target::Asterisk => b"",
        };
        let scheme = self.scheme(connection).unwrap_or(b"http");
        append_origin(out, connection, scheme, self.host_port);
        if !rest.is_empty() && !rest.starts_with(b"/") {
            out.push(b'/');
        }
        out.extend_from_slice(rest);
    }
}

/// The name the peer of an egress connection is known by, where there is exactly one.
pub fn peer_name(connection: &Connection) -> Option<Arc<str>> {
    if connection.direction == Direction::Ingress {
        return None;
    }
    names(connection)?.of(connection.remote.ip()?)
}

fn names(connection: &Connection) -> Option<&Names> {
    connection.process.names.as_deref()
}

/// Appends scheme and authority.
fn append_origin(out: &mut Vec<u8>, connection: &Connection, scheme: &[u8], asked: Option<HostPort>) {
    let peer = match connection.destination() {
        Address::Ip(peer) => *peer,
        Address::Unix(path) => return append_unix_origin(out, path, scheme, asked),
    };
    out.extend_from_slice(scheme);
    out.extend_from_slice(b"://");
    if let Some(name) = peer_name(connection) {
        out.extend_from_slice(name.as_bytes());
        return append_port(out, scheme, peer.port());
    }
    let ingress = connection.direction == Direction::Ingress;
    if let Some(asked) =
        asked.filter(|asked| ingress || asked.agrees_with(peer, default_port(scheme), names(connection)))
    {
        return append_asked(out, scheme, asked);
    }
    append_ip(out, peer.ip());
    append_port(out, scheme, peer.port());
}

fn append_unix_origin(out: &mut Vec<u8>, path: &str, scheme: &[u8], asked: Option<HostPort>) {
    if let Some(asked) = asked {
        out.extend_from_slice(scheme);
        out.extend_from_slice(b"://");
        return append_asked(out, scheme, asked);
    }
    out.extend_from_slice(b"http+unix://");
    for &byte in path.as_bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(byte);
        } else {
            write!(out, "%{byte:02X}").expect("writing to memory never fails");
        }
    }
}

fn append_asked(out: &mut Vec<u8>, scheme: &[u8], asked: HostPort) {
    out.extend_from_slice(asked.host.as_bytes());
    if let Some(port) = asked.port {
        append_port(out, scheme, port);
    }
}

fn append_port(out: &mut Vec<u8>, scheme: &[u8], port: u16) {
    if port != default_port(scheme) {
        out.push(b':');
        append_number(out, port.into());
    }
}

fn default_port(scheme: &[u8]) -> u16 {
    if scheme == b"https" { DEFAULT_PORT_TLS } else { DEFAULT_PORT }
}

fn append_ip(out: &mut Vec<u8>, ip: IpAddr) {
    let is_v6 = ip.to_canonical().is_ipv6();
    out.extend_from_slice(if is_v6 { b"[" } else { b"" });
    digits::append_ip(out, ip);
    out.extend_from_slice(if is_v6 { b"]" } else { b"" });
}

/// The forms of a request target, RFC 9112 section 3.2.
#[derive(Clone, Copy)]
enum Target<'a> {
    /// Path and query. What is of no form at all is taken for this one.
    Origin(&'a [u8]),
    /// `rest` is path and query, possibly empty.
    Absolute {
        scheme: &'a [u8],
        authority: &'a [u8],
        rest: &'a [u8],
    },
    /// CONNECT's host and port.
    Authority(&'a [u8]),
    Asterisk,
}

impl<'a> Target<'a> {
    fn of(head: &'a Head) -> Target<'a> {
        let target = head.target();
        if head.method() == b"CONNECT" {
            // With a protocol spoken inside it, it asks for a path (RFC 8441 section 4).
            return if head.protocol().is_empty() { Target::Authority(target) } else { Target::Origin(target) };
        }
        if target == b"*" {
            return Target::Asterisk;
        }
        if target.starts_with(b"/") {
            return Target::Origin(target);
        }
        if head.version == Version::Http2 {
            return Target::Origin(target);
        }
        let is_scheme = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
        let scheme_end = target.iter().position(|byte| !is_scheme(byte)).unwrap_or(target.len());
        let (scheme, rest) = target.split_at(scheme_end);
        let Some(rest) = rest.strip_prefix(b"://").filter(|_| !scheme.is_empty()) else {
            return Target::Origin(target);
        };
        let authority_end = rest.iter().position(|byte| b"/?#".contains(byte)).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at(authority_end);
        Target::Absolute { scheme, authority, rest }
    }

    fn authority(self, head: &'a Head) -> Option<&'a [u8]> {
        let authority = match self {
            Target::Absolute { authority, .. } | Target::Authority(authority) => authority,
            Target::Origin(_) | Target::Asterisk => match head.authority() {
                b"" => head.header("host")?,
                unknown if unknown == UNKNOWN.as_bytes() => head.header("host").unwrap_or(unknown),
                authority => authority,
            },
        };
        Some(authority).filter(|authority| !authority.is_empty())
    }

    fn scheme(self, connection: &Connection, head: &'a Head) -> Option<&'a [u8]> {
        match self {
            Target::Authority(_) => None,
            Target::Absolute { scheme, .. } if connection.direction == Direction::Ingress => Some(scheme),
            _ if connection.tls.is_some() => Some(b"https"),
            _ if connection.direction == Direction::Ingress && !head.scheme().is_empty() => Some(head.scheme()),
            _ => Some(b"http"),
        }
    }

    fn path(self) -> &'a [u8] {
        let path = match self {
            Target::Origin(rest) => split_query(rest).0,
            Target::Absolute { rest, .. } => match split_query(rest).0 {
                b"" => b"/",
                path => path,
            },
            Target::Authority(_) => b"",
            Target::Asterisk => b"*",
        };
        path.split(|&byte| byte == b'#').next().unwrap_or_default()
    }

    fn query(self) -> Option<&'a [u8]> {
        let rest = match self {
            Target::Origin(rest) | Target::Absolute { rest, .. } => rest,
            Target::Authority(_) | Target::Asterisk => return None,
        };
        split_query(rest).1.filter(|query| !query.is_empty())
    }
}

fn split_query(rest: &[u8]) -> (&[u8], Option<&[u8]>) {
    match rest.iter().position(|&byte| byte == b'?') {
        Some(mark) => (&rest[..mark], Some(&rest[mark + 1..])),
        None => (rest, None),
    }
}

/// A well-formed `host[:port]`; anything else a `Host` header may hold is not one and is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct HostPort<'a> {
    /// A name, an IPv4 address, or an IPv6 address in brackets; or [`UNKNOWN`].
    host: &'a str,
    /// None where it is the scheme's own.
    port: Option<u16>,
}

impl<'a> HostPort<'a> {
    fn parse(authority: &'a [u8]) -> Option<HostPort<'a>> {
        let authority = std::str::from_utf8(authority).ok()?;
        // What has no user before it is read once, and that is nearly all.
        Self::without_user(authority).or_else(|| Self::without_user(authority.rsplit_once('@')?.1))
    }

    fn without_user(authority: &'a str) -> Option<HostPort<'a>> {
        let host_end = match authority.starts_with('[') {
            true => authority.find(']')? + 1,
            false if authority == UNKNOWN => authority.len(),
            false => name_end(authority),
        };
        let (host, port) = authority.split_at(host_end);
        if host.is_empty() || host.starts_with('[') && bracketed(host).is_none() {
            return None;
        }
        let port = match port.strip_prefix(':') {
            None if port.is_empty() => None,
            Some("") => None,
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => Some(digits.parse().ok()?),
            _ => return None,
        };
        Some(HostPort { host, port })
    }

    fn ip(&self) -> Option<IpAddr> {
        bracketed(self.host).or_else(|| self.host.parse().ok())
    }

    /// Whether this can be the peer's name: the same port, and nothing known that says otherwise.
    fn agrees_with(&self, peer: SocketAddr, default: u16, names: Option<&Names>) -> bool {
        if self.port.unwrap_or(default) != peer.port() || self.host == UNKNOWN {
            return false;
        }
        if let Some(ip) = self.ip() {
            return ip.to_canonical() == peer.ip().to_canonical();
        }
        if is_localhost(self.host) {
            return peer.ip().to_canonical().is_loopback();
        }
        !names.is_some_and(|names| names.elsewhere(self.host, peer.ip()))
    }
}

/// How many bytes at the start can be a `reg-name`.
fn name_end(text: &str) -> usize {
    text.bytes().position(|byte| !IN_NAME[usize::from(byte)]).unwrap_or(text.len())
}

const IN_NAME: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < table.len() {
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let marks = b"-._~%!$&'()*+,;=";
    let mut mark = 0;
    while mark < marks.len() {
        table[marks[mark] as usize] = true;
        mark += 1;
    }
    table
};

fn bracketed(host: &str) -> Option<IpAddr> {
    host.strip_prefix('[')?.strip_suffix(']')?.parse().ok().map(IpAddr::V6)
}

fn into_text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::exchange::Process;
    use crate::names::{NameMap, Networks};
    use crate::proto::dns::{self, Answer, Data, Message, Question};
    use crate::sink::sample::{connection, head, ip, over_http2};

    fn authority(head: &Head) -> Option<&[u8]> {
        Asked::of(head).authority()
    }

    fn ingress(local: &str) -> Connection {
        connection(Direction::Ingress, ip(local), ip("172.18.0.1:40312"))
    }

    fn egress(peer: &str) -> Connection {
        connection(Direction::EgressInternal, ip("172.18.0.2:55044"), ip(peer))
    }

    /// The same connection of a process that has these names.
    fn with_names(connection: Connection, names: Names) -> Connection {
        let process = Process { names: Some(Arc::new(names)), ..Process::default() };
        Connection { process: Arc::new(process), ..connection }
    }

    fn with_hosts(connection: Connection, hosts: &str) -> Connection {
        with_names(connection, Names { hosts: Some(Arc::new(NameMap::from_hosts(hosts))), ..Names::default() })
    }

    fn get(target: &str, host: &str) -> Head {
        head(format!("GET {target} HTTP/1.1\nHost: {host}\n").as_bytes())
    }

    #[test]
    fn ingress_is_what_the_client_asked_for() {
        let asked = |target, host| url(&ingress("172.18.0.2:80"), &get(target, host));
        assert_eq!(asked("/api/create?x=1", "localhost:8085"), "http://localhost:8085/api/create?x=1");
        assert_eq!(asked("/", "a.test:80"), "http://a.test/");
        assert_eq!(asked("/", "a.test:"), "http://a.test/");
        assert_eq!(asked("/", "[2001:db8::1]:8080"), "http://[2001:db8::1]:8080/");
        assert_eq!(asked("https://b.test/x?y", "a.test"), "https://b.test/x?y");
        assert_eq!(asked("*", "a.test"), "http://a.test");
        assert_eq!(asked("nonsense", "a.test"), "http://a.test/nonsense");
    }

    #[test]
    fn without_a_usable_host_ingress_is_the_address_asked() {
        let health = head(b"GET /health HTTP/1.0\n");
        assert_eq!(url(&ingress("172.18.0.2:80"), &health), "http://172.18.0.2/health");
        assert_eq!(url(&ingress("172.18.0.2:8404"), &health), "http://172.18.0.2:8404/health");
        assert_eq!(url(&ingress("[2001:db8::2]:80"), &health), "http://[2001:db8::2]/health");
        assert_eq!(url(&ingress("[::ffff:10.0.0.1]:81"), &health), "http://10.0.0.1:81/health");
        for host in ["", "evil/path", "a b", "a:b", "a:99999", "::1", "[::1", "[a]", "é.test", ":80", "a\x1b.test"] {
            assert_eq!(url(&ingress("172.18.0.2:80"), &get("/x", host)), "http://172.18.0.2/x", "{host:?}");
        }
    }

    #[test]
    fn egress_is_the_peer_and_not_the_host_that_was_passed_on() {
        let asked = |peer, host| url(&egress(peer), &get("/x", host));
        assert_eq!(asked("127.0.0.1:8001", "localhost:8085"), "http://127.0.0.1:8001/x");
        assert_eq!(asked("127.0.0.1:8001", "localhost:8001"), "http://localhost:8001/x");
        assert_eq!(asked("10.0.0.1:8001", "localhost:8001"), "http://10.0.0.1:8001/x");
        assert_eq!(asked("10.0.0.1:80", "localhost"), "http://10.0.0.1/x");
        assert_eq!(asked("93.184.215.14:80", "example.com"), "http://example.com/x");
        assert_eq!(asked("93.184.215.14:80", "example.com:80"), "http://example.com/x");
        assert_eq!(asked("93.184.215.14:8080", "example.com"), "http://93.184.215.14:8080/x");
        assert_eq!(asked("10.0.0.1:80", "10.0.0.1"), "http://10.0.0.1/x");
        assert_eq!(asked("10.0.0.1:80", "10.0.0.2"), "http://10.0.0.1/x");
        assert_eq!(asked("[2001:db8::1]:81", "[2001:db8:0::1]:81"), "http://[2001:db8:0::1]:81/x");
        assert_eq!(asked("[::ffff:10.0.0.1]:80", "10.0.0.1"), "http://10.0.0.1/x");
        assert_eq!(url(&egress("10.0.0.1:8001"), &head(b"GET /health HTTP/1.0\n")), "http://10.0.0.1:8001/health");
    }

    #[test]
    fn an_absolute_target_to_a_proxy_names_the_proxy() {
        let request = get("http://example.com/x?y=1", "example.com");
        assert_eq!(url(&egress("10.0.0.1:3128"), &request), "http://10.0.0.1:3128/x?y=1");
        assert_eq!(url(&egress("10.0.0.1:80"), &request), "http://example.com/x?y=1");
        assert_eq!(authority(&request), Some(&b"example.com"[..]));
    }

    #[test]
    fn connect_is_an_authority() {
        let request = head(b"CONNECT db.test:5432 HTTP/1.1\nHost: other.test\n");
        for connection in [ingress("10.0.0.1:3128"), egress("10.0.0.1:3128")] {
            assert_eq!(url(&connection, &request), "db.test:5432");
            assert_eq!(host(&connection, &request), "db.test");
            assert_eq!(scheme(&connection, &request), None);
        }
        assert_eq!(authority(&request), Some(&b"db.test:5432"[..]));
        assert_eq!(path(&request), b"");
    }

    #[test]
    fn http2_says_its_scheme_and_authority_itself() {
        let asked = |scheme: &str, authority: &str, connection: &Connection| {
            let mut request = get("/x?y", "other.test");
            over_http2(&mut request, scheme, authority);
            (url(connection, &request), host(connection, &request).into_owned())
        };
        let (ingress, egress) = (ingress("172.18.0.2:8443"), egress("172.18.0.5:8001"));
        let told = |url: &str, host: &str| (url.to_owned(), host.to_owned());
        assert_eq!(asked("https", "a.test", &ingress), told("https://a.test/x?y", "a.test"));
        assert_eq!(asked("https", "a.test:443", &ingress), told("https://a.test/x?y", "a.test"));
        assert_eq!(asked("https", "a.test:80", &ingress), told("https://a.test:80/x?y", "a.test"));
        assert_eq!(asked("http", "a.test:443", &ingress), told("http://a.test:443/x?y", "a.test"));
        assert_eq!(asked("http", "a.test", &egress), told("http://172.18.0.5:8001/x?y", "a.test"));
        assert_eq!(
            asked("http", "", &ingress),
            told("http://other.test/x?y", "other.test"),
            "made of an HTTP/1 request"
        );
    }

    #[test]
    fn what_is_not_known_of_a_request_is_not_guessed() {
        let mut request = head(b"GET /x HTTP/2\n");
        over_http2(&mut request, "http", UNKNOWN);
        assert_eq!(url(&ingress("172.18.0.2:80"), &request), "http://<unknown>/x");
        assert_eq!(host(&ingress("172.18.0.2:80"), &request), UNKNOWN);
        assert_eq!(url(&egress("172.18.0.5:80"), &request), "http://172.18.0.5/x");
    }

    #[test]
    fn a_protocol_inside_http2_has_a_path() {
        let mut request = head(b"CONNECT /chat HTTP/2\n");
        over_http2(&mut request, "https", "a.test");
        request.pseudo.protocol = request.pseudo.scheme;
        assert_eq!(url(&ingress("172.18.0.2:443"), &request), "https://a.test/chat");
        assert_eq!(path(&request), b"/chat");
    }

    #[test]
    fn unix_sockets_are_named_by_their_path_where_no_host_is() {
        let unix = connection(
            Direction::EgressInternal,
            Address::Unix(String::new()),
            Address::Unix("/run/api v1.sock".to_owned()),
        );
        assert_eq!(url(&unix, &head(b"GET /x HTTP/1.0\n")), "http+unix://%2Frun%2Fapi%20v1.sock/x");
        assert_eq!(url(&unix, &get("/x", "docker")), "http://docker/x");
    }

    #[test]
    fn names_for_addresses_come_first() {
        let hosts = "127.0.0.1 localhost\n::1 ip6-localhost ip6-loopback\n# 10.9.9.9 commented\n\
             172.18.0.5\tbackend-api-1.demo backend-api-1 # the first\n\
             172.18.0.6 backend-api-2\n172.18.0.7 one\n172.18.0.7 two\nnot-an-address x\n10.0.0.3 a/b\n";
        let asked = |peer: &str, host: &str| url(&with_hosts(egress(peer), hosts), &get("/x", host));
        assert_eq!(asked("172.18.0.5:8001", "localhost:8085"), "http://backend-api-1.demo:8001/x");
        assert_eq!(asked("[::ffff:172.18.0.6]:80", "localhost"), "http://backend-api-2/x");
        assert_eq!(
            asked("127.0.0.1:8001", "a.test"),
            "http://127.0.0.1:8001/x",
            "localhost tells no peer from another"
        );
        assert_eq!(asked("172.18.0.7:80", "10.0.0.1"), "http://172.18.0.7/x", "two names are none");
        assert_eq!(asked("172.18.0.7:80", "TWO"), "http://TWO/x", "but each agrees");
        assert_eq!(asked("10.0.0.9:80", "backend-api-2"), "http://10.0.0.9/x", "known for another address");
        assert_eq!(asked("10.0.0.9:80", "Backend-API-2."), "http://10.0.0.9/x", "in any case, with the root's dot");
        assert_eq!(asked("10.0.0.3:80", "10.0.0.3"), "http://10.0.0.3/x", "no name");
    }

    #[test]
    fn what_was_asked_of_the_dns_names_the_peer_in_that_network_namespace() {
        let answer = |name: &str, last: u8| Message {
            id: 7,
            is_response: true,
            rcode: 0,
            truncated: false,
            question: Some(Question { name: name.to_owned(), kind: dns::A }),
            answers: vec![Answer { name: name.to_owned(), ttl: 60, data: Data::A([10, 0, 0, last].into()) }],
        };
        let networks = Networks::default();
        let held = [1, 2].map(|inode| networks.get(inode));
        held[0].dns.answered(0, &answer("api.test", 1));
        held[1].dns.answered(0, &answer("db.test", 1));
        let asked = |network: usize, host: &str| {
            let names = Names { network: held[network].clone(), ..Names::default() };
            url(&with_names(egress("10.0.0.1:81"), names), &get("/x", host))
        };
        assert_eq!(asked(0, "localhost:8085"), "http://api.test:81/x");
        assert_eq!(asked(1, "localhost:8085"), "http://db.test:81/x");
        held[0].dns.answered(0, &answer("www.test", 1));
        held[0].dns.answered(0, &answer("other.test", 2));
        assert_eq!(asked(0, "localhost:8085"), "http://10.0.0.1:81/x", "two names are none");
        assert_eq!(asked(0, "www.test:81"), "http://www.test:81/x", "but each agrees");
        assert_eq!(asked(0, "other.test:81"), "http://10.0.0.1:81/x", "known for another address");
        networks.expire(120_000_000_000);
        assert_eq!(asked(1, "localhost:8085"), "http://10.0.0.1:81/x", "expired");
    }

    #[test]
    fn a_client_is_not_called_by_a_name() {
        let hosts = "172.18.0.1 gateway\n172.18.0.2 haproxy\n";
        let asked = with_hosts(ingress("172.18.0.2:80"), hosts);
        assert_eq!(peer_name(&asked), None);
        assert_eq!(url(&asked, &get("/x", "")), "http://172.18.0.2/x");
        assert_eq!(peer_name(&with_hosts(egress("172.18.0.2:80"), hosts)).as_deref(), Some("haproxy"));
        assert_eq!(peer_name(&egress("172.18.0.2:80")), None);
    }

    #[test]
    fn parts_of_a_target() {
        let parts = |target| {
            let head = get(target, "a.test:81");
            (
                String::from_utf8_lossy(path(&head)).into_owned(),
                query(&head).map(|q| String::from_utf8_lossy(q).into_owned()),
            )
        };
        assert_eq!(parts("/a/b?c=d?e"), ("/a/b".to_owned(), Some("c=d?e".to_owned())));
        assert_eq!(parts("/a?"), ("/a".to_owned(), None));
        assert_eq!(parts("http://b.test"), ("/".to_owned(), None));
        assert_eq!(parts("http://b.test?q"), ("/".to_owned(), Some("q".to_owned())));
        assert_eq!(parts("http://u:p@b.test:8080/x?q"), ("/x".to_owned(), Some("q".to_owned())));
        assert_eq!(parts("*"), ("*".to_owned(), None));
        assert_eq!(host(&ingress("10.0.0.1:80"), &get("http://u:p@b.test:8080/x", "a.test")), "b.test");
        assert_eq!(host(&egress("10.0.0.1:80"), &get("/", "a.test:81")), "a.test");
        assert_eq!(host(&egress("[2001:db8::1]:80"), &head(b"GET / HTTP/1.0\n")), "[2001:db8::1]");
        assert_eq!(scheme(&ingress("10.0.0.1:80"), &get("ftp://b.test/", "")), Some(&b"ftp"[..]));
        assert_eq!(scheme(&egress("10.0.0.1:80"), &get("ftp://b.test/", "")), Some(&b"http"[..]));
    }

    #[test]
    fn a_target_that_is_not_utf8_is_shown_with_replacements() {
        assert_eq!(url(&ingress("10.0.0.1:80"), &head(b"GET /caf\xe9 HTTP/1.0\n")), "http://10.0.0.1/caf\u{fffd}");
    }

    proptest! {
        #[test]
        fn no_target_and_no_host_panics(target in "[^ \n]{1,30}", host_header in "[^\n]{0,20}", hosts in "([0-9.:a-f]{1,9} [a-z ]{0,9}\n){0,4}") {
            let request = get(&target, &host_header);
            for connection in [ingress("10.0.0.1:80"), egress("10.0.0.1:80")] {
                let connection = with_hosts(connection, &hosts);
                prop_assert!(!url(&connection, &request).is_empty());
                prop_assert!(!host(&connection, &request).is_empty());
                let parts = (path(&request), query(&request), scheme(&connection, &request), authority(&request));
                std::hint::black_box(parts);
            }
        }
    }
}
