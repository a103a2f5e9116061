//! Handshake messages (RFC 8446 section 4, RFC 5246 section 7.4): put together from records, and read as far as opening
//! a connection needs it.

use nom::bytes::complete::take;
use nom::multi::{fold_many0, length_data};
use nom::number::complete::{be_u8, be_u16, be_u24};
use nom::{IResult, Parser};

/// Bytes of a message's head.
const HEAD: usize = 4;
/// The most that a message has. A chain of certificates comes nearest, and libraries refuse 100 KiB of it.
const MOST: usize = 256 << 10;

pub(super) const CLIENT_HELLO: u8 = 1;
pub(super) const SERVER_HELLO: u8 = 2;
pub(super) const END_OF_EARLY_DATA: u8 = 5;
pub(super) const ENCRYPTED_EXTENSIONS: u8 = 8;
pub(super) const FINISHED: u8 = 20;
pub(super) const KEY_UPDATE: u8 = 24;
/// What stands for the first ClientHello in the transcript of a connection that was retried (RFC 8446 section 4.4.1).
pub(super) const MESSAGE_HASH: u8 = 254;

/// Extensions.
const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
const ENCRYPT_THEN_MAC: u16 = 22;
const EARLY_DATA: u16 = 42;
const SUPPORTED_VERSIONS: u16 = 43;

/// The random by which a ServerHello is a HelloRetryRequest: SHA-256 of "HelloRetryRequest" (RFC 8446 section 4.1.3).
const RETRY: [u8; 32] = [
    0xCF, 0x21, 0xAD, 0x74, 0xE5, 0x9A, 0x61, 0x11, 0xBE, 0x1D, 0x8C, 0x02, 0x1E, 0x65, 0xB8, 0x91, 0xC2, 0xA2, 0x11,
    0x16, 0x7A, 0xBB, 0x8C, 0x5E, 0x07, 0x9E, 0x09, 0xE2, 0xC8, 0xA8, 0x33, 0x9C,
];

/// A message, its head included.
#[derive(Debug, Clone, Copy)]
pub(super) struct Message<'a> {
    pub(super) kind: u8,
    pub(super) whole: &'a [u8],
}

/// A message is longer than any is.
#[derive(Debug)]
pub(super) struct TooLong;

/// Puts messages together: one may lie in several records, and several in one.
#[derive(Debug, Default)]
pub(super) struct Messages {
    bytes: Vec<u8>,
    /// How much of `bytes` was handed out.
    used: usize,
    /// Where messages begin is not known any more.
    is_lost: bool,
}

impl Messages {
    /// Takes what a record has of messages.
    pub(super) fn add(&mut self, fragment: &[u8]) {
        if self.is_lost && !is_key_update(fragment) {
            return;
        }
        self.bytes.extend_from_slice(fragment);
    }

    /// The next whole message.
    pub(super) fn next(&mut self) -> Result<Option<Message<'_>>, TooLong> {
        let rest = &self.bytes[self.used..];
        let length: Parsed<'_, _> = (be_u8, be_u24).parse(rest);
        let (kind, whole) = match length {
            Ok((_, (_, length))) if length as usize > MOST => return Err(TooLong),
            Ok((_, (kind, length))) => (kind, HEAD + length as usize),
            Err(_) => (0, usize::MAX),
        };
        if rest.len() < whole {
            self.bytes.drain(..self.used);
            self.used = 0;
            if self.bytes.is_empty() {
                self.bytes = Vec::new();
            }
            return Ok(None);
        }
        let from = self.used;
        self.used += whole;
        Ok(Some(Message { kind, whole: &self.bytes[from..self.used] }))
    }

    /// There was a gap: only a record that is a key update, whole, is told for what it is from now on.
    pub(super) fn lose(&mut self) {
        *self = Messages { is_lost: true, ..Messages::default() };
    }

    pub(super) fn is_lost(&self) -> bool {
        self.is_lost
    }

    pub(super) fn held(&self) -> usize {
        self.bytes.capacity()
    }
}

fn is_key_update(fragment: &[u8]) -> bool {
    matches!(fragment, [KEY_UPDATE, 0, 0, 1, 0 | 1])
}

/// What a ClientHello says (RFC 8446 section 4.1.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ClientHello {
    pub(super) random: [u8; 32],
    pub(super) server_name: Option<String>,
    pub(super) offers_early_data: bool,
    pub(super) encrypt_then_mac: bool,
}

/// What a ServerHello says (RFC 8446 section 4.1.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServerHello {
    pub(super) random: [u8; 32],
    /// As numbered on the wire: 0x0304 is TLS 1.3.
    pub(super) version: u16,
    pub(super) suite: u16,
    pub(super) is_compressed: bool,
    pub(super) alpn: Option<String>,
    pub(super) encrypt_then_mac: bool,
}

impl ServerHello {
    pub(super) fn is_retry(&self) -> bool {
        self.random == RETRY
    }
}

/// What EncryptedExtensions says (RFC 8446 section 4.3.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EncryptedExtensions {
    pub(super) alpn: Option<String>,
    pub(super) accepts_early_data: bool,
}

type Parsed<'a, T> = IResult<&'a [u8], T, ()>;

/// The extensions of a message.
#[derive(Debug, Clone, Copy, Default)]
struct Extensions<'a> {
    server_name: Option<&'a [u8]>,
    alpn: Option<&'a [u8]>,
    version: Option<&'a [u8]>,
    encrypt_then_mac: bool,
    early_data: bool,
}

