//! Pairing on an HTTP/2 connection: request and response share a stream (RFC 9113 section 8.1).
//!
//! Owns the two decoders and the streams that are open. The directions come through different CPUs, so a response may be
//! taken in before its request: what looks strange only because of that waits until time has settled it.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use super::pairing::{Gap, Host, Open, Side, State};
use super::{Connection, Message, Missing, Nanos, Protocol, StreamInfo};
use crate::proto::http2::{self, Decoder, Step, into_trailers, may_be_trailers};
use crate::proto::{Head, Trailers};

/// Streams open at once on one connection; for one more, the oldest is handed out as it is.
const MAX_OPEN: usize = 10_000;
/// The same for the bytes of their heads while memory is short.
const MAX_HEADS_WHEN_FULL: usize = 1 << 20;

#[derive(Debug)]
struct Lane {
    decoder: Decoder,
    /// Bytes not yet used: of a frame that is not complete.
    buffer: Vec<u8>,
    /// When the first and the last byte of `buffer` came.
    since: Nanos,
    latest: Nanos,
}

impl Lane {
    fn new(decoder: Decoder) -> Lane {
        Lane { decoder, buffer: Vec::new(), since: 0, latest: 0 }
    }
}

#[derive(Debug)]
struct Stream {
    /// Its exchange has an id once it was reported while open.
    open: Open,
    /// Nothing of it follows: it goes out once all that came before is taken in.
    over: Option<Nanos>,
    /// The block taken for the response's head had no status, so that another one may be it.
    is_unsure: bool,
    /// Of the request and of the response: since when nothing was heard of it after bytes of its side were lost, its end
    /// perhaps among them. A frame that comes behind them says that it was not.
    silent: [Option<Nanos>; 2],
}

/// HTTP/2 on one connection.
#[derive(Debug)]
pub struct Http2 {
    request: Lane,
    response: Lane,
    streams: BTreeMap<u32, Stream>,
    /// When which of `streams` were over; some may be gone.
    leaving: VecDeque<(Nanos, u32)>,
    /// Bytes of the heads in `streams`.
    heads: usize,
    /// The last stream that the client began, as far as it was seen.
    newest: u32,
    /// Streams whose requests may have gone by unseen.
    unseen: Range<u32>,
    /// The code of the server's last GOAWAY.
    goaway: Option<u32>,
    state: State,
}

impl Http2 {
    /// Of a connection that is seen from its start.
    pub fn new() -> Http2 {
        Http2::with(Decoder::client(), Decoder::server(), 0..0)
    }

    /// Of one that was joined midway. `at_frame`: whether the first byte of requests and responses starts a frame.
    pub fn joined(at_frame: [bool; 2]) -> Http2 {
        let decoder = |side, at_frame| if at_frame { Decoder::joined_at_frame(side) } else { Decoder::joined(side) };
        let client = decoder(http2::Side::Client, at_frame[0]);
        Http2::with(client, decoder(http2::Side::Server, at_frame[1]), 0..u32::MAX)
    }

    /// After an upgrade (101) from HTTP/1: the request that asked for it is stream 1 (RFC 7540 section 3.2).
    pub(super) fn upgraded(request: Option<Open>) -> Http2 {
        let mut http = Http2::new();
        http.newest = 1;
        if let Some(mut open) = request {
            http.heads = open.heads();
            open.exchange.protocol = Protocol::Http2;
            http.streams.insert(1, Stream::with(open, 1));
        }
        http
    }

    fn with(client: Decoder, server: Decoder, unseen: Range<u32>) -> Http2 {
        Http2 {
            request: Lane::new(client),
            response: Lane::new(server),
            streams: BTreeMap::new(),
            leaving: VecDeque::new(),
            heads: 0,
            newest: 0,
            unseen,
            goaway: None,
            state: State::Http,
        }
    }

    pub fn state(&self) -> State {
        self.state
    }

    /// Bytes held that are not of bodies.
    pub fn held(&self) -> usize {
        let lane = |lane: &Lane| lane.buffer.capacity() + lane.decoder.weight();
        self.heads
            + self.streams.len() * size_of::<Stream>()
            + self.leaving.len() * size_of::<(Nanos, u32)>()
            + lane(&self.request)
            + lane(&self.response)
    }

