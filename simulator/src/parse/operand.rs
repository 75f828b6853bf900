//! Operands of an instruction: registers, constants, addresses, vectors, special registers.

use super::lexer::Token;
use super::scope::Scopes;
use super::{LaneMask, Operand, Parser, Special};
use crate::error::ParseError;

fn axis(name: &str) -> Option<u8> {
    match name {
        "x" => Some(0),
        "y" => Some(1),
        "z" => Some(2),
        _ => None,
    }
}

fn special(name: &str) -> Option<Special> {
    if let Some((stem, dimension)) = name.split_once('.') {
        let axis = axis(dimension)?;
        return Some(match stem {
            "%tid" => Special::Tid(axis),
            "%ntid" => Special::Ntid(axis),
            "%ctaid" => Special::Ctaid(axis),
            "%nctaid" => Special::Nctaid(axis),
            "%cluster_ctaid" => Special::ClusterCtaid(axis),
            "%cluster_nctaid" => Special::ClusterNctaid(axis),
            "%clusterid" => Special::ClusterId(axis),
            "%nclusterid" => Special::NClusterId(axis),
            _ => return None,
        });
    }
    Some(match name {
        "%laneid" => Special::LaneId,
        "%warpid" => Special::WarpId,
        "%nwarpid" => Special::NWarpId,
        "%smid" => Special::SmId,
        "%nsmid" => Special::NSmId,
        "%gridid" => Special::GridId,
        "%lanemask_eq" => Special::LaneMask(LaneMask::Equal),
        "%lanemask_lt" => Special::LaneMask(LaneMask::Less),
        "%lanemask_le" => Special::LaneMask(LaneMask::LessEqual),
        "%lanemask_gt" => Special::LaneMask(LaneMask::Greater),
        "%lanemask_ge" => Special::LaneMask(LaneMask::GreaterEqual),
        "%clock" | "%clock64" | "%clock_hi" | "%globaltimer" | "%globaltimer_lo" | "%globaltimer_hi" => Special::Clock,
        "%dynamic_smem_size" => Special::DynamicShared,
        "%total_smem_size" => Special::TotalShared,
        "%cluster_ctarank" => Special::ClusterCtaRank,
        "%cluster_nctarank" => Special::ClusterNctaRank,
        "%envreg1" | "%envreg2" | "%is_explicit_cluster" => Special::Zero,
        _ => return None,
    })
}

impl<'a> Parser<'a> {
    /// An operand, with `|` pairs. Labels become [`Operand::Symbol`] here; the function resolves them at its end.
    pub(super) fn operand(&mut self, scopes: &Scopes<'a>) -> Result<Operand, ParseError> {
        let first = self.simple_operand(scopes)?;
        if self.accept(b'|') {
            let second = self.simple_operand(scopes)?;
            return Ok(Operand::Pair(Box::new(first), Box::new(second)));
        }
        Ok(first)
    }

    fn simple_operand(&mut self, scopes: &Scopes<'a>) -> Result<Operand, ParseError> {
        match self.peek().clone() {
            Token::Punct(b'[') => {
                self.advance();
                self.address(scopes)
            }
            Token::Punct(b'{') => {
                self.advance();
                self.operands_until(b'}', scopes).map(Operand::Vector)
            }
            Token::Punct(b'(') => {
                self.advance();
                self.operands_until(b')', scopes).map(Operand::List)
            }
            Token::Punct(b'!') => {
                self.advance();
                let name = self.word("a predicate")?;
                scopes.register(name).map(Operand::Not).ok_or_else(|| self.error(format!("no register `{name}`")))
            }
            Token::Punct(b'-') => {
                self.advance();
                match self.advance() {
                    Token::Integer(value) => Ok(Operand::Integer(value.wrapping_neg())),
                    Token::Double(bits) => Ok(Operand::Double(bits ^ 1 << 63)),
                    _ => self.unexpected("a number after `-`"),
                }
            }
            Token::Integer(value) => {
                self.advance();
                Ok(Operand::Integer(value))
            }
            Token::Single(bits) => {
                self.advance();
                Ok(Operand::Single(bits))
            }
            Token::Double(bits) => {
                self.advance();
                Ok(Operand::Double(bits))
            }
            Token::Word(name) => self.named_operand(name, scopes),
            _ => self.unexpected("an operand"),
        }
    }

    fn named_operand(&mut self, name: &'a str, scopes: &Scopes<'a>) -> Result<Operand, ParseError> {
        if name == "_" {
            self.advance();
            return Ok(Operand::Sink);
        }
        if name == "WARP_SZ" {
            self.advance();
            return Ok(Operand::Integer(32));
        }
        if let Some(register) = scopes.register(name) {
            self.advance();
            return Ok(Operand::Register(register));
        }
        if let Some(special) = special(name) {
            self.advance();
            return Ok(Operand::Special(special));
        }
        if name.starts_with('%') {
            return Err(self.error(format!("no register `{name}` is declared here")));
        }
        self.advance();
        let offset = self.offset()?;
        Ok(Operand::Symbol(name.into(), offset))
    }

    /// `+4`, `-4`, `+-4` or nothing.
    fn offset(&mut self) -> Result<i64, ParseError> {
        if self.accept(b'+') || *self.peek() == Token::Punct(b'-') { self.integer() } else { Ok(0) }
    }

    fn address(&mut self, scopes: &Scopes<'a>) -> Result<Operand, ParseError> {
        let base = match self.peek().clone() {
            Token::Word(name) if scopes.register(name).is_none() => {
                self.advance();
                Operand::Symbol(name.into(), 0)
            }
            _ => self.simple_operand(scopes)?,
        };
        let offset = self.offset()?;
        self.expect(b']')?;
        Ok(Operand::Address(Box::new(base), offset))
    }

    fn operands_until(&mut self, end: u8, scopes: &Scopes<'a>) -> Result<Vec<Operand>, ParseError> {
        let mut all = Vec::new();
        while !self.accept(end) {
            all.push(self.operand(scopes)?);
            if !self.accept(b',') && *self.peek() != Token::Punct(end) {
                return self.unexpected(&format!("`,` or `{}`", end as char));
            }
        }
        Ok(all)
    }
}
