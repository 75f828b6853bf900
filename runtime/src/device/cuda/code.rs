//! Which code of an artifact a GPU executes, and its modules as they are loaded.
//!
//! Machine code runs on GPUs of its own major version from its own minor one on; PTX is translated by the driver for every later GPU. Machine
//! code is taken where there is some: it was assembled by the compiler that was tested, and loads at once.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use kernels::cuda::Specialisation;

use super::driver::{CudaVersion, DriverError, FunctionHandle, GpuProperties, codes};
use super::error::GpuError;
use super::resources::{Gpu, Module};
use crate::artifact::{Artifact, CompiledKernel, Manifest, architecture_number};
use crate::device::DeviceError;

/// The first CUDA whose drivers have all that the device calls.
const LEAST_DRIVER: CudaVersion = CudaVersion(12_000);

/// The first CUDA that keeps the overlap of launches when it records them.
const RECORDS_OVERLAP: CudaVersion = CudaVersion(12_030);

/// The first architecture whose kernels may overlap: older code does not wait for the launch before it.
const OVERLAPPING: u32 = 90;

/// What kind of code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Machine code.
    Cubin,
    /// Text that the driver translates.
    Ptx,
}

/// The code of an artifact that a GPU executes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CodeChoice {
    pub form: Form,
    /// The architecture it was compiled for, such as `sm_90`.
    pub architecture: String,
    /// Its number.
    number: u32,
}

impl fmt::Display for CodeChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let form = if self.form == Form::Cubin { "cubin" } else { "PTX" };
        write!(f, "{form} {}", self.architecture)
    }
}

impl CodeChoice {
    /// The best code for a GPU and its driver.
    pub fn new(manifest: &Manifest, gpu: &GpuProperties, driver: CudaVersion) -> Result<CodeChoice, GpuError> {
        let (major, minor) = gpu.capability;
        let written_by = manifest.kernel_compiler.as_deref().and_then(compiler_version).unwrap_or(LEAST_DRIVER);
        // A driver runs the machine code of every CUDA of its own major version.
        let needed = LEAST_DRIVER.max(CudaVersion(written_by.0 / 1000 * 1000));
        if driver < needed {
            return Err(GpuError::OldDriver { found: driver, needed });
        }
        let cubins = manifest.architectures.iter().map(String::as_str);
        let own = |number: &u32| number / 10 == major && number % 10 <= minor;
        if let Some((number, name)) = latest(cubins, own) {
            return Ok(CodeChoice { form: Form::Cubin, architecture: name.into(), number });
        }
        let ptx = manifest.kernels.iter().flat_map(|k| k.ptx.keys()).map(String::as_str);
        let Some((number, name)) = latest(ptx, |number| *number <= 10 * major + minor) else {
            let code = available(manifest);
            return Err(GpuError::NoCode { gpu: gpu.name.clone(), major, minor, code });
        };
        if driver < written_by {
            let compiler = manifest.kernel_compiler.clone().unwrap_or_default();
            return Err(GpuError::NewPtx { compiler, major, minor, found: driver });
        }
        Ok(CodeChoice { form: Form::Ptx, architecture: name.into(), number })
    }

    /// Whether launches may begin before the one before them has ended: the code must wait by itself, and a recording must keep it.
    pub fn overlaps(&self, gpu: &GpuProperties, driver: CudaVersion) -> bool {
        self.number >= OVERLAPPING && gpu.capability.0 >= OVERLAPPING / 10 && driver >= RECORDS_OVERLAP
    }

    /// The file of a kernel's code.
    fn file<'a>(&self, kernel: &'a CompiledKernel) -> Option<&'a String> {
        match self.form {
            Form::Cubin => kernel.code.get(&self.architecture).map(|code| &code.cubin),
            Form::Ptx => kernel.ptx.get(&self.architecture),
        }
    }
}

/// The latest of architectures that will do.
fn latest<'a>(names: impl Iterator<Item = &'a str>, fits: impl Fn(&u32) -> bool) -> Option<(u32, &'a str)> {
    names.filter_map(|name| Some((architecture_number(name).filter(&fits)?, name))).max()
}

/// What an artifact has, in words.
fn available(manifest: &Manifest) -> String {
    let mut ptx: Vec<&str> = manifest.kernels.iter().flat_map(|k| k.ptx.keys()).map(String::as_str).collect();
    ptx.sort_unstable();
    ptx.dedup();
    let list = |names: Vec<&str>| if names.is_empty() { "nothing".into() } else { names.join(", ") };
    let cubins = manifest.architectures.iter().map(String::as_str).collect();
    format!("machine code for {} and PTX for {}", list(cubins), list(ptx))
}

