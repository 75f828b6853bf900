//! `cvt`, `cvta`, `isspacep`.

use super::float::modifiers as float_modifiers;
use super::opcode::{Opcode, bits, is_float};
use super::operands::Reading;
use super::{Decoder, LaneFn, Lowered, Op, Row};
use crate::memory::{GENERIC_SHIFT, LOCAL_BASE, SHARED_BASE};
use crate::numeric::convert::{self as lane, Kind};
use crate::numeric::modifier;
use crate::parse::{Instruction, Operand};

fn modifiers(op: &Opcode) -> u32 {
    let mut m = float_modifiers(op);
    let integral = ["rni", "rzi", "rmi", "rpi"].iter().position(|r| op.has(r));
    if let Some(direction) = integral {
        m |= direction as u32 | modifier::INTEGRAL;
    }
    if op.has("rna") {
        m |= modifier::AWAY;
    }
    if op.has("satfinite") {
        m |= lane::SATFINITE;
    }
    m
}

impl Decoder<'_> {
    pub(super) fn convert(&mut self, i: &Instruction, op: &Opcode) -> Lowered {
        self.only(op, &["rn", "rz", "rm", "rp", "rni", "rzi", "rmi", "rpi", "rna", "ftz", "sat", "relu", "satfinite"])?;
        let &[to, from] = op.types.as_slice() else { return self.error("two types are needed") };
        let m = modifiers(op);
        match (to, from) {
            ("f16x2" | "bf16x2", "f32") => {
                let bf = u32::from(to == "bf16x2") << 16;
                self.emit_lanes(i, lane::pair_from_f32, m | bf, 32, &[32, 32], Reading::F32)
            }
            ("f16" | "bf16", "f32") if m & (modifier::RELU | lane::SATFINITE) != 0 => {
                self.emit_lanes(i, lane::half_from_f32, m | u32::from(to == "bf16") << 16, 16, &[32], Reading::F32)
            }
            ("tf32", "f32") => self.emit_lanes(i, lane::tf32, m, 32, &[32], Reading::F32),
            (small, "f32") if lane::small_format(small).is_some() => {
                let code = lane::small_format(small).unwrap_or(0);
                let result = if code == 4 { 8 } else { 16 };
                self.emit_lanes(i, lane::small_from_f32, m | code << 16, result, &[32, 32], Reading::F32)
            }
            (small, "f16x2") if lane::small_format(small).is_some() => {
                let code = lane::small_format(small).unwrap_or(0);
                self.emit_lanes(
                    i,
                    lane::small_from_f16x2,
                    m | code << 16,
                    if code == 4 { 8 } else { 16 },
                    &[32],
                    Reading::Bits,
                )
            }
            ("f16x2", small) if lane::small_format(small).is_some() => {
                let code = lane::small_format(small).unwrap_or(0);
                self.emit_lanes(
                    i,
                    lane::f16x2_from_small,
                    m | code << 16,
                    32,
                    &[if code == 4 { 8 } else { 16 }],
                    Reading::Bits,
                )
            }
            _ => self.convert_scalar(i, to, from, m),
        }
    }

    fn convert_scalar(&mut self, i: &Instruction, to: &str, from: &str, m: u32) -> Lowered {
        let (Some(to_kind), Some(from_kind)) = (Kind::named(to), Kind::named(from)) else {
            return self.error("a conversion between these types is not simulated");
        };
        self.operand_count(i, 2..=2)?;
        // A result narrower than its register is extended to it, by the sign if the type has one.
        let register = self.register_bits(&i.operands[0], bits(to)).max(bits(to));
        let d = self.destination_of(&i.operands[0], register)?;
        let source_bits = self.register_bits(&i.operands[1], bits(from)).max(bits(from));
        let reading = match from {
            "f32" => Reading::F32,
            "f64" => Reading::F64,
            _ => Reading::Bits,
        };
        let a = self.source_as(&i.operands[1], source_bits, reading)?;
        if let Some(hot) = hot(to, from, m, register, source_bits) {
            self.emit(hot, [d, a, self.zero, self.zero], 0);
            return Ok(());
        }
        let word = lane::modifiers(to_kind, from_kind, m & 0xffff);
        let arg = super::LaneArg { row: a, bits: source_bits as u8 };
        let extended = register > bits(to) && to.starts_with('s');
        let function: LaneFn = if extended { lane::convert_extended } else { lane::convert };
        self.emit_lane_args(d, function, word, if extended { register } else { bits(to) }, vec![arg]);
        if register > 32 && bits(to) <= 32 && !extended {
            self.clear_high(d);
        }
        Ok(())
    }

    fn clear_high(&mut self, d: Row) {
        self.emit(Op::Mov32, [d + 1, self.zero, self.zero, self.zero], 0);
    }

    /// Generic addresses of global, const and param variables are their addresses; shared and local windows have a base.
    pub(super) fn convert_address(&mut self, i: &Instruction, op: &Opcode) -> Lowered {
        self.only(
            op,
            &["to", "global", "shared", "shared::cta", "shared::cluster", "local", "const", "param", "param::entry"],
        )?;
        self.operand_count(i, 2..=2)?;
        let n = bits(op.kind());
        if n != 64 {
            return self.error("only 64-bit generic addresses are simulated");
        }
        let (d, a) = (self.destination(i, 0, 64)?, self.source(&i.operands[1], 64)?);
        let base = match () {
            () if op.has_any(&["shared", "shared::cta", "shared::cluster"]) => SHARED_BASE,
            () if op.has("local") => LOCAL_BASE,
            () => {
                self.emit(Op::Mov64, [d, a, self.zero, self.zero], 0);
                return Ok(());
            }
        };
        let base = self.source(&Operand::Integer(base), 64)?;
        self.emit(if op.has("to") { Op::Sub64 } else { Op::Add64 }, [d, a, base, self.zero], 0);
        Ok(())
    }

    pub(super) fn is_space(&mut self, i: &Instruction, op: &Opcode) -> Lowered {
        let window = match () {
            () if op.has_any(&["shared", "shared::cta"]) => SHARED_BASE >> GENERIC_SHIFT,
            () if op.has("local") => LOCAL_BASE >> GENERIC_SHIFT,
            () if op.has("global") => 0,
            () => return self.error("this state space is not simulated here"),
        };
        let p = self.predicate_out(self.operand(i, 0)?)?;
        let source = self.operand(i, 1)?;
        let arg = self.lane_arg(source, 64, Reading::Bits)?;
        self.emit_predicate(p, in_window, window as u32, vec![arg]);
        Ok(())
    }
}

/// Whether a generic address lies in a window; window 0 stands for global memory, which is everything behind the windows.
fn in_window(window: u32, address: u64, _: u64, _: u64) -> u64 {
    let id = (address >> GENERIC_SHIFT) as u32;
    u64::from(if window == 0 { id >= crate::memory::FIRST_ALLOCATION } else { id == window })
}

fn hot(to: &str, from: &str, m: u32, register: u32, source: u32) -> Option<Op> {
    if source != bits(from) || register != bits(to) || m & !modifier::ROUNDING != 0 {
        return None;
    }
    let float = is_float(to) || is_float(from);
    if float && m & modifier::ROUNDING != 0 {
        return None;
    }
    Some(match (to, from) {
        ("s64" | "u64", "s32") => Op::SignExtend64,
        ("s64" | "u64", "u32") => Op::ZeroExtend64,
        ("s32" | "u32", "s64" | "u64") => Op::Narrow32,
        ("f32", "f16") => Op::F32FromF16,
        ("f16", "f32") => Op::F16FromF32,
        ("f32", "s32") => Op::F32FromS32,
        _ => return None,
    })
}
