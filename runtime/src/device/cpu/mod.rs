//! The processor as a device: native kernels, a team of threads, memory reserved once.
//!
//! All addresses are fixed when an artifact is loaded; a step copies its metadata to its place, patches the counts that
//! changed and lets the team walk the launch list. Nothing is allocated in a step. One arena, as large as the largest
//! bucket's, serves all buckets, since results live only until the next step. Weights are read where the artifact's files
//! are mapped, unless they are laid out for a GPU.

mod converted;
mod cores;
mod overhead;
mod plan;
mod region;
mod runner;
mod team;

use std::ffi::c_void;
use std::ops::Range;
use std::sync::Arc;

use ir::types::DType;
use kernels::cpu::isa::Isa;

pub use super::sizes::most_pages;
use super::sizes::{Sizes, input_limits};
use super::{Device, DeviceError, DeviceMemory, InputLimits, LoadOptions, PageShape, StepInputs};
use crate::artifact::{Artifact, Manifest};
pub use converted::weight_bytes;
use converted::{Converted, converted_bytes};
pub use cores::usable_cores;
pub use overhead::Overhead;
use plan::{Addresses, Plan};
use region::Region;
pub use runner::ProgramRunner;
use team::{Launch, LaunchList, Team};

/// Most threads that are accepted.
const MAX_THREADS: usize = 1024;

/// Bytes between the inputs' places: no two share a cache line.
const INPUT_ALIGNMENT: u64 = 256;

/// A loaded artifact on the processor.
pub struct CpuDevice {
    artifact: Arc<Artifact>,
    /// Matrices that launches read in place of the artifact's.
    _converted: Converted,
    isa: Isa,
    team: Team,
    buckets: Vec<(Plan, InputLimits)>,
    /// Bucket of the last successful step.
    last: Option<usize>,
    inputs: InputMemory,
    kv: Region,
    arena: Region,
    pages: u64,
}

/// A page's parts for all layers, to be copied by the team: a block is a layer.
struct PageWrite {
    from: *const u8,
    to: *mut u8,
    /// Bytes from a layer's place of the page to the next layer's.
    stride: usize,
    /// Bytes of a part.
    part: usize,
}

impl PageWrite {
    fn launch(&self, layers: usize) -> Launch {
        Launch { kernel: write_parts, params: (&raw const *self).cast(), blocks: layers, reads: None }
    }
}

/// The kernel of [`PageWrite`].
///
/// # Safety
/// `params` is a [`PageWrite`] of as many layers as there are blocks.
unsafe fn write_parts(params: *const c_void, layers: Range<usize>, _: &mut [u8]) {
    // SAFETY: as the caller says.
    unsafe {
        let write = &*params.cast::<PageWrite>();
        for layer in layers {
            let (from, to) = (write.from.add(layer * write.part), write.to.add(layer * write.stride));
            std::ptr::copy_nonoverlapping(from, to, write.part);
        }
    }
}

impl CpuDevice {
    /// Reserves memory for an artifact and `options.pages` KV pages, resolves its programs and starts threads.
    ///
    /// # Errors
    /// Options out of range, or memory or threads that the system refuses.
    pub fn load(artifact: Arc<Artifact>, options: &LoadOptions) -> Result<CpuDevice, DeviceError> {
        let isa = choose_isa(options.isa)?;
        let threads = choose_threads(options.threads)?;
        let limits = input_limits(&artifact, options.pages)?;
        let manifest = artifact.manifest();
        check_memory(manifest, options.pages, crate::memory::limit_bytes())?;
        let converted = Converted::of(&artifact, threads)?;
        let arena = Region::new("the arena", manifest.arena_bytes())?;
        let kv = Region::new("the KV cache", manifest.page_bytes().saturating_mul(options.pages))?;
        let inputs = InputMemory::reserve(&limits)?;
        let mut buckets = Vec::with_capacity(limits.len());
        let mut scratch_bytes = 0;
        for (program, limits) in artifact.programs().iter().zip(limits) {
            let addresses = Addresses {
                arena: arena.base(),
                input: &|name| inputs.address(name),
                weight: &|name| converted.address(name).or_else(|| artifact.weight(name).map(<[u8]>::as_ptr)),
                state: &|name| state_address(manifest, &kv, options.pages, name),
            };
            let mut plan = Plan::build(program, &addresses, isa)?;
            scratch_bytes = plan.scratch_bytes(largest_sizes(&limits)).max(scratch_bytes);
            buckets.push((plan, limits));
        }
        let team = Team::start(threads, scratch_bytes)?;
        let pages = options.pages;
        Ok(CpuDevice { artifact, _converted: converted, isa, team, buckets, last: None, inputs, kv, arena, pages })
    }

