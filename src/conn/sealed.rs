//! A connection within TLS: what its streams carry goes through the TLS layer, and what comes out of that is read as HTTP.
//!
//! Owns the order in which both directions go through, and what waits until HTTP can take it. It knows nothing of keys:
//! those are `tls`'s.

use std::collections::VecDeque;

use super::flows;
use super::stream::{Item, Stream, Why};
use crate::bpf::{Data, Flow};
use crate::tls::{self, Kept, Library, Piece, Secrets, Session, Side, State};

/// Ciphertext that may wait for its secret in the TLS layer; what comes behind it stays in the streams.
const HELD_MOST: usize = 1 << 20;

/// Bytes of a client that say whether it speaks TLS, for sure.
pub(super) const TELLING: usize = 10;

/// What the bytes of a connection are, before they are read as HTTP.
#[derive(Default)]
pub(super) enum Cover {
    /// The client's first bytes have not come.
    #[default]
    Undecided,
    Clear,
    Sealed(Box<Sealed>),
    /// Its library was seen giving and taking what is within it, by [`Flow`].
    Plain(Box<[Stream; 2]>, Option<Library>),
}

impl Cover {
    /// What a client's first bytes say; too few say nothing.
    pub(super) fn of(first: &[u8]) -> Cover {
        match tls::looks_like_client(first) {
            None => Cover::Undecided,
            Some(false) => Cover::Clear,
            Some(true) => Cover::Sealed(Box::new(Sealed::new())),
        }
    }
}

/// Where items come from: a direction on the wire, or what TLS made of one.
pub(super) trait Source {
    /// When what comes next was moved.
    fn front_time(&mut self) -> Option<u64>;
    /// What comes next; none while it is not known. `settled`: all events up to that time have been taken in.
    fn take(&mut self, settled: u64) -> Option<Item>;
}

impl Source for Stream {
    fn front_time(&mut self) -> Option<u64> {
        Stream::front_time(self)
    }

    fn take(&mut self, settled: u64) -> Option<Item> {
        Stream::take(self, settled)
    }
}

/// The plaintext of one direction, until HTTP takes it.
#[derive(Default)]
pub(super) struct Plain {
    items: VecDeque<Item>,
    held: usize,
}

impl Plain {
    fn push(&mut self, piece: Piece) {
        let item = match piece {
            Piece::Bytes { data, time, call_start } => Item::Bytes { data: data.to_vec(), time, call_start },
            Piece::Unseen { len, time, why } => Item::Unseen { len, time, why },
            Piece::End { time } => Item::End { time },
        };
        self.keep(item);
    }

    fn keep(&mut self, item: Item) {
        self.held += weight(&item);
        self.items.push_back(item);
    }
}

impl Source for Plain {
    fn front_time(&mut self) -> Option<u64> {
        self.items.front().map(Item::time)
    }

    fn take(&mut self, _settled: u64) -> Option<Item> {
        let item = self.items.pop_front()?;
        self.held -= weight(&item);
        Some(item)
    }
}

fn weight(item: &Item) -> usize {
    size_of::<Item>() + if let Item::Bytes { data, .. } = item { data.len() } else { 0 }
}

pub(super) struct Sealed {
    pub(super) session: Session,
    /// By [`Flow`].
    pub(super) plain: [Plain; 2],
    /// What has come as it is, until the server has answered; then, if that was no hello, nothing is in TLS.
    early: Option<Vec<(Flow, Item)>>,
    is_clear: bool,
    /// Bytes were passed on as not seen.
    is_missing: bool,
    /// By [`Flow`]: where a direction stood when an earlier agent kept it, until its first bytes have come.
    stood: [Option<u32>; 2],
}

/// What a side sends, as the watched process sees it.
fn flow_of(side: Side, is_server: bool) -> Flow {
    let [asked, answered] = flows(is_server);
    if side == Side::Client { asked } else { answered }
}

impl Sealed {
    pub(super) fn new() -> Sealed {
        Sealed {
            session: Session::new(),
            plain: Default::default(),
            early: Some(Vec::new()),
            is_clear: false,
            is_missing: false,
            stood: [None; 2],
        }
    }

    /// Of a connection joined midway.
    pub(super) fn older() -> Sealed {
        Sealed { session: Session::older(), early: None, ..Sealed::new() }
    }

    /// Of a connection that an earlier agent has kept.
    pub(super) fn of_kept(kept: &Kept, is_server: bool, secrets: &Secrets) -> Sealed {
        let mut stood = [None; 2];
        for side in [Side::Client, Side::Server] {
            stood[flow_of(side, is_server) as usize] = Some(kept.position(side));
        }
        Sealed { session: Session::of_kept(kept, secrets), early: None, stood, ..Sealed::new() }
    }

