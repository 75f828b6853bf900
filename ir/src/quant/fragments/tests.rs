//! The layout read back as a lane of a GPU would, element by element from the module's description, and losslessness.

use half::{bf16, f16};
use proptest::prelude::*;

use super::super::minifloat::{e4m3, power, twice_e2m1};
use super::super::tests::any_matrix;
use super::super::{FORMATS, dequantize, row_bytes};
use super::*;

/// Where one element stands: the lane that reads it, and which element of its registers it is.
#[derive(Clone, Copy)]
struct Place {
    chunk: usize,
    /// The k16 tile.
    i: usize,
    lane: usize,
    /// a0..a3.
    register: usize,
    /// 0 for `lo`, 1 for `hi`.
    high: usize,
}

fn place(r: usize, col: usize) -> Place {
    let (k, g) = (col % 64, r % 8);
    Place { chunk: col / 64, i: k / 16, lane: 4 * g + k % 16 / 4, register: 2 * (k % 4 / 2) + r / 8, high: k % 2 }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// The u4 plane with the masks of a kernel: `w` and `w >> 8`, each masked for a pair of rows.
fn u4(plane: &[u8], p: Place) -> u32 {
    let w = word(plane, 16 * p.lane + 4 * p.i);
    let h = w >> 8;
    let pair = [w & 0x000f_000f, (w & 0x00f0_00f0) >> 4, h & 0x000f_000f, (h & 0x00f0_00f0) >> 4][p.register];
    (pair >> (16 * p.high)) & 0xffff
}

fn u8_code(plane: &[u8], p: Place) -> u32 {
    let w = word(plane, 512 * (p.i / 2) + 16 * p.lane + 4 * (2 * (p.i % 2) + p.register / 2));
    // Bytes lo of the upper row, lo of the lower row, hi of the upper row, hi of the lower row.
    w >> (8 * (p.register % 2 + 2 * p.high)) & 0xff
}

fn u2(plane: &[u8], p: Place) -> u32 {
    let w = word(plane, 8 * p.lane + 4 * (p.i / 2));
    w >> (8 * (p.i % 2) + 2 * p.register + 16 * p.high) & 3
}

fn u1(plane: &[u8], p: Place) -> u32 {
    word(plane, 4 * p.lane) >> (4 * p.i + p.register + 16 * p.high) & 1
}

fn half_bits(chunk: &[u8], p: Place) -> u16 {
    (word(chunk, 512 * p.i + 16 * p.lane + 4 * p.register) >> (16 * p.high)) as u16
}

/// A tile and where its scales begin.
struct Tile<'a> {
    bytes: &'a [u8],
    scales: usize,
}

impl Tile<'_> {
    /// The element of row `r` in a vector of 16 elements of `size` bytes that begins `at` bytes into the scales.
    fn lane(&self, at: usize, size: usize, r: usize) -> &[u8] {
        const ORDER: [usize; 16] = [0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15];
        let index = ORDER.iter().position(|row| *row == r).unwrap();
        &self.bytes[self.scales + at + size * index..][..size]
    }

    fn half(&self, at: usize, r: usize) -> f32 {
        f16::from_le_bytes(self.lane(at, 2, r).try_into().unwrap()).to_f32()
    }

    fn single(&self, at: usize, r: usize) -> f32 {
        f32::from_le_bytes(self.lane(at, 4, r).try_into().unwrap())
    }

    fn byte(&self, at: usize, r: usize) -> u8 {
        self.lane(at, 1, r)[0]
    }
}

