//! HTTP on one connection, of whichever version it turns out to be.
//!
//! Owns the question which version is spoken: by the first bytes, by an upgrade, or, where the connection was joined
//! midway, by frames one behind the other in both directions. What was said until that is answered is not lost.

use std::sync::Arc;

use super::http1::Http1;
use super::http2::Http2;
pub use super::pairing::{Gap, Host, Side, State, Wanted};
use super::{Connection, Nanos, Protocol};
use crate::proto::http2::{self, Looks, PROOF, looks_like_client, looks_like_server};

/// Bytes held of each direction of a connection joined midway while it may be HTTP/2.
const MAX_EARLY: usize = 64 << 10;

#[derive(Debug)]
pub struct Http {
    speaks: Speaks,
    /// Until the version is known.
    early: Option<Box<Early>>,
}

#[derive(Debug)]
enum Speaks {
    One(Box<Http1>),
    Two(Box<Http2>),
}

#[derive(Debug)]
struct Call {
    data: Vec<u8>,
    time: Nanos,
    call_start: bool,
}

/// What one direction has shown while the version is not known.
#[derive(Debug, Default)]
struct Shown {
    calls: Vec<Call>,
    /// Evidence that the first of `calls` starts a frame.
    points: u32,
    /// It does not begin as HTTP/2 does.
    is_other: bool,
}

#[derive(Debug)]
struct Early {
    from_start: bool,
    /// Requests, responses.
    shown: [Shown; 2],
}

impl Http {
    /// `from_start`: the connection's first byte will be seen.
    pub fn new(from_start: bool) -> Http {
        let early = Early { from_start, shown: Default::default() };
        Http { speaks: Speaks::One(Box::new(Http1::new(from_start))), early: Some(Box::new(early)) }
    }

    pub fn protocol(&self) -> Option<Protocol> {
        let protocol = match &self.speaks {
            Speaks::One(_) => Protocol::Http1,
            Speaks::Two(_) => Protocol::Http2,
        };
        matches!(self.state(), State::Http | State::Tunnel).then_some(protocol)
    }

    pub fn state(&self) -> State {
        match &self.speaks {
            Speaks::One(http) => http.state(),
            Speaks::Two(http) => http.state(),
        }
    }

    /// Bytes held that are not of bodies.
    pub fn held(&self) -> usize {
        let early = self.early.as_ref().map_or(0, |early| early.shown.iter().map(Shown::held).sum());
        early
            + match &self.speaks {
                Speaks::One(http) => http.held(),
                Speaks::Two(http) => http.held(),
            }
    }

    /// Whether it is known where messages of this side start.
    pub fn is_synced(&self, side: Side) -> bool {
        match &self.speaks {
            Speaks::One(http) => http.is_synced(side),
            Speaks::Two(http) => http.is_synced(side),
        }
    }

    /// Whether something waits for more bytes, for the other side, or for time.
    pub fn is_partial(&self) -> bool {
        match &self.speaks {
            Speaks::One(http) => http.is_partial(),
            Speaks::Two(http) => http.is_waiting(),
        }
    }

    /// Whether this side can go on: see [`Http1::is_ready`]. Streams do not wait for each other.
    pub fn is_ready(&self, side: Side, settled: bool) -> bool {
        match &self.speaks {
            Speaks::One(http) => http.is_ready(side, settled),
            Speaks::Two(_) => true,
        }
    }

    /// Whether something is kept back until time settles what it waits for.
    pub fn is_held_back(&self, settled: Nanos) -> bool {
        match &self.speaks {
            Speaks::One(http) => http.is_held_back(settled),
            Speaks::Two(http) => http.is_waiting(),
        }
    }

