//! How values are spelled in output: JSON strings, escapes for a terminal, base64, times.
//!
//! Everything appends to a byte buffer and nothing allocates. Nobody outside sinks needs this.

use std::io::Write;
use std::net::IpAddr;

use crate::digits::{self, append_ip, append_number};
use crate::exchange::Nanos;
use crate::words::{HIGH, ONES, below};

/// Writes one JSON text without ever holding it as values. Keys are written in the order of the calls. Every value is
/// written with a comma behind it; what closes it takes back the last one.
pub(super) struct Json<'a> {
    out: &'a mut Vec<u8>,
    /// Set when a string had bytes that are not UTF-8; each run of them was written as U+FFFD.
    pub(super) replaced: bool,
}

impl<'a> Json<'a> {
    pub(super) fn new(out: &'a mut Vec<u8>) -> Json<'a> {
        Json { out, replaced: false }
    }

    /// The text is complete: ends its line.
    pub(super) fn end_line(mut self) {
        self.take_comma();
        self.out.push(b'\n');
    }

    pub(super) fn open(&mut self, bracket: u8) {
        self.out.push(bracket);
    }

    pub(super) fn close(&mut self, bracket: u8) {
        self.take_comma();
        self.out.extend_from_slice(&[bracket, b',']);
    }

    /// A key that is plain ASCII without quotes, as all of ours are.
    #[inline(always)]
    pub(super) fn key(&mut self, key: &str) {
        self.key_and(key, "");
    }

    /// A key from outside.
    pub(super) fn foreign_key(&mut self, key: &[u8]) {
        self.quoted(key);
        self.out.push(b':');
    }

    /// A key with an object as its value, still to be closed.
    #[inline(always)]
    pub(super) fn object(&mut self, key: &str) {
        self.key_and(key, "{");
    }

    /// A key and its string, unless that is empty.
    #[inline(always)]
    pub(super) fn text(&mut self, key: &str, value: impl AsRef<[u8]>) {
        let value = value.as_ref();
        if !value.is_empty() {
            self.key_and(key, "\"");
            self.part(value);
            self.out.extend_from_slice(b"\",");
        }
    }

    /// A key and one of our own words, unless that is empty: it has nothing to escape.
    #[inline(always)]
    pub(super) fn word(&mut self, key: &str, word: &'static str) {
        if !word.is_empty() {
            self.key_and(key, "\"");
            self.out.extend_from_slice(word.as_bytes());
            self.out.extend_from_slice(b"\",");
        }
    }

    #[inline(always)]
    pub(super) fn number(&mut self, key: &str, value: u64) {
        self.key(key);
        append_number(self.out, value);
        self.out.push(b',');
    }

    /// A number as a string, for identifiers: JSON readers may hold numbers as floats.
    #[inline(always)]
    pub(super) fn quoted_number(&mut self, key: &str, value: u64) {
        self.key_and(key, "\"");
        append_number(self.out, value);
        self.out.extend_from_slice(b"\",");
    }

    /// Keys and values that were written before, as this does.
    pub(super) fn written(&mut self, text: &[u8]) {
        self.out.extend_from_slice(text);
    }

    pub(super) fn boolean(&mut self, key: &str, value: bool) {
        self.key(key);
        self.out.extend_from_slice(if value { b"true," } else { b"false," });
    }

    /// Nanoseconds as milliseconds, to the microsecond.
    #[inline(always)]
    pub(super) fn millis(&mut self, key: &str, nanos: Option<Nanos>) {
        let Some(nanos) = nanos else { return };
        let micros = nanos.saturating_add(500) / 1000;
        self.key(key);
        append_number(self.out, micros / 1000);
        let mut decimals = *b".000,";
        digits::fill(&mut decimals[1..4], micros % 1000);
        self.out.extend_from_slice(&decimals);
    }

    #[inline(always)]
    pub(super) fn time(&mut self, key: &str, nanos: Nanos) {
        self.key_and(key, "\"");
        append_time(self.out, nanos);
        self.out.extend_from_slice(b"\",");
    }

    pub(super) fn base64(&mut self, key: &str, bytes: &[u8]) {
        self.key_and(key, "\"");
        append_base64(self.out, bytes);
        self.out.extend_from_slice(b"\",");
    }

    #[inline(always)]
    pub(super) fn ip(&mut self, key: &str, ip: IpAddr) {
        self.key_and(key, "\"");
        append_ip(self.out, ip);
        self.out.extend_from_slice(b"\",");
    }

    /// A string, in an array or as the value of a key.
    pub(super) fn string(&mut self, value: &[u8]) {
        self.quoted(value);
        self.out.push(b',');
    }

    /// A string of parts joined by `, `.
    pub(super) fn joined<'v>(&mut self, values: impl Iterator<Item = &'v [u8]>) {
        self.out.push(b'"');
        for (position, value) in values.enumerate() {
            if position > 0 {
                self.out.extend_from_slice(b", ");
            }
            self.part(value);
        }
        self.out.extend_from_slice(b"\",");
    }

