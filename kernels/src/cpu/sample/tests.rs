//! Cuts against their definition by sorting, and the arithmetic around them.

use proptest::prelude::*;

use super::*;
use crate::cpu::matmul::testing::execute;

fn settings() -> SampleSettings {
    SampleSettings {
        seed: 3,
        position: 0,
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repetition_penalty: 1.0,
        presence_penalty: 0.0,
        frequency_penalty: 0.0,
        reserved: 0,
    }
}

/// Ids in falling order of score, rising among equals.
fn sorted(scores: &[f32]) -> Vec<usize> {
    let mut ids: Vec<usize> = (0..scores.len()).collect();
    ids.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b)));
    ids
}

/// The ids that a cut keeps.
fn kept_ids(scores: &[f32], cut: Cut) -> Vec<usize> {
    let mut ties = cut.ties;
    let mut keeps = |score: &f32| {
        let order = order_of(*score);
        let is_tie = order == cut.order && ties > 0;
        ties -= u64::from(is_tie);
        order > cut.order || is_tie
    };
    (0..scores.len()).filter(|i| keeps(&scores[*i])).collect()
}

fn run(p: &SampleParams, isa: Isa, step: usize) -> Vec<i32> {
    let mut out = vec![-9; p.rows as usize];
    let params = SampleParams { out: out.as_mut_ptr(), ..*p };
    // SAFETY: callers' buffers have the sizes the parameters say.
    unsafe { execute("sample", "", isa, &params, step) };
    out
}

proptest! {
    #[test]
    fn cuts_are_prefixes_of_the_sorted_tokens(
        // Few distinct values, so that ties are common.
        scores in prop::collection::vec((-12i8..12).prop_map(|v| f32::from(v) * 0.5), 1..400),
        top_k in 1u32..300, top_p in 0.01f32..1.0, temperature in 0.05f32..3.0,
    ) {
        let (best, largest) = largest(&scores).unwrap();
        let ids = sorted(&scores);
        prop_assert_eq!(best, ids[0]);
        let weigh = Weighing { largest, temperature, min_p: 0.0 };
        let mut orders = vec![0; scores.len()];
        for how in [
            SampleSettings { top_k, temperature, ..settings() },
            SampleSettings { top_p, temperature, ..settings() },
            SampleSettings { top_k, top_p, temperature, ..settings() },
        ] {
            let (cut, _) = filter(&scores, &mut orders, &how, order_of(largest + 0.0) + 1, weigh);
            let mut prefix = ids.clone();
            if (how.top_k as usize) < scores.len() && how.top_k > 0 {
                prefix.truncate(how.top_k as usize);
            }
            if how.top_p < 1.0 {
                let mass: u64 = prefix.iter().map(|i| weigh.of(scores[*i])).sum();
                let (target, mut reached) = (mass as f64 * f64::from(how.top_p), 0u64);
                // Masses are integers below 2^53, and no sum of them hits a share by chance.
                let count = prefix.iter().position(|i| { reached += weigh.of(scores[*i]); reached as f64 >= target });
                prefix.truncate(count.unwrap() + 1);
            }
            prefix.sort_unstable();
            prop_assert_eq!(kept_ids(&scores, cut), prefix, "{:?}", how);
        }
    }

    #[test]
    fn bits_are_the_same_on_every_instruction_set_and_split(
        logits in prop::collection::vec(-9.0f32..9.0, 5 * 37), seed: u64, top_p in 0.1f32..1.0,
    ) {
        let how = SampleSettings { seed, top_p, temperature: 0.7, ..settings() };
        let settings: Vec<_> = (0..5).map(|position| SampleSettings { position, ..how }).collect();
        let (logits, settings) = (logits.as_ptr(), settings.as_ptr());
        let params = SampleParams { logits, settings, rows: 5, vocab: 37, ..SampleParams::default() };
        let expected = run(&params, Isa::best(), 5);
        for &isa in Isa::available() {
            prop_assert_eq!(&run(&params, isa, 2), &expected, "{}", isa);
        }
    }
}

#[test]
fn orders_are_those_of_the_values() {
    let rising =
        [f32::NEG_INFINITY, f32::MIN, -1.0, -f32::MIN_POSITIVE, -0.0, 0.0, 1e-45, 2.0, f32::MAX, f32::INFINITY];
    assert!(rising.windows(2).all(|w| order_of(w[0]) < order_of(w[1])));
    assert!(rising.iter().all(|x| value_of(order_of(*x)).to_bits() == x.to_bits()));
    assert_eq!(order_of(f32::NEG_INFINITY), FORBIDDEN);
}

#[test]
fn logarithms_of_masses_are_accurate() {
    for mass in
        (0..63).flat_map(|bit| [1u64 << bit, (1 << bit) | (1 << bit >> 1), (1 << bit) | (0b0110_1010 << bit >> 8)])
    {
        let expected = (mass as f64 / (1u64 << MASS_BITS) as f64).ln();
        let error = (f64::from(log_of_mass(mass)) - expected).abs();
        assert!(error <= 3e-7 * expected.abs().max(1.0), "{mass}: {error}");
    }
}

/// Random numbers at both ends choose the first and the last token that may be drawn.
#[test]
fn the_last_token_is_within_reach() {
    let scores = [0.0f32, -3.0, 0.0, f32::NEG_INFINITY];
    let weigh = Weighing { largest: 0.0, temperature: 1.0, min_p: 0.0 };
    let mass = mass_above(&scores, FORBIDDEN, weigh);
    for (random, expected) in [(0u64, 0), ((1 << 53) - 1, 2)] {
        let need = ((u128::from(random) * u128::from(mass)) >> 53) as u64 + 1;
        assert_eq!(find_id(&scores, need, weigh), Some(expected));
    }
}

/// Settings that no request may have still give a token that is allowed.
#[test]
fn settings_without_meaning_give_a_token() {
    let scores = [f32::NEG_INFINITY, 1.0, 2.0, f32::NEG_INFINITY];
    let mut orders = [0; 4];
    for strange in [f32::NAN, -1.0, f32::INFINITY, 3.0] {
        for how in [
            SampleSettings { temperature: strange, top_k: 3, ..settings() },
            SampleSettings { top_p: strange, ..settings() },
            SampleSettings { min_p: strange, top_p: 0.5, ..settings() },
        ] {
            for position in 0..20 {
                let token = choose(&scores, &SampleSettings { position, ..how }, &mut orders);
                assert!((1..3).contains(&token), "{token} of {how:?}");
            }
        }
    }
}
