//! The table of an artifact's kernels: what each entry takes of each GPU.

use std::fmt::Write as _;

use runtime::artifact::{CompiledKernel, EntryFigures, architecture_number};

/// One entry of a kernel in the code of one architecture.
#[derive(Clone, Copy, Debug)]
pub struct KernelRow<'a> {
    /// The kernel.
    pub kernel: &'a CompiledKernel,
    /// The architecture: `sm_80`.
    pub arch: &'a str,
    /// The entry.
    pub entry: &'a str,
    /// What it takes.
    pub figures: EntryFigures,
}

/// A row for each entry and architecture, in the order of the kernels, then entries, then architectures from the oldest.
pub fn kernel_rows(kernels: &[CompiledKernel]) -> impl Iterator<Item = KernelRow<'_>> {
    kernels.iter().flat_map(|kernel| {
        let mut architectures: Vec<&str> = kernel.code.keys().map(String::as_str).collect();
        architectures.sort_by_key(|name| architecture_number(name));
        let row = move |entry: &'_ String, arch: &'_ str| {
            let (entry, figures) = kernel.code.get(arch)?.entries.get_key_value(entry)?;
            let (arch, _) = kernel.code.get_key_value(arch)?;
            Some(KernelRow { kernel, arch, entry, figures: *figures })
        };
        kernel
            .entries
            .iter()
            .flat_map(move |entry| architectures.clone().into_iter().filter_map(move |a| row(entry, a)))
    })
}

/// The rows as text, a heading first; ends with a newline.
pub fn kernel_table(kernels: &[CompiledKernel]) -> String {
    let rows: Vec<KernelRow> = kernel_rows(kernels).collect();
    let width = |cell: fn(&KernelRow) -> usize, least| rows.iter().map(cell).max().unwrap_or(0).max(least);
    let (names, entries) = (width(|r| r.kernel.name.len(), 6), width(|r| r.entry.len(), 5));
    let mut text = format!(
        "{:<names$}  {:<entries$}  {:<6} {:>9} {:>6} {:>6} {:>7} {:>9}\n",
        "kernel", "entry", "arch", "registers", "spills", "stack", "shared", "constants"
    );
    for KernelRow { kernel, arch, entry, figures: f } in rows {
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{:<names$}  {entry:<entries$}  {arch:<6} {:>9} {:>6} {:>6} {:>7} {:>9}",
            kernel.name, f.registers, f.spill_bytes, f.stack_bytes, f.shared_bytes, f.constant_bytes
        );
    }
    text
}
