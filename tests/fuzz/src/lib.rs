//! What the targets share.

pub use sidetap::proto;
