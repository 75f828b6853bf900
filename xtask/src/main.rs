//! `cargo xtask COMMAND`: set-up, demonstration, checks and measurements of this repository.
//!
//! Each needs only Rust, Python 3 with pip and a C compiler; what else it needs it fetches itself, once, into the user's cache
//! folder, pinned by hash.

mod abi;
mod clients;
mod demo;
mod gates;
mod gpu;
mod licences;
mod peer;
mod pins;
mod quality;
mod steps;
mod test_output;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  demo [--prompt TEXT]    build, fetch SmolLM2-135M-Instruct, compile it, answer a chat prompt
  test [--quick|--all]    every check; --quick leaves out those that need the model, --all
                          adds every fixture on the simulator, and every product compiled for every GPU: 45 minutes on two cores
  test --only TEXT        the checks whose names have TEXT in them
  model                   fetch SmolLM2-135M-Instruct and print its path
  abi [--check]           generate kernels/src/abi.rs from kernels/cuda/params.h, or say whether it is fresh
  gates                   write kernels/GATES.md: what machine code and counters of the CUDA kernels keep to
  gpu [--json]            on a machine with a GPU: parity, kernels, bits, sanitizer, then measurements, within nine minutes; a
                          table, and benches/results/GPU-DATE.json or --out FILE; --binary PATH takes that moesaic
  gpu --prepare DIR       build what that takes and pack it, for a machine that has a driver and nothing else, where
                          DIR/xtask gpu --binaries DIR runs it from a copy of this repository
  bench-peer [--json]     speed and memory beside llama.cpp on the same file (builds llama-cpp-python once)
  bench-serve [--json]    first tokens and throughput of the server beside llama.cpp's server on the same file
  perplexity [--json]     perplexity beside llama.cpp on benches/data/english.txt";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match run(&args) {
        Some(Ok(())) => ExitCode::SUCCESS,
        Some(Err(error)) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
        None => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

/// `None` for wrong usage.
fn run(args: &[&str]) -> Option<Result<()>> {
    Some(match args {
        ["demo"] => demo::run(demo::PROMPT),
        ["demo", "--prompt", prompt] => demo::run(prompt),
        ["test"] => steps::run(steps::Extent::Usual),
        ["test", "--quick"] => steps::run(steps::Extent::Quick),
        ["test", "--only", text] => steps::run_named(text),
        ["test", "--all"] => steps::run(steps::Extent::All),
        ["model"] => pins::SMOLLM2.fetch().map(|path| println!("{}", path.display())).map_err(anyhow::Error::from),
        ["abi"] => abi::run(false),
        ["abi", "--check"] => abi::run(true),
        ["gates"] => gates::run(),
        ["gpu", args @ ..] => return gpu::run(args),
        ["bench-peer"] => peer::bench(&[]),
        ["bench-peer", "--json"] => peer::bench(&["--json"]),
        ["bench-serve"] => peer::serve(&[]),
        ["bench-serve", "--json"] => peer::serve(&["--json"]),
        ["perplexity"] => peer::perplexity(&[]),
        ["perplexity", "--json"] => peer::perplexity(&["--json"]),
        _ => return None,
    })
}
