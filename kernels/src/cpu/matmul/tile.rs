//! Register tiles: the products of `T` tokens with `P` panels of 16 rows.
//!
//! Every element of the output is one lane of one accumulator that walks `k` upwards, so neither `T` nor `P` nor the
//! vector width shows in its bits:
//!
//! * f32 activations: `acc = fma(w[k], x[k], acc)`, one column after the other.
//! * 8-bit activations: per group of 32 (for Q6_K per half group),
//!   `acc = fma(f32(Σ (q_w - zero) · q_x), step · d_x, acc)`, with the integer sum exact; affine formats follow with
//!   `acc = fma(offset, Σx, acc)`, where `Σx` is the sum of the group's two partial sums.

use std::marker::PhantomData;

use ir::types::DType;

use super::activations::{Integers, Numbers, integer_row_bytes, stage_integers, stage_numbers};
use super::weights::{BLOCK_GROUPS, CHUNK, Code, Columns, GROUP, PREFETCH, Panel, Planes, Quantised, Scales, Steps};
use crate::cpu::simd::Simd;

/// Chunks of a group.
const CHUNKS: usize = GROUP / CHUNK;

/// Tokens of f32 activations staged together: at 8192 columns 1 MiB, half the second cache.
pub(crate) const NUMBER_TOKENS: usize = 32;

/// Tokens of 8-bit activations staged together.
pub(crate) const INTEGER_TOKENS: usize = 64;

/// A way to multiply: weights of one format by activations of one type.
pub(crate) trait Product {
    /// The weights, for the size of a panel.
    type Weights: Columns;
    /// Activations of one token and group, as staged in scratch memory.
    type Activation;
    /// Type of activations in memory.
    const ACTIVATIONS: DType;
    /// Tokens staged together.
    const TOKENS: usize;
    /// Panels one token is multiplied by at a time.
    const PANELS: usize;

    /// Bytes of a row of activations in memory.
    fn row_bytes(cols: usize) -> usize;

    /// Copies a row of activations to every `stride`-th record from `to` on.
    unsafe fn stage<S: Simd>(row: *const u8, cols: usize, to: *mut Self::Activation, stride: usize);

    /// The products of `T` tokens, `x[group][token]`, with `P` panels `panel_bytes` apart from each other; `is_fresh` unless
    /// other tokens have just met these panels.
    unsafe fn tile<S: Simd, const T: usize, const P: usize>(
        first: Panel,
        panel_bytes: usize,
        x: *const Self::Activation,
        is_fresh: bool,
    ) -> [[S::F; T]; P];
}

/// Any weights, dequantised in registers, by f32 activations.
pub(crate) struct FloatProduct<W>(PhantomData<W>);

impl<W: Columns> Product for FloatProduct<W> {
    type Weights = W;
    type Activation = Numbers;

    const ACTIVATIONS: DType = DType::F32;
    const TOKENS: usize = NUMBER_TOKENS;
    // One chain of dependent multiply-adds would wait for its latency.
    const PANELS: usize = 4;

    fn row_bytes(cols: usize) -> usize {
        cols * size_of::<f32>()
    }

    #[inline(always)]
    unsafe fn stage<S: Simd>(row: *const u8, cols: usize, to: *mut Numbers, stride: usize) {
        // SAFETY: passed on.
        unsafe { stage_numbers(row.cast(), cols, to, stride) }
    }

    #[inline(always)]
    unsafe fn tile<S: Simd, const T: usize, const P: usize>(
        first: Panel,
        panel_bytes: usize,
        x: *const Numbers,
        _: bool,
    ) -> [[S::F; T]; P] {
        // SAFETY: `first` and the `P - 1` panels behind it are whole, `x` has `T` records a group.
        unsafe {
            let panel = |p: usize| Panel { start: first.start.add(p * panel_bytes), cols: first.cols };
            let mut acc = [[S::zero(); T]; P];
            let chunks = first.cols / CHUNK;
            let mut at = 0;
            while at < chunks {
                let group = at * CHUNK / GROUP;
                let x = x.add(group * T);
                let mut groups = [W::group::<S>(first, group); P];
                for (p, panel_group) in groups.iter_mut().enumerate().skip(1) {
                    *panel_group = W::group::<S>(panel(p), group);
                }
                let end = (chunks - at).min(CHUNKS);
                for chunk in 0..end {
                    let x = x.cast::<f32>().add(chunk * CHUNK);
                    for (group, acc) in groups.iter().zip(&mut acc) {
                        for (i, &column) in W::chunk::<S>(group, chunk).iter().enumerate() {
                            for (t, acc) in acc.iter_mut().enumerate() {
                                *acc = S::fma(column, S::splat(*x.add(t * GROUP + i)), *acc);
                            }
                        }
                    }
                }
                at += end;
            }
            for k in chunks * CHUNK..first.cols {
                let x = x.add(k / GROUP * T).cast::<f32>().add(k % GROUP);
                for (p, acc) in acc.iter_mut().enumerate() {
                    let column = W::column::<S>(panel(p), k);
                    for (t, acc) in acc.iter_mut().enumerate() {
                        *acc = S::fma(column, S::splat(*x.add(t * GROUP)), *acc);
                    }
                }
            }
            acc
        }
    }
}

