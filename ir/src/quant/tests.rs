//! Every format against its definition: values, packed layout, losslessness, rounding, errors.

use half::f16;
use proptest::prelude::*;

use super::*;

fn any_format() -> impl Strategy<Value = &'static dyn QuantFormat> {
    (0..FORMATS.len()).prop_map(|i| FORMATS[i])
}

fn block_formats() -> impl Iterator<Item = &'static dyn QuantFormat> {
    FORMATS.iter().copied().filter(|format| format.block_len() > 1)
}

/// The formats whose rows keep integers and scales apart.
fn planar_formats() -> impl Iterator<Item = &'static dyn QuantFormat> {
    FORMATS.iter().copied().filter(|format| format.block_len() == 1 && !is_float(*format))
}

fn quantised_formats() -> impl Iterator<Item = &'static dyn QuantFormat> {
    FORMATS.iter().copied().filter(|format| !is_float(*format))
}

fn is_float(format: &dyn QuantFormat) -> bool {
    format.dtype().element_bytes().is_some()
}

fn block_bytes(format: &dyn QuantFormat) -> usize {
    format.row_bytes(format.block_len()).unwrap()
}

/// Byte offsets of the f16 scales of a block.
fn half_offsets(dtype: DType) -> &'static [usize] {
    match dtype {
        DType::Q4_0 | DType::Q5_0 | DType::Q8_0 => &[0],
        DType::Q6_K => &[208],
        DType::MXFP4 => &[],
        _ => &[0, 2],
    }
}

/// A format, a row count and a row length it takes: blocks of 256 stay few, formats without get lengths that divide nothing.
fn any_shape() -> impl Strategy<Value = (&'static dyn QuantFormat, usize, usize)> {
    (any_format(), 1usize..40, 0usize..8).prop_map(|(format, rows, n)| match format.block_len() {
        1 => (format, rows, 43 * n + n % 3),
        256 => (format, rows, 256 * (n % 4)),
        block => (format, rows, block * n),
    })
}

/// A shape and the random bytes of its row-major matrix.
pub(super) fn any_matrix() -> impl Strategy<Value = (&'static dyn QuantFormat, usize, usize, Vec<u8>)> {
    any_shape().prop_flat_map(|(format, rows, cols)| {
        let bytes = rows * row_bytes(format.dtype(), cols as u64).unwrap() as usize;
        prop::collection::vec(any::<u8>(), bytes).prop_map(move |bytes| (format, rows, cols, bytes))
    })
}

fn packed(format: &dyn QuantFormat, rows: usize, cols: usize, bytes: &[u8]) -> Vec<u8> {
    let length = packed_bytes(format.dtype(), rows as u64, cols as u64).unwrap();
    let mut out = vec![0xaa; length as usize];
    pack(format.dtype(), bytes, rows, cols, &mut out).unwrap();
    out
}

fn quantized(format: &dyn QuantFormat, values: &[f32]) -> Vec<u8> {
    let mut row = vec![0xaa; row_bytes(format.dtype(), values.len() as u64).unwrap() as usize];
    format.quantize_row(values, &mut row).unwrap();
    row
}

fn rounded(format: &dyn QuantFormat, values: &[f32]) -> Vec<f32> {
    let mut out = vec![f32::NAN; values.len()];
    format.dequantize_row(&quantized(format, values), &mut out).unwrap();
    out
}

#[test]
fn every_weight_type_has_its_format() {
    for &dtype in DType::ALL {
        let found = format(dtype).map(|format| format.dtype());
        let expected = (!matches!(dtype, DType::I32 | DType::Q8X32 | DType::INT8)).then_some(dtype);
        assert_eq!(found, expected);
    }
}

