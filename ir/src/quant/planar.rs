//! Formats whose rows keep integers and scales apart, for any number of columns: q4g*, q4z*, q8c, f8_e4m3, t2.
//!
//! A row-major row is the integers of `ceil(cols / 32)` groups of 32, then the scales, then the zeros, each column order,
//! without padding between. Columns past the end of the row hold the integer of value 0 (or the nearest, where a zero of
//! 16 has none), so that whole groups can be copied to the bit planes. One type, its fields a line in the table of
//! formats, serves them all: they differ in three ways only, and packing is bound by memory.

use half::f16;

use super::checks::{expect_importance, expect_length, expect_panel, expect_panel_row, row_length};
use super::codes::Codes;
use super::integers::{IntegerRow, RowIntegers, expect_integers, expect_zeros, half_scale, single_scale, unfit};
use super::minifloat::{E4M3_MAX, E4M3_NAN, e4m3, to_e4m3};
use super::planes::Planes;
use super::rounding::{self, SHRINKS, shrinks};
use super::{GROUP, PANEL_ROWS, QuantError, QuantFormat, activations};
use crate::types::DType;

/// How an integer becomes a number, before its scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Numbers {
    /// 4 bits about 8.
    Signed4,
    /// 4 bits about the group's own zero.
    Zeroed4,
    /// 8 bits about 128.
    Signed8,
    /// E4M3.
    Float8,
    /// -1, 0, 1 as 0, 1, 2.
    Ternary,
}

/// One format of this kind.
#[derive(Clone, Copy, Debug)]
pub(super) struct Planar {
    /// Its element type.
    pub dtype: DType,
    /// What its integers are.
    pub numbers: Numbers,
    /// Columns of one scale; `None` for the whole row.
    pub columns: Option<usize>,
}

/// What turns the integers of one group to values.
#[derive(Clone, Copy, Debug, Default)]
struct Step {
    /// The scale, as stored.
    d: f32,
    /// The zero of [`Numbers::Zeroed4`].
    zero: u8,
}

/// Where the parts of a row-major row end.
#[derive(Clone, Copy)]
struct Parts {
    codes: usize,
    scales: usize,
    zeros: usize,
}

impl Numbers {
    const fn planes(self) -> Planes {
        match self {
            Numbers::Signed4 | Numbers::Zeroed4 => Planes::U4,
            Numbers::Signed8 | Numbers::Float8 => Planes::U8,
            Numbers::Ternary => Planes::U2,
        }
    }

    /// Bytes of a scale: f16 or f32.
    const fn scale_bytes(self) -> usize {
        match self {
            Numbers::Signed4 | Numbers::Zeroed4 => 2,
            Numbers::Signed8 | Numbers::Float8 | Numbers::Ternary => 4,
        }
    }

    /// Bytes of a zero.
    const fn zero_bytes(self) -> usize {
        matches!(self, Numbers::Zeroed4) as usize
    }

    /// The greatest integer.
    const fn greatest(self) -> u8 {
        match self {
            Numbers::Signed4 | Numbers::Zeroed4 => 15,
            Numbers::Signed8 | Numbers::Float8 => 255,
            Numbers::Ternary => 2,
        }
    }

    /// What a search multiplies ranges by. The mean magnitude that ternary steps start from is small for most
    /// distributions.
    const fn shrinks(self) -> [f32; 21] {
        if matches!(self, Numbers::Ternary) { shrinks(0.05) } else { SHRINKS }
    }

    /// The integer of columns that do not exist.
    fn padding(self, zero: u8) -> u8 {
        match self {
            Numbers::Signed4 => 8,
            Numbers::Zeroed4 => zero.min(15),
            Numbers::Signed8 => 128,
            Numbers::Float8 => 0,
            Numbers::Ternary => 1,
        }
    }

    /// The value of an integer.
    #[inline(always)]
    fn value(self, code: u8, step: Step) -> f32 {
        let q = f32::from(code);
        match self {
            Numbers::Signed4 => (q - 8.0) * step.d,
            Numbers::Zeroed4 => q * step.d - f32::from(step.zero) * step.d,
            Numbers::Signed8 => (q - 128.0) * step.d,
            Numbers::Float8 => e4m3(code) * step.d,
            Numbers::Ternary => (q - 1.0) * step.d,
        }
    }

    /// The integers of one group in a row-major row.
    #[inline(always)]
    fn read(self, bytes: &[u8]) -> Codes {
        match self {
            Numbers::Signed4 | Numbers::Zeroed4 => Codes::from_nibble_halves(bytes),
            Numbers::Signed8 => Codes(Codes::from_field(bytes, 0, 8).0.map(|word| word ^ 0x8080_8080)),
            Numbers::Float8 => Codes::from_field(bytes, 0, 8),
            Numbers::Ternary => Codes::from_quarters(bytes),
        }
    }

