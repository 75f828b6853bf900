//! The gates, and the exceptions with their reasons.
//!
//! A product's figures are those of the loop its tensor cores work in. A k16 tile of 16 rows is `bits` bytes of codes a lane, so instructions
//! per byte of weights follow from the loop's length and its number of matrix instructions.

use std::fmt;

use compiler::target::Arch;
use ir::quant;
use ir::types::DType;
use kernels::cuda::product::{Form, Variant};

use super::dynamic::LaunchRow;
use super::emitted::{KernelRow, SpillRow};

/// A gate that is missed on purpose.
pub struct Exception {
    /// The gates.
    pub gates: &'static [Gate],
    /// Which products.
    pub products: &'static str,
    /// Whether it covers a product.
    fits: fn(Variant, Path) -> bool,
    /// Why.
    pub reason: &'static str,
}

/// What is not met, and why that is accepted.
pub static EXCEPTIONS: &[Exception] = &[
    Exception {
        gates: &[Gate::InstructionsPerByte, Gate::Registers],
        products: "f32 activations",
        fits: |variant, _| variant.form != Form::Half,
        reason: "each weight is multiplied by two or three parts of x, so that f32 activations lose nothing: the mode for parity, not for speed",
    },
    Exception {
        gates: &[Gate::InstructionsPerByte, Gate::MatrixShare],
        products: "scales every 16, 32 or 64 columns (q4_0, q5_0, q6_k, q8_0, q4g64, q4z32, q4z64, mxfp4), f16 activations",
        fits: |variant, _| {
            use DType::*;
            matches!(variant.weights, Q4_0 | Q5_0 | Q6_K | Q8_0 | Q4G64 | Q4Z32 | Q4Z64 | MXFP4)
        },
        reason: "scales are applied in f32 after each group, which costs four instructions a group and eight tokens; q4g128 is the format for speed",
    },
    Exception {
        gates: &[Gate::InstructionsPerByte, Gate::MatrixShare],
        products: "formats with a minimum (q4_1, q5_1, q4_k, q5_k), f16 activations",
        fits: |variant, _| variant.has_minimum(),
        reason: "beside the scales of short groups the sum of x is taken on the tensor cores, a second matrix instruction for each of the first",
    },
    Exception {
        gates: &[Gate::InstructionsPerByte],
        products: "q4z128, a few tokens, f16 activations",
        fits: |variant, path| path == Path::Few && variant.weights == DType::Q4Z128,
        reason: "each group has a zero of its own, which is put into place for both rows of a lane",
    },
    Exception {
        gates: &[Gate::WideLoads],
        products: "integers of 5 and 6 bits and ternary ones",
        fits: |variant, path| path == Path::Few && matches!(code_bits(variant.weights) as u32, 2 | 5 | 6),
        reason: "a lane's share of a chunk is no multiple of 128 bits: the further bits of 5 and 6, and all of 2, come in loads of 32 or 64",
    },
    Exception {
        gates: &[Gate::InstructionsPerByte],
        products: "t2",
        fits: |variant, _| variant.weights == DType::T2,
        reason: "a byte is four weights: per weight it takes half as many instructions as 4-bit formats",
    },
    Exception {
        gates: &[Gate::MatrixShare],
        products: "f8_e4m3",
        fits: |variant, path| path == Path::Many && variant.weights == DType::F8_E4M3,
        reason: "putting sign, exponent and mantissa in their places takes two shifts more a register than integers do",
    },
    Exception {
        gates: &[Gate::Registers],
        products: "16-bit weights",
        fits: |variant, path| path == Path::Few && matches!(variant.weights, DType::F16 | DType::BF16),
        reason: "32 registers of weights are under way a lane; 16 warps fit an SM all the same",
    },
];

/// CUDA launches of a layer for one token.
pub const DECODE_LAUNCHES: usize = 5;

/// CUDA launches of a layer for a prompt.
pub const PROMPT_LAUNCHES: usize = 9;

/// A preset whose layers take more.
pub struct LayerException {
    /// The preset.
    pub preset: &'static str,
    /// CUDA launches of a layer for one token, and for a prompt.
    pub launches: [usize; 2],
    /// Why.
    pub reason: &'static str,
}

/// An entry that spills on purpose.
pub struct SpillException {
    /// Kernel, variant and constants.
    pub kernel: &'static str,
    /// The function.
    pub entry: &'static str,
    /// What it is compiled for.
    pub arch: Arch,
    /// Bytes it may spill, stores and loads together, and have of stack.
    pub bytes: u32,
    /// Why.
    pub reason: &'static str,
}

/// All of them.
pub static SPILL_EXCEPTIONS: &[SpillException] = &[
    SpillException {
        kernel: "combine_down.q4g128.f32.half",
        entry: "combine_down_few",
        arch: Arch::Sm120,
        bytes: 12,
        reason: FEW_SPILLS,
    },
    SpillException {
        kernel: "qkv.q6_k.f32.f16",
        entry: "qkv_many",
        arch: Arch::Sm120,
        bytes: 28,
        reason: PARITY_SPILLS,
    },
    SpillException {
        kernel: "qkv.q6_k.f32.int8",
        entry: "qkv_many",
        arch: Arch::Sm120,
        bytes: 28,
        reason: PARITY_SPILLS,
    },
];