    /// Number of threads, the caller's included.
    pub fn threads(&self) -> usize {
        self.team.threads()
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    fn page_shape(&self) -> PageShape {
        PageShape::new(self.artifact.manifest(), self.pages)
    }

    /// Where a layer's part of a page begins.
    fn page_part(&self, layer: usize, page: u32) -> *mut u8 {
        let shape = self.page_shape();
        // The pages of one layer stand together, as `state_address` has it.
        self.kv.base().wrapping_byte_add((layer * self.pages as usize + page as usize) * shape.layer_bytes)
    }
}

impl Device for CpuDevice {
    fn name(&self) -> String {
        let threads = self.threads();
        format!("cpu {}, {threads} thread{}", self.isa, if threads == 1 { "" } else { "s" })
    }

    fn pages(&self) -> u64 {
        self.pages
    }

    fn step(&mut self, bucket: usize, inputs: &StepInputs) -> Result<(), DeviceError> {
        self.last = None;
        let count = self.buckets.len();
        let (plan, limits) = self.buckets.get_mut(bucket).ok_or_else(|| DeviceError::Option {
            option: "bucket",
            message: format!("there are {count}, not one of index {bucket}"),
        })?;
        inputs.check(limits)?;
        // A weights file that was cut off ends the process when it is touched; this makes it an error in most cases.
        self.artifact.check_intact()?;
        self.inputs.write(inputs);
        plan.prepare(Sizes::of(inputs, self.pages), self.team.threads());
        // SAFETY: the artifact's check has shown that every launch stays inside buffers, weights and pages for any indexes in
        // range, and the indexes were just checked. Buffers live at once do not overlap, and a launch writes no operand
        // it may not, so that blocks of one launch do not race; a barrier stands between launches.
        unsafe { self.team.run(plan.list()) }.map_err(|panic| plan.kernel_error(panic))?;
        // What was computed while a file was cut off is worth nothing.
        self.artifact.check_intact()?;
        self.last = Some(bucket);
        Ok(())
    }

    fn output(&self, name: &str) -> Option<&[f32]> {
        let (data, len) = self.buckets[self.last?].0.output(name, DType::F32)?;
        // SAFETY: the output lies in the arena, was written by the last step, and cannot change while `self` is borrowed.
        Some(unsafe { std::slice::from_raw_parts(data.cast(), len) })
    }

    fn output_ints(&self, name: &str) -> Option<&[i32]> {
        let (data, len) = self.buckets[self.last?].0.output(name, DType::I32)?;
        // SAFETY: as `output`.
        Some(unsafe { std::slice::from_raw_parts(data.cast(), len) })
    }

    fn weight_bytes_read(&self) -> u64 {
        self.team.weight_bytes()
    }

    /// Kernels give the same bits on every instruction set and for any number of threads.
    fn arithmetic(&self) -> String {
        "cpu".into()
    }

    fn read_page(&self, page: u32, bytes: &mut [u8]) -> Result<(), DeviceError> {
        let shape = self.page_shape();
        shape.check(page, bytes.len())?;
        for (layer, part) in bytes.chunks_exact_mut(shape.layer_bytes.max(1)).enumerate() {
            // SAFETY: the page was checked to be one of the region's, and no step runs while `self` is borrowed.
            unsafe { std::ptr::copy_nonoverlapping(self.page_part(layer, page), part.as_mut_ptr(), part.len()) };
        }
        Ok(())
    }

    fn write_page(&mut self, page: u32, bytes: &[u8]) -> Result<(), DeviceError> {
        let shape = self.page_shape();
        shape.check(page, bytes.len())?;
        let write = PageWrite {
            from: bytes.as_ptr(),
            to: self.page_part(0, page),
            stride: self.pages as usize * shape.layer_bytes,
            part: shape.layer_bytes,
        };
        // Memory that was never touched costs more to get than to fill, and each thread gets its own part of it.
        let mut list = LaunchList::with_capacity(1);
        list.fill([write.launch(shape.layers)].into_iter(), self.team.threads());
        // SAFETY: the page was checked to be one of the region's, layers lie `stride` apart, and `self` is borrowed alone.
        unsafe { self.team.run(&list) }.map_err(|panic| DeviceError::Kernel {
            kernel: "page copy".into(),
            label: String::new(),
            message: panic.message,
        })
    }

    fn copy_page(&mut self, from: u32, to: u32) -> Result<(), DeviceError> {
        let shape = self.page_shape();
        shape.check_page(from)?;
        shape.check_page(to)?;
        for layer in 0..shape.layers {
            // SAFETY: both pages were checked; they may be the same one.
            unsafe { std::ptr::copy(self.page_part(layer, from), self.page_part(layer, to), shape.layer_bytes) };
        }
        Ok(())
    }

