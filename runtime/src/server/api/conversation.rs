//! From a conversation to a prompt: what chat/completions, responses and messages have in common.
//!
//! Each of those endpoints brings its messages into OpenAI's chat form; the chat template and the model's answer format do
//! the rest. Preparing may take long (a long text to encode, a grammar to compile), so it runs outside the threads that
//! serve connections.

use serde_json::{Map, Value};

use super::format::Wanted;
use crate::constrain::GrammarError;
use crate::server::error::ApiError;
use crate::server::models::{LoadedModel, ModelHandle};
use crate::serving::TokenConstraint;
use crate::text::ChatRequest;
use crate::text::tools::{AnswerParser, ToolChoice, ToolError, ToolSet};

/// Where a prompt ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PromptEnd {
    /// Where the assistant's answer begins.
    Answer,
    /// Within the last message, which the answer continues.
    LastMessage,
    /// Behind the last message.
    Messages,
}

/// A conversation to be answered.
pub(crate) struct Conversation {
    /// Messages in OpenAI's chat form.
    pub messages: Vec<Value>,
    /// Tools the model may call.
    pub tools: Option<ToolSet>,
    /// The format the answer is held to.
    pub wanted: Option<Wanted>,
    /// Further variables of the template.
    pub variables: Map<String, Value>,
    /// Where the prompt ends.
    pub end: PromptEnd,
}

/// A conversation as the engine takes it.
pub(crate) struct Prepared {
    /// The prompt.
    pub tokens: Vec<u32>,
    /// Restricts the answers.
    pub constraint: Option<Box<dyn TokenConstraint>>,
    /// Tells content, reasoning and tool calls of an answer apart.
    pub parser: AnswerParser,
}

impl Conversation {
    /// Whether answers are restricted.
    pub fn is_constrained(&self) -> bool {
        self.wanted.is_some() || self.tools.as_ref().is_some_and(|tools| *tools.choice() != ToolChoice::Auto)
    }

    /// Refuses a format where the model may call tools: a call has none of that format.
    pub fn check(&self) -> Result<(), ApiError> {
        match (&self.wanted, &self.tools) {
            (Some(wanted), Some(_)) => {
                let param = wanted.param.split('.').next().unwrap_or_default();
                let message = format!(
                    "{param} restricts the answer and cannot be combined with tools, unless tool_choice is none"
                );
                Err(ApiError::unsupported(param, message))
            }
            _ => Ok(()),
        }
    }

    /// The prompt's text.
    fn render(&self, model: &LoadedModel) -> Result<String, ApiError> {
        let format = model.format()?;
        let template = model.template.as_ref().ok_or_else(|| ApiError::internal("a format without a template"))?;
        let request = ChatRequest {
            messages: &self.messages,
            tools: self.tools.as_ref().map(ToolSet::definitions),
            add_generation_prompt: self.end == PromptEnd::Answer,
            variables: Some(&self.variables),
            now: None,
        };
        let mut text = format.render(template, &request)?;
        if self.end == PromptEnd::LastMessage {
            cut_after_last_message(&mut text, &self.messages)?;
        }
        Ok(text)
    }

    /// Builds the prompt's tokens, the constraint and the parser. Blocking.
    fn prepare(&self, model: &LoadedModel) -> Result<Prepared, ApiError> {
        self.check()?;
        let text = self.render(model)?;
        let tokens = model.tokenizer.encode(&text, false)?;
        if tokens.is_empty() {
            return Err(ApiError::invalid("messages", "the chat template made no prompt of these messages"));
        }
        let format = model.format()?;
        let wanted = match (&self.tools, &self.wanted) {
            (Some(tools), _) => {
                let grammar = format.call_grammar(&text, tools).map_err(|error| grammar_error("tools", &error))?;
                grammar.map(|grammar| Wanted::new("tools", grammar))
            }
            (None, Some(wanted)) => {
                let grammar = format.answer_grammar(&text, wanted.grammar.clone());
                let grammar = grammar.map_err(|error| grammar_error(&wanted.param, &error))?;
                Some(Wanted::new(wanted.param.clone(), grammar))
            }
            (None, None) => None,
        };
        let constraint = wanted.map(|wanted| compile(model, &wanted)).transpose()?;
        Ok(Prepared { tokens, constraint, parser: format.parser(&text, self.tools.as_ref()) })
    }
}

