//! Which sequence holds which page of the KV cache: a state machine without memory, device or clock.
//!
//! Pages hold 16 tokens and are counted by reference, so that sequences may share a prefix and the prefix tree may keep
//! pages that no sequence holds. A page is written by one holder only: where a sequence must go on within a page
//! that others hold, it gets a copy, which the caller makes from the [`PageCopy`] that the call gives.

use std::collections::HashMap;

use ir::op::PAGE_TOKENS;

/// Names a sequence; never reused within a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceId(u64);

/// Why pages could not be given or taken back. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    /// Too few pages are free.
    #[error(
        "the KV cache is full: {needed} pages of 16 tokens needed, {free} free; end a sequence or make the cache larger"
    )]
    OutOfPages {
        /// Pages the call needed.
        needed: u64,
        /// Pages that were free, or held for nobody but the prefix tree.
        free: u64,
    },
    /// The sequence was closed or is of another pool.
    #[error("there is no sequence {0:?}")]
    UnknownSequence(SequenceId),
    /// The sequence has fewer tokens than the call assumes.
    #[error("sequence {sequence:?} cannot be cut at token {tokens} of {held}")]
    BadLength {
        /// The sequence.
        sequence: SequenceId,
        /// The length asked for.
        tokens: u64,
        /// The length it has.
        held: u64,
    },
}

/// The contents of one page that must be copied to another before the next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct PageCopy {
    /// The shared page.
    pub from: u32,
    /// A page of the sequence's own.
    pub to: u32,
}

/// A sequence's pages, first tokens first, and how many tokens they hold.
#[derive(Clone, Debug, Default)]
struct Table {
    pages: Vec<u32>,
    tokens: u64,
}

/// A pool of pages and the sequences that hold them.
#[derive(Debug)]
pub struct PagePool {
    /// Free pages; the last is given next, so that few pages are touched in all.
    free: Vec<u32>,
    references: Vec<u32>,
    /// Whether one of a page's references is the prefix tree's.
    cached: Vec<bool>,
    /// Pages whose only reference is the prefix tree's.
    evictable: u64,
    tables: HashMap<SequenceId, Table>,
    next: u64,
}

impl PagePool {
    /// A pool of `pages` free pages.
    pub fn new(pages: u32) -> PagePool {
        PagePool {
            free: (0..pages).rev().collect(),
            references: vec![0; pages as usize],
            cached: vec![false; pages as usize],
            evictable: 0,
            tables: HashMap::new(),
            next: 0,
        }
    }

    /// Pages in all.
    pub fn pages(&self) -> u64 {
        self.references.len() as u64
    }

    /// Pages nobody holds.
    pub fn free_pages(&self) -> u64 {
        self.free.len() as u64
    }

    /// Pages that only the prefix tree holds.
    pub fn evictable_pages(&self) -> u64 {
        self.evictable
    }

    /// Number of open sequences.
    pub fn sequences(&self) -> usize {
        self.tables.len()
    }

    /// Opens an empty sequence.
    pub fn open(&mut self) -> SequenceId {
        self.insert(Table::default())
    }

    /// Opens a sequence that shares the first `tokens` tokens of another. If they end within a page, the new sequence takes
    /// a page, into which that one is to be copied.
    ///
    /// # Errors
    /// No such sequence or length, or no free page for the copy.
    pub fn fork(&mut self, sequence: SequenceId, tokens: u64) -> Result<(SequenceId, Option<PageCopy>), PageError> {
        let table = self.tables.get(&sequence).ok_or(PageError::UnknownSequence(sequence))?;
        if tokens > table.tokens {
            return Err(PageError::BadLength { sequence, tokens, held: table.tokens });
        }
        let whole = (tokens / PAGE_TOKENS) as usize;
        let partial = (!tokens.is_multiple_of(PAGE_TOKENS)).then(|| table.pages[whole]);
        let shared = table.pages[..whole].to_vec();
        self.open_with(&shared, partial, tokens)
    }

    /// Opens a sequence of `tokens` tokens that shares pages which others or the tree hold, and begins a page of its own
    /// as a copy of `partial`.
    ///
    /// # Errors
    /// No free page for the copy.
    pub(super) fn open_with(
        &mut self,
        shared: &[u32],
        partial: Option<u32>,
        tokens: u64,
    ) -> Result<(SequenceId, Option<PageCopy>), PageError> {
        let copy = match partial {
            None => None,
            Some(from) => Some(PageCopy { from, to: self.take().ok_or(PageError::OutOfPages { needed: 1, free: 0 })? }),
        };
        shared.iter().for_each(|page| self.retain(*page));
        let pages = shared.iter().copied().chain(copy.map(|c| c.to)).collect();
        Ok((self.insert(Table { pages, tokens }), copy))
    }

