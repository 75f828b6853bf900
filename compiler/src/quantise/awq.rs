//! AWQ: input channels that carry much are scaled up before rounding, so that their weights lose less; the scale is taken back
//! where the input is made.
//!
//! Lin et al., "AWQ: Activation-aware Weight Quantization for On-Device LLM Compression and Acceleration" (2023). A channel's scale
//! is its mean magnitude to a power that is searched for the least output error of all products that read the input, on a
//! sample of tokens. It is taken back in the norm before (queries, keys, values; gate and up, shared by all experts and the router,
//! whose columns are scaled as well and which is then kept in f32), in the up projection (for down) or in the values (for the
//! attention output; heads that share a value share its scales). Then grids are clipped for the least output error.

use std::collections::HashMap;

use ir::graph::{Graph, NodeKind, ValueId};
use ir::op::Op;
use ir::types::{DType, Dim};

use super::QuantiseError;
use super::assign::{Assignment, Role, is_plain_float};
use super::calibrate::{Basis, Step, basis, calibrated, count_experts, read_matrix, shape};
use super::layer::{Layer, Product, Routing};
use super::levels::Levels;
use super::matrix::{self, for_each};
use super::rounding::{Weighting, round_clipped, round_to_nearest};
use super::rows::CalibratedRows;
use super::statistics::{Inputs, LayerInputs};

/// Powers tried: 0, 1/20, … 19/20.
const POWERS: usize = 20;

/// Rows of a matrix whose error is measured together.
const STRIP: usize = 128;

/// Least scale, as a share of the middle one.
const LEAST_SCALE: f64 = 1e-4;

/// Where a channel's scale is taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Origin {
    /// In a norm's vectors, by name.
    Norm(Vec<String>),
    /// In the rows of a product and its bias: channel `c` is row `rows[c]`.
    Rows { product: Product, bias: Option<String>, rows: Vec<usize> },
}

/// An input whose channels can be scaled, and the products that read it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fold {
    origin: Origin,
    readers: Vec<Product>,
}

/// Factors of rows and columns of each matrix of a weight, by the weight's name.
#[derive(Default)]
pub(super) struct Scaling {
    columns: HashMap<(String, usize), Vec<f32>>,
    rows: HashMap<(String, usize), Vec<f32>>,
}

impl Scaling {
    /// Multiplies a matrix's rows and columns.
    pub(super) fn apply(&self, name: &str, matrix: usize, values: &mut [f32], cols: usize) {
        let key = (name.to_string(), matrix);
        if let Some(factors) = self.columns.get(&key) {
            values.chunks_exact_mut(cols).for_each(|row| row.iter_mut().zip(factors).for_each(|(w, s)| *w *= s));
        }
        if let Some(factors) = self.rows.get(&key) {
            values.chunks_exact_mut(cols).zip(factors).for_each(|(row, s)| row.iter_mut().for_each(|w| *w *= s));
        }
    }

    fn columns(&self, name: &str, matrix: usize) -> Option<&[f32]> {
        self.columns.get(&(name.to_string(), matrix)).map(Vec::as_slice)
    }
}

/// Chooses the integers of a layer's products by AWQ.
pub(super) fn quantise_layer(step: Step) -> Result<(), QuantiseError> {
    let Step { graph, layer, inputs, rows, threads, report } = step;
    count_experts(graph, layer, inputs, report);
    let scaling = scale_layer(graph, layer, inputs, rows, threads)?;
    for product in &layer.products {
        let name = graph.node(product.weight).name.clone();
        if rows.has(&name) {
            continue;
        }
        let levels = calibrated(graph, product, rows.assignment());
        let (matrices, count, cols) = shape(graph, product);
        let is_scaled = (0..matrices).any(|m| scaling.columns(&name, m).is_some());
        if levels.is_none() && !is_scaled {
            continue;
        }
        for matrix in 0..matrices {
            let mut values = read_matrix(rows.source(), &name, matrix, count)?;
            scaling.apply(&name, matrix, &mut values, cols);
            let bytes = match levels {
                None => round_to_nearest(&values, cols, DType::F32, Weighting::Even, &name, threads)?,
                Some(levels) => {
                    let columns = scaling.columns(&name, matrix);
                    round_matrix(&values, levels, inputs, (product, matrix), columns, &name, threads)?
                }
            };
            rows.store(&name, count as u64, &bytes)?;
        }
        if let (None, Some(decision)) = (levels, rows.assignment_mut().0.get_mut(&name)) {
            decision.to = DType::F32;
        }
    }
    Ok(())
}

