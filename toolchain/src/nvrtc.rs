//! NVRTC: CUDA C++ in, a cubin and PTX out. A thin, checked layer over cudarc's raw bindings.
//!
//! cudarc's own safe layer gives PTX only, takes the architecture as a static string and drops the log of a success, which
//! says how many registers a kernel has. Its bindings search a library by bare name and panic without one; a library that is
//! already open under its absolute path answers to that name, so opening it first, and never closing it, is enough. That
//! also means that a process has one NVRTC: the first that was opened.

use std::ffi::{CStr, CString, c_char};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};

use cudarc::nvrtc::sys;

use crate::ToolError;

/// Versions whose result codes the bindings know.
const VERSIONS: std::ops::RangeInclusive<(i32, i32)> = (12, 0)..=(12, 9);

/// An open NVRTC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nvrtc {
    path: PathBuf,
    version: (i32, i32),
    architectures: Vec<u32>,
}

/// A translation unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source<'a> {
    /// File name, for messages and line information.
    pub name: &'a str,
    /// Its text.
    pub text: &'a str,
    /// Files it may include: name as it stands in the directive, text.
    pub headers: &'a [(&'a str, &'a str)],
}

impl<'a> Source<'a> {
    /// The headers that the text includes, directly or through others, in alphabetical order.
    pub fn included(&self) -> Vec<(&'a str, &'a str)> {
        let mut found: Vec<(&str, &str)> = Vec::new();
        let mut texts = vec![self.text];
        while let Some(text) = texts.pop() {
            for name in text.lines().filter_map(included_name) {
                let known = self.headers.iter().find(|(header, _)| *header == name);
                if let Some(header) = known.filter(|h| !found.contains(h)) {
                    found.push(*header);
                    texts.push(header.1);
                }
            }
        }
        found.sort_unstable();
        found
    }
}

/// The name in an `#include "NAME"` line.
fn included_name(line: &str) -> Option<&str> {
    line.trim_start().strip_prefix("#include \"")?.split_once('"').map(|(name, _)| name)
}

/// What a compilation gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiled {
    /// Machine code for the architecture; empty if PTX alone was asked for.
    pub cubin: Vec<u8>,
    /// PTX.
    pub ptx: String,
    /// What compiler and assembler said: warnings, registers, spills.
    pub log: String,
}

/// Why a compilation gave nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileFailure {
    /// The source is wrong; each message says in which line of which file.
    #[error("{name}: {}", .messages.join("; "))]
    Source {
        /// The source's file name.
        name: String,
        /// Errors, as `file(line): error: …`.
        messages: Vec<String>,
    },
    /// A name, text or option holds a NUL.
    #[error("{0:?} holds a NUL")]
    Text(String),
    /// NVRTC itself failed.
    #[error("NVRTC: {call}: {reason}")]
    Internal {
        /// The function.
        call: &'static str,
        /// Its result in words.
        reason: String,
    },
}

/// The one NVRTC of this process.
static OPENED: OnceLock<Nvrtc> = OnceLock::new();

/// Held while the library is opened, so that only one is.
static OPENING: Mutex<()> = Mutex::new(());

impl Nvrtc {
    /// Opens the library at `path`, unless one is open already: then that one is given, and it is an error to have asked
    /// for another.
    ///
    /// # Errors
    /// If it is no NVRTC of a known version.
    pub fn open(path: &Path) -> Result<Nvrtc, ToolError> {
        let failed = |message: String| ToolError::Library { path: path.to_path_buf(), message };
        let path = path.canonicalize().map_err(|e| failed(format!("not found ({e})")))?;
        let _guard = OPENING.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(opened) = OPENED.get() {
            let other = || failed(format!("this process already uses {}", opened.path.display()));
            return if opened.path == path { Ok(opened.clone()) } else { Err(other()) };
        }
        let version = load(&path).map_err(failed)?;
        let nvrtc = Nvrtc { path, version, architectures: architectures().map_err(failed)? };
        Ok(OPENED.get_or_init(|| nvrtc).clone())
    }

    /// Where the library is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Major and minor version. Registers differ by a quarter between versions: it belongs to every figure of a kernel.
    pub fn version(&self) -> (i32, i32) {
        self.version
    }

    /// Compute capabilities it compiles for, as 80 for 8.0, in ascending order.
    pub fn architectures(&self) -> &[u32] {
        &self.architectures
    }

