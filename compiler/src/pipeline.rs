//! The compiler, top to bottom: a checkpoint in, an artifact out.

use std::path::{Path, PathBuf};

use ir::graph::Graph;
use ir::program::Program;
use ir::text::{print_graph, print_program};
use ir::verify::{Invalid, verify_graph, verify_program};
use models::{Checkpoint, ImportOptions, Model, ModelError};

use crate::lower::{self, LowerError, Registry};
use crate::package::{self, PackageError};
use crate::plan::{self, PlanError};
use crate::progress::Progress;
use crate::quantise::activations::quantise_activations;
use crate::schedule;
use crate::target::{Activations, Target};

/// Most tokens of each bucket a program is made for: single-token decoding, small batches, prefill chunks.
const BUCKET_TOKENS: &[u64] = &[1, 8, 64, 512];

/// Most rows whose logits one step computes: a row is as wide as the vocabulary.
const MAX_LOGIT_ROWS: u64 = 64;

/// Most sequences in a step.
const MAX_SEQUENCES: u64 = 64;

/// The passes, in order; `--stop-after` takes one of these names.
pub const PASSES: &[&str] = &["import", "quantise", "lower", "schedule", "plan"];

/// What to compile, for what, and where to.
#[derive(Clone, Debug)]
pub struct CompileOptions {
    /// What programs are compiled for.
    pub target: Target,
    /// How matmuls see their activations.
    pub activations: Activations,
    /// Longest sequence, in tokens; by default what the model was made for.
    pub max_model_len: Option<u64>,
    /// Writes the text after each pass into this folder.
    pub dump: Option<PathBuf>,
    /// Ends after this pass, one of [`PASSES`], without an artifact.
    pub stop_after: Option<String>,
}

