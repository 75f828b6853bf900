//! Which tokens the next step computes.

use std::time::Duration;

use ir::op::PAGE_TOKENS;

use super::task::{Answer, Key, Planned, Reader, Task};
use super::{FAVOUR_EVERY, Scheduler};
use crate::engine::{Engine, Rows};
use crate::kv::pages::SequenceId;
use crate::serving::{CachedTokens, Event, RequestError};

/// What is left of a step that is being filled.
struct Room {
    /// Tokens of prompts.
    prompt_tokens: usize,
    /// Rows of logits that a prompt may ask for at once.
    rows: usize,
    /// Pages that the step's tokens will take.
    reserved: u64,
}

impl<R: Reader> Scheduler<R> {
    /// Fills the next step; empty if nothing can run.
    pub(super) fn plan(&mut self, engine: &mut Engine, now: Duration) -> Vec<Planned> {
        let mut plan = self.fill(engine, now);
        // Whoever lost its pages to another is not part of it.
        plan.retain(|planned| self.sequence(planned.key) == Some(planned.sequence));
        plan
    }

    fn fill(&mut self, engine: &mut Engine, now: Duration) -> Vec<Planned> {
        self.favour_oldest();
        // A suspect keeps its pages until it is cleared: making way for another would begin it anew, for ever.
        if self.suspects().is_empty() {
            self.make_way(engine, now);
        }
        if let Some(planned) = self.plan_alone(engine, now) {
            return vec![planned];
        }
        // Those that lose their pages in this step do not come back in it.
        let waiting = self.keys(|task, answer| task.resting.is_none() && answer.waits());
        let running = self.keys(|task, answer| task.resting.is_none() && answer.sequence.is_some());
        let mut room = self.room(engine, &running);
        let mut plan = Vec::with_capacity(running.len() + 1);
        for key in running {
            plan.extend(self.plan_running(engine, key, &mut room, now));
        }
        self.plan_waiting(engine, &waiting, &mut room, &mut plan, now);
        if plan.is_empty() {
            // What was just opened may want a step of its own.
            plan.extend(self.plan_alone(engine, now));
        }
        plan
    }

    fn room(&self, engine: &Engine, running: &[Key]) -> Room {
        let generating = running.iter().filter(|key| self.left(engine, **key) == Some(1)).count();
        Room {
            prompt_tokens: self.options.max_num_batched_tokens.saturating_sub(generating).max(1),
            rows: engine.max_logit_rows().max(1),
            reserved: 0,
        }
    }

    /// The next tokens of a sequence that has pages.
    fn plan_running(&mut self, engine: &mut Engine, key: Key, room: &mut Room, now: Duration) -> Option<Planned> {
        let left = self.left(engine, key)?;
        if self.tasks.get(&key.task)?.gives_hidden_states() {
            return None;
        }
        let wanted = self.wanted(key, left, room);
        let tokens = self.reserve(engine, key, wanted, room, now)?;
        self.take(engine, key, tokens, room)
    }

    /// Tokens that a sequence can go on by: those that are not in its pages yet, or the one that a step under way chooses; `None` if it has
    /// neither, or no pages.
    fn left(&self, engine: &Engine, key: Key) -> Option<usize> {
        let answer = self.tasks.get(&key.task)?.answers.get(key.answer as usize)?;
        let sequence = answer.sequence?;
        let computed = engine.pool().tokens(sequence).ok()? as usize;
        match answer.tokens.len().saturating_sub(computed) {
            0 => self.is_being_chosen(key, sequence).then_some(1),
            left => Some(left),
        }
    }

    /// Whether the step submitted last chooses a token for a sequence, with which that does not end for certain.
    fn is_being_chosen(&self, key: Key, sequence: SequenceId) -> bool {
        let Some(step) = self.under_way.back() else { return false };
        let chooses = |planned: &Planned| planned.sequence == sequence && planned.rows != Rows::None;
        let Some(task) = self.tasks.get(&key.task).filter(|_| step.iter().any(chooses)) else { return false };
        let tokens = task.answers.get(key.answer as usize).map_or(0, |answer| answer.tokens.len()) + 1;
        ((tokens - task.prompt_tokens) as u64) < task.request.max_tokens && tokens as u64 <= self.limits.max_model_len
    }

