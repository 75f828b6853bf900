//! The op table: every op's name, operands, attributes, shape rule and meaning, in one place.
//!
//! The table is data: text form, verifier and builder read it, so that adding an op is one row here and its
//! definition in [`crate::interp`]. Shapes are checked symbolically; a shape rule returns the result type or says in one
//! sentence what is wrong.

mod shapes;

use crate::expand;
use crate::graph::Node;
use crate::types::{DType, TensorType};
use shapes::*;

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq)]
pub enum Attr {
    /// An integer.
    Int(i64),
    /// A real number.
    Float(f64),
    /// A flag.
    Bool(bool),
    /// A word.
    Str(String),
}

impl Attr {
    /// The kind's name in messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Attr::Int(_) => "integer",
            Attr::Float(_) => "float",
            Attr::Bool(_) => "bool",
            Attr::Str(_) => "string",
        }
    }
}

/// What an attribute must be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum AttrKind {
    /// An integer in an inclusive range.
    Int(i64, i64),
    /// A finite real number.
    Float,
    /// A flag.
    Bool,
    /// One of these words.
    OneOf(&'static [&'static str]),
}

/// One attribute of an op.
#[derive(Debug)]
pub struct AttrDef {
    /// Its name in text form.
    pub name: &'static str,
    /// What it must be.
    pub kind: AttrKind,
}

/// The operand and attribute values a shape rule sees. Operand count and attribute kinds are already checked.
pub struct Signature<'a> {
    /// The op.
    pub op: Op,
    /// Types of the operands given; of one left out in the middle an empty placeholder.
    pub operands: &'a [TensorType],
    /// The nodes that define them; `None` for one left out.
    pub nodes: &'a [Option<&'a Node>],
    /// Attribute values, in the order of [`OpDef::attributes`].
    pub attributes: &'a [Attr],
}

/// Types of a node's results: of the first, and of those that [`Op::Part`] names.
pub type ResultTypes = (TensorType, Vec<TensorType>);

/// One row of the op table.
pub struct OpDef {
    /// The op.
    pub op: Op,
    /// Its name in text form.
    pub name: &'static str,
    /// Names of the operands.
    pub operands: &'static [&'static str],
    /// How many trailing operands may be left out.
    pub optional: usize,
    /// Attributes, all mandatory.
    pub attributes: &'static [AttrDef],
    /// The types of the results.
    pub infer: fn(&Signature) -> Result<ResultTypes, String>,
}

