//! One launch of a catalog kernel, carried out by the native kernel and by the simulator on the PTX that NVRTC makes of the CUDA kernel.
//!
//! A case names the fields of the kernel's parameter struct; fields that are not named are null or zero. Every buffer is an
//! allocation of its own in the simulator, so that each access is checked against its bounds, and what the kernel must not write is read-only.

// Each test binary uses the part it needs.
#![allow(dead_code)]

pub mod attention;
pub mod bugs;
pub mod draw;
pub mod experts;
pub mod gpu;
pub mod kv;
pub mod oracle;
pub mod products;
pub mod qkv;
pub mod route;
pub mod rows;

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, OnceLock};

use ir::quant::{self, fragments};
use ir::types::DType;
use kernels::catalog::{self, FieldKind, KernelInfo};
use kernels::cpu::isa::Isa;
use kernels::cuda::{self, COUNTER_BYTES, Constraint, CudaKernel, CudaLaunch, Specialisation};
use simulator::{Access, Launch, Memory, Module, Options, Pointer, Report, SimError};
use toolchain::cache::CachedNvrtc;
use toolchain::nvrtc::{Compiled, Source};

use bugs::{Bug, Change};

/// Architectures whose PTX is executed: one of each dialect.
pub const ARCHITECTURES: [&str; 2] = ["sm_80", "sm_100"];

/// How a product sees its activations, and types of caches.
pub const FORMS: [&str; 5] = ["f32", "f32.half", "f32.block", "f32.row", "q8x32"];
pub const CACHES: [&str; 3] = ["f16", "f32", "int8"];

/// A buffer of a case.
#[derive(Clone)]
struct Buffer {
    /// As the native kernel reads it.
    native: Vec<u8>,
    /// As the CUDA kernel reads it, where that differs: weights.
    cuda: Option<Vec<u8>>,
    /// Whether the kernel may write it, and whether its contents are given.
    written: bool,
    given: bool,
    weights: bool,
}

/// One launch.
#[derive(Clone)]
pub struct Case {
    kernel: &'static KernelInfo,
    variant: String,
    buffers: BTreeMap<&'static str, Buffer>,
    /// Fields that share the buffer of another.
    aliases: BTreeMap<&'static str, &'static str>,
    values: BTreeMap<&'static str, u64>,
    pace: Pace,
}

/// How much NVRTC makes of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pace {
    /// What artifacts hold.
    Optimised,
    /// The same source without some optimisations, in less than half the time: for the very many variants.
    Fast,
}

/// What a launch wrote, by field.
pub type Outputs = BTreeMap<&'static str, Vec<u8>>;

/// What the simulator saw of each CUDA launch, in order.
pub struct Simulated {
    /// What was written.
    pub outputs: Outputs,
    /// The launches and their reports.
    pub launches: Vec<(CudaLaunch, Report)>,
    /// The workspace after the launch.
    pub workspace: Vec<u8>,
}

impl Case {
    /// A launch of a catalog kernel.
    pub fn new(kernel: &str, variant: &str) -> Case {
        let kernel = catalog::lookup(kernel).unwrap_or_else(|| panic!("the catalog has no kernel {kernel}"));
        assert!(kernel.has_variant(variant), "{} has no variant {variant:?}", kernel.name);
        let (buffers, aliases, values) = Default::default();
        Case { kernel, variant: variant.into(), buffers, aliases, values, pace: Pace::Optimised }
    }

    /// A buffer that is read.
    pub fn input<T: Bytes>(self, field: &str, values: &[T]) -> Case {
        let native = bytes_of(values);
        self.buffer(field, Buffer { native, cuda: None, written: false, given: true, weights: false })
    }

    /// A buffer of `count` elements that is written, uninitialised before.
    pub fn output<T: Bytes>(self, field: &str, count: usize) -> Case {
        let native = vec![0; count * size_of::<T>()];
        self.buffer(field, Buffer { native, cuda: None, written: true, given: false, weights: false })
    }

    /// A buffer that is read and written.
    pub fn update<T: Bytes>(self, field: &str, values: &[T]) -> Case {
        let native = bytes_of(values);
        self.buffer(field, Buffer { native, cuda: None, written: true, given: true, weights: false })
    }

