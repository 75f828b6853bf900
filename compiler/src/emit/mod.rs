//! Emission: the launches of planned programs become machine code for GPUs.
//!
//! Each launch is filled with the largest counts of its program and asked what its kernel is specialised by; every distinct
//! specialisation is compiled once for each architecture, by NVRTC, through a cache keyed by content. Sources are
//! constant and the options are in the specialisation, so equal programs give equal bytes with one version of NVRTC, whose
//! number stands in the manifest. PTX is kept for the oldest architecture, and for the oldest with the PTX dialect of 10.0
//! where one is asked for: later GPUs can translate it, and the simulator executes it.

mod assembler_log;
mod build;
mod collect;
mod error;
mod library;

use std::collections::{BTreeMap, BTreeSet};

use ir::program::Program;
use kernels::cuda::Specialisation;
use runtime::artifact::{CompiledKernel, EntryFigures, KERNEL_FOLDER, KernelCode};
use toolchain::ToolError;
use toolchain::nvrtc::{Compiled, Source};

pub use assembler_log::entry_figures;
use build::{Answer, Job, compile_all};
pub use collect::{Wanted, wanted};
pub use error::{BrokenKernel, EmitError, Nodes, Reason, Refusal};
pub use library::{BuiltIn, KernelCompiler, KernelLibrary};

use crate::progress::Progress;
use crate::target::Arch;

/// What kernels are compiled for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmitOptions {
    /// Architectures, the oldest first; none for programs of the cpu.
    pub architectures: Vec<Arch>,
    /// Compilations at once. What they give does not depend on it.
    pub threads: usize,
}

/// Machine code for the launches of an artifact's programs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kernels {
    /// The compiler and its version, if there are kernels.
    pub compiler: Option<String>,
    /// The kernels, ordered by name of kernel, variant and constants.
    pub kernels: Vec<EmittedKernel>,
    /// Their sources and the headers these include: name, text.
    pub sources: BTreeMap<String, String>,
    /// Compilations that were kept from before.
    pub kept: usize,
}

/// One specialisation in machine code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmittedKernel {
    /// What was compiled.
    pub specialisation: Specialisation,
    /// Name of its files.
    pub name: String,
    /// Its source file's name.
    pub source: String,
    /// The nodes it serves.
    pub nodes: Nodes,
    /// Machine code by architecture, the oldest first.
    pub code: Vec<(Arch, MachineCode)>,
    /// PTX by the architecture it was written for.
    pub ptx: Vec<(Arch, String)>,
}

/// Machine code for one architecture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineCode {
    /// The cubin, an ELF file.
    pub cubin: Vec<u8>,
    /// What each entry takes.
    pub entries: BTreeMap<String, EntryFigures>,
}

/// Compiles every kernel that the programs launch. `open` gives the compiler; it is not called where nothing needs one.
///
/// # Errors
/// Launches that no kernel takes, kernels that do not compile, no compiler or one that does not know an architecture.
pub fn emit<C: KernelCompiler>(
    programs: &[Program],
    options: &EmitOptions,
    library: &dyn KernelLibrary,
    open: impl FnOnce() -> Result<C, ToolError>,
    progress: &dyn Progress,
) -> Result<Kernels, EmitError> {
    if options.architectures.is_empty() {
        return Ok(Kernels::default());
    }
    let wanted = wanted(programs, library)?;
    if wanted.is_empty() {
        return Ok(Kernels::default());
    }
    let compiler = open()?;
    let version = version_of(&compiler);
    check_architectures(&compiler, options, &version)?;
    let jobs: Vec<Job> = wanted.iter().flat_map(|w| jobs_of(w, options, library.headers())).collect();
    progress.begin_count("compiling kernels", jobs.len() as u64);
    let answers = compile_all(&jobs, &compiler, options.threads, &|| progress.advance(1));
    progress.finish();
    let kept = answers.iter().filter(|a| matches!(a, Ok((_, true)))).count();
    let compiled = sort_out(&wanted, options, answers)?;
    let sources = sources_of(&wanted, library.headers());
    let kernels = wanted.into_iter().zip(compiled).map(|(w, compiled)| kernel_of(w, options, compiled, &version));
    let kernels = kernels.collect::<Result<_, _>>()?;
    Ok(Kernels { compiler: Some(format!("NVRTC {version}")), kernels, sources, kept })
}

fn version_of(compiler: &dyn KernelCompiler) -> String {
    let (major, minor) = compiler.version();
    format!("{major}.{minor}")
}

fn check_architectures(compiler: &dyn KernelCompiler, options: &EmitOptions, version: &str) -> Result<(), EmitError> {
    let known = compiler.architectures();
    let Some(unknown) = options.architectures.iter().find(|a| !known.contains(&a.number())) else { return Ok(()) };
    let known = known.iter().map(|number| format!("sm_{number}")).collect::<Vec<_>>().join(", ");
    Err(EmitError::Architecture { architecture: unknown.name(), version: version.into(), known })
}

/// The compilations of a specialisation, one an architecture.
fn jobs_of<'a>(wanted: &Wanted<'a>, options: &EmitOptions, headers: &'a [(&'a str, &'a str)]) -> Vec<Job<'a>> {
    let (name, text) = wanted.source;
    let job = |arch: &Arch| Job {
        source: Source { name, text, headers },
        architecture: arch.name(),
        options: wanted.specialisation.options(),
    };
    options.architectures.iter().map(job).collect()
}

