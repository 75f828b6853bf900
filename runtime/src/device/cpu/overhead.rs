//! What the device needs beside weights, results and KV pages, before it is loaded: step metadata, kernel parameters, scratch
//! memory of threads. The device reports the same as `other`.

use ir::program::Program;
use kernels::cpu::isa::Isa;

use super::plan::{Addresses, Plan};
use super::{InputMemory, choose_isa, choose_threads, largest_sizes};
use crate::device::{DeviceError, InputLimits};

/// Programs made ready as the device would, without memory behind them.
pub struct Overhead {
    /// Each program with its sizes; the page table's columns are those of the longest sequence.
    plans: Vec<(Plan, InputLimits)>,
    threads: usize,
}

impl Overhead {
    /// Of verified programs, for a number of threads and an instruction set, as in [`crate::device::LoadOptions`].
    ///
    /// # Errors
    /// Options out of range, or a kernel there is not.
    pub fn new(programs: &[Program], threads: Option<usize>, isa: Option<Isa>) -> Result<Overhead, DeviceError> {
        let (isa, threads) = (choose_isa(isa)?, choose_threads(threads)?);
        let nowhere = Addresses {
            arena: std::ptr::null_mut(),
            input: &|_| Some(std::ptr::null_mut()),
            weight: &|_| Some(std::ptr::null()),
            state: &|_| Some(std::ptr::null_mut()),
        };
        let plans = programs.iter().map(|p| Ok((Plan::build(p, &nowhere, isa)?, limits(p))));
        Ok(Overhead { plans: plans.collect::<Result<_, DeviceError>>()?, threads })
    }

    /// Bytes of everything with so many KV pages.
    pub fn bytes(&mut self, pages: u64) -> u64 {
        let with_pages = |limits: &InputLimits| InputLimits {
            page_columns: limits.page_columns.min(usize::try_from(pages).unwrap_or(usize::MAX)),
            pages,
            ..*limits
        };
        let limits: Vec<InputLimits> = self.plans.iter().map(|(_, limits)| with_pages(limits)).collect();
        let plans = self.plans.iter_mut().zip(&limits);
        let scratch = plans.map(|((plan, _), limits)| plan.scratch_bytes(largest_sizes(limits))).max().unwrap_or(0);
        let params: u64 = self.plans.iter().map(|(plan, _)| plan.params_bytes()).sum();
        let inputs = InputMemory::layout(&limits).1;
        inputs.saturating_add(params).saturating_add(scratch.saturating_mul(self.threads as u64))
    }
}

/// The largest sizes that a program's symbols allow.
fn limits(program: &Program) -> InputLimits {
    let most = |name: &str| program.symbols.iter().find(|s| s.name == name).map_or(1, |s| s.max) as usize;
    InputLimits {
        tokens: most("T"),
        logit_rows: most("R"),
        sequences: most("S"),
        page_columns: most("P"),
        vocabulary: u64::MAX,
        pages: 1,
    }
}
