//! Tools, calls and their results in prompts.

use std::borrow::Cow;

use serde_json::{Map, Value, json};

use super::AnswerFormat;
use super::format::Prompting;
use crate::text::{ChatError, ChatRequest, ChatTemplate};

impl AnswerFormat {
    /// The prompt for `request`, as [`ChatTemplate::render`], with tools, earlier calls and their results in the form that the
    /// template knows. A template that knows none gets them as text, with a system message that describes the tools.
    ///
    /// # Errors
    /// Those of the template, and malformed calls in messages.
    pub fn render(&self, template: &ChatTemplate, request: &ChatRequest<'_>) -> Result<String, ChatError> {
        match self.shape.prompting {
            Prompting::Template { arguments_as_text } => {
                let messages = each_with_calls(request.messages, |index, message| {
                    with_arguments(index, message, arguments_as_text)
                })?;
                template.render(&ChatRequest { messages: &messages, ..request.clone() })
            }
            Prompting::SystemMessage => {
                let mut messages = each_with_calls(request.messages, calls_as_text)?.into_owned();
                for message in messages.iter_mut().filter(|m| m["role"] == "tool") {
                    *message = result_as_text(message);
                }
                if let Some(tools) = request.tools.filter(|t| !t.is_empty()) {
                    add_description(&mut messages, tools);
                }
                template.render(&ChatRequest { messages: &messages, tools: None, ..request.clone() })
            }
        }
    }
}

/// The messages, those with calls changed.
fn each_with_calls<'a>(
    messages: &'a [Value],
    change: impl Fn(usize, &Value) -> Result<Value, ChatError>,
) -> Result<Cow<'a, [Value]>, ChatError> {
    let has_calls = |m: &Value| m.get("tool_calls").is_some_and(|calls| !calls.is_null());
    let is_result = |m: &Value| m["role"] == "tool";
    if !messages.iter().any(|m| has_calls(m) || is_result(m)) {
        return Ok(Cow::Borrowed(messages));
    }
    let change = |(index, message): (usize, &Value)| {
        if has_calls(message) { change(index, message) } else { Ok(message.clone()) }
    };
    Ok(Cow::Owned(messages.iter().enumerate().map(change).collect::<Result<_, _>>()?))
}

fn wrong(index: usize, detail: String) -> ChatError {
    ChatError::Message { index, detail }
}

/// The calls of a message: place, name, arguments as JSON text.
fn calls_of(index: usize, message: &Value) -> Result<Vec<(String, String)>, ChatError> {
    let calls = message["tool_calls"].as_array().ok_or_else(|| wrong(index, "tool_calls must be a list".into()))?;
    let call = |(place, call): (usize, &Value)| {
        let function = &call["function"];
        let name = function["name"].as_str();
        let name = name.ok_or_else(|| wrong(index, format!("tool_calls[{place}].function.name must be a string")))?;
        let arguments = match &function["arguments"] {
            Value::Null => "{}".to_owned(),
            Value::String(text) if text.trim().is_empty() => "{}".to_owned(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        Ok((name.to_owned(), arguments))
    };
    calls.iter().enumerate().map(call).collect()
}

/// The message with the arguments of its calls as text, or as objects where they are some.
fn with_arguments(index: usize, message: &Value, as_text: bool) -> Result<Value, ChatError> {
    let calls = calls_of(index, message)?;
    let mut message = message.clone();
    for (place, (_, text)) in calls.into_iter().enumerate() {
        let object = serde_json::from_str::<Map<String, Value>>(&text).ok().filter(|_| !as_text);
        message["tool_calls"][place]["function"]["arguments"] = object.map_or(Value::String(text), Value::Object);
    }
    Ok(message)
}

/// The message with its calls written out behind its text.
fn calls_as_text(index: usize, message: &Value) -> Result<Value, ChatError> {
    let mut text = text_of(&message["content"]);
    for (name, arguments) in calls_of(index, message)? {
        if !text.is_empty() {
            text.push('\n');
        }
        let name = Value::from(name);
        text += &format!("<tool_call>\n{{\"name\": {name}, \"arguments\": {arguments}}}\n</tool_call>");
    }
    Ok(json!({"role": message["role"], "content": text}))
}

fn result_as_text(message: &Value) -> Value {
    let content = format!("<tool_response>\n{}\n</tool_response>", text_of(&message["content"]));
    json!({"role": "user", "content": content})
}

fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join("\n"),
        _ => String::new(),
    }
}

/// Describes the tools in the system message; adds one where there is none.
fn add_description(messages: &mut Vec<Value>, tools: &[Value]) {
    let description = description(tools);
    match messages.first_mut().filter(|m| m["role"] == "system" || m["role"] == "developer") {
        Some(system) => {
            let text = text_of(&system["content"]);
            system["content"] = format!("{text}\n\n{description}").into();
        }
        None => messages.insert(0, json!({"role": "system", "content": description})),
    }
}

fn description(tools: &[Value]) -> String {
    let functions: Vec<String> = tools.iter().map(|tool| tool["function"].to_string()).collect();
    format!(
        "You can call functions. These are the functions, each with a JSON schema of its arguments:\n<tools>\n{}\n</tools>\n\
         To call a function, write its name and arguments as JSON between tags:\n\
         <tool_call>\n{{\"name\": \"the function\", \"arguments\": {{\"an argument\": \"its value\"}}}}\n</tool_call>\n\
         Results come back between <tool_response> tags. Call a function only if it helps to answer.",
        functions.join("\n")
    )
}
