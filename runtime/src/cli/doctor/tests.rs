//! Reports and advice for machines that are made up.

use super::NvrtcFacts;
use super::folder::CacheFolder;
use super::machine::{Compiler, Driver, Machine, parse_module_version};
use super::processor::Processor;
use super::{advice::advice, report};
use crate::device::cuda::nvml::GpuState;
use crate::device::cuda::{CudaGpu, CudaStatus};

const CPUINFO: &str = "\
processor\t: 0
model name\t: Example CPU 9 @ 3.00GHz
flags\t\t: fpu sse2 fma f16c avx2 avx512f avx512_vnni amx_tile amx_int8

processor\t: 1
model name\t: Example CPU 9 @ 3.00GHz
flags\t\t: fpu sse2 fma f16c avx2 avx512f avx512_vnni amx_tile amx_int8
";

/// A machine with everything and nothing to advise but the target.
fn workstation() -> Machine {
    let gpu = CudaGpu {
        name: "NVIDIA H200".into(),
        capability: (9, 0),
        memory_bytes: 141 << 30,
        pci_bus_id: "0000:65:00.0".into(),
    };
    let kernels = vec!["avx512-vnni", "avx2", "portable"];
    Machine {
        processor: Processor { cores: 1, kernels, x86: true, ..Processor::parse(CPUINFO) },
        memory_available: Some(64_000_000_000),
        memory_limit: Some(128_000_000_000),
        cuda: CudaStatus::Gpus(vec![gpu]),
        driver: Driver { version: Some("550.54.14".into()), cuda: Some((12, 4)) },
        states: vec![GpuState { free_bytes: Some(140 << 30), ecc: Some(true), ..GpuState::default() }],
        management: true,
        compiler: Some(Compiler {
            nvrtc: Ok(NvrtcFacts {
                path: "/opt/libnvrtc.so.12".into(),
                version: "12.9".into(),
                origin: "of the system",
            }),
            targets: vec!["sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"],
        }),
        cache: CacheFolder { path: "/home/u/.cache/moesaic".into(), bytes: 1_500_000_000, free_bytes: Some(1 << 40) },
    }
}

fn without_gpu(cuda: CudaStatus) -> Machine {
    Machine { cuda, states: Vec::new(), driver: Driver::default(), ..workstation() }
}

#[test]
fn everything_found_is_a_line() {
    let expected = format!(
        "\
moesaic {}
  processor  Example CPU 9 @ 3.00GHz
  cores      1, 2 hardware threads in the machine
  features   AVX2, FMA, F16C, AVX-512, AVX-512 VNNI, AMX, AMX INT8
  kernels    avx512-vnni (of avx512-vnni, avx2, portable)
  memory     64.0 GB available of 128.0 GB
  driver     550.54.14, executes CUDA 12.4 and older
  cuda       1 GPU
  gpu 0      NVIDIA H200, sm_90, 141.0 GiB, 140.0 GiB free, ECC on, 0000:65:00.0
  energy     read through NVML
  nvrtc      12.9 of the system, /opt/libnvrtc.so.12
  cache      /home/u/.cache/moesaic, 1.5 GB, 1099.5 GB free
  advice     for this GPU: moesaic compile MODEL --target sm_90, then run with --device cuda
",
        env!("CARGO_PKG_VERSION")
    );
    assert_eq!(report::text(&workstation()), expected);
}

