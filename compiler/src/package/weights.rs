//! Writes weights into safetensors files in the target's packed layout, a few times 16 rows at a time.
//!
//! Sizes are known before any tensor is read, so the header is written first and memory stays bounded by one chunk however
//! large the model. Matrices come first, each a multiple of its layout's alignment, so that with the padded header every
//! panel or tile is aligned in the mapped file; what no product reads follows as plain f32 or i32. A stack of matrices is
//! its matrices one after the other.

use std::collections::HashSet;

use ir::graph::{Graph, Node, NodeKind, ValueId};
use ir::op::Op;
use ir::quant::{self, PANEL_ROWS};
use ir::types::{DType, Dim};
use runtime::artifact::{Layout, WeightInfo};
use serde_json::{Map, Value, json};

use crate::quantise::{QuantiseError, WeightRows};
use crate::target::Target;

use super::staging::{StagedFile, Staging, WriteError};

/// Most bytes of one weights file.
const SHARD_BYTES: u64 = 4 << 30;

/// Bytes of packed data made at a time.
const CHUNK_BYTES: usize = 2 << 20;

/// Why weights could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// A weight could not be read or quantised.
    #[error(transparent)]
    Rows(#[from] QuantiseError),
    /// A file could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A tensor's bytes do not fit its format.
    #[error("tensor {name}: {source}")]
    Format {
        /// The tensor.
        name: String,
        /// What does not fit.
        source: quant::QuantError,
    },
    /// A tensor is too large or has no fixed shape.
    #[error("tensor {name}: a weight of type {ty} and this shape cannot be packed")]
    Shape {
        /// The tensor.
        name: String,
        /// Its element type.
        ty: DType,
    },
}

/// The layout in which the devices of a target take matrices.
pub fn packed_layout(target: Target) -> Layout {
    match target {
        Target::Cpu => Layout::Rows16,
        Target::Cuda(_) => Layout::Fragments,
    }
}

/// Writes every weight and constant of the graph, matrices in the layout `packed`; gives their table. `advance` is told the
/// bytes written.
pub fn write_weights(
    graph: &Graph,
    packed: Layout,
    rows: &mut dyn WeightRows,
    staging: &mut Staging,
    advance: &dyn Fn(u64),
) -> Result<Vec<WeightInfo>, WeightsError> {
    let mut table = weight_table(graph, packed)?;
    for name in &assign_shards(&mut table) {
        let members: Vec<&(usize, WeightInfo)> = table.iter().filter(|(_, w)| w.file == *name).collect();
        let mut file = staging.file(name)?;
        file.write(&header(members.iter().map(|(_, w)| w)))?;
        for (node, weight) in members {
            write_weight(&graph.nodes[*node], weight, rows, &mut file, advance)?;
        }
        staging.close(file)?;
    }
    Ok(table.into_iter().map(|(_, w)| w).collect())
}

/// Bytes that [`write_weights`] will report.
pub fn total_bytes(graph: &Graph, packed: Layout) -> Result<u64, WeightsError> {
    Ok(weight_table(graph, packed)?.iter().map(|(_, w)| w.bytes).sum())
}

/// Weights and constants with their node index, matrices in the layout `packed` first.
pub(crate) fn weight_table(graph: &Graph, packed: Layout) -> Result<Vec<(usize, WeightInfo)>, WeightsError> {
    let (mut table, matrices) = (Vec::new(), packed_operands(graph));
    for (value, node) in graph.values() {
        if matches!(node.kind, NodeKind::Weight | NodeKind::Constant(_)) {
            let layout = if matrices.contains(&value) { packed } else { Layout::Plain };
            table.push((value.index(), describe(node, layout)?));
        }
    }
    table.sort_by_key(|(_, w)| w.layout == Layout::Plain);
    Ok(table)
}

/// What products and look-ups read: the operands that kernels expect packed.
fn packed_operands(graph: &Graph) -> HashSet<ValueId> {
    let operand = |node: &Node| match node.op()? {
        Op::Embedding => node.operands().first().copied(),
        Op::Matmul | Op::HeadMatmul | Op::GroupedMatmul => node.operands().get(1).copied(),
        _ => None,
    };
    graph.nodes.iter().filter_map(operand).collect()
}

