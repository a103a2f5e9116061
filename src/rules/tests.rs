//! What rules mean, from their text to the decision.

use std::collections::HashMap;
use std::net::IpAddr;

use proptest::prelude::*;

use super::*;

/// Facts by name of field; what is not named is absent.
#[derive(Debug, Clone, Default)]
struct Known(HashMap<String, Fact<'static>>);

impl Facts for Known {
    fn fact(&self, field: &Field) -> Fact<'_> {
        self.0.get(&field.to_string()).cloned().unwrap_or(Fact::Absent)
    }
}

impl Known {
    fn with(mut self, name: &str, fact: Fact<'static>) -> Known {
        self.0.insert(name.to_string(), fact);
        self
    }

    fn text(self, name: &str, text: &'static str) -> Known {
        self.with(name, Fact::Text(text.into()))
    }
}

fn get_health() -> Known {
    let tags: &'static [(String, String)] = Box::leak(Box::new([("env".to_string(), "prod".to_string())]));
    Known::default()
        .text("http.req.method", "GET")
        .text("http.req.path", "/health")
        .text("http.req.host", "api.example.com:8080")
        .text("http.req.url", "http://api.example.com:8080/health")
        .text("http.req.headers.content-length", "1200")
        .text("http.req.headers.x-real-ip", "10.1.2.3")
        .text("http.req.headers.empty", "")
        .with("http.res.status", Fact::Int(200))
        .with("http.res.duration_ms", Fact::Float(12.5))
        .with("src.ip", Fact::Ip(IpAddr::from([10, 1, 2, 3])))
        .with("dst.ip", Fact::Ip(IpAddr::from([127, 0, 0, 1])))
        .with("dst.port", Fact::Int(8080))
        .with("src.process.user.id", Fact::Int(0))
        .text("src.container.labels.com.example/x", "yes")
        .text("src.container.labels.mac", "AA:BB:CC:00:00:01")
        .with("tls.enabled", Fact::Bool(false))
        .text("direction", "ingress")
        .with("tags", Fact::Tags(tags))
        .text("tags.env", "prod")
}

fn compile(source: &str) -> Expr {
    let mut compiler = Compiler::default();
    compiler.compile(source).unwrap_or_else(|error| panic!("{source}: {error}"))
}

fn error(source: &str) -> String {
    Compiler::default().compile(source).expect_err(source).to_string()
}

fn macros(list: &[(&str, &str)]) -> (Compiler, Vec<(usize, String)>) {
    let list: Vec<_> = list.iter().map(|(name, expr)| (name.to_string(), expr.to_string())).collect();
    let (compiler, wrong) = Compiler::new(&list);
    (compiler, wrong.into_iter().map(|(number, error)| (number, error.to_string())).collect())
}

