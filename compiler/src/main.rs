//! The command `moesaic`: every verb, compiler and runtime in one binary.

mod verbs;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Compiles compact language models and runs them.
#[derive(Parser)]
#[command(name = "moesaic", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Compile a checkpoint (Hugging Face folder or GGUF file) into an artifact
    Compile(Box<verbs::compile::CompileArgs>),
    /// Answer one prompt
    Run(runtime::cli::RunArgs),
    /// Talk to a model
    Chat(runtime::cli::ChatArgs),
    /// Serve models over HTTP, in the interfaces of OpenAI and Anthropic
    Serve(Box<runtime::cli::ServeArgs>),
    /// Write the logits of a token sequence
    Logits(runtime::cli::LogitsArgs),
    /// Measure prompt and generation speed, latency and memory
    Bench(runtime::cli::BenchArgs),
    /// Measure perplexity on a text
    Perplexity(runtime::cli::PerplexityArgs),
    /// Measure what one model's predictions lose against another's on a text
    Compare(runtime::cli::CompareArgs),
    /// Write a model with random weights, in the shape of a published one
    Synth(verbs::synth::SynthArgs),
    /// Say whether a model fits a memory, from its configuration alone: KV pages, longest context, parallel sequences
    Fit(verbs::fit::FitArgs),
    /// Show an artifact: model, programs, launches, memory plan
    Inspect(verbs::inspect::InspectArgs),
    /// Find what kernels for GPUs are compiled with, or fetch it, and show it
    Toolchain(verbs::toolchain::ToolchainArgs),
    /// Execute and check an artifact's code for GPUs without one
    Simulate(runtime::cli::SimulateArgs),
    /// Show what this machine offers
    Doctor(runtime::cli::DoctorArgs),
}

fn main() -> ExitCode {
    runtime::cli::end_with_closed_pipe();
    runtime::cli::exit(dispatch(Cli::parse().verb))
}

/// Verbs that take a model compile it to the cache first.
fn dispatch(verb: Verb) -> Result<(), Box<dyn std::error::Error>> {
    match verb {
        Verb::Compile(args) => verbs::compile::compile(&args)?,
        Verb::Run(mut args) => {
            args.artifact = verbs::cache::artifact_for(&args.artifact)?;
            runtime::cli::run(&args)?;
        }
        Verb::Chat(mut args) => {
            args.artifact = verbs::cache::artifact_for(&args.artifact)?;
            runtime::cli::chat(&args)?;
        }
        Verb::Serve(args) => {
            let resolver = |path: &std::path::Path| verbs::cache::artifact_for(path).map_err(|e| e.to_string());
            runtime::cli::serve(&args, Some(std::sync::Arc::new(resolver)))?;
        }
        Verb::Logits(mut args) => {
            args.artifact = verbs::cache::artifact_for(&args.artifact)?;
            runtime::cli::logits(&args)?;
        }
        Verb::Bench(mut args) => {
            args.artifact = verbs::cache::artifact_for(&args.artifact)?;
            runtime::cli::bench(&args)?;
        }
        Verb::Perplexity(mut args) => {
            args.artifact = verbs::cache::artifact_for(&args.artifact)?;
            runtime::cli::perplexity(&args)?;
        }
        Verb::Compare(args) => verbs::compare::compare(args)?,
        Verb::Synth(args) => verbs::synth::synth(&args)?,
        Verb::Fit(args) => verbs::fit::fit(&args)?,
        Verb::Inspect(args) => verbs::inspect::inspect(&args)?,
        Verb::Toolchain(args) => verbs::toolchain::toolchain(&args)?,
        Verb::Simulate(args) => runtime::cli::simulate(&args, Some(&compiler::report::simulation_page))?,
        Verb::Doctor(args) => runtime::cli::doctor(&args, Some(&verbs::toolchain::compiler_facts()))?,
    }
    Ok(())
}
