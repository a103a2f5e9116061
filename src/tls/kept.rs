//! What an open connection needs to be opened by the next agent: its keys' secrets, and where its records stood.
//!
//! Bytes of a fixed size, which are wiped when dropped. Whoever reads them proves by the next record's tag that they are
//! that connection's.

use std::borrow::Cow;

use zeroize::Zeroizing;

use super::Side;
use super::libraries::Library;
use super::secrets::Bytes;
use super::session::Info;
use super::suite::Suite;

/// Bytes of what is kept of a connection.
pub const KEPT: usize = 448;

/// The first byte. Other ones were written by another version of the agent.
const LAYOUT: u8 = 1;
/// Bytes of the master secret of TLS 1.2, and of the longest traffic secret.
const SECRET_MOST: usize = 48;
/// A protocol's name, as kept, and a library's; no known one is longer.
const ALPN_MOST: usize = 32;
const LIBRARY_MOST: usize = 16;

/// Where a direction stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// Of the next record.
    pub sequence: u64,
    /// Of its first byte, as the kernel numbers them.
    pub position: u32,
}

/// What its records are opened with.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum KeptKeys {
    Tls12 { master: Bytes, client_random: [u8; 32], server_random: [u8; 32], encrypt_then_mac: bool },
    Tls13 { client: Bytes, server: Bytes },
}

/// One connection as it was.
#[derive(Clone, PartialEq, Eq)]
pub struct Kept {
    pub(super) suite: Suite,
    pub(super) keys: KeptKeys,
    pub(super) client: Place,
    pub(super) server: Place,
    pub(super) sni: Option<String>,
    pub(super) alpn: Option<String>,
    /// The name of the process's library.
    pub library: Option<&'static str>,
}

impl Kept {
    pub fn to_bytes(&self) -> Zeroizing<[u8; KEPT]> {
        let mut bytes = Zeroizing::new([0; KEPT]);
        let mut out = Writer(&mut bytes[..]);
        let (is_13, encrypt_then_mac) = match self.keys {
            KeptKeys::Tls12 { encrypt_then_mac, .. } => (false, encrypt_then_mac),
            KeptKeys::Tls13 { .. } => (true, false),
        };
        out.put(&[LAYOUT, is_13.into(), encrypt_then_mac.into()]);
        out.put(&self.suite.number().to_be_bytes());
        match &self.keys {
            KeptKeys::Tls12 { master, client_random, server_random, .. } => {
                out.put_text(master, SECRET_MOST);
                out.put(client_random);
                out.put(server_random);
            }
            KeptKeys::Tls13 { client, server } => {
                out.put_text(client, SECRET_MOST);
                out.put_text(server, SECRET_MOST);
            }
        }
        for place in [self.client, self.server] {
            out.put(&place.sequence.to_be_bytes());
            out.put(&place.position.to_be_bytes());
        }
        out.put_text(self.sni.as_deref().unwrap_or_default().as_bytes(), u8::MAX.into());
        out.put_text(self.alpn.as_deref().unwrap_or_default().as_bytes(), ALPN_MOST);
        out.put_text(self.library.unwrap_or_default().as_bytes(), LIBRARY_MOST);
        bytes
    }

    /// None where these bytes are no such thing.
    pub fn from_bytes(bytes: &[u8]) -> Option<Kept> {
        let mut rest = Reader(bytes);
        let [LAYOUT, is_13, encrypt_then_mac] = rest.array()? else { return None };
        let number = u16::from_be_bytes(rest.array()?);
        let suite = Suite::numbered(number).filter(|_| Suite::is_of_13(number) == (is_13 != 0))?;
        let keys = match is_13 {
            0 => KeptKeys::Tls12 {
                master: rest.secret(SECRET_MOST)?,
                client_random: rest.array()?,
                server_random: rest.array()?,
                encrypt_then_mac: encrypt_then_mac != 0,
            },
            _ => KeptKeys::Tls13 { client: rest.secret(suite.hash.len())?, server: rest.secret(suite.hash.len())? },
        };
        let mut place = || {
            let sequence = u64::from_be_bytes(rest.array()?);
            Some(Place { sequence, position: u32::from_be_bytes(rest.array()?) })
        };
        let (client, server) = (place()?, place()?);
        let mut name = || Some(str::from_utf8(rest.text()?).ok()?.to_owned());
        let (sni, alpn) = (name()?, name()?);
        let known = |name: String| Some(name).filter(|name| !name.is_empty());
        let library = rest.text()?;
        let library = Library::ALL.iter().map(|library| library.name()).find(|name| name.as_bytes() == library);
        Some(Kept { suite, keys, client, server, sni: known(sni), alpn: known(alpn), library })
    }

    /// Where a side's next record began, as the kernel numbers bytes.
    pub fn position(&self, side: Side) -> u32 {
        self.place(side).position
    }

    pub(super) fn place(&self, side: Side) -> Place {
        match side {
            Side::Client => self.client,
            Side::Server => self.server,
        }
    }

    pub(super) fn info(&self) -> Info {
        Info {
            version: Some(if matches!(self.keys, KeptKeys::Tls13 { .. }) { "1.3" } else { "1.2" }),
            sni: self.sni.clone(),
            alpn: self.alpn.clone(),
            cipher: Some(Cow::Borrowed(self.suite.name)),
        }
    }
}

/// What is left to be written.
struct Writer<'a>(&'a mut [u8]);

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) {
        let (here, rest) = std::mem::take(&mut self.0).split_at_mut(bytes.len());
        here.copy_from_slice(bytes);
        self.0 = rest;
    }

    /// Its length, and it; one that is longer than `most` is left out.
    fn put_text(&mut self, text: &[u8], most: usize) {
        let text = if text.len() <= most { text } else { &[] };
        self.put(&[text.len() as u8]);
        self.put(text);
    }
}

/// What is left to be read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    fn text(&mut self) -> Option<&'a [u8]> {
        let [len] = self.array()?;
        let (text, rest) = self.0.split_at_checked(len.into())?;
        self.0 = rest;
        Some(text)
    }

    fn secret(&mut self, len: usize) -> Option<Bytes> {
        self.text().filter(|secret| secret.len() == len).map(|secret| Bytes::new(secret.to_vec()))
    }
}
