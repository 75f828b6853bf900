//! GGUF, versions 2 and 3, little-endian.
//!
//! Layout: magic, version, number of tensors and of metadata pairs, the pairs, the tensor table, padding to the alignment,
//! data. The parser is small enough to be written out with checked arithmetic, and so needs no trust in a wrapped one. It
//! reads the header through a buffer, once; tensor data is not touched.

mod metadata;
mod reader;
mod types;

pub use self::metadata::{Array, GgufMetadata, ScalarKind, Scalars, StringArray, Value};
pub(super) use self::types::supported_types;

use self::reader::HeaderReader;
use self::types::GgmlType;
use super::tensor::{DataFile, Entry, TensorDType, TensorInfo, TensorTable, elements};
use crate::ModelError;
use std::collections::BTreeMap;
use std::io::Read;

/// Alignment of data where `general.alignment` is absent.
const DEFAULT_ALIGNMENT: u64 = 32;

/// Longest key or tensor name.
const MAX_NAME_BYTES: usize = 65_535;

/// Deepest nesting of arrays.
const MAX_DEPTH: u32 = 4;

/// Most dimensions of a tensor.
const MAX_DIMS: u32 = 4;

/// Fewest bytes of a metadata pair: key length, type, value.
const MIN_PAIR_BYTES: u64 = 8 + 4 + 1;

/// Fewest bytes of a tensor's entry: name length, number of dimensions, type, offset.
const MIN_TENSOR_BYTES: u64 = 8 + 4 + 4 + 8;

/// Opens a GGUF file and reads its header.
pub(super) fn open(path: &std::path::Path) -> Result<(DataFile, GgufMetadata, TensorTable), ModelError> {
    let file = DataFile::open(path)?;
    let mut reader = HeaderReader::new(file.reader(), path, file.len);
    let (n_tensors, n_pairs) = read_counts(&mut reader)?;
    let metadata = GgufMetadata::new(path, read_pairs(&mut reader, n_pairs)?);
    if metadata.opt_u64("split.count", 0..=u64::MAX)?.unwrap_or(1) > 1 {
        return Err(ModelError::Unsupported {
            file: path.into(),
            what: "a model split over several GGUF files (key split.count)".into(),
            instead: "merge them first with llama-gguf-split --merge".into(),
        });
    }
    let mut entries = read_tensors(&mut reader, n_tensors)?;
    let alignment = alignment(&metadata)?;
    let data = reader.position().next_multiple_of(alignment);
    drop(reader);
    let table = place(&file, &mut entries, data, alignment)?;
    Ok((file, metadata, table))
}

/// Magic, version and counts.
fn read_counts<R: Read>(reader: &mut HeaderReader<'_, R>) -> Result<(u64, u64), ModelError> {
    let path = reader.path();
    if reader.array::<4>("magic")? != *b"GGUF" {
        let problem = "does not begin with the magic of a GGUF file".to_owned();
        return Err(ModelError::NotACheckpoint { path: path.into(), problem });
    }
    let version = reader.u32("version")?;
    let unsupported = |what: String| ModelError::Unsupported {
        file: path.into(),
        what,
        instead: "convert the model again with a current llama.cpp on a little-endian machine".into(),
    };
    match version {
        2 | 3 => Ok((reader.u64("number of tensors")?, reader.u64("number of metadata pairs")?)),
        v if v & 0xffff == 0 && v != 0 => Err(unsupported("big-endian GGUF".to_owned())),
        v => Err(unsupported(format!("GGUF version {v} (2 and 3 are)"))),
    }
}

fn read_pairs<R: Read>(reader: &mut HeaderReader<'_, R>, count: u64) -> Result<BTreeMap<String, Value>, ModelError> {
    reader.fits("number of metadata pairs", count, MIN_PAIR_BYTES)?;
    let mut values = BTreeMap::new();
    for i in 0..count {
        let key = read_name(reader, || format!("key of metadata pair {i}"))?;
        let at = format!("key {key}");
        let kind = reader.u32(&at)?;
        let value = read_value(reader, &at, kind)?;
        if values.insert(key, value).is_some() {
            return Err(reader.wrong(at, "stands in the file twice"));
        }
    }
    Ok(values)
}

