//! Chat templates: messages in, prompt text out, as Hugging Face renders them.
//!
//! Templates are Jinja programs from the model's files, so they are untrusted: instructions, recursion and output size are
//! limited. MiniJinja runs them, with Python's string and dictionary methods, and with the globals, filters and whitespace
//! settings of Hugging Face's `apply_chat_template`, on whose exact output models depend. Templates differ in whether they
//! read message content as a string or as a list of parts; that is probed once, so that callers may pass either.

mod dialect;

use std::io;
use std::time::SystemTime;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, Value as Jinja};
use serde_json::{Map, Value};

use super::pyjson;
use super::strftime::strftime;

/// Instructions one rendering may take; long conversations with tools need some ten thousand.
const FUEL: u64 = 20_000_000;
/// Bytes one rendering may write.
const MAX_OUTPUT: usize = 64 << 20;
/// Nesting of messages and tools.
const MAX_DEPTH: usize = 128;
const TEMPLATE_NAME: &str = "chat_template";

/// A template that cannot be used, or messages it does not take.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ChatError {
    /// The template is not valid Jinja.
    #[error("chat template, line {line}: {detail}")]
    Syntax {
        /// Line in the template, from 1.
        line: usize,
        /// The parser's message.
        detail: String,
    },
    /// The template refused the messages with `raise_exception`. The text is the model author's, unchanged.
    #[error("{message}")]
    Raised {
        /// Argument of `raise_exception`.
        message: String,
    },
    /// The template failed on these messages.
    #[error("chat template, line {line}: {detail}")]
    Render {
        /// Line in the template, from 1; 0 if unknown.
        line: usize,
        /// The engine's message.
        detail: String,
    },
    /// The template ran too long, recursed too deep or wrote too much.
    #[error("chat template stopped: {limit}")]
    LimitExceeded {
        /// The limit, in words.
        limit: &'static str,
    },
    /// A message has the wrong shape.
    #[error("messages[{index}]: {detail}")]
    Message {
        /// Place in the list.
        index: usize,
        /// What is wrong.
        detail: String,
    },
    /// Messages, tools or variables are nested too deeply.
    #[error("{field} is nested deeper than {MAX_DEPTH} levels")]
    TooDeep {
        /// Which input.
        field: String,
    },
}

/// What a prompt is rendered from.
#[derive(Debug, Clone)]
pub struct ChatRequest<'a> {
    /// Objects with `role`, `content` (string, list of parts or null), and whatever else the template reads,
    /// such as `tool_calls`.
    pub messages: &'a [Value],
    /// Tool schemas; the template sees `none` if there are none.
    pub tools: Option<&'a [Value]>,
    /// Whether the prompt ends where the assistant's answer begins.
    pub add_generation_prompt: bool,
    /// Further variables (`chat_template_kwargs`), such as `enable_thinking`. They cannot replace the ones above.
    pub variables: Option<&'a Map<String, Value>>,
    /// The time `strftime_now` sees; None means now.
    pub now: Option<SystemTime>,
}

impl<'a> ChatRequest<'a> {
    /// A request for the assistant's answer to `messages`, without tools.
    pub fn new(messages: &'a [Value]) -> Self {
        Self { messages, tools: None, add_generation_prompt: true, variables: None, now: None }
    }
}

/// How a template reads the content of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ContentForm {
    /// As a string only: parts are joined.
    Text,
    /// As a list of parts only: strings are wrapped.
    Parts,
    /// Either, or unknown: content is passed on as it is.
    Any,
}

/// A parsed chat template with the special tokens it may write.
#[derive(Debug)]
pub struct ChatTemplate {
    source: String,
    environment: Environment<'static>,
    special_tokens: Vec<(String, String)>,
    content: ContentForm,
}

