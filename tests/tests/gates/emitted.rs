//! The kernels whose machine code is judged: those that programs of the presets launch, in every weight format.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use compiler::cost::layer_of;
use compiler::emit::{BuiltIn, KernelLibrary, entry_figures};
use compiler::lower::Registry;
use compiler::pipeline::{CompileOptions, compile_programs};
use compiler::quantise::options::QuantOptions;
use compiler::target::{Activations, Arch, Target};
use ir::program::Program;
use ir::quant::{FORMATS, fragments};
use ir::types::DType;
use kernels::abi::{CombineDownParams, GateUpParams, GroupedMatmulParams, MatmulParams, ProjectParams, QkvParams};
use kernels::cuda::{self, CudaLaunch, Specialisation};
use kernels::params::fill_largest;
use models::synth::preset;
use runtime::artifact::EntryFigures;
use toolchain::cache::CachedNvrtc;
use toolchain::nvrtc::{Compiled, Nvrtc, Source};
use toolchain::wheel::{NVDISASM, NVRTC};

use super::sass::{self, Loop, WeightLoads};

/// Architectures whose code is judged: the oldest, and one with dependent launches.
pub const ARCHITECTURES: [Arch; 2] = [Arch::Sm80, Arch::Sm90];

/// What is judged, in words.
pub const PROGRAMS_TEXT: &str = "two layers of aix-4b (q4g128, f16; f16 and f32 activations), llama-3.1-8b, gemma-2-2b and gpt-oss-20b (q4g128), \
                                 and `project` of 2048 × 2048 in every other weight format";

/// Presets with the formats and activations they are compiled in.
const PROGRAMS: &[(&str, &[&str], Activations)] = &[
    ("aix-4b", &["q4g128", "f16"], Activations::F16),
    ("aix-4b", &["q4g128"], Activations::F32),
    ("llama-3.1-8b", &["q4g128"], Activations::F16),
    ("gemma-2-2b", &["q4g128"], Activations::F16),
    ("gpt-oss-20b", &["q4g128"], Activations::F16),
];

/// Activations that programs for GPUs give to products.
const FORMS: [&str; 2] = ["f32", "f32.half"];

/// One entry for one architecture.
pub struct KernelRow {
    /// Kernel, variant and constants.
    pub name: String,
    /// The function.
    pub entry: String,
    /// What it is compiled for.
    pub arch: Arch,
    /// What ptxas says.
    pub figures: EntryFigures,
    /// The launch of it with the least shared memory: one token, where it is for a few.
    pub launch: CudaLaunch,
    /// Instructions.
    pub instructions: usize,
    /// Loads of weights.
    pub loads: WeightLoads,
    /// Its loop on the tensor cores.
    pub tensor_loop: Option<Loop>,
}

/// What ptxas says of the registers of one entry for each architecture.
pub struct SpillRow {
    /// Kernel, variant and constants.
    pub name: String,
    /// The function.
    pub entry: String,
    /// For [`Arch::ALL`], in that order.
    pub figures: Vec<EntryFigures>,
}

/// Entries that are launched for one layer of a preset.
pub struct LayerLaunches {
    /// The preset.
    pub preset: &'static str,
    /// For one token.
    pub decode: Vec<&'static str>,
    /// For a prompt of 512.
    pub prompt: Vec<&'static str>,
}

/// Launches that the driver is given for a layer, where a launch of the program may take two.
pub fn layer_launches() -> Vec<LayerLaunches> {
    let entries = |program: &Program| -> Vec<&'static str> {
        let layer = program.launches.iter().filter(|launch| layer_of(&launch.label) == Some(1));
        layer.flat_map(|launch| cuda_launches(program, launch).1).map(|launch| launch.entry).collect()
    };
    let presets =
        ["aix-4b", "mixtral-8x7b", "qwen3-30b-a3b", "gpt-oss-20b", "llama-3.1-8b", "phi-3-mini", "gemma-2-2b"];
    let row = |preset| {
        let programs = programs_of(preset, "q4g128", Activations::F16, 3);
        let of = |name: &str| programs.iter().find(|p| p.name == name).map(entries).expect("a bucket");
        LayerLaunches { preset, decode: of("tokens-1"), prompt: of("tokens-512") }
    };
    presets.into_iter().map(row).collect()
}

fn programs() -> Vec<Program> {
    let programs = PROGRAMS.iter().flat_map(|(name, formats, activations)| {
        formats.iter().flat_map(|format| programs_of(name, format, *activations, 2))
    });
    programs.collect()
}

