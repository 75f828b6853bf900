//! Each check has a kernel that must raise it and nothing else, and a correct twin that must raise nothing.

mod support;

use simulator::{Access, Kind, Launch, Memory, Module, Options, Report, SimError, run};
use support::{Params, everything, kernel, kinds, run_body, words};

/// `%rd1` is the address of the thread's own word of the buffer.
const OWN: &str = "mul.wide.u32 %rd2, %r0, 4; add.s64 %rd1, %rd0, %rd2;\n";
/// `%rd1` is the address of a word of its own for each thread of the grid.
const OWN_IN_GRID: &str = "mov.u32 %r20, %ctaid.x; mov.u32 %r21, %ntid.x; mad.lo.s32 %r22, %r20, %r21, %r0; mul.wide.u32 %rd2, %r22, 4; add.s64 %rd1, %rd0, %rd2;\n";

struct Run {
    grid: u32,
    block: u32,
    bytes: usize,
    initialised: bool,
}

const ONE_WARP: Run = Run { grid: 1, block: 32, bytes: 128, initialised: true };
const TWO_WARPS: Run = Run { grid: 1, block: 64, bytes: 256, initialised: true };

/// `bad` raises exactly `kind`, `good` nothing.
fn pair(kind: Kind, how: Run, bad: &str, good: &str) {
    let found = run_body(bad, how.grid, how.block, how.bytes, how.initialised).unwrap().0;
    assert!(!found.findings.is_empty(), "{kind:?} was not raised by\n{bad}");
    for finding in &found.findings {
        assert_eq!(finding.kind, kind, "{finding}");
        assert!(!finding.message.is_empty() && finding.ptx_line > 6, "{finding}");
    }
    let clean = run_body(good, how.grid, how.block, how.bytes, how.initialised).unwrap().0;
    assert!(clean.findings.is_empty(), "{}", clean.findings[0]);
}

#[test]
fn out_of_bounds_of_an_allocation() {
    pair(
        Kind::OutOfBounds,
        ONE_WARP,
        &format!("{OWN}st.global.u32 [%rd1+4], %r0;"),
        &format!("{OWN}st.global.u32 [%rd1], %r0;"),
    );
    // The last lane alone is outside, and the finding says so.
    let report = run_body(&format!("{OWN}ld.global.u32 %r1, [%rd1+4];"), 1, 32, 128, true).unwrap().0;
    let f = &report.findings[0];
    assert_eq!((f.thread, f.block), ([31, 0, 0], [0, 0, 0]));
    assert!(f.allocation.contains("`buffer` + 128 (of 128 bytes)"), "{f}");
}

#[test]
fn below_an_allocation_and_null() {
    let report = run_body("ld.global.u32 %r1, [%rd0+-4];", 1, 32, 128, true).unwrap().0;
    assert_eq!(kinds(&report.findings), [Kind::OutOfBounds]);
    assert!(report.findings[0].allocation.contains("`buffer` − 4"), "{}", report.findings[0]);
    let report = run_body("mov.u64 %rd1, 0;\nld.global.u32 %r1, [%rd1];", 1, 32, 128, true).unwrap().0;
    assert!(report.findings[0].allocation.contains("null"), "{}", report.findings[0]);
}

#[test]
fn out_of_bounds_of_shared_and_local_memory() {
    let shared = ".shared .align 16 .b8 tile[128];\nmov.u32 %r1, tile; shl.b32 %r2, %r0, 2; add.s32 %r1, %r1, %r2;\n";
    pair(
        Kind::OutOfBounds,
        ONE_WARP,
        &format!("{shared}st.shared.u32 [%r1+4], %r0;"),
        &format!("{shared}st.shared.u32 [%r1], %r0;"),
    );
    let local = ".local .align 4 .b8 depot[16];\nmov.u64 %rd3, depot;\n";
    pair(
        Kind::OutOfBounds,
        ONE_WARP,
        &format!("{local}st.local.u32 [%rd3+16], %r0;"),
        &format!("{local}st.local.u32 [%rd3+12], %r0;"),
    );
}

#[test]
fn misaligned() {
    pair(
        Kind::Misaligned,
        Run { bytes: 1024, ..ONE_WARP },
        &format!("{OWN}ld.global.v4.u32 {{%r1, %r2, %r3, %r4}}, [%rd1];"),
        "mul.wide.u32 %rd2, %r0, 16; add.s64 %rd1, %rd0, %rd2;\nld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%rd1];",
    );
}

