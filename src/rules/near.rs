//! "Did you mean": the candidate a mistyped word is nearest to.
//!
//! Serves the error messages of rules and of the configuration. It looks at a bounded number of short words, so a
//! hostile file cannot make it slow.

/// Longer words get no suggestion, and further candidates are not looked at.
const LONGEST: usize = 64;
const MOST_CANDIDATES: usize = 100;

/// The candidate that `word` was probably meant to be: the one with the fewest single-character edits, at most a
/// third of the longer word. Letter case does not count.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > LONGEST {
        return None;
    }
    candidates
        .into_iter()
        .take(MOST_CANDIDATES)
        .filter(|candidate| candidate.len() <= LONGEST)
        .map(|candidate| (edits(word, candidate), candidate))
        .filter(|(edits, candidate)| *edits <= (word.len().max(candidate.len()) / 3).max(1))
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

/// ` (did you mean "full"?)`, or nothing.
pub fn hint<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    nearest(word, candidates).map_or_else(String::new, |near| format!(" (did you mean \"{near}\"?)"))
}

/// The distance in bytes: insertions, deletions, replacements and exchanges of neighbours (optimal string alignment).
fn edits(a: &str, b: &str) -> usize {
    let (a, b) = (a.to_ascii_lowercase(), b.to_ascii_lowercase());
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut before_last = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 0..a.len() {
        let mut row = vec![i + 1];
        for j in 0..b.len() {
            let replaced = last[j] + usize::from(a[i] != b[j]);
            let mut fewest = replaced.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j] {
                let exchanged: usize = before_last[j - 1];
                fewest = fewest.min(exchanged + 1);
            }
            row.push(fewest);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEVELS: [&str; 4] = ["none", "summary", "headers", "full"];

    #[test]
    fn a_typo_finds_its_word() {
        assert_eq!(nearest("ful", LEVELS), Some("full"));
        assert_eq!(nearest("header", LEVELS), Some("headers"));
        assert_eq!(nearest("sumary", LEVELS), Some("summary"));
        assert_eq!(nearest("fulL", LEVELS), Some("full"));
        assert_eq!(nearest("levle", ["level", "rules"]), Some("level"));
        assert_eq!(nearest("NONE", LEVELS), Some("none"));
    }

    #[test]
    fn another_word_finds_nothing() {
        assert_eq!(nearest("everything", LEVELS), None);
        assert_eq!(nearest("", LEVELS), None);
        assert_eq!(nearest(&"x".repeat(1000), LEVELS), None);
    }
}
