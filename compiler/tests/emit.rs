//! Emission: programs become machine code for GPUs, on a machine without one.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use compiler::emit::{
    BuiltIn, EmitError, EmitOptions, KernelCompiler, KernelLibrary, Kernels, Reason, emit, ptx_architectures,
};
use compiler::lower::Registry;
use compiler::pipeline::{self, CompileError, CompileOptions};
use compiler::progress::{Progress, Silent};
use compiler::target::{Activations, Arch, Target, Targets};
use ir::program::{Access, Arg, BufferId, Launch, Program};
use ir::types::{Dim, Symbol, SymbolId};
use kernels::catalog::{self, FieldKind};
use kernels::cuda::{Constraint, Specialisation};
use kernels::params::Params;
use models::Checkpoint;
use runtime::artifact::{Artifact, Manifest, OpenOptions};
use toolchain::ToolError;
use toolchain::cache::{CacheError, CachedNvrtc};
use toolchain::nvrtc::{CompileFailure, Compiled, Source};

const OLD_AND_NEW: [Arch; 3] = [Arch::Sm80, Arch::Sm90, Arch::Sm100];

fn options(architectures: &[Arch], threads: usize) -> EmitOptions {
    EmitOptions { architectures: architectures.to_vec(), threads }
}

/// A launch whose counts are the symbol T and this width.
fn launch(kernel: &str, variant: &str, width: u64, label: &str) -> Launch {
    let arg = |kind: FieldKind, name: &str| match (kind, name) {
        (FieldKind::In, _) => Arg::Buffer(BufferId(0), Access::Read),
        (FieldKind::Out, _) => Arg::Buffer(BufferId(0), Access::Write),
        (FieldKind::F32, _) => Arg::Float(1e-5),
        (_, "reserved") => Arg::Size(vec![Dim::Const(0)]),
        (_, "rows") => Arg::Size(vec![Dim::Sym(SymbolId(0))]),
        _ => Arg::Size(vec![Dim::Const(width)]),
    };
    let fields = catalog::lookup(kernel).expect("a kernel").fields;
    let args = fields.iter().map(|f| (f.name.to_string(), arg(f.kind, f.name))).collect();
    Launch { kernel: kernel.into(), variant: variant.into(), args, label: label.into() }
}

fn program(tokens: u64, launches: Vec<Launch>) -> Program {
    let symbols = vec![Symbol { name: "T".into(), min: 1, max: tokens }];
    Program { name: format!("tokens-{tokens}"), symbols, launches, ..Program::default() }
}

/// Norms of two layers, one bucket twice the other.
fn norms() -> Vec<Program> {
    [1, 8]
        .map(|tokens| program(tokens, [0, 1].map(|l| launch("rms_norm", "", 64, &format!("layers.{l}.norm"))).to_vec()))
        .to_vec()
}

/// A compiler of no code that counts what it is asked for.
#[derive(Default)]
struct Counting {
    asked: Mutex<Vec<(String, String)>>,
}

impl KernelCompiler for &Counting {
    fn version(&self) -> (i32, i32) {
        (12, 9)
    }

    fn architectures(&self) -> &[u32] {
        &[80, 90, 100]
    }

    fn compile(&self, source: &Source, architecture: &str, _: &[String]) -> Result<(Compiled, bool), CacheError> {
        self.asked.lock().unwrap().push((source.name.into(), architecture.into()));
        let log = format!(
            "ptxas info : Compiling entry function 'rms_norm' for '{architecture}'\nptxas info : Used 7 registers\n"
        );
        Ok((Compiled { cubin: architecture.into(), ptx: format!(".target {architecture}"), log }, false))
    }
}

/// Counts how far a step is.
#[derive(Default)]
struct Steps(AtomicUsize, AtomicUsize);

impl Progress for Steps {
    fn begin(&self, _: &str, _: u64) {}

