//! TLS by its keys.

mod secrets;

pub use secrets::{Label, LogLabel, Secret};
