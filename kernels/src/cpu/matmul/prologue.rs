//! Rows of activations as a launch finds them and as its product reads them.
//!
//! A launch may normalise its rows and round them, to 8 bits or to f16, before it multiplies, by the very functions of the kernels that
//! do only that: the bits are those of separate launches. A row is prepared again by every call that stages it, which for the
//! few rows of a decoding step costs less than a launch and a walk through memory would.

use std::ffi::c_void;
use std::ops::Range;

use ir::types::DType;

use super::integer_row_bytes;
use crate::cpu::simd::{Body, Simd};
use crate::cpu::{CpuKernel, SCRATCH_ALIGN, half_rows, layer_norm, quantize_rows, rms_norm, scale_columns};

/// Rounding of rows by the launch that multiplies them: to q8x32, or to f16 as f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Rounding {
    /// None: the product takes rows as they are.
    None,
    /// A scale each 32 columns.
    Block,
    /// A scale a row.
    Row,
    /// To f16 under a power of two a row; the product takes the rounded values as f32.
    Half,
}

impl Rounding {
    /// The rounding of that number, as kernels have it among their generic arguments.
    pub const fn from_number(number: u8) -> Rounding {
        match number {
            1 => Rounding::Block,
            2 => Rounding::Row,
            3 => Rounding::Half,
            _ => Rounding::None,
        }
    }

    /// The rounding that a variant's word stands for, as granularities are called.
    pub fn from_word(word: &str) -> Option<Rounding> {
        match word {
            "block" => Some(Rounding::Block),
            "row" => Some(Rounding::Row),
            "half" => Some(Rounding::Half),
            _ => None,
        }
    }

    /// The type of rows that are f32 before.
    pub fn result(self) -> DType {
        match self {
            Rounding::None | Rounding::Half => DType::F32,
            Rounding::Block | Rounding::Row => DType::Q8X32,
        }
    }

    /// Bytes of a rounded row.
    pub fn row_bytes(self, cols: usize) -> usize {
        if self.result() == DType::F32 { cols * size_of::<f32>() } else { integer_row_bytes(cols) }
    }

    /// Rounds the `cols` values at `x` to the row at `out`, of [`Rounding::row_bytes`]; writes nothing if there is no rounding.
    ///
    /// # Safety
    /// Needs the instruction set `S`; both are valid, `out` aligned to 4 if rows stay f32.
    #[inline(always)]
    pub unsafe fn apply<S: Simd>(self, x: *const f32, cols: usize, out: *mut u8) {
        // SAFETY: passed on.
        unsafe {
            match self {
                Rounding::None => {}
                Rounding::Block => quantize_rows::quantize::<S, false>(x, cols, out),
                Rounding::Row => quantize_rows::quantize::<S, true>(x, cols, out),
                Rounding::Half => half_rows::round::<S>(x, cols, out.cast()),
            }
        }
    }
}

/// Types of a launch of products: `<weights>.<x>`, or `<weights>.f32.<granularity>` where the launch rounds x.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProductTypes {
    /// The weights' format.
    pub weights: DType,
    /// What the product multiplies them by.
    pub activations: DType,
    /// How the launch makes that of f32.
    pub rounding: Rounding,
}

impl ProductTypes {
    /// Reads a variant; whether there is such a product is for the kernel to say.
    pub fn parse(variant: &str) -> Option<ProductTypes> {
        let (weights, x) = variant.split_once('.')?;
        let (x, granularity) = x.split_once('.').map_or((x, None), |(x, granularity)| (x, Some(granularity)));
        let (weights, x) = (DType::from_name(weights)?, DType::from_name(x)?);
        let (activations, rounding) = match (x, granularity) {
            (x, None) => (x, Rounding::None),
            (DType::F32, Some(word)) => {
                let rounding = Rounding::from_word(word)?;
                (rounding.result(), rounding)
            }
            _ => return None,
        };
        Some(ProductTypes { weights, activations, rounding })
    }
}

/// The kernel of a variant: `$kernel::<product, rounding>` as a body, for the products there are.
macro_rules! select_product {
    ($kernel:ident, $variant:expr, $isa:expr) => {{
        use $crate::cpu::matmul::prologue::{ProductTypes, Rounding};
        use $crate::cpu::matmul::tile::{FloatProduct, IntegerProduct};
        use $crate::cpu::matmul::weights::{with_format, with_quantised};
        let ProductTypes { weights, activations, rounding } = ProductTypes::parse($variant)?;
        match (activations, rounding) {
            (DType::F32, Rounding::None) => {
                with_format!(weights, W => simd::select::<$kernel<FloatProduct<W>, 0>>($isa))
            }
            (DType::F32, Rounding::Half) => {
                with_format!(weights, W => simd::select::<$kernel<FloatProduct<W>, 3>>($isa))
            }
            (DType::Q8X32, Rounding::None) => {
                with_quantised!(weights, W => simd::select::<$kernel<IntegerProduct<W>, 0>>($isa))
            }
            (DType::Q8X32, Rounding::Block) => {
                with_quantised!(weights, W => simd::select::<$kernel<IntegerProduct<W>, 1>>($isa))
            }
            (DType::Q8X32, Rounding::Row) => {
                with_quantised!(weights, W => simd::select::<$kernel<IntegerProduct<W>, 2>>($isa))
            }
            _ => None,
        }
    }};
}
pub(crate) use select_product;

/// The norm of a row, by the numbers that parameter structs give the kinds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Norm {
    /// 0 none, 1 root mean square, 2 layer, 3 weights alone; others are none.
    pub kind: u32,
    /// `[cols]`
    pub weight: *const f32,
    /// `[cols]` or null, of a layer norm.
    pub bias: *const f32,
    /// Added to the mean square or variance.
    pub eps: f32,
}

