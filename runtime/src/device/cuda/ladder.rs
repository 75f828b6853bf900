//! Sizes at which steps are recorded.
//!
//! A recording has fixed counts, so that a step runs as the next larger one there is. Sizes are powers of two and the numbers halfway between
//! them: at most half as many tokens again are computed, and a quarter on average, against a few dozen recordings at most.

use super::metadata::Counts;
use crate::device::{InputLimits, StepInputs};

/// The least size of at least so many tokens; `most` is one as well.
pub(super) fn rung(tokens: usize, most: usize) -> usize {
    let power = tokens.next_power_of_two();
    let halfway = power / 4 * 3;
    let size = if halfway >= tokens { halfway } else { power };
    size.min(most)
}

/// The counts of the recording that a step runs as. Of rows there is one, as in most pieces of prompts, or as many as there can be.
pub(super) fn counts(inputs: &StepInputs, limits: &InputLimits) -> Counts {
    let tokens = rung(inputs.ids.len(), limits.tokens);
    let rows = match inputs.logit_rows.len() {
        1 => 1,
        more => more.max(tokens.min(limits.logit_rows)),
    };
    Counts { tokens, rows, columns: inputs.page_columns }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_powers_of_two_and_those_between() {
        let mut sizes: Vec<usize> = (1..=100).map(|tokens| rung(tokens, 100)).collect();
        sizes.dedup();
        assert_eq!(sizes, [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 100]);
    }

    proptest! {
        #[test]
        fn a_step_fits_its_recording_and_wastes_little(tokens in 1usize..5000, most in 1usize..5000) {
            let tokens = tokens.min(most);
            let size = rung(tokens, most);
            prop_assert!(size >= tokens && size <= most);
            prop_assert!(2 * size <= 3 * tokens + 1, "{} for {}", size, tokens);
            prop_assert_eq!(rung(size, most), size);
        }
    }
}
