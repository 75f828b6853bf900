//! A kernel with every call inlined: one list of instructions, one numbering of registers, branch targets as positions.
//!
//! Inlining needs no stack and lets divergence be a matter of one flow graph. PTX of models holds no recursion, which is an error here.
//! A call's `.param` variables become local memory, because PTX may address them bytewise.

use std::collections::HashMap;

use crate::error::ParseError;
use crate::parse::{Function, Instruction, Module, Operand, Register, RegisterId, Space, Statement, Variable};

/// Depth of calls and size that inlining may reach.
const DEEPEST: usize = 32;
const MOST_INSTRUCTIONS: usize = 1 << 20;

/// A variable of the flattened kernel and its offset in its space.
#[derive(Clone, Debug)]
pub(super) struct Placed {
    pub space: Space,
    pub offset: u32,
    /// `.param` of a call, in local memory.
    pub call_param: bool,
}

/// What a name means at one instruction: a scope is one inlined function.
pub(super) type Names = HashMap<String, Placed>;

pub(super) struct FlatInstruction {
    pub instruction: Instruction,
    /// Position a branch goes to.
    pub target: Option<usize>,
    /// Index into [`Flat::scopes`].
    pub scope: usize,
}

pub(super) struct Flat {
    pub instructions: Vec<FlatInstruction>,
    pub registers: Vec<Register>,
    pub scopes: Vec<Names>,
    pub static_shared: u32,
    pub local_bytes: u32,
}

struct Flattener<'m> {
    module: &'m Module,
    flat: Flat,
    /// Module-wide shared variables and those of functions, placed once each.
    shared: HashMap<String, Placed>,
    stack: Vec<String>,
}

fn align_up(value: u32, align: u32) -> Option<u32> {
    value.checked_next_multiple_of(align.max(1))
}

pub(super) fn flatten(module: &Module, kernel: &Function) -> Result<Flat, ParseError> {
    let flat =
        Flat { instructions: Vec::new(), registers: Vec::new(), scopes: Vec::new(), static_shared: 0, local_bytes: 0 };
    let mut flattener = Flattener { module, flat, shared: HashMap::new(), stack: Vec::new() };
    let statics = module.variables.iter().filter(|v| v.space == Space::Shared);
    let (sized, dynamic): (Vec<_>, Vec<_>) = statics.partition(|v| !v.dynamic);
    let uses = used_names(module);
    for variable in sized.into_iter().filter(|v| uses.contains(v.name.as_str())) {
        flattener.place_shared("", variable)?;
    }
    flattener.function(kernel, Names::new(), &[], &[], 0)?;
    // Dynamic shared memory starts after all static variables, so it is placed last.
    let start = align_up(flattener.flat.static_shared, 16).unwrap_or(u32::MAX);
    if !dynamic.is_empty() {
        flattener.flat.static_shared = start;
    }
    for variable in dynamic {
        for scope in &mut flattener.flat.scopes {
            scope.insert(variable.name.clone(), Placed { space: Space::Shared, offset: start, call_param: false });
        }
    }
    Ok(flattener.flat)
}

/// Names that any operand of the module mentions, to leave unused module-wide shared variables out.
fn used_names(module: &Module) -> std::collections::HashSet<&str> {
    fn visit<'m>(operand: &'m Operand, names: &mut std::collections::HashSet<&'m str>) {
        match operand {
            Operand::Symbol(name, _) => {
                names.insert(name);
            }
            Operand::Address(base, _) => visit(base, names),
            Operand::Vector(all) | Operand::List(all) => all.iter().for_each(|o| visit(o, names)),
            _ => {}
        }
    }
    let mut names = std::collections::HashSet::new();
    for statement in module.functions.iter().flat_map(|f| &f.body) {
        if let Statement::Instruction(instruction) = statement {
            instruction.operands.iter().for_each(|o| visit(o, &mut names));
        }
    }
    names
}

