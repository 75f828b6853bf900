//! Calibration on the golden fixtures: real graphs of real families, with random weights.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use ir::graph::{Graph, NodeKind, ValueId};
use ir::interp::{Interpreter, Tensor};
use ir::types::DType;
use models::{Checkpoint, ImportOptions, Model};
use runtime::artifact::Layout;

use super::assign::{Assignment, apply, assign};
use super::awq::scale_layer;
use super::calibrate::{Calibration, Report};
use super::layer::{Layer, LayerRunner, Window};
use super::options::{FormatChoice, Method, QuantOptions};
use super::rows::{CalibratedRows, SourceRows, StreamedRows};
use super::windows::{SMALLEST_TOKENS, Windows};
use super::{QuantiseError, WeightRows};
use crate::progress::Silent;

/// Families that differ in what can be folded: plain, biases, experts, four norms, LayerNorm with biases, equal head counts, latent attention.
const FIXTURES: [&str; 8] =
    ["llama31", "qwen2", "mixtral", "qwen2_moe_sharded", "gemma2", "phimoe", "olmoe", "deepseek_v2_lite"];

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(name)
}

fn import(name: &str) -> (Checkpoint, Model) {
    let checkpoint = Checkpoint::open(golden(name)).unwrap();
    let options = ImportOptions {
        max_tokens: 64,
        max_sequences: 1,
        max_model_len: 64,
        kv_dtype: DType::F32,
        trace_routing: false,
        embeddings: false,
    };
    let model = models::import(&checkpoint, &options).unwrap();
    (checkpoint, model)
}

/// Tokens that look random.
fn windows(model: &Model, tokens: usize) -> Windows {
    windows_of(model.hyper.vocabulary, 5, tokens)
}

/// Of the first `words` tokens of the vocabulary.
fn windows_of(words: u64, seed: u64, tokens: usize) -> Windows {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % words) as i32
    };
    Windows::of((0..tokens).map(|_| next()).collect(), 64)
}

fn asked(dtype: DType) -> QuantOptions {
    QuantOptions { format: FormatChoice::To(dtype), ..QuantOptions::default() }
}

/// Every weight, as `rows` gives it: vectors replaced, matrices from the source.
fn values(model: &Model, source: &mut SourceRows, plain: &mut dyn WeightRows) -> HashMap<String, Tensor> {
    let packed = crate::package::weight_table(&model.graph, Layout::Rows16).unwrap();
    let mut weights = HashMap::new();
    for (node, info) in packed.iter().filter(|(n, _)| model.graph.nodes[*n].kind == NodeKind::Weight) {
        let shape = &info.shape;
        let is_matrix = info.layout == Layout::Rows16;
        let tensor = if is_matrix {
            let (matrices, rows) = if shape.len() == 3 { (shape[0], shape[1]) } else { (1, shape[0]) };
            let (mut all, mut part) = (Vec::new(), Vec::new());
            for matrix in 0..matrices {
                source.values(&info.name, matrix, 0, rows, &mut part).unwrap();
                all.extend_from_slice(&part);
            }
            Tensor::Real(all)
        } else {
            let mut bytes = Vec::new();
            plain.plain(&info.name, &mut bytes).unwrap();
            let words = bytes.as_chunks::<4>().0.iter();
            match model.graph.nodes[*node].ty.dtype {
                DType::I32 => Tensor::Int(words.map(|b| i32::from_le_bytes(*b)).collect()),
                _ => Tensor::Real(words.map(|b| f32::from_le_bytes(*b)).collect()),
            }
        };
        weights.insert(info.name.clone(), tensor);
    }
    weights
}

/// The named value of a step over `ids`, by the interpreter.
fn interpret(graph: &Graph, weights: HashMap<String, Tensor>, ids: &[i32], value: ValueId) -> Vec<f32> {
    let mut graph = graph.clone();
    graph.outputs = vec![("value".into(), value)];
    let (tokens, pages) = (ids.len() as u64, (ids.len() as u64).div_ceil(16));
    let symbols: Vec<u64> = graph
        .symbols
        .iter()
        .map(|s| match s.name.as_str() {
            "T" | "R" => tokens,
            "P" | "N" => pages,
            _ => 1,
        })
        .collect();
    let range = |n: u64| Tensor::Int((0..n as i32).collect());
    let zeros = Tensor::Int(vec![0; ids.len()]);
    let inputs = HashMap::from([
        ("ids".into(), Tensor::Int(ids.to_vec())),
        ("positions".into(), range(tokens)),
        ("sequences".into(), zeros.clone()),
        ("rope_tables".into(), zeros),
        ("page_table".into(), range(pages)),
        ("logit_rows".into(), range(tokens)),
    ]);
    match Interpreter::new(&graph, weights).step(&symbols, &inputs).unwrap().remove("value") {
        Some(Tensor::Real(values)) => values,
        other => panic!("{other:?}"),
    }
}

