//! Which rows meet which matrix: (token, slot) pairs sorted by expert and cut into items of at most a tile block's rows.
//!
//! Grouped, the weights of an expert are read once for many tokens; what is not selected costs nothing. The sort is a
//! counting sort, stable and without allocation, repeated by every call: a few nanoseconds a pair and expert against the
//! product of whole matrices.

use crate::abi::GroupedMatmulParams;

/// The pairs of a launch and how they find their matrices.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grouping {
    /// Tokens of the launch.
    pub tokens: usize,
    /// Slots of a token.
    pub slots: usize,
    /// Matrices there are.
    pub matrices: usize,
    /// Each pair's matrix, `[tokens, slots]`, not followed before [`Groups::new`]; `None` where slot `j` meets matrix `j`.
    pub experts: Option<*const i32>,
}

impl Grouping {
    /// One matrix for all tokens.
    pub fn single(tokens: u32) -> Grouping {
        Grouping { tokens: tokens as usize, slots: 1, matrices: 1, experts: None }
    }

    fn pairs(&self) -> usize {
        self.tokens * self.slots
    }
}

impl From<&GroupedMatmulParams> for Grouping {
    fn from(params: &GroupedMatmulParams) -> Grouping {
        let GroupedMatmulParams { tokens, slots, matrices, experts, .. } = *params;
        let experts = (!experts.is_null()).then_some(experts);
        Grouping { tokens: tokens as usize, slots: slots as usize, matrices: matrices as usize, experts }
    }
}

/// Pairs that share a matrix; pair `p` is slot `p % slots` of token `p / slots`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pairs<'a> {
    /// These.
    Listed(&'a [u32]),
    /// `count` pairs, `stride` apart.
    Spaced { first: usize, stride: usize, count: usize },
}

impl Pairs<'_> {
    /// How many.
    #[inline(always)]
    pub fn len(&self) -> usize {
        match self {
            Pairs::Listed(pairs) => pairs.len(),
            Pairs::Spaced { count, .. } => *count,
        }
    }

    /// The `i`-th.
    #[inline(always)]
    pub fn get(&self, i: usize) -> usize {
        match self {
            Pairs::Listed(pairs) => pairs[i] as usize,
            Pairs::Spaced { first, stride, .. } => first + i * stride,
        }
    }
}

/// What one row block of the weights is multiplied by at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Item<'a> {
    /// The matrix; `None` if there is none of the expert's number.
    pub matrix: Option<usize>,
    /// At least one pair.
    pub pairs: Pairs<'a>,
}

/// All pairs of a launch as items of at most `most` pairs.
pub(crate) struct Groups<'a> {
    grouping: Grouping,
    most: usize,
    sorted: Option<Sorted<'a>>,
}

/// Pairs by matrix, those without one last.
struct Sorted<'a> {
    pairs: &'a [u32],
    /// Where the pairs of each matrix begin, and of those without, and where they end.
    starts: &'a [u32],
}

/// Words of memory the grouping needs.
pub(crate) fn words(grouping: &Grouping) -> usize {
    if grouping.experts.is_some() { grouping.pairs() + grouping.matrices + 3 } else { 0 }
}

/// The greatest number of items there can be, whatever the experts.
pub(crate) fn most_items(grouping: &Grouping, most: usize) -> usize {
    if grouping.experts.is_none() {
        return grouping.slots * grouping.tokens.div_ceil(most);
    }
    // n pairs make at most (n + most - 1) / most items; there are no more groups than pairs.
    let groups = (grouping.matrices + 1).min(grouping.pairs());
    (grouping.pairs() + (most - 1) * groups) / most
}

impl<'a> Groups<'a> {
    /// Groups the pairs of a launch in items of at most `most`. `memory` holds [`words`].
    ///
    /// # Safety
    /// The experts must be valid.
    pub unsafe fn new(grouping: Grouping, most: usize, memory: &'a mut [u32]) -> Groups<'a> {
        let sorted = grouping.experts.map(|experts| {
            // SAFETY: the caller's.
            let experts = unsafe { std::slice::from_raw_parts(experts, grouping.pairs()) };
            Sorted::new(experts, grouping.matrices, memory)
        });
        Groups { grouping, most, sorted }
    }

    /// How many items there are.
    pub fn len(&self) -> usize {
        match &self.sorted {
            None => most_items(&self.grouping, self.most),
            Some(sorted) => sorted.groups().map(|(_, pairs)| pairs.len().div_ceil(self.most)).sum(),
        }
    }

    /// The items from number `first` on, in order of their matrices.
    pub fn items(&self, first: usize) -> impl Iterator<Item = Item<'a>> {
        let spaced = self.sorted.is_none().then(|| self.spaced(first)).into_iter().flatten();
        let listed = self.sorted.iter().flat_map(|sorted| sorted.items(self.most)).skip(first);
        spaced.chain(listed)
    }

