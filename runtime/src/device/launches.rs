//! From a program's launches to those of GPU kernels: what the simulator and a GPU are given alike.

use std::collections::HashSet;

use ir::program::{Arg, BufferId, Launch, Program};
use ir::types::Dim;
use kernels::cuda::{self, CudaKernel, CudaLaunch, Specialisation};
use kernels::params::{self, Params, ParamsError};

use super::DeviceError;
use crate::artifact::{Artifact, Layout};

/// Kernel and code of a launch.
pub(super) struct Resolved<C> {
    /// The kernel's row.
    pub kernel: &'static CudaKernel,
    /// Its code, as the device has it.
    pub code: C,
}

/// Finds kernel and code of each launch of a program; `code` gives that of a specialisation, for a launch of a label.
pub(super) fn resolve<C>(
    program: &Program,
    mut code: impl FnMut(Specialisation, &str) -> Result<C, DeviceError>,
) -> Result<Vec<Resolved<C>>, DeviceError> {
    program.launches.iter().map(|launch| resolve_launch(program, launch, &mut code)).collect()
}

/// As [`resolve`], for one launch, which need not be of the program.
pub(super) fn resolve_launch<C>(
    program: &Program,
    launch: &Launch,
    code: &mut impl FnMut(Specialisation, &str) -> Result<C, DeviceError>,
) -> Result<Resolved<C>, DeviceError> {
    let kernel = cuda::lookup(&launch.kernel)
        .ok_or_else(|| kernel_error(launch, None, "the kernel has no implementation for GPUs".into()))?;
    let params = params::fill_largest(program, launch).map_err(|e| params_error(program, &e))?;
    // SAFETY: the struct is that of the launch's kernel; its pointers are not followed.
    let specialisation = unsafe { kernel.specialise(&launch.variant, params.as_ptr()) };
    let specialisation = specialisation.map_err(|e| kernel_error(launch, None, e.to_string()))?;
    Ok(Resolved { kernel, code: code(specialisation, &launch.label)? })
}

/// Bytes of workspace that a program's launches can share in any step, also in those with fewer pages a sequence than there may be: a launch
/// that keeps partial results of every segment of a context cuts more tokens into segments where contexts are short.
pub(super) fn largest_workspace(program: &Program) -> Result<u64, DeviceError> {
    let largest = params::largest_workspace(program).map_err(|e| params_error(program, &e))?;
    let Some(columns) = program.symbols.iter().position(|s| s.name == "P") else { return Ok(largest) };
    let mut seen = HashSet::new();
    let mut most = largest;
    for launch in program.launches.iter().filter(|l| depends_on(l, columns)) {
        let sizes: Vec<&Arg> = launch.args.iter().map(|(_, arg)| arg).filter(|a| matches!(a, Arg::Size(_))).collect();
        // Layers are alike.
        if !seen.insert((&launch.kernel, &launch.variant, format!("{sizes:?}"))) {
            continue;
        }
        most = most.max(most_of_columns(program, launch, columns)?);
    }
    Ok(most)
}

/// Whether a count of a launch depends on a symbol.
fn depends_on(launch: &Launch, symbol: usize) -> bool {
    let names = |dim: &Dim| matches!(dim, Dim::Sym(id) if id.0 as usize == symbol);
    launch.args.iter().any(|(_, arg)| matches!(arg, Arg::Size(dims) if dims.iter().any(names)))
}

/// The most workspace of a launch over all columns of the page table.
fn most_of_columns(program: &Program, launch: &Launch, columns: usize) -> Result<u64, DeviceError> {
    let Some(kernel) = cuda::lookup(&launch.kernel) else { return Ok(0) };
    let mut params = params::fill_largest(program, launch).map_err(|e| params_error(program, &e))?;
    let mut sizes = program.upper_bounds();
    let mut most = 0;
    for count in 1..=sizes[columns] {
        sizes[columns] = count;
        params.set_counts(launch, &sizes).map_err(|e| params_error(program, &e))?;
        // SAFETY: the struct is that of the launch's kernel; its pointers are not followed.
        most = most.max(unsafe { kernel.workspace_bytes(&launch.variant, params.as_ptr()) });
    }
    Ok(most)
}

