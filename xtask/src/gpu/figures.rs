//! Figures of a run, read from what `moesaic … --json` says. What a command did not say stays absent: no figure is made up.

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// What the GPU itself does, by `doctor --calibrate --device cuda`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Gpu {
    /// Bytes read and written a second by a copy from memory to memory.
    pub copy_bytes_per_s: Option<f64>,
    /// Seconds a launch takes in a chain of dependent ones in a graph.
    pub launch_s: Option<f64>,
    /// The same with programmatic dependent launch; absent before compute capability 9.0.
    pub launch_pdl_s: Option<f64>,
}

impl Gpu {
    pub fn read(text: &str) -> Result<Gpu> {
        let report: Value = serde_json::from_str(text).context("the calibration is no JSON")?;
        Ok(Gpu {
            copy_bytes_per_s: report["copy_bytes_per_s"].as_f64(),
            launch_s: report["launch_s"].as_f64(),
            launch_pdl_s: report["launch_pdl_s"].as_f64(),
        })
    }
}

/// Generation of several sequences together.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    pub batch: u64,
    pub tokens_per_s: f64,
    /// Bytes of weights and cache that a step reads.
    pub bytes_per_step: Option<u64>,
    pub joules_per_token: Option<f64>,
}

/// A prompt alone.
#[derive(Clone, Debug, PartialEq)]
pub struct Prompt {
    pub tokens: u64,
    pub tokens_per_s: f64,
    pub first_token_s: f64,
}

/// Times to the first token, by `bench --prefix`.
#[derive(Clone, Debug, PartialEq)]
pub struct FirstToken {
    pub cold_s: f64,
    pub cached_s: f64,
    pub disk_s: f64,
    pub baked_s: f64,
}

/// Launches of a step's program.
#[derive(Clone, Debug, PartialEq)]
pub struct Launches {
    pub decode: u64,
    pub layer_decode: u64,
    pub layer_prompt: u64,
}

/// What was measured of a model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Model {
    pub name: String,
    pub load_s: Option<f64>,
    /// Tokens of context that generation began with.
    pub context: u64,
    pub generation: Vec<Generation>,
    /// Tokens a second of one sequence where no launch begins before the one before it has ended.
    pub no_overlap_tokens_per_s: Option<f64>,
    /// Of the GPU, while one sequence is generated that is long enough for its meter.
    pub joules_per_token: Option<f64>,
    pub prompts: Vec<Prompt>,
    pub first_token: Option<FirstToken>,
    pub launches: Option<Launches>,
}

fn parse(text: &str) -> Result<Value> {
    serde_json::from_str(text).context("the report is no JSON")
}

fn number(report: &Value, key: &str) -> Result<f64> {
    report[key].as_f64().with_context(|| format!("the report has no number {key}"))
}

fn count(report: &Value, key: &str) -> Result<u64> {
    report[key].as_u64().with_context(|| format!("the report has no count {key}"))
}

impl Model {
    /// Adds a `bench` of generation.
    pub fn add_generation(&mut self, text: &str) -> Result<()> {
        let report = parse(text)?;
        self.load_s = Some(number(&report, "load_s")?);
        self.context = count(&report, "prompt_tokens")?;
        for batch in report["batches"].as_array().context("the report has no batches")? {
            self.generation.push(Generation {
                batch: count(batch, "batch")?,
                tokens_per_s: number(batch, "generation_tokens_per_s")?,
                bytes_per_step: batch["bytes_per_step"].as_u64(),
                joules_per_token: batch["joules_per_token"].as_f64(),
            });
        }
        Ok(())
    }

    /// Adds a `bench --no-overlap` of one sequence.
    pub fn add_no_overlap(&mut self, text: &str) -> Result<()> {
        self.no_overlap_tokens_per_s = Some(number(&parse(text)?, "generation_tokens_per_s")?);
        Ok(())
    }

    /// Adds a `bench` of one long sequence; a GPU may have no meter.
    pub fn add_energy(&mut self, text: &str) -> Result<()> {
        self.joules_per_token = parse(text)?["joules_per_token"].as_f64();
        Ok(())
    }

    /// Adds a `bench` of a prompt.
    pub fn add_prompt(&mut self, text: &str) -> Result<()> {
        let report = parse(text)?;
        self.prompts.push(Prompt {
            tokens: count(&report, "prompt_tokens")?,
            tokens_per_s: number(&report, "prompt_tokens_per_s")?,
            first_token_s: number(&report, "time_to_first_token_s")?,
        });
        Ok(())
    }