#[test]
fn sizes() {
    let bytes: Vec<u64> = DType::ALL.iter().map(|&dtype| row_bytes(dtype, 256).unwrap()).collect();
    let (known, planar) = bytes.split_at(12);
    assert_eq!(known, [1024, 512, 512, 1024, 144, 160, 176, 192, 272, 144, 176, 210]);
    assert_eq!(planar, [136, 132, 152, 140, 134, 260, 264, 136, 68, 352, 258]);
    assert_eq!(row_bytes(DType::Q8X32, 33), Some(88));
    assert_eq!(row_bytes(DType::Q4_0, 33), None);
    assert_eq!(row_bytes(DType::MXFP4, 33), None);
    // Two groups of 16 bytes, two zeros, two f16; three groups of 32 bytes and one f32; a group of 8 bytes.
    assert_eq!(row_bytes(DType::Q4Z32, 33), Some(32 + 2 + 4));
    assert_eq!(row_bytes(DType::F8_E4M3, 65), Some(96 + 4));
    assert_eq!(row_bytes(DType::T2, 1), Some(8 + 4));
    assert_eq!(packed_bytes(DType::Q4Z64, 17, 129), Some(2 * (5 * 256 + 3 * 48 + 48)));
    assert_eq!(packed_bytes(DType::T2, 1, 33), Some(2 * 128 + 64));
    assert_eq!(packed_bytes(DType::MXFP4, 1, 64), Some(2 * 256 + 64));
    assert_eq!(packed_bytes_of(DType::Q4_0, &[1, 32]), Some(256 + 64));
    assert_eq!(packed_bytes_of(DType::Q4_0, &[3, 1, 32]), Some(3 * (256 + 64)));
    assert_eq!(packed_bytes_of(DType::Q4_0, &[u64::MAX, 1, 32]), None);
    assert_eq!(packed_bytes_of(DType::Q4_0, &[32]), None);
    assert_eq!(row_bytes(DType::Q4_K, 128), None);
    // Two panels: 8 groups of 256 bytes, then scales of 8 · 64 bytes.
    assert_eq!(packed_bytes(DType::Q4_1, 17, 256), Some(2 * (8 * 256 + 8 * 64)));
    // One group: 32 bytes of scales are padded to 64.
    assert_eq!(packed_bytes(DType::Q4_0, 1, 32), Some(256 + 64));
    assert_eq!(packed_bytes(DType::F16, 1, 3), Some(128));
    assert_eq!(packed_bytes(DType::Q6_K, 16, 256), Some(8 * 384 + 320));
    assert_eq!(packed_bytes(DType::Q8X32, 16, 32), None);
}

#[test]
fn overflow_is_none() {
    for &dtype in DType::ALL {
        let huge = u64::MAX / 256 * 256;
        assert_eq!(packed_bytes(dtype, 1, huge), None, "{dtype}");
        assert_eq!(packed_bytes(dtype, u64::MAX, 256), None, "{dtype}");
    }
    assert_eq!(row_bytes(DType::F32, u64::MAX / 2), None);
    assert_eq!(row_bytes(DType::Q8_0, u64::MAX / 32 * 32), None);
    let error = pack(DType::F32, &[], usize::MAX, 1 << 40, &mut []).unwrap_err();
    assert!(matches!(error, QuantError::TooLarge { .. }), "{error}");
}

