//! The table of targets as a file: JSON, `{"schema": 1, "targets": [{"name": "cpu", "bytes_per_s": …}, …]}`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// What a target can do. Rates are those of dense operations, a multiplication and an addition counted as two.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetSpec {
    /// The target's name: `cpu`, `sm_90`.
    pub name: String,
    /// Bytes a second from memory.
    pub bytes_per_s: f64,
    /// Bytes a second from the cache that all units share.
    pub cached_bytes_per_s: f64,
    /// f32 operations a second.
    pub f32_ops_per_s: f64,
    /// f16 matrix operations a second, with f32 sums.
    pub f16_ops_per_s: f64,
    /// int8 matrix operations a second, with i32 sums.
    pub int8_ops_per_s: f64,
    /// Seconds that a launch which depends on the one before adds (τ).
    pub launch_s: f64,
    /// Streaming multiprocessors, or threads of a processor.
    pub units: u64,
    /// Rows of a matrix that a block of a product computes: every block reads the activations again.
    pub block_rows: u64,
}

impl TargetSpec {
    /// The first field that a cost cannot be computed from, with what it must be.
    pub fn fault(&self) -> Option<String> {
        let rates = [
            ("bytes_per_s", self.bytes_per_s),
            ("cached_bytes_per_s", self.cached_bytes_per_s),
            ("f32_ops_per_s", self.f32_ops_per_s),
            ("f16_ops_per_s", self.f16_ops_per_s),
            ("int8_ops_per_s", self.int8_ops_per_s),
        ];
        // Less than one a second is a unit gone wrong, and would overflow times.
        if let Some((field, rate)) = rates.iter().find(|(_, rate)| !(rate.is_finite() && *rate >= 1.0)) {
            return Some(format!("{field} is {rate}, not a finite number of at least 1"));
        }
        if !(0.0..=1.0).contains(&self.launch_s) {
            return Some(format!("launch_s is {}, not from 0 to 1", self.launch_s));
        }
        let counts = [("units", self.units), ("block_rows", self.block_rows)];
        counts.iter().find(|(_, n)| *n == 0).map(|(field, _)| format!("{field} is 0"))
    }
}

/// The version of the table's file.
pub const COST_TABLE_SCHEMA: u32 = 1;

/// Rows that take the place of the compiler's own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CostTable {
    /// [`COST_TABLE_SCHEMA`].
    pub schema: u32,
    /// One row a target.
    pub targets: Vec<TargetSpec>,
}

impl Default for CostTable {
    /// A table without rows.
    fn default() -> CostTable {
        CostTable { schema: COST_TABLE_SCHEMA, targets: Vec::new() }
    }
}

/// A cost table that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CostTableError {
    /// The file cannot be read or written.
    #[error("{}: cannot {action} the cost table: {source}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was attempted.
        action: &'static str,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The file is no cost table.
    #[error("{}: no cost table (doctor --calibrate -o writes one): {source}", .path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What the parser found.
        source: serde_json::Error,
    },
    /// The file is of another version.
    #[error("{}: schema {schema}, where this build reads {COST_TABLE_SCHEMA}; write it again with doctor --calibrate -o", .path.display())]
    Schema {
        /// The file.
        path: PathBuf,
        /// What it says.
        schema: u32,
    },
    /// A row that no cost can be computed from.
    #[error("{}: targets[{row}] ({name}): {message}", .path.display())]
    Row {
        /// The file.
        path: PathBuf,
        /// The row, from 0.
        row: usize,
        /// The target it names.
        name: String,
        /// What is wrong and the way out.
        message: String,
    },
}