/// The version in a compiler's name: 12.9 of `NVRTC 12.9`.
fn compiler_version(name: &str) -> Option<CudaVersion> {
    let number = name.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    let mut parts = number.split('.').map(|part| part.parse::<u32>().ok());
    let (major, minor) = (parts.next()??, parts.next().flatten().unwrap_or(0));
    Some(CudaVersion(major.checked_mul(1000)?.checked_add(minor.checked_mul(10)?)?))
}

/// A specialisation's code on the GPU.
pub(super) struct LoadedKernel {
    module: Module,
    name: String,
    /// Kernels that were asked for, and the bytes of dynamic shared memory that each may use.
    functions: Mutex<HashMap<&'static str, (FunctionHandle, u32)>>,
}

/// Dynamic shared memory that launches may use without leave, in bytes.
const SHARED_WITHOUT_LEAVE: u32 = 48 << 10;

impl LoadedKernel {
    /// An entry, with leave to use so many bytes of dynamic shared memory.
    pub fn entry(&self, name: &'static str, shared_bytes: u32) -> Result<FunctionHandle, DeviceError> {
        let mut functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        let (function, allowed) = match functions.get_mut(name) {
            Some(known) => known,
            None => {
                let function = self.module.function(name).map_err(|e| self.error(e))?;
                functions.entry(name).or_insert((function, SHARED_WITHOUT_LEAVE))
            }
        };
        if shared_bytes > *allowed {
            let gpu = self.module.gpu();
            let asked = gpu.call("reserve shared memory", |driver| driver.allow_shared(*function, shared_bytes));
            asked.map_err(|e| self.error(e))?;
            *allowed = shared_bytes;
        }
        Ok(*function)
    }

    fn error(&self, error: DeviceError) -> DeviceError {
        match error {
            DeviceError::Driver { source, .. } => kernel_error(&self.name, &source),
            other => other,
        }
    }
}

/// All code of an artifact that its programs launch, each specialisation once.
pub(super) struct LoadedCode {
    gpu: Arc<Gpu>,
    artifact: Arc<Artifact>,
    choice: CodeChoice,
    kernels: HashMap<Specialisation, Arc<LoadedKernel>>,
    bytes: u64,
}

impl LoadedCode {
    /// None loaded yet.
    pub fn new(gpu: &Arc<Gpu>, artifact: &Arc<Artifact>, choice: CodeChoice) -> LoadedCode {
        LoadedCode { gpu: gpu.clone(), artifact: artifact.clone(), choice, kernels: HashMap::new(), bytes: 0 }
    }

    /// The code of a specialisation.
    pub fn get(&mut self, specialisation: Specialisation) -> Result<Arc<LoadedKernel>, DeviceError> {
        if let Some(kernel) = self.kernels.get(&specialisation) {
            return Ok(kernel.clone());
        }
        let name = specialisation.name();
        let mut image = self.read(&specialisation, &name)?;
        if self.choice.form == Form::Ptx {
            image.push(0);
        }
        let module = Module::new(&self.gpu, &image).map_err(|error| match error {
            DeviceError::Driver { source, .. } => kernel_error(&name, &source),
            other => other,
        })?;
        self.bytes += image.len() as u64;
        let kernel = Arc::new(LoadedKernel { module, name, functions: Mutex::default() });
        Ok(self.kernels.entry(specialisation).or_insert(kernel).clone())
    }

    fn read(&self, specialisation: &Specialisation, name: &str) -> Result<Vec<u8>, DeviceError> {
        let missing = |message: String| DeviceError::Kernel { kernel: name.into(), label: "loading".into(), message };
        let compiled = self.artifact.manifest().compiled(specialisation);
        let compiled = compiled.ok_or_else(|| missing("the artifact has no code for it; compile it again".into()))?;
        let file = self.choice.file(compiled);
        let file =
            file.ok_or_else(|| missing(format!("the artifact has no {} of it; compile it again", self.choice)))?;
        self.artifact.read_file(file)?.ok_or_else(|| missing(format!("{file} is not in the artifact")))
    }
}

