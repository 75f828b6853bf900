//! A program made ready to execute: parameter structs with their addresses filled in once, and a list of the counts that
//! differ from step to step.
//!
//! A step whose sizes equal the last one's, as in decoding, changes nothing here at all.

use std::ffi::c_void;

use ir::program::{Arg, BufferId, Launch as ProgramLaunch, Program};
use ir::types::{DType, Dim, TensorType};
use kernels::catalog::{self, Field, FieldKind, KernelInfo};
use kernels::cpu::CpuKernel;
use kernels::cpu::isa::Isa;

use super::team::{KernelPanic, Launch, LaunchList, WeightReads};
use crate::device::DeviceError;
use crate::device::sizes::Sizes;

/// Where a program's names are in memory.
pub(super) struct Addresses<'a> {
    /// The arena.
    pub arena: *mut u8,
    /// An input, weight or state by name.
    pub input: &'a dyn Fn(&str) -> Option<*mut u8>,
    pub weight: &'a dyn Fn(&str) -> Option<*const u8>,
    pub state: &'a dyn Fn(&str) -> Option<*mut u8>,
}

impl Addresses<'_> {
    /// Where an argument that is a pointer leads; `None` if its name is unknown, or for other arguments.
    fn of(&self, program: &Program, arg: &Arg) -> Option<*const u8> {
        match arg {
            Arg::Null => Some(std::ptr::null()),
            Arg::Buffer(id, _) => Some(self.buffer(program, *id)),
            Arg::Input(i) => (self.input)(&program.inputs[*i as usize].name).map(|p| p.cast_const()),
            Arg::Weight(i) => (self.weight)(&program.weights[*i as usize].name),
            Arg::State(i, _) => (self.state)(&program.states[*i as usize].name).map(|p| p.cast_const()),
            Arg::Size(_) | Arg::Float(_) => None,
        }
    }

    fn buffer(&self, program: &Program, id: BufferId) -> *const u8 {
        // Inside the arena, as the verifier has shown; wrapping, for plans that are made to be measured have none.
        self.arena.wrapping_byte_add(program.buffers[id.0 as usize].offset as usize).cast_const()
    }
}

/// A count that depends on symbols.
#[derive(Debug)]
struct Patch {
    /// Byte offset in the parameter memory.
    offset: usize,
    kind: FieldKind,
    dims: Vec<Dim>,
}

/// A launch without its grid, which depends on the sizes.
struct Resolved {
    info: &'static KernelInfo,
    kernel: CpuKernel,
    variant: String,
    /// Byte offset of its parameter struct.
    params: usize,
    label: String,
}

/// An output's place in the arena.
struct Output {
    name: String,
    data: *const u8,
    ty: TensorType,
}

/// A program ready to execute.
pub(super) struct Plan {
    symbols: Vec<String>,
    /// Values of `symbols` the parameters now have.
    values: Vec<u64>,
    sizes: Option<Sizes>,
    /// Parameter structs, each aligned to 8 bytes. Never reallocated: launches point into it.
    params: Vec<u64>,
    patches: Vec<Patch>,
    launches: Vec<Resolved>,
    outputs: Vec<Output>,
    list: LaunchList,
}

// SAFETY: the pointers lead into memory of the device that owns the plan and moves with it.
unsafe impl Send for Plan {}

impl Plan {
    /// Resolves a verified program.
    pub fn build(program: &Program, addresses: &Addresses, isa: Isa) -> Result<Plan, DeviceError> {
        let mut plan = Plan {
            symbols: program.symbols.iter().map(|s| s.name.clone()).collect(),
            values: vec![0; program.symbols.len()],
            sizes: None,
            params: Vec::new(),
            patches: Vec::new(),
            launches: Vec::new(),
            outputs: Vec::new(),
            list: LaunchList::with_capacity(program.launches.len()),
        };
        let kernels: Vec<_> = program.launches.iter().map(|l| select(l, isa)).collect::<Result<_, _>>()?;
        plan.params = vec![0; kernels.iter().map(|(info, _)| info.params_bytes.div_ceil(8)).sum()];
        let mut at = 0;
        for (launch, (info, kernel)) in program.launches.iter().zip(kernels) {
            for (field, (_, arg)) in info.fields.iter().zip(&launch.args) {
                plan.set_field(program, launch, at + field.offset, field, arg, addresses)?;
            }
            let (variant, label) = (launch.variant.clone(), launch.label.clone());
            plan.launches.push(Resolved { info, kernel, variant, params: at, label });
            at += info.params_bytes.next_multiple_of(8);
        }
        plan.outputs = outputs(program, addresses);
        Ok(plan)
    }

