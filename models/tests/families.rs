//! Every family against its fixture: the imported graph, interpreted, gives the reference's residual stream after each layer, its
//! routing and its logits. A wrong block shows at the first layer that has it.

mod support;

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use ir::graph::{Node, NodeKind};
use ir::interp::{Interpreter, Tensor};
use ir::types::DType;
use models::weights::WeightReader;
use models::{Checkpoint, ImportOptions, Model, import};
use safetensors::SafeTensors;
use support::golden;

/// The prompt that has reference values for every layer: 17 tokens.
const PROMPT: &str = "prompt.1";

fn imported(checkpoint: &Checkpoint, tokens: u64) -> Result<Model, models::ModelError> {
    let kv_dtype = DType::F32;
    let options = ImportOptions {
        max_tokens: tokens,
        max_sequences: 1,
        max_model_len: 128,
        kv_dtype,
        trace_routing: true,
        embeddings: false,
    };
    let mut model = import(checkpoint, &options)?;
    ir::verify::verify_graph(&model.graph).unwrap();
    for (i, value) in model.boundaries.iter().enumerate() {
        model.graph.output(&format!("hidden.{i}"), *value);
    }
    Ok(model)
}

fn weight(reader: &mut WeightReader, node: &Node) -> Tensor {
    let shape: Vec<u64> = node.ty.shape.iter().map(|d| d.value(&[]).unwrap()).collect();
    let mut bytes = Vec::new();
    if reader.read_plain(&node.name, &mut bytes).is_ok() {
        let words = bytes.chunks_exact(4).map(|b| b.try_into().unwrap());
        return match node.ty.dtype {
            DType::I32 => Tensor::Int(words.map(i32::from_le_bytes).collect()),
            _ => Tensor::Real(words.map(f32::from_le_bytes).collect()),
        };
    }
    let (matrices, rows) = if shape.len() == 3 { (shape[0], shape[1]) } else { (1, shape[0]) };
    let (mut values, mut matrix) = (Vec::new(), Vec::new());
    for i in 0..matrices {
        reader.read_values(&node.name, i, 0, rows, &mut matrix).unwrap();
        values.append(&mut matrix);
    }
    Tensor::Real(values)
}

/// All positions of a prompt in one step.
fn interpret(checkpoint: &Checkpoint, model: &Model, ids: Vec<i32>) -> HashMap<String, Tensor> {
    let mut reader = WeightReader::new(checkpoint, &model.weights).unwrap();
    let nodes = model.graph.nodes.iter().filter(|n| n.kind == NodeKind::Weight);
    let weights = nodes.map(|n| (n.name.clone(), weight(&mut reader, n))).collect();
    let (tokens, pages) = (ids.len() as u64, 8);
    let long = model.hyper.rope_switch.is_some_and(|switch| tokens > switch);
    let size = |name: &str| match name {
        "T" | "R" => tokens,
        "P" | "N" => pages,
        _ => 1,
    };
    let symbols: Vec<u64> = model.graph.symbols.iter().map(|s| size(&s.name)).collect();
    let range = || (0..tokens as i32).collect::<Vec<i32>>();
    let inputs = [
        ("ids", ids),
        ("positions", range()),
        ("sequences", vec![0; tokens as usize]),
        ("page_table", (0..pages as i32).rev().collect()),
        ("logit_rows", range()),
        ("rope_tables", vec![i32::from(long); tokens as usize]),
    ];
    let inputs = inputs.into_iter().map(|(name, values)| (name.to_string(), Tensor::Int(values))).collect();
    Interpreter::new(&model.graph, weights).step(&symbols, &inputs).unwrap()
}

fn floats(tensors: &SafeTensors, name: &str) -> Vec<f32> {
    let data = tensors.tensor(name).unwrap().data().to_vec();
    data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

fn ids(tensors: &SafeTensors, name: &str) -> Vec<i32> {
    let data = tensors.tensor(name).unwrap().data().to_vec();
    data.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as i32).collect()
}

fn relative_rms(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let square = |x: f64| x * x;
    let error: f64 = a.iter().zip(b).map(|(a, b)| square(f64::from(*a) - f64::from(*b))).sum();
    (error / b.iter().map(|b| square(f64::from(*b))).sum::<f64>()).sqrt()
}

