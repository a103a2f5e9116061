//! Answers of DNS servers: names for addresses, and an event of their own for who wants to audit them.
//!
//! Whether a query was made for an answer is not looked at: a process that makes up answers for itself misleads nobody
//! but itself, for names hold in its network namespace only.

use std::sync::Arc;

use super::connection::{EVENT_WEIGHT, Env, egress, wants};
use super::stream::{Item, Stream};
use crate::bpf::SocketInfo;
use crate::exchange::{Connection, ConnectionEvent, Protocol, Record};
use crate::proto::dns::{self, Frames};

const PORT: u16 = 53;

/// A process received that, `moved` bytes, from port 53.
pub(super) fn answered(time: u64, info: &SocketInfo, moved: u32, message: &[u8], env: &mut Env) {
    let Ok(message) = dns::message(message) else { return };
    if !message.is_response {
        return;
    }
    env.processes.networks.get(info.netns).dns.answered(time, &message);
    if env.settings.tap.audit_include_dns {
        report(time, info, moved, env);
    }
}

/// The answers on a connection to a DNS server (RFC 7766).
#[derive(Default)]
pub(super) struct Answers {
    frames: Frames,
    net_namespace: u32,
}

impl Answers {
    /// For a connection that is one; none for others.
    pub(super) fn of(info: &SocketInfo, is_server: bool) -> Option<Answers> {
        let is_dns = !is_server && info.remote.port() == Some(PORT) && info.base.is_some();
        is_dns.then(|| Answers { net_namespace: info.netns, ..Answers::default() })
    }

    /// Takes what the stream has. False once it has a gap: where the next message begins cannot be told.
    pub(super) fn take(&mut self, stream: &mut Stream, env: &Env) -> bool {
        while let Some(item) = stream.take(env.settled) {
            match item {
                Item::Bytes { data, time, .. } => self.frames.push(&data, |message| {
                    if let Ok(message) = dns::message(message) {
                        env.processes.networks.get(self.net_namespace).dns.answered(time, &message);
                    }
                }),
                Item::Unseen { .. } => return false,
                Item::End { .. } => {}
            }
        }
        true
    }
}

fn report(time: u64, info: &SocketInfo, moved: u32, env: &mut Env) {
    let direction = egress(&info.remote);
    let is_loopback = info.remote.ip().is_some_and(|ip| ip.is_loopback());
    // Without waiting: an audit of names is not worth holding anything back.
    let process = env.processes.guess(&info.owner);
    let tap = &env.settings.tap;
    if !wants(tap.direction, direction) || tap.ignore_loopback && is_loopback || !tap.filters.admits(&process) {
        return;
    }
    let (local, remote) = (info.local.clone(), info.remote.clone());
    let connection =
        Connection { id: info.connection, direction, local, remote, process, tls: None, written: Default::default() };
    let observed = env.wall(time);
    env.memory.adjust(0, EVENT_WEIGHT);
    env.records.push(Record::Connection(Box::new(ConnectionEvent {
        connection: Arc::new(connection),
        protocol: Some(Protocol::Dns),
        opened: Some(observed),
        observed,
        bytes_sent: 0,
        bytes_received: moved.into(),
        bytes_lost: 0,
        transactions: 1,
        finalized: true,
        error: None,
    })));
    env.added(EVENT_WEIGHT);
}
