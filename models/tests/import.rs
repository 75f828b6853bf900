//! What importers promise about the graphs they make: ops, names, labels, outputs.

mod support;

use ir::graph::NodeKind;
use ir::op::Op;
use ir::types::DType;
use models::hyperparameters::KvGeometry;
use models::{Checkpoint, ImportOptions, Model, import};
use support::golden;

fn options() -> ImportOptions {
    ImportOptions {
        max_tokens: 64,
        max_sequences: 4,
        max_model_len: 128,
        kv_dtype: DType::F32,
        trace_routing: false,
        embeddings: false,
    }
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

fn imported(name: &str, options: &ImportOptions) -> Model {
    import(&Checkpoint::open(golden(name)).unwrap(), options).unwrap()
}

#[test]
fn routers_are_outputs_only_when_asked_for() {
    let names = |model: &Model| model.graph.outputs.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&imported("deepseek_v2", &options())), ["logits"]);
    let traced = imported("deepseek_v2", &ImportOptions { trace_routing: true, ..options() });
    let routers = ["router.1.experts", "router.1.weights", "router.2.experts", "router.2.weights"];
    assert_eq!(names(&traced), [&routers[..], &["logits"]].concat());
    assert!(imported("llama31", &ImportOptions { trace_routing: true, ..options() }).graph.outputs.len() == 1);
}

#[test]
fn products_of_routers_are_told_by_their_label() {
    let model = imported("qwen2_moe_sharded", &options());
    let labels = model.graph.nodes.iter().filter(|n| n.op() == Some(Op::Matmul) && n.name.ends_with(".router"));
    let labels: Vec<&str> = labels.map(|n| n.name.as_str()).collect();
    assert_eq!(labels[..2], ["layers.0.mlp.router", "layers.0.mlp.shared_expert.router"]);
    assert_eq!(labels.len(), 4);
}

#[test]
fn boundaries_are_the_residual_stream_around_each_layer() {
    let model = imported("gemma2", &options());
    assert_eq!(model.boundaries.len(), 4);
    assert!(model.boundaries.windows(2).all(|pair| pair[0] < pair[1]));
    let types = model.boundaries.iter().map(|value| &model.graph.node(*value).ty);
    assert!(types.clone().all(|ty| Some(ty) == types.clone().next()));
}

#[test]
fn latent_attention_caches_one_narrow_head() {
    let model = imported("deepseek_v2_lite", &options());
    assert_eq!(model.hyper.kv, KvGeometry { heads: 1, head_dim: 32 + 8, planes: 1 });
    assert_eq!(imported("qwen3_moe", &options()).hyper.kv, KvGeometry { heads: 2, head_dim: 32, planes: 2 });
}

#[test]
fn only_longrope_takes_the_number_of_its_table() {
    let has_input = |model: &Model| model.graph.nodes.iter().any(|n| n.name == "rope_tables");
    let long = imported("phi3_longrope", &options());
    assert_eq!((long.hyper.rope_switch, has_input(&long)), (Some(48), true));
    let plain = imported("phi3", &options());
    assert_eq!((plain.hyper.rope_switch, has_input(&plain)), (None, false));
}

#[test]
fn each_weight_has_a_source_and_a_name_of_its_own() {
    for name in ["phi3", "gpt_oss", "granitemoe", "deepseek_v3", "qwen3_moe_gptq_desc_act"] {
        let model = imported(name, &options());
        let weights = model.graph.nodes.iter().filter(|n| n.kind == NodeKind::Weight);
        let names: Vec<&str> = weights.map(|n| n.name.as_str()).collect();
        let distinct: std::collections::HashSet<_> = names.iter().collect();
        assert_eq!(distinct.len(), names.len(), "{name}");
        assert!(names.iter().all(|n| model.weights.get(n).is_some()), "{name}");
    }
    let model = imported("gpt_oss", &options());
    assert!(model.weights.get("model.layers.0.mlp.experts.gate_up_proj.gate.weight").is_some());
}
