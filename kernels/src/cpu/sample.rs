//! A token of each row of logits: mask, penalties, temperature, top-k, top-p, min-p, draw.
//!
//! The parameters are [`SampleParams`], the semantics those of the engine's sampler, which chooses on the host. Nothing is sorted. A filter
//! keeps the first tokens in falling order of score, the lower id first among equals, so it is a [`Cut`]: a score and how many of the
//! tokens with just that score are kept. Cuts are found by bisection over the bits of a float in the order of their values, by
//! count for top-k, by mass for top-p and for the draw itself.
//!
//! Masses are sums of weights as integers in units of 2^-42: such sums are exact whatever their order, so that a token does not
//! depend on threads, batches or instruction sets. Host and device may differ where rounding of a weight decides.

use std::ffi::c_void;
use std::ops::Range;

use super::isa::Isa;
use super::simd::{self, Body, Simd};
use super::{CpuKernel, SCRATCH_ALIGN, math};
use crate::abi::{SampleParams, SampleSettings};
use crate::philox;

/// In the place of a token: a logit, or a score after the penalties, is NaN or positive infinity.
pub const INVALID_LOGIT: i32 = -1;
/// In the place of a token: the row is empty or every score is negative infinity.
pub const NOTHING_ALLOWED: i32 = -2;
/// In the place of a token: the history names one that does not exist.
pub const UNKNOWN_TOKEN: i32 = -3;

/// Most tokens of a vocabulary: their mass fits 64 bits.
pub const MOST_TOKENS: u32 = 1 << 21;

/// Fraction bits of a mass. A weight is at most 1.
const MASS_BITS: u32 = 42;
/// Fraction bits of top_p.
const SHARE_BITS: u32 = 40;

/// Blocks of the launch's grid: one a row.
pub fn blocks(params: &SampleParams) -> usize {
    params.rows as usize
}

/// Bytes of scratch memory: a row of scores and as many orders.
pub fn scratch_bytes(params: &SampleParams) -> usize {
    (params.vocab as usize * (size_of::<f32>() + size_of::<u32>())).next_multiple_of(SCRATCH_ALIGN)
}

/// The kernel over [`SampleParams`]; `None` if this machine lacks the instruction set.
pub fn select(isa: Isa) -> Option<CpuKernel> {
    simd::select::<Sample>(isa)
}

struct Sample;

impl Body for Sample {
    #[inline(always)]
    unsafe fn run<S: Simd>(params: *const c_void, blocks: Range<usize>, scratch: &mut [u8]) {
        // SAFETY: the caller passes this kernel's parameters, valid for the counts they state; any bits are a number.
        unsafe {
            let p = &*params.cast::<SampleParams>();
            let vocab = p.vocab as usize;
            let (copy, orders) = scratch.split_at_mut(vocab * size_of::<f32>());
            let (copy, orders) = (copy.align_to_mut::<f32>().1, orders.align_to_mut::<u32>().1);
            for row in blocks.start..blocks.end.min(p.rows as usize) {
                let logits = std::slice::from_raw_parts(p.logits.add(row * vocab), vocab);
                let how = &*p.settings.add(row);
                let token = match scores(p, row, how, logits, &mut copy[..vocab]) {
                    Some(scores) => choose(scores, how, &mut orders[..vocab]),
                    None => UNKNOWN_TOKEN,
                };
                *p.out.add(row) = token;
                if !p.logprobs.is_null() {
                    *p.logprobs.add(row) = if token < 0 { f32::NAN } else { logprob(logits, logits[token as usize]) };
                }
            }
        }
    }
}

/// The scores of a row: its logits, or a copy that mask and penalties have changed; `None` if the history names a token that does not
/// exist.
///
/// # Safety
/// The parameters must be valid.
#[inline(always)]
unsafe fn scores<'a>(
    p: &SampleParams,
    row: usize,
    how: &SampleSettings,
    logits: &'a [f32],
    copy: &'a mut [f32],
) -> Option<&'a [f32]> {
    let neutral = how.repetition_penalty == 1.0 && how.presence_penalty == 0.0 && how.frequency_penalty == 0.0;
    let penalised = !p.history_offsets.is_null() && !neutral;
    if p.allowed.is_null() && !penalised {
        return Some(logits);
    }
    copy.copy_from_slice(logits);
    // SAFETY: the caller's.
    unsafe {
        if !p.allowed.is_null() {
            let words = logits.len().div_ceil(32);
            let allowed = std::slice::from_raw_parts(p.allowed.add(row * words), words);
            for (id, score) in copy.iter_mut().enumerate() {
                // Added, as the host's bias is: what is no number stays none.
                *score += if allowed[id / 32] >> (id % 32) & 1 == 1 { -0.0 } else { f32::NEG_INFINITY };
            }
        }
        if penalised {
            let [first, end] = [0, 1].map(|i| *p.history_offsets.add(row + i) as usize);
            for i in first..end {
                let score = copy.get_mut(*p.history_tokens.add(i) as usize)?;
                penalise(score, *p.history_counts.add(i), how);
            }
        }
    }
    Some(copy)
}

