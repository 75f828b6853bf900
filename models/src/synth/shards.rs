//! Safetensors files of a given list of tensors, filled by all threads at once.
//!
//! The header fixes where each chunk of each tensor lies before any is drawn, so threads write to their places without
//! waiting for one another, and memory holds one chunk a thread.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde_json::{Map, Value, json};

use super::SynthError;
use super::error::at;
use super::folder::StagedFolder;
use super::storage::StoredTensor;
use super::values::{CHUNK, Element, stream};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Threads are of no use beyond what a disk takes.
const MOST_THREADS: usize = 16;

/// What filling needs to know.
pub(super) struct Filling<'a> {
    pub seed: u64,
    pub threads: usize,
    /// Told how many more bytes are written.
    pub advance: &'a (dyn Fn(u64) + Sync),
}

impl Filling<'_> {
    /// Number of threads for this machine.
    pub fn default_threads() -> usize {
        thread::available_parallelism().map_or(1, |n| n.get()).min(MOST_THREADS)
    }
}

/// Writes the tensors as `model.safetensors`, or as shards of at most `shard_bytes` with an index. Gives the number of
/// files with tensors.
pub(super) fn write(
    tensors: Vec<StoredTensor>,
    shard_bytes: u64,
    folder: &StagedFolder,
    filling: &Filling<'_>,
) -> Result<usize, SynthError> {
    let total: u64 = tensors.iter().map(StoredTensor::bytes).sum();
    let shards = divide(tensors, shard_bytes);
    let count = shards.len();
    let mut weight_map = Map::new();
    for (i, shard) in shards.into_iter().enumerate() {
        let name = match count {
            1 => SINGLE.to_owned(),
            _ => format!("model-{:05}-of-{count:05}.safetensors", i + 1),
        };
        weight_map.extend(shard.iter().map(|t| (t.name.clone(), Value::from(name.as_str()))));
        write_shard(&name, shard, folder, filling)?;
    }
    if count > 1 {
        weight_map.sort_keys();
        let index = json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
        folder.write(INDEX, &super::pretty(INDEX, &index)?)?;
    }
    Ok(count)
}

/// Cuts the list where a shard would grow too long; a longer tensor has a shard of its own.
fn divide(tensors: Vec<StoredTensor>, shard_bytes: u64) -> Vec<Vec<StoredTensor>> {
    let mut shards: Vec<Vec<StoredTensor>> = Vec::new();
    let mut length = 0u64;
    for tensor in tensors {
        let bytes = tensor.bytes();
        match shards.last_mut() {
            Some(shard) if length + bytes <= shard_bytes => {
                shard.push(tensor);
                length += bytes;
            }
            _ => {
                shards.push(vec![tensor]);
                length = bytes;
            }
        }
    }
    shards
}

fn write_shard(
    name: &str,
    mut tensors: Vec<StoredTensor>,
    folder: &StagedFolder,
    filling: &Filling<'_>,
) -> Result<(), SynthError> {
    // Wide elements first: then each tensor lies at a multiple of its element's size.
    tensors.sort_by_key(|t| std::cmp::Reverse(t.element.bytes()));
    let header = header(name, &tensors)?;
    let path = folder.path(name);
    let file = File::create_new(&path).map_err(at(&path, "create the file"))?;
    file.write_all_at(&header, 0).map_err(at(&path, "write the file"))?;
    fill(&file, header.len() as u64, &tensors, filling).map_err(at(&path, "write the file"))?;
    file.sync_all().map_err(at(&path, "sync the file"))
}

/// Length and JSON, padded with spaces to a multiple of 8.
fn header(file: &str, tensors: &[StoredTensor]) -> Result<Vec<u8>, SynthError> {
    let mut end = 0;
    let entries = tensors.iter().map(|t| {
        let start = end;
        end += t.bytes() as usize;
        let shape = t.shape.iter().map(|&d| d as usize).collect();
        (t.name.clone(), TensorInfo { dtype: dtype(t.element), shape, data_offsets: (start, end) })
    });
    let entries: Vec<_> = entries.collect();
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let metadata = Metadata::new(Some(format), entries).map_err(|e| SynthError::json(file, e))?;
    let mut text = serde_json::to_vec(&metadata).map_err(|e| SynthError::json(file, e))?;
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut header = (text.len() as u64).to_le_bytes().to_vec();
    header.append(&mut text);
    Ok(header)
}

fn dtype(element: Element) -> Dtype {
    match element {
        Element::F32 => Dtype::F32,
        Element::F16 => Dtype::F16,
        Element::BF16 => Dtype::BF16,
        Element::I32 => Dtype::I32,
        Element::I64 => Dtype::I64,
        Element::U8 => Dtype::U8,
    }
}

