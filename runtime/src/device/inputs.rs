//! The metadata of a step and the ranges it must keep: past this check no kernel indexes out of its memory.

/// What a ragged step is about: `T` tokens of up to `S` sequences. All indexes are those of the kernel ABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepInputs<'a> {
    /// Token ids, `[T]`. Tokens of one sequence are adjacent and in order.
    pub ids: &'a [i32],
    /// Each token's place in its sequence, `[T]`.
    pub positions: &'a [i32],
    /// Each token's row of the page table, `[T]`.
    pub sequences: &'a [i32],
    /// Pages of each sequence, `[S, P]`, row-major; unused entries are any valid page.
    pub page_table: &'a [i32],
    /// `P`.
    pub page_columns: usize,
    /// Tokens whose logits are wanted, `[R]`.
    pub logit_rows: &'a [i32],
    /// Each token's table of rotary frequencies, `[T]`: 0, or 1 in a long sequence of a model that has two.
    pub rope_tables: &'a [i32],
}

/// Most tables of rotary frequencies a model has.
pub const ROPE_TABLES: u64 = 2;

/// What a program and the reserved memory allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InputLimits {
    /// Most tokens.
    pub tokens: usize,
    /// Most rows of logits.
    pub logit_rows: usize,
    /// Most sequences.
    pub sequences: usize,
    /// Most columns of the page table.
    pub page_columns: usize,
    /// Token ids are below this.
    pub vocabulary: u64,
    /// Page ids are below this.
    pub pages: u64,
}

/// An input of a step that is out of range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("step input {input}: {found}, expected {expected}")]
pub struct InputError {
    /// The input.
    pub input: &'static str,
    /// What it must be.
    pub expected: String,
    /// What it is.
    pub found: String,
}

impl StepInputs<'_> {
    /// Rows of the page table.
    pub fn sequence_count(&self) -> usize {
        self.page_table.len().checked_div(self.page_columns).unwrap_or(0)
    }

    /// Checks lengths and every index.
    ///
    /// # Errors
    /// The first input out of range.
    pub fn check(&self, limits: &InputLimits) -> Result<(), InputError> {
        let tokens = self.ids.len();
        length("ids", tokens, 1..=limits.tokens)?;
        length("positions", self.positions.len(), tokens..=tokens)?;
        length("sequences", self.sequences.len(), tokens..=tokens)?;
        length("rope_tables", self.rope_tables.len(), tokens..=tokens)?;
        length("logit_rows", self.logit_rows.len(), 1..=limits.logit_rows)?;
        length("page_table columns", self.page_columns, 1..=limits.page_columns)?;
        let sequences = self.sequence_count();
        length("page_table rows", sequences, 1..=limits.sequences)?;
        length("page_table", self.page_table.len(), sequences * self.page_columns..=sequences * self.page_columns)?;
        let slots = self.page_columns as u64 * ir::op::PAGE_TOKENS;
        indexes("ids", self.ids, limits.vocabulary)?;
        indexes("positions", self.positions, slots)?;
        indexes("sequences", self.sequences, sequences as u64)?;
        indexes("page_table", self.page_table, limits.pages)?;
        indexes("rope_tables", self.rope_tables, ROPE_TABLES)?;
        indexes("logit_rows", self.logit_rows, tokens as u64)
    }
}

fn length(input: &'static str, found: usize, allowed: std::ops::RangeInclusive<usize>) -> Result<(), InputError> {
    if allowed.contains(&found) {
        return Ok(());
    }
    let expected = format!("length from {} to {}", allowed.start(), allowed.end());
    Err(InputError { input, expected, found: format!("length {found}") })
}

fn indexes(input: &'static str, values: &[i32], bound: u64) -> Result<(), InputError> {
    match values.iter().find(|v| u64::try_from(**v).map_or(true, |v| v >= bound)) {
        None => Ok(()),
        Some(bad) => {
            Err(InputError { input, expected: format!("values from 0 to below {bound}"), found: bad.to_string() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: InputLimits =
        InputLimits { tokens: 4, logit_rows: 2, sequences: 2, page_columns: 3, vocabulary: 10, pages: 5 };

    fn good() -> StepInputs<'static> {
        StepInputs {
            ids: &[9, 0, 1],
            positions: &[31, 0, 1],
            sequences: &[0, 1, 1],
            page_table: &[4, 0, 1, 2],
            page_columns: 2,
            logit_rows: &[0, 2],
            rope_tables: &[0, 1, 1],
        }
    }

    #[test]
    fn every_input_is_checked_and_named() {
        assert_eq!(good().check(&LIMITS), Ok(()));
        let bad: &[(&str, StepInputs)] = &[
            ("ids", StepInputs { ids: &[], ..good() }),
            ("ids", StepInputs { ids: &[0; 5], ..good() }),
            ("ids", StepInputs { ids: &[10, 0, 0], ..good() }),
            ("ids", StepInputs { ids: &[-1, 0, 0], ..good() }),
            ("positions", StepInputs { positions: &[0, 1], ..good() }),
            ("positions", StepInputs { positions: &[32, 0, 1], ..good() }),
            ("sequences", StepInputs { sequences: &[0, 1, 2], ..good() }),
            ("page_table", StepInputs { page_table: &[5, 0, 1, 2], ..good() }),
            ("page_table", StepInputs { page_table: &[4, 0, 1], ..good() }),
            ("page_table columns", StepInputs { page_columns: 0, ..good() }),
            ("page_table columns", StepInputs { page_columns: 4, ..good() }),
            ("page_table rows", StepInputs { page_table: &[], ..good() }),
            ("page_table rows", StepInputs { page_table: &[0; 6], ..good() }),
            ("rope_tables", StepInputs { rope_tables: &[0, 1], ..good() }),
            ("rope_tables", StepInputs { rope_tables: &[0, 2, 0], ..good() }),
            ("logit_rows", StepInputs { logit_rows: &[3], ..good() }),
            ("logit_rows", StepInputs { logit_rows: &[], ..good() }),
            ("logit_rows", StepInputs { logit_rows: &[0; 3], ..good() }),
        ];
        for (input, inputs) in bad {
            assert_eq!(inputs.check(&LIMITS).unwrap_err().input, *input, "{inputs:?}");
        }
    }
}
