//! YAML as a tree in which every value knows its place.
//!
//! Owns syntax and its bounds: size, nesting, aliases, duplicate keys. It does not know which keys mean anything.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, Tag};

use super::errors::{Position, Problem};

/// Deepest nesting of lists and maps.
const DEEPEST: usize = 32;
/// How many values there may be, and how many bytes of text, with every alias replaced by what it stands for.
const MOST_VALUES: usize = 100_000;
const MOST_TEXT: usize = 4 << 20;

#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    pub at: Position,
    pub value: Value,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Nothing, `~` or `null`.
    Null,
    Scalar(Scalar),
    List(Vec<Node>),
    /// Keys in the file's order, each once.
    Map(Vec<(Key, Node)>),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Scalar {
    pub text: String,
    /// In quotes or as a block: text, whatever it looks like.
    pub quoted: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Key {
    pub at: Position,
    pub name: String,
}

/// Reads one document. The error is the first place where the text is no YAML, or goes beyond the bounds.
pub fn read(text: &str) -> Result<Node, Problem> {
    let mut tree = Tree::default();
    let mut parser = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        let (event, span) = event.map_err(|error| syntax(text, &error))?;
        tree.add(event, span)?;
    }
    let nothing = Node { at: Position { line: 1, column: 1 }, value: Value::Null };
    Ok(tree.root.unwrap_or(nothing))
}

/// The tree while it grows.
#[derive(Default)]
struct Tree {
    /// Lists and maps not yet closed, outermost first.
    open: Vec<Open>,
    root: Option<Node>,
    anchors: HashMap<usize, Anchored>,
    documents: usize,
    values: usize,
    text: usize,
}

struct Open {
    node: Node,
    anchor: usize,
    /// A map's key that waits for its value.
    key: Option<Key>,
    /// A map's keys so far, and their lines.
    keys: HashMap<String, usize>,
    /// How many values and bytes of text the tree had before this one.
    before: (usize, usize),
}

struct Anchored {
    node: Node,
    values: usize,
    text: usize,
}

impl Tree {
    fn add(&mut self, event: Event, span: Span) -> Result<(), Problem> {
        let at = Position { line: span.start.line().max(1), column: span.start.col() + 1 };
        match event {
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err(problem(at, "a second document starts here; a configuration is one document"));
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                no_tag(at, tag.as_deref())?;
                let quoted = style != ScalarStyle::Plain;
                let null = !quoted && matches!(text.as_ref(), "" | "~" | "null" | "Null" | "NULL");
                self.count(at, 1, text.len())?;
                let length = text.len();
                let value = if null { Value::Null } else { Value::Scalar(Scalar { text: text.into_owned(), quoted }) };
                let node = Node { at, value };
                if anchor > 0 {
                    self.anchors.insert(anchor, Anchored { node: node.clone(), values: 1, text: length });
                }
                self.place(node)?;
            }
            Event::SequenceStart(anchor, tag) => self.open(at, anchor, tag.as_deref(), Value::List(Vec::new()))?,
            Event::MappingStart(anchor, tag) => self.open(at, anchor, tag.as_deref(), Value::Map(Vec::new()))?,
            Event::SequenceEnd | Event::MappingEnd => self.close()?,
            Event::Alias(anchor) => {
                let Some(Anchored { values, text, .. }) = self.anchors.get(&anchor) else {
                    return Err(problem(at, "this alias stands inside what it stands for"));
                };
                self.count(at, *values, *text)?;
                let node = self.anchors[&anchor].node.clone();
                self.place(node)?;
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
        }
        Ok(())
    }

    fn count(&mut self, at: Position, values: usize, text: usize) -> Result<(), Problem> {
        self.values += values;
        self.text += text;
        if self.values > MOST_VALUES || self.text > MOST_TEXT {
            let bounds = format!("more than {MOST_VALUES} values or {MOST_TEXT} bytes of text");
            return Err(problem(at, format!("{bounds}, with every alias replaced by what it stands for")));
        }
        Ok(())
    }