    fn memory(&self) -> DeviceMemory {
        DeviceMemory {
            weights: weight_bytes(self.artifact.manifest()),
            arena: self.arena.bytes(),
            kv: self.kv.bytes(),
            other: self.inputs.region.bytes()
                + self.team.scratch_bytes()
                + self.buckets.iter().map(|(plan, _)| plan.params_bytes()).sum::<u64>(),
        }
    }
}

fn choose_isa(asked: Option<Isa>) -> Result<Isa, DeviceError> {
    match asked {
        None => Ok(Isa::best()),
        Some(isa) if isa.is_available() => Ok(isa),
        Some(isa) => {
            let available: Vec<&str> = Isa::available().iter().map(|i| i.name()).collect();
            let message = format!("this machine cannot execute {isa}; it can execute {}", available.join(", "));
            Err(DeviceError::Option { option: "isa", message })
        }
    }
}

fn choose_threads(asked: Option<usize>) -> Result<usize, DeviceError> {
    match asked {
        None => Ok(usable_cores()),
        Some(n) if (1..=MAX_THREADS).contains(&n) => Ok(n),
        Some(n) => {
            Err(DeviceError::Option { option: "threads", message: format!("{n} is not from 1 to {MAX_THREADS}") })
        }
    }
}

/// Refuses what can never fit, before anything is reserved: untouched pages cost nothing, so the system would not.
fn check_memory(manifest: &Manifest, pages: u64, limit: Option<u64>) -> Result<(), DeviceError> {
    let (arena, kv) = (manifest.arena_bytes(), manifest.page_bytes().saturating_mul(pages));
    let weights = converted_bytes(manifest);
    let needed = arena.saturating_add(kv).saturating_add(weights);
    match limit {
        Some(limit) if needed > limit => Err(DeviceError::TooLarge { needed, arena, kv, weights, limit }),
        _ => Ok(()),
    }
}

fn largest_sizes(limits: &InputLimits) -> Sizes {
    Sizes {
        tokens: limits.tokens as u64,
        sequences: limits.sequences as u64,
        page_columns: limits.page_columns as u64,
        logit_rows: limits.logit_rows as u64,
        pages: limits.pages,
    }
}

/// A state's pages: those of one layer stand together.
fn state_address(manifest: &Manifest, kv: &Region, pages: u64, name: &str) -> Option<*mut u8> {
    let layer = manifest.kv.states.iter().position(|s| s == name)? as u64;
    let offset = layer * pages * manifest.kv.page_bytes_per_layer;
    // SAFETY: the region holds the pages of all layers.
    Some(unsafe { kv.base().byte_add(offset as usize) })
}

/// The step metadata's fixed places.
struct InputMemory {
    region: Region,
    /// Offset in bytes and room in elements.
    places: [(&'static str, u64, u64); 6],
}

impl InputMemory {
    fn reserve(limits: &[InputLimits]) -> Result<InputMemory, DeviceError> {
        let (places, bytes) = InputMemory::layout(limits);
        Ok(InputMemory { region: Region::new("step inputs", bytes)?, places })
    }

    /// Where each input goes, as in `places`, and the bytes of all.
    fn layout(limits: &[InputLimits]) -> ([(&'static str, u64, u64); 6], u64) {
        let most = |size: fn(&InputLimits) -> usize| limits.iter().map(size).max().unwrap_or(0) as u64;
        let tokens = most(|l| l.tokens);
        let mut places = [
            ("ids", 0, tokens),
            ("positions", 0, tokens),
            ("sequences", 0, tokens),
            ("page_table", 0, most(|l| l.sequences).saturating_mul(most(|l| l.page_columns))),
            ("logit_rows", 0, most(|l| l.logit_rows)),
            ("rope_tables", 0, tokens),
        ];
        let mut end = 0u64;
        for (_, offset, room) in &mut places {
            *offset = end;
            end = end.saturating_add(room.saturating_mul(4)).next_multiple_of(INPUT_ALIGNMENT);
        }
        (places, end)
    }

    fn address(&self, name: &str) -> Option<*mut u8> {
        let (_, offset, _) = self.places.iter().find(|(n, ..)| *n == name)?;
        // SAFETY: the offset lies in the region.
        Some(unsafe { self.region.base().byte_add(*offset as usize) })
    }

    /// Copies checked inputs to their places.
    fn write(&mut self, inputs: &StepInputs) {
        let values =
            [inputs.ids, inputs.positions, inputs.sequences, inputs.page_table, inputs.logit_rows, inputs.rope_tables];
        for ((_, offset, room), values) in self.places.iter().zip(values) {
            debug_assert!(values.len() as u64 <= *room);
            // SAFETY: the values fit the place, by the limits they were checked against; no launch is running.
            unsafe {
                let place = self.region.base().byte_add(*offset as usize).cast::<i32>();
                std::ptr::copy_nonoverlapping(values.as_ptr(), place, values.len());
            }
        }
    }
}

#[cfg(test)]
mod tests;
