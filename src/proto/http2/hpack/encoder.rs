//! An encoder for tests, which takes every liberty a sender has.

use std::collections::VecDeque;

use super::huffman::encoder as huffman;
use super::statics::STATIC_TABLE;

pub type Field = (String, String);

/// How a field is written; what cannot be is written the next best way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    /// By its index, where it has one.
    pub is_indexed: bool,
    /// Added to the table.
    pub is_added: bool,
    /// The name by its index, where it has one.
    pub has_name_index: bool,
    pub is_huffman: bool,
    /// Never to be added by anyone.
    pub is_secret: bool,
}

pub struct Encoder {
    /// Newest first.
    table: VecDeque<Field>,
    size: usize,
    max: usize,
}

impl Encoder {
    pub fn new() -> Encoder {
        Encoder { table: VecDeque::new(), size: 0, max: 4096 }
    }

    /// Writes a new size of the table, for the start of a block.
    pub fn resize(&mut self, max: u32, out: &mut Vec<u8>) {
        self.max = max as usize;
        self.evict(self.max);
        integer(0x20, 5, max, out);
    }

    pub fn field(&mut self, (name, value): &Field, way: Way, out: &mut Vec<u8>) {
        let all = STATIC_TABLE.iter().copied().chain(self.table.iter().map(|(n, v)| (n.as_str(), v.as_str())));
        let all: Vec<(&str, &str)> = all.collect();
        let index = |found: Option<usize>| found.map_or(0, |at| at as u32 + 1);
        let whole = index(all.iter().position(|&(n, v)| n == name && v == value));
        let name_only = index(all.iter().position(|&(n, _)| n == name));
        if way.is_indexed && whole > 0 {
            return integer(0x80, 7, whole, out);
        }
        let name_index = if way.has_name_index { name_only } else { 0 };
        match (way.is_added, way.is_secret) {
            (true, _) => integer(0x40, 6, name_index, out),
            (false, true) => integer(0x10, 4, name_index, out),
            (false, false) => integer(0, 4, name_index, out),
        }
        if name_index == 0 {
            text(name, way.is_huffman, out);
        }
        text(value, way.is_huffman, out);
        if way.is_added {
            let size = name.len() + value.len() + 32;
            self.evict(self.max.saturating_sub(size));
            if size <= self.max {
                self.size += size;
                self.table.push_front((name.clone(), value.clone()));
            }
        }
    }

    fn evict(&mut self, max: usize) {
        while self.size > max
            && let Some((name, value)) = self.table.pop_back()
        {
            self.size -= name.len() + value.len() + 32;
        }
    }
}

fn text(text: &str, is_huffman: bool, out: &mut Vec<u8>) {
    let coded = huffman::encode(text.as_bytes());
    let (flag, bytes) = if is_huffman { (0x80, &coded[..]) } else { (0, text.as_bytes()) };
    integer(flag, 7, bytes.len() as u32, out);
    out.extend_from_slice(bytes);
}

fn integer(flags: u8, prefix: u32, value: u32, out: &mut Vec<u8>) {
    let mask = (1 << prefix) - 1;
    if value < mask {
        return out.push(flags | value as u8);
    }
    out.push(flags | mask as u8);
    let mut rest = value - mask;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}
