//! Launches of `qkv`.

use half::f16;
use ir::quant::activations;
use ir::types::DType;

use super::kv::f32_page;
use super::{ARCHITECTURES, Case, Outputs, Simulated, floats, noise, random_weights, relative_rms};

/// Pages of the pool; a sequence has three of them.
pub const PAGES: usize = 7;

/// Positions of a sequence's pages.
pub const POSITIONS: usize = 48;

/// What integers and scales of a cache are before the launch.
const UNTOUCHED_BYTE: u8 = 9;

/// A launch and what it has beside the projections.
#[derive(Clone, Copy)]
pub struct Shape {
    pub weights: DType,
    pub x: &'static str,
    pub cache: &'static str,
    pub tokens: usize,
    pub cols: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// 0: no rotary embedding.
    pub pairs: usize,
    pub interleaved: bool,
    pub norm: usize,
    pub squares: bool,
    pub biased: bool,
    pub head_norms: bool,
}

/// A model of plain attention: everything else is off.
pub const PLAIN: Shape = Shape {
    weights: DType::Q4G128,
    x: "f32",
    cache: "f16",
    tokens: 1,
    cols: 256,
    heads: 2,
    kv_heads: 1,
    head_dim: 32,
    pairs: 16,
    interleaved: false,
    norm: 1,
    squares: false,
    biased: false,
    head_norms: false,
};

impl Shape {
    fn matrix(&self, seed: u64, rows: usize) -> ([usize; 3], Vec<u8>) {
        let shape = [1, rows, self.cols];
        (shape, random_weights(seed, self.weights, shape))
    }

    /// Rows of x, as the variant takes them.
    fn input(&self, case: Case) -> Case {
        let x = noise(7, self.tokens * self.cols);
        if self.x != "q8x32" {
            return case.input("x", &x);
        }
        let row_bytes = activations::row_bytes(self.cols as u64).unwrap() as usize;
        let mut rounded = vec![0; self.tokens * row_bytes];
        for (x, out) in x.chunks_exact(self.cols).zip(rounded.chunks_exact_mut(row_bytes)) {
            activations::quantize_row(x, activations::Granularity::Block, out).unwrap();
        }
        case.input("x", &rounded)
    }

    /// Token t stands at position t of the first sequence or, from the third on, t + 2 of the second.
    fn places(&self, case: Case) -> Case {
        let tokens = 0..self.tokens as i32;
        let positions: Vec<i32> = tokens.clone().map(|t| if t < 3 { t } else { t + 2 }).collect();
        let sequences: Vec<i32> = tokens.map(|t| i32::from(t >= 3)).collect();
        case.input("positions", &positions)
            .input("sequences", &sequences)
            .input("page_table", &[6, 2, 0, 4, 1, 5])
            .count("page_table_stride", 3)
    }

    pub fn case(&self) -> Case {
        let Shape { tokens, cols, heads, kv_heads, head_dim, .. } = *self;
        let mut case = Case::new("qkv", &format!("{}.{}.{}", self.weights.name(), self.x, self.cache));
        case = self.places(self.input(case)).output::<f32>("out", tokens * heads * head_dim);
        let (shape, w) = self.matrix(1, heads * head_dim);
        case = case.weights("wq", self.weights, shape, &w);
        if kv_heads > 0 {
            let (shape, w) = self.matrix(2, kv_heads * head_dim);
            case = case.weights("wk", self.weights, shape, &w);
            let (shape, w) = self.matrix(3, kv_heads * head_dim);
            case = case.weights("wv", self.weights, shape, &w);
            let elements = PAGES * 2 * kv_heads * head_dim * 16;
            case = match self.cache {
                "f16" => case.update("kv", &vec![f16::MAX; elements]),
                "int8" => case.update("kv", &vec![UNTOUCHED_BYTE; elements + PAGES * 2 * kv_heads * 32]),
                _ => case.update("kv", &vec![9f32; elements]),
            };
        }
        case = self.options(case);
        let counts = [("tokens", tokens), ("cols", cols), ("heads", heads), ("kv_heads", kv_heads)];
        let more = [("head_dim", head_dim), ("interleaved", self.interleaved.into()), ("norm", self.norm)];
        case = counts.into_iter().chain(more).fold(case, |case, (field, value)| case.count(field, value));
        case.number("eps", 1e-5).number("norm_eps", 1e-6).number("head_eps", 1e-6).number("scale", 1.25)
    }