    fn begin_count(&self, _: &str, total: u64) {
        self.0.store(total as usize, Ordering::Relaxed);
    }

    fn advance(&self, pieces: u64) {
        self.1.fetch_add(pieces as usize, Ordering::Relaxed);
    }

    fn finish(&self) {}
}

#[test]
fn launches_of_equal_constants_share_code() {
    let (counting, steps) = (Counting::default(), Steps::default());
    let kernels = emit(&norms(), &options(&OLD_AND_NEW, 3), &WITHOUT_SERVICES, || Ok(&counting), &steps).unwrap();
    let mut asked = counting.asked.into_inner().unwrap();
    asked.sort();
    let expected = ["sm_100", "sm_80", "sm_90"].map(|arch| ("rms_norm.cu".to_string(), arch.to_string()));
    assert_eq!(asked, expected);
    assert_eq!((steps.0.into_inner(), steps.1.into_inner()), (3, 3));
    let [kernel] = kernels.kernels.as_slice() else { panic!("{kernels:?}") };
    assert_eq!(kernel.nodes.labels(), ["layers.0.norm", "layers.1.norm"]);
    assert_eq!(kernels.compiler.as_deref(), Some("NVRTC 12.9"));
    let [row] = kernels.table().try_into().unwrap();
    assert_eq!((row.kernel.as_str(), row.entries.as_slice()), ("rms_norm", &["rms_norm".to_string()][..]));
    assert_eq!(row.code["sm_90"].entries["rms_norm"].registers, 7);
    assert_eq!(row.ptx.keys().collect::<Vec<_>>(), ["sm_100", "sm_80"]);
    let files: BTreeSet<String> = kernels.files().map(|(name, _)| name).collect();
    let of_code = row.code.values().map(|c| c.cubin.clone()).chain(row.ptx.values().cloned());
    let sources = ["launch.cuh", "params.h", "reduce.cuh", "rms_norm.cu"].map(|name| format!("kernels/src/{name}"));
    assert!(of_code.chain(sources).all(|name| files.contains(&name)), "{files:?}");
    assert!(files.contains(&row.source));
}

#[test]
fn without_gpus_or_launches_no_compiler_is_opened() {
    let open = || -> Result<&Counting, ToolError> { panic!("nothing is to be compiled") };
    assert_eq!(emit(&norms(), &options(&[], 2), &BuiltIn, open, &Silent).unwrap(), Kernels::default());
    assert_eq!(
        emit(&[program(1, Vec::new())], &options(&[Arch::Sm80], 2), &BuiltIn, open, &Silent).unwrap(),
        Kernels::default()
    );
}

#[test]
fn ptx_is_kept_for_the_oldest_of_each_dialect() {
    let kept = |all: &[Arch]| ptx_architectures(all).into_iter().collect::<Vec<_>>();
    assert_eq!(kept(&Arch::ALL), [Arch::Sm80, Arch::Sm100]);
    assert_eq!(kept(&[Arch::Sm89, Arch::Sm90]), [Arch::Sm89]);
    assert_eq!(kept(&[Arch::Sm100, Arch::Sm120]), [Arch::Sm100]);
}

/// The compiler this machine has, with a cache of its own.
fn nvrtc(folder: &Path) -> Result<CachedNvrtc, ToolError> {
    Ok(CachedNvrtc::within(toolchain::locate::nvrtc(None)?.0, folder))
}

