//! What launches cost by the target's roofline, and to which layer they belong.

use std::collections::BTreeMap;

use ir::program::Program;

use super::Subject;
use crate::cost::{LaunchCost, launch_cost, layer_of};

/// The cost of each launch on the target that the subject is compiled for.
pub fn costs(subject: &Subject, program: &Program) -> Vec<LaunchCost> {
    let spec = subject.options.target.spec();
    program.launches.iter().map(|launch| launch_cost(program, launch, &spec)).collect()
}

/// Launches of each kernel variant, with what they cost together, the most expensive first.
pub fn by_kernel(program: &Program, costs: &[LaunchCost]) -> Vec<(String, usize, LaunchCost)> {
    let mut kernels: BTreeMap<String, (usize, LaunchCost)> = BTreeMap::new();
    for (launch, cost) in program.launches.iter().zip(costs) {
        let name = format!("{} {}", launch.kernel, launch.variant).trim_end().to_string();
        let entry = kernels.entry(name).or_default();
        *entry = (entry.0 + 1, entry.1 + *cost);
    }
    let mut kernels: Vec<_> = kernels.into_iter().map(|(name, (count, cost))| (name, count, cost)).collect();
    kernels.sort_by(|a, b| b.2.seconds.total_cmp(&a.2.seconds));
    kernels
}

/// Launches of a decoder layer: the median over the layers, since the first ones are not always like the rest. 0 where no label
/// names a layer.
pub fn launches_per_layer(program: &Program) -> usize {
    let mut layers: BTreeMap<u64, usize> = BTreeMap::new();
    program.launches.iter().filter_map(|l| layer_of(&l.label)).for_each(|layer| *layers.entry(layer).or_default() += 1);
    let mut counts: Vec<usize> = layers.into_values().collect();
    counts.sort_unstable();
    counts.get(counts.len() / 2).copied().unwrap_or(0)
}