#[test]
fn bad_operands_are_errors() {
    for format in block_formats() {
        let (dtype, cols) = (format.dtype(), format.block_len());
        let row = vec![0; block_bytes(format)];
        let mut panel = vec![0; format.panel_bytes(cols)];
        let mut out = vec![0.0; cols];
        assert!(matches!(format.dequantize_row(&row, &mut out[1..]), Err(QuantError::Columns { .. })));
        assert!(matches!(format.dequantize_row(&row[1..], &mut out), Err(QuantError::Length { .. })));
        assert!(format.quantize_row(&out, &mut row.clone()[1..]).is_err());
        assert!(format.pack_panel(&[&row[1..]], cols, &mut panel).is_err());
        assert!(matches!(format.pack_panel(&[&row[..]; 17], cols, &mut panel), Err(QuantError::Row { row: 16, .. })));
        assert!(format.pack_panel(&[&row], cols, &mut panel[1..]).is_err());
        assert!(format.unpack_row(&panel, 16, cols, &mut row.clone()).is_err());
        let mut scratch = row.clone();
        assert!(dequantize_packed_row(dtype, &panel, 16, cols, &mut scratch, &mut out).is_err());
        assert!(dequantize_packed_row(dtype, &panel, 0, cols, &mut scratch[1..], &mut out).is_err());
        assert!(dequantize(dtype, &row, cols, &mut out[1..]).is_err());
        assert!(dequantize(dtype, &row[1..], cols, &mut out).is_err());
        assert!(dequantize(dtype, &[0], 0, &mut []).is_err());
    }
    assert_eq!(unpack(DType::I32, &[], 0, 0, &mut []), Err(QuantError::NoFormat { dtype: DType::I32 }));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Bit for bit the values of the independent definition, for any integers and any finite scales.
    #[test]
    fn values_follow_the_definition(mut bytes in prop::collection::vec(any::<u8>(), 2 * 210)) {
        for format in block_formats() {
            let row = &mut bytes[..2 * block_bytes(format)];
            for block in row.chunks_exact_mut(block_bytes(format)) {
                // An exponent of all ones would be infinite or NaN.
                if format.dtype() == DType::MXFP4 { block[0] = block[0].min(252); }
                for &at in half_offsets(format.dtype()) {
                    if block[at + 1] & 0x7c == 0x7c { block[at + 1] ^= 4; }
                }
            }
            let mut out = vec![f32::NAN; 2 * format.block_len()];
            dequantize(format.dtype(), row, format.block_len(), &mut out).unwrap();
            for (n, got) in out.iter().enumerate() {
                let (block, i) = (n / format.block_len(), n % format.block_len());
                let block = &row[block * block_bytes(format)..][..block_bytes(format)];
                let expected = reference::value(format.dtype(), block, i);
                prop_assert_eq!(got.to_bits(), expected.to_bits(), "{} element {}", format.dtype(), n);
            }
        }
    }

    /// The same for rows that keep integers and scales apart; every length, any code.
    #[test]
    fn row_values_follow_the_definition(
        mut bytes in prop::collection::vec(any::<u8>(), 400), cols in 1usize..300, exponent in 100u8..150,
    ) {
        for format in planar_formats() {
            let dtype = format.dtype();
            let row = &mut bytes[..format.row_bytes(cols).unwrap()];
            let from = reference::row_scales_at(dtype, cols);
            let halves = matches!(dtype, DType::Q4G64 | DType::Q4G128 | DType::Q4Z32 | DType::Q4Z64 | DType::Q4Z128);
            let count = cols.div_ceil(reference::columns_of_a_scale(dtype, cols));
            for s in 0..count {
                // Finite scales, and products that stay so.
                if halves { row[from + 2 * s + 1] &= 0xbb; } else { row[from + 4 * s + 3] = exponent / 2; }
            }
            let mut out = vec![f32::NAN; cols];
            format.dequantize_row(row, &mut out).unwrap();
            for (k, got) in out.iter().enumerate() {
                let expected = reference::row_value(dtype, row, cols, k);
                prop_assert_eq!(got.to_bits(), expected.to_bits(), "{} column {} of {}", dtype, k, cols);
            }
        }
    }

    /// Taking a row to integers and back changes nothing, and the definition gives its values.
    #[test]
    fn assembling_is_the_inverse_of_disassembling(
        unit in prop::collection::vec(-1.0f32..1.0, 1..10), groups in 1usize..40, exponent in -20i32..12,
    ) {
        for format in quantised_formats() {
            let dtype = format.dtype();
            let cols = if format.block_len() == 1 { 7 * groups } else { 32 * groups };
            if format.block_len() == 256 {
                prop_assert_eq!(
                    format.assemble_row(&RowIntegers::default(), &mut []), Err(QuantError::NoIntegers { dtype })
                );
                prop_assert_eq!(format.disassemble_row(&[], 0), Err(QuantError::NoIntegers { dtype }));
                continue;
            }
            let values: Vec<f32> =
                (0..cols).map(|k| unit[k % unit.len()] * (1.0 + k as f32 / 50.0) * 2f32.powi(exponent)).collect();
            let row = quantized(format, &values);
            let integers = format.disassemble_row(&row, cols).unwrap();
            let mut again = vec![0x77; row.len()];
            format.assemble_row(&integers.as_integers(), &mut again).unwrap();
            prop_assert_eq!(&again, &row, "{}", dtype);
            let mut out = vec![0.0; cols];
            format.dequantize_row(&row, &mut out).unwrap();
            let columns = format.scale_columns().unwrap_or(cols);
            for (k, value) in out.iter().enumerate() {
                let expected = integer_value(dtype, &integers, k, k / columns);
                prop_assert_eq!(*value, expected, "{} column {}", dtype, k);
            }
        }
    }

    /// A search never ends with a greater error than plain rounding, and weighs errors as it is told.
    #[test]
    fn searching_lowers_the_weighted_error(
        unit in prop::collection::vec(-1.0f32..1.0, 256), importance in prop::collection::vec(0.0f32..4.0, 256),
    ) {
        let values: Vec<f32> = unit.iter().map(|x| x * x * x).collect();
        for format in FORMATS {
            for importance in [None, Some(&importance[..])] {
                let mut row = vec![0xaa; format.row_bytes(256).unwrap()];
                format.quantize_row_searched(&values, importance, &mut row).unwrap();
                let mut searched = vec![0.0; 256];
                format.dequantize_row(&row, &mut searched).unwrap();
                let error = |got: &[f32]| -> f64 {
                    let weight = |k: usize| f64::from(importance.map_or(1.0, |importance| importance[k]));
                    (0..256).map(|k| weight(k) * f64::from(values[k] - got[k]).powi(2)).sum()
                };
                let (plain, searched) = (error(&rounded(*format, &values)), error(&searched));
                prop_assert!(searched <= plain * 1.000_01 + 1e-12, "{}: {} > {}", format.dtype(), searched, plain);
            }
        }
    }

    #[test]
    fn packing_is_lossless((format, rows, cols, bytes) in any_matrix()) {
        let dtype = format.dtype();
        let packed = packed(format, rows, cols, &bytes);
        let mut back = vec![0x55; bytes.len()];
        unpack(dtype, &packed, rows, cols, &mut back).unwrap();
        prop_assert!(back == bytes, "{dtype} [{rows}, {cols}]");
    }

    #[test]
    fn packed_rows_have_the_values((format, rows, cols, bytes) in any_matrix(), pick in 0usize..40) {
        let (dtype, row) = (format.dtype(), pick % rows);
        let packed = packed(format, rows, cols, &bytes);
        let mut all = vec![0.0; rows * cols];
        dequantize(dtype, &bytes, cols, &mut all).unwrap();
        let mut out = vec![0.0; cols];
        dequantize_packed_row(dtype, &packed, row, cols, &mut vec![0xff; bytes.len()], &mut out).unwrap();
        for (expected, got) in all[row * cols..].iter().zip(&out) {
            prop_assert_eq!(expected.to_bits(), got.to_bits());
        }
    }

    /// The table of the module's documentation, byte by byte: every byte of the matrix is said by the table.
    #[test]
    fn packed_layout_follows_the_table((format, rows, cols, bytes) in any_matrix()) {
        let packed = packed(format, rows, cols, &bytes);
        prop_assert_eq!(packed.len(), rows.div_ceil(16) * format.panel_bytes(cols));
        prop_assert_eq!(format.panel_bytes(cols) % 64, 0);
        let row_bytes = bytes.len() / rows;
        for (p, panel) in packed.chunks_exact(format.panel_bytes(cols).max(1)).enumerate() {
            let panel_rows: Vec<&[u8]> = (16 * p..rows.min(16 * p + 16)).map(|r| &bytes[r * row_bytes..][..row_bytes]).collect();
            let expected = layout::panel(format, &panel_rows, cols);
            prop_assert!(panel == expected, "{} [{}, {}] panel {}", format.dtype(), rows, cols, p);
        }
    }

    /// Finite values of any size never become infinite or NaN.
    #[test]
    fn rounding_is_finite_for_any_input(bits in prop::collection::vec(any::<u32>(), 256)) {
        let values: Vec<f32> = bits.iter().map(|&b| f32::from_bits(b)).map(|x| if x.is_finite() { x } else { 1.0 }).collect();
        for format in quantised_formats() {
            for value in rounded(format, &values) {
                prop_assert!(value.is_finite(), "{}", format.dtype());
            }
        }
    }

    /// No value is off by more than a step of its block, whatever the size of the values.
    #[test]
    fn rounding_is_near(unit in prop::collection::vec(-1.0f32..1.0, 256), exponent in -20i32..12, shift in -1.0f32..1.0) {
        let values: Vec<f32> = unit.iter().map(|x| (x + shift) * 2f32.powi(exponent)).collect();
        for format in quantised_formats() {
            let (dtype, span) = (format.dtype(), scale_span(format));
            for (block, back) in values.chunks(span).zip(rounded(format, &values).chunks(span)) {
                let greatest = block.iter().fold(0.0, |a: f32, x| a.max(x.abs()));
                let bound = steps_of_range(dtype) * greatest + smallest_step(dtype);
                for (x, y) in block.iter().zip(back) {
                    prop_assert!((x - y).abs() <= bound, "{dtype}: {x} became {y}, bound {bound}");
                }
            }
        }
    }
}

