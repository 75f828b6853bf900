//! A product with what stands around it: `out = f(norm(x) · wᵀ) + residual`, and the partial sums of the result.
//!
//! The parameters are [`ProjectParams`]. The bits are those of the kernels it stands for, launched one after the other: the rows
//! are prepared by the functions of the norms and of `quantize_rows`, the product is `matmul`'s, and each step of the epilogue
//! is rounded as the kernel of that step does. A panel of 16 rows of the weights makes one panel of the result, whose squares
//! and router partials are emitted from registers, without waiting for the rest of the row.

#[cfg(test)]
mod tests;

use std::ffi::c_void;
use std::marker::PhantomData;
use std::ops::Range;

use ir::types::DType;

use super::grouped_matmul::groups::{Grouping, Item};
use super::grouped_matmul::{grid, walk};
use super::isa::Isa;
use super::matmul::block::{self, Epilogue, Finisher, Multiplier, Sink, Tile};
use super::matmul::epilogue::{RowScales, load_columns, panel_bias, scale_and_bias, store_columns};
use super::matmul::prologue::{self, Norm, ProductTypes, Rounding, Rows, select_product};
use super::matmul::tile::Product;
use super::matmul::weights::{BF16, F16, F32, Floats};
use super::panel_sums::{self, Router};
use super::simd::{self, Body, LANES, Simd};
use super::unary::{Operation, Softcap};
use super::{CpuKernel, math};
use crate::abi::ProjectParams;

/// Types of the routers whose partial sums are emitted, in the order of their numbers in parameters.
pub const ROUTER_TYPES: &[DType] = &[DType::F32, DType::F16, DType::BF16];

/// The kernel of a variant over [`ProjectParams`]; `None` if there is none or this machine lacks the instruction set.
pub fn select(variant: &str, isa: Isa) -> Option<CpuKernel> {
    select_product!(Project, variant, isa)
}

/// Blocks of the launch's grid; 0 of an unknown variant.
pub fn blocks(variant: &str, params: &ProjectParams) -> usize {
    let Some(types) = ProductTypes::parse(variant) else { return 0 };
    grid(&Grouping::single(params.tokens), block::item_rows(types.activations), params.rows as usize)
}

/// Bytes of scratch memory, for launches of at most this many tokens; 0 of an unknown variant.
pub fn scratch_bytes(variant: &str, params: &ProjectParams) -> usize {
    let Some(types) = ProductTypes::parse(variant) else { return 0 };
    let (tokens, cols) = (params.tokens as usize, params.cols as usize);
    prologue::scratch_bytes(types.rounding, params.norm, cols) + block::staging_bytes(types.activations, tokens, cols)
}

/// The kernel of product `K`, for which the launch rounds x as [`Rounding::from_number`] says.
struct Project<K, const ROUNDING: u8>(PhantomData<K>);

impl<K: Product, const ROUNDING: u8> Body for Project<K, ROUNDING> {
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
    p: &ProjectParams,
    types: (DType, Rounding),
    multiplier: Multiplier,
    blocks: Range<usize>,
    scratch: &mut [u8],
) {
    let (rows, cols) = (p.rows as usize, p.cols as usize);
    let (preparing, staging) = scratch.split_at_mut(prologue::scratch_bytes(types.1, p.norm, cols));
    let norm = Norm { kind: p.norm, weight: p.norm_weight, bias: p.norm_bias, eps: p.norm_eps };
    let x = Rows::new::<S>(p.x, cols, types, norm, preparing);
    let work = |item: Item<'_>, panels: Range<usize>| {
        // SAFETY: items are of tokens that exist, panels of the matrix; scratch memory is as long as was asked for.
        unsafe {
            let staged = multiplier.stage(&x, item.pairs, 1, staging);
            let scales = RowScales::new((p.squares, cols, p.eps), item.pairs, 1);
            let steps = Steps { p, first: item.pairs.get(0), scales };
            let sink = Sink::Finish(Finisher::new::<S, Steps<'_>>(&steps));
            multiplier.multiply(staged, [p.w.cast(), std::ptr::null()], panels, &sink);
        }
    };
    // SAFETY: there are no experts.
    unsafe { walk(Grouping::single(p.tokens), (multiplier.item_rows, rows), blocks, &mut [], work) };
}

