//! `cargo xtask abi [--check]`: generates `kernels/src/abi.rs` from `kernels/cuda/params.h`.
//!
//! bindgen needs libclang, which comes from a wheel so that no system package is asked for and all machines generate the same;
//! where that cannot be had, `LIBCLANG_PATH` names an installed one. The layout assertions that bindgen writes prove at compile time that the Rust structs have the C layout.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::pins::LIBCLANG;
use crate::workspace::root;

const HEADER: &str = "kernels/cuda/params.h";
const OUTPUT: &str = "kernels/src/abi.rs";
/// Where bindgen looks for libclang first.
const VARIABLE: &str = "LIBCLANG_PATH";
const PREFACE: &str = "//! Generated from kernels/cuda/params.h by `cargo xtask abi`; do not edit.\n//!\n\
    //! One by-value parameter struct a kernel; the meaning of each field stands in the header.\n\
    #![allow(missing_docs, non_camel_case_types, clippy::all, clippy::undocumented_unsafe_blocks)]\n";

/// Generates the bindings; with `check` compares them with the committed file instead of writing.
pub fn run(check: bool) -> Result<()> {
    let bindings = generate()?;
    let output = root().join(OUTPUT);
    if !check {
        return fs::write(&output, bindings).with_context(|| format!("writing {OUTPUT}"));
    }
    let committed = fs::read_to_string(&output).with_context(|| format!("reading {OUTPUT}"))?;
    if committed != bindings {
        bail!("{OUTPUT} is not what {HEADER} gives: run `cargo xtask abi` and commit the result");
    }
    Ok(())
}

fn generate() -> Result<String> {
    let libclang = libclang()?;
    // SAFETY: this process has one thread.
    unsafe { std::env::set_var(VARIABLE, &libclang) };
    let bindings = bindgen::Builder::default()
        .header(root().join(HEADER).to_string_lossy())
        .clang_args(["-x", "c", "-std=c11"])
        .allowlist_type(".*Params")
        .layout_tests(true)
        .derive_default(true)
        .derive_copy(true)
        .generate_comments(false)
        .raw_line(PREFACE)
        .disable_header_comment()
        .generate()
        .with_context(|| format!("bindgen could not read {HEADER}"))?;
    Ok(bindings.to_string())
}

/// The pinned libclang, or else the installed one that the user names.
fn libclang() -> Result<PathBuf> {
    let pinned = LIBCLANG.fetch();
    let named = std::env::var_os(VARIABLE).map(PathBuf::from).filter(|path| holds_libclang(path));
    match (pinned, named) {
        (Err(_), Some(named)) => Ok(named),
        (pinned, _) => {
            pinned.with_context(|| format!("no libclang: let {VARIABLE} name an installed one, file or folder"))
        }
    }
}

/// Whether the path is a libclang or a folder that has one; bindgen panics where there is none.
fn holds_libclang(path: &Path) -> bool {
    let is_libclang = |path: &Path| {
        path.is_file() && path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("libclang"))
    };
    let Ok(mut folder) = fs::read_dir(path) else { return is_libclang(path) };
    folder.any(|entry| entry.is_ok_and(|e| is_libclang(&e.path())))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::holds_libclang;

    #[test]
    fn only_a_libclang_or_its_folder_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("libclang-18.so");
        fs::create_dir(folder.path().join("libclang")).unwrap();
        assert!(!holds_libclang(&file) && !holds_libclang(folder.path()));
        fs::write(&file, "").unwrap();
        assert!(holds_libclang(&file) && holds_libclang(folder.path()));
        fs::write(folder.path().join("other.so"), "").unwrap();
        assert!(!holds_libclang(&folder.path().join("other.so")));
    }
}
