//! Calibration, one layer at a time: measure the inputs of a layer's products on a text, choose its integers, and go on with what
//! the quantised layer gives, so that later layers make good what earlier ones lost.
//!
//! Only one layer's weights are in memory; of the model's state between layers it is all tokens, f32. Chosen bytes go to a
//! scratch file at once. Embedding and head, which stay at 8 bits by default, are rounded to nearest.

use ir::graph::Graph;
use ir::types::Dim;
use models::Model;

use super::assign::{Assignment, Decision, Role, apply};
use super::awq;
use super::gptq::{self, Factor};
use super::layer::{Layer, LayerRunner, Product, Routing, Source, Window};
use super::levels::Levels;
use super::matrix::for_each;
use super::options::Method;
use super::rounding::{Weighting, round_to_nearest};
use super::rows::{CalibratedRows, SourceRows};
use super::statistics::{Inputs, LayerInputs, fewest_inputs};
use super::windows::Windows;
use super::{QuantiseError, WeightRows};
use crate::progress::Progress;

/// What a calibration did, for the summary.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Tokens that were run.
    pub tokens: usize,
    /// Experts whose matrices were chosen.
    pub experts: usize,
    /// Experts that too few tokens reached, so that they used the moments of all tokens of their layer.
    pub starved: usize,
    /// Experts of layers no token reached: rounded to nearest.
    pub unreached: usize,
}

impl Report {
    /// The report, one line each.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!("calibrated on {} tokens", self.tokens)];
        if self.starved + self.unreached > 0 {
            lines.push(format!(
                "experts starved: {} of {}; {} used the moments of all their layer's tokens, {} were rounded to nearest",
                self.starved + self.unreached,
                self.experts,
                self.starved,
                self.unreached
            ));
        }
        lines
    }
}

/// Everything a calibration works on.
pub struct Calibration<'a> {
    /// The imported model.
    pub model: &'a Model,
    /// GPTQ or AWQ; nothing is done for round-to-nearest.
    pub method: Method,
    /// The text.
    pub windows: &'a Windows,
    /// Threads of kernels and arithmetic; results do not depend on it.
    pub threads: usize,
    /// Told the bytes of source weights that are done.
    pub progress: &'a dyn Progress,
}

/// What one layer's step works on.
pub(super) struct Step<'c, 'a> {
    pub graph: &'c Graph,
    pub layer: &'c Layer,
    pub inputs: &'c LayerInputs,
    pub rows: &'c mut CalibratedRows<'a>,
    pub threads: usize,
    pub report: &'c mut Report,
}

