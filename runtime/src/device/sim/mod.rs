//! The simulator as a device: the launches a GPU would be given, executed from their PTX on any machine, with every access checked.
//!
//! It runs what `kernels::cuda` says of each launch, on the modules of the artifact, over memory that is laid out for finding faults rather than
//! for size: results are allocations of their own that lose their contents at the start of a step, weights and inputs cannot be
//! written, and pages of the cache are uninitialised until something is appended. Weights stay where the artifact's files are mapped. It is some
//! thousand times slower than a GPU.

mod checks;
pub mod gates;
mod modules;
mod plan;
mod record;

use std::collections::HashMap;
use std::sync::Arc;

use ir::program::{Launch as ProgramLaunch, Program};
use ir::types::{DType, TensorType};
use kernels::cuda::{COUNTER_BYTES, CudaLaunch};
use simulator::{Access, Launch, Memory, Options, Pointer, SimError};
pub use simulator::{Counters, Finding, Kind};

use super::launches::{check_layouts, kernel_error, largest_workspace, program_error, resolve};
use super::sizes::{INPUTS, Sizes, input_limits};
use super::{Device, DeviceError, DeviceMemory, InputLimits, PageShape, StepInputs};
use crate::artifact::Artifact;
pub use checks::{Checks, UnknownCheck, check_name};
use modules::Modules;
pub use modules::{ArtifactModules, ModuleSource};
use plan::{Plan, Planned, Shared};
pub use record::{LaunchRecord, Observer};

/// Findings that an error message holds; the observer gets all.
const SHOWN_FINDINGS: usize = 3;

/// Warp instructions of a block after which a kernel counts as endless: half a minute, and far more than any block of a real model needs.
const ENDLESS: u64 = 1 << 30;

/// How the device runs.
pub struct SimOptions {
    /// KV pages, at least 1.
    pub pages: u64,
    /// Findings that count.
    pub checks: Checks,
    /// Count instructions, bytes and conflicts.
    pub counters: bool,
    /// Threads that run blocks; `None` takes one for each core.
    pub threads: Option<usize>,
    /// Check, count and record only the launch of this index in each program.
    pub only: Option<usize>,
    /// Go on after findings, which only the observer then sees; otherwise a step with one fails.
    pub go_on: bool,
    /// Receives every launch.
    pub observer: Option<Observer>,
}

impl Default for SimOptions {
    /// One page, all checks, no counters.
    fn default() -> SimOptions {
        SimOptions {
            pages: 1,
            checks: Checks::all(),
            counters: false,
            threads: None,
            only: None,
            go_on: false,
            observer: None,
        }
    }
}

/// A loaded artifact on the simulator.
pub struct SimDevice {
    artifact: Arc<Artifact>,
    architecture: String,
    options: SimOptions,
    memory: Memory,
    shared: Shared,
    plans: Vec<(Plan, InputLimits)>,
    steps: u64,
    /// Outputs of the last successful step.
    outputs: Vec<Output>,
    weight_bytes: u64,
}

/// An output as the caller sees it.
struct Output {
    name: String,
    values: Values,
}

enum Values {
    Real(Vec<f32>),
    Int(Vec<i32>),
}

impl SimDevice {
    /// Finds the code of every launch and lays out memory.
    ///
    /// # Errors
    /// Weights in the layout of another device, a launch without a kernel or code, options out of range.
    pub fn load(
        artifact: Arc<Artifact>,
        source: &dyn ModuleSource,
        options: SimOptions,
    ) -> Result<SimDevice, DeviceError> {
        check_layouts(&artifact, "sim")?;
        let limits = input_limits(&artifact, options.pages)?;
        let mut modules = Modules::new(source);
        let find = |program| resolve(program, |specialisation, label| modules.get(specialisation, label));
        let resolved = artifact.programs().iter().map(find).collect::<Result<Vec<_>, _>>()?;
        let mut memory = Memory::new();
        let mut workspace = 0;
        for program in artifact.programs() {
            workspace = largest_workspace(program)?.max(workspace);
        }
        let shared = place_shared(&artifact, options.pages, workspace, &mut memory)?;
        let mut plans = Vec::with_capacity(limits.len());
        for ((program, launches), limits) in artifact.programs().iter().zip(resolved).zip(limits) {
            plans.push((Plan::build(program, launches, &shared, &mut memory)?, limits));
        }
        let architecture = source.architecture().to_string();
        let (steps, outputs, weight_bytes) = (0, Vec::new(), 0);
        Ok(SimDevice { artifact, architecture, options, memory, shared, plans, steps, outputs, weight_bytes })
    }

