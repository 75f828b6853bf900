//! One opened checkpoint: a Hugging Face folder or a GGUF file.
//!
//! Opening reads headers only. Tensor data is fetched by positioned reads into the caller's buffer, one tensor or row
//! range at a time: a mapping would be simpler, but its pages count as resident memory, and a file truncated while it
//! is mapped kills the process instead of giving an error.

pub mod gguf;
mod safetensors;
mod tensor;

pub use self::tensor::{TensorDType, TensorInfo};

use self::gguf::GgufMetadata;
use self::tensor::{DataFile, Entry, TensorTable};
use crate::ModelError;
use crate::config::Config;
use ir::types::DType;
use std::fs;
use std::path::{Path, PathBuf};

/// What describes the model, beside its weights.
#[derive(Debug)]
pub enum Metadata {
    /// `config.json` of a Hugging Face folder.
    HuggingFace(Config),
    /// The key-value pairs of a GGUF file.
    Gguf(GgufMetadata),
}

/// One opened model: its description and its tensors.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    metadata: Metadata,
    files: Vec<DataFile>,
    tensors: TensorTable,
    /// Whether there are no tensors, only what a configuration says of them.
    assumed: bool,
}

impl Checkpoint {
    /// Opens a folder with `config.json` and safetensors, a `.gguf` file, or a folder that holds exactly one of those.
    ///
    /// # Errors
    /// If the path is neither, or if a header is malformed, names data outside its file or one tensor twice.
    pub fn open(path: impl AsRef<Path>) -> Result<Checkpoint, ModelError> {
        let path = path.as_ref();
        let meta = fs::metadata(path).map_err(|e| ModelError::io(path, "open", e))?;
        if !meta.is_dir() {
            return Checkpoint::open_gguf(path);
        }
        if path.join("config.json").is_file() && safetensors::is_present(path) {
            return Checkpoint::open_folder(path);
        }
        let problem = match gguf_files(path)?.as_slice() {
            [file] => return Checkpoint::open_gguf(file),
            [] => describe_incomplete_folder(path),
            [first, ..] => format!("holds several .gguf files; name one of them, for example {}", first.display()),
        };
        Err(ModelError::NotACheckpoint { path: path.into(), problem })
    }

    fn open_folder(path: &Path) -> Result<Checkpoint, ModelError> {
        let config = Config::read(&path.join("config.json"))?;
        let (files, tensors) = safetensors::open(path)?;
        Ok(Checkpoint { path: path.into(), metadata: Metadata::HuggingFace(config), files, tensors, assumed: false })
    }

    fn open_gguf(path: &Path) -> Result<Checkpoint, ModelError> {
        let (file, metadata, tensors) = gguf::open(path)?;
        let metadata = Metadata::Gguf(metadata);
        Ok(Checkpoint { path: path.into(), metadata, files: vec![file], tensors, assumed: false })
    }

