//! What ptxas says with `-v` of each entry it assembles: registers, spills, stack, shared and constant memory.
//!
//! NVRTC passes its lines on in the log of a compilation, after the warnings of the compiler itself:
//!
//! ```text
//! ptxas info    : Compiling entry function 'rms_norm' for 'sm_80'
//! ptxas info    : Function properties for rms_norm
//! ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
//! ptxas info    : Used 26 registers, used 1 barriers, 32 bytes smem, 400 bytes cmem[0]
//! ```
//!
//! From 9.0 on constant memory is not among them. Functions that were not inlined have properties of their own behind those of the entry that calls them; what they spill is
//! counted with the entry.

use std::collections::BTreeMap;

use runtime::artifact::EntryFigures;

/// The figures of each entry of a log, by name. Entries without a line of registers are left out: the caller knows which there
/// must be.
pub fn entry_figures(log: &str) -> BTreeMap<String, EntryFigures> {
    let (mut figures, mut current) = (BTreeMap::new(), None::<(String, EntryFigures)>);
    for line in log.lines() {
        let said = line.trim().trim_start_matches("ptxas").trim_start_matches([' ', '.']);
        let said = said.trim_start_matches("info").trim_start_matches([' ', ':']);
        if let Some(name) = said.strip_prefix("Compiling entry function '").and_then(|rest| rest.split('\'').next()) {
            current = Some((name.to_string(), EntryFigures::default()));
        } else if let Some((name, mut entry)) = current.take() {
            add(&mut entry, said);
            if entry.registers > 0 {
                figures.insert(name.clone(), entry);
            }
            current = Some((name, entry));
        }
    }
    figures
}

/// Adds the amounts of one line, `NUMBER what, NUMBER what, …`.
fn add(entry: &mut EntryFigures, line: &str) {
    for part in line.split(',') {
        let part = part.trim().trim_start_matches("Used ").trim_start_matches("used ");
        let Some((number, what)) = part.split_once(' ') else { continue };
        let Ok(number) = number.parse::<u32>() else { continue };
        let field = match what {
            "registers" => &mut entry.registers,
            "bytes stack frame" => &mut entry.stack_bytes,
            "bytes spill stores" | "bytes spill loads" => &mut entry.spill_bytes,
            "bytes smem" => &mut entry.shared_bytes,
            what if what.starts_with("bytes cmem[") => &mut entry.constant_bytes,
            _ => continue,
        };
        *field = field.saturating_add(number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of NVRTC 12.9: an entry without spills, one that spills, and a function of its own.
    const LOG: &str = "\
attention.cu(31): warning #177-D: variable \"unused\" was declared but never referenced
ptxas info    : 189 bytes gmem, 384 bytes cmem[4]
ptxas info    : Compiling entry function 'attention_segments' for 'sm_80'
ptxas info    : Function properties for attention_segments
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 80 registers, used 1 barriers, 128 bytes smem, 456 bytes cmem[0], 8 bytes cmem[2]
ptxas info    : Compile time = 613.813 ms
ptxas info    : Compiling entry function 'attention_tiles' for 'sm_80'
ptxas info    : Function properties for attention_tiles
ptxas         .     24 bytes stack frame, 20 bytes spill stores, 28 bytes spill loads
ptxas info    : Used 168 registers, used 1 barriers, 24 bytes cumulative stack size
ptxas info    : Compile time = 1473.315 ms
ptxas info    : Function properties for _Z4slowf
ptxas         .     8 bytes stack frame, 4 bytes spill stores, 4 bytes spill loads
";

    #[test]
    fn a_recorded_log_is_read() {
        let figures = entry_figures(LOG);
        let names: Vec<&str> = figures.keys().map(String::as_str).collect();
        assert_eq!(names, ["attention_segments", "attention_tiles"]);
        let segments =
            EntryFigures { registers: 80, spill_bytes: 0, stack_bytes: 0, shared_bytes: 128, constant_bytes: 464 };
        assert_eq!(figures["attention_segments"], segments);
        let tiles =
            EntryFigures { registers: 168, spill_bytes: 56, stack_bytes: 32, shared_bytes: 0, constant_bytes: 0 };
        assert_eq!(figures["attention_tiles"], tiles, "with the function it calls");
    }

    #[test]
    fn other_logs_have_no_figures() {
        for log in ["", "ptxas info    : Used 7 registers", "ptxas info    : Compiling entry function 'a' for 'sm_80'"]
        {
            assert!(entry_figures(log).is_empty(), "{log:?}");
        }
    }
}