    /// Items where slot `j` meets matrix `j`.
    fn spaced(&self, first: usize) -> impl Iterator<Item = Item<'a>> {
        let Grouping { tokens, slots, matrices, .. } = self.grouping;
        let most = self.most;
        let cuts = tokens.div_ceil(most);
        (first..slots * cuts).map(move |item| {
            let (slot, token) = (item / cuts, item % cuts * most);
            let count = most.min(tokens - token);
            let pairs = Pairs::Spaced { first: token * slots + slot, stride: slots, count };
            Item { matrix: (slot < matrices).then_some(slot), pairs }
        })
    }
}

impl<'a> Sorted<'a> {
    fn new(experts: &[i32], matrices: usize, memory: &'a mut [u32]) -> Sorted<'a> {
        let (pairs, starts) = memory.split_at_mut(experts.len());
        let starts = &mut starts[..matrices + 3];
        let group = |expert: i32| usize::try_from(expert).map_or(matrices, |e| e.min(matrices));
        starts.fill(0);
        experts.iter().for_each(|e| starts[group(*e) + 2] += 1);
        for i in 2..starts.len() {
            starts[i] += starts[i - 1];
        }
        // Entry g + 1 is where the next pair of group g goes, in the end where group g ends.
        for (pair, expert) in (0u32..).zip(experts) {
            let next = &mut starts[group(*expert) + 1];
            pairs[*next as usize] = pair;
            *next += 1;
        }
        Sorted { pairs, starts: &starts[..matrices + 2] }
    }

    /// The pairs of each matrix and of those without.
    fn groups(&self) -> impl Iterator<Item = (usize, &'a [u32])> {
        let (pairs, starts) = (self.pairs, self.starts);
        starts.windows(2).map(move |ends| &pairs[ends[0] as usize..ends[1] as usize]).enumerate()
    }

    fn items(&self, most: usize) -> impl Iterator<Item = Item<'a>> {
        let matrices = self.starts.len() - 2;
        self.groups().flat_map(move |(group, pairs)| {
            let matrix = (group < matrices).then_some(group);
            pairs.chunks(most).map(move |pairs| Item { matrix, pairs: Pairs::Listed(pairs) })
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn grouping(experts: Option<&[i32]>, tokens: usize, slots: usize, matrices: usize) -> Grouping {
        Grouping { tokens, slots, matrices, experts: experts.map(<[i32]>::as_ptr) }
    }

    proptest! {
        /// Every pair is in one item, with its expert, in order, and the items are no more than foretold.
        #[test]
        fn items_hold_every_pair_once(
            experts in prop::collection::vec(-2i32..9, 0..200), slots in 1usize..5, matrices in 0usize..8,
            most in 1usize..20, by_slot: bool, first in 0usize..10,
        ) {
            let tokens = experts.len() / slots;
            let experts = &experts[..tokens * slots];
            let grouping = grouping((!by_slot).then_some(experts), tokens, slots, matrices);
            let mut memory = vec![7; words(&grouping)];
            // SAFETY: the experts are as many as the grouping says.
            let groups = unsafe { Groups::new(grouping, most, &mut memory) };
            let items: Vec<_> = groups.items(0).collect();
            prop_assert_eq!(items.len(), groups.len());
            prop_assert!(items.len() <= most_items(&grouping, most));
            prop_assert_eq!(groups.items(first).collect::<Vec<_>>(), items.get(first..).unwrap_or_default());
            let mut seen = vec![false; experts.len()];
            for item in &items {
                prop_assert!((1..=most).contains(&item.pairs.len()));
                let mut last = None;
                for i in 0..item.pairs.len() {
                    let pair = item.pairs.get(i);
                    let expert = if by_slot { pair % slots } else { experts[pair] as usize };
                    prop_assert_eq!(item.matrix, (expert < matrices).then_some(expert));
                    prop_assert!(last < Some(pair) && !seen[pair]);
                    (last, seen[pair]) = (Some(pair), true);
                }
            }
            prop_assert!(seen.iter().all(|s| *s));
        }
    }

    /// Decoding makes no more items than it has slots: the grid has no empty blocks.
    #[test]
    fn few_pairs_make_few_items() {
        let (decode, batch) = (grouping(Some(&[3, 1]), 1, 2, 128), grouping(Some(&[0; 4096]), 512, 8, 128));
        assert_eq!(most_items(&decode, 64), 2);
        assert_eq!(most_items(&batch, 64), 190);
        assert_eq!(most_items(&grouping(None, 130, 16, 16), 64), 48);
        assert_eq!(most_items(&grouping(Some(&[]), 0, 2, 8), 64), 0);
    }
}
