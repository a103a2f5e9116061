//! The secrets that libraries were seen deriving, until the connections they belong to ask for them.
//!
//! A secret is found by what only its connection has: the hash of its transcript, its client's random, or another of
//! its secrets. Bounded in number and time; wiped when dropped. Shared by all workers: locks are short and many.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ring::digest::{SHA256, digest};
use zeroize::Zeroizing;

use super::keylog::Line;
use super::keys::Epoch;
use super::libraries::Libraries;
use super::session::PATIENCE;

/// How long after it was derived a secret can be asked for, in ns of the events' time: the bytes that it opens may be as
/// late as a secret may. No worker that is behind makes that shorter: until it has caught up, that time is not settled.
const KEPT: u64 = 2 * PATIENCE;
/// And one for data, which a client may send long after the handshake.
const KEPT_FOR_DATA: u64 = 60_000_000_000;
/// And one that a connection has found: its other end, where that is on this machine, asks at about the same time.
const KEPT_ONCE_USED: u64 = 2_000_000_000;
/// Locks; a power of two.
const SHARDS: usize = 16;
/// The most secrets of a shard: beyond, the oldest go.
const SHARD_MOST: usize = 4096;
/// Room in a shard that is worth no thought.
const ROOM_LEAST: usize = 64;

/// What a library was seen deriving.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// HKDF-Expand-Label (RFC 8446 section 7.1) for a traffic secret of that epoch: `secret` is the PRK, `context` the
    /// transcript hash. Both sides' traffic secrets come of these two.
    Expand { epoch: Epoch, secret: Vec<u8>, context: Vec<u8> },
    /// The master secret of TLS 1.2, when keys are expanded from it (RFC 5246 section 6.3).
    Master { master: Vec<u8>, client_random: [u8; 32] },
    /// A line of an NSS key log: a traffic secret (or, for CLIENT_RANDOM, the master secret).
    Log { label: LogLabel, client_random: [u8; 32], secret: Vec<u8> },
}

impl fmt::Debug for Secret {
    /// Says which, never what.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Secret::Expand { epoch, .. } => write!(f, "Expand({epoch:?})"),
            Secret::Master { .. } => write!(f, "Master"),
            Secret::Log { label, .. } => write!(f, "Log({label:?})"),
        }
    }
}

/// The first word of a key log's line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LogLabel {
    /// TLS 1.2: the master secret.
    ClientRandom,
    ClientEarly,
    ClientHandshake,
    ServerHandshake,
    ClientApplication,
    ServerApplication,
}

/// What a secret is found by, and what is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    /// By Hash(ClientHello): the early secret.
    Early,
    /// By Hash(ClientHello..ServerHello): the handshake secret.
    Handshake,
    /// By the digest of the master secret: Hash(ClientHello..server Finished).
    Transcript,
    /// By the client's random: the master secret of TLS 1.2.
    Master,
    /// By the client's random: a traffic secret of TLS 1.3.
    Log(LogLabel),
}

impl Kind {
    /// How long it waits for its connection.
    fn kept(self) -> u64 {
        match self {
            Kind::Log(LogLabel::ClientApplication | LogLabel::ServerApplication) => KEPT_FOR_DATA,
            _ => KEPT,
        }
    }
}

/// Random or a hash; of longer ones the first half and more, which is as good.
type Key = (Kind, [u8; 32]);
pub(super) type Bytes = Zeroizing<Vec<u8>>;

struct Entry {
    value: Bytes,
    time: u64,
    used: bool,
}

#[derive(Default)]
struct Shard {
    entries: HashMap<Key, Entry>,
    /// In the order they came. One whose time is not the entry's was put again later.
    order: VecDeque<(u64, Key)>,
}

impl Shard {
    fn drop_oldest(&mut self) {
        if let Some((time, key)) = self.order.pop_front()
            && self.entries.get(&key).is_some_and(|entry| entry.time == time)
        {
            self.entries.remove(&key);
        }
    }

    fn expire(&mut self, settled: u64) {
        let Shard { entries, order } = self;
        order.retain(|(time, key)| {
            // What is of no use to anybody is looked at more closely, and no sooner than that.
            if time.saturating_add(KEPT_ONCE_USED) >= settled {
                return true;
            }
            let Some(entry) = entries.get(key).filter(|entry| entry.time == *time) else { return false };
            let is_kept = !entry.used && time.saturating_add(key.0.kept()) >= settled;
            if !is_kept {
                entries.remove(key);
            }
            is_kept
        });
        // After many connections at once.
        if entries.capacity() > ROOM_LEAST.max(4 * entries.len()) {
            entries.shrink_to(2 * entries.len());
            order.shrink_to(2 * entries.len());
        }
    }
}

/// Where key log lines go.
type Log = Box<dyn Fn(&Line) + Send + Sync>;

