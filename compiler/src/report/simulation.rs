//! The page of a simulation: what the checks found, and the counters of each launch beside the figures they should keep to.

use maud::{Markup, html};
use runtime::cli::Simulation;
use runtime::device::sim::LaunchRecord;
use runtime::device::sim::gates::{Gate, gates, launches_gate};

use super::page::{bytes_text, count_text, frame};

/// Opcodes of the instruction mix that a line names.
const SHOWN_OPCODES: usize = 5;

/// The page's text: one file that needs nothing but a browser.
pub fn simulation_page(simulation: &Simulation) -> String {
    let title = format!("{} on {}", simulation.card.name, simulation.device);
    let lead = html! {
        "Executed on " b { (simulation.device) } ": a prompt of " (simulation.prompt_tokens) " tokens, then "
        (simulation.tokens.len()) " generated with " b { (simulation.activations) } " activations."
    };
    let content = html! {
        (findings(simulation))
        @if let Some(differences) = &simulation.differences { (comparison(simulation, differences)) }
        @for step in simulation.steps() { (step_section(simulation, step)) }
    };
    frame(&title, &simulation.card.name, &lead, &content)
}

fn findings(simulation: &Simulation) -> Markup {
    html! {
        section id="findings" {
            h2 { "Findings" }
            @if let Some(error) = &simulation.error { p { b { "The run ended early: " } (error) } }
            @if simulation.findings() == 0 {
                p { "None." }
            } @else {
                div class="scroll tall" { table {
                    thead { tr { th { "step" } th { "launch" } th { "label" } th { "check" } th { "source" } th { "where" } th { "what" } } }
                    tbody { @for launch in &simulation.launches { @for f in &launch.findings {
                        tr {
                            td { (launch.step) } td { (launch.launch) " " (f.kernel) } td { (launch.label) } td { (f.kind.title()) }
                            td { (f.source) } td { "block " (triple(f.block)) ", thread " (triple(f.thread)) }
                            td { (f.allocation) " " (f.message) }
                        }
                    } } }
                } }
            }
        }
    }
}

/// How far the logits of each generated token are from the cpu device's.
fn comparison(simulation: &Simulation, differences: &[f64]) -> Markup {
    html! {
        section id="comparison" {
            h2 { "Against the cpu device" }
            div class="scroll" { table {
                thead { tr { th { "token" } th class="n" { "relative RMS of its logits" } } }
                tbody { @for (token, difference) in simulation.tokens.iter().zip(differences) {
                    tr { td { (token) } td class="n" { (format!("{difference:.1e}")) } }
                } }
            } }
        }
    }
}

fn triple([x, y, z]: [u32; 3]) -> String {
    format!("({x},{y},{z})")
}

fn step_section(simulation: &Simulation, step: &[LaunchRecord]) -> Markup {
    let Some(first) = step.first() else { return html! {} };
    let bucket = simulation.buckets.get(first.bucket).map_or("?", String::as_str);
    let instructions: u64 = step.iter().map(|l| l.warp_instructions).sum();
    let launches = launches_gate(step.len(), simulation.card.layers, first.tokens);
    html! {
        section id={ "step-" (first.step) } {
            h2 { "Step " (first.step) ", " (first.tokens) @if first.tokens == 1 { " token" } @else { " tokens" } ", bucket " (bucket) }
            p { (step.len()) " launches, " (count_text(instructions)) " warp instructions." }
            div class="scroll" { table { tbody { tr { (gate_cells(&launches)) } } } }
            details open {
                summary { "Gates" }
                div class="scroll tall" { table {
                    thead { tr { th class="n" { "#" } th { "entry" } th { "label" } th { "gate" } th class="n" { "figure" } th class="n" { "limit" } th {} } }
                    tbody { @for launch in step { @for gate in gates(launch, &simulation.activations) {
                        tr { td class="n" { (launch.launch) } td { (launch.entry) } td { (launch.label) } (gate_cells(&gate)) }
                    } } }
                } }
            }
            details {
                summary { "Counters" }
                div class="scroll tall" { (counters(step)) }
            }
        }
    }
}

/// Name, figure, limit and a bar that is full at the limit.
fn gate_cells(gate: &Gate) -> Markup {
    let percent = (gate.used() * 100.0).min(100.0);
    let bound = if gate.at_least { "≥ " } else { "≤ " };
    html! {
        td { (gate.name) @if !gate.holds() { b { " ✗" } } }
        td class="n" { (number(gate.value)) }
        td class="n" { (bound) (number(gate.limit)) }
        td class="bar" { i class=[(!gate.holds()).then_some("over")] style={ "width:" (format!("{percent:.1}")) "%" } {} }
    }
}

fn number(value: f64) -> String {
    let digits = if value.fract() == 0.0 { 0 } else { 2 };
    format!("{value:.digits$}")
}

fn counters(step: &[LaunchRecord]) -> Markup {
    html! {
        table {
            thead { tr {
                th class="n" { "#" } th { "entry" } th { "label" } th class="n" { "blocks" } th class="n" { "instructions" } th class="n" { "lanes" }
                th class="n" { "sectors a request" } th class="n" { "asked" } th class="n" { "to L1" } th class="n" { "to L2" } th class="n" { "to memory" }
                th class="n" { "minimum" } th class="n" { "conflicts" } th class="n" { "barriers" } th class="n" { "load depth" }
                th class="n" { "instructions a weight byte" } th { "most frequent" }
            } }
            tbody { @for launch in step { (counter_row(launch)) } }
        }
    }
}

