//! The kernel `sample` against the engine's sampler: the same token of the same logits, history, settings and position.
//!
//! Both weigh tokens in single precision, with exponentials of their own, so they may differ where rounding decides. How near a decision
//! was is known from the definition in double precision.

use std::ffi::c_void;

use kernels::abi::{SampleParams, SampleSettings};
use kernels::catalog;
use kernels::cpu::isa::Isa;
use proptest::prelude::*;
use runtime::sample::{History, Sampler, SamplingParams, philox, token_logprobs};

/// Decisions nearer than this, relative to what is compared, may go either way.
const ROUNDING: f64 = 1e-6;

/// What both samplers are asked.
#[derive(Clone, Debug)]
struct Question {
    logits: Vec<f32>,
    prompt: Vec<u32>,
    output: Vec<u32>,
    forbidden: Vec<u32>,
    params: SamplingParams,
    position: u64,
}

impl Question {
    fn settings(&self) -> SampleSettings {
        let p = &self.params;
        SampleSettings {
            seed: p.seed,
            position: self.position,
            temperature: p.temperature,
            top_k: p.top_k as u32,
            top_p: p.top_p,
            min_p: p.min_p,
            repetition_penalty: p.repetition_penalty,
            presence_penalty: p.presence_penalty,
            frequency_penalty: p.frequency_penalty,
            reserved: 0,
        }
    }

    /// Each token of the history once, with how often it stands in the output.
    fn counted(&self) -> (Vec<u32>, Vec<u32>) {
        let mut tokens: Vec<u32> = self.prompt.iter().chain(&self.output).copied().collect();
        tokens.sort_unstable();
        tokens.dedup();
        let count = |token: &u32| self.output.iter().filter(|t| *t == token).count() as u32;
        let counts = tokens.iter().map(count).collect();
        (tokens, counts)
    }

    /// The engine's token: a mask is a bias there.
    fn by_engine(&self) -> u32 {
        let logit_bias = self.forbidden.iter().map(|t| (*t, f32::NEG_INFINITY)).collect();
        let params = SamplingParams { logit_bias, ..self.params.clone() };
        let history = History { prompt: &self.prompt, output: &self.output };
        Sampler::new().sample(&self.logits, history, &params, self.position).expect("a token is allowed")
    }

    /// The kernel's token and its log-probability.
    fn by_kernel(&self) -> (i32, f32) {
        let words = self.logits.len().div_ceil(32);
        let mut allowed = vec![u32::MAX; words];
        self.forbidden.iter().for_each(|t| allowed[*t as usize / 32] &= !(1 << (t % 32)));
        let (tokens, counts) = self.counted();
        let (settings, offsets) = ([self.settings()], [0, tokens.len() as u32]);
        let (mut token, mut logprob) = (0, 0.0);
        let params = SampleParams {
            logits: self.logits.as_ptr(),
            settings: settings.as_ptr(),
            history_offsets: offsets.as_ptr(),
            history_tokens: tokens.as_ptr(),
            history_counts: counts.as_ptr(),
            allowed: allowed.as_ptr(),
            out: &raw mut token,
            logprobs: &raw mut logprob,
            rows: 1,
            vocab: self.logits.len() as u32,
        };
        let at: *const c_void = (&raw const params).cast();
        let kernel = catalog::lookup("sample").expect("a kernel");
        // SAFETY: the buffers are as long as the parameters say, and the scratch memory as long as the kernel says.
        unsafe {
            let bytes = kernel.scratch_bytes("", at);
            let mut scratch = vec![0u8; bytes + 64];
            let start = scratch.as_ptr().align_offset(64);
            let run = kernel.select("", Isa::best()).expect("the one variant");
            run(at, 0..kernel.blocks("", at), &mut scratch[start..start + bytes]);
        }
        (token, logprob)
    }

    /// The scores after mask and penalties, as both make them.
    fn scores(&self) -> Vec<f32> {
        let mut scores = self.logits.clone();
        self.forbidden.iter().for_each(|t| scores[*t as usize] = f32::NEG_INFINITY);
        let (tokens, counts) = self.counted();
        let p = &self.params;
        for (token, count) in tokens.into_iter().zip(counts) {
            let score = &mut scores[token as usize];
            *score = if *score > 0.0 { *score / p.repetition_penalty } else { *score * p.repetition_penalty };
            if count > 0 {
                *score -= p.presence_penalty + p.frequency_penalty * count as f32;
            }
        }
        scores
    }

    /// The definition in double precision: the token, and how near the nearest decision was, relative to what was compared.
    fn by_definition(&self) -> (usize, f64) {
        let (scores, p) = (self.scores(), &self.params);
        let mut ids: Vec<usize> = (0..scores.len()).collect();
        ids.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b)));
        if p.is_greedy() {
            return (ids[0], 1.0);
        }
        let largest = scores[ids[0]];
        let weight = |id: usize| f64::from((scores[id] - largest) / p.temperature).exp();
        let is_sorted = (1..scores.len()).contains(&p.top_k) || p.top_p < 1.0;
        if (1..scores.len()).contains(&p.top_k) {
            ids.truncate(p.top_k);
        }
        let mut margin = 1.0f64;
        if p.top_p < 1.0 {
            let target = ids.iter().map(|i| weight(*i)).sum::<f64>() * f64::from(p.top_p);
            let count = crossing(ids.iter().map(|i| weight(*i)), target, target, &mut margin);
            ids.truncate(count + 1);
        }
        if p.min_p > 0.0 {
            let least = f64::from(p.min_p);
            ids.iter().for_each(|i| margin = margin.min((weight(*i) / least - 1.0).abs()));
            ids.retain(|i| weight(*i) >= least);
        }
        if !is_sorted {
            ids.sort_unstable();
        }
        let total: f64 = ids.iter().map(|i| weight(*i)).sum();
        let target = philox::uniform(p.seed, self.position) * total;
        let place = crossing(ids.iter().map(|i| weight(*i)), target, total, &mut margin);
        (ids[place], margin)
    }
}

