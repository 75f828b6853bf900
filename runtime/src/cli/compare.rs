//! `compare`: what one artifact's predictions lose against another's on a text.
//!
//! Both engines read the same windows at the same time, a piece of a window in turn, and each pair of rows is compared
//! while it lies in the devices' memory: nothing is written down, and memory does not grow with the text. Positions are
//! those of `perplexity`, so its figures come out the same.

use std::error::Error;
use std::path::Path;

use serde_json::{Value, json};

use super::args::{CompareArgs, DeviceArgs};
use super::divergence::{Divergence, DivergenceSummary};
use super::session::{Session, read_text};
use super::windows::{Loss, Windows, negative_log_likelihood};
use crate::engine::{Chunk, Rows};
use crate::kv::pages::SequenceId;

/// Why two artifacts cannot be compared.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// They do not predict the same tokens.
    #[error("{a} has a vocabulary of {size_a} tokens, {b} one of {size_b}; compare models of the same vocabulary")]
    Vocabulary {
        /// The first artifact.
        a: String,
        /// The second artifact.
        b: String,
        /// Vocabulary of the first.
        size_a: usize,
        /// Vocabulary of the second.
        size_b: usize,
    },
    /// Their tokenizers read the text differently.
    #[error("{a} and {b} read the text as different tokens from token {at} on; compare models of the same tokenizer")]
    Tokens {
        /// The first artifact.
        a: String,
        /// The second artifact.
        b: String,
        /// The first token that differs.
        at: usize,
    },
    /// There is nothing to predict.
    #[error("{text}: has {tokens} tokens within --max-tokens; expected at least 2")]
    Short {
        /// The text's file.
        text: String,
        /// Its length.
        tokens: usize,
    },
    /// A window holds no prediction.
    #[error("--window: expected at least 2 tokens, found {0}")]
    Window(u64),
    /// A model's logits are no numbers.
    #[error("{artifact}: the logits after token {at} of the text are no numbers; its checkpoint is damaged")]
    NotANumber {
        /// The artifact.
        artifact: String,
        /// The position in the text.
        at: usize,
    },
}

/// Prints how far B's predictions are from A's.
pub fn compare(args: &CompareArgs) -> Result<(), Box<dyn Error>> {
    if args.window < 2 {
        return Err(CompareError::Window(args.window).into());
    }
    let text = read_text(&args.text)?;
    let a = open(&args.a, &args.device, args.window)?;
    let b = open(&args.b, &args.device, args.window)?;
    let ids = tokens(&a, &b, &text, args)?;
    // A shorter text is one window of its own length.
    let window = ids.len().min(usize::try_from(args.window).unwrap_or(usize::MAX));
    let short = || CompareError::Short { text: args.text.display().to_string(), tokens: ids.len() };
    let windows = Windows::cut(&ids, window).ok_or_else(short)?;
    let bytes = (artifact_bytes(&a), artifact_bytes(&b));
    let mut comparison = Comparison::new(a, b);
    let bar = indicatif::ProgressBar::new((windows.count() * window) as u64);
    for (number, tokens) in windows.iter().enumerate() {
        comparison.add_window(tokens, number * window, &|n| bar.inc(n))?;
    }
    bar.finish_and_clear();
    let figures = comparison.figures().ok_or_else(short)?;
    if args.json {
        println!("{}", figures.json(bytes, ids.len(), &windows, window));
    } else {
        figures.print(bytes);
        println!("{} positions in {} windows of {window} tokens", windows.scored(), windows.count());
    }
    Ok(())
}

/// Loads one side for windows of at most that many tokens.
fn open(path: &Path, device: &DeviceArgs, window: u64) -> Result<Session, Box<dyn Error>> {
    let mut device = device.clone();
    device.max_model_len = Some(device.max_model_len.unwrap_or(window));
    Session::open(path, &device, Some(window))
}

/// The text's tokens, at most as many as asked for, once both sides agree on them.
fn tokens(a: &Session, b: &Session, text: &str, args: &CompareArgs) -> Result<Vec<u32>, Box<dyn Error>> {
    let names = || (a.path.display().to_string(), b.path.display().to_string());
    let (size_a, size_b) = (a.engine.vocabulary(), b.engine.vocabulary());
    if size_a != size_b {
        let (a, b) = names();
        return Err(CompareError::Vocabulary { a, b, size_a, size_b }.into());
    }
    let mut ids = a.tokenizer()?.encode(text, false)?;
    let others = b.tokenizer()?.encode(text, false)?;
    if ids != others {
        let (a, b) = names();
        let at = ids.iter().zip(&others).take_while(|(x, y)| x == y).count();
        return Err(CompareError::Tokens { a, b, at }.into());
    }
    if let Some(most) = args.max_tokens {
        ids.truncate(usize::try_from(most).unwrap_or(usize::MAX));
    }
    Ok(ids)
}

/// Bytes of all files the manifest lists.
fn artifact_bytes(session: &Session) -> u64 {
    session.artifact.manifest().files.values().map(|f| f.bytes).sum()
}