    /// Whether it is known where frames of this side start.
    pub fn is_synced(&self, side: Side) -> bool {
        !self.lane(side).decoder.is_searching()
    }

    /// Whether streams wait for time to settle what came before their end.
    pub fn is_waiting(&self) -> bool {
        !self.leaving.is_empty()
    }

    /// Body bytes of this side that will follow for sure and that nobody wants.
    pub fn unwanted(&self, side: Side) -> u64 {
        let lane = self.lane(side);
        let certain = lane.decoder.certain_body();
        let Some(id) = lane.decoder.body_stream().filter(|_| certain > 0 && lane.buffer.is_empty()) else { return 0 };
        match self.streams.get(&id) {
            Some(stream) if stream.over.is_none() => stream.open.unwanted(side, certain),
            _ => 0,
        }
    }

    /// Takes bytes, all of them: what cannot be used yet is kept.
    pub fn bytes(
        &mut self,
        host: &mut dyn Host,
        connection: &Arc<Connection>,
        side: Side,
        (data, time, call_start): (&[u8], Nanos, bool),
    ) {
        if self.state == State::NotHttp {
            return;
        }
        if call_start && self.starts_frame(side, data) {
            let lane = self.lane_mut(side);
            *lane = Lane::new(Decoder::joined_at_frame(side_of(side)));
        }
        let lane = self.lane_mut(side);
        lane.latest = time;
        if lane.buffer.is_empty() {
            let used = self.run(host, connection, side, data, (0, time));
            let lane = self.lane_mut(side);
            if used < data.len() {
                lane.buffer.extend_from_slice(&data[used..]);
                lane.since = time;
            }
            return;
        }
        let old = lane.buffer.len();
        lane.buffer.extend_from_slice(data);
        let mut buffer = std::mem::take(&mut lane.buffer);
        let since = lane.since;
        let used = self.run(host, connection, side, &buffer, (old, since));
        if used == buffer.len() {
            // Also gives back the room that a long block took.
            return;
        }
        buffer.drain(..used);
        let lane = self.lane_mut(side);
        if used >= old {
            lane.since = time;
        }
        lane.buffer = buffer;
    }

    /// Bytes of this side went by unseen.
    pub fn unseen(&mut self, host: &mut dyn Host, connection: &Arc<Connection>, side: Side, gap: Gap) {
        if self.state == State::NotHttp {
            return;
        }
        let lane = self.lane_mut(side);
        lane.latest = gap.time;
        let inside = if lane.buffer.is_empty() { gap.len.min(lane.decoder.certain_body()) } else { 0 };
        // Padding and what says nothing can be stepped over beside body bytes.
        let whole = if lane.buffer.is_empty() { lane.decoder.gap(gap.len) } else { Err(http2::Lost) };
        let is_lost = whole.is_err();
        if let Ok(missed) = whole.or_else(|lost| if inside > 0 { lane.decoder.gap(inside) } else { Err(lost) }) {
            if let Some(stream) = self.streams.get_mut(&missed.stream) {
                stream.open.count_unseen(side, missed.body, gap.why, gap.time);
            }
            // The message may end here.
            self.run(host, connection, side, &[], (0, gap.time));
        }
        if is_lost {
            self.lose_sync(side);
        }
    }

    /// No byte of this side follows: what is open shows at the connection's end.
    pub fn end(&mut self, side: Side) {
        self.lane_mut(side).buffer = Vec::new();
    }

    /// The connection is gone, or the agent stops (`stopping`): hands out what is open, marked.
    pub fn close(&mut self, host: &mut dyn Host, connection: &Arc<Connection>, stopping: bool) {
        let goaway = self.goaway.filter(|&code| code != 0);
        while let Some((_, mut stream)) = self.streams.pop_first() {
            if stream.over.is_none() && stopping {
                stream.open.miss(Missing::AgentStopped);
            }
            if let Some(code) = goaway.filter(|_| stream.over.is_none()) {
                stream.open.miss(Missing::GoAway(code));
            }
            self.hand_out(host, connection, stream);
        }
        self.request.buffer = Vec::new();
        self.response.buffer = Vec::new();
    }

