//! One connection's TLS: what each side's next record is, what it is opened with, and who waits for what.
//!
//! The two directions come without an order between them, and secrets come when they come. So a direction goes on until
//! it needs what is not there (the other side's hello, a secret) and holds what follows, within a bound.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;

use super::cipher::{Opened, Opener};
use super::handshake::{self, Message, Messages};
use super::kept::{Kept, Place};
use super::keys::{Epoch, Hellos, Keys};
use super::record::{ALERT, CHANGE_CIPHER_SPEC, DATA, Framer, HANDSHAKE, Queue, Record};
use super::resync::{Found, Gap, Trials};
use super::suite::Suite;
use super::{Out, Piece, Secrets, Side};
use crate::conn::Why;

const FATAL: u8 = 2;
const CLOSE_NOTIFY: u8 = 0;

/// Where it is not a library that seals.
pub const KTLS: &str = "ktls";

/// How long a secret may be missed after all events up to then were taken in, in ns: a library derives it within its
/// handshake, but the process may have to wait for its turn, or for a crypto engine.
pub(super) const PATIENCE: u64 = 5_000_000_000;
/// What a direction may hold of what it cannot go on with.
const HOLD_MOST: usize = 1 << 20;

/// What became of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// No record of data was opened yet.
    Handshake,
    /// Data is opened.
    Open,
    /// The client's first bytes are no ClientHello, or the server's no answer to one. Nothing was told of.
    NotTls,
    /// The handshake ended with an alert, or the connection before the handshake did.
    Failed,
    /// It cannot be opened.
    Uncovered(Uncovered),
    /// Bytes were not seen, and in one direction at least nothing behind them could be opened.
    Lost,
}

/// Why a connection cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Uncovered {
    /// No library was seen deriving its secrets in time.
    NoSecret,
    /// The secrets that were seen open nothing.
    WrongSecret,
    /// Older than TLS 1.2, or newer than TLS 1.3.
    Version,
    /// A cipher suite, or compression, that is not known here.
    Cipher,
    /// New keys were agreed on under the old ones (TLS 1.2).
    Renegotiated,
    /// Its handshake was before the agent looked.
    Older,
    /// The kernel seals and opens its records (kTLS): they are not between it and the process.
    Kernel,
}

impl fmt::Display for Uncovered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Uncovered::NoSecret => "no secret",
            Uncovered::WrongSecret => "wrong secret",
            Uncovered::Version => "version",
            Uncovered::Cipher => "cipher",
            Uncovered::Renegotiated => "renegotiated",
            Uncovered::Older => "older",
            Uncovered::Kernel => KTLS,
        })
    }
}

/// What a connection's handshake says, as far as known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Info {
    /// "1.3"
    pub version: Option<&'static str>,
    /// The host name that the client asked for.
    pub sni: Option<String>,
    /// What the server chose of what the client can speak inside, as "h2".
    pub alpn: Option<String>,
    /// The cipher suite's name with IANA; of one that is not known its number, as "0xC0AC".
    pub cipher: Option<Cow<'static, str>>,
}

/// What a side's next record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Part of its hello, in the clear.
    Hello,
    /// The client's, to which there is no answer yet.
    Asked,
    /// The client's of TLS 1.3, while it is open whether early data was accepted.
    Offered,
    /// In the clear up to a change of cipher spec (TLS 1.2).
    Clear,
    Sealed(Epoch),
}

/// What a direction cannot go on without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// The other side's messages.
    Peer,
    /// A secret, which was missed first at that time.
    Secret { since: u64 },
}

/// One direction.
pub(super) struct Half {
    pub(super) phase: Phase,
    pub(super) opener: Option<Box<Opener>>,
    pub(super) messages: Messages,
    /// Records that do not open are left out until one does: early data that was refused.
    skips: bool,
    framer: Framer,
    queue: Queue,
    wait: Option<Wait>,
    pub(super) gap: Option<Gap>,
    /// What is missing up to its first record is not told of: nobody has seen it begin.
    is_joining: bool,
    /// Nothing in it can be opened any more.
    is_lost: bool,
    /// Its end was told of.
    has_ended: bool,
}

