//! What fused ops mean: each is a chain of plain ops, written down here as a graph.
//!
//! The expansion gives a fused op its result types, its interpretation and, to a kernel's author, the order of its operations.
//! Defined this way it cannot drift from the ops it stands for; that rules really find such chains, and that kernels
//! compute them, is shown by tests against the interpreter.

use crate::graph::{Graph, ValueId};
use crate::op::{Attr, Op};
use crate::types::{Dim, Symbol, TensorType};

/// A fused op as plain ops. Operand `i` is the input named `i`, or the state of that name where it is a cache; the outputs are the
/// results in order.
///
/// # Errors
/// In one sentence what is wrong with the operands, or that the op is not fused.
pub fn expansion(
    op: Op,
    operands: &[Option<&TensorType>],
    attributes: &[Attr],
    symbols: &[Symbol],
) -> Result<Graph, String> {
    let mut e = Expansion::new(op, operands, attributes, symbols);
    let results = match op {
        Op::Route => e.route(0, 1)?.to_vec(),
        Op::NormQuantize => {
            let normed = e.norm()?;
            vec![e.quantize(normed)?]
        }
        Op::InlineNorm => vec![e.norm()?],
        Op::InlineQuantize => {
            let x = e.require(0)?;
            vec![e.quantize(x)?]
        }
        Op::InlineLogits => vec![e.logits()?],
        Op::Project => e.project()?,
        Op::ProjectHeads => vec![e.project_heads()?],
        Op::Qkv => vec![e.qkv()?],
        Op::GateUp => vec![e.gate_up(None, [3, 4, 5])?],
        Op::GroupedGateUp => {
            let experts = e.require(3)?;
            vec![e.gate_up(Some(experts), [4, 5, 6])?]
        }
        Op::RoutedGateUp => {
            let [experts, weights] = e.route(3, 7)?;
            vec![e.gate_up(Some(experts), [4, 5, 6])?, experts, weights]
        }
        Op::CombineDown => {
            let down = e.call(Op::GroupedMatmul, &[e.get(0), e.get(1), e.get(2), e.get(4)], &[])?;
            e.combined(down, 3, 5)?
        }
        Op::CombineAdd => {
            let y = e.require(0)?;
            e.combined(y, 1, 2)?
        }
        Op::NormAdd => {
            let normed = e.call(Op::RmsNorm, &[e.get(0), e.get(1)], &["eps"])?;
            e.added(normed, 2)?
        }
        _ => return Err(format!("{} is not a fused op", op.name())),
    };
    for (i, result) in results.into_iter().enumerate() {
        e.graph.output(&i.to_string(), result);
    }
    Ok(e.graph)
}

/// An expansion being written.
struct Expansion<'a> {
    op: Op,
    attributes: &'a [Attr],
    graph: Graph,
    operands: Vec<Option<ValueId>>,
}