    /// How many of `left` tokens to ask for.
    fn wanted(&self, key: Key, left: usize, room: &Room) -> usize {
        match self.tasks.get(&key.task) {
            _ if left == 1 => 1,
            Some(task) if task.needs_whole_prompt() => left.min(room.prompt_tokens).min(room.rows),
            _ => left.min(room.prompt_tokens),
        }
    }

    /// Sets pages apart for the next tokens of a sequence: all of `wanted`, or of a prompt what there are pages for. Sequences that go
    /// after it lose theirs before it gets none; if that does not help, it loses its own.
    fn reserve(
        &mut self,
        engine: &mut Engine,
        key: Key,
        wanted: usize,
        room: &mut Room,
        now: Duration,
    ) -> Option<usize> {
        if wanted == 0 {
            return None;
        }
        loop {
            let sequence = self.sequence(key)?;
            let free = engine.available_pages().saturating_sub(room.reserved);
            if let Some(tokens) = fitting(engine, sequence, wanted, free) {
                room.reserved += engine.pool().pages_to_append(sequence, tokens as u64).ok()?;
                return Some(tokens);
            }
            let victim = self.victim(|_, other| other > key).unwrap_or(key);
            self.preempt(engine, victim, now);
        }
    }

    /// Plans tokens for which pages are set apart.
    fn take(&mut self, engine: &Engine, key: Key, tokens: usize, room: &mut Room) -> Option<Planned> {
        let left = self.left(engine, key)?;
        let task = self.tasks.get(&key.task)?;
        let sequence = self.sequence(key)?;
        let start = engine.pool().tokens(sequence).ok()? as usize;
        let total = start + left;
        let rows = match start + tokens == total {
            _ if task.needs_whole_prompt() => Rows::All,
            true => Rows::Last,
            false => Rows::None,
        };
        if left > 1 {
            room.prompt_tokens -= tokens.min(room.prompt_tokens);
        }
        if rows == Rows::All {
            room.rows -= tokens.min(room.rows);
        }
        Some(Planned { key, sequence, tokens: start..start + tokens, rows })
    }

    /// Starts sequences that wait, in their order, while there are seats, pages and tokens.
    fn plan_waiting(
        &mut self,
        engine: &mut Engine,
        waiting: &[Key],
        room: &mut Room,
        plan: &mut Vec<Planned>,
        now: Duration,
    ) {
        for key in waiting {
            if room.prompt_tokens == 0 || !self.fits(engine, *key) {
                if plan.is_empty() && self.seats_taken() == 0 {
                    self.refuse(engine, *key, now);
                }
                return;
            }
            let Some(left) = self.open(engine, *key, now) else { continue };
            // Hidden states come with a step of their own.
            if self.tasks.get(&key.task).is_some_and(Task::gives_hidden_states) {
                continue;
            }
            let wanted = self.wanted(*key, left, room);
            let Some(tokens) = self.reserve(engine, *key, wanted, room, now) else { continue };
            plan.extend(self.take(engine, *key, tokens, room));
        }
    }

    /// Sequences that may be to blame for a failure.
    fn suspects(&self) -> Vec<Key> {
        self.keys(|task, answer| task.resting.is_none() && answer.suspect && answer.finish.is_none())
    }

