//! `bench --prefix`: what a known beginning of a prompt saves, as the time to the first token.
//!
//! A system prompt is asked a first question and then another. The first is computed whole; the second finds the system prompt in
//! the device's pages, after a new start in files on disk, which the engine has had time to bring to the device or not, or among the
//! artifact's baked prompts. A time runs from when the tokens are given until the first token of the answer is chosen; each is the
//! median of the repetitions.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::args::BenchArgs;
use super::bench::median;
use super::session::Session;
use crate::artifact::{Artifact, OpenOptions};
use crate::engine::bake::copy_with_prompts;
use crate::engine::{Chunk, Engine, EngineError, EngineOptions, Rows};
use crate::kv::salt::CacheSalt;
use crate::kv::{PrefixCacheOptions, Tending};
use crate::sample::{History, Sampler, SamplingParams};
use crate::text::ChatRequest;

/// Tokens of a system prompt unless asked for.
pub(super) const SYSTEM_TOKENS: u64 = 900;

/// Room for questions and the template beside the system prompt.
const ROOM: u64 = 124;

/// How long pages may take to get to disk.
const PERSIST: Duration = Duration::from_secs(60);

/// A system prompt and two questions to it, as tokens.
struct Prompts {
    /// What all requests begin with.
    system: Vec<u32>,
    first: Vec<u32>,
    second: Vec<u32>,
}