/// The error of a kernel whose code is not taken.
fn kernel_error(name: &str, source: &DriverError) -> DeviceError {
    let advice = match source.code {
        codes::UNSUPPORTED_PTX_VERSION => "install a newer NVIDIA driver, or compile with --target of this GPU",
        codes::NO_BINARY_FOR_GPU | codes::INVALID_PTX => "compile with --target of this GPU",
        _ => "compile the artifact again",
    };
    DeviceError::Kernel { kernel: name.into(), label: "loading".into(), message: format!("{source}; {advice}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TinyModel;

    fn manifest(architectures: &[&str], ptx: &[&str], compiler: &str) -> Manifest {
        let folder = tempfile::tempdir().unwrap();
        let mut manifest = TinyModel::new().write(folder.path());
        manifest.architectures = architectures.iter().map(|a| (*a).to_string()).collect();
        manifest.kernel_compiler = Some(compiler.into());
        manifest.kernels = vec![CompiledKernel {
            name: "k".into(),
            kernel: "rms_norm".into(),
            variant: String::new(),
            defines: Default::default(),
            source: "k.cu".into(),
            entries: Vec::new(),
            code: Default::default(),
            ptx: ptx.iter().map(|a| ((*a).to_string(), format!("{a}.ptx"))).collect(),
        }];
        manifest
    }

    fn gpu(major: u32, minor: u32) -> GpuProperties {
        GpuProperties { name: "GPU".into(), capability: (major, minor) }
    }

    #[test]
    fn machine_code_of_the_same_major_version_comes_before_ptx() {
        let manifest = manifest(&["sm_80", "sm_86", "sm_90", "sm_120"], &["sm_80", "sm_120"], "NVRTC 12.9");
        let chosen =
            |major, minor| CodeChoice::new(&manifest, &gpu(major, minor), CudaVersion(12_090)).unwrap().to_string();
        assert_eq!(chosen(8, 0), "cubin sm_80");
        assert_eq!(chosen(8, 9), "cubin sm_86");
        assert_eq!(chosen(9, 0), "cubin sm_90");
        assert_eq!(chosen(12, 1), "cubin sm_120");
        assert_eq!(chosen(10, 3), "PTX sm_80");
        assert_eq!(chosen(13, 0), "PTX sm_120");
    }

    #[test]
    fn what_cannot_run_says_what_to_do() {
        let manifest = manifest(&["sm_90"], &["sm_90"], "NVRTC 12.9");
        let refused = |major, minor, driver| {
            CodeChoice::new(&manifest, &gpu(major, minor), CudaVersion(driver)).unwrap_err().to_string()
        };
        let old = refused(9, 0, 11_080);
        assert!(old.contains("11.8") && old.contains("12.0"), "{old}");
        let code = refused(8, 6, 12_090);
        assert!(code.contains("--target sm_86") && code.contains("machine code for sm_90"), "{code}");
        let ptx = refused(10, 0, 12_040);
        assert!(ptx.contains("NVRTC 12.9") && ptx.contains("12.4") && ptx.contains("--target sm_100"), "{ptx}");
        // Machine code runs on every driver of its major version.
        assert!(CodeChoice::new(&manifest, &gpu(9, 0), CudaVersion(12_000)).is_ok());
    }

    #[test]
    fn only_code_that_waits_by_itself_overlaps() {
        let manifest = manifest(&["sm_80"], &["sm_80", "sm_90"], "NVRTC 12.9");
        let choice = |major| CodeChoice::new(&manifest, &gpu(major, 0), CudaVersion(13_000)).unwrap();
        assert!(!choice(8).overlaps(&gpu(8, 0), CudaVersion(13_000)));
        assert!(choice(9).overlaps(&gpu(9, 0), CudaVersion(12_030)));
        assert!(!choice(9).overlaps(&gpu(9, 0), CudaVersion(12_020)));
        // PTX of an older architecture on a newer GPU.
        let old = CodeChoice { form: Form::Ptx, architecture: "sm_80".into(), number: 80 };
        assert!(!old.overlaps(&gpu(9, 0), CudaVersion(13_000)));
    }

    #[test]
    fn versions_of_compilers_are_read() {
        assert_eq!(compiler_version("NVRTC 12.9"), Some(CudaVersion(12_090)));
        assert_eq!(compiler_version("nvrtc 13"), Some(CudaVersion(13_000)));
        for unknown in ["", "NVRTC", "9999999999"] {
            assert_eq!(compiler_version(unknown), None, "{unknown}");
        }
    }
}