impl ChatTemplate {
    /// Parses `source`. `special_tokens` are pairs such as `("bos_token", "<s>")`; leave out those the model lacks.
    ///
    /// # Errors
    /// A syntax error, with its line.
    pub fn new<'t>(
        source: &str,
        special_tokens: impl IntoIterator<Item = (&'t str, &'t str)>,
    ) -> Result<Self, ChatError> {
        let mut environment = environment();
        environment
            .add_template_owned(TEMPLATE_NAME, dialect::translate(source))
            .map_err(|e| ChatError::Syntax { line: e.line().unwrap_or(1), detail: describe(&e) })?;
        let special_tokens = special_tokens.into_iter().map(|(n, t)| (n.to_owned(), t.to_owned())).collect();
        let mut template = Self { source: source.to_owned(), environment, special_tokens, content: ContentForm::Any };
        template.content = template.probe_content_form();
        Ok(template)
    }

    /// The template as it was given.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The prompt for `request`. Its special tokens are written out, so encode it without adding any.
    ///
    /// # Errors
    /// What the template raises ([`ChatError::Raised`]), failures, exceeded limits, malformed messages.
    pub fn render(&self, request: &ChatRequest<'_>) -> Result<String, ChatError> {
        let messages = request.messages.iter().enumerate().map(|(i, m)| self.adapt_message(i, m));
        let messages = messages.collect::<Result<Vec<Value>, ChatError>>()?;
        self.run(&messages, request)
    }

    fn run(&self, messages: &[Value], request: &ChatRequest<'_>) -> Result<String, ChatError> {
        let now = request.now;
        let mut variables: Vec<(String, Jinja)> = Vec::new();
        for (name, token) in &self.special_tokens {
            variables.push((name.clone(), Jinja::from(token.as_str())));
        }
        for (name, value) in request.variables.into_iter().flatten() {
            variables.push((name.clone(), jinja_value(name, value)?));
        }
        variables.push(("messages".to_owned(), jinja_list("messages", messages)?));
        let tools = request.tools.map(|tools| jinja_list("tools", tools)).transpose()?;
        variables.push(("tools".to_owned(), tools.unwrap_or_else(|| Jinja::from(()))));
        if request.variables.is_none_or(|v| !v.contains_key("documents")) {
            variables.push(("documents".to_owned(), Jinja::from(())));
        }
        variables.push(("add_generation_prompt".to_owned(), Jinja::from(request.add_generation_prompt)));
        variables
            .push(("strftime_now".to_owned(), Jinja::from_function(move |pattern: &str| strftime_at(now, pattern))));

        let mut output = LimitedOutput::default();
        let template = self.environment.get_template(TEMPLATE_NAME).map_err(|e| classify(&e))?;
        match template.render_captured_to(Jinja::from_pairs(variables), &mut output) {
            Ok(_) => Ok(String::from_utf8_lossy(&output.bytes).into_owned()),
            Err(_) if output.full => Err(ChatError::LimitExceeded { limit: "the prompt exceeds 64 MiB" }),
            Err(error) => Err(classify(&error)),
        }
    }

    /// Renders one message as string and as parts. Whichever shows its text is understood.
    fn probe_content_form(&self) -> ContentForm {
        const MARK: &str = "probe-6f1c";
        let render = |content: Value| {
            let message = serde_json::json!({"role": "user", "content": content});
            self.run(&[message], &ChatRequest { add_generation_prompt: false, ..ChatRequest::new(&[]) }).ok()
        };
        let text = render(Value::from(MARK)).filter(|prompt| prompt.contains(MARK));
        // A template that prints the list itself shows the text too, but together with the key.
        let parts = render(serde_json::json!([{"type": "text", "text": MARK}]))
            .filter(|prompt| prompt.contains(MARK) && !prompt.contains("'text'") && !prompt.contains("\"text\""));
        match (text, parts) {
            (Some(_), None) => ContentForm::Text,
            (None, Some(_)) => ContentForm::Parts,
            _ => ContentForm::Any,
        }
    }

    /// Brings the content of `message` into the form that the template reads.
    fn adapt_message(&self, index: usize, message: &Value) -> Result<Value, ChatError> {
        let wrong = |detail: &str| ChatError::Message { index, detail: detail.to_owned() };
        let fields = message.as_object().ok_or_else(|| wrong("must be an object"))?;
        if !fields.get("role").is_some_and(Value::is_string) {
            return Err(wrong("role must be a string"));
        }
        let adapted = match (self.content, fields.get("content")) {
            (_, None | Some(Value::Null)) | (ContentForm::Any, Some(Value::String(_) | Value::Array(_))) => None,
            (ContentForm::Text, Some(Value::String(_))) | (ContentForm::Parts, Some(Value::Array(_))) => None,
            (ContentForm::Text, Some(Value::Array(parts))) => Some(Value::from(joined_text(index, parts)?)),
            (ContentForm::Parts, Some(Value::String(text))) => {
                Some(serde_json::json!([{"type": "text", "text": text}]))
            }
            _ => return Err(wrong("content must be a string, a list of parts or null")),
        };
        let mut message = message.clone();
        if let Some(content) = adapted {
            message["content"] = content;
        }
        Ok(message)
    }
}

