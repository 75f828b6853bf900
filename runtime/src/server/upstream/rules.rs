//! Which requests go to another server.
//!
//! A rule is conditions joined by commas, all of which must hold; a request goes upstream if any rule does:
//!
//! | condition | holds for requests |
//! |---|---|
//! | `context` | whose prompt and answer exceed this server's longest sequence |
//! | `tokens>N`, `tokens>=N` | whose prompt has more than (at least) N tokens, `4k` being 4096 |
//! | `tools` | that offer tools |
//! | `model:NAME` | for this model; a `*` at the end stands for any rest |
//! | `unknown-model` | for a model this server does not have |

use std::str::FromStr;

use crate::cli::parse_count;

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteRule(Vec<Condition>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Condition {
    Context,
    /// At least so many tokens.
    Tokens(u64),
    Tools,
    /// A name, or the beginning of one.
    Model {
        name: String,
        prefix: bool,
    },
    UnknownModel,
}

/// A word that is no rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown condition {0:?}; a rule is context, tokens>N, tools, model:NAME or unknown-model, or several joined by commas"
)]
pub struct RuleError(String);

/// What is known of a request before its prompt is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Outline {
    pub model: String,
    pub model_known: bool,
    pub tools: bool,
}

/// What is known of it afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PromptSize {
    pub prompt_tokens: u64,
    /// With the answer.
    pub total_tokens: u64,
    pub max_model_len: u64,
}

impl RouteRule {
    /// Whether it holds; `None` if that depends on the prompt, which is not known yet.
    pub(super) fn holds(&self, outline: &Outline, size: Option<PromptSize>) -> Option<bool> {
        let mut known = true;
        for condition in &self.0 {
            match condition.holds(outline, size) {
                Some(true) => {}
                Some(false) => return Some(false),
                None => known = false,
            }
        }
        known.then_some(true)
    }
}

impl Condition {
    fn holds(&self, outline: &Outline, size: Option<PromptSize>) -> Option<bool> {
        match self {
            Condition::Context => size.map(|size| size.total_tokens > size.max_model_len),
            Condition::Tokens(least) => size.map(|size| size.prompt_tokens >= *least),
            Condition::Tools => Some(outline.tools),
            Condition::Model { name, prefix: false } => Some(outline.model == *name),
            Condition::Model { name, prefix: true } => Some(outline.model.starts_with(name.as_str())),
            Condition::UnknownModel => Some(!outline.model_known),
        }
    }
}

impl FromStr for RouteRule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<RouteRule, RuleError> {
        text.split(',').map(|word| condition(word.trim())).collect::<Result<Vec<_>, _>>().map(RouteRule)
    }
}

fn condition(word: &str) -> Result<Condition, RuleError> {
    let unknown = || RuleError(word.into());
    if let Some(name) = word.strip_prefix("model:").filter(|name| !name.is_empty()) {
        let prefix = name.strip_suffix('*');
        return Ok(Condition::Model { name: prefix.unwrap_or(name).into(), prefix: prefix.is_some() });
    }
    if let Some(bound) = word.strip_prefix("tokens>") {
        let (digits, more) = bound.strip_prefix('=').map_or((bound, 1), |digits| (digits, 0));
        let count = match digits.trim() {
            "0" => 0,
            digits => parse_count(digits).map_err(|_| unknown())?,
        };
        return count.checked_add(more).map(Condition::Tokens).ok_or_else(unknown);
    }
    match word {
        "context" => Ok(Condition::Context),
        "tools" => Ok(Condition::Tools),
        "unknown-model" => Ok(Condition::UnknownModel),
        _ => Err(unknown()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(rule: &str, outline: &Outline, prompt: Option<(u64, u64)>) -> Option<bool> {
        let size = |(prompt_tokens, total_tokens)| PromptSize { prompt_tokens, total_tokens, max_model_len: 100 };
        rule.parse::<RouteRule>().unwrap().holds(outline, prompt.map(size))
    }

    #[test]
    fn conditions_hold_where_they_say() {
        let outline = Outline { model: "gpt-x".into(), model_known: false, tools: true };
        assert_eq!(holds("context", &outline, Some((90, 101))), Some(true));
        assert_eq!(holds("context", &outline, Some((90, 100))), Some(false));
        assert_eq!(holds("tokens>90", &outline, Some((90, 91))), Some(false));
        assert_eq!(holds("tokens>=90", &outline, Some((90, 91))), Some(true));
        assert_eq!(holds("tokens>1k", &outline, Some((1025, 1026))), Some(true));
        for (rule, expected) in [
            ("tools", true),
            ("model:gpt-x", true),
            ("model:gpt", false),
            ("model:gpt*", true),
            ("model:*", true),
            ("unknown-model", true),
            ("tools, model:other", false),
        ] {
            assert_eq!(holds(rule, &outline, None), Some(expected), "{rule}");
        }
    }

    #[test]
    fn rules_about_prompts_wait_for_them() {
        let outline = Outline { model: "a".into(), model_known: true, tools: false };
        assert_eq!(holds("context", &outline, None), None);
        assert_eq!(holds("tokens>5,model:a", &outline, None), None);
        assert_eq!(holds("tokens>5,model:b", &outline, None), Some(false));
        assert_eq!(holds("tokens>5,model:a", &outline, Some((6, 7))), Some(true));
    }

    #[test]
    fn other_words_are_no_rules() {
        for wrong in
            ["", "context,", "tokens>", "tokens>x", "tokens<5", "model:", "Tools", "tokens>18446744073709551615"]
        {
            assert!(wrong.parse::<RouteRule>().is_err(), "{wrong}");
        }
    }
}
