//! Registers into rows: linear scan over live ranges. Fewer rows keep a warp's register file within the first-level cache.

use super::flatten::Flat;
use crate::control_flow::{self, Block};
use crate::parse::{Instruction, Operand, Width};

/// Which row (or predicate index) each register has.
pub(super) struct Allocation {
    slots: Vec<u16>,
    pub rows: u16,
    pub predicates: u16,
    /// A register that does not fit 16-bit row numbers.
    pub overflow: bool,
}

impl Allocation {
    pub fn slot(&self, register: u32) -> u16 {
        self.slots[register as usize]
    }
}

/// How many leading operands an instruction writes.
pub(super) fn results(opcode: &str) -> usize {
    let mut words = opcode.split('.');
    let base = words.next().unwrap_or("");
    let second = words.next().unwrap_or("");
    match base {
        "st" | "red" | "membar" | "fence" | "bra" | "ret" | "exit" | "cp" | "prefetch" | "prefetchu" | "nanosleep"
        | "griddepcontrol" | "pmevent" | "trap" | "brkpt" | "stmatrix" | "discard" | "applypriority" | "setmaxnreg" => {
            0
        }
        "bar" | "barrier" => usize::from(opcode.contains(".red")),
        "mbarrier" => usize::from(matches!(second, "arrive" | "arrive_drop" | "test_wait" | "try_wait")),
        _ => 1,
    }
}

fn registers_of(operand: &Operand, out: &mut Vec<u32>) {
    match operand {
        Operand::Register(r) | Operand::Not(r) => out.push(*r),
        Operand::Address(inner, _) => registers_of(inner, out),
        Operand::Vector(all) | Operand::List(all) => all.iter().for_each(|o| registers_of(o, out)),
        Operand::Pair(p, q) => {
            registers_of(p, out);
            registers_of(q, out);
        }
        _ => {}
    }
}

/// Registers that an instruction writes, and those it reads (its guard among them).
pub(super) fn defines_and_uses(instruction: &Instruction) -> (Vec<u32>, Vec<u32>) {
    let split = results(&instruction.opcode).min(instruction.operands.len());
    let (mut defines, mut uses) = (Vec::new(), Vec::new());
    for operand in &instruction.operands[..split] {
        // `[address]` in the first place (mbarrier.arrive without a result) is read.
        let into = if matches!(operand, Operand::Address(..)) { &mut uses } else { &mut defines };
        registers_of(operand, into);
    }
    instruction.operands[split..].iter().for_each(|o| registers_of(o, &mut uses));
    uses.extend(instruction.guard.map(|(register, _)| register));
    (defines, uses)
}

/// Free rows, single and in pairs.
#[derive(Default)]
struct Pool {
    singles: Vec<u32>,
    pairs: Vec<u32>,
    end: u32,
}

impl Pool {
    fn take(&mut self, rows: u32) -> u32 {
        if rows == 2 {
            return self.pairs.pop().unwrap_or_else(|| self.grow(2));
        }
        if let Some(row) = self.singles.pop() {
            return row;
        }
        match self.pairs.pop() {
            Some(pair) => {
                self.singles.push(pair + 1);
                pair
            }
            None => self.grow(1),
        }
    }

    fn grow(&mut self, rows: u32) -> u32 {
        self.end += rows;
        self.end - rows
    }

    fn give(&mut self, row: u32, rows: u32) {
        if rows == 2 { self.pairs.push(row) } else { self.singles.push(row) }
    }
}

pub(super) fn allocate(flat: &Flat, blocks: &[Block]) -> Allocation {
    let (defines, uses): (Vec<_>, Vec<_>) = flat.instructions.iter().map(|f| defines_and_uses(&f.instruction)).unzip();
    let guarded: Vec<bool> = flat.instructions.iter().map(|f| f.instruction.guard.is_some()).collect();
    let ranges = control_flow::live_ranges(blocks, flat.registers.len(), &defines, &uses, &guarded);
    let mut order: Vec<(usize, usize, usize)> = ranges
        .iter()
        .enumerate()
        .filter_map(|(register, range)| range.map(|(start, end)| (start, end, register)))
        .collect();
    order.sort_unstable();

    let mut slots = vec![0u16; flat.registers.len()];
    let (mut rows, mut predicates) = (Pool::default(), Pool::default());
    // Those alive now, by their end.
    let mut alive: std::collections::BTreeSet<(usize, usize)> = Default::default();
    let size = |register: usize| match flat.registers[register].width {
        Width::Predicate => 0,
        Width::Bits(bits) => {
            if bits > 32 {
                2
            } else {
                1
            }
        }
    };
    for (start, end, register) in order {
        while let Some(&(last, old)) = alive.first().filter(|(last, _)| *last < start) {
            alive.remove(&(last, old));
            match size(old) {
                0 => predicates.give(u32::from(slots[old]), 1),
                n => rows.give(u32::from(slots[old]), n),
            }
        }
        let slot = match size(register) {
            0 => predicates.take(1),
            n => rows.take(n),
        };
        slots[register] = slot as u16;
        alive.insert((end, register));
    }
    // Room is left for constants below the end of 16 bits; guards take a predicate's number twice.
    let overflow = rows.end > 40_000 || predicates.end > 32_000;
    Allocation { slots, rows: rows.end.min(40_000) as u16, predicates: predicates.end.min(32_000) as u16, overflow }
}
