//! DNS messages (RFC 1035): which addresses a name was answered with.
//!
//! Reads the question and the answer section; of the answers A, AAAA and CNAME of class IN, all others are stepped
//! over. Authority and additional section (EDNS is there) are not looked at. Names are text in lower case. It judges
//! no answer: whom it came from, and whether anybody asked, is for the caller to know.

use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};

use nom::bytes::streaming::take;
use nom::combinator::{all_consuming, complete, fail};
use nom::number::streaming::{be_u8, be_u16, be_u32, be_u128};
use nom::{Err, IResult, Offset, Parser};

mod frames;
#[cfg(test)]
mod tests;

pub use frames::Frames;

/// Answers looked at in one message. More addresses than this for one name are of no use to anybody who asks.
pub const MAX_ANSWERS: usize = 256;

/// Question kinds, RFC 1035 section 3.2.2 and RFC 3596 section 2.1.
pub const A: u16 = 1;
pub const AAAA: u16 = 28;
const CNAME: u16 = 5;

const CLASS_IN: u16 = 1;

/// Octets of a name on the wire, RFC 1035 section 3.1.
const MAX_NAME: usize = 255;

/// Pointers followed for one name: as many as it can have labels.
const MAX_POINTERS: usize = 127;

/// What is read of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub id: u16,
    pub is_response: bool,
    pub rcode: u8,
    /// Not all answers are here: the sender says so (TC), the bytes end before, or there are too many.
    pub truncated: bool,
    pub question: Option<Question>,
    /// In wire order.
    pub answers: Vec<Answer>,
}

/// Names are in lower case, without the last dot, and empty for the root. A byte that is not printable is written
/// `\DDD`, in decimal; a dot or a backslash within a label has a backslash before it (RFC 1035 section 5.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    pub name: String,
    pub kind: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub name: String,
    /// Seconds.
    pub ttl: u32,
    pub data: Data,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    A(Ipv4Addr),
    Aaaa(Ipv6Addr),
    Cname(String),
}

/// Why bytes are no DNS message: the part that is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Invalid {
    /// Shorter than 12 bytes, or neither query nor response to one (opcode).
    Header,
    /// Malformed, or more than one (RFC 9619).
    Question,
    Answer,
}

/// A parser's answer. `Incomplete` is its own case: the message goes on where the bytes end.
type Parsed<'a, T> = IResult<&'a [u8], T, ()>;

/// Reads one message, as a UDP datagram or a frame of a TCP stream carries it. Of a message that is cut short, what is
/// whole is given.
pub fn message(bytes: &[u8]) -> Result<Message, Invalid> {
    let (mut rest, header) = header(bytes).map_err(|_| Invalid::Header)?;
    if header.opcode() != 0 {
        return Err(Invalid::Header);
    }
    let mut message = Message {
        id: header.id,
        is_response: header.flags & 1 << 15 != 0,
        rcode: (header.flags & 0xf) as u8,
        truncated: header.flags & 1 << 9 != 0 || header.answers > MAX_ANSWERS,
        question: None,
        answers: Vec::new(),
    };
    if header.questions > 1 {
        return Err(Invalid::Question);
    }
    if header.questions == 1 {
        match question(rest, bytes) {
            Ok((after, question)) => (rest, message.question) = (after, Some(question)),
            Err(Err::Incomplete(_)) => return Ok(Message { truncated: true, ..message }),
            Err(_) => return Err(Invalid::Question),
        }
    }
    for _ in 0..header.answers.min(MAX_ANSWERS) {
        match answer(rest, bytes) {
            Ok((after, answer)) => {
                message.answers.extend(answer);
                rest = after;
            }
            Err(Err::Incomplete(_)) => return Ok(Message { truncated: true, ..message }),
            Err(_) => return Err(Invalid::Answer),
        }
    }
    Ok(message)
}

struct Header {
    id: u16,
    flags: u16,
    questions: usize,
    answers: usize,
}

impl Header {
    fn opcode(&self) -> u16 {
        self.flags >> 11 & 0xf
    }
}

