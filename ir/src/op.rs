//! The op table: every op's name, operands, attributes, shape rule and meaning, in one place.
//!
//! The table is data: text form, verifier and builder read it, so that adding an op is one row here and its
//! definition in [`crate::interp`]. Shapes are checked symbolically; a shape rule returns the result type or says in one
//! sentence what is wrong.

mod shapes;

use crate::types::TensorType;
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
    /// Types of the operands given.
    pub operands: &'a [TensorType],
    /// Attribute values, in the order of [`OpDef::attributes`].
    pub attributes: &'a [Attr],
}

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
    /// The type of the result.
    pub infer: fn(&Signature) -> Result<TensorType, String>,
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
            infer: $infer,
        }),+];
    };
}

/// Activations of gated linear units: `silu`, `gelu_tanh`, `gelu` (exact), `relu2` (`max(x, 0)²`), and `clamped_swiglu`, which
/// bounds gate and up by the limit and gives `(up + 1) · gate · sigmoid(1.702 · gate)`.
pub const ACTIVATIONS: &[&str] = &["silu", "gelu_tanh", "gelu", "relu2", "clamped_swiglu"];

/// How a router turns logits to scores: `softmax` over all experts, `sigmoid` of each (plus a correction bias for the selection
/// only), or `sparsemixer`, which picks one expert after the other and weighs it against those near it (Phi-3.5-MoE).
pub const SCORINGS: &[&str] = &["softmax", "sigmoid", "sparsemixer"];

/// What shares one scale when activations are rounded: blocks of 32, or the whole row (BitNet).
pub const GRANULARITIES: &[&str] = &["block", "row"];

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
    /// one: then `q = clamp(round(x · t), -128, 127)`, `t = 127 / max(max|x|, 1e-5)`, as BitNet's layers see their input.
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
    /// `[N, 1, kv_heads, 16, D]`; gives the cache after.
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
}

/// Tokens in a KV page.
pub const PAGE_TOKENS: u64 = 16;

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
}

impl OpDef {
    /// Checks operand count and attributes, then applies the shape rule.
    pub fn result_type(&self, operands: &[TensorType], attributes: &[Attr]) -> Result<TensorType, String> {
        let (most, least) = (self.operands.len(), self.operands.len() - self.optional);
        if operands.len() > most || operands.len() < least {
            let expected = if most == least { format!("{most}") } else { format!("{least} to {most}") };
            return Err(format!(
                "expected {expected} operands ({}), found {}",
                self.operands.join(", "),
                operands.len()
            ));
        }
        if attributes.len() != self.attributes.len() {
            let (expected, found) = (self.attributes.len(), attributes.len());
            return Err(format!("expected {expected} attributes, found {found}"));
        }
        for (def, value) in self.attributes.iter().zip(attributes) {
            def.check(value)?;
        }
        (self.infer)(&Signature { operands, attributes })
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
