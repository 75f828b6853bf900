//! A program laid out in the simulator's memory: each intermediate result an allocation of its own.
//!
//! The compiler's plan puts results into one arena, where one byte too many lands in a neighbour and an old result passes for a new one. Here
//! every access is checked against the exact bounds of its result at the sizes of the step, and what a launch only reads it cannot write.
//! (A result written over its operand is one buffer in the program already.)

use std::collections::HashMap;
use std::sync::Arc;

use ir::program::{Access as Use, Arg, BufferId, Launch, Program};
use kernels::cuda::{CudaKernel, CudaLaunch};
use kernels::params::Params;
use simulator::{Access, Memory, Module, Pointer, SimError};

use crate::device::DeviceError;
use crate::device::launches::{Addresses, Resolved, cuda_launches, parameter_block, params_error, program_error};

/// Where everything that several programs share lies, by name.
pub(super) struct Shared {
    pub inputs: HashMap<String, Pointer>,
    pub weights: HashMap<String, Pointer>,
    pub states: HashMap<String, Pointer>,
    pub workspace: Pointer,
    pub workspace_bytes: u64,
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
        resolved: Vec<Resolved<Arc<Module>>>,
        shared: &Shared,
        memory: &mut Memory,
    ) -> Result<Plan, DeviceError> {
        let sizes = program.upper_bounds();
        let names = buffer_names(program);
        let buffers: Vec<Option<Pointer>> =
            names.iter().map(|name| name.as_ref().map(|n| memory.allocate(n, 0, Access::ReadWrite))).collect();
        let named = |places: &HashMap<String, Pointer>, name: &str| places.get(name).map(|p| p.0);
        let addresses = Addresses {
            buffer: &|id| buffers.get(id.0 as usize).copied().flatten().map(|p| p.0),
            input: &|name| named(&shared.inputs, name),
            weight: &|name| named(&shared.weights, name),
            state: &|name| named(&shared.states, name),
        };
        let plan = |(launch, found): (&Launch, Resolved<Arc<Module>>)| {
            let params = addresses.fill(program, launch, &sizes)?;
            let operands = operands(launch, |arg| addresses.of(program, arg).map(Pointer));
            Ok(Planned { kernel: found.kernel, module: found.code, params, operands })
        };
        let launches = program.launches.iter().zip(resolved).map(plan).collect::<Result<_, DeviceError>>()?;
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
    /// What carries the launch out, in order, with so much workspace.
    pub fn launches(&self, launch: &Launch, workspace_bytes: u64) -> Result<Vec<CudaLaunch>, DeviceError> {
        cuda_launches(self.kernel, launch, &self.params, workspace_bytes)
    }

    /// The parameter block of its entries.
    pub fn parameter_block(&self, workspace: Pointer) -> Vec<u8> {
        parameter_block(&self.params, workspace.0)
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
