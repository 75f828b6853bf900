//! Single instructions against values worked out by hand from the PTX ISA, edge values above all: NaN, infinities, subnormals, −0,
//! saturation, shifts by the width and beyond.
//!
//! A case is the opcode, the shape of its operands (result first: h 16 bits, r 32, d 64, p a predicate), the operands' bits, the result.

mod support;

use proptest::prelude::*;
use support::run_body;

type Case = (&'static str, &'static str, &'static [u64], u64);

/// The body of a kernel that runs one instruction and stores its result in 8 bytes.
fn body(case: &Case) -> String {
    let (opcode, shape, operands, _) = case;
    let shapes: Vec<char> = shape.chars().collect();
    let name = |kind: char, n: usize| match kind {
        'h' => format!("%h{n}"),
        'r' => format!("%r{n}"),
        'd' => format!("%rd{n}"),
        _ => format!("%p{n}"),
    };
    let mut text = String::new();
    let mut names = vec![name(shapes[0], 1)];
    for (n, (&kind, value)) in shapes[1..].iter().zip(*operands).enumerate() {
        let register = name(kind, n + 2);
        text += &match kind {
            'h' => format!("mov.b16 {register}, {value:#x};\n"),
            'r' => format!("mov.b32 {register}, {value:#x};\n"),
            'd' => format!("mov.b64 {register}, {value:#x};\n"),
            'i' => String::new(),
            _ => format!("mov.pred {register}, {value};\n"),
        };
        names.push(if kind == 'i' { format!("{value:#x}") } else { register });
    }
    text += &format!("{opcode} {};\n", names.join(", "));
    text + match shapes[0] {
        'h' => "st.global.u16 [%rd0], %h1;",
        'r' => "st.global.u32 [%rd0], %r1;",
        'd' => "st.global.u64 [%rd0], %rd1;",
        _ => "selp.u32 %r1, 1, 0, %p1;\nst.global.u32 [%rd0], %r1;",
    }
}

fn check(cases: &[Case]) {
    for case in cases {
        let body = body(case);
        let (report, words) = run_body(&body, 1, 32, 8, true).unwrap_or_else(|e| panic!("{case:x?}: {e}\n{body}"));
        assert!(report.findings.is_empty(), "{case:x?}: {}", report.findings[0]);
        let got = u64::from(words[0]) | u64::from(words[1]) << 32;
        assert_eq!(got, case.3, "{} {:x?}: got {got:#x}, expected {:#x}", case.0, case.2, case.3);
    }
}

const M1: u64 = 0xffff_ffff;
const MIN: u64 = 0x8000_0000;
const MAX: u64 = 0x7fff_ffff;

#[test]
fn integers() {
    check(&[
        ("add.s32", "rrr", &[MAX, 1], MIN),
        ("add.u32", "rrr", &[M1, 2], 1),
        ("add.sat.s32", "rrr", &[MAX, 1], MAX),
        ("add.sat.s32", "rrr", &[MIN, M1], MIN),
        ("sub.sat.s32", "rrr", &[MIN, 1], MIN),
        ("add.s16", "hhh", &[0x7fff, 1], 0x8000),
        ("add.s64", "ddd", &[0xffff_ffff, 1], 0x1_0000_0000),
        ("add.u64", "ddd", &[u64::MAX, 1], 0),
        ("sub.s64", "ddd", &[0, 1], u64::MAX),
        ("sub.s32", "rrr", &[0, 1], M1),
        ("sub.u16", "hhh", &[0, 1], 0xffff),
        ("mul.lo.s32", "rrr", &[0x1_0001, 0x1_0001], 0x2_0001),
        ("mul.lo.u16", "hhh", &[0x100, 0x100], 0),
        ("mul.lo.s64", "ddd", &[u64::MAX, 3], u64::MAX - 2),
        ("mul.hi.s32", "rrr", &[M1, M1], 0),
        ("mul.hi.u32", "rrr", &[M1, M1], 0xffff_fffe),
        ("mul.hi.s32", "rrr", &[MIN, 2], M1),
        ("mul.hi.u64", "ddd", &[u64::MAX, u64::MAX], u64::MAX - 1),
        ("mul.hi.s64", "ddd", &[u64::MAX, 5], u64::MAX),
        ("mul.hi.u16", "hhh", &[0xffff, 0xffff], 0xfffe),
        ("mul.wide.s32", "drr", &[M1, 3], 0xffff_ffff_ffff_fffd),
        ("mul.wide.u32", "drr", &[M1, 3], 0x2_ffff_fffd),
        ("mul.wide.s16", "rhh", &[0xffff, 2], 0xffff_fffe),
        ("mul.wide.u16", "rhh", &[0xffff, 0xffff], 0xfffe_0001),
        ("mad.lo.s32", "rrrr", &[MAX, 2, 3], 1),
        ("mad.hi.u32", "rrrr", &[MIN, 4, 5], 7),
        ("mad.wide.u32", "drrd", &[M1, M1, 1], 0xffff_fffe_0000_0002),
        ("mad.wide.s32", "drrd", &[M1, 1, 1], 0),
        ("mad.lo.u64", "dddd", &[2, 3, 4], 10),
        ("mul24.lo.s32", "rrr", &[0x00ff_ffff, 2], 0xffff_fffe),
        ("mul24.lo.u32", "rrr", &[0x0100_0003, 2], 6),
        ("mul24.hi.u32", "rrr", &[0xff_ffff, 0xff_ffff], 0xffff_fe00),
        ("div.s32", "rrr", &[0xffff_fff9, 2], 0xffff_fffd),
        ("div.s32", "rrr", &[MIN, M1], MIN),
        ("div.u32", "rrr", &[7, 0], M1),
        ("div.u64", "ddd", &[u64::MAX, 10], 1_844_674_407_370_955_161),
        ("div.s16", "hhh", &[0xfff9, 2], 0xfffd),
        ("rem.s32", "rrr", &[0xffff_fff9, 4], 0xffff_fffd),
        ("rem.u32", "rrr", &[7, 0], 7),
        ("rem.s32", "rrr", &[MIN, M1], 0),
        ("rem.u64", "ddd", &[u64::MAX, 10], 5),
        ("min.s32", "rrr", &[M1, 1], M1),
        ("min.u32", "rrr", &[M1, 1], 1),
        ("max.s32", "rrr", &[MIN, MAX], MAX),
        ("max.u64", "ddd", &[u64::MAX, 3], u64::MAX),
        ("min.s64", "ddd", &[u64::MAX, 3], u64::MAX),
        ("min.s16", "hhh", &[0x8000, 0x7fff], 0x8000),
        ("max.u16", "hhh", &[0x8000, 0x7fff], 0x8000),
        ("max.s16x2", "rrr", &[0x8000_7fff, 0x0001_8000], 0x0001_7fff),
        ("min.u16x2", "rrr", &[0x8000_7fff, 0x0001_8000], 0x0001_7fff),
        ("add.u16x2", "rrr", &[0xffff_0001, 0x0002_ffff], 0x0001_0000),
        ("abs.s32", "rr", &[M1], 1),
        ("abs.s32", "rr", &[MIN], MIN),
        ("abs.s64", "dd", &[u64::MAX], 1),
        ("abs.s16", "hh", &[0x8001], 0x7fff),
        ("neg.s32", "rr", &[MIN], MIN),
        ("neg.s16", "hh", &[1], 0xffff),
        ("sad.s32", "rrrr", &[MIN, MAX, 1], 0),
        ("sad.u32", "rrrr", &[3, 10, 5], 12),
        (
            "dp4a.s32.s32",
            "rrrr",
            &[0x80ff_7f01, 0x0102_0304, 10],
            0xffff_ffff + 1 - 128 - 2 + 381 + 4 + 10 - 0x1_0000_0000,
        ),
        ("dp4a.u32.u32", "rrrr", &[0xffff_ffff, 0xffff_ffff, 1], 4 * 65025 + 1),
        ("dp4a.u32.s32", "rrrr", &[0xff, 0xff, 0], 0xffff_ff01),
        ("dp2a.lo.s32.s32", "rrrr", &[0x0002_ffff, 0x0403_0201, 0], 3),
        ("dp2a.hi.s32.s32", "rrrr", &[0x0002_ffff, 0x0403_0201, 0], 5),
    ]);
}

#[test]
fn bits() {
    check(&[
        ("and.b32", "rrr", &[0xff00_ff00, 0x0ff0_0ff0], 0x0f00_0f00),
        ("or.b64", "ddd", &[1 << 63, 1], 1 << 63 | 1),
        ("xor.b16", "hhh", &[0xffff, 0x0f0f], 0xf0f0),
        ("not.b32", "rr", &[0], M1),
        ("not.b16", "hh", &[0], 0xffff),
        ("not.b64", "dd", &[0], u64::MAX),
        ("cnot.b32", "rr", &[0], 1),
        ("cnot.b32", "rr", &[7], 0),
        ("shl.b32", "rrr", &[1, 31], MIN),
        ("shl.b32", "rrr", &[1, 32], 0),
        ("shl.b32", "rrr", &[1, M1], 0),
        ("shl.b16", "hhr", &[0xffff, 8], 0xff00),
        ("shl.b16", "hhr", &[0xffff, 16], 0),
        ("shl.b64", "ddr", &[1, 63], 1 << 63),
        ("shl.b64", "ddr", &[1, 64], 0),
        ("shr.u32", "rrr", &[MIN, 31], 1),
        ("shr.u32", "rrr", &[MIN, 32], 0),
        ("shr.u32", "rrr", &[MIN, 33], 0),
        ("shr.s32", "rrr", &[MIN, 31], M1),
        ("shr.s32", "rrr", &[MIN, 40], M1),
        ("shr.s32", "rrr", &[MAX, 40], 0),
        ("shr.b32", "rrr", &[M1, 4], 0x0fff_ffff),
        ("shr.s16", "hhr", &[0x8000, 20], 0xffff),
        ("shr.u16", "hhr", &[0x8000, 15], 1),
        ("shr.s64", "ddr", &[1 << 63, 70], u64::MAX),
        ("shr.u64", "ddr", &[1 << 63, 63], 1),
        ("shr.u64", "ddr", &[1 << 63, 64], 0),
        ("shf.l.wrap.b32", "rrrr", &[0x8000_0001, 0x1234_5678, 4], 0x2345_6788),
        ("shf.l.wrap.b32", "rrrr", &[0x1111_1111, 0x1234_5678, 32], 0x1234_5678),
        ("shf.l.clamp.b32", "rrrr", &[0x1111_1111, 0x1234_5678, 40], 0x1111_1111),
        ("shf.r.wrap.b32", "rrrr", &[0x8000_0001, 0x1234_5678, 4], 0x8800_0000),
        ("shf.r.clamp.b32", "rrrr", &[0x8000_0001, 0x1234_5678, 99], 0x1234_5678),
        ("lop3.b32", "rrrri", &[0xf0, 0xcc, 0xaa, 0xca], (0xf0 & 0xcc) | (!0xf0u64 & 0xaa)),
        ("lop3.b32", "rrrri", &[0xf0f0_f0f0, 0xcccc_cccc, 0xaaaa_aaaa, 0x96], 0x9696_9696),
        ("lop3.b32", "rrrri", &[0xf0f0_f0f0, 0xcccc_cccc, 0xaaaa_aaaa, 0x00], 0),
        ("lop3.b32", "rrrri", &[0xf0f0_f0f0, 0xcccc_cccc, 0xaaaa_aaaa, 0xff], M1),
        ("popc.b32", "rr", &[0xf0f0_0001], 9),
        ("popc.b64", "rd", &[u64::MAX], 64),
        ("clz.b32", "rr", &[0], 32),
        ("clz.b32", "rr", &[1], 31),
        ("clz.b64", "rd", &[0], 64),
        ("brev.b32", "rr", &[1], MIN),
        ("brev.b64", "dd", &[1], 1 << 63),
        ("bfind.u32", "rr", &[0], M1),
        ("bfind.u32", "rr", &[0x100], 8),
        ("bfind.s32", "rr", &[M1], M1),
        ("bfind.s32", "rr", &[0xffff_fffe], 0),
        ("bfind.shiftamt.u32", "rr", &[0x100], 23),
        ("bfind.u64", "rd", &[1 << 40], 40),
        ("bfe.u32", "rrrr", &[0x1234_5678, 8, 8], 0x56),
        ("bfe.s32", "rrrr", &[0x0000_8000, 8, 8], 0xffff_ff80),
        ("bfe.s32", "rrrr", &[0x8000_0000, 28, 8], 0xffff_fff8),
        ("bfe.u32", "rrrr", &[M1, 5, 0], 0),
        ("bfe.s32", "rrrr", &[M1, 40, 4], M1),
        ("bfe.u64", "ddrr", &[0x1234_5678_9abc_def0, 32, 16], 0x5678),
        ("bfi.b32", "rrrrr", &[0xab, 0x1111_1111, 8, 8], 0x1111_ab11),
        ("bfi.b32", "rrrrr", &[M1, 0, 28, 8], 0xf000_0000),
        ("bfi.b32", "rrrrr", &[M1, 5, 3, 0], 5),
        ("bfi.b64", "dddrr", &[0xff, 0, 60, 8], 0xf << 60),
        ("prmt.b32", "rrrr", &[0x3322_1100, 0x7766_5544, 0x7531], 0x7755_3311),
        ("prmt.b32", "rrrr", &[0x0000_8000, 0, 0x0009], 0xff),
        ("prmt.b32.rc16", "rrrr", &[0x4433_2211, 0, 1], 0x4433_4433),
        ("prmt.b32.f4e", "rrrr", &[0x3322_1100, 0x7766_5544, 2], 0x5544_3322),
        ("prmt.b32.b4e", "rrrr", &[0x3322_1100, 0x7766_5544, 1], 0x6677_0011),
        ("prmt.b32.rc8", "rrrr", &[0x3322_1100, 0, 2], 0x2222_2222),
        ("prmt.b32.ecl", "rrrr", &[0x3322_1100, 0, 1], 0x3322_1111),
        ("prmt.b32.ecr", "rrrr", &[0x3322_1100, 0, 1], 0x1111_1100),
        ("bmsk.clamp.b32", "rrr", &[4, 8], 0xff0),
        ("bmsk.clamp.b32", "rrr", &[28, 40], 0xf000_0000),
        ("bmsk.wrap.b32", "rrr", &[33, 2], 6),
        ("szext.clamp.s32", "rrr", &[0x80, 8], 0xffff_ff80),
        ("szext.clamp.u32", "rrr", &[0xff80, 8], 0x80),
        ("szext.wrap.u32", "rrr", &[0xff, 32], 0),
        ("fns.b32", "rrrr", &[0b1011_0100, 3, 1], 4),
        ("fns.b32", "rrrr", &[0b1011_0100, 3, M1], 2),
        ("fns.b32", "rrrr", &[0b1011_0100, 6, 2], M1),
        ("selp.b32", "rrrp", &[1, 2, 1], 1),
        ("selp.b64", "dddp", &[1 << 40, 2, 0], 2),
        ("slct.s32.s32", "rrrr", &[1, 2, M1], 2),
        ("slct.u32.f32", "rrrr", &[1, 2, 0x8000_0000], 1),
        ("slct.u32.f32", "rrrr", &[1, 2, 0x7fc0_0000], 2),
    ]);
}

const NAN: u64 = 0x7fff_ffff;
const INF: u64 = 0x7f80_0000;
const NINF: u64 = 0xff80_0000;
const ONE: u64 = 0x3f80_0000;
const TINY: u64 = 0x0000_0001;
const NZERO: u64 = 0x8000_0000;
const BIG: u64 = 0x7f7f_ffff;

#[test]
fn single_precision() {
    check(&[
        ("add.f32", "rrr", &[INF, NINF], NAN),
        ("add.f32", "rrr", &[0x7fc0_1234, ONE], NAN),
        ("add.f32", "rrr", &[BIG, BIG], INF),
        ("add.rz.f32", "rrr", &[BIG, BIG], BIG),
        ("add.rm.f32", "rrr", &[BIG, BIG], BIG),
        ("add.rp.f32", "rrr", &[0xff7f_ffff, 0xff7f_ffff], 0xff7f_ffff),
        ("add.f32", "rrr", &[NZERO, NZERO], NZERO),
        ("add.f32", "rrr", &[ONE, 0xbf80_0000], 0),
        ("add.rm.f32", "rrr", &[ONE, 0xbf80_0000], NZERO),
        ("add.rp.f32", "rrr", &[ONE, TINY], 0x3f80_0001),
        ("add.rm.f32", "rrr", &[ONE, 0x8000_0001], 0x3f7f_ffff),
        ("add.rn.f32", "rrr", &[ONE, 0x3380_0000], ONE),
        ("add.rn.f32", "rrr", &[0x3f80_0001, 0x3380_0000], 0x3f80_0002),
        ("add.ftz.f32", "rrr", &[TINY, TINY], 0),
        ("add.f32", "rrr", &[TINY, TINY], 2),
        ("add.sat.f32", "rrr", &[ONE, ONE], ONE),
        ("add.sat.f32", "rrr", &[NAN, ONE], 0),
        ("add.sat.f32", "rrr", &[0xbf80_0000, 0], 0),
        ("sub.f32", "rrr", &[0, NZERO], 0),
        ("sub.f32", "rrr", &[NZERO, 0], NZERO),
        ("sub.f32", "rrr", &[INF, INF], NAN),
        ("mul.f32", "rrr", &[0, INF], NAN),
        ("mul.f32", "rrr", &[0xbf80_0000, 0], NZERO),
        ("mul.f32", "rrr", &[TINY, 0x3f00_0000], 0),
        ("mul.rp.f32", "rrr", &[TINY, 0x3f00_0000], 1),
        ("mul.ftz.f32", "rrr", &[0x0080_0000, 0x3f00_0000], 0),
        ("mul.f32", "rrr", &[0x0080_0000, 0x3f00_0000], 0x0040_0000),
        ("mul.rz.f32", "rrr", &[0x3f80_0001, 0x3f80_0001], 0x3f80_0002),
        ("mul.rp.f32", "rrr", &[0x3f80_0001, 0x3f80_0001], 0x3f80_0003),
        ("fma.rn.f32", "rrrr", &[0x3f80_0001, 0x3f80_0001, 0xbf80_0002], 0x2880_0000),
        ("fma.rn.f32", "rrrr", &[INF, 0, ONE], NAN),
        ("fma.rn.f32", "rrrr", &[0x7fa0_0000, 0, ONE], NAN),
        ("fma.rz.f32", "rrrr", &[0x3f80_0001, 0x3f80_0001, TINY], 0x3f80_0002),
        ("fma.rp.f32", "rrrr", &[ONE, ONE, TINY], 0x3f80_0001),
        ("fma.rm.f32", "rrrr", &[ONE, 0xbf80_0000, ONE], NZERO),
        ("fma.rn.ftz.f32", "rrrr", &[TINY, ONE, 0], 0),
        ("fma.rn.sat.f32", "rrrr", &[ONE, 0x4000_0000, 0], ONE),
        ("min.f32", "rrr", &[NAN, ONE], ONE),
        ("min.NaN.f32", "rrr", &[NAN, ONE], NAN),
        ("min.f32", "rrr", &[NAN, NAN], NAN),
        ("min.f32", "rrr", &[0, NZERO], NZERO),
        ("max.f32", "rrr", &[NZERO, 0], 0),
        ("max.f32", "rrr", &[ONE, 0xffc0_0000], ONE),
        ("max.ftz.f32", "rrr", &[TINY, NZERO], 0),
        ("max.xorsign.abs.f32", "rrr", &[0xc000_0000, ONE], 0xc000_0000),
        ("abs.f32", "rr", &[0xff80_0000], INF),
        ("neg.f32", "rr", &[0], NZERO),
        ("neg.ftz.f32", "rr", &[TINY], NZERO),
        ("copysign.f32", "rrr", &[NZERO, ONE], 0xbf80_0000),
        ("div.rn.f32", "rrr", &[ONE, 0x4040_0000], 0x3eaa_aaab),
        ("div.rz.f32", "rrr", &[ONE, 0x4040_0000], 0x3eaa_aaaa),
        ("div.rn.f32", "rrr", &[ONE, NZERO], NINF),
        ("div.rn.f32", "rrr", &[0, 0], NAN),
        ("div.rn.f32", "rrr", &[TINY, 0x4000_0000], 0),
        ("div.rn.f32", "rrr", &[3, 0x4000_0000], 2),
        ("div.rp.f32", "rrr", &[TINY, 0x4000_0000], 1),
        ("div.approx.f32", "rrr", &[0x4080_0000, 0x4000_0000], 0x4000_0000),
        ("div.approx.f32", "rrr", &[ONE, BIG], 0),
        ("div.full.f32", "rrr", &[ONE, 0x4000_0000], 0x3f00_0000),
        ("rcp.rn.f32", "rr", &[0x4040_0000], 0x3eaa_aaab),
        ("rcp.rm.f32", "rr", &[0x4040_0000], 0x3eaa_aaaa),
        ("rcp.approx.ftz.f32", "rr", &[TINY], INF),
        ("rcp.approx.f32", "rr", &[NINF], NZERO),
        ("sqrt.rn.f32", "rr", &[0x4000_0000], 0x3fb5_04f3),
        ("sqrt.rp.f32", "rr", &[0x4000_0000], 0x3fb5_04f4),
        ("sqrt.rn.f32", "rr", &[0xbf80_0000], NAN),
        ("sqrt.rn.f32", "rr", &[NZERO], NZERO),
        ("sqrt.approx.f32", "rr", &[0x4080_0000], 0x4000_0000),
        ("rsqrt.approx.f32", "rr", &[0x4080_0000], 0x3f00_0000),
        ("rsqrt.approx.f32", "rr", &[NZERO], NINF),
        ("rsqrt.approx.f32", "rr", &[INF], 0),
        ("ex2.approx.f32", "rr", &[0x4040_0000], 0x4100_0000),
        ("ex2.approx.f32", "rr", &[NINF], 0),
        ("ex2.approx.ftz.f32", "rr", &[0xc300_0000], 0),
        ("ex2.approx.f32", "rr", &[0xc300_0000], 0x0020_0000),
        ("lg2.approx.f32", "rr", &[0x4100_0000], 0x4040_0000),
        ("lg2.approx.f32", "rr", &[NZERO], NINF),
        ("lg2.approx.f32", "rr", &[0xbf80_0000], NAN),
        ("sin.approx.f32", "rr", &[NZERO], NZERO),
        ("sin.approx.f32", "rr", &[INF], NAN),
        ("cos.approx.f32", "rr", &[0], ONE),
        ("tanh.approx.f32", "rr", &[NINF], 0xbf80_0000),
        (
            "fma.rn.f32x2",
            "dddd",
            &[0x3f80_0000_4000_0000, 0x4000_0000_4000_0000, 0x3f80_0000_0000_0000],
            0x4040_0000_4080_0000,
        ),
        ("add.rn.ftz.f32x2", "ddd", &[0x0000_0001_3f80_0000, 0x0000_0000_3f80_0000], 0x4000_0000),
        ("testp.subnormal.f32", "pr", &[TINY], 1),
        ("testp.finite.f32", "pr", &[INF], 0),
        ("testp.notanumber.f32", "pr", &[NAN], 1),
    ]);
}

#[test]
fn double_precision() {
    let one = 1f64.to_bits();
    check(&[
        ("add.f64", "ddd", &[0x3ff0_0000_0000_0000, 1], 0x3ff0_0000_0000_0000),
        ("add.rp.f64", "ddd", &[0x3ff0_0000_0000_0000, 1], 0x3ff0_0000_0000_0001),
        ("add.rm.f64", "ddd", &[0x3ff0_0000_0000_0000, 1 << 63 | 1], 0x3fef_ffff_ffff_ffff),
        ("mul.rz.f64", "ddd", &[0x3ff0_0000_0000_0001, 0x3ff0_0000_0000_0001], 0x3ff0_0000_0000_0002),
        ("mul.rp.f64", "ddd", &[0x3ff0_0000_0000_0001, 0x3ff0_0000_0000_0001], 0x3ff0_0000_0000_0003),
        (
            "fma.rn.f64",
            "dddd",
            &[0x3ff0_0000_0000_0001, 0x3ff0_0000_0000_0001, 0xbff0_0000_0000_0002],
            0x3970_0000_0000_0000,
        ),
        ("div.rn.f64", "ddd", &[0x3ff0_0000_0000_0000, 0x4008_0000_0000_0000], 0x3fd5_5555_5555_5555),
        ("div.rp.f64", "ddd", &[0x3ff0_0000_0000_0000, 0x4008_0000_0000_0000], 0x3fd5_5555_5555_5556),
        ("sqrt.rn.f64", "dd", &[0x4000_0000_0000_0000], 0x3ff6_a09e_667f_3bcd),
        ("min.f64", "ddd", &[0, 1 << 63], 1 << 63),
        ("max.f64", "ddd", &[0x7ff8_0000_0000_0000, 0x3ff0_0000_0000_0000], 0x3ff0_0000_0000_0000),
        ("neg.f64", "dd", &[0], 1 << 63),
        ("abs.f64", "dd", &[1 << 63], 0),
        ("sub.f64", "ddd", &[0x7ff0_0000_0000_0000, 0x7ff0_0000_0000_0000], 0x7fff_ffff_ffff_ffff),
    ]);
    assert_eq!(one, 0x3ff0_0000_0000_0000);
}

#[test]
fn halves() {
    check(&[
        ("add.f16", "hhh", &[0x7bff, 0x7bff], 0x7c00),
        ("add.f16", "hhh", &[0x7c00, 0xfc00], 0x7fff),
        ("add.f16", "hhh", &[0x3c00, 0x1000], 0x3c00),
        ("add.f16", "hhh", &[0x3c01, 0x1000], 0x3c02),
        ("add.sat.f16", "hhh", &[0x3c00, 0x3c00], 0x3c00),
        ("sub.f16", "hhh", &[1, 2], 0x8001),
        ("mul.f16", "hhh", &[0x0001, 0x3800], 0),
        ("mul.f16", "hhh", &[0x0003, 0x3800], 2),
        ("mul.ftz.f16", "hhh", &[0x0001, 0x3c00], 0),
        ("fma.rn.f16", "hhhh", &[0x3c01, 0x3c01, 0xbc02], 0x0010),
        ("fma.rn.relu.f16", "hhhh", &[0xbc00, 0x3c00, 0], 0),
        ("min.f16", "hhh", &[0x7e00, 0x3c00], 0x3c00),
        ("min.NaN.f16", "hhh", &[0x7e00, 0x3c00], 0x7fff),
        ("max.f16", "hhh", &[0x8000, 0], 0),
        ("abs.f16", "hh", &[0xbc00], 0x3c00),
        ("neg.f16", "hh", &[0], 0x8000),
        ("ex2.approx.f16", "hh", &[0x4000], 0x4400),
        ("tanh.approx.f16", "hh", &[0x7c00], 0x3c00),
        ("add.f16x2", "rrr", &[0x3c00_7bff, 0xbc00_7bff], 0x0000_7c00),
        ("sub.f16x2", "rrr", &[0x6408_6400, 0x6408_6408], 0x0000_c800),
        ("mul.f16x2", "rrr", &[0x4000_0001, 0x4000_3800], 0x4400_0000),
        ("fma.rn.f16x2", "rrrr", &[0x3c01_3c00, 0x3c01_3c00, 0xbc02_8000], 0x0010_3c00),
        ("max.f16x2", "rrr", &[0x3c00_8000, 0x4000_0000], 0x4000_0000),
        ("neg.f16x2", "rr", &[0x3c00_8000], 0xbc00_0000),
        ("fma.rn.bf16", "hhhh", &[0x3f81, 0x3f81, 0xbf82], 0x3880),
        ("fma.rn.bf16x2", "rrrr", &[0x3f80_7f7f, 0x3f80_4000, 0x3f80_0000], 0x4000_7f80),
        ("max.bf16x2", "rrr", &[0x7fc0_3f80, 0x3f80_4000], 0x3f80_4000),
        ("add.rn.bf16", "hhh", &[0x3f80, 0x3b80], 0x3f80),
        ("setp.lt.f16", "phh", &[0x8001, 0], 1),
        ("setp.ltu.f16", "phh", &[0x7e00, 0], 1),
        ("setp.eq.bf16", "phh", &[0x8000, 0], 1),
        ("set.gt.f16x2.f16x2", "rrr", &[0x3c00_0000, 0x0000_3c00], 0x3c00_0000),
        ("set.eq.f16.f16", "hhh", &[0x8000, 0], 0x3c00),
        ("set.lt.u32.f32", "rrr", &[0, ONE], M1),
        ("set.lt.f32.s32", "rrr", &[M1, 0], ONE),
    ]);
}

#[test]
fn comparisons() {
    check(&[
        ("setp.lt.s32", "prr", &[MIN, MAX], 1),
        ("setp.lt.u32", "prr", &[MIN, MAX], 0),
        ("setp.lo.u32", "prr", &[1, 2], 1),
        ("setp.hs.u32", "prr", &[2, 2], 1),
        ("setp.ne.s64", "pdd", &[1 << 40, 0], 1),
        ("setp.gt.s64", "pdd", &[u64::MAX, 0], 0),
        ("setp.gt.u64", "pdd", &[u64::MAX, 0], 1),
        ("setp.ge.s16", "phh", &[0x8000, 0], 0),
        ("setp.ge.u16", "phh", &[0x8000, 0], 1),
        ("setp.eq.f32", "prr", &[NZERO, 0], 1),
        ("setp.eq.f32", "prr", &[NAN, NAN], 0),
        ("setp.ne.f32", "prr", &[NAN, 0], 0),
        ("setp.neu.f32", "prr", &[NAN, 0], 1),
        ("setp.equ.f32", "prr", &[NAN, 0], 1),
        ("setp.lt.f32", "prr", &[NAN, 0], 0),
        ("setp.ltu.f32", "prr", &[NAN, 0], 1),
        ("setp.leu.f32", "prr", &[ONE, 0], 0),
        ("setp.gtu.f32", "prr", &[ONE, 0], 1),
        ("setp.geu.f32", "prr", &[0, ONE], 0),
        ("setp.num.f32", "prr", &[NAN, 0], 0),
        ("setp.nan.f32", "prr", &[NAN, 0], 1),
        ("setp.nan.f32", "prr", &[INF, 0], 0),
        ("setp.gt.ftz.f32", "prr", &[TINY, 0], 0),
        ("setp.gt.f32", "prr", &[TINY, 0], 1),
        ("setp.lt.f64", "pdd", &[1 << 63, 1], 1),
        ("setp.lt.and.s32", "prrp", &[0, 1, 0], 0),
        ("setp.lt.or.s32", "prrp", &[1, 0, 1], 1),
        ("setp.lt.xor.s32", "prrp", &[0, 1, 1], 0),
        ("and.pred", "ppp", &[1, 0], 0),
        ("or.pred", "ppp", &[1, 0], 1),
        ("xor.pred", "ppp", &[1, 1], 0),
        ("not.pred", "pp", &[0], 1),
    ]);
}

#[test]
fn conversions() {
    check(&[
        ("cvt.s64.s32", "dr", &[M1], u64::MAX),
        ("cvt.u64.u32", "dr", &[M1], M1),
        ("cvt.u32.u64", "rd", &[0x1_2345_6789], 0x2345_6789),
        ("cvt.s32.s16", "rh", &[0x8000], 0xffff_8000),
        ("cvt.u32.u16", "rh", &[0x8000], 0x8000),
        ("cvt.u16.u32", "hr", &[0x1_2345], 0x2345),
        ("cvt.s32.s8", "rr", &[0x180], 0xffff_ff80),
        ("cvt.u32.u8", "rr", &[0x180], 0x80),
        ("cvt.s8.s32", "rr", &[0x180], 0xffff_ff80),
        ("cvt.sat.s8.s32", "rr", &[200], 127),
        ("cvt.sat.u8.s32", "rr", &[M1], 0),
        ("cvt.sat.s32.s64", "rd", &[1 << 40], MAX),
        ("cvt.sat.u32.s64", "rd", &[u64::MAX], 0),
        ("cvt.rn.f32.s32", "rr", &[0x0100_0001], 0x4b80_0000),
        ("cvt.rp.f32.s32", "rr", &[0x0100_0001], 0x4b80_0001),
        ("cvt.rz.f32.s32", "rr", &[0xfeff_ffff], 0xcb80_0000),
        ("cvt.rn.f32.u32", "rr", &[M1], 0x4f80_0000),
        ("cvt.rz.f32.u32", "rr", &[M1], 0x4f7f_ffff),
        ("cvt.rn.f32.u64", "rd", &[0x8000_0080_0000_0001], 0x5f00_0001),
        ("cvt.rn.f64.s64", "dd", &[u64::MAX], 0xbff0_0000_0000_0000),
        ("cvt.rn.f64.u64", "dd", &[u64::MAX], 0x43f0_0000_0000_0000),
        ("cvt.rz.f64.u64", "dd", &[u64::MAX], 0x43ef_ffff_ffff_ffff),
        ("cvt.rn.f16.u16", "hh", &[0xffff], 0x7c00),
        ("cvt.rn.f16.s16", "hh", &[0xffff], 0xbc00),
        ("cvt.rzi.s32.f32", "rr", &[0xbfc0_0000], M1),
        ("cvt.rni.s32.f32", "rr", &[0x4020_0000], 2),
        ("cvt.rmi.s32.f32", "rr", &[0xbfc0_0000], 0xffff_fffe),
        ("cvt.rpi.s32.f32", "rr", &[0x3f80_0001], 2),
        ("cvt.rzi.s32.f32", "rr", &[NAN], 0),
        ("cvt.rzi.s32.f32", "rr", &[INF], MAX),
        ("cvt.rzi.s32.f32", "rr", &[NINF], MIN),
        ("cvt.rzi.u32.f32", "rr", &[0xbf80_0000], 0),
        ("cvt.rzi.u32.f32", "rr", &[0x4f80_0000], M1),
        ("cvt.rzi.s64.f32", "dr", &[NAN], 1 << 63),
        ("cvt.rzi.u64.f64", "dd", &[0xbff0_0000_0000_0000], 0),
        ("cvt.rni.f32.f32", "rr", &[0x3f00_0000], 0),
        ("cvt.rni.f32.f32", "rr", &[0xbf00_0000], NZERO),
        ("cvt.rpi.f32.f32", "rr", &[0x3f00_0000], ONE),
        ("cvt.rmi.f32.f32", "rr", &[0xbf00_0000], 0xbf80_0000),
        ("cvt.rzi.f32.f32", "rr", &[0xbfff_ffff], 0xbf80_0000),
        ("cvt.sat.f32.f32", "rr", &[NAN], 0),
        ("cvt.ftz.f32.f32", "rr", &[0x8000_0001], NZERO),
        ("cvt.f64.f32", "dr", &[TINY], 0x36a0_0000_0000_0000),
        ("cvt.rn.f32.f64", "rd", &[0x3ff0_0000_1000_0000], ONE),
        ("cvt.rp.f32.f64", "rd", &[0x3ff0_0000_0000_0001], 0x3f80_0001),
        ("cvt.rz.f32.f64", "rd", &[0x7fe0_0000_0000_0000], BIG),
        ("cvt.f32.f16", "rh", &[0x0001], 0x3380_0000),
        ("cvt.f32.f16", "rh", &[0xfc00], NINF),
        ("cvt.f32.f16", "rh", &[0x7c01], NAN),
        ("cvt.rn.f16.f32", "hr", &[0x477f_f000], 0x7c00),
        ("cvt.rn.f16.f32", "hr", &[0x477f_efff], 0x7bff),
        ("cvt.rz.f16.f32", "hr", &[0x4780_0000], 0x7bff),
        ("cvt.rn.f16.f32", "hr", &[0x3300_0000], 0),
        ("cvt.rn.f16.f32", "hr", &[0x3300_0001], 1),
        ("cvt.rn.f16.f32", "hr", &[NAN], 0x7fff),
        ("cvt.rn.f16.f32", "hr", &[NZERO], 0x8000),
        ("cvt.rn.relu.f16.f32", "hr", &[0xbf80_0000], 0),
        ("cvt.rn.bf16.f32", "hr", &[0x3f80_8000], 0x3f80),
        ("cvt.rn.bf16.f32", "hr", &[0x3f81_8000], 0x3f82),
        ("cvt.rz.bf16.f32", "hr", &[0x3f80_ffff], 0x3f80),
        ("cvt.rp.bf16.f32", "hr", &[0x3f80_0001], 0x3f81),
        ("cvt.rn.bf16.f32", "hr", &[BIG], 0x7f80),
        ("cvt.f32.bf16", "rh", &[0x3f80], ONE),
        ("cvt.rn.f16x2.f32", "rrr", &[ONE, 0x4000_0000], 0x3c00_4000),
        ("cvt.rn.bf16x2.f32", "rrr", &[ONE, 0x4000_0000], 0x3f80_4000),
        ("cvt.rn.satfinite.e4m3x2.f32", "hrr", &[ONE, 0x43f0_0000], 0x387e),
        ("cvt.rn.satfinite.e4m3x2.f32", "hrr", &[NAN, INF], 0x7f7e),
        ("cvt.rn.satfinite.e5m2x2.f32", "hrr", &[INF, 0x3f80_0000], 0x7b3c),
        ("cvt.rn.satfinite.e4m3x2.f16x2", "hr", &[0x3c00_bc00], 0x38b8),
        ("cvt.rn.f16x2.e4m3x2", "rh", &[0x7f38], 0x7fff_3c00),
        ("cvt.rn.f16x2.e5m2x2", "rh", &[0x7c3c], 0x7c00_3c00),
        ("cvt.rn.f16x2.e4m3x2", "rh", &[0x0108], 0x1800_2400),
        ("cvt.rna.tf32.f32", "rr", &[0x3f80_1000], 0x3f80_2000),
        ("cvt.rna.tf32.f32", "rr", &[0x3f80_0fff], ONE),
        ("cvt.rzi.s32.f16", "rh", &[0xbe00], M1),
        ("cvt.rni.s16.f16", "hh", &[0x4100], 2),
        ("cvt.rzi.u16.f32", "hr", &[0x4780_0000], 0xffff),
    ]);
}

#[test]
#[should_panic(expected = "expected 0x3")]
fn a_wrong_value_is_noticed() {
    check(&[("add.s32", "rrr", &[1, 1], 3)]);
}

/// Runs `opcode` with 32 random triples and compares each lane.
fn lanes(opcode: &str, sources: usize, values: &[[u32; 3]], reference: impl Fn([u32; 3]) -> u32) {
    let names = ["%r2", "%r3", "%r4"][..sources].join(", ");
    let body = format!(
        "mul.wide.u32 %rd1, %r0, 16; add.s64 %rd2, %rd0, %rd1;\nld.global.v4.u32 {{%r2, %r3, %r4, %r5}}, [%rd2];\n{opcode} %r1, {names};\nst.global.u32 [%rd2+12], %r1;"
    );
    let text = support::kernel(&body);
    let module = simulator::Module::parse(&text, "lanes.ptx").unwrap();
    let mut memory = simulator::Memory::new();
    let data: Vec<u32> = values.iter().flat_map(|[a, b, c]| [*a, *b, *c, 0]).collect();
    let buffer = memory.allocate_with("data", support::words(&data), simulator::Access::ReadWrite);
    let launch = simulator::Launch::new([1, 1, 1], [32, 1, 1], support::Params::new().pointer(buffer).bytes(8));
    let report = simulator::run(&module, "k", &launch, &mut memory, &support::everything()).unwrap();
    assert!(report.findings.is_empty());
    let got = support::read_words(&memory, buffer, 128);
    for (lane, value) in values.iter().enumerate() {
        assert_eq!(got[4 * lane + 3], reference(*value), "{opcode} of {value:x?}");
    }
}

fn edge() -> impl Strategy<Value = u32> {
    prop_oneof![
        any::<u32>(),
        Just(0),
        Just(1),
        Just(u32::MAX),
        Just(0x8000_0000),
        Just(0x7fff_ffff),
        0u32..70,
        Just(0x7f80_0000),
        Just(0xff80_0001)
    ]
}

fn canonical(x: f32) -> u32 {
    if x.is_nan() { 0x7fff_ffff } else { x.to_bits() }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Instructions that run on all lanes at once agree with Rust's own scalar arithmetic.
    #[test]
    fn vector_instructions_agree_with_scalars(values in prop::collection::vec([edge(), edge(), edge()], 32)) {
        let f = f32::from_bits;
        lanes("add.s32", 2, &values, |[a, b, _]| a.wrapping_add(b));
        lanes("sub.s32", 2, &values, |[a, b, _]| a.wrapping_sub(b));
        lanes("mul.lo.s32", 2, &values, |[a, b, _]| a.wrapping_mul(b));
        lanes("mad.lo.s32", 3, &values, |[a, b, c]| a.wrapping_mul(b).wrapping_add(c));
        lanes("shl.b32", 2, &values, |[a, b, _]| a.checked_shl(b).unwrap_or(0));
        lanes("shr.u32", 2, &values, |[a, b, _]| a.checked_shr(b).unwrap_or(0));
        lanes("shr.s32", 2, &values, |[a, b, _]| (a as i32 >> b.min(31)) as u32);
        lanes("min.s32", 2, &values, |[a, b, _]| (a as i32).min(b as i32) as u32);
        lanes("max.u32", 2, &values, |[a, b, _]| a.max(b));
        lanes("mul.hi.s32", 2, &values, |[a, b, _]| ((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32);
        lanes("mul.hi.u32", 2, &values, |[a, b, _]| ((u64::from(a) * u64::from(b)) >> 32) as u32);
        lanes("div.s32", 2, &values, |[a, b, _]| if b == 0 { u32::MAX } else { (a as i32).wrapping_div(b as i32) as u32 });
        lanes("rem.u32", 2, &values, |[a, b, _]| if b == 0 { a } else { a % b });
        lanes("shf.l.wrap.b32", 3, &values, |[a, b, c]| ((u64::from(b) << 32 | u64::from(a)) << (c & 31) >> 32) as u32);
        lanes("add.f32", 2, &values, |[a, b, _]| canonical(f(a) + f(b)));
        lanes("mul.rn.f32", 2, &values, |[a, b, _]| canonical(f(a) * f(b)));
        lanes("fma.rn.f32", 3, &values, |[a, b, c]| canonical(f(a).mul_add(f(b), f(c))));
        lanes("div.rn.f32", 2, &values, |[a, b, _]| canonical(f(a) / f(b)));
        lanes("sqrt.rn.f32", 1, &values, |[a, _, _]| canonical(f(a).sqrt()));
        lanes("add.f16x2", 2, &values, |[a, b, _]| half_pair(a, b, |x, y| x + y));
        lanes("mul.f16x2", 2, &values, |[a, b, _]| half_pair(a, b, |x, y| x * y));
    }

    /// A directed rounding brackets the exact result with its opposite.
    #[test]
    fn directed_roundings_bracket(a in any::<f32>(), b in any::<f32>()) {
        let run = |opcode: &str| {
            let body = format!("mov.b32 %r2, {:#x}; mov.b32 %r3, {:#x}; {opcode} %r1, %r2, %r3; st.global.u32 [%rd0], %r1;", a.to_bits(), b.to_bits());
            f32::from_bits(run_body(&body, 1, 32, 8, true).unwrap().1[0])
        };
        for op in ["add", "mul", "div"] {
            let [down, near, up] = ["rm", "rn", "rp"].map(|r| run(&format!("{op}.{r}.f32")));
            if near.is_nan() {
                prop_assert!(down.is_nan() && up.is_nan());
            } else {
                prop_assert!(down <= near && near <= up, "{op}: {down} {near} {up}");
                prop_assert!(up == down || up == down.next_up(), "{op}: {down} {up}");
            }
        }
    }
}

fn half_pair(a: u32, b: u32, f: impl Fn(f32, f32) -> f32) -> u32 {
    let one = |x: u32, y: u32| {
        let value = f(half::f16::from_bits(x as u16).to_f32(), half::f16::from_bits(y as u16).to_f32());
        if value.is_nan() { 0x7fff } else { u32::from(half::f16::from_f32(value).to_bits()) }
    };
    one(a >> 16, b >> 16) << 16 | one(a & 0xffff, b & 0xffff)
}
