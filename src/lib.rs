//! sidetap records the HTTP traffic of a running machine from beside it.
//!
//! ```text
//!    kernel                                  user space
//!  bpf/*.bpf.c ─ ring buffer, one per CPU ─▶ bpf ─▶ conn ─▶ tls ─▶ proto ─▶ exchange ─▶ rules, plugin ─▶ sink
//!    socket I/O, connections,                bytes  streams  plain  messages  request +   what to keep     stdout
//!    processes, secrets                      events in order text             response
//!       ▲                                    └──── one worker thread per CPU ───────────────────────┘   └ threads ┘
//!       └─ probes: where TLS libraries are
//!    filters, "skip this body" ◀──────────── config, rules        every loss counted at every arrow ─▶ stats
//! ```
//!
//! `main` parses the command line and `config` the configuration; `agent` loads, attaches, spawns, waits and stops;
//! `pipeline` is the line above from an event's bytes to records, which `worker` runs live and `replay` runs on a
//! `recording`. `admin` tells how all of it is doing, and `privileges` gives up what it does not need.

pub mod cli;
pub mod config;

pub mod agent;
pub mod check;
pub mod keylog;
pub mod pipeline;
pub mod recording;
pub mod replay;
pub mod worker;

pub mod bpf;
pub mod conn;
pub mod probes;
pub mod proto;
pub mod tls;

pub mod digits;
pub mod exchange;
pub mod identity;
pub mod machine;
pub mod names;
pub mod url;
pub mod words;

pub mod plugin;
pub mod redact;
pub mod rules;

pub mod sink;
pub mod stats;

pub mod admin;
pub mod privileges;