fn describe(node: &Node, layout: Layout) -> Result<WeightInfo, WeightsError> {
    let fail = || WeightsError::Shape { name: node.name.clone(), ty: node.ty.dtype };
    let shape: Option<Vec<u64>> =
        node.ty.shape.iter().map(|d| if let Dim::Const(n) = d { Some(*n) } else { None }).collect();
    let shape = shape.ok_or_else(fail)?;
    let bytes = layout.bytes(node.ty.dtype, &shape);
    Ok(WeightInfo {
        name: node.name.clone(),
        dtype: node.ty.dtype.name().into(),
        layout,
        shape,
        file: String::new(),
        bytes: bytes.ok_or_else(fail)?,
    })
}

/// Fills files in order; gives their names.
fn assign_shards(table: &mut [(usize, WeightInfo)]) -> Vec<String> {
    let (mut names, mut used) = (Vec::new(), u64::MAX);
    for (_, weight) in table {
        if used.saturating_add(weight.bytes) > SHARD_BYTES {
            names.push(format!("weights-{:05}.safetensors", names.len() + 1));
            used = 0;
        }
        used += weight.bytes;
        weight.file = names.last().cloned().unwrap_or_default();
    }
    names
}

/// A safetensors header, blank-padded so that data starts at a multiple of 256.
fn header<'a>(weights: impl Iterator<Item = &'a WeightInfo>) -> Vec<u8> {
    let (mut entries, mut offset) = (Map::new(), 0);
    for w in weights {
        let (dtype, shape) = match w.layout {
            Layout::Rows16 | Layout::Fragments => ("U8", vec![w.bytes]),
            Layout::Plain if w.dtype == DType::I32.name() => ("I32", w.shape.clone()),
            Layout::Plain => ("F32", w.shape.clone()),
        };
        let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + w.bytes]});
        entries.insert(w.name.clone(), entry);
        offset += w.bytes;
    }
    let mut text = Value::Object(entries).to_string().into_bytes();
    text.resize((text.len() + 8).next_multiple_of(256) - 8, b' ');
    let mut out = (text.len() as u64).to_le_bytes().to_vec();
    out.append(&mut text);
    out
}

fn write_weight(
    node: &Node,
    weight: &WeightInfo,
    rows: &mut dyn WeightRows,
    file: &mut StagedFile,
    advance: &dyn Fn(u64),
) -> Result<(), WeightsError> {
    if weight.layout.is_packed() {
        return write_matrices(node.ty.dtype, weight, rows, file, advance);
    }
    let mut bytes = Vec::new();
    match &node.kind {
        NodeKind::Constant(values) => bytes.extend(values.iter().flat_map(|v| v.to_le_bytes())),
        _ => rows.plain(&weight.name, &mut bytes)?,
    }
    file.write(&bytes)?;
    advance(weight.bytes);
    Ok(())
}

/// A matrix, or one after the other of a stack, panels or tiles at a time.
fn write_matrices(
    dtype: DType,
    weight: &WeightInfo,
    source: &mut dyn WeightRows,
    file: &mut StagedFile,
    advance: &dyn Fn(u64),
) -> Result<(), WeightsError> {
    let fail = || WeightsError::Shape { name: weight.name.clone(), ty: dtype };
    let (matrices, rows, cols) = match weight.shape.as_slice() {
        [rows, cols] => (1, *rows, *cols as usize),
        [matrices, rows, cols] => (*matrices, *rows, *cols as usize),
        _ => return Err(fail()),
    };
    let pack = match weight.layout {
        Layout::Fragments => quant::fragments::pack,
        _ => quant::pack,
    };
    let panel_bytes = weight.layout.bytes(dtype, &[PANEL_ROWS as u64, cols as u64]).ok_or_else(fail)? as usize;
    let chunk_rows = ((CHUNK_BYTES / panel_bytes.max(1)).max(1) * PANEL_ROWS) as u64;
    let (mut raw, mut packed) = (Vec::new(), Vec::new());
    for matrix in 0..matrices {
        for first in (0..rows).step_by(chunk_rows as usize) {
            let count = chunk_rows.min(rows - first);
            packed.resize((count as usize).div_ceil(PANEL_ROWS) * panel_bytes, 0);
            source.rows(&weight.name, matrix, first, count, &mut raw)?;
            pack(dtype, &raw, count as usize, cols, &mut packed)
                .map_err(|source| WeightsError::Format { name: weight.name.clone(), source })?;
            file.write(&packed)?;
            advance(packed.len() as u64);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
