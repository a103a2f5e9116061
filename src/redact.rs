//! Redaction: what is masked in an exchange before anything of it leaves the process.
//!
//! Heads and trailers are masked in place, before a record waits for its sinks: a mask is never longer than what it
//! hides, so nothing is allocated, and sizes stay those of the wire. Bodies are masked where they are shown, since
//! only there their content coding is undone. Rules are decided before that, on what was really sent. A recording
//! (`--record`) holds raw events and is not masked.

use std::borrow::Cow;
use std::fmt;

use regex::bytes::Regex;

use crate::exchange::{Exchange, Message};
use crate::proto::{Names, Span, StartLine};

mod json;
mod line;

pub use json::Path;

/// What stands in place of what is hidden.
const MASK: &[u8] = b"***";

/// What to mask. By default that is what proves who somebody is: credentials, keys and cookies.
#[derive(Clone)]
pub struct Redact {
    headers: Vec<(Box<str>, Kind)>,
    /// Those in `headers`.
    names: Names,
    /// Those of them that may be masked where nothing has an `@`.
    secrets: Names,
    /// Names of parameters, in URLs and in forms.
    query: Vec<Box<str>>,
    json: Vec<Path>,
    patterns: Vec<Regex>,
}

/// What of a header's value is hidden.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Whole,
    /// All but the scheme: `Bearer ***` (RFC 9110 section 11.4).
    Credentials,
    /// The values: `a=***; b=***` (RFC 6265 section 4.2.1).
    Cookie,
    /// The value, not the attributes: `a=***; Path=/` (RFC 6265 section 4.1.1).
    SetCookie,
    /// Name and password before a host: `http://***@host/` (RFC 3986 section 3.2.1).
    Url,
}

const ALWAYS: [(&str, Kind); 9] = [
    ("authorization", Kind::Credentials),
    ("proxy-authorization", Kind::Credentials),
    ("cookie", Kind::Cookie),
    ("set-cookie", Kind::SetCookie),
    ("x-api-key", Kind::Whole),
    ("host", Kind::Url),
    ("referer", Kind::Url),
    ("location", Kind::Url),
    ("content-location", Kind::Url),
];

impl Default for Redact {
    fn default() -> Redact {
        Redact::new(Vec::new(), Vec::new(), Vec::new(), Vec::new())
    }
}

impl Redact {
    /// The default, and more: headers by name, parameters of URLs and forms by name, values in JSON by path, and
    /// whatever a pattern matches (where it has groups: what these match), in heads and in bodies. Names are compared
    /// without regard to case.
    pub fn new(headers: Vec<Box<str>>, query: Vec<Box<str>>, json: Vec<Path>, patterns: Vec<Regex>) -> Redact {
        let mut all: Vec<(Box<str>, Kind)> = ALWAYS.map(|(name, kind)| (name.into(), kind)).into();
        for name in headers {
            match all.iter_mut().find(|(known, _)| known.eq_ignore_ascii_case(&name)) {
                Some((_, kind @ Kind::Url)) => *kind = Kind::Whole,
                Some(_) => {}
                None => all.push((name, Kind::Whole)),
            }
        }
        let those = |is_meant: fn(Kind) -> bool| {
            let names = all.iter().filter(|(_, kind)| is_meant(*kind));
            names.fold(Names::default(), |names, (name, _)| names.with(name.as_bytes()))
        };
        let (names, secrets) = (those(|_| true), those(|kind| kind != Kind::Url));
        Redact { headers: all, names, secrets, query, json, patterns }
    }

    /// Whether anything in a body may be masked.
    pub fn is_for_bodies(&self) -> bool {
        !self.query.is_empty() || !self.json.is_empty() || !self.patterns.is_empty()
    }

    /// Masks heads and trailers. What is hidden is overwritten.
    pub fn exchange(&self, exchange: &mut Exchange) {
        for message in exchange.messages_mut() {
            self.message(message);
        }
    }

    fn message(&self, message: &mut Message) {
        let head = &mut message.head;
        // A look at the head as a whole: users in URLs are rare, and else what is secret has its name.
        let is_all = self.looks_at_values() || memchr::memchr(b'@', &head.text).is_some();
        if is_all {
            match &mut head.start {
                StartLine::Request { target, .. } => {
                    self.in_place(&mut head.text, target, |target| {
                        let len = line::mask_user(target);
                        line::mask_parameters(&mut target[..len], &self.query, line::After::Mark)
                    });
                }
                StartLine::Response { reason, .. } => self.in_place(&mut head.text, reason, |reason| reason.len()),
            }
            self.in_place(&mut head.text, &mut head.pseudo.authority, line::mask_user);
        }
        if is_all || self.secrets.may_meet(head.names()) {
            self.fields(&mut head.text, &mut head.fields);
        }
        if let Some(trailers) = &mut message.trailers {
            self.fields(&mut trailers.text, &mut trailers.fields);
        }
    }