/// Compares one checkpoint with the reference outputs of a fixture: boundaries, routers, logits.
fn check(name: &str, checkpoint: &Path, reference: &Path) -> Result<(), String> {
    let bytes = fs::read(reference.join("golden.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let checkpoint = Checkpoint::open(checkpoint).map_err(|e| format!("{name}: {e}"))?;
    let prompt = ids(&tensors, &format!("{PROMPT}.input_ids"));
    let model = imported(&checkpoint, prompt.len() as u64).map_err(|e| format!("{name}: {e}"))?;
    // Rounded activations fall the other way now and then.
    let tolerance = if model.hyper.rounds_activations { 2e-2 } else { 2e-5 };
    let outputs = interpret(&checkpoint, &model, prompt);
    let real = |output: &str| match outputs.get(output) {
        Some(Tensor::Real(values)) => values.clone(),
        other => panic!("{name} {output}: {other:?}"),
    };
    for i in 0..model.boundaries.len() {
        let error = relative_rms(&real(&format!("hidden.{i}")), &floats(&tensors, &format!("hidden.{i}")));
        if error.is_nan() || error >= tolerance {
            return Err(format!("{name} ({}) after layer {i}: relative RMS {error:.1e}", model.family));
        }
    }
    check_routing(name, &model, &tensors, &outputs)?;
    let error = relative_rms(&real("logits"), &floats(&tensors, &format!("{PROMPT}.logits")));
    println!("{name} ({}): relative RMS {error:.1e}", model.family);
    if error < tolerance { Ok(()) } else { Err(format!("{name}: logits: relative RMS {error:.1e}")) }
}

/// The same experts in the same order, where the reference's choice is no near tie, and the same factors.
fn check_routing(
    name: &str,
    model: &Model,
    tensors: &SafeTensors,
    outputs: &HashMap<String, Tensor>,
) -> Result<(), String> {
    let layers = (0..model.hyper.layers).filter(|l| tensors.tensor(&format!("router.{l}.experts")).is_ok());
    for layer in layers {
        let part = |part: &str| format!("router.{layer}.{part}");
        let expected = ids(tensors, &part("experts"));
        let (Some(Tensor::Int(experts)), Some(Tensor::Real(weights))) =
            (outputs.get(&part("experts")), outputs.get(&part("weights")))
        else {
            return Err(format!("{name}: layer {layer} has no router"));
        };
        let selected = expected.len() / 17;
        let clear: Vec<bool> = floats(tensors, &part("margin")).iter().map(|margin| *margin > 1e-4).collect();
        assert!(clear.iter().filter(|c| **c).count() > 12);
        let rows = experts.chunks(selected).zip(expected.chunks(selected)).zip(&clear);
        if rows.filter(|(_, clear)| **clear).any(|((a, b), _)| a != b) {
            return Err(format!("{name}: layer {layer}: other experts"));
        }
        let error = relative_rms(weights, &floats(tensors, &part("weights")));
        if error >= 2e-5 {
            return Err(format!("{name}: layer {layer}: factors off by {error:.1e}"));
        }
    }
    Ok(())
}

fn failures(cases: impl Iterator<Item = Result<(), String>>) {
    let failed: Vec<String> = cases.filter_map(Result::err).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn every_fixture_gives_the_reference_outputs() {
    let mut folders: Vec<_> = fs::read_dir(golden("")).unwrap().map(|e| e.unwrap().path()).collect();
    folders.sort();
    folders.retain(|f| f.join("golden.safetensors").is_file());
    assert!(folders.len() >= 38, "only {} fixtures", folders.len());
    let name = |folder: &Path| folder.file_name().unwrap().to_string_lossy().into_owned();
    failures(folders.iter().map(|f| check(&name(f), f, f)));
}

#[test]
fn gguf_conversions_give_the_reference_outputs() {
    let mut files: Vec<_> = fs::read_dir(golden("gguf")).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 8, "only {} files", files.len());
    failures(files.iter().map(|file| {
        let name = file.file_stem().unwrap().to_string_lossy();
        check(&format!("{name}.gguf"), file, &golden(&name))
    }));
}
