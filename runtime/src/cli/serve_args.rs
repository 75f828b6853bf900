//! Arguments of `serve`, in vLLM's spellings where it has them.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::args::{DeviceArgs, parse_count};
use crate::byte_size::ByteSize;
use crate::server::upstream::RouteRule;

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// A JSON object a line.
    Json,
}

/// Arguments of `serve`.
#[derive(Args, Clone, Debug)]
pub struct ServeArgs {
    /// The model that is loaded at the start
    #[arg(value_name = "ARTIFACT|MODEL", required_unless_present = "model")]
    pub artifact: Option<PathBuf>,
    /// A further model, loaded when it is first asked for (repeatable) [default name: that of the file]
    #[arg(short = 'm', long, value_name = "[NAME=]PATH", env = "MOESAIC_MODEL")]
    pub model: Vec<String>,
    /// Names of the first model, separated by commas; answers bear the first [default: that of the file]
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', env = "MOESAIC_SERVED_MODEL_NAME")]
    pub served_model_name: Vec<String>,
    /// Chat template, a Jinja file, in place of the models' own
    #[arg(long, value_name = "FILE", env = "MOESAIC_CHAT_TEMPLATE")]
    pub chat_template: Option<PathBuf>,

    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1", env = "MOESAIC_HOST", help_heading = "Access")]
    pub host: String,
    /// Port to listen on; 0 takes a free one
    #[arg(long, default_value = "8000", env = "MOESAIC_PORT", help_heading = "Access")]
    pub port: u16,
    /// A key that callers must have (repeatable)
    #[arg(long, value_name = "KEY", env = "MOESAIC_API_KEY", hide_env_values = true, help_heading = "Access")]
    pub api_key: Vec<String>,
    /// A file with keys, one a line
    #[arg(long, value_name = "FILE", env = "MOESAIC_API_KEY_FILE", help_heading = "Access")]
    pub api_key_file: Option<PathBuf>,
    /// The key for POST /admin/reload, which is off without one
    #[arg(long, value_name = "KEY", env = "MOESAIC_ADMIN_KEY", hide_env_values = true, help_heading = "Access")]
    pub admin_key: Option<String>,
    /// Let everybody in who reaches an address that is not this machine's own
    #[arg(long, env = "MOESAIC_ALLOW_UNAUTHENTICATED", help_heading = "Access")]
    pub allow_unauthenticated: bool,
    /// A further name that the server may be called by (repeatable)
    #[arg(long, value_name = "NAME", env = "MOESAIC_ALLOWED_HOST", help_heading = "Access")]
    pub allowed_host: Vec<String>,
    /// Pages of this origin may call the server; * for all (repeatable) [default: the server's own only]
    #[arg(long, value_name = "ORIGIN", env = "MOESAIC_CORS_ORIGIN", help_heading = "Access")]
    pub cors_origin: Vec<String>,

    /// Most sequences that are computed together
    #[arg(long, visible_alias = "parallel", value_name = "N", default_value = "64", value_parser = parse_size, env = "MOESAIC_MAX_NUM_SEQS", help_heading = "Scheduling")]
    pub max_num_seqs: usize,
    /// Most tokens of a step; longer prompts are computed in pieces [default: the artifact's largest step]
    #[arg(long, value_name = "N", value_parser = parse_size, env = "MOESAIC_MAX_NUM_BATCHED_TOKENS", help_heading = "Scheduling")]
    pub max_num_batched_tokens: Option<usize>,
    /// Most requests that wait; further ones are answered 429
    #[arg(long, value_name = "N", default_value = "256", value_parser = parse_size, env = "MOESAIC_MAX_WAITING", help_heading = "Scheduling")]
    pub max_waiting: usize,

