//! Random small models of every family and weight format: the cpu device against the interpreter on the same graph.

#[path = "../../models/tests/support/mod.rs"]
mod support;

use std::collections::HashMap;
use std::path::Path;

use compiler::lower::Registry;
use compiler::pipeline::compile_programs;
use compiler::target::Activations;
use ir::interp::{Interpreter, Tensor};
use ir::quant;
use ir::types::DType;
use models::{Checkpoint, Model};
use moesaic_tests::artifacts::{compile, engine, options};
use moesaic_tests::golden;
use proptest::prelude::*;
use runtime::engine::{Chunk, EngineOptions, Rows};
use support::{GgufWriter, Meta};

/// A model's shape and numbers.
#[derive(Clone, Debug)]
struct Shape {
    architecture: &'static str,
    dtype: DType,
    activations: Activations,
    layers: u64,
    /// In blocks of the format, so that every format can hold it.
    hidden_blocks: u64,
    feed_forward_blocks: u64,
    kv_heads: u64,
    group: u64,
    head_blocks: u64,
    vocabulary: u64,
    window: u64,
    tied: bool,
    biases: bool,
    /// Experts and how many a token selects; no mixture without experts.
    experts: (u64, u64),
    seed: u64,
}

const FORMATS: &[(DType, u32)] = &[
    (DType::F32, 0),
    (DType::F16, 1),
    (DType::BF16, 30),
    (DType::Q4_0, 2),
    (DType::Q4_1, 3),
    (DType::Q5_0, 6),
    (DType::Q5_1, 7),
    (DType::Q8_0, 8),
    (DType::Q4_K, 12),
    (DType::Q5_K, 13),
    (DType::Q6_K, 14),
];

fn shape() -> impl Strategy<Value = Shape> {
    let sizes = (1..3u64, 1..4u64, 1..4u64, 1..3u64, 1..4u64, 1..3u64, 2..70u64, 0..9u64);
    let kind = (
        prop::sample::select(vec!["llama", "qwen2", "qwen3", "mixtral", "qwen3moe"]),
        prop::sample::select(FORMATS.iter().map(|(d, _)| *d).collect::<Vec<_>>()),
        prop::sample::select(Activations::ALL.to_vec()),
    );
    let experts = (2..6u64, 1..4u64);
    (kind, sizes, experts, any::<bool>(), any::<bool>(), any::<u64>()).prop_map(
        |(kind, sizes, experts, tied, biases, seed)| {
            let (architecture, dtype, activations) = kind;
            let is_mixture = matches!(architecture, "mixtral" | "qwen3moe");
            let (layers, hidden_blocks, feed_forward_blocks, kv_heads, group, head_blocks, vocabulary, window) = sizes;
            Shape {
                architecture,
                dtype,
                activations,
                layers,
                hidden_blocks,
                feed_forward_blocks,
                kv_heads,
                group,
                head_blocks,
                vocabulary,
                window,
                tied,
                biases: biases && !is_mixture || architecture == "qwen2",
                // One activation rounded the other way may change which experts are selected, so with rounding all are.
                experts: match (is_mixture, activations) {
                    (false, _) => (0, 0),
                    (true, Activations::F32) => (experts.0, experts.1.min(experts.0)),
                    (true, _) => (experts.0, experts.0),
                },
                seed,
            }
        },
    )
}

/// Numbers that look normal enough, from a seed.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> f32 {
        let unit = |bits: u64| (bits >> 40) as f32 / (1u64 << 24) as f32;
        let mut draw = || {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            unit(self.0)
        };
        (draw() + draw() + draw() + draw() - 2.0) * 1.7
    }

    fn vector(&mut self, len: u64, mean: f32, deviation: f32) -> Vec<f32> {
        (0..len).map(|_| mean + deviation * self.next()).collect()
    }
}

struct Builder {
    file: GgufWriter,
    numbers: Numbers,
    dtype: DType,
}

impl Builder {
    fn matrix(&mut self, name: &str, rows: u64, cols: u64) {
        let (id, bytes) = self.rows(rows, cols);
        self.add(format!("{name}.weight"), &[cols, rows], id, bytes);
    }

    /// The matrices of all experts in one tensor.
    fn experts(&mut self, name: &str, experts: u64, rows: u64, cols: u64) {
        let (id, bytes) = self.rows(experts * rows, cols);
        self.add(format!("{name}.weight"), &[cols, rows, experts], id, bytes);
    }

    /// A router, which converters leave in f32.
    fn router(&mut self, name: &str, experts: u64, hidden: u64) {
        let values = self.numbers.vector(experts * hidden, 0.0, (hidden as f32).sqrt().recip());
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.add(format!("{name}.weight"), &[hidden, experts], 0, bytes);
    }

