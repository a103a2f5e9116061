//! Pairing on an HTTP/1 connection: which response answers which request (RFC 9112 section 9.3).
//!
//! Owns the two decoders and the exchanges that are still open. It sees bytes in order, with gaps explained, and hands
//! out whole exchanges. It knows nothing of sockets, and nothing of rules but how many body bytes are wanted.

use std::collections::VecDeque;
use std::sync::Arc;

use super::pairing::{Gap, Host, Open, Side, State, aborted, unseen};
use super::{Connection, Message, Missing, Nanos, Protocol};
use crate::conn::Why;
use crate::proto::http1::{
    Asked, Decoder, Finish, Looks, looks_like_request, looks_like_response, may_begin_with_method, wants_upgrade,
};
use crate::proto::{Head, Step, Trailers};

/// Exchanges open at once on one connection; of a peer that pipelines more, all that is open is handed out without
/// responses.
const MAX_OPEN: usize = 10_000;
/// The same while memory is short.
const MAX_OPEN_WHEN_FULL: usize = 16;

/// Calls without a message, after which a connection joined midway is doubted.
const DOUBT_CALLS: u32 = 32;

/// A start line that comes in pieces is waited for as long as it has no more bytes, where it is not known to be one.
const START_MOST: usize = 8192;

#[derive(Debug)]
struct Lane {
    decoder: Decoder,
    /// Bytes not yet used: of a head that is not complete, or of a response whose request is awaited; without sync of what
    /// may become a start line.
    buffer: Vec<u8>,
    /// When the first and the last byte of `buffer` came.
    since: Nanos,
    latest: Nanos,
    /// Whether it is known where messages start.
    synced: bool,
    /// Calls seen while it was not.
    unsynced_calls: u32,
    /// Whether a message of this direction is open: the last request, or the response of the first unanswered one.
    in_message: bool,
    /// Messages may have gone by unseen since the last one.
    lost: bool,
    /// The last of them, at the latest then.
    lost_at: Nanos,
    /// The bytes at hand begin in the call in which the message before them ended.
    follows: bool,
}

impl Lane {
    fn new(decoder: Decoder, synced: bool) -> Lane {
        Lane {
            decoder,
            buffer: Vec::new(),
            since: 0,
            latest: 0,
            synced,
            unsynced_calls: 0,
            in_message: false,
            lost: !synced,
            lost_at: 0,
            follows: false,
        }
    }

    fn lose_sync(&mut self, time: Nanos) {
        self.lost_at = self.lost_at.max(time);
        self.decoder.resync();
        self.buffer = Vec::new();
        self.synced = false;
        self.in_message = false;
        self.lost = true;
        self.follows = false;
    }
}

/// HTTP/1 on one connection.
#[derive(Debug)]
pub struct Http1 {
    request: Lane,
    response: Lane,
    /// Oldest first; answered ones whose request still goes on among them.
    open: VecDeque<Open>,
    /// Bytes of the heads in `open`.
    heads: usize,
    state: State,
    /// When the last response began.
    answered: Nanos,
    /// The client has sent a request before the response to the one before it began.
    pipelines: bool,
    /// Messages may have gone by unseen. Where the client pipelines, which response is whose cannot be told from then on.
    lossy: bool,
}

impl Http1 {
    /// `from_start`: the connection's first byte will be seen.
    pub fn new(from_start: bool) -> Http1 {
        Http1 {
            request: Lane::new(Decoder::request(), from_start),
            response: Lane::new(Decoder::response(), from_start),
            open: VecDeque::new(),
            state: State::Unrecognised,
            heads: 0,
            answered: 0,
            pipelines: false,
            lossy: !from_start,
        }
    }

    pub fn state(&self) -> State {
        self.state
    }

    /// Bytes held that are not of bodies: heads, and what waits for the other side.
    pub fn held(&self) -> usize {
        self.heads + self.request.buffer.capacity() + self.response.buffer.capacity()
    }

    /// Whether it is known where messages of this side start.
    pub fn is_synced(&self, side: Side) -> bool {
        self.lane(side).synced
    }

    /// Whether bytes wait for more, or for the other side.
    pub fn is_partial(&self) -> bool {
        !(self.request.buffer.is_empty() && self.response.buffer.is_empty())
    }