/// Why a compilation failed.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The checkpoint cannot be read or is of no known kind.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A pass made a graph or program that cannot be: a bug of that pass.
    #[error("after {pass}: {source}")]
    Invalid {
        /// The pass.
        pass: &'static str,
        /// Everything that is wrong.
        source: Invalid,
    },
    /// A pass could not rebuild the graph.
    #[error(transparent)]
    Graph(#[from] ir::graph::GraphError),
    /// An op has no lowering.
    #[error(transparent)]
    Lower(#[from] LowerError),
    /// A program does not fit any memory.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The artifact could not be written.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// A dump could not be written.
    #[error("{}: cannot write the dump: {source}", .path.display())]
    Dump {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// An option is out of range.
    #[error("{option}: {message}")]
    Option {
        /// The option.
        option: &'static str,
        /// What it must be.
        message: String,
    },
}

/// Compiles a checkpoint into an artifact at `output`. `None` if it was told to stop before the artifact.
pub fn compile(
    checkpoint: &mut Checkpoint,
    output: &Path,
    options: &CompileOptions,
    registry: &Registry,
    progress: &dyn Progress,
) -> Result<Option<runtime::artifact::Manifest>, CompileError> {
    let staging = match &options.stop_after {
        None => Some(package::stage(output)?),
        Some(pass) if PASSES.contains(&pass.as_str()) => None,
        Some(pass) => {
            return Err(option(
                "--stop-after",
                format!("no pass is called {pass:?}; the passes are {}", PASSES.join(", ")),
            ));
        }
    };
    let Some((model, programs)) = compile_programs(checkpoint, options, registry)? else { return Ok(None) };
    let Some(staging) = staging else { return Ok(None) };
    Ok(Some(package::package(staging, &model, &programs, checkpoint, options, progress)?))
}

/// Every pass from the checkpoint to planned programs, one for each bucket. `None` if told to stop before the last.
pub fn compile_programs(
    checkpoint: &Checkpoint,
    options: &CompileOptions,
    registry: &Registry,
) -> Result<Option<(Model, Vec<Program>)>, CompileError> {
    let dump = Dump(options.dump.as_deref());
    let stop = |pass: &str| options.stop_after.as_deref() == Some(pass);

    // The checkpoint's metadata and tensor names become a graph of one step; no weight is read.
    let mut model = models::import(checkpoint, &import_options(checkpoint, options)?)?;
    dump.graph("import", &model.graph)?;
    if stop("import") {
        return Ok(None);
    }

    // Weights keep the format the checkpoint has; activations are rounded where the products are then faster.
    if options.activations == Activations::Int8 {
        model.graph = quantise_activations(&model.graph)?;
    }
    dump.graph("quantise", &model.graph)?;
    if stop("quantise") {
        return Ok(None);
    }

    let mut programs = Vec::new();
    for graph in buckets(&model.graph) {
        // Each op becomes launches of catalog kernels.
        let lowered = lower::lower(&graph, registry, options.target)?;
        dump.text("lower", &graph.name, &print_program(&lowered.program))?;
        if stop("lower") {
            continue;
        }

        // Launches are ordered so that little memory is live at once.
        let scheduled = schedule::schedule(lowered);
        dump.text("schedule", &graph.name, &print_program(&scheduled.program))?;
        if stop("schedule") {
            continue;
        }

        // Every intermediate result gets its place in one arena.
        let program = plan::plan(scheduled)?;
        dump.text("plan", &graph.name, &print_program(&program))?;
        verify_program(&program).map_err(|source| CompileError::Invalid { pass: "plan", source })?;
        programs.push(program);
    }
    Ok(if programs.is_empty() || stop("plan") { None } else { Some((model, programs)) })
}

fn option(option: &'static str, message: String) -> CompileError {
    CompileError::Option { option, message }
}

fn import_options(checkpoint: &Checkpoint, options: &CompileOptions) -> Result<ImportOptions, CompileError> {
    let longest = models::hyperparameters(checkpoint)?.max_context;
    let max_model_len = options.max_model_len.unwrap_or(longest);
    if max_model_len == 0 || max_model_len > longest {
        return Err(option(
            "--max-model-len",
            format!("expected 1 to {longest}, what the model was made for, found {max_model_len}"),
        ));
    }
    Ok(ImportOptions {
        max_tokens: *BUCKET_TOKENS.last().unwrap_or(&1),
        max_sequences: MAX_SEQUENCES,
        max_model_len,
        kv_dtype: options.activations.kv_dtype(),
    })
}

/// The graph once for each bucket, its symbols narrowed to the bucket's sizes.
fn buckets(graph: &Graph) -> impl Iterator<Item = Graph> + '_ {
    BUCKET_TOKENS.iter().map(|tokens| {
        let mut bucket = graph.clone();
        bucket.name = format!("tokens-{tokens}");
        for symbol in &mut bucket.symbols {
            match symbol.name.as_str() {
                "T" => symbol.max = *tokens,
                "R" => symbol.max = MAX_LOGIT_ROWS.min(*tokens),
                _ => {}
            }
        }
        bucket
    })
}

/// Verifies what a pass made and writes it down if asked to.
struct Dump<'a>(Option<&'a Path>);

impl Dump<'_> {
    fn graph(&self, pass: &'static str, graph: &Graph) -> Result<(), CompileError> {
        self.text(pass, "", &print_graph(graph))?;
        verify_graph(graph).map_err(|source| CompileError::Invalid { pass, source })
    }

    fn text(&self, pass: &str, bucket: &str, text: &str) -> Result<(), CompileError> {
        let Some(folder) = self.0 else { return Ok(()) };
        let number = PASSES.iter().position(|p| *p == pass).unwrap_or(0) + 1;
        let separator = if bucket.is_empty() { "" } else { "-" };
        let path = folder.join(format!("{number:02}-{pass}{separator}{bucket}.ir"));
        std::fs::create_dir_all(folder)
            .and_then(|()| std::fs::write(&path, text))
            .map_err(|source| CompileError::Dump { path, source })
    }
}
