//! `cargo xtask abi [--check]`: generates `kernels/src/abi.rs` from `kernels/cuda/params.h`.
//!
//! bindgen needs libclang, which comes from PyPI's wheel so that no system package is asked for. The layout assertions
//! that bindgen writes prove at compile time that the Rust structs have the C layout.

use std::path::Path;

use anyhow::{Context, Result, bail};

const HEADER: &str = "kernels/cuda/params.h";
const OUTPUT: &str = "kernels/src/abi.rs";
const PREFACE: &str = "//! Generated from kernels/cuda/params.h by `cargo xtask abi`; do not edit.\n//!\n\
    //! One by-value parameter struct a kernel; the meaning of each field stands in the header.\n\
    #![allow(missing_docs, non_camel_case_types, clippy::all)]\n";

/// Generates the bindings; with `check` compares them with the committed file instead of writing.
pub fn run(root: &Path, libclang: &Path, check: bool) -> Result<()> {
    // SAFETY: called before this process starts a second thread.
    unsafe { std::env::set_var("LIBCLANG_PATH", libclang) };
    let header = root.join(HEADER);
    let bindings = bindgen::Builder::default()
        .header(header.to_string_lossy())
        .clang_args(["-x", "c", "-std=c11"])
        .allowlist_type(".*Params")
        .layout_tests(true)
        .derive_default(true)
        .derive_copy(true)
        .generate_comments(false)
        .raw_line(PREFACE)
        .disable_header_comment()
        .generate()
        .context("bindgen could not read kernels/cuda/params.h")?
        .to_string();
    let output = root.join(OUTPUT);
    if !check {
        return std::fs::write(&output, bindings).with_context(|| format!("writing {OUTPUT}"));
    }
    if std::fs::read_to_string(&output)? != bindings {
        bail!("{OUTPUT} is not what {HEADER} gives: run `cargo xtask abi` and commit the result");
    }
    Ok(())
}