/// What each specialisation became, in order.
///
/// # Errors
/// Everything that did not compile; one failure stands there once, with all nodes that need it.
fn sort_out(wanted: &[Wanted], options: &EmitOptions, answers: Vec<Answer>) -> Result<Vec<Vec<Compiled>>, EmitError> {
    let mut broken: Vec<BrokenKernel> = Vec::new();
    let mut answers = answers.into_iter();
    let mut compiled = Vec::new();
    for wanted in wanted {
        let mut of_kernel = Vec::new();
        for arch in &options.architectures {
            match answers.next() {
                Some(Ok((code, _))) => of_kernel.push(code),
                Some(Err(failure)) => {
                    let (name, nodes) = (wanted.name.clone(), wanted.nodes.clone());
                    add_failure(&mut broken, BrokenKernel { name, architecture: arch.name(), nodes, failure });
                }
                None => {}
            }
        }
        compiled.push(of_kernel);
    }
    if broken.is_empty() { Ok(compiled) } else { Err(EmitError::Broken(broken)) }
}

fn add_failure(broken: &mut Vec<BrokenKernel>, failure: BrokenKernel) {
    let text = failure.failure.to_string();
    match broken.iter_mut().find(|b| b.failure.to_string() == text) {
        Some(known) => known.nodes.extend(&failure.nodes),
        None => broken.push(failure),
    }
}

/// Sources and what they include: name, text.
fn sources_of(wanted: &[Wanted], headers: &[(&str, &str)]) -> BTreeMap<String, String> {
    let with_headers = |(name, text)| Source { name, text, headers }.included().into_iter().chain([(name, text)]);
    let all = wanted.iter().flat_map(|w| with_headers(w.source));
    all.map(|(name, text)| (name.to_string(), text.to_string())).collect()
}

fn kernel_of(
    wanted: Wanted,
    options: &EmitOptions,
    compiled: Vec<Compiled>,
    version: &str,
) -> Result<EmittedKernel, EmitError> {
    let Wanted { specialisation, source, name, nodes } = wanted;
    let kept = ptx_architectures(&options.architectures);
    let (mut code, mut ptx) = (Vec::<(Arch, MachineCode)>::new(), Vec::new());
    for (arch, compiled) in options.architectures.iter().zip(compiled) {
        let entries = entry_figures(&compiled.log);
        if entries.is_empty() {
            return Err(EmitError::Log { name, architecture: arch.name(), version: version.into() });
        }
        if let Some((_, first)) = code.first().filter(|(_, first)| !first.entries.keys().eq(entries.keys())) {
            let names =
                |entries: &BTreeMap<String, EntryFigures>| entries.keys().cloned().collect::<Vec<_>>().join(", ");
            let (expected, found) = (names(&first.entries), names(&entries));
            return Err(EmitError::Entries { name, architecture: arch.name(), expected, found });
        }
        if kept.contains(arch) {
            ptx.push((*arch, compiled.ptx));
        }
        code.push((*arch, MachineCode { cubin: compiled.cubin, entries }));
    }
    Ok(EmittedKernel { specialisation, name, source: source.0.into(), nodes, code, ptx })
}

/// The architectures whose PTX is kept: the oldest, and the oldest of those from 10.0 on, which have a dialect of their own.
pub fn ptx_architectures(architectures: &[Arch]) -> BTreeSet<Arch> {
    let oldest = architectures.iter().min();
    let oldest_new = architectures.iter().filter(|a| a.number() >= 100).min();
    oldest.into_iter().chain(oldest_new).copied().collect()
}

impl Kernels {
    /// The table of a manifest.
    pub fn table(&self) -> Vec<CompiledKernel> {
        self.kernels.iter().map(EmittedKernel::row).collect()
    }

    /// Every file, by its path in an artifact.
    pub fn files(&self) -> impl Iterator<Item = (String, &[u8])> {
        let sources = self.sources.iter().map(|(name, text)| (source_file(name), text.as_bytes()));
        self.kernels.iter().flat_map(EmittedKernel::files).chain(sources)
    }

    /// Bytes of machine code.
    pub fn code_bytes(&self) -> usize {
        self.kernels.iter().flat_map(|k| &k.code).map(|(_, code)| code.cubin.len()).sum()
    }
}

impl EmittedKernel {
    fn row(&self) -> CompiledKernel {
        let code = |(arch, code): &(Arch, MachineCode)| {
            (arch.name().to_string(), KernelCode { cubin: self.cubin_file(*arch), entries: code.entries.clone() })
        };
        let defines = &self.specialisation.defines;
        let entries = self.code.first().map(|(_, code)| code.entries.keys().cloned().collect());
        CompiledKernel {
            name: self.name.clone(),
            kernel: self.specialisation.kernel.into(),
            variant: self.specialisation.variant.clone(),
            defines: defines.iter().map(|d| (d.name.to_string(), d.value.clone())).collect(),
            source: source_file(&self.source),
            entries: entries.unwrap_or_default(),
            code: self.code.iter().map(code).collect(),
            ptx: self.ptx.iter().map(|(arch, _)| (arch.name().to_string(), self.ptx_file(*arch))).collect(),
        }
    }

    fn files(&self) -> impl Iterator<Item = (String, &[u8])> {
        let cubins = self.code.iter().map(|(arch, code)| (self.cubin_file(*arch), code.cubin.as_slice()));
        cubins.chain(self.ptx.iter().map(|(arch, text)| (self.ptx_file(*arch), text.as_bytes())))
    }

    fn cubin_file(&self, arch: Arch) -> String {
        format!("{KERNEL_FOLDER}{}.{arch}.cubin", self.name)
    }

    fn ptx_file(&self, arch: Arch) -> String {
        format!("{KERNEL_FOLDER}{}.{arch}.ptx", self.name)
    }
}

fn source_file(name: &str) -> String {
    format!("{KERNEL_FOLDER}src/{name}")
}
