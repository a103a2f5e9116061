//! One connection: its two streams, what is spoken on it, and what the kernel was told of it.

use std::net::IpAddr;
use std::sync::Arc;

use super::dns::Answers;
use super::records::Records;
use super::sealed::{Cover, Sealed, Source, TELLING};
use super::stream::{Item, Stream, Why};
use super::{Control, flows};
use crate::bpf::{Data, Flow, Order, Role, SocketInfo, SocketKey, Verdict};
use crate::config::{Settings, Stack, TapDirection, Tapped};
use crate::exchange::http::{Gap, Host, Http, Side, State, Wanted};
use crate::exchange::{
    Address, Connection, ConnectionEvent, Direction, Exchange, Nanos, Process, Protocol, Record, Tls,
};
use crate::identity::Processes;
use crate::plugin;
use crate::proto::Head;
use crate::proto::proxy::{self, Header};
use crate::sink::queue::Packer;
use crate::stats::traffic::Tally;
use crate::stats::{Account, Stats};
use crate::tls::{self, KTLS, Library, Secrets, Uncovered};
use crate::url;

mod plain;

/// Body bytes ahead that are worth an order to the kernel.
const SKIP_LEAST: u64 = 8 << 10;
/// The most that one order skips: serial arithmetic reaches half of 32 bits.
const SKIP_MOST: u64 = 1 << 30;

/// How long a connection waits for its process to be found out, in ns.
const IDENTIFIED_WITHIN: u64 = 200_000_000;

/// After so long a call is told of while it is open, in ns.
const LONG: u64 = 10_000_000_000;

/// How often what the next agent needs of a connection within TLS is kept, in ns. What goes by in between, if this one is
/// killed, costs that one trials.
const KEEP_EVERY: u64 = 2_000_000_000;

/// A stream of which nothing is heard for so long after a loss has most likely lost its end, in ns. Servers that take
/// longer to answer are usually given up by what is in front of them.
const SILENT_FOR: u64 = 60_000_000_000;

/// Memory of a connection's event on its way out.
pub(super) const EVENT_WEIGHT: usize = size_of::<Record>() + size_of::<ConnectionEvent>();

/// What a worker carries along: the outside, and what came out of it.
pub struct Env<'a> {
    pub settings: &'a Settings,
    pub processes: &'a Processes,
    pub control: &'a dyn Control,
    pub stats: &'a Stats,
    pub memory: Account<'a>,
    pub traffic: Tally<'a>,
    pub secrets: &'a Secrets,
    /// What to add to CLOCK_BOOTTIME to get nanoseconds since the epoch.
    pub boot_to_wall: i64,
    /// All events up to this time (CLOCK_BOOTTIME) have been taken in.
    pub settled: u64,
    /// Numbers exchanges.
    pub next_id: &'a mut dyn FnMut() -> u64,
    /// Where records go; none: they stay in `records`.
    pub packer: Option<Packer<'a>>,
    /// What is to go to the sinks.
    pub records: Vec<Record>,
    /// What `records` weigh.
    pub record_bytes: usize,
}

impl Env<'_> {
    pub fn wall(&self, boot: u64) -> Nanos {
        boot.saturating_add_signed(self.boot_to_wall)
    }

    /// Hands on what was added to `records`. `bytes`: what that weighs, counted in memory.
    pub(super) fn added(&mut self, bytes: usize) {
        match &mut self.packer {
            Some(packer) => self.memory.adjust(bytes, packer.add(&mut self.records, bytes)),
            None => self.record_bytes += bytes,
        }
    }
}

/// What is known once the opening was seen or looked up.
struct Known {
    connection: Arc<Connection>,
    opened: Option<Nanos>,
    is_server: bool,
}

/// An opening whose process is being found out.
struct Awaiting {
    info: SocketInfo,
    since: u64,
}

struct Closing {
    time: u64,
    final_positions: [u32; 2],
    error: Option<i32>,
    kernel_tls: bool,
}

#[derive(Default)]
pub(super) struct Conn {
    known: Option<Known>,
    /// A socket pair without names, of which it is not known yet who asks.
    unsure: Option<Box<SocketInfo>>,
    /// Its process is not known yet.
    awaiting: Option<Box<Awaiting>>,
    streams: [Stream; 2],
    cover: Cover,
    /// What a load balancer has put in front was stepped over.
    is_behind_header: bool,
    /// Joined midway, and not known to be anything yet: it may be within TLS.
    records: Option<Records>,
    http: Option<Http>,
    /// It leads to a DNS server.
    dns: Option<Box<Answers>>,
    /// Left out by process or direction, or speaking something else: only its end is awaited.
    pub(super) ignored: bool,
    /// No event of it goes out.
    silent: bool,
    order: Order,
    transactions: u64,
    /// CLOCK_BOOTTIME of the last event, of whatever kind.
    pub(super) latest: u64,
    reported: Nanos,
    closing: Option<Closing>,
    /// The latest event when it was last kept for the next agent.
    kept_at: Option<u64>,
    /// Where the last events that found no room ended, as far as that was told.
    lost: [Option<u32>; 2],
    /// Key in the kernel's table.
    pub(super) socket: u64,
    id: u64,
    /// Held bytes as last counted in [`Env::memory`].
    accounted: usize,
    /// Only time, or an event from another CPU, lets it go on.
    pub(super) is_waiting: bool,
    /// Its id is in the shard's list of those.
    pub(super) is_noted: bool,
}

