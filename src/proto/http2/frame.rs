//! Frames (RFC 9113 sections 4 and 6): their heads, what each type may be, and the small ones whole.

use nom::bytes::complete::take;
use nom::combinator::map;
use nom::multi::fold_many0;
use nom::number::complete::{be_u8, be_u16, be_u24, be_u32};
use nom::{IResult, Parser};

use super::{Invalid, MAX_BLOCK, Settings, Side};

/// Bytes of a frame's head.
pub(super) const HEAD: usize = 9;
/// Bytes of one setting in a frame.
const SETTING: usize = 6;
/// The most settings in a frame. Senders have ten at most, beside what is made up to keep receivers tolerant.
const MAX_SETTINGS: usize = 256;

/// Flags (sections 6.1 to 6.10). END_STREAM's bit is ACK in SETTINGS and PING.
pub(super) const END_STREAM: u8 = 0x1;
pub(super) const ACK: u8 = 0x1;
pub(super) const END_HEADERS: u8 = 0x4;
pub(super) const PADDED: u8 = 0x8;
pub(super) const PRIORITY: u8 = 0x20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Data,
    Headers,
    Priority,
    Reset,
    Settings,
    Promise,
    Ping,
    GoAway,
    WindowUpdate,
    Continuation,
    /// One that an extension defines, to be stepped over (section 5.5).
    Unknown,
}

/// The head of a frame.
///
/// ```text
/// Length (24), Type (8), Flags (8), Reserved (1), Stream Identifier (31)
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrameHead {
    /// Of what is behind the head.
    pub length: usize,
    pub kind: Kind,
    pub flags: u8,
    pub stream: u32,
    /// The bit without a meaning, which senders leave out.
    pub is_reserved: bool,
}

type Parsed<'a, T> = IResult<&'a [u8], T, ()>;

impl FrameHead {
    /// The frame that `input` begins with; none while its head is not complete.
    pub(super) fn parse(input: &[u8]) -> Option<FrameHead> {
        let head: Parsed<'_, _> = (be_u24, be_u8, be_u8, be_u32).parse(input);
        let (_, (length, kind, flags, stream)) = head.ok()?;
        let is_reserved = stream >> 31 == 1;
        Some(FrameHead { length: length as usize, kind: kind.into(), flags, stream: stream & !(1 << 31), is_reserved })
    }

    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Whether the connection can go on with such a frame: what section 6 calls an error of the connection is refused.
    pub(super) fn check(&self) -> Result<(), Invalid> {
        let fits = match self.kind {
            Kind::Reset | Kind::WindowUpdate => self.length == 4,
            Kind::Settings if self.has(ACK) => self.length == 0,
            Kind::Settings => self.length.is_multiple_of(SETTING) && self.length <= SETTING * MAX_SETTINGS,
            Kind::Ping => self.length == 8,
            Kind::GoAway => self.length >= 8,
            Kind::Headers | Kind::Promise | Kind::Continuation => self.length <= MAX_BLOCK,
            // the wrong length of PRIORITY is an error of its stream
            Kind::Data | Kind::Priority | Kind::Unknown => true,
        };
        if !fits {
            return Err(Invalid::FrameSize);
        }
        let is_right = match self.kind {
            Kind::Settings | Kind::Ping | Kind::GoAway => self.stream == 0,
            Kind::WindowUpdate | Kind::Unknown => true,
            _ => self.stream != 0,
        };
        if is_right { Ok(()) } else { Err(Invalid::FrameStream) }
    }

    /// Whether a sender of today would begin a frame like this: what `check` asks for, no bits without a meaning, no
    /// more bytes than every receiver takes, and a stream of the right kind.
    pub(super) fn is_plausible(&self, side: Side) -> bool {
        let flags = match self.kind {
            Kind::Data => END_STREAM | PADDED,
            Kind::Headers => END_STREAM | END_HEADERS | PADDED | PRIORITY,
            Kind::Settings | Kind::Ping => ACK,
            Kind::Promise => END_HEADERS | PADDED,
            Kind::Continuation => END_HEADERS,
            Kind::Priority | Kind::Reset | Kind::GoAway | Kind::WindowUpdate => 0,
            Kind::Unknown => return false,
        };
        let is_from_client = self.stream % 2 == 1;
        let is_of_side = match (self.kind, side) {
            (Kind::Promise, Side::Client) => false,
            (Kind::Promise, Side::Server) => is_from_client,
            // a client answers no stream of the server's
            (Kind::Data | Kind::Headers | Kind::Continuation, Side::Client) => is_from_client,
            _ => true,
        };
        let length = match self.kind {
            Kind::Headers | Kind::Promise => 1..=USUAL_FRAME,
            Kind::Priority => 5..=5,
            _ => 0..=USUAL_FRAME,
        };
        !self.is_reserved
            && self.flags & !flags == 0
            && is_of_side
            && length.contains(&self.length)
            && self.check().is_ok()
    }
}

/// The longest frame where the receiver asked for no longer ones (section 4.2).
const USUAL_FRAME: usize = 1 << 14;

