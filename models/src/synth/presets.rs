//! The presets: one entry each, with the configuration as its model page has it.
//!
//! A configuration is kept as JSON, so that an entry can be compared with the published file by eye; the shapes and the
//! number of parameters are computed from it. Token ids and `torch_dtype` are set when a model is written. The three `aix`
//! shapes are this project's own: Mixtral's architecture with many narrow experts.

/// A model shape that can be written with random weights.
#[derive(Clone, Copy, Debug)]
pub struct Preset {
    /// Name on the command line.
    pub name: &'static str,
    /// One line about it.
    pub summary: &'static str,
    /// `config.json` without token ids and `torch_dtype`.
    pub(super) config: &'static str,
}

/// Every preset.
pub static PRESETS: &[Preset] = &[
    Preset {
        name: "aix-4b",
        summary: "sparse mixture, 32 experts of width 640, 2 a token",
        config: r#"{
            "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "hidden_act": "silu",
            "hidden_size": 2048, "intermediate_size": 640, "num_hidden_layers": 28,
            "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64,
            "num_local_experts": 32, "num_experts_per_tok": 2, "vocab_size": 64000,
            "max_position_embeddings": 32768, "rms_norm_eps": 1e-05, "rope_theta": 1000000.0,
            "sliding_window": null, "tie_word_embeddings": false, "use_cache": true
        }"#,
    },
    Preset {
        name: "aix-1b",
        summary: "sparse mixture, 32 experts of width 384, 2 a token",
        config: r#"{
            "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "hidden_act": "silu",
            "hidden_size": 1024, "intermediate_size": 384, "num_hidden_layers": 22,
            "num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 64,
            "num_local_experts": 32, "num_experts_per_tok": 2, "vocab_size": 64000,
            "max_position_embeddings": 32768, "rms_norm_eps": 1e-05, "rope_theta": 1000000.0,
            "sliding_window": null, "tie_word_embeddings": false, "use_cache": true
        }"#,
    },
    Preset {
        name: "aix-tiny",
        summary: "the same architecture in a few megabytes, for tests",
        config: r#"{
            "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "hidden_act": "silu",
            "hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
            "num_local_experts": 16, "num_experts_per_tok": 2, "vocab_size": 1024,
            "max_position_embeddings": 2048, "rms_norm_eps": 1e-05, "rope_theta": 1000000.0,
            "sliding_window": null, "tie_word_embeddings": false, "use_cache": true
        }"#,
    },
    Preset {
        name: "mixtral-8x7b",
        summary: "Mixtral 8x7B v0.1",
        config: r#"{
            "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "hidden_act": "silu",
            "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 8,
            "num_local_experts": 8, "num_experts_per_tok": 2, "vocab_size": 32000,
            "max_position_embeddings": 32768, "rms_norm_eps": 1e-05, "rope_theta": 1000000.0,
            "attention_dropout": 0.0, "initializer_range": 0.02, "output_router_logits": false,
            "router_aux_loss_coef": 0.02, "sliding_window": null, "tie_word_embeddings": false, "use_cache": true
        }"#,
    },
    Preset {
        name: "llama-3.1-8b",
        summary: "Llama 3.1 8B",
        config: r#"{
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
            "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
            "max_position_embeddings": 131072, "rms_norm_eps": 1e-05, "rope_theta": 500000.0,
            "rope_scaling": {
                "factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                "original_max_position_embeddings": 8192, "rope_type": "llama3"
            },
            "attention_bias": false, "attention_dropout": 0.0, "initializer_range": 0.02, "mlp_bias": false,
            "pretraining_tp": 1, "tie_word_embeddings": false, "use_cache": true
        }"#,
    },
    Preset {
        name: "phi-3-mini",
        summary: "Phi-3 mini, 4k context",
        config: r#"{
            "architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "hidden_act": "silu",
            "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32064,
            "max_position_embeddings": 4096, "original_max_position_embeddings": 4096,
            "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "rope_scaling": null, "sliding_window": 2047,
            "attention_bias": false, "attention_dropout": 0.0, "embd_pdrop": 0.0, "initializer_range": 0.02,
            "resid_pdrop": 0.0, "tie_word_embeddings": false, "use_cache": true
        }"#,
    },
    Preset {
        name: "gemma-2-2b",
        summary: "Gemma 2 2B",
        config: r#"{
            "architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2",
            "hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh",
            "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
            "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 256000,
            "max_position_embeddings": 8192, "rms_norm_eps": 1e-06, "rope_theta": 10000.0,
            "query_pre_attn_scalar": 256, "sliding_window": 4096,
            "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "cache_implementation": "hybrid",
            "attention_bias": false, "attention_dropout": 0.0, "initializer_range": 0.02,
            "tie_word_embeddings": true, "use_cache": true
        }"#,
    },
    Preset {
        name: "qwen3-30b-a3b",
        summary: "Qwen3 30B A3B, 128 experts, 8 a token",
        config: r#"{
            "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "hidden_act": "silu",
            "hidden_size": 2048, "intermediate_size": 6144, "moe_intermediate_size": 768, "num_hidden_layers": 48,
            "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128,
            "num_experts": 128, "num_experts_per_tok": 8, "norm_topk_prob": true, "decoder_sparse_step": 1,
            "mlp_only_layers": [], "vocab_size": 151936, "max_position_embeddings": 40960,
            "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "rope_scaling": null,
            "attention_bias": false, "attention_dropout": 0.0, "initializer_range": 0.02, "max_window_layers": 48,
            "output_router_logits": false, "router_aux_loss_coef": 0.001, "sliding_window": null,
            "use_sliding_window": false, "tie_word_embeddings": false, "use_cache": true
        }"#,
    },
    Preset {
        name: "gpt-oss-20b",
        summary: "gpt-oss 20B, 32 experts, 4 a token; int4 is its native MXFP4",
        config: r#"{
            "architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss", "hidden_act": "silu",
            "hidden_size": 2880, "intermediate_size": 2880, "num_hidden_layers": 24,
            "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 64,
            "num_local_experts": 32, "num_experts_per_tok": 4, "experts_per_token": 4, "vocab_size": 201088,
            "max_position_embeddings": 131072, "initial_context_length": 4096,
            "rms_norm_eps": 1e-05, "rope_theta": 150000,
            "rope_scaling": {
                "beta_fast": 32.0, "beta_slow": 1.0, "factor": 32.0,
                "original_max_position_embeddings": 4096, "rope_type": "yarn", "truncate": false
            },
            "layer_types": ["sliding_attention", "full_attention"], "sliding_window": 128, "swiglu_limit": 7.0,
            "attention_bias": true, "attention_dropout": 0.0, "initializer_range": 0.02,
            "output_router_logits": false, "router_aux_loss_coef": 0.9, "tie_word_embeddings": false, "use_cache": true
        }"#,
    },
];

/// The preset of this name.
pub fn preset(name: &str) -> Option<&'static Preset> {
    PRESETS.iter().find(|p| p.name == name)
}