impl Conn {
    pub(super) fn new(id: u64, socket: u64) -> Conn {
        Conn { id, socket, records: Some(Records::default()), ..Conn::default() }
    }

    /// The kernel told of the connection.
    pub(super) fn open(&mut self, info: &SocketInfo, env: &mut Env) {
        if self.known.is_some() || self.awaiting.is_some() {
            return;
        }
        if info.role == Role::Unknown && !self.streams.iter().any(Stream::is_waiting) {
            self.unsure = Some(Box::new(info.clone()));
            return;
        }
        self.awaiting = Some(Box::new(Awaiting { info: info.clone(), since: self.latest }));
        self.identify(env);
    }

    /// Goes on with a connection that was opened, once its process is known, or as much of it as can be in time.
    pub(super) fn identify(&mut self, env: &mut Env) {
        let Some(awaiting) = self.awaiting.take() else { return };
        let owner = &awaiting.info.owner;
        let is_late = awaiting.since.saturating_add(IDENTIFIED_WITHIN) <= env.settled;
        let is_settled = awaiting.since <= env.settled;
        match env.processes.find(owner, self.latest, is_settled) {
            Some(process) if is_late || env.settings.tap.filters.verdict(&process) != Tapped::NotYet => {
                self.opened(&awaiting.info, process, env);
            }
            _ if is_late => self.opened(&awaiting.info, env.processes.guess(owner), env),
            found => {
                // The events of its fork and exec may be on the way through another CPU's buffer.
                if found.is_none() && is_settled {
                    env.processes.look_for(owner, self.latest);
                }
                self.awaiting = Some(awaiting);
            }
        }
    }

    fn opened(&mut self, info: &SocketInfo, process: Arc<Process>, env: &mut Env) {
        let filters = &env.settings.tap.filters;
        let left_out = !filters.admits(&process);
        match filters.verdict(&process) {
            Tapped::No if left_out => env.control.judge(&info.owner, true),
            // Where its container's name decides, that was not known at its fork or exec.
            Tapped::Yes if !filters.containers.is_empty() => env.control.judge(&info.owner, false),
            _ => {}
        }
        let is_server = match info.role {
            Role::Server => true,
            Role::Client => false,
            // A Unix socket pair without names: the end that receives first is asked.
            Role::Unknown => self.streams[Flow::Received as usize].is_waiting(),
        };
        let direction = if is_server { Direction::Ingress } else { egress(&info.remote) };
        let connection = Connection {
            id: info.connection,
            direction,
            local: info.local.clone(),
            remote: info.remote.clone(),
            process,
            tls: None,
            written: Default::default(),
        };
        if left_out || !wants(env.settings.tap.direction, direction) {
            self.ignore(env);
            self.silent = true;
        }
        if let Some(base) = info.base {
            self.streams[0].start_at(base[0]);
            self.streams[1].start_at(base[1]);
            self.records = None;
        }
        self.socket = info.socket;
        match Answers::of(info, is_server).filter(|_| !self.ignored) {
            Some(answers) => self.dns = Some(Box::new(answers)),
            None => self.http = (!self.ignored).then(|| Http::new(info.base.is_some())),
        }
        self.known = Some(Known {
            connection: Arc::new(connection),
            opened: info.opened.map(|opened| env.wall(opened)),
            is_server,
        });
        self.reported = env.wall(self.latest);
        self.name_library();
        if info.base.is_none() && !self.ignored && !matches!(self.cover, Cover::Plain(..)) {
            self.go_on(env);
        }
    }

    /// Joined midway: an earlier agent may have kept it.
    fn go_on(&mut self, env: &mut Env) {
        let key = self.key();
        let (Some(known), Some(key)) = (&mut self.known, key) else { return };
        let Some(kept) = env.control.kept(&key) else { return };
        let sealed = Box::new(Sealed::of_kept(&kept, known.is_server, env.secrets));
        // The library shows in handshakes only.
        let tls = Tls { info: sealed.session.info().clone(), library: kept.library, uncovered: None };
        known.connection = Arc::new(Connection { tls: Some(tls), ..(*known.connection).clone() });
        self.cover = Cover::Sealed(sealed);
        self.records = None;
        self.kept_at = Some(self.latest);
    }

