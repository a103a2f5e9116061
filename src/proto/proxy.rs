//! The PROXY protocol: what a load balancer may put in front of all that it passes on of a client, to say who that is
//! (doc/proxy-protocol.txt of HAProxy).
//!
//! Only how long it is. The addresses in it are another connection's, and no record has them.

/// The longest head of which the whole is needed to know its length: a line of version 1 with its end (section 2.1).
pub const LONGEST: usize = 107;

/// Before anything of HTTP/1, HTTP/2 or TLS these bytes mean nothing (section 2.2).
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// The signature, version and command, family, and the length of the rest.
const FIXED: usize = 16;

const LINES: [&[u8]; 3] = [b"PROXY TCP4 ", b"PROXY TCP6 ", b"PROXY UNKNOWN"];

/// What a client's first bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// Not a PROXY protocol's header.
    No,
    /// It may be one: that takes more bytes.
    Perhaps,
    /// One of so many bytes, of which not all need to have been given.
    Of(usize),
}

impl Header {
    /// By the first bytes of a connection: [`LONGEST`] of them always tell.
    pub fn at_start(first: &[u8]) -> Header {
        match Header::binary(first) {
            Header::No => Header::line(first),
            other => other,
        }
    }

    /// Version 2: the signature; version (4 bits), command (4), family (4), protocol (4), length (16).
    fn binary(first: &[u8]) -> Header {
        if !first.starts_with(&SIGNATURE[..first.len().min(SIGNATURE.len())]) {
            return Header::No;
        }
        match first.get(SIGNATURE.len()..FIXED) {
            // LOCAL or PROXY
            Some(&[0x20 | 0x21, _, high, low]) => Header::Of(FIXED + usize::from(u16::from_be_bytes([high, low]))),
            Some(_) => Header::No,
            None => Header::Perhaps,
        }
    }

    /// Version 1: a line of text.
    fn line(first: &[u8]) -> Header {
        let first = &first[..first.len().min(LONGEST)];
        if !LINES.iter().any(|line| first.starts_with(&line[..first.len().min(line.len())])) {
            return Header::No;
        }
        match first.windows(2).position(|end| end == b"\r\n") {
            Some(end) => Header::Of(end + 2),
            None if first.len() < LONGEST => Header::Perhaps,
            None => Header::No,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LINE: &[u8] = b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n";

    fn binary(version_and_command: u8, rest: &[u8]) -> Vec<u8> {
        let len = (rest.len() as u16).to_be_bytes();
        [&SIGNATURE[..], &[version_and_command, 0x11], &len, rest].concat()
    }

    /// Whatever follows, the answer is the same from some byte on, and `Perhaps` before.
    fn assert_length(header: &[u8], known_from: usize) {
        for next in [&b""[..], b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[22, 3, 1, 2, 0, 1]] {
            let stream = [header, next].concat();
            for len in 0..=stream.len() {
                let expected = if len < known_from { Header::Perhaps } else { Header::Of(header.len()) };
                assert_eq!(Header::at_start(&stream[..len]), expected, "{len} bytes of {stream:02x?}");
            }
        }
    }

    #[test]
    fn a_line_is_as_long_as_it_says() {
        assert_length(LINE, LINE.len());
        let longest = [
            b"PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ".as_slice(),
            b"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
        ];
        let longest = longest.concat();
        assert_eq!(longest.len(), LONGEST);
        assert_length(&longest, LONGEST);
        assert_length(b"PROXY UNKNOWN\r\n", 15);
        assert_length(b"PROXY TCP6 ::1 ::1 1 2\r\n", 24);
    }

    #[test]
    fn a_binary_one_is_as_long_as_it_says_before_all_of_it_is_there() {
        assert_length(&binary(0x21, &[10, 0, 0, 1, 10, 0, 0, 2, 1, 0, 1, 187]), FIXED);
        assert_length(&binary(0x20, b""), FIXED);
        // With what else was to be told of the client.
        assert_length(&binary(0x21, &[7; 400]), FIXED);
    }

    #[test]
    fn what_only_begins_like_one_is_none() {
        let too_long = [LINE.strip_suffix(b"\r\n").unwrap(), &[b' '; LONGEST]].concat();
        for other in [
            &b"PUT / HTTP/1.1\r\n"[..],
            b"PROXY / HTTP/1.1\r\n",
            b"PRI * HTTP/2.0\r\n",
            b"\r\nGET / HTTP/1.1\r\n",
            b"\r\n\r\nGET / HTTP/1.1\r\n",
            &binary(0x31, b"1234"),
            &binary(0x2F, b"1234"),
            &[22, 3, 1, 2, 0, 1, 0, 1, 0xFC, 3, 3],
            &too_long,
        ] {
            assert_eq!(Header::at_start(other), Header::No, "{other:02x?}");
        }
    }

    proptest! {
        #[test]
        fn so_many_bytes_always_tell(rest in proptest::collection::vec(any::<u8>(), LONGEST), start in 0..4_usize) {
            let start = [&b""[..], LINES[0], LINES[2], SIGNATURE][start];
            let first = [start, &rest].concat();
            let header = Header::at_start(&first[..LONGEST]);
            prop_assert_ne!(header, Header::Perhaps);
            prop_assert_eq!(header, Header::at_start(&first));
        }
    }
}
