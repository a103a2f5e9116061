//! Heads and trailer sections: finding where one ends, looking at each byte once however they arrive, and then
//! parsing it in one go into one text and one list of spans.

use memchr::{memchr, memchr_iter};
use nom::Offset;

use super::grammar::{self, is_white};
use super::looks::{Looks, looks_like};
use super::{MAX_BLANK, MAX_CHUNK_LINE, MAX_FIELDS, MAX_HEAD, Side};
use crate::proto::{Head, Invalid, Pseudo, Span, StartLine, Trailers, Version};

/// How far the search for the end of a head or trailer section has come. Offsets are into the input not yet used,
/// which only grows while the search goes on.
#[derive(Debug, Default)]
pub(super) struct Search {
    /// Where the section begins: behind the empty lines that may stand before a start line.
    begin: usize,
    /// Bytes before this one were looked at.
    looked: usize,
    /// Start of the line being looked at.
    line: usize,
    /// Lines found so far, without the start line.
    lines: usize,
    start_line: Option<(StartLine, Version)>,
}

/// The longest section that is parsed before its end was found.
const SHORT_SECTION: usize = 8 << 10;
/// Room for so many fields is made at first.
const USUAL_FIELDS: usize = 16;

/// So many bytes at a line's start tell whether it can become a start line.
const START_LINE_PREFIX: usize = 128;

impl Search {
    /// Begins anew where the input is shorter than what was looked at, which is not what the caller has to do: old
    /// offsets would lie beyond its end.
    pub(super) fn check(&mut self, input: &[u8]) {
        if input.len() < self.looked {
            self.reset();
        }
    }

    /// Begins anew. Field by field: as one value it would be made elsewhere first and copied, and the copy waits for it.
    pub(super) fn reset(&mut self) {
        (self.begin, self.looked, self.line, self.lines) = (0, 0, 0, 0);
        self.start_line = None;
    }

    /// Whether any byte of a message was seen, empty lines aside.
    pub(super) fn is_in_message(&self) -> bool {
        self.looked > self.begin
    }

    /// The head at the start of `input` and how many bytes it takes; none while it is not complete.
    pub(super) fn head(&mut self, input: &[u8], side: Side) -> Result<Option<(Head, usize)>, Invalid> {
        let is_new = self.start_line.is_none();
        if is_new && !self.find_start_line(input, side)? {
            return Ok(None);
        }
        let (start, version) = self.start_line.expect("the start line was just found");
        if is_new && let Some((fields, end)) = short_fields(input, (self.begin, self.line), side) {
            let text = input[self.begin..end].to_vec();
            self.reset();
            return Ok(Some((Head::new(text, start, Pseudo::default(), version, fields), end)));
        }
        let Some(end) = self.find_end(input)? else { return Ok(None) };
        let mut text = input[self.begin..end].to_vec();
        let fields_at = memchr(b'\n', &text).map_or(text.len(), |lf| lf + 1);
        let fields = parse_fields(&mut text, fields_at, self.lines, side)?;
        self.reset();
        Ok(Some((Head::new(text, start, Pseudo::default(), version, fields), end)))
    }

    /// The trailer section at the start of `input`, none where it is empty, and how many bytes it takes.
    pub(super) fn trailers(&mut self, input: &[u8], side: Side) -> Result<Option<(Option<Trailers>, usize)>, Invalid> {
        let Some(end) = self.find_end(input)? else { return Ok(None) };
        let lines = self.lines;
        self.reset();
        if lines == 0 {
            return Ok(Some((None, end)));
        }
        let mut text = input[..end].to_vec();
        let fields = parse_fields(&mut text, 0, lines, side)?;
        Ok(Some((Some(Trailers { text, fields }), end)))
    }

    /// The chunk-size line at the start of `input`, without its line break, and how many bytes it takes with it.
    pub(super) fn chunk_line<'a>(&mut self, input: &'a [u8]) -> Result<Option<(&'a [u8], usize)>, Invalid> {
        let window = input.len().min(MAX_CHUNK_LINE);
        let Some(lf) = memchr(b'\n', &input[self.looked..window]) else {
            self.looked = window;
            let hopeless = window == MAX_CHUNK_LINE || input.first().is_some_and(|b| !b.is_ascii_hexdigit());
            return if hopeless { Err(Invalid::ChunkSize) } else { Ok(None) };
        };
        let end = self.looked + lf;
        self.reset();
        Ok(Some((without_cr(&input[..end]), end + 1)))
    }

    /// Steps over empty lines, then looks for the start line and parses it.
    fn find_start_line(&mut self, input: &[u8], side: Side) -> Result<bool, Invalid> {
        if !self.is_in_message() {
            self.begin = skip_blank(input).ok_or(Invalid::StartLine)?;
            self.looked = self.begin;
            if &input[self.begin..] == b"\r" {
                return Ok(false);
            }
        }
        let window = self.window(input);
        let Some(lf) = memchr(b'\n', &input[self.looked..window]) else {
            // what cannot become a start line is refused before its line is complete, so that other protocols are not
            // collected up to the limit
            let prefix = &input[self.begin..window.min(self.begin + START_LINE_PREFIX)];
            if self.looked < self.begin + START_LINE_PREFIX && looks_like(prefix, side) == Looks::No {
                return Err(Invalid::StartLine);
            }
            self.looked = window;
            return self.within_limit().map(|()| false);
        };
        let end = self.looked + lf;
        self.start_line = Some(parse_start_line(without_cr(&input[self.begin..end]), side).ok_or(Invalid::StartLine)?);
        self.looked = end + 1;
        self.line = end + 1;
        Ok(true)
    }

    /// The end of the section: behind its first empty line.
    fn find_end(&mut self, input: &[u8]) -> Result<Option<usize>, Invalid> {
        let window = self.window(input);
        let from = self.looked;
        for lf in memchr_iter(b'\n', &input[from..window]) {
            let end = from + lf;
            let line = without_cr(&input[self.line..end]);
            self.looked = end + 1;
            self.line = end + 1;
            if line.is_empty() {
                return Ok(Some(end + 1));
            }
            self.lines += 1;
            if self.lines > MAX_FIELDS {
                return Err(Invalid::HeadTooLarge);
            }
        }
        self.looked = window;
        self.within_limit().map(|()| None)
    }

    /// How much of the input may belong to the section.
    fn window(&self, input: &[u8]) -> usize {
        input.len().min(self.begin + MAX_HEAD)
    }

    fn within_limit(&self) -> Result<(), Invalid> {
        if self.looked - self.begin >= MAX_HEAD { Err(Invalid::HeadTooLarge) } else { Ok(()) }
    }
}

