//! Messages and commands from the keyboard, with editing and a history that is kept, or from a pipe.

use std::env;
use std::error::Error;
use std::fs;
use std::io::{self, BufRead, IsTerminal};
use std::path::PathBuf;

use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{Config, Editor};

/// Entries of the history.
const HISTORY: usize = 1000;
const QUOTES: &str = "\"\"\"";

/// What was typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// A message, perhaps of several lines.
    Message(String),
    /// A line that begins with a slash.
    Command(String),
}

/// Where lines come from.
pub(super) struct Lines {
    source: Source,
    history: Option<PathBuf>,
}

enum Source {
    Keyboard(Box<Editor<(), FileHistory>>),
    Pipe(Box<dyn BufRead>),
}

/// What asking for a line gave.
enum Line {
    Text(String),
    /// Ctrl-C.
    Interrupted,
    End,
}

impl Lines {
    /// Standard input.
    pub(super) fn open() -> Result<Lines, Box<dyn Error>> {
        if !io::stdin().is_terminal() {
            return Ok(Lines { source: Source::Pipe(Box::new(io::stdin().lock())), history: None });
        }
        let config = Config::builder().max_history_size(HISTORY)?.history_ignore_space(true).build();
        let mut editor = Editor::with_config(config)?;
        let history = history_file();
        if let Some(path) = &history {
            // There is none before the first conversation.
            let _ = editor.load_history(path);
        }
        Ok(Lines { source: Source::Keyboard(Box::new(editor)), history })
    }

    /// The next message or command; `None` at the end of the input, or after Ctrl-C twice.
    pub(super) fn next(&mut self) -> Result<Option<Input>, Box<dyn Error>> {
        let mut interrupted = false;
        loop {
            let line = match self.line("> ")? {
                Line::Text(line) => line,
                Line::End => return Ok(None),
                Line::Interrupted if interrupted => return Ok(None),
                Line::Interrupted => {
                    interrupted = true;
                    eprintln!("Ctrl-C again or Ctrl-D leaves");
                    continue;
                }
            };
            interrupted = false;
            let Some(input) = self.rest_of(line)? else { continue };
            self.remember(&input);
            return Ok(Some(input));
        }
    }

    /// Keeps the history. That it cannot be written is no reason to end otherwise than well.
    pub(super) fn close(&mut self) {
        if let (Source::Keyboard(editor), Some(path)) = (&mut self.source, &self.history) {
            let saved = path.parent().map_or(Ok(()), fs::create_dir_all).map_err(ReadlineError::from);
            if let Err(error) = saved.and_then(|()| editor.save_history(path)) {
                eprintln!("warning: {}: the history was not kept: {error}", path.display());
            }
        }
    }

    /// What begins with `line`, with the lines that belong to it; `None` for nothing, or if Ctrl-C took it back.
    fn rest_of(&mut self, line: String) -> Result<Option<Input>, Box<dyn Error>> {
        let text = match line.trim_start().strip_prefix(QUOTES) {
            Some(first) => self.quoted(first)?,
            None if line.trim_start().starts_with('/') => return Ok(Some(Input::Command(line.trim().to_owned()))),
            None => self.continued(line)?,
        };
        Ok(text.filter(|text| !text.trim().is_empty()).map(Input::Message))
    }

    /// The lines up to the closing quotes.
    fn quoted(&mut self, first: &str) -> Result<Option<String>, Box<dyn Error>> {
        let mut lines = vec![first.to_owned()];
        loop {
            if let Some(last) = lines.last().and_then(|line| line.trim_end().strip_suffix(QUOTES)) {
                let last = last.to_owned();
                lines.pop();
                lines.push(last);
                return Ok(Some(lines.join("\n").trim_matches('\n').to_owned()));
            }
            match self.line("… ")? {
                Line::Text(line) => lines.push(line),
                Line::Interrupted => return Ok(None),
                Line::End => return Ok(Some(lines.join("\n").trim_matches('\n').to_owned())),
            }
        }
    }

    /// The line, and those that follow a backslash at its end.
    fn continued(&mut self, line: String) -> Result<Option<String>, Box<dyn Error>> {
        let mut text = line;
        while let Some(kept) = text.strip_suffix('\\') {
            let kept = kept.to_owned();
            match self.line("… ")? {
                Line::Text(line) => text = kept + "\n" + &line,
                Line::Interrupted => return Ok(None),
                Line::End => return Ok(Some(kept)),
            }
        }
        Ok(Some(text))
    }

    fn line(&mut self, prompt: &str) -> Result<Line, Box<dyn Error>> {
        match &mut self.source {
            Source::Keyboard(editor) => match editor.readline(prompt) {
                Ok(line) => Ok(Line::Text(line)),
                Err(ReadlineError::Interrupted) => Ok(Line::Interrupted),
                Err(ReadlineError::Eof) => Ok(Line::End),
                Err(error) => Err(error.into()),
            },
            Source::Pipe(reader) => {
                let mut bytes = Vec::new();
                if reader.read_until(b'\n', &mut bytes)? == 0 {
                    return Ok(Line::End);
                }
                let text = String::from_utf8_lossy(&bytes);
                Ok(Line::Text(text.trim_end_matches(['\n', '\r']).to_owned()))
            }
        }
    }

    fn remember(&mut self, input: &Input) {
        let (Input::Message(text) | Input::Command(text)) = input;
        if let Source::Keyboard(editor) = &mut self.source {
            // An entry that is the last one again is not added; there is nothing else to fail.
            let _ = editor.add_history_entry(text.as_str());
        }
    }
}

/// `moesaic/chat_history` in `XDG_STATE_HOME` or `~/.local/state`; `None` where there is neither.
fn history_file() -> Option<PathBuf> {
    let set = |name| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let state =
        set("XDG_STATE_HOME").filter(|p| p.is_absolute()).or_else(|| Some(set("HOME")?.join(".local/state")))?;
    Some(state.join("moesaic/chat_history"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs(text: &str) -> Vec<Input> {
        let source = Source::Pipe(Box::new(io::Cursor::new(text.as_bytes().to_vec())));
        let mut lines = Lines { source, history: None };
        std::iter::from_fn(|| lines.next().expect("a pipe does not fail")).collect()
    }

    #[test]
    fn messages_may_have_several_lines() {
        let message = |text: &str| Input::Message(text.into());
        assert_eq!(inputs("one\n\n  \ntwo\\\nthree\\\n four\r\n"), [message("one"), message("two\nthree\n four")]);
        assert_eq!(inputs("\"\"\"\na\n/help\n\nb\n\"\"\"\nc"), [message("a\n/help\n\nb"), message("c")]);
        assert_eq!(
            inputs("\"\"\"a\nb\"\"\"\n\"\"\"x\"\"\"\n\"\"\"open\nend"),
            [message("a\nb"), message("x"), message("open\nend")]
        );
        assert_eq!(
            inputs(" /stats \n/save a b\nx\\"),
            [Input::Command("/stats".into()), Input::Command("/save a b".into()), message("x")]
        );
        assert_eq!(inputs("\"\"\"\n\n\"\"\"\n"), []);
    }
}
