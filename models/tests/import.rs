//! Every float fixture imports to a graph the verifier accepts; what cannot be imported says why.

use std::fs;
use std::path::{Path, PathBuf};

use ir::op::Op;
use ir::types::DType;
use models::{Checkpoint, ImportOptions, import};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(name)
}

fn options() -> ImportOptions {
    ImportOptions { max_tokens: 64, max_sequences: 4, max_model_len: 128, kv_dtype: DType::F32 }
}

#[test]
fn fixtures_import_to_valid_graphs() {
    for (name, matmuls, norms) in [
        ("llama31", 15, 5),
        ("smollm2", 15, 5),
        ("mistral", 15, 5),
        ("qwen2", 15, 5),
        ("qwen3", 15, 9),
        ("qwen3_rope_parameters", 15, 9),
    ] {
        let checkpoint = Checkpoint::open(golden(name)).unwrap();
        let model = import(&checkpoint, &options()).unwrap();
        ir::verify::verify_graph(&model.graph).unwrap_or_else(|e| panic!("{name}: {e}"));
        let count = |op| model.graph.nodes.iter().filter(|n| n.op() == Some(op)).count();
        assert_eq!((count(Op::Matmul), count(Op::RmsNorm), count(Op::Attention)), (matmuls, norms, 2), "{name}");
    }
}

#[test]
fn the_window_of_mistral_and_the_biases_of_qwen2_are_in_the_graph() {
    let model = import(&Checkpoint::open(golden("mistral")).unwrap(), &options()).unwrap();
    let windows: Vec<_> = model.graph.nodes.iter().filter_map(|n| n.int("window")).collect();
    assert_eq!(windows, [24, 24]);
    let model = import(&Checkpoint::open(golden("qwen2")).unwrap(), &options()).unwrap();
    let biased = model.graph.nodes.iter().filter(|n| n.op() == Some(Op::Matmul) && n.operands().len() == 3);
    assert_eq!(biased.count(), 6);
}

/// A copy of a fixture whose config.json went through `edit`.
fn edited(name: &str, edit: impl Fn(&mut serde_json::Value)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(golden(name).join("model.safetensors"), folder.path().join("model.safetensors")).unwrap();
    let mut config = serde_json::from_slice(&fs::read(golden(name).join("config.json")).unwrap()).unwrap();
    edit(&mut config);
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    folder
}

fn failure(name: &str, edit: impl Fn(&mut serde_json::Value)) -> String {
    let folder = edited(name, edit);
    let error = Checkpoint::open(folder.path()).and_then(|c| import(&c, &options())).unwrap_err().to_string();
    assert!(!error.contains('\n'), "{error}");
    error
}

#[test]
fn what_cannot_be_imported_is_named() {
    let e = failure("llama31", |c| c["model_type"] = "mamba".into());
    assert!(e.contains("model_type") && e.contains("\"mamba\"") && e.contains("llama, mistral, qwen2, qwen3"), "{e}");
    let e = failure("llama31", |c| c["hidden_size"] = 65.into());
    assert!(e.contains("expected shape [512, 65]"), "{e}");
    let e = failure("llama31", |c| c["num_key_value_heads"] = 3.into());
    assert!(e.contains("num_key_value_heads") && e.contains("divisor"), "{e}");
    let e = failure("llama31", |c| c["rope_scaling"]["rope_type"] = "spiral".into());
    assert!(e.contains("rope_scaling.rope_type") && e.contains("yarn"), "{e}");
    let e = failure("llama31", |c| c["hidden_act"] = "relu".into());
    assert!(e.contains("hidden_act"), "{e}");
    let e = failure("smollm2", |c| c["tie_word_embeddings"] = false.into());
    assert!(e.contains("lm_head.weight is missing"), "{e}");
    let e = failure("qwen3", |c| c["layer_types"] = serde_json::json!(["full_attention"]));
    assert!(e.contains("layer_types"), "{e}");
}
