//! Records (RFC 8446 section 5.1): where each begins and ends, and what is held of a direction that cannot go on.

use std::collections::VecDeque;

use super::Piece;
use crate::conn::Why;

/// Bytes of a record's head.
pub(super) const HEAD: usize = 5;
/// The most behind a head, in any version (RFC 5246 section 6.2.3).
pub(super) const BODY_MOST: usize = (1 << 14) + 2048;

pub(super) const CHANGE_CIPHER_SPEC: u8 = 20;
pub(super) const ALERT: u8 = 21;
pub(super) const HANDSHAKE: u8 = 22;
pub(super) const DATA: u8 = 23;
const HEARTBEAT: u8 = 24;

/// Whether the first bytes of a client may be TLS: the head of a record that begins a ClientHello. None: too few.
pub fn looks_like_client(bytes: &[u8]) -> Option<bool> {
    let fits = |at: usize, fit: fn(u8) -> bool| bytes.get(at).is_none_or(|&byte| fit(byte));
    // The second length is the message's; no hello is longer than 64 KiB.
    let is_like = fits(0, |kind| kind == HANDSHAKE)
        && fits(1, |major| major == 3)
        && fits(2, |minor| minor <= 4)
        && fits(3, |length| length <= 0x40)
        && fits(5, |message| message == 1)
        && fits(6, |length| length == 0)
        && fits(9, |major| major == 3);
    match is_like {
        false => Some(false),
        true if bytes.len() < 10 => None,
        true => Some(true),
    }
}

/// Bytes of the sealed record that may begin so, its head included; none where none can.
pub fn sealed_record(head: &[u8; HEAD]) -> Option<u32> {
    let head = Head(*head);
    let is_like = head.is_possible() && (CHANGE_CIPHER_SPEC..=DATA).contains(&head.kind()) && head.len() > 0;
    is_like.then_some((HEAD + head.len()) as u32)
}

/// The head of a record.
///
/// ```text
/// type (8), version (16), length (16)
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Head(pub(super) [u8; HEAD]);

impl Head {
    pub(super) fn kind(self) -> u8 {
        self.0[0]
    }

    /// Bytes behind the head.
    pub(super) fn len(self) -> usize {
        usize::from(u16::from_be_bytes([self.0[3], self.0[4]]))
    }

    /// Whether it can be a record's at all.
    pub(super) fn is_possible(self) -> bool {
        (CHANGE_CIPHER_SPEC..=HEARTBEAT).contains(&self.kind())
            && self.0[1] == 3
            && self.0[2] <= 4
            && self.len() <= BODY_MOST
    }
}

/// A record, sealed or not.
#[derive(Debug, Clone, Copy)]
pub(super) struct Record<'a> {
    pub(super) head: Head,
    pub(super) body: &'a [u8],
    /// Of the piece that completed it.
    pub(super) time: u64,
    /// It began with a call.
    pub(super) call_start: bool,
}

/// Puts a direction's records together from its pieces. A record that lies whole in a piece is not copied, nor is a
/// body that comes in one piece behind its head, as libraries read them.
#[derive(Debug, Default)]
pub(super) struct Framer {
    head: Head,
    /// Bytes of the head.
    have: usize,
    /// What is there of a body that is not whole in one piece.
    body: Vec<u8>,
    call_start: bool,
    time: u64,
}

impl Framer {
    /// The next record of `data`, which is shortened by what is done with. The record stays the next until `done`.
    /// `time` and `call_start` are those of the piece that `data` begins in.
    pub(super) fn next<'r, 'd: 'r>(
        &'r mut self,
        data: &mut &'d [u8],
        (time, call_start): (u64, bool),
    ) -> Option<Record<'r>> {
        if !data.is_empty() {
            self.time = time;
        }
        if self.have == 0 {
            self.call_start = call_start;
        }
        let taken = data.len().min(HEAD - self.have);
        self.head.0[self.have..self.have + taken].copy_from_slice(&data[..taken]);
        self.have += taken;
        *data = &data[taken..];
        if self.have < HEAD {
            return None;
        }
        let record = Record { head: self.head, body: &[], time: self.time, call_start: self.call_start };
        let len = self.head.len();
        // One that is none is told of by its head.
        if !self.head.is_possible() {
            return Some(record);
        }
        if self.body.is_empty() && data.len() >= len {
            return Some(Record { body: &data[..len], ..record });
        }
        let taken = data.len().min(len - self.body.len());
        if self.body.capacity() == 0 && taken > 0 {
            self.body.reserve_exact(len);
        }
        self.body.extend_from_slice(&data[..taken]);
        *data = &data[taken..];
        if self.body.len() < len {
            return None;
        }
        Some(Record { body: &self.body, ..record })
    }

    /// The record was made use of; `data` is what `next` left.
    pub(super) fn done(&mut self, data: &mut &[u8]) {
        if self.body.is_empty() {
            *data = &data[self.head.len().min(data.len())..];
        }
        self.clear();
    }

    /// Forgets what it has of a record; returns how many bytes these are.
    pub(super) fn clear(&mut self) -> u64 {
        let had = self.taken();
        (self.have, self.body) = (0, Vec::new());
        had as u64
    }

    /// Bytes it has of a record.
    pub(super) fn taken(&self) -> usize {
        self.have + self.body.len()
    }

    pub(super) fn held(&self) -> usize {
        self.body.capacity()
    }
}

