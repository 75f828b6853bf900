//! The prefix tree: full pages of the device that may be shared, found by the text up to their end.
//!
//! A node is a page, its edge the page's 16 tokens, so nodes are named by page numbers. Keys are chained from the tenant, hence a
//! single table finds the child of any node; the tokens themselves are compared too. A page of the tree that no sequence
//! holds is evictable. Sequences hold whole paths from a root, so that whatever lies below an evictable node is evictable;
//! touching a path gives all its nodes one time of last use, and ties go to the deepest, so that leaves always go first.
//! Time is a count of uses: nothing here reads a clock.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};

use super::key::{self, PageKey, PageTokens, Place, full_pages};
use super::pages::PagePool;

/// A page of the tree.
#[derive(Clone, Debug)]
struct Node {
    key: PageKey,
    tokens: PageTokens,
    /// `None` for the first page of a text.
    parent: Option<u32>,
    children: Vec<u32>,
    /// Pages before it.
    depth: u32,
    last_use: u64,
}

/// A page that was taken out of the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Evicted {
    /// The page, now free.
    pub page: u32,
    /// Its key.
    pub key: PageKey,
    /// Its tokens and the page before it.
    pub place: Place,
}

/// What became of a page that was offered to the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Published {
    /// It is a node now.
    Added,
    /// This page has the same tokens after the same path; use it instead.
    Existing(u32),
    /// The key belongs to a page after another path of equal text; the offered page stays private.
    Refused,
}

/// The tree.
#[derive(Debug, Default)]
pub(crate) struct PrefixTree {
    /// By page.
    nodes: Vec<Option<Node>>,
    index: HashMap<PageKey, u32>,
    /// The order of eviction: least recently used first, deepest first among those used together.
    order: BTreeSet<(u64, Reverse<u32>, u32)>,
    clock: u64,
}

impl PrefixTree {
    /// An empty tree over a pool's pages.
    pub fn new(pages: u64) -> PrefixTree {
        PrefixTree { nodes: (0..pages).map(|_| None).collect(), ..PrefixTree::default() }
    }

