//! One direction of a connection: pieces in any order in, bytes in order out, with every gap measured and explained.
//!
//! Knows positions and times, no protocol. A gap is told of only when nothing that fills it can still come: when every
//! CPU's buffer has been drained past its time ("settled").

use std::collections::VecDeque;

use crate::bpf::Data;

/// Bytes that pieces held back may take per direction, while the CPU that has those before them is behind; what comes
/// beyond is counted as lost.
const WINDOW: usize = 64 << 20;

/// Why bytes were not seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// They went past the process's memory: sendfile, splice, a call too large.
    Unobservable,
    /// We told the kernel not to copy them.
    Skipped,
    /// The kernel's buffer or our window was full.
    Lost,
}

/// What comes next in a direction.
#[derive(Debug, PartialEq, Eq)]
pub enum Item {
    Bytes {
        data: Vec<u8>,
        time: u64,
        call_start: bool,
    },
    Unseen {
        len: u64,
        time: u64,
        why: Why,
    },
    /// No byte follows.
    End {
        time: u64,
    },
}

impl Item {
    /// When it was moved, or the stream ended.
    pub fn time(&self) -> u64 {
        match self {
            Item::Bytes { time, .. } | Item::Unseen { time, .. } | Item::End { time } => *time,
        }
    }
}

#[derive(Debug)]
struct Piece {
    start: u64,
    len: u64,
    /// All of the piece, or nothing.
    data: Option<Vec<u8>>,
    time: u64,
    call_start: bool,
    why: Why,
}

impl Piece {
    fn end(&self) -> u64 {
        self.start + self.len
    }

    /// What it takes in memory: many small ones must not cost more than is counted.
    fn held(&self) -> usize {
        size_of::<Piece>() + self.data.as_ref().map_or(0, Vec::len)
    }
}

/// See the module. Positions are the kernel's 32-bit ones, continued to 64 bits.
#[derive(Debug, Default)]
pub struct Stream {
    /// Position of the next byte to hand out; none until the first piece of a stream joined midway has settled.
    next: Option<u64>,
    /// The first value of `next`.
    first: Option<u64>,
    /// By start; one that only says where the stream stands is before the bytes that begin there.
    pieces: VecDeque<Piece>,
    /// What `pieces` take in memory.
    held: usize,
    end: Option<(u64, u64)>,
    ended: bool,
    skip_to: Option<u64>,
    /// The kernel only sends calls that begin like a message.
    is_looking: bool,
    /// Bytes handed out as lost.
    lost: u64,
    /// What goes by is no loss any more.
    is_unwanted: bool,
}

impl Stream {
    /// A stream whose first byte will have position `base`.
    pub fn start_at(&mut self, base: u32) {
        // Pieces may have come before the opening, through another CPU.
        self.next = Some(self.extend(base));
        self.first = self.next;
    }

    /// What is held back takes so many bytes in memory.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Gives up what is held back: nothing of the stream is wanted any more.
    pub fn forget(&mut self) {
        let Stream { next, first, lost, .. } = *self;
        *self = Stream { next, first, lost, is_unwanted: true, ..Stream::default() };
    }

    /// Position of the first byte known of, continued to 64 bits.
    pub fn first(&self) -> Option<u64> {
        self.first
    }

    /// Bytes so far that were moved and did not arrive here.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// The next byte's position, continued to 64 bits.
    pub fn next(&self) -> Option<u64> {
        self.next
    }

    /// The next byte's position, as the kernel numbers it.
    pub fn position(&self) -> Option<u32> {
        self.next.map(|next| next as u32)
    }

    /// The first of the bytes that come next, as far as they have come: at most so many.
    pub fn first_bytes(&self, most: usize) -> Vec<u8> {
        let (mut bytes, mut at) = (Vec::new(), self.next.or(self.pieces.front().map(|piece| piece.start)));
        for piece in self.pieces.iter().filter(|piece| piece.len > 0) {
            let (Some(next), Some(data)) = (at, &piece.data) else { break };
            let Some(known) = next.checked_sub(piece.start).and_then(|old| data.get(old as usize..)) else { break };
            bytes.extend(known.iter().take(most - bytes.len()));
            at = Some(next.max(piece.end()));
        }
        bytes
    }

