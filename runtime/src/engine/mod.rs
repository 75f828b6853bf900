//! The engine: sequences in, logits out.
//!
//! It joins a device, which executes steps, with the bookkeeping of KV pages. A step takes tokens of any mix of sequences,
//! prompts and single tokens alike; the engine cuts it into sub-steps that fit a bucket and fills in the step metadata.
//! Buffers of metadata and logits are kept between steps.

pub mod bake;
mod error;
pub mod generate;
mod prefixes;
mod rope;
mod schedule;
mod submitted;

#[cfg(test)]
mod prefix_tests;
#[cfg(test)]
mod submitted_tests;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;

use ir::op::PAGE_TOKENS;
use kernels::cpu::isa::Isa;

use crate::artifact::{Artifact, Manifest};
use crate::device::cuda::GpuOptions;
use crate::device::{self, Device, DeviceChoice, DeviceError, DeviceMemory, LoadOptions, Opened, StepInputs};
use crate::kv::pages::{PageCopy, PageError, PagePool, SequenceId};
use crate::kv::prefix_cache::PrefixCache;
pub use error::EngineError;
use prefixes::Identity;
use rope::RopeTables;
pub use schedule::Rows;
use schedule::{Capacity, Piece, SubSteps};
use submitted::Submitted;
pub use submitted::{ChoosingChunk, Chosen, Next};

/// Context length unless one is asked for, or memory was set apart for the cache: what most prompts need, at a modest
/// reservation.
pub const DEFAULT_MODEL_LEN: u64 = 4096;

/// How an engine is made.
#[derive(Clone, Copy, Debug, Default)]
pub struct EngineOptions {
    /// The device to execute on.
    pub device: DeviceChoice,
    /// Threads of the processor; `None` takes one a core.
    pub threads: Option<usize>,
    /// Instruction set; `None` takes the fastest.
    pub isa: Option<Isa>,
    /// Longest sequence in tokens; `None` takes what the cache holds of the model's context, at most [`DEFAULT_MODEL_LEN`] unless the
    /// cache's size follows from a memory.
    pub max_model_len: Option<u64>,
    /// Tokens the KV cache holds over all sequences, rounded up to pages; `None` takes what fits [`EngineOptions::memory`], else
    /// the pages the artifact was compiled for, else one longest sequence.
    pub kv_tokens: Option<u64>,
    /// Bytes the device may use in all: weights, results, KV cache and the rest; `None` takes what [`EngineOptions::gpu`] says where the
    /// device is a GPU.
    pub memory: Option<u64>,
    /// Which GPU is used, and how.
    pub gpu: GpuOptions,
}

/// Tokens to append to a sequence.
#[derive(Clone, Copy, Debug)]
pub struct Chunk<'a> {
    /// The sequence.
    pub sequence: SequenceId,
    /// Its next tokens, at least one.
    pub tokens: &'a [u32],
    /// Which of their logits are wanted.
    pub logits: Rows,
}

/// Rows of logits, in the order of chunks and tokens.
#[derive(Clone, Copy, Debug)]
pub struct Logits<'a> {
    values: &'a [f32],
    vocabulary: usize,
}

impl<'a> Logits<'a> {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.values.len() / self.vocabulary
    }

    /// A row, `[vocabulary]`; `None` past the last.
    pub fn row(&self, i: usize) -> Option<&'a [f32]> {
        self.values.chunks_exact(self.vocabulary).nth(i)
    }

    /// All rows, `[rows, vocabulary]`.
    pub fn values(&self) -> &'a [f32] {
        self.values
    }
}

/// A row of logits and the token it belongs to.
#[derive(Clone, Copy, Debug)]
pub struct LogitRow<'a> {
    /// Index of the chunk.
    pub chunk: usize,
    /// Index of the token in the chunk.
    pub token: usize,
    /// `[vocabulary]`.
    pub logits: &'a [f32],
}

/// Sizes the engine keeps to.
#[derive(Clone, Debug)]
struct Limits {
    vocabulary: usize,
    max_model_len: u64,
    page_columns: usize,
    capacity: Capacity,
    /// Most tokens and rows of each bucket, smallest first.
    buckets: Vec<(usize, usize)>,
}

/// Step metadata under construction.
#[derive(Debug, Default)]
struct Staging {
    ids: Vec<i32>,
    positions: Vec<i32>,
    sequences: Vec<i32>,
    page_table: Vec<i32>,
    logit_rows: Vec<i32>,
    rope_tables: Vec<i32>,
    lengths: Vec<(usize, Rows)>,
    pieces: Vec<Piece>,
}

