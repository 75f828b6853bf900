//! `logits`: the logits of every position of a token sequence, as parity tests read them.

use std::error::Error;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use ir::program::BufferId;
use ir::types::DType;
use serde_json::json;

use super::CliError;
use super::args::LogitsArgs;
use super::session::Session;
use crate::engine::{Chunk, Engine, Rows};

/// Writes `logits` f32 [tokens, vocabulary], and of an artifact compiled with `--trace-routing` also `router.L.experts` i32 and
/// `router.L.weights` f32 [tokens, experts a token] for each mixture layer L. The file appears whole or not at all.
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

/// What a traced router gives: a result of the step of so many columns.
struct Trace {
    name: String,
    dtype: DType,
    cols: u64,
    bytes: Vec<u8>,
}

/// The traced routers of an artifact compiled with `--trace-routing`.
fn traces(session: &Session) -> Vec<Trace> {
    let Some(program) = session.artifact.programs().first() else { return Vec::new() };
    let traced = program.outputs.iter().filter(|(name, _)| name.starts_with("router."));
    let describe = |(name, id): &(String, BufferId)| {
        let ty = &program.buffers[id.0 as usize].ty;
        let cols = ty.shape.get(1).and_then(|d| d.value(&[])).unwrap_or(0);
        Trace { name: name.clone(), dtype: ty.dtype, cols, bytes: Vec::new() }
    };
    traced.map(describe).collect()
}

impl Trace {
    /// Takes over the rows of the last sub-step.
    fn collect(&mut self, engine: &Engine) {
        if self.dtype == DType::I32 {
            let rows = engine.output_ints(&self.name).unwrap_or_default();
            self.bytes.extend(rows.iter().flat_map(|x| x.to_le_bytes()));
        } else {
            let rows = engine.output(&self.name).unwrap_or_default();
            self.bytes.extend(rows.iter().flat_map(|x| x.to_le_bytes()));
        }
    }
}

/// A safetensors file, row by row as they are computed: its header needs the sizes only. What routers selected is small and
/// follows at the end.
fn write(session: &mut Session, tokens: &[u32], path: &Path) -> Result<(), Box<dyn Error>> {
    let mut traces = traces(session);
    let mut out = BufWriter::new(File::create(path).map_err(|e| file_error(path, "write the logits", e))?);
    out.write_all(&header(session.engine.vocabulary(), tokens.len(), &traces))?;
    let sequence = session.engine.open_sequence_for(tokens.len() as u64);
    let mut failure = Ok(());
    for tokens in tokens.chunks(session.engine.max_logit_rows()) {
        session.engine.step_each(&[Chunk { sequence, tokens, logits: Rows::All }], |row| {
            let bytes: Vec<u8> = row.logits.iter().flat_map(|x| x.to_le_bytes()).collect();
            if failure.is_ok() {
                failure = out.write_all(&bytes);
            }
        })?;
        traces.iter_mut().for_each(|t| t.collect(&session.engine));
    }
    failure
        .and_then(|()| traces.iter().try_for_each(|t| out.write_all(&t.bytes)))
        .and_then(|()| out.flush())
        .map_err(|e| file_error(path, "write the logits", e))?;
    Ok(())
}

/// The file's header, padded to a multiple of 8 bytes.
fn header(vocabulary: usize, tokens: usize, traces: &[Trace]) -> Vec<u8> {
    let (mut entries, mut offset) = (serde_json::Map::new(), 0);
    let logits = ("logits", "F32", vocabulary as u64);
    let traced = traces.iter().map(|t| (t.name.as_str(), if t.dtype == DType::I32 { "I32" } else { "F32" }, t.cols));
    for (name, dtype, cols) in std::iter::once(logits).chain(traced) {
        let end = offset + tokens as u64 * cols * 4;
        let entry = json!({"dtype": dtype, "shape": [tokens as u64, cols], "data_offsets": [offset, end]});
        entries.insert(name.to_string(), entry);
        offset = end;
    }
    let mut text = serde_json::Value::Object(entries).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    [&(text.len() as u64).to_le_bytes()[..], &text].concat()
}