#[test]
fn a_machine_with_nothing_still_answers() {
    let machine = Machine {
        processor: Processor::default(),
        memory_available: None,
        memory_limit: None,
        management: false,
        compiler: None,
        ..without_gpu(CudaStatus::NoDriver)
    };
    let text = report::text(&machine);
    for part in ["processor  unknown", "driver     none", "cuda       no CUDA driver", "links no compiler", "no NVML"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert_eq!(advice(&machine).len(), 1, "{text}");
}

/// What a machine lacks, and words of the line that says what to do.
#[test]
fn each_lack_has_its_advice() {
    let with = |change: fn(&mut Machine)| {
        let mut machine = workstation();
        change(&mut machine);
        machine
    };
    let cases: [(Machine, &[&str]); 9] = [
        (without_gpu(CudaStatus::NoDriver), &["cpu device", "525 or newer"]),
        (without_gpu(CudaStatus::Failed("x".into())), &["nvidia-smi", "(x)"]),
        (without_gpu(CudaStatus::Gpus(Vec::new())), &["no GPU", "CUDA_VISIBLE_DEVICES"]),
        (with(|m| m.driver.cuda = Some((11, 8))), &["CUDA 11.8", "12.0", "525 or newer"]),
        (with(|m| m.compiler.as_mut().unwrap().nvrtc = Err("none here".into())), &["none here", "moesaic toolchain"]),
        (with(|m| m.memory_available = Some(1 << 30)), &["1.0 GiB of memory", "--vram"]),
        (with(|m| m.cache.free_bytes = Some(1 << 30)), &["1.0 GiB are left on the disk", "MOESAIC_CACHE"]),
        (with(|m| m.processor.kernels = vec!["portable"]), &["no AVX2"]),
        (with(|m| m.states[0].free_bytes = Some(1 << 30)), &["NVIDIA H200 has 1.0 GiB free", "fit MODEL"]),
    ];
    for (machine, words) in cases {
        let lines = advice(&machine);
        let fits = |line: &&String| words.iter().all(|word| line.contains(word));
        assert_eq!(lines.iter().filter(fits).count(), 1, "{words:?} in {lines:?}");
    }
}

#[test]
fn a_gpu_is_told_its_target() {
    let told = |capability| {
        let mut machine = workstation();
        let CudaStatus::Gpus(gpus) = &mut machine.cuda else { panic!("a machine with a GPU") };
        gpus[0].capability = capability;
        advice(&machine).join("\n")
    };
    assert!(told((8, 6)).contains("--target sm_86"));
    assert!(told((8, 7)).contains("--target sm_86"));
    assert!(told((10, 3)).contains("--target sm_100"));
    assert!(told((12, 1)).contains("--target sm_120"));
    assert!(told((7, 5)).contains("start at sm_80"));
}

#[test]
fn json_keeps_its_keys() {
    let report = report::json(&workstation());
    let keys: Vec<&str> = report.as_object().unwrap().keys().map(String::as_str).collect();
    let since_ever =
        ["version", "cores", "instruction_sets", "memory_available_bytes", "cuda", "gpus", "cache", "advice"];
    let later = ["processor", "driver", "nvml", "nvrtc", "cache_bytes", "cache_free_bytes", "features"];
    for key in since_ever.iter().chain(&later) {
        assert!(keys.contains(key), "{key} in {keys:?}");
    }
    assert_eq!(report["gpus"][0]["compute_capability"], serde_json::json!([9, 0]));
    assert_eq!(report["gpus"][0]["free_bytes"], 140u64 << 30);
    assert_eq!(report["driver"]["cuda"], "12.4");
    assert_eq!(report["nvrtc"]["found"], true);
    let without = report::json(&Machine { compiler: None, ..without_gpu(CudaStatus::NoDriver) });
    assert!(without["nvrtc"].is_null() && without["gpus"].as_array().unwrap().is_empty());
}

#[test]
fn the_kernel_module_tells_its_version() {
    let closed = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\nGCC version: 11.4.0\n";
    let open = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.14  Release Build\n";
    assert_eq!(parse_module_version(closed).as_deref(), Some("535.104.05"));
    assert_eq!(parse_module_version(open).as_deref(), Some("550.54.14"));
    assert_eq!(parse_module_version("GCC version: 11.4.0"), None);
    assert_eq!(parse_module_version(""), None);
}

#[test]
fn a_processor_nobody_describes_has_no_features() {
    let silent = Processor::parse("");
    assert_eq!((silent.model, silent.threads, silent.features.len()), (None, None, 0));
    let arm = Processor::parse("processor : 0\nFeatures : fp asimd asimddp i8mm\n");
    assert_eq!(arm.features, ["NEON", "dot product", "I8MM"]);
}
