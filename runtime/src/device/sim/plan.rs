//! A program laid out in the simulator's memory: each intermediate result an allocation of its own.
//!
//! The compiler's plan puts results into one arena, where one byte too many lands in a neighbour and an old result passes for a new one. Here
//! every access is checked against the exact bounds of its result at the sizes of the step, and what a launch only reads it cannot write.
//! (A result written over its operand is one buffer in the program already.)

use std::collections::HashMap;
use std::sync::Arc;

use ir::program::{Access as Use, Arg, BufferId, Launch, Program};
use kernels::cuda::{self, CudaKernel, CudaLaunch};
use kernels::params::{self, Params, ParamsError};
use simulator::{Access, Memory, Module, Pointer, SimError};

use super::modules::Modules;
use crate::device::DeviceError;

/// Where everything that several programs share lies, by name.
pub(super) struct Shared {
    pub inputs: HashMap<String, Pointer>,
    pub weights: HashMap<String, Pointer>,
    pub states: HashMap<String, Pointer>,
    pub workspace: Pointer,
    pub workspace_bytes: u64,
}

/// Kernel and code of a launch.
pub(super) struct Resolved {
    kernel: &'static CudaKernel,
    module: Arc<Module>,
    workspace_bytes: u64,
}

/// Finds kernel and code of each launch of a program.
pub(super) fn resolve(program: &Program, modules: &mut Modules) -> Result<Vec<Resolved>, DeviceError> {
    program.launches.iter().map(|launch| resolve_launch(program, launch, modules)).collect()
}

fn resolve_launch(program: &Program, launch: &Launch, modules: &mut Modules) -> Result<Resolved, DeviceError> {
    let kernel = cuda::lookup(&launch.kernel)
        .ok_or_else(|| kernel_error(launch, None, "the kernel has no implementation for GPUs".into()))?;
    let params = params::fill_largest(program, launch).map_err(|e| params_error(program, &e))?;
    // SAFETY: the struct is that of the launch's kernel; its pointers are not followed.
    let (specialisation, workspace_bytes) = unsafe {
        let specialisation = kernel.specialise(&launch.variant, params.as_ptr());
        let specialisation = specialisation.map_err(|e| kernel_error(launch, None, e.to_string()))?;
        (specialisation, kernel.workspace_bytes(&launch.variant, params.as_ptr()))
    };
    Ok(Resolved { kernel, module: modules.get(specialisation, &launch.label)?, workspace_bytes })
}

/// Bytes of workspace that all these launches can share.
pub(super) fn workspace_bytes(launches: &[Resolved]) -> u64 {
    launches.iter().map(|l| l.workspace_bytes).max().unwrap_or(0)
}

/// A launch ready to run.
pub(super) struct Planned {
    pub kernel: &'static CudaKernel,
    pub module: Arc<Module>,
    params: Params,
    /// What it is given of results and states, and what it may do with it.
    operands: Vec<(Pointer, Access)>,
}

/// A program ready to run.
pub(super) struct Plan {
    /// By [`BufferId`]; `None` for a buffer that nothing touches.
    buffers: Vec<Option<Pointer>>,
    pub launches: Vec<Planned>,
    /// Values of the symbols that memory and parameters now have.
    pub sizes: Vec<u64>,
}

impl Plan {
    /// Places a program's results and fills in its parameters, for steps of the largest size.
    pub fn build(
        program: &Program,
        resolved: Vec<Resolved>,
        shared: &Shared,
        memory: &mut Memory,
    ) -> Result<Plan, DeviceError> {
        let sizes = program.upper_bounds();
        let names = buffer_names(program);
        let buffers: Vec<Option<Pointer>> =
            names.iter().map(|name| name.as_ref().map(|n| memory.allocate(n, 0, Access::ReadWrite))).collect();
        let address = |arg: &Arg| match arg {
            Arg::Buffer(id, _) => buffers.get(id.0 as usize).copied().flatten(),
            Arg::Input(i) => shared.inputs.get(&program.inputs.get(*i as usize)?.name).copied(),
            Arg::Weight(i) => shared.weights.get(&program.weights.get(*i as usize)?.name).copied(),
            Arg::State(i, _) => shared.states.get(&program.states.get(*i as usize)?.name).copied(),
            Arg::Null | Arg::Size(_) | Arg::Float(_) => None,
        };
        let plan = |(launch, found): (&Launch, Resolved)| {
            let params = params::fill(launch, &sizes, |arg| address(arg).map(|p| p.0))?;
            let operands = operands(launch, address);
            Ok(Planned { kernel: found.kernel, module: found.module, params, operands })
        };
        let launches: Result<Vec<_>, ParamsError> = program.launches.iter().zip(resolved).map(plan).collect();
        let launches = launches.map_err(|e| params_error(program, &e))?;
        Ok(Plan { buffers, launches, sizes: Vec::new() })
    }

