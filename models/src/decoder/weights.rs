//! Declaration of weights: where a role's matrix stands, in what format, and what its product does to the input first.
//!
//! A matrix may be some rows of a larger one (query of a fused projection), an expert of a stack, or stored transposed; the graph
//! sees the matrix alone, and the weight table says how it is cut from the checkpoint.

use ir::graph::ValueId;
use ir::op::{Attr, Op};
use ir::types::{DType, Dim, TensorType};

use super::{Decoder, Preparation};
use crate::ModelError;
use crate::names::{Role, label};
use crate::weights::{MatrixSource, RowSelection, StackOrder, WeightSource};

/// Where the matrix of a role stands.
pub(super) struct Place {
    /// The module that holds it.
    module: String,
    /// Which part of the module's matrix it is, if that holds several.
    part: Option<Part>,
}

/// Some of the rows of a fused matrix.
struct Part {
    name: &'static str,
    first: u64,
    /// Rows of the whole matrix.
    of: u64,
}

impl Place {
    fn rows(&self) -> RowSelection {
        self.part.as_ref().map_or_else(RowSelection::all, |part| RowSelection::range(part.first))
    }

    /// The node's name: the tensor's, or for a part one that says which.
    fn name(&self, kind: &str) -> String {
        match &self.part {
            Some(part) => format!("{}.{}.{kind}", self.module, part.name),
            None => format!("{}.{kind}", self.module),
        }
    }
}