impl Half {
    fn new() -> Half {
        Half {
            phase: Phase::Hello,
            opener: None,
            messages: Messages::default(),
            skips: false,
            framer: Framer::default(),
            queue: Queue::default(),
            wait: None,
            gap: None,
            is_joining: false,
            is_lost: false,
            has_ended: false,
        }
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.opener = None;
    }

    /// Whether what it carries is told of.
    pub(super) fn has_data(&self) -> bool {
        matches!(self.phase, Phase::Sealed(Epoch::Early | Epoch::Application))
    }
}

/// What a session reads with.
struct Io<'a, 'b> {
    secrets: &'a Secrets,
    out: &'a mut Out<'b>,
}

/// Whether a direction goes on.
enum Flow {
    On,
    Wait(Wait),
}

/// One connection's TLS layer. See the module.
pub struct Session {
    state: State,
    info: Info,
    client: Half,
    server: Half,
    /// Until there are keys.
    hellos: Hellos,
    hello: Option<handshake::ClientHello>,
    pub(super) keys: Option<Keys>,
    /// What the other direction may wait for has come.
    has_news: bool,
    pub(super) trials: Trials,
    /// An earlier agent has seen the handshake.
    is_kept: bool,
    /// Since when secrets for data are looked for that may be asked for much later.
    gathering: Gathering,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Gathering {
    /// The server's handshake is not over.
    #[default]
    NotYet,
    Since(u64),
    Over,
}

impl Default for Session {
    fn default() -> Session {
        Session::new()
    }
}

impl Session {
    /// Of a connection seen from its first byte.
    pub fn new() -> Session {
        Session {
            state: State::Handshake,
            info: Info::default(),
            client: Half::new(),
            server: Half::new(),
            hellos: Hellos::default(),
            hello: None,
            keys: None,
            has_news: false,
            trials: Trials::default(),
            is_kept: false,
            gathering: Gathering::NotYet,
        }
    }

    /// Of a connection whose handshake was not seen.
    pub fn older() -> Session {
        Session { state: State::Uncovered(Uncovered::Older), ..Session::new() }
    }

    /// Of a connection that an earlier agent has kept. What a side has sent since then is to come first, as unseen.
    pub fn of_kept(kept: &Kept, secrets: &Secrets) -> Session {
        let mut keys = Keys::of_kept(kept);
        let mut half = |side: Side| {
            let mut opener = keys.opener(side, Epoch::Application, secrets);
            opener.iter_mut().for_each(|opener| opener.sequence = kept.place(side).sequence);
            let phase = Phase::Sealed(Epoch::Application);
            Half { phase, opener: opener.map(Box::new), is_joining: true, ..Half::new() }
        };
        let (client, server) = (half(Side::Client), half(Side::Server));
        let (info, trials) = (kept.info(), Trials::of_kept());
        Session { client, server, info, keys: Some(keys), trials, is_kept: true, ..Session::new() }
    }

    /// What the next agent needs to go on, if both directions are at a place from which that can be done. `stands`: the
    /// position, as the kernel numbers bytes, behind all that was taken of a side.
    pub fn keep(&self, stands: impl Fn(Side) -> Option<u32>) -> Option<Kept> {
        let place = |side: Side, half: &Half| {
            let sequence = half.opener.as_ref().map_or(0, |opener| opener.sequence);
            let position = stands(side)?.wrapping_sub(half.framer.taken() as u32);
            half.is_quiet().then_some(Place { sequence, position })
        };
        let (client, server) = (place(Side::Client, &self.client)?, place(Side::Server, &self.server)?);
        let (suite, keys) = self.keys.as_ref()?.keep()?;
        let (sni, alpn) = (self.info.sni.clone(), self.info.alpn.clone());
        Some(Kept { suite, keys, client, server, sni, alpn, library: None })
    }