    /// By which the next agent knows it again; none where it is not TCP.
    fn key(&self) -> Option<SocketKey> {
        let connection = &self.known.as_ref()?.connection;
        SocketKey::new(self.socket, &connection.local, &connection.remote)
    }

    /// Keeps what the next agent needs to go on.
    fn keep(&mut self, env: &mut Env) {
        let (Cover::Sealed(sealed), Some(known), Some(key)) = (&self.cover, &self.known, self.key()) else { return };
        if let Some(mut kept) = sealed.keep(&self.streams, known.is_server) {
            kept.library = known.connection.tls.as_ref().and_then(|tls| tls.library);
            env.control.keep(&key, &kept.to_bytes());
            self.kept_at = Some(self.latest);
        }
    }

    /// Keeps it as it is now, if it has gone on for long enough.
    pub(super) fn keep_again(&mut self, now: u64, env: &mut Env) {
        if self.kept_at.is_some_and(|at| at < self.latest && at.saturating_add(KEEP_EVERY) <= now) {
            self.keep(env);
        }
    }

    /// Nobody will go on with it.
    fn forget(&mut self, env: &mut Env) {
        if let (Some(_), Some(key)) = (self.kept_at.take(), self.key()) {
            env.control.forget(&key);
        }
    }

    pub(super) fn is_known(&self) -> bool {
        self.known.is_some() || self.unsure.is_some()
    }

    /// Whether its opening was seen, but its process is not known yet.
    pub(super) fn is_awaiting(&self) -> bool {
        self.awaiting.is_some()
    }

    /// A call moved bytes.
    pub(super) fn data(&mut self, data: &Data, env: &mut Env) {
        self.latest = self.latest.max(data.time);
        if self.ignored || matches!(self.order.verdict, Verdict::Drop | Verdict::Plain) {
            return;
        }
        if let Some(info) = self.unsure.take() {
            self.streams[data.flow as usize].insert(data, true);
            self.open(&info, env);
            return self.advance(env);
        }
        if let Some(records) = &mut self.records {
            records.see(data);
        }
        let side = self.side(data.flow);
        if matches!(self.cover, Cover::Undecided) && side == Side::Request && self.known.is_some() {
            self.decide(data);
        }
        if !self.pass(side, data, env) {
            self.streams[data.flow as usize].insert(data, env.memory.excess() == 0);
        } else if self.is_at_rest() {
            return self.account(env);
        }
        self.advance(env);
    }

    /// Hands bytes on as they come, without keeping them, where nothing is before them; false where they have to wait.
    fn pass(&mut self, side: Side, data: &Data, env: &mut Env) -> bool {
        let (Some(known), Some(http)) = (&self.known, &mut self.http) else { return false };
        let stream = &mut self.streams[data.flow as usize];
        let (connection, secrets) = (&known.connection, env.secrets);
        let mut host = ConnHost { env, known, transactions: &mut self.transactions };
        match &mut self.cover {
            Cover::Clear if http.is_ready(side, false) && stream.pass(data) => {
                http.bytes(&mut host, connection, side, (data.payload, data.time, data.call_start), false);
                true
            }
            // Until it is kept, and known whose library that is, there is more to do than to open what comes.
            Cover::Sealed(sealed)
                if self.kept_at.is_some()
                    && connection.tls.as_ref().is_some_and(|tls| tls.library.is_some())
                    && sealed.is_flowing()
                    && stream.pass(data) =>
            {
                let from = if side == Side::Request { tls::Side::Client } else { tls::Side::Server };
                sealed.pass(from, data, secrets, |bytes| {
                    let is_ready = http.is_ready(side, false);
                    if is_ready {
                        http.bytes(&mut host, connection, side, bytes, false);
                    }
                    is_ready
                });
                true
            }
            _ => false,
        }
    }

    /// One direction carries no byte any more.
    pub(super) fn end(&mut self, flow: Flow, position: u32, time: u64, env: &mut Env) {
        self.latest = self.latest.max(time);
        if !matches!(self.cover, Cover::Plain(..)) {
            self.streams[flow as usize].end(position, time);
        }
        self.advance(env);
    }

    /// The socket is gone; what is still on the way from other CPUs is awaited.
    pub(super) fn close(&mut self, info: &SocketInfo, final_positions: [u32; 2], time: u64, env: &mut Env) {
        self.latest = self.latest.max(time);
        if self.known.is_none() {
            self.open(info, env);
            // What went by before the agent began, or while nobody wanted it, is no loss.
            if !info.is_met && !self.streams.iter().any(Stream::is_waiting) {
                self.streams.iter_mut().for_each(Stream::forget);
            }
        }
        self.closing = Some(Closing { time, final_positions, error: info.error, kernel_tls: info.kernel_tls });
    }

