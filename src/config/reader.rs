//! Strict reading of a tree: wrong types, unknown words and unknown keys are found here, with their place.
//!
//! Owns the wording of those errors. What the keys mean is up to the callers. Reading goes on after an error, so
//! that one run shows all of them; a value that could not be read is `None`, as one that is not there.

use std::time::Duration;

use super::errors::{Position, Problems};
use super::yaml::{Key, Node, Scalar, Value};
use crate::rules::near::hint;

/// Most entries of one list or map.
const MOST_ENTRIES: usize = 1000;

/// A value in the file, with the path to it.
#[derive(Clone)]
pub struct Item<'a> {
    node: &'a Node,
    pub path: String,
    problems: &'a Problems,
}

/// A map whose keys are known.
pub struct Section<'a> {
    entries: &'a [(Key, Node)],
    at: Position,
    pub path: String,
    problems: &'a Problems,
}

impl<'a> Item<'a> {
    pub fn root(node: &'a Node, problems: &'a Problems) -> Item<'a> {
        Item { node, path: String::new(), problems }
    }

    /// Notes that something is wrong with this value.
    pub fn error(&self, message: impl Into<String>) {
        self.problems.add(self.node.at, &self.path, message);
    }

    /// A map with these keys and no others.
    pub fn section(&self, keys: &[&str]) -> Option<Section<'a>> {
        let entries = self.map()?;
        for (key, _) in entries.iter().filter(|(key, _)| !keys.contains(&key.name.as_str())) {
            let near = hint(&key.name, keys.iter().copied());
            let expected = if near.is_empty() { format!(", expected one of {}", keys.join(", ")) } else { near };
            self.problems.add(key.at, &below(&self.path, &key.name), format!("unknown key{expected}"));
        }
        #[cfg(test)]
        for key in keys {
            let here = entries.iter().any(|(entry, _)| entry.name == *key);
            let path = below(&self.path, key).replace(|c: char| c.is_ascii_digit(), "");
            *self.problems.keys.borrow_mut().entry(path).or_default() |= here;
        }
        Some(Section { entries, at: self.node.at, path: self.path.clone(), problems: self.problems })
    }

    /// The value of the key that decides which other keys a map has.
    pub fn deciding(&self, key: &str, choices: &[&str]) -> Option<Item<'a>> {
        let section =
            Section { entries: self.map()?, at: self.node.at, path: self.path.clone(), problems: self.problems };
        section.required(key, &format!(", expected one of {}", choices.join(", ")))
    }

    /// A map whose keys are names of the user's choice.
    pub fn entries(&self) -> Vec<(&'a str, Item<'a>)> {
        let entries = self.map().unwrap_or_default();
        let item = |(key, node): &'a (Key, Node)| (key.name.as_str(), self.child(node, below(&self.path, &key.name)));
        entries.iter().map(item).collect()
    }

    pub fn list(&self) -> Vec<Item<'a>> {
        let nodes: &[Node] = match &self.node.value {
            Value::List(nodes) => nodes,
            _ => self.unexpected("a list").unwrap_or_default(),
        };
        if nodes.len() > MOST_ENTRIES {
            self.error(format!("{} entries, more than {MOST_ENTRIES}", nodes.len()));
            return Vec::new();
        }
        let item = |(i, node)| self.child(node, format!("{}[{i}]", self.path));
        nodes.iter().enumerate().map(item).collect()
    }

    /// Any scalar as it is written, never empty.
    pub fn text(&self) -> Option<&'a str> {
        let text = self.scalar("text")?.text.as_str();
        if text.trim().is_empty() {
            self.error("is empty");
            return None;
        }
        Some(text)
    }

    pub fn boolean(&self) -> Option<bool> {
        match self.scalar("true or false")? {
            Scalar { text, quoted: false } if matches!(text.as_str(), "true" | "True" | "TRUE") => Some(true),
            Scalar { text, quoted: false } if matches!(text.as_str(), "false" | "False" | "FALSE") => Some(false),
            _ => self.unexpected("true or false"),
        }
    }

    /// The word that turns off what else has keys.
    pub fn is_off(&self) -> bool {
        matches!(&self.node.value, Value::Scalar(Scalar { text, quoted: false }) if text == "off" || text == "false")
    }

    /// A number of bytes: `1048576`, or with a unit, `16KiB`, `1MiB`, `10MB`.
    pub fn size(&self) -> Option<u64> {
        const UNITS: [(&str, u64); 8] = [
            ("", 1),
            ("b", 1),
            ("kb", 1000),
            ("mb", 1_000_000),
            ("gb", 1_000_000_000),
            ("kib", 1 << 10),
            ("mib", 1 << 20),
            ("gib", 1 << 30),
        ];
        let expected = "a number of bytes, such as 1048576, 16KiB or 10MB";
        let (number, unit) = number_and_unit(&self.scalar(expected)?.text);
        let factor = UNITS.iter().find(|(name, _)| unit.eq_ignore_ascii_case(name)).map(|(_, factor)| *factor);
        let size = number.zip(factor).and_then(|(number, factor)| number.checked_mul(factor));
        size.or_else(|| self.unexpected(expected))
    }

    /// A time: `10s`, `500ms`, `5m`, `1h`.
    pub fn duration(&self) -> Option<Duration> {
        let expected = "a time, such as 500ms, 10s, 5m or 1h";
        let (number, unit) = number_and_unit(&self.scalar(expected)?.text);
        let factor = match unit {
            "ms" => Some(1),
            "s" => Some(1000),
            "m" => Some(60_000),
            "h" => Some(3_600_000),
            _ => None,
        };
        let millis = number.zip(factor).and_then(|(number, factor): (u64, u64)| number.checked_mul(factor));
        millis.map(Duration::from_millis).or_else(|| self.unexpected(expected))
    }

    pub fn count(&self) -> Option<u32> {
        self.scalar("a whole number")?.text.parse().ok().or_else(|| self.unexpected("a whole number"))
    }

    /// One of a few words. The first spelling of a value is the one that messages name.
    pub fn choice<T: Copy + PartialEq>(&self, choices: &[(&str, T)]) -> Option<T> {
        self.named("value", choices)
    }

    /// As [`Item::choice`], where the words are names of what `noun` says.
    pub fn named<T: Copy + PartialEq>(&self, noun: &str, choices: &[(&str, T)]) -> Option<T> {
        let mut named: Vec<(&str, T)> = Vec::new();
        for (word, value) in choices {
            if !named.iter().any(|(_, named)| named == value) {
                named.push((word, *value));
            }
        }
        let expected = format!("one of {}", named.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", "));
        let text = self.scalar(&expected)?.text.as_str();
        if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let near = hint(text, choices.iter().map(|(word, _)| *word));
        self.error(format!("unknown {noun} \"{text}\", expected {expected}{near}"));
        None
    }

    /// Whether it is a value by itself: neither a list, nor keys with values, nor nothing.
    pub fn is_scalar(&self) -> bool {
        matches!(self.node.value, Value::Scalar(_))
    }

    fn map(&self) -> Option<&'a [(Key, Node)]> {
        match &self.node.value {
            Value::Null => Some(&[]),
            Value::Map(entries) if entries.len() > MOST_ENTRIES => {
                self.error(format!("{} keys, more than {MOST_ENTRIES}", entries.len()));
                None
            }
            Value::Map(entries) => Some(entries),
            _ => self.unexpected("keys with values"),
        }
    }

    fn scalar(&self, expected: &str) -> Option<&'a Scalar> {
        match &self.node.value {
            Value::Scalar(scalar) => Some(scalar),
            _ => self.unexpected(expected),
        }
    }

    fn unexpected<T>(&self, expected: &str) -> Option<T> {
        let found = match &self.node.value {
            Value::Null => "nothing".to_string(),
            Value::Scalar(scalar) => format!("\"{}\"", scalar.text),
            Value::List(_) => "a list".to_string(),
            Value::Map(_) => "keys with values".to_string(),
        };
        self.error(format!("expected {expected}, found {found}"));
        None
    }

    fn child(&self, node: &'a Node, path: String) -> Item<'a> {
        Item { node, path, problems: self.problems }
    }
}