    /// Random rows in the format, and its GGUF number.
    fn rows(&mut self, rows: u64, cols: u64) -> (u32, Vec<u8>) {
        let values = self.numbers.vector(rows * cols, 0.0, (cols as f32).sqrt().recip());
        let row_bytes = quant::row_bytes(self.dtype, cols).unwrap() as usize;
        let mut bytes = vec![0; row_bytes * rows as usize];
        let format = quant::format(self.dtype).unwrap();
        for (row, out) in values.chunks(cols as usize).zip(bytes.chunks_mut(row_bytes)) {
            format.quantize_row(row, out).unwrap();
        }
        (FORMATS.iter().find(|(d, _)| *d == self.dtype).unwrap().1, bytes)
    }

    fn vector(&mut self, name: &str, len: u64, mean: f32) {
        let values = self.numbers.vector(len, mean, 0.2);
        self.add(name.into(), &[len], 0, values.iter().flat_map(|v| v.to_le_bytes()).collect());
    }

    fn add(&mut self, name: String, dims: &[u64], id: u32, bytes: Vec<u8>) {
        let file = std::mem::replace(&mut self.file, GgufWriter::new());
        self.file = file.tensor(&name, dims, id, bytes);
    }
}

impl Shape {
    fn gguf(&self) -> Vec<u8> {
        let block = quant::format(self.dtype).unwrap().block_len() as u64;
        // Float formats get sizes that are multiples of nothing.
        let odd = u64::from(block == 1);
        let hidden = self.hidden_blocks * block.max(17) + odd;
        let feed_forward = self.feed_forward_blocks * block.max(13) + odd;
        let head_dim = if block == 1 { 2 * (3 * self.head_blocks + 2) } else { block.min(64) * self.head_blocks };
        // The attention output projection reads heads · head_dim columns, whole blocks of them.
        let kv_heads = self.kv_heads * (block / 64).max(1);
        let heads = kv_heads * self.group;
        // GGUF has Mixtral as a Llama with experts.
        let a = if self.architecture == "mixtral" { "llama" } else { self.architecture };
        let (experts, selected) = self.experts;
        let key = |name: &str| format!("{a}.{name}");
        let size = |n: u64| Meta::U32(n as u32);
        let file = GgufWriter::new()
            .str("general.architecture", a)
            .meta(&key("block_count"), size(self.layers))
            .meta(&key("context_length"), size(256))
            .meta(&key("embedding_length"), size(hidden))
            .meta(&key("feed_forward_length"), size(feed_forward))
            .meta(&key("attention.head_count"), size(heads))
            .meta(&key("attention.head_count_kv"), size(kv_heads))
            .meta(&key("attention.key_length"), size(head_dim))
            .meta(&key("attention.value_length"), size(head_dim))
            .meta(&key("attention.layer_norm_rms_epsilon"), Meta::F32(1e-5))
            .meta(&key("attention.sliding_window"), size(self.window));
        let file = match experts {
            0 => file,
            _ => file
                .meta(&key("expert_count"), size(experts))
                .meta(&key("expert_used_count"), size(selected))
                .meta(&key("expert_feed_forward_length"), size(feed_forward)),
        };
        let mut b = Builder { file, numbers: Numbers(self.seed), dtype: self.dtype };
        b.matrix("token_embd", self.vocabulary, hidden);
        b.vector("output_norm.weight", hidden, 1.0);
        if !self.tied {
            b.matrix("output", self.vocabulary, hidden);
        }
        for l in 0..self.layers {
            let name = |part: &str| format!("blk.{l}.{part}");
            b.vector(&name("attn_norm.weight"), hidden, 1.0);
            b.vector(&name("ffn_norm.weight"), hidden, 1.0);
            for (part, rows) in [("attn_q", heads), ("attn_k", kv_heads), ("attn_v", kv_heads)] {
                b.matrix(&name(part), rows * head_dim, hidden);
                if self.biases {
                    b.vector(&name(&format!("{part}.bias")), rows * head_dim, 0.0);
                }
            }
            if a.starts_with("qwen3") {
                b.vector(&name("attn_q_norm.weight"), head_dim, 1.0);
                b.vector(&name("attn_k_norm.weight"), head_dim, 1.0);
            }
            b.matrix(&name("attn_output"), hidden, heads * head_dim);
            if experts > 0 {
                b.router(&name("ffn_gate_inp"), experts, hidden);
                b.experts(&name("ffn_gate_exps"), experts, feed_forward, hidden);
                b.experts(&name("ffn_up_exps"), experts, feed_forward, hidden);
                b.experts(&name("ffn_down_exps"), experts, hidden, feed_forward);
                continue;
            }
            b.matrix(&name("ffn_gate"), feed_forward, hidden);
            b.matrix(&name("ffn_up"), feed_forward, hidden);
            b.matrix(&name("ffn_down"), hidden, feed_forward);
        }
        b.file.bytes()
    }
}

