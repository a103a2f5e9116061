//! The decoder of one direction: frame by frame, with header blocks put together and bodies handed out as they come.

use super::frame::{self, ACK, END_HEADERS, END_STREAM, FrameHead, HEAD, Kind, PADDED};
use super::head::{Message, message};
use super::search::{Search, Seen};
use super::{Finish, Invalid, Lost, MAX_BLOCK, MAX_FRAGMENTS, Missed, PREFACE, Side, Step, hpack};

/// Decodes one direction of a connection.
#[derive(Debug)]
pub struct Decoder {
    side: Side,
    state: State,
    /// The header block in the midst of which the direction is.
    block: Option<Block>,
    hpack: hpack::Decoder,
}

/// Where in the direction the decoder stands.
#[derive(Debug)]
enum State {
    /// Before the preface of a client.
    Preface,
    /// Before the first frame of a connection, which must be SETTINGS (RFC 9113 section 3.4).
    FirstFrame,
    /// Between frames.
    Frame,
    Data(Data),
    /// In so many bytes that say nothing.
    Skip(u64),
    /// Where frames begin is not known.
    Searching(Search),
    Invalid(Invalid),
}

/// In the payload of a DATA frame.
#[derive(Debug, Clone, Copy)]
struct Data {
    stream: u32,
    /// Body bytes still to come.
    left: u64,
    /// Bytes of padding behind them.
    padding: u64,
    /// The frame is the stream's last, and that was not told yet.
    ends_stream: bool,
}

/// The pieces of a header block that is not complete.
#[derive(Debug)]
struct Block {
    head: FrameHead,
    promised: u32,
    bytes: Vec<u8>,
    fragments: u32,
}

/// What one look at the input comes to.
enum Look<'a> {
    /// So many bytes say nothing.
    Used(usize),
    Told(Step<'a>),
    More,
}

impl Decoder {
    /// For what the client sends, from the preface on.
    pub fn client() -> Decoder {
        Decoder::new(Side::Client, State::Preface, hpack::Decoder::from_start())
    }

    /// For what the server sends, from its first SETTINGS on.
    pub fn server() -> Decoder {
        Decoder::new(Side::Server, State::FirstFrame, hpack::Decoder::from_start())
    }

    /// For a direction whose start was not seen: it looks for the first frame that can be proven.
    pub fn joined(side: Side) -> Decoder {
        Decoder::new(side, State::Searching(Search::new(side)), hpack::Decoder::joined())
    }

    /// The same where the next byte is known to start a frame: see [`frames_at_start`](super::frames_at_start).
    pub fn joined_at_frame(side: Side) -> Decoder {
        Decoder::new(side, State::Frame, hpack::Decoder::joined())
    }

    fn new(side: Side, state: State, hpack: hpack::Decoder) -> Decoder {
        Decoder { side, state, block: None, hpack }
    }

