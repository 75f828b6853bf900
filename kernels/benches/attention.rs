//! Speed of the attention kernel on one thread: prefill of 512 tokens and decode at contexts of 1024 and 8192.
//!
//! `cargo bench -p moesaic-kernels --bench attention -- [ISA]…`. Each figure is the median of repetitions that together take
//! about a third of a second; compare figures of a quiet machine only. Rates count multiply-adds of seen pairs and, at decode,
//! bytes of keys and values.

use std::time::{Duration, Instant};

use half::f16;
use ir::types::DType;
use kernels::abi::AttentionParams;
use kernels::cpu::attention;
use kernels::cpu::isa::Isa;
use kernels::cpu::{CpuKernel, SCRATCH_ALIGN};

/// Query heads, KV heads, dimension of a head.
const SHAPES: [(usize, usize, usize); 3] = [(9, 3, 64), (32, 8, 64), (16, 8, 128)];

const BUDGET: Duration = Duration::from_millis(300);

const PAGE: usize = 16;

fn main() {
    let names: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let mut sets: Vec<Isa> = names.iter().filter_map(|name| Isa::from_name(name)).collect();
    if sets.is_empty() {
        sets.push(Isa::best());
    }
    println!(
        "{:12} {:5} {:>12} {:>22} {:>22} {:>22}",
        "", "cache", "heads", "prefill 512", "decode 1024", "decode 8192"
    );
    for isa in sets {
        for variant in attention::VARIANTS {
            for shape in SHAPES {
                row(isa, variant, shape);
            }
        }
    }
}

fn row(isa: Isa, variant: &str, (heads, kv_heads, dim): (usize, usize, usize)) {
    let Some(kernel) = attention::select(variant, isa) else {
        println!("{isa:12} {variant:5} not on this machine");
        return;
    };
    let prefill = Launch::new(kernel, variant, (heads, kv_heads, dim), 0..512).seconds();
    let pairs = 512 * 513 / 2;
    let rate = (2 * pairs * heads * dim) as f64 / prefill / 1e9;
    print!("{:12} {variant:5} {:>12}", isa.name(), format!("{heads}/{kv_heads}x{dim}"));
    print!(" {:>8.2} ms {rate:>6.1} GM/s", prefill * 1e3);
    for context in [1024, 8192] {
        let seconds = Launch::new(kernel, variant, (heads, kv_heads, dim), context - 1..context).seconds();
        let bytes = context / PAGE * page_bytes(variant, kv_heads, dim);
        print!(" {:>8.1} us {:>6.1} GB/s", seconds * 1e6, bytes as f64 / seconds / 1e9);
    }
    println!();
}

/// Bytes of a page of keys and values.
fn page_bytes(variant: &str, kv_heads: usize, dim: usize) -> usize {
    let dtype = DType::from_name(variant);
    dtype.and_then(|dtype| ir::op::page_bytes(dtype, 2, kv_heads as u64, dim as u64)).unwrap_or(0) as usize
}

/// A launch over one sequence, its pages in shuffled order.
struct Launch {
    kernel: CpuKernel,
    q: Vec<f32>,
    kv: Vec<u8>,
    positions: Vec<i32>,
    sequences: Vec<i32>,
    table: Vec<i32>,
    out: Vec<f32>,
    shape: (usize, usize, usize),
}

impl Launch {
    fn new(
        kernel: CpuKernel,
        variant: &str,
        (heads, kv_heads, dim): (usize, usize, usize),
        positions: std::ops::Range<usize>,
    ) -> Launch {
        let (tokens, pages) = (positions.len(), positions.end.div_ceil(PAGE));
        let value = |i: usize| (i as f32 * 0.731).sin();
        let values = (0..2 * pages * kv_heads * dim * PAGE).map(value);
        let kv = match variant {
            // Integers, then scales.
            "int8" => vec![0x11; pages * page_bytes(variant, kv_heads, dim)],
            "f16" => values.flat_map(|x| f16::from_f32(x).to_le_bytes()).collect(),
            _ => values.flat_map(f32::to_le_bytes).collect(),
        };
        Launch {
            kernel,
            q: (0..tokens * heads * dim).map(value).collect(),
            kv,
            positions: positions.map(|p| p as i32).collect(),
            sequences: vec![0; tokens],
            // 7 has no divisor in common with a power of two.
            table: (0..pages).map(|i| (i * 7 % pages) as i32).collect(),
            out: vec![0.0; tokens * heads * dim],
            shape: (heads, kv_heads, dim),
        }
    }

    /// Median time.
    fn seconds(&mut self) -> f64 {
        let (heads, kv_heads, head_dim) = self.shape;
        let params = AttentionParams {
            q: self.q.as_ptr(),
            kv: self.kv.as_ptr().cast(),
            positions: self.positions.as_ptr(),
            sequences: self.sequences.as_ptr(),
            page_table: self.table.as_ptr(),
            sinks: std::ptr::null(),
            out: self.out.as_mut_ptr(),
            tokens: self.positions.len() as u32,
            heads: heads as u32,
            kv_heads: kv_heads as u32,
            head_dim: head_dim as u32,
            page_table_stride: self.table.len() as u32,
            window: 0,
            value_dim: 0,
            reserved: 0,
            scale: (head_dim as f32).sqrt().recip(),
            softcap: 0.0,
        };
        let blocks = attention::blocks(&params);
        let mut scratch = vec![0; attention::scratch_bytes(&params) + SCRATCH_ALIGN];
        let start = scratch.as_ptr().align_offset(SCRATCH_ALIGN);
        let (mut times, begin) = (Vec::new(), Instant::now());
        while times.len() < 5 || begin.elapsed() < BUDGET {
            let now = Instant::now();
            // SAFETY: the buffers have the sizes the parameters say; the kernel was selected for this machine.
            unsafe { (self.kernel)((&raw const params).cast(), 0..blocks, &mut scratch[start..]) };
            times.push(now.elapsed().as_secs_f64());
        }
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    }
}
