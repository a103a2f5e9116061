//! A share of all exchanges.

/// Which exchanges are in a sample: those whose lot is below a bound. So a larger sample has all that a smaller one has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// None: all are in it.
    bound: Option<u64>,
}

impl Sample {
    pub const ALL: Sample = Sample { bound: None };

    /// `share`: 0 to 1; none where it is not.
    pub fn new(share: f64) -> Option<Sample> {
        if !(0.0..=1.0).contains(&share) {
            return None;
        }
        let bound = (share < 1.0).then_some((share * u64::MAX as f64) as u64);
        Some(Sample { bound })
    }

    /// Asks for the lot only where it matters.
    pub fn has(self, lot: impl FnOnce() -> u64) -> bool {
        self.bound.is_none_or(|bound| lot() < bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_between_nothing_and_all() {
        let sample = |share| Sample::new(share).unwrap();
        assert!(!sample(0.0).has(|| 0) && sample(1.0).has(|| u64::MAX) && Sample::ALL.has(|| unreachable!()));
        assert!(sample(0.25).has(|| u64::MAX / 5) && !sample(0.25).has(|| u64::MAX / 3));
        assert_eq!([-0.1, 1.1, f64::NAN, f64::INFINITY].map(Sample::new), [None; 4]);
    }
}
