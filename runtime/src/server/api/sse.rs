//! Server-sent events.
//!
//! A stream owns the generation it tells of: when the client goes, the response is dropped, and the generation with it.

use std::convert::Infallible;
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::Stream;
use http::HeaderValue;
use serde::Serialize;

/// Silence after which a comment is sent, so that nothing between here and the client takes the connection for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// A response of events.
pub(crate) fn response(events: impl Stream<Item = Event> + Send + 'static) -> Response {
    let events = async_stream::stream! {
        for await event in events {
            yield Ok::<_, Infallible>(event);
        }
    };
    let mut response =
        Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE).text("keep-alive")).into_response();
    // Proxies that collect answers before they pass them on keep away from those with this header.
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// An event without a name.
pub(crate) fn data(body: &impl Serialize) -> Event {
    Event::default().data(json(body))
}

/// An event with a name.
pub(crate) fn named(name: &str, body: &impl Serialize) -> Event {
    Event::default().event(name).data(json(body))
}

/// The event that ends a stream of OpenAI's interface.
pub(crate) fn done() -> Event {
    Event::default().data("[DONE]")
}

/// Bodies are structures of strings and finite numbers, which can always be written; JSON has no line breaks of its own.
fn json(body: &impl Serialize) -> String {
    serde_json::to_string(body).unwrap_or_else(|error| format!("{{\"error\":{{\"message\":\"{error}\"}}}}"))
}
