//! `moesaic toolchain`: what kernels for GPUs are compiled with, fetched if it is not there.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use compiler::target::{Arch, Target};
use runtime::cli::{CompilerFacts, NvrtcFacts};
use serde_json::json;

/// Arguments of `toolchain`.
#[derive(Args)]
pub struct ToolchainArgs {
    /// This NVRTC and no other
    #[arg(long, value_name = "PATH", env = "MOESAIC_NVRTC")]
    pub nvrtc: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Finds NVRTC, or fetches it, and says which it is.
pub fn toolchain(args: &ToolchainArgs) -> Result<(), Box<dyn std::error::Error>> {
    let (nvrtc, origin) = toolchain::locate::nvrtc(args.nvrtc.as_deref())?;
    let (major, minor) = nvrtc.version();
    let architectures: Vec<String> = nvrtc.architectures().iter().map(|number| format!("sm_{number}")).collect();
    let (cache, limit) = (toolchain::cache(), toolchain::cache::limit()?);
    let (tools, kernels) = (size(&cache.join("tools")), size(&toolchain::cache::folder()));
    if args.json {
        let summary = json!({
            "path": nvrtc.path(),
            "version": format!("{major}.{minor}"),
            "origin": origin.name(),
            "architectures": architectures,
            "cache": cache,
            "cache_bytes": tools.bytes + kernels.bytes,
            "cached_kernels": kernels.files,
            "cached_kernels_bytes": kernels.bytes,
            "cached_kernels_limit_bytes": limit,
        });
        println!("{}", serde_json::to_string_pretty(&summary)?);
        return Ok(());
    }
    println!("NVRTC {major}.{minor} {}: {}", origin.describe(), nvrtc.path().display());
    println!("compiles for {}", architectures.join(", "));
    println!(
        "cache {}: tools {:.1} MB, {} compiled kernels {:.1} MB of at most {:.1} MB ({})",
        cache.display(),
        tools.bytes as f64 / 1e6,
        kernels.files,
        kernels.bytes as f64 / 1e6,
        limit as f64 / 1e6,
        toolchain::cache::LIMIT_SETTING
    );
    Ok(())
}

/// What `doctor` says of the compiler.
pub fn compiler_facts() -> CompilerFacts {
    CompilerFacts { assumed: Target::Cpu.spec(), targets: Arch::ALL.map(Arch::name).to_vec(), find_nvrtc }
}

/// The NVRTC a compilation would use, unless it had to be fetched.
fn find_nvrtc() -> Result<NvrtcFacts, String> {
    let named = std::env::var_os("MOESAIC_NVRTC").filter(|path| !path.is_empty()).map(PathBuf::from);
    let (nvrtc, origin) = toolchain::locate::nvrtc_here(named.as_deref()).map_err(|error| error.to_string())?;
    let (major, minor) = nvrtc.version();
    Ok(NvrtcFacts { path: nvrtc.path().into(), version: format!("{major}.{minor}"), origin: origin.describe() })
}

/// What a folder holds.
#[derive(Default)]
struct Size {
    files: u64,
    bytes: u64,
}

/// Files below a folder; what cannot be read, or is a link, counts nothing.
fn size(folder: &Path) -> Size {
    let mut size = Size::default();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.metadata() {
            Ok(meta) if meta.is_dir() => {
                let inner = self::size(&entry.path());
                size.files += inner.files;
                size.bytes += inner.bytes;
            }
            Ok(meta) if meta.is_file() => {
                size.files += 1;
                size.bytes += meta.len();
            }
            _ => {}
        }
    }
    size
}
