//! Values: what a rule writes down, what an exchange answers, and how the two compare.
//!
//! Comparing never fails: values that have nothing in common are unequal and have no order.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::net::IpAddr;

/// What an exchange answers when it is asked for a field.
#[derive(Debug, Clone, PartialEq)]
pub enum Fact<'a> {
    /// May still become known: the status, while only the request was seen.
    NotYet,
    /// Will never be known, or does not exist: a header that was not sent.
    Absent,
    Text(Cow<'a, str>),
    Int(i64),
    Float(f64),
    Bool(bool),
    Ip(IpAddr),
    /// Keys and values. As a list, each is the text `key:value`.
    Tags(&'a [(String, String)]),
}

/// A value written in a rule.
#[derive(Debug, Clone, PartialEq)]
pub enum Literal {
    Text(String),
    Int(i64),
    Float(f64),
    Bool(bool),
    Ip(IpAddr),
    Net(Net),
    Mac([u8; 6]),
}

/// A CIDR block: an address, and how many of its leading bits count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Net {
    address: IpAddr,
    bits: u8,
}

impl Net {
    /// Reads `10.0.0.0/8`; none where that is no block.
    pub fn parse(text: &str) -> Option<Net> {
        let (address, bits) = text.split_once('/')?;
        let (address, bits) = (address.parse::<IpAddr>().ok()?, bits.parse::<u8>().ok()?);
        let longest = if address.is_ipv4() { 32 } else { 128 };
        (bits <= longest).then_some(Net { address, bits })
    }

    pub fn contains(&self, ip: IpAddr) -> bool {
        let (block, address, bits) = match (self.address, ip.to_canonical()) {
            (IpAddr::V4(block), IpAddr::V4(address)) => {
                (block.to_bits().into(), address.to_bits().into(), 96 + self.bits)
            }
            (IpAddr::V6(block), IpAddr::V6(address)) => (block.to_bits(), address.to_bits(), self.bits),
            // `::ffff:0:0/96`, the IPv6 way to write IPv4 addresses
            (IpAddr::V6(block), IpAddr::V4(address)) => {
                (block.to_bits(), address.to_ipv6_mapped().to_bits(), self.bits)
            }
            (IpAddr::V4(_), IpAddr::V6(_)) => return false,
        };
        let different: u128 = block ^ address;
        different.leading_zeros() >= u32::from(bits)
    }
}

impl Literal {
    /// For messages: "`5` is a number".
    pub fn kind_name(&self) -> &'static str {
        match self {
            Literal::Text(_) => "text",
            Literal::Int(_) | Literal::Float(_) => "a number",
            Literal::Bool(_) => "true or false",
            Literal::Ip(_) => "an IP address",
            Literal::Net(_) => "a CIDR block",
            Literal::Mac(_) => "a MAC address",
        }
    }

    /// Whether a fact is this value, or lies in this block.
    pub fn holds(&self, fact: &Fact) -> bool {
        match (self, fact) {
            (Literal::Net(net), Fact::Ip(ip)) => net.contains(*ip),
            (Literal::Net(net), Fact::Text(text)) => text.parse().is_ok_and(|ip| net.contains(ip)),
            (Literal::Mac(mac), Fact::Text(text)) => parse_mac(text) == Some(*mac),
            _ => order(fact, &self.fact()) == Some(Ordering::Equal),
        }
    }

    /// This value as if it were a fact; blocks and MAC addresses, which no fact can be, as absent.
    pub fn fact(&self) -> Fact<'_> {
        match self {
            Literal::Text(text) => Fact::Text(Cow::Borrowed(text)),
            Literal::Int(value) => Fact::Int(*value),
            Literal::Float(value) => Fact::Float(*value),
            Literal::Bool(value) => Fact::Bool(*value),
            Literal::Ip(ip) => Fact::Ip(*ip),
            Literal::Net(_) | Literal::Mac(_) => Fact::Absent,
        }
    }
}

/// The order of two facts, none where they have none. Text beside a number, an address or a truth value is read as
/// one.
pub fn order(a: &Fact, b: &Fact) -> Option<Ordering> {
    match (a, b) {
        (Fact::Text(a), Fact::Text(b)) => Some(a.cmp(b)),
        (Fact::Bool(a), Fact::Bool(b)) => Some(a.cmp(b)),
        (Fact::Ip(a), Fact::Ip(b)) => Some(a.to_canonical().cmp(&b.to_canonical())),
        (Fact::Int(a), Fact::Int(b)) => Some(a.cmp(b)),
        (Fact::Int(a), Fact::Float(b)) => (*a as f64).partial_cmp(b),
        (Fact::Float(a), Fact::Int(b)) => a.partial_cmp(&(*b as f64)),
        (Fact::Float(a), Fact::Float(b)) => a.partial_cmp(b),
        (Fact::Text(text), other) => order(&read_as(text, other)?, other),
        (other, Fact::Text(text)) => order(other, &read_as(text, other)?),
        _ => None,
    }
}