    /// What the direction holds next. `input`: all bytes not yet used, in order.
    pub fn step<'a>(&mut self, input: &'a [u8]) -> Step<'a> {
        let mut before = 0;
        loop {
            match self.look(&input[before..]) {
                Ok(Look::Used(used)) => before += used,
                Ok(Look::Told(step)) => return behind(step, before),
                Ok(Look::More) if before == 0 => return Step::More,
                Ok(Look::More) => return Step::Framing { used: before },
                Err(invalid) => {
                    self.state = State::Invalid(invalid);
                    return if before == 0 { Step::Invalid(invalid) } else { Step::Framing { used: before } };
                }
            }
        }
    }

    /// `n` bytes, behind all that was used, were not seen. Answers how many of them were body bytes of which stream.
    ///
    /// The payload of DATA, and what says nothing to a watcher, let them be stepped over as far as they reach.
    /// Elsewhere, and beyond, it is `Lost` and nothing changes: [`resync`](Decoder::resync) looks for the next frame.
    /// Where they reach to the end of the last DATA of a stream, the next step is a `Data` without bytes that says so.
    pub fn gap(&mut self, n: u64) -> Result<Missed, Lost> {
        match &mut self.state {
            State::Data(data) if n <= data.left + data.padding => {
                let body = n.min(data.left);
                data.left -= body;
                data.padding -= n - body;
                Ok(Missed { stream: data.stream, body })
            }
            State::Skip(left) if n <= *left => {
                *left -= n;
                Ok(Missed::default())
            }
            _ if n == 0 => Ok(Missed::default()),
            _ => Err(Lost),
        }
    }

    /// The direction ended here, and all bytes seen were used; bytes left over were cut.
    pub fn finish(&self) -> Finish {
        match self.state {
            _ if self.block.is_some() => Finish::Cut,
            State::Preface | State::FirstFrame | State::Frame => Finish::Clean,
            State::Data(Data { left: 0, padding: 0, .. }) | State::Skip(0) => Finish::Clean,
            State::Data(_) | State::Skip(_) | State::Searching(_) | State::Invalid(_) => Finish::Cut,
        }
    }

    /// How many body bytes certainly follow before there is anything to parse.
    pub fn certain_body(&self) -> u64 {
        if let State::Data(data) = &self.state { data.left } else { 0 }
    }

    /// The stream whose body those are; none where there are none.
    pub fn body_stream(&self) -> Option<u32> {
        if let State::Data(data) = &self.state { Some(data.stream).filter(|_| data.left > 0) } else { None }
    }

    /// Forgets the table of fields and looks for a frame that can be proven, from the next byte shown.
    pub fn resync(&mut self) {
        self.state = State::Searching(Search::new(self.side));
        self.block = None;
        self.hpack.forget();
    }

    /// Whether it still looks for the first frame after a join or a [`resync`](Decoder::resync).
    pub fn is_searching(&self) -> bool {
        matches!(self.state, State::Searching(_))
    }

    /// Whether the next byte starts a frame.
    pub fn at_frame(&self) -> bool {
        matches!(self.state, State::FirstFrame | State::Frame | State::Skip(0))
    }

    /// The other side lets the table be this large, in bytes: its
    /// [`Settings::table_size`](super::Settings::table_size).
    ///
    /// Only the largest limit told counts, and without one any size is taken: what the two directions say cannot be
    /// put in one order.
    pub fn set_table_limit(&mut self, limit: u32) {
        self.hpack.allow(limit);
    }

    /// Bytes of memory behind it.
    pub fn weight(&self) -> usize {
        let search = if let State::Searching(search) = &self.state { search.weight() } else { 0 };
        self.hpack.weight() + self.block.as_ref().map_or(0, |block| block.bytes.capacity()) + search
    }

    fn look<'a>(&mut self, input: &'a [u8]) -> Result<Look<'a>, Invalid> {
        match &mut self.state {
            State::Preface => self.preface(input),
            State::FirstFrame | State::Frame => self.frame(input),
            State::Data(data) => {
                let look = data.look(input);
                if data.is_told() {
                    self.state = State::Skip(data.padding);
                }
                Ok(look)
            }
            State::Skip(0) => {
                self.state = State::Frame;
                Ok(Look::Used(0))
            }
            State::Skip(_) if input.is_empty() => Ok(Look::More),
            State::Skip(left) => {
                let used = first(input, *left).len();
                *left -= used as u64;
                Ok(Look::Used(used))
            }
            State::Searching(search) => Ok(match search.look(input) {
                Seen::Nothing(0) => Look::More,
                Seen::Nothing(used) => Look::Used(used),
                Seen::Frame(used) => {
                    self.state = State::Frame;
                    Look::Used(used)
                }
            }),
            State::Invalid(invalid) => Err(*invalid),
        }
    }

    fn preface<'a>(&mut self, input: &[u8]) -> Result<Look<'a>, Invalid> {
        let seen = input.len().min(PREFACE.len());
        if input[..seen] != PREFACE[..seen] {
            return Err(Invalid::Preface);
        }
        if seen < PREFACE.len() {
            return Ok(Look::More);
        }
        self.state = State::FirstFrame;
        Ok(Look::Used(seen))
    }

    fn frame<'a>(&mut self, input: &'a [u8]) -> Result<Look<'a>, Invalid> {
        let Some(head) = FrameHead::parse(input) else { return Ok(Look::More) };
        head.check()?;
        if matches!(self.state, State::FirstFrame) && (head.kind != Kind::Settings || head.has(ACK)) {
            return Err(Invalid::Preface);
        }
        let is_continued = self.block.as_ref().map(|block| block.head.stream);
        let expected = (head.kind == Kind::Continuation).then_some(head.stream);
        if is_continued != expected {
            return Err(Invalid::FrameOrder);
        }
        let look = match head.kind {
            Kind::Data => self.data(&head, input)?,
            Kind::Headers | Kind::Promise | Kind::Continuation => match frame::payload(&head, input) {
                Some(payload) => self.fragment(head, payload)?,
                None => Look::More,
            },
            Kind::Reset | Kind::Settings => match frame::payload(&head, input) {
                Some(payload) => small(&head, payload),
                None => Look::More,
            },
            Kind::GoAway => self.go_away(&head, input),
            Kind::Priority | Kind::Ping | Kind::WindowUpdate | Kind::Unknown => {
                self.state = State::Skip(head.length as u64);
                Look::Used(HEAD)
            }
        };
        if matches!(self.state, State::FirstFrame) && !matches!(look, Look::More) {
            self.state = State::Frame;
        }
        Ok(look)
    }

    /// The head of DATA, with the length of its padding.
    fn data<'a>(&mut self, head: &FrameHead, input: &[u8]) -> Result<Look<'a>, Invalid> {
        let (mut used, mut left, mut padding) = (HEAD, head.length as u64, 0);
        if head.has(PADDED) {
            left = left.checked_sub(1).ok_or(Invalid::Padding)?;
            let Some(&length) = input.get(HEAD) else { return Ok(Look::More) };
            padding = u64::from(length);
            left = left.checked_sub(padding).ok_or(Invalid::Padding)?;
            used += 1;
        }
        let data = Data { stream: head.stream, left, padding, ends_stream: head.has(END_STREAM) };
        self.state = if data.is_told() { State::Skip(padding) } else { State::Data(data) };
        Ok(Look::Used(used))
    }

    /// What GOAWAY says, without the text for humans behind it.
    fn go_away<'a>(&mut self, head: &FrameHead, input: &[u8]) -> Look<'a> {
        const TOLD: usize = 8;
        let Some(payload) = input.get(HEAD..HEAD + TOLD) else { return Look::More };
        let (last_stream, code) = frame::go_away(payload);
        self.state = State::Skip((head.length - TOLD) as u64);
        Look::Told(Step::GoAway { last_stream, code, used: HEAD + TOLD })
    }

    /// A piece of a header block: the first, which may be the only one, or a further one.
    fn fragment<'a>(&mut self, head: FrameHead, payload: &[u8]) -> Result<Look<'a>, Invalid> {
        let used = HEAD + payload.len();
        let piece = frame::fragment(&head, payload)?;
        let is_last = head.has(END_HEADERS);
        let Some(mut block) = self.block.take() else {
            if is_last {
                return self.message(&head, piece.promised, piece.block, used);
            }
            self.block = Some(Block { head, promised: piece.promised, bytes: piece.block.to_vec(), fragments: 1 });
            return Ok(Look::Used(used));
        };
        block.fragments += 1;
        if block.bytes.len() + piece.block.len() > MAX_BLOCK || block.fragments > MAX_FRAGMENTS {
            return Err(Invalid::HeadTooLarge);
        }
        block.bytes.extend_from_slice(piece.block);
        if is_last {
            return self.message(&block.head, block.promised, &block.bytes, used);
        }
        self.block = Some(block);
        Ok(Look::Used(used))
    }

    /// The message that a whole header block stands for.
    fn message<'a>(
        &mut self,
        first: &FrameHead,
        promised: u32,
        block: &[u8],
        used: usize,
    ) -> Result<Look<'a>, Invalid> {
        let fields = self.hpack.decode(block).map_err(|error| match error {
            hpack::Error::Malformed => Invalid::HeaderBlock,
            hpack::Error::TooLarge => Invalid::HeadTooLarge,
        })?;
        let (stream, end_stream, complete) = (first.stream, first.has(END_STREAM), fields.unknown.is_none());
        let is_promise = first.kind == Kind::Promise;
        let side = if is_promise { Side::Client } else { self.side };
        Ok(Look::Told(match message(fields, side) {
            Message::Head(head) if is_promise => Step::Promise { stream, promised, head, complete, used },
            Message::Head(head) => Step::Head { stream, head, end_stream, complete, used },
            // a promise of nothing is an error of the promised stream
            Message::Trailers(_) if is_promise => Step::Framing { used },
            Message::Trailers(trailers) => Step::Trailers { stream, trailers, complete, used },
        }))
    }
}

