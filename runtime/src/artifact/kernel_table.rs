//! The kernel table of a manifest: what machine code an artifact holds, for which GPUs, and what it costs them.
//!
//! A device finds the code of a launch by its specialisation, which it works out from the launch itself; nothing in a program
//! names a file.

use std::collections::{BTreeMap, BTreeSet};

use kernels::cuda::Specialisation;
use serde::{Deserialize, Serialize};

use super::error::Fault;
use super::manifest::Manifest;

type Checked = Result<(), (String, Fault)>;

/// Folder of the kernels in an artifact.
pub const KERNEL_FOLDER: &str = "kernels/";

/// A kernel source compiled with one set of constants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompiledKernel {
    /// Name of its files, unique in the artifact.
    pub name: String,
    /// The kernel in the catalog.
    pub kernel: String,
    /// Its variant.
    pub variant: String,
    /// The constants it was compiled with, by name.
    pub defines: BTreeMap<String, String>,
    /// The source file.
    pub source: String,
    /// Names of the entries, in alphabetical order.
    pub entries: Vec<String>,
    /// Machine code by architecture: one for each of [`Manifest::architectures`].
    pub code: BTreeMap<String, KernelCode>,
    /// Files of PTX, which a driver can translate for later architectures, by the architecture it was written for.
    pub ptx: BTreeMap<String, String>,
}

/// Machine code for one architecture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelCode {
    /// The file.
    pub cubin: String,
    /// What each entry takes.
    pub entries: BTreeMap<String, EntryFigures>,
}

/// What an entry takes of a GPU, as its assembler reports it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryFigures {
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes stored to and loaded from local memory because registers did not suffice.
    pub spill_bytes: u32,
    /// Bytes of stack of a thread.
    pub stack_bytes: u32,
    /// Bytes of static shared memory of a block; dynamic shared memory depends on the launch.
    pub shared_bytes: u32,
    /// Bytes of constant memory, parameters included.
    pub constant_bytes: u32,
}

impl CompiledKernel {
    /// Whether it is the code of this specialisation.
    pub fn is(&self, specialisation: &Specialisation) -> bool {
        let same = |(name, value): (&String, &String)| {
            specialisation.defines.iter().any(|d| d.name == name.as_str() && d.value == *value)
        };
        self.kernel == specialisation.kernel
            && self.variant == specialisation.variant
            && self.defines.len() == specialisation.defines.len()
            && self.defines.iter().all(same)
    }

    /// Every file it consists of.
    fn files(&self) -> impl Iterator<Item = &String> {
        std::iter::once(&self.source).chain(self.code.values().map(|c| &c.cubin)).chain(self.ptx.values())
    }
}

impl Manifest {
    /// The code of a specialisation, if the artifact has it.
    pub fn compiled(&self, specialisation: &Specialisation) -> Option<&CompiledKernel> {
        self.kernels.iter().find(|k| k.is(specialisation))
    }
}

/// The number of an architecture's name: 90 of `sm_90`.
pub fn architecture_number(name: &str) -> Option<u32> {
    let digits = name.strip_prefix("sm_")?;
    // No sign, no leading zero: one name an architecture.
    digits.starts_with(|c: char| ('1'..='9').contains(&c)).then(|| digits.parse().ok())?
}

/// Checks what the manifest says of architectures and kernels.
pub(super) fn check_kernels(m: &Manifest) -> Checked {
    let invalid = |field: &str, message: &str| Err((field.to_string(), Fault::Invalid(message.into())));
    if m.target == "cpu" {
        return match m.architectures.is_empty() && m.kernels.is_empty() {
            true => Ok(()),
            false => invalid("architectures", "an artifact for cpu has no code for GPUs"),
        };
    }
    let numbers: Option<Vec<u32>> = m.architectures.iter().map(|name| architecture_number(name)).collect();
    if !numbers.is_some_and(|n| n.windows(2).all(|pair| pair[0] < pair[1])) {
        return invalid("architectures", "expected names such as \"sm_80\", each once, the oldest first");
    }
    if !m.architectures.contains(&m.target) {
        let expected = format!("{:?} among them", m.target);
        return Err(("architectures".into(), Fault::mismatch(expected, format!("{:?}", m.architectures))));
    }
    let mut names = BTreeSet::new();
    for kernel in &m.kernels {
        let at = |field: &str| format!("kernels {:?} {field}", kernel.name);
        if !names.insert(&kernel.name) {
            return invalid(&at("name"), "the name is taken");
        }
        check_kernel(kernel, m).map_err(|(field, fault)| (at(field), fault))?;
    }
    Ok(())
}

