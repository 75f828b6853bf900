//! Formats that answers are held to: JSON, a JSON schema, a regular expression, a choice, a grammar.
//!
//! They reach the engine as one grammar. Which fields name them is OpenAI's (`response_format`) or vLLM's
//! (`structured_outputs`, `guided_*`); a request may use one of them.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::constrain::Grammar;
use crate::server::error::ApiError;

/// Longest name of a schema.
const MAX_NAME: usize = 64;

/// OpenAI's `response_format`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ResponseFormat {
    /// `text`, `json_object` or `json_schema`.
    #[serde(rename = "type")]
    pub kind: FormatKind,
    /// The schema, with `json_schema`.
    #[serde(default)]
    pub json_schema: Option<NamedSchema>,
}

/// The kinds of formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FormatKind {
    /// No restriction.
    Text,
    /// Any JSON object.
    JsonObject,
    /// A value of a schema.
    JsonSchema,
}

/// A JSON schema and its name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NamedSchema {
    /// Letters, digits, `_` and `-`.
    #[schema(min_length = 1, max_length = 64, pattern = "^[a-zA-Z0-9_-]+$")]
    pub name: String,
    /// What it is for; the schema alone restricts the answer.
    #[serde(default)]
    pub description: Option<String>,
    /// The schema; any object where it is absent.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub schema: Option<Value>,
    /// Answers follow the schema whether or not this is set.
    #[serde(default)]
    pub strict: Option<bool>,
}

/// vLLM's `structured_outputs`: exactly one field.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct StructuredOutputs {
    /// A JSON schema.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub json: Option<Value>,
    /// Any JSON object.
    #[serde(default)]
    pub json_object: Option<bool>,
    /// A regular expression that the whole answer matches.
    #[serde(default)]
    pub regex: Option<String>,
    /// The answer is one of these.
    #[serde(default)]
    pub choice: Option<Vec<String>>,
    /// A context-free grammar in Lark's notation, as llguidance reads it.
    #[serde(default)]
    pub grammar: Option<String>,
}

impl ResponseFormat {
    /// The grammar, with the field that asks for it.
    pub fn grammar(self) -> Result<Option<Wanted>, ApiError> {
        match (self.kind, self.json_schema) {
            (FormatKind::Text, None) => Ok(None),
            (FormatKind::JsonObject, None) => Ok(Some(Wanted::new("response_format", Grammar::JsonObject))),
            (FormatKind::JsonSchema, Some(named)) => {
                check_name("response_format.json_schema.name", &named.name)?;
                Ok(Some(schema_grammar("response_format.json_schema.schema", named.schema)?))
            }
            (FormatKind::JsonSchema, None) => Err(ApiError::invalid(
                "response_format.json_schema",
                "response_format.json_schema is required where type is json_schema",
            )),
            (_, Some(_)) => Err(ApiError::invalid(
                "response_format.json_schema",
                "response_format.json_schema is of use only where type is json_schema",
            )),
        }
    }
}

impl StructuredOutputs {
    /// The grammar, with the field that asks for it.
    pub fn grammar(self) -> Result<Option<Wanted>, ApiError> {
        let field = |name: &str| format!("structured_outputs.{name}");
        let json_object = self.json_object.filter(|wanted| *wanted);
        let wanted = [
            self.json.map(|schema| schema_grammar(&field("json"), Some(schema))).transpose()?,
            json_object.map(|_| Wanted::new(field("json_object"), Grammar::JsonObject)),
            self.regex.map(|pattern| Wanted::new(field("regex"), Grammar::Regex(pattern))),
            self.choice.map(|choice| Wanted::new(field("choice"), Grammar::Choice(choice))),
            self.grammar.map(|lark| Wanted::new(field("grammar"), Grammar::Lark(lark))),
        ];
        only_one(wanted)
    }
}

/// A grammar and the field that asked for it.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// The field.
    pub param: String,
    /// The grammar.
    pub grammar: Grammar,
}