    /// Takes a piece of what one side sent, in order; plaintext comes out through `out`, in order per side. Bytes whose
    /// secret is not there yet are held, within a bound.
    pub fn take(&mut self, side: Side, piece: Piece, secrets: &Secrets, out: &mut Out) {
        let io = &mut Io { secrets, out };
        let time = piece.time();
        let half = self.half(side);
        if half.wait.is_some() || !half.queue.is_empty() {
            half.queue.push(piece);
            if half.held() > HOLD_MOST {
                self.overflow(side, io);
            }
        } else {
            self.piece(side, piece, io);
        }
        self.settle_news(io);
        self.gather(time, secrets);
    }

    /// Tries again what was held, after secrets may have come. `settled`: all events up to that time have been taken
    /// in; a connection whose secret is missed long before then is given up.
    pub fn resume(&mut self, settled: u64, secrets: &Secrets, out: &mut Out) {
        let io = &mut Io { secrets, out };
        for side in [Side::Client, Side::Server] {
            self.drain(side, io);
        }
        self.settle_news(io);
        for side in [Side::Client, Side::Server] {
            if let Some(Wait::Secret { since }) = self.half(side).wait
                && since.saturating_add(PATIENCE) < settled
            {
                self.give_up(side, io);
            }
        }
        self.settle_news(io);
        self.gather(settled, secrets);
    }

    /// Takes what secrets for data there are by now. A client's are logged after its last message has gone out, and the
    /// first data may come when nobody keeps them any more.
    fn gather(&mut self, now: u64, secrets: &Secrets) {
        if self.gathering == Gathering::Over || self.server.phase != Phase::Sealed(Epoch::Application) {
            return;
        }
        let Some(keys) = &mut self.keys else { return };
        let since = match self.gathering {
            Gathering::Since(since) => since,
            _ => now,
        };
        let is_over = keys.gather(secrets) || since.saturating_add(PATIENCE) < now;
        self.gathering = if is_over { Gathering::Over } else { Gathering::Since(since) };
    }

    /// Whether it is to be called again although nothing is held.
    pub fn is_gathering(&self) -> bool {
        matches!(self.gathering, Gathering::Since(_)) && self.keys.is_some()
    }

    /// Whether something is held that only a secret or time lets go on.
    pub fn is_waiting(&self) -> bool {
        [&self.client, &self.server].iter().any(|half| matches!(half.wait, Some(Wait::Secret { .. })))
    }

    /// Bytes of memory.
    pub fn held(&self) -> usize {
        let keys = self.keys.as_ref().map_or(0, Keys::held);
        size_of::<Session>() + keys + self.hellos.held() + self.client.held() + self.server.held()
    }

    pub fn state(&self) -> State {
        self.state
    }

    /// What is known so far: the host name once the client has spoken, the protocol inside from the first data on.
    pub fn info(&self) -> &Info {
        &self.info
    }

    pub(super) fn half(&mut self, side: Side) -> &mut Half {
        match side {
            Side::Client => &mut self.client,
            Side::Server => &mut self.server,
        }
    }

    fn is_over(&self) -> bool {
        match self.state {
            State::Handshake | State::Open => false,
            // One direction may still be opened.
            State::Lost => self.keys.is_none(),
            _ => true,
        }
    }

    /// Lets a direction go on where one has brought what the other waits for.
    fn settle_news(&mut self, io: &mut Io) {
        while std::mem::take(&mut self.has_news) {
            for side in [Side::Client, Side::Server] {
                self.drain(side, io);
            }
        }
    }

    /// Goes on with what a direction holds.
    fn drain(&mut self, side: Side, io: &mut Io) {
        let half = self.half(side);
        let wait = half.wait.take();
        if wait.is_none() && half.queue.is_empty() {
            return;
        }
        self.search(side, io);
        let half = self.half(side);
        if half.gap.is_none() && half.wait.is_none() {
            self.bytes(side, &[], (0, false), io);
        }
        while self.half(side).wait.is_none()
            && let Some(held) = self.half(side).queue.pop()
        {
            self.piece(side, held.piece(), io);
        }
        // What is still missed is missed since then.
        if let (Some(Wait::Secret { since }), Some(Wait::Secret { since: now })) = (wait, &mut self.half(side).wait) {
            *now = since.min(*now);
        }
    }

