//! Faults put into the PTX of a compiled fixture: the simulator as a device names the check, the kernel, the launch and the result; and the verb
//! `simulate` reports them.

use std::path::Path;
use std::sync::Arc;

use compiler::pipeline::CompileOptions;
use compiler::target::{Activations, Arch, Target};
use kernels::cuda::Specialisation;
use moesaic_tests::artifacts::{compile, compile_with};
use moesaic_tests::golden::{self, Golden};
use runtime::artifact::Artifact;
use runtime::cli::{DeviceArgs, LogitsArgs, SimulateArgs, logits, simulate};
use runtime::device::DeviceError;
use runtime::device::sim::{ArtifactModules, Checks, LaunchRecord, ModuleSource, SimDevice, SimOptions};
use runtime::engine::{Chunk, Engine, Rows};
use safetensors::SafeTensors;

/// A model for both dialects of PTX.
fn artifact() -> (tempfile::TempDir, Arc<Artifact>) {
    let options = CompileOptions {
        architectures: vec![Arch::Sm80, Arch::Sm100],
        buckets: vec![1, 64],
        ..CompileOptions::new(Target::Cuda(Arch::Sm80), Activations::F16)
    };
    compile_with(&golden::folder().join("llama31"), &options)
}

/// The artifact's PTX with one kernel changed, line by line: a line becomes another, or none.
struct Changed<'a> {
    modules: ArtifactModules,
    kernel: &'a str,
    line: &'a dyn Fn(&str) -> Option<String>,
}

impl ModuleSource for Changed<'_> {
    fn architecture(&self) -> &str {
        self.modules.architecture()
    }

    fn ptx(&self, specialisation: &Specialisation) -> Result<(String, String), DeviceError> {
        let (name, text) = self.modules.ptx(specialisation)?;
        if specialisation.kernel != self.kernel {
            return Ok((name, text));
        }
        let lines: Vec<String> = text.lines().filter_map(self.line).collect();
        assert_ne!(lines.join("\n").trim(), text.trim(), "{} is unchanged", self.kernel);
        Ok((name, lines.join("\n")))
    }
}

fn engine(artifact: &Arc<Artifact>, source: &dyn ModuleSource, options: SimOptions) -> Engine {
    let device = SimDevice::load(artifact.clone(), source, SimOptions { pages: 8, ..options }).expect("a device");
    Engine::with_device(artifact.manifest(), Box::new(device), 128)
}

/// What a prompt of 17 tokens gives.
fn run(engine: &mut Engine) -> Result<(), String> {
    let tokens: Vec<u32> = (3..20).collect();
    let sequence = engine.open_sequence();
    let step = engine.step_each(&[Chunk { sequence, tokens: &tokens, logits: Rows::Last }], |_| ());
    step.map_err(|e| e.to_string())
}

/// The error of a step with one kernel changed.
fn fault(artifact: &Arc<Artifact>, kernel: &str, line: &dyn Fn(&str) -> Option<String>) -> String {
    let modules = ArtifactModules::open(artifact, None).expect("PTX");
    let mut engine = engine(artifact, &Changed { modules, kernel, line }, SimOptions::default());
    run(&mut engine).expect_err("a finding")
}

fn without(word: &'static str) -> impl Fn(&str) -> Option<String> {
    move |line| (!line.contains(word)).then(|| line.to_string())
}

fn with(from: &'static str, to: &'static str) -> impl Fn(&str) -> Option<String> {
    move |line| Some(line.replace(from, to))
}

#[test]
fn a_fault_fails_the_step_and_is_named_with_its_place() {
    let (_folder, artifact) = artifact();
    let expect = |kernel: &str, line: &dyn Fn(&str) -> Option<String>, words: &[&str]| {
        let error = fault(&artifact, kernel, line);
        for word in words.iter().chain(&["kernel ", ".cu", "block (", "thread ("]) {
            assert!(error.contains(word), "{word:?} is missing in {error}");
        }
        assert!(!error.contains('\n'), "{error}");
    };
    // What no launch has written is found where it is read.
    expect("embedding", &without("st.global"), &["uninitialised read", "`out of "]);
    expect("qkv", &without("bar.sync"), &["kernel qkv", "race in shared memory", " more"]);
    // One element too many, at the end of a result that is as long as this step makes it.
    let too_many = with("setp.ge.u64", "setp.gt.u64");
    expect("gather_rows", &too_many, &["kernel gather_rows", "out of bounds", "`out of "]);
    // The result goes where the operand is.
    let swapped = with("gather_rows_param_0+16]", "gather_rows_param_0]");
    expect("gather_rows", &swapped, &["kernel gather_rows", "write to a read-only allocation"]);
    // A weight is not written, whatever the address.
    expect("embedding", &with("embedding_param_0+16]", "embedding_param_0+8]"), &["kernel embedding", "read-only"]);
}