    /// The architecture whose code it runs.
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    fn page_shape(&self) -> PageShape {
        PageShape::new(self.artifact.manifest(), self.options.pages)
    }

    /// Where a layer's part of a page begins.
    fn page_part(&self, layer: usize, page: u32) -> Pointer {
        let kv = &self.artifact.manifest().kv;
        self.shared.states[&kv.states[layer]].offset(u64::from(page) * kv.page_bytes_per_layer)
    }

    fn write_inputs(&mut self, program: &Program, inputs: &StepInputs) -> Result<(), DeviceError> {
        let values =
            [inputs.ids, inputs.positions, inputs.sequences, inputs.page_table, inputs.logit_rows, inputs.rope_tables];
        for (name, values) in INPUTS.iter().zip(values) {
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            let place = self.shared.inputs[*name];
            let written = self.memory.resize(place, bytes.len()).and_then(|()| self.memory.write(place, &bytes));
            written.map_err(|e| program_error(program, e.to_string()))?;
        }
        Ok(())
    }

    /// Runs every launch of a bucket's program.
    fn run(&mut self, artifact: &Artifact, bucket: usize, tokens: usize) -> Result<(), DeviceError> {
        let program = &artifact.programs()[bucket];
        for (index, launch) in program.launches.iter().enumerate() {
            let planned = &self.plans[bucket].0.launches[index];
            let entries = planned.launches(launch, self.shared.workspace_bytes)?;
            planned.protect(&mut self.memory).map_err(|e| kernel_error(launch, None, e.to_string()))?;
            for entry in entries {
                self.run_entry(launch, Place { bucket, index, tokens }, &entry)?;
            }
            self.check_counters(launch)?;
        }
        Ok(())
    }

    /// Runs one entry; its findings are an error, unless the device goes on.
    fn run_entry(&mut self, launch: &ProgramLaunch, place: Place, entry: &CudaLaunch) -> Result<(), DeviceError> {
        let planned: &Planned = &self.plans[place.bucket].0.launches[place.index];
        let request = Launch {
            dynamic_shared: entry.shared_bytes,
            ..Launch::new(entry.grid, [entry.threads, 1, 1], planned.parameter_block(self.shared.workspace))
        };
        let watched = self.options.only.is_none_or(|only| only == place.index);
        let options = Options {
            checks: watched && self.options.checks.watches(),
            counters: watched && self.options.counters,
            threads: self.options.threads.unwrap_or(0),
            instruction_limit: ENDLESS,
            ..Options::default()
        };
        let report = simulator::run(&planned.module, entry.entry, &request, &mut self.memory, &options);
        let mut report = report.map_err(|e| kernel_error(launch, Some(entry.entry), e.to_string()))?;
        report.findings.retain(|f| self.options.checks.counts(f));
        self.weight_bytes += report.counters.as_ref().map_or(0, |c| c.weight_bytes);
        let error = (!report.findings.is_empty() && !self.options.go_on)
            .then(|| kernel_error(launch, Some(entry.entry), describe(&report.findings)));
        if let Some(observer) = self.options.observer.as_mut().filter(|_| watched) {
            observer(LaunchRecord {
                step: self.steps,
                tokens: place.tokens,
                bucket: place.bucket,
                launch: place.index,
                kernel: planned.kernel.name,
                variant: launch.variant.clone(),
                label: launch.label.clone(),
                entry: entry.entry,
                grid: entry.grid,
                threads: entry.threads,
                shared_bytes: entry.shared_bytes,
                warp_instructions: report.warp_instructions,
                findings: report.findings,
                counters: report.counters,
            });
        }
        error.map_or(Ok(()), Err)
    }

    /// Fails if a launch left the counters of the workspace other than zero: the next one that counts would never end, or end too soon.
    fn check_counters(&self, launch: &ProgramLaunch) -> Result<(), DeviceError> {
        let bytes = self.shared.workspace_bytes.min(u64::from(COUNTER_BYTES)) as usize;
        let counters = self.memory.read(self.shared.workspace, bytes);
        let counters = counters.map_err(|e| kernel_error(launch, None, e.to_string()))?;
        match counters.iter().position(|b| *b != 0) {
            None => Ok(()),
            Some(at) => Err(kernel_error(
                launch,
                None,
                format!("it leaves byte {at} of the workspace's counters other than zero"),
            )),
        }
    }

