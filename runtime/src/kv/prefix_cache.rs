//! The prefix cache: one answer to "which tokens of this prompt are known", over the tiers that hold pages.
//!
//! Device pages are found in the prefix tree, others in the memory of the host, on disk and among the artifact's baked prompts;
//! whatever is found is brought to the device as nodes of the tree, so that sequences share it from then on. At least one
//! token of a prompt is always left to compute. Sequences that were opened with a salt publish their full pages
//! after each step; two that computed the same text end up with the same pages.
//!
//! Nothing here computes: the engine calls it between steps, with the pool and the device at hand.

use std::collections::{HashMap, HashSet, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::disk::DiskTier;
use super::host_tier::{HostPage, HostTier};
use super::key::{PageKey, PageTokens, Place, TOKENS, full_pages, longest_beginning};
use super::pages::{PageError, PagePool, SequenceId};
use super::prefix_tree::{Evicted, PrefixTree, Published};
use super::salt::CacheSalt;
use crate::device::{Device, DeviceError};
use crate::serving::CachedTokens;

/// Pages that are read from disk at once for a prompt: enough for several threads, few enough that they are still in a cache when they
/// are copied.
const READ_AHEAD: usize = 16;

/// Pages that are brought to the device before somebody looks again whether there is anything to compute.
const PAGES_AT_ONCE: usize = 4;

/// Where prefixes are kept beside the device's pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrefixCacheOptions {
    /// Bytes of the host's memory for pages that the device had to give up; 0 for none.
    pub host_bytes: u64,
    /// Folder of pages that outlive the process; `None` for none. Several processes may share it.
    pub dir: Option<PathBuf>,
    /// Most bytes of all files in that folder, of all artifacts together.
    pub disk_bytes: u64,
}

impl Default for PrefixCacheOptions {
    /// A GiB of the host's memory and no folder; 8 GiB of disk where one is named.
    fn default() -> PrefixCacheOptions {
        PrefixCacheOptions { host_bytes: 1 << 30, dir: None, disk_bytes: 8 << 30 }
    }
}

/// What the cache holds and has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrefixCacheStats {
    /// Pages of the device in the tree, in use or not.
    pub device_pages: u64,
    /// Bytes of pages in the memory of the host.
    pub host_bytes: u64,
    /// Bytes of files on disk, as last counted.
    pub disk_bytes: u64,
    /// Pages that the device gave up so far.
    pub evicted_pages: u64,
    /// Pages that came back to the device so far.
    pub restored_pages: u64,
    /// Pages that could not be written to disk so far.
    pub disk_failures: u64,
}

/// The text of a sequence whose pages are shared.
#[derive(Clone, Debug)]
struct Chain {
    salt: CacheSalt,
    tokens: Vec<u32>,
    /// Keys of the full pages.
    keys: Vec<PageKey>,
    /// Pages, from the first on, that are nodes of the tree.
    published: usize,
    /// The tree refused a page; those after it stay private.
    refused: bool,
}

impl Chain {
    fn new(salt: CacheSalt) -> Chain {
        Chain { salt, tokens: Vec::new(), keys: Vec::new(), published: 0, refused: false }
    }

    fn cut(&mut self, tokens: u64) {
        self.tokens.truncate(tokens as usize);
        self.keys.truncate(tokens as usize / TOKENS);
        self.published = self.published.min(self.keys.len());
        self.refused &= self.published < self.keys.len();
    }
}

/// Where a page that is not on the device was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Host,
    Disk,
    Baked,
}

/// A page that was found off the device.
struct Found {
    key: PageKey,
    bytes: Arc<Vec<u8>>,
    source: Source,
    on_disk: bool,
}

/// What is left to do when there is nothing to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tending {
    /// Nothing.
    Done,
    /// Something that another thread must do first.
    Later,
    /// Something.
    Now,
}