    /// The inverse of [`Numbers::read`].
    #[inline(always)]
    fn write(self, codes: Codes, bytes: &mut [u8]) {
        match self {
            Numbers::Signed4 | Numbers::Zeroed4 => codes.write_nibble_halves(bytes),
            Numbers::Signed8 => bytes.copy_from_slice(&Codes(codes.0.map(|word| word ^ 0x8080_8080)).bytes()),
            Numbers::Float8 => bytes.copy_from_slice(&codes.bytes()),
            Numbers::Ternary => codes.write_quarters(bytes),
        }
    }

    /// The step of a group of values for a range of `shrink` times their own.
    fn step(self, values: &[f32], shrink: f32) -> Step {
        let greatest = shrink * rounding::extreme(values);
        match self {
            Numbers::Signed4 => Step { d: rounding::scale(greatest / -8.0).to_f32(), zero: 0 },
            Numbers::Zeroed4 => zeroed_step(values, shrink),
            Numbers::Signed8 => single_step(greatest.abs(), 127.0),
            Numbers::Float8 => single_step(greatest.abs(), E4M3_MAX),
            Numbers::Ternary => {
                let sum: f64 = values.iter().map(|x| f64::from(x.abs())).sum();
                let mean = sum / values.len().max(1) as f64 * f64::from(shrink);
                single_step((mean as f32).min(f32::MAX), 1.0)
            }
        }
    }

    /// The integers nearest to values under a step.
    fn round(self, values: &[f32], step: Step, codes: &mut [u8]) {
        let inverse = rounding::inverse(step.d);
        for (q, &x) in codes.iter_mut().zip(values) {
            *q = match self {
                Numbers::Signed4 => rounding::code(x, inverse, 8.0, 15.0),
                Numbers::Zeroed4 => rounding::code(x, inverse, f32::from(step.zero), 15.0),
                Numbers::Signed8 => rounding::code(x, inverse, 127.0, 254.0) + 1,
                Numbers::Float8 if step.d == 0.0 => 0,
                Numbers::Float8 => to_e4m3(x / step.d),
                Numbers::Ternary => rounding::code(x, inverse, 1.0, 2.0),
            };
        }
    }
}

/// The step and zero of a range that holds 0, which is therefore exact.
fn zeroed_step(values: &[f32], shrink: f32) -> Step {
    let (low, high) = rounding::range(values, 1.0);
    let (low, high) = (shrink * low.min(0.0), shrink * high.max(0.0));
    let d = rounding::scale(high / 15.0 - low / 15.0).to_f32();
    Step { d, zero: rounding::code(-low, rounding::inverse(d), 0.0, 15.0) }
}

/// The f32 step under which `greatest` is the number `number`. Zero where it or its inverse would not be normal.
fn single_step(greatest: f32, number: f32) -> Step {
    let d = greatest / number;
    // Rounding the quotient up must not carry the greatest value over the top.
    let d = if (number * d).is_finite() { d } else { d.next_down() };
    Step { d: if greatest < activations::SMALLEST * E4M3_MAX / 127.0 { 0.0 } else { d }, zero: 0 }
}

impl Planar {
    /// Columns of one scale in a row of `cols`.
    fn span(&self, cols: usize) -> usize {
        self.columns.unwrap_or(cols.max(1))
    }

    fn scales(&self, cols: usize) -> usize {
        cols.div_ceil(self.span(cols))
    }

    /// Bytes of a group of 32 in a row-major row.
    const fn group_bytes(&self) -> usize {
        self.numbers.planes().bytes() / PANEL_ROWS
    }

    fn parts(&self, cols: usize) -> Option<Parts> {
        let codes = cols.div_ceil(GROUP).checked_mul(self.group_bytes())?;
        let scales = codes.checked_add(self.scales(cols) * self.numbers.scale_bytes())?;
        let zeros = scales.checked_add(self.scales(cols) * self.numbers.zero_bytes())?;
        Some(Parts { codes, scales, zeros })
    }

    /// The parts of a row of `length` bytes, if that is the length of one.
    fn checked_parts(&self, length: usize, cols: usize) -> Result<Parts, QuantError> {
        expect_length(self.dtype, "row in bytes", length, row_length(self.dtype, cols)?)?;
        self.parts(cols).ok_or(QuantError::TooLarge { dtype: self.dtype, rows: 1, cols })
    }

