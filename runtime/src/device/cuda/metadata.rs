//! The metadata of a step as one block of memory, so that one copy brings all of it: page-locked on the host, and the same on the GPU.
//!
//! Recorded launches have fixed counts. A step of fewer tokens is filled up with tokens of one sequence more, whose only page is a scratch page
//! that no other sequence has; what they compute is not looked at. They are all alike, token 0 at position 0, so that they select few
//! experts and need one page; that they write one slot at a time does not matter, since they write the same bits.

use crate::device::sizes::INPUTS;
use crate::device::{InputLimits, StepInputs};

/// Bytes between the places of inputs: no two share what a GPU loads at a time.
const ALIGNMENT: u64 = 256;

/// Counts that a recorded step has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Counts {
    pub tokens: usize,
    pub rows: usize,
    pub columns: usize,
}

/// Where each input of a step lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MetadataLayout {
    /// First bytes, in the order of [`INPUTS`].
    offsets: [u64; 6],
    bytes: u64,
}

/// Index of the page table in [`INPUTS`]: it comes last in memory, since most of it is not used in most steps.
const PAGE_TABLE: usize = 3;

impl MetadataLayout {
    /// For the largest steps of all buckets, and one row of the page table more.
    pub fn new(limits: &[InputLimits]) -> MetadataLayout {
        let most = |size: fn(&InputLimits) -> usize| limits.iter().map(size).max().unwrap_or(0) as u64;
        let tokens = most(|l| l.tokens);
        let table = (most(|l| l.sequences) + 1).saturating_mul(most(|l| l.page_columns));
        let room = [tokens, tokens, tokens, table, most(|l| l.logit_rows), tokens];
        let (mut offsets, mut end) = ([0; 6], 0u64);
        for input in (0..INPUTS.len()).filter(|i| *i != PAGE_TABLE).chain([PAGE_TABLE]) {
            offsets[input] = end;
            end = end.saturating_add(room[input].saturating_mul(4)).next_multiple_of(ALIGNMENT);
        }
        MetadataLayout { offsets, bytes: end }
    }

    /// Bytes of the block.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// First byte of an input.
    pub fn offset(&self, name: &str) -> Option<u64> {
        INPUTS.iter().position(|input| *input == name).map(|i| self.offsets[i])
    }

    /// Writes checked inputs, filled up to the counts of a recorded step; gives how many bytes of the block must be copied.
    pub fn write(&self, block: &mut [u8], inputs: &StepInputs, counts: &Counts, scratch_page: u32) -> u64 {
        let sequences = inputs.sequence_count();
        let values =
            [inputs.ids, inputs.positions, inputs.sequences, inputs.page_table, inputs.logit_rows, inputs.rope_tables];
        let filled = counts.tokens > inputs.ids.len();
        let table = (sequences + usize::from(filled)) * counts.columns;
        let lengths = [counts.tokens, counts.tokens, counts.tokens, table, counts.rows, counts.tokens];
        let fill = [0, 0, sequences as i32, scratch_page as i32, 0, 0];
        for (input, values) in values.into_iter().enumerate() {
            let place = &mut block[self.offsets[input] as usize..][..4 * lengths[input]];
            let all = values.iter().copied().chain(std::iter::repeat(fill[input]));
            for (word, value) in place.chunks_exact_mut(4).zip(all) {
                word.copy_from_slice(&value.to_ne_bytes());
            }
        }
        self.offsets[PAGE_TABLE] + 4 * table as u64
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: InputLimits =
        InputLimits { tokens: 64, logit_rows: 16, sequences: 4, page_columns: 5, vocabulary: 10, pages: 9 };

    fn words(block: &[u8], at: u64, count: usize) -> Vec<i32> {
        block[at as usize..][..4 * count].chunks_exact(4).map(|w| i32::from_ne_bytes(w.try_into().unwrap())).collect()
    }

    proptest! {
        #[test]
        fn every_input_stands_in_its_place_and_the_rest_is_filled_up(
            tokens in 1usize..=64, more in 0usize..64, rows in 1usize..=16, sequences in 1usize..=4, columns in 1usize..=5,
        ) {
            let counts = Counts { tokens: (tokens + more).min(64), rows: 16, columns };
            let numbers: Vec<i32> = (0..64).collect();
            let table: Vec<i32> = (0..(sequences * columns) as i32).map(|i| i % 9).collect();
            let inputs = StepInputs {
                ids: &numbers[..tokens],
                positions: &numbers[..tokens],
                sequences: &numbers[..tokens],
                page_table: &table,
                page_columns: columns,
                logit_rows: &numbers[..rows],
                rope_tables: &numbers[..tokens],
            };
            let layout = MetadataLayout::new(&[LIMITS]);
            let mut block = vec![0xff; layout.bytes() as usize];
            let copied = layout.write(&mut block, &inputs, &counts, 9);
            prop_assert!(copied <= layout.bytes());
            let filled_up = |values: &[i32], fill: i32, count: usize| {
                let mut all = values.to_vec();
                all.resize(count, fill);
                all
            };
            let at = |name| layout.offset(name).unwrap();
            let ids = filled_up(inputs.ids, 0, counts.tokens);
            prop_assert_eq!(words(&block, at("ids"), counts.tokens), ids.clone());
            prop_assert_eq!(words(&block, at("positions"), counts.tokens), ids.clone());
            prop_assert_eq!(words(&block, at("rope_tables"), counts.tokens), ids);
            let filled = filled_up(inputs.sequences, sequences as i32, counts.tokens);
            prop_assert_eq!(words(&block, at("sequences"), counts.tokens), filled);
            prop_assert_eq!(words(&block, at("logit_rows"), 16), filled_up(inputs.logit_rows, 0, 16));
            let table_rows = sequences + usize::from(counts.tokens > tokens);
            let expected = filled_up(&table, 9, table_rows * columns);
            prop_assert_eq!(words(&block, at("page_table"), expected.len()), expected);
            prop_assert_eq!(copied, at("page_table") + 4 * (table_rows * columns) as u64);
        }
    }
}