macro_rules! op_table {
    ($($(#[$doc:meta])* $variant:ident = $name:literal ($($operand:literal),*; $optional:literal)
        [$($attr:literal: $kind:expr),*] $infer:expr;)+) => {
        /// An operation on tensors. T is tokens, H a width; the precise meaning is [`crate::interp`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Op { $($(#[$doc])* $variant),+ }

        /// All ops, in the order of [`Op`].
        pub static OPS: &[OpDef] = &[$(OpDef {
            op: Op::$variant,
            name: $name,
            operands: &[$($operand),*],
            optional: $optional,
            attributes: &[$(AttrDef { name: $attr, kind: $kind }),*],
            infer: |s| one_or_more($infer(s)),
        }),+];
    };
}

/// Columns of a panel: what one partial sum of [`Op::SquareSums`] and [`Op::ColumnPartials`] spans. The rows of a panel of packed weights
/// are as many, so that a product can give the partial sums of its result as it stores it.
pub const PANEL_COLUMNS: u64 = 16;

/// A shape rule's answer, of ops with one result or several.
fn one_or_more<T: Into<Results>>(types: Result<T, String>) -> Result<ResultTypes, String> {
    types.map(|t| t.into().0)
}

/// What a shape rule gives: [`ResultTypes`], or the one type there is.
struct Results(ResultTypes);

impl From<TensorType> for Results {
    fn from(ty: TensorType) -> Results {
        Results((ty, Vec::new()))
    }
}

impl From<ResultTypes> for Results {
    fn from(types: ResultTypes) -> Results {
        Results(types)
    }
}

/// Activations of gated linear units: `silu`, `gelu_tanh`, `gelu` (exact), `relu2` (`max(x, 0)²`), and `clamped_swiglu`, which
/// bounds gate and up by the limit and gives `(up + 1) · gate · sigmoid(1.702 · gate)`.
pub const ACTIVATIONS: &[&str] = &["silu", "gelu_tanh", "gelu", "relu2", "clamped_swiglu"];

/// How a router turns logits to scores: `softmax` over all experts, `sigmoid` of each (plus a correction bias for the selection
/// only), or `sparsemixer`, which picks one expert after the other and weighs it against those near it (Phi-3.5-MoE).
pub const SCORINGS: &[&str] = &["softmax", "sigmoid", "sparsemixer"];

/// How activations are rounded: to 8 bits with a scale for each block of 32, or one for the whole row (BitNet); or to f16 under a
/// power of two for the row, which gives f32 that hold the rounded values.
pub const GRANULARITIES: &[&str] = &["block", "row", "half"];

/// Norms that a launch can carry out on its way: `rms`, `layer`, or `scale`, the weight alone.
pub const NORM_KINDS: &[&str] = &["rms", "layer", "scale"];

/// Partial sums a product gives beside its result, each with those before it: none, [`Op::SquareSums`], [`Op::ColumnPartials`].
pub const EMISSIONS: &[&str] = &["none", "squares", "router"];

/// Types that [`Op::Cast`] rounds to.
pub const CAST_TYPES: &[&str] = &["f32", "f16", "bf16"];

const ANY_COUNT: AttrKind = AttrKind::Int(1, 1 << 20);
const EXPERTS: AttrKind = AttrKind::Int(1, 1 << 16);

op_table! {
    /// Row `ids[t]` of `table[V, H]`, as f32: `[T, H]`.
    Embedding = "embedding" ("table", "ids"; 0) [] embedding;
    /// Row `rows[i]` of `x[T, H]`: `[R, H]`.
    GatherRows = "gather_rows" ("x", "rows"; 0) [] gather_rows;
    /// `x · rsqrt(mean(x²) + eps) · weight` over the last dimension.
    RmsNorm = "rms_norm" ("x", "weight"; 0) ["eps": AttrKind::Float] rms_norm;
    /// `(x - mean(x)) · rsqrt(var(x) + eps) · weight (+ bias)` over the last dimension.
    LayerNorm = "layer_norm" ("x", "weight", "bias"; 1) ["eps": AttrKind::Float] layer_norm;
    /// `x[.., K]` rounded to 8 bits in blocks of 32 along the last dimension, each with a scale of its own or all of a row with
    /// one: then `q = clamp(round(x · t), -128, 127)`, `t = 127 / max(max|x|, 1e-5)`, as BitNet's layers see their input. With
    /// granularity `half`, rounded to f16 instead, as f32: `f16(x · 2^(14-e)) · 2^(e-14)`, `e = floor(log2(max|x|))` of the row.
    QuantizeRows = "quantize_rows" ("x"; 0) ["granularity": AttrKind::OneOf(GRANULARITIES)] quantize_rows;
    /// `x[T, K] · w[N, K]ᵀ (+ bias[N])`, as f32: `[T, N]`.
    Matmul = "matmul" ("x", "w", "bias"; 1) [] matmul;
    /// `x[T, heads, K]`, each head by its own matrix of `w[heads, N, K]`: `[T, heads, N]`.
    HeadMatmul = "head_matmul" ("x", "w"; 0) [] head_matmul;
    /// `out[.., c] = x[.., index[c]]`. With `index[E, K]` and `experts[T, k]`, slot `j` of token `t` is permuted by row
    /// `experts[t, j]`, and `x[T, K]` serves all slots: `[T, k, K]`.
    PermuteColumns = "permute_columns" ("x", "index", "experts"; 1) [] permute_columns;
    /// The `k` experts `[T, k]` of greatest score, best first, the lower index first among equals. Of `groups` groups of
    /// neighbouring experts only the best `top_groups` take part; a group's score is its best expert's (`softmax`), or the sum
    /// of its best two (`sigmoid`). `bias` is added to sigmoid scores.
    Router = "router" ("logits", "bias"; 1) ["k": AttrKind::Int(1, 1 << 16), "scoring": AttrKind::OneOf(SCORINGS),
        "groups": AttrKind::Int(1, 1 << 16), "top_groups": AttrKind::Int(1, 1 << 16)] router;
    /// The factor `[T, k]` of each selected expert: its softmax or sigmoid; divided by the sum over the selected if
    /// `renormalise`; times `scale`. For `sparsemixer` the softmax over those not yet selected whose logit `s` has
    /// `(max - s) / max(|s|, max) <= 2 · jitter`, where `max` is the selected one's.
    RouterWeights = "router_weights" ("logits", "experts"; 0) ["scoring": AttrKind::OneOf(SCORINGS),
        "renormalise": AttrKind::Bool, "scale": AttrKind::Float, "jitter": AttrKind::Float] router_weights;
    /// Slot `j` of token `t`: `x[t]` (of `[T, K]`) or `x[t, j]` (of `[T, k, K]`) by the matrix `experts[t, j]` of `w[E, N, K]`, plus
    /// its row of `bias[E, N]`: `[T, k, N]`.
    GroupedMatmul = "grouped_matmul" ("x", "w", "experts", "bias"; 1) [] grouped_matmul;
    /// `Σ_j weights[t, j] · y[t, j]` of `y[T, k, N]`, in the order of `j`: `[T, N]`.
    Combine = "combine" ("y", "weights"; 0) [] combine;
    /// `[T, heads · D]` seen as `[T, heads, D]`.
    SplitHeads = "split_heads" ("x"; 0) ["heads": AttrKind::Int(1, 1 << 20)] split_heads;
    /// `[T, heads, D]` seen as `[T, heads · D]`.
    MergeHeads = "merge_heads" ("x"; 0) [] merge_heads;
    /// `a[.., A]` and `b[.., B]` side by side: `[.., A + B]`.
    Concat = "concat" ("a", "b"; 0) [] concat;
    /// Rotary embedding of `x[T, heads, D]`: pair `i` is turned by `positions[t] · inv_freq[i]`, then multiplied by `scale`;
    /// pairs are `(i, i + pairs)`, or `(2i, 2i + 1)` when interleaved; dimensions past `2 · pairs` stay. Of `inv_freq[tables, pairs]`
    /// token `t` uses row `tables[t]`.
    Rope = "rope" ("x", "positions", "inv_freq", "tables"; 1) ["interleaved": AttrKind::Bool, "scale": AttrKind::Float] rope;
    /// Writes keys and values `[T, kv_heads, D]` to their slots of a paged cache `[N, 2, kv_heads, 16, D]`, or keys alone to one of
    /// `[N, 1, kv_heads, 16, D]`, each row `D` rounded as the cache's type says ([`KV_TYPES`]); gives the cache after.
    KvAppend = "kv_append" ("kv", "k", "positions", "sequences", "page_table", "v"; 1) [] kv_append;
    /// Causal attention of `q[T, heads, D]` over a sequence's cached positions `0..=positions[t]`, of which a positive `window`
    /// sees only the last so many; a positive `softcap` bounds scores to `softcap · tanh(score / softcap)`; `sinks[heads]` are one
    /// more score a head that takes its share and has no value. A positive `value_dim` takes the first so many dimensions of
    /// a key as its value (latent attention): `[T, heads, value_dim]`.
    Attention = "attention" ("q", "kv", "positions", "sequences", "page_table", "sinks"; 1)
        ["scale": AttrKind::Float, "window": AttrKind::Int(0, u32::MAX as i64), "softcap": AttrKind::Float,
         "value_dim": AttrKind::Int(0, 1 << 20)] attention;
    /// `a + b`.
    Add = "add" ("a", "b"; 0) [] same;
    /// `a · b`.
    Mul = "mul" ("a", "b"; 0) [] same;
    /// `x · factor`.
    Scale = "scale" ("x"; 0) ["factor": AttrKind::Float] unary;
    /// `cap · tanh(x / cap)`.
    Softcap = "softcap" ("x"; 0) ["cap": AttrKind::Float] unary;
    /// `x[T, H] · sigmoid(gate[T, 1])`.
    SigmoidGate = "sigmoid_gate" ("x", "gate"; 0) [] sigmoid_gate;
    /// `activation(gate) · up`; `limit` is that of `clamped_swiglu`, else 0.
    Glu = "glu" ("gate", "up"; 0) ["activation": AttrKind::OneOf(ACTIVATIONS), "limit": AttrKind::Float] same;

    /// Further result `index` of a node that has several.
    Part = "part" ("x"; 0) ["index": AttrKind::Int(1, 8)] part;
    /// The state `kv` once `token` is computed, by a node that updates it.
    After = "after" ("kv", "token"; 0) [] after;
    /// `x` rounded to another type of real numbers, or the numbers that a quantised `x` stands for.
    Cast = "cast" ("x"; 0) ["dtype": AttrKind::OneOf(CAST_TYPES)] cast;
    /// `x[T, H] · w[H]`, column by column.
    ScaleColumns = "scale_columns" ("x", "w"; 0) [] scale_columns;
    /// `Σ x²` over each panel of 16 columns of `x[T, H]`: `[T, ceil(H / 16)]`.
    SquareSums = "square_sums" ("x"; 0) [] square_sums;
    /// `y · rsqrt(Σ squares / width + eps) (+ bias)` of `y[T, N]` or `y[T, k, N]`, row `t` by its `squares[T, P]`; only `y[T, N]` takes
    /// a bias.
    ScaleRows = "scale_rows" ("y", "squares", "bias"; 1) ["width": ANY_COUNT, "eps": AttrKind::Float] scale_rows;
    /// `Σ x · norm · w[e]` over each panel of 16 columns of `x[T, H]`, with `norm[H]` and `w[E, H]`: `[T, ceil(H / 16), E]`.
    ColumnPartials = "column_partials" ("x", "norm", "w"; 0) [] column_partials;
    /// `rsqrt(Σ squares / width + eps) · Σ_p partials[t, p] (+ bias)` of `partials[T, P, E]` and `squares[T, P]`: `[T, E]`.
    FinishLogits = "finish_logits" ("partials", "squares", "bias"; 1) ["width": ANY_COUNT, "eps": AttrKind::Float] finish_logits;

    // Fused ops: each is one launch, and means what its expansion in `crate::expand` means.

    /// [`Op::Router`] and [`Op::RouterWeights`]: the experts `[T, k]`, then their weights.
    Route = "route" ("logits", "bias"; 1) ["k": EXPERTS, "scoring": AttrKind::OneOf(SCORINGS), "groups": EXPERTS,
        "top_groups": EXPERTS, "renormalise": AttrKind::Bool, "scale": AttrKind::Float, "jitter": AttrKind::Float] fused;
    /// [`Op::QuantizeRows`] of a norm.
    NormQuantize = "norm_quantize" ("x", "weight", "bias"; 1) ["kind": AttrKind::OneOf(NORM_KINDS), "eps": AttrKind::Float,
        "granularity": AttrKind::OneOf(GRANULARITIES)] fused;
    /// A product and what follows it row by row: `x · wᵀ`, by the root mean square of its input's `squares`, plus `bias`, by
    /// `sigmoid(gate[T, 1])`, by `factor`, bounded by a positive `softcap`, plus `residual`. It emits the partial sums of its result.
    Project = "project" ("x", "w", "bias", "squares", "gate", "residual", "router_norm", "router"; 6)
        ["eps": AttrKind::Float, "factor": AttrKind::Float, "softcap": AttrKind::Float, "emit": AttrKind::OneOf(EMISSIONS)] fused;
    /// A product seen as heads `[T, heads, D]`, each normalised by `norm[D]` and turned by its position.
    ProjectHeads = "project_heads" ("x", "w", "bias", "squares", "norm", "positions", "inv_freq", "tables"; 6)
        ["heads": ANY_COUNT, "eps": AttrKind::Float, "norm_eps": AttrKind::Float, "interleaved": AttrKind::Bool,
         "scale": AttrKind::Float] fused;
    /// Queries, keys and values as heads, keys and values appended to `kv`; gives the queries `[T, heads, D]`.
    Qkv = "qkv" ("x", "wq", "wk", "wv", "kv", "positions", "sequences", "page_table",
                 "squares", "bq", "bk", "bv", "q_norm", "k_norm", "inv_freq", "tables"; 8)
        ["heads": ANY_COUNT, "kv_heads": ANY_COUNT, "eps": AttrKind::Float, "norm_eps": AttrKind::Float,
         "interleaved": AttrKind::Bool, "scale": AttrKind::Float] fused;
    /// [`Op::Glu`] of two products of one input: `[T, F]`.
    GateUp = "gate_up" ("x", "w_gate", "w_up", "squares", "gate_bias", "up_bias"; 3)
        ["eps": AttrKind::Float, "activation": AttrKind::OneOf(ACTIVATIONS), "limit": AttrKind::Float] fused;
    /// [`Op::Glu`] of two products of one input with each selected expert's matrices: `[T, k, F]`.
    GroupedGateUp = "grouped_gate_up" ("x", "w_gate", "w_up", "experts", "squares", "gate_bias", "up_bias"; 3)
        ["eps": AttrKind::Float, "activation": AttrKind::OneOf(ACTIVATIONS), "limit": AttrKind::Float] fused;
    /// [`Op::Route`] and [`Op::GroupedGateUp`]: `[T, k, F]`, then experts and weights.
    RoutedGateUp = "routed_gate_up" ("x", "w_gate", "w_up", "logits", "squares", "gate_bias", "up_bias", "correction"; 4)
        ["eps": AttrKind::Float, "activation": AttrKind::OneOf(ACTIVATIONS), "limit": AttrKind::Float,
         "k": EXPERTS, "scoring": AttrKind::OneOf(SCORINGS), "groups": EXPERTS, "top_groups": EXPERTS,
         "renormalise": AttrKind::Bool, "scale": AttrKind::Float, "jitter": AttrKind::Float] fused;
    /// The products of the selected experts, weighed and added up: `Σ_j weights[t, j] · (h[t, j] · w[experts[t, j]]ᵀ + bias)`, by
    /// `factor`, plus `residual`: `[T, N]`, then the squares of the result.
    CombineDown = "combine_down" ("h", "w", "experts", "weights", "bias", "residual"; 2)
        ["factor": AttrKind::Float, "emit": AttrKind::OneOf(EMISSIONS)] fused;
    /// [`Op::Combine`], by `factor`, plus `residual`; then the squares of the result.
    CombineAdd = "combine_add" ("y", "weights", "residual"; 0)
        ["factor": AttrKind::Float, "emit": AttrKind::OneOf(EMISSIONS)] fused;
    /// [`Op::RmsNorm`], by `factor`, plus `residual`; then the squares of the result.
    NormAdd = "norm_add" ("x", "weight", "residual"; 0)
        ["eps": AttrKind::Float, "factor": AttrKind::Float, "emit": AttrKind::OneOf(EMISSIONS)] fused;
    /// A norm that the launch reading it carries out itself.
    InlineNorm = "inline_norm" ("x", "weight", "bias"; 1) ["kind": AttrKind::OneOf(NORM_KINDS), "eps": AttrKind::Float] fused;
    /// [`Op::QuantizeRows`] that the launch reading it carries out itself.
    InlineQuantize = "inline_quantize" ("x"; 0) ["granularity": AttrKind::OneOf(GRANULARITIES)] fused;
    /// [`Op::FinishLogits`] that the launch reading it carries out itself.
    InlineLogits = "inline_logits" ("partials", "squares", "bias"; 1) ["width": ANY_COUNT, "eps": AttrKind::Float] fused;
}

/// Tokens in a KV page.
pub const PAGE_TOKENS: u64 = 16;

/// Element types of a KV cache, the most exact first.
pub const KV_TYPES: [DType; 3] = [DType::F32, DType::F16, DType::INT8];

/// Bytes of one layer's page of a cache `[N, planes, kv_heads, 16, head_dim]`: the one definition that compiler, runtime and kernels
/// share. `None` on overflow and for types that no cache has. A multiple of 16, whatever the shape.
///
/// Keys lie `[kv_heads][head_dim][16]`, then values, where there are any, `[kv_heads][16][head_dim]`. Of a cache of [`DType::INT8`] these are
/// integers, and the scales of their rows follow: `[planes][kv_heads][16]`, f16.
pub fn page_bytes(dtype: DType, planes: u64, kv_heads: u64, head_dim: u64) -> Option<u64> {
    let row = KV_TYPES.contains(&dtype).then(|| crate::quant::row_bytes(dtype, head_dim))??;
    planes.checked_mul(kv_heads)?.checked_mul(PAGE_TOKENS)?.checked_mul(row)
}

impl Op {
    /// The op's row of the table.
    pub fn def(self) -> &'static OpDef {
        &OPS[self as usize]
    }

    /// The op's name in text form.
    pub fn name(self) -> &'static str {
        self.def().name
    }

    /// Looks an op up by name.
    pub fn from_name(name: &str) -> Option<Op> {
        OPS.iter().find(|d| d.name == name).map(|d| d.op)
    }

    /// Whether the result is its first operand's memory seen under another type.
    pub fn is_view(self) -> bool {
        matches!(self, Op::SplitHeads | Op::MergeHeads)
    }

    /// Whether the op is carried out by the launches that read its result.
    pub fn is_inline(self) -> bool {
        matches!(self, Op::InlineNorm | Op::InlineQuantize | Op::InlineLogits)
    }

    /// Whether the op is given by its expansion to others.
    pub fn is_fused(self) -> bool {
        self >= Op::Route
    }
}