    /// Step `s` of a row.
    fn step(&self, row: &[u8], parts: Parts, s: usize) -> Step {
        let scales = &row[parts.codes..parts.scales];
        let d = match self.numbers.scale_bytes() {
            2 => f16::from_le_bytes(scales.as_chunks().0[s]).to_f32(),
            _ => f32::from_le_bytes(scales.as_chunks().0[s]),
        };
        Step { d, zero: row[parts.scales..parts.zeros].get(s).copied().unwrap_or(0) }
    }

    /// The integers of a row, padding included.
    fn read_codes(&self, row: &[u8], parts: Parts) -> Vec<u8> {
        row[..parts.codes].chunks_exact(self.group_bytes()).flat_map(|group| self.numbers.read(group).bytes()).collect()
    }

    /// Writes the integers of a row, of which `codes` are the first; `steps` say what its padding is.
    fn write_codes(&self, codes: &[u8], padding: u8, row: &mut [u8]) {
        for (bytes, codes) in row.chunks_exact_mut(self.group_bytes()).zip(codes.chunks(GROUP)) {
            let mut group = [padding; GROUP];
            group[..codes.len()].copy_from_slice(codes);
            self.numbers.write(Codes::from_bytes(&group), bytes);
        }
    }

    /// Writes step `s`, whose scale is representable.
    fn write_step(&self, step: Step, s: usize, parts: Parts, row: &mut [u8]) {
        match self.numbers.scale_bytes() {
            2 => row[parts.codes + 2 * s..][..2].copy_from_slice(&f16::from_f32(step.d).to_le_bytes()),
            _ => row[parts.codes + 4 * s..][..4].copy_from_slice(&step.d.to_le_bytes()),
        }
        if self.numbers.zero_bytes() == 1 {
            row[parts.scales + s] = step.zero;
        }
    }

    /// Rounds a row, group by group with the step that `choose` finds for the columns it is given.
    fn quantize(
        &self,
        values: &[f32],
        out: &mut [u8],
        choose: impl Fn(std::ops::Range<usize>) -> Step,
    ) -> Result<(), QuantError> {
        let parts = self.checked_parts(out.len(), values.len())?;
        let span = self.span(values.len());
        let mut codes = vec![0; values.len()];
        let mut padding = 0;
        for (s, (group, codes)) in values.chunks(span).zip(codes.chunks_mut(span)).enumerate() {
            let step = choose(s * span..s * span + group.len());
            self.numbers.round(group, step, codes);
            self.write_step(step, s, parts, out);
            padding = self.numbers.padding(step.zero);
        }
        self.write_codes(&codes, padding, &mut out[..parts.codes]);
        Ok(())
    }

    /// The step of least error under the search's factors.
    fn searched_step(&self, values: &[f32], importance: Option<&[f32]>) -> Step {
        let mut codes = vec![0; values.len()];
        let best = rounding::search(&self.numbers.shrinks(), |shrink| {
            let step = self.numbers.step(values, shrink);
            self.numbers.round(values, step, &mut codes);
            rounding::error(values, importance, codes.iter().map(|&q| self.numbers.value(q, step)))
        });
        self.numbers.step(values, best)
    }

    /// Bytes of one scale of 16 rows in the scale region.
    const fn lane_bytes(&self) -> usize {
        PANEL_ROWS * (self.numbers.scale_bytes() + self.numbers.zero_bytes())
    }

    /// Bytes of the integers of a panel.
    fn code_region(&self, cols: usize) -> usize {
        cols.div_ceil(GROUP) * self.numbers.planes().bytes()
    }
}

impl QuantFormat for Planar {
    fn dtype(&self) -> DType {
        self.dtype
    }

    fn block_len(&self) -> usize {
        1
    }

    fn row_bytes(&self, cols: usize) -> Option<usize> {
        Some(self.parts(cols)?.zeros)
    }

    fn scale_columns(&self) -> Option<usize> {
        self.columns
    }

    fn is_integer(&self) -> bool {
        self.numbers != Numbers::Float8
    }

    fn panel_bytes(&self, cols: usize) -> usize {
        self.code_region(cols) + (self.scales(cols) * self.lane_bytes()).next_multiple_of(64)
    }

    fn dequantize_row(&self, row: &[u8], out: &mut [f32]) -> Result<(), QuantError> {
        let parts = self.checked_parts(row.len(), out.len())?;
        let span = self.span(out.len());
        let codes = self.read_codes(row, parts);
        for (s, (out, codes)) in out.chunks_mut(span).zip(codes.chunks(span)).enumerate() {
            let step = self.step(row, parts, s);
            for (out, &q) in out.iter_mut().zip(codes) {
                *out = self.numbers.value(q, step);
            }
        }
        Ok(())
    }

