//! The metadata of a step as one block of memory, so that one copy brings all of it: page-locked on the host, and the same on the GPU. What the
//! step chooses stands behind it, on its way back.
//!
//! Recorded launches have fixed counts. A step of fewer tokens is filled up with tokens of one sequence more, whose only page is a scratch page
//! that no other sequence has; what they compute is not looked at. They are all alike, token 0 at position 0, so that they select few
//! experts and need one page; that they write one slot at a time does not matter, since they write the same bits.

use kernels::abi::SampleSettings;

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
    /// First byte of how tokens are chosen.
    settings: u64,
    /// First byte of the tokens that are chosen.
    chosen: u64,
    bytes: u64,
}

/// Bytes of the settings of a row.
const SETTINGS_BYTES: usize = size_of::<SampleSettings>();

/// Index of the page table in [`INPUTS`]: it comes last in memory, since most of it is not used in most steps.
const PAGE_TABLE: usize = 3;

impl MetadataLayout {
    /// For the largest steps of all buckets, and one row of the page table more.
    pub fn new(limits: &[InputLimits]) -> MetadataLayout {
        let most = |size: fn(&InputLimits) -> usize| limits.iter().map(size).max().unwrap_or(0) as u64;
        let tokens = most(|l| l.tokens);
        let table = (most(|l| l.sequences) + 1).saturating_mul(most(|l| l.page_columns));
        let rows = most(|l| l.logit_rows);
        let room = [tokens, tokens, tokens, table, rows, tokens];
        let (mut offsets, mut end) = ([0; 6], 0u64);
        let mut place = |bytes: u64| {
            let next = end.saturating_add(bytes).next_multiple_of(ALIGNMENT);
            std::mem::replace(&mut end, next)
        };
        for input in (0..INPUTS.len()).filter(|i| *i != PAGE_TABLE) {
            offsets[input] = place(room[input].saturating_mul(4));
        }
        let settings = place(rows.saturating_mul(SETTINGS_BYTES as u64));
        offsets[PAGE_TABLE] = place(room[PAGE_TABLE].saturating_mul(4));
        let chosen = place(rows.saturating_mul(4));
        MetadataLayout { offsets, settings, chosen, bytes: end }
    }

    /// Bytes of the block.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// First byte of an input.
    pub fn offset(&self, name: &str) -> Option<u64> {
        INPUTS.iter().position(|input| *input == name).map(|i| self.offsets[i])
    }

    /// First byte of the settings of all rows.
    pub fn settings(&self) -> u64 {
        self.settings
    }

    /// First byte of the tokens that are chosen, which no copy to the GPU touches.
    pub fn chosen(&self) -> u64 {
        self.chosen
    }

    /// Writes checked inputs and settings, filled up to the counts of a recorded step; gives how many bytes of the block must be copied.
    /// Settings there are none where no token is chosen.
    pub fn write(
        &self,
        block: &mut [u8],
        inputs: &StepInputs,
        settings: &[SampleSettings],
        counts: &Counts,
        scratch_page: u32,
    ) -> u64 {
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
        if !settings.is_empty() {
            // Rows that fill a step up take the largest logit, which is the least work.
            let place = &mut block[self.settings as usize..][..SETTINGS_BYTES * counts.rows];
            let all = settings.iter().copied().chain(std::iter::repeat(SampleSettings::default()));
            for (bytes, settings) in place.chunks_exact_mut(SETTINGS_BYTES).zip(all) {
                bytes.copy_from_slice(&settings_bytes(&settings));
            }
        }
        self.offsets[PAGE_TABLE] + 4 * table as u64
    }
}

/// A struct of settings as a kernel reads it.
fn settings_bytes(s: &SampleSettings) -> [u8; SETTINGS_BYTES] {
    let numbers = [s.temperature.to_bits(), s.top_k, s.top_p.to_bits(), s.min_p.to_bits()];
    let penalties = [s.repetition_penalty, s.presence_penalty, s.frequency_penalty].map(f32::to_bits);
    let words = numbers.into_iter().chain(penalties).chain([s.reserved]).flat_map(u32::to_ne_bytes);
    let mut bytes = [0; SETTINGS_BYTES];
    let all = [s.seed, s.position].into_iter().flat_map(u64::to_ne_bytes).chain(words);
    bytes.iter_mut().zip(all).for_each(|(byte, value)| *byte = value);
    bytes
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
            let settings: Vec<SampleSettings> = (0..rows as u32)
                .map(|row| SampleSettings { seed: 7 << row, top_k: row, top_p: 0.5, reserved: 9, ..SampleSettings::default() })
                .collect();
            let copied = layout.write(&mut block, &inputs, &settings, &counts, 9);
            let place = &block[layout.settings() as usize..][..16 * SETTINGS_BYTES];
            for (row, bytes) in place.chunks_exact(SETTINGS_BYTES).enumerate() {
                let (top_k, reserved) = if row < rows { (row as u8, 9) } else { (0, 0) };
                prop_assert_eq!((bytes[20], bytes[44]), (top_k, reserved));
                prop_assert_eq!(&bytes[..8], &(if row < rows { 7u64 << row } else { 0 }).to_ne_bytes());
            }
            prop_assert!(copied <= layout.chosen() && block[layout.chosen() as usize..].iter().all(|b| *b == 0xff));
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
