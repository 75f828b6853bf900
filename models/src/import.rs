//! Import: a checkpoint becomes a graph, its weights still where they are.

use ir::graph::Graph;
use ir::types::DType;

use crate::ModelError;
use crate::decoder::Decoder;
use crate::hyperparameters::Hyperparameters;
use crate::registry::family_of;
use crate::source::Checkpoint;

/// The ranges and types a graph is built for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportOptions {
    /// Most tokens in a step.
    pub max_tokens: u64,
    /// Most sequences in a step.
    pub max_sequences: u64,
    /// Longest sequence, in tokens; at most what the model was made for.
    pub max_model_len: u64,
    /// Element type of the KV cache, f32 or f16.
    pub kv_dtype: DType,
}

/// An imported model. A weight of the graph is the checkpoint's tensor of the same name; vectors are widened to f32.
#[derive(Clone, Debug)]
pub struct Model {
    /// Name of the family.
    pub family: &'static str,
    /// Sizes and constants.
    pub hyper: Hyperparameters,
    /// One step.
    pub graph: Graph,
}

/// The hyperparameters of a checkpoint, as its family reads them.
pub fn hyperparameters(checkpoint: &Checkpoint) -> Result<Hyperparameters, ModelError> {
    let family = family_of(checkpoint)?;
    let mut hyper = Hyperparameters::read(checkpoint)?;
    (family.configure)(&mut hyper, checkpoint)?;
    Ok(hyper)
}

/// Builds the graph of a checkpoint.
pub fn import(checkpoint: &Checkpoint, options: &ImportOptions) -> Result<Model, ModelError> {
    let family = family_of(checkpoint)?;
    let hyper = hyperparameters(checkpoint)?;
    let mut decoder = Decoder::new(family.name, checkpoint, hyper.clone(), options);
    let mut x = decoder.embed()?;
    for layer in 0..hyper.layers {
        x = (family.layer)(&mut decoder, layer, x)?;
    }
    decoder.head(x)?;
    Ok(Model { family: family.name, hyper, graph: decoder.finish() })
}
