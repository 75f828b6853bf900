//! Warp instructions a second on the int4 GEMV and the f16 GEMM as NVRTC emitted them, on one thread: without checks, with all checks,
//! with checks and counters. `cargo bench -p moesaic-simulator`.

use std::time::Instant;

use simulator::{Access, Launch, Memory, Module, Options, run};

const GEMV: &str = include_str!("../tests/ptx/gemv.sm_80.ptx");
const GEMM: &str = include_str!("../tests/ptx/gemm.sm_80.ptx");
const REPEATS: usize = 60;

fn halves(count: usize) -> Vec<u8> {
    (0..count).flat_map(|i| (0x3000u16 + (i % 97) as u16).to_le_bytes()).collect()
}

fn gemv(memory: &mut Memory, rows: u32, columns: u32) -> Launch {
    let (r, c) = (rows as usize, columns as usize);
    let w = memory.allocate_with("weights", (0..r * c / 2).map(|i| (i * 37) as u8).collect(), Access::ReadOnly);
    let s = memory.allocate_with("scales", halves(r * c / 32), Access::ReadOnly);
    let x = memory.allocate_with(
        "x",
        (0..c).flat_map(|i| (i as f32 / c as f32).to_le_bytes()).collect(),
        Access::ReadWrite,
    );
    let y = memory.allocate("y", r * 4, Access::ReadWrite);
    let mut params: Vec<u8> = [w, s, x, y].iter().flat_map(|p| p.0.to_le_bytes()).collect();
    params.extend(rows.to_le_bytes());
    params.extend(columns.to_le_bytes());
    Launch { dynamic_shared: columns * 4, ..Launch::new([rows / 4, 1, 1], [128, 1, 1], params) }
}

fn gemm(memory: &mut Memory, m: u32, n: u32, k: u32) -> Launch {
    let a = memory.allocate_with("a", halves((m * k) as usize), Access::ReadOnly);
    let b = memory.allocate_with("b", halves((n * k) as usize), Access::ReadOnly);
    let c = memory.allocate("c", (m * n * 4) as usize, Access::ReadWrite);
    let mut params: Vec<u8> = [a, b, c].iter().flat_map(|p| p.0.to_le_bytes()).collect();
    [m, n, k, 0].iter().for_each(|v| params.extend(v.to_le_bytes()));
    Launch::new([n / 32, m / 32, 1], [64, 1, 1], params)
}

/// What is switched on.
const MODES: [(&str, bool, bool); 3] =
    [("plain", false, false), ("checks", true, false), ("checks and counters", true, true)];

/// Seconds and warp instructions of one run.
fn timed(module: &Module, kernel: &str, launch: &Launch, memory: &mut Memory, options: &Options) -> (f64, u64) {
    let start = Instant::now();
    match run(module, kernel, launch, memory, options) {
        Ok(report) => (start.elapsed().as_secs_f64(), report.warp_instructions),
        Err(error) => panic!("{kernel}: {error}"),
    }
}

/// The fastest run of each mode; they take turns, so that whatever else the machine does slows all of them.
fn measure(name: &str, text: &str, kernel: &str, launch: &Launch, memory: &mut Memory) {
    let module = Module::parse(text, name).unwrap_or_else(|error| panic!("{error}"));
    let mut best = [(f64::MAX, 0); 3];
    for _ in 0..REPEATS {
        for (best, (_, checks, counters)) in best.iter_mut().zip(MODES) {
            let options = Options { checks, counters, threads: 1, ..Options::default() };
            let (seconds, instructions) = timed(&module, kernel, launch, memory, &options);
            *best = (best.0.min(seconds), instructions);
        }
    }
    let plain = best[0].0;
    for ((seconds, instructions), (what, ..)) in best.into_iter().zip(MODES) {
        let rate = instructions as f64 / seconds / 1e6;
        println!(
            "{name:6} {what:20} {rate:7.1} M warp instructions/s  {:5.2} × plain  ({instructions} in {:.1} ms)",
            seconds / plain,
            seconds * 1e3
        );
    }
}

fn main() {
    let mut memory = Memory::new();
    let launch = gemv(&mut memory, 128, 4096);
    measure("gemv", GEMV, "gemv_int4", &launch, &mut memory);
    let mut memory = Memory::new();
    let launch = gemm(&mut memory, 128, 128, 256);
    measure("gemm", GEMM, "gemm_f16", &launch, &mut memory);
}
