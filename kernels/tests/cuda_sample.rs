//! Sampling and copies of pages, executed by the simulator beside the native kernels: tokens and log-probabilities have the same bits.

mod harness;

use harness::{ARCHITECTURES, Bytes, Case, Outputs, floats, noise};
use kernels::abi::SampleSettings;
use kernels::cpu::sample::{INVALID_LOGIT, MOST_TOKENS, NOTHING_ALLOWED, UNKNOWN_TOKEN};
use proptest::prelude::*;

impl Bytes for SampleSettings {
    fn append(self, out: &mut Vec<u8>) {
        self.seed.to_le_bytes().into_iter().chain(self.position.to_le_bytes()).for_each(|b| out.push(b));
        self.temperature.append(out);
        self.top_k.append(out);
        let numbers = [self.top_p, self.min_p, self.repetition_penalty, self.presence_penalty, self.frequency_penalty];
        numbers.into_iter().for_each(|x| x.append(out));
        self.reserved.append(out);
    }
}

/// Plain sampling at temperature 1.
const PLAIN: SampleSettings = SampleSettings {
    seed: 11,
    position: 0,
    temperature: 1.0,
    top_k: 0,
    top_p: 1.0,
    min_p: 0.0,
    repetition_penalty: 1.0,
    presence_penalty: 0.0,
    frequency_penalty: 0.0,
    reserved: 0,
};

/// One row of a launch.
#[derive(Clone, Debug)]
struct Row {
    logits: Vec<f32>,
    how: SampleSettings,
    /// Each token once, with how often it stands in the output.
    history: Vec<(u32, u32)>,
    /// Tokens that are forbidden.
    forbidden: Vec<u32>,
}

fn row(logits: &[f32], how: SampleSettings) -> Row {
    Row { logits: logits.to_vec(), how, history: Vec::new(), forbidden: Vec::new() }
}

/// Rows of the same logits, each with a random number of its own.
fn draws(logits: &[f32], how: SampleSettings, count: u64) -> Vec<Row> {
    (0..count).map(|position| row(logits, SampleSettings { position, ..how })).collect()
}

/// A launch; it has a history and a mask only where a row needs one.
fn launch(rows: &[Row]) -> Case {
    let vocab = rows[0].logits.len();
    let logits: Vec<f32> = rows.iter().flat_map(|r| r.logits.clone()).collect();
    let settings: Vec<SampleSettings> = rows.iter().map(|r| r.how).collect();
    let mut case = Case::new("sample", "")
        .input("logits", &logits)
        .input("settings", &settings)
        .output::<i32>("out", rows.len())
        .output::<f32>("logprobs", rows.len())
        .count("rows", rows.len())
        .count("vocab", vocab);
    let history: Vec<(u32, u32)> = rows.iter().flat_map(|r| r.history.clone()).collect();
    if !history.is_empty() {
        let mut offsets = vec![0u32];
        rows.iter().for_each(|r| offsets.push(offsets[offsets.len() - 1] + r.history.len() as u32));
        let (tokens, counts): (Vec<u32>, Vec<u32>) = history.into_iter().unzip();
        case = case.input("history_offsets", &offsets).input("history_tokens", &tokens);
        case = case.input("history_counts", &counts);
    }
    if rows.iter().any(|r| !r.forbidden.is_empty()) {
        let words = vocab.div_ceil(32);
        let mut allowed = vec![u32::MAX; rows.len() * words];
        for (row, allowed) in rows.iter().zip(allowed.chunks_mut(words)) {
            row.forbidden.iter().for_each(|token| allowed[*token as usize / 32] &= !(1 << (token % 32)));
        }
        case = case.input("allowed", &allowed);
    }
    case
}

