//! Names with `*`: which containers are meant by `tap.filters.containers`.
//!
//! `*` stands for any run of characters, also none; every other character for itself. Nothing more, so that a match
//! takes time linear in the name and the pattern, whatever both are.

/// Which containers to tap: those that `only` names, or all where it names none, less those that `ignore` names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerFilter {
    pub only: NamePatterns,
    pub ignore: NamePatterns,
}

impl ContainerFilter {
    /// Whether it leaves nothing out.
    pub fn is_empty(&self) -> bool {
        self.only.is_empty() && self.ignore.is_empty()
    }

    /// Whether a process is tapped. `name`: its container's, none outside of containers, which `only` leaves out.
    pub fn admits(&self, name: Option<&str>) -> bool {
        match name {
            Some(name) => (self.only.is_empty() || self.only.matches(name)) && !self.ignore.matches(name),
            None => self.only.is_empty(),
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NamePatterns(Vec<String>);

impl NamePatterns {
    pub fn new(patterns: Vec<String>) -> NamePatterns {
        NamePatterns(patterns)
    }

    pub fn extend(&mut self, patterns: Vec<String>) {
        self.0.extend(patterns);
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether any of the patterns matches the whole name.
    pub fn matches(&self, name: &str) -> bool {
        self.0.iter().any(|pattern| matches(pattern, name))
    }
}

/// Each piece between two `*` is taken where it is found first: a later place could only leave less for the rest.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == name };
    let (middle, end) = rest.rsplit_once('*').unwrap_or(("", rest));
    let Some(mut name) = name.strip_prefix(start).and_then(|name| name.strip_suffix(end)) else { return false };
    for piece in middle.split('*') {
        let Some(found) = name.find(piece) else { return false };
        name = &name[found + piece.len()..];
    }
    true
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_star_stands_for_any_run_of_characters() {
        for (pattern, name, expected) in [
            ("web", "web", true),
            ("web", "web-1", false),
            ("web*", "web", true),
            ("web*", "web-1", true),
            ("*web", "my-web", true),
            ("*web", "web-1", false),
            ("*", "", true),
            ("**", "x", true),
            ("", "", true),
            ("", "x", false),
            ("demo-*-1", "demo-api-1", true),
            ("demo-*-1", "demo-1", false),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("*b*b*", "ab-b", true),
            ("*ab*bc*", "abc", false),
            ("w?b", "web", false),
            ("[w]eb", "web", false),
            ("é*", "été", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern:?} on {name:?}");
        }
    }

    #[test]
    fn only_chooses_and_ignore_leaves_out() {
        let patterns = |list: &[&str]| NamePatterns::new(list.iter().map(|&pattern| pattern.to_owned()).collect());
        let filter = ContainerFilter { only: patterns(&["demo-*"]), ignore: patterns(&["*-db", "*-cache"]) };
        assert!(filter.admits(Some("demo-web")));
        assert!(!filter.admits(Some("demo-db")));
        assert!(!filter.admits(Some("other")));
        assert!(!filter.admits(None), "outside of containers");
        let filter = ContainerFilter { ignore: patterns(&["*-db"]), ..ContainerFilter::default() };
        assert!(filter.admits(Some("demo-web")));
        assert!(filter.admits(None));
        assert!(!filter.admits(Some("demo-db")));
        assert!(ContainerFilter::default().admits(Some("")));
    }

    #[test]
    fn a_pattern_made_to_be_slow_is_not() {
        let (pattern, name) = ("*a".repeat(5_000) + "*b", "a".repeat(100_000));
        let started = Instant::now();
        assert!(!matches(&pattern, &name));
        assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    }

    proptest! {
        /// As the definition says, slowly.
        #[test]
        fn as_defined(pattern in "[ab*]{0,8}", name in "[ab]{0,10}") {
            fn defined(pattern: &[u8], name: &[u8]) -> bool {
                match pattern {
                    [] => name.is_empty(),
                    [b'*', rest @ ..] => (0..=name.len()).any(|taken| defined(rest, &name[taken..])),
                    [byte, rest @ ..] => name.first() == Some(byte) && defined(rest, &name[1..]),
                }
            }
            prop_assert_eq!(matches(&pattern, &name), defined(pattern.as_bytes(), name.as_bytes()));
        }
    }
}
