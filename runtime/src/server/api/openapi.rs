//! `GET /openapi.json`: what this server takes and answers.
//!
//! Routes describe what they answer themselves; what the layers around them may answer (a wrong key, a body that is too
//! large) is the same for all and added here.

use axum::Json;
use axum::extract::State;
use serde_json::json;
use utoipa::openapi::example::ExampleBuilder;
use utoipa::openapi::extensions::Extensions;
use utoipa::openapi::path::Operation;
use utoipa::openapi::schema::{AnyOfBuilder, ObjectBuilder, Schema, Type};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{ContentBuilder, OpenApi as Document, Ref, RefOr, Response, ResponseBuilder};
use utoipa::{OpenApi, ToSchema};

use super::errors::AnthropicErrorBody;
use super::{chat, completions, embeddings, examples, messages, responses};
use crate::server::error::ErrorBody;
use crate::server::{AppState, ServerDoc};

/// The routes of this module.
#[derive(OpenApi)]
#[openapi(
    paths(
        chat::chat_completions,
        completions::completions,
        responses::responses,
        messages::messages,
        messages::count_tokens,
        embeddings::embeddings,
        document,
    ),
    components(schemas(ErrorBody, AnthropicErrorBody))
)]
struct GeneratingDoc;

/// Paths that anybody may ask for.
const OPEN: [&str; 1] = ["/health"];
/// Paths that take a key even where callers need none.
const CLOSED: [&str; 1] = ["/admin/reload"];

/// What the layers around the routes may answer.
const OF_ALL: [(&str, &str); 2] = [
    ("403", "The request comes from a host or an origin that this server does not serve"),
    ("500", "The server failed at this request"),
];
const OF_KEYS: (&str, &str) = ("401", "The key is wrong or absent");
const OF_BODIES: [(&str, &str); 3] = [
    ("400", "The body is no JSON, or a field is wrong"),
    ("408", "The body took too long to arrive"),
    ("413", "The body is too large"),
];

/// This document.
#[utoipa::path(get, path = "/openapi.json", tag = "server",
    responses((status = 200, description = "An OpenAPI 3.1 document", body = Object)))]
pub(crate) async fn document(State(app): State<AppState>) -> Json<Document> {
    Json(build(app.keys.required()))
}

/// `keyed`: whether callers need a key.
fn build(keyed: bool) -> Document {
    let mut document = GeneratingDoc::openapi();
    document.merge(ServerDoc::openapi());
    document.info.title = "Moesaic".into();
    document.info.version = env!("CARGO_PKG_VERSION").into();
    document.info.description = Some(
        "Compact language models behind the interfaces of OpenAI and Anthropic. Unknown fields are refused.".into(),
    );
    let components = document.components.get_or_insert_default();
    let bearer = SecurityScheme::Http(Http::builder().scheme(HttpAuthScheme::Bearer).build());
    components.security_schemes.insert("bearer".into(), bearer);
    for (path, item) in &mut document.paths.paths {
        let operations = [&mut item.get, &mut item.post].into_iter().flatten();
        for operation in operations {
            complete(path, operation, keyed);
        }
    }
    document
}

/// Adds what the layers answer, whether a key is needed, and examples.
fn complete(path: &str, operation: &mut Operation, keyed: bool) {
    let is_open = OPEN.contains(&path);
    let body = if path.starts_with("/v1/messages") { AnthropicErrorBody::name() } else { ErrorBody::name() };
    let of_bodies: &[_] = if operation.request_body.is_some() { &OF_BODIES } else { &[] };
    let of_keys = (!is_open).then_some(OF_KEYS);
    for (status, description) in OF_ALL.into_iter().chain(of_keys).chain(of_bodies.iter().copied()) {
        let responses = &mut operation.responses.responses;
        responses.entry(status.to_owned()).or_insert_with(|| RefOr::T(refusal(description, &body)));
    }
    if !is_open && (keyed || CLOSED.contains(&path)) {
        operation.security = Some(vec![SecurityRequirement::new("bearer", [""; 0])]);
    }
    for response in operation.responses.responses.values_mut() {
        let RefOr::T(response) = response else { continue };
        if let Some(content) = response.content.get_mut("text/event-stream") {
            content.schema = content.schema.take().map(|data| event_of(path, data));
        }
    }
    let body = operation.request_body.as_mut().and_then(|body| body.content.get_mut("application/json"));
    if let Some(content) = body {
        let example = |value| RefOr::T(ExampleBuilder::new().value(Some(value)).build());
        content.examples =
            examples::of(path).into_iter().map(|(name, value)| (name.to_owned(), example(value))).collect();
    }
}

