//! GPTQ and AWQ: integers stored input by input, so that a matrix is decoded as a whole.
//!
//! GPTQ: `qweight` I32 `[in / 8, out]`, bits `4j..4j + 4` of row `r` are input `8r + j`; `qzeros` I32 `[groups, out / 8]` likewise along
//! the outputs, in the first version of the format one less than the zero; `scales` `[groups, out]`; `g_idx` I32 `[in]`, the group of
//! each input. Where groups are not in the order of inputs (activation order), columns are given group after group
//! instead, and [`column_order`] says which column stands where.
//!
//! AWQ ("gemm"): `qweight` I32 `[in, out / 8]`, `qzeros` I32 `[groups, out / 8]`, nibble `j` of word `c` is output
//! `8c + [0, 2, 4, 6, 1, 3, 5, 7][j]`; `scales` `[groups, out]`.

use ir::quant::{self, RowIntegers};

use super::groups::{Grouping, has_zeros};
use super::stored::{Form, Stored};
use crate::ModelError;
use crate::source::Checkpoint;

/// The output of each nibble of an AWQ word.
const AWQ_ORDER: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];

/// The order in which a GPTQ module's columns stand; `None` if it is their own.
pub(super) fn column_order(
    checkpoint: &Checkpoint,
    module: &str,
    stored: &Stored,
) -> Result<Option<Vec<u32>>, ModelError> {
    let Form::Gptq { grouping, ordered: true, .. } = &stored.form else { return Ok(None) };
    let tensor = format!("{module}.g_idx");
    let groups = read_words(checkpoint, &tensor)?;
    let size = grouping.size();
    if groups.iter().enumerate().all(|(i, g)| u64::from(*g) == i as u64 / size) {
        return Ok(None);
    }
    let mut order: Vec<u32> = (0..groups.len() as u32).collect();
    order.sort_by_key(|column| groups[*column as usize]);
    let in_place = |(position, column): (usize, &u32)| u64::from(groups[*column as usize]) == position as u64 / size;
    if !order.iter().enumerate().all(in_place) {
        let problem = format!("expected {size} columns in each of {} groups", grouping.count());
        return Err(ModelError::tensor(checkpoint.path(), &tensor, problem));
    }
    Ok(Some(order))
}

/// The rows of a whole module in the format of `stored`, one after the other.
pub(super) fn decode(checkpoint: &Checkpoint, module: &str, stored: &Stored) -> Result<Vec<u8>, ModelError> {
    let part = |name: &str| format!("{module}.{name}");
    let words = read_words(checkpoint, &part("qweight"))?;
    let zeros = read_words(checkpoint, &part("qzeros"))?;
    let mut scales = Vec::new();
    super::reader::read_floats(checkpoint, &part("scales"), &mut scales)?;
    let order = column_order(checkpoint, module, stored)?;
    let (rows, cols) = (stored.rows as usize, stored.cols as usize);
    let (grouping, code, zero): (Grouping, Nibble, Nibble) = match &stored.form {
        Form::Gptq { grouping, offset_zeros, .. } => {
            let offset = u8::from(*offset_zeros);
            let code = move |w: &[u32], row: usize, col: usize| nibble(w[col / 8 * rows + row], col % 8);
            let zero = move |z: &[u32], row: usize, g: usize| nibble(z[g * (rows / 8) + row / 8], row % 8) + offset;
            (*grouping, Box::new(code), Box::new(zero))
        }
        Form::Awq { grouping } => {
            let shift = |row: usize| AWQ_ORDER.iter().position(|o| *o == row % 8).unwrap_or(0);
            let code = move |w: &[u32], row: usize, col: usize| nibble(w[col * (rows / 8) + row / 8], shift(row));
            let zero = move |z: &[u32], row: usize, g: usize| nibble(z[g * (rows / 8) + row / 8], shift(row));
            (*grouping, Box::new(code), Box::new(zero))
        }
        _ => return Ok(Vec::new()),
    };
    let mut assembler = Assembler::new(checkpoint, module, stored, grouping)?;
    let mut codes = vec![0; cols];
    for row in 0..rows {
        for (position, code_at) in codes.iter_mut().enumerate() {
            let column = order.as_ref().map_or(position, |o| o[position] as usize);
            *code_at = code(&words, row, column);
        }
        assembler.push(&codes, |g| scales[g * rows + row], |g| zero(&zeros, row, g))?;
    }
    Ok(assembler.bytes)
}

/// An integer of a row and column, or of a row and group.
type Nibble = Box<dyn Fn(&[u32], usize, usize) -> u8>;

fn nibble(word: u32, index: usize) -> u8 {
    (word >> (4 * index) & 15) as u8
}

fn read_words(checkpoint: &Checkpoint, tensor: &str) -> Result<Vec<u32>, ModelError> {
    let mut bytes = vec![0; checkpoint.tensor(tensor)?.bytes as usize];
    checkpoint.read_bytes(tensor, 0, &mut bytes)?;
    Ok(bytes.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect())
}

/// Puts rows of 4-bit integers together.
pub(super) struct Assembler<'a> {
    checkpoint: &'a Checkpoint,
    module: &'a str,
    stored: &'a Stored,
    grouping: Grouping,
    row_bytes: usize,
    scales: Vec<f32>,
    zeros: Vec<u8>,
    /// The rows so far.
    pub bytes: Vec<u8>,
}

impl<'a> Assembler<'a> {
    pub fn new(
        checkpoint: &'a Checkpoint,
        module: &'a str,
        stored: &'a Stored,
        grouping: Grouping,
    ) -> Result<Assembler<'a>, ModelError> {
        let row_bytes = quant::row_bytes(stored.dtype, stored.cols).map(|n| n as usize).ok_or_else(|| {
            let problem = format!("{} columns cannot be stored as {}", stored.cols, stored.dtype);
            ModelError::tensor(checkpoint.path(), module, problem)
        })?;
        let groups = grouping.stored_count();
        let (scales, zeros) = (vec![0.0; groups], vec![0; groups]);
        Ok(Assembler { checkpoint, module, stored, grouping, row_bytes, scales, zeros, bytes: Vec::new() })
    }

    /// Appends a row, given its integers and the scale and zero of each group.
    pub fn push(
        &mut self,
        codes: &[u8],
        scale: impl Fn(usize) -> f32,
        zero: impl Fn(usize) -> u8,
    ) -> Result<(), ModelError> {
        let wrong = |problem: String| ModelError::tensor(self.checkpoint.path(), self.module, problem);
        for group in 0..self.scales.len() {
            let of = self.grouping.of_stored(group);
            (self.scales[group], self.zeros[group]) = (scale(of), zero(of));
        }
        let with_zeros = has_zeros(self.stored.dtype);
        if !with_zeros && self.zeros.iter().any(|z| *z != 8) {
            let problem = "quantization_config calls it symmetric, but a zero is not 8; set sym to false";
            return Err(wrong(problem.into()));
        }
        let zeros = if with_zeros { self.zeros.as_slice() } else { &[] };
        let integers = RowIntegers { codes, scales: &self.scales, zeros, minima: &[] };
        let start = self.bytes.len();
        self.bytes.resize(start + self.row_bytes, 0);
        let format = quant::format(self.stored.dtype).ok_or_else(|| wrong("its format is unknown".into()))?;
        format
            .assemble_row(&integers, &mut self.bytes[start..])
            .map_err(|e| ModelError::tensor(self.checkpoint.path(), self.module, e.to_string()))
    }
}
