//! The compiler, top to bottom: a checkpoint in, an artifact out. The passes between stand in [`passes`].

mod dump;
mod entry;
mod error;
mod options;
mod passes;
mod stage;
mod timing;

use std::cell::RefCell;
use std::path::Path;
use std::time::Instant;

use ir::graph::{Graph, NodeKind};
use ir::program::Program;
use models::{Checkpoint, ImportOptions, Model};
use runtime::artifact::ModelCard;

use crate::budget;
use crate::fuse;
use crate::lower::Registry;
use crate::package::{self, Content};
use crate::progress::{Progress, Silent};
use crate::quantise::WeightRows;
use crate::quantise::assign::{self, Assignment};
use crate::quantise::calibrate::Calibration;
use crate::quantise::options::Method;
use crate::quantise::rows::{CalibratedRows, StreamedRows};
use crate::quantise::windows::Windows;
use crate::report::{self, Subject};
pub use entry::{Entry, comments, parse_stage};
pub use error::CompileError;
pub use options::{BUCKET_TOKENS, CompileOptions};
pub use passes::{EMIT, IMPORT, PASSES, PLAN, Pass, Setting, bucket, pass_named, pass_names, passes_after};
pub use stage::{BucketText, Stage};
pub use timing::{PassTime, Size, Timings};

/// Most sequences in a step.
const MAX_SEQUENCES: u64 = 64;

/// What a compilation gave.
#[derive(Debug)]
pub enum Outcome {
    /// An artifact.
    Artifact(Box<Compiled>),
    /// What the pass it was told to end after gave.
    Stopped(Box<Stopped>),
}

impl Outcome {
    /// The artifact, if the compilation was not told to end before.
    pub fn artifact(self) -> Option<Compiled> {
        match self {
            Outcome::Artifact(compiled) => Some(*compiled),
            Outcome::Stopped(_) => None,
        }
    }

    /// How long each pass took.
    pub fn timings(&self) -> &Timings {
        match self {
            Outcome::Artifact(compiled) => &compiled.timings,
            Outcome::Stopped(stopped) => &stopped.timings,
        }
    }
}

/// A compilation that ended with an artifact.
#[derive(Debug)]
pub struct Compiled {
    /// The artifact's manifest.
    pub manifest: runtime::artifact::Manifest,
    /// What the user should know of the quantisation, one line each.
    pub notes: Vec<String>,
    /// How long each pass took.
    pub timings: Timings,
}

/// A compilation that ended after a pass.
#[derive(Debug)]
pub struct Stopped {
    /// The pass.
    pub pass: &'static str,
    /// What it gave.
    pub stage: Stage,
    /// How long each pass took.
    pub timings: Timings,
}

