//! Rows as bare integers and scales: how quantised checkpoints and calibrated quantisers hand rows to a format.
//!
//! Nothing is requantised on the way: integers are stored as given, and a scale that the format cannot hold is an error
//! rather than rounded out of range.

use half::f16;

use super::{QuantError, minifloat};
use crate::types::DType;

/// The integers and scales of one row, before they are laid out.
///
/// A group is what shares a scale: [`super::QuantFormat::scale_columns`] columns, the last group of a row possibly fewer,
/// or the whole row.
#[derive(Clone, Copy, Debug, Default)]
pub struct RowIntegers<'a> {
    /// One a column, unsigned as the packed layout has them: `q` (0..16) of the 4-bit types (q4_0, q4g*: 8 is zero), `q + 128`
    /// of q8_0 and q8c, 0..3 of t2 (1 is zero), the bit patterns of f8_e4m3 and mxfp4.
    pub codes: &'a [u8],
    /// The scale `d` of each group. Where a format stores f16 it is rounded to the nearest; mxfp4 takes powers of two.
    pub scales: &'a [f32],
    /// The zero (0..=16) of each group; of the q4z types only.
    pub zeros: &'a [u8],
    /// The minimum `m` of each group, rounded to the nearest f16; of q4_1 and q5_1 only.
    pub minima: &'a [f32],
}

/// [`RowIntegers`] that own their memory: what [`super::QuantFormat::disassemble_row`] returns.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct IntegerRow {
    /// As [`RowIntegers::codes`].
    pub codes: Vec<u8>,
    /// As [`RowIntegers::scales`], exactly as stored.
    pub scales: Vec<f32>,
    /// As [`RowIntegers::zeros`].
    pub zeros: Vec<u8>,
    /// As [`RowIntegers::minima`], exactly as stored.
    pub minima: Vec<f32>,
}

impl IntegerRow {
    /// The row as [`super::QuantFormat::assemble_row`] takes it.
    pub fn as_integers(&self) -> RowIntegers<'_> {
        RowIntegers { codes: &self.codes, scales: &self.scales, zeros: &self.zeros, minima: &self.minima }
    }
}

/// Fails unless there are `groups` scales and no integer is above `greatest`.
pub(super) fn expect_integers(
    dtype: DType,
    integers: &RowIntegers<'_>,
    groups: usize,
    greatest: u8,
) -> Result<(), QuantError> {
    super::checks::expect_length(dtype, "scales", integers.scales.len(), groups)?;
    expect_at_most(dtype, "integer", integers.codes, greatest)
}

/// Fails unless there are `groups` zeros, all within 0..=16.
pub(super) fn expect_zeros(dtype: DType, integers: &RowIntegers<'_>, groups: usize) -> Result<(), QuantError> {
    super::checks::expect_length(dtype, "zeros", integers.zeros.len(), groups)?;
    expect_at_most(dtype, "zero", integers.zeros, 16)
}

fn expect_at_most(dtype: DType, what: &'static str, values: &[u8], greatest: u8) -> Result<(), QuantError> {
    match values.iter().position(|&value| value > greatest) {
        Some(index) => Err(unfit(dtype, what, index, f32::from(values[index]))),
        None => Ok(()),
    }
}

/// The f16 nearest to a scale or minimum.
pub(super) fn half_scale(dtype: DType, what: &'static str, index: usize, value: f32) -> Result<[u8; 2], QuantError> {
    let half = f16::from_f32(value);
    if half.is_finite() { Ok(half.to_le_bytes()) } else { Err(unfit(dtype, what, index, value)) }
}

/// A finite f32 scale.
pub(super) fn single_scale(dtype: DType, index: usize, value: f32) -> Result<[u8; 4], QuantError> {
    if value.is_finite() { Ok(value.to_le_bytes()) } else { Err(unfit(dtype, "scale", index, value)) }
}

/// The exponent of a scale that is a power of two.
pub(super) fn power_scale(dtype: DType, index: usize, value: f32) -> Result<u8, QuantError> {
    minifloat::exponent(value).ok_or_else(|| unfit(dtype, "scale", index, value))
}

/// The error for a value that the format cannot hold.
pub(super) fn unfit(dtype: DType, what: &'static str, index: usize, value: f32) -> QuantError {
    QuantError::Unfit { dtype, what, index, value: value.to_string() }
}
