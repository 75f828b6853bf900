//! One program executed on its own, outside any artifact: how the compiler runs a layer while it quantises it.
//!
//! Memory, plan and team are those of the device. Weights lie in memory that the caller fills, and results of any name can be
//! read; a step may be given real inputs beside its metadata. What would be proved of an artifact's program is proved here
//! too: no launch leaves the memory behind its pointers.

use std::collections::HashMap;

use ir::program::Program;
use ir::types::DType;

use super::plan::{Addresses, Plan};
use super::region::Region;
use super::team::Team;
use super::{InputMemory, choose_isa, choose_threads, largest_sizes};
use crate::artifact::{Layout, WeightInfo, check_unpackaged};
use crate::device::sizes::Sizes;
use crate::device::{DeviceError, InputLimits, LoadOptions, StepInputs};

/// Alignment of weights and real inputs in their memory.
const ALIGNMENT: u64 = 256;

/// A program with memory of its own.
pub struct ProgramRunner {
    team: Team,
    plan: Plan,
    limits: InputLimits,
    metadata: InputMemory,
    values: Named,
    weights: Named,
    _states: Named,
    _arena: Region,
}

impl ProgramRunner {
    /// Reserves memory for a program, its `weights` (names, layouts and sizes; zero until filled) and its states, and starts threads.
    /// Every f32 input of the program is a real input, given at each step; the others are step metadata.
    ///
    /// # Errors
    /// Options out of range, memory or threads that the system refuses, or a program that would leave its memory.
    pub fn new(
        program: &Program,
        weights: &[WeightInfo],
        vocabulary: u64,
        options: &LoadOptions,
    ) -> Result<ProgramRunner, DeviceError> {
        let isa = choose_isa(options.isa)?;
        let threads = choose_threads(options.threads)?;
        let refuse = |message| DeviceError::Program { program: program.name.clone(), message };
        if let Some(weight) = weights.iter().find(|w| w.layout == Layout::Fragments) {
            return Err(refuse(format!("weight {:?} is laid out for a GPU; pack it in panels", weight.name)));
        }
        check_unpackaged(program, weights, vocabulary).map_err(refuse)?;
        let limits = limits(program, vocabulary, options.pages);
        let arena = Region::new("the arena", program.arena_bytes)?;
        let metadata = InputMemory::reserve(std::slice::from_ref(&limits))?;
        let real = program.inputs.iter().filter(|i| i.ty.dtype == DType::F32);
        let bounds = program.upper_bounds();
        let values = Named::reserve("inputs", real.map(|i| (i.name.as_str(), i.ty.bytes(&bounds))))?;
        let weights = Named::reserve("weights", weights.iter().map(|w| (w.name.as_str(), Some(w.bytes))))?;
        let pages: Vec<u64> =
            program.symbols.iter().map(|s| if s.name == "N" { options.pages } else { s.max }).collect();
        let states = program.states.iter().map(|s| (s.name.as_str(), s.ty.bytes(&pages)));
        let states = Named::reserve("the KV cache", states)?;
        let addresses = Addresses {
            arena: arena.base(),
            input: &|name| values.address(name).or_else(|| metadata.address(name)),
            weight: &|name| weights.address(name).map(|p| p.cast_const()),
            state: &|name| states.address(name),
        };
        let mut plan = Plan::build(program, &addresses, isa)?;
        let team = Team::start(threads, plan.scratch_bytes(largest_sizes(&limits)))?;
        Ok(ProgramRunner { team, plan, limits, metadata, values, weights, _states: states, _arena: arena })
    }

    /// The bytes of a weight, in its layout.
    pub fn weight_mut(&mut self, name: &str) -> Option<&mut [u8]> {
        self.weights.bytes_mut(name)
    }

    /// Executes the program on step metadata and real inputs by name. A real input that is not given, or
    /// the part of it past what is given, keeps what it had.
    ///
    /// # Errors
    /// Metadata out of range, a real input that is unknown or too long, or a kernel that failed.
    pub fn step(&mut self, inputs: &StepInputs, values: &[(&str, &[f32])]) -> Result<(), DeviceError> {
        inputs.check(&self.limits)?;
        self.metadata.write(inputs);
        for (name, values) in values {
            let unfit = || DeviceError::Program {
                program: String::new(),
                message: format!("input {name:?} is unknown or shorter than {} values", values.len()),
            };
            let place = self.values.bytes_mut(name).ok_or_else(unfit)?;
            let place = place.get_mut(..size_of_val(*values)).ok_or_else(unfit)?;
            place.chunks_exact_mut(4).zip(*values).for_each(|(out, v)| out.copy_from_slice(&v.to_le_bytes()));
        }
        self.plan.prepare(Sizes::of(inputs, self.limits.pages), self.team.threads());
        // SAFETY: the check has shown that every launch stays inside buffers, inputs, weights and pages for any indexes in range, and
        // the indexes were just checked. Buffers live at once do not overlap, and a launch writes no operand it may not.
        unsafe { self.team.run(self.plan.list()) }.map_err(|panic| self.plan.kernel_error(panic))
    }

    /// A result of the last step.
    pub fn floats(&self, name: &str) -> Option<&[f32]> {
        let (data, len) = self.plan.output(name, DType::F32)?;
        // SAFETY: the output lies in the arena, was written by the last step (or is zero), and cannot change while `self` is borrowed.
        Some(unsafe { std::slice::from_raw_parts(data.cast(), len) })
    }