    fn quoted(&mut self, value: &[u8]) {
        self.out.push(b'"');
        self.part(value);
        self.out.push(b'"');
    }

    /// A key and how its value begins. Inlined, so that all of it is one constant: this runs for every key of a record.
    #[inline(always)]
    fn key_and(&mut self, key: &str, begin: &str) {
        let mut text = [0; 64];
        let mut len = 0;
        for part in ["\"", key, "\":", begin] {
            text[len..len + part.len()].copy_from_slice(part.as_bytes());
            len += part.len();
        }
        self.out.extend_from_slice(&text[..len]);
    }

    fn part(&mut self, value: &[u8]) {
        let needs_care = |byte| is_unprintable(byte) | (byte == b'"') | (byte == b'\\');
        if is_short_and_plain(value) {
            return self.out.extend_from_slice(value);
        }
        let Some(at) = find_byte(value, needs_care) else { return self.out.extend_from_slice(value) };
        let (plain, value) = value.split_at(at);
        self.out.extend_from_slice(plain);
        match std::str::from_utf8(value) {
            Ok(text) => append_escaped(self.out, text, is_json_special, json_escape),
            Err(_) => {
                self.replaced = true;
                each_chunk(value, |text| append_escaped(self.out, text, is_json_special, json_escape));
            }
        }
    }

    /// Strings end in a quote, so a comma at the end is one between values.
    fn take_comma(&mut self) {
        if self.out.last() == Some(&b',') {
            self.out.pop();
        }
    }
}

/// Appends `value` so that a terminal shows it and does nothing else: control characters become `\n`, `\x1b`,
/// `\u{9b}`, bytes that are not UTF-8 become U+FFFD. The characters in `plain` are let through.
pub(super) fn append_visible(out: &mut Vec<u8>, value: &[u8], plain: &[char]) {
    let Some(at) = find_byte(value, is_unprintable) else { return out.extend_from_slice(value) };
    let (printable, value) = value.split_at(at);
    out.extend_from_slice(printable);
    let escape = |out: &mut Vec<u8>, character: char| visible_escape(out, character, plain);
    match std::str::from_utf8(value) {
        Ok(text) => append_escaped(out, text, is_control_special, escape),
        Err(_) => each_chunk(value, |text| append_escaped(out, text, is_control_special, escape)),
    }
}

/// Not in ASCII, or not seen. Where a value has no such byte, and that is the rule, it is copied as it is.
fn is_unprintable(byte: u8) -> bool {
    byte.wrapping_sub(0x20) > b'~' - 0x20
}

/// Whether these are fewer than 17 bytes, none of which needs an escape in JSON: most of what is written. Eight at a time.
fn is_short_and_plain(bytes: &[u8]) -> bool {
    let is = |word: u64, byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
    let needs_care = |word: u64| (word | below(word, b' ') | is(word, b'"') | is(word, b'\\') | is(word, 0x7f)) & HIGH;
    let word = |first: &[u8; 4], last: &[u8; 4]| {
        u64::from(u32::from_ne_bytes(*first)) << 32 | u64::from(u32::from_ne_bytes(*last))
    };
    // What is in both is looked at twice.
    let all = match (bytes.first_chunk::<8>(), bytes.last_chunk::<8>()) {
        (Some(first), Some(last)) if bytes.len() <= 16 => {
            needs_care(u64::from_ne_bytes(*first)) | needs_care(u64::from_ne_bytes(*last))
        }
        (Some(_), Some(_)) => return false,
        _ => match (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
            (Some(first), Some(last)) => needs_care(word(first, last)),
            _ => bytes.iter().fold(0, |all, &byte| all | needs_care(ONES * u64::from(byte))),
        },
    };
    all == 0
}

