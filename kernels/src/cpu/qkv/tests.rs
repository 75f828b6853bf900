//! Random launches against a scalar definition in f64, and against themselves on every instruction set, block by block.

use ir::types::DType;
use proptest::prelude::*;

use super::*;
use crate::cpu::kv::{self, PAGE};
use crate::cpu::matmul::testing::{Matrix, Random, launch};

/// Pages of the pool, and of a sequence.
const PAGES: usize = 7;
const COLUMNS: usize = 3;
const EPS: f32 = 1e-5;

#[derive(Clone, Debug)]
struct Shape {
    tokens: usize,
    cols: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    pairs: usize,
    dtype: DType,
    cache: DType,
    /// Which optional operands are there: squares, biases, norms, rope, tables, interleaved, norm of x, keys and values.
    options: u32,
    seed: u64,
}

fn shape() -> impl Strategy<Value = Shape> {
    let dtype = prop::sample::select(vec![DType::F32, DType::F16, DType::Q4_0, DType::Q8_0]);
    let sizes = (1usize..41, 1usize..4, 1usize..6, 1usize..4, 4usize..41, 1usize..41);
    let cache = prop::sample::select(ir::op::KV_TYPES.to_vec());
    (sizes, dtype, cache, any::<u32>(), any::<u64>()).prop_map(
        |((tokens, groups, heads, kv_heads, half, pairs), dtype, cache, options, seed)| {
            let (cols, head_dim, pairs) = (32 * groups, 2 * half, pairs.min(half));
            Shape { tokens, cols, heads, kv_heads, head_dim, pairs, dtype, cache, options, seed }
        },
    )
}

/// A launch's memory.
struct Case {
    shape: Shape,
    x: Vec<f32>,
    w: [Matrix; 3],
    bias: [Vec<f32>; 3],
    squares: Vec<f32>,
    norms: [Vec<f32>; 3],
    inv_freq: Vec<f32>,
    positions: Vec<i32>,
    sequences: Vec<i32>,
    tables: Vec<i32>,
    page_table: Vec<i32>,
}

impl Case {
    fn new(shape: Shape) -> Case {
        let mut random = Random(shape.seed);
        let Shape { tokens, cols, head_dim, .. } = shape;
        let rows = [shape.heads, shape.kv_heads, shape.kv_heads].map(|heads| heads * head_dim);
        let first = tokens / 3;
        let squares = random.values(tokens * cols.div_ceil(LANES)).into_iter().map(|s| 4.0 + s).collect();
        Case {
            x: random.values(tokens * cols),
            w: [0, 1, 2].map(|i| Matrix::random(shape.dtype, rows[i], cols, shape.seed ^ i as u64)),
            bias: rows.map(|rows| random.values(rows)),
            squares,
            norms: [head_dim, head_dim, cols].map(|n| random.values(n).into_iter().map(|w| 1.0 + w).collect()),
            inv_freq: random.values(2 * shape.pairs),
            // Two sequences, the second in the middle of its pages.
            positions: (0..tokens).map(|t| if t < first { t } else { t - first + 5 } as i32).collect(),
            sequences: (0..tokens).map(|t| i32::from(t >= first)).collect(),
            tables: (0..tokens).map(|_| (random.bits() % 2) as i32).collect(),
            page_table: vec![6, 2, 4, 1, 5, 3],
            shape,
        }
    }

    fn has(&self, option: u32) -> bool {
        self.shape.options >> option & 1 == 1
    }

    fn variant(&self) -> String {
        format!("{}.f32.{}", self.shape.dtype.name(), self.shape.cache.name())
    }

    /// The values of a pool as pages of f32 have them.
    fn values(&self, pool: &[u8]) -> Vec<f32> {
        match self.shape.cache {
            DType::F32 => pool.as_chunks::<4>().0.iter().map(|x| f32::from_le_bytes(*x)).collect(),
            DType::F16 => pool.as_chunks::<2>().0.iter().map(|x| f16::from_le_bytes(*x).to_f32()).collect(),
            _ => pool.chunks_exact(pool.len() / PAGES).flat_map(|page| self.values_of_int8(page)).collect(),
        }
    }

    /// Keys and values of a page of integers, each times its row's scale.
    fn values_of_int8(&self, page: &[u8]) -> Vec<f32> {
        let Shape { kv_heads, head_dim, .. } = self.shape;
        let (integers, scales) = page.split_at(2 * kv_heads * head_dim * PAGE);
        let scale = |row: usize| f16::from_le_bytes([scales[2 * row], scales[2 * row + 1]]).to_f32();
        let row = |at: usize| match at / (head_dim * PAGE) {
            key if key < kv_heads => key * PAGE + at % PAGE,
            _ => at / head_dim,
        };
        integers.iter().enumerate().map(|(at, q)| f32::from(*q as i8) * scale(row(at))).collect()
    }