    /// Makes memory and parameters ready for a step: every result is uninitialised.
    pub fn prepare(&mut self, program: &Program, sizes: Vec<u64>, memory: &mut Memory) -> Result<(), DeviceError> {
        let resized = self.sizes != sizes;
        for (buffer, place) in program.buffers.iter().zip(&self.buffers) {
            let Some(place) = *place else { continue };
            let too_large = || program_error(program, format!("a result of {} is too large", buffer.ty.dtype.name()));
            let bytes = buffer.ty.bytes(&sizes).and_then(|b| usize::try_from(b).ok()).ok_or_else(too_large)?;
            match resized {
                true => memory.resize(place, bytes),
                false => memory.invalidate(place, bytes),
            }
            .map_err(|e| program_error(program, e.to_string()))?;
        }
        if resized {
            for (planned, launch) in self.launches.iter_mut().zip(&program.launches) {
                planned.params.set_counts(launch, &sizes).map_err(|e| params_error(program, &e))?;
            }
            self.sizes = sizes;
        }
        Ok(())
    }

    /// Where a result lies.
    pub fn buffer(&self, id: BufferId) -> Option<Pointer> {
        self.buffers.get(id.0 as usize).copied().flatten()
    }
}

impl Planned {
    /// What carries the launch out, in order, and the bytes of workspace it needs.
    pub fn launches(&self, variant: &str) -> (Vec<CudaLaunch>, u64) {
        let params = self.params.as_ptr();
        // SAFETY: the struct is this kernel's, which took its shape when it was specialised.
        unsafe { (self.kernel.launches(variant, params), self.kernel.workspace_bytes(variant, params)) }
    }

    /// The parameter block of its entries: the struct and the workspace.
    pub fn parameter_block(&self, workspace: Pointer) -> Vec<u8> {
        let mut bytes = self.params.to_bytes();
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes.extend(workspace.0.to_le_bytes());
        bytes
    }

    /// Lets the launch write what it says it writes, and nothing else.
    pub fn protect(&self, memory: &mut Memory) -> Result<(), SimError> {
        self.operands.iter().try_for_each(|(place, access)| memory.protect(*place, *access))
    }
}

/// What a launch does with each result and state: an operand that is also its result may be written.
fn operands(launch: &Launch, address: impl Fn(&Arg) -> Option<Pointer>) -> Vec<(Pointer, Access)> {
    let mut operands: Vec<(Pointer, Access)> = Vec::new();
    for (_, arg) in &launch.args {
        let (Arg::Buffer(_, usage) | Arg::State(_, usage)) = arg else { continue };
        let Some(place) = address(arg) else { continue };
        let access = if *usage == Use::Read { Access::ReadOnly } else { Access::ReadWrite };
        match operands.iter_mut().find(|(p, _)| *p == place) {
            Some((_, other)) if access == Access::ReadWrite => *other = access,
            Some(_) => {}
            None => operands.push((place, access)),
        }
    }
    operands
}

/// Names of results in findings: the launch that first writes one, and its field.
fn buffer_names(program: &Program) -> Vec<Option<String>> {
    let mut names = vec![None; program.buffers.len()];
    for launch in &program.launches {
        for (field, arg) in &launch.args {
            let Arg::Buffer(id, _) = arg else { continue };
            let name: &mut Option<String> = &mut names[id.0 as usize];
            name.get_or_insert_with(|| format!("{field} of {}", launch.label));
        }
    }
    names
}

/// The error of a launch, and of one of its entries if one is given.
pub(super) fn kernel_error(launch: &Launch, entry: Option<&str>, message: String) -> DeviceError {
    let mut kernel = launch.kernel.clone();
    for part in [launch.variant.as_str(), entry.unwrap_or("")].into_iter().filter(|p| !p.is_empty()) {
        kernel = format!("{kernel} {part}");
    }
    DeviceError::Kernel { kernel, label: launch.label.clone(), message }
}

pub(super) fn program_error(program: &Program, message: String) -> DeviceError {
    DeviceError::Program { program: program.name.clone(), message }
}

fn params_error(program: &Program, error: &ParamsError) -> DeviceError {
    program_error(program, error.to_string())
}
