//! Time of a product that normalises and rounds its row itself, and of the three launches it stands for, one thread, one token.
//!
//! `cargo bench -p moesaic-kernels --bench project -- [ISA] [FORMAT]…`. `blocks` is how many calls the launch is cut into, as
//! threads would take it: each call prepares the row again. The chain's time is that of its kernels alone, without what a
//! device spends between launches. Medians; compare figures of a quiet machine only.

use std::ffi::c_void;
use std::time::{Duration, Instant};

use ir::quant;
use ir::types::DType;
use kernels::abi::{MatmulParams, ProjectParams, QuantizeRowsParams, RmsNormParams};
use kernels::catalog;
use kernels::cpu::SCRATCH_ALIGN;
use kernels::cpu::isa::Isa;

const COLS: [usize; 2] = [576, 2048];

const ROWS: [usize; 2] = [1536, 2048];

const FORMATS: [DType; 4] = [DType::Q4_0, DType::Q4_1, DType::Q8_0, DType::Q4_K];

/// Calls of a launch.
const CALLS: [usize; 3] = [1, 4, 16];

const BUDGET: Duration = Duration::from_millis(150);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let isa = arguments.iter().find_map(|name| Isa::from_name(name)).unwrap_or(Isa::best());
    let named: Vec<DType> = arguments.iter().filter_map(|name| DType::from_name(name)).collect();
    println!(
        "{isa}: microseconds of one token\n{:10} {:>12} {:>10} {:>10} {:>10} {:>10}",
        "weights", "rows x cols", "chain", "1 call", "4 calls", "16 calls"
    );
    for weights in FORMATS.into_iter().filter(|format| named.is_empty() || named.contains(format)) {
        for cols in COLS {
            for rows in ROWS {
                let cols = cols.next_multiple_of(quant::format(weights).map_or(1, |f| f.block_len()));
                let Some(mut bench) = Bench::new(weights, rows, cols, isa) else {
                    println!("{weights}: not on this machine");
                    continue;
                };
                let chain = bench.chain();
                let project = CALLS.map(|calls| format!("{:>10.1}", 1e6 * bench.project(calls)));
                let shape = format!("{rows} x {cols}");
                println!("{:10} {shape:>12} {:>10.1} {}", weights.name(), 1e6 * chain, project.join(" "));
            }
        }
    }
}

/// Operands of one product.
struct Bench {
    weights: DType,
    isa: Isa,
    rows: usize,
    cols: usize,
    x: Vec<f32>,
    norm: Vec<f32>,
    w: Vec<u8>,
    out: Vec<f32>,
    scratch: Vec<u8>,
}

impl Bench {
    fn new(weights: DType, rows: usize, cols: usize, isa: Isa) -> Option<Bench> {
        catalog::lookup("project")?.select(&format!("{weights}.f32.block"), isa)?;
        let x: Vec<f32> = (0..cols).map(|i| (i as f32 * 0.731).sin()).collect();
        let format = quant::format(weights)?;
        let mut row = vec![0; format.row_bytes(cols)?];
        format.quantize_row(&x, &mut row).ok()?;
        let mut panel = vec![0; format.panel_bytes(cols)];
        format.pack_panel(&[&row[..]; quant::PANEL_ROWS], cols, &mut panel).ok()?;
        let w = panel.repeat(rows.div_ceil(quant::PANEL_ROWS));
        let (norm, out, scratch) = (vec![0.9; cols], vec![0.0; rows], vec![0; 1 << 20]);
        Some(Bench { weights, isa, rows, cols, x, norm, w, out, scratch })
    }

    /// Seconds of norm, rounding and product, a launch each.
    fn chain(&mut self) -> f64 {
        let (mut normed, bytes) =
            (vec![0f32; self.cols], quant::row_bytes(DType::Q8X32, self.cols as u64).unwrap_or(0));
        let mut rounded = vec![0u8; bytes as usize];
        let (rows, cols) = (1, self.cols as u32);
        let norm = RmsNormParams {
            x: self.x.as_ptr(),
            weight: self.norm.as_ptr(),
            out: normed.as_mut_ptr(),
            rows,
            cols,
            eps: 1e-5,
            reserved: 0,
        };
        let round = QuantizeRowsParams { x: normed.as_ptr(), out: rounded.as_mut_ptr().cast(), rows, cols };
        let product = MatmulParams {
            x: rounded.as_ptr().cast(),
            w: self.w.as_ptr().cast(),
            bias: std::ptr::null(),
            out: self.out.as_mut_ptr(),
            tokens: 1,
            rows: self.rows as u32,
            cols,
            reserved: 0,
        };
        let variant = format!("{}.q8x32", self.weights);
        median(|| {
            self.launch("rms_norm", "", (&raw const norm).cast(), 1);
            self.launch("quantize_rows", "block", (&raw const round).cast(), 1);
            self.launch("matmul", &variant, (&raw const product).cast(), 1);
        })
    }

    /// Seconds of the one launch, cut into calls.
    fn project(&mut self, calls: usize) -> f64 {
        let params = ProjectParams {
            x: self.x.as_ptr().cast(),
            w: self.w.as_ptr().cast(),
            norm_weight: self.norm.as_ptr(),
            out: self.out.as_mut_ptr(),
            tokens: 1,
            rows: self.rows as u32,
            cols: self.cols as u32,
            norm: 1,
            norm_eps: 1e-5,
            factor: 1.0,
            ..ProjectParams::default()
        };
        let variant = format!("{}.f32.block", self.weights);
        median(|| self.launch("project", &variant, (&raw const params).cast(), calls))
    }

    fn launch(&mut self, kernel: &str, variant: &str, params: *const c_void, calls: usize) {
        let start = self.scratch.as_ptr().align_offset(SCRATCH_ALIGN);
        let Some(info) = catalog::lookup(kernel) else { return };
        let Some(function) = info.select(variant, self.isa) else { return };
        // SAFETY: the buffers have the sizes the parameters say, the scratch memory is longer than any of these kernels asks for.
        unsafe {
            assert!(info.scratch_bytes(variant, params) <= self.scratch.len() - start);
            let blocks = info.blocks(variant, params);
            for call in 0..calls {
                let range = blocks * call / calls..blocks * (call + 1) / calls;
                function(params, range, &mut self.scratch[start..]);
            }
        }
    }
}

/// Median time of a call.
fn median(mut call: impl FnMut()) -> f64 {
    let (mut times, begin) = (Vec::new(), Instant::now());
    while times.len() < 5 || begin.elapsed() < BUDGET {
        let now = Instant::now();
        call();
        times.push(now.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
