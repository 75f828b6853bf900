//! How long an answer may be.

use crate::server::error::ApiError;

/// What decides how long an answer may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AnswerLength {
    /// Longest sequence, in tokens.
    pub max_model_len: u64,
    /// Tokens of the prompt.
    pub prompt: usize,
    /// The field with the prompt.
    pub prompt_param: &'static str,
    /// Most tokens that the request wants; the rest of the context where it is absent.
    pub wanted: Option<u64>,
    /// The field that says so.
    pub param: &'static str,
}

impl AnswerLength {
    /// The most tokens of the answer.
    ///
    /// # Errors
    /// 400 `context_length_exceeded`, as OpenAI's interface has it: prompt and answer are longer than the context.
    pub fn exact(self) -> Result<u64, ApiError> {
        let left = self.room()?;
        match self.wanted {
            None => Ok(left),
            Some(0) => Err(ApiError::invalid(self.param, format!("{} is 0, but must be at least 1", self.param))),
            Some(tokens) if tokens > left => Err(self.exceeded(&format!("{} asks for {tokens} more", self.param))),
            Some(tokens) => Ok(tokens),
        }
    }

    /// As [`AnswerLength::exact`] for interfaces whose answers end where the context does, whatever was asked for.
    ///
    /// # Errors
    /// 400: nothing was asked for, or the prompt leaves no room for an answer.
    pub fn clamped(self) -> Result<u64, ApiError> {
        let left = self.room()?;
        AnswerLength { wanted: self.wanted.map(|tokens| tokens.min(left)), ..self }.exact()
    }

    /// Tokens of prompt and answer together, as far as the request says it.
    pub fn total(self) -> u64 {
        (self.prompt as u64).saturating_add(self.wanted.unwrap_or(1))
    }

    /// Tokens of the context behind the prompt, at least one.
    fn room(self) -> Result<u64, ApiError> {
        match self.max_model_len.saturating_sub(self.prompt as u64) {
            0 => Err(self.exceeded("that leaves no room for an answer")),
            left => Ok(left),
        }
    }

    fn exceeded(self, why: &str) -> ApiError {
        let AnswerLength { max_model_len, prompt, prompt_param, .. } = self;
        let message = format!("the model's context is {max_model_len} tokens; the prompt has {prompt}, and {why}");
        ApiError::bad_request(message).with_param(prompt_param).with_code("context_length_exceeded")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn length(prompt: usize, wanted: Option<u64>) -> AnswerLength {
        AnswerLength { max_model_len: 10, prompt, prompt_param: "prompt", wanted, param: "max_tokens" }
    }

    #[test]
    fn prompt_and_answer_fit_the_context() {
        assert_eq!((length(9, None).exact().ok(), length(4, Some(6)).exact().ok()), (Some(1), Some(6)));
        for (prompt, wanted) in [(10, None), (11, Some(1)), (4, Some(7)), (9, Some(u64::MAX))] {
            let error = length(prompt, wanted).exact().expect_err("too long");
            assert_eq!((error.code, error.param.as_deref()), (Some("context_length_exceeded"), Some("prompt")));
        }
        assert_eq!(length(4, Some(0)).exact().expect_err("nothing").param.as_deref(), Some("max_tokens"));
    }

    #[test]
    fn a_clamped_answer_ends_with_the_context() {
        assert_eq!((length(4, Some(7)).clamped().ok(), length(4, Some(2)).clamped().ok()), (Some(6), Some(2)));
        assert!(length(10, Some(1)).clamped().is_err() && length(4, Some(0)).clamped().is_err());
    }
}
