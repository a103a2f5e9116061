//! Records on standard output, or on anything that can be written to.
//!
//! Only whole records get in, in few large writes. Where the other end takes a part and refuses the rest, the rest is
//! kept and goes first the next time, so that no record is ever cut in two.

use std::io::{self, ErrorKind, Write};

use super::{Formatter, Sink};
use crate::exchange::Record;

/// The buffer is written out when it has this many bytes.
const FULL: usize = 256 * 1024;

/// Memory above this is given back after a large record.
const KEEP: usize = 4 * FULL;

pub struct Stdout<W = io::Stdout> {
    end: W,
    formatter: Formatter,
    /// whole records, less what of the first was written already
    buffer: Vec<u8>,
    /// how many records are in the buffer
    waiting: u64,
}

impl Default for Stdout {
    fn default() -> Stdout {
        Stdout::on(io::stdout())
    }
}

impl<W: Write> Stdout<W> {
    /// The same on another end.
    pub fn on(end: W) -> Stdout<W> {
        Stdout { end, formatter: Formatter::default(), buffer: Vec::new(), waiting: 0 }
    }

    fn make_room(&mut self) -> io::Result<()> {
        if self.buffer.len() < FULL { Ok(()) } else { self.write_out() }
    }

    /// Writes the buffer to the end, keeping what the end did not take.
    fn write_out(&mut self) -> io::Result<()> {
        let mut written = 0;
        let mut result = Ok(());
        while written < self.buffer.len() {
            match self.end.write(&self.buffer[written..]) {
                Ok(0) => {
                    result = Err(ErrorKind::WriteZero.into());
                    break;
                }
                Ok(some) => written += some,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        self.buffer.drain(..written);
        if self.buffer.is_empty() {
            self.waiting = 0;
        }
        if self.buffer.capacity() > KEEP {
            self.buffer.shrink_to(FULL);
        }
        result
    }
}

impl<W: Write + Send> Sink for Stdout<W> {
    fn write(&mut self, record: &Record) -> io::Result<()> {
        self.make_room()?;
        self.formatter.append(&mut self.buffer, record);
        self.waiting += 1;
        Ok(())
    }

    fn write_line(&mut self, line: &[u8]) -> io::Result<()> {
        self.make_room()?;
        self.buffer.extend_from_slice(line);
        self.waiting += 1;
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.write_out()?;
        self.end.flush()
    }

    fn waiting(&self) -> u64 {
        self.waiting
    }
}

#[cfg(test)]
mod tests {

    use super::super::sample::ingress;
    use super::*;
    use crate::exchange::{ConnectionEvent, Format, Level, TagList};

    /// Takes at most `room` bytes, `at_once` of them a call, then refuses.
    #[derive(Default)]
    struct End {
        taken: Vec<u8>,
        room: usize,
        at_once: usize,
        calls: usize,
    }

    impl Write for End {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.calls += 1;
            if self.calls.is_multiple_of(2) {
                return Err(ErrorKind::Interrupted.into());
            }
            let some = bytes.len().min(self.at_once).min(self.room);
            if some == 0 {
                return Err(ErrorKind::BrokenPipe.into());
            }
            self.taken.extend_from_slice(&bytes[..some]);
            self.room -= some;
            Ok(some)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn exchange() -> Record {
        ingress().request("GET / HTTP/1.1\nHost: a.test\n", "").record(Level::Full, Format::Json)
    }

    fn event() -> Record {
        Record::Connection(Box::new(ConnectionEvent {
            connection: ingress().connection,
            protocol: None,
            opened: None,
            observed: 0,
            bytes_sent: 0,
            bytes_received: 0,
            bytes_lost: 0,
            transactions: 0,
            finalized: true,
            error: None,
        }))
    }

    #[test]
    fn records_are_written_in_large_pieces() {
        let end = End { room: usize::MAX, at_once: usize::MAX, ..End::default() };
        let mut sink = Stdout::on(end);
        for _ in 0..10_000 {
            sink.write(&exchange()).unwrap();
        }
        sink.flush().unwrap();
        assert_eq!(sink.end.taken.iter().filter(|&&byte| byte == b'\n').count(), 10_000);
        assert!(sink.end.calls < 2 * (sink.end.taken.len() / FULL + 2), "{} calls", sink.end.calls);
    }

    #[test]
    fn no_record_is_cut_in_two() {
        let mut sink = Stdout::on(End { room: 100, at_once: 7, ..End::default() });
        sink.write(&exchange()).unwrap();
        assert_eq!(sink.flush().unwrap_err().kind(), ErrorKind::BrokenPipe);
        assert_eq!(sink.end.taken.len(), 100);
        sink.end.room = usize::MAX;
        sink.write(&event()).unwrap();
        sink.flush().unwrap();
        let text = String::from_utf8(sink.end.taken).unwrap();
        let parsed: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((&parsed[0]["type"], &parsed[1]["type"]), (&"http_transaction".into(), &"connection".into()));
    }

    #[test]
    fn an_end_that_refuses_does_not_fill_memory() {
        let mut sink = Stdout::on(End::default());
        let refused = (0..10_000).filter(|_| sink.write(&exchange()).is_err()).count();
        assert!(refused > 5_000);
        assert!(sink.buffer.len() < FULL + 2_000);
    }

    #[test]
    fn memory_of_a_large_record_is_given_back() {
        let mut record = ingress().request("PUT / HTTP/1.1\n", vec![b'a'; 4 * KEEP]).record(Level::Full, Format::Json);
        if let Record::Exchange { max_body_bytes, tags, .. } = &mut record {
            *max_body_bytes = usize::MAX;
            *tags = TagList::default();
        }
        let mut sink = Stdout::on(io::sink());
        sink.write(&record).unwrap();
        assert!(sink.buffer.len() > 4 * KEEP);
        sink.flush().unwrap();
        assert!(sink.buffer.capacity() <= FULL);
    }
}