/// Applies the penalties to the score of a token that stands in the history, `outputs` times in the output.
#[inline(always)]
fn penalise(score: &mut f32, outputs: u32, how: &SampleSettings) {
    *score = if *score > 0.0 { *score / how.repetition_penalty } else { *score * how.repetition_penalty };
    if outputs > 0 {
        *score -= how.presence_penalty + how.frequency_penalty * outputs as f32;
    }
}

/// The token of a row of scores, or why there is none. `orders` is memory for one number a score.
#[inline(always)]
fn choose(scores: &[f32], how: &SampleSettings, orders: &mut [u32]) -> i32 {
    let Some((best, largest)) = largest(scores) else { return INVALID_LOGIT };
    if largest == f32::NEG_INFINITY {
        return NOTHING_ALLOWED;
    }
    let token = if how.temperature == 0.0 { best } else { draw(scores, how, (best, largest), orders) };
    token as i32
}

/// The lowest id of the largest score, and the score; `None` if one is NaN or positive infinity.
#[inline(always)]
fn largest(scores: &[f32]) -> Option<(usize, f32)> {
    let mut best = (0, f32::NEG_INFINITY);
    for (id, &score) in scores.iter().enumerate() {
        if score.is_nan() || score == f32::INFINITY {
            return None;
        }
        if score > best.1 {
            best = (id, score);
        }
    }
    Some(best)
}

/// A number whose order is that of the floats: negative infinity first, -0 just before +0.
#[inline(always)]
fn order_of(x: f32) -> u32 {
    let bits = x.to_bits();
    if bits >> 31 == 1 { !bits } else { bits | 1 << 31 }
}

#[inline(always)]
fn value_of(order: u32) -> f32 {
    f32::from_bits(if order >> 31 == 1 { order & !(1 << 31) } else { !order })
}

/// `order_of(f32::NEG_INFINITY)`
const FORBIDDEN: u32 = 0x007f_ffff;

/// What a token counts in a cut, by its score.
trait Measure: Copy {
    fn of(self, score: f32) -> u64;
}

/// Each token counts 1.
#[derive(Clone, Copy)]
struct Counting;

impl Measure for Counting {
    #[inline(always)]
    fn of(self, _: f32) -> u64 {
        1
    }
}

/// Tokens of one order count 1.
#[derive(Clone, Copy)]
struct Equal(u32);

impl Measure for Equal {
    #[inline(always)]
    fn of(self, score: f32) -> u64 {
        u64::from(order_of(score) == self.0)
    }
}

/// A token counts exp((score - largest) / temperature), and 0 if that is less than min_p or the token is forbidden.
#[derive(Clone, Copy)]
struct Weighing {
    largest: f32,
    temperature: f32,
    min_p: f32,
}

impl Measure for Weighing {
    #[inline(always)]
    fn of(self, score: f32) -> u64 {
        let weight = math::exp((score - self.largest) / self.temperature);
        // Settings without meaning give any weights, but none above 1.
        let bounded = if weight <= 1.0 { weight } else { 1.0 };
        let counts = bounded >= self.min_p && score > f32::NEG_INFINITY;
        if counts { (bounded * (1u64 << MASS_BITS) as f32) as u64 } else { 0 }
    }
}

/// What a filter keeps: scores above the one of that order, and `ties` of those that equal it. `inside` scores are at least that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cut {
    order: u32,
    ties: u64,
    inside: usize,
}

impl Cut {
    /// The measure of what is kept.
    #[inline(always)]
    fn measure<M: Measure>(self, scores: &[f32], measure: M) -> u64 {
        mass_above(scores, self.order, measure).wrapping_add(self.ties.wrapping_mul(measure.of(value_of(self.order))))
    }
}

/// The measure of the scores whose order is above `order`.
#[inline(always)]
fn mass_above<M: Measure>(scores: &[f32], order: u32, measure: M) -> u64 {
    let mut mass = 0u64;
    for &score in scores {
        if order_of(score) > order {
            mass = mass.wrapping_add(measure.of(score));
        }
    }
    mass
}

