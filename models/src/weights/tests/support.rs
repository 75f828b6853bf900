//! Checkpoints made on the spot, and small numbers decoded the slow way.

use std::fs;
use std::path::Path;

use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::source::Checkpoint;
use crate::weights::{MatrixSource, RowSelection, WeightReader, WeightSource, WeightTable};

/// A tensor to write: name, type, shape, little-endian bytes.
pub struct Written(String, Dtype, Vec<usize>, Vec<u8>);

pub fn tensor(name: &str, dtype: Dtype, shape: &[usize], bytes: Vec<u8>) -> Written {
    Written(name.into(), dtype, shape.to_vec(), bytes)
}

pub fn words(name: &str, shape: &[usize], words: &[u32]) -> Written {
    tensor(name, Dtype::I32, shape, words.iter().flat_map(|w| w.to_le_bytes()).collect())
}

pub fn floats(name: &str, shape: &[usize], values: &[f32]) -> Written {
    tensor(name, Dtype::F32, shape, values.iter().flat_map(|v| v.to_le_bytes()).collect())
}

pub fn halves(name: &str, shape: &[usize], values: &[f32]) -> Written {
    tensor(name, Dtype::F16, shape, values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect())
}

pub fn brains(name: &str, shape: &[usize], values: &[f32]) -> Written {
    tensor(name, Dtype::BF16, shape, values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect())
}

/// Writes a checkpoint and opens it. The folder lives as long as the first part.
pub fn checkpoint(quantization: Value, tensors: &[Written]) -> (TempDir, Checkpoint) {
    let folder = tempfile::tempdir().unwrap();
    let config = json!({"model_type": "llama", "quantization_config": quantization});
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let views = tensors.iter().map(|Written(name, dtype, shape, bytes)| {
        (name.clone(), TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    fs::write(folder.path().join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    (folder, checkpoint)
}

/// A golden fixture.
pub fn golden(name: &str) -> Checkpoint {
    Checkpoint::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(name)).unwrap()
}

/// All of a module's matrix.
pub fn whole(module: &str) -> MatrixSource {
    MatrixSource { module: module.into(), expert: None, rows: RowSelection::all(), transposed: false }
}

/// The values of a matrix, read in pieces of `step` rows.
pub fn values(checkpoint: &Checkpoint, source: &MatrixSource, rows: u64, step: u64) -> Vec<f32> {
    let mut table = WeightTable::default();
    table.insert("w", WeightSource::Matrix(source.clone()));
    let mut reader = WeightReader::new(checkpoint, &table).unwrap();
    let (mut all, mut part) = (Vec::new(), Vec::new());
    for first in (0..rows).step_by(step as usize) {
        reader.read_values("w", 0, first, step.min(rows - first), &mut part).unwrap();
        all.extend(&part);
    }
    all
}

/// The bytes of a vector, stack of vectors or column order.
pub fn plain(checkpoint: &Checkpoint, source: WeightSource) -> Vec<[u8; 4]> {
    let mut table = WeightTable::default();
    table.insert("v", source);
    let mut bytes = Vec::new();
    WeightReader::new(checkpoint, &table).unwrap().read_plain("v", &mut bytes).unwrap();
    bytes.chunks(4).map(|b| b.try_into().unwrap()).collect()
}

/// A whole tensor, undecoded.
pub fn raw(checkpoint: &Checkpoint, tensor: &str) -> Vec<u8> {
    let mut bytes = vec![0; checkpoint.tensor(tensor).unwrap().bytes as usize];
    checkpoint.read_bytes(tensor, 0, &mut bytes).unwrap();
    bytes
}

pub fn raw_words(checkpoint: &Checkpoint, tensor: &str) -> Vec<u32> {
    raw(checkpoint, tensor).chunks(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// A tensor of f32, f16 or bf16, told apart by its length.
pub fn raw_floats(checkpoint: &Checkpoint, tensor: &str) -> Vec<f32> {
    let bytes = raw(checkpoint, tensor);
    let two = |b: &[u8]| [b[0], b[1]];
    match checkpoint.dtype(tensor).unwrap().name() {
        "f32" => bytes.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
        "f16" => bytes.chunks(2).map(|b| f16::from_le_bytes(two(b)).to_f32()).collect(),
        "bf16" => bytes.chunks(2).map(|b| bf16::from_le_bytes(two(b)).to_f32()).collect(),
        other => panic!("{tensor} is {other}"),
    }
}

pub fn nibble(words: &[u32], word: usize, j: usize) -> f32 {
    ((words[word] >> (4 * j)) & 15) as f32
}

/// E4M3: sign, 4 bits of exponent with bias 7, 3 of mantissa.
pub fn e4m3(code: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(code >> 3 & 15), f32::from(code & 7));
    let magnitude =
        if exponent == 0 { mantissa / 8.0 * 2f32.powi(-6) } else { (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7) };
    if code & 0x80 == 0 { magnitude } else { -magnitude }
}

/// E2M1, as a table.
pub fn e2m1(code: u8) -> f32 {
    let magnitude = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0][usize::from(code & 7)];
    if code & 8 == 0 { magnitude } else { -magnitude }
}

/// A scale with few bits, so that products with small integers are exact in f32 and the scale in f16.
pub fn scales() -> impl proptest::strategy::Strategy<Value = f32> {
    use proptest::prelude::*;
    (1u32..128, -8i32..0).prop_map(|(mantissa, exponent)| mantissa as f32 / 128.0 * 2f32.powi(exponent))
}
