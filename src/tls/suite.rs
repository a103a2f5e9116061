//! Cipher suites (the registry of RFC 8446 appendix B.4 and RFC 5246 appendix A.5 and its successors): what each seals
//! and hashes with.

use ring::{digest, hmac};

/// The hash of a suite: of its key schedule, and before TLS 1.3 of its MAC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hash {
    Sha1,
    Sha256,
    Sha384,
}

impl Hash {
    pub(super) fn hmac(self) -> hmac::Algorithm {
        match self {
            Hash::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Hash::Sha256 => hmac::HMAC_SHA256,
            Hash::Sha384 => hmac::HMAC_SHA384,
        }
    }

    pub(super) fn digest(self) -> &'static digest::Algorithm {
        self.hmac().digest_algorithm()
    }

    /// Bytes of its output.
    pub(super) fn len(self) -> usize {
        self.digest().output_len()
    }
}

/// What records are sealed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seal {
    Aes128Gcm,
    Aes256Gcm,
    ChaCha20Poly1305,
    /// AES in CBC mode with a MAC; bytes of the key.
    Cbc {
        key: usize,
        mac: Hash,
    },
}

/// A suite that can be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Suite {
    pub(super) name: &'static str,
    pub(super) seal: Seal,
    /// Of the key schedule.
    pub(super) hash: Hash,
}

const SHA1_128: (Seal, Hash) = (Seal::Cbc { key: 16, mac: Hash::Sha1 }, Hash::Sha256);
const SHA1_256: (Seal, Hash) = (Seal::Cbc { key: 32, mac: Hash::Sha1 }, Hash::Sha256);
const SHA256_128: (Seal, Hash) = (Seal::Cbc { key: 16, mac: Hash::Sha256 }, Hash::Sha256);
const SHA256_256: (Seal, Hash) = (Seal::Cbc { key: 32, mac: Hash::Sha256 }, Hash::Sha256);
const SHA384_256: (Seal, Hash) = (Seal::Cbc { key: 32, mac: Hash::Sha384 }, Hash::Sha384);
const GCM_128: (Seal, Hash) = (Seal::Aes128Gcm, Hash::Sha256);
const GCM_256: (Seal, Hash) = (Seal::Aes256Gcm, Hash::Sha384);
const CHACHA: (Seal, Hash) = (Seal::ChaCha20Poly1305, Hash::Sha256);

/// By number.
const SUITES: [(u16, &str, (Seal, Hash)); 35] = [
    (0x002F, "TLS_RSA_WITH_AES_128_CBC_SHA", SHA1_128),
    (0x0032, "TLS_DHE_DSS_WITH_AES_128_CBC_SHA", SHA1_128),
    (0x0033, "TLS_DHE_RSA_WITH_AES_128_CBC_SHA", SHA1_128),
    (0x0035, "TLS_RSA_WITH_AES_256_CBC_SHA", SHA1_256),
    (0x0038, "TLS_DHE_DSS_WITH_AES_256_CBC_SHA", SHA1_256),
    (0x0039, "TLS_DHE_RSA_WITH_AES_256_CBC_SHA", SHA1_256),
    (0x003C, "TLS_RSA_WITH_AES_128_CBC_SHA256", SHA256_128),
    (0x003D, "TLS_RSA_WITH_AES_256_CBC_SHA256", SHA256_256),
    (0x0067, "TLS_DHE_RSA_WITH_AES_128_CBC_SHA256", SHA256_128),
    (0x006B, "TLS_DHE_RSA_WITH_AES_256_CBC_SHA256", SHA256_256),
    (0x008C, "TLS_PSK_WITH_AES_128_CBC_SHA", SHA1_128),
    (0x008D, "TLS_PSK_WITH_AES_256_CBC_SHA", SHA1_256),
    (0x009C, "TLS_RSA_WITH_AES_128_GCM_SHA256", GCM_128),
    (0x009D, "TLS_RSA_WITH_AES_256_GCM_SHA384", GCM_256),
    (0x009E, "TLS_DHE_RSA_WITH_AES_128_GCM_SHA256", GCM_128),
    (0x009F, "TLS_DHE_RSA_WITH_AES_256_GCM_SHA384", GCM_256),
    (0x00A8, "TLS_PSK_WITH_AES_128_GCM_SHA256", GCM_128),
    (0x00A9, "TLS_PSK_WITH_AES_256_GCM_SHA384", GCM_256),
    (0x1301, "TLS_AES_128_GCM_SHA256", GCM_128),
    (0x1302, "TLS_AES_256_GCM_SHA384", GCM_256),
    (0x1303, "TLS_CHACHA20_POLY1305_SHA256", CHACHA),
    (0xC009, "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA", SHA1_128),
    (0xC00A, "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA", SHA1_256),
    (0xC013, "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA", SHA1_128),
    (0xC014, "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA", SHA1_256),
    (0xC023, "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256", SHA256_128),
    (0xC024, "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA384", SHA384_256),
    (0xC027, "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256", SHA256_128),
    (0xC028, "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA384", SHA384_256),
    (0xC02B, "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", GCM_128),
    (0xC02C, "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", GCM_256),
    (0xC02F, "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", GCM_128),
    (0xC030, "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", GCM_256),
    (0xCCA8, "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", CHACHA),
    (0xCCA9, "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", CHACHA),
];

impl Suite {
    /// The suite with this number, if it can be opened.
    pub(super) fn numbered(number: u16) -> Option<Suite> {
        let at = SUITES.binary_search_by_key(&number, |(known, ..)| *known).ok()?;
        let (_, name, (seal, hash)) = SUITES[at];
        Some(Suite { name, seal, hash })
    }

    /// Its number with IANA.
    pub(super) fn number(self) -> u16 {
        let found = SUITES.iter().find(|(_, name, _)| *name == self.name);
        found.map(|(number, ..)| *number).expect("each suite is made from the table")
    }

    /// Whether it is one of TLS 1.3's, which are no others' (RFC 8446 appendix B.4).
    pub(super) fn is_of_13(number: u16) -> bool {
        number >> 8 == 0x13
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_are_in_the_order_they_are_looked_up_in() {
        assert!(SUITES.is_sorted_by_key(|(number, ..)| *number));
    }

    #[test]
    fn every_suite_is_named_for_what_it_does() {
        for (number, name, (seal, hash)) in SUITES {
            let end = match (seal, hash) {
                (Seal::Aes128Gcm, Hash::Sha256) => "AES_128_GCM_SHA256",
                (Seal::Aes256Gcm, Hash::Sha384) => "AES_256_GCM_SHA384",
                (Seal::ChaCha20Poly1305, Hash::Sha256) => "CHACHA20_POLY1305_SHA256",
                (Seal::Cbc { key: 16, mac: Hash::Sha1 }, Hash::Sha256) => "AES_128_CBC_SHA",
                (Seal::Cbc { key: 32, mac: Hash::Sha1 }, Hash::Sha256) => "AES_256_CBC_SHA",
                (Seal::Cbc { key: 16, mac: Hash::Sha256 }, Hash::Sha256) => "AES_128_CBC_SHA256",
                (Seal::Cbc { key: 32, mac: Hash::Sha256 }, Hash::Sha256) => "AES_256_CBC_SHA256",
                (Seal::Cbc { key: 32, mac: Hash::Sha384 }, Hash::Sha384) => "AES_256_CBC_SHA384",
                other => panic!("no suite has {other:?}"),
            };
            assert!(name.ends_with(end), "{name}");
            assert_eq!(name.contains("WITH"), !Suite::is_of_13(number), "{name}");
        }
    }
}