    /// Whether this side can go on. A response waits for its request, which may come through another CPU, until its own
    /// time is `settled`; after a loss it waits in any case, for its request may be one that is still to come. A request
    /// waits while the one before it may turn the connection into a tunnel.
    pub fn is_ready(&self, side: Side, settled: bool) -> bool {
        match side {
            Side::Request => !self.awaits_leave() || settled && self.response.lost,
            Side::Response => {
                let is_asked_for = !self.response.lost && self.unanswered().is_some();
                settled || !self.response.synced || self.response.in_message || is_asked_for
            }
        }
    }

    /// Whether bytes are kept back until time settles what they wait for.
    pub fn is_held_back(&self, settled: Nanos) -> bool {
        [(Side::Request, &self.request), (Side::Response, &self.response)]
            .into_iter()
            .any(|(side, lane)| !lane.buffer.is_empty() && lane.since > settled && !self.is_ready(side, false))
    }

    /// Body bytes of this side that will follow for sure and that nobody wants.
    pub fn unwanted(&self, side: Side) -> u64 {
        if self.state == State::Tunnel {
            return u64::MAX;
        }
        let lane = self.lane(side);
        if !lane.synced || !lane.in_message || !lane.buffer.is_empty() {
            return 0;
        }
        let Some(current) = self.current(side).and_then(|at| self.open.get(at)) else { return 0 };
        if side == Side::Response && !current.is_paired() {
            return 0;
        }
        current.unwanted(side, lane.decoder.certain_body())
    }

    /// Takes bytes, all of them: what cannot be used yet is kept.
    pub fn bytes(
        &mut self,
        host: &mut dyn Host,
        connection: &Arc<Connection>,
        side: Side,
        (data, time, call_start): (&[u8], Nanos, bool),
        settled: bool,
    ) {
        if matches!(self.state, State::Tunnel | State::NotHttp) {
            return;
        }
        if !self.lane(side).synced && !self.find_message(side, data, time, call_start) {
            return;
        }
        if side == Side::Response && call_start && self.was_answer_to_head(data) {
            self.message_done(host, connection, side, None);
            self.response.decoder.resync();
        }
        let lane = self.lane_mut(side);
        lane.latest = time;
        if lane.buffer.is_empty() {
            lane.follows = false;
            let used = self.run(host, connection, side, data, (0, time), settled);
            let lane = self.lane_mut(side);
            if lane.synced && used < data.len() {
                lane.buffer.extend_from_slice(&data[used..]);
                lane.since = time;
            }
            return;
        }
        let old = lane.buffer.len();
        if lane.buffer.iter().all(|byte| b"\r\n".contains(byte)) {
            // Empty lines before a message are no part of it.
            lane.since = time;
            lane.follows = false;
        }
        lane.buffer.extend_from_slice(data);
        self.run_buffer(host, connection, side, old, settled);
    }

    /// Goes on with what was kept, after the other side went on or time has settled what it waited for; answers whether it
    /// did.
    pub fn resume(&mut self, host: &mut dyn Host, connection: &Arc<Connection>, side: Side, settled: Nanos) -> bool {
        let len = self.lane(side).buffer.len();
        let settled = self.lane(side).since <= settled;
        if len > 0 && self.lane(side).synced && self.is_ready(side, settled) {
            self.run_buffer(host, connection, side, len, settled);
        }
        self.lane(side).buffer.len() < len
    }

    /// Bytes of this side went by unseen.
    pub fn unseen(&mut self, host: &mut dyn Host, connection: &Arc<Connection>, side: Side, gap: Gap) {
        if matches!(self.state, State::Tunnel | State::NotHttp) {
            return;
        }
        let lane = self.lane_mut(side);
        if !lane.synced {
            // What is skipped holds no message that could have been asked for or answered.
            if gap.why != Why::Skipped {
                lane.lost_at = lane.lost_at.max(gap.time);
            }
            if !lane.buffer.is_empty() {
                let since = lane.since;
                self.pass_by(side, since);
            }
            return;
        }
        lane.latest = gap.time;
        let inside = if lane.buffer.is_empty() { gap.len.min(lane.decoder.certain_body()) } else { 0 };
        let stepped = lane.decoder.gap(inside).unwrap_or(0);
        if stepped > 0 {
            let why = gap.why;
            self.with_current(side, |open| open.count_unseen(side, stepped, why, gap.time));
            // The message may end here.
            self.run(host, connection, side, &[], (0, gap.time), true);
        }
        if inside < gap.len && self.state != State::Tunnel {
            self.lose_sync(host, connection, side, gap.len - inside, gap.why);
        }
    }

