//! Compiled expressions and what they come to.
//!
//! Evaluation is three-valued (Kleene's logic): what is not known yet makes an answer unknown only where it could
//! still change it. It never fails, allocates nothing of its own, and learning more never changes an answer given.

use std::cmp::Ordering;
use std::io::Write;
use std::sync::Arc;

use regex::Regex;

use super::field::{Field, Stage};
use super::lexer::Comparison;
use super::value::{Fact, Literal, non_zero, order};

/// What is known about one exchange, now.
pub trait Facts {
    /// [`Fact::NotYet`] promises that the field may still become known; every other answer is final.
    fn fact(&self, field: &Field) -> Fact<'_>;

    /// The exchange's lot, by which [`Sample`](super::Sample)s are drawn: evenly spread over all exchanges, and always
    /// the same for one.
    fn lot(&self) -> u64 {
        0
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Truth {
    True,
    False,
    NotYet,
}

impl From<bool> for Truth {
    fn from(value: bool) -> Truth {
        if value { Truth::True } else { Truth::False }
    }
}

/// A checked expression: fields and macros resolved, patterns compiled.
#[derive(Debug, Clone)]
pub enum Expr {
    Const(bool),
    Not(Box<Expr>),
    And(Vec<Expr>),
    Or(Vec<Expr>),
    /// A macro's expression, shared by its callers.
    Macro(Arc<Expr>),
    Test(Field, Test),
}

/// What is asked of one field. A field that is absent fails every test.
#[derive(Debug, Clone)]
pub enum Test {
    /// There, and not zero.
    NonZero,
    Compare(Comparison, Operand),
    /// Has this text in it, or this element.
    Contains(Operand),
    /// Is one of these, or in one of these blocks.
    In(Vec<Literal>),
    Matches(Regex),
    StartsWith(Operand),
    /// Is this domain or below it.
    InZone(Operand),
}

#[derive(Debug, Clone)]
pub enum Operand {
    Field(Field),
    Literal(Literal),
}

impl Expr {
    pub fn evaluate(&self, facts: &dyn Facts) -> Truth {
        match self {
            Expr::Const(value) => Truth::from(*value),
            Expr::Not(inner) => match inner.evaluate(facts) {
                Truth::True => Truth::False,
                Truth::False => Truth::True,
                Truth::NotYet => Truth::NotYet,
            },
            Expr::And(parts) => all_are(Truth::True, parts, facts),
            Expr::Or(parts) => all_are(Truth::False, parts, facts),
            Expr::Macro(inner) => inner.evaluate(facts),
            Expr::Test(field, test) => test.evaluate(&facts.fact(field), facts),
        }
    }

    /// When the answer is known at the latest, whatever the facts are.
    pub fn stage(&self) -> Stage {
        match self {
            Expr::Const(_) => Stage::RequestHead,
            Expr::Not(inner) => inner.stage(),
            Expr::And(parts) | Expr::Or(parts) => parts.iter().map(Expr::stage).max().unwrap_or(Stage::RequestHead),
            Expr::Macro(inner) => inner.stage(),
            Expr::Test(field, test) => field.stage().max(test.stage()),
        }
    }
}

/// `same` where every part is; the opposite as soon as one part is that.
fn all_are(same: Truth, parts: &[Expr], facts: &dyn Facts) -> Truth {
    let mut answer = same;
    for part in parts {
        match part.evaluate(facts) {
            Truth::NotYet => answer = Truth::NotYet,
            truth if truth != same => return truth,
            _ => {}
        }
    }
    answer
}

impl Test {
    fn stage(&self) -> Stage {
        match self {
            Test::Compare(_, operand) | Test::Contains(operand) | Test::StartsWith(operand) | Test::InZone(operand) => {
                operand.stage()
            }
            Test::NonZero | Test::In(_) | Test::Matches(_) => Stage::RequestHead,
        }
    }

    fn evaluate(&self, fact: &Fact, facts: &dyn Facts) -> Truth {
        match fact {
            Fact::NotYet => return Truth::NotYet,
            Fact::Absent => return Truth::False,
            _ => {}
        }
        match self {
            Test::NonZero => non_zero(fact).into(),
            Test::In(literals) => literals.iter().any(|literal| literal.holds(fact)).into(),
            Test::Matches(pattern) => with_texts(fact, |text| pattern.is_match(text)).into(),
            Test::Compare(comparison, Operand::Literal(literal @ Literal::Mac(_))) => {
                (literal.holds(fact) == (*comparison == Comparison::Eq)).into()
            }
            Test::Compare(comparison, operand) => operand.test(facts, |other| comparison.accepts(order(fact, other))),
            Test::Contains(operand) => operand.test(facts, |other| contains(fact, other)),
            Test::StartsWith(operand) => {
                operand.test(facts, |other| both_texts(fact, other, |text, prefix| text.starts_with(prefix)))
            }
            Test::InZone(operand) => operand.test(facts, |other| both_texts(fact, other, in_zone)),
        }
    }
}

impl Operand {
    fn stage(&self) -> Stage {
        match self {
            Operand::Field(field) => field.stage(),
            Operand::Literal(_) => Stage::RequestHead,
        }
    }

    /// Asks `question` of this operand's value, which is neither unknown nor absent then.
    fn test(&self, facts: &dyn Facts, question: impl FnOnce(&Fact) -> bool) -> Truth {
        let fact = match self {
            Operand::Field(field) => facts.fact(field),
            Operand::Literal(literal) => literal.fact(),
        };
        match fact {
            Fact::NotYet => Truth::NotYet,
            Fact::Absent => Truth::False,
            fact => question(&fact).into(),
        }
    }
}

impl Comparison {
    /// Values without an order are unequal, and none is the greater.
    fn accepts(self, order: Option<Ordering>) -> bool {
        match self {
            Comparison::Eq => order == Some(Ordering::Equal),
            Comparison::Ne => order != Some(Ordering::Equal),
            Comparison::Gt => order == Some(Ordering::Greater),
            Comparison::Ge => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
            Comparison::Lt => order == Some(Ordering::Less),
            Comparison::Le => matches!(order, Some(Ordering::Less | Ordering::Equal)),
        }
    }

    /// The same comparison with its sides exchanged.
    pub fn mirrored(self) -> Comparison {
        match self {
            Comparison::Gt => Comparison::Lt,
            Comparison::Ge => Comparison::Le,
            Comparison::Lt => Comparison::Gt,
            Comparison::Le => Comparison::Ge,
            same => same,
        }
    }
}

fn contains(fact: &Fact, needle: &Fact) -> bool {
    let Fact::Text(needle) = needle else { return false };
    match fact {
        Fact::Text(text) => text.contains(needle.as_ref()),
        Fact::Tags(tags) => tags.iter().any(|(key, value)| {
            needle.strip_prefix(key.as_str()).and_then(|rest| rest.strip_prefix(':')) == Some(value.as_str())
        }),
        _ => false,
    }
}

fn both_texts(a: &Fact, b: &Fact, question: impl FnOnce(&str, &str) -> bool) -> bool {
    match (a, b) {
        (Fact::Text(a), Fact::Text(b)) => question(a, b),
        _ => false,
    }
}

/// Whether a host, with or without a port, is a domain or below it. Letter case and a final dot do not count.
fn in_zone(host: &str, zone: &str) -> bool {
    let host = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|c| c.is_ascii_digit()) => name,
        _ => host,
    };
    let host = host.trim_end_matches('.').as_bytes();
    let zone = zone.trim_start_matches('.').trim_end_matches('.').as_bytes();
    let Some(below) = host.len().checked_sub(zone.len()) else { return false };
    let ends_alike = host[below..].eq_ignore_ascii_case(zone);
    ends_alike && !zone.is_empty() && (below == 0 || host[below - 1] == b'.')
}

