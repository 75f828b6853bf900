//! Time of one token's queries, keys and values, and of its experts' down projections, in one launch each, beside the launches they stand
//! for, on one thread.
//!
//! `cargo bench -p moesaic-kernels --bench heads -- [ISA] [FORMAT]…`. `calls` is how many pieces the launch is cut into, as threads would
//! take it: each call prepares the token's rows again. The chain's time is that of its kernels alone, without what a device
//! spends between launches. Medians; compare figures of a quiet machine only.

use std::ffi::c_void;
use std::time::{Duration, Instant};

use ir::quant;
use ir::types::DType;
use kernels::abi::{
    BinaryParams, CombineDownParams, CombineParams, GroupedMatmulParams, KvAppendParams, MatmulParams, QkvParams,
    QuantizeRowsParams, RmsNormParams, RopeParams,
};
use kernels::catalog;
use kernels::cpu::SCRATCH_ALIGN;
use kernels::cpu::isa::Isa;

/// Columns, query heads, KV heads, dimension of a head.
const HEADS: [(usize, usize, usize, usize); 2] = [(576, 9, 3, 64), (2048, 32, 8, 64)];

/// Columns and rows of an expert's down projection, selected experts.
const EXPERTS: [(usize, usize, usize); 2] = [(512, 1024, 8), (1408, 2048, 6)];

const FORMATS: [DType; 3] = [DType::Q4_0, DType::Q8_0, DType::Q4_K];

/// Calls of a launch.
const CALLS: [usize; 3] = [1, 4, 16];

const EPS: f32 = 1e-5;

const BUDGET: Duration = Duration::from_millis(150);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let isa = arguments.iter().find_map(|name| Isa::from_name(name)).unwrap_or(Isa::best());
    let named: Vec<DType> = arguments.iter().filter_map(|name| DType::from_name(name)).collect();
    let mut machine = Machine { isa, scratch: vec![0; 1 << 21] };
    println!(
        "{isa}: microseconds of one token\n{:6} {:38} {:>8} {:>8} {:>8} {:>8}",
        "", "", "chain", "1 call", "4", "16"
    );
    for weights in FORMATS.into_iter().filter(|format| named.is_empty() || named.contains(format)) {
        for (cols, heads, kv_heads, dim) in HEADS {
            let cols = whole_blocks(weights, cols);
            let rows = (heads + 2 * kv_heads) * dim;
            let title = format!("qkv {heads}/{kv_heads} x {dim}, {cols} columns");
            let memory = Memory::new(weights, rows, cols, 1);
            report(weights, &title, qkv(&mut machine, memory, weights, (cols, heads, kv_heads, dim)));
        }
        for (cols, rows, slots) in EXPERTS {
            let cols = whole_blocks(weights, cols);
            let title = format!("combine_down {slots} of {rows} x {cols}");
            let memory = Memory::new(weights, rows, cols, slots);
            report(weights, &title, combine_down(&mut machine, memory, weights, (cols, rows, slots)));
        }
    }
}

fn whole_blocks(weights: DType, cols: usize) -> usize {
    cols.next_multiple_of(quant::format(weights).map_or(1, |format| format.block_len()))
}

fn report(weights: DType, title: &str, (chain, fused): (f64, [f64; 3])) {
    let fused = fused.map(|seconds| format!("{:>8.1}", 1e6 * seconds));
    println!("{:6} {title:38} {:>8.1} {}", weights.name(), 1e6 * chain, fused.join(" "));
}

/// Rows, packed matrices and results.
struct Memory {
    x: Vec<f32>,
    normed: Vec<f32>,
    rounded: Vec<u8>,
    w: Vec<u8>,
    ones: Vec<f32>,
    out: Vec<f32>,
    more: Vec<f32>,
    kv: Vec<f32>,
}

