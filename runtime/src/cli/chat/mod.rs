//! `chat`: a conversation on the terminal, or through a pipe.
//!
//! Each turn renders the whole conversation; the prefix cache keeps what was computed, so that a turn costs what is new. A
//! line is a message unless it begins with a slash. Ctrl-C ends an answer, and what there is of it counts.

mod interrupt;
mod lines;
mod settings;
mod transcript;
mod turn;

use std::error::Error;
use std::io::{IsTerminal, Write};
use std::path::Path;

use serde_json::{Value, json};

use super::args::ChatArgs;
use super::session::Session;
use crate::kv::PrefixCacheOptions;
use crate::sample::SamplingParams;
use crate::text::tools::{AnswerDelta, AnswerFormat, ParsedAnswer};
use crate::text::{ChatRequest, ChatTemplate, StopConditions, Tokenizer};
use interrupt::Interrupt;
use lines::{Input, Lines};
use settings::Settings;
use turn::{Ending, Turn, TurnStats};

const HELP: &str = "\
/help                this text
/system [TEXT]       new system message, or none; the conversation begins again
/reset               forget the conversation
/regen               answer the last message again
/set [NAME VALUE]    temperature, top_k, top_p, min_p, repetition_penalty, seed or max_tokens; alone: show them
/stats               of the last answer: tokens, how many of them were cached, speed
/save FILE           write the messages as JSON
/load FILE           go on with the messages of such a file
/quit                leave, as Ctrl-D does
A message of several lines stands between two lines of \"\"\", or has a backslash at the end of each line but the last.
Ctrl-C stops an answer.";

/// Reads messages and streams the answers.
pub fn chat(args: &ChatArgs) -> Result<(), Box<dyn Error>> {
    let mut talk = Talk::open(args)?;
    let mut lines = Lines::open()?;
    eprintln!("{} · /help lists the commands", talk.session.artifact.manifest().model.name);
    while let Some(input) = lines.next()? {
        let result = match input {
            Input::Message(text) => talk.message(text),
            Input::Command(line) => match line.split_once(char::is_whitespace).unwrap_or((&line, "")) {
                ("/quit" | "/exit", _) => break,
                (word, rest) => talk.command(word, rest.trim()),
            },
        };
        // What went wrong with one message or command does not end the conversation.
        if let Err(error) = result {
            eprintln!("error: {error}");
        }
    }
    lines.close();
    Ok(())
}

/// A conversation.
struct Talk {
    session: Session,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    format: AnswerFormat,
    stop: StopConditions,
    settings: Settings,
    interrupt: Interrupt,
    messages: Vec<Value>,
    last: Option<TurnStats>,
}

impl Talk {
    fn open(args: &ChatArgs) -> Result<Talk, Box<dyn Error>> {
        let mut session = Session::open(&args.artifact, &args.device, None)?;
        session.engine.enable_prefix_cache(&PrefixCacheOptions::default())?;
        let (tokenizer, template) = (session.tokenizer()?, session.chat_template()?);
        let format = AnswerFormat::detect(&template, &tokenizer);
        let stop = StopConditions::new(args.sampling.stop.clone(), session.defaults.eos_ids.clone(), false)?;
        let settings = Settings::new(&args.sampling, &session.defaults)?;
        let mut talk = Talk {
            session,
            tokenizer,
            template,
            format,
            stop,
            settings,
            interrupt: Interrupt::install()?,
            messages: Vec::new(),
            last: None,
        };
        talk.set_system(args.system.as_deref().unwrap_or_default());
        Ok(talk)
    }

    fn set_system(&mut self, text: &str) {
        self.messages.clear();
        if !text.is_empty() {
            self.messages.push(json!({"role": "system", "content": text}));
        }
    }

    fn system(&self) -> String {
        let system = self.messages.first().filter(|m| m["role"] == "system");
        system.and_then(|m| m["content"].as_str()).unwrap_or_default().to_owned()
    }

    fn command(&mut self, word: &str, rest: &str) -> Result<(), Box<dyn Error>> {
        match word {
            "/help" => eprintln!("{HELP}"),
            "/system" => self.set_system(rest),
            "/reset" => self.set_system(&self.system()),
            "/regen" => return self.regenerate(),
            "/set" if rest.is_empty() => eprintln!("{}", self.settings),
            "/set" => self.settings.set(rest)?,
            "/stats" => match &self.last {
                Some(stats) => eprintln!("{}", stats.describe(&self.session.engine.device_name())),
                None => eprintln!("nothing was answered yet"),
            },
            "/save" => {
                transcript::save(file_of(word, rest)?, &self.messages)?;
                eprintln!("{} messages saved", self.messages.len());
            }
            "/load" => {
                self.messages = transcript::load(file_of(word, rest)?)?;
                eprintln!("{} messages loaded", self.messages.len());
            }
            _ => eprintln!("unknown command {word}; /help lists the commands"),
        }
        Ok(())
    }