    /// Hands out the streams that nothing can be added to any more. `settled`: all that happened before was taken in.
    pub fn settle(&mut self, host: &mut dyn Host, connection: &Arc<Connection>, settled: Nanos) {
        while let Some(&(_, id)) = self.leaving.front().filter(|(time, _)| *time <= settled) {
            self.leaving.pop_front();
            if self.streams.get(&id).is_some_and(|stream| stream.over.is_some()) {
                self.finish(host, connection, id);
            }
        }
    }

    /// Tells of gRPC calls that began before that time and go on.
    pub fn report_open(&mut self, host: &mut dyn Host, connection: &Arc<Connection>, before: Nanos) {
        for stream in self.streams.values_mut() {
            if stream.over.is_some() || stream.open.began > before || !stream.open.is_grpc() {
                continue;
            }
            stream.open.exchange.id = host.still_open(stream.open.report(connection));
        }
    }

    /// Hands out the streams of whose responses nothing was heard since bytes were lost before that time: the end of them
    /// was most likely among these.
    pub fn give_up(&mut self, host: &mut dyn Host, connection: &Arc<Connection>, before: Nanos) {
        let is_silent = |stream: &Stream| {
            stream.silent[Side::Response as usize].is_some_and(|since| since <= before) && stream.has_asked()
        };
        let silent = self.streams.iter().filter(|(_, stream)| is_silent(stream));
        for id in silent.map(|(&id, _)| id).collect::<Vec<_>>() {
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.take_as_ended();
            }
            self.finish(host, connection, id);
        }
    }

    /// Gives up the bodies kept so far; what they leave is marked. Answers how many bytes that frees.
    pub fn drop_bodies(&mut self) -> usize {
        self.streams.values_mut().map(|stream| stream.open.drop_bodies()).sum()
    }

    /// When the oldest open exchange with a body began.
    pub fn oldest_body(&self) -> Option<Nanos> {
        let with_body = self.streams.values().filter(|stream| stream.open.kept() > 0);
        with_body.map(|stream| stream.open.began).min()
    }

    fn lane(&self, side: Side) -> &Lane {
        match side {
            Side::Request => &self.request,
            Side::Response => &self.response,
        }
    }

    fn lane_mut(&mut self, side: Side) -> &mut Lane {
        match side {
            Side::Request => &mut self.request,
            Side::Response => &mut self.response,
        }
    }

    /// Whether this call starts with a frame, of a side that has no proof of its own: the other side's will do.
    fn starts_frame(&self, side: Side, data: &[u8]) -> bool {
        let other = match side {
            Side::Request => Side::Response,
            Side::Response => Side::Request,
        };
        !self.is_synced(side)
            && self.is_synced(other)
            && http2::frames_at_start(data, side_of(side)).is_some_and(|points| points > 0)
    }

    /// Decodes as far as it goes; answers how many bytes were used. The first `old` bytes came at `since`, the others
    /// just now.
    fn run(
        &mut self,
        host: &mut dyn Host,
        connection: &Arc<Connection>,
        side: Side,
        input: &[u8],
        (old, since): (usize, Nanos),
    ) -> usize {
        let mut at = 0;
        loop {
            let lane = self.lane_mut(side);
            let latest = lane.latest;
            let began = if at < old { since } else { latest };
            match lane.decoder.step(&input[at..]) {
                Step::Head { stream, head, end_stream, complete, used } => {
                    at += used;
                    let block = Block { head, complete, end_stream, began };
                    match side {
                        Side::Request => self.request_head(host, connection, stream, block),
                        Side::Response => self.response_head(host, connection, stream, block),
                    }
                }
                Step::Trailers { stream, trailers, complete, used } => {
                    at += used;
                    self.trailers(host, connection, side, stream, (trailers, complete));
                }
                Step::Data { stream, data, end_stream, used } => {
                    at += used;
                    self.data(host, connection, side, stream, (data, end_stream));
                }
                Step::Reset { stream, code, used } => {
                    at += used;
                    self.reset(host, connection, side, stream, code);
                }
                Step::GoAway { last_stream, code, used } => {
                    at += used;
                    self.go_away(side, last_stream, code);
                }
                Step::Settings { settings, used } => {
                    at += used;
                    if let Some(size) = settings.table_size {
                        let other = if side == Side::Request { Side::Response } else { Side::Request };
                        self.lane_mut(other).decoder.set_table_limit(size);
                    }
                }
                Step::Promise { stream: _, promised, head, complete, used } => {
                    at += used;
                    let block = Block { head, complete, end_stream: true, began };
                    self.promise(host, connection, promised, block);
                }
                Step::Framing { used } => at += used,
                Step::More => return at,
                Step::Invalid(http2::Invalid::Preface) => {
                    self.state = State::NotHttp;
                    return input.len();
                }
                Step::Invalid(_) => {
                    self.lose_sync(side);
                    return input.len();
                }
            }
        }
    }

    fn request_head(&mut self, host: &mut dyn Host, connection: &Arc<Connection>, id: u32, block: Block) {
        if let Some(stream) = self.streams.get(&id)
            && stream.open.exchange.request.is_some()
        {
            let complete = block.complete;
            return self.trailers(host, connection, Side::Request, id, (into_trailers(block.head), complete));
        }
        let is_new = id > self.newest && (self.newest > 0 || !may_be_trailers(&block.head));
        if !is_new && !self.streams.contains_key(&id) {
            // Of a stream that was given up, or was open at the join.
            return;
        }
        if is_new {
            self.newest = id;
            self.unseen.end = self.unseen.end.min(id);
            self.make_room(host, connection);
        }
        self.begin(host, connection, id, block);
        let stream = self.streams.get_mut(&id).expect("it was just inserted");
        if stream.open.response_done && stream.open.request_done {
            self.finish(host, connection, id);
        } else if stream.open.exchange.response.is_some() {
            self.leave_http(host, connection, id);
        }
    }

    /// The request of a stream is there.
    fn begin(&mut self, host: &mut dyn Host, connection: &Arc<Connection>, id: u32, block: Block) {
        let latest = self.request.latest;
        let stream = self.streams.entry(id).or_insert_with(|| Stream::new(connection, id));
        let open = &mut stream.open;
        open.began = block.began;
        let head = block.head;
        if !block.complete {
            open.miss(Missing::RequestHeadersUnknown);
        }
        self.heads += head.weight();
        open.wanted = host.wanted(Some(&head), open.exchange.response.as_ref().map(|response| &response.head));
        open.exchange.request = Some(Message::begin(head, block.began, latest));
        open.request_done = block.end_stream;
        // A response that came before waited for this.
        if stream.over.is_some() && !stream.is_reset() {
            stream.over = None;
        }
    }

    fn promise(&mut self, host: &mut dyn Host, connection: &Arc<Connection>, id: u32, block: Block) {
        if self.streams.contains_key(&id) {
            return;
        }
        self.make_room(host, connection);
        self.begin(host, connection, id, block);
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.open.exchange.stream = Some(StreamInfo { id, pushed: true });
        }
    }

    fn response_head(&mut self, host: &mut dyn Host, connection: &Arc<Connection>, id: u32, block: Block) {
        // An interim response answers nothing (RFC 9110 section 15.2).
        if (100..200).contains(&block.head.status()) {
            return;
        }
        let latest = self.response.latest;
        match self.streams.get(&id) {
            Some(stream)
                if stream.open.exchange.response.is_some() && (!stream.is_unsure || may_be_trailers(&block.head)) =>
            {
                let complete = block.complete;
                return self.trailers(host, connection, Side::Response, id, (into_trailers(block.head), complete));
            }
            Some(_) => {}
            // Nothing says that these are no trailers of a response that began before the join.
            None if may_be_trailers(&block.head) && block.end_stream && id <= self.newest => return,
            None if !self.may_be_open(id) => return,
            None => self.make_room(host, connection),
        }
        let stream = self.streams.entry(id).or_insert_with(|| Stream::new(connection, id));
        let open = &mut stream.open;
        if open.is_empty() {
            open.began = block.began;
        }
        stream.silent[Side::Response as usize] = None;
        stream.is_unsure = may_be_trailers(&block.head) && !block.end_stream;
        if !block.complete {
            open.miss(Missing::ResponseHeadersUnknown);
        }
        if let Some(before) = open.exchange.response.take() {
            self.heads = self.heads.saturating_sub(before.head.weight());
            host.release(before.body.kept.len());
        }
        self.heads += block.head.weight();
        open.begin_response(host, block.head, block.began, latest);
        if block.end_stream {
            self.side_done(host, connection, Side::Response, id);
        } else {
            self.leave_http(host, connection, id);
        }
    }

    /// A CONNECT that was granted is a tunnel from here on (RFC 9113 section 8.5, RFC 8441).
    fn leave_http(&mut self, host: &mut dyn Host, connection: &Arc<Connection>, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let open = &mut stream.open;
        let status = open.exchange.response.as_ref().map_or(0, |response| response.head.status());
        if open.is_connect() && (200..300).contains(&status) {
            (open.request_done, open.response_done) = (true, true);
            self.finish(host, connection, id);
        }
    }

    fn trailers(
        &mut self,
        host: &mut dyn Host,
        connection: &Arc<Connection>,
        side: Side,
        id: u32,
        (trailers, complete): (Trailers, bool),
    ) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let Some(message) = stream.open.message(side) else { return };
        message.trailers = Some(trailers);
        if !complete {
            stream.open.miss(match side {
                Side::Request => Missing::RequestHeadersUnknown,
                Side::Response => Missing::ResponseHeadersUnknown,
            });
        }
        self.side_done(host, connection, side, id);
    }

    fn data(
        &mut self,
        host: &mut dyn Host,
        connection: &Arc<Connection>,
        side: Side,
        id: u32,
        (data, end_stream): (&[u8], bool),
    ) {
        let latest = self.lane(side).latest;
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.open.message(side).is_none() {
            // Its head went by unseen, or is still to come.
            return;
        }
        // What a CONNECT sends is no body.
        if side == Side::Response || !stream.open.is_connect() {
            stream.open.keep(host, side, data, latest);
        }
        stream.is_unsure = false;
        stream.silent[side as usize] = None;
        if end_stream {
            self.side_done(host, connection, side, id);
        }
    }

    fn side_done(&mut self, host: &mut dyn Host, connection: &Arc<Connection>, side: Side, id: u32) {
        let latest = self.lane(side).latest;
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.open.set_done(side);
        if let Some(message) = stream.open.message(side) {
            message.last_byte = message.last_byte.max(latest);
        }
        if stream.open.request_done && stream.open.response_done {
            self.finish(host, connection, id);
        } else if stream.may_be_over() {
            // The request, or the rest of it, may be on its way through another CPU.
            stream.take_as_ended();
            self.set_over(id, latest);
        }
    }

    /// The stream was given up by the sender of this side.
    fn reset(&mut self, host: &mut dyn Host, connection: &Arc<Connection>, side: Side, id: u32, code: u32) {
        let latest = self.lane(side).latest;
        if !self.streams.contains_key(&id) {
            if side == Side::Request || id <= self.newest {
                return;
            }
            self.make_room(host, connection);
        }
        let stream = self.streams.entry(id).or_insert_with(|| Stream::new(connection, id));
        stream.open.miss(match side {
            Side::Request => Missing::ResetByClient(code),
            Side::Response => Missing::ResetByServer(code),
        });
        self.set_over(id, latest);
    }

    fn go_away(&mut self, side: Side, last_stream: u32, code: u32) {
        // What a client refuses are pushes.
        if side == Side::Request {
            return;
        }
        self.goaway = Some(code);
        let latest = self.response.latest;
        let refused: Vec<u32> = self.streams.range(last_stream.saturating_add(1)..).map(|(&id, _)| id).collect();
        for id in refused.into_iter().filter(|&id| !is_pushed(id)) {
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.open.miss(Missing::GoAway(code));
            }
            self.set_over(id, latest);
        }
    }

    fn set_over(&mut self, id: u32, time: Nanos) {
        if let Some(stream) = self.streams.get_mut(&id)
            && stream.over.is_none()
        {
            stream.over = Some(time);
            self.leaving.push_back((time, id));
        }
    }

    /// Whether the response of a stream without a request may be the first that is heard of it.
    fn may_be_open(&self, id: u32) -> bool {
        id > self.newest || self.unseen.contains(&id) || is_pushed(id)
    }

    /// Bytes are missing where a frame may have begun: of what is open on this side any part may be missing.
    fn lose_sync(&mut self, side: Side) {
        let lane = self.lane_mut(side);
        lane.decoder.resync();
        lane.buffer = Vec::new();
        let latest = lane.latest;
        let mut over = Vec::new();
        let lost = match side {
            Side::Request => Missing::RequestLost,
            Side::Response => Missing::ResponseLost,
        };
        for (&id, stream) in &mut self.streams {
            let is_open = match side {
                Side::Request => stream.open.exchange.request.is_some() && !stream.open.request_done,
                Side::Response => !stream.open.response_done,
            };
            if is_open && stream.over.is_none() {
                stream.open.miss(lost);
                stream.silent[side as usize] = Some(latest);
                if stream.may_be_over() {
                    stream.take_as_ended();
                    over.push(id);
                }
            }
        }
        over.into_iter().for_each(|id| self.set_over(id, latest));
        if side == Side::Request {
            let start = if self.unseen.end == u32::MAX { self.unseen.start } else { self.newest + 1 };
            self.unseen = start..u32::MAX;
        }
    }

    /// For one more stream: hands out the oldest where it is too much.
    fn make_room(&mut self, host: &mut dyn Host, connection: &Arc<Connection>) {
        while (self.streams.len() >= MAX_OPEN || self.heads > MAX_HEADS_WHEN_FULL && host.is_full())
            && let Some((&id, _)) = self.streams.first_key_value()
        {
            self.finish(host, connection, id);
        }
    }

    fn finish(&mut self, host: &mut dyn Host, connection: &Arc<Connection>, id: u32) {
        let Some(stream) = self.streams.remove(&id) else { return };
        self.hand_out(host, connection, stream);
    }

    fn hand_out(&mut self, host: &mut dyn Host, connection: &Arc<Connection>, stream: Stream) {
        let mut open = stream.open;
        self.heads = self.heads.saturating_sub(open.heads());
        // Nothing but its end was seen.
        if open.is_empty() {
            return;
        }
        if open.exchange.request.is_none() {
            open.exchange.missing.insert(0, Missing::Request);
        }
        open.mark_open();
        open.finish(host, connection);
    }
}