/// Columns whose range decides how a value is rounded, of 256.
fn scale_span(format: &dyn QuantFormat) -> usize {
    if format.block_len() > 1 { format.block_len() } else { format.scale_columns().unwrap_or(256) }
}

/// The greatest error of a value in units of the greatest magnitude of its block.
fn steps_of_range(dtype: DType) -> f32 {
    match dtype {
        // A whole step where the positive end is cut off, half a step elsewhere; 0.1 % for scales rounded to f16.
        DType::Q4_0 | DType::Q4G64 | DType::Q4G128 => 1.01 / 8.0,
        // The range, at most twice the greatest magnitude, has 15 steps; rounding the zero moves it by half a step.
        DType::Q4Z32 | DType::Q4Z64 | DType::Q4Z128 => 2.02 / 15.0,
        DType::Q8C => 0.51 / 127.0,
        // Half of the last of 3 bits, and nothing lost at the end of the range.
        DType::F8_E4M3 => 1.01 / 16.0,
        // From 4 to 6 steps of 4..8 they are 2 apart; what is above 6 loses up to 2.
        DType::MXFP4 => 2.0 / 8.0,
        // What is far above the mean is cut to it.
        DType::T2 => 1.0,
        DType::Q5_0 => 1.02 / 16.0,
        // The range is at most twice the greatest magnitude; the minimum is rounded to f16 too.
        DType::Q4_1 => 1.02 / 15.0,
        DType::Q5_1 => 1.03 / 31.0,
        DType::Q8_0 => 0.52 / 127.0,
        // Half a step of the integers, and what 6-bit minima (half of 1/63) and scales (half of 1/63 of the range) lose.
        DType::Q4_K => 1.0 / 15.0 + 0.5 / 63.0 + 1.05 / 63.0,
        DType::Q5_K => 1.0 / 31.0 + 0.5 / 63.0 + 1.05 / 63.0,
        // One step at the positive end, and 1/128 where a factor of 128 is cut to 127.
        _ => 1.0 / 32.0 + 1.02 / 128.0,
    }
}

