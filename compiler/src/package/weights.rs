//! Writes weights into safetensors files in the packed layout, a few panels at a time.
//!
//! Sizes are known before any tensor is read, so the header is written first and memory stays bounded by one chunk however
//! large the model. Matrices come first, each a multiple of 64 bytes, so that with the padded header every panel is
//! aligned in the mapped file; vectors follow as plain f32.

use ir::graph::{Graph, Node, NodeKind};
use ir::quant;
use ir::types::{DType, Dim};
use models::{Checkpoint, ModelError};
use runtime::artifact::{Layout, WeightInfo};
use serde_json::{Map, Value, json};

use super::staging::{StagedFile, Staging, WriteError};

/// Most bytes of one weights file.
const SHARD_BYTES: u64 = 4 << 30;

/// Bytes of packed data made at a time.
const CHUNK_BYTES: usize = 2 << 20;

/// Why weights could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// The checkpoint could not be read.
    #[error(transparent)]
    Model(#[from] ModelError),
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

/// Writes every weight and constant of the graph; gives their table. `advance` is told the bytes written.
pub fn write_weights(
    graph: &Graph,
    checkpoint: &Checkpoint,
    staging: &mut Staging,
    advance: &dyn Fn(u64),
) -> Result<Vec<WeightInfo>, WeightsError> {
    let mut table = weight_table(graph)?;
    for name in &assign_shards(&mut table) {
        let members: Vec<&(usize, WeightInfo)> = table.iter().filter(|(_, w)| w.file == *name).collect();
        let mut file = staging.file(name)?;
        file.write(&header(members.iter().map(|(_, w)| w)))?;
        for (node, weight) in members {
            write_weight(&graph.nodes[*node], weight, checkpoint, &mut file, advance)?;
        }
        staging.close(file)?;
    }
    Ok(table.into_iter().map(|(_, w)| w).collect())
}

/// Bytes that [`write_weights`] will report.
pub fn total_bytes(graph: &Graph) -> Result<u64, WeightsError> {
    Ok(weight_table(graph)?.iter().map(|(_, w)| w.bytes).sum())
}

/// Weights and constants with their node index, packed matrices first.
fn weight_table(graph: &Graph) -> Result<Vec<(usize, WeightInfo)>, WeightsError> {
    let mut table = Vec::new();
    for (value, node) in graph.values() {
        if matches!(node.kind, NodeKind::Weight | NodeKind::Constant(_)) {
            table.push((value.index(), describe(node)?));
        }
    }
    table.sort_by_key(|(_, w)| w.layout == Layout::Plain);
    Ok(table)
}

fn describe(node: &Node) -> Result<WeightInfo, WeightsError> {
    let fail = || WeightsError::Shape { name: node.name.clone(), ty: node.ty.dtype };
    let shape: Option<Vec<u64>> =
        node.ty.shape.iter().map(|d| if let Dim::Const(n) = d { Some(*n) } else { None }).collect();
    let shape = shape.ok_or_else(fail)?;
    let (layout, bytes) = match shape.as_slice() {
        [rows, cols] => (Layout::Rows16, quant::packed_bytes(node.ty.dtype, *rows, *cols)),
        [_] if node.ty.dtype == DType::F32 => (Layout::Plain, node.ty.bytes(&[])),
        _ => return Err(fail()),
    };
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
            Layout::Rows16 => ("U8", vec![w.bytes]),
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
    checkpoint: &Checkpoint,
    file: &mut StagedFile,
    advance: &dyn Fn(u64),
) -> Result<(), WeightsError> {
    match (&node.kind, weight.layout) {
        (NodeKind::Constant(values), _) => {
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            file.write(&bytes)?;
            advance(weight.bytes);
            Ok(())
        }
        (_, Layout::Plain) => write_vector(weight, checkpoint, file, advance),
        (_, Layout::Rows16) => write_matrix(node.ty.dtype, weight, checkpoint, file, advance),
    }
}

/// A vector, widened to f32.
fn write_vector(
    weight: &WeightInfo,
    checkpoint: &Checkpoint,
    file: &mut StagedFile,
    advance: &dyn Fn(u64),
) -> Result<(), WeightsError> {
    let mut raw = Vec::new();
    checkpoint.read(&weight.name, &mut raw)?;
    let len = weight.shape[0] as usize;
    let mut values = vec![0f32; len];
    quant::dequantize(checkpoint.dtype(&weight.name)?, &raw, len, &mut values)
        .map_err(|source| WeightsError::Format { name: weight.name.clone(), source })?;
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    file.write(&bytes)?;
    advance(weight.bytes);
    Ok(())
}

/// A matrix, panels at a time.
fn write_matrix(
    dtype: DType,
    weight: &WeightInfo,
    checkpoint: &Checkpoint,
    file: &mut StagedFile,
    advance: &dyn Fn(u64),
) -> Result<(), WeightsError> {
    let (rows, cols) = (weight.shape[0] as usize, weight.shape[1] as usize);
    let fail = || WeightsError::Shape { name: weight.name.clone(), ty: dtype };
    let row_bytes = quant::row_bytes(dtype, cols as u64).ok_or_else(fail)? as usize;
    let panel_bytes = quant::format(dtype).ok_or_else(fail)?.panel_bytes(cols);
    let chunk_rows = (CHUNK_BYTES / panel_bytes).max(1) * quant::PANEL_ROWS;
    let (mut raw, mut packed) = (Vec::new(), Vec::new());
    for first in (0..rows).step_by(chunk_rows) {
        let count = chunk_rows.min(rows - first);
        raw.resize(count * row_bytes, 0);
        packed.resize(count.div_ceil(quant::PANEL_ROWS) * panel_bytes, 0);
        checkpoint.read_range(&weight.name, (first * row_bytes) as u64, &mut raw)?;
        quant::pack(dtype, &raw, count, cols, &mut packed)
            .map_err(|source| WeightsError::Format { name: weight.name.clone(), source })?;
        file.write(&packed)?;
        advance(packed.len() as u64);
    }
    Ok(())
}
