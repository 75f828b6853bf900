//! BLAKE3 of a file, read in pieces by several threads.
//!
//! The file is read through `pread` into small buffers rather than hashed in its mapping, so that verification leaves no
//! resident pages behind. Pieces are subtrees of the BLAKE3 tree, so the result is the ordinary hash.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};

use blake3::hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};
use blake3::{Hash, Hasher};

/// Bytes of a piece: a power of two, so that each piece is a whole subtree.
const PIECE: u64 = 1 << 20;

/// Most threads: past these, memory bandwidth is the limit.
const MAX_THREADS: usize = 8;

/// Hash of the first `len` bytes of `file`; fails if there are fewer.
pub(super) fn hash_file(file: &File, len: u64) -> io::Result<Hash> {
    if len <= PIECE {
        let mut content = vec![0; len as usize];
        file.read_exact_at(&mut content, 0)?;
        return Ok(blake3::hash(&content));
    }
    let leaves = hash_pieces(file, len)?;
    let (left, right) = leaves.split_at(left_pieces(leaves.len()));
    Ok(merge_subtrees_root(&merge(left), &merge(right), Mode::Hash))
}

fn hash_pieces(file: &File, len: u64) -> io::Result<Vec<ChainingValue>> {
    let pieces = len.div_ceil(PIECE) as usize;
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS).min(pieces);
    let next = AtomicUsize::new(0);
    let work = || hash_claimed(file, len, &next);
    let parts: io::Result<Vec<_>> = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let own = work();
        others
            .into_iter()
            .map(|t| t.join().unwrap_or_else(|_| Err(io::Error::other("a hashing thread failed"))))
            .chain([own])
            .collect()
    });
    let mut leaves = vec![ChainingValue::default(); pieces];
    parts?.into_iter().flatten().for_each(|(i, value)| leaves[i] = value);
    Ok(leaves)
}

/// Hashes pieces that no other thread has taken until none is left.
fn hash_claimed(file: &File, len: u64, next: &AtomicUsize) -> io::Result<Vec<(usize, ChainingValue)>> {
    let (mut buffer, mut values) = (vec![0; PIECE as usize], Vec::new());
    loop {
        let piece = next.fetch_add(1, Ordering::Relaxed);
        let offset = piece as u64 * PIECE;
        if offset >= len {
            return Ok(values);
        }
        let bytes = &mut buffer[..PIECE.min(len - offset) as usize];
        file.read_exact_at(bytes, offset)?;
        values.push((piece, Hasher::new().set_input_offset(offset).update(bytes).finalize_non_root()));
    }
}

/// Pieces of the left subtree: the largest power of two below `count`.
fn left_pieces(count: usize) -> usize {
    count.next_power_of_two() / 2
}

fn merge(values: &[ChainingValue]) -> ChainingValue {
    if let [value] = values {
        return *value;
    }
    let (left, right) = values.split_at(left_pieces(values.len()));
    merge_subtrees_non_root(&merge(left), &merge(right), Mode::Hash)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn equals_the_plain_hash_at_every_piece_boundary() {
        let content: Vec<u8> = (0..5 * PIECE as usize + 7).map(|i| (i * 31 % 251) as u8).collect();
        let piece = PIECE as usize;
        for len in [0, 1, piece - 1, piece, piece + 1, 2 * piece, 3 * piece, 4 * piece - 1, 4 * piece, 5 * piece + 7] {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&content[..len]).unwrap();
            assert_eq!(hash_file(&file, len as u64).unwrap(), blake3::hash(&content[..len]), "{len} bytes");
        }
    }

    #[test]
    fn a_short_file_is_an_error() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[1; 100]).unwrap();
        assert!(hash_file(&file, 101).is_err());
        assert!(hash_file(&file, 3 * PIECE).is_err());
    }
}
