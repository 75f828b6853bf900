//! Which rotary frequencies a sequence uses, for models that have two tables of them (longrope).
//!
//! Such a model turns all positions of a sequence by its short table as long as the sequence fits the context it was first
//! trained with, and by its long one beyond. A sequence that grows past that length is therefore computed again from its
//! start, as the reference implementation does, so that its logits are those of the whole text given at once. Callers that
//! know a prompt's length say so when they open the sequence, and nothing is computed twice.

use std::collections::HashMap;

use crate::kv::pages::SequenceId;

/// The tables of all open sequences.
#[derive(Debug)]
pub(super) struct RopeTables {
    /// Longest sequence, in tokens, that uses the short table.
    switch: u64,
    sequences: HashMap<SequenceId, Text>,
}

/// A sequence's tokens, to compute them again, and its table.
#[derive(Clone, Debug, Default)]
struct Text {
    ids: Vec<u32>,
    long: bool,
}

impl RopeTables {
    pub fn new(switch: u64) -> RopeTables {
        RopeTables { switch, sequences: HashMap::new() }
    }

    /// The table of a sequence of which `expected` tokens are known to come.
    pub fn table_for(&self, expected: u64) -> i32 {
        (expected > self.switch).into()
    }

    /// A new sequence of which `expected` tokens are known to come.
    pub fn open(&mut self, sequence: SequenceId, expected: u64) {
        self.sequences.insert(sequence, Text { ids: Vec::new(), long: self.table_for(expected) != 0 });
    }

    pub fn fork(&mut self, from: SequenceId, to: SequenceId, tokens: u64) {
        let mut text = self.sequences.get(&from).cloned().unwrap_or_default();
        text.ids.truncate(tokens as usize);
        self.sequences.insert(to, text);
    }

    pub fn truncate(&mut self, sequence: SequenceId, tokens: u64) {
        if let Some(text) = self.sequences.get_mut(&sequence) {
            text.ids.truncate(tokens as usize);
            text.long &= tokens > 0;
        }
    }

    pub fn close(&mut self, sequence: SequenceId) {
        self.sequences.remove(&sequence);
    }

    /// The table a sequence uses: 0 the short one, 1 the long one.
    pub fn table(&self, sequence: SequenceId) -> i32 {
        self.sequences.get(&sequence).is_some_and(|t| t.long).into()
    }

    /// Switches a sequence that grows by `tokens` past the limit; gives the tokens to compute again, if there are any.
    pub fn grow(&mut self, sequence: SequenceId, tokens: usize) -> Option<Vec<u32>> {
        let text = self.sequences.entry(sequence).or_default();
        let switches = !text.long && (text.ids.len() + tokens) as u64 > self.switch;
        text.long |= switches;
        (switches && !text.ids.is_empty()).then(|| std::mem::take(&mut text.ids))
    }

    /// Notes tokens that were computed.
    pub fn append(&mut self, sequence: SequenceId, tokens: &[u32]) {
        self.sequences.entry(sequence).or_default().ids.extend_from_slice(tokens);
    }
}