    /// Events found no room in a buffer: where the last ones of this connection ended.
    pub(super) fn lost(&mut self, lost: [Option<u32>; 2], now: u64, env: &mut Env) {
        // One of long ago says nothing: positions come round. And those of records say nothing of plaintext.
        if lost == self.lost || matches!(self.cover, Cover::Plain(..)) {
            return;
        }
        for flow in [Flow::Sent, Flow::Received] {
            let at = flow as usize;
            let Some(position) = lost[at].filter(|_| lost[at] != self.lost[at]) else { continue };
            self.streams[at].stands(position, now);
            let side = self.side(flow);
            if let (Some(known), Some(http), None) = (&self.known, &mut self.http, self.streams[at].next()) {
                // Of a stream joined midway there is no position yet from which a gap could be measured.
                let mut host = ConnHost { env, known, transactions: &mut self.transactions };
                http.unseen(&mut host, &known.connection, side, Gap { len: 0, why: Why::Lost, time: now });
            }
        }
        self.lost = lost;
        self.latest = self.latest.max(now);
        self.advance(env);
    }

    /// The client's first bytes, in one piece mostly, say what all others are.
    fn decide(&mut self, first: &Data) {
        let is_first = self.records.is_none() && self.streams[first.flow as usize].position() == Some(first.position);
        if is_first && (self.is_behind_header || Header::at_start(first.payload) == Header::No) {
            self.cover = Cover::of(first.payload);
        }
    }

    /// Whether bytes of HTTP that went straight through, as most do, leave nothing to go on with and nothing to tell.
    fn is_at_rest(&self) -> bool {
        let Some(http) = self.http.as_ref().filter(|http| http.state() == State::Http && !http.is_partial()) else {
            return false;
        };
        let is_flowing = match &self.cover {
            Cover::Clear => [Side::Request, Side::Response].iter().all(|&side| http.unwanted(side) < SKIP_LEAST),
            Cover::Sealed(sealed) => sealed.is_flowing(),
            Cover::Undecided | Cover::Plain(..) => false,
        };
        let is_quiet = self.records.is_none() && self.closing.is_none() && !self.is_waiting;
        is_flowing
            && is_quiet
            && self.order == Order::default()
            && self.streams.iter().all(|stream| !stream.is_waiting())
    }

    /// Goes as far as what has come, and what time has settled, allow.
    pub(super) fn advance(&mut self, env: &mut Env) {
        let is_idle = self.streams.iter().all(|stream| !stream.is_waiting());
        if let Some(dns) = &mut self.dns {
            while self.streams[Flow::Sent as usize].take(env.settled).is_some() {}
            if !dns.take(&mut self.streams[Flow::Received as usize], env) {
                self.ignore(env);
            }
        }
        if matches!(self.cover, Cover::Undecided) && !is_idle {
            self.decide_late(env.settled);
        }
        self.tell_older(env.settled, env);
        self.read_sealed(env.settled, env);
        if let (Some(known), Some(http), false) = (&self.known, &mut self.http, self.ignored) {
            let mut host = ConnHost { env, known, transactions: &mut self.transactions };
            match &mut self.cover {
                Cover::Undecided => {}
                Cover::Sealed(sealed) => advance(&mut host, http, &mut sealed.plain),
                Cover::Plain(streams, _) => advance(&mut host, http, streams),
                Cover::Clear if is_idle && !http.is_partial() => {}
                Cover::Clear => advance(&mut host, http, &mut self.streams),
            }
            let is_clear = matches!(self.cover, Cover::Clear);
            match http.state() {
                State::NotHttp => self.ignore(env),
                State::Tunnel => self.tunnel(env),
                State::Doubtful if is_clear && self.order.verdict == Verdict::Capture => {
                    self.order.verdict = Verdict::Look;
                    self.streams.iter_mut().for_each(|stream| stream.look(true));
                    env.control.order(self.id, &self.order);
                }
                State::Http if self.order.verdict == Verdict::Look => {
                    self.stop_looking();
                    self.order_skips(env);
                }
                _ if is_clear => self.order_skips(env),
                _ => {}
            }
        }
        self.account(env);
        self.is_waiting = self.closing.is_some()
            || !self.ignored
                && (!self.is_known()
                    || self.streams.iter().any(Stream::is_waiting)
                    || match &self.cover {
                        Cover::Sealed(sealed) => sealed.is_waiting(),
                        Cover::Plain(streams, _) => streams.iter().any(Stream::is_waiting),
                        Cover::Clear => self.records.as_ref().is_some_and(|records| records.since().is_some()),
                        Cover::Undecided => false,
                    }
                    || self.http.as_ref().is_some_and(|http| http.is_held_back(env.settled)));
    }