fn relative_rms(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let square = |x: f64| x * x;
    let error: f64 = a.iter().zip(b).map(|(a, b)| square(f64::from(*a) - f64::from(*b))).sum();
    (error / b.iter().map(|b| square(f64::from(*b))).sum::<f64>()).sqrt()
}

/// What leaves the last layer, layer by layer on the kernels.
fn run_layers(graph: &Graph, model: &Model, rows: &mut dyn WeightRows, ids: &[i32], threads: usize) -> Vec<f32> {
    let bounds = &model.boundaries;
    let layers = std::iter::once((None, bounds[0])).chain(bounds.windows(2).map(|p| (Some(p[0]), p[1])));
    let mut hidden = Vec::new();
    for (from, to) in layers {
        let layer = Layer::between(graph, from, to);
        let vocabulary = model.hyper.vocabulary;
        let mut runner = LayerRunner::new(graph, &layer, &[], ids.len(), vocabulary, rows, threads).unwrap();
        runner.run(&Window { ids, hidden: &hidden }).unwrap();
        hidden = runner.result().to_vec();
    }
    hidden
}

#[test]
fn layers_run_one_by_one_are_the_model() {
    for name in FIXTURES {
        let (checkpoint, model) = import(name);
        let windows = windows(&model, 40);
        let ids = windows.iter().next().unwrap();
        let mut source = SourceRows::new(&checkpoint, &model.weights).unwrap();
        let found = run_layers(&model.graph, &model, &mut source, ids, 2);
        let mut plain = SourceRows::new(&checkpoint, &model.weights).unwrap();
        let weights = values(&model, &mut source, &mut plain);
        let expected = interpret(&model.graph, weights, ids, *model.boundaries.last().unwrap());
        assert!(relative_rms(&found, &expected) < 2e-5, "{name}: {}", relative_rms(&found, &expected));
    }
}

fn calibrate<'a>(
    checkpoint: &'a Checkpoint,
    model: &'a Model,
    options: &QuantOptions,
    windows: &Windows,
    threads: usize,
) -> Result<(CalibratedRows<'a>, Report), QuantiseError> {
    let assignment = assign(&model.graph, options);
    let streamed = StreamedRows::new(checkpoint, &model.weights, &assignment, threads)?;
    let mut rows = CalibratedRows::new(streamed, &std::env::temp_dir())?;
    let calibration = Calibration { model, method: options.method, windows, threads, progress: &Silent };
    let report = calibration.run(&mut rows)?;
    Ok((rows, report))
}

#[test]
fn scales_taken_back_leave_the_logits_as_they_were() {
    let mut folded = 0;
    for name in FIXTURES {
        let (checkpoint, model) = import(name);
        let windows = windows(&model, 256);
        let assignment = assign(&model.graph, &asked(DType::Q4_0));
        let streamed = StreamedRows::new(&checkpoint, &model.weights, &assignment, 2).unwrap();
        let mut rows = CalibratedRows::new(streamed, &std::env::temp_dir()).unwrap();
        let calibration =
            Calibration { model: &model, method: Method::Awq, windows: &windows, threads: 2, progress: &Silent };
        let mut source = SourceRows::new(&checkpoint, &model.weights).unwrap();
        let mut plain = SourceRows::new(&checkpoint, &model.weights).unwrap();
        let before = values(&model, &mut source, &mut plain);
        let mut scalings = Vec::new();
        for pair in model.boundaries.windows(2) {
            let layer = Layer::between(&model.graph, Some(pair[0]), pair[1]);
            let hidden: Vec<f32> =
                windows.iter().flat_map(|ids| interpret(&model.graph, before.clone(), ids, pair[0])).collect();
            let inputs = calibration.measure(&layer, &mut rows, &hidden).unwrap();
            scalings.push(scale_layer(&model.graph, &layer, &inputs, &mut rows, 2).unwrap());
        }
        let mut after = values(&model, &mut source, &mut rows);
        for node in model.graph.nodes.iter().filter(|n| n.kind == NodeKind::Weight && n.ty.shape.len() > 1) {
            let dims: Vec<usize> = node.ty.shape.iter().map(|d| d.value(&[]).unwrap() as usize).collect();
            let cols = dims[dims.len() - 1];
            let Some(Tensor::Real(values)) = after.get_mut(&node.name) else { continue };
            for (matrix, values) in values.chunks_mut(dims[dims.len() - 2] * cols).enumerate() {
                scalings.iter().for_each(|s| s.apply(&node.name, matrix, values, cols));
            }
        }
        folded += before.iter().filter(|(name, values)| after[*name] != **values).count();
        let ids = windows.iter().next().unwrap();
        let logits = model.graph.outputs.iter().find(|(n, _)| n == "logits").unwrap().1;
        let expected = interpret(&model.graph, before, ids, logits);
        let found = interpret(&model.graph, after, ids, logits);
        assert!(relative_rms(&found, &expected) < 1e-5, "{name}: {}", relative_rms(&found, &expected));
    }
    assert!(folded > 60, "only {folded} weights were scaled");
}

