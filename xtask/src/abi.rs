//! `cargo xtask abi [--check]`: generates `kernels/src/abi.rs` from `kernels/cuda/params.h`.
//!
//! bindgen needs libclang, which comes from a wheel so that no system package is asked for; where no wheel is pinned, `LIBCLANG_PATH`
//! names an installed one. The layout assertions that bindgen writes prove at compile time that the Rust structs have the C layout.

use std::fs;

use anyhow::{Context, Result, bail};

use crate::wheel::LIBCLANG;
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
    if std::env::var_os(VARIABLE).is_none() {
        let libclang =
            LIBCLANG.fetch().with_context(|| format!("set {VARIABLE} to use an installed libclang instead"))?;
        // SAFETY: this process has one thread.
        unsafe { std::env::set_var(VARIABLE, &libclang) };
    }
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
