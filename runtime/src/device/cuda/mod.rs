//! A GPU as a device, through the CUDA driver alone, which is opened at run time.
//!
//! Everything is reserved when an artifact is loaded: its weights, one arena, one pool of KV pages, one workspace. A step is one copy of its
//! metadata, one launch of a recorded graph, a copy of each output, and one wait; or, where the GPU chooses the tokens, a copy of their ids, and
//! the wait comes after the next step is handed over. Recordings have fixed counts; a step is filled up to the next
//! larger one, which changes no bit of its results. The driver stands behind a trait, so that all of this runs on any machine, where the
//! simulator executes what is launched.

mod chooser;
mod code;
pub mod driver;
mod error;
mod graphs;
mod ladder;
mod machine;
mod measure;
mod metadata;
mod needs;
pub mod nvml;
mod plan;
mod probe;
mod real;
mod resources;
pub mod simulated;
mod submitted;
mod upload;

#[cfg(test)]
pub(crate) mod tests;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use ir::types::DType;

use self::chooser::{Chooser, Places};
use self::code::{CodeChoice, LoadedCode};
use self::driver::{DeviceAddress, GpuProperties};
use self::graphs::{GraphKey, Graphs};
use self::metadata::{Counts, MetadataLayout};
use self::needs::Sizes as MemorySizes;
use self::plan::{OutputPart, Plan, Workspace};
use self::resources::{Block, Gpu, Pinned, Stream};
use self::submitted::{Slot, Slots, Submitted};
use super::launches::{self, Addresses, program_error};
use super::sizes::Sizes;
use super::{ChoosingStep, Device, DeviceError, DeviceMemory, InputLimits, PageShape, StepInputs};
use crate::artifact::Artifact;
pub use error::GpuError;
pub use machine::{CudaMachine, DEFAULT_UTILIZATION, GpuOptions, usable};
pub use measure::GpuFigures;
pub use needs::{CONTEXT_BYTES, overhead_bytes};
pub use probe::{CudaGpu, CudaStatus, driver_cuda_version, probe};
pub use real::{CudaDriver, NoDriver};

/// Bytes that outputs have on the host until a step has more.
const FIRST_OUTPUT_BYTES: u64 = 1 << 20;

/// A loaded artifact on a GPU.
///
/// Fields go in their order: the stream first, which waits for all that is under way.
pub struct CudaDevice {
    stream: Stream,
    graphs: Graphs,
    staging: Staging,
    memory: Reserved,
    programs: Vec<Loaded>,
    /// Chooses tokens; `None` where the artifact has no code for it.
    chooser: Option<Chooser>,
    /// Steps that were submitted and not collected, the oldest first.
    under_way: VecDeque<Submitted>,
    artifact: Arc<Artifact>,
    code: CodeChoice,
    properties: GpuProperties,
    overlaps: bool,
    pages: u64,
    reserved: DeviceMemory,
    /// Bucket of the last successful step that brought its outputs here, and those.
    last: Option<usize>,
    outputs: Vec<OutputPart>,
    weight_bytes: u64,
    gpu: Arc<Gpu>,
}

/// A bucket's program.
struct Loaded {
    plan: Plan,
    limits: InputLimits,
}

/// Page-locked memory of the host.
struct Staging {
    slots: Slots,
    outputs: Pinned,
    page: Mutex<Pinned>,
}

/// Memory of the GPU.
struct Reserved {
    /// Each weights file.
    weights: Vec<Block>,
    arena: Block,
    /// The pages of one layer stand together, the scratch page last.
    kv: Block,
    workspace: Block,
    metadata: Block,
    layout: MetadataLayout,
}

/// What a device is made of.
struct Loading {
    gpu: Arc<Gpu>,
    artifact: Arc<Artifact>,
    code: CodeChoice,
    properties: GpuProperties,
    sizes: MemorySizes,
    memory: DeviceMemory,
    pages: u64,
    overlaps: bool,
}