/// Where the first byte is that is so. Pieces of fixed size without a way out of their middle compile to vector
/// instructions (the last one overlaps the one before it): headers and bodies are the bulk of what is written.
fn find_byte(bytes: &[u8], is_so: impl Fn(u8) -> bool) -> Option<usize> {
    const PIECE: usize = 16;
    let in_piece = |piece: &[u8; PIECE]| piece.iter().fold(0, |so, &byte| so | u8::from(is_so(byte))) != 0;
    let from = match bytes.last_chunk::<PIECE>() {
        Some(last) => {
            let (pieces, _) = bytes.as_chunks::<PIECE>();
            let number = pieces.iter().position(in_piece);
            number.map(|number| number * PIECE).or_else(|| in_piece(last).then(|| bytes.len() - PIECE))
        }
        None => Some(0),
    }?;
    bytes[from..].iter().position(|&byte| is_so(byte)).map(|at| from + at)
}

/// As [`append_time`], by itself.
pub(super) fn rfc3339(nanos: Nanos) -> String {
    let mut time = Vec::new();
    append_time(&mut time, nanos);
    String::from_utf8(time).expect("digits and signs")
}

/// RFC 3339, UTC, nine decimals.
pub(super) fn append_time(out: &mut Vec<u8>, nanos: Nanos) {
    let (year, month, day) = date(nanos);
    let mut time = *b"0000-00-00T00:00:00.000000000Z";
    digits::fill(&mut time[..4], year);
    digits::fill(&mut time[5..7], month);
    digits::fill(&mut time[8..10], day);
    fill_clock(&mut time[11..19], nanos);
    digits::fill(&mut time[20..29], nanos % SECOND);
    out.extend_from_slice(&time);
}

const SECOND: Nanos = 1_000_000_000;
const DAY: Nanos = 86_400 * SECOND;

/// Year, month and day, UTC.
pub(super) fn date(nanos: Nanos) -> (u64, u64, u64) {
    civil_from_days(nanos / DAY)
}

/// Writes hour, minute and second over `00:00:00`.
pub(super) fn fill_clock(room: &mut [u8], nanos: Nanos) {
    let second = nanos % DAY / SECOND;
    digits::fill(&mut room[..2], second / 3600);
    digits::fill(&mut room[3..5], second / 60 % 60);
    digits::fill(&mut room[6..8], second % 60);
}

/// Year, month and day of a day since 1970-01-01. A year of 400 × 365.2425 days is taken to begin in March, so that
/// the leap day is its last (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// RFC 4648 section 4, with padding.
fn append_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    out.reserve(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |position: usize| u32::from(group.get(position).copied().unwrap_or_default());
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        let mut digits = [18, 12, 6, 0].map(|shift| ALPHABET[(bits >> shift & 63) as usize]);
        digits[group.len() + 1..].fill(b'=');
        out.extend_from_slice(&digits);
    }
}

/// First bytes of characters that may need an escape in JSON: what the format demands, all control characters (a
/// terminal obeys U+0080 to U+009F too), and the line ends U+2028 and U+2029, so that every reader sees one line.
fn is_json_special(byte: u8) -> bool {
    is_control_special(byte) | (byte == b'"') | (byte == b'\\') | (byte == 0xe2)
}

/// First bytes of control characters.
fn is_control_special(byte: u8) -> bool {
    (byte < 0x20) | (byte == 0x7f) | (byte == 0xc2)
}

/// Appends the escape of a character that needs one, and says whether it did.
fn json_escape(out: &mut Vec<u8>, character: char) -> bool {
    let letter = match character {
        '"' => b'"',
        '\\' => b'\\',
        '\n' => b'n',
        '\r' => b'r',
        '\t' => b't',
        _ if character.is_control() || matches!(character, '\u{2028}' | '\u{2029}') => {
            write!(out, "\\u{:04x}", u32::from(character)).expect("writing to memory never fails");
            return true;
        }
        _ => return false,
    };
    out.extend_from_slice(&[b'\\', letter]);
    true
}

fn visible_escape(out: &mut Vec<u8>, character: char, plain: &[char]) -> bool {
    if !character.is_control() || plain.contains(&character) {
        return false;
    }
    match character {
        '\n' => out.extend_from_slice(b"\\n"),
        '\r' => out.extend_from_slice(b"\\r"),
        '\t' => out.extend_from_slice(b"\\t"),
        _ if character.is_ascii() => {
            write!(out, "\\x{:02x}", u32::from(character)).expect("writing to memory never fails");
        }
        _ => write!(out, "\\u{{{:x}}}", u32::from(character)).expect("writing to memory never fails"),
    }
    true
}