    /// Adds a `bench --prefix`.
    pub fn add_first_token(&mut self, text: &str) -> Result<()> {
        let report = parse(text)?;
        self.first_token = Some(FirstToken {
            cold_s: number(&report, "cold_s")?,
            cached_s: number(&report, "memory_s")?,
            disk_s: number(&report, "disk_s")?,
            baked_s: number(&report, "baked_s")?,
        });
        Ok(())
    }

    /// Adds an `inspect`.
    pub fn add_launches(&mut self, text: &str) -> Result<()> {
        let report = parse(text)?;
        self.launches = Some(Launches {
            decode: count(&report, "launches_per_token")?,
            layer_decode: count(&report, "launches_per_layer_decode")?,
            layer_prompt: count(&report, "launches_per_layer_prefill")?,
        });
        Ok(())
    }

    /// As results files have it.
    pub fn json(&self, gpu: &Gpu) -> Value {
        let generation = |g: &Generation| {
            json!({"batch": g.batch, "context": self.context, "tokens_per_s": g.tokens_per_s, "bytes_per_step": g.bytes_per_step,
                   "share_of_copy_bandwidth": g.share(gpu), "joules_per_token": g.joules_per_token})
        };
        let prompt =
            |p: &Prompt| json!({"tokens": p.tokens, "tokens_per_s": p.tokens_per_s, "first_token_s": p.first_token_s});
        let first = |f: &FirstToken| json!({"cold_s": f.cold_s, "cached_s": f.cached_s, "disk_s": f.disk_s, "baked_s": f.baked_s});
        let launches =
            |l: &Launches| json!({"decode": l.decode, "layer_decode": l.layer_decode, "layer_prompt": l.layer_prompt});
        json!({
            "name": self.name,
            "load_s": self.load_s,
            "generation": self.generation.iter().map(generation).collect::<Vec<_>>(),
            "no_overlap_tokens_per_s": self.no_overlap_tokens_per_s,
            "joules_per_token": self.joules_per_token,
            "prompts": self.prompts.iter().map(prompt).collect::<Vec<_>>(),
            "first_token": self.first_token.as_ref().map(first),
            "launches": self.launches.as_ref().map(launches),
        })
    }
}

impl Generation {
    /// Bytes that steps read a second, as a share of those a copy moves.
    pub fn share(&self, gpu: &Gpu) -> Option<f64> {
        let steps_per_s = self.tokens_per_s / self.batch as f64;
        Some(self.bytes_per_step? as f64 * steps_per_s / gpu.copy_bytes_per_s?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_read_and_what_they_lack_is_named() {
        let mut model = Model { name: "m".into(), ..Model::default() };
        let bench = r#"{"load_s": 1.5, "prompt_tokens": 2048, "batches": [
            {"batch": 1, "generation_tokens_per_s": 100.0, "bytes_per_step": 1000, "joules_per_token": null},
            {"batch": 4, "generation_tokens_per_s": 200.0, "bytes_per_step": 4000, "joules_per_token": 0.5}]}"#;
        model.add_generation(bench).unwrap();
        let gpu = Gpu { copy_bytes_per_s: Some(400_000.0), ..Gpu::default() };
        assert_eq!(model.generation[0].share(&gpu), Some(0.25));
        assert_eq!(model.generation[1].share(&gpu), Some(0.5));
        assert_eq!(model.generation[1].share(&Gpu::default()), None);
        assert_eq!(model.json(&gpu)["generation"][1]["joules_per_token"], 0.5);
        let error = model.add_prompt(r#"{"prompt_tokens": 4}"#).unwrap_err().to_string();
        assert!(error.contains("prompt_tokens_per_s"), "{error}");
        assert!(model.add_first_token("no").is_err() && model.add_launches("{}").is_err());
        assert!(model.prompts.is_empty() && model.json(&gpu)["first_token"].is_null());
    }

    #[test]
    fn a_calibration_may_lack_figures_but_not_be_nonsense() {
        let gpu = Gpu::read(r#"{"copy_bytes_per_s": 4e12, "launch_s": 2e-6, "launch_pdl_s": null}"#).unwrap();
        assert_eq!(gpu, Gpu { copy_bytes_per_s: Some(4e12), launch_s: Some(2e-6), launch_pdl_s: None });
        assert!(Gpu::read("nonsense").is_err());
    }
}
