//! The dense form of a kernel: 16-byte instructions over rows of a register file. Every operand (register, immediate, special register,
//! parameter) is a row, filled before a warp starts, so that execution never asks what kind an operand is.

use super::op::Op;
use crate::control_flow::Ranks;
use crate::parse::{SourceLine, Space, Special, Variable};

/// Row of a warp's register file: 32 lanes of 32 bits. A 64-bit value takes two rows, the lower half first.
pub(crate) type Row = u16;

/// No guard, no predicate.
pub(crate) const NONE: u16 = u16::MAX;

/// One instruction. What `d`, `a`, `b`, `c` and `x` mean is said at each [`Op`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inst {
    pub op: Op,
    /// Predicate index × 2 + negated, or [`NONE`].
    pub guard: u16,
    pub d: Row,
    pub a: Row,
    pub b: Row,
    pub c: Row,
    pub x: u32,
}

/// A value that fills a row before the warp starts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Constant {
    Bits(u32),
    /// A word of the launch's parameters: byte offset, bytes taken, sign-extended.
    Param {
        offset: u32,
        bytes: u8,
        signed: bool,
    },
    /// Half of the address of a module variable: its index, an offset, which half.
    Global {
        variable: u32,
        offset: i64,
        high: bool,
    },
    Special(Special),
}

/// A pure function of up to three operands of one lane; `m` holds the modifiers that its decoder chose.
pub(crate) type LaneFn = fn(m: u32, a: u64, b: u64, c: u64) -> u64;

/// An operand of a [`LaneOp`]: its first row and how many of its low bits count.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LaneArg {
    pub row: Row,
    pub bits: u8,
}

/// Any arithmetic instruction, executed lane by lane. Hot ones have an [`Op`] of their own that must agree with it.
#[derive(Clone, Debug)]
pub(crate) struct LaneOp {
    pub function: LaneFn,
    pub modifiers: u32,
    pub result_bits: u8,
    pub args: Vec<LaneArg>,
}

/// How `setp` joins its comparison with a third predicate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BoolOp {
    And,
    Or,
    Xor,
}

/// Where a comparison's result goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PredicateOut {
    /// Predicate index or [`NONE`].
    pub p: u16,
    /// The complement (`%p|%q`), or [`NONE`].
    pub q: u16,
    pub combine: Option<(BoolOp, u16, bool)>,
}

/// What a memory instruction does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AtomicOp {
    Add,
    AddF32,
    AddF64,
    AddF16x2,
    AddBf16x2,
    AddF16,
    AddBf16,
    MinS,
    MinU,
    MaxS,
    MaxU,
    And,
    Or,
    Xor,
    Exch,
    Cas,
    Inc,
    Dec,
}

/// Ordering of an access with other blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ordering {
    Weak,
    Relaxed,
    Acquire,
    Release,
    AcquireRelease,
}

/// Operands of a load, store, atomic or cp.async.
#[derive(Clone, Debug)]
pub(crate) struct Access {
    pub space: Space,
    /// Bytes of one element: 1, 2, 4, 8, 16.
    pub bytes: u8,
    /// Elements a lane.
    pub count: u8,
    pub signed: bool,
    /// First row of the address and whether it is 64 bits wide.
    pub address: Row,
    pub wide: bool,
    pub offset: i64,
    /// Rows of the elements (destinations of a load, sources of a store); [`NONE`] for a sink.
    pub rows: Vec<Row>,
    /// Bits of each register among `rows`; more than `bytes` × 8 extends.
    pub register_bits: u8,
    pub ordering: Ordering,
    /// Goes through the non-coherent path: `ld.global.nc`.
    pub non_coherent: bool,
    /// A `.param` variable of a call, which lives in local memory here.
    pub call_param: bool,
    pub atomic: Option<AtomicOp>,
    /// Second source of `atom.cas`, or `src-size` of cp.async ([`NONE`]: all bytes).
    pub second: Row,
}

/// A basic block: the next one's instructions stand behind its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FlowBlock {
    pub start: u32,
    pub ranks: Ranks,
}

/// A kernel ready to run.
#[derive(Clone, Debug)]
pub(crate) struct Code {
    pub kernel: String,
    pub instructions: Vec<Inst>,
    /// Line in the PTX text of each instruction.
    pub ptx_lines: Vec<u32>,
    pub sources: Vec<SourceLine>,
    /// Opcode of each instruction: an index into `opcodes`.
    pub opcode_of: Vec<u16>,
    pub opcodes: Vec<String>,
    /// Basic block of each instruction: an index into `blocks`.
    pub block_of: Vec<u32>,
    pub blocks: Vec<FlowBlock>,
    /// Rows of the register file; constants come last.
    pub rows: usize,
    pub predicates: usize,
    pub constants: Vec<(Row, Constant)>,
    pub lane_ops: Vec<LaneOp>,
    pub outs: Vec<PredicateOut>,
    pub accesses: Vec<Access>,
    /// Rows of operands of instructions with more than four.
    pub lists: Vec<Vec<Row>>,
    pub static_shared: u32,
    pub local_bytes: u32,
    pub param_bytes: usize,
    pub max_threads: u32,
    /// Blocks talk to each other through atomics or ordered accesses, so the order in which they run can matter.
    pub communicates: bool,
    /// Module variables by index, as [`Constant::Global`] counts them.
    pub variables: Vec<Variable>,
}