#[test]
fn a_device_that_goes_on_tells_its_observer() {
    let (_folder, artifact) = artifact();
    let count = artifact.programs()[1].launches.len();
    let watch = |line: &dyn Fn(&str) -> Option<String>, checks: Checks, only: Option<usize>| {
        let (sender, records) = std::sync::mpsc::channel::<LaunchRecord>();
        let observer = Box::new(move |record| sender.send(record).expect("the test listens"));
        let options =
            SimOptions { checks, only, counters: true, go_on: true, observer: Some(observer), ..SimOptions::default() };
        let modules = ArtifactModules::open(&artifact, Some("sm_100")).expect("PTX");
        let mut engine = engine(&artifact, &Changed { modules, kernel: "qkv", line }, options);
        run(&mut engine).expect("a step");
        let weights = engine.weight_bytes_read();
        drop(engine);
        let records: Vec<LaunchRecord> = records.iter().collect();
        assert!(weights > 0 && records.iter().all(|r| r.counters.is_some() && r.tokens == 17));
        records
    };
    let dropped = without("bar.sync");
    let all = watch(&dropped, Checks::all(), None);
    assert!(all.len() >= count && all.iter().any(|r| r.kernel == "qkv" && !r.findings.is_empty()));
    assert!(all.iter().filter(|r| r.kernel != "qkv").all(|r| r.findings.is_empty()));
    assert!(watch(&dropped, Checks::none(), None).iter().all(|r| r.findings.is_empty()));
    let one = watch(&dropped, "shared-race".parse().expect("a check"), Some(1));
    assert!(one.iter().all(|r| r.launch == 1) && one.iter().any(|r| !r.findings.is_empty()));
}

#[test]
fn what_cannot_be_simulated_is_refused_with_a_way_out() {
    let (_folder, artifact) = artifact();
    let refused = |result: Result<ArtifactModules, DeviceError>| result.err().expect("an error").to_string();
    let unknown = refused(ArtifactModules::open(&artifact, Some("sm_90")));
    assert!(unknown.contains("sm_90") && unknown.contains("sm_80, sm_100"), "{unknown}");
    assert_eq!(ArtifactModules::open(&artifact, None).expect("PTX").architecture(), "sm_80");
    let (_cpu, for_cpu) = compile(&golden::folder().join("llama31"), Activations::F32);
    let no_code = refused(ArtifactModules::open(&for_cpu, None));
    assert!(no_code.contains("--target sm_80"), "{no_code}");
    let modules = ArtifactModules::open(&artifact, None).expect("PTX");
    let panels = SimDevice::load(for_cpu, &modules, SimOptions::default()).err().expect("an error").to_string();
    assert!(panels.contains("panels") && panels.contains("--target sm_80"), "{panels}");
    let no_pages = SimOptions { pages: 0, ..SimOptions::default() };
    assert!(SimDevice::load(artifact.clone(), &modules, no_pages).is_err());
}

#[test]
fn logits_are_written_from_the_simulator() {
    let (folder, artifact) = artifact();
    let prompt = &Golden::read(&golden::folder().join("llama31")).prompts[1];
    let device = DeviceArgs {
        device: "sim".into(),
        threads: None,
        isa: None,
        max_model_len: None,
        vram: None,
        gpu: 0,
        gpu_memory_utilization: None,
        no_overlap: false,
        no_mmap: false,
    };
    let output = folder.path().join("logits.safetensors");
    let args = LogitsArgs {
        artifact: artifact.path().into(),
        tokens: prompt.ids.clone(),
        tokens_file: None,
        output: output.clone(),
        device,
    };
    logits(&args).expect("logits");
    let bytes = std::fs::read(&output).expect("the file");
    let tensors = SafeTensors::deserialize(&bytes).expect("safetensors");
    let words = tensors.tensor("logits").expect("logits").data().chunks_exact(4);
    let found: Vec<f32> = words.map(|w| f32::from_le_bytes(w.try_into().expect("4 bytes"))).collect();
    let error = golden::relative_rms(&found, &prompt.logits);
    assert!(error > 0.0 && error < 2e-2, "relative RMS {error:.1e}");
}

fn arguments(artifact: &Path) -> SimulateArgs {
    SimulateArgs {
        artifact: artifact.into(),
        prompt: Some("Hello".into()),
        tokens: Vec::new(),
        max_tokens: 2,
        arch: None,
        check: "all".into(),
        counters: false,
        launch: None,
        compare: None,
        report: None,
        threads: None,
        json: false,
    }
}

#[test]
fn the_verb_runs_an_artifact_and_writes_a_page() {
    let (folder, artifact) = artifact();
    let page = folder.path().join("report.html");
    let (report, compare) = (Some(page.clone()), Some("cpu".into()));
    let args = SimulateArgs { report, compare, json: true, ..arguments(artifact.path()) };
    simulate(&args, Some(&compiler::report::simulation_page)).expect("no finding");
    let text = std::fs::read_to_string(&page).expect("the page");
    for part in [
        "sim sm_80, all checks",
        "instructions a weight byte",
        "launches a layer",
        "bank conflicts",
        "Against the cpu device",
    ] {
        assert!(text.contains(part), "{part}");
    }
    let error = |args: SimulateArgs| simulate(&args, None).expect_err("an error").to_string();
    let base = || arguments(artifact.path());
    assert!(error(SimulateArgs { report: Some(page.clone()), ..base() }).contains("--report"));
    assert!(error(SimulateArgs { launch: Some(999), ..base() }).contains("999"));
    assert!(error(SimulateArgs { check: "races".into(), ..base() }).contains("shared-race"));
    assert!(error(SimulateArgs { max_tokens: 1 << 40, ..base() }).contains("--max-tokens"));
    assert!(error(SimulateArgs { arch: Some("sm_90".into()), ..base() }).contains("sm_80, sm_100"));
    let unknown = SimulateArgs { prompt: None, tokens: vec![1 << 20], ..base() };
    assert!(error(unknown).contains("1048576"));
}
