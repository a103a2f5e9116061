//! Opening records (RFC 8446 section 5.2, RFC 5246 section 6.2.3, RFC 5288, RFC 7905, RFC 7366).
//!
//! Raw keys are wiped once they are set up. What `ring` makes of them it does not wipe itself.

use std::ops::Range;

use aes::{Aes128Dec, Aes256Dec};
use cbc::Decryptor;
use cbc::cipher::block_padding::NoPadding;
use cbc::cipher::{BlockDecryptMut, InnerIvInit, KeyInit};
use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use ring::hmac;

use super::Side;
use super::record::{HEAD, Head};
use super::schedule::{Expander, key_block};
use super::secrets::Bytes;
use super::suite::{Seal, Suite};

/// Bytes of an AEAD's tag.
const TAG: usize = 16;
/// Bytes of an AEAD's nonce.
const NONCE: usize = 12;
/// Bytes of AES-GCM's nonce that each record of TLS 1.2 carries.
const EXPLICIT: usize = 8;
/// Bytes of a block, and of the IV that each record in CBC mode carries.
const BLOCK: usize = 16;

/// What one side's records are opened with, until its keys change.
pub(super) struct Opener {
    /// The next record's sequence number.
    pub(super) sequence: u64,
    keys: Keys,
}

enum Keys {
    Tls13 { key: LessSafeKey, iv: [u8; NONCE] },
    Gcm { key: LessSafeKey, salt: [u8; NONCE - EXPLICIT] },
    ChaCha { key: LessSafeKey, iv: [u8; NONCE] },
    Cbc { cipher: Box<Aes>, mac: hmac::Key, encrypt_then_mac: bool },
}

#[expect(clippy::large_enum_variant, reason = "two a connection, on the heap with the opener that they are part of")]
enum Aes {
    Bits128(Aes128Dec),
    Bits256(Aes256Dec),
}

/// A record's content type, and where in its body the plaintext now is.
pub(super) type Opened = (u8, Range<usize>);

impl Opener {
    /// For a traffic secret of TLS 1.3 (RFC 8446 section 7.3). None for suites of other versions.
    pub(super) fn of_traffic(suite: Suite, traffic: &[u8]) -> Option<Opener> {
        let algorithm = aead(suite.seal)?;
        let mut key = Bytes::new(vec![0; algorithm.key_len()]);
        let traffic = Expander::new(suite.hash, traffic);
        traffic.expand_label("key", b"", &mut key);
        let mut iv = [0; NONCE];
        traffic.expand_label("iv", b"", &mut iv);
        Some(Opener { sequence: 0, keys: Keys::Tls13 { key: less_safe(algorithm, &key)?, iv } })
    }

    /// For one side of a connection with TLS 1.2 (RFC 5246 section 6.3).
    pub(super) fn of_master(
        suite: Suite,
        master: &[u8],
        (client, server): (&[u8; 32], &[u8; 32]),
        encrypt_then_mac: bool,
        side: Side,
    ) -> Option<Opener> {
        let (mac, key, iv) = match suite.seal {
            Seal::Aes128Gcm => (0, 16, NONCE - EXPLICIT),
            Seal::Aes256Gcm => (0, 32, NONCE - EXPLICIT),
            Seal::ChaCha20Poly1305 => (0, 32, NONCE),
            Seal::Cbc { key, mac } => (mac.len(), key, 0),
        };
        let block = key_block(suite.hash, master, client, server, 2 * (mac + key + iv));
        let part = |before: usize, len: usize| match side {
            Side::Client => &block[before..before + len],
            Side::Server => &block[before + len..before + 2 * len],
        };
        let (secret, iv, key) = (part(0, mac), part(2 * (mac + key), iv), part(2 * mac, key));
        let keys = match suite.seal {
            Seal::Aes128Gcm | Seal::Aes256Gcm => {
                Keys::Gcm { key: less_safe(aead(suite.seal)?, key)?, salt: iv.try_into().ok()? }
            }
            Seal::ChaCha20Poly1305 => {
                Keys::ChaCha { key: less_safe(&CHACHA20_POLY1305, key)?, iv: iv.try_into().ok()? }
            }
            Seal::Cbc { mac, .. } => {
                let cipher = match key.len() {
                    16 => Aes::Bits128(Aes128Dec::new_from_slice(key).ok()?),
                    _ => Aes::Bits256(Aes256Dec::new_from_slice(key).ok()?),
                };
                Keys::Cbc { cipher: Box::new(cipher), mac: hmac::Key::new(mac.hmac(), secret), encrypt_then_mac }
            }
        };
        Some(Opener { sequence: 0, keys })
    }

