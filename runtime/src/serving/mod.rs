//! Serving: many requests over one engine.
//!
//! A [`Service`] runs an engine on a thread of its own. Callers hand it [`Request`]s and read [`Event`]s from bounded
//! streams: the thread never waits for a reader, it lets the sequences of a slow one rest. Text is the caller's
//! matter: tokens go in, tokens come out.

mod constraint;
mod error;
mod metrics;
mod request;
mod service;
mod stream;

pub use constraint::{ConstraintError, TokenConstraint};
pub use error::{RequestError, SubmitError};
pub use metrics::{Histogram, ServiceMetrics};
pub use request::{CachedTokens, Event, FinishReason, Output, Request, RequestTimings};
pub use service::{Health, Service, ServiceOptions};
pub use stream::{EventSender, EventStream, event_channel};
