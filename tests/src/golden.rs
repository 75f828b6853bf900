//! Golden fixtures: tiny checkpoints with reference outputs, in the layout that `tests/golden/README.md` describes.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use ir::interp::Tensor;
use ir::types::DType;
use models::weights::WeightReader;
use models::{Checkpoint, Model};
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

/// What the routers of prompt 1 did in one mixture layer.
pub struct Routing {
    /// Index of the layer.
    pub layer: usize,
    /// Selected experts, best first, `[tokens, experts a token]`.
    pub experts: Vec<i32>,
    /// Their factors, in the same order.
    pub weights: Vec<f32>,
    /// Distance between the last selected and the first rejected candidate, `[tokens]`.
    pub margin: Vec<f32>,
}

/// One fixture.
pub struct Golden {
    /// The checkpoint's folder.
    pub folder: PathBuf,
    /// Reference outputs, prompt by prompt.
    pub prompts: Vec<Prompt>,
    /// Reference routing of prompt 1, mixture layer by mixture layer.
    pub routing: Vec<Routing>,
    /// What the final norm gives for prompt 1, `[tokens, hidden]`.
    pub final_norm: Vec<f32>,
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
        let layers = tensors.names().into_iter().filter_map(|n| n.strip_prefix("router.")?.strip_suffix(".experts"));
        let mut layers: Vec<usize> = layers.map(|l| l.parse().expect("a layer")).collect();
        layers.sort_unstable();
        let routing = layers.into_iter().map(|layer| {
            let part = |name: &str| format!("router.{layer}.{name}");
            Routing {
                layer,
                experts: ids(&tensors, &part("experts")).into_iter().map(|e| e as i32).collect(),
                weights: floats(&tensors, &part("weights")),
                margin: floats(&tensors, &part("margin")),
            }
        });
        let final_norm = floats(&tensors, "hidden.norm");
        Golden { folder: folder.to_path_buf(), prompts: prompts.collect(), routing: routing.collect(), final_norm }
    }

    /// The family, as config.json calls it.
    pub fn family(&self) -> String {
        let text = fs::read(self.folder.join("config.json")).expect("config.json");
        let config: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
        config["model_type"].as_str().unwrap_or_default().to_string()
    }

    /// The largest relative RMS of logits that is not an error: BitNet's activations are rounded to 8 bits, and one rounding that
    /// falls the other way moves them.
    pub fn tolerance(&self) -> f64 {
        if self.family() == "bitnet" { 2e-2 } else { 2e-5 }
    }

    /// The same where activations are rounded to f16: a token near a routing boundary may then choose another expert, and of BitNet's
    /// own roundings to 8 bits several fall the other way (measured: 0.025 of one token).
    pub fn half_tolerance(&self) -> f64 {
        match self.routing.is_empty() {
            true if self.family() == "bitnet" => 5e-2,
            true => 2e-2,
            false => 1e-1,
        }
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

/// The folder of committed fixtures: of the repository that `MOESAIC_REPOSITORY` names, for executables that were built elsewhere, else of the
/// one this was built from.
pub fn folder() -> PathBuf {
    let elsewhere = std::env::var_os("MOESAIC_REPOSITORY").map(|root| PathBuf::from(root).join("tests"));
    elsewhere.unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into()).join("golden")
}

/// Every committed fixture, and those of `MOESAIC_GOLDEN`.
pub fn fixtures() -> Vec<Golden> {
    let more = std::env::var_os("MOESAIC_GOLDEN").map(PathBuf::from);
    let mut folders: Vec<PathBuf> =
        [Some(folder()), more].into_iter().flatten().flat_map(|f| checkpoints(&f)).collect();
    folders.sort();
    folders.iter().map(|f| Golden::read(f)).collect()
}

/// The committed GGUF conversions: each file with the reference outputs of the fixture it was made of.
pub fn conversions() -> Vec<(PathBuf, Golden)> {
    let entries = fs::read_dir(folder().join("gguf")).expect("folder of conversions");
    let mut files: Vec<PathBuf> = entries.map(|e| e.expect("entry").path()).collect();
    files.sort();
    files
        .into_iter()
        .map(|file| (file.clone(), Golden::read(&folder().join(file.file_stem().expect("name")))))
        .collect()
}

fn checkpoints(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    entries.map(|e| e.expect("entry").path()).filter(|p| p.join("golden.safetensors").is_file()).collect()
}

/// sqrt(mean((a − b)²) / mean(b²)): the measure the fixtures' tolerances are given in.
pub fn relative_rms(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let square = |x: f64| x * x;
    let error: f64 = a.iter().zip(b).map(|(a, b)| square(f64::from(*a) - f64::from(*b))).sum();
    let scale: f64 = b.iter().map(|b| square(f64::from(*b))).sum();
    (error / scale).sqrt()
}

/// Every weight of a model, dequantised.
pub fn weights(model: &Model, checkpoint: &Checkpoint) -> HashMap<String, Tensor> {
    let mut reader = WeightReader::new(checkpoint, &model.weights).expect("reader");
    let nodes = model.graph.nodes.iter().filter(|n| n.kind == ir::graph::NodeKind::Weight);
    nodes.map(|node| (node.name.clone(), weight(&mut reader, node))).collect()
}

fn weight(reader: &mut WeightReader, node: &ir::graph::Node) -> Tensor {
    let shape: Vec<u64> = node.ty.shape.iter().map(|d| d.value(&[]).expect("fixed shape")).collect();
    let mut bytes = Vec::new();
    if reader.read_plain(&node.name, &mut bytes).is_ok() {
        let words = bytes.chunks_exact(4).map(|b| b.try_into().expect("4 bytes"));
        return match node.ty.dtype {
            DType::I32 => Tensor::Int(words.map(i32::from_le_bytes).collect()),
            _ => Tensor::Real(words.map(f32::from_le_bytes).collect()),
        };
    }
    let (matrices, rows) = match shape.as_slice() {
        [matrices, rows, _] => (*matrices, *rows),
        [rows, _] => (1, *rows),
        _ => panic!("{}: neither a vector nor a matrix", node.name),
    };
    let (mut values, mut matrix) = (Vec::new(), Vec::new());
    for i in 0..matrices {
        reader.read_values(&node.name, i, 0, rows, &mut matrix).expect("values");
        values.append(&mut matrix);
    }
    Tensor::Real(values)
}
