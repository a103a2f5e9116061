//! Secrets that libraries were seen using.

use std::fmt;

/// Which secret of TLS 1.3 is derived (RFC 8446 section 7.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Label {
    ClientEarly,
    ClientHandshake,
    ServerHandshake,
    ClientApplication,
    ServerApplication,
}

/// Which line of an NSS key log a secret is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LogLabel {
    /// CLIENT_RANDOM: the master secret of TLS 1.2 and before.
    Master,
    ClientEarly,
    ClientHandshake,
    ServerHandshake,
    ClientApplication,
    ServerApplication,
}

/// What a library was seen deriving.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// HKDF-Expand-Label (RFC 8446 section 7.1): `secret` is what is expanded, `context` the hash of the handshake.
    Expand { label: Label, secret: Vec<u8>, context: Vec<u8> },
    /// The master secret of TLS 1.2 and before, when keys are expanded from it (RFC 5246 section 6.3).
    Master { master: Vec<u8>, client_random: [u8; 32] },
    /// A line of an NSS key log.
    Log { label: LogLabel, client_random: [u8; 32], secret: Vec<u8> },
}

/// Says which secret, not what it is: nothing logs one by mistake.
impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Secret::Expand { label, .. } => write!(out, "Expand({label:?})"),
            Secret::Master { .. } => write!(out, "Master"),
            Secret::Log { label, .. } => write!(out, "Log({label:?})"),
        }
    }
}