    /// Whether these bytes can be handed on at once; if so, they count as handed on.
    pub fn pass(&mut self, data: &Data) -> bool {
        let is_whole = data.payload.len() == data.moved as usize && data.moved > 0;
        match &mut self.next {
            Some(next) if is_whole && self.pieces.is_empty() && *next as u32 == data.position => {
                *next += u64::from(data.moved);
                true
            }
            _ => false,
        }
    }

    /// Keeps a piece until its turn; without `room` in memory, only that it was there. What was handed out already is
    /// dropped.
    pub fn insert(&mut self, data: &Data, room: bool) {
        let mut start = self.extend(data.position);
        let mut payload = data.payload;
        let mut len = u64::from(data.moved);
        if let Some(next) = self.next.filter(|&next| next > start) {
            let old = (next - start).min(len);
            payload = payload.get(old as usize..).unwrap_or_default();
            start += old;
            len -= old;
            // A piece without length says where the stream stands; one that is old says nothing.
            if len == 0 {
                return;
            }
        }
        let seen = payload.len() as u64;
        let fits = room && self.held + payload.len() + size_of::<Piece>() <= WINDOW;
        let why = if !fits && seen > 0 { Why::Lost } else { Why::Unobservable };
        let piece = Piece { start, len: seen, data: None, time: data.time, call_start: false, why };
        let rest = Piece { start: start + seen, len: len - seen, ..piece };
        if seen > 0 {
            let call_start = data.call_start && payload.len() == data.payload.len();
            self.keep(Piece { data: fits.then(|| payload.to_vec()), call_start, ..piece }, fits);
        }
        if rest.len > 0 || seen == 0 {
            self.keep(rest, fits);
        }
    }

    /// Puts a piece in its place. Without room it must not cost any: before the last piece there is a gap anyhow, and
    /// behind it one piece stands for all.
    fn keep(&mut self, piece: Piece, room: bool) {
        if !room && let Some(last) = self.pieces.back_mut() {
            if piece.start < last.start {
                return;
            }
            if last.data.is_none() {
                last.len = last.end().max(piece.end()) - last.start;
                last.time = last.time.max(piece.time);
                last.why = Why::Lost;
                return;
            }
        }
        let place = |piece: &Piece| (piece.start, piece.len > 0);
        let at = self.pieces.partition_point(|other| place(other) <= place(&piece));
        // The stream stood there when what follows was moved, and not only when that was told of.
        for before in self.pieces.range_mut(..at).rev().take_while(|before| before.len == 0) {
            before.time = before.time.min(piece.time);
        }
        self.held += piece.held();
        self.pieces.insert(at, piece);
    }

    /// No byte at or after this position follows.
    pub fn end(&mut self, position: u32, time: u64) {
        let position = self.extend(position);
        if self.end.is_none_or(|(end, _)| end > position) {
            self.end = Some((position, time));
        }
    }

    /// The socket is gone and stood there: what is missing up to there is a gap.
    pub fn close(&mut self, position: u32, time: u64) {
        self.stands(position, time);
        self.end = Some((self.extend(position), time));
    }

    /// The stream stood there at that time: what is missing up to there was lost.
    pub fn stands(&mut self, position: u32, time: u64) {
        let start = self.extend(position);
        // Of a stream joined midway the first pieces may still wait for time.
        let known = self.pieces.back().map(Piece::end).max(self.next);
        if known.is_some_and(|known| known < start) {
            self.keep(Piece { start, len: 0, data: None, time, call_start: false, why: Why::Lost }, true);
        }
    }

    /// Bytes before this position were not wanted; none: all are wanted again.
    pub fn skip_to(&mut self, position: Option<u32>) {
        self.skip_to = position.map(|position| self.extend(position));
    }

    /// When what comes next was moved.
    pub fn front_time(&mut self) -> Option<u64> {
        self.drop_old();
        self.pieces.front().map(|piece| piece.time).or(self.end.filter(|_| !self.ended).map(|(_, time)| time))
    }

