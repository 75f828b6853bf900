//! The sampler as a whole: determinism, filters, frequencies, bad input.

use proptest::prelude::*;

use super::*;

const NO_HISTORY: History<'static> = History { prompt: &[], output: &[] };

fn sample(logits: &[f32], params: &SamplingParams, position: u64) -> u32 {
    Sampler::new().sample(logits, NO_HISTORY, params, position).expect("valid logits")
}

/// Reproducible logits, normal-ish with standard deviation `spread`.
fn random_logits(count: usize, seed: u64, spread: f32) -> Vec<f32> {
    (0..count as u64)
        .map(|i| ((0..4).map(|k| philox::uniform(seed, 4 * i + k)).sum::<f64>() - 2.0) as f32 * 1.73 * spread)
        .collect()
}

/// Cosine between drawn frequencies and the distribution computed from its definition.
fn cosine_of_frequencies(logits: &[f32], params: &SamplingParams, expected: &[f64], draws: u64) -> f64 {
    let mut sampler = Sampler::new();
    let mut counts = vec![0.0f64; logits.len()];
    for position in 0..draws {
        counts[sampler.sample(logits, NO_HISTORY, params, position).expect("valid") as usize] += 1.0;
    }
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    dot(&counts, expected) / (dot(&counts, &counts) * dot(expected, expected)).sqrt()
}

fn softmax(logits: &[f32], temperature: f64) -> Vec<f64> {
    let weights: Vec<f64> = logits.iter().map(|&l| (f64::from(l) / temperature).exp()).collect();
    let total: f64 = weights.iter().sum();
    weights.into_iter().map(|w| w / total).collect()
}

#[test]
fn greedy_takes_the_largest_and_the_lowest_id_on_a_tie() {
    let params = SamplingParams::greedy();
    assert_eq!(sample(&[0.0, 3.0, 1.0, 3.0], &params, 0), 1);
    assert_eq!(sample(&[f32::NEG_INFINITY, -5.0], &params, 0), 1);
    assert_eq!(sample(&[-0.0, 0.0], &params, 0), 0);
}

#[test]
fn greedy_sees_the_penalties() {
    let params = SamplingParams { repetition_penalty: 4.0, ..SamplingParams::greedy() };
    let history = History { prompt: &[1], output: &[] };
    assert_eq!(Sampler::new().sample(&[1.0, 3.0], history, &params, 0), Ok(0));
}

#[test]
fn frequencies_follow_the_softmax() {
    let logits = random_logits(40, 5, 2.0);
    for (seed, temperature) in [(1, 1.0), (2, 0.6), (3, 1.7)] {
        let params = SamplingParams { seed, temperature, ..SamplingParams::default() };
        let cosine = cosine_of_frequencies(&logits, &params, &softmax(&logits, f64::from(temperature)), 20_000);
        assert!(cosine > 0.998, "temperature {temperature}: cosine {cosine}");
    }
}

#[test]
fn frequencies_follow_the_filtered_softmax() {
    let logits = random_logits(60, 9, 2.0);
    let mut order: Vec<usize> = (0..60).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
    let mut expected = softmax(&logits, 1.0);
    for &dropped in &order[10..] {
        expected[dropped] = 0.0;
    }
    let params = SamplingParams { top_k: 10, seed: 4, ..SamplingParams::default() };
    let cosine = cosine_of_frequencies(&logits, &params, &expected, 20_000);
    assert!(cosine > 0.998, "cosine {cosine}");
}

#[test]
fn every_invalid_logit_is_an_error_naming_its_token() {
    for value in [f32::NAN, f32::INFINITY] {
        for params in [SamplingParams::greedy(), SamplingParams::default()] {
            let error = Sampler::new().sample(&[0.0, 1.0, value], NO_HISTORY, &params, 0).expect_err("invalid");
            assert!(matches!(error, SampleError::InvalidLogit { token: 2, .. }), "{error}");
        }
    }
    let params = SamplingParams::default();
    assert_eq!(Sampler::new().sample(&[], NO_HISTORY, &params, 0), Err(SampleError::Empty));
    let forbidden = [f32::NEG_INFINITY; 3];
    let error = Sampler::new().sample(&forbidden, NO_HISTORY, &params, 0);
    assert_eq!(error, Err(SampleError::NothingAllowed { vocabulary: 3 }));
}

#[test]
fn a_penalty_that_overflows_is_an_error() {
    let params = SamplingParams { repetition_penalty: 1e-38, ..SamplingParams::default() };
    let history = History { prompt: &[0], output: &[] };
    let error = Sampler::new().sample(&[100.0, 0.0], history, &params, 0).expect_err("infinite");
    assert!(matches!(error, SampleError::InvalidLogit { token: 0, .. }));
}

#[test]
fn numbers_next_to_one_stay_inside() {
    let candidates = |weights: &[f32]| -> Vec<Candidate> {
        weights.iter().zip(0..).map(|(&weight, id)| Candidate { id, score: 0.0, weight }).collect()
    };
    let almost_one = 1.0 - f64::EPSILON / 2.0;
    for weights in [vec![1.0], vec![0.1; 1000], vec![1.0, 1e-30], vec![1e-45; 3]] {
        let last = weights.len() as u32 - 1;
        let drawn = draw(&candidates(&weights), almost_one);
        assert!(drawn <= last);
        assert_eq!(draw(&candidates(&weights), 1.0), last, "rounded up to one");
        assert_eq!(draw(&candidates(&weights), 0.0), 0);
    }
}