/// Value of element `(r, col)` of a tile of `cols` columns: code and scales by their offsets, then the formula.
fn value(dtype: DType, bytes: &[u8], cols: usize, r: usize, col: usize) -> f32 {
    let (p, chunks) = (place(r, col), cols.div_ceil(64));
    let chunk_bytes = match dtype {
        DType::F32 => 4096,
        DType::F16 | DType::BF16 => 2048,
        DType::Q8_0 | DType::Q8C | DType::F8_E4M3 => 1024,
        DType::Q5_0 | DType::Q5_1 | DType::Q5_K => 512 + 128,
        DType::Q6_K => 512 + 256,
        DType::T2 => 256,
        _ => 512,
    };
    let chunk = &bytes[p.chunk * chunk_bytes..][..chunk_bytes];
    let tile = Tile { bytes, scales: chunks * chunk_bytes };
    let five = || (u4(chunk, p) + 16 * u1(&chunk[512..], p)) as f32;
    let four = || u4(chunk, p) as f32;
    let (group, of_256) = (col / 32, col % 256 / 32);
    match dtype {
        DType::F32 => {
            let part = 2 * p.i + p.register % 2;
            f32::from_bits(word(chunk, 512 * part + 16 * p.lane + 4 * (col % 4)))
        }
        DType::F16 => f16::from_bits(half_bits(chunk, p)).to_f32(),
        DType::BF16 => bf16::from_bits(half_bits(chunk, p)).to_f32(),
        DType::Q4_0 => (four() - 8.0) * tile.half(32 * group, r),
        DType::Q4_1 => {
            let product = four() * tile.half(64 * group, r);
            product + tile.half(64 * group + 32, r)
        }
        DType::Q5_0 => (five() - 16.0) * tile.half(32 * group, r),
        DType::Q5_1 => {
            let product = five() * tile.half(64 * group, r);
            product + tile.half(64 * group + 32, r)
        }
        DType::Q8_0 => (u8_code(chunk, p) as f32 - 128.0) * tile.half(32 * group, r),
        DType::Q4_K | DType::Q5_K => {
            let q = if dtype == DType::Q4_K { four() } else { five() };
            // d and dmin, then 8 pairs of sc and m.
            let block = (64 + 256) * (col / 256);
            let scale = tile.half(block, r) * f32::from(tile.byte(block + 64 + 32 * of_256, r));
            let minimum = tile.half(block + 32, r) * f32::from(tile.byte(block + 64 + 32 * of_256 + 16, r));
            let product = scale * q;
            product - minimum
        }
        DType::Q6_K => {
            let q = (u4(chunk, p) + 16 * u2(&chunk[512..], p)) as f32 - 32.0;
            let block = (32 + 256) * (col / 256);
            let sc = tile.byte(block + 32 + 16 * (col % 256 / 16), r) as i8;
            tile.half(block, r) * f32::from(sc) * q
        }
        DType::Q4G64 => (four() - 8.0) * tile.half(32 * (col / 64), r),
        DType::Q4G128 => (four() - 8.0) * tile.half(32 * (col / 128), r),
        DType::Q4Z32 | DType::Q4Z64 | DType::Q4Z128 => {
            let columns = [(DType::Q4Z32, 32), (DType::Q4Z64, 64), (DType::Q4Z128, 128)];
            let step = 48 * (col / columns.iter().find(|(name, _)| *name == dtype).unwrap().1);
            let d = tile.half(step, r);
            four() * d - f32::from(tile.byte(step + 32, r)) * d
        }
        DType::Q8C => (u8_code(chunk, p) as f32 - 128.0) * tile.single(0, r),
        DType::F8_E4M3 => e4m3(u8_code(chunk, p) as u8) * tile.single(64 * (col / 128), r),
        DType::MXFP4 => f32::from(twice_e2m1(u4(chunk, p) as u8)) * (0.5 * power(tile.byte(16 * group, r))),
        DType::T2 => (u2(chunk, p) as f32 - 1.0) * tile.single(0, r),
        DType::I32 | DType::Q8X32 | DType::INT8 => panic!("{dtype} is no format of weights"),
    }
}

fn packed(dtype: DType, rows: usize, cols: usize, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![0xaa; packed_bytes(dtype, rows as u64, cols as u64).unwrap() as usize];
    pack(dtype, bytes, rows, cols, &mut out).unwrap();
    out
}

/// Bytes of a generator, the same in every run.
fn random_bytes(len: usize, mut state: u64) -> Vec<u8> {
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..len).map(|_| next()).collect()
}

fn check_values(dtype: DType, rows: usize, cols: usize, bytes: &[u8]) {
    let mut expected = vec![0.0; rows * cols];
    dequantize(dtype, bytes, cols, &mut expected).unwrap();
    let tiles = packed(dtype, rows, cols, bytes);
    let tile_bytes = tile_bytes(dtype, cols as u64).unwrap() as usize;
    for row in 0..rows {
        for col in 0..cols {
            let tile = &tiles[row / 16 * tile_bytes..][..tile_bytes];
            let (found, expected) = (value(dtype, tile, cols, row % 16, col), expected[row * cols + col]);
            let same = found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan();
            assert!(same, "{dtype} [{rows}, {cols}]: ({row}, {col}) is {found:e}, not {expected:e}");
        }
    }
}

