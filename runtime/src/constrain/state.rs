//! A grammar's state after the tokens of one answer.

use std::fmt::Display;

use llguidance::Matcher;
use llguidance::api::StopReason;

use crate::serving::{ConstraintError, TokenConstraint};

/// A running grammar.
pub(super) struct GrammarState {
    matcher: Matcher,
    /// The tokens allowed next, one bit each, over the columns of the model's logits.
    mask: Vec<u32>,
}

impl GrammarState {
    /// At the start of an answer, for logits of so many columns.
    pub(super) fn new(matcher: Matcher, vocabulary: usize) -> GrammarState {
        GrammarState { matcher, mask: vec![0; vocabulary.div_ceil(32)] }
    }

    fn failure(&self, detail: &dyn Display) -> ConstraintError {
        ConstraintError(match self.matcher.stop_reason() {
            StopReason::LexerTooComplex | StopReason::ParserTooComplex => {
                "the grammar is too complex at this place".to_owned()
            }
            _ => super::factory::first_line(&detail.to_string()),
        })
    }
}

impl TokenConstraint for GrammarState {
    fn allowed(&mut self) -> Result<&[u32], ConstraintError> {
        let computed = self.matcher.compute_mask_or_eos().map_err(|e| self.failure(&e))?;
        // The library's set may have a word more than the logits, never a token.
        let words = computed.as_slice();
        let shared = words.len().min(self.mask.len());
        self.mask[..shared].copy_from_slice(&words[..shared]);
        self.mask[shared..].fill(0);
        Ok(&self.mask)
    }

    fn accept(&mut self, token: u32) -> Result<(), ConstraintError> {
        self.matcher.consume_token(token).map_err(|e| self.failure(&e))
    }

    fn is_finished(&self) -> bool {
        self.matcher.is_stopped()
    }

    fn fork(&self) -> Box<dyn TokenConstraint> {
        Box::new(GrammarState { matcher: self.matcher.clone(), mask: self.mask.clone() })
    }
}
