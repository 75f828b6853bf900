//! Running a planned step, and what its logits or its failure mean for the sequences.

use std::time::Duration;

use super::choose::{Chooser, Source, finish, guarded};
use super::task::{Key, Planned, Reader};
use super::{Clock, MOST_FAILURES, Progress, Scheduler, close};
use crate::engine::{ChoosingChunk, Chosen, Engine, EngineError, Logits, Next, Rows};
use crate::kv::pages::PageError;
use crate::sample::token_logprobs;
use crate::serving::{Event, FinishReason, RequestError};

/// Why a step gave nothing.
enum StepFailure {
    Engine(EngineError),
    Panic(String),
}

impl<R: Reader> Scheduler<R> {
    /// Whether a step can be handed to the device before its tokens are needed: it chooses them all, at once, and nobody is under suspicion.
    pub(super) fn may_overlap(&self, engine: &Engine, plan: &[Planned]) -> bool {
        let may = |planned: &Planned| {
            let Some(task) = self.tasks.get(&planned.key.task) else { return true };
            let suspect = task.answers.get(planned.key.answer as usize).is_some_and(|a| a.suspect);
            !suspect && (task.suits_devices || planned.rows == Rows::None)
        };
        let lengths = plan.iter().map(|planned| (planned.tokens.len(), planned.rows));
        !plan.is_empty() && engine.chooses() && plan.iter().all(may) && engine.is_one_sub_step(lengths)
    }

    /// Hands a step to the device, then gives out the tokens of the one before.
    pub(super) fn submit(&mut self, engine: &mut Engine, plan: Vec<Planned>, clock: &dyn Clock) -> Progress {
        let submitted = {
            let chunks: Vec<ChoosingChunk> = plan.iter().filter_map(|planned| self.chunk(planned)).collect();
            let engine = &mut *engine;
            guarded(move || engine.submit(&chunks))
        };
        let failure = match submitted {
            Ok(Ok(())) => {
                self.under_way.push_back(plan);
                return if self.under_way.len() > 1 { self.collect(engine, clock) } else { Progress::Submitted };
            }
            Ok(Err(error)) => StepFailure::Engine(error),
            Err(message) => StepFailure::Panic(message),
        };
        self.take_failure(engine, &plan, failure, clock.now())
    }

    /// Gives out the tokens of the oldest step under way.
    pub(super) fn collect(&mut self, engine: &mut Engine, clock: &dyn Clock) -> Progress {
        let collected = {
            let engine = &mut *engine;
            guarded(move || engine.collect())
        };
        let failure = match collected {
            Ok(Ok(tokens)) => {
                let plan = self.under_way.pop_front().unwrap_or_default();
                self.take_rows(&plan, tokens, None, clock.now());
                self.settle_all(engine, &plan, clock.now());
                return Progress::Stepped;
            }
            Ok(Err(error)) => StepFailure::Engine(error),
            Err(message) => StepFailure::Panic(message),
        };
        // All that was under way is given up.
        let plan: Vec<Planned> = self.under_way.drain(..).flatten().collect();
        self.take_failure(engine, &plan, failure, clock.now())
    }

    /// Runs a step that is not empty and waits for it.
    pub(super) fn run(&mut self, engine: &mut Engine, plan: &[Planned], clock: &dyn Clock) -> Progress {
        let chunks: Vec<ChoosingChunk> = plan.iter().filter_map(|planned| self.chunk(planned)).collect();
        // What a panic leaves half done is in the engine, which is then thrown away.
        let stepped = {
            let engine = &mut *engine;
            guarded(move || engine.step_choosing(&chunks))
        };
        match stepped {
            Ok(Ok(Chosen { tokens, logits })) => {
                self.take_rows(plan, tokens, Some(logits), clock.now());
                self.take_hidden_states(engine, plan, clock.now());
                self.settle_all(engine, plan, clock.now());
                Progress::Stepped
            }
            Ok(Err(error)) => self.take_failure(engine, plan, StepFailure::Engine(error), clock.now()),
            Err(message) => self.take_failure(engine, plan, StepFailure::Panic(message), clock.now()),
        }
    }