/// The cache.
pub(crate) struct PrefixCache {
    tree: PrefixTree,
    chains: HashMap<SequenceId, Chain>,
    host: Arc<Mutex<HostTier>>,
    disk: Option<DiskTier>,
    /// Pages of baked prompts that found no place on the device for good.
    baked: HashMap<PageKey, HostPage>,
    /// Pages in the tree that will never be written: they are on disk, on their way there, or part of the artifact.
    kept: HashSet<PageKey>,
    /// Pages to write when the disk's queue has room.
    pending: VecDeque<PageKey>,
    /// Pages of baked prompts, which are never evicted.
    pinned: Vec<u32>,
    /// Pages found on disk at the start that may go to the device, the most recently used first.
    arriving: VecDeque<PageKey>,
    page_bytes: usize,
    stats: PrefixCacheStats,
}

impl PrefixCache {
    /// An empty cache over a pool's pages. `identity` names what the pages' bits depend on.
    ///
    /// # Errors
    /// The disk tier's folder or threads cannot be made.
    pub fn new(
        options: &PrefixCacheOptions,
        pages: u64,
        page_bytes: usize,
        identity: &blake3::Hash,
    ) -> std::io::Result<PrefixCache> {
        let host = Arc::new(Mutex::new(HostTier::new(options.host_bytes)));
        let open = |dir: &PathBuf| DiskTier::open(dir, identity, page_bytes, options.disk_bytes, host.clone());
        let disk = options.dir.as_ref().map(open).transpose()?;
        Ok(PrefixCache {
            tree: PrefixTree::new(pages),
            chains: HashMap::new(),
            host,
            disk,
            baked: HashMap::new(),
            kept: HashSet::new(),
            pending: VecDeque::new(),
            pinned: Vec::new(),
            arriving: VecDeque::new(),
            page_bytes,
            stats: PrefixCacheStats::default(),
        })
    }

    fn host(&self) -> MutexGuard<'_, HostTier> {
        self.host.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it holds and has done.
    pub fn stats(&self) -> PrefixCacheStats {
        PrefixCacheStats {
            device_pages: self.tree.len() as u64,
            host_bytes: self.host().bytes(),
            disk_bytes: self.disk.as_ref().map_or(0, DiskTier::bytes),
            disk_failures: self.disk.as_ref().map_or(0, DiskTier::failures),
            ..self.stats
        }
    }

    /// Waits until pages found on disk at the start are in the host's memory.
    pub fn wait_until_warm(&mut self) {
        if let Some(disk) = &mut self.disk {
            disk.wait_until_warm();
        }
    }

    /// Takes in the pages of a baked prompt: onto the device for good while `most_pinned` allows, else to be found like those
    /// in the host's memory.
    ///
    /// # Errors
    /// The device refuses a page.
    pub fn add_baked(
        &mut self,
        pool: &mut PagePool,
        device: &mut dyn Device,
        rope_table: i32,
        tokens: &[u32],
        most_pinned: usize,
        mut read: impl FnMut(usize, &mut [u8]) -> Result<(), DeviceError>,
    ) -> Result<(), DeviceError> {
        let keys = PageKey::chain(PageKey::root(&CacheSalt::PUBLIC, rope_table), tokens);
        let mut parent = None;
        for (i, (key, page_tokens)) in keys.iter().zip(full_pages(tokens)).enumerate() {
            // Prompts may begin alike.
            if let Some(page) = self.tree.page(key) {
                parent = Some(page);
                continue;
            }
            let mut bytes = vec![0; self.page_bytes];
            read(i, &mut bytes)?;
            // Once a page is off the device, so are all after it.
            let on_device = self.pinned.len() < most_pinned && (i == 0 || parent.is_some());
            match on_device.then(|| pool.take()).flatten() {
                Some(page) => {
                    device.write_page(page, &bytes)?;
                    // The caller's reference stays: it is the pin.
                    self.tree.publish(pool, page, *key, *page_tokens, parent);
                    self.pinned.push(page);
                    self.kept.insert(*key);
                    parent = Some(page);
                }
                None => {
                    let place = Place { tokens: *page_tokens, parent: i.checked_sub(1).map(|before| keys[before]) };
                    self.baked.insert(*key, HostPage { place, bytes: Arc::new(bytes), on_disk: true });
                    parent = None;
                }
            }
        }
        Ok(())
    }

    /// Notes a new sequence whose pages are to be published under a salt.
    pub fn track(&mut self, sequence: SequenceId, salt: &CacheSalt) {
        self.chains.insert(sequence, Chain::new(*salt));
    }

