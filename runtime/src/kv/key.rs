//! Keys of cached pages: each names the tokens of its page and everything before them.

use ir::op::PAGE_TOKENS;

use super::salt::CacheSalt;

/// Tokens of a page, as an array's length.
pub(crate) const TOKENS: usize = PAGE_TOKENS as usize;

/// The tokens of a full page.
pub(crate) type PageTokens = [u32; TOKENS];

/// Where a page stands: its tokens, and the page before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Its tokens.
    pub tokens: PageTokens,
    /// Key of the page before it; `None` for the first page of a text.
    pub parent: Option<PageKey>,
}

/// BLAKE3 of a tenant, a rotary table and all tokens up to the end of a page, chained page by page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct PageKey([u8; 32]);

impl PageKey {
    /// What the key of a sequence's first page is chained from. Keys and values differ between the rotary tables of a
    /// model that has two, so the table is part of it.
    pub fn root(salt: &CacheSalt, rope_table: i32) -> PageKey {
        let mut hasher = blake3::Hasher::new_derive_key("moesaic prefix cache root");
        hasher.update(salt.as_bytes()).update(&rope_table.to_le_bytes());
        PageKey(hasher.finalize().into())
    }

    /// The key of the page of these tokens that follows this one.
    pub fn next(&self, tokens: &PageTokens) -> PageKey {
        let mut bytes = [0; 32 + 4 * TOKENS];
        bytes[..32].copy_from_slice(&self.0);
        for (word, token) in bytes[32..].chunks_exact_mut(4).zip(tokens) {
            word.copy_from_slice(&token.to_le_bytes());
        }
        PageKey(blake3::hash(&bytes).into())
    }

    /// The keys of the full pages of a text.
    pub fn chain(root: PageKey, tokens: &[u32]) -> Vec<PageKey> {
        let step = |last: &mut PageKey, page| {
            *last = last.next(page);
            Some(*last)
        };
        full_pages(tokens).scan(root, step).collect()
    }

    /// A key read back from a file's header or name.
    pub fn from_bytes(bytes: [u8; 32]) -> PageKey {
        PageKey(bytes)
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// The tokens of each full page of a text.
pub(crate) fn full_pages(tokens: &[u32]) -> impl ExactSizeIterator<Item = &PageTokens> {
    tokens.as_chunks::<TOKENS>().0.iter()
}

/// Of pages by key, one that follows a key of `chain` and begins with the most of `rest`: its key, its tokens, and how many of them
/// those are, at least one and not all of a page.
pub(crate) fn longest_beginning<'a>(
    pages: impl Iterator<Item = (&'a PageKey, &'a PageTokens)>,
    chain: &[PageKey],
    rest: &[u32],
) -> Option<(PageKey, PageTokens, usize)> {
    let mut best: Option<(PageKey, PageTokens, usize)> = None;
    for (key, tokens) in pages {
        let count = tokens.iter().zip(rest).take_while(|(a, b)| a == b).count().min(TOKENS - 1);
        // Comparing tokens is cheap; only the key tells what text stands before them.
        if count > best.map_or(0, |(.., most)| most) && chain.iter().any(|last| last.next(tokens) == *key) {
            best = Some((*key, *tokens, count));
        }
    }
    best
}