/// What follows the product, for the tokens from `first` on that are staged.
struct Steps<'a> {
    p: &'a ProjectParams,
    first: usize,
    scales: Option<RowScales>,
}

impl Epilogue for Steps<'_> {
    #[inline(always)]
    unsafe fn finish<S: Simd>(&self, tile: &Tile<'_>) {
        let (rows, residual) = (self.p.rows as usize, self.p.residual);
        let count = LANES.min(rows - tile.panel * LANES);
        let emits = !self.p.squares_out.is_null() || !self.p.partials_out.is_null();
        // SAFETY: the parameters are valid for these tokens and rows. `out` may be `residual`: each element is read before it is
        // written.
        unsafe {
            let bias = panel_bias(self.p.bias, rows, tile.panel);
            for (t, sums) in tile.sums.iter().enumerate() {
                let token = self.first + tile.first + t;
                let at = token * rows + tile.panel * LANES;
                let v = scale_and_bias::<S>(sums, tile.first + t, &self.scales, &bias);
                let mut v = self.gate_and_bound::<S>(v, token);
                if !residual.is_null() {
                    v = S::add(load_columns::<S>(residual.add(at), count), v);
                }
                store_columns::<S>(v, self.p.out.add(at), count);
                if emits {
                    self.emit::<S>(v, count, token, tile.panel);
                }
            }
        }
    }
}

impl Steps<'_> {
    /// By the sigmoid of the token's gate, by the factor, bounded.
    #[inline(always)]
    unsafe fn gate_and_bound<S: Simd>(&self, mut v: S::F, token: usize) -> S::F {
        let (gate, factor, softcap) = (self.p.gate, self.p.factor, self.p.softcap);
        // SAFETY: a gate that is given has a value for each token.
        unsafe {
            if !gate.is_null() {
                v = S::mul(v, S::splat(math::sigmoid(*gate.add(token))));
            }
            v = S::mul(v, S::splat(factor));
            if softcap > 0.0 {
                let mut lanes = panel_sums::lanes_of::<S>(v);
                for lane in &mut lanes {
                    *lane = Softcap::apply(*lane, softcap);
                }
                v = S::load(lanes.as_ptr());
            }
            v
        }
    }

    /// Writes the partial sums that are asked for of a panel whose first `count` columns exist.
    #[inline(always)]
    unsafe fn emit<S: Simd>(&self, v: S::F, count: usize, token: usize, panel: usize) {
        let ProjectParams { squares_out, partials_out, router_norm: norm, router, router_rows, router_type, .. } =
            *self.p;
        let rows = self.p.rows as usize;
        let place = token * rows.div_ceil(LANES) + panel;
        // SAFETY: there is a place for each token and panel; the router is of the type that it is said to be.
        unsafe {
            let mut lanes = panel_sums::lanes_of::<S>(v);
            if count < LANES {
                lanes[count..].fill(0.0);
            }
            if !squares_out.is_null() {
                *squares_out.add(place) = panel_sums::square_sum(lanes);
            }
            if !partials_out.is_null() {
                let experts = router_rows as usize;
                let router = Router { norm, w: router.cast(), experts, cols: rows };
                let to = partials_out.add(place * experts);
                match router_type {
                    0 => router.partials::<S, Floats<F32>>(&lanes, panel, to),
                    1 => router.partials::<S, Floats<F16>>(&lanes, panel, to),
                    _ => router.partials::<S, Floats<BF16>>(&lanes, panel, to),
                }
            }
        }
    }
}
