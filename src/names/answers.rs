//! DNS answers that were seen in one network namespace: names that its processes asked for, and what they were told.
//!
//! A name is that of the question, whatever CNAMEs lead on from it. Two names answered with one address leave it
//! without a name while both are in force: which of them a connection was made for cannot be told.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Source, is_telling};
use crate::proto::dns::{A, AAAA, Answer, Data, Message, Question};

#[cfg(test)]
mod tests;

/// Answers held for one network namespace; above it the oldest address goes for every new one.
pub(super) const MAX_ANSWERS: usize = 16_384;

/// Answers held for all network namespaces. Each takes about 1 KiB.
pub(super) const MAX_ANSWERS_IN_ALL: usize = 65_536;

/// How long an answer stays in force after its TTL, or after another answer took its place. A process asks and then
/// connects: resolvers hand out what is left of a TTL, which may be no second, libraries keep answers to themselves for
/// a while, and requests follow on a connection that was made with the last answer.
pub(super) const GRACE_NS: u64 = 60 * NS_PER_S;

const NS_PER_S: u64 = 1_000_000_000;

/// The answers seen in one network namespace that are in force.
#[derive(Debug, Default)]
pub struct DnsNames {
    leases: Source<Leases>,
    /// Leases held in all network namespaces, these among them.
    in_all: Arc<AtomicUsize>,
}

impl DnsNames {
    pub(super) fn counted_in(in_all: &Arc<AtomicUsize>) -> DnsNames {
        DnsNames { leases: Source::default(), in_all: in_all.clone() }
    }

    /// Takes what a response says of the name that was asked for. It takes the place of what was answered before for
    /// the same name and kind.
    ///
    /// `now_ns`: of a clock that does not go back, the same for all calls.
    pub fn answered(&self, now_ns: u64, message: &Message) {
        let Some(question) = answered_question(message) else { return };
        let addresses = addresses(question, &message.answers);
        if addresses.is_empty() {
            return;
        }
        let until = |ttl| now_ns.saturating_add(u64::from(ttl) * NS_PER_S).saturating_add(GRACE_NS);
        self.change(|leases, room| {
            leases.expire(now_ns);
            leases.retire(&question.name, question.kind, now_ns.saturating_add(GRACE_NS));
            let name = leases.name(&question.name);
            for (address, ttl) in addresses {
                leases.put(&name, address, until(ttl), room);
            }
        });
    }

    /// Takes out what has expired by `now_ns`.
    pub fn expire(&self, now_ns: u64) {
        if self.leases.read().is_some_and(|leases| leases.has_expired(now_ns)) {
            self.change(|leases, _room| leases.expire(now_ns));
        }
    }

