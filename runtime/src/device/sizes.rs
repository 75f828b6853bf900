//! How large a step is, and how large it may be: the same for every device.

use ir::op::PAGE_TOKENS;
use ir::program::Program;

use super::{DeviceError, InputLimits, StepInputs};
use crate::artifact::Artifact;

/// Names of the step's metadata in programs.
pub(super) const INPUTS: [&str; 6] = ["ids", "positions", "sequences", "page_table", "logit_rows", "rope_tables"];

/// Values of the step symbols.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sizes {
    pub tokens: u64,
    pub sequences: u64,
    pub page_columns: u64,
    pub logit_rows: u64,
    pub pages: u64,
}

impl Sizes {
    /// The sizes of a step.
    pub fn of(inputs: &StepInputs, pages: u64) -> Sizes {
        Sizes {
            tokens: inputs.ids.len() as u64,
            sequences: inputs.sequence_count() as u64,
            page_columns: inputs.page_columns as u64,
            logit_rows: inputs.logit_rows.len() as u64,
            pages,
        }
    }

    /// The value of a symbol; `None` if steps have no such one.
    pub fn get(&self, symbol: &str) -> Option<u64> {
        Some(match symbol {
            "T" => self.tokens,
            "S" => self.sequences,
            "P" => self.page_columns,
            "R" => self.logit_rows,
            "N" => self.pages,
            _ => return None,
        })
    }

    /// The values of a program's symbols, in table order; 0 for one that steps do not have.
    pub fn of_symbols(&self, program: &Program) -> Vec<u64> {
        program.symbols.iter().map(|s| self.get(&s.name).unwrap_or(0)).collect()
    }
}

/// Most KV pages that programs can address.
pub fn most_pages(programs: &[Program]) -> u64 {
    let most = programs.iter().flat_map(|p| &p.symbols).filter(|s| s.name == "N").map(|s| s.max).min();
    most.unwrap_or(u64::MAX).min(i32::MAX as u64)
}

/// What each bucket's steps may be, with so many KV pages reserved.
pub(super) fn input_limits(artifact: &Artifact, pages: u64) -> Result<Vec<InputLimits>, DeviceError> {
    let manifest = artifact.manifest();
    let most = most_pages(artifact.programs());
    if pages == 0 || pages > most {
        let message = format!("{pages} KV pages are not from 1 to {most}");
        return Err(DeviceError::Option { option: "pages", message });
    }
    let page_columns = manifest.model.max_context.div_ceil(PAGE_TOKENS).min(pages) as usize;
    let limits = manifest.buckets.iter().map(|b| InputLimits {
        tokens: b.max_tokens as usize,
        logit_rows: b.max_logit_rows as usize,
        sequences: manifest.max_sequences as usize,
        page_columns,
        vocabulary: manifest.model.vocab_size,
        pages,
    });
    Ok(limits.collect())
}