/// All bytes of all weights.
fn bytes(model: &Model, assignment: &Assignment, rows: &mut dyn WeightRows) -> Vec<u8> {
    let graph = apply(&model.graph, assignment).unwrap();
    let (mut all, mut part) = (Vec::new(), Vec::new());
    for (node, info) in crate::package::weight_table(&graph, Layout::Rows16).unwrap() {
        match (info.layout, info.shape.as_slice()) {
            (Layout::Rows16, [matrices, count, _]) => {
                for matrix in 0..*matrices {
                    rows.rows(&info.name, matrix, 0, *count, &mut part).unwrap();
                    all.extend_from_slice(&part);
                }
            }
            (Layout::Rows16, shape) => {
                rows.rows(&info.name, 0, 0, shape[0], &mut part).unwrap();
                all.extend_from_slice(&part);
            }
            _ if graph.nodes[node].kind == NodeKind::Weight => {
                rows.plain(&info.name, &mut part).unwrap();
                all.extend_from_slice(&part);
            }
            _ => {}
        }
    }
    all
}

#[test]
fn calibrated_bytes_do_not_depend_on_threads() {
    for name in ["llama31", "mixtral"] {
        for method in [Method::Gptq, Method::Awq] {
            let (checkpoint, model) = import(name);
            let windows = windows(&model, 300);
            let options = QuantOptions { method, ..asked(DType::Q4_0) };
            let run = |threads: usize| {
                let (mut rows, _) = calibrate(&checkpoint, &model, &options, &windows, threads).unwrap();
                let assignment = rows.assignment().clone();
                bytes(&model, &assignment, &mut rows)
            };
            assert_eq!(run(1), run(3), "{name} {}", method.name());
        }
    }
}

/// A text of few words keeps to a few directions of the residual stream, as real text does; all words of a random embedding fill
/// it evenly, and there is nothing to learn.
#[test]
fn calibrated_layers_are_nearer_to_the_source_than_nearest_ones() {
    let (checkpoint, model) = import("llama31");
    let (text, judged) = (windows_of(24, 5, 2048), windows_of(24, 77, 64));
    let ids = judged.iter().next().unwrap();
    let mut source = SourceRows::new(&checkpoint, &model.weights).unwrap();
    let expected = run_layers(&model.graph, &model, &mut source, ids, 2);
    let mut options = asked(DType::Q4G128);
    options.embedding = Some(FormatChoice::Keep);
    let error = |options: &QuantOptions| {
        let (mut rows, _) = calibrate(&checkpoint, &model, options, &text, 2).unwrap();
        let graph = apply(&model.graph, rows.assignment()).unwrap();
        relative_rms(&run_layers(&graph, &model, &mut rows, ids, 2), &expected)
    };
    let assignment = assign(&model.graph, &options);
    let mut nearest = StreamedRows::new(&checkpoint, &model.weights, &assignment, 2).unwrap();
    let graph = apply(&model.graph, &assignment).unwrap();
    let nearest = relative_rms(&run_layers(&graph, &model, &mut nearest, ids, 2), &expected);
    for (method, share) in [(Method::Gptq, 0.85), (Method::Awq, 0.97)] {
        options.method = method;
        let found = error(&options);
        assert!(found < share * nearest, "{}: {found} of {nearest}", method.name());
    }
}

#[test]
fn starved_experts_use_the_moments_of_their_layer() {
    for method in [Method::Gptq, Method::Awq] {
        let (checkpoint, model) = import("qwen3_moe");
        let options = QuantOptions { method, ..asked(DType::Q4_0) };
        // 40 tokens, 4 of 8 experts each: some experts have fewer than 32 inputs.
        let (_, report) = calibrate(&checkpoint, &model, &options, &windows(&model, 40), 2).unwrap();
        assert_eq!(report.experts, 16);
        assert!(report.starved > 0 && report.starved < 16 && report.unreached == 0, "{report:?}");
        assert!(
            report.lines()[1].contains(&format!("experts starved: {} of 16", report.starved)),
            "{:?}",
            report.lines()
        );
        let (_, report) = calibrate(&checkpoint, &model, &options, &windows(&model, 2000), 2).unwrap();
        assert_eq!((report.starved, report.unreached), (0, 0));
    }
}

#[test]
fn a_short_text_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("short.txt");
    std::fs::write(&path, "A few words.").unwrap();
    let checkpoint = Checkpoint::open(golden("llama31")).unwrap();
    let error = Windows::read(&path, &checkpoint, 1 << 16, 512).unwrap_err();
    assert!(matches!(&error, QuantiseError::ShortText { needed: SMALLEST_TOKENS, .. }));
    let text = error.to_string();
    assert!(text.contains("512") && text.contains("short.txt") && !text.contains('\n'), "{text}");
    // A checkpoint without tokenizer says so.
    std::fs::write(&path, "A few words. ".repeat(500)).unwrap();
    let checkpoint = Checkpoint::open(golden("qwen2")).unwrap();
    assert!(Windows::read(&path, &checkpoint, 1 << 16, 512).unwrap_err().to_string().contains("no tokenizer"));
}