/// The programs of the first layers of a preset.
fn programs_of(name: &str, format: &str, activations: Activations, layers: u64) -> Vec<Program> {
    let checkpoint = preset(name).expect("a preset").describe(Some(layers)).expect("a description");
    let options = CompileOptions {
        quant: QuantOptions { format: format.parse().expect("a format"), ..QuantOptions::default() },
        max_model_len: Some(4096),
        ..CompileOptions::new(Target::Cuda(Arch::Sm90), activations)
    };
    let compiled = compile_programs(&checkpoint, &options, &Registry::default()).expect("it compiles");
    compiled.expect("programs").1
}

/// What a launch of a program is compiled with and carried out by.
fn cuda_launches(program: &Program, launch: &ir::program::Launch) -> (Specialisation, Vec<CudaLaunch>) {
    let params = fill_largest(program, launch).expect("parameters");
    let specialisation = BuiltIn.specialise(launch, &params);
    let specialisation = specialisation.unwrap_or_else(|| panic!("{} has no CUDA kernel", launch.kernel));
    let specialisation = specialisation.unwrap_or_else(|e| panic!("{e}"));
    let kernel = cuda::lookup(&launch.kernel).expect("a CUDA kernel");
    // SAFETY: `params` was filled as the struct of this launch's kernel.
    (specialisation, unsafe { kernel.launches(&launch.variant, params.as_ptr()) })
}

/// A kernel to compile, and of each entry the launch with the least shared memory.
type Launched = (Specialisation, BTreeMap<&'static str, CudaLaunch>);

/// Every entry that the programs launch, in order of names.
pub fn rows() -> Vec<KernelRow> {
    let mut kernels: BTreeMap<Specialisation, BTreeMap<&'static str, CudaLaunch>> = BTreeMap::new();
    for (specialisation, launch) in launches(&programs()).into_iter().chain(formats()) {
        let entries = kernels.entry(specialisation).or_default();
        let smallest = entries.entry(launch.entry).or_insert_with(|| launch.clone());
        if launch.shared_bytes < smallest.shared_bytes {
            *smallest = launch;
        }
    }
    let (nvrtc, nvdisasm) = (nvrtc(), NVDISASM.fetch().unwrap_or_else(|e| panic!("{e}")));
    let work: Vec<(Launched, Arch)> =
        kernels.into_iter().flat_map(|kernel| ARCHITECTURES.map(|arch| (kernel.clone(), arch))).collect();
    let mut rows = in_parallel(&work, |(kernel, arch)| judge(kernel, *arch, &nvrtc, &nvdisasm));
    rows.sort_by(|a, b| (&a.name, &a.entry, a.arch).cmp(&(&b.name, &b.entry, b.arch)));
    rows
}

/// Products of experts in the format for speed and in those that take most registers, whose K is cut into units of 256 columns: every entry.
pub fn spill_rows() -> Vec<SpillRow> {
    let judged = |f: &DType| *f == DType::Q4G128 || fragments::scale_unit_columns(*f) == Some(256);
    let formats = FORMATS.iter().map(|f| f.dtype()).filter(judged);
    spills_of(&formats.flat_map(|format| FORMS.map(|form| expert_kernels(format, form))).flatten().collect::<Vec<_>>())
}

/// Every product in every format of weights: every entry. Some thousand compilations, which take twenty minutes once.
pub fn every_spill_row() -> Vec<SpillRow> {
    let variants = FORMATS.iter().flat_map(|f| FORMS.map(|form| (f.dtype(), form)));
    let kernels =
        variants.flat_map(|(format, form)| [matrix_kernels(format, form), expert_kernels(format, form)]).flatten();
    spills_of(&kernels.collect::<Vec<_>>())
}

/// What ptxas says of the entries of kernels.
fn spills_of(kernels: &[Specialisation]) -> Vec<SpillRow> {
    let nvrtc = nvrtc();
    let mut rows = in_parallel(kernels, |kernel| {
        let logs = Arch::ALL.map(|arch| entry_figures(&compiled(kernel, arch, &nvrtc).log));
        let row = |entry: &String| {
            let figures = logs.iter().map(|log| log[entry]).collect();
            SpillRow { name: kernel.name(), entry: entry.clone(), figures }
        };
        logs[0].keys().map(row).collect()
    });
    rows.sort_by(|a, b| (&a.name, &a.entry).cmp(&(&b.name, &b.entry)));
    rows
}

/// The kernels that multiply by one matrix or by those of heads, in one variant. Their code depends on no dimension.
fn matrix_kernels(format: DType, form: &str) -> [Specialisation; 4] {
    let (variant, heads) = (format!("{format}.{form}"), QkvParams { head_dim: 64, ..QkvParams::default() });
    let qkv = |cache: &str| specialise("qkv", &format!("{variant}.{cache}"), &heads);
    [
        specialise("matmul", &variant, &MatmulParams::default()),
        specialise("project", &variant, &ProjectParams::default()),
        qkv("f16"),
        qkv("int8"),
    ]
}

/// The kernels that multiply by experts, in one variant. Their code depends on no dimension.
fn expert_kernels(format: DType, form: &str) -> [Specialisation; 4] {
    let variant = format!("{format}.{form}");
    let gate_up = |routing| specialise("gate_up", &variant, &GateUpParams { routing, ..GateUpParams::default() });
    [
        gate_up(1),
        gate_up(2),
        specialise("combine_down", &variant, &CombineDownParams::default()),
        specialise("grouped_matmul", &variant, &GroupedMatmulParams::default()),
    ]
}

/// What a variant of a kernel is compiled with. `P` is the kernel's struct.
fn specialise<P>(name: &str, variant: &str, params: &P) -> Specialisation {
    let kernel = cuda::lookup(name).expect("a CUDA kernel");
    // SAFETY: the parameters are the kernel's.
    unsafe { kernel.specialise(variant, std::ptr::from_ref(params).cast()) }.unwrap_or_else(|e| panic!("{e}"))
}

fn nvrtc() -> CachedNvrtc {
    let nvrtc = NVRTC.fetch().and_then(|path| Nvrtc::open(&path)).unwrap_or_else(|e| panic!("{e}"));
    CachedNvrtc::new(nvrtc).unwrap_or_else(|e| panic!("{e}"))
}

/// What `f` gives for each piece of work, in any order.
fn in_parallel<W: Sync, R: Send>(work: &[W], f: impl Fn(&W) -> Vec<R> + Sync) -> Vec<R> {
    let rows: Mutex<Vec<R>> = Mutex::default();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(work) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let judged = f(work);
                    rows.lock().expect("no thread has panicked").extend(judged);
                }
            });
        }
    });
    rows.into_inner().expect("no thread has panicked")
}