impl From<u8> for Kind {
    fn from(kind: u8) -> Kind {
        const KINDS: [Kind; 10] = [
            Kind::Data,
            Kind::Headers,
            Kind::Priority,
            Kind::Reset,
            Kind::Settings,
            Kind::Promise,
            Kind::Ping,
            Kind::GoAway,
            Kind::WindowUpdate,
            Kind::Continuation,
        ];
        KINDS.get(usize::from(kind)).copied().unwrap_or(Kind::Unknown)
    }
}

/// What a whole HEADERS, PUSH_PROMISE or CONTINUATION holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fragment<'a> {
    /// The stream promised; 0 in other frames.
    pub promised: u32,
    pub block: &'a [u8],
}

/// The payload of a frame with a piece of a header block (sections 6.2, 6.6 and 6.10).
pub(super) fn fragment<'a>(head: &FrameHead, payload: &'a [u8]) -> Result<Fragment<'a>, Invalid> {
    let mut rest = payload;
    if head.has(PADDED) && head.kind != Kind::Continuation {
        let (&padding, behind) = rest.split_first().ok_or(Invalid::Padding)?;
        let end = behind.len().checked_sub(usize::from(padding)).ok_or(Invalid::Padding)?;
        rest = &behind[..end];
    }
    if head.kind == Kind::Headers && head.has(PRIORITY) {
        rest = rest.get(5..).ok_or(Invalid::FrameSize)?;
    }
    if head.kind != Kind::Promise {
        return Ok(Fragment { promised: 0, block: rest });
    }
    match stream_id(rest) {
        Ok((_, 0)) => Err(Invalid::FrameStream),
        Ok((block, promised)) => Ok(Fragment { promised, block }),
        Err(_) => Err(Invalid::FrameSize),
    }
}

/// The payload of SETTINGS (section 6.5): the last of each that matters. Its length is a multiple of one setting's.
pub(super) fn settings(payload: &[u8]) -> Settings {
    const TABLE_SIZE: u16 = 1;
    const FRAME_SIZE: u16 = 5;
    let one = |mut settings: Settings, (id, value): (u16, u32)| {
        match id {
            TABLE_SIZE => settings.table_size = Some(value),
            FRAME_SIZE => settings.frame_size = Some(value),
            _ => {}
        }
        settings
    };
    let all: Parsed<'_, Settings> = fold_many0((be_u16, be_u32), Settings::default, one).parse(payload);
    all.map(|(_, settings)| settings).unwrap_or_default()
}

/// The error code of RST_STREAM (section 6.4).
pub(super) fn reset_code(payload: &[u8]) -> u32 {
    let code: Parsed<'_, u32> = be_u32(payload);
    code.map_or(0, |(_, code)| code)
}

/// The last stream and the error code of GOAWAY (section 6.8).
pub(super) fn go_away(payload: &[u8]) -> (u32, u32) {
    let both: Parsed<'_, (u32, u32)> = (stream_id, be_u32).parse(payload);
    both.map_or((0, 0), |(_, both)| both)
}

/// Whether the payload of a plausible frame is what a sender of today would put there.
pub(super) fn is_plausible_payload(head: &FrameHead, payload: &[u8]) -> bool {
    const LAST_CODE: u32 = 0xd;
    match head.kind {
        Kind::Reset => reset_code(payload) <= LAST_CODE,
        Kind::GoAway => go_away(payload).1 <= LAST_CODE,
        Kind::WindowUpdate => (1..1 << 31).contains(&reset_code(payload)),
        Kind::Settings => payload.chunks_exact(SETTING).all(is_plausible_setting),
        Kind::Data if head.has(PADDED) => match payload.split_first() {
            Some((&padding, rest)) => match rest.len().checked_sub(usize::from(padding)) {
                Some(data) => rest[data..].iter().all(|&byte| byte == 0),
                None => false,
            },
            None => false,
        },
        _ => true,
    }
}

/// Settings that are defined have values in their bounds (section 6.5.2, RFC 8441); others are rare.
fn is_plausible_setting(setting: &[u8]) -> bool {
    let parsed: Parsed<'_, (u16, u32)> = (be_u16, be_u32).parse(setting);
    let Ok((_, (id, value))) = parsed else { return false };
    match id {
        1 | 3 | 6 => true,
        2 | 8 | 9 => value <= 1,
        4 => value < 1 << 31,
        5 => (1 << 14..1 << 24).contains(&value),
        _ => false,
    }
}

fn stream_id(input: &[u8]) -> Parsed<'_, u32> {
    map(be_u32, |id| id & !(1 << 31)).parse(input)
}

/// The payload of a frame whose head was read; none while it is not complete.
pub(super) fn payload<'a>(head: &FrameHead, input: &'a [u8]) -> Option<&'a [u8]> {
    let parsed: Parsed<'_, (&[u8], &[u8])> = (take(HEAD), take(head.length)).parse(input);
    parsed.ok().map(|(_, (_, payload))| payload)
}