/// Searches the scales of every fold of a layer; vectors are changed in `rows`, matrices are left to the caller.
pub(super) fn scale_layer(
    graph: &Graph,
    layer: &Layer,
    inputs: &LayerInputs,
    rows: &mut CalibratedRows,
    threads: usize,
) -> Result<Scaling, QuantiseError> {
    let mut scaling = Scaling::default();
    for fold in folds(graph, layer, rows.assignment()) {
        if fold.readers.iter().all(|p| !rows.has(&graph.node(p.weight).name)) {
            scale_fold(graph, &fold, inputs, rows, &mut scaling, threads)?;
        }
    }
    Ok(scaling)
}

/// Rounds a matrix whose columns were scaled by `columns`, with grids clipped for the inputs it will see.
fn round_matrix(
    values: &[f32],
    levels: Levels,
    inputs: &LayerInputs,
    (product, matrix): (&Product, usize),
    columns: Option<&[f32]>,
    name: &str,
    threads: usize,
) -> Result<Vec<u8>, QuantiseError> {
    let source = product.source();
    let shared = match basis(inputs, source, matrix) {
        Basis::Own(_) => None,
        _ => inputs.shared(source).filter(|i| i.moments.samples() > 0),
    };
    let own = match (basis(inputs, source, matrix), &shared) {
        (Basis::Own(own), _) | (Basis::Shared, Some(own)) => own,
        _ => {
            let cols = inputs.get(source).first().map_or(1, |i| i.moments.size());
            return round_to_nearest(values, cols, levels.dtype(), Weighting::Squares, name, threads);
        }
    };
    let cols = own.moments.size();
    // What reads scaled weights is an input scaled the other way.
    let inverse: Vec<f32> = columns.map_or_else(|| vec![1.0; cols], |s| s.iter().map(|s| 1.0 / s).collect());
    if !levels.is_grouped() {
        let diagonal = own.moments.diagonal();
        let importance: Vec<f32> = diagonal.iter().zip(&inverse).map(|(h, s)| h * s * s).collect();
        return round_to_nearest(values, cols, levels.dtype(), Weighting::Inputs(&importance), name, threads);
    }
    let group = levels.group(cols);
    let block = |first: usize| {
        let len = group.min(cols - first);
        let mut block = own.moments.block(first, len);
        let scales = &inverse[first..first + len];
        let entries = block.chunks_exact_mut(len).zip(scales);
        entries.for_each(|(row, a)| row.iter_mut().zip(scales).for_each(|(h, b)| *h *= a * b));
        block
    };
    let blocks: Vec<Vec<f32>> = (0..cols).step_by(group).map(block).collect();
    round_clipped(values, cols, levels, &blocks, name, threads)
}

/// The inputs of a layer whose channels can be scaled without changing what the layer computes, in graph order.
fn folds(graph: &Graph, layer: &Layer, assignment: &Assignment) -> Vec<Fold> {
    let mut inputs: Vec<ValueId> = layer.products.iter().map(|p| p.input).collect();
    inputs.sort_unstable();
    inputs.dedup();
    inputs.into_iter().filter_map(|input| fold(graph, layer, assignment, input)).collect()
}

/// How often each value is used, as operand or output.
fn uses(graph: &Graph, value: ValueId) -> usize {
    let operands: usize = graph.nodes.iter().map(|n| n.operands().iter().filter(|o| **o == value).count()).sum();
    operands + graph.outputs.iter().filter(|(_, v)| *v == value).count()
}

