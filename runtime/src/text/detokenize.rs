//! Decoding a sequence token by token, as it is generated.
//!
//! The text of a prefix is not always a prefix of the text: a character may be spread over tokens, the first space of a
//! SentencePiece text is dropped, a run of byte tokens is text only if all of it is UTF-8. [`DecodeStream`] emits
//! what later tokens cannot change, and its pieces joined equal [`Tokenizer::decode`] of all ids. The usual way, decoding a
//! sliding window twice per token, is simpler but breaks that in corner cases; here the decoders that language
//! models use are run incrementally, in constant time per token. Others fall back to decoding the whole sequence each time.

use std::sync::Arc;

use serde_json::Value;

use super::tokenizer::{TextError, Tokenizer};

const REPLACEMENT: char = '\u{FFFD}';

/// How the `decoder` section of a tokenizer can be run incrementally.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum DecodePlan {
    /// GPT-2's byte-level alphabet: each token is a run of bytes.
    ByteLevel,
    /// SentencePiece in the Llama manner.
    SentencePiece {
        /// Replaced in each token, in this order.
        replacements: Vec<(String, String)>,
        /// Whether `<0x41>` stands for a byte.
        byte_fallback: bool,
        /// Dropped at the start of the text, at most so many times.
        strip: (char, usize),
    },
    /// A character that stands for a space, dropped in the first token.
    Metaspace {
        /// The character.
        marker: char,
        /// Whether the first token loses it.
        drop_first: bool,
    },
    /// Anything else.
    Whole,
}

impl DecodePlan {
    /// Reads the `decoder` section of a `tokenizer.json`.
    pub(super) fn of(decoder: &Value) -> Self {
        match decoder["type"].as_str() {
            Some("ByteLevel") => Self::ByteLevel,
            Some("Metaspace") => Self::metaspace(decoder).unwrap_or(Self::Whole),
            Some("Sequence") => match decoder["decoders"].as_array().map(Vec::as_slice) {
                Some([single]) => Self::of(single),
                Some(steps) => Self::sentence_piece(steps).unwrap_or(Self::Whole),
                None => Self::Whole,
            },
            _ => Self::Whole,
        }
    }

    fn metaspace(decoder: &Value) -> Option<Self> {
        let mut marker = decoder["replacement"].as_str()?.chars();
        let drop_first = match decoder["prepend_scheme"].as_str() {
            Some("never") => false,
            Some(_) => true,
            // Older files say it this way; the library reads an absent field as "always".
            None => decoder["add_prefix_space"].as_bool().unwrap_or(true),
        };
        Some(Self::Metaspace { marker: marker.next()?, drop_first })
    }

    /// Replace*, ByteFallback?, Fuse, Strip?: in any other order the steps mean something else.
    fn sentence_piece(steps: &[Value]) -> Option<Self> {
        let mut steps = steps.iter().peekable();
        let mut next_of = |kind: &str| steps.next_if(|step| step["type"] == kind);
        let mut replacements = Vec::new();
        while let Some(step) = next_of("Replace") {
            let pattern = step["pattern"]["String"].as_str().filter(|p| !p.is_empty())?;
            replacements.push((pattern.to_owned(), step["content"].as_str()?.to_owned()));
        }
        let byte_fallback = next_of("ByteFallback").is_some();
        next_of("Fuse")?;
        let strip = match next_of("Strip") {
            Some(step) if step["stop"] == 0 => {
                (step["content"].as_str()?.chars().next()?, usize::try_from(step["start"].as_u64()?).ok()?)
            }
            Some(_) => return None,
            None => (' ', 0),
        };
        steps.next().is_none().then_some(Self::SentencePiece { replacements, byte_fallback, strip })
    }

    /// The bytes that `token` stands for within a text, not at its start; `None` if they depend on other tokens.
    pub(super) fn bytes_of(&self, token: &str) -> Option<Vec<u8>> {
        match self {
            Self::ByteLevel => Some(byte_level_bytes(token)),
            Self::SentencePiece { replacements, byte_fallback, .. } => {
                let piece = replaced(token.to_owned(), replacements);
                let byte = fallback_byte(&piece).filter(|_| *byte_fallback);
                Some(byte.map_or_else(|| piece.into_bytes(), |byte| vec![byte]))
            }
            Self::Metaspace { marker, .. } => Some(token.replace(*marker, " ").into_bytes()),
            Self::Whole => None,
        }
    }
}

