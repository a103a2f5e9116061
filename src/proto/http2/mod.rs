//! HTTP/2 (RFC 9113), one direction of a connection at a time.
//!
//! Owns the framing and the header compression: which bytes are whose body, and what a header block says. It knows
//! no more of streams than framing needs, so that its memory does not grow with them: whether a stream is open, what
//! answers what, and which interim head or trailers belong where is `exchange`'s work.
//!
//! # How it is used
//!
//! One [`Decoder`] a direction. The caller keeps the bytes not yet used, shows them with more behind them, and calls
//! [`step`](Decoder::step) until it answers `More` or `Invalid`. Unseen bytes go to [`gap`](Decoder::gap).
//!
//! | connection | decoder |
//! |---|---|
//! | seen from its start, after an upgrade (101) too | [`Decoder::client`] and [`Decoder::server`] |
//! | joined, and the first byte is known to start a frame | [`Decoder::joined_at_frame`] |
//! | joined anywhere | [`Decoder::joined`]: it finds the first frame by itself |
//! | `Lost` or `Invalid` | [`Decoder::resync`]: as joined anywhere |
//!
//! # What is known of a connection joined midway
//!
//! A header block refers to fields of earlier blocks by how many were added since. What was added since the join is
//! therefore exact. What was added before reads [`UNKNOWN`], and the head says `complete: false`. A name that is not
//! known has the value that was sent, where it was sent. No other value ever stands in for what is not known.
//!
//! # What it takes that senders must not send
//!
//! A watcher cannot refuse a message, see [`http1`](super::http1). What is an error of one stream only (a malformed
//! head, RFC 9113 section 8.1.1) is told as it was sent: the peer's RST_STREAM tells the rest. What is an error of the
//! connection is `Invalid`, where it leaves in doubt what follows.

mod decoder;
mod frame;
mod head;
pub mod hpack;
mod looks;
#[cfg(test)]
mod properties;
mod search;
#[cfg(test)]
mod tests;

pub use decoder::Decoder;
pub use head::may_be_trailers;
pub use looks::{PROOF, frames_at_start, looks_like_client, looks_like_server};

pub use super::http1::Looks;
use super::{Head, Trailers};

/// Stands for a name or a value that was sent before the connection was joined.
pub const UNKNOWN: &str = "<unknown>";
/// What a client sends first.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The longest header block, in bytes as sent and in bytes of text.
pub const MAX_BLOCK: usize = 1 << 20;
/// The most fields in a header block.
pub const MAX_FIELDS: usize = 1 << 14;
/// The most frames one header block may be cut into.
pub const MAX_FRAGMENTS: u32 = 1 << 10;

/// Which peer's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Client,
    Server,
}

/// What a direction holds next. `used` bytes are done with; the rest is shown again with more behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step<'a> {
    /// The head of a message, also an interim one (1xx), which is not the last of its stream.
    ///
    /// A block that may be a head or trailers, for all that is known of it, comes as a head that [`may_be_trailers`]:
    /// where the stream had its head, [`into_trailers`] makes trailers of it.
    Head { stream: u32, head: Head, end_stream: bool, complete: bool, used: usize },
    /// The fields behind a body, or of a block without pseudo-headers. They end the stream in this direction.
    Trailers { stream: u32, trailers: Trailers, complete: bool, used: usize },
    /// Body bytes without their padding, as they come. `end_stream`: they are the last, and may be none.
    Data { stream: u32, data: &'a [u8], end_stream: bool, used: usize },
    /// The sender gave the stream up, in both directions (RST_STREAM). `code`: see [`error_name`].
    Reset { stream: u32, code: u32, used: usize },
    /// The sender takes no stream above `last_stream` (GOAWAY).
    GoAway { last_stream: u32, code: u32, used: usize },
    /// What the sender asks of the other direction.
    Settings { settings: Settings, used: usize },
    /// The server promises to answer a request nobody sent, on stream `promised` (PUSH_PROMISE).
    Promise { stream: u32, promised: u32, head: Head, complete: bool, used: usize },
    /// Bytes that say nothing to a watcher, or that belong to no frame found.
    Framing { used: usize },
    /// Nothing can be said before more bytes are there.
    More,
    /// These bytes are no HTTP/2. The answer stays the same until [`resync`](Decoder::resync).
    Invalid(Invalid),
}

impl Step<'_> {
    /// How many bytes are done with.
    pub fn used(&self) -> usize {
        match *self {
            Step::Head { used, .. }
            | Step::Trailers { used, .. }
            | Step::Data { used, .. }
            | Step::Reset { used, .. }
            | Step::GoAway { used, .. }
            | Step::Settings { used, .. }
            | Step::Promise { used, .. }
            | Step::Framing { used } => used,
            Step::More | Step::Invalid(_) => 0,
        }
    }
}

/// The settings that matter to the decoder of the other direction; none where they were not in the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Settings {
    /// How large the other side may make its table (SETTINGS_HEADER_TABLE_SIZE): for
    /// [`set_table_limit`](Decoder::set_table_limit).
    pub table_size: Option<u32>,
    /// The longest frame the other side may send (SETTINGS_MAX_FRAME_SIZE).
    pub frame_size: Option<u32>,
}

/// Unseen bytes that were stepped over: how many of them were body bytes, and whose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Missed {
    /// 0 where no body was open.
    pub stream: u32,
    pub body: u64,
}

/// So many unseen bytes cannot be stepped over: where the next frame starts is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost;

/// What the end of the direction means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// It came between frames.
    Clean,
    /// It came in the midst of a frame or of a header block.
    Cut,
}

/// Why bytes are no HTTP/2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Invalid {
    /// The connection does not begin as HTTP/2 does (RFC 9113 section 3.4).
    Preface,
    /// A frame's length is not one its type can have, or is beyond what is kept of such a frame.
    FrameSize,
    /// A frame on a stream that its type cannot be on.
    FrameStream,
    /// Another frame in the midst of a header block, or the rest of one that was not begun.
    FrameOrder,
    /// More padding than frame.
    Padding,
    /// The header block breaks the rules of HPACK.
    HeaderBlock,
    /// The header block is beyond [`MAX_BLOCK`], [`MAX_FIELDS`] or [`MAX_FRAGMENTS`].
    HeadTooLarge,
}

/// A head that [`may_be_trailers`] and is.
pub fn into_trailers(head: Head) -> Trailers {
    Trailers { text: head.text, fields: head.fields }
}

/// The name of an error code (RFC 9113 section 7), as `CANCEL`; none for one that has none.
pub fn error_name(code: u32) -> Option<&'static str> {
    const NAMES: [&str; 14] = [
        "NO_ERROR",
        "PROTOCOL_ERROR",
        "INTERNAL_ERROR",
        "FLOW_CONTROL_ERROR",
        "SETTINGS_TIMEOUT",
        "STREAM_CLOSED",
        "FRAME_SIZE_ERROR",
        "REFUSED_STREAM",
        "CANCEL",
        "COMPRESSION_ERROR",
        "CONNECT_ERROR",
        "ENHANCE_YOUR_CALM",
        "INADEQUATE_SECURITY",
        "HTTP_1_1_REQUIRED",
    ];
    NAMES.get(usize::try_from(code).ok()?).copied()
}
