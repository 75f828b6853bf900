//! Rotary embedding: turns pairs of each head's dimensions by `position · inv_freq`.
//!
//! Sine and cosine are computed once for a token and pair and used for all heads. The angle is the product rounded to
//! f32, as models are trained with it; its sine and cosine are those of the rounded angle, however large. A model with
//! several tables of frequencies names one a token; a table that does not exist counts as table 0.

use std::ffi::c_void;
use std::ops::Range;

use super::CpuKernel;
use super::isa::Isa;
use super::math;
use super::simd::{self, Body, LANES, Simd};
use crate::abi::RopeParams;

/// Blocks of the launch's grid: one a token.
pub fn blocks(params: &RopeParams) -> usize {
    params.tokens as usize
}

/// Bytes of scratch memory: sine and cosine of each pair.
pub fn scratch_bytes(params: &RopeParams) -> usize {
    2 * params.pairs as usize * size_of::<f32>()
}

/// The kernel over [`RopeParams`]; `None` if this machine lacks the instruction set.
pub fn select(isa: Isa) -> Option<CpuKernel> {
    simd::select::<Rope>(isa)
}

struct Rope;

impl Body for Rope {
    #[inline(always)]
    unsafe fn run<S: Simd>(params: *const c_void, blocks: Range<usize>, scratch: &mut [u8]) {
        // SAFETY: the caller passes this kernel's parameters and scratch memory aligned and long enough for 2 · pairs floats.
        unsafe {
            let p = &*params.cast::<RopeParams>();
            let pairs = p.pairs as usize;
            let table = std::slice::from_raw_parts_mut(scratch.as_mut_ptr().cast::<f32>(), 2 * pairs);
            let (sin, cos) = table.split_at_mut(pairs);
            for token in blocks.start..blocks.end.min(p.tokens as usize) {
                angles(p, token, sin, cos);
                let width = (p.heads * p.head_dim) as usize;
                let (x, out) = (p.x.add(token * width), p.out.add(token * width));
                for head in 0..p.heads as usize {
                    let at = head * p.head_dim as usize;
                    turn(p, x.add(at), out.add(at), sin, cos);
                }
            }
        }
    }
}

/// Sine and cosine of each pair's angle at a token's position, by the launch's scale.
///
/// # Safety
/// The token is of the launch, whose positions and frequencies are valid; both slices have a place a pair.
#[inline(always)]
pub(super) unsafe fn angles(p: &RopeParams, token: usize, sin: &mut [f32], cos: &mut [f32]) {
    let pairs = p.pairs as usize;
    // SAFETY: as the caller says.
    unsafe {
        let position = *p.positions.add(token) as f32;
        let inv_freq = std::slice::from_raw_parts(p.inv_freq.add(table_of(p, token) * pairs), pairs);
        for ((s, c), f) in sin.iter_mut().zip(cos).zip(inv_freq) {
            let (sin, cos) = math::sin_cos(f64::from(position * f));
            (*s, *c) = (sin * p.scale, cos * p.scale);
        }
    }
}

/// The row of frequencies a token uses.
///
/// # Safety
/// The token is of the launch.
#[inline(always)]
unsafe fn table_of(p: &RopeParams, token: usize) -> usize {
    if p.table.is_null() {
        return 0;
    }
    // SAFETY: as the caller says.
    let table = unsafe { *p.table.add(token) };
    usize::try_from(table).ok().filter(|t| *t < p.tables as usize).unwrap_or(0)
}

/// One head.
///
/// # Safety
/// `x` and `out` point to a head's dimensions; they may be equal.
#[inline(always)]
pub(super) unsafe fn turn(p: &RopeParams, x: *const f32, out: *mut f32, sin: &[f32], cos: &[f32]) {
    let (pairs, dim) = (sin.len(), p.head_dim as usize);
    // SAFETY: the caller says so; 2 · pairs is at most the head's dimension.
    unsafe {
        if p.interleaved != 0 {
            turn_neighbours(x, out, sin, cos);
        } else {
            turn_halves(x, out, sin, cos);
        }
        if !std::ptr::eq(x, out) {
            std::ptr::copy_nonoverlapping(x.add(2 * pairs), out.add(2 * pairs), dim - 2 * pairs);
        }
    }
}

#[inline(always)]
fn turned(a: f32, b: f32, sin: f32, cos: f32) -> (f32, f32) {
    (a.mul_add(cos, -(b * sin)), a.mul_add(sin, b * cos))
}

/// Pairs `(i, i + pairs)`. Whole vectors are read before they are written, as `x` may be `out`.
///
/// # Safety
/// As [`turn`].
#[inline(always)]
unsafe fn turn_halves(x: *const f32, out: *mut f32, sin: &[f32], cos: &[f32]) {
    let pairs = sin.len();
    let whole = pairs / LANES * LANES;
    // SAFETY: as the caller says.
    unsafe {
        for i in (0..whole).step_by(LANES) {
            let a = x.add(i).cast::<[f32; LANES]>().read_unaligned();
            let b = x.add(i + pairs).cast::<[f32; LANES]>().read_unaligned();
            let (mut first, mut second) = ([0f32; LANES], [0f32; LANES]);
            for l in 0..LANES {
                (first[l], second[l]) = turned(a[l], b[l], sin[i + l], cos[i + l]);
            }
            out.add(i).cast::<[f32; LANES]>().write_unaligned(first);
            out.add(i + pairs).cast::<[f32; LANES]>().write_unaligned(second);
        }
        for i in whole..pairs {
            (*out.add(i), *out.add(i + pairs)) = turned(*x.add(i), *x.add(i + pairs), sin[i], cos[i]);
        }
    }
}

