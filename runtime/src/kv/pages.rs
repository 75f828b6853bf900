//! Which sequence holds which page of the KV cache: a state machine without memory, device or clock.
//!
//! Pages hold 16 tokens and are counted by reference, so that sequences may share a prefix. Only full pages are shared and
//! only a sequence's own last page is ever written, hence nothing is copied; the price is that at most 15 tokens
//! of a common prefix are computed again.

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
        /// Pages that were free.
        free: u64,
    },
    /// The sequence was closed or is of another pool.
    #[error("there is no sequence {0:?}")]
    UnknownSequence(SequenceId),
    /// The sequence has fewer tokens than the call assumes, or they end within a shared page.
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
    tables: HashMap<SequenceId, Table>,
    next: u64,
}

impl PagePool {
    /// A pool of `pages` free pages.
    pub fn new(pages: u32) -> PagePool {
        PagePool {
            free: (0..pages).rev().collect(),
            references: vec![0; pages as usize],
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

    /// Number of open sequences.
    pub fn sequences(&self) -> usize {
        self.tables.len()
    }

    /// Opens an empty sequence.
    pub fn open(&mut self) -> SequenceId {
        self.insert(Table::default())
    }

    /// Opens a sequence that shares the first `tokens` tokens of another: a multiple of 16 that it has.
    ///
    /// # Errors
    /// No such sequence or length.
    pub fn fork(&mut self, sequence: SequenceId, tokens: u64) -> Result<SequenceId, PageError> {
        let table = self.tables.get(&sequence).ok_or(PageError::UnknownSequence(sequence))?;
        if tokens > table.tokens || !tokens.is_multiple_of(PAGE_TOKENS) {
            return Err(PageError::BadLength { sequence, tokens, held: table.tokens });
        }
        let pages = table.pages[..(tokens / PAGE_TOKENS) as usize].to_vec();
        pages.iter().for_each(|p| self.references[*p as usize] += 1);
        Ok(self.insert(Table { pages, tokens }))
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

    /// Shortens a sequence to `tokens`, giving back the pages past them. It may not end within a shared page, which
    /// the next append would write.
    ///
    /// # Errors
    /// No such sequence or length.
    pub fn truncate(&mut self, sequence: SequenceId, tokens: u64) -> Result<(), PageError> {
        let table = self.tables.get_mut(&sequence).ok_or(PageError::UnknownSequence(sequence))?;
        let keep = tokens.div_ceil(PAGE_TOKENS) as usize;
        let shared = |page: &u32| self.references[*page as usize] > 1;
        let cuts_shared = !tokens.is_multiple_of(PAGE_TOKENS) && table.pages.get(keep - 1).is_some_and(shared);
        if tokens > table.tokens || (tokens < table.tokens && cuts_shared) {
            return Err(PageError::BadLength { sequence, tokens, held: table.tokens });
        }
        table.tokens = tokens;
        let dropped = table.pages.split_off(keep);
        self.release(dropped);
        Ok(())
    }

    /// Ends a sequence and gives back its pages.
    ///
    /// # Errors
    /// No such sequence.
    pub fn close(&mut self, sequence: SequenceId) -> Result<(), PageError> {
        let table = self.tables.remove(&sequence).ok_or(PageError::UnknownSequence(sequence))?;
        self.release(table.pages);
        Ok(())
    }

    /// Drops one reference to each page; those nobody holds become free, the last given first.
    fn release(&mut self, pages: Vec<u32>) {
        for page in pages.into_iter().rev() {
            self.references[page as usize] -= 1;
            if self.references[page as usize] == 0 {
                self.free.push(page);
            }
        }
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
        let mut held = vec![0; pool.references.len()];
        let mut contents: HashMap<u32, &[u64]> = HashMap::new();
        for (id, tokens) in &model.sequences {
            assert_eq!(pool.tokens(*id).unwrap(), tokens.len() as u64);
            let pages = pool.table(*id).unwrap();
            assert_eq!(pages.len(), tokens.len().div_ceil(16));
            for (page, content) in pages.iter().zip(tokens.chunks(16)) {
                held[*page as usize] += 1;
                assert_eq!(*contents.entry(*page).or_insert(content), content, "page {page} holds two contents");
            }
        }
        assert_eq!(held, pool.references);
        let mut free = pool.free.clone();
        free.sort_unstable();
        let unheld: Vec<u32> = (0..held.len() as u32).filter(|p| held[*p as usize] == 0).collect();
        assert_eq!(free, unheld);
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
                    Ok(new) => model.sequences.push((new, tokens[..n as usize].to_vec())),
                    Err(_) => assert!(n % 16 != 0 || n > tokens.len() as u64),
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
                if pool.truncate(*id, n).is_ok() {
                    tokens.truncate(n as usize);
                } else {
                    assert!(n > tokens.len() as u64 || n % 16 != 0);
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
    fn a_shared_page_is_not_cut() {
        let mut pool = PagePool::new(4);
        let first = pool.open();
        pool.append(first, 32).unwrap();
        let second = pool.fork(first, 16).unwrap();
        assert!(matches!(pool.truncate(first, 8), Err(PageError::BadLength { tokens: 8, held: 32, .. })));
        pool.close(second).unwrap();
        assert_eq!(pool.truncate(first, 8), Ok(()));
    }
}
