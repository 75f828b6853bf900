//! Sums over panels of 16 columns, and what is made of them: the parts of norms and routers that fused launches emit beside a
//! result, and that later launches finish.
//!
//! A panel is what one block of packed rows gives of a row, so that a product can emit its sums without waiting for other
//! blocks. Kernels of their own and fused ones call these functions with the same values: each fixes its order of operations,
//! and so its bits on every instruction set, however a launch is split.

use super::math::tree_sum;
use super::matmul::weights::{Columns, Panel};
use super::simd::{LANES, Simd};

/// Σ x² of a panel, absent columns 0: squares rounded, then added in a fixed tree.
#[inline(always)]
pub(crate) fn square_sum(panel: [f32; LANES]) -> f32 {
    let mut squares = panel;
    for lane in &mut squares {
        *lane *= *lane;
    }
    tree_sum(squares)
}

/// 1 / √(Σ squares / width + eps) of a row, whose panels are added in 16 lanes (lane = panel mod 16), then in a fixed tree.
#[inline(always)]
pub(crate) fn reciprocal_rms(squares: &[f32], width: usize, eps: f32) -> f32 {
    let (chunks, tail) = squares.as_chunks::<LANES>();
    let mut lanes = [0f32; LANES];
    for chunk in chunks {
        for l in 0..LANES {
            lanes[l] += chunk[l];
        }
    }
    for (lane, square) in lanes.iter_mut().zip(tail) {
        *lane += square;
    }
    1.0 / (tree_sum(lanes) / width as f32 + eps).sqrt()
}

/// A router as emissions read it: packed `[experts, cols]` (lane = expert), and the weights of the norm before it.
#[derive(Clone, Copy)]
pub(crate) struct Router {
    /// `[cols]`
    pub norm: *const f32,
    /// The packed matrix.
    pub w: *const u8,
    /// Its rows.
    pub experts: usize,
    /// Its columns.
    pub cols: usize,
}

impl Router {
    /// `out[e] = Σ x[c] · norm[c] · w[e, c]` over the columns of panel `panel`, given as `x` with absent columns 0: each column's
    /// `x · norm` is rounded, then one fused multiply-add a column, in their order.
    ///
    /// # Safety
    /// Needs the instruction set `S`; the router must be valid with weights `W`, `panel` one of its columns', `out` have room for `experts`.
    #[inline(always)]
    pub unsafe fn partials<S: Simd, W: Columns>(self, x: &[f32; LANES], panel: usize, out: *mut f32) {
        let first = panel * LANES;
        let count = LANES.min(self.cols - first);
        let panel_bytes = W::panel_bytes(self.cols);
        let mut scaled = [0f32; LANES];
        for expert in (0..self.experts).step_by(LANES) {
            // SAFETY: experts and columns exist; a panel has 16 lanes.
            unsafe {
                if expert == 0 {
                    for c in 0..count {
                        scaled[c] = x[c] * *self.norm.add(first + c);
                    }
                }
                let rows = Panel { start: self.w.add(expert / LANES * panel_bytes), cols: self.cols };
                let mut sum = S::zero();
                for (c, &x) in scaled.iter().enumerate().take(count) {
                    sum = S::fma(W::column::<S>(rows, first + c), S::splat(x), sum);
                }
                store(lanes_of::<S>(sum), out.add(expert), LANES.min(self.experts - expert));
            }
        }
    }
}

/// One row of router logits from its partial sums, `[panels][experts]`: panels are added in ascending order, the sum is multiplied
/// by the row's reciprocal root mean square, the bias is added.
///
/// # Safety
/// `partials` has `squares.len() · out.len()` values, `bias` is null or has `out.len()`.
#[inline(always)]
pub(crate) unsafe fn finish_logits(
    partials: *const f32,
    squares: &[f32],
    bias: *const f32,
    width: usize,
    eps: f32,
    out: &mut [f32],
) {
    let (experts, scale) = (out.len(), reciprocal_rms(squares, width, eps));
    out.fill(0.0);
    for panel in 0..squares.len() {
        // SAFETY: as the caller says.
        let partials = unsafe { std::slice::from_raw_parts(partials.add(panel * experts), experts) };
        for (sum, partial) in out.iter_mut().zip(partials) {
            *sum += partial;
        }
    }
    for (e, logit) in out.iter_mut().enumerate() {
        *logit *= scale;
        if !bias.is_null() {
            // SAFETY: as the caller says.
            *logit += unsafe { *bias.add(e) };
        }
    }
}

/// The lanes of a vector.
///
/// # Safety
/// Needs the instruction set `S`.
#[inline(always)]
pub(crate) unsafe fn lanes_of<S: Simd>(v: S::F) -> [f32; LANES] {
    let mut lanes = [0f32; LANES];
    // SAFETY: the caller has the instruction set; the array has 16 lanes.
    unsafe { S::store(lanes.as_mut_ptr(), v) };
    lanes
}

/// The first `count` values at `from`, then zeros.
///
/// # Safety
/// They are valid, and at most 16.
#[inline(always)]
pub(crate) unsafe fn load(from: *const f32, count: usize) -> [f32; LANES] {
    // SAFETY: as the caller says.
    unsafe {
        if count == LANES {
            return from.cast::<[f32; LANES]>().read_unaligned();
        }
        let mut panel = [0f32; LANES];
        from.copy_to_nonoverlapping(panel.as_mut_ptr(), count);
        panel
    }
}

/// Writes the first `count` lanes.
///
/// # Safety
/// There is room for them, and they are at most 16.
#[inline(always)]
pub(crate) unsafe fn store(panel: [f32; LANES], to: *mut f32, count: usize) {
    // SAFETY: as the caller says.
    unsafe {
        if count == LANES {
            to.cast::<[f32; LANES]>().write_unaligned(panel);
        } else {
            to.copy_from_nonoverlapping(panel.as_ptr(), count);
        }
    }
}
