//! The gated half of a feed-forward network: `activation(x · w_gateᵀ) ∘ (x · w_upᵀ)`, of one pair of matrices or of each selected
//! expert's.
//!
//! The parameters are [`GateUpParams`]. Both products walk the same staged rows, panel by panel, and meet in registers; neither is
//! written to memory. Pairs of tokens and slots are grouped by expert as `grouped_matmul` does. A routed launch finds the experts
//! itself: each call repeats the selection, which is little beside the matrices, and the one of the first block publishes it.
//! The bits are those of the kernels it stands for, launched one after the other.

#[cfg(test)]
mod tests;

use std::ffi::c_void;
use std::marker::PhantomData;
use std::ops::Range;

use ir::types::DType;

use super::binary::{ClampedSwigluMul, GeluMul, GeluTanhMul, Operation, Relu2Mul, SiluMul};
use super::grouped_matmul::groups::{self, Grouping, Item, Pairs};
use super::grouped_matmul::{self, grid, split_words, walk};
use super::isa::Isa;
use super::matmul::block::{self, Epilogue, Finisher, Multiplier, Sink, Tile};
use super::matmul::epilogue::{RowScales, panel_bias, scale_and_bias};
use super::matmul::prologue::{self, Norm, ProductTypes, Rounding, Rows, select_product};
use super::matmul::tile::Product;
use super::simd::{self, Body, LANES, Simd};
use super::{CpuKernel, SCRATCH_ALIGN, panel_sums, route};
use crate::abi::{GateUpParams, GroupedMatmulParams, RouteParams};

/// Activations in the order of their numbers in parameters.
pub const ACTIVATIONS: &[&str] = &["silu", "gelu_tanh", "gelu", "relu2", "clamped_swiglu"];

/// Scorings in the order of their numbers in parameters.
pub const SCORINGS: &[&str] = &["softmax", "sigmoid", "sparsemixer"];

/// Number of the routing where experts are given.
const GIVEN: u32 = 1;

/// Number of the routing where the launch selects experts.
const SELECTED: u32 = 2;

/// The kernel of a variant over [`GateUpParams`]; `None` if there is none or this machine lacks the instruction set.
pub fn select(variant: &str, isa: Isa) -> Option<CpuKernel> {
    select_product!(GateUp, variant, isa)
}

/// Blocks of the launch's grid; 0 of an unknown variant.
pub fn blocks(variant: &str, params: &GateUpParams) -> usize {
    let Some(types) = ProductTypes::parse(variant) else { return 0 };
    grid(&grouping(params, params.experts), block::item_rows(types.activations), params.rows as usize)
}

/// Bytes of scratch memory, for launches of at most this many tokens; 0 of an unknown variant.
pub fn scratch_bytes(variant: &str, params: &GateUpParams) -> usize {
    let Some(types) = ProductTypes::parse(variant) else { return 0 };
    let (pairs, cols) = (params.tokens as usize * params.slots as usize, params.cols as usize);
    prologue::scratch_bytes(types.rounding, params.norm, cols)
        + routing_bytes(params)
        + block::staging_bytes(types.activations, pairs, cols)
        + groups::words(&grouping(params, params.experts)) * size_of::<u32>()
}

/// How many pairs of matrices a launch reads; for a routed one, whose experts are not known before, the most that it can.
///
/// # Safety
/// The experts must be valid for the counts beside them, or null.
pub unsafe fn matrices_read(params: &GateUpParams) -> usize {
    let GateUpParams { tokens, slots, matrices, .. } = *params;
    if params.routing == SELECTED {
        return (tokens as usize * slots as usize).min(matrices as usize);
    }
    let experts = if params.routing == GIVEN { params.experts } else { std::ptr::null() };
    let params = GroupedMatmulParams { experts, tokens, slots, matrices, ..GroupedMatmulParams::default() };
    // SAFETY: the caller's.
    unsafe { grouped_matmul::matrices_read(&params) }
}