#[test]
fn every_format_is_a_row_of_the_table() {
    assert!(TABLE.iter().map(|row| row.dtype).eq(FORMATS.iter().map(|format| format.dtype())));
    for format in FORMATS {
        let row = fragments(format.dtype()).unwrap();
        // The planes and vectors of the row account for every byte of a panel.
        for cols in
            [0, 1, 31, 32, 33, 64, 96, 128, 130, 256, 512].map(|cols| cols / format.block_len() * format.block_len())
        {
            let scales = row.panel_steps(cols) * row.step_bytes();
            let bytes = (row.panel_code_bytes(cols)).next_multiple_of(64) + scales.next_multiple_of(64);
            assert_eq!(format.panel_bytes(cols), bytes, "{} of {cols} columns", row.dtype);
        }
        assert!(row.chunk_bytes() <= LONGEST_CHUNK && row.chunk_bytes().is_multiple_of(128));
        let unit = scale_unit_columns(row.dtype).unwrap() as usize;
        assert!(unit.is_multiple_of(CHUNK) && row.step.is_none_or(|step| unit.is_multiple_of(step)));
    }
    assert_eq!(chunk_bytes(DType::Q8X32), None);
    assert_eq!(scale_unit_columns(DType::I32), None);
}

#[test]
fn sizes() {
    // One chunk; two steps of 32 columns round up to whole chunks.
    assert_eq!(tile_bytes(DType::Q4_0, 32), Some(512 + 128));
    assert_eq!(tile_bytes(DType::Q4_0, 96), Some(2 * 512 + 4 * 32));
    assert_eq!(tile_bytes(DType::Q4_1, 96), Some(2 * 512 + 4 * 64));
    assert_eq!(tile_bytes(DType::Q4G64, 65), Some(2 * 512 + 128));
    assert_eq!(tile_bytes(DType::Q4Z32, 33), Some(512 + 128));
    assert_eq!(tile_bytes(DType::Q6_K, 512), Some(8 * 768 + 640));
    assert_eq!(tile_bytes(DType::F16, 1), Some(2048));
    assert_eq!(tile_bytes(DType::F32, 65), Some(8192));
    assert_eq!(tile_bytes(DType::T2, 64), Some(256 + 128));
    assert_eq!(tile_bytes(DType::T2, 0), Some(0));
    assert_eq!(code_bytes(DType::Q5_1, 96), Some(2 * 640));
    assert_eq!(packed_bytes(DType::Q8_0, 17, 64), Some(2 * (1024 + 128)));
    assert_eq!(packed_bytes_of(DType::Q8_0, &[3, 17, 64]), Some(6 * (1024 + 128)));
    assert_eq!(packed_bytes_of(DType::Q8_0, &[64]), None);
    assert_eq!(tile_bytes(DType::Q4_K, 128), None);
    assert_eq!(tile_bytes(DType::I32, 64), None);
    for format in FORMATS {
        let dtype = format.dtype();
        assert_eq!(packed_bytes(dtype, 1, u64::MAX / 256 * 256), None, "{dtype}");
        assert_eq!(packed_bytes(dtype, u64::MAX, 256), None, "{dtype}");
        assert_eq!(packed_bytes_of(dtype, &[u64::MAX, 16, 256]), None, "{dtype}");
    }
}

#[test]
fn a_lane_finds_every_value() {
    for format in FORMATS {
        for (rows, blocks) in [(1, 1), (16, 2), (21, 3)] {
            let cols = if format.block_len() == 1 { 77 * blocks } else { format.block_len() * blocks };
            let len = rows * row_bytes(format.dtype(), cols as u64).unwrap() as usize;
            check_values(format.dtype(), rows, cols, &random_bytes(len, 0x9e37_79b9_7f4a_7c15 + cols as u64));
        }
    }
}

