//! Random values of a tensor, chunk by chunk.
//!
//! Each chunk has its own random stream, a pure function of the seed, the tensor's name and the chunk's number; threads can
//! fill chunks in any order, and a tensor's values do not depend on which others are written. ChaCha with 8 rounds: far
//! faster than a disk, and the same on every machine.

use half::{bf16, f16};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use rand_distr::{Distribution, StandardNormal};

/// Elements of a chunk.
pub(super) const CHUNK: u64 = 1 << 17;

/// Standard deviation of `a + b - 7` for `a` and `b` uniform in 0..=7: sqrt(2 · 63 / 12).
const INT4_STD: f64 = 3.240_370_349_203_93;

/// Root mean square of an E2M1 number with uniform bits: sqrt(68.5 / 8).
const E2M1_STD: f64 = 2.926_174_977_679_906;

/// Scales of one matrix differ by up to this factor from their mean, as trained ones do.
const SCALE_SPREAD: f64 = 0.2;

/// Element type of a stored tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element {
    F32,
    F16,
    BF16,
    I32,
    I64,
    U8,
}

impl Element {
    /// Size in bytes.
    pub fn bytes(self) -> u64 {
        match self {
            Element::I64 => 8,
            Element::F32 | Element::I32 => 4,
            Element::F16 | Element::BF16 => 2,
            Element::U8 => 1,
        }
    }
}

/// How the elements of a stored tensor are drawn.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Fill {
    /// Normally distributed floats.
    Normal { mean: f64, std: f64 },
    /// I32 words of eight 4-bit codes, value + 8; values -7 to 7 with a triangular distribution.
    Int4Words,
    /// Scales that give `Int4Words` this standard deviation.
    Int4Scales { std: f64 },
    /// Bytes of two E2M1 numbers.
    E2m1Pairs,
    /// Exponents, biased by 127, that give `E2m1Pairs` this standard deviation.
    E2m1Exponents { std: f64 },
    /// These integers.
    Integers(Vec<i64>),
}

impl Fill {
    /// Appends the bytes of `count` elements from `first` on, which begins a chunk.
    pub fn append(&self, element: Element, (first, count): (u64, u64), rng: &mut ChaCha8Rng, out: &mut Vec<u8>) {
        match self {
            Fill::Normal { mean, std } => append_floats(element, count, out, || {
                let z: f64 = StandardNormal.sample(rng);
                (mean + std * z) as f32
            }),
            Fill::Int4Words => {
                (0..count).for_each(|_| out.extend_from_slice(&int4_word(rng.next_u64()).to_le_bytes()));
            }
            Fill::Int4Scales { std } => {
                // The mean square of 1 + s·u, u uniform in -1..1, is 1 + s²/3.
                let mean = std / INT4_STD / (1.0 + SCALE_SPREAD * SCALE_SPREAD / 3.0).sqrt();
                append_floats(element, count, out, || {
                    (mean * (1.0 + SCALE_SPREAD * (2.0 * uniform(rng) - 1.0))) as f32
                });
            }
            Fill::E2m1Pairs => {
                let start = out.len();
                out.resize(start + count as usize, 0);
                rng.fill_bytes(&mut out[start..]);
            }
            Fill::E2m1Exponents { std } => {
                let (low, share_of_high) = exponents(*std);
                out.extend((0..count).map(|_| low + u8::from(uniform(rng) < share_of_high)));
            }
            Fill::Integers(values) => {
                let range = first as usize..(first + count) as usize;
                values[range].iter().for_each(|v| out.extend_from_slice(&v.to_le_bytes()));
            }
        }
    }
}

/// The random stream of a chunk.
pub(super) fn stream(seed: u64, tensor: &str, chunk: u64) -> ChaCha8Rng {
    let mut key = blake3::Hasher::new_derive_key("moesaic synthetic weights 1");
    key.update(&seed.to_le_bytes()).update(tensor.as_bytes());
    let mut rng = ChaCha8Rng::from_seed(*key.finalize().as_bytes());
    rng.set_stream(chunk);
    rng
}

fn append_floats(element: Element, count: u64, out: &mut Vec<u8>, mut next: impl FnMut() -> f32) {
    for _ in 0..count {
        let value = next();
        match element {
            Element::F16 => out.extend_from_slice(&f16::from_f32(value).to_le_bytes()),
            Element::BF16 => out.extend_from_slice(&bf16::from_f32(value).to_le_bytes()),
            _ => out.extend_from_slice(&value.to_le_bytes()),
        }
    }
}

