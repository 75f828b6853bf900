//! What a run leaves: a file of JSON, whose schema benches/README.md describes, and a short table.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::figures::{Gpu, Model};
use super::step::{Outcome, Verdict, line};

/// Raised when a key changes its meaning.
const SCHEMA: u32 = 1;

/// A run on one machine.
#[derive(Clone, Debug, Default)]
pub struct Results {
    /// When it began, in UTC: `2026-11-21T21:29:00Z`.
    pub date: String,
    /// Of the repository that the binaries were built from.
    pub commit: String,
    /// What `doctor --json` says.
    pub machine: Value,
    pub gpu: Gpu,
    pub steps: Vec<Outcome>,
    pub models: Vec<Model>,
    pub seconds: f64,
}

impl Results {
    /// The driver's name for the GPU.
    pub fn gpu_name(&self) -> &str {
        self.machine["gpus"][0]["name"].as_str().unwrap_or("unknown GPU")
    }

    fn driver(&self) -> &str {
        self.machine["driver"]["version"].as_str().unwrap_or("unknown")
    }

    /// Steps that failed.
    pub fn failed(&self) -> Vec<&str> {
        let failed = self.steps.iter().filter(|step| matches!(step.verdict, Verdict::Failed(_)));
        failed.map(|step| step.name.as_str()).collect()
    }

    /// The file in a folder of results: named by GPU and day.
    pub fn path(&self, folder: &Path) -> PathBuf {
        let day = self.date.split('T').next().unwrap_or_default();
        folder.join(format!("{}-{day}.json", slug(self.gpu_name())))
    }

    pub fn json(&self) -> Value {
        let step = |step: &Outcome| {
            json!({"name": step.name, "verdict": step.verdict.word(), "reason": step.verdict.reason(),
                   "seconds": rounded(step.seconds)})
        };
        json!({
            "schema": SCHEMA,
            "date": self.date,
            "commit": self.commit,
            "gpu": self.gpu_name(),
            "driver": self.machine["driver"],
            "machine": self.machine,
            "seconds": rounded(self.seconds),
            "copy_bytes_per_s": self.gpu.copy_bytes_per_s,
            "launch_s": self.gpu.launch_s,
            "launch_pdl_s": self.gpu.launch_pdl_s,
            "steps": self.steps.iter().map(step).collect::<Vec<_>>(),
            "models": self.models.iter().map(|model| model.json(&self.gpu)).collect::<Vec<_>>(),
        })
    }

    /// The table: how checks ended, then a line a model.
    pub fn table(&self) -> String {
        let mut text = format!(
            "{}, driver {}, commit {}, {}, {:.0} s\n",
            self.gpu_name(),
            self.driver(),
            self.commit,
            self.date,
            self.seconds
        );
        let count = |word: &str| self.steps.iter().filter(|step| step.verdict.word() == word).count();
        let (passed, failed, skipped) = (count("passed"), count("failed"), count("skipped"));
        writeln!(text, "{passed} steps passed, {failed} failed, {skipped} skipped").expect(WRITES);
        for step in self.steps.iter().filter(|step| step.verdict != Verdict::Passed) {
            writeln!(text, "  {}", line(step)).expect(WRITES);
        }
        let shown = |value: Option<f64>, scale: f64, unit: &str| match value {
            Some(value) => format!("{:.2} {unit}", value * scale),
            None => "–".into(),
        };
        let copy = shown(self.gpu.copy_bytes_per_s, 1e-9, "GB/s");
        let (graph, pdl) = (shown(self.gpu.launch_s, 1e6, "µs"), shown(self.gpu.launch_pdl_s, 1e6, "µs"));
        writeln!(text, "copy {copy}; a dependent launch in a graph {graph}, with PDL {pdl}").expect(WRITES);
        if !self.models.is_empty() {
            text.push_str(&self.model_table());
        }
        text
    }

    fn model_table(&self) -> String {
        let mut text = format!(
            "{:<16}{:>38}{:>8}{:>20}{:>26}{:>8}\n",
            "", "tokens/s at batch 1, 4, 16, 64", "share", "prompt tokens/s", "first token ms, cached", "load s"
        );
        for model in &self.models {
            let rates = joined(model.generation.iter().map(|g| format!("{:.0}", g.tokens_per_s)));
            let share = model.generation.first().and_then(|g| g.share(&self.gpu));
            let share = share.map_or("–".into(), |share| format!("{:.0} %", share * 100.0));
            let prompts = joined(model.prompts.iter().map(|p| format!("{:.0}", p.tokens_per_s)));
            let first = model.first_token.as_ref();
            let first = first.map_or("–".into(), |f| format!("{:.1}, {:.1}", f.cold_s * 1e3, f.cached_s * 1e3));
            let load = model.load_s.map_or("–".into(), |s| format!("{s:.1}"));
            writeln!(text, "{:<16}{rates:>38}{share:>8}{prompts:>20}{first:>26}{load:>8}", model.name).expect(WRITES);
        }
        text
    }
}

const WRITES: &str = "a string takes all";

fn joined(values: impl Iterator<Item = String>) -> String {
    let text = values.collect::<Vec<_>>().join(", ");
    if text.is_empty() { "–".into() } else { text }
}

/// Hundredths are all that seconds of a step mean.
fn rounded(seconds: f64) -> f64 {
    (seconds * 100.0).round() / 100.0
}

/// `NVIDIA GeForce RTX 4090` becomes `nvidia-geforce-rtx-4090`.
fn slug(name: &str) -> String {
    let words = name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_ascii_lowercase).collect::<Vec<_>>().join("-")
}

