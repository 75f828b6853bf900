//! What cannot be imported is refused in one line that names the field or the tensor.

mod support;

use std::collections::BTreeMap;
use std::fs;

use ir::types::DType;
use models::{Checkpoint, ImportOptions, hyperparameters, import};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use support::{GgufWriter, Meta, golden};

type Tensors<'a> = BTreeMap<String, TensorView<'a>>;

/// The message with which a fixture is refused after its config.json and tensors were changed.
fn refusal(name: &str, edit: impl Fn(&mut Value), change: impl Fn(&mut Tensors)) -> String {
    let folder = tempfile::tempdir().unwrap();
    let bytes = fs::read(golden(name).join("model.safetensors")).unwrap();
    let mut tensors: Tensors = SafeTensors::deserialize(&bytes).unwrap().tensors().into_iter().collect();
    change(&mut tensors);
    fs::write(folder.path().join("model.safetensors"), safetensors::serialize(&tensors, None).unwrap()).unwrap();
    let mut config = serde_json::from_slice(&fs::read(golden(name).join("config.json")).unwrap()).unwrap();
    edit(&mut config);
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let options = ImportOptions {
        max_tokens: 64,
        max_sequences: 4,
        max_model_len: 128,
        kv_dtype: DType::F32,
        trace_routing: false,
        embeddings: false,
    };
    let result = Checkpoint::open(folder.path()).and_then(|c| import(&c, &options));
    let error = result.map(|model| model.family).unwrap_err().to_string();
    assert!(!error.contains('\n'), "{error}");
    error
}

/// Checks that a fixture with one other field is refused in words that include these.
fn refused_field(name: &str, field: &str, value: Value, words: &[&str]) {
    let error = refusal(name, |config| set(config, field, value.clone()), |_| {});
    assert!(words.iter().all(|word| error.contains(word)), "{name} with {field} = {value}: {error}");
}

/// As [`refused_field`], with other tensors.
fn refused_tensors(name: &str, change: impl Fn(&mut Tensors), words: &[&str]) {
    let error = refusal(name, |_| {}, change);
    assert!(words.iter().all(|word| error.contains(word)), "{name}: {error}");
}

fn set(config: &mut Value, field: &str, value: Value) {
    let pointer = format!("/{}", field.replace('.', "/"));
    match config.pointer_mut(&pointer) {
        Some(slot) => *slot = value,
        None => config[field] = value,
    }
}

/// A tensor of another shape with as many elements.
fn reshape(tensors: &mut Tensors, name: &str, shape: &[usize]) {
    let old = &tensors[name];
    let view = TensorView::new(old.dtype(), shape.to_vec(), old.data()).unwrap();
    tensors.insert(name.into(), view);
}

#[test]
fn of_dense_models() {
    let known = "llama, mistral, qwen2, qwen3, mixtral, qwen2_moe, qwen3_moe, olmoe";
    refused_field("llama31", "model_type", json!("mamba"), &["model_type", "\"mamba\"", known]);
    refused_field("llama31", "hidden_size", json!(68), &["[512, 68]"]);
    refused_field("mixtral", "hidden_size", json!(66), &["num_attention_heads", "divisor of hidden_size 66"]);
    refused_field("llama31", "num_key_value_heads", json!(3), &["num_key_value_heads", "divisor"]);
    refused_field("llama31", "rope_scaling.rope_type", json!("spiral"), &["rope_scaling.rope_type", "longrope"]);
    refused_field("llama31", "hidden_act", json!("relu"), &["hidden_act", "relu2"]);
    refused_field("smollm2", "tie_word_embeddings", json!(false), &["lm_head"]);
    refused_field("qwen3", "layer_types", json!(["full_attention"]), &["layer_types"]);
    refused_field(
        "phi3_longrope",
        "rope_scaling.long_factor",
        json!([1.0]),
        &["rope_scaling.long_factor", "8 positive"],
    );
    refused_field("phi3_longrope", "rope_scaling.short_factor", json!(null), &["rope_scaling.short_factor"]);
    refused_field("phi3", "intermediate_size", json!(150), &["mlp.gate_up_proj", "[300, 64]", "[320, 64]"]);
    refused_field("phi3", "num_key_value_heads", json!(2), &["self_attn.qkv_proj", "[128, 64]", "[192, 64]"]);
    refused_field("gemma2", "hidden_activation", json!("tanh"), &["hidden_activation", "gelu_pytorch_tanh"]);
    refused_field("gemma2", "query_pre_attn_scalar", json!(0), &["query_pre_attn_scalar", "positive"]);
    refused_field("gemma2", "final_logit_softcapping", json!(-1), &["final_logit_softcapping"]);
}

#[test]
fn where_windows_are_not_said() {
    let forget = |config: &mut Value| {
        set(config, "layer_types", Value::Null);
        set(config, "sliding_window", Value::Null);
    };
    let error = refusal("gemma3", forget, |_| {});
    assert!(error.contains("field sliding_window: expected a positive integer"), "{error}");
}

#[test]
fn of_mixtures() {
    refused_field("mixtral", "num_local_experts", json!(9), &["block_sparse_moe.gate", "[9, 64]", "[8, 64]"]);
    refused_field("mixtral", "num_local_experts", json!(0), &["num_local_experts"]);
    refused_field("mixtral", "num_local_experts", json!(1), &["num_experts_per_tok", "at most num_local_experts, 1"]);
    refused_field("qwen3_moe", "num_experts_per_tok", json!(9), &["num_experts_per_tok", "at most num_experts, 8"]);
    refused_field("qwen3_moe", "moe_intermediate_size", json!(33), &["experts.0.gate_proj", "[33, 64]"]);
    refused_field("granitemoe", "intermediate_size", json!(31), &["block_sparse_moe.input_linear", "62"]);
    refused_field("granitemoe", "residual_multiplier", json!(-1), &["residual_multiplier", "positive"]);
    refused_field("olmoe", "clip_qkv", json!(8.0), &["clip_qkv", "not supported"]);
    refused_field("phimoe", "num_experts_per_tok", json!(3), &["num_experts_per_tok", "1 or 2"]);
    refused_field("gpt_oss", "swiglu_limit", json!(0), &["swiglu_limit"]);
}

