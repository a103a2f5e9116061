//! Who: the processes behind sockets, their containers, and the names they have for their peers.
//!
//! Workers ask [`Processes`], which answers from memory. It is filled by what the kernel says of a process at fork and
//! exec; what takes a file or a socket to find out is the identity thread's ([`Identity`]). While something is being
//! found out, a connection's bytes wait, for a while; after that it goes on with what is known.

pub mod cgroup;
pub mod containers;
mod files;
pub(crate) mod proc;
mod processes;
pub mod runtime;
mod thread;

pub use containers::Containers;
pub use processes::Processes;
pub use thread::Identity;
