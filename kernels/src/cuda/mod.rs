//! The CUDA side of the catalog: for each kernel its source, what it is specialised by, and the launches that carry it out.
//!
//! A catalog launch becomes one or two CUDA launches. Each entry takes the kernel's parameter struct by value and the
//! device's workspace: `NAME(const __grid_constant__ XParams p, unsigned char *workspace)`. Nothing here knows a driver: the cuda device
//! and the simulator both launch what these rows say.

mod attention;
mod column_partials;
mod combine;
mod elements;
mod experts;
mod grid;
mod heads;
mod matrix_product;
pub mod product;
mod qkv;
mod rms_norm;
mod rounding;
mod routing;
mod rows;
mod services;
mod sources;

use std::ffi::c_void;
use std::fmt;

pub use services::services;
pub use sources::{headers, headers_of, source};

/// Shared memory a block may use, in bytes: what every architecture from 8.0 on has. Kernels choose by this figure alone, so
/// that what they compute does not depend on the GPU.
pub const SHARED_BYTES: u32 = 99 * 1024;

/// The first bytes of a workspace are counters: zero between launches, and written by nothing but kernels that count, which leave them
/// zero. What a launch keeps in its workspace lies behind them, and nobody expects anything of it.
pub const COUNTER_BYTES: u32 = 4096;

/// Options every kernel is compiled with. Products and sums are not contracted: where two are one rounding, the source says `fmaf`, so that
/// the order of operations is the source's.
pub const OPTIONS: &[&str] =
    &["--std=c++17", "-default-device", "-lineinfo", "--fmad=false", "--ptxas-options=-v", "-DMOESAIC_CUDA=1"];

/// One kernel for GPUs. Functions are given the kernel's parameter struct; its pointers are not followed, but whether one is
/// null may be asked.
pub struct CudaKernel {
    /// Its name in the catalog.
    pub name: &'static str,
    /// Its file in `kernels/cuda`.
    pub source: &'static str,
    specialise: unsafe fn(&str, *const c_void) -> Result<Vec<Define>, Constraint>,
    launches: unsafe fn(&str, *const c_void) -> Vec<CudaLaunch>,
    workspace: unsafe fn(&str, *const c_void) -> u64,
}

/// A constant a kernel's source is compiled with: `-DNAME=value`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Define {
    /// Its name.
    pub name: &'static str,
    /// Its value.
    pub value: String,
}

impl Define {
    /// A constant of that name and value.
    pub fn new(name: &'static str, value: impl fmt::Display) -> Define {
        Define { name, value: value.to_string() }
    }
}

impl Define {
    /// Whether it is a number of the model's shape or structure, not one that every build has.
    fn is_shape(&self) -> bool {
        !["PARAMS_BYTES", "COUNTER_BYTES", "THREADS"].contains(&self.name) && self.value.parse::<u64>().is_ok()
    }
}

impl fmt::Display for Define {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "-D{}={}", self.name, self.value)
    }
}

/// A shape that a kernel cannot take.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("kernel {kernel} {variant:?} for CUDA: {message}")]
pub struct Constraint {
    /// The kernel.
    pub kernel: &'static str,
    /// Its variant.
    pub variant: String,
    /// What it needs, what it was given, and the way out.
    pub message: String,
}

/// One launch of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CudaLaunch {
    /// The `extern "C"` name.
    pub entry: &'static str,
    /// Blocks; no dimension is 0.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub threads: u32,
    /// Dynamic shared memory of a block in bytes, at most [`SHARED_BYTES`].
    pub shared_bytes: u32,
}

/// A source with its constants: what is compiled once and serves every launch of equal constants.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Specialisation {
    /// The kernel.
    pub kernel: &'static str,
    /// Its variant.
    pub variant: String,
    /// Its constants.
    pub defines: Vec<Define>,
}

impl Specialisation {
    /// A name for files and tables: kernel, variant, and the constants that are numbers of the model's shape.
    pub fn name(&self) -> String {
        let mut name = self.kernel.to_string();
        if !self.variant.is_empty() {
            name = format!("{name}.{}", self.variant);
        }
        for define in self.defines.iter().filter(|d| d.is_shape()) {
            name = format!("{name}.{}{}", define.name.to_lowercase(), define.value);
        }
        name
    }

    /// Everything NVRTC is given beside the source: [`OPTIONS`] and the constants.
    pub fn options(&self) -> Vec<String> {
        OPTIONS.iter().map(|o| (*o).to_string()).chain(self.defines.iter().map(Define::to_string)).collect()
    }
}