    /// As [`Checkpoint::open`], but a folder with `config.json` and no weights will do: a graph can be made of it, and what the
    /// weights' headers would say of formats is assumed from the configuration. No weight can be read.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn open_description(path: impl AsRef<Path>) -> Result<Checkpoint, ModelError> {
        let path = path.as_ref();
        let file = path.join("config.json");
        if file.is_file() && !safetensors::is_present(path) && gguf_files(path)?.is_empty() {
            return Ok(Checkpoint::from_config(path, Config::read(&file)?));
        }
        Checkpoint::open(path)
    }

    /// What a configuration describes, without weights; `path` is named in messages.
    pub fn from_config(path: &Path, config: Config) -> Checkpoint {
        let (files, tensors) = (Vec::new(), TensorTable::default());
        Checkpoint { path: path.into(), metadata: Metadata::HuggingFace(config), files, tensors, assumed: true }
    }

    /// Whether it is a configuration alone.
    pub fn is_assumed(&self) -> bool {
        self.assumed
    }

    /// The folder or file that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The model's description.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Drops the vocabulary arrays of GGUF metadata, the largest part of it. Call it once the tokenizer is built.
    pub fn release_vocabulary(&mut self) {
        if let Metadata::Gguf(metadata) = &mut self.metadata {
            metadata.release_arrays("tokenizer.ggml.");
        }
    }

    /// Bytes of all weights files.
    pub fn total_bytes(&self) -> u64 {
        self.files.iter().map(|f| f.len).sum()
    }

    /// All tensors, in the order of their names.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &TensorInfo> {
        self.tensors.iter().map(|e| &e.info)
    }

    /// The tensor of this name, if there is one.
    pub fn find(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name).map(|e| &e.info)
    }

    /// The tensor of this name.
    ///
    /// # Errors
    /// [`ModelError::MissingTensor`], with the nearest name that exists.
    pub fn tensor(&self, name: &str) -> Result<&TensorInfo, ModelError> {
        Ok(&self.entry(name)?.info)
    }

    /// The type of a tensor that is to be used as a weight.
    ///
    /// # Errors
    /// If the tensor is missing, or stored in a type that no format exists for.
    pub fn dtype(&self, name: &str) -> Result<DType, ModelError> {
        let entry = self.entry(name)?;
        match &entry.info.dtype {
            TensorDType::Known(dtype) => Ok(*dtype),
            TensorDType::Other(dtype) => Err(ModelError::UnsupportedDType {
                file: self.files[entry.file].path.clone(),
                tensor: name.to_owned(),
                dtype: dtype.clone(),
                supported: self.supported_dtypes(),
            }),
        }
    }

    /// Checks a tensor's shape against what the configuration implies.
    ///
    /// # Errors
    /// If the tensor is missing or of another shape.
    pub fn expect_shape(&self, name: &str, shape: &[u64]) -> Result<&TensorInfo, ModelError> {
        let entry = self.entry(name)?;
        if entry.info.shape == shape {
            return Ok(&entry.info);
        }
        Err(ModelError::TensorShape {
            file: self.files[entry.file].path.clone(),
            tensor: name.to_owned(),
            expected: shape.to_vec(),
            found: entry.info.shape.clone(),
        })
    }

    /// Reads a whole tensor, row-major and little-endian, into `out`, which is resized to its length.
    ///
    /// # Errors
    /// If the tensor is missing or of an unsupported type, or if the file can no longer be read.
    pub fn read(&self, name: &str, out: &mut Vec<u8>) -> Result<(), ModelError> {
        self.dtype(name)?;
        let bytes = self.entry(name)?.info.bytes;
        // The length was checked against the file's when it was opened.
        out.resize(usize::try_from(bytes).map_err(|_| self.range_error(name, 0, bytes))?, 0);
        self.read_range(name, 0, out)
    }

    /// Fills `out` with a tensor's bytes from byte `offset` on.
    ///
    /// # Errors
    /// As [`Checkpoint::read`], or if the range does not lie in the tensor.
    pub fn read_range(&self, name: &str, offset: u64, out: &mut [u8]) -> Result<(), ModelError> {
        self.dtype(name)?;
        self.read_bytes(name, offset, out)
    }

    /// As [`Checkpoint::read_range`], of a tensor of any type.
    pub(crate) fn read_bytes(&self, name: &str, offset: u64, out: &mut [u8]) -> Result<(), ModelError> {
        let entry = self.entry(name)?;
        let len = out.len() as u64;
        match offset.checked_add(len) {
            Some(end) if end <= entry.info.bytes => self.files[entry.file].read_at(out, entry.offset + offset),
            _ => Err(self.range_error(name, offset, len)),
        }
    }

    fn entry(&self, name: &str) -> Result<&Entry, ModelError> {
        self.tensors.get(name).ok_or_else(|| ModelError::MissingTensor {
            path: self.path.clone(),
            tensor: name.to_owned(),
            hint: self.tensors.nearest(name).map_or_else(String::new, |n| format!("; the nearest name is {n}")),
        })
    }

    fn range_error(&self, name: &str, offset: u64, len: u64) -> ModelError {
        ModelError::tensor(&self.path, name, format!("the range of {len} bytes at {offset} is not inside the tensor"))
    }

    fn supported_dtypes(&self) -> String {
        match self.metadata {
            Metadata::HuggingFace(_) => "F32, F16, BF16".to_owned(),
            Metadata::Gguf(_) => gguf::supported_types(),
        }
    }
}

/// The `.gguf` files of a folder, by name.
fn gguf_files(folder: &Path) -> Result<Vec<PathBuf>, ModelError> {
    let read = |e| ModelError::io(folder, "list", e);
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(read)? {
        let path = entry.map_err(read)?.path();
        if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")) && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn describe_incomplete_folder(folder: &Path) -> String {
    let has = |name: &str| folder.join(name).is_file();
    if has("pytorch_model.bin") || has("pytorch_model.bin.index.json") {
        return "holds its weights as pytorch_model.bin; convert them to safetensors first".to_owned();
    }
    match (has("config.json"), safetensors::is_present(folder)) {
        (true, _) => "holds config.json but neither model.safetensors nor model.safetensors.index.json".to_owned(),
        (_, true) => "holds safetensors but no config.json".to_owned(),
        _ => "holds no model".to_owned(),
    }
}