/// Times to the first token in seconds, and the tokens that were found.
struct Measured {
    cold: f64,
    tiers: [(&'static str, f64, u64); 4],
}

/// Measures and prints a table or JSON.
pub(super) fn bench_prefix(args: &BenchArgs) -> Result<(), Box<dyn Error>> {
    let mut device = args.device.clone();
    let tokens = args.prefix_tokens;
    device.max_model_len = Some(device.max_model_len.unwrap_or(tokens + ROOM));
    // Room for the prompts of a repetition before those of the last are given up.
    let mut session = Session::open(&args.artifact, &device, Some(2 * (tokens + ROOM)))?;
    let prompts = prompts(&session, tokens)?;
    let measured = measure(&mut session, args, &prompts)?;
    let report = report(&session, args, &prompts, &measured);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
        return Ok(());
    }
    println!("{} on {}", session.artifact.manifest().model.name, session.engine.device_name());
    println!("{} tokens, first token after {:.1} ms cold", prompts.second.len(), measured.cold * 1e3);
    for (tier, seconds, cached) in measured.tiers {
        let ratio = measured.cold / seconds;
        println!("{tier:>9}: {cached} tokens found, {:.1} ms, {ratio:.1} times less", seconds * 1e3);
    }
    Ok(())
}

fn measure(session: &mut Session, args: &BenchArgs, prompts: &Prompts) -> Result<Measured, Box<dyn Error>> {
    let no_host = PrefixCacheOptions { host_bytes: 0, ..PrefixCacheOptions::default() };
    session.engine.enable_prefix_cache(&no_host)?;
    let (mut cold, mut memory) = (Vec::new(), Vec::new());
    // The first repetition touches memory for the first time and does not count.
    for repetition in 0..=args.repetitions {
        let salt = CacheSalt::new(None, Some(&repetition.to_string()));
        cold.push(first_token(&mut session.engine, &salt, &prompts.first)?);
        memory.push(first_token(&mut session.engine, &salt, &prompts.second)?);
    }
    let baked_folder = tempfile::tempdir()?;
    copy_with_prompts(&session.artifact, std::slice::from_ref(&prompts.system), baked_folder.path())?;
    let baked_artifact = Arc::new(Artifact::open(baked_folder.path(), &OpenOptions::default())?);
    let disk_folder = tempfile::tempdir()?;
    let on_disk = PrefixCacheOptions { dir: Some(disk_folder.path().into()), ..PrefixCacheOptions::default() };
    let read_late = PrefixCacheOptions { host_bytes: 0, ..on_disk.clone() };
    let mut engine = new_engine(&session.artifact, session, args, &on_disk)?;
    first_token(&mut engine, &CacheSalt::PUBLIC, &prompts.first)?;
    if !engine.flush_prefix_cache(PERSIST)? {
        return Err(format!("{}: pages are not on disk after {PERSIST:?}", disk_folder.path().display()).into());
    }
    drop(engine);
    let (mut disk, mut late, mut baked) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..=args.repetitions {
        disk.push(after_start(&session.artifact, session, args, &on_disk, prompts)?);
        late.push(after_start(&session.artifact, session, args, &read_late, prompts)?);
        baked.push(after_start(&baked_artifact, session, args, &no_host, prompts)?);
    }
    let tier = |name, times: &[(f64, u64)]| (name, seconds(times), times.iter().map(|t| t.1).min().unwrap_or(0));
    let tiers = [tier("memory", &memory), tier("disk", &disk), tier("disk_late", &late), tier("baked", &baked)];
    Ok(Measured { cold: seconds(&cold), tiers })
}

/// Median of all times but the first.
fn seconds(times: &[(f64, u64)]) -> f64 {
    median(times.iter().skip(1).map(|t| t.0))
}

/// The second question as the first request to a new engine, which has run one step of a single token before and, as a server's
/// does after it started, has brought what it found on disk to the device, if `options` give it room in the host's memory on the way.
fn after_start(
    artifact: &Arc<Artifact>,
    session: &Session,
    args: &BenchArgs,
    options: &PrefixCacheOptions,
    prompts: &Prompts,
) -> Result<(f64, u64), Box<dyn Error>> {
    let mut engine = new_engine(artifact, session, args, options)?;
    let sequence = engine.open_sequence();
    engine.step(&[Chunk { sequence, tokens: &prompts.second[..1], logits: Rows::Last }])?;
    engine.close_sequence(sequence)?;
    engine.wait_until_prefixes_are_warm();
    while engine.tend_prefix_cache()? == Tending::Now {}
    Ok(first_token(&mut engine, &CacheSalt::PUBLIC, &prompts.second)?)
}

fn new_engine(
    artifact: &Arc<Artifact>,
    session: &Session,
    args: &BenchArgs,
    options: &PrefixCacheOptions,
) -> Result<Engine, Box<dyn Error>> {
    let engine_options = EngineOptions {
        max_model_len: Some(session.engine.max_model_len()),
        kv_tokens: Some(session.engine.pool().pages() * ir::op::PAGE_TOKENS),
        device: args.device.device.parse()?,
        threads: args.device.threads,
        isa: args.device.isa.as_deref().map(super::session::parse_isa).transpose()?,
        memory: None,
        gpu: args.device.gpu_options(),
    };
    let mut engine = Engine::new(artifact.clone(), &engine_options)?;
    engine.enable_prefix_cache(options)?;
    Ok(engine)
}

/// Seconds until the first token of an answer, and the tokens of the prompt that were found.
fn first_token(engine: &mut Engine, salt: &CacheSalt, prompt: &[u32]) -> Result<(f64, u64), EngineError> {
    let start = Instant::now();
    let (sequence, cached) = engine.open_cached(salt, prompt)?;
    let tokens = &prompt[cached.total() as usize..];
    let logits = engine.step(&[Chunk { sequence, tokens, logits: Rows::Last }])?;
    let row = logits.row(0).ok_or(EngineError::NoLogits)?;
    let history = History { prompt, output: &[] };
    let chosen = Sampler::new().sample(row, history, &SamplingParams::greedy(), prompt.len() as u64);
    let time = start.elapsed().as_secs_f64();
    engine.close_sequence(sequence)?;
    chosen.map(|_| (time, cached.total())).map_err(|e| EngineError::Option { option: "logits", message: e.to_string() })
}

/// A system prompt of about so many tokens and two questions, in the artifact's chat format, or as plain text where it has none.
fn prompts(session: &Session, tokens: u64) -> Result<Prompts, Box<dyn Error>> {
    let tokenizer = session.tokenizer()?;
    let mut system = String::from("You answer questions about the archive of a town. These are its rules.");
    let mut rule = 0u32;
    while (tokenizer.encode(&system, false)?.len() as u64) < tokens {
        rule += 1;
        system += &format!(
            " Rule {rule}: whoever asks for shelf {} is told what stands there, in one sentence.",
            rule * 7 % 90
        );
    }
    let template = session.chat_template();
    let encode = |question: Option<&str>| -> Result<Vec<u32>, Box<dyn Error>> {
        let mut messages = vec![json!({"role": "system", "content": system})];
        messages.extend(question.map(|q| json!({"role": "user", "content": q})));
        match &template {
            Ok(template) => {
                let request = ChatRequest { add_generation_prompt: question.is_some(), ..ChatRequest::new(&messages) };
                Ok(tokenizer.encode(&template.render(&request)?, false)?)
            }
            Err(_) => Ok(tokenizer.encode(&format!("{system}\n{}", question.unwrap_or_default()), true)?),
        }
    };
    Ok(Prompts {
        system: encode(None)?,
        first: encode(Some("Which rules are there?"))?,
        second: encode(Some("What stands on shelf 14?"))?,
    })
}

fn report(session: &Session, args: &BenchArgs, prompts: &Prompts, measured: &Measured) -> Value {
    let mut report = json!({
        "model": session.artifact.manifest().model.name,
        "device": session.engine.device_name(),
        "prompt_tokens": prompts.second.len(),
        "repetitions": args.repetitions,
        "cold_s": measured.cold,
    });
    for (tier, seconds, cached) in measured.tiers {
        report[format!("{tier}_s")] = json!(seconds);
        report[format!("{tier}_cached_tokens")] = json!(cached);
        report[format!("{tier}_ratio")] = json!(measured.cold / seconds);
    }
    report
}
