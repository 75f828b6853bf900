//! `/metrics`: what services count, in the text format that Prometheus reads, under vLLM's names with the prefix `moesaic:`.
//!
//! Services count for themselves; a scrape takes a snapshot of each loaded model. A model that is unloaded takes its counters with
//! it and begins at zero when it comes back, which rates and increases of Prometheus allow for.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry as Metrics;

use super::AppState;
use super::error::ApiError;
use crate::serving::{Histogram, ServiceMetrics};

/// The media type of the format.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Answers by route and status, since the server was started.
#[derive(Clone, Default)]
pub(crate) struct HttpMetrics {
    answers: Family<Vec<(String, String)>, Counter>,
}

impl HttpMetrics {
    /// Counts an answer. `route` is a pattern or a fixed word, so that callers cannot make up labels.
    pub fn count(&self, route: &str, status: u16) {
        let labels = vec![("handler".to_string(), route.to_string()), ("status".to_string(), status.to_string())];
        self.answers.get_or_create(&labels).inc();
    }
}

/// Counters, gauges and latencies of every loaded model.
#[utoipa::path(get, path = "/metrics", tag = "server",
    responses((status = 200, description = "Metrics in the OpenMetrics text format", body = String, content_type = "application/openmetrics-text")))]
pub(crate) async fn metrics(State(app): State<AppState>) -> Result<Response, ApiError> {
    let loaded = app.registry.list().into_iter().filter_map(|(_, model)| model);
    let models = loaded.map(|model| (model.name.clone(), model.service.metrics())).collect();
    let text =
        render(models, &app.http_metrics).map_err(|e| ApiError::internal(format!("cannot write metrics: {e}")))?;
    Ok(([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response())
}

fn render(models: Vec<(String, ServiceMetrics)>, http: &HttpMetrics) -> Result<String, fmt::Error> {
    let mut registry = Metrics::default();
    registry.register("moesaic:http_requests", "Answers by route and status", http.answers.clone());
    registry.register_collector(Box::new(ModelMetrics(models.into())));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

/// Snapshots by model name.
#[derive(Clone, Debug)]
struct ModelMetrics(Arc<[(String, ServiceMetrics)]>);

type Gauge = (&'static str, &'static str, fn(&ServiceMetrics) -> f64);
type Count = (&'static str, &'static str, fn(&ServiceMetrics) -> u64);
type Ending = (&'static str, fn(&ServiceMetrics) -> u64);
type Latency = (&'static str, &'static str, fn(&ServiceMetrics) -> &Histogram);

const GAUGES: &[Gauge] = &[
    ("num_requests_running", "Requests with sequences in the KV cache", |m| m.num_requests_running as f64),
    ("num_requests_waiting", "Requests without any", |m| m.num_requests_waiting as f64),
    ("kv_cache_usage_perc", "Part of the KV pages in use, 0 to 1", |m| m.kv_cache_usage),
];

/// The format adds `_total` to each name.
const COUNTERS: &[Count] = &[
    ("prefix_cache_queries", "Prompt tokens looked up in the prefix cache", |m| m.prefix_cache_queries),
    ("prefix_cache_hits", "Prompt tokens found there", |m| m.prefix_cache_hits),
    ("prompt_tokens", "Prompt tokens, found or computed", |m| m.prompt_tokens),
    ("generation_tokens", "Tokens generated", |m| m.generation_tokens),
    ("num_preemptions", "Sequences whose pages were taken away", |m| m.preemptions),
    ("request_failures", "Requests that failed", |m| m.requests_failed),
];

const LATENCIES: &[Latency] = &[
    ("time_to_first_token_seconds", "From taking a request to its first token", |m| &m.time_to_first_token),
    ("inter_token_latency_seconds", "Between tokens of an answer", |m| &m.inter_token_latency),
    ("e2e_request_latency_seconds", "From taking a request to its end", |m| &m.e2e_request_latency),
    ("request_queue_time_seconds", "From taking a request to its first step", |m| &m.request_queue_time),
    ("request_prefill_time_seconds", "Computing prompts", |m| &m.request_prefill_time),
    ("request_decode_time_seconds", "Choosing tokens", |m| &m.request_decode_time),
];

/// How answers ended, by vLLM's words.
const FINISHED: &[Ending] =
    &[("stop", |m| m.answers_stopped), ("length", |m| m.answers_length), ("abort", |m| m.answers_cancelled)];

impl Collector for ModelMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        for (name, help, value) in GAUGES {
            let name = format!("moesaic:{name}");
            let mut family = encoder.encode_descriptor(&name, help, None, MetricType::Gauge)?;
            for (model, metrics) in self.0.iter() {
                ConstGauge::new(value(metrics)).encode(family.encode_family(&[("model_name", model.as_str())])?)?;
            }
        }
        for (name, help, value) in COUNTERS {
            let name = format!("moesaic:{name}");
            let mut family = encoder.encode_descriptor(&name, help, None, MetricType::Counter)?;
            for (model, metrics) in self.0.iter() {
                let labels = [("model_name", model.as_str())];
                family.encode_family(&labels)?.encode_counter(&value(metrics), None::<&Exemplar<NoLabelSet, u64>>)?;
            }
        }
        self.encode_finished(&mut encoder)?;
        for (name, help, value) in LATENCIES {
            let name = format!("moesaic:{name}");
            let mut family = encoder.encode_descriptor(&name, help, None, MetricType::Histogram)?;
            for (model, metrics) in self.0.iter() {
                let (histogram, labels) = (value(metrics), [("model_name", model.as_str())]);
                let none: Option<&HashMap<usize, Exemplar<NoLabelSet, f64>>> = None;
                let mut encoder = family.encode_family(&labels)?;
                encoder.encode_histogram(histogram.sum(), histogram.count(), &buckets(histogram), none)?;
            }
        }
        Ok(())
    }
}

impl ModelMetrics {
    fn encode_finished(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let (name, help) = ("moesaic:request_success", "Answers by how they ended");
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (model, metrics) in self.0.iter() {
            for (reason, value) in FINISHED {
                let labels = [("model_name", model.as_str()), ("finished_reason", *reason)];
                family.encode_family(&labels)?.encode_counter(&value(metrics), None::<&Exemplar<NoLabelSet, u64>>)?;
            }
        }
        Ok(())
    }
}

/// Bounds and counts; the last bucket has no bound.
fn buckets(histogram: &Histogram) -> Vec<(f64, u64)> {
    let bounds = histogram.bounds().iter().copied().chain([f64::INFINITY]);
    bounds.zip(histogram.counts().iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_text_has_each_model_and_ends() {
        let mut metrics = ServiceMetrics { prompt_tokens: 7, kv_cache_usage: 0.25, ..ServiceMetrics::default() };
        for millis in [3, 4, 500_000] {
            metrics.time_to_first_token.observe(Duration::from_millis(millis));
        }
        let http = HttpMetrics::default();
        http.count("/v1/models", 200);
        let text = render(vec![("a\"b".into(), metrics), ("c".into(), ServiceMetrics::default())], &http).unwrap();
        for line in [
            r#"moesaic:prompt_tokens_total{model_name="a\"b"} 7"#,
            r#"moesaic:prompt_tokens_total{model_name="c"} 0"#,
            r#"moesaic:kv_cache_usage_perc{model_name="a\"b"} 0.25"#,
            r#"moesaic:time_to_first_token_seconds_bucket{le="0.005",model_name="a\"b"} 2"#,
            r#"moesaic:time_to_first_token_seconds_bucket{le="+Inf",model_name="a\"b"} 3"#,
            r#"moesaic:time_to_first_token_seconds_count{model_name="a\"b"} 3"#,
            r#"moesaic:request_success_total{model_name="c",finished_reason="stop"} 0"#,
            r#"moesaic:http_requests_total{handler="/v1/models",status="200"} 1"#,
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }
}