    /// Counts what is held.
    fn account(&mut self, env: &mut Env) {
        let mut held = self.streams[0].held() + self.streams[1].held();
        held += self.http.as_ref().map_or(0, |http| http.held());
        held += match &self.cover {
            Cover::Sealed(sealed) => sealed.held(),
            Cover::Plain(streams, _) => streams.iter().map(Stream::held).sum(),
            Cover::Undecided | Cover::Clear => 0,
        };
        env.memory.adjust(self.accounted, held);
        self.accounted = held;
    }

    /// The client's first bytes have come one by one, or will not come.
    fn decide_late(&mut self, settled: u64) {
        let Some(known) = &self.known else { return };
        let [asked, answered] = flows(known.is_server);
        let is_settled = |stream: &mut Stream| stream.front_time().is_some_and(|time| time <= settled);
        let is_older = self.records.is_some();
        let header = match !is_older || is_settled(&mut self.streams[asked as usize]) {
            true => self.header(asked),
            false => Header::No,
        };
        if let Header::Of(len) = header {
            self.streams[asked as usize].step_over(len as u64);
            self.is_behind_header = true;
        }
        let (has_asked, has_answered) =
            (is_settled(&mut self.streams[asked as usize]), is_settled(&mut self.streams[answered as usize]));
        // Joined midway, what comes first is not known before.
        if is_older && !has_asked && !has_answered {
            return;
        }
        let bytes = self.streams[asked as usize].first_bytes(TELLING);
        if header == Header::Perhaps && !bytes.is_empty() && !has_answered {
            return;
        }
        self.cover = Cover::of(&bytes);
        match self.cover {
            // Opened before, but the handshake is seen: all that is said in it will be.
            Cover::Sealed(_) if is_older && !self.ignored => self.http = Some(Http::new(true)),
            // What is answered already is no hello, whole or not; nor is what lacks its first byte.
            Cover::Undecided if has_answered || bytes.is_empty() && has_asked => {
                self.cover = Cover::Clear;
                if bytes.is_empty() && has_asked {
                    self.records.get_or_insert_default();
                }
            }
            _ => {}
        }
    }

    /// What may be in front of all that the client sends.
    fn header(&self, asked: Flow) -> Header {
        if self.is_behind_header {
            return Header::No;
        }
        Header::at_start(&self.streams[asked as usize].first_bytes(proxy::LONGEST))
    }

    /// Joined midway, and there were records of TLS, and nothing that is not within TLS. Where its library's functions are
    /// watched, word of that has come with the first record.
    fn tell_older(&mut self, settled: u64, env: &mut Env) {
        let (Some(records), Some(http), Cover::Clear) = (&self.records, &self.http, &self.cover) else { return };
        if !matches!(http.state(), State::Unrecognised | State::Doubtful) {
            self.records = None;
            // Nobody need watch its library's functions.
            env.control.order(self.id, &self.order);
        } else if records.since().is_some_and(|since| since <= settled) {
            self.cover = Cover::Sealed(Box::new(Sealed::older()));
            self.records = None;
        }
    }

    /// Lets the TLS layer take in what has come.
    fn read_sealed(&mut self, settled: u64, env: &mut Env) {
        let (Cover::Sealed(sealed), Some(known), false) = (&mut self.cover, &mut self.known, self.ignored) else {
            return;
        };
        sealed.read(&mut self.streams, known.is_server, settled, env.secrets);
        let uncovered = match sealed.session.state() {
            tls::State::NotTls => {
                sealed.read_as_clear();
                if known.connection.tls.is_some() {
                    known.connection = Arc::new(Connection { tls: None, ..(*known.connection).clone() });
                }
                return;
            }
            tls::State::Uncovered(why) => Some(why),
            _ => None,
        };
        let before = known.connection.tls.as_ref();
        let library = before.and_then(|tls| tls.library).or_else(|| match sealed.session.state() {
            tls::State::Handshake | tls::State::Failed | tls::State::Uncovered(Uncovered::NoSecret) => None,
            _ => env.secrets.libraries.of(known.connection.process.pid).map(Library::name),
        });
        if before.map(|tls| (&tls.info, tls.library, tls.uncovered))
            != Some((sealed.session.info(), library, uncovered))
        {
            let tls = Tls { info: sealed.session.info().clone(), library, uncovered };
            known.connection = Arc::new(Connection { tls: Some(tls), ..(*known.connection).clone() });
        }
        let is_open = sealed.session.state() == tls::State::Open;
        if uncovered.is_some() {
            env.stats.uncovered.add(&known.connection.process.exe, library);
            self.ignore(env);
        } else if is_open && self.kept_at.is_none() && self.order.verdict != Verdict::Drop {
            self.keep(env);
        }
    }

