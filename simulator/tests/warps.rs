//! Instructions of a whole warp against references: tensor cores of every shape, matrix moves, shuffles, votes, reductions, atomics.

mod support;

use half::{bf16, f16};
use simulator::{Access, Kind, Launch, Memory, Module, run};
use support::{Params, everything, kernel, noise, read_words, run_body, words};

/// Runs one `mma` on packed registers: `a`, `b`, `c` hold a word for each register and lane. Gives d in the same form.
fn mma(shape: &str, counts: [usize; 4], registers: &[u32]) -> Vec<u32> {
    let [d, a, b, c] = counts;
    let list = |prefix: &str, first: usize, count: usize| {
        (first..first + count).map(|i| format!("{prefix}{i}")).collect::<Vec<_>>().join(", ")
    };
    let mut body = String::from("mul.wide.u32 %rd1, %r0, 4; add.s64 %rd2, %rd0, %rd1;\n");
    for i in 0..a + b + c {
        body += &format!("ld.global.u32 %r{}, [%rd2+{}];\n", 10 + i, 128 * i);
    }
    body += &format!(
        "mma.sync.aligned.{shape} {{{}}}, {{{}}}, {{{}}}, {{{}}};\n",
        list("%r", 40, d),
        list("%r", 10, a),
        list("%r", 10 + a, b),
        list("%r", 10 + a + b, c)
    );
    for i in 0..d {
        body += &format!("st.global.u32 [%rd2+{}], %r{};\n", 128 * i, 40 + i);
    }
    let module = Module::parse(&kernel(&body), "mma.ptx").unwrap();
    let mut memory = Memory::new();
    let buffer = memory.allocate_with("fragments", words(registers), Access::ReadWrite);
    let launch = Launch::new([1, 1, 1], [32, 1, 1], Params::new().pointer(buffer).bytes(8));
    let report = run(&module, "k", &launch, &mut memory, &everything()).unwrap();
    assert!(report.findings.is_empty());
    read_words(&memory, buffer, 32 * d)
}

/// Packs the matrix elements that `element(row or column, k)` gives into fragment registers of `bits`-bit elements.
fn fragment(registers: usize, bits: usize, second_rows: bool, element: impl Fn(usize, usize) -> u32) -> Vec<u32> {
    let per = 32 / bits;
    let mut out = Vec::new();
    for r in 0..registers {
        for lane in 0..32 {
            let (g, t) = (lane / 4, lane % 4);
            let (row, block) = if second_rows { (g + 8 * (r % 2), r / 2) } else { (g, r) };
            out.push((0..per).fold(0, |word, e| word | element(row, t * per + e + 4 * per * block) << (e * bits)));
        }
    }
    out
}

/// Checks a float shape whose factors are encoded by `encode` and read back by `decode`.
fn float_shape(shape: &str, k: usize, bits: usize, encode: fn(f32) -> u32, decode: fn(u32) -> f32, tolerance: f32) {
    let (a, b) = (noise(16 * k, 1), noise(8 * k, 2));
    let (a, b): (Vec<u32>, Vec<u32>) = (a.into_iter().map(encode).collect(), b.into_iter().map(encode).collect());
    let c = noise(128, 3);
    let counts = [4, 16 * k * bits / 1024, 8 * k * bits / 1024, 4];
    let mut registers = fragment(counts[1], bits, true, |row, column| a[row * k + column]);
    registers.extend(fragment(counts[2], bits, false, |column, row| b[column * k + row]));
    for r in 0..4 {
        registers.extend((0..32).map(|lane| c[(lane / 4 + 8 * (r / 2)) * 8 + lane % 4 * 2 + r % 2].to_bits()));
    }
    let d = mma(shape, counts, &registers);
    for r in 0..4 {
        for lane in 0..32 {
            let (row, column) = (lane / 4 + 8 * (r / 2), lane % 4 * 2 + r % 2);
            let sum: f32 =
                (0..k).map(|x| decode(a[row * k + x]) * decode(b[column * k + x])).sum::<f32>() + c[row * 8 + column];
            let got = f32::from_bits(d[32 * r + lane]);
            assert!((got - sum).abs() <= tolerance, "{shape} at {row}, {column}: {got} is not {sum}");
        }
    }
}

