//! What the parser leaves: functions of instructions whose registers and labels are numbers already, opcodes still words.

/// A register of a function, an index into [`Function::registers`].
pub(crate) type RegisterId = u32;

/// Width of a register. PTX checks types loosely between equal widths, so the width is all that execution needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Width {
    Predicate,
    Bits(u32),
}

#[derive(Clone, Debug)]
pub(crate) struct Register {
    pub width: Width,
}

/// A place in a source file, through `.loc`. `file` is an index into [`super::Module`]'s table; line 0 is unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SourceLine {
    pub file: u32,
    pub line: u32,
}

/// A read-only register of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    LaneId,
    WarpId,
    NWarpId,
    SmId,
    NSmId,
    GridId,
    LaneMask(LaneMask),
    Clock,
    DynamicShared,
    TotalShared,
    ClusterCtaid(u8),
    ClusterNctaid(u8),
    ClusterCtaRank,
    ClusterNctaRank,
    ClusterId(u8),
    NClusterId(u8),
    Zero,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum LaneMask {
    Equal,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Operand {
    Register(RegisterId),
    /// `!%p`
    Not(RegisterId),
    Integer(u64),
    Single(u32),
    Double(u64),
    Special(Special),
    /// A variable, function or label by name, with a byte offset.
    Symbol(String, i64),
    /// `[base + offset]`
    Address(Box<Operand>, i64),
    Vector(Vec<Operand>),
    /// `%r|%p`
    Pair(Box<Operand>, Box<Operand>),
    /// `( … )` of a call.
    List(Vec<Operand>),
    /// A label, by its number within the function.
    Label(u32),
    /// `_`
    Sink,
}

#[derive(Clone, Debug)]
pub(crate) struct Instruction {
    /// Predicate register and whether it is negated.
    pub guard: Option<(RegisterId, bool)>,
    pub opcode: String,
    pub operands: Vec<Operand>,
    pub line: u32,
    pub column: u32,
    pub source: SourceLine,
}

#[derive(Clone, Debug)]
pub(crate) enum Statement {
    Label(u32),
    Instruction(Instruction),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Space {
    Generic,
    Global,
    Shared,
    Local,
    Const,
    Param,
}

/// A variable of a module or a function.
#[derive(Clone, Debug)]
pub(crate) struct Variable {
    pub name: String,
    pub space: Space,
    pub align: u32,
    pub size: u64,
    /// `.extern .shared x[]`: its size is that of the launch's dynamic shared memory.
    pub dynamic: bool,
    /// Initial bytes; shorter than `size` means zeros after them; `None` means never written.
    pub initial: Option<Vec<u8>>,
    /// Addresses of other variables within the initial bytes: where, whose, plus what.
    pub relocations: Vec<(usize, String, i64)>,
}

#[derive(Clone, Debug)]
pub(crate) struct Function {
    pub name: String,
    pub kernel: bool,
    pub defined: bool,
    pub results: Vec<Variable>,
    pub params: Vec<Variable>,
    pub registers: Vec<Register>,
    pub variables: Vec<Variable>,
    pub label_count: u32,
    pub body: Vec<Statement>,
    /// `.maxntid` or `.reqntid`: most threads a block, 0 if not said.
    pub max_threads: u32,
    pub line: u32,
}