    fn params(&self, out: &mut [f32], kv: *mut c_void) -> QkvParams {
        let s = &self.shape;
        let null = std::ptr::null();
        let optional = |option: u32, values: &[f32]| if self.has(option) { values.as_ptr() } else { null };
        let all = self.has(7);
        let matrix = |i: usize| if i == 0 || all { self.w[i].packed.as_ptr().cast() } else { std::ptr::null() };
        let tables = self.has(3) && self.has(4);
        QkvParams {
            x: self.x.as_ptr().cast(),
            wq: matrix(0),
            wk: matrix(1),
            wv: matrix(2),
            norm_weight: optional(6, &self.norms[2]),
            norm_bias: null,
            squares: optional(0, &self.squares),
            bq: optional(1, &self.bias[0]),
            bk: optional(1, &self.bias[1]),
            bv: optional(1, &self.bias[2]),
            q_norm: optional(2, &self.norms[0]),
            k_norm: optional(2, &self.norms[1]),
            positions: self.positions.as_ptr(),
            sequences: self.sequences.as_ptr(),
            page_table: self.page_table.as_ptr(),
            inv_freq: optional(3, &self.inv_freq),
            table: if tables { self.tables.as_ptr() } else { std::ptr::null() },
            out: out.as_mut_ptr(),
            kv: if all { kv } else { std::ptr::null_mut() },
            tokens: s.tokens as u32,
            cols: s.cols as u32,
            heads: s.heads as u32,
            kv_heads: if all { s.kv_heads as u32 } else { 0 },
            head_dim: s.head_dim as u32,
            pairs: s.pairs as u32,
            tables: if tables { 2 } else { 1 },
            interleaved: u32::from(self.has(5)),
            page_table_stride: COLUMNS as u32,
            norm: u32::from(self.has(6)),
            eps: EPS,
            norm_eps: EPS,
            head_eps: EPS,
            scale: 1.25,
        }
    }

    /// Queries and the cache after a launch executed `step` blocks at a time, the last first.
    fn run(&self, isa: Isa, step: usize) -> (Vec<f32>, Vec<f32>) {
        let mut out = vec![f32::NAN; self.shape.tokens * self.shape.heads * self.shape.head_dim];
        let (kv_heads, head_dim) = (self.shape.kv_heads as u64, self.shape.head_dim as u64);
        let page = ir::op::page_bytes(self.shape.cache, KEYS_AND_VALUES as u64, kv_heads, head_dim).unwrap() as usize;
        let mut pool = vec![0u64; PAGES * page / 8];
        let (params, variant) = (self.params(&mut out, pool.as_mut_ptr().cast()), self.variant());
        let blocks = blocks(&params);
        let ranges: Vec<_> = (0..blocks).step_by(step).rev().map(|b| b..(b + step).min(blocks)).collect();
        // SAFETY: the buffers have the sizes the parameters say.
        unsafe { launch(select(&variant, isa).unwrap(), &params, &ranges, scratch_bytes(&variant, &params)) };
        let pool: Vec<u8> = pool.into_iter().flat_map(u64::to_le_bytes).collect();
        (out, self.values(&pool))
    }

    /// A head by definition.
    fn head(&self, kind: usize, token: usize, head: usize) -> Vec<f64> {
        let Shape { cols, head_dim, .. } = self.shape;
        let mean = |values: &[f64]| values.iter().map(|x| x * x).sum::<f64>() / values.len() as f64;
        let mut x: Vec<f64> = self.x[token * cols..(token + 1) * cols].iter().map(|x| f64::from(*x)).collect();
        if self.has(6) {
            let scale = 1.0 / (mean(&x) + f64::from(EPS)).sqrt();
            x.iter_mut().zip(&self.norms[2]).for_each(|(x, w)| *x *= scale * f64::from(*w));
        }
        let panels = cols.div_ceil(LANES);
        let squares: f64 = self.squares[token * panels..(token + 1) * panels].iter().map(|s| f64::from(*s)).sum();
        let scale = if self.has(0) { 1.0 / (squares / cols as f64 + f64::from(EPS)).sqrt() } else { 1.0 };
        let mut y: Vec<f64> = (head * head_dim..(head + 1) * head_dim)
            .map(|n| {
                let w = &self.w[kind].values[n * cols..(n + 1) * cols];
                let sum: f64 = x.iter().zip(w).map(|(x, w)| x * f64::from(*w)).sum();
                sum * scale + if self.has(1) { f64::from(self.bias[kind][n]) } else { 0.0 }
            })
            .collect();
        if self.has(2) && kind < 2 {
            let scale = 1.0 / (mean(&y) + f64::from(EPS)).sqrt();
            y.iter_mut().zip(&self.norms[kind]).for_each(|(y, w)| *y *= scale * f64::from(*w));
        }
        if self.has(3) && kind < 2 { self.turned(y, token) } else { y }
    }

