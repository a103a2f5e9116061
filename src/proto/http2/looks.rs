//! Whether bytes are HTTP/2: the start of a connection, or frames of one in progress.

use super::frame::{self, ACK, END_HEADERS, END_STREAM, FrameHead, HEAD, Kind, fragment};
use super::head::{Message, message};
use super::{Looks, PREFACE, Side, UNKNOWN, hpack};
use crate::proto::Head;

/// So many points are proof: see [`frames_at_start`].
pub const PROOF: u32 = 4;

/// Points of a frame with a body.
const DATA: u32 = 1;
/// Points of a frame of one certain length, whose content fits too.
const CONTROL: u32 = 2;
/// Points of a header block that ends where its frame does, with all its strings in order.
const BLOCK: u32 = 2;
/// Points of one that begins as the head of a message does.
const MESSAGE: u32 = 3;

/// Whether these bytes start a connection as a client does: with the preface.
pub fn looks_like_client(bytes: &[u8]) -> Looks {
    let seen = bytes.len().min(PREFACE.len());
    if bytes[..seen] != PREFACE[..seen] {
        return Looks::No;
    }
    if seen == PREFACE.len() { Looks::Yes } else { Looks::Maybe }
}

/// Whether these bytes start a connection as a server does: with SETTINGS (RFC 9113 section 3.4).
pub fn looks_like_server(bytes: &[u8]) -> Looks {
    // a short length, the type, no flag, and no stream
    const SHAPE: [Option<u8>; HEAD] = [Some(0), None, None, Some(4), Some(0), Some(0), Some(0), Some(0), Some(0)];
    let fits = |(byte, expected): (&u8, &Option<u8>)| expected.is_none_or(|expected| *byte == expected);
    if !bytes.iter().zip(&SHAPE).all(fits) {
        return Looks::No;
    }
    match FrameHead::parse(bytes) {
        None => Looks::Maybe,
        Some(head) if head.is_plausible(Side::Server) => Looks::Yes,
        Some(_) => Looks::No,
    }
}

/// Evidence that the first byte starts a frame of a connection in progress, as points for the plausible frames in a
/// row that are there as a whole. None where it cannot be.
///
/// [`PROOF`] is enough, be it in one direction, or of both taken together where each has some. One body frame has a
/// point, a head three, one of a request that says all it must has four, a small frame of another kind two.
pub fn frames_at_start(bytes: &[u8], side: Side) -> Option<u32> {
    let (mut rest, mut points, mut open) = (bytes, 0, None);
    while points < PROOF {
        let Some(head) = FrameHead::parse(rest) else { break };
        if !head.is_plausible(side) || !follows(&mut open, &head) {
            return None;
        }
        let Some(payload) = frame::payload(&head, rest) else { break };
        points += self::points(&head, payload, side)?;
        rest = &rest[HEAD + payload.len()..];
    }
    Some(points)
}

/// Whether a frame can stand where it does, `open` being the stream whose header block is not complete.
pub(super) fn follows(open: &mut Option<u32>, head: &FrameHead) -> bool {
    let fits = match head.kind {
        Kind::Continuation => *open == Some(head.stream),
        _ => open.is_none(),
    };
    let begins_block = matches!(head.kind, Kind::Headers | Kind::Promise | Kind::Continuation);
    *open = Some(head.stream).filter(|_| begins_block && !head.has(END_HEADERS));
    fits
}

/// The points of a plausible frame; none where its payload cannot be.
pub(super) fn points(head: &FrameHead, payload: &[u8], side: Side) -> Option<u32> {
    if !frame::is_plausible_payload(head, payload) {
        return None;
    }
    match head.kind {
        // nine bytes, nearly all of them zero, are found in many a file
        Kind::Data if payload.is_empty() && !head.has(END_STREAM) => Some(0),
        Kind::Settings if payload.is_empty() && !head.has(ACK) => Some(0),
        Kind::Data => Some(DATA),
        Kind::Headers | Kind::Promise => block_points(head, payload, side),
        Kind::Continuation => Some(0),
        Kind::Priority => Some(DATA),
        _ => Some(CONTROL),
    }
}

fn block_points(head: &FrameHead, payload: &[u8], side: Side) -> Option<u32> {
    let piece = fragment(head, payload).ok()?;
    if !head.has(END_HEADERS) {
        return Some(DATA);
    }
    let fields = hpack::Decoder::joined().decode(piece.block).ok()?;
    let is_name = |byte: &u8| byte.is_ascii_graphic() && !byte.is_ascii_uppercase();
    let is_value = |byte: &u8| *byte >= b' ' && *byte != 0x7f || *byte == b'\t';
    let texts = fields.fields.iter().map(|(name, value)| (name.of(&fields.text), value.of(&fields.text)));
    let mut texts =
        texts.map(|(name, value)| !name.is_empty() && name.iter().all(is_name) && value.iter().all(is_value));
    if fields.fields.is_empty() || !texts.all(|is_text| is_text) {
        return None;
    }
    let side = if head.kind == Kind::Promise { Side::Client } else { side };
    Some(match message(fields, side) {
        Message::Head(head) if is_whole_request(&head) => PROOF,
        Message::Head(head) if begins_message(&head) => MESSAGE,
        _ => BLOCK,
    })
}

/// Whether it has all that a request must have, method, scheme and path, none of them in doubt.
fn is_whole_request(head: &Head) -> bool {
    let is_known = |text: &[u8]| !text.is_empty() && text != UNKNOWN.as_bytes();
    is_known(head.method()) && is_known(head.scheme()) && is_known(head.target())
}

/// Whether one thing that only a message's head has is known.
fn begins_message(head: &Head) -> bool {
    let is_known = |text: &[u8]| !text.is_empty() && text != UNKNOWN.as_bytes();
    head.status() != 0 || is_known(head.method()) || is_known(head.scheme()) || is_known(head.target())
}