    /// A sequence that must have the step for itself: one that may be to blame for a failure, or, every other step, one whose
    /// hidden states are wanted.
    fn plan_alone(&mut self, engine: &mut Engine, now: Duration) -> Option<Planned> {
        let suspects = self.suspects();
        let runs = |task: &Task<R>, answer: &Answer| task.resting.is_none() && answer.sequence.is_some();
        let exclusive = self.keys(|task, answer| runs(task, answer) && task.gives_hidden_states());
        let shared = self.keys(|task, answer| runs(task, answer) && !task.gives_hidden_states());
        let turn = !std::mem::take(&mut self.was_exclusive) || shared.is_empty();
        let key = *suspects.first().or(exclusive.first().filter(|_| turn))?;
        self.was_exclusive = true;
        if self.sequence(key).is_none() {
            self.open_before_others(engine, key, now)?;
        }
        let left = self.left(engine, key)?;
        let mut room = self.room(engine, &[]);
        let wanted = self.wanted(key, left, &room);
        let tokens = self.reserve(engine, key, wanted, &mut room, now)?;
        self.take(engine, key, tokens, &mut room)
    }

    /// Starts a sequence whoever waits or runs.
    fn open_before_others(&mut self, engine: &mut Engine, key: Key, now: Duration) -> Option<()> {
        while !self.fits(engine, key) {
            let Some(victim) = self.victim(|_, other| other != key) else {
                self.refuse(engine, key, now);
                return None;
            };
            self.preempt(engine, victim, now);
        }
        self.open(engine, key, now).map(|_| ())
    }

    /// Gives a waiting sequence the pages of its tokens that are cached. Gives the number of those that are left to compute; `None` if
    /// its request failed.
    fn open(&mut self, engine: &mut Engine, key: Key, now: Duration) -> Option<usize> {
        let task = self.tasks.get_mut(&key.task)?;
        let (salt, whole) = (task.request.salt, task.needs_whole_prompt());
        let answer = task.answers.get_mut(key.answer as usize)?;
        let opened = match whole {
            true => Ok((engine.open_salted(&salt, answer.tokens.len() as u64), CachedTokens::default())),
            false => engine.open_cached(&salt, &answer.tokens),
        };
        let cached = match opened {
            Ok((sequence, cached)) => {
                answer.sequence = Some(sequence);
                cached
            }
            Err(error) => {
                self.fail(engine, key.task, RequestError::Step(error.to_string()), now);
                return None;
            }
        };
        if task.started.is_none() {
            self.note_start(key.task, cached, whole, now);
        }
        self.left(engine, key)
    }

    fn note_start(&mut self, id: u64, cached: CachedTokens, whole: bool, now: Duration) {
        let queue_waits = self.unstarted() > 1;
        let Some(task) = self.tasks.get_mut(&id) else { return };
        task.started = Some(now);
        let queued = now.saturating_sub(task.taken);
        let tokens = task.prompt_tokens as u64;
        task.reader.send(Event::Started { cached, queued });
        self.metrics.prompt_tokens += tokens;
        self.metrics.prefix_cache_queries += if whole { 0 } else { tokens };
        self.metrics.prefix_cache_hits += cached.total();
        self.metrics.request_queue_time.observe(queued);
        self.starts += 1;
        if let Some(last) = self.last_start.replace(now).filter(|_| queue_waits) {
            let since = now.saturating_sub(last);
            self.start_interval = Some(self.start_interval.map_or(since, |average| (average * 7 + since) / 8));
        }
    }

    /// Whether there is a seat for a waiting sequence, and pages for all its tokens beside those that running ones will take
    /// for theirs and for what they generate next: it would otherwise soon have to give its own back.
    fn fits(&self, engine: &Engine, key: Key) -> bool {
        let (mut seats, mut needed, pool) = (0, self.pages(key), engine.pool());
        for key in self.keys(|_, answer| answer.sequence.is_some()) {
            let (Some(task), Some(sequence)) = (self.tasks.get(&key.task), self.sequence(key)) else { continue };
            let left = self.left(engine, key).unwrap_or(0) as u64;
            let tokens = pool.tokens(sequence).unwrap_or(0) + left;
            let longest =
                (task.prompt_tokens as u64).saturating_add(task.request.max_tokens - 1).min(self.limits.max_model_len);
            let grows = longest.div_ceil(PAGE_TOKENS) > tokens.div_ceil(PAGE_TOKENS);
            needed += pool.pages_to_append(sequence, left).unwrap_or(0) + u64::from(grows);
            seats += 1;
        }
        seats < self.options.max_num_seqs && needed <= engine.available_pages()
    }