    /// What the next agent needs of it, if it is at a place from which that can go on.
    pub(super) fn keep(&self, streams: &[Stream; 2], is_server: bool) -> Option<Kept> {
        self.session.keep(|side| {
            let flow = flow_of(side, is_server) as usize;
            streams[flow].position().or(self.stood[flow])
        })
    }

    /// Whether it is open and nothing is held in it: all that happens is that bytes come and plaintext goes.
    pub(super) fn is_flowing(&self) -> bool {
        self.session.state() == State::Open
            && self.early.is_none()
            && !self.is_clear
            && self.stood == [None; 2]
            && !self.is_waiting()
    }

    /// Opens bytes that come straight from the wire; to be asked only while it is flowing. `out` takes plaintext of that
    /// side, or says that it cannot now: then it waits here.
    pub(super) fn pass(
        &mut self,
        side: Side,
        data: &Data,
        secrets: &Secrets,
        mut out: impl FnMut((&[u8], u64, bool)) -> bool,
    ) {
        let Sealed { session, plain, is_missing, .. } = self;
        let piece = Piece::Bytes { data: data.payload, time: data.time, call_start: data.call_start };
        let flow = data.flow as usize;
        session.take(side, piece, secrets, &mut |from, piece| {
            let plain = if from == side { &mut plain[flow] } else { &mut plain[1 - flow] };
            let is_taken = match piece {
                Piece::Bytes { data, time, call_start } if from == side && plain.items.is_empty() => {
                    out((data, time, call_start))
                }
                _ => false,
            };
            if !is_taken {
                *is_missing |= matches!(piece, Piece::Unseen { .. });
                plain.push(piece);
            }
        });
    }

    /// Takes in what the streams have, as far as it can be opened or kept.
    pub(super) fn read(&mut self, streams: &mut [Stream; 2], is_server: bool, settled: u64, secrets: &Secrets) {
        let Sealed { session, plain, early, is_clear, is_missing, stood } = self;
        let flow_of = |side: Side| flow_of(side, is_server);
        if *is_clear {
            return plain.iter_mut().zip(streams).for_each(|(plain, stream)| {
                std::iter::from_fn(|| stream.take(settled)).for_each(|item| plain.keep(item));
            });
        }
        let mut out = |side: Side, piece: Piece| {
            *is_missing |= matches!(piece, Piece::Unseen { .. });
            plain[flow_of(side) as usize].push(piece);
        };
        session.resume(settled, secrets, &mut out);
        let mut sides = [Side::Client, Side::Server];
        while !matches!(session.state(), State::NotTls | State::Uncovered(_)) {
            if session.is_waiting() && session.held() > HELD_MOST {
                return;
            }
            sides.sort_by_key(|&side| streams[flow_of(side) as usize].front_time().unwrap_or(u64::MAX));
            let next = sides.iter().find_map(|&side| Some((side, streams[flow_of(side) as usize].take(settled)?)));
            let Some((side, item)) = next else { return };
            let piece = match &item {
                Item::Bytes { data, time, call_start } => Piece::Bytes { data, time: *time, call_start: *call_start },
                Item::Unseen { len, time, why } => Piece::Unseen { len: *len, time: *time, why: *why },
                Item::End { time } => Piece::End { time: *time },
            };
            let flow = flow_of(side) as usize;
            if let (Some(stood), Some(first)) = (stood[flow].take(), streams[flow].first()) {
                let len = (first as u32).wrapping_sub(stood).into();
                if len > 0 {
                    session.take(side, Piece::Unseen { len, time: item.time(), why: Why::Lost }, secrets, &mut out);
                }
            }
            session.take(side, piece, secrets, &mut out);
            if session.info().version.is_some() {
                *early = None;
            } else if let Some(early) = early {
                early.push((flow_of(side), item));
            }
        }
    }

    /// The server's answer was no hello: what has come, and what will, is to be read as it is.
    pub(super) fn read_as_clear(&mut self) {
        self.is_clear = true;
        for (flow, item) in self.early.take().unwrap_or_default() {
            self.plain[flow as usize].keep(item);
        }
    }

    /// Whether something behind the handshake could not be opened.
    pub(super) fn is_unopened(&self) -> bool {
        match self.session.state() {
            State::Handshake => self.is_missing,
            State::Lost | State::Uncovered(_) => true,
            State::Open | State::NotTls | State::Failed => false,
        }
    }

    /// Bytes of memory.
    pub(super) fn held(&self) -> usize {
        let early = self.early.iter().flatten().map(|(_, item)| weight(item)).sum::<usize>();
        early + self.session.held() + self.plain.iter().map(|plain| plain.held).sum::<usize>()
    }

    /// Whether something can go on without another event.
    pub(super) fn is_waiting(&self) -> bool {
        let session = &self.session;
        session.is_waiting() || session.is_gathering() || self.plain.iter().any(|plain| !plain.items.is_empty())
    }
}