    fn insert(&mut self, table: Table) -> SequenceId {
        let id = SequenceId(self.next);
        self.next += 1;
        self.tables.insert(id, table);
        id
    }

    /// Tokens a sequence holds.
    ///
    /// # Errors
    /// No such sequence.
    pub fn tokens(&self, sequence: SequenceId) -> Result<u64, PageError> {
        self.tables.get(&sequence).map(|t| t.tokens).ok_or(PageError::UnknownSequence(sequence))
    }

    /// A sequence's pages: token `p` is in slot `p % 16` of page `p / 16`.
    ///
    /// # Errors
    /// No such sequence.
    pub fn table(&self, sequence: SequenceId) -> Result<&[u32], PageError> {
        self.tables.get(&sequence).map(|t| t.pages.as_slice()).ok_or(PageError::UnknownSequence(sequence))
    }

    /// Pages that appending `tokens` would take.
    ///
    /// # Errors
    /// No such sequence.
    pub fn pages_to_append(&self, sequence: SequenceId, tokens: u64) -> Result<u64, PageError> {
        let table = self.tables.get(&sequence).ok_or(PageError::UnknownSequence(sequence))?;
        Ok(table.tokens.saturating_add(tokens).div_ceil(PAGE_TOKENS) - table.pages.len() as u64)
    }

    /// Lengthens a sequence by `tokens`, taking pages as needed.
    ///
    /// # Errors
    /// No such sequence, or too few pages.
    pub fn append(&mut self, sequence: SequenceId, tokens: u64) -> Result<(), PageError> {
        let needed = self.pages_to_append(sequence, tokens)?;
        let free = self.free_pages();
        if needed > free {
            return Err(PageError::OutOfPages { needed, free });
        }
        let table = self.tables.get_mut(&sequence).ok_or(PageError::UnknownSequence(sequence))?;
        for page in self.free.drain((free - needed) as usize..).rev() {
            self.references[page as usize] = 1;
            table.pages.push(page);
        }
        table.tokens += tokens;
        Ok(())
    }

    /// Whether shortening a sequence to `tokens` takes a page: it then ends within a page that others hold too.
    pub fn truncating_copies(&self, sequence: SequenceId, tokens: u64) -> bool {
        let Some(table) = self.tables.get(&sequence).filter(|t| tokens < t.tokens) else { return false };
        let last = (tokens / PAGE_TOKENS) as usize;
        !tokens.is_multiple_of(PAGE_TOKENS) && table.pages.get(last).is_some_and(|p| self.references[*p as usize] > 1)
    }

    /// Shortens a sequence to `tokens`, giving back the pages past them. If it then ends within a page that others hold
    /// too, that page is replaced by one it is to be copied into.
    ///
    /// # Errors
    /// No such sequence or length, or no free page for the copy.
    pub fn truncate(&mut self, sequence: SequenceId, tokens: u64) -> Result<Option<PageCopy>, PageError> {
        let held = self.tokens(sequence)?;
        if tokens > held {
            return Err(PageError::BadLength { sequence, tokens, held });
        }
        let keep = tokens.div_ceil(PAGE_TOKENS) as usize;
        let copy_to = match self.truncating_copies(sequence, tokens) {
            false => None,
            true => Some(self.take().ok_or(PageError::OutOfPages { needed: 1, free: 0 })?),
        };
        let table = self.tables.get_mut(&sequence).ok_or(PageError::UnknownSequence(sequence))?;
        table.tokens = tokens;
        let mut dropped = table.pages.split_off(keep);
        let copy = copy_to.map(|to| PageCopy { from: std::mem::replace(&mut table.pages[keep - 1], to), to });
        dropped.extend(copy.map(|c| c.from));
        self.release_all(dropped);
        Ok(copy)
    }

    /// Ends a sequence and gives back its pages.
    ///
    /// # Errors
    /// No such sequence.
    pub fn close(&mut self, sequence: SequenceId) -> Result<(), PageError> {
        let table = self.tables.remove(&sequence).ok_or(PageError::UnknownSequence(sequence))?;
        self.release_all(table.pages);
        Ok(())
    }

    /// How many hold a page: sequences, the tree, and pins.
    pub(super) fn references(&self, page: u32) -> u32 {
        self.references[page as usize]
    }

