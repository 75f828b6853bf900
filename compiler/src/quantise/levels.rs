//! The values a group of weights can take.
//!
//! A group shares a step `d` (and a minimum `m`): code `q` stands for `(q - offset) · d + m`. Formats choose such grids themselves
//! ([`QuantFormat::quantize_row_searched`](ir::quant::QuantFormat::quantize_row_searched)); what stands here lets calibrated methods
//! round to a grid that is chosen already, one weight at a time, and try others. Values equal those of the stored row bit for bit.

use ir::quant::{self, IntegerRow, QuantError, QuantFormat, RowIntegers};
use ir::types::DType;

/// An integer format whose rows the calibrated methods can choose.
#[derive(Clone, Copy, Debug)]
pub struct Levels {
    format: &'static dyn QuantFormat,
    /// Code that stands for `m`.
    offset: f32,
    /// Least and greatest code.
    codes: (f32, f32),
    /// Whether groups have minima.
    affine: bool,
}

/// A group's grid.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Grid {
    /// Distance of two values.
    pub d: f32,
    /// What code `offset` stands for; 0 for symmetric formats.
    pub m: f32,
}

/// A row of integers with one grid a group.
#[derive(Clone, Debug, PartialEq)]
pub struct CodedRow {
    /// A code a column.
    pub codes: Vec<u8>,
    /// A grid a group.
    pub grids: Vec<Grid>,
}

impl Levels {
    /// The levels of a format; `None` for floats and for formats that are only ever read.
    pub fn of(dtype: DType) -> Option<Levels> {
        let (offset, codes, affine) = match dtype {
            DType::Q4_0 | DType::Q4G64 | DType::Q4G128 => (8.0, (0.0, 15.0), false),
            DType::Q4_1 => (0.0, (0.0, 15.0), true),
            DType::Q8_0 | DType::Q8C => (128.0, (1.0, 255.0), false),
            DType::T2 => (1.0, (0.0, 2.0), false),
            _ => return None,
        };
        Some(Levels { format: quant::format(dtype)?, offset, codes, affine })
    }

    /// The format.
    pub fn dtype(&self) -> DType {
        self.format.dtype()
    }

    /// Columns of a group in rows of `cols`.
    pub fn group(&self, cols: usize) -> usize {
        self.format.scale_columns().unwrap_or(cols).max(1)
    }

    /// Whether a group is a part of the row, with few enough columns that its second moments are worth keeping.
    pub fn is_grouped(&self) -> bool {
        self.format.scale_columns().is_some()
    }

    /// The format's own choice for a row: grids searched for the least squared error, each column's weighted by `importance`.
    ///
    /// # Errors
    /// A row length the format has not.
    pub fn search(&self, row: &[f32], importance: Option<&[f32]>) -> Result<Vec<Grid>, QuantError> {
        self.grids(row, |bytes| self.format.quantize_row_searched(row, importance, bytes))
    }

    /// The grids that just span the range of each group of a row.
    ///
    /// # Errors
    /// A row length the format has not.
    pub fn full_range(&self, row: &[f32]) -> Result<Vec<Grid>, QuantError> {
        self.grids(row, |bytes| self.format.quantize_row(row, bytes))
    }

    fn grids(
        &self,
        row: &[f32],
        quantise: impl FnOnce(&mut [u8]) -> Result<(), QuantError>,
    ) -> Result<Vec<Grid>, QuantError> {
        let mut bytes = vec![0; self.row_bytes(row.len())?];
        quantise(&mut bytes)?;
        let IntegerRow { scales, minima, .. } = self.format.disassemble_row(&bytes, row.len())?;
        let minimum = |i: usize| if self.affine { minima[i] } else { 0.0 };
        Ok(scales.into_iter().enumerate().map(|(i, d)| Grid { d, m: minimum(i) }).collect())
    }

    /// Bytes of a stored row of `cols` values.
    ///
    /// # Errors
    /// A row length the format has not.
    pub fn row_bytes(&self, cols: usize) -> Result<usize, QuantError> {
        let (dtype, block) = (self.dtype(), self.format.block_len());
        self.format.row_bytes(cols).ok_or(QuantError::Columns { dtype, block, cols })
    }

    /// A grid of a smaller (or larger) range about the same middle, its numbers rounded as they are stored.
    pub fn scaled(&self, grid: Grid, factor: f32) -> Grid {
        let round = |x: f32| if self.stores_f16() { half::f16::from_f32(x).to_f32() } else { x };
        let d = round(grid.d * factor);
        let half_range = (self.codes.1 - self.offset) / 2.0;
        let m = if self.affine { round(grid.m + half_range * grid.d - half_range * d) } else { 0.0 };
        Grid { d, m }
    }

    fn stores_f16(&self) -> bool {
        !matches!(self.dtype(), DType::Q8C | DType::T2)
    }

    #[inline]
    fn rounding(&self, grid: Grid) -> Rounding {
        let inverse = 1.0 / grid.d;
        let inverse = if inverse.is_finite() { inverse } else { 0.0 };
        Rounding { grid, inverse, low: self.codes.0 - self.offset, high: self.codes.1 - self.offset }
    }

