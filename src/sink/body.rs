//! Bodies as they are shown: within the limit, with their content coding undone.

use std::borrow::Cow;

use crate::exchange::Message;
use crate::proto::coding::Outcome;
use crate::proto::{Head, coding, grpc};
use crate::redact::Redact;

/// A body to show, and what is not right about it.
#[derive(Debug)]
pub(super) struct Shown<'a> {
    pub(super) bytes: Cow<'a, [u8]>,
    /// How undoing the content coding ended; none where there was none to undo.
    pub(super) coding: Option<Outcome>,
    /// The body is longer than the record may have, as kept or once its coding is undone: the first so many bytes are
    /// there.
    pub(super) truncated: Option<u64>,
    /// `bytes` end before the body does, for whatever reason.
    cut: bool,
}

impl<'a> Shown<'a> {
    /// The body as far as it was kept, at most `limit` bytes before and after undoing the coding, with what is to be
    /// masked in it masked.
    pub(super) fn new(message: &'a Message, limit: usize, redact: Option<&Redact>) -> Shown<'a> {
        let shown = Shown::unmasked(message, limit);
        let Some(redact) = redact.filter(|_| !shown.bytes.is_empty()) else { return shown };
        let content_type = message.head.header("content-type").unwrap_or_default();
        Shown { bytes: redact.body(content_type, shown.bytes), ..shown }
    }

    fn unmasked(message: &'a Message, limit: usize) -> Shown<'a> {
        let body = &message.body;
        let kept = &body.kept[..body.kept.len().min(limit)];
        let truncated = (kept.len() < body.kept.len()).then_some(limit as u64);
        let cut = (kept.len() as u64) < body.wire_bytes;
        let plain = Shown { bytes: Cow::Borrowed(kept), coding: None, truncated, cut };
        if kept.is_empty() {
            return plain;
        }
        let decoded = match (content_coding(&message.head), message_coding(message)) {
            (Some(coding), _) => coding::decode(&coding, kept, limit),
            (None, Some(coding)) => grpc::undo_coding(coding, kept, limit),
            (None, None) => return plain,
        };
        match decoded.outcome {
            // The wire's bytes say more than nothing does.
            Outcome::Unknown => Shown { coding: Some(Outcome::Unknown), ..plain },
            Outcome::Broken if decoded.bytes.is_empty() => Shown { coding: Some(Outcome::Broken), ..plain },
            // Cut on the wire already, and named as such.
            Outcome::Short if cut => Shown { bytes: Cow::Owned(decoded.bytes), ..plain },
            outcome => Shown {
                bytes: Cow::Owned(decoded.bytes),
                coding: Some(outcome),
                truncated: if outcome == Outcome::Cut { Some(limit as u64) } else { truncated },
                cut: cut || outcome != Outcome::Whole,
            },
        }
    }

    /// The body as text, where it is UTF-8. Where the body was cut, half a character at its end is left out.
    pub(super) fn text(&self) -> Option<&str> {
        match std::str::from_utf8(&self.bytes) {
            Ok(text) => Some(text),
            Err(error) if self.cut && error.error_len().is_none() => {
                std::str::from_utf8(&self.bytes[..error.valid_up_to()]).ok()
            }
            Err(_) => None,
        }
    }
}

/// Whether something that was kept of its body is coded.
pub(super) fn is_coded(message: &Message) -> bool {
    !message.body.kept.is_empty() && (content_coding(&message.head).is_some() || message_coding(message).is_some())
}

/// How the messages of gRPC in a body are coded; none where they are not, or are in base64.
fn message_coding(message: &Message) -> Option<&[u8]> {
    let coding = message.head.header("grpc-encoding").filter(|coding| !coding.eq_ignore_ascii_case(b"identity"))?;
    matches!(grpc::form_of(&message.head)?, grpc::Form::Grpc | grpc::Form::Web).then_some(coding)
}

/// The values of `Content-Encoding`, of all of its lines; none where they say that there is no coding.
fn content_coding(head: &Head) -> Option<Cow<'_, [u8]>> {
    let mut lines = head.values("content-encoding");
    let mut coding = Cow::Borrowed(lines.next()?);
    for line in lines {
        let all = coding.to_mut();
        all.extend_from_slice(b", ");
        all.extend_from_slice(line);
    }
    let none = coding.is_empty() || coding.eq_ignore_ascii_case(b"identity");
    (!none).then_some(coding)
}
