//! Finding where a frame starts in the midst of a direction.
//!
//! Any byte may start one. Each that plausibly does begins a chain of frames, and the first chain to be proven says
//! where. What is done depends on the bytes alone and not on how they arrive: everything happens at the byte that
//! makes it known.

use std::collections::BTreeMap;

use super::Side;
use super::frame::{FrameHead, HEAD, Kind};
use super::looks::{PROOF, follows, points};

/// A chain that is not proven after so many bytes is given up.
const MAX_CHAIN: u64 = 128 << 10;
/// Chains followed at a time.
const MAX_CHAINS: usize = 256;
/// Payloads are looked at as long as they are not more than so many bytes for each byte searched, and these.
const MAX_WORK: u64 = 32;
const FREE_WORK: u64 = 1 << 20;

/// The search. Positions count from the first byte searched.
#[derive(Debug)]
pub(super) struct Search {
    side: Side,
    /// The position of the first byte not yet given up.
    begin: u64,
    /// Bytes before this position were taken in.
    looked: u64,
    /// Bytes of payloads looked at.
    work: u64,
    /// By the position at which their next frame starts.
    chains: BTreeMap<u64, Chain>,
}

#[derive(Debug, Clone, Copy)]
struct Chain {
    start: u64,
    points: u32,
    /// The last frame, whose payload ends where the next frame starts.
    last: FrameHead,
    /// The stream whose header block is not complete.
    open: Option<u32>,
    /// It is one body frame so far, which needs more of the same body behind it: the end of another frame can read like
    /// one, with all that truly follows behind it.
    is_doubtful: bool,
}

/// What is known after a look.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// No frame starts in so many bytes.
    Nothing(usize),
    /// One starts behind so many bytes.
    Frame(usize),
}

impl Search {
    pub(super) fn new(side: Side) -> Search {
        Search { side, begin: 0, looked: 0, work: 0, chains: BTreeMap::new() }
    }

    /// Goes on with the search. `input`: the bytes not yet given up.
    pub(super) fn look(&mut self, input: &[u8]) -> Seen {
        let end = self.begin + input.len() as u64;
        while self.looked < end {
            self.looked += 1;
            if let Some(start) = self.take_in(input) {
                return Seen::Frame((start - self.begin) as usize);
            }
        }
        let undecided = (self.looked + 1).saturating_sub(HEAD as u64).max(self.begin);
        let needed = self.chains.values().map(|chain| chain.start).fold(undecided, u64::min);
        let used = needed - self.begin;
        self.begin = needed;
        Seen::Nothing(used as usize)
    }

    /// One more byte: it may complete the payload of a chain's last frame, and the head of a frame.
    fn take_in(&mut self, input: &[u8]) -> Option<u64> {
        if let Some(chain) = self.chains.remove(&self.looked)
            && let Some(chain) = self.judge(chain, self.looked, input)
        {
            if chain.points >= PROOF {
                return Some(chain.start);
            }
            self.chains.insert(self.looked, chain);
        }
        let at = self.looked.checked_sub(HEAD as u64).filter(|&at| at >= self.begin)?;
        let head = FrameHead::parse(&input[(at - self.begin) as usize..])?;
        let chain = self.chains.remove(&at).and_then(|chain| chain.with(head)).or_else(|| Chain::new(at, head));
        let chain = chain.filter(|_| head.is_plausible(self.side))?;
        let next = self.looked + head.length as u64;
        if next - chain.start > MAX_CHAIN {
            return None;
        }
        if next > self.looked {
            self.keep(chain, next);
            return None;
        }
        let chain = self.judge(chain, next, input)?;
        if chain.points >= PROOF {
            return Some(chain.start);
        }
        self.keep(chain, next);
        None
    }

    /// The chain with the points of its last frame, which ends at `end`; none where it is no frame.
    fn judge(&mut self, chain: Chain, end: u64, input: &[u8]) -> Option<Chain> {
        let length = chain.last.length as u64;
        self.work += length;
        if self.work > FREE_WORK + MAX_WORK * self.looked {
            return None;
        }
        let payload = (end - length - self.begin) as usize..(end - self.begin) as usize;
        let points = points(&chain.last, &input[payload], self.side)?;
        Some(Chain { points: chain.points + points, ..chain })
    }

    /// Of two chains that meet, the one with more behind it goes on.
    fn keep(&mut self, chain: Chain, next: u64) {
        let other = self.chains.get(&next);
        let is_better = other.map_or(self.chains.len() < MAX_CHAINS, |other| chain.rank() > other.rank());
        if is_better {
            self.chains.insert(next, chain);
        }
    }

    /// Bytes of memory behind it.
    pub(super) fn weight(&self) -> usize {
        self.chains.len() * size_of::<(u64, Chain)>()
    }
}

impl Chain {
    /// None where no chain begins with such a frame: an empty one is too easily found.
    fn new(start: u64, last: FrameHead) -> Option<Chain> {
        let mut open = None;
        let begins = last.length > 0 && last.kind != Kind::Continuation && follows(&mut open, &last);
        begins.then_some(Chain { start, points: 0, last, open, is_doubtful: last.kind == Kind::Data })
    }

    fn with(mut self, next: FrameHead) -> Option<Chain> {
        let is_more = next.kind == Kind::Data && next.stream == self.last.stream;
        let follows = follows(&mut self.open, &next) && (!self.is_doubtful || is_more);
        follows.then_some(Chain { last: next, is_doubtful: false, ..self })
    }

    fn rank(&self) -> (u32, u64) {
        (self.points, u64::MAX - self.start)
    }
}