    /// Takes the next piece of a direction that waits for nothing.
    fn piece(&mut self, side: Side, piece: Piece, io: &mut Io) {
        if let Piece::End { time } = piece {
            return self.end(side, time, io);
        }
        if self.is_over() || self.half(side).has_ended {
            return;
        }
        match piece {
            Piece::Bytes { data, time, .. } if self.half(side).is_lost => {
                (io.out)(side, Piece::Unseen { len: data.len().max(1) as u64, time, why: Why::Lost });
            }
            Piece::Unseen { .. } if self.half(side).is_lost => (io.out)(side, piece),
            Piece::Bytes { data, time, call_start } => {
                self.trials.earn(data.len());
                if let Some(gap) = &mut self.half(side).gap {
                    gap.add(data, (time, call_start));
                    return self.search(side, io);
                }
                self.bytes(side, data, (time, call_start), io);
            }
            Piece::Unseen { len, time, why } => self.unseen(side, (len, time, why)),
            Piece::End { .. } => {}
        }
    }

    /// Takes bytes that follow on what was taken.
    fn bytes(&mut self, side: Side, mut data: &[u8], (time, mut call_start): (u64, bool), io: &mut Io) {
        loop {
            let mut framer = std::mem::take(&mut self.half(side).framer);
            let flow = framer.next(&mut data, (time, call_start)).map(|record| self.record(side, record, io));
            call_start = false;
            if let Some(Flow::On) = flow {
                framer.done(&mut data);
            }
            let is_over = self.is_over();
            let half = self.half(side);
            if half.has_ended || is_over {
                return;
            }
            if half.is_lost {
                if !data.is_empty() {
                    (io.out)(side, Piece::Unseen { len: data.len() as u64, time, why: Why::Lost });
                }
                return;
            }
            half.framer = framer;
            match flow {
                Some(Flow::On) => {}
                Some(Flow::Wait(wait)) => {
                    half.wait = Some(wait);
                    if !data.is_empty() {
                        half.queue.put_back(Piece::Bytes { data, time, call_start });
                    }
                    return;
                }
                None => return,
            }
        }
    }

    /// Reads a record, or says what it lacks.
    fn record(&mut self, side: Side, record: Record, io: &mut Io) -> Flow {
        if !record.head.is_possible() {
            self.broken(side, record.time, io);
            return Flow::On;
        }
        match self.half(side).phase {
            Phase::Sealed(epoch) => self.sealed(side, epoch, record, io),
            _ if record.head.kind() == ALERT => self.clear_alert(record),
            Phase::Hello => self.hello(side, record, io),
            Phase::Asked | Phase::Offered => Flow::Wait(Wait::Peer),
            Phase::Clear => {
                if record.head.kind() == CHANGE_CIPHER_SPEC {
                    self.half(side).enter(Phase::Sealed(Epoch::Application));
                }
                Flow::On
            }
        }
    }

    /// What cannot follow does: this is no TLS, or not what it was taken for.
    fn broken(&mut self, side: Side, time: u64, io: &mut Io) {
        match self.half(side).phase {
            Phase::Hello => self.close(State::NotTls),
            _ => self.lose(side, (1, time), io),
        }
    }

    /// An alert that is not sealed is level (8), description (8).
    fn clear_alert(&mut self, record: Record) -> Flow {
        if let [FATAL, _] = record.body {
            self.close(State::Failed);
        }
        Flow::On
    }

    /// A record where a hello is expected.
    fn hello(&mut self, side: Side, record: Record, io: &mut Io) -> Flow {
        match (side, record.head.kind()) {
            (_, CHANGE_CIPHER_SPEC) if self.hellos.is_retried() => return Flow::On,
            // Early data that a retry refuses.
            (Side::Client, DATA) if self.hellos.is_retried() => return Flow::On,
            (_, HANDSHAKE) => {}
            _ => {
                self.close(State::NotTls);
                return Flow::On;
            }
        }
        if side == Side::Server && self.client.phase != Phase::Asked {
            return Flow::Wait(Wait::Peer);
        }
        self.messages(side, record.body, record.time, io);
        Flow::On
    }