fn tokens(outputs: &Outputs) -> Vec<i32> {
    outputs["out"].chunks_exact(4).map(|b| i32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// The tokens, the same on both architectures and natively, log-probabilities too.
fn sampled(rows: &[Row]) -> Vec<i32> {
    let case = launch(rows);
    let native = case.run_native();
    for architecture in ARCHITECTURES {
        expect_native(&native, &case, architecture);
    }
    tokens(&native)
}

fn expect_native(native: &Outputs, case: &Case, architecture: &str) {
    let simulated = case.run_simulated(architecture).outputs;
    assert_eq!(tokens(&simulated), tokens(native), "{architecture}");
    let bits = |outputs: &Outputs| {
        let canonical = |x: f32| if x.is_nan() { f32::NAN.to_bits() } else { x.to_bits() };
        floats(&outputs["logprobs"]).into_iter().map(canonical).collect::<Vec<_>>()
    };
    assert_eq!(bits(&simulated), bits(native), "{architecture}");
}

/// Tokens seen, in rising order, each once.
fn seen(rows: &[Row]) -> Vec<i32> {
    let mut tokens = sampled(rows);
    tokens.sort_unstable();
    tokens.dedup();
    tokens
}

prop_compose! {
    fn settings()(
        seed: u64, position in 0u64..1 << 40,
        temperature in prop_oneof![Just(0.0f32), Just(1e-30), 0.05f32..3.0],
        top_k in prop_oneof![Just(0u32), 1u32..50, 1u32..1100], top_p in prop_oneof![Just(1.0f32), 0.01f32..1.0],
        min_p in prop_oneof![Just(0.0f32), 0.0f32..1.0], penalised: bool,
        repetition_penalty in 0.5f32..2.0, presence_penalty in -2.0f32..2.0, frequency_penalty in -2.0f32..2.0,
    ) -> SampleSettings {
        let plain = SampleSettings { seed, position, temperature, top_k, top_p, min_p, ..PLAIN };
        let how = SampleSettings { repetition_penalty, presence_penalty, frequency_penalty, ..plain };
        if penalised { how } else { plain }
    }
}

/// A row of a vocabulary; every third logit may repeat one before it, and some may be negative infinity.
fn random_row(vocab: usize) -> impl Strategy<Value = Row> {
    let history = prop::collection::btree_map(0..vocab as u32, 0u32..4, 0..20);
    (settings(), history, prop::collection::vec(0..vocab as u32, 0..9), any::<[bool; 3]>(), any::<u32>()).prop_map(
        move |(how, history, forbidden, [ties, infinite, masked], seed)| {
            let mut logits: Vec<f32> = noise(seed.into(), vocab).iter().map(|x| 6.0 * x).collect();
            for i in (3..vocab).step_by(3).filter(|_| ties) {
                logits[i] = logits[i - 2];
            }
            for i in (5..vocab).step_by(7).filter(|_| infinite) {
                logits[i] = f32::NEG_INFINITY;
            }
            let forbidden = if masked { forbidden } else { Vec::new() };
            Row { logits, how, history: history.into_iter().collect(), forbidden }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]

    #[test]
    fn tokens_and_logprobs_have_the_native_bits(
        rows in prop::sample::select(&[1usize, 31, 33, 200, 1000][..])
            .prop_flat_map(|vocab| prop::collection::vec(random_row(vocab), 1..5)),
        architecture in 0usize..2,
    ) {
        let case = launch(&rows);
        let native = case.run_native();
        expect_native(&native, &case, ARCHITECTURES[architecture]);
        for (row, token) in rows.iter().zip(tokens(&native)) {
            let count = row.logits.len() as u32;
            let open = |t: u32| !row.forbidden.contains(&t) && row.logits[t as usize] > f32::NEG_INFINITY;
            let expected = if (0..count).any(open) { token >= 0 && open(token as u32) } else { token == NOTHING_ALLOWED };
            prop_assert!(expected, "{token} of {row:?}");
        }
    }
}

#[test]
fn the_largest_score_wins_at_temperature_0_and_the_lowest_id_among_equals() {
    let greedy = SampleSettings { temperature: 0.0, ..PLAIN };
    assert_eq!(sampled(&[row(&[1.0, 3.0, 3.0, 2.0], greedy), row(&[-1.0, -0.0, 0.0, -2.0], greedy)]), [1, 1]);
    let mut masked = row(&[1.0, 3.0, 2.5, 2.0], greedy);
    masked.forbidden = vec![1];
    let penalised = SampleSettings { repetition_penalty: 2.0, presence_penalty: 0.25, ..greedy };
    let mut repeated = row(&[1.0, 3.0, 1.25, 1.5], penalised);
    repeated.history = vec![(1, 0), (3, 2)];
    assert_eq!(sampled(&[masked, repeated]), [2, 1]);
}

/// The cosine between how often tokens were drawn and how probable they are; never one that is forbidden.
#[test]
fn draws_follow_the_distribution() {
    let logits: Vec<f32> = noise(5, 203).iter().map(|x| 4.0 * x).collect();
    let forbidden: Vec<u32> = (0..203).filter(|t| t % 5 == 0).collect();
    let filtered = SampleSettings { top_k: 150, top_p: 0.97, temperature: 0.8, ..PLAIN };
    for (how, architecture) in [PLAIN, filtered].into_iter().zip(ARCHITECTURES) {
        let mut rows = draws(&logits, how, 2000);
        rows.iter_mut().for_each(|row| row.forbidden = forbidden.clone());
        let native = launch(&rows).run_native();
        expect_native(&native, &launch(&rows), architecture);
        let mut counts = vec![0f64; 203];
        tokens(&native).into_iter().for_each(|t| counts[t as usize] += 1.0);
        let mut exact: Vec<f64> = logits.iter().map(|x| (f64::from(*x) / f64::from(how.temperature)).exp()).collect();
        forbidden.iter().for_each(|t| exact[*t as usize] = 0.0);
        assert!(forbidden.iter().all(|t| counts[*t as usize] == 0.0));
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let cosine = dot(&counts, &exact) / (dot(&counts, &counts) * dot(&exact, &exact)).sqrt();
        assert!(cosine > 0.99, "{cosine}");
    }
}

/// Probabilities 0.5, 0.25, 0.125, 0.125 at temperature 1, in another order.
#[test]
fn filters_by_hand() {
    let logits = [0.125f32, 0.5, 0.125, 0.25].map(f32::ln);
    let seen_with = |how: SampleSettings| seen(&draws(&logits, how, 60));
    assert_eq!(seen_with(PLAIN), [0, 1, 2, 3]);
    assert_eq!(seen_with(SampleSettings { top_k: 3, ..PLAIN }), [0, 1, 3], "ties go to the lower id");
    assert_eq!(seen_with(SampleSettings { top_k: 9, ..PLAIN }), [0, 1, 2, 3]);
    assert_eq!(seen_with(SampleSettings { top_p: 0.7, ..PLAIN }), [1, 3]);
    assert_eq!(seen_with(SampleSettings { top_p: 0.8, ..PLAIN }), [0, 1, 3], "ties go to the lower id");
    assert_eq!(seen_with(SampleSettings { top_p: 1e-20, ..PLAIN }), [1], "one token always stays");
    assert_eq!(seen_with(SampleSettings { min_p: 0.4, ..PLAIN }), [1, 3]);
    assert_eq!(seen_with(SampleSettings { min_p: 0.4, top_k: 3, ..PLAIN }), [1, 3]);
    // Top-k renormalises: of 0.75 left, the first holds 0.67, enough for top-p 0.6.
    assert_eq!(seen_with(SampleSettings { top_k: 2, top_p: 0.6, ..PLAIN }), [1]);
    assert_eq!(seen_with(SampleSettings { temperature: 1e-30, ..PLAIN }), [1]);
}

/// More equals than a block gathers: cuts fall among them by id alone.
#[test]
fn a_flat_row_is_cut_by_id() {
    let flat = vec![0.25; 5000];
    let tokens = |how| sampled(&draws(&flat, how, 4));
    assert!(tokens(SampleSettings { top_k: 3, ..PLAIN }).iter().all(|t| (0..3).contains(t)));
    assert!(tokens(SampleSettings { top_p: 0.000_976_562_5, ..PLAIN }).iter().all(|t| (0..5).contains(t)));
    let all = tokens(PLAIN);
    assert!(all.iter().any(|t| *t > 100), "{all:?}");
    let filtered = tokens(SampleSettings { top_k: 4999, ..PLAIN });
    let is_near = |(a, b): (&i32, &i32)| (a - b).abs() <= 1;
    assert!(filtered.iter().zip(&all).all(is_near), "equals are drawn by id with and without a filter: {filtered:?}");
}

/// A vocabulary of a usual size, with 512 threads and several passes before the scores left are gathered; rows have the bits that they
/// have alone.
#[test]
fn a_large_vocabulary_and_rows_as_if_alone() {
    let logits: Vec<f32> = noise(9, 64_000).iter().map(|x| 5.0 * x).collect();
    let rows = [
        row(&logits, PLAIN),
        row(&logits, SampleSettings { top_k: 50, top_p: 0.9, position: 5, ..PLAIN }),
        Row {
            history: vec![(3, 1), (63_999, 0)],
            ..row(&logits, SampleSettings { top_p: 0.95, min_p: 0.01, repetition_penalty: 1.1, ..PLAIN })
        },
    ];
    let together = launch(&rows);
    let native = together.run_native();
    expect_native(&native, &together, "sm_100");
    for (i, alone) in rows.iter().enumerate() {
        let outputs = launch(std::slice::from_ref(alone)).run_simulated("sm_80").outputs;
        for field in ["out", "logprobs"] {
            assert_eq!(outputs[field], native[field][4 * i..][..4], "row {i} {field}");
        }
    }
}

#[test]
fn logprobs_are_those_of_the_logits_as_given() {
    let logits = [0.25f32.ln(), 0.5f32.ln(), 0.25f32.ln(), f32::NEG_INFINITY];
    let mut chosen = row(&logits, SampleSettings { temperature: 0.0, ..PLAIN });
    chosen.forbidden = vec![0, 1];
    let outputs = launch(&[chosen, row(&[3e38, -3e38, 0.0, 1.0], PLAIN)]).run_simulated("sm_80").outputs;
    assert_eq!(tokens(&outputs), [2, 0]);
    let logprobs = floats(&outputs["logprobs"]);
    assert!((logprobs[0] - 0.25f32.ln()).abs() < 1e-6 && logprobs[1].abs() < 1e-6, "{logprobs:?}");
}

/// What no token can be chosen of says why, and the other rows have theirs.
#[test]
fn rows_without_a_token_say_why() {
    let penalised = SampleSettings { presence_penalty: 1.0, ..PLAIN };
    let good = row(&[0.0, 1.0, f32::NEG_INFINITY], SampleSettings { temperature: 0.0, ..PLAIN });
    let mut unknown = row(&[0.0, 1.0, 2.0], penalised);
    unknown.history = vec![(3, 1)];
    let mut all_forbidden = good.clone();
    all_forbidden.forbidden = vec![0, 1];
    let mut hidden = row(&[0.0, f32::NAN, 1.0], PLAIN);
    hidden.forbidden = vec![1];
    let rows = [
        good.clone(),
        row(&[0.0, f32::NAN, 1.0], PLAIN),
        row(&[0.0, f32::INFINITY, 1.0], PLAIN),
        row(&[f32::NEG_INFINITY; 3], PLAIN),
        unknown,
        all_forbidden,
        hidden,
        good,
    ];
    let expected = [1, INVALID_LOGIT, INVALID_LOGIT, NOTHING_ALLOWED, UNKNOWN_TOKEN, NOTHING_ALLOWED, INVALID_LOGIT, 1];
    assert_eq!(sampled(&rows), expected);
    let logprobs = floats(&launch(&rows).run_native()["logprobs"]);
    assert!(logprobs[0].is_finite() && logprobs[1..7].iter().all(|l| l.is_nan()));
}

#[test]
fn a_vocabulary_too_large_is_an_error() {
    let case = |vocab: usize| Case::new("sample", "").count("rows", 1).count("vocab", vocab);
    assert!(case(MOST_TOKENS as usize).constraint().is_none());
    assert!(case(MOST_TOKENS as usize + 1).constraint().is_some());
}

#[test]
fn pages_are_copied_whole() {
    for (page_bytes, pages) in [(64, &[0, 3, 4, 1][..]), (40_000, &[2, 0, 2, 1, 2, 4]), (16, &[1, 1])] {
        let kv: Vec<u8> = (0..5 * page_bytes).map(|i| (i * 7 + i / page_bytes) as u8).collect();
        let case = Case::new("page_copy", "")
            .input("pages", pages)
            .update("kv", &kv)
            .count("page_bytes", page_bytes)
            .count("count", pages.len() / 2);
        let mut expected = kv.clone();
        for pair in pages.chunks(2) {
            let [from, to] = [pair[0], pair[1]].map(|page: i32| page as usize * page_bytes);
            expected[to..to + page_bytes].copy_from_slice(&kv[from..from + page_bytes]);
        }
        assert_eq!(case.run_native()["kv"], expected);
        for architecture in ARCHITECTURES {
            assert_eq!(case.run_simulated(architecture).outputs["kv"], expected, "{architecture}");
        }
    }
}
