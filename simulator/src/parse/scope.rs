//! Names of registers and labels within nested `{ }`: inline assembly opens one each time, and declares the same names again.

use std::collections::HashMap;

use super::{Register, RegisterId, Width};

/// A declaration: one register, or `%r<n>`, which declares `%r0` … `%r(n−1)`.
struct Declared {
    first: RegisterId,
    count: Option<u32>,
}

#[derive(Default)]
struct Scope<'a> {
    registers: HashMap<&'a str, Declared>,
    labels: HashMap<&'a str, u32>,
    parent: usize,
}

/// All scopes of a function; closed ones stay, so that labels can be resolved at the end.
pub(super) struct Scopes<'a> {
    all: Vec<Scope<'a>>,
    pub current: usize,
    pub registers: Vec<Register>,
    pub label_count: u32,
}

/// Registers a function may declare; a larger number is a damaged file.
const MOST_REGISTERS: usize = 1 << 20;

impl<'a> Scopes<'a> {
    pub fn new() -> Self {
        Scopes { all: vec![Scope::default()], current: 0, registers: Vec::new(), label_count: 0 }
    }

    pub fn open(&mut self) {
        self.all.push(Scope { parent: self.current, ..Scope::default() });
        self.current = self.all.len() - 1;
    }

    /// False at the function's own brace.
    pub fn close(&mut self) -> bool {
        let inner = self.current != 0;
        self.current = self.all[self.current].parent;
        inner
    }

    /// Declares `name`, or `count` registers that start with it; false if they are too many.
    pub fn declare(&mut self, name: &'a str, count: Option<u32>, width: Width) -> bool {
        let first = self.registers.len();
        let total = first + count.unwrap_or(1) as usize;
        if total > MOST_REGISTERS {
            return false;
        }
        self.registers.resize(total, Register { width });
        self.all[self.current].registers.insert(name, Declared { first: first as u32, count });
        true
    }

    pub fn register(&self, name: &str) -> Option<RegisterId> {
        let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
        let number: Option<u32> = name[stem.len()..].parse().ok();
        let mut at = self.current;
        loop {
            let scope = &self.all[at];
            if let Some(declared) = scope.registers.get(name).filter(|d| d.count.is_none()) {
                return Some(declared.first);
            }
            if let (Some(n), Some(declared)) = (number, scope.registers.get(stem))
                && declared.count.is_some_and(|count| n < count)
            {
                return Some(declared.first + n);
            }
            if at == 0 {
                return None;
            }
            at = scope.parent;
        }
    }

    /// The number of a label defined in the current scope; `None` if it is there already.
    pub fn define_label(&mut self, name: &'a str) -> Option<u32> {
        let number = self.label_count;
        self.label_count += 1;
        self.all[self.current].labels.insert(name, number).is_none().then_some(number)
    }

    /// The label that `name` means seen from `scope`.
    pub fn label(&self, name: &str, scope: usize) -> Option<u32> {
        let mut at = scope;
        loop {
            if let Some(&number) = self.all[at].labels.get(name) {
                return Some(number);
            }
            if at == 0 {
                return None;
            }
            at = self.all[at].parent;
        }
    }
}