impl Calibration<'_> {
    /// Chooses the integers of every layer and stores them in `rows`, whose assignment may change where AWQ needs a router in f32.
    ///
    /// # Errors
    /// A layer that cannot be run, a weight that cannot be read or rounded, or moments that cannot be used.
    pub fn run(&self, rows: &mut CalibratedRows) -> Result<Report, QuantiseError> {
        let mut report = Report { tokens: self.windows.tokens(), ..Report::default() };
        let graph = &self.model.graph;
        let Some(embedded) = self.model.boundaries.first() else { return Ok(report) };
        self.progress.begin("calibrating", self.total_bytes());
        let mut hidden = Vec::new();
        let embedding = apply(graph, rows.assignment())?;
        self.advance(&embedding, &Layer::between(graph, None, *embedded), rows, &mut hidden)?;
        for pair in self.model.boundaries.windows(2) {
            let layer = Layer::between(graph, Some(pair[0]), pair[1]);
            let chosen = layer.products.iter().any(|p| calibrated(graph, p, rows.assignment()).is_some());
            if chosen {
                let inputs = self.measure(&layer, rows, &hidden)?;
                let step =
                    Step { graph, layer: &layer, inputs: &inputs, rows, threads: self.threads, report: &mut report };
                match self.method {
                    Method::Awq => awq::quantise_layer(step)?,
                    _ => quantise_layer(step)?,
                }
            }
            let applied = apply(graph, rows.assignment())?;
            self.advance(&applied, &layer, rows, &mut hidden)?;
            self.progress.advance(layer_bytes(graph, &layer));
        }
        self.progress.finish();
        Ok(report)
    }

    fn total_bytes(&self) -> u64 {
        let pairs = self.model.boundaries.windows(2);
        let graph = &self.model.graph;
        pairs.map(|p| layer_bytes(graph, &Layer::between(graph, Some(p[0]), p[1]))).sum()
    }

    fn runner(
        &self,
        graph: &Graph,
        layer: &Layer,
        taps: &[ir::graph::ValueId],
        rows: &mut dyn WeightRows,
    ) -> Result<LayerRunner, QuantiseError> {
        let vocabulary = self.model.hyper.vocabulary;
        LayerRunner::new(graph, layer, taps, self.windows.width(), vocabulary, rows, self.threads)
    }

    /// Replaces the state of all tokens by what the layer makes of it.
    fn advance(
        &self,
        graph: &Graph,
        layer: &Layer,
        rows: &mut dyn WeightRows,
        hidden: &mut Vec<f32>,
    ) -> Result<(), QuantiseError> {
        let mut runner = self.runner(graph, layer, &[], rows)?;
        let width = hidden.len() / self.windows.tokens();
        let mut at = 0;
        for ids in self.windows.iter() {
            let range = at * width..(at + ids.len()) * width;
            runner.run(&Window { ids, hidden: &hidden[range.clone()] })?;
            match layer.from {
                None => hidden.extend_from_slice(runner.result()),
                Some(_) => hidden[range].copy_from_slice(runner.result()),
            }
            at += if layer.from.is_some() { ids.len() } else { 0 };
        }
        match hidden.iter().all(|x| x.is_finite()) {
            true => Ok(()),
            false => Err(QuantiseError::NotFinite { value: format!("the result of {}", layer.name(graph)) }),
        }
    }

    /// The inputs of the layer's products, as the unquantised layer has them.
    pub(super) fn measure(
        &self,
        layer: &Layer,
        rows: &mut CalibratedRows,
        hidden: &[f32],
    ) -> Result<LayerInputs, QuantiseError> {
        let graph = &self.model.graph;
        let mut inputs = LayerInputs::default();
        for product in &layer.products {
            let (matrices, _, cols) = shape(graph, product);
            inputs.declare(product.source(), matrices, cols);
        }
        let mut taps: Vec<_> = inputs.sources().iter().map(|(input, _)| *input).collect();
        taps.extend(inputs.sources().iter().filter_map(|s| experts(*s)));
        taps.sort_unstable();
        taps.dedup();
        let mut runner = self.runner(graph, layer, &taps, rows.source())?;
        let width = hidden.len() / self.windows.tokens();
        let mut at = 0;
        for ids in self.windows.iter() {
            let window = Window { ids, hidden: &hidden[at * width..(at + ids.len()) * width] };
            runner.run(&window)?;
            for source in inputs.sources() {
                let chosen = experts(source).map_or(&[][..], |value| runner.tap_ints(value));
                inputs.add(source, runner.tap(source.0, &window), ids.len(), chosen, self.threads);
            }
            at += ids.len();
        }
        Ok(inputs)
    }
}

fn experts(source: Source) -> Option<ir::graph::ValueId> {
    match source.1 {
        Routing::Experts(value) => Some(value),
        _ => None,
    }
}

fn layer_bytes(graph: &Graph, layer: &Layer) -> u64 {
    layer.products.iter().filter_map(|p| graph.node(p.weight).ty.bytes(&[])).sum()
}

/// Matrices, rows and columns of a product's weight.
pub(super) fn shape(graph: &Graph, product: &Product) -> (usize, usize, usize) {
    let sizes: Vec<usize> = graph
        .node(product.weight)
        .ty
        .shape
        .iter()
        .map(|d| if let Dim::Const(n) = d { *n as usize } else { 0 })
        .collect();
    match sizes.as_slice() {
        [matrices, rows, cols] => (*matrices, *rows, *cols),
        [rows, cols] => (1, *rows, *cols),
        _ => (0, 0, 0),
    }
}

/// The levels a product's weight is to be rounded to, if calibration chooses them.
pub(super) fn calibrated(graph: &Graph, product: &Product, assignment: &Assignment) -> Option<Levels> {
    let Decision { from, to, role, .. } = assignment.get(&graph.node(product.weight).name)?;
    let in_layer = matches!(role, Role::Matrix | Role::Router);
    (from != to && in_layer).then(|| Levels::of(*to)).flatten()
}

/// Which inputs a matrix's integers are chosen by.
pub(super) enum Basis<'i> {
    /// Its own.
    Own(&'i Inputs),
    /// Those of all matrices of the stack.
    Shared,
    /// None: there were no tokens.
    Nothing,
}

