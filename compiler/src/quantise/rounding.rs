//! From values to stored rows: strips of rows in parallel, each row by a rule that chooses its grids.

use std::sync::Mutex;

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef, Par};
use ir::quant::{self, QuantError};
use ir::types::DType;

use super::QuantiseError;
use super::levels::{CodedRow, Grid, Levels};
use super::matrix::for_each;

/// Rows rounded together.
const STRIP: usize = 64;

/// Ranges tried when grids are clipped: 1.0, 0.975, … down to half.
const CLIPS: usize = 21;

/// What each try takes off the range.
const CLIP_STEP: f32 = 0.025;

/// Bytes of a row of `cols` values of a format.
///
/// # Errors
/// A type that is no format, or a row length it has not.
pub fn row_bytes(dtype: DType, cols: usize) -> Result<usize, QuantError> {
    let format = quant::format(dtype).ok_or(QuantError::NoFormat { dtype })?;
    let columns = QuantError::Columns { dtype, block: format.block_len(), cols };
    format.row_bytes(cols).filter(|bytes| *bytes > 0).ok_or(columns)
}

/// Writes `values[rows, cols]` strip by strip; `write` fills the rows of one strip.
fn write_strips(
    values: &[f32],
    cols: usize,
    dtype: DType,
    threads: usize,
    write: impl Fn(&[f32], &mut [u8], usize) -> Result<(), QuantError> + Sync,
) -> Result<Vec<u8>, QuantError> {
    let row_bytes = row_bytes(dtype, cols)?;
    let mut out = vec![0; values.len() / cols * row_bytes];
    let failed = Mutex::new(None);
    let strips = values.chunks(STRIP * cols).zip(out.chunks_mut(STRIP * row_bytes)).enumerate();
    for_each(strips, threads, |(i, (strip, out))| {
        if let Err(source) = write(strip, out, row_bytes) {
            // Of several failures the first strip's is told, whichever thread comes first.
            let mut failed = failed.lock().unwrap_or_else(|e| e.into_inner());
            if failed.as_ref().is_none_or(|(first, _)| i < *first) {
                *failed = Some((i, source));
            }
        }
    });
    match failed.into_inner().unwrap_or_else(|e| e.into_inner()) {
        Some((_, source)) => Err(source),
        None => Ok(out),
    }
}

/// Rounds `values[rows, cols]` to row-major bytes; `round` gives the rows of a strip.
///
/// # Errors
/// A row that the format cannot hold.
pub fn encode(
    values: &[f32],
    cols: usize,
    levels: Levels,
    name: &str,
    threads: usize,
    round: impl Fn(&[f32]) -> Result<Vec<CodedRow>, QuantError> + Sync,
) -> Result<Vec<u8>, QuantiseError> {
    let write = |strip: &[f32], out: &mut [u8], row_bytes: usize| {
        let mut rows = round(strip)?.into_iter().zip(out.chunks_exact_mut(row_bytes));
        rows.try_for_each(|(row, out)| levels.assemble(&row, out))
    };
    write_strips(values, cols, levels.dtype(), threads, write)
        .map_err(|source| QuantiseError::Format { weight: name.into(), source })
}

/// How much the error of each weight counts in the search for its group's scale.
#[derive(Clone, Copy, Debug)]
pub enum Weighting<'a> {
    /// All alike.
    Even,
    /// By column: the mean squares of the inputs, `[cols]`.
    Inputs(&'a [f32]),
    /// By the weight's own square, where nothing is known of the inputs: large weights are kept, which an even search would
    /// clip to gain a little on many small ones.
    Squares,
}