    /// Reads the messages that a record completes.
    fn messages(&mut self, side: Side, fragment: &[u8], time: u64, io: &mut Io) {
        let mut messages = std::mem::take(&mut self.half(side).messages);
        messages.add(fragment);
        loop {
            match messages.next() {
                Ok(Some(message)) => self.message(side, message, (time, io)),
                Ok(None) => break,
                Err(handshake::TooLong) => {
                    self.broken(side, time, io);
                    break;
                }
            }
            if self.is_over() {
                break;
            }
        }
        if !self.is_over() {
            self.half(side).messages = messages;
        }
    }

    fn message(&mut self, side: Side, message: Message, (time, io): (u64, &mut Io)) {
        use handshake::{CLIENT_HELLO, ENCRYPTED_EXTENSIONS, END_OF_EARLY_DATA, FINISHED, KEY_UPDATE, SERVER_HELLO};
        match (self.half(side).phase, side, message.kind) {
            (Phase::Hello, Side::Client, CLIENT_HELLO) => self.client_hello(message),
            (Phase::Hello, Side::Server, SERVER_HELLO) => self.server_hello(message),
            // HelloRequest, which says nothing here.
            (Phase::Hello, Side::Server, 0) => {}
            (Phase::Hello, ..) => self.close(State::NotTls),
            (Phase::Sealed(Epoch::Early), Side::Client, END_OF_EARLY_DATA) => {
                self.client.enter(Phase::Sealed(Epoch::Handshake));
            }
            (Phase::Sealed(Epoch::Handshake), Side::Client, FINISHED) => {
                self.client.enter(Phase::Sealed(Epoch::Application));
            }
            (Phase::Sealed(Epoch::Handshake), Side::Server, kind) => {
                if let Some(keys) = &mut self.keys {
                    keys.message(message.whole);
                }
                match kind {
                    ENCRYPTED_EXTENSIONS => match message.encrypted_extensions() {
                        Some(extensions) => self.encrypted_extensions(extensions),
                        None => self.broken(side, time, io),
                    },
                    FINISHED => self.server_finished(),
                    _ => {}
                }
            }
            (Phase::Sealed(Epoch::Application), _, KEY_UPDATE) => {
                if let Some(keys) = self.keys.as_mut().filter(|keys| keys.is_13()) {
                    let next = keys.updated(side).map(Box::new);
                    keys.update(side);
                    self.half(side).opener = next;
                }
            }
            _ => {}
        }
    }

    fn client_hello(&mut self, message: Message) {
        let Some(hello) = message.client_hello() else { return self.close(State::NotTls) };
        self.hellos.client(message.whole);
        self.info.sni = hello.server_name.clone();
        self.hello = Some(hello);
        self.client.enter(Phase::Asked);
        self.has_news = true;
    }

    fn server_hello(&mut self, message: Message) {
        let (Some(hello), Some(asked)) = (message.server_hello(), &self.hello) else {
            return self.close(State::NotTls);
        };
        self.info.version = match hello.version {
            0x0300 => Some("3.0"),
            0x0301 => Some("1.0"),
            0x0302 => Some("1.1"),
            0x0303 => Some("1.2"),
            0x0304 => Some("1.3"),
            _ => None,
        };
        let suite = Suite::numbered(hello.suite);
        self.info.cipher =
            Some(suite.map_or_else(|| format!("0x{:04X}", hello.suite).into(), |suite| suite.name.into()));
        let is_13 = match hello.version {
            0x0303 => false,
            0x0304 => true,
            _ => return self.close(State::Uncovered(Uncovered::Version)),
        };
        let Some(suite) = suite.filter(|_| Suite::is_of_13(hello.suite) == is_13 && !hello.is_compressed) else {
            return self.close(State::Uncovered(Uncovered::Cipher));
        };
        self.has_news = true;
        if !is_13 {
            self.info.alpn = hello.alpn;
            self.keys = Some(Keys::Tls12 {
                suite,
                client_random: asked.random,
                server_random: hello.random,
                encrypt_then_mac: asked.encrypt_then_mac && hello.encrypt_then_mac,
                master: None,
            });
            self.hellos = Hellos::default();
            self.client.enter(Phase::Clear);
            self.server.enter(Phase::Clear);
            return;
        }
        if hello.is_retry() {
            if self.hellos.is_retried() {
                return self.close(State::NotTls);
            }
            self.hellos.retry(suite.hash, message.whole);
            self.client.enter(Phase::Hello);
            return;
        }
        let offers_early_data = asked.offers_early_data && !self.hellos.is_retried();
        let hellos = std::mem::take(&mut self.hellos);
        self.keys = Some(Keys::of_13(suite, hellos, asked.random, message.whole));
        self.server.enter(Phase::Sealed(Epoch::Handshake));
        self.client.enter(if offers_early_data { Phase::Offered } else { Phase::Sealed(Epoch::Handshake) });
    }

