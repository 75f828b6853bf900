//! Float instructions of all widths.

use super::integer::reading_of;
use super::opcode::{Opcode, bits};
use super::operands::Reading;
use super::{Decoder, LaneFn, Lowered, Op};
use crate::numeric::{approximate, float, half_ops, modifier};
use crate::parse::Instruction;

const ROUNDINGS: [&str; 4] = ["rn", "rz", "rm", "rp"];

/// Modifier bits of a float opcode.
pub(super) fn modifiers(op: &Opcode) -> u32 {
    let rounding = ROUNDINGS.iter().position(|r| op.has(r)).unwrap_or(0) as u32;
    let flags = [
        ("ftz", modifier::FTZ),
        ("sat", modifier::SAT),
        ("NaN", modifier::NAN),
        ("xorsign", modifier::XORSIGN_ABS),
        ("relu", modifier::RELU),
    ];
    flags.iter().filter(|(word, _)| op.has(word)).fold(rounding, |m, (_, bit)| m | bit)
}

impl Decoder<'_> {
    pub(super) fn float(&mut self, i: &Instruction, op: &Opcode) -> Lowered {
        self.only(
            op,
            &[
                "rn",
                "rz",
                "rm",
                "rp",
                "ftz",
                "sat",
                "NaN",
                "xorsign",
                "abs",
                "relu",
                "approx",
                "full",
                "noftz",
                "finite",
                "infinite",
                "number",
                "notanumber",
                "normal",
                "subnormal",
            ],
        )?;
        if op.types.len() > 1 {
            return self.error("mixed float types are not simulated");
        }
        let m = modifiers(op);
        if op.base == "testp" {
            return self.test_class(i, op);
        }
        if let Some((hot, sources)) = hot(op, m, i.operands.len()) {
            return self.emit_hot(i, hot, 32, sources, reading_of(op.kind()), 0);
        }
        let function = match op.kind() {
            "f32" => single(op, i.operands.len()),
            "f64" => double(op),
            "f16" => half::<false>(op),
            "bf16" => half::<true>(op),
            "f16x2" => pair::<false>(op),
            "bf16x2" => pair::<true>(op),
            "f32x2" => two_singles(op),
            _ => None,
        };
        let Some((function, sources)) = function else { return self.error("this form is not simulated") };
        if op.kind() == "f64" && op.base == "fma" && m & modifier::ROUNDING != 0 {
            return self.error("f64 fma is simulated in round-to-nearest only");
        }
        let n = bits(op.kind());
        self.emit_lanes(i, function, m, n, &vec![n; sources], reading_of(op.kind()))
    }

    fn test_class(&mut self, i: &Instruction, op: &Opcode) -> Lowered {
        let classes = ["finite", "infinite", "number", "notanumber", "normal", "subnormal"];
        let Some(class) = classes.iter().position(|c| op.has(c)) else { return self.error("no class to test for") };
        let function: LaneFn = if op.kind() == "f64" { float::testp_f64 } else { float::testp_f32 };
        let n = bits(op.kind());
        let p = self.predicate_out(self.operand(i, 0)?)?;
        let source = self.operand(i, 1)?;
        let arg = self.lane_arg(source, n, Reading::Bits)?;
        self.emit_predicate(p, function, class as u32, vec![arg]);
        Ok(())
    }

    /// Emits a lane function whose result is a predicate.
    pub(super) fn emit_predicate(&mut self, p: u16, function: LaneFn, m: u32, args: Vec<super::LaneArg>) {
        self.code.outs.push(super::PredicateOut { p, q: super::NONE, combine: None });
        let out = (self.code.outs.len() - 1) as u16;
        let row = args.first().map_or(self.zero, |a| a.row);
        let x = self.lane_op(function, m, 1, args);
        self.emit(Op::LaneSet, [out, row, self.zero, self.zero], x);
    }
}

/// Instructions that run on all lanes at once: round to nearest without modifiers.
fn hot(op: &Opcode, m: u32, operands: usize) -> Option<(Op, usize)> {
    if m != 0 || op.has_any(&["approx", "full"]) || (matches!(op.base, "min" | "max") && operands != 3) {
        return None;
    }
    Some(match (op.base, op.kind()) {
        ("add", "f32") => (Op::AddF32, 2),
        ("sub", "f32") => (Op::SubF32, 2),
        ("mul", "f32") => (Op::MulF32, 2),
        ("fma" | "mad", "f32") => (Op::FmaF32, 3),
        ("min", "f32") => (Op::MinF32, 2),
        ("max", "f32") => (Op::MaxF32, 2),
        ("add", "f16x2") => (Op::AddF16x2, 2),
        ("sub", "f16x2") => (Op::SubF16x2, 2),
        ("mul", "f16x2") => (Op::MulF16x2, 2),
        ("fma", "f16x2") => (Op::FmaF16x2, 3),
        _ => return None,
    })
}

