//! Steps whose tokens the device chooses: submitted, and collected when their tokens are needed.
//!
//! The pool's pages are taken when a step is submitted; the prefix cache learns its tokens when they are known. What is called in between finds
//! all that was submitted before it done: the device keeps to the order of calls, and calls that need to know tokens wait for them.

use std::ops::Range;

use kernels::abi::SampleSettings;

use super::schedule::SubSteps;
use super::{Chunk, Engine, EngineError, Logits, Rows, Staging, output};
use crate::device::{Carried, ChoosingStep, MOST_UNDER_WAY};
use crate::kv::pages::SequenceId;
use crate::sample::chosen;

/// What a sequence goes on with.
#[derive(Clone, Copy, Debug)]
pub enum Next<'a> {
    /// Tokens, at least one.
    Known(&'a [u32]),
    /// The token that the step submitted last chooses for the sequence; that step must not be collected yet.
    Chosen,
}

/// Tokens to append to a sequence, and how to choose from their logits.
#[derive(Clone, Copy, Debug)]
pub struct ChoosingChunk<'a> {
    /// The sequence.
    pub sequence: SequenceId,
    /// Its next tokens.
    pub tokens: Next<'a>,
    /// Which of their logits tokens are chosen from.
    pub logits: Rows,
    /// How they are chosen.
    pub settings: SampleSettings,
}

/// Tokens and logits of a step.
#[derive(Clone, Copy, Debug)]
pub struct Chosen<'a> {
    /// What the device chose from each row of logits, in the order of chunks and tokens, see [`crate::sample::chosen`]; empty if it
    /// does not choose.
    pub tokens: &'a [i32],
    /// The rows.
    pub logits: Logits<'a>,
}

/// A step that was submitted and not collected.
#[derive(Debug, Default)]
pub(super) struct Submitted {
    chunks: Vec<SubmittedChunk>,
    /// Tokens of all chunks.
    ids: Vec<u32>,
    rows: usize,
    /// What was chosen from each row, once the device was asked.
    chosen: Option<Vec<i32>>,
}

#[derive(Clone, Debug)]
struct SubmittedChunk {
    sequence: SequenceId,
    /// Tokens that the sequence had before.
    start: u64,
    /// Of [`Submitted::ids`].
    ids: Range<usize>,
    /// Its last row of logits, if it has one.
    row: Option<usize>,
    /// The row of the step before that its token is chosen from, until that is known.
    carried: Option<usize>,
}

/// Chunks, and how the tokens after them are chosen.
struct Choices<'a> {
    chunks: Vec<Chunk<'a>>,
    settings: Vec<SampleSettings>,
    /// The row of the step before that the one token of a chunk is chosen from, unless it is known.
    carried: Vec<Option<usize>>,
}

impl<'a> Choices<'a> {
    /// Of chunks, with what [`Engine::chosen_before`] says of each.
    fn new(chunks: &'a [ChoosingChunk], before: &'a [(u32, Option<usize>)]) -> Choices<'a> {
        let chunk = |(chunk, (token, _)): (&'a ChoosingChunk, &'a (u32, Option<usize>))| {
            let tokens = match chunk.tokens {
                Next::Known(tokens) => tokens,
                Next::Chosen => std::slice::from_ref(token),
            };
            Chunk { sequence: chunk.sequence, tokens, logits: chunk.logits }
        };
        Choices {
            chunks: chunks.iter().zip(before).map(chunk).collect(),
            settings: chunks.iter().map(|c| c.settings).collect(),
            carried: before.iter().map(|(_, row)| *row).collect(),
        }
    }

    /// Tokens and rows of each chunk.
    fn lengths(&self) -> Vec<(usize, Rows)> {
        self.chunks.iter().map(|c| (c.tokens.len(), c.logits)).collect()
    }
}

impl Engine {
    /// Whether the device chooses tokens by itself. Where rotary frequencies change with a sequence's length, the host must know all tokens.
    pub fn chooses(&self) -> bool {
        self.device.chooses() && self.rope.is_none()
    }

