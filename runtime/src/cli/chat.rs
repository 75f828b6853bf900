//! `chat`: a conversation on the terminal.
//!
//! Each turn renders the whole conversation and generates after it.

use std::error::Error;
use std::io::Write;

use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use serde_json::{Value, json};

use super::args::ChatArgs;
use super::run::{print_stats, stream};
use super::session::Session;
use crate::engine::generate::Timings;
use crate::text::{ChatRequest, ChatTemplate, StopConditions, Tokenizer};

const HELP: &str = "/help this text · /system TEXT new system message · /reset forget the conversation · /stats of the last answer · /quit";

/// Reads messages line by line and streams the answers.
pub fn chat(args: &ChatArgs) -> Result<(), Box<dyn Error>> {
    let mut talk = Talk::open(args)?;
    let mut editor = DefaultEditor::new()?;
    eprintln!("{} · {HELP}", talk.session.artifact.manifest().model.name);
    loop {
        let line = match editor.readline("> ") {
            Ok(line) => line,
            Err(ReadlineError::Interrupted | ReadlineError::Eof) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        editor.add_history_entry(line)?;
        match line.split_once(' ').unwrap_or((line, "")) {
            ("/quit" | "/exit", _) => return Ok(()),
            ("/help", _) => eprintln!("{HELP}"),
            ("/reset", _) => talk.reset(),
            ("/stats", _) => print_stats(&talk.session, &talk.last),
            ("/system", text) => talk.set_system(text),
            (word, _) if word.starts_with('/') => eprintln!("unknown command {word} · {HELP}"),
            _ => talk.turn(line, args)?,
        }
    }
}

/// A conversation.
struct Talk {
    session: Session,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    system: Option<String>,
    messages: Vec<Value>,
    last: Timings,
}

impl Talk {
    fn open(args: &ChatArgs) -> Result<Talk, Box<dyn Error>> {
        let session = Session::open(&args.artifact, &args.device, None)?;
        let (tokenizer, template) = (session.tokenizer()?, session.chat_template()?);
        let mut talk = Talk {
            session,
            tokenizer,
            template,
            system: args.system.clone(),
            messages: Vec::new(),
            last: Timings::default(),
        };
        talk.reset();
        Ok(talk)
    }

    fn reset(&mut self) {
        let system = self.system.iter().map(|content| json!({"role": "system", "content": content}));
        self.messages = system.collect();
    }

    fn set_system(&mut self, text: &str) {
        self.system = (!text.is_empty()).then(|| text.to_string());
        self.reset();
    }

    /// One message and its answer. A message the template or the context cannot take is reported and forgotten.
    fn turn(&mut self, text: &str, args: &ChatArgs) -> Result<(), Box<dyn Error>> {
        self.messages.push(json!({"role": "user", "content": text}));
        match self.answer(args) {
            Ok(answer) => self.messages.push(json!({"role": "assistant", "content": answer})),
            Err(error) => {
                self.messages.pop();
                eprintln!("error: {error}");
            }
        }
        Ok(())
    }

    fn answer(&mut self, args: &ChatArgs) -> Result<String, Box<dyn Error>> {
        let rendered = self.template.render(&ChatRequest::new(&self.messages))?;
        let prompt = self.tokenizer.encode(&rendered, false)?;
        let request = self.session.request(prompt, &args.sampling)?;
        let stop = StopConditions::new(args.sampling.stop.clone(), Vec::new(), false)?;
        let mut out = std::io::stdout().lock();
        let answer = stream(&mut self.session, &self.tokenizer, &request, &stop, &mut |piece| {
            out.write_all(piece.as_bytes()).and_then(|()| out.flush())
        })?;
        writeln!(out)?;
        self.last = answer.timings;
        Ok(answer.text)
    }
}
