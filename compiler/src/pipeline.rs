//! The compiler, top to bottom: a checkpoint in, an artifact out.

use std::path::{Path, PathBuf};

use ir::graph::Graph;
use ir::program::Program;
use ir::text::{print_graph, print_program};
use ir::verify::{Invalid, verify_graph, verify_program};
use models::{Checkpoint, ImportOptions, Model, ModelError};

use crate::lower::{self, LowerError, Registry};
use crate::package::{self, Content, PackageError};
use crate::plan::{self, PlanError};
use crate::progress::Progress;
use crate::quantise::activations::quantise_activations;
use crate::quantise::assign;
use crate::quantise::calibrate::Calibration;
use crate::quantise::options::{Method, QuantOptions};
use crate::quantise::rows::{CalibratedRows, StreamedRows};
use crate::quantise::windows::Windows;
use crate::quantise::{QuantiseError, WeightRows};
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
    /// What formats weights are stored in.
    pub quant: QuantOptions,
    /// Adds what each router selected, and the weights it gave, to the results of a step.
    pub trace_routing: bool,
    /// Writes the text after each pass into this folder.
    pub dump: Option<PathBuf>,
    /// Ends after this pass, one of [`PASSES`], without an artifact.
    pub stop_after: Option<String>,
}

impl CompileOptions {
    /// The defaults for a target.
    pub fn new(target: Target, activations: Activations) -> CompileOptions {
        CompileOptions {
            target,
            activations,
            max_model_len: None,
            quant: QuantOptions::default(),
            trace_routing: false,
            dump: None,
            stop_after: None,
        }
    }

    fn stops_after(&self, pass: &str) -> bool {
        self.stop_after.as_deref() == Some(pass)
    }
}

/// Why a compilation failed.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The checkpoint cannot be read or is of no known kind.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A weight cannot be quantised as asked.
    #[error(transparent)]
    Quantise(#[from] QuantiseError),
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

/// What a compilation gave.
#[derive(Debug)]
pub struct Compiled {
    /// The artifact's manifest.
    pub manifest: runtime::artifact::Manifest,
    /// What the user should know of the quantisation, one line each.
    pub notes: Vec<String>,
}

/// Compiles a checkpoint into an artifact at `output`. `None` if it was told to stop before the artifact.
pub fn compile(
    checkpoint: &mut Checkpoint,
    output: &Path,
    options: &CompileOptions,
    registry: &Registry,
    progress: &dyn Progress,
) -> Result<Option<Compiled>, CompileError> {
    options.quant.check()?;
    if let Some(pass) = &options.stop_after {
        if !PASSES.contains(&pass.as_str()) {
            let message = format!("no pass is called {pass:?}; the passes are {}", PASSES.join(", "));
            return Err(option("--stop-after", message));
        }
        compile_programs(checkpoint, options, registry)?;
        return Ok(None);
    }
    let mut staging = package::stage(output)?;
    let model = import_model(checkpoint, options)?;
    let windows = calibration_text(checkpoint, &model, options)?;
    let card = package::describe(&mut staging, &model, checkpoint, options)?;
    checkpoint.release_vocabulary();

    let quantised = quantise(&model, checkpoint, windows.as_ref(), staging.folder(), options, progress)?;
    let Quantised { graph, mut rows, notes } = quantised;
    let (graph, programs) = make_programs(graph, options, registry)?;
    let content = Content { card, kv: model.hyper.kv, graph: &graph, programs: &programs, rows: &mut *rows };
    let manifest = package::package(staging, content, options, progress)?;
    Ok(Some(Compiled { manifest, notes }))
}

/// Every pass from the checkpoint to planned programs, one for each bucket; no weight is read. `None` if told to stop before
/// the last.
pub fn compile_programs(
    checkpoint: &Checkpoint,
    options: &CompileOptions,
    registry: &Registry,
) -> Result<Option<(Model, Vec<Program>)>, CompileError> {
    let mut model = import_model(checkpoint, options)?;
    if options.stops_after("import") {
        return Ok(None);
    }
    let graph = assign::apply(&model.graph, &assign::assign(&model.graph, &options.quant))?;
    let (graph, programs) = make_programs(graph, options, registry)?;
    model.graph = graph;
    Ok(if programs.is_empty() || options.stops_after("plan") { None } else { Some((model, programs)) })
}

/// The checkpoint's metadata and tensor names become a graph of one step; no weight is read.
fn import_model(checkpoint: &Checkpoint, options: &CompileOptions) -> Result<Model, CompileError> {
    let model = models::import(checkpoint, &import_options(checkpoint, options)?)?;
    Dump(options.dump.as_deref()).graph("import", &model.graph)?;
    Ok(model)
}

/// The tokens that activations are measured on, if the method measures any.
fn calibration_text(
    checkpoint: &Checkpoint,
    model: &Model,
    options: &CompileOptions,
) -> Result<Option<Windows>, CompileError> {
    let (quant, longest) = (&options.quant, model.hyper.max_context);
    let text = quant.calibration.as_ref().filter(|_| quant.method != Method::Rtn);
    Ok(text.map(|path| Windows::read(path, checkpoint, quant.calibration_tokens, longest)).transpose()?)
}

/// A graph whose weights have their formats, and the bytes of those weights.
struct Quantised<'a> {
    graph: Graph,
    rows: Box<dyn WeightRows + 'a>,
    notes: Vec<String>,
}

