//! Whole kernels as NVRTC emitted them, in both dialects, against scalar references: same numbers, no finding, sensible counters.

mod support;

use half::f16;
use simulator::{Access, Launch, Memory, Module, Options, Report, run};
use support::{Params, everything, floats, halves, noise, read_floats, words};

const GEMV: [&str; 2] = [include_str!("ptx/gemv.sm_80.ptx"), include_str!("ptx/gemv.sm_100.ptx")];
const GEMM: [&str; 2] = [include_str!("ptx/gemm.sm_80.ptx"), include_str!("ptx/gemm.sm_100.ptx")];
const ATTENTION: [&str; 2] = [include_str!("ptx/attention.sm_80.ptx"), include_str!("ptx/attention.sm_100.ptx")];
const GRID: [&str; 2] = [include_str!("ptx/grid.sm_80.ptx"), include_str!("ptx/grid.sm_100.ptx")];
const PROBE: [&str; 2] = [include_str!("ptx/probe.sm_80.ptx"), include_str!("ptx/probe.sm_100.ptx")];

fn rounded(values: &[f32]) -> Vec<f32> {
    values.iter().map(|v| f16::from_f32(*v).to_f32()).collect()
}

fn close(got: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(got.len(), expected.len());
    for (i, (g, e)) in got.iter().zip(expected).enumerate() {
        assert!((g - e).abs() <= tolerance * e.abs().max(1.0), "element {i}: {g} is not {e}");
    }
}

fn clean(report: &Report) {
    assert!(report.findings.is_empty(), "{}", report.findings[0]);
}

/// Runs the GEMV on 2 threads; gives the result, the report and the reference.
fn gemv(text: &str, rows: usize, columns: usize, options: &Options) -> (Vec<f32>, Report, Vec<f32>) {
    let module = Module::parse(text, "gemv.ptx").unwrap();
    let nibbles: Vec<u32> =
        (0..rows * columns / 8).map(|i| (i as u32).wrapping_mul(2_654_435_761) ^ 0x1234_5678).collect();
    let scales = rounded(&noise(rows * columns / 32, 1));
    let x = noise(columns, 2);
    let mut memory = Memory::new();
    let w = memory.allocate_with("weights", words(&nibbles), Access::ReadOnly);
    let s = memory.allocate_with("scales", halves(&scales), Access::ReadOnly);
    memory.mark_weights(w).unwrap();
    memory.mark_weights(s).unwrap();
    let a = memory.allocate_with("x", floats(&x), Access::ReadWrite);
    let y = memory.allocate("y", rows * 4, Access::ReadWrite);
    let params =
        Params::new().pointer(w).pointer(s).pointer(a).pointer(y).int(rows as i32).int(columns as i32).bytes(8);
    let mut launch = Launch::new([rows.div_ceil(4) as u32, 1, 1], [128, 1, 1], params);
    launch.dynamic_shared = columns as u32 * 4;
    let report = run(&module, "gemv_int4", &launch, &mut memory, options).unwrap();
    let weight = |r: usize, c: usize| {
        // Within a word nibble s and nibble s + 4 are neighbours: the pair (s, s + 4) comes from bits 4s and 4s + 16.
        let word = nibbles[(r * columns + c) / 8];
        ((word >> (c % 8 * 4)) & 15) as f32 - 8.0
    };
    let expected =
        (0..rows).map(|r| (0..columns).map(|c| weight(r, c) * scales[(r * columns + c) / 32] * x[c]).sum()).collect();
    (read_floats(&memory, y, rows), report, expected)
}