    /// Whether chunks, given by their tokens and rows, are one sub-step, which can be submitted.
    pub fn is_one_sub_step(&self, chunks: impl Iterator<Item = (usize, Rows)>) -> bool {
        let lengths: Vec<_> = chunks.collect();
        let mut steps = SubSteps::new(&lengths, self.limits.capacity);
        steps.next_into(&mut Vec::new());
        steps.is_done()
    }

    /// Hands a step to the device and returns before it is done; [`Engine::collect`] gives its tokens. Two may be under way.
    ///
    /// # Errors
    /// As [`Engine::step`]; a device that does not choose, more than one sub-step, or [`Next::Chosen`] where nothing is. The sequences are
    /// then as they were before this step, and what was submitted before is still to be collected.
    pub fn submit(&mut self, chunks: &[ChoosingChunk]) -> Result<(), EngineError> {
        let refused = |message: &str| Err(EngineError::Option { option: "submit", message: message.into() });
        if !self.chooses() {
            return refused("the tokens of this model are chosen on the host, from the logits that a step gives");
        }
        if !self.is_one_sub_step(chunks.iter().map(|c| (c.tokens.count(), c.logits))) {
            return refused("the chunks are more than the device computes at once");
        }
        let before = self.chosen_before(chunks)?;
        let choices = Choices::new(chunks, &before);
        self.append_choosing(&choices, |engine, staging| {
            engine.stage_next(&choices, &mut SubSteps::new(&choices.lengths(), engine.limits.capacity), staging)?;
            engine.submit_staged(&choices, staging, false)
        })?;
        let submitted = self.submitted(&choices)?;
        self.under_way.push_back(submitted);
        Ok(())
    }

    /// Gives what the device chose in the step that was submitted first, a number for each of its rows, see [`crate::sample::chosen`]; waits
    /// for that step and no other.
    ///
    /// # Errors
    /// Nothing is under way, or a failure of the device: nothing is under way any more then, and all sequences are as they were before the
    /// first step that was.
    pub fn collect(&mut self) -> Result<&[i32], EngineError> {
        if self.under_way.front().is_some_and(|step| step.chosen.is_none()) {
            self.settle_next()?;
        }
        let chosen = self.under_way.pop_front().and_then(|step| step.chosen);
        self.collected = chosen.ok_or_else(|| EngineError::Option {
            option: "collect",
            message: "no step is under way that was submitted".into(),
        })?;
        Ok(&self.collected)
    }