    fn turned(&self, y: Vec<f64>, token: usize) -> Vec<f64> {
        let pairs = self.shape.pairs;
        let table = if self.has(4) { self.tables[token] as usize } else { 0 };
        let mut out = y.clone();
        for i in 0..pairs {
            let angle = f64::from(self.positions[token] as f32 * self.inv_freq[table * pairs + i]);
            let (a, b) = if self.has(5) { (2 * i, 2 * i + 1) } else { (i, i + pairs) };
            let (sin, cos) = (1.25 * angle.sin(), 1.25 * angle.cos());
            (out[a], out[b]) = (y[a] * cos - y[b] * sin, y[a] * sin + y[b] * cos);
        }
        out
    }

    /// Index in the cache of dimension `i` of a token's key or value.
    fn cached(&self, kind: usize, token: usize, head: usize, i: usize) -> usize {
        let Shape { kv_heads, head_dim, .. } = self.shape;
        let position = self.positions[token] as usize;
        let page = self.page_table[self.sequences[token] as usize * COLUMNS + position / PAGE] as usize;
        let base = page * kv::page_elements::<f32>(KEYS_AND_VALUES, kv_heads, head_dim);
        let slot = position % PAGE;
        base + match kind {
            1 => kv::keys(head, head_dim) + i * PAGE + slot,
            _ => kv::values(head, kv_heads, head_dim) + slot * head_dim + i,
        }
    }

    /// Checks all heads of the launch's results.
    fn check(&self, out: &[f32], cache: &[f32]) -> Result<(), TestCaseError> {
        let Shape { tokens, heads, kv_heads, head_dim, cache: dtype, .. } = self.shape;
        for token in 0..tokens {
            for kind in 0..if self.has(7) { 3 } else { 1 } {
                let precision = match dtype {
                    DType::F16 if kind > 0 => 1.5e-3,
                    // Half a step, which is a 127th of the greatest.
                    DType::INT8 if kind > 0 => 0.51 / 127.0,
                    _ => 2e-5,
                };
                for head in 0..if kind == 0 { heads } else { kv_heads } {
                    let expected = self.head(kind, token, head);
                    let scale = expected.iter().fold(1.0, |most: f64, x| most.max(x.abs()));
                    for (i, expected) in expected.into_iter().enumerate() {
                        let found = match kind {
                            0 => out[(token * heads + head) * head_dim + i],
                            _ => cache[self.cached(kind, token, head, i)],
                        };
                        let error = (f64::from(found) - expected).abs();
                        prop_assert!(error <= precision * scale, "{kind} {token} {head} {i}: {found} {expected}");
                    }
                }
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn heads_are_as_defined(shape in shape()) {
        let case = Case::new(shape);
        let (out, cache) = case.run(Isa::best(), usize::MAX >> 1);
        case.check(&out, &cache)?;
        let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        for &isa in Isa::available() {
            for step in [1, 3] {
                let found = case.run(isa, step);
                prop_assert!(bits(&found.0) == bits(&out), "queries on {isa} by {step}");
                prop_assert!(bits(&found.1) == bits(&cache), "cache on {isa} by {step}");
            }
        }
    }
}

#[test]
fn variants_name_weights_activations_and_cache() {
    for variant in
        ["q4_0.f32.f16", "q4_0.q8x32.f32", "q8c.f32.row.f16", "bf16.f32.f32", "bf16.f32.half.f16", "q4_k.f32.half.int8"]
    {
        assert!(select(variant, Isa::Portable).is_some(), "{variant}");
    }
    for variant in ["q4_0.f32", "q4_0.q8x32", "bf16.q8x32.f16", "bf16.f32.block.f16", "f32.f32.bf16", ""] {
        assert!(select(variant, Isa::Portable).is_none(), "{variant}");
    }
}
