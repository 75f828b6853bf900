//! The gates of kernels: what their machine code and their counters must keep to, written down in kernels/GATES.md.
//!
//! No GPU takes part. Static figures come from ptxas and the disassembled cubins of the pinned NVRTC, dynamic ones from the simulator's counters.
//! `cargo xtask gates` (BLESS=1) writes the table; here it must be as committed, and each gate met or its exception named.

#[path = "../../../kernels/tests/harness/mod.rs"]
mod harness;

mod dynamic;
mod emitted;
mod limits;
mod sass;
mod table;

use std::path::{Path, PathBuf};

use limits::{EXCEPTIONS, Violation};

fn committed() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../kernels/GATES.md")
}

#[test]
fn gates_are_met_and_written_down() {
    let kernels = emitted::rows();
    let spills = emitted::spill_rows();
    let launches = dynamic::rows();
    let of_code = kernels.iter().flat_map(limits::of_kernel).chain(spills.iter().flat_map(limits::of_spills));
    let violations: Vec<Violation> = of_code.chain(launches.iter().flat_map(limits::of_launch)).collect();
    let layers = emitted::layer_launches();
    for row in &layers {
        let (counts, most) = ([row.decode.len(), row.prompt.len()], limits::layer_limits(row.preset));
        let is_exception = limits::LAYER_EXCEPTIONS.iter().any(|e| e.preset == row.preset);
        assert!(
            counts == most || (!is_exception && counts[0] <= most[0] && counts[1] <= most[1]),
            "{}: launches a layer for a token {:?}, for a prompt {:?}",
            row.preset,
            row.decode,
            row.prompt
        );
    }
    let text = table::page(&kernels, &spills, &launches, &layers, &violations);
    if std::env::var_os("BLESS").is_some_and(|v| v == "1") {
        std::fs::write(committed(), &text).expect("GATES.md is written");
    }
    let unnamed: Vec<String> =
        violations.iter().filter(|v| v.exception().is_none()).map(Violation::to_string).collect();
    assert!(unnamed.is_empty(), "gates missed without a named exception:\n{}", unnamed.join("\n"));
    for exception in EXCEPTIONS {
        let used = violations.iter().any(|v| v.exception().is_some_and(|e| std::ptr::eq(e, exception)));
        assert!(used, "nothing of {} misses {:?} any more: delete the exception", exception.products, exception.gates);
    }
    let before = std::fs::read_to_string(committed()).unwrap_or_default();
    let difference = similar::TextDiff::from_lines(&before, &text).unified_diff().to_string();
    assert!(difference.is_empty(), "kernels/GATES.md is stale: run `cargo xtask gates`\n{difference}");
}

/// The page shows the products that take most registers; this looks at all of them. `cargo xtask test --all` runs it.
#[test]
#[ignore = "twenty minutes of compiling"]
fn no_product_spills_in_any_format_on_any_architecture() {
    let rows = emitted::every_spill_row();
    let spilled: Vec<String> = rows.iter().flat_map(limits::of_spills).map(|v| v.to_string()).collect();
    println!("{} entries on {} architectures", rows.len(), compiler::target::Arch::ALL.len());
    assert!(spilled.is_empty(), "{} spill without a named exception:\n{}", spilled.len(), spilled.join("\n"));
}
