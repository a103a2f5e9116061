//! What is wrong with a configuration: every error found, one line each.

use std::cell::RefCell;
use std::fmt;

/// A place in the file: line and column, both from 1, the column in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub line: usize,
    pub column: usize,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// None where the file as a whole is meant.
    pub position: Option<Position>,
    /// Such as `stacks.web.plugins[0].config.level`; empty at the top.
    pub path: String,
    pub message: String,
}

/// All that is wrong with one file, in the file's order; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Errors {
    /// The file's name.
    pub name: String,
    pub problems: Vec<Problem>,
}

/// How many errors are written out; the rest is counted.
const MOST_SHOWN: usize = 50;
/// Longest line of a message, in characters: it may quote the file.
const LONGEST: usize = 600;

impl Errors {
    /// An error of the file as a whole.
    pub fn of_file(name: &str, message: impl Into<String>) -> Errors {
        let problem = Problem { position: None, path: String::new(), message: message.into() };
        Errors { name: name.to_string(), problems: vec![problem] }
    }
}

impl std::error::Error for Errors {}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = self.problems.iter().take(MOST_SHOWN).map(|problem| line(&self.name, problem));
        f.write_str(&lines.collect::<Vec<_>>().join("\n"))?;
        match self.problems.len().saturating_sub(MOST_SHOWN) {
            0 => Ok(()),
            more => write!(f, "\n{}: and {more} more errors", self.name),
        }
    }
}

fn line(name: &str, problem: &Problem) -> String {
    let mut line = name.to_string();
    if let Some(Position { line: number, column }) = problem.position {
        line += &format!(":{number}:{column}");
    }
    for part in [&problem.path, &problem.message].into_iter().filter(|part| !part.is_empty()) {
        line += ": ";
        line += part;
    }
    one_line(&line)
}

/// Text from the file must not break the line, move the terminal's cursor or fill the screen.
fn one_line(text: &str) -> String {
    let mut line = String::new();
    for c in text.chars().take(LONGEST) {
        if c.is_control() {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    if text.chars().nth(LONGEST).is_some() {
        line.push('…');
    }
    line
}

/// Collects problems while a file is read: finding one does not end the search for others.
#[derive(Debug, Default)]
pub struct Problems {
    found: RefCell<Vec<Problem>>,
    /// Every key a section has, and whether the file has it: the test of the sample configuration reads it.
    #[cfg(test)]
    pub keys: RefCell<std::collections::BTreeMap<String, bool>>,
}

impl Problems {
    pub fn add(&self, position: Position, path: &str, message: impl Into<String>) {
        let problem = Problem { position: Some(position), path: path.to_string(), message: message.into() };
        self.found.borrow_mut().push(problem);
    }

    /// The problems found, in the file's order.
    pub fn into_vec(self) -> Vec<Problem> {
        let mut problems = self.found.into_inner();
        problems.sort_by_key(|problem| problem.position);
        problems
    }
}
