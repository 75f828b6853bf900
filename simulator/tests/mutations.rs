//! Bugs seeded into whole kernels: each is caught by the check named for it, and the unmutated kernel raises nothing.

mod support;

use simulator::{Access, Kind, Launch, Memory, Module, SimError, run};
use support::{Params, everything, floats, halves, kinds, noise};

const GEMV: &str = include_str!("ptx/gemv.sm_80.ptx");
const GEMM: &str = include_str!("ptx/gemm.sm_80.ptx");
const GRID: &str = include_str!("ptx/grid.sm_80.ptx");

/// `text` with the n-th occurrence (from 0) of `what` replaced.
fn mutate(text: &str, what: &str, n: usize, with: &str) -> String {
    let at = text.match_indices(what).nth(n).unwrap_or_else(|| panic!("no `{what}` number {n}")).0;
    format!("{}{with}{}", &text[..at], &text[at + what.len()..])
}

/// Changes to a launch besides its text.
struct Setting {
    more_blocks: u32,
    short_output: usize,
    less_shared: u32,
    output: Access,
    written_input: bool,
}

const RIGHT: Setting =
    Setting { more_blocks: 0, short_output: 0, less_shared: 0, output: Access::ReadWrite, written_input: true };

fn finish(text: &str, kernel: &str, launch: &Launch, memory: &mut Memory) -> Vec<Kind> {
    let module = Module::parse(text, kernel).unwrap();
    let report = run(&module, kernel, launch, memory, &everything()).unwrap();
    for f in &report.findings {
        assert!(f.source.contains(".cu:"), "{f}");
    }
    kinds(&report.findings)
}

fn gemv(text: &str, how: &Setting) -> Vec<Kind> {
    let (rows, columns) = (10usize, 1024usize);
    let mut memory = Memory::new();
    let w = memory.allocate_with("weights", vec![0x5a; rows * columns / 2], Access::ReadOnly);
    let s = memory.allocate_with("scales", halves(&noise(rows * columns / 32, 1)), Access::ReadOnly);
    let x = memory.allocate("x", columns * 4, Access::ReadWrite);
    if how.written_input {
        memory.write(x, &floats(&noise(columns, 2))).unwrap();
    }
    let y = memory.allocate_with("y", vec![0; rows * 4 - how.short_output], how.output);
    let params =
        Params::new().pointer(w).pointer(s).pointer(x).pointer(y).int(rows as i32).int(columns as i32).bytes(8);
    let mut launch = Launch::new([3 + how.more_blocks, 1, 1], [128, 1, 1], params);
    launch.dynamic_shared = columns as u32 * 4 - how.less_shared;
    finish(text, "gemv_int4", &launch, &mut memory)
}

fn gemm(text: &str, how: &Setting) -> Vec<Kind> {
    let (m, n, k) = (64usize, 64usize, 128usize);
    let mut memory = Memory::new();
    let a = memory.allocate_with("a", halves(&noise(m * k, 3)), Access::ReadOnly);
    let b = memory.allocate_with("b", halves(&noise(n * k, 4)), Access::ReadOnly);
    let c = memory.allocate_with("c", vec![0; m * n * 4 - how.short_output], how.output);
    let params = Params::new().pointer(a).pointer(b).pointer(c).int(m as i32).int(n as i32).int(k as i32).bytes(8);
    let launch = Launch::new([2, 2 + how.more_blocks, 1], [64, 1, 1], params);
    finish(text, "gemm_f16", &launch, &mut memory)
}

fn grid(text: &str) -> Result<Vec<Kind>, SimError> {
    let blocks = 5;
    let mut memory = Memory::new();
    let input = memory.allocate_with("in", floats(&noise(blocks * 32, 5)), Access::ReadOnly);
    let parts = memory.allocate_with("parts", vec![0; blocks * 4], Access::ReadWrite);
    let out = memory.allocate_with("out", vec![0; blocks * 4], Access::ReadWrite);
    let params = Params::new().pointer(input).pointer(parts).pointer(out).int(2).bytes(1);
    let launch = Launch { cooperative: true, ..Launch::new([blocks as u32, 1, 1], [32, 1, 1], params) };
    let module = Module::parse(text, "grid.ptx").unwrap();
    Ok(kinds(&run(&module, "grid_sum", &launch, &mut memory, &everything())?.findings))
}

#[test]
fn unmutated_kernels_raise_nothing() {
    assert_eq!(gemv(GEMV, &RIGHT), []);
    assert_eq!(gemm(GEMM, &RIGHT), []);
    assert_eq!(grid(GRID).unwrap(), []);
}

