//! The dynamic table: fields that header blocks added, newest first (RFC 7541 sections 2.3.2 and 4).
//!
//! It can begin midway. Then what is held is the newest part of the sender's table, and indices, which count from the
//! newest field, fit: a valid sender never refers to a field that its own table dropped, so holding one too long does
//! no harm, and every doubt about sizes is decided that way.

use std::collections::VecDeque;

/// What a field weighs beside its text (RFC 7541 section 4.1).
const OVERHEAD: usize = 32;
/// The table's size before anything was said of it.
const DEFAULT_SIZE: usize = 4096;
/// So much of a table is held, in bytes as section 4.1 counts them. Of a larger one the oldest fields are not known.
pub(super) const MAX_HELD: usize = 64 << 10;
/// Text of dropped fields is removed once there is more of it than of the others and this.
const MIN_DEAD: usize = 4096;

#[derive(Debug)]
pub(super) struct Table {
    /// Names and values behind each other, oldest first.
    text: Vec<u8>,
    /// How many bytes were removed from the front of the text.
    removed: u64,
    /// Oldest first.
    entries: VecDeque<Entry>,
    /// Of the fields held, as section 4.1 counts. A name that is not known counts nothing.
    size: usize,
    /// The sender's limit; none where it was not seen.
    max: Option<usize>,
    /// The sender's table may have fields older than the oldest held.
    has_older: bool,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    /// Where its text begins, counted from the first that ever was.
    start: u64,
    name: u32,
    value: u32,
    knows_name: bool,
}

/// A field of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found<'a> {
    /// The name is none where it was not known when the field was added.
    Field(Option<&'a [u8]>, &'a [u8]),
    /// It is older than what is known.
    Older,
    /// The table has no such field.
    None,
}

impl Table {
    /// The empty table of a new connection.
    pub(super) fn new() -> Table {
        Table {
            text: Vec::new(),
            removed: 0,
            entries: VecDeque::new(),
            size: 0,
            max: Some(DEFAULT_SIZE),
            has_older: false,
        }
    }

    /// A table of which nothing is known.
    pub(super) fn unknown() -> Table {
        Table { max: None, has_older: true, ..Table::new() }
    }

    /// The field at this index, 0 for the newest.
    pub(super) fn get(&self, index: usize) -> Found<'_> {
        let Some(at) = self.entries.len().checked_sub(index + 1) else {
            return if self.has_older { Found::Older } else { Found::None };
        };
        let entry = &self.entries[at];
        let start = (entry.start - self.removed) as usize;
        let (name, value) = self.text[start..start + entry.len()].split_at(entry.name as usize);
        Found::Field(entry.knows_name.then_some(name), value)
    }

    /// Adds a field as the newest; one that is larger than the table empties it (section 4.4).
    ///
    /// Where the limit is not known, such a field is held although the sender's table may be empty. The sender can
    /// only refer to it, or to one older, if it was not.
    pub(super) fn add(&mut self, name: Option<&[u8]>, value: &[u8]) {
        let known = name.unwrap_or_default();
        let entry = Entry {
            start: self.removed + self.text.len() as u64,
            name: known.len() as u32,
            value: value.len() as u32,
            knows_name: name.is_some(),
        };
        let size = entry.size();
        if let Some(max) = self.max {
            self.shrink(max.saturating_sub(size));
            if size > max {
                return;
            }
        }
        if size > MAX_HELD {
            return self.forget_all();
        }
        while self.size + size > MAX_HELD && self.drop_oldest() {
            self.has_older = true;
        }
        self.text.extend_from_slice(known);
        self.text.extend_from_slice(value);
        self.entries.push_back(entry);
        self.size += size;
    }

    /// The sender's limit is this from now on (section 4.3).
    pub(super) fn resize(&mut self, max: usize) {
        self.max = Some(max);
        self.shrink(max);
    }

    /// What the sender drops so that its table has at most this size.
    fn shrink(&mut self, max: usize) {
        while self.size > max && self.drop_oldest() {
            self.has_older = false;
        }
        // the sender drops the oldest first: beside what is left there is no room for another
        if self.size + OVERHEAD > max {
            self.has_older = false;
        }
    }

    /// More was added than is held, none of which is known.
    fn forget_all(&mut self) {
        let max = self.max;
        *self = Table { max, ..Table::unknown() };
    }

    fn drop_oldest(&mut self) -> bool {
        let Some(oldest) = self.entries.pop_front() else { return false };
        self.size -= oldest.size();
        let live = self.entries.front().map_or(self.text.len(), |next| (next.start - self.removed) as usize);
        if live > MIN_DEAD && live > self.text.len() / 2 {
            self.text.drain(..live);
            self.removed += live as u64;
        }
        true
    }

    /// Bytes of memory behind it.
    pub(super) fn weight(&self) -> usize {
        self.text.capacity() + self.entries.capacity() * size_of::<Entry>()
    }
}

impl Entry {
    fn len(&self) -> usize {
        self.name as usize + self.value as usize
    }

    fn size(&self) -> usize {
        self.len() + OVERHEAD
    }
}