#[test]
fn machine_code_is_the_same_each_time_and_kept() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let compile = |folder: &Path, threads| {
        emit(&norms(), &options(&OLD_AND_NEW, threads), &WITHOUT_SERVICES, || nvrtc(folder), &Silent)
            .expect("it compiles")
    };
    let cold = compile(first.path(), 1);
    assert_eq!(cold.kept, 0);
    for (arch, code) in &cold.kernels[0].code {
        assert!(code.cubin.starts_with(b"\x7fELF"), "{arch}");
        let figures = code.entries["rms_norm"];
        assert!((8..=64).contains(&figures.registers) && figures.shared_bytes == 32, "{arch}: {figures:?}");
        assert_eq!((figures.spill_bytes, figures.stack_bytes), (0, 0), "{arch}");
        // The assembler does not say it for later ones.
        assert!(figures.constant_bytes > 40 || *arch >= Arch::Sm90, "{arch}: {figures:?}");
    }
    for (arch, ptx) in &cold.kernels[0].ptx {
        assert!(ptx.contains(&format!(".target {arch}")) && ptx.contains(".entry rms_norm"), "{arch}");
    }
    let other = compile(second.path(), 4);
    assert_eq!(other, cold);
    let warm = compile(first.path(), 2);
    assert_eq!(warm.kept, OLD_AND_NEW.len());
    assert_eq!(Kernels { kept: 0, ..warm }, cold);
}

/// The built-in kernels without services, some of their answers replaced.
struct Altered {
    /// In the source, this by that.
    replaced: (&'static str, &'static str),
    /// Widths of `rms_norm` are multiples of this.
    multiple: u32,
}

/// Nothing is replaced.
const WITHOUT_SERVICES: Altered = Altered { replaced: ("", ""), multiple: 1 };

impl KernelLibrary for Altered {
    fn specialise(&self, launch: &Launch, params: &Params) -> Option<Result<Specialisation, Constraint>> {
        let cols = launch.args.iter().find(|(name, _)| name == "cols");
        let Some((_, Arg::Size(dims))) = cols else { return BuiltIn.specialise(launch, params) };
        let cols = dims[0].value(&[]).unwrap_or(0);
        if cols % u64::from(self.multiple) == 0 {
            return BuiltIn.specialise(launch, params);
        }
        let message = format!("rows of {cols} are no multiple of {}", self.multiple);
        Some(Err(Constraint { kernel: "rms_norm", variant: launch.variant.clone(), message }))
    }

    fn services(&self) -> Vec<Specialisation> {
        Vec::new()
    }

    fn source(&self, specialisation: &Specialisation) -> Option<(&str, &str)> {
        let (name, text) = BuiltIn.source(specialisation)?;
        let (from, to) = self.replaced;
        Some((name, if from.is_empty() { text } else { Box::leak(text.replace(from, to).into_boxed_str()) }))
    }

    fn headers(&self) -> &[(&str, &str)] {
        BuiltIn.headers()
    }
}

#[test]
fn every_shape_a_kernel_does_not_take_is_named() {
    let library = Altered { replaced: ("", ""), multiple: 32 };
    let of = |label, width| launch("rms_norm", "", width, label);
    let programs = [
        program(1, vec![of("a", 33), of("b", 64), of("c", 37), of("d", 33)]),
        program(8, vec![of("a", 33), of("e", 33)]),
    ];
    let counting = Counting::default();
    let error = emit(&programs, &options(&[Arch::Sm80], 1), &library, || Ok(&counting), &Silent).unwrap_err();
    let EmitError::Refused(refusals) = &error else { panic!("{error}") };
    assert!(refusals.iter().all(|r| matches!(r.reason, Reason::Constraint(_))));
    assert_eq!(
        error.lines(),
        [
            "node \"a\" and 2 more: kernel rms_norm \"\" for CUDA: rows of 33 are no multiple of 32",
            "node \"c\": kernel rms_norm \"\" for CUDA: rows of 37 are no multiple of 32",
        ]
    );
    assert_eq!(refusals[0].nodes.labels(), ["a", "d", "e"]);
    assert!(counting.asked.into_inner().unwrap().is_empty(), "nothing is compiled in vain");
}

