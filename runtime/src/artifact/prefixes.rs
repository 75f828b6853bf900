//! Baked prompts: keys and values of static prompts, computed when the artifact was made.
//!
//! A file under `prefixes/` is a safetensors file of two tensors: `tokens`, I32 `[n]`, whole pages of 16, and `pages`, U8
//! `[n / 16, bytes of a page in all layers]`, as a device's `read_page` gives them. Pages are read one at a time by positioned
//! reads, so that nothing stays in memory that a device has taken.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use ir::op::PAGE_TOKENS;
use safetensors::Dtype;
use safetensors::tensor::Metadata;
use serde_json::json;

use super::error::{ArtifactError, Fault};
use super::folder::Folder;
use super::manifest::{MANIFEST_FILE, Manifest, PrefixInfo};

/// Folder of baked prompts in an artifact.
pub const PREFIX_FOLDER: &str = "prefixes";

/// Most baked prompts of an artifact.
const MAX_PREFIXES: usize = 1 << 12;

/// Largest header of a file: two tensors and padding.
const MAX_HEADER: u64 = 4096;

/// A baked prompt in an opened artifact.
#[derive(Debug)]
pub struct Prefix {
    path: PathBuf,
    file: File,
    tokens: Vec<u32>,
    rope_table: i32,
    /// Where the pages begin in the file.
    pages_at: u64,
    page_bytes: u64,
}

impl Prefix {
    /// Its tokens, whole pages of 16.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The table of rotary frequencies that it was computed with.
    pub fn rope_table(&self) -> i32 {
        self.rope_table
    }

    /// Reads the keys and values of a page.
    ///
    /// # Errors
    /// No such page, a slice of another length than a page, or a file that was changed since it was opened.
    pub fn read_page(&self, page: usize, bytes: &mut [u8]) -> Result<(), ArtifactError> {
        let fail = |fault: Fault| fault.at(&self.path, format!("pages[{page}]"));
        if page >= self.tokens.len() / PAGE_TOKENS as usize || bytes.len() as u64 != self.page_bytes {
            return Err(fail(Fault::Invalid("there is no such page of that size".into())));
        }
        let at = self.pages_at + page as u64 * self.page_bytes;
        self.file.read_exact_at(bytes, at).map_err(|e| fail(Fault::io("read the page")(e)))
    }

    fn open(folder: &Folder, manifest: &Manifest, info: &PrefixInfo) -> Result<Prefix, ArtifactError> {
        let path = folder.join(&info.file);
        let (file, length) = folder.open(&info.file).map_err(|f| f.at(&path, ""))?;
        let header = read_header(&file, length).map_err(|f| f.at(&path, ""))?;
        let (page_bytes, pages) = (manifest.page_bytes(), info.tokens / PAGE_TOKENS);
        let place = |name, dtype, shape: [u64; 2]| locate(&header, name, dtype, &shape).map_err(|f| f.at(&path, name));
        let tokens_at = place("tokens", Dtype::I32, [info.tokens, 1])?;
        let pages_at = place("pages", Dtype::U8, [pages, page_bytes])?;
        let mut bytes = vec![0; info.tokens as usize * 4];
        file.read_exact_at(&mut bytes, tokens_at).map_err(|e| Fault::io("read the tokens")(e).at(&path, "tokens"))?;
        let tokens: Vec<u32> = bytes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect();
        if let Some(bad) = tokens.iter().find(|t| u64::from(**t) >= manifest.model.vocab_size) {
            let fault = Fault::mismatch(format!("tokens below {}", manifest.model.vocab_size), bad);
            return Err(fault.at(&path, "tokens"));
        }
        Ok(Prefix { path, file, tokens, rope_table: info.rope_table, pages_at, page_bytes })
    }
}

/// A file's header and where its data begins.
fn read_header(file: &File, length: u64) -> Result<(Metadata, u64), Fault> {
    let mut count = [0; 8];
    file.read_exact_at(&mut count, 0).map_err(Fault::io("read the header"))?;
    let count = u64::from_le_bytes(count);
    if count > MAX_HEADER || count + 8 > length {
        return Err(Fault::Header(format!("its length field exceeds the file or {MAX_HEADER} bytes")));
    }
    let mut text = vec![0; count as usize];
    file.read_exact_at(&mut text, 8).map_err(Fault::io("read the header"))?;
    let metadata: Metadata = serde_json::from_slice(&text).map_err(|e| Fault::Header(e.to_string()))?;
    if metadata.data_len() as u64 != length - count - 8 {
        return Err(Fault::Header("its tensors do not cover the rest of the file".into()));
    }
    Ok((metadata, count + 8))
}