    fn encrypted_extensions(&mut self, extensions: handshake::EncryptedExtensions) {
        self.info.alpn = extensions.alpn;
        if self.client.phase == Phase::Offered {
            let epoch = if extensions.accepts_early_data { Epoch::Early } else { Epoch::Handshake };
            self.client.enter(Phase::Sealed(epoch));
            self.client.skips = !extensions.accepts_early_data;
        }
        self.has_news = true;
    }

    fn server_finished(&mut self) {
        if let Some(keys) = &mut self.keys {
            keys.finish();
        }
        self.server.enter(Phase::Sealed(Epoch::Application));
        self.has_news = true;
    }

    /// A record after the keys were agreed on.
    fn sealed(&mut self, side: Side, epoch: Epoch, record: Record, io: &mut Io) -> Flow {
        let Some(keys) = &mut self.keys else { return Flow::On };
        match (keys.is_13(), record.head.kind()) {
            (true, DATA) => {}
            // Sent for middleboxes only (RFC 8446 section 5).
            (true, CHANGE_CIPHER_SPEC) => return Flow::On,
            (true, ALERT) => return self.clear_alert(record),
            (false, CHANGE_CIPHER_SPEC) => {
                self.close(State::Uncovered(Uncovered::Renegotiated));
                return Flow::On;
            }
            (true, _) => {
                self.lose(side, (1, record.time), io);
                return Flow::On;
            }
            (false, _) => {}
        }
        let half = match side {
            Side::Client => &mut self.client,
            Side::Server => &mut self.server,
        };
        if half.opener.is_none() {
            half.opener = keys.opener(side, epoch, io.secrets).map(Box::new);
        }
        let Some(opener) = &mut half.opener else { return Flow::Wait(Wait::Secret { since: record.time }) };
        if record.body.len() > opener.most_body() {
            self.broken(side, record.time, io);
            return Flow::On;
        }
        let mut scratch = Scratch::take();
        if let Some((kind, range)) = scratch.open(opener, opener.sequence, &record) {
            opener.sequence += 1;
            (half.skips, half.is_joining) = (false, false);
            self.opened(side, (kind, &scratch.bytes[range]), &record, io);
            return Flow::On;
        }
        drop(scratch);
        if half.skips {
            return Flow::On;
        }
        let is_first = opener.sequence == 0;
        if half.messages.is_lost() && epoch < Epoch::Application {
            return self.sealed_anew(side, epoch, record, io);
        }
        match is_first && self.state == State::Handshake {
            true => self.close(State::Uncovered(Uncovered::WrongSecret)),
            false => self.lose(side, (record.body.len() as u64, record.time), io),
        }
        Flow::On
    }