fn counter_row(launch: &LaunchRecord) -> Markup {
    let Some(c) = &launch.counters else { return html! {} };
    let blocks: u64 = launch.grid.iter().map(|n| u64::from(*n)).product();
    html! {
        tr {
            td class="n" { (launch.launch) } td { (launch.entry) } td { (launch.label) }
            td class="n" { (blocks) " × " (launch.threads) }
            td class="n" { (count_text(c.warp_instructions)) }
            td class="n" { (format!("{:.0} %", 100.0 * c.active_lane_share())) }
            td class="n" { (format!("{:.1}", c.sectors_per_request())) }
            td class="n" { (bytes_text(c.requested_bytes)) }
            td class="n" { (bytes_text(c.global_sectors * 32)) }
            td class="n" { (bytes_text(c.l2_bytes)) }
            td class="n" { (bytes_text(c.dram_bytes)) }
            td class="n" { (bytes_text(c.minimum_bytes)) }
            td class="n" { (c.bank_conflicts) }
            td class="n" { (format!("{:.1}", c.barriers_per_block())) }
            td class="n" { (c.dependent_load_depth) }
            td class="n" { (format!("{:.2}", c.instructions_per_weight_byte())) }
            td { (mix(launch)) }
        }
    }
}

/// The most frequent instructions and their shares.
fn mix(launch: &LaunchRecord) -> String {
    let Some(c) = &launch.counters else { return String::new() };
    let mut opcodes: Vec<(&String, u64)> = c.mix.iter().map(|(name, n)| (name, *n)).collect();
    opcodes.sort_by_key(|(name, n)| (std::cmp::Reverse(*n), *name));
    let share = |n: u64| 100.0 * n as f64 / c.warp_instructions.max(1) as f64;
    let shown = opcodes.iter().take(SHOWN_OPCODES).map(|(name, n)| format!("{name} {:.0} %", share(*n)));
    shown.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use runtime::artifact::ModelCard;
    use runtime::device::sim::{Counters, Finding, Kind};

    use super::*;

    fn card() -> ModelCard {
        ModelCard {
            name: "tiny <model>".into(),
            family: "llama".into(),
            vocab_size: 256,
            layers: 2,
            hidden_size: 64,
            heads: 4,
            kv_heads: 2,
            head_dim: 16,
            max_context: 128,
            rope_switch: None,
            parameters: 1,
            active_parameters: 1,
            experts: 0,
            experts_per_token: 0,
            eos_ids: Vec::new(),
            source_format: "huggingface".into(),
        }
    }

    fn simulation(findings: Vec<Finding>) -> Simulation {
        let mix = [("ld.global.v4.u32".to_string(), 75), ("mma.sync".to_string(), 25)].into();
        let counters = Counters {
            warp_instructions: 100,
            lane_instructions: 3200,
            mix,
            weight_bytes: 1000,
            barriers: 6,
            blocks: 2,
            dram_bytes: 110,
            minimum_bytes: 100,
            ..Counters::default()
        };
        let launch = LaunchRecord {
            step: 0,
            tokens: 1,
            bucket: 0,
            launch: 3,
            kernel: "gate_up",
            variant: "q4g128.f32.half".into(),
            label: "layers.0.mlp".into(),
            entry: "gate_up_few",
            grid: [2, 1, 1],
            threads: 256,
            shared_bytes: 0,
            warp_instructions: 100,
            findings,
            counters: Some(counters),
        };
        Simulation {
            card: card(),
            activations: "f16".into(),
            buckets: vec!["decode".into()],
            device: "sim sm_80, all checks".into(),
            prompt_tokens: 1,
            tokens: vec![7],
            differences: Some(vec![1e-6]),
            launches: vec![launch],
            error: None,
        }
    }

    #[test]
    fn gates_that_do_not_hold_are_marked() {
        let page = simulation_page(&simulation(Vec::new()));
        // Three barriers of two, and 1.1 times the bytes; 3.2 instructions a byte hold.
        assert_eq!(page.matches('✗').count(), 2, "{page}");
        for text in ["barriers a block", "≤ 4.50", "ld.global.v4.u32 75 %", "tiny &lt;model&gt;", "None.", "1.0e-6"] {
            assert!(page.contains(text), "{text}");
        }
        assert!(!page.contains("<script") && !page.contains("http"));
    }

    #[test]
    fn findings_are_listed_with_their_place() {
        let finding = Finding {
            kind: Kind::SharedRace,
            kernel: "gate_up_few".into(),
            source: "product.cuh:33".into(),
            ptx_line: 9,
            instruction: "st.shared".into(),
            block: [1, 0, 0],
            thread: [32, 0, 0],
            address: 4,
            allocation: "shared memory + 4".into(),
            message: "no barrier & no fence".into(),
        };
        let page = simulation_page(&simulation(vec![finding]));
        for text in
            ["product.cuh:33", "block (1,0,0), thread (32,0,0)", "race in shared memory", "no barrier &amp; no fence"]
        {
            assert!(page.contains(text), "{text}");
        }
    }
}