    /// Nodes in the tree.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    fn node(&self, page: u32) -> Option<&Node> {
        self.nodes.get(page as usize)?.as_ref()
    }

    /// The page of a key, if it holds these tokens after that parent.
    fn child(&self, parent: Option<u32>, key: &PageKey, tokens: &PageTokens) -> Option<u32> {
        let page = *self.index.get(key)?;
        self.node(page).filter(|n| n.parent == parent && n.tokens == *tokens).map(|_| page)
    }

    /// The longest path of pages that hold the beginning of `tokens`: pages that anybody may use, or such pages followed by
    /// the tenant's own. `own` and `public` are the keys of the full pages, the latter empty if the tenant is everybody.
    pub fn longest_path(&self, tokens: &[u32], own: &[PageKey], public: &[PageKey]) -> Vec<u32> {
        let (mut private, mut open) = (Vec::new(), Vec::new());
        let mut open_ended = false;
        let mut private_ended = false;
        for (i, page) in full_pages(tokens).enumerate().take(own.len()) {
            // A page of the tenant's own may follow its own path or, where both have the same length, the public one.
            let after_open = || (!open_ended).then(|| self.child(open.last().copied(), &own[i], page)).flatten();
            let after_private =
                || (!private_ended).then(|| self.child(private.last().copied(), &own[i], page)).flatten();
            let found = after_private().map(|p| (false, p)).or_else(|| after_open().map(|p| (true, p)));
            let next_open = public.get(i).filter(|_| !open_ended);
            let next_open = next_open.and_then(|key| self.child(open.last().copied(), key, page));
            match found {
                Some((true, own_page)) => {
                    private = open.clone();
                    private.push(own_page);
                    private_ended = false;
                }
                Some((false, own_page)) => private.push(own_page),
                None => private_ended = true,
            }
            match next_open {
                Some(page) => open.push(page),
                None => open_ended = true,
            }
            if private_ended && open_ended {
                break;
            }
        }
        if private.len() >= open.len() { private } else { open }
    }

    /// The page after a path's last one that begins with the most of `rest`, and how many tokens that is: at least one, and not
    /// all of the page. Pages of other tenants are none, for they follow no key of `chain`: those of the path's text.
    pub fn longest_beginning(&self, last: u32, chain: &[PageKey], rest: &[u32]) -> Option<(u32, usize)> {
        let children = self.node(last)?.children.iter().filter_map(|page| self.content(*page));
        let (key, _, count) = key::longest_beginning(children, chain, rest)?;
        Some((self.page(&key)?, count))
    }

    /// Notes that the nodes of a path, the first page of a text first, are used now. Other pages may follow them.
    pub fn touch(&mut self, path: &[u32]) {
        self.clock += 1;
        for page in path {
            let Some(node) = self.nodes.get_mut(*page as usize).and_then(Option::as_mut) else { return };
            self.order.remove(&(node.last_use, Reverse(node.depth), *page));
            node.last_use = self.clock;
            self.order.insert((node.last_use, Reverse(node.depth), *page));
        }
    }

    /// Makes a node and all above it no less recently used than what follows it next.
    pub fn renew(&mut self, page: u32) {
        if self.node(page).is_none_or(|node| node.last_use == self.clock) {
            return;
        }
        let above = |page: &u32| self.node(*page).and_then(|node| node.parent);
        let mut path: Vec<u32> = std::iter::successors(Some(page), above).collect();
        path.reverse();
        self.touch(&path);
    }

    /// Offers a page that somebody holds, after the path that ends with `parent`.
    pub fn publish(
        &mut self,
        pool: &mut PagePool,
        page: u32,
        key: PageKey,
        tokens: PageTokens,
        parent: Option<u32>,
    ) -> Published {
        if let Some(existing) = self.index.get(&key) {
            return self.child(parent, &key, &tokens).map_or(Published::Refused, |_| Published::Existing(*existing));
        }
        let depth = match parent.map(|p| self.nodes.get_mut(p as usize).and_then(Option::as_mut)) {
            None => 0,
            Some(Some(above)) => {
                above.children.push(page);
                above.depth + 1
            }
            Some(None) => return Published::Refused,
        };
        pool.cache(page);
        self.index.insert(key, page);
        self.order.insert((self.clock, Reverse(depth), page));
        self.nodes[page as usize] =
            Some(Node { key, tokens, parent, children: Vec::new(), depth, last_use: self.clock });
        Published::Added
    }

    /// Key and tokens of a node.
    pub fn content(&self, page: u32) -> Option<(&PageKey, &PageTokens)> {
        self.node(page).map(|n| (&n.key, &n.tokens))
    }

    /// Where a node stands.
    pub fn place(&self, page: u32) -> Option<Place> {
        let node = self.node(page)?;
        let parent = node.parent.and_then(|page| self.content(page)).map(|(key, _)| *key);
        Some(Place { tokens: node.tokens, parent })
    }

    /// The page of a key.
    pub fn page(&self, key: &PageKey) -> Option<u32> {
        self.index.get(key).copied()
    }

    /// The node to evict next: the least recently used that no sequence holds.
    pub fn next_evictable(&mut self, pool: &PagePool) -> Option<u32> {
        while pool.evictable_pages() > 0 {
            let (stamp, depth, page) = *self.order.first()?;
            if pool.references(page) == 1 {
                return Some(page);
            }
            // It is in use, and its last use will be when the last of its holders lets it go.
            self.clock += 1;
            self.order.remove(&(stamp, depth, page));
            self.order.insert((self.clock, depth, page));
            if let Some(node) = &mut self.nodes[page as usize] {
                node.last_use = self.clock;
            }
        }
        None
    }

    /// Takes a leaf out of the tree; its page is free if nobody else holds it.
    pub fn evict(&mut self, pool: &mut PagePool, page: u32) -> Option<Evicted> {
        let place = self.place(page)?;
        let node = self.nodes.get_mut(page as usize)?.take_if(|n| n.children.is_empty())?;
        self.order.remove(&(node.last_use, Reverse(node.depth), page));
        self.index.remove(&node.key);
        if let Some(parent) = node.parent.and_then(|p| self.nodes[p as usize].as_mut()) {
            parent.children.retain(|child| *child != page);
        }
        pool.uncache(page);
        Some(Evicted { page, key: node.key, place })
    }

    /// Compares all tables of the tree with each other and with the pool. For tests.
    ///
    /// # Panics
    /// If they disagree.
    #[cfg(test)]
    pub(crate) fn check(&self, pool: &PagePool) {
        let nodes: Vec<(u32, &Node)> = (0..).zip(&self.nodes).filter_map(|(p, n)| n.as_ref().map(|n| (p, n))).collect();
        assert_eq!((nodes.len(), nodes.len()), (self.index.len(), self.order.len()));
        let mut children: HashMap<u32, BTreeSet<u32>> = HashMap::new();
        for (page, node) in &nodes {
            assert_eq!(self.index.get(&node.key), Some(page));
            assert!(self.order.contains(&(node.last_use, Reverse(node.depth), *page)));
            assert!(pool.references(*page) >= 1, "the tree holds a free page");
            let Some(parent) = node.parent else {
                assert_eq!(node.depth, 0);
                continue;
            };
            children.entry(parent).or_default().insert(*page);
            let above = self.node(parent).expect("a node's parent is in the tree");
            assert_eq!(above.depth + 1, node.depth);
            // Leaves first: whatever is evictable is used no later than what is above it.
            if pool.references(*page) == 1 && pool.references(parent) == 1 {
                assert!(above.last_use >= node.last_use);
            }
            assert!(pool.references(*page) == 1 || pool.references(parent) > 1, "a page in use below an unused one");
        }
        for (page, node) in &nodes {
            let listed: BTreeSet<u32> = node.children.iter().copied().collect();
            assert_eq!(listed.len(), node.children.len());
            assert_eq!(listed, children.remove(page).unwrap_or_default());
        }
    }
}