    /// Whether something may be masked in a header of any name.
    fn looks_at_values(&self) -> bool {
        !self.query.is_empty() || !self.patterns.is_empty()
    }

    fn fields(&self, text: &mut [u8], fields: &mut [(Span, Span)]) {
        for (name, value) in fields {
            let kind = self.kind(name.of(text));
            if kind.is_none() && !self.looks_at_values() {
                continue;
            }
            self.in_place(text, value, |value| {
                let len = match kind {
                    None => value.len(),
                    Some(Kind::Whole) => line::mask_whole(value),
                    Some(Kind::Credentials) => line::mask_credentials(value),
                    Some(Kind::Cookie) => line::mask_cookies(value, false),
                    Some(Kind::SetCookie) => line::mask_cookies(value, true),
                    Some(Kind::Url) => line::mask_user(value),
                };
                // Many headers hold a URL: where one came from, where to go, what was asked for first.
                line::mask_parameters(&mut value[..len], &self.query, line::After::MarkInText)
            });
        }
    }

    fn kind(&self, name: &[u8]) -> Option<Kind> {
        if !self.names.may_have(name) {
            return None;
        }
        let is_named = |(known, _): &&(Box<str>, Kind)| known.as_bytes().eq_ignore_ascii_case(name);
        self.headers.iter().find(is_named).map(|(_, kind)| *kind)
    }

    /// Lets `mask` shorten a part of the text, then the patterns; what it got shorter by is overwritten.
    fn in_place(&self, text: &mut [u8], span: &mut Span, mask: impl FnOnce(&mut [u8]) -> usize) {
        let Some(value) = text.get_mut(span.start as usize..span.end as usize) else { return };
        let mut len = mask(value);
        for pattern in &self.patterns {
            let found = matches(pattern, &value[..len]);
            len = line::mask_ranges(&mut value[..len], &found);
        }
        value[len..].fill(b'*');
        span.end = span.start + len as u32;
    }

    /// A body as it may be shown; `content_type` is the header's value, empty where there is none.
    pub fn body<'a>(&self, content_type: &[u8], mut body: Cow<'a, [u8]>) -> Cow<'a, [u8]> {
        if !self.json.is_empty()
            && let Some(masked) = json::mask(content_type, &body, &self.json)
        {
            body = Cow::Owned(masked);
        }
        if !self.query.is_empty() && is_form(content_type) {
            let form = body.to_mut();
            let len = line::mask_parameters(form, &self.query, line::After::Start);
            form.truncate(len);
        }
        for pattern in &self.patterns {
            let found = matches(pattern, &body);
            if !found.is_empty() {
                let text = body.to_mut();
                let len = line::mask_ranges(text, &found);
                text.truncate(len);
            }
        }
        body
    }
}

/// Patterns have no equality of their own: their text is compared.
impl PartialEq for Redact {
    fn eq(&self, other: &Redact) -> bool {
        let patterns = |redact: &'_ Redact| redact.patterns.iter().map(Regex::to_string).collect::<Vec<_>>();
        (&self.headers, &self.query, &self.json) == (&other.headers, &other.query, &other.json)
            && patterns(self) == patterns(other)
    }
}

impl fmt::Debug for Redact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redact").finish_non_exhaustive()
    }
}

fn is_form(content_type: &[u8]) -> bool {
    const FORM: &[u8] = b"application/x-www-form-urlencoded";
    content_type.get(..FORM.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(FORM))
}

/// Where a pattern matches, in order; where it has groups: what these match.
fn matches(pattern: &Regex, text: &[u8]) -> Vec<(usize, usize)> {
    if pattern.captures_len() == 1 {
        return pattern.find_iter(text).map(|found| (found.start(), found.end())).collect();
    }
    let groups = |captures: regex::bytes::Captures| {
        captures.iter().skip(1).flatten().map(|group| (group.start(), group.end())).collect::<Vec<_>>()
    };
    let mut found: Vec<_> = pattern.captures_iter(text).flat_map(groups).collect();
    found.sort_unstable();
    found
}

#[cfg(test)]
mod tests;