#[test]
fn uninitialised_global() {
    let how = Run { initialised: false, ..ONE_WARP };
    pair(
        Kind::Uninitialised,
        how,
        &format!("{OWN}ld.global.u32 %r1, [%rd1];"),
        &format!("{OWN}st.global.u32 [%rd1], %r0;\nld.global.u32 %r1, [%rd1];"),
    );
    // A half that nobody wrote.
    let how = Run { initialised: false, ..ONE_WARP };
    pair(
        Kind::Uninitialised,
        how,
        &format!("{OWN}mov.b16 %h1, 7; st.global.u16 [%rd1], %h1;\nld.global.u32 %r1, [%rd1];"),
        &format!(
            "{OWN}mov.b16 %h1, 7; st.global.u16 [%rd1], %h1; st.global.u16 [%rd1+2], %h1;\nld.global.u32 %r1, [%rd1];"
        ),
    );
}

const TILE: &str =
    ".shared .align 16 .b8 tile[1024];\nmov.u32 %r1, tile; shl.b32 %r2, %r0, 2; add.s32 %r3, %r1, %r2;\n";

#[test]
fn uninitialised_shared_and_local() {
    pair(
        Kind::Uninitialised,
        ONE_WARP,
        &format!("{TILE}ld.shared.u32 %r4, [%r3];"),
        &format!("{TILE}st.shared.u32 [%r3], %r0;\nld.shared.u32 %r4, [%r3];"),
    );
    let local = ".local .align 4 .b8 depot[16];\nmov.u64 %rd3, depot;\n";
    pair(
        Kind::Uninitialised,
        ONE_WARP,
        &format!("{local}st.local.u32 [%rd3], %r0;\nld.local.u32 %r1, [%rd3+4];"),
        &format!("{local}st.local.u32 [%rd3], %r0;\nld.local.u32 %r1, [%rd3];"),
    );
}

#[test]
fn race_in_shared_memory() {
    // Each thread writes its word and reads that of the thread 32 further on.
    let write = format!("{TILE}st.shared.u32 [%r3], %r0;\nxor.b32 %r5, %r2, 128; add.s32 %r5, %r1, %r5;\n");
    pair(
        Kind::SharedRace,
        TWO_WARPS,
        // The first warp reads what the second has not written yet: filled beforehand, so that only the race is wrong.
        &format!(
            "{TILE}st.shared.u32 [%r3], %r0;\nbar.sync 0;\nst.shared.u32 [%r3], %r2;\nxor.b32 %r5, %r2, 128; add.s32 %r5, %r1, %r5;\nld.shared.u32 %r4, [%r5];"
        ),
        &format!("{write}bar.sync 0;\nld.shared.u32 %r4, [%r5];"),
    );
    // Write after read: the barrier before the second write is missing.
    pair(
        Kind::SharedRace,
        TWO_WARPS,
        &format!("{write}bar.sync 0;\nld.shared.u32 %r4, [%r5];\nst.shared.u32 [%r3], %r4;"),
        &format!("{write}bar.sync 0;\nld.shared.u32 %r4, [%r5];\nbar.sync 0;\nst.shared.u32 [%r3], %r4;"),
    );
}

#[test]
fn named_barriers_order_their_warps() {
    let how = || Run { grid: 1, block: 96, bytes: 512, initialised: true };
    let text = |threads: &str| {
        format!(
            "{TILE}setp.ge.u32 %p1, %r0, 64;\n@%p1 bra DONE;\nst.shared.u32 [%r3], %r0;\nbar.sync 1, {threads};\nxor.b32 %r5, %r2, 128; add.s32 %r5, %r1, %r5;\nld.shared.u32 %r4, [%r5];\nDONE: bar.sync 0;"
        )
    };
    let clean = run_body(&text("64"), how().grid, how().block, how().bytes, true).unwrap().0;
    assert!(clean.findings.is_empty(), "{}", clean.findings[0]);
    // 96 threads never come.
    let error = run_body(&text("96"), how().grid, how().block, how().bytes, true).unwrap_err();
    assert!(matches!(error, SimError::Deadlock { .. }), "{error}");
}

