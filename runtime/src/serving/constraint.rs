//! What restricts the tokens of an answer to those of a grammar.

/// Why a constraint ended with an error: a grammar too costly, or a token that it does not allow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("constrained decoding: {0}")]
pub struct ConstraintError(pub String);

/// The state of a grammar after the tokens of one answer so far.
pub trait TokenConstraint: Send {
    /// The tokens allowed next: bit `t % 32` of word `t / 32` for token `t`. At least one is set; the tokens that end
    /// the text are set where the grammar may end.
    ///
    /// # Errors
    /// The grammar ran out of its limits.
    fn allowed(&mut self) -> Result<&[u32], ConstraintError>;

    /// Takes the chosen token.
    ///
    /// # Errors
    /// The token was not allowed, or the grammar ran out of its limits.
    fn accept(&mut self, token: u32) -> Result<(), ConstraintError>;

    /// Whether the text is complete: nothing may follow.
    fn is_finished(&self) -> bool;

    /// A copy in the same state, for another answer to the same prompt.
    fn fork(&self) -> Box<dyn TokenConstraint>;
}