    /// Opens a sequence that holds as much of a prompt as is known, but its last token.
    ///
    /// # Errors
    /// The device refuses a page; no sequence was opened.
    pub fn open(
        &mut self,
        pool: &mut PagePool,
        device: &mut dyn Device,
        salt: &CacheSalt,
        rope_table: i32,
        prompt: &[u32],
    ) -> Result<(SequenceId, CachedTokens), DeviceError> {
        self.disk.iter().for_each(|disk| disk.set_busy(true));
        let own = PageKey::chain(PageKey::root(salt, rope_table), prompt);
        let public = match *salt == CacheSalt::PUBLIC {
            true => Vec::new(),
            false => PageKey::chain(PageKey::root(&CacheSalt::PUBLIC, rope_table), prompt),
        };
        let mut path = self.tree.longest_path(prompt, &own, &public);
        // Held until the sequence holds them, so that making room takes none of them.
        path.iter().for_each(|page| pool.retain(*page));
        let mut sources = vec![None; path.len()];
        let restored = self.restore(pool, device, prompt, &own, &public, &mut path, &mut sources);
        let next = self.keys_before_next(prompt, (&own, &public), &path);
        let restored = restored.and_then(|()| self.restore_beginning(pool, device, &path, &next));
        let beginning = path.last().and_then(|last| self.tree.longest_beginning(*last, &next.0, next.1));
        beginning.iter().for_each(|(page, _)| pool.retain(*page));
        let opened = restored.and_then(|()| self.open_path(pool, device, prompt, (&path, beginning)));
        if let Some((page, _)) = beginning {
            pool.release(page);
        }
        self.tree.touch(&path);
        path.iter().rev().for_each(|page| pool.release(*page));
        let (sequence, tokens) = opened?;
        let chain = Chain {
            salt: *salt,
            tokens: prompt[..tokens].to_vec(),
            keys: own[..tokens / TOKENS].to_vec(),
            published: tokens / TOKENS,
            refused: false,
        };
        self.chains.insert(sequence, chain);
        self.touch_files(&path);
        Ok((sequence, count(tokens, &sources)))
    }

