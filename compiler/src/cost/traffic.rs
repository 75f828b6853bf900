//! Bytes of a launch: each operand once from memory, and what blocks read again from the shared cache.

use std::collections::BTreeSet;

use ir::program::{Access, Arg};
use ir::types::TensorType;

use super::TargetSpec;
use super::call::{Call, activation_row, packed, panel, product, writes};

/// Fields of what every block of rows reads again beside the activations: what scales its results, and what routes a step.
const SCALES: [&str; 1] = ["squares"];
const ROUTES: [&str; 3] = ["logits", "route_partials", "route_squares"];

/// Bytes from and to memory, and bytes read again from the cache.
pub(super) fn bytes(call: &Call, spec: &TargetSpec) -> (u64, u64) {
    let mut seen = BTreeSet::new();
    let mut bytes = 0u64;
    for (field, arg) in &call.launch.args {
        let Some(ty) = call.ty(arg) else { continue };
        // The same tensor twice is read once; a result over an operand is still written.
        if seen.insert((place(arg), writes(arg))) {
            bytes = bytes.saturating_add(operand_bytes(call, field, arg, ty));
        }
    }
    (bytes, read_again(call, spec))
}

/// Something to tell tensors apart by.
fn place(arg: &Arg) -> (u8, u32) {
    match arg {
        Arg::Buffer(id, _) => (0, id.0),
        Arg::Input(i) => (1, *i),
        Arg::Weight(i) => (2, *i),
        Arg::State(i, _) => (3, *i),
        Arg::Null | Arg::Size(_) | Arg::Float(_) => (4, 0),
    }
}

fn operand_bytes(call: &Call, field: &str, arg: &Arg, ty: &TensorType) -> u64 {
    match arg {
        Arg::State(_, Access::Read) => call.positions_read().saturating_mul(call.token_bytes(ty)),
        Arg::State(_, _) => call.tokens().saturating_mul(call.token_bytes(ty)),
        Arg::Input(_) if field == "page_table" => page_entries(call).saturating_mul(4),
        Arg::Buffer(_, Access::Update) => call.plain_bytes(ty).saturating_mul(2),
        _ if field == "table" && call.operand("ids").is_some() => rows_looked_up(call, ty),
        _ if field == "x" && call.operand("rows").is_some() => rows_gathered(call, ty),
        _ => selected(call, ty, tensor_bytes(call, field, ty)),
    }
}

/// A launch that reads the cache follows every page; one that appends finds the page of each token.
fn page_entries(call: &Call) -> u64 {
    let reads = call.launch.args.iter().any(|(_, arg)| matches!(arg, Arg::State(_, Access::Read)));
    if reads { call.pages_read() } else { call.tokens() }
}

/// The panel of each token's row, at most the whole table.
fn rows_looked_up(call: &Call, table: &TensorType) -> u64 {
    let [rows, cols] = call.shape(table)[..] else { return call.plain_bytes(table) };
    call.tokens().saturating_mul(panel(table.dtype, cols)).min(packed(table.dtype, rows, cols))
}

/// As many rows of `x` as the launch gives.
fn rows_gathered(call: &Call, x: &TensorType) -> u64 {
    call.operand("out").map_or_else(|| call.plain_bytes(x), |out| call.plain_bytes(out).min(call.plain_bytes(x)))
}

/// All of a tensor, a matrix in its packed panels.
fn tensor_bytes(call: &Call, field: &str, ty: &TensorType) -> u64 {
    let shape = call.shape(ty);
    match shape.as_slice() {
        [outer @ .., rows, cols] if Call::is_packed(field) => {
            product(outer).saturating_mul(packed(ty.dtype, *rows, *cols))
        }
        _ => call.plain_bytes(ty),
    }
}

/// Of a stack with one part a matrix, the parts that the step's tokens can select.
fn selected(call: &Call, ty: &TensorType, bytes: u64) -> u64 {
    match (call.stack(), call.shape(ty).as_slice()) {
        (Some((stack, selected)), [first, _, ..]) if *first == stack && stack > 0 => bytes / stack * selected,
        _ => bytes,
    }
}

/// What blocks of a product read after the first: activations and what scales or routes them, and where a launch goes through
/// slots in order instead of gathering the tokens of a matrix (`combine_down`), a matrix once a slot. Where activations are prepared, that
/// launch routes, and a block scales its own tokens only.
fn read_again(call: &Call, spec: &TargetSpec) -> u64 {
    let staged = call.activations_read().map_or(0, |x| {
        let all = call.staged_rows(spec).saturating_mul(activation_row(x.dtype, call.staged_cols()));
        all.saturating_sub(call.plain_bytes(x))
    });
    let bytes = |fields: &[&str]| {
        let of = |field: &&str| call.operand(field).map_or(0, |ty| call.plain_bytes(ty));
        fields.iter().map(of).fold(0, u64::saturating_add)
    };
    let scales = bytes(&SCALES).saturating_mul(scaling_blocks(call, spec).saturating_sub(1));
    let routes = bytes(&ROUTES).saturating_mul(routing_blocks(call, spec).saturating_sub(1));
    staged.saturating_add(scales).saturating_add(routes).saturating_add(matrices_again(call, spec))
}

/// Blocks that find a token's scale.
pub(super) fn scaling_blocks(call: &Call, spec: &TargetSpec) -> u64 {
    if !call.prepares(spec) {
        return blocks(call, spec);
    }
    let matrices_of_token = if call.stack().is_some() { call.slots() } else { 1 };
    call.row_blocks(spec).saturating_mul(matrices_of_token)
}

/// Blocks that route a token.
pub(super) fn routing_blocks(call: &Call, spec: &TargetSpec) -> u64 {
    if call.prepares(spec) { 1 } else { blocks(call, spec) }
}

/// Blocks of a product: those of every matrix that is selected.
fn blocks(call: &Call, spec: &TargetSpec) -> u64 {
    let selected = call.stack().map_or(1, |(_, selected)| selected.max(1));
    call.row_blocks(spec).saturating_mul(selected)
}

fn matrices_again(call: &Call, spec: &TargetSpec) -> u64 {
    if call.launch.kernel != "combine_down" || call.prepares(spec) {
        return 0;
    }
    let Some((_, matrix)) = call.matrices().next() else { return 0 };
    let bytes = call.operand("w").map_or(0, |ty| packed(ty.dtype, matrix.rows, matrix.cols));
    let visits = call.tokens().saturating_mul(call.slots());
    let selected = call.stack().map_or(visits, |(_, selected)| selected);
    bytes.saturating_mul(visits - selected.min(visits))
}
