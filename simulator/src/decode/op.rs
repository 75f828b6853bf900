//! What an instruction does. Those named for a type are the hot ones, executed 32 lanes at once; everything else that is arithmetic goes
//! through [`Op::Lane`].

/// Fields not named are unused and stand at a row that always holds 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Op {
    /// d = a
    Mov32,
    Mov64,
    Add32,
    Sub32,
    MulLo32,
    MadLo32,
    And32,
    Or32,
    Xor32,
    Not32,
    Shl32,
    ShrU32,
    ShrS32,
    MinS32,
    MaxS32,
    MinU32,
    MaxU32,
    /// x: the table
    Lop3,
    /// c: predicate, x: negated
    Select32,
    Select64,
    Add64,
    Sub64,
    Shl64,
    MulWideS32,
    MulWideU32,
    MadWideS32,
    MadWideU32,
    SignExtend64,
    ZeroExtend64,
    /// Low word of a 64-bit value.
    Narrow32,
    /// x: comparison << 16 | index of a `PredicateOut`
    SetS32,
    SetU32,
    SetF32,
    SetS64,
    SetU64,
    AddF32,
    SubF32,
    MulF32,
    FmaF32,
    MinF32,
    MaxF32,
    AddF16x2,
    SubF16x2,
    MulF16x2,
    FmaF16x2,
    F32FromF16,
    F16FromF32,
    F32FromS32,
    /// d = low 16 bits of a, b << 16
    Pack16,
    /// d, x = halves of a (x is a row)
    Unpack16,
    /// Any arithmetic: x is an index of `lane_ops`.
    Lane,
    /// x: index of `lane_ops`, d: index of `outs`
    LaneSet,
    /// Several moves at once: x is a list of (to, from) rows.
    Moves,
    /// Predicates: d = a op b; x bit 0, 1: a, b negated; bits 2..: 0 and, 1 or, 2 xor, 3 a alone
    Predicate,
    /// Predicate d = a ≠ 0 (`mov.pred` of a constant)
    PredicateFromRow,
    /// x: index of `accesses`
    Load,
    Store,
    Atomic,
    /// x: index of `accesses`; rows[0] is the global address (64 bits), rows[1] the value of `src-size`
    CpAsync,
    CpAsyncCommit,
    /// x: groups that may stay in flight; u32::MAX: wait for everything (`wait_all`)
    CpAsyncWait,
    /// d: rows from x as list; a: address, c: 1 if wide; x: list [matrices, transposed, rows…]; b: unused
    LdMatrix,
    StMatrix,
    /// x: list [d, a]
    MovMatrix,
    /// x: list, see `exec::mma`
    Mma,
    /// d; a: value, b: lane, c: clamp word; x: list [mode, mask row, predicate or NONE]
    Shuffle,
    /// x: list [mode, destination, predicate, negated, mask row]
    Vote,
    /// d = lanes with a's value; x: list [all, wide, mask row, predicate]
    Match,
    /// d = reduction of a; b: mask; x: kind
    Redux,
    ActiveMask,
    /// Predicate c, row d: x list [mask row]
    Elect,
    /// x: target
    Branch,
    Exit,
    /// a: barrier, b: threads (row of 0: all); x: index of list [kind, destination, predicate, negated]
    Barrier,
    /// b: mask
    WarpBarrier,
    /// x: 0 block, 1 device or system; acquire and release
    Fence,
    NanoSleep,
    /// x: list, see `exec::mbarrier`
    MBarrier,
    /// x: 0 launch_dependents, 1 wait
    GridDependency,
    /// Cluster barriers: of clusters of one block only.
    ClusterBarrier,
    Trap,
    Nop,
}
