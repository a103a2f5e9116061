//! Tokens as a tree, by recursive descent.
//!
//! Owns precedence: `!` and `not` bind looser than comparisons, tighter than `&&`, which binds tighter than `||`.
//! It does not know which fields and macros exist. Nesting is bounded, so no expression can exhaust the stack.

use super::ExprError;
use super::lexer::{At, Comparison, Token, tokens};
use super::value::Literal;

/// Longest expression, in bytes.
const LONGEST: usize = 64 * 1024;
/// Deepest nesting of parentheses, `!` and calls.
const DEEPEST: usize = 64;

pub type Node = At<Ast>;

#[derive(Debug, Clone, PartialEq)]
pub enum Ast {
    And(Vec<Node>),
    Or(Vec<Node>),
    Not(Box<Node>),
    Test(Box<Node>, Operator, Box<Node>),
    Call(String, Vec<Node>),
    Name(String),
    Literal(Literal),
    Regex(String),
    List(Vec<At<Literal>>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    Compare(Comparison),
    Contains,
    In,
    Matches,
}

pub fn parse(source: &str) -> Result<Node, ExprError> {
    if source.len() > LONGEST {
        let message = format!("the expression has {} bytes, more than {LONGEST}", source.len());
        return Err(ExprError::new(source, 0, message));
    }
    let mut parser = Parser { source, tokens: tokens(source)?, next: 0, depth: 0 };
    if parser.tokens.is_empty() {
        return Err(ExprError::new(source, 0, "the expression is empty"));
    }
    let tree = parser.or()?;
    match parser.peek() {
        None => Ok(tree),
        Some(Token::Close) => Err(parser.error("this `)` closes nothing")),
        Some(token) => Err(parser.error(format!("expected `and`, `or` or the end, found {token}"))),
    }
}

struct Parser<'a> {
    source: &'a str,
    tokens: Vec<At<Token>>,
    next: usize,
    depth: usize,
}

impl Parser<'_> {
    fn or(&mut self) -> Result<Node, ExprError> {
        self.chain(Token::Or, Self::and, Ast::Or)
    }

    fn and(&mut self) -> Result<Node, ExprError> {
        self.chain(Token::And, Self::not, Ast::And)
    }

    /// One or more parts with `sign` between them; a single part stands for itself.
    fn chain(
        &mut self,
        sign: Token,
        part: fn(&mut Self) -> Result<Node, ExprError>,
        join: fn(Vec<Node>) -> Ast,
    ) -> Result<Node, ExprError> {
        let first = part(self)?;
        if self.peek() != Some(&sign) {
            return Ok(first);
        }
        let at = first.at;
        let mut parts = vec![first];
        while self.take(&sign) {
            parts.push(part(self)?);
        }
        Ok(At { at, what: join(parts) })
    }

    fn not(&mut self) -> Result<Node, ExprError> {
        let at = self.position();
        if !self.take(&Token::Not) {
            return self.test();
        }
        let inner = self.nested(Self::not)?;
        Ok(At { at, what: Ast::Not(Box::new(inner)) })
    }

    fn test(&mut self) -> Result<Node, ExprError> {
        let left = self.operand()?;
        let Some(operator) = self.peek().and_then(Operator::of) else { return Ok(left) };
        self.next += 1;
        let right = self.operand()?;
        if self.peek().and_then(Operator::of).is_some() {
            return Err(self.error("comparisons cannot be chained; join two with `and`"));
        }
        Ok(At { at: left.at, what: Ast::Test(Box::new(left), operator, Box::new(right)) })
    }

    fn operand(&mut self) -> Result<Node, ExprError> {
        let at = self.position();
        let Some(token) = self.tokens.get(self.next).map(|token| token.what.clone()) else {
            return Err(self.error("the expression ends where a field or value is expected"));
        };
        let what = match token {
            Token::Name(name) => {
                self.next += 1;
                if !self.take(&Token::Open) {
                    return Ok(At { at, what: Ast::Name(name) });
                }
                Ast::Call(name, self.nested(Self::arguments)?)
            }
            Token::Literal(literal) => {
                self.next += 1;
                Ast::Literal(literal)
            }
            Token::Regex(pattern) => {
                self.next += 1;
                Ast::Regex(pattern)
            }
            Token::OpenList => {
                self.next += 1;
                Ast::List(self.list()?)
            }
            Token::Open => {
                self.next += 1;
                let inner = self.nested(Self::or)?;
                self.expect(Token::Close)?;
                return Ok(inner);
            }
            other => return Err(self.error(format!("expected a field or value, found {other}"))),
        };
        Ok(At { at, what })
    }

    /// What stands between the parentheses of a call, the closing one included.
    fn arguments(&mut self) -> Result<Vec<Node>, ExprError> {
        let mut arguments = Vec::new();
        if self.take(&Token::Close) {
            return Ok(arguments);
        }
        loop {
            arguments.push(self.operand()?);
            if !self.take(&Token::Comma) {
                self.expect(Token::Close)?;
                return Ok(arguments);
            }
        }
    }

    /// What stands between brackets, the closing one included. A comma may follow the last value.
    fn list(&mut self) -> Result<Vec<At<Literal>>, ExprError> {
        let mut values = Vec::new();
        while !self.take(&Token::CloseList) {
            let at = self.position();
            match self.tokens.get(self.next).map(|token| &token.what) {
                Some(Token::Literal(literal)) => values.push(At { at, what: literal.clone() }),
                Some(other) => return Err(self.error(format!("expected a value or `]`, found {other}"))),
                None => return Err(self.error("the list is not closed by `]`")),
            }
            self.next += 1;
            if !self.take(&Token::Comma) {
                self.expect(Token::CloseList)?;
                break;
            }
        }
        Ok(values)
    }

    fn nested<T>(&mut self, inner: fn(&mut Self) -> Result<T, ExprError>) -> Result<T, ExprError> {
        if self.depth == DEEPEST {
            return Err(self.error(format!("the expression is nested deeper than {DEEPEST}")));
        }
        self.depth += 1;
        let result = inner(self);
        self.depth -= 1;
        result
    }

    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.next).map(|token| &token.what)
    }

    fn take(&mut self, token: &Token) -> bool {
        let taken = self.peek() == Some(token);
        self.next += usize::from(taken);
        taken
    }

    fn expect(&mut self, token: Token) -> Result<(), ExprError> {
        if self.take(&token) {
            return Ok(());
        }
        let found = self.peek().map_or("the end".to_string(), Token::to_string);
        Err(self.error(format!("expected {token}, found {found}")))
    }

    fn position(&self) -> usize {
        self.tokens.get(self.next).map_or(self.source.len(), |token| token.at)
    }

    fn error(&self, message: impl Into<String>) -> ExprError {
        ExprError::new(self.source, self.position(), message)
    }
}

