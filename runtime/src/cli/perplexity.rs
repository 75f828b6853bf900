//! `perplexity`: how well a model predicts a text.
//!
//! The text is tokenised once, without special tokens, and cut into windows of exactly `context` tokens that do not overlap. Every
//! token of a window but its first is predicted from those before it in the window; the perplexity is the
//! exponential of the mean negative log-likelihood.

use std::error::Error;

use serde_json::json;

use super::CliError;
use super::args::PerplexityArgs;
use super::session::{Session, read_text};
use crate::engine::{Chunk, Rows};

/// Prints the perplexity of a text.
pub fn perplexity(args: &PerplexityArgs) -> Result<(), Box<dyn Error>> {
    let text = read_text(&args.text)?;
    let context = args.context as usize;
    let mut device = args.device.clone();
    device.max_model_len = Some(device.max_model_len.unwrap_or(args.context));
    let mut session = Session::open(&args.artifact, &device, Some(args.context))?;
    let ids = session.tokenizer()?.encode(&text, false)?;
    if context < 2 || ids.len() < context {
        let message =
            format!("the text has {} tokens; expected a window of 2 up to that many, found {context}", ids.len());
        return Err(CliError::Option { option: "--context", message }.into());
    }
    let (mut sum, mut scored, mut windows) = (0f64, 0u64, 0u64);
    let bar = indicatif::ProgressBar::new((ids.len() / context) as u64);
    for window in ids.chunks_exact(context) {
        sum += window_loss(&mut session, window)?;
        scored += context as u64 - 1;
        windows += 1;
        bar.inc(1);
    }
    bar.finish_and_clear();
    let perplexity = (sum / scored as f64).exp();
    if args.json {
        let tokens = ids.len();
        println!(
            "{}",
            json!({"perplexity": perplexity, "tokens": tokens, "windows": windows, "scored": scored, "context": context})
        );
    } else {
        println!("perplexity {perplexity:.4} over {scored} tokens in {windows} windows of {context}");
    }
    Ok(())
}

/// The summed negative log-likelihood of a window's tokens after its first.
fn window_loss(session: &mut Session, window: &[u32]) -> Result<f64, Box<dyn Error>> {
    let sequence = session.engine.open_sequence();
    let mut sum = 0f64;
    let result = session.engine.step_each(&[Chunk { sequence, tokens: window, logits: Rows::All }], |row| {
        if let Some(next) = window.get(row.token + 1) {
            sum += negative_log_likelihood(row.logits, *next as usize);
        }
    });
    session.engine.close_sequence(sequence)?;
    result?;
    Ok(sum)
}

fn negative_log_likelihood(logits: &[f32], token: usize) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = logits.iter().map(|x| f64::from(x - max).exp()).sum();
    total.ln() - f64::from(logits[token] - max)
}