fn compiled(kernel: &Specialisation, arch: Arch, nvrtc: &CachedNvrtc) -> Compiled {
    let name = cuda::lookup(kernel.kernel).expect("a CUDA kernel").source;
    let source = Source { name, text: cuda::source(name).expect("a source"), headers: cuda::headers() };
    nvrtc.compile(&source, arch.name(), &kernel.options()).unwrap_or_else(|e| panic!("{e}")).0
}

/// The entries of a kernel that are launched.
fn judge((kernel, launches): &Launched, arch: Arch, nvrtc: &CachedNvrtc, nvdisasm: &Path) -> Vec<KernelRow> {
    let compiled = compiled(kernel, arch, nvrtc);
    let figures = entry_figures(&compiled.log);
    let cubin = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(cubin.path(), &compiled.cubin).expect("the cubin is written");
    let functions = sass::disassemble(nvdisasm, cubin.path());
    let row = |(entry, launch): (&&str, &CudaLaunch)| {
        let function = functions.iter().find(|f| f.name == **entry).unwrap_or_else(|| panic!("{entry} has no code"));
        KernelRow {
            name: kernel.name(),
            entry: (*entry).into(),
            arch,
            figures: *figures.get(*entry).unwrap_or_else(|| panic!("ptxas says nothing of {entry}")),
            launch: launch.clone(),
            instructions: function.len(),
            loads: function.weight_loads(),
            tensor_loop: function.tensor_loop(),
        }
    };
    launches.iter().map(row).collect()
}

/// `project` in every format, a few tokens and many.
fn formats() -> Vec<(Specialisation, CudaLaunch)> {
    let kernel = cuda::lookup("project").expect("a CUDA kernel");
    let mut found = Vec::new();
    for format in FORMATS {
        let variant = format!("{}.f32.half", format.dtype());
        for tokens in [1, 64] {
            let params = ProjectParams { tokens, rows: 2048, cols: 2048, ..ProjectParams::default() };
            let params: *const c_void = (&raw const params).cast();
            // SAFETY: the parameters are the kernel's.
            let (specialisation, launches) =
                unsafe { (kernel.specialise(&variant, params), kernel.launches(&variant, params)) };
            let specialisation = specialisation.unwrap_or_else(|e| panic!("{e}"));
            found.extend(launches.into_iter().map(|launch| (specialisation.clone(), launch)));
        }
    }
    found
}

/// Every launch of the programs.
fn launches(programs: &[Program]) -> Vec<(Specialisation, CudaLaunch)> {
    let all = programs.iter().flat_map(|program| program.launches.iter().map(|launch| cuda_launches(program, launch)));
    all.flat_map(|(specialisation, launches)| launches.into_iter().map(move |l| (specialisation.clone(), l))).collect()
}