impl Decoder<'_> {
    /// `x` times the matrix `[rows, cols]` of that role, plus its bias: always, never, or where the checkpoint has one.
    pub fn linear(
        &mut self,
        x: ValueId,
        role: Role,
        layer: usize,
        rows: u64,
        cols: u64,
        bias: Option<bool>,
    ) -> Result<ValueId, ModelError> {
        let place = self.place(role, layer);
        let (matrix, order) = self.matrix(&place, rows, cols)?;
        let mut operands = vec![self.ordered(x, order, None)?, matrix];
        if self.hyper.rounds_activations {
            operands[0] = self.rounded(operands[0])?;
        }
        let tensor = format!("{}.bias", place.module);
        if bias.unwrap_or_else(|| self.checkpoint.find(&tensor).is_some()) {
            operands.push(self.bias(&place, &tensor, rows)?);
        }
        self.op(Op::Matmul, &operands, &[], &label(role, layer))
    }

    /// Where a role's matrix stands: in a module of its own, or fused with those that read the same input.
    pub(super) fn place(&self, role: Role, layer: usize) -> Place {
        let h = &self.hyper;
        let (q, kv, width) = (h.heads * h.head_dim, h.kv_heads * h.head_dim, h.feed_forward);
        let module = |role| self.names.module(role, layer);
        let (own, fused, part) = match role {
            Role::Query => (Role::Query, Role::QueryKeyValue, Part { name: "query", first: 0, of: q + 2 * kv }),
            Role::Key => (Role::Query, Role::QueryKeyValue, Part { name: "key", first: q, of: q + 2 * kv }),
            Role::Value => (Role::Query, Role::QueryKeyValue, Part { name: "value", first: q + kv, of: q + 2 * kv }),
            Role::Gate => (Role::Gate, Role::GateUp, Part { name: "gate", first: 0, of: 2 * width }),
            Role::Up => (Role::Gate, Role::GateUp, Part { name: "up", first: width, of: 2 * width }),
            _ => return Place { module: module(role), part: None },
        };
        match !self.resolver.has(&module(own)) && self.resolver.has(&module(fused)) {
            true => Place { module: module(fused), part: Some(part) },
            false => Place { module: module(role), part: None },
        }
    }

    /// A matrix in the checkpoint's own format, and the order its columns stand in if that is not the input's.
    pub(super) fn matrix(
        &mut self,
        place: &Place,
        rows: u64,
        cols: u64,
    ) -> Result<(ValueId, Option<ValueId>), ModelError> {
        if let Some(part) = &place.part {
            self.expect_matrix(&place.module, part.of, cols)?;
        }
        self.matrix_of(&place.name("weight"), matrix_source(&place.module, place.rows()), rows, cols)
    }

    /// Checks the shape of a module's whole matrix, of which parts will be taken.
    pub(super) fn expect_matrix(&self, module: &str, rows: u64, cols: u64) -> Result<(), ModelError> {
        self.resolver.matrix(&matrix_source(module, RowSelection::all()), rows, cols).map(drop)
    }

    /// As [`Decoder::matrix`], of any rows.
    pub(super) fn matrix_of(
        &mut self,
        name: &str,
        source: MatrixSource,
        rows: u64,
        cols: u64,
    ) -> Result<(ValueId, Option<ValueId>), ModelError> {
        let resolved = self.resolver.matrix(&source, rows, cols)?;
        let order = resolved.column_order.map(|module| self.column_order(vec![module], None, cols));
        let source = WeightSource::Matrix(source);
        Ok((self.declare(name, resolved.dtype, &[rows, cols], source), order))
    }

    /// Matrices of one shape as one weight `[sources, rows, cols]`. `slotted`: each slot of a token has an input of its own.
    pub(super) fn stack(
        &mut self,
        name: &str,
        sources: Vec<MatrixSource>,
        rows: u64,
        cols: u64,
        slotted: bool,
    ) -> Result<(ValueId, Option<ValueId>), ModelError> {
        let (dtype, order) = self.resolver.stack(&sources, rows, cols)?;
        let modules = || sources.iter().map(|s| s.module.clone()).collect::<Vec<_>>();
        let order = match order {
            StackOrder::None => None,
            StackOrder::Shared(module) if !slotted => Some(self.column_order(vec![module], None, cols)),
            _ => Some(self.column_order(modules(), Some(name), cols)),
        };
        let shape = [sources.len() as u64, rows, cols];
        Ok((self.declare(name, dtype, &shape, WeightSource::Stack(sources)), order))
    }

    /// The order of a module's columns, or of those of each matrix of the stack of that name.
    fn column_order(&mut self, modules: Vec<String>, stack: Option<&str>, cols: u64) -> ValueId {
        let (name, shape) = match stack {
            Some(name) => (name.to_string(), vec![modules.len() as u64, cols]),
            None => (modules.concat(), vec![cols]),
        };
        let source = WeightSource::ColumnOrder { modules, stacked: stack.is_some() };
        self.declare(&format!("{name}.column_order"), DType::I32, &shape, source)
    }

    /// `x` with its columns in the order of a weight's, if that is another; `experts` for an order of each expert.
    pub(super) fn ordered(
        &mut self,
        x: ValueId,
        order: Option<ValueId>,
        experts: Option<ValueId>,
    ) -> Result<ValueId, ModelError> {
        let Some(order) = order else { return Ok(x) };
        let each_expert = self.graph.node(order).ty.shape.len() == 2;
        let mut operands = vec![x, order];
        operands.extend(experts.filter(|_| each_expert));
        self.prepare(x, Preparation::Ordered(order), |d| d.op(Op::PermuteColumns, &operands, &[], "column_order"))
    }

    /// `x` rounded to 8 bits, a row at a time.
    pub(super) fn rounded(&mut self, x: ValueId) -> Result<ValueId, ModelError> {
        let granularity = [("granularity", Attr::Str("row".into()))];
        self.prepare(x, Preparation::Rounded, |d| d.op(Op::QuantizeRows, &[x], &granularity, "quantize_rows"))
    }

    fn prepare(
        &mut self,
        x: ValueId,
        how: Preparation,
        make: impl FnOnce(&mut Self) -> Result<ValueId, ModelError>,
    ) -> Result<ValueId, ModelError> {
        if let Some(value) = self.prepared.get(&(x, how)) {
            return Ok(*value);
        }
        let value = make(self)?;
        self.prepared.insert((x, how), value);
        Ok(value)
    }

    /// A whole vector, widened to f32; `add` is added to each element.
    pub(super) fn vector(&mut self, tensor: &str, len: u64, add: f32) -> Result<ValueId, ModelError> {
        self.expect_vector(tensor, &[len])?;
        let source = WeightSource::Vector { tensor: tensor.into(), rows: RowSelection::all(), add };
        Ok(self.declare(tensor, DType::F32, &[len], source))
    }

    /// The bias that belongs to the rows of a matrix.
    fn bias(&mut self, place: &Place, tensor: &str, len: u64) -> Result<ValueId, ModelError> {
        self.expect_vector(tensor, &[place.part.as_ref().map_or(len, |part| part.of)])?;
        let source = WeightSource::Vector { tensor: tensor.into(), rows: place.rows().bounded(len), add: 0.0 };
        Ok(self.declare(&place.name("bias"), DType::F32, &[len], source))
    }

    /// Biases `[sources, len]` of a stack, each some of the `stored` elements of a vector or of a row of a matrix.
    pub(super) fn vector_stack(
        &mut self,
        name: &str,
        sources: Vec<(String, Option<u64>, RowSelection)>,
        len: u64,
        stored: u64,
    ) -> Result<ValueId, ModelError> {
        let count = sources.len() as u64;
        for (tensor, index, _) in &sources {
            let shape = if index.is_some() { vec![count, stored] } else { vec![stored] };
            self.expect_vector(tensor, &shape)?;
        }
        let sources = sources.into_iter().map(|(tensor, index, rows)| (tensor, index, rows.bounded(len)));
        Ok(self.declare(name, DType::F32, &[count, len], WeightSource::VectorStack(sources.collect())))
    }

    fn expect_vector(&self, tensor: &str, shape: &[u64]) -> Result<(), ModelError> {
        if self.checkpoint.is_assumed() {
            return Ok(());
        }
        self.checkpoint.expect_shape(tensor, shape)?;
        self.checkpoint.dtype(tensor).map(drop)
    }

    /// Declares a weight once.
    fn declare(&mut self, name: &str, dtype: DType, shape: &[u64], source: WeightSource) -> ValueId {
        if let Some(value) = self.declared.get(name) {
            return *value;
        }
        let dims: Vec<Dim> = shape.iter().map(|d| Dim::Const(*d)).collect();
        let value = self.graph.weight(name, TensorType::new(dtype, dims));
        self.declared.insert(name.into(), value);
        self.table.insert(name, source);
        value
    }
}

/// Rows of a module's matrix.
pub(super) fn matrix_source(module: &str, rows: RowSelection) -> MatrixSource {
    MatrixSource { module: module.into(), expert: None, rows, transposed: false }
}
