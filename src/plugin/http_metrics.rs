//! The plugin `http_metrics`: counts exchanges and how long they took, by direction, protocol and status class, and by
//! host and backend as far as there is room for.
//!
//! It only counts: whoever shows the numbers asks for them. They grow as long as the agent runs, whatever becomes of
//! the configuration.

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};

use crate::config::MetricsSettings;
use crate::exchange::{Address, Direction, Exchange, Protocol};
use crate::stats::Count;
use crate::url;

/// Upper bounds of durations, in seconds; what is above the last one is in `+Inf` only. Those of OpenTelemetry's
/// `http.server.request.duration`.
pub const BOUNDS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

/// What all share for whose own name there is no room.
pub const OTHERS: &str = "others";

/// The longest name of a host, in bytes: that of DNS (RFC 1035 section 2.3.4), and a port. A longer one is of nobody.
const LONGEST: usize = 253 + ":65535".len();

/// How an exchange ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    Status1xx,
    Status2xx,
    Status3xx,
    Status4xx,
    Status5xx,
    /// Without a response, or with a status that is none.
    NoStatus,
}

impl Class {
    pub const ALL: [Class; 6] =
        [Class::Status1xx, Class::Status2xx, Class::Status3xx, Class::Status4xx, Class::Status5xx, Class::NoStatus];

    fn of(exchange: &Exchange) -> Class {
        match exchange.response.as_ref().map_or(0, |response| response.head.status()) / 100 {
            class @ 1..=5 => Class::ALL[usize::from(class) - 1],
            _ => Class::NoStatus,
        }
    }

    /// As a label.
    pub fn name(self) -> &'static str {
        match self {
            Class::Status1xx => "1xx",
            Class::Status2xx => "2xx",
            Class::Status3xx => "3xx",
            Class::Status4xx => "4xx",
            Class::Status5xx => "5xx",
            Class::NoStatus => "none",
        }
    }
}

/// Exchanges of one kind.
#[derive(Debug, Default)]
pub struct Series {
    pub count: Count,
    /// Body bytes.
    pub request_bytes: Count,
    pub response_bytes: Count,
    pub durations: Histogram,
}

impl Series {
    fn add(&self, exchange: &Exchange) {
        self.count.add(1);
        let bytes = |message: &Option<_>| {
            message.as_ref().map_or(0, |message: &crate::exchange::Message| message.body.wire_bytes)
        };
        self.request_bytes.add(bytes(&exchange.request));
        self.response_bytes.add(bytes(&exchange.response));
        if let Some(duration) = exchange.duration_ms() {
            self.durations.add(duration / 1000.0);
        }
    }
}

/// Durations of exchanges of which both ends were seen.
#[derive(Debug, Default)]
pub struct Histogram {
    /// One for each of [`BOUNDS`], and one for what is above.
    buckets: [Count; BOUNDS.len() + 1],
    /// In microseconds.
    sum: Count,
}

impl Histogram {
    fn add(&self, seconds: f64) {
        let bucket = BOUNDS.iter().position(|&bound| seconds <= bound).unwrap_or(BOUNDS.len());
        self.buckets[bucket].add(1);
        self.sum.add((seconds * 1e6) as u64);
    }

    /// How many took at most so many seconds; the last bound is infinite.
    pub fn cumulative(&self) -> [(f64, u64); BOUNDS.len() + 1] {
        let mut sum = 0;
        std::array::from_fn(|number| {
            sum += self.buckets[number].get();
            (BOUNDS.get(number).copied().unwrap_or(f64::INFINITY), sum)
        })
    }

    /// All of them together, in seconds.
    pub fn sum(&self) -> f64 {
        self.sum.get() as f64 / 1e6
    }
}

const DIRECTIONS: [Direction; 3] = [Direction::Ingress, Direction::EgressInternal, Direction::EgressExternal];
const PROTOCOLS: [Protocol; 2] = [Protocol::Http1, Protocol::Http2];

/// Series by name and status class.
type Named = RwLock<BTreeMap<Box<str>, Arc<[Series; Class::ALL.len()]>>>;

/// All that was counted.
#[derive(Debug, Default)]
pub struct HttpMetrics {
    /// By direction, protocol and class.
    totals: [[[Series; Class::ALL.len()]; PROTOCOLS.len()]; DIRECTIONS.len()],
    /// What clients asked for, of ingress.
    hosts: Named,
    /// Who was asked, of egress.
    backends: Named,
}

impl HttpMetrics {
    /// Counts a finished exchange.
    pub fn add(&self, settings: &MetricsSettings, exchange: &Exchange) {
        let connection = &exchange.connection;
        let direction = connection.direction;
        let class = Class::of(exchange) as usize;
        let protocol = PROTOCOLS.iter().position(|&protocol| protocol == exchange.protocol).unwrap_or_default();
        let place = DIRECTIONS.iter().position(|&one| one == direction).unwrap_or_default();
        self.totals[place][protocol][class].add(exchange);
        match (direction, &exchange.request) {
            (Direction::Ingress, Some(request)) if settings.max_hosts > 0 => {
                let host = url::host(connection, &request.head).to_ascii_lowercase();
                series(&self.hosts, &host, settings.max_hosts)[class].add(exchange);
            }
            (Direction::EgressInternal | Direction::EgressExternal, _) if settings.max_backends > 0 => {
                let backend = match (&connection.remote, url::peer_name(connection)) {
                    (Address::Ip(address), Some(name)) => format!("{name}:{}", address.port()),
                    (Address::Ip(address), None) => address.to_string(),
                    (Address::Unix(path), _) => path.clone(),
                };
                series(&self.backends, &backend, settings.max_backends)[class].add(exchange);
            }
            _ => {}
        }
    }

