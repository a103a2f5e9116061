//! Rules: which exchanges are worth keeping, and how much of each.
//!
//! Owns the expression language of `http_capture` rules and macros: parsing and checking at load, evaluation while
//! an exchange is still arriving. It knows no configuration file and no socket; what it asks about an exchange
//! comes through [`Facts`].
#![forbid(unsafe_code)]

mod compile;
mod expr;
mod field;
mod lexer;
pub mod near;
mod parser;
mod sample;
mod value;

#[cfg(test)]
mod tests;

use std::fmt;

use crate::exchange::Level;

pub use compile::Compiler;
pub use expr::{Expr, Facts, Truth};
pub use field::{Field, Peer, Stage};
pub use sample::Sample;
pub use value::Fact;

/// What is wrong with an expression, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExprError {
    pub message: String,
    /// Column in the expression, counted in characters from 1; none where the message is not about a place in it.
    pub column: Option<usize>,
}

impl ExprError {
    fn new(source: &str, at: usize, message: impl Into<String>) -> ExprError {
        let before = source.get(..at).unwrap_or(source);
        ExprError { message: message.into(), column: Some(before.chars().count() + 1) }
    }
}

impl fmt::Display for ExprError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.column {
            Some(column) => write!(f, "{} at column {column} of the expression", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for ExprError {}

/// A rule: the level for exchanges of which its expression is true, as far as they are in its sample.
#[derive(Debug, Clone)]
pub struct CompiledRule {
    pub name: String,
    pub level: Level,
    pub expr: Expr,
    pub sample: Sample,
}

impl CompiledRule {
    fn evaluate(&self, facts: &dyn Facts) -> Truth {
        if !self.sample.has(|| facts.lot()) {
            return Truth::False;
        }
        self.expr.evaluate(facts)
    }
}

/// What a list of rules says about an exchange, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// The level, once nothing that may still become known can change it.
    pub level: Option<Level>,
    /// The highest level that is still possible. What only a higher one needs can be dropped.
    pub max: Level,
}

/// The first rule that is true decides; `default` where none is. Learning more facts never changes a level that was
/// given, and never raises `max`.
pub fn decide(rules: &[CompiledRule], default: Level, facts: &dyn Facts) -> Decision {
    let rules = rules.iter().map(|rule| (rule.level, rule.evaluate(facts)));
    let mut possible = None;
    for (level, truth) in rules.chain([(default, Truth::True)]) {
        if truth == Truth::False {
            continue;
        }
        let (least, most) = possible.unwrap_or((level, level));
        possible = Some((level.min(least), level.max(most)));
        if truth == Truth::True {
            break;
        }
    }
    let (least, most) = possible.unwrap_or((default, default));
    Decision { level: (least == most).then_some(most), max: most }
}

/// When [`decide`] has its answer at the latest, whatever the exchange.
#[cfg(test)]
pub fn stage(rules: &[CompiledRule]) -> Stage {
    rules.iter().map(|rule| rule.expr.stage()).max().unwrap_or(Stage::RequestHead)
}