/// The first place at which the sum of the weights reaches `target`; lowers `margin` to the distance, in `units`, of the nearest sum.
fn crossing(weights: impl Iterator<Item = f64>, target: f64, unit: f64, margin: &mut f64) -> usize {
    let (mut reached, mut place, mut last) = (0.0, None, 0);
    for (i, weight) in weights.enumerate() {
        reached += weight;
        *margin = margin.min((reached - target).abs() / unit);
        place = place.or((reached >= target).then_some(i));
        last = i;
    }
    place.unwrap_or(last)
}

prop_compose! {
    fn params()(
        seed: u64,
        temperature in prop_oneof![Just(0.0f32), 0.05f32..3.0, 0.5f32..1.5],
        top_k in prop_oneof![Just(0usize), 1usize..60], top_p in prop_oneof![Just(1.0f32), 0.05f32..1.0],
        min_p in prop_oneof![Just(0.0f32), 0.0f32..0.5], penalised: bool,
        repetition_penalty in 0.5f32..2.0, presence_penalty in -2.0f32..2.0, frequency_penalty in -2.0f32..2.0,
    ) -> SamplingParams {
        let plain = SamplingParams { temperature, top_k, top_p, min_p, seed, ..SamplingParams::default() };
        let params = SamplingParams { repetition_penalty, presence_penalty, frequency_penalty, ..plain.clone() };
        let params = if penalised { params } else { plain };
        params.validate().expect("parameters that a request may have");
        params
    }
}

prop_compose! {
    /// Half of the rows have few distinct values, so that ties are common; token 0 is always allowed.
    fn question()(vocabulary in prop_oneof![Just(1usize), 2usize..40, 100usize..600])(
        logits in prop_oneof![
            prop::collection::vec((-12i8..12).prop_map(|v| f32::from(v) * 0.5), vocabulary),
            prop::collection::vec(-9.0f32..9.0, vocabulary),
        ],
        prompt in prop::collection::vec(0..vocabulary as u32, 0..20),
        output in prop::collection::vec(0..vocabulary as u32, 0..20),
        forbidden in prop::collection::vec(0..vocabulary as u32, 0..20),
        params in params(), position in 0u64..1 << 40,
    ) -> Question {
        let forbidden = forbidden.into_iter().filter(|t| *t > 0).collect();
        Question { logits, prompt, output, forbidden, params, position }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_kernel_chooses_the_engines_token(question in question()) {
        let (token, logprob) = question.by_kernel();
        let engine = question.by_engine();
        if token != engine as i32 {
            let (_, margin) = question.by_definition();
            prop_assert!(margin < ROUNDING, "kernel {token}, engine {engine}, nearest decision {margin}");
        }
        prop_assert!(!question.forbidden.contains(&(token as u32)));
        let expected = token_logprobs(&question.logits, token as u32, 0).expect("finite logits").chosen.logprob;
        prop_assert!((logprob - expected).abs() <= 2e-6 * expected.abs().max(1.0), "{logprob} {expected}");
    }
}

/// Rounding decides so seldom that, of many draws of a usual vocabulary, hardly any differ; and where it does not decide, the
/// definition has that token as well.
#[test]
fn draws_of_a_large_vocabulary_agree() {
    let wave = |i: u32| (f64::from(i) * 0.7).sin() + (f64::from(i) * 0.013).cos() + (f64::from(i) * 1.9).sin();
    let logits: Vec<f32> = (0..32_000).map(|i| (3.0 * wave(i)) as f32).collect();
    let filters = [(0, 1.0, 0.0), (50, 1.0, 0.0), (0, 0.9, 0.0), (1000, 0.8, 0.05), (0, 1.0, 0.1)];
    let mut rounded = 0;
    for position in 0..40 {
        let (top_k, top_p, min_p) = filters[position as usize % filters.len()];
        let params = SamplingParams { top_k, top_p, min_p, seed: 17, ..SamplingParams::default() };
        let (prompt, output, forbidden) = (vec![], vec![], vec![]);
        let question = Question { logits: logits.clone(), prompt, output, forbidden, params, position };
        let (token, engine) = (question.by_kernel().0, question.by_engine());
        let (defined, margin) = question.by_definition();
        assert!(token as u32 == engine || margin < ROUNDING, "{token} {engine} {margin}");
        assert!(token as usize == defined || margin < ROUNDING, "{token} {defined} {margin}");
        rounded += usize::from(token as u32 != engine);
    }
    assert!(rounded <= 1, "{rounded} of 40");
}