    /// Takes a free page for the caller, who holds the one reference to it.
    pub(super) fn take(&mut self) -> Option<u32> {
        let page = self.free.pop()?;
        self.references[page as usize] = 1;
        Some(page)
    }

    /// Adds a reference to a page that somebody holds.
    pub(super) fn retain(&mut self, page: u32) {
        let count = &mut self.references[page as usize];
        debug_assert!(*count > 0, "page {page} is free");
        self.evictable -= u64::from(self.cached[page as usize] && *count == 1);
        *count += 1;
    }

    /// Drops a reference to a page; one that nobody holds becomes free.
    pub(super) fn release(&mut self, page: u32) {
        let count = &mut self.references[page as usize];
        *count -= 1;
        match *count {
            0 => self.free.push(page),
            1 => self.evictable += u64::from(self.cached[page as usize]),
            _ => {}
        }
    }

    /// Adds the tree's reference to a page that somebody holds.
    pub(super) fn cache(&mut self, page: u32) {
        debug_assert!(!self.cached[page as usize], "page {page} is cached twice");
        self.retain(page);
        self.cached[page as usize] = true;
    }

    /// Drops the tree's reference to a page.
    pub(super) fn uncache(&mut self, page: u32) {
        self.evictable -= u64::from(self.references[page as usize] == 1);
        self.cached[page as usize] = false;
        self.release(page);
    }

    /// Lets a sequence hold another page of equal contents in place of the one of this index.
    pub(super) fn replace(&mut self, sequence: SequenceId, index: usize, page: u32) -> Result<(), PageError> {
        self.retain(page);
        let table = self.tables.get_mut(&sequence).ok_or(PageError::UnknownSequence(sequence))?;
        let old = std::mem::replace(&mut table.pages[index], page);
        self.release(old);
        Ok(())
    }

    /// Drops one reference to each page, those of the last tokens first.
    fn release_all(&mut self, pages: Vec<u32>) {
        pages.into_iter().rev().for_each(|page| self.release(page));
    }

