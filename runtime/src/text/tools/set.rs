//! The tools of a request, in OpenAI's terms.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

/// Most tools of a request.
const MAX_TOOLS: usize = 128;
const MAX_NAME: usize = 64;

/// A field that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct ToolError {
    /// Where, such as `tools[1].function.name`.
    pub field: String,
    /// What it must be.
    pub message: String,
}

impl ToolError {
    fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}

/// Whether the model must call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToolChoice {
    /// It may.
    Auto,
    /// It must, some tool.
    Required,
    /// It must, this tool.
    Named(String),
}

/// The tools of a request that the model may call.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolSet {
    definitions: Vec<Value>,
    choice: ToolChoice,
    parallel: bool,
}

impl ToolSet {
    /// Checks `tools` and `tool_choice`, in the form of either of OpenAI's APIs; `parallel` allows several calls in an answer.
    /// `None` if there are no tools, or none may be called.
    ///
    /// # Errors
    /// A field is malformed, unknown, or names a tool that does not exist.
    pub fn new(tools: &[Value], choice: Option<&Value>, parallel: bool) -> Result<Option<ToolSet>, ToolError> {
        if tools.len() > MAX_TOOLS {
            return Err(ToolError::new("tools", format!("{} tools, at most {MAX_TOOLS} are taken", tools.len())));
        }
        let mut definitions = tools.iter().enumerate().map(|(i, t)| definition(i, t)).collect::<Result<Vec<_>, _>>()?;
        let mut names = HashSet::new();
        for (i, tool) in definitions.iter().enumerate() {
            if !names.insert(name_of(tool)) {
                return Err(ToolError::new(
                    format!("tools[{i}]"),
                    format!("another tool is named {:?}", name_of(tool)),
                ));
            }
        }
        let Some((choice, allowed)) = read_choice(choice, &names)? else { return Ok(None) };
        if let Some(allowed) = allowed {
            definitions.retain(|tool| allowed.contains(name_of(tool)));
        }
        match (definitions.is_empty(), &choice) {
            (true, ToolChoice::Auto) => Ok(None),
            (true, _) => Err(ToolError::new("tool_choice", "there are no tools to choose from")),
            (false, _) => Ok(Some(ToolSet { definitions, choice, parallel })),
        }
    }

    /// The tools, each as `{"type": "function", "function": {"name", "description", "parameters"}}`.
    pub fn definitions(&self) -> &[Value] {
        &self.definitions
    }

    /// Whether the model must call.
    pub fn choice(&self) -> &ToolChoice {
        &self.choice
    }

    /// Whether an answer may hold several calls.
    pub fn parallel(&self) -> bool {
        self.parallel
    }

    /// Names of the tools.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.definitions.iter().map(name_of)
    }

    /// Name, schema of the arguments, and whether they must keep to it, of each tool that the choice leaves.
    pub(super) fn chosen(&self) -> impl Iterator<Item = (&str, &Value, bool)> {
        let named = match &self.choice {
            ToolChoice::Named(name) => Some(name.as_str()),
            ToolChoice::Auto | ToolChoice::Required => None,
        };
        let tools = self.definitions.iter().filter(move |t| named.is_none_or(|n| n == name_of(t)));
        tools.map(|t| (name_of(t), &t["function"]["parameters"], t["function"]["strict"] == true))
    }
}

fn name_of(tool: &Value) -> &str {
    tool["function"]["name"].as_str().unwrap_or_default()
}

/// A tool in the chat API's form, checked.
fn definition(index: usize, tool: &Value) -> Result<Value, ToolError> {
    let place = format!("tools[{index}]");
    let fields = tool.as_object().ok_or_else(|| ToolError::new(&place, "must be an object"))?;
    if fields.get("type").is_none_or(|t| t != "function") {
        return Err(ToolError::new(format!("{place}.type"), "only \"function\" is known"));
    }
    match fields.get("function") {
        Some(function) => {
            known_fields(&place, fields, &["type", "function"])?;
            let place = format!("{place}.function");
            let function = function.as_object().ok_or_else(|| ToolError::new(&place, "must be an object"))?;
            checked_function(&place, function, &["name", "description", "parameters", "strict"])
        }
        None => checked_function(&place, fields, &["type", "name", "description", "parameters", "strict"]),
    }
}

