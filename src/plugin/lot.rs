//! The lot of an exchange, by which samples are drawn: the same wherever the exchange is seen.

use std::net::SocketAddr;

use crate::exchange::{Address, Connection};
use crate::proto::Head;

/// A number that is evenly spread over all exchanges, made of nothing but what is on the wire: so that both ends of a
/// connection, on whatever machine, draw the same.
///
/// It is that of the connection's two addresses, the client's first. A proxy's two connections have no address in
/// common; where the request says what it belongs to, `traceparent` (W3C Trace Context) or `X-Request-ID`, that is the
/// lot, and a request that the proxy passes on has it on either side.
pub fn lot(connection: &Connection, request: Option<&Head>) -> u64 {
    let named = |name: &str| request?.header(name).filter(|value| !value.is_empty());
    let mut hash = Hash::default();
    if let Some(trace) = named("traceparent").and_then(trace_id) {
        hash.add(trace);
    } else if let Some(id) = named("x-request-id") {
        hash.add(id);
    } else {
        match (connection.source(), connection.destination()) {
            (Address::Ip(client), Address::Ip(server)) => {
                hash.add_address(client);
                hash.add_address(server);
            }
            // A Unix socket's client has no address of its own.
            _ => hash.add(&connection.id.to_le_bytes()),
        }
    }
    hash.finish()
}

/// `00-<32 hexadecimal digits>-…`.
pub fn trace_id(traceparent: &[u8]) -> Option<&[u8]> {
    let id = traceparent.get(3..35)?;
    let is_delimited = traceparent[2] == b'-' && traceparent.get(35) == Some(&b'-');
    let is_id = id.iter().all(u8::is_ascii_hexdigit) && id.iter().any(|&digit| digit != b'0');
    (is_delimited && is_id).then_some(id)
}

/// FNV-1a with a last mixing (that of SplitMix64), since FNV's high bits hardly know of the last bytes. Not the
/// standard library's hash: that may change with the compiler, and two agents must draw alike.
struct Hash(u64);

impl Default for Hash {
    fn default() -> Hash {
        Hash(0xcbf2_9ce4_8422_2325)
    }
}

impl Hash {
    fn add(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn add_address(&mut self, address: &SocketAddr) {
        match address.ip().to_canonical() {
            std::net::IpAddr::V4(ip) => self.add(&ip.octets()),
            std::net::IpAddr::V6(ip) => self.add(&ip.octets()),
        }
        self.add(&address.port().to_be_bytes());
    }

    fn finish(self) -> u64 {
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::Direction;
    use crate::rules::Sample;
    use crate::sink::sample::{connection, head, ip};

    #[test]
    fn both_ends_of_a_connection_draw_the_same() {
        let ends = |one: &str, other: &str| {
            let egress = connection(Direction::EgressInternal, ip(one), ip(other));
            let ingress = connection(Direction::Ingress, ip(other), ip(one));
            (lot(&egress, None), lot(&ingress, None))
        };
        let (egress, ingress) = ends("10.0.0.1:40000", "10.0.0.2:80");
        assert_eq!(egress, ingress);
        assert_eq!(ends("[::ffff:10.0.0.1]:40000", "10.0.0.2:80").0, egress, "in either form");
        assert_ne!(ends("10.0.0.1:40001", "10.0.0.2:80").0, egress);
    }

    #[test]
    fn both_sides_of_a_proxy_draw_the_same_where_the_request_says_what_it_is() {
        let sides = |text: &str| {
            let request = head(format!("GET / HTTP/1.1\nHost: a.test\n{text}").as_bytes());
            let client = connection(Direction::Ingress, ip("10.0.0.2:80"), ip("10.0.0.1:40000"));
            let server = connection(Direction::EgressInternal, ip("10.0.0.2:50000"), ip("10.0.0.3:80"));
            (lot(&client, Some(&request)), lot(&server, Some(&request)))
        };
        let traced = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\n";
        let (client, server) = sides(traced);
        assert_eq!(client, server);
        let passed_on = traced.replace("b7ad6b7169203331", "00f067aa0ba902b7");
        assert_eq!(sides(&passed_on).0, client, "another span of the same trace");
        let (client, server) = sides("X-Request-ID: 17\n");
        assert_eq!(client, server);
        let zeros = "traceparent: 00-00000000000000000000000000000000-b7ad6b7169203331-01\n";
        for no_id in ["", "traceparent: 00-0af7\n", "X-Request-ID: \n", zeros] {
            let (client, server) = sides(no_id);
            assert_ne!(client, server, "{no_id}");
        }
    }

    #[test]
    fn a_sample_has_its_share_of_many_connections() {
        let sample = Sample::new(0.05).unwrap();
        let drawn = |port: u16| {
            let client = format!("10.0.0.1:{port}");
            let connection = connection(Direction::Ingress, ip("10.0.0.2:80"), ip(&client));
            sample.has(|| lot(&connection, None))
        };
        let count = (10_000..60_000).filter(|&port| drawn(port)).count();
        assert!((2300..2700).contains(&count), "{count} of 50000");
    }
}