    /// As [`Engine::step`], and has the device choose a token from each row, if it chooses.
    ///
    /// # Errors
    /// As [`Engine::step`].
    pub fn step_choosing(&mut self, chunks: &[ChoosingChunk]) -> Result<Chosen<'_>, EngineError> {
        self.settle_all()?;
        let before = self.chosen_before(chunks)?;
        let choices = Choices::new(chunks, &before);
        if !self.chooses() {
            return Ok(Chosen { tokens: &[], logits: self.step(&choices.chunks)? });
        }
        let (mut tokens, vocabulary) = (Vec::new(), self.limits.vocabulary);
        self.logits.clear();
        let is_single =
            self.append_choosing(&choices, |engine, staging| engine.run_all(&choices, staging, &mut tokens))?;
        self.publish(choices.chunks.iter().map(|c| (c.sequence, c.tokens)))?;
        self.collected = tokens;
        let values = match is_single {
            // The rows are still in the device's memory: no copy is needed.
            true => &output(&*self.device, vocabulary, self.collected.len())?[..self.collected.len() * vocabulary],
            false => self.logits.as_slice(),
        };
        Ok(Chosen { tokens: &self.collected, logits: Logits { values, vocabulary } })
    }

    /// Forgets what was submitted and not collected, with its tokens.
    pub fn give_up_submitted(&mut self) {
        let mut tokens = Vec::new();
        let steps = std::mem::take(&mut self.under_way);
        // The device may have given them up by itself, or fail to end them: what they computed is not used in any case.
        let left = steps.iter().filter(|step| step.chosen.is_none()).count();
        let _ = (0..left).try_for_each(|_| self.device.collect(&mut tokens));
        for chunk in steps.iter().rev().flat_map(|step| &step.chunks) {
            if self.pool.tokens(chunk.sequence).is_ok_and(|held| held > chunk.start) {
                // Where the device cannot copy a page for it either, the sequence keeps tokens that nobody goes on from.
                let _ = self.truncate_sequence(chunk.sequence, chunk.start);
            }
        }
    }

    /// Compares pages, sequences and the prefix cache, if all is known. For tests.
    ///
    /// # Panics
    /// If they disagree.
    #[cfg(test)]
    pub(crate) fn check_pages(&self) {
        if let Some(prefixes) = self.prefixes.as_ref().filter(|_| self.under_way.is_empty()) {
            prefixes.check(&self.pool);
        }
    }

    /// For each chunk of a step: the row of the last step submitted that its token is chosen from, or the token if that is known by now.
    fn chosen_before(&self, chunks: &[ChoosingChunk]) -> Result<Vec<(u32, Option<usize>)>, EngineError> {
        let vocabulary = self.limits.vocabulary;
        let before = |(chunk, c): (usize, &ChoosingChunk)| {
            if let Next::Known(_) = c.tokens {
                return Ok((0, None));
            }
            let nothing = || EngineError::NothingChosen { chunk };
            let last = self.under_way.back().ok_or_else(nothing)?;
            let held = self.pool.tokens(c.sequence)?;
            let ends = |s: &&SubmittedChunk| s.sequence == c.sequence && s.start + s.ids.len() as u64 == held;
            let row = last.chunks.iter().find(ends).and_then(|s| s.row).ok_or_else(nothing)?;
            match &last.chosen {
                None => Ok((0, Some(row))),
                Some(tokens) => {
                    let token = chosen(tokens.get(row).copied().unwrap_or(i32::MIN), vocabulary);
                    Ok((token.map_err(|_| nothing())?, None))
                }
            }
        };
        chunks.iter().enumerate().map(before).collect()
    }

    /// Appends chunks by what `run` does; takes them back if it fails.
    fn append_choosing<T>(
        &mut self,
        choices: &Choices,
        run: impl FnOnce(&mut Engine, &mut Staging) -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        self.validate(&choices.chunks)?;
        self.reserve(&choices.chunks)?;
        let mut staging = std::mem::take(&mut self.staging);
        let result = run(self, &mut staging);
        self.staging = staging;
        if result.is_err() {
            self.roll_back(&choices.chunks, choices.chunks.len());
        }
        result
    }

    /// Runs all sub-steps, one after the other. `tokens` is what was chosen from all rows; the rows of several are added to
    /// [`Engine::logits`]. True if there is one.
    fn run_all(
        &mut self,
        choices: &Choices,
        staging: &mut Staging,
        tokens: &mut Vec<i32>,
    ) -> Result<bool, EngineError> {
        let (lengths, vocabulary, mut of_step) = (choices.lengths(), self.limits.vocabulary, Vec::new());
        let mut steps = SubSteps::new(&lengths, self.limits.capacity);
        let mut is_single = true;
        while !steps.is_done() {
            let rows = self.stage_next(choices, &mut steps, staging)?;
            self.submit_staged(choices, staging, true)?;
            self.device.collect(&mut of_step)?;
            tokens.extend_from_slice(of_step.get(..rows).ok_or(EngineError::NoLogits)?);
            is_single &= steps.is_done();
            if !is_single {
                self.logits.extend_from_slice(&output(&*self.device, vocabulary, rows)?[..rows * vocabulary]);
            }
        }
        Ok(is_single)
    }

    /// Fills in the next sub-step; gives its rows.
    fn stage_next(
        &mut self,
        choices: &Choices,
        steps: &mut SubSteps,
        staging: &mut Staging,
    ) -> Result<usize, EngineError> {
        steps.next_into(&mut staging.pieces);
        self.stage(&choices.chunks, staging)?;
        Ok(staging.pieces.iter().map(|p| p.rows.len()).sum())
    }

    fn submit_staged(&mut self, choices: &Choices, staging: &Staging, outputs: bool) -> Result<(), EngineError> {
        let (mut settings, mut carried, mut token) = (Vec::with_capacity(staging.logit_rows.len()), Vec::new(), 0);
        for piece in &staging.pieces {
            settings.extend(piece.rows.clone().map(|_| choices.settings[piece.chunk]));
            carried.extend(choices.carried[piece.chunk].map(|row| Carried { token, row }));
            token += piece.tokens.len();
        }
        let bucket = self.bucket(staging.ids.len(), settings.len());
        // Where no row is wanted there is one that nobody looks at.
        settings.resize(staging.logit_rows.len(), SampleSettings::default());
        let inputs = staging.inputs(self.limits.page_columns);
        Ok(self.device.submit(bucket, &ChoosingStep { inputs, settings: &settings, carried: &carried, outputs })?)
    }

    /// The record of a step that was just appended.
    fn submitted(&self, choices: &Choices) -> Result<Submitted, EngineError> {
        let mut step = Submitted::default();
        for (chunk, carried) in choices.chunks.iter().zip(&choices.carried) {
            let (first, count) = (step.ids.len(), chunk.tokens.len());
            step.ids.extend_from_slice(chunk.tokens);
            let rows = chunk.logits.count(count);
            step.rows += rows;
            step.chunks.push(SubmittedChunk {
                sequence: chunk.sequence,
                start: self.pool.tokens(chunk.sequence)? - count as u64,
                ids: first..first + count,
                row: (rows > 0).then(|| step.rows - 1),
                carried: *carried,
            });
        }
        Ok(step)
    }

    /// Waits for all steps that were submitted. Their tokens can still be collected.
    pub(super) fn settle_all(&mut self) -> Result<(), EngineError> {
        for _ in 0..MOST_UNDER_WAY {
            if self.under_way.iter().any(|step| step.chosen.is_none()) {
                self.settle_next()?;
            }
        }
        Ok(())
    }

    /// Asks the device what the oldest step under way chose, which makes the tokens of that and of the step after it known.
    fn settle_next(&mut self) -> Result<(), EngineError> {
        let Some(index) = self.under_way.iter().position(|step| step.chosen.is_none()) else { return Ok(()) };
        let mut tokens = Vec::new();
        let settled = self.device.collect(&mut tokens).map_err(EngineError::from).and_then(|()| {
            let step = &mut self.under_way[index];
            if tokens.len() < step.rows {
                return Err(EngineError::NoLogits);
            }
            tokens.truncate(step.rows);
            step.chosen = Some(tokens);
            self.publish_submitted(index)?;
            self.carry(index);
            Ok(())
        });
        if settled.is_err() {
            self.give_up_submitted();
        }
        settled
    }

    /// Notes tokens that a step has chosen as those of the step after it.
    fn carry(&mut self, index: usize) {
        let vocabulary = self.limits.vocabulary;
        let mut steps = self.under_way.range_mut(index..);
        let (Some(step), Some(after)) = (steps.next(), steps.next()) else { return };
        for chunk in &mut after.chunks {
            let Some(row) = chunk.carried.take() else { continue };
            let code = step.chosen.as_ref().and_then(|tokens| tokens.get(row)).copied();
            match chosen(code.unwrap_or(i32::MIN), vocabulary) {
                Ok(token) => after.ids[chunk.ids.start] = token,
                // What was computed for it is no text.
                Err(_) => self.prefixes.iter_mut().for_each(|prefixes| prefixes.closed(chunk.sequence)),
            }
        }
    }

    /// Publishes the pages that a step has filled whose tokens are known.
    fn publish_submitted(&mut self, index: usize) -> Result<(), EngineError> {
        let step = std::mem::take(&mut self.under_way[index]);
        let open = step.chunks.iter().filter(|chunk| self.pool.tokens(chunk.sequence).is_ok());
        let open: Vec<_> = open.map(|chunk| (chunk.sequence, &step.ids[chunk.ids.clone()])).collect();
        let published = self.publish(open.into_iter());
        self.under_way[index] = step;
        published
    }
}

impl Next<'_> {
    fn count(&self) -> usize {
        match self {
            Next::Known(tokens) => tokens.len(),
            Next::Chosen => 1,
        }
    }
}
