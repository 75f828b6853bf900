//! The manifest: what an artifact folder holds, as the compiler writes it and the runtime reads it.
//!
//! One set of types serves both sides, so that a field cannot be written under one name and read under another. The
//! manifest repeats facts that programs and weight files also state; [`super::Artifact::open`] checks that they agree.

use std::collections::BTreeMap;

use ir::quant;
use ir::types::DType;
use serde::{Deserialize, Serialize};

use super::kernel_table::CompiledKernel;

/// Name of the manifest in an artifact folder.
pub const MANIFEST_FILE: &str = "manifest.json";

/// The schema version this build writes and reads.
pub const SCHEMA: u32 = 3;

/// The content of `manifest.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this structure, [`SCHEMA`].
    pub schema: u32,
    /// The program and version that wrote the artifact.
    pub producer: String,
    /// What model it is.
    pub model: ModelCard,
    /// What the programs are compiled for: `cpu`, or a compute capability such as `sm_90`.
    pub target: String,
    /// Architectures there is machine code for, the oldest first; empty for `cpu`.
    pub architectures: Vec<String>,
    /// How matmuls see their activations: `f32`, `f16` or `int8`.
    pub activations: String,
    /// The KV cache's geometry.
    pub kv: KvInfo,
    /// Most sequences in a step: rows of the page table.
    pub max_sequences: u64,
    /// Programs by size, smallest `max_tokens` first.
    pub buckets: Vec<Bucket>,
    /// Every weight and constant.
    pub weights: Vec<WeightInfo>,
    /// The compiler of the kernels and its version, which decides how many registers they take; absent where there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_compiler: Option<String>,
    /// Kernels in machine code; the cpu's are part of the runtime.
    pub kernels: Vec<CompiledKernel>,
    /// Prompts whose keys and values come with the artifact.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prefixes: Vec<PrefixInfo>,
    /// Every file of the folder but the manifest itself, by path relative to the folder.
    pub files: BTreeMap<String, FileInfo>,
}

/// What model an artifact is made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelCard {
    /// The model's name.
    pub name: String,
    /// Its family: `llama`, `qwen3`, …
    pub family: String,
    /// Number of tokens, and so of logits in a row.
    pub vocab_size: u64,
    /// Decoder layers.
    pub layers: u64,
    /// Width of the residual stream.
    pub hidden_size: u64,
    /// Query heads.
    pub heads: u64,
    /// Key and value heads.
    pub kv_heads: u64,
    /// Width of a head.
    pub head_dim: u64,
    /// Longest sequence in tokens.
    pub max_context: u64,
    /// Longest sequence, in tokens, that uses the first of two tables of rotary frequencies; absent where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_switch: Option<u64>,
    /// Elements of all weights.
    pub parameters: u64,
    /// Of those, the elements one token is multiplied with: all but the experts that are not selected and the rows of the
    /// embedding table that are not looked up.
    pub active_parameters: u64,
    /// Experts of a mixture layer; 0 for a dense model.
    #[serde(default)]
    pub experts: u64,
    /// Of those, how many a token selects.
    #[serde(default)]
    pub experts_per_token: u64,
    /// Tokens that end a text.
    pub eos_ids: Vec<u32>,
    /// What the checkpoint was: `gguf` or `huggingface`.
    pub source_format: String,
}

/// The paged KV cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvInfo {
    /// Element type: `f16`, `f32` or `int8`.
    pub dtype: String,
    /// Tokens in a page.
    pub page_tokens: u64,
    /// Heads of a page.
    pub heads: u64,
    /// Elements of a key, and of a value where there are values.
    pub head_dim: u64,
    /// 2 for keys and values, 1 for keys whose first elements are the values (latent attention).
    pub planes: u64,
    /// Bytes of a page in one layer.
    pub page_bytes_per_layer: u64,
    /// Bytes of one token in all layers.
    pub bytes_per_token: u64,
    /// Names of the programs' states, one a layer: `kv.0`, `kv.1`, …
    pub states: Vec<String>,
    /// Pages that fit the memory the artifact was compiled for; absent where none was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pages: Option<u64>,
}

/// A program and what it is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bucket {
    /// The program's name.
    pub name: String,
    /// Most tokens of one step.
    pub max_tokens: u64,
    /// Most rows whose logits one step computes.
    pub max_logit_rows: u64,
    /// The file with the program's text.
    pub program: String,
    /// Bytes of the arena.
    pub arena_bytes: u64,
    /// The largest live set: no plan needs less.
    pub arena_lower_bound_bytes: u64,
    /// Number of kernel launches.
    pub launches: u64,
}

