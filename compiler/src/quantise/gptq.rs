//! GPTQ: rounds a matrix column by column and makes each column's error good in the columns not yet rounded.
//!
//! Frantar, Ashkboos, Hoefler, Alistarh, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers" (2022).
//! Columns are taken by falling diagonal of the Hessian. Grids belong to the groups as they are stored and are chosen before
//! the first column is rounded, from the original weights, so that groups stay contiguous and the runtime needs no index.
//! Rows do not depend on each other; strips of them are rounded in parallel.

use faer::{MatMut, MatRef};
use ir::quant::QuantError;

use super::QuantiseError;
use super::levels::{CodedRow, Levels};
use super::matrix::{Moments, inverse_factor, subtract_product};
use super::rounding::encode;

/// Share of the mean diagonal added to the diagonal.
const DAMPING: f64 = 0.01;

/// How often the damping is raised tenfold before giving up.
const RETRIES: i32 = 2;

/// Columns whose errors are spread together over those after them.
const BLOCK: usize = 128;

/// What GPTQ needs to know of a product's inputs, for any number of matrices that read them.
pub struct Factor {
    /// Columns in the order they are rounded.
    order: Vec<usize>,
    /// `U` of `H⁻¹ = Uᵀ U` in that order, row-major.
    upper: Vec<f32>,
    /// The Hessian's diagonal, in stored order: what each column's error counts when grids are chosen.
    importance: Vec<f32>,
}

impl Factor {
    /// Factorises the Hessian of the inputs of `weight`.
    ///
    /// # Errors
    /// A Hessian that is not positive definite even with 100 times the usual damping.
    pub fn of(moments: &Moments, weight: &str) -> Result<Factor, QuantiseError> {
        let importance = moments.diagonal();
        let mut order: Vec<usize> = (0..importance.len()).collect();
        order.sort_by(|a, b| importance[*b].total_cmp(&importance[*a]).then(a.cmp(b)));
        let mean = importance.iter().map(|x| f64::from(*x)).sum::<f64>() / importance.len().max(1) as f64;
        for retry in 0..=RETRIES {
            let damping = DAMPING * 10f64.powi(retry);
            if let Some(upper) = inverse_factor(moments, &order, damping * mean) {
                return Ok(Factor { order, upper, importance });
            }
        }
        Err(QuantiseError::Singular { weight: weight.into(), damping: DAMPING * 10f64.powi(RETRIES) })
    }
}

/// Rounds `weights[rows, cols]`; gives row-major bytes in the format of `levels`.
///
/// # Errors
/// A row that the format cannot hold.
pub fn quantise(
    weights: &[f32],
    factor: &Factor,
    levels: Levels,
    name: &str,
    threads: usize,
) -> Result<Vec<u8>, QuantiseError> {
    encode(weights, factor.order.len(), levels, name, threads, |strip| round_strip(strip, factor, levels))
}

/// Codes and grids of each row of a strip.
fn round_strip(strip: &[f32], factor: &Factor, levels: Levels) -> Result<Vec<CodedRow>, QuantError> {
    let cols = factor.order.len();
    let group = levels.group(cols);
    let start = |row| Ok(CodedRow { codes: vec![0; cols], grids: levels.search(row, Some(&factor.importance))? });
    let mut rows = strip.chunks_exact(cols).map(start).collect::<Result<Vec<CodedRow>, QuantError>>()?;
    // Weights in the order they are rounded.
    let mut left: Vec<f32> = strip.chunks_exact(cols).flat_map(|r| factor.order.iter().map(|c| r[*c])).collect();
    let mut errors = vec![0f32; rows.len() * BLOCK];
    for first in (0..cols).step_by(BLOCK) {
        let width = BLOCK.min(cols - first);
        for (r, coded) in rows.iter_mut().enumerate() {
            let row = &mut left[r * cols + first..][..width];
            for j in 0..width {
                let at = first + j;
                let column = factor.order[at];
                let upper = &factor.upper[at * cols + first..][..width];
                let grid = coded.grids[column / group];
                coded.codes[column] = levels.code(grid, row[j]);
                let error = (row[j] - levels.nearest(grid, row[j])) / upper[j];
                row[j..].iter_mut().zip(&upper[j..]).for_each(|(w, u)| *w -= error * u);
                errors[r * BLOCK + j] = error;
            }
        }
        spread(&mut left, &errors, factor, first, width);
    }
    Ok(rows)
}