impl CudaDevice {
    /// Reserves all memory, loads the code of every launch, and copies the weights last.
    fn load(from: Loading) -> Result<CudaDevice, DeviceError> {
        let Loading { gpu, artifact, code, properties, sizes, memory: reserved, pages, overlaps } = from;
        let limits = needs::limits(&artifact, pages)?;
        let memory = Reserved::new(&gpu, &artifact, &sizes, &limits, pages)?;
        let staging = Staging::new(&gpu, &artifact, &memory.layout)?;
        let (programs, chooser) = load_programs(&gpu, &artifact, &code, limits)?;
        let stream = Stream::new(&gpu)?;
        // Kernels that count expect zeros, and leave them.
        stream.zero(&memory.workspace)?;
        upload::upload_weights(&artifact, &gpu, &stream, &memory.weights)?;
        Ok(CudaDevice {
            stream,
            graphs: Graphs::default(),
            staging,
            memory,
            programs,
            chooser,
            under_way: VecDeque::new(),
            artifact,
            code,
            properties,
            overlaps,
            pages,
            reserved,
            last: None,
            outputs: Vec::new(),
            weight_bytes: 0,
            gpu,
        })
    }

    fn page_shape(&self) -> PageShape {
        PageShape::new(self.artifact.manifest(), self.pages)
    }

    /// Where a layer's part of a page begins.
    fn page_part(&self, layer: usize, page: u32) -> DeviceAddress {
        let bytes = self.page_shape().layer_bytes as u64;
        self.memory.kv.at().offset((layer as u64 * (self.pages + 1) + u64::from(page)) * bytes)
    }

    /// The symbols' values in a step of these counts.
    fn sizes(&self, bucket: usize, counts: &Counts) -> Vec<u64> {
        let limits = &self.programs[bucket].limits;
        let sizes = Sizes {
            tokens: counts.tokens as u64,
            sequences: limits.sequences as u64,
            page_columns: counts.columns as u64,
            logit_rows: counts.rows as u64,
            pages: self.pages + 1,
        };
        sizes.of_symbols(&self.artifact.programs()[bucket])
    }

    /// Records a step, if it is not.
    fn record(&mut self, key: GraphKey) -> Result<(), DeviceError> {
        if self.graphs.has(&key) {
            return Ok(());
        }
        let program = &self.artifact.programs()[key.bucket];
        let sizes = self.sizes(key.bucket, &key.counts);
        let (memory, artifact) = (&self.memory, &*self.artifact);
        let addresses = Addresses {
            buffer: &|id| Some(memory.arena.at().offset(program.buffers.get(id.0 as usize)?.offset).0),
            input: &|name| Some(memory.metadata.at().offset(memory.layout.offset(name)?).0),
            weight: &|name| memory.weight(artifact, name),
            state: &|name| {
                let layer = artifact.manifest().kv.states.iter().position(|state| state == name)?;
                Some(self.page_part(layer, 0).0)
            },
        };
        let workspace = Workspace { address: memory.workspace.at().0, bytes: memory.workspace.bytes() };
        let plan = &self.programs[key.bucket].plan;
        let mut launches = plan.launches(program, &sizes, &addresses, workspace, self.overlaps)?;
        if let Some(chooser) = self.chooser.as_ref().filter(|_| key.chooses) {
            let places = self.choosing_places(key.bucket)?;
            chooser.add(&mut launches, (program, key.counts.rows), places, workspace, self.overlaps)?;
        }
        self.graphs.record(key, &self.stream, &launches)
    }

    /// Where the launch that chooses tokens finds and leaves what.
    fn choosing_places(&self, bucket: usize) -> Result<Places, DeviceError> {
        let (memory, vocabulary) = (&self.memory, self.artifact.manifest().model.vocab_size);
        let logits = self.programs[bucket].plan.logits(vocabulary);
        let logits = logits
            .ok_or_else(|| program_error(&self.artifact.programs()[bucket], "it gives no rows of logits".into()))?;
        let metadata = |offset| memory.metadata.at().offset(offset);
        let (settings, chosen) = (metadata(memory.layout.settings()), metadata(memory.layout.chosen()));
        Ok(Places { logits: memory.arena.at().offset(logits), settings, chosen })
    }

    /// Puts a recorded step into the stream.
    fn launch(&mut self, key: &GraphKey) -> Result<(), DeviceError> {
        let launched = self.graphs.launch(key, &self.stream);
        launched.unwrap_or_else(|| {
            let program = &self.artifact.programs()[key.bucket];
            Err(program_error(program, "the step is not recorded".into()))
        })
    }

