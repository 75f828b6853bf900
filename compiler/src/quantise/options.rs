//! What the user asked for: a format for all, exceptions by role and by name, a method and its calibration text.

use std::path::PathBuf;
use std::str::FromStr;

use ir::types::DType;

use super::QuantiseError;

/// Names of weight formats as users write them.
const FORMATS: &[(&str, DType)] = &[
    ("q4g128", DType::Q4G128),
    ("q4g64", DType::Q4G64),
    ("q4g32", DType::Q4_0),
    ("q4g32a", DType::Q4_1),
    ("q8g32", DType::Q8_0),
    ("q8c", DType::Q8C),
    ("t2", DType::T2),
    ("f16", DType::F16),
    ("bf16", DType::BF16),
    ("f32", DType::F32),
];

/// Most calibration tokens by default: 128 windows of 512.
pub const CALIBRATION_TOKENS: usize = 128 * 512;

/// The user's name of a format, or the format's own where users have none.
pub fn format_name(dtype: DType) -> &'static str {
    FORMATS.iter().find(|(_, d)| *d == dtype).map_or(dtype.name(), |(name, _)| name)
}

/// What a weight is to become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FormatChoice {
    /// It stays as the checkpoint has it.
    Keep,
    /// It is stored in this format.
    To(DType),
}

impl FromStr for FormatChoice {
    type Err = QuantiseError;

    fn from_str(word: &str) -> Result<FormatChoice, QuantiseError> {
        if word == "keep" {
            return Ok(FormatChoice::Keep);
        }
        let found = FORMATS.iter().find(|(name, _)| *name == word);
        found.map(|(_, dtype)| FormatChoice::To(*dtype)).ok_or_else(|| QuantiseError::UnknownFormat {
            word: word.into(),
            known: std::iter::once("keep").chain(FORMATS.iter().map(|(n, _)| *n)).collect::<Vec<_>>().join(", "),
        })
    }
}

/// How integers are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Method {
    /// Each weight to the nearest value of its group's grid; the grid is searched.
    #[default]
    Rtn,
    /// GPTQ: the error of each column is made good in the columns after it.
    Gptq,
    /// AWQ: input channels that matter are scaled up before rounding, and grids are clipped.
    Awq,
}

impl Method {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Method::Rtn => "rtn",
            Method::Gptq => "gptq",
            Method::Awq => "awq",
        }
    }
}

impl FromStr for Method {
    type Err = QuantiseError;

    fn from_str(word: &str) -> Result<Method, QuantiseError> {
        [Method::Rtn, Method::Gptq, Method::Awq].into_iter().find(|m| m.name() == word).ok_or_else(|| {
            let message = format!("unknown method {word:?}; the methods are rtn, gptq, awq");
            QuantiseError::Option { option: "--quant-method", message }
        })
    }
}

/// A name pattern: `*` stands for any characters, `?` for one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// A pattern over whole weight names.
    pub fn new(text: impl Into<String>) -> Pattern {
        Pattern(text.into())
    }

    /// Whether the whole of `name` fits.
    pub fn matches(&self, name: &str) -> bool {
        let (pattern, name): (Vec<char>, Vec<char>) = (self.0.chars().collect(), name.chars().collect());
        // After a mismatch, the last star takes one character more.
        let (mut p, mut n, mut star) = (0, 0, None);
        while n < name.len() {
            match pattern.get(p) {
                Some('*') => {
                    star = Some((p, n));
                    p += 1;
                }
                Some(c) if *c == '?' || *c == name[n] => (p, n) = (p + 1, n + 1),
                _ => match star {
                    Some((at, taken)) => {
                        star = Some((at, taken + 1));
                        (p, n) = (at + 1, taken + 1);
                    }
                    None => return false,
                },
            }
        }
        pattern[p..].iter().all(|c| *c == '*')
    }
}

/// An exception by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// The weights it is for.
    pub pattern: Pattern,
    /// What they become.
    pub format: FormatChoice,
}

impl FromStr for Override {
    type Err = QuantiseError;