impl Stream {
    fn new(connection: &Arc<Connection>, id: u32) -> Stream {
        Stream::with(Open::new(connection, Protocol::Http2), id)
    }

    fn with(mut open: Open, id: u32) -> Stream {
        open.exchange.stream = Some(StreamInfo { id, pushed: false });
        Stream { open, over: None, is_unsure: false, silent: [None; 2] }
    }

    fn is_reset(&self) -> bool {
        let is_end = |missing: &Missing| {
            matches!(missing, Missing::ResetByClient(_) | Missing::ResetByServer(_) | Missing::GoAway(_))
        };
        self.open.exchange.missing.iter().any(is_end)
    }

    /// Whether nothing is known to follow of the request.
    fn has_asked(&self) -> bool {
        self.open.exchange.request.is_none() || self.open.request_done || self.silent[Side::Request as usize].is_some()
    }

    /// Whether there may be nothing to come: the response has ended, or is as long as it said that it would be, and so has
    /// the request, or its end may have been lost. A server that has answered whole needs no more of it.
    fn may_be_over(&self) -> bool {
        let is_silent = self.silent[Side::Response as usize].is_some();
        self.has_asked() && (self.open.response_done || is_silent && self.open.has_whole_response())
    }

    /// That an end was not seen is told by what was lost: neither peer is known to have given it up.
    fn take_as_ended(&mut self) {
        self.open.request_done |= self.open.exchange.request.is_some();
        self.open.response_done |= self.open.exchange.response.is_some();
    }
}

/// A header block that begins a message, or may.
struct Block {
    head: Head,
    complete: bool,
    end_stream: bool,
    began: Nanos,
}

/// Streams of the server have even ids (RFC 9113 section 5.1.1).
fn is_pushed(id: u32) -> bool {
    id.is_multiple_of(2)
}

fn side_of(side: Side) -> http2::Side {
    match side {
        Side::Request => http2::Side::Client,
        Side::Response => http2::Side::Server,
    }
}

#[cfg(test)]
pub(crate) mod frames;
#[cfg(test)]
mod tests;