/// Which special tokens a stream shows.
#[derive(Debug, Clone)]
pub(super) enum Shown {
    /// Every one.
    All,
    /// None.
    No,
    /// These.
    Listed(Arc<[u32]>),
}

impl Shown {
    pub(super) fn of(skip_special: bool) -> Self {
        if skip_special { Self::No } else { Self::All }
    }
}

/// Text of a growing sequence of tokens.
#[derive(Debug)]
pub struct DecodeStream {
    tokenizer: Tokenizer,
    shown: Shown,
    /// Text the last call made final.
    ready: String,
    /// Bytes that later tokens may still complete.
    bytes: Vec<u8>,
    progress: Progress,
}

/// State that depends on the decoder.
#[derive(Debug)]
enum Progress {
    Bytes,
    Pieces { strip_left: usize },
    Markers { at_start: bool },
    Whole { ids: Vec<u32>, text: String, emitted: usize },
}

impl DecodeStream {
    pub(super) fn new(tokenizer: Tokenizer, shown: Shown) -> Self {
        let progress = match tokenizer.plan() {
            DecodePlan::ByteLevel => Progress::Bytes,
            DecodePlan::SentencePiece { strip, .. } => Progress::Pieces { strip_left: strip.1 },
            DecodePlan::Metaspace { .. } => Progress::Markers { at_start: true },
            DecodePlan::Whole => Progress::Whole { ids: Vec::new(), text: String::new(), emitted: 0 },
        };
        Self { tokenizer, shown, ready: String::new(), bytes: Vec::new(), progress }
    }

    /// Appends token `id` and returns the text that became final, often that of `id`, possibly none.
    ///
    /// # Errors
    /// `id` is outside the vocabulary; the stream is unchanged then.
    pub fn push(&mut self, id: u32) -> Result<&str, TextError> {
        let token = self.tokenizer.token(id)?;
        self.ready.clear();
        if self.hides(id, &token) {
            return Ok("");
        }
        // A clone of the handle, so that the plan and the buffers can be borrowed side by side.
        let tokenizer = self.tokenizer.clone();
        match tokenizer.plan() {
            DecodePlan::ByteLevel => self.push_byte_level(&token),
            DecodePlan::SentencePiece { replacements, byte_fallback, strip } => {
                self.push_piece(token, replacements, *byte_fallback, strip.0);
            }
            DecodePlan::Metaspace { marker, drop_first } => self.push_marked(&token, *marker, *drop_first),
            DecodePlan::Whole => self.push_whole(id)?,
        }
        Ok(&self.ready)
    }

    /// Ends the sequence and returns what was held back; incomplete characters become U+FFFD.
    pub fn finish(mut self) -> String {
        self.ready.clear();
        match &self.progress {
            Progress::Bytes if !self.bytes.is_empty() => self.ready.push(REPLACEMENT),
            Progress::Pieces { .. } => {
                if let DecodePlan::SentencePiece { strip, .. } = self.tokenizer.clone().plan() {
                    self.end_byte_run(strip.0);
                }
            }
            Progress::Whole { text, emitted, .. } => self.ready.push_str(&text[*emitted..]),
            Progress::Bytes | Progress::Markers { .. } => {}
        }
        self.ready
    }

    fn hides(&self, id: u32, token: &str) -> bool {
        match &self.shown {
            Shown::All => false,
            Shown::No => self.tokenizer.is_special_token(token),
            Shown::Listed(ids) => !ids.contains(&id) && self.tokenizer.is_special_token(token),
        }
    }

    fn push_byte_level(&mut self, token: &str) {
        self.bytes.extend(byte_level_bytes(token));
        let held = take_complete(&self.bytes, &mut self.ready);
        self.bytes.drain(..self.bytes.len() - held);
    }

    fn push_piece(&mut self, token: String, replacements: &[(String, String)], byte_fallback: bool, strip: char) {
        let piece = replaced(token, replacements);
        match fallback_byte(&piece).filter(|_| byte_fallback) {
            // Held until the run ends: one bad byte turns every byte of the run into U+FFFD.
            Some(byte) => self.bytes.push(byte),
            None => {
                self.end_byte_run(strip);
                self.emit_piece(&piece, strip);
            }
        }
    }

    fn end_byte_run(&mut self, strip: char) {
        let run = match String::from_utf8(std::mem::take(&mut self.bytes)) {
            Ok(text) => text,
            Err(bad) => std::iter::repeat_n(REPLACEMENT, bad.as_bytes().len()).collect(),
        };
        self.emit_piece(&run, strip);
    }

