//! Compiling grammars for one model.

use std::sync::Arc;
use std::thread;

use llguidance::api::{GrammarWithLexer, ParserLimits, TopLevelGrammar};
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::InferenceCapabilities;
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};

use super::state::GrammarState;
use super::{Composed, Grammar, GrammarError, limits, vocabulary};
use crate::serving::TokenConstraint;
use crate::text::Tokenizer;

/// Stack of the thread that compiles: its recursion is bounded by the checked depth of a grammar, times wide frames.
const COMPILE_STACK: usize = 32 << 20;
/// Space between the parts of JSON. Small models that may write any amount of it sometimes write nothing else.
const JSON_SPACE: &str = r"[ \n\t]{1,40}";

/// Compiles grammars for a model's tokens. Clones share the trie of tokens, which is built once.
#[derive(Clone)]
pub struct GrammarFactory {
    parsers: Arc<ParserFactory>,
    vocabulary: usize,
}

impl std::fmt::Debug for GrammarFactory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GrammarFactory").field("vocabulary", &self.vocabulary).finish_non_exhaustive()
    }
}

impl GrammarFactory {
    /// For logits of `vocabulary` columns and the tokens `eos` that end a text. Walks the vocabulary: some tenths of a
    /// second for a large one.
    ///
    /// # Errors
    /// The tokenizer's decoder is of a kind that does not say which bytes a token stands for.
    pub fn new(tokenizer: &Tokenizer, vocabulary: usize, eos: &[u32]) -> Result<GrammarFactory, GrammarError> {
        let env = vocabulary::token_env(tokenizer, vocabulary, eos)?;
        let slices = SlicedBiasComputer::general_slices();
        let mut parsers = ParserFactory::new(&env, InferenceCapabilities::default(), &slices)
            .map_err(|e| GrammarError::Tokenizer(first_line(&e.to_string())))?;
        parsers.quiet();
        *parsers.limits_mut() = limits();
        Ok(GrammarFactory { parsers: Arc::new(parsers), vocabulary })
    }

    /// A constraint at the start of an answer. Takes milliseconds, at worst some tenths of a second.
    ///
    /// # Errors
    /// The grammar is malformed, uses what cannot be enforced, or is too large.
    pub fn compile(&self, grammar: &Grammar) -> Result<Box<dyn TokenConstraint>, GrammarError> {
        check(grammar)?;
        let matcher = self.on_large_stack(|| {
            let mut matcher = Matcher::new(self.parsers.create_parser(top_level(grammar)));
            match matcher.get_error() {
                Some(error) => Err(invalid(&error)),
                // The first mask shows whether anything can be written at all, and what it costs.
                None => matcher.compute_mask_or_eos().map(|_| matcher).map_err(|e| invalid(&e.to_string())),
            }
        })?;
        Ok(Box::new(GrammarState::new(matcher, self.vocabulary)))
    }

    fn on_large_stack<T: Send>(
        &self,
        work: impl FnOnce() -> Result<T, GrammarError> + Send,
    ) -> Result<T, GrammarError> {
        let failed = |detail: &str| GrammarError::Invalid(format!("the grammar could not be compiled: {detail}"));
        thread::scope(|scope| {
            let builder = thread::Builder::new().name("grammar".into()).stack_size(COMPILE_STACK);
            let thread = builder.spawn_scoped(scope, work).map_err(|e| failed(&e.to_string()))?;
            thread.join().unwrap_or_else(|_| Err(failed("the compiler failed")))
        })
    }
}

/// The library's limits, tightened where its defaults allow hundreds of megabytes or tens of milliseconds a token.
fn limits() -> ParserLimits {
    ParserLimits {
        max_lexer_states: 50_000,
        step_lexer_fuel: 150_000,
        verbose_errors: false,
        ..ParserLimits::default()
    }
}

/// Checks what a grammar may be before it is compiled.
pub(crate) fn check(grammar: &Grammar) -> Result<(), GrammarError> {
    match grammar {
        Grammar::JsonObject => Ok(()),
        Grammar::JsonSchema(schema) => limits::check_schema(schema),
        Grammar::Regex(regex) => limits::check_regex(regex),
        Grammar::Lark(lark) => limits::check_lark(lark),
        Grammar::Composed(Composed(lark)) => limits::check_size(lark.len(), limits::MAX_BYTES),
        Grammar::Choice(choices) if choices.is_empty() => {
            Err(GrammarError::Invalid("expected at least one choice".into()))
        }
        Grammar::Choice(choices) => limits::check_size(choices.iter().map(String::len).sum(), limits::MAX_BYTES),
    }
}

fn top_level(grammar: &Grammar) -> TopLevelGrammar {
    let one = match grammar {
        Grammar::JsonObject => {
            GrammarWithLexer::from_json_schema(schema_with_options(&json!({"type": "object"}), false))
        }
        Grammar::JsonSchema(schema) => GrammarWithLexer::from_json_schema(schema_with_options(schema, false)),
        Grammar::Regex(regex) => GrammarWithLexer::from_regex(regex),
        Grammar::Lark(lark) | Grammar::Composed(Composed(lark)) => GrammarWithLexer::from_lark(lark.clone()),
        Grammar::Choice(choices) => GrammarWithLexer::from_lark(choice(choices)),
    };
    TopLevelGrammar::from_grammar(one)
}

fn choice(choices: &[String]) -> String {
    let quoted: Vec<String> = choices.iter().map(|text| lark_string(text)).collect();
    format!("start: {}", quoted.join(" | "))
}

/// `text` as a literal of a Lark grammar.
pub(crate) fn lark_string(text: &str) -> String {
    let quoted = Value::from(text).to_string();
    // Lark takes no control characters at all, JSON those from DEL on.
    let escaped = |c: char| if c.is_control() { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() };
    quoted.chars().map(escaped).collect()
}

/// `schema` with our choice of the library's options; where it is `lenient`, keywords that cannot be enforced are passed over.
pub(crate) fn schema_with_options(schema: &Value, lenient: bool) -> Value {
    let mut schema = schema.clone();
    if let Some(fields) = schema.as_object_mut() {
        fields.insert("x-guidance".into(), json!({"whitespace_pattern": JSON_SPACE, "lenient": lenient}));
    }
    schema
}

fn invalid(message: &str) -> GrammarError {
    GrammarError::Invalid(first_line(message))
}

/// The library appends states and backtraces to what it says.
pub(super) fn first_line(message: &str) -> String {
    let end = message.find("\n<").unwrap_or(message.len());
    message[..end].trim().chars().take(500).collect()
}
