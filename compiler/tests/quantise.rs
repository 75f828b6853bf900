//! Quantising compilations from end to end: a checkpoint with a tokenizer in, an artifact that opens out.

use std::path::{Path, PathBuf};

use compiler::lower::Registry;
use compiler::pipeline::{self, CompileOptions, Compiled};
use compiler::progress::Silent;
use compiler::quantise::options::{FormatChoice, Method, QuantOptions};
use compiler::target::{Activations, Target};
use ir::types::DType;
use models::Checkpoint;
use runtime::artifact::{Artifact, OpenOptions};

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn compile(output: &Path, quant: QuantOptions) -> Result<Compiled, String> {
    let mut checkpoint = Checkpoint::open(repository("tests/golden/llama31")).unwrap();
    let options = CompileOptions { quant, ..CompileOptions::new(Target::Cpu, Activations::Int8) };
    let compiled = pipeline::compile(&mut checkpoint, output, &options, &Registry::default(), &Silent);
    compiled.map(|c| c.artifact().expect("an artifact")).map_err(|e| e.to_string())
}

fn options(method: Method) -> QuantOptions {
    QuantOptions {
        format: FormatChoice::To(DType::Q4G128),
        method,
        calibration: (method != Method::Rtn).then(|| repository("benches/data/english.txt")),
        calibration_tokens: 1024,
        ..QuantOptions::default()
    }
}

#[test]
fn each_method_makes_an_artifact_of_its_own_with_the_same_formats() {
    let folder = tempfile::tempdir().unwrap();
    let mut contents = Vec::new();
    for method in [Method::Rtn, Method::Gptq, Method::Awq] {
        let output = folder.path().join(format!("{}.moesaic", method.name()));
        let compiled = compile(&output, options(method)).unwrap();
        let formats: Vec<(String, String)> =
            compiled.manifest.weights.iter().map(|w| (w.name.clone(), w.dtype.clone())).collect();
        let format = |name: &str| formats.iter().find(|(n, _)| n == name).map(|(_, d)| d.as_str());
        assert_eq!(format("model.layers.0.mlp.down_proj.weight"), Some("q4g128"));
        assert_eq!(format("model.embed_tokens.weight"), Some("q8_0"));
        assert_eq!(format("lm_head.weight"), Some("q8_0"));
        let calibrated = compiled.notes.iter().any(|n| n == "calibrated on 1024 tokens");
        assert_eq!(calibrated, method != Method::Rtn, "{:?}", compiled.notes);
        let artifact = Artifact::open(&output, &OpenOptions::default()).unwrap();
        contents.push(artifact.weight("model.layers.1.mlp.down_proj.weight").unwrap().to_vec());
    }
    assert!(contents[0] != contents[1] && contents[1] != contents[2] && contents[0] != contents[2]);
    // Scratch files are gone.
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3);
}

#[test]
fn what_cannot_be_calibrated_is_one_line_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("model.moesaic");
    let text = folder.path().join("short.txt");
    std::fs::write(&text, "Too short.").unwrap();
    let without = QuantOptions { calibration: None, ..options(Method::Gptq) };
    let short = QuantOptions { calibration: Some(text), ..options(Method::Awq) };
    let missing = QuantOptions { calibration: Some(folder.path().join("none.txt")), ..options(Method::Awq) };
    for (quant, expected) in [(without, "--calibration"), (short, "at least 512"), (missing, "none.txt")] {
        let error = compile(&output, quant).unwrap_err();
        assert!(error.contains(expected) && !error.contains('\n'), "{error}");
    }
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["short.txt"]);
}
