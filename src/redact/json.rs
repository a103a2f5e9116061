//! Masking in JSON, without reading it into values: one pass over the text, which may be cut off anywhere.
//!
//! A list is passed through: a path names keys only. Several texts behind one another (NDJSON) are read one by one.

use super::MASK;

/// Nested deeper than this a text is not followed.
const DEEPEST: usize = 256;

/// Which values are hidden: those whose keys, from the innermost one outwards, are these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    /// Innermost first; none stands for any key.
    steps: Vec<Option<Box<str>>>,
    /// The outermost step is a key of the text's outermost object.
    is_anchored: bool,
}

impl Path {
    /// `password`, at any depth; `user.password`, where a `user` has it; `$.user.*.token`, from the top. `[*]` is
    /// read over. The error says what is wrong.
    pub fn parse(text: &str) -> Result<Path, String> {
        let (is_anchored, keys) = match text.strip_prefix('$') {
            Some(rest) => (true, rest.strip_prefix('.').ok_or("write `$.key`")?),
            None => (false, text),
        };
        let keys = keys.replace("[*]", "");
        let mut steps = Vec::new();
        for key in keys.split('.').rev() {
            match key {
                "*" => steps.push(None),
                _ if key.is_empty() || key.contains(['[', ']', '*']) => {
                    return Err("write keys with dots between them, `*` for any key".to_owned());
                }
                _ => steps.push(Some(key.into())),
            }
        }
        if steps.iter().all(Option::is_none) && !is_anchored {
            return Err("name a key, or begin with `$.`".to_owned());
        }
        Ok(Path { steps, is_anchored })
    }

    /// `keys`: those on the way, outermost first.
    fn is_of(&self, keys: &[&[u8]]) -> bool {
        let fits = if self.is_anchored { self.steps.len() == keys.len() } else { self.steps.len() <= keys.len() };
        let is_step = |(step, key): (&Option<Box<str>>, &&[u8])| step.as_ref().is_none_or(|step| is_key(key, step));
        fits && self.steps.iter().zip(keys.iter().rev()).all(is_step)
    }
}

/// `raw`: a key as it is written, without its quotes.
fn is_key(raw: &[u8], key: &str) -> bool {
    if !raw.contains(&b'\\') {
        return raw.eq_ignore_ascii_case(key.as_bytes());
    }
    let quoted = [b"\"", raw, b"\""].concat();
    serde_json::from_slice::<String>(&quoted).is_ok_and(|raw| raw.eq_ignore_ascii_case(key))
}

/// The text with what the paths name hidden; none where nothing is. Where what is called JSON is none from some place
/// on, the rest is hidden: what it holds cannot be told.
pub(super) fn mask(content_type: &[u8], text: &[u8], paths: &[Path]) -> Option<Vec<u8>> {
    let is_called_json = content_type.to_ascii_lowercase().windows(4).any(|part| part == b"json");
    let looks_like_json = matches!(text.trim_ascii_start().first(), Some(b'{' | b'['));
    if !is_called_json && !looks_like_json {
        return None;
    }
    let mut reader = Reader { text, at: 0, keys: Vec::new(), open: Vec::new(), paths, out: Vec::new(), copied: 0 };
    if reader.read().is_none() && is_called_json {
        reader.hide(reader.at, text.len(), MASK);
    }
    if reader.copied == 0 {
        return None;
    }
    reader.out.extend_from_slice(&text[reader.copied..]);
    Some(reader.out)
}

/// What is open around a value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Open {
    Object,
    List,
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
    /// One for each object that is open.
    keys: Vec<&'a [u8]>,
    open: Vec<Open>,
    paths: &'a [Path],
    out: Vec<u8>,
    /// How much of the text is in `out`, or hidden.
    copied: usize,
}

