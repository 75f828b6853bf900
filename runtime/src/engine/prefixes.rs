//! The engine's side of the prefix cache: sequences that begin with what is known, and pages that are known afterwards.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::{Engine, EngineError};
use crate::artifact::{Artifact, Manifest};
use crate::device::Device;
use crate::kv::pages::{PageCopy, PagePool, SequenceId};
use crate::kv::prefix_cache::PrefixCache;
use crate::kv::salt::CacheSalt;
use crate::kv::{PrefixCacheOptions, PrefixCacheStats, Tending};
use crate::serving::CachedTokens;

/// What the bits of pages depend on, and where baked prompts are.
pub(super) struct Identity {
    hash: blake3::Hash,
    page_bytes: usize,
    pub artifact: Option<Arc<Artifact>>,
}

impl Identity {
    /// The manifest names the hash of every file of the artifact; the kernels of the processor are the runtime's.
    pub fn of(manifest: &Manifest, device: &dyn Device) -> Identity {
        let mut hasher = blake3::Hasher::new_derive_key("moesaic prefix cache identity");
        let manifest_text = serde_json::to_vec(manifest).unwrap_or_default();
        for part in [&manifest_text[..], device.arithmetic().as_bytes(), env!("CARGO_PKG_VERSION").as_bytes()] {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
        }
        let page_bytes = manifest.page_bytes() as usize;
        Identity { hash: hasher.finalize(), page_bytes, artifact: None }
    }
}

impl Engine {
    /// Keeps the pages of sequences that are opened with a salt, to be found by later ones, and makes the artifact's baked
    /// prompts resident: on the device as far as they take at most half of its pages.
    ///
    /// # Errors
    /// The folder of the disk tier cannot be made, a baked prompt cannot be read, or the cache is on already.
    pub fn enable_prefix_cache(&mut self, options: &PrefixCacheOptions) -> Result<(), EngineError> {
        if self.prefixes.is_some() || self.pool.sequences() > 0 {
            let message = "it is turned on once, before any sequence is opened".into();
            return Err(EngineError::Option { option: "prefix cache", message });
        }
        let Identity { hash, page_bytes, .. } = &self.identity;
        let mut cache = PrefixCache::new(options, self.pool.pages(), *page_bytes, hash).map_err(|source| {
            let dir = options.dir.as_deref().unwrap_or(Path::new("")).display();
            EngineError::Option { option: "prefix cache folder", message: format!("{dir}: {source}") }
        })?;
        if let Err(error) = self.add_baked(&mut cache) {
            // No sequence is open: the pages that were taken so far are nobody's.
            self.pool = PagePool::new(self.pool.pages() as u32);
            return Err(error);
        }
        self.prefixes = Some(cache);
        Ok(())
    }

    /// Gives the artifact's baked prompts to the cache.
    fn add_baked(&mut self, cache: &mut PrefixCache) -> Result<(), EngineError> {
        let Some(artifact) = &self.identity.artifact else { return Ok(()) };
        let most = self.pool.pages() as usize / 2;
        for prefix in artifact.prefixes() {
            let read = |page, bytes: &mut [u8]| Ok(prefix.read_page(page, bytes)?);
            cache.add_baked(&mut self.pool, &mut *self.device, prefix.rope_table(), prefix.tokens(), most, read)?;
        }
        Ok(())
    }

    /// Whether pages are kept for later sequences.
    pub fn has_prefix_cache(&self) -> bool {
        self.prefixes.is_some()
    }

    /// Opens a sequence that holds the tokens of a prompt that are known: all but the last at most. The caller appends the
    /// rest, from token [`CachedTokens::total`] on. Without a prefix cache none are known.
    ///
    /// # Errors
    /// The device fails.
    pub fn open_cached(&mut self, salt: &CacheSalt, prompt: &[u32]) -> Result<(SequenceId, CachedTokens), EngineError> {
        let expected = prompt.len() as u64;
        let table = self.rope.as_ref().map_or(0, |rope| rope.table_for(expected));
        let Some(prefixes) = &mut self.prefixes else {
            return Ok((self.open_sequence_for(expected), CachedTokens::default()));
        };
        let (sequence, cached) = prefixes.open(&mut self.pool, &mut *self.device, salt, table, prompt)?;
        if let Some(rope) = &mut self.rope {
            rope.open(sequence, expected);
            rope.append(sequence, &prompt[..cached.total() as usize]);
        }
        Ok((sequence, cached))
    }

