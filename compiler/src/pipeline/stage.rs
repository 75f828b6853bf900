//! What stands between two passes, and its text.

use ir::graph::Graph;
use ir::program::Program;
use ir::text::{print_graph, print_program};
use ir::verify::{Invalid, verify_graph, verify_program};

use super::CompileError;
use super::timing::Size;
use crate::emit::Kernels;
use crate::lower::Lowered;
use crate::report::kernel_table;

/// What a pass is given and what it makes.
#[derive(Debug)]
pub enum Stage {
    /// One graph for steps of every size: after import and quantise.
    Graph(Graph),
    /// A graph for each bucket: after fuse.
    Buckets(Vec<Graph>),
    /// A program for each bucket, its buffers without a place: after lower and schedule.
    Lowered(Vec<Lowered>),
    /// A program for each bucket, its memory plan complete: after plan.
    Planned(Vec<Program>),
    /// The programs and the machine code of their launches: after emit.
    Emitted(Vec<Program>, Kernels),
}

/// The text of a graph or program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketText {
    /// The bucket's name; empty for a graph that serves all.
    pub bucket: String,
    /// The text, from which [`super::Entry`] makes the same stage again.
    pub text: String,
}

impl Stage {
    /// The text of each bucket; of machine code the table of kernels. A first comment line names the pass; what the planner may put in one place, which a program does
    /// not say, follows in comments as well.
    pub fn texts(&self, pass: &str) -> Vec<BucketText> {
        let text =
            |bucket: &str, text: String| BucketText { bucket: bucket.into(), text: format!("; after: {pass}\n{text}") };
        match self {
            Stage::Graph(graph) => vec![text("", print_graph(graph))],
            Stage::Buckets(graphs) => graphs.iter().map(|g| text(&g.name, print_graph(g))).collect(),
            Stage::Lowered(lowered) => lowered.iter().map(|l| text(&l.program.name, print_lowered(l))).collect(),
            Stage::Planned(programs) => programs.iter().map(|p| text(&p.name, print_program(p))).collect(),
            Stage::Emitted(_, kernels) => vec![text("", kernel_table(&kernels.table()))],
        }
    }

    /// The one graph, for `pass`.
    ///
    /// # Errors
    /// It is something else.
    pub fn into_graph(self, pass: &'static str) -> Result<Graph, CompileError> {
        if let Stage::Graph(graph) = self { Ok(graph) } else { Err(self.unfit(pass, "one graph")) }
    }

    /// The graphs of the buckets, for `pass`.
    ///
    /// # Errors
    /// It is something else.
    pub fn into_buckets(self, pass: &'static str) -> Result<Vec<Graph>, CompileError> {
        if let Stage::Buckets(graphs) = self { Ok(graphs) } else { Err(self.unfit(pass, "a graph a bucket")) }
    }

    /// The programs without a memory plan, for `pass`.
    ///
    /// # Errors
    /// It is something else.
    pub fn into_lowered(self, pass: &'static str) -> Result<Vec<Lowered>, CompileError> {
        if let Stage::Lowered(lowered) = self { Ok(lowered) } else { Err(self.unfit(pass, "lowered programs")) }
    }

    /// The planned programs, for `pass`.
    ///
    /// # Errors
    /// It is something else.
    pub fn into_programs(self, pass: &'static str) -> Result<Vec<Program>, CompileError> {
        if let Stage::Planned(programs) = self { Ok(programs) } else { Err(self.unfit(pass, "planned programs")) }
    }

    /// The programs and their machine code, for `pass`.
    ///
    /// # Errors
    /// It is something else.
    pub fn into_emitted(self, pass: &'static str) -> Result<(Vec<Program>, Kernels), CompileError> {
        match self {
            Stage::Emitted(programs, kernels) => Ok((programs, kernels)),
            other => Err(other.unfit(pass, "programs with machine code")),
        }
    }

    /// The programs, once they are planned.
    pub fn planned(&self) -> Option<&[Program]> {
        match self {
            Stage::Planned(programs) | Stage::Emitted(programs, _) => Some(programs),
            _ => None,
        }
    }

    fn unfit(&self, pass: &'static str, expected: &'static str) -> CompileError {
        let found = match self {
            Stage::Graph(_) => "one graph",
            Stage::Buckets(_) => "a graph a bucket",
            Stage::Lowered(_) => "lowered programs",
            Stage::Planned(_) => "planned programs",
            Stage::Emitted(..) => "machine code",
        };
        CompileError::Order { pass, expected, found }
    }

    /// Nodes or launches of all buckets.
    pub fn size(&self) -> Size {
        match self {
            Stage::Graph(graph) => Size::Nodes(graph.nodes.len()),
            Stage::Buckets(graphs) => Size::Nodes(graphs.iter().map(|g| g.nodes.len()).sum()),
            Stage::Lowered(lowered) => Size::Launches(lowered.iter().map(|l| l.program.launches.len()).sum()),
            Stage::Planned(programs) => Size::Launches(programs.iter().map(|p| p.launches.len()).sum()),
            Stage::Emitted(_, kernels) => Size::Kernels(kernels.kernels.len()),
        }
    }

    /// Checks every graph and every planned program.
    ///
    /// # Errors
    /// All violations.
    pub fn verify(&self) -> Result<(), Invalid> {
        match self {
            Stage::Graph(graph) => verify_graph(graph),
            Stage::Buckets(graphs) => graphs.iter().try_for_each(verify_graph),
            // What is lowered has no plan yet; what is emitted was verified with its plan.
            Stage::Lowered(_) | Stage::Emitted(..) => Ok(()),
            Stage::Planned(programs) => programs.iter().try_for_each(verify_program),
        }
    }
}

/// `; in-place: LAUNCH %RESULT %OPERAND` lines, then the program.
fn print_lowered(lowered: &Lowered) -> String {
    let line = |p: &crate::lower::InPlace| format!("; in-place: {} %{} %{}\n", p.launch, p.result.0, p.operand.0);
    let comments: String = lowered.in_place.iter().map(line).collect();
    comments + &print_program(&lowered.program)
}
