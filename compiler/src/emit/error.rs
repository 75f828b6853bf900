//! Why programs have no machine code.

use std::fmt;

use kernels::cuda::Constraint;
use kernels::params::ParamsError;
use toolchain::ToolError;
use toolchain::cache::CacheError;

/// Why programs have no machine code.
#[derive(Debug, thiserror::Error)]
pub enum EmitError {
    /// Launches that CUDA kernels do not take: all of them.
    #[error("{}", list(.0))]
    Refused(Vec<Refusal>),
    /// Kernels that do not compile: all of them.
    #[error("{}", list(.0))]
    Broken(Vec<BrokenKernel>),
    /// There is no compiler.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// The compiler is too old or too new for an architecture.
    #[error(
        "NVRTC {version} compiles for {known}, not for {architecture}; leave that out, or name another NVRTC with --nvrtc"
    )]
    Architecture {
        /// The architecture asked for.
        architecture: &'static str,
        /// The compiler's version.
        version: String,
        /// What it compiles for.
        known: String,
    },
    /// The assembler did not say what an entry takes.
    #[error("kernel {name} for {architecture}: the log of NVRTC {version} has no registers of any entry")]
    Log {
        /// The kernel.
        name: String,
        /// The architecture.
        architecture: &'static str,
        /// The compiler's version.
        version: String,
    },
    /// Two architectures gave different entries: a fault of the kernel.
    #[error("kernel {name}: {architecture} has the entries {found}, the first architecture {expected}")]
    Entries {
        /// The kernel.
        name: String,
        /// The architecture.
        architecture: &'static str,
        /// The entries of the first.
        expected: String,
        /// Its own.
        found: String,
    },
}

impl EmitError {
    /// Each fault in a line of its own, where there are several kinds.
    pub fn lines(&self) -> Vec<String> {
        match self {
            EmitError::Refused(all) => all.iter().map(Refusal::to_string).collect(),
            EmitError::Broken(all) => all.iter().map(BrokenKernel::to_string).collect(),
            other => vec![other.to_string()],
        }
    }
}

fn list<T: ToString>(all: &[T]) -> String {
    all.iter().map(T::to_string).collect::<Vec<_>>().join("; ")
}

/// The graph nodes that launches came from, in the order of the programs, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nodes(Vec<String>);

impl Nodes {
    /// Adds a node by its label.
    pub fn add(&mut self, label: &str) {
        if !self.0.iter().any(|known| known == label) {
            self.0.push(label.into());
        }
    }

    /// Adds all of another list.
    pub fn extend(&mut self, other: &Nodes) {
        other.0.iter().for_each(|label| self.add(label));
    }

    /// Their labels.
    pub fn labels(&self) -> &[String] {
        &self.0
    }
}

impl fmt::Display for Nodes {
    /// The first, and how many more.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [] => f.write_str("no node"),
            [one] => write!(f, "node {one:?}"),
            [first, more @ ..] => write!(f, "node {first:?} and {} more", more.len()),
        }
    }
}

/// A shape that a kernel does not take, or a kernel that there is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The nodes that ask for it.
    pub nodes: Nodes,
    /// Why it is refused.
    pub reason: Reason,
}

/// Why a launch is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The kernel does not take the shape.
    #[error(transparent)]
    Constraint(Constraint),
    /// The kernel exists for the cpu only.
    #[error(
        "kernel {kernel} {variant:?} has no CUDA implementation; compile with --target cpu, or with other --fuse, --quant or --activations"
    )]
    Missing {
        /// The kernel.
        kernel: String,
        /// Its variant.
        variant: String,
    },
    /// The launch is none of the catalog's.
    #[error(transparent)]
    Params(ParamsError),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.nodes, self.reason)
    }
}

/// A kernel that does not compile.
#[derive(Debug)]
pub struct BrokenKernel {
    /// The kernel's file name in the artifact.
    pub name: String,
    /// The architecture it was compiled for.
    pub architecture: &'static str,
    /// The nodes that need it.
    pub nodes: Nodes,
    /// What the compiler says, with file and line.
    pub failure: CacheError,
}

impl fmt::Display for BrokenKernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: kernel {} for {}: {}", self.nodes, self.name, self.architecture, self.failure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_kernel_is_named_with_its_nodes_and_the_way_out() {
        let mut nodes = Nodes::default();
        ["layers.0.gate", "layers.1.gate", "layers.0.gate"].iter().for_each(|label| nodes.add(label));
        let reason = Reason::Missing { kernel: "sigmoid_gate".into(), variant: String::new() };
        let error = EmitError::Refused(vec![Refusal { nodes, reason }]);
        let expected = "node \"layers.0.gate\" and 1 more: kernel sigmoid_gate \"\" has no CUDA implementation; compile with \
                        --target cpu, or with other --fuse, --quant or --activations";
        assert_eq!(error.to_string(), expected);
        assert_eq!(error.lines(), [expected]);
    }
}
