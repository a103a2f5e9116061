//! The next record behind a gap: found by what a head can be, and proven, with its number, by its tag or MAC.
//!
//! How many records are missing is not known, only between how many and how many it must be; every number in between
//! is tried, nearest first. What that may cost is bounded by what the connection carried.

use super::cipher::Opener;
use super::keys::Epoch;
use super::record::{BODY_MOST, DATA, HEAD, Head, Record};
use super::session::{Phase, Scratch, Session};
use super::{Secrets, Side};
use crate::conn::Why;

/// Without a record in so many bytes there is none to be found: the longest are a third of that.
const SCAN_MOST: usize = 3 * (HEAD + BODY_MOST);
/// Bytes that may be tried to be opened from the start, and at most.
const TRIALS_FIRST: u64 = 4 << 20;
const TRIALS_MOST: u64 = 16 << 20;
/// Bytes that may be tried from the start where an earlier agent kept the connection: 65,536 records of 1 KiB.
const TRIALS_KEPT: u64 = 64 << 20;
/// Bytes that may be tried for each that was carried.
const TRIALS_EARNED: u64 = 4;
/// What a trial costs beside the bytes.
const TRIAL: u64 = 64;

/// What may still be tried.
#[derive(Debug)]
pub(super) struct Trials(u64);

impl Default for Trials {
    fn default() -> Trials {
        Trials(TRIALS_FIRST)
    }
}

impl Trials {
    /// Of a connection whose records went by while no agent ran.
    pub(super) fn of_kept() -> Trials {
        Trials(TRIALS_KEPT)
    }

    pub(super) fn earn(&mut self, bytes: usize) {
        let earned = (self.0 + TRIALS_EARNED * bytes as u64).min(TRIALS_MOST);
        self.0 = self.0.max(earned);
    }

    fn spend(&mut self, bytes: usize) -> Option<()> {
        self.0 = self.0.checked_sub(TRIAL + bytes as u64)?;
        Some(())
    }
}

/// Bytes that were not seen, and what came behind them until a record is found there.
#[derive(Debug)]
pub(super) struct Gap {
    /// Bytes from the last record's end on, up to `bytes`.
    pub(super) lost: u64,
    pub(super) time: u64,
    pub(super) why: Why,
    pub(super) bytes: Vec<u8>,
    /// Where in `bytes` calls began.
    pub(super) calls: Vec<usize>,
    /// There is no record before this place in `bytes`.
    pub(super) at: usize,
    /// The time of the last piece.
    pub(super) last: u64,
}

impl Gap {
    pub(super) fn new(lost: u64, time: u64, why: Why) -> Gap {
        Gap { lost, time, why, bytes: Vec::new(), calls: Vec::new(), at: 0, last: time }
    }

    pub(super) fn add(&mut self, data: &[u8], (time, call_start): (u64, bool)) {
        if call_start {
            self.calls.push(self.bytes.len());
        }
        self.bytes.extend_from_slice(data);
        self.last = time;
    }

    pub(super) fn is_call_start(&self, at: usize) -> bool {
        self.calls.contains(&at)
    }

    /// There is another gap behind it.
    pub(super) fn widen(&mut self, len: u64) {
        self.lost += self.bytes.len() as u64 + len;
        (self.bytes, self.calls, self.at) = Default::default();
    }

    pub(super) fn held(&self) -> usize {
        self.bytes.capacity() + self.calls.capacity() * size_of::<usize>()
    }

    /// All that is not opened of it.
    pub(super) fn len(&self) -> u64 {
        self.lost + self.bytes.len() as u64
    }
}

/// What a search came to.
pub(super) enum Found {
    /// A record begins `at` there, which `opener` opens. `unseen` bytes of data are missing before it.
    Record { phase: Phase, opener: Box<Opener>, at: usize, unseen: u64, is_updated: bool },
    /// Not yet: the record may begin `at` there.
    Nothing { at: usize },
    /// What may begin `at` there cannot be tried with all keys yet.
    Secret { at: usize },
    /// And there will not be one.
    Never,
}

/// Keys that the record may be sealed with, and the numbers it may have.
struct Candidate {
    epoch: Epoch,
    opener: Opener,
    numbers: std::ops::RangeInclusive<u64>,
    is_updated: bool,
}

