//! What the targets share.

pub use sidetap::{conn, proto, tls};
