//! GPTQ and AWQ: integers stored input by input, so that a matrix is decoded as a whole.
//!
//! GPTQ: `qweight` I32 `[in / 8, out]`, bits `4j..4j + 4` of row `r` are input `8r + j`; `qzeros` I32 `[groups, out / 8]` likewise along
//! the outputs, in the first version of the format one less than the zero; `scales` `[groups, out]`; `g_idx` I32 `[in]`, the group of
//! each input. Where groups are not in the order of inputs (activation order), columns are given group after group
//! instead, and [`column_order`] says which column stands where.
//!
//! AWQ ("gemm"): `qweight` I32 `[in, out / 8]`, `qzeros` I32 `[groups, out / 8]`, nibble `j` of word `c` is output
//! `8c + [0, 2, 4, 6, 1, 3, 5, 7][j]`; `scales` `[groups, out]`.

use super::assembler::Assembler;
use super::floats;
use super::groups::Grouping;
use super::stored::{Form, Stored};
use crate::ModelError;
use crate::source::Checkpoint;

/// The nibble in which output `8c + i` of an AWQ word stands.
const AWQ_NIBBLE: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

/// How nibbles stand in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// Words along inputs; `offset_zeros`: stored zeros are one less than the zeros.
    Gptq { offset_zeros: bool },
    /// Words along outputs.
    Awq,
}

impl Layout {
    /// The integers of one output, of all inputs in their own order.
    fn codes(self, qweight: &Words, rows: usize, row: usize, out: &mut [u8]) {
        match self {
            Layout::Gptq { .. } => {
                for (r, codes) in out.chunks_mut(8).enumerate() {
                    let word = qweight.at(r * rows + row);
                    for (j, code) in codes.iter_mut().enumerate() {
                        *code = nibble(word, j);
                    }
                }
            }
            Layout::Awq => {
                for (column, code) in out.iter_mut().enumerate() {
                    *code = nibble(qweight.at(column * (rows / 8) + row / 8), AWQ_NIBBLE[row % 8]);
                }
            }
        }
    }

    /// The zero of one output and group, 0 to 16.
    fn zero(self, qzeros: &Words, rows: usize, row: usize, group: usize) -> u8 {
        let word = qzeros.at(group * (rows / 8) + row / 8);
        match self {
            Layout::Gptq { offset_zeros } => nibble(word, row % 8) + u8::from(offset_zeros),
            Layout::Awq => nibble(word, AWQ_NIBBLE[row % 8]),
        }
    }
}

/// A tensor of 32-bit words, each of eight nibbles.
struct Words(Vec<u8>);

impl Words {
    fn read(checkpoint: &Checkpoint, tensor: &str) -> Result<Words, ModelError> {
        let mut bytes = vec![0; checkpoint.tensor(tensor)?.bytes as usize];
        checkpoint.read_bytes(tensor, 0, &mut bytes)?;
        Ok(Words(bytes))
    }

    fn at(&self, index: usize) -> u32 {
        self.0.as_chunks::<4>().0.get(index).map_or(0, |bytes| u32::from_le_bytes(*bytes))
    }

    fn iter(&self) -> impl Iterator<Item = u32> {
        self.0.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes))
    }
}

fn nibble(word: u32, index: usize) -> u8 {
    (word >> (4 * index) & 15) as u8
}

/// Whether all zeros of a GPTQ module are 8, as symmetric quantisation has them.
pub(super) fn is_symmetric(checkpoint: &Checkpoint, qzeros: &str, offset_zeros: bool) -> Result<bool, ModelError> {
    let eights = if offset_zeros { 0x7777_7777 } else { 0x8888_8888 };
    Ok(Words::read(checkpoint, qzeros)?.iter().all(|word| word == eights))
}

/// The order in which a module's columns stand, group after group and else by number; `None` if it is their own.
///
/// # Errors
/// A file that cannot be read, or a `g_idx` that does not give each group its number of columns.
pub(super) fn column_order(
    checkpoint: &Checkpoint,
    module: &str,
    stored: &Stored,
) -> Result<Option<Vec<u32>>, ModelError> {
    let Form::Columnwise { grouping, ordered: true, .. } = &stored.form else { return Ok(None) };
    let tensor = format!("{module}.g_idx");
    let groups: Vec<u32> = Words::read(checkpoint, &tensor)?.iter().collect();
    let in_place = |(position, group): (usize, &u32)| u64::from(*group) == position as u64 / grouping.size();
    if groups.iter().enumerate().all(in_place) {
        return Ok(None);
    }
    let mut order: Vec<u32> = (0..groups.len() as u32).collect();
    order.sort_by_key(|column| groups[*column as usize]);
    if order.iter().map(|column| &groups[*column as usize]).enumerate().all(in_place) {
        return Ok(Some(order));
    }
    let problem = format!("expected {} columns in each of {} groups", grouping.size(), grouping.count());
    Err(ModelError::tensor(checkpoint.path(), &tensor, problem))
}

/// The rows of a whole module in the format of `stored`, one after the other.
///
/// # Errors
/// A file that cannot be read, a scale that is not finite or does not fit.
pub(super) fn decode(
    checkpoint: &Checkpoint,
    module: &str,
    stored: &Stored,
    layout: Layout,
    grouping: Grouping,
) -> Result<Vec<u8>, ModelError> {
    let part = |name: &str| format!("{module}.{name}");
    let (qweight, qzeros) = (Words::read(checkpoint, &part("qweight"))?, Words::read(checkpoint, &part("qzeros"))?);
    let scales = floats::read_all(checkpoint, &part("scales"))?;
    let order = column_order(checkpoint, module, stored)?;
    let (rows, cols) = (stored.rows as usize, stored.cols as usize);
    let mut assembler = Assembler::new(checkpoint, module, stored, grouping)?;
    let (mut own, mut codes) = (vec![0; cols], vec![0; cols]);
    for row in 0..rows {
        layout.codes(&qweight, rows, row, &mut own);
        match &order {
            None => codes.copy_from_slice(&own),
            Some(order) => codes.iter_mut().zip(order).for_each(|(code, column)| *code = own[*column as usize]),
        }
        assembler.push(&codes, |g| scales[g * rows + row], |g| layout.zero(&qzeros, rows, row, g))?;
    }
    Ok(assembler.finish())
}

#[cfg(test)]
mod tests {
    use super::AWQ_NIBBLE;

    #[test]
    fn nibbles_of_awq_are_the_inverse_of_its_outputs() {
        let outputs = [0, 2, 4, 6, 1, 3, 5, 7];
        assert!((0..8).all(|output| outputs[AWQ_NIBBLE[output]] == output));
    }
}
