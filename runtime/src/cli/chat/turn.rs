//! One answer: the prompt's tokens that are not known yet, then a token at a time.

use std::error::Error;
use std::time::{Duration, Instant};

use super::Interrupt;
use crate::engine::{Chunk, Engine, EngineError, Rows};
use crate::kv::pages::SequenceId;
use crate::kv::salt::CacheSalt;
use crate::sample::{History, Sampler, SamplingParams};
use crate::serving::CachedTokens;
use crate::text::StopConditions;

/// Tokens of a prompt computed between two looks at Ctrl-C.
const PREFILL_TOKENS: usize = 256;

/// What is to be answered, and how.
pub(super) struct Turn<'a> {
    pub prompt: &'a [u32],
    pub sampling: &'a SamplingParams,
    pub max_tokens: u64,
    pub stop: &'a StopConditions,
    pub interrupt: &'a Interrupt,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    StopToken,
    StopString,
    /// The most tokens, or the longest sequence.
    Length,
    Interrupted,
}

/// What an answer took.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct TurnStats {
    pub prompt_tokens: u64,
    pub cached: CachedTokens,
    /// Tokens chosen, a stop token included.
    pub generated_tokens: u64,
    /// Until the prompt's logits were there.
    pub prefill: Duration,
    /// Until the first token was chosen.
    pub first_token: Duration,
    /// From the first token to the last.
    pub generation: Duration,
    pub ending: Ending,
}

impl TurnStats {
    /// In a line.
    pub(super) fn describe(&self, device: &str) -> String {
        let rate = |tokens: u64, time: Duration| {
            if time.is_zero() { 0.0 } else { tokens as f64 / time.as_secs_f64() }
        };
        format!(
            "[{device}] prompt {} tokens, {} of them cached, the others at {:.0} tokens/s · first token after {:.0} ms · \
             generation {} tokens at {:.1} tokens/s",
            self.prompt_tokens,
            self.cached.total(),
            rate(self.prompt_tokens - self.cached.total(), self.prefill),
            self.first_token.as_secs_f64() * 1e3,
            self.generated_tokens,
            rate(self.generated_tokens.saturating_sub(1), self.generation),
        )
    }
}