    /// Body bytes of this side that will follow for sure and that nobody wants.
    pub fn unwanted(&self, side: Side) -> u64 {
        match &self.speaks {
            Speaks::One(http) => http.unwanted(side),
            Speaks::Two(http) => http.unwanted(side),
        }
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
        let mut held = None;
        if let Some(early) = &mut self.early {
            match early.show(side, data, time, call_start) {
                Guess::Wait => return,
                Guess::Two => return self.begin_http2(host, connection),
                Guess::One(calls) => held = calls,
            }
        }
        match &mut self.speaks {
            Speaks::Two(http) => return http.bytes(host, connection, side, (data, time, call_start)),
            Speaks::One(http) => match held {
                None => http.bytes(host, connection, side, (data, time, call_start), settled),
                Some(calls) => {
                    for Call { data, time, call_start } in calls {
                        http.bytes(host, connection, side, (&data, time, call_start), settled);
                    }
                }
            },
        }
        self.after_http1(host, connection);
    }

    /// Goes on with what was kept, after the other side went on or time has settled what it waited for; answers whether it
    /// did.
    pub fn resume(&mut self, host: &mut dyn Host, connection: &Arc<Connection>, side: Side, settled: Nanos) -> bool {
        let Speaks::One(http) = &mut self.speaks else { return false };
        let went_on = http.resume(host, connection, side, settled);
        self.after_http1(host, connection);
        went_on
    }

    /// Bytes of this side went by unseen.
    pub fn unseen(&mut self, host: &mut dyn Host, connection: &Arc<Connection>, side: Side, gap: Gap) {
        if let Some(early) = &mut self.early {
            early.unseen(side);
        }
        match &mut self.speaks {
            Speaks::One(http) => http.unseen(host, connection, side, gap),
            Speaks::Two(http) => http.unseen(host, connection, side, gap),
        }
    }

    /// No byte of this side follows.
    pub fn end(&mut self, host: &mut dyn Host, connection: &Arc<Connection>, side: Side, time: Nanos) {
        match &mut self.speaks {
            Speaks::One(http) => http.end(host, connection, side, time),
            Speaks::Two(http) => http.end(side),
        }
    }

    /// The connection is gone, or the agent stops (`stopping`): hands out what is open, marked.
    pub fn close(&mut self, host: &mut dyn Host, connection: &Arc<Connection>, stopping: bool) {
        self.early = None;
        match &mut self.speaks {
            Speaks::One(http) => http.close(host, connection, stopping),
            Speaks::Two(http) => http.close(host, connection, stopping),
        }
    }

    /// All that happened before `settled` was taken in: what waited for that goes out.
    pub fn settle(&mut self, host: &mut dyn Host, connection: &Arc<Connection>, settled: Nanos) {
        match &mut self.speaks {
            Speaks::One(http) => http.pass_over(host, connection, settled),
            Speaks::Two(http) => http.settle(host, connection, settled),
        }
    }

    /// Tells of gRPC calls that began before that time and go on.
    pub fn report_open(&mut self, host: &mut dyn Host, connection: &Arc<Connection>, before: Nanos) {
        if let Speaks::Two(http) = &mut self.speaks {
            http.report_open(host, connection, before);
        }
    }

    /// Hands out streams whose end was most likely lost: of which nothing was heard since bytes were lost before that time.
    pub fn give_up(&mut self, host: &mut dyn Host, connection: &Arc<Connection>, before: Nanos) {
        if let Speaks::Two(http) = &mut self.speaks {
            http.give_up(host, connection, before);
        }
    }

    /// Gives up the bodies kept so far; what they leave is marked. Answers how many bytes that frees.
    pub fn drop_bodies(&mut self) -> usize {
        match &mut self.speaks {
            Speaks::One(http) => http.drop_bodies(),
            Speaks::Two(http) => http.drop_bodies(),
        }
    }

    /// When the oldest open exchange with a body began.
    pub fn oldest_body(&self) -> Option<Nanos> {
        match &self.speaks {
            Speaks::One(http) => http.oldest_body(),
            Speaks::Two(http) => http.oldest_body(),
        }
    }

    /// HTTP/1 has taken bytes: it may have been found, or left for HTTP/2.
    fn after_http1(&mut self, host: &mut dyn Host, connection: &Arc<Connection>) {
        let Speaks::One(http) = &mut self.speaks else { return };
        match http.state() {
            State::Unrecognised | State::Doubtful => {}
            State::Upgraded => {
                let (request, left) = http.upgraded();
                let mut http = Http2::upgraded(request);
                for (side, (data, time)) in [Side::Request, Side::Response].into_iter().zip(left) {
                    http.bytes(host, connection, side, (&data, time, false));
                }
                self.early = None;
                self.speaks = Speaks::Two(Box::new(http));
            }
            State::Http | State::NotHttp | State::Tunnel => self.early = None,
        }
    }

