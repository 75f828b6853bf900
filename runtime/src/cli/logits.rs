//! `logits`: the logits of every position of a token sequence, as parity tests read them.

use std::error::Error;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use serde_json::json;

use super::CliError;
use super::args::LogitsArgs;
use super::session::Session;
use crate::engine::{Chunk, Rows};

/// Writes `logits` f32 [tokens, vocabulary]. The file appears whole or not at all.
pub fn logits(args: &LogitsArgs) -> Result<(), Box<dyn Error>> {
    let tokens = match &args.tokens_file {
        Some(file) => read_tokens(file)?,
        None => args.tokens.clone(),
    };
    let mut session = Session::open(&args.artifact, &args.device, Some(tokens.len().max(1) as u64))?;
    let partial = args.output.with_extension("partial");
    let written = write(&mut session, &tokens, &partial);
    if written.is_err() {
        let _ = fs::remove_file(&partial);
    }
    written?;
    fs::rename(&partial, &args.output).map_err(|e| file_error(&args.output, "write the logits", e))?;
    Ok(())
}

fn file_error(path: &Path, action: &'static str, source: std::io::Error) -> CliError {
    CliError::File { path: path.to_path_buf(), action, source }
}

fn read_tokens(path: &Path) -> Result<Vec<u32>, Box<dyn Error>> {
    let text = fs::read(path).map_err(|e| file_error(path, "read the tokens", e))?;
    serde_json::from_slice(&text).map_err(|e| {
        let message = format!("{}: expected a JSON list of token ids: {e}", path.display());
        CliError::Option { option: "--tokens-file", message }.into()
    })
}

/// A safetensors file, row by row as they are computed: its header needs the sizes only.
fn write(session: &mut Session, tokens: &[u32], path: &Path) -> Result<(), Box<dyn Error>> {
    let vocabulary = session.engine.vocabulary();
    let bytes = tokens.len() * vocabulary * size_of::<f32>();
    let header = json!({"logits": {"dtype": "F32", "shape": [tokens.len(), vocabulary], "data_offsets": [0, bytes]}});
    let mut header = header.to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut out = BufWriter::new(File::create(path).map_err(|e| file_error(path, "write the logits", e))?);
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    let sequence = session.engine.open_sequence();
    let mut failure = Ok(());
    session.engine.step_each(&[Chunk { sequence, tokens, logits: Rows::All }], |row| {
        let bytes: Vec<u8> = row.logits.iter().flat_map(|x| x.to_le_bytes()).collect();
        if failure.is_ok() {
            failure = out.write_all(&bytes);
        }
    })?;
    failure.and_then(|()| out.flush()).map_err(|e| file_error(path, "write the logits", e))?;
    Ok(())
}
