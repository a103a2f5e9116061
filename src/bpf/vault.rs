//! What is kept of open connections for the agent that comes next: a map pinned into the BPF file system.
//!
//! It lives in the kernel's memory, not on a disk, and is for root alone. No BPF program sees it.

use std::collections::HashSet;
use std::fs::{self, DirBuilder};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;

use anyhow::{Context, Result};
use libbpf_rs::{MapCore, MapFlags, MapHandle, MapType};
use libbpf_sys as sys;
use zeroize::Zeroizing;

use crate::exchange::Address;
use crate::tls::KEPT;

const FOLDER: &str = "/sys/fs/bpf/sidetap";
const MAP: &str = "/sys/fs/bpf/sidetap/tls";

/// More connections than these are not kept.
const CONNECTIONS: u32 = 65_536;

/// Bytes of a key: address of struct sock, ports and addresses of both ends.
const KEY: usize = 8 + 2 * (2 + 16);

/// A TCP connection that outlives the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketKey([u8; KEY]);

impl SocketKey {
    /// `socket`: as in [`super::SocketInfo`]. None for others than TCP.
    pub fn new(socket: u64, local: &Address, remote: &Address) -> Option<SocketKey> {
        let mut key = [0; KEY];
        key[..8].copy_from_slice(&socket.to_ne_bytes());
        for (address, part) in [local, remote].into_iter().zip(key[8..].chunks_exact_mut(18)) {
            let Address::Ip(address) = address else { return None };
            part.copy_from_slice(&end(address));
        }
        Some(SocketKey(key))
    }
}

/// One end: port and address.
fn end(address: &SocketAddr) -> [u8; 18] {
    let mut end = [0; 18];
    end[..2].copy_from_slice(&address.port().to_be_bytes());
    let ip = match address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    end[2..].copy_from_slice(&ip.octets());
    end
}

/// The map. See the module.
pub(super) struct Vault(MapHandle);

impl Vault {
    /// The map that is there, or a new one.
    pub(super) fn open() -> Result<Vault> {
        DirBuilder::new()
            .mode(0o700)
            .recursive(true)
            .create(FOLDER)
            .with_context(|| format!("cannot make {FOLDER}; a BPF file system should be mounted above it"))?;
        if let Ok(map) = MapHandle::from_pinned_path(MAP) {
            if (map.key_size(), map.value_size()) == (KEY as u32, KEPT as u32) {
                return Ok(Vault(map));
            }
            // Another version's, which nobody can make anything of any more.
            fs::remove_file(MAP).with_context(|| format!("cannot remove {MAP}"))?;
        }
        // Most machines have few connections: each takes its memory when it comes.
        let options = sys::bpf_map_create_opts {
            sz: size_of::<sys::bpf_map_create_opts>() as sys::size_t,
            map_flags: sys::BPF_F_NO_PREALLOC,
            ..Default::default()
        };
        let mut map =
            MapHandle::create(MapType::Hash, Some("sidetap_tls"), KEY as u32, KEPT as u32, CONNECTIONS, &options)
                .context("cannot make a BPF map for secrets")?;
        map.pin(MAP).with_context(|| format!("cannot pin a BPF map to {MAP}"))?;
        Ok(Vault(map))
    }

    /// All connections that something is kept of.
    pub(super) fn keys(&self) -> Vec<Vec<u8>> {
        self.0.keys().collect()
    }

    /// Drops those of `keys` that are closed. `open`: addresses of struct sock, of all that are open.
    pub(super) fn drop_closed(&self, keys: Vec<Vec<u8>>, open: &[u8]) {
        let open: HashSet<&[u8]> = open.chunks_exact(8).collect();
        for key in keys.iter().filter(|key| key.get(..8).is_none_or(|socket| !open.contains(socket))) {
            // Gone already: another agent's doing.
            let _ = self.0.delete(key);
        }
    }

    pub(super) fn put(&self, key: &SocketKey, value: &[u8; KEPT]) {
        // Where there is no room for it, the next agent does without.
        let _ = self.0.update(&key.0, value, MapFlags::ANY);
    }

    pub(super) fn get(&self, key: &SocketKey) -> Option<Zeroizing<Vec<u8>>> {
        self.0.lookup(&key.0, MapFlags::ANY).ok().flatten().map(Zeroizing::new)
    }

    pub(super) fn remove(&self, key: &SocketKey) {
        let _ = self.0.delete(&key.0);
    }
}

/// Drops all that any agent has kept.
pub fn forget_secrets() -> Result<()> {
    match fs::remove_file(MAP) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {MAP}, which holds secrets of TLS connections"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        Address::Ip(text.parse().unwrap())
    }

    #[test]
    fn a_key_is_one_connections() {
        let (one, other) = (address("10.0.0.1:80"), address("10.0.0.2:80"));
        let key = SocketKey::new(7, &one, &other).unwrap();
        assert_eq!(SocketKey::new(7, &one, &other), Some(key));
        for another in [
            SocketKey::new(8, &one, &other),
            SocketKey::new(7, &other, &one),
            SocketKey::new(7, &one, &address("10.0.0.2:81")),
            SocketKey::new(7, &address("[::1]:80"), &other),
        ] {
            assert_ne!(another, Some(key));
        }
        assert_eq!(SocketKey::new(7, &Address::Unix("/a".to_owned()), &other), None);
    }
}
