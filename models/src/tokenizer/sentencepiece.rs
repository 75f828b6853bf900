//! Merges of a SentencePiece BPE vocabulary, derived from its scores.
//!
//! SentencePiece joins the adjacent pair whose union is a piece of the highest score; it stores no merges. The same
//! result comes from a list of all pairs whose parts and union are pieces, ordered by the union's score (the method of
//! Hugging Face transformers' converter; Kudo and Richardson 2018, "SentencePiece").

use std::collections::HashMap;

/// Ids of the parts of each merge, best first. `pieces` are the texts that may be parts or unions, with id and score.
///
/// Among equal scores the order is transformers': the longer left part first, then the longer right part, then that of
/// the vocabulary.
pub(super) fn derive_merges(pieces: &[(u32, &str, f32)]) -> Vec<(u32, u32)> {
    let ids: HashMap<&str, u32> = pieces.iter().map(|&(id, text, _)| (text, id)).collect();
    let mut merges = Vec::new();
    for &(_, union, score) in pieces {
        let splits = union.char_indices().skip(1).map(|(at, _)| union.split_at(at));
        let known =
            splits.filter_map(|(l, r)| Some(Merge { score, parts: (*ids.get(l)?, *ids.get(r)?), left: l.len() }));
        let first = merges.len();
        merges.extend(known);
        merges[first..].sort_by_key(|m: &Merge| m.parts);
    }
    drop(ids);
    merges.sort_by(|a, b| b.score.total_cmp(&a.score).then(b.left.cmp(&a.left)));
    merges.into_iter().map(|m| m.parts).collect()
}

struct Merge {
    score: f32,
    parts: (u32, u32),
    /// Length of the left part.
    left: usize,
}

#[cfg(test)]
mod tests {
    use super::derive_merges;

    #[test]
    fn pairs_are_ordered_by_the_score_of_their_union() {
        let pieces =
            [(3, "a", -9.0), (4, "b", -9.0), (5, "c", -9.0), (6, "bc", -1.0), (7, "ab", -2.0), (8, "abc", -3.0)];
        // "abc" comes from "ab" + "c" and from "a" + "bc"; the longer left part goes first.
        assert_eq!(derive_merges(&pieces), [(4, 5), (3, 4), (7, 5), (3, 6)]);
    }

    #[test]
    fn parts_are_cut_between_characters() {
        let pieces = [(0, "▁", 0.0), (1, "é", 0.0), (2, "▁é", 1.0)];
        assert_eq!(derive_merges(&pieces), [(0, 1)]);
    }
}
