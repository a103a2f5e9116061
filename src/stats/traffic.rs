//! Transactions, counted as they end: by direction, protocol and status, with their durations and bytes.
//!
//! One costs a few additions. Nothing is locked, and what workers add to lies apart, so that they do not take lines of
//! each other's caches.

use crossbeam_utils::CachePadded;

use super::Count;
use crate::exchange::{Direction, Exchange, Protocol};

const SHARDS: usize = 16;

pub const DIRECTIONS: [Direction; 3] = [Direction::Ingress, Direction::EgressInternal, Direction::EgressExternal];
pub const PROTOCOLS: [Protocol; 2] = [Protocol::Http1, Protocol::Http2];

/// Status codes by their first digit. `other`: no status of HTTP; `none`: no response was seen.
pub const STATUSES: [&str; 7] = ["1xx", "2xx", "3xx", "4xx", "5xx", "other", "none"];
const OTHER: usize = 5;
const NONE: usize = 6;

/// Upper bounds of the buckets of durations, in nanoseconds; behind the last one is one without.
pub const BOUNDS: [u64; 16] = [
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
    30_000_000_000,
    60_000_000_000,
];

/// Durations of transactions of which both sides were seen.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Durations {
    /// How many fell into each bucket alone.
    pub buckets: [u64; BOUNDS.len() + 1],
    /// Their sum, in nanoseconds.
    pub nanos: u64,
}

/// Body and head bytes that the watched processes moved.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Bytes {
    pub sent: u64,
    pub received: u64,
}

#[derive(Debug, Default)]
pub struct Traffic {
    shards: [CachePadded<Shard>; SHARDS],
}

#[derive(Debug, Default)]
struct Shard {
    directions: [[Counts; PROTOCOLS.len()]; DIRECTIONS.len()],
}

#[derive(Debug, Default)]
struct Counts {
    statuses: [Count; STATUSES.len()],
    buckets: [Count; BOUNDS.len() + 1],
    nanos: Count,
    sent: Count,
    received: Count,
}

impl Traffic {
    /// Counts a transaction that has ended, of which that worker saw the end.
    pub fn count(&self, worker: usize, exchange: &Exchange) {
        let direction = direction(exchange.connection.direction);
        let counts = &self.shards[worker % SHARDS].directions[direction][protocol(exchange.protocol)];
        counts.statuses[status(exchange)].add(1);
        counts.sent.add(exchange.bytes_sent().unwrap_or(0));
        counts.received.add(exchange.bytes_received().unwrap_or(0));
        if let Some(nanos) = exchange.duration() {
            counts.buckets[BOUNDS.partition_point(|&bound| bound < nanos)].add(1);
            counts.nanos.add(nanos);
        }
    }

    /// Transactions, by the indices of [`DIRECTIONS`], [`PROTOCOLS`] and [`STATUSES`].
    pub fn transactions(&self, direction: usize, protocol: usize, status: usize) -> u64 {
        self.sum(direction, protocol, |counts| counts.statuses[status].get())
    }

    /// Transactions of all kinds.
    pub fn all(&self) -> u64 {
        let counts = self.shards.iter().flat_map(|shard| shard.directions.iter().flatten());
        counts.flat_map(|counts| &counts.statuses).map(Count::get).sum()
    }

    pub fn durations(&self, direction: usize, protocol: usize) -> Durations {
        Durations {
            buckets: std::array::from_fn(|at| self.sum(direction, protocol, |counts| counts.buckets[at].get())),
            nanos: self.sum(direction, protocol, |counts| counts.nanos.get()),
        }
    }

    pub fn bytes(&self, direction: usize, protocol: usize) -> Bytes {
        Bytes {
            sent: self.sum(direction, protocol, |counts| counts.sent.get()),
            received: self.sum(direction, protocol, |counts| counts.received.get()),
        }
    }

    fn sum(&self, direction: usize, protocol: usize, of: impl Fn(&Counts) -> u64) -> u64 {
        self.shards.iter().map(|shard| of(&shard.directions[direction][protocol])).sum()
    }
}

/// Its index in [`DIRECTIONS`].
fn direction(direction: Direction) -> usize {
    match direction {
        Direction::Ingress => 0,
        Direction::EgressInternal => 1,
        Direction::EgressExternal => 2,
    }
}

/// Its index in [`PROTOCOLS`].
fn protocol(protocol: Protocol) -> usize {
    match protocol {
        // DNS makes no transactions.
        Protocol::Http1 | Protocol::Dns => 0,
        Protocol::Http2 => 1,
    }
}

fn status(exchange: &Exchange) -> usize {
    match exchange.response.as_ref().map(|response| response.head.status()) {
        None | Some(0) => NONE,
        Some(status @ 100..600) => usize::from(status / 100 - 1),
        Some(_) => OTHER,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::sample::ingress;

    #[test]
    fn indices_are_those_of_the_names() {
        for (at, &each) in DIRECTIONS.iter().enumerate() {
            assert_eq!(direction(each), at);
        }
        for (at, &each) in PROTOCOLS.iter().enumerate() {
            assert_eq!(protocol(each), at);
        }
    }

    #[test]
    fn a_transaction_is_counted_once_in_each_way() {
        let traffic = Traffic::default();
        let mut exchange = ingress().request("POST /a HTTP/1.1\n", "abc").response("HTTP/1.1 404 Not Found\n", "");
        let (request, response) = (exchange.request.as_mut().unwrap(), exchange.response.as_mut().unwrap());
        (request.first_byte, response.last_byte) = (1_000, 1_000 + BOUNDS[2]);
        let (sent, received) = (exchange.bytes_sent().unwrap(), exchange.bytes_received().unwrap());
        traffic.count(0, &exchange);
        let statuses: Vec<u64> = (0..STATUSES.len()).map(|status| traffic.transactions(0, 0, status)).collect();
        assert_eq!((statuses, traffic.all()), (vec![0, 0, 0, 1, 0, 0, 0], 1));
        let mut buckets = [0; BOUNDS.len() + 1];
        buckets[2] = 1;
        assert_eq!(traffic.durations(0, 0), Durations { buckets, nanos: BOUNDS[2] }, "a bound belongs to its bucket");
        assert_eq!(traffic.bytes(0, 0), Bytes { sent, received });
        assert!(received >= 3 + "POST /a HTTP/1.1".len() as u64);
        assert_eq!(traffic.bytes(1, 0), Bytes::default());
    }

    #[test]
    fn one_side_alone_has_no_duration() {
        let traffic = Traffic::default();
        traffic.count(0, &ingress().request("GET / HTTP/1.1\n", ""));
        assert_eq!(traffic.transactions(0, 0, NONE), 1);
        assert_eq!(traffic.durations(0, 0), Durations::default());
    }

    #[test]
    fn what_takes_longer_than_every_bound_has_a_bucket_too() {
        let traffic = Traffic::default();
        let mut exchange = ingress().request("GET / HTTP/1.1\n", "").response("HTTP/1.1 200 OK\n", "");
        exchange.request.as_mut().unwrap().first_byte = 0;
        exchange.response.as_mut().unwrap().last_byte = u64::MAX / 2;
        traffic.count(0, &exchange);
        assert_eq!(traffic.durations(0, 0).buckets[BOUNDS.len()], 1);
    }
}
