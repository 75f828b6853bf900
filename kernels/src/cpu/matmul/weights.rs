//! How the kernels read packed weights: float columns, and the bit planes and scales of the quantised formats.
//!
//! The layout is that of `ir::quant` (rows16): lane `r` of every vector is row `r` of the panel. A quantised format is a
//! pair of [`Planes`] and [`Scales`], so a new one is at most one of each and a line in the table of the module above.

use std::marker::PhantomData;

use crate::cpu::simd::{LANES, Simd};

/// Columns of a group.
pub(crate) const GROUP: usize = ir::quant::GROUP;

/// Columns of a chunk: what one lane of a byte vector holds.
pub(crate) const CHUNK: usize = 4;

/// Groups of a block of 256 columns.
const BLOCK_GROUPS: usize = 8;

/// Bytes of 16 f16 scales.
const F16_LANES: usize = 2 * LANES;

/// A panel of 16 packed rows.
#[derive(Clone, Copy)]
pub(crate) struct Panel {
    /// Its first byte.
    pub start: *const u8,
    /// Its columns.
    pub cols: usize,
}

/// Weights whose columns can be had as f32, with the very values of `ir::quant::dequantize`.
pub(crate) trait Columns {
    /// Bytes of a panel of `cols` columns.
    fn panel_bytes(cols: usize) -> usize;

    /// What the columns of a group share.
    type Group<S: Simd>: Copy;

    /// Reads what the columns `32·group..` share.
    unsafe fn group<S: Simd>(panel: Panel, group: usize) -> Self::Group<S>;

    /// The four columns of chunk `chunk` (of 0..8) of a group, all of which must exist.
    unsafe fn chunk<S: Simd>(group: &Self::Group<S>, chunk: usize) -> [S::F; CHUNK];

    /// Column `column` of the panel.
    unsafe fn column<S: Simd>(panel: Panel, column: usize) -> S::F;
}

/// An element of float weights.
pub(crate) trait Element {
    /// Bytes of 16 elements.
    const LANE_BYTES: usize;
    /// 16 elements, widened.
    unsafe fn load<S: Simd>(from: *const u8) -> S::F;
}

