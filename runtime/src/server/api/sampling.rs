//! How tokens are chosen, as requests say it: fields that several endpoints share.

use std::collections::BTreeMap;

use crate::artifact::GenerationDefaults;
use crate::kv::salt::CacheSalt;
use crate::sample::SamplingParams;
use crate::server::auth::Caller;
use crate::server::error::ApiError;
use crate::text::StopConditions;

/// Most stop strings.
pub(crate) const MAX_STOP_STRINGS: usize = 16;
/// Longest stop string, in bytes.
const MAX_STOP_BYTES: usize = 1024;
/// Most tokens of a logit bias.
const MAX_BIASED: usize = 1024;
/// Most log-probabilities of a position.
pub(crate) const MAX_TOP_LOGPROBS: u32 = 20;
/// Most answers to a prompt.
pub(crate) const MAX_ANSWERS: u32 = 128;

/// The fields; an absent one is the model's own default, where it has one.
#[derive(Clone, Debug, Default)]
pub(crate) struct SamplingFields {
    pub temperature: Option<f32>,
    pub top_p: Option<f32>,
    pub top_k: Option<i64>,
    pub min_p: Option<f32>,
    pub repetition_penalty: Option<f32>,
    pub presence_penalty: Option<f32>,
    pub frequency_penalty: Option<f32>,
    pub logit_bias: Option<BTreeMap<String, f32>>,
    pub seed: Option<i64>,
}

/// Collects the fields of a request that has all of them.
macro_rules! sampling_fields {
    ($request:expr) => {
        $crate::server::api::sampling::SamplingFields {
            temperature: $request.temperature,
            top_p: $request.top_p,
            top_k: $request.top_k,
            min_p: $request.min_p,
            repetition_penalty: $request.repetition_penalty,
            presence_penalty: $request.presence_penalty,
            frequency_penalty: $request.frequency_penalty,
            logit_bias: $request.logit_bias.take(),
            seed: $request.seed,
        }
    };
}
pub(crate) use sampling_fields;

impl SamplingFields {
    /// The parameters for a model with `vocabulary` tokens.
    pub fn params(&self, defaults: &GenerationDefaults, vocabulary: u64) -> Result<SamplingParams, ApiError> {
        let number = |given: Option<f32>, model: Option<f64>, neutral: f32| {
            given.or(model.map(|value| value as f32)).unwrap_or(neutral)
        };
        let params = SamplingParams {
            temperature: number(self.temperature, defaults.temperature, 1.0),
            top_k: self.top_k(defaults)?,
            top_p: number(self.top_p, defaults.top_p, 1.0),
            min_p: number(self.min_p, defaults.min_p, 0.0),
            repetition_penalty: number(self.repetition_penalty, defaults.repetition_penalty, 1.0),
            presence_penalty: self.presence_penalty.unwrap_or(0.0),
            frequency_penalty: self.frequency_penalty.unwrap_or(0.0),
            logit_bias: self.logit_bias(vocabulary)?,
            seed: self.seed.map_or_else(SamplingParams::fresh_seed, |seed| seed as u64),
        };
        params.validate().map_err(|error| ApiError::invalid(error.field, error.to_string()))?;
        Ok(params)
    }

    /// -1 and 0 keep all tokens, as in vLLM.
    fn top_k(&self, defaults: &GenerationDefaults) -> Result<usize, ApiError> {
        match self.top_k {
            None => Ok(defaults.top_k.map_or(0, |k| usize::try_from(k).unwrap_or(usize::MAX))),
            Some(-1) => Ok(0),
            Some(k) => usize::try_from(k).map_err(|_| {
                ApiError::invalid("top_k", format!("top_k is {k}, but must be at least 1, or 0 or -1 for all tokens"))
            }),
        }
    }

    fn logit_bias(&self, vocabulary: u64) -> Result<Vec<(u32, f32)>, ApiError> {
        let Some(biases) = &self.logit_bias else { return Ok(Vec::new()) };
        if biases.len() > MAX_BIASED {
            let message = format!("logit_bias has {} tokens, at most {MAX_BIASED} are taken", biases.len());
            return Err(ApiError::invalid("logit_bias", message));
        }
        let read = |(token, bias): (&String, &f32)| {
            let wrong = |message: String| ApiError::invalid(format!("logit_bias.{token}"), message);
            let id = token.parse::<u32>().ok().filter(|id| u64::from(*id) < vocabulary);
            let id = id.ok_or_else(|| wrong(format!("{token:?} is no token id; ids are below {vocabulary}")))?;
            let in_range = (-100.0..=100.0).contains(bias);
            if in_range { Ok((id, *bias)) } else { Err(wrong(format!("a bias is from -100 to 100, not {bias}"))) }
        };
        biases.iter().map(read).collect()
    }
}

/// Stop strings, checked.
pub(crate) fn stop_conditions(param: &str, strings: Vec<String>, keep_match: bool) -> Result<StopConditions, ApiError> {
    if strings.len() > MAX_STOP_STRINGS {
        let message = format!("{param} has {} strings, at most {MAX_STOP_STRINGS} are taken", strings.len());
        return Err(ApiError::invalid(param, message));
    }
    if strings.iter().any(|s| s.len() > MAX_STOP_BYTES) {
        let message = format!("a string of {param} is longer than {MAX_STOP_BYTES} bytes");
        return Err(ApiError::invalid(param, message));
    }
    StopConditions::new(strings, Vec::new(), keep_match).map_err(|error| ApiError::invalid(param, error.to_string()))
}