/// Uniform in `[0, 1)`.
fn uniform(rng: &mut ChaCha8Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// Eight codes 1 to 15, nibble j from byte j: the sum of two 3-bit numbers and 1. The sum of two dice falls off from the
/// middle as a trained matrix's codes do, has mean exactly 8 and needs no table.
fn int4_word(random: u64) -> u32 {
    const THREE_BITS: u64 = 0x0707_0707_0707_0707;
    const ONES: u64 = 0x0101_0101_0101_0101;
    let bytes = (random & THREE_BITS) + ((random >> 3) & THREE_BITS) + ONES;
    let pairs = (bytes | bytes >> 4) & 0x00FF_00FF_00FF_00FF;
    let quads = (pairs | pairs >> 8) & 0x0000_FFFF_0000_FFFF;
    (quads | quads >> 16) as u32
}

/// The lower of two biased exponents, and how often the higher one must be taken so that blocks have mean square `std`².
fn exponents(std: f64) -> (u8, f64) {
    let unit = std / E2M1_STD;
    let low = unit.log2().floor();
    let square = (unit / low.exp2()).powi(2);
    ((low + 127.0).clamp(0.0, 253.0) as u8, (square - 1.0) / 3.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const N: u64 = 1 << 16;

    fn filled(fill: &Fill, element: Element) -> Vec<u8> {
        let mut out = Vec::new();
        fill.append(element, (0, N), &mut stream(1, "t", 0), &mut out);
        assert_eq!(out.len() as u64, N * element.bytes());
        out
    }

    fn moments(values: impl Iterator<Item = f64>) -> (f64, f64) {
        let (n, sum, squares) =
            values.fold((0.0, 0.0, 0.0), |(n, s, q): (f64, f64, f64), x| (n + 1.0, s + x, q + x * x));
        (sum / n, (squares / n - (sum / n).powi(2)).sqrt())
    }

    fn bf16s(bytes: &[u8]) -> impl Iterator<Item = f64> + Clone {
        bytes.as_chunks::<2>().0.iter().map(|b| bf16::from_le_bytes(*b).to_f64())
    }

    #[test]
    fn words_hold_codes_1_to_15_in_the_order_of_their_bytes() {
        assert_eq!(int4_word(0), 0x1111_1111);
        assert_eq!(int4_word(u64::MAX), 0xFFFF_FFFF);
        assert_eq!(int4_word(0x0000_0000_0000_003F), 0x1111_111F);
        assert_eq!(int4_word(0x0700_0000_0000_0100), 0x8111_1121);
    }

    /// 65536 draws: standard errors are below 0.4 % of the standard deviation for mean and deviation alike.
    #[test]
    fn values_have_the_moments_asked_for() {
        let close = |(mean, std): (f64, f64), (m, s): (f64, f64)| {
            assert!((mean - m).abs() < 0.02 * s && (std / s - 1.0).abs() < 0.02, "{mean} {std}, expected {m} {s}");
        };
        let normal = Fill::Normal { mean: 1.0, std: 0.1 };
        close(moments(bf16s(&filled(&normal, Element::BF16))), (1.0, 0.1));
        let floats = filled(&normal, Element::F32);
        close(moments(floats.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b).into())), (1.0, 0.1));

        let words = filled(&Fill::Int4Words, Element::I32);
        let codes = words.iter().flat_map(|b| [b & 15, b >> 4]).map(|c| f64::from(c) - 8.0);
        let scales = filled(&Fill::Int4Scales { std: 0.02 }, Element::BF16);
        close(moments(codes.zip(bf16s(&scales).cycle()).map(|(c, s)| c * s)), (0.0, 0.02));

        let pairs = filled(&Fill::E2m1Pairs, Element::U8);
        let magnitude = |c: u8| [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0][usize::from(c & 7)];
        let number = |c: u8| if c & 8 == 0 { magnitude(c) } else { -magnitude(c) };
        for std in [1.0, 0.0186, 0.0093, 0.5 * E2M1_STD] {
            let exponents = filled(&Fill::E2m1Exponents { std }, Element::U8);
            let values = pairs
                .iter()
                .zip(&exponents)
                .flat_map(|(b, e)| [number(b & 15), number(b >> 4)].map(|v| v * (f64::from(*e) - 127.0).exp2()));
            close(moments(values), (0.0, std));
        }
    }

    #[test]
    fn streams_differ_by_seed_tensor_and_chunk() {
        let mut firsts: Vec<u64> = [(1, "a", 0), (2, "a", 0), (1, "b", 0), (1, "a", 1)]
            .into_iter()
            .map(|(seed, tensor, chunk)| stream(seed, tensor, chunk).next_u64())
            .collect();
        firsts.sort_unstable();
        firsts.dedup();
        assert_eq!(firsts.len(), 4);
    }
}