/// Quantised weights by 8-bit activations.
pub(crate) struct IntegerProduct<W>(PhantomData<W>);

impl<P: Planes, C: Scales, N: Code> IntegerProduct<Quantised<P, C, N>> {
    /// `start + Σ q_w · q_x`.
    #[inline(always)]
    unsafe fn dot<S: Simd>(start: i32, codes: &[S::I], x: &[i32]) -> S::F {
        // SAFETY: the planes hold as many bits as they say.
        unsafe {
            S::to_f32(match P::BITS {
                2 | 4 => S::dot::<4>(start, codes, x),
                5 => S::dot::<5>(start, codes, x),
                6 => S::dot::<6>(start, codes, x),
                _ => S::dot::<8>(start, codes, x),
            })
        }
    }

    /// `acc` and the product of one group with one token.
    #[inline(always)]
    unsafe fn accumulate<S: Simd>(acc: S::F, codes: &[S::I; CHUNKS], steps: &Steps<S>, x: &Integers) -> S::F {
        // SAFETY: as `dot`.
        unsafe {
            let d = S::splat(x.d);
            if C::HALVES {
                let (first, second) = codes.split_at(CHUNKS / 2);
                let first = Self::dot::<S>(x.start[0], first, &x.q[..CHUNKS / 2]);
                let second = Self::dot::<S>(x.start[1], second, &x.q[CHUNKS / 2..]);
                let acc = S::fma(first, S::mul(steps.step[0], d), acc);
                return S::fma(second, S::mul(steps.step[1], d), acc);
            }
            let sum = Self::dot::<S>(x.start[0], codes, &x.q);
            let acc = S::fma(sum, S::mul(steps.step[0], d), acc);
            if C::AFFINE { S::fma(steps.offset, S::splat(x.sum), acc) } else { acc }
        }
    }
}

impl<P: Planes, C: Scales, N: Code> Product for IntegerProduct<Quantised<P, C, N>> {
    type Weights = Quantised<P, C, N>;
    type Activation = Integers;

    const ACTIVATIONS: DType = DType::Q8X32;
    const TOKENS: usize = INTEGER_TOKENS;
    // The groups' integer sums are independent of each other: one panel fills the pipeline.
    const PANELS: usize = 1;

    fn row_bytes(cols: usize) -> usize {
        integer_row_bytes(cols)
    }

    #[inline(always)]
    unsafe fn stage<S: Simd>(row: *const u8, cols: usize, to: *mut Integers, stride: usize) {
        let zero = if P::BITS == 8 { N::ZERO - S::WIDE_SHIFT } else { N::ZERO };
        // SAFETY: passed on.
        unsafe { stage_integers::<S>(row, cols.div_ceil(GROUP), (zero, C::HALVES), to, stride) }
    }

    #[inline(always)]
    unsafe fn tile<S: Simd, const T: usize, const M: usize>(
        first: Panel,
        panel_bytes: usize,
        x: *const Integers,
        is_fresh: bool,
    ) -> [[S::F; T]; M] {
        // SAFETY: `first` and the `M - 1` panels behind it are whole, `x` has `T` records a group.
        unsafe {
            let mut acc = [[S::zero(); T]; M];
            for group in 0..first.cols.div_ceil(GROUP) {
                let x = x.add(group * T);
                for (n, acc) in acc.iter_mut().enumerate() {
                    let panel = Panel { start: first.start.add(n * panel_bytes), cols: first.cols };
                    let planes = panel.start.add(group * P::BYTES);
                    let scales = Self::Weights::scale_region(panel);
                    if is_fresh {
                        for line in 0..P::BYTES / 64 {
                            S::prefetch(planes.wrapping_add(PREFETCH + 64 * line));
                        }
                        // Scales are asked for a panel ahead: they lie behind all planes.
                        S::prefetch(scales.wrapping_add(panel_bytes + C::bytes(BLOCK_GROUPS) / BLOCK_GROUPS * group));
                    }
                    let mut codes = [S::splat_i32(0); CHUNKS];
                    for (chunk, codes) in codes.iter_mut().enumerate() {
                        *codes = P::chunk::<S>(planes, chunk);
                    }
                    let steps = C::steps::<S>(scales, group);
                    for (t, acc) in acc.iter_mut().enumerate() {
                        *acc = Self::accumulate::<S>(*acc, &codes, &steps, &*x.add(t));
                    }
                }
            }
            acc
        }
    }
}