    /// A record that the keys before do not open, where the message that changes them may have been lost.
    fn sealed_anew(&mut self, side: Side, epoch: Epoch, record: Record, io: &mut Io) -> Flow {
        let next = match epoch {
            Epoch::Early => Epoch::Handshake,
            _ => Epoch::Application,
        };
        let opener = self.keys.as_mut().and_then(|keys| keys.opener(side, next, io.secrets));
        let Some(opener) = opener else { return Flow::Wait(Wait::Secret { since: record.time }) };
        let half = self.half(side);
        half.enter(Phase::Sealed(next));
        half.opener = Some(Box::new(opener));
        if side == Side::Server {
            self.has_news = true;
        }
        self.sealed(side, next, record, io)
    }

    /// A record was opened.
    fn opened(&mut self, side: Side, (kind, plain): (u8, &[u8]), record: &Record, io: &mut Io) {
        match kind {
            DATA if self.half(side).has_data() => {
                self.open();
                if !plain.is_empty() && !self.half(side).has_ended {
                    let (time, call_start) = (record.time, record.call_start);
                    (io.out)(side, Piece::Bytes { data: plain, time, call_start });
                }
            }
            HANDSHAKE => self.messages(side, plain, record.time, io),
            ALERT => match plain {
                [_, CLOSE_NOTIFY] => self.tell_end(side, record.time, io),
                [FATAL, _] if self.state == State::Handshake => self.close(State::Failed),
                [FATAL, _] => self.tell_end(side, record.time, io),
                _ => {}
            },
            _ => {}
        }
    }

    /// Data was opened.
    pub(super) fn open(&mut self) {
        if self.state == State::Handshake {
            self.state = State::Open;
            self.hello = None;
        }
    }

    /// Bytes of a direction were not seen.
    fn unseen(&mut self, side: Side, (len, time, why): (u64, u64, Why)) {
        let has_keys = self.keys.is_some();
        let half = self.half(side);
        if matches!(half.phase, Phase::Asked | Phase::Offered) {
            half.queue.push(Piece::Unseen { len, time, why });
            half.wait = Some(Wait::Peer);
            return;
        }
        if !has_keys {
            return self.close(State::Lost);
        }
        let len = len + half.framer.clear();
        if let Some(gap) = &mut half.gap {
            return gap.widen(len);
        }
        half.gap = Some(Gap::new(len, time, why));
        half.messages.lose();
        if (side, half.phase) != (Side::Server, Phase::Sealed(Epoch::Handshake)) {
            return;
        }
        // Whether early data was accepted was in what is missing.
        if self.client.phase == Phase::Offered {
            return self.close(State::Lost);
        }
        if let Some(keys) = &mut self.keys {
            keys.lose_transcript();
        }
        self.has_news = true;
    }

    /// Looks for the next record behind a gap.
    fn search(&mut self, side: Side, io: &mut Io) {
        let Some(gap) = self.half(side).gap.take() else { return };
        let (time, why) = (gap.time, gap.why);
        match self.find(side, &gap, io.secrets) {
            Found::Record { phase, opener, at, unseen, is_updated } => {
                if let Some(keys) = self.keys.as_mut().filter(|_| is_updated) {
                    keys.update(side);
                }
                let is_joining = std::mem::take(&mut self.half(side).is_joining);
                if unseen > 0 && !is_joining {
                    (io.out)(side, Piece::Unseen { len: unseen, time, why });
                }
                let half = self.half(side);
                half.phase = phase;
                half.opener = Some(opener);
                half.skips = false;
                if side == Side::Server {
                    self.has_news = true;
                }
                self.bytes(side, &gap.bytes[at..], (gap.last, gap.is_call_start(at)), io);
            }
            Found::Nothing { at } => self.half(side).gap = Some(Gap { at, ..gap }),
            Found::Secret { at } => {
                let half = self.half(side);
                half.wait = Some(Wait::Secret { since: gap.last });
                half.gap = Some(Gap { at, ..gap });
            }
            Found::Never => {
                let lost = gap.len();
                self.half(side).gap = Some(gap);
                self.lose(side, (lost, time), io);
            }
        }
    }

