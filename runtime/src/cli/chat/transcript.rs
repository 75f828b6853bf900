//! Conversations in files: a JSON list of messages, as chat requests have it.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::cli::CliError;

/// Largest file that is read.
const MAX_BYTES: u64 = 64 << 20;

/// Writes the messages. The file is whole or as it was: they are written beside it and then take its name.
pub(super) fn save(path: &Path, messages: &[Value]) -> Result<(), CliError> {
    let failed = |source| CliError::File { path: path.to_path_buf(), action: "write the messages", source };
    let text = Value::from(messages.to_vec());
    let name = path.file_name().ok_or_else(|| failed(std::io::ErrorKind::InvalidInput.into()))?;
    let partial: PathBuf = path.with_file_name(format!(".{}.{}.part", name.to_string_lossy(), std::process::id()));
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).open(&partial)?;
        file.write_all(format!("{text:#}\n").as_bytes())?;
        file.sync_all()?;
        fs::rename(&partial, path)
    })();
    written.map_err(|error| {
        // Whatever cannot be removed says less than why it was not finished.
        let _ = fs::remove_file(&partial);
        failed(error)
    })
}

/// Reads messages.
pub(super) fn load(path: &Path) -> Result<Vec<Value>, Box<dyn std::error::Error>> {
    let failed = |source| CliError::File { path: path.to_path_buf(), action: "read the messages", source };
    let size = fs::metadata(path).map_err(failed)?.len();
    if size > MAX_BYTES {
        return Err(format!("{}: {size} bytes are too many for messages", path.display()).into());
    }
    let bytes = fs::read(path).map_err(failed)?;
    let messages: Vec<Value> =
        serde_json::from_slice(&bytes).map_err(|e| format!("{}: expected a list of messages: {e}", path.display()))?;
    for (i, message) in messages.iter().enumerate() {
        if !message["role"].is_string() || !(message["content"].is_string() || message["content"].is_array()) {
            return Err(format!("{}: [{i}]: expected an object with role and content", path.display()).into());
        }
    }
    Ok(messages)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_was_saved_is_loaded_and_nothing_is_left_beside_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("talk.json");
        let messages = vec![json!({"role": "user", "content": "é\n"}), json!({"role": "assistant", "content": "ok"})];
        fs::write(&path, "old").expect("written");
        save(&path, &messages).expect("saved");
        assert_eq!(load(&path).expect("loaded"), messages);
        assert_eq!(fs::read_dir(folder.path()).expect("listed").count(), 1);
        assert!(save(&folder.path().join("none/talk.json"), &messages).is_err());
        for (text, part) in
            [("{}", "list"), ("[{\"role\": 3}]", "[0]"), ("[", "list"), ("[{\"role\": \"user\"}]", "[0]")]
        {
            fs::write(&path, text).expect("written");
            let error = load(&path).expect_err("refused").to_string();
            assert!(error.contains(part) && error.contains("talk.json"), "{error}");
        }
    }
}
