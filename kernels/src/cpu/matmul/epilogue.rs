//! What fused products do with their sums, row by row and panel by panel, in the order and by the functions of the kernels
//! that do only that: `scale_rows`, a product's bias.

use super::block::MOST_ROWS;
use crate::cpu::grouped_matmul::groups::Pairs;
use crate::cpu::panel_sums;
use crate::cpu::simd::{LANES, Simd};

/// What the sums of each staged row are multiplied by: its reciprocal root mean square, by sums of squares that another launch
/// emitted.
pub(crate) struct RowScales([f32; MOST_ROWS]);

impl RowScales {
    /// The scales of the rows of `pairs`, of tokens `pair / pairs_per_token`, by their squares `[tokens, ceil(width / 16)]`; `None` if
    /// those are null.
    ///
    /// # Safety
    /// The squares must be valid or null.
    pub unsafe fn new(
        (squares, width, eps): (*const f32, usize, f32),
        pairs: Pairs<'_>,
        pairs_per_token: usize,
    ) -> Option<RowScales> {
        if squares.is_null() {
            return None;
        }
        let (mut scales, panels) = ([0.0; MOST_ROWS], width.div_ceil(LANES));
        let mut last = None;
        for (i, scale) in scales.iter_mut().enumerate().take(pairs.len()) {
            let token = pairs.get(i) / pairs_per_token;
            // Neighbouring pairs are often of one token.
            *scale = match last {
                Some((of, known)) if of == token => known,
                _ => {
                    // SAFETY: each token has its panels.
                    let squares = unsafe { std::slice::from_raw_parts(squares.add(token * panels), panels) };
                    panel_sums::reciprocal_rms(squares, width, eps)
                }
            };
            last = Some((token, *scale));
        }
        Some(RowScales(scales))
    }
}

/// Sums of one row, scaled and with their bias: a product rounded after each step.
///
/// # Safety
/// Needs the instruction set `S`; `row` is less than the rows staged.
#[inline(always)]
pub(crate) unsafe fn scale_and_bias<S: Simd>(
    sums: &[f32; LANES],
    row: usize,
    scales: &Option<RowScales>,
    bias: &Option<[f32; LANES]>,
) -> S::F {
    // SAFETY: arrays have 16 lanes.
    unsafe {
        let mut v = S::load(sums.as_ptr());
        if let Some(RowScales(scales)) = scales {
            v = S::mul(v, S::splat(scales[row]));
        }
        match bias {
            Some(bias) => S::add(v, S::load(bias.as_ptr())),
            None => v,
        }
    }
}

/// The bias of a panel of a matrix of `rows` rows, absent lanes 0; `None` if it is null.
///
/// # Safety
/// The bias must be null or have `rows` elements, and the panel exist.
#[inline(always)]
pub(crate) unsafe fn panel_bias(bias: *const f32, rows: usize, panel: usize) -> Option<[f32; LANES]> {
    if bias.is_null() {
        return None;
    }
    let row = panel * LANES;
    // SAFETY: as the caller says.
    Some(unsafe { panel_sums::load(bias.add(row), LANES.min(rows - row)) })
}

/// The first `count` values at `from`, then zeros.
///
/// # Safety
/// Needs the instruction set `S`; they are valid and at most 16.
#[inline(always)]
pub(crate) unsafe fn load_columns<S: Simd>(from: *const f32, count: usize) -> S::F {
    // SAFETY: as the caller says.
    unsafe { if count == LANES { S::load(from) } else { S::load(panel_sums::load(from, count).as_ptr()) } }
}

/// Writes the first `count` lanes.
///
/// # Safety
/// Needs the instruction set `S`; there is room for them, and they are at most 16.
#[inline(always)]
pub(crate) unsafe fn store_columns<S: Simd>(v: S::F, to: *mut f32, count: usize) {
    // SAFETY: as the caller says.
    unsafe {
        if count == LANES {
            S::store(to, v);
        } else {
            panel_sums::store(panel_sums::lanes_of::<S>(v), to, count);
        }
    }
}
