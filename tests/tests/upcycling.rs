//! Sparse upcycling (Komatsuzaki et al. 2023) starts from a dense model whose feed-forward block is copied to every expert. Such a
//! mixture computes what the dense model does, whatever its routers choose: a whole mixture layer checked against a
//! model that has none.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use compiler::target::Activations;
use moesaic_tests::artifacts::{compile, engine};
use moesaic_tests::golden;
use runtime::engine::{Chunk, EngineOptions, Rows};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

const EXPERTS: usize = 32;

/// Names of Mixtral's expert matrices and of the dense block's.
const MATRICES: [(&str, &str); 3] = [("w1", "gate_proj"), ("w2", "down_proj"), ("w3", "up_proj")];

/// Writes the mixture of a dense Llama checkpoint.
fn upcycle(dense: &Path, mixture: &Path) {
    let mut config: serde_json::Value = serde_json::from_slice(&fs::read(dense.join("config.json")).unwrap()).unwrap();
    config["model_type"] = "mixtral".into();
    config["architectures"] = serde_json::json!(["MixtralForCausalLM"]);
    config["num_local_experts"] = EXPERTS.into();
    config["num_experts_per_tok"] = 2.into();
    let (hidden, layers) = (config["hidden_size"].as_u64().unwrap(), config["num_hidden_layers"].as_u64().unwrap());
    fs::write(mixture.join("config.json"), config.to_string()).unwrap();

    let bytes = fs::read(dense.join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let routers: Vec<Vec<u8>> = (0..layers).map(|l| router(l, hidden)).collect();
    let mut out: BTreeMap<String, TensorView> = BTreeMap::new();
    for (name, view) in tensors.tensors() {
        if !name.contains(".mlp.") {
            out.insert(name, view);
        }
    }
    for (layer, router) in routers.iter().enumerate() {
        let place = format!("model.layers.{layer}");
        let block = format!("{place}.block_sparse_moe");
        let view = TensorView::new(Dtype::F32, vec![EXPERTS, hidden as usize], router).unwrap();
        out.insert(format!("{block}.gate.weight"), view);
        for (to, from) in MATRICES {
            let dense = tensors.tensor(&format!("{place}.mlp.{from}.weight")).unwrap();
            for expert in 0..EXPERTS {
                out.insert(format!("{block}.experts.{expert}.{to}.weight"), dense.clone());
            }
        }
    }
    safetensors::serialize_to_file(out, None, &mixture.join("model.safetensors")).unwrap();
}

/// Router weights that spread the tokens over the experts.
fn router(layer: u64, hidden: u64) -> Vec<u8> {
    let value = |i: u64| ((i * 2_654_435_761 + layer * 97) % 1009) as f32 / 504.0 - 1.0;
    (0..EXPERTS as u64 * hidden).flat_map(|i| value(i).to_le_bytes()).collect()
}

fn logits(checkpoint: &Path, ids: &[u32]) -> Vec<f32> {
    let (_folder, artifact) = compile(checkpoint, Activations::F32);
    let mut engine = engine(&artifact, 512, EngineOptions { threads: Some(2), ..EngineOptions::default() });
    let (sequence, mut all) = (engine.open_sequence(), Vec::new());
    let step = [Chunk { sequence, tokens: ids, logits: Rows::All }];
    engine.step_each(&step, |row| all.extend_from_slice(row.logits)).unwrap();
    all
}

#[test]
fn experts_that_are_copies_of_a_dense_block_compute_what_it_does() {
    for name in ["llama31", "smollm2"] {
        let fixture = golden::Golden::read(&golden::folder().join(name));
        let mixture = tempfile::tempdir().unwrap();
        upcycle(&fixture.folder, mixture.path());
        let ids = &fixture.prompts[2].ids;
        let (dense, sparse) = (logits(&fixture.folder, ids), logits(mixture.path(), ids));
        let error = golden::relative_rms(&sparse, &dense);
        println!("{name}: {EXPERTS} equal experts against the dense model, relative RMS {error:.1e}");
        assert!(error < 2e-6, "{name}: {error:.1e}");
        assert!(golden::relative_rms(&sparse, &fixture.prompts[2].logits) < 2e-5, "{name}");
    }
}
