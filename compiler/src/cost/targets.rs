//! The table of targets: what each can do in a second, and what a launch costs.
//!
//! Rows of GPUs are datasheet figures of one card each: what they rank is stable, though no kernel reaches them. The cpu row is
//! an ordinary machine, since an artifact is compiled anywhere; `moesaic doctor --calibrate` measures this one, and
//! `--cost-table` reads what it wrote. The types stand in the runtime, which measures.

use std::path::Path;

pub use runtime::calibrate::{COST_TABLE_SCHEMA, CostTable, CostTableError, TargetSpec};

use crate::target::{Arch, Target};

/// Bandwidths in GB/s, dense rates in Tops/s, τ in µs.
struct Datasheet {
    memory: f64,
    /// Of the shared cache: estimated from published microbenchmarks, for vendors do not state it.
    cache: f64,
    f32: f64,
    f16: f64,
    int8: f64,
    launch: f64,
    units: u64,
}

/// τ with graphs and programmatic dependent launch, which needs compute capability 9.0.
const DEPENDENT_LAUNCH: f64 = 2.2;

/// τ with graphs alone.
const GRAPH_LAUNCH: f64 = 3.0;

/// Rows of a matrix in one block of a product.
const BLOCK_ROWS: u64 = 64;

fn datasheet(target: Target) -> Datasheet {
    let sheet = |memory, cache, [f32, f16, int8]: [f64; 3], launch, units| Datasheet {
        memory,
        cache,
        f32,
        f16,
        int8,
        launch,
        units,
    };
    match target {
        // Eight cores with AVX2 and two channels of DDR5; what is stored in f16 is computed in f32.
        Target::Cpu => sheet(50.0, 300.0, [0.3, 0.3, 0.6], 2.0, 8),
        // A100 80 GB SXM.
        Target::Cuda(Arch::Sm80) => sheet(2039.0, 5000.0, [19.5, 312.0, 624.0], GRAPH_LAUNCH, 108),
        // RTX 3090.
        Target::Cuda(Arch::Sm86) => sheet(936.0, 2000.0, [35.6, 71.0, 284.0], GRAPH_LAUNCH, 82),
        // RTX 4090.
        Target::Cuda(Arch::Sm89) => sheet(1008.0, 5000.0, [82.6, 165.2, 660.6], GRAPH_LAUNCH, 128),
        // H200 SXM; an H100 SXM computes as fast and reads 3350 GB/s.
        Target::Cuda(Arch::Sm90) => sheet(4800.0, 7000.0, [66.9, 989.4, 1978.9], DEPENDENT_LAUNCH, 132),
        // B200 SXM.
        Target::Cuda(Arch::Sm100) => sheet(8000.0, 10000.0, [75.0, 2250.0, 4500.0], DEPENDENT_LAUNCH, 148),
        // RTX 5090.
        Target::Cuda(Arch::Sm120) => sheet(1792.0, 7000.0, [104.8, 209.5, 838.0], DEPENDENT_LAUNCH, 170),
    }
}

impl Target {
    /// The target's row of the built-in table.
    pub fn spec(self) -> TargetSpec {
        let sheet = datasheet(self);
        TargetSpec {
            name: self.name().into(),
            bytes_per_s: sheet.memory * 1e9,
            cached_bytes_per_s: sheet.cache * 1e9,
            f32_ops_per_s: sheet.f32 * 1e12,
            f16_ops_per_s: sheet.f16 * 1e12,
            int8_ops_per_s: sheet.int8 * 1e12,
            launch_s: sheet.launch / 1e6,
            units: sheet.units,
            block_rows: BLOCK_ROWS,
        }
    }

    /// The target's row of a table, else the built-in one.
    pub fn spec_in(self, table: Option<&CostTable>) -> TargetSpec {
        table.and_then(|t| t.row(self.name())).cloned().unwrap_or_else(|| self.spec())
    }
}

/// Reads a table that takes the place of built-in rows.
///
/// # Errors
/// Names the file and the row at fault; a row must name a target.
pub fn read_cost_table(path: &Path) -> Result<CostTable, CostTableError> {
    CostTable::read(path, |name| match Target::all().any(|t| t.name() == name) {
        true => Ok(()),
        false => Err(name.parse::<Target>().err().map_or("name an architecture".into(), |e| e.to_string())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_usable() {
        for target in Target::all() {
            let spec = target.spec();
            assert_eq!(spec.fault(), None, "{target}");
            assert_eq!(spec.name, target.name());
            assert!(spec.cached_bytes_per_s > spec.bytes_per_s, "{target}");
            assert!(spec.int8_ops_per_s > spec.f32_ops_per_s, "{target}");
        }
        assert_eq!(Target::Cuda(Arch::Sm90).spec().launch_s, 2.2e-6);
        assert_eq!(Target::Cuda(Arch::Sm89).spec().launch_s, 3e-6);
    }

    #[test]
    fn a_table_overrides_the_rows_it_has() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("table.json");
        let cpu = TargetSpec { bytes_per_s: 12e9, ..Target::Cpu.spec() };
        CostTable { targets: vec![cpu.clone()], ..CostTable::default() }.write(&path).unwrap();
        let table = read_cost_table(&path).unwrap();
        assert_eq!(Target::Cpu.spec_in(Some(&table)), cpu);
        assert_eq!(Target::Cuda(Arch::Sm80).spec_in(Some(&table)), Target::Cuda(Arch::Sm80).spec());
        assert_eq!(Target::Cpu.spec_in(None), Target::Cpu.spec());
        // A word that stands for an architecture names no row.
        for (name, expected) in [("tpu", "unknown target \"tpu\""), ("cuda", "name an architecture")] {
            let row = TargetSpec { name: name.into(), ..cpu.clone() };
            CostTable { targets: vec![row], ..CostTable::default() }.write(&path).unwrap();
            let message = read_cost_table(&path).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }
}