const FEW_SPILLS: &str =
    "one word, without which two blocks instead of three would fit an SM: a third of the loads under way";

const PARITY_SPILLS: &str =
    "all 255 registers are in use, for scales every 16 columns and two parts of x: the mode for parity, not for speed";

/// Presets whose layers take more, exactly so many.
pub static LAYER_EXCEPTIONS: &[LayerException] = &[LayerException {
    preset: "gemma-2-2b",
    launches: [7, 11],
    reason: "four norms a layer: the two that follow a block need all of its result, and are launches of their own with the residual stream",
}];

/// The launches of a layer that a preset may take: for one token, for a prompt.
pub fn layer_limits(preset: &str) -> [usize; 2] {
    let exception = LAYER_EXCEPTIONS.iter().find(|e| e.preset == preset);
    exception.map_or([DECODE_LAUNCHES, PROMPT_LAUNCHES], |e| e.launches)
}

/// What is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    Spills,
    Stack,
    Registers,
    Warps,
    WideLoads,
    InstructionsPerByte,
    MatrixShare,
    StageBarriers,
    Sectors,
    BankConflicts,
    BytesMoved,
    Barriers,
}

impl Gate {
    /// Its name in the table.
    pub fn name(self) -> &'static str {
        match self {
            Gate::Spills => "spilled bytes",
            Gate::Stack => "stack bytes",
            Gate::Registers => "registers",
            Gate::Warps => "warps an SM",
            Gate::WideLoads => "128-bit weight loads, %",
            Gate::InstructionsPerByte => "instructions a weight byte",
            Gate::MatrixShare => "HMMA share, %",
            Gate::StageBarriers => "waits at a barrier a stage",
            Gate::Sectors => "sectors a 128-bit load",
            Gate::BankConflicts => "bank conflicts",
            Gate::BytesMoved => "bytes moved / minimum",
            Gate::Barriers => "barriers a block",
        }
    }
}

/// A gate missed.
pub struct Violation {
    /// Kernel and entry, and what it was judged on.
    pub kernel: String,
    /// The gate.
    pub gate: Gate,
    /// What was found.
    pub value: f64,
    /// What is allowed.
    pub limit: f64,
    /// The product it is, if it is one.
    product: Option<(Variant, Path)>,
}

impl Violation {
    /// Its exception.
    pub fn exception(&self) -> Option<&'static Exception> {
        let (variant, path) = self.product?;
        EXCEPTIONS.iter().find(|e| e.gates.contains(&self.gate) && (e.fits)(variant, path))
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} {:.2}, allowed {}", self.kernel, self.gate.name(), self.value, self.limit)
    }
}

/// The paths of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// A few tokens.
    Few,
    /// Many tokens.
    Many,
}

/// What a row's product is; `None` for kernels that are none.
pub fn product(row: &KernelRow) -> Option<(Variant, Path)> {
    let path = match row.entry.rsplit('_').next()? {
        "few" => Path::Few,
        "many" => Path::Many,
        _ => return None,
    };
    let words: Vec<&str> = row.name.split('.').skip(1).collect();
    let variant = (1..=words.len()).rev().find_map(|n| Variant::parse(&words[..n].join(".")))?;
    Some((variant, path))
}

/// Bits of a weight's code.
pub fn code_bits(weights: DType) -> f64 {
    let chunk = quant::fragments::chunk_bytes(weights).expect("a weight format") as f64;
    chunk * 8.0 / 1024.0
}

/// Matrix instructions of a k16 tile for eight tokens.
fn instructions_of_tile(variant: Variant) -> f64 {
    let x = variant.parts() as usize;
    let weights = if variant.weights == DType::F32 { 3 } else { 1 };
    let pairs = (0..weights).flat_map(|i| (0..x).map(move |j| i + j)).filter(|order| *order <= 2).count();
    (pairs + if variant.has_minimum() { x } else { 0 }) as f64
}

/// k16 tiles of 16 rows that the tensor loop multiplies.
fn tiles_of_loop(variant: Variant, path: Path, hmma: usize) -> f64 {
    let tokens = if path == Path::Few { 1.0 } else { f64::from(variant.many_tokens()) / 8.0 };
    let tiles = hmma as f64 / (instructions_of_tile(variant) * tokens);
    // The assembler may take the sum of x, which is the same for both row tiles of a warp, once.
    let unit = quant::fragments::scale_unit_columns(variant.weights).map_or(8.0, |columns| columns as f64 / 8.0);
    match variant.has_minimum() && path == Path::Many && tiles % unit != 0.0 {
        true => tiles * 4.0 / 3.0,
        false => tiles,
    }
}