/// The store. See the module.
#[derive(Default)]
pub struct Secrets {
    /// Who derives them by what.
    pub libraries: Libraries,
    shards: [Mutex<Shard>; SHARDS],
    log: Option<Log>,
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secrets({})", self.len())
    }
}

impl Secrets {
    pub fn new() -> Secrets {
        Secrets::default()
    }

    /// A store that tells `log` of every secret whose connection was found, as the lines of a key log, once each
    /// connection seen.
    pub fn logging(log: impl Fn(&Line) + Send + Sync + 'static) -> Secrets {
        Secrets { log: Some(Box::new(log)), ..Secrets::default() }
    }

    /// Keeps a secret that was derived at that time. One that can be no secret of its kind is not kept.
    pub fn put(&self, time: u64, secret: Secret) {
        let (kind, id, value) = match secret {
            Secret::Expand { epoch, secret, context } => {
                let secret = Zeroizing::new(secret);
                if !is_hash(&context) || secret.len() != context.len() {
                    return;
                }
                match epoch {
                    Epoch::Early => (Kind::Early, first(&context), secret),
                    Epoch::Handshake => (Kind::Handshake, first(&context), secret),
                    Epoch::Application => (Kind::Transcript, digest_of(&secret), Zeroizing::new(context)),
                }
            }
            Secret::Master { master, client_random } => (Kind::Master, client_random, Zeroizing::new(master)),
            Secret::Log { label: LogLabel::ClientRandom, client_random, secret } => {
                (Kind::Master, client_random, Zeroizing::new(secret))
            }
            Secret::Log { label, client_random, secret } => (Kind::Log(label), client_random, Zeroizing::new(secret)),
        };
        let fits = if kind == Kind::Master { value.len() == 48 } else { is_hash(&value) };
        if !fits {
            return;
        }
        let mut shard = self.shard(&id);
        if shard.order.len() >= SHARD_MOST {
            shard.drop_oldest();
        }
        shard.order.push_back((time, (kind, id)));
        // Both ends of a connection may be on this machine.
        let used = shard.entries.get(&(kind, id)).is_some_and(|entry| entry.used && entry.value == value);
        shard.entries.insert((kind, id), Entry { value, time, used });
    }

    /// Drops what is too old to be asked for. `settled`: all events up to that time have been taken in.
    pub fn expire(&self, settled: u64) {
        for shard in &self.shards {
            lock(shard).expire(settled);
        }
    }

    /// How many are kept.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).entries.len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The early secret of the connection whose ClientHello has this hash.
    pub(super) fn early(&self, hello: &[u8]) -> Option<Bytes> {
        is_hash(hello).then(|| self.get(Kind::Early, first(hello)))?
    }

    /// The handshake secret of the connection whose transcript up to its ServerHello has this hash.
    pub(super) fn handshake(&self, hellos: &[u8]) -> Option<Bytes> {
        is_hash(hellos).then(|| self.get(Kind::Handshake, first(hellos)))?
    }

    /// The hash of the transcript up to the server's Finished, of the connection with this master secret (TLS 1.3).
    pub(super) fn transcript(&self, master: &[u8]) -> Option<Bytes> {
        self.get(Kind::Transcript, digest_of(master))
    }

    /// The master secret of the connection with this random (TLS 1.2).
    pub(super) fn master(&self, client_random: &[u8; 32]) -> Option<Bytes> {
        self.get(Kind::Master, *client_random)
    }

    /// A traffic secret of the connection with this random, as a library logged it (TLS 1.3).
    pub(super) fn logged(&self, label: LogLabel, client_random: &[u8; 32]) -> Option<Bytes> {
        self.get(Kind::Log(label), *client_random)
    }

    /// Tells the log of a connection's secret.
    pub(super) fn tell(&self, label: LogLabel, client_random: &[u8; 32], secret: &[u8]) {
        if let Some(log) = &self.log {
            log(&Line { label, client_random, secret });
        }
    }

    fn get(&self, kind: Kind, id: [u8; 32]) -> Option<Bytes> {
        let mut shard = self.shard(&id);
        let entry = shard.entries.get_mut(&(kind, id))?;
        entry.used = true;
        Some(entry.value.clone())
    }

    fn shard(&self, id: &[u8; 32]) -> MutexGuard<'_, Shard> {
        lock(&self.shards[usize::from(id[31]) % SHARDS])
    }
}

/// A worker that panicked left no half-done change behind.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_hash(bytes: &[u8]) -> bool {
    matches!(bytes.len(), 32 | 48)
}

fn first(hash: &[u8]) -> [u8; 32] {
    let mut id = [0; 32];
    let len = hash.len().min(32);
    id[..len].copy_from_slice(&hash[..len]);
    id
}