#[test]
fn columns_past_the_end_are_worth_nothing() {
    for format in FORMATS {
        let dtype = format.dtype();
        // The last chunk has a group that the panel does not.
        let cols = if format.block_len() == 1 { 96 } else { 96usize.next_multiple_of(format.block_len()) };
        let len = 16 * row_bytes(dtype, cols as u64).unwrap() as usize;
        let tile = packed(dtype, 16, cols, &random_bytes(len, 7));
        for col in cols..cols.next_multiple_of(64) {
            for r in 0..16 {
                let p = place(r, col);
                let row = fragments(dtype).unwrap();
                let chunk = &tile[p.chunk * row.chunk_bytes()..][..row.chunk_bytes()];
                let code = match row.planes {
                    [Plane::U4] => u4(chunk, p),
                    [Plane::U4, Plane::U1] => u4(chunk, p) + 16 * u1(&chunk[512..], p),
                    [Plane::U2] => u2(chunk, p),
                    [Plane::U8] => u8_code(chunk, p),
                    [Plane::Half] => half_bits(chunk, p).into(),
                    [Plane::Single] => value(dtype, &tile, cols, r, col).to_bits(),
                    other => panic!("{dtype} of {other:?} has blocks of 256"),
                };
                let expected = match dtype {
                    DType::Q4_0 | DType::Q4G64 | DType::Q4G128 => 8,
                    DType::Q5_0 => 16,
                    DType::Q8_0 | DType::Q8C => 128,
                    DType::T2 => 1,
                    _ => 0,
                };
                assert_eq!(code, expected, "{dtype} ({r}, {col})");
            }
        }
        // Scales of 32 columns that do not exist are zero.
        let row = fragments(dtype).unwrap();
        let used = row.code_bytes(cols) + row.panel_steps(cols) * row.step_bytes();
        assert!(tile[used..].iter().all(|byte| *byte == 0), "{dtype}");
    }
}

#[test]
fn bad_operands_are_errors() {
    for format in FORMATS {
        let (dtype, cols) = (format.dtype(), format.block_len());
        let mut panel = vec![0; format.panel_bytes(cols)];
        let mut tile = vec![0; tile_bytes(dtype, cols as u64).unwrap() as usize];
        from_panel(dtype, &panel, cols, &mut tile).unwrap();
        to_panel(dtype, &tile, cols, &mut panel).unwrap();
        assert!(matches!(from_panel(dtype, &panel[1..], cols, &mut tile), Err(QuantError::Length { .. })));
        assert!(matches!(from_panel(dtype, &panel, cols, &mut tile[1..]), Err(QuantError::Length { .. })));
        assert!(matches!(to_panel(dtype, &tile[1..], cols, &mut panel), Err(QuantError::Length { .. })));
        assert!(pack(dtype, &[], 1, cols, &mut tile).is_err());
        assert!(unpack(dtype, &tile, 1, cols, &mut []).is_err());
        let error = pack(dtype, &[], usize::MAX, 1 << 40, &mut []).unwrap_err();
        assert!(matches!(error, QuantError::TooLarge { .. }), "{error}");
    }
    assert!(matches!(from_panel(DType::Q4_0, &[], 33, &mut []), Err(QuantError::Columns { .. })));
    assert!(matches!(from_panel(DType::I32, &[], 32, &mut []), Err(QuantError::NoFormat { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn packing_loses_nothing((format, rows, cols, bytes) in any_matrix()) {
        let dtype = format.dtype();
        let tiles = packed(dtype, rows, cols, &bytes);
        let mut back = vec![0x55; bytes.len()];
        unpack(dtype, &tiles, rows, cols, &mut back).unwrap();
        prop_assert_eq!(&back, &bytes);
        // Panel by panel, every byte of it, padding included.
        let mut panels = vec![0; super::super::packed_bytes(dtype, rows as u64, cols as u64).unwrap() as usize];
        super::super::pack(dtype, &bytes, rows, cols, &mut panels).unwrap();
        let (panel_bytes, tile_bytes) = (format.panel_bytes(cols), tile_bytes(dtype, cols as u64).unwrap() as usize);
        let mut panel = vec![0xaa; panel_bytes];
        for (expected, tile) in panels.chunks_exact(panel_bytes.max(1)).zip(tiles.chunks_exact(tile_bytes.max(1))) {
            to_panel(dtype, tile, cols, &mut panel).unwrap();
            prop_assert_eq!(&panel, expected);
        }
    }

    #[test]
    fn a_lane_finds_the_values_of_any_shape((format, rows, cols, bytes) in any_matrix()) {
        check_values(format.dtype(), rows, cols, &bytes);
    }
}