/// The time now in UTC, as ISO 8601.
pub fn now() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    iso(seconds)
}

/// Days are counted in eras of 400 years from 1 March of year 0, so that a leap day is the last of its year (Howard Hinnant's
/// `civil_from_days`).
fn iso(unix_seconds: u64) -> String {
    let (days, second) = (unix_seconds / 86_400 + 719_468, unix_seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::super::figures::{FirstToken, Generation, Prompt};
    use super::*;

    /// Figures are made up, and so is the GPU.
    fn results() -> Results {
        let step = |name: &str, verdict, seconds| Outcome { name: name.into(), verdict, seconds };
        let generation = |batch, tokens_per_s| Generation {
            batch,
            tokens_per_s,
            bytes_per_step: Some(1_000_000),
            joules_per_token: None,
        };
        let first_token = FirstToken { cold_s: 0.05, cached_s: 0.0025, disk_s: 0.004, baked_s: 0.003 };
        Results {
            date: "2030-01-02T03:04:05Z".into(),
            commit: "abc1234".into(),
            machine: json!({"gpus": [{"name": "Example GPU-X 1"}], "driver": {"version": "1.2", "cuda": "12.9"}}),
            gpu: Gpu { copy_bytes_per_s: Some(2e9), launch_s: Some(2.5e-6), launch_pdl_s: None },
            steps: vec![
                step("parity", Verdict::Passed, 1.004),
                step("bits", Verdict::Failed("other bits".into()), 2.0),
                step("sanitizer", Verdict::Skipped("not found".into()), 0.0),
            ],
            models: vec![
                Model {
                    name: "aix".into(),
                    load_s: Some(0.5),
                    context: 2048,
                    generation: vec![generation(1, 1000.0), generation(4, 2000.0)],
                    no_overlap_tokens_per_s: Some(900.0),
                    joules_per_token: Some(0.25),
                    prompts: vec![Prompt { tokens: 512, tokens_per_s: 9000.0, first_token_s: 0.06 }],
                    first_token: Some(first_token),
                    launches: None,
                },
                Model { name: "nothing".into(), ..Model::default() },
            ],
            seconds: 123.4,
        }
    }

    #[test]
    fn the_table_is_this() {
        let expected = "\
Example GPU-X 1, driver 1.2, commit abc1234, 2030-01-02T03:04:05Z, 123 s
1 steps passed, 1 failed, 1 skipped
  FAILED   bits                                            2.0 s  other bits
  skipped  sanitizer                                              not found
copy 2.00 GB/s; a dependent launch in a graph 2.50 µs, with PDL –
                        tokens/s at batch 1, 4, 16, 64   share     prompt tokens/s    first token ms, cached  load s
aix                                         1000, 2000    50 %                9000                 50.0, 2.5     0.5
nothing                                              –       –                   –                         –       –
";
        assert_eq!(results().table(), expected);
    }

    #[test]
    fn the_file_is_this() {
        let expected = json!({
            "schema": 1, "date": "2030-01-02T03:04:05Z", "commit": "abc1234", "gpu": "Example GPU-X 1",
            "driver": {"version": "1.2", "cuda": "12.9"},
            "machine": {"gpus": [{"name": "Example GPU-X 1"}], "driver": {"version": "1.2", "cuda": "12.9"}},
            "seconds": 123.4, "copy_bytes_per_s": 2e9, "launch_s": 2.5e-6, "launch_pdl_s": null,
            "steps": [
                {"name": "parity", "verdict": "passed", "reason": null, "seconds": 1.0},
                {"name": "bits", "verdict": "failed", "reason": "other bits", "seconds": 2.0},
                {"name": "sanitizer", "verdict": "skipped", "reason": "not found", "seconds": 0.0},
            ],
            "models": [
                {
                    "name": "aix", "load_s": 0.5,
                    "generation": [
                        {"batch": 1, "context": 2048, "tokens_per_s": 1000.0, "bytes_per_step": 1000000,
                         "share_of_copy_bandwidth": 0.5, "joules_per_token": null},
                        {"batch": 4, "context": 2048, "tokens_per_s": 2000.0, "bytes_per_step": 1000000,
                         "share_of_copy_bandwidth": 0.25, "joules_per_token": null},
                    ],
                    "no_overlap_tokens_per_s": 900.0, "joules_per_token": 0.25,
                    "prompts": [{"tokens": 512, "tokens_per_s": 9000.0, "first_token_s": 0.06}],
                    "first_token": {"cold_s": 0.05, "cached_s": 0.0025, "disk_s": 0.004, "baked_s": 0.003},
                    "launches": null,
                },
                {"name": "nothing", "load_s": null, "generation": [], "no_overlap_tokens_per_s": null, "joules_per_token": null, "prompts": [], "first_token": null, "launches": null},
            ],
        });
        assert_eq!(results().json(), expected);
        assert_eq!(results().failed(), ["bits"]);
    }

    #[test]
    fn files_are_named_by_gpu_and_day() {
        assert_eq!(results().path(Path::new("r")), Path::new("r/example-gpu-x-1-2030-01-02.json"));
        assert_eq!(slug("NVIDIA GeForce RTX 4090"), "nvidia-geforce-rtx-4090");
        assert_eq!(slug("../../x"), "x");
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(iso(0), "1970-01-01T00:00:00Z");
        assert_eq!(iso(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(iso(951_868_799), "2000-02-29T23:59:59Z");
        assert_eq!(iso(1_767_225_600), "2026-01-01T00:00:00Z");
        assert_eq!(iso(4_107_542_400), "2100-03-01T00:00:00Z");
    }
}