    /// The code nearest to `x`.
    #[inline]
    pub fn code(&self, grid: Grid, x: f32) -> u8 {
        (self.rounding(grid).steps(x) + self.offset) as u8
    }

    /// The value nearest to `x`.
    #[inline]
    pub fn nearest(&self, grid: Grid, x: f32) -> f32 {
        self.rounding(grid).value(x)
    }

    /// Writes to `out` how far each of a group's values is from the nearest of the grid: that value minus the given one.
    pub fn differences(&self, grid: Grid, values: &[f32], out: &mut [f32]) {
        let rounding = self.rounding(grid);
        out.iter_mut().zip(values).for_each(|(out, x)| *out = rounding.value(*x) - x);
    }

    /// Each value of a row to the nearest of its group's grid.
    pub fn round_row(&self, row: &[f32], grids: Vec<Grid>) -> CodedRow {
        let groups = row.chunks(self.group(row.len())).zip(&grids);
        let codes = groups.flat_map(|(group, grid)| group.iter().map(|x| self.code(*grid, *x))).collect();
        CodedRow { codes, grids }
    }

    /// Lays a row out as it is stored.
    ///
    /// # Errors
    /// A scale that f16 cannot hold, or a row length the format has not.
    pub fn assemble(&self, row: &CodedRow, out: &mut [u8]) -> Result<(), QuantError> {
        let scales: Vec<f32> = row.grids.iter().map(|g| g.d).collect();
        let minima: Vec<f32> = if self.affine { row.grids.iter().map(|g| g.m).collect() } else { Vec::new() };
        self.format.assemble_row(&RowIntegers { codes: &row.codes, scales: &scales, zeros: &[], minima: &minima }, out)
    }
}

/// A grid with its inverse step and its range in steps.
struct Rounding {
    grid: Grid,
    inverse: f32,
    low: f32,
    high: f32,
}

impl Rounding {
    /// Whole steps from `m` to the value nearest to `x`.
    #[inline(always)]
    fn steps(&self, x: f32) -> f32 {
        // Adding 1.5 · 2^23 leaves no bit after the point: rounding to even without a library call, so that loops vectorise.
        const WHOLE: f32 = 12_582_912.0;
        ((x - self.grid.m) * self.inverse).clamp(self.low, self.high) + WHOLE - WHOLE
    }

    #[inline(always)]
    fn value(&self, x: f32) -> f32 {
        self.steps(x) * self.grid.d + self.grid.m
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: [DType; 7] = [DType::Q4_0, DType::Q4G64, DType::Q4G128, DType::Q4_1, DType::Q8_0, DType::Q8C, DType::T2];

    proptest! {
        /// What a row is said to stand for is what its bytes stand for, at the format's grids and at smaller ones.
        #[test]
        fn assembled_rows_dequantise_to_the_nearest_values(
            values in prop::collection::vec(-2f32..2.0, 1..9).prop_map(|v| v.repeat(32)),
            which in 0..ALL.len(),
            factor in 0.5f32..1.0,
        ) {
            let levels = Levels::of(ALL[which]).unwrap();
            let grids = levels.search(&values, None).unwrap();
            for grids in [grids.clone(), grids.iter().map(|g| levels.scaled(*g, factor)).collect()] {
                let row = levels.round_row(&values, grids.clone());
                let mut bytes = vec![0; levels.row_bytes(values.len()).unwrap()];
                levels.assemble(&row, &mut bytes).unwrap();
                let mut read = vec![0f32; values.len()];
                levels.format.dequantize_row(&bytes, &mut read).unwrap();
                let groups = values.chunks(levels.group(values.len())).zip(&grids);
                let expected: Vec<f32> =
                    groups.flat_map(|(group, grid)| group.iter().map(|x| levels.nearest(*grid, *x))).collect();
                prop_assert_eq!(read, expected);
            }
        }

        /// A value is never rounded past the nearer of its two neighbours.
        #[test]
        fn the_nearest_value_is_nearest(x in -3f32..3.0, d in 0.01f32..0.5, which in 0..ALL.len()) {
            let levels = Levels::of(ALL[which]).unwrap();
            let grid = Grid { d, m: if levels.affine { -1.0 } else { 0.0 } };
            let far = |code: f32| ((code - levels.offset) * grid.d + grid.m - x).abs();
            let codes = levels.codes.0 as i32..=levels.codes.1 as i32;
            let least = codes.map(|c| far(c as f32)).fold(f32::INFINITY, f32::min);
            prop_assert!((levels.nearest(grid, x) - x).abs() <= least + 1e-5);
        }
    }

    #[test]
    fn a_group_of_zeros_has_a_grid() {
        for dtype in ALL {
            let levels = Levels::of(dtype).unwrap();
            let grid = levels.search(&[0.0; 32], None).unwrap()[0];
            assert_eq!(levels.nearest(grid, 0.0), 0.0, "{dtype}");
        }
    }
}
