//! What a launch may cost at most, in figures that need no GPU: the bar beside each counter of a report.
//!
//! The figures are those of kernels that reach the bandwidth of a GPU's memory: a decoding product that executes more instructions a byte of
//! weights than the arithmetic units have time for, or moves more bytes than it must, is slower than its memory. They are of
//! products with 4-bit weights; wider formats need less a byte.

use super::LaunchRecord;

/// Most tokens of a step that counts as decoding.
const DECODE_TOKENS: usize = 8;

/// Sectors of a load of 128 bits a lane, each sector used whole.
const WIDE_SECTORS: f64 = 16.0;

/// One launch's figure and its bound.
#[derive(Clone, Debug, PartialEq)]
pub struct Gate {
    /// What is measured.
    pub name: &'static str,
    /// The launch's figure.
    pub value: f64,
    /// The figure it must keep to.
    pub limit: f64,
    /// Whether the limit is the least; otherwise it is the most.
    pub at_least: bool,
}

impl Gate {
    fn most(name: &'static str, value: f64, limit: f64) -> Gate {
        Gate { name, value, limit, at_least: false }
    }

    /// Whether the figure keeps to its limit.
    pub fn holds(&self) -> bool {
        if self.at_least { self.value >= self.limit } else { self.value <= self.limit }
    }

    /// How much of the limit is used, 1 where the figure is the limit; more where it does not hold.
    pub fn used(&self) -> f64 {
        let (a, b) = if self.at_least { (self.limit, self.value) } else { (self.value, self.limit) };
        match (a == 0.0, b == 0.0) {
            (true, _) => 0.0,
            (false, true) => f64::INFINITY,
            _ => a / b,
        }
    }
}

/// The gates that apply to a launch, from its counters; none without counters. `activations` as in the artifact's manifest. Entries of products say
/// in their names for how many tokens they are: `_few` is bound by memory, `_many` by the tensor cores.
pub fn gates(record: &LaunchRecord, activations: &str) -> Vec<Gate> {
    let Some(counters) = &record.counters else { return Vec::new() };
    let mut gates = vec![
        Gate::most("bytes of local memory", counters.local_bytes as f64, 0.0),
        Gate::most("bank conflicts", counters.bank_conflicts as f64, 0.0),
    ];
    if counters.wide_load_requests > 0 {
        gates.push(Gate::most("sectors of a 128-bit load", counters.sectors_per_wide_load(), WIDE_SECTORS));
    }
    let per_byte = |limit| Gate::most("instructions a weight byte", counters.instructions_per_weight_byte(), limit);
    let moved = |limit| Gate::most("bytes moved / minimum", counters.dram_ratio(), limit);
    if record.entry.ends_with("_few") {
        let instructions = if activations == "int8" { 2.2 } else { 4.5 };
        gates.extend([per_byte(instructions), moved(1.03)]);
        gates.push(Gate::most("barriers a block", counters.barriers_per_block(), 2.0));
    } else if record.entry.ends_with("_many") {
        let value = counters.share_of("mma");
        gates.extend([per_byte(7.0), moved(1.10)]);
        gates.push(Gate { name: "share of tensor-core instructions", value, limit: 0.28, at_least: true });
    }
    gates
}

/// The gate on the number of launches: those of a step, and the layers they carry out. The launches before the first and after the last
/// layer are few and counted as one layer.
pub fn launches_gate(launches: usize, layers: u64, tokens: usize) -> Gate {
    let limit = if tokens <= DECODE_TOKENS { 5.0 } else { 9.0 };
    Gate::most("launches a layer", launches as f64 / (layers + 1) as f64, limit)
}

#[cfg(test)]
mod tests {
    use simulator::Counters;

    use super::*;

    fn record(entry: &'static str, counters: Option<Counters>) -> LaunchRecord {
        LaunchRecord {
            step: 0,
            tokens: 1,
            bucket: 0,
            launch: 0,
            kernel: "project",
            variant: String::new(),
            label: String::new(),
            entry,
            grid: [1; 3],
            threads: 256,
            shared_bytes: 0,
            warp_instructions: 0,
            findings: Vec::new(),
            counters,
        }
    }

    #[test]
    fn products_have_more_gates_than_other_launches() {
        assert_eq!(gates(&record("project_few", None), "f16"), []);
        let names = |entry, activations| -> Vec<(&str, f64)> {
            let record = record(entry, Some(Counters::default()));
            gates(&record, activations).iter().map(|g| (g.name, g.limit)).collect()
        };
        assert_eq!(names("embedding", "f16").len(), 2);
        assert!(names("project_few", "f16").contains(&("instructions a weight byte", 4.5)));
        assert!(names("project_few", "int8").contains(&("instructions a weight byte", 2.2)));
        assert!(names("project_many", "f16").contains(&("share of tensor-core instructions", 0.28)));
        let wide = Counters { wide_load_requests: 1, wide_load_sectors: 18, ..Counters::default() };
        let missed: Vec<Gate> =
            gates(&record("attention", Some(wide)), "f16").into_iter().filter(|g| !g.holds()).collect();
        assert_eq!(missed, [Gate::most("sectors of a 128-bit load", 18.0, 16.0)]);
    }

    #[test]
    fn a_gate_holds_up_to_its_limit() {
        let most = |value, limit| Gate::most("x", value, limit);
        assert!(most(4.5, 4.5).holds() && !most(4.6, 4.5).holds() && most(0.0, 0.0).holds());
        assert_eq!((most(0.0, 0.0).used(), most(1.0, 0.0).used(), most(9.0, 4.5).used()), (0.0, f64::INFINITY, 2.0));
        let least = Gate { name: "x", value: 0.14, limit: 0.28, at_least: true };
        assert!(!least.holds() && least.used() == 2.0);
        assert!(launches_gate(30, 5, 1).holds() && !launches_gate(31, 5, 8).holds() && launches_gate(31, 5, 9).holds());
    }
}