#[test]
fn expressions_mean_what_they_say() {
    let facts = get_health();
    for (source, truth) in [
        (r#"http.req.path == "/health""#, true),
        (r#"http.req.path != "/health""#, false),
        (r#""/health" eq request.path"#, true),
        (r#"http.req.path == "/health" && http.res.status == 200"#, true),
        ("http.res.status >= 400 || http.res.status lt 300", true),
        ("200 <= http.res.status and http.res.status < 300", true),
        ("http.res.duration_ms > 12", true),
        ("http.res.duration_ms gt 12.5", false),
        (r"http.req.path matches /^\/hea/", true),
        (r#"http.req.path matches "^/api""#, false),
        ("http.res.status matches /^2/", true),
        (r#"http.req.path contains "alt""#, true),
        (r#"http.req.path contains "ALT""#, false),
        (r#"http.req.method in ["HEAD", "GET"]"#, true),
        ("http.res.status in [429, 503]", false),
        (r#"["HEAD", "GET"] contains http.req.method"#, true),
        ("src.ip in 10.0.0.0/8", true),
        (r#"src.ip in ["192.168.0.0/16", "10.1.2.3"]"#, true),
        ("src.ip in [192.168.0.0/16, 10.1.2.3]", true),
        ("src.ip == 10.1.2.3", true),
        (r#"src.ip != "10.1.2.3""#, false),
        ("http.req.headers.x-real-ip in 10.0.0.0/8", true),
        ("http.req.headers.x-real-ip == src.ip", true),
        ("http.req.headers.content-length > 200", true),
        ("http.req.headers.content-length == 1200", true),
        ("http.req.headers.x-real-ip > 200", false),
        ("http.req.headers.x-real-ip != 200", true),
        (r#"req.headers.Content-Length eq "1200""#, true),
        (r#"starts_with(http.req.url, "http://api.")"#, true),
        (r#"in_zone(http.req.host, "Example.com")"#, true),
        (r#"in_zone(http.req.host, "ample.com")"#, false),
        (r#"src.container.labels.com.example/x == "yes""#, true),
        ("src.container.labels.mac == aa:bb:cc:00:00:01", true),
        ("src.container.labels.mac != aa:bb:cc:00:00:01", false),
        ("tls.enabled == false", true),
        ("tls.enabled", false),
        (r#"tags contains "env:prod""#, true),
        (r#""env:prod" in tags"#, true),
        (r#"tags contains "prod""#, false),
        ("tags matches /^env:/", true),
        (r#"tags.env == "prod""#, true),
        ("tags", true),
        ("http.req.path", true),
        ("http.req.headers.empty", false),
        ("src.process.user.id", false),
        ("not src.process.user.id", true),
        ("true", true),
        ("false or true", true),
        // absent: false whatever the comparison, and true only when negated
        (r#"http.req.query == """#, false),
        (r#"http.req.headers.retry-after != """#, false),
        (r#"!(http.req.headers.retry-after == "1")"#, true),
        ("http.req.headers.retry-after", false),
        ("dst.process.pid < 1", false),
        ("src.ip == http.req.headers.retry-after", false),
    ] {
        assert_eq!(compile(source).evaluate(&facts), Truth::from(truth), "{source}");
    }
}

#[test]
fn what_can_never_be_true_is_refused() {
    for (source, message) in [
        (
            r#"http.req.pth == "/""#,
            "unknown field `http.req.pth` (did you mean `http.req.path`?) at column 1 of the expression",
        ),
        (
            "true && http.res.staus == 200",
            "unknown field `http.res.staus` (did you mean `http.res.status`?) at column 9 of the expression",
        ),
        (
            r#"http.res.status == "200""#,
            "`http.res.status` is a number, this is text; write 200 without quotes at column 20 of the expression",
        ),
        ("http.req.path == 5", "`http.req.path` is text, this is a number; write \"5\" at column 18 of the expression"),
        ("src.port == true", "`src.port` is a number, this is true or false at column 13 of the expression"),
        (r#"src.ip == "home""#, "`src.ip` is an IP address, \"home\" is none at column 11 of the expression"),
        ("src.ip == 10.0.0.0/8", "to compare with a CIDR block, use `in` at column 11 of the expression"),
        ("src.ip > 10.0.0.1", "`src.ip` has no order; use `==`, `!=` or `in` at column 1 of the expression"),
        ("http.req.path == /x/", "to compare with a regular expression, use `matches` at column 18 of the expression"),
        ("http.req.path == [1]", "to compare with a list, use `in` at column 18 of the expression"),
        (
            "src.ip == dst.port",
            "`src.ip` is an IP address, `dst.port` is a number: the two never compare at column 11 of the expression",
        ),
        ("1 == 1", "neither side of the comparison is a field at column 1 of the expression"),
        (r#""x""#, "text alone is no condition at column 1 of the expression"),
        (
            "tls.enabled && /x/",
            "a regular expression alone is no condition; use `matches` at column 16 of the expression",
        ),
        (
            r#"http.res.status contains "4""#,
            "`http.res.status` is a number, which contains nothing at column 1 of the expression",
        ),
        (
            "http.req.path contains 5",
            "`contains` needs text in quotes, this is a number at column 24 of the expression",
        ),
        (
            r#""x" in http.req.path"#,
            "`http.req.path` is no list; write `http.req.path contains …` at column 8 of the expression",
        ),
        (
            r#"http.req.path in "x""#,
            "`in` needs a list or a CIDR block, such as `[429, 503]` or `10.0.0.0/8` at column 18 of the expression",
        ),
        (r#"tags == "x""#, "`tags` is a list; use `contains` at column 1 of the expression"),
        (
            "http.req.path matches 5",
            r"`matches` needs a regular expression, such as `/^\/api\//` at column 23 of the expression",
        ),
        ("http.req.path matches /(/", "bad regular expression `(`: unclosed group at column 23 of the expression"),
        (r#"in_zone("a", "b")"#, "expected a field, found text at column 9 of the expression"),
        (r#"in_zone(src.domain, ".")"#, "the zone is empty at column 21 of the expression"),
        ("starts_with(http.req.path)", "`starts_with` takes two arguments, not 1 at column 1 of the expression"),
        (
            r#"direction == "egress""#,
            "`direction` is \"ingress\", \"egress-internal\" or \"egress-external\", never \"egress\"; for both write \
             `starts_with(direction, \"egress\")` at column 14 of the expression",
        ),
        ("is_error()", "unknown macro `is_error()` at column 1 of the expression"),
        (
            "start_with(http.req.path, \"/\")",
            "unknown macro `start_with()` (did you mean `starts_with`?) at column 1 of the expression",
        ),
        ("(true == true) == http.req.path", "expected a field at column 2 of the expression"),
        ("(tls.enabled && true) == true", "expected a field at column 2 of the expression"),
    ] {
        assert_eq!(error(source), message, "{source}");
    }
}

#[test]
fn macros_stand_for_their_expressions() {
    let (mut compiler, wrong) = macros(&[
        ("ok_health", "is_health() && !is_error()"),
        ("is_health", r#"http.req.path == "/health""#),
        ("is_error", "http.res.status >= 400"),
    ]);
    assert_eq!(wrong, []);
    let expr = compiler.compile("ok_health()").expect("a macro's call");
    assert_eq!(expr.evaluate(&get_health()), Truth::True);
    assert_eq!(expr.stage(), Stage::ResponseHead);
    let message = |source, compiler: &mut Compiler| compiler.compile(source).expect_err(source).to_string();
    assert_eq!(
        message("is_eror()", &mut compiler),
        "unknown macro `is_eror()` (did you mean `is_error`?) at column 1 of the expression"
    );
    assert_eq!(
        message("!is_error", &mut compiler),
        "`is_error` is a macro; call it as `is_error()` at column 2 of the expression"
    );
    assert_eq!(
        message("is_error(1)", &mut compiler),
        "a macro takes no arguments; write `is_error()` at column 1 of the expression"
    );
}

#[test]
fn wrong_macros_are_reported_once_where_they_stand() {
    let (mut compiler, wrong) = macros(&[
        ("a", "tls.enabled || b()"),
        ("b", "c()"),
        ("c", "true && a()"),
        ("self", "self()"),
        ("typo", "http.res.staus"),
        ("typo", "true"),
        ("in_zone", "true"),
        ("a b", "true"),
        ("lost", "nowhere()"),
    ]);
    assert_eq!(
        wrong,
        [
            (2, "macro cycle: a() -> b() -> c() -> a() at column 9 of the expression".to_string()),
            (3, "macro cycle: self() -> self() at column 1 of the expression".to_string()),
            (
                4,
                "unknown field `http.res.staus` (did you mean `http.res.status`?) at column 1 of the expression"
                    .to_string()
            ),
            (5, "the macro `typo` is defined twice".to_string()),
            (6, "`in_zone` is a function of the language; give the macro another name".to_string()),
            (7, "\"a b\" is no name for a macro; use letters, digits and `_`".to_string()),
            (8, "unknown macro `nowhere()` at column 1 of the expression".to_string()),
        ]
    );
    assert!(compiler.compile("a() && typo()").is_ok(), "what calls a wrong macro is not wrong itself");
}

#[test]
fn macros_cannot_blow_up() {
    let doubling: Vec<(String, String)> = (0..16)
        .map(|i| {
            (format!("m{i}"), if i == 15 { "tls.enabled".to_string() } else { format!("m{0}() && m{0}()", i + 1) })
        })
        .collect();
    let (_, wrong) = Compiler::new(&doubling);
    let message = "the expression has more than 10000 parts, with its macros at column 1 of the expression";
    assert!(wrong.iter().any(|(_, error)| error.to_string() == message), "{wrong:?}");

    let chain: Vec<(String, String)> = (0..5000).map(|i| (format!("m{i}"), format!("m{}()", i + 1))).collect();
    let (_, wrong) = Compiler::new(&chain);
    let message = "the expression is nested deeper than 200, with its macros at column 1 of the expression";
    assert!(wrong.iter().any(|(_, error)| error.to_string() == message), "{wrong:?}");

    let many = vec!["http.req.path matches /x/"; 501].join(" || ");
    assert_eq!(error(&many), "more than 500 regular expressions at column 14523 of the expression");
    assert_eq!(
        error(r"http.req.path matches /(\w{100}){100}/"),
        r"regular expression `(\w{100}){100}` is too large at column 23 of the expression"
    );
}

#[test]
fn the_deepest_expression_can_be_evaluated() {
    let nested = |inner: &str| format!("{}{inner}{}", "(true && (false || ".repeat(31), "))".repeat(31));
    let (mut compiler, wrong) =
        macros(&[("a", &nested("b()")), ("b", &nested("c()")), ("c", &format!("!!{}", nested("tls.enabled")))]);
    assert_eq!(wrong, []);
    let expr = compiler.compile("a()").expect("a macro's call");
    assert_eq!(expr.evaluate(&get_health()), Truth::False);
    assert!(compiler.compile("!!!!!!!!a()").is_ok());
    let deeper = compiler.compile("!!!!!!!!!a()").expect_err("too deep").to_string();
    assert!(deeper.starts_with("the expression is nested deeper than 200, with its macros"), "{deeper}");
}

fn rule(source: &str, level: Level) -> CompiledRule {
    CompiledRule { name: source.to_string(), level, expr: compile(source), sample: Sample::ALL }
}

#[test]
fn what_is_not_known_yet_counts_only_where_it_matters() {
    let head = get_health().with("http.res.status", Fact::NotYet);
    for (source, truth) in [
        ("http.res.status == 200", Truth::NotYet),
        ("http.res.status != 200", Truth::NotYet),
        ("!(http.res.status == 200)", Truth::NotYet),
        ("http.res.status == 200 && false", Truth::False),
        ("http.res.status == 200 && true", Truth::NotYet),
        ("http.res.status == 200 || true", Truth::True),
        ("http.res.status == 200 || false", Truth::NotYet),
        ("http.req.headers.x-code == http.res.status", Truth::False),
        ("http.req.headers.content-length == http.res.status", Truth::NotYet),
        ("http.res.status", Truth::NotYet),
    ] {
        assert_eq!(compile(source).evaluate(&head), truth, "{source}");
    }
}

#[test]
fn a_level_is_given_as_early_as_it_is_fixed() {
    let health = r#"http.req.path == "/health""#;
    let rules = [
        rule(&format!("{health} && http.res.status == 200"), Level::None),
        rule(&format!("{health} && http.res.status >= 400"), Level::Full),
        rule("http.res.duration_ms > 500", Level::Headers),
    ];
    assert_eq!(stage(&rules), Stage::End);

    let head = get_health().with("http.res.status", Fact::NotYet).with("http.res.duration_ms", Fact::NotYet);
    let decided = |level, max| Decision { level, max };
    assert_eq!(decide(&rules, Level::None, &head), decided(None, Level::Full));
    let ok = head.clone().with("http.res.status", Fact::Int(200));
    assert_eq!(decide(&rules, Level::None, &ok), decided(Some(Level::None), Level::None));
    let failed = head.clone().with("http.res.status", Fact::Int(503));
    assert_eq!(decide(&rules, Level::None, &failed), decided(Some(Level::Full), Level::Full));
    let other = head.clone().text("http.req.path", "/");
    assert_eq!(decide(&rules, Level::None, &other), decided(None, Level::Headers));
    let slow = other.with("http.res.duration_ms", Fact::Float(501.0));
    assert_eq!(decide(&rules, Level::None, &slow), decided(Some(Level::Headers), Level::Headers));
}

#[test]
fn a_level_is_fixed_when_all_that_is_open_leads_to_it() {
    let rules = [rule("http.res.status >= 0", Level::Summary)];
    let head = get_health().with("http.res.status", Fact::NotYet);
    let fixed = Decision { level: Some(Level::Summary), max: Level::Summary };
    assert_eq!(decide(&rules, Level::Summary, &head), fixed);
    assert_eq!(decide(&[], Level::Full, &head), Decision { level: Some(Level::Full), max: Level::Full });
}

/// Expressions over a few fields, most of them valid.
fn expression() -> impl Strategy<Value = String> {
    let test = prop_oneof![
        Just("http.res.status >= 400".to_string()),
        Just("http.res.status == 200".to_string()),
        Just("http.res.duration_ms > 500".to_string()),
        Just("http.req.path matches /a/".to_string()),
        Just("http.req.headers.x != http.res.headers.x".to_string()),
        Just("http.res.headers.x contains \"a\"".to_string()),
        Just("http.res.headers.x in [1, \"a\", 10.0.0.0/8]".to_string()),
        Just("starts_with(http.res.headers.x, http.req.path)".to_string()),
        Just("in_zone(http.req.path, http.res.headers.x)".to_string()),
        Just("http.res.headers.x".to_string()),
        Just("false".to_string()),
    ];
    test.prop_recursive(5, 40, 4, |inner| {
        prop_oneof![
            inner.clone().prop_map(|a| format!("!({a})")),
            proptest::collection::vec(inner.clone(), 1..4).prop_map(|all| format!("({})", all.join(" && "))),
            proptest::collection::vec(inner, 1..4).prop_map(|all| format!("({})", all.join(" || "))),
        ]
    })
}

fn fact() -> impl Strategy<Value = Fact<'static>> {
    prop_oneof![
        Just(Fact::Absent),
        "[a-c1/.]{0,4}".prop_map(|text| Fact::Text(text.into())),
        prop_oneof![Just(200i64), Just(404), any::<i64>()].prop_map(Fact::Int),
        any::<f64>().prop_map(Fact::Float),
        any::<bool>().prop_map(Fact::Bool),
        any::<u32>().prop_map(|bits| Fact::Ip(IpAddr::V4(bits.into()))),
    ]
}

const ASKED: [&str; 5] =
    ["http.res.status", "http.res.duration_ms", "http.req.path", "http.req.headers.x", "http.res.headers.x"];

proptest! {
    #[test]
    fn any_text_is_an_expression_or_an_error(source in ".{0,200}") {
        let _ = Compiler::default().compile(&source);
    }

    #[test]
    fn any_tokens_are_an_expression_or_an_error(
        parts in proptest::collection::vec(
            prop_oneof![
                Just("http.req.path"), Just("src.ip"), Just("tags"), Just("\"x\""), Just("1"), Just("1.5"), Just("true"),
                Just("10.0.0.0/8"), Just("::1"), Just("/x/"), Just("("), Just(")"), Just("["), Just("]"), Just(","),
                Just("!"), Just("&&"), Just("or"), Just("=="), Just("<"), Just("in"), Just("contains"), Just("matches"),
                Just("in_zone("), Just("starts_with("), Just("aa:bb:cc:dd:ee:ff"), Just("src.container.labels.a/b"),
            ],
            0..12,
        ),
        facts in proptest::collection::vec(fact(), ASKED.len()),
    ) {
        let known = Known(ASKED.iter().map(|name| name.to_string()).zip(facts).collect());
        if let Ok(expr) = Compiler::default().compile(&parts.join(" ")) {
            let _ = expr.evaluate(&known);
        }
    }

    /// Facts become known one after the other: an answer once given stays, and the highest level never rises.
    #[test]
    fn learning_more_never_changes_an_answer(
        sources in proptest::collection::vec((expression(), 0usize..4), 1..4),
        default in 0usize..4,
        facts in proptest::collection::vec(fact(), ASKED.len()),
        order in Just((0..ASKED.len()).collect::<Vec<_>>()).prop_shuffle(),
    ) {
        let level = |i: usize| [Level::None, Level::Summary, Level::Headers, Level::Full][i];
        let rules: Vec<_> = sources.iter().map(|(source, i)| rule(source, level(*i))).collect();
        let mut known = Known(ASKED.iter().map(|name| (name.to_string(), Fact::NotYet)).collect());
        let mut before = decide(&rules, level(default), &known);
        for i in order {
            known = known.with(ASKED[i], facts[i].clone());
            let now = decide(&rules, level(default), &known);
            prop_assert!(now.max <= before.max, "{:?} then {:?}", before, now);
            if before.level.is_some() {
                prop_assert_eq!(now.level, before.level);
            }
            before = now;
        }
        prop_assert!(before.level.is_some(), "all facts are known");
    }
}