    /// Matrices `[matrices, rows, cols]`, given row-major in their format, each device's layout made of it.
    pub fn weights(self, field: &str, dtype: DType, [matrices, rows, cols]: [usize; 3], row_major: &[u8]) -> Case {
        let each = row_major.len() / matrices.max(1);
        let (mut native, mut cuda) = (Vec::new(), Vec::new());
        for matrix in row_major.chunks(each.max(1)) {
            let mut packed = vec![0; quant::packed_bytes(dtype, rows as u64, cols as u64).unwrap() as usize];
            quant::pack(dtype, matrix, rows, cols, &mut packed).unwrap();
            native.extend_from_slice(&packed);
            let mut packed = vec![0; fragments::packed_bytes(dtype, rows as u64, cols as u64).unwrap() as usize];
            fragments::pack(dtype, matrix, rows, cols, &mut packed).unwrap();
            cuda.extend_from_slice(&packed);
        }
        self.buffer(field, Buffer { native, cuda: Some(cuda), written: false, given: true, weights: true })
    }

    /// A field that points to the buffer of another: in-place results. Both are fields of one buffer that is written.
    pub fn alias(mut self, field: &str, of: &str) -> Case {
        let (field, of) = (self.field(field), self.field(of));
        self.buffers.get_mut(of).unwrap().written = true;
        self.aliases.insert(field, of);
        self
    }

    /// The case without an operand or result.
    pub fn without(mut self, field: &str) -> Case {
        self.buffers.remove(field);
        self
    }

    /// A count, 0 if none is given or the kernel has none of this name.
    pub fn value(&self, field: &str) -> u64 {
        self.values.get(field).copied().unwrap_or(0)
    }

    /// The case compiled in that way.
    pub fn at(self, pace: Pace) -> Case {
        Case { pace, ..self }
    }

    /// A count.
    pub fn count(mut self, field: &str, value: usize) -> Case {
        let field = self.field(field);
        self.values.insert(field, value as u64);
        self
    }

    /// A number.
    pub fn number(mut self, field: &str, value: f32) -> Case {
        let field = self.field(field);
        self.values.insert(field, u64::from(value.to_bits()));
        self
    }

    fn buffer(mut self, field: &str, buffer: Buffer) -> Case {
        let field = self.field(field);
        self.buffers.insert(field, buffer);
        self
    }

