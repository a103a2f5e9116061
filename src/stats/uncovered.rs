//! Connections within TLS that could not be opened, by program and library: what users miss, and whose it is.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Programs with a line of their own; beyond, all others share one.
const MOST: usize = 100;
/// The longest path of a program that has one.
const LONGEST: usize = 256;
const OTHERS: &str = "others";

/// Where no library was seen deriving secrets.
pub const NONE: &str = "none";

/// In place of a library: what is QUIC.
pub const QUIC: &str = "quic";

/// Counts by executable and library.
#[derive(Debug, Default)]
pub struct Uncovered(Mutex<BTreeMap<(Box<str>, &'static str), u64>>);

impl Uncovered {
    /// A connection of that executable cannot be opened. `library`: the one it is known to use, or what does its work.
    /// Whether it is the first of these.
    pub fn add(&self, exe: &str, library: Option<&'static str>) -> bool {
        let mut counts = self.lock();
        let library = library.unwrap_or(NONE);
        let key = (Box::from(if exe.len() > LONGEST { OTHERS } else { exe }), library);
        let is_one_more = counts.len() >= MOST && !counts.contains_key(&key);
        let key = if is_one_more { (OTHERS.into(), library) } else { key };
        let count = counts.entry(key).or_default();
        *count += 1;
        *count == 1
    }

    pub fn total(&self) -> u64 {
        self.lock().values().sum()
    }

    /// Executable, library, and how many; in order of the executables.
    pub fn all(&self) -> Vec<(Box<str>, &'static str, u64)> {
        self.lock().iter().map(|((exe, library), count)| (exe.clone(), *library, *count)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(Box<str>, &'static str), u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_counted_by_program_and_library() {
        let uncovered = Uncovered::default();
        let is_first = [("/bin/b", None), ("/bin/a", Some("openssl")), ("/bin/b", None), ("/bin/b", Some(QUIC))];
        let is_first = is_first.map(|(exe, library)| uncovered.add(exe, library));
        assert_eq!(is_first, [true, true, false, true]);
        uncovered.add(&"x".repeat(LONGEST + 1), None);
        let all = uncovered.all();
        let all: Vec<_> = all.iter().map(|(exe, library, count)| (&**exe, *library, *count)).collect();
        assert_eq!(all, [("/bin/a", "openssl", 1), ("/bin/b", NONE, 2), ("/bin/b", QUIC, 1), (OTHERS, NONE, 1)]);
        assert_eq!(uncovered.total(), 5);
    }

    #[test]
    fn many_programs_share_a_line() {
        let uncovered = Uncovered::default();
        for number in 0..2 * MOST {
            uncovered.add(&format!("/bin/{number}"), None);
        }
        assert!(uncovered.all().contains(&(OTHERS.into(), NONE, MOST as u64)));
        assert_eq!((uncovered.all().len(), uncovered.total()), (MOST + 1, 2 * MOST as u64));
    }
}