    fn from_str(text: &str) -> Result<Override, QuantiseError> {
        let (pattern, format) = text.rsplit_once('=').filter(|(p, _)| !p.is_empty()).ok_or_else(|| {
            let message = format!("expected PATTERN=FORMAT, such as *.down_proj.weight=q8g32, found {text:?}");
            QuantiseError::Option { option: "--quant-override", message }
        })?;
        Ok(Override { pattern: Pattern::new(pattern), format: format.parse()? })
    }
}

/// What the user asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuantOptions {
    /// For every matrix without a rule of its own.
    pub format: FormatChoice,
    /// How integers are chosen.
    pub method: Method,
    /// The text that GPTQ and AWQ measure activations on.
    pub calibration: Option<PathBuf>,
    /// Most tokens of it that are used.
    pub calibration_tokens: usize,
    /// For the embedding table; by default q8g32 where `format` has fewer than 8 bits.
    pub embedding: Option<FormatChoice>,
    /// For the output head, and a table that is both; default as `embedding`.
    pub head: Option<FormatChoice>,
    /// Exceptions; the last that matches a name wins.
    pub overrides: Vec<Override>,
}

impl Default for QuantOptions {
    fn default() -> QuantOptions {
        QuantOptions {
            format: FormatChoice::Keep,
            method: Method::Rtn,
            calibration: None,
            calibration_tokens: CALIBRATION_TOKENS,
            embedding: None,
            head: None,
            overrides: Vec::new(),
        }
    }
}

impl QuantOptions {
    /// Checks that the options go together.
    ///
    /// # Errors
    /// A method that needs a calibration text without one, or a text that nothing would use.
    pub fn check(&self) -> Result<(), QuantiseError> {
        let fail = |option, message: &str| Err(QuantiseError::Option { option, message: message.into() });
        match (self.method, &self.calibration) {
            (Method::Gptq | Method::Awq, None) => {
                fail("--calibration", "gptq and awq measure activations on a text: give --calibration FILE")
            }
            (Method::Rtn, Some(_)) => {
                fail("--calibration", "rtn uses no text: leave it out, or give --quant-method gptq or awq")
            }
            _ if self.calibration_tokens < super::windows::SMALLEST_TOKENS => {
                let message = format!("expected at least {}", super::windows::SMALLEST_TOKENS);
                Err(QuantiseError::Option { option: "--calibration-tokens", message })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_names() {
        let cases = [
            ("*", "anything", true),
            ("", "", true),
            ("", "a", false),
            ("*.down_proj.weight", "model.layers.0.mlp.down_proj.weight", true),
            ("*.down_proj.weight", "model.layers.0.mlp.down_proj.weight_packed", false),
            ("model.layers.?.self_attn.*", "model.layers.1.self_attn.q_proj.weight", true),
            ("model.layers.?.self_attn.*", "model.layers.11.self_attn.q_proj.weight", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-b-b-d", false),
        ];
        for (pattern, name, expected) in cases {
            assert_eq!(Pattern::new(pattern).matches(name), expected, "{pattern} on {name}");
        }
    }

    #[test]
    fn words_are_read_or_answered_with_the_list() {
        assert_eq!("q4g32".parse::<FormatChoice>().unwrap(), FormatChoice::To(DType::Q4_0));
        assert_eq!("keep".parse::<FormatChoice>().unwrap(), FormatChoice::Keep);
        let error = "q3".parse::<FormatChoice>().unwrap_err().to_string();
        assert!(error.contains("q4g128") && error.contains("t2") && !error.contains('\n'), "{error}");
        let rule: Override = "*.o_proj.weight=q8c".parse().unwrap();
        assert_eq!(rule.format, FormatChoice::To(DType::Q8C));
        assert!("q8c".parse::<Override>().unwrap_err().to_string().contains("PATTERN=FORMAT"));
        assert_eq!("awq".parse::<Method>().unwrap(), Method::Awq);
        assert!("gguf".parse::<Method>().is_err());
    }

    #[test]
    fn calibrated_methods_need_a_text() {
        let mut options = QuantOptions { method: Method::Gptq, ..QuantOptions::default() };
        assert!(options.check().unwrap_err().to_string().contains("--calibration"));
        options.calibration = Some("text".into());
        assert!(options.check().is_ok());
        options.method = Method::Rtn;
        assert!(options.check().is_err());
    }
}
