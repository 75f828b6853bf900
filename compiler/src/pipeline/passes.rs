//! The list of passes. Each is a function from what the one before made to what it makes; to see what one does, dump the text
//! before and after it.

use std::cell::RefCell;

use ir::graph::Graph;
use toolchain::cache::CachedNvrtc;

use super::stage::Stage;
use super::{CompileError, CompileOptions};
use crate::emit::{self, BuiltIn, EmitOptions};
use crate::fuse::{self, FuseOptions};
use crate::lower::{self, Registry};
use crate::plan;
use crate::progress::Progress;
use crate::quantise::activations::quantise_activations;
use crate::quantise::assign::{self, Assignment};
use crate::schedule;

/// Most rows whose logits one step computes: a row is as wide as the vocabulary.
const MAX_LOGIT_ROWS: u64 = 64;

/// The pass that needs the checkpoint: its metadata and tensor names become a graph of one step; no weight is read.
pub const IMPORT: &str = "import";

/// The pass that completes programs: nothing after it changes them.
pub const PLAN: &str = "plan";

/// The pass that needs a compiler for GPUs.
pub const EMIT: &str = "emit";

/// What passes may ask for beside what the one before made.
pub struct Setting<'a> {
    /// What the compilation was told.
    pub options: &'a CompileOptions,
    /// The lowerings.
    pub registry: &'a Registry,
    /// The format of each weight, where a calibration has decided it; else names and options decide.
    pub assignment: Option<&'a Assignment>,
    /// What the user should know of the passes, one line each.
    pub notes: &'a RefCell<Vec<String>>,
    /// Where passes that take long show how far they are.
    pub progress: &'a dyn Progress,
}

impl<'a> Setting<'a> {
    /// What fusion is told.
    pub fn fuse_options(&self) -> FuseOptions<'a> {
        let options = self.options;
        FuseOptions { fusion: options.fusion, spec: &options.spec, target: options.target, registry: self.registry }
    }
}

/// One pass.
pub struct Pass {
    /// Its name in dumps and options.
    pub name: &'static str,
    /// Carries it out.
    pub run: fn(Stage, &Setting) -> Result<Stage, CompileError>,
}

/// The passes after [`IMPORT`], in order.
pub const PASSES: &[Pass] = &[
    // Each weight gets its format; activations are rounded as products take them.
    Pass { name: "quantise", run: quantise },
    // Each bucket gets a graph of its own, and ops that one launch can carry out become one.
    Pass { name: "fuse", run: fuse },
    // Each op becomes launches of catalog kernels.
    Pass { name: "lower", run: lower },
    // Launches are ordered so that little memory is live at once.
    Pass { name: "schedule", run: schedule },
    // Every intermediate result gets its place in one arena.
    Pass { name: PLAN, run: plan },
    // Every launch gets machine code, if it is for a GPU.
    Pass { name: EMIT, run: emit },
];

/// Names of all passes, in order.
pub fn pass_names() -> impl DoubleEndedIterator<Item = &'static str> {
    std::iter::once(IMPORT).chain(PASSES.iter().map(|p| p.name))
}

/// A pass's name from a user's word.
pub fn pass_named(word: &str) -> Option<&'static str> {
    pass_names().find(|name| *name == word)
}

/// The passes that follow the one named.
pub fn passes_after(name: &str) -> &'static [Pass] {
    PASSES.iter().position(|p| p.name == name).map_or(PASSES, |i| &PASSES[i + 1..])
}

fn quantise(stage: Stage, setting: &Setting) -> Result<Stage, CompileError> {
    let graph = stage.into_graph("quantise")?;
    let graph = match setting.assignment {
        Some(assignment) => assign::apply(&graph, assignment)?,
        None => assign::apply(&graph, &assign::assign(&graph, &setting.options.quant))?,
    };
    Ok(Stage::Graph(quantise_activations(&graph, setting.options.activations)?))
}

fn fuse(stage: Stage, setting: &Setting) -> Result<Stage, CompileError> {
    let graph = stage.into_graph("fuse")?;
    let options = setting.options;
    let buckets: Vec<Graph> = options.buckets.iter().map(|tokens| bucket(&graph, *tokens)).collect();
    let fused = fuse::fuse(&graph, &buckets, &setting.fuse_options())?;
    setting.notes.borrow_mut().extend(fused.report.limits());
    Ok(Stage::Buckets(fused.graphs))
}

fn lower(stage: Stage, setting: &Setting) -> Result<Stage, CompileError> {
    let graphs = stage.into_buckets("lower")?;
    let lowered: Result<_, _> =
        graphs.iter().map(|graph| lower::lower(graph, setting.registry, setting.options.target)).collect();
    Ok(Stage::Lowered(lowered?))
}

fn schedule(stage: Stage, _: &Setting) -> Result<Stage, CompileError> {
    let lowered = stage.into_lowered("schedule")?;
    Ok(Stage::Lowered(lowered.into_iter().map(schedule::schedule).collect()))
}

fn plan(stage: Stage, _: &Setting) -> Result<Stage, CompileError> {
    let lowered = stage.into_lowered("plan")?;
    let planned: Result<_, _> = lowered.into_iter().map(plan::plan).collect();
    Ok(Stage::Planned(planned?))
}

fn emit(stage: Stage, setting: &Setting) -> Result<Stage, CompileError> {
    let programs = stage.into_programs(EMIT)?;
    let options = setting.options;
    let emit_options = EmitOptions { architectures: options.architectures.clone(), threads: options.threads };
    let open = || CachedNvrtc::new(toolchain::locate::nvrtc(options.nvrtc.as_deref())?.0);
    let kernels = emit::emit(&programs, &emit_options, &BuiltIn, open, setting.progress)?;
    Ok(Stage::Emitted(programs, kernels))
}

/// The graph with its symbols narrowed to steps of at most so many tokens.
pub fn bucket(graph: &Graph, tokens: u64) -> Graph {
    let mut bucket = graph.clone();
    bucket.name = format!("tokens-{tokens}");
    for symbol in &mut bucket.symbols {
        match symbol.name.as_str() {
            "T" => symbol.max = tokens,
            "R" => symbol.max = MAX_LOGIT_ROWS.min(tokens),
            _ => {}
        }
    }
    bucket
}
