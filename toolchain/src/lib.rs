//! What Moesaic compiles GPU kernels with: found on the machine, or fetched from pinned wheels into the user's cache folder.
//!
//! Nothing is installed and no environment variable is asked of the user: a wheel is downloaded with the user's own pip, the
//! files that are needed are taken out, checked against their hashes and kept. The compiler uses this crate for NVRTC, the
//! tasks of the workspace also for tools that only tests need.

pub mod cache;
pub mod locate;
pub mod nvrtc;
pub mod store;
pub mod wheel;

use std::path::{Path, PathBuf};

/// Why a tool cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// A file could not be read, written or moved.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Python 3 with pip, which fetches wheels, is missing or failed.
    #[error(
        "fetching {purpose} ({requirement}): {message}; it takes python3 with pip and an index that has the package"
    )]
    Pip {
        /// What the wheel is for.
        purpose: &'static str,
        /// Package and version.
        requirement: &'static str,
        /// What went wrong.
        message: String,
    },
    /// A wheel is not what was pinned.
    #[error("{}: {member}: {message}", .wheel.display())]
    Wheel {
        /// The wheel.
        wheel: PathBuf,
        /// The file in it.
        member: &'static str,
        /// What is wrong with it.
        message: String,
    },
    /// No wheel is pinned for this machine.
    #[error("no wheel of {requirement} is pinned for {os} {arch}")]
    Platform {
        /// Package and version.
        requirement: &'static str,
        /// The operating system.
        os: String,
        /// The processor architecture.
        arch: String,
    },
    /// A library cannot be used as NVRTC.
    #[error("{}: {message}", .path.display())]
    Library {
        /// The library.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// An environment variable says something that is no number of bytes.
    #[error("{name}: expected a number of bytes, as 2147483648, found {value:?}; set it to one, or not at all")]
    Setting {
        /// The variable.
        name: &'static str,
        /// What it says.
        value: String,
    },
    /// There is no NVRTC on this machine and none could be fetched.
    #[error(
        "no NVRTC (NVIDIA's run-time compiler, 12.0 to 12.9): {reason}; install python3 with pip, or the CUDA toolkit 12, or name the library with --nvrtc"
    )]
    NoNvrtc {
        /// Why it could not be fetched.
        reason: String,
    },
}

impl ToolError {
    fn io(path: &Path) -> impl FnOnce(std::io::Error) -> ToolError {
        let path = path.to_path_buf();
        move |source| ToolError::Io { path, source }
    }
}

/// The user's cache folder for what is fetched and built once: `MOESAIC_CACHE`, else `moesaic` in `XDG_CACHE_HOME` or `~/.cache`.
pub fn cache() -> PathBuf {
    let from = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(folder) = from("MOESAIC_CACHE") {
        return folder;
    }
    let base = from("XDG_CACHE_HOME").or_else(|| from("HOME").map(|h| h.join(".cache")));
    base.unwrap_or_else(std::env::temp_dir).join("moesaic")
}
