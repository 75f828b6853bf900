//! The feed-forward block of a layer: dense and gated, or a mixture.

use ir::graph::ValueId;
use ir::op::{Attr, Op};

use super::Decoder;
use crate::ModelError;
use crate::names::Role;

impl Decoder<'_> {
    /// The feed-forward block over `x[T, hidden]`: the layer's mixture, if it has one, else `down(activation(gate(x)) · up(x))`.
    pub fn feed_forward(&mut self, x: ValueId, layer: usize) -> Result<ValueId, ModelError> {
        match self.hyper.mixture.clone().filter(|_| self.hyper.is_mixture(layer)) {
            Some(mixture) => self.mixture(x, layer, &mixture),
            None => self.gated(x, layer, [Role::Gate, Role::Up, Role::Down], self.hyper.feed_forward),
        }
    }

    /// A gated block of three projections.
    pub(super) fn gated(
        &mut self,
        x: ValueId,
        layer: usize,
        [gate, up, down]: [Role; 3],
        width: u64,
    ) -> Result<ValueId, ModelError> {
        let (hidden, bias) = (self.hyper.hidden, self.hyper.feed_forward_bias);
        let gate = self.linear(x, gate, layer, width, hidden, bias)?;
        let up = self.linear(x, up, layer, width, hidden, bias)?;
        let mut h = self.activate(gate, up, layer)?;
        if self.hyper.feed_forward_sub_norm {
            h = self.norm(h, Role::FeedForwardSubNorm, layer)?;
        }
        self.linear(h, down, layer, hidden, width, bias)
    }

    /// `activation(gate) · up`.
    pub(super) fn activate(&mut self, gate: ValueId, up: ValueId, layer: usize) -> Result<ValueId, ModelError> {
        let activation = self.hyper.activation;
        let attributes =
            [("activation", Attr::Str(activation.word().into())), ("limit", Attr::Float(activation.limit()))];
        self.op(Op::Glu, &[gate, up], &attributes, &format!("layers.{layer}.glu"))
    }
}