    fn emit_piece(&mut self, mut piece: &str, strip: char) {
        let Progress::Pieces { strip_left } = &mut self.progress else { return };
        while *strip_left > 0 && !piece.is_empty() {
            match piece.strip_prefix(strip) {
                Some(rest) => (piece, *strip_left) = (rest, *strip_left - 1),
                None => *strip_left = 0,
            }
        }
        self.ready.push_str(piece);
    }

    fn push_marked(&mut self, token: &str, marker: char, drop_first: bool) {
        let Progress::Markers { at_start } = &mut self.progress else { return };
        let dropping = std::mem::replace(at_start, false) && drop_first;
        for c in token.chars() {
            match c == marker {
                false => self.ready.push(c),
                true if dropping => {}
                true => self.ready.push(' '),
            }
        }
    }

    /// Decodes everything again. What this and the last decoding agree on, short of trailing U+FFFD, is final.
    fn push_whole(&mut self, id: u32) -> Result<(), TextError> {
        let Progress::Whole { ids, text, emitted } = &mut self.progress else { return Ok(()) };
        ids.push(id);
        // What is hidden never gets here.
        let decoded = self.tokenizer.decode(ids, false).inspect_err(|_| {
            ids.pop();
        })?;
        if !decoded.is_char_boundary(*emitted) || decoded[..*emitted] != text[..*emitted] {
            ids.pop();
            let detail = "this tokenizer's decoder changes earlier text and cannot be streamed".to_owned();
            return Err(TextError::Decode { detail });
        }
        let agreed: usize =
            decoded.chars().zip(text.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum();
        let stable = decoded[..agreed].trim_end_matches(REPLACEMENT).len().max(*emitted);
        self.ready.push_str(&decoded[*emitted..stable]);
        (*text, *emitted) = (decoded, stable);
        Ok(())
    }
}

/// The bytes of a byte-level token. One with a character outside the alphabet is an added token, kept as it is written.
fn byte_level_bytes(token: &str) -> Vec<u8> {
    token.chars().map(byte_of).collect::<Option<Vec<u8>>>().unwrap_or_else(|| token.as_bytes().to_vec())
}

fn replaced(token: String, replacements: &[(String, String)]) -> String {
    replacements.iter().fold(token, |piece, (from, to)| piece.replace(from, to))
}

/// The byte that `c` stands for in GPT-2's byte-level alphabet: printable Latin-1 characters stand for themselves,
/// the other bytes, in rising order, are numbered from U+0100.
fn byte_of(c: char) -> Option<u8> {
    match u32::from(c) {
        code @ (0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF) => u8::try_from(code).ok(),
        code @ 0x100..=0x120 => u8::try_from(code - 0x100).ok(),
        code @ 0x121..=0x142 => u8::try_from(code - 0x121 + 0x7F).ok(),
        0x143 => Some(0xAD),
        _ => None,
    }
}

/// The byte that a SentencePiece token such as `<0x41>` stands for.
fn fallback_byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() == 2 { u8::from_str_radix(digits, 16).ok() } else { None }
}

