//! Lines of an NSS key log, which Wireshark reads: `LABEL client-random secret`, the latter two in hex.

use std::fmt;

use zeroize::Zeroizing;

use super::{LogLabel, Secret};

/// One line. Its `Display` is the line without a line break.
pub struct Line<'a> {
    pub label: LogLabel,
    pub client_random: &'a [u8; 32],
    pub secret: &'a [u8],
}

impl LogLabel {
    const ALL: [(LogLabel, &'static str); 6] = [
        (LogLabel::ClientRandom, "CLIENT_RANDOM"),
        (LogLabel::ClientEarly, "CLIENT_EARLY_TRAFFIC_SECRET"),
        (LogLabel::ClientHandshake, "CLIENT_HANDSHAKE_TRAFFIC_SECRET"),
        (LogLabel::ServerHandshake, "SERVER_HANDSHAKE_TRAFFIC_SECRET"),
        (LogLabel::ClientApplication, "CLIENT_TRAFFIC_SECRET_0"),
        (LogLabel::ServerApplication, "SERVER_TRAFFIC_SECRET_0"),
    ];

    /// The label with this name; none for those that open nothing.
    pub fn named(name: &str) -> Option<LogLabel> {
        LogLabel::ALL.into_iter().find(|(_, known)| *known == name).map(|(label, _)| label)
    }

    pub fn name(self) -> &'static str {
        LogLabel::ALL.into_iter().find(|(label, _)| *label == self).map_or("", |(_, name)| name)
    }
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.label.name())?;
        for byte in self.client_random {
            write!(f, "{byte:02x}")?;
        }
        write!(f, " ")?;
        for byte in self.secret {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

/// The secret of a line; none for comments, labels that open nothing, and what is no line of a key log.
pub fn parse(line: &str) -> Option<Secret> {
    let mut words = line.split_ascii_whitespace();
    let label = LogLabel::named(words.next()?)?;
    let client_random = from_hex(words.next()?)?;
    let mut secret = from_hex(words.next()?)?;
    if words.next().is_some() || !matches!(secret.len(), 32 | 48) {
        return None;
    }
    let client_random = client_random.as_slice().try_into().ok()?;
    Some(Secret::Log { label, client_random, secret: std::mem::take(&mut *secret) })
}

fn from_hex(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let text = text.as_bytes();
    if !text.len().is_multiple_of(2) {
        return None;
    }
    let digit = |byte: u8| (byte as char).to_digit(16).map(|digit| digit as u8);
    let bytes = text.chunks_exact(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?));
    bytes.collect::<Option<Vec<u8>>>().map(Zeroizing::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_as_it_is_written() {
        for (label, _) in LogLabel::ALL {
            let line = Line { label, client_random: &[0xA5; 32], secret: &[0x0F; 48] };
            let expected = Secret::Log { label, client_random: [0xA5; 32], secret: vec![0x0F; 48] };
            assert_eq!(parse(&line.to_string()), Some(expected));
        }
    }

    #[test]
    fn what_opens_nothing_is_no_secret() {
        let random = "00".repeat(32);
        let line = |label: &str, secret: &str| format!("{label} {random} {secret}");
        assert_eq!(parse(""), None);
        assert_eq!(parse("# a comment"), None);
        assert_eq!(parse(&line("EXPORTER_SECRET", &random)), None);
        assert_eq!(parse(&line("CLIENT_RANDOM", "00")), None);
        assert_eq!(parse(&line("CLIENT_RANDOM", &"é".repeat(24))), None);
        assert_eq!(parse(&line("CLIENT_RANDOM", &"0".repeat(95))), None);
        assert!(parse(&line("CLIENT_RANDOM", &"0".repeat(96))).is_some());
    }
}
