//! Beginning with a text: a dump, or a graph or program that a person wrote, taken as what a pass gave.
//!
//! The text says which pass that was in its first lines, which are comments. It is believed no more than any other file: all of it is
//! verified, and launches are held against the catalog, before a pass sees it.

use std::path::{Path, PathBuf};

use ir::graph::{Graph, Node, NodeKind};
use ir::program::{ALIGNMENT, Binding, BufferId, Program};
use ir::text::{Diagnostic, Diagnostics, read_graph, read_program};
use ir::types::TensorType;
use ir::verify::{Invalid, Place, Violation, verify_program};

use super::options::unknown_pass;
use super::passes::{EMIT, PLAN, pass_named, pass_names};
use super::stage::Stage;
use super::{CompileError, CompileOptions};
use crate::lower::{InPlace, Lowered};

/// Where a compilation begins.
#[derive(Debug)]
pub struct Entry {
    /// The file, for messages.
    pub path: PathBuf,
    /// The pass that gave the stage.
    pub after: &'static str,
    /// What it gave.
    pub stage: Stage,
}

impl Entry {
    /// The text that the options name, if they do.
    ///
    /// # Errors
    /// As [`Entry::read`].
    pub fn of(options: &CompileOptions) -> Result<Option<Entry>, CompileError> {
        options.from.as_deref().map(|path| Entry::read(path, options.from_pass.as_deref())).transpose()
    }

    /// Reads a text as what the pass `after` gave, by default the one it names in its first lines.
    ///
    /// # Errors
    /// A file that cannot be read, names no pass, or has no graph or program that can be: then everything that is wrong.
    pub fn read(path: &Path, after: Option<&str>) -> Result<Entry, CompileError> {
        let text = std::fs::read_to_string(path).map_err(|source| CompileError::File {
            path: path.into(),
            action: "read the text to begin with",
            source,
        })?;
        let named = comments(&text).find(|(key, _)| *key == "after").map(|(_, value)| value);
        let word = after.or(named).ok_or_else(|| no_pass(path))?;
        let after = pass_named(word).ok_or_else(|| unknown_pass("--from-pass", word))?;
        if after == EMIT {
            let message = format!("{EMIT} makes machine code, which has no text; begin with a dump of {PLAN}");
            return Err(CompileError::Option { option: "--from-pass", message });
        }
        let at = |diagnostics| CompileError::Text { path: path.into(), diagnostics };
        Ok(Entry { path: path.into(), after, stage: parse_stage(&text, after).map_err(at)? })
    }

    /// Refuses a text whose weights are not those of `base`, the graph of the model they are to come from.
    ///
    /// # Errors
    /// The first weight that `base` lacks or has in another type.
    pub fn check_weights(&self, base: &Graph) -> Result<(), CompileError> {
        let weights: Vec<(String, TensorType)> = match &self.stage {
            Stage::Graph(graph) => graph_weights(graph),
            Stage::Buckets(graphs) => graphs.iter().flat_map(graph_weights).collect(),
            Stage::Lowered(lowered) => lowered.iter().flat_map(|l| program_weights(&l.program)).collect(),
            Stage::Planned(programs) | Stage::Emitted(programs, _) => {
                programs.iter().flat_map(program_weights).collect()
            }
        };
        let known: std::collections::HashMap<&str, &TensorType> =
            weight_nodes(base).map(|n| (&*n.name, &n.ty)).collect();
        for (name, ty) in &weights {
            let message = match known.get(name.as_str()) {
                Some(known) if *known == ty => continue,
                Some(known) => format!(
                    "weight {name:?} is {} here and {} in the model; compile with the options that the text was made with",
                    ty.dtype, known.dtype
                ),
                None => format!(
                    "the model has no weight {name:?}; if fusion has worked it out, begin with a dump of fuse or of a pass before"
                ),
            };
            return Err(CompileError::OtherModel { path: self.path.clone(), message });
        }
        Ok(())
    }
}

fn no_pass(path: &Path) -> CompileError {
    let names: Vec<_> = pass_names().collect();
    let message = format!(
        "{} does not name the pass it comes from in a first line `; after: PASS`; say it, one of {}",
        path.display(),
        names.join(", ")
    );
    CompileError::Option { option: "--from-pass", message }
}

/// `; KEY: VALUE` of the comment lines that a text begins with.
pub fn comments(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let lines = text.lines().map_while(|line| line.strip_prefix(';'));
    lines.filter_map(|line| line.split_once(':')).map(|(key, value)| (key.trim(), value.trim()))
}

