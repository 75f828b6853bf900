//! Matrices and launches for tests.

use ir::quant;
use ir::types::DType;

use super::*;
use crate::cpu::SCRATCH_ALIGN;

/// A generator of numbers for tests (splitmix64).
pub(crate) struct Random(pub u64);

impl Random {
    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number of -1..1.
    pub fn value(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    /// `count` of them.
    pub fn values(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.value()).collect()
    }
}

/// A weight matrix: packed, and the values it stands for.
pub(crate) struct Matrix {
    pub dtype: DType,
    pub rows: usize,
    pub cols: usize,
    pub packed: Vec<u8>,
    pub values: Vec<f32>,
}

impl Matrix {
    /// Random values rounded to `dtype`.
    pub fn random(dtype: DType, rows: usize, cols: usize, seed: u64) -> Matrix {
        let format = quant::format(dtype).unwrap();
        let mut random = Random(seed);
        let row_bytes = quant::row_bytes(dtype, cols as u64).unwrap() as usize;
        let mut row_major = vec![0; rows * row_bytes];
        for row in row_major.chunks_exact_mut(row_bytes) {
            // Off centre, so that minima matter.
            let shift = random.value();
            let values: Vec<f32> = random.values(cols).into_iter().map(|x| x + shift).collect();
            format.quantize_row(&values, row).unwrap();
        }
        Matrix::from_rows(dtype, rows, cols, &row_major)
    }

    /// Any integers that `dtype` has, under random scales of many sizes; of the formats that can be made from such.
    pub fn assembled(dtype: DType, rows: usize, cols: usize, seed: u64) -> Option<Matrix> {
        let format = quant::format(dtype)?;
        let mut random = Random(seed);
        let row_bytes = format.row_bytes(cols)?;
        let mut row_major = vec![0; rows * row_bytes];
        for row in row_major.chunks_exact_mut(row_bytes) {
            let rounded = {
                let mut row = vec![0; row_bytes];
                format.quantize_row(&vec![1.0; cols], &mut row).unwrap();
                format.disassemble_row(&row, cols)
            };
            // Lists of the right lengths, refilled.
            let mut integers = rounded.ok()?;
            integers.codes.fill_with(|| code(dtype, random.bits()));
            integers.scales.fill_with(|| scale(dtype, random.bits(), random.value()));
            integers.zeros.fill_with(|| (random.bits() % 17) as u8);
            integers.minima.fill_with(|| random.value());
            format.assemble_row(&integers.as_integers(), row).unwrap();
        }
        Some(Matrix::from_rows(dtype, rows, cols, &row_major))
    }

    fn from_rows(dtype: DType, rows: usize, cols: usize, row_major: &[u8]) -> Matrix {
        let mut packed = vec![0; quant::packed_bytes(dtype, rows as u64, cols as u64).unwrap() as usize];
        quant::pack(dtype, row_major, rows, cols, &mut packed).unwrap();
        let mut values = vec![0.0; rows * cols];
        quant::dequantize(dtype, row_major, cols, &mut values).unwrap();
        Matrix { dtype, rows, cols, packed, values }
    }
}

/// An integer of the format, from random bits.
fn code(dtype: DType, bits: u64) -> u8 {
    match dtype {
        DType::Q5_0 | DType::Q5_1 => (bits % 32) as u8,
        DType::Q8_0 | DType::Q8C => bits as u8,
        DType::T2 => (bits % 3) as u8,
        // Without the two NaNs.
        DType::F8_E4M3 => (bits % 127) as u8 | (bits >> 8 & 0x80) as u8,
        _ => (bits % 16) as u8,
    }
}

/// A scale of the format: subnormal ones as well, and powers of two for MXFP4.
fn scale(dtype: DType, bits: u64, value: f32) -> f32 {
    match dtype {
        DType::MXFP4 => quant::minifloat::power((bits % 240) as u8 >> (bits >> 20 & 7)),
        _ => value * 2f32.powi(-((bits % 24) as i32)),
    }
}

/// Executes `ranges` of a launch one after the other, each with scratch memory of `scratch_bytes` full of garbage.
///
/// # Safety
/// As [`CpuKernel`].
pub(crate) unsafe fn launch<P>(kernel: CpuKernel, params: &P, ranges: &[Range<usize>], scratch_bytes: usize) {
    for range in ranges {
        let mut memory = vec![0xa5; scratch_bytes + SCRATCH_ALIGN];
        let start = memory.as_ptr().align_offset(SCRATCH_ALIGN);
        // SAFETY: passed on.
        unsafe { kernel((&raw const *params).cast(), range.clone(), &mut memory[start..start + scratch_bytes]) };
    }
}
