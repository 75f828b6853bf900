//! What a kernel did wrong, and where.

use std::fmt;

/// Kinds of findings; each is the check that found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// An access outside every allocation, or past the end of shared, local or parameter memory.
    OutOfBounds,
    /// An address that is no multiple of the access's bytes.
    Misaligned,
    /// A read of bytes that nobody wrote.
    Uninitialised,
    /// Two warps of a block touch a word of shared memory, one writes, and no barrier lies between; or a lane reads what another of its warp
    /// wrote, with no barrier of the warp between.
    SharedRace,
    /// Two blocks of a launch touch a byte, one writes, and nothing orders them.
    GlobalRace,
    /// A barrier that only some of a warp's threads execute.
    DivergentBarrier,
    /// A barrier completed although threads of the block ended without it.
    MissingBarrier,
    /// A shuffle or vote that reads a lane which does not take part.
    InactiveShuffle,
    /// A tensor-core or matrix instruction without all 32 lanes.
    PartialMma,
    /// A read or write of shared memory that a copy in flight will write.
    InFlightRead,
    /// A write to a read-only allocation.
    ReadOnlyWrite,
    /// A 32-bit sum or product that goes into an address and wrapped around.
    OffsetOverflow,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Kind; 12] = [
        Kind::OutOfBounds,
        Kind::Misaligned,
        Kind::Uninitialised,
        Kind::SharedRace,
        Kind::GlobalRace,
        Kind::DivergentBarrier,
        Kind::MissingBarrier,
        Kind::InactiveShuffle,
        Kind::PartialMma,
        Kind::InFlightRead,
        Kind::ReadOnlyWrite,
        Kind::OffsetOverflow,
    ];

    /// A few words for a report.
    pub fn title(self) -> &'static str {
        match self {
            Kind::OutOfBounds => "out of bounds",
            Kind::Misaligned => "misaligned",
            Kind::Uninitialised => "uninitialised read",
            Kind::SharedRace => "race in shared memory",
            Kind::GlobalRace => "race between blocks",
            Kind::DivergentBarrier => "divergent barrier",
            Kind::MissingBarrier => "missing barrier",
            Kind::InactiveShuffle => "shuffle from an inactive lane",
            Kind::PartialMma => "matrix instruction with a partial mask",
            Kind::InFlightRead => "access to a copy in flight",
            Kind::ReadOnlyWrite => "write to a read-only allocation",
            Kind::OffsetOverflow => "integer overflow of an offset",
        }
    }
}

/// One fault: the first of its kind at its instruction, in the block of lowest index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which check found it.
    pub kind: Kind,
    /// Kernel.
    pub kernel: String,
    /// `file:line` of the source, through `.loc`; `?` if the PTX has none.
    pub source: String,
    /// Line in the PTX text.
    pub ptx_line: u32,
    /// The instruction's opcode.
    pub instruction: String,
    /// Block index.
    pub block: [u32; 3],
    /// Thread index within the block.
    pub thread: [u32; 3],
    /// The address, as the kernel has it; 0 where none is involved.
    pub address: u64,
    /// The allocation or state space and the offset in it; empty where none is involved.
    pub allocation: String,
    /// What happened, with the numbers.
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [bx, by, bz] = self.block;
        let [tx, ty, tz] = self.thread;
        write!(
            f,
            "{}: {} at {} (PTX line {}, `{}`)",
            self.kernel,
            self.kind.title(),
            self.source,
            self.ptx_line,
            self.instruction
        )?;
        write!(f, ", block ({bx},{by},{bz}), thread ({tx},{ty},{tz})")?;
        if !self.allocation.is_empty() {
            write!(f, ", address {:#x} in {}", self.address, self.allocation)?;
        }
        write!(f, ": {}", self.message)
    }
}
