//! Integer and bit instructions, comparisons, selections and moves.

use super::opcode::{Opcode, bits};
use super::operands::Reading;
use super::{BoolOp, Decoder, LaneArg, LaneFn, Lowered, NONE, Op, PredicateOut, Row};
use crate::error::ParseError;
use crate::numeric::compare::{self, Comparison, Truth};
use crate::numeric::integer as lane;
use crate::parse::{Instruction, Operand, Width};

/// The instance of a generic lane function for a width.
macro_rules! by_width {
    ($bits:expr, $f:ident) => {
        match $bits {
            16 => lane::$f::<16>,
            64 => lane::$f::<64>,
            _ => lane::$f::<32>,
        }
    };
}

/// The same for a width and a sign.
macro_rules! by_type {
    ($bits:expr, $signed:expr, $f:ident) => {
        match ($bits, $signed) {
            (16, true) => lane::$f::<16, true>,
            (16, false) => lane::$f::<16, false>,
            (64, true) => lane::$f::<64, true>,
            (64, false) => lane::$f::<64, false>,
            (_, true) => lane::$f::<32, true>,
            _ => lane::$f::<32, false>,
        }
    };
}

impl Decoder<'_> {
    pub(super) fn integer(&mut self, i: &Instruction, op: &Opcode) -> Lowered {
        let kind = op.kind();
        if kind == "pred" {
            return self.predicate_logic(i, op);
        }
        if kind == "b128" {
            return self.error("128-bit operands are not simulated");
        }
        if op.has("cc") || matches!(op.base, "addc" | "subc" | "madc") {
            return self.error("carry chains are not simulated");
        }
        if matches!(kind, "u16x2" | "s16x2") {
            return self.packed_integer(i, op);
        }
        if kind.len() > 1 && bits(kind) == 32 && self.hot_integer(i, op)? {
            return Ok(());
        }
        self.cold_integer(i, op)
    }

    fn packed_integer(&mut self, i: &Instruction, op: &Opcode) -> Lowered {
        self.only(op, &[])?;
        let signed = u32::from(op.kind() == "s16x2");
        let (function, m): (LaneFn, u32) = match op.base {
            "add" => (lane::add16x2, 0),
            "min" => (lane::extreme16x2, signed),
            "max" => (lane::extreme16x2, signed | 2),
            _ => return self.error("no packed integer instruction of this kind"),
        };
        self.emit_lanes(i, function, m, 32, &[32, 32], Reading::Bits)
    }

    /// 32-bit instructions that run on all lanes at once. False if `op` is none of them.
    fn hot_integer(&mut self, i: &Instruction, op: &Opcode) -> Result<bool, ParseError> {
        let signed = op.kind().starts_with('s');
        let feeds = u32::from(self.feeds[self.at]);
        let plain = op.modifiers.is_empty();
        let low = op.modifiers == ["lo"];
        let (hot, sources, x) = match op.base {
            "add" if plain => (Op::Add32, 2, feeds),
            "sub" if plain => (Op::Sub32, 2, feeds),
            "mul" if low => (Op::MulLo32, 2, feeds),
            "mad" if low => (Op::MadLo32, 3, feeds),
            "and" => (Op::And32, 2, 0),
            "or" => (Op::Or32, 2, 0),
            "xor" => (Op::Xor32, 2, 0),
            "not" => (Op::Not32, 1, 0),
            "shl" => (Op::Shl32, 2, feeds),
            "shr" => (if signed { Op::ShrS32 } else { Op::ShrU32 }, 2, 0),
            "min" if plain => (if signed { Op::MinS32 } else { Op::MinU32 }, 2, 0),
            "max" if plain => (if signed { Op::MaxS32 } else { Op::MaxU32 }, 2, 0),
            "lop3" if plain && i.operands.len() == 5 => {
                let Operand::Integer(table) = i.operands[4] else { return self.error("the table must be a constant") };
                let three = Instruction { operands: i.operands[..4].to_vec(), ..i.clone() };
                self.emit_hot(&three, Op::Lop3, 32, 3, Reading::Bits, table as u32 & 255)?;
                return Ok(true);
            }
            "mul" | "mad" if op.modifiers == ["wide"] => {
                self.multiply_wide(i, op, signed)?;
                return Ok(true);
            }
            "selp" => {
                self.select(i, 32)?;
                return Ok(true);
            }
            _ => return Ok(false),
        };
        self.emit_hot(i, hot, 32, sources, Reading::Bits, x)?;
        Ok(true)
    }

    fn multiply_wide(&mut self, i: &Instruction, op: &Opcode, signed: bool) -> Lowered {
        let sum = op.base == "mad";
        self.operand_count(i, 3 + usize::from(sum)..=3 + usize::from(sum))?;
        let d = self.destination(i, 0, 64)?;
        let (a, b) = (self.source(&i.operands[1], 32)?, self.source(&i.operands[2], 32)?);
        let c = if sum { self.source(&i.operands[3], 64)? } else { self.zero };
        let hot = match (sum, signed) {
            (false, true) => Op::MulWideS32,
            (false, false) => Op::MulWideU32,
            (true, true) => Op::MadWideS32,
            (true, false) => Op::MadWideU32,
        };
        self.emit(hot, [d, a, b, c], 0);
        Ok(())
    }

    fn select(&mut self, i: &Instruction, bits: u32) -> Lowered {
        self.operand_count(i, 4..=4)?;
        let d = self.destination(i, 0, bits)?;
        let (a, b) = (self.source(&i.operands[1], bits)?, self.source(&i.operands[2], bits)?);
        let (p, negated) = self.predicate(&i.operands[3])?;
        self.emit(if bits > 32 { Op::Select64 } else { Op::Select32 }, [d, a, b, p], u32::from(negated));
        Ok(())
    }

    fn cold_integer(&mut self, i: &Instruction, op: &Opcode) -> Lowered {
        let kind = op.kind();
        let (n, signed) = (bits(kind), kind.starts_with('s'));
        let wide = op.has("wide");
        let (function, m, result, sources): (LaneFn, u32, u32, Vec<u32>) = match op.base {
            "add" if op.has("sat") => (lane::add_sat, 0, 32, vec![32; 2]),
            "sub" if op.has("sat") => (lane::sub_sat, 0, 32, vec![32; 2]),
            "add" if n == 64 => return self.emit_hot(i, Op::Add64, 64, 2, Reading::Bits, 0),
            "sub" if n == 64 => return self.emit_hot(i, Op::Sub64, 64, 2, Reading::Bits, 0),
            "add" => (lane::add, 0, n, vec![n; 2]),
            "sub" => (lane::sub, 0, n, vec![n; 2]),
            "mul" if wide => (by_type!(n, signed, mul_wide), 0, 2 * n, vec![n; 2]),
            "mul" if op.has("hi") => (by_type!(n, signed, mul_hi), 0, n, vec![n; 2]),
            "mul" => (lane::mul_lo, 0, n, vec![n; 2]),
            "mad" if wide => (by_type!(n, signed, mad_wide), 0, 2 * n, vec![n, n, 2 * n]),
            "mad" if op.has("hi") => (by_type!(n, signed, mad_hi), 0, n, vec![n; 3]),
            "mad" => (lane::mad_lo, 0, n, vec![n; 3]),
            "mul24" => (mul24(signed, op.has("hi")), 0, 32, vec![32; 2]),
            "mad24" => (mul24(signed, op.has("hi")), 0, 32, vec![32; 3]),
            "div" => (by_type!(n, signed, div), 0, n, vec![n; 2]),
            "rem" => (by_type!(n, signed, rem), 0, n, vec![n; 2]),
            "min" => (by_type!(n, signed, min), 0, n, vec![n; 2]),
            "max" => (by_type!(n, signed, max), 0, n, vec![n; 2]),
            "abs" => (by_width!(n, abs), 0, n, vec![n]),
            "neg" => (lane::neg, 0, n, vec![n]),
            "sad" => (by_type!(n, signed, sad), 0, n, vec![n; 3]),
            "and" => (lane::and, 0, n, vec![n; 2]),
            "or" => (lane::or, 0, n, vec![n; 2]),
            "xor" => (lane::xor, 0, n, vec![n; 2]),
            "not" => (lane::not, 0, n, vec![n]),
            "cnot" => (by_width!(n, cnot), 0, n, vec![n]),
            "shl" if n == 64 => {
                let (d, a) = (self.destination(i, 0, 64)?, self.source(self.operand(i, 1)?, 64)?);
                let b = self.source(self.operand(i, 2)?, 32)?;
                self.emit(Op::Shl64, [d, a, b, self.zero], 0);
                return Ok(());
            }
            "shl" => (by_width!(n, shl), 0, n, vec![n, 32]),
            "shr" => (by_type!(n, signed, shr), 0, n, vec![n, 32]),
            "shf" => {
                let clamp = u32::from(op.has("clamp"));
                (if op.has("l") { lane::shf_left } else { lane::shf_right }, clamp, 32, vec![32; 3])
            }
            "popc" => (by_width!(n, popc), 0, 32, vec![n]),
            "clz" => (by_width!(n, clz), 0, 32, vec![n]),
            "brev" => (by_width!(n, brev), 0, n, vec![n]),
            "bfind" => (by_type!(n, signed, bfind), u32::from(op.has("shiftamt")), 32, vec![n]),
            "bfe" => (by_type!(n, signed, bfe), 0, n, vec![n, 32, 32]),
            "bfi" => (by_width!(n, bfi), 0, n, vec![n, n, 32, 32]),
            "bmsk" => (lane::bmsk, u32::from(op.has("clamp")), 32, vec![32; 2]),
            "szext" => (lane::szext, u32::from(op.has("clamp")) | u32::from(signed) << 1, 32, vec![32; 2]),
            "prmt" => (lane::prmt, prmt_mode(op), 32, vec![32; 3]),
            "dp4a" | "dp2a" if op.types.len() == 2 => {
                let m = u32::from(op.types[0] == "s32")
                    | u32::from(op.types[1] == "s32") << 1
                    | u32::from(op.has("hi")) << 2;
                (if op.base == "dp4a" { lane::dp4a } else { lane::dp2a }, m, 32, vec![32; 3])
            }
            "fns" => (lane::fns, 0, 32, vec![32; 3]),
            "slct" if op.types.len() == 2 => {
                let n = bits(op.types[0]);
                (lane::slct, u32::from(op.types[1] == "f32"), n, vec![n, n, 32])
            }
            "selp" => return if n == 64 { self.select(i, 64) } else { self.select(i, n) },
            _ => return self.error("this form is not simulated"),
        };
        self.only(
            op,
            &[
                "sat", "wide", "hi", "lo", "l", "r", "wrap", "clamp", "shiftamt", "f4e", "b4e", "rc8", "ecl", "ecr",
                "rc16",
            ],
        )?;
        self.emit_lanes(i, function, m, result, &sources, Reading::Bits)
    }

    fn predicate_logic(&mut self, i: &Instruction, op: &Opcode) -> Lowered {
        let code = match op.base {
            "and" => 0,
            "or" => 1,
            "xor" => 2,
            "not" => 3,
            _ => return self.error("no instruction on predicates"),
        };
        self.only(op, &[])?;
        let d = self.predicate_out(self.operand(i, 0)?)?;
        let (a, a_negated) = self.predicate(self.operand(i, 1)?)?;
        let (b, b_negated) = if code == 3 { (a, false) } else { self.predicate(self.operand(i, 2)?)? };
        let x = u32::from(a_negated != (code == 3)) | u32::from(b_negated) << 1 | code << 2;
        self.emit(Op::Predicate, [d, a, b, self.zero], x);
        Ok(())
    }

    pub(super) fn mov(&mut self, i: &Instruction, op: &Opcode) -> Lowered {
        self.only(op, &[])?;
        self.operand_count(i, 2..=2)?;
        let n = bits(op.kind());
        match (&i.operands[0], &i.operands[1]) {
            (Operand::Vector(to), from) => self.unpack(to, from, n),
            (_, Operand::Vector(from)) => {
                let d = self.destination(i, 0, n)?;
                self.pack(d, from, n)
            }
            (to, Operand::Integer(value)) if op.kind() == "pred" => {
                let p = self.predicate_out(to)?;
                let row = self.source(&Operand::Integer(*value), 32)?;
                self.emit(Op::PredicateFromRow, [p, row, self.zero, self.zero], 0);
                Ok(())
            }
            (to, from) if op.kind() == "pred" => {
                let (d, (a, negated)) = (self.predicate_out(to)?, self.predicate(from)?);
                self.emit(Op::Predicate, [d, a, a, self.zero], u32::from(negated) | 3 << 2);
                Ok(())
            }
            (_, from) => {
                let d = self.destination(i, 0, n)?;
                let reading = match op.kind() {
                    "f32" => Reading::F32,
                    "f64" => Reading::F64,
                    _ => Reading::Bits,
                };
                // A 16-bit constant must not leave its sign above the 16 bits.
                let from = match from {
                    Operand::Integer(value) if n == 16 => &Operand::Integer(value & 0xffff),
                    other => other,
                };
                let a = self.source_as(from, n, reading)?;
                self.emit(if n > 32 { Op::Mov64 } else { Op::Mov32 }, [d, a, self.zero, self.zero], 0);
                Ok(())
            }
        }
    }

    /// `mov.b32 {lo, hi}, r` and its like.
    fn unpack(&mut self, to: &[Operand], from: &Operand, n: u32) -> Lowered {
        let a = self.source(from, n)?;
        let part = n / to.len().max(1) as u32;
        let rows = to.iter().map(|o| if *o == Operand::Sink { Ok(NONE) } else { self.destination_of(o, part) });
        let rows: Vec<Row> = rows.collect::<Result<_, _>>()?;
        match (n, part) {
            (32, 16) => {
                let list = self.list(rows);
                self.emit(Op::Unpack16, [self.zero, a, self.zero, self.zero], list);
            }
            (64, 32) => {
                let pairs = rows
                    .iter()
                    .enumerate()
                    .filter(|(_, r)| **r != NONE)
                    .flat_map(|(k, &r)| [r, a + k as Row])
                    .collect();
                let x = self.list(pairs);
                self.emit(Op::Moves, [self.zero, a, self.zero, self.zero], x);
            }
            (64, 16) | (32, 8) | (16, 8) => {
                for (k, &row) in rows.iter().enumerate().filter(|(_, r)| **r != NONE) {
                    let shift = self.source(&Operand::Integer(u64::from(part) * k as u64), 32)?;
                    let args = vec![arg(a, n), arg(shift, 32)];
                    let function: LaneFn = if n == 64 { lane::shr::<64, false> } else { lane::shr::<32, false> };
                    self.emit_lane_args(row, function, 0, part, args);
                }
            }
            _ => return self.error("this split is not simulated"),
        }
        Ok(())
    }

    fn pack(&mut self, d: Row, from: &[Operand], n: u32) -> Lowered {
        let part = n / from.len().max(1) as u32;
        let rows: Vec<Row> = from.iter().map(|o| self.source(o, part)).collect::<Result<_, _>>()?;
        match (n, part) {
            (32, 16) => self.emit(Op::Pack16, [d, rows[0], rows[1], self.zero], 0),
            (64, 32) => {
                let x = self.list(vec![d, rows[0], d + 1, rows[1]]);
                self.emit(Op::Moves, [d, rows[0], rows[1], self.zero], x);
            }
            (64, 16) => {
                // Two halves of 32 bits; the second may not read what the first wrote, which allocation excludes.
                self.emit(Op::Pack16, [d, rows[0], rows[1], self.zero], 0);
                self.emit(Op::Pack16, [d + 1, rows[2], rows[3], self.zero], 0);
            }
            (32, 8) | (16, 8) => {
                let zero = self.zero;
                self.emit_lane_args(
                    d,
                    lane::bytes,
                    0,
                    n,
                    rows.iter().map(|&r| arg(r, 8)).chain([arg(zero, 8), arg(zero, 8)]).take(4).collect(),
                );
            }
            _ => return self.error("this join is not simulated"),
        }
        Ok(())
    }

    pub(super) fn compare(&mut self, i: &Instruction, op: &Opcode) -> Lowered {
        let comparison = op.modifiers.iter().find_map(|w| Comparison::named(w));
        let Some(comparison) = comparison else { return self.error("a comparison without an operator") };
        let joins = [("and", BoolOp::And), ("or", BoolOp::Or), ("xor", BoolOp::Xor)];
        let join = joins.iter().find(|(word, _)| op.has(word)).map(|(_, b)| *b);
        let known = [
            "eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs", "equ", "neu", "ltu", "leu", "gtu", "geu",
            "num", "nan",
        ];
        let more = ["and", "or", "xor", "ftz"];
        self.only(op, &[known.as_slice(), &more].concat())?;
        self.operand_count(i, 3 + usize::from(join.is_some())..=3 + usize::from(join.is_some()))?;
        let kind = op.kind();
        let mut m = comparison as u32;
        if op.has("ftz") {
            m |= compare::FLUSH;
        }
        if op.base == "set" {
            return self.set(i, op, m, join.is_some());
        }
        let (p, q) = match &i.operands[0] {
            Operand::Pair(p, q) => (self.predicate_out(p)?, self.predicate_out(q)?),
            single => (self.predicate_out(single)?, NONE),
        };
        let combine = match join {
            Some(join) => {
                let (c, negated) = self.predicate(&i.operands[3])?;
                Some((join, c, negated))
            }
            None => None,
        };
        let out = PredicateOut { p, q, combine };
        self.code.outs.push(out);
        let index = (self.code.outs.len() - 1) as u32;
        let reading = reading_of(kind);
        let n = bits(kind);
        let (a, b) = (self.source_as(&i.operands[1], n, reading)?, self.source_as(&i.operands[2], n, reading)?);
        let hot = match kind {
            "s32" => Some(Op::SetS32),
            "u32" | "b32" => Some(Op::SetU32),
            "f32" if m & compare::FLUSH == 0 => Some(Op::SetF32),
            "s64" => Some(Op::SetS64),
            "u64" | "b64" => Some(Op::SetU64),
            _ => None,
        };
        if let Some(hot) = hot.filter(|_| index < 1 << 16) {
            self.emit(hot, [self.zero, a, b, self.zero], (comparison as u32) << 16 | index);
            return Ok(());
        }
        if kind == "f16x2" || kind == "bf16x2" {
            return self.compare_halves(i, kind == "bf16x2", m, index);
        }
        let function: LaneFn = match kind {
            "f32" => compare::f32s,
            "f64" => compare::f64s,
            "f16" => compare::f16s,
            "bf16" => compare::bf16s,
            "s16" => compare::signed::<16>,
            "u16" | "b16" => compare::unsigned::<16>,
            _ => return self.error("a comparison of this type is not simulated"),
        };
        let x = self.lane_op(function, m, 1, vec![arg(a, n), arg(b, n)]);
        self.emit(Op::LaneSet, [index as Row, a, b, self.zero], x);
        Ok(())
    }

    /// `setp.f16x2 p|q`: the two halves give two predicates.
    fn compare_halves(&mut self, i: &Instruction, bf: bool, m: u32, index: u32) -> Lowered {
        let (a, b) = (self.source(&i.operands[1], 32)?, self.source(&i.operands[2], 32)?);
        let out = self.code.outs[index as usize];
        for (target, high) in [(out.p, 0), (out.q, 1 << 8)] {
            self.code.outs.push(PredicateOut { p: target, q: NONE, combine: out.combine });
            let to = (self.code.outs.len() - 1) as Row;
            let function: LaneFn = if bf { compare::half_of_pair::<true> } else { compare::half_of_pair::<false> };
            let x = self.lane_op(function, m | high, 1, vec![arg(a, 32), arg(b, 32)]);
            self.emit(Op::LaneSet, [to, a, b, self.zero], x);
        }
        Ok(())
    }

    fn set(&mut self, i: &Instruction, op: &Opcode, m: u32, joined: bool) -> Lowered {
        if joined || op.types.len() != 2 {
            return self.error("this form of `set` is not simulated");
        }
        let (to, from) = (op.types[0], op.types[1]);
        let truth = match to {
            "f32" => Truth::F32,
            "f16" | "f16x2" => Truth::F16,
            "bf16" | "bf16x2" => Truth::Bf16,
            _ => Truth::Ones,
        };
        let function: LaneFn = match from {
            "s32" => compare::set_s32,
            "u32" | "b32" => compare::set_u32,
            "s64" => compare::set_s64,
            "u64" | "b64" => compare::set_u64,
            "s16" => compare::set_s16,
            "u16" | "b16" => compare::set_u16,
            "f32" => compare::set_f32,
            "f64" => compare::set_f64,
            "f16" => compare::set_half::<false>,
            "bf16" => compare::set_half::<true>,
            "f16x2" => compare::set_half2::<false>,
            "bf16x2" => compare::set_half2::<true>,
            _ => return self.error("a comparison of this type is not simulated"),
        };
        let n = bits(from);
        self.emit_lanes(i, function, m | truth.bits(), bits(to), &[n, n], reading_of(from))
    }

    /// Whether an operand is a predicate register.
    pub(super) fn is_predicate(&self, operand: &Operand) -> bool {
        matches!(operand, Operand::Register(r) | Operand::Not(r) if self.flat.registers[*r as usize].width == Width::Predicate)
    }
}

fn arg(row: Row, bits: u32) -> LaneArg {
    LaneArg { row, bits: bits as u8 }
}

pub(super) fn reading_of(kind: &str) -> Reading {
    match kind {
        "f32" => Reading::F32,
        "f64" => Reading::F64,
        _ => Reading::Bits,
    }
}

fn mul24(signed: bool, high: bool) -> LaneFn {
    match (signed, high) {
        (true, true) => lane::mul24::<true, true>,
        (true, false) => lane::mul24::<true, false>,
        (false, true) => lane::mul24::<false, true>,
        (false, false) => lane::mul24::<false, false>,
    }
}

fn prmt_mode(op: &Opcode) -> u32 {
    ["f4e", "b4e", "rc8", "ecl", "ecr", "rc16"].iter().position(|m| op.has(m)).map_or(0, |i| i as u32 + 1)
}
