//! The command `moesaic-runtime`: what a server deploys. It runs artifacts and links no compiler.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use runtime::cli;

/// Runs compiled language models.
#[derive(Parser)]
#[command(name = "moesaic-runtime", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Answer one prompt
    Run(cli::RunArgs),
    /// Talk to a model
    Chat(cli::ChatArgs),
    /// Serve models over HTTP, in the interfaces of OpenAI and Anthropic
    Serve(Box<cli::ServeArgs>),
    /// Write the logits of a token sequence
    Logits(cli::LogitsArgs),
    /// Measure prompt and generation speed, latency and memory
    Bench(cli::BenchArgs),
    /// Measure perplexity on a text
    Perplexity(cli::PerplexityArgs),
    /// Measure what one artifact's predictions lose against another's
    Compare(cli::CompareArgs),
    /// Execute and check an artifact's code for GPUs without one
    Simulate(cli::SimulateArgs),
    /// Show what this machine offers
    Doctor(cli::DoctorArgs),
}

fn main() -> ExitCode {
    cli::end_with_closed_pipe();
    cli::exit(match Cli::parse().verb {
        Verb::Run(args) => cli::run(&args),
        Verb::Chat(args) => cli::chat(&args),
        Verb::Serve(args) => cli::serve(&args, None),
        Verb::Logits(args) => cli::logits(&args),
        Verb::Bench(args) => cli::bench(&args),
        Verb::Perplexity(args) => cli::perplexity(&args),
        Verb::Compare(args) => cli::compare(&args),
        Verb::Simulate(args) => cli::simulate(&args, None),
        Verb::Doctor(args) => cli::doctor(&args, None),
    })
}
