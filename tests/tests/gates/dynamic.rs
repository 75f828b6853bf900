//! What launches do in memory: counted by the simulator on shapes of the reference model, 4-bit weights, f16 activations.

use ir::types::DType;
use simulator::Counters;

use super::harness::{Case, noise, random_weights};

/// One CUDA launch.
pub struct LaunchRow {
    /// Kernel, shape and entry.
    pub name: String,
    /// Whether it multiplies many tokens.
    pub many: bool,
    /// Lane instructions of PTX for a byte of weights, everything counted.
    pub instructions_per_byte: f64,
    /// Sectors a 128-bit load of a warp touches.
    pub sectors: f64,
    /// Wavefronts of shared memory beyond the least.
    pub conflicts: u64,
    /// Bytes from device memory over those needed.
    pub moved: f64,
    /// Barriers a block passes.
    pub barriers: f64,
}

const WEIGHTS: DType = DType::Q4G128;
const HIDDEN: usize = 2048;
const EXPERT: usize = 640;
const EXPERTS: usize = 4;

fn weights(case: Case, field: &str, shape: [usize; 3]) -> Case {
    case.weights(field, WEIGHTS, shape, &random_weights(11, WEIGHTS, shape))
}

/// The output projection with residual stream and squares.
fn project(tokens: usize) -> Case {
    let case = Case::new("project", "q4g128.f32.half").input("x", &noise(1, tokens * HIDDEN));
    weights(case, "w", [1, HIDDEN, HIDDEN])
        .input("residual", &noise(2, tokens * HIDDEN))
        .output::<f32>("out", tokens * HIDDEN)
        .output::<f32>("squares_out", tokens * HIDDEN / 16)
        .count("tokens", tokens)
        .count("rows", HIDDEN)
        .count("cols", HIDDEN)
        .number("factor", 1.0)
}

/// Experts of the tokens: two each, in turn.
fn experts(tokens: usize) -> Vec<i32> {
    (0..tokens).flat_map(|t| [t % EXPERTS, (t + 1 + t / EXPERTS) % EXPERTS]).map(|e| e as i32).collect()
}

/// The gated half of the experts.
fn gate_up(tokens: usize) -> Case {
    let case = Case::new("gate_up", "q4g128.f32.half").input("x", &noise(3, tokens * HIDDEN));
    let case = weights(case, "w_gate", [EXPERTS, EXPERT, HIDDEN]);
    weights(case, "w_up", [EXPERTS, EXPERT, HIDDEN])
        .input("experts", &experts(tokens))
        .input("norm_weight", &noise(4, HIDDEN))
        .input("squares", &vec![16.0f32; tokens * HIDDEN / 16])
        .output::<f32>("out", tokens * 2 * EXPERT)
        .count("tokens", tokens)
        .count("slots", 2)
        .count("matrices", EXPERTS)
        .count("rows", EXPERT)
        .count("cols", HIDDEN)
        .count("slots_share_x", 1)
        .count("norm", 3)
        .count("routing", 1)
        .number("eps", 1e-5)
}

/// The other half, weighed and added to the residual stream.
fn combine_down(tokens: usize) -> Case {
    let case = Case::new("combine_down", "q4g128.f32.half").input("h", &noise(5, tokens * 2 * EXPERT));
    weights(case, "w", [EXPERTS, HIDDEN, EXPERT])
        .input("experts", &experts(tokens))
        .input("weights", &vec![0.5f32; tokens * 2])
        .input("residual", &noise(6, tokens * HIDDEN))
        .output::<f32>("out", tokens * HIDDEN)
        .output::<f32>("squares", tokens * HIDDEN / 16)
        .count("tokens", tokens)
        .count("slots", 2)
        .count("matrices", EXPERTS)
        .count("rows", HIDDEN)
        .count("cols", EXPERT)
        .number("factor", 1.0)
}

/// The launches of a case.
fn launches(what: &str, case: &Case) -> Vec<LaunchRow> {
    let simulated = case.run_simulated("sm_80");
    let rows = simulated.launches.iter().map(|(launch, report)| {
        let counters: &Counters = report.counters.as_ref().expect("counters were asked for");
        LaunchRow {
            name: format!("{what}: {}", launch.entry),
            many: !launch.entry.ends_with("_few"),
            instructions_per_byte: counters.instructions_per_weight_byte(),
            sectors: counters.sectors_per_wide_load(),
            conflicts: counters.bank_conflicts,
            moved: counters.dram_ratio(),
            barriers: counters.barriers_per_block(),
        }
    });
    rows.collect()
}

/// Every launch that is judged.
pub fn rows() -> Vec<LaunchRow> {
    let cases = [
        ("project 2048 × 2048, 1 token", project(1)),
        ("project 2048 × 2048, 64 tokens", project(64)),
        ("gate_up 2 of 4 experts 640 × 2048, 1 token", gate_up(1)),
        ("gate_up 2 of 4 experts 640 × 2048, 64 tokens", gate_up(64)),
        ("combine_down 2 of 4 experts 2048 × 640, 1 token", combine_down(1)),
        ("combine_down 2 of 4 experts 2048 × 640, 64 tokens", combine_down(64)),
    ];
    cases.iter().flat_map(|(what, case)| launches(what, case)).collect()
}