/// Compiles a checkpoint into an artifact at `output`, or as far as the options say.
///
/// # Errors
/// Whatever makes the checkpoint, the options or the text to begin with unfit. Nothing is left at `output`.
pub fn compile(
    checkpoint: &mut Checkpoint,
    output: &Path,
    options: &CompileOptions,
    registry: &Registry,
    progress: &dyn Progress,
) -> Result<Outcome, CompileError> {
    options.check()?;
    for prompt in &options.bake_prompts {
        // A name that was mistyped is said now, not when everything else is done.
        let fail = |source| CompileError::File { path: prompt.clone(), action: "read the prompt", source };
        std::fs::File::open(prompt).map_err(fail)?;
    }
    let mut run = Run::new(options, registry, progress);
    let entry = Entry::of(options)?;
    if options.stop_after.is_some() {
        let model = run.import(checkpoint)?;
        let (pass, stage) = run.begin(&model, entry).and_then(|(after, stage)| run.passes(after, stage))?;
        if let Some(programs) = stage.planned() {
            run.report(&package::model_card(&model, checkpoint, options)?, programs)?;
        }
        return Ok(Outcome::Stopped(Box::new(Stopped { pass, stage, timings: run.timings })));
    }

    // A model that cannot fit is refused before anything large is read.
    let kv_pages = budget::kv_pages(checkpoint, options, registry)?;
    let mut staging = package::stage(output)?;
    let model = run.import(checkpoint)?;
    let windows = calibration_text(checkpoint, &model, options)?;
    let card = package::describe(&mut staging, &model, checkpoint, options)?;
    checkpoint.release_vocabulary();

    let start = Instant::now();
    let Formats { assignment, mut rows, notes } =
        choose_formats(&model, checkpoint, windows.as_ref(), staging.folder(), options, progress)?;
    if windows.is_some() {
        run.timings.note("calibrate", start, Size::None, Size::None);
    }
    run.assignment = Some(assignment);
    let (after, stage) = run.begin(&model, entry)?;
    let (programs, kernels) = run.passes(after, stage)?.1.into_emitted("package")?;

    let start = Instant::now();
    let base = run.packaged();
    let kv = model.hyper.kv;
    let (kernels, programs) = (&kernels, &programs[..]);
    let content = Content { card: card.clone(), kv, kv_pages, graph: &base, programs, kernels, rows: &mut *rows };
    let manifest = package::package(staging, content, options, progress)?;
    run.timings.note("package", start, Size::Launches(programs.iter().map(|p| p.launches.len()).sum()), Size::None);
    run.report(&card, programs)?;
    let notes = [notes, run.notes.into_inner()].concat();
    Ok(Outcome::Artifact(Box::new(Compiled { manifest, notes, timings: run.timings })))
}

/// Every pass from the checkpoint to planned programs, one for each bucket; no weight is read and no kernel compiled. The model's
/// graph is then the one whose weights have their formats. `None` if told to stop before programs are planned.
///
/// # Errors
/// As [`compile`].
pub fn compile_programs(
    checkpoint: &Checkpoint,
    options: &CompileOptions,
    registry: &Registry,
) -> Result<Option<(Model, Vec<Program>)>, CompileError> {
    let stop_after = options.stop_after.clone().filter(|pass| pass != EMIT).unwrap_or_else(|| PLAN.into());
    let options = &CompileOptions { stop_after: Some(stop_after), ..options.clone() };
    options.check()?;
    let mut run = Run::new(options, registry, &Silent);
    let mut model = run.import(checkpoint)?;
    let (after, stage) = run.begin(&model, Entry::of(options)?)?;
    let (_, stage) = run.passes(after, stage)?;
    model.graph = run.base;
    Ok(if let Stage::Planned(programs) = stage { Some((model, programs)) } else { None })
}

/// Begins with the text that the options name, and ends after the pass they name; needs no checkpoint.
///
/// # Errors
/// A text that cannot be, options that ask for what only a checkpoint gives.
pub fn compile_text(options: &CompileOptions, registry: &Registry) -> Result<Stopped, CompileError> {
    options.check()?;
    let needs_model = |option, what: &str| CompileError::Option { option, message: format!("without MODEL {what}") };
    if options.stop_after.is_none() {
        return Err(needs_model("--stop-after", "there are no weights to package; name the last pass to run"));
    }
    if options.report.is_some() {
        return Err(needs_model("--report", "there is nothing to say of the model; name it as well"));
    }
    let entry = Entry::of(options)?.ok_or_else(|| needs_model("--from", "name a text to begin with"))?;
    let mut run = Run::new(options, registry, &Silent);
    let (pass, stage) = run.passes(entry.after, entry.stage)?;
    Ok(Stopped { pass, stage, timings: run.timings })
}