    /// It is HTTP/2, with all that was shown so far.
    fn begin_http2(&mut self, host: &mut dyn Host, connection: &Arc<Connection>) {
        let Some(early) = self.early.take() else { return };
        let mut http = match early.from_start {
            true => Http2::new(),
            false => Http2::joined([0, 1].map(|side| early.shown[side].points > 0)),
        };
        for (side, shown) in [Side::Request, Side::Response].into_iter().zip(early.shown) {
            for Call { data, time, call_start } in shown.calls {
                http.bytes(host, connection, side, (&data, time, call_start));
            }
        }
        self.speaks = Speaks::Two(Box::new(http));
    }
}

/// What is to be made of bytes while the version is not known.
enum Guess {
    /// They are HTTP/2's.
    Two,
    /// They are too few to say, and held.
    Wait,
    /// They go to HTTP/1: instead of them those that were held, they among them, where there are any.
    One(Option<Vec<Call>>),
}

impl Early {
    fn show(&mut self, side: Side, data: &[u8], time: Nanos, call_start: bool) -> Guess {
        let call = Call { data: data.to_vec(), time, call_start };
        let shown = &mut self.shown[side as usize];
        if self.from_start { shown.first(side, call) } else { self.midway(side, call) }
    }

    /// Looks for frames. The bytes go to HTTP/1 too.
    fn midway(&mut self, side: Side, call: Call) -> Guess {
        let shown = &mut self.shown[side as usize];
        if !shown.is_frame(side, call) {
            return Guess::One(None);
        }
        let points = self.shown.each_ref().map(|shown| shown.points);
        let in_one = points.iter().any(|&points| points >= PROOF);
        let in_both = points.iter().all(|&points| points > 0) && points.iter().sum::<u32>() >= PROOF;
        if in_one || in_both { Guess::Two } else { Guess::One(None) }
    }

    fn unseen(&mut self, side: Side) {
        self.from_start = false;
        self.shown[side as usize] = Shown::default();
    }
}

impl Shown {
    fn held(&self) -> usize {
        self.calls.iter().map(|call| size_of::<Call>() + call.data.capacity()).sum()
    }

    fn bytes(&self) -> Vec<u8> {
        self.calls.iter().flat_map(|call| &call.data).copied().collect()
    }

    /// The first bytes of a direction say what it is.
    fn first(&mut self, side: Side, call: Call) -> Guess {
        if self.is_other {
            return Guess::One(None);
        }
        self.calls.push(call);
        let looks = match side {
            Side::Request => looks_like_client(&self.bytes()),
            Side::Response => looks_like_server(&self.bytes()),
        };
        match looks {
            Looks::Yes => Guess::Two,
            Looks::Maybe => Guess::Wait,
            Looks::No => {
                self.is_other = true;
                Guess::One(Some(std::mem::take(&mut self.calls)))
            }
        }
    }

    /// Whether `calls` with this one behind them are frames, as far as can be said.
    fn is_frame(&mut self, side: Side, call: Call) -> bool {
        let side = match side {
            Side::Request => http2::Side::Client,
            Side::Response => http2::Side::Server,
        };
        if !self.calls.is_empty() && self.held() + call.data.len() <= MAX_EARLY {
            let mut bytes = self.bytes();
            bytes.extend_from_slice(&call.data);
            if let Some(points) = http2::frames_at_start(&bytes, side) {
                self.points = points;
                self.calls.push(call);
                return true;
            }
        }
        *self = Shown::default();
        // Too long a call is no place to begin, but may be the middle of a body.
        let points = http2::frames_at_start(&call.data, side).filter(|_| call.call_start);
        if let Some(points) = points {
            self.points = points;
            self.calls.push(call);
        }
        points.is_some()
    }
}
