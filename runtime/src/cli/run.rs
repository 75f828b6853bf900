//! `run`: one prompt, one answer.

use std::error::Error;
use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::path::Path;

use serde_json::{Value, json};

use super::args::{DeviceArgs, RunArgs};
use super::session::Session;
use crate::engine::generate::{FinishReason, Generation, GenerationRequest, Timings, generate};
use crate::memory;
use crate::text::{ChatRequest, StopConditions, Tokenizer};

/// Answers a prompt: streams text, or prints one JSON object.
pub fn run(args: &RunArgs) -> Result<(), Box<dyn Error>> {
    let mut session = open(&args.artifact, &args.device)?;
    let tokenizer = session.tokenizer()?;
    let text = prompt_text(&args.prompt)?;
    let prompt = if args.chat {
        let messages = messages(args.system.as_deref(), &text);
        let rendered = session.chat_template()?.render(&ChatRequest::new(&messages))?;
        tokenizer.encode(&rendered, false)?
    } else {
        tokenizer.encode(&text, true)?
    };
    let request = session.request(prompt, &args.sampling)?;
    let stop = StopConditions::new(args.sampling.stop.clone(), Vec::new(), false)?;
    let mut out = std::io::stdout().lock();
    let show = !args.json;
    let answer = stream(&mut session, &tokenizer, &request, &stop, &mut |piece| {
        if show { out.write_all(piece.as_bytes()).and_then(|()| out.flush()) } else { Ok(()) }
    })?;
    if args.json {
        println!("{}", describe(&session, &request, &answer));
    } else {
        println!();
    }
    if args.stats {
        print_stats(&session, &answer.timings);
    }
    Ok(())
}

fn open(artifact: &Path, device: &DeviceArgs) -> Result<Session, Box<dyn Error>> {
    Session::open(artifact, device, None)
}

fn prompt_text(argument: &str) -> Result<String, std::io::Error> {
    if argument != "-" {
        return Ok(argument.to_string());
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    Ok(text)
}

/// The messages of a first turn.
pub fn messages(system: Option<&str>, user: &str) -> Vec<Value> {
    let system = system.map(|content| json!({"role": "system", "content": content}));
    system.into_iter().chain([json!({"role": "user", "content": user})]).collect()
}

/// A generated answer.
pub struct Answer {
    /// Its text, without a stop string.
    pub text: String,
    /// Its tokens.
    pub generation: Generation,
    /// What it took.
    pub timings: Timings,
    /// The first stop string met.
    pub stop: Option<String>,
}

/// Generates an answer and shows its text as it comes.
pub fn stream(
    session: &mut Session,
    tokenizer: &Tokenizer,
    request: &GenerationRequest,
    stop: &StopConditions,
    show: &mut dyn FnMut(&str) -> std::io::Result<()>,
) -> Result<Answer, Box<dyn Error>> {
    let (mut decoder, mut matcher) = (tokenizer.decode_stream(true), stop.matcher());
    let (mut text, mut matched, mut failure) = (String::new(), None, None::<Box<dyn Error>>);
    let (mut generations, timings) = generate(&mut session.engine, std::slice::from_ref(request), |event| {
        let piece = match decoder.push(event.token) {
            Ok(piece) => matcher.push(piece),
            Err(error) => {
                failure = Some(error.into());
                return ControlFlow::Break(());
            }
        };
        text.push_str(&piece.text);
        if let Err(error) = show(&piece.text) {
            failure = Some(error.into());
            return ControlFlow::Break(());
        }
        matched = piece.matched.map(|s| s.to_string());
        if matched.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    if let Some(error) = failure {
        return Err(error);
    }
    if matched.is_none() {
        let last = matcher.push(&decoder.finish());
        let rest = last.text + &if last.matched.is_none() { matcher.finish() } else { String::new() };
        show(&rest)?;
        text.push_str(&rest);
    }
    let generation = generations.pop().unwrap_or(Generation { tokens: Vec::new(), finish: FinishReason::Length });
    Ok(Answer { text, generation, timings, stop: matched })
}

fn describe(session: &Session, request: &GenerationRequest, answer: &Answer) -> Value {
    let finish = match (&answer.stop, answer.generation.finish) {
        (Some(_), _) | (None, FinishReason::Stop) => "stop",
        (None, FinishReason::Length) => "length",
        (None, FinishReason::Cancelled) => "cancelled",
    };
    json!({
        "text": answer.text,
        "tokens": answer.generation.tokens,
        "finish_reason": finish,
        "seed": request.sampling.seed,
        "device": session.engine.device_name(),
        "prompt_tokens": answer.timings.prompt_tokens,
        "generated_tokens": answer.timings.generated_tokens,
        "prompt_tokens_per_s": answer.timings.prompt_rate(),
        "generation_tokens_per_s": answer.timings.generation_rate(),
        "time_to_first_token_s": answer.timings.first_token.as_secs_f64(),
        "peak_memory_bytes": memory::peak_bytes(),
    })
}

/// Speed, latency and memory, to standard error.
pub fn print_stats(session: &Session, t: &Timings) {
    let peak = memory::peak_bytes().map_or("unknown".into(), |p| format!("{:.0} MB", p as f64 / 1e6));
    eprintln!(
        "[{}] prompt {} tokens, {:.0} tokens/s · generation {} tokens, {:.1} tokens/s · first token after {:.0} ms · peak memory {peak}",
        session.engine.device_name(),
        t.prompt_tokens,
        t.prompt_rate(),
        t.generated_tokens,
        t.generation_rate(),
        t.first_token.as_secs_f64() * 1e3,
    );
}