    /// Compiles for `architecture`: `sm_80` gives a cubin and PTX, `compute_80` PTX alone. May be called by several threads at once.
    ///
    /// # Errors
    /// If the source does not compile.
    pub fn compile(&self, source: &Source, architecture: &str, options: &[String]) -> Result<Compiled, CompileFailure> {
        let program = Program::new(&Placed::new(source))?;
        let mut all = vec![format!("--gpu-architecture={architecture}")];
        all.extend_from_slice(options);
        let all = all.iter().map(|o| text(o)).collect::<Result<Vec<_>, _>>()?;
        let pointers: Vec<*const c_char> = all.iter().map(|o| o.as_ptr()).collect();
        // SAFETY: the program is alive and the pointers are to strings that outlive the call.
        let result = unsafe { sys::nvrtcCompileProgram(program.0, pointers.len() as i32, pointers.as_ptr()) };
        let log = program.text("nvrtcGetProgramLog", sys::nvrtcGetProgramLogSize, sys::nvrtcGetProgramLog)?;
        if result == sys::nvrtcResult::NVRTC_ERROR_COMPILATION {
            return Err(CompileFailure::Source { name: source.name.into(), messages: error_lines(&unplaced(&log)) });
        }
        succeeded("nvrtcCompileProgram", result)?;
        let ptx = program.text("nvrtcGetPTX", sys::nvrtcGetPTXSize, sys::nvrtcGetPTX)?;
        let cubin = match architecture.starts_with("sm_") {
            true => program.bytes("nvrtcGetCUBIN", sys::nvrtcGetCUBINSize, sys::nvrtcGetCUBIN)?,
            false => Vec::new(),
        };
        Ok(Compiled { cubin, ptx: unplaced(&ptx), log: unplaced(&log) })
    }
}

/// The folder that texts are said to be in. NVRTC writes the working directory before relative names into line
/// information, and with it the place of a compilation into its result.
const PLACE: &str = "/moesaic/";

/// A translation unit whose files all have names in [`PLACE`].
struct Placed {
    name: String,
    text: String,
    headers: Vec<(String, String)>,
}

impl Placed {
    fn new(source: &Source) -> Placed {
        let place = |name: &str| format!("{PLACE}{name}");
        let text = |text: &str| include_placed(text, source.headers);
        let headers = source.headers.iter().map(|(name, content)| (place(name), text(content)));
        Placed { name: place(source.name), text: text(source.text), headers: headers.collect() }
    }
}

/// The text with its `#include "NAME"` lines leading to [`PLACE`], where that is one of the headers. Lines stay where they are.
fn include_placed(text: &str, headers: &[(&str, &str)]) -> String {
    let line = |line: &str| match included_name(line).filter(|name| headers.iter().any(|(header, _)| header == name)) {
        Some(name) => line.replacen(name, &format!("{PLACE}{name}"), 1),
        None => line.to_string(),
    };
    text.split_inclusive('\n').map(line).collect()
}

/// A text in which files have their own names again.
fn unplaced(text: &str) -> String {
    text.replace(PLACE, "")
}

/// Opens the library for the rest of the process and gives its version.
fn load(path: &Path) -> Result<(i32, i32), String> {
    // SAFETY: NVRTC's initialisers do nothing that could be a hazard to this process.
    let library = unsafe { libloading::Library::new(path) }.map_err(|e| one_line(&e.to_string()))?;
    let mut version = (0, 0);
    {
        type Version = unsafe extern "C" fn(*mut i32, *mut i32) -> i32;
        // SAFETY: nvrtcVersion has had this signature in every version.
        let get = unsafe { library.get::<Version>(b"nvrtcVersion\0") }.map_err(|e| one_line(&e.to_string()))?;
        // SAFETY: both pointers are to integers.
        let result = unsafe { get(&mut version.0, &mut version.1) };
        if result != 0 {
            return Err(format!("nvrtcVersion failed with code {result}"));
        }
    }
    if !VERSIONS.contains(&version) {
        return Err(format!("NVRTC {}.{}, expected 12.0 to 12.9", version.0, version.1));
    }
    // Closed again, the name would no longer lead to this file.
    std::mem::forget(library);
    // SAFETY: asks the dynamic linker for a name.
    match unsafe { sys::is_culib_present() } {
        true => Ok(version),
        false => Err("the library does not answer to the name libnvrtc.so.12".into()),
    }
}

fn architectures() -> Result<Vec<u32>, String> {
    let mut count = 0;
    // SAFETY: the library is open; the pointers are to integers, of which there are as many as it says.
    let found = unsafe {
        succeeded("nvrtcGetNumSupportedArchs", sys::nvrtcGetNumSupportedArchs(&mut count)).and_then(|()| {
            let mut found = vec![0; usize::try_from(count).unwrap_or(0)];
            succeeded("nvrtcGetSupportedArchs", sys::nvrtcGetSupportedArchs(found.as_mut_ptr()))?;
            Ok(found)
        })
    };
    let found = found.map_err(|e| e.to_string())?;
    Ok(found.into_iter().filter_map(|a| u32::try_from(a).ok()).collect())
}