    /// A message and its answer. A message that the template or the context cannot take is forgotten.
    fn message(&mut self, text: String) -> Result<(), Box<dyn Error>> {
        self.messages.push(json!({"role": "user", "content": text}));
        self.answer().inspect_err(|_| {
            self.messages.pop();
        })
    }

    fn regenerate(&mut self) -> Result<(), Box<dyn Error>> {
        if self.messages.last().is_some_and(|m| m["role"] == "assistant") {
            self.messages.pop();
        }
        match self.messages.last() {
            Some(last) if last["role"] == "user" => self.answer(),
            _ => Err("there is no message to answer".into()),
        }
    }

    fn answer(&mut self) -> Result<(), Box<dyn Error>> {
        let rendered = self.format.render(&self.template, &ChatRequest::new(&self.messages))?;
        let prompt = self.tokenizer.encode(&rendered, false)?;
        let mut screen = Screen::new();
        let (mut decoder, mut matcher) = (self.format.decode_stream(&self.tokenizer), self.stop.matcher());
        let (mut parser, mut answer) = (self.format.parser(&rendered, None), ParsedAnswer::default());
        let (sampling, max_tokens) = self.settings.of_turn();
        self.interrupt.answering(true);
        let turn =
            Turn { prompt: &prompt, sampling: &sampling, max_tokens, stop: &self.stop, interrupt: &self.interrupt };
        let mut show = |text: &str, answer: &mut ParsedAnswer| {
            let deltas = parser.push(text);
            screen.show(&deltas)?;
            answer.extend(deltas);
            Ok::<(), Box<dyn Error>>(())
        };
        let stats = turn.run(&mut self.session.engine, |token| {
            let piece = matcher.push(decoder.push(token)?);
            show(&piece.text, &mut answer)?;
            Ok(piece.matched.is_none())
        });
        self.interrupt.answering(false);
        let stats = stats?;
        if stats.ending != Ending::StopString {
            let rest = matcher.push(&decoder.finish()).text + &matcher.finish();
            show(&rest, &mut answer)?;
        }
        let rest = parser.finish();
        screen.show(&rest)?;
        answer.extend(rest);
        screen.end(&stats)?;
        let nothing = answer.content.is_empty() && answer.reasoning.is_empty();
        if nothing && stats.ending == Ending::Interrupted {
            return Err("stopped before the answer began".into());
        }
        self.last = Some(stats);
        let mut message = json!({"role": "assistant", "content": answer.content});
        if !answer.reasoning.is_empty() {
            message["reasoning_content"] = answer.reasoning.into();
        }
        self.messages.push(message);
        Ok(())
    }
}

fn file_of<'a>(command: &str, rest: &'a str) -> Result<&'a Path, String> {
    if rest.is_empty() { Err(format!("{command} needs the name of a file")) } else { Ok(Path::new(rest)) }
}

/// Where answers are shown: thoughts dimmed on a terminal, and apart from the answer, on standard error, elsewhere.
struct Screen {
    is_terminal: bool,
    dimmed: bool,
}

impl Screen {
    fn new() -> Screen {
        Screen { is_terminal: std::io::stdout().is_terminal(), dimmed: false }
    }

    fn show(&mut self, deltas: &[AnswerDelta]) -> std::io::Result<()> {
        let mut out = std::io::stdout().lock();
        for delta in deltas {
            match delta {
                AnswerDelta::Content(text) => {
                    if std::mem::take(&mut self.dimmed) {
                        out.write_all(if self.is_terminal { b"\x1b[0m\n\n" } else { b"" })?;
                    }
                    out.write_all(text.as_bytes())?;
                }
                AnswerDelta::Reasoning(text) if self.is_terminal => {
                    if !std::mem::replace(&mut self.dimmed, true) {
                        out.write_all(b"\x1b[2m")?;
                    }
                    out.write_all(text.as_bytes())?;
                }
                AnswerDelta::Reasoning(text) => eprint!("{text}"),
                // Without tools a parser tells of no calls.
                AnswerDelta::CallBegin { .. } | AnswerDelta::CallArguments { .. } => {}
            }
        }
        out.flush()
    }

    fn end(&mut self, stats: &TurnStats) -> std::io::Result<()> {
        let mut out = std::io::stdout().lock();
        if std::mem::take(&mut self.dimmed) && self.is_terminal {
            out.write_all(b"\x1b[0m")?;
        }
        writeln!(out)?;
        out.flush()?;
        match stats.ending {
            Ending::Interrupted => eprintln!("[stopped]"),
            Ending::Length => eprintln!("[cut off after {} tokens]", stats.generated_tokens),
            Ending::StopToken | Ending::StopString => {}
        }
        Ok(())
    }
}

/// How tokens of a turn are chosen.
type TurnSampling = (SamplingParams, u64);