/// Instructions of the tensor loop for a byte of weights.
pub fn instructions_per_byte(row: &KernelRow) -> Option<f64> {
    let ((variant, path), tensor_loop) = (product(row)?, row.tensor_loop?);
    let tiles = tiles_of_loop(variant, path, tensor_loop.hmma);
    Some(tensor_loop.instructions as f64 / (tiles * code_bits(variant.weights)))
}

/// Waits at a barrier for each stage of the tensor loop: 64 columns of the warp's two row tiles.
fn stage_barriers(row: &KernelRow) -> Option<f64> {
    let ((variant, path), tensor_loop) = (product(row)?, row.tensor_loop?);
    Some(tensor_loop.barriers as f64 * 8.0 / tiles_of_loop(variant, path, tensor_loop.hmma))
}

/// Share of matrix instructions of the tensor loop, in percent.
pub fn matrix_share(row: &KernelRow) -> Option<f64> {
    row.tensor_loop.map(|l| 100.0 * l.hmma as f64 / l.instructions as f64)
}

/// Warps that fit a multiprocessor at once: registers, shared memory and threads allow.
pub fn warps(row: &KernelRow) -> u32 {
    let shared_of_sm = if row.arch.name() == "sm_80" { 164 << 10 } else { 228 << 10 };
    let warps = row.launch.threads.div_ceil(32);
    let registers = 65536 / (row.figures.registers.max(1).next_multiple_of(8) * 32 * warps);
    // The system takes 1 KiB of a block's shared memory.
    let shared = shared_of_sm / (row.launch.shared_bytes + row.figures.shared_bytes + 1024);
    registers.min(shared).min(64 / warps) * warps
}

/// The static gates a kernel misses.
pub fn of_kernel(row: &KernelRow) -> Vec<Violation> {
    let mut found = Vec::new();
    let (kernel, product) = (format!("{} {} {}", row.name, row.entry, row.arch.name()), product(row));
    let mut most = |gate, value: f64, limit: f64| {
        if value > limit {
            found.push(Violation { kernel: kernel.clone(), gate, value, limit, product });
        }
    };
    most(Gate::Spills, f64::from(row.figures.spill_bytes), 0.0);
    most(Gate::Stack, f64::from(row.figures.stack_bytes), 0.0);
    let Some((_, path)) = product else { return found };
    let (registers, instructions) = if path == Path::Few { (80.0, 4.5) } else { (255.0, 7.0) };
    most(Gate::Registers, f64::from(row.figures.registers), registers);
    most(Gate::InstructionsPerByte, instructions_per_byte(row).unwrap_or(f64::INFINITY), instructions);
    if path == Path::Many {
        most(Gate::StageBarriers, stage_barriers(row).unwrap_or(f64::INFINITY), 1.0);
    }
    let mut least = |gate, value: f64, limit: f64| {
        if value < limit {
            found.push(Violation { kernel: kernel.clone(), gate, value, limit, product });
        }
    };
    least(Gate::WideLoads, row.loads.percent().unwrap_or(0) as f64, 100.0);
    match path {
        Path::Few => least(Gate::Warps, f64::from(warps(row)), 16.0),
        Path::Many => least(Gate::MatrixShare, matrix_share(row).unwrap_or(0.0), 28.0),
    }
    found
}

/// Where an entry spills or has a stack: what the assembler could not keep in registers.
pub fn of_spills(row: &SpillRow) -> Vec<Violation> {
    let figures = Arch::ALL.iter().zip(&row.figures);
    let values = figures.flat_map(|(arch, figures)| {
        let is_of = |e: &&SpillException| e.kernel == row.name && e.entry == row.entry && e.arch == *arch;
        let most = SPILL_EXCEPTIONS.iter().find(is_of).map_or(0, |e| e.bytes);
        [(Gate::Spills, figures.spill_bytes), (Gate::Stack, figures.stack_bytes)]
            .map(|(gate, value)| (arch, gate, value, most))
    });
    let missed = values.filter(|(_, _, value, most)| value > most).map(|(arch, gate, value, most)| Violation {
        kernel: format!("{} {} {}", row.name, row.entry, arch.name()),
        gate,
        value: f64::from(value),
        limit: f64::from(most),
        product: None,
    });
    missed.collect()
}

/// The dynamic gates a launch misses.
pub fn of_launch(row: &LaunchRow) -> Vec<Violation> {
    let (moved, barriers) = if row.many { (1.10, f64::INFINITY) } else { (1.03, 2.0) };
    let limits = [
        (Gate::Sectors, row.sectors, 16.0),
        (Gate::BankConflicts, row.conflicts as f64, 0.0),
        (Gate::BytesMoved, row.moved, moved),
        (Gate::Barriers, row.barriers, barriers),
    ];
    let missed = limits.into_iter().filter(|(_, value, limit)| value > limit);
    missed
        .map(|(gate, value, limit)| Violation { kernel: row.name.clone(), gate, value, limit, product: None })
        .collect()
}