    fn field(&self, name: &str) -> &'static str {
        let field = self.kernel.fields.iter().find(|f| f.name == name);
        field.unwrap_or_else(|| panic!("{} has no field {name}", self.kernel.name)).name
    }

    /// The parameter struct with these addresses.
    fn params(&self, address: impl Fn(&'static str) -> u64) -> Vec<u64> {
        let mut params = vec![0u64; self.kernel.params_bytes.div_ceil(8)];
        for field in self.kernel.fields {
            let value = match field.kind {
                FieldKind::In | FieldKind::Out => {
                    let name = self.aliases.get(field.name).copied().unwrap_or(field.name);
                    if self.buffers.contains_key(name) { address(name) } else { 0 }
                }
                _ => self.values.get(field.name).copied().unwrap_or(0),
            };
            // SAFETY: the field lies in the struct, which is as long as the vector.
            unsafe {
                let place = params.as_mut_ptr().byte_add(field.offset);
                match field.kind.bytes() {
                    8 => place.write_unaligned(value),
                    _ => place.cast::<u32>().write_unaligned(value as u32),
                }
            }
        }
        params
    }

    /// What the native kernel writes.
    pub fn run_native(&self) -> Outputs {
        let mut memory: BTreeMap<&'static str, Vec<u64>> = BTreeMap::new();
        for (name, buffer) in &self.buffers {
            // 64 bytes of slack before, for the alignment of packed weights.
            let mut words = vec![0u64; buffer.native.len().div_ceil(8) + 16];
            let base = aligned(words.as_mut_ptr().cast());
            // SAFETY: the vector has room for the buffer behind its aligned base.
            unsafe { std::ptr::copy_nonoverlapping(buffer.native.as_ptr(), base, buffer.native.len()) };
            memory.insert(name, words);
        }
        let bases: HashMap<&str, *mut u8> =
            memory.iter_mut().map(|(n, w)| (*n, aligned(w.as_mut_ptr().cast()))).collect();
        let params = self.params(|name| bases[name].addr() as u64);
        let pointer: *const c_void = params.as_ptr().cast();
        let kernel = self.kernel.select(&self.variant, *Isa::available().last().unwrap()).unwrap();
        // SAFETY: `params` is the kernel's struct, and its buffers are as long as the case says.
        unsafe {
            let blocks = self.kernel.blocks(&self.variant, pointer);
            let scratch = self.kernel.scratch_bytes(&self.variant, pointer);
            let mut words = vec![0u64; scratch.div_ceil(8) + 16];
            let scratch = std::slice::from_raw_parts_mut(aligned(words.as_mut_ptr().cast()), scratch);
            kernel(pointer, 0..blocks, scratch);
        }
        let written = self.buffers.iter().filter(|(_, b)| b.written);
        written
            // SAFETY: the buffer lies behind its base.
            .map(|(n, b)| (*n, unsafe { std::slice::from_raw_parts(bases[n], b.native.len()) }.to_vec()))
            .collect()
    }

    /// Why the CUDA kernel does not take the case, if it does not.
    pub fn constraint(&self) -> Option<Constraint> {
        let params = self.params(|_| 1 << 40);
        // SAFETY: `params` is the kernel's struct; no pointer is followed.
        unsafe { self.cuda().specialise(&self.variant, params.as_ptr().cast()) }.err()
    }

    fn cuda(&self) -> &'static CudaKernel {
        cuda::lookup(self.kernel.name).unwrap_or_else(|| panic!("{} has no CUDA kernel", self.kernel.name))
    }

    /// What the CUDA kernel writes, with every check on. Panics at any finding.
    pub fn run_simulated(&self, architecture: &str) -> Simulated {
        let simulated = self.run_unchecked(architecture);
        for (launch, report) in &simulated.launches {
            let findings: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
            assert!(findings.is_empty(), "{} {}: {}", launch.entry, self.variant, findings.join("\n"));
        }
        simulated
    }

    /// What the CUDA kernel writes: on the GPU where one is asked for, else on the simulator as [`Case::run_simulated`].
    pub fn run_device(&self, architecture: &str) -> Outputs {
        if gpu::asked_for() { self.run_on_gpu() } else { self.run_simulated(architecture).outputs }
    }

    /// As [`Case::run_simulated`], with the findings left in the reports.
    pub fn run_unchecked(&self, architecture: &str) -> Simulated {
        self.simulate(architecture, None).unwrap_or_else(|e| panic!("{} {}: {e}", self.kernel.name, self.variant))
    }

    /// Allocates the buffers.
    fn place(&self, memory: &mut Memory, bug: Option<&Bug>) -> Result<BTreeMap<&'static str, Pointer>, SimError> {
        let mut places = BTreeMap::new();
        for (name, buffer) in &self.buffers {
            let bytes = buffer.cuda.as_ref().unwrap_or(&buffer.native);
            let bytes = &bytes[..bytes.len() - bug.map_or(0, |bug| bug.missing_bytes(name))];
            let access = if buffer.written { Access::ReadWrite } else { Access::ReadOnly };
            let place = match buffer.given && !bug.is_some_and(|bug| bug.withholds(name)) {
                true => memory.allocate_with(name, bytes.to_vec(), access),
                false => memory.allocate(name, bytes.len(), access),
            };
            if bug.is_some_and(|bug| bug.protects(name)) {
                memory.protect(place, Access::ReadOnly)?;
            }
            if buffer.weights {
                memory.mark_weights(place).unwrap();
            }
            places.insert(*name, place);
        }
        Ok(places)
    }

    /// The launches of the CUDA kernel, right or with a bug.
    fn simulate(&self, architecture: &str, bug: Option<&Bug>) -> Result<Simulated, SimError> {
        let mut memory = Memory::new();
        let places = self.place(&mut memory, bug)?;
        let mut params = self.params(|name| places[name].0);
        let pointer: *const c_void = params.as_ptr().cast();
        // SAFETY: `params` is the kernel's struct; no pointer is followed.
        let (specialisation, launches, bytes) = unsafe {
            let specialisation = self.cuda().specialise(&self.variant, pointer).unwrap_or_else(|e| panic!("{e}"));
            let launches = self.cuda().launches(&self.variant, pointer);
            (specialisation, launches, self.cuda().workspace_bytes(&self.variant, pointer))
        };
        let workspace = memory.allocate_with("workspace", vec![0; bytes as usize], Access::ReadWrite);
        // Nobody may expect anything of what lies behind the counters.
        let kept = bytes.min(COUNTER_BYTES.into());
        memory.invalidate(workspace.offset(kept), (bytes - kept) as usize)?;
        params.push(workspace.0);
        let params: Vec<u8> = params.iter().flat_map(|w| w.to_le_bytes()).collect();
        let module = match bug.and_then(Bug::text) {
            Some(change) => {
                Arc::new(parsed(&compile(&specialisation, architecture, self.pace, Some(change)), &specialisation))
            }
            None => module(&specialisation, architecture, self.pace),
        };
        let options = Options { checks: true, counters: true, instruction_limit: 1 << 28, ..Options::default() };
        let mut reports = Vec::new();
        for launch in bug.map_or(launches.clone(), |bug| bug.launches(launches)) {
            let request = Launch {
                dynamic_shared: launch.shared_bytes,
                ..Launch::new(launch.grid, [launch.threads, 1, 1], params.clone())
            };
            reports.push((launch.clone(), simulator::run(&module, launch.entry, &request, &mut memory, &options)?));
        }
        let written = self.buffers.iter().filter(|(_, b)| b.written);
        let length = |n: &str, b: &Buffer| b.native.len() - bug.map_or(0, |bug| bug.missing_bytes(n));
        let outputs = written.map(|(n, b)| Ok((*n, memory.read(places[n], length(n, b))?)));
        let outputs = outputs.collect::<Result<_, SimError>>()?;
        Ok(Simulated { outputs, launches: reports, workspace: memory.read(workspace, bytes as usize)? })
    }
}