/// The absolute error that f16 scales leave where they are subnormal: half a step of the integers, and of the factors of
/// the K-quants times the greatest integer.
fn smallest_step(dtype: DType) -> f32 {
    let tiny = f16::from_bits(1).to_f32();
    match dtype {
        DType::Q4_K => 10.0 * tiny,
        DType::Q5_K | DType::Q6_K => 18.0 * tiny,
        _ => tiny,
    }
}

/// The value that integer `k` and the scale of its group stand for.
fn integer_value(dtype: DType, row: &IntegerRow, k: usize, group: usize) -> f32 {
    let (q, d) = (f32::from(row.codes[k]), row.scales[group]);
    match dtype {
        DType::Q4_0 | DType::Q4G64 | DType::Q4G128 => (q - 8.0) * d,
        DType::Q5_0 => (q - 16.0) * d,
        DType::Q4_1 | DType::Q5_1 => q * d + row.minima[group],
        DType::Q8_0 | DType::Q8C => (q - 128.0) * d,
        DType::Q4Z32 | DType::Q4Z64 | DType::Q4Z128 => (q - f32::from(row.zeros[group])) * d,
        DType::F8_E4M3 => minifloat::e4m3(row.codes[k]) * d,
        DType::MXFP4 => f32::from(minifloat::twice_e2m1(row.codes[k])) * 0.5 * d,
        DType::T2 => (q - 1.0) * d,
        other => panic!("{other} has no integers"),
    }
}

