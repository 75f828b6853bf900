//! Arithmetic of one lane: each PTX operation as a scalar function `fn(modifiers, a, b, c) -> bits`, the definition that the vectorised
//! instructions must agree with. Operands are register bits, narrower values in the low bits; a function ignores what lies above them.

pub(crate) mod approximate;
pub(crate) mod compare;
pub(crate) mod convert;
pub(crate) mod float;
pub(crate) mod formats;
pub(crate) mod half_ops;
pub(crate) mod integer;
pub(crate) mod rounding;

/// Modifiers of float operations, joined by `|` into the `m` of a lane function.
pub(crate) mod modifier {
    /// The two lowest bits: [`super::rounding::Rounding`].
    pub(crate) const ROUNDING: u32 = 3;
    pub(crate) const FTZ: u32 = 1 << 2;
    pub(crate) const SAT: u32 = 1 << 3;
    /// `.NaN` of min and max: a NaN operand makes the result NaN.
    pub(crate) const NAN: u32 = 1 << 4;
    pub(crate) const XORSIGN_ABS: u32 = 1 << 5;
    pub(crate) const RELU: u32 = 1 << 6;
    /// Round to nearest with ties away from zero (`cvt.rna.tf32`).
    pub(crate) const AWAY: u32 = 1 << 7;
    /// Round to an integral value and stay a float (`cvt.rni.f32.f32`).
    pub(crate) const INTEGRAL: u32 = 1 << 8;
}