    /// By direction, protocol and status class; those of which there was none are left out.
    pub fn totals(&self) -> impl Iterator<Item = (Direction, Protocol, Class, &Series)> {
        let all = DIRECTIONS.into_iter().zip(&self.totals).flat_map(|(direction, protocols)| {
            let protocols = PROTOCOLS.into_iter().zip(protocols);
            protocols.flat_map(move |(protocol, classes)| {
                Class::ALL.into_iter().zip(classes).map(move |(class, series)| (direction, protocol, class, series))
            })
        });
        all.filter(|(.., series)| series.count.get() > 0)
    }

    /// By the host that was asked for, of ingress, each with its series by [`Class`]; in order of their names.
    pub fn hosts(&self) -> Vec<(Box<str>, Arc<[Series; Class::ALL.len()]>)> {
        listed(&self.hosts)
    }

    /// By the peer that was connected to, of egress: its name where that is known, else its address; with its port.
    pub fn backends(&self) -> Vec<(Box<str>, Arc<[Series; Class::ALL.len()]>)> {
        listed(&self.backends)
    }
}

fn listed(named: &Named) -> Vec<(Box<str>, Arc<[Series; Class::ALL.len()]>)> {
    let named = named.read().expect("nothing panics with the names locked");
    named.iter().map(|(name, series)| (name.clone(), series.clone())).collect()
}

/// The series of that name; of all others, where there are as many names as there may be.
fn series(named: &Named, name: &str, most: usize) -> Arc<[Series; Class::ALL.len()]> {
    let is_name = !name.is_empty() && name.len() <= LONGEST && !name.contains(char::is_control);
    let name = if is_name { name } else { OTHERS };
    {
        let known = named.read().expect("nothing panics with the names locked");
        if let Some(series) = known.get(name) {
            return series.clone();
        }
        if known.len() > most
            && let Some(series) = known.get(OTHERS)
        {
            return series.clone();
        }
    }
    let mut known = named.write().expect("nothing panics with the names locked");
    // One more than there may be names: that of all others.
    let name = if known.contains_key(name) || known.len() < most { name } else { OTHERS };
    known.entry(name.into()).or_default().clone()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::sample::{egress, ingress};

    fn get(host: &str, status: u16) -> Exchange {
        let request = format!("GET / HTTP/1.1\nHost: {host}\n");
        ingress().request(request, "").response(format!("HTTP/1.1 {status} X\n"), "four")
    }

    fn counts(named: Vec<(Box<str>, Arc<[Series; Class::ALL.len()]>)>) -> Vec<(String, u64)> {
        let count = |series: &[Series]| series.iter().map(|series| series.count.get()).sum();
        named.iter().map(|(name, series)| (name.to_string(), count(&series[..]))).collect()
    }

    #[test]
    fn exchanges_are_counted_by_direction_protocol_and_class() {
        let metrics = HttpMetrics::default();
        let settings = MetricsSettings { max_hosts: 0, max_backends: 0 };
        for exchange in
            [get("a", 200), get("a", 204), get("a", 503), get("a", 999), egress().request("GET / HTTP/1.1\n", "q")]
        {
            metrics.add(&settings, &exchange);
        }
        metrics.add(&settings, &get("a", 200).over_http2(1, "http", "a"));
        let totals = metrics.totals().map(|(direction, protocol, class, series)| {
            let (sent, took) = (series.response_bytes.get(), series.durations.cumulative()[BOUNDS.len()].1);
            format!("{} {} {} {} {sent} {took}", direction.name(), protocol.name(), class.name(), series.count.get())
        });
        let expected = [
            "ingress http1 2xx 2 8 2",
            "ingress http1 5xx 1 4 1",
            "ingress http1 none 1 4 1",
            "ingress http2 2xx 1 4 1",
            "egress-internal http1 none 1 0 0",
        ];
        assert_eq!(totals.collect::<Vec<_>>(), expected);
        assert!(metrics.hosts().is_empty() && metrics.backends().is_empty());
    }

    #[test]
    fn durations_are_in_the_bucket_of_their_bound() {
        let histogram = Histogram::default();
        for seconds in [0.001, 0.005, 0.006, 3.0, 60.0] {
            histogram.add(seconds);
        }
        let cumulative = histogram.cumulative();
        assert_eq!((cumulative[0], cumulative[1]), ((0.005, 2), (0.01, 3)));
        assert_eq!((cumulative[10], cumulative[11], cumulative[13]), ((2.5, 3), (5.0, 4), (10.0, 4)));
        assert_eq!(cumulative[14], (f64::INFINITY, 5));
        assert!((histogram.sum() - 63.012).abs() < 1e-6);
    }

    #[test]
    fn names_from_outside_are_bounded() {
        let metrics = HttpMetrics::default();
        let settings = MetricsSettings { max_hosts: 3, max_backends: 1 };
        for number in 0..1000 {
            metrics.add(&settings, &get(&format!("host-{number}"), 200));
            metrics.add(&settings, &get("HOST-1", 200));
        }
        metrics.add(&settings, &get(&"x".repeat(1000), 200));
        let hosts = [("host-0", 1), ("host-1", 1001), ("host-2", 1), ("others", 998)];
        assert_eq!(counts(metrics.hosts()), hosts.map(|(name, count)| (name.to_owned(), count)));
        metrics.add(&settings, &egress().request("GET / HTTP/1.1\n", ""));
        assert_eq!(counts(metrics.backends()), [("172.18.0.5:8001".to_owned(), 1)]);
    }
}