    /// How many answers are held: names with an address each.
    pub fn len(&self) -> usize {
        self.leases.read().map_or(0, |leases| leases.by_age.len())
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The one name of an address.
    pub(super) fn of(&self, address: IpAddr) -> Option<Arc<str>> {
        let leases = self.leases.read()?;
        let names = leases.by_address.get(&address)?;
        names.first().filter(|_| names.len() == 1).cloned()
    }

    /// As of [`NameMap`](super::NameMap).
    pub(super) fn stands_for(&self, name: &str, address: IpAddr) -> Option<bool> {
        let leases = self.leases.read()?;
        leases.by_name.get(name).map(|told| told.leases.contains_key(&address))
    }

    /// Calls `work` with the leases and how many there may be.
    fn change(&self, work: impl FnOnce(&mut Leases, usize)) {
        self.leases.change(|leases| {
            let before = leases.by_age.len();
            let others = self.in_all.load(Ordering::Relaxed).saturating_sub(before);
            work(leases, MAX_ANSWERS.min(MAX_ANSWERS_IN_ALL.saturating_sub(others)));
            let after = leases.by_age.len();
            // Wraps to what a signed difference would give.
            self.in_all.fetch_add(after.wrapping_sub(before), Ordering::Relaxed);
            after > 0
        });
    }
}

impl Drop for DnsNames {
    fn drop(&mut self) {
        self.in_all.fetch_sub(self.len(), Ordering::Relaxed);
    }
}

/// The question that this is the answer to.
fn answered_question(message: &Message) -> Option<&Question> {
    let answers = message.is_response && message.rcode == 0;
    message.question.as_ref().filter(|asked| answers && is_telling(&asked.name))
}

/// The addresses that the question's name leads to over CNAMEs (RFC 1034 section 3.6.2), each with the least TTL on the
/// way.
fn addresses(question: &Question, answers: &[Answer]) -> Vec<(IpAddr, u32)> {
    let mut aliases: HashMap<&str, (&str, u32)> = HashMap::new();
    for answer in answers {
        if let Data::Cname(target) = &answer.data {
            aliases.insert(&answer.name, (target, answer.ttl));
        }
    }
    let (mut owner, mut least_ttl) = (question.name.as_str(), u32::MAX);
    // Each alias is taken out as it is followed, so that a circle has an end.
    while let Some((target, ttl)) = aliases.remove(owner) {
        (owner, least_ttl) = (target, least_ttl.min(ttl));
    }
    let addresses = answers.iter().filter(|answer| answer.name == owner).filter_map(|answer| {
        let address = answer_address(answer).filter(|&address| is_kind(address, question.kind) && tells(address))?;
        Some((address, answer.ttl.min(least_ttl)))
    });
    addresses.collect()
}

fn answer_address(answer: &Answer) -> Option<IpAddr> {
    match answer.data {
        Data::A(ip) => Some(ip.into()),
        Data::Aaaa(ip) => Some(ip.into()),
        Data::Cname(_) => None,
    }
}

/// Whether it is what a question of that kind asks for.
fn is_kind(address: IpAddr, kind: u16) -> bool {
    kind == if address.is_ipv4() { A } else { AAAA }
}

/// Whether an address is somebody's. All services of the machine are on its loopback, whatever name led there; and no
/// address at all (`0.0.0.0`) is what filtering resolvers answer. IPv4 in IPv6 is nothing that a DNS has.
fn tells(address: IpAddr) -> bool {
    !address.is_loopback() && !address.is_unspecified() && address.to_canonical() == address
}

/// A name is given an address for a time.
#[derive(Debug)]
struct Lease {
    name: Arc<str>,
    address: IpAddr,
    until: u64,
}

/// Leases by all that they are looked for. Every lease is in all four maps.
#[derive(Debug, Default)]
struct Leases {
    /// number → lease; numbers go up
    by_age: BTreeMap<u64, Lease>,
    last_number: u64,
    /// end, number
    by_end: BTreeSet<(u64, u64)>,
    /// address → the names that were answered with it
    by_address: HashMap<IpAddr, BTreeSet<Arc<str>>>,
    by_name: HashMap<Arc<str>, Told>,
}

/// What a name was answered with.
#[derive(Debug, Default)]
struct Told {
    /// address → number of the lease
    leases: BTreeMap<IpAddr, u64>,
    /// The leases of the last answer of each kind, as far as they are held still. Those of earlier ones were retired.
    last: Vec<u64>,
}

impl Leases {
    /// The name as it is held already, or anew.
    fn name(&self, name: &str) -> Arc<str> {
        self.by_name.get_key_value(name).map_or_else(|| name.into(), |(held, _)| held.clone())
    }

    /// Adds or renews a lease. Where there are `room` others, the oldest gives way.
    fn put(&mut self, name: &Arc<str>, address: IpAddr, until: u64, room: usize) {
        if let Some(&number) = self.by_name.get(name).and_then(|told| told.leases.get(&address)) {
            self.remove(number);
        }
        while self.by_age.len() >= room {
            let Some((_, oldest)) = self.by_age.first_key_value() else { return };
            self.remove_address(oldest.address);
        }
        self.last_number += 1;
        self.by_age.insert(self.last_number, Lease { name: name.clone(), address, until });
        self.by_end.insert((until, self.last_number));
        self.by_address.entry(address).or_default().insert(name.clone());
        let told = self.by_name.entry(name.clone()).or_default();
        told.leases.insert(address, self.last_number);
        told.last.push(self.last_number);
    }

    /// The addresses of that kind are no longer what the name is answered with: they end at `until`, or before.
    fn retire(&mut self, name: &str, kind: u16, until: u64) {
        let Some(told) = self.by_name.get_mut(name) else { return };
        told.last.retain(|number| {
            let Some(lease) = self.by_age.get_mut(number) else { return false };
            if !is_kind(lease.address, kind) {
                return true;
            }
            self.by_end.remove(&(lease.until, *number));
            lease.until = lease.until.min(until);
            self.by_end.insert((lease.until, *number));
            false
        });
    }

    fn has_expired(&self, now: u64) -> bool {
        self.by_end.first().is_some_and(|&(until, _)| until <= now)
    }

    fn expire(&mut self, now: u64) {
        while let Some(&(until, number)) = self.by_end.first()
            && until <= now
        {
            self.remove(number);
        }
    }

    /// Removes an address with all its names: one of several left behind would be taken for the only one.
    fn remove_address(&mut self, address: IpAddr) {
        for name in self.by_address.get(&address).cloned().unwrap_or_default() {
            self.remove(self.by_name[&name].leases[&address]);
        }
    }

    fn remove(&mut self, number: u64) {
        let Some(Lease { name, address, until }) = self.by_age.remove(&number) else { return };
        self.by_end.remove(&(until, number));
        if let Some(names) = self.by_address.get_mut(&address) {
            names.remove(&name);
            if names.is_empty() {
                self.by_address.remove(&address);
            }
        }
        if let Some(told) = self.by_name.get_mut(&name) {
            told.leases.remove(&address);
            if told.leases.is_empty() {
                self.by_name.remove(&name);
            }
        }
    }
}
