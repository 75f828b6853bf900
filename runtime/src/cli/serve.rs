//! `serve`: models over HTTP until a signal says stop.

use std::error::Error;
use std::io::{self, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use super::CliError;
use super::serve_args::{LogFormat, ServeArgs};
use super::session::parse_isa;
use crate::artifact::OpenOptions;
use crate::device::cuda::{self, CudaStatus};
use crate::engine::EngineOptions;
use crate::kv::PrefixCacheOptions;
use crate::memory;
use crate::server::auth::Keys;
use crate::server::listen::ConnectionLimits;
use crate::server::models::{ModelOptions, ModelSpec, Resolver};
use crate::server::request::BodyLimits;
use crate::server::upstream::{UpstreamOptions, UpstreamTarget};
use crate::server::{Server, ServerOptions};
use crate::serving::ServiceOptions;

/// Where the keys of upstream servers come from: a variable alone, so that they stand in no list of processes.
const UPSTREAM_KEY: &str = "MOESAIC_UPSTREAM_API_KEY";

/// Most threads that talk to callers; they share the cores with those that compute.
const CONNECTION_THREADS: usize = 4;

/// Serves models until SIGTERM or SIGINT. `resolver` makes artifacts of what is none, where there is a compiler.
///
/// # Errors
/// Arguments out of range, an address that cannot be had or must not be, or a first model that cannot be loaded.
pub fn serve(args: &ServeArgs, resolver: Option<Resolver>) -> Result<(), Box<dyn Error>> {
    let (address, options) = (address(args)?, options(args, resolver)?);
    ignore_closed_connections();
    start_logs(args.log_format);
    let threads = std::thread::available_parallelism().map_or(1, |cores| cores.get()).min(CONNECTION_THREADS);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name("serve")
        .enable_all()
        .build()?;
    let needs_key = options.keys.required();
    let ended = runtime.block_on(async {
        let server = Server::bind(address, options).await?;
        let (address, stop) = (server.address(), CancellationToken::new());
        let watching = tokio::spawn(stop_on_signal(Signals::listen()?, stop.clone()));
        let ended = server.run(stop, |model| announce(address, model, needs_key)).await;
        watching.abort();
        Ok::<_, Box<dyn Error>>(ended?)
    });
    // A load that cannot be interrupted must not keep the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    ended
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> io::Result<Signals> {
        Ok(Signals { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// The first signal lets requests end, a second one ends the process.
async fn stop_on_signal(mut signals: Signals, stop: CancellationToken) {
    signals.next().await;
    tracing::info!("stopping: requests may end; a second signal ends them at once");
    stop.cancel();
    signals.next().await;
    std::process::exit(1);
}

/// A caller who hangs up is no reason to end, as the default action of SIGPIPE would: some ways of writing to a socket raise it.
fn ignore_closed_connections() {
    // SAFETY: the action is to do nothing; no handler runs.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

fn start_logs(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,hyper=error,rustls=error"));
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let started = match format {
        LogFormat::Text => logs.try_init(),
        LogFormat::Json => logs.json().flatten_event(true).try_init(),
    };
    if let Err(error) = started {
        let _ = writeln!(io::stderr(), "logs are off: {error}");
    }
}

/// Says where the server is and how to call it. A closed standard output is no reason not to serve.
fn announce(address: SocketAddr, model: &str, needs_key: bool) {
    let key = if needs_key { " -H \"authorization: Bearer $MOESAIC_API_KEY\"" } else { "" };
    let body = serde_json::json!({"model": model, "messages": [{"role": "user", "content": "Hello"}]});
    tracing::info!(%address, model, "ready");
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "serving {model} at http://{address} (chat page there, OpenAI's interface under /v1)");
    let _ = writeln!(
        out,
        "try: curl http://{address}/v1/chat/completions -H \"content-type: application/json\"{key} -d '{body}'"
    );
    let _ = out.flush();
}

fn address(args: &ServeArgs) -> Result<SocketAddr, CliError> {
    let wrong = |message: String| CliError::Option { option: "--host", message };
    let name = args.host.trim_start_matches('[').trim_end_matches(']');
    let mut found = (name, args.port).to_socket_addrs().map_err(|e| wrong(format!("{}: {e}", args.host)))?;
    found.next().ok_or_else(|| wrong(format!("{} has no address", args.host)))
}

fn options(args: &ServeArgs, resolver: Option<Resolver>) -> Result<ServerOptions, CliError> {
    let keys = keys(args)?;
    Ok(ServerOptions {
        keys,
        allow_unauthenticated: args.allow_unauthenticated,
        allowed_hosts: args.allowed_host.clone(),
        cors_origins: args.cors_origin.clone(),
        body: BodyLimits {
            bytes: usize::try_from(args.max_body_size.0).unwrap_or(usize::MAX),
            time: args.timeout_body,
        },
        connections: ConnectionLimits {
            connections: args.max_connections,
            header_time: args.timeout_header,
            idle_time: args.timeout_keep_alive,
            // A reader that makes an answer wait has been given up by then; this is for its last bytes.
            write_time: args.timeout_reader.saturating_mul(2),
        },
        upstream: upstream(args, &std::env::var(UPSTREAM_KEY).unwrap_or_default())?,
        shutdown_timeout: args.shutdown_timeout,
        ..ServerOptions::new(model_options(args, resolver)?)
    })
}

fn keys(args: &ServeArgs) -> Result<Keys, CliError> {
    let mut keys = args.api_key.clone();
    if let Some(path) = &args.api_key_file {
        let text = super::session::read_text(path)?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let before = keys.len();
        keys.extend(lines.map(String::from));
        if keys.len() == before {
            let message = format!("{} has no key; expected one a line", path.display());
            return Err(CliError::Option { option: "--api-key-file", message });
        }
    }
    let empty = |option| CliError::Option { option, message: "expected a key that is not empty".into() };
    if keys.iter().any(|key| key.trim().is_empty()) {
        return Err(empty("--api-key"));
    }
    if args.admin_key.as_ref().is_some_and(|key| key.trim().is_empty()) {
        return Err(empty("--admin-key"));
    }
    Ok(Keys::new(keys.iter().map(|key| key.trim()), args.admin_key.as_deref().map(str::trim)))
}

fn model_options(args: &ServeArgs, resolver: Option<Resolver>) -> Result<ModelOptions, CliError> {
    let models = models(args)?;
    let memory = device_memory(args)?;
    let several = models.len() > 1;
    let budget = args.memory_budget.map(|size| size.0).or(memory);
    // One model takes the device's memory for its own; several share it, each with a cache of its own size.
    let engine = engine_options(args, memory.filter(|_| !several))?;
    Ok(ModelOptions {
        memory_budget: budget,
        service: ServiceOptions {
            engine,
            max_num_seqs: args.max_num_seqs,
            max_num_batched_tokens: args.max_num_batched_tokens,
            max_waiting: args.max_waiting,
            slow_reader: args.timeout_reader,
            prefix_cache: prefix_cache(args),
        },
        open: OpenOptions { mmap: !args.device.no_mmap, ..OpenOptions::default() },
        chat_template: args.chat_template.clone(),
        resolver,
        ..ModelOptions::new(models)
    })
}

fn prefix_cache(args: &ServeArgs) -> Option<PrefixCacheOptions> {
    (!args.no_prefix_cache).then(|| PrefixCacheOptions {
        host_bytes: args.host_cache_size,
        dir: args.prefix_cache_dir.clone(),
        disk_bytes: args.prefix_cache_size.0,
    })
}

fn engine_options(args: &ServeArgs, memory: Option<u64>) -> Result<EngineOptions, CliError> {
    let device = args
        .device
        .device
        .parse()
        .map_err(|e: crate::device::SelectError| CliError::Option { option: "--device", message: e.to_string() })?;
    if args.device.threads == Some(0) {
        return Err(CliError::Option { option: "--threads", message: "expected at least 1".into() });
    }
    Ok(EngineOptions {
        device,
        threads: args.device.threads,
        isa: args.device.isa.as_deref().map(parse_isa).transpose()?,
        max_model_len: args.device.max_model_len,
        kv_tokens: args.kv_tokens,
        memory,
        gpu: args.device.gpu_options(),
    })
}

/// Bytes the device may use: named, or a share of what the host has. A GPU is asked for its share when it is opened.
fn device_memory(args: &ServeArgs) -> Result<Option<u64>, CliError> {
    let Some(share) = args.device.gpu_memory_utilization else { return Ok(args.device.vram.map(|size| size.0)) };
    let gpu = || matches!(cuda::probe(), CudaStatus::Gpus(gpus) if !gpus.is_empty());
    if args.device.device == "cuda" || (args.device.device == "auto" && gpu()) {
        return Ok(None);
    }
    let all = memory::limit_bytes().ok_or_else(|| CliError::Option {
        option: "--gpu-memory-utilization",
        message: "this system does not say how much memory it has; name it with --vram".into(),
    })?;
    Ok(Some((all as f64 * share) as u64))
}

/// The models in the order they were named; the first may have several names.
fn models(args: &ServeArgs) -> Result<Vec<ModelSpec>, CliError> {
    let first = args.artifact.iter().map(|path| (None, path.clone()));
    let further = args.model.iter().map(|text| named_path(text));
    let mut models: Vec<ModelSpec> = Vec::new();
    for (index, (name, path)) in first.chain(further).enumerate() {
        let own = name.unwrap_or_else(|| name_of(&path));
        let names = match index {
            0 if !args.served_model_name.is_empty() => args.served_model_name.clone(),
            _ => vec![own],
        };
        for name in &names {
            if name.is_empty() || models.iter().any(|model| model.names.contains(name)) {
                let message = format!("{name:?} names no model, or two; give each a name: --model NAME=PATH");
                return Err(CliError::Option { option: "--model", message });
            }
        }
        models.push(ModelSpec { names, path });
    }
    Ok(models)
}

/// `NAME=PATH`, or a path alone, which may have a `=` in it.
fn named_path(text: &str) -> (Option<String>, PathBuf) {
    match text.split_once('=') {
        Some((name, path)) if !Path::new(text).exists() => (Some(name.into()), path.into()),
        _ => (None, text.into()),
    }
}

/// The name of a model that was given none: that of its file or folder, without an artifact's or a GGUF's ending.
fn name_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    let ending = [".moesaic", ".gguf"].iter().find_map(|ending| name.strip_suffix(ending));
    ending.unwrap_or(&name).to_string()
}

/// Servers with their models and keys, each list in the order of the servers. A key is never sent to another server than its own.
fn upstream(args: &ServeArgs, keys: &str) -> Result<UpstreamOptions, CliError> {
    let wrong = |option, message: String| Err(CliError::Option { option, message });
    let mut keys = keys.split(',').map(str::trim);
    let mut targets = Vec::new();
    for (index, url) in args.upstream.iter().enumerate() {
        if !["http", "https"].contains(&url.scheme()) || url.host_str().is_none() {
            return wrong("--upstream", format!("expected http://HOST or https://HOST, found {url}"));
        }
        if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
            return wrong(
                "--upstream",
                format!("the address must have no user and no query; its key is read from {UPSTREAM_KEY}"),
            );
        }
        let key = keys.next().filter(|key| !key.is_empty()).map(String::from);
        targets.push(UpstreamTarget { url: url.clone(), model: args.upstream_model.get(index).cloned(), key });
    }
    if args.upstream_model.len() > targets.len() {
        return wrong("--upstream-model", "there are more than of --upstream".into());
    }
    let (rules, retries, timeout) = (args.route.clone(), args.upstream_retries, args.upstream_timeout);
    Ok(UpstreamOptions { targets, rules, retries, timeout, ..UpstreamOptions::default() })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        serve: ServeArgs,
    }

    fn args(line: &str) -> ServeArgs {
        let words = ["serve"].into_iter().chain(line.split_whitespace());
        Cli::try_parse_from(words).unwrap_or_else(|e| panic!("{e}")).serve
    }

    #[test]
    fn models_have_names() {
        let names = |line: &str| {
            let models = models(&args(line)).map_err(|e| e.to_string())?;
            Ok::<_, String>(models.into_iter().map(|model| model.names.join("+")).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(names("dir/a.moesaic"), Ok("a".into()));
        assert_eq!(names("-m dir/a.Q4_0.gguf"), Ok("a.Q4_0".into()));
        assert_eq!(names("a.moesaic -m b=c.moesaic -m d.moesaic"), Ok("a b d".into()));
        assert_eq!(names("a.moesaic --served-model-name x,y --model b=c"), Ok("x+y b".into()));
        assert!(names("a.moesaic -m a=b").is_err() && names("a.moesaic -m =b").is_err());
        assert!(Cli::try_parse_from(["serve"]).is_err(), "one model is needed");
    }

    #[test]
    fn several_models_share_the_memory() {
        let one = model_options(&args("a --vram 1GiB"), None).unwrap();
        assert_eq!((one.memory_budget, one.service.engine.memory), (Some(1 << 30), Some(1 << 30)));
        let two = model_options(&args("a -m b --vram 1GiB"), None).unwrap();
        assert_eq!((two.memory_budget, two.service.engine.memory), (Some(1 << 30), None));
    }

    #[test]
    fn keys_of_upstreams_are_sent_to_their_own_server_only() {
        let args = args("a --upstream http://one/v1 --upstream https://two --upstream-model m --route tools");
        let keys = |text: &str| {
            let targets = upstream(&args, text).unwrap().targets;
            targets.into_iter().map(|target| target.key.unwrap_or_default()).collect::<Vec<_>>()
        };
        assert_eq!(keys("k"), ["k", ""]);
        assert_eq!(keys(",k"), ["", "k"]);
        let targets = upstream(&args, "").unwrap().targets;
        assert_eq!((targets[0].model.as_deref(), targets[1].model.as_deref()), (Some("m"), None));
        for line in [
            "a --upstream ftp://x",
            "a --upstream http://u:p@x",
            "a --upstream http://x --upstream-model a --upstream-model b",
        ] {
            assert!(upstream(&super::tests::args(line), "").is_err(), "{line}");
        }
    }

    #[test]
    fn addresses_are_local_unless_named() {
        assert_eq!(address(&args("a")).unwrap().to_string(), "127.0.0.1:8000");
        assert_eq!(address(&args("a --host [::1] --port 1")).unwrap().to_string(), "[::1]:1");
        assert!(address(&args("a --host 0.0.0.0")).is_ok());
    }

    #[test]
    fn empty_keys_open_nothing() {
        assert!(keys(&args("a --api-key=")).is_err() && keys(&args("a --admin-key=")).is_err());
        assert!(keys(&args("a --api-key k --api-key l")).unwrap().required());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        let from_file = |text: &str| {
            std::fs::write(&path, text).unwrap();
            keys(&args(&format!("a --api-key-file {}", path.display())))
        };
        assert!(from_file("# none\n\n").is_err() && from_file("# one\nkey\n").unwrap().required());
    }
}