/// A program of NVRTC, destroyed with this value.
struct Program(sys::nvrtcProgram);

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: the program was created and is destroyed once.
        unsafe { sys::nvrtcDestroyProgram(&mut self.0) };
    }
}

impl Program {
    fn new(source: &Placed) -> Result<Program, CompileFailure> {
        let (unit, name) = (text(&source.text)?, text(&source.name)?);
        let texts = source.headers.iter().map(|(_, t)| text(t)).collect::<Result<Vec<_>, _>>()?;
        let names = source.headers.iter().map(|(n, _)| text(n)).collect::<Result<Vec<_>, _>>()?;
        let pointers = |list: &[CString]| list.iter().map(|s| s.as_ptr()).collect::<Vec<_>>();
        let (texts, names) = (pointers(&texts), pointers(&names));
        let mut program = std::ptr::null_mut();
        // SAFETY: every pointer is to a string or an array of them that outlives the call, which copies them.
        let result = unsafe {
            sys::nvrtcCreateProgram(
                &mut program,
                unit.as_ptr(),
                name.as_ptr(),
                texts.len() as i32,
                texts.as_ptr(),
                names.as_ptr(),
            )
        };
        succeeded("nvrtcCreateProgram", result)?;
        Ok(Program(program))
    }

    /// What a pair of functions gives: the size of a result, and the result.
    fn bytes(
        &self,
        call: &'static str,
        size: unsafe fn(sys::nvrtcProgram, *mut usize) -> sys::nvrtcResult,
        get: unsafe fn(sys::nvrtcProgram, *mut c_char) -> sys::nvrtcResult,
    ) -> Result<Vec<u8>, CompileFailure> {
        let mut length = 0;
        // SAFETY: the program is alive, the pointer to an integer.
        succeeded(call, unsafe { size(self.0, &mut length) })?;
        let mut bytes = vec![0u8; length];
        // SAFETY: there is room for as many bytes as were announced.
        succeeded(call, unsafe { get(self.0, bytes.as_mut_ptr().cast()) })?;
        Ok(bytes)
    }

    /// As [`Program::bytes`], of a text that ends with NUL.
    fn text(
        &self,
        call: &'static str,
        size: unsafe fn(sys::nvrtcProgram, *mut usize) -> sys::nvrtcResult,
        get: unsafe fn(sys::nvrtcProgram, *mut c_char) -> sys::nvrtcResult,
    ) -> Result<String, CompileFailure> {
        let mut bytes = self.bytes(call, size, get)?;
        bytes.truncate(bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len()));
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

fn text(of: &str) -> Result<CString, CompileFailure> {
    CString::new(of).map_err(|_| CompileFailure::Text(of.chars().take(40).collect()))
}

fn succeeded(call: &'static str, result: sys::nvrtcResult) -> Result<(), CompileFailure> {
    if result == sys::nvrtcResult::NVRTC_SUCCESS {
        return Ok(());
    }
    // SAFETY: gives a static string for every code.
    let reason = unsafe { CStr::from_ptr(sys::nvrtcGetErrorString(result)) };
    Err(CompileFailure::Internal { call, reason: reason.to_string_lossy().into_owned() })
}

/// The errors of a log, each in one line; the whole log if none is marked as such.
fn error_lines(log: &str) -> Vec<String> {
    let is_error =
        |line: &&str| ["error:", "error #", "ptxas error", "ptxas fatal"].iter().any(|mark| line.contains(mark));
    let errors: Vec<String> = log.lines().filter(is_error).map(one_line).collect();
    if errors.is_empty() { vec![one_line(log)] } else { errors }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_found_through_headers_and_once() {
        let headers = [
            ("b.cuh", "#include \"a.cuh\"\n"),
            ("a.cuh", "#include \"b.cuh\" // both ways\n"),
            ("unused.cuh", ""),
            ("c.cuh", ""),
        ];
        let names = |text: &str| {
            let included = Source { name: "x.cu", text, headers: &headers }.included();
            included.iter().map(|(name, _)| (*name).to_string()).collect::<Vec<_>>()
        };
        assert_eq!(
            names("#include \"b.cuh\"\n  #include \"c.cuh\"\n#include \"none.h\"\n"),
            ["a.cuh", "b.cuh", "c.cuh"]
        );
        assert_eq!(names("int x; // #include \"a.cuh\""), [""; 0]);
    }
}
