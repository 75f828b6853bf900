//! Names of tensors: one table from a tensor's role to its name in each kind of checkpoint.
//!
//! The table holds the spelling most families share; a family lists only the names in which it differs.

/// What a tensor is for. Shapes: H hidden, D head dimension, F feed-forward width, E experts, L latent width.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Token embeddings `[V, H]`.
    TokenEmbedding,
    /// The norm before the output projection `[H]`.
    OutputNorm,
    /// The output projection `[V, H]`.
    Output,
    /// The norm before attention `[H]`.
    AttentionNorm,
    /// Query projection `[heads · D, H]`.
    Query,
    /// Key projection `[kv heads · D, H]`.
    Key,
    /// Value projection `[kv heads · D, H]`.
    Value,
    /// Query, key and value projections in one matrix, in that order.
    QueryKeyValue,
    /// Attention output projection `[H, heads · D]`.
    AttentionOutput,
    /// Norm of the queries: of each head `[D]`, or of the projection `[heads · D]`.
    QueryNorm,
    /// Norm of the keys: of each head `[D]`, or of the projection `[kv heads · D]`.
    KeyNorm,
    /// One more attention score a head `[heads]`.
    Sinks,
    /// The norm between attention and its output projection `[heads · D]`.
    AttentionSubNorm,
    /// The norm of the attention block's result `[H]`.
    PostAttentionNorm,
    /// The norm before the feed-forward block `[H]`.
    FeedForwardNorm,
    /// The norm of the feed-forward block's result `[H]`.
    PostFeedForwardNorm,
    /// Gate projection `[F, H]`.
    Gate,
    /// Up projection `[F, H]`.
    Up,
    /// Gate and up projections in one matrix, in that order.
    GateUp,
    /// The norm between activation and down projection `[F]`.
    FeedForwardSubNorm,
    /// Down projection `[H, F]`.
    Down,
    /// Scores of the experts `[E, H]`.
    Router,
    /// What is added to scores for the selection alone `[E]`.
    RouterCorrection,
    /// Gate projections of the experts.
    ExpertGate,
    /// Up projections of the experts.
    ExpertUp,
    /// Gate and up projections of the experts in one matrix each.
    ExpertGateUp,
    /// Down projections of the experts.
    ExpertDown,
    /// How much of the shared expert is used `[1, H]`.
    SharedRouter,
    /// Gate projection of the shared expert.
    SharedGate,
    /// Up projection of the shared expert.
    SharedUp,
    /// Down projection of the shared expert.
    SharedDown,
    /// Compression of the queries `[query rank, H]`.
    QueryCompression,
    /// Norm of the compressed queries `[query rank]`.
    QueryCompressionNorm,
    /// Expansion of the compressed queries `[heads · D, query rank]`.
    QueryExpansion,
    /// Compression of keys and values, then the shared rotary key: `[L + rotary, H]`.
    Latent,
    /// Norm of the latent `[L]`.
    LatentNorm,
    /// Expansion of the latent to each head's key, then value: `[heads · (key + value), L]`.
    LatentExpansion,
    /// The key part of the expansion, transposed, a matrix `[L, key]` a head (GGUF).
    LatentKey,
    /// The value part of the expansion, a matrix `[value, L]` a head (GGUF).
    LatentValue,
}

/// How a kind of checkpoint spells names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Spelling {
    /// As transformers' `save_pretrained` writes them.
    HuggingFace,
    /// As llama.cpp's converters write them.
    Gguf,
}

/// Role, Hugging Face name and GGUF name; `{}` stands for the layer, `{e}` for the expert.
pub type Name = (Role, &'static str, &'static str);