impl Staging {
    /// The metadata, for a page table of so many columns.
    fn inputs(&self, page_columns: usize) -> StepInputs<'_> {
        StepInputs {
            ids: &self.ids,
            positions: &self.positions,
            sequences: &self.sequences,
            page_table: &self.page_table,
            page_columns,
            logit_rows: &self.logit_rows,
            rope_tables: &self.rope_tables,
        }
    }
}

/// A loaded model with its sequences.
pub struct Engine {
    device: Box<dyn Device>,
    pool: PagePool,
    prefixes: Option<PrefixCache>,
    /// What the prefix cache needs to know of the artifact.
    identity: Identity,
    limits: Limits,
    /// For models whose rotary frequencies depend on a sequence's length.
    rope: Option<RopeTables>,
    staging: Staging,
    /// Rows of steps that needed several sub-steps.
    logits: Vec<f32>,
    /// Steps that were submitted and not collected, the oldest first.
    under_way: VecDeque<Submitted>,
    /// What was chosen in the step that was collected last.
    collected: Vec<i32>,
}

impl Engine {
    /// Loads an artifact on a device.
    ///
    /// # Errors
    /// Options out of range, no device for the artifact, or too little memory.
    pub fn new(artifact: Arc<Artifact>, options: &EngineOptions) -> Result<Engine, EngineError> {
        let max_context = artifact.manifest().model.max_context;
        if let Some(len) = options.max_model_len.filter(|len| *len == 0 || *len > max_context) {
            let message = format!("{len} is not from 1 to {max_context}, the context the artifact was compiled for");
            return Err(EngineError::Option { option: "max_model_len", message });
        }
        let opened = device::open(options.device, &artifact, &options.gpu)?;
        let (pages, longest) = pages_and_longest(&artifact, options, &opened)?;
        let max_model_len = options.max_model_len.unwrap_or(longest);
        let load = LoadOptions { pages, threads: options.threads, isa: options.isa };
        let device = opened.load(artifact.clone(), &load)?;
        let mut engine = Engine::with_device(artifact.manifest(), device, max_model_len);
        engine.identity.artifact = Some(artifact);
        Ok(engine)
    }

    /// An engine on a device that is loaded with the manifest's programs.
    pub fn with_device(manifest: &Manifest, device: Box<dyn Device>, max_model_len: u64) -> Engine {
        let pages = device.pages().min(u64::from(u32::MAX)) as u32;
        let buckets: Vec<_> =
            manifest.buckets.iter().map(|b| (b.max_tokens as usize, b.max_logit_rows as usize)).collect();
        let (tokens, rows) = buckets.last().copied().unwrap_or((1, 1));
        let limits = Limits {
            vocabulary: manifest.model.vocab_size as usize,
            max_model_len,
            page_columns: max_model_len.div_ceil(PAGE_TOKENS).clamp(1, u64::from(pages.max(1))) as usize,
            capacity: Capacity { tokens, rows, sequences: manifest.max_sequences as usize },
            buckets,
        };
        let rope = manifest.model.rope_switch.map(RopeTables::new);
        Engine {
            identity: Identity::of(manifest, &*device),
            device,
            pool: PagePool::new(pages),
            prefixes: None,
            limits,
            rope,
            staging: Staging::default(),
            logits: Vec::new(),
            under_way: VecDeque::new(),
            collected: Vec::new(),
        }
    }

    /// The device's description.
    pub fn device_name(&self) -> String {
        self.device.name()
    }

    /// Memory the device has reserved.
    pub fn memory(&self) -> DeviceMemory {
        self.device.memory()
    }

    /// Bytes of packed weights that all steps so far have read, counted by the device.
    pub fn weight_bytes_read(&self) -> u64 {
        self.device.weight_bytes_read()
    }

    /// Number of logits in a row.
    pub fn vocabulary(&self) -> usize {
        self.limits.vocabulary
    }

    /// Most rows of logits that one sub-step computes; a step of no more tokens is one sub-step.
    pub fn max_logit_rows(&self) -> usize {
        self.limits.capacity.rows
    }

    /// Longest sequence in tokens.
    pub fn max_model_len(&self) -> u64 {
        self.limits.max_model_len
    }

    /// The KV pages and who holds them.
    pub fn pool(&self) -> &PagePool {
        &self.pool
    }

    /// Opens an empty sequence.
    pub fn open_sequence(&mut self) -> SequenceId {
        self.open_sequence_for(0)
    }

