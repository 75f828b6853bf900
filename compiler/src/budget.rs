//! Whether a model fits a memory, and what is left for its KV cache: from programs and sizes of weights, before any weight is read.
//!
//! On the cpu device everything is counted as the runtime counts it. Of a GPU, weights, results, cache and the workspace of kernels are exact;
//! what the driver takes for itself cannot be known without one, so it enters as two constants that are called estimates wherever they are shown.

use ir::op::PAGE_TOKENS;
use ir::program::Program;
use kernels::cpu::isa::Isa;
use models::Model;
use models::hyperparameters::KvGeometry;
use runtime::byte_size::ByteSize;
use runtime::device::budget::Needs;
use runtime::device::{DeviceError, DeviceMemory, cpu, cuda};
use runtime::engine::DEFAULT_MODEL_LEN;

pub use crate::kv_type::KvType;
use crate::package::{self, WeightsError};
use crate::pipeline::{self, CompileError, CompileOptions};
use crate::target::Target;

/// Threads of the cpu device that an artifact's KV pages leave scratch memory for.
const COMPILED_THREADS: usize = 16;

/// What is asked of a memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Bytes of memory.
    pub memory: u64,
    /// Length that sequences must be able to reach; by default the model's context, of which [`DEFAULT_MODEL_LEN`] must fit.
    pub max_model_len: Option<u64>,
    /// Sequences of that length that must fit together.
    pub sequences: u64,
}

/// What a memory holds with a KV cache of one type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvFit {
    /// The cache's type.
    pub kv: KvType,
    /// Whether what was asked for fits.
    pub fits: bool,
    /// Bytes of one token.
    pub bytes_per_token: u64,
    /// Pages that fit; 0 if not even weights and results do.
    pub pages: u64,
    /// Longest sequence, at most what was asked for or the model was made for; 0 if there are no pages.
    pub max_context: u64,
    /// Sequences of the length asked for, at most as many as a step takes.
    pub max_sequences: u64,
    /// What is reserved with all pages that fit.
    pub memory: DeviceMemory,
    /// What would be reserved for what was asked for, and no more.
    pub needed: DeviceMemory,
}

/// Why the question has no answer, or the answer is no.
#[derive(Debug, thiserror::Error)]
pub enum BudgetError {
    /// Sizes of weights are unknown.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The device could not be asked.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// What is asked for does not fit.
    #[error(
        "does not fit: {sequences} x {tokens} tokens need {} (weights {}, results {}, {} KV cache {}, overhead {}), {} more than the {} \
         of --vram; {advice}",
        ByteSize(.needed.total()), ByteSize(.needed.weights), ByteSize(.needed.arena), .kv.name(), ByteSize(.needed.kv),
        ByteSize(.needed.other), ByteSize(.needed.total().saturating_sub(*.memory)), ByteSize(*.memory)
    )]
    TooSmall {
        /// Sequences asked for.
        sequences: u64,
        /// Tokens of each.
        tokens: u64,
        /// Type of the cache.
        kv: KvType,
        /// What they need.
        needed: DeviceMemory,
        /// Bytes there are.
        memory: u64,
        /// What to change.
        advice: String,
    },
}

/// What the device needs beside weights, results and cache.
enum Overhead {
    Cpu(cpu::Overhead),
    Estimate(u64),
}

/// The memory a compiled model needs.
pub struct Footprint {
    /// Bytes of packed weights.
    pub weights: u64,
    /// Bytes of the largest arena.
    pub arena: u64,
    /// Longest sequence the programs are compiled for.
    pub context: u64,
    /// Most sequences of a step.
    pub step_sequences: u64,
    kv: KvGeometry,
    layers: u64,
    most_pages: u64,
    overhead: Overhead,
}

impl Footprint {
    /// Of a model whose graph has the formats that weights are stored in, and its programs; `threads` of the cpu device, by default as
    /// many as it would start here.
    ///
    /// # Errors
    /// A weight without a size, a program that the cpu device does not know.
    pub fn of(
        model: &Model,
        programs: &[Program],
        options: &CompileOptions,
        threads: Option<usize>,
    ) -> Result<Footprint, BudgetError> {
        let overhead = match options.target {
            Target::Cpu => Overhead::Cpu(cpu::Overhead::new(programs, threads, Some(Isa::Portable))?),
            Target::Cuda(_) => Overhead::Estimate(cuda::overhead_bytes(programs)?),
        };
        let symbol =
            |name: &str| programs.iter().flat_map(|p| &p.symbols).filter(|s| s.name == name).map(|s| s.max).max();
        Ok(Footprint {
            weights: package::weight_bytes(&model.graph, package::packed_layout(options.target))?,
            arena: programs.iter().map(|p| p.arena_bytes).max().unwrap_or(0),
            context: options.max_model_len.unwrap_or(model.hyper.max_context),
            step_sequences: symbol("S").unwrap_or(1),
            kv: model.hyper.kv,
            layers: model.hyper.layers as u64,
            most_pages: cpu::most_pages(programs),
            overhead,
        })
    }

    /// Whether the overhead is an estimate.
    pub fn overhead_is_estimate(&self) -> bool {
        matches!(self.overhead, Overhead::Estimate(_))
    }