#[test]
fn integers_that_do_not_fit_are_errors() {
    let codes = [1; 32];
    let plain = RowIntegers { codes: &codes, scales: &[1.0], ..RowIntegers::default() };
    let check = |dtype: DType, integers: RowIntegers<'_>, fragment: &str| {
        let format = format(dtype).unwrap();
        let mut out = vec![0; format.row_bytes(integers.codes.len()).unwrap()];
        let error = format.assemble_row(&integers, &mut out).unwrap_err().to_string();
        assert!(error.contains(fragment), "{dtype}: {error}");
    };
    check(DType::Q4_0, RowIntegers { codes: &[16; 32], ..plain }, "integer 0, which is 16");
    check(DType::Q4G64, RowIntegers { codes: &[16; 32], ..plain }, "integer 0, which is 16");
    check(DType::T2, RowIntegers { codes: &[3; 32], ..plain }, "integer 0, which is 3");
    check(DType::F8_E4M3, RowIntegers { codes: &[0xff; 32], ..plain }, "number 0, which is NaN");
    for dtype in [DType::Q4_0, DType::Q4G128] {
        check(dtype, RowIntegers { scales: &[65520.0], ..plain }, "scale 0, which is 65520");
        check(dtype, RowIntegers { scales: &[f32::NAN], ..plain }, "scale 0, which is NaN");
        check(dtype, RowIntegers { scales: &[1.0, 1.0], ..plain }, "length of the scales is 2, expected 1");
        check(dtype, RowIntegers { zeros: &[8], ..plain }, "length of the zeros is 1, expected 0");
        check(dtype, RowIntegers { minima: &[8.0], ..plain }, "length of the minima is 1, expected 0");
    }
    check(DType::Q8C, RowIntegers { scales: &[f32::INFINITY], ..plain }, "scale 0, which is inf");
    check(DType::MXFP4, RowIntegers { scales: &[3.0], ..plain }, "scale 0, which is 3");
    check(DType::Q4Z32, plain, "length of the zeros is 0, expected 1");
    check(DType::Q4Z32, RowIntegers { zeros: &[17], ..plain }, "zero 0, which is 17");
    check(DType::Q4_1, plain, "length of the minima is 0, expected 1");
    check(DType::Q4_1, RowIntegers { minima: &[1e6], ..plain }, "minimum 0, which is 1000000");
}

/// Columns past the end of a row stand for nothing: they hold the integer of value 0.
#[test]
fn padding_is_zero() {
    for format in planar_formats() {
        let row = quantized(format, &[0.3; 33]);
        let at = reference::row_scales_at(format.dtype(), 33);
        let mut longer = vec![0; format.row_bytes(64).unwrap()];
        longer[..at].copy_from_slice(&row[..at]);
        // The scales of 33 columns in the place of those of 64: as many, of groups of 32 or more.
        longer[at..].copy_from_slice(&row[at..]);
        let mut out = vec![f32::NAN; 64];
        format.dequantize_row(&longer, &mut out).unwrap();
        assert!(out[33..].iter().all(|&x| x == 0.0), "{}: {:?}", format.dtype(), &out[33..]);
    }
}

#[test]
fn zeros_stay_zero() {
    for format in FORMATS {
        assert!(rounded(*format, &[0.0; 256]).iter().all(|&x| x == 0.0), "{}", format.dtype());
    }
}

#[test]
fn extremes_do_not_overflow() {
    for values in [[f32::MAX; 256], [f32::MIN; 256], [f32::from_bits(1); 256]] {
        for format in quantised_formats() {
            assert!(rounded(format, &values).iter().all(|x| x.is_finite()), "{}", format.dtype());
        }
    }
}

