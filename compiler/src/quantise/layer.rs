//! One layer cut out of a model's graph: what enters it, its products, and its execution on the native kernels.
//!
//! The layer goes through the compiler's own lowering, schedule and plan, so that what calibration sees is what the artifact will
//! compute; only activations stay f32.

use std::collections::{HashMap, HashSet};

use ir::graph::{Graph, NodeKind, ValueId};
use ir::op::{Op, PAGE_TOKENS};
use ir::quant;
use ir::types::DType;
use runtime::artifact::{Layout, WeightInfo};
use runtime::device::cpu::ProgramRunner;
use runtime::device::{LoadOptions, StepInputs};

use super::{QuantiseError, WeightRows};
use crate::lower::{Registry, lower};
use crate::package::weight_table;
use crate::plan::plan;
use crate::schedule::schedule;
use crate::target::Target;

/// The name of the layer's real input.
const HIDDEN: &str = "hidden";

/// The name of the layer's result.
const RESULT: &str = "result";

/// Rows packed at a time.
const PACKED_ROWS: u64 = 1024;

/// A product of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Product {
    /// The op.
    pub value: ValueId,
    /// Its matrix, or stack.
    pub weight: ValueId,
    /// Where its input is from, before any rounding.
    pub input: ValueId,
    /// What spreads inputs over a stack.
    pub routing: Routing,
}

/// Which matrix of a stack a row of the input belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Routing {
    /// There is one matrix.
    None,
    /// Slot `j` has matrix `j`.
    Heads,
    /// Slot `j` of token `t` has the expert this value names.
    Experts(ValueId),
}

/// What decides a product's second moments: products with the same source share them.
pub type Source = (ValueId, Routing);

impl Product {
    /// What its second moments are made of.
    pub fn source(&self) -> Source {
        (self.input, self.routing)
    }
}

/// The ops between two boundaries of the residual stream.
#[derive(Clone, Debug)]
pub struct Layer {
    /// What enters; `None` before the embedding.
    pub from: Option<ValueId>,
    /// What leaves.
    pub to: ValueId,
    /// Its products, in graph order.
    pub products: Vec<Product>,
    /// Every value of the layer, in graph order.
    members: Vec<ValueId>,
}

impl Layer {
    /// The layer of `graph` between two values.
    pub fn between(graph: &Graph, from: Option<ValueId>, to: ValueId) -> Layer {
        let mut seen = HashSet::new();
        let mut open = vec![to];
        while let Some(value) = open.pop() {
            if seen.insert(value) && Some(value) != from {
                open.extend(graph.node(value).operands());
            }
        }
        let mut members: Vec<ValueId> = seen.into_iter().collect();
        members.sort_unstable();
        let products = members.iter().filter_map(|v| product(graph, *v)).collect();
        Layer { from, to, products, members }
    }

    /// Names of the layer's matrices and vectors, in graph order.
    pub fn weights<'g>(&self, graph: &'g Graph) -> Vec<&'g str> {
        let nodes = self.members.iter().map(|v| graph.node(*v));
        nodes.filter(|n| n.kind == NodeKind::Weight).map(|n| n.name.as_str()).collect()
    }

    /// What messages call it: the label of its last op that has one.
    pub fn name<'g>(&self, graph: &'g Graph) -> &'g str {
        let ops = self.members.iter().rev().map(|v| graph.node(*v)).filter(|n| n.op().is_some());
        ops.map(|n| n.name.as_str()).find(|name| !name.is_empty()).unwrap_or("a layer")
    }

    /// The layer as a graph of its own, for windows of at most `window` tokens, with `taps` as further results.
    fn graph(&self, model: &Graph, window: u64, taps: &[ValueId]) -> Graph {
        let mut graph = Graph::new("layer");
        graph.symbols = model.symbols.clone();
        for symbol in &mut graph.symbols {
            match symbol.name.as_str() {
                "T" | "R" => symbol.max = window,
                "S" => symbol.max = 1,
                "P" => symbol.max = window.div_ceil(PAGE_TOKENS),
                _ => {}
            }
        }
        let mut map: HashMap<ValueId, ValueId> = HashMap::new();
        for value in &self.members {
            let mut node = model.node(*value).clone();
            let new = if Some(*value) == self.from {
                graph.input(HIDDEN, node.ty)
            } else {
                if let NodeKind::Op { operands, .. } = &mut node.kind {
                    operands.iter_mut().for_each(|o| *o = map[o]);
                }
                crate::rewrite::keep(&mut graph, node)
            };
            map.insert(*value, new);
        }
        graph.output(RESULT, map[&self.to]);
        taps.iter().filter(|tap| Some(**tap) != self.from).for_each(|tap| graph.output(&tap_name(*tap), map[tap]));
        graph
    }
}

fn tap_name(value: ValueId) -> String {
    format!("tap.{}", value.0)
}

/// The product at a value, if there is one whose second operand is a weight.
fn product(graph: &Graph, value: ValueId) -> Option<Product> {
    let node = graph.node(value);
    let operands = node.operands();
    let routing = match node.op()? {
        Op::Matmul => Routing::None,
        Op::HeadMatmul => Routing::Heads,
        Op::GroupedMatmul => Routing::Experts(operands[2]),
        _ => return None,
    };
    let rounded = graph.node(operands[0]);
    let input = if rounded.op() == Some(Op::QuantizeRows) { rounded.operands()[0] } else { operands[0] };
    let weight = operands[1];
    (graph.node(weight).kind == NodeKind::Weight).then_some(Product { value, weight, input, routing })
}