impl<'a> Extensions<'a> {
    /// extension type (16), length (16), data; none behind TLS 1.2's hellos that have no extensions.
    fn parse(input: &'a [u8]) -> Option<Extensions<'a>> {
        if input.is_empty() {
            return Some(Extensions::default());
        }
        let list: Parsed<'_, _> = length_data(be_u16).parse(input);
        let all: Parsed<'_, _> =
            fold_many0((be_u16, length_data(be_u16)), Extensions::default, Extensions::with).parse(list.ok()?.1);
        Some(all.ok()?.1)
    }

    fn with(mut self, (kind, data): (u16, &'a [u8])) -> Extensions<'a> {
        match kind {
            SERVER_NAME => self.server_name = Some(data),
            ALPN => self.alpn = Some(data),
            SUPPORTED_VERSIONS => self.version = Some(data),
            ENCRYPT_THEN_MAC => self.encrypt_then_mac = true,
            EARLY_DATA => self.early_data = true,
            _ => {}
        }
        self
    }

    /// The first name of a list of type (8) and name (RFC 6066 section 3).
    fn server_name(&self) -> Option<String> {
        let list: Parsed<'_, _> = length_data(be_u16).parse(self.server_name?);
        let name: Parsed<'_, _> = (be_u8, length_data(be_u16)).parse(list.ok()?.1);
        match name.ok()? {
            (_, (0, name)) => text(name),
            _ => None,
        }
    }

    /// The first name of a list, which is all that a server sends (RFC 7301 section 3.1).
    fn alpn(&self) -> Option<String> {
        let list: Parsed<'_, _> = length_data(be_u16).parse(self.alpn?);
        let name: Parsed<'_, _> = length_data(be_u8).parse(list.ok()?.1);
        text(name.ok()?.1)
    }
}

/// The text of a name; no host name is longer than 255 bytes, and no protocol's.
fn text(name: &[u8]) -> Option<String> {
    let is_name = !name.is_empty() && name.len() <= 255 && !name.iter().any(u8::is_ascii_control);
    is_name.then(|| String::from_utf8_lossy(name).into_owned())
}

fn random(bytes: &[u8]) -> [u8; 32] {
    bytes.try_into().expect("32 bytes were taken")
}

impl Message<'_> {
    /// Behind the head.
    fn body(&self) -> &[u8] {
        &self.whole[HEAD..]
    }

    pub(super) fn client_hello(&self) -> Option<ClientHello> {
        let head: Parsed<'_, _> = (
            be_u16,
            take(32usize),
            length_data(be_u8),  // session id
            length_data(be_u16), // cipher suites
            length_data(be_u8),  // compression methods
        )
            .parse(self.body());
        let (rest, (_, bytes, ..)) = head.ok()?;
        let extensions = Extensions::parse(rest)?;
        Some(ClientHello {
            random: random(bytes),
            server_name: extensions.server_name(),
            offers_early_data: extensions.early_data,
            encrypt_then_mac: extensions.encrypt_then_mac,
        })
    }

    pub(super) fn server_hello(&self) -> Option<ServerHello> {
        let head: Parsed<'_, _> = (be_u16, take(32usize), length_data(be_u8), be_u16, be_u8).parse(self.body());
        let (rest, (legacy, bytes, _, suite, compression)) = head.ok()?;
        let extensions = Extensions::parse(rest)?;
        let version = match extensions.version {
            Some(&[high, low]) => u16::from_be_bytes([high, low]),
            Some(_) => return None,
            None => legacy,
        };
        Some(ServerHello {
            random: random(bytes),
            version,
            suite,
            is_compressed: compression != 0,
            alpn: extensions.alpn(),
            encrypt_then_mac: extensions.encrypt_then_mac,
        })
    }

    pub(super) fn encrypted_extensions(&self) -> Option<EncryptedExtensions> {
        let extensions = Extensions::parse(self.body())?;
        Some(EncryptedExtensions { alpn: extensions.alpn(), accepts_early_data: extensions.early_data })
    }
}

#[cfg(test)]
mod tests {
    use ring::digest::{SHA256, digest};

    use super::*;

    #[test]
    fn the_random_of_a_retry_is_its_name() {
        assert_eq!(digest(&SHA256, b"HelloRetryRequest").as_ref(), RETRY);
    }

    #[test]
    fn messages_lie_in_several_records_and_several_in_one() {
        let stream = [&[11, 0, 0, 3, 7, 8, 9][..], &[14, 0, 0, 0], &[20, 0, 0, 1, 5]].concat();
        for at_a_time in 1..=stream.len() {
            let (mut messages, mut told) = (Messages::default(), Vec::new());
            for fragment in stream.chunks(at_a_time) {
                messages.add(fragment);
                while let Some(message) = messages.next().unwrap() {
                    told.push((message.kind, message.whole.len()));
                }
            }
            assert_eq!(told, [(11, 7), (14, 4), (20, 5)]);
            assert_eq!(messages.held(), 0);
        }
    }

    #[test]
    fn a_message_is_not_waited_for_if_it_is_too_long() {
        let mut messages = Messages::default();
        messages.add(&[11, 0xFF, 0xFF, 0xFF]);
        assert!(messages.next().is_err());
    }

    #[test]
    fn behind_a_gap_only_a_whole_key_update_is_a_message() {
        let mut messages = Messages::default();
        messages.add(&[11, 0, 0, 5]);
        messages.lose();
        messages.add(&[4, 0, 0, 1, 7]);
        messages.add(&[24, 0, 0, 1, 2]);
        assert!(messages.next().unwrap().is_none());
        messages.add(&[24, 0, 0, 1, 1]);
        assert_eq!(messages.next().unwrap().unwrap().kind, KEY_UPDATE);
    }
}