/// The cut at which the measure of what is kept first reaches `need`, at `within` at the lowest; no score has an order of `high` or above.
/// Halves the orders at least `low` and below `high` until one is left, and keeps the scores among them in `orders`.
#[inline(always)]
fn find_cut<M: Measure>(scores: &[f32], orders: &mut [u32], within: Cut, mut high: u32, need: u64, measure: M) -> Cut {
    let mut low = within.order;
    let mut left = 0;
    for &score in scores {
        let order = order_of(score);
        if order >= low && order < high {
            orders[left] = order;
            left += 1;
        }
    }
    let mut orders = &mut orders[..left];
    let (mut above, mut count_above) = (0u64, 0);
    while high - low > 1 && !orders.is_empty() {
        let middle = low + (high - low) / 2;
        let (mut mass, mut upper) = (0u64, 0);
        for i in 0..orders.len() {
            if orders[i] >= middle {
                mass = mass.wrapping_add(measure.of(value_of(orders[i])));
                orders.swap(upper, i);
                upper += 1;
            }
        }
        if above.wrapping_add(mass) >= need {
            low = middle;
            orders = &mut orders[..upper];
        } else {
            high = middle;
            orders = &mut orders[upper..];
            above = above.wrapping_add(mass);
            count_above += upper;
        }
    }
    let (each, most) = (measure.of(value_of(low)), orders.len() as u64);
    let missing = if each > 0 && need > above { (need - above).div_ceil(each) } else { most };
    Cut { order: low, ties: missing.min(most), inside: count_above + orders.len() }
}

/// The first id at which the measure of the ids up to it reaches `need`.
#[inline(always)]
fn find_id<M: Measure>(scores: &[f32], need: u64, measure: M) -> Option<usize> {
    let mut reached = 0u64;
    for (id, &score) in scores.iter().enumerate() {
        reached = reached.wrapping_add(measure.of(score));
        if reached >= need {
            return Some(id);
        }
    }
    None
}

/// What top-k and top-p keep, and whether either of them says anything.
#[inline(always)]
fn filter(scores: &[f32], orders: &mut [u32], how: &SampleSettings, high: u32, weigh: Weighing) -> (Cut, bool) {
    let mut kept = Cut { order: FORBIDDEN, ties: 0, inside: scores.len() };
    let mut falling = false;
    if (1..scores.len()).contains(&(how.top_k as usize)) {
        kept = find_cut(scores, orders, kept, high, how.top_k.into(), Counting);
        falling = true;
    }
    if how.top_p < 1.0 {
        let share = (how.top_p * (1u64 << SHARE_BITS) as f32) as u64;
        let mass = kept.measure(scores, weigh);
        let need = (u128::from(mass) * u128::from(share)).div_ceil(1 << SHARE_BITS) as u64;
        let nucleus = find_cut(scores, orders, kept, high, need.max(1), weigh);
        let most = if nucleus.order == kept.order { kept.ties } else { nucleus.ties };
        kept = Cut { ties: nucleus.ties.min(most), ..nucleus };
        falling = true;
    }
    (kept, falling)
}

/// A token drawn by its weight; `best`, the one of the largest score, if no token weighs anything. Where a filter puts the tokens in
/// falling order they are drawn in that order, else by rising id.
#[inline(always)]
fn draw(scores: &[f32], how: &SampleSettings, (best, largest): (usize, f32), orders: &mut [u32]) -> usize {
    // Zeros of either sign are equal.
    let high = order_of(largest + 0.0) + 1;
    let temperature = how.temperature;
    let (weigh, drawn) =
        (Weighing { largest, temperature, min_p: 0.0 }, Weighing { largest, temperature, min_p: how.min_p });
    let (kept, falling) = filter(scores, orders, how, high, weigh);
    let mass = kept.measure(scores, drawn);
    if mass == 0 {
        return best;
    }
    // The number in [0, 1) times the mass, rounded down: below the mass, so that the last token is within reach.
    let need = ((u128::from(philox::bits(how.seed, how.position)) * u128::from(mass)) >> 53) as u64 + 1;
    let found = if falling {
        let place = find_cut(scores, orders, kept, high, need, drawn);
        find_id(scores, place.ties, Equal(place.order))
    } else {
        find_id(scores, need, drawn)
    };
    found.unwrap_or(best)
}

/// The natural logarithm of the softmax of `logits` at `logit`, which is one of them. None of them is NaN or positive infinity.
#[inline(always)]
fn logprob(logits: &[f32], logit: f32) -> f32 {
    let Some((_, largest)) = largest(logits) else { return f32::NAN };
    let mass = mass_above(logits, FORBIDDEN, Weighing { largest, temperature: 1.0, min_p: 0.0 });
    (logit - largest) - log_of_mass(mass)
}

/// The natural logarithm of a mass that is not 0, to 3e-7: m · 2^e with m near 1, and the series of the area hyperbolic tangent.
#[inline(always)]
fn log_of_mass(mass: u64) -> f32 {
    let zeros = mass.leading_zeros();
    let mantissa = (mass << zeros >> 40) as u32;
    let large = mantissa > 0x00b5_04f3;
    let m = mantissa as f32 * if large { 5.960_464_5e-8 } else { 1.192_092_9e-7 };
    let e = (63 - zeros as i32 - MASS_BITS as i32 + i32::from(large)) as f32;
    let s = (m - 1.0) / (m + 1.0);
    let z = s * s;
    let p = 0.111_111_11f32.mul_add(z, 0.142_857_15).mul_add(z, 0.2).mul_add(z, 0.333_333_34).mul_add(z, 1.0);
    e.mul_add(std::f32::consts::LN_2, (s + s) * p)
}

#[cfg(test)]
mod tests;
