//! An opcode's words: the base, its types in order, its modifiers.

use crate::error::ParseError;

use super::Decoder;

pub(super) struct Opcode<'a> {
    pub base: &'a str,
    /// All words behind the base.
    pub words: Vec<&'a str>,
    /// Those that name a type, without their dots.
    pub types: Vec<&'a str>,
    /// The others.
    pub modifiers: Vec<&'a str>,
}

const TYPES: [&str; 30] = [
    "b8", "b16", "b32", "b64", "b128", "u8", "u16", "u32", "u64", "s8", "s16", "s32", "s64", "f16", "f16x2", "bf16",
    "bf16x2", "f32", "f64", "tf32", "pred", "u16x2", "s16x2", "f32x2", "e4m3x2", "e5m2x2", "e2m3x2", "e3m2x2",
    "e2m1x2", "ue8m0x2",
];

pub(super) fn is_float(word: &str) -> bool {
    matches!(word, "f16" | "f16x2" | "bf16" | "bf16x2" | "f32" | "f64" | "f32x2")
}

/// Bits of a type.
pub(super) fn bits(word: &str) -> u32 {
    match word {
        "b8" | "u8" | "s8" => 8,
        "b16" | "u16" | "s16" | "f16" | "bf16" | "e4m3x2" | "e5m2x2" | "e2m3x2" | "e3m2x2" => 16,
        "b64" | "u64" | "s64" | "f64" | "f32x2" => 64,
        "b128" => 128,
        "pred" => 1,
        _ => 32,
    }
}

impl<'a> Opcode<'a> {
    pub fn new(text: &'a str) -> Self {
        let mut words = text.split('.');
        let base = words.next().unwrap_or("");
        let words: Vec<&str> = words.collect();
        let (types, modifiers) = words.iter().copied().partition(|w| TYPES.contains(w));
        Opcode { base, words, types, modifiers }
    }

    pub fn has(&self, word: &str) -> bool {
        self.modifiers.contains(&word)
    }

    pub fn has_any(&self, words: &[&str]) -> bool {
        words.iter().any(|w| self.has(w))
    }

    /// The last type, or `b32` where there is none.
    pub fn kind(&self) -> &'a str {
        self.types.last().copied().unwrap_or("b32")
    }
}

impl Decoder<'_> {
    /// Refuses modifiers that are not among `known`.
    pub(super) fn only(&self, op: &Opcode, known: &[&str]) -> Result<(), ParseError> {
        match op.modifiers.iter().find(|m| !known.contains(m)) {
            Some(unknown) => self.error(format!("the modifier `.{unknown}` is not simulated here")),
            None => Ok(()),
        }
    }
}
