//! Rows of a packed table by their ids, as f32: `out[t, :] = table[ids[t], :]`, bit for bit `ir::quant::dequantize`.
//!
//! The parameters are [`EmbeddingParams`]. A block of the grid is one token. No scratch memory. All 16 rows of a panel
//! are widened to take one: that is a few microseconds a token and needs no code but the matmul's own. An id outside the
//! table, which the engine refuses before a launch, gives zeros.

use std::ffi::c_void;
use std::marker::PhantomData;
use std::ops::Range;

use ir::types::DType;

use super::CpuKernel;
use super::isa::Isa;
use super::matmul::weights::{self, CHUNK, Columns, GROUP, Panel};
use super::simd::{self, Body, LANES, Simd};
use crate::abi::EmbeddingParams;

/// The kernel for a table of type `table`; `None` for other types than weights, or if this machine lacks the instruction
/// set.
pub fn select(table: DType, isa: Isa) -> Option<CpuKernel> {
    weights::with_format!(table, W => simd::select::<Embedding<W>>(isa))
}

/// Blocks of the launch's grid.
pub fn blocks(params: &EmbeddingParams) -> usize {
    params.tokens as usize
}

/// Bytes of scratch memory: none.
pub fn scratch_bytes() -> usize {
    0
}

struct Embedding<W>(PhantomData<W>);

impl<W: Columns> Body for Embedding<W> {
    #[inline(always)]
    unsafe fn run<S: Simd>(params: *const c_void, blocks: Range<usize>, _: &mut [u8]) {
        // SAFETY: the caller passes valid parameters and blocks of the grid, one a token.
        unsafe {
            let params = &*params.cast::<EmbeddingParams>();
            let (rows, cols) = (params.rows as usize, params.cols as usize);
            for token in blocks {
                let id = *params.ids.add(token);
                let out = params.out.add(token * cols);
                match usize::try_from(id) {
                    Ok(row) if row < rows => {
                        let start = params.table.cast::<u8>().add(row / LANES * W::panel_bytes(cols));
                        gather::<W, S>(Panel { start, cols }, row % LANES, out);
                    }
                    _ => {
                        debug_assert!(false, "token id {id} is outside the table of {rows} rows");
                        out.write_bytes(0, cols);
                    }
                }
            }
        }
    }
}

/// Writes row `r` of a panel to `out`.
///
/// # Safety
/// The panel is whole, `out` has its columns.
#[inline(always)]
unsafe fn gather<W: Columns, S: Simd>(panel: Panel, r: usize, out: *mut f32) {
    let mut lanes = [[0.0; LANES]; CHUNK];
    let whole = panel.cols / CHUNK;
    // SAFETY: all chunks before `whole` are whole; the columns after them exist.
    unsafe {
        for chunk in 0..whole {
            let group = W::group::<S>(panel, chunk * CHUNK / GROUP);
            let columns = W::chunk::<S>(&group, chunk % (GROUP / CHUNK));
            for (i, &column) in columns.iter().enumerate() {
                S::store(lanes[i].as_mut_ptr(), column);
                *out.add(chunk * CHUNK + i) = lanes[i][r];
            }
        }
        for k in whole * CHUNK..panel.cols {
            S::store(lanes[0].as_mut_ptr(), W::column::<S>(panel, k));
            *out.add(k) = lanes[0][r];
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cpu::matmul::testing::Matrix;

    fn run(isa: Isa, dtype: DType, packed: &[u8], (rows, cols): (usize, usize), ids: &[i32]) -> Vec<f32> {
        let mut out = vec![f32::NAN; ids.len() * cols];
        let params = EmbeddingParams {
            ids: ids.as_ptr(),
            table: packed.as_ptr().cast(),
            out: out.as_mut_ptr(),
            tokens: ids.len() as u32,
            rows: rows as u32,
            cols: cols as u32,
            reserved: 0,
        };
        let kernel = select(dtype, isa).unwrap();
        // SAFETY: the buffers have the sizes the parameters say.
        unsafe { kernel((&raw const params).cast(), 0..blocks(&params), &mut []) };
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn rows_are_the_dequantised_ones(
            format in 0..ir::quant::FORMATS.len(), rows in 1usize..40, blocks in 1usize..4, odd in 0usize..40,
            seed in any::<u64>(), ids in prop::collection::vec(0usize..1000, 0..6),
        ) {
            let format = ir::quant::FORMATS[format];
            let cols = if format.block_len() == 1 { 32 * (blocks - 1) + odd + 1 } else { blocks * format.block_len() };
            let matrix = Matrix::random(format.dtype(), rows, cols, seed);
            let ids: Vec<i32> = ids.into_iter().map(|id| (id % rows) as i32).collect();
            let expected: Vec<f32> =
                ids.iter().flat_map(|&id| matrix.values[id as usize * cols..][..cols].iter().copied()).collect();
            for &isa in Isa::available() {
                let got = run(isa, format.dtype(), &matrix.packed, (rows, cols), &ids);
                let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                prop_assert_eq!(bits(&got), bits(&expected), "{} {}", isa, format.dtype());
            }
        }
    }

    /// Every integer, zero and size of scale that a checkpoint can bring, not only those that rounding makes.
    #[test]
    fn any_integers_and_scales_have_the_defined_values() {
        for format in ir::quant::FORMATS {
            for (rows, cols) in [(1, 32), (17, 160), (16, 256)] {
                let cols = if format.block_len() == 1 { cols - 3 } else { cols };
                let seed = rows as u64;
                let Some(matrix) = Matrix::assembled(format.dtype(), rows, cols, seed) else { continue };
                let ids: Vec<i32> = (0..rows as i32).collect();
                for &isa in Isa::available() {
                    let got = run(isa, format.dtype(), &matrix.packed, (rows, cols), &ids);
                    for (k, (got, expected)) in got.iter().zip(&matrix.values).enumerate() {
                        assert_eq!(got.to_bits(), expected.to_bits(), "{isa} {} element {k}", format.dtype());
                    }
                }
            }
        }
    }

    #[test]
    fn types_that_are_no_weights_have_no_kernel() {
        for dtype in [DType::I32, DType::Q8X32] {
            assert!(select(dtype, Isa::Portable).is_none());
        }
    }
}
