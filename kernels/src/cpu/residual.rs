//! What closes a branch of the residual stream: `factor · y + residual`, panel by panel, and the squares of the sum.
//!
//! Product and sum are rounded each, as the kernels `unary` (scale) and `binary` (add) do.

use super::panel_sums::{load, square_sum, store};
use super::simd::LANES;

/// Where one row of a branch goes.
#[derive(Clone, Copy)]
pub(crate) struct ResidualRow {
    /// The stream before, `[cols]`, or null for 0 that is not added.
    pub residual: *const f32,
    /// The stream after, `[cols]`; may be `residual`.
    pub out: *mut f32,
    /// A sum of squares a panel of the stream after, or null.
    pub squares: *mut f32,
    /// Columns of the row.
    pub cols: usize,
    /// What the branch is multiplied by.
    pub factor: f32,
}

impl ResidualRow {
    /// Adds the branch's columns of a panel, of which those past the row's end do not matter.
    ///
    /// # Safety
    /// The pointers must be valid for the row, the panel one of its.
    #[inline(always)]
    pub unsafe fn add(self, mut y: [f32; LANES], panel: usize) {
        let first = panel * LANES;
        let count = LANES.min(self.cols - first);
        // SAFETY: as the caller says.
        unsafe {
            for lane in &mut y {
                *lane *= self.factor;
            }
            if !self.residual.is_null() {
                let residual = load(self.residual.add(first), count);
                for l in 0..LANES {
                    y[l] += residual[l];
                }
            }
            store(y, self.out.add(first), count);
            if !self.squares.is_null() {
                y[count..].fill(0.0);
                *self.squares.add(panel) = square_sum(y);
            }
        }
    }
}