#[test]
fn of_groups_and_latent_attention() {
    refused_field("deepseek_v2", "n_group", json!(3), &["n_group", "divisor of the 8 experts"]);
    refused_field("deepseek_v2", "topk_group", json!(5), &["topk_group", "at most 4 groups"]);
    refused_field("deepseek_v2", "topk_group", json!(1), &["topk_group", "3 experts or more"]);
    refused_field("deepseek_v3", "n_group", json!(8), &["n_group", "groups of two or more"]);
    refused_field("deepseek_v2", "topk_method", json!("noisy"), &["topk_method", "greedy"]);
    refused_field("deepseek_v3", "kv_lora_rank", Value::Null, &["kv_lora_rank", "found nothing"]);
    refused_field("deepseek_v3", "kv_lora_rank", json!(31), &["self_attn.kv_b_proj", "[128, 31]", "[128, 32]"]);
    refused_field("deepseek_v3", "v_head_dim", json!(15), &["self_attn.kv_b_proj", "[124, 32]"]);
}

#[test]
fn without_a_tensor_or_with_one_of_another_shape() {
    let gone = |name: &'static str| move |tensors: &mut Tensors| drop(tensors.remove(name).unwrap());
    let expert = "model.layers.1.block_sparse_moe.experts.5.w2";
    refused_tensors("mixtral", gone("model.layers.1.block_sparse_moe.experts.5.w2.weight"), &[expert, "missing"]);
    refused_tensors("mixtral", |t| reshape(t, &format!("{expert}.weight"), &[32, 64]), &[expert, "[64, 32]"]);
    let bias = "model.layers.2.mlp.gate.e_score_correction_bias";
    refused_tensors("deepseek_v3", gone("model.layers.2.mlp.gate.e_score_correction_bias"), &[bias, "missing"]);
    refused_tensors("gpt_oss", gone("model.layers.3.self_attn.sinks"), &["model.layers.3.self_attn.sinks"]);
    let biases = "model.layers.0.mlp.experts.gate_up_proj_bias";
    refused_tensors("gpt_oss", |t| reshape(t, biases, &[4, 128]), &[biases, "[8, 64]"]);
    refused_tensors("gpt_oss", |t| reshape(t, "model.layers.0.mlp.experts.down_proj", &[4, 64, 64]), &["down_proj"]);
}

/// The message with which a GGUF file of these keys, beside the usual ones, is refused.
fn gguf_refusal(architecture: &str, keys: &[(&str, u32)]) -> String {
    let usual = [("attention.head_count", 4), ("block_count", 2), ("context_length", 512), ("embedding_length", 64)];
    let usual =
        usual.iter().chain(&[("feed_forward_length", 96)]).filter(|(key, _)| keys.iter().all(|(k, _)| k != key));
    let mut writer = GgufWriter::new().str("general.architecture", architecture);
    for (key, value) in usual.chain(keys) {
        writer = writer.meta(&format!("{architecture}.{key}"), Meta::U32(*value));
    }
    let epsilon = format!("{architecture}.attention.layer_norm_rms_epsilon");
    let writer = writer.meta(&epsilon, Meta::F32(1e-6)).tensor("token_embd.weight", &[64, 4], 0, vec![0; 1024]);
    let file = tempfile::NamedTempFile::with_suffix(".gguf").unwrap();
    writer.write(file.path());
    let result = Checkpoint::open(file.path()).and_then(|c| hyperparameters(&c));
    let error = result.map(|hyper| hyper.layers).unwrap_err().to_string();
    assert!(!error.contains('\n'), "{error}");
    error
}

#[test]
fn keys_of_gguf_files() {
    let refused = |architecture: &str, keys: &[(&str, u32)], words: &[&str]| {
        let error = gguf_refusal(architecture, keys);
        assert!(words.iter().all(|word| error.contains(word)), "{architecture} {keys:?}: {error}");
    };
    let mixture = [("expert_count", 4), ("expert_used_count", 5)];
    refused("llama", &mixture, &["llama.expert_used_count", "at most the 4 experts", "found 5"]);
    refused("qwen3moe", &[("expert_used_count", 2)], &["qwen3moe.expert_count", "found nothing"]);
    refused("gemma2", &[], &["gemma2.attention.sliding_window", "positive"]);
    refused("gpt-oss", &[("block_count", 0)], &["gpt-oss.block_count"]);
    let latent = [("attention.kv_lora_rank", 32), ("attention.key_length", 8), ("attention.value_length", 16)];
    refused("deepseek2", &latent, &["deepseek2.rope.dimension_count", "found nothing"]);
    let wide = [&latent[..], &[("rope.dimension_count", 8)]].concat();
    refused("deepseek2", &wide, &["deepseek2.rope.dimension_count", "fewer than the 8 dimensions"]);
    let grouped =
        [("attention.key_length", 24), ("expert_count", 8), ("expert_used_count", 3), ("expert_group_count", 3)];
    let grouped = [&wide[..1], &wide[2..], &grouped].concat();
    refused("deepseek2", &grouped, &["deepseek2.expert_group_count", "divisor of the 8 experts"]);
}
