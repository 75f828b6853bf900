//! `moesaic inspect --cost`: what each launch of a bucket costs by the roofline of a target.

use compiler::cost::{LaunchCost, TargetSpec, launch_cost, layer_of};
use ir::program::{Launch, Program};
use serde_json::json;

/// A program's launches with their costs.
pub struct Costs<'a> {
    program: &'a Program,
    spec: &'a TargetSpec,
    launches: Vec<(&'a Launch, LaunchCost)>,
}

impl<'a> Costs<'a> {
    /// The costs of a program on a target.
    pub fn new(program: &'a Program, spec: &'a TargetSpec) -> Costs<'a> {
        let cost = |launch| (launch, launch_cost(program, launch, spec));
        Costs { program, spec, launches: program.launches.iter().map(cost).collect() }
    }

    fn step(&self) -> LaunchCost {
        self.launches.iter().map(|(_, cost)| *cost).sum()
    }

    /// The mean over decoder layers, and how many there are; layers differ where a model alternates kinds of attention.
    fn layer(&self) -> Option<(LaunchCost, u64)> {
        let of_layers = || self.launches.iter().filter_map(|(l, cost)| Some((layer_of(&l.label)?, *cost)));
        let layers = of_layers().map(|(layer, _)| layer).max()? + 1;
        let all: LaunchCost = of_layers().map(|(_, cost)| cost).sum();
        let mean = LaunchCost {
            bytes: all.bytes / layers,
            cached_bytes: all.cached_bytes / layers,
            operations: all.operations / layers,
            seconds: all.seconds / layers as f64,
        };
        Some((mean, layers))
    }

    /// Most tokens of a step.
    fn tokens(&self) -> u64 {
        self.program.symbols.iter().find(|s| s.name == "T").map_or(1, |s| s.max.max(1))
    }

    /// Prints a table.
    pub fn print(&self) {
        let (spec, step, tokens) = (self.spec, self.step(), self.tokens());
        println!(
            "{} on {}: {:.0} GB/s, {:.1} Top/s f32, {:.1} int8, {:.1} µs a dependent launch",
            self.program.name,
            spec.name,
            spec.bytes_per_s / 1e9,
            spec.f32_ops_per_s / 1e12,
            spec.int8_ops_per_s / 1e12,
            spec.launch_s * 1e6,
        );
        println!(
            "{:>5} {:>10} {:>10} {:>12} {:>11} {:>7}  {:<14} {:<16} label",
            "", "MB", "cached MB", "Mop", "µs", "share", "kernel", "variant"
        );
        for (i, (launch, cost)) in self.launches.iter().enumerate() {
            let share = format!("{:.1} %", 100.0 * share(*cost, step));
            println!(
                "{i:>5} {} {share:>7}  {:<14} {:<16} {}",
                columns(*cost),
                launch.kernel,
                launch.variant,
                launch.label
            );
        }
        if let Some((layer, layers)) = self.layer() {
            println!("layer {} {:>7}  mean of {layers}", columns(layer), "");
        }
        println!(" step {} {:>7}  {} launches, at most {tokens} tokens", columns(step), "100 %", self.launches.len());
        println!("token {:>47.3}", step.seconds * 1e6 / tokens as f64);
    }

    /// Everything as JSON; seconds, bytes and operations as they are.
    pub fn json(&self) -> serde_json::Value {
        let (step, tokens) = (self.step(), self.tokens());
        let launch = |(launch, cost): &(&Launch, LaunchCost)| {
            let mut entry = figures(*cost);
            entry["kernel"] = launch.kernel.as_str().into();
            entry["variant"] = launch.variant.as_str().into();
            entry["label"] = launch.label.as_str().into();
            entry["share"] = share(*cost, step).into();
            entry
        };
        json!({
            "bucket": self.program.name,
            "target": self.spec,
            "tokens": tokens,
            "launches": self.launches.iter().map(launch).collect::<Vec<_>>(),
            "layers": self.layer().map(|(_, layers)| layers),
            "layer": self.layer().map(|(mean, _)| figures(mean)),
            "step": figures(step),
            "seconds_per_token": step.seconds / tokens as f64,
        })
    }
}

fn share(part: LaunchCost, whole: LaunchCost) -> f64 {
    if whole.seconds > 0.0 { part.seconds / whole.seconds } else { 0.0 }
}

fn figures(cost: LaunchCost) -> serde_json::Value {
    let LaunchCost { bytes, cached_bytes, operations, seconds } = cost;
    json!({"bytes": bytes, "cached_bytes": cached_bytes, "operations": operations, "seconds": seconds})
}

fn columns(cost: LaunchCost) -> String {
    format!(
        "{:>10.3} {:>10.3} {:>12.2} {:>11.3}",
        cost.bytes as f64 / 1e6,
        cost.cached_bytes as f64 / 1e6,
        cost.operations as f64 / 1e6,
        cost.seconds * 1e6
    )
}
