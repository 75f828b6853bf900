//! The thread that writes pages to disk.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::super::key::{PageKey, Place};
use super::store::{FileSystem, Store};

/// Bytes of pages that wait at most, unless a single page has more.
const QUEUE_BYTES: u64 = 128 << 20;

/// Jobs that wait at most.
const QUEUE_JOBS: usize = 4096;

/// What is to be done.
pub(super) enum Job {
    /// Write a page, unless it is there.
    Write { key: PageKey, place: Place, bytes: Arc<Vec<u8>> },
    /// Note that pages were used.
    Touch(Vec<PageKey>),
}

impl Job {
    fn bytes(&self) -> u64 {
        match self {
            Job::Write { bytes, .. } => bytes.len() as u64,
            Job::Touch(_) => 0,
        }
    }
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    bytes: u64,
    /// A job is being done.
    busy: bool,
    closed: bool,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// Something was queued, or the queue was closed.
    filled: Condvar,
    /// Everything is done.
    idle: Condvar,
    bytes: AtomicU64,
    failures: AtomicU64,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread and its queue.
pub(super) struct Writer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system refuses it.
    pub fn start(store: Store, limit: u64) -> io::Result<Writer> {
        let shared = Arc::new(Shared::default());
        let theirs = shared.clone();
        let run = move || Worker { store, limit, shared: theirs, storage: FileSystem::default(), unseen: 0 }.run();
        let thread = std::thread::Builder::new().name("kv-disk".into()).spawn(run)?;
        Ok(Writer { shared, thread: Some(thread) })
    }

    /// Whether a job of so many bytes may be queued.
    pub fn has_room(&self, bytes: u64) -> bool {
        let queue = self.shared.lock();
        queue.jobs.len() < QUEUE_JOBS && (queue.bytes == 0 || queue.bytes + bytes <= QUEUE_BYTES)
    }

    /// Queues a job; false if there is no room.
    pub fn push(&self, job: Job) -> bool {
        if !self.has_room(job.bytes()) {
            return false;
        }
        let mut queue = self.shared.lock();
        queue.bytes += job.bytes();
        queue.jobs.push_back(job);
        self.shared.filled.notify_one();
        true
    }

    /// Waits until nothing is queued; false if that takes longer.
    pub fn wait(&self, deadline: Duration) -> bool {
        let working = |queue: &mut Queue| queue.busy || !queue.jobs.is_empty();
        let waited = self.shared.idle.wait_timeout_while(self.shared.lock(), deadline, working);
        let (mut queue, _) = waited.unwrap_or_else(PoisonError::into_inner);
        !working(&mut queue)
    }

    /// Bytes of all files, as last counted.
    pub fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::Relaxed)
    }

    /// Pages that could not be written.
    pub fn failures(&self) -> u64 {
        self.shared.failures.load(Ordering::Relaxed)
    }
}

impl Drop for Writer {
    /// Ends the thread after the job it is at.
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.filled.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What the thread owns.
struct Worker {
    store: Store,
    limit: u64,
    shared: Arc<Shared>,
    storage: FileSystem,
    /// Bytes written since the files were counted.
    unseen: u64,
}

impl Worker {
    fn run(mut self) {
        self.count(self.limit);
        while let Some(job) = self.next() {
            match job {
                Job::Touch(keys) => keys.iter().for_each(|key| self.store.touch(key)),
                Job::Write { key, place, bytes } => self.write(&key, &place, &bytes),
            }
        }
    }

    /// The next job; `None` when the queue is closed.
    fn next(&self) -> Option<Job> {
        let mut queue = self.shared.lock();
        queue.busy = false;
        if queue.jobs.is_empty() {
            self.shared.idle.notify_all();
        }
        let idle = |queue: &mut Queue| queue.jobs.is_empty() && !queue.closed;
        let mut queue = self.shared.filled.wait_while(queue, idle).unwrap_or_else(PoisonError::into_inner);
        if queue.closed {
            return None;
        }
        let job = queue.jobs.pop_front()?;
        queue.bytes -= job.bytes();
        queue.busy = true;
        Some(job)
    }

    fn write(&mut self, key: &PageKey, place: &Place, bytes: &[u8]) {
        let file = self.store.file_bytes();
        let total = self.shared.bytes.load(Ordering::Relaxed);
        // Other processes write too, so the files are counted again from time to time.
        if total + file > self.limit || self.unseen > self.limit / 16 {
            let target = (self.limit / 16 * 15).min(self.limit.saturating_sub(file));
            if file > self.limit || self.count(target) + file > self.limit {
                return;
            }
        }
        match self.store.write(&mut self.storage, key, place, bytes) {
            Ok(false) => self.store.touch(key),
            Ok(true) => {
                self.unseen += file;
                self.shared.bytes.fetch_add(file, Ordering::Relaxed);
            }
            Err(error) => {
                if self.shared.failures.fetch_add(1, Ordering::Relaxed) == 0 {
                    tracing::warn!("cannot write a page of the prefix cache, and will not say so again: {error}");
                }
            }
        }
    }

    /// Counts all files, trimming them to `target` if they leave no room for one more; gives their bytes.
    fn count(&mut self, target: u64) -> u64 {
        let limit = self.limit.saturating_sub(self.store.file_bytes());
        let total = self.store.trim(&mut self.storage, limit, target.min(limit));
        self.shared.bytes.store(total, Ordering::Relaxed);
        self.unseen = 0;
        total
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::salt::CacheSalt;

    const PLACE: Place = Place { tokens: [1; 16], parent: None };

    #[test]
    fn pages_are_written_in_the_background_and_kept_within_the_size() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path(), &blake3::hash(b"x"), 1000).unwrap();
        let limit = 5 * store.file_bytes() + 10;
        let writer = Writer::start(store.clone(), limit).unwrap();
        let keys = PageKey::chain(PageKey::root(&CacheSalt::PUBLIC, 0), &[1; 16 * 12]);
        for key in &keys {
            assert!(writer.push(Job::Write { key: *key, place: PLACE, bytes: Arc::new(vec![2; 1000]) }));
            assert!(writer.wait(Duration::from_secs(60)));
            assert!(writer.bytes() <= limit);
            assert!(store.read(key).is_some());
        }
        let left = keys.iter().filter(|k| store.read(k).is_some()).count();
        assert!((1..=5).contains(&left), "{left}");
        assert_eq!(writer.failures(), 0);
    }

    #[test]
    fn a_full_queue_refuses() {
        // Without its thread nothing leaves the queue.
        let writer = Writer { shared: Arc::default(), thread: None };
        let page = Arc::new(vec![0; (QUEUE_BYTES / 2) as usize]);
        let key = PageKey::root(&CacheSalt::PUBLIC, 0);
        let push = || writer.push(Job::Write { key, place: PLACE, bytes: page.clone() });
        assert_eq!([push(), push(), push()], [true, true, false]);
        assert!(!writer.wait(Duration::ZERO));
    }
}