    fn open(&mut self, at: Position, anchor: usize, tag: Option<&Tag>, value: Value) -> Result<(), Problem> {
        no_tag(at, tag)?;
        if self.open.len() == DEEPEST {
            return Err(problem(at, format!("nested deeper than {DEEPEST}")));
        }
        let before = (self.values, self.text);
        self.count(at, 1, 0)?;
        self.open.push(Open { node: Node { at, value }, anchor, key: None, keys: HashMap::new(), before });
        Ok(())
    }

    fn close(&mut self) -> Result<(), Problem> {
        let Open { node, anchor, before: (values, text), .. } =
            self.open.pop().expect("the parser closes only what it opened");
        if anchor > 0 {
            let (values, text) = (self.values - values, self.text - text);
            self.anchors.insert(anchor, Anchored { node: node.clone(), values, text });
        }
        self.place(node)
    }

    /// Puts a finished value where it belongs: into the innermost list or map, or at the root.
    fn place(&mut self, node: Node) -> Result<(), Problem> {
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match &mut open.node.value {
            Value::List(list) => list.push(node),
            Value::Map(map) => match open.key.take() {
                Some(key) => map.push((key, node)),
                None => open.key = Some(open_key(node, &mut open.keys)?),
            },
            Value::Null | Value::Scalar(_) => unreachable!("only lists and maps are open"),
        }
        Ok(())
    }
}

fn open_key(node: Node, keys: &mut HashMap<String, usize>) -> Result<Key, Problem> {
    let Value::Scalar(Scalar { text: name, .. }) = node.value else {
        return Err(problem(node.at, "a key must be a word"));
    };
    if name == "<<" {
        return Err(problem(node.at, "merge keys (`<<`) are not supported; write the keys out"));
    }
    if let Some(line) = keys.insert(name.clone(), node.at.line) {
        return Err(problem(node.at, format!("the key \"{name}\" is here twice, first in line {line}")));
    }
    Ok(Key { at: node.at, name })
}

fn no_tag(at: Position, tag: Option<&Tag>) -> Result<(), Problem> {
    match tag {
        Some(tag) if !tag.is_yaml_core_schema() => {
            let message = "a value that starts with `!` is a tag to YAML; put the whole value in single quotes";
            Err(problem(at, message))
        }
        _ => Ok(()),
    }
}

fn problem(at: Position, message: impl Into<String>) -> Problem {
    Problem { position: Some(at), path: String::new(), message: message.into() }
}

/// The parser's error, or the common mistake behind it.
fn syntax(text: &str, error: &ScanError) -> Problem {
    let at = Position { line: error.marker().line().max(1), column: error.marker().col() + 1 };
    let lines = || text.lines().enumerate().take(at.line);
    let indented_by_tab = |line: &str| line[..line.len() - line.trim_start().len()].find('\t');
    if let Some((number, column)) = lines().find_map(|(number, line)| Some((number, indented_by_tab(line)?))) {
        let at = Position { line: number + 1, column: column + 1 };
        return problem(at, "a tab indents this line; YAML takes spaces only");
    }
    let mut message = match error.info() {
        "recursion limit exceeded" => format!("nested deeper than {DEEPEST}"),
        info => info.to_string(),
    };
    if let Some((number, line)) = lines().skip(at.line.saturating_sub(2)).find(|(_, line)| unquoted_expression(line)) {
        let column = line.chars().take_while(|c| *c != ':').count() + 3;
        message +=
            "; if this is about the expression, put it in single quotes, as it has characters with a meaning in YAML";
        return problem(Position { line: number + 1, column }, message);
    }
    problem(at, message)
}

/// Whether a line has an expression that YAML may read as something else.
fn unquoted_expression(line: &str) -> bool {
    let Some((_, value)) = line.split_once("expr: ") else { return false };
    let value = value.trim();
    let whole = value.len() > 1 && value.starts_with('\'') && value.ends_with('\'');
    !whole
}
