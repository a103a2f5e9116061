//! Pieces in any order, wraps and overlaps included: what comes out is the stream, each gap once and with its reason.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::bpf::Flow;

fn data(position: u32, payload: &[u8], moved: u32, time: u64) -> Data<'_> {
    Data {
        time,
        connection: 1,
        socket: 1,
        flow: Flow::Sent,
        position,
        moved,
        payload,
        call_start: true,
        unobservable: false,
    }
}

/// A stream that starts at `base`.
fn from(base: u32) -> Stream {
    let mut stream = Stream::default();
    stream.start_at(base);
    stream
}

impl Stream {
    fn seen(&mut self, position: u32, payload: &[u8], time: u64) -> &mut Stream {
        self.insert(&data(position, payload, payload.len() as u32, time), true);
        self
    }

    /// All that comes out, a word an item.
    fn items(&mut self, settled: u64) -> String {
        let mut items = Vec::new();
        while let Some(item) = self.take(settled) {
            items.push(match item {
                Item::Bytes { data, call_start, .. } => {
                    format!("{}{}", if call_start { "" } else { "+" }, String::from_utf8_lossy(&data))
                }
                Item::Unseen { len, why, .. } => format!("{why:?}:{len}"),
                Item::End { time } => format!("end@{time}"),
            });
        }
        items.join(" ")
    }
}

#[test]
fn pieces_come_out_in_order() {
    let mut stream = from(100);
    assert_eq!(stream.seen(103, b"def", 2).items(0), "");
    assert_eq!(stream.seen(100, b"abc", 1).items(0), "abc def");
    assert_eq!((stream.held(), stream.position()), (0, Some(106)));
}

#[test]
fn positions_wrap() {
    let mut stream = from(u32::MAX - 1);
    assert_eq!(stream.seen(1, b"de", 2).seen(u32::MAX - 1, b"abc", 1).items(0), "abc de");
    assert_eq!(stream.next().unwrap() - stream.first().unwrap(), 5);
}

#[test]
fn the_base_may_come_last() {
    let mut stream = Stream::default();
    stream.seen(1, b"de", 2);
    stream.start_at(u32::MAX - 1);
    assert_eq!(stream.seen(u32::MAX - 1, b"abc", 1).items(0), "abc de");
}

#[test]
fn what_was_handed_out_does_not_come_again() {
    let mut stream = from(0);
    assert_eq!(stream.seen(0, b"abc", 1).seen(0, b"abcd", 2).seen(2, b"cdef", 3).items(0), "abc +d +ef");
    assert_eq!(stream.seen(1, b"bcdefg", 4).items(0), "+g");
}

#[test]
fn a_gap_is_told_of_once_nothing_can_fill_it() {
    let mut stream = from(0);
    stream.seen(5, b"fgh", 10);
    assert_eq!((stream.items(9), stream.is_waiting(), stream.front_time()), (String::new(), true, Some(10)));
    assert_eq!(stream.items(10), "Lost:5 fgh");
    assert_eq!(stream.seen(0, b"abcde", 1).items(10), "");
}

#[test]
fn joined_midway_the_first_piece_has_to_settle() {
    let mut stream = Stream::default();
    assert_eq!(stream.seen(1000, b"def", 10).items(9), "");
    assert_eq!(stream.seen(997, b"abc", 9).items(10), "abc def");
}

/// Nothing was taken to be missing, and a response that lasts until the connection's end was whole.
#[test]
fn what_is_missing_behind_pieces_that_have_not_settled_is_a_gap() {
    let mut stream = Stream::default();
    stream.seen(1000, b"abc", 10).close(1010, 11);
    assert_eq!(stream.items(11), "abc Lost:7 end@11");
}

#[test]
fn bytes_past_the_process_are_known_at_once() {
    let mut stream = from(0);
    stream.insert(&data(0, b"ab", 10, 1), true);
    stream.insert(&data(10, b"", 5, 2), true);
    assert_eq!(stream.items(0), "ab Unobservable:8 Unobservable:5");
}

#[test]
fn where_the_stream_stands_explains_the_gap_before_it() {
    let mut stream = from(0);
    // With the next call, at the same position, before or behind it.
    stream.insert(&data(10, b"", 0, 1), true);
    assert_eq!(stream.seen(10, b"ab", 2).items(2), "Unobservable:10 ab");
    stream.seen(20, b"cd", 4).insert(&data(20, b"", 0, 3), true);
    assert_eq!(stream.items(4), "Unobservable:8 cd");
}

#[test]
fn what_was_not_wanted_is_no_loss_and_needs_no_time() {
    let mut stream = from(0);
    stream.skip_to(Some(10));
    assert!(stream.is_skipping());
    assert_eq!(stream.seen(10, b"ab", 5).items(0), "Skipped:10 ab");
    assert!(!stream.is_skipping());
    stream.skip_to(Some(20));
    assert_eq!(stream.seen(25, b"cd", 5).items(5), "Skipped:8 Lost:5 cd");
}

#[test]
fn the_end_waits_for_the_bytes_before_it() {
    let mut stream = from(0);
    stream.end(3, 7);
    assert_eq!(stream.items(100), "");
    assert!(!stream.is_waiting(), "only another event helps");
    assert_eq!(stream.seen(0, b"abc", 5).items(0), "abc end@7");
    assert_eq!(stream.items(100), "");
}

#[test]
fn a_socket_that_is_gone_shows_what_is_missing() {
    let mut stream = from(0);
    stream.seen(0, b"abc", 5).close(10, 8);
    assert_eq!((stream.items(7), stream.items(8)), ("abc".into(), "Lost:7 end@8".into()));
}