    /// No byte of this side follows.
    pub fn end(&mut self, host: &mut dyn Host, connection: &Arc<Connection>, side: Side, time: Nanos) {
        self.resume(host, connection, side, Nanos::MAX);
        let lane = self.lane_mut(side);
        if !lane.in_message {
            return;
        }
        match lane.decoder.finish() {
            Finish::Clean => {}
            Finish::Complete => self.message_done(host, connection, side, None),
            Finish::Cut => {
                let aborted = aborted(side);
                self.with_current(side, |open| {
                    open.miss(aborted);
                    if let Some(message) = open.message(side) {
                        message.last_byte = message.last_byte.max(time);
                    }
                });
                self.message_done(host, connection, side, None);
            }
        }
        let lane = self.lane_mut(side);
        lane.buffer = Vec::new();
        lane.in_message = false;
    }

    /// The connection is gone, or the agent stops (`stopping`): hands out what is open, marked.
    pub fn close(&mut self, host: &mut dyn Host, connection: &Arc<Connection>, stopping: bool) {
        self.hand_out_all(host, connection, stopping.then_some(Missing::AgentStopped));
        self.request.buffer = Vec::new();
        self.response.buffer = Vec::new();
    }

    fn hand_out_all(&mut self, host: &mut dyn Host, connection: &Arc<Connection>, why: Option<Missing>) {
        for mut open in std::mem::take(&mut self.open) {
            if let Some(why) = why {
                open.miss(why);
            }
            open.mark_open();
            self.hand_out(host, connection, open);
        }
    }

    /// After [`State::Upgraded`]: the request that is answered in HTTP/2, and the bytes of requests and responses that were
    /// not used, with their times.
    pub(super) fn upgraded(&mut self) -> (Option<Open>, [(Vec<u8>, Nanos); 2]) {
        let open = self.open.pop_back();
        let left = [&mut self.request, &mut self.response].map(|lane| (std::mem::take(&mut lane.buffer), lane.latest));
        (open, left)
    }

    /// Gives up the bodies kept so far; what they leave is marked. Answers how many bytes that frees.
    pub fn drop_bodies(&mut self) -> usize {
        self.open.iter_mut().map(Open::drop_bodies).sum()
    }

