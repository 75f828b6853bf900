//! Which 32-bit sums and products end up in addresses, so that their overflow can be told from wanted wrapping (hashes, random numbers).
//!
//! Backwards from every address, through instructions that keep a number's meaning; anything else (and, shifts right, remainders, loads)
//! ends the walk. Flow-insensitive: PTX of NVRTC gives most registers one definition.

use super::allocate::defines_and_uses;
use super::flatten::Flat;
use crate::parse::{Instruction, Operand};

/// The result is sign-extended into an address.
pub(crate) const SIGNED: u8 = 1;
/// The result is zero-extended into an address: it overflows only if it does so both as signed and as unsigned.
pub(crate) const UNSIGNED: u8 = 2;
/// A 64-bit part of an address.
const WIDE: u8 = 4;

fn addresses(instruction: &Instruction, out: &mut Vec<u32>) {
    for operand in &instruction.operands {
        if let Operand::Address(base, _) = operand
            && let Operand::Register(register) = **base
        {
            out.push(register);
        }
    }
}

/// Marks that the sources of an instruction get when its result has `mark`.
fn passes_to(opcode: &str, mark: u8) -> u8 {
    let words: Vec<&str> = opcode.split('.').collect();
    let narrow = mark & (SIGNED | UNSIGNED);
    match (words[0], words.last().copied().unwrap_or("")) {
        ("mul" | "mad", last) if words.contains(&"wide") && mark & WIDE != 0 => {
            // The third operand of mad.wide is 64 bits of address itself.
            WIDE | if last.starts_with('s') { SIGNED } else { UNSIGNED }
        }
        ("cvt", "s32") if mark & WIDE != 0 => SIGNED,
        ("cvt", "u32") if mark & WIDE != 0 => UNSIGNED,
        ("add" | "sub" | "mul" | "mad" | "mov" | "selp" | "cvta" | "shl", "s64" | "u64" | "b64") => mark & WIDE,
        ("add" | "sub" | "mov" | "selp" | "shl" | "min" | "max", "s32" | "u32" | "b32") => narrow,
        ("mul" | "mad", "s32" | "u32") if words.contains(&"lo") => narrow,
        _ => 0,
    }
}

/// For each flat instruction whether its result can overflow an address, as [`SIGNED`] and [`UNSIGNED`] bits.
pub(super) fn feeds_address(flat: &Flat) -> Vec<u8> {
    let mut marks = vec![0u8; flat.registers.len()];
    let mut definitions = vec![Vec::new(); flat.registers.len()];
    let mut sources = Vec::with_capacity(flat.instructions.len());
    let mut pending = Vec::new();
    for (at, flat) in flat.instructions.iter().enumerate() {
        let (defines, uses) = defines_and_uses(&flat.instruction);
        defines.iter().for_each(|&r| definitions[r as usize].push(at));
        sources.push(uses);
        addresses(&flat.instruction, &mut pending);
    }
    pending.iter().for_each(|&r| marks[r as usize] |= WIDE);
    while let Some(register) = pending.pop() {
        for &at in &definitions[register as usize] {
            let passed = passes_to(&flat.instructions[at].instruction.opcode, marks[register as usize]);
            for &source in &sources[at] {
                if marks[source as usize] | passed != marks[source as usize] {
                    marks[source as usize] |= passed;
                    pending.push(source);
                }
            }
        }
    }
    flat.instructions
        .iter()
        .map(|f| {
            let opcode = f.instruction.opcode.as_str();
            let narrow = opcode.ends_with("32")
                && matches!(opcode.split('.').next(), Some("add" | "sub" | "mul" | "mad" | "shl"));
            let (defines, _) = defines_and_uses(&f.instruction);
            if narrow { defines.first().map_or(0, |&r| marks[r as usize] & (SIGNED | UNSIGNED)) } else { 0 }
        })
        .collect()
}
