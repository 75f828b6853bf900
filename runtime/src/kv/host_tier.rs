//! Pages in the memory of the host: what the device had to give up, and what a new process found on disk.
//!
//! Bounded in bytes, the least recently used go first. A page is either here or on the device, so that memory holds each
//! once; bytes are shared with the writer of the disk tier while it needs them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::key::{PageKey, PageTokens, Place, longest_beginning};

/// A page's contents off the device.
#[derive(Clone, Debug)]
pub(crate) struct HostPage {
    /// Its tokens and the page before it.
    pub place: Place,
    /// As a device's `read_page` gave them.
    pub bytes: Arc<Vec<u8>>,
    /// Whether the disk tier has it.
    pub on_disk: bool,
}

/// Stamps of pages that were used begin here; below are those of pages found on disk, the most recent one highest.
const FIRST_USE: u64 = 1 << 32;

/// The tier.
#[derive(Debug)]
pub(crate) struct HostTier {
    budget: u64,
    used: u64,
    pages: HashMap<PageKey, (HostPage, u64)>,
    order: BTreeSet<(u64, PageKey)>,
    clock: u64,
    warmed: u64,
}

impl HostTier {
    /// An empty tier of at most `budget` bytes.
    pub fn new(budget: u64) -> HostTier {
        let (pages, order) = (HashMap::new(), BTreeSet::new());
        HostTier { budget, used: 0, pages, order, clock: FIRST_USE, warmed: 0 }
    }

    /// Bytes of the pages it holds.
    pub fn bytes(&self) -> u64 {
        self.used
    }

    /// Whether a page of that many bytes can be kept at all.
    pub fn takes(&self, bytes: u64) -> bool {
        bytes <= self.budget
    }

    /// Whether it has a page of this key.
    pub fn contains(&self, key: &PageKey) -> bool {
        self.pages.contains_key(key)
    }

    /// Keeps a page, giving up the least recently used ones.
    pub fn insert(&mut self, key: PageKey, page: HostPage) {
        let bytes = page.bytes.len() as u64;
        if !self.takes(bytes) {
            return;
        }
        self.take(&key);
        while self.used + bytes > self.budget {
            let Some((_, oldest)) = self.order.first().copied() else { break };
            self.take(&oldest);
        }
        self.clock += 1;
        self.add(key, page, self.clock);
    }

    /// Keeps a page that was found on disk, if there is room; pages come in the order of their last use, latest first.
    /// False if there was none.
    pub fn insert_found(&mut self, key: PageKey, page: HostPage) -> bool {
        if self.used + page.bytes.len() as u64 > self.budget {
            return false;
        }
        self.warmed += 1;
        if !self.contains(&key) {
            self.add(key, page, FIRST_USE.saturating_sub(self.warmed));
        }
        true
    }

    fn add(&mut self, key: PageKey, page: HostPage, stamp: u64) {
        self.used += page.bytes.len() as u64;
        self.order.insert((stamp, key));
        self.pages.insert(key, (page, stamp));
    }

    /// The page of a key, if it holds these tokens.
    pub fn get(&self, key: &PageKey, tokens: &PageTokens) -> Option<HostPage> {
        self.pages.get(key).map(|(page, _)| page).filter(|p| p.place.tokens == *tokens).cloned()
    }

    /// The page of a key.
    pub fn page(&self, key: &PageKey) -> Option<&HostPage> {
        self.pages.get(key).map(|(page, _)| page)
    }

    /// A page that follows a key of `chain` and begins with the most of `rest`, as [`longest_beginning`] has it.
    pub fn longest_beginning(&self, chain: &[PageKey], rest: &[u32]) -> Option<(PageKey, PageTokens, usize)> {
        longest_beginning(self.pages.iter().map(|(key, (page, _))| (key, &page.place.tokens)), chain, rest)
    }

    /// Takes out a page.
    pub fn take(&mut self, key: &PageKey) -> Option<HostPage> {
        let (page, stamp) = self.pages.remove(key)?;
        self.order.remove(&(stamp, *key));
        self.used -= page.bytes.len() as u64;
        Some(page)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kv::salt::CacheSalt;

    fn key(n: u32) -> PageKey {
        PageKey::root(&CacheSalt::PUBLIC, n as i32)
    }

    fn page(n: u32, bytes: usize) -> HostPage {
        HostPage {
            place: Place { tokens: [n; 16], parent: None },
            bytes: Arc::new(vec![n as u8; bytes]),
            on_disk: false,
        }
    }

    #[test]
    fn the_least_recently_used_goes_first_and_found_pages_take_only_room_that_is_left() {
        let mut tier = HostTier::new(30);
        assert!(tier.insert_found(key(1), page(1, 10)) && tier.insert_found(key(2), page(2, 10)));
        tier.insert(key(3), page(3, 10));
        assert!(!tier.insert_found(key(4), page(4, 1)));
        tier.insert(key(5), page(5, 10));
        assert!(!tier.contains(&key(2)), "the found page that was used longest ago went first");
        tier.insert(key(6), page(6, 20));
        assert!([1, 3].iter().all(|k| !tier.contains(&key(*k))) && tier.contains(&key(5)));
        assert_eq!((tier.get(&key(5), &[4; 16]).is_some(), tier.get(&key(5), &[5; 16]).is_some()), (false, true));
        tier.insert(key(7), page(7, 31));
        assert!(!tier.contains(&key(7)) && tier.bytes() == 30);
    }

    proptest! {
        #[test]
        fn bytes_are_those_of_the_pages_and_within_the_budget(
            budget in 0u64..40, actions in prop::collection::vec((0u32..8, 0usize..20, 0u8..3), 0..80),
        ) {
            let mut tier = HostTier::new(budget);
            for (k, bytes, action) in actions {
                match action {
                    0 => tier.insert(key(k), page(k, bytes)),
                    1 => { tier.insert_found(key(k), page(k, bytes)); }
                    _ => { tier.take(&key(k)); }
                }
                let sum: usize = tier.pages.values().map(|(p, _)| p.bytes.len()).sum();
                prop_assert_eq!(sum as u64, tier.bytes());
                prop_assert!(tier.bytes() <= budget);
                prop_assert_eq!(tier.order.len(), tier.pages.len());
            }
        }
    }
}
