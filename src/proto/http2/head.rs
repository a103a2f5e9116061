//! A decoded header block as a message's head or trailers (RFC 9113 section 8).

use super::hpack::Fields;
use super::{Side, UNKNOWN};
use crate::proto::{Head, Pseudo, Span, StartLine, Trailers, Version};

pub(super) enum Message {
    Head(Head),
    Trailers(Trailers),
}

/// The pseudo-headers of a block, the first of each.
#[derive(Default)]
struct Found {
    method: Option<Span>,
    scheme: Option<Span>,
    authority: Option<Span>,
    path: Option<Span>,
    protocol: Option<Span>,
    status: Option<Span>,
}

/// What a header block is: with pseudo-headers a head, without them trailers. One that begins with a name that is not
/// known may have had them there, and is a head.
pub(super) fn message(fields: Fields, side: Side) -> Message {
    let may_miss = may_miss_pseudo(&fields);
    let Fields { text, mut fields, unknown } = fields;
    let found = Found::take(&text, &mut fields);
    if !may_miss && !found.has_any() {
        return Message::Trailers(Trailers { text, fields });
    }
    let unknown = if may_miss { unknown } else { None };
    let start = match side {
        Side::Client => found.request(&text, unknown),
        Side::Server => StartLine::Response { status: found.status(&text), reason: Span::default() },
    };
    let pseudo = match side {
        Side::Client => found.pseudo(&text, unknown),
        Side::Server => Pseudo::default(),
    };
    Message::Head(Head::new(text, start, pseudo, Version::Http2, fields))
}

/// Pseudo-headers stand before all others (section 8.3): whether a name there is not known.
fn may_miss_pseudo(fields: &Fields) -> bool {
    let mut leading = fields
        .fields
        .iter()
        .take_while(|(name, _)| Some(*name) == fields.unknown || name.of(&fields.text).first() == Some(&b':'));
    leading.any(|(name, _)| Some(*name) == fields.unknown)
}

/// Whether a head is one of a request or a response only because it may be: none of its pseudo-headers is known.
pub fn may_be_trailers(head: &Head) -> bool {
    let unknown = UNKNOWN.as_bytes();
    match head.start {
        StartLine::Request { .. } => {
            [head.method(), head.target(), head.scheme(), head.authority()].iter().all(|&text| text == unknown)
        }
        StartLine::Response { status, .. } => status == 0,
    }
}

impl Found {
    /// Takes them out of the fields.
    fn take(text: &[u8], fields: &mut Vec<(Span, Span)>) -> Found {
        let mut found = Found::default();
        fields.retain(|&(name, value)| {
            let place = match name.of(text) {
                b":method" => &mut found.method,
                b":scheme" => &mut found.scheme,
                b":authority" => &mut found.authority,
                b":path" => &mut found.path,
                b":protocol" => &mut found.protocol,
                b":status" => &mut found.status,
                _ => return true,
            };
            place.get_or_insert(value);
            false
        });
        found
    }

    fn has_any(&self) -> bool {
        [self.method, self.scheme, self.authority, self.path, self.protocol, self.status].iter().any(Option::is_some)
    }

    /// What is not there is `unknown`, where it may have been.
    fn request(&self, text: &[u8], unknown: Option<Span>) -> StartLine {
        let method = self.method.or(unknown).unwrap_or_default();
        // section 8.5: CONNECT has no path, and asks for the authority, as in HTTP/1
        let otherwise = if method.of(text) == b"CONNECT" { self.authority } else { None };
        let target = self.path.or(unknown).or(otherwise).unwrap_or_default();
        StartLine::Request { method, target }
    }

    fn pseudo(&self, text: &[u8], unknown: Option<Span>) -> Pseudo {
        // RFC 8441: only CONNECT can have a protocol
        let is_connect = self.method.is_none_or(|method| method.of(text) == b"CONNECT");
        Pseudo {
            scheme: self.scheme.or(unknown).unwrap_or_default(),
            authority: self.authority.or(unknown).unwrap_or_default(),
            protocol: self.protocol.or(unknown.filter(|_| is_connect)).unwrap_or_default(),
        }
    }

    /// 0 where it is not known, or no status.
    fn status(&self, text: &[u8]) -> u16 {
        let Some(status) = self.status else { return 0 };
        match status.of(text) {
            digits @ [b'1'..=b'9', b'0'..=b'9', b'0'..=b'9'] => {
                digits.iter().fold(0, |sum, digit| 10 * sum + u16::from(digit - b'0'))
            }
            _ => 0,
        }
    }
}