    /// Compares every count with what sequences and the tree hold, where each page of `pinned` has another reference.
    /// For tests.
    ///
    /// # Panics
    /// If a page is lost, held twice or counted wrongly.
    #[cfg(test)]
    pub(crate) fn check(&self, pinned: &[u32]) {
        let mut held: Vec<u32> = self.cached.iter().map(|c| u32::from(*c)).collect();
        pinned.iter().for_each(|p| held[*p as usize] += 1);
        for table in self.tables.values() {
            assert_eq!(table.pages.len() as u64, table.tokens.div_ceil(PAGE_TOKENS));
            table.pages.iter().for_each(|p| held[*p as usize] += 1);
        }
        assert_eq!(held, self.references);
        let mut free = self.free.clone();
        free.sort_unstable();
        let unheld: Vec<u32> = (0..held.len() as u32).filter(|p| held[*p as usize] == 0).collect();
        assert_eq!(free, unheld);
        let evictable = held.iter().zip(&self.cached).filter(|(count, cached)| **cached && **count == 1).count();
        assert_eq!(self.evictable, evictable as u64);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Action {
        Open,
        Fork(usize, u64),
        Append(usize, u64),
        Truncate(usize, u64),
        Close(usize),
    }

    fn actions() -> impl Strategy<Value = Vec<Action>> {
        let which = 0..6usize;
        let action = prop_oneof![
            2 => Just(Action::Open),
            2 => (which.clone(), 0..6u64).prop_map(|(s, p)| Action::Fork(s, p * 8)),
            6 => (which.clone(), 0..50u64).prop_map(|(s, n)| Action::Append(s, n)),
            2 => (which.clone(), 0..120u64).prop_map(|(s, n)| Action::Truncate(s, n)),
            2 => which.prop_map(Action::Close),
        ];
        prop::collection::vec(action, 0..60)
    }

    /// What the pool must agree with: each sequence's tokens, each token a unique number, shared when forked.
    #[derive(Default)]
    struct Model {
        sequences: Vec<(SequenceId, Vec<u64>)>,
        fresh: u64,
    }

    /// Every page is free or held exactly as often as counted; no page belongs to different contents.
    fn check(pool: &PagePool, model: &Model) {
        let mut contents: HashMap<u32, &[u64]> = HashMap::new();
        for (id, tokens) in &model.sequences {
            assert_eq!(pool.tokens(*id).unwrap(), tokens.len() as u64);
            let pages = pool.table(*id).unwrap();
            assert_eq!(pages.len(), tokens.len().div_ceil(16));
            for (page, content) in pages.iter().zip(tokens.chunks(16)) {
                assert_eq!(*contents.entry(*page).or_insert(content), content, "page {page} holds two contents");
            }
        }
        pool.check(&[]);
        assert_eq!(pool.sequences(), model.sequences.len());
    }

    fn apply(pool: &mut PagePool, model: &mut Model, action: &Action) {
        let find = |model: &Model, i: usize| (!model.sequences.is_empty()).then(|| i % model.sequences.len());
        match *action {
            Action::Open => model.sequences.push((pool.open(), Vec::new())),
            Action::Fork(s, n) => {
                let Some(i) = find(model, s) else { return };
                let (id, tokens) = model.sequences[i].clone();
                match pool.fork(id, n) {
                    Ok((new, copy)) => {
                        assert_eq!(copy.is_some(), n % 16 != 0);
                        model.sequences.push((new, tokens[..n as usize].to_vec()));
                    }
                    Err(PageError::OutOfPages { .. }) => assert_eq!((n % 16 != 0, pool.free_pages()), (true, 0)),
                    Err(_) => assert!(n > tokens.len() as u64),
                }
            }
            Action::Append(s, n) => {
                let Some(i) = find(model, s) else { return };
                let (id, tokens) = &mut model.sequences[i];
                let (needed, free) = (pool.pages_to_append(*id, n).unwrap(), pool.free_pages());
                match pool.append(*id, n) {
                    Ok(()) => {
                        tokens.extend(model.fresh..model.fresh + n);
                        model.fresh += n;
                    }
                    Err(e) => assert_eq!((e, needed > free), (PageError::OutOfPages { needed, free }, true)),
                }
            }
            Action::Truncate(s, n) => {
                let Some(i) = find(model, s) else { return };
                let (id, tokens) = &mut model.sequences[i];
                match pool.truncate(*id, n) {
                    Ok(_) => tokens.truncate(n as usize),
                    Err(PageError::OutOfPages { .. }) => assert_eq!((n % 16 != 0, pool.free_pages()), (true, 0)),
                    Err(_) => assert!(n > tokens.len() as u64),
                }
            }
            Action::Close(s) => {
                let Some(i) = find(model, s) else { return };
                let (id, _) = model.sequences.swap_remove(i);
                pool.close(id).unwrap();
                assert_eq!(pool.close(id), Err(PageError::UnknownSequence(id)));
            }
        }
    }

    proptest! {
        #[test]
        fn no_page_is_lost_or_held_twice(pages in 0u32..12, actions in actions()) {
            let (mut pool, mut model) = (PagePool::new(pages), Model::default());
            for action in &actions {
                apply(&mut pool, &mut model, action);
                check(&pool, &model);
            }
            for (id, _) in std::mem::take(&mut model.sequences) {
                pool.close(id).unwrap();
            }
            prop_assert_eq!(pool.free_pages(), u64::from(pages));
        }
    }

    #[test]
    fn a_full_pool_says_what_is_missing_and_changes_nothing() {
        let mut pool = PagePool::new(2);
        let id = pool.open();
        pool.append(id, 17).unwrap();
        assert_eq!(pool.append(id, 16), Err(PageError::OutOfPages { needed: 1, free: 0 }));
        assert_eq!(pool.tokens(id), Ok(17));
        pool.append(id, 15).unwrap();
        assert_eq!(pool.append(id, u64::MAX), Err(PageError::OutOfPages { needed: u64::MAX / 16 - 1, free: 0 }));
    }

    #[test]
    fn a_cut_within_a_shared_page_copies_it() {
        let mut pool = PagePool::new(4);
        let first = pool.open();
        pool.append(first, 32).unwrap();
        let (second, none) = pool.fork(first, 16).unwrap();
        assert_eq!(none, None);
        let shared = pool.table(first).unwrap()[0];
        let copy = pool.truncate(first, 8).unwrap().unwrap();
        assert_eq!((copy.from, pool.table(first).unwrap()), (shared, &[copy.to][..]));
        assert_eq!(pool.truncate(first, 4), Ok(None));
        let (third, copy) = pool.fork(first, 3).unwrap();
        assert_eq!(copy.unwrap().from, pool.table(first).unwrap()[0]);
        [first, second, third].into_iter().for_each(|id| pool.close(id).unwrap());
        assert_eq!(pool.free_pages(), 4);
    }
}