    /// Has the outputs copied to the host.
    fn download_outputs(&self) -> Result<(), DeviceError> {
        self.outputs.iter().try_for_each(|part| {
            let from = self.memory.arena.at().offset(part.arena);
            self.stream.download(&self.staging.outputs, part.host, from, part.bytes)
        })
    }

    /// A bucket's program.
    fn loaded(&self, bucket: usize) -> Result<&Loaded, DeviceError> {
        let count = self.programs.len();
        self.programs.get(bucket).ok_or_else(|| DeviceError::Option {
            option: "bucket",
            message: format!("there are {count}, not one of index {bucket}"),
        })
    }

    /// Notes where the outputs of a step go, and makes room for them.
    fn prepare_outputs(&mut self, bucket: usize, inputs: &StepInputs) -> Result<(), DeviceError> {
        let program = &self.artifact.programs()[bucket];
        let sizes = Sizes::of(inputs, self.pages + 1).of_symbols(program);
        let bytes = self.programs[bucket].plan.outputs(&sizes, &mut self.outputs);
        let bytes = bytes.ok_or_else(|| program_error(program, "an output is too large".into()))?;
        if bytes > self.staging.outputs.bytes().len() as u64 {
            self.staging.outputs = Pinned::new(&self.gpu, "outputs on the host", bytes.next_power_of_two())?;
        }
        Ok(())
    }

    /// The words of an output of the last step.
    fn output_words<T: resources::Word>(&self, name: &str, dtype: DType) -> Option<&[T]> {
        let index = self.programs[self.last?].plan.output(name)?;
        let part = self.outputs.get(index).filter(|part| part.dtype == dtype)?;
        self.staging.outputs.words(part.host as usize, (part.bytes / 4) as usize)
    }
}

/// Finds the code of every launch and has the driver load it.
fn load_programs(
    gpu: &Arc<Gpu>,
    artifact: &Arc<Artifact>,
    code: &CodeChoice,
    limits: Vec<InputLimits>,
) -> Result<(Vec<Loaded>, Option<Chooser>), DeviceError> {
    let mut code = LoadedCode::new(gpu, artifact, code.clone());
    let load = |(program, limits)| {
        let launches = launches::resolve(program, |specialisation, _| code.get(specialisation))?;
        Ok(Loaded { plan: Plan::new(program, artifact.manifest(), launches)?, limits })
    };
    let loaded = artifact.programs().iter().zip(limits).map(load).collect::<Result<Vec<_>, DeviceError>>()?;
    let chooser = Chooser::load(artifact, &mut code, loaded.iter().map(|l| &l.plan))?;
    Ok((loaded, chooser))
}

impl Reserved {
    /// Reserves the largest first, so that what does not fit is found at once.
    fn new(
        gpu: &Arc<Gpu>,
        artifact: &Artifact,
        sizes: &MemorySizes,
        limits: &[InputLimits],
        pages: u64,
    ) -> Result<Reserved, DeviceError> {
        let layout = MetadataLayout::new(limits);
        let kv_bytes = artifact.manifest().page_bytes().saturating_mul(pages + 1);
        let kv = Block::new(gpu, "KV pages", kv_bytes)?;
        let weights = sizes.files.iter().map(|bytes| Block::new(gpu, "weights", *bytes));
        let weights = weights.collect::<Result<Vec<_>, DeviceError>>()?;
        let arena = Block::new(gpu, "results", sizes.arena)?;
        let workspace = Block::new(gpu, "the kernels' workspace", sizes.workspace)?;
        let metadata = Block::new(gpu, "step metadata", layout.bytes())?;
        Ok(Reserved { weights, arena, kv, workspace, metadata, layout })
    }

    /// Where a weight lies.
    fn weight(&self, artifact: &Artifact, name: &str) -> Option<u64> {
        let (file, offset) = artifact.weight_place(name)?;
        Some(self.weights.get(file)?.at().offset(offset).0)
    }
}

impl Staging {
    fn new(gpu: &Arc<Gpu>, artifact: &Artifact, layout: &MetadataLayout) -> Result<Staging, DeviceError> {
        Ok(Staging {
            slots: [Slot::new(gpu, layout.bytes())?, Slot::new(gpu, layout.bytes())?],
            outputs: Pinned::new(gpu, "outputs on the host", FIRST_OUTPUT_BYTES)?,
            page: Mutex::new(Pinned::new(gpu, "a page on the host", artifact.manifest().page_bytes())?),
        })
    }
}

