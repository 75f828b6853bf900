//! Variables: `.shared .align 16 .b8 tile[1024];`, `.global .u32 x = 7;`, parameters of functions.

use super::lexer::Token;
use super::{Parser, Space, Variable, Width};
use crate::error::ParseError;

/// Bytes of a fundamental type, `None` for a word that is no type.
pub(super) fn type_bytes(word: &str) -> Option<u32> {
    Some(match word {
        ".b8" | ".u8" | ".s8" => 1,
        ".b16" | ".u16" | ".s16" | ".f16" | ".bf16" => 2,
        ".b32" | ".u32" | ".s32" | ".f32" | ".f16x2" | ".bf16x2" | ".tf32" => 4,
        ".b64" | ".u64" | ".s64" | ".f64" | ".f32x2" => 8,
        ".b128" => 16,
        _ => return None,
    })
}

pub(super) fn register_width(word: &str) -> Option<Width> {
    if word == ".pred" { Some(Width::Predicate) } else { type_bytes(word).map(|bytes| Width::Bits(bytes * 8)) }
}

fn space(word: &str) -> Option<Space> {
    Some(match word {
        ".global" => Space::Global,
        ".shared" => Space::Shared,
        ".local" => Space::Local,
        ".const" => Space::Const,
        ".param" => Space::Param,
        _ => return None,
    })
}

impl Parser<'_> {
    pub(super) fn starts_variable(&self) -> bool {
        space(self.peek_word()).is_some()
    }

    /// One or more variables of one declaration, without the closing `;`.
    pub(super) fn variables(&mut self, external: bool) -> Result<Vec<Variable>, ParseError> {
        let Some(space) = space(self.peek_word()) else { return self.unexpected("a state space") };
        self.advance();
        let (mut align, mut bytes, mut lanes) = (0, 0, 1);
        // `.ptr .align 1` speaks of what a parameter points to, not of the parameter.
        let mut pointee = false;
        loop {
            match self.peek_word() {
                ".align" => {
                    self.advance();
                    let value = self.integer()?;
                    if !(1..=4096).contains(&value) || value.count_ones() != 1 {
                        return Err(self.error(format!("an alignment of {value} bytes")));
                    }
                    if !pointee {
                        align = value as u32;
                    }
                }
                ".v2" => {
                    self.advance();
                    lanes = 2;
                }
                ".v4" => {
                    self.advance();
                    lanes = 4;
                }
                ".ptr" => {
                    self.advance();
                    pointee = true;
                }
                ".global" | ".shared" | ".local" | ".const" => {
                    self.advance();
                }
                ".attribute" => {
                    self.advance();
                    while !self.accept(b')') {
                        if *self.peek() == Token::End {
                            return self.unexpected("`)`");
                        }
                        self.advance();
                    }
                }
                word => match type_bytes(word) {
                    Some(b) => {
                        self.advance();
                        bytes = b * lanes;
                    }
                    None => break,
                },
            }
        }
        if bytes == 0 {
            return self.unexpected("a type");
        }
        let align = align.max(bytes.min(if align == 0 { 16 } else { 1 }));
        let mut all = vec![self.variable(space, align, bytes, external)?];
        while space != Space::Param && self.accept(b',') {
            all.push(self.variable(space, align, bytes, external)?);
        }
        Ok(all)
    }

    fn variable(&mut self, space: Space, align: u32, bytes: u32, external: bool) -> Result<Variable, ParseError> {
        let name = self.word("a variable's name")?.to_string();
        let (mut size, mut dynamic) = (u64::from(bytes), false);
        while self.accept(b'[') {
            if self.accept(b']') {
                dynamic = true;
                size = 0;
                continue;
            }
            let count = self.integer()?;
            size = u64::try_from(count)
                .ok()
                .and_then(|c| size.checked_mul(c))
                .filter(|&s| s < 1 << 40)
                .ok_or_else(|| self.error(format!("variable `{name}` is larger than an address can reach")))?;
            self.expect(b']')?;
        }
        let mut variable = Variable { name, space, align, size, dynamic, initial: None, relocations: Vec::new() };
        if self.accept(b'=') {
            let mut bytes_out = Vec::new();
            self.initializer(bytes, &mut bytes_out, &mut variable.relocations)?;
            if dynamic {
                variable.size = bytes_out.len() as u64;
                variable.dynamic = false;
            }
            if bytes_out.len() as u64 > variable.size {
                return Err(self.error(format!("variable `{}` has more initial values than room", variable.name)));
            }
            variable.initial = Some(bytes_out);
        } else if matches!(space, Space::Global | Space::Const) && !external {
            // The driver clears variables without initial values.
            variable.initial = Some(Vec::new());
        }
        Ok(variable)
    }

    fn initializer(
        &mut self,
        bytes: u32,
        out: &mut Vec<u8>,
        relocations: &mut Vec<(usize, String, i64)>,
    ) -> Result<(), ParseError> {
        if self.accept(b'{') {
            while !self.accept(b'}') {
                self.initializer(bytes, out, relocations)?;
                if !self.accept(b',') && *self.peek() != Token::Punct(b'}') {
                    return self.unexpected("`,` or `}`");
                }
            }
            return Ok(());
        }
        let value = match self.peek().clone() {
            Token::Single(bits) => {
                self.advance();
                u64::from(bits)
            }
            Token::Double(bits) => {
                self.advance();
                if bytes == 4 { u64::from((f64::from_bits(bits) as f32).to_bits()) } else { bits }
            }
            Token::Word(mut name) => {
                self.advance();
                // `generic(x)`: the generic address of x. Pointers of this machine are generic in every space of memory.
                if name == "generic" && self.accept(b'(') {
                    name = self.word("a variable")?;
                    self.expect(b')')?;
                }
                let offset = if self.accept(b'+') { self.integer()? } else { 0 };
                relocations.push((out.len(), name.into(), offset));
                0
            }
            _ => self.integer()? as u64,
        };
        out.extend_from_slice(&value.to_le_bytes()[..bytes.min(8) as usize]);
        Ok(())
    }
}
