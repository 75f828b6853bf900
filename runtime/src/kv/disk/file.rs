//! A page's file: a header with the page's key, tokens and the key of the page before it, a BLAKE3 hash of everything else, the page's bytes.
//!
//! Whatever is not exactly such a file of the page asked for is no page: a torn write, another format, flipped bits, the file
//! of another page under this name.

use super::super::key::{PageKey, Place, TOKENS};

/// The first bytes of a file; the number is that of the format.
const MAGIC: &[u8; 16] = b"moesaic KV page\x02";

/// Bytes before a page's own: magic, key, tokens, key of the page before it or zeros, length, hash.
pub(super) const HEADER: usize = 16 + 32 + 4 * TOKENS + 32 + 8 + 32;

/// Where the key of the page before it begins.
const PARENT: usize = 48 + 4 * TOKENS;

/// Bytes before the hash.
const HASHED: usize = HEADER - 32;

/// The header of a page's file.
pub(super) fn header(key: &PageKey, place: &Place, bytes: &[u8]) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..16].copy_from_slice(MAGIC);
    header[16..48].copy_from_slice(key.as_bytes());
    for (word, token) in header[48..PARENT].chunks_exact_mut(4).zip(&place.tokens) {
        word.copy_from_slice(&token.to_le_bytes());
    }
    let parent = place.parent.map_or([0; 32], |key| *key.as_bytes());
    header[PARENT..PARENT + 32].copy_from_slice(&parent);
    header[HASHED - 8..HASHED].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
    let hash = content_hash(&header[..HASHED], bytes);
    header[HASHED..].copy_from_slice(hash.as_bytes());
    header
}

/// The place of a file's page, given its first [`HEADER`] bytes and the rest, if it is that of `key` and unharmed.
pub(super) fn place_of(head: &[u8; HEADER], bytes: &[u8], key: &PageKey) -> Option<Place> {
    let length = head[HASHED - 8..HASHED] == (bytes.len() as u64).to_le_bytes();
    if !length || *content_hash(&head[..HASHED], bytes).as_bytes() != head[HASHED..] {
        return None;
    }
    claimed_place(head, key)
}

/// The place that a header of the page of `key` names, not compared with its hash.
pub(super) fn claimed_place(head: &[u8; HEADER], key: &PageKey) -> Option<Place> {
    if head[..16] != *MAGIC || head[16..48] != *key.as_bytes() {
        return None;
    }
    let words = head[48..PARENT].as_chunks::<4>().0.iter().map(|w| u32::from_le_bytes(*w));
    let mut tokens = [0; TOKENS];
    tokens.iter_mut().zip(words).for_each(|(token, word)| *token = word);
    let parent: [u8; 32] = head[PARENT..].first_chunk().copied()?;
    Some(Place { tokens, parent: (parent != [0; 32]).then(|| PageKey::from_bytes(parent)) })
}

fn content_hash(head: &[u8], bytes: &[u8]) -> blake3::Hash {
    blake3::Hasher::new().update(head).update(bytes).finalize()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kv::salt::CacheSalt;

    fn file(place: &Place) -> (PageKey, Vec<u8>) {
        let (key, bytes) = (PageKey::root(&CacheSalt::PUBLIC, 0), [7; 40]);
        let mut file = header(&key, place, &bytes).to_vec();
        file.extend(bytes);
        (key, file)
    }

    fn places() -> [Place; 2] {
        let parent = Some(PageKey::root(&CacheSalt::PUBLIC, 1));
        [None, parent].map(|parent| Place { tokens: [5; TOKENS], parent })
    }

    fn read(file: &[u8], key: &PageKey) -> Option<Place> {
        let (head, bytes) = file.split_first_chunk()?;
        place_of(head, bytes, key)
    }

    proptest! {
        #[test]
        fn no_damaged_file_is_a_page(first in 0usize..2, at in 0usize..240, flip in 1u8.., length in 0usize..300) {
            let place = places()[first];
            let (key, mut file) = file(&place);
            prop_assert_eq!(read(&file, &key), Some(place));
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
        let (key, file) = file(&places()[0]);
        assert_eq!(read(&file, &key.next(&[1; TOKENS])), None);
    }
}