fn digest_of(secret: &[u8]) -> [u8; 32] {
    first(digest(&SHA256, secret).as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn master(random: u8) -> Secret {
        Secret::Master { master: vec![random; 48], client_random: [random; 32] }
    }

    #[test]
    fn a_transcript_leads_to_the_secret_of_its_epoch() {
        let secrets = Secrets::new();
        secrets.put(0, Secret::Expand { epoch: Epoch::Handshake, secret: vec![1; 48], context: vec![2; 48] });
        assert_eq!(secrets.handshake(&[2; 48]).unwrap()[..], [1; 48]);
        assert!(secrets.handshake(&[3; 48]).is_none());
        assert!(secrets.early(&[2; 48]).is_none());
    }

    #[test]
    fn the_master_secret_leads_to_the_transcript() {
        let secrets = Secrets::new();
        let epoch = Epoch::Application;
        secrets.put(0, Secret::Expand { epoch, secret: vec![1; 32], context: vec![2; 32] });
        assert_eq!(secrets.transcript(&[1; 32]).unwrap()[..], [2; 32]);
    }

    #[test]
    fn what_cannot_be_a_secret_is_not_kept() {
        let secrets = Secrets::new();
        let epoch = Epoch::Handshake;
        secrets.put(0, Secret::Expand { epoch, secret: vec![1; 32], context: vec![] });
        secrets.put(0, Secret::Expand { epoch, secret: vec![1; 32], context: vec![2; 48] });
        secrets.put(0, Secret::Expand { epoch, secret: vec![1; 1000], context: vec![2; 1000] });
        secrets.put(0, Secret::Master { master: vec![1; 32], client_random: [0; 32] });
        secrets.put(0, Secret::Log { label: LogLabel::ClientEarly, client_random: [0; 32], secret: vec![0; 31] });
        assert!(secrets.is_empty());
    }

    #[test]
    fn one_that_nobody_asks_for_goes_after_its_time() {
        let secrets = Secrets::new();
        secrets.put(10, master(1));
        secrets.put(12, master(2));
        secrets.expire(KEPT + 10);
        assert_eq!(secrets.len(), 2);
        secrets.expire(KEPT + 12);
        assert!(secrets.master(&[1; 32]).is_none() && secrets.master(&[2; 32]).is_some());
    }

    #[test]
    fn one_for_data_waits_longer() {
        let secrets = Secrets::new();
        for label in [LogLabel::ServerHandshake, LogLabel::ServerApplication] {
            secrets.put(10, Secret::Log { label, client_random: [1; 32], secret: vec![1; 32] });
        }
        secrets.expire(KEPT_FOR_DATA + 10);
        assert!(secrets.logged(LogLabel::ServerHandshake, &[1; 32]).is_none());
        assert!(secrets.logged(LogLabel::ServerApplication, &[1; 32]).is_some());
    }

    #[test]
    fn one_that_was_asked_for_goes_soon() {
        let secrets = Secrets::new();
        secrets.put(10, master(1));
        secrets.put(10, master(2));
        assert!(secrets.master(&[1; 32]).is_some());
        secrets.expire(KEPT_ONCE_USED + 10);
        assert!(secrets.master(&[1; 32]).is_some(), "the other end may ask, too");
        secrets.expire(KEPT_ONCE_USED + 11);
        assert!(secrets.master(&[1; 32]).is_none() && secrets.master(&[2; 32]).is_some());
    }

    #[test]
    fn one_put_again_lives_from_then_on() {
        let secrets = Secrets::new();
        secrets.put(10, master(1));
        assert!(secrets.master(&[1; 32]).is_some());
        secrets.put(20, master(1));
        secrets.expire(KEPT_ONCE_USED + 15);
        assert_eq!(secrets.len(), 1);
        secrets.expire(KEPT_ONCE_USED + 21);
        assert!(secrets.is_empty());
    }

    #[test]
    fn what_many_took_is_given_back() {
        let secrets = Secrets::new();
        for number in 0..1000 * SHARDS as u64 {
            let mut client_random = [0; 32];
            client_random[24..].copy_from_slice(&number.to_be_bytes());
            secrets.put(0, Secret::Master { master: vec![1; 48], client_random });
        }
        secrets.expire(KEPT + 1);
        for shard in &secrets.shards {
            let shard = lock(shard);
            assert!(shard.entries.capacity() <= ROOM_LEAST && shard.order.capacity() <= ROOM_LEAST);
        }
    }

    #[test]
    fn there_is_a_most() {
        let secrets = Secrets::new();
        for number in 0..2 * SHARD_MOST as u32 {
            let mut client_random = [0; 32];
            client_random[..4].copy_from_slice(&number.to_le_bytes());
            secrets.put(0, Secret::Master { master: vec![1; 48], client_random });
        }
        assert_eq!(secrets.len(), SHARD_MOST);
    }

    #[test]
    fn no_secret_is_printed() {
        assert_eq!(format!("{:?}", master(7)), "Master");
    }
}