/// The launch's pairs, with those experts if it has any.
fn grouping(p: &GateUpParams, experts: *const i32) -> Grouping {
    let experts = (p.routing != 0).then_some(experts);
    Grouping { tokens: p.tokens as usize, slots: p.slots as usize, matrices: p.matrices as usize, experts }
}

/// The selection of a routed launch, without its results.
fn selection(p: &GateUpParams) -> RouteParams {
    RouteParams {
        logits: p.logits,
        partials: p.route_partials,
        squares: p.route_squares,
        logits_bias: p.route_bias,
        bias: p.correction,
        selected: std::ptr::null_mut(),
        weights: std::ptr::null_mut(),
        tokens: p.tokens,
        experts: p.matrices,
        slots: p.slots,
        groups: p.groups,
        top_groups: p.top_groups,
        renormalise: p.renormalise,
        width: p.route_width,
        eps: p.route_eps,
        scale: p.scale,
        jitter: p.jitter,
    }
}

/// Bytes of scratch memory for the selection: what selecting takes, and the experts of every pair.
fn routing_bytes(p: &GateUpParams) -> usize {
    if p.routing != SELECTED {
        return 0;
    }
    let pairs = p.tokens as usize * p.slots as usize;
    route::scratch_bytes(&selection(p)) + (pairs * size_of::<i32>()).next_multiple_of(SCRATCH_ALIGN)
}

/// The kernel of product `K`, for which the launch rounds x as [`Rounding::from_number`] says.
struct GateUp<K, const ROUNDING: u8>(PhantomData<K>);

impl<K: Product, const ROUNDING: u8> Body for GateUp<K, ROUNDING> {
    #[inline(always)]
    unsafe fn run<S: Simd>(params: *const c_void, blocks: Range<usize>, scratch: &mut [u8]) {
        let types = (K::ACTIVATIONS, Rounding::from_number(ROUNDING));
        // SAFETY: the caller passes valid parameters and blocks of their grid.
        unsafe { execute::<S>(&*params.cast(), types, Multiplier::new::<S, K>(), blocks, scratch) };
    }
}

/// Executes blocks of a launch.
///
/// # Safety
/// The parameters must be valid, and the blocks of their grid.
unsafe fn execute<S: Simd>(
    p: &GateUpParams,
    types: (DType, Rounding),
    multiplier: Multiplier,
    blocks: Range<usize>,
    scratch: &mut [u8],
) {
    let (rows, cols, slots) = (p.rows as usize, p.cols as usize, p.slots as usize);
    let (preparing, scratch) = scratch.split_at_mut(prologue::scratch_bytes(types.1, p.norm, cols));
    let (routing, scratch) = scratch.split_at_mut(routing_bytes(p));
    let experts = if p.routing == SELECTED {
        // SAFETY: the caller's parameters; the scratch memory is as long as was asked for.
        unsafe { select_all::<S>(p, blocks.start == 0, routing) }
    } else {
        p.experts
    };
    let grouping = grouping(p, experts);
    let (staging, words) = split_words(scratch, groups::words(&grouping));
    let norm = Norm { kind: p.norm, weight: p.norm_weight, bias: p.norm_bias, eps: p.norm_eps };
    let x = Rows::new::<S>(p.x, cols, types, norm, preparing);
    let pairs_per_row = if p.slots_share_x == 0 { 1 } else { slots };
    let matrix_bytes = multiplier.matrix_bytes(rows, cols);
    let work = |item: Item<'_>, panels: Range<usize>| {
        // SAFETY: items are of pairs that exist, panels of their matrix.
        unsafe {
            let scales = RowScales::new((p.squares, cols, p.eps), item.pairs, slots);
            let biases = [p.gate_bias, p.up_bias].map(|bias| match item.matrix {
                Some(matrix) if !bias.is_null() => bias.add(matrix * rows),
                _ => std::ptr::null(),
            });
            let gate = Gate { p, pairs: item.pairs, biases, scales };
            let finisher = Finisher::new::<S, Gate<'_>>(&gate);
            let Some(matrix) = item.matrix else {
                return finisher.finish_zeros(item.pairs.len(), panels);
            };
            let staged = multiplier.stage(&x, item.pairs, pairs_per_row, staging);
            let matrices = [p.w_gate, p.w_up].map(|w| w.cast::<u8>().add(matrix * matrix_bytes));
            multiplier.multiply(staged, matrices, panels, &Sink::Finish(finisher));
        }
    };
    // SAFETY: experts that were given are the caller's, others have just been selected.
    unsafe { walk(grouping, (multiplier.item_rows, rows), blocks, words, work) };
}