/// The chain of rules by which fusion made a node of the first bucket's graph, named by label or as `%N`; of the checkpoint, or of the
/// text that the options begin with.
///
/// # Errors
/// As [`compile`], and if there is no such node.
pub fn explain(
    checkpoint: Option<&Checkpoint>,
    options: &CompileOptions,
    registry: &Registry,
    node: &str,
) -> Result<String, CompileError> {
    let options = CompileOptions { stop_after: Some("quantise".into()), dump: None, report: None, ..options.clone() };
    options.check()?;
    let mut run = Run::new(&options, registry, &Silent);
    let graph = match checkpoint {
        Some(checkpoint) => {
            let model = run.import(checkpoint)?;
            let (after, stage) = run.begin(&model, Entry::of(&options)?)?;
            run.passes(after, stage)?.1
        }
        None => compile_text(&options, registry)?.stage,
    };
    let graph = graph.into_graph("fuse")?;
    let buckets: Vec<Graph> = options.buckets.iter().map(|tokens| bucket(&graph, *tokens)).collect();
    Ok(fuse::explain::explain(&graph, &buckets, &run.setting().fuse_options(), 0, node)?)
}

/// One way through the pass list.
struct Run<'a> {
    options: &'a CompileOptions,
    registry: &'a Registry,
    /// The formats that a calibration has decided on.
    assignment: Option<Assignment>,
    /// The graph whose weights have their formats: what is packaged, and the report's graph before fusion.
    base: Graph,
    /// The graph of each bucket, as lowered.
    fused: Vec<Graph>,
    timings: Timings,
    /// What the user should know of the passes.
    notes: RefCell<Vec<String>>,
    progress: &'a dyn Progress,
}

impl<'a> Run<'a> {
    fn new(options: &'a CompileOptions, registry: &'a Registry, progress: &'a dyn Progress) -> Run<'a> {
        let (base, fused) = (Graph::default(), Vec::new());
        let (timings, notes) = (Timings::default(), RefCell::default());
        Run { options, registry, assignment: None, base, fused, timings, notes, progress }
    }

    /// The pass before those of the list.
    fn import(&mut self, checkpoint: &Checkpoint) -> Result<Model, CompileError> {
        let start = Instant::now();
        let model = models::import(checkpoint, &import_options(checkpoint, self.options)?)?;
        self.finish(IMPORT, start, Size::None, &Stage::Graph(model.graph.clone()))?;
        Ok(model)
    }

    /// What the list begins with, and the pass that gave it: the model's graph, or a text that fits the model.
    fn begin(&mut self, model: &Model, entry: Option<Entry>) -> Result<(&'static str, Stage), CompileError> {
        let imported = Stage::Graph(model.graph.clone());
        let Some(entry) = entry else { return Ok((IMPORT, imported)) };
        if entry.after == IMPORT {
            entry.check_weights(&model.graph)?;
        } else {
            let quantise =
                passes_after(IMPORT).first().ok_or_else(|| options::unknown_pass("--from-pass", entry.after))?;
            let base = (quantise.run)(imported, &self.setting())?.into_graph(quantise.name)?;
            entry.check_weights(&base)?;
            self.base = base;
            self.keep(entry.after, &entry.stage);
        }
        Ok((entry.after, entry.stage))
    }

    /// The passes after `after`, to the last or the one to stop after. Gives that and its result.
    fn passes(&mut self, after: &'static str, stage: Stage) -> Result<(&'static str, Stage), CompileError> {
        let (mut last, mut stage) = (after, stage);
        if self.options.stops_after(after) {
            return Ok((last, stage));
        }
        if let Some(stop) =
            self.options.stop_after.as_deref().filter(|s| !passes_after(after).iter().any(|p| p.name == *s))
        {
            let message = format!("{stop} comes before {after}, where the text is from");
            return Err(CompileError::Option { option: "--stop-after", message });
        }
        for pass in passes_after(after) {
            let (start, before) = (Instant::now(), stage.size());
            stage = (pass.run)(stage, &self.setting())?;
            self.finish(pass.name, start, before, &stage)?;
            last = pass.name;
            if self.options.stops_after(pass.name) {
                break;
            }
        }
        Ok((last, stage))
    }

    fn setting(&self) -> Setting<'_> {
        Setting {
            options: self.options,
            registry: self.registry,
            assignment: self.assignment.as_ref(),
            notes: &self.notes,
            progress: self.progress,
        }
    }

