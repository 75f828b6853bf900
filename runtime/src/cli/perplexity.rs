//! `perplexity`: how well a model predicts a text.
//!
//! Each window of exactly `context` tokens is one step; the perplexity is the exponential of the mean negative
//! log-likelihood of the tokens predicted.

use std::error::Error;

use serde_json::json;

use super::CliError;
use super::args::PerplexityArgs;
use super::session::{Session, read_text};
use super::windows::{Loss, Windows, negative_log_likelihood};
use crate::engine::{Chunk, Rows};

/// Prints the perplexity of a text.
pub fn perplexity(args: &PerplexityArgs) -> Result<(), Box<dyn Error>> {
    let text = read_text(&args.text)?;
    let context = args.context as usize;
    let mut device = args.device.clone();
    device.max_model_len = Some(device.max_model_len.unwrap_or(args.context));
    let mut session = Session::open(&args.artifact, &device, Some(args.context))?;
    let ids = session.tokenizer()?.encode(&text, false)?;
    let windows = Windows::cut(&ids, context).ok_or_else(|| {
        let message =
            format!("the text has {} tokens; expected a window of 2 up to that many, found {context}", ids.len());
        CliError::Option { option: "--context", message }
    })?;
    let (count, scored) = (windows.count(), windows.scored());
    let mut loss = Loss::default();
    let bar = indicatif::ProgressBar::new(count as u64);
    for window in windows.iter() {
        loss.add(window_loss(&mut session, window)?, window.len() - 1);
        bar.inc(1);
    }
    bar.finish_and_clear();
    let perplexity = loss.perplexity();
    if args.json {
        let tokens = ids.len();
        println!(
            "{}",
            json!({"perplexity": perplexity, "tokens": tokens, "windows": count, "scored": scored, "context": context})
        );
    } else {
        println!("perplexity {perplexity:.4} over {scored} tokens in {count} windows of {context}");
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