    /// When the oldest open exchange with a body began.
    pub fn oldest_body(&self) -> Option<Nanos> {
        let open = self.open.iter().find(|open| open.kept() > 0)?;
        open.exchange.messages().next().map(|message| message.first_byte)
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

    /// The oldest exchange whose response is not complete.
    fn unanswered(&self) -> Option<usize> {
        (0..self.open.len()).find(|&at| !self.open[at].response_done)
    }

    fn awaits_leave(&self) -> bool {
        self.open.back().is_some_and(|open| open.may_leave && open.request_done && open.exchange.response.is_none())
    }

    /// The exchange that this side's open message belongs to.
    fn current(&self, side: Side) -> Option<usize> {
        match side {
            Side::Request => (0..self.open.len()).rev().find(|&at| !self.open[at].request_done),
            Side::Response => self.unanswered(),
        }
    }

    fn with_current(&mut self, side: Side, change: impl FnOnce(&mut Open)) {
        if let Some(open) = self.current(side).and_then(|at| self.open.get_mut(at)) {
            change(open);
        }
    }

    /// Without sync, only a call that certainly begins with a start line counts, and one that comes in pieces, each in a
    /// call. What was before them may be anything: the first word has to be a known one.
    fn find_message(&mut self, side: Side, data: &[u8], time: Nanos, call_start: bool) -> bool {
        let looks = match side {
            Side::Request => looks_like_request,
            Side::Response => looks_like_response,
        };
        let in_pieces = |bytes: &[u8]| match looks(bytes) {
            Looks::Maybe if bytes.len() > START_MOST => Looks::No,
            _ if side == Side::Request && !may_begin_with_method(bytes) => Looks::No,
            told => told,
        };
        let alone = if call_start { looks(data) } else { Looks::No };
        let lane = self.lane_mut(side);
        let begun = lane.buffer.len();
        if alone != Looks::Yes && begun > 0 {
            lane.buffer.extend_from_slice(data);
            match in_pieces(&lane.buffer) {
                Looks::Maybe => return false,
                Looks::Yes => {
                    lane.buffer.truncate(begun);
                    lane.synced = true;
                    return true;
                }
                Looks::No => {}
            }
        }
        if begun > 0 {
            let since = lane.since;
            self.pass_by(side, since);
        }
        let lane = self.lane_mut(side);
        match alone {
            Looks::Yes => lane.synced = true,
            Looks::Maybe if !data.is_empty() && in_pieces(data) == Looks::Maybe => {
                lane.buffer.extend_from_slice(data);
                lane.since = time;
            }
            _ => self.pass_by(side, time),
        }
        self.lane(side).synced
    }

    /// Without sync, a call of that time was no start line.
    fn pass_by(&mut self, side: Side, time: Nanos) {
        let lane = self.lane_mut(side);
        lane.buffer = Vec::new();
        lane.lost_at = lane.lost_at.max(time);
        lane.unsynced_calls = lane.unsynced_calls.saturating_add(1);
        if self.state == State::Unrecognised
            && self.request.unsynced_calls.max(self.response.unsynced_calls) >= DOUBT_CALLS
        {
            self.state = State::Doubtful;
        }
    }

    /// A response whose request was not seen, or is not known for sure, may answer HEAD: then its length is not that of a
    /// body, and where the body would begin the next response does. Where that was lost, another one shows it.
    fn was_answer_to_head(&self, data: &[u8]) -> bool {
        let Some(open) = self.unanswered().and_then(|at| self.open.get(at)) else { return false };
        let is_without_body = open.exchange.response.as_ref().is_some_and(|response| response.body.wire_bytes == 0);
        let is_doubtful = self.response.in_message && !open.is_paired() && (is_without_body || open.has_gap);
        is_doubtful && looks_like_response(data) == Looks::Yes
    }

    fn run_buffer(&mut self, host: &mut dyn Host, connection: &Arc<Connection>, side: Side, old: usize, settled: bool) {
        let lane = self.lane_mut(side);
        let (since, latest) = (lane.since, lane.latest);
        let mut buffer = std::mem::take(&mut lane.buffer);
        let used = self.run(host, connection, side, &buffer, (old, since), settled);
        let lane = self.lane_mut(side);
        if !lane.synced {
            return;
        }
        if used == buffer.len() {
            // Also gives back the room that a long head took.
            return;
        }
        buffer.drain(..used);
        if used >= old {
            lane.since = latest;
        }
        lane.buffer = buffer;
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
        settled: bool,
    ) -> usize {
        let mut at = 0;
        loop {
            let rest = &input[at..];
            if !self.lane(side).in_message && (rest.is_empty() || !self.is_ready(side, settled)) {
                return at;
            }
            let time = if at < old { since } else { self.lane(side).latest };
            // A response's head depends on it.
            let asker = match side {
                Side::Response if !self.response.in_message => self.asker(host, connection, time),
                _ => None,
            };
            let asked = asker.map_or(Asked::Normal, |at| self.open[at].asked());
            let lane = self.lane_mut(side);
            match lane.decoder.step(rest, asked) {
                Step::Head { head, used } => {
                    at += used;
                    match side {
                        Side::Request => self.request_head(host, connection, head, time),
                        Side::Response => self.response_head(host, connection, head, time, asker),
                    }
                }
                Step::Body { data, used } => {
                    at += used;
                    let latest = lane.latest;
                    self.with_current(side, |open| open.keep(host, side, data, latest));
                }
                Step::End { trailers, used } => {
                    at += used;
                    self.message_done(host, connection, side, trailers);
                    self.lane_mut(side).follows = at < input.len();
                    if self.state == State::Upgraded {
                        return at;
                    }
                }
                Step::More => return at,
                Step::Left => {
                    self.state = State::Tunnel;
                    return input.len();
                }
                Step::Invalid(_) => {
                    self.invalid(host, connection, side);
                    return input.len();
                }
            }
        }
    }

    fn request_head(&mut self, host: &mut dyn Host, connection: &Arc<Connection>, head: Head, time: Nanos) {
        self.state = State::Http;
        self.make_room(host, connection);
        self.heads += head.weight();
        // In one call with the end of the request before, to which no response had begun.
        let did_not_wait =
            self.request.follows && self.open.back().is_some_and(|last| last.exchange.response.is_none());
        if time <= self.answered || did_not_wait {
            self.doubt(true, false);
        }
        let wanted = host.wanted(Some(&head), None);
        let may_leave = head.method() == b"CONNECT" || wants_upgrade(&head);
        let after_loss = self.request.lost;
        let mut open = Open { began: time, wanted, may_leave, after_loss, ..Open::new(connection, Protocol::Http1) };
        if self.pipelines && self.lossy {
            open.miss(Missing::PairingUncertain);
        }
        open.exchange.request = Some(Message::begin(head, time, self.request.latest));
        self.open.push_back(open);
        self.request.in_message = true;
        self.request.lost = false;
    }

    /// `asker`: the exchange that it belongs to.
    fn response_head(
        &mut self,
        host: &mut dyn Host,
        connection: &Arc<Connection>,
        head: Head,
        time: Nanos,
        asker: Option<usize>,
    ) {
        self.state = State::Http;
        // An interim response has no end and answers nothing (RFC 9110 section 15.2).
        if (100..200).contains(&head.status()) && head.status() != 101 {
            return;
        }
        let latest = self.response.latest;
        let at = match asker {
            Some(at) => at,
            None => {
                let at = self.unanswered().unwrap_or(self.open.len());
                let mut open = Open { began: time, request_done: true, ..Open::new(connection, Protocol::Http1) };
                open.miss(Missing::Request);
                self.open.insert(at, open);
                at
            }
        };
        self.answered = time;
        let is_next_there = self.open.get(at + 1).is_some_and(|next| next.began <= time);
        if is_next_there && (!self.response.lost || self.open[at].began > self.response.lost_at) {
            self.doubt(true, false);
        }
        // Between the request and the end of the loss there is room for more requests and responses. Of responses that
        // were lost before the first one seen nothing may tell: that requests were lost does.
        let is_first = self.response.lost_at == 0;
        let is_before_loss = self.open[at].began <= self.response.lost_at || is_first && self.request.lost;
        if self.response.lost && self.open[at].exchange.request.is_some() && is_before_loss {
            self.open[at].miss(Missing::PairingUncertain);
        }
        self.response.lost = false;
        self.response.in_message = true;
        self.heads += head.weight();
        self.open[at].begin_response(host, head, time, latest);
    }

    fn message_done(
        &mut self,
        host: &mut dyn Host,
        connection: &Arc<Connection>,
        side: Side,
        trailers: Option<Trailers>,
    ) {
        let lane = self.lane_mut(side);
        lane.in_message = false;
        let latest = lane.latest;
        let Some(at) = self.current(side) else { return };
        let open = &mut self.open[at];
        open.set_done(side);
        if let Some(message) = open.message(side) {
            message.last_byte = message.last_byte.max(latest);
            if trailers.is_some() {
                message.trailers = trailers;
            }
        }
        let status = open.exchange.response.as_ref().map_or(0, |response| response.head.status());
        let leaves =
            side == Side::Response && (status == 101 || open.asked() == Asked::Connect && (200..300).contains(&status));
        let has_body = open.exchange.response.as_ref().is_some_and(|response| response.body.wire_bytes > 0);
        if side == Side::Response && has_body && !open.is_paired() {
            // What was taken for a body may have been the next responses.
            (self.response.lost, self.response.lost_at) = (true, latest);
        }
        if leaves
            && status == 101
            && open.exchange.response.as_ref().is_some_and(|response| upgrades_to_http2(&response.head))
        {
            self.state = State::Upgraded;
            // It is answered in HTTP/2; this response only says so.
            let response = open.exchange.response.take().expect("its status was just read");
            self.heads = self.heads.saturating_sub(response.head.weight());
            (open.request_done, open.response_done) = (true, false);
            return;
        }
        if leaves {
            self.state = State::Tunnel;
            self.request.decoder.leave();
            self.request.buffer = Vec::new();
            open.request_done = true;
        }
        if open.request_done && open.response_done {
            let open = self.open.remove(at).expect("the index was just used");
            self.hand_out(host, connection, open);
        }
    }

    /// These bytes are no message: a peer's mistake, another protocol, or we lost our place.
    fn invalid(&mut self, host: &mut dyn Host, connection: &Arc<Connection>, side: Side) {
        let in_message = self.lane(side).in_message;
        match side {
            Side::Request if in_message => {
                self.with_current(side, |open| open.miss(Missing::RequestMalformed));
                self.message_done(host, connection, side, None);
            }
            // The server will say what it thinks of it.
            Side::Request => {
                self.make_room(host, connection);
                let began = self.request.latest;
                let mut open = Open { began, request_done: true, ..Open::new(connection, Protocol::Http1) };
                open.miss(Missing::RequestMalformed);
                self.open.push_back(open);
            }
            Side::Response if self.state == State::Unrecognised => self.state = State::NotHttp,
            Side::Response => {
                let time = self.response.latest;
                self.with_current(side, |open| {
                    if in_message || open.began <= time {
                        open.miss(Missing::ResponseMalformed);
                    }
                });
                // Bytes that do not even begin like a response may not be one: a better one may follow.
                if in_message {
                    self.message_done(host, connection, side, None);
                }
            }
        }
        let lane = self.lane_mut(side);
        lane.lose_sync(lane.latest);
        self.doubt(false, true);
    }

    /// Bytes are missing where a message may have ended or begun.
    fn lose_sync(&mut self, host: &mut dyn Host, connection: &Arc<Connection>, side: Side, len: u64, why: Why) {
        let in_message = self.lane(side).in_message;
        let lane = self.lane_mut(side);
        lane.lose_sync(lane.latest);
        self.doubt(false, true);
        if in_message {
            self.with_current(side, |open| open.miss(unseen(side, len, why)));
            self.message_done(host, connection, side, None);
        }
    }

    /// The exchange that a response which begins at `time` belongs to; none where its request was not seen. Asked before
    /// its head is read, for that depends on the request.
    fn asker(&mut self, host: &mut dyn Host, connection: &Arc<Connection>, time: Nanos) -> Option<usize> {
        self.pass_over(host, connection, time);
        let at = self.unanswered()?;
        let open = &self.open[at];
        let is_later = open.after_loss && open.began > time;
        (!is_later).then_some(at)
    }

    /// Where responses may have gone by unseen: a client that does not pipeline had those to all but the last of the
    /// requests that it sent until then. A request from after the loss keeps its place: its response is still to come, and
    /// another one sent meanwhile says that the client pipelines. `until`: all responses before were taken in.
    pub fn pass_over(&mut self, host: &mut dyn Host, connection: &Arc<Connection>, until: Nanos) {
        if !self.response.lost || self.pipelines {
            return;
        }
        let is_answered_unseen = |open: &VecDeque<Open>, lost_at: Nanos| {
            open.get(1).is_some_and(|next| next.began <= until) && open[0].request_done && open[0].began <= lost_at
        };
        while is_answered_unseen(&self.open, self.response.lost_at) {
            let Some(mut open) = self.open.pop_front() else { return };
            open.miss(Missing::Response);
            self.hand_out(host, connection, open);
        }
    }

    /// Marks what is open once both are known: that the client pipelines, and that messages may have gone by unseen.
    fn doubt(&mut self, pipelines: bool, lossy: bool) {
        let was_uncertain = self.pipelines && self.lossy;
        self.pipelines |= pipelines;
        self.lossy |= lossy;
        if !was_uncertain && self.pipelines && self.lossy {
            self.open.iter_mut().for_each(|open| open.miss(Missing::PairingUncertain));
        }
    }

    /// For one more request: hands out all that is open where it is too much. Whose the responses are that follow cannot
    /// be told at once.
    fn make_room(&mut self, host: &mut dyn Host, connection: &Arc<Connection>) {
        let most = if host.is_full() { MAX_OPEN_WHEN_FULL } else { MAX_OPEN };
        if self.open.len() < most {
            return;
        }
        self.doubt(self.open.len() >= MAX_OPEN, true);
        self.hand_out_all(host, connection, None);
        self.request.lost = true;
        self.response.lose_sync(self.request.latest);
    }

    fn hand_out(&mut self, host: &mut dyn Host, connection: &Arc<Connection>, open: Open) {
        // Bytes that were never answered in HTTP and never were HTTP.
        if open.is_empty() {
            return;
        }
        self.heads = self.heads.saturating_sub(open.heads());
        open.finish(host, connection);
    }
}

fn upgrades_to_http2(head: &Head) -> bool {
    head.header("upgrade").is_some_and(|protocol| protocol.eq_ignore_ascii_case(b"h2c"))
}

#[cfg(test)]
mod tests;