    /// Times, writes down and verifies what a pass has made.
    fn finish(&mut self, pass: &'static str, start: Instant, before: Size, stage: &Stage) -> Result<(), CompileError> {
        self.timings.note(pass, start, before, stage.size());
        if let Some(folder) = &self.options.dump {
            dump::write(folder, pass, stage)?;
        }
        self.keep(pass, stage);
        stage.verify().map_err(|source| CompileError::Invalid { pass, source })
    }

    /// Keeps the graphs that packaging and the report ask for.
    fn keep(&mut self, pass: &str, stage: &Stage) {
        match stage {
            Stage::Graph(graph) if pass != IMPORT => self.base = graph.clone(),
            Stage::Buckets(graphs) => self.fused = graphs.clone(),
            _ => {}
        }
    }

    /// The graph that says what is packaged: the base, and the constants that fusion worked out.
    fn packaged(&self) -> Graph {
        let mut graph = self.base.clone();
        for node in self.fused.iter().flat_map(|f| &f.nodes) {
            let is_constant = matches!(node.kind, NodeKind::Constant(_));
            if is_constant && !graph.nodes.iter().any(|n| n.kind == node.kind && n.name == node.name) {
                graph.nodes.push(node.clone());
            }
        }
        graph
    }

    /// Writes the page that shows what was compiled, if asked to.
    fn report(&self, card: &ModelCard, programs: &[Program]) -> Result<(), CompileError> {
        let Some(path) = &self.options.report else { return Ok(()) };
        let (graph, fused, options) = (&self.base, &self.fused, self.options);
        let page = report::page(&Subject { card, graph, fused, programs, options });
        let failed = |source| CompileError::File { path: path.clone(), action: "write the report", source };
        std::fs::write(path, page).map_err(failed)
    }
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

/// The format of each weight, and the bytes of the weights in these formats.
struct Formats<'a> {
    assignment: Assignment,
    rows: Box<dyn WeightRows + 'a>,
    notes: Vec<String>,
}

/// Each weight gets its format: as it is, rounded as it is read, or worked out layer by layer on a calibration text.
fn choose_formats<'a>(
    model: &'a Model,
    checkpoint: &'a Checkpoint,
    windows: Option<&Windows>,
    scratch: &Path,
    options: &CompileOptions,
    progress: &dyn Progress,
) -> Result<Formats<'a>, CompileError> {
    let assignment = assign::assign(&model.graph, &options.quant);
    let streamed = StreamedRows::new(checkpoint, &model.weights, &assignment, options.threads)?;
    let Some(windows) = windows.filter(|_| assignment.changes_anything()) else {
        return Ok(Formats { notes: assignment.notes(), assignment, rows: Box::new(streamed) });
    };
    let mut rows = CalibratedRows::new(streamed, scratch)?;
    let (method, threads) = (options.quant.method, options.threads);
    let report = Calibration { model, method, windows, threads, progress }.run(&mut rows)?;
    let assignment = rows.assignment().clone();
    let notes = [assignment.notes(), report.lines()].concat();
    Ok(Formats { assignment, rows: Box::new(rows), notes })
}

fn import_options(checkpoint: &Checkpoint, options: &CompileOptions) -> Result<ImportOptions, CompileError> {
    let longest = models::hyperparameters(checkpoint)?.max_context;
    let max_model_len = options.max_model_len.unwrap_or(longest);
    if max_model_len == 0 || max_model_len > longest {
        let message = format!("expected 1 to {longest}, what the model was made for, found {max_model_len}");
        return Err(CompileError::Option { option: "--max-model-len", message });
    }
    Ok(ImportOptions {
        max_tokens: options.buckets.iter().copied().max().unwrap_or(1),
        max_sequences: MAX_SEQUENCES,
        max_model_len,
        kv_dtype: options.kv_type().dtype(),
        trace_routing: options.trace_routing,
        embeddings: options.embeddings,
    })
}