impl<'a> Section<'a> {
    /// The value of a key; a key with nothing behind it is as good as none.
    pub fn get(&self, key: &str) -> Option<Item<'a>> {
        let (_, node) = self.entries.iter().find(|(entry, _)| entry.name == key)?;
        let item = Item { node, path: below(&self.path, key), problems: self.problems };
        (node.value != Value::Null).then_some(item)
    }

    /// The value of a key that must be there. `why` ends the message, such as `; name a bucket`.
    pub fn required(&self, key: &str, why: &str) -> Option<Item<'a>> {
        let item = self.get(key);
        if item.is_none() {
            self.error(format!("\"{key}\" is missing{why}"));
        }
        item
    }

    /// The entries of a list; none where the key is not there.
    pub fn list(&self, key: &str) -> Vec<Item<'a>> {
        self.get(key).map(|item| item.list()).unwrap_or_default()
    }

    /// A map under a key, as [`Item::section`].
    pub fn section(&self, key: &str, keys: &[&str]) -> Option<Section<'a>> {
        self.get(key)?.section(keys)
    }

    /// Notes that something is wrong with this map as a whole.
    pub fn error(&self, message: impl Into<String>) {
        self.problems.add(self.at, &self.path, message);
    }
}

fn below(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_string() } else { format!("{path}.{key}") }
}

fn number_and_unit(text: &str) -> (Option<u64>, &str) {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    (text[..digits].parse().ok(), text[digits..].trim_start())
}