#[test]
fn tensor_cores_of_each_float_shape() {
    let half = |x: f32| u32::from(f16::from_f32(x).to_bits());
    let from_half = |x: u32| f16::from_bits(x as u16).to_f32();
    float_shape("m16n8k16.row.col.f32.f16.f16.f32", 16, 16, half, from_half, 1e-5);
    float_shape("m16n8k8.row.col.f32.f16.f16.f32", 8, 16, half, from_half, 1e-5);
    let brain = |x: f32| u32::from(bf16::from_f32(x).to_bits());
    let from_brain = |x: u32| bf16::from_bits(x as u16).to_f32();
    float_shape("m16n8k16.row.col.f32.bf16.bf16.f32", 16, 16, brain, from_brain, 1e-5);
    float_shape("m16n8k8.row.col.f32.bf16.bf16.f32", 8, 16, brain, from_brain, 1e-5);
    let tf32 = |x: f32| x.to_bits() & 0xffff_e000;
    float_shape("m16n8k8.row.col.f32.tf32.tf32.f32", 8, 32, tf32, f32::from_bits, 1e-5);
    float_shape("m16n8k4.row.col.f32.tf32.tf32.f32", 4, 32, tf32, f32::from_bits, 1e-5);
    // e4m3: powers of two and their halves suffice to see every element.
    let eight = |x: f32| ((x.abs() * 7.0) as u32 + 0x34) | u32::from(x < 0.0) << 7;
    let from_eight = |x: u32| {
        let magnitude = (8 + (x & 7)) as f32 / 8.0 * 2f32.powi((x >> 3 & 15) as i32 - 7);
        if x & 0x80 != 0 { -magnitude } else { magnitude }
    };
    float_shape("m16n8k32.row.col.f32.e4m3.e4m3.f32", 32, 8, eight, from_eight, 1e-4);
}

#[test]
fn tensor_cores_on_integers_are_exact() {
    for (types, signed_a, signed_b) in
        [("s32.s8.s8.s32", true, true), ("s32.u8.u8.s32", false, false), ("s32.s8.u8.s32", true, false)]
    {
        for k in [16, 32] {
            let value = |i: usize| (i.wrapping_mul(2_654_435_761) >> 7 & 255) as u32;
            let counts = [4, k / 8, k / 16, 4];
            let mut registers = fragment(counts[1], 8, true, |row, column| value(row * k + column));
            registers.extend(fragment(counts[2], 8, false, |column, row| value(5000 + column * k + row)));
            registers.extend((0..128).map(|i| (i * 1000) as u32));
            let d = mma(&format!("m16n8k{k}.row.col.{types}"), counts, &registers);
            let read = |x: u32, signed: bool| if signed { i32::from(x as u8 as i8) } else { x as i32 };
            for r in 0..4 {
                for lane in 0..32 {
                    let (row, column) = (lane / 4 + 8 * (r / 2), lane % 4 * 2 + r % 2);
                    let products = (0..k)
                        .map(|x| read(value(row * k + x), signed_a) * read(value(5000 + column * k + x), signed_b));
                    assert_eq!(
                        d[32 * r + lane] as i32,
                        products.sum::<i32>() + ((32 * r + lane) * 1000) as i32,
                        "{types} k{k}"
                    );
                }
            }
        }
    }
}

#[test]
fn matrices_move_between_shared_memory_and_registers() {
    // Thread t writes halves 2t and 2t + 1 of an 8 × 8 matrix; ldmatrix gives them back, .trans exchanged.
    let text = |op: &str| {
        format!(
            ".shared .align 16 .b8 tile[128];\nmov.u32 %r1, tile; shl.b32 %r2, %r0, 2; add.s32 %r3, %r1, %r2;\nshl.b32 %r4, %r0, 1; add.s32 %r5, %r4, 1; shl.b32 %r5, %r5, 16; or.b32 %r4, %r4, %r5;\n\
             st.shared.u32 [%r3], %r4;\nbar.sync 0;\nand.b32 %r6, %r0, 7; shl.b32 %r6, %r6, 4; add.s32 %r7, %r1, %r6;\n{op}\nmul.wide.u32 %rd1, %r0, 4; add.s64 %rd2, %rd0, %rd1; st.global.u32 [%rd2], %r8;"
        )
    };
    let get = |op: &str| {
        let (report, words) = run_body(&text(op), 1, 32, 128, true).unwrap();
        assert!(report.findings.is_empty(), "{}", report.findings[0]);
        words
    };
    let straight: Vec<u32> = (0..32).map(|t| ((2 * t + 1) << 16) | (2 * t)).collect();
    let turned: Vec<u32> = (0..32).map(|t| (((t % 4 * 2 + 1) * 8 + t / 4) << 16) | (t % 4 * 16 + t / 4)).collect();
    assert_eq!(get("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r8}, [%r7];"), straight);
    assert_eq!(get("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%r8}, [%r7];"), turned);
    assert_eq!(get("movmatrix.sync.aligned.m8n8.trans.b16 %r8, %r4;"), turned);
    assert_eq!(
        get("stmatrix.sync.aligned.m8n8.x1.trans.shared.b16 [%r7], {%r4}; bar.sync 0; ld.shared.u32 %r8, [%r3];"),
        turned
    );
}