    /// Opens an empty sequence as [`Engine::open_sequence_for`], whose pages are kept for later ones of the same salt: for
    /// prompts of which every token is to be computed.
    pub fn open_salted(&mut self, salt: &CacheSalt, prompt_tokens: u64) -> SequenceId {
        let sequence = self.open_sequence_for(prompt_tokens);
        if let Some(prefixes) = &mut self.prefixes {
            prefixes.track(sequence, salt);
        }
        sequence
    }

    /// Pages that a step could take: free ones, and those that only the prefix cache holds.
    pub fn available_pages(&self) -> u64 {
        self.pool.free_pages() + self.pool.evictable_pages()
    }

    /// What the prefix cache holds and has done; zeros where there is none.
    pub fn prefix_cache_stats(&self) -> PrefixCacheStats {
        self.prefixes.as_ref().map_or_else(PrefixCacheStats::default, PrefixCache::stats)
    }

    /// What is done for the prefix cache when there is nothing to compute, a little at a time: hands pages that are not on disk yet to the
    /// thread that writes them, as far as its queue has room, and brings pages that the disk held at the start to the device. Never waits.
    ///
    /// # Errors
    /// The device fails.
    pub fn tend_prefix_cache(&mut self) -> Result<Tending, EngineError> {
        let Some(prefixes) = &mut self.prefixes else { return Ok(Tending::Done) };
        let unwritten = prefixes.persist(&*self.device)?;
        Ok(match prefixes.bring_found(&mut self.pool, &mut *self.device)? {
            Tending::Done if unwritten => Tending::Later,
            found => found,
        })
    }

    /// Waits until all pages are on disk, at most `deadline`; false if some are not.
    ///
    /// # Errors
    /// The device fails.
    pub fn flush_prefix_cache(&mut self, deadline: Duration) -> Result<bool, EngineError> {
        let start = std::time::Instant::now();
        loop {
            let more = self.prefixes.as_mut().map_or(Ok(false), |prefixes| prefixes.persist(&*self.device))?;
            let left = deadline.saturating_sub(start.elapsed());
            let written = self.prefixes.as_ref().is_none_or(|prefixes| prefixes.flush(left));
            if !more || !written {
                return Ok(written && !more);
            }
        }
    }

    /// Waits until the pages that the folder held at the start are in the host's memory, as far as they fit.
    pub fn wait_until_prefixes_are_warm(&mut self) {
        if let Some(prefixes) = &mut self.prefixes {
            prefixes.wait_until_warm();
        }
    }

    /// Evicts pages until so many are free, or none is left to evict.
    pub(super) fn make_room(&mut self, needed: u64) -> Result<(), EngineError> {
        if let Some(prefixes) = &mut self.prefixes {
            prefixes.make_room(&mut self.pool, &mut *self.device, needed)?;
        }
        Ok(())
    }

    /// Shortens a sequence in the pool and in the prefix cache.
    pub(super) fn cut(&mut self, sequence: SequenceId, tokens: u64) -> Result<Option<PageCopy>, EngineError> {
        if let Some(prefixes) = &mut self.prefixes {
            prefixes.leaving(&self.pool, sequence);
        }
        let copy = self.pool.truncate(sequence, tokens)?;
        if let Some(prefixes) = &mut self.prefixes {
            prefixes.cut(sequence, tokens);
        }
        Ok(copy)
    }

    /// Publishes the pages that a successful step has filled, with these tokens of open sequences.
    pub(super) fn publish<'a>(
        &mut self,
        texts: impl Iterator<Item = (SequenceId, &'a [u32])>,
    ) -> Result<(), EngineError> {
        let Some(prefixes) = &mut self.prefixes else { return Ok(()) };
        for (sequence, tokens) in texts {
            let table = self.rope.as_ref().map_or(0, |rope| rope.table(sequence));
            prefixes.appended(&mut self.pool, sequence, table, tokens)?;
        }
        prefixes.persist(&*self.device)?;
        Ok(())
    }
}
