//! Cuts the chunks of a step into sub-steps that fit a bucket.
//!
//! Tokens keep their order and chunks are filled greedily: a prompt longer than the largest bucket runs in bucket-sized
//! pieces, and rows of logits past the bucket's are put off with their tokens. By the kernels' contract no result depends
//! on the cut.

/// Which rows of logits a chunk asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Rows {
    /// None: the tokens only enter the cache.
    None,
    /// That of the last token.
    #[default]
    Last,
    /// Those of all tokens.
    All,
}

impl Rows {
    /// Rows asked for of `tokens` tokens.
    pub fn count(self, tokens: usize) -> usize {
        match self {
            Rows::None => 0,
            Rows::Last => tokens.min(1),
            Rows::All => tokens,
        }
    }
}

/// What one sub-step can hold: the largest bucket's sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Capacity {
    pub tokens: usize,
    pub rows: usize,
    pub sequences: usize,
}

/// Adjacent tokens of one chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// Index of the chunk.
    pub chunk: usize,
    /// Its tokens, by index in the chunk.
    pub tokens: std::ops::Range<usize>,
    /// Those of them whose logits are asked for.
    pub rows: std::ops::Range<usize>,
}

/// Cuts chunks, given by length and rows, into sub-steps. No length may be 0.
pub(super) struct SubSteps<'a> {
    chunks: &'a [(usize, Rows)],
    capacity: Capacity,
    chunk: usize,
    token: usize,
}

impl<'a> SubSteps<'a> {
    pub fn new(chunks: &'a [(usize, Rows)], capacity: Capacity) -> SubSteps<'a> {
        SubSteps { chunks, capacity, chunk: 0, token: 0 }
    }

    /// Whether nothing is left.
    pub fn is_done(&self) -> bool {
        self.chunk >= self.chunks.len()
    }

    /// Fills `pieces` with the next sub-step; false when nothing is left.
    pub fn next_into(&mut self, pieces: &mut Vec<Piece>) -> bool {
        pieces.clear();
        let mut left = self.capacity;
        while let Some(&(len, rows)) = self.chunks.get(self.chunk) {
            let count = fitting(len, self.token, rows, left);
            if count == 0 {
                break;
            }
            let tokens = self.token..self.token + count;
            let rows = match rows {
                Rows::None => tokens.end..tokens.end,
                Rows::Last => (len - 1).clamp(tokens.start, tokens.end)..tokens.end,
                Rows::All => tokens.clone(),
            };
            left.tokens -= count;
            left.rows -= rows.len();
            left.sequences -= 1;
            self.token = tokens.end;
            pieces.push(Piece { chunk: self.chunk, tokens, rows });
            if self.token < len {
                break;
            }
            (self.chunk, self.token) = (self.chunk + 1, 0);
        }
        !pieces.is_empty()
    }
}

/// How many tokens of a chunk of `len`, from `start` on, fit what is left.
fn fitting(len: usize, start: usize, rows: Rows, left: Capacity) -> usize {
    let count = (len - start).min(left.tokens);
    match rows {
        _ if left.sequences == 0 => 0,
        Rows::None => count,
        Rows::Last if left.rows == 0 => count.min(len - 1 - start),
        Rows::Last => count,
        Rows::All => count.min(left.rows),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut(chunks: &[(usize, Rows)], capacity: Capacity) -> Vec<Vec<Piece>> {
        let (mut steps, mut pieces, mut all) = (SubSteps::new(chunks, capacity), Vec::new(), Vec::new());
        while steps.next_into(&mut pieces) {
            all.push(pieces.clone());
        }
        all
    }

    #[test]
    fn a_long_prompt_is_cut_at_the_bucket() {
        let capacity = Capacity { tokens: 8, rows: 2, sequences: 2 };
        let steps = cut(&[(19, Rows::Last)], capacity);
        let spans: Vec<_> = steps.iter().flatten().map(|p| (p.tokens.clone(), p.rows.clone())).collect();
        assert_eq!(spans, [(0..8, 8..8), (8..16, 16..16), (16..19, 18..19)]);
    }

    #[test]
    fn small_chunks_share_a_step() {
        let capacity = Capacity { tokens: 8, rows: 2, sequences: 4 };
        let steps = cut(&[(1, Rows::Last), (1, Rows::None), (1, Rows::Last), (2, Rows::Last)], capacity);
        // The third row of logits does not fit, but the token before it does.
        assert_eq!(steps.iter().map(Vec::len).collect::<Vec<_>>(), [4, 1]);
        assert_eq!(steps[0][3], Piece { chunk: 3, tokens: 0..1, rows: 1..1 });
        assert_eq!(steps[1][0], Piece { chunk: 3, tokens: 1..2, rows: 1..2 });
    }

    proptest! {
        #[test]
        fn every_token_and_row_appears_once_in_order_within_capacity(
            chunks in prop::collection::vec((1usize..40, prop_oneof![Just(Rows::None), Just(Rows::Last), Just(Rows::All)]), 0..8),
            tokens in 1usize..20, rows in 1usize..20, sequences in 1usize..4,
        ) {
            let capacity = Capacity { tokens, rows: rows.min(tokens), sequences };
            let mut reached: Vec<(usize, usize)> = chunks.iter().map(|_| (0, 0)).collect();
            let mut current = 0;
            for step in cut(&chunks, capacity) {
                prop_assert!(step.iter().map(|p| p.tokens.len()).sum::<usize>() <= capacity.tokens);
                prop_assert!(step.iter().map(|p| p.rows.len()).sum::<usize>() <= capacity.rows);
                prop_assert!(step.len() <= sequences);
                for piece in step {
                    prop_assert!(piece.chunk >= current && !piece.tokens.is_empty());
                    current = piece.chunk;
                    let (seen, rows) = &mut reached[piece.chunk];
                    prop_assert_eq!(piece.tokens.start, *seen);
                    prop_assert!(piece.rows.is_empty() || piece.rows.end <= piece.tokens.end);
                    prop_assert!(piece.rows.start >= piece.tokens.start);
                    *seen = piece.tokens.end;
                    *rows += piece.rows.len();
                    if !piece.rows.is_empty() && chunks[piece.chunk].1 == Rows::Last {
                        prop_assert_eq!(&piece.rows, &(chunks[piece.chunk].0 - 1..chunks[piece.chunk].0));
                    }
                }
            }
            for ((len, rows), (seen, given)) in chunks.iter().zip(reached) {
                prop_assert_eq!((seen, given), (*len, rows.count(*len)));
            }
        }
    }
}
