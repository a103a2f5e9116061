//! Finds the files that hold TLS libraries and puts our programs at the functions there that derive keys.
//!
//! A program at a function of a file runs in every process that has the file mapped, now or later: each file is looked at
//! once, and found before it is used where libraries usually lie. What is not found in time is missed: a handshake is
//! over before anybody could look. The thread of this folder reads files of other processes, which may take any time; no
//! worker waits for it. It writes into no process, attaches to the entries of functions only and follows no process.

mod elf;
mod places;
mod thread;
mod watch;

pub use thread::Probes;
pub use watch::Watch;
