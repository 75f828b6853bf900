//! Baking prompts: computing their keys and values once, to be shipped with the artifact.
//!
//! The processor's kernels compute them, whatever the artifact is compiled for: its programs run there too, and pages have one
//! layout on all devices. On the processor a baked prompt therefore has the bits that computing it anew would give; on
//! another device it has the processor's, and is a part of the artifact like a weight: the artifact's identity names it, and
//! what follows it is determined by it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ir::op::PAGE_TOKENS;

use super::{Chunk, Engine, EngineError, EngineOptions, Rows};
use crate::artifact::{Artifact, ArtifactError, FileInfo, MANIFEST_FILE, PREFIX_FOLDER, PrefixInfo, prefix_file};
use crate::device::DeviceChoice;
use crate::text::{ChatRequest, ChatTemplate, Tokenizer};

/// Why a prompt could not be baked.
#[derive(Debug, thiserror::Error)]
pub enum BakeError {
    /// The prompt cannot be read or is none.
    #[error("{}: {message}", .path.display())]
    Prompt {
        /// Its file.
        path: PathBuf,
        /// What is wrong, and the way out.
        message: String,
    },
    /// The artifact's tokenizer, template or settings cannot be read.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// The prompt cannot be computed.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// A baked prompt as it is stored.
#[derive(Clone, Debug)]
pub struct BakedPrefix {
    /// Its entry in the manifest.
    pub info: PrefixInfo,
    /// The content of its file.
    pub content: Vec<u8>,
}

/// Reads a prompt to bake: raw text, or a JSON list of messages that the artifact's chat template renders without the
/// beginning of an answer.
///
/// # Errors
/// The file or the artifact's texts cannot be read, the template refuses the messages, or nothing fills a page.
pub fn read_prompt(artifact: &Artifact, path: &Path) -> Result<Vec<u32>, BakeError> {
    let fail = |message: String| BakeError::Prompt { path: path.into(), message };
    let text = std::fs::read_to_string(path).map_err(|e| fail(format!("cannot read the prompt: {e}")))?;
    let missing = |what: &str| fail(format!("the artifact has no {what} to read it with"));
    let tokenizer = artifact.read_file("tokenizer.json")?.ok_or_else(|| missing("tokenizer"))?;
    let tokenizer = Tokenizer::from_bytes(&tokenizer, "tokenizer.json").map_err(|e| fail(e.to_string()))?;
    let tokens = match parse_messages(&text).map_err(&fail)? {
        None => tokenizer.encode(&text, true),
        Some(messages) => {
            let source = artifact.read_file("chat_template.jinja")?.ok_or_else(|| missing("chat template"))?;
            let source = String::from_utf8(source).map_err(|_| fail("the chat template is no UTF-8".into()))?;
            let defaults = artifact.generation_defaults()?;
            let special = [("bos_token", defaults.bos_token), ("eos_token", defaults.eos_token)];
            let special = special.iter().map(|(name, text)| (*name, text.as_deref().unwrap_or_default()));
            let template = ChatTemplate::new(&source, special).map_err(|e| fail(e.to_string()))?;
            let request = ChatRequest { add_generation_prompt: false, ..ChatRequest::new(&messages) };
            tokenizer.encode(&template.render(&request).map_err(|e| fail(e.to_string()))?, false)
        }
    };
    let tokens = tokens.map_err(|e| fail(e.to_string()))?;
    match tokens.len() as u64 >= PAGE_TOKENS {
        true => Ok(tokens),
        false => Err(fail(format!("{} tokens; only whole pages of {PAGE_TOKENS} are kept", tokens.len()))),
    }
}

/// The messages of a JSON list; `None` for raw text, which begins otherwise.
fn parse_messages(text: &str) -> Result<Option<Vec<serde_json::Value>>, String> {
    if !text.trim_start().starts_with('[') {
        return Ok(None);
    }
    let Ok(messages) = serde_json::from_str::<Vec<serde_json::Value>>(text) else { return Ok(None) };
    match messages.iter().position(|m| !m.get("role").is_some_and(serde_json::Value::is_string)) {
        None if messages.is_empty() => Err("the list of messages is empty".into()),
        None => Ok(Some(messages)),
        Some(i) => Err(format!("message {i} has no role; a list holds chat messages")),
    }
}

/// The whole pages of a prompt. The last is filled up by repeating the prompt's last token, where the context has room: what
/// follows the prompt then finds the page's beginning.
fn whole_pages(prompt: &[u32], max_context: u64) -> Vec<u32> {
    let mut tokens = prompt.to_vec();
    let filled = tokens.len().next_multiple_of(PAGE_TOKENS as usize);
    let whole = tokens.len() / PAGE_TOKENS as usize * PAGE_TOKENS as usize;
    let length = if filled as u64 <= max_context { filled } else { whole };
    tokens.resize(length, prompt.last().copied().unwrap_or_default());
    tokens
}

/// Computes the pages of a prompt, once for each table of rotary frequencies that the model has. `first` numbers the files.
///
/// # Errors
/// The prompt is longer than the artifact's context, or cannot be computed.
pub fn bake(
    artifact: &Arc<Artifact>,
    prompt: &[u32],
    first: usize,
    threads: Option<usize>,
) -> Result<Vec<BakedPrefix>, EngineError> {
    let manifest = artifact.manifest();
    let tokens = &whole_pages(prompt, manifest.model.max_context)[..];
    let whole = tokens.len();
    let options = EngineOptions {
        device: DeviceChoice::Cpu,
        threads,
        max_model_len: Some(whole as u64),
        kv_tokens: Some(whole as u64),
        ..EngineOptions::default()
    };
    let mut engine = Engine::new(artifact.clone(), &options)?;
    // Long sequences of such a model use the second table from their first token on; short ones never do.
    let tables = match manifest.model.rope_switch {
        None => vec![(0, 0)],
        Some(switch) if whole as u64 > switch => vec![(1, u64::MAX)],
        Some(_) => vec![(0, 0), (1, u64::MAX)],
    };
    let mut baked = Vec::with_capacity(tables.len());
    for (rope_table, expected) in tables {
        let sequence = engine.open_sequence_for(expected);
        engine.step_each(&[Chunk { sequence, tokens, logits: Rows::None }], |_| ())?;
        let page_bytes = manifest.page_bytes() as usize;
        let mut pages = vec![0; whole / PAGE_TOKENS as usize * page_bytes];
        for (page, bytes) in engine.pool.table(sequence)?.iter().zip(pages.chunks_exact_mut(page_bytes.max(1))) {
            engine.device.read_page(*page, bytes)?;
        }
        engine.close_sequence(sequence)?;
        let file = format!("{PREFIX_FOLDER}/{}.safetensors", first + baked.len());
        let info = PrefixInfo { file, tokens: whole as u64, rope_table };
        baked.push(BakedPrefix { info, content: prefix_file(tokens, page_bytes, &pages) });
    }
    Ok(baked)
}

/// Makes a copy of an artifact, in an empty folder, that has further baked prompts. Files are linked where the file system
/// can.
///
/// # Errors
/// A file cannot be written, or a prompt not be computed.
pub fn copy_with_prompts(artifact: &Arc<Artifact>, prompts: &[Vec<u32>], folder: &Path) -> Result<(), BakeError> {
    let fail = |path: &Path, error: std::io::Error| BakeError::Prompt { path: path.into(), message: error.to_string() };
    let put = |name: &str, write: &dyn Fn(&Path) -> std::io::Result<()>| {
        let path = folder.join(name);
        let made = path.parent().map_or(Ok(()), std::fs::create_dir_all);
        made.and_then(|()| write(&path)).map_err(|e| fail(&path, e))
    };
    let mut manifest = artifact.manifest().clone();
    for name in manifest.files.keys() {
        let from = artifact.path().join(name);
        put(name, &|to| std::fs::hard_link(&from, to).or_else(|_| std::fs::copy(&from, to).map(|_| ())))?;
    }
    for prompt in prompts {
        for BakedPrefix { info, content } in bake(artifact, prompt, manifest.prefixes.len(), None)? {
            put(&info.file, &|to| std::fs::write(to, &content))?;
            let blake3 = blake3::hash(&content).to_hex().to_string();
            manifest.files.insert(info.file.clone(), FileInfo { bytes: content.len() as u64, blake3 });
            manifest.prefixes.push(info);
        }
    }
    let text = serde_json::to_vec_pretty(&manifest).map_err(|e| fail(folder, e.into()))?;
    put(MANIFEST_FILE, &|to| std::fs::write(to, &text))
}