#[test]
fn gemv_agrees_and_is_clean() {
    for text in GEMV {
        let (got, report, expected) = gemv(text, 10, 2048, &everything());
        clean(&report);
        close(&got, &expected, 1e-4);
        let c = report.counters.unwrap();
        // 128-bit loads of neighbouring lanes, each weight once.
        assert_eq!(c.sectors_per_wide_load(), 16.0);
        assert_eq!(c.weight_bytes, 10 * (2048 / 2 + 2048 / 32 * 2));
        assert_eq!(c.dram_ratio(), 1.0 * c.dram_bytes as f64 / c.minimum_bytes as f64);
        assert!(c.dram_ratio() < 1.01, "{}", c.dram_ratio());
        assert_eq!(c.barriers_per_block(), 1.0);
        assert_eq!(c.dependent_load_depth, 1);
        assert_eq!(c.local_bytes, 0);
        assert!(c.instructions_per_weight_byte() > 1.0 && c.instructions_per_weight_byte() < 20.0);
        assert!(c.mix.values().sum::<u64>() == c.warp_instructions);
    }
}

#[test]
fn results_findings_and_counters_do_not_depend_on_threads() {
    let all: Vec<_> =
        [1, 2, 5].map(|threads| gemv(GEMV[0], 300, 256, &Options { threads, ..everything() })).into_iter().collect();
    for other in &all[1..] {
        assert_eq!(other.0, all[0].0);
        assert_eq!(other.1.findings, all[0].1.findings);
        assert_eq!(other.1.counters, all[0].1.counters);
    }
}

#[test]
fn options_change_no_result() {
    let reference = gemv(GEMV[1], 16, 512, &everything()).0;
    for (checks, counters, portable) in
        [(false, false, false), (true, false, false), (false, true, false), (true, true, true)]
    {
        assert_eq!(gemv(GEMV[1], 16, 512, &Options { checks, counters, portable, ..Options::default() }).0, reference);
    }
}

#[test]
fn gemm_agrees_and_is_clean() {
    let (m, n, k) = (64, 96, 128);
    let (a, b) = (rounded(&noise(m * k, 3)), rounded(&noise(n * k, 4)));
    for text in GEMM {
        let module = Module::parse(text, "gemm.ptx").unwrap();
        let mut memory = Memory::new();
        let pa = memory.allocate_with("a", halves(&a), Access::ReadOnly);
        let pb = memory.allocate_with("b", halves(&b), Access::ReadOnly);
        let pc = memory.allocate("c", m * n * 4, Access::ReadWrite);
        let params =
            Params::new().pointer(pa).pointer(pb).pointer(pc).int(m as i32).int(n as i32).int(k as i32).bytes(8);
        let launch = Launch::new([(n / 32) as u32, (m / 32) as u32, 1], [64, 1, 1], params);
        let report = run(&module, "gemm_f16", &launch, &mut memory, &everything()).unwrap();
        clean(&report);
        let dot =
            |i: usize, j: usize| (0..k).map(|x| f64::from(a[i * k + x]) * f64::from(b[j * k + x])).sum::<f64>() as f32;
        let expected: Vec<f32> = (0..m * n).map(|i| dot(i / n, i % n)).collect();
        close(&read_floats(&memory, pc, m * n), &expected, 1e-6);
        let c = report.counters.unwrap();
        // Rows of 80 bytes keep ldmatrix free of conflicts; the copies into them need a second pass for each quarter of a warp.
        assert_eq!(c.bank_conflicts, 4 * c.mix["cp.async.cg.shared.global"]);
        assert!(c.share_of("mma") > 0.02);
    }
}

