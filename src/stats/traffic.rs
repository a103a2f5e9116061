//! Transactions, counted as they end: by direction, protocol and status, with their durations and bytes.
//!
//! One costs a few additions, in memory of its worker's own: what all of them add to is told at the end of a pass.

use super::Count;
use crate::exchange::{Direction, Exchange, Protocol};

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

/// What is counted of one direction and protocol: transactions by status, durations by bucket, and sums.
type Counts<N> = [N; RECEIVED + 1];
const BUCKETS: usize = STATUSES.len();
const NANOS: usize = BUCKETS + BOUNDS.len() + 1;
const SENT: usize = NANOS + 1;
const RECEIVED: usize = SENT + 1;

/// By the indices of [`DIRECTIONS`] and [`PROTOCOLS`].
type Kinds<N> = [[Counts<N>; PROTOCOLS.len()]; DIRECTIONS.len()];

#[derive(Debug, Default)]
pub struct Traffic(Kinds<Count>);

impl Traffic {
    /// For one worker's pass.
    pub fn tally(&self) -> Tally<'_> {
        Tally { traffic: self, counts: Kinds::default() }
    }

    /// Transactions, by the indices of [`DIRECTIONS`], [`PROTOCOLS`] and [`STATUSES`].
    pub fn transactions(&self, direction: usize, protocol: usize, status: usize) -> u64 {
        self.0[direction][protocol][..BUCKETS][status].get()
    }

    /// Transactions of all kinds.
    pub fn all(&self) -> u64 {
        self.0.iter().flatten().flat_map(|counts| &counts[..BUCKETS]).map(Count::get).sum()
    }

    pub fn durations(&self, direction: usize, protocol: usize) -> Durations {
        let counts = &self.0[direction][protocol];
        Durations { buckets: std::array::from_fn(|at| counts[BUCKETS + at].get()), nanos: counts[NANOS].get() }
    }

    pub fn bytes(&self, direction: usize, protocol: usize) -> Bytes {
        let counts = &self.0[direction][protocol];
        Bytes { sent: counts[SENT].get(), received: counts[RECEIVED].get() }
    }
}

/// A worker's part in [`Traffic`], told in the end.
#[derive(Debug)]
pub struct Tally<'a> {
    traffic: &'a Traffic,
    counts: Kinds<u64>,
}

impl Tally<'_> {
    /// Counts a transaction that has ended.
    pub fn count(&mut self, exchange: &Exchange) {
        let counts = &mut self.counts[direction(exchange.connection.direction)][protocol(exchange.protocol)];
        counts[status(exchange)] += 1;
        let mut add = |sum: usize, n: u64| counts[sum] = counts[sum].wrapping_add(n);
        add(SENT, exchange.bytes_sent().unwrap_or(0));
        add(RECEIVED, exchange.bytes_received().unwrap_or(0));
        if let Some(nanos) = exchange.duration() {
            add(BUCKETS + BOUNDS.partition_point(|&bound| bound < nanos), 1);
            add(NANOS, nanos);
        }
    }
}

impl Drop for Tally<'_> {
    fn drop(&mut self) {
        let all = self.traffic.0.iter().flatten().flatten();
        for (all, &own) in all.zip(self.counts.iter().flatten().flatten()).filter(|(_, own)| **own > 0) {
            all.add(own);
        }
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
        traffic.tally().count(&exchange);
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
        traffic.tally().count(&ingress().request("GET / HTTP/1.1\n", ""));
        assert_eq!(traffic.transactions(0, 0, NONE), 1);
        assert_eq!(traffic.durations(0, 0), Durations::default());
    }

    #[test]
    fn what_takes_longer_than_every_bound_has_a_bucket_too() {
        let traffic = Traffic::default();
        let mut exchange = ingress().request("GET / HTTP/1.1\n", "").response("HTTP/1.1 200 OK\n", "");
        exchange.request.as_mut().unwrap().first_byte = 0;
        exchange.response.as_mut().unwrap().last_byte = u64::MAX / 2;
        traffic.tally().count(&exchange);
        assert_eq!(traffic.durations(0, 0).buckets[BOUNDS.len()], 1);
    }
}