impl Session {
    /// Looks for a record in what came behind a gap.
    pub(super) fn find(&mut self, side: Side, gap: &Gap, secrets: &Secrets) -> Found {
        let is_13 = self.keys.as_ref().is_some_and(|keys| keys.is_13());
        for at in gap.at..gap.bytes.len() {
            if at > SCAN_MOST {
                return Found::Never;
            }
            let Some(&bytes) = gap.bytes[at..].first_chunk() else { return Found::Nothing { at } };
            let head = Head(bytes);
            let is_like = head.is_possible() && head.0[2] == 3 && (head.kind() == DATA || !is_13);
            if !is_like {
                continue;
            }
            let Some(body) = gap.bytes.get(at + HEAD..at + HEAD + head.len()) else { return Found::Nothing { at } };
            let record = Record { head, body, time: gap.last, call_start: false };
            let lost = gap.lost + at as u64;
            let (candidates, is_all) = self.candidates(side, lost, secrets);
            for Candidate { epoch, mut opener, numbers, is_updated } in candidates {
                match self.number(&opener, numbers, &record) {
                    Number::Is(number) => {
                        let unseen = self.missing(side, epoch, (&opener, number), lost);
                        opener.sequence = number;
                        let (phase, opener) = (Phase::Sealed(epoch), Box::new(opener));
                        return Found::Record { phase, opener, at, unseen, is_updated };
                    }
                    Number::None => {}
                    Number::TooDear => return Found::Never,
                }
            }
            if !is_all {
                return Found::Secret { at };
            }
        }
        Found::Nothing { at: gap.bytes.len() }
    }

    /// What a record behind so many lost bytes may be sealed with, and whether these are all such keys.
    fn candidates(&mut self, side: Side, lost: u64, secrets: &Secrets) -> (Vec<Candidate>, bool) {
        let half = self.half(side);
        let (phase, sequence) = (half.phase, half.opener.as_ref().map_or(0, |opener| opener.sequence));
        let Some(keys) = &mut self.keys else { return (Vec::new(), true) };
        let now = match phase {
            Phase::Sealed(epoch) => epoch,
            _ => Epoch::Application,
        };
        let (mut candidates, mut is_all) = (Vec::new(), true);
        for epoch in [Epoch::Early, Epoch::Handshake, Epoch::Application].into_iter().filter(|&epoch| epoch >= now) {
            let is_now = phase == Phase::Sealed(epoch);
            match keys.opener(side, epoch, secrets) {
                Some(opener) => candidates.push(Candidate::new(epoch, opener, is_now.then_some(sequence), lost)),
                None => is_all = false,
            }
        }
        if now == Epoch::Application
            && let Some(opener) = keys.updated(side)
        {
            candidates.push(Candidate { is_updated: true, ..Candidate::new(now, opener, None, lost) });
        }
        (candidates, is_all)
    }

    /// The number with which a record opens.
    fn number(&mut self, opener: &Opener, numbers: std::ops::RangeInclusive<u64>, record: &Record) -> Number {
        if record.body.len() > opener.most_body() {
            return Number::None;
        }
        let mut scratch = Scratch::take();
        for number in numbers {
            if self.trials.spend(record.body.len()).is_none() {
                return Number::TooDear;
            }
            if scratch.open(opener, number, record).is_some() {
                return Number::Is(number);
            }
        }
        Number::None
    }

    /// Bytes of data in so many lost bytes, before the record that has this number of that epoch; 0 if there are none.
    fn missing(&mut self, side: Side, epoch: Epoch, (opener, number): (&Opener, u64), lost: u64) -> u64 {
        let is_13 = self.keys.as_ref().is_some_and(|keys| keys.is_13());
        let half = self.half(side);
        let before = match &half.opener {
            Some(before) if half.phase == Phase::Sealed(epoch) && number >= before.sequence => before.sequence,
            _ => 0,
        };
        // TLS 1.2's first record is its Finished.
        let first = if is_13 { 0 } else { 1 };
        let has_data = half.has_data() || epoch == Epoch::Application && number > first;
        if !has_data {
            return 0;
        }
        lost.saturating_sub((number - before).saturating_mul(opener.overhead())).max(1)
    }
}

impl Candidate {
    /// `sequence`: of the next record when the gap began; none if these keys came with a record that was lost.
    fn new(epoch: Epoch, opener: Opener, sequence: Option<u64>, lost: u64) -> Candidate {
        let (least, most) = (lost.div_ceil(opener.most()), lost / opener.least());
        let numbers = match sequence {
            Some(sequence) => sequence.saturating_add(least)..=sequence.saturating_add(most),
            None => 0..=most,
        };
        Candidate { epoch, opener, numbers, is_updated: false }
    }
}

/// What came of trying numbers.
enum Number {
    Is(u64),
    None,
    /// There may be one, but looking for it costs too much.
    TooDear,
}
