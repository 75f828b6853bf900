//! Numbered text after each pass.

use std::path::Path;

use super::CompileError;
use super::passes::pass_names;
use super::stage::Stage;

/// Writes what `pass` made to `NN-PASS[-BUCKET].ir` in `folder`, one file a bucket.
///
/// # Errors
/// A file or the folder cannot be written.
pub fn write(folder: &Path, pass: &str, stage: &Stage) -> Result<(), CompileError> {
    let number = pass_names().position(|name| name == pass).unwrap_or(0) + 1;
    for text in stage.texts(pass) {
        let separator = if text.bucket.is_empty() { "" } else { "-" };
        let path = folder.join(format!("{number:02}-{pass}{separator}{}.ir", text.bucket));
        std::fs::create_dir_all(folder)
            .and_then(|()| std::fs::write(&path, &text.text))
            .map_err(|source| CompileError::File { path, action: "write the dump", source })?;
    }
    Ok(())
}
