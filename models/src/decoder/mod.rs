//! The shared builder of decoder-only families: declares weights, checks their shapes and emits the ops of one step.
//!
//! A family's file says in which styles its blocks come and in what order; what a block is stands here once.

mod attention;
mod feed_forward;
mod latent;
mod layers;
mod mixture;
mod weights;

pub use layers::{pre_norm_layer, sandwich_norm_layer};

use std::collections::HashMap;

use ir::graph::{Graph, ValueId};
use ir::op::{Attr, Op, PAGE_TOKENS};
use ir::types::{DType, Dim, SymbolId, TensorType};

use crate::ModelError;
use crate::hyperparameters::{Hyperparameters, NormKind};
use crate::import::ImportOptions;
use crate::names::{Name, Names, Role, Spelling, label};
use crate::rope::RopeScaling;
use crate::source::{Checkpoint, Metadata};
use crate::weights::{Resolver, WeightTable};

/// Builds a graph over a checkpoint.
pub struct Decoder<'a> {
    /// Sizes, constants and styles.
    pub hyper: Hyperparameters,
    checkpoint: &'a Checkpoint,
    resolver: Resolver<'a>,
    names: Names,
    graph: Graph,
    declared: HashMap<String, ValueId>,
    table: WeightTable,
    prepared: HashMap<(ValueId, Preparation), ValueId>,
    step: Step,
    options: ImportOptions,
}

/// What is done to an input before a product reads it; projections of one input share the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Preparation {
    /// Its columns stand in the order of a vector of columns, or of one for each expert a token uses.
    Ordered(ValueId),
    /// It is rounded to 8 bits, a row at a time.
    Rounded,
}

/// The step's metadata.
#[derive(Clone, Copy)]
struct Step {
    ids: ValueId,
    positions: ValueId,
    sequences: ValueId,
    page_table: ValueId,
    logit_rows: ValueId,
    rope_tables: Option<ValueId>,
    pages: SymbolId,
}

/// What a builder leaves behind.
pub struct Built {
    /// One step.
    pub graph: Graph,
    /// Where the bytes of each weight stand.
    pub weights: WeightTable,
}