/// Modules that are kept at a time: each takes some megabytes.
const MOST_MODULES: usize = 64;

/// The PTX of a kernel, compiled once and read once, as a rule, a process.
pub fn module(specialisation: &Specialisation, architecture: &str, pace: Pace) -> Arc<Module> {
    type Modules = Mutex<HashMap<(Specialisation, String, Pace), Arc<Module>>>;
    static MODULES: OnceLock<Modules> = OnceLock::new();
    let key = (specialisation.clone(), architecture.to_string(), pace);
    let modules = MODULES.get_or_init(Mutex::default);
    if let Some(module) = modules.lock().unwrap().get(&key) {
        return module.clone();
    }
    let module = Arc::new(parsed(&compile(specialisation, architecture, pace, None), specialisation));
    let mut modules = modules.lock().unwrap();
    if modules.len() == MOST_MODULES {
        modules.clear();
    }
    modules.insert(key, module.clone());
    module
}

fn parsed(ptx: &str, specialisation: &Specialisation) -> Module {
    Module::parse(ptx, &specialisation.name()).unwrap_or_else(|e| panic!("{e}"))
}

/// The NVRTC from which on [`Pace::Fast`] is known to work; one before compiles as always.
const KNOWS_FAST: (i32, i32) = (12, 9);

/// PTX by NVRTC, of the source or of a changed one.
fn compile(specialisation: &Specialisation, architecture: &str, pace: Pace, change: Option<&Change>) -> String {
    nvrtc(specialisation, &architecture.replace("sm_", "compute_"), pace, change).ptx
}

/// Machine code by NVRTC.
fn machine_code(specialisation: &Specialisation, architecture: &str, pace: Pace) -> Vec<u8> {
    nvrtc(specialisation, architecture, pace, None).cubin
}