/// Takes a block's errors out of the columns after it.
fn spread(left: &mut [f32], errors: &[f32], factor: &Factor, first: usize, width: usize) {
    let cols = factor.order.len();
    let (rows, next) = (left.len() / cols, first + width);
    if next < cols {
        let left = MatMut::from_row_major_slice_mut(left, rows, cols).subcols_mut(next, cols - next);
        let errors = MatRef::from_row_major_slice(errors, rows, BLOCK).subcols(0, width);
        let upper = MatRef::from_row_major_slice(&factor.upper, cols, cols).submatrix(first, next, width, cols - next);
        subtract_product(left, errors, upper);
    }
}

#[cfg(test)]
mod tests {
    use ir::quant;
    use ir::types::DType;

    use super::super::matrix::output_error;
    use super::super::rounding::{Weighting, round_to_nearest};
    use super::*;

    /// Numbers that look random, in -1..1.
    fn noise(n: usize, mut state: u64) -> Vec<f32> {
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..n).map(|_| next()).collect()
    }

    /// Samples whose columns follow a few common causes, as activations do.
    fn correlated(samples: usize, cols: usize) -> Vec<f32> {
        let causes = 12;
        let (mix, hidden, own) = (noise(causes * cols, 1), noise(samples * causes, 2), noise(samples * cols, 3));
        let value = |t: usize, c: usize| {
            let shared: f32 = (0..causes).map(|i| hidden[t * causes + i] * mix[i * cols + c]).sum();
            shared + 0.2 * own[t * cols + c]
        };
        (0..samples * cols).map(|i| value(i / cols, i % cols)).collect()
    }

    fn difference(bytes: &[u8], weights: &[f32], cols: usize, dtype: DType) -> Vec<f32> {
        let mut values = vec![0f32; weights.len()];
        quant::dequantize(dtype, bytes, cols, &mut values).unwrap();
        values.iter().zip(weights).map(|(q, w)| q - w).collect()
    }

    #[test]
    fn correlated_inputs_lose_at_least_half_of_the_error() {
        let (rows, cols) = (48, 256);
        let (x, weights) = (correlated(600, cols), noise(rows * cols, 9));
        let mut moments = Moments::new(cols);
        moments.add(&x, 2);
        let factor = Factor::of(&moments, "w").unwrap();
        for dtype in [DType::Q4G128, DType::Q4G64, DType::Q4_0, DType::Q4_1, DType::Q8C] {
            let levels = Levels::of(dtype).unwrap();
            let nearest = round_to_nearest(&weights, cols, dtype, Weighting::Even, "w", 2).unwrap();
            let chosen = quantise(&weights, &factor, levels, "w", 2).unwrap();
            let error = |bytes: &[u8]| output_error(&difference(bytes, &weights, cols, dtype), &x, cols);
            assert!(error(&chosen) < 0.5 * error(&nearest), "{dtype}: {} of {}", error(&chosen), error(&nearest));
            // The same bytes on any number of threads.
            assert_eq!(chosen, quantise(&weights, &factor, levels, "w", 1).unwrap(), "{dtype}");
        }
    }

    #[test]
    fn independent_inputs_of_one_size_round_to_nearest() {
        let (rows, cols) = (8, 160);
        let weights = noise(rows * cols, 4);
        // Rows of √(n/2) times the identity have the Hessian 1.
        let mut moments = Moments::new(cols);
        let size = (cols as f32 / 2.0).sqrt();
        let identity: Vec<f32> = (0..cols * cols).map(|i| if i / cols == i % cols { size } else { 0.0 }).collect();
        moments.add(&identity, 1);
        let factor = Factor::of(&moments, "w").unwrap();
        for dtype in [DType::Q4G128, DType::Q4_0, DType::Q4_1, DType::Q8_0, DType::T2] {
            let levels = Levels::of(dtype).unwrap();
            let nearest = round_to_nearest(&weights, cols, dtype, Weighting::Even, "w", 1).unwrap();
            assert_eq!(quantise(&weights, &factor, levels, "w", 1).unwrap(), nearest, "{dtype}");
        }
    }

    #[test]
    fn dead_columns_are_rounded_plainly() {
        let (rows, cols) = (3, 64);
        let (weights, mut x) = (noise(rows * cols, 5), correlated(200, cols));
        x.chunks_exact_mut(cols).for_each(|row| row[10] = 0.0);
        let mut moments = Moments::new(cols);
        moments.add(&x, 1);
        let factor = Factor::of(&moments, "w").unwrap();
        let levels = Levels::of(DType::Q8C).unwrap();
        let bytes = quantise(&weights, &factor, levels, "w", 1).unwrap();
        let column: Vec<f32> = difference(&bytes, &weights, cols, DType::Q8C).chunks(cols).map(|r| r[10]).collect();
        assert!(column.iter().all(|d| d.abs() < 1.0 / 127.0), "{column:?}");
    }
}
