//! Models given where an artifact is expected: compiled once into the user's cache folder.
//!
//! The cache key covers the checkpoint's path, sizes and modification times, this program's version and its schema, so that a
//! changed file is compiled anew without hashing gigabytes first.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use compiler::lower::Registry;
use compiler::pipeline::{self, CompileOptions};
use compiler::progress::Bar;
use compiler::target::{Activations, Target};
use models::Checkpoint;
use runtime::artifact::{MANIFEST_FILE, SCHEMA};

/// The artifact at `path`, or of the checkpoint at `path`.
pub fn artifact_for(path: &Path) -> Result<PathBuf, Box<dyn std::error::Error>> {
    if path.join(MANIFEST_FILE).is_file() {
        return Ok(path.to_path_buf());
    }
    let mut checkpoint = Checkpoint::open(path)?;
    let target = Target::Cpu;
    let activations = Activations::default_for(target);
    let artifact =
        runtime::cache::folder().join("artifacts").join(artifact_name(path, &format!("{target} {activations}"))?);
    if artifact.join(MANIFEST_FILE).is_file() {
        return Ok(artifact);
    }
    eprintln!("compiling {} into {}", path.display(), artifact.display());
    let options = CompileOptions::new(target, activations);
    pipeline::compile(&mut checkpoint, &artifact, &options, &Registry::default(), &Bar::default())?;
    Ok(artifact)
}

fn artifact_name(path: &Path, options: &str) -> Result<String, std::io::Error> {
    let path = fs::canonicalize(path)?;
    let mut hash = blake3::Hasher::new();
    hash.update(env!("CARGO_PKG_VERSION").as_bytes());
    hash.update(&SCHEMA.to_le_bytes());
    hash.update(options.as_bytes());
    for file in files_of(&path)? {
        let meta = fs::metadata(&file)?;
        let modified = meta.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        hash.update(format!("{}\0{}\0{}\0", file.display(), meta.len(), modified.as_nanos()).as_bytes());
    }
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Ok(format!("{stem}-{}.moesaic", &hash.finalize().to_hex()[..16]))
}

fn files_of(path: &Path) -> Result<Vec<PathBuf>, std::io::Error> {
    if path.is_file() {
        return Ok(vec![path.to_path_buf()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path)? {
        let path = entry?.path();
        if path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
