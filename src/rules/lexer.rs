//! An expression's text as tokens, each with its position.
//!
//! Owns the spelling of the language: names, strings, numbers, addresses, regular expressions, operators. It does
//! not know which names exist or which tokens may follow one another.

use std::fmt;
use std::net::IpAddr;

use super::ExprError;
use super::value::{Fact, Literal, Net, number, parse_mac};

#[derive(Debug, Clone, PartialEq)]
pub enum Token {
    /// A field's, macro's or function's name.
    Name(String),
    Literal(Literal),
    /// A pattern between slashes, not yet compiled.
    Regex(String),
    And,
    Or,
    Not,
    Compare(Comparison),
    Contains,
    In,
    Matches,
    Open,
    Close,
    OpenList,
    CloseList,
    Comma,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    Eq,
    Ne,
    Gt,
    Ge,
    Lt,
    Le,
}

/// A token and the byte it begins at.
#[derive(Debug, Clone, PartialEq)]
pub struct At<T> {
    pub at: usize,
    pub what: T,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Token::Name(name) => write!(f, "`{name}`"),
            Token::Literal(literal) => f.write_str(literal.kind_name()),
            Token::Regex(_) => f.write_str("a regular expression"),
            Token::And => f.write_str("`and`"),
            Token::Or => f.write_str("`or`"),
            Token::Not => f.write_str("`not`"),
            Token::Compare(comparison) => write!(f, "`{}`", comparison.sign()),
            Token::Contains => f.write_str("`contains`"),
            Token::In => f.write_str("`in`"),
            Token::Matches => f.write_str("`matches`"),
            Token::Open => f.write_str("`(`"),
            Token::Close => f.write_str("`)`"),
            Token::OpenList => f.write_str("`[`"),
            Token::CloseList => f.write_str("`]`"),
            Token::Comma => f.write_str("`,`"),
        }
    }
}

impl Comparison {
    pub fn sign(self) -> &'static str {
        match self {
            Comparison::Eq => "==",
            Comparison::Ne => "!=",
            Comparison::Gt => ">",
            Comparison::Ge => ">=",
            Comparison::Lt => "<",
            Comparison::Le => "<=",
        }
    }
}

/// Longest spelling first, so that `>=` is not read as `>`.
static SIGNS: [(&str, Token); 14] = [
    ("&&", Token::And),
    ("||", Token::Or),
    ("==", Token::Compare(Comparison::Eq)),
    ("!=", Token::Compare(Comparison::Ne)),
    (">=", Token::Compare(Comparison::Ge)),
    ("<=", Token::Compare(Comparison::Le)),
    (">", Token::Compare(Comparison::Gt)),
    ("<", Token::Compare(Comparison::Lt)),
    ("!", Token::Not),
    ("(", Token::Open),
    (")", Token::Close),
    ("[", Token::OpenList),
    ("]", Token::CloseList),
    (",", Token::Comma),
];

static WORDS: [(&str, Token); 14] = [
    ("and", Token::And),
    ("or", Token::Or),
    ("not", Token::Not),
    ("eq", Token::Compare(Comparison::Eq)),
    ("ne", Token::Compare(Comparison::Ne)),
    ("gt", Token::Compare(Comparison::Gt)),
    ("ge", Token::Compare(Comparison::Ge)),
    ("lt", Token::Compare(Comparison::Lt)),
    ("le", Token::Compare(Comparison::Le)),
    ("contains", Token::Contains),
    ("in", Token::In),
    ("matches", Token::Matches),
    ("true", Token::Literal(Literal::Bool(true))),
    ("false", Token::Literal(Literal::Bool(false))),
];

/// Cuts an expression into tokens. The error is the first place that is none.
pub fn tokens(source: &str) -> Result<Vec<At<Token>>, ExprError> {
    let mut tokens = Vec::new();
    let mut at = 0;
    loop {
        let rest = &source[at..];
        at += rest.len() - rest.trim_start().len();
        if at == source.len() {
            return Ok(tokens);
        }
        let (what, length) = token(&source[at..]).map_err(|message| ExprError::new(source, at, message))?;
        tokens.push(At { at, what });
        at += length;
    }
}