    /// A result of integers of the last step.
    pub fn ints(&self, name: &str) -> Option<&[i32]> {
        let (data, len) = self.plan.output(name, DType::I32)?;
        // SAFETY: as `floats`.
        Some(unsafe { std::slice::from_raw_parts(data.cast(), len) })
    }
}

/// What a step of the program may be, from its symbols.
fn limits(program: &Program, vocabulary: u64, pages: u64) -> InputLimits {
    let most = |name: &str| program.symbols.iter().find(|s| s.name == name).map_or(1, |s| s.max) as usize;
    InputLimits {
        tokens: most("T"),
        logit_rows: most("R"),
        sequences: most("S"),
        page_columns: most("P"),
        vocabulary,
        pages,
    }
}

/// Named pieces of one region.
struct Named {
    region: Region,
    places: HashMap<String, (usize, usize)>,
}

impl Named {
    fn reserve<'n>(
        what: &'static str,
        sizes: impl Iterator<Item = (&'n str, Option<u64>)>,
    ) -> Result<Named, DeviceError> {
        let (mut places, mut end) = (HashMap::new(), 0u64);
        for (name, bytes) in sizes {
            // A size that overflows is refused by the region.
            let bytes = bytes.unwrap_or(u64::MAX / 2);
            places.insert(name.to_string(), (end as usize, bytes as usize));
            end = end.saturating_add(bytes).checked_next_multiple_of(ALIGNMENT).unwrap_or(u64::MAX);
        }
        Ok(Named { region: Region::new(what, end)?, places })
    }

    fn address(&self, name: &str) -> Option<*mut u8> {
        let (offset, _) = self.places.get(name)?;
        // SAFETY: the place lies in the region.
        Some(unsafe { self.region.base().byte_add(*offset) })
    }

    fn bytes_mut(&mut self, name: &str) -> Option<&mut [u8]> {
        let (offset, bytes) = *self.places.get(name)?;
        self.region.as_mut_slice().get_mut(offset..offset.checked_add(bytes)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifact::{Artifact, OpenOptions};
    use crate::device::Device;
    use crate::device::cpu::CpuDevice;
    use crate::testing::{TinyModel, shapes};

    fn artifact() -> (tempfile::TempDir, std::sync::Arc<Artifact>) {
        let folder = tempfile::tempdir().unwrap();
        TinyModel::new().write(folder.path());
        let artifact = Artifact::open(folder.path(), &OpenOptions::default()).unwrap();
        (folder, std::sync::Arc::new(artifact))
    }

    const OPTIONS: LoadOptions = LoadOptions { pages: 2, threads: Some(2), isa: None };

    #[test]
    fn a_program_alone_gives_what_the_device_gives() {
        let (_folder, artifact) = artifact();
        let bucket = artifact.programs().len() - 1;
        let weights = &artifact.manifest().weights;
        let mut runner =
            ProgramRunner::new(&artifact.programs()[bucket], weights, shapes::VOCABULARY as u64, &OPTIONS).unwrap();
        for weight in weights {
            runner.weight_mut(&weight.name).unwrap().copy_from_slice(artifact.weight(&weight.name).unwrap());
        }
        let inputs = StepInputs {
            ids: &[3, 1, 4, 1, 5],
            positions: &[0, 1, 2, 3, 4],
            sequences: &[0; 5],
            page_table: &[1],
            page_columns: 1,
            logit_rows: &[4],
            rope_tables: &[0; 5],
        };
        runner.step(&inputs, &[]).unwrap();
        let mut device = CpuDevice::load(artifact.clone(), &OPTIONS).unwrap();
        device.step(bucket, &inputs).unwrap();
        assert_eq!(runner.floats("logits"), device.output("logits"));
        assert!(runner.floats("logits").is_some() && runner.ints("logits").is_none());
        let bad = StepInputs { ids: &[3, 1, 4, 1, i32::MAX], ..inputs };
        assert!(matches!(runner.step(&bad, &[]), Err(DeviceError::Inputs(_))));
        assert!(matches!(runner.step(&inputs, &[("hidden", &[0.0])]), Err(DeviceError::Program { .. })));
    }

    #[test]
    fn a_program_that_would_leave_its_weights_is_refused() {
        let (_folder, artifact) = artifact();
        let program = &artifact.programs()[0];
        let vocabulary = shapes::VOCABULARY as u64;
        let mut weights = artifact.manifest().weights.clone();
        weights[0].bytes -= 64;
        let error = ProgramRunner::new(program, &weights, vocabulary, &OPTIONS).err().unwrap().to_string();
        assert!(error.contains(&weights[0].name) && !error.contains('\n'), "{error}");
        weights[0].layout = Layout::Fragments;
        let error = ProgramRunner::new(program, &weights, vocabulary, &OPTIONS).err().unwrap().to_string();
        assert!(error.contains(&weights[0].name) && error.contains("laid out for a GPU"), "{error}");
        weights.remove(0);
        assert!(ProgramRunner::new(program, &weights, vocabulary, &OPTIONS).is_err());
        // A larger vocabulary than the table has rows.
        assert!(ProgramRunner::new(program, &artifact.manifest().weights, 1 << 20, &OPTIONS).is_err());
    }
}
