//! The quantised formats a second time, for tests only: "the value of element `i` of a block (or row) is …", one element at
//! a time from single bits, as slow and as close to the format's description as can be. Shares nothing with the formats.

use crate::types::DType;

/// Value of element `i` of `block`.
pub(super) fn value(dtype: DType, block: &[u8], i: usize) -> f32 {
    let q = integer(dtype, block, i);
    let half = |at: usize| half_value(block[at], block[at + 1]);
    match dtype {
        DType::Q4_0 | DType::Q5_0 | DType::Q8_0 => q as f32 * half(0),
        DType::Q4_1 | DType::Q5_1 => {
            let product = q as f32 * half(0);
            product + half(2)
        }
        DType::Q4_K | DType::Q5_K => {
            let scale = half(0) * six_bits(&block[4..16], i / 32, false) as f32;
            let minimum = half(2) * six_bits(&block[4..16], i / 32, true) as f32;
            let product = scale * q as f32;
            product - minimum
        }
        DType::Q6_K => {
            let scale = half(208) * (block[192 + i / 16] as i8) as f32;
            scale * q as f32
        }
        // Both factors are exact; the lowest exponent is beyond what powi computes.
        DType::MXFP4 => (f64::from(e2m1(q)) * 2f64.powi(i32::from(block[0]) - 127)) as f32,
        other => panic!("{other} has no blocks"),
    }
}

/// Value of column `k` of a row of `cols` columns.
pub(super) fn row_value(dtype: DType, row: &[u8], cols: usize, k: usize) -> f32 {
    let q = row_integer(dtype, row, k);
    let (scales, columns) = (row_scales_at(dtype, cols), columns_of_a_scale(dtype, cols));
    let group = k / columns;
    let half = || half_value(row[scales + 2 * group], row[scales + 2 * group + 1]);
    let single = |n: usize| f32::from_le_bytes(std::array::from_fn(|i| row[scales + 4 * n + i]));
    match dtype {
        DType::Q4G64 | DType::Q4G128 => (q - 8) as f32 * half(),
        DType::Q4Z32 | DType::Q4Z64 | DType::Q4Z128 => {
            let zero = row[scales + 2 * cols.div_ceil(columns) + group];
            q as f32 * half() - f32::from(zero) * half()
        }
        DType::Q8C => q as f32 * single(0),
        DType::T2 => (q - 1) as f32 * single(0),
        DType::F8_E4M3 => {
            let (sign, exponent, mantissa) = (q >> 7, q >> 3 & 15, (q & 7) as f32 / 8.0);
            let magnitude = match exponent {
                0 => mantissa * 2f32.powi(-6),
                _ => (1.0 + mantissa) * 2f32.powi(exponent - 7),
            };
            (if sign == 0 { magnitude } else { -magnitude }) * single(group)
        }
        other => panic!("{other} has blocks"),
    }
}

/// Integer of column `k` of a row: signed for q8c, else as its bits are.
pub(super) fn row_integer(dtype: DType, row: &[u8], k: usize) -> i32 {
    let (group, i) = (k / 32, k % 32);
    match dtype {
        DType::Q8C => i32::from(row[k] as i8),
        DType::F8_E4M3 => i32::from(row[k]),
        DType::T2 => bits(row, 8 * (8 * group + i % 8) + 2 * (i / 8), 2),
        _ => bits(row, 8 * (16 * group + i % 16) + 4 * (i / 16), 4),
    }
}

/// Where the scales of a row begin.
pub(super) fn row_scales_at(dtype: DType, cols: usize) -> usize {
    let bits = match dtype {
        DType::Q8C | DType::F8_E4M3 => 8,
        DType::T2 => 2,
        _ => 4,
    };
    cols.div_ceil(32) * 32 * bits / 8
}

/// Columns of one scale of the formats whose rows keep integers and scales apart.
pub(super) fn columns_of_a_scale(dtype: DType, cols: usize) -> usize {
    match dtype {
        DType::Q4Z32 => 32,
        DType::Q4G64 | DType::Q4Z64 => 64,
        DType::Q4G128 | DType::Q4Z128 | DType::F8_E4M3 => 128,
        _ => cols.max(1),
    }
}

/// Integer of element `i` as GGUF counts it: signed for the symmetric types.
pub(super) fn integer(dtype: DType, block: &[u8], i: usize) -> i32 {
    // Element i of a block of 32 nibbles: byte i % 16, and the high nibble from element 16 on.
    let nibble_of_32 = |at: usize| bits(block, 8 * (at + i % 16) + 4 * (i / 16), 4);
    // Element i of a block of 256 nibbles: each 32 bytes hold 64 elements.
    let nibble_of_256 = |at: usize| bits(block, 8 * (at + 32 * (i / 64) + i % 32) + 4 * (i / 32 % 2), 4);
    match dtype {
        DType::Q4_0 => nibble_of_32(2) - 8,
        DType::Q4_1 => nibble_of_32(4),
        DType::Q5_0 => nibble_of_32(6) + 16 * bits(block, 8 * 2 + i, 1) - 16,
        DType::Q5_1 => nibble_of_32(8) + 16 * bits(block, 8 * 4 + i, 1),
        DType::Q8_0 => i32::from(block[2 + i] as i8),
        DType::MXFP4 => nibble_of_32(1),
        DType::Q4_K => nibble_of_256(16),
        DType::Q5_K => nibble_of_256(48) + 16 * bits(block, 8 * (16 + i % 32) + i / 32, 1),
        DType::Q6_K => {
            let (half, quarter, l) = (i / 128, i % 128 / 32, i % 32);
            let byte = match quarter {
                0 | 2 => 64 * half + l,
                _ => 64 * half + 32 + l,
            };
            let low = bits(block, 8 * byte + if quarter < 2 { 0 } else { 4 }, 4);
            let high = bits(block, 8 * (128 + 32 * half + l) + 2 * quarter, 2);
            low + 16 * high - 32
        }
        other => panic!("{other} has no blocks"),
    }
}

/// The value of an E2M1 code; zero has no sign.
fn e2m1(code: i32) -> f32 {
    let magnitude = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0][(code & 7) as usize];
    if code > 8 { -magnitude } else { magnitude }
}

/// 6-bit scale or minimum of group `g` in the 12 bytes of a K-quant.
pub(super) fn six_bits(bytes: &[u8], g: usize, minimum: bool) -> i32 {
    match (g < 4, minimum) {
        (true, false) => bits(bytes, 8 * g, 6),
        (true, true) => bits(bytes, 8 * (g + 4), 6),
        (false, false) => bits(bytes, 8 * (g + 4), 4) + 16 * bits(bytes, 8 * (g - 4) + 6, 2),
        (false, true) => bits(bytes, 8 * (g + 4) + 4, 4) + 16 * bits(bytes, 8 * g + 6, 2),
    }
}

/// `count` bits from bit `start`, bit 0 the lowest of byte 0.
fn bits(bytes: &[u8], start: usize, count: usize) -> i32 {
    (0..count).map(|n| i32::from(bytes[(start + n) / 8] >> ((start + n) % 8) & 1) << n).sum()
}

/// IEEE 754 binary16 from its fields; finite values only.
fn half_value(low: u8, high: u8) -> f32 {
    let sign = if high & 0x80 == 0 { 1.0f32 } else { -1.0 };
    let exponent = i32::from(high >> 2 & 31);
    let fraction = (f32::from(high & 3) * 256.0 + f32::from(low)) / 1024.0;
    match exponent {
        0 => sign * fraction * 2f32.powi(-14),
        _ => sign * (1.0 + fraction) * 2f32.powi(exponent - 15),
    }
}