macro_rules! element {
    ($($(#[$doc:meta])* $name:ident: $bytes:literal bytes, $load:ident;)+) => {
        $(
            $(#[$doc])*
            pub(crate) struct $name;

            impl Element for $name {
                const LANE_BYTES: usize = $bytes * LANES;

                #[inline(always)]
                unsafe fn load<S: Simd>(from: *const u8) -> S::F {
                    // SAFETY: passed on.
                    unsafe { S::$load(from.cast()) }
                }
            }
        )+
    };
}

element! {
    /// IEEE binary32.
    F32: 4 bytes, load;
    /// IEEE binary16.
    F16: 2 bytes, load_f16;
    /// bfloat16.
    BF16: 2 bytes, load_bf16;
}

/// Float weights: one column after the other.
pub(crate) struct Floats<E>(PhantomData<E>);

impl<E: Element> Columns for Floats<E> {
    fn panel_bytes(cols: usize) -> usize {
        (cols * E::LANE_BYTES).next_multiple_of(64)
    }

    type Group<S: Simd> = *const u8;

    #[inline(always)]
    unsafe fn group<S: Simd>(panel: Panel, group: usize) -> *const u8 {
        // SAFETY: the group lies in the panel.
        unsafe { panel.start.add(group * GROUP * E::LANE_BYTES) }
    }

    #[inline(always)]
    unsafe fn chunk<S: Simd>(group: &*const u8, chunk: usize) -> [S::F; CHUNK] {
        // SAFETY: all columns of the chunk exist.
        unsafe {
            let from = group.add(chunk * CHUNK * E::LANE_BYTES);
            S::prefetch(from.wrapping_add(PREFETCH));
            let mut columns = [S::zero(); CHUNK];
            for (i, column) in columns.iter_mut().enumerate() {
                *column = E::load::<S>(from.add(i * E::LANE_BYTES));
            }
            columns
        }
    }

    #[inline(always)]
    unsafe fn column<S: Simd>(panel: Panel, column: usize) -> S::F {
        // SAFETY: the column exists.
        unsafe { E::load::<S>(panel.start.add(column * E::LANE_BYTES)) }
    }
}

/// How far ahead of their use weights are asked for, in bytes: about the latency of memory at one core's bandwidth.
pub(crate) const PREFETCH: usize = 2048;

/// The bit planes of a group of integers.
pub(crate) trait Planes {
    /// Bytes of a group.
    const BYTES: usize;
    /// Bits of an integer.
    const BITS: u32;
    /// The integers of chunk `chunk` (of 0..8), unsigned; byte `4r + i` is row `r`, column `4·chunk + i`.
    unsafe fn chunk<S: Simd>(planes: *const u8, chunk: usize) -> S::I;
}

/// 4 bits.
pub(crate) struct U4;
/// 5 bits: 4 and the highest.
pub(crate) struct U4U1;
/// 6 bits: 4 and the high 2.
pub(crate) struct U4U2;
/// 8 bits.
pub(crate) struct U8;

/// The field of `mask` that stands `bits` from the bottom of every byte of a vector in memory.
///
/// # Safety
/// As [`Simd`].
#[inline(always)]
unsafe fn field<S: Simd>(from: *const u8, bits: usize, mask: u8) -> S::I {
    // SAFETY: passed on.
    unsafe { S::and(S::shr(S::load_bytes(from), bits as u32), S::splat_i32(i32::from_ne_bytes([mask; 4]))) }
}

impl Planes for U4 {
    const BITS: u32 = 4;
    const BYTES: usize = 256;

    #[inline(always)]
    unsafe fn chunk<S: Simd>(planes: *const u8, chunk: usize) -> S::I {
        // SAFETY: within the 4 vectors of the plane.
        unsafe { field::<S>(planes.add(64 * (chunk % 4)), 4 * (chunk / 4), 0x0f) }
    }
}

impl Planes for U4U1 {
    const BITS: u32 = 5;
    const BYTES: usize = 256 + 64;

    #[inline(always)]
    unsafe fn chunk<S: Simd>(planes: *const u8, chunk: usize) -> S::I {
        // SAFETY: within the 4 vectors of the low plane and the one of the high.
        unsafe {
            let high = field::<S>(planes.add(256), chunk, 0x01);
            S::or(U4::chunk::<S>(planes, chunk), S::shl(high, 4))
        }
    }
}

impl Planes for U4U2 {
    const BITS: u32 = 6;
    const BYTES: usize = 256 + 128;

    #[inline(always)]
    unsafe fn chunk<S: Simd>(planes: *const u8, chunk: usize) -> S::I {
        // SAFETY: within the 4 vectors of the low plane and the 2 of the high.
        unsafe {
            let high = field::<S>(planes.add(256 + 64 * (chunk / 4)), 2 * (chunk % 4), 0x03);
            S::or(U4::chunk::<S>(planes, chunk), S::shl(high, 4))
        }
    }
}

impl Planes for U8 {
    const BITS: u32 = 8;
    const BYTES: usize = 512;

    #[inline(always)]
    unsafe fn chunk<S: Simd>(planes: *const u8, chunk: usize) -> S::I {
        // SAFETY: within the 8 vectors of the plane.
        unsafe { S::load_bytes(planes.add(64 * chunk)) }
    }
}

/// What turns the integers of a group to values.
#[derive(Clone, Copy)]
pub(crate) struct Steps<S: Simd> {
    /// The factor of the first and of the second 16 columns.
    pub step: [S::F; 2],
    /// What is added to `q · step` in affine formats.
    pub offset: S::F,
}

/// The scale region of a panel.
pub(crate) trait Scales {
    /// Whether values are `q · step + offset` rather than `(q - zero) · step`.
    const AFFINE: bool = false;
    /// Whether the halves of a group have different steps.
    const HALVES: bool = false;
    /// Bytes of the region before padding.
    fn bytes(groups: usize) -> usize;
    /// The steps of one group.
    unsafe fn steps<S: Simd>(region: *const u8, group: usize) -> Steps<S>;
}

/// One f16 step.
pub(crate) struct Step;
/// An f16 step and an f16 offset.
pub(crate) struct StepAndOffset;
/// Q4_K, Q5_K: f16 step and minimum of 256 columns, times a 6-bit factor a group.
pub(crate) struct FactoredStepAndMinimum;
/// Q6_K: f16 step of 256 columns, times a signed 8-bit factor each 16.
pub(crate) struct FactoredSteps;

impl Scales for Step {
    fn bytes(groups: usize) -> usize {
        groups * F16_LANES
    }

    #[inline(always)]
    unsafe fn steps<S: Simd>(region: *const u8, group: usize) -> Steps<S> {
        // SAFETY: the group lies in the region.
        unsafe {
            let step = S::load_f16(region.add(group * F16_LANES).cast());
            Steps { step: [step; 2], offset: S::zero() }
        }
    }
}

impl Scales for StepAndOffset {
    const AFFINE: bool = true;

    fn bytes(groups: usize) -> usize {
        groups * 2 * F16_LANES
    }

    #[inline(always)]
    unsafe fn steps<S: Simd>(region: *const u8, group: usize) -> Steps<S> {
        // SAFETY: the group lies in the region.
        unsafe {
            let at = region.add(group * 2 * F16_LANES);
            Steps { step: [S::load_f16(at.cast()); 2], offset: S::load_f16(at.add(F16_LANES).cast()) }
        }
    }
}

impl Scales for FactoredStepAndMinimum {
    const AFFINE: bool = true;

    fn bytes(groups: usize) -> usize {
        groups / BLOCK_GROUPS * (2 * F16_LANES + BLOCK_GROUPS * 2 * LANES)
    }

    #[inline(always)]
    unsafe fn steps<S: Simd>(region: *const u8, group: usize) -> Steps<S> {
        // SAFETY: the group and its block lie in the region.
        unsafe {
            let block = region.add(Self::bytes(group / BLOCK_GROUPS * BLOCK_GROUPS));
            let factors = block.add(2 * F16_LANES + group % BLOCK_GROUPS * 2 * LANES);
            let step = S::mul(S::load_f16(block.cast()), S::load_u8(factors));
            let minimum = S::mul(S::load_f16(block.add(F16_LANES).cast()), S::load_u8(factors.add(LANES)));
            // The offset is the minimum negated, which is exact.
            Steps { step: [step; 2], offset: S::sub(S::zero(), minimum) }
        }
    }
}

impl Scales for FactoredSteps {
    const HALVES: bool = true;

    fn bytes(groups: usize) -> usize {
        groups / BLOCK_GROUPS * (F16_LANES + BLOCK_GROUPS * 2 * LANES)
    }

    #[inline(always)]
    unsafe fn steps<S: Simd>(region: *const u8, group: usize) -> Steps<S> {
        // SAFETY: the group and its block lie in the region.
        unsafe {
            let block = region.add(Self::bytes(group / BLOCK_GROUPS * BLOCK_GROUPS));
            let factors = block.add(F16_LANES + group % BLOCK_GROUPS * 2 * LANES);
            let step = S::load_f16(block.cast());
            let first = S::mul(step, S::load_i8(factors.cast()));
            let second = S::mul(step, S::load_i8(factors.add(LANES).cast()));
            Steps { step: [first, second], offset: S::zero() }
        }
    }
}

/// Quantised weights of planes `P` and scales `C`, whose integer for the value 0 is `ZERO` where they are not affine.
pub(crate) struct Quantised<P, C, const ZERO: i32>(PhantomData<(P, C)>);

impl<P: Planes, C: Scales, const ZERO: i32> Quantised<P, C, ZERO> {
    /// The scale region of a panel.
    #[inline(always)]
    pub unsafe fn scale_region(panel: Panel) -> *const u8 {
        // SAFETY: the region lies in the panel.
        unsafe { panel.start.add(panel.cols / GROUP * P::BYTES) }
    }
}

/// One group of quantised weights.
pub(crate) struct QuantisedGroup<S: Simd> {
    planes: *const u8,
    steps: Steps<S>,
}

impl<S: Simd> Clone for QuantisedGroup<S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S: Simd> Copy for QuantisedGroup<S> {}

impl<P: Planes, C: Scales, const ZERO: i32> Columns for Quantised<P, C, ZERO> {
    fn panel_bytes(cols: usize) -> usize {
        let groups = cols / GROUP;
        groups * P::BYTES + C::bytes(groups).next_multiple_of(64)
    }

    type Group<S: Simd> = QuantisedGroup<S>;

    #[inline(always)]
    unsafe fn group<S: Simd>(panel: Panel, group: usize) -> QuantisedGroup<S> {
        // SAFETY: the group lies in the panel.
        unsafe {
            let planes = panel.start.add(group * P::BYTES);
            QuantisedGroup { planes, steps: C::steps::<S>(Self::scale_region(panel), group) }
        }
    }

    #[inline(always)]
    unsafe fn chunk<S: Simd>(group: &QuantisedGroup<S>, chunk: usize) -> [S::F; CHUNK] {
        // SAFETY: the chunk lies in the group.
        unsafe {
            let codes = P::chunk::<S>(group.planes, chunk);
            let step = if C::HALVES && chunk >= 4 { group.steps.step[1] } else { group.steps.step[0] };
            let mut columns = [S::zero(); CHUNK];
            for (i, column) in columns.iter_mut().enumerate() {
                let q = S::to_f32(S::and(S::shr(codes, 8 * i as u32), S::splat_i32(0xff)));
                *column = if C::AFFINE {
                    S::add(S::mul(q, step), group.steps.offset)
                } else {
                    S::mul(S::sub(q, S::splat(ZERO as f32)), step)
                };
            }
            columns
        }
    }

    #[inline(always)]
    unsafe fn column<S: Simd>(panel: Panel, column: usize) -> S::F {
        // SAFETY: the column exists, and so does its chunk, for groups are whole.
        unsafe { Self::chunk::<S>(&Self::group::<S>(panel, column / GROUP), column % GROUP / CHUNK)[column % CHUNK] }
    }
}

/// Evaluates `$body` with `$W` the [`Quantised`] type of a dtype; `None` for other dtypes.
macro_rules! with_quantised {
    ($dtype:expr, $W:ident => $body:expr) => {{
        use $crate::cpu::matmul::weights::*;
        macro_rules! with {
            ($type:ty) => {{
                type $W = $type;
                $body
            }};
        }
        match $dtype {
            DType::Q4_0 => with!(Quantised<U4, Step, 8>),
            DType::Q4_1 => with!(Quantised<U4, StepAndOffset, 0>),
            DType::Q5_0 => with!(Quantised<U4U1, Step, 16>),
            DType::Q5_1 => with!(Quantised<U4U1, StepAndOffset, 0>),
            DType::Q8_0 => with!(Quantised<U8, Step, 128>),
            DType::Q4_K => with!(Quantised<U4, FactoredStepAndMinimum, 0>),
            DType::Q5_K => with!(Quantised<U4U1, FactoredStepAndMinimum, 0>),
            DType::Q6_K => with!(Quantised<U4U2, FactoredSteps, 32>),
            _ => None,
        }
    }};
}
pub(crate) use with_quantised;

/// Evaluates `$body` with `$W` the [`Columns`] type of any weight dtype; `None` for other dtypes.
macro_rules! with_format {
    ($dtype:expr, $W:ident => $body:expr) => {{
        use $crate::cpu::matmul::weights::*;
        macro_rules! with_float {
            ($type:ty) => {{
                type $W = Floats<$type>;
                $body
            }};
        }
        match $dtype {
            DType::F32 => with_float!(F32),
            DType::F16 => with_float!(F16),
            DType::BF16 => with_float!(BF16),
            _ => with_quantised!($dtype, $W => $body),
        }
    }};
}
pub(crate) use with_format;
