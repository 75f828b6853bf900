//! What a compilation is told. Passes read nothing else: no environment, no clock.

use std::path::PathBuf;

use super::CompileError;
use super::passes::{PLAN, pass_named, pass_names, passes_after};
use crate::cost::TargetSpec;
use crate::fuse::Fusion;
use crate::kv_type::KvType;
use crate::quantise::options::QuantOptions;
use crate::target::{Activations, Arch, Target};

/// Most tokens of each bucket a program is made for: single-token decoding, small batches, prefill chunks.
pub const BUCKET_TOKENS: &[u64] = &[1, 8, 64, 512];

/// What to compile, for what, and where to.
#[derive(Clone, Debug)]
pub struct CompileOptions {
    /// What programs are compiled for.
    pub target: Target,
    /// Architectures that kernels are compiled for, the oldest first; none for the cpu.
    pub architectures: Vec<Arch>,
    /// The NVRTC to compile them with; by default the first that is found, or fetched.
    pub nvrtc: Option<PathBuf>,
    /// What the target can do: its row of the cost table.
    pub spec: TargetSpec,
    /// How matmuls see their activations.
    pub activations: Activations,
    /// How the KV cache stores numbers; by default what goes with the activations.
    pub kv: Option<KvType>,
    /// How much is fused.
    pub fusion: Fusion,
    /// Longest sequence, in tokens; by default what the model was made for.
    pub max_model_len: Option<u64>,
    /// Bytes of the memory the artifact is to fill: what weights, results and overhead leave becomes KV pages.
    pub vram: Option<u64>,
    /// What formats weights are stored in.
    pub quant: QuantOptions,
    /// Adds what each router selected, and the weights it gave, to the results of a step.
    pub trace_routing: bool,
    /// Adds the last hidden states, after the final norm, to the results of a step.
    pub embeddings: bool,
    /// Prompts, raw texts or lists of chat messages, whose keys and values are computed and shipped.
    pub bake_prompts: Vec<PathBuf>,
    /// Most tokens of each bucket, smallest first.
    pub buckets: Vec<u64>,
    /// Threads that quantise, calibrate and compile kernels. The artifact does not depend on it.
    pub threads: usize,
    /// Begins with this text of a graph or program instead of the checkpoint's graph.
    pub from: Option<PathBuf>,
    /// The pass that gave [`CompileOptions::from`]; by default what the text's first lines say.
    pub from_pass: Option<String>,
    /// Ends after this pass, one of [`pass_names`], without an artifact.
    pub stop_after: Option<String>,
    /// Writes the text after each pass into this folder.
    pub dump: Option<PathBuf>,
    /// Writes a page that shows what was compiled.
    pub report: Option<PathBuf>,
}

impl CompileOptions {
    /// The defaults for a target.
    pub fn new(target: Target, activations: Activations) -> CompileOptions {
        CompileOptions {
            target,
            architectures: target.arch().into_iter().collect(),
            nvrtc: None,
            spec: target.spec(),
            activations,
            kv: None,
            fusion: Fusion::Full,
            max_model_len: None,
            vram: None,
            quant: QuantOptions::default(),
            trace_routing: false,
            embeddings: false,
            bake_prompts: Vec::new(),
            buckets: BUCKET_TOKENS.to_vec(),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            from: None,
            from_pass: None,
            stop_after: None,
            dump: None,
            report: None,
        }
    }

    /// How the KV cache stores numbers.
    pub fn kv_type(&self) -> KvType {
        self.kv.unwrap_or(KvType::default_for(self.activations))
    }

    /// Refuses options that contradict each other, before anything is read.
    ///
    /// # Errors
    /// The option at fault.
    pub fn check(&self) -> Result<(), CompileError> {
        self.quant.check()?;
        for (option, pass) in [("--stop-after", &self.stop_after), ("--from-pass", &self.from_pass)] {
            if let Some(pass) = pass {
                pass_named(pass).ok_or_else(|| unknown_pass(option, pass))?;
            }
        }
        let planned = |stop: &str| stop == PLAN || passes_after(PLAN).iter().any(|p| p.name == stop);
        if self.report.is_some() && self.stop_after.as_deref().is_some_and(|stop| !planned(stop)) {
            let message = format!("the page shows planned programs; stop after {PLAN} or later, or not at all");
            return Err(CompileError::Option { option: "--report", message });
        }
        Ok(())
    }

    /// Whether the compilation ends after this pass.
    pub(super) fn stops_after(&self, pass: &str) -> bool {
        self.stop_after.as_deref() == Some(pass)
    }
}

/// The error for a word that names no pass.
pub(super) fn unknown_pass(option: &'static str, pass: &str) -> CompileError {
    let names: Vec<_> = pass_names().collect();
    let message = format!("no pass is called {pass:?}; the passes are {}", names.join(", "));
    CompileError::Option { option, message }
}