/// A piece that waits.
#[derive(Debug)]
pub(super) enum Held {
    Bytes { data: Vec<u8>, time: u64, call_start: bool },
    Unseen { len: u64, time: u64, why: Why },
    End { time: u64 },
}

impl Held {
    fn of(piece: Piece) -> Held {
        match piece {
            Piece::Bytes { data, time, call_start } => Held::Bytes { data: data.to_vec(), time, call_start },
            Piece::Unseen { len, time, why } => Held::Unseen { len, time, why },
            Piece::End { time } => Held::End { time },
        }
    }

    pub(super) fn piece(&self) -> Piece<'_> {
        match *self {
            Held::Bytes { ref data, time, call_start } => Piece::Bytes { data, time, call_start },
            Held::Unseen { len, time, why } => Piece::Unseen { len, time, why },
            Held::End { time } => Piece::End { time },
        }
    }

    /// What it takes in memory: many small ones must not cost more than is counted.
    fn weight(&self) -> usize {
        let data = if let Held::Bytes { data, .. } = self { data.len() } else { 0 };
        size_of::<Held>() + data
    }
}

/// The pieces of a direction that cannot go on.
#[derive(Debug, Default)]
pub(super) struct Queue {
    pieces: VecDeque<Held>,
    held: usize,
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// What it takes in memory.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    pub(super) fn push(&mut self, piece: Piece) {
        let held = Held::of(piece);
        self.held += held.weight();
        self.pieces.push_back(held);
    }

    /// Puts back what was left of the first.
    pub(super) fn put_back(&mut self, piece: Piece) {
        let held = Held::of(piece);
        self.held += held.weight();
        self.pieces.push_front(held);
    }

    pub(super) fn pop(&mut self) -> Option<Held> {
        let first = self.pieces.pop_front()?;
        self.held -= first.weight();
        Some(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO: [u8; 11] = [22, 3, 1, 2, 0, 1, 0, 1, 0xFC, 3, 3];

    #[test]
    fn a_hello_is_told_by_its_first_bytes() {
        for len in 0..10 {
            assert_eq!(looks_like_client(&HELLO[..len]), None, "{len}");
        }
        assert_eq!(looks_like_client(&HELLO[..10]), Some(true));
        assert_eq!(looks_like_client(&HELLO), Some(true));
        assert_eq!(looks_like_client(b"GET / HTTP/1.1\r\n"), Some(false));
        assert_eq!(looks_like_client(b"PRI * HTTP/2.0\r\n"), Some(false));
        assert_eq!(looks_like_client(&[22, 2]), Some(false));
        assert_eq!(looks_like_client(&[23, 3, 3, 0, 30, 1, 0, 1, 0, 3]), Some(false));
    }

    /// Every record of a stream, as a reader has them that gets so many bytes at a time.
    fn framed(stream: &[u8], at_a_time: usize) -> Vec<(Head, Vec<u8>, u64, bool)> {
        let (mut framer, mut records) = (Framer::default(), Vec::new());
        for (number, mut data) in stream.chunks(at_a_time).enumerate() {
            let mut piece = (number as u64, true);
            while let Some(record) = framer.next(&mut data, piece) {
                records.push((record.head, record.body.to_vec(), record.time, record.call_start));
                framer.done(&mut data);
                piece.1 = false;
            }
        }
        records
    }

    #[test]
    fn records_are_the_same_however_they_are_cut() {
        let stream = [&[22, 3, 1, 0, 3, 7, 8, 9][..], &[20, 3, 3, 0, 0], &[23, 3, 3, 0, 1, 5]].concat();
        let plain =
            |at_a_time| -> Vec<_> { framed(&stream, at_a_time).into_iter().map(|r| (r.0.kind(), r.1)).collect() };
        for at_a_time in 1..=stream.len() {
            assert_eq!(plain(at_a_time), [(22, vec![7, 8, 9]), (20, vec![]), (23, vec![5])]);
        }
    }

    #[test]
    fn a_record_has_the_time_of_what_completed_it() {
        let stream = [23, 3, 3, 0, 3, 7, 8, 9, 23, 3, 3, 0, 2, 1, 2];
        let times: Vec<_> = framed(&stream, 5).into_iter().map(|record| (record.2, record.3)).collect();
        assert_eq!(times, [(1, true), (2, false)]);
    }
}
