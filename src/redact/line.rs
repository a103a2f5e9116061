//! Masking in place: in header values, URLs and forms. Each function shortens the text in its slice, if anything, and
//! answers its new length.

use super::MASK;

/// Goes through a text once, keeping and masking; what it writes never passes what it has read.
struct Rewrite<'a> {
    text: &'a mut [u8],
    read: usize,
    written: usize,
}

impl Rewrite<'_> {
    fn rest(&self) -> &[u8] {
        &self.text[self.read..]
    }

    fn keep(&mut self, len: usize) {
        self.text.copy_within(self.read..self.read + len, self.written);
        self.read += len;
        self.written += len;
    }

    /// Of what is shorter than the mask, as much of the mask as there is room for.
    fn mask(&mut self, len: usize) {
        let mask = &MASK[..len.min(MASK.len())];
        self.text[self.written..self.written + mask.len()].copy_from_slice(mask);
        self.read += len;
        self.written += mask.len();
    }

    fn keep_rest(mut self) -> usize {
        self.keep(self.rest().len());
        self.written
    }
}

fn rewrite(text: &mut [u8]) -> Rewrite<'_> {
    Rewrite { text, read: 0, written: 0 }
}

pub(super) fn mask_whole(value: &mut [u8]) -> usize {
    let len = value.len();
    let mut line = rewrite(value);
    line.mask(len);
    line.written
}

/// `Bearer abc` is `Bearer ***`; what has no scheme is hidden as a whole.
pub(super) fn mask_credentials(value: &mut [u8]) -> usize {
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    let scheme = value.iter().take_while(|byte| is_token(byte)).count();
    if value.get(scheme) != Some(&b' ') {
        return mask_whole(value);
    }
    let mut line = rewrite(value);
    line.keep(scheme + 1);
    line.mask(line.rest().len());
    line.written
}

/// `set`: one cookie and its attributes, else any number of cookies.
pub(super) fn mask_cookies(value: &mut [u8], set: bool) -> usize {
    let mut line = rewrite(value);
    let mut is_first = true;
    while !line.rest().is_empty() {
        let part = line.rest().split(|&byte| byte == b';').next().unwrap_or_default();
        let (len, equals) = (part.len(), part.iter().position(|&byte| byte == b'='));
        if set && !is_first && is_attribute(part) {
            line.keep(len);
        } else {
            let spaces = part.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
            let kept = equals.map_or(spaces, |at| at + 1);
            line.keep(kept);
            line.mask(len - kept);
        }
        line.keep(line.rest().len().min(1));
        is_first = false;
    }
    line.written
}

/// Anything else behind a cookie may be a part of its value.
fn is_attribute(part: &[u8]) -> bool {
    const KNOWN: [&str; 9] =
        ["expires", "max-age", "domain", "path", "secure", "httponly", "samesite", "partitioned", "priority"];
    let name = part.split(|&byte| byte == b'=').next().unwrap_or_default().trim_ascii();
    KNOWN.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes()))
}

/// `http://name:password@host/` is `http://***@host/`; so it is with an authority alone.
pub(super) fn mask_user(url: &mut [u8]) -> usize {
    if memchr::memchr(b'@', url).is_none() {
        return url.len();
    }
    let begin = memchr::memmem::find(url, b"://").map_or(0, |at| at + 3);
    let end = url[begin..].iter().position(|byte| b"/?#".contains(byte)).map_or(url.len(), |len| begin + len);
    let Some(user) = url[begin..end].iter().rposition(|&byte| byte == b'@') else { return url.len() };
    let mut line = rewrite(url);
    line.keep(begin);
    line.mask(user);
    line.keep_rest()
}

/// Where parameters begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// At the start: a form.
    Start,
    /// Behind the first `?` or `#`: a URL.
    Mark,
    /// So it is with a URL in a text: a space, a quote or `>` ends a value too.
    MarkInText,
}

/// The values of parameters of these names, whose names may be written with percent-encoding.
pub(super) fn mask_parameters(text: &mut [u8], names: &[Box<str>], after: After) -> usize {
    let first = match after {
        _ if names.is_empty() => None,
        After::Start => Some(0),
        After::Mark | After::MarkInText => memchr::memchr2(b'?', b'#', text).map(|mark| mark + 1),
    };
    let Some(first) = first else { return text.len() };
    let mut line = rewrite(text);
    line.keep(first);
    while !line.rest().is_empty() {
        let rest = line.rest();
        let len = rest.iter().position(|byte| b"=&;?#".contains(byte)).unwrap_or(rest.len());
        let is_hidden = rest.get(len) == Some(&b'=') && names.iter().any(|name| is_encoded(&rest[..len], name));
        // Behind the sign that ended the name, a value or the next name.
        line.keep((len + 1).min(rest.len()));
        if !is_hidden {
            continue;
        }
        let ends: &[u8] = if after == After::MarkInText { b"&# \">" } else { b"&#" };
        let value = line.rest().iter().position(|byte| ends.contains(byte)).unwrap_or(line.rest().len());
        line.mask(value);
    }
    line.written
}

/// Whether `text`, with percent-encoding undone, is that name, in any case.
fn is_encoded(text: &[u8], name: &str) -> bool {
    let mut left = text;
    for wanted in name.bytes() {
        let byte = match left {
            [b'%', high, low, rest @ ..] => {
                left = rest;
                let digit = |digit: &u8| char::from(*digit).to_digit(16);
                let Some((high, low)) = digit(high).zip(digit(low)) else { return false };
                (high * 16 + low) as u8
            }
            [b'+', rest @ ..] if wanted == b' ' => {
                left = rest;
                b' '
            }
            [byte, rest @ ..] => {
                left = rest;
                *byte
            }
            [] => return false,
        };
        if !byte.eq_ignore_ascii_case(&wanted) {
            return false;
        }
    }
    left.is_empty()
}

/// Ranges in order of their start; one that begins within another is a part of it.
pub(super) fn mask_ranges(text: &mut [u8], ranges: &[(usize, usize)]) -> usize {
    let mut line = rewrite(text);
    for &(start, end) in ranges {
        if start >= end || end <= line.read {
            continue;
        }
        line.keep(start.saturating_sub(line.read));
        line.mask(end - line.read);
    }
    line.keep_rest()
}
