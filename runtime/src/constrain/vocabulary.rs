//! The tokens of a model as the bytes that they stand for.

use std::sync::Arc;

use toktrie::{ApproximateTokEnv, INVALID_TOKEN, TokEnv, TokRxInfo, TokTrie};

use super::GrammarError;
use crate::text::Tokenizer;

/// Longest token that the trie can hold; longer ones, runs of spaces in some vocabularies, are never allowed.
const MAX_TOKEN_BYTES: usize = 1000;
/// Nodes that the trie can hold.
const MAX_NODES: usize = 1 << 22;

/// The trie of tokens below `vocabulary`, with `eos` to end the text.
///
/// Ids without a token, which pad the logits of many models, have no bytes and thus are never allowed. Special tokens are
/// entered under a marker that no UTF-8 text has, so that text never spells one; a grammar may name them by id.
pub(super) fn token_env(tokenizer: &Tokenizer, vocabulary: usize, eos: &[u32]) -> Result<TokEnv, GrammarError> {
    let mut words = words(tokenizer, vocabulary)?;
    let eos: Vec<u32> = eos.iter().copied().filter(|id| (*id as usize) < vocabulary).collect();
    for id in &eos {
        words[*id as usize] = special(&tokenizer.id_to_token(*id).unwrap_or_else(|| format!("<eos {id}>")));
    }
    let size = u32::try_from(words.len()).map_err(|_| GrammarError::Tokenizer("too many tokens".into()))?;
    let trie = TokTrie::from(&TokRxInfo::new(size, eos.first().copied().unwrap_or(INVALID_TOKEN)), &words);
    let trie = if eos.is_empty() { trie } else { trie.with_eos_tokens(&eos) };
    // "Approximate": forced text is not tokenised canonically. The model chooses among all tokens that fit.
    Ok(Arc::new(ApproximateTokEnv::new(trie)))
}

fn words(tokenizer: &Tokenizer, vocabulary: usize) -> Result<Vec<Vec<u8>>, GrammarError> {
    if !tokenizer.has_token_bytes() {
        let message = "its tokenizer's decoder does not say which bytes a token stands for";
        return Err(GrammarError::Tokenizer(message.into()));
    }
    let word = |id: usize| {
        let id = id as u32;
        match tokenizer.is_special(id) {
            true => special(&tokenizer.id_to_token(id).unwrap_or_default()),
            // Bytes that look like the marker cannot be part of UTF-8 text.
            false => tokenizer.token_bytes(id).filter(|b| b.first() != Some(&MARKER)).unwrap_or_default(),
        }
    };
    let mut words: Vec<Vec<u8>> = (0..vocabulary).map(word).collect();
    words.iter_mut().filter(|w| w.len() > MAX_TOKEN_BYTES).for_each(Vec::clear);
    if words.iter().map(Vec::len).sum::<usize>() >= MAX_NODES {
        return Err(GrammarError::Tokenizer("its vocabulary is too large".into()));
    }
    Ok(words)
}

const MARKER: u8 = TokTrie::SPECIAL_TOKEN_MARKER;

fn special(name: &str) -> Vec<u8> {
    [&[MARKER], name.as_bytes()].concat()
}
