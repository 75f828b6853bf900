//! Shape rules of the op table: the result's type, or in one sentence what is wrong.

use super::{Attr, KV_TYPES, PAGE_TOKENS, PANEL_COLUMNS, ResultTypes, Signature, expand};
use crate::types::{DType, Dim, TensorType};

impl Signature<'_> {
    fn expect(&self, i: usize, name: &str, dtype: DType, rank: usize) -> Result<&TensorType, String> {
        let ty = &self.operands[i];
        if ty.dtype != dtype {
            return Err(format!("operand {name}: expected {dtype}, found {}", ty.dtype));
        }
        self.rank(i, name, rank)
    }

    /// An f32 operand of rank 2 or more.
    fn reals(&self, i: usize, name: &str) -> Result<&TensorType, String> {
        let ty = &self.operands[i];
        if ty.dtype != DType::F32 || ty.shape.len() < 2 {
            return Err(format!("operand {name}: expected f32 of rank 2 or more"));
        }
        Ok(ty)
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

pub(super) fn embedding(s: &Signature) -> Result<TensorType, String> {
    let table = s.rank(0, "table", 2)?;
    if !table.dtype.is_real() {
        return Err("operand table: expected real numbers".into());
    }
    let ids = s.expect(1, "ids", DType::I32, 1)?;
    Ok(TensorType::new(DType::F32, [ids.shape[0], table.shape[1]]))
}

pub(super) fn gather_rows(s: &Signature) -> Result<TensorType, String> {
    let x = s.expect(0, "x", DType::F32, 2)?;
    let rows = s.expect(1, "rows", DType::I32, 1)?;
    Ok(TensorType::new(DType::F32, [rows.shape[0], x.shape[1]]))
}

pub(super) fn rms_norm(s: &Signature) -> Result<TensorType, String> {
    let (x, weight) = (s.reals(0, "x")?, s.expect(1, "weight", DType::F32, 1)?);
    same_dim(
        "the last dimension of x and the length of weight",
        *x.shape.last().unwrap_or(&Dim::Const(0)),
        weight.shape[0],
    )?;
    Ok(x.clone())
}

pub(super) fn quantize_rows(s: &Signature) -> Result<TensorType, String> {
    let x = s.reals(0, "x")?;
    let is_half = matches!(s.attributes.first(), Some(Attr::Str(granularity)) if granularity == "half");
    Ok(TensorType::new(if is_half { DType::F32 } else { DType::Q8X32 }, x.shape.clone()))
}

pub(super) fn layer_norm(s: &Signature) -> Result<TensorType, String> {
    let result = rms_norm(s)?;
    if s.operands.len() == 3 && s.operands[2] != s.operands[1] {
        return Err("operand bias: expected the type of weight".into());
    }
    Ok(result)
}

/// Checks the formats of a product's operands.
fn product_types(s: &Signature) -> Result<(), String> {
    let (x, w) = (s.operands[0].dtype, s.operands[1].dtype);
    if !matches!(x, DType::F32 | DType::Q8X32) {
        return Err(format!("operand x: expected f32 or q8x32, found {x}"));
    }
    if !w.is_real() || w == DType::Q8X32 {
        return Err(format!("operand w: expected a weight format, found {w}"));
    }
    Ok(())
}

pub(super) fn matmul(s: &Signature) -> Result<TensorType, String> {
    let (x, w) = (s.rank(0, "x", 2)?, s.rank(1, "w", 2)?);
    product_types(s)?;
    same_dim("the widths of x and w", x.shape[1], w.shape[1])?;
    if s.operands.len() == 3 {
        same_dim("the rows of w and the length of bias", w.shape[0], s.expect(2, "bias", DType::F32, 1)?.shape[0])?;
    }
    Ok(TensorType::new(DType::F32, [x.shape[0], w.shape[0]]))
}

pub(super) fn head_matmul(s: &Signature) -> Result<TensorType, String> {
    let (x, w) = (s.rank(0, "x", 3)?, s.rank(1, "w", 3)?);
    product_types(s)?;
    same_dim("the heads of x and w", x.shape[1], w.shape[0])?;
    same_dim("the widths of x and w", x.shape[2], w.shape[2])?;
    Ok(TensorType::new(DType::F32, [x.shape[0], x.shape[1], w.shape[1]]))
}

/// Checks that `x` is `[T, K]` or `[T, k, K]` for the slots `experts[T, k]`; gives T, k and K.
fn slots(s: &Signature, experts: usize) -> Result<[Dim; 3], String> {
    let (x, experts) = (&s.operands[0], s.expect(experts, "experts", DType::I32, 2)?);
    let (tokens, slots) = (experts.shape[0], experts.shape[1]);
    match x.shape.as_slice() {
        [t, width] if *t == tokens => Ok([tokens, slots, *width]),
        [t, k, width] if *t == tokens && *k == slots => Ok([tokens, slots, *width]),
        _ => Err("operand x: expected [T, K] or [T, k, K] for the experts [T, k]".into()),
    }
}

pub(super) fn grouped_matmul(s: &Signature) -> Result<TensorType, String> {
    let w = s.rank(1, "w", 3)?;
    product_types(s)?;
    let [tokens, slots, width] = slots(s, 2)?;
    same_dim("the widths of x and w", width, w.shape[2])?;
    if s.operands.len() == 4 && s.expect(3, "bias", DType::F32, 2)?.shape != w.shape[..2] {
        return Err("operand bias: expected a row of N for each of the E matrices of w".into());
    }
    Ok(TensorType::new(DType::F32, [tokens, slots, w.shape[1]]))
}

pub(super) fn permute_columns(s: &Signature) -> Result<TensorType, String> {
    let x = s.reals(0, "x")?;
    if s.operands.len() == 2 {
        let (x, index) = (s.rank(0, "x", 2)?, s.expect(1, "index", DType::I32, 1)?);
        same_dim("the widths of x and index", x.shape[1], index.shape[0])?;
        return Ok(x.clone());
    }
    let index = s.expect(1, "index", DType::I32, 2)?;
    let shape = slots(s, 2)?;
    same_dim("the widths of x and index", shape[2], index.shape[1])?;
    Ok(TensorType::new(x.dtype, shape))
}

pub(super) fn router(s: &Signature) -> Result<TensorType, String> {
    let logits = s.expect(0, "logits", DType::F32, 2)?;
    let [Attr::Int(k), Attr::Str(scoring), Attr::Int(groups), Attr::Int(top_groups)] = s.attributes else {
        return Err("expected the attributes k, scoring, groups, top_groups".into());
    };
    let (Dim::Const(experts), k, groups, top_groups) = (logits.shape[1], *k as u64, *groups as u64, *top_groups as u64)
    else {
        return Err("operand logits: expected a constant number of experts".into());
    };
    if experts % groups != 0 || top_groups > groups {
        return Err(format!("{top_groups} of {groups} groups cannot be chosen among {experts} experts"));
    }
    if k > experts / groups * top_groups {
        return Err(format!("{k} experts cannot be chosen among {}", experts / groups * top_groups));
    }
    if scoring == "sigmoid" && groups > 1 && experts / groups < 2 {
        return Err("a group needs two experts, whose scores are its own".into());
    }
    if s.operands.len() == 2 {
        if scoring != "sigmoid" {
            return Err(format!("operand bias: {scoring} scores take none"));
        }
        same_dim("the experts of logits and bias", logits.shape[1], s.expect(1, "bias", DType::F32, 1)?.shape[0])?;
    }
    Ok(TensorType::new(DType::I32, [logits.shape[0], Dim::Const(k)]))
}

pub(super) fn router_weights(s: &Signature) -> Result<TensorType, String> {
    let (logits, experts) = (s.expect(0, "logits", DType::F32, 2)?, s.expect(1, "experts", DType::I32, 2)?);
    same_dim("the tokens of logits and experts", logits.shape[0], experts.shape[0])?;
    Ok(TensorType::new(DType::F32, experts.shape.clone()))
}

pub(super) fn combine(s: &Signature) -> Result<TensorType, String> {
    let (y, weights) = (s.expect(0, "y", DType::F32, 3)?, s.expect(1, "weights", DType::F32, 2)?);
    if y.shape[..2] != weights.shape[..] {
        return Err("operand weights: expected one for each token and slot of y".into());
    }
    Ok(TensorType::new(DType::F32, [y.shape[0], y.shape[2]]))
}

pub(super) fn concat(s: &Signature) -> Result<TensorType, String> {
    let (a, b) = (s.reals(0, "a")?, s.reals(1, "b")?);
    let ((Some(Dim::Const(x)), outer_a), (Some(Dim::Const(y)), outer_b)) = (split_last(a), split_last(b)) else {
        return Err("operands: expected constant widths".into());
    };
    if outer_a != outer_b {
        return Err("operands: expected equal dimensions but for the last".into());
    }
    let mut shape = outer_a.to_vec();
    shape.push(Dim::Const(x.checked_add(*y).ok_or("the width overflows")?));
    Ok(TensorType::new(DType::F32, shape))
}

fn split_last(ty: &TensorType) -> (Option<&Dim>, &[Dim]) {
    ty.shape.split_last().map_or((None, &[]), |(last, outer)| (Some(last), outer))
}

pub(super) fn split_heads(s: &Signature) -> Result<TensorType, String> {
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

pub(super) fn merge_heads(s: &Signature) -> Result<TensorType, String> {
    let x = s.expect(0, "x", DType::F32, 3)?;
    let (Dim::Const(heads), Dim::Const(head_dim)) = (x.shape[1], x.shape[2]) else {
        return Err("operand x: expected constant heads and head dim".into());
    };
    let width = heads.checked_mul(head_dim).ok_or("the merged width overflows")?;
    Ok(TensorType::new(DType::F32, [x.shape[0], Dim::Const(width)]))
}

pub(super) fn rope(s: &Signature) -> Result<TensorType, String> {
    let x = s.expect(0, "x", DType::F32, 3)?;
    let positions = s.expect(1, "positions", DType::I32, 1)?;
    same_dim("the tokens of x and positions", x.shape[0], positions.shape[0])?;
    let inv_freq = if s.operands.len() == 4 {
        same_dim("the tokens of x and tables", x.shape[0], s.expect(3, "tables", DType::I32, 1)?.shape[0])?;
        s.expect(2, "inv_freq", DType::F32, 2)?
    } else {
        s.expect(2, "inv_freq", DType::F32, 1)?
    };
    match (inv_freq.shape.last(), x.shape[2]) {
        (Some(Dim::Const(pairs)), Dim::Const(dim)) if pairs.saturating_mul(2) <= dim => Ok(x.clone()),
        _ => Err("inv_freq must have at most half as many elements as a head has dimensions".into()),
    }
}

/// The common part of the two ops on the paged cache: a cache of `planes` planes, and the metadata from operand `first` on.
fn check_paged(s: &Signature, kv: &TensorType, planes: u64, first: usize, tokens: Dim) -> Result<(), String> {
    if !KV_TYPES.contains(&kv.dtype) {
        let names: Vec<_> = KV_TYPES.iter().map(|dtype| dtype.name()).collect();
        return Err(format!("operand kv: expected one of {}, found {}", names.join(", "), kv.dtype));
    }
    if kv.shape[1] != Dim::Const(planes) || kv.shape[3] != Dim::Const(PAGE_TOKENS) {
        return Err(format!("operand kv: expected the shape [pages, {planes}, kv heads, {PAGE_TOKENS}, head dim]"));
    }
    same_dim("the tokens and positions", tokens, s.expect(first, "positions", DType::I32, 1)?.shape[0])?;
    same_dim("the tokens and sequences", tokens, s.expect(first + 1, "sequences", DType::I32, 1)?.shape[0])?;
    s.expect(first + 2, "page_table", DType::I32, 2).map(|_| ())
}

pub(super) fn kv_append(s: &Signature) -> Result<TensorType, String> {
    let (kv, k) = (s.rank(0, "kv", 5)?, s.expect(1, "k", DType::F32, 3)?);
    let values = s.operands.len() == 6;
    check_paged(s, kv, 1 + u64::from(values), 2, k.shape[0])?;
    same_dim("the heads of k and kv", k.shape[1], kv.shape[2])?;
    same_dim("the head dims of k and kv", k.shape[2], kv.shape[4])?;
    if values && k != s.expect(5, "v", DType::F32, 3)? {
        return Err("the shapes of k and v differ".into());
    }
    Ok(kv.clone())
}

pub(super) fn attention(s: &Signature) -> Result<TensorType, String> {
    let (q, kv) = (s.expect(0, "q", DType::F32, 3)?, s.rank(1, "kv", 5)?);
    let value_dim = match s.attributes.last() {
        Some(Attr::Int(dim)) => *dim as u64,
        _ => 0,
    };
    check_paged(s, kv, if value_dim > 0 { 1 } else { 2 }, 2, q.shape[0])?;
    same_dim("the head dims of q and kv", q.shape[2], kv.shape[4])?;
    if s.operands.len() == 6 {
        same_dim("the heads of q and sinks", q.shape[1], s.expect(5, "sinks", DType::F32, 1)?.shape[0])?;
    }
    match (q.shape[1], kv.shape[2]) {
        (Dim::Const(heads), Dim::Const(kv_heads)) if kv_heads > 0 && heads % kv_heads == 0 => {}
        _ => return Err("the heads of q must be a multiple of the heads of kv".into()),
    }
    match kv.shape[4] {
        _ if value_dim == 0 => Ok(q.clone()),
        Dim::Const(dim) if value_dim <= dim => {
            Ok(TensorType::new(DType::F32, [q.shape[0], q.shape[1], Dim::Const(value_dim)]))
        }
        _ => Err(format!("value_dim {value_dim} is more than a key has dimensions")),
    }
}

pub(super) fn unary(s: &Signature) -> Result<TensorType, String> {
    Ok(s.reals(0, "x")?.clone())
}

pub(super) fn sigmoid_gate(s: &Signature) -> Result<TensorType, String> {
    let (x, gate) = (s.expect(0, "x", DType::F32, 2)?, s.expect(1, "gate", DType::F32, 2)?);
    same_dim("the tokens of x and gate", x.shape[0], gate.shape[0])?;
    same_dim("the width of gate and 1", gate.shape[1], Dim::Const(1))?;
    Ok(x.clone())
}

pub(super) fn same(s: &Signature) -> Result<TensorType, String> {
    let (a, b) = (&s.operands[0], &s.operands[1]);
    if a.dtype != DType::F32 || a != b {
        return Err("operands: expected two f32 tensors of one shape".into());
    }
    Ok(a.clone())
}

pub(super) fn part(s: &Signature) -> Result<TensorType, String> {
    let index = match s.attributes.first() {
        Some(Attr::Int(index)) => usize::try_from(*index).unwrap_or(0),
        _ => 0,
    };
    let results = s.nodes[0].map_or(&[][..], |n| &n.more);
    let found = index.checked_sub(1).and_then(|i| results.get(i));
    found.cloned().ok_or_else(|| format!("x has {} results, none of index {index}", results.len() + 1))
}

pub(super) fn after(s: &Signature) -> Result<TensorType, String> {
    Ok(s.rank(0, "kv", 5)?.clone())
}

pub(super) fn cast(s: &Signature) -> Result<TensorType, String> {
    let x = &s.operands[0];
    if !x.dtype.is_real() {
        return Err("operand x: expected real numbers".into());
    }
    let to = match s.attributes.first() {
        Some(Attr::Str(name)) => DType::from_name(name),
        _ => None,
    };
    Ok(TensorType::new(to.unwrap_or(DType::F32), x.shape.clone()))
}

pub(super) fn scale_columns(s: &Signature) -> Result<TensorType, String> {
    let (x, w) = (s.expect(0, "x", DType::F32, 2)?, s.expect(1, "w", DType::F32, 1)?);
    same_dim("the width of x and the length of w", x.shape[1], w.shape[0])?;
    Ok(x.clone())
}

/// Panels of a row, of which the width must be known.
fn panels(width: Dim) -> Result<Dim, String> {
    match width {
        Dim::Const(width) => Ok(Dim::Const(width.div_ceil(PANEL_COLUMNS))),
        Dim::Sym(_) => Err("operand x: expected a constant width".into()),
    }
}

pub(super) fn square_sums(s: &Signature) -> Result<TensorType, String> {
    let x = s.expect(0, "x", DType::F32, 2)?;
    Ok(TensorType::new(DType::F32, [x.shape[0], panels(x.shape[1])?]))
}

/// Checks the sums of squares of rows of the width that the first attribute says.
fn row_squares(s: &Signature, i: usize, tokens: Dim) -> Result<(), String> {
    let squares = s.expect(i, "squares", DType::F32, 2)?;
    same_dim("the tokens of the first operand and squares", tokens, squares.shape[0])?;
    let width = match s.attributes.first() {
        Some(Attr::Int(width)) => width.unsigned_abs(),
        _ => 0,
    };
    same_dim("the panels of width and those of squares", panels(Dim::Const(width))?, squares.shape[1])
}

pub(super) fn scale_rows(s: &Signature) -> Result<TensorType, String> {
    let y = s.reals(0, "y")?.clone();
    row_squares(s, 1, y.shape[0])?;
    if s.operands.len() == 3 {
        let y = s.rank(0, "y", 2)?;
        same_dim("the width of y and the length of bias", y.shape[1], s.expect(2, "bias", DType::F32, 1)?.shape[0])?;
    }
    Ok(y)
}

pub(super) fn column_partials(s: &Signature) -> Result<TensorType, String> {
    let x = scale_columns(s)?;
    let w = s.rank(2, "w", 2)?;
    if !w.dtype.is_real() {
        return Err("operand w: expected real numbers".into());
    }
    same_dim("the widths of x and w", x.shape[1], w.shape[1])?;
    Ok(TensorType::new(DType::F32, [x.shape[0], panels(x.shape[1])?, w.shape[0]]))
}

pub(super) fn finish_logits(s: &Signature) -> Result<TensorType, String> {
    let partials = s.expect(0, "partials", DType::F32, 3)?.clone();
    row_squares(s, 1, partials.shape[0])?;
    same_dim("the panels of partials and squares", partials.shape[1], s.operands[1].shape[1])?;
    if s.operands.len() == 3 {
        same_dim("the experts of partials and bias", partials.shape[2], s.expect(2, "bias", DType::F32, 1)?.shape[0])?;
    }
    Ok(TensorType::new(DType::F32, [partials.shape[0], partials.shape[2]]))
}

/// The types that the op's expansion gives.
pub(super) fn fused(s: &Signature) -> Result<ResultTypes, String> {
    let operands: Vec<Option<&TensorType>> = s.nodes.iter().map(|n| n.map(|n| &n.ty)).collect();
    let expansion = expand::expansion(s.op, &operands, s.attributes, &[])?;
    let mut types = expansion.outputs.iter().map(|(_, v)| expansion.node(*v).ty.clone());
    let first = types.next().ok_or("the op has no result")?;
    Ok((first, types.collect()))
}
