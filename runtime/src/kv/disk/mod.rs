//! The disk tier: pages that outlive the process.
//!
//! A thread writes pages soon after they are complete, since a restart may be a kill. Its queue is bounded in bytes and is
//! never waited on: what does not fit is offered again later. Another thread reads the most recently used pages into the
//! host tier when a process starts. Reading a page that a prompt needs happens at once, by the engine: it takes a
//! small part of the time that computing it would.

mod file;
mod store;
mod writer;

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::host_tier::{HostPage, HostTier};
use super::key::{PageKey, PageTokens, Place, longest_beginning};
use store::Store;
use writer::{Job, Writer};

/// Pages that several threads read, at least.
const PARALLEL_READS: usize = 8;

/// Most threads that read pages for a prompt.
const READERS: usize = 4;

/// Between pages that are read while steps are waited for: reading one takes about a tenth of that.
const BUSY_PAUSE: Duration = Duration::from_millis(3);

/// The tier.
pub(crate) struct DiskTier {
    store: Store,
    writer: Writer,
    warming: Option<JoinHandle<()>>,
    shared: Arc<Shared>,
}

/// What the thread that reads pages at the start and others share.
#[derive(Default)]
struct Shared {
    /// The tokens of the pages that are there, as far as they have been looked at; some may be gone.
    known: Mutex<HashMap<PageKey, PageTokens>>,
    /// Pages that were read since somebody asked, in the order of their last use.
    arrived: Mutex<Vec<PageKey>>,
    /// Somebody waits for steps: reading takes little of the processor.
    busy: AtomicBool,
    stop: AtomicBool,
}

impl DiskTier {
    /// Opens the tier below `root` for the pages of one identity and starts its threads. All pages below `root` together
    /// are kept within `limit` bytes.
    ///
    /// # Errors
    /// A folder or thread that cannot be made.
    pub fn open(
        root: &Path,
        identity: &blake3::Hash,
        page_bytes: usize,
        limit: u64,
        host: Arc<Mutex<HostTier>>,
    ) -> io::Result<DiskTier> {
        let store = Store::open(root, identity, page_bytes)?;
        let writer = Writer::start(store.clone(), limit)?;
        let shared = Arc::new(Shared::default());
        let (from, told) = (store.clone(), shared.clone());
        let warm = move || warm(&from, &host, &told);
        let warming = Some(std::thread::Builder::new().name("kv-warm".into()).spawn(warm)?);
        Ok(DiskTier { store, writer, warming, shared })
    }

    /// Reads the page of a key, if there is one with these tokens.
    pub fn read(&self, key: &PageKey, tokens: &PageTokens) -> Option<Vec<u8>> {
        self.store.read(key).filter(|(found, _)| found.tokens == *tokens).map(|(_, bytes)| bytes)
    }

    /// As [`DiskTier::read`], for consecutive pages: those before the first that is not there.
    pub fn read_run(&self, pages: &[(PageKey, PageTokens)]) -> Vec<Vec<u8>> {
        if pages.len() < PARALLEL_READS {
            return pages.iter().map_while(|(key, tokens)| self.read(key, tokens)).collect();
        }
        let part = pages.len().div_ceil(READERS);
        let parts: Vec<Vec<Option<Vec<u8>>>> = std::thread::scope(|scope| {
            let read = |part: &[(PageKey, PageTokens)]| part.iter().map(|(k, t)| self.read(k, t)).collect();
            let threads: Vec<_> = pages.chunks(part).map(|part| scope.spawn(move || read(part))).collect();
            threads.into_iter().map(|t| t.join().unwrap_or_default()).collect()
        });
        parts.into_iter().flatten().map_while(|page| page).collect()
    }

    /// A page that follows a key of `chain` and begins with the most of `rest`, as [`longest_beginning`] has it.
    pub fn longest_beginning(&self, chain: &[PageKey], rest: &[u32]) -> Option<(PageKey, PageTokens, usize)> {
        longest_beginning(lock(&self.shared.known).iter(), chain, rest)
    }

    /// Whether the writer's queue has room for a page.
    pub fn has_room(&self) -> bool {
        self.writer.has_room(self.store.file_bytes())
    }

    /// Hands a page to the writer; false if its queue is full.
    pub fn write(&self, key: PageKey, place: Place, bytes: Arc<Vec<u8>>) -> bool {
        let taken = self.writer.push(Job::Write { key, place, bytes });
        if taken {
            lock(&self.shared.known).insert(key, place.tokens);
        }
        taken
    }

    /// Notes that pages were used, unless the queue is full.
    pub fn touch(&self, keys: Vec<PageKey>) {
        self.writer.push(Job::Touch(keys));
    }

    /// Waits until everything handed over is written; false if that took longer.
    pub fn flush(&self, deadline: Duration) -> bool {
        self.writer.wait(deadline)
    }

    /// Bytes of all files, as last counted.
    pub fn bytes(&self) -> u64 {
        self.writer.bytes()
    }

    /// Pages that could not be written.
    pub fn failures(&self) -> u64 {
        self.writer.failures()
    }

    /// Whether pages are still being read into the host tier.
    pub fn is_warming(&self) -> bool {
        self.warming.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Pages that were read into the host tier since the last call, the most recently used first.
    pub fn take_arrived(&self) -> Vec<PageKey> {
        std::mem::take(&mut *lock(&self.shared.arrived))
    }

    /// Says whether steps are waited for: then pages are read slowly.
    pub fn set_busy(&self, busy: bool) {
        self.shared.busy.store(busy, Ordering::Relaxed);
    }

    /// Waits until the host tier is warm.
    pub fn wait_until_warm(&mut self) {
        self.set_busy(false);
        if let Some(thread) = self.warming.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for DiskTier {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.wait_until_warm();
    }
}

/// Reads the most recently used pages into the host tier until it is full, and of the others their tokens.
fn warm(store: &Store, host: &Mutex<HostTier>, shared: &Shared) {
    let mut has_room = true;
    for key in store.recent() {
        if shared.busy.load(Ordering::Relaxed) {
            std::thread::sleep(BUSY_PAUSE);
        }
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        if has_room {
            let Some((place, bytes)) = store.read(&key) else { continue };
            lock(&shared.known).insert(key, place.tokens);
            has_room = lock(host).insert_found(key, HostPage { place, bytes: Arc::new(bytes), on_disk: true });
            lock(&shared.arrived).push(key);
        } else if let Some(place) = store.read_place(&key) {
            lock(&shared.known).insert(key, place.tokens);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