#[test]
fn race_between_blocks() {
    pair(
        Kind::GlobalRace,
        Run { grid: 2, block: 32, bytes: 256, initialised: true },
        &format!("{OWN}st.global.u32 [%rd1], %r0;"),
        &format!("{OWN_IN_GRID}st.global.u32 [%rd1], %r0;"),
    );
    // Different bytes of one word are no race, a read of another block's byte is one.
    let bytes = "mov.u32 %r20, %ctaid.x; cvt.u64.u32 %rd2, %r20; add.s64 %rd1, %rd0, %rd2; mov.b16 %h1, 1;\n";
    pair(
        Kind::GlobalRace,
        Run { grid: 4, block: 1, bytes: 8, initialised: true },
        &format!("{bytes}st.global.u8 [%rd1], %h1;\nld.global.u8 %h2, [%rd0+3];"),
        &format!("{bytes}st.global.u8 [%rd1], %h1;\nld.global.u8 %h2, [%rd0+4];"),
    );
}

#[test]
fn the_last_block_may_read_behind_fences_only() {
    // Word n of the buffer is block n's part; word 8 the ticket; the last block adds the parts into word 9.
    let text = |before: &str, after: &str| {
        format!(
            "mov.u32 %r1, %ctaid.x; mul.wide.u32 %rd2, %r1, 4; add.s64 %rd1, %rd0, %rd2;\nst.global.u32 [%rd1], %r1;\n{before}\natom.global.add.u32 %r2, [%rd0+32], 1;\n\
             setp.ne.u32 %p1, %r2, 7;\n@%p1 bra DONE;\n{after}\nld.global.u32 %r3, [%rd0];\nld.global.u32 %r4, [%rd0+28];\nadd.s32 %r5, %r3, %r4;\nst.global.u32 [%rd0+36], %r5;\nDONE:"
        )
    };
    let how = || Run { grid: 8, block: 1, bytes: 64, initialised: true };
    pair(Kind::GlobalRace, how(), &text("", "membar.gl;"), &text("membar.gl;", "membar.gl;"));
    pair(Kind::GlobalRace, how(), &text("membar.gl;", ""), &text("fence.acq_rel.gpu;", "fence.acq_rel.gpu;"));
    let (_, words) = run_body(&text("membar.gl;", "membar.gl;"), 8, 1, 64, true).unwrap();
    assert_eq!((words[8], words[9]), (8, 7));
}

#[test]
fn blocks_that_wait_for_later_ones() {
    // Block 0 spins until block 1 sets a flag: residents are admitted as they are needed.
    let text = "mov.u32 %r1, %ctaid.x; setp.ne.u32 %p1, %r1, 0;\n@%p1 bra SET;\nWAIT: ld.acquire.gpu.global.u32 %r2, [%rd0];\nsetp.eq.u32 %p2, %r2, 0;\n@%p2 bra WAIT;\nld.global.u32 %r3, [%rd0+4];\nst.global.u32 [%rd0+8], %r3;\nbra DONE;\nSET: mov.u32 %r4, 5; st.global.u32 [%rd0+4], %r4;\nmov.u32 %r5, 1; st.release.gpu.global.u32 [%rd0], %r5;\nDONE:";
    let (report, words) = run_body(text, 2, 1, 16, true).unwrap();
    assert!(report.findings.is_empty(), "{}", report.findings[0]);
    assert_eq!(words[2], 5);
    // Nobody sets it.
    let error = run_body(text, 1, 1, 16, true).unwrap_err();
    assert!(matches!(error, SimError::Deadlock { .. }), "{error}");
}

#[test]
fn divergent_barrier() {
    pair(
        Kind::DivergentBarrier,
        ONE_WARP,
        "setp.lt.u32 %p1, %r0, 16;\n@%p1 bar.sync 0;",
        "setp.lt.u32 %p1, %r0, 16;\n@%p1 add.s32 %r1, %r0, 1;\nbar.sync 0;",
    );
    pair(
        Kind::DivergentBarrier,
        ONE_WARP,
        "setp.lt.u32 %p1, %r0, 16;\n@%p1 bra SKIP;\nbar.warp.sync -1;\nSKIP:",
        "setp.lt.u32 %p1, %r0, 16;\n@%p1 bra SKIP;\nbar.warp.sync 0xffff0000;\nSKIP:",
    );
}

