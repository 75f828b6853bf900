//! Attention over caches that `kv_append` filled, in all ways a step may be put together.

use std::collections::HashMap;

use half::f16;
use ir::op::page_bytes;
use ir::quant::int8_rows;
use ir::types::DType;
use proptest::prelude::*;

use super::*;
use crate::abi::KvAppendParams;
use crate::cpu::kv_append;
use crate::cpu::matmul::testing::{Random, launch};

/// What a launch is specialised for, and what attention is set to.
#[derive(Clone, Debug)]
struct Setting {
    variant: &'static str,
    group: usize,
    kv_heads: usize,
    dim: usize,
    /// Latent attention where it is not 0.
    value_dim: usize,
    window: usize,
    softcap: f32,
    scale: f32,
    /// A score for each query head.
    sinks: Option<Vec<f32>>,
}

/// Queries, keys and values of a sequence, token by token.
struct Sequence {
    len: usize,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

impl Setting {
    fn heads(&self) -> usize {
        self.group * self.kv_heads
    }

    fn out_dim(&self) -> usize {
        if self.value_dim > 0 { self.value_dim } else { self.dim }
    }

    fn planes(&self) -> usize {
        if self.value_dim > 0 { 1 } else { 2 }
    }

    fn sequence(&self, len: usize, random: &mut Random) -> Sequence {
        let width = self.kv_heads * self.dim;
        let mut values = |width: usize| random.values(len * width);
        Sequence { len, q: values(self.heads() * self.dim), k: values(width), v: values(width) }
    }

    /// What the cache keeps of a row.
    fn kept(&self, row: &[f32]) -> Vec<f64> {
        match self.variant {
            "f16" => row.iter().map(|x| f16::from_f32(*x).to_f64()).collect(),
            "int8" => int8_rows::round_row(row).into_iter().map(f64::from).collect(),
            _ => row.iter().map(|x| f64::from(*x)).collect(),
        }
    }

    /// The definition, in f64, for one head of one token.
    fn expected(&self, s: &Sequence, position: usize, head: usize) -> Vec<f64> {
        let (dim, kv_head) = (self.dim, head / self.group);
        let first = if self.window == 0 { 0 } else { (position + 1).saturating_sub(self.window) };
        let q = &s.q[(position * self.heads() + head) * dim..][..dim];
        let row =
            |from: &[f32], p: usize| -> Vec<f64> { self.kept(&from[(p * self.kv_heads + kv_head) * dim..][..dim]) };
        let mut scores: Vec<f64> = (first..=position)
            .map(|p| q.iter().zip(row(&s.k, p)).map(|(q, k)| f64::from(*q) * k).sum::<f64>() * f64::from(self.scale))
            .collect();
        if self.softcap > 0.0 {
            let cap = f64::from(self.softcap);
            scores.iter_mut().for_each(|s| *s = cap * (*s / cap).tanh());
        }
        let sink = self.sinks.as_ref().map(|s| f64::from(s[head]));
        let max = scores.iter().copied().chain(sink).fold(f64::MIN, f64::max);
        let sum: f64 = scores.iter().copied().chain(sink).map(|s| (s - max).exp()).sum();
        let mut out = vec![0f64; self.out_dim()];
        let values = if self.value_dim > 0 { &s.k } else { &s.v };
        for (p, score) in (first..=position).zip(scores) {
            let weight = (score - max).exp() / sum;
            out.iter_mut().zip(row(values, p)).for_each(|(o, v)| *o += weight * v);
        }
        out
    }
}

/// A cache whose every slot not yet written holds NaN, and where each sequence's pages are.
struct Cache<'a> {
    setting: &'a Setting,
    kv: Vec<u8>,
    table: Vec<i32>,
    columns: usize,
}