/// Two loaded artifacts and what their predictions have added up to.
struct Comparison {
    a: Session,
    b: Session,
    loss_a: Loss,
    loss_b: Loss,
    divergence: Divergence,
}

impl Comparison {
    fn new(a: Session, b: Session) -> Comparison {
        let (loss_a, loss_b) = (Loss::default(), Loss::default());
        Comparison { a, b, loss_a, loss_b, divergence: Divergence::default() }
    }

    /// Adds a window that begins at token `start` of the text.
    fn add_window(&mut self, window: &[u32], start: usize, advance: &dyn Fn(u64)) -> Result<(), Box<dyn Error>> {
        let length = window.len() as u64;
        let a = self.a.engine.open_sequence_for(length);
        let b = self.b.engine.open_sequence_for(length);
        let result = self.add_pieces((a, b), window, start, advance);
        self.a.engine.close_sequence(a)?;
        self.b.engine.close_sequence(b)?;
        result
    }

    /// Runs a window in pieces that each engine computes in one sub-step. Logits do not depend on how a prompt is cut, so
    /// this gives the bits of a whole window.
    fn add_pieces(
        &mut self,
        (a, b): (SequenceId, SequenceId),
        window: &[u32],
        start: usize,
        advance: &dyn Fn(u64),
    ) -> Result<(), Box<dyn Error>> {
        let piece = self.a.engine.max_logit_rows().min(self.b.engine.max_logit_rows()).max(1);
        let mut scores = Scores::default();
        for (number, tokens) in window.chunks(piece).enumerate() {
            let first = number * piece;
            // A's rows stay in its device's memory while B's are handed over one by one.
            let rows = self.a.engine.step(&[Chunk { sequence: a, tokens, logits: Rows::All }])?;
            self.b.engine.step_each(&[Chunk { sequence: b, tokens, logits: Rows::All }], |row| {
                let at = first + row.token;
                if let (Some(next), Some(a)) = (window.get(at + 1), rows.row(row.token)) {
                    scores.add(at, (a, row.logits), *next as usize);
                    self.divergence.add(a, row.logits);
                }
            })?;
            if let Some((is_b, at)) = scores.undefined {
                let session = if is_b { &self.b } else { &self.a };
                let artifact = session.path.display().to_string();
                return Err(CompareError::NotANumber { artifact, at: start + at }.into());
            }
            advance(tokens.len() as u64);
        }
        self.loss_a.add(scores.loss_a, window.len() - 1);
        self.loss_b.add(scores.loss_b, window.len() - 1);
        Ok(())
    }

    fn figures(self) -> Option<Figures> {
        let (perplexity_a, perplexity_b) = (self.loss_a.perplexity(), self.loss_b.perplexity());
        Some(Figures { perplexity_a, perplexity_b, divergence: self.divergence.summary()? })
    }
}

/// Losses of one window.
#[derive(Default)]
struct Scores {
    loss_a: f64,
    loss_b: f64,
    /// The first position with a loss that is no number, and whether it is B's.
    undefined: Option<(bool, usize)>,
}

impl Scores {
    /// Adds the position `at`, after which `next` follows.
    fn add(&mut self, at: usize, (a, b): (&[f32], &[f32]), next: usize) {
        let (loss_a, loss_b) = (negative_log_likelihood(a, next), negative_log_likelihood(b, next));
        if loss_a.is_nan() || loss_b.is_nan() {
            self.undefined.get_or_insert((!loss_a.is_nan(), at));
        }
        self.loss_a += loss_a;
        self.loss_b += loss_b;
    }
}

/// What is reported.
struct Figures {
    perplexity_a: f64,
    perplexity_b: f64,
    divergence: DivergenceSummary,
}

impl Figures {
    fn json(&self, (bytes_a, bytes_b): (u64, u64), tokens: usize, windows: &Windows<'_>, window: usize) -> Value {
        json!({
            "perplexity_a": self.perplexity_a,
            "perplexity_b": self.perplexity_b,
            "kl_mean": self.divergence.kl_mean,
            "kl_p99": self.divergence.kl_p99,
            "same_top1": self.divergence.same_top1,
            "bytes_a": bytes_a,
            "bytes_b": bytes_b,
            "tokens": tokens,
            "windows": windows.count(),
            "scored": windows.scored(),
            "window": window,
        })
    }

    fn print(&self, (bytes_a, bytes_b): (u64, u64)) {
        let megabytes = |bytes: u64| bytes as f64 / 1e6;
        println!("{:<24}{:>14}{:>14}", "", "A", "B");
        println!("{:<24}{:>14.4}{:>14.4}", "perplexity", self.perplexity_a, self.perplexity_b);
        println!("{:<24}{:>14.1}{:>14.1}", "artifact, MB", megabytes(bytes_a), megabytes(bytes_b));
        println!("{:<24}{:>28.6}", "KL(A||B) mean, nats", self.divergence.kl_mean);
        println!("{:<24}{:>28.6}", "KL(A||B) p99, nats", self.divergence.kl_p99);
        println!("{:<24}{:>26.2} %", "same likeliest token", 100.0 * self.divergence.same_top1);
    }
}