#[test]
fn one_call_may_pass_without_being_kept() {
    let mut stream = from(0);
    assert!(stream.pass(&data(0, b"abc", 3, 1)));
    assert!(!stream.pass(&data(4, b"e", 1, 3)), "there is a gap before it");
    assert!(!stream.pass(&data(3, b"d", 2, 2)), "a part of it is missing");
    assert_eq!(stream.seen(3, b"d", 2).items(0), "d");
}

#[test]
fn without_room_only_the_length_is_kept() {
    let mut stream = from(0);
    stream.insert(&data(3, b"def", 3, 2), false);
    assert_eq!(stream.seen(0, b"abc", 1).items(0), "abc Lost:3");
}

#[test]
fn without_room_all_that_follows_is_one_gap() {
    let mut stream = from(0);
    for at in 1..1000 {
        stream.insert(&data(2 * at, b"x", 1, u64::from(at)), false);
    }
    assert!(stream.held() < 1000, "{}", stream.held());
    assert_eq!(stream.items(2000), "Lost:2 Lost:1997");
    assert_eq!(stream.seen(1999, b"ok", 3).items(0), "ok");
}

#[test]
fn without_room_what_lies_before_a_piece_is_a_gap() {
    let mut stream = from(0);
    stream.seen(1000, b"ok", 3);
    for at in 1..100 {
        stream.insert(&data(2 * at, b"x", 1, 2), false);
    }
    assert_eq!(stream.pieces.len(), 1);
    assert_eq!(stream.items(3), "Lost:1000 ok");
}

#[test]
fn small_pieces_fill_the_window_as_large_ones_do() {
    let mut stream = from(0);
    for at in 1..2_000_000 {
        stream.insert(&data(2 * at, b"x", 1, 1), true);
    }
    assert!(stream.pieces.len() * size_of::<Piece>() <= WINDOW, "{}", stream.pieces.len());
}

/// The bytes behind the end of a skipped body were taken to be settled when that end was: a response went ahead of a request
/// that was still on its way.
#[test]
fn where_the_stream_stands_settles_nothing_behind_it() {
    let mut stream = from(100);
    stream.skip_to(Some(150));
    stream.insert(&data(150, b"", 0, 10), true);
    stream.seen(150, b"abc", 20);
    assert_eq!(stream.take(0), Some(Item::Unseen { len: 50, time: 10, why: Why::Skipped }));
    assert_eq!(stream.front_time(), Some(20));
    assert_eq!(stream.items(0), "abc");
}

/// The gap waited for the time at which it was told of, and what came behind it for the gap; the other direction went on
/// without.
#[test]
fn a_loss_told_of_late_does_not_hold_back_what_follows() {
    let mut stream = from(100);
    stream.seen(100, b"abc", 1).items(1);
    stream.stands(105, 100);
    assert_eq!(stream.seen(105, b"def", 50).front_time(), Some(50));
    assert_eq!(stream.items(49), "");
    assert_eq!(stream.items(50), "Lost:2 def");
}

proptest! {
    /// Cut anywhere, shuffled, doubled, across the wrap of positions.
    #[test]
    fn any_order_gives_the_stream(
        bytes in vec(any::<u8>(), 1..200), base: u32, cuts in vec((0usize..200, 0usize..50), 0..30), order in vec(any::<u16>(), 60),
    ) {
        let mut pieces: Vec<(usize, usize)> = cuts.iter().map(|&(at, len)| (at, at + len)).collect();
        // Together they cover the stream.
        pieces.extend((0..bytes.len()).step_by(17).map(|at| (at, at + 17)));
        let mut keys = order.iter().cycle();
        pieces.sort_by_cached_key(|_| keys.next());
        let mut stream = from(base);
        let mut out = Vec::new();
        for (at, end) in pieces {
            let (at, end) = (at.min(bytes.len()), end.min(bytes.len()));
            stream.seen(base.wrapping_add(at as u32), &bytes[at..end], 5);
            while let Some(item) = stream.take(4) {
                let Item::Bytes { data, .. } = item else { panic!("{item:?}") };
                out.extend(data);
            }
        }
        prop_assert_eq!(out, bytes);
        prop_assert_eq!((stream.held(), stream.is_waiting()), (0, false));
    }

    /// Whatever comes in, what comes out is as long as the stream moved, and nothing is held in the end.
    #[test]
    fn any_events_add_up(
        events in vec((0u8..6, any::<u32>(), vec(any::<u8>(), 0..9), prop_oneof![Just(0u32), 0u32..99, any::<u32>()], 0u64..50), 0..80),
    ) {
        let mut stream = Stream::default();
        let mut moved = 0;
        let mut drain = |stream: &mut Stream, settled: u64| {
            while let Some(item) = stream.take(settled) {
                moved += match item {
                    Item::Bytes { data, .. } => data.len() as u64,
                    Item::Unseen { len, .. } => len,
                    Item::End { .. } => 0,
                };
            }
        };
        for (kind, position, payload, beyond, time) in events {
            match kind {
                0 => stream.end(position, time),
                1 => stream.skip_to((time > 10).then_some(position)),
                2 => stream.stands(position, time),
                3 => drop(stream.pass(&data(position, &payload, payload.len() as u32, time)).then(|| stream.forget())),
                _ => {
                    let len = (payload.len() as u32).saturating_add(beyond);
                    stream.insert(&data(position, &payload, len, time), time > 5);
                }
            }
            if kind != 3 {
                drain(&mut stream, time);
            }
        }
        drain(&mut stream, u64::MAX);
        prop_assert!(stream.held() == 0 && stream.pieces.is_empty());
        let went = stream.next().unwrap_or(0) - stream.first().unwrap_or(0);
        prop_assert!(moved <= went);
    }
}