fn read_name<R: Read>(reader: &mut HeaderReader<'_, R>, at: impl Fn() -> String) -> Result<String, ModelError> {
    let name = reader.string(&at())?;
    if name.is_empty() || name.len() > MAX_NAME_BYTES || name.contains(char::is_control) {
        return Err(reader.wrong(at(), format!("must have 1 to {MAX_NAME_BYTES} bytes and no control characters")));
    }
    Ok(name)
}

const TYPE_STRING: u32 = 8;
const TYPE_ARRAY: u32 = 9;

/// The scalar type of this number; strings and arrays are none.
fn scalar_kind(kind: u32) -> Option<ScalarKind> {
    use ScalarKind::*;
    Some(match kind {
        0 => U8,
        1 => I8,
        2 => U16,
        3 => I16,
        4 => U32,
        5 => I32,
        6 => F32,
        7 => Bool,
        10 => U64,
        11 => I64,
        12 => F64,
        _ => return None,
    })
}

fn read_value<R: Read>(reader: &mut HeaderReader<'_, R>, at: &str, kind: u32) -> Result<Value, ModelError> {
    match (kind, scalar_kind(kind)) {
        (TYPE_STRING, _) => Ok(Value::String(reader.string(at)?)),
        (TYPE_ARRAY, _) => Ok(Value::Array(read_array(reader, at, MAX_DEPTH)?)),
        (_, Some(scalar)) => {
            let raw = reader.bytes(at, 1, scalar.bytes())?;
            scalar.decode(&raw).ok_or_else(|| reader.wrong(at, "a truth value must be 0 or 1"))
        }
        _ => Err(reader.wrong(at, format!("has the unknown value type {kind}"))),
    }
}

/// An array that may nest `depth` levels, itself included.
fn read_array<R: Read>(reader: &mut HeaderReader<'_, R>, at: &str, depth: u32) -> Result<Array, ModelError> {
    if depth == 0 {
        return Err(reader.wrong(at, format!("nests arrays more than {MAX_DEPTH} deep")));
    }
    let kind = reader.u32(at)?;
    let count = reader.u64(at)?;
    match (kind, scalar_kind(kind)) {
        (TYPE_STRING, _) => Ok(Array::Strings(read_strings(reader, at, count)?)),
        (TYPE_ARRAY, _) => {
            const MIN_ARRAY_BYTES: u64 = 4 + 8;
            reader.fits(at, count, MIN_ARRAY_BYTES)?;
            (0..count).map(|_| read_array(reader, at, depth - 1)).collect::<Result<_, _>>().map(Array::Nested)
        }
        (_, Some(kind)) => Ok(Array::Scalars(Scalars { kind, raw: reader.bytes(at, count, kind.bytes())? })),
        _ => Err(reader.wrong(at, format!("is an array of the unknown value type {kind}"))),
    }
}

fn read_strings<R: Read>(reader: &mut HeaderReader<'_, R>, at: &str, count: u64) -> Result<StringArray, ModelError> {
    const MIN_STRING_BYTES: u64 = 8;
    let count = reader.fits(at, count, MIN_STRING_BYTES)?;
    let mut text = Vec::new();
    let mut ends = Vec::with_capacity(count);
    for _ in 0..count {
        reader.append_string(at, &mut text)?;
        // The header's size limit keeps this below 2^32.
        ends.push(text.len() as u32);
    }
    text.shrink_to_fit();
    let strings = String::from_utf8(text).ok().and_then(|text| StringArray::new(text, ends));
    strings.ok_or_else(|| reader.wrong(at, "holds a string that is not valid UTF-8"))
}

/// A row of the tensor table, with its offset relative to the data.
struct RawTensor {
    info: TensorInfo,
    offset: u64,
}