#[test]
fn missing_barrier() {
    pair(
        Kind::MissingBarrier,
        TWO_WARPS,
        "setp.lt.u32 %p1, %r0, 32;\n@%p1 bra SKIP;\nbar.sync 0;\nSKIP:",
        "setp.lt.u32 %p1, %r0, 32;\n@%p1 bra SKIP;\nadd.s32 %r1, %r1, 1;\nSKIP: bar.sync 0;",
    );
}

#[test]
fn race_between_lanes_of_a_warp() {
    // Each lane reads its neighbour's word.
    let text = |between: &str| {
        format!(
            "{TILE}st.shared.u32 [%r3], %r0;\n{between}\nxor.b32 %r5, %r2, 4; add.s32 %r5, %r1, %r5;\nld.shared.u32 %r4, [%r5];"
        )
    };
    pair(Kind::SharedRace, ONE_WARP, &text("vote.sync.ballot.b32 %r6, %p1, -1;"), &text("bar.warp.sync -1;"));
    pair(Kind::SharedRace, ONE_WARP, &text(""), &text("bar.sync 0;"));
    // Its own word a lane may read at once.
    let own = format!("{TILE}st.shared.u32 [%r3], %r0;\nld.shared.u32 %r4, [%r3];");
    assert!(run_body(&own, 1, 32, 128, true).unwrap().0.findings.is_empty());
}

#[test]
fn shuffle_from_an_inactive_lane() {
    let half = "setp.lt.u32 %p1, %r0, 16;\n@!%p1 bra SKIP;\n";
    pair(
        Kind::InactiveShuffle,
        ONE_WARP,
        &format!("{half}shfl.sync.bfly.b32 %r1, %r0, 16, 31, 0xffff;\nSKIP:"),
        &format!("{half}shfl.sync.bfly.b32 %r1, %r0, 8, 31, 0xffff;\nSKIP:"),
    );
    pair(
        Kind::InactiveShuffle,
        ONE_WARP,
        &format!("{half}vote.sync.ballot.b32 %r1, %p1, -1;\nSKIP:"),
        &format!("{half}vote.sync.ballot.b32 %r1, %p1, 0xffff;\nSKIP:"),
    );
    // Lanes that their mask does not name; halves of a warp may have a mask each.
    pair(
        Kind::InactiveShuffle,
        ONE_WARP,
        "shfl.sync.bfly.b32 %r1, %r0, 8, 31, 0xffff;",
        "setp.lt.u32 %p1, %r0, 16;\nselp.b32 %r2, 0xffff, 0xffff0000, %p1;\nshfl.sync.bfly.b32 %r1, %r0, 8, 31, %r2;",
    );
}

#[test]
fn partial_matrix_instruction() {
    let mma = "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%f1, %f2, %f3, %f4}, {%r1, %r2, %r3, %r4}, {%r5, %r6}, {%f1, %f2, %f3, %f4};";
    pair(Kind::PartialMma, ONE_WARP, &format!("setp.lt.u32 %p1, %r0, 31;\n@%p1 {mma}"), mma);
}

#[test]
fn copy_in_flight() {
    let copy = format!(
        "{TILE}shl.b32 %r6, %r0, 4; add.s32 %r7, %r1, %r6; cvt.u64.u32 %rd2, %r6; add.s64 %rd1, %rd0, %rd2;\ncp.async.cg.shared.global [%r7], [%rd1], 16;\ncp.async.commit_group;\n"
    );
    let how = || Run { bytes: 512, ..ONE_WARP };
    pair(
        Kind::InFlightRead,
        how(),
        // Written beforehand, so that the bytes are initialised.
        &format!("{TILE}st.shared.u32 [%r3], %r0;\n{}ld.shared.u32 %r4, [%r3];", copy.replace(TILE, "")),
        &format!(
            "{TILE}st.shared.u32 [%r3], %r0;\n{}cp.async.wait_group 0; bar.warp.sync -1;\nld.shared.u32 %r4, [%r3];",
            copy.replace(TILE, "")
        ),
    );
    // A group too few waited for.
    let again = copy.replace(TILE, "").replace("[%r7]", "[%r7+512]");
    pair(
        Kind::InFlightRead,
        how(),
        &format!(
            "{TILE}st.shared.u32 [%r3], %r0; st.shared.u32 [%r3+512], %r0;\n{}{again}cp.async.wait_group 1;\nld.shared.u32 %r4, [%r3+512];",
            copy.replace(TILE, "")
        ),
        &format!(
            "{TILE}st.shared.u32 [%r3], %r0; st.shared.u32 [%r3+512], %r0;\n{}{again}cp.async.wait_group 1; bar.warp.sync -1;\nld.shared.u32 %r4, [%r3];",
            copy.replace(TILE, "")
        ),
    );
}