/// The text of all parts, a line break between them, for templates that read strings only.
fn joined_text(index: usize, parts: &[Value]) -> Result<String, ChatError> {
    let text = |(place, part): (usize, &Value)| match (part.as_str(), part["text"].as_str()) {
        (Some(text), _) | (None, Some(text)) => Ok(text.to_owned()),
        (None, None) => {
            let kind = part["type"].as_str().unwrap_or("unknown");
            let detail = format!("content[{place}] is of type {kind}, but this model's template takes text only");
            Err(ChatError::Message { index, detail })
        }
    };
    Ok(parts.iter().enumerate().map(text).collect::<Result<Vec<_>, _>>()?.join("\n"))
}

/// The engine as Hugging Face configures Jinja, plus limits.
fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("the default delimiters are valid"));
    environment.set_fuel(Some(FUEL));
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_filter("tojson", pyjson::tojson);
    // The engine lets none pass as an empty list; templates ask `tools is iterable and tools | length > 0`.
    environment.add_test("iterable", |value: &Jinja| !value.is_none() && value.try_iter().is_ok());
    environment.add_function("raise_exception", |message: String| -> Result<Jinja, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, "raised by the template").with_source(Raised(message)))
    });
    environment
}

/// The argument of `raise_exception` on its way through the engine.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

fn strftime_at(now: Option<SystemTime>, pattern: &str) -> Result<String, Error> {
    strftime(now.unwrap_or_else(SystemTime::now), pattern).map_err(|directive| {
        Error::new(ErrorKind::InvalidOperation, format!("strftime_now does not know the directive {directive}"))
    })
}

fn classify(error: &Error) -> ChatError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(current) = cause {
        if let Some(Raised(message)) = current.downcast_ref() {
            return ChatError::Raised { message: message.clone() };
        }
        if current.downcast_ref::<Error>().is_some_and(|e| e.kind() == ErrorKind::OutOfFuel) {
            return ChatError::LimitExceeded { limit: "it ran 20 million instructions without an end" };
        }
        cause = current.source();
    }
    let detail = describe(error);
    if detail.contains("recursion limit") {
        return ChatError::LimitExceeded { limit: "it recursed too deeply" };
    }
    ChatError::Render { line: error.line().unwrap_or(0), detail }
}

/// Kind and detail, without the place, which has its own field.
fn describe(error: &Error) -> String {
    match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    }
}

fn jinja_list(field: &str, values: &[Value]) -> Result<Jinja, ChatError> {
    let items = values.iter().enumerate().map(|(i, value)| jinja_value(&format!("{field}[{i}]"), value));
    Ok(Jinja::from(items.collect::<Result<Vec<_>, _>>()?))
}

fn jinja_value(field: &str, value: &Value) -> Result<Jinja, ChatError> {
    convert(value, MAX_DEPTH).ok_or_else(|| ChatError::TooDeep { field: field.to_owned() })
}

/// Keeps the order of keys. None if nested deeper than `depth`.
fn convert(value: &Value, depth: usize) -> Option<Jinja> {
    let inner = depth.checked_sub(1)?;
    Some(match value {
        Value::Null => Jinja::from(()),
        Value::Bool(flag) => Jinja::from(*flag),
        Value::String(text) => Jinja::from(text.as_str()),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(signed), _) => Jinja::from(signed),
            (None, Some(unsigned)) => Jinja::from(unsigned),
            (None, None) => Jinja::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::Array(items) => Jinja::from(items.iter().map(|item| convert(item, inner)).collect::<Option<Vec<_>>>()?),
        Value::Object(fields) => {
            let pairs = fields.iter().map(|(key, item)| Some((key.as_str(), convert(item, inner)?)));
            Jinja::from_pairs(pairs.collect::<Option<Vec<_>>>()?)
        }
    })
}

/// A writer that refuses to grow beyond [`MAX_OUTPUT`].
#[derive(Default)]
struct LimitedOutput {
    bytes: Vec<u8>,
    full: bool,
}

impl io::Write for LimitedOutput {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + data.len() > MAX_OUTPUT {
            self.full = true;
            return Err(io::Error::other("output limit"));
        }
        self.bytes.extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