#[test]
fn bugs_in_the_gemv() {
    let caught = |text: &str, how: Setting, kind: Kind| {
        let found = gemv(text, &how);
        assert!(found.contains(&kind), "{kind:?} is not among {found:?}");
    };
    caught(&mutate(GEMV, "bar.sync \t0;", 0, ""), RIGHT, Kind::SharedRace);
    // Off-by-one bound: a row too many.
    caught(&mutate(GEMV, "setp.ge.s32 \t%p3", 0, "setp.gt.s32 \t%p3"), RIGHT, Kind::OutOfBounds);
    // Every block computes the rows of the first.
    caught(&mutate(GEMV, "%ctaid.x", 0, "0"), RIGHT, Kind::GlobalRace);
    caught(&mutate(GEMV, "[%rd33], %f4", 0, "[%rd33+2], %f4"), RIGHT, Kind::Misaligned);
    caught(&mutate(GEMV, "[%rd33], %f4", 0, "[%rd33+8], %f4"), RIGHT, Kind::OutOfBounds);
    // Lanes that left the reduction are still asked for their sums.
    let shuffle = GEMV.match_indices("shfl.sync.bfly").next().unwrap().0;
    let early = format!("{}setp.ge.s32 \t%p4, %r6, 24; @%p4 exit;\n{}", &GEMV[..shuffle], &GEMV[shuffle..]);
    caught(&early, RIGHT, Kind::InactiveShuffle);
    caught(GEMV, Setting { written_input: false, ..RIGHT }, Kind::Uninitialised);
    caught(GEMV, Setting { less_shared: 4, ..RIGHT }, Kind::OutOfBounds);
    caught(GEMV, Setting { short_output: 4, ..RIGHT }, Kind::OutOfBounds);
    caught(GEMV, Setting { output: Access::ReadOnly, ..RIGHT }, Kind::ReadOnlyWrite);
    // Too many blocks are harmless here: the kernel guards its rows.
    assert_eq!(gemv(GEMV, &Setting { more_blocks: 2, ..RIGHT }), []);
}

#[test]
fn bugs_in_the_gemm() {
    let caught = |text: &str, how: Setting, kind: Kind| {
        let found = gemm(text, &how);
        assert!(found.contains(&kind), "{kind:?} is not among {found:?}");
    };
    caught(&mutate(GEMM, "bar.sync \t0;", 0, ""), RIGHT, Kind::SharedRace);
    caught(&mutate(GEMM, "bar.sync \t0;", 1, ""), RIGHT, Kind::SharedRace);
    caught(&mutate(GEMM, "cp.async.wait_group 1;", 0, ""), RIGHT, Kind::InFlightRead);
    caught(&mutate(GEMM, "cp.async.wait_group 1;", 0, "cp.async.wait_group 2;"), RIGHT, Kind::InFlightRead);
    caught(&mutate(GEMM, "cp.async.wait_group 0;", 0, ""), RIGHT, Kind::InFlightRead);
    caught(&mutate(GEMM, "cp.async.commit_group;", 0, ""), RIGHT, Kind::InFlightRead);
    caught(&mutate(GEMM, "[%r85], [%rd60], 16", 0, "[%r85+8], [%rd60], 16"), RIGHT, Kind::Misaligned);
    caught(&mutate(GEMM, "[%r85], [%rd60], 16", 0, "[%r85], [%rd60+65536], 16"), RIGHT, Kind::OutOfBounds);
    caught(&mutate(GEMM, "[%r277]", 0, "[%r277+10240]"), RIGHT, Kind::OutOfBounds);
    // The padding between rows is never written.
    caught(&mutate(GEMM, "[%r277]", 0, "[%r277+64]"), RIGHT, Kind::Uninitialised);
    let mma = GEMM.match_indices("mma.sync").next().unwrap().0;
    let partial = format!("{}setp.lt.u32 %p1, %r3, 40; @%p1 {}", &GEMM[..mma], &GEMM[mma..]);
    caught(&partial, RIGHT, Kind::PartialMma);
    let divergent = mutate(GEMM, "bar.sync \t0;", 0, "setp.lt.u32 %p1, %r3, 16; @%p1 bar.sync \t0;");
    caught(&divergent, RIGHT, Kind::DivergentBarrier);
    caught(GEMM, Setting { more_blocks: 1, ..RIGHT }, Kind::OutOfBounds);
    caught(GEMM, Setting { short_output: 16, ..RIGHT }, Kind::OutOfBounds);
    caught(GEMM, Setting { output: Access::ReadOnly, ..RIGHT }, Kind::ReadOnlyWrite);
}

#[test]
fn bugs_in_the_grid_barrier() {
    // Fences: the first publishes a block's part, the one behind the spin makes the others' visible.
    let without_fences = GRID.replace("membar.gl;", "").replace("ld.acquire.gpu.global", "ld.relaxed.gpu.global");
    assert!(grid(&without_fences).unwrap().contains(&Kind::GlobalRace));
    // Blocks that do not wait read parts that nothing orders.
    let no_wait = mutate(GRID, "@%p5 bra \t$L__BB0_6;", 0, "");
    assert!(grid(&no_wait).unwrap().contains(&Kind::GlobalRace));
    // A barrier that expects a block too many never opens.
    let too_many = mutate(GRID, "setp.eq.s32 \t%p4, %r15, %r3;", 0, "setp.eq.s32 \t%p4, %r15, 5;");
    assert!(matches!(grid(&too_many), Err(SimError::Deadlock { .. })));
}
