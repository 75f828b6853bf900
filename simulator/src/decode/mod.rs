//! Kernels from parsed words to dense [`Code`]: calls inlined, registers packed into few rows, each opcode checked word by word. An opcode
//! or a modifier that is not simulated is an error with its line, never skipped.

mod allocate;
mod code;
mod convert;
mod dataflow;
mod flatten;
mod float;
mod integer;
mod memory;
mod op;
mod opcode;
mod operands;
mod parallel;

pub(crate) use code::*;
pub(crate) use op::Op;

use std::collections::HashMap;

use crate::control_flow::{self, Flow};
use crate::error::ParseError;
use crate::parse::{Function, Instruction, Module};
use allocate::Allocation;
use flatten::{Flat, FlatInstruction};
use opcode::Opcode;

/// Offsets of a kernel's parameters by name, and the bytes of all.
pub(crate) fn param_layout(function: &Function) -> (HashMap<String, u32>, usize) {
    let mut end = 0u64;
    let mut offsets = HashMap::new();
    for param in &function.params {
        let start = end.next_multiple_of(u64::from(param.align.max(1)));
        offsets.insert(param.name.clone(), start as u32);
        end = start + param.size;
    }
    (offsets, end as usize)
}

/// Lowers the kernel `name`, which must exist.
pub(crate) fn decode(module: &Module, name: &str) -> Result<Code, ParseError> {
    let missing =
        || ParseError { file: module.file.clone(), line: 1, column: 1, message: format!("no kernel `{name}`") };
    let kernel = module.functions.iter().find(|f| f.name == name && f.kernel && f.defined).ok_or_else(missing)?;
    let flat = flatten::flatten(module, kernel)?;
    Decoder::new(module, kernel, &flat)?.run()
}

/// State of one lowering.
struct Decoder<'a> {
    module: &'a Module,
    flat: &'a Flat,
    allocation: Allocation,
    params: HashMap<String, u32>,
    constants: HashMap<Vec<Constant>, Row>,
    zero: Row,
    feeds: Vec<u8>,
    opcode_ids: HashMap<String, u16>,
    /// First dense position of each flat instruction: one of them may take several.
    position: Vec<u32>,
    /// Dense positions of branches and the flat targets they wait for.
    branches: Vec<(usize, usize)>,
    code: Code,
    /// The instruction being lowered.
    at: usize,
    /// The most shared and parameter bytes decide launch checks.
    guard: u16,
}

type Lowered = Result<(), ParseError>;

fn flow_of(flat: &FlatInstruction, end: usize) -> Flow {
    let conditional = flat.instruction.guard.is_some();
    match (flat.target, flat.instruction.opcode.split('.').next()) {
        (Some(target), _) => Flow::Branch { target: target.min(end), conditional },
        (None, Some("ret" | "exit" | "trap")) => Flow::Exit { conditional },
        _ => Flow::Next,
    }
}

impl<'a> Decoder<'a> {
    fn new(module: &'a Module, kernel: &'a Function, flat: &'a Flat) -> Result<Self, ParseError> {
        let flow: Vec<Flow> = flat.instructions.iter().map(|f| flow_of(f, flat.instructions.len())).collect();
        if flow.is_empty() {
            let message = format!("the kernel `{}` has no instruction", kernel.name);
            return Err(ParseError { file: module.file.clone(), line: kernel.line, column: 1, message });
        }
        let blocks = control_flow::blocks(&flow);
        let allocation = allocate::allocate(flat, &blocks);
        if allocation.overflow {
            let message = format!("the kernel `{}` keeps too many registers alive", kernel.name);
            return Err(ParseError { file: module.file.clone(), line: kernel.line, column: 1, message });
        }
        let zero = allocation.rows;
        let (params, param_bytes) = param_layout(kernel);
        let code = Code {
            kernel: kernel.name.clone(),
            instructions: Vec::new(),
            ptx_lines: Vec::new(),
            sources: Vec::new(),
            opcode_of: Vec::new(),
            opcodes: Vec::new(),
            block_of: Vec::new(),
            blocks: Vec::new(),
            rows: allocation.rows as usize,
            predicates: allocation.predicates as usize,
            constants: Vec::new(),
            lane_ops: Vec::new(),
            outs: Vec::new(),
            accesses: Vec::new(),
            lists: Vec::new(),
            static_shared: flat.static_shared,
            local_bytes: flat.local_bytes,
            param_bytes,
            max_threads: kernel.max_threads,
            communicates: false,
            variables: module.variables.clone(),
        };
        let feeds = dataflow::feeds_address(flat);
        let mut decoder = Decoder {
            module,
            flat,
            allocation,
            params,
            constants: HashMap::new(),
            zero,
            feeds,
            opcode_ids: HashMap::new(),
            position: Vec::new(),
            branches: Vec::new(),
            code,
            at: 0,
            guard: NONE,
        };
        decoder.constant(&[Constant::Bits(0)])?;
        Ok(decoder)
    }

    fn run(mut self) -> Result<Code, ParseError> {
        for at in 0..self.flat.instructions.len() {
            self.at = at;
            self.position.push(self.code.instructions.len() as u32);
            let instruction = &self.flat.instructions[at].instruction;
            self.guard = match instruction.guard {
                Some((register, negated)) => self.allocation.slot(register) * 2 + u16::from(negated),
                None => NONE,
            };
            let opcode = Opcode::new(&instruction.opcode);
            self.lower(instruction, &opcode)?;
            self.describe(instruction);
        }
        // Running past the last instruction ends the thread.
        let end = self.code.instructions.len() as u32;
        self.guard = NONE;
        self.emit(Op::Exit, [self.zero; 4], 0);
        self.position.push(end);
        if let Some(last) = self.flat.instructions.last() {
            self.describe(&last.instruction);
        }
        for (at, target) in std::mem::take(&mut self.branches) {
            self.code.instructions[at].x = self.position[target];
        }
        self.order_blocks();
        Ok(self.code)
    }