impl Operator {
    fn of(token: &Token) -> Option<Operator> {
        match token {
            Token::Compare(comparison) => Some(Operator::Compare(*comparison)),
            Token::Contains => Some(Operator::Contains),
            Token::In => Some(Operator::In),
            Token::Matches => Some(Operator::Matches),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree as text, every group in parentheses.
    fn shape(node: &Node) -> String {
        let join = |parts: &[Node], sign: &str| parts.iter().map(shape).collect::<Vec<_>>().join(sign);
        match &node.what {
            Ast::And(parts) => format!("({})", join(parts, " & ")),
            Ast::Or(parts) => format!("({})", join(parts, " | ")),
            Ast::Not(inner) => format!("!{}", shape(inner)),
            Ast::Test(left, _, right) => format!("({} ~ {})", shape(left), shape(right)),
            Ast::Call(name, arguments) => format!("{name}[{}]", join(arguments, ", ")),
            Ast::Name(name) => name.clone(),
            Ast::Literal(literal) => format!("{literal:?}"),
            Ast::Regex(pattern) => format!("/{pattern}/"),
            Ast::List(values) => format!("{} values", values.len()),
        }
    }

    #[test]
    fn operators_bind_as_documented() {
        for (source, tree) in [
            ("a || b && c", "(a | (b & c))"),
            ("a or b and not c", "(a | (b & !c))"),
            ("!a == b && c", "(!(a ~ b) & c)"),
            ("not not a", "!!a"),
            ("(a || b) && c", "((a | b) & c)"),
            ("a && b && c", "(a & b & c)"),
            ("f() && !g(a, b)", "(f[] & !g[a, b])"),
            ("(a) eq (b)", "(a ~ b)"),
            ("a in [1, 2,]", "(a ~ 2 values)"),
            ("a in []", "(a ~ 0 values)"),
        ] {
            assert_eq!(parse(source).map(|node| shape(&node)), Ok(tree.to_string()), "{source}");
        }
    }

    #[test]
    fn what_is_no_expression_is_an_error_with_its_column() {
        for (source, message) in [
            ("", "the expression is empty at column 1 of the expression"),
            (" \n", "the expression is empty at column 1 of the expression"),
            ("a ==", "the expression ends where a field or value is expected at column 5 of the expression"),
            ("a == == b", "expected a field or value, found `==` at column 6 of the expression"),
            ("a b", "expected `and`, `or` or the end, found `b` at column 3 of the expression"),
            ("a)", "this `)` closes nothing at column 2 of the expression"),
            ("(a", "expected `)`, found the end at column 3 of the expression"),
            ("f(a b)", "expected `)`, found `b` at column 5 of the expression"),
            ("1 < a < 2", "comparisons cannot be chained; join two with `and` at column 7 of the expression"),
            ("a in [1", "expected `]`, found the end at column 8 of the expression"),
            ("a in [", "the list is not closed by `]` at column 7 of the expression"),
            ("a in [b]", "expected a value or `]`, found `b` at column 7 of the expression"),
        ] {
            assert_eq!(parse(source).map_err(|error| error.to_string()), Err(message.to_string()), "{source}");
        }
    }

    #[test]
    fn nesting_and_length_are_bounded() {
        for open in ["(", "!", "f("] {
            let error = parse(&open.repeat(10_000)).expect_err("too deep").to_string();
            assert!(error.starts_with("the expression is nested deeper than 64 at column"), "{error}");
        }
        let long = vec!["a"; 20_000].join("||");
        assert!(parse(&long).is_ok());
        let error = parse(&"a".repeat(LONGEST + 1)).expect_err("too long").to_string();
        assert_eq!(error, "the expression has 65537 bytes, more than 65536 at column 1 of the expression");
    }
}
