//! Trees checked and turned into expressions.
//!
//! Owns the meaning of names: fields, macros, functions; and the refusal of what could never be true. Everything
//! that can be wrong with a rule is found here, at load, with its place; evaluation has no errors left.

use std::collections::BTreeMap;
use std::sync::Arc;

use regex::{Regex, RegexBuilder};

use super::ExprError;
use super::expr::{Expr, Operand, Test};
use super::field::{Field, Kind};
use super::lexer::{At, Comparison};
use super::near::hint;
use super::parser::{Ast, Node, Operator, parse};
use super::value::{Literal, Net, number};
use crate::exchange::Direction;

/// How many parts an expression may have, its macros' included: macros that call macros grow exponentially.
const MOST_PARTS: usize = 10_000;
/// How deep an expression may be nested, its macros' nesting included: evaluation needs stack for each level.
const DEEPEST: usize = 200;
/// How many patterns there may be in all, and how much memory each may take once compiled, in bytes.
const MOST_PATTERNS: usize = 500;
const LARGEST_PATTERN: usize = 1 << 20;

const FUNCTIONS: [&str; 2] = ["starts_with", "in_zone"];
const DIRECTIONS: [Direction; 3] = [Direction::Ingress, Direction::EgressInternal, Direction::EgressExternal];

/// Compiles expressions, knowing the macros that they may call.
#[derive(Debug, Default)]
pub struct Compiler {
    macros: BTreeMap<String, Macro>,
    /// The macros being compiled, outermost first.
    open: Vec<String>,
    /// Macros that are wrong, by their number, and why.
    wrong: Vec<(usize, ExprError)>,
    /// How many parts the expression has so far.
    parts: usize,
    /// How deep in the expression the compiler is, and has been.
    depth: usize,
    deepest: usize,
    patterns: usize,
}

#[derive(Debug)]
enum Macro {
    Source { number: usize, source: String },
    Open,
    Done { expr: Arc<Expr>, parts: usize, height: usize },
}

impl Compiler {
    /// Takes macros as names and expressions, and answers with those that are wrong, by their number in the list.
    /// A wrong macro may still be called; its error is not repeated.
    pub fn new(macros: &[(String, String)]) -> (Compiler, Vec<(usize, ExprError)>) {
        let mut compiler = Compiler::default();
        for (number, (name, source)) in macros.iter().enumerate() {
            if let Some(message) = compiler.misnamed(name) {
                compiler.wrong.push((number, ExprError { message, column: None }));
                continue;
            }
            compiler.macros.insert(name.clone(), Macro::Source { number, source: source.clone() });
        }
        for (name, _) in macros {
            // An error is noted in `wrong`; here it would only be one of being called.
            let _ = compiler.called(name);
        }
        let mut wrong = std::mem::take(&mut compiler.wrong);
        wrong.sort_by_key(|(number, _)| *number);
        (compiler, wrong)
    }

    pub fn compile(&mut self, source: &str) -> Result<Expr, ExprError> {
        (self.parts, self.deepest) = (0, 0);
        self.expression(source)
    }

    /// Compiles a pattern, within the bounds for all patterns together.
    pub fn pattern(&mut self, pattern: &str) -> Result<Regex, String> {
        self.patterns += 1;
        if self.patterns > MOST_PATTERNS {
            return Err(format!("more than {MOST_PATTERNS} regular expressions"));
        }
        RegexBuilder::new(pattern).size_limit(LARGEST_PATTERN).build().map_err(|error| match error {
            regex::Error::Syntax(text) => {
                // The crate draws the pattern with a caret below it, then says what is wrong in its last line.
                let reason = text.lines().last().unwrap_or_default();
                format!("bad regular expression `{pattern}`: {}", reason.trim_start_matches("error: "))
            }
            _ => format!("regular expression `{pattern}` is too large"),
        })
    }