#[test]
fn attention_agrees_and_is_clean() {
    let (queries, keys, d) = (21, 45, 64);
    let (q, k, v) = (rounded(&noise(queries * d, 5)), rounded(&noise(keys * d, 6)), rounded(&noise(keys * d, 7)));
    let scale = 0.125f32;
    for text in ATTENTION {
        let module = Module::parse(text, "attention.ptx").unwrap();
        let mut memory = Memory::new();
        let [pq, pk, pv] =
            [("q", &q), ("k", &k), ("v", &v)].map(|(name, x)| memory.allocate_with(name, halves(x), Access::ReadOnly));
        let out = memory.allocate("out", queries * d * 4, Access::ReadWrite);
        let params = Params::new()
            .pointer(pq)
            .pointer(pk)
            .pointer(pv)
            .pointer(out)
            .int(queries as i32)
            .int(keys as i32)
            .float(scale)
            .bytes(8);
        let launch = Launch::new([queries.div_ceil(16) as u32, 1, 1], [32, 1, 1], params);
        let report = run(&module, "attention", &launch, &mut memory, &everything()).unwrap();
        clean(&report);
        let mut expected = vec![0f32; queries * d];
        for i in 0..queries {
            let seen = i + keys - queries + 1;
            let score = |j: usize| (0..d).map(|x| q[i * d + x] * k[j * d + x]).sum::<f32>() * scale;
            let weights: Vec<f32> = (0..seen).map(|j| score(j).exp()).collect();
            let total: f32 = weights.iter().sum();
            for x in 0..d {
                expected[i * d + x] = (0..seen).map(|j| weights[j] * v[j * d + x]).sum::<f32>() / total;
            }
        }
        close(&read_floats(&memory, out, queries * d), &expected, 2e-3);
    }
}

#[test]
fn blocks_of_a_cooperative_launch_meet() {
    let (blocks, rounds) = (37usize, 3);
    let input = noise(blocks * 32, 8);
    for text in GRID {
        let module = Module::parse(text, "grid.ptx").unwrap();
        let mut memory = Memory::new();
        let pin = memory.allocate_with("in", floats(&input), Access::ReadOnly);
        let parts = memory.allocate("parts", blocks * 4, Access::ReadWrite);
        let out = memory.allocate("out", blocks * 4, Access::ReadWrite);
        let params = Params::new().pointer(pin).pointer(parts).pointer(out).int(rounds).bytes(1);
        let launch = Launch { cooperative: true, ..Launch::new([blocks as u32, 1, 1], [32, 1, 1], params) };
        let report = run(&module, "grid_sum", &launch, &mut memory, &everything()).unwrap();
        clean(&report);
        let total: f32 = input.iter().sum::<f32>() + (blocks as i32 * (rounds - 1)) as f32;
        close(&read_floats(&memory, out, blocks), &vec![total; blocks], 1e-4);
    }
}

#[test]
fn softmax_agrees_and_is_clean() {
    let (rows, n) = (3, 200);
    let x = noise(rows * n, 9);
    for text in PROBE {
        let module = Module::parse(text, "probe.ptx").unwrap();
        let mut memory = Memory::new();
        let pin = memory.allocate_with("in", floats(&x), Access::ReadOnly);
        let out = memory.allocate("out", rows * n * 4, Access::ReadWrite);
        let params = Params::new().pointer(pin).pointer(out).int(n as i32).bytes(1);
        let report =
            run(&module, "softmax", &Launch::new([rows as u32, 1, 1], [96, 1, 1], params), &mut memory, &everything())
                .unwrap();
        clean(&report);
        let expected: Vec<f32> = (0..rows * n)
            .map(|i| {
                let row = &x[i / n * n..][..n];
                x[i].exp() / row.iter().map(|v| v.exp()).sum::<f32>()
            })
            .collect();
        close(&read_floats(&memory, out, rows * n), &expected, 1e-6);
    }
}

#[test]
fn library_functions_agree_with_the_host() {
    let x: Vec<f32> = noise(32, 10).iter().map(|v| v * 3.0).collect();
    for text in PROBE {
        let module = Module::parse(text, "probe.ptx").unwrap();
        let mut memory = Memory::new();
        let pin = memory.allocate_with("in", floats(&x), Access::ReadOnly);
        let out = memory.allocate("out", 128, Access::ReadWrite);
        let params = Params::new().pointer(pin).pointer(out).bytes(1);
        let report =
            run(&module, "maths", &Launch::new([1, 1, 1], [32, 1, 1], params), &mut memory, &everything()).unwrap();
        clean(&report);
        let table = [0f32, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];
        let primes = [2, 3, 5, 7, 11, 13, 17, 19];
        let expected: Vec<f32> = x
            .iter()
            .enumerate()
            .map(|(i, &v)| maths(f64::from(v)) as f32 + table[i & 15] + primes[i & 7] as f32)
            .collect();
        close(&read_floats(&memory, out, 32), &expected, 2e-5);
    }
}

