//! A connection from before the agent whose TLS library is seen giving and taking what is within it.
//!
//! What the library gave was received, what it took was sent: by positions of their own, counted from the first byte that
//! was seen. The kernel says which connection that is, or that it is in doubt.

use std::sync::Arc;

use super::{Conn, ConnHost, Env};
use crate::bpf::{Data, Order, SocketKey, Verdict};
use crate::conn::sealed::{Cover, Sealed};
use crate::conn::stream::Stream;
use crate::exchange::http::{Http, State};
use crate::exchange::{Connection, Tls};
use crate::tls::{self, Library};

impl Conn {
    /// Its TLS library gave or took plaintext, or will. `is_doubtful`: or another connection's, from now on.
    pub(in crate::conn) fn plain(&mut self, data: &Data, library: Option<Library>, is_doubtful: bool, env: &mut Env) {
        self.latest = self.latest.max(data.time);
        if self.ignored || self.order.verdict == Verdict::Drop {
            return;
        }
        let is_plain = matches!(self.cover, Cover::Plain(..));
        if !is_plain && !is_doubtful && self.is_unread() && !self.may_go_on(env) {
            self.read_plain(library, env);
        }
        let Cover::Plain(streams, _) = &mut self.cover else { return };
        if is_doubtful {
            if let (Some(known), Some(http)) = (&self.known, &mut self.http) {
                let mut host = ConnHost { env, known, transactions: &mut self.transactions };
                http.close(&mut host, &known.connection, true);
            }
            self.cover = Cover::Sealed(Box::new(Sealed::older()));
        } else if data.moved > 0 {
            streams[data.flow as usize].insert(data, env.memory.excess() == 0);
        }
        self.advance(env);
    }

    /// Whether nothing is known to be on it, but maybe TLS.
    fn is_unread(&self) -> bool {
        let is_unread = |http: &Http| matches!(http.state(), State::Unrecognised | State::Doubtful);
        !matches!(self.cover, Cover::Sealed(_)) && self.http.as_ref().map_or(self.known.is_none(), is_unread)
    }

    /// Whether an earlier agent has kept it, while that was not asked yet.
    fn may_go_on(&self, env: &Env) -> bool {
        if self.known.is_some() {
            return false;
        }
        let info = env.control.socket(self.socket).filter(|info| info.connection == self.id);
        let key = info.and_then(|info| SocketKey::new(self.socket, &info.local, &info.remote));
        key.is_some_and(|key| env.control.kept(&key).is_some())
    }

    /// From now on it is read by what its library gives and takes. What was made of its records is forgotten.
    fn read_plain(&mut self, library: Option<Library>, env: &mut Env) {
        self.streams.iter_mut().for_each(Stream::forget);
        let mut streams = Box::<[Stream; 2]>::default();
        streams.iter_mut().for_each(|stream| stream.start_at(0));
        self.cover = Cover::Plain(streams, library);
        self.records = None;
        self.http = self.http.take().map(|_| Http::new(false));
        self.order = Order { verdict: Verdict::Plain, ..Order::default() };
        env.control.order(self.id, &self.order);
        self.name_library();
    }

    /// What is known of TLS where only plaintext is seen.
    pub(super) fn name_library(&mut self) {
        if let (Cover::Plain(_, library), Some(known)) = (&self.cover, &mut self.known) {
            let tls = Tls { info: tls::Info::default(), library: library.map(Library::name), uncovered: None };
            known.connection = Arc::new(Connection { tls: Some(tls), ..(*known.connection).clone() });
        }
    }
}