/// What a search gains on weights as models have them, as a share of the plain squared error that is left.
#[test]
fn searching_gains_on_normal_weights() {
    let values = normal_values(4096, 0.02);
    for format in quantised_formats() {
        let error = |got: &[f32]| values.iter().zip(got).map(|(x, y)| (x - y) * (x - y)).sum::<f32>();
        let mut row = vec![0; format.row_bytes(values.len()).unwrap()];
        format.quantize_row_searched(&values, None, &mut row).unwrap();
        let mut searched = vec![0.0; values.len()];
        format.dequantize_row(&row, &mut searched).unwrap();
        let left = error(&searched) / error(&rounded(format, &values));
        let bound = match format.dtype() {
            DType::Q4_0 | DType::Q4G64 | DType::Q4G128 | DType::Q5_0 => 0.95,
            DType::Q4_1 | DType::Q4Z32 | DType::Q4Z64 | DType::Q4Z128 => 0.96,
            DType::T2 => 0.8,
            // Little is cut off where there are many steps.
            _ => 1.0,
        };
        assert!(left <= bound, "{}: {left}", format.dtype());
    }
}

/// Root mean square error of weights as models have them, relative to their root mean square.
#[test]
fn error_of_normal_weights() {
    let values = normal_values(4096, 0.02);
    let energy: f32 = values.iter().map(|x| x * x).sum();
    for format in FORMATS {
        let error: f32 = values.iter().zip(rounded(*format, &values)).map(|(x, y)| (x - y) * (x - y)).sum();
        let bound = match format.dtype() {
            DType::Q4_0 => 0.09,
            DType::Q4_1 | DType::Q4_K => 0.081,
            DType::Q5_0 => 0.045,
            DType::Q5_1 | DType::Q5_K => 0.04,
            DType::Q6_K => 0.0195,
            DType::Q8_0 => 0.0056,
            DType::Q4G64 => 0.1,
            DType::Q4G128 => 0.12,
            DType::Q4Z32 => 0.09,
            DType::Q4Z64 => 0.1,
            DType::Q4Z128 => 0.11,
            DType::Q8C => 0.011,
            DType::F8_E4M3 => 0.03,
            DType::MXFP4 => 0.13,
            DType::T2 => 0.52,
            DType::BF16 => 0.002,
            DType::F16 => 0.0003,
            _ => 0.0,
        };
        let relative = (error / energy).sqrt();
        assert!(relative <= bound, "{}: {relative}", format.dtype());
    }
}

/// Sums of 12 numbers of a linear congruential generator are near enough to a normal distribution.
fn normal_values(count: usize, deviation: f32) -> Vec<f32> {
    let mut state = 1u32;
    let mut uniform = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32
    };
    (0..count).map(|_| deviation * ((0..12).map(|_| uniform()).sum::<f32>() - 6.0)).collect()
}

/// The documented layout, computed the other way round: for each element the byte and bits it goes to.
mod layout {
    use super::super::{QuantFormat, reference};
    use crate::types::DType;

    /// A panel of at most 16 row-major rows.
    pub fn panel(format: &dyn QuantFormat, rows: &[&[u8]], cols: usize) -> Vec<u8> {
        let mut out = vec![0; format.panel_bytes(cols)];
        for (r, row) in rows.iter().enumerate() {
            if super::is_float(format) {
                float_row(super::block_bytes(format), row, r, &mut out);
            } else {
                (0..cols.next_multiple_of(32)).for_each(|k| integer(format, row, r, k, &mut out));
                let scales = cols.div_ceil(32) * group_bytes(format.dtype());
                match format.block_len() {
                    1 => planar_scales(format.dtype(), row, r, cols, &mut out[scales..]),
                    _ => row_scales(format, row, r, &mut out[scales..]),
                }
            }
        }
        out
    }

    fn float_row(bytes: usize, row: &[u8], r: usize, panel: &mut [u8]) {
        for (k, element) in row.chunks(bytes).enumerate() {
            panel[(k * 16 + r) * bytes..][..bytes].copy_from_slice(element);
        }
    }

    fn group_bytes(dtype: DType) -> usize {
        match dtype {
            DType::T2 => 128,
            DType::Q5_0 | DType::Q5_1 | DType::Q5_K => 320,
            DType::Q6_K => 384,
            DType::Q8_0 | DType::Q8C | DType::F8_E4M3 => 512,
            _ => 256,
        }
    }