    /// Opens an empty sequence whose prompt has that many tokens. Where a model treats long sequences differently, it is
    /// then treated so from its first token on, in whatever pieces the prompt is given.
    pub fn open_sequence_for(&mut self, prompt_tokens: u64) -> SequenceId {
        let sequence = self.pool.open();
        if let Some(rope) = &mut self.rope {
            rope.open(sequence, prompt_tokens);
        }
        sequence
    }

    /// A result of the last sub-step that holds integers, such as the experts a traced router selected, row-major; `None`
    /// where the artifact has none of that name.
    pub fn output_ints(&self, name: &str) -> Option<&[i32]> {
        self.device.output_ints(name)
    }

    /// As [`Engine::output_ints`], for real numbers.
    pub fn output(&self, name: &str) -> Option<&[f32]> {
        self.device.output(name)
    }

    /// Opens a sequence that shares the first `tokens` tokens of another. Where they end within a page, that is copied.
    ///
    /// # Errors
    /// No such sequence or length, no page for the copy, or a failure of the device.
    pub fn fork_sequence(&mut self, sequence: SequenceId, tokens: u64) -> Result<SequenceId, EngineError> {
        // The prefix cache is told the fork's tokens.
        self.settle_all()?;
        self.make_room(u64::from(!tokens.is_multiple_of(PAGE_TOKENS)))?;
        let (fork, copy) = self.pool.fork(sequence, tokens)?;
        if let Err(error) = self.copy_page(copy) {
            self.pool.close(fork)?;
            return Err(error);
        }
        if let Some(rope) = &mut self.rope {
            rope.fork(sequence, fork, tokens);
        }
        if let Some(prefixes) = &mut self.prefixes {
            prefixes.forked(sequence, fork, tokens);
        }
        Ok(fork)
    }

    fn copy_page(&mut self, copy: Option<PageCopy>) -> Result<(), EngineError> {
        copy.map_or(Ok(()), |copy| Ok(self.device.copy_page(copy.from, copy.to)?))
    }

    /// Forgets the tokens of a sequence from `tokens` on. Where it then ends within a shared page, it gets a copy of that.
    ///
    /// # Errors
    /// No such sequence or length, no page for the copy, or a failure of the device.
    pub fn truncate_sequence(&mut self, sequence: SequenceId, tokens: u64) -> Result<(), EngineError> {
        // The prefix cache must not be told tokens that are gone.
        self.settle_all()?;
        self.make_room(self.pool.truncating_copies(sequence, tokens).into())?;
        let copy = self.cut(sequence, tokens)?;
        if let Some(rope) = &mut self.rope {
            rope.truncate(sequence, tokens);
        }
        self.copy_page(copy)
    }

    /// Ends a sequence and frees its pages; those that the prefix cache holds stay until others need them. What steps under way compute for it
    /// is dropped: whatever its pages hold next comes after them.
    ///
    /// # Errors
    /// No such sequence.
    pub fn close_sequence(&mut self, sequence: SequenceId) -> Result<(), EngineError> {
        if let Some(prefixes) = &mut self.prefixes {
            prefixes.leaving(&self.pool, sequence);
            prefixes.closed(sequence);
        }
        self.pool.close(sequence)?;
        if let Some(rope) = &mut self.rope {
            rope.close(sequence);
        }
        Ok(())
    }

