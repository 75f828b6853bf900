//! Matrices and launches for tests.

use ir::quant;
use ir::types::DType;

use super::*;
use crate::abi::{LayerNormParams, QuantizeRowsParams, RmsNormParams, ScaleColumnsParams};
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
    /// Of each row, the greatest magnitude of what an affine format adds to its products: where integer and zero point cancel,
    /// rounding leaves a part of that.
    pub offsets: Vec<f32>,
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
        Matrix::from_rows(dtype, (rows, cols), &row_major, vec![0.0; rows])
    }

    /// Any integers that `dtype` has, under random scales of many sizes; of the formats that can be made from such.
    pub fn assembled(dtype: DType, rows: usize, cols: usize, seed: u64) -> Option<Matrix> {
        let format = quant::format(dtype)?;
        let mut random = Random(seed);
        let row_bytes = format.row_bytes(cols)?;
        let mut row_major = vec![0; rows * row_bytes];
        let mut offsets = Vec::with_capacity(rows);
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
            let greatest = |values: &[f32]| values.iter().fold(0f32, |most, x| most.max(x.abs()));
            let zero = integers.zeros.iter().copied().max().unwrap_or(0);
            offsets.push(greatest(&integers.minima).max(greatest(&integers.scales) * f32::from(zero)));
            format.assemble_row(&integers.as_integers(), row).unwrap();
        }
        Some(Matrix::from_rows(dtype, (rows, cols), &row_major, offsets))
    }

    fn from_rows(dtype: DType, (rows, cols): (usize, usize), row_major: &[u8], offsets: Vec<f32>) -> Matrix {
        let mut packed = vec![0; quant::packed_bytes(dtype, rows as u64, cols as u64).unwrap() as usize];
        quant::pack(dtype, row_major, rows, cols, &mut packed).unwrap();
        let mut values = vec![0.0; rows * cols];
        quant::dequantize(dtype, row_major, cols, &mut values).unwrap();
        Matrix { dtype, rows, cols, packed, values, offsets }
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

/// Executes a whole launch of a kernel of the catalog, `step` blocks at a time, the last first.
///
/// # Safety
/// As [`CpuKernel`], of that kernel's parameters.
pub(crate) unsafe fn execute<P>(kernel: &str, variant: &str, isa: Isa, params: &P, step: usize) {
    let info = crate::catalog::lookup(kernel).unwrap();
    assert_eq!(info.params_bytes, size_of::<P>(), "{kernel}");
    let function = info.select(variant, isa).unwrap_or_else(|| panic!("{kernel} has no variant {variant}"));
    let at = (&raw const *params).cast();
    // SAFETY: passed on.
    unsafe {
        let blocks = info.blocks(variant, at);
        let ranges: Vec<_> = (0..blocks).step_by(step).rev().map(|b| b..blocks.min(b.saturating_add(step))).collect();
        launch(function, params, &ranges, info.scratch_bytes(variant, at));
    }
}

/// The address of values, or null.
pub(crate) fn pointer(values: &Option<Vec<f32>>) -> *const f32 {
    values.as_ref().map_or(std::ptr::null(), |v| v.as_ptr())
}

/// Rows as a launch finds them and what it is told to make of them, and the same done by separate launches.
pub(crate) struct Input {
    /// `[lines, cols]`
    pub values: Vec<f32>,
    /// What variants call it: `f32`, `q8x32`, `f32.block`, `f32.row`, `f32.half`.
    pub form: &'static str,
    /// Number of the norm.
    pub norm: u32,
    pub weight: Vec<f32>,
    pub bias: Option<Vec<f32>>,
    pub eps: f32,
    pub cols: usize,
    rounded: Vec<u8>,
}

impl Input {
    /// Random rows; forms that products of `weights` do not have become `f32`, and rows of integers have no norm.
    pub fn random(weights: DType, lines: usize, cols: usize, (form, norm): (&'static str, u32), seed: u64) -> Input {
        let mut random = Random(seed);
        let form = match form {
            "f32.half" => form,
            _ if quant::format(weights).unwrap().is_integer() => form,
            _ => "f32",
        };
        let values: Vec<f32> = random.values(lines * cols).iter().map(|x| x + 0.1).collect();
        let row_bytes = quant::row_bytes(DType::Q8X32, cols as u64).unwrap() as usize;
        let mut rounded = vec![0; lines * row_bytes];
        for (row, x) in rounded.chunks_exact_mut(row_bytes).zip(values.chunks_exact(cols)) {
            quant::activations::quantize_row(x, quant::activations::Granularity::Block, row).unwrap();
        }
        let bias = (norm == 2 && seed.is_multiple_of(2)).then(|| random.values(cols));
        let norm = if form == "q8x32" { 0 } else { norm };
        Input { values, form, norm, weight: random.values(cols), bias, eps: 1e-5, cols, rounded }
    }

    /// What the launch reads.
    pub fn x(&self) -> *const std::ffi::c_void {
        if self.form == "q8x32" { self.rounded.as_ptr().cast() } else { self.values.as_ptr().cast() }
    }

    /// The type that the product reads.
    pub fn activations(&self) -> &'static str {
        if matches!(self.form, "f32" | "f32.half") { "f32" } else { "q8x32" }
    }

    /// Rows as the product reads them, made by the kernels of norms and rounding.
    pub fn prepared(&self, isa: Isa) -> Vec<u8> {
        if self.form == "q8x32" {
            return self.rounded.clone();
        }
        let normed = self.normed(isa);
        if self.form == "f32" {
            return normed.iter().flat_map(|x| x.to_le_bytes()).collect();
        }
        let mut out = match self.form {
            "f32.half" => vec![0; size_of_val(normed.as_slice())],
            _ => vec![0; self.rounded.len()],
        };
        let (x, rows, cols) = (normed.as_ptr(), (normed.len() / self.cols) as u32, self.cols as u32);
        let params = QuantizeRowsParams { x, out: out.as_mut_ptr().cast(), rows, cols };
        // SAFETY: the buffers have the sizes the parameters say.
        unsafe { execute("quantize_rows", &self.form[4..], isa, &params, 1) };
        out
    }

    /// Normalised rows.
    pub fn normed(&self, isa: Isa) -> Vec<f32> {
        let mut to = vec![f32::NAN; self.values.len()];
        let (x, out, weight, bias) = (self.values.as_ptr(), to.as_mut_ptr(), self.weight.as_ptr(), pointer(&self.bias));
        let (rows, cols, eps) = ((to.len() / self.cols) as u32, self.cols as u32, self.eps);
        // SAFETY: the buffers have the sizes the parameters say.
        unsafe {
            match self.norm {
                1 => execute("rms_norm", "", isa, &RmsNormParams { x, weight, out, rows, cols, eps, reserved: 0 }, 1),
                2 => {
                    let params = LayerNormParams { x, weight, bias, out, rows, cols, eps, reserved: 0 };
                    execute("layer_norm", "", isa, &params, 1);
                }
                3 => execute("scale_columns", "", isa, &ScaleColumnsParams { x, w: weight, out, rows, cols }, 1),
                _ => to.copy_from_slice(&self.values),
            }
        }
        to
    }

    /// The rows by their definition.
    pub fn exact(&self) -> Vec<f64> {
        let weight = |c: usize| f64::from(self.weight[c]);
        let bias = |c: usize| self.bias.as_ref().map_or(0.0, |b| f64::from(b[c]));
        let row = |row: &[f32]| -> Vec<f64> {
            let x: Vec<f64> = row.iter().map(|x| f64::from(*x)).collect();
            let mean = if self.norm == 2 { x.iter().sum::<f64>() / x.len() as f64 } else { 0.0 };
            let square = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / x.len() as f64;
            let scale = 1.0 / (square + f64::from(self.eps)).sqrt();
            let normed = |(c, x): (usize, &f64)| match self.norm {
                1 | 2 => (x - mean) * scale * weight(c) + bias(c),
                3 => x * weight(c),
                _ => *x,
            };
            x.iter().enumerate().map(normed).collect()
        };
        self.values.chunks_exact(self.cols).flat_map(row).collect()
    }

    /// Greatest error of a product's row relative to the norms of its factors.
    pub fn tolerance(&self) -> f64 {
        match self.form {
            "f32" => 1e-5,
            "f32.half" => 2e-3,
            _ => 2e-2,
        }
    }
}
