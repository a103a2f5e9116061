//! Connections: events of many sockets through many CPUs become one stream per direction, in order, gaps known.
//!
//! Owns the connection table, and tells the kernel what is not worth copying. It runs on the workers, under short
//! locks, and never waits. It leaves messages to `proto`, pairing to `exchange`, and what to keep to `plugin`.

mod connection;
mod dns;
mod quic;
mod records;
mod sealed;
mod stream;
mod table;

pub use connection::Env;
pub use stream::{Item, Stream, Why};
pub use table::{Progress, Table};

use crate::bpf::{Flow, Order, Owner, SocketInfo, SocketKey};
use crate::tls::{KEPT, Kept};

/// The kernel, as far as the table talks back to it. A replay has none.
pub trait Control: Send + Sync {
    /// What to copy of a connection from now on.
    fn order(&self, connection: u64, order: &Order);
    /// Whether a process is left out, as long as it is that program.
    fn judge(&self, process: &Owner, left_out: bool);
    /// The kernel's entry for a socket, while it has one.
    fn socket(&self, key: u64) -> Option<SocketInfo>;
    /// How many data events found no room in a buffer so far.
    fn lost_events(&self) -> u64;
    /// Keeps what the next agent needs of a connection within TLS; in place of what was kept of it before.
    fn keep(&self, _key: &SocketKey, _kept: &[u8; KEPT]) {}
    /// What an earlier agent has kept of it.
    fn kept(&self, _key: &SocketKey) -> Option<Kept> {
        None
    }
    /// Nothing of it is needed any more.
    fn forget(&self, _key: &SocketKey) {}
}

impl Control for crate::bpf::Kernel {
    fn order(&self, connection: u64, order: &Order) {
        crate::bpf::Kernel::order(self, connection, order);
    }

    fn judge(&self, process: &Owner, left_out: bool) {
        crate::bpf::Kernel::judge(self, process, left_out);
    }

    fn socket(&self, key: u64) -> Option<SocketInfo> {
        crate::bpf::Kernel::socket(self, key)
    }

    fn lost_events(&self) -> u64 {
        self.lost_data()
    }

    fn keep(&self, key: &SocketKey, kept: &[u8; KEPT]) {
        crate::bpf::Kernel::keep(self, key, kept);
    }

    fn kept(&self, key: &SocketKey) -> Option<Kept> {
        Kept::from_bytes(&crate::bpf::Kernel::kept(self, key)?)
    }

    fn forget(&self, key: &SocketKey) {
        crate::bpf::Kernel::forget(self, key);
    }
}

/// Nobody to talk back to.
pub struct NoControl;

impl Control for NoControl {
    fn order(&self, _connection: u64, _order: &Order) {}

    fn judge(&self, _process: &Owner, _left_out: bool) {}

    fn socket(&self, _key: u64) -> Option<SocketInfo> {
        None
    }

    fn lost_events(&self) -> u64 {
        0
    }
}

/// Which way the client's bytes go as the watched process sees them, and which way the server's.
fn flows(is_server: bool) -> [Flow; 2] {
    if is_server { [Flow::Received, Flow::Sent] } else { [Flow::Sent, Flow::Received] }
}

#[cfg(test)]
pub(crate) mod tests;