/// Whether `question` holds for the fact as text: a number as its digits, a list where it holds for one element.
fn with_texts(fact: &Fact, question: impl Fn(&str) -> bool) -> bool {
    match fact {
        Fact::NotYet | Fact::Absent => false,
        Fact::Text(text) => question(text),
        Fact::Int(value) => with_digits(format_args!("{value}"), question),
        Fact::Float(value) => with_digits(format_args!("{value}"), question),
        Fact::Bool(value) => question(if *value { "true" } else { "false" }),
        Fact::Ip(ip) => with_digits(format_args!("{ip}"), question),
        Fact::Tags(tags) => tags.iter().any(|(key, value)| question(&format!("{key}:{value}"))),
    }
}

fn with_digits(digits: std::fmt::Arguments, question: impl FnOnce(&str) -> bool) -> bool {
    // The longest float has 1 + 309 digits before its point, or about 330 after it.
    let mut buffer = [0; 352];
    let mut free = &mut buffer[..];
    let fits = free.write_fmt(digits).is_ok();
    let unused = free.len();
    let used = buffer.len() - unused;
    fits && std::str::from_utf8(&buffer[..used]).is_ok_and(question)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_is_the_domain_and_all_below() {
        for (host, zone, inside) in [
            ("example.com", "example.com", true),
            ("API.Example.com:8443", "example.COM", true),
            ("api.example.com.", ".example.com", true),
            ("notexample.com", "example.com", false),
            ("example.com.evil.org", "example.com", false),
            ("com", "example.com", false),
            ("example.com", "", false),
            ("[::1]:80", "example.com", false),
            ("ü.example.com", "example.com", true),
            ("", "a", false),
        ] {
            assert_eq!(in_zone(host, zone), inside, "{host} in {zone}");
        }
    }

    #[test]
    fn numbers_are_matched_as_their_digits() {
        for (fact, pattern) in [
            (Fact::Int(503), "^5..$"),
            (Fact::Int(i64::MIN), "^-9223372036854775808$"),
            (Fact::Float(12.5), r"^12\.5$"),
            (Fact::Float(f64::MAX), "^1797"),
            (Fact::Float(5e-324), "5$"),
            (Fact::Ip([10, 0, 0, 1].into()), r"^10\."),
        ] {
            let pattern = Regex::new(pattern).expect("a pattern");
            assert!(with_texts(&fact, |text| pattern.is_match(text)), "{fact:?}");
        }
    }
}