/// Each weight gets its format: as it is, rounded as it is read, or worked out layer by layer on a calibration text.
fn quantise<'a>(
    model: &'a Model,
    checkpoint: &'a Checkpoint,
    windows: Option<&Windows>,
    scratch: &Path,
    options: &CompileOptions,
    progress: &dyn Progress,
) -> Result<Quantised<'a>, CompileError> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let assignment = assign::assign(&model.graph, &options.quant);
    let streamed = StreamedRows::new(checkpoint, &model.weights, &assignment, threads)?;
    let Some(windows) = windows.filter(|_| assignment.changes_anything()) else {
        let graph = assign::apply(&model.graph, &assignment)?;
        return Ok(Quantised { graph, rows: Box::new(streamed), notes: assignment.notes() });
    };
    let mut rows = CalibratedRows::new(streamed, scratch)?;
    let calibration = Calibration { model, method: options.quant.method, windows, threads, progress };
    let report = calibration.run(&mut rows)?;
    let graph = assign::apply(&model.graph, rows.assignment())?;
    let notes = [rows.assignment().notes(), report.lines()].concat();
    Ok(Quantised { graph, rows: Box::new(rows), notes })
}

/// From a graph whose weights have their formats to planned programs, one for each bucket, as far as the options say.
fn make_programs(
    mut graph: Graph,
    options: &CompileOptions,
    registry: &Registry,
) -> Result<(Graph, Vec<Program>), CompileError> {
    let (dump, mut programs) = (Dump(options.dump.as_deref()), Vec::new());

    // Activations are rounded where the products are then faster.
    if options.activations == Activations::Int8 {
        graph = quantise_activations(&graph)?;
    }
    dump.graph("quantise", &graph)?;
    if options.stops_after("quantise") {
        return Ok((graph, programs));
    }

    for bucket in buckets(&graph) {
        // Each op becomes launches of catalog kernels.
        let lowered = lower::lower(&bucket, registry, options.target)?;
        dump.text("lower", &bucket.name, &print_program(&lowered.program))?;
        if options.stops_after("lower") {
            continue;
        }

        // Launches are ordered so that little memory is live at once.
        let scheduled = schedule::schedule(lowered);
        dump.text("schedule", &bucket.name, &print_program(&scheduled.program))?;
        if options.stops_after("schedule") {
            continue;
        }

        // Every intermediate result gets its place in one arena.
        let program = plan::plan(scheduled)?;
        dump.text("plan", &bucket.name, &print_program(&program))?;
        verify_program(&program).map_err(|source| CompileError::Invalid { pass: "plan", source })?;
        programs.push(program);
    }
    Ok((graph, programs))
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
        trace_routing: options.trace_routing,
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
