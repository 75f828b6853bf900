//! Names of tensors: one table from a tensor's role to its name in each kind of checkpoint.

/// What a tensor is for.
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
    /// Attention output projection `[H, heads · D]`.
    AttentionOutput,
    /// Norm of each query head `[D]`.
    QueryNorm,
    /// Norm of each key head `[D]`.
    KeyNorm,
    /// The norm before the feed-forward block `[H]`.
    FeedForwardNorm,
    /// Gate projection `[F, H]`.
    Gate,
    /// Up projection `[F, H]`.
    Up,
    /// Down projection `[H, F]`.
    Down,
}

/// How a kind of checkpoint spells names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Spelling {
    /// As transformers' `save_pretrained` writes them.
    HuggingFace,
    /// As llama.cpp's converters write them.
    Gguf,
}

/// Role, Hugging Face name and GGUF name, `{}` standing for the layer.
const NAMES: &[(Role, &str, &str)] = &[
    (Role::TokenEmbedding, "model.embed_tokens", "token_embd"),
    (Role::OutputNorm, "model.norm", "output_norm"),
    (Role::Output, "lm_head", "output"),
    (Role::AttentionNorm, "model.layers.{}.input_layernorm", "blk.{}.attn_norm"),
    (Role::Query, "model.layers.{}.self_attn.q_proj", "blk.{}.attn_q"),
    (Role::Key, "model.layers.{}.self_attn.k_proj", "blk.{}.attn_k"),
    (Role::Value, "model.layers.{}.self_attn.v_proj", "blk.{}.attn_v"),
    (Role::AttentionOutput, "model.layers.{}.self_attn.o_proj", "blk.{}.attn_output"),
    (Role::QueryNorm, "model.layers.{}.self_attn.q_norm", "blk.{}.attn_q_norm"),
    (Role::KeyNorm, "model.layers.{}.self_attn.k_norm", "blk.{}.attn_k_norm"),
    (Role::FeedForwardNorm, "model.layers.{}.post_attention_layernorm", "blk.{}.ffn_norm"),
    (Role::Gate, "model.layers.{}.mlp.gate_proj", "blk.{}.ffn_gate"),
    (Role::Up, "model.layers.{}.mlp.up_proj", "blk.{}.ffn_up"),
    (Role::Down, "model.layers.{}.mlp.down_proj", "blk.{}.ffn_down"),
];

impl Role {
    /// The module's name, to which `.weight` or `.bias` is added.
    pub fn module(self, spelling: Spelling, layer: usize) -> String {
        let row = NAMES.iter().find(|(role, ..)| *role == self);
        let pattern = row.map_or("", |(_, hf, gguf)| if spelling == Spelling::HuggingFace { hf } else { gguf });
        pattern.replace("{}", &layer.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_role_has_a_name_in_both_spellings() {
        assert_eq!(Role::Query.module(Spelling::HuggingFace, 3), "model.layers.3.self_attn.q_proj");
        assert_eq!(Role::Down.module(Spelling::Gguf, 11), "blk.11.ffn_down");
        assert_eq!(NAMES.last().map(|(role, ..)| *role as usize + 1), Some(NAMES.len()));
        assert!(NAMES.iter().enumerate().all(|(i, (role, ..))| *role as usize == i));
    }
}
