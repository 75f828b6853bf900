//! The calibration text as token windows.
//!
//! Windows do not overlap and each is a sequence of its own, so that a layer is run over one after the other with a cache of
//! one window. A text too short to say anything about the inputs of a layer is refused.

use std::path::Path;

use models::Checkpoint;
use runtime::text::Tokenizer;

use super::QuantiseError;

/// Fewest tokens that calibrate anything.
pub const SMALLEST_TOKENS: usize = 512;

/// Tokens of a window.
pub const WINDOW: usize = 512;

/// Tokens of a text cut to windows of at most [`WINDOW`] and `longest` tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Windows {
    ids: Vec<i32>,
    width: usize,
}

impl Windows {
    /// Windows over tokens that are known. `width` is at least 1.
    pub fn of(ids: Vec<i32>, width: usize) -> Windows {
        Windows { ids, width: width.max(1) }
    }

    /// Reads and tokenises a text with the checkpoint's own tokenizer; at most `most` tokens are kept.
    ///
    /// # Errors
    /// A text or tokenizer that cannot be read, or fewer than [`SMALLEST_TOKENS`].
    pub fn read(path: &Path, checkpoint: &Checkpoint, most: usize, longest: u64) -> Result<Windows, QuantiseError> {
        let fail = |action, message: String| QuantiseError::File { path: path.into(), action, message };
        let text = std::fs::read_to_string(path).map_err(|e| fail("read the calibration text", e.to_string()))?;
        let json = models::tokenizer::tokenizer_json(checkpoint)?.ok_or_else(|| {
            let message = "the checkpoint has no tokenizer; gptq and awq need one, --quant-method rtn does not".into();
            QuantiseError::File { path: checkpoint.path().into(), action: "tokenise the calibration text", message }
        })?;
        let tokenizer = Tokenizer::from_bytes(&json, "tokenizer.json").map_err(|e| fail("tokenise", e.to_string()))?;
        let ids = tokenizer.encode(&text, false).map_err(|e| fail("tokenise", e.to_string()))?;
        if ids.len() < SMALLEST_TOKENS {
            return Err(QuantiseError::ShortText { path: path.into(), found: ids.len(), needed: SMALLEST_TOKENS });
        }
        let ids = ids.into_iter().take(most.max(SMALLEST_TOKENS)).map(|id| id as i32).collect();
        Ok(Windows::of(ids, WINDOW.min(longest.max(1) as usize)))
    }

    /// The windows in order; the last may be shorter.
    pub fn iter(&self) -> impl Iterator<Item = &[i32]> {
        self.ids.chunks(self.width)
    }

    /// All tokens.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// Tokens of the longest window.
    pub fn width(&self) -> usize {
        self.width.min(self.ids.len())
    }
}
