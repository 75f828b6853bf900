//! Speed of a decoding step's grouped products: 2 of 32 experts of 2048 -> 640, on one thread.
//!
//! `cargo bench -p moesaic-kernels --bench grouped_matmul -- [ISA] [FORMAT]…`. The figures are bandwidths in bytes of weights;
//! beside them that of a plain matmul of as many bytes. Both read every matrix of a stack once before they read one again, and
//! the stack is larger than any cache: a shorter cycle would measure the cache.

use std::ffi::c_void;
use std::time::Instant;

use ir::quant;
use ir::quant::activations::{Granularity, quantize_row};
use ir::types::DType;
use kernels::abi::{GroupedMatmulParams, MatmulParams};
use kernels::cpu::isa::Isa;
use kernels::cpu::{CpuKernel, SCRATCH_ALIGN, grouped_matmul, matmul};

const EXPERTS: usize = 32;
const SLOTS: usize = 2;
const COLS: usize = 2048;
const ROWS: usize = 640;
/// Bytes of all layers of experts, at least: several times the greatest last cache.
const STACK_BYTES: usize = 1 << 30;
/// Launches timed; a prime, and the stride of the walk over the stack: no number of layers here is a multiple of it.
const REPETITIONS: usize = 2003;

const VARIANTS: [(DType, DType); 7] = [
    (DType::Q4_0, DType::Q8X32),
    (DType::Q4G128, DType::Q8X32),
    (DType::Q8_0, DType::Q8X32),
    (DType::MXFP4, DType::Q8X32),
    (DType::T2, DType::Q8X32),
    (DType::Q4_0, DType::F32),
    (DType::F16, DType::F32),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let isa = arguments.iter().find_map(|name| Isa::from_name(name)).unwrap_or(Isa::best());
    let formats: Vec<DType> = arguments.iter().filter_map(|name| DType::from_name(name)).collect();
    println!(
        "{isa}: medians of one thread\n{:24} {:>14} {:>14}",
        "weights x activations", "grouped GB/s", "matmul GB/s"
    );
    for (weights, activations) in VARIANTS {
        if !formats.is_empty() && !formats.contains(&weights) {
            continue;
        }
        let name = format!("{weights} x {activations}");
        match Stack::new(weights, activations, isa) {
            Some(mut stack) => println!("{name:24} {:>14.1} {:>14.1}", stack.grouped(), stack.plain()),
            None => println!("{name:24} not on this machine"),
        }
    }
}

/// Weights of all layers, a token's activations, and the kernels.
struct Stack {
    grouped: CpuKernel,
    plain: CpuKernel,
    variant: String,
    activations: DType,
    matrix_bytes: usize,
    layers: usize,
    w: Vec<u8>,
    x: Vec<u8>,
    out: Vec<f32>,
    scratch: Vec<u8>,
}

impl Stack {
    fn new(weights: DType, activations: DType, isa: Isa) -> Option<Stack> {
        let values: Vec<f32> = (0..COLS).map(|i| (i as f32 * 0.731).sin()).collect();
        let x = if activations == DType::F32 {
            values.iter().flat_map(|x| x.to_le_bytes()).collect()
        } else {
            let mut x = vec![0; quant::row_bytes(DType::Q8X32, COLS as u64)? as usize];
            quantize_row(&values, Granularity::Block, &mut x).ok()?;
            x
        };
        let matrix_bytes = quant::packed_bytes(weights, ROWS as u64, COLS as u64)? as usize;
        let layers = STACK_BYTES.div_ceil(EXPERTS * matrix_bytes);
        // Any bytes will do that are no subnormal floats, which are slow.
        let byte = |i: usize| if i.is_multiple_of(2) { (i % 251) as u8 } else { 0x3c };
        Some(Stack {
            grouped: grouped_matmul::select(&format!("{weights}.{activations}"), isa)?,
            variant: format!("{weights}.{activations}"),
            plain: matmul::select(weights, activations, isa)?,
            activations,
            matrix_bytes,
            layers,
            w: (0..layers * EXPERTS * matrix_bytes).map(byte).collect(),
            x,
            out: vec![0.0; SLOTS * ROWS],
            scratch: vec![0; (1 << 20) + SCRATCH_ALIGN],
        })
    }

    /// The launch's place in the stack, in pairs of matrices: each once before any comes again.
    fn pair(&self, launch: usize) -> usize {
        launch * REPETITIONS % (self.layers * EXPERTS / SLOTS)
    }

    /// GB/s of a token's two experts, others each time.
    fn grouped(&mut self) -> f64 {
        self.bandwidth(|stack, i| {
            let (layer, first) = (stack.pair(i) / (EXPERTS / SLOTS), stack.pair(i) % (EXPERTS / SLOTS));
            let experts = [first as i32, (first + EXPERTS / SLOTS) as i32];
            let params = GroupedMatmulParams {
                x: stack.x.as_ptr().cast(),
                w: stack.w[layer * EXPERTS * stack.matrix_bytes..].as_ptr().cast(),
                experts: experts.as_ptr(),
                bias: std::ptr::null(),
                out: stack.out.as_mut_ptr(),
                tokens: 1,
                slots: SLOTS as u32,
                matrices: EXPERTS as u32,
                rows: ROWS as u32,
                cols: COLS as u32,
                slots_share_x: 1,
            };
            let blocks = grouped_matmul::blocks(&stack.variant, &params);
            assert!(grouped_matmul::scratch_bytes(&stack.variant, &params) + SCRATCH_ALIGN <= stack.scratch.len());
            stack.seconds(stack.grouped, (&raw const params).cast(), blocks)
        })
    }

    /// GB/s of a matrix of twice the rows, another each time.
    fn plain(&mut self) -> f64 {
        self.bandwidth(|stack, i| {
            let params = MatmulParams {
                x: stack.x.as_ptr().cast(),
                w: stack.w[stack.pair(i) * SLOTS * stack.matrix_bytes..].as_ptr().cast(),
                bias: std::ptr::null(),
                out: stack.out.as_mut_ptr(),
                tokens: 1,
                rows: (SLOTS * ROWS) as u32,
                cols: COLS as u32,
                reserved: 0,
            };
            let blocks = matmul::blocks(stack.activations, &params);
            stack.seconds(stack.plain, (&raw const params).cast(), blocks)
        })
    }

    fn bandwidth(&mut self, mut launch: impl FnMut(&mut Stack, usize) -> f64) -> f64 {
        let mut times: Vec<f64> = (0..REPETITIONS).map(|i| launch(self, i)).collect();
        times.sort_by(f64::total_cmp);
        (SLOTS * self.matrix_bytes) as f64 / times[times.len() / 2] / 1e9
    }

    /// Time of a launch whose parameters are of `kernel`.
    fn seconds(&mut self, kernel: CpuKernel, params: *const c_void, blocks: usize) -> f64 {
        let start = self.scratch.as_ptr().align_offset(SCRATCH_ALIGN);
        let now = Instant::now();
        // SAFETY: the buffers have the sizes the parameters say; the kernel was selected for this machine.
        unsafe { kernel(params, 0..blocks, &mut self.scratch[start..]) };
        now.elapsed().as_secs_f64()
    }
}