    /// The blocks of the dense code and the order in which parted lanes run them. The exit behind the last instruction is one.
    fn order_blocks(&mut self) {
        let end = self.flat.instructions.len();
        let mut flow: Vec<Flow> = self.flat.instructions.iter().map(|f| flow_of(f, end)).collect();
        flow.push(Flow::Exit { conditional: false });
        let blocks = control_flow::blocks(&flow);
        for (block, ranks) in blocks.iter().zip(control_flow::ranks(&blocks)) {
            self.code.blocks.push(FlowBlock { start: self.position[block.start], ranks });
            let stop = self.position.get(block.end).map_or(self.code.instructions.len(), |&p| p as usize);
            self.code.block_of.resize(stop, (self.code.blocks.len() - 1) as u32);
        }
    }

    /// Places and names of the dense instructions that `instruction` became.
    fn describe(&mut self, instruction: &Instruction) {
        let next = self.code.opcodes.len() as u16;
        let id = *self.opcode_ids.entry(instruction.opcode.clone()).or_insert(next);
        if id == next {
            self.code.opcodes.push(instruction.opcode.clone());
        }
        let count = self.code.instructions.len();
        self.code.ptx_lines.resize(count, instruction.line);
        self.code.sources.resize(count, instruction.source);
        self.code.opcode_of.resize(count, id);
    }

    fn error<T>(&self, message: impl Into<String>) -> Result<T, ParseError> {
        let instruction = &self.flat.instructions[self.at].instruction;
        let message = format!("`{}`: {}", instruction.opcode, message.into());
        Err(ParseError { file: self.module.file.clone(), line: instruction.line, column: instruction.column, message })
    }

    /// Appends an instruction under the current guard; `fields` are d, a, b, c.
    fn emit(&mut self, op: Op, fields: [Row; 4], x: u32) {
        let [d, a, b, c] = fields;
        self.code.instructions.push(Inst { op, guard: self.guard, d, a, b, c, x });
    }

    fn list(&mut self, rows: Vec<Row>) -> u32 {
        self.code.lists.push(rows);
        (self.code.lists.len() - 1) as u32
    }

    fn lower(&mut self, i: &Instruction, op: &Opcode) -> Lowered {
        match op.base {
            "add" | "sub" | "mul" | "mad" | "fma" | "div" | "min" | "max" | "abs" | "neg" | "rcp" | "sqrt"
            | "rsqrt" | "ex2" | "lg2" | "sin" | "cos" | "tanh" | "copysign" | "testp"
                if op.types.last().is_some_and(|t| opcode::is_float(t)) =>
            {
                self.float(i, op)
            }
            "add" | "sub" | "mul" | "mad" | "mul24" | "mad24" | "div" | "rem" | "min" | "max" | "abs" | "neg"
            | "sad" | "and" | "or" | "xor" | "not" | "cnot" | "lop3" | "shl" | "shr" | "shf" | "popc" | "clz"
            | "brev" | "bfind" | "bfe" | "bfi" | "bmsk" | "szext" | "prmt" | "dp4a" | "dp2a" | "fns" | "slct"
            | "selp" => self.integer(i, op),
            "mov" => self.mov(i, op),
            "setp" | "set" => self.compare(i, op),
            "cvt" => self.convert(i, op),
            "cvta" => self.convert_address(i, op),
            "isspacep" => self.is_space(i, op),
            "ld" | "ldu" => self.load(i, op),
            "st" => self.store(i, op),
            "atom" | "red" => self.atomic(i, op),
            "cp" => self.copy_async(i, op),
            "ldmatrix" | "stmatrix" | "movmatrix" => self.matrix_move(i, op),
            "mma" => self.mma(i, op),
            "shfl" => self.shuffle(i, op),
            "vote" => self.vote(i, op),
            "match" => self.match_lanes(i, op),
            "redux" => self.redux(i, op),
            "elect" => self.elect(i, op),
            "activemask" => self.active_mask(i),
            "bar" | "barrier" => self.barrier(i, op),
            "membar" | "fence" => self.fence(i, op),
            "mbarrier" => self.mbarrier(i, op),
            "griddepcontrol" => self.grid_dependency(op),
            "bra" => {
                let Some(target) = self.flat.instructions[self.at].target else {
                    return self.error("a branch without a target");
                };
                self.branches.push((self.code.instructions.len(), target));
                self.emit(Op::Branch, [self.zero; 4], 0);
                Ok(())
            }
            "ret" | "exit" => {
                self.emit(Op::Exit, [self.zero; 4], 0);
                Ok(())
            }
            "trap" => {
                self.emit(Op::Trap, [self.zero; 4], 0);
                Ok(())
            }
            "nanosleep" => {
                self.emit(Op::NanoSleep, [self.zero; 4], 0);
                Ok(())
            }
            // Hints without a result: they move data between caches, or mark places for a profiler.
            "prefetch" | "prefetchu" | "discard" | "applypriority" | "pmevent" | "setmaxnreg" | "brkpt" => {
                self.emit(Op::Nop, [self.zero; 4], 0);
                Ok(())
            }
            "createpolicy" => {
                let d = self.destination(i, 0, 64)?;
                let a = self.constant(&[Constant::Bits(0), Constant::Bits(0)])?;
                self.emit(Op::Mov64, [d, a, self.zero, self.zero], 0);
                Ok(())
            }
            _ => self.error("this instruction is not simulated"),
        }
    }
}
