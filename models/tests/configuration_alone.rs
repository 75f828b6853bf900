//! A graph made of `config.json` alone has the weights, in number, shape and format, that the headers of the whole checkpoint give.

use std::fs;
use std::path::{Path, PathBuf};

use ir::graph::NodeKind;
use ir::types::DType;
use models::synth::PRESETS;
use models::{Checkpoint, ImportOptions, Model, ModelError, hyperparameters, import};

fn fixtures() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden");
    let entries = fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path());
    let mut folders: Vec<_> = entries.filter(|p| p.join("golden.safetensors").is_file()).collect();
    folders.sort();
    folders
}

fn graph(checkpoint: &Checkpoint) -> Result<Model, ModelError> {
    let options = ImportOptions {
        max_tokens: 8,
        max_sequences: 4,
        max_model_len: hyperparameters(checkpoint)?.max_context,
        kv_dtype: DType::F16,
        trace_routing: false,
        embeddings: false,
    };
    import(checkpoint, &options)
}

/// Format and shape of every weight, in graph order: names differ where a family fuses projections.
fn weights(model: &Model) -> Vec<String> {
    let nodes = model.graph.nodes.iter().filter(|n| n.kind == NodeKind::Weight);
    nodes.map(|n| format!("{} {:?}", n.ty.dtype, n.ty.shape)).collect()
}

/// A folder that holds the fixture's config.json only.
fn alone(fixture: &Path) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(fixture.join("config.json"), folder.path().join("config.json")).unwrap();
    folder
}

#[test]
fn a_configuration_gives_the_graph_of_the_checkpoint() {
    let mut compared = 0;
    for fixture in fixtures() {
        let whole = graph(&Checkpoint::open(&fixture).unwrap()).unwrap();
        let folder = alone(&fixture);
        let described = Checkpoint::open_description(folder.path()).unwrap();
        assert!(described.is_assumed());
        match graph(&described) {
            Ok(model) => {
                assert_eq!(weights(&model), weights(&whole), "{}", fixture.display());
                let ops = |m: &Model| m.graph.nodes.iter().map(|n| n.op()).collect::<Vec<_>>();
                assert_eq!(ops(&model), ops(&whole), "{}", fixture.display());
                compared += 1;
            }
            Err(error) => {
                let config = fs::read_to_string(fixture.join("config.json")).unwrap();
                assert!(config.contains("\"desc_act\": true"), "{}: {error}", fixture.display());
                assert!(error.to_string().contains("quantization_config.desc_act"), "{error}");
            }
        }
    }
    assert!(compared > 30, "{compared} fixtures");
}

#[test]
fn every_preset_gives_a_graph_of_its_parameters() {
    for preset in PRESETS {
        let checkpoint = preset.describe(None).unwrap();
        let model = graph(&checkpoint).unwrap();
        let nodes = model.graph.nodes.iter().filter(|n| n.kind == NodeKind::Weight);
        let elements: u64 = nodes.map(|n| n.ty.shape.iter().map(|d| d.value(&[]).unwrap()).product::<u64>()).sum();
        assert_eq!(elements, preset.parameters().unwrap().total, "{}", preset.name);
        assert!(hyperparameters(&preset.describe(Some(3)).unwrap()).unwrap().layers == 3);
    }
}

#[test]
fn what_only_weights_can_tell_is_asked_for() {
    let refused = |text: &str| {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("config.json"), text).unwrap();
        graph(&Checkpoint::open_description(folder.path()).unwrap()).unwrap_err().to_string()
    };
    let config = |rest: &str| {
        format!(
            r#"{{"model_type":"llama","hidden_size":64,"intermediate_size":128,"num_hidden_layers":1,"num_attention_heads":2,
            "num_key_value_heads":1,"vocab_size":100,"max_position_embeddings":64{rest}}}"#
        )
    };
    assert!(refused(&config("")).contains("field torch_dtype: expected float32, float16 or bfloat16"));
    let compressed = config(
        r#","dtype":"bfloat16","quantization_config":{"quant_method":"compressed-tensors","format":"pack-quantized",
        "ignore":["re:.*(gate|up)$"],"config_groups":{"group_0":{"weights":{"num_bits":4,"type":"int","group_size":32}}}}"#,
    );
    assert!(refused(&compressed).contains("quantization_config.ignore"));
    let unread = Checkpoint::open_description(alone(&fixtures()[0]).path()).unwrap();
    assert_eq!((unread.tensors().len(), unread.total_bytes()), (0, 0));
}