/// Copies `text`, in runs as long as can be, handing to `escape` each character that begins with a special byte.
fn append_escaped(
    out: &mut Vec<u8>,
    mut text: &str,
    is_special: impl Fn(u8) -> bool,
    escape: impl Fn(&mut Vec<u8>, char) -> bool,
) {
    while let Some(at) = find_byte(text.as_bytes(), &is_special) {
        let (before, rest) = text.split_at(at);
        let character = rest.chars().next().expect("a byte was found there");
        let (special, rest) = rest.split_at(character.len_utf8());
        out.extend_from_slice(before.as_bytes());
        if !escape(out, character) {
            out.extend_from_slice(special.as_bytes());
        }
        text = rest;
    }
    out.extend_from_slice(text.as_bytes());
}

/// Shows `value` as text, U+FFFD where it is not UTF-8.
fn each_chunk(value: &[u8], mut show: impl FnMut(&str)) {
    for chunk in value.utf8_chunks() {
        show(chunk.valid());
        if !chunk.invalid().is_empty() {
            show("\u{fffd}");
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn time(nanos: Nanos) -> String {
        let mut out = Vec::new();
        append_time(&mut out, nanos);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn times_are_rfc_3339() {
        assert_eq!(time(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(time(951_782_399_999_999_999), "2000-02-28T23:59:59.999999999Z");
        assert_eq!(time(951_782_400_000_000_001), "2000-02-29T00:00:00.000000001Z");
        assert_eq!(time(1_772_366_400_123_456_789), "2026-03-01T12:00:00.123456789Z");
        assert_eq!(time(4_107_542_400_000_000_000), "2100-03-01T00:00:00.000000000Z");
        assert_eq!(time(u64::MAX), "2554-07-21T23:34:33.709551615Z");
    }

    #[test]
    fn every_day_follows_the_one_before() {
        let mut last = civil_from_days(0);
        for day in 1..300_000 {
            let (year, month, date) = civil_from_days(day);
            let next_day = (year, month, date) == (last.0, last.1, last.2 + 1);
            let next_month = (year, month, date) == (last.0, last.1 + 1, 1);
            let next_year = (year, month, date) == (last.0 + 1, 1, 1) && (last.1, last.2) == (12, 31);
            assert!(next_day || (next_month && last.2 >= 28) || next_year, "{last:?} then {year} {month} {date}");
            last = (year, month, date);
        }
    }

    #[test]
    fn base64_is_that_of_rfc_4648() {
        for (plain, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            let mut out = Vec::new();
            append_base64(&mut out, plain.as_bytes());
            assert_eq!(String::from_utf8(out).unwrap(), coded);
        }
    }

    #[test]
    fn json_escapes_all_that_ends_a_line_or_moves_a_terminal() {
        let mut out = Vec::new();
        Json::new(&mut out).quoted("\"\\\n\r\t\0\x1b\x7f\u{85}\u{9b}\u{2028}é€😀".as_bytes());
        let expected = r#""\"\\\n\r\t\u0000\u001b\u007f\u0085\u009b\u2028é€😀""#;
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    proptest! {
        #[test]
        fn json_strings_read_back(text in any::<String>()) {
            let mut out = Vec::new();
            Json::new(&mut out).quoted(text.as_bytes());
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }

        #[test]
        fn what_is_short_and_plain_is_found_so(bytes in proptest::collection::vec(
            prop_oneof![20 => b' '..0x7f, 1 => any::<u8>()], 0..20,
        )) {
            let is_plain = |byte: &u8| (b' '..0x7f).contains(byte) && !b"\"\\".contains(byte);
            prop_assert_eq!(is_short_and_plain(&bytes), bytes.len() <= 16 && bytes.iter().all(is_plain));
        }

        #[test]
        fn bytes_that_are_not_utf8_become_the_replacement_character(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let mut out = Vec::new();
            let mut json = Json::new(&mut out);
            json.quoted(&bytes);
            let replaced = json.replaced;
            prop_assert_eq!(replaced, std::str::from_utf8(&bytes).is_err());
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), String::from_utf8_lossy(&bytes).into_owned());
        }
    }
}