/// Standard error of a compilation of a golden model's program for one token, some of its text replaced.
fn refused_program(from: &str, to: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let text = shown(&["compile", &golden("llama31"), "--target", "sm_80", "--stop-after", "plan"]);
    let one = text.split("; after:").find(|t| t.contains("program \"tokens-1\"")).expect("a program for one token");
    let file = folder.path().join("a.ir");
    assert!(one.contains(from), "{one}");
    std::fs::write(&file, format!("; after:{}", one.replace(from, to))).unwrap();
    let file = file.to_str().expect("UTF-8");
    let output = moesaic(&["compile", "--from", file, "--target", "sm_80", "--stop-after", "emit"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    String::from_utf8(output.stderr).expect("UTF-8")
}

#[test]
fn heads_that_attention_does_not_take_are_refused_by_node_kernel_and_constraint() {
    for dim in [37, 300] {
        let message = refused_program("head_dim = 16", &format!("head_dim = {dim}"));
        let line = message.lines().find(|l| l.contains("kernel attention")).unwrap_or_else(|| panic!("{message}"));
        assert!(line.contains("\"layers.0.attention\" and 1 more"), "{line}");
        assert!(line.contains(&format!("heads of {dim} dimensions")) && line.contains("from 8 to 256"), "{line}");
    }
}

#[test]
fn groups_that_do_not_divide_a_row_are_refused_by_node_and_constraint() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.ir");
    let graph = "; after: fuse\ngraph \"g\" {\n  %0 = input \"x\" : f32[4, 48]\n  %1 = weight \"w\" : q4_0[32, 48]\n  \
                 %2 = matmul(%0, %1) : f32[4, 32] \"q\"\n  output \"y\" %2\n}\n";
    std::fs::write(&file, graph).unwrap();
    let file = file.to_str().expect("UTF-8");
    let output = moesaic(&["compile", "--from", file, "--target", "sm_80", "--stop-after", "emit"]);
    let message = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(output.status.code(), Some(1), "{message}");
    let named = [
        "node %1 (w)",
        "rows of 48 columns",
        "q4_0, which have 32",
        "node %2 (matmul q)",
        "kernel",
        "a multiple of 32 columns",
    ];
    assert!(named.iter().all(|part| message.contains(part)), "{message}");
}

#[test]
fn a_launch_that_is_none_of_the_catalogs_is_named() {
    let mut wrong = launch("rms_norm", "", 64, "layers.3.norm");
    wrong.args.pop();
    let counting = Counting::default();
    let error =
        emit(&[program(1, vec![wrong])], &options(&[Arch::Sm80], 1), &BuiltIn, || Ok(&counting), &Silent).unwrap_err();
    assert!(
        error.to_string().contains("layers.3.norm") && error.to_string().contains("expected the fields"),
        "{error}"
    );
}

#[test]
fn an_error_of_the_compiler_names_file_line_and_node() {
    let folder = tempfile::tempdir().unwrap();
    let library = Altered { replaced: ("wait_for_inputs()", "wait_for_imputs()"), multiple: 1 };
    let error =
        emit(&norms(), &options(&[Arch::Sm80, Arch::Sm90], 2), &library, || nvrtc(folder.path()), &Silent).unwrap_err();
    let EmitError::Broken(broken) = &error else { panic!("{error}") };
    assert!(matches!(&broken[0].failure, CacheError::Compile(CompileFailure::Source { .. })));
    let [line] = error.lines().try_into().expect("one failure, though it is that of two architectures");
    assert!(line.starts_with("node \"layers.0.norm\" and 1 more: kernel rms_norm"), "{line}");
    assert!(line.contains("sm_80") && line.contains("rms_norm.cu(") && line.contains("wait_for_imputs"), "{line}");
}

#[test]
fn an_architecture_the_compiler_lacks_is_named() {
    let counting = Counting::default();
    let error =
        emit(&norms(), &options(&[Arch::Sm80, Arch::Sm120], 1), &BuiltIn, || Ok(&counting), &Silent).unwrap_err();
    let text = error.to_string();
    assert!(
        ["NVRTC 12.9", "sm_80, sm_90, sm_100", "not for sm_120", "--nvrtc"].iter().all(|part| text.contains(part)),
        "{text}"
    );
}

fn moesaic(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_moesaic")).args(args).stdin(Stdio::null()).output().expect("the command starts")
}

/// Standard output of a command that must succeed.
fn shown(args: &[&str]) -> String {
    let output = moesaic(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn kernels_are_shown_by_entry_and_architecture() {
    let model = golden("llama31");
    let folder = tempfile::tempdir().unwrap();
    let artifact = folder.path().join("a.moesaic");
    let artifact = artifact.to_str().expect("UTF-8");
    shown(&["compile", &model, "-o", artifact, "--target", "sm_90,sm_80", "--threads", "2"]);
    let all: serde_json::Value = serde_json::from_str(&shown(&["inspect", artifact, "--json"])).unwrap();
    assert_eq!(all["architectures"], serde_json::json!(["sm_80", "sm_90"]));
    let rows: Vec<&serde_json::Value> = all["kernels"].as_array().expect("rows").iter().collect();
    assert!(rows.len() > 2 && rows.len().is_multiple_of(2), "{rows:?}");
    for row in &rows {
        assert!(["sm_80", "sm_90"].contains(&row["arch"].as_str().unwrap()), "{row}");
        assert!((8..=255).contains(&row["registers"].as_u64().unwrap()), "{row}");
        assert!(row["spill_bytes"].is_u64() && row["shared_bytes"].is_u64() && row["variant"].is_string(), "{row}");
    }
    let table = shown(&["inspect", artifact, "--kernels"]);
    assert!(table.starts_with("NVRTC 12.") && table.contains("registers"), "{table}");
    assert_eq!(table.lines().count(), rows.len() + 2, "{table}");
    // What --stop-after shows is the same table, and it costs a second time next to nothing.
    let stopped = shown(&["compile", &model, "--target", "sm_80", "--target", "sm_90", "--stop-after", "emit"]);
    assert!(stopped.lines().skip(1).eq(table.lines().skip(1)), "{stopped}");
    let timed = shown(&["compile", &model, "--target", "sm_80", "--stop-after", "emit", "--time-passes", "--json"]);
    let timed: serde_json::Value = serde_json::from_str(&timed).unwrap();
    let emit = timed["passes"].as_array().unwrap().last().unwrap();
    assert!(emit["pass"] == "emit" && emit["after"]["kernels"].as_u64().unwrap() * 2 <= rows.len() as u64, "{emit}");
}

/// Exit code 1 and one line on standard error with all of `parts`.
fn refused(command: &mut Command, parts: &[&str]) {
    let output = command.stdin(Stdio::null()).output().expect("the command starts");
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), message.lines().count()), (Some(1), 1), "{message}");
    assert!(output.stdout.is_empty() && parts.iter().all(|part| message.contains(part)), "{message}");
}