    /// Copies the program's outputs, each of which must be written as a whole.
    fn read_outputs(&self, program: &Program, plan: &Plan) -> Result<Vec<Output>, DeviceError> {
        let output = |(name, id): &(String, ir::program::BufferId)| {
            let ty = &program.buffers[id.0 as usize].ty;
            let values = plan.buffer(*id).ok_or(()).and_then(|p| read(&self.memory, p, ty, &plan.sizes).map_err(drop));
            let values = values.map_err(|()| program_error(program, format!("output {name:?} was not written whole")));
            Ok(Output { name: name.clone(), values: values? })
        };
        program.outputs.iter().map(output).collect()
    }
}

/// Where in a run a launch stands.
#[derive(Clone, Copy)]
struct Place {
    bucket: usize,
    index: usize,
    tokens: usize,
}

impl Device for SimDevice {
    fn name(&self) -> String {
        format!("sim {}, {}", self.architecture, self.options.checks)
    }

    fn pages(&self) -> u64 {
        self.options.pages
    }

    fn step(&mut self, bucket: usize, inputs: &StepInputs) -> Result<(), DeviceError> {
        self.outputs.clear();
        let count = self.plans.len();
        let (plan, limits) = self.plans.get_mut(bucket).ok_or_else(|| DeviceError::Option {
            option: "bucket",
            message: format!("there are {count}, not one of index {bucket}"),
        })?;
        inputs.check(limits)?;
        // A weights file that was cut off ends the process when it is touched; this makes it an error in most cases.
        self.artifact.check_intact()?;
        let artifact = self.artifact.clone();
        let program = &artifact.programs()[bucket];
        let sizes = Sizes::of(inputs, self.options.pages).of_symbols(program);
        plan.prepare(program, sizes, &mut self.memory)?;
        self.write_inputs(program, inputs)?;
        let result = self.run(&artifact, bucket, inputs.ids.len());
        self.steps += 1;
        result?;
        self.outputs = self.read_outputs(program, &self.plans[bucket].0)?;
        // What was computed while a file was cut off is worth nothing.
        self.artifact.check_intact()?;
        Ok(())
    }

    fn output(&self, name: &str) -> Option<&[f32]> {
        self.outputs.iter().find(|o| o.name == name).and_then(|o| match &o.values {
            Values::Real(values) => Some(values.as_slice()),
            Values::Int(_) => None,
        })
    }

    fn output_ints(&self, name: &str) -> Option<&[i32]> {
        self.outputs.iter().find(|o| o.name == name).and_then(|o| match &o.values {
            Values::Int(values) => Some(values.as_slice()),
            Values::Real(_) => None,
        })
    }

    /// Bytes that loads asked of weights; 0 without counters.
    fn weight_bytes_read(&self) -> u64 {
        self.weight_bytes
    }

    fn arithmetic(&self) -> String {
        format!("ptx {}", self.architecture)
    }

    fn read_page(&self, page: u32, bytes: &mut [u8]) -> Result<(), DeviceError> {
        let shape = self.page_shape();
        shape.check(page, bytes.len())?;
        for (layer, part) in bytes.chunks_exact_mut(shape.layer_bytes.max(1)).enumerate() {
            self.memory.read_into(self.page_part(layer, page), part).map_err(page_error)?;
        }
        Ok(())
    }

    fn write_page(&mut self, page: u32, bytes: &[u8]) -> Result<(), DeviceError> {
        let shape = self.page_shape();
        shape.check(page, bytes.len())?;
        for (layer, part) in bytes.chunks_exact(shape.layer_bytes.max(1)).enumerate() {
            let place = self.page_part(layer, page);
            self.memory.write(place, part).map_err(page_error)?;
        }
        Ok(())
    }

