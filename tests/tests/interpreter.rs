//! The interpreter on imported graphs against the golden logits: importer and op definitions are right, kernels aside.

use std::collections::HashMap;
use std::path::Path;

use ir::interp::{Interpreter, Tensor};
use ir::types::DType;
use models::{Checkpoint, ImportOptions, import};
use moesaic_tests::golden::{self, Golden};

/// All positions of a prompt in one step, as sequence 0 over pages in reverse order.
fn prefill(checkpoint: &Path, ids: &[u32]) -> Vec<f32> {
    let checkpoint = Checkpoint::open(checkpoint).unwrap();
    let tokens = ids.len() as u64;
    let options = ImportOptions {
        max_tokens: tokens,
        max_sequences: 1,
        max_model_len: 128,
        kv_dtype: DType::F32,
        trace_routing: false,
    };
    let model = import(&checkpoint, &options).unwrap();
    let long = model.hyper.rope_switch.is_some_and(|switch| tokens > switch);
    let mut interpreter = Interpreter::new(&model.graph, golden::weights(&model, &checkpoint));
    let pages = 8;
    let size = |name: &str| match name {
        "T" | "R" => tokens,
        "P" | "N" => pages,
        _ => 1,
    };
    let symbols: Vec<u64> = model.graph.symbols.iter().map(|s| size(&s.name)).collect();
    let range = || Tensor::Int((0..tokens as i32).collect());
    let inputs = HashMap::from([
        ("ids".to_string(), Tensor::Int(ids.iter().map(|i| *i as i32).collect())),
        ("positions".to_string(), range()),
        ("sequences".to_string(), Tensor::Int(vec![0; ids.len()])),
        ("page_table".to_string(), Tensor::Int((0..pages as i32).rev().collect())),
        ("logit_rows".to_string(), range()),
        ("rope_tables".to_string(), Tensor::Int(vec![i32::from(long); ids.len()])),
    ]);
    match interpreter.step(&symbols, &inputs).unwrap().remove("logits") {
        Some(Tensor::Real(logits)) => logits,
        other => panic!("no logits: {other:?}"),
    }
}

fn check(name: &str, checkpoint: &Path, golden: &Golden) {
    for (n, prompt) in golden.prompts.iter().enumerate() {
        let error = golden::relative_rms(&prefill(checkpoint, &prompt.ids), &prompt.logits);
        println!("{name} prompt {n}: relative RMS {error:.1e}");
        assert!(error < golden.tolerance(), "{name} prompt {n}: relative RMS {error:.2e}");
    }
}

#[test]
fn logits_of_every_fixture_agree() {
    let fixtures = golden::fixtures();
    assert!(fixtures.len() >= 38, "only {} fixtures found", fixtures.len());
    fixtures.iter().for_each(|f| check(&f.name(), &f.folder, f));
}

#[test]
fn logits_of_gguf_conversions_agree() {
    let conversions = golden::conversions();
    assert!(conversions.len() >= 10, "only {} conversions found", conversions.len());
    conversions.iter().for_each(|(file, golden)| check(&format!("{}.gguf", golden.name()), file, golden));
}