#[test]
fn targets_that_cannot_stand_together_are_refused() {
    let (binary, model) = (env!("CARGO_BIN_EXE_moesaic"), golden("llama31"));
    let compile = |targets: &[&str]| {
        let mut command = Command::new(binary);
        command.args(["compile", &model, "--stop-after", "emit"]).args(targets);
        command
    };
    refused(&mut compile(&["--target", "cpu", "--target", "sm_80"]), &["--target cpu", "sm_80"]);
    refused(&mut compile(&["--target", "sm_80,sm_70"]), &["\"sm_70\"", "sm_120"]);
    refused(
        &mut compile(&["--target", "sm_80", "--nvrtc", "/no/such/libnvrtc.so.12"]),
        &["/no/such/libnvrtc.so.12", "not found"],
    );
    let dump = tempfile::tempdir().unwrap();
    shown(&["compile", &model, "--stop-after", "emit", "--dump", dump.path().to_str().expect("UTF-8")]);
    let dump = dump.path().join("07-emit.ir");
    let mut again = Command::new(binary);
    again.args(["compile", "--stop-after", "emit", "--from"]).arg(&dump);
    refused(&mut again, &["--from-pass", "begin with a dump of plan"]);
}

#[test]
fn the_toolchain_is_found_or_its_lack_explained() {
    let found: serde_json::Value = serde_json::from_str(&shown(&["toolchain", "--json"])).unwrap();
    assert!(found["version"].as_str().unwrap().starts_with("12."), "{found}");
    assert!(Path::new(found["path"].as_str().unwrap()).is_absolute() && found["cache"].is_string(), "{found}");
    let architectures = found["architectures"].as_array().unwrap();
    assert!(Arch::ALL.iter().all(|a| architectures.contains(&a.name().into())), "{found}");
    assert!(shown(&["toolchain"]).starts_with("NVRTC 12."));
    let named = shown(&["toolchain", "--json", "--nvrtc", found["path"].as_str().unwrap()]);
    assert!(named.contains("\"named\""), "{named}");
    // No toolkit, no pip, no cache. Where the system has a library of its own there is nothing to explain.
    if found["origin"] != "system" {
        let empty = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_moesaic"));
        command.arg("toolchain").env_clear().env("PATH", empty.path()).env("HOME", empty.path());
        refused(&mut command, &["no NVRTC", "python3 with pip", "CUDA toolkit 12", "--nvrtc"]);
    }
}

