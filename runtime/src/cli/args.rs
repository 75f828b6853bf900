//! Arguments that verbs share, in the spellings users of vLLM and llama.cpp know.

use std::path::PathBuf;

use clap::Args;

use crate::byte_size::ByteSize;
use crate::device::cuda::{DEFAULT_UTILIZATION, GpuOptions};
use crate::sample::SamplingParams;

/// Where and how a model runs.
#[derive(Args, Clone, Debug)]
pub struct DeviceArgs {
    /// Device: auto, which takes a GPU that the artifact has code for or else the processor; cuda; cpu; or sim, which executes the code for
    /// GPUs of an artifact and checks every access
    #[arg(long, default_value = "auto", env = "MOESAIC_DEVICE")]
    pub device: String,
    /// Threads of the cpu device; default: the machine's cores
    #[arg(short = 't', long, value_name = "N", env = "MOESAIC_THREADS")]
    pub threads: Option<usize>,
    /// Instruction set of the cpu device: avx512-vnni, avx2 or portable; default: the best this machine has
    #[arg(long, value_name = "ISA", env = "MOESAIC_ISA")]
    pub isa: Option<String>,
    /// Longest sequence in tokens, 32k for 32768; default: what the artifact allows, at most 8k
    #[arg(short = 'c', long, value_name = "N", value_parser = parse_count, env = "MOESAIC_MAX_MODEL_LEN")]
    pub max_model_len: Option<u64>,
    /// Memory the device may use in all, such as 24GiB; what weights and results leave becomes KV cache [default: what the artifact
    /// was compiled for]
    #[arg(long, value_name = "SIZE", env = "MOESAIC_VRAM")]
    pub vram: Option<ByteSize>,
    /// Number of the GPU, from 0
    #[arg(long, value_name = "N", default_value = "0", env = "MOESAIC_GPU")]
    pub gpu: u32,
    /// Instead of --vram, a share of the memory that is free on the GPU [default: 0.9]; of the cpu device, of the machine's, where a
    /// server asks for it
    #[arg(long, value_name = "SHARE", value_parser = parse_share, conflicts_with = "vram", env = "MOESAIC_GPU_MEMORY_UTILIZATION")]
    pub gpu_memory_utilization: Option<f64>,
    /// Let no kernel on the GPU begin before the one before it has ended, to measure what overlap gives
    #[arg(long, env = "MOESAIC_NO_OVERLAP")]
    pub no_overlap: bool,
    /// Read weights into memory instead of mapping the files
    #[arg(long, env = "MOESAIC_NO_MMAP")]
    pub no_mmap: bool,
}

impl DeviceArgs {
    /// Which GPU is used, and how.
    pub fn gpu_options(&self) -> GpuOptions {
        let utilization = self.gpu_memory_utilization.unwrap_or(DEFAULT_UTILIZATION);
        GpuOptions { ordinal: self.gpu, utilization, overlap: !self.no_overlap }
    }
}

fn parse_share(text: &str) -> Result<f64, String> {
    let share = text.parse::<f64>().ok().filter(|share| *share > 0.0 && *share <= 1.0);
    share.ok_or_else(|| format!("expected a share above 0 and at most 1, found {text:?}"))
}

/// How tokens are chosen. What is not given is the model's own default, else the value shown.
#[derive(Args, Clone, Debug)]
pub struct SamplingArgs {
    /// Divisor of the logits; 0 takes the likeliest token [default: 0.8]
    #[arg(long, value_name = "X", allow_negative_numbers = true, env = "MOESAIC_TEMPERATURE")]
    pub temperature: Option<f32>,
    /// Keep so many of the likeliest tokens; 0 keeps all [default: 0]
    #[arg(long, value_name = "N", env = "MOESAIC_TOP_K")]
    pub top_k: Option<usize>,
    /// Keep the likeliest tokens that together have this probability [default: 1]
    #[arg(long, value_name = "P", env = "MOESAIC_TOP_P")]
    pub top_p: Option<f32>,
    /// Keep tokens at least this likely, relative to the likeliest [default: 0]
    #[arg(long, value_name = "P", env = "MOESAIC_MIN_P")]
    pub min_p: Option<f32>,
    /// Divisor of the logits of tokens that have appeared [default: 1]
    #[arg(long, value_name = "X", alias = "repeat-penalty", env = "MOESAIC_REPETITION_PENALTY")]
    pub repetition_penalty: Option<f32>,
    /// Seed; the same seed gives the same tokens [default: random]
    #[arg(short = 's', long, value_name = "N", env = "MOESAIC_SEED")]
    pub seed: Option<u64>,
    /// Most tokens to generate
    #[arg(short = 'n', long, value_name = "N", alias = "n-predict", default_value = "512", value_parser = parse_count, env = "MOESAIC_MAX_TOKENS")]
    pub max_tokens: u64,
    /// Stop at this text (repeatable)
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
}

