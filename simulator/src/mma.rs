//! Tensor cores: `mma.sync` of 16 × 8 tiles.
//!
//! Order of accumulation: the accumulator, then the products in ascending k, summed in f64 and rounded once to the accumulator's type.
//! Products of these formats are exact in f64. Hardware sums in groups with truncation and does not document how, so results agree
//! within a tolerance, not bit by bit. Integer shapes are exact, wrapping, or clamping under `.satfinite`.
//!
//! Fragments (PTX ISA, "Matrix fragments for mma"): with g = lane / 4, t = lane % 4 and e elements in a register, register r of A holds
//! row g + 8·(r mod 2), columns t·e … t·e + e−1 plus 4e·(r / 2); register r of B holds column g, rows t·e … plus 4e·r; the accumulator
//! holds rows g and g + 8, columns 2t and 2t + 1.

use crate::exec::vector::f32_from_f16;
use crate::numeric::float::finish;
use crate::numeric::formats::{E4M3, E5M2, F16};
use crate::numeric::rounding::Rounding;

const M: usize = 16;
const N: usize = 8;
const LARGEST_K: usize = 32;

/// Type of a factor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Factor {
    F16,
    Bf16,
    Tf32,
    S8,
    U8,
    E4m3,
    E5m2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sum {
    F32,
    F16,
    S32,
}

/// A supported combination of shape and types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    k: usize,
    a: Factor,
    b: Factor,
    d: Sum,
    c: Sum,
    saturate: bool,
}

impl Factor {
    fn named(word: &str) -> Option<Factor> {
        Some(match word {
            "f16" => Factor::F16,
            "bf16" => Factor::Bf16,
            "tf32" => Factor::Tf32,
            "s8" => Factor::S8,
            "u8" => Factor::U8,
            "e4m3" => Factor::E4m3,
            "e5m2" => Factor::E5m2,
            _ => return None,
        })
    }

    fn bits(self) -> usize {
        match self {
            Factor::Tf32 => 32,
            Factor::F16 | Factor::Bf16 => 16,
            _ => 8,
        }
    }

    fn is_integer(self) -> bool {
        matches!(self, Factor::S8 | Factor::U8)
    }

    fn decode(self, bits: u32) -> f64 {
        match self {
            Factor::F16 => f64::from(f32_from_f16(bits & 0xffff)),
            Factor::Bf16 => f64::from(f32::from_bits(bits << 16)),
            // The tensor core reads the upper 19 bits only.
            Factor::Tf32 => f64::from(f32::from_bits(bits & 0xffff_e000)),
            Factor::S8 => f64::from(bits as u8 as i8),
            Factor::U8 => f64::from(bits as u8),
            Factor::E4m3 => E4M3.decode(bits & 255),
            Factor::E5m2 => E5M2.decode(bits & 255),
        }
    }
}

impl Factor {
    /// Element `e` of each lane's register, with the choice of format made once.
    #[inline(always)]
    fn decode_lanes(self, bits: &[u32; 32], e: usize) -> [f64; 32] {
        let shift = e * self.bits();
        let mut out = [0.0; 32];
        match self {
            Factor::F16 => {
                out.iter_mut().zip(bits).for_each(|(o, w)| *o = f64::from(f32_from_f16(w >> shift & 0xffff)))
            }
            Factor::Bf16 => {
                out.iter_mut().zip(bits).for_each(|(o, w)| *o = f64::from(f32::from_bits(w >> shift << 16)))
            }
            _ => out.iter_mut().zip(bits).for_each(|(o, w)| *o = self.decode(w >> shift)),
        }
        out
    }
}

impl Sum {
    fn named(word: &str) -> Option<Sum> {
        Some(match word {
            "f32" => Sum::F32,
            "f16" => Sum::F16,
            "s32" => Sum::S32,
            _ => return None,
        })
    }

    fn registers(self) -> usize {
        if self == Sum::F16 { 2 } else { 4 }
    }
}