    fn chunk(&self, planned: &Planned) -> Option<ChoosingChunk<'_>> {
        let answer = self.tasks.get(&planned.key.task)?.answers.get(planned.key.answer as usize)?;
        let tokens = answer.tokens.get(planned.tokens.clone()).map_or(Next::Chosen, Next::Known);
        let settings = answer.sampling.settings(planned.tokens.end as u64);
        Some(ChoosingChunk { sequence: planned.sequence, tokens, logits: planned.rows, settings })
    }

    /// Takes the tokens that the device chose from the rows of a step, and chooses the others from its logits.
    fn take_rows(&mut self, plan: &[Planned], tokens: &[i32], logits: Option<Logits>, now: Duration) {
        self.failures = 0;
        let row = |i: usize| logits.as_ref().and_then(|logits| logits.row(i)).unwrap_or_default();
        let mut first_row = 0;
        for planned in plan {
            let rows = first_row..first_row + planned.rows.count(planned.tokens.len());
            first_row = rows.end;
            if self.sequence(planned.key) != Some(planned.sequence) {
                continue;
            }
            self.clear_suspicion(planned);
            let Some(task) = self.tasks.get(&planned.key.task).filter(|t| !t.gives_hidden_states()) else { continue };
            let chosen = rows.end.checked_sub(1).and_then(|last| tokens.get(last)).filter(|_| task.suits_devices);
            let source = match chosen {
                Some(code) => Source::Device(*code),
                None => Source::Logits(row(rows.end.saturating_sub(1))),
            };
            let taken = self.take_prompt_rows(planned, rows.clone().map(row));
            if let Err(error) = taken.and_then(|()| self.take_last_row(planned, source, now)) {
                self.blame(planned.key.task, error);
            }
        }
    }

    /// A sequence is cleared once all its tokens were computed without a failure. Before that, a step with others could meet
    /// the token that is to blame again, and take turns with them for ever.
    fn clear_suspicion(&mut self, planned: &Planned) {
        let Key { task, answer, .. } = planned.key;
        let answer = self.tasks.get_mut(&task).and_then(|t| t.answers.get_mut(answer as usize));
        if let Some(answer) = answer.filter(|a| planned.tokens.end >= a.tokens.len()) {
            answer.suspect = false;
        }
    }

    /// Notes what a row says of the prompt token after its own.
    fn take_prompt_rows<'a>(
        &mut self,
        planned: &Planned,
        rows: impl Iterator<Item = &'a [f32]>,
    ) -> Result<(), RequestError> {
        let Some(task) = self.tasks.get_mut(&planned.key.task).filter(|t| t.wants_prompt_logprobs()) else {
            return Ok(());
        };
        for (position, row) in planned.tokens.clone().zip(rows) {
            // After a preemption the first rows come again.
            if position == task.prompt_logprobs.len() && position + 1 < task.prompt_tokens {
                let next = task.answers[0].tokens[position + 1];
                let logprobs = token_logprobs(row, next, task.request.logprobs.unwrap_or(0));
                task.prompt_logprobs.push(logprobs.map_err(|e| RequestError::Sample(e.to_string()))?);
            }
        }
        Ok(())
    }

    /// Chooses the next token of a sequence that is computed to its end; with a prompt's last row, that of every answer.
    fn take_last_row(&mut self, planned: &Planned, source: Source, now: Duration) -> Result<(), RequestError> {
        let Some(task) = self.tasks.get_mut(&planned.key.task) else { return Ok(()) };
        let index = planned.key.answer as usize;
        if planned.tokens.end < task.answers[index].tokens.len() {
            return Ok(());
        }
        if let Some(since) = task.answers[index].preempted.take() {
            task.recomputing += now.saturating_sub(since);
        }
        let mut answers = index..index + 1;
        if task.prompt_done.is_none() {
            task.prompt_done = Some(now);
            task.fork_answers();
            answers = 0..task.answers.len();
            if task.request.prompt_logprobs {
                let logprobs = std::mem::take(&mut task.prompt_logprobs);
                task.request.prompt_logprobs = false;
                task.reader.send(Event::Prompt(logprobs));
            }
        }
        let (sampler, metrics) = (&mut self.sampler, &mut self.metrics);
        let mut chooser = Chooser { sampler, metrics, limits: self.limits, now };
        answers.into_iter().try_for_each(|answer| chooser.advance(task, answer, source))
    }

    /// Sends the hidden states of a step that was one request's alone.
    fn take_hidden_states(&mut self, engine: &Engine, plan: &[Planned], now: Duration) {
        let [planned] = plan else { return };
        let Some(task) = self.tasks.get_mut(&planned.key.task).filter(|t| t.gives_hidden_states()) else { return };
        let Some(values) = engine.output("hidden").filter(|values| !values.is_empty()) else {
            let message = "the device gave no hidden states; this is a bug of the device";
            self.blame(planned.key.task, RequestError::Step(message.into()));
            return;
        };
        // After a preemption the first ones come again.
        let known = task.hidden_states.saturating_sub(planned.tokens.start).min(planned.tokens.len());
        let fresh = &values[known * (values.len() / planned.tokens.len().max(1))..];
        if !fresh.is_empty() {
            task.reader.send(Event::Hidden(fresh.to_vec()));
        }
        task.hidden_states = task.hidden_states.max(planned.tokens.end);
        if planned.tokens.end == task.prompt_tokens {
            task.prompt_done = Some(now);
            finish(task, 0, FinishReason::Stop, &mut self.metrics, now);
        }
    }

    /// Notes why a request fails; [`Scheduler::settle`] ends it.
    fn blame(&mut self, task: u64, error: RequestError) {
        if let Some(task) = self.tasks.get_mut(&task) {
            task.failure = Some(error);
        }
    }

    fn settle_all(&mut self, engine: &mut Engine, plan: &[Planned], now: Duration) {
        let mut last = None;
        for planned in plan {
            // The answers of a request are not always next to each other, but settling twice does no harm.
            if last.replace(planned.key.task) != Some(planned.key.task) {
                self.settle(engine, planned.key.task, now);
            }
        }
    }

    /// Gives back the pages of answers that ended, gives new answers theirs, and forgets a request that is complete.
    pub(super) fn settle(&mut self, engine: &mut Engine, id: u64, now: Duration) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        if let Some(error) = task.failure.take() {
            return self.fail(engine, id, error, now);
        }
        self.fork_sequences(engine, id);
        let Some(task) = self.tasks.get_mut(&id) else { return };
        for answer in task.answers.iter_mut().filter(|a| a.finish.is_some()) {
            if let Some(sequence) = answer.sequence.take() {
                close(engine, sequence);
            }
        }
        if task.is_done() {
            let timings = task.timings(now);
            self.metrics.e2e_request_latency.observe(now.saturating_sub(task.taken));
            self.metrics.request_prefill_time.observe(timings.prefill);
            self.metrics.request_decode_time.observe(timings.decode);
            self.tasks.remove(&id);
        }
    }

    /// Lets answers that were just made share the pages of their prompt. Those for which there is no seat wait, with all
    /// their tokens, like one that was preempted; so do all while a step is under way, for which a fork would have to wait.
    fn fork_sequences(&mut self, engine: &mut Engine, id: u64) {
        if !self.under_way.is_empty() {
            return;
        }
        let mut seats = self.options.max_num_seqs.saturating_sub(self.seats_taken());
        let Some(task) = self.tasks.get_mut(&id) else { return };
        let prompt_tokens = task.prompt_tokens;
        let Some((first, others)) = task.answers.split_first_mut() else { return };
        let Some(prompt) = first.sequence else { return };
        let new =
            |a: &&mut super::task::Answer| a.waits() && a.preempted.is_none() && a.tokens.len() == prompt_tokens + 1;
        for answer in others.iter_mut().filter(new) {
            if seats == 0 {
                return;
            }
            seats -= 1;
            answer.sequence = engine.fork_sequence(prompt, prompt_tokens as u64).ok();
        }
    }

    fn take_failure(&mut self, engine: &mut Engine, plan: &[Planned], failure: StepFailure, now: Duration) -> Progress {
        let message = match &failure {
            StepFailure::Engine(error) if error.is_lost() => return Progress::Lost(error.to_string()),
            StepFailure::Engine(EngineError::Pages(PageError::OutOfPages { .. })) if plan.len() > 1 => {
                let last = plan.iter().map(|planned| planned.key).max();
                last.into_iter().for_each(|key| self.preempt(engine, key, now));
                return Progress::Stepped;
            }
            StepFailure::Engine(error) => error.to_string(),
            StepFailure::Panic(message) => format!("a panic: {message}"),
        };
        let broken = matches!(failure, StepFailure::Panic(_));
        if broken {
            self.engine_replaced(now);
        }
        // Two steps may have been under way.
        let mut keys: Vec<Key> = plan.iter().map(|planned| planned.key).collect();
        keys.sort_unstable();
        keys.dedup();
        match keys.as_slice() {
            [alone] => {
                self.failures += 1;
                self.fail(engine, alone.task, RequestError::Step(message.clone()), now);
            }
            _ => keys.iter().for_each(|key| self.suspect(*key)),
        }
        match broken {
            _ if self.failures >= MOST_FAILURES => Progress::Lost(message),
            true => Progress::Broken(message),
            false => Progress::Stepped,
        }
    }

    fn suspect(&mut self, key: Key) {
        if let Some(answer) = self.tasks.get_mut(&key.task).and_then(|t| t.answers.get_mut(key.answer as usize)) {
            answer.suspect = true;
        }
    }
}