    fn quantize_row(&self, values: &[f32], out: &mut [u8]) -> Result<(), QuantError> {
        self.quantize(values, out, |columns| self.numbers.step(&values[columns], 1.0))
    }

    fn quantize_row_searched(
        &self,
        values: &[f32],
        importance: Option<&[f32]>,
        out: &mut [u8],
    ) -> Result<(), QuantError> {
        expect_importance(self.dtype, values, importance)?;
        self.quantize(values, out, |columns| {
            self.searched_step(&values[columns.clone()], importance.map(|importance| &importance[columns]))
        })
    }

    fn assemble_row(&self, integers: &RowIntegers<'_>, out: &mut [u8]) -> Result<(), QuantError> {
        let cols = integers.codes.len();
        let parts = self.checked_parts(out.len(), cols)?;
        let scales = self.scales(cols);
        expect_integers(self.dtype, integers, scales, self.numbers.greatest())?;
        expect_zeros(self.dtype, integers, scales * self.numbers.zero_bytes())?;
        expect_length(self.dtype, "minima", integers.minima.len(), 0)?;
        if self.numbers == Numbers::Float8
            && let Some(index) = integers.codes.iter().position(|q| q & 0x7f == E4M3_NAN)
        {
            return Err(unfit(self.dtype, "number", index, f32::NAN));
        }
        for (s, &d) in integers.scales.iter().enumerate() {
            match self.numbers.scale_bytes() {
                2 => half_scale(self.dtype, "scale", s, d).map(drop)?,
                _ => single_scale(self.dtype, s, d).map(drop)?,
            }
            self.write_step(Step { d, zero: integers.zeros.get(s).copied().unwrap_or(0) }, s, parts, out);
        }
        let padding = self.numbers.padding(integers.zeros.last().copied().unwrap_or(0));
        self.write_codes(integers.codes, padding, &mut out[..parts.codes]);
        Ok(())
    }

    fn disassemble_row(&self, row: &[u8], cols: usize) -> Result<IntegerRow, QuantError> {
        let parts = self.checked_parts(row.len(), cols)?;
        let mut codes = self.read_codes(row, parts);
        codes.truncate(cols);
        let scales = (0..self.scales(cols)).map(|s| self.step(row, parts, s).d).collect();
        Ok(IntegerRow { codes, scales, zeros: row[parts.scales..parts.zeros].to_vec(), minima: Vec::new() })
    }

    fn pack_panel(&self, rows: &[&[u8]], cols: usize, panel: &mut [u8]) -> Result<(), QuantError> {
        expect_panel(self.dtype, rows, cols, panel)?;
        panel.fill(0);
        let (planes, d, z) = (self.numbers.planes(), self.numbers.scale_bytes(), self.numbers.zero_bytes());
        let (groups, scales) = panel.split_at_mut(self.code_region(cols));
        for (r, row) in rows.iter().enumerate() {
            let parts = self.checked_parts(row.len(), cols)?;
            let (codes, steps) = row.split_at(parts.codes);
            for (bytes, group) in codes.chunks_exact(self.group_bytes()).zip(groups.chunks_exact_mut(planes.bytes())) {
                planes.put(self.numbers.read(bytes), r, group);
            }
            for (s, lanes) in scales.chunks_exact_mut(self.lane_bytes()).take(self.scales(cols)).enumerate() {
                lanes[d * r..][..d].copy_from_slice(&steps[d * s..][..d]);
                if z == 1 {
                    lanes[d * PANEL_ROWS + r] = row[parts.scales + s];
                }
            }
        }
        Ok(())
    }

    fn unpack_row(&self, panel: &[u8], r: usize, cols: usize, row: &mut [u8]) -> Result<(), QuantError> {
        expect_panel_row(self.dtype, panel, r, cols, row)?;
        let parts = self.checked_parts(row.len(), cols)?;
        let (planes, d, z) = (self.numbers.planes(), self.numbers.scale_bytes(), self.numbers.zero_bytes());
        let (groups, scales) = panel.split_at(self.code_region(cols));
        let codes = row[..parts.codes].chunks_exact_mut(self.group_bytes());
        for (bytes, group) in codes.zip(groups.chunks_exact(planes.bytes())) {
            self.numbers.write(planes.get(group, r), bytes);
        }
        for (s, lanes) in scales.chunks_exact(self.lane_bytes()).take(self.scales(cols)).enumerate() {
            row[parts.codes + d * s..][..d].copy_from_slice(&lanes[d * r..][..d]);
            if z == 1 {
                row[parts.scales + s] = lanes[d * PANEL_ROWS + r];
            }
        }
        Ok(())
    }
}
