//! Bakes prompts into an artifact: its programs, just written, compute their keys and values on the processor.

use std::sync::Arc;

use runtime::artifact::{Artifact, MANIFEST_FILE, Manifest, OpenOptions, Verify};
use runtime::engine::bake::{BakeError, bake, read_prompt};

use super::{PackageError, Staging, json};
use crate::pipeline::CompileOptions;
use crate::progress::Progress;

/// Computes the prompts of the options and adds them to the folder and its manifest. The folder holds everything else.
pub(super) fn bake_prompts(
    staging: &mut Staging,
    manifest: &mut Manifest,
    options: &CompileOptions,
    progress: &dyn Progress,
) -> Result<(), PackageError> {
    // Not through `staging`, whose list of files is the manifest's: the final one replaces it.
    let path = staging.folder().join(MANIFEST_FILE);
    let write = |source| super::WriteError { path: path.clone(), action: "write the file", source };
    std::fs::write(&path, json(MANIFEST_FILE, manifest)?).map_err(write)?;
    let open = OpenOptions { verify: Verify::Sizes, ..OpenOptions::default() };
    let artifact = Arc::new(Artifact::open(staging.folder(), &open).map_err(BakeError::from)?);
    progress.begin_count("baking prompts", options.bake_prompts.len() as u64);
    for prompt in &options.bake_prompts {
        let tokens = read_prompt(&artifact, prompt)?;
        let baked = bake(&artifact, &tokens, manifest.prefixes.len(), Some(options.threads))
            .map_err(|e| BakeError::Prompt { path: prompt.clone(), message: e.to_string() })?;
        for prefix in baked {
            staging.write(&prefix.info.file, &prefix.content)?;
            manifest.prefixes.push(prefix.info);
        }
        progress.advance(1);
    }
    progress.finish();
    manifest.files = staging.files().clone();
    Ok(())
}
