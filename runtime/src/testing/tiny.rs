//! A one-layer model, written as an artifact the way the compiler writes one.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use ir::quant;
use ir::types::DType;
use serde_json::json;

use crate::artifact::*;

/// Sizes of the tiny model.
pub mod shapes {
    pub const VOCABULARY: usize = 40;
    pub const HIDDEN: usize = 32;
    pub const HEADS: usize = 2;
    pub const KV_HEADS: usize = 1;
    pub const HEAD_DIM: usize = 16;
    pub const PAIRS: usize = HEAD_DIM / 2;
    pub const MAX_CONTEXT: u64 = 128;
    pub const MAX_SEQUENCES: u64 = 4;
    pub const EPS: f32 = 1e-5;
    pub const SCALE: f32 = 0.25;
}
use shapes::*;

/// Most tokens and logit rows of each bucket.
const BUCKETS: &[(u64, u64)] = &[(1, 1), (4, 4), (16, 8)];

/// Weights by name: rows (0 for a vector), cols, values.
pub struct TinyModel {
    pub weights: BTreeMap<&'static str, (usize, usize, Vec<f32>)>,
}

impl TinyModel {
    /// A model with pseudo-random weights.
    pub fn new() -> TinyModel {
        let (q, kv) = (HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM);
        let shapes = [
            ("embed", VOCABULARY, HIDDEN),
            ("norm", 0, HIDDEN),
            ("q", q, HIDDEN),
            ("k", kv, HIDDEN),
            ("v", kv, HIDDEN),
            ("o", HIDDEN, q),
            ("o.bias", 0, HIDDEN),
            ("head.norm", 0, HIDDEN),
            ("head", VOCABULARY, HIDDEN),
        ];
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut random = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1 << 24) as f32 - 0.5
        };
        let mut weights: BTreeMap<_, _> = shapes
            .map(|(name, rows, cols)| (name, (rows, cols, (0..rows.max(1) * cols).map(|_| random()).collect())))
            .into();
        let frequencies = (0..PAIRS).map(|i| 10000f32.powf(-(i as f32) / PAIRS as f32)).collect();
        weights.insert("rope.inv_freq", (0, PAIRS, frequencies));
        TinyModel { weights }
    }

    /// The text of a bucket's program.
    pub fn program(tokens: u64, rows: u64) -> String {
        let (h, q, kv, v) = (HIDDEN, HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM, VOCABULARY);
        let buffers = [
            ("T", h),
            ("T", h),
            ("T", q),
            ("T", kv),
            ("T", kv),
            ("T", q),
            ("T", h),
            ("T", h),
            ("R", h),
            ("R", h),
            ("R", v),
        ];
        let (mut offset, mut lines) = (0, String::new());
        for (i, (dim, cols)) in buffers.iter().enumerate() {
            lines += &format!("  buffer %{i} : f32[{dim}, {cols}] at {offset}\n");
            let count = if *dim == "T" { tokens } else { rows };
            offset += (count * *cols as u64 * 4).next_multiple_of(256);
        }
        let norm = |x, w, out, rows| {
            format!(
                "  launch rms_norm \"\" {{x = read %{x}, weight = weight \"{w}\", out = write %{out}, rows = {rows}, cols = {h}, eps = float {EPS:?}, reserved = 0}} \"{w}\"\n"
            )
        };
        let matmul = |x, w, bias: &str, out, tokens, rows: usize, cols: usize| {
            format!(
                "  launch matmul \"f32.f32\" {{x = read %{x}, w = weight \"{w}\", bias = {bias}, out = write %{out}, tokens = {tokens}, rows = {rows}, cols = {cols}, reserved = 0}} \"{w}\"\n"
            )
        };
        let rope = |x, heads, label| {
            format!(
                "  launch rope \"\" {{x = read %{x}, positions = input \"positions\", inv_freq = weight \"rope.inv_freq\", table = null, out = update %{x}, tokens = T, heads = {heads}, head_dim = {HEAD_DIM}, pairs = {PAIRS}, tables = 1, interleaved = 0, scale = float 1.0, reserved = 0}} \"{label}\"\n"
            )
        };
        let paged =
            "positions = input \"positions\", sequences = input \"sequences\", page_table = input \"page_table\"";
        [
            format!("program \"tokens-{tokens}\" {{\n  sym T in 1..={tokens}\n  sym S in 1..={MAX_SEQUENCES}\n"),
            format!("  sym P in 1..={}\n  sym R in 1..={rows}\n  sym N in 1..=65536\n  arena {offset}\n", MAX_CONTEXT / 16),
            "  input \"ids\" : i32[T]\n  input \"positions\" : i32[T]\n  input \"sequences\" : i32[T]\n".into(),
            "  input \"page_table\" : i32[S, P]\n  input \"logit_rows\" : i32[R]\n".into(),
            Self::new().weights.iter().map(|(name, (rows, cols, _))| match rows {
                0 => format!("  weight \"{name}\" : f32[{cols}]\n"),
                _ => format!("  weight \"{name}\" : f32[{rows}, {cols}]\n"),
            }).collect(),
            format!("  state \"kv.0\" : f32[N, 2, {KV_HEADS}, 16, {HEAD_DIM}]\n"),
            lines,
            "  output \"logits\" %10\n".into(),
            format!("  launch embedding \"f32\" {{ids = input \"ids\", table = weight \"embed\", out = write %0, tokens = T, rows = {v}, cols = {h}, reserved = 0}} \"embed\"\n"),
            norm(0, "norm", 1, "T"),
            matmul(1, "q", "null", 2, "T", q, h),
            matmul(1, "k", "null", 3, "T", kv, h),
            matmul(1, "v", "null", 4, "T", kv, h),
            rope(2, HEADS, "q.rope"),
            rope(3, KV_HEADS, "k.rope"),
            format!("  launch kv_append \"f32\" {{k = read %3, v = read %4, {paged}, kv = update state \"kv.0\", tokens = T, kv_heads = {KV_HEADS}, head_dim = {HEAD_DIM}, page_table_stride = P}} \"append\"\n"),
            format!("  launch attention \"f32\" {{q = read %2, kv = read state \"kv.0\", {paged}, sinks = null, out = write %5, tokens = T, heads = {HEADS}, kv_heads = {KV_HEADS}, head_dim = {HEAD_DIM}, page_table_stride = P, window = 0, value_dim = 0, reserved = 0, scale = float {SCALE:?}, softcap = float 0.0}} \"attention\"\n"),
            matmul(5, "o", "weight \"o.bias\"", 6, "T", h, q),
            format!("  launch binary \"add\" {{a = read %0, b = read %6, out = write %7, count = T * {h}, limit = float 0.0, reserved = 0}} \"residual\"\n"),
            format!("  launch gather_rows \"\" {{x = read %7, rows = input \"logit_rows\", out = write %8, count = R, cols = {h}}} \"rows\"\n"),
            norm(8, "head.norm", 9, "R"),
            matmul(9, "head", "null", 10, "R", v, h),
            "}\n".into(),
        ]
        .concat()
    }

    /// The weights file and the table of weights, matrices in a packed layout.
    fn weights_file(&self, packed: Layout) -> (Vec<u8>, Vec<WeightInfo>) {
        let (mut header, mut data, mut table) = (serde_json::Map::new(), Vec::new(), Vec::new());
        let mut ordered: Vec<_> = self.weights.iter().collect();
        ordered.sort_by_key(|(_, (rows, ..))| *rows == 0);
        for (name, (rows, cols, values)) in ordered {
            let raw: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            let (bytes, dtype, layout, shape) = match rows {
                0 => (raw, "F32", Layout::Plain, vec![*cols as u64]),
                _ => {
                    let shape = vec![*rows as u64, *cols as u64];
                    let mut bytes = vec![0; packed.bytes(DType::F32, &shape).unwrap() as usize];
                    match packed {
                        Layout::Fragments => quant::fragments::pack(DType::F32, &raw, *rows, *cols, &mut bytes),
                        _ => quant::pack(DType::F32, &raw, *rows, *cols, &mut bytes),
                    }
                    .unwrap();
                    (bytes, "U8", packed, shape)
                }
            };
            let stored = if dtype == "U8" { vec![bytes.len() as u64] } else { shape.clone() };
            let offsets = [data.len(), data.len() + bytes.len()];
            header.insert(name.to_string(), json!({"dtype": dtype, "shape": stored, "data_offsets": offsets}));
            let (name, file) = (name.to_string(), "weights-00001.safetensors".to_string());
            table.push(WeightInfo { name, dtype: "f32".into(), layout, shape, file, bytes: bytes.len() as u64 });
            data.extend(bytes);
        }
        let mut text = serde_json::Value::Object(header).to_string().into_bytes();
        text.resize((text.len() + 8).next_multiple_of(256) - 8, b' ');
        ([&(text.len() as u64).to_le_bytes()[..], &text, &data].concat(), table)
    }

    /// Writes the artifact; gives its manifest.
    pub fn write(&self, folder: &Path) -> Manifest {
        self.write_in(Layout::Rows16, folder)
    }

    /// Writes the artifact with matrices in a packed layout; gives its manifest.
    pub fn write_in(&self, packed: Layout, folder: &Path) -> Manifest {
        let (weights_bytes, weights) = self.weights_file(packed);
        let mut contents = vec![("weights-00001.safetensors".to_string(), weights_bytes)];
        let mut buckets = Vec::new();
        for (tokens, rows) in BUCKETS {
            let text = TinyModel::program(*tokens, *rows);
            let program = ir::text::parse_program(&text).unwrap();
            buckets.push(Bucket {
                name: program.name.clone(),
                max_tokens: *tokens,
                max_logit_rows: *rows,
                program: format!("programs/{}.ir", program.name),
                arena_bytes: program.arena_bytes,
                arena_lower_bound_bytes: program.arena_lower_bound(),
                launches: program.launches.len() as u64,
            });
            contents.push((format!("programs/{}.ir", program.name), text.into_bytes()));
        }
        contents.push(("generation.json".into(), br#"{"eos_ids": [3], "temperature": 0.5, "top_k": 7}"#.to_vec()));
        let mut files = BTreeMap::new();
        fs::create_dir_all(folder.join("programs")).unwrap();
        for (name, content) in contents {
            fs::write(folder.join(&name), &content).unwrap();
            let blake3 = blake3::hash(&content).to_hex().to_string();
            files.insert(name, FileInfo { bytes: content.len() as u64, blake3 });
        }
        let manifest = manifest(buckets, weights, files);
        write_manifest(folder, &manifest);
        manifest
    }
}

/// Writes a manifest over the one in a folder.
pub fn write_manifest(folder: &Path, manifest: &Manifest) {
    fs::write(folder.join(MANIFEST_FILE), serde_json::to_vec_pretty(manifest).unwrap()).unwrap();
}

fn manifest(buckets: Vec<Bucket>, weights: Vec<WeightInfo>, files: BTreeMap<String, FileInfo>) -> Manifest {
    let page = (2 * KV_HEADS * 16 * HEAD_DIM * 4) as u64;
    Manifest {
        schema: SCHEMA,
        producer: "test".into(),
        model: ModelCard {
            name: "tiny".into(),
            family: "llama".into(),
            vocab_size: VOCABULARY as u64,
            layers: 1,
            hidden_size: HIDDEN as u64,
            heads: HEADS as u64,
            kv_heads: KV_HEADS as u64,
            head_dim: HEAD_DIM as u64,
            max_context: MAX_CONTEXT,
            parameters: weights.iter().map(|w| w.shape.iter().product::<u64>()).sum(),
            active_parameters: weights.iter().map(|w| w.shape.iter().product::<u64>()).sum(),
            rope_switch: None,
            experts: 0,
            experts_per_token: 0,
            eos_ids: vec![3],
            source_format: "huggingface".into(),
        },
        target: "cpu".into(),
        architectures: Vec::new(),
        activations: "f32".into(),
        kv: KvInfo {
            dtype: "f32".into(),
            page_tokens: 16,
            heads: KV_HEADS as u64,
            head_dim: HEAD_DIM as u64,
            planes: 2,
            page_bytes_per_layer: page,
            bytes_per_token: page / 16,
            states: vec!["kv.0".into()],
            pages: None,
        },
        max_sequences: MAX_SEQUENCES,
        buckets,
        weights,
        kernel_compiler: None,
        kernels: Vec::new(),
        prefixes: Vec::new(),
        files,
    }
}
