//! Artifacts: a folder of standard files, opened with nothing taken on trust.
//!
//! Opening checks everything a step will rely on, so that later stages index without looking: names stay inside the
//! folder, files have the length and hash the manifest states, weights lie where the headers say, and every program
//! reads and writes only memory that exists. By default all files are hashed, by several threads at the speed of memory;
//! [`Verify::Sizes`] skips the hashes where start-up time counts more than finding silent corruption.

mod check;
mod error;
mod extents;
mod folder;
mod hash;
mod kernel_table;
mod manifest;
mod prefixes;
mod weights;

#[cfg(test)]
mod tests;

use std::path::Path;

use ir::program::Program;
use ir::text::parse_program;
use ir::verify::verify_program;
use serde::Deserialize;

pub(crate) use check::check_unpackaged;
pub use error::{ArtifactError, Fault};
use folder::{Folder, is_missing};
pub use kernel_table::{CompiledKernel, EntryFigures, KERNEL_FOLDER, KernelCode, architecture_number};
pub use manifest::{
    Bucket, FileInfo, GenerationDefaults, KvInfo, Layout, MANIFEST_FILE, Manifest, ModelCard, PrefixInfo, SCHEMA,
    WeightInfo,
};
pub use prefixes::{PREFIX_FOLDER, Prefix, prefix_file};
use weights::WeightStore;

/// Most bytes of a manifest or other description.
const MAX_DESCRIPTION: u64 = 64 << 20;

/// Most bytes of a program's text.
const MAX_PROGRAM: u64 = 8 << 20;

/// Most buffers of a program: the verifier compares them in pairs.
const MAX_BUFFERS: usize = 1 << 14;

/// How thoroughly files are checked when an artifact is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Verify {
    /// Length and BLAKE3 hash of every file.
    #[default]
    Full,
    /// Length of every file.
    Sizes,
}

/// How an artifact is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenOptions {
    /// How thoroughly files are checked.
    pub verify: Verify,
    /// Map weights into memory rather than read them.
    pub mmap: bool,
}

impl Default for OpenOptions {
    fn default() -> OpenOptions {
        OpenOptions { verify: Verify::Full, mmap: true }
    }
}

/// An opened artifact: manifest, verified programs and weights.
pub struct Artifact {
    folder: Folder,
    manifest: Manifest,
    programs: Vec<Program>,
    weights: WeightStore,
    prefixes: Vec<Prefix>,
}

impl Artifact {
    /// Opens the artifact in a folder.
    ///
    /// # Errors
    /// The first thing wrong, with file and field.
    pub fn open(path: &Path, options: &OpenOptions) -> Result<Artifact, ArtifactError> {
        let folder = Folder::new(path);
        let manifest = read_manifest(&folder)?;
        check::check_manifest(&manifest).map_err(|(field, fault)| fault.at(&folder.join(MANIFEST_FILE), field))?;
        for (name, info) in &manifest.files {
            folder.open_listed(name, info, options.verify == Verify::Full)?;
        }
        let weights = WeightStore::open(&folder, &manifest, options.mmap)?;
        let programs =
            manifest.buckets.iter().map(|b| read_program(&folder, &manifest, b)).collect::<Result<Vec<_>, _>>()?;
        let prefixes = prefixes::open_prefixes(&folder, &manifest)?;
        Ok(Artifact { folder, manifest, programs, weights, prefixes })
    }

    /// The folder's path.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The programs, in the order of [`Manifest::buckets`].
    pub fn programs(&self) -> &[Program] {
        &self.programs
    }

    /// The bytes of a weight in its [`Layout`], aligned as that says.
    pub fn weight(&self, name: &str) -> Option<&[u8]> {
        self.weights.get(name)
    }

    /// The weights files, whole, each aligned as the system maps files.
    pub(crate) fn weight_files(&self) -> impl Iterator<Item = &[u8]> {
        self.weights.files()
    }

    /// Where a weight lies: its file, by index in [`Artifact::weight_files`], and its first byte there.
    pub(crate) fn weight_place(&self, name: &str) -> Option<(usize, u64)> {
        self.weights.place(name)
    }

    /// Prompts whose keys and values come with the artifact.
    pub fn prefixes(&self) -> &[Prefix] {
        &self.prefixes
    }

    /// The content of a file the manifest lists: `tokenizer.json`, `chat_template.jinja`. `None` if it lists none of that
    /// name.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn read_file(&self, name: &str) -> Result<Option<Vec<u8>>, ArtifactError> {
        if !self.manifest.files.contains_key(name) {
            return Ok(None);
        }
        self.folder.read(name, MAX_DESCRIPTION).map(Some).map_err(|f| f.at(&self.folder.join(name), ""))
    }

    /// The model's own defaults for generating; empty where the artifact has none.
    ///
    /// # Errors
    /// If `generation.json` cannot be read.
    pub fn generation_defaults(&self) -> Result<GenerationDefaults, ArtifactError> {
        let name = "generation.json";
        match self.read_file(name)? {
            None => Ok(GenerationDefaults::default()),
            Some(text) => serde_json::from_slice(&text).map_err(|e| Fault::from(e).at(&self.folder.join(name), "")),
        }
    }

    /// Fails if a mapped weights file was truncated since it was opened.
    ///
    /// # Errors
    /// Names the file.
    pub fn check_intact(&self) -> Result<(), ArtifactError> {
        self.weights.check_lengths()
    }
}

fn read_manifest(folder: &Folder) -> Result<Manifest, ArtifactError> {
    /// Read before anything else, since all other fields depend on it.
    #[derive(Deserialize)]
    struct Version {
        schema: u64,
    }
    let at = |field: &'static str| move |fault: Fault| fault.at(&folder.join(MANIFEST_FILE), field);
    let text = folder
        .read(MANIFEST_FILE, MAX_DESCRIPTION)
        .map_err(|f| at("")(if is_missing(&f) { Fault::NoManifest } else { f }))?;
    let version: Version = serde_json::from_slice(&text).map_err(|e| at("")(e.into()))?;
    if version.schema != u64::from(SCHEMA) {
        return Err(at("schema")(Fault::Schema { found: version.schema, supported: SCHEMA }));
    }
    serde_json::from_slice(&text).map_err(|e| at("")(e.into()))
}

fn read_program(folder: &Folder, manifest: &Manifest, bucket: &Bucket) -> Result<Program, ArtifactError> {
    let at = |field: String| move |fault: Fault| fault.at(&folder.join(&bucket.program), field);
    if !manifest.files.contains_key(&bucket.program) {
        let field = format!("buckets {:?} program", bucket.name);
        return Err(Fault::Unlisted(bucket.program.clone()).at(&folder.join(MANIFEST_FILE), field));
    }
    let text = folder.read(&bucket.program, MAX_PROGRAM).map_err(at(String::new()))?;
    let text = String::from_utf8(text).map_err(|_| at(String::new())(Fault::Invalid("the text is no UTF-8".into())))?;
    let program = parse_program(&text).map_err(|e| at(String::new())(e.into()))?;
    if program.buffers.len() > MAX_BUFFERS {
        return Err(at(String::new())(Fault::mismatch(
            format!("at most {MAX_BUFFERS} buffers"),
            program.buffers.len(),
        )));
    }
    verify_program(&program).map_err(|e| at(String::new())(e.into()))?;
    check::check_program(&program, bucket, manifest).map_err(|(field, fault)| at(field)(fault))?;
    Ok(program)
}