    fn misnamed(&self, name: &str) -> Option<String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if !name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') || !name.chars().all(plain) {
            return Some(format!("\"{name}\" is no name for a macro; use letters, digits and `_`"));
        }
        if FUNCTIONS.contains(&name) {
            return Some(format!("`{name}` is a function of the language; give the macro another name"));
        }
        self.macros.contains_key(name).then(|| format!("the macro `{name}` is defined twice"))
    }

    /// The expression of a macro, compiled when it is first asked for.
    fn called(&mut self, name: &str) -> Result<Arc<Expr>, String> {
        let (number, source) = match self.macros.get(name) {
            None => {
                let known = self.macros.keys().map(String::as_str).chain(FUNCTIONS);
                return Err(format!("unknown macro `{name}()`{}", hint(name, known).replace('"', "`")));
            }
            Some(Macro::Open) => {
                let cycle = self.open.iter().skip_while(|open| *open != name);
                let calls: String = cycle.map(|open| format!("{open}() -> ")).collect();
                return Err(format!("macro cycle: {calls}{name}()"));
            }
            Some(Macro::Done { expr, parts, height }) => {
                self.parts += parts;
                self.deepest = self.deepest.max(self.depth + height);
                return Ok(expr.clone());
            }
            Some(Macro::Source { number, source }) => (*number, source.clone()),
        };
        self.open.push(name.to_string());
        self.macros.insert(name.to_string(), Macro::Open);
        let (parts, deepest) = (std::mem::take(&mut self.parts), std::mem::replace(&mut self.deepest, self.depth));
        let expr = self.expression(&source).unwrap_or_else(|error| {
            self.wrong.push((number, error));
            Expr::Const(false)
        });
        let expr = Arc::new(expr);
        let done = Macro::Done { expr: expr.clone(), parts: self.parts, height: self.deepest - self.depth };
        self.macros.insert(name.to_string(), done);
        (self.parts, self.deepest) = (self.parts + parts, self.deepest.max(deepest));
        self.open.pop();
        Ok(expr)
    }

    fn expression(&mut self, source: &str) -> Result<Expr, ExprError> {
        let tree = parse(source)?;
        self.condition(&tree).map_err(|wrong| ExprError::new(source, wrong.at, wrong.what))
    }

    /// A node that stands where a truth value is wanted.
    fn condition(&mut self, node: &Node) -> Result<Expr, At<String>> {
        self.parts += 1;
        self.depth += 1;
        self.deepest = self.deepest.max(self.depth);
        let expr = if self.depth > DEEPEST { Ok(Expr::Const(false)) } else { self.unbounded_condition(node) };
        self.depth -= 1;
        if self.deepest > DEEPEST {
            return Err(wrong(node, format!("the expression is nested deeper than {DEEPEST}, with its macros")));
        }
        if self.parts > MOST_PARTS {
            return Err(wrong(node, format!("the expression has more than {MOST_PARTS} parts, with its macros")));
        }
        expr
    }

    fn unbounded_condition(&mut self, node: &Node) -> Result<Expr, At<String>> {
        Ok(match &node.what {
            Ast::And(parts) => Expr::And(self.conditions(parts)?),
            Ast::Or(parts) => Expr::Or(self.conditions(parts)?),
            Ast::Not(inner) => Expr::Not(Box::new(self.condition(inner)?)),
            Ast::Test(left, operator, right) => self.test(left, *operator, right)?,
            Ast::Call(name, arguments) => self.call(node, name, arguments)?,
            Ast::Name(_) => Expr::Test(self.field(node)?, Test::NonZero),
            Ast::Literal(Literal::Bool(value)) => Expr::Const(*value),
            Ast::Literal(literal) => return Err(wrong(node, format!("{} alone is no condition", literal.kind_name()))),
            Ast::Regex(_) => return Err(wrong(node, "a regular expression alone is no condition; use `matches`")),
            Ast::List(_) => return Err(wrong(node, "a list alone is no condition; use `in`")),
        })
    }

    fn conditions(&mut self, nodes: &[Node]) -> Result<Vec<Expr>, At<String>> {
        nodes.iter().map(|node| self.condition(node)).collect()
    }

    fn test(&mut self, left: &Node, operator: Operator, right: &Node) -> Result<Expr, At<String>> {
        match operator {
            Operator::Compare(comparison) => self.compare(left, comparison, right),
            Operator::Contains => self.contains(left, right),
            Operator::In => self.is_in(left, right),
            Operator::Matches => self.matches(left, right),
        }
    }

    fn compare(&mut self, left: &Node, comparison: Comparison, right: &Node) -> Result<Expr, At<String>> {
        if matches!(left.what, Ast::Literal(_)) && matches!(right.what, Ast::Name(_)) {
            return self.compare(right, comparison.mirrored(), left);
        }
        if matches!(left.what, Ast::Literal(_)) && matches!(right.what, Ast::Literal(_)) {
            return Err(wrong(left, "neither side of the comparison is a field"));
        }
        let field = self.field(left)?;
        let equality = matches!(comparison, Comparison::Eq | Comparison::Ne);
        match field.kind() {
            Kind::List => return Err(wrong(left, format!("`{field}` is a list; use `contains`"))),
            Kind::Ip | Kind::Bool if !equality => {
                return Err(wrong(left, format!("`{field}` has no order; use `==`, `!=` or `in`")));
            }
            _ => {}
        }
        let operand = match &right.what {
            Ast::Literal(literal) => Operand::Literal(fitting(&field, literal, right, !equality)?),
            Ast::Regex(_) => return Err(wrong(right, "to compare with a regular expression, use `matches`")),
            Ast::List(_) => return Err(wrong(right, "to compare with a list, use `in`")),
            _ => Operand::Field(self.comparable_field(&field, right)?),
        };
        Ok(Expr::Test(field, Test::Compare(comparison, operand)))
    }

    fn comparable_field(&mut self, field: &Field, node: &Node) -> Result<Field, At<String>> {
        let other = self.field(node)?;
        let (a, b) = (field.kind(), other.kind());
        if a == b && a != Kind::List || a == Kind::Loose || b == Kind::Loose {
            return Ok(other);
        }
        let message = format!("`{field}` is {}, `{other}` is {}: the two never compare", a.name(), b.name());
        Err(wrong(node, message))
    }

    fn contains(&mut self, left: &Node, right: &Node) -> Result<Expr, At<String>> {
        if let Ast::List(literals) = &left.what {
            return self.member(right, literals);
        }
        let field = self.field(left)?;
        if !matches!(field.kind(), Kind::Text | Kind::Loose | Kind::List) {
            return Err(wrong(left, format!("`{field}` is {}, which contains nothing", field.kind().name())));
        }
        Ok(Expr::Test(field, Test::Contains(self.text(right, "contains")?)))
    }

    fn is_in(&mut self, left: &Node, right: &Node) -> Result<Expr, At<String>> {
        match &right.what {
            Ast::List(literals) => self.member(left, literals),
            Ast::Literal(literal @ (Literal::Net(_) | Literal::Ip(_))) => {
                self.member(left, &[At { at: right.at, what: literal.clone() }])
            }
            Ast::Literal(Literal::Text(text)) if Net::parse(text).is_some() => {
                self.member(left, &[At { at: right.at, what: Literal::Text(text.clone()) }])
            }
            Ast::Name(_) if self.field(right)?.kind() == Kind::List => self.contains(right, left),
            Ast::Name(name) => Err(wrong(right, format!("`{name}` is no list; write `{name} contains …`"))),
            _ => Err(wrong(right, "`in` needs a list or a CIDR block, such as `[429, 503]` or `10.0.0.0/8`")),
        }
    }

    fn member(&mut self, node: &Node, literals: &[At<Literal>]) -> Result<Expr, At<String>> {
        let field = self.field(node)?;
        if field.kind() == Kind::List {
            return Err(wrong(node, format!("`{field}` is a list; use `contains`")));
        }
        self.parts += literals.len();
        let fitting = |literal: &At<Literal>| {
            let written = At { at: literal.at, what: Ast::Literal(literal.what.clone()) };
            if let Literal::Net(_) = literal.what
                && matches!(field.kind(), Kind::Ip | Kind::Text | Kind::Loose)
            {
                return Ok(literal.what.clone());
            }
            if let (Kind::Ip, Literal::Text(text)) = (field.kind(), &literal.what)
                && let Some(net) = Net::parse(text)
            {
                return Ok(Literal::Net(net));
            }
            self::fitting(&field, &literal.what, &written, false)
        };
        let literals = literals.iter().map(fitting).collect::<Result<_, _>>()?;
        Ok(Expr::Test(field, Test::In(literals)))
    }

    fn matches(&mut self, left: &Node, right: &Node) -> Result<Expr, At<String>> {
        let field = self.field(left)?;
        let (Ast::Regex(pattern) | Ast::Literal(Literal::Text(pattern))) = &right.what else {
            return Err(wrong(right, "`matches` needs a regular expression, such as `/^\\/api\\//`"));
        };
        if field.kind() == Kind::Bool {
            return Err(wrong(left, format!("`{field}` is true or false; use `==`")));
        }
        let pattern = self.pattern(pattern).map_err(|message| wrong(right, message))?;
        Ok(Expr::Test(field, Test::Matches(pattern)))
    }

    fn call(&mut self, node: &Node, name: &str, arguments: &[Node]) -> Result<Expr, At<String>> {
        if !FUNCTIONS.contains(&name) {
            if !arguments.is_empty() && self.macros.contains_key(name) {
                return Err(wrong(node, format!("a macro takes no arguments; write `{name}()`")));
            }
            return self.called(name).map(Expr::Macro).map_err(|message| wrong(node, message));
        }
        let [value, other] = arguments else {
            return Err(wrong(node, format!("`{name}` takes two arguments, not {}", arguments.len())));
        };
        let field = self.field(value)?;
        if !matches!(field.kind(), Kind::Text | Kind::Loose) {
            return Err(wrong(value, format!("`{name}` needs text; `{field}` is {}", field.kind().name())));
        }
        let operand = self.text(other, name)?;
        let is_zone = name == "in_zone";
        if is_zone && matches!(&operand, Operand::Literal(Literal::Text(zone)) if zone.trim_matches('.').is_empty()) {
            return Err(wrong(other, "the zone is empty"));
        }
        Ok(Expr::Test(field, if is_zone { Test::InZone(operand) } else { Test::StartsWith(operand) }))
    }

    /// The right side of a test for text.
    fn text(&mut self, node: &Node, test: &str) -> Result<Operand, At<String>> {
        match &node.what {
            Ast::Literal(literal @ Literal::Text(_)) => Ok(Operand::Literal(literal.clone())),
            Ast::Name(_) => {
                let field = self.field(node)?;
                if matches!(field.kind(), Kind::Text | Kind::Loose) {
                    return Ok(Operand::Field(field));
                }
                Err(wrong(node, format!("`{test}` needs text; `{field}` is {}", field.kind().name())))
            }
            Ast::Literal(literal) => {
                let message = format!("`{test}` needs text in quotes, this is {}", literal.kind_name());
                Err(wrong(node, message))
            }
            Ast::Regex(_) => Err(wrong(node, "for a regular expression, use `matches`")),
            _ => Err(wrong(node, format!("`{test}` needs text in quotes"))),
        }
    }

    fn field(&mut self, node: &Node) -> Result<Field, At<String>> {
        match &node.what {
            Ast::Name(name) if self.macros.contains_key(name) => {
                Err(wrong(node, format!("`{name}` is a macro; call it as `{name}()`")))
            }
            Ast::Name(name) => Field::parse(name).map_err(|message| wrong(node, message)),
            Ast::Literal(literal) => Err(wrong(node, format!("expected a field, found {}", literal.kind_name()))),
            _ => Err(wrong(node, "expected a field")),
        }
    }
}