impl<'m> Flattener<'m> {
    fn error(&self, at: &Instruction, message: String) -> ParseError {
        ParseError { file: self.module.file.clone(), line: at.line, column: at.column, message }
    }

    fn place_shared(&mut self, function: &str, variable: &Variable) -> Result<Placed, ParseError> {
        let key = format!("{function}/{}", variable.name);
        if let Some(placed) = self.shared.get(&key) {
            return Ok(placed.clone());
        }
        let offset = place(&mut self.flat.static_shared, variable).ok_or_else(|| self.too_large(variable))?;
        let placed = Placed { space: Space::Shared, offset, call_param: false };
        self.shared.insert(key, placed.clone());
        Ok(placed)
    }

    fn place_local(&mut self, variable: &Variable, call_param: bool) -> Result<Placed, ParseError> {
        let offset = place(&mut self.flat.local_bytes, variable).ok_or_else(|| self.too_large(variable))?;
        Ok(Placed { space: Space::Local, offset, call_param })
    }

    fn too_large(&self, variable: &Variable) -> ParseError {
        let message = format!("variable `{}` of {} bytes leaves its state space", variable.name, variable.size);
        ParseError { file: self.module.file.clone(), line: 1, column: 1, message }
    }

    /// Appends `function` with its parameters standing for `arguments` of the caller's scope.
    fn function(
        &mut self,
        function: &'m Function,
        mut names: Names,
        arguments: &[Placed],
        results: &[Placed],
        depth: usize,
    ) -> Result<(), ParseError> {
        self.stack.push(function.name.clone());
        for variable in self.module.variables.iter().filter(|v| v.space == Space::Shared && !v.dynamic) {
            if let Some(placed) = self.shared.get(&format!("/{}", variable.name)) {
                names.insert(variable.name.clone(), placed.clone());
            }
        }
        for (variable, placed) in function.params.iter().zip(arguments).chain(function.results.iter().zip(results)) {
            names.insert(variable.name.clone(), placed.clone());
        }
        for variable in one_a_name(&function.variables) {
            let placed = match variable.space {
                Space::Shared => self.place_shared(&function.name, &variable)?,
                _ => self.place_local(&variable, variable.space == Space::Param)?,
            };
            names.insert(variable.name.clone(), placed);
        }
        let scope = self.flat.scopes.len();
        self.flat.scopes.push(names);
        let base = self.flat.registers.len() as u32;
        self.flat.registers.extend(function.registers.iter().cloned());

        let mut labels = vec![usize::MAX; function.label_count as usize];
        let mut branches = Vec::new();
        for statement in &function.body {
            let instruction = match statement {
                Statement::Label(label) => {
                    labels[*label as usize] = self.flat.instructions.len();
                    continue;
                }
                Statement::Instruction(instruction) => instruction,
            };
            let mut copy = instruction.clone();
            shift(&mut copy, base);
            let kind = copy.opcode.split('.').next().unwrap_or("").to_string();
            if kind == "call" {
                self.call(&copy, scope, depth)?;
                continue;
            }
            let returns = kind == "ret" && depth > 0;
            if kind == "bra" || returns {
                let label = if let (false, Some(Operand::Label(l))) = (returns, copy.operands.first()) {
                    Some(*l)
                } else {
                    None
                };
                branches.push((self.flat.instructions.len(), label));
                copy.opcode = "bra".into();
            }
            self.push(FlatInstruction { instruction: copy, target: None, scope })?;
        }
        let end = self.flat.instructions.len();
        for (at, label) in branches {
            let target = label.map_or(end, |l| labels[l as usize]);
            self.flat.instructions[at].target = Some(if target == usize::MAX { end } else { target });
        }
        self.stack.pop();
        Ok(())
    }

    fn push(&mut self, instruction: FlatInstruction) -> Result<(), ParseError> {
        if self.flat.instructions.len() >= MOST_INSTRUCTIONS {
            let message = format!("more than {MOST_INSTRUCTIONS} instructions after inlining");
            return Err(self.error(&instruction.instruction, message));
        }
        self.flat.instructions.push(instruction);
        Ok(())
    }