    /// Tokens that the KV cache of each model holds [default: of 16 sequences, but no more than a quarter of the free memory]
    #[arg(long, value_name = "N", value_parser = parse_count, env = "MOESAIC_KV_TOKENS", help_heading = "Memory")]
    pub kv_tokens: Option<u64>,
    /// Memory for all loaded models together; those unused longest are unloaded to keep to it [default: that of --vram]
    #[arg(long, value_name = "SIZE", env = "MOESAIC_MEMORY_BUDGET", help_heading = "Memory")]
    pub memory_budget: Option<ByteSize>,
    /// Compute every prompt whole: keep no prefixes
    #[arg(long, alias = "no-enable-prefix-caching", env = "MOESAIC_NO_PREFIX_CACHE", help_heading = "Prefix cache")]
    pub no_prefix_cache: bool,
    /// Folder of prefixes that outlive the server; several servers may share it [default: none]
    #[arg(
        long,
        value_name = "DIR",
        conflicts_with = "no_prefix_cache",
        env = "MOESAIC_PREFIX_CACHE_DIR",
        help_heading = "Prefix cache"
    )]
    pub prefix_cache_dir: Option<PathBuf>,
    /// Most bytes in that folder
    #[arg(
        long,
        value_name = "SIZE",
        default_value = "8GiB",
        env = "MOESAIC_PREFIX_CACHE_SIZE",
        help_heading = "Prefix cache"
    )]
    pub prefix_cache_size: ByteSize,
    /// Host memory for prefixes that the device had to give up, of each model; 0 for none
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = parse_bytes, env = "MOESAIC_HOST_CACHE_SIZE", help_heading = "Prefix cache")]
    pub host_cache_size: u64,

    /// Most connections at a time
    #[arg(long, value_name = "N", default_value = "1024", value_parser = parse_size, env = "MOESAIC_MAX_CONNECTIONS", help_heading = "Limits")]
    pub max_connections: usize,
    /// Longest body of a request
    #[arg(long, value_name = "SIZE", default_value = "16MiB", env = "MOESAIC_MAX_BODY_SIZE", help_heading = "Limits")]
    pub max_body_size: ByteSize,
    /// Most time for the header of a request, such as 10s or 500ms
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_time, env = "MOESAIC_TIMEOUT_HEADER", help_heading = "Limits")]
    pub timeout_header: Duration,
    /// Most time for the body of a request
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_time, env = "MOESAIC_TIMEOUT_BODY", help_heading = "Limits")]
    pub timeout_body: Duration,
    /// Most time between two requests of a connection
    #[arg(long, value_name = "TIME", default_value = "75s", value_parser = parse_time, env = "MOESAIC_TIMEOUT_KEEP_ALIVE", help_heading = "Limits")]
    pub timeout_keep_alive: Duration,
    /// Most time that a caller may leave its answer unread
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_time, env = "MOESAIC_TIMEOUT_READER", help_heading = "Limits")]
    pub timeout_reader: Duration,
    /// How long requests may go on after SIGTERM
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_time, env = "MOESAIC_SHUTDOWN_TIMEOUT", help_heading = "Limits")]
    pub shutdown_timeout: Duration,

    /// Another OpenAI-compatible server for what this one cannot do; the next is tried where one does not answer (repeatable)
    #[arg(
        long,
        value_name = "URL",
        env = "MOESAIC_UPSTREAM",
        help_heading = "Upstream (keys: MOESAIC_UPSTREAM_API_KEY)"
    )]
    pub upstream: Vec<url::Url>,
    /// The model of that server, which requests can name (repeatable, in the order of --upstream) [default: the request's]
    #[arg(
        long,
        value_name = "NAME",
        requires = "upstream",
        env = "MOESAIC_UPSTREAM_MODEL",
        help_heading = "Upstream (keys: MOESAIC_UPSTREAM_API_KEY)"
    )]
    pub upstream_model: Vec<String>,
    /// Which requests go there: context, tokens>N, tools, model:NAME, unknown-model, or several joined by commas (repeatable)
    #[arg(
        long,
        value_name = "RULE",
        requires = "upstream",
        env = "MOESAIC_ROUTE",
        help_heading = "Upstream (keys: MOESAIC_UPSTREAM_API_KEY)"
    )]
    pub route: Vec<RouteRule>,
    /// Further attempts at a server that is busy or cannot be reached
    #[arg(
        long,
        value_name = "N",
        default_value = "2",
        env = "MOESAIC_UPSTREAM_RETRIES",
        help_heading = "Upstream (keys: MOESAIC_UPSTREAM_API_KEY)"
    )]
    pub upstream_retries: u32,
    /// Most time until that server begins to answer
    #[arg(long, value_name = "TIME", default_value = "600s", value_parser = parse_time, env = "MOESAIC_UPSTREAM_TIMEOUT", help_heading = "Upstream (keys: MOESAIC_UPSTREAM_API_KEY)")]
    pub upstream_timeout: Duration,

    /// How logs are written, to standard error; RUST_LOG says how much
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "text", env = "MOESAIC_LOG_FORMAT")]
    pub log_format: LogFormat,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub device: DeviceArgs,
}

fn parse_size(text: &str) -> Result<usize, String> {
    usize::try_from(parse_count(text)?).map_err(|e| e.to_string())
}

/// A size that may be 0.
fn parse_bytes(text: &str) -> Result<u64, String> {
    if text == "0" {
        return Ok(0);
    }
    text.parse::<ByteSize>().map(|size| size.0).map_err(|e| e.to_string())
}

/// A time such as `30`, `30s`, `500ms` or `2m`.
fn parse_time(text: &str) -> Result<Duration, String> {
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let count = digits.parse::<u64>().ok().filter(|count| *count > 0);
    let time = match (count, unit) {
        (Some(count), "" | "s") => Some(Duration::from_secs(count)),
        (Some(count), "ms") => Some(Duration::from_millis(count)),
        (Some(count), "m" | "min") => count.checked_mul(60).map(Duration::from_secs),
        (Some(count), "h") => count.checked_mul(3600).map(Duration::from_secs),
        _ => None,
    };
    // A year is for ever, and more would overflow clocks.
    let time = time.filter(|time| time.as_secs() <= 365 * 24 * 3600);
    time.ok_or_else(|| format!("expected a time such as 30s, 500ms or 2m, found {text:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        for (text, millis) in [("30", 30_000), ("30s", 30_000), ("500ms", 500), ("2m", 120_000), ("1h", 3_600_000)] {
            assert_eq!(parse_time(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for wrong in ["", "0", "s", "-1s", "1.5s", "1d", "18446744073709551615h", "99999999999"] {
            assert!(parse_time(wrong).is_err(), "{wrong}");
        }
    }
}