impl Device for CudaDevice {
    fn name(&self) -> String {
        format!("cuda {}, {}", self.properties.name, self.code)
    }

    fn pages(&self) -> u64 {
        self.pages
    }

    fn step(&mut self, bucket: usize, inputs: &StepInputs) -> Result<(), DeviceError> {
        self.last = None;
        let limits = &self.loaded(bucket)?.limits;
        inputs.check(limits)?;
        let key = GraphKey { bucket, counts: ladder::counts(inputs, limits), chooses: false };
        self.expect_idle()?;
        self.gpu.bind()?;
        self.record(key)?;
        self.prepare_outputs(bucket, inputs)?;
        let enqueued = self.enqueue(&key, inputs, None);
        // Also after a failure: what was put into the stream reads memory of the host.
        let done = self.stream.synchronize();
        enqueued?;
        done?;
        self.weight_bytes += self.programs[bucket].plan.reads.bytes(inputs.ids.len() as u64);
        self.last = Some(bucket);
        Ok(())
    }

    fn chooses(&self) -> bool {
        self.chooser.is_some()
    }

    fn submit(&mut self, bucket: usize, step: &ChoosingStep) -> Result<(), DeviceError> {
        self.submit_step(bucket, step)
    }

    fn collect(&mut self, tokens: &mut Vec<i32>) -> Result<(), DeviceError> {
        self.collect_step(tokens)
    }

    fn output(&self, name: &str) -> Option<&[f32]> {
        self.output_words(name, DType::F32)
    }

    fn output_ints(&self, name: &str) -> Option<&[i32]> {
        self.output_words(name, DType::I32)
    }

    fn memory(&self) -> DeviceMemory {
        self.reserved
    }

    /// Of a mixture, as many experts as the step's tokens can select at most; not those of tokens that fill a step up.
    fn weight_bytes_read(&self) -> u64 {
        self.weight_bytes
    }

    /// The GPU's version, whose units round as they do, and the code.
    fn arithmetic(&self) -> String {
        let (major, minor) = self.properties.capability;
        format!("cuda sm_{major}{minor}, {}", self.code)
    }

    fn read_page(&self, page: u32, bytes: &mut [u8]) -> Result<(), DeviceError> {
        let shape = self.page_shape();
        shape.check(page, bytes.len())?;
        self.gpu.bind()?;
        let staging = self.staging.page.lock().unwrap_or_else(PoisonError::into_inner);
        let part = shape.layer_bytes as u64;
        let enqueued = (0..shape.layers).try_for_each(|layer| {
            self.stream.download(&staging, layer as u64 * part, self.page_part(layer, page), part)
        });
        let done = self.stream.synchronize();
        enqueued?;
        done?;
        bytes.copy_from_slice(&staging.bytes()[..bytes.len()]);
        Ok(())
    }

    fn write_page(&mut self, page: u32, bytes: &[u8]) -> Result<(), DeviceError> {
        let shape = self.page_shape();
        shape.check(page, bytes.len())?;
        self.gpu.bind()?;
        let mut staging = self.staging.page.lock().unwrap_or_else(PoisonError::into_inner);
        staging.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
        let part = shape.layer_bytes as u64;
        let enqueued = (0..shape.layers)
            .try_for_each(|layer| self.stream.upload(self.page_part(layer, page), &staging, layer as u64 * part, part));
        let done = self.stream.synchronize();
        enqueued?;
        done
    }

    fn copy_page(&mut self, from: u32, to: u32) -> Result<(), DeviceError> {
        let shape = self.page_shape();
        shape.check_page(from)?;
        shape.check_page(to)?;
        if from == to {
            return Ok(());
        }
        self.gpu.bind()?;
        let part = shape.layer_bytes as u64;
        // Whatever reads the copy comes after it in the stream.
        (0..shape.layers)
            .try_for_each(|layer| self.stream.copy(self.page_part(layer, to), self.page_part(layer, from), part))
    }
}

impl Drop for CudaDevice {
    fn drop(&mut self) {
        // Nothing of the GPU's may be returned while work that uses it is under way.
        if self.gpu.bind().is_ok() {
            let _ = self.stream.synchronize();
        }
    }
}
