//! Counts records and writes nothing: for measuring what the way to a sink costs.

use std::io;

use super::Sink;
use crate::exchange::Record;

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Null {
    pub exchanges: u64,
    pub connections: u64,
}

impl Sink for Null {
    fn write(&mut self, record: &Record) -> io::Result<()> {
        match record {
            Record::Exchange { .. } => self.exchanges += 1,
            Record::Connection(_) => self.connections += 1,
        }
        Ok(())
    }
}