/// Each lane's result of `op`, which writes %r1 from the lane number in %r0.
fn per_lane(op: &str) -> Vec<u32> {
    let body = format!("{op}\nmul.wide.u32 %rd1, %r0, 4; add.s64 %rd2, %rd0, %rd1; st.global.u32 [%rd2], %r1;");
    let (report, words) = run_body(&body, 1, 32, 128, true).unwrap();
    assert!(report.findings.is_empty(), "{op}: {}", report.findings[0]);
    words
}

fn expect(op: &str, f: impl Fn(u32) -> u32) {
    assert_eq!(per_lane(op), (0..32).map(f).collect::<Vec<_>>(), "{op}");
}

#[test]
fn shuffles_votes_and_reductions() {
    expect("shfl.sync.idx.b32 %r1, %r0, 5, 31, -1;", |_| 5);
    expect("shfl.sync.up.b32 %r1, %r0, 3, 0, -1;", |l| if l < 3 { l } else { l - 3 });
    expect("shfl.sync.down.b32 %r1, %r0, 3, 31, -1;", |l| if l > 28 { l } else { l + 3 });
    expect("shfl.sync.bfly.b32 %r1, %r0, 16, 31, -1;", |l| l ^ 16);
    // Segments of 8 lanes: 0x1807.
    expect("shfl.sync.down.b32 %r1, %r0, 2, 0x1807, -1;", |l| if l % 8 > 5 { l } else { l + 2 });
    expect("shfl.sync.idx.b32 %r1|%p1, %r0, 9, 0x1807, -1;\nselp.u32 %r1, %r1, 99, %p1;", |l| l / 8 * 8 + 1);
    expect("setp.lt.u32 %p1, %r0, 4;\nvote.sync.ballot.b32 %r1, %p1, -1;", |_| 15);
    expect("setp.lt.u32 %p1, %r0, 4;\nvote.sync.any.pred %p2, %p1, -1;\nselp.u32 %r1, 1, 0, %p2;", |_| 1);
    expect("setp.lt.u32 %p1, %r0, 4;\nvote.sync.all.pred %p2, !%p1, -1;\nselp.u32 %r1, 1, 0, %p2;", |_| 0);
    expect("setp.lt.u32 %p1, %r0, 44;\nvote.sync.uni.pred %p2, %p1, -1;\nselp.u32 %r1, 1, 0, %p2;", |_| 1);
    expect("redux.sync.add.s32 %r1, %r0, -1;", |_| 496);
    expect("neg.s32 %r2, %r0;\nredux.sync.min.s32 %r1, %r2, -1;", |_| (-31i32) as u32);
    expect("neg.s32 %r2, %r0;\nredux.sync.max.u32 %r1, %r2, -1;", |_| u32::MAX);
    expect("redux.sync.xor.b32 %r1, %r0, -1;", |_| 0);
    expect("redux.sync.or.b32 %r1, %r0, -1;", |_| 31);
    expect("and.b32 %r2, %r0, 3;\nmatch.any.sync.b32 %r1, %r2, -1;", |l| 0x1111_1111 << (l % 4));
    expect("match.all.sync.b32 %r1|%p1, %r0, -1;\nselp.u32 %r1, 7, %r1, %p1;", |_| 0);
    expect("activemask.b32 %r1;", |_| u32::MAX);
    expect("mov.u32 %r1, %lanemask_lt;", |l| (1 << l) - 1);
    expect("elect.sync _|%p1, -1;\nselp.u32 %r1, 1, 0, %p1;", |l| u32::from(l == 0));
}

