//! Names for addresses, as one process has them: who is behind an address, without asking anybody; where the container
//! runtimes know, also which container and which pod.
//!
//! Four sources in this order: the networks of the container runtime, the process's own hosts file, the DNS answers
//! that were seen, pods. Others fill them, whenever they learn something; looking into them is a short lock and no
//! allocation, for it is done on a worker's path. Nothing is guessed: an address that a source has two names for has
//! none from it. Addresses mean something only within a network namespace, so each has names of its own.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, RwLock};

mod answers;
mod map;
mod runtime;
mod source;
#[cfg(test)]
mod tests;

pub use answers::DnsNames;
pub use map::NameMap;
pub use runtime::{Pods, RuntimeNames, RuntimeView};
pub use source::Source;

use crate::exchange::{Container, Pod};

/// What one process sees.
#[derive(Debug, Default)]
pub struct Names {
    pub network: Arc<NetworkNames>,
    /// Of its mount namespace.
    pub hosts: Option<Arc<NameMap>>,
    pub pods: Option<Arc<Source<Pods>>>,
}

impl Names {
    /// The one name of that address, from the first source that has one.
    pub fn of(&self, ip: IpAddr) -> Option<Arc<str>> {
        let ip = ip.to_canonical();
        let runtime = || self.network.runtime.read()?.of(ip).cloned();
        let hosts = || self.hosts.as_ref()?.of(ip).cloned();
        let answers = || self.network.dns.of(ip);
        let pods = || self.pods.as_ref()?.read()?.names.of(ip).cloned();
        runtime().or_else(hosts).or_else(answers).or_else(pods)
    }

    /// The one container that has that address.
    pub fn container(&self, ip: IpAddr) -> Option<Arc<Container>> {
        self.network.runtime.read()?.container(ip.to_canonical()).cloned()
    }

    /// The one pod that has that address.
    pub fn pod(&self, ip: IpAddr) -> Option<Arc<Pod>> {
        self.pods.as_ref()?.read()?.of(ip.to_canonical()).cloned()
    }

    /// Whether `name`, in any case, is known, and to no source as one of that address.
    pub fn elsewhere(&self, name: &str, ip: IpAddr) -> bool {
        let Some(name) = Lower::of(name) else { return false };
        let (name, ip) = (name.as_str(), ip.to_canonical());
        let stands_for = [
            self.network.runtime.read().and_then(|runtime| runtime.stands_for(name, ip)),
            self.hosts.as_ref().and_then(|hosts| hosts.stands_for(name, ip)),
            self.network.dns.stands_for(name, ip),
            self.pods.as_ref().and_then(|pods| pods.read()?.names.stands_for(name, ip)),
        ];
        stands_for.contains(&Some(false)) && !stands_for.contains(&Some(true))
    }
}

/// The same sources, whatever they hold by now.
impl PartialEq for Names {
    fn eq(&self, other: &Names) -> bool {
        let same_hosts = match (&self.hosts, &other.hosts) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        };
        let same_pods = match (&self.pods, &other.pods) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        };
        Arc::ptr_eq(&self.network, &other.network) && same_hosts && same_pods
    }
}

impl Eq for Names {}

/// What is known within one network namespace.
#[derive(Debug, Default)]
pub struct NetworkNames {
    runtime: Source<RuntimeView>,
    pub dns: DnsNames,
}

impl NetworkNames {
    /// From now on the container runtime says this.
    pub fn set_runtime(&self, names: RuntimeView) {
        self.runtime.change(|runtime| {
            *runtime = names;
            !runtime.is_empty()
        });
    }
}

/// The network namespaces of this machine. Remembers those that somebody holds.
#[derive(Debug, Default)]
pub struct Networks {
    /// inode number of a namespace → its names
    known: RwLock<HashMap<u32, Arc<NetworkNames>>>,
    /// DNS answers held by all of them.
    answers: Arc<AtomicUsize>,
}

impl Networks {
    /// More than this are not remembered at once: what comes then has names that nobody fills.
    const MAX: usize = 4096;

    /// The names of the network namespace with that inode number.
    pub fn get(&self, inode: u32) -> Arc<NetworkNames> {
        if let Some(network) = self.known.read().expect(LOCK).get(&inode) {
            return network.clone();
        }
        let mut known = self.known.write().expect(LOCK);
        if known.len() >= Self::MAX {
            known.retain(|_, network| Arc::strong_count(network) > 1);
        }
        let new = || Arc::new(NetworkNames { dns: DnsNames::counted_in(&self.answers), ..NetworkNames::default() });
        if known.len() >= Self::MAX {
            return known.get(&inode).cloned().unwrap_or_else(new);
        }
        known.entry(inode).or_insert_with(new).clone()
    }

    /// How many network namespaces are remembered.
    pub fn len(&self) -> usize {
        self.known.read().expect(LOCK).len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All that are remembered, to fill their names.
    pub fn all(&self) -> Vec<(u32, Arc<NetworkNames>)> {
        self.known.read().expect(LOCK).iter().map(|(&inode, network)| (inode, network.clone())).collect()
    }

    /// Takes out what has expired by `now_ns`, the time that [`DnsNames::answered`] is given; to be called about once
    /// a second. A namespace that nobody holds has ended with its last process: it is forgotten too, for the kernel
    /// gives its inode number to the next.
    pub fn expire(&self, now_ns: u64) {
        for network in self.known.read().expect(LOCK).values() {
            network.dns.expire(now_ns);
        }
        self.known.write().expect(LOCK).retain(|_, network| Arc::strong_count(network) > 1);
    }
}

const LOCK: &str = "no thread panics with the lock";

/// Bytes of a name: RFC 1035 section 2.3.4, without the escapes, which a name in use never has.
const MAX_NAME: usize = 255;

/// A name as it is looked up: in lower case, without the last dot. On the stack, for it is made on a worker's path.
struct Lower {
    bytes: [u8; MAX_NAME],
    len: usize,
}

impl Lower {
    /// None for what cannot be a name.
    fn of(name: &str) -> Option<Lower> {
        let name = name.strip_suffix('.').unwrap_or(name);
        if name.len() > MAX_NAME || !name.is_ascii() {
            return None;
        }
        let mut lower = Lower { bytes: [0; MAX_NAME], len: name.len() };
        lower.bytes[..name.len()].copy_from_slice(name.as_bytes());
        lower.bytes[..name.len()].make_ascii_lowercase();
        Some(lower)
    }

    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.len]).expect("ASCII is UTF-8")
    }
}

/// Whether a name tells one peer from another and can stand in a URL.
fn is_telling(name: &str) -> bool {
    is_host(name) && name.len() <= MAX_NAME && !is_localhost(name) && name.parse::<IpAddr>().is_err()
}

/// RFC 3986 section 3.2.2, `reg-name`; names with `_` are in use too, and part of it.
pub fn is_host(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(&byte))
}

/// RFC 6761 section 6.3, and the names Linux distributions put into their hosts files.
pub fn is_localhost(name: &str) -> bool {
    const NAMES: [&str; 4] = ["localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback"];
    let name = name.strip_suffix('.').unwrap_or(name);
    let parent = name.rsplit('.').next().unwrap_or_default();
    parent.eq_ignore_ascii_case("localhost") || NAMES.iter().any(|known| name.eq_ignore_ascii_case(known))
}