/// Round-to-nearest, with the scale search of the format.
///
/// # Errors
/// A value that the format cannot hold.
pub fn round_to_nearest(
    values: &[f32],
    cols: usize,
    dtype: DType,
    weighting: Weighting,
    name: &str,
    threads: usize,
) -> Result<Vec<u8>, QuantiseError> {
    let fail = |source| QuantiseError::Format { weight: name.into(), source };
    let format = quant::format(dtype).ok_or(fail(QuantError::NoFormat { dtype }))?;
    // What a narrower float cannot hold would become infinite without a word.
    let largest = if dtype == DType::F16 { 65504.0 } else { f32::MAX };
    if let Some(x) = values.iter().find(|x| x.is_nan() || x.abs() > largest) {
        let message =
            format!("the value {x} cannot be stored as {dtype}; choose another format for it with --quant-override");
        return Err(QuantiseError::Weight { weight: name.into(), message });
    }
    write_strips(values, cols, dtype, threads, |strip, out, row_bytes| {
        let mut rows = strip.chunks_exact(cols).zip(out.chunks_exact_mut(row_bytes));
        rows.try_for_each(|(row, out)| match weighting {
            Weighting::Even => format.quantize_row_searched(row, None, out),
            Weighting::Inputs(importance) => format.quantize_row_searched(row, Some(importance), out),
            Weighting::Squares => {
                let squares: Vec<f32> = row.iter().map(|w| w * w).collect();
                format.quantize_row_searched(row, Some(&squares), out)
            }
        })
    })
    .map_err(fail)
}

/// Rounds with grids clipped for the least output error: that of a group's difference `d` is `dᵀ H d` with the group's block of the
/// Hessian, `blocks[group]`, `[len, len]`. The clipping search of AWQ, over all tokens instead of a sample.
///
/// # Errors
/// A row that the format cannot hold.
pub fn round_clipped(
    values: &[f32],
    cols: usize,
    levels: Levels,
    blocks: &[Vec<f32>],
    name: &str,
    threads: usize,
) -> Result<Vec<u8>, QuantiseError> {
    let group = levels.group(cols);
    encode(values, cols, levels, name, threads, |strip| {
        let rows: Vec<&[f32]> = strip.chunks_exact(cols).collect();
        let mut grids = rows.iter().map(|row| levels.full_range(row)).collect::<Result<Vec<_>, _>>()?;
        for (i, block) in blocks.iter().enumerate() {
            let members: Vec<&[f32]> = rows.iter().map(|row| &row[i * group..cols.min((i + 1) * group)]).collect();
            let full: Vec<Grid> = grids.iter().map(|row| row[i]).collect();
            grids.iter_mut().zip(clip(&members, &full, block, levels)).for_each(|(row, grid)| row[i] = grid);
        }
        Ok(rows.into_iter().zip(grids).map(|(row, grids)| levels.round_row(row, grids)).collect())
    })
}

/// The best grid of one group in each of several rows.
fn clip(members: &[&[f32]], full: &[Grid], block: &[f32], levels: Levels) -> Vec<Grid> {
    let len = members.first().map_or(0, |m| m.len());
    let block = MatRef::from_row_major_slice(block, len, len);
    let mut best: Vec<(f64, Grid)> = full.iter().map(|grid| (f64::INFINITY, *grid)).collect();
    let mut differences = vec![0f32; len * members.len()];
    let mut product = Mat::<f32>::zeros(len, members.len());
    for step in 0..CLIPS {
        let grids: Vec<Grid> = full.iter().map(|g| levels.scaled(*g, 1.0 - CLIP_STEP * step as f32)).collect();
        for ((out, member), grid) in differences.chunks_exact_mut(len).zip(members).zip(&grids) {
            levels.differences(*grid, member, out);
        }
        let columns = MatRef::from_column_major_slice(&differences, len, members.len());
        matmul(product.as_mut(), Accum::Replace, block, columns, 1.0, Par::Seq);
        for (r, (best, grid)) in best.iter_mut().zip(grids).enumerate() {
            let pairs = product.col(r).iter().zip(columns.col(r).iter());
            let error = pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
            if error < best.0 {
                *best = (error, grid);
            }
        }
    }
    best.into_iter().map(|(_, grid)| grid).collect()
}
