//! The decoders under test.

#[path = "../../../src/proto/mod.rs"]
pub mod proto;
