//! Weights in their safetensors files, mapped into memory.
//!
//! A mapping costs nothing until a page is touched and its pages are shared between processes. Its price: whoever
//! truncates the file while it is mapped ends this process, so files are held open and their lengths are looked at around
//! every step ([`WeightStore::check_lengths`]). Reading into memory instead costs the time and the memory of a copy.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use ir::types::DType;
use memmap2::{Mmap, MmapMut};
use safetensors::Dtype;
use safetensors::tensor::Metadata;

use super::error::{ArtifactError, Fault};
use super::folder::Folder;
use super::manifest::{Layout, MANIFEST_FILE, Manifest, WeightInfo};

/// Bytes of the header length at the start of a safetensors file.
const LENGTH_BYTES: usize = 8;

/// Largest header that is read.
const MAX_HEADER: usize = 100 << 20;

/// One weights file.
struct WeightFile {
    path: PathBuf,
    content: Mmap,
    /// Kept to see the file shrink; absent when the content was copied.
    file: Option<File>,
}

/// All weights of an artifact, by name.
pub(super) struct WeightStore {
    files: Vec<WeightFile>,
    /// File index and byte range.
    places: HashMap<String, (usize, std::ops::Range<usize>)>,
}

impl WeightStore {
    /// Maps (or reads) every weights file and finds each weight in it. Files have been checked for length.
    pub fn open(folder: &Folder, manifest: &Manifest, mmap: bool) -> Result<WeightStore, ArtifactError> {
        let mut store = WeightStore { files: Vec::new(), places: HashMap::new() };
        let mut headers: HashMap<&str, (usize, Metadata, usize)> = HashMap::new();
        for (i, weight) in manifest.weights.iter().enumerate() {
            let field = format!("weights[{i}] {:?}", weight.name);
            check_weight(weight).map_err(|f| f.at(&folder.join(MANIFEST_FILE), &field))?;
            if !headers.contains_key(weight.file.as_str()) {
                let header = store.add_file(folder, manifest, weight, mmap, &field)?;
                headers.insert(&weight.file, header);
            }
            let (index, metadata, data) = &headers[weight.file.as_str()];
            let range = locate(weight, metadata, *data).map_err(|f| f.at(&folder.join(&weight.file), &field))?;
            if store.places.insert(weight.name.clone(), (*index, range)).is_some() {
                return Err(Fault::Invalid("the name is taken".into()).at(&folder.join(MANIFEST_FILE), field));
            }
        }
        Ok(store)
    }

    /// Maps a file; gives its index, its header and where its data starts.
    fn add_file(
        &mut self,
        folder: &Folder,
        manifest: &Manifest,
        weight: &WeightInfo,
        mmap: bool,
        field: &str,
    ) -> Result<(usize, Metadata, usize), ArtifactError> {
        let unlisted = || Fault::Unlisted(weight.file.clone()).at(&folder.join(MANIFEST_FILE), field);
        let info = manifest.files.get(&weight.file).ok_or_else(unlisted)?;
        let file = folder.open_listed(&weight.file, info, false)?;
        let path = folder.join(&weight.file);
        let content = load(&file, info.bytes, mmap).map_err(|f| f.at(&path, ""))?;
        let (metadata, data) = read_header(&content).map_err(|f| f.at(&path, ""))?;
        self.files.push(WeightFile { path, content, file: mmap.then_some(file) });
        Ok((self.files.len() - 1, metadata, data))
    }

    /// The bytes of a weight.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        let (file, range) = self.places.get(name)?;
        self.files[*file].content.get(range.clone())
    }

    /// The content of each file, its header included.
    pub fn files(&self) -> impl Iterator<Item = &[u8]> {
        self.files.iter().map(|file| &file.content[..])
    }

    /// The file of a weight, by index, and its first byte there.
    pub fn place(&self, name: &str) -> Option<(usize, u64)> {
        let (file, range) = self.places.get(name)?;
        Some((*file, range.start as u64))
    }

    /// Fails if a mapped file is no longer as long as its mapping: what was read from it is then worth nothing.
    pub fn check_lengths(&self) -> Result<(), ArtifactError> {
        self.files.iter().try_for_each(|f| {
            let Some(file) = &f.file else { return Ok(()) };
            let expected = f.content.len() as u64;
            match file.metadata() {
                Ok(meta) if meta.len() == expected => Ok(()),
                Ok(meta) => Err(Fault::Length { expected, found: meta.len() }.at(&f.path, "")),
                Err(source) => Err(Fault::Io { action: "read the file's length", source }.at(&f.path, "")),
            }
        })
    }
}