impl Data {
    /// Whether all of the body in the frame was told, its end included.
    fn is_told(&self) -> bool {
        self.left == 0 && !self.ends_stream
    }

    fn look<'a>(&mut self, input: &'a [u8]) -> Look<'a> {
        if input.is_empty() && self.left > 0 {
            return Look::More;
        }
        let data = first(input, self.left);
        self.left -= data.len() as u64;
        let end_stream = self.left == 0 && std::mem::take(&mut self.ends_stream);
        Look::Told(Step::Data { stream: self.stream, data, end_stream, used: data.len() })
    }
}

/// RST_STREAM or SETTINGS.
fn small<'a>(head: &FrameHead, payload: &[u8]) -> Look<'a> {
    let used = HEAD + payload.len();
    match head.kind {
        Kind::Reset => Look::Told(Step::Reset { stream: head.stream, code: frame::reset_code(payload), used }),
        _ if head.has(ACK) => Look::Used(used),
        _ => Look::Told(Step::Settings { settings: frame::settings(payload), used }),
    }
}

/// A step that `before` bytes without meaning precede.
fn behind(mut step: Step<'_>, before: usize) -> Step<'_> {
    match &mut step {
        Step::Head { used, .. }
        | Step::Trailers { used, .. }
        | Step::Data { used, .. }
        | Step::Reset { used, .. }
        | Step::GoAway { used, .. }
        | Step::Settings { used, .. }
        | Step::Promise { used, .. }
        | Step::Framing { used } => *used += before,
        Step::More | Step::Invalid(_) => {}
    }
    step
}

/// The first `n` bytes, or as many as there are.
fn first(input: &[u8], n: u64) -> &[u8] {
    let n = usize::try_from(n).unwrap_or(usize::MAX).min(input.len());
    &input[..n]
}