/// The basis of matrix `matrix` of a source.
pub(super) fn basis(inputs: &LayerInputs, source: Source, matrix: usize) -> Basis<'_> {
    let all = inputs.get(source);
    let Some(own) = all.get(matrix) else { return Basis::Nothing };
    if all.len() == 1 || own.moments.samples() >= fewest_inputs(own.moments.size()) {
        Basis::Own(own)
    } else if all.iter().any(|m| m.moments.samples() > 0) {
        Basis::Shared
    } else {
        Basis::Nothing
    }
}

/// Counts the experts of each source that had to do without inputs of their own.
pub(super) fn count_experts(graph: &Graph, layer: &Layer, inputs: &LayerInputs, report: &mut Report) {
    // An expert has several matrices; those that read what its router sees stand for it.
    let first = layer
        .products
        .iter()
        .find(|p| matches!(p.routing, Routing::Experts(_)) && graph.node(p.input).ty.shape.len() == 2);
    let Some(source) = first.map(Product::source) else { return };
    for matrix in 0..inputs.get(source).len() {
        report.experts += 1;
        match basis(inputs, source, matrix) {
            Basis::Own(_) => {}
            Basis::Shared => report.starved += 1,
            Basis::Nothing => report.unreached += 1,
        }
    }
}

/// Reads a whole matrix.
pub(super) fn read_matrix(
    source: &mut SourceRows,
    name: &str,
    matrix: usize,
    rows: usize,
) -> Result<Vec<f32>, QuantiseError> {
    let mut values = Vec::new();
    source.values(name, matrix as u64, 0, rows as u64, &mut values)?;
    Ok(values)
}

/// Chooses the integers of a layer's products by GPTQ.
fn quantise_layer(step: Step) -> Result<(), QuantiseError> {
    let Step { graph, layer, inputs, rows, threads, report } = step;
    count_experts(graph, layer, inputs, report);
    for source in inputs.sources() {
        let products: Vec<(&Product, Levels)> = layer
            .products
            .iter()
            .filter(|p| p.source() == source && !rows.has(&graph.node(p.weight).name))
            .filter_map(|p| Some((p, calibrated(graph, p, rows.assignment())?)))
            .collect();
        if products.is_empty() {
            continue;
        }
        let names: Vec<&str> = products.iter().map(|(p, _)| graph.node(p.weight).name.as_str()).collect();
        let factors = Factors::of(inputs, source, names[0], threads)?;
        for ((product, levels), name) in products.iter().zip(names) {
            quantise_product(graph, product, *levels, name, &factors, rows, threads)?;
        }
    }
    Ok(())
}

/// The factor of each matrix of a source, the shared one where a matrix has too few inputs.
struct Factors {
    own: Vec<Option<Factor>>,
    shared: Option<Factor>,
}

impl Factors {
    fn of(inputs: &LayerInputs, source: Source, name: &str, threads: usize) -> Result<Factors, QuantiseError> {
        let mut own: Vec<Result<Option<Factor>, QuantiseError>> = Vec::new();
        let (mut work, mut needs_shared) = (Vec::new(), false);
        own.resize_with(inputs.get(source).len(), || Ok(None));
        for (matrix, place) in own.iter_mut().enumerate() {
            match basis(inputs, source, matrix) {
                Basis::Own(inputs) => work.push((inputs, place)),
                Basis::Shared => needs_shared = true,
                Basis::Nothing => {}
            }
        }
        for_each(work, threads, |(inputs, place)| *place = Factor::of(&inputs.moments, name).map(Some));
        let shared = inputs.shared(source).filter(|_| needs_shared);
        let shared = shared.map(|all| Factor::of(&all.moments, name)).transpose()?;
        Ok(Factors { own: own.into_iter().collect::<Result<_, _>>()?, shared })
    }

    fn get(&self, matrix: usize) -> Option<&Factor> {
        self.own.get(matrix).and_then(Option::as_ref).or(self.shared.as_ref())
    }
}

fn quantise_product(
    graph: &Graph,
    product: &Product,
    levels: Levels,
    name: &str,
    factors: &Factors,
    rows: &mut CalibratedRows,
    threads: usize,
) -> Result<(), QuantiseError> {
    let (matrices, count, cols) = shape(graph, product);
    for matrix in 0..matrices {
        let values = read_matrix(rows.source(), name, matrix, count)?;
        let bytes = match factors.get(matrix) {
            Some(factor) => gptq::quantise(&values, factor, levels, name, threads)?,
            None => round_to_nearest(&values, cols, levels.dtype(), Weighting::Squares, name, threads)?,
        };
        rows.store(name, count as u64, &bytes)?;
    }
    Ok(())
}