/// Draws every chunk and writes it to its place; the first error stops all threads.
fn fill(file: &File, start: u64, tensors: &[StoredTensor], filling: &Filling<'_>) -> std::io::Result<()> {
    let places = Places::new(start, tensors);
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let work = || {
        let mut bytes = Vec::new();
        while !failed.load(Ordering::Relaxed) {
            let Some((tensor, chunk, offset)) = places.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
            let first = chunk * CHUNK;
            let count = CHUNK.min(tensor.elements() - first);
            let mut rng = stream(filling.seed, &tensor.name, chunk);
            bytes.clear();
            tensor.fill.append(tensor.element, (first, count), &mut rng, &mut bytes);
            file.write_all_at(&bytes, offset).inspect_err(|_| failed.store(true, Ordering::Relaxed))?;
            (filling.advance)(bytes.len() as u64);
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..filling.threads.max(1)).map(|_| scope.spawn(work)).collect();
        let join = |w: thread::ScopedJoinHandle<'_, _>| w.join().unwrap_or_else(|p| std::panic::resume_unwind(p));
        // All are joined before the first error is given.
        workers.into_iter().map(join).collect::<Vec<_>>().into_iter().collect()
    })
}

/// Where each chunk of a file lies, by its number among all.
struct Places<'a> {
    tensors: &'a [StoredTensor],
    /// Per tensor: chunks and bytes before it.
    before: Vec<(usize, u64)>,
    chunks: usize,
}

impl<'a> Places<'a> {
    fn new(start: u64, tensors: &'a [StoredTensor]) -> Places<'a> {
        let (mut chunks, mut offset) = (0, start);
        let mut before = Vec::with_capacity(tensors.len());
        for tensor in tensors {
            before.push((chunks, offset));
            chunks += tensor.elements().div_ceil(CHUNK) as usize;
            offset += tensor.bytes();
        }
        Places { tensors, before, chunks }
    }

    /// The tensor, the number of the chunk in it, and the chunk's offset in the file.
    fn get(&self, chunk: usize) -> Option<(&'a StoredTensor, u64, u64)> {
        if chunk >= self.chunks {
            return None;
        }
        let at = self.before.partition_point(|(chunks, _)| *chunks <= chunk).checked_sub(1)?;
        let (chunks, offset) = self.before[at];
        let (tensor, within) = (&self.tensors[at], (chunk - chunks) as u64);
        Some((tensor, within, offset + within * CHUNK * tensor.element.bytes()))
    }
}

/// Writes a file with all tensors, of which only those of given integers are filled: the rest is a hole that takes no space.
#[cfg(test)]
pub(super) fn write_hollow(path: &std::path::Path, mut tensors: Vec<StoredTensor>) -> std::io::Result<()> {
    tensors.sort_by_key(|t| std::cmp::Reverse(t.element.bytes()));
    let header = header("hollow", &tensors).map_err(std::io::Error::other)?;
    let file = File::create_new(path)?;
    file.write_all_at(&header, 0)?;
    let mut offset = header.len() as u64;
    for tensor in &tensors {
        if let super::values::Fill::Integers(values) = &tensor.fill {
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            file.write_all_at(&bytes, offset)?;
        }
        offset += tensor.bytes();
    }
    file.set_len(offset)
}

/// Asserts that the chunks of byte tensors of these lengths lie one behind the other.
#[cfg(test)]
pub(super) fn check_tiling(lengths: &[u64]) {
    let fill = super::values::Fill::E2m1Pairs;
    let tensor =
        |n: &u64| StoredTensor { name: String::new(), element: Element::U8, shape: vec![*n], fill: fill.clone() };
    let tensors: Vec<_> = lengths.iter().map(tensor).collect();
    let places = Places::new(100, &tensors);
    let mut end = 100;
    for number in 0..places.chunks {
        let (tensor, chunk, offset) = places.get(number).expect("a chunk");
        assert_eq!(offset, end);
        end += CHUNK.min(tensor.elements() - chunk * CHUNK);
    }
    assert_eq!(end, 100 + lengths.iter().sum::<u64>());
    assert!(places.get(places.chunks).is_none());
}

#[cfg(test)]
mod tests {
    use super::super::values::Fill;
    use super::*;

    /// A file that cannot be written stands for a full disk.
    #[test]
    fn an_error_of_one_thread_ends_all() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("f");
        std::fs::write(&path, b"").expect("a file");
        let tensor = |i: u64| StoredTensor {
            name: i.to_string(),
            element: Element::U8,
            shape: vec![3 * CHUNK],
            fill: Fill::E2m1Pairs,
        };
        let tensors: Vec<_> = (0..4).map(tensor).collect();
        let advance = |_| panic!("nothing was written");
        let filling = Filling { seed: 0, threads: 3, advance: &advance };
        assert!(fill(&File::open(&path).expect("a file"), 0, &tensors, &filling).is_err());
    }
}