impl<'a> Cache<'a> {
    /// Page 0 belongs to nobody; the others are dealt in random order.
    fn new(setting: &'a Setting, sequences: &[Sequence], random: &mut Random) -> Cache<'a> {
        let columns = sequences.iter().map(|s| s.len.div_ceil(PAGE)).max().unwrap();
        let mut table: Vec<i32> = (1..=(columns * sequences.len()) as i32).collect();
        for i in (1..table.len()).rev() {
            table.swap(i, (random.bits() % (i as u64 + 1)) as usize);
        }
        let dtype = DType::from_name(setting.variant).unwrap();
        let [planes, kv_heads, dim] = [setting.planes(), setting.kv_heads, setting.dim].map(|n| n as u64);
        // All ones is a NaN in either type of floats, and as a scale.
        let kv = vec![0xff; (table.len() + 1) * page_bytes(dtype, planes, kv_heads, dim).unwrap() as usize];
        Cache { setting, kv, table, columns }
    }

    /// Takes the page of a column from a sequence: nothing may look there any more.
    fn drop_page(&mut self, sequence: usize, column: usize) {
        self.table[sequence * self.columns + column] = 0;
    }

    /// Appends the tokens, a sequence and a position each, and attends for them; grids are cut into random pieces.
    fn step(&mut self, sequences: &[Sequence], tokens: &[(usize, usize)], isa: Isa, random: &mut Random) -> Vec<f32> {
        let s = self.setting;
        let gather = |of: &dyn Fn(&Sequence) -> &Vec<f32>, width: usize| -> Vec<f32> {
            tokens.iter().flat_map(|(s, p)| of(&sequences[*s])[p * width..][..width].to_vec()).collect()
        };
        let (kv_width, width) = (s.kv_heads * s.dim, s.heads() * s.dim);
        let (q, k, v) = (gather(&|s| &s.q, width), gather(&|s| &s.k, kv_width), gather(&|s| &s.v, kv_width));
        let positions: Vec<i32> = tokens.iter().map(|t| t.1 as i32).collect();
        let rows: Vec<i32> = tokens.iter().map(|t| t.0 as i32).collect();
        let mut out = vec![f32::NAN; tokens.len() * s.heads() * s.out_dim()];
        let append = KvAppendParams {
            k: k.as_ptr(),
            v: if s.value_dim > 0 { std::ptr::null() } else { v.as_ptr() },
            positions: positions.as_ptr(),
            sequences: rows.as_ptr(),
            page_table: self.table.as_ptr(),
            kv: self.kv.as_mut_ptr().cast(),
            tokens: tokens.len() as u32,
            kv_heads: s.kv_heads as u32,
            head_dim: s.dim as u32,
            page_table_stride: self.columns as u32,
        };
        let attend = AttentionParams {
            q: q.as_ptr(),
            kv: self.kv.as_ptr().cast(),
            positions: positions.as_ptr(),
            sequences: rows.as_ptr(),
            page_table: self.table.as_ptr(),
            sinks: s.sinks.as_ref().map_or(std::ptr::null(), |s| s.as_ptr()),
            out: out.as_mut_ptr(),
            tokens: tokens.len() as u32,
            heads: s.heads() as u32,
            kv_heads: s.kv_heads as u32,
            head_dim: s.dim as u32,
            page_table_stride: self.columns as u32,
            window: s.window as u32,
            value_dim: s.value_dim as u32,
            reserved: 0,
            scale: s.scale,
            softcap: s.softcap,
        };
        // SAFETY: the buffers have the sizes the parameters say; both kernels are this machine's.
        unsafe {
            let kernel = kv_append::select(s.variant, isa).unwrap();
            launch(kernel, &append, &pieces(kv_append::blocks(&append), random), 0);
            let kernel = select(s.variant, isa).unwrap();
            launch(kernel, &attend, &pieces(blocks(&attend), random), scratch_bytes(&attend));
        }
        out
    }
}

/// A grid cut into pieces, in random order.
fn pieces(blocks: usize, random: &mut Random) -> Vec<Range<usize>> {
    let mut pieces = Vec::new();
    let mut start = 0;
    while start < blocks {
        let end = (start + 1 + (random.bits() % 7) as usize).min(blocks);
        let at = (random.bits() % (pieces.len() as u64 + 1)) as usize;
        pieces.insert(at, start..end);
        start = end;
    }
    pieces
}

/// Outputs by sequence and position.
type Outputs = HashMap<(usize, usize), Vec<u32>>;

/// All tokens of all sequences, in steps of `most(random)` tokens a sequence, together or one sequence after the other.
fn generate(
    setting: &Setting,
    sequences: &[Sequence],
    isa: Isa,
    random: &mut Random,
    batched: bool,
    most: impl Fn(&mut Random) -> usize,
) -> Outputs {
    let mut cache = Cache::new(setting, sequences, random);
    let mut outputs = Outputs::new();
    let mut done = vec![0; sequences.len()];
    while let Some(first) = (0..sequences.len()).find(|s| done[*s] < sequences[*s].len) {
        let mut tokens = Vec::new();
        for s in if batched { first..sequences.len() } else { first..first + 1 } {
            let end = sequences[s].len.min(done[s] + most(random));
            tokens.extend((done[s]..end).map(|p| (s, p)));
            done[s] = end;
            if setting.window > 0 {
                let first = tokens.iter().find(|t| t.0 == s).map_or(0, |t| (t.1 + 1).saturating_sub(setting.window));
                (0..first / PAGE).for_each(|column| cache.drop_page(s, column));
            }
        }
        if !tokens.is_empty() {
            let out = cache.step(sequences, &tokens, isa, random);
            let width = setting.heads() * setting.out_dim();
            for (token, row) in tokens.into_iter().zip(out.chunks_exact(width)) {
                outputs.insert(token, row.iter().map(|x| x.to_bits()).collect());
            }
        }
    }
    outputs
}

fn setting() -> impl Strategy<Value = Setting> {
    let shape = (
        prop_oneof![4 => 1usize..=9, 1 => Just(16), 1 => 17usize..40],
        1usize..=3,
        prop_oneof![Just(64usize), Just(32), Just(18), Just(29), Just(1), 1usize..100],
        prop_oneof![3 => Just(0usize), 2 => 1usize..1000],
    );
    (
        prop_oneof![Just("f16"), Just("f32"), Just("int8")],
        shape,
        prop_oneof![3 => Just(0usize), 1 => Just(1), 1 => Just(16), 1 => Just(64), 2 => 1usize..100],
        prop_oneof![2 => Just(0f32), 1 => 0.5f32..30.0],
        prop_oneof![Just(0.125f32), 0.01f32..3.0],
        prop::option::weighted(0.4, prop::collection::vec(-9f32..9.0, 40 * 3)),
    )
        .prop_map(|(variant, (group, kv_heads, dim, value), window, softcap, scale, sinks)| {
            let kv_heads = if group > 8 { 1 } else { kv_heads };
            let value_dim = if value == 0 { 0 } else { 1 + value % dim };
            Setting { variant, group, kv_heads, dim, value_dim, window, softcap, scale, sinks }
        })
}

/// Keys and values of `dim` for one KV head, everything seen.
fn plain(variant: &'static str, group: usize, dim: usize, scale: f32) -> Setting {
    Setting { variant, group, kv_heads: 1, dim, value_dim: 0, window: 0, softcap: 0.0, scale, sinks: None }
}

/// Of each output of a run, its distance from the definition.
fn errors<'a>(setting: &'a Setting, sequences: &'a [Sequence], outputs: Outputs) -> impl Iterator<Item = f64> + 'a {
    outputs.into_iter().flat_map(move |((s, position), row)| {
        let heads = row.chunks_exact(setting.out_dim()).enumerate();
        let errors = heads.flat_map(|(head, out)| {
            let expected = setting.expected(&sequences[s], position, head);
            out.iter().zip(expected).map(|(bits, e)| (f64::from(f32::from_bits(*bits)) - e).abs()).collect::<Vec<_>>()
        });
        // A NaN is as wrong as can be.
        errors.map(|e| if e.is_nan() { f64::INFINITY } else { e }).collect::<Vec<_>>()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn attention_is_as_defined(setting in setting(), lens in prop::collection::vec(1usize..150, 1..4), seed: u64) {
        let mut random = Random(seed);
        let sequences: Vec<_> = lens.iter().map(|len| setting.sequence(*len, &mut random)).collect();
        let outputs = generate(&setting, &sequences, Isa::best(), &mut random, true, |r| 1 + (r.bits() % 90) as usize);
        let worst = errors(&setting, &sequences, outputs).fold(0.0, f64::max);
        prop_assert!(worst < 2e-5, "{}", worst);
    }

    #[test]
    fn bits_depend_on_nothing_but_the_sequence(
        setting in setting(), lens in prop::collection::vec(1usize..130, 1..4), seed: u64,
    ) {
        let mut random = Random(seed);
        let sequences: Vec<_> = lens.iter().map(|len| setting.sequence(*len, &mut random)).collect();
        let alone = generate(&setting, &sequences, Isa::best(), &mut random, false, |_| 1);
        for &isa in Isa::available() {
            let whole = generate(&setting, &sequences, isa, &mut random, true, |_| usize::MAX / 2);
            prop_assert!(whole == alone, "{isa}, whole prompts together");
            let ragged = generate(&setting, &sequences, isa, &mut random, true, |r| (r.bits() % 3 * (r.bits() % 50)) as usize);
            prop_assert!(ragged == alone, "{isa}, chunks together");
        }
    }
}

/// A head of 512 tokens fills the largest tiles, over several chunks.
#[test]
fn long_prompts_have_the_bits_of_single_tokens() {
    for (variant, group, window) in [("f16", 3, 0), ("int8", 3, 0), ("f16", 1, 70), ("int8", 4, 200)] {
        let setting = Setting { window, ..plain(variant, group, 64, 0.125) };
        let mut random = Random(group as u64);
        let sequences = [setting.sequence(512, &mut random)];
        let alone = generate(&setting, &sequences, Isa::best(), &mut random, false, |_| 1);
        for &isa in Isa::available().iter().filter(|isa| **isa != Isa::Portable) {
            assert!(generate(&setting, &sequences, isa, &mut random, false, |_| 512) == alone, "{isa}");
        }
    }
}

/// An infinite value is seen by its own and later tokens alone, though earlier ones share their tile.
#[test]
fn what_is_not_seen_does_not_leak() {
    let setting = Setting { window: 30, ..plain("f32", 2, 20, 0.2) };
    let mut random = Random(5);
    let mut sequence = setting.sequence(128, &mut random);
    sequence.v[70 * 20 + 3] = f32::INFINITY;
    let outputs = generate(&setting, &[sequence], Isa::best(), &mut random, true, |_| 128);
    for ((_, position), row) in outputs {
        let finite = row.iter().all(|bits| f32::from_bits(*bits).is_finite());
        assert_eq!(finite, !(70..100).contains(&position), "{position}");
    }
}

/// Scores far beyond what `exp` can hold are told apart by their differences.
#[test]
fn great_scores_do_not_overflow() {
    let setting = plain("f32", 1, 16, 1e4);
    let mut random = Random(6);
    let sequences = [setting.sequence(200, &mut random)];
    let outputs = generate(&setting, &sequences, Isa::best(), &mut random, true, |_| 200);
    assert!(errors(&setting, &sequences, outputs).all(|e| e < 2e-2));
}

/// The shape of latent attention in DeepSeek's models; more query heads than a block takes.
#[test]
fn latent_attention_of_many_heads_is_as_defined() {
    for (variant, group) in [("f16", 16), ("int8", 20), ("f16", 128)] {
        let setting = Setting { value_dim: 512, ..plain(variant, group, 576, 0.07) };
        let mut random = Random(group as u64);
        let sequences = [setting.sequence(if group == 128 { 3 } else { 70 }, &mut random)];
        let outputs = generate(&setting, &sequences, Isa::best(), &mut random, true, |_| 41);
        assert!(outputs == generate(&setting, &sequences, Isa::best(), &mut random, false, |_| 1), "{group} heads");
        assert!(errors(&setting, &sequences, outputs).all(|e| e < 2e-5), "{group} heads");
    }
}

/// Infinite sinks take nothing or everything; the result is a number.
#[test]
fn sinks_may_be_infinite() {
    let mut random = Random(7);
    let without = plain("f32", 2, 16, 0.3);
    let sequences = [without.sequence(20, &mut random)];
    let run = |setting: &Setting| generate(setting, &sequences, Isa::best(), &mut Random(8), true, |_| 20);
    let sinks = Some(vec![f32::NEG_INFINITY, f32::INFINITY]);
    let (expected, got) = (run(&without), run(&Setting { sinks, ..plain("f32", 2, 16, 0.3) }));
    for (token, row) in got {
        assert_eq!(row[..16], expected[&token][..16]);
        assert!(row[16..].iter().all(|bits| f32::from_bits(*bits) == 0.0));
    }
}

#[test]
fn scratch_memory_grows_with_the_step() {
    for (heads, value_dim) in [(1, 0), (3, 0), (7, 33), (96, 0), (128, 8)] {
        let mut last = 0;
        for tokens in 0..600 {
            let kv_heads = 1;
            let p = AttentionParams { tokens, heads, kv_heads, head_dim: 40, value_dim, ..AttentionParams::default() };
            assert!(scratch_bytes(&p) >= last);
            last = scratch_bytes(&p);
        }
    }
    assert_eq!(blocks(&AttentionParams::default()), 0);
}
