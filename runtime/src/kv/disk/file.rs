//! A page's file: a header with the page's key and tokens, a BLAKE3 hash of everything else, the page's bytes.
//!
//! Whatever is not exactly such a file of the page asked for is no page: a torn write, another format, flipped bits, the file
//! of another page under this name.

use super::super::key::{PageKey, PageTokens, TOKENS};

/// The first bytes of a file; the number is that of the format.
const MAGIC: &[u8; 16] = b"moesaic KV page\x01";

/// Bytes before a page's own: magic, key, tokens, length, hash.
pub(super) const HEADER: usize = 16 + 32 + 4 * TOKENS + 8 + 32;

/// Bytes before the hash.
const HASHED: usize = HEADER - 32;

/// The header of a page's file.
pub(super) fn header(key: &PageKey, tokens: &PageTokens, bytes: &[u8]) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..16].copy_from_slice(MAGIC);
    header[16..48].copy_from_slice(key.as_bytes());
    for (word, token) in header[48..48 + 4 * TOKENS].chunks_exact_mut(4).zip(tokens) {
        word.copy_from_slice(&token.to_le_bytes());
    }
    header[HASHED - 8..HASHED].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
    let hash = content_hash(&header[..HASHED], bytes);
    header[HASHED..].copy_from_slice(hash.as_bytes());
    header
}

/// The tokens of a file's page, given its first [`HEADER`] bytes and the rest, if it is that of `key` and unharmed.
pub(super) fn tokens_of(head: &[u8; HEADER], bytes: &[u8], key: &PageKey) -> Option<PageTokens> {
    let length = head[HASHED - 8..HASHED] == (bytes.len() as u64).to_le_bytes();
    if !length || *content_hash(&head[..HASHED], bytes).as_bytes() != head[HASHED..] {
        return None;
    }
    claimed_tokens(head, key)
}

/// The tokens that a header of the page of `key` names, not compared with its hash.
pub(super) fn claimed_tokens(head: &[u8; HEADER], key: &PageKey) -> Option<PageTokens> {
    if head[..16] != *MAGIC || head[16..48] != *key.as_bytes() {
        return None;
    }
    let words = head[48..48 + 4 * TOKENS].as_chunks::<4>().0.iter().map(|w| u32::from_le_bytes(*w));
    let mut tokens = [0; TOKENS];
    tokens.iter_mut().zip(words).for_each(|(token, word)| *token = word);
    Some(tokens)
}

fn content_hash(head: &[u8], bytes: &[u8]) -> blake3::Hash {
    blake3::Hasher::new().update(head).update(bytes).finalize()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kv::salt::CacheSalt;

    fn file() -> (PageKey, Vec<u8>) {
        let (key, bytes) = (PageKey::root(&CacheSalt::PUBLIC, 0), [7; 40]);
        let mut file = header(&key, &[5; TOKENS], &bytes).to_vec();
        file.extend(bytes);
        (key, file)
    }

    fn read(file: &[u8], key: &PageKey) -> Option<PageTokens> {
        let (head, bytes) = file.split_first_chunk()?;
        tokens_of(head, bytes, key)
    }

    proptest! {
        #[test]
        fn no_damaged_file_is_a_page(at in 0usize..200, flip in 1u8.., length in 0usize..260) {
            let (key, mut file) = file();
            prop_assert_eq!(read(&file, &key), Some([5; TOKENS]));
            let (whole, at) = (file.len(), at % file.len());
            file[at] ^= flip;
            prop_assert_eq!(read(&file, &key), None);
            file[at] ^= flip;
            file.resize(length, 0);
            prop_assert_eq!(read(&file, &key).is_some(), length == whole);
        }
    }

    #[test]
    fn a_page_of_another_key_is_none() {
        let (key, file) = file();
        assert_eq!(read(&file, &key.next(&[1; TOKENS])), None);
    }
}