fn nvrtc(specialisation: &Specialisation, architecture: &str, pace: Pace, change: Option<&Change>) -> Compiled {
    static NVRTC: OnceLock<CachedNvrtc> = OnceLock::new();
    let open = || toolchain::locate::nvrtc(None).and_then(|(nvrtc, _)| CachedNvrtc::new(nvrtc));
    let nvrtc = NVRTC.get_or_init(|| open().unwrap_or_else(|e| panic!("{e}")));
    let name = cuda::lookup(specialisation.kernel).unwrap().source;
    let text = cuda::source(name).unwrap_or_else(|| panic!("no source {name}"));
    // Those it includes alone, so that the cache outlives changes of the others.
    let mut headers = cuda::headers_of(text);
    let changed = change.map(|change| change.apply(name, text, &headers));
    let text = match &changed {
        Some((file, changed)) if *file == name => changed,
        _ => text,
    };
    if let Some((file, changed)) = &changed {
        headers.iter_mut().filter(|(name, _)| name == file).for_each(|header| header.1 = changed);
    }
    let source = Source { name, text, headers: &headers };
    let mut options = specialisation.options();
    if pace == Pace::Fast && nvrtc.nvrtc().version() >= KNOWS_FAST {
        options.push("-Ofc=mid".into());
    }
    let compiled = nvrtc.compile(&source, architecture, &options);
    compiled.unwrap_or_else(|e| panic!("{}: {e}", specialisation.name())).0
}

fn aligned(pointer: *mut u8) -> *mut u8 {
    // SAFETY: callers leave 64 bytes of room.
    unsafe { pointer.add(pointer.align_offset(64)) }
}

/// Element types of buffers.
pub trait Bytes: Copy {
    /// Little-endian bytes.
    fn append(self, out: &mut Vec<u8>);
}

macro_rules! bytes {
    ($($t:ty),+) => {$(impl Bytes for $t {
        fn append(self, out: &mut Vec<u8>) {
            out.extend_from_slice(&self.to_le_bytes());
        }
    })+};
}
bytes!(f32, i32, u32, u8, u16, half::f16);

fn bytes_of<T: Bytes>(values: &[T]) -> Vec<u8> {
    let mut bytes = Vec::new();
    values.iter().for_each(|v| v.append(&mut bytes));
    bytes
}

/// A result as numbers.
pub fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// Relative RMS of `a` against `b`: sqrt(mean((a - b)^2) / mean(b^2)).
pub fn relative_rms(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let square = |v: f64| v * v;
    let difference: f64 = a.iter().zip(b).map(|(a, b)| square(f64::from(*a) - f64::from(*b))).sum();
    let size: f64 = b.iter().map(|b| square(f64::from(*b))).sum();
    if difference == 0.0 { 0.0 } else { (difference / size.max(f64::MIN_POSITIVE)).sqrt() }
}

/// Panics unless the simulated result of a field agrees with the native one.
pub fn expect_close(native: &Outputs, simulated: &Simulated, field: &str, limit: f64) {
    let (a, b) = (floats(&simulated.outputs[field]), floats(&native[field]));
    let error = relative_rms(&a, &b);
    assert!(
        error <= limit,
        "{field}: relative RMS {error:e}, limit {limit:e}\nsimulated {:?}\nnative    {:?}",
        head(&a),
        head(&b)
    );
}

fn head(values: &[f32]) -> &[f32] {
    &values[..values.len().min(24)]
}

/// Numbers of a normal-like spread from a seed: the same on every machine.
pub fn noise(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    (0..count).map(|_| next() + next() + next() + next()).collect()
}

/// A random matrix `[matrices, rows, cols]` in a format, row-major.
pub fn random_weights(seed: u64, dtype: DType, [matrices, rows, cols]: [usize; 3]) -> Vec<u8> {
    let format = quant::format(dtype).unwrap();
    let values = noise(seed, matrices * rows * cols);
    let mut bytes = vec![0; matrices * rows * format.row_bytes(cols).unwrap()];
    for (row, out) in values.chunks_exact(cols).zip(bytes.chunks_exact_mut(format.row_bytes(cols).unwrap())) {
        format.quantize_row(row, out).unwrap();
    }
    bytes
}