    /// The kernel was asked to do its TLS, and has, where nothing else explains what was seen.
    fn tell_kernel_tls(&mut self, env: &mut Env) {
        let (Cover::Sealed(sealed), Some(known), false) = (&self.cover, &mut self.known, self.silent) else { return };
        if !sealed.is_unopened() {
            return;
        }
        let before = known.connection.tls.clone().unwrap_or_default();
        if before.uncovered.is_none() {
            env.stats.uncovered.add(&known.connection.process.exe, Some(KTLS));
        }
        let tls = Tls { uncovered: Some(Uncovered::Kernel), ..before };
        known.connection = Arc::new(Connection { tls: Some(tls), ..(*known.connection).clone() });
    }

    /// Whether the socket is gone and everything of it has come.
    pub(super) fn is_over(&self, settled: u64) -> bool {
        self.awaiting.is_none() && self.closing.as_ref().is_some_and(|closing| closing.time <= settled)
    }

    /// The last of the connection: what is open goes out as it is. `stopping`: not the connection ends, but the agent.
    pub(super) fn finish(&mut self, env: &mut Env, stopping: bool) {
        let end = self.closing.as_ref().map_or(self.latest, |closing| closing.time);
        if let Some(awaiting) = self.awaiting.take() {
            self.opened(&awaiting.info, env.processes.guess(&awaiting.info.owner), env);
        }
        if let Some(closing) = &self.closing {
            for (stream, position) in self.streams.iter_mut().zip(closing.final_positions) {
                stream.close(position, closing.time);
            }
        }
        if matches!(self.cover, Cover::Undecided) {
            self.decide_late(u64::MAX);
        }
        if matches!(self.cover, Cover::Undecided) {
            self.cover = Cover::Clear;
        }
        self.tell_older(u64::MAX, env);
        self.advance(env);
        if matches!(&self.cover, Cover::Sealed(sealed) if sealed.session.is_waiting()) {
            // No secret comes any more.
            self.read_sealed(u64::MAX, env);
            self.advance(env);
        }
        if let (Some(known), Some(http), false) = (&self.known, &mut self.http, self.ignored) {
            let mut host = ConnHost { env, known, transactions: &mut self.transactions };
            // Where nobody said how far it went, what lasts until the end may have gone on.
            if !stopping && self.closing.is_some() {
                for side in [Side::Request, Side::Response] {
                    http.end(&mut host, &known.connection, side, end);
                }
            }
            http.close(&mut host, &known.connection, stopping);
        }
        match stopping && !self.ignored && self.order.verdict != Verdict::Drop {
            true => self.keep(env),
            false => self.forget(env),
        }
        env.memory.release(std::mem::take(&mut self.accounted));
        if self.closing.as_ref().is_some_and(|closing| closing.kernel_tls) {
            self.tell_kernel_tls(env);
        }
        let error = self.closing.as_ref().and_then(|closing| closing.error);
        self.report(env.wall(end), !stopping, error, env);
    }

    /// An event for the event stores.
    pub(super) fn report(&mut self, observed: Nanos, finalized: bool, error: Option<i32>, env: &mut Env) {
        let Some(known) = self.known.as_ref().filter(|_| !self.silent) else { return };
        self.reported = observed;
        env.memory.adjust(0, EVENT_WEIGHT);
        // Where only plaintext is seen, that is what is counted.
        let (streams, closing) = match (&self.cover, &self.closing) {
            (Cover::Plain(streams, _), _) => (&**streams, None),
            (_, closing) => (&self.streams, closing.as_ref()),
        };
        let moved = |flow: Flow| {
            let last = closing.map(|closing| closing.final_positions[flow as usize]);
            moved(&streams[flow as usize], last)
        };
        env.records.push(Record::Connection(Box::new(ConnectionEvent {
            connection: known.connection.clone(),
            protocol: self.protocol(),
            opened: known.opened,
            observed,
            bytes_sent: moved(Flow::Sent),
            bytes_received: moved(Flow::Received),
            bytes_lost: streams.iter().map(Stream::lost).sum(),
            transactions: self.transactions,
            finalized,
            error: error.map(errno_name),
        })));
        env.added(EVENT_WEIGHT);
    }

    /// Tells of calls that have been open for so long, and gives up those whose end must have been lost.
    pub(super) fn report_open(&mut self, now: u64, env: &mut Env) {
        if let (Some(known), Some(http)) = (&self.known, &mut self.http) {
            let before = env.settled.saturating_sub(SILENT_FOR);
            let mut host = ConnHost { env, known, transactions: &mut self.transactions };
            http.give_up(&mut host, &known.connection, before);
            http.report_open(&mut host, &known.connection, now.saturating_sub(LONG));
        }
    }

    /// When the last event went out.
    pub(super) fn reported(&self) -> Nanos {
        self.reported
    }