    /// What a memory holds with a cache of this type.
    pub fn answer(&mut self, kv: KvType, request: &Request) -> KvFit {
        let bytes_per_token = kv.bytes_per_token(self.kv, self.layers);
        let (context, step_sequences) = (request.max_model_len.unwrap_or(self.context), self.step_sequences);
        let asked = request.max_model_len.unwrap_or(self.context.min(DEFAULT_MODEL_LEN));
        let least = asked.div_ceil(PAGE_TOKENS).saturating_mul(request.sequences);
        let overhead = &mut self.overhead;
        let mut other = |pages| match overhead {
            Overhead::Cpu(overhead) => overhead.bytes(pages),
            Overhead::Estimate(bytes) => *bytes,
        };
        let mut needs = Needs {
            weights: self.weights,
            arena: self.arena,
            page_bytes: bytes_per_token.saturating_mul(PAGE_TOKENS),
            most_pages: self.most_pages,
            other: &mut other,
        };
        let pages = needs.pages_within(request.memory);
        KvFit {
            kv,
            fits: pages >= least,
            bytes_per_token,
            pages,
            max_context: context.min(pages.saturating_mul(PAGE_TOKENS)),
            max_sequences: (pages / context.div_ceil(PAGE_TOKENS).max(1)).min(step_sequences),
            memory: needs.memory(pages),
            needed: needs.memory(least),
        }
    }

    /// The answer, or why what was asked for does not fit.
    ///
    /// # Errors
    /// [`BudgetError::TooSmall`], with every figure and what to change.
    pub fn require(&mut self, kv: KvType, request: &Request) -> Result<KvFit, BudgetError> {
        let fit = self.answer(kv, request);
        if fit.fits {
            return Ok(fit);
        }
        Err(BudgetError::TooSmall {
            sequences: request.sequences,
            tokens: request.max_model_len.unwrap_or(self.context.min(DEFAULT_MODEL_LEN)),
            kv,
            needed: fit.needed,
            memory: request.memory,
            advice: advice(&fit),
        })
    }
}

/// What to change: the length if anything fits, else the weights.
fn advice(fit: &KvFit) -> String {
    match fit.pages {
        0 => "store weights in fewer bits with --quant, or give more memory".to_owned(),
        pages => format!(
            "{} tokens in all do: lower --max-model-len or the number of sequences, or give more memory",
            pages * PAGE_TOKENS
        ),
    }
}

/// KV pages that fit the options' memory beside the model; `None` if they name no memory. No weight is read.
///
/// # Errors
/// As the passes, or [`BudgetError::TooSmall`].
pub fn kv_pages(
    checkpoint: &models::Checkpoint,
    options: &CompileOptions,
    registry: &crate::lower::Registry,
) -> Result<Option<u64>, CompileError> {
    let (Some(memory), None) = (options.vram, &options.stop_after) else { return Ok(None) };
    let quiet = CompileOptions { dump: None, report: None, vram: None, ..options.clone() };
    let Some((model, programs)) = pipeline::compile_programs(checkpoint, &quiet, registry)? else { return Ok(None) };
    let request = Request { memory, max_model_len: options.max_model_len, sequences: 1 };
    // An artifact does not depend on the machine that compiles it.
    let mut footprint = Footprint::of(&model, &programs, options, Some(COMPILED_THREADS))?;
    Ok(Some(footprint.require(options.kv_type(), &request)?.pages))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn footprint(weights: u64, arena: u64) -> Footprint {
        Footprint {
            weights,
            arena,
            context: 8192,
            step_sequences: 64,
            kv: KvGeometry { heads: 4, head_dim: 64, planes: 2 },
            layers: 10,
            most_pages: 1 << 24,
            overhead: Overhead::Estimate(1000),
        }
    }

    #[test]
    fn what_is_left_becomes_pages() {
        let mut footprint = footprint(1 << 30, 1 << 20);
        let page = KvType::F16.bytes_per_token(footprint.kv, 10) * PAGE_TOKENS;
        let request =
            Request { memory: (1 << 30) + (1 << 20) + 1000 + page * 600 + page / 2, max_model_len: None, sequences: 1 };
        let fit = footprint.require(KvType::F16, &request).unwrap();
        assert_eq!((fit.pages, fit.max_context, fit.max_sequences), (600, 8192, 1));
        assert_eq!(fit.memory.total(), request.memory - page / 2);
        let short = Request { max_model_len: Some(4000), ..request };
        let fit = footprint.require(KvType::F16, &short).unwrap();
        assert_eq!((fit.max_context, fit.max_sequences), (4000, 2));
        assert!(footprint.answer(KvType::Int8, &request).pages > 600 * 3 / 2);
    }

    #[test]
    fn a_refusal_has_the_figures_and_a_way_out() {
        let mut footprint = footprint(1 << 30, 1 << 20);
        let request = Request { memory: 1 << 30, max_model_len: None, sequences: 1 };
        let text = footprint.require(KvType::F16, &request).unwrap_err().to_string();
        for part in ["1 x 4096 tokens", "weights 1.00 GiB", "results 1.00 MiB", "of --vram", "--quant"] {
            assert!(text.contains(part), "{text}");
        }
        let many = Request { memory: 3 << 30, max_model_len: Some(8192), sequences: 40 };
        let text = footprint.require(KvType::F16, &many).unwrap_err().to_string();
        assert!(text.contains("40 x 8192 tokens") && text.contains("lower --max-model-len"), "{text}");
    }
}