/// Appends the complete characters of `bytes` to `text`, malformed ones as U+FFFD, and returns how many bytes at the
/// end may still become a character.
fn take_complete(bytes: &[u8], text: &mut String) -> usize {
    let mut chunks = bytes.utf8_chunks().peekable();
    while let Some(chunk) = chunks.next() {
        text.push_str(chunk.valid());
        let invalid = chunk.invalid();
        let may_grow = || std::str::from_utf8(invalid).is_err_and(|e| e.error_len().is_none());
        if chunks.peek().is_none() && may_grow() {
            return invalid.len();
        }
        if !invalid.is_empty() {
            text.push(REPLACEMENT);
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::golden;
    use proptest::prelude::*;
    use serde_json::json;

    /// The fixture `name` with another decoder section.
    fn with_decoder(name: &str, decoder: Value) -> Tokenizer {
        let mut file: Value = serde_json::from_slice(&golden::bytes(name, "tokenizer.json")).expect("JSON");
        file["decoder"] = decoder;
        Tokenizer::from_bytes(file.to_string().as_bytes(), "changed decoder").expect("valid")
    }

    fn every_plan() -> Vec<Tokenizer> {
        let replace = json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "});
        let metaspace =
            |scheme| json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": true});
        let (fallback, fuse) = (json!({"type": "ByteFallback"}), json!({"type": "Fuse"}));
        let strip = |start| json!({"type": "Strip", "content": " ", "start": start, "stop": 0});
        let sequence = |steps: &[&Value]| json!({"type": "Sequence", "decoders": steps});
        vec![
            golden::tokenizer("qwen3"),
            golden::tokenizer("mistral"),
            with_decoder("mistral", sequence(&[&replace, &fallback, &fuse])),
            with_decoder("mistral", sequence(&[&replace, &fallback, &fuse, &strip(3)])),
            with_decoder("mistral", sequence(&[&replace, &fuse, &strip(1)])),
            with_decoder("mistral", metaspace("always")),
            with_decoder("mistral", metaspace("never")),
            with_decoder("qwen3", json!({"type": "WordPiece", "prefix": "##", "cleanup": true})),
            with_decoder("qwen3", Value::Null),
        ]
    }

    #[test]
    fn plans_are_recognised() {
        let plans: Vec<DecodePlan> = every_plan().iter().map(|t| t.plan().clone()).collect();
        assert_eq!(plans[0], DecodePlan::ByteLevel);
        assert!(matches!(&plans[1], DecodePlan::SentencePiece { byte_fallback: true, strip: (' ', 1), .. }));
        assert!(matches!(&plans[3], DecodePlan::SentencePiece { strip: (' ', 3), .. }));
        assert_eq!(plans[6], DecodePlan::Metaspace { marker: '▁', drop_first: false });
        assert!(plans[7..].iter().all(|plan| *plan == DecodePlan::Whole));
    }

    #[test]
    fn a_decoder_that_takes_text_back_is_an_error() {
        let steps = json!([{"type": "ByteFallback"}, {"type": "Strip", "content": "x", "start": 1, "stop": 0}]);
        let tokenizer = with_decoder("mistral", json!({"type": "Sequence", "decoders": steps}));
        let byte = |b: u8| u32::from(b) + 3;
        let mut stream = tokenizer.decode_stream(false);
        assert_eq!(stream.push(byte(b'a')).expect("fine"), "");
        assert_eq!(stream.push(byte(b'b')).expect("fine"), "a");
        let error = stream.push(byte(0xFF)).expect_err("turns all bytes into U+FFFD").to_string();
        assert!(error.contains("cannot be streamed"), "{error}");
        assert_eq!(stream.finish(), "b", "the stream is as it was before the error");
    }

    #[test]
    fn the_byte_alphabet_is_a_bijection() {
        let mut bytes: Vec<u8> = (0..0x200).filter_map(char::from_u32).filter_map(byte_of).collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
        assert_eq!((byte_of('Ġ'), byte_of('Ċ')), (Some(b' '), Some(b'\n')));
    }

    #[test]
    fn characters_are_emitted_as_soon_as_they_are_complete() {
        let tokenizer = golden::tokenizer("qwen3");
        let ids = tokenizer.encode("😀a", false).expect("encodes");
        assert_eq!(ids.len(), 5, "the fixture spells the emoji in bytes");
        let mut stream = tokenizer.decode_stream(false);
        let pieces: Vec<String> = ids.iter().map(|&id| stream.push(id).expect("known").to_owned()).collect();
        assert_eq!(pieces, ["", "", "", "😀", "a"]);
    }

    #[test]
    fn a_byte_run_is_text_only_as_a_whole() {
        let tokenizer = golden::tokenizer("mistral");
        let byte = |b: u8| u32::from(b) + 3;
        // "é", then a byte that spoils the run; the reference turns all three bytes into U+FFFD.
        let ids = [byte(0xC3), byte(0xA9), byte(0xFF), 300];
        assert_eq!(golden::streamed(&tokenizer, &ids, false), tokenizer.decode(&ids, false).expect("decodes"));
        assert_eq!(golden::streamed(&tokenizer, &ids[..3], false), "\u{FFFD}\u{FFFD}\u{FFFD}");
        assert_eq!(golden::streamed(&tokenizer, &ids[..2], false), "é");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]
        #[test]
        fn pieces_join_to_the_text_of_the_whole(
            // Ids at both ends hold the bytes and the special tokens; the rest is words.
            ids in prop::collection::vec(prop_oneof![0u32..260, 180u32..512, 505u32..512], 0..40), skip in any::<bool>(),
        ) {
            for tokenizer in every_plan() {
                let whole = tokenizer.decode(&ids, skip).expect("decodes");
                prop_assert_eq!(golden::streamed(&tokenizer, &ids, skip), whole, "{:?}", tokenizer.plan());
            }
        }
    }
}