    pub(super) fn oldest_body(&self) -> Option<Nanos> {
        self.http.as_ref()?.oldest_body()
    }

    pub(super) fn drop_bodies(&mut self, env: &mut Env) -> usize {
        let freed = self.http.as_mut().map_or(0, |http| http.drop_bodies());
        env.memory.release(freed);
        freed
    }

    fn protocol(&self) -> Option<Protocol> {
        if self.dns.is_some() {
            return Some(Protocol::Dns);
        }
        self.http.as_ref()?.protocol()
    }

    fn side(&self, flow: Flow) -> Side {
        let is_server = self.known.as_ref().is_some_and(|known| known.is_server);
        if flows(is_server)[0] == flow { Side::Request } else { Side::Response }
    }

    /// Nothing of it is wanted any more.
    fn ignore(&mut self, env: &mut Env) {
        self.ignored = true;
        self.http = None;
        self.dns = None;
        self.drop_rest(env);
    }

    /// The peers left HTTP: the exchanges stay, the bytes go by.
    fn tunnel(&mut self, env: &mut Env) {
        if self.order.verdict != Verdict::Drop {
            self.drop_rest(env);
        }
    }

    fn drop_rest(&mut self, env: &mut Env) {
        self.streams.iter_mut().for_each(Stream::forget);
        self.order.verdict = Verdict::Drop;
        self.forget(env);
        env.control.order(self.id, &self.order);
    }

    /// The kernel has found a message and sends everything: a direction whose messages are found has no more gaps of that
    /// kind.
    fn stop_looking(&mut self) {
        for flow in [Flow::Sent, Flow::Received] {
            if self.http.as_ref().is_some_and(|http| http.is_synced(self.side(flow))) {
                self.streams[flow as usize].look(false);
            }
        }
    }

    /// Tells the kernel which body bytes nobody wants; and takes it back once they have gone by.
    fn order_skips(&mut self, env: &mut Env) {
        let Some(http) = &self.http else { return };
        let mut changed = false;
        for flow in [Flow::Sent, Flow::Received] {
            let side = self.side(flow);
            let stream = &mut self.streams[flow as usize];
            if stream.is_skipping() {
                continue;
            }
            let unwanted = http.unwanted(side).min(SKIP_MOST);
            let skip = unwanted >= SKIP_LEAST;
            if !skip && self.order.skip_to[flow as usize].is_none() {
                continue;
            }
            let Some(position) = stream.position() else { continue };
            let to = skip.then(|| position.wrapping_add(unwanted as u32));
            stream.skip_to(to);
            self.order.skip(flow, to);
            changed = true;
        }
        if changed {
            env.control.order(self.id, &self.order);
        }
    }
}

/// Bytes that went that way. `final_position`: where the socket stood in the end.
fn moved(stream: &Stream, final_position: Option<u32>) -> u64 {
    let (Some(first), Some(next)) = (stream.first(), stream.next()) else { return 0 };
    // It stands before what comes next where a header that was stepped over has not come whole.
    let beyond = final_position.map_or(0, |position| position.wrapping_sub(next as u32) as i32);
    next.saturating_sub(first).saturating_add_signed(beyond.into())
}

/// Feeds what there is to the decoders until neither side can go on: the side whose bytes were moved first
/// goes first.
fn advance(host: &mut ConnHost, http: &mut Http, sources: &mut [impl Source; 2]) {
    let [asked, answered] = flows(host.known.is_server);
    let mut sides = [(Side::Request, asked), (Side::Response, answered)];
    loop {
        let mut front = |flow: Flow| sources[flow as usize].front_time().unwrap_or(u64::MAX);
        sides.sort_by_key(|&(side, flow)| (front(flow), side == Side::Response));
        let fed = sides.iter().any(|&(side, flow)| feed(host, http, &mut sources[flow as usize], side));
        if !fed || matches!(http.state(), State::Tunnel | State::NotHttp) {
            break;
        }
    }
    let (known, settled) = (host.known, host.env.settled);
    http.settle(host, &known.connection, settled);
}

/// Feeds one item of one side, or what it kept of others; false where there is none, or the side has to wait for the other.
fn feed(host: &mut ConnHost, http: &mut Http, source: &mut impl Source, side: Side) -> bool {
    let connection = &host.known.connection;
    let settled = host.env.settled;
    if http.resume(host, connection, side, settled) {
        // The other side may have waited for this, with something older than this side's next item.
        return true;
    }
    let is_settled = source.front_time().is_some_and(|time| time <= settled);
    if !http.is_ready(side, is_settled) {
        return false;
    }
    let Some(item) = source.take(settled) else { return false };
    match item {
        Item::Bytes { data, time, call_start } => {
            http.bytes(host, connection, side, (&data, time, call_start), is_settled);
        }
        Item::Unseen { len, time, why } => {
            if why == Why::Lost && http.state() == State::Http {
                host.env.stats.lost_bytes.add(len);
            }
            http.unseen(host, connection, side, Gap { len, why, time });
        }
        Item::End { time } => {
            http.end(host, connection, side, time);
        }
    }
    true
}