fn check_kernel(kernel: &CompiledKernel, m: &Manifest) -> Result<(), (&'static str, Fault)> {
    let known: BTreeSet<&String> = m.architectures.iter().collect();
    if !kernel.code.keys().eq(known.iter().copied()) {
        let found = kernel.code.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        return Err(("code", Fault::mismatch("code for each of the architectures", found)));
    }
    if let Some(other) = kernel.ptx.keys().find(|name| !known.contains(name)) {
        return Err(("ptx", Fault::mismatch("one of the architectures", format!("{other:?}"))));
    }
    for file in kernel.files() {
        if !m.files.contains_key(file) {
            return Err(("files", Fault::Unlisted(file.clone())));
        }
        if !file.starts_with(KERNEL_FOLDER) {
            return Err(("files", Fault::mismatch(format!("a file in {KERNEL_FOLDER}"), format!("{file:?}"))));
        }
    }
    let entries: BTreeSet<&String> = kernel.entries.iter().collect();
    let complete = |code: &KernelCode| code.entries.keys().eq(entries.iter().copied());
    if entries.is_empty() || entries.len() != kernel.entries.len() || !kernel.code.values().all(complete) {
        return Err(("entries", Fault::Invalid("expected the same entries, at least one, in all code".into())));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use kernels::cuda::Define;

    use super::super::manifest::FileInfo;
    use super::*;
    use crate::testing::TinyModel;

    /// A kernel in code for two architectures.
    fn compiled() -> CompiledKernel {
        let code = |arch: &str| {
            let entries = [("rms_norm".to_string(), EntryFigures::default())].into();
            (arch.to_string(), KernelCode { cubin: format!("kernels/k.{arch}.cubin"), entries })
        };
        CompiledKernel {
            name: "k".into(),
            kernel: "rms_norm".into(),
            variant: String::new(),
            defines: [("THREADS".to_string(), "256".to_string()), ("PARAMS_BYTES".into(), "40".into())].into(),
            source: "kernels/src/k.cu".into(),
            entries: vec!["rms_norm".into()],
            code: ["sm_80", "sm_100"].map(code).into(),
            ptx: [("sm_80".to_string(), "kernels/k.sm_80.ptx".to_string())].into(),
        }
    }

    /// A manifest for two GPUs with that kernel.
    fn manifest() -> Manifest {
        let folder = tempfile::tempdir().unwrap();
        let mut manifest = TinyModel::new().write(folder.path());
        manifest.target = "sm_80".into();
        manifest.architectures = vec!["sm_80".into(), "sm_100".into()];
        for file in compiled().files() {
            manifest.files.insert(file.clone(), FileInfo { bytes: 0, blake3: String::new() });
        }
        manifest.kernels = vec![compiled()];
        manifest
    }

    #[test]
    fn tables_that_contradict_themselves_are_refused() {
        type Change = fn(&mut Manifest);
        let changes: &[(&str, Change)] = &[
            ("architectures", |m| m.target = "cpu".into()),
            ("architectures", |m| m.target = "sm_90".into()),
            ("architectures", |m| m.architectures.clear()),
            ("architectures", |m| m.architectures.reverse()),
            ("architectures", |m| m.architectures.push("sm_100".into())),
            ("architectures", |m| m.architectures[1] = "gfx90a".into()),
            ("kernels \"k\" code", |m| m.architectures.push("sm_120".into())),
            ("kernels \"k\" code", |m| drop(m.kernels[0].code.remove("sm_100"))),
            ("kernels \"k\" name", |m| m.kernels.push(m.kernels[0].clone())),
            ("kernels \"k\" ptx", |m| drop(m.kernels[0].ptx.insert("sm_90".into(), "kernels/k.sm_80.ptx".into()))),
            ("kernels \"k\" files", |m| m.kernels[0].source = "kernels/src/other.cu".into()),
            ("kernels \"k\" files", |m| {
                let program = m.buckets[0].program.clone();
                m.kernels[0].ptx.insert("sm_80".into(), program);
            }),
            ("kernels \"k\" entries", |m| m.kernels[0].entries.clear()),
            ("kernels \"k\" entries", |m| m.kernels[0].entries.push("rms_norm".into())),
            ("kernels \"k\" entries", |m| m.kernels[0].entries.push("other".into())),
            ("kernels \"k\" entries", |m| m.kernels[0].code.get_mut("sm_100").unwrap().entries.clear()),
        ];
        check_kernels(&manifest()).map_err(|(field, fault)| format!("{field}: {fault}")).unwrap();
        for (at, (expected, change)) in changes.iter().enumerate() {
            let mut manifest = manifest();
            change(&mut manifest);
            let (field, fault) = check_kernels(&manifest).expect_err(&format!("change {at}"));
            assert_eq!(field, *expected, "change {at}: {fault}");
        }
    }

    #[test]
    fn a_kernel_is_found_by_all_its_constants() {
        let kernel = compiled();
        let of = |threads: u32, more: bool| {
            let mut defines = vec![Define::new("THREADS", threads), Define::new("PARAMS_BYTES", 40)];
            defines.extend(more.then(|| Define::new("COLS", 64)));
            Specialisation { kernel: "rms_norm", variant: String::new(), defines }
        };
        assert!(kernel.is(&of(256, false)));
        assert!(!kernel.is(&of(128, false)) && !kernel.is(&of(256, true)));
        assert!(!kernel.is(&Specialisation { variant: "x".into(), ..of(256, false) }));
    }

    #[test]
    fn an_architecture_has_one_name() {
        assert_eq!(architecture_number("sm_90"), Some(90));
        for bad in ["sm_", "sm_090", "sm_+9", "sm_9x", "90", "sm_99999999999"] {
            assert_eq!(architecture_number(bad), None, "{bad}");
        }
    }
}