    /// Slots that nothing was appended to stay uninitialised: elements are copied one by one, each with its state.
    fn copy_page(&mut self, from: u32, to: u32) -> Result<(), DeviceError> {
        let shape = self.page_shape();
        shape.check_page(from)?;
        shape.check_page(to)?;
        let kv = &self.artifact.manifest().kv;
        let element = shape.layer_bytes as u64 / (kv.planes * kv.heads * kv.page_tokens * kv.head_dim).max(1);
        for layer in 0..shape.layers {
            let (from, to) = (self.page_part(layer, from), self.page_part(layer, to));
            for offset in (0..shape.layer_bytes as u64).step_by(element.max(1) as usize) {
                let copied = self.memory.copy(to.offset(offset), from.offset(offset), element as usize);
                copied.map_err(page_error)?;
            }
        }
        Ok(())
    }

    fn memory(&self) -> DeviceMemory {
        let manifest = self.artifact.manifest();
        let (weights, kv) = (manifest.weight_bytes(), manifest.page_bytes().saturating_mul(self.options.pages));
        let other = self.shared.workspace_bytes;
        let all = self.memory.allocated_bytes() as u64;
        DeviceMemory { weights, kv, other, arena: all.saturating_sub(weights).saturating_sub(kv).saturating_sub(other) }
    }
}

fn page_error(error: SimError) -> DeviceError {
    DeviceError::Program { program: "KV pages".into(), message: error.to_string() }
}

/// The bytes of a weight, which live as long as the artifact.
struct WeightBytes {
    artifact: Arc<Artifact>,
    name: String,
}

impl AsRef<[u8]> for WeightBytes {
    fn as_ref(&self) -> &[u8] {
        self.artifact.weight(&self.name).unwrap_or(&[])
    }
}

fn place_shared(
    artifact: &Arc<Artifact>,
    pages: u64,
    workspace_bytes: u64,
    memory: &mut Memory,
) -> Result<Shared, DeviceError> {
    let manifest = artifact.manifest();
    let size = |what, bytes: u64| {
        let source = std::io::ErrorKind::OutOfMemory.into();
        usize::try_from(bytes).map_err(|_| DeviceError::Memory { what, bytes, source })
    };
    let kv_bytes = size("KV pages", manifest.kv.page_bytes_per_layer.saturating_mul(pages))?;
    let mut states = HashMap::new();
    for name in &manifest.kv.states {
        states.insert(name.clone(), memory.allocate(name, kv_bytes, Access::ReadWrite));
    }
    let mut weights = HashMap::new();
    for weight in &manifest.weights {
        let bytes = WeightBytes { artifact: artifact.clone(), name: weight.name.clone() };
        let place = memory.map(&weight.name, Arc::new(bytes));
        if weight.layout.is_packed() {
            memory
                .mark_weights(place)
                .map_err(|e| DeviceError::Program { program: weight.name.clone(), message: e.to_string() })?;
        }
        weights.insert(weight.name.clone(), place);
    }
    let input = |name: &&str| ((*name).to_string(), memory.allocate(name, 0, Access::ReadOnly));
    let inputs = INPUTS.iter().map(input).collect();
    let zeros = vec![0; size("the workspace", workspace_bytes)?];
    let workspace = memory.allocate_with("workspace", zeros, Access::ReadWrite);
    Ok(Shared { inputs, weights, states, workspace, workspace_bytes })
}

/// An output's values; an error unless every byte was written.
fn read(memory: &Memory, place: Pointer, ty: &TensorType, sizes: &[u64]) -> Result<Values, SimError> {
    let bytes = ty.bytes(sizes).and_then(|b| usize::try_from(b).ok()).unwrap_or(usize::MAX);
    if !memory.initialised(place, bytes)? {
        return Err(SimError::HostAccess("a part was never written".into()));
    }
    let bytes = memory.read(place, bytes)?;
    let words = bytes.chunks_exact(4).map(|w| [w[0], w[1], w[2], w[3]]);
    Ok(match ty.dtype {
        DType::I32 => Values::Int(words.map(i32::from_le_bytes).collect()),
        _ => Values::Real(words.map(f32::from_le_bytes).collect()),
    })
}

/// The first finding of each kind in one line, and how many more there are.
fn describe(findings: &[Finding]) -> String {
    let mut shown: Vec<&Finding> = Vec::new();
    for finding in findings {
        if shown.len() < SHOWN_FINDINGS && shown.iter().all(|s| s.kind != finding.kind) {
            shown.push(finding);
        }
    }
    let text = shown.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    match findings.len() - shown.len() {
        0 => text,
        more => format!("{text}; and {more} more"),
    }
}