/// Arguments of `run`.
#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    /// Artifact folder
    #[arg(value_name = "ARTIFACT|MODEL")]
    pub artifact: PathBuf,
    /// The prompt; - reads standard input
    #[arg(short = 'p', long, value_name = "TEXT")]
    pub prompt: String,
    /// Treat the prompt as a user's message and apply the chat template
    #[arg(long)]
    pub chat: bool,
    /// System message, with --chat
    #[arg(long, value_name = "TEXT", requires = "chat")]
    pub system: Option<String>,
    /// Print speed, latency and memory to standard error at the end
    #[arg(long)]
    pub stats: bool,
    /// Print one JSON object instead of streaming text
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub sampling: SamplingArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub device: DeviceArgs,
}

/// Arguments of `chat`.
#[derive(Args, Clone, Debug)]
pub struct ChatArgs {
    /// Artifact folder
    #[arg(value_name = "ARTIFACT|MODEL")]
    pub artifact: PathBuf,
    /// System message
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub sampling: SamplingArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub device: DeviceArgs,
}

/// Arguments of `logits`.
#[derive(Args, Clone, Debug)]
pub struct LogitsArgs {
    /// Artifact folder
    #[arg(value_name = "ARTIFACT|MODEL")]
    pub artifact: PathBuf,
    /// Token ids, separated by commas
    #[arg(long, value_name = "IDS", value_delimiter = ',', required_unless_present = "tokens_file")]
    pub tokens: Vec<u32>,
    /// JSON file with a list of token ids
    #[arg(long, value_name = "FILE", conflicts_with = "tokens")]
    pub tokens_file: Option<PathBuf>,
    /// safetensors file to write: logits f32 [tokens, vocabulary]
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub device: DeviceArgs,
}

/// Arguments of `bench`.
#[derive(Args, Clone, Debug)]
pub struct BenchArgs {
    /// Artifact folder
    #[arg(value_name = "ARTIFACT|MODEL")]
    pub artifact: PathBuf,
    /// Prompt tokens
    #[arg(short = 'p', long, default_value = "512", value_parser = parse_count)]
    pub prompt_tokens: u64,
    /// Tokens to generate
    #[arg(short = 'n', long, default_value = "128", value_parser = parse_count)]
    pub generate_tokens: u64,
    /// Repetitions; medians are reported
    #[arg(short = 'r', long, default_value = "5", value_parser = clap::value_parser!(u32).range(1..))]
    pub repetitions: u32,
    /// Sequences generated together, a list of sizes
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1", value_parser = clap::value_parser!(u32).range(1..))]
    pub batch: Vec<u32>,
    /// Measure instead what a cached beginning of a prompt saves until the first token: in memory, on disk, baked
    #[arg(long)]
    pub prefix: bool,
    /// Tokens of the system prompt of --prefix
    #[arg(long, value_name = "N", default_value_t = super::bench_prefix::SYSTEM_TOKENS, value_parser = parse_count)]
    pub prefix_tokens: u64,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub device: DeviceArgs,
}

/// Arguments of `perplexity`.
#[derive(Args, Clone, Debug)]
pub struct PerplexityArgs {
    /// Artifact folder
    #[arg(value_name = "ARTIFACT|MODEL")]
    pub artifact: PathBuf,
    /// Text file, UTF-8
    #[arg(short = 'f', long, value_name = "FILE")]
    pub text: PathBuf,
    /// Tokens of each window; windows do not overlap, what is left at the end is dropped
    #[arg(long, default_value = "512", value_parser = parse_count)]
    pub context: u64,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub device: DeviceArgs,
}

/// Arguments of `compare`.
#[derive(Args, Clone, Debug)]
pub struct CompareArgs {
    /// Artifact folder that is taken for right
    #[arg(value_name = "A")]
    pub a: PathBuf,
    /// Artifact folder that is judged
    #[arg(value_name = "B")]
    pub b: PathBuf,
    /// Text file, UTF-8
    #[arg(short = 'f', long, value_name = "FILE")]
    pub text: PathBuf,
    /// Tokens of each window; windows do not overlap, what is left at the end is dropped
    #[arg(long, alias = "context", value_name = "N", default_value = "512", value_parser = parse_count)]
    pub window: u64,
    /// Look at this many tokens of the text only
    #[arg(short = 'n', long, value_name = "N", value_parser = parse_count)]
    pub max_tokens: Option<u64>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub device: DeviceArgs,
}