/// The content of a file of known length.
fn load(file: &File, len: u64, mmap: bool) -> Result<Mmap, Fault> {
    let size = usize::try_from(len).map_err(|_| Fault::Invalid("larger than the address space".into()))?;
    if mmap {
        // SAFETY: the file is only read. Another process may still write to or truncate it: a write gives wrong numbers,
        // never a wrong address, as all addresses come from the checked header; truncation is looked for around each step.
        let map = unsafe { memmap2::MmapOptions::new().len(size).map(file) };
        return map.map_err(Fault::io("map the file into memory"));
    }
    let mut copy = MmapMut::map_anon(size).map_err(Fault::io("allocate memory for the file"))?;
    file.read_exact_at(&mut copy, 0).map_err(Fault::io("read the file"))?;
    copy.make_read_only().map_err(Fault::io("protect the file's copy"))
}

/// The header of a safetensors file and where the data starts.
fn read_header(content: &[u8]) -> Result<(Metadata, usize), Fault> {
    let fail = |what: &str| Fault::Header(what.into());
    let length = content.first_chunk::<LENGTH_BYTES>().ok_or_else(|| fail("the file is shorter than 8 bytes"))?;
    let length = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX);
    if length > MAX_HEADER || length > content.len() - LENGTH_BYTES {
        return Err(fail("its length field exceeds the file or 100 MiB"));
    }
    let data = LENGTH_BYTES + length;
    let metadata: Metadata =
        serde_json::from_slice(&content[LENGTH_BYTES..data]).map_err(|e| Fault::Header(e.to_string()))?;
    if metadata.data_len() != content.len() - data {
        return Err(fail("its tensors do not cover the rest of the file"));
    }
    Ok((metadata, data))
}

/// Checks that type, layout, shape and bytes of a weight agree.
pub(super) fn check_weight(weight: &WeightInfo) -> Result<(), Fault> {
    let dtype = DType::from_name(&weight.dtype)
        .ok_or_else(|| Fault::Invalid(format!("unknown element type {:?}", weight.dtype)))?;
    match weight.layout.bytes(dtype, &weight.shape) {
        Some(bytes) if bytes == weight.bytes => Ok(()),
        Some(bytes) => Err(Fault::mismatch(format!("{bytes} bytes, as type and shape say"), weight.bytes)),
        None => Err(Fault::Invalid(format!(
            "shape {:?} cannot be stored as {} in layout {:?}",
            weight.shape, weight.dtype, weight.layout
        ))),
    }
}

/// Where a weight's bytes are in its file.
fn locate(weight: &WeightInfo, metadata: &Metadata, data: usize) -> Result<std::ops::Range<usize>, Fault> {
    let info = metadata.info(&weight.name).ok_or_else(|| Fault::Header("the file has no such tensor".into()))?;
    let alignment = weight.layout.alignment();
    let dtype = match weight.layout {
        Layout::Rows16 | Layout::Fragments => Dtype::U8,
        Layout::Plain if weight.dtype == DType::I32.name() => Dtype::I32,
        Layout::Plain => Dtype::F32,
    };
    if info.dtype != dtype {
        return Err(Fault::mismatch(format!("{dtype:?}"), format!("{:?}", info.dtype)));
    }
    let (start, end) = (data + info.data_offsets.0, data + info.data_offsets.1);
    if (end - start) as u64 != weight.bytes {
        return Err(Fault::mismatch(format!("{} bytes", weight.bytes), format!("{} bytes", end - start)));
    }
    if !start.is_multiple_of(alignment) {
        return Err(Fault::mismatch(format!("an offset that is a multiple of {alignment}"), format!("offset {start}")));
    }
    Ok(start..end)
}