    /// Operands that may be missing.
    fn options(&self, mut case: Case) -> Case {
        let Shape { tokens, cols, heads, kv_heads, head_dim, pairs, .. } = *self;
        let near_one = |seed, count| noise(seed, count).iter().map(|w| 1.0 + w).collect::<Vec<f32>>();
        if self.norm > 0 {
            case = case.input("norm_weight", &near_one(11, cols));
        }
        if self.norm == 2 {
            case = case.input("norm_bias", &noise(12, cols));
        }
        if self.squares {
            case = case.input("squares", &near_one(13, tokens * cols.div_ceil(16)));
        }
        if self.biased {
            case = case.input("bq", &noise(14, heads * head_dim));
            if kv_heads > 0 {
                case = case.input("bk", &noise(15, kv_heads * head_dim)).input("bv", &noise(16, kv_heads * head_dim));
            }
        }
        if self.head_norms {
            case = case.input("q_norm", &near_one(17, head_dim)).input("k_norm", &near_one(18, head_dim));
        }
        if pairs > 0 {
            let frequencies: Vec<f32> = (0..2 * pairs).map(|i| 0.9f32.powi(i as i32)).collect();
            let table: Vec<i32> = (0..tokens as i32).map(|t| t % 4 - 1).collect();
            case = case.input("inv_freq", &frequencies).input("table", &table);
            case = case.count("pairs", pairs).count("tables", 2);
        }
        case
    }

    /// Panics unless queries and cache agree with the native kernel's within `limit`, relative RMS.
    pub fn expect_close(&self, limit: f64) {
        let case = self.case();
        let native = case.run_native();
        for architecture in ARCHITECTURES {
            let simulated = case.run_simulated(architecture);
            assert!(simulated.workspace.iter().take(4096).all(|byte| *byte == 0), "counters are left zero");
            self.compare(&native, &simulated, limit);
        }
    }

    pub fn compare(&self, native: &Outputs, simulated: &Simulated, limit: f64) {
        let name = format!("{}.{}.{}, {} tokens", self.weights, self.x, self.cache, self.tokens);
        let error = relative_rms(&floats(&simulated.outputs["out"]), &floats(&native["out"]));
        assert!(error <= limit, "{name}: queries differ by {error:e}");
        let Some(cache) = native.get("kv") else { return };
        let (a, b) = (self.elements(&simulated.outputs["kv"]), self.elements(cache));
        // Slots of no token have their old contents, bit for bit.
        let written = a.iter().zip(&b).filter(|(a, b)| **a != self.untouched() || **b != self.untouched());
        let (a, b): (Vec<f32>, Vec<f32>) = written.unzip();
        assert_eq!(a.len(), 2 * self.tokens * self.kv_heads * self.head_dim, "{name}: slots of tokens alone");
        // An f16 that is rounded the other way is one part in 2048 off, an integer one in 127 of its row's greatest.
        let limit = match self.cache {
            "f16" => limit.max(1e-4),
            "int8" => limit.max(2e-3),
            _ => limit,
        };
        let error = relative_rms(&a, &b);
        assert!(error <= limit, "{name}: keys and values differ by {error:e}");
    }

    pub fn untouched(&self) -> f32 {
        match self.cache {
            "f16" => f16::MAX.to_f32(),
            "int8" => f32::from(UNTOUCHED_BYTE) * f16::from_le_bytes([UNTOUCHED_BYTE; 2]).to_f32(),
            _ => 9.0,
        }
    }

    pub fn elements(&self, cache: &[u8]) -> Vec<f32> {
        match self.cache {
            "f16" => cache.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
            "int8" => {
                let page = |page: &[u8]| f32_page(page, 2, self.kv_heads, self.head_dim);
                cache.chunks_exact(cache.len() / PAGES).flat_map(page).collect()
            }
            _ => floats(cache),
        }
    }
}
