//! Any text as a rule, behind a line that is a macro: no panic, errors that point into it, and an answer that learning
//! more does not change.
#![no_main]

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

use libfuzzer_sys::fuzz_target;
use sidetap::rules::{Compiler, Fact, Facts, Field, Truth};

fuzz_target!(|text: &str| {
    let (macro_text, rule) = text.split_once('\n').unwrap_or(("http.res.status >= 400", text));
    let (mut compiler, wrong) = Compiler::new(&[("m".to_owned(), macro_text.to_owned())]);
    for (_, error) in wrong {
        points_into(macro_text, error.column);
    }
    let expr = match compiler.compile(rule) {
        Ok(expr) => expr,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return points_into(rule, error.column);
        }
    };
    let mut before = Truth::NotYet;
    for known in 0..=4 {
        let truth = expr.evaluate(&Learning { known });
        assert!(before == Truth::NotYet || truth == before, "{before:?} became {truth:?}");
        before = truth;
    }
    assert!(before != Truth::NotYet, "all is known");
});

fn points_into(text: &str, column: Option<usize>) {
    let most = text.chars().count() + 1;
    assert!(column.is_none_or(|column| (1..=most).contains(&column)), "column {column:?} of {most}");
}

/// Fields become known one after the other; what they are is drawn by their names.
struct Learning {
    known: u64,
}

impl Facts for Learning {
    fn fact(&self, field: &Field) -> Fact<'_> {
        let mut hasher = DefaultHasher::new();
        field.to_string().hash(&mut hasher);
        let drawn = hasher.finish();
        if drawn % 4 >= self.known {
            return Fact::NotYet;
        }
        match drawn / 4 % 7 {
            0 => Fact::Absent,
            1 => Fact::Text("api.example.com".into()),
            2 => Fact::Int((drawn / 28 % 600) as i64),
            3 => Fact::Float(12.5),
            4 => Fact::Bool(true),
            5 => Fact::Ip(IpAddr::from([10, 1, 2, 3])),
            _ => Fact::Text("".into()),
        }
    }
}