/// Where a program's names are in memory, as kernels see it.
pub(super) struct Addresses<'a> {
    /// An intermediate result.
    pub buffer: &'a dyn Fn(BufferId) -> Option<u64>,
    /// An input, weight or state by name.
    pub input: &'a dyn Fn(&str) -> Option<u64>,
    pub weight: &'a dyn Fn(&str) -> Option<u64>,
    pub state: &'a dyn Fn(&str) -> Option<u64>,
}

impl Addresses<'_> {
    /// Where an argument leads; `None` if it is no pointer, or names nothing.
    pub fn of(&self, program: &Program, arg: &Arg) -> Option<u64> {
        match arg {
            Arg::Buffer(id, _) => (self.buffer)(*id),
            Arg::Input(i) => (self.input)(&program.inputs.get(*i as usize)?.name),
            Arg::Weight(i) => (self.weight)(&program.weights.get(*i as usize)?.name),
            Arg::State(i, _) => (self.state)(&program.states.get(*i as usize)?.name),
            Arg::Null | Arg::Size(_) | Arg::Float(_) => None,
        }
    }

    /// The parameter struct of a launch in a step of these sizes.
    pub fn fill(&self, program: &Program, launch: &Launch, sizes: &[u64]) -> Result<Params, DeviceError> {
        params::fill(launch, sizes, |arg| self.of(program, arg)).map_err(|e| params_error(program, &e))
    }
}

/// What carries a launch out, in order; fails if it needs more workspace than there is.
pub(super) fn cuda_launches(
    kernel: &CudaKernel,
    launch: &Launch,
    params: &Params,
    workspace_bytes: u64,
) -> Result<Vec<CudaLaunch>, DeviceError> {
    let variant = launch.variant.as_str();
    // SAFETY: the struct is this kernel's, which took its shape when it was specialised.
    let (entries, needed) =
        unsafe { (kernel.launches(variant, params.as_ptr()), kernel.workspace_bytes(variant, params.as_ptr())) };
    if needed > workspace_bytes {
        let message = format!("it needs {needed} bytes of workspace, but {workspace_bytes} for the largest step");
        return Err(kernel_error(launch, None, message));
    }
    Ok(entries)
}

/// The parameter block of a launch's entries: the struct and the workspace.
pub(super) fn parameter_block(params: &Params, workspace: u64) -> Vec<u8> {
    let mut bytes = params.to_bytes();
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes.extend(workspace.to_le_bytes());
    bytes
}

/// Weights laid out for the cpu device would have to be packed anew.
pub(super) fn check_layouts(artifact: &Artifact, device: &str) -> Result<(), DeviceError> {
    let manifest = artifact.manifest();
    match manifest.weights.iter().find(|w| w.layout == Layout::Rows16) {
        None => Ok(()),
        Some(weight) => Err(DeviceError::Option {
            option: "device",
            message: format!(
                "{device} takes weights in the layout of a GPU, but {:?} is packed in panels for target {}; compile with \
                 --target sm_80 or another GPU",
                weight.name, manifest.target
            ),
        }),
    }
}

/// The error of a launch, and of one of its entries if one is given.
pub(super) fn kernel_error(launch: &Launch, entry: Option<&str>, message: String) -> DeviceError {
    let mut kernel = launch.kernel.clone();
    for part in [launch.variant.as_str(), entry.unwrap_or("")].into_iter().filter(|p| !p.is_empty()) {
        kernel = format!("{kernel} {part}");
    }
    DeviceError::Kernel { kernel, label: launch.label.clone(), message }
}

/// The error of a program.
pub(super) fn program_error(program: &Program, message: String) -> DeviceError {
    DeviceError::Program { program: program.name.clone(), message }
}

/// The error of a parameter struct.
pub(super) fn params_error(program: &Program, error: &ParamsError) -> DeviceError {
    program_error(program, error.to_string())
}
