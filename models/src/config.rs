//! Typed access to the fields of a JSON configuration.
//!
//! A field is read with the type and range the caller needs, so a wrong one is reported where it stands, by its dotted
//! path, before it can reach an allocation or a shape. `null` counts as absent, as in Hugging Face's files.

use crate::ModelError;
use serde_json::{Map, Value};
use std::fs::{self, File};
use std::io::Read;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// Largest size (heads, layers, hidden size, vocabulary, context) accepted: 2^31.
pub const MAX_SIZE: u64 = 1 << 31;

/// Most bytes a configuration file may have: 16 MiB.
pub const MAX_CONFIG_BYTES: u64 = 16 << 20;

/// A parsed JSON file whose top level is an object.
#[derive(Clone, Debug)]
pub struct Config {
    file: PathBuf,
    root: Map<String, Value>,
}

impl Config {
    /// Reads and parses `file`.
    pub fn read(file: &Path) -> Result<Config, ModelError> {
        Config::parse(file, &read_file(file, MAX_CONFIG_BYTES)?)
    }

    /// Like [`Config::read`]; `None` where the file does not exist.
    pub fn read_if_present(file: &Path) -> Result<Option<Config>, ModelError> {
        if file.exists() { Config::read(file).map(Some) } else { Ok(None) }
    }

    /// Parses `text`; `file` is named in errors.
    pub fn parse(file: &Path, text: &[u8]) -> Result<Config, ModelError> {
        let json = |problem: String| ModelError::json(file, problem);
        match serde_json::from_slice(text).map_err(|e| json(e.to_string()))? {
            Value::Object(root) => Ok(Config { file: file.to_path_buf(), root }),
            other => Err(json(format!("expected an object at the top level, found {}", describe(&other)))),
        }
    }

    /// The file this came from.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The top-level object.
    pub fn fields(&self) -> Fields<'_> {
        Fields { file: &self.file, prefix: String::new(), map: &self.root }
    }
}

