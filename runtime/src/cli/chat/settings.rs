//! What `/set` changes: how tokens are chosen, and how many.

use std::fmt;
use std::str::FromStr;

use super::TurnSampling;
use crate::artifact::GenerationDefaults;
use crate::cli::args::SamplingArgs;
use crate::sample::SamplingParams;

/// Sampling of the conversation.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    sampling: SamplingParams,
    /// A seed that was asked for; without one each answer has its own.
    seed: Option<u64>,
    max_tokens: u64,
}

impl Settings {
    pub(super) fn new(args: &SamplingArgs, model: &GenerationDefaults) -> Result<Settings, Box<dyn std::error::Error>> {
        let sampling = args.params(model);
        sampling.validate()?;
        Ok(Settings { sampling, seed: args.seed, max_tokens: args.max_tokens })
    }

    /// For the next answer.
    pub(super) fn of_turn(&self) -> TurnSampling {
        let seed = self.seed.unwrap_or_else(SamplingParams::fresh_seed);
        (SamplingParams { seed, ..self.sampling.clone() }, self.max_tokens)
    }

    /// Takes `NAME VALUE`. Nothing changes if the value cannot be used.
    pub(super) fn set(&mut self, text: &str) -> Result<(), Box<dyn std::error::Error>> {
        let (name, value) = text.split_once([' ', '=']).unwrap_or((text, ""));
        let (name, value) = (name.replace('-', "_"), value.trim());
        let mut changed = self.clone();
        match name.as_str() {
            "temperature" => changed.sampling.temperature = parse(&name, value)?,
            "top_k" => changed.sampling.top_k = parse(&name, value)?,
            "top_p" => changed.sampling.top_p = parse(&name, value)?,
            "min_p" => changed.sampling.min_p = parse(&name, value)?,
            "repetition_penalty" => changed.sampling.repetition_penalty = parse(&name, value)?,
            "seed" if value == "random" => changed.seed = None,
            "seed" => changed.seed = Some(parse(&name, value)?),
            "max_tokens" => changed.max_tokens = crate::cli::args::parse_count(value)?,
            _ => return Err(format!("unknown setting {name:?}; /help lists them").into()),
        }
        changed.sampling.validate()?;
        *self = changed;
        Ok(())
    }
}

fn parse<T: FromStr>(name: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("{name} takes a number, found {value:?}"))
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = &self.sampling;
        let seed = self.seed.map_or_else(|| "random".to_owned(), |seed| seed.to_string());
        write!(
            f,
            "temperature {} · top_k {} · top_p {} · min_p {} · repetition_penalty {} · seed {seed} · max_tokens {}",
            s.temperature, s.top_k, s.top_p, s.min_p, s.repetition_penalty, self.max_tokens
        )
    }
}