fn read_tensors<R: Read>(reader: &mut HeaderReader<'_, R>, count: u64) -> Result<Vec<RawTensor>, ModelError> {
    let count = reader.fits("number of tensors", count, MIN_TENSOR_BYTES)?;
    let mut tensors = Vec::new();
    for i in 0..count {
        let name = read_name(reader, || format!("name of tensor {i}"))?;
        tensors.push(read_tensor(reader, name)?);
    }
    Ok(tensors)
}

fn read_tensor<R: Read>(reader: &mut HeaderReader<'_, R>, name: String) -> Result<RawTensor, ModelError> {
    let at = format!("tensor {name}");
    let n_dims = reader.u32(&at)?;
    if n_dims > MAX_DIMS {
        return Err(reader.wrong(at, format!("has {n_dims} dimensions, at most {MAX_DIMS} are possible")));
    }
    // The file has the innermost dimension first.
    let mut shape = (0..n_dims).map(|_| reader.u64(&at)).collect::<Result<Vec<u64>, _>>()?;
    shape.reverse();
    let type_id = reader.u32(&at)?;
    let offset = reader.u64(&at)?;
    let (dtype, bytes) = extent(type_id, &shape).map_err(|problem| reader.wrong(&at, problem))?;
    Ok(RawTensor { info: TensorInfo { name, dtype, shape, bytes }, offset })
}

/// Type and length in bytes of a tensor; a type that is not in the table has length 0, as it cannot be read anyway.
fn extent(type_id: u32, shape: &[u64]) -> Result<(TensorDType, u64), String> {
    let count = elements(shape).ok_or_else(|| format!("has more than 2^64 elements: {shape:?}"))?;
    if count == 0 {
        return Err(format!("has a dimension of 0: {shape:?}"));
    }
    let Some(kind) = GgmlType::find(type_id) else {
        return Ok((TensorDType::Other(format!("number {type_id}")), 0));
    };
    let row = shape.last().copied().unwrap_or(1);
    if row % kind.block != 0 {
        return Err(format!("has rows of {row} elements, no multiple of {}'s block of {}", kind.dtype(), kind.block));
    }
    let bytes = (count / kind.block).checked_mul(kind.bytes).ok_or("has more than 2^64 bytes")?;
    Ok((kind.dtype(), bytes))
}

fn alignment(metadata: &GgufMetadata) -> Result<u64, ModelError> {
    const KEY: &str = "general.alignment";
    match metadata.opt_u64(KEY, 0..=u64::MAX)? {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(n) if n.is_power_of_two() && n <= 1 << 30 => Ok(n),
        Some(_) => Err(metadata.wrong(KEY, "a power of two, at most 2^30")),
    }
}

/// Checks that the tensors lie aligned, in the file and apart from each other, and builds the table.
fn place(file: &DataFile, tensors: &mut Vec<RawTensor>, data: u64, alignment: u64) -> Result<TensorTable, ModelError> {
    tensors.sort_by_key(|t| t.offset);
    let mut table = TensorTable::default();
    let mut free = 0;
    for RawTensor { info, offset } in tensors.drain(..) {
        let wrong = |problem: String| ModelError::malformed(&file.path, format!("tensor {}", info.name), problem);
        if offset % alignment != 0 {
            return Err(wrong(format!("its offset {offset} is no multiple of the alignment {alignment}")));
        }
        let span = data.checked_add(offset).and_then(|start| Some((start, start.checked_add(info.bytes)?)));
        let Some((start, _)) = span.filter(|&(_, end)| end <= file.len) else {
            let (len, bytes) = (file.len, info.bytes);
            return Err(wrong(format!("its {bytes} bytes at {data}+{offset} end past the file's {len} bytes")));
        };
        if offset < free {
            return Err(wrong(format!("its data at {offset} overlaps another tensor's, which ends at {free}")));
        }
        free = offset + info.bytes;
        if let Err(entry) = table.insert(Entry { info, file: 0, offset: start }) {
            return Err(ModelError::tensor(&file.path, &entry.info.name, "stands in the tensor table twice"));
        }
    }
    Ok(table)
}