/// The fields of one object of a configuration, and where it stands.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    file: &'a Path,
    prefix: String,
    map: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    /// The file this came from.
    pub fn file(&self) -> &'a Path {
        self.file
    }

    /// Dotted path of a field, as errors name it.
    pub fn path(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// The field's value; `None` if absent or `null`.
    pub fn get(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name).filter(|v| !v.is_null())
    }

    /// Whether the field is present and not `null`.
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// An error about a field: what was expected; what was found is taken from the file.
    pub fn wrong(&self, name: &str, expected: impl Into<String>) -> ModelError {
        let found = self.get(name).map_or("nothing".to_owned(), describe);
        ModelError::field(self.file, self.path(name), expected, found)
    }

    /// An integer in `range`; `None` if absent.
    pub fn opt_u64(&self, name: &str, range: RangeInclusive<u64>) -> Result<Option<u64>, ModelError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        match integer(value).filter(|n| range.contains(n)) {
            Some(n) => Ok(Some(n)),
            None => Err(self.wrong(name, integer_range(&range))),
        }
    }

    /// An integer in `range`.
    pub fn u64(&self, name: &str, range: RangeInclusive<u64>) -> Result<u64, ModelError> {
        self.opt_u64(name, range.clone())?.ok_or_else(|| self.wrong(name, integer_range(&range)))
    }

    /// A size: an integer from 1 to [`MAX_SIZE`].
    pub fn size(&self, name: &str) -> Result<u64, ModelError> {
        self.u64(name, 1..=MAX_SIZE)
    }

    /// A size, or `None` if absent.
    pub fn opt_size(&self, name: &str) -> Result<Option<u64>, ModelError> {
        self.opt_u64(name, 1..=MAX_SIZE)
    }

    /// A finite number in `range`; `None` if absent.
    pub fn opt_f64(&self, name: &str, range: RangeInclusive<f64>) -> Result<Option<f64>, ModelError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        match value.as_f64().filter(|x| x.is_finite() && range.contains(x)) {
            Some(x) => Ok(Some(x)),
            None => Err(self.wrong(name, number_range(&range))),
        }
    }

    /// A finite number in `range`.
    pub fn f64(&self, name: &str, range: RangeInclusive<f64>) -> Result<f64, ModelError> {
        self.opt_f64(name, range.clone())?.ok_or_else(|| self.wrong(name, number_range(&range)))
    }

    /// A truth value; `None` if absent.
    pub fn opt_bool(&self, name: &str) -> Result<Option<bool>, ModelError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| self.wrong(name, "true or false"))
    }

    /// A truth value, `default` if absent.
    pub fn bool_or(&self, name: &str, default: bool) -> Result<bool, ModelError> {
        Ok(self.opt_bool(name)?.unwrap_or(default))
    }

    /// A string; `None` if absent.
    pub fn opt_str(&self, name: &str) -> Result<Option<&'a str>, ModelError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.wrong(name, "a string"))
    }

    /// A string.
    pub fn str(&self, name: &str) -> Result<&'a str, ModelError> {
        self.opt_str(name)?.ok_or_else(|| self.wrong(name, "a string"))
    }

    /// An object inside this one; `None` if absent.
    pub fn opt_object(&self, name: &str) -> Result<Option<Fields<'a>>, ModelError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Object(map)) => {
                Ok(Some(Fields { file: self.file, prefix: format!("{}{name}.", self.prefix), map }))
            }
            Some(_) => Err(self.wrong(name, "an object")),
        }
    }

    /// An object inside this one.
    pub fn object(&self, name: &str) -> Result<Fields<'a>, ModelError> {
        self.opt_object(name)?.ok_or_else(|| self.wrong(name, "an object"))
    }

    /// A list of strings; `None` if absent.
    pub fn opt_strs(&self, name: &str) -> Result<Option<Vec<&'a str>>, ModelError> {
        self.opt_list(name, "a list of strings", Value::as_str)
    }

    /// A list of finite numbers; `None` if absent.
    pub fn opt_f64s(&self, name: &str) -> Result<Option<Vec<f64>>, ModelError> {
        self.opt_list(name, "a list of numbers", |v| v.as_f64().filter(|x| x.is_finite()))
    }

    /// Token ids, given as one integer or a list; empty if absent.
    pub fn token_ids(&self, name: &str) -> Result<Vec<u32>, ModelError> {
        const EXPECTED: &str = "a token id or a list of token ids";
        let id = |v: &Value| integer(v).and_then(|n| u32::try_from(n).ok()).filter(|&n| u64::from(n) < MAX_SIZE);
        match self.get(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(_)) => Ok(self.opt_list(name, EXPECTED, id)?.unwrap_or_default()),
            Some(value) => id(value).map(|n| vec![n]).ok_or_else(|| self.wrong(name, EXPECTED)),
        }
    }

    fn opt_list<T>(
        &self,
        name: &str,
        expected: &str,
        element: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<Vec<T>>, ModelError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let list = value.as_array().and_then(|items| items.iter().map(element).collect::<Option<Vec<T>>>());
        list.map(Some).ok_or_else(|| self.wrong(name, expected))
    }
}

/// Reads a whole file of at most `limit` bytes.
pub(crate) fn read_file(file: &Path, limit: u64) -> Result<Vec<u8>, ModelError> {
    let meta = fs::metadata(file).map_err(|e| ModelError::io(file, "open", e))?;
    if !meta.is_file() || meta.len() > limit {
        let found = if meta.is_file() { format!("one of {} bytes", meta.len()) } else { "something else".to_owned() };
        return Err(ModelError::field(file, "(whole file)", format!("a file of at most {limit} bytes"), found));
    }
    let mut bytes = Vec::with_capacity(meta.len() as usize);
    let handle = File::open(file).map_err(|e| ModelError::io(file, "open", e))?;
    handle.take(limit).read_to_end(&mut bytes).map_err(|e| ModelError::io(file, "read", e))?;
    Ok(bytes)
}

/// A non-negative integer; Python writes some of them as `64.0`.
fn integer(value: &Value) -> Option<u64> {
    const EXACT: f64 = 9_007_199_254_740_992.0; // 2^53
    let whole = |x: &f64| x.fract() == 0.0 && (0.0..=EXACT).contains(x);
    value.as_u64().or_else(|| value.as_f64().filter(whole).map(|x| x as u64))
}