impl Memory {
    /// For `stack` matrices, and as many rows of activations.
    fn new(weights: DType, rows: usize, cols: usize, stack: usize) -> Memory {
        let x: Vec<f32> = (0..cols).map(|i| (i as f32 * 0.731).sin()).collect();
        let format = quant::format(weights).expect("a format of weights");
        let mut row = vec![0; format.row_bytes(cols).expect("whole blocks")];
        format.quantize_row(&x, &mut row).expect("finite numbers");
        let mut panel = vec![0; format.panel_bytes(cols)];
        format.pack_panel(&[&row[..]; quant::PANEL_ROWS], cols, &mut panel).expect("whole rows");
        let w = panel.repeat(stack * rows.div_ceil(quant::PANEL_ROWS));
        let rounded = stack * quant::row_bytes(DType::Q8X32, cols as u64).unwrap_or(0) as usize;
        Memory {
            x: x.repeat(stack),
            normed: vec![0.0; stack * cols],
            rounded: vec![0; rounded],
            w,
            ones: vec![1.0; rows.max(cols)],
            out: vec![0.0; rows],
            more: vec![0.0; stack * rows],
            kv: vec![0.0; 2 * 16 * rows],
        }
    }
}

/// Seconds of norm, rounding, three products, two rotary embeddings and the append, and of the one launch.
fn qkv(
    machine: &mut Machine,
    mut m: Memory,
    weights: DType,
    (cols, heads, kv_heads, dim): (usize, usize, usize, usize),
) -> (f64, [f64; 3]) {
    let (x, norm_weight, inv_freq) = (m.x.as_ptr(), m.ones.as_ptr(), m.ones.as_ptr());
    let (index, zeros) = ([7i32], [0i32]);
    let panel = quant::format(weights).map_or(0, |f| f.panel_bytes(cols));
    let place = |head: usize| (head * dim, m.w.as_ptr().wrapping_add(head * dim / quant::PANEL_ROWS * panel));
    let parts = [(place(0), heads), (place(heads), kv_heads), (place(heads + kv_heads), kv_heads)];
    let (columns, head_dim, pairs) = (cols as u32, dim as u32, dim as u32 / 2);
    let params = QkvParams {
        x: x.cast(),
        wq: parts[0].0.1.cast(),
        wk: parts[1].0.1.cast(),
        wv: parts[2].0.1.cast(),
        norm_weight,
        positions: index.as_ptr(),
        sequences: zeros.as_ptr(),
        page_table: zeros.as_ptr(),
        inv_freq,
        out: m.out.as_mut_ptr(),
        kv: m.kv.as_mut_ptr().cast(),
        tokens: 1,
        cols: columns,
        heads: heads as u32,
        kv_heads: kv_heads as u32,
        head_dim,
        pairs,
        tables: 1,
        page_table_stride: 1,
        norm: 1,
        norm_eps: EPS,
        scale: 1.0,
        ..QkvParams::default()
    };
    let variant = format!("{weights}.f32.block.f16");
    let fused = CALLS.map(|calls| median(|| machine.launch("qkv", &variant, &params, calls)));
    let norm = RmsNormParams {
        x,
        weight: norm_weight,
        out: m.normed.as_mut_ptr(),
        rows: 1,
        cols: columns,
        eps: EPS,
        reserved: 0,
    };
    let round = QuantizeRowsParams { x: m.normed.as_ptr(), out: m.rounded.as_mut_ptr().cast(), rows: 1, cols: columns };
    let products = parts.map(|((first, w), heads)| MatmulParams {
        x: m.rounded.as_ptr().cast(),
        w: w.cast(),
        out: m.out.as_mut_ptr().wrapping_add(first),
        tokens: 1,
        rows: (heads * dim) as u32,
        cols: columns,
        ..MatmulParams::default()
    });
    let turns = [0, 1].map(|i| RopeParams {
        x: products[i].out,
        out: products[i].out,
        positions: index.as_ptr(),
        inv_freq,
        tokens: 1,
        heads: parts[i].1 as u32,
        head_dim,
        pairs,
        tables: 1,
        scale: 1.0,
        ..RopeParams::default()
    });
    let append = KvAppendParams {
        k: products[1].out,
        v: products[2].out,
        positions: index.as_ptr(),
        sequences: zeros.as_ptr(),
        page_table: zeros.as_ptr(),
        kv: m.kv.as_mut_ptr().cast(),
        tokens: 1,
        kv_heads: kv_heads as u32,
        head_dim,
        page_table_stride: 1,
    };
    let variant = format!("{weights}.q8x32");
    let chain = median(|| {
        machine.launch("rms_norm", "", &norm, 1);
        machine.launch("quantize_rows", "block", &round, 1);
        products.iter().for_each(|product| machine.launch("matmul", &variant, product, 1));
        turns.iter().for_each(|turn| machine.launch("rope", "", turn, 1));
        machine.launch("kv_append", "f16", &append, 1);
    });
    (chain, fused)
}