/// The multiplications that exist, as (k, factor types that go together).
fn exists(k: usize, a: Factor, b: Factor, d: Sum, c: Sum) -> bool {
    let integer = |x: Factor| x.is_integer();
    let eight = |x: Factor| matches!(x, Factor::E4m3 | Factor::E5m2);
    match (a, b) {
        (Factor::F16, Factor::F16) => matches!(k, 8 | 16) && d != Sum::S32 && c != Sum::S32,
        (Factor::Bf16, Factor::Bf16) => matches!(k, 8 | 16) && (d, c) == (Sum::F32, Sum::F32),
        (Factor::Tf32, Factor::Tf32) => matches!(k, 4 | 8) && (d, c) == (Sum::F32, Sum::F32),
        (a, b) if integer(a) && integer(b) => matches!(k, 16 | 32) && (d, c) == (Sum::S32, Sum::S32),
        (a, b) if eight(a) && eight(b) => matches!(k, 16 | 32) && d != Sum::S32 && c != Sum::S32,
        _ => false,
    }
}

impl Shape {
    /// From the words behind `mma.`: `sync.aligned.m16n8k16.row.col.f32.f16.f16.f32`.
    pub fn named(words: &str) -> Option<Shape> {
        let rest = words.strip_prefix("sync.aligned.m16n8k")?;
        let (k, rest) = rest.split_once('.')?;
        let mut rest = rest.strip_prefix("row.col.")?;
        let saturate = rest.starts_with("satfinite.");
        rest = rest.strip_prefix("satfinite.").unwrap_or(rest);
        let rest = rest.strip_prefix("kind::f8f6f4.").unwrap_or(rest);
        let types: Vec<&str> = rest.split('.').collect();
        let &[d, a, b, c] = types.as_slice() else { return None };
        let (k, a, b) = (k.parse().ok()?, Factor::named(a)?, Factor::named(b)?);
        let (d, c) = (Sum::named(d)?, Sum::named(c)?);
        exists(k, a, b, d, c).then_some(Shape { k, a, b, d, c, saturate })
    }

