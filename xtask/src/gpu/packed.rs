//! Executables and NVRTC in few bytes: what `--prepare` writes and `--binaries` reads.
//!
//! A machine with a GPU may have nothing else and be reached by nothing but a copy of this repository, so everything a run executes travels in
//! one folder of at most [`MOST_BYTES`]. Kernels are not in it: with NVRTC there they are compiled where they run, for whatever GPU that is, while
//! machine code of all that a run launches would take several times the room.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use lzma_rust2::{FilterType, XzOptions, XzReader, XzWriter};
use serde_json::{Value, json};
use toolchain::wheel::NVRTC;

use super::step::write_whole;
use crate::workspace::{self, build_executable, build_moesaic, cache};

/// Most bytes of a prepared folder.
const MOST_BYTES: u64 = 60 << 20;

/// How hard xz tries, of 0 to 9. Together with the filter for machine code this makes NVRTC a tenth smaller than xz does by itself.
const PRESET: u32 = 9;
const LEAST_DICTIONARY: u32 = 1 << 20;

/// What a run is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Binaries {
    /// The command.
    pub moesaic: PathBuf,
    /// Tests of whole models on a GPU.
    pub models: Option<PathBuf>,
    /// Tests of kernels on random shapes.
    pub kernels: Option<PathBuf>,
    /// The cache folder that holds NVRTC, where it is not the user's.
    pub cache: Option<PathBuf>,
    /// What they were built from.
    pub commit: String,
}

/// Test executables: package, target.
pub const MODELS_TEST: (&str, &str) = ("moesaic-tests", "gpu");
pub const KERNELS_TEST: (&str, &str) = ("moesaic-kernels", "cuda_every_variant");

/// The list of what is in a prepared folder.
const LIST: &str = "prepared.json";

/// Builds everything from this working tree.
pub fn build() -> Result<Binaries> {
    Ok(Binaries {
        moesaic: build_moesaic()?,
        models: Some(build_test(MODELS_TEST)?),
        kernels: Some(build_test(KERNELS_TEST)?),
        cache: None,
        commit: commit(),
    })
}

fn build_test((package, target): (&str, &str)) -> Result<PathBuf> {
    build_executable(&["test", "--no-run", "--release", "--locked", "--package", package, "--test", target], target)
}

/// The commit of the working tree, marked if files differ from it.
pub fn commit() -> String {
    let git = |args: &[&str]| {
        let output = Command::new("git").args(args).current_dir(workspace::root()).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_string())
    };
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else { return "unknown".into() };
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|text| !text.is_empty());
    if changed { format!("{commit}-changed") } else { commit }
}

/// Builds everything for a machine that can build nothing, and packs it into a folder.
pub fn prepare(folder: &Path) -> Result<()> {
    let binaries = build()?;
    let xtask = build_executable(&["build", "--release", "--locked", "--package", "xtask"], "xtask")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let stripped = tempfile::tempdir()?;
    let mut files = Vec::new();
    for (name, path) in [
        ("moesaic", Some(&binaries.moesaic)),
        ("models", binaries.models.as_ref()),
        ("kernels", binaries.kernels.as_ref()),
    ] {
        let small = strip(path.context("it was just built")?, &stripped.path().join(name))?;
        files.push(pack_into(folder, &small, &format!("bin/{name}"))?);
    }
    for (path, place) in nvrtc()? {
        files.push(pack_into(folder, &path, &format!("cache/{place}"))?);
    }
    // The one that unpacks the others.
    let small = strip(&xtask, &folder.join("xtask"))?;
    files.push(
        json!({"path": "xtask", "bytes": fs::metadata(&small)?.len(), "packed_bytes": fs::metadata(&small)?.len()}),
    );
    let total: u64 = files.iter().filter_map(|file| file["packed_bytes"].as_u64()).sum();
    let list = json!({"commit": binaries.commit, "packed_bytes": total, "files": files});
    write_whole(&folder.join(LIST), serde_json::to_string_pretty(&list)?.as_bytes())?;
    println!("{}: {:.1} MiB of {}", folder.display(), total as f64 / f64::from(1 << 20), binaries.commit);
    if total > MOST_BYTES {
        bail!("{}: {total} bytes, {MOST_BYTES} are allowed; {LIST} says which files they are in", folder.display());
    }
    Ok(())
}

/// NVRTC's files, with their places below a cache folder.
fn nvrtc() -> Result<Vec<(PathBuf, String)>> {
    let library = NVRTC.fetch()?;
    let folder = library.parent().context("a file has a folder")?;
    let place = folder.strip_prefix(cache()).context("what was fetched is in the cache")?;
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_file() && name.contains(".so") {
            files.push((path, format!("{}/{name}", place.display())));
        }
    }
    Ok(files)
}

/// A copy without symbols, which binutils make; a whole copy where they are missing.
fn strip(path: &Path, to: &Path) -> Result<PathBuf> {
    let done = Command::new("strip").arg("--strip-all").arg("-o").arg(to).arg(path).status().is_ok_and(|s| s.success());
    if !done {
        fs::copy(path, to).with_context(|| format!("cannot copy {}", path.display()))?;
    }
    fs::set_permissions(to, fs::Permissions::from_mode(0o755))?;
    Ok(to.to_path_buf())
}

