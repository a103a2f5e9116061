//! TLS by its keys: records in, plaintext out, for a connection whose secrets a library was seen deriving.
//!
//! Owns records, the handshake as far as it is in the clear, the key schedule and opening; which secret belongs to a
//! connection is looked up by what only that connection has (its transcript's hash or its client's random) and proven
//! by the first record it opens. Pure: no I/O, no clock, no logging, and nothing here ever seals. It verifies neither
//! certificates nor signatures, and refuses what it has no key schedule for: TLS 1.1 and older, CCM, renegotiation.
//!
//! ```text
//!            ciphertext, per side                                             plaintext, per side
//!   conn ──▶ record (framing, what is held) ──▶ session (who waits for what) ──▶ exchange
//!                                                │ handshake: hellos, messages
//!                         secrets (the store) ──▶│ schedule: secrets to keys
//!                                                │ cipher: keys to plaintext
//!                                                └ resync: the next record after a gap
//!                                                  kept: what the next agent needs to go on
//! ```
#![forbid(unsafe_code)]

mod cipher;
mod handshake;
mod kept;
pub mod keylog;
mod keys;
mod libraries;
mod record;
mod resync;
mod schedule;
mod secrets;
mod session;
mod suite;

pub use kept::{KEPT, Kept};
pub use keys::Epoch;
pub use libraries::{Libraries, Library};
pub use record::{looks_like_client, sealed_record};
pub use secrets::{LogLabel, Secret, Secrets};
pub use session::{Info, KTLS, Session, State, Uncovered};

use crate::conn::Why;

/// Which end of a connection sent something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    Client,
    Server,
}

/// What comes next in a direction: ciphertext on the way in, plaintext on the way out. Times are the kernel's, in ns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece<'a> {
    /// On the way out: all or part of a record's plaintext, never empty, with the time of the piece that completed the
    /// record; `call_start` where the record began with a call.
    Bytes { data: &'a [u8], time: u64, call_start: bool },
    /// Bytes that were not seen. On the way out `len` is the plaintext's as near as can be known, at least 1: exact
    /// where all that was lost were records of data with an AEAD and no padding.
    Unseen { len: u64, time: u64, why: Why },
    /// Nothing follows: the stream ended, or close_notify was sent.
    End { time: u64 },
}

impl Piece<'_> {
    pub(crate) fn time(&self) -> u64 {
        match self {
            Piece::Bytes { time, .. } | Piece::Unseen { time, .. } | Piece::End { time } => *time,
        }
    }
}

/// Where plaintext goes.
pub type Out<'a> = dyn FnMut(Side, Piece) + 'a;

#[cfg(test)]
pub(crate) mod tests;