fn fold(graph: &Graph, layer: &Layer, assignment: &Assignment, input: ValueId) -> Option<Fold> {
    let readers: Vec<Product> = layer.products.iter().filter(|p| p.input == input).cloned().collect();
    // Everything that sees the input must be able to take the scales back.
    if uses(graph, input) != readers.len() || !readers.iter().all(|p| can_scale(graph, assignment, p)) {
        return None;
    }
    if !readers.iter().any(|p| calibrated(graph, p, assignment).is_some()) {
        return None;
    }
    let origin = match graph.node(input).op()? {
        Op::RmsNorm | Op::LayerNorm => norm_origin(graph, input, &readers)?,
        Op::Glu if readers.len() == 1 => up_origin(graph, layer, assignment, input, &readers[0])?,
        Op::MergeHeads if readers.len() == 1 => value_origin(graph, layer, assignment, input)?,
        _ => return None,
    };
    Some(Fold { origin, readers })
}

/// Whether a product's columns can be scaled: it is quantised, or a router that can be kept in f32; and nothing else uses its weight.
fn can_scale(graph: &Graph, assignment: &Assignment, product: &Product) -> bool {
    let Some(decision) = assignment.get(&graph.node(product.weight).name) else { return false };
    let is_float_router = decision.role == Role::Router && is_plain_float(decision.to);
    let scalable = calibrated(graph, product, assignment).is_some() || is_float_router;
    let rounds_itself = graph.node(graph.node(product.value).operands()[0]).op() == Some(Op::QuantizeRows);
    scalable && !rounds_itself && product.routing != Routing::Heads && uses(graph, product.weight) == 1
}

fn norm_origin(graph: &Graph, input: ValueId, readers: &[Product]) -> Option<Origin> {
    // One scale a channel: what reads the norm must see all tokens by the same channels.
    let vectors = &graph.node(input).operands()[1..];
    let own = |v: &ValueId| graph.node(*v).kind == NodeKind::Weight && uses(graph, *v) == 1;
    let rank_two = graph.node(input).ty.shape.len() == 2;
    (rank_two && !readers.is_empty() && vectors.iter().all(own))
        .then(|| Origin::Norm(vectors.iter().map(|v| graph.node(*v).name.clone()).collect()))
}

/// The product behind a value, if it is one of the layer that is quantised and that nothing else uses.
fn producer(
    graph: &Graph,
    layer: &Layer,
    assignment: &Assignment,
    value: ValueId,
) -> Option<(Product, Option<String>)> {
    let product = layer.products.iter().find(|p| p.value == value)?;
    let operands = graph.node(value).operands();
    let bias = operands.get(if matches!(product.routing, Routing::Experts(_)) { 3 } else { 2 });
    let own_bias = bias.is_none_or(|b| graph.node(*b).kind == NodeKind::Weight && uses(graph, *b) == 1);
    let sole = uses(graph, value) == 1 && uses(graph, product.weight) == 1 && own_bias;
    let quantised = calibrated(graph, product, assignment).is_some();
    (sole && quantised).then(|| (product.clone(), bias.map(|b| graph.node(*b).name.clone())))
}

fn up_origin(graph: &Graph, layer: &Layer, assignment: &Assignment, glu: ValueId, reader: &Product) -> Option<Origin> {
    let node = graph.node(glu);
    if node.word("activation") == Some("clamped_swiglu") {
        return None;
    }
    let (product, bias) = producer(graph, layer, assignment, node.operands()[1])?;
    let (_, rows, _) = shape(graph, &product);
    (product.routing == reader.routing).then(|| Origin::Rows { product, bias, rows: (0..rows).collect() })
}

fn value_origin(graph: &Graph, layer: &Layer, assignment: &Assignment, merged: ValueId) -> Option<Origin> {
    let attention = graph.node(graph.node(merged).operands()[0]);
    if attention.op() != Some(Op::Attention) || attention.int("value_dim") != Some(0) {
        return None;
    }
    let append = graph.node(attention.operands()[1]);
    let values = *append.operands().get(5).filter(|_| append.op() == Some(Op::KvAppend))?;
    let split = graph.node(values);
    if split.op() != Some(Op::SplitHeads) || uses(graph, values) != 1 {
        return None;
    }
    let (product, bias) = producer(graph, layer, assignment, split.operands()[0])?;
    let size = |dim: Option<&Dim>| dim.and_then(|d| d.value(&[])).map(|n| n as usize);
    let (heads, kv_heads) = (size(attention.ty.shape.get(1))?, size(split.ty.shape.get(1))?);
    let width = size(split.ty.shape.get(2))?;
    if product.routing != Routing::None || kv_heads == 0 || heads % kv_heads != 0 {
        return None;
    }
    let rows = (0..heads * width).map(|c| c / width / (heads / kv_heads) * width + c % width).collect();
    Some(Origin::Rows { product, bias, rows })
}

