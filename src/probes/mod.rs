//! Finds the files that hold TLS libraries and puts our programs at the functions there that derive keys.
//!
//! A program at a function of a file runs in every process that has the file mapped, now or later: each file is looked at
//! once, and found before it is used where libraries usually lie; it is let go where there is no room for others and no
//! process needs it any more. Executables that the filters leave out, and what only they load, are not looked at, but for the
//! libraries that lie in the usual folders: those are everyone's. What is not found in time is missed: a handshake is over
//! before anybody could look. The thread of this folder reads files of other processes, which may take any time; no worker
//! waits for it. It writes into no process, follows none, and attaches to the entries of functions only; in OpenSSL 3 to where
//! secrets are handed to a key log, whether there is one or not.
//!
//! Connections that are older than the agent have no handshake to be seen: while a process has some, [`Fallback`] has
//! programs at the functions of OpenSSL, GnuTLS and Go that read and write there, and where these return.

mod elf;
mod fallback;
mod go;
mod places;
mod returns;
mod thread;
mod watch;

pub use fallback::Fallback;
pub use thread::Probes;
pub use watch::Watch;
