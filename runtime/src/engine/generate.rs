//! Generating text, token by token, for one or several prompts at once.
//!
//! A server's scheduler, given all requests at once: all prompts are prefilled in one step and then advance together, a token a
//! step, until each has ended. That is what a command line and a benchmark need.

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::time::Duration;

use super::{Engine, EngineError};
use crate::device::DeviceError;
use crate::sample::{SamplingParams, TokenLogProbs};
use crate::scheduler::{Clock, Limits, Progress, Reader, Scheduler, SchedulerOptions, SystemClock};
pub use crate::serving::FinishReason;
use crate::serving::{Event, Request, RequestError};

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
    /// Show the logits of every token; the host then chooses them, though the device could.
    pub needs_logits: bool,
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
    /// The logits it was chosen from, `[vocabulary]`, before penalties; empty where the device chose it, see
    /// [`GenerationRequest::needs_logits`].
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

/// Generates a text for each request. `on_token` sees every token of the texts and may end its request.
///
/// # Errors
/// Parameters out of range, prompts too long, or a failure of the device. All sequences are closed in any case, unless the device
/// panicked.
pub fn generate(
    engine: &mut Engine,
    requests: &[GenerationRequest],
    mut on_token: impl FnMut(TokenEvent) -> ControlFlow<()>,
) -> Result<(Vec<Generation>, Timings), EngineError> {
    let (limits, clock) = (Limits::of(engine, false), SystemClock::start());
    // Nothing is put off: all prompts go into the first step, as far as there are pages.
    let (most, slow_reader) = (usize::MAX, Duration::MAX);
    let options = SchedulerOptions { max_num_seqs: most, max_num_batched_tokens: most, slow_reader };
    let mut scheduler = Scheduler::new(limits, options);
    let texts = RefCell::new(Texts {
        generations: empty(requests),
        first_token: Duration::ZERO,
        prompt: Duration::ZERO,
        failure: None,
    });
    let on_token = RefCell::new(&mut on_token as &mut OnToken);
    let (mut started, mut prompt_tokens) = (0, 0);
    for (index, request) in requests.iter().enumerate() {
        request.sampling.validate()?;
        if request.max_tokens > 0 {
            let asked = asked(request);
            limits.check(&asked)?;
            (started, prompt_tokens) = (started + 1, prompt_tokens + asked.prompt.len() as u64);
            let writer = Writer {
                request: index,
                texts: &texts,
                on_token: &on_token,
                clock: &clock,
                needs_logits: request.needs_logits,
                ended: false,
            };
            scheduler.add(asked, writer, Duration::ZERO);
        }
    }
    let outcome = run(engine, &mut scheduler, &clock, &texts);
    let (total, generated_tokens) = (clock.now(), scheduler.metrics().generation_tokens);
    if let Err(error) = outcome {
        scheduler.fail_all(Some(engine), &RequestError::ShuttingDown, total);
        return Err(error);
    }
    drop(scheduler);
    let Texts { generations, first_token, prompt, .. } = texts.into_inner();
    let later_tokens = generated_tokens.saturating_sub(started);
    let generation = total.saturating_sub(first_token);
    Ok((generations, Timings { prompt_tokens, generated_tokens, prompt, first_token, generation, later_tokens }))
}

type OnToken<'a> = dyn FnMut(TokenEvent) -> ControlFlow<()> + 'a;

/// What came of the requests so far.
struct Texts {
    generations: Vec<Generation>,
    prompt: Duration,
    first_token: Duration,
    failure: Option<RequestError>,
}

/// Takes the tokens of one request.
struct Writer<'a> {
    request: usize,
    texts: &'a RefCell<Texts>,
    on_token: &'a RefCell<&'a mut OnToken<'a>>,
    clock: &'a SystemClock,
    needs_logits: bool,
    /// The callback wants no more.
    ended: bool,
}

impl Reader for Writer<'_> {
    fn room(&self) -> usize {
        usize::MAX
    }

    fn is_closed(&self) -> bool {
        false
    }

    fn is_ended(&self, _: u32) -> bool {
        self.ended
    }

    fn needs_logits(&self) -> bool {
        self.needs_logits
    }

    fn send(&mut self, event: Event) -> bool {
        let mut texts = self.texts.borrow_mut();
        match event {
            Event::Finished { reason, timings, .. } => {
                texts.generations[self.request].finish = reason;
                texts.prompt = texts.prompt.max(timings.queued + timings.prefill);
                // A text may end with its first token.
                if texts.generations[self.request].tokens.is_empty() {
                    texts.first_token = self.clock.now();
                }
            }
            Event::Failed(error) => texts.failure = texts.failure.take().or(Some(error)),
            _ => {}
        }
        true
    }

    fn send_token(&mut self, _: u32, token: u32, _: Option<TokenLogProbs>, logits: &[f32]) {
        let index = {
            let mut texts = self.texts.borrow_mut();
            let tokens = &mut texts.generations[self.request].tokens;
            tokens.push(token);
            let index = tokens.len() - 1;
            if index == 0 {
                texts.first_token = self.clock.now();
            }
            index
        };
        let event = TokenEvent { request: self.request, token, index, logits };
        self.ended = (self.on_token.borrow_mut())(event).is_break();
    }
}

fn empty(requests: &[GenerationRequest]) -> Vec<Generation> {
    requests.iter().map(|_| Generation { tokens: Vec::new(), finish: FinishReason::Length }).collect()
}

fn asked(request: &GenerationRequest) -> Request {
    let mut asked = Request::new(request.prompt.clone(), request.sampling.clone(), request.max_tokens);
    asked.stop_ids.clone_from(&request.stop_ids);
    asked
}

fn run(
    engine: &mut Engine,
    scheduler: &mut Scheduler<Writer>,
    clock: &SystemClock,
    texts: &RefCell<Texts>,
) -> Result<(), EngineError> {
    loop {
        match scheduler.step(engine, clock) {
            Progress::Idle => return Ok(()),
            Progress::Stepped | Progress::Submitted | Progress::Resting => {}
            Progress::Broken(message) | Progress::Lost(message) => return Err(DeviceError::Lost { message }.into()),
        }
        if let Some(error) = texts.borrow_mut().failure.take() {
            return Err(error.into());
        }
    }
}
