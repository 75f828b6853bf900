//! How the kernels read packed weights: float columns, and the bit planes and scales of the quantised formats.
//!
//! The layout is that of `ir::quant` (rows16): lane `r` of every vector is row `r` of the panel. A quantised format is a
//! triple of [`Planes`], [`Scales`] and [`Code`], so a new one is at most one of each and a line in the table below.

use std::marker::PhantomData;

use ir::quant::minifloat::twice_e2m1;

use crate::cpu::simd::{LANES, Simd};

/// Columns of a group.
pub(crate) const GROUP: usize = ir::quant::GROUP;

/// Columns of a chunk: what one lane of a byte vector holds.
pub(crate) const CHUNK: usize = 4;

/// Groups of a block of 256 columns.
pub(crate) const BLOCK_GROUPS: usize = 8;

/// Bytes of 16 f16 scales.
const F16_LANES: usize = 2 * LANES;

/// Bytes of 16 f32 scales.
const F32_LANES: usize = 4 * LANES;

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
/// 2 bits.
pub(crate) struct U2;
/// E2M1 in 4 bits, as the whole numbers `2 · e2m1 + 12` of 5.
pub(crate) struct TwiceE2m1;

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

impl Planes for U2 {
    const BITS: u32 = 2;
    const BYTES: usize = 128;

    #[inline(always)]
    unsafe fn chunk<S: Simd>(planes: *const u8, chunk: usize) -> S::I {
        // SAFETY: within the 2 vectors of the plane.
        unsafe { field::<S>(planes.add(64 * (chunk / 4)), 2 * (chunk % 4), 0x03) }
    }
}

impl Planes for TwiceE2m1 {
    const BITS: u32 = 5;
    const BYTES: usize = U4::BYTES;

    #[inline(always)]
    unsafe fn chunk<S: Simd>(planes: *const u8, chunk: usize) -> S::I {
        const NUMBERS: [u8; 16] = {
            let mut numbers = [0; 16];
            let mut code = 0;
            while code < 16 {
                numbers[code] = (E2M1_ZERO as i8 + twice_e2m1(code as u8)) as u8;
                code += 1;
            }
            numbers
        };
        // SAFETY: as `U4`, whose integers are less than 16.
        unsafe { S::look_up(&NUMBERS, U4::chunk::<S>(planes, chunk)) }
    }
}

/// What [`TwiceE2m1`] adds to `2 · e2m1`, its greatest magnitude.
pub(crate) const E2M1_ZERO: i32 = 12;

/// How an unsigned integer, one a lane, becomes the number that its step multiplies.
pub(crate) trait Code {
    /// The integer whose number is 0.
    const ZERO: i32;
    /// The numbers.
    unsafe fn number<S: Simd>(code: S::I) -> S::F;
}

/// A whole number: the integer less `ZERO`.
pub(crate) struct Integer<const ZERO: i32>;
/// The bits of an E4M3 number.
pub(crate) struct E4m3;

impl<const ZERO: i32> Code for Integer<ZERO> {
    const ZERO: i32 = ZERO;

    #[inline(always)]
    unsafe fn number<S: Simd>(code: S::I) -> S::F {
        // SAFETY: passed on.
        unsafe {
            let q = S::to_f32(code);
            if ZERO == 0 { q } else { S::sub(q, S::splat(ZERO as f32)) }
        }
    }
}

impl Code for E4m3 {
    const ZERO: i32 = 0;