/// Pairs `(2i, 2i + 1)`.
///
/// # Safety
/// As [`turn`].
#[inline(always)]
unsafe fn turn_neighbours(x: *const f32, out: *mut f32, sin: &[f32], cos: &[f32]) {
    for (i, (sin, cos)) in sin.iter().zip(cos).enumerate() {
        // SAFETY: as the caller says.
        unsafe { (*out.add(2 * i), *out.add(2 * i + 1)) = turned(*x.add(2 * i), *x.add(2 * i + 1), *sin, *cos) };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cpu::matmul::testing::{Random, launch};

    struct Case {
        positions: Vec<i32>,
        /// `[tables, pairs]`.
        inv_freq: Vec<f32>,
        pairs: usize,
        /// Of each token; none where there is one table.
        tables: Option<Vec<i32>>,
        heads: usize,
        head_dim: usize,
        interleaved: bool,
        scale: f32,
    }

    impl Case {
        fn run(&self, isa: Isa, x: &[f32], in_place: bool) -> Vec<f32> {
            let mut out = if in_place { x.to_vec() } else { vec![f32::NAN; x.len()] };
            let to = out.as_mut_ptr();
            let params = RopeParams {
                x: if in_place { to } else { x.as_ptr() },
                positions: self.positions.as_ptr(),
                inv_freq: self.inv_freq.as_ptr(),
                table: self.tables.as_ref().map_or(std::ptr::null(), |t| t.as_ptr()),
                out: to,
                tokens: self.positions.len() as u32,
                heads: self.heads as u32,
                head_dim: self.head_dim as u32,
                pairs: self.pairs as u32,
                tables: (self.inv_freq.len() / self.pairs) as u32,
                interleaved: self.interleaved.into(),
                scale: self.scale,
                reserved: 0,
            };
            let middle = blocks(&params) / 2;
            // SAFETY: the buffers have the sizes the parameters say.
            unsafe {
                let ranges = [middle..blocks(&params), 0..middle];
                launch(select(isa).unwrap(), &params, &ranges, scratch_bytes(&params))
            };
            out
        }

        fn expected(&self, x: &[f32]) -> Vec<f64> {
            let mut out: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
            for (row, head) in out.chunks_exact_mut(self.head_dim).enumerate() {
                let token = row / self.heads;
                let tables = 0..(self.inv_freq.len() / self.pairs) as i32;
                let table = self.tables.as_ref().map_or(0, |t| t[token]);
                let table = if tables.contains(&table) { table as usize } else { 0 };
                for (i, f) in self.inv_freq[table * self.pairs..][..self.pairs].iter().enumerate() {
                    let angle = self.positions[token] as f32 * f;
                    let (sin, cos) = f64::from(angle).sin_cos();
                    let (first, second) = if self.interleaved { (2 * i, 2 * i + 1) } else { (i, i + self.pairs) };
                    let (a, b, scale) = (head[first], head[second], f64::from(self.scale));
                    head[first] = (a * cos - b * sin) * scale;
                    head[second] = (a * sin + b * cos) * scale;
                }
            }
            out
        }
    }

    proptest! {
        #[test]
        fn pairs_are_turned(
            positions in prop::collection::vec(prop_oneof![0i32..4096, 0i32..10_000_000], 1..6),
            (pairs, rest, heads) in (1usize..50, 0usize..20, 1usize..5),
            (tables, interleaved) in (1usize..4, any::<bool>()), scale in prop_oneof![Just(1f32), 0.5f32..2.0], seed: u64,
        ) {
            let mut random = Random(seed);
            let head_dim = 2 * pairs + rest;
            let frequency = |i: usize| 10_000f32.powf(-((i % pairs) as f32) / pairs as f32) / (1 + i / pairs) as f32;
            let inv_freq = (0..tables * pairs).map(frequency).collect();
            // One past the last and one before the first as well.
            let mut table = || (random.bits() % (tables as u64 + 2)) as i32 - 1;
            let tables = (tables > 1).then(|| positions.iter().map(|_| table()).collect());
            let case = Case { positions, inv_freq, pairs, tables, heads, head_dim, interleaved, scale };
            let x = random.values(case.positions.len() * heads * head_dim);
            let out = case.run(Isa::Portable, &x, false);
            for (out, expected) in out.iter().zip(case.expected(&x)) {
                prop_assert!((f64::from(*out) - expected).abs() < 2e-6, "{} {}", out, expected);
            }
            for &isa in Isa::available() {
                for in_place in [false, true] {
                    let got = case.run(isa, &x, in_place);
                    prop_assert!(got.iter().zip(&out).all(|(a, b)| a.to_bits() == b.to_bits()), "{isa} {in_place}");
                }
            }
        }
    }
}