#[test]
fn a_copy_with_a_short_source_fills_zeros() {
    let text = format!(
        "{TILE}mov.u32 %r6, 4;\ncp.async.ca.shared.global [%r1], [%rd0], 16, %r6;\ncp.async.wait_all;\nld.shared.v4.u32 {{%r8, %r9, %r10, %r11}}, [%r1];\nst.global.v4.u32 [%rd0+16], {{%r8, %r9, %r10, %r11}};"
    );
    let module = Module::parse(&kernel(&text), "copy.ptx").unwrap();
    let mut memory = Memory::new();
    let data: Vec<u32> = (1..=8).collect();
    let buffer = memory.allocate_with("buffer", words(&data), Access::ReadWrite);
    let launch = Launch::new([1, 1, 1], [1, 1, 1], Params::new().pointer(buffer).bytes(8));
    let report = run(&module, "k", &launch, &mut memory, &everything()).unwrap();
    assert!(report.findings.is_empty(), "{}", report.findings[0]);
    assert_eq!(support::read_words(&memory, buffer, 8), [1, 2, 3, 4, 1, 0, 0, 0]);
}

/// A kernel over a read-only table and a read-write buffer.
fn with_table(body: &str) -> Report {
    let text = kernel(body)
        .replace(".param .u64 p)", ".param .u64 p, .param .u64 t)")
        .replace("ld.param.u64 %rd0, [p];", "ld.param.u64 %rd0, [p]; ld.param.u64 %rd9, [t];");
    let module = Module::parse(&text, "table.ptx").unwrap();
    let mut memory = Memory::new();
    let buffer = memory.allocate_with("buffer", vec![0; 128], Access::ReadWrite);
    let table = memory.allocate_with("table", vec![7; 128], Access::ReadOnly);
    let launch = Launch::new([1, 1, 1], [32, 1, 1], Params::new().pointer(buffer).pointer(table).bytes(8));
    let report = run(&module, "k", &launch, &mut memory, &everything()).unwrap();
    assert_eq!(memory.read(table, 128).unwrap(), vec![7; 128], "a read-only allocation changed");
    report
}

#[test]
fn write_to_a_read_only_allocation() {
    for bad in ["st.global.u32 [%rd9], %r0;", "atom.global.add.u32 %r1, [%rd9], 1;", "st.u32 [%rd9], %r0;"] {
        assert_eq!(kinds(&with_table(bad).findings), [Kind::ReadOnlyWrite], "{bad}");
    }
    assert!(with_table(&format!("{OWN}ld.global.u32 %r1, [%rd9];\nst.global.u32 [%rd1], %r1;")).findings.is_empty());
}

#[test]
fn a_non_coherent_load_of_what_was_written() {
    let write = format!("{OWN}st.global.u32 [%rd1], %r0;\n");
    pair(
        Kind::GlobalRace,
        ONE_WARP,
        &format!("{write}ld.global.nc.u32 %r1, [%rd1];"),
        &format!("{write}ld.global.u32 %r1, [%rd1];"),
    );
}

#[test]
fn integer_overflow_of_an_offset() {
    // Row 70,000 of 70,000 columns: the product leaves 32 bits, then is sign-extended into an address within bounds by chance.
    let text = |rows: u32| {
        format!(
            "mov.u32 %r1, {rows}; mul.lo.s32 %r2, %r1, {rows}; and.b32 %r3, %r2, 0; mul.wide.s32 %rd1, %r2, 0;\nadd.s64 %rd2, %rd0, %rd1;\nld.global.u32 %r4, [%rd2];"
        )
    };
    pair(Kind::OffsetOverflow, ONE_WARP, &text(70_000), &text(40_000));
    // A hash wraps around on purpose; its remainder is the offset.
    let hash = "mul.lo.u32 %r2, %r0, 1664525; add.u32 %r2, %r2, 1013904223; mul.lo.u32 %r2, %r2, %r2; rem.u32 %r3, %r2, 32; mul.wide.u32 %rd1, %r3, 4;\nadd.s64 %rd2, %rd0, %rd1;\nld.global.u32 %r4, [%rd2];";
    assert!(run_body(hash, 1, 32, 128, true).unwrap().0.findings.is_empty());
    // Counting down wraps as unsigned, not as signed.
    let down = "add.u32 %r1, %r0, 1; add.u32 %r1, %r1, -1; mul.wide.u32 %rd1, %r1, 4;\nadd.s64 %rd2, %rd0, %rd1;\nld.global.u32 %r4, [%rd2];";
    assert!(run_body(down, 1, 32, 128, true).unwrap().0.findings.is_empty());
}