    /// Appends tokens to sequences and gives the logits asked for.
    ///
    /// # Errors
    /// Tokens or lengths out of range, too few pages, or a failure of the device; in every case all sequences are as they
    /// were before.
    pub fn step(&mut self, chunks: &[Chunk]) -> Result<Logits<'_>, EngineError> {
        let mut copy = std::mem::take(&mut self.logits);
        copy.clear();
        let single = self.run(chunks, true, &mut |row| copy.extend_from_slice(row.logits));
        self.logits = copy;
        let vocabulary = self.limits.vocabulary;
        let values = match single? {
            // The rows are still in the device's memory: no copy is needed.
            Some(rows) => &output(&*self.device, vocabulary, rows)?[..rows * vocabulary],
            None => self.logits.as_slice(),
        };
        Ok(Logits { values, vocabulary })
    }

    /// As [`Engine::step`], but hands each row over as soon as it is computed, so that memory stays bounded however many
    /// are asked for.
    ///
    /// # Errors
    /// As [`Engine::step`]; rows may have been handed over before.
    pub fn step_each(&mut self, chunks: &[Chunk], mut sink: impl FnMut(LogitRow)) -> Result<(), EngineError> {
        self.run(chunks, false, &mut sink).map(|_| ())
    }

    /// Runs a step. If it is one sub-step and `direct`, leaves its rows in the device and gives their number; otherwise
    /// hands all to `sink`.
    fn run(
        &mut self,
        chunks: &[Chunk],
        direct: bool,
        sink: &mut dyn FnMut(LogitRow),
    ) -> Result<Option<usize>, EngineError> {
        self.settle_all()?;
        self.validate(chunks)?;
        self.switch_tables(chunks)?;
        self.append(chunks, direct, sink)
    }

    /// Computes again what a changed rotary table invalidates. If that fails, the sequence is left empty.
    fn switch_tables(&mut self, chunks: &[Chunk]) -> Result<(), EngineError> {
        for chunk in chunks {
            let Some(rope) = &mut self.rope else { return Ok(()) };
            let Some(ids) = rope.grow(chunk.sequence, chunk.tokens.len()) else { continue };
            self.cut(chunk.sequence, 0)?;
            let again = Chunk { sequence: chunk.sequence, tokens: &ids, logits: Rows::None };
            self.append(&[again], false, &mut |_| ())?;
        }
        Ok(())
    }

    /// Appends validated chunks.
    fn append(
        &mut self,
        chunks: &[Chunk],
        direct: bool,
        sink: &mut dyn FnMut(LogitRow),
    ) -> Result<Option<usize>, EngineError> {
        self.reserve(chunks)?;
        let mut staging = std::mem::take(&mut self.staging);
        let result = self.run_sub_steps(chunks, &mut staging, direct, sink);
        self.staging = staging;
        if result.is_err() {
            self.roll_back(chunks, chunks.len());
            return result;
        }
        if let Some(rope) = &mut self.rope {
            chunks.iter().for_each(|c| rope.append(c.sequence, c.tokens));
        }
        self.publish(chunks.iter().map(|c| (c.sequence, c.tokens)))?;
        result
    }

    fn validate(&self, chunks: &[Chunk]) -> Result<(), EngineError> {
        for (i, chunk) in chunks.iter().enumerate() {
            let held = self.pool.tokens(chunk.sequence)?;
            if chunk.tokens.is_empty() {
                return Err(EngineError::EmptyChunk { chunk: i });
            }
            if chunks[..i].iter().any(|c| c.sequence == chunk.sequence) {
                return Err(EngineError::RepeatedSequence { chunk: i });
            }
            let tokens = held.saturating_add(chunk.tokens.len() as u64);
            if tokens > self.limits.max_model_len {
                return Err(EngineError::TooLong { tokens, max_model_len: self.limits.max_model_len });
            }
            if let Some(token) = chunk.tokens.iter().find(|t| **t as usize >= self.limits.vocabulary) {
                return Err(EngineError::UnknownToken { token: *token, vocabulary: self.limits.vocabulary });
            }
        }
        Ok(())
    }

    /// Takes the pages of the whole step, or none.
    fn reserve(&mut self, chunks: &[Chunk]) -> Result<(), EngineError> {
        let needed = chunks.iter().try_fold(0, |sum: u64, c| {
            Ok::<u64, PageError>(sum + self.pool.pages_to_append(c.sequence, c.tokens.len() as u64)?)
        })?;
        let free = self.available_pages();
        if needed > free {
            return Err(PageError::OutOfPages { needed, free }.into());
        }
        self.make_room(needed)?;
        for (i, chunk) in chunks.iter().enumerate() {
            if let Err(error) = self.pool.append(chunk.sequence, chunk.tokens.len() as u64) {
                self.roll_back(chunks, i);
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// Takes back the tokens appended by the first `count` chunks of a failed step.
    fn roll_back(&mut self, chunks: &[Chunk], count: usize) {
        for chunk in &chunks[..count] {
            let held = self.pool.tokens(chunk.sequence).unwrap_or(0);
            let before = held.saturating_sub(chunk.tokens.len() as u64);
            // The appended tokens are in pages of the sequence's own, so the cut is always possible.
            let cut = self.pool.truncate(chunk.sequence, before);
            debug_assert!(cut.is_ok(), "{cut:?}");
        }
    }

    fn run_sub_steps(
        &mut self,
        chunks: &[Chunk],
        staging: &mut Staging,
        direct: bool,
        sink: &mut dyn FnMut(LogitRow),
    ) -> Result<Option<usize>, EngineError> {
        staging.lengths.clear();
        staging.lengths.extend(chunks.iter().map(|c| (c.tokens.len(), c.logits)));
        let lengths = std::mem::take(&mut staging.lengths);
        let mut steps = SubSteps::new(&lengths, self.limits.capacity);
        let (mut first, mut result) = (true, Ok(None));
        while steps.next_into(&mut staging.pieces) {
            let rows = staging.pieces.iter().map(|p| p.rows.len()).sum();
            let whole = direct && first && steps.is_done();
            result = self.run_sub_step(chunks, staging, rows).and_then(|()| match whole {
                true => Ok(Some(rows)),
                false => self.hand_over(&staging.pieces, rows, sink).map(|()| None),
            });
            if whole || result.is_err() {
                break;
            }
            first = false;
        }
        staging.lengths = lengths;
        result
    }

    fn run_sub_step(&mut self, chunks: &[Chunk], staging: &mut Staging, rows: usize) -> Result<(), EngineError> {
        self.stage(chunks, staging)?;
        let bucket = self.bucket(staging.ids.len(), rows);
        Ok(self.device.step(bucket, &staging.inputs(self.limits.page_columns))?)
    }

    /// The smallest bucket for so many tokens and rows.
    fn bucket(&self, tokens: usize, rows: usize) -> usize {
        let fits = |(max_tokens, max_rows): &(usize, usize)| *max_tokens >= tokens && *max_rows >= rows.max(1);
        self.limits.buckets.iter().position(fits).unwrap_or(self.limits.buckets.len())
    }

    /// Fills in the metadata of a sub-step.
    fn stage(&self, chunks: &[Chunk], staging: &mut Staging) -> Result<(), EngineError> {
        let Staging { ids, positions, sequences, page_table, logit_rows, rope_tables, pieces, .. } = staging;
        for list in [&mut *ids, positions, sequences, page_table, logit_rows, rope_tables] {
            list.clear();
        }
        for (row, piece) in pieces.iter().enumerate() {
            let chunk = &chunks[piece.chunk];
            let start = self.pool.tokens(chunk.sequence)? - chunk.tokens.len() as u64;
            let first_row = ids.len();
            let table = self.rope.as_ref().map_or(0, |rope| rope.table(chunk.sequence));
            for token in piece.tokens.clone() {
                ids.push(chunk.tokens[token] as i32);
                positions.push((start + token as u64) as i32);
                sequences.push(row as i32);
                rope_tables.push(table);
            }
            logit_rows.extend(piece.rows.clone().map(|t| (first_row + t - piece.tokens.start) as i32));
            page_table.extend(self.pool.table(chunk.sequence)?.iter().map(|page| *page as i32));
            page_table.resize((row + 1) * self.limits.page_columns, 0);
        }
        if logit_rows.is_empty() {
            // Programs compute at least one row; nobody will look at it.
            logit_rows.push(0);
        }
        Ok(())
    }

    fn hand_over(&self, pieces: &[Piece], rows: usize, sink: &mut dyn FnMut(LogitRow)) -> Result<(), EngineError> {
        let vocabulary = self.limits.vocabulary;
        let mut values = output(&*self.device, vocabulary, rows)?.chunks_exact(vocabulary);
        for piece in pieces {
            for (token, logits) in piece.rows.clone().zip(&mut values) {
                sink(LogitRow { chunk: piece.chunk, token, logits });
            }
        }
        Ok(())
    }
}

/// Pages to reserve, and the longest sequence that they, or where nothing says how many there are, the default context allows.
fn pages_and_longest(artifact: &Artifact, options: &EngineOptions, opened: &Opened) -> Result<(u64, u64), DeviceError> {
    let max_context = artifact.manifest().model.max_context;
    let default_len = max_context.min(DEFAULT_MODEL_LEN);
    let asked = options.kv_tokens.map(|tokens| tokens.div_ceil(PAGE_TOKENS));
    let load = LoadOptions { pages: 0, threads: options.threads, isa: options.isa };
    let longest = options.max_model_len.unwrap_or(if options.memory.is_some() { 1 } else { default_len });
    let compiled = artifact.manifest().kv.pages.filter(|_| options.memory.is_none());
    let least = longest.div_ceil(PAGE_TOKENS);
    let fitting = opened.pages_within(artifact, options.memory, asked.or(compiled), least, &load)?;
    let held = |pages: u64| max_context.min(pages.saturating_mul(PAGE_TOKENS));
    Ok(match (asked, fitting.or(compiled)) {
        (Some(pages), _) => (pages, default_len),
        (None, Some(pages)) if options.memory.is_some() || compiled.is_some() => (pages, held(pages)),
        // A GPU holds more than anybody asked for; a long page table would cost every step.
        (None, Some(pages)) => (pages, default_len.min(held(pages))),
        (None, None) => (least, default_len),
    })
}

/// The device's logits, at least `rows` rows.
fn output(device: &dyn Device, vocabulary: usize, rows: usize) -> Result<&[f32], EngineError> {
    device.output("logits").filter(|o| o.len() >= rows * vocabulary).ok_or(EngineError::NoLogits)
}