impl OpDef {
    /// Checks operand count and attributes, then applies the shape rule. `operands` are the nodes that define them, `None` for one
    /// left out.
    pub fn result_types(&self, operands: &[Option<&Node>], attributes: &[Attr]) -> Result<ResultTypes, String> {
        let (most, least) = (self.operands.len(), self.operands.len() - self.optional);
        if operands.len() > most || operands.len() < least {
            let expected = if most == least { format!("{most}") } else { format!("{least} to {most}") };
            return Err(format!(
                "expected {expected} operands ({}), found {}",
                self.operands.join(", "),
                operands.len()
            ));
        }
        if let Some(i) = operands.iter().take(least).position(Option::is_none) {
            return Err(format!("operand {} may not be left out", self.operands[i]));
        }
        if attributes.len() != self.attributes.len() {
            let (expected, found) = (self.attributes.len(), attributes.len());
            return Err(format!("expected {expected} attributes, found {found}"));
        }
        for (def, value) in self.attributes.iter().zip(attributes) {
            def.check(value)?;
        }
        let absent = || TensorType::new(crate::types::DType::F32, []);
        let types: Vec<TensorType> = operands.iter().map(|n| n.map_or_else(absent, |n| n.ty.clone())).collect();
        (self.infer)(&Signature { op: self.op, operands: &types, nodes: operands, attributes })
    }
}

impl AttrDef {
    fn check(&self, value: &Attr) -> Result<(), String> {
        let fits = match (self.kind, value) {
            (AttrKind::Int(low, high), Attr::Int(v)) => (low..=high).contains(v),
            (AttrKind::Float, Attr::Float(v)) => v.is_finite(),
            (AttrKind::Bool, Attr::Bool(_)) => true,
            (AttrKind::OneOf(words), Attr::Str(v)) => words.contains(&v.as_str()),
            _ => false,
        };
        let expected = || match self.kind {
            AttrKind::Int(low, high) => format!("an integer in {low}..={high}"),
            AttrKind::Float => "a finite float".to_string(),
            AttrKind::Bool => "true or false".to_string(),
            AttrKind::OneOf(words) => format!("one of {}", words.join(", ")),
        };
        if fits { Ok(()) } else { Err(format!("attribute {}: expected {}, found {value:?}", self.name, expected())) }
    }
}
