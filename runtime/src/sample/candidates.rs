//! Which tokens may still be drawn: top-k, top-p and min-p on unnormalised weights.
//!
//! Weights are `exp((score - largest score) / temperature)`, so the largest is exactly 1 and nothing overflows. The
//! three filters keep a prefix of the tokens in falling order of weight (ties: lower id first), so the order of all
//! tokens is never needed: top-k streams through a bounded buffer, top-p first discards what cannot be in the nucleus
//! and then sorts growing blocks until the mass is reached. For 150 000 tokens that is a few passes instead of a sort.

use std::cmp::Ordering;

use super::SamplingParams;

/// One token that may be drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Candidate {
    pub id: u32,
    /// Logit after penalties, before temperature.
    pub score: f32,
    /// Unnormalised probability, in (0, 1].
    pub weight: f32,
}

/// Falling score, then rising id: a total order, since scores are never NaN here.
fn by_falling_score(a: &Candidate, b: &Candidate) -> Ordering {
    b.score.total_cmp(&a.score).then(a.id.cmp(&b.id))
}

/// Fills `kept` with the tokens that pass all filters of `params`.
///
/// `scores` [vocabulary] holds no NaN and no positive infinity; `largest` is its largest value and finite.
/// `kept` is never empty afterwards.
pub(super) fn filter(scores: &[f32], largest: f32, params: &SamplingParams, kept: &mut Vec<Candidate>) {
    kept.clear();
    let total = if (1..scores.len()).contains(&params.top_k) {
        largest_scores(scores, params.top_k, kept);
        for candidate in kept.iter_mut() {
            candidate.weight = weight(candidate.score, largest, params.temperature);
        }
        mass(kept)
    } else {
        weigh_all(scores, largest, params, kept)
    };
    if params.top_p < 1.0 {
        keep_nucleus(kept, total * f64::from(params.top_p));
    }
    // Largest weight 1: no division. Zero weights (underflow) can never be drawn.
    kept.retain(|c| c.weight >= params.min_p && c.weight > 0.0);
}

/// Sum of the weights.
pub(super) fn mass(candidates: &[Candidate]) -> f64 {
    candidates.iter().map(|c| f64::from(c.weight)).sum()
}

fn weight(score: f32, largest: f32, temperature: f32) -> f32 {
    // The difference comes first: a tiny temperature then gives minus infinity at worst, or 0 / t = 0.
    ((score - largest) / temperature).exp()
}

/// Appends every token that min-p and top-p could keep, in rising id, and returns the mass of all tokens.
fn weigh_all(scores: &[f32], largest: f32, params: &SamplingParams, kept: &mut Vec<Candidate>) -> f64 {
    kept.extend(scores.iter().enumerate().map(|(id, &score)| Candidate {
        id: id as u32,
        score,
        weight: weight(score, largest, params.temperature),
    }));
    let total = mass(kept);
    if params.top_p < 1.0 {
        // Tokens under this weight hold together less than (1 - top_p) of the mass, so the nucleus needs none of
        // them. Half of it, because of rounding.
        let negligible = 0.5 * (1.0 - f64::from(params.top_p)) * total / scores.len() as f64;
        kept.retain(|c| f64::from(c.weight) >= negligible);
    }
    total
}

/// Fills `kept` with the `count` largest scores in falling order, fewer where the rest is minus infinity.
///
/// `scores` holds no NaN. Passes once over `scores` with a buffer of a few times `count`.
pub(super) fn largest_scores(scores: &[f32], count: usize, kept: &mut Vec<Candidate>) {
    const SMALLEST_BUFFER: usize = 256;
    kept.clear();
    if count == 0 {
        return;
    }
    let buffer = count.saturating_mul(2).max(SMALLEST_BUFFER).min(scores.len().max(count));
    let mut threshold = f32::NEG_INFINITY;
    for (id, &score) in scores.iter().enumerate() {
        // A later token loses ties, hence strictly greater.
        if score > threshold {
            kept.push(Candidate { id: id as u32, score, weight: 0.0 });
            if kept.len() > buffer {
                truncate_to_largest(kept, count);
                threshold = kept[count - 1].score;
            }
        }
    }
    truncate_to_largest(kept, count);
    kept.sort_unstable_by(by_falling_score);
}

/// Keeps the `count` first in falling order; the last of them ends at `count - 1`, the others are unordered.
fn truncate_to_largest(kept: &mut Vec<Candidate>, count: usize) {
    if kept.len() > count {
        kept.select_nth_unstable_by(count - 1, by_falling_score);
        kept.truncate(count);
    }
}