/// Searches the scales of a fold and records them on both sides.
fn scale_fold(
    graph: &Graph,
    fold: &Fold,
    inputs: &LayerInputs,
    rows: &mut CalibratedRows,
    scaling: &mut Scaling,
    threads: usize,
) -> Result<(), QuantiseError> {
    let name = |p: &Product| graph.node(p.weight).name.clone();
    match &fold.origin {
        Origin::Norm(vectors) => {
            let Some(scales) = search(graph, fold, None, inputs, rows, scaling, threads)? else { return Ok(()) };
            for vector in vectors {
                let mut values = rows.plain_values(vector)?;
                values.iter_mut().zip(&scales).for_each(|(v, s)| *v /= s);
                rows.store_plain(vector, values);
            }
            for reader in &fold.readers {
                for matrix in 0..shape(graph, reader).0 {
                    scaling.columns.insert((name(reader), matrix), scales.clone());
                }
            }
        }
        Origin::Rows { product, bias, rows: row_of } => {
            let (matrices, count, _) = shape(graph, product);
            let mut biases = bias.as_ref().map(|b| rows.plain_values(b)).transpose()?;
            for matrix in 0..matrices {
                let Some(scales) = search(graph, fold, Some(matrix), inputs, rows, scaling, threads)? else { continue };
                let mut factors = vec![1f32; count];
                scales.iter().zip(row_of).for_each(|(s, row)| factors[*row] = 1.0 / s);
                if let Some(biases) = &mut biases {
                    biases[matrix * count..].iter_mut().zip(&factors).for_each(|(b, f)| *b *= f);
                }
                scaling.rows.insert((name(product), matrix), factors);
                scaling.columns.insert((name(&fold.readers[0]), matrix), scales);
            }
            if let (Some(bias), Some(values)) = (bias, biases) {
                rows.store_plain(bias, values);
            }
        }
    }
    Ok(())
}

/// A matrix whose error counts in a search: `values[rows, cols]`, its levels, and a sample of its inputs.
struct Judged<'i> {
    values: Vec<f32>,
    levels: Levels,
    sample: &'i [f32],
    weight: f64,
}

/// The scales of a fold's channels, all readers' matrices together or one matrix each; `None` if no token gave any inputs.
fn search(
    graph: &Graph,
    fold: &Fold,
    matrix: Option<usize>,
    inputs: &LayerInputs,
    rows: &mut CalibratedRows,
    scaling: &Scaling,
    threads: usize,
) -> Result<Option<Vec<f32>>, QuantiseError> {
    let mut judged = Vec::new();
    let mut cols = 0;
    for reader in &fold.readers {
        let name = &graph.node(reader.weight).name;
        let (matrices, count, width) = shape(graph, reader);
        cols = width;
        let Some(levels) = calibrated(graph, reader, rows.assignment()) else { continue };
        for m in matrix.map_or(0..matrices, |m| m..m + 1) {
            let (sample, weight) = match inputs.get(reader.source()).get(m) {
                Some(inputs) if inputs.moments.samples() > 0 => inputs.sample(),
                _ => continue,
            };
            let mut values = read_matrix(rows.source(), name, m, count)?;
            scaling.apply(name, m, &mut values, width);
            judged.push(Judged { values, levels, sample, weight });
        }
    }
    let Some(magnitudes) = magnitudes(fold, matrix, inputs).filter(|_| !judged.is_empty()) else { return Ok(None) };
    let magnitudes = match &fold.origin {
        Origin::Norm(_) => magnitudes,
        Origin::Rows { rows, .. } => shared_by_rows(&magnitudes, rows),
    };
    let mut best: Option<(f64, Vec<f32>)> = None;
    for power in 0..POWERS {
        let scales = scales(&magnitudes, power as f64 / POWERS as f64);
        let error = output_error(&judged, &scales, cols, threads).map_err(|source| QuantiseError::Format {
            weight: graph.node(fold.readers[0].weight).name.clone(),
            source,
        })?;
        if best.as_ref().is_none_or(|(least, _)| error < *least) {
            best = Some((error, scales));
        }
    }
    Ok(best.map(|(_, scales)| scales))
}