/// The token that `rest`, which is not empty, begins with, and its length in bytes.
fn token(rest: &str) -> Result<(Token, usize), String> {
    if rest.starts_with(['"', '\'']) {
        return string(rest);
    }
    if rest.starts_with('/') {
        return regex(rest);
    }
    if let Some(length) = address_length(rest) {
        return Ok((Token::Literal(address(&rest[..length])?), length));
    }
    if rest.starts_with(|c: char| c.is_ascii_digit() || c == '-') {
        return numeral(rest);
    }
    if rest.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
        return Ok(name(rest));
    }
    match SIGNS.iter().find(|(sign, _)| rest.starts_with(sign)) {
        Some((sign, token)) => Ok((token.clone(), sign.len())),
        None => Err(misspelt(rest)),
    }
}

fn name(rest: &str) -> (Token, usize) {
    let mut length = run(rest, |c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'));
    if rest[..length].contains(".labels.") {
        length = run(rest, |c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/'));
    }
    let name = &rest[..length];
    let word = WORDS.iter().find(|(word, _)| word.eq_ignore_ascii_case(name));
    (word.map_or_else(|| Token::Name(name.to_string()), |(_, token)| token.clone()), length)
}

/// A string in double or single quotes. Only these escapes exist, so that a pattern's `\d` is not silently changed.
fn string(rest: &str) -> Result<(Token, usize), String> {
    let mut chars = rest.char_indices();
    let quote = chars.next().map(|(_, quote)| quote);
    let mut text = String::new();
    while let Some((at, c)) = chars.next() {
        if Some(c) == quote {
            return Ok((Token::Literal(Literal::Text(text)), at + 1));
        }
        if c != '\\' {
            text.push(c);
            continue;
        }
        text.push(match chars.next() {
            Some((_, c @ ('\\' | '"' | '\''))) => c,
            Some((_, 'n')) => '\n',
            Some((_, 'r')) => '\r',
            Some((_, 't')) => '\t',
            Some((_, c)) => return Err(format!("unknown escape `\\{c}` in a string; write `\\\\` for a backslash")),
            None => break,
        });
    }
    Err("the string is not closed".to_string())
}

/// A pattern between slashes, in which `\/` is a slash.
fn regex(rest: &str) -> Result<(Token, usize), String> {
    let mut pattern = String::new();
    let mut chars = rest.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '/' => return Ok((Token::Regex(pattern), at + 1)),
            '\\' => match chars.next() {
                Some((_, '/')) => pattern.push('/'),
                Some((_, escaped)) => pattern.extend(['\\', escaped]),
                None => break,
            },
            c => pattern.push(c),
        }
    }
    Err("the regular expression is not closed by `/`".to_string())
}