    /// Opens a record in place with the given sequence number; none if its tag or MAC says that it is not that record.
    /// What `body` holds then is undefined.
    pub(super) fn open(&self, sequence: u64, head: Head, body: &mut [u8]) -> Option<Opened> {
        match &self.keys {
            Keys::Tls13 { key, iv } => {
                key.open_in_place(numbered(iv, sequence), Aad::from(head.0), body).ok()?;
                let inner = &body[..body.len() - TAG];
                // Padding is zeros behind the content type (RFC 8446 section 5.4).
                let end = inner.iter().rposition(|&byte| byte != 0)?;
                Some((inner[end], 0..end))
            }
            Keys::Gcm { key, salt } => {
                let len = body.len().checked_sub(EXPLICIT + TAG)?;
                let mut nonce = [0; NONCE];
                nonce[..salt.len()].copy_from_slice(salt);
                nonce[salt.len()..].copy_from_slice(&body[..EXPLICIT]);
                let nonce = Nonce::assume_unique_for_key(nonce);
                key.open_in_place(nonce, Aad::from(named(sequence, head, len)), &mut body[EXPLICIT..]).ok()?;
                Some((head.kind(), EXPLICIT..EXPLICIT + len))
            }
            Keys::ChaCha { key, iv } => {
                let len = body.len().checked_sub(TAG)?;
                key.open_in_place(numbered(iv, sequence), Aad::from(named(sequence, head, len)), body).ok()?;
                Some((head.kind(), 0..len))
            }
            Keys::Cbc { cipher, mac, encrypt_then_mac: true } => {
                let len = body.len().checked_sub(mac_len(mac))?;
                let (sealed, tag) = body.split_at_mut(len);
                if mac_of(mac, sequence, head, sealed).as_ref() != tag {
                    return None;
                }
                let content = cipher.decrypt(sealed)?;
                Some((head.kind(), content))
            }
            Keys::Cbc { cipher, mac, encrypt_then_mac: false } => {
                let padded = cipher.decrypt(body)?;
                let content = padded.start..padded.end.checked_sub(mac_len(mac)).filter(|&end| end >= padded.start)?;
                let tag = &body[content.end..padded.end];
                let is_right = mac_of(mac, sequence, head, &body[content.clone()]).as_ref() == tag;
                is_right.then_some((head.kind(), content))
            }
        }
    }

    /// What a record without content takes on the wire: no record is smaller.
    pub(super) fn least(&self) -> u64 {
        let body = match &self.keys {
            Keys::Tls13 { .. } => 1 + TAG,
            Keys::Gcm { .. } => EXPLICIT + TAG,
            Keys::ChaCha { .. } => TAG,
            Keys::Cbc { mac, encrypt_then_mac: true, .. } => 2 * BLOCK + mac_len(mac),
            Keys::Cbc { mac, encrypt_then_mac: false, .. } => BLOCK + (mac_len(mac) + 1).next_multiple_of(BLOCK),
        };
        (HEAD + body) as u64
    }

    /// The most that a record takes on the wire.
    pub(super) fn most(&self) -> u64 {
        (HEAD + self.most_body()) as u64
    }

    /// The most that a record has behind its head (RFC 8446 section 5.2, RFC 5246 section 6.2.3).
    pub(super) fn most_body(&self) -> usize {
        match self.keys {
            Keys::Tls13 { .. } => (1 << 14) + 256,
            _ => (1 << 14) + 2048,
        }
    }

    /// How much longer a record is than its content, about (padding to blocks is half a block).
    pub(super) fn overhead(&self) -> u64 {
        let body = match &self.keys {
            Keys::Cbc { mac, .. } => BLOCK + mac_len(mac) + BLOCK / 2,
            _ => return self.least(),
        };
        (HEAD + body) as u64
    }
}

impl Aes {
    /// Decrypts an IV and the blocks behind it in place; where what is not padding is, if the padding is right.
    fn decrypt(&self, body: &mut [u8]) -> Option<Range<usize>> {
        if body.len() < 2 * BLOCK || !body.len().is_multiple_of(BLOCK) {
            return None;
        }
        let (iv, blocks) = body.split_at_mut(BLOCK);
        let plain = match self {
            Aes::Bits128(cipher) => {
                Decryptor::inner_iv_slice_init(cipher.clone(), iv).ok()?.decrypt_padded_mut::<NoPadding>(blocks).ok()?
            }
            Aes::Bits256(cipher) => {
                Decryptor::inner_iv_slice_init(cipher.clone(), iv).ok()?.decrypt_padded_mut::<NoPadding>(blocks).ok()?
            }
        };
        let (&last, before) = plain.split_last()?;
        let len = before.len().checked_sub(usize::from(last))?;
        before[len..].iter().all(|&byte| byte == last).then_some(BLOCK..BLOCK + len)
    }
}

fn aead(seal: Seal) -> Option<&'static Algorithm> {
    match seal {
        Seal::Aes128Gcm => Some(&AES_128_GCM),
        Seal::Aes256Gcm => Some(&AES_256_GCM),
        Seal::ChaCha20Poly1305 => Some(&CHACHA20_POLY1305),
        Seal::Cbc { .. } => None,
    }
}

fn less_safe(algorithm: &'static Algorithm, key: &[u8]) -> Option<LessSafeKey> {
    Some(LessSafeKey::new(UnboundKey::new(algorithm, key).ok()?))
}

/// The nonce of TLS 1.3 and of ChaCha20: the sequence number over the IV (RFC 8446 section 5.3, RFC 7905 section 2).
fn numbered(iv: &[u8; NONCE], sequence: u64) -> Nonce {
    let mut nonce = *iv;
    for (byte, number) in nonce[NONCE - 8..].iter_mut().zip(sequence.to_be_bytes()) {
        *byte ^= number;
    }
    Nonce::assume_unique_for_key(nonce)
}

/// What TLS 1.2 authenticates before a record's content of `len` bytes (RFC 5246 section 6.2.3.3).
fn named(sequence: u64, head: Head, len: usize) -> [u8; 13] {
    let mut out = [0; 13];
    out[..8].copy_from_slice(&sequence.to_be_bytes());
    out[8..11].copy_from_slice(&head.0[..3]);
    out[11..].copy_from_slice(&(len as u16).to_be_bytes());
    out
}

fn mac_of(mac: &hmac::Key, sequence: u64, head: Head, content: &[u8]) -> hmac::Tag {
    let mut context = hmac::Context::with_key(mac);
    context.update(&named(sequence, head, content.len()));
    context.update(content);
    context.sign()
}

fn mac_len(mac: &hmac::Key) -> usize {
    mac.algorithm().digest_algorithm().output_len()
}