/// The outside, as pairing sees it.
struct ConnHost<'a, 'e> {
    env: &'a mut Env<'e>,
    known: &'a Known,
    transactions: &'a mut u64,
}

impl<'e> ConnHost<'_, 'e> {
    fn stack(&self, request: Option<&Head>) -> Option<&'e Stack> {
        let settings = self.env.settings;
        match request {
            Some(head) if !settings.endpoints.is_empty() => {
                settings.stack_for(&url::host(&self.known.connection, head))
            }
            _ => settings.stack_for(""),
        }
    }
}

impl Host for ConnHost<'_, '_> {
    fn wanted(&mut self, request: Option<&Head>, response: Option<&Head>) -> Wanted {
        let Some(stack) = self.stack(request) else { return Wanted::NOTHING };
        plugin::wanted(stack, &self.env.settings.tags, &self.known.connection, request, response)
    }

    fn reserve(&mut self, bytes: usize) -> bool {
        self.env.memory.reserve(bytes)
    }

    fn release(&mut self, bytes: usize) {
        self.env.memory.release(bytes);
    }

    fn is_full(&self) -> bool {
        self.env.memory.excess() > 0
    }

    fn finished(&mut self, exchange: Box<Exchange>, wanted: Wanted) {
        *self.transactions += 1;
        self.env.traffic.count(&exchange);
        if wanted.record {
            self.hand_on(exchange);
        } else {
            self.env.memory.release(exchange.kept());
        }
    }

    fn still_open(&mut self, exchange: Box<Exchange>) -> u64 {
        self.hand_on(exchange)
    }
}

impl ConnHost<'_, '_> {
    /// Lets the plugins have it; answers its id.
    fn hand_on(&mut self, mut exchange: Box<Exchange>) -> u64 {
        if exchange.id == 0 {
            exchange.id = (self.env.next_id)();
        }
        let id = exchange.id;
        // Only here: events that are compared with each other must not be moved by a step of the wall clock.
        for message in exchange.messages_mut() {
            message.first_byte = self.env.wall(message.first_byte);
            message.last_byte = self.env.wall(message.last_byte);
        }
        let (kept, weight, before) = (exchange.kept(), exchange.weight(), self.env.records.len());
        if let Some(stack) = self.stack(exchange.request.as_ref().map(|request| &request.head)) {
            let env = &mut *self.env;
            plugin::finish(stack, &env.settings.tags, env.stats, exchange, &mut env.records);
        }
        if self.env.records.len() > before {
            self.env.memory.adjust(0, weight);
            self.env.added(kept + weight);
        } else {
            self.env.memory.release(kept);
        }
        id
    }
}

/// Which kind of egress leads to that peer.
pub(super) fn egress(remote: &Address) -> Direction {
    if remote.ip().is_some_and(is_public) { Direction::EgressExternal } else { Direction::EgressInternal }
}

/// Whether connections in that direction are tapped.
pub(super) fn wants(tap: TapDirection, direction: Direction) -> bool {
    match tap {
        TapDirection::All => true,
        TapDirection::Ingress => direction == Direction::Ingress,
        TapDirection::Egress => direction != Direction::Ingress,
        TapDirection::EgressInternal => direction == Direction::EgressInternal,
        TapDirection::EgressExternal => direction == Direction::EgressExternal,
    }
}

/// Not private, loopback or link-local (RFC 1918, 4193, 4291, 3927).
fn is_public(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => !(ip.is_private() || ip.is_loopback() || ip.is_link_local() || ip.is_unspecified()),
        IpAddr::V6(ip) => {
            !(ip.is_unique_local() || ip.is_loopback() || ip.is_unicast_link_local() || ip.is_unspecified())
        }
    }
}

/// The names that end connections; others as a number.
fn errno_name(errno: i32) -> String {
    let name = match errno {
        libc::ECONNREFUSED => "ECONNREFUSED",
        libc::ECONNRESET => "ECONNRESET",
        libc::ECONNABORTED => "ECONNABORTED",
        libc::ETIMEDOUT => "ETIMEDOUT",
        libc::EHOSTUNREACH => "EHOSTUNREACH",
        libc::ENETUNREACH => "ENETUNREACH",
        libc::EHOSTDOWN => "EHOSTDOWN",
        libc::EPIPE => "EPIPE",
        libc::EACCES => "EACCES",
        libc::EPERM => "EPERM",
        libc::EPROTO => "EPROTO",
        _ => return format!("errno {errno}"),
    };
    name.to_owned()
}
