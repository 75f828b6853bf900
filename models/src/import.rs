//! Import: a checkpoint becomes a graph, its weights still where they are.

use ir::graph::{Graph, ValueId};
use ir::types::DType;

use crate::ModelError;
use crate::decoder::{Built, Decoder};
use crate::hyperparameters::Hyperparameters;
use crate::registry::family_of;
use crate::source::Checkpoint;
use crate::weights::WeightTable;

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
    /// Whether what the routers choose becomes output: of each mixture layer L `router.L.experts`, i32 `[T, selected]`, and
    /// `router.L.weights`, f32 of the same shape.
    pub trace_routing: bool,
    /// Whether the rows that the output projection reads become output too: `hidden`, f32 `[R, hidden]`, after the final norm.
    pub embeddings: bool,
}

/// An imported model.
#[derive(Clone, Debug)]
pub struct Model {
    /// Name of the family.
    pub family: &'static str,
    /// Sizes, constants and styles.
    pub hyper: Hyperparameters,
    /// One step.
    pub graph: Graph,
    /// Where the bytes of each weight of the graph stand in the checkpoint.
    pub weights: WeightTable,
    /// The residual stream `[T, hidden]` before the first layer and after each.
    pub boundaries: Vec<ValueId>,
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
    let mut decoder = Decoder::new(family.name, family.names, checkpoint, hyper.clone(), options)?;
    let mut boundaries = vec![decoder.embed()?];
    for layer in 0..hyper.layers {
        let x = boundaries[layer];
        boundaries.push((family.layer)(&mut decoder, layer, x)?);
    }
    decoder.head(boundaries[hyper.layers])?;
    let Built { graph, weights } = decoder.finish();
    Ok(Model { family: family.name, hyper, graph, weights, boundaries })
}