impl<'a> Reader<'a> {
    /// To the end, which may be anywhere; none where there is no JSON any more.
    fn read(&mut self) -> Option<()> {
        loop {
            self.skip_space();
            let Some(&byte) = self.text.get(self.at) else { return Some(()) };
            let hidden =
                self.open.last() == Some(&Open::Object) && self.paths.iter().any(|path| path.is_of(&self.keys));
            match byte {
                _ if hidden => self.hide_value(),
                b'{' | b'[' if self.open.len() == DEEPEST => return None,
                b'{' => {
                    self.at += 1;
                    self.open.push(Open::Object);
                    self.keys.push(b"");
                    if !self.take(b'}') {
                        self.key()?;
                        continue;
                    }
                    self.close();
                }
                b'[' => {
                    self.at += 1;
                    self.open.push(Open::List);
                    if !self.take(b']') {
                        continue;
                    }
                    self.close();
                }
                _ => self.skip_scalar()?,
            }
            self.after_value()?;
        }
    }

    /// What stands between a value and the next one.
    fn after_value(&mut self) -> Option<()> {
        loop {
            let is_over = match self.open.last().copied() {
                None => return Some(()),
                Some(Open::Object) if self.take(b',') => return self.key(),
                Some(Open::List) if self.take(b',') => return Some(()),
                Some(Open::Object) => self.take(b'}'),
                Some(Open::List) => self.take(b']'),
            };
            if !is_over {
                // The end of the text, or no JSON.
                return (self.at == self.text.len()).then_some(());
            }
            self.close();
        }
    }

    fn close(&mut self) {
        if self.open.pop() == Some(Open::Object) {
            self.keys.pop();
        }
    }

    /// A key and its colon.
    fn key(&mut self) -> Option<()> {
        self.skip_space();
        let Some(b'"') = self.text.get(self.at) else { return (self.at == self.text.len()).then_some(()) };
        let begin = self.at + 1;
        self.skip_string();
        let text = self.text;
        *self.keys.last_mut()? = text.get(begin..self.at.saturating_sub(1)).unwrap_or_default();
        (self.take(b':') || self.at == text.len()).then_some(())
    }

    /// A value with all that is in it; where it turns out to be no JSON, with all that follows.
    fn hide_value(&mut self) {
        let begin = self.at;
        let mut depth = 0_usize;
        while let Some(byte) = self.text.get(self.at) {
            match byte {
                b'{' | b'[' => depth += 1,
                b'}' | b']' if depth > 0 => depth -= 1,
                b',' | b':' | b' ' | b'\t' | b'\n' | b'\r' if depth > 0 => {}
                // Its last sign is stepped over below.
                _ if self.skip_scalar().is_some() => self.at -= 1,
                _ => {
                    self.at = self.text.len();
                    break;
                }
            }
            self.at += 1;
            if depth == 0 {
                break;
            }
        }
        self.hide(begin, self.at, b"\"***\"");
    }

    fn hide(&mut self, begin: usize, end: usize, mask: &[u8]) {
        self.out.extend_from_slice(&self.text[self.copied..begin]);
        self.out.extend_from_slice(mask);
        self.copied = end;
    }

    /// A string, or a word such as a number.
    fn skip_scalar(&mut self) -> Option<()> {
        if self.text[self.at] == b'"' {
            self.skip_string();
            return Some(());
        }
        let is_word = |byte: &&u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
        let len = self.text[self.at..].iter().take_while(is_word).count();
        self.at += len;
        (len > 0).then_some(())
    }

    fn skip_string(&mut self) {
        self.at += 1;
        while let Some(len) = memchr::memchr2(b'"', b'\\', &self.text[self.at..]) {
            self.at += len + 1;
            if self.text[self.at - 1] == b'"' {
                return;
            }
            self.at = (self.at + 1).min(self.text.len());
        }
        self.at = self.text.len();
    }

    /// White space, and what separates records (RFC 7464).
    fn skip_space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r' | 0x1e) = self.text.get(self.at) {
            self.at += 1;
        }
    }

    fn take(&mut self, wanted: u8) -> bool {
        self.skip_space();
        let is_there = self.text.get(self.at) == Some(&wanted);
        self.at += usize::from(is_there);
        is_there
    }
}
