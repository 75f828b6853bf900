//! Device memory as the host sees it, and what passes from launch to launch.

mod support;

use std::sync::Arc;

use simulator::{Access, Kind, Launch, Memory, Module, Pointer, SimError, run};
use support::{Params, everything, kernel, kinds};

#[test]
fn bytes_go_in_and_out_at_any_offset() {
    for access in [Access::ReadOnly, Access::ReadWrite] {
        let mut memory = Memory::new();
        let p = memory.allocate("a", 11, access);
        assert!(!memory.initialised(p, 11).unwrap());
        memory.write(p.offset(3), &[1, 2, 3, 4, 5]).unwrap();
        assert_eq!(memory.read(p.offset(2), 7).unwrap(), [0, 1, 2, 3, 4, 5, 0]);
        assert!(memory.initialised(p.offset(3), 5).unwrap() && !memory.initialised(p.offset(3), 6).unwrap());
        memory.fill(p, 11, 9).unwrap();
        assert_eq!(memory.read(p, 11).unwrap(), [9; 11]);
        memory.invalidate(p.offset(4), 1).unwrap();
        assert!(memory.initialised(p, 4).unwrap() && !memory.initialised(p, 5).unwrap());
        let q = memory.allocate("b", 4, Access::ReadWrite);
        memory.copy(q, p, 4).unwrap();
        assert!(memory.initialised(q, 4).unwrap());
        memory.copy(q, p.offset(3), 2).unwrap();
        assert!(!memory.initialised(q, 2).unwrap());
        assert_eq!(memory.locate(p.offset(5)), Some(("a", 5)));
        assert_eq!(memory.allocated_bytes(), 15);
    }
}

#[test]
fn host_accesses_outside_are_errors_that_name_the_allocation() {
    let mut memory = Memory::new();
    let p = memory.allocate("weights of layer 3", 8, Access::ReadWrite);
    let error = memory.write(p.offset(4), &[0; 5]).unwrap_err();
    assert!(error.to_string().contains("weights of layer 3"), "{error}");
    assert!(memory.read(Pointer(0), 1).is_err() && memory.read(p, usize::MAX).is_err());
    assert!(memory.free(p.offset(1)).is_err());
    memory.free(p).unwrap();
    assert!(matches!(memory.read(p, 1), Err(SimError::HostAccess(_))));
    let mapped = memory.map("file", Arc::new(vec![1u8, 2, 3]));
    assert_eq!(memory.read(mapped, 3).unwrap(), [1, 2, 3]);
    assert!(memory.write(mapped, &[0]).is_err());
}

#[test]
fn an_allocation_changes_size_and_protection_in_place() {
    let mut memory = Memory::new();
    let p = memory.allocate_with("rows", vec![7; 8], Access::ReadWrite);
    memory.protect(p, Access::ReadOnly).unwrap();
    memory.resize(p, 12).unwrap();
    assert!(!memory.initialised(p, 1).unwrap() && memory.write(p, &[1; 13]).is_err());
    memory.protect(p, Access::ReadWrite).unwrap();
    let write = Module::parse(&kernel("st.global.u32 [%rd0+8], %r0;"), "write.ptx").unwrap();
    let launch = Launch::new([1, 1, 1], [1, 1, 1], Params::new().pointer(p).bytes(8));
    assert_eq!(run(&write, "k", &launch, &mut memory, &everything()).unwrap().findings, []);
    assert!(memory.initialised(p.offset(8), 4).unwrap());
    memory.protect(p, Access::ReadOnly).unwrap();
    let protected = run(&write, "k", &launch, &mut memory, &everything()).unwrap();
    assert_eq!(kinds(&protected.findings), [Kind::ReadOnlyWrite]);
    let fixed = memory.allocate_with("input", vec![1; 4], Access::ReadOnly);
    assert!(memory.protect(fixed, Access::ReadWrite).is_err() && memory.resize(fixed.offset(1), 2).is_err());
    memory.resize(fixed, 2).unwrap();
    assert!(memory.write(fixed, &[0; 3]).is_err());
    let mapped = memory.map("file", Arc::new(vec![1u8]));
    assert!(memory.resize(mapped, 2).is_err());
}

#[test]
fn what_one_launch_writes_the_next_may_read() {
    let own = "mov.u32 %r1, %ctaid.x; shl.b32 %r1, %r1, 5; add.u32 %r1, %r1, %r0; mul.wide.u32 %rd1, %r1, 4; add.s64 %rd2, %rd0, %rd1;\n";
    let write = Module::parse(&kernel(&format!("{own}st.global.u32 [%rd2], %r1;")), "write.ptx").unwrap();
    let read = Module::parse(&kernel(&format!("{own}ld.global.u32 %r2, [%rd2];")), "read.ptx").unwrap();
    let mut memory = Memory::new();
    let buffer = memory.allocate("buffer", 200 * 128, Access::ReadWrite);
    let launch = |blocks| Launch::new([blocks, 1, 1], [32, 1, 1], Params::new().pointer(buffer).bytes(8));
    let before = run(&read, "k", &launch(200), &mut memory, &everything()).unwrap();
    assert_eq!(kinds(&before.findings), [Kind::Uninitialised]);
    assert_eq!(run(&write, "k", &launch(199), &mut memory, &everything()).unwrap().findings, []);
    assert_eq!(run(&read, "k", &launch(199), &mut memory, &everything()).unwrap().findings, []);
    let after = run(&read, "k", &launch(200), &mut memory, &everything()).unwrap();
    assert_eq!((kinds(&after.findings), after.findings[0].block), (vec![Kind::Uninitialised], [199, 0, 0]));
}

#[test]
fn module_variables_start_as_written_and_keep_their_values() {
    let text = kernel("atom.global.add.u32 %r1, [count], 1;\nld.global.u32 %r2, [table+4]; add.u32 %r1, %r1, %r2;\nld.global.u64 %rd3, [where]; ld.global.u32 %r3, [%rd3]; add.u32 %r1, %r1, %r3;\nst.global.u32 [%rd0], %r1;")
        .replace(".visible .entry", ".global .u32 count = 5;\n.global .align 4 .u32 table[3] = {10, 20, 30};\n.global .u64 where = generic(table)+8;\n.visible .entry");
    let module = Module::parse(&text, "variables.ptx").unwrap();
    let mut memory = Memory::new();
    let buffer = memory.allocate("buffer", 4, Access::ReadWrite);
    let launch = Launch::new([1, 1, 1], [1, 1, 1], Params::new().pointer(buffer).bytes(8));
    for expected in [55, 56] {
        let report = run(&module, "k", &launch, &mut memory, &everything()).unwrap();
        assert!(report.findings.is_empty(), "{}", report.findings[0]);
        assert_eq!(support::read_words(&memory, buffer, 1), [expected]);
    }
}