/// Reads text as the kind of value that `other` is; the answer is never text.
fn read_as(text: &str, other: &Fact) -> Option<Fact<'static>> {
    match other {
        Fact::Int(_) | Fact::Float(_) => number(text),
        Fact::Bool(_) => text.parse().ok().map(Fact::Bool),
        Fact::Ip(_) => text.parse().ok().map(Fact::Ip),
        _ => None,
    }
}

/// Reads a decimal number: an integer where it is one, else a finite float.
pub fn number(text: &str) -> Option<Fact<'static>> {
    if !text.ends_with(|last: char| last.is_ascii_digit()) {
        return None; // Rust reads `inf` and `nan` as numbers too
    }
    if let Ok(value) = text.parse() {
        return Some(Fact::Int(value));
    }
    text.parse().ok().filter(|value: &f64| value.is_finite()).map(Fact::Float)
}

/// Reads six hexadecimal bytes, `aa:bb:cc:dd:ee:ff`.
pub fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts.next().filter(|part| part.len() == 2 && part.bytes().all(|c| c.is_ascii_hexdigit()))?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

/// Whether a fact is there and not zero: what a field alone means in a rule.
pub fn non_zero(fact: &Fact) -> bool {
    match fact {
        Fact::NotYet | Fact::Absent => false,
        Fact::Text(text) => !text.is_empty(),
        Fact::Int(value) => *value != 0,
        Fact::Float(value) => *value != 0.0,
        Fact::Bool(value) => *value,
        Fact::Ip(ip) => !ip.is_unspecified(),
        Fact::Tags(tags) => !tags.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Fact<'_> {
        Fact::Text(text.into())
    }

    #[test]
    fn blocks_hold_their_addresses() {
        for (net, ip, inside) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.0/8", "::ffff:10.0.0.1", true),
            ("0.0.0.0/0", "203.0.113.9", true),
            ("0.0.0.0/0", "::1", false),
            ("192.0.2.7/32", "192.0.2.7", true),
            ("192.0.2.7/32", "192.0.2.6", false),
            ("fe80::/10", "fe80::1", true),
            ("::/0", "2001:db8::1", true),
            ("::ffff:0:0/96", "10.0.0.1", true),
        ] {
            let block = Net::parse(net).expect(net);
            assert_eq!(block.contains(ip.parse().expect(ip)), inside, "{ip} in {net}");
        }
        for bad in ["10.0.0.0/33", "10.0.0/8", "::/129", "10.0.0.0/", "10.0.0.0/-1", "/8"] {
            assert_eq!(Net::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn text_compares_as_what_stands_beside_it() {
        assert_eq!(order(&text("100"), &Fact::Int(20)), Some(Ordering::Greater));
        assert_eq!(order(&text("100"), &text("20")), Some(Ordering::Less));
        assert_eq!(order(&text("1.5"), &Fact::Int(1)), Some(Ordering::Greater));
        assert_eq!(order(&text("inf"), &Fact::Int(1)), None);
        assert_eq!(order(&text("ten"), &Fact::Int(10)), None);
        assert_eq!(order(&Fact::Int(10), &text("9")), Some(Ordering::Greater));
        assert_eq!(order(&text("127.0.0.1"), &Fact::Ip([127, 0, 0, 1].into())), Some(Ordering::Equal));
        assert!(Literal::Mac([0xaa, 0, 0, 0, 0, 1]).holds(&text("AA:00:00:00:00:01")));
    }

    #[test]
    fn a_mac_address_has_six_bytes() {
        assert_eq!(parse_mac("00:1A:2b:00:00:ff"), Some([0, 0x1a, 0x2b, 0, 0, 0xff]));
        for bad in ["", "00:1a:2b:00:00", "00:1a:2b:00:00:ff:00", "0:1a:2b:00:00:ff", "+0:1a:2b:00:00:ff"] {
            assert_eq!(parse_mac(bad), None, "{bad}");
        }
    }
}