/// Logits of every position of two sequences in one ragged step of the interpreter.
fn interpret(model: &Model, checkpoint: &Checkpoint, sequences: &[Vec<u32>]) -> Vec<f32> {
    let graph = &model.graph;
    let mut interpreter = Interpreter::new(graph, golden::weights(model, checkpoint));
    let tokens: usize = sequences.iter().map(Vec::len).sum();
    let columns = 4;
    let size = |name: &str| match name {
        "T" | "R" => tokens as u64,
        "S" => sequences.len() as u64,
        "P" => columns,
        _ => columns * sequences.len() as u64,
    };
    let symbols: Vec<u64> = graph.symbols.iter().map(|s| size(&s.name)).collect();
    let each = |f: fn(usize, usize, u32) -> i32| {
        let tokens = sequences.iter().enumerate();
        Tensor::Int(tokens.flat_map(|(s, ids)| ids.iter().enumerate().map(move |(p, id)| f(s, p, *id))).collect())
    };
    let inputs = HashMap::from([
        ("ids".to_string(), each(|_, _, id| id as i32)),
        ("positions".to_string(), each(|_, p, _| p as i32)),
        ("sequences".to_string(), each(|s, _, _| s as i32)),
        ("page_table".to_string(), Tensor::Int((0..(columns as usize * sequences.len()) as i32).rev().collect())),
        ("logit_rows".to_string(), Tensor::Int((0..tokens as i32).collect())),
    ]);
    match interpreter.step(&symbols, &inputs).unwrap().remove("logits") {
        Some(Tensor::Real(logits)) => logits,
        other => panic!("no logits: {other:?}"),
    }
}

/// The same on the cpu device, in chunks.
fn execute(checkpoint: &Path, activations: Activations, sequences: &[Vec<u32>], chunk: usize) -> Vec<f32> {
    let (_folder, artifact) = compile(checkpoint, activations);
    let mut engine = engine(&artifact, 256, EngineOptions { threads: Some(2), ..EngineOptions::default() });
    let mut rows: Vec<Vec<f32>> = vec![Vec::new(); sequences.len()];
    let ids: Vec<_> = sequences.iter().map(|_| engine.open_sequence()).collect();
    let longest = sequences.iter().map(Vec::len).max().unwrap_or(0);
    for start in (0..longest).step_by(chunk) {
        let pieces = sequences.iter().enumerate().filter(|(_, s)| start < s.len());
        let (which, chunks): (Vec<usize>, Vec<Chunk>) = pieces
            .map(|(i, s)| {
                (i, Chunk { sequence: ids[i], tokens: &s[start..(start + chunk).min(s.len())], logits: Rows::All })
            })
            .unzip();
        engine.step_each(&chunks, |row| rows[which[row.chunk]].extend_from_slice(row.logits)).unwrap();
    }
    rows.concat()
}

/// What f32 rounding, and with rounded activations a rounding step that falls the other way and an f16 cache, may change.
fn tolerance(shape: &Shape) -> f64 {
    match shape.activations {
        Activations::F32 => 2e-5,
        Activations::F16 => 5e-3,
        Activations::Int8 => 2e-2,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 64, ..ProptestConfig::default() })]

    #[test]
    fn the_cpu_device_equals_the_interpreter(
        shape in shape(),
        lengths in prop::collection::vec(1..40usize, 1..4),
        chunk in 1..41usize,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("model.gguf");
        std::fs::write(&file, shape.gguf()).unwrap();
        let mut numbers = Numbers(shape.seed ^ 1);
        let vocabulary = shape.vocabulary;
        let mut token = || (numbers.next().abs() * 1000.0) as u64 % vocabulary;
        let sequences: Vec<Vec<u32>> = lengths.iter().map(|n| (0..*n).map(|_| token() as u32).collect()).collect();
        let checkpoint = Checkpoint::open(&file).unwrap();
        let options = options(shape.activations);
        let (model, _) = compile_programs(&checkpoint, &options, &Registry::default()).unwrap().unwrap();
        let expected = interpret(&model, &checkpoint, &sequences);
        let found = execute(&file, shape.activations, &sequences, chunk);
        let error = golden::relative_rms(&found, &expected);
        prop_assert!(error < tolerance(&shape), "relative RMS {:.2e} for {:?}", error, shape);
    }
}
