//! Instructions between lanes, warps and blocks: shuffles, votes, reductions, barriers, tensor cores, dependent launches.

use super::opcode::Opcode;
use super::{Constant, Decoder, Lowered, NONE, Op, Row};
use crate::error::ParseError;
use crate::mma::Shape;
use crate::parse::{Instruction, Operand};

impl Decoder<'_> {
    pub(super) fn shuffle(&mut self, i: &Instruction, op: &Opcode) -> Lowered {
        self.only(op, &["sync", "idx", "up", "down", "bfly"])?;
        self.operand_count(i, 4..=5)?;
        let mode = ["idx", "up", "down", "bfly"].iter().position(|m| op.has(m));
        let Some(mode) = mode else { return self.error("no mode") };
        let (d, p) = self.with_predicate(&i.operands[0])?;
        let a = self.source(&i.operands[1], 32)?;
        let (lane, clamp) = (self.source(&i.operands[2], 32)?, self.source(&i.operands[3], 32)?);
        let mask = match i.operands.get(4) {
            Some(mask) => self.source(mask, 32)?,
            None => self.constant(&[Constant::Bits(u32::MAX)])?,
        };
        let x = self.list(vec![mode as Row, mask, p]);
        self.emit(Op::Shuffle, [d, a, lane, clamp], x);
        Ok(())
    }

    /// `%r|%p` or `%r`.
    fn with_predicate(&mut self, operand: &Operand) -> Result<(Row, u16), ParseError> {
        match operand {
            Operand::Pair(r, p) => Ok((self.destination_of(r, 32)?, self.predicate_out(p)?)),
            single => Ok((self.destination_of(single, 32)?, NONE)),
        }
    }

    pub(super) fn vote(&mut self, i: &Instruction, op: &Opcode) -> Lowered {
        self.only(op, &["sync", "all", "any", "uni", "ballot"])?;
        self.operand_count(i, 2..=3)?;
        let mode = ["all", "any", "uni", "ballot"].iter().position(|m| op.has(m));
        let Some(mode) = mode else { return self.error("no mode") };
        let d = if mode == 3 { self.destination(i, 0, 32)? } else { self.predicate_out(&i.operands[0])? };
        let (p, negated) = self.predicate(&i.operands[1])?;
        let mask = match i.operands.get(2) {
            Some(mask) => self.source(mask, 32)?,
            None => self.constant(&[Constant::Bits(u32::MAX)])?,
        };
        let x = self.list(vec![mode as Row, d, p, Row::from(negated), mask]);
        self.emit(Op::Vote, [self.zero; 4], x);
        Ok(())
    }

    pub(super) fn match_lanes(&mut self, i: &Instruction, op: &Opcode) -> Lowered {
        self.only(op, &["sync", "any", "all"])?;
        self.operand_count(i, 3..=3)?;
        let (d, p) = self.with_predicate(&i.operands[0])?;
        let wide = op.kind() == "b64";
        let a = self.source(&i.operands[1], if wide { 64 } else { 32 })?;
        let mask = self.source(&i.operands[2], 32)?;
        let x = self.list(vec![Row::from(op.has("all")), Row::from(wide), mask, p]);
        self.emit(Op::Match, [d, a, self.zero, self.zero], x);
        Ok(())
    }

    pub(super) fn redux(&mut self, i: &Instruction, op: &Opcode) -> Lowered {
        self.only(op, &["sync", "add", "min", "max", "and", "or", "xor", "abs", "NaN"])?;
        self.operand_count(i, 3..=3)?;
        let signed = op.kind() == "s32";
        let kind = match () {
            () if op.kind() == "f32" => return self.error("float reductions are not simulated"),
            () if op.has("add") => 0,
            () if op.has("min") => 1 + u32::from(signed),
            () if op.has("max") => 3 + u32::from(signed),
            () if op.has("and") => 5,
            () if op.has("or") => 6,
            () => 7,
        };
        let (d, a) = (self.destination(i, 0, 32)?, self.source(&i.operands[1], 32)?);
        let mask = self.source(&i.operands[2], 32)?;
        self.emit(Op::Redux, [d, a, mask, self.zero], kind);
        Ok(())
    }

    pub(super) fn elect(&mut self, i: &Instruction, op: &Opcode) -> Lowered {
        self.only(op, &["sync"])?;
        self.operand_count(i, 2..=2)?;
        let Operand::Pair(d, p) = &i.operands[0] else { return self.error("a register and a predicate are needed") };
        let d = if **d == Operand::Sink { NONE } else { self.destination_of(d, 32)? };
        let (p, mask) = (self.predicate_out(p)?, self.source(&i.operands[1], 32)?);
        let x = self.list(vec![d, p, mask]);
        self.emit(Op::Elect, [self.zero; 4], x);
        Ok(())
    }

    pub(super) fn active_mask(&mut self, i: &Instruction) -> Lowered {
        let d = self.destination(i, 0, 32)?;
        self.emit(Op::ActiveMask, [d, self.zero, self.zero, self.zero], 0);
        Ok(())
    }

    /// `bar.sync a{, b}`, `bar.arrive a, b`, `bar.red`, `bar.warp.sync m`, `barrier.cluster`.
    pub(super) fn barrier(&mut self, i: &Instruction, op: &Opcode) -> Lowered {
        self.only(
            op,
            &[
                "sync", "arrive", "red", "warp", "cta", "aligned", "popc", "and", "or", "cluster", "release",
                "acquire", "relaxed", "wait",
            ],
        )?;
        if op.has("warp") {
            let mask = self.source(self.operand(i, 0)?, 32)?;
            self.emit(Op::WarpBarrier, [self.zero, self.zero, mask, self.zero], 0);
            return Ok(());
        }
        if op.has("cluster") {
            self.emit(Op::ClusterBarrier, [self.zero; 4], u32::from(op.has("wait")));
            return Ok(());
        }
        let red = op.has("red");
        let first = usize::from(red);
        let barrier = self.source(self.operand(i, first)?, 32)?;
        let rest = &i.operands[first + 1..];
        let (threads, condition) = match (red, rest) {
            (false, []) => (self.zero, None),
            (false, [threads]) => (self.source(threads, 32)?, None),
            (true, [p]) => (self.zero, Some(self.predicate(p)?)),
            (true, [threads, p]) => (self.source(threads, 32)?, Some(self.predicate(p)?)),
            _ => return self.error("operands that do not fit"),
        };
        let kind = match () {
            () if op.has("arrive") => 1,
            () if op.has("popc") => 2,
            () if red && op.has("and") => 3,
            () if red => 4,
            () => 0,
        };
        let d = match kind {
            2 => self.destination(i, 0, 32)?,
            3 | 4 => self.predicate_out(&i.operands[0])?,
            _ => NONE,
        };
        let (p, negated) = condition.unwrap_or((NONE, false));
        let x = self.list(vec![kind, d, p, Row::from(negated)]);
        self.emit(Op::Barrier, [self.zero, barrier, threads, self.zero], x);
        Ok(())
    }

    pub(super) fn grid_dependency(&mut self, op: &Opcode) -> Lowered {
        self.only(op, &["launch_dependents", "wait"])?;
        self.emit(Op::GridDependency, [self.zero; 4], u32::from(op.has("wait")));
        Ok(())
    }

    /// List: [shape, registers of d, a, b, c: counts…, rows…].
    pub(super) fn mma(&mut self, i: &Instruction, op: &Opcode) -> Lowered {
        let words = op.words.join(".");
        let Some(shape) = Shape::named(&words) else {
            return self.error(format!("this shape is not simulated; there are {}", Shape::names()));
        };
        self.operand_count(i, 4..=4)?;
        let counts = shape.registers();
        let mut list = vec![shape.code()];
        for (n, (operand, &count)) in i.operands.iter().zip(&counts).enumerate() {
            let elements: &[Operand] =
                if let Operand::Vector(all) = operand { all } else { std::slice::from_ref(operand) };
            if elements.len() != count {
                return self.error(format!("operand {} has {} registers, not {count}", n + 1, elements.len()));
            }
            for element in elements {
                list.push(if n == 0 { self.destination_of(element, 32)? } else { self.source(element, 32)? });
            }
        }
        let d = list[1];
        let a = list[1 + counts[0]];
        let b = list[1 + counts[0] + counts[1]];
        let c = list[1 + counts[0] + counts[1] + counts[2]];
        let x = self.list(list);
        self.emit(Op::Mma, [d, a, b, c], x);
        Ok(())
    }
}
