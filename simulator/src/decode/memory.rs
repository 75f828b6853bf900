//! Loads, stores, atomics, cp.async, matrix moves, mbarriers, fences.

use super::opcode::{Opcode, bits};
use super::{Access, AtomicOp, Constant, Decoder, Lowered, NONE, Op, Ordering, Row};
use crate::error::ParseError;
use crate::parse::{Instruction, Operand, Space};

/// Hints of caches and eviction change no result.
const CACHE_HINTS: [&str; 26] = [
    "ca",
    "cg",
    "cs",
    "lu",
    "cv",
    "wb",
    "wt",
    "L1::evict_normal",
    "L1::evict_unchanged",
    "L1::evict_first",
    "L1::evict_last",
    "L1::no_allocate",
    "L2::64B",
    "L2::128B",
    "L2::256B",
    "L2::cache_hint",
    "L2::evict_first",
    "L2::evict_last",
    "L2::evict_normal",
    "nc",
    "weak",
    "unified",
    "cta",
    "gpu",
    "sys",
    "cluster",
];

const SPACES: [(&str, Space); 10] = [
    ("global", Space::Global),
    ("shared", Space::Shared),
    ("shared::cta", Space::Shared),
    ("shared::cluster", Space::Shared),
    ("local", Space::Local),
    ("const", Space::Const),
    ("param", Space::Param),
    ("param::entry", Space::Param),
    ("param::func", Space::Param),
    ("generic", Space::Generic),
];

fn space_of(op: &Opcode) -> Space {
    SPACES.iter().find(|(word, _)| op.has(word)).map_or(Space::Generic, |(_, space)| *space)
}

fn ordering_of(op: &Opcode) -> Ordering {
    match () {
        () if op.has("acq_rel") => Ordering::AcquireRelease,
        () if op.has("acquire") => Ordering::Acquire,
        () if op.has("release") => Ordering::Release,
        () if op.has_any(&["relaxed", "volatile", "mmio"]) => Ordering::Relaxed,
        () => Ordering::Weak,
    }
}