impl<'a> Decoder<'a> {
    /// A builder with the step's inputs declared; `names` are those the family spells its own way.
    ///
    /// # Errors
    /// If the checkpoint says it is quantised in a way that is not known.
    pub fn new(
        name: &str,
        names: &'static [Name],
        checkpoint: &'a Checkpoint,
        hyper: Hyperparameters,
        options: &ImportOptions,
    ) -> Result<Decoder<'a>, ModelError> {
        let spelling = match checkpoint.metadata() {
            Metadata::HuggingFace(_) => Spelling::HuggingFace,
            Metadata::Gguf(_) => Spelling::Gguf,
        };
        let mut graph = Graph::new(name);
        let two_tables = matches!(hyper.rope.scaling, RopeScaling::LongRope { .. });
        let step = declare_inputs(&mut graph, options, two_tables);
        Ok(Decoder {
            hyper,
            checkpoint,
            resolver: Resolver::new(checkpoint)?,
            names: Names { spelling, family: names },
            graph,
            declared: HashMap::new(),
            table: WeightTable::default(),
            prepared: HashMap::new(),
            step,
            options: options.clone(),
        })
    }

    /// The finished graph and its weights.
    pub fn finish(self) -> Built {
        Built { graph: self.graph, weights: self.table }
    }

    /// The embedded tokens of the step, `[T, hidden]`.
    pub fn embed(&mut self) -> Result<ValueId, ModelError> {
        let table = self.embedding_table()?;
        let x = self.op(Op::Embedding, &[table, self.step.ids], &[], "embed")?;
        self.scale(x, self.hyper.multipliers.embedding, "embed.scale")
    }

    /// The final norm and output projection over the rows whose logits are asked for: outputs `logits[R, vocabulary]` and, where
    /// embeddings were asked for, `hidden[R, hidden]`.
    pub fn head(&mut self, x: ValueId) -> Result<(), ModelError> {
        let rows = self.op(Op::GatherRows, &[x, self.step.logit_rows], &[], "logit_rows")?;
        let normed = self.norm(rows, Role::OutputNorm, 0)?;
        let (vocabulary, hidden) = (self.hyper.vocabulary, self.hyper.hidden);
        let mut operands = if self.hyper.tied {
            vec![normed, self.embedding_table()?]
        } else {
            let place = self.place(Role::Output, 0);
            let (table, order) = self.matrix(&place, vocabulary, hidden)?;
            vec![self.ordered(normed, order, None)?, table]
        };
        if self.hyper.head_bias {
            let name = format!("{}.bias", self.names.module(Role::Output, 0));
            operands.push(self.vector(&name, vocabulary, 0.0)?);
        }
        let logits = self.op(Op::Matmul, &operands, &[], "head")?;
        let logits = self.scale(logits, self.hyper.multipliers.logits, "head.scale")?;
        let logits = match self.hyper.multipliers.logit_softcap {
            cap if cap > 0.0 => self.op(Op::Softcap, &[logits], &[("cap", Attr::Float(cap))], "head.softcap")?,
            _ => logits,
        };
        self.graph.output("logits", logits);
        if self.options.embeddings {
            self.graph.output("hidden", normed);
        }
        Ok(())
    }

    fn embedding_table(&mut self) -> Result<ValueId, ModelError> {
        let place = self.place(Role::TokenEmbedding, 0);
        Ok(self.matrix(&place, self.hyper.vocabulary, self.hyper.hidden)?.0)
    }

    /// The family's norm over the last dimension, with the weight of that role.
    pub fn norm(&mut self, x: ValueId, role: Role, layer: usize) -> Result<ValueId, ModelError> {
        self.norm_with(x, role, layer, self.hyper.norm_eps)
    }

    /// As [`Decoder::norm`] with another epsilon.
    pub fn norm_with(&mut self, x: ValueId, role: Role, layer: usize, eps: f64) -> Result<ValueId, ModelError> {
        let width = match self.graph.node(x).ty.shape.last() {
            Some(Dim::Const(width)) => *width,
            _ => 0,
        };
        let module = self.names.module(role, layer);
        let weight = self.vector(&format!("{module}.weight"), width, self.hyper.norm_offset)?;
        let mut operands = vec![x, weight];
        let op = match self.hyper.norm {
            NormKind::Rms => Op::RmsNorm,
            NormKind::Layer => {
                operands.push(self.vector(&format!("{module}.bias"), width, 0.0)?);
                Op::LayerNorm
            }
        };
        self.op(op, &operands, &[("eps", Attr::Float(eps))], &label(role, layer))
    }

    /// The residual stream `x` after a block that gave `block`.
    pub fn residual(&mut self, x: ValueId, block: ValueId, layer: usize) -> Result<ValueId, ModelError> {
        let block = self.scale(block, self.hyper.multipliers.residual, &format!("layers.{layer}.residual.scale"))?;
        self.op(Op::Add, &[x, block], &[], &format!("layers.{layer}.residual"))
    }

    /// `x · factor`, where that is not `x`.
    fn scale(&mut self, x: ValueId, factor: f64, label: &str) -> Result<ValueId, ModelError> {
        if factor == 1.0 { Ok(x) } else { self.op(Op::Scale, &[x], &[("factor", Attr::Float(factor))], label) }
    }

    fn split_heads(&mut self, x: ValueId, heads: u64) -> Result<ValueId, ModelError> {
        self.op(Op::SplitHeads, &[x], &[("heads", Attr::Int(heads as i64))], "")
    }

    fn op(
        &mut self,
        op: Op,
        operands: &[ValueId],
        attributes: &[(&str, Attr)],
        label: &str,
    ) -> Result<ValueId, ModelError> {
        Ok(self.graph.op(op, operands, attributes, label)?)
    }
}

fn declare_inputs(graph: &mut Graph, options: &ImportOptions, two_rope_tables: bool) -> Step {
    let tokens = graph.symbol("T", 1, options.max_tokens);
    let sequences = graph.symbol("S", 1, options.max_sequences);
    let columns = graph.symbol("P", 1, options.max_model_len.div_ceil(PAGE_TOKENS).max(1));
    let rows = graph.symbol("R", 1, options.max_tokens);
    let pages = graph.symbol("N", 1, 1 << 24);
    let mut input = |name: &str, shape: &[SymbolId]| {
        let shape: Vec<Dim> = shape.iter().map(|s| Dim::Sym(*s)).collect();
        graph.input(name, TensorType::new(DType::I32, shape))
    };
    Step {
        ids: input("ids", &[tokens]),
        positions: input("positions", &[tokens]),
        sequences: input("sequences", &[tokens]),
        page_table: input("page_table", &[sequences, columns]),
        logit_rows: input("logit_rows", &[rows]),
        rope_tables: two_rope_tables.then(|| input("rope_tables", &[tokens])),
        pages,
    }
}
