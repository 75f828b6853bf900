//! What a request must keep to, checked before it is queued: everything past this check can be scheduled.

use ir::op::PAGE_TOKENS;

use crate::engine::Engine;
use crate::serving::{Output, Request, SubmitError};

/// Most answers to one request: the largest `n` of the OpenAI interface.
pub const MAX_ANSWERS: u32 = 128;

/// Sizes of a loaded model that requests are checked against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Token ids are below this.
    pub vocabulary: usize,
    /// Longest sequence in tokens, prompt and answer together: the context, or what the KV cache holds at all.
    pub max_model_len: u64,
    /// Whether the artifact's programs give hidden states.
    pub hidden_states: bool,
}

impl Limits {
    /// The limits of an engine with what pages it has left, whose artifact gives hidden states, or not.
    pub fn of(engine: &Engine, hidden_states: bool) -> Limits {
        // Pages of baked prompts are never given up.
        let cache = engine.available_pages().saturating_mul(PAGE_TOKENS);
        Limits { vocabulary: engine.vocabulary(), max_model_len: engine.max_model_len().min(cache), hidden_states }
    }

    /// Checks every field of a request.
    ///
    /// # Errors
    /// The first field out of range.
    pub fn check(&self, request: &Request) -> Result<(), SubmitError> {
        self.check_prompt(&request.prompt)?;
        request.sampling.validate().map_err(|e| invalid(e.field, e.to_string()))?;
        if let Some((token, _)) = request.sampling.logit_bias.iter().find(|(token, _)| !self.has(*token)) {
            return Err(self.unknown("logit_bias", *token));
        }
        if request.max_tokens == 0 {
            return Err(invalid("max_tokens", "must be at least 1"));
        }
        if !(1..=MAX_ANSWERS).contains(&request.answers) {
            return Err(invalid("answers", format!("{} is not from 1 to {MAX_ANSWERS}", request.answers)));
        }
        if request.prompt_logprobs && request.logprobs.is_none() {
            return Err(invalid("prompt_logprobs", "needs logprobs"));
        }
        match request.output {
            Output::Tokens => Ok(()),
            Output::HiddenStates => self.check_hidden(request),
        }
    }

    fn check_prompt(&self, prompt: &[u32]) -> Result<(), SubmitError> {
        if prompt.is_empty() {
            return Err(invalid("prompt", "needs at least one token"));
        }
        let prompt_tokens = prompt.len() as u64;
        if prompt_tokens > self.max_model_len {
            return Err(SubmitError::TooLong { prompt_tokens, max_model_len: self.max_model_len });
        }
        prompt.iter().find(|token| !self.has(**token)).map_or(Ok(()), |token| Err(self.unknown("prompt", *token)))
    }

    fn check_hidden(&self, request: &Request) -> Result<(), SubmitError> {
        if !self.hidden_states {
            let message = "this artifact gives no hidden states; compile the model with --embeddings";
            return Err(invalid("output", message));
        }
        if request.answers != 1 {
            return Err(invalid("answers", "must be 1 for hidden states"));
        }
        if request.constraint.is_some() || request.logprobs.is_some() {
            return Err(invalid("output", "hidden states have neither a constraint nor logprobs"));
        }
        Ok(())
    }

    fn has(&self, token: u32) -> bool {
        (token as usize) < self.vocabulary
    }

    fn unknown(&self, field: &'static str, token: u32) -> SubmitError {
        invalid(field, format!("token {token} is not in the vocabulary of {}", self.vocabulary))
    }
}

fn invalid(field: &'static str, message: impl Into<String>) -> SubmitError {
    SubmitError::Invalid { field, message: message.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::SamplingParams;

    const LIMITS: Limits = Limits { vocabulary: 40, max_model_len: 100, hidden_states: false };

    fn refused(change: impl Fn(&mut Request)) -> &'static str {
        let mut request = Request::new(vec![1, 2], SamplingParams::greedy(), 5);
        assert_eq!(LIMITS.check(&request), Ok(()));
        change(&mut request);
        match LIMITS.check(&request).unwrap_err() {
            SubmitError::Invalid { field, .. } => field,
            SubmitError::TooLong { .. } => "too long",
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_field_is_checked_and_named() {
        assert_eq!(refused(|r| r.prompt.clear()), "prompt");
        assert_eq!(refused(|r| r.prompt.push(40)), "prompt");
        assert_eq!(refused(|r| r.prompt.resize(101, 0)), "too long");
        assert_eq!(refused(|r| r.max_tokens = 0), "max_tokens");
        assert_eq!(refused(|r| r.answers = 0), "answers");
        assert_eq!(refused(|r| r.answers = MAX_ANSWERS + 1), "answers");
        assert_eq!(refused(|r| r.prompt_logprobs = true), "prompt_logprobs");
        assert_eq!(refused(|r| r.sampling.top_p = 0.0), "top_p");
        assert_eq!(refused(|r| r.sampling.logit_bias = vec![(40, 1.0)]), "logit_bias");
        assert_eq!(refused(|r| r.output = Output::HiddenStates), "output");
    }

    #[test]
    fn hidden_states_are_of_one_plain_answer() {
        let limits = Limits { hidden_states: true, ..LIMITS };
        let mut request = Request::new(vec![1], SamplingParams::greedy(), 1);
        request.output = Output::HiddenStates;
        assert_eq!(limits.check(&request), Ok(()));
        request.answers = 2;
        assert!(limits.check(&request).is_err());
    }
}