impl Decoder<'_> {
    fn memory_words(&self, op: &Opcode, more: &[&str]) -> Lowered {
        let spaces: Vec<&str> = SPACES.iter().map(|(word, _)| *word).collect();
        let orders = ["relaxed", "acquire", "release", "volatile", "mmio", "v2", "v4", "v8"];
        self.only(op, &[CACHE_HINTS.as_slice(), &spaces, &orders, more].concat())
    }

    fn push_access(&mut self, op: Op, access: Access) {
        let far = matches!(access.space, Space::Global | Space::Generic);
        if far && (access.atomic.is_some() || access.ordering != Ordering::Weak) {
            self.code.communicates = true;
        }
        // The row fields repeat the address and the first datum for whoever follows dependences.
        let fields = [
            access.rows.first().copied().filter(|&r| r != NONE).unwrap_or(self.zero),
            access.address,
            self.zero,
            self.zero,
        ];
        self.code.accesses.push(access);
        let x = (self.code.accesses.len() - 1) as u32;
        self.emit(op, fields, x);
    }

    fn access(&mut self, op: &Opcode, address: &Operand) -> Result<Access, ParseError> {
        let mut space = space_of(op);
        let mut call_param = false;
        if space == Space::Param
            && let Operand::Address(base, _) = address
            && let Operand::Symbol(name, _) = &**base
        {
            let scope = self.flat.instructions[self.at].scope;
            if let Some(placed) = self.flat.scopes[scope].get(name) {
                (space, call_param) = (placed.space, placed.call_param);
            }
        }
        let (row, wide, offset) = self.address(address, space)?;
        Ok(Access {
            space,
            bytes: (bits(op.kind()) / 8).max(1) as u8,
            count: 1,
            signed: op.kind().starts_with('s'),
            address: row,
            wide,
            offset,
            rows: Vec::new(),
            register_bits: 32,
            ordering: ordering_of(op),
            non_coherent: op.has("nc"),
            call_param,
            atomic: None,
            second: NONE,
        })
    }

    /// Rows of the data of a load or store, and the bits of their registers.
    fn data(&mut self, operand: &Operand, op: &Opcode, load: bool) -> Result<(Vec<Row>, u8), ParseError> {
        let elements: &[Operand] = if let Operand::Vector(all) = operand { all } else { std::slice::from_ref(operand) };
        let words = ["v2", "v4", "v8"].iter().position(|v| op.has(v)).map_or(1, |i| 2usize << i);
        if words != elements.len() {
            return self.error(format!("{} registers for {words} elements", elements.len()));
        }
        let needed = bits(op.kind());
        let mut rows = Vec::new();
        let mut width = needed;
        for element in elements {
            let register = self.register_bits(element, needed).max(needed);
            let row = match element {
                Operand::Sink if load => NONE,
                _ if load => self.destination_of(element, register)?,
                // A 16-bit constant is stored as such.
                _ => self.source(element, register)?,
            };
            width = width.max(register);
            rows.push(row);
        }
        Ok((rows, width as u8))
    }

    pub(super) fn load(&mut self, i: &Instruction, op: &Opcode) -> Lowered {
        self.memory_words(op, &[])?;
        self.operand_count(i, 2..=3)?;
        if op.kind() == "b128" {
            return self.error("128-bit registers are not simulated");
        }
        let mut access = self.access(op, &i.operands[1])?;
        (access.rows, access.register_bits) = self.data(&i.operands[0], op, true)?;
        access.count = access.rows.len() as u8;
        if access.space == Space::Param && self.param_moves(&access, &i.operands[1])? {
            return Ok(());
        }
        self.push_access(Op::Load, access);
        Ok(())
    }

    /// A parameter at a known offset is a constant of the launch: a move. False if the address is computed.
    fn param_moves(&mut self, access: &Access, address: &Operand) -> Result<bool, ParseError> {
        let Operand::Address(base, offset) = address else { return Ok(false) };
        let Operand::Symbol(name, more) = &**base else { return Ok(false) };
        let Some(&start) = self.params.get(name) else { return self.error(format!("no parameter `{name}`")) };
        let first = i64::from(start) + offset + more;
        let length = i64::from(access.bytes) * i64::from(access.count);
        if first < 0 || first + length > self.code.param_bytes as i64 || first % i64::from(access.bytes) != 0 {
            return self.error(format!("a read at {first} leaves the parameters, or is not aligned"));
        }
        for (k, &row) in access.rows.iter().enumerate().filter(|(_, r)| **r != NONE) {
            let offset = first as u32 + k as u32 * u32::from(access.bytes);
            let word = |offset, bytes| Constant::Param { offset, bytes, signed: access.signed };
            if access.bytes == 8 {
                let a = self.constant(&[word(offset, 4), word(offset + 4, 4)])?;
                self.emit(Op::Mov64, [row, a, self.zero, self.zero], 0);
                continue;
            }
            let a = self.constant(&[word(offset, access.bytes)])?;
            let wide = access.register_bits > 32;
            let op = if wide && access.signed {
                Op::SignExtend64
            } else if wide {
                Op::ZeroExtend64
            } else {
                Op::Mov32
            };
            self.emit(op, [row, a, self.zero, self.zero], 0);
        }
        Ok(true)
    }

    pub(super) fn store(&mut self, i: &Instruction, op: &Opcode) -> Lowered {
        self.memory_words(op, &[])?;
        self.operand_count(i, 2..=3)?;
        let mut access = self.access(op, &i.operands[0])?;
        (access.rows, access.register_bits) = self.data(&i.operands[1], op, false)?;
        access.count = access.rows.len() as u8;
        if access.space == Space::Const || access.space == Space::Param {
            return self.error("a store to a read-only state space");
        }
        self.push_access(Op::Store, access);
        Ok(())
    }

    pub(super) fn atomic(&mut self, i: &Instruction, op: &Opcode) -> Lowered {
        let names = ["add", "min", "max", "and", "or", "xor", "exch", "cas", "inc", "dec"];
        self.memory_words(op, &[names.as_slice(), &["acq_rel", "noftz"]].concat())?;
        let returns = op.base == "atom";
        let first = usize::from(returns);
        let Some(name) = names.iter().find(|n| op.has(n)) else { return self.error("no operation") };
        let signed = op.kind().starts_with('s');
        let atomic = match (*name, op.kind()) {
            ("add", "f32") => AtomicOp::AddF32,
            ("add", "f64") => AtomicOp::AddF64,
            ("add", "f16x2") => AtomicOp::AddF16x2,
            ("add", "bf16x2") => AtomicOp::AddBf16x2,
            ("add", "f16") => AtomicOp::AddF16,
            ("add", "bf16") => AtomicOp::AddBf16,
            (_, "f32" | "f64" | "f16" | "bf16" | "f16x2" | "bf16x2") => {
                return self.error("no float atomic of this kind");
            }
            ("add", _) => AtomicOp::Add,
            ("min", _) => {
                if signed {
                    AtomicOp::MinS
                } else {
                    AtomicOp::MinU
                }
            }
            ("max", _) => {
                if signed {
                    AtomicOp::MaxS
                } else {
                    AtomicOp::MaxU
                }
            }
            ("and", _) => AtomicOp::And,
            ("or", _) => AtomicOp::Or,
            ("xor", _) => AtomicOp::Xor,
            ("exch", _) => AtomicOp::Exch,
            ("cas", _) => AtomicOp::Cas,
            ("inc", _) => AtomicOp::Inc,
            _ => AtomicOp::Dec,
        };
        if op.has_any(&["v2", "v4", "v8"]) {
            return self.error("vector atomics are not simulated");
        }
        let n = bits(op.kind());
        let mut access = self.access(op, self.operand(i, first)?)?;
        let value = self.source(self.operand(i, first + 1)?, n)?;
        if atomic == AtomicOp::Cas {
            access.second = self.source(self.operand(i, first + 2)?, n)?;
        }
        let d = match self.operand(i, 0)? {
            _ if !returns => NONE,
            Operand::Sink => NONE,
            operand => self.destination_of(operand, n)?,
        };
        access.rows = vec![d, value];
        access.register_bits = n as u8;
        access.atomic = Some(atomic);
        self.push_access(Op::Atomic, access);
        Ok(())
    }

    pub(super) fn copy_async(&mut self, i: &Instruction, op: &Opcode) -> Lowered {
        if op.words.first() != Some(&"async") {
            return self.error("this copy is not simulated");
        }
        match op.words.get(1) {
            Some(&"commit_group") => {
                self.emit(Op::CpAsyncCommit, [self.zero; 4], 0);
                return Ok(());
            }
            Some(&"wait_group") => {
                let Operand::Integer(groups) = *self.operand(i, 0)? else {
                    return self.error("the number of groups must be a constant");
                };
                self.emit(Op::CpAsyncWait, [self.zero; 4], groups.min(1 << 20) as u32);
                return Ok(());
            }
            Some(&"wait_all") => {
                self.emit(Op::CpAsyncWait, [self.zero; 4], u32::MAX);
                return Ok(());
            }
            Some(&"mbarrier") => return self.mbarrier_copy(i, op),
            Some(&("ca" | "cg")) => {}
            _ => return self.error("this copy is not simulated"),
        }
        self.memory_words(op, &["async"])?;
        self.operand_count(i, 3..=5)?;
        let mut access = self.access(op, &i.operands[0])?;
        let Operand::Integer(size) = i.operands[2] else { return self.error("the size must be a constant") };
        if !matches!(size, 4 | 8 | 16) || (op.has("cg") && size != 16) {
            return self.error(format!("a copy of {size} bytes"));
        }
        let (from, wide, offset) = self.address(&i.operands[1], Space::Global)?;
        if !wide {
            return self.error("a global address needs 64 bits");
        }
        access.space = Space::Shared;
        access.bytes = size as u8;
        // Of the optional operands, a cache policy is a 64-bit register.
        let source_size = i.operands.get(3).filter(|o| self.register_bits(o, 32) <= 32);
        access.second = match source_size {
            Some(operand) if self.is_predicate(operand) => {
                return self.error("the ignore-src predicate is not simulated");
            }
            Some(operand) => self.source(operand, 32)?,
            None => NONE,
        };
        let shift = self.source(&Operand::Integer(offset as u64), 64)?;
        access.rows = vec![from, shift];
        self.code.accesses.push(access);
        let x = (self.code.accesses.len() - 1) as u32;
        self.emit(Op::CpAsync, [self.zero, from, self.zero, self.zero], x);
        Ok(())
    }

    pub(super) fn matrix_move(&mut self, i: &Instruction, op: &Opcode) -> Lowered {
        self.only(op, &["sync", "aligned", "m8n8", "x1", "x2", "x4", "trans", "shared", "shared::cta"])?;
        if !op.has("m8n8") || op.kind() != "b16" {
            return self.error("only m8n8 matrices of b16 are simulated");
        }
        if op.base == "movmatrix" {
            let (d, a) = (self.destination(i, 0, 32)?, self.source(self.operand(i, 1)?, 32)?);
            let x = self.list(vec![d, a]);
            self.emit(Op::MovMatrix, [d, a, self.zero, self.zero], x);
            return Ok(());
        }
        let load = op.base == "ldmatrix";
        let matrices = if op.has("x4") {
            4
        } else if op.has("x2") {
            2
        } else {
            1
        };
        let (data, address) = if load { (0, 1) } else { (1, 0) };
        let operand = self.operand(i, data)?;
        let elements: &[Operand] = if let Operand::Vector(all) = operand { all } else { std::slice::from_ref(operand) };
        if elements.len() != matrices {
            return self.error(format!("{} registers for {matrices} matrices", elements.len()));
        }
        let mut rows = vec![matrices as Row, Row::from(op.has("trans"))];
        for element in elements {
            rows.push(if load { self.destination_of(element, 32)? } else { self.source(element, 32)? });
        }
        let access = self.access(op, self.operand(i, address)?)?;
        self.code.accesses.push(access);
        let d = rows[2];
        let list = self.list(rows);
        let a = self.code.accesses[self.code.accesses.len() - 1].address;
        let x = (self.code.accesses.len() - 1) as u32;
        // `b` and `c` hold the list's number, in two halves.
        self.emit(
            if load { Op::LdMatrix } else { Op::StMatrix },
            [d, a, (list & 0xffff) as Row, (list >> 16) as Row],
            x,
        );
        Ok(())
    }

    pub(super) fn fence(&mut self, i: &Instruction, op: &Opcode) -> Lowered {
        self.operand_count(i, 0..=1)?;
        let device = !op.has_any(&["cta"]);
        self.only(
            op,
            &[
                "cta",
                "gl",
                "sys",
                "gpu",
                "cluster",
                "sc",
                "acq_rel",
                "acquire",
                "release",
                "proxy",
                "async",
                "alias",
                "mbarrier_init",
                "async::generic",
                "shared::cta",
                "shared::cluster",
                "global",
            ],
        )?;
        if op.has("proxy") {
            self.emit(Op::Nop, [self.zero; 4], 0);
        } else {
            self.emit(Op::Fence, [self.zero; 4], u32::from(device));
        }
        Ok(())
    }

    /// mbarrier on shared memory: list [kind, state or predicate, count or phase, parity, wide].
    pub(super) fn mbarrier(&mut self, i: &Instruction, op: &Opcode) -> Lowered {
        let Some(&verb) = op.words.first() else { return self.error("no operation") };
        self.only(
            op,
            &[
                verb,
                "parity",
                "noComplete",
                "shared",
                "shared::cta",
                "release",
                "acquire",
                "cta",
                "relaxed",
                "cluster",
                "expect_tx",
            ],
        )?;
        let kind = match verb {
            "init" => 0,
            "inval" => 1,
            "arrive" if op.has("expect_tx") => {
                return self.error("transaction counts belong to bulk copies, which are not simulated");
            }
            "arrive" => 2,
            "arrive_drop" => 3,
            "test_wait" | "try_wait" => 4,
            _ => return self.error("this operation is not simulated"),
        };
        let place = i.operands.iter().position(|o| matches!(o, Operand::Address(..)));
        let Some(place) = place else { return self.error("an address in brackets is needed") };
        let access = self.access(op, &i.operands[place])?;
        let mut list = vec![kind, NONE, NONE, Row::from(op.has("parity"))];
        match kind {
            0 => list[2] = self.source(self.operand(i, place + 1)?, 32)?,
            2 | 3 => {
                if place == 1 && i.operands[0] != Operand::Sink {
                    list[1] = self.destination(i, 0, 64)?;
                }
                if let Some(count) = i.operands.get(place + 1) {
                    list[2] = self.source(count, 32)?;
                }
            }
            4 => {
                list[1] = self.predicate_out(&i.operands[0])?;
                let bits = if op.has("parity") { 32 } else { 64 };
                list[2] = self.source(self.operand(i, place + 1)?, bits)?;
            }
            _ => {}
        }
        self.emit_mbarrier(access, list);
        Ok(())
    }

    fn emit_mbarrier(&mut self, access: Access, list: Vec<Row>) {
        let list = self.list(list);
        self.code.accesses.push(access);
        let x = (self.code.accesses.len() - 1) as u32;
        self.emit(Op::MBarrier, [self.zero, self.zero, (list & 0xffff) as Row, (list >> 16) as Row], x);
    }

    /// `cp.async.mbarrier.arrive[.noinc].shared.b64 [addr]`: the copies of the thread land, then it arrives.
    fn mbarrier_copy(&mut self, i: &Instruction, op: &Opcode) -> Lowered {
        self.only(op, &["async", "mbarrier", "arrive", "noinc", "shared", "shared::cta"])?;
        let access = self.access(op, self.operand(i, 0)?)?;
        let kind = if op.has("noinc") { 5 } else { 6 };
        self.emit_mbarrier(access, vec![kind, NONE, NONE, 0]);
        Ok(())
    }
}