    /// Pages for all tokens of a sequence.
    fn pages(&self, key: Key) -> u64 {
        let answer = self.tasks.get(&key.task).and_then(|t| t.answers.get(key.answer as usize));
        answer.map_or(0, |a| (a.tokens.len() as u64).div_ceil(PAGE_TOKENS))
    }

    /// Frees pages and seats for the request that goes first: those of resting sequences, and of less urgent ones.
    fn make_way(&mut self, engine: &mut Engine, now: Duration) {
        let waiting = self.keys(|task, answer| task.resting.is_none() && answer.waits());
        let Some(head) = waiting.first().copied() else { return };
        let Some(urgency) = self.tasks.get(&head.task).map(|t| t.request.priority) else { return };
        while !self.fits(engine, head) {
            let less_urgent = |task: &Task<R>, _| task.request.priority > urgency && !task.favoured;
            let Some(victim) = self.victim(less_urgent) else { return };
            self.preempt(engine, victim, now);
        }
    }

    /// The sequence that loses its pages first: a resting one, else the last of those that `may` lose them.
    fn victim(&self, may: impl Fn(&Task<R>, Key) -> bool) -> Option<Key> {
        let resting = self.keys(|task, answer| task.resting.is_some() && answer.sequence.is_some());
        let running = self.keys(|_, answer| answer.sequence.is_some());
        let allowed = |key: &&Key| self.tasks.get(&key.task).is_some_and(|task| may(task, **key));
        resting.last().or_else(|| running.iter().rev().find(allowed)).copied()
    }

    /// From time to time the request that has waited longest goes before all others.
    fn favour_oldest(&mut self) {
        if self.starts < FAVOUR_EVERY {
            return;
        }
        if let Some(task) = self.tasks.values_mut().find(|t| t.started.is_none() && t.resting.is_none()) {
            task.favoured = true;
            self.starts = 0;
        }
    }

    /// Ends a request that does not fit though nothing else runs: pages are held by something that is no request.
    fn refuse(&mut self, engine: &mut Engine, key: Key, now: Duration) {
        let message = format!(
            "{} KV pages are needed and {} free, though nothing else runs",
            self.pages(key),
            engine.available_pages()
        );
        self.fail(engine, key.task, RequestError::Step(message), now);
    }

    pub(super) fn seats_taken(&self) -> usize {
        self.tasks.values().flat_map(|t| &t.answers).filter(|a| a.sequence.is_some()).count()
    }

    pub(super) fn sequence(&self, key: Key) -> Option<SequenceId> {
        self.tasks.get(&key.task)?.answers.get(key.answer as usize)?.sequence
    }

    /// The sequences for which something holds, in their order.
    fn keys(&self, holds: impl Fn(&Task<R>, &Answer) -> bool) -> Vec<Key> {
        let of_task = |(id, task): (&u64, &Task<R>)| {
            let holding = task.answers.iter().enumerate().filter(|(_, answer)| holds(task, answer));
            holding.map(|(i, _)| task.key(*id, i)).collect::<Vec<_>>()
        };
        let mut keys: Vec<Key> = self.tasks.iter().flat_map(of_task).collect();
        keys.sort_unstable();
        keys
    }
}

/// How many of `wanted` tokens, at least one, can be appended with `free` pages.
fn fitting(engine: &Engine, sequence: SequenceId, wanted: usize, free: u64) -> Option<usize> {
    let fits = |tokens: usize| engine.pool().pages_to_append(sequence, tokens as u64).is_ok_and(|pages| pages <= free);
    if fits(wanted) {
        return Some(wanted);
    }
    // At most the free pages and what is left of the last one.
    let most = (free.saturating_add(1).saturating_mul(PAGE_TOKENS)).min(wanted as u64) as usize;
    (1..=most).rev().take(2 * PAGE_TOKENS as usize).find(|tokens| fits(*tokens))
}
