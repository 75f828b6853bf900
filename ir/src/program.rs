//! The program: what a device executes. A list of kernel launches over one arena whose plan is complete.
//!
//! A launch names a kernel of the catalog, its variant, and a value for every field of the kernel's parameter struct. It says
//! of each buffer whether it is read or written, so that a plan can be verified without knowing the kernel. The
//! launch geometry is the kernel's own, computed from the parameters.

use crate::types::{Dim, Symbol, TensorType};

/// Alignment of every buffer in the arena, in bytes.
pub const ALIGNMENT: u64 = 256;

/// How a launch touches memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// It is read.
    Read,
    /// It is written entirely, without being read before.
    Write,
    /// It is read and written.
    Update,
}

/// Index of a [`Buffer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BufferId(pub u32);

/// An intermediate result's place in the arena.
#[derive(Clone, Debug, PartialEq)]
pub struct Buffer {
    /// What is stored.
    pub ty: TensorType,
    /// First byte in the arena, a multiple of [`ALIGNMENT`].
    pub offset: u64,
}

/// An input, weight or state of the program.
#[derive(Clone, Debug, PartialEq)]
pub struct Binding {
    /// Its name, unique in its kind.
    pub name: String,
    /// What it holds. Weights are in the packed layout of their format; one-dimensional f32 ones are plain.
    pub ty: TensorType,
}

/// The value of one parameter field.
#[derive(Clone, Debug, PartialEq)]
pub enum Arg {
    /// A buffer of the arena.
    Buffer(BufferId, Access),
    /// Step metadata: index into [`Program::inputs`].
    Input(u32),
    /// A weight: index into [`Program::weights`].
    Weight(u32),
    /// A state: index into [`Program::states`].
    State(u32, Access),
    /// A null pointer.
    Null,
    /// A count: the product of dimensions.
    Size(Vec<Dim>),
    /// A real number.
    Float(f32),
}

/// One kernel launch.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// Name in the kernel catalog.
    pub kernel: String,
    /// Variant of the kernel, possibly empty.
    pub variant: String,
    /// Every field of the parameter struct, in declaration order.
    pub args: Vec<(String, Arg)>,
    /// The graph node it came from, for reports and messages.
    pub label: String,
}

/// A compiled step for a range of sizes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Program {
    /// Name of the bucket.
    pub name: String,
    /// Symbolic dimensions; the arena is planned at their upper bounds.
    pub symbols: Vec<Symbol>,
    /// Bytes of the arena.
    pub arena_bytes: u64,
    /// Step metadata.
    pub inputs: Vec<Binding>,
    /// Weights.
    pub weights: Vec<Binding>,
    /// States.
    pub states: Vec<Binding>,
    /// Intermediate results.
    pub buffers: Vec<Buffer>,
    /// Results that outlive the last launch.
    pub outputs: Vec<(String, BufferId)>,
    /// Launches, in order.
    pub launches: Vec<Launch>,
}

impl Program {
    /// Upper bounds of the symbols, in table order.
    pub fn upper_bounds(&self) -> Vec<u64> {
        self.symbols.iter().map(|s| s.max).collect()
    }

    /// First and last launch that touches each buffer; outputs live past the end. `None` for a buffer nothing touches.
    pub fn live_ranges(&self) -> Vec<Option<(usize, usize)>> {
        let mut ranges: Vec<Option<(usize, usize)>> = vec![None; self.buffers.len()];
        let mut touch = |id: BufferId, at: usize| {
            if let Some(range) = ranges.get_mut(id.0 as usize) {
                *range = Some(range.map_or((at, at), |(first, last)| (first.min(at), last.max(at))));
            }
        };
        for (at, launch) in self.launches.iter().enumerate() {
            for (_, arg) in &launch.args {
                if let Arg::Buffer(id, _) = arg {
                    touch(*id, at);
                }
            }
        }
        for (_, id) in &self.outputs {
            touch(*id, self.launches.len());
        }
        ranges
    }

    /// The largest sum of sizes of buffers live at once, at the symbols' upper bounds, each rounded up to
    /// [`ALIGNMENT`]: no plan can need less.
    pub fn arena_lower_bound(&self) -> u64 {
        let bounds = self.upper_bounds();
        let mut change = vec![0i128; self.launches.len() + 2];
        for (buffer, range) in self.buffers.iter().zip(self.live_ranges()) {
            let (Some((first, last)), Some(bytes)) = (range, buffer.ty.bytes(&bounds)) else { continue };
            let bytes = bytes.next_multiple_of(ALIGNMENT) as i128;
            change[first] += bytes;
            change[last + 1] -= bytes;
        }
        let mut live = 0;
        change
            .iter()
            .map(|c| {
                live += c;
                live
            })
            .max()
            .unwrap_or(0) as u64
    }
}