    pub fn names() -> &'static str {
        "m16n8k8 and k16 of f16 and bf16, k4 and k8 of tf32, k16 and k32 of s8, u8, e4m3, e5m2, all row.col"
    }

    /// Registers of d, a, b, c.
    pub fn registers(self) -> [usize; 4] {
        let bits = self.a.bits();
        [self.d.registers(), M * self.k * bits / 1024, N * self.k * bits / 1024, self.c.registers()]
    }

    /// A number from which [`Shape::from_code`] makes the shape again.
    pub fn code(self) -> u16 {
        (self.k as u16)
            | (self.a as u16) << 6
            | (self.b as u16) << 9
            | (self.d as u16) << 12
            | (self.c as u16) << 14
            | if self.saturate { SATURATE } else { 0 }
    }

    pub fn from_code(code: u16) -> Shape {
        use Factor::*;
        let factor = |n: u16| [F16, Bf16, Tf32, S8, U8, E4m3, E5m2, F16][n as usize & 7];
        let sum = |n: u16| [Sum::F32, Sum::F16, Sum::S32, Sum::F32][n as usize & 3];
        let k = (code & 62) as usize;
        Shape {
            k,
            a: factor(code >> 6),
            b: factor(code >> 9),
            d: sum(code >> 12),
            c: sum(code >> 14),
            saturate: code & SATURATE != 0,
        }
    }

    /// d = a · b + c over a whole warp; `row(i)` gives the lanes of the i-th register of a, then b, then c.
    #[inline(always)]
    pub fn multiply(self, row: impl Fn(usize) -> [u32; 32]) -> [[u32; 32]; 4] {
        let [_, a_count, b_count, _] = self.registers();
        let mut a = [[0f64; M]; LARGEST_K];
        let mut b = [[0f64; N]; LARGEST_K];
        let elements = 32 / self.a.bits();
        for r in 0..a_count {
            let bits = row(r);
            for e in 0..elements {
                let values = self.a.decode_lanes(&bits, e);
                for (lane, &value) in values.iter().enumerate() {
                    let (g, t) = (lane / 4, lane % 4);
                    a[t * elements + e + 4 * elements * (r / 2)][g + 8 * (r % 2)] = value;
                }
            }
        }
        for r in 0..b_count {
            let bits = row(a_count + r);
            for e in 0..elements {
                let values = self.b.decode_lanes(&bits, e);
                for (lane, &value) in values.iter().enumerate() {
                    let (g, t) = (lane / 4, lane % 4);
                    b[t * elements + e + 4 * elements * r][g] = value;
                }
            }
        }
        let mut sums = self.read_sums(a_count + b_count, &row);
        for k in 0..self.k {
            for (sums, &factor) in sums.iter_mut().zip(&a[k]) {
                for (sum, &other) in sums.iter_mut().zip(&b[k]) {
                    *sum += factor * other;
                }
            }
        }
        self.write_sums(&sums)
    }

    fn read_sums(self, first: usize, row: &impl Fn(usize) -> [u32; 32]) -> [[f64; N]; M] {
        let mut sums = [[0f64; N]; M];
        for r in 0..self.c.registers() {
            let bits = row(first + r);
            for (lane, &word) in bits.iter().enumerate() {
                let (g, t) = (lane / 4, lane % 4);
                match self.c {
                    Sum::F32 => sums[g + 8 * (r / 2)][2 * t + r % 2] = f64::from(f32::from_bits(word)),
                    Sum::S32 => sums[g + 8 * (r / 2)][2 * t + r % 2] = f64::from(word as i32),
                    Sum::F16 => {
                        sums[g + 8 * r][2 * t] = F16.decode(word & 0xffff);
                        sums[g + 8 * r][2 * t + 1] = F16.decode(word >> 16);
                    }
                }
            }
        }
        sums
    }

    fn write_sums(self, sums: &[[f64; N]; M]) -> [[u32; 32]; 4] {
        let mut out = [[0u32; 32]; 4];
        for (r, row) in out.iter_mut().enumerate().take(self.d.registers()) {
            for (lane, word) in row.iter_mut().enumerate() {
                let (g, t) = (lane / 4, lane % 4);
                *word = match self.d {
                    Sum::F32 => finish(0, sums[g + 8 * (r / 2)][2 * t + r % 2] as f32) as u32,
                    // Sums of 8-bit products stay exact in f64.
                    Sum::S32 if self.saturate => sums[g + 8 * (r / 2)][2 * t + r % 2] as i32 as u32,
                    Sum::S32 => sums[g + 8 * (r / 2)][2 * t + r % 2] as i64 as u32,
                    Sum::F16 => {
                        let half = |n| F16.encode(sums[g + 8 * r][2 * t + n], Rounding::Nearest, false, false);
                        half(1) << 16 | half(0)
                    }
                };
            }
        }
        out
    }
}

const SATURATE: u16 = 1;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numeric::formats::BF16;

    #[test]
    fn codes_are_reversible() {
        for words in [
            "sync.aligned.m16n8k16.row.col.f32.f16.f16.f32",
            "sync.aligned.m16n8k8.row.col.f16.f16.f16.f16",
            "sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32",
            "sync.aligned.m16n8k4.row.col.f32.tf32.tf32.f32",
            "sync.aligned.m16n8k32.row.col.satfinite.s32.s8.u8.s32",
            "sync.aligned.m16n8k32.row.col.f32.e4m3.e5m2.f32",
        ] {
            let shape = Shape::named(words).unwrap();
            assert_eq!(Shape::from_code(shape.code()), shape, "{words}");
        }
        assert_eq!(Shape::named("sync.aligned.m16n8k16.row.col.f32.f16.bf16.f32"), None);
    }

    #[test]
    fn bf16_decodes_like_its_format() {
        for bits in [0u32, 0x8000, 1, 0x3f80, 0xff80, 0x7f7f] {
            assert_eq!(Factor::Bf16.decode(bits).to_bits(), BF16.decode(bits).to_bits());
        }
    }
}