impl CudaKernel {
    /// What the source of a variant is compiled with for a launch of these parameters (or of smaller counts of tokens).
    ///
    /// # Errors
    /// If the kernel cannot take the shape.
    ///
    /// # Safety
    /// `params` points to this kernel's parameter struct.
    pub unsafe fn specialise(&self, variant: &str, params: *const c_void) -> Result<Specialisation, Constraint> {
        // SAFETY: passed on.
        let mut defines = unsafe { (self.specialise)(variant, params) }?;
        let bytes = crate::catalog::lookup(self.name).map_or(0, |k| k.params_bytes);
        defines.push(Define::new("PARAMS_BYTES", bytes));
        Ok(Specialisation { kernel: self.name, variant: variant.into(), defines })
    }

    /// The launches of these parameters, in order; none where there is no work.
    ///
    /// # Safety
    /// As [`CudaKernel::specialise`], which has taken the shape.
    pub unsafe fn launches(&self, variant: &str, params: *const c_void) -> Vec<CudaLaunch> {
        // SAFETY: passed on.
        unsafe { (self.launches)(variant, params) }
    }

    /// Bytes of workspace the launches need. It is zero when the device is loaded; what a kernel expects to be zero it leaves zero.
    ///
    /// # Safety
    /// As [`CudaKernel::specialise`], which has taken the shape.
    pub unsafe fn workspace_bytes(&self, variant: &str, params: *const c_void) -> u64 {
        // SAFETY: passed on.
        unsafe { (self.workspace)(variant, params) }
    }
}

/// The CUDA kernel of that name.
pub fn lookup(name: &str) -> Option<&'static CudaKernel> {
    CUDA_KERNELS.iter().copied().find(|k| k.name == name)
}

/// A row: name, source, parameter struct, constants, launches, workspace.
macro_rules! cuda_kernel {
    ($name:literal, $source:literal, $params:ty,
     specialise: |$sv:pat_param, $sp:pat_param| $specialise:expr,
     launches: |$lv:pat_param, $lp:pat_param| $launches:expr,
     workspace: |$wv:pat_param, $wp:pat_param| $workspace:expr $(,)?) => {{
        unsafe fn kernel_specialise(
            $sv: &str,
            params: *const std::ffi::c_void,
        ) -> Result<Vec<$crate::cuda::Define>, $crate::cuda::Constraint> {
            // SAFETY: the caller passes this kernel's struct.
            let $sp = unsafe { &*params.cast::<$params>() };
            $specialise
        }
        unsafe fn kernel_launches($lv: &str, params: *const std::ffi::c_void) -> Vec<$crate::cuda::CudaLaunch> {
            // SAFETY: the caller passes this kernel's struct.
            let $lp = unsafe { &*params.cast::<$params>() };
            $launches
        }
        unsafe fn kernel_workspace($wv: &str, params: *const std::ffi::c_void) -> u64 {
            // SAFETY: the caller passes this kernel's struct.
            let $wp = unsafe { &*params.cast::<$params>() };
            $workspace
        }
        $crate::cuda::CudaKernel {
            name: $name,
            source: $source,
            specialise: kernel_specialise,
            launches: kernel_launches,
            workspace: kernel_workspace,
        }
    }};
}
use cuda_kernel;

/// Every kernel with a CUDA implementation.
pub static CUDA_KERNELS: &[&CudaKernel] = &[
    &matrix_product::MATMUL,
    &matrix_product::PROJECT,
    &column_partials::KERNEL,
    &rms_norm::KERNEL,
    &rows::EMBEDDING,
    &rows::GATHER_ROWS,
    &rows::LAYER_NORM,
    &rows::NORM_ADD,
    &rows::SCALE_COLUMNS,
    &rows::SQUARE_SUMS,
    &rows::SCALE_ROWS,
    &rows::FINISH_LOGITS,
    &rows::SIGMOID_GATE,
    &rows::CONCAT,
    &rows::PERMUTE_COLUMNS,
    &elements::BINARY,
    &elements::UNARY,
    &rounding::QUANTIZE_ROWS,
    &rounding::NORM_QUANTIZE,
    &attention::KERNEL,
    &qkv::KERNEL,
    &heads::ROPE,
    &heads::KV_APPEND,
    &routing::ROUTER,
    &routing::ROUTER_WEIGHTS,
    &routing::ROUTE,
    &combine::COMBINE,
    &combine::COMBINE_ADD,
    &experts::GATE_UP,
    &experts::GROUPED_MATMUL,
    &experts::COMBINE_DOWN,
    &services::SAMPLE,
    &services::PAGE_COPY,
];
