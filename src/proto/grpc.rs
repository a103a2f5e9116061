//! gRPC on top of HTTP: which method was called, how many messages went each way, how the call ended. And gRPC-Web, which
//! puts the trailers into the body (both: the protocol descriptions in gRPC's `doc/PROTOCOL-HTTP2.md` and `PROTOCOL-WEB.md`).
//!
//! Owns the framing of messages inside a body and the spelling of headers. It does not look into messages.

use super::coding::{self, Decoded, Outcome};
use super::{Head, Span, Trailers};

/// The longest trailers of gRPC-Web that are kept, in bytes.
const MAX_TRAILERS: usize = 64 << 10;

/// Flag, and length in big-endian order.
const PREFIX: usize = 5;
const COMPRESSED: u8 = 1;
/// gRPC-Web: these are the trailers.
const TRAILERS: u8 = 0x80;

/// How messages are put into a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Grpc,
    /// Trailers are the last thing in the response's body.
    Web,
    /// The same in base64, in pieces that may each have padding.
    WebText,
}

/// The form that a content type announces; none where it is no gRPC.
pub fn form(content_type: &[u8]) -> Option<Form> {
    const GRPC: &[u8] = b"application/grpc";
    let (begin, rest) = content_type.trim_ascii_start().split_at_checked(GRPC.len())?;
    if !begin.eq_ignore_ascii_case(GRPC) {
        return None;
    }
    // `+proto` and the like name what messages are written in.
    let essence = rest.split(|&byte| byte == b';').next()?.trim_ascii_end();
    let kind = essence.split(|&byte| byte == b'+').next()?;
    let is = |name: &[u8]| kind.eq_ignore_ascii_case(name);
    match kind {
        b"" => Some(Form::Grpc),
        _ if is(b"-web") => Some(Form::Web),
        _ if is(b"-web-text") => Some(Form::WebText),
        _ => None,
    }
}

/// Service and method of a request's path, `/package.Service/Method`.
pub fn called(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let path = path.strip_prefix(b"/")?;
    let slash = path.iter().rposition(|&byte| byte == b'/')?;
    let (service, method) = (&path[..slash], &path[slash + 1..]);
    (!service.is_empty() && !method.is_empty()).then_some((service, method))
}

/// The value of `grpc-status`.
pub fn status(value: &[u8]) -> Option<u32> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// The name of a status code (`doc/statuscodes.md`).
pub fn status_name(status: u32) -> Option<&'static str> {
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    NAMES.get(usize::try_from(status).ok()?).copied()
}

/// The value of `grpc-message` with its percent-encoding undone. What is no encoding stays as it is.
pub fn message(value: &[u8]) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let mut out = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((&byte, behind)) = rest.split_first() {
        let encoded = match (byte, behind) {
            (b'%', [high, low, ..]) => digit(*high).zip(digit(*low)),
            _ => None,
        };
        match encoded {
            Some((high, low)) => {
                out.push(high << 4 | low);
                rest = &behind[2..];
            }
            None => {
                out.push(byte);
                rest = behind;
            }
        }
    }
    out
}

/// Counts the messages of one body as it goes by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Messages {
    /// Base64 is undone first.
    text: Option<Text>,
    /// The part of a prefix that was seen.
    prefix: [u8; PREFIX],
    have: usize,
    /// Bytes that the message, or the trailers, begun last still lack.
    left: u64,
    in_trailers: bool,
    count: u64,
    /// Where messages begin is not known any more.
    is_lost: bool,
    trailers: Vec<u8>,
    is_ended: bool,
}

impl Messages {
    pub fn new(form: Form) -> Messages {
        Messages {
            text: (form == Form::WebText).then(Text::default),
            prefix: [0; PREFIX],
            have: 0,
            left: 0,
            in_trailers: false,
            count: 0,
            is_lost: false,
            trailers: Vec::new(),
            is_ended: false,
        }
    }

    /// Takes the next bytes of the body.
    pub fn feed(&mut self, data: &[u8]) {
        let Some(mut text) = self.text.take() else { return self.feed_plain(data) };
        match text.undo(data) {
            Some(bytes) => self.feed_plain(&bytes),
            None => self.is_lost = true,
        }
        self.text = Some(text);
    }

