//! Header compression (RFC 7541), the decoding half, for a watcher: it may begin midway, and what it cannot know it
//! says.

#[cfg(test)]
pub(super) mod encoder;
mod huffman;
mod integer;
#[cfg(test)]
mod oracles;
mod statics;
mod table;
#[cfg(test)]
mod tests;

use nom::bytes::complete::take;
use nom::{IResult, Parser};

use self::integer::integer;
use self::statics::STATIC_TABLE;
use self::table::{Found, Table};
use super::{MAX_BLOCK, MAX_FIELDS, UNKNOWN};
use crate::proto::Span;

/// No table has so many fields: it would have two megabytes.
const MAX_INDEX: usize = 1 << 16;
/// Room for so much is made at first.
const USUAL_TEXT: usize = 512;
const USUAL_FIELDS: usize = 16;

/// A header block decoded: one text, and where in it each name and value lies, in the order sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fields {
    pub text: Vec<u8>,
    pub fields: Vec<(Span, Span)>,
    /// Where the text has [`UNKNOWN`], which stands for every name and value that is not known; none where all are.
    pub unknown: Option<Span>,
}

/// Why a header block cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// It breaks the rules.
    Malformed,
    /// Its text is longer than [`MAX_BLOCK`], or it has more than [`MAX_FIELDS`] fields.
    TooLarge,
}

/// Decodes the header blocks of one direction of a connection, in their order.
///
/// After an error the table is not what the sender's is: only [`forget`](Decoder::forget) makes it usable.
#[derive(Debug)]
pub struct Decoder {
    table: Table,
    /// The largest size the other side allows; none where that is not known.
    limit: Option<u32>,
}

/// What a header block is made of (RFC 7541 section 6).
///
/// ```text
/// | 1 | index (7+)                                        | Indexed
/// | 0   1 | index of the name (6+), or 0 and name | value   | Literal, added to the table
/// | 0   0   1 | size (5+)                                 | Resize
/// | 0   0   0   1 | index of the name (4+) ... | value      | Literal, never to be added by anyone
/// | 0   0   0   0 | index of the name (4+) ... | value      | Literal, not added
/// ```
enum Representation<'a> {
    Indexed(usize),
    Literal { name: Name<'a>, value: Text<'a>, is_added: bool },
    Resize(u32),
}

enum Name<'a> {
    Index(usize),
    Text(Text<'a>),
}

/// A string as sent (section 5.2).
struct Text<'a> {
    is_huffman: bool,
    bytes: &'a [u8],
}

impl Decoder {
    /// For a connection seen from its start.
    pub fn from_start() -> Decoder {
        Decoder { table: Table::new(), limit: None }
    }

    /// For one joined midway.
    pub fn joined() -> Decoder {
        Decoder { table: Table::unknown(), limit: None }
    }

    /// Header blocks were missed: every index means something else now.
    pub fn forget(&mut self) {
        self.table = Table::unknown();
    }

    /// The other side allows a table of this size. Only the largest limit counts.
    pub fn allow(&mut self, limit: u32) {
        self.limit = self.limit.max(Some(limit));
    }

    /// Decodes one whole header block.
    pub fn decode(&mut self, block: &[u8]) -> Result<Fields, Error> {
        let mut out = Fields::new();
        let mut rest = block;
        while !rest.is_empty() {
            let (behind, representation) = representation(rest).map_err(|_| Error::Malformed)?;
            rest = behind;
            match representation {
                Representation::Indexed(index) => self.indexed(index, &mut out)?,
                Representation::Literal { name, value, is_added } => self.literal(name, value, is_added, &mut out)?,
                // section 4.2: only at the start of a block
                Representation::Resize(size) if out.fields.is_empty() => self.resize(size)?,
                Representation::Resize(_) => return Err(Error::Malformed),
            }
        }
        Ok(out)
    }

    fn indexed(&self, index: usize, out: &mut Fields) -> Result<(), Error> {
        let (name, value) = match self.find(index)? {
            Some((name, value)) => (out.name(name)?, out.add(value)?),
            None => (out.unknown()?, out.unknown()?),
        };
        out.push(name, value)
    }

    fn literal(&mut self, name: Name<'_>, value: Text<'_>, is_added: bool, out: &mut Fields) -> Result<(), Error> {
        let (name, knows_name) = match name {
            Name::Text(text) => (out.add_text(text)?, true),
            Name::Index(index) => match self.find(index)? {
                Some((Some(name), _)) => (out.add(name)?, true),
                _ => (out.unknown()?, false),
            },
        };
        let value = out.add_text(value)?;
        if is_added {
            let name = knows_name.then(|| name.of(&out.text));
            self.table.add(name, value.of(&out.text));
        }
        out.push(name, value)
    }

