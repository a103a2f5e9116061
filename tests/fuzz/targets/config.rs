//! Any bytes as a configuration: settings or errors, each of which points into the file; the same each time.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sidetap::config::{Errors, Settings, parse_with};

fuzz_target!(|file: &[u8]| {
    match (parse(file), parse(file)) {
        (Ok(one), Ok(other)) => assert_eq!(one.warnings, other.warnings),
        (Err(one), Err(other)) => {
            assert!(!one.problems.is_empty());
            assert_eq!(one.to_string(), other.to_string());
            // What is missing at the end is missing in the line behind the last.
            let lines = file.iter().filter(|byte| b"\r\n".contains(byte)).count() + 2;
            for position in one.problems.iter().filter_map(|problem| problem.position) {
                assert!((1..=lines).contains(&position.line) && position.column >= 1, "{}", one);
            }
        }
        _ => panic!("right the one time and wrong the other"),
    }
});

fn parse(file: &[u8]) -> Result<Settings, Errors> {
    parse_with("fuzz", file, &|variable| (variable == "SET").then(|| "value".to_owned()))
}