impl CostTable {
    /// Reads a table whose rows have names that `known` accepts; it answers the others with a message.
    ///
    /// # Errors
    /// Names the file and the row: JSON of another form, an unknown or repeated target, a number out of range.
    pub fn read(path: &Path, known: impl Fn(&str) -> Result<(), String>) -> Result<CostTable, CostTableError> {
        let file = |source| CostTableError::File { path: path.into(), action: "read", source };
        let text = std::fs::read_to_string(path).map_err(file)?;
        let table: CostTable =
            serde_json::from_str(&text).map_err(|source| CostTableError::Json { path: path.into(), source })?;
        if table.schema != COST_TABLE_SCHEMA {
            return Err(CostTableError::Schema { path: path.into(), schema: table.schema });
        }
        for (row, spec) in table.targets.iter().enumerate() {
            let repeated = table.targets[..row].iter().any(|s| s.name == spec.name);
            let fault = known(&spec.name).err().or_else(|| spec.fault());
            if let Some(message) = fault.or_else(|| repeated.then(|| "the target has a row above".into())) {
                return Err(CostTableError::Row { path: path.into(), row, name: spec.name.clone(), message });
            }
        }
        Ok(table)
    }

    /// Writes the table for [`CostTable::read`].
    ///
    /// # Errors
    /// What the system refuses.
    pub fn write(&self, path: &Path) -> Result<(), CostTableError> {
        let text =
            serde_json::to_string_pretty(self).map_err(|source| CostTableError::Json { path: path.into(), source })?;
        let file = |source| CostTableError::File { path: path.into(), action: "write", source };
        std::fs::write(path, text + "\n").map_err(file)
    }

    /// The row of that name.
    pub fn row(&self, name: &str) -> Option<&TargetSpec> {
        self.targets.iter().find(|s| s.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpu() -> TargetSpec {
        TargetSpec {
            name: "cpu".into(),
            bytes_per_s: 5e10,
            cached_bytes_per_s: 3e11,
            f32_ops_per_s: 3e11,
            f16_ops_per_s: 3e11,
            int8_ops_per_s: 6e11,
            launch_s: 2e-6,
            units: 8,
            block_rows: 64,
        }
    }

    fn known(name: &str) -> Result<(), String> {
        if name == "cpu" { Ok(()) } else { Err(format!("unknown target {name:?}")) }
    }

    fn written(text: &str) -> Result<CostTable, CostTableError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("table.json");
        std::fs::write(&path, text).unwrap();
        CostTable::read(&path, known)
    }

    #[test]
    fn what_is_written_is_read() {
        let table = CostTable { targets: vec![cpu()], ..CostTable::default() };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("table.json");
        table.write(&path).unwrap();
        let read = CostTable::read(&path, known).unwrap();
        assert_eq!(read, table);
        assert_eq!((read.row("cpu"), read.row("sm_90")), (Some(&cpu()), None));
        let missing = CostTable::read(&folder.path().join("none.json"), known).unwrap_err().to_string();
        assert!(missing.contains("none.json: cannot read the cost table"), "{missing}");
    }

    #[test]
    fn damaged_tables_are_refused_by_name() {
        let row = |spec: &TargetSpec| serde_json::to_string(spec).unwrap();
        let table = |rows: &str| format!("{{\"schema\": 1, \"targets\": [{rows}]}}");
        let good = row(&cpu());
        assert!(written(&table(&good)).is_ok());
        for (text, expected) in [
            (table(&format!("{good},{good}")), "targets[1] (cpu): the target has a row above"),
            (table(&good.replace("\"cpu\"", "\"tpu\"")), "targets[0] (tpu): unknown target \"tpu\""),
            (table(&row(&TargetSpec { bytes_per_s: 0.0, ..cpu() })), "bytes_per_s is 0, not"),
            (table(&row(&TargetSpec { launch_s: -1.0, ..cpu() })), "launch_s is -1, not"),
            (table(&row(&TargetSpec { block_rows: 0, ..cpu() })), "block_rows is 0"),
            (table(&good.replace("units", "unit")), "unknown field `unit`"),
            (table(&good).replace("\"schema\": 1", "\"schema\": 2"), "schema 2, where this build reads 1"),
            ("[".into(), "no cost table"),
        ] {
            let message = written(&text).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
            assert!(message.contains("table.json"), "{message}");
        }
    }
}