impl Norm {
    /// No norm.
    pub const NONE: Norm = Norm { kind: 0, weight: std::ptr::null(), bias: std::ptr::null(), eps: 0.0 };

    /// Whether there is one.
    pub fn is_given(&self) -> bool {
        (1..=3).contains(&self.kind)
    }
}

/// Bytes of scratch memory for preparing rows of `cols` columns.
pub(crate) fn scratch_bytes(rounding: Rounding, norm: u32, cols: usize) -> usize {
    let norm = if (Norm { kind: norm, ..Norm::NONE }).is_given() { cols * size_of::<f32>() } else { 0 };
    let rounded = if rounding == Rounding::None { 0 } else { rounding.row_bytes(cols) };
    norm.next_multiple_of(SCRATCH_ALIGN) + rounded.next_multiple_of(SCRATCH_ALIGN)
}

/// Rows in memory and what becomes of them.
#[derive(Clone, Copy)]
pub(crate) struct Rows {
    x: *const u8,
    cols: usize,
    row_bytes: usize,
    norm: Norm,
    rounding: Rounding,
    /// Computes a [`Request`]; `None` where rows are read as they are.
    prepare: Option<CpuKernel>,
    /// Where rows are prepared.
    scratch: *mut u8,
}

/// A row to prepare.
struct Request<'a> {
    rows: &'a Rows,
    row: usize,
}

impl Rows {
    /// Rows of `row_bytes` bytes each, read as they are.
    pub fn plain(x: *const u8, cols: usize, row_bytes: usize) -> Rows {
        let scratch = std::ptr::null_mut();
        Rows { x, cols, row_bytes, norm: Norm::NONE, rounding: Rounding::None, prepare: None, scratch }
    }

    /// Rows that a product of `types` multiplies. Where they are normalised or rounded they are f32 in memory, and `scratch` holds
    /// [`scratch_bytes`], aligned to [`SCRATCH_ALIGN`].
    pub fn new<S: Simd>(
        x: *const c_void,
        cols: usize,
        types: (DType, Rounding),
        norm: Norm,
        scratch: &mut [u8],
    ) -> Rows {
        let (activations, rounding) = types;
        let in_floats = activations == DType::F32 || rounding != Rounding::None;
        // Rows that are integers in memory have no norm, whatever is asked for.
        let norm = if in_floats { norm } else { Norm::NONE };
        let direct = rounding == Rounding::None && !norm.is_given();
        let row_bytes = if in_floats { cols * size_of::<f32>() } else { integer_row_bytes(cols) };
        let prepare: Option<CpuKernel> = if direct { None } else { Some(S::call::<Prepare>) };
        debug_assert!(scratch_bytes(rounding, norm.kind, cols) <= scratch.len(), "scratch memory is too short");
        Rows { x: x.cast(), cols, row_bytes, norm, rounding, prepare, scratch: scratch.as_mut_ptr() }
    }

    /// Columns of a row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Row `row` as the product reads it, valid until the next is asked for.
    ///
    /// # Safety
    /// The row and the norm's weights must be valid.
    #[inline(always)]
    pub unsafe fn get(&self, row: usize) -> *const u8 {
        let Some(prepare) = self.prepare else {
            return self.x.wrapping_add(row * self.row_bytes);
        };
        let request = Request { rows: self, row };
        // SAFETY: `prepare` takes a request; the row is valid.
        unsafe { prepare((&raw const request).cast(), 0..0, &mut []) };
        if self.rounding == Rounding::None { self.scratch } else { self.rounded() }
    }

    /// Where a rounded row goes: behind the normalised one.
    fn rounded(&self) -> *mut u8 {
        self.scratch.wrapping_add(scratch_bytes(Rounding::None, self.norm.kind, self.cols))
    }
}

/// Prepares the row of a [`Request`].
struct Prepare;

impl Body for Prepare {
    #[inline(always)]
    unsafe fn run<S: Simd>(request: *const c_void, _: Range<usize>, _: &mut [u8]) {
        // SAFETY: the caller passes a request whose row is valid f32 and whose scratch memory is as long as is asked for.
        unsafe {
            let Request { rows, row } = *request.cast::<Request>();
            let (cols, norm) = (rows.cols, &rows.norm);
            let mut x = rows.x.add(row * rows.row_bytes).cast::<f32>();
            if norm.is_given() {
                normalise::<S>(x, norm, rows.scratch.cast(), cols);
                x = rows.scratch.cast();
            }
            rows.rounding.apply::<S>(x, cols, rows.rounded());
        }
    }
}

/// Writes a normalised row of `cols` columns.
///
/// # Safety
/// The row, the norm's weights and `out` must be valid, and the machine have the instruction set.
#[inline(always)]
pub(crate) unsafe fn normalise<S: Simd>(x: *const f32, norm: &Norm, out: *mut f32, cols: usize) {
    // SAFETY: as the caller says.
    unsafe {
        let (x, out) = (std::slice::from_raw_parts(x, cols), std::slice::from_raw_parts_mut(out, cols));
        let weight = std::slice::from_raw_parts(norm.weight, cols);
        match norm.kind {
            1 => rms_norm::normalise::<S>(x, weight, norm.eps, out),
            2 => {
                let bias = if norm.bias.is_null() { None } else { Some(std::slice::from_raw_parts(norm.bias, cols)) };
                layer_norm::normalise(x, weight, bias, norm.eps, out);
            }
            _ => scale_columns::scale(x.as_ptr(), weight, out.as_mut_ptr()),
        }
    }
}