fn numeral(rest: &str) -> Result<(Token, usize), String> {
    let length = 1 + run(&rest[1..], |c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.'));
    let block = rest[length..].strip_prefix('/').map_or(0, |bits| 1 + run(bits, |c| c.is_ascii_digit()));
    let text = &rest[..length];
    if block > 1 || text.matches('.').count() == 3 {
        let length = length + block;
        return Ok((Token::Literal(address(&rest[..length])?), length));
    }
    match number(text) {
        Some(Fact::Int(value)) => Ok((Token::Literal(Literal::Int(value)), length)),
        Some(Fact::Float(value)) => Ok((Token::Literal(Literal::Float(value)), length)),
        _ => Err(format!("`{text}` is neither a number nor an address")),
    }
}

/// The length of what begins like an IPv6 or MAC address: no name and no number has a colon in it.
fn address_length(rest: &str) -> Option<usize> {
    let length = run(rest, |c| c.is_ascii_hexdigit() || matches!(c, ':' | '.'));
    if !rest[..length].contains(':') {
        return None;
    }
    let bits = rest[length..].strip_prefix('/').map_or(0, |bits| 1 + run(bits, |c| c.is_ascii_digit()));
    Some(length + bits)
}

fn address(text: &str) -> Result<Literal, String> {
    if let Some(net) = Net::parse(text) {
        return Ok(Literal::Net(net));
    }
    if let Some(mac) = parse_mac(text) {
        return Ok(Literal::Mac(mac));
    }
    text.parse::<IpAddr>().map(Literal::Ip).map_err(|_| format!("`{text}` is not an address or CIDR block"))
}

/// How many bytes of `text` are of one kind, from its beginning.
fn run(text: &str, kind: impl Fn(char) -> bool) -> usize {
    text.find(|c| !kind(c)).unwrap_or(text.len())
}

fn misspelt(rest: &str) -> String {
    let instead = [("=~", "matches"), ("=", "=="), ("&", "&&"), ("|", "||")];
    if let Some((sign, better)) = instead.iter().find(|(sign, _)| rest.starts_with(sign)) {
        return format!("`{sign}` is no operator (did you mean `{better}`?)");
    }
    let first: String = rest.chars().take(1).collect();
    format!("unexpected character `{}`", first.escape_debug())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(source: &str) -> Vec<Token> {
        tokens(source).expect(source).into_iter().map(|token| token.what).collect()
    }

    fn one(source: &str) -> Token {
        let mut tokens = all(source);
        assert_eq!(tokens.len(), 1, "{source}: {tokens:?}");
        tokens.remove(0)
    }

    fn error(source: &str) -> String {
        tokens(source).expect_err(source).to_string()
    }

    #[test]
    fn names_hold_dots_and_dashes() {
        for name in ["http.req.headers.retry-after", "src.container.labels.com.example/x-y", "is_error", "a1"] {
            assert_eq!(one(name), Token::Name(name.to_string()));
        }
        assert_eq!(all("a matches/b/").len(), 3, "a slash belongs to a name only after `labels`");
    }

    #[test]
    fn numbers_and_addresses() {
        assert_eq!(one("404"), Token::Literal(Literal::Int(404)));
        assert_eq!(one("-1"), Token::Literal(Literal::Int(-1)));
        assert_eq!(one("0.5"), Token::Literal(Literal::Float(0.5)));
        assert_eq!(one("99999999999999999999"), Token::Literal(Literal::Float(1e20)));
        assert_eq!(one("10.0.0.1"), Token::Literal(Literal::Ip([10, 0, 0, 1].into())));
        assert_eq!(one("::1"), Token::Literal(Literal::Ip("::1".parse().expect("an address"))));
        assert_eq!(one("fe80::1"), Token::Literal(Literal::Ip("fe80::1".parse().expect("an address"))));
        assert_eq!(one("10.0.0.0/8"), Token::Literal(Literal::Net(Net::parse("10.0.0.0/8").expect("a block"))));
        assert_eq!(one("2001:db8::/32"), Token::Literal(Literal::Net(Net::parse("2001:db8::/32").expect("a block"))));
        assert_eq!(one("aa:bb:cc:dd:ee:0f"), Token::Literal(Literal::Mac([0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0x0f])));
    }

    #[test]
    fn strings_and_patterns() {
        assert_eq!(one(r#""a \"b\" \\ 'c'""#), Token::Literal(Literal::Text(r#"a "b" \ 'c'"#.to_string())));
        assert_eq!(one("'a \"b\"'"), Token::Literal(Literal::Text("a \"b\"".to_string())));
        assert_eq!(one(r"/^\/api\/\d+/"), Token::Regex(r"^/api/\d+".to_string()));
    }

    #[test]
    fn what_is_no_token_is_an_error_with_its_column() {
        for (source, message) in [
            ("a == \"b", "the string is not closed at column 6 of the expression"),
            (r#""\d""#, r"unknown escape `\d` in a string; write `\\` for a backslash at column 1 of the expression"),
            ("a matches /b", "the regular expression is not closed by `/` at column 11 of the expression"),
            ("a = 1", "`=` is no operator (did you mean `==`?) at column 3 of the expression"),
            ("a =~ 1", "`=~` is no operator (did you mean `matches`?) at column 3 of the expression"),
            ("ä & b", "unexpected character `ä` at column 1 of the expression"),
            ("\"ä\" & b", "`&` is no operator (did you mean `&&`?) at column 5 of the expression"),
            ("5xx", "`5xx` is neither a number nor an address at column 1 of the expression"),
            ("1.2.3.4.5/8", "`1.2.3.4.5/8` is not an address or CIDR block at column 1 of the expression"),
            ("300.1.1.1", "`300.1.1.1` is not an address or CIDR block at column 1 of the expression"),
            ("1:2", "`1:2` is not an address or CIDR block at column 1 of the expression"),
            ("1e999", "`1e999` is neither a number nor an address at column 1 of the expression"),
        ] {
            assert_eq!(error(source), message);
        }
    }
}
