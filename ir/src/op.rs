//! The op table: every op's name, operands, attributes, shape rule and meaning, in one place.
//!
//! The table is data: text form, verifier and builder read it, so that adding an op is one row here and its
//! definition in [`crate::interp`]. Shapes are checked symbolically; a shape rule returns the result type or says in one
//! sentence what is wrong.

use crate::types::{DType, Dim, TensorType};

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

/// Activations of gated linear units.
pub const ACTIVATIONS: &[&str] = &["silu"];

op_table! {
    /// Row `ids[t]` of `table[V, H]`, as f32: `[T, H]`.
    Embedding = "embedding" ("table", "ids"; 0) [] infer_embedding;
    /// Row `rows[i]` of `x[T, H]`: `[R, H]`.
    GatherRows = "gather_rows" ("x", "rows"; 0) [] infer_gather_rows;
    /// `x · rsqrt(mean(x²) + eps) · weight` over the last dimension.
    RmsNorm = "rms_norm" ("x", "weight"; 0) ["eps": AttrKind::Float] infer_rms_norm;
    /// `x` rounded to 8 bits in blocks of 32 along the last dimension.
    QuantizeRows = "quantize_rows" ("x"; 0) [] infer_quantize_rows;
    /// `x[T, K] · w[N, K]ᵀ (+ bias[N])`, as f32: `[T, N]`.
    Matmul = "matmul" ("x", "w", "bias"; 1) [] infer_matmul;
    /// `[T, heads · D]` seen as `[T, heads, D]`.
    SplitHeads = "split_heads" ("x"; 0) ["heads": AttrKind::Int(1, 1 << 20)] infer_split_heads;
    /// `[T, heads, D]` seen as `[T, heads · D]`.
    MergeHeads = "merge_heads" ("x"; 0) [] infer_merge_heads;
    /// Rotary embedding of `x[T, heads, D]`: pair `i` is turned by `positions[t] · inv_freq[i]`, then multiplied by `scale`;
    /// pairs are `(i, i + pairs)`, or `(2i, 2i + 1)` when interleaved; dimensions past `2 · pairs` stay.
    Rope = "rope" ("x", "positions", "inv_freq"; 0) ["interleaved": AttrKind::Bool, "scale": AttrKind::Float] infer_rope;
    /// Writes keys and values `[T, kv_heads, D]` to their slots of a paged cache `[N, 2, kv_heads, 16, D]`; gives the cache after.
    KvAppend = "kv_append" ("kv", "k", "v", "positions", "sequences", "page_table"; 0) [] infer_kv_append;
    /// Causal attention of `q[T, heads, D]` over a sequence's cached positions `0..=positions[t]`, of which a positive `window`
    /// sees only the last so many; a positive `softcap` bounds scores to `softcap · tanh(score / softcap)`.
    Attention = "attention" ("q", "kv", "positions", "sequences", "page_table"; 0)
        ["scale": AttrKind::Float, "window": AttrKind::Int(0, u32::MAX as i64), "softcap": AttrKind::Float] infer_attention;
    /// `a + b`.
    Add = "add" ("a", "b"; 0) [] infer_same;
    /// `a · b`.
    Mul = "mul" ("a", "b"; 0) [] infer_same;
    /// `activation(gate) · up`.
    Glu = "glu" ("gate", "up"; 0) ["activation": AttrKind::OneOf(ACTIVATIONS)] infer_same;
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

impl Signature<'_> {
    fn expect(&self, i: usize, name: &str, dtype: DType, rank: usize) -> Result<&TensorType, String> {
        let ty = &self.operands[i];
        if ty.dtype != dtype {
            return Err(format!("operand {name}: expected {dtype}, found {}", ty.dtype));
        }
        self.rank(i, name, rank)
    }

    fn rank(&self, i: usize, name: &str, rank: usize) -> Result<&TensorType, String> {
        let ty = &self.operands[i];
        if ty.shape.len() != rank {
            return Err(format!("operand {name}: expected rank {rank}, found {}", ty.shape.len()));
        }
        Ok(ty)
    }
}

fn same_dim(what: &str, a: Dim, b: Dim) -> Result<(), String> {
    if a == b { Ok(()) } else { Err(format!("{what} differ")) }
}

fn infer_embedding(s: &Signature) -> Result<TensorType, String> {
    let table = s.rank(0, "table", 2)?;
    if !table.dtype.is_real() {
        return Err("operand table: expected real numbers".into());
    }
    let ids = s.expect(1, "ids", DType::I32, 1)?;
    Ok(TensorType::new(DType::F32, [ids.shape[0], table.shape[1]]))
}

fn infer_gather_rows(s: &Signature) -> Result<TensorType, String> {
    let x = s.expect(0, "x", DType::F32, 2)?;
    let rows = s.expect(1, "rows", DType::I32, 1)?;
    Ok(TensorType::new(DType::F32, [rows.shape[0], x.shape[1]]))
}

fn infer_rms_norm(s: &Signature) -> Result<TensorType, String> {
    let x = &s.operands[0];
    let weight = s.expect(1, "weight", DType::F32, 1)?;
    if x.dtype != DType::F32 || x.shape.len() < 2 {
        return Err("operand x: expected f32 of rank 2 or more".into());
    }
    same_dim(
        "the last dimension of x and the length of weight",
        *x.shape.last().unwrap_or(&Dim::Const(0)),
        weight.shape[0],
    )?;
    Ok(x.clone())
}