/// Packs a file as `folder/place.xz`; its line of the list.
fn pack_into(folder: &Path, file: &Path, place: &str) -> Result<Value> {
    let packed = folder.join(format!("{place}.xz"));
    pack(file, &packed).with_context(|| format!("cannot pack {}", file.display()))?;
    eprintln!("packed {place}");
    Ok(json!({"path": place, "bytes": fs::metadata(file)?.len(), "packed_bytes": fs::metadata(&packed)?.len()}))
}

fn pack(file: &Path, packed: &Path) -> Result<()> {
    fs::create_dir_all(packed.parent().context("a file has a folder")?)?;
    let mut options = XzOptions::with_preset(PRESET);
    // A dictionary longer than the file only takes memory.
    let bytes = u32::try_from(fs::metadata(file)?.len()).unwrap_or(u32::MAX);
    let dictionary = &mut options.lzma_options.dict_size;
    *dictionary = bytes.clamp(LEAST_DICTIONARY, *dictionary);
    if cfg!(target_arch = "x86_64") {
        options.prepend_pre_filter(FilterType::BcjX86, 0);
    }
    let mut writer = XzWriter::new(BufWriter::new(File::create(packed)?), options)?;
    io::copy(&mut BufReader::new(File::open(file)?), &mut writer)?;
    writer.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    Ok(())
}

/// Unpacks a prepared folder into another.
pub fn unpack(prepared: &Path, into: &Path) -> Result<Binaries> {
    let path = prepared.join(LIST);
    let what = || format!("{}: not a folder that `cargo xtask gpu --prepare` wrote", path.display());
    let list: Value = serde_json::from_slice(&fs::read(&path).with_context(what)?).with_context(what)?;
    for file in list["files"].as_array().with_context(what)? {
        let place = file["path"].as_str().filter(|place| is_below(place)).with_context(what)?;
        if place != "xtask" {
            let packed = prepared.join(format!("{place}.xz"));
            let size = file["bytes"].as_u64().with_context(what)?;
            unpack_file(&packed, &into.join(place), size)
                .with_context(|| format!("cannot unpack {}", packed.display()))?;
        }
    }
    let bin = |name: &str| Some(into.join("bin").join(name)).filter(|path| path.is_file());
    Ok(Binaries {
        moesaic: bin("moesaic").with_context(what)?,
        models: bin("models"),
        kernels: bin("kernels"),
        cache: Some(into.join("cache")),
        commit: list["commit"].as_str().unwrap_or("unknown").into(),
    })
}

/// Whether a path stays in the folder it is joined to.
fn is_below(place: &str) -> bool {
    !place.is_empty() && Path::new(place).components().all(|part| matches!(part, std::path::Component::Normal(_)))
}

fn unpack_file(packed: &Path, to: &Path, size: u64) -> Result<()> {
    fs::create_dir_all(to.parent().context("a file has a folder")?)?;
    let mut reader = io::Read::take(XzReader::new(BufReader::new(File::open(packed)?), false), size + 1);
    let bytes = io::copy(&mut reader, &mut BufWriter::new(File::create(to)?))?;
    if bytes != size {
        bail!("{size} bytes are listed, another number came out");
    }
    fs::set_permissions(to, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepared(content: &[u8], list: &Value) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("plain");
        fs::write(&file, content).unwrap();
        pack(&file, &folder.path().join("bin/moesaic.xz")).unwrap();
        fs::write(folder.path().join(LIST), list.to_string()).unwrap();
        folder
    }

    #[test]
    fn what_was_packed_comes_out() {
        let content: Vec<u8> = (0..200_000u32).flat_map(|i| (i / 7).to_le_bytes()).collect();
        let list = json!({"commit": "abc", "files": [{"path": "bin/moesaic", "bytes": content.len()}]});
        let folder = prepared(&content, &list);
        assert!(fs::metadata(folder.path().join("bin/moesaic.xz")).unwrap().len() < content.len() as u64 / 4);
        let into = tempfile::tempdir().unwrap();
        let binaries = unpack(folder.path(), into.path()).unwrap();
        assert_eq!(fs::read(&binaries.moesaic).unwrap(), content);
        assert_eq!(fs::metadata(&binaries.moesaic).unwrap().permissions().mode() & 0o111, 0o111);
        assert_eq!((binaries.commit.as_str(), binaries.models), ("abc", None));
        assert_eq!(binaries.cache, Some(into.path().join("cache")));
    }

    #[test]
    fn a_damaged_folder_is_refused_by_name() {
        let into = tempfile::tempdir().unwrap();
        let refused = |content: &[u8], list: Value| {
            let folder = prepared(content, &list);
            format!("{:#}", unpack(folder.path(), into.path()).unwrap_err())
        };
        let file = |path: &str, bytes: u64| json!({"files": [{"path": path, "bytes": bytes}]});
        assert!(refused(b"abc", json!({})).contains(LIST));
        assert!(refused(b"abc", file("../bin/moesaic", 3)).contains(LIST));
        assert!(refused(b"abc", file("bin/moesaic", 4)).contains("bin/moesaic.xz"));
        assert!(refused(b"abc", file("bin/moesaic", 2)).contains("bin/moesaic.xz"));
        assert!(refused(b"abc", file("bin/absent", 3)).contains("bin/absent.xz"));
        let empty = tempfile::tempdir().unwrap();
        assert!(format!("{:#}", unpack(empty.path(), into.path()).unwrap_err()).contains("--prepare"));
    }
}