/// Selects the experts of all tokens; with `publish` writes them and their weights out.
///
/// # Safety
/// The parameters must be valid, and `scratch` hold [`routing_bytes`].
unsafe fn select_all<S: Simd>(p: &GateUpParams, publish: bool, scratch: &mut [u8]) -> *const i32 {
    let params = selection(p);
    let (ranking, selected) = scratch.split_at_mut(route::scratch_bytes(&params));
    let selected = selected.as_mut_ptr().cast::<i32>();
    let weights = if publish { p.weights_out } else { std::ptr::null_mut() };
    let params = RouteParams { selected, weights, ..params };
    // SAFETY: the caller's; the function takes these parameters, and its grid is of all tokens.
    unsafe {
        route::of_scoring::<S>(p.scoring)((&raw const params).cast(), 0..route::blocks(&params), ranking);
        if publish {
            let pairs = p.tokens as usize * p.slots as usize;
            p.experts_out.copy_from_nonoverlapping(selected, pairs);
        }
    }
    selected
}

/// The gate over both products of `pairs`.
struct Gate<'a> {
    p: &'a GateUpParams,
    pairs: Pairs<'a>,
    biases: [*const f32; 2],
    scales: Option<RowScales>,
}

impl Epilogue for Gate<'_> {
    #[inline(always)]
    unsafe fn finish<S: Simd>(&self, tile: &Tile<'_>) {
        let (rows, row) = (self.p.rows as usize, tile.panel * LANES);
        let count = LANES.min(rows - row);
        // SAFETY: the parameters are valid for these pairs and rows.
        unsafe {
            let gate_bias = panel_bias(self.biases[0], rows, tile.panel);
            let up_bias = panel_bias(self.biases[1], rows, tile.panel);
            for (t, (gate, up)) in tile.sums.iter().zip(tile.second).enumerate() {
                let staged = tile.first + t;
                let gate = panel_sums::lanes_of::<S>(scale_and_bias::<S>(gate, staged, &self.scales, &gate_bias));
                let up = panel_sums::lanes_of::<S>(scale_and_bias::<S>(up, staged, &self.scales, &up_bias));
                let gated = glu(self.p.activation, &gate, &up, self.p.limit);
                panel_sums::store(gated, self.p.out.add(self.pairs.get(staged) * rows + row), count);
            }
        }
    }
}

/// The activation of that number over a panel.
#[inline(always)]
fn glu(activation: u32, gate: &[f32; LANES], up: &[f32; LANES], limit: f32) -> [f32; LANES] {
    match activation {
        0 => apply::<SiluMul>(gate, up, limit),
        1 => apply::<GeluTanhMul>(gate, up, limit),
        2 => apply::<GeluMul>(gate, up, limit),
        3 => apply::<Relu2Mul>(gate, up, limit),
        _ => apply::<ClampedSwigluMul>(gate, up, limit),
    }
}

#[inline(always)]
fn apply<O: Operation>(gate: &[f32; LANES], up: &[f32; LANES], limit: f32) -> [f32; LANES] {
    let mut out = [0f32; LANES];
    for l in 0..LANES {
        out[l] = O::apply(gate[l], up[l], limit);
    }
    out
}