/// Tokens that end an answer: the model's own, unless they are to be ignored, and those of the request.
pub(crate) fn stop_ids(
    model: &[u32],
    more: Option<Vec<u32>>,
    ignore_eos: bool,
    vocabulary: u64,
) -> Result<Vec<u32>, ApiError> {
    let more = more.unwrap_or_default();
    if let Some(wrong) = more.iter().find(|id| u64::from(**id) >= vocabulary) {
        let message = format!("{wrong} is no token id; ids are below {vocabulary}");
        return Err(ApiError::invalid("stop_token_ids", message));
    }
    if more.len() > MAX_BIASED {
        return Err(ApiError::invalid("stop_token_ids", format!("at most {MAX_BIASED} tokens are taken")));
    }
    Ok(if ignore_eos { more } else { model.iter().copied().chain(more).collect() })
}

/// The number of answers, checked against what runs at once.
pub(crate) fn answers(n: Option<u32>, at_once: u64) -> Result<u32, ApiError> {
    let n = n.unwrap_or(1);
    let most = u64::from(MAX_ANSWERS).min(at_once);
    match n {
        0 => Err(ApiError::invalid("n", "n is 0, but must be at least 1")),
        n if u64::from(n) > most => {
            Err(ApiError::invalid("n", format!("n is {n}, but this model generates at most {most} answers at once")))
        }
        n => Ok(n),
    }
}

/// Longest salt, in bytes.
const MAX_SALT: usize = 256;

/// Whose cached prefixes a request may use.
pub(crate) fn salt(caller: &Caller, cache_salt: Option<&str>) -> Result<CacheSalt, ApiError> {
    match cache_salt {
        Some(salt) if salt.is_empty() || salt.len() > MAX_SALT => {
            Err(ApiError::invalid("cache_salt", format!("cache_salt must be 1 to {MAX_SALT} bytes, or absent")))
        }
        salt => Ok(caller.salt(salt)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl Fn(&mut SamplingFields)) -> Option<String> {
        let mut fields = SamplingFields::default();
        change(&mut fields);
        fields.params(&GenerationDefaults::default(), 100).err().and_then(|error| error.param)
    }

    #[test]
    fn each_field_is_checked_and_named() {
        let bias = |token: &str, value: f32| Some(BTreeMap::from([(token.to_owned(), value)]));
        assert_eq!(refused(|f| f.temperature = Some(-0.5)).as_deref(), Some("temperature"));
        assert_eq!(refused(|f| f.temperature = Some(f32::INFINITY)).as_deref(), Some("temperature"));
        assert_eq!(refused(|f| f.top_p = Some(0.0)).as_deref(), Some("top_p"));
        assert_eq!(refused(|f| f.top_k = Some(-2)).as_deref(), Some("top_k"));
        assert_eq!(refused(|f| f.min_p = Some(1.5)).as_deref(), Some("min_p"));
        assert_eq!(refused(|f| f.repetition_penalty = Some(0.0)).as_deref(), Some("repetition_penalty"));
        assert_eq!(refused(|f| f.presence_penalty = Some(3.0)).as_deref(), Some("presence_penalty"));
        assert_eq!(refused(|f| f.frequency_penalty = Some(-3.0)).as_deref(), Some("frequency_penalty"));
        assert_eq!(refused(|f| f.logit_bias = bias("7", 101.0)).as_deref(), Some("logit_bias.7"));
        assert_eq!(refused(|f| f.logit_bias = bias("100", 1.0)).as_deref(), Some("logit_bias.100"));
        assert_eq!(refused(|f| f.logit_bias = bias("x", 1.0)).as_deref(), Some("logit_bias.x"));
        assert_eq!(refused(|f| (f.top_k, f.logit_bias) = (Some(-1), bias("99", -100.0))), None);
    }

    #[test]
    fn a_field_goes_before_the_models_default_and_that_before_the_neutral_value() {
        let defaults = GenerationDefaults { temperature: Some(0.5), top_k: Some(7), ..Default::default() };
        let fields = SamplingFields { temperature: Some(0.25), seed: Some(-1), ..Default::default() };
        let params = fields.params(&defaults, 100).expect("valid");
        assert_eq!((params.temperature, params.top_k, params.top_p, params.seed), (0.25, 7, 1.0, u64::MAX));
    }

    #[test]
    fn stop_strings_and_ids_are_bounded() {
        let stop = |strings: Vec<String>| stop_conditions("stop", strings, false).err().and_then(|e| e.param);
        assert_eq!(stop(vec!["x".into(); 16]), None);
        for wrong in [vec!["x".into(); 17], vec![String::new()], vec!["x".repeat(1025)]] {
            assert_eq!(stop(wrong).as_deref(), Some("stop"));
        }
        assert_eq!(stop_ids(&[2], Some(vec![5]), false, 100).expect("valid"), [2, 5]);
        assert_eq!(stop_ids(&[2], None, true, 100).expect("valid"), [0u32; 0]);
        assert!(stop_ids(&[2], Some(vec![100]), false, 100).is_err());
    }

    #[test]
    fn answers_are_bounded_by_what_runs_at_once() {
        assert_eq!((answers(None, 4).ok(), answers(Some(4), 4).ok()), (Some(1), Some(4)));
        assert!(answers(Some(0), 4).is_err() && answers(Some(5), 4).is_err() && answers(Some(129), 1000).is_err());
    }
}