/// The sum that the kernel `maths` makes, in f64.
fn maths(x: f64) -> f64 {
    let a = x.abs();
    let erf = {
        // Series of erf, enough for |x| ≤ 3.
        let mut term = x;
        let mut sum = x;
        for n in 1..60 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    };
    let single = x.exp()
        + (a + 1.0).ln()
        + x.sin()
        + x.cos()
        + x.tanh()
        + erf
        + a.powf(1.3)
        + 1.0 / (a + 1.0).sqrt()
        + a.sqrt()
        + 1.0 / (x + 10.0)
        + x.floor()
        + x.ceil()
        + x.round_ties_even()
        + x.trunc()
        + x.round()
        + 1f64.copysign(x)
        + f64::from(x as f32 % 0.7f32)
        + a.ln_1p()
        + x.exp_m1()
        + x.sin()
        + x.cos()
        + (a + 1.0).ln()
        + x.exp2()
        + x.cbrt()
        + 1.0 / (x + 10.0)
        + a.sqrt()
        + x / 3.0;
    let double = x * 1.5 + a.sqrt() / 3.0 + x * 2.0 + 1.0;
    single + double + if x.is_sign_negative() { 1.0 } else { 0.0 } + x * 8.0
}

#[test]
fn structures_pass_by_value_through_calls() {
    for text in [include_str!("ptx/structs.sm_80.ptx"), include_str!("ptx/structs.sm_100.ptx")] {
        let module = Module::parse(text, "structs.ptx").unwrap();
        assert_eq!(module.param_bytes("structs"), Some(56), "pointer, int, 32 bytes of structure, pointer");
        let mut memory = Memory::new();
        let add = memory.allocate_with("add", floats(&(0..32).map(|i| i as f32).collect::<Vec<_>>()), Access::ReadOnly);
        let out = memory.allocate("out", 32 * 32, Access::ReadWrite);
        // The structure: six floats, an int, a short, a char, a byte of padding.
        let mut params = Params::new().pointer(add).int(7);
        for value in 1..=6 {
            params = params.float(value as f32);
        }
        let params = params.int(2).int(5 | 100 << 16).pointer(out).bytes(8);
        let report =
            run(&module, "structs", &Launch::new([1, 1, 1], [32, 1, 1], params), &mut memory, &everything()).unwrap();
        clean(&report);
        for thread in 0..32u64 {
            let at = out.offset(32 * thread);
            let expected = [1.0, 2.0, 3.0 + thread as f32 + 2.0, 4.0, 5.0, 6.0];
            assert_eq!(read_floats(&memory, at, 6), expected);
            assert_eq!(memory.read(at.offset(24), 7).unwrap(), [2, 0, 0, 0, 9, 0, 98]);
        }
    }
}