/// An event whose data is JSON of a schema; OpenAI's older interfaces end with one that says `[DONE]`.
fn event_of(path: &str, data: RefOr<Schema>) -> RefOr<Schema> {
    let text = || ObjectBuilder::new().schema_type(Type::String);
    // A keyword of JSON Schema that the builder does not know by name.
    let content: Extensions = [("contentSchema".to_owned(), json!(data))].into_iter().collect();
    let json = text().content_media_type("application/json").extensions(Some(content)).build();
    let data: RefOr<Schema> = match path.ends_with("/completions") {
        true => AnyOfBuilder::new().item(text().enum_values(Some(["[DONE]"]))).item(json).into(),
        false => json.into(),
    };
    ObjectBuilder::new().property("data", data).required("data").property("event", text()).into()
}

fn refusal(description: &str, body: &str) -> Response {
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name(body))).build();
    ResponseBuilder::new().description(description).content("application/json", content).build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    /// Every `$ref` of the document.
    fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str));
                fields.values().for_each(|v| references(v, found));
            }
            Value::Array(items) => items.iter().for_each(|v| references(v, found)),
            _ => {}
        }
    }

    #[test]
    fn references_lead_somewhere() {
        let document = serde_json::to_value(build(true)).expect("JSON");
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > 100);
        for reference in found {
            let pointer = reference.strip_prefix('#').expect("a reference into the document");
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
    }

    #[test]
    fn every_operation_says_what_its_layers_answer() {
        let document = serde_json::to_value(build(true)).expect("JSON");
        let paths = document["paths"].as_object().expect("paths");
        for path in ["/v1/chat/completions", "/v1/messages", "/health", "/v1/models", "/tokenize", "/openapi.json"] {
            assert!(paths.contains_key(path), "{path}");
        }
        for (path, item) in paths {
            for (method, operation) in item.as_object().expect("an item") {
                let responses = &operation["responses"];
                assert!(responses["500"].is_object(), "{method} {path}");
                assert_eq!(responses["401"].is_object(), path != "/health", "{method} {path}");
                let body = &responses["500"]["content"]["application/json"]["schema"]["$ref"];
                let expected = if path.starts_with("/v1/messages") { "AnthropicErrorBody" } else { "ErrorBody" };
                assert_eq!(body, &Value::from(format!("#/components/schemas/{expected}")), "{method} {path}");
            }
        }
    }

    #[test]
    fn examples_are_requests() {
        fn read<T: serde::de::DeserializeOwned>(value: &Value) -> Option<String> {
            serde_json::from_value::<T>(value.clone()).err().map(|error| format!("{error}: {value}"))
        }
        let document = serde_json::to_value(build(true)).expect("JSON");
        for (path, item) in document["paths"].as_object().expect("paths") {
            let examples = &item["post"]["requestBody"]["content"]["application/json"]["examples"];
            assert_eq!(examples.is_object(), item["post"].is_object() && path != "/admin/reload", "{path}");
            for example in examples.as_object().into_iter().flat_map(|examples| examples.values()) {
                let value = &example["value"];
                let error = match path.as_str() {
                    "/v1/chat/completions" => read::<chat::ChatCompletionRequest>(value),
                    "/v1/completions" => read::<completions::CompletionRequest>(value),
                    "/v1/responses" => read::<responses::ResponsesRequest>(value),
                    "/v1/messages" => read::<messages::MessagesRequest>(value),
                    "/v1/messages/count_tokens" => read::<messages::CountTokensRequest>(value),
                    "/v1/embeddings" => read::<embeddings::EmbeddingRequest>(value),
                    _ => continue,
                };
                assert_eq!(error, None, "{path}");
            }
        }
    }

    #[test]
    fn a_key_is_asked_for_where_one_is_needed() {
        for keyed in [false, true] {
            let document = serde_json::to_value(build(keyed)).expect("JSON");
            let needs = |path: &str, method: &str| document["paths"][path][method]["security"].is_array();
            let found = (needs("/health", "get"), needs("/v1/models", "get"), needs("/admin/reload", "post"));
            assert_eq!(found, (false, keyed, true));
        }
    }

    #[test]
    fn requests_admit_no_unknown_fields() {
        let document = serde_json::to_value(build(true)).expect("JSON");
        for name in
            ["ChatCompletionRequest", "CompletionRequest", "ResponsesRequest", "MessagesRequest", "EmbeddingRequest"]
        {
            assert_eq!(document["components"]["schemas"][name]["additionalProperties"], Value::Bool(false), "{name}");
        }
    }
}