fn infer_quantize_rows(s: &Signature) -> Result<TensorType, String> {
    let x = s.expect(0, "x", DType::F32, 2)?;
    Ok(TensorType::new(DType::Q8X32, x.shape.clone()))
}

fn infer_matmul(s: &Signature) -> Result<TensorType, String> {
    let (x, w) = (s.rank(0, "x", 2)?, s.rank(1, "w", 2)?);
    if !matches!(x.dtype, DType::F32 | DType::Q8X32) {
        return Err(format!("operand x: expected f32 or q8x32, found {}", x.dtype));
    }
    if !w.dtype.is_real() || w.dtype == DType::Q8X32 {
        return Err(format!("operand w: expected a weight format, found {}", w.dtype));
    }
    same_dim("the widths of x and w", x.shape[1], w.shape[1])?;
    if s.operands.len() == 3 {
        same_dim("the rows of w and the length of bias", w.shape[0], s.expect(2, "bias", DType::F32, 1)?.shape[0])?;
    }
    Ok(TensorType::new(DType::F32, [x.shape[0], w.shape[0]]))
}

fn infer_split_heads(s: &Signature) -> Result<TensorType, String> {
    let x = s.expect(0, "x", DType::F32, 2)?;
    let (Dim::Const(width), Attr::Int(heads)) = (x.shape[1], &s.attributes[0]) else {
        return Err("operand x: expected a constant width".into());
    };
    let heads = *heads as u64;
    if width % heads != 0 {
        return Err(format!("width {width} is no multiple of {heads} heads"));
    }
    Ok(TensorType::new(DType::F32, [x.shape[0], Dim::Const(heads), Dim::Const(width / heads)]))
}

fn infer_merge_heads(s: &Signature) -> Result<TensorType, String> {
    let x = s.expect(0, "x", DType::F32, 3)?;
    let (Dim::Const(heads), Dim::Const(head_dim)) = (x.shape[1], x.shape[2]) else {
        return Err("operand x: expected constant heads and head dim".into());
    };
    let width = heads.checked_mul(head_dim).ok_or("the merged width overflows")?;
    Ok(TensorType::new(DType::F32, [x.shape[0], Dim::Const(width)]))
}

fn infer_rope(s: &Signature) -> Result<TensorType, String> {
    let x = s.expect(0, "x", DType::F32, 3)?;
    let positions = s.expect(1, "positions", DType::I32, 1)?;
    let inv_freq = s.expect(2, "inv_freq", DType::F32, 1)?;
    same_dim("the tokens of x and positions", x.shape[0], positions.shape[0])?;
    match (inv_freq.shape[0], x.shape[2]) {
        (Dim::Const(pairs), Dim::Const(dim)) if pairs.saturating_mul(2) <= dim => Ok(x.clone()),
        _ => Err("inv_freq must have at most half as many elements as a head has dimensions".into()),
    }
}

/// The common part of the two ops on the paged cache; `first` is the index of `positions`.
fn check_paged(s: &Signature, kv: &TensorType, first: usize, tokens: Dim) -> Result<(), String> {
    if !matches!(kv.dtype, DType::F32 | DType::F16) {
        return Err(format!("operand kv: expected f32 or f16, found {}", kv.dtype));
    }
    if kv.shape[1] != Dim::Const(2) || kv.shape[3] != Dim::Const(PAGE_TOKENS) {
        return Err(format!("operand kv: expected the shape [pages, 2, kv heads, {PAGE_TOKENS}, head dim]"));
    }
    same_dim("the tokens and positions", tokens, s.expect(first, "positions", DType::I32, 1)?.shape[0])?;
    same_dim("the tokens and sequences", tokens, s.expect(first + 1, "sequences", DType::I32, 1)?.shape[0])?;
    s.expect(first + 2, "page_table", DType::I32, 2).map(|_| ())
}

fn infer_kv_append(s: &Signature) -> Result<TensorType, String> {
    let kv = s.rank(0, "kv", 5)?;
    let (k, v) = (s.expect(1, "k", DType::F32, 3)?, s.expect(2, "v", DType::F32, 3)?);
    check_paged(s, kv, 3, k.shape[0])?;
    same_dim("the heads of k and kv", k.shape[1], kv.shape[2])?;
    same_dim("the head dims of k and kv", k.shape[2], kv.shape[4])?;
    if k.shape != v.shape {
        return Err("the shapes of k and v differ".into());
    }
    Ok(kv.clone())
}

fn infer_attention(s: &Signature) -> Result<TensorType, String> {
    let (q, kv) = (s.expect(0, "q", DType::F32, 3)?, s.rank(1, "kv", 5)?);
    check_paged(s, kv, 2, q.shape[0])?;
    same_dim("the head dims of q and kv", q.shape[2], kv.shape[4])?;
    match (q.shape[1], kv.shape[2]) {
        (Dim::Const(heads), Dim::Const(kv_heads)) if kv_heads > 0 && heads % kv_heads == 0 => Ok(q.clone()),
        _ => Err("the heads of q must be a multiple of the heads of kv".into()),
    }
}

fn infer_same(s: &Signature) -> Result<TensorType, String> {
    let (a, b) = (&s.operands[0], &s.operands[1]);
    if a.dtype != DType::F32 || a != b {
        return Err("operands: expected two f32 tensors of one shape".into());
    }
    Ok(a.clone())
}
