//! Every fixture parses and decodes, and what is not PTX, or not simulated, is an error that names its place.

use proptest::prelude::*;
use simulator::Module;

const FIXTURES: [(&str, &str, &[&str]); 12] = [
    ("structs.sm_80.ptx", include_str!("ptx/structs.sm_80.ptx"), &["structs"]),
    ("structs.sm_100.ptx", include_str!("ptx/structs.sm_100.ptx"), &["structs"]),
    ("gemv.sm_80.ptx", include_str!("ptx/gemv.sm_80.ptx"), &["gemv_int4"]),
    ("gemv.sm_100.ptx", include_str!("ptx/gemv.sm_100.ptx"), &["gemv_int4"]),
    ("gemm.sm_80.ptx", include_str!("ptx/gemm.sm_80.ptx"), &["gemm_f16"]),
    ("gemm.sm_100.ptx", include_str!("ptx/gemm.sm_100.ptx"), &["gemm_f16"]),
    ("attention.sm_80.ptx", include_str!("ptx/attention.sm_80.ptx"), &["attention"]),
    ("attention.sm_100.ptx", include_str!("ptx/attention.sm_100.ptx"), &["attention"]),
    ("grid.sm_80.ptx", include_str!("ptx/grid.sm_80.ptx"), &["grid_sum"]),
    ("grid.sm_100.ptx", include_str!("ptx/grid.sm_100.ptx"), &["grid_sum"]),
    ("probe.sm_80.ptx", include_str!("ptx/probe.sm_80.ptx"), &PROBES),
    ("probe.sm_100.ptx", include_str!("ptx/probe.sm_100.ptx"), &PROBES),
];
const PROBES: [&str; 7] = ["softmax", "maths", "integers", "narrow", "warps", "locals", "switcher"];

#[test]
fn fixtures_of_both_dialects_decode() {
    for (name, text, kernels) in FIXTURES {
        let module = Module::parse(text, name).unwrap_or_else(|e| panic!("{e}"));
        let mut found: Vec<&str> = module.kernels().collect();
        found.sort_unstable();
        let mut expected = kernels.to_vec();
        expected.sort_unstable();
        assert_eq!(found, expected, "{name}");
        assert!(name.contains(module.target()), "{name}: {}", module.target());
    }
}

/// A kernel around `body`, whose first line is line 6.
fn kernel(body: &str) -> String {
    format!(
        ".version 8.8\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 p)\n{{ .reg .b32 %r<4>; .reg .b64 %rd<4>; .reg .pred %p<2>;\n{body}\nret;\n}}\n"
    )
}

#[test]
fn errors_name_file_line_and_what_is_wrong() {
    let cases = [
        ("frobnicate.u32 %r0, %r1;", 6, "frobnicate"),
        ("add.s32 %r0, %r1, %r2;\nadd.weird.s32 %r0, %r1, %r2;", 7, "weird"),
        ("add.s32 %r0, %r1, %r9;", 6, "%r9"),
        ("add.s32 %r0, %r1;", 6, "operands"),
        ("add.s64 %rd0, %r1, %rd2;", 6, "32 bits"),
        ("bra nowhere;", 6, "label"),
        ("mov.u64 %rd0, nothing;", 6, "nothing"),
        ("mma.sync.aligned.m8n8k4.row.col.f32.f16.f16.f32 {%r0}, {%r1}, {%r2}, {%r3};", 6, "shape"),
        ("ld.param.u64 %rd0, [p+8];", 6, "parameters"),
        ("call nobody;", 6, "nobody"),
        ("add.s32 %r0 %r1;", 6, "expected"),
    ];
    for (body, line, part) in cases {
        let error = Module::parse(&kernel(body), "bad.ptx").expect_err(body);
        assert_eq!((error.file.as_str(), error.line), ("bad.ptx", line), "{error}");
        assert!(error.message.contains(part), "{error} lacks `{part}`");
    }
}

#[test]
fn nested_scopes_hide_outer_names_and_labels() {
    let body = "{ .reg .b32 x; mov.u32 x, 1;\n L: add.s32 x, x, 1; { .reg .b16 x; mov.u16 x, 2;\n L: mov.u16 x, 3; } setp.lt.s32 %p0, x, 5;\n @%p0 bra L; }\nL: mov.u32 %r0, 1;";
    assert!(Module::parse(&kernel(body), "scopes.ptx").is_ok());
}

proptest! {
    /// Damaged text gives an error or a module, never a panic.
    #[test]
    fn damaged_text_never_panics(start in 0usize..4000, length in 0usize..40, replacement in "[ -~]{0,12}") {
        let text = FIXTURES[2].1;
        let mut damaged = String::from(&text[..start]);
        damaged.push_str(&replacement);
        damaged.push_str(&text[(start + length).min(text.len())..]);
        let _ = Module::parse(&damaged, "damaged.ptx");
    }

    #[test]
    fn any_text_never_panics(text in "[ -~\n]{0,200}") {
        let _ = Module::parse(&text, "noise.ptx");
        let _ = Module::parse(&kernel(&text), "noise.ptx");
    }
}