#[test]
fn divergent_lanes_meet_again() {
    // Each lane loops its own number of times and leaves through one of two exits.
    expect(
        "mov.u32 %r1, 0; mov.u32 %r2, 0;\nLOOP: setp.ge.u32 %p1, %r2, %r0;\n@%p1 bra DONE;\nadd.u32 %r1, %r1, 2; add.u32 %r2, %r2, 1;\nsetp.eq.u32 %p2, %r2, 20;\n@%p2 bra EARLY;\nbra LOOP;\nEARLY: add.u32 %r1, %r1, 1000;\nDONE: activemask.b32 %r3; setp.eq.u32 %p3, %r3, -1;\n@!%p3 mov.u32 %r1, 5;",
        |l| if l >= 20 { 1040 } else { 2 * l },
    );
    // Threads that ended take no part any more.
    let (report, words) = run_body(
        "setp.lt.u32 %p1, %r0, 8;\n@%p1 exit;\nactivemask.b32 %r1;\nst.global.u32 [%rd0], %r1;",
        1,
        32,
        8,
        true,
    )
    .unwrap();
    assert!(report.findings.is_empty());
    assert_eq!(words[0], 0xffff_ff00);
}

#[test]
fn barriers_that_reduce() {
    let body = "setp.lt.u32 %p1, %r0, 40;\nbar.red.popc.u32 %r1, 0, %p1;\nbar.red.and.pred %p2, 0, %p1;\nbar.red.or.pred %p3, 0, %p1;\nselp.u32 %r2, 100, 0, %p2; selp.u32 %r3, 1000, 0, %p3;\nadd.u32 %r1, %r1, %r2; add.u32 %r1, %r1, %r3;\nmul.wide.u32 %rd1, %r0, 4; add.s64 %rd2, %rd0, %rd1; st.global.u32 [%rd2], %r1;";
    let (report, words) = run_body(body, 1, 64, 256, true).unwrap();
    assert!(report.findings.is_empty(), "{}", report.findings[0]);
    assert_eq!(words, vec![1040; 64]);
    assert_eq!(report.counters.unwrap().barriers, 3);
}

#[test]
fn atomics_return_the_old_value_and_sum_in_lane_order() {
    let (report, words) = run_body(
        "atom.global.add.u32 %r1, [%rd0], 1;\nred.global.max.s32 [%rd0+4], %r0;\natom.global.cas.b32 %r2, [%rd0+8], 0, 7;\natom.global.exch.b32 %r3, [%rd0+12], %r0;\n\
         atom.global.inc.u32 %r4, [%rd0+16], 3;\nred.global.or.b32 [%rd0+20], %r0;\nmov.f32 %f1, 0f3F000000; red.global.add.f32 [%rd0+24], %f1;\nmov.u64 %rd5, 1; atom.global.add.u64 %rd6, [%rd0+32], %rd5;\n\
         mov.b32 %r6, 0x3c003c00; atom.global.add.noftz.f16x2 %r7, [%rd0+40], %r6;\nsetp.eq.u32 %p1, %r0, 31;\n@%p1 st.global.u32 [%rd0+44], %r1;",
        1,
        32,
        64,
        true,
    )
    .unwrap();
    assert!(report.findings.is_empty(), "{}", report.findings[0]);
    assert_eq!(words[..7], [32, 31, 7, 31, 0, 31, 16f32.to_bits()]);
    assert_eq!((words[8], words[10], words[11]), (32, 0x5000_5000, 31));
}

#[test]
fn the_probe_of_warp_instructions_runs_in_both_dialects() {
    for text in [include_str!("ptx/probe.sm_80.ptx"), include_str!("ptx/probe.sm_100.ptx")] {
        let module = Module::parse(text, "probe.ptx").unwrap();
        let mut memory = Memory::new();
        let input = memory.allocate_with("in", words(&(0..64).collect::<Vec<_>>()), Access::ReadOnly);
        let out = memory.allocate_with("out", vec![0; 1024], Access::ReadWrite);
        let sums = memory.allocate_with("sums", vec![0; 4], Access::ReadWrite);
        let launch =
            Launch::new([1, 1, 1], [64, 1, 1], Params::new().pointer(input).pointer(out).pointer(sums).bytes(8));
        let report = run(&module, "warps", &launch, &mut memory, &everything()).unwrap();
        assert!(report.findings.iter().all(|f| f.kind != Kind::OutOfBounds), "{}", report.findings[0]);
        assert_eq!(support::read_floats(&memory, sums, 1), [2016.0]);
    }
}