fn golden(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(name);
    path.to_str().expect("UTF-8").into()
}

fn golden_folders() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden");
    let mut folders: Vec<PathBuf> =
        std::fs::read_dir(root).expect("golden").map(|e| e.expect("entry").path()).collect();
    folders.retain(|f| f.join("config.json").exists());
    folders.sort();
    assert!(folders.len() > 20);
    folders
}

fn compile(model: &Path, artifact: &Path, words: &[&str]) -> Result<Manifest, CompileError> {
    let Targets { target, architectures } = Targets::parse(words).expect("targets");
    let options = CompileOptions { architectures, ..CompileOptions::new(target, Activations::default_for(target)) };
    let mut checkpoint = Checkpoint::open(model).expect("a checkpoint");
    let outcome = pipeline::compile(&mut checkpoint, artifact, &options, &Registry::default(), &Silent)?;
    Ok(outcome.artifact().expect("an artifact").manifest)
}

#[test]
fn every_golden_family_has_machine_code_for_every_launch() {
    let mut faults = Vec::new();
    for model in golden_folders() {
        let folder = tempfile::tempdir().unwrap();
        let artifact = folder.path().join("a.moesaic");
        if let Err(error) = compile(&model, &artifact, &["sm_80"]) {
            faults.push(format!("{}: {error}", model.display()));
            continue;
        }
        let artifact = Artifact::open(&artifact, &OpenOptions::default()).expect("an artifact");
        for (program, launch) in artifact.programs().iter().flat_map(|p| p.launches.iter().map(move |l| (p, l))) {
            faults.extend(
                without_code(artifact.manifest(), program, launch).map(|f| format!("{}: {f}", model.display())),
            );
        }
    }
    let distinct: BTreeSet<&String> = faults.iter().collect();
    assert!(faults.is_empty(), "{distinct:#?}");
}