impl Turn<'_> {
    /// Runs the turn; `on_token` sees each token of the text and says whether to go on. The pages of its sequence stay in the
    /// prefix cache, also those of an answer that was stopped.
    pub(super) fn run(
        &self,
        engine: &mut Engine,
        on_token: impl FnMut(u32) -> Result<bool, Box<dyn Error>>,
    ) -> Result<TurnStats, Box<dyn Error>> {
        let room = engine.max_model_len();
        if self.prompt.len() as u64 >= room {
            let found = self.prompt.len();
            return Err(
                format!("the conversation has {found} tokens, the longest sequence is {room}; try /reset").into()
            );
        }
        let start = Instant::now();
        let (sequence, cached) = engine.open_cached(&CacheSalt::PUBLIC, self.prompt)?;
        let result = self.in_sequence(engine, sequence, cached, start, on_token);
        engine.close_sequence(sequence)?;
        result
    }

    fn in_sequence(
        &self,
        engine: &mut Engine,
        sequence: SequenceId,
        cached: CachedTokens,
        start: Instant,
        mut on_token: impl FnMut(u32) -> Result<bool, Box<dyn Error>>,
    ) -> Result<TurnStats, Box<dyn Error>> {
        let mut stats = TurnStats {
            prompt_tokens: self.prompt.len() as u64,
            cached,
            generated_tokens: 0,
            prefill: Duration::ZERO,
            first_token: Duration::ZERO,
            generation: Duration::ZERO,
            ending: Ending::Interrupted,
        };
        let (mut sampler, mut output) = (Sampler::new(), Vec::new());
        if !self.prefill(engine, sequence, cached.total() as usize)? {
            return Ok(stats);
        }
        let mut next = self.prompt[self.prompt.len() - 1..].to_vec();
        loop {
            let logits = engine.step(&[Chunk { sequence, tokens: &next, logits: Rows::Last }])?;
            let logits = logits.row(0).ok_or(EngineError::NoLogits)?;
            if output.is_empty() {
                stats.prefill = start.elapsed();
            }
            let position = (self.prompt.len() + output.len()) as u64;
            let history = History { prompt: self.prompt, output: &output };
            let token = sampler.sample(logits, history, self.sampling, position)?;
            stats.generated_tokens += 1;
            if output.is_empty() {
                stats.first_token = start.elapsed();
            }
            stats.generation = start.elapsed().saturating_sub(stats.first_token);
            let is_stop = self.stop.is_stop_token(token);
            let goes_on = is_stop || on_token(token)?;
            output.push(token);
            stats.ending = match () {
                () if is_stop => Ending::StopToken,
                () if !goes_on => Ending::StopString,
                () if self.interrupt.is_set() => Ending::Interrupted,
                () if stats.generated_tokens >= self.max_tokens => Ending::Length,
                () if position + 1 >= engine.max_model_len() => Ending::Length,
                () => {
                    next.splice(.., [token]);
                    continue;
                }
            };
            return Ok(stats);
        }
    }

    /// Computes all tokens of the prompt that are not known but the last; false if that was interrupted.
    fn prefill(&self, engine: &mut Engine, sequence: SequenceId, known: usize) -> Result<bool, EngineError> {
        let rest = self.prompt.get(known..self.prompt.len() - 1).unwrap_or_default();
        for tokens in rest.chunks(PREFILL_TOKENS) {
            if self.interrupt.is_set() {
                return Ok(false);
            }
            engine.step(&[Chunk { sequence, tokens, logits: Rows::None }])?;
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::PrefixCacheOptions;
    use crate::testing::{FakeDevice, TinyModel, shapes};

    fn engine() -> Engine {
        let folder = tempfile::tempdir().expect("a folder");
        let manifest = TinyModel::new().write(folder.path());
        let device = FakeDevice::new(&manifest, 16);
        let mut engine = Engine::with_device(&manifest, Box::new(device), shapes::MAX_CONTEXT);
        engine.enable_prefix_cache(&PrefixCacheOptions::default()).expect("the first time");
        engine
    }

    /// The tokens of an answer of at most eight that ends after `until`, as the callback says or by Ctrl-C.
    fn answer(engine: &mut Engine, prompt: &[u32], until: usize, interrupted: bool) -> (Vec<u32>, TurnStats) {
        let (interrupt, sampling) = (Interrupt::deaf(), SamplingParams { temperature: 0.0, ..Default::default() });
        let stop = StopConditions::new(vec![], vec![], false).expect("none");
        let turn = Turn { prompt, sampling: &sampling, max_tokens: 8, stop: &stop, interrupt: &interrupt };
        let mut tokens = Vec::new();
        let stats = turn.run(engine, |token| {
            tokens.push(token);
            if interrupted && tokens.len() == until {
                interrupt.press();
            }
            Ok(interrupted || tokens.len() < until)
        });
        assert_eq!(engine.pool().sequences(), 0);
        (tokens, stats.expect("a turn"))
    }

    #[test]
    fn a_turn_computes_what_is_new_and_answers_the_same() {
        let (mut kept, mut fresh) = (engine(), engine());
        let mut prompt: Vec<u32> = (0..40).map(|i| i % 7).collect();
        let (tokens, first) = answer(&mut kept, &prompt, 99, false);
        assert_eq!((first.cached.total(), first.ending, tokens.len()), (0, Ending::Length, 8));
        prompt.extend(&tokens);
        prompt.extend([1, 2, 3]);
        let (again, second) = answer(&mut kept, &prompt, 99, false);
        // Pages of 16 tokens: 40 and all but the last of the answer's are three of them, less one token.
        assert_eq!(second.cached.total(), 32);
        let (expected, cold) = answer(&mut fresh, &prompt, 99, false);
        assert_eq!((again, cold.cached.total()), (expected, 0));
    }

    #[test]
    fn answers_end_where_they_are_told_to() {
        let (mut engine, prompt) = (engine(), [5u32; 20]);
        let (tokens, stats) = answer(&mut engine, &prompt, 3, true);
        assert_eq!((tokens.len(), stats.ending, stats.generated_tokens), (3, Ending::Interrupted, 3));
        let (tokens, stats) = answer(&mut engine, &prompt, 2, false);
        assert_eq!((tokens.len(), stats.ending, stats.cached.total()), (2, Ending::StopString, 16));
        let long = vec![1; shapes::MAX_CONTEXT as usize];
        let stop = StopConditions::new(vec![], vec![], false).expect("none");
        let (sampling, interrupt) = (SamplingParams::default(), Interrupt::deaf());
        let turn = Turn { prompt: &long, sampling: &sampling, max_tokens: 8, stop: &stop, interrupt: &interrupt };
        let error = turn.run(&mut engine, |_| Ok(true)).expect_err("too long").to_string();
        assert!(error.contains("128 tokens") && error.contains("/reset"), "{error}");
    }
}