    /// `call (results), name, (arguments);` — `@p call` jumps over the inlined body.
    fn call(&mut self, call: &Instruction, scope: usize, depth: usize) -> Result<(), ParseError> {
        let mut lists = Vec::new();
        let mut callee = None;
        for operand in &call.operands {
            match operand {
                Operand::List(all) => lists.push((callee.is_some(), all)),
                Operand::Symbol(name, _) if callee.is_none() => callee = Some(name.clone()),
                _ => return Err(self.error(call, "an indirect call is not simulated".into())),
            }
        }
        let name = callee.ok_or_else(|| self.error(call, "a call without a function".into()))?;
        let Some(function) = self.module.functions.iter().find(|f| f.name == name && f.defined && !f.kernel) else {
            return Err(self.error(call, format!("the function `{name}` has no body in this module")));
        };
        if self.stack.contains(&name) || depth >= DEEPEST {
            return Err(self.error(call, format!("the recursive call of `{name}` is not simulated")));
        }
        let mut placed = [Vec::new(), Vec::new()];
        for (arguments, all) in lists {
            for operand in all {
                let place = match operand {
                    Operand::Symbol(name, 0) => self.flat.scopes[scope].get(name).cloned(),
                    _ => None,
                };
                let place = place.ok_or_else(|| self.error(call, "an argument that is no `.param` variable".into()))?;
                placed[usize::from(arguments)].push(place);
            }
        }
        let [results, arguments] = placed;
        if results.len() != function.results.len() || arguments.len() != function.params.len() {
            return Err(self.error(call, format!("`{name}` is called with another number of arguments than it has")));
        }
        let skip = call.guard.map(|(register, negated)| {
            let branch = Instruction {
                guard: Some((register, !negated)),
                opcode: "bra".into(),
                operands: vec![],
                ..call.clone()
            };
            (self.flat.instructions.len(), branch)
        });
        if let Some((_, branch)) = &skip {
            self.push(FlatInstruction { instruction: branch.clone(), target: None, scope })?;
        }
        self.function(function, Names::new(), &arguments, &results, depth + 1)?;
        if let Some((at, _)) = skip {
            self.flat.instructions[at].target = Some(self.flat.instructions.len());
        }
        Ok(())
    }
}

/// The variables of a function, of those with one name one that serves them all: each call sequence is a block that declares its `param0`,
/// and no two are open at a time.
fn one_a_name(variables: &[Variable]) -> Vec<Variable> {
    let mut all: Vec<Variable> = Vec::new();
    for variable in variables {
        match all.iter_mut().find(|known| known.name == variable.name && known.space == variable.space) {
            Some(known) => (known.size, known.align) = (known.size.max(variable.size), known.align.max(variable.align)),
            None => all.push(variable.clone()),
        }
    }
    all
}

fn place(end: &mut u32, variable: &Variable) -> Option<u32> {
    let offset = align_up(*end, variable.align)?;
    *end = offset.checked_add(u32::try_from(variable.size).ok()?)?;
    Some(offset)
}

/// Moves register numbers behind those of the functions before.
fn shift(instruction: &mut Instruction, base: RegisterId) {
    fn visit(operand: &mut Operand, base: RegisterId) {
        match operand {
            Operand::Register(r) | Operand::Not(r) => *r += base,
            Operand::Address(inner, _) => visit(inner, base),
            Operand::Vector(all) | Operand::List(all) => all.iter_mut().for_each(|o| visit(o, base)),
            Operand::Pair(p, q) => {
                visit(p, base);
                visit(q, base);
            }
            _ => {}
        }
    }
    if let Some((register, _)) = &mut instruction.guard {
        *register += base;
    }
    instruction.operands.iter_mut().for_each(|o| visit(o, base));
}