    /// So many bytes of the body went by unseen.
    pub fn unseen(&mut self, bytes: u64) {
        if bytes > self.left || bytes > 0 && (self.text.is_some() || self.in_trailers) {
            self.is_lost = true;
        } else {
            self.left -= bytes;
            self.finish_message();
        }
    }

    /// How many bytes certainly follow that belong to no prefix and no trailers.
    pub fn certain(&self) -> u64 {
        match self {
            Messages { is_lost: true, .. } => u64::MAX,
            Messages { text: Some(_), .. } | Messages { in_trailers: true, .. } => 0,
            _ => self.left,
        }
    }

    /// The messages that were seen whole; none where that cannot be told.
    pub fn count(&self) -> Option<u64> {
        (!self.is_lost).then_some(self.count)
    }

    /// The trailers of gRPC-Web, once they are whole.
    pub fn trailers(&self) -> Option<Trailers> {
        (self.is_ended && !self.trailers.is_empty()).then(|| trailer_fields(&self.trailers))
    }

    fn feed_plain(&mut self, mut data: &[u8]) {
        while !data.is_empty() && !self.is_lost && !self.is_ended {
            if self.left == 0 {
                let used = data.len().min(PREFIX - self.have);
                self.prefix[self.have..self.have + used].copy_from_slice(&data[..used]);
                self.have += used;
                data = &data[used..];
                if self.have == PREFIX {
                    self.begin_message();
                }
                continue;
            }
            let used = usize::try_from(self.left).unwrap_or(usize::MAX).min(data.len());
            if self.in_trailers {
                self.trailers.extend_from_slice(&data[..used]);
            }
            data = &data[used..];
            self.left -= used as u64;
            self.finish_message();
        }
    }

    fn begin_message(&mut self) {
        let [flags, length @ ..] = self.prefix;
        self.left = u32::from_be_bytes(length).into();
        self.in_trailers = flags & TRAILERS != 0;
        let is_known = flags & !(TRAILERS | COMPRESSED) == 0;
        if !is_known || self.in_trailers && self.left > MAX_TRAILERS as u64 {
            self.is_lost = true;
        }
        self.finish_message();
    }

    fn finish_message(&mut self) {
        if self.left > 0 || self.have < PREFIX {
            return;
        }
        self.have = 0;
        self.count += u64::from(!self.in_trailers);
        self.is_ended |= self.in_trailers;
    }
}

/// Base64 undone as it comes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Text {
    /// Of the group of four begun last.
    bits: u32,
    digits: u8,
    padding: u8,
}

impl Text {
    /// The bytes of the groups that are whole by now; none where this is no base64.
    fn undo(&mut self, data: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::with_capacity(data.len() / 4 * 3 + 3);
        for &byte in data {
            let value = match byte {
                b'A'..=b'Z' => byte - b'A',
                b'a'..=b'z' => byte - b'a' + 26,
                b'0'..=b'9' => byte - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                b'=' if self.digits >= 2 => {
                    self.padding += 1;
                    0
                }
                b'\r' | b'\n' => continue,
                _ => return None,
            };
            if self.padding > 0 && byte != b'=' {
                return None;
            }
            self.bits = self.bits << 6 | u32::from(value);
            self.digits += 1;
            if self.digits == 4 {
                let [_, bytes @ ..] = self.bits.to_be_bytes();
                out.extend_from_slice(&bytes[..3 - usize::from(self.padding)]);
                *self = Text::default();
            }
        }
        Some(out)
    }
}

/// Trailers written as HTTP/1 header lines, each with its line break.
fn trailer_fields(text: &[u8]) -> Trailers {
    let mut fields = Vec::new();
    let mut at = 0;
    for line in text.split(|&byte| byte == b'\n') {
        if let Some(colon) = line.iter().position(|&byte| byte == b':') {
            let span = |part: &[u8], start: usize| {
                let before = part.len() - part.trim_ascii_start().len();
                let len = part.trim_ascii().len();
                let start = at + start + if len == 0 { 0 } else { before };
                Span { start: start as u32, end: (start + len) as u32 }
            };
            fields.push((span(&line[..colon], 0), span(&line[colon + 1..], colon + 1)));
        }
        at += line.len() + 1;
    }
    Trailers { text: text.to_vec(), fields }
}