fn wrong(node: &Node, message: impl Into<String>) -> At<String> {
    At { at: node.at, what: message.into() }
}

/// The literal as it is compared with the field, or why the two can never be equal.
fn fitting(field: &Field, literal: &Literal, node: &Node, ordered: bool) -> Result<Literal, At<String>> {
    let kind = field.kind();
    let fits = match (kind, literal) {
        (_, Literal::Net(_)) => return Err(wrong(node, "to compare with a CIDR block, use `in`")),
        (Kind::Loose, _) | (Kind::Text, Literal::Text(_) | Literal::Ip(_) | Literal::Mac(_)) => true,
        (Kind::Number, Literal::Int(_) | Literal::Float(_)) | (Kind::Bool, Literal::Bool(_)) => true,
        (Kind::Ip, Literal::Ip(_)) => true,
        (Kind::Ip, Literal::Text(text)) => {
            let ip = text.parse().map(Literal::Ip);
            return ip.map_err(|_| wrong(node, format!("`{field}` is an IP address, \"{text}\" is none")));
        }
        _ => false,
    };
    if !fits {
        let help = match (kind, literal) {
            (Kind::Number, Literal::Text(text)) if number(text).is_some() => format!("; write {text} without quotes"),
            (Kind::Text, Literal::Int(value)) => format!("; write \"{value}\""),
            (Kind::Text, Literal::Bool(value)) => format!("; write \"{value}\""),
            _ => String::new(),
        };
        let message = format!("`{field}` is {}, this is {}{help}", kind.name(), literal.kind_name());
        return Err(wrong(node, message));
    }
    if let (Field::Direction, Literal::Text(text)) = (field, literal)
        && !ordered
        && !DIRECTIONS.iter().any(|direction| direction.name() == text)
    {
        let names = "`direction` is \"ingress\", \"egress-internal\" or \"egress-external\"";
        let help = if text == "egress" { "; for both write `starts_with(direction, \"egress\")`" } else { "" };
        return Err(wrong(node, format!("{names}, never \"{text}\"{help}")));
    }
    Ok(literal.clone())
}