/// A layer ready to be run over windows.
pub struct LayerRunner {
    runner: ProgramRunner,
    layer_input: Option<ValueId>,
}

/// A window's tokens and what enters the layer for them.
pub struct Window<'a> {
    /// Token ids.
    pub ids: &'a [i32],
    /// `[ids.len(), width]`; empty before the embedding.
    pub hidden: &'a [f32],
}

impl LayerRunner {
    /// Plans the layer of a graph with its weights from `rows`; `taps` are values whose results are wanted as well.
    ///
    /// # Errors
    /// A layer that cannot be lowered or weights that cannot be read.
    pub fn new(
        model: &Graph,
        layer: &Layer,
        taps: &[ValueId],
        window: usize,
        vocabulary: u64,
        rows: &mut dyn WeightRows,
        threads: usize,
    ) -> Result<LayerRunner, QuantiseError> {
        let graph = layer.graph(model, window as u64, taps);
        let program = plan(schedule(lower(&graph, &Registry::default(), Target::Cpu)?))?;
        let table = weight_table(&graph, Layout::Rows16)
            .map_err(|e| QuantiseError::Weight { weight: "of a layer".into(), message: e.to_string() })?;
        let infos: Vec<WeightInfo> = table.iter().map(|(_, info)| info.clone()).collect();
        let pages = (window as u64).div_ceil(PAGE_TOKENS);
        let options = LoadOptions { pages, threads: Some(threads), isa: None };
        let mut runner = ProgramRunner::new(&program, &infos, vocabulary, &options)?;
        for (node, info) in &table {
            let place = runner.weight_mut(&info.name).unwrap_or_default();
            fill(&graph.nodes[*node].kind, info, rows, place)?;
        }
        Ok(LayerRunner { runner, layer_input: layer.from })
    }

    /// Runs one window as a sequence of its own.
    ///
    /// # Errors
    /// A kernel that failed.
    pub fn run(&mut self, window: &Window) -> Result<(), QuantiseError> {
        let tokens = window.ids.len();
        let positions: Vec<i32> = (0..tokens as i32).collect();
        let page_columns = (tokens as u64).div_ceil(PAGE_TOKENS).max(1) as usize;
        let pages: Vec<i32> = (0..page_columns as i32).collect();
        let zeros = vec![0; tokens];
        let inputs = StepInputs {
            ids: window.ids,
            positions: &positions,
            sequences: &zeros,
            page_table: &pages,
            page_columns,
            logit_rows: &positions,
            rope_tables: &zeros,
        };
        let values: &[(&str, &[f32])] = match self.layer_input {
            Some(_) => &[(HIDDEN, window.hidden)],
            None => &[],
        };
        Ok(self.runner.step(&inputs, values)?)
    }

    /// What left the layer in the last run.
    pub fn result(&self) -> &[f32] {
        self.runner.floats(RESULT).unwrap_or_default()
    }

    /// A tapped value of the last run, whose window is given again: what enters the layer is no result of it.
    pub fn tap<'a>(&'a self, value: ValueId, window: &Window<'a>) -> &'a [f32] {
        if Some(value) == self.layer_input {
            return window.hidden;
        }
        self.runner.floats(&tap_name(value)).unwrap_or_default()
    }

    /// A tapped value of integers.
    pub fn tap_ints(&self, value: ValueId) -> &[i32] {
        self.runner.ints(&tap_name(value)).unwrap_or_default()
    }
}

/// Writes a weight to its place in the layout the kernels read.
fn fill(kind: &NodeKind, info: &WeightInfo, rows: &mut dyn WeightRows, place: &mut [u8]) -> Result<(), QuantiseError> {
    let unfit =
        || QuantiseError::Weight { weight: info.name.clone(), message: "its size is not that of its type".into() };
    let mut bytes = Vec::new();
    if info.layout == Layout::Plain {
        match kind {
            NodeKind::Constant(values) => bytes.extend(values.iter().flat_map(|v| v.to_le_bytes())),
            _ => rows.plain(&info.name, &mut bytes)?,
        }
        let place = (place.len() == bytes.len()).then_some(place).ok_or_else(unfit)?;
        place.copy_from_slice(&bytes);
        return Ok(());
    }
    let dtype = DType::from_name(&info.dtype).ok_or_else(unfit)?;
    let format = quant::format(dtype).ok_or_else(unfit)?;
    let (matrices, count, cols) = match info.shape.as_slice() {
        [count, cols] => (1, *count, *cols as usize),
        [matrices, count, cols] => (*matrices, *count, *cols as usize),
        _ => return Err(unfit()),
    };
    let panel_bytes = format.panel_bytes(cols);
    let mut place = place;
    for matrix in 0..matrices {
        for first in (0..count).step_by(PACKED_ROWS as usize) {
            let taken = PACKED_ROWS.min(count - first);
            rows.rows(&info.name, matrix, first, taken, &mut bytes)?;
            let needed = (taken as usize).div_ceil(quant::PANEL_ROWS) * panel_bytes;
            let (panels, rest) = place.split_at_mut_checked(needed).ok_or_else(unfit)?;
            quant::pack(dtype, &bytes, taken as usize, cols, panels)
                .map_err(|source| QuantiseError::Format { weight: info.name.clone(), source })?;
            place = rest;
        }
    }
    Ok(())
}