/// How a weight's elements lie in its file.
///
/// Matrices that products and look-ups read are packed, in the layout of the devices that the artifact is compiled for. A
/// device whose kernels take the other one converts them when it loads the artifact, 16 rows at a time: both hold the same
/// integers and scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// Packed panels of 16 rows, see [`ir::quant`]: what the cpu device takes. Stored as one U8 tensor.
    Rows16,
    /// Packed tiles of 16 rows in the order of tensor cores, see [`ir::quant::fragments`]: what GPU devices take. Stored as
    /// one U8 tensor.
    Fragments,
    /// A vector or matrix of f32 or i32, row-major, little-endian; stored as a tensor of that type.
    Plain,
}

impl Layout {
    /// The layouts of packed matrices.
    pub const PACKED: [Layout; 2] = [Layout::Rows16, Layout::Fragments];

    /// Whether it is one of packed matrices.
    pub fn is_packed(self) -> bool {
        Layout::PACKED.contains(&self)
    }

    /// What every matrix in this layout begins at a multiple of in its file.
    pub fn alignment(self) -> usize {
        match self {
            Layout::Rows16 => 64,
            Layout::Fragments => quant::fragments::TILE_ALIGNMENT as usize,
            Layout::Plain => 4,
        }
    }

    /// Bytes of a weight of this type and shape; `None` if it cannot be stored so, or on overflow.
    pub fn bytes(self, dtype: DType, shape: &[u64]) -> Option<u64> {
        match (self, shape) {
            (Layout::Rows16, _) => quant::packed_bytes_of(dtype, shape),
            (Layout::Fragments, _) => quant::fragments::packed_bytes_of(dtype, shape),
            (Layout::Plain, [_] | [_, _]) if matches!(dtype, DType::F32 | DType::I32) => {
                shape.iter().try_fold(4u64, |bytes, n| bytes.checked_mul(*n))
            }
            (Layout::Plain, _) => None,
        }
    }
}

/// A weight and where it lies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightInfo {
    /// Name in programs and in its file.
    pub name: String,
    /// Element type, by its name in [`ir::types::DType`].
    pub dtype: String,
    /// Arrangement of the elements.
    pub layout: Layout,
    /// Logical shape: `[rows, cols]`, `[matrices, rows, cols]`, or `[len]`.
    pub shape: Vec<u64>,
    /// The safetensors file.
    pub file: String,
    /// Bytes in the file.
    pub bytes: u64,
}

/// A baked prompt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrefixInfo {
    /// Its safetensors file.
    pub file: String,
    /// Tokens whose keys and values it holds, whole pages of 16.
    pub tokens: u64,
    /// The table of rotary frequencies they were computed with: 0, or 1 for long sequences of a model that has two.
    pub rope_table: i32,
}

/// A file's identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileInfo {
    /// Length.
    pub bytes: u64,
    /// BLAKE3 hash of the content, 64 hexadecimal digits.
    pub blake3: String,
}

/// The content of `generation.json`: the model's own defaults for generating. An absent setting is the caller's to choose.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GenerationDefaults {
    /// Tokens that end a text.
    #[serde(default)]
    pub eos_ids: Vec<u32>,
    /// Text of the token that begins a text, for chat templates.
    #[serde(default)]
    pub bos_token: Option<String>,
    /// Text of the token that ends a text, for chat templates.
    #[serde(default)]
    pub eos_token: Option<String>,
    /// Divisor of the logits.
    #[serde(default)]
    pub temperature: Option<f64>,
    /// Number of likeliest tokens to keep; 0 keeps all.
    #[serde(default)]
    pub top_k: Option<u64>,
    /// Probability mass to keep.
    #[serde(default)]
    pub top_p: Option<f64>,
    /// Least probability to keep, relative to the likeliest token's.
    #[serde(default)]
    pub min_p: Option<f64>,
    /// Divisor of the logits of tokens that have appeared.
    #[serde(default)]
    pub repetition_penalty: Option<f64>,
}

impl Manifest {
    /// Bytes of all weights.
    pub fn weight_bytes(&self) -> u64 {
        self.weights.iter().fold(0, |sum, w| sum.saturating_add(w.bytes))
    }

    /// Bytes of one page in all layers.
    pub fn page_bytes(&self) -> u64 {
        self.kv.page_bytes_per_layer.saturating_mul(self.kv.states.len() as u64)
    }

    /// Bytes of the largest arena.
    pub fn arena_bytes(&self) -> u64 {
        self.buckets.iter().map(|b| b.arena_bytes).max().unwrap_or(0)
    }
}