/// Seconds of rounding, grouped product, weighted sum and residual, and of the one launch.
fn combine_down(
    machine: &mut Machine,
    mut m: Memory,
    weights: DType,
    (cols, rows, slots): (usize, usize, usize),
) -> (f64, [f64; 3]) {
    let experts: Vec<i32> = (0..slots as i32).collect();
    let (slots_, rows_, cols_) = (slots as u32, rows as u32, cols as u32);
    let params = CombineDownParams {
        h: m.x.as_ptr().cast(),
        w: m.w.as_ptr().cast(),
        experts: experts.as_ptr(),
        weights: m.ones.as_ptr(),
        residual: m.out.as_ptr(),
        out: m.out.as_mut_ptr(),
        tokens: 1,
        slots: slots_,
        matrices: slots_,
        rows: rows_,
        cols: cols_,
        factor: 1.0,
        ..CombineDownParams::default()
    };
    let variant = format!("{weights}.f32.block");
    let fused = CALLS.map(|calls| median(|| machine.launch("combine_down", &variant, &params, calls)));
    let round = QuantizeRowsParams { x: m.x.as_ptr(), out: m.rounded.as_mut_ptr().cast(), rows: slots_, cols: cols_ };
    let product = GroupedMatmulParams {
        x: m.rounded.as_ptr().cast(),
        w: m.w.as_ptr().cast(),
        experts: experts.as_ptr(),
        out: m.more.as_mut_ptr(),
        tokens: 1,
        slots: slots_,
        matrices: slots_,
        rows: rows_,
        cols: cols_,
        ..GroupedMatmulParams::default()
    };
    let mut sum = vec![0f32; rows];
    let combine = CombineParams {
        y: m.more.as_ptr(),
        weights: m.ones.as_ptr(),
        out: sum.as_mut_ptr(),
        tokens: 1,
        slots: slots_,
        cols: rows_,
        reserved: 0,
    };
    let out = m.out.as_mut_ptr();
    let add = BinaryParams { a: out, b: sum.as_ptr(), out, count: rows as u64, limit: 0.0, reserved: 0 };
    let variant = format!("{weights}.q8x32");
    let chain = median(|| {
        machine.launch("quantize_rows", "block", &round, 1);
        machine.launch("grouped_matmul", &variant, &product, 1);
        machine.launch("combine", "", &combine, 1);
        machine.launch("binary", "add", &add, 1);
    });
    (chain, fused)
}

/// What launches are executed with.
struct Machine {
    isa: Isa,
    scratch: Vec<u8>,
}

impl Machine {
    fn launch<P>(&mut self, kernel: &str, variant: &str, params: &P, calls: usize) {
        let start = self.scratch.as_ptr().align_offset(SCRATCH_ALIGN);
        let info = catalog::lookup(kernel).expect("a kernel of the catalog");
        let function = info.select(variant, self.isa).expect("a variant on this machine");
        let params: *const c_void = (&raw const *params).cast();
        // SAFETY: the buffers have the sizes the parameters say, and the scratch memory that of the launch.
        unsafe {
            let scratch = &mut self.scratch[start..];
            assert!(info.scratch_bytes(variant, params) <= scratch.len());
            let blocks = info.blocks(variant, params);
            for call in 0..calls {
                function(params, blocks * call / calls..blocks * (call + 1) / calls, scratch);
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
