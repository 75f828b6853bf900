//! The mixture block: a router scores the experts, each token goes through the best few, their results are weighed and added.

use ir::graph::ValueId;
use ir::op::{Attr, Op};

use super::Decoder;
use crate::ModelError;
use crate::hyperparameters::{Mixture, SharedExpert};
use crate::names::{Role, label, without_expert};
use crate::weights::{MatrixSource, RowSelection};

/// Where the matrices of all experts stand.
struct Experts {
    /// The weight's name.
    name: String,
    /// The matrix of each expert.
    sources: Vec<MatrixSource>,
    /// Roles that share a stored matrix: 2 if gate and up do.
    fused: u64,
    /// Where each expert's bias stands, if it has one.
    biases: Vec<(String, Option<u64>, RowSelection)>,
}

impl Decoder<'_> {
    /// The block over `x[T, hidden]`: `Σ weight · expert(x)` over the selected experts, plus the shared expert's result.
    pub fn mixture(&mut self, x: ValueId, layer: usize, style: &Mixture) -> Result<ValueId, ModelError> {
        let (experts, weights) = self.route(x, layer, style)?;
        let (hidden, width) = (self.hyper.hidden, style.width);
        let gate = self.experts_product(x, experts, Role::ExpertGate, layer, style, [width, hidden])?;
        let up = self.experts_product(x, experts, Role::ExpertUp, layer, style, [width, hidden])?;
        let h = self.activate(gate, up, layer)?;
        let down = self.experts_product(h, experts, Role::ExpertDown, layer, style, [hidden, width])?;
        let mixed = self.op(Op::Combine, &[down, weights], &[], &format!("layers.{layer}.mlp.combine"))?;
        match style.shared {
            None => Ok(mixed),
            Some(shared) => {
                let common = self.shared_expert(x, layer, shared)?;
                self.op(Op::Add, &[mixed, common], &[], &format!("layers.{layer}.mlp.shared"))
            }
        }
    }

    /// The experts of each token and their factors, both `[T, selected]`.
    fn route(&mut self, x: ValueId, layer: usize, style: &Mixture) -> Result<(ValueId, ValueId), ModelError> {
        let logits = self.router_logits(x, layer, style)?;
        let scoring = || Attr::Str(style.scoring.word().into());
        let mut operands = vec![logits];
        if style.correction {
            let name = self.names.module(Role::RouterCorrection, layer);
            operands.push(self.vector(&name, style.experts, 0.0)?);
        }
        let selection = [
            ("k", Attr::Int(style.selected as i64)),
            ("scoring", scoring()),
            ("groups", Attr::Int(style.groups as i64)),
            ("top_groups", Attr::Int(style.top_groups as i64)),
        ];
        let experts = self.op(Op::Router, &operands, &selection, &format!("layers.{layer}.mlp.experts"))?;
        let weighing = [
            ("scoring", scoring()),
            ("renormalise", Attr::Bool(style.renormalise)),
            ("scale", Attr::Float(style.scale)),
            ("jitter", Attr::Float(style.jitter)),
        ];
        let label = format!("layers.{layer}.mlp.weights");
        let weights = self.op(Op::RouterWeights, &[logits, experts], &weighing, &label)?;
        if self.options.trace_routing {
            self.graph.output(&format!("router.{layer}.experts"), experts);
            self.graph.output(&format!("router.{layer}.weights"), weights);
        }
        Ok((experts, weights))
    }

    /// The router's scores. Its label ends in `.router`, by which its product is told from those that may be rounded.
    fn router_logits(&mut self, x: ValueId, layer: usize, style: &Mixture) -> Result<ValueId, ModelError> {
        let place = self.place(Role::Router, layer);
        let (matrix, order) = self.matrix(&place, style.experts, self.hyper.hidden)?;
        let mut operands = vec![self.ordered(x, order, None)?, matrix];
        if style.bias {
            let name = format!("{}.bias", self.names.module(Role::Router, layer));
            operands.push(self.vector(&name, style.experts, 0.0)?);
        }
        self.op(Op::Matmul, &operands, &[], &format!("layers.{layer}.mlp.router"))
    }

    /// Each token's experts applied to its input: `[T, selected, rows]`.
    fn experts_product(
        &mut self,
        x: ValueId,
        experts: ValueId,
        role: Role,
        layer: usize,
        style: &Mixture,
        [rows, cols]: [u64; 2],
    ) -> Result<ValueId, ModelError> {
        let Experts { name, sources, fused, biases } = self.experts(role, layer, style);
        if let Some(first) = sources.first().filter(|_| fused > 1) {
            let whole = MatrixSource { rows: RowSelection::all(), ..first.clone() };
            self.resolver.matrix(&whole, rows * fused, cols)?;
        }
        let slotted = self.graph.node(x).ty.shape.len() == 3;
        let (matrices, order) = self.stack(&format!("{name}.weight"), sources, rows, cols, slotted)?;
        let mut operands = vec![self.ordered(x, order, Some(experts))?, matrices, experts];
        if self.hyper.rounds_activations {
            operands[0] = self.rounded(operands[0])?;
        }
        if style.bias {
            operands.push(self.vector_stack(&format!("{name}.bias"), biases, rows, rows * fused)?);
        }
        self.op(Op::GroupedMatmul, &operands, &[], &label(role, layer))
    }

    /// Finds a role's matrices: a module an expert, one tensor of all experts, or either fused with its neighbour.
    fn experts(&self, role: Role, layer: usize, style: &Mixture) -> Experts {
        let first_of = |role| self.names.module(role, layer).replace("{e}", "0");
        let (own, fused) = (first_of(Role::ExpertGate), first_of(Role::ExpertGateUp));
        let is_fused = !self.resolver.has(&own) && self.resolver.has(&fused);
        let rows_from = |alternating, half| match style.alternating {
            true => RowSelection::every(alternating, 2),
            false => RowSelection::range(half),
        };
        let (stored, part, rows, fused) = match role {
            Role::ExpertGate if is_fused => (Role::ExpertGateUp, ".gate", rows_from(0, 0), 2),
            Role::ExpertUp if is_fused => (Role::ExpertGateUp, ".up", rows_from(1, style.width), 2),
            _ => (role, "", RowSelection::all(), 1),
        };
        let pattern = self.names.module(stored, layer);
        let each = pattern.contains("{e}");
        let source = |e: u64| {
            let module = pattern.replace("{e}", &e.to_string());
            let transposed = style.transposed && self.checkpoint.find(&module).is_some();
            MatrixSource { module, expert: (!each).then_some(e), rows: rows.clone(), transposed }
        };
        let bias = |e: u64| {
            let module = pattern.replace("{e}", &e.to_string());
            let bare = format!("{module}_bias");
            let tensor = if self.checkpoint.find(&bare).is_some() { bare } else { format!("{module}.bias") };
            (tensor, (!each).then_some(e), rows.clone())
        };
        Experts {
            name: format!("{}{part}", without_expert(&pattern)),
            sources: (0..style.experts).map(source).collect(),
            fused,
            biases: (0..style.experts).map(bias).collect(),
        }
    }

    /// The expert that every token uses, weighed by a gate where the family has one.
    fn shared_expert(&mut self, x: ValueId, layer: usize, shared: SharedExpert) -> Result<ValueId, ModelError> {
        let y = self.gated(x, layer, [Role::SharedGate, Role::SharedUp, Role::SharedDown], shared.width)?;
        if !shared.gated {
            return Ok(y);
        }
        let (matrix, order) = self.matrix(&self.place(Role::SharedRouter, layer), 1, self.hyper.hidden)?;
        let x = self.ordered(x, order, None)?;
        let gate = self.op(Op::Matmul, &[x, matrix], &[], &format!("layers.{layer}.mlp.shared_expert.router"))?;
        self.op(Op::SigmoidGate, &[y, gate], &[], &format!("layers.{layer}.mlp.shared_expert"))
    }
}