/// Arguments of `simulate`.
#[derive(Args, Clone, Debug)]
pub struct SimulateArgs {
    /// Artifact folder
    #[arg(value_name = "ARTIFACT")]
    pub artifact: PathBuf,
    /// The prompt
    #[arg(short = 'p', long, value_name = "TEXT", required_unless_present = "tokens", conflicts_with = "tokens")]
    pub prompt: Option<String>,
    /// Token ids of the prompt, separated by commas
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    pub tokens: Vec<u32>,
    /// Tokens to generate: all but the first are a step of their own
    #[arg(short = 'n', long, value_name = "N", default_value = "2", value_parser = parse_count)]
    pub max_tokens: u64,
    /// Architecture whose code is executed, such as sm_80; default: the artifact's target
    #[arg(long, value_name = "sm_NN")]
    pub arch: Option<String>,
    /// What is checked: all, none, or names of checks separated by commas
    #[arg(long, value_name = "CHECKS", default_value = "all")]
    pub check: String,
    /// Count instructions, bytes, conflicts and barriers of each launch
    #[arg(long)]
    pub counters: bool,
    /// Watch only this launch of each program, counted from 0 as inspect --launches does
    #[arg(long, value_name = "N")]
    pub launch: Option<usize>,
    /// Also run on the cpu device and say how far each step's logits are from its
    #[arg(long, value_name = "cpu", value_parser = ["cpu"])]
    pub compare: Option<String>,
    /// Write a page with the counters of each launch beside the figures they should keep to
    #[arg(long, value_name = "FILE.html")]
    pub report: Option<PathBuf>,
    /// Threads; default: the machine's cores
    #[arg(short = 't', long, value_name = "N", env = "MOESAIC_THREADS")]
    pub threads: Option<usize>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `doctor`.
#[derive(Args, Clone, Debug)]
pub struct DoctorArgs {
    /// Measure what the processor does in a second, which takes a few of them
    #[arg(long)]
    pub calibrate: bool,
    /// Measure instead how fast the first GPU copies and what launches cost that wait for each other
    #[arg(long, value_name = "cpu|cuda", value_parser = ["cpu", "cuda"], default_value = "cpu", requires = "calibrate")]
    pub device: String,
    /// Write what --calibrate measures, for `compile --cost-table`
    #[arg(short, long, value_name = "FILE.json", requires = "calibrate")]
    pub output: Option<PathBuf>,
    /// Threads to measure with; default: the machine's cores
    #[arg(short = 't', long, value_name = "N", requires = "calibrate")]
    pub threads: Option<usize>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// A count with an optional k or m: 32k is 32768.
pub fn parse_count(text: &str) -> Result<u64, String> {
    let (digits, scale) = match text.char_indices().next_back() {
        Some((at, 'k' | 'K')) => (&text[..at], 1 << 10),
        Some((at, 'm' | 'M')) => (&text[..at], 1 << 20),
        _ => (text, 1u64),
    };
    let count = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(scale)).filter(|n| *n > 0);
    count.ok_or_else(|| format!("expected a positive count such as 4096 or 32k, found {text:?}"))
}

impl SamplingArgs {
    /// The parameters: what was given, else the model's own, else these.
    pub fn params(&self, model: &crate::artifact::GenerationDefaults) -> SamplingParams {
        let default = SamplingParams::default();
        SamplingParams {
            temperature: self.temperature.or(model.temperature.map(|x| x as f32)).unwrap_or(0.8),
            top_k: self.top_k.or(model.top_k.and_then(|k| usize::try_from(k).ok())).unwrap_or(default.top_k),
            top_p: self.top_p.or(model.top_p.map(|x| x as f32)).unwrap_or(default.top_p),
            min_p: self.min_p.or(model.min_p.map(|x| x as f32)).unwrap_or(default.min_p),
            repetition_penalty: self
                .repetition_penalty
                .or(model.repetition_penalty.map(|x| x as f32))
                .unwrap_or(default.repetition_penalty),
            seed: self.seed.unwrap_or_else(SamplingParams::fresh_seed),
            ..default
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{parse_count, parse_share};

    #[test]
    fn shares_are_above_0_and_at_most_1() {
        assert!(parse_share("0.9").is_ok() && parse_share("1").is_ok());
        assert!(parse_share("1.1").is_err() && parse_share("0").is_err() && parse_share("NaN").is_err());
    }

    #[test]
    fn counts_take_k_and_m() {
        assert_eq!(parse_count("32k"), Ok(32768));
        assert_eq!(parse_count("1M"), Ok(1 << 20));
        assert_eq!(parse_count("7"), Ok(7));
        for wrong in ["", "0", "k", "-1", "1.5k", "99999999999999999999", "18446744073709551615k"] {
            assert!(parse_count(wrong).is_err(), "{wrong}");
        }
    }
}