/// A text as what the pass `after` gives.
///
/// # Errors
/// Everything that is wrong with it.
pub fn parse_stage(text: &str, after: &str) -> Result<Stage, Diagnostics> {
    Ok(match after {
        "import" | "quantise" => Stage::Graph(read_graph(text)?),
        "fuse" => Stage::Buckets(vec![read_graph(text)?]),
        PLAN => Stage::Planned(vec![read_program(text, |p| join(verify_program(p), check_catalog(p)))?]),
        _ => Stage::Lowered(vec![parse_lowered(text)?]),
    })
}

/// What a graph needs from the checkpoint; constants it has itself.
fn graph_weights(graph: &Graph) -> Vec<(String, TensorType)> {
    weight_nodes(graph).filter(|n| n.kind == NodeKind::Weight).map(|n| (n.name.clone(), n.ty.clone())).collect()
}

fn weight_nodes(graph: &Graph) -> impl Iterator<Item = &Node> {
    graph.nodes.iter().filter(|n| matches!(n.kind, NodeKind::Weight | NodeKind::Constant(_)))
}

fn program_weights(program: &Program) -> Vec<(String, TensorType)> {
    let entry = |b: &Binding| (b.name.clone(), b.ty.clone());
    program.weights.iter().map(entry).collect()
}

/// A program without a memory plan, and what its comments say of in-place results.
fn parse_lowered(text: &str) -> Result<Lowered, Diagnostics> {
    let program = read_program(text, |p| join(verify_program(&spread(p)), check_catalog(p)))?;
    let (mut in_place, mut wrong) = (Vec::new(), Vec::new());
    for (line, comment) in text.lines().enumerate() {
        let Some(words) = comment.strip_prefix("; in-place:") else { continue };
        match parse_in_place(words, &program) {
            Some(candidate) => in_place.push(candidate),
            None => wrong.push(Diagnostic {
                line: line + 1,
                column: None,
                place: "in-place".into(),
                message: "expected a launch and the buffers of its result and operand, `LAUNCH %RESULT %OPERAND`, all of this program".into(),
            }),
        }
    }
    if wrong.is_empty() { Ok(Lowered { program, in_place }) } else { Err(Diagnostics(wrong)) }
}

fn parse_in_place(words: &str, program: &Program) -> Option<InPlace> {
    let words: Vec<&str> = words.split_whitespace().collect();
    let [launch, result, operand] = words.as_slice() else { return None };
    let buffer = |word: &str| -> Option<BufferId> {
        let id: u32 = word.strip_prefix('%')?.parse().ok()?;
        ((id as usize) < program.buffers.len()).then_some(BufferId(id))
    };
    let launch = launch.parse().ok().filter(|at| *at < program.launches.len())?;
    Some(InPlace { launch, result: buffer(result)?, operand: buffer(operand)? })
}

/// The program with every buffer in a place of its own, so that it can be verified before it is planned.
fn spread(program: &Program) -> Program {
    let mut spread = program.clone();
    let bounds = spread.upper_bounds();
    let mut end = 0u64;
    for buffer in &mut spread.buffers {
        buffer.offset = end;
        let bytes = buffer.ty.bytes(&bounds).unwrap_or(0);
        end = end.saturating_add(bytes).checked_next_multiple_of(ALIGNMENT).unwrap_or(u64::MAX - ALIGNMENT + 1);
    }
    spread.arena_bytes = end;
    spread
}

/// Refuses launches that the catalog does not know: no pass after the lowering looks at kernels again.
fn check_catalog(program: &Program) -> Result<(), Invalid> {
    let mut found = Vec::new();
    for (index, launch) in program.launches.iter().enumerate() {
        let message = match kernels::catalog::lookup(&launch.kernel) {
            None => format!("the catalog has no kernel {}", launch.kernel),
            Some(info) if !info.has_variant(&launch.variant) => {
                format!("kernel {} has no variant {:?}", launch.kernel, launch.variant)
            }
            Some(info) if !info.fields.iter().map(|f| f.name).eq(launch.args.iter().map(|(name, _)| name.as_str())) => {
                let fields: Vec<_> = info.fields.iter().map(|f| f.name).collect();
                format!("kernel {} takes ({})", launch.kernel, fields.join(", "))
            }
            Some(_) => continue,
        };
        let description = format!("{} {}", launch.kernel, launch.label);
        found.push(Violation { place: Place::Launch { index, description }, message });
    }
    if found.is_empty() { Ok(()) } else { Err(Invalid(found)) }
}

/// What both have found.
fn join(a: Result<(), Invalid>, b: Result<(), Invalid>) -> Result<(), Invalid> {
    match (a, b) {
        (Err(a), Err(b)) => Err(Invalid([a.0, b.0].concat())),
        (a, b) => a.and(b),
    }
}
