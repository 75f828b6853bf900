//! The pinned NVRTC compiles: cubin, PTX, registers, errors with file and line. Fetches the wheel once.

use toolchain::locate;
use toolchain::nvrtc::{CompileFailure, Nvrtc, Source};

const AXPY: &str = r#"
#include "scale.h"
extern "C" __global__ void axpy(const float* x, float* y, unsigned count) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) y[i] += SCALE * x[i];
}
"#;

fn nvrtc() -> Nvrtc {
    locate::nvrtc(None).expect("NVRTC is found or fetched").0
}

fn source(text: &str) -> Source<'_> {
    Source { name: "axpy.cu", text, headers: &[("scale.h", "#define SCALE 2.0f\n")] }
}

#[test]
fn a_kernel_becomes_machine_code_and_ptx_of_the_architecture() {
    let nvrtc = nvrtc();
    assert!((12..=12).contains(&nvrtc.version().0) && nvrtc.architectures().contains(&80), "{nvrtc:?}");
    let options = ["--ptxas-options=-v".to_string(), "-lineinfo".to_string()];
    for architecture in ["sm_80", "sm_90"] {
        let compiled = nvrtc.compile(&source(AXPY), architecture, &options).expect("it compiles");
        assert!(compiled.cubin.starts_with(b"\x7fELF"), "a cubin is an ELF file");
        assert!(compiled.ptx.contains(&format!(".target {architecture}")), "{}", compiled.ptx);
        assert!(compiled.ptx.contains(".entry axpy") && compiled.ptx.contains(".loc"), "{}", compiled.ptx);
        assert!(compiled.log.contains("registers"), "{}", compiled.log);
    }
    let ptx_alone = nvrtc.compile(&source(AXPY), "compute_80", &[]).expect("it compiles");
    assert!(ptx_alone.cubin.is_empty() && ptx_alone.ptx.contains(".target sm_80"));
}

#[test]
fn the_same_source_gives_the_same_bytes_from_any_thread() {
    let nvrtc = nvrtc();
    let compile = || nvrtc.compile(&source(AXPY), "sm_80", &[]).expect("it compiles");
    let first = compile();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(compile)).collect();
        threads.into_iter().for_each(|t| assert_eq!(t.join().expect("a thread"), first));
    });
}

/// The working directory is that of the process: this test says what a result may not hold, in whichever it runs.
#[test]
fn results_say_nothing_of_where_they_were_made() {
    let compiled = nvrtc().compile(&source(AXPY), "sm_80", &["-lineinfo".to_string()]).expect("it compiles");
    let files: Vec<&str> = compiled.ptx.lines().filter_map(|l| l.trim().strip_prefix(".file")).collect();
    assert!(files.len() == 1 && files[0].ends_with("\"axpy.cu\""), "{files:?}");
    let here = std::env::current_dir().expect("a folder");
    let here = here.to_str().expect("UTF-8").as_bytes();
    assert!(!compiled.cubin.windows(here.len()).any(|bytes| bytes == here));
}

#[test]
fn an_error_names_file_and_line() {
    let wrong = AXPY.replace("count) y", "kount) y");
    let failure = nvrtc().compile(&source(&wrong), "sm_80", &[]).expect_err("kount is not defined");
    let CompileFailure::Source { messages, .. } = &failure else { panic!("{failure}") };
    assert!(messages.iter().any(|m| m.starts_with("axpy.cu(5): error") && m.contains("kount")), "{messages:?}");
    let failure = nvrtc().compile(&source("\0"), "sm_80", &[]).expect_err("a NUL");
    assert!(matches!(failure, CompileFailure::Text(_)), "{failure}");
    assert!(nvrtc().compile(&source(AXPY), "sm_1", &[]).is_err(), "there is no such architecture");
}

#[test]
fn a_process_has_one_nvrtc() {
    let first = nvrtc();
    assert_eq!(Nvrtc::open(first.path()).expect("the same"), first);
    assert_eq!(nvrtc(), first);
    let other = std::env::current_exe().expect("this test");
    let error = Nvrtc::open(&other).expect_err("another library").to_string();
    assert!(error.contains("already uses"), "{error}");
}