    /// The keys that a page after the path may follow, and the tokens it would begin with: all but the prompt's last.
    fn keys_before_next<'a>(
        &self,
        prompt: &'a [u32],
        (own, public): (&[PageKey], &[PageKey]),
        path: &[u32],
    ) -> (Vec<PageKey>, &'a [u32]) {
        let rest = prompt[path.len() * TOKENS..].split_last().map_or(&[][..], |(_, rest)| rest);
        let Some((last, above)) = path.split_last() else { return (Vec::new(), rest) };
        // Below a page of the tenant's own everything is its own.
        let is_open = |key: &&PageKey| self.tree.content(*last).is_some_and(|(found, _)| found == *key);
        let keys = [own.get(above.len()), public.get(above.len()).filter(is_open)];
        (keys.into_iter().flatten().copied().collect(), rest)
    }

    /// Brings a page to the device that begins with more of a prompt's rest than those after the path there do.
    fn restore_beginning(
        &mut self,
        pool: &mut PagePool,
        device: &mut dyn Device,
        path: &[u32],
        (chain, rest): &(Vec<PageKey>, &[u32]),
    ) -> Result<(), DeviceError> {
        let Some(last) = path.last().copied().filter(|_| !rest.is_empty()) else { return Ok(()) };
        let known = self.tree.longest_beginning(last, chain, rest).map_or(0, |(_, count)| count);
        let Some((tokens, found)) = self.find_beginning(chain, rest, known) else { return Ok(()) };
        self.make_room(pool, device, 1)?;
        let Some(page) = pool.take() else { return Ok(()) };
        let written = device.write_page(page, &found.bytes);
        if written.is_ok() && self.tree.publish(pool, page, found.key, tokens, Some(last)) == Published::Added {
            self.note_restored(found.key, &found);
        }
        // The tree holds it now, or nobody.
        pool.release(page);
        written
    }

    /// A page off the device that begins with more than `known` tokens of a prompt's rest.
    fn find_beginning(&self, chain: &[PageKey], rest: &[u32], known: usize) -> Option<(PageTokens, Found)> {
        let in_host = self.host().longest_beginning(chain, rest);
        let baked = longest_beginning(self.baked.iter().map(|(key, page)| (key, &page.place.tokens)), chain, rest);
        let on_disk = self.disk.as_ref().and_then(|disk| disk.longest_beginning(chain, rest));
        let sources = [(Source::Host, in_host), (Source::Baked, baked), (Source::Disk, on_disk)];
        let best = sources.into_iter().filter_map(|(source, page)| page.map(|page| (source, page)));
        // Of equals the first: it is nearest.
        let (source, (key, tokens, _)) =
            best.filter(|(_, page)| page.2 > known).rev().max_by_key(|(_, page)| page.2)?;
        let (bytes, is_kept) = match source {
            Source::Host => self.host().get(&key, &tokens).map(|page| (page.bytes, page.on_disk))?,
            Source::Baked => (self.baked.get(&key)?.bytes.clone(), true),
            Source::Disk => (Arc::new(self.disk.as_ref()?.read(&key, &tokens)?), true),
        };
        Some((tokens, Found { key, bytes, source, on_disk: is_kept }))
    }

    /// Notes that a page found off the device is a node of the tree under `key`.
    fn note_restored(&mut self, key: PageKey, found: &Found) {
        if found.on_disk {
            self.kept.insert(key);
        } else {
            self.queue(key);
        }
        if found.source == Source::Host {
            self.host().take(&found.key);
        }
        self.stats.restored_pages += 1;
    }

    /// Opens a sequence over a path of pages and a copy of the beginning of one more; gives how many tokens it holds.
    fn open_path(
        &mut self,
        pool: &mut PagePool,
        device: &mut dyn Device,
        prompt: &[u32],
        (path, beginning): (&[u32], Option<(u32, usize)>),
    ) -> Result<(SequenceId, usize), DeviceError> {
        let covers_all = !path.is_empty() && path.len() * TOKENS == prompt.len();
        let (shared, wanted) = match path.split_last() {
            // A copy of the last page leaves one token to compute, not sixteen.
            Some((last, before)) if covers_all => (before, Some((*last, TOKENS - 1))),
            _ => (path, beginning),
        };
        if wanted.is_some() {
            self.make_room(pool, device, 1)?;
        }
        let (partial, count) = wanted.filter(|_| pool.free_pages() > 0).unzip();
        let tokens = shared.len() * TOKENS + count.unwrap_or(0);
        let opened = pool.open_with(shared, partial, tokens as u64);
        let (sequence, copy) = opened.map_err(page_error)?;
        if let Some(copy) = copy
            && let Err(error) = device.copy_page(copy.from, copy.to)
        {
            pool.close(sequence).map_err(page_error)?;
            return Err(error);
        }
        Ok((sequence, tokens))
    }

    /// Brings the pages that follow a path to the device, as long as some tier has the next one and there is room.
    #[expect(clippy::too_many_arguments, reason = "the parts of one prompt's lookup")]
    fn restore(
        &mut self,
        pool: &mut PagePool,
        device: &mut dyn Device,
        prompt: &[u32],
        own: &[PageKey],
        public: &[PageKey],
        path: &mut Vec<u32>,
        sources: &mut Vec<Option<Source>>,
    ) -> Result<(), DeviceError> {
        let pages: Vec<&PageTokens> = full_pages(prompt).collect();
        let mut read_ahead = VecDeque::new();
        while let Some(tokens) = pages.get(path.len()) {
            let i = path.len();
            let parent = path.last().copied();
            // Below a page of the tenant's own everything is its own.
            let is_open =
                parent.is_none_or(|p| self.tree.content(p).is_some_and(|(key, _)| public.get(i - 1) == Some(key)));
            let Some(found) = self.find(&pages, i, own, public, &mut read_ahead) else { return Ok(()) };
            let key = if found.key == own[i] || is_open { found.key } else { own[i] };
            self.make_room(pool, device, 1)?;
            let Some(page) = pool.take() else { return Ok(()) };
            if let Err(error) = device.write_page(page, &found.bytes) {
                pool.release(page);
                return Err(error);
            }
            if self.tree.publish(pool, page, key, **tokens, parent) != Published::Added {
                pool.release(page);
                return Ok(());
            }
            self.note_restored(key, &found);
            path.push(page);
            sources.push(Some(found.source));
        }
        Ok(())
    }

    /// Looks for page `i` of a prompt off the device.
    fn find(
        &self,
        pages: &[&PageTokens],
        i: usize,
        own: &[PageKey],
        public: &[PageKey],
        read_ahead: &mut VecDeque<(PageKey, Vec<u8>)>,
    ) -> Option<Found> {
        let keys = || [Some(&own[i]), public.get(i)].into_iter().flatten();
        for key in keys() {
            if let Some(page) = self.host().get(key, pages[i]) {
                return Some(Found { key: *key, bytes: page.bytes, source: Source::Host, on_disk: page.on_disk });
            }
            if let Some(page) = self.baked.get(key).filter(|p| p.place.tokens == *pages[i]) {
                return Some(Found { key: *key, bytes: page.bytes.clone(), source: Source::Baked, on_disk: true });
            }
        }
        let disk = self.disk.as_ref()?;
        let is_next =
            |ahead: &VecDeque<(PageKey, Vec<u8>)>| ahead.front().is_some_and(|(next, _)| keys().any(|k| k == next));
        if !is_next(read_ahead) {
            for chain in [own, public] {
                let rest = chain.iter().zip(pages).skip(i).take(READ_AHEAD);
                let rest: Vec<_> = rest.map(|(key, tokens)| (*key, **tokens)).collect();
                *read_ahead = rest.iter().map(|(key, _)| *key).zip(disk.read_run(&rest)).collect();
                if !read_ahead.is_empty() {
                    break;
                }
            }
        }
        let (key, bytes) = read_ahead.pop_front()?;
        Some(Found { key, bytes: Arc::new(bytes), source: Source::Disk, on_disk: true })
    }

    /// Takes in tokens that a sequence has computed, and publishes the pages they fill.
    ///
    /// # Errors
    /// No such sequence in the pool.
    pub fn appended(
        &mut self,
        pool: &mut PagePool,
        sequence: SequenceId,
        rope_table: i32,
        tokens: &[u32],
    ) -> Result<(), PageError> {
        let Some(mut chain) = self.chains.remove(&sequence) else { return Ok(()) };
        chain.tokens.extend_from_slice(tokens);
        let result = self.publish(pool, sequence, rope_table, &mut chain);
        self.chains.insert(sequence, chain);
        result
    }

    fn publish(
        &mut self,
        pool: &mut PagePool,
        sequence: SequenceId,
        rope_table: i32,
        chain: &mut Chain,
    ) -> Result<(), PageError> {
        for tokens in full_pages(&chain.tokens).skip(chain.keys.len()) {
            let i = chain.keys.len();
            let last = chain.keys.last().copied();
            let key = last.unwrap_or_else(|| PageKey::root(&chain.salt, rope_table)).next(tokens);
            chain.keys.push(key);
            if chain.refused {
                continue;
            }
            let table = pool.table(sequence)?;
            let (page, parent) = (table[i], i.checked_sub(1).map(|above| table[above]));
            match self.tree.publish(pool, page, key, *tokens, parent) {
                Published::Added => self.queue(key),
                Published::Existing(same) => pool.replace(sequence, i, same)?,
                Published::Refused => {
                    chain.refused = true;
                    continue;
                }
            }
            chain.published += 1;
        }
        Ok(())
    }

    /// Shares the first `tokens` tokens of a sequence's text with its fork.
    pub fn forked(&mut self, from: SequenceId, to: SequenceId, tokens: u64) {
        if let Some(mut chain) = self.chains.get(&from).cloned() {
            chain.cut(tokens);
            self.chains.insert(to, chain);
        }
    }

    /// Notes that a sequence is about to let pages go: they were used until now.
    pub fn leaving(&mut self, pool: &PagePool, sequence: SequenceId) {
        if let (Some(chain), Ok(table)) = (self.chains.get(&sequence), pool.table(sequence)) {
            self.tree.touch(&table[..chain.published]);
        }
    }

    /// Notes that a sequence has lost its tokens from `tokens` on.
    pub fn cut(&mut self, sequence: SequenceId, tokens: u64) {
        if let Some(chain) = self.chains.get_mut(&sequence) {
            chain.cut(tokens);
        }
    }

    /// Notes that a sequence has ended.
    pub fn closed(&mut self, sequence: SequenceId) {
        self.chains.remove(&sequence);
    }

    /// Evicts pages until `needed` are free, or none is left to evict.
    ///
    /// # Errors
    /// The device cannot read a page.
    pub fn make_room(&mut self, pool: &mut PagePool, device: &mut dyn Device, needed: u64) -> Result<(), DeviceError> {
        while pool.free_pages() < needed {
            let Some(page) = self.tree.next_evictable(pool) else { break };
            let bytes = self.bytes_to_keep(&*device, page)?;
            let Some(evicted) = self.tree.evict(pool, page) else { break };
            self.stats.evicted_pages += 1;
            self.keep(&evicted, bytes);
        }
        Ok(())
    }

    /// The bytes of a page that is about to be evicted, if a tier could take them.
    fn bytes_to_keep(&self, device: &dyn Device, page: u32) -> Result<Option<Arc<Vec<u8>>>, DeviceError> {
        let Some((key, _)) = self.tree.content(page) else { return Ok(None) };
        let to_disk = !self.kept.contains(key) && self.disk.as_ref().is_some_and(DiskTier::has_room);
        let to_host = !self.baked.contains_key(key) && self.host().takes(self.page_bytes as u64);
        if !to_disk && !to_host {
            return Ok(None);
        }
        let mut bytes = vec![0; self.page_bytes];
        device.read_page(page, &mut bytes)?;
        Ok(Some(Arc::new(bytes)))
    }

    fn keep(&mut self, evicted: &Evicted, bytes: Option<Arc<Vec<u8>>>) {
        let Evicted { key, place, .. } = *evicted;
        let mut on_disk = self.kept.remove(&key);
        let Some(bytes) = bytes else { return };
        if !on_disk && let Some(disk) = &self.disk {
            on_disk = disk.write(key, place, bytes.clone());
        }
        if !self.baked.contains_key(&key) {
            self.host().insert(key, HostPage { place, bytes, on_disk });
        }
    }

    /// Notes a page to be written to disk.
    fn queue(&mut self, key: PageKey) {
        if self.disk.is_none() {
            return;
        }
        self.pending.push_back(key);
        // A disk that cannot keep up leaves names of pages that are gone.
        if self.pending.len() > 2 * self.tree.len() {
            let tree = &self.tree;
            self.pending.retain(|key| tree.page(key).is_some());
        }
    }

    /// Hands pages to the disk's writer as long as its queue has room; true if some are left.
    ///
    /// # Errors
    /// The device cannot read a page.
    pub fn persist(&mut self, device: &dyn Device) -> Result<bool, DeviceError> {
        let Some(disk) = &self.disk else { return Ok(false) };
        while let Some(key) = self.pending.front().copied() {
            if !disk.has_room() {
                return Ok(true);
            }
            self.pending.pop_front();
            let Some(page) = self.tree.page(&key).filter(|_| !self.kept.contains(&key)) else { continue };
            let Some(place) = self.tree.place(page) else { continue };
            let mut bytes = vec![0; self.page_bytes];
            device.read_page(page, &mut bytes)?;
            if disk.write(key, place, Arc::new(bytes)) {
                self.kept.insert(key);
            }
        }
        Ok(false)
    }

    /// Goes on with bringing pages that were found on disk to the device, the most recently used first, while more than half of it is free:
    /// a prompt whose pages are there already does not wait for them.
    ///
    /// # Errors
    /// The device refuses a page.
    pub fn bring_found(&mut self, pool: &mut PagePool, device: &mut dyn Device) -> Result<Tending, DeviceError> {
        let Some(disk) = &self.disk else { return Ok(Tending::Done) };
        disk.set_busy(false);
        // Asked first: what arrived until then is in the list.
        let more_to_come = disk.is_warming();
        self.arriving.extend(disk.take_arrived());
        for _ in 0..PAGES_AT_ONCE {
            if pool.free_pages() <= pool.pages() / 2 {
                self.arriving.clear();
            }
            let Some(next) = self.next_to_bring(pool.pages(), more_to_come) else { break };
            self.bring(pool, device, next)?;
        }
        Ok(match self.next_to_bring(pool.pages(), more_to_come) {
            Some(_) => Tending::Now,
            None if more_to_come => Tending::Later,
            None => Tending::Done,
        })
    }

    /// The next page that may go to the device: the page before it is there, or it is the first of its text. One whose text has no beginning is
    /// passed over, unless more is to come.
    fn next_to_bring(&mut self, most: u64, more_to_come: bool) -> Option<PageKey> {
        while let Some(last) = self.arriving.front().copied() {
            let (mut key, mut above) = (last, 0);
            while above < most {
                let Some(place) = self.host().page(&key).map(|page| page.place) else { break };
                match place.parent {
                    Some(parent) if self.tree.page(&parent).is_none() => (key, above) = (parent, above + 1),
                    _ => return Some(key),
                }
            }
            if more_to_come && self.tree.page(&last).is_none() {
                return None;
            }
            self.arriving.pop_front();
        }
        None
    }

    /// Brings a page from the host's memory to the device.
    fn bring(&mut self, pool: &mut PagePool, device: &mut dyn Device, key: PageKey) -> Result<(), DeviceError> {
        let Some(HostPage { place, bytes, on_disk }) = self.host().page(&key).cloned() else { return Ok(()) };
        let parent = place.parent.and_then(|key| self.tree.page(&key));
        let Some(page) = pool.take() else { return Ok(()) };
        let written = device.write_page(page, &bytes);
        parent.iter().for_each(|parent| self.tree.renew(*parent));
        if written.is_ok() && self.tree.publish(pool, page, key, place.tokens, parent) == Published::Added {
            self.note_restored(key, &Found { key, bytes, source: Source::Host, on_disk });
        } else {
            // It would be met again.
            self.host().take(&key);
        }
        // The tree holds it now, or nobody.
        pool.release(page);
        written
    }

    /// Waits until the disk's writer has nothing to do; false if that took longer.
    pub fn flush(&self, deadline: Duration) -> bool {
        self.disk.as_ref().is_none_or(|disk| disk.flush(deadline))
    }

    /// Lets the files of pages that were found know that they were used.
    fn touch_files(&self, path: &[u32]) {
        let Some(disk) = self.disk.as_ref().filter(|_| !path.is_empty()) else { return };
        let keys = path.iter().filter_map(|page| self.tree.content(*page)).map(|(key, _)| *key);
        disk.touch(keys.filter(|key| self.kept.contains(key)).collect());
    }

    /// Compares everything with the pool, see [`PagePool::check`]. For tests.
    ///
    /// # Panics
    /// If they disagree.
    #[cfg(test)]
    pub(crate) fn check(&self, pool: &PagePool) {
        pool.check(&self.pinned);
        self.tree.check(pool);
        for (sequence, chain) in &self.chains {
            let table = pool.table(*sequence).expect("a chain is of an open sequence");
            assert_eq!(chain.tokens.len() as u64, pool.tokens(*sequence).unwrap());
            assert_eq!(chain.keys.len(), chain.tokens.len() / TOKENS);
            for (i, tokens) in full_pages(&chain.tokens).enumerate().take(chain.published) {
                assert_eq!(self.tree.content(table[i]).unwrap().1, tokens);
            }
        }
        assert!(self.kept.iter().all(|key| self.tree.page(key).is_some()), "a key is kept that is not in the tree");
    }
}

/// Tokens by where their pages were; the device's are those of no other source, among them the beginning of a page past the path.
fn count(tokens: usize, sources: &[Option<Source>]) -> CachedTokens {
    let mut cached =
        CachedTokens { device: tokens.saturating_sub(sources.len() * TOKENS) as u64, ..Default::default() };
    for (i, source) in sources.iter().enumerate() {
        let of_page = tokens.saturating_sub(i * TOKENS).min(TOKENS) as u64;
        match source {
            None => cached.device += of_page,
            Some(Source::Host | Source::Baked) => cached.host += of_page,
            Some(Source::Disk) => cached.disk += of_page,
        }
    }
    cached
}

/// The pool refuses what was just made possible; this is a bug.
fn page_error(error: PageError) -> DeviceError {
    DeviceError::Option { option: "KV pages", message: error.to_string() }
}
