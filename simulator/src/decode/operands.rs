//! Operands as rows: registers where the allocation put them, everything constant in rows of its own.

use super::{Constant, Decoder, LaneArg, LaneFn, LaneOp, NONE, Op, Row};
use crate::error::ParseError;
use crate::memory::{PARAM_BASE, SHARED_BASE};
use crate::parse::{Instruction, Operand, Space, Special, Width};

/// What a constant in an instruction is read as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    Bits,
    F32,
    F64,
}

impl Decoder<'_> {
    /// The first row of constants that stand in rows behind each other.
    pub(super) fn constant(&mut self, words: &[Constant]) -> Result<Row, ParseError> {
        if let Some(&row) = self.constants.get(words) {
            return Ok(row);
        }
        let first = self.code.rows;
        if first + words.len() >= usize::from(u16::MAX) {
            return self.error("the kernel has too many constants");
        }
        for (i, word) in words.iter().enumerate() {
            self.code.constants.push(((first + i) as Row, word.clone()));
        }
        self.code.rows += words.len();
        self.constants.insert(words.to_vec(), first as Row);
        Ok(first as Row)
    }

    fn bits_constant(&mut self, value: u64, bits: u32) -> Result<Row, ParseError> {
        let (low, high) = (Constant::Bits(value as u32), Constant::Bits((value >> 32) as u32));
        if bits > 32 { self.constant(&[low, high]) } else { self.constant(&[low]) }
    }

    pub(super) fn operand<'i>(&self, i: &'i Instruction, index: usize) -> Result<&'i Operand, ParseError> {
        match i.operands.get(index) {
            Some(operand) => Ok(operand),
            None => self.error(format!("operand {} is missing", index + 1)),
        }
    }

    pub(super) fn operand_count(
        &self,
        i: &Instruction,
        allowed: std::ops::RangeInclusive<usize>,
    ) -> Result<(), ParseError> {
        if allowed.contains(&i.operands.len()) {
            return Ok(());
        }
        self.error(format!("{} operands, not {} to {}", i.operands.len(), allowed.start(), allowed.end()))
    }

    fn register_row(&self, register: u32, bits: u32) -> Result<Row, ParseError> {
        match self.flat.registers[register as usize].width {
            Width::Predicate => self.error("a predicate where a register is needed"),
            Width::Bits(n) if (n > 32) != (bits > 32) || n < bits || n > 64 => {
                self.error(format!("a register of {n} bits where {bits} are needed"))
            }
            Width::Bits(_) => Ok(self.allocation.slot(register)),
        }
    }

    /// Bits of a register operand; constants count as `otherwise`.
    pub(super) fn register_bits(&self, operand: &Operand, otherwise: u32) -> u32 {
        match operand {
            Operand::Register(r) => match self.flat.registers[*r as usize].width {
                Width::Bits(n) => n,
                Width::Predicate => 1,
            },
            _ => otherwise,
        }
    }

    /// The row of a source of `bits` bits.
    pub(super) fn source(&mut self, operand: &Operand, bits: u32) -> Result<Row, ParseError> {
        self.source_as(operand, bits, Reading::Bits)
    }

    pub(super) fn source_as(&mut self, operand: &Operand, bits: u32, reading: Reading) -> Result<Row, ParseError> {
        match operand {
            Operand::Register(r) => self.register_row(*r, bits),
            Operand::Integer(value) => match reading {
                Reading::F32 => self.bits_constant(u64::from((*value as i64 as f32).to_bits()), 32),
                Reading::F64 => self.bits_constant((*value as i64 as f64).to_bits(), 64),
                Reading::Bits => self.bits_constant(*value, bits),
            },
            Operand::Single(single) if reading == Reading::F64 => {
                self.bits_constant(f64::from(f32::from_bits(*single)).to_bits(), 64)
            }
            Operand::Single(single) => self.bits_constant(u64::from(*single), bits),
            Operand::Double(double) if reading == Reading::F32 || (bits == 32 && reading == Reading::Bits) => {
                self.bits_constant(u64::from((f64::from_bits(*double) as f32).to_bits()), 32)
            }
            Operand::Double(double) => self.bits_constant(*double, bits),
            Operand::Special(special) => self.special(*special, bits),
            Operand::Symbol(name, offset) => self.symbol(name, *offset, bits),
            other => self.error(format!("the operand {other:?} does not fit here")),
        }
    }

    fn special(&mut self, special: Special, bits: u32) -> Result<Row, ParseError> {
        let word = Constant::Special(special);
        if bits > 32 { self.constant(&[word, Constant::Bits(0)]) } else { self.constant(&[word]) }
    }

    /// The address of a variable: an offset for shared and local ones, a pointer for the others.
    fn symbol(&mut self, name: &str, offset: i64, bits: u32) -> Result<Row, ParseError> {
        let scope = self.flat.instructions[self.at].scope;
        if let Some(placed) = self.flat.scopes[scope].get(name) {
            return self.bits_constant((i64::from(placed.offset) + offset) as u64, bits);
        }
        if scope == 0
            && let Some(&start) = self.params.get(name)
        {
            return self.bits_constant(PARAM_BASE.wrapping_add((i64::from(start) + offset) as u64), bits);
        }
        let found =
            self.code.variables.iter().position(|v| v.name == name && matches!(v.space, Space::Global | Space::Const));
        let Some(variable) = found else { return self.error(format!("no variable `{name}`")) };
        let half = |high| Constant::Global { variable: variable as u32, offset, high };
        if bits > 32 {
            self.constant(&[half(false), half(true)])
        } else {
            self.error("an address needs a 64-bit register")
        }
    }

    /// An address operand: its first row, whether it is 64 bits wide, a byte offset, and for a variable its state.
    pub(super) fn address(&mut self, operand: &Operand, space: Space) -> Result<(Row, bool, i64), ParseError> {
        let Operand::Address(base, offset) = operand else {
            return self.error("an address in brackets is needed here");
        };
        match &**base {
            Operand::Register(r) => {
                let wide = matches!(self.flat.registers[*r as usize].width, Width::Bits(64));
                Ok((self.register_row(*r, if wide { 64 } else { 32 })?, wide, *offset))
            }
            // A shared variable through a generic access keeps its generic address.
            Operand::Symbol(name, more) if space == Space::Generic && self.is_shared(name) => {
                let row = self.symbol(name, 0, 64)?;
                Ok((row, true, offset + more + SHARED_BASE as i64))
            }
            other => Ok((self.source(other, 64)?, true, *offset)),
        }
    }

    fn is_shared(&self, name: &str) -> bool {
        let scope = self.flat.instructions[self.at].scope;
        self.flat.scopes[scope].get(name).is_some_and(|p| p.space == Space::Shared)
    }

    /// The row that operand `index` is written to.
    pub(super) fn destination(&mut self, i: &Instruction, index: usize, bits: u32) -> Result<Row, ParseError> {
        let operand = self.operand(i, index)?;
        self.destination_of(operand, bits)
    }

    pub(super) fn destination_of(&mut self, operand: &Operand, bits: u32) -> Result<Row, ParseError> {
        match operand {
            Operand::Register(r) => self.register_row(*r, bits),
            _ => self.error("the result needs a register"),
        }
    }

    /// A predicate's index and whether it is negated.
    pub(super) fn predicate(&self, operand: &Operand) -> Result<(u16, bool), ParseError> {
        let (register, negated) = match operand {
            Operand::Register(r) => (*r, false),
            Operand::Not(r) => (*r, true),
            _ => return self.error("a predicate is needed here"),
        };
        match self.flat.registers[register as usize].width {
            Width::Predicate => Ok((self.allocation.slot(register), negated)),
            Width::Bits(_) => self.error("a register where a predicate is needed"),
        }
    }

    /// A predicate that is written, [`NONE`] for `_`.
    pub(super) fn predicate_out(&self, operand: &Operand) -> Result<u16, ParseError> {
        if *operand == Operand::Sink { Ok(NONE) } else { self.predicate(operand).map(|(index, _)| index) }
    }

    /// A source of an instruction run lane by lane.
    pub(super) fn lane_arg(&mut self, operand: &Operand, bits: u32, reading: Reading) -> Result<LaneArg, ParseError> {
        Ok(LaneArg { row: self.source_as(operand, bits, reading)?, bits: bits as u8 })
    }

    pub(super) fn lane_op(&mut self, function: LaneFn, modifiers: u32, result_bits: u32, args: Vec<LaneArg>) -> u32 {
        self.code.lane_ops.push(LaneOp { function, modifiers, result_bits: result_bits as u8, args });
        (self.code.lane_ops.len() - 1) as u32
    }

    /// Emits an instruction run lane by lane; the sources are operands 1 up, of `widths` bits each.
    pub(super) fn emit_lanes(
        &mut self,
        i: &Instruction,
        function: LaneFn,
        modifiers: u32,
        result_bits: u32,
        widths: &[u32],
        reading: Reading,
    ) -> Result<(), ParseError> {
        self.operand_count(i, widths.len() + 1..=widths.len() + 1)?;
        let d = self.destination(i, 0, result_bits)?;
        let args = widths.iter().enumerate().map(|(n, &bits)| self.lane_arg(&i.operands[n + 1], bits, reading));
        let args: Vec<LaneArg> = args.collect::<Result<_, _>>()?;
        self.emit_lane_args(d, function, modifiers, result_bits, args);
        Ok(())
    }

    pub(super) fn emit_lane_args(
        &mut self,
        d: Row,
        function: LaneFn,
        modifiers: u32,
        result_bits: u32,
        args: Vec<LaneArg>,
    ) {
        // The row fields repeat the sources for whoever follows dependences.
        let row = |n: usize| args.get(n).filter(|a| a.bits > 1).map_or(self.zero, |a| a.row);
        let fields = [d, row(0), row(1), row(2)];
        let x = self.lane_op(function, modifiers, result_bits, args);
        self.emit(Op::Lane, fields, x);
    }

    /// Emits a hot instruction whose operands are all `bits` wide.
    pub(super) fn emit_hot(
        &mut self,
        i: &Instruction,
        op: Op,
        bits: u32,
        sources: usize,
        reading: Reading,
        x: u32,
    ) -> Result<(), ParseError> {
        self.operand_count(i, sources + 1..=sources + 1)?;
        let mut fields = [self.zero; 4];
        fields[0] = self.destination(i, 0, bits)?;
        for (field, operand) in fields[1..].iter_mut().zip(&i.operands[1..]) {
            *field = self.source_as(operand, bits, reading)?;
        }
        self.emit(op, fields, x);
        Ok(())
    }
}