impl<'a> Expansion<'a> {
    fn new(op: Op, operands: &[Option<&TensorType>], attributes: &'a [Attr], symbols: &[Symbol]) -> Expansion<'a> {
        let mut graph = Graph { symbols: symbols.to_vec(), ..Graph::new(op.name()) };
        let mut declare = |(i, ty): (usize, &Option<&TensorType>)| {
            let (ty, name) = ((*ty)?.clone(), i.to_string());
            let is_cache = op.def().operands.get(i) == Some(&"kv");
            Some(if is_cache { graph.state(&name, ty) } else { graph.input(&name, ty) })
        };
        let operands = operands.iter().enumerate().map(&mut declare).collect();
        Expansion { op, attributes, graph, operands }
    }

    /// Operand `i`, if it is given.
    fn get(&self, i: usize) -> Option<ValueId> {
        self.operands.get(i).copied().flatten()
    }

    fn require(&self, i: usize) -> Result<ValueId, String> {
        self.get(i).ok_or_else(|| format!("operand {} may not be left out", self.op.def().operands[i]))
    }

    /// The op's own attribute of that name.
    fn attr(&self, name: &str) -> Result<Attr, String> {
        let index = self.op.def().attributes.iter().position(|a| a.name == name);
        index.and_then(|i| self.attributes.get(i)).cloned().ok_or_else(|| format!("attribute {name} is missing"))
    }

    fn float(&self, name: &str) -> Result<f64, String> {
        match self.attr(name)? {
            Attr::Float(v) => Ok(v),
            other => Err(format!("attribute {name}: expected a float, found {other:?}")),
        }
    }

    fn word(&self, name: &str) -> Result<String, String> {
        match self.attr(name)? {
            Attr::Str(v) => Ok(v),
            other => Err(format!("attribute {name}: expected a word, found {other:?}")),
        }
    }

    /// Adds an op whose attributes are the fused op's of the same names. Trailing operands may be `None`.
    fn call(&mut self, op: Op, operands: &[Option<ValueId>], attributes: &[&str]) -> Result<ValueId, String> {
        let attributes =
            attributes.iter().map(|name| Ok((*name, self.attr(name)?))).collect::<Result<Vec<_>, String>>()?;
        self.call_with(op, operands, &attributes)
    }

    fn call_with(
        &mut self,
        op: Op,
        operands: &[Option<ValueId>],
        attributes: &[(&str, Attr)],
    ) -> Result<ValueId, String> {
        let given = operands.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        let operands: Vec<ValueId> = operands[..given].iter().map(|o| o.unwrap_or(ValueId::ABSENT)).collect();
        self.graph.op(op, &operands, attributes, "").map_err(|e| format!("in its {}: {}", e.op, e.message))
    }

    /// Length of the last dimension of operand `i`.
    fn width(&self, i: usize) -> Result<Attr, String> {
        match self.graph.node(self.require(i)?).ty.shape.last() {
            Some(Dim::Const(width)) => Ok(Attr::Int(*width as i64)),
            _ => Err(format!("operand {}: expected a constant width", self.op.def().operands[i])),
        }
    }

    /// The norm of operand 0 of the kind asked for.
    fn norm(&mut self) -> Result<ValueId, String> {
        let (x, weight, bias) = (self.get(0), self.get(1), self.get(2));
        let kind = self.word("kind")?;
        if bias.is_some() && kind != "layer" {
            return Err(format!("a norm of kind {kind} has no bias"));
        }
        match kind.as_str() {
            "rms" => self.call(Op::RmsNorm, &[x, weight], &["eps"]),
            "layer" => self.call(Op::LayerNorm, &[x, weight, bias], &["eps"]),
            _ => self.call(Op::ScaleColumns, &[x, weight], &[]),
        }
    }

    fn quantize(&mut self, x: ValueId) -> Result<ValueId, String> {
        self.call(Op::QuantizeRows, &[Some(x)], &["granularity"])
    }

    fn logits(&mut self) -> Result<ValueId, String> {
        self.call(Op::FinishLogits, &[self.get(0), self.get(1), self.get(2)], &["width", "eps"])
    }

    /// The experts selected by the logits of one operand and the correction bias of another, and their weights.
    fn route(&mut self, logits: usize, bias: usize) -> Result<[ValueId; 2], String> {
        let logits = self.get(logits);
        let experts = self.call(Op::Router, &[logits, self.get(bias)], &["k", "scoring", "groups", "top_groups"])?;
        let attributes = ["scoring", "renormalise", "scale", "jitter"];
        Ok([experts, self.call(Op::RouterWeights, &[logits, Some(experts)], &attributes)?])
    }

    /// A product by the root mean square of its input, if `squares` are given, plus a bias.
    fn product(&mut self, w: usize, squares: usize, bias: Option<ValueId>) -> Result<ValueId, String> {
        let (x, w, squares) = (self.get(0), self.get(w), self.get(squares));
        if squares.is_none() {
            return self.call(Op::Matmul, &[x, w, bias], &[]);
        }
        let y = self.call(Op::Matmul, &[x, w], &[])?;
        let attributes = [("width", self.width(0)?), ("eps", self.attr("eps")?)];
        self.call_with(Op::ScaleRows, &[Some(y), squares, bias], &attributes)
    }

    fn project(&mut self) -> Result<Vec<ValueId>, String> {
        let mut y = self.product(1, 3, self.get(2))?;
        if self.get(4).is_some() {
            y = self.call(Op::SigmoidGate, &[Some(y), self.get(4)], &[])?;
        }
        let softcap = self.float("softcap")?;
        if softcap > 0.0 {
            y = self.scaled(y)?;
            y = self.call_with(Op::Softcap, &[Some(y)], &[("cap", Attr::Float(softcap))])?;
            let sum = self.plus(y, 5)?;
            return self.emissions(sum);
        }
        self.added(y, 5)
    }

    /// `y · factor`, where that is not `y`.
    fn scaled(&mut self, y: ValueId) -> Result<ValueId, String> {
        match self.float("factor")? {
            1.0 => Ok(y),
            factor => self.call_with(Op::Scale, &[Some(y)], &[("factor", Attr::Float(factor))]),
        }
    }

    /// `y` plus the residual stream, if there is one.
    fn plus(&mut self, y: ValueId, residual: usize) -> Result<ValueId, String> {
        match self.get(residual) {
            None => Ok(y),
            residual => self.call(Op::Add, &[residual, Some(y)], &[]),
        }
    }

    /// `y · factor + residual` and its partial sums.
    fn added(&mut self, y: ValueId, residual: usize) -> Result<Vec<ValueId>, String> {
        let y = self.scaled(y)?;
        let sum = self.plus(y, residual)?;
        self.emissions(sum)
    }

    /// A result with the partial sums that are asked for.
    fn emissions(&mut self, y: ValueId) -> Result<Vec<ValueId>, String> {
        let (emit, is_project) = (self.word("emit")?, self.op == Op::Project);
        let mut results = vec![y];
        if emit != "none" {
            results.push(self.call(Op::SquareSums, &[Some(y)], &[])?);
        }
        let router = if is_project { (self.get(6), self.get(7)) } else { (None, None) };
        match (emit.as_str(), router) {
            ("router", (Some(norm), Some(router))) => {
                results.push(self.call(Op::ColumnPartials, &[Some(y), Some(norm), Some(router)], &[])?);
            }
            ("router", _) => return Err("to emit router partials takes the operands router_norm and router".into()),
            (_, (None, None)) => {}
            _ => return Err("router_norm and router are for emit = \"router\"".into()),
        }
        Ok(results)
    }

    /// `Σ_j weights_j · y_j`, by the factor, plus the residual stream.
    fn combined(&mut self, y: ValueId, weights: usize, residual: usize) -> Result<Vec<ValueId>, String> {
        let sum = self.call(Op::Combine, &[Some(y), self.get(weights)], &[])?;
        self.added(sum, residual)
    }

    /// Rows seen as heads, normalised and turned where norm and frequencies are given.
    fn heads(
        &mut self,
        y: ValueId,
        heads: &str,
        norm: Option<ValueId>,
        [positions, inv_freq, tables]: [Option<ValueId>; 3],
    ) -> Result<ValueId, String> {
        let mut y = self.call_with(Op::SplitHeads, &[Some(y)], &[("heads", self.attr(heads)?)])?;
        if norm.is_some() {
            y = self.call_with(Op::RmsNorm, &[Some(y), norm], &[("eps", self.attr("norm_eps")?)])?;
        }
        if inv_freq.is_some() {
            y = self.call(Op::Rope, &[Some(y), positions, inv_freq, tables], &["interleaved", "scale"])?;
        }
        Ok(y)
    }

    fn project_heads(&mut self) -> Result<ValueId, String> {
        let y = self.product(1, 3, self.get(2))?;
        self.heads(y, "heads", self.get(4), [self.get(5), self.get(6), self.get(7)])
    }

    fn qkv(&mut self) -> Result<ValueId, String> {
        let [q, k, v] = [(1, 9), (2, 10), (3, 11)].map(|(w, bias)| self.product(w, 8, self.get(bias)));
        let turn = [self.get(5), self.get(14), self.get(15)];
        let q = self.heads(q?, "heads", self.get(12), turn)?;
        let k = self.heads(k?, "kv_heads", self.get(13), turn)?;
        let v = self.heads(v?, "kv_heads", None, [None; 3])?;
        let metadata = [self.get(5), self.get(6), self.get(7)];
        self.call(Op::KvAppend, &[self.get(4), Some(k), metadata[0], metadata[1], metadata[2], Some(v)], &[])?;
        Ok(q)
    }

    /// The gated products of operand 0 with matrices 1 and 2, each selected expert's or the only ones.
    fn gate_up(
        &mut self,
        experts: Option<ValueId>,
        [squares, gate_bias, up_bias]: [usize; 3],
    ) -> Result<ValueId, String> {
        let halves = [(1, gate_bias), (2, up_bias)].map(|(w, bias)| match experts {
            None => self.product(w, squares, self.get(bias)),
            Some(experts) => self.grouped(w, experts, squares, self.get(bias)),
        });
        let [gate, up] = halves;
        self.call(Op::Glu, &[Some(gate?), Some(up?)], &["activation", "limit"])
    }

    fn grouped(
        &mut self,
        w: usize,
        experts: ValueId,
        squares: usize,
        bias: Option<ValueId>,
    ) -> Result<ValueId, String> {
        let y = self.call(Op::GroupedMatmul, &[self.get(0), self.get(w), Some(experts), bias], &[])?;
        match self.get(squares) {
            None => Ok(y),
            Some(_) if bias.is_some() => Err("a bias of experts cannot follow a scale of rows".into()),
            squares => {
                let attributes = [("width", self.width(0)?), ("eps", self.attr("eps")?)];
                self.call_with(Op::ScaleRows, &[Some(y), squares], &attributes)
            }
        }
    }
}
