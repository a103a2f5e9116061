//! From secrets to secrets and keys: RFC 8446 section 7 for TLS 1.3, RFC 5246 sections 5 and 6.3 for TLS 1.2.

use ring::digest::digest;
use ring::hmac;
use zeroize::Zeroizing;

use super::secrets::Bytes;
use super::suite::Hash;

/// The most that is expanded for a TLS 1.2 connection: two each of MAC keys, keys and IVs.
const KEY_BLOCK_MOST: usize = 2 * (48 + 32 + 16);

/// A secret that others are expanded from: half of HMAC's work is done once for all of them.
pub(super) struct Expander {
    hash: Hash,
    key: hmac::Key,
}

impl Expander {
    pub(super) fn new(hash: Hash, secret: &[u8]) -> Expander {
        Expander { hash, key: hmac::Key::new(hash.hmac(), secret) }
    }

    /// HKDF-Expand-Label (RFC 8446 section 7.1), for at most as many bytes as the hash has: one block.
    pub(super) fn expand_label(&self, label: &str, context: &[u8], out: &mut [u8]) {
        debug_assert!(out.len() <= self.hash.len());
        let mut block = hmac::Context::with_key(&self.key);
        block.update(&(out.len() as u16).to_be_bytes());
        block.update(&[(b"tls13 ".len() + label.len()) as u8]);
        block.update(b"tls13 ");
        block.update(label.as_bytes());
        block.update(&[context.len() as u8]);
        block.update(context);
        block.update(&[1]);
        out.copy_from_slice(&block.sign().as_ref()[..out.len()]);
    }

    /// Derive-Secret (RFC 8446 section 7.1), of messages whose hash is known.
    pub(super) fn derive(&self, label: &str, transcript: &[u8]) -> Bytes {
        let mut out = Zeroizing::new(vec![0; self.hash.len()]);
        self.expand_label(label, transcript, &mut out);
        out
    }

    /// The master secret behind a handshake secret (RFC 8446 section 7.1).
    pub(super) fn master(&self) -> Bytes {
        let salt = self.derive("derived", digest(self.hash.digest(), b"").as_ref());
        let key = hmac::Key::new(self.hash.hmac(), &salt);
        Zeroizing::new(hmac::sign(&key, &[0; 48][..self.hash.len()]).as_ref().to_vec())
    }
}

/// The traffic secret that a key update leads to (RFC 8446 section 7.2).
pub(super) fn update(hash: Hash, traffic: &[u8]) -> Bytes {
    Expander::new(hash, traffic).derive("traffic upd", b"")
}

/// The key block of TLS 1.2 (RFC 5246 section 6.3), `len` bytes of it.
pub(super) fn key_block(hash: Hash, master: &[u8], client: &[u8; 32], server: &[u8; 32], len: usize) -> Bytes {
    debug_assert!(len <= KEY_BLOCK_MOST);
    let mut seed = b"key expansion".to_vec();
    seed.extend_from_slice(server);
    seed.extend_from_slice(client);
    let key = hmac::Key::new(hash.hmac(), master);
    let mut out = Zeroizing::new(Vec::with_capacity(KEY_BLOCK_MOST + hash.len()));
    let mut a = hmac::sign(&key, &seed);
    while out.len() < len {
        let mut block = hmac::Context::with_key(&key);
        block.update(a.as_ref());
        block.update(&seed);
        out.extend_from_slice(block.sign().as_ref());
        a = hmac::sign(&key, a.as_ref());
    }
    out.truncate(len);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    }

    /// RFC 8448 section 3.
    #[test]
    fn secrets_follow_on_the_handshake_secret() {
        let handshake = hex("1dc826e93606aa6fdc0aadc12f741b01046aa6b99f691ed221a9f0ca043fbeac");
        let hellos = hex("860c06edc07858ee8e78f0e7428c58edd6b43f2ca3e6e95f02ed063cf0e1cad8");
        let finished = hex("9608102a0f1ccc6db6250b7b7e417b1a000eaada3daae4777a7686c9ff83df13");
        let derived = |secret: &[u8], label, transcript: &[u8]| {
            Expander::new(Hash::Sha256, secret).derive(label, transcript).to_vec()
        };
        assert_eq!(
            derived(&handshake, "c hs traffic", &hellos),
            hex("b3eddb126e067f35a780b3abf45e2d8f3b1a950738f52e9600746a0e27a55a21")
        );
        let server = derived(&handshake, "s hs traffic", &hellos);
        assert_eq!(server, hex("b67b7d690cc16c4e75e54213cb2d37b4e9c912bcded9105d42befd59d391ad38"));
        let (mut key, mut iv) = ([0; 16], [0; 12]);
        let server = Expander::new(Hash::Sha256, &server);
        server.expand_label("key", b"", &mut key);
        server.expand_label("iv", b"", &mut iv);
        assert_eq!(key[..], hex("3fce516009c21727d0f2e4e86ee403bc"));
        assert_eq!(iv[..], hex("5d313eb2671276ee13000b30"));
        let master = Expander::new(Hash::Sha256, &handshake).master();
        assert_eq!(master[..], hex("18df06843d13a08bf2a449844c5f8a478001bc4d4c627984d5a41da8d0402919"));
        assert_eq!(
            derived(&master, "c ap traffic", &finished),
            hex("9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5")
        );
        assert_eq!(
            derived(&master, "s ap traffic", &finished),
            hex("a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643")
        );
    }
}