#[test]
fn findings_name_the_source_and_come_once() {
    let text = kernel(&format!(
        "{OWN}mov.u32 %r5, 0;\nLOOP:\n.loc 1 42 7\nld.global.u32 %r1, [%rd1+256];\nadd.s32 %r5, %r5, 1;\nsetp.lt.u32 %p1, %r5, 4;\n@%p1 bra LOOP;"
    ));
    let text = format!("{text}\n.file 1 \"dir/model.cu\"\n");
    let module = Module::parse(&text, "k.ptx").unwrap();
    let mut memory = Memory::new();
    let buffer = memory.allocate_with("buffer", vec![0; 128], Access::ReadWrite);
    let launch = Launch::new([3, 1, 1], [32, 1, 1], Params::new().pointer(buffer).bytes(8));
    let report = run(&module, "k", &launch, &mut memory, &everything()).unwrap();
    assert_eq!(report.findings.len(), 1);
    let f = &report.findings[0];
    assert_eq!((f.source.as_str(), f.kernel.as_str(), f.block), ("model.cu:42", "k", [0, 0, 0]));
    let line = f.to_string();
    for part in ["out of bounds", "model.cu:42", "block (0,0,0)", "thread (0,0,0)", "`buffer` + 256"] {
        assert!(line.contains(part), "{line} lacks {part}");
    }
}

#[test]
fn mbarriers_order_and_wait() {
    let text = format!(
        "{TILE}.shared .align 8 .b8 bar[8];\nmov.u32 %r10, bar; setp.ne.u32 %p1, %r0, 0;\n@%p1 bra READY;\nmbarrier.init.shared.b64 [%r10], 64;\nREADY: bar.sync 0;\n\
         st.shared.u32 [%r3], %r0;\nmbarrier.arrive.shared.b64 %rd5, [%r10];\nWAIT: mbarrier.try_wait.parity.shared.b64 %p2, [%r10], 0;\n@!%p2 bra WAIT;\n\
         xor.b32 %r5, %r2, 128; add.s32 %r5, %r1, %r5;\nld.shared.u32 %r4, [%r5];\n{OWN}st.global.u32 [%rd1], %r4;"
    );
    let (report, words) = run_body(&text, 1, 64, 256, true).unwrap();
    assert!(report.findings.is_empty(), "{}", report.findings[0]);
    assert_eq!((words[0], words[63]), (32, 31));
}

#[test]
fn endless_loops_traps_and_bad_launches_are_errors() {
    let module = Module::parse(&kernel("LOOP: bra LOOP;"), "loop.ptx").unwrap();
    let mut memory = Memory::new();
    let buffer = memory.allocate("buffer", 128, Access::ReadWrite);
    let params = Params::new().pointer(buffer).bytes(8);
    let options = Options { instruction_limit: 10_000, ..Options::default() };
    let error =
        run(&module, "k", &Launch::new([1, 1, 1], [32, 1, 1], params.clone()), &mut memory, &options).unwrap_err();
    assert_eq!(error, SimError::InstructionLimit { kernel: "k".into(), limit: 10_000 });
    assert!(matches!(run_body("trap;", 1, 32, 128, true), Err(SimError::Trap { .. })));
    for (grid, block, bytes) in [([0, 1, 1], [32, 1, 1], 8), ([1, 1, 1], [2048, 1, 1], 8), ([1, 1, 1], [32, 1, 1], 4)] {
        let error = run(&module, "k", &Launch::new(grid, block, vec![0; bytes]), &mut memory, &options).unwrap_err();
        assert!(matches!(error, SimError::BadLaunch { .. }), "{error}");
    }
    let error = run(&module, "nobody", &Launch::new([1, 1, 1], [32, 1, 1], params), &mut memory, &options).unwrap_err();
    assert!(error.to_string().contains("the module has k"), "{error}");
}