/// How many bytes of empty lines there are at the start (RFC 9112 section 2.2); none where they are too many.
pub(super) fn skip_blank(input: &[u8]) -> Option<usize> {
    let mut at = 0;
    while at <= MAX_BLANK {
        at += match &input[at..] {
            [b'\n', ..] => 1,
            [b'\r', b'\n', ..] => 2,
            _ => return Some(at),
        };
    }
    None
}

/// A start line without its line break. Spans count from its first byte.
fn parse_start_line(line: &[u8], side: Side) -> Option<(StartLine, Version)> {
    match side {
        Side::Request => {
            let parts = grammar::request_line(line)?;
            let (method, target) = (span(line, 0, parts.method), span(line, 0, parts.target));
            Some((StartLine::Request { method, target }, parts.version))
        }
        Side::Response => {
            let parts = grammar::status_line(line)?;
            let reason = span(line, 0, parts.reason);
            Some((StartLine::Response { status: parts.status, reason }, parts.version))
        }
    }
}

/// The short way for the usual head, which is there as a whole: its fields and where it ends, each byte looked at once.
/// None for one that is long, not complete, folded or wrong: the long way tells what it is.
///
/// The section begins at `begin`, from which spans count, its fields at `at`.
fn short_fields(input: &[u8], (begin, at): (usize, usize), side: Side) -> Option<(Vec<(Span, Span)>, usize)> {
    let section = &input[begin..input.len().min(begin + SHORT_SECTION)];
    let mut fields = Vec::with_capacity(USUAL_FIELDS);
    let mut rest = section.get(at - begin..)?;
    loop {
        if let [b'\n', behind @ ..] | [b'\r', b'\n', behind @ ..] = rest {
            return Some((fields, begin + section.len() - behind.len()));
        }
        let (name, value, behind) = grammar::whole_field_line(rest, side == Side::Response)?;
        fields.push((span(section, 0, name), span(section, 0, value)));
        rest = behind;
    }
}

/// The field lines of `text` from `at` to its first empty line. Line breaks inside folded values become spaces.
///
/// `lines`: how many lines there are at most, to allocate once.
fn parse_fields(text: &mut [u8], at: usize, lines: usize, side: Side) -> Result<Vec<(Span, Span)>, Invalid> {
    let mut fields: Vec<(Span, Span)> = Vec::with_capacity(lines);
    let mut folded = false;
    let mut start = at;
    for lf in memchr_iter(b'\n', &text[at..]) {
        let line = without_cr(&text[start..at + lf]);
        if line.is_empty() {
            break;
        }
        if is_white(line[0]) {
            let more = grammar::field_content(line).ok_or(Invalid::Header)?;
            let (_, value) = fields.last_mut().ok_or(Invalid::Header)?;
            *value = joined(*value, span(line, start, more));
            folded = true;
        } else {
            // RFC 9112 section 5.1: a server refuses white space before the colon, a proxy removes it from responses
            let (name, value) = grammar::field_line(line, side == Side::Response).ok_or(Invalid::Header)?;
            fields.push((span(line, start, name), span(line, start, value)));
        }
        start = at + lf + 1;
    }
    if folded {
        fields.iter().for_each(|(_, value)| unfold(text, *value));
    }
    Ok(fields)
}

/// Overwrites the line breaks inside a value with spaces (RFC 9112 section 5.2).
fn unfold(text: &mut [u8], value: Span) {
    for byte in &mut text[value.start as usize..value.end as usize] {
        if *byte == b'\n' || *byte == b'\r' {
            *byte = b' ';
        }
    }
}

/// A folded value: from the start of the one to the end of the other, where both hold something.
fn joined(value: Span, more: Span) -> Span {
    match (value.start == value.end, more.start == more.end) {
        (_, true) => value,
        (true, false) => more,
        (false, false) => Span { start: value.start, end: more.end },
    }
}

/// Where `part`, a piece of `line`, lies in the text that has `line` at `at`.
fn span(line: &[u8], at: usize, part: &[u8]) -> Span {
    let start = at + line.offset(part);
    let offset = |at: usize| u32::try_from(at).expect("a head is at most MAX_HEAD long");
    Span { start: offset(start), end: offset(start + part.len()) }
}

fn without_cr(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}
