//! Golden fixtures: tiny checkpoints with reference outputs, in the layout that `tests/golden/README.md` describes.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use ir::interp::Tensor;
use models::Checkpoint;
use safetensors::{Dtype, SafeTensors};

/// Reference outputs of one prompt.
pub struct Prompt {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Logits of every position, `[ids.len(), vocabulary]`.
    pub logits: Vec<f32>,
    /// Greedy continuation.
    pub greedy_ids: Vec<u32>,
    /// Largest minus second-largest logit at each step of the continuation.
    pub greedy_gap: Vec<f32>,
}

/// One fixture.
pub struct Golden {
    /// The checkpoint's folder.
    pub folder: PathBuf,
    /// Reference outputs, prompt by prompt.
    pub prompts: Vec<Prompt>,
}

impl Golden {
    /// The folder's name.
    pub fn name(&self) -> String {
        self.folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Reads a fixture.
    pub fn read(folder: &Path) -> Golden {
        let bytes = fs::read(folder.join("golden.safetensors")).expect("golden.safetensors");
        let tensors = SafeTensors::deserialize(&bytes).expect("safetensors");
        let prompts = (0..).take_while(|n| tensors.tensor(&format!("prompt.{n}.input_ids")).is_ok());
        let prompts = prompts.map(|n| {
            let part = |name: &str| format!("prompt.{n}.{name}");
            Prompt {
                ids: ids(&tensors, &part("input_ids")),
                logits: floats(&tensors, &part("logits")),
                greedy_ids: ids(&tensors, &part("greedy_ids")),
                greedy_gap: floats(&tensors, &part("greedy_gap")),
            }
        });
        Golden { folder: folder.to_path_buf(), prompts: prompts.collect() }
    }
}

fn ids(tensors: &SafeTensors, name: &str) -> Vec<u32> {
    let tensor = tensors.tensor(name).expect(name);
    assert_eq!(tensor.dtype(), Dtype::I64);
    let wide = tensor.data().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().expect("8 bytes")));
    wide.map(|id| u32::try_from(id).expect("a token id")).collect()
}

fn floats(tensors: &SafeTensors, name: &str) -> Vec<f32> {
    let tensor = tensors.tensor(name).expect(name);
    assert_eq!(tensor.dtype(), Dtype::F32);
    tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("4 bytes"))).collect()
}

/// The folder of committed fixtures.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden")
}

/// Every committed fixture whose architecture this build knows and whose weights are floats, and those of `MOESAIC_GOLDEN`.
pub fn fixtures() -> Vec<Golden> {
    let more = std::env::var_os("MOESAIC_GOLDEN").map(PathBuf::from);
    let mut folders: Vec<PathBuf> =
        [Some(folder()), more].into_iter().flatten().flat_map(|f| checkpoints(&f)).collect();
    folders.sort();
    folders.iter().map(|f| Golden::read(f)).collect()
}

fn checkpoints(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    entries
        .map(|e| e.expect("entry").path())
        .filter(|p| p.join("golden.safetensors").is_file())
        .filter(|p| is_known(p))
        .collect()
}

fn is_known(folder: &Path) -> bool {
    let text = fs::read(folder.join("config.json")).expect("config.json");
    let config: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
    let family = config["model_type"].as_str().unwrap_or_default();
    let known = models::registry::FAMILIES.iter().any(|f| f.model_types.contains(&family));
    known && config.get("quantization_config").is_none()
}

/// sqrt(mean((a − b)²) / mean(b²)): the measure the fixtures' tolerances are given in.
pub fn relative_rms(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let square = |x: f64| x * x;
    let error: f64 = a.iter().zip(b).map(|(a, b)| square(f64::from(*a) - f64::from(*b))).sum();
    let scale: f64 = b.iter().map(|b| square(f64::from(*b))).sum();
    (error / scale).sqrt()
}

/// Every weight of a graph, dequantised.
pub fn weights(graph: &ir::graph::Graph, checkpoint: &Checkpoint) -> HashMap<String, Tensor> {
    let mut all = HashMap::new();
    for node in graph.nodes.iter().filter(|n| n.kind == ir::graph::NodeKind::Weight) {
        let mut bytes = Vec::new();
        checkpoint.read(&node.name, &mut bytes).expect("weight");
        let shape: Vec<u64> = node.ty.shape.iter().map(|d| d.value(&[]).expect("fixed shape")).collect();
        let mut values = vec![0f32; shape.iter().product::<u64>() as usize];
        let cols = shape.last().copied().unwrap_or(1) as usize;
        ir::quant::dequantize(checkpoint.dtype(&node.name).expect("dtype"), &bytes, cols, &mut values).expect("values");
        all.insert(node.name.clone(), Tensor::Real(values));
    }
    all
}