    /// The integer of column `k`, unsigned.
    fn unsigned(format: &dyn QuantFormat, row: &[u8], k: usize) -> u8 {
        let dtype = format.dtype();
        let offset = match dtype {
            DType::Q4_0 => 8,
            DType::Q5_0 => 16,
            DType::Q6_K => 32,
            DType::Q8_0 | DType::Q8C => 128,
            _ => 0,
        };
        let q = match format.block_len() {
            1 => reference::row_integer(dtype, row, k),
            len => {
                let bytes = super::block_bytes(format);
                reference::integer(dtype, &row[k / len * bytes..][..bytes], k % len)
            }
        };
        (q + offset) as u8
    }

    fn integer(format: &dyn QuantFormat, row: &[u8], r: usize, k: usize, panel: &mut [u8]) {
        let (dtype, q) = (format.dtype(), unsigned(format, row, k));
        let group = &mut panel[k / 32 * group_bytes(dtype)..][..group_bytes(dtype)];
        let (c, b) = (k % 32 / 4, 4 * r + k % 4);
        match group_bytes(dtype) {
            512 => return group[64 * c + b] = q,
            128 => return group[64 * (c / 4) + b] |= q << (2 * (c % 4)),
            _ => {}
        }
        match c {
            0..4 => group[64 * c + b] |= q & 15,
            _ => group[64 * (c - 4) + b] |= (q & 15) << 4,
        }
        match group_bytes(dtype) {
            320 => group[256 + b] |= (q >> 4) << c,
            384 => group[256 + 64 * (c / 4) + b] |= (q >> 4) << (2 * (c % 4)),
            _ => {}
        }
    }

    /// Lane `r` of the scale region of the formats whose rows keep integers and scales apart.
    fn planar_scales(dtype: DType, row: &[u8], r: usize, cols: usize, scales: &mut [u8]) {
        let from = reference::row_scales_at(dtype, cols);
        let count = cols.div_ceil(reference::columns_of_a_scale(dtype, cols));
        for s in 0..count {
            match dtype {
                DType::Q4G64 | DType::Q4G128 => {
                    scales[32 * s + 2 * r..][..2].copy_from_slice(&row[from + 2 * s..][..2]);
                }
                DType::Q4Z32 | DType::Q4Z64 | DType::Q4Z128 => {
                    scales[48 * s + 2 * r..][..2].copy_from_slice(&row[from + 2 * s..][..2]);
                    scales[48 * s + 32 + r] = row[from + 2 * count + s];
                }
                _ => scales[64 * s + 4 * r..][..4].copy_from_slice(&row[from + 4 * s..][..4]),
            }
        }
    }

    /// Lane `r` of the scale region, walked from its start as the table lists it.
    fn row_scales(format: &dyn QuantFormat, row: &[u8], r: usize, mut scales: &mut [u8]) {
        for block in row.chunks(super::block_bytes(format)) {
            let mut vector = |lane_bytes: usize, value: &[u8]| {
                let (lanes, rest) = std::mem::take(&mut scales).split_at_mut(16 * lane_bytes);
                lanes[lane_bytes * r..][..lane_bytes].copy_from_slice(value);
                scales = rest;
            };
            match format.dtype() {
                DType::Q4_0 | DType::Q5_0 | DType::Q8_0 => vector(2, &block[0..2]),
                DType::MXFP4 => vector(1, &block[0..1]),
                DType::Q4_1 | DType::Q5_1 => {
                    vector(2, &block[0..2]);
                    vector(2, &block[2..4]);
                }
                DType::Q4_K | DType::Q5_K => {
                    vector(2, &block[0..2]);
                    vector(2, &block[2..4]);
                    for g in 0..8 {
                        vector(1, &[reference::six_bits(&block[4..16], g, false) as u8]);
                        vector(1, &[reference::six_bits(&block[4..16], g, true) as u8]);
                    }
                }
                _ => {
                    vector(2, &block[208..210]);
                    (192..208).for_each(|at| vector(1, &block[at..at + 1]));
                }
            }
        }
    }
}
