//! From rows of logits, or what the device chose from them, to tokens, and the ends of answers: nothing here touches the engine.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::Limits;
use super::task::{Reader, Task};
use crate::sample::{History, Sampler, chosen, token_logprobs};
use crate::serving::{Event, FinishReason, RequestError, ServiceMetrics};

/// Where a token comes from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Source<'a> {
    /// The host chooses it from a row, `[vocabulary]`.
    Logits(&'a [f32]),
    /// The device has chosen it: its id, or what stands in the place of one.
    Device(i32),
}

/// What choosing needs beside the request.
pub(super) struct Chooser<'a> {
    pub sampler: &'a mut Sampler,
    pub metrics: &'a mut ServiceMetrics,
    pub limits: Limits,
    pub now: Duration,
}

impl Chooser<'_> {
    /// Gives an answer its next token, or ends it.
    pub fn advance<R: Reader>(
        &mut self,
        task: &mut Task<R>,
        answer: usize,
        source: Source,
    ) -> Result<(), RequestError> {
        let chosen = match source {
            Source::Logits(logits) => self.choose(task, answer, logits)?,
            Source::Device(code) => {
                let token = chosen(code, self.limits.vocabulary);
                Some(token.map_err(|e| RequestError::Sample(e.to_string()))?)
            }
        };
        let logits = if let Source::Logits(logits) = source { logits } else { &[] };
        let Some(token) = chosen else {
            finish(task, answer, FinishReason::Stop, self.metrics, self.now);
            return Ok(());
        };
        self.note_latency(task, answer);
        if task.request.stop_ids.contains(&token) {
            finish(task, answer, FinishReason::Stop, self.metrics, self.now);
            return Ok(());
        }
        let logprobs = task.request.logprobs.map(|top| token_logprobs(logits, token, top));
        let logprobs = logprobs.transpose().map_err(|e| RequestError::Sample(e.to_string()))?;
        task.answers[answer].tokens.push(token);
        task.reader.send_token(answer as u32, token, logprobs, logits);
        if let Some(reason) = self.end_after(task, answer) {
            finish(task, answer, reason, self.metrics, self.now);
        }
        Ok(())
    }

    /// The token, taken by the constraint where it does not end the text; `None` where the constraint is complete already.
    fn choose<R: Reader>(
        &mut self,
        task: &mut Task<R>,
        index: usize,
        logits: &[f32],
    ) -> Result<Option<u32>, RequestError> {
        let stops = &task.request.stop_ids;
        let answer = &mut task.answers[index];
        let (prompt, output) = answer.tokens.split_at(task.prompt_tokens);
        let (history, position) = (History { prompt, output }, answer.tokens.len() as u64);
        let (sampler, sampling) = (&mut *self.sampler, &answer.sampling);
        let mut sample = |allowed: Option<&[u32]>| {
            let token = sampler.sample_allowed(logits, allowed, history, sampling, position);
            token.map_err(|e| RequestError::Sample(e.to_string()))
        };
        let Some(constraint) = &mut answer.constraint else { return sample(None).map(Some) };
        // A grammar comes from outside, and what interprets it is not ours: its panic fails one request, not all.
        let chosen = guarded(|| {
            if constraint.is_finished() {
                return Ok(None);
            }
            let token = sample(Some(constraint.allowed()?))?;
            if !stops.contains(&token) {
                constraint.accept(token)?;
            }
            Ok(Some(token))
        });
        chosen.unwrap_or_else(|panic| Err(RequestError::Step(format!("the constraint panicked: {panic}"))))
    }

    fn note_latency<R: Reader>(&mut self, task: &mut Task<R>, answer: usize) {
        self.metrics.generation_tokens += 1;
        match task.answers[answer].last_token.replace(self.now) {
            Some(last) => self.metrics.inter_token_latency.observe(self.now.saturating_sub(last)),
            None => self.metrics.time_to_first_token.observe(self.now.saturating_sub(task.taken)),
        }
    }

    /// Why an answer ends with the token it just got.
    fn end_after<R: Reader>(&self, task: &Task<R>, index: usize) -> Option<FinishReason> {
        let answer = &task.answers[index];
        let generated = (answer.tokens.len() - task.prompt_tokens) as u64;
        if answer.constraint.as_ref().is_some_and(|c| c.is_finished()) {
            Some(FinishReason::Stop)
        } else if task.reader.is_ended(index as u32) {
            Some(FinishReason::Cancelled)
        } else if generated >= task.request.max_tokens || answer.tokens.len() as u64 > self.limits.max_model_len {
            Some(FinishReason::Length)
        } else {
            None
        }
    }
}

/// Ends an answer; its pages are the scheduler's to give back.
pub(super) fn finish<R: Reader>(
    task: &mut Task<R>,
    answer: usize,
    reason: FinishReason,
    metrics: &mut ServiceMetrics,
    now: Duration,
) {
    task.answers[answer].finish = Some(reason);
    match reason {
        FinishReason::Stop => metrics.answers_stopped += 1,
        FinishReason::Length => metrics.answers_length += 1,
        FinishReason::Cancelled => metrics.answers_cancelled += 1,
    }
    let timings = task.timings(now);
    task.reader.send(Event::Finished { answer: answer as u32, reason, timings });
}

/// Runs something whose panic is no more than its message. What it changed must not be used after one.
pub(crate) fn guarded<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message").to_string()
    })
}