/// Where a tensor's bytes are; dimensions of 1 at the end of a shape do not count.
fn locate((metadata, data): &(Metadata, u64), name: &str, dtype: Dtype, shape: &[u64]) -> Result<u64, Fault> {
    let info = metadata.info(name).ok_or_else(|| Fault::Header("the file has no such tensor".into()))?;
    let plain = |shape: &[u64]| -> Vec<u64> {
        let end = shape.iter().rposition(|n| *n != 1).map_or(1, |i| i + 1);
        shape[..end.min(shape.len())].to_vec()
    };
    let found: Vec<u64> = info.shape.iter().map(|n| *n as u64).collect();
    if info.dtype != dtype || plain(&found) != plain(shape) {
        return Err(Fault::mismatch(format!("{dtype:?} {shape:?}"), format!("{:?} {found:?}", info.dtype)));
    }
    Ok(data + info.data_offsets.0 as u64)
}

/// Checks what a manifest says of its baked prompts.
pub(super) fn check_prefixes(m: &Manifest) -> Result<(), (String, Fault)> {
    if m.prefixes.len() > MAX_PREFIXES {
        return Err(("prefixes".into(), Fault::mismatch(format!("at most {MAX_PREFIXES}"), m.prefixes.len())));
    }
    for (i, prefix) in m.prefixes.iter().enumerate() {
        let field = |name: &str| format!("prefixes[{i}] {name}");
        let tables = if m.model.rope_switch.is_some() { 2 } else { 1 };
        let whole = prefix.tokens > 0 && prefix.tokens.is_multiple_of(PAGE_TOKENS);
        if !whole || prefix.tokens > m.model.max_context {
            let expected = format!("a multiple of {PAGE_TOKENS} from {PAGE_TOKENS} to {}", m.model.max_context);
            return Err((field("tokens"), Fault::mismatch(expected, prefix.tokens)));
        }
        if !(0..tables).contains(&prefix.rope_table) {
            return Err((field("rope_table"), Fault::mismatch(format!("0 to below {tables}"), prefix.rope_table)));
        }
        let Some(info) = m.files.get(&prefix.file) else {
            return Err((field("file"), Fault::Unlisted(prefix.file.clone())));
        };
        let pages = (prefix.tokens / PAGE_TOKENS).checked_mul(m.page_bytes());
        let least = pages.and_then(|bytes| bytes.checked_add(prefix.tokens * 4));
        if least.is_none_or(|least| least > info.bytes) {
            return Err((field("file"), Fault::mismatch("a file that holds its tokens' pages", info.bytes)));
        }
    }
    Ok(())
}

/// Opens all baked prompts.
pub(super) fn open_prefixes(folder: &Folder, manifest: &Manifest) -> Result<Vec<Prefix>, ArtifactError> {
    let open = |(i, info): (usize, &PrefixInfo)| {
        if !manifest.files.contains_key(&info.file) {
            let field = format!("prefixes[{i}] file");
            return Err(Fault::Unlisted(info.file.clone()).at(&folder.join(MANIFEST_FILE), field));
        }
        Prefix::open(folder, manifest, info)
    };
    manifest.prefixes.iter().enumerate().map(open).collect()
}

/// The content of a baked prompt's file: whole pages of tokens and the pages one after the other.
pub fn prefix_file(tokens: &[u32], page_bytes: usize, pages: &[u8]) -> Vec<u8> {
    let ids = tokens.len() * 4;
    let header = json!({
        "pages": {"dtype": "U8", "shape": [tokens.len() / PAGE_TOKENS as usize, page_bytes], "data_offsets": [ids, ids + pages.len()]},
        "tokens": {"dtype": "I32", "shape": [tokens.len()], "data_offsets": [0, ids]},
    });
    let mut text = header.to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut content = (text.len() as u64).to_le_bytes().to_vec();
    content.extend(text);
    content.extend(tokens.iter().flat_map(|t| t.to_le_bytes()));
    content.extend_from_slice(pages);
    content
}