/// Keeps the shortest run in falling order whose mass reaches `target`; at least one token.
fn keep_nucleus(kept: &mut Vec<Candidate>, target: f64) {
    const FIRST_BLOCK: usize = 128;
    const BLOCK_GROWTH: usize = 8;
    let (mut sorted, mut block, mut reached) = (0, FIRST_BLOCK, 0.0);
    while sorted < kept.len() {
        let rest = &mut kept[sorted..];
        let length = block.min(rest.len());
        if length < rest.len() {
            rest.select_nth_unstable_by(length - 1, by_falling_score);
        }
        rest[..length].sort_unstable_by(by_falling_score);
        for (offset, candidate) in rest[..length].iter().enumerate() {
            reached += f64::from(candidate.weight);
            if reached >= target {
                kept.truncate(sorted + offset + 1);
                return;
            }
        }
        sorted += length;
        block = block.saturating_mul(BLOCK_GROWTH);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition, by a full sort.
    fn filter_by_sorting(scores: &[f32], params: &SamplingParams) -> Vec<u32> {
        let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut all: Vec<Candidate> = scores
            .iter()
            .enumerate()
            .map(|(id, &score)| Candidate { id: id as u32, score, weight: weight(score, largest, params.temperature) })
            .collect();
        all.sort_by(by_falling_score);
        if params.top_k > 0 {
            all.truncate(params.top_k);
        }
        let target = mass(&all) * f64::from(params.top_p);
        let mut reached = 0.0;
        let mut nucleus = Vec::new();
        for c in all {
            if params.top_p < 1.0 && reached >= target {
                break;
            }
            reached += f64::from(c.weight);
            if c.weight >= params.min_p && c.weight > 0.0 {
                nucleus.push(c.id);
            }
        }
        nucleus.sort_unstable();
        nucleus
    }

    fn kept_ids(scores: &[f32], params: &SamplingParams) -> Vec<u32> {
        let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut kept = Vec::new();
        filter(scores, largest, params, &mut kept);
        let mut ids: Vec<u32> = kept.iter().map(|c| c.id).collect();
        ids.sort_unstable();
        ids
    }

    #[test]
    fn filters_by_hand() {
        // Probabilities 0.5, 0.25, 0.125, 0.125 at temperature 1.
        let scores = [0.5f32.ln(), 0.25f32.ln(), 0.125f32.ln(), 0.125f32.ln()];
        let with = |top_k, top_p, min_p| SamplingParams { top_k, top_p, min_p, ..SamplingParams::default() };
        assert_eq!(kept_ids(&scores, &with(0, 1.0, 0.0)), [0, 1, 2, 3]);
        assert_eq!(kept_ids(&scores, &with(3, 1.0, 0.0)), [0, 1, 2], "ties go to the lower id");
        assert_eq!(kept_ids(&scores, &with(0, 0.7, 0.0)), [0, 1]);
        assert_eq!(kept_ids(&scores, &with(0, 1e-6, 0.0)), [0], "one token always stays");
        assert_eq!(kept_ids(&scores, &with(0, 1.0, 0.4)), [0, 1]);
        // Top-k renormalises: of 0.75 left, the first holds 0.67, enough for top-p 0.6.
        assert_eq!(kept_ids(&scores, &with(2, 0.6, 0.0)), [0]);
    }

    #[test]
    fn flat_distribution_needs_several_blocks() {
        let scores = vec![0.0; 20_000];
        let params = SamplingParams { top_p: 0.5, ..SamplingParams::default() };
        assert_eq!(kept_ids(&scores, &params), (0..10_000).collect::<Vec<u32>>());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn agrees_with_the_definition(
            // Few distinct values, so that ties are common.
            scores in prop::collection::vec((-12i8..12).prop_map(|v| f32::from(v) * 0.5), 1..900),
            top_k in 0usize..400,
            top_p in 0.01f32..=1.0,
            min_p in prop_oneof![Just(0.0), 0.0f32..1.0],
            temperature in 0.05f32..3.0,
        ) {
            let params = SamplingParams { temperature, top_k, top_p, min_p, ..SamplingParams::default() };
            let (fast, slow) = (kept_ids(&scores, &params), filter_by_sorting(&scores, &params));
            // Sums in another order may round to the other side of the nucleus boundary: one token of grace.
            prop_assert!(fast.len().abs_diff(slow.len()) <= 1, "{fast:?} {slow:?}");
            let shared = fast.iter().filter(|id| slow.contains(id)).count();
            prop_assert_eq!(shared, fast.len().min(slow.len()));
        }
    }
}