pub(crate) fn integer_range(range: &RangeInclusive<u64>) -> String {
    match (*range.start(), *range.end()) {
        (1, MAX_SIZE) => "a positive integer, at most 2^31".to_owned(),
        (a, u64::MAX) => format!("an integer from {a}"),
        (a, b) => format!("an integer from {a} to {b}"),
    }
}

pub(crate) fn number_range(range: &RangeInclusive<f64>) -> String {
    match (*range.start(), *range.end()) {
        (f64::MIN, f64::MAX) => "a finite number".to_owned(),
        (f64::MIN_POSITIVE, f64::MAX) => "a positive number".to_owned(),
        (a, f64::MAX) => format!("a number from {a}"),
        (a, b) => format!("a number from {a} to {b}"),
    }
}

/// A value as shown in an error: short, on one line.
fn describe(value: &Value) -> String {
    const SHOWN: usize = 60;
    match value {
        Value::Object(map) => format!("an object with {} fields", map.len()),
        Value::Array(items) if items.len() > 8 => format!("a list of {}", items.len()),
        other => {
            let text = other.to_string();
            let mut shown: String = text.chars().take(SHOWN).collect();
            if shown.len() < text.len() {
                shown.push('…');
            }
            shown
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        Config::parse(Path::new("config.json"), text.as_bytes()).unwrap()
    }

    fn message<T: std::fmt::Debug>(result: Result<T, ModelError>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn fields_of_the_right_type_are_read() {
        let c = config(
            r#"{"n":4,"f":64.0,"x":1e-5,"s":"silu","b":true,"none":null,"o":{"k":["a","b"],"v":[1,2.5]},"eos":[2,7],"pad":3}"#,
        );
        let f = c.fields();
        assert_eq!(f.size("n").unwrap(), 4);
        assert_eq!(f.size("f").unwrap(), 64);
        assert_eq!(f.f64("x", 0.0..=1.0).unwrap(), 1e-5);
        assert_eq!(f.str("s").unwrap(), "silu");
        assert!(f.bool_or("b", false).unwrap());
        assert!(f.bool_or("none", true).unwrap());
        assert_eq!(f.opt_size("none").unwrap(), None);
        assert_eq!(f.object("o").unwrap().opt_strs("k").unwrap().unwrap(), ["a", "b"]);
        assert_eq!(f.object("o").unwrap().opt_f64s("v").unwrap().unwrap(), [1.0, 2.5]);
        assert_eq!(f.token_ids("eos").unwrap(), [2, 7]);
        assert_eq!(f.token_ids("pad").unwrap(), [3]);
        assert_eq!(f.token_ids("absent").unwrap(), Vec::<u32>::new());
    }

    #[test]
    fn wrong_fields_are_named_with_their_value() {
        let c =
            config(r#"{"hidden_size":-3,"heads":0,"big":4294967296,"eps":"small","rope":{"factor":[1]},"eos":[1,-2]}"#);
        let f = c.fields();
        assert_eq!(
            message(f.size("hidden_size")),
            "config.json: field hidden_size: expected a positive integer, at most 2^31, found -3"
        );
        assert!(message(f.size("heads")).ends_with("found 0"));
        assert!(message(f.size("big")).ends_with("found 4294967296"));
        assert!(message(f.size("layers")).contains("field layers: expected a positive integer"));
        assert!(
            message(f.f64("eps", 0.0..=1.0)).ends_with("field eps: expected a number from 0 to 1, found \"small\"")
        );
        let rope = f.object("rope").unwrap();
        assert!(
            message(rope.f64("factor", 1.0..=f64::MAX))
                .contains("field rope.factor: expected a number from 1, found [1]")
        );
        assert!(message(f.token_ids("eos")).contains("field eos"));
        assert!(message(f.object("heads")).contains("expected an object, found 0"));
    }

    #[test]
    fn text_that_is_no_object_is_refused() {
        let file = Path::new("config.json");
        assert!(message(Config::parse(file, b"[1]")).contains("expected an object"));
        assert!(message(Config::parse(file, b"{\"a\": NaN}")).contains("line 1"));
        assert!(message(Config::parse(file, &[b'['; 100_000])).contains("recursion limit"));
    }
}