    /// The exponent `e` and mantissa `m`, moved to where f32 has them below a bit of 2^7, are `v = 2^(e + 1) · (1 + m/8)`.
    /// That is 256 times the number where `e > 0`; subnormals are `m/2 = 2v - 4`, which is less than `v` just where `e`
    /// is 0. No operand is a subnormal f32, which processors are slow with.
    #[inline(always)]
    unsafe fn number<S: Simd>(code: S::I) -> S::F {
        // SAFETY: passed on.
        unsafe {
            let fields = S::shl(S::and(code, S::splat_i32(0x7f)), 20);
            let v = S::from_bits(S::or(fields, S::splat_i32(1 << 30)));
            let magnitude = S::min(v, S::fma(v, S::splat(2.0), S::splat(-4.0)));
            let sign = S::shl(S::and(code, S::splat_i32(0x80)), 24);
            S::mul(magnitude, S::from_bits(S::or(sign, S::splat_i32((127 - 8) << 23))))
        }
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

/// One f16 step each `GROUPS` groups.
pub(crate) struct Step<const GROUPS: usize>;
/// One f32 step each `GROUPS` groups, [`ROW`] for one a row.
pub(crate) struct WideStep<const GROUPS: usize>;
/// An f16 step and an 8-bit zero each `GROUPS` groups.
pub(crate) struct StepAndZero<const GROUPS: usize>;
/// A step that is half of a power of two, of 8 bits.
pub(crate) struct HalfPower;
/// An f16 step and an f16 offset.
pub(crate) struct StepAndOffset;
/// Q4_K, Q5_K: f16 step and minimum of 256 columns, times a 6-bit factor a group.
pub(crate) struct FactoredStepAndMinimum;
/// Q6_K: f16 step of 256 columns, times a signed 8-bit factor each 16.
pub(crate) struct FactoredSteps;

/// More groups than any row has.
pub(crate) const ROW: usize = usize::MAX;

impl<const GROUPS: usize> Scales for Step<GROUPS> {
    fn bytes(groups: usize) -> usize {
        groups.div_ceil(GROUPS) * F16_LANES
    }

    #[inline(always)]
    unsafe fn steps<S: Simd>(region: *const u8, group: usize) -> Steps<S> {
        // SAFETY: the group lies in the region.
        unsafe {
            let step = S::load_f16(region.add(group / GROUPS * F16_LANES).cast());
            Steps { step: [step; 2], offset: S::zero() }
        }
    }
}

impl<const GROUPS: usize> Scales for WideStep<GROUPS> {
    fn bytes(groups: usize) -> usize {
        groups.div_ceil(GROUPS) * F32_LANES
    }

    #[inline(always)]
    unsafe fn steps<S: Simd>(region: *const u8, group: usize) -> Steps<S> {
        // SAFETY: the group lies in the region.
        unsafe {
            let step = S::load(region.add(group / GROUPS * F32_LANES).cast());
            Steps { step: [step; 2], offset: S::zero() }
        }
    }
}

impl<const GROUPS: usize> Scales for StepAndZero<GROUPS> {
    const AFFINE: bool = true;

    fn bytes(groups: usize) -> usize {
        groups.div_ceil(GROUPS) * (F16_LANES + LANES)
    }

    #[inline(always)]
    unsafe fn steps<S: Simd>(region: *const u8, group: usize) -> Steps<S> {
        // SAFETY: the group lies in the region.
        unsafe {
            let at = region.add(group / GROUPS * (F16_LANES + LANES));
            let step = S::load_f16(at.cast());
            let zero = S::load_u8(at.add(F16_LANES));
            Steps { step: [step; 2], offset: S::sub(S::zero(), S::mul(zero, step)) }
        }
    }
}

impl Scales for HalfPower {
    fn bytes(groups: usize) -> usize {
        groups * LANES
    }

    #[inline(always)]
    unsafe fn steps<S: Simd>(region: *const u8, group: usize) -> Steps<S> {
        // SAFETY: the group lies in the region.
        unsafe {
            let power = S::from_bits(S::shl(S::widen_bytes(region.add(group * LANES)), 23));
            // The exponent of a subnormal power is 0, whose bits are no number's.
            let power = S::max(power, S::splat(f32::MIN_POSITIVE / 2.0));
            Steps { step: [S::mul(power, S::splat(0.5)); 2], offset: S::zero() }
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

/// Quantised weights of planes `P` and scales `C`, whose integers are numbers as `N` says.
pub(crate) struct Quantised<P, C, N>(PhantomData<(P, C, N)>);

impl<P: Planes, C: Scales, N: Code> Quantised<P, C, N> {
    /// The scale region of a panel.
    #[inline(always)]
    pub unsafe fn scale_region(panel: Panel) -> *const u8 {
        // SAFETY: the region lies in the panel.
        unsafe { panel.start.add(panel.cols.div_ceil(GROUP) * P::BYTES) }
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

impl<P: Planes, C: Scales, N: Code> Columns for Quantised<P, C, N> {
    fn panel_bytes(cols: usize) -> usize {
        let groups = cols.div_ceil(GROUP);
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
                let number = N::number::<S>(S::and(S::shr(codes, 8 * i as u32), S::splat_i32(0xff)));
                let value = S::mul(number, step);
                *column = if C::AFFINE { S::add(value, group.steps.offset) } else { value };
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

/// Evaluates `$body` with `$W` the [`Quantised`] type of a dtype of integers; `None` for other dtypes.
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
            DType::Q4_0 => with!(Quantised<U4, Step<1>, Integer<8>>),
            DType::Q4_1 => with!(Quantised<U4, StepAndOffset, Integer<0>>),
            DType::Q5_0 => with!(Quantised<U4U1, Step<1>, Integer<16>>),
            DType::Q5_1 => with!(Quantised<U4U1, StepAndOffset, Integer<0>>),
            DType::Q8_0 => with!(Quantised<U8, Step<1>, Integer<128>>),
            DType::Q4_K => with!(Quantised<U4, FactoredStepAndMinimum, Integer<0>>),
            DType::Q5_K => with!(Quantised<U4U1, FactoredStepAndMinimum, Integer<0>>),
            DType::Q6_K => with!(Quantised<U4U2, FactoredSteps, Integer<32>>),
            DType::Q4G64 => with!(Quantised<U4, Step<2>, Integer<8>>),
            DType::Q4G128 => with!(Quantised<U4, Step<4>, Integer<8>>),
            DType::Q4Z32 => with!(Quantised<U4, StepAndZero<1>, Integer<0>>),
            DType::Q4Z64 => with!(Quantised<U4, StepAndZero<2>, Integer<0>>),
            DType::Q4Z128 => with!(Quantised<U4, StepAndZero<4>, Integer<0>>),
            DType::Q8C => with!(Quantised<U8, WideStep<ROW>, Integer<128>>),
            DType::MXFP4 => with!(Quantised<TwiceE2m1, HalfPower, Integer<E2M1_ZERO>>),
            DType::T2 => with!(Quantised<U2, WideStep<ROW>, Integer<1>>),
            _ => None,
        }
    }};
}
pub(crate) use with_quantised;

/// Evaluates `$body` with `$W` the [`Columns`] type of any weight dtype; `None` for other dtypes.
macro_rules! with_format {
    ($dtype:expr, $W:ident => $body:expr) => {{
        use $crate::cpu::matmul::weights::*;
        macro_rules! with {
            ($type:ty) => {{
                type $W = $type;
                $body
            }};
        }
        match $dtype {
            DType::F32 => with!(Floats<F32>),
            DType::F16 => with!(Floats<F16>),
            DType::BF16 => with!(Floats<BF16>),
            DType::F8_E4M3 => with!(Quantised<U8, WideStep<4>, E4m3>),
            _ => with_quantised!($dtype, $W => $body),
        }
    }};
}
pub(crate) use with_format;