    fn resize(&mut self, size: u32) -> Result<(), Error> {
        if self.limit.is_some_and(|limit| size > limit) {
            return Err(Error::Malformed);
        }
        self.table.resize(size as usize);
        Ok(())
    }

    /// The field at an index of both tables (section 2.3.3), 1 for the first; none where it is not known.
    #[expect(clippy::type_complexity, reason = "a name that may not be known, and a value")]
    fn find(&self, index: usize) -> Result<Option<(Option<&[u8]>, &[u8])>, Error> {
        let index = index.checked_sub(1).ok_or(Error::Malformed)?;
        if let Some((name, value)) = STATIC_TABLE.get(index) {
            return Ok(Some((Some(name.as_bytes()), value.as_bytes())));
        }
        match self.table.get(index - STATIC_TABLE.len()) {
            Found::Field(name, value) => Ok(Some((name, value))),
            Found::Older if index < MAX_INDEX => Ok(None),
            Found::Older | Found::None => Err(Error::Malformed),
        }
    }

    /// Bytes of memory behind it.
    pub fn weight(&self) -> usize {
        self.table.weight()
    }
}

impl Fields {
    fn new() -> Fields {
        Fields { text: Vec::with_capacity(USUAL_TEXT), fields: Vec::with_capacity(USUAL_FIELDS), unknown: None }
    }

    fn push(&mut self, name: Span, value: Span) -> Result<(), Error> {
        if self.fields.len() == MAX_FIELDS {
            return Err(Error::TooLarge);
        }
        self.fields.push((name, value));
        Ok(())
    }

    fn name(&mut self, name: Option<&[u8]>) -> Result<Span, Error> {
        match name {
            Some(name) => self.add(name),
            None => self.unknown(),
        }
    }

    /// [`UNKNOWN`], once for all.
    pub(super) fn unknown(&mut self) -> Result<Span, Error> {
        match self.unknown {
            Some(span) => Ok(span),
            None => {
                let span = self.add(UNKNOWN.as_bytes())?;
                self.unknown = Some(span);
                Ok(span)
            }
        }
    }

    fn add(&mut self, text: &[u8]) -> Result<Span, Error> {
        let start = self.text.len();
        if start + text.len() > MAX_BLOCK {
            return Err(Error::TooLarge);
        }
        self.text.extend_from_slice(text);
        Ok(self.behind(start))
    }

    fn add_text(&mut self, text: Text<'_>) -> Result<Span, Error> {
        if !text.is_huffman {
            return self.add(text.bytes);
        }
        let start = self.text.len();
        huffman::decode(text.bytes, &mut self.text).ok_or(Error::Malformed)?;
        if self.text.len() > MAX_BLOCK { Err(Error::TooLarge) } else { Ok(self.behind(start)) }
    }

    fn behind(&self, start: usize) -> Span {
        Span { start: start as u32, end: self.text.len() as u32 }
    }
}

fn representation(input: &[u8]) -> IResult<&[u8], Representation<'_>, ()> {
    match input.first() {
        Some(0x80..) => index(7).map(Representation::Indexed).parse(input),
        Some(0x40..) => literal(6, true, input),
        Some(0x20..) => (|input| integer(5, input)).map(Representation::Resize).parse(input),
        _ => literal(4, false, input),
    }
}

fn literal(prefix: u32, is_added: bool, input: &[u8]) -> IResult<&[u8], Representation<'_>, ()> {
    let (rest, name) = match index(prefix).parse(input)? {
        (rest, 0) => text.map(Name::Text).parse(rest)?,
        (rest, index) => (rest, Name::Index(index)),
    };
    let (rest, value) = text(rest)?;
    Ok((rest, Representation::Literal { name, value, is_added }))
}

fn index<'a>(prefix: u32) -> impl Parser<&'a [u8], Output = usize, Error = ()> {
    (move |input| integer(prefix, input)).map(|index| index as usize)
}

fn text(input: &[u8]) -> IResult<&[u8], Text<'_>, ()> {
    let is_huffman = input.first().is_some_and(|first| first & 0x80 != 0);
    let (rest, length) = integer(7, input)?;
    let (rest, bytes) = take(length)(rest)?;
    Ok((rest, Text { is_huffman, bytes }))
}