/// RFC 1035 section 4.1.1.
fn header(input: &[u8]) -> Parsed<'_, Header> {
    let (rest, (id, flags, questions, answers, _authority, _additional)) =
        (be_u16, be_u16, be_u16, be_u16, be_u16, be_u16).parse(input)?;
    Ok((rest, Header { id, flags, questions: questions.into(), answers: answers.into() }))
}

/// RFC 1035 section 4.1.2.
fn question<'a>(input: &'a [u8], message: &'a [u8]) -> Parsed<'a, Question> {
    let (rest, (name, kind, _class)) = (name_in(message), be_u16, be_u16).parse(input)?;
    Ok((rest, Question { name, kind }))
}

/// A resource record, RFC 1035 section 4.1.3; none where it is of a kind that is stepped over.
fn answer<'a>(input: &'a [u8], message: &'a [u8]) -> Parsed<'a, Option<Answer>> {
    let (rest, (name, kind, class, ttl, length)) = (name_in(message), be_u16, be_u16, be_u32, be_u16).parse(input)?;
    let (rest, data) = take(length)(rest)?;
    if class != CLASS_IN {
        return Ok((rest, None));
    }
    // The data is all here: where it is too short for its kind, the record is wrong and not the message cut.
    let (_, data) = match kind {
        A => all_consuming(complete(be_u32)).map(|bits| Data::A(bits.into())).parse(data)?,
        AAAA => all_consuming(complete(be_u128)).map(|bits| Data::Aaaa(bits.into())).parse(data)?,
        CNAME => all_consuming(complete(name_in(message))).map(Data::Cname).parse(data)?,
        _ => return Ok((rest, None)),
    };
    // RFC 2181 section 8: a TTL with the highest bit set is none.
    let ttl = if ttl >> 31 == 0 { ttl } else { 0 };
    Ok((rest, Some(Answer { name, ttl, data })))
}

/// A name that starts within `message`, to whose earlier names it may point.
fn name_in<'a>(message: &'a [u8]) -> impl Fn(&'a [u8]) -> Parsed<'a, String> {
    move |input| name(input, message)
}

/// RFC 1035 section 4.1.4. A pointer leads to a place before the part it ends, so that none is read for ever.
fn name<'a>(input: &'a [u8], message: &'a [u8]) -> Parsed<'a, String> {
    let mut text = String::new();
    let mut octets = 1;
    let mut pointers = 0;
    let mut start = message.offset(input);
    let mut here = input;
    let mut after = None;
    loop {
        let (rest, part) = name_part(here)?;
        match part {
            NamePart::End => return Ok((after.unwrap_or(rest), text)),
            NamePart::Label(label) => {
                octets += 1 + label.len();
                if octets > MAX_NAME {
                    return fail().parse(here);
                }
                append_label(&mut text, label);
                here = rest;
            }
            NamePart::Pointer(target) => {
                pointers += 1;
                if target >= start || pointers > MAX_POINTERS {
                    return fail().parse(here);
                }
                after.get_or_insert(rest);
                start = target;
                here = &message[target..];
            }
        }
    }
}

enum NamePart<'a> {
    Label(&'a [u8]),
    /// Where in the message the name goes on.
    Pointer(usize),
    End,
}

fn name_part(input: &[u8]) -> Parsed<'_, NamePart<'_>> {
    let (rest, first) = be_u8(input)?;
    match (first >> 6, first & 0x3f) {
        (0b00, 0) => Ok((rest, NamePart::End)),
        (0b00, length) => take(length).map(NamePart::Label).parse(rest),
        (0b11, high) => be_u8.map(|low| NamePart::Pointer(usize::from(high) << 8 | usize::from(low))).parse(rest),
        _ => fail().parse(input),
    }
}

fn append_label(text: &mut String, label: &[u8]) {
    if !text.is_empty() {
        text.push('.');
    }
    for &byte in label {
        match byte {
            b'.' | b'\\' => text.extend(['\\', byte.into()]),
            b'!'..=b'~' => text.push(byte.to_ascii_lowercase().into()),
            _ => write!(text, "\\{byte:03}").expect("writing to memory never fails"),
        }
    }
}