#[test]
fn tiny_temperatures_become_greedy() {
    let params = SamplingParams { temperature: f32::MIN_POSITIVE, ..SamplingParams::default() };
    assert!((0..50).all(|position| sample(&[1.0, 1.001, -3.0], &params, position) == 1));
}

#[test]
fn large_vocabularies_work_with_every_filter() {
    let logits = random_logits(150_000, 11, 3.0);
    for (top_k, top_p, min_p) in [(0, 1.0, 0.0), (50, 1.0, 0.0), (0, 0.95, 0.0), (0, 1.0, 0.05), (40, 0.9, 0.1)] {
        let params = SamplingParams { top_k, top_p, min_p, ..SamplingParams::default() };
        let mut sampler = Sampler::new();
        let first = sampler.sample(&logits, NO_HISTORY, &params, 0).expect("valid");
        assert!((first as usize) < logits.len());
        let capacity = sampler.candidates.capacity();
        sampler.sample(&logits, NO_HISTORY, &params, 1).expect("valid");
        assert_eq!(sampler.candidates.capacity(), capacity, "no growth after the first token");
    }
}

fn any_params() -> impl Strategy<Value = SamplingParams> {
    (0.05f32..3.0, 0usize..50, 0.05f32..=1.0, 0.0f32..0.5, 0.5f32..2.0, -2.0f32..2.0, any::<u64>()).prop_map(
        |(temperature, top_k, top_p, min_p, repetition_penalty, presence_penalty, seed)| SamplingParams {
            temperature,
            top_k,
            top_p,
            min_p,
            repetition_penalty,
            presence_penalty,
            frequency_penalty: presence_penalty / 2.0,
            seed,
            ..SamplingParams::default()
        },
    )
}

fn any_logits() -> impl Strategy<Value = Vec<f32>> {
    let logit = prop_oneof![8 => -20.0f32..20.0, 1 => Just(f32::NEG_INFINITY), 1 => -3.0e38f32..3.0e38];
    prop::collection::vec(logit, 1..200)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn only_tokens_that_pass_the_filters_are_drawn(
        logits in any_logits(), params in any_params(), position in any::<u64>(),
    ) {
        prop_assume!(logits.iter().any(|l| l.is_finite()));
        let history = [0, logits.len() as u32 - 1];
        let history = History { prompt: &history, output: &history[1..] };
        let mut sampler = Sampler::new();
        if let Ok(token) = sampler.sample(&logits, history, &params, position) {
            prop_assert!(logits[token as usize] > f32::NEG_INFINITY);
            let allowed = sampler.distribution(&logits, history, &params).expect("sampled before");
            prop_assert!(allowed.iter().any(|&(id, p)| id == token && p > 0.0));
            prop_assert!((allowed.iter().map(|&(_, p)| p).sum::<f64>() - 1.0).abs() < 1e-9);
            prop_assert!(params.top_k == 0 || allowed.len() <= params.top_k);
        }
    }

    #[test]
    fn a_used_sampler_chooses_like_a_fresh_one(
        logits in any_logits(), others in prop::collection::vec((any_logits(), any_params()), 0..4),
        params in any_params(), position in any::<u64>(),
    ) {
        let mut used = Sampler::new();
        for (other, other_params) in &others {
            let _ = used.sample(other, History { prompt: &[0], output: &[0] }, other_params, position);
        }
        let history = History { prompt: &[0], output: &[] };
        let fresh = Sampler::new().sample(&logits, history, &params, position);
        prop_assert_eq!(used.sample(&logits, history, &params, position), fresh);
    }
}

proptest! {
    /// A mask is the same as a bias of negative infinity on every token it does not allow.
    #[test]
    fn a_mask_forbids_what_it_does_not_allow(
        mask in prop::collection::vec(any::<u32>(), 1..4), seed in any::<u64>(), temperature in prop_oneof![Just(0.0f32), 0.5f32..2.0],
    ) {
        let logits = random_logits(100, seed, 2.0);
        let allowed = |token: u32| mask.get(token as usize / 32).is_some_and(|word| word >> (token % 32) & 1 == 1);
        let forbidden = (0..100).filter(|t| !allowed(*t)).map(|t| (t, f32::NEG_INFINITY)).collect();
        let params = SamplingParams { temperature, seed, top_p: 0.9, repetition_penalty: 1.2, ..SamplingParams::default() };
        let history = History { prompt: &[1, 2, 3], output: &[4, 4] };
        let biased = SamplingParams { logit_bias: forbidden, ..params.clone() };
        let expected = Sampler::new().sample(&logits, history, &biased, 5);
        prop_assert_eq!(Sampler::new().sample_allowed(&logits, Some(&mask), history, &params, 5), expected);
    }
}

#[test]
fn what_a_device_chose_is_a_token_or_the_error_of_the_host() {
    assert_eq!(chosen(39, 40), Ok(39));
    assert_eq!(chosen(-1, 40), Err(SampleError::InvalidLogits));
    assert_eq!(chosen(-2, 40), Err(SampleError::NothingAllowed { vocabulary: 40 }));
    for code in [-3, -4, 40, i32::MIN] {
        assert_eq!(chosen(code, 40), Err(SampleError::NoToken { code, vocabulary: 40 }));
    }
    let host = Sampler::new().sample(&[f32::NAN], NO_HISTORY, &SamplingParams::greedy(), 0).unwrap_err().to_string();
    assert!(host.ends_with(SampleError::InvalidLogits.to_string().split_once("; ").unwrap().1), "{host}");
}
