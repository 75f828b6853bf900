//! Weights of a Hugging Face folder: `model.safetensors`, or shards with an index.
//!
//! The `safetensors` crate parses and validates the header; it wants the whole file in memory to check that the header
//! covers it, so that check is made here, against the file's length.

use super::tensor::{DataFile, Entry, TensorDType, TensorInfo, TensorTable};
use crate::ModelError;
use crate::config::read_file;
use ::safetensors::Dtype;
use ::safetensors::tensor::Metadata;
use ir::types::DType;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Length of the field that holds the header's length.
const PREFIX: u64 = 8;

/// Longest header accepted, the limit of the format's own library.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Longest index accepted.
const MAX_INDEX_BYTES: u64 = 64 << 20;

/// Whether a folder has weights of this kind.
pub(super) fn is_present(folder: &Path) -> bool {
    folder.join(SINGLE).is_file() || folder.join(INDEX).is_file()
}

/// Opens the weights of a folder. The single file wins over the index, as in Hugging Face transformers.
pub(super) fn open(folder: &Path) -> Result<(Vec<DataFile>, TensorTable), ModelError> {
    let mut files = Vec::new();
    let mut table = TensorTable::default();
    if folder.join(SINGLE).is_file() {
        add_file(&folder.join(SINGLE), &mut files, &mut table)?;
        return Ok((files, table));
    }
    let index = Index::read(&folder.join(INDEX))?;
    let shards: BTreeSet<&str> = index.weight_map.values().map(String::as_str).collect();
    for shard in shards {
        let path = folder.join(shard);
        if !path.is_file() {
            let problem = format!("names the shard {shard}, which is not in the folder; download it");
            return Err(ModelError::json(&folder.join(INDEX), problem));
        }
        add_file(&path, &mut files, &mut table)?;
    }
    index.check(&folder.join(INDEX), &files, &table)?;
    Ok((files, table))
}

/// `model.safetensors.index.json`.
#[derive(Deserialize)]
struct Index {
    /// Tensor name to file name.
    weight_map: BTreeMap<String, String>,
}

impl Index {
    fn read(path: &Path) -> Result<Index, ModelError> {
        let json = |problem: String| ModelError::json(path, problem);
        let index: Index =
            serde_json::from_slice(&read_file(path, MAX_INDEX_BYTES)?).map_err(|e| json(e.to_string()))?;
        if let Some(name) = index.weight_map.values().find(|name| !is_plain_name(name)) {
            return Err(json(format!("weight_map names {name:?}; a shard must be a plain file name, not a path")));
        }
        Ok(index)
    }

    /// Every tensor must be in the shard the index names.
    fn check(&self, path: &Path, files: &[DataFile], table: &TensorTable) -> Result<(), ModelError> {
        for (tensor, shard) in &self.weight_map {
            let found = table.get(tensor).is_some_and(|e| files[e.file].path.file_name() == Some(shard.as_ref()));
            if !found {
                return Err(ModelError::tensor(
                    path,
                    tensor,
                    format!("is not in {shard}, where weight_map places it; download the shards again"),
                ));
            }
        }
        Ok(())
    }
}

/// Whether `name` names an entry of a folder: no separator, no `..`, not absolute.
fn is_plain_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    let single = matches!((parts.next(), parts.next()), (Some(Component::Normal(part)), None) if part == name);
    single && !name.contains(['/', '\\', '\0', ':'])
}

/// Adds one file's tensors to the table.
fn add_file(path: &Path, files: &mut Vec<DataFile>, table: &mut TensorTable) -> Result<(), ModelError> {
    let file = DataFile::open(path)?;
    let (start, header) = read_header(&file)?;
    for (name, tensor) in header.tensors() {
        let (begin, end) = (tensor.data_offsets.0 as u64, tensor.data_offsets.1 as u64);
        let shape = tensor.shape.iter().map(|&d| d as u64).collect();
        let info = TensorInfo { name, dtype: map_dtype(tensor.dtype), shape, bytes: end - begin };
        let entry = Entry { info, file: files.len(), offset: start + begin };
        if let Err(entry) = table.insert(entry) {
            let problem = "stands in two shards; keep the files of one model version only";
            return Err(ModelError::tensor(path, &entry.info.name, problem));
        }
    }
    files.push(file);
    Ok(())
}

/// The header and the offset where data starts. On return, all data offsets lie in the file.
fn read_header(file: &DataFile) -> Result<(u64, Metadata), ModelError> {
    let wrong = |problem: String| ModelError::malformed(&file.path, "header", problem);
    if file.len < PREFIX {
        return Err(wrong(format!("the file has {} bytes, too few for a safetensors file", file.len)));
    }
    let mut prefix = [0; PREFIX as usize];
    file.read_at(&mut prefix, 0)?;
    let len = u64::from_le_bytes(prefix);
    if len > MAX_HEADER_BYTES || len > file.len - PREFIX {
        return Err(wrong(format!("claims a length of {len} bytes, but the file has {}", file.len)));
    }
    let mut text = vec![0; len as usize];
    file.read_at(&mut text, PREFIX)?;
    let header: Metadata = serde_json::from_slice(&text).map_err(|e| wrong(e.to_string()))?;
    let data = header.tensors().values().map(|t| t.data_offsets.1 as u64).max().unwrap_or(0);
    let expected = data.checked_add(PREFIX + len);
    if expected != Some(file.len) {
        let expected = expected.map_or("more than 2^64".to_owned(), |n| n.to_string());
        return Err(wrong(format!("describes a file of {expected} bytes, but the file has {}", file.len)));
    }
    Ok((PREFIX + len, header))
}

fn map_dtype(dtype: Dtype) -> TensorDType {
    match dtype {
        Dtype::F32 => TensorDType::Known(DType::F32),
        Dtype::F16 => TensorDType::Known(DType::F16),
        Dtype::BF16 => TensorDType::Known(DType::BF16),
        Dtype::I32 => TensorDType::Known(DType::I32),
        other => TensorDType::Other(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::is_plain_name;

    #[test]
    fn shard_names_are_never_paths() {
        assert!(is_plain_name("model-00001-of-00002.safetensors"));
        for bad in ["", ".", "..", "/etc/passwd", "../x", "a/b", "a\\b", "./a", "a/", "c:x", "a\0b"] {
            assert!(!is_plain_name(bad), "{bad:?}");
        }
    }
}