fn checked_function(place: &str, fields: &Map<String, Value>, known: &[&str]) -> Result<Value, ToolError> {
    known_fields(place, fields, known)?;
    let wrong = |field: &str, message: &str| ToolError::new(format!("{place}.{field}"), message);
    let name = fields.get("name").and_then(Value::as_str).filter(|name| is_name(name));
    let name = name.ok_or_else(|| wrong("name", "must be 1 to 64 letters, digits, underscores, dots and dashes"))?;
    let mut function = json!({"name": name});
    match fields.get("description") {
        None | Some(Value::Null) => {}
        Some(Value::String(text)) => function["description"] = text.as_str().into(),
        Some(_) => return Err(wrong("description", "must be a string")),
    }
    function["parameters"] = match fields.get("parameters") {
        None | Some(Value::Null) => json!({"type": "object", "properties": {}}),
        Some(schema @ Value::Object(_)) => schema.clone(),
        Some(_) => return Err(wrong("parameters", "must be a JSON schema, an object")),
    };
    match fields.get("strict") {
        None | Some(Value::Null | Value::Bool(false)) => {}
        Some(Value::Bool(true)) => function["strict"] = true.into(),
        Some(_) => return Err(wrong("strict", "must be a boolean")),
    }
    Ok(json!({"type": "function", "function": function}))
}

fn is_name(name: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    (1..=MAX_NAME).contains(&name.len()) && name.chars().all(known)
}

fn known_fields(place: &str, fields: &Map<String, Value>, known: &[&str]) -> Result<(), ToolError> {
    match fields.keys().find(|key| !known.contains(&key.as_str())) {
        Some(key) => Err(ToolError::new(format!("{place}.{key}"), format!("unknown; known are {}", known.join(", ")))),
        None => Ok(()),
    }
}

/// The choice, and the tools that it leaves where it lists them; `None` for none.
type Choice = Option<(ToolChoice, Option<HashSet<String>>)>;

fn read_choice(choice: Option<&Value>, names: &HashSet<&str>) -> Result<Choice, ToolError> {
    let wrong = |message: String| ToolError::new("tool_choice", message);
    let mode = |mode: &Value| match mode.as_str() {
        Some("none") => Ok(None),
        Some("auto") => Ok(Some(ToolChoice::Auto)),
        Some("required") => Ok(Some(ToolChoice::Required)),
        _ => Err(wrong("expected none, auto, required, or an object that names a function".into())),
    };
    let function = |tool: &Value| {
        let name = tool["function"]["name"].as_str().or(tool["name"].as_str());
        let name = name.filter(|_| tool["type"] == "function");
        let name =
            name.ok_or_else(|| wrong("expected {\"type\": \"function\", \"function\": {\"name\": …}}".into()))?;
        if names.contains(name) { Ok(name.to_owned()) } else { Err(wrong(format!("there is no tool {name:?}"))) }
    };
    match choice {
        None | Some(Value::Null) => Ok(Some((ToolChoice::Auto, None))),
        Some(Value::Object(fields)) if fields.get("type").is_some_and(|t| t == "allowed_tools") => {
            let list = fields.get("allowed_tools").and_then(Value::as_object).unwrap_or(fields);
            let tools = list.get("tools").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            let allowed = tools.iter().map(function).collect::<Result<HashSet<String>, ToolError>>()?;
            let chosen = mode(list.get("mode").unwrap_or(&Value::Null))?;
            Ok(chosen.map(|choice| (choice, Some(allowed))))
        }
        Some(tool @ Value::Object(_)) => Ok(Some((ToolChoice::Named(function(tool)?), None))),
        Some(other) => Ok(mode(other)?.map(|choice| (choice, None))),
    }
}