impl Wanted {
    /// A grammar that `param` asks for.
    pub fn new(param: impl Into<String>, grammar: Grammar) -> Wanted {
        Wanted { param: param.into(), grammar }
    }
}

/// A schema as a grammar; any object where there is no schema.
pub(crate) fn schema_grammar(param: &str, schema: Option<Value>) -> Result<Wanted, ApiError> {
    match schema {
        None => Ok(Wanted::new(param, Grammar::JsonObject)),
        Some(schema) if schema.is_object() => Ok(Wanted::new(param, Grammar::JsonSchema(schema))),
        Some(_) => Err(ApiError::invalid(param, format!("{param} must be a JSON schema, an object"))),
    }
}

/// The one grammar among several places that may ask for one.
pub(crate) fn only_one(wanted: impl IntoIterator<Item = Option<Wanted>>) -> Result<Option<Wanted>, ApiError> {
    let mut wanted = wanted.into_iter().flatten();
    let first = wanted.next();
    match (first, wanted.next()) {
        (Some(first), Some(second)) => {
            let message = format!("{} and {} both restrict the answer; give one of them", first.param, second.param);
            Err(ApiError::invalid(second.param, message))
        }
        (first, _) => Ok(first),
    }
}

/// Refuses a name that OpenAI's interface does not take.
pub(crate) fn check_name(param: &str, name: &str) -> Result<(), ApiError> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if (1..=MAX_NAME).contains(&name.len()) && name.chars().all(is_allowed) {
        return Ok(());
    }
    Err(ApiError::invalid(param, format!("{param} must be 1 to {MAX_NAME} letters, digits, _ or -")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn param_of(result: Result<Option<Wanted>, ApiError>) -> Result<Option<String>, Option<String>> {
        result.map(|wanted| wanted.map(|w| w.param)).map_err(|error| error.param)
    }

    #[test]
    fn response_formats_become_grammars_or_name_their_fault() {
        let cases = [
            (json!({"type": "text"}), Ok(None)),
            (json!({"type": "json_object"}), Ok(Some("response_format"))),
            (
                json!({"type": "json_schema", "json_schema": {"name": "a-b_1", "schema": {"type": "string"}}}),
                Ok(Some("response_format.json_schema.schema")),
            ),
            (
                json!({"type": "json_schema", "json_schema": {"name": "a", "strict": true}}),
                Ok(Some("response_format.json_schema.schema")),
            ),
            (json!({"type": "json_schema"}), Err("response_format.json_schema")),
            (json!({"type": "text", "json_schema": {"name": "a"}}), Err("response_format.json_schema")),
            (
                json!({"type": "json_schema", "json_schema": {"name": "no spaces"}}),
                Err("response_format.json_schema.name"),
            ),
            (
                json!({"type": "json_schema", "json_schema": {"name": "a", "schema": 1}}),
                Err("response_format.json_schema.schema"),
            ),
        ];
        for (format, expected) in cases {
            let format: ResponseFormat = serde_json::from_value(format).expect("a format");
            let expected = expected.map(|p| p.map(str::to_owned)).map_err(|p| Some(p.to_owned()));
            assert_eq!(param_of(format.clone().grammar()), expected, "{format:?}");
        }
    }

    #[test]
    fn structured_outputs_take_one_field() {
        let read = |value: Value| serde_json::from_value::<StructuredOutputs>(value).expect("fields").grammar();
        assert_eq!(param_of(read(json!({"regex": "a+"}))), Ok(Some("structured_outputs.regex".into())));
        assert_eq!(param_of(read(json!({"json_object": false}))), Ok(None));
        assert_eq!(param_of(read(json!({"regex": "a", "choice": []}))), Err(Some("structured_outputs.choice".into())));
        assert_eq!(param_of(read(json!({"json": "{}"}))), Err(Some("structured_outputs.json".into())));
    }
}