    /// The next bytes are not handed out: so many, whether they have come or not.
    pub fn step_over(&mut self, count: u64) {
        let at = self.next.or(self.pieces.front().map(|piece| piece.start));
        self.first = self.first.or(at);
        self.next = at.map(|at| at + count);
        self.drop_old();
    }

    /// A piece that only says where the stream stands is nothing that comes: what lies behind it has another time.
    fn drop_old(&mut self) {
        while let (Some(first), Some(next)) = (self.pieces.front(), self.next)
            && first.end() <= next
        {
            self.held -= first.held();
            self.pieces.pop_front();
        }
    }

    /// From now on, or not any more, the kernel only sends calls that begin like a message.
    pub fn look(&mut self, is_looking: bool) {
        self.is_looking = is_looking;
    }

    /// Whether an order to skip is in force.
    pub fn is_skipping(&self) -> bool {
        self.skip_to.is_some_and(|to| self.next.is_some_and(|next| next < to))
    }

    /// Whether something is held that can go on without another event: by itself or once time has settled it.
    pub fn is_waiting(&self) -> bool {
        !self.pieces.is_empty() || self.end_is_reached()
    }

    /// What comes next; none while it is not known. `settled`: all events up to that time have been taken in.
    pub fn take(&mut self, settled: u64) -> Option<Item> {
        let item = self.take_next(settled)?;
        if let Item::Unseen { len, why: Why::Lost, .. } = item
            && !self.is_unwanted
        {
            self.lost += len;
        }
        Some(item)
    }

    fn take_next(&mut self, settled: u64) -> Option<Item> {
        loop {
            let Some(first) = self.pieces.front() else { return self.take_end() };
            let (start, time) = (first.start, first.time);
            let next = match self.next {
                Some(next) => next,
                None if time <= settled => {
                    self.first = Some(start);
                    start
                }
                None => return None,
            };
            if next < start {
                return self.take_gap(next, start, time, settled);
            }
            let piece = self.pieces.pop_front()?;
            self.held -= piece.held();
            self.next = Some(next.max(piece.end()));
            let old = next - piece.start;
            if old >= piece.len {
                continue;
            }
            return Some(match piece.data {
                Some(mut data) => {
                    data.drain(..old as usize);
                    Item::Bytes { data, time: piece.time, call_start: piece.call_start && old == 0 }
                }
                None => Item::Unseen { len: piece.len - old, time: piece.time, why: piece.why },
            });
        }
    }

    /// The bytes from `next` to `start`, where the next piece begins, are not there.
    fn take_gap(&mut self, next: u64, start: u64, time: u64, settled: u64) -> Option<Item> {
        let skipped = self.skip_to.map_or(0, |to| to.min(start).saturating_sub(next));
        let (len, why) = match skipped {
            0 if time > settled => return None,
            0 => {
                let stands = self.pieces.front().filter(|piece| piece.len == 0);
                let why = if self.is_looking { Why::Skipped } else { Why::Lost };
                (start - next, stands.map_or(why, |piece| piece.why))
            }
            skipped => (skipped, Why::Skipped),
        };
        self.next = Some(next + len);
        Some(Item::Unseen { len, time, why })
    }

    fn take_end(&mut self) -> Option<Item> {
        let (_, time) = self.end.filter(|_| self.end_is_reached())?;
        self.ended = true;
        Some(Item::End { time })
    }

    fn end_is_reached(&self) -> bool {
        !self.ended && self.end.is_some_and(|(end, _)| self.next.is_none_or(|next| next >= end))
    }

    /// The 64-bit position nearest to where the stream stands.
    fn extend(&self, position: u32) -> u64 {
        let near = self.next.or_else(|| self.pieces.front().map(|piece| piece.start)).or(self.end.map(|(end, _)| end));
        let Some(near) = near else { return first_position(position) };
        near.wrapping_add_signed(i64::from(position.wrapping_sub(near as u32) as i32))
    }
}

/// Far from both ends of 64 bits, whatever steps of half of 32 bits follow.
fn first_position(position: u32) -> u64 {
    (1 << 62) + u64::from(position)
}

#[cfg(test)]
mod tests;