const NAMES: &[Name] = &[
    (Role::TokenEmbedding, "model.embed_tokens", "token_embd"),
    (Role::OutputNorm, "model.norm", "output_norm"),
    (Role::Output, "lm_head", "output"),
    (Role::AttentionNorm, "model.layers.{}.input_layernorm", "blk.{}.attn_norm"),
    (Role::Query, "model.layers.{}.self_attn.q_proj", "blk.{}.attn_q"),
    (Role::Key, "model.layers.{}.self_attn.k_proj", "blk.{}.attn_k"),
    (Role::Value, "model.layers.{}.self_attn.v_proj", "blk.{}.attn_v"),
    (Role::QueryKeyValue, "model.layers.{}.self_attn.qkv_proj", "blk.{}.attn_qkv"),
    (Role::AttentionOutput, "model.layers.{}.self_attn.o_proj", "blk.{}.attn_output"),
    (Role::QueryNorm, "model.layers.{}.self_attn.q_norm", "blk.{}.attn_q_norm"),
    (Role::KeyNorm, "model.layers.{}.self_attn.k_norm", "blk.{}.attn_k_norm"),
    (Role::Sinks, "model.layers.{}.self_attn.sinks", "blk.{}.attn_sinks"),
    (Role::AttentionSubNorm, "model.layers.{}.self_attn.attn_sub_norm", "blk.{}.attn_sub_norm"),
    (Role::PostAttentionNorm, "model.layers.{}.post_attention_layernorm", "blk.{}.post_attention_norm"),
    (Role::FeedForwardNorm, "model.layers.{}.post_attention_layernorm", "blk.{}.ffn_norm"),
    (Role::PostFeedForwardNorm, "model.layers.{}.post_feedforward_layernorm", "blk.{}.post_ffw_norm"),
    (Role::Gate, "model.layers.{}.mlp.gate_proj", "blk.{}.ffn_gate"),
    (Role::Up, "model.layers.{}.mlp.up_proj", "blk.{}.ffn_up"),
    (Role::GateUp, "model.layers.{}.mlp.gate_up_proj", "blk.{}.ffn_up"),
    (Role::FeedForwardSubNorm, "model.layers.{}.mlp.ffn_sub_norm", "blk.{}.ffn_sub_norm"),
    (Role::Down, "model.layers.{}.mlp.down_proj", "blk.{}.ffn_down"),
    (Role::Router, "model.layers.{}.mlp.gate", "blk.{}.ffn_gate_inp"),
    (Role::RouterCorrection, "model.layers.{}.mlp.gate.e_score_correction_bias", "blk.{}.exp_probs_b.bias"),
    (Role::ExpertGate, "model.layers.{}.mlp.experts.{e}.gate_proj", "blk.{}.ffn_gate_exps"),
    (Role::ExpertUp, "model.layers.{}.mlp.experts.{e}.up_proj", "blk.{}.ffn_up_exps"),
    (Role::ExpertGateUp, "model.layers.{}.mlp.experts.gate_up_proj", "blk.{}.ffn_gate_up_exps"),
    (Role::ExpertDown, "model.layers.{}.mlp.experts.{e}.down_proj", "blk.{}.ffn_down_exps"),
    (Role::SharedRouter, "model.layers.{}.mlp.shared_expert_gate", "blk.{}.ffn_gate_inp_shexp"),
    (Role::SharedGate, "model.layers.{}.mlp.shared_experts.gate_proj", "blk.{}.ffn_gate_shexp"),
    (Role::SharedUp, "model.layers.{}.mlp.shared_experts.up_proj", "blk.{}.ffn_up_shexp"),
    (Role::SharedDown, "model.layers.{}.mlp.shared_experts.down_proj", "blk.{}.ffn_down_shexp"),
    (Role::QueryCompression, "model.layers.{}.self_attn.q_a_proj", "blk.{}.attn_q_a"),
    (Role::QueryCompressionNorm, "model.layers.{}.self_attn.q_a_layernorm", "blk.{}.attn_q_a_norm"),
    (Role::QueryExpansion, "model.layers.{}.self_attn.q_b_proj", "blk.{}.attn_q_b"),
    (Role::Latent, "model.layers.{}.self_attn.kv_a_proj_with_mqa", "blk.{}.attn_kv_a_mqa"),
    (Role::LatentNorm, "model.layers.{}.self_attn.kv_a_layernorm", "blk.{}.attn_kv_a_norm"),
    (Role::LatentExpansion, "model.layers.{}.self_attn.kv_b_proj", "blk.{}.attn_kv_b"),
    (Role::LatentKey, "model.layers.{}.self_attn.k_b_proj", "blk.{}.attn_k_b"),
    (Role::LatentValue, "model.layers.{}.self_attn.v_b_proj", "blk.{}.attn_v_b"),
];

/// The names of one family in one kind of checkpoint.
#[derive(Clone, Copy, Debug)]
pub struct Names {
    /// The kind of checkpoint.
    pub spelling: Spelling,
    /// The family's own names, which come before those of the table.
    pub family: &'static [Name],
}

impl Names {
    /// The module's name, to which `.weight` or `.bias` is added; `{e}` still stands for the expert.
    pub fn module(&self, role: Role, layer: usize) -> String {
        let row = self.family.iter().chain(NAMES).find(|(r, ..)| *r == role);
        let pattern = row.map_or("", |(_, hf, gguf)| if self.spelling == Spelling::HuggingFace { hf } else { gguf });
        pattern.replace("{}", &layer.to_string())
    }
}

/// The name that ops of a role carry in every kind of checkpoint: `layers.3.self_attn.q_proj`.
pub fn label(role: Role, layer: usize) -> String {
    let names = Names { spelling: Spelling::HuggingFace, family: &[] };
    without_expert(names.module(role, layer).trim_start_matches("model."))
}

/// A name without the place of the expert's number: of the stack of all experts.
pub fn without_expert(pattern: &str) -> String {
    pattern.replace(".{e}", "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(spelling: Spelling) -> Names {
        Names { spelling, family: &[] }
    }

    #[test]
    fn every_role_has_a_name_in_both_spellings() {
        assert_eq!(names(Spelling::HuggingFace).module(Role::Query, 3), "model.layers.3.self_attn.q_proj");
        assert_eq!(names(Spelling::Gguf).module(Role::Down, 11), "blk.11.ffn_down");
        assert_eq!(NAMES.last().map(|(role, ..)| *role as usize + 1), Some(NAMES.len()));
        assert!(NAMES.iter().enumerate().all(|(i, (role, ..))| *role as usize == i));
    }

    #[test]
    fn a_family_may_spell_a_role_its_own_way() {
        let family: &[Name] = &[(Role::ExpertGate, "model.layers.{}.moe.experts.{e}.w1", "blk.{}.ffn_gate_exps")];
        let names = Names { spelling: Spelling::HuggingFace, family };
        assert_eq!(names.module(Role::ExpertGate, 2), "model.layers.2.moe.experts.{e}.w1");
        assert_eq!(names.module(Role::Router, 2), "model.layers.2.mlp.gate");
        assert_eq!(label(Role::ExpertGate, 2), "layers.2.mlp.experts.gate_proj");
    }
}