/// Services belong to no node, and programs of one shape or another share their code; a block of theirs spills nothing.
#[test]
fn services_are_compiled_beside_the_programs_kernels() {
    let folder = tempfile::tempdir().unwrap();
    let emitted = |programs: &[Program]| {
        emit(programs, &options(&OLD_AND_NEW, 2), &BuiltIn, || nvrtc(folder.path()), &Silent).expect("it compiles")
    };
    let (kernels, other) = (emitted(&norms()), emitted(&[program(3, vec![launch("rms_norm", "", 96, "norm")])]));
    let names: Vec<&str> = kernels.kernels.iter().map(|k| k.specialisation.kernel).collect();
    assert_eq!(names, ["page_copy", "rms_norm", "sample"]);
    for service in kernels::cuda::services() {
        let of = |kernels: &Kernels| kernels.kernels.iter().find(|k| k.specialisation == service).cloned();
        let (compiled, again) = (of(&kernels).expect("a service"), of(&other));
        assert!(compiled.nodes.labels().is_empty());
        for (arch, code) in &compiled.code {
            let figures = code.entries[service.kernel];
            assert_eq!((figures.spill_bytes, figures.stack_bytes), (0, 0), "{} {arch}", service.kernel);
        }
        assert_eq!(Some(compiled), again);
    }
}

/// Why a launch could not be carried out with the artifact's code.
fn without_code(manifest: &Manifest, program: &Program, launch: &Launch) -> Option<String> {
    let named = |why: &str| Some(format!("{} {:?}: {why}", launch.kernel, launch.variant));
    let params = kernels::params::fill_largest(program, launch).expect("a launch of the catalog");
    let Some(kernel) = kernels::cuda::lookup(&launch.kernel) else { return named("no CUDA kernel") };
    // SAFETY: `params` was filled as the struct of this launch's kernel.
    let (specialisation, launches) = unsafe {
        let specialisation = kernel.specialise(&launch.variant, params.as_ptr());
        (specialisation.expect("it was emitted"), kernel.launches(&launch.variant, params.as_ptr()))
    };
    let Some(compiled) = manifest.compiled(&specialisation) else { return named("no machine code") };
    let absent = launches.iter().find(|l| !compiled.entries.iter().any(|entry| entry == l.entry));
    absent.and_then(|l| named(&format!("no entry {}", l.entry)))
}

#[test]
fn every_kernel_of_the_catalog_has_a_cuda_implementation() {
    let missing = catalog::KERNELS.iter().map(|k| k.name).filter(|name| kernels::cuda::lookup(name).is_none());
    assert_eq!(missing.collect::<Vec<_>>(), [""; 0]);
}

#[test]
fn one_artifact_serves_several_gpus() {
    let model = PathBuf::from(golden("llama31"));
    let folder = tempfile::tempdir().unwrap();
    let both = compile(&model, &folder.path().join("both"), &["sm_90", "sm_80"]).unwrap();
    let one = compile(&model, &folder.path().join("one"), &["sm_80"]).unwrap();
    assert_eq!((both.target.as_str(), both.architectures.as_slice()), ("sm_80", &["sm_80".into(), "sm_90".into()][..]));
    assert_eq!(both.buckets, one.buckets);
    assert!(both.kernel_compiler.as_ref().is_some_and(|c| c.starts_with("NVRTC 12.")));
    let shared = |name: &String| !name.contains(".sm_90.");
    assert!(both.kernels.iter().map(|k| &k.name).eq(one.kernels.iter().map(|k| &k.name)));
    let of_both: Vec<_> = both.files.iter().filter(|(name, _)| shared(name)).collect();
    assert!(of_both.into_iter().eq(one.files.iter()), "the code for one GPU does not depend on the others");
    let again = compile(&model, &folder.path().join("again"), &["sm_80", "sm_90"]).unwrap();
    assert_eq!(again, both);
}

#[test]
fn a_model_for_the_cpu_has_no_machine_code() {
    let model = PathBuf::from(golden("llama31"));
    let folder = tempfile::tempdir().unwrap();
    let manifest = compile(&model, &folder.path().join("a"), &["cpu"]).unwrap();
    assert_eq!(Target::Cpu.name(), manifest.target);
    assert!(manifest.architectures.is_empty() && manifest.kernels.is_empty() && manifest.kernel_compiler.is_none());
    assert!(!manifest.files.keys().any(|name| name.starts_with("kernels/")));
}