    /// Gives a direction up from here on; the other may go on. `len`: bytes that can not be opened, up to here.
    fn lose(&mut self, side: Side, (len, time): (u64, u64), io: &mut Io) {
        if self.state == State::Handshake {
            return self.close(State::Lost);
        }
        self.state = State::Lost;
        let half = self.half(side);
        let why = half.gap.take().map_or(Why::Lost, |gap| gap.why);
        let queue = std::mem::take(&mut half.queue);
        *half = Half { is_lost: true, queue, phase: half.phase, ..Half::new() };
        (io.out)(side, Piece::Unseen { len: len.max(1), time, why });
        self.has_news = true;
    }

    /// The stream of a side ended.
    fn end(&mut self, side: Side, time: u64, io: &mut Io) {
        let is_open = self.state == State::Open;
        let half = self.half(side);
        // Where the other side's data is opened, what was lost of this side's handshake may have had data behind it.
        if (half.has_data() || is_open)
            && let Some(gap) = half.gap.take()
        {
            (io.out)(side, Piece::Unseen { len: gap.len(), time: gap.time, why: gap.why });
        }
        if self.state == State::Handshake && !self.half(side).has_data() {
            self.close(State::Failed);
        }
        self.tell_end(side, time, io);
    }

    fn tell_end(&mut self, side: Side, time: u64, io: &mut Io) {
        let half = self.half(side);
        if std::mem::replace(&mut half.has_ended, true) {
            return;
        }
        half.forget();
        (io.out)(side, Piece::End { time });
    }

    /// A direction holds more than it may.
    fn overflow(&mut self, side: Side, io: &mut Io) {
        if !self.is_waiting() {
            return self.close(State::Lost);
        }
        self.give_up(side, io);
    }

    /// What a direction waits for has not come in time.
    fn give_up(&mut self, side: Side, io: &mut Io) {
        if self.state == State::Handshake {
            return self.close(State::Uncovered(Uncovered::NoSecret));
        }
        let half = self.half(side);
        let (len, time) = match (&half.gap, half.wait) {
            (Some(gap), _) => (gap.len(), gap.time),
            (None, Some(Wait::Secret { since })) => (1, since),
            (None, _) => (1, 0),
        };
        self.lose(side, (len, time), io);
    }

    /// Nothing more is opened. What is held is forgotten, secrets and all.
    fn close(&mut self, state: State) {
        let is_opened = self.state != State::Handshake;
        self.state = match state {
            // Too much went by since it was kept, or it is another connection.
            State::Lost | State::Uncovered(_) if self.is_kept && !is_opened => State::Uncovered(Uncovered::Older),
            state => state,
        };
        (self.keys, self.hello, self.hellos) = Default::default();
        self.client.forget();
        self.server.forget();
        self.has_news = true;
    }
}

impl Half {
    /// Between two records of data, with nothing missing or held.
    fn is_quiet(&self) -> bool {
        self.phase == Phase::Sealed(Epoch::Application)
            && self.gap.is_none()
            && self.wait.is_none()
            && self.queue.is_empty()
            && !(self.skips || self.is_lost || self.has_ended)
    }

    /// Drops what it has but its queue, in which there may be an end.
    fn forget(&mut self) {
        (self.opener, self.messages, self.framer, self.wait, self.gap) = Default::default();
    }

    fn held(&self) -> usize {
        let opener = if self.opener.is_some() { size_of::<Opener>() } else { 0 };
        let gap = self.gap.as_ref().map_or(0, Gap::held);
        opener + gap + self.queue.held() + self.framer.held() + self.messages.held()
    }
}

/// A buffer that records are opened in, one for each thread.
#[derive(Default)]
pub(super) struct Scratch {
    bytes: Vec<u8>,
}

thread_local! {
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

impl Scratch {
    pub(super) fn take() -> Scratch {
        Scratch { bytes: SCRATCH.take() }
    }

    /// Opens a copy of a record.
    pub(super) fn open(&mut self, opener: &Opener, sequence: u64, record: &Record) -> Option<Opened> {
        self.bytes.clear();
        self.bytes.extend_from_slice(record.body);
        opener.open(sequence, record.head, &mut self.bytes)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        SCRATCH.set(std::mem::take(&mut self.bytes));
    }
}
