//! A fixed set of names for addresses: a hosts file, a network of the container runtime, the pods.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::{Lower, is_telling};

#[derive(Debug, Default, PartialEq, Eq)]
pub struct NameMap {
    /// address → the name that is shown for it; none where there are several
    by_address: HashMap<IpAddr, Option<Arc<str>>>,
    /// name in lower case → the addresses it stands for
    by_name: HashMap<Box<str>, BTreeSet<IpAddr>>,
}

impl NameMap {
    /// More of a hosts file than this is not looked at: block lists of 100,000 names say nothing about peers.
    pub const MAX_HOSTS: usize = 256 << 10;
    const MAX_LINES: usize = 4096;

    /// Reads a hosts file (hosts(5)): an address, its name, its aliases. Lines that are none are skipped. The names of
    /// the loopback itself (`localhost` and its kin) are left out, for every process has them and they tell no peer
    /// from another.
    pub fn from_hosts(text: &str) -> NameMap {
        let mut names = NameMap::default();
        for line in beginning(text).lines().take(Self::MAX_LINES) {
            let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
            if let Some(address) = words.next().and_then(|word| word.parse().ok()) {
                names.insert(address, words);
            }
        }
        names
    }

    /// Adds the names of an address, best first: the first that can stand in a URL is shown, all of them stand for the
    /// address.
    pub fn insert<'a>(&mut self, address: IpAddr, names: impl IntoIterator<Item = &'a str>) {
        let address = address.to_canonical();
        let mut names = names.into_iter().filter(|name| is_telling(name)).peekable();
        if let Some(shown) = names.peek() {
            self.show(address, shown);
        }
        for name in names.filter_map(Lower::of) {
            match self.by_name.get_mut(name.as_str()) {
                Some(addresses) => _ = addresses.insert(address),
                None => _ = self.by_name.insert(name.as_str().into(), BTreeSet::from([address])),
            }
        }
    }

    fn show(&mut self, address: IpAddr, name: &str) {
        match self.by_address.entry(address) {
            Entry::Vacant(entry) => {
                entry.insert(Some(name.into()));
            }
            Entry::Occupied(mut entry) => {
                if !entry.get().as_ref().is_some_and(|shown| shown.eq_ignore_ascii_case(name)) {
                    entry.insert(None);
                }
            }
        }
    }

    /// What is known of an address: nothing, that it has several names (`Some(None)`), or its name.
    pub(super) fn get(&self, address: IpAddr) -> Option<Option<&Arc<str>>> {
        self.by_address.get(&address).map(Option::as_ref)
    }

    /// The one name of an address.
    pub(super) fn of(&self, address: IpAddr) -> Option<&Arc<str>> {
        self.get(address)?
    }

    /// Whether a name, given in lower case, is one of that address; none where the name is not known.
    pub(super) fn stands_for(&self, name: &str, address: IpAddr) -> Option<bool> {
        self.by_name.get(name).map(|addresses| addresses.contains(&address))
    }
}

/// As many whole lines as are looked at.
fn beginning(text: &str) -> &str {
    let Some(beginning) = text.as_bytes().get(..NameMap::MAX_HOSTS) else { return text };
    let end = beginning.iter().rposition(|&byte| byte == b'\n').unwrap_or_default();
    &text[..end]
}