#[test]
fn arrays_calls_and_switches_run() {
    let x = noise(32, 11);
    for text in PROBE {
        let module = Module::parse(text, "probe.ptx").unwrap();
        let mut memory = Memory::new();
        let pin = memory.allocate_with("in", floats(&x), Access::ReadOnly);
        let out = memory.allocate("out", 128, Access::ReadWrite);
        let params = Params::new().pointer(pin).pointer(out).int(16).bytes(1);
        let report =
            run(&module, "locals", &Launch::new([1, 1, 1], [32, 1, 1], params), &mut memory, &everything()).unwrap();
        clean(&report);
        let poly = |v: f32| x[..16].iter().fold(0f32, |r, c| r.mul_add(v, *c));
        let expected: Vec<f32> = (0..32).map(|t| poly(x[t]) + x[(t * 7) & 15]).collect();
        close(&read_floats(&memory, out, 32), &expected, 1e-6);
        assert!(report.counters.unwrap().local_bytes > 0);

        let choices: Vec<u32> = (0..32).map(|i| i % 8).collect();
        let pin = memory.allocate_with("in", words(&choices), Access::ReadOnly);
        let out = memory.allocate_with("out", words(&(0..64).collect::<Vec<_>>()), Access::ReadWrite);
        let params = Params::new().pointer(pin).pointer(out).bytes(1);
        run(&module, "switcher", &Launch::new([1, 1, 1], [32, 1, 1], params), &mut memory, &everything()).unwrap();
        let expected = |v: u32| match v {
            0 => 32,
            1 => 99,
            2 => 79,
            3 => 9,
            4 => 11 ^ 35,
            5 => 9,
            _ => u32::MAX,
        };
        let got = support::read_words(&memory, out, 64);
        assert_eq!(got[..32], choices.iter().map(|v| expected(*v)).collect::<Vec<_>>()[..]);
        assert_eq!((got[40], got[41]), (3, 5));
    }
}

/// Each call sequence declares its own `param0`, here of different sizes, in whatever order.
#[test]
fn calls_with_parameters_of_one_name_do_not_meet() {
    let function = |name: &str, bits: &str| {
        format!(
            ".func (.param .{bits} func_retval0) {name}(.param .{bits} {name}_param_0, .param .b32 {name}_param_1)\n{{\n\
             .reg .{bits} %a<4>; .reg .b32 %q<2>;\nld.param.{bits} %a1, [{name}_param_0];\nld.param.b32 %q1, [{name}_param_1];\n\
             add.{} %a2, %a1, %a1;\nst.param.{bits} [func_retval0], %a2;\nret;\n}}\n",
            bits.replace('b', "u")
        )
    };
    let call = |name: &str, bits: &str, register: &str| {
        format!(
            "{{\n.param .{bits} param0;\nst.param.{bits} [param0], {register};\n.param .b32 param1;\nst.param.b32 [param1], %r0;\n\
             .param .{bits} retval0;\ncall.uni (retval0), {name}, (param0, param1);\nld.param.{bits} {register}, [retval0];\n}}\n"
        )
    };
    let store = "mad.wide.u32 %rd2, %r0, 16, %rd0;\nst.global.u64 [%rd2], %rd1;\nst.global.u32 [%rd2+8], %r1;\n";
    let begin = "cvt.u64.u32 %rd1, %r0;\nshl.b64 %rd1, %rd1, 33;\nadd.u32 %r1, %r0, 5;\n";
    let calls = [
        call("wide", "b64", "%rd1"),
        call("narrow", "b32", "%r1"),
        call("wide", "b64", "%rd1"),
        call("narrow", "b32", "%r1"),
    ];
    let text = support::kernel(&[begin, &calls.concat(), store].concat());
    let at = text.find(".visible").unwrap();
    let text = [&text[..at], &function("wide", "b64"), &function("narrow", "b32"), &text[at..]].concat();
    let module = Module::parse(&text, "calls.ptx").unwrap();
    let mut memory = Memory::new();
    let out = memory.allocate_with("out", vec![0; 16 * 32], Access::ReadWrite);
    let launch = Launch::new([1, 1, 1], [32, 1, 1], Params::new().pointer(out).bytes(8));
    clean(&run(&module, "k", &launch, &mut memory, &everything()).unwrap());
    for thread in 0..32u32 {
        let expected = [0, thread << 3, 4 * (thread + 5), 0];
        assert_eq!(support::read_words(&memory, out.offset(16 * u64::from(thread)), 4), expected);
    }
}