    fn set_field(
        &mut self,
        program: &Program,
        launch: &ProgramLaunch,
        offset: usize,
        field: &Field,
        arg: &Arg,
        addresses: &Addresses,
    ) -> Result<(), DeviceError> {
        // SAFETY: `offset` is that of a field of a struct inside `params`, aligned as the field is.
        let place = unsafe { self.params.as_mut_ptr().byte_add(offset) };
        match arg {
            Arg::Size(dims) => {
                self.patches.push(Patch { offset, kind: field.kind, dims: dims.clone() });
                return Ok(());
            }
            Arg::Float(value) => {
                // SAFETY: the field is an f32.
                unsafe { place.cast::<f32>().write(*value) };
                return Ok(());
            }
            _ => {}
        }
        let address = addresses.of(program, arg).ok_or_else(|| unresolved(launch, field.name))?;
        // SAFETY: the field is a pointer.
        unsafe { place.cast::<*const u8>().write(address) };
        Ok(())
    }

    /// Sets the counts for a step and cuts its launches into phases.
    pub fn prepare(&mut self, sizes: Sizes, threads: usize) {
        if self.sizes == Some(sizes) {
            return;
        }
        self.set_counts(sizes);
        let base = self.params.as_ptr();
        let launches = self.launches.iter().map(|l| {
            // SAFETY: the struct lies in `params`.
            let params: *const c_void = unsafe { base.byte_add(l.params) }.cast();
            // SAFETY: `params` points to the struct of this kernel.
            let blocks = unsafe { l.info.blocks(&l.variant, params) };
            let reads = l.info.reads_weights().then(|| WeightReads { info: l.info, variant: &raw const *l.variant });
            Launch { kernel: l.kernel, params, blocks, reads }
        });
        self.list.fill(launches, threads);
        self.sizes = Some(sizes);
    }

    fn set_counts(&mut self, sizes: Sizes) {
        for (value, symbol) in self.values.iter_mut().zip(&self.symbols) {
            *value = sizes.get(symbol).unwrap_or(0);
        }
        let base = self.params.as_mut_ptr();
        for patch in &self.patches {
            let count: u64 = patch.dims.iter().map(|d| d.value(&self.values).unwrap_or(0)).product();
            // SAFETY: the offset is that of a field of this width inside `params`.
            unsafe {
                let place = base.byte_add(patch.offset);
                match patch.kind {
                    FieldKind::U64 => place.write(count),
                    _ => place.cast::<u32>().write(count as u32),
                }
            }
        }
    }

    /// Scratch memory a thread needs for steps of at most these sizes.
    pub fn scratch_bytes(&mut self, largest: Sizes) -> u64 {
        self.set_counts(largest);
        self.sizes = None;
        let base = self.params.as_ptr();
        let bytes = self.launches.iter().map(|l| {
            // SAFETY: `params` points to the struct of this kernel, inside `self.params`.
            unsafe { l.info.scratch_bytes(&l.variant, base.byte_add(l.params).cast()) }
        });
        bytes.max().unwrap_or(0) as u64
    }

    /// The launches of the step last prepared.
    pub fn list(&self) -> &LaunchList {
        &self.list
    }

    /// An output of the step last prepared: address and number of elements; `None` if it is not of that type.
    pub fn output(&self, name: &str, dtype: DType) -> Option<(*const u8, usize)> {
        let output = self.outputs.iter().find(|o| o.name == name && o.ty.dtype == dtype)?;
        let len = output.ty.shape.iter().map(|d| d.value(&self.values)).product::<Option<u64>>()?;
        Some((output.data, len as usize))
    }

    /// Bytes of parameter structs.
    pub fn params_bytes(&self) -> u64 {
        size_of_val(self.params.as_slice()) as u64
    }

    /// The error for a kernel that panicked.
    pub fn kernel_error(&self, panic: KernelPanic) -> DeviceError {
        let offset = panic.params.wrapping_sub(self.params.as_ptr().addr());
        let launch = self.launches.iter().find(|l| l.params == offset);
        DeviceError::Kernel {
            kernel: launch.map_or("?".into(), |l| format!("{} {}", l.info.name, l.variant)),
            label: launch.map_or(String::new(), |l| l.label.clone()),
            message: panic.message,
        }
    }
}

fn select(launch: &ProgramLaunch, isa: Isa) -> Result<(&'static KernelInfo, CpuKernel), DeviceError> {
    let info = catalog::lookup(&launch.kernel);
    let kernel = info.and_then(|info| Some((info, info.select(&launch.variant, isa)?)));
    kernel.ok_or_else(|| DeviceError::Kernel {
        kernel: format!("{} {}", launch.kernel, launch.variant),
        label: launch.label.clone(),
        message: format!("there is no implementation for {isa}"),
    })
}

fn unresolved(launch: &ProgramLaunch, field: &str) -> DeviceError {
    DeviceError::Kernel {
        kernel: launch.kernel.clone(),
        label: launch.label.clone(),
        message: format!("field {field} names nothing that is in memory"),
    }
}

fn outputs(program: &Program, addresses: &Addresses) -> Vec<Output> {
    let output = |(name, id): &(String, BufferId)| Output {
        name: name.clone(),
        data: addresses.buffer(program, *id),
        ty: program.buffers[id.0 as usize].ty.clone(),
    };
    program.outputs.iter().map(output).collect()
}