/// Mean magnitudes of the fold's input.
fn magnitudes(fold: &Fold, matrix: Option<usize>, inputs: &LayerInputs) -> Option<Vec<f64>> {
    let source = fold.readers.iter().map(Product::source).min_by_key(|s| s.1 != Routing::None)?;
    let own = |m: usize| inputs.get(source).get(m).filter(|i| i.moments.samples() > 0).map(Inputs::mean_magnitudes);
    match matrix {
        Some(matrix) => own(matrix),
        None if source.1 == Routing::None => own(0),
        None => inputs.shared(source).filter(|i| i.moments.samples() > 0).map(|i| i.mean_magnitudes()),
    }
}

/// Channels that come from one row have one magnitude: their mean.
fn shared_by_rows(magnitudes: &[f64], rows: &[usize]) -> Vec<f64> {
    let mut sums: HashMap<usize, (f64, f64)> = HashMap::new();
    for (magnitude, row) in magnitudes.iter().zip(rows) {
        let entry = sums.entry(*row).or_default();
        *entry = (entry.0 + magnitude, entry.1 + 1.0);
    }
    rows.iter().map(|row| sums.get(row).map_or(0.0, |(sum, n)| sum / n)).collect()
}

/// Magnitudes to a power, their extremes about 1.
fn scales(magnitudes: &[f64], power: f64) -> Vec<f32> {
    let scales: Vec<f64> = magnitudes.iter().map(|x| x.powf(power).max(LEAST_SCALE)).collect();
    let low = scales.iter().copied().fold(f64::INFINITY, f64::min);
    let high = scales.iter().copied().fold(0.0, f64::max);
    let middle = (low * high).sqrt();
    scales.iter().map(|s| (s / middle).max(LEAST_SCALE) as f32).collect()
}

/// Squared error of the products with weights rounded under the scales.
fn output_error(judged: &[Judged], scales: &[f32], cols: usize, threads: usize) -> Result<f64, ir::quant::QuantError> {
    let strips: Vec<(&Judged, &[f32])> =
        judged.iter().flat_map(|j| j.values.chunks(STRIP * cols).map(move |strip| (j, strip))).collect();
    let mut errors: Vec<Result<f64, ir::quant::QuantError>> = Vec::new();
    errors.resize_with(strips.len(), || Ok(0.0));
    for_each(strips.iter().zip(&mut errors), threads, |((judged, strip), error)| {
        *error = strip_error(judged, strip, scales, cols);
    });
    // Summed in order, whichever thread was first.
    errors.into_iter().sum()
}

fn strip_error(judged: &Judged, strip: &[f32], scales: &[f32], cols: usize) -> Result<f64, ir::quant::QuantError> {
    let group = judged.levels.group(cols);
    let mut differences = vec![0f32; strip.len()];
    let mut scaled = vec![0f32; cols];
    for (row, out) in strip.chunks_exact(cols).zip(differences.chunks_exact_mut(cols)) {
        scaled.iter_mut().zip(row.iter().zip(scales)).for_each(|(to, (w, s))| *to = w * s);
        let grids = judged.levels.full_range(&scaled)?;
        for ((out, values), grid) in out.chunks_mut(group).zip(scaled.chunks(group)).zip(grids) {
            judged.levels.differences(grid, values, out);
        }
        out.iter_mut().zip(scales).for_each(|(d, s)| *d /= s);
    }
    Ok(judged.weight * matrix::output_error(&differences, judged.sample, cols))
}
