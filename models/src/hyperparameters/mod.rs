//! Hyperparameters of decoder families, read from either kind of checkpoint.
//!
//! What most families share is read here, into one struct whose defaults are Llama's; a family then sets what it does another way.
//! Styles are data (which activation, which norms, what is multiplied), so that the builder of blocks stands once and a
//! family is a page.

mod attention;
pub mod either;
mod gguf;
mod hugging_face;
mod mixture;

pub use attention::{AttentionStyle, KvGeometry, LatentAttention, QueryKeyNorm};
pub use mixture::{Mixture, MixtureFields, Scoring, SharedExpert};

use crate::ModelError;
use crate::config::Fields;
use crate::rope::Rope;
use crate::source::{Checkpoint, Metadata};

/// Sizes, constants and styles of a decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct Hyperparameters {
    /// Width of the residual stream.
    pub hidden: u64,
    /// Decoder layers.
    pub layers: usize,
    /// Query heads.
    pub heads: u64,
    /// Key and value heads.
    pub kv_heads: u64,
    /// Dimensions of a head.
    pub head_dim: u64,
    /// Width of the dense feed-forward block.
    pub feed_forward: u64,
    /// Rows of the embedding table.
    pub vocabulary: u64,
    /// Longest sequence the model was made for, in tokens.
    pub max_context: u64,
    /// Epsilon of the norms.
    pub norm_eps: f64,
    /// Kind of the norms.
    pub norm: NormKind,
    /// What is added to the stored weight of a norm.
    pub norm_offset: f32,
    /// Rotary embedding.
    pub rope: Rope,
    /// Rotary embedding of layers with a window, where it is another.
    pub local_rope: Option<Rope>,
    /// Sequence length above which the rotary embedding uses its second table; `None` if it has one.
    pub rope_switch: Option<u64>,
    /// Attention window of each layer, 0 for none.
    pub windows: Vec<u64>,
    /// Whether the output projection is the embedding table.
    pub tied: bool,
    /// Biases on query, key and value projections; `None` (GGUF does not say): where the checkpoint has them.
    pub qkv_bias: Option<bool>,
    /// Bias on the attention output projection; `None`: where the checkpoint has it.
    pub output_bias: Option<bool>,
    /// Biases in the feed-forward block; `None`: where the checkpoint has them.
    pub feed_forward_bias: Option<bool>,
    /// Bias on the projection to logits.
    pub head_bias: bool,
    /// Activation of the feed-forward block.
    pub activation: Activation,
    /// Whether the feed-forward block normalises what it gives the down projection.
    pub feed_forward_sub_norm: bool,
    /// Whether the inputs of the layers' projections are rounded to 8 bits, a row at a time (BitNet).
    pub rounds_activations: bool,
    /// What is multiplied where.
    pub multipliers: Multipliers,
    /// How attention is computed.
    pub attention: AttentionStyle,
    /// Attention over a compressed cache, in place of heads of keys and values.
    pub latent: Option<LatentAttention>,
    /// The mixture of experts, where the model has one.
    pub mixture: Option<Mixture>,
    /// Shape of the cache.
    pub kv: KvGeometry,
}

impl Hyperparameters {
    /// Reads the shared fields of a checkpoint.
    ///
    /// # Errors
    /// If a field is missing, of another type or out of range.
    pub fn read(checkpoint: &Checkpoint) -> Result<Hyperparameters, ModelError> {
        match checkpoint.metadata() {
            Metadata::HuggingFace(config) => hugging_face::read(&config.fields()),
            Metadata::Gguf(metadata) => gguf::read(metadata, checkpoint),
        }
    }

    /// Reads the rotary embedding again, for heads of which `dims` dimensions are turned.
    ///
    /// # Errors
    /// As [`Hyperparameters::read`].
    pub fn rope_of(&self, checkpoint: &Checkpoint, dims: u64) -> Result<Rope, ModelError> {
        match checkpoint.metadata() {
            Metadata::HuggingFace(config) => hugging_face::rope(&config.fields(), dims, self.max_context),
            Metadata::Gguf(metadata) => gguf::rope(metadata, checkpoint, dims, self.max_context),
        }
    }

    /// Reads a rotary embedding from an object of its own, as transformers 5 writes one for each kind of layer.
    ///
    /// # Errors
    /// As [`Hyperparameters::read`].
    pub fn rope_from(&self, parameters: &Fields) -> Result<Rope, ModelError> {
        hugging_face::rope_in(parameters, parameters, Some(parameters), self.head_dim, self.max_context)
    }

    /// Gives windows to all layers but each `step`-th, unless config.json lists the layers itself.
    ///
    /// # Errors
    /// If the checkpoint does not say how wide the window is.
    pub fn set_window_pattern(&mut self, checkpoint: &Checkpoint, step: u64) -> Result<(), ModelError> {
        if either::config(checkpoint).is_some_and(|fields| fields.has("layer_types")) {
            return Ok(());
        }
        let window = match checkpoint.metadata() {
            Metadata::HuggingFace(config) => config.fields().size("sliding_window")?,
            Metadata::Gguf(metadata) => metadata.size(&gguf::key(metadata, "attention.sliding_window")?)?,
        };
        let pattern = (1..).map(|layer: u64| if layer.is_multiple_of(step) { 0 } else { window });
        self.windows = pattern.take(self.layers).collect();
        Ok(())
    }

    /// Whether a layer's feed-forward block is a mixture.
    pub fn is_mixture(&self, layer: usize) -> bool {
        self.mixture.as_ref().is_some_and(|m| m.layers.get(layer).copied().unwrap_or(false))
    }
}

/// Kind of a norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// Root mean square, with a weight.
    Rms,
    /// Mean and variance, with weight and bias.
    Layer,
}

/// Activation of gated feed-forward blocks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// `x · sigmoid(x)`.
    Silu,
    /// GELU in its tanh form.
    GeluTanh,
    /// GELU by the error function.
    Gelu,
    /// `max(x, 0)²`.
    Relu2,
    /// The bounded form of gpt-oss, with its bound.
    ClampedSwiglu(f64),
}

impl Activation {
    /// The op's word for it.
    pub fn word(self) -> &'static str {
        match self {
            Activation::Silu => "silu",
            Activation::GeluTanh => "gelu_tanh",
            Activation::Gelu => "gelu",
            Activation::Relu2 => "relu2",
            Activation::ClampedSwiglu(_) => "clamped_swiglu",
        }
    }

    /// The op's bound, 0 for none.
    pub fn limit(self) -> f64 {
        if let Activation::ClampedSwiglu(limit) = self { limit } else { 0.0 }
    }
}

/// What is multiplied where; 1 everywhere in most families.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Multipliers {
    /// The embedded tokens.
    pub embedding: f64,
    /// What each block adds to the residual stream.
    pub residual: f64,
    /// The logits.
    pub logits: f64,
    /// The bound the logits are softly capped to, after the multiplication; 0 for none.
    pub logit_softcap: f64,
}

impl Default for Multipliers {
    fn default() -> Multipliers {
        Multipliers { embedding: 1.0, residual: 1.0, logits: 1.0, logit_softcap: 0.0 }
    }
}
