//! A program on a GPU: its launches with everything filled in, for recording, and what its outputs and weights are.

use std::sync::Arc;

use ir::program::{Arg, Launch, Program};
use ir::types::{DType, Dim, TensorType};
use kernels::params::Params;

use super::code::LoadedKernel;
use super::driver::KernelLaunch;
use crate::artifact::Manifest;
use crate::device::DeviceError;
use crate::device::launches::{Addresses, Resolved, cuda_launches, parameter_block, program_error};

/// Workspace of all launches.
#[derive(Clone, Copy)]
pub(super) struct Workspace {
    pub address: u64,
    pub bytes: u64,
}

/// A program whose code is loaded.
pub(super) struct Plan {
    launches: Vec<Resolved<Arc<LoadedKernel>>>,
    outputs: Vec<Output>,
    pub reads: WeightReads,
}

/// An output and where in the arena it lies.
struct Output {
    name: String,
    offset: u64,
    ty: TensorType,
}

/// An output of a step.
#[derive(Clone, Copy, Debug)]
pub(super) struct OutputPart {
    /// First byte in the arena.
    pub arena: u64,
    /// First byte in the host's memory.
    pub host: u64,
    /// Its size.
    pub bytes: u64,
    pub dtype: DType,
}

impl Plan {
    /// Of a program and the code of its launches.
    ///
    /// # Errors
    /// An output of which a step of fewer tokens is not the beginning of a step of more.
    pub fn new(
        program: &Program,
        manifest: &Manifest,
        launches: Vec<Resolved<Arc<LoadedKernel>>>,
    ) -> Result<Plan, DeviceError> {
        let output = |(name, id): &(String, ir::program::BufferId)| {
            let buffer = &program.buffers[id.0 as usize];
            let ragged = buffer.ty.shape.iter().skip(1).any(|dim| matches!(dim, Dim::Sym(_)));
            match ragged || !matches!(buffer.ty.dtype, DType::F32 | DType::I32) {
                true => Err(program_error(program, format!("output {name:?} is not rows of f32 or i32"))),
                false => Ok(Output { name: name.clone(), offset: buffer.offset, ty: buffer.ty.clone() }),
            }
        };
        let outputs = program.outputs.iter().map(output).collect::<Result<_, _>>()?;
        Ok(Plan { launches, outputs, reads: WeightReads::of(program, manifest) })
    }

    /// What carries out a step of these sizes, in order. The first launch waits for all before it; later ones may overlap the one before.
    ///
    /// # Errors
    /// Counts that do not fit, or more workspace than there is.
    pub fn launches(
        &self,
        program: &Program,
        sizes: &[u64],
        addresses: &Addresses,
        workspace: Workspace,
        overlaps: bool,
    ) -> Result<Vec<KernelLaunch>, DeviceError> {
        let mut all = Vec::with_capacity(program.launches.len());
        for (launch, found) in program.launches.iter().zip(&self.launches) {
            let params = addresses.fill(program, launch, sizes)?;
            add_launches(&mut all, found, launch, &params, workspace, overlaps)?;
        }
        Ok(all)
    }

    /// Sets `parts` to the outputs of a step of these sizes, which lie one after the other on the host; gives the bytes of all.
    pub fn outputs(&self, sizes: &[u64], parts: &mut Vec<OutputPart>) -> Option<u64> {
        parts.clear();
        let mut host = 0u64;
        for output in &self.outputs {
            let (bytes, dtype) = (output.ty.bytes(sizes)?, output.ty.dtype);
            parts.push(OutputPart { arena: output.offset, host, bytes, dtype });
            host = host.checked_add(bytes)?;
        }
        Some(host)
    }

    /// First byte in the arena of the logits, if they are rows of so many.
    pub fn logits(&self, vocabulary: u64) -> Option<u64> {
        let output = self.outputs.get(self.output("logits")?)?;
        let is_row = matches!(output.ty.shape.as_slice(), [_, Dim::Const(count)] if *count == vocabulary);
        (is_row && output.ty.dtype == DType::F32).then_some(output.offset)
    }

    /// The index of an output.
    pub fn output(&self, name: &str) -> Option<usize> {
        self.outputs.iter().position(|o| o.name == name)
    }
}

/// Adds what carries a launch out to what is before it. The first of all waits for all before it; later ones may overlap the one before.
pub(super) fn add_launches(
    all: &mut Vec<KernelLaunch>,
    found: &Resolved<Arc<LoadedKernel>>,
    launch: &Launch,
    params: &Params,
    workspace: Workspace,
    overlaps: bool,
) -> Result<(), DeviceError> {
    for entry in cuda_launches(found.kernel, launch, params, workspace.bytes)? {
        all.push(KernelLaunch {
            function: found.code.entry(entry.entry, entry.shared_bytes)?,
            grid: entry.grid,
            threads: entry.threads,
            shared_bytes: entry.shared_bytes,
            params: parameter_block(params, workspace.address),
            overlaps: overlaps && !all.is_empty(),
        });
    }
    Ok(())
}

/// Packed weights that a program's launches read.
///
/// Which experts a step selects is known on the GPU alone. They are taken to be as many different ones as its tokens can select at most: exact
/// for one token, and as good as that once tokens are many; between those too many.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct WeightReads {
    /// Bytes of matrices that are read whole.
    whole: u64,
    /// Bytes that each token looks up in tables.
    token: u64,
    /// Bytes of one expert, and how many there are, of each launch of experts.
    experts: Vec<(u64, u64)>,
    /// Experts that a token selects.
    selected: u64,
}

impl WeightReads {
    fn of(program: &Program, manifest: &Manifest) -> WeightReads {
        let mut reads = WeightReads { selected: manifest.model.experts_per_token.max(1), ..WeightReads::default() };
        for launch in &program.launches {
            for (_, arg) in &launch.args {
                let Arg::Weight(index) = arg else { continue };
                let name = program.weights.get(*index as usize).map(|w| &w.name);
                let weight = manifest.weights.iter().find(|w| Some(&w.name) == name && w.layout.is_packed());
                let Some(weight) = weight else { continue };
                match (launch.kernel.as_str(), weight.shape.as_slice()) {
                    // A token's row is read with the others of its tile.
                    ("embedding", [rows, ..]) => reads.token += weight.bytes / rows.div_ceil(16).max(1),
                    (_, [matrices, _, _]) => reads.experts.push((weight.bytes / (*matrices).max(1), *matrices)),
                    _ => reads.whole += weight.bytes,
                }
            }
        }
        reads
    }

    /// Bytes that a step of so many tokens reads.
    pub fn bytes(&self, tokens: u64) -> u64 {
        let experts = self.experts.iter().map(|(bytes, all)| bytes * (tokens * self.selected).min(*all)).sum::<u64>();
        self.whole + self.token * tokens + experts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn experts_are_counted_as_far_as_tokens_can_select_them() {
        let reads = WeightReads { whole: 1000, token: 7, experts: vec![(10, 8), (20, 8)], selected: 3 };
        assert_eq!(reads.bytes(1), 1000 + 7 + 3 * 30);
        assert_eq!(reads.bytes(2), 1000 + 14 + 6 * 30);
        assert_eq!(reads.bytes(100), 1000 + 700 + 8 * 30);
    }
}