fn single(op: &Opcode, operands: usize) -> Option<(LaneFn, usize)> {
    let approximate = op.has("approx");
    Some(match op.base {
        "add" => (float::add_f32, 2),
        "sub" => (float::sub_f32, 2),
        "mul" => (float::mul_f32, 2),
        "fma" | "mad" => (float::fma_f32, 3),
        "div" if approximate => (approximate::div, 2),
        "div" if op.has("full") => (approximate::div_full, 2),
        "div" => (float::div_f32, 2),
        "rcp" if approximate => (approximate::rcp, 1),
        "rcp" => (float::rcp_f32, 1),
        "sqrt" if approximate => (approximate::sqrt, 1),
        "sqrt" => (float::sqrt_f32, 1),
        "rsqrt" => (approximate::rsqrt, 1),
        "ex2" => (approximate::ex2, 1),
        "lg2" => (approximate::lg2, 1),
        "sin" => (approximate::sin, 1),
        "cos" => (approximate::cos, 1),
        "tanh" => (approximate::tanh, 1),
        "min" if operands == 4 => (float::min3_f32, 3),
        "max" if operands == 4 => (float::max3_f32, 3),
        "min" => (float::min_f32, 2),
        "max" => (float::max_f32, 2),
        "neg" => (float::neg_f32, 1),
        "abs" => (float::abs_f32, 1),
        "copysign" => (float::copysign_f32, 2),
        _ => return None,
    })
}

/// Packed f32 of sm_100.
fn two_singles(op: &Opcode) -> Option<(LaneFn, usize)> {
    Some(match op.base {
        "add" => (float::add_f32x2, 2),
        "sub" => (float::sub_f32x2, 2),
        "mul" => (float::mul_f32x2, 2),
        "fma" => (float::fma_f32x2, 3),
        _ => return None,
    })
}

fn double(op: &Opcode) -> Option<(LaneFn, usize)> {
    let approximate = op.has("approx");
    Some(match op.base {
        "add" => (float::add_f64, 2),
        "sub" => (float::sub_f64, 2),
        "mul" => (float::mul_f64, 2),
        "fma" | "mad" => (float::fma_f64, 3),
        "div" => (float::div_f64, 2),
        "rcp" if approximate => (approximate::rcp_f64, 1),
        "rcp" => (float::rcp_f64, 1),
        "sqrt" => (float::sqrt_f64, 1),
        "rsqrt" => (approximate::rsqrt_f64, 1),
        "min" => (float::min_f64, 2),
        "max" => (float::max_f64, 2),
        "neg" => (float::neg_f64, 1),
        "abs" => (float::abs_f64, 1),
        "copysign" => (float::copysign_f64, 2),
        _ => return None,
    })
}

fn half<const BF: bool>(op: &Opcode) -> Option<(LaneFn, usize)> {
    Some(match op.base {
        "add" => (half_ops::add::<BF>, 2),
        "sub" => (half_ops::sub::<BF>, 2),
        "mul" => (half_ops::mul::<BF>, 2),
        "fma" => (half_ops::fma::<BF>, 3),
        "min" => (half_ops::min::<BF>, 2),
        "max" => (half_ops::max::<BF>, 2),
        "neg" => (half_ops::neg::<BF>, 1),
        "abs" => (half_ops::abs::<BF>, 1),
        "ex2" => (half_ops::ex2::<BF>, 1),
        "tanh" => (half_ops::tanh::<BF>, 1),
        _ => return None,
    })
}

fn pair<const BF: bool>(op: &Opcode) -> Option<(LaneFn, usize)> {
    Some(match op.base {
        "add" => (half_ops::add2::<BF>, 2),
        "sub" => (half_ops::sub2::<BF>, 2),
        "mul" => (half_ops::mul2::<BF>, 2),
        "fma" => (half_ops::fma2::<BF>, 3),
        "min" => (half_ops::min2::<BF>, 2),
        "max" => (half_ops::max2::<BF>, 2),
        "neg" => (half_ops::neg2::<BF>, 1),
        "abs" => (half_ops::abs2::<BF>, 1),
        "ex2" => (half_ops::ex2_2::<BF>, 1),
        "tanh" => (half_ops::tanh2::<BF>, 1),
        _ => return None,
    })
}
