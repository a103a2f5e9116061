//! Sinks: where records go. Each runs on a thread of its own, behind a bounded queue.
//!
//! A sink writes whole records in its own form and place, and reports what failed. It decides nothing about what is
//! kept: level, form and limits come with each [`Record`]. It never makes anything up either: what an exchange lacks
//! is named in its `incomplete`. Where the forms of all stores allow it, workers have written most records already, with
//! the same [`Formatter`], and a sink gets lines.
//!
//! # How to add a sink
//!
//! 1. Add a file with a type that implements [`Sink`]. Keep a byte buffer in it, let [`Formatter::append`] write the
//!    records into that, and send it off whole: in `write` when it is full, in `flush` whatever there is.
//! 2. `write` answers with an error when it did not take the record; the caller counts it as lost and goes on. What
//!    was taken stays in the sink until it can be sent.
//! 3. Give it a variant in `config`'s store types, and build it in [`stores`], where the others are. Say there which
//!    records it takes as lines ([`queue::Lines`]), and take these in `write_line`.
//! 4. Over the network: implement `courier::Courier`, and let an `Intake` write; what was taken is on disk then until the
//!    store has it. [`otel`] is an example.
//! 5. Test it against [`stdout`]'s cases: whole records only, an end that refuses, an end that takes a byte at a time.

use std::io;

use crate::exchange::{BodyEncoding, Format, Level, Record};
use crate::redact::Redact;

mod access;
mod body;
mod compress;
mod courier;
mod encode;
pub mod file;
mod incomplete;
mod json;
mod lines;
pub mod otel;
mod put_aside;
pub mod queue;
pub mod s3;
#[cfg(test)]
pub(crate) mod sample;
mod spool;
pub mod stdout;
pub mod stores;
mod text;

pub use file::File;
pub use otel::Otel;
pub use s3::S3;
pub use stdout::Stdout;

/// Takes records and brings them to their place.
pub trait Sink: Send {
    /// Takes a record. It may stay in memory until `flush`. An error says that this record was not taken.
    fn write(&mut self, record: &Record) -> io::Result<()>;

    /// The same with a record that somebody has written as this sink would: only where the sink's [`queue::Lines`] allow
    /// that.
    fn write_line(&mut self, _: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Brings everything taken so far to its place. The caller does this whenever it has nothing more to write.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// The last flush: nothing is written after it. It may wait for a few seconds, not longer.
    fn close(&mut self) -> io::Result<()> {
        self.flush()
    }

    /// How many records were taken and are not at their place yet: lost, where that is so after `close`.
    fn waiting(&self) -> u64 {
        0
    }
}

/// How much of an exchange is written, and how.
#[derive(Debug, Clone, Copy)]
struct Shape<'a> {
    level: Level,
    encoding: BodyEncoding,
    /// Limit of a body whose content coding is undone, in bytes.
    max_body_bytes: usize,
    /// What to mask in bodies.
    redact: Option<&'a Redact>,
    tags: &'a [(String, String)],
}

/// Turns records into bytes. Keeps its working memory, so that a record costs no allocation once that is warm
/// (undoing a body's content coding aside).
#[derive(Debug, Default)]
pub struct Formatter {
    scratch: json::Scratch,
}

impl Formatter {
    /// Appends a whole record with its line ends. At level none that is nothing.
    pub fn append(&mut self, out: &mut Vec<u8>, record: &Record) {
        match record {
            Record::Exchange { exchange, level, format, encoding, max_body_bytes, redact, tags }
                if *format != Format::Json && *level > Level::None =>
            {
                let (max_body_bytes, redact) = (*max_body_bytes, redact.as_deref());
                let shape = Shape { level: *level, encoding: *encoding, max_body_bytes, redact, tags };
                match format {
                    Format::Text => text::append_exchange(out, exchange, &shape),
                    Format::Console => access::append_console(out, exchange),
                    Format::Common => access::append_common(out, exchange),
                    Format::Combined | Format::Json => access::append_combined(out, exchange),
                }
            }
            _ => self.append_json(out, record),
        }
    }

    /// The same as a line of JSON, whatever form the record is meant to have.
    pub fn append_json(&mut self, out: &mut Vec<u8>, record: &Record) {
        match record {
            Record::Exchange { level: Level::None, .. } => {}
            Record::Exchange { exchange, level, encoding, max_body_bytes, redact, tags, .. } => {
                let (max_body_bytes, redact) = (*max_body_bytes, redact.as_deref());
                let shape = Shape { level: *level, encoding: *encoding, max_body_bytes, redact, tags };
                json::append_exchange(out, &mut self.scratch, exchange, &shape);
            }
            Record::Usage { exchange, headers, tags } => {
                json::append_usage(out, &mut self.scratch, exchange, headers, tags);
            }
            Record::Connection(event) => json::append_connection(out, event),
            Record::Artifact(artifact) => json::append_artifact(out, artifact),
        }
    }
}
