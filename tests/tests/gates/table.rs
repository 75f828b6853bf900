//! The page: kernels/GATES.md.

use std::fmt::Write;

use compiler::target::Arch;

use super::dynamic::LaunchRow;
use super::emitted::{KernelRow, LayerLaunches, PROGRAMS_TEXT, SpillRow};
use super::limits::{
    EXCEPTIONS, LAYER_EXCEPTIONS, SPILL_EXCEPTIONS, SpillException, Violation, instructions_per_byte, matrix_share,
    product, warps,
};

const HEAD: &str = "\
# Gates of the CUDA kernels

Made by `cargo xtask gates`; a test holds it to what the pinned NVRTC and the simulator give. No GPU took part: these are properties of
machine code and counters, no times.

| gate | few tokens (GEMV) | many tokens (GEMM, 64 tokens) |
|---|---|---|
| spilled bytes, stack | 0 | 0 |
| registers | ≤ 80 | ≤ 255 |
| warps an SM | ≥ 16 | 8 |
| 128-bit loads of weights (and copies to shared memory) | 100 % | 100 % |
| instructions a byte of weights, in the loop on the tensor cores | ≤ 4.5 | ≤ 7 |
| HMMA share of that loop | – | ≥ 28 % |
| waits at a barrier a stage | – | 1 |
| sectors a 128-bit load | 16 | 16 |
| bank conflicts of shared memory | 0 | 0 |
| bytes moved / minimum | ≤ 1.03 | ≤ 1.10 |
| barriers a block | ≤ 2 | – |
| CUDA launches a layer | ≤ 5 | ≤ 9 |
";

/// What launches of a prompt are.
const LAUNCHES: &str = "\
As the driver sees them, at published widths. A product of many tokens is a launch that prepares x as operands, with its norm and routing, and one that \
multiplies, finishes heads and adds up experts: preparing on its own keeps conversions out of the loop on the tensor cores.";

/// What is said of them.
const SPILLS: &str = "\
Products of experts in the format for speed and in those that take most registers, units of 256 columns: registers of a thread, and bytes spilled and of stack where there \
are any. `cargo xtask test --all` holds all products in all formats to the same.";

/// The whole page.
pub fn page(
    kernels: &[KernelRow],
    spills: &[SpillRow],
    launches: &[LaunchRow],
    layers: &[LayerLaunches],
    violations: &[Violation],
) -> String {
    let mut text = String::from(HEAD);
    text.push_str("\n## Machine code\n\n");
    let _ = writeln!(text, "Kernels that these programs launch: {PROGRAMS_TEXT}. NVRTC 12.9.86.\n");
    text.push_str("| kernel | entry | for | registers | spills | stack | shared | warps an SM | instructions | 128-bit loads | a weight byte | HMMA |\n");
    text.push_str("|---|---|---|---|---|---|---|---|---|---|---|---|\n");
    kernels.iter().for_each(|row| kernel_line(&mut text, row));
    spill_lines(&mut text, spills);
    text.push_str("\n## Counters of launches\n\nThe PTX for sm_80, executed by the simulator with every check on.\n\n");
    text.push_str("| launch | instructions a weight byte | sectors a 128-bit load | bank conflicts | bytes moved / minimum | barriers a block |\n");
    text.push_str("|---|---|---|---|---|---|\n");
    for row in launches {
        let _ = writeln!(
            text,
            "| {} | {:.2} | {:.2} | {} | {:.3} | {:.1} |",
            row.name, row.instructions_per_byte, row.sectors, row.conflicts, row.moved, row.barriers
        );
    }
    let _ = writeln!(text, "\n## Launches a layer\n\n{LAUNCHES}\n");
    text.push_str("| model | one token | prompt of 512 | those of the prompt |\n|---|---|---|---|\n");
    for row in layers {
        let (decode, prompt, entries) = (row.decode.len(), row.prompt.len(), row.prompt.join(", "));
        let _ = writeln!(text, "| {} | {decode} | {prompt} | {entries} |", row.preset);
    }
    exceptions(&mut text, violations);
    text
}

fn kernel_line(text: &mut String, row: &KernelRow) {
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "–".into());
    let is_product = product(row).is_some();
    let _ = writeln!(
        text,
        "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
        row.name,
        row.entry,
        row.arch.name(),
        row.figures.registers,
        row.figures.spill_bytes,
        row.figures.stack_bytes,
        row.figures.shared_bytes + row.launch.shared_bytes,
        warps(row),
        row.instructions,
        or_dash(row.loads.percent().filter(|_| is_product).map(|p| format!("{p} %"))),
        or_dash(instructions_per_byte(row).map(|i| format!("{i:.2}"))),
        or_dash(matrix_share(row).map(|s| format!("{s:.0} %"))),
    );
}

/// Registers of the products of experts on every architecture, and what is spilled for want of them.
fn spill_lines(text: &mut String, rows: &[SpillRow]) {
    let architectures = Arch::ALL.map(Arch::name);
    let _ = writeln!(text, "\n### Every architecture\n\n{SPILLS}\n");
    let _ = writeln!(text, "| kernel | entry | {} |", architectures.join(" | "));
    let _ = writeln!(text, "|---|---|{}", "---|".repeat(architectures.len()));
    for row in rows {
        let cells = row.figures.iter().map(|f| match f.spill_bytes + f.stack_bytes {
            0 => f.registers.to_string(),
            _ => format!("{}, {} B spilled, {} B stack", f.registers, f.spill_bytes, f.stack_bytes),
        });
        let _ = writeln!(text, "| {} | {} | {} |", row.name, row.entry, cells.collect::<Vec<_>>().join(" | "));
    }
    text.push('\n');
    for exception in SPILL_EXCEPTIONS {
        let SpillException { kernel, entry, arch, bytes, reason } = exception;
        let _ = writeln!(text, "`{entry}` of {kernel} on {} may spill {bytes} bytes: {reason}.\n", arch.name());
    }
}

/// Each exception with its reason and what it covers.
fn exceptions(text: &mut String, violations: &[Violation]) {
    text.push_str("\n## Exceptions\n\n");
    for exception in LAYER_EXCEPTIONS {
        let [decode, prompt] = exception.launches;
        let _ = writeln!(
            text,
            "CUDA launches a layer, {}: {decode} and {prompt}; {}.\n",
            exception.preset, exception.reason
        );
    }
    text.push_str("| gates | products | how many | worst | why |\n|---|---|---|---|---|\n");
    for exception in EXCEPTIONS {
        let covered: Vec<&Violation> =
            violations.iter().filter(|v| v.exception().is_some_and(|e| std::ptr::eq(e, exception))).collect();
        let worst = covered.iter().max_by(|a, b| distance(a).total_cmp(&distance(b)));
        let gates: Vec<&str> = exception.gates.iter().map(|g| g.name()).collect();
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} |",
            gates.join("; "),
            exception.products,
            covered.len(),
            worst.map_or(String::new(), |v| format!("{} {:.2} ({})", v.gate.name(), v.value, v.kernel)),
            exception.reason
        );
    }
}

/// How far a gate is missed.
fn distance(violation: &Violation) -> f64 {
    (violation.value - violation.limit).abs() / violation.limit.max(1.0)
}