/// The form of a message, by its head.
pub fn form_of(head: &Head) -> Option<Form> {
    form(head.header("content-type")?)
}

/// A body with the coding of its messages (`grpc-encoding`) undone: each is written anew, with its own length and without
/// the flag. `limit`: the most bytes wanted. Not for base64.
pub fn undo_coding(coding: &[u8], body: &[u8], limit: usize) -> Decoded {
    let mut bytes = Vec::new();
    let mut rest = body;
    while let [flags, a, b, c, d, behind @ ..] = rest {
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        let room = limit.saturating_sub(bytes.len() + PREFIX);
        if behind.len() < length {
            return Decoded { bytes, outcome: Outcome::Short };
        }
        let (message, after) = behind.split_at(length);
        let is_coded = flags & COMPRESSED != 0 && flags & TRAILERS == 0;
        let plain = coding::decode(if is_coded { coding } else { b"identity" }, message, room);
        if plain.outcome != Outcome::Whole {
            return Decoded { bytes, outcome: plain.outcome };
        }
        bytes.push(flags & !COMPRESSED);
        bytes.extend_from_slice(&(plain.bytes.len() as u32).to_be_bytes());
        bytes.extend_from_slice(&plain.bytes);
        rest = after;
    }
    Decoded { bytes, outcome: if rest.is_empty() { Outcome::Whole } else { Outcome::Short } }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn framed(flags: u8, message: &[u8]) -> Vec<u8> {
        let mut out = vec![flags];
        out.extend_from_slice(&(message.len() as u32).to_be_bytes());
        out.extend_from_slice(message);
        out
    }

    #[test]
    fn content_types_announce_the_form() {
        for (content_type, expected) in [
            ("application/grpc", Some(Form::Grpc)),
            ("Application/gRPC+proto; charset=utf-8", Some(Form::Grpc)),
            ("application/grpc-web", Some(Form::Web)),
            ("application/grpc-web+json", Some(Form::Web)),
            ("application/grpc-web-text+proto", Some(Form::WebText)),
            ("application/grpc-website", None),
            ("application/grpcx", None),
            ("application/json", None),
        ] {
            assert_eq!(form(content_type.as_bytes()), expected, "{content_type}");
        }
    }

    #[test]
    fn a_path_names_service_and_method() {
        assert_eq!(called(b"/shop.v1.Cart/Add"), Some((&b"shop.v1.Cart"[..], &b"Add"[..])));
        assert_eq!(called(b"/prefix/shop.Cart/Add"), Some((&b"prefix/shop.Cart"[..], &b"Add"[..])));
        for path in ["", "/", "/Cart", "/Cart/", "//Add", "Cart/Add/"] {
            assert_eq!(called(path.as_bytes()), None, "{path}");
        }
    }

    #[test]
    fn messages_are_percent_decoded() {
        assert_eq!(message(b"no such cart: 100%25 %C3%A4%e2%82%ac"), "no such cart: 100% ä€".as_bytes());
        assert_eq!(message(b"50% off, %zz, %4"), b"50% off, %zz, %4");
    }

    #[test]
    fn statuses_are_numbers_with_names() {
        assert_eq!(status(b"5").and_then(status_name), Some("NOT_FOUND"));
        assert_eq!(status(b"16").and_then(status_name), Some("UNAUTHENTICATED"));
        assert_eq!((status(b"17"), status_name(17)), (Some(17), None));
        for wrong in ["", "-1", "+5", "x", "99999999999"] {
            assert_eq!(status(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn the_trailers_of_grpc_web_are_in_the_body() {
        let mut body = framed(0, b"hello");
        body.extend(framed(TRAILERS, b"grpc-status:5\r\ngrpc-message: no%20cart\r\n"));
        for (form, body) in [(Form::Web, body.clone()), (Form::WebText, STANDARD.encode(&body).into_bytes())] {
            let mut messages = Messages::new(form);
            messages.feed(&body);
            let trailers = messages.trailers().expect("they are whole");
            let fields: Vec<(&[u8], &[u8])> = trailers
                .fields
                .iter()
                .map(|(name, value)| (name.of(&trailers.text), value.of(&trailers.text)))
                .collect();
            assert_eq!(fields, [(&b"grpc-status"[..], &b"5"[..]), (b"grpc-message", b"no%20cart")]);
            assert_eq!(messages.count(), Some(1));
        }
    }

    #[test]
    fn what_is_no_framing_is_not_counted() {
        for body in [&b"{\"error\": \"none of gRPC's\"}"[..], b"\x02\0\0\0\0"] {
            let mut messages = Messages::new(Form::Grpc);
            messages.feed(body);
            assert_eq!(messages.count(), None);
        }
    }

    #[test]
    fn messages_are_shown_without_their_coding() {
        let gzip = |text: &[u8]| {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(text).and_then(|()| encoder.finish()).unwrap()
        };
        let body =
            [framed(COMPRESSED, &gzip(b"one one one")), framed(0, b"two"), framed(COMPRESSED, &gzip(b"3"))].concat();
        let expected = [framed(0, b"one one one"), framed(0, b"two"), framed(0, b"3")].concat();
        let undone = undo_coding(b"gzip", &body, 100);
        assert_eq!((undone.bytes, undone.outcome), (expected.clone(), Outcome::Whole));
        let undone = undo_coding(b"gzip", &body[..body.len() - 1], 100);
        assert_eq!((undone.bytes, undone.outcome), (expected[..24].to_vec(), Outcome::Short));
        assert_eq!(undo_coding(b"gzip", &body, 20).outcome, Outcome::Cut);
        assert_eq!(undo_coding(b"snappy", &body, 100).outcome, Outcome::Unknown);
        assert_eq!(undo_coding(b"gzip", &framed(COMPRESSED, b"this is no gzip at all"), 100).outcome, Outcome::Broken);
    }

    #[test]
    fn a_gap_inside_a_message_is_stepped_over() {
        let (first, second) = (framed(0, &[7; 100]), framed(1, b"x"));
        let mut messages = Messages::new(Form::Grpc);
        messages.feed(&first[..20]);
        messages.unseen(85);
        messages.feed(&second);
        assert_eq!(messages.count(), Some(2));
        messages.unseen(1);
        assert_eq!(messages.count(), None, "it may have been the start of a message");
    }

    proptest! {
        #[test]
        fn however_a_body_is_cut_it_has_the_same_messages(
            bodies in vec(vec(any::<u8>(), 0..40), 0..6),
            cuts in vec(0usize..400, 0..12),
            is_text in any::<bool>(),
        ) {
            // As clients write it: each message is a piece of its own, with padding.
            let pieces = bodies.iter().map(|body| framed(0, body));
            let body: Vec<u8> = match is_text {
                true => pieces.flat_map(|piece| STANDARD.encode(piece).into_bytes()).collect(),
                false => pieces.flatten().collect(),
            };
            let mut messages = Messages::new(if is_text { Form::WebText } else { Form::Grpc });
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(body.len())).collect();
            cuts.sort_unstable();
            cuts.push(body.len());
            let mut at = 0;
            for cut in cuts {
                messages.feed(&body[at..cut]);
                at = cut;
            }
            prop_assert_eq!(messages.count(), Some(bodies.len() as u64));
        }

        #[test]
        fn no_body_is_too_strange(pieces in vec((vec(any::<u8>(), 0..50), any::<u32>()), 0..8), form in 0..3) {
            let mut messages = Messages::new([Form::Grpc, Form::Web, Form::WebText][form as usize]);
            for (piece, gap) in &pieces {
                messages.feed(piece);
                messages.unseen((*gap).into());
                let undone = undo_coding(b"gzip", piece, 20);
                prop_assert!(undone.bytes.len() <= 20);
            }
            prop_assert!(messages.trailers().is_none_or(|trailers| trailers.text.len() <= MAX_TRAILERS));
        }
    }
}
