//! Speed of the matmul kernels on one thread: weight bandwidth at 1 and 8 tokens, multiply-adds a second at 512.
//!
//! `cargo bench -p moesaic-kernels --bench matmul -- [ISA] [FORMAT]…`. Each figure is the median of repetitions that together
//! take about a fifth of a second; compare figures of a quiet machine only.

use std::time::{Duration, Instant};

use ir::quant;
use ir::types::DType;
use kernels::abi::MatmulParams;
use kernels::cpu::SCRATCH_ALIGN;
use kernels::cpu::isa::Isa;
use kernels::cpu::matmul;

const SHAPES: [(usize, usize); 4] = [(576, 576), (1536, 576), (576, 1536), (49152, 576)];

const VARIANTS: [(DType, DType); 13] = [
    (DType::Q4_1, DType::Q8X32),
    (DType::Q8_0, DType::Q8X32),
    (DType::Q4_K, DType::Q8X32),
    (DType::Q6_K, DType::Q8X32),
    (DType::Q4G128, DType::Q8X32),
    (DType::Q4Z128, DType::Q8X32),
    (DType::MXFP4, DType::Q8X32),
    (DType::Q8C, DType::Q8X32),
    (DType::T2, DType::Q8X32),
    (DType::Q4_1, DType::F32),
    (DType::F8_E4M3, DType::F32),
    (DType::F16, DType::F32),
    (DType::F32, DType::F32),
];

const BUDGET: Duration = Duration::from_millis(200);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let isa = arguments.iter().find_map(|name| Isa::from_name(name)).unwrap_or(Isa::best());
    let formats: Vec<DType> = arguments.iter().filter_map(|name| DType::from_name(name)).collect();
    println!(
        "{isa}: medians of one thread\n{:24} {:>14} {:>10} {:>10} {:>14}",
        "weights x activations", "rows x cols", "T=1 GB/s", "T=8 GB/s", "T=512 GMAC/s"
    );
    for (weights, activations) in VARIANTS {
        for (rows, cols) in SHAPES {
            if !formats.is_empty() && !formats.contains(&weights) {
                continue;
            }
            // K formats have blocks of 256 columns.
            let cols = cols.next_multiple_of(quant::format(weights).map_or(1, |format| format.block_len()));
            let Some(mut launch) = Launch::new(weights, activations, rows, cols, isa) else {
                println!("{weights} x {activations}: not on this machine");
                continue;
            };
            let [one, eight] = [1, 8].map(|tokens| launch.w.len() as f64 / launch.seconds(tokens) / 1e9);
            let rate = (512 * rows * cols) as f64 / launch.seconds(512) / 1e9;
            println!(
                "{:24} {:>14} {one:>10.1} {eight:>10.1} {rate:>14.1}",
                format!("{weights} x {activations}"),
                format!("{rows} x {cols}")
            );
        }
    }
}

/// A matmul of up to 512 tokens and its memory.
struct Launch {
    kernel: kernels::cpu::CpuKernel,
    activations: DType,
    x: Vec<u8>,
    w: Vec<u8>,
    out: Vec<f32>,
    rows: usize,
    cols: usize,
    scratch: Vec<u8>,
}

impl Launch {
    fn new(weights: DType, activations: DType, rows: usize, cols: usize, isa: Isa) -> Option<Launch> {
        let kernel = matmul::select(weights, activations, isa)?;
        let values: Vec<f32> = (0..512 * cols).map(|i| (i as f32 * 0.731).sin()).collect();
        let x = match activations {
            DType::F32 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
            _ => {
                let mut x = vec![0; 512 * quant::row_bytes(DType::Q8X32, cols as u64)? as usize];
                let row_bytes = x.len() / 512;
                for (row, values) in x.chunks_exact_mut(row_bytes).zip(values.chunks_exact(cols)) {
                    quant::activations::quantize_row(values, quant::activations::Granularity::Block, row).ok()?;
                }
                x
            }
        };
        // One panel of rounded numbers as often as there are panels.
        let format = quant::format(weights)?;
        let mut row = vec![0; format.row_bytes(cols)?];
        format.quantize_row(&values[..cols], &mut row).ok()?;
        let mut panel = vec![0; format.panel_bytes(cols)];
        format.pack_panel(&[&row[..]; quant::PANEL_ROWS], cols, &mut panel).ok()?;
        let w = panel.repeat(rows.div_ceil(quant::PANEL_ROWS));
        let scratch = vec![0; matmul::scratch_bytes(activations, 512, cols) + SCRATCH_ALIGN];
        Some(Launch { kernel, activations, x, w, out: vec![0.0; 512 * rows], rows, cols, scratch })
    }

    /// Median time of a launch of `tokens` tokens.
    fn seconds(&mut self, tokens: usize) -> f64 {
        let params = MatmulParams {
            x: self.x.as_ptr().cast(),
            w: self.w.as_ptr().cast(),
            bias: std::ptr::null(),
            out: self.out.as_mut_ptr(),
            tokens: tokens as u32,
            rows: self.rows as u32,
            cols: self.cols as u32,
            reserved: 0,
        };
        let blocks = matmul::blocks(self.activations, &params);
        let start = self.scratch.as_ptr().align_offset(SCRATCH_ALIGN);
        let (mut times, begin) = (Vec::new(), Instant::now());
        while times.len() < 5 || begin.elapsed() < BUDGET {
            let now = Instant::now();
            // SAFETY: the buffers have the sizes the parameters say; the kernel was selected for this machine.
            unsafe { (self.kernel)((&raw const params).cast(), 0..blocks, &mut self.scratch[start..]) };
            times.push(now.elapsed().as_secs_f64());
        }
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    }
}
