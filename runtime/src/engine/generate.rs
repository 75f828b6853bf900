//! Generating text, token by token, for one or several prompts at once.
//!
//! All prompts are prefilled in one step and then advance together, a token a step, until each has ended. That is what
//! a command line and a benchmark need; a server schedules requests of its own.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::{Chunk, Engine, EngineError, Rows};
use crate::kv::pages::SequenceId;
use crate::sample::{History, Sampler, SamplingParams};

/// What to generate.
#[derive(Clone, Debug)]
pub struct GenerationRequest {
    /// Token ids, at least one.
    pub prompt: Vec<u32>,
    /// How tokens are chosen.
    pub sampling: SamplingParams,
    /// Tokens that end the text.
    pub stop_ids: Vec<u32>,
    /// Most tokens to generate.
    pub max_tokens: u64,
}

/// Why a text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// A stop token was chosen; it is not part of the text.
    Stop,
    /// The most tokens were generated, or the sequence reached the longest length.
    Length,
    /// The callback said so.
    Cancelled,
}

/// A generated text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    /// Its tokens, without a stop token.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub finish: FinishReason,
}

/// A token that was just chosen.
#[derive(Clone, Copy, Debug)]
pub struct TokenEvent<'a> {
    /// Index of the request.
    pub request: usize,
    /// The token.
    pub token: u32,
    /// Its index in the generated text.
    pub index: usize,
    /// The logits it was chosen from, `[vocabulary]`, before penalties.
    pub logits: &'a [f32],
}

/// What generating took. Tokens are summed over requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// Tokens of prompts.
    pub prompt_tokens: u64,
    /// Tokens chosen, stop tokens included.
    pub generated_tokens: u64,
    /// From the start until the prompts' last logits were there.
    pub prompt: Duration,
    /// From the start until each request's first token was chosen.
    pub first_token: Duration,
    /// From the first tokens until the last.
    pub generation: Duration,
    /// Tokens chosen in that time: all but the first of each request.
    pub later_tokens: u64,
}

impl Timings {
    /// Prompt tokens a second; 0 if none were processed.
    pub fn prompt_rate(&self) -> f64 {
        rate(self.prompt_tokens, self.prompt)
    }

    /// Tokens generated a second, over all requests, after the first; 0 if none were.
    pub fn generation_rate(&self) -> f64 {
        rate(self.later_tokens, self.generation)
    }
}

fn rate(count: u64, time: Duration) -> f64 {
    if count == 0 || time.is_zero() { 0.0 } else { count as f64 / time.as_secs_f64() }
}

/// A request on its way.
struct Running {
    sequence: SequenceId,
    tokens: Vec<u32>,
    finish: Option<FinishReason>,
}

/// Generates a text for each request. `on_token` sees every token of the texts and may end its request.
///
/// # Errors
/// Parameters out of range, prompts too long, too few KV pages for all, or a failure of the device. All sequences are
/// closed in any case.
pub fn generate(
    engine: &mut Engine,
    requests: &[GenerationRequest],
    mut on_token: impl FnMut(TokenEvent) -> ControlFlow<()>,
) -> Result<(Vec<Generation>, Timings), EngineError> {
    requests.iter().try_for_each(|r| r.sampling.validate())?;
    let mut running: Vec<Running> = requests
        .iter()
        .map(|r| Running {
            sequence: engine.open_sequence_for(r.prompt.len() as u64),
            tokens: Vec::new(),
            finish: (r.max_tokens == 0).then_some(FinishReason::Length),
        })
        .collect();
    let timings = advance_all(engine, requests, &mut running, &mut on_token);
    for request in &running {
        engine.close_sequence(request.sequence)?;
    }
    let finished =
        running.into_iter().map(|r| Generation { tokens: r.tokens, finish: r.finish.unwrap_or(FinishReason::Length) });
    Ok((finished.collect(), timings?))
}

fn advance_all(
    engine: &mut Engine,
    requests: &[GenerationRequest],
    running: &mut [Running],
    on_token: &mut dyn FnMut(TokenEvent) -> ControlFlow<()>,
) -> Result<Timings, EngineError> {
    let (start, mut sampler) = (Instant::now(), Sampler::new());
    let mut active: Vec<usize> = (0..requests.len()).filter(|r| running[*r].finish.is_none()).collect();
    let started = active.len() as u64;
    let prompt_tokens = active.iter().map(|r| requests[*r].prompt.len() as u64).sum();
    let mut timings = Timings { prompt_tokens, ..Timings::default() };
    let mut last: Vec<u32> = vec![0; requests.len()];
    let mut first = true;
    while !active.is_empty() {
        let chunks: Vec<Chunk> = active
            .iter()
            .map(|&r| Chunk {
                sequence: running[r].sequence,
                tokens: if first { &requests[r].prompt } else { std::slice::from_ref(&last[r]) },
                logits: Rows::Last,
            })
            .collect();
        let logits = engine.step(&chunks)?;
        if first {
            timings.prompt = start.elapsed();
        }
        for (row, &request) in active.iter().enumerate() {
            let logits = logits.row(row).ok_or(EngineError::NoLogits)?;
            let token = choose(&mut sampler, logits, requests, running, request)?;
            timings.generated_tokens += 1;
            last[request] = token;
            accept(
                &requests[request],
                &mut running[request],
                TokenEvent { request, token, index: 0, logits },
                on_token,
            );
        }
        if first {
            (timings.first_token, first) = (start.elapsed(), false);
        }
        for &request in &active {
            stop_at_limit(engine, &mut running[request])?;
        }
        active.retain(|&r| running[r].finish.is_none());
    }
    timings.generation = start.elapsed().saturating_sub(timings.first_token);
    timings.later_tokens = timings.generated_tokens.saturating_sub(started);
    Ok(timings)
}

fn choose(
    sampler: &mut Sampler,
    logits: &[f32],
    requests: &[GenerationRequest],
    running: &[Running],
    request: usize,
) -> Result<u32, EngineError> {
    let (prompt, output) = (requests[request].prompt.as_slice(), running[request].tokens.as_slice());
    let position = (prompt.len() + output.len()) as u64;
    sampler
        .sample(logits, History { prompt, output }, &requests[request].sampling, position)
        .map_err(|source| EngineError::Sample { request, source })
}

/// Takes a chosen token into the text, or ends it.
fn accept(
    request: &GenerationRequest,
    running: &mut Running,
    event: TokenEvent,
    on_token: &mut dyn FnMut(TokenEvent) -> ControlFlow<()>,
) {
    if request.stop_ids.contains(&event.token) {
        running.finish = Some(FinishReason::Stop);
        return;
    }
    let index = running.tokens.len();
    running.tokens.push(event.token);
    if on_token(TokenEvent { index, ..event }).is_break() {
        running.finish = Some(FinishReason::Cancelled);
    } else if running.tokens.len() as u64 >= request.max_tokens {
        running.finish = Some(FinishReason::Length);
    }
}

/// Ends a text whose last token would no longer fit the sequence.
fn stop_at_limit(engine: &Engine, running: &mut Running) -> Result<(), EngineError> {
    if running.finish.is_none() && engine.pool().tokens(running.sequence)? >= engine.max_model_len() {
        running.finish = Some(FinishReason::Length);
    }
    Ok(())
}
