//! Checkpoints run by the interpreter: what the definitions of ops make of a prompt, no kernel involved.

use std::collections::HashMap;
use std::path::Path;

use ir::interp::{Interpreter, Tensor};
use ir::types::DType;
use models::{Checkpoint, ImportOptions, import};

use crate::golden;

/// Logits of all positions of a prompt, in one step, as sequence 0 over pages in reverse order, with a cache of that type.
pub fn prefill(checkpoint: &Path, ids: &[u32], kv_dtype: DType) -> Vec<f32> {
    let checkpoint = Checkpoint::open(checkpoint).expect("checkpoint");
    let tokens = ids.len() as u64;
    let options = ImportOptions {
        max_tokens: tokens,
        max_sequences: 1,
        max_model_len: 128,
        kv_dtype,
        trace_routing: false,
        embeddings: false,
    };
    let model = import(&checkpoint, &options).expect("a model");
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
    match interpreter.step(&symbols, &inputs).expect("a step").remove("logits") {
        Some(Tensor::Real(logits)) => logits,
        other => panic!("no logits: {other:?}"),
    }
}