/// Compiles the grammar a request asks for. Blocking.
pub(crate) fn compile(model: &LoadedModel, wanted: &Wanted) -> Result<Box<dyn TokenConstraint>, ApiError> {
    model.grammars()?.compile(&wanted.grammar).map_err(|error| grammar_error(&wanted.param, &error))
}

fn grammar_error(param: &str, error: &GrammarError) -> ApiError {
    match error.is_internal() {
        true => ApiError::internal(error.to_string()),
        false => ApiError::invalid(param, format!("{param}: {error}")),
    }
}

/// Ends the prompt within the last message, so that the answer continues it.
fn cut_after_last_message(text: &mut String, messages: &[Value]) -> Result<(), ApiError> {
    let param = "continue_final_message";
    let content = match messages.last().map(|message| &message["content"]) {
        Some(Value::String(content)) => content.as_str(),
        Some(Value::Array(parts)) => parts.last().and_then(|part| part["text"].as_str()).unwrap_or_default(),
        _ => "",
    };
    // Templates may trim contents; what they trimmed is not in the prompt.
    let content = content.trim();
    if content.is_empty() {
        return Err(ApiError::invalid(param, "there is no text in the last message that could be continued"));
    }
    let at = text.rfind(content).ok_or_else(|| {
        ApiError::unsupported(param, "this model's chat template does not write the last message as it is given")
    })?;
    text.truncate(at + content.len());
    Ok(())
}

/// Prepares a conversation on a thread that may block.
pub(crate) async fn prepare(model: &ModelHandle, conversation: Conversation) -> Result<Prepared, ApiError> {
    let model = model.clone();
    blocking(move || conversation.prepare(&model)).await
}

/// Runs what may take long on a thread that may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(ApiError::internal(format!("preparing the request failed: {error}"))),
    }
}

/// The tools of a request.
pub(crate) fn tool_set(
    tools: Option<&[Value]>,
    choice: Option<&Value>,
    parallel: Option<bool>,
) -> Result<Option<ToolSet>, ApiError> {
    let tools = tools.unwrap_or_default();
    let is_none = choice.and_then(Value::as_str) == Some("none");
    if tools.is_empty() && choice.is_some_and(|c| c.as_str() != Some("auto")) && !is_none {
        return Err(ApiError::invalid("tool_choice", "tool_choice needs tools"));
    }
    ToolSet::new(tools, choice, parallel.unwrap_or(true))
        .map_err(|ToolError { field, message }| ApiError::invalid(field, message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_last_message_is_continued_where_it_ends() {
        let mut text = "<u>as is</u><a> as is, and </a>\n".to_owned();
        let messages =
            [json!({"role": "user", "content": "as is"}), json!({"role": "assistant", "content": "as is, and "})];
        cut_after_last_message(&mut text, &messages).expect("found");
        assert_eq!(text, "<u>as is</u><a> as is, and");
        for content in [json!(""), json!(null), json!("other"), json!([])] {
            let error = cut_after_last_message(&mut text, &[json!({"content": content})]).expect_err("nothing there");
            assert_eq!(error.param.as_deref(), Some("continue_final_message"));
        }
    }

    #[test]
    fn a_choice_without_tools_is_refused() {
        for choice in [json!("required"), json!({"type": "function", "function": {"name": "f"}})] {
            let error = tool_set(None, Some(&choice), None).expect_err("no tools");
            assert_eq!(error.param.as_deref(), Some("tool_choice"));
        }
        for choice in [None, Some(json!("auto")), Some(json!("none"))] {
            assert!(tool_set(None, choice.as_ref(), None).expect("no tools needed").is_none());
        }
    }
}
