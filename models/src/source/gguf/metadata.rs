//! Key-value metadata of a GGUF file, with typed getters whose errors name the key.
//!
//! Arrays are kept as the file has them (scalars as raw bytes, strings in one buffer), so that a vocabulary takes no more
//! memory than its bytes in the file.

use crate::ModelError;
use crate::config::{MAX_SIZE, integer_range, number_range};
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// One metadata value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// u8, u16, u32 or u64.
    Unsigned(u64),
    /// i8, i16, i32 or i64.
    Signed(i64),
    /// f32 or f64.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// UTF-8 text.
    String(String),
    /// An array of equal types.
    Array(Array),
}

/// An array of metadata values.
#[derive(Clone, Debug, PartialEq)]
pub enum Array {
    /// Numbers or truth values.
    Scalars(Scalars),
    /// Strings.
    Strings(StringArray),
    /// Arrays.
    Nested(Vec<Array>),
}

/// Scalar types, in GGUF's numbering of value types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScalarKind {
    /// u8.
    U8,
    /// i8.
    I8,
    /// u16.
    U16,
    /// i16.
    I16,
    /// u32.
    U32,
    /// i32.
    I32,
    /// f32.
    F32,
    /// One byte, 0 or 1.
    Bool,
    /// u64.
    U64,
    /// i64.
    I64,
    /// f64.
    F64,
}

impl ScalarKind {
    /// Bytes of one value.
    pub fn bytes(self) -> u64 {
        use ScalarKind::*;
        match self {
            U8 | I8 | Bool => 1,
            U16 | I16 => 2,
            U32 | I32 | F32 => 4,
            U64 | I64 | F64 => 8,
        }
    }

    /// The value in little-endian `raw`, which is [`ScalarKind::bytes`] long; `None` for another length or a truth value
    /// that is neither 0 nor 1.
    pub(super) fn decode(self, raw: &[u8]) -> Option<Value> {
        use ScalarKind::*;
        Some(match self {
            U8 => Value::Unsigned(u8::from_le_bytes(raw.try_into().ok()?).into()),
            I8 => Value::Signed(i8::from_le_bytes(raw.try_into().ok()?).into()),
            U16 => Value::Unsigned(u16::from_le_bytes(raw.try_into().ok()?).into()),
            I16 => Value::Signed(i16::from_le_bytes(raw.try_into().ok()?).into()),
            U32 => Value::Unsigned(u32::from_le_bytes(raw.try_into().ok()?).into()),
            I32 => Value::Signed(i32::from_le_bytes(raw.try_into().ok()?).into()),
            F32 => Value::Float(f32::from_le_bytes(raw.try_into().ok()?).into()),
            U64 => Value::Unsigned(u64::from_le_bytes(raw.try_into().ok()?)),
            I64 => Value::Signed(i64::from_le_bytes(raw.try_into().ok()?)),
            F64 => Value::Float(f64::from_le_bytes(raw.try_into().ok()?)),
            Bool => match raw {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                _ => return None,
            },
        })
    }
}

/// An array of scalars, as the file has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Scalars {
    pub(super) kind: ScalarKind,
    pub(super) raw: Vec<u8>,
}

impl Scalars {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.raw.len() / self.kind.bytes() as usize
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.raw.is_empty()
    }

    /// The elements in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Option<Value>> + '_ {
        self.raw.chunks_exact(self.kind.bytes() as usize).map(|raw| self.kind.decode(raw))
    }
}

/// An array of strings in one buffer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StringArray {
    text: String,
    ends: Vec<u32>,
}

impl StringArray {
    /// From the concatenated text and each string's end. `None` if an end is no character boundary or they do not rise.
    pub(super) fn new(text: String, ends: Vec<u32>) -> Option<StringArray> {
        let rising = ends.windows(2).all(|w| w[0] <= w[1]);
        let valid = rising && ends.iter().all(|&end| text.is_char_boundary(end as usize));
        valid.then_some(StringArray { text, ends })
    }

    /// Number of strings.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// String `index`, if there is one.
    pub fn get(&self, index: usize) -> Option<&str> {
        let end = *self.ends.get(index)? as usize;
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before] as usize);
        self.text.get(start..end)
    }

    /// The strings in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        (0..self.len()).map(|i| self.get(i).unwrap_or_default())
    }
}

/// The metadata of one GGUF file.
#[derive(Clone, Debug)]
pub struct GgufMetadata {
    file: PathBuf,
    values: BTreeMap<String, Value>,
}

impl GgufMetadata {
    pub(super) fn new(file: &Path, values: BTreeMap<String, Value>) -> GgufMetadata {
        GgufMetadata { file: file.to_path_buf(), values }
    }

    /// The file this came from.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// All keys, sorted.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }

    /// The value under a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }

    /// An error about a key: what was expected; what was found is taken from the file.
    pub fn wrong(&self, key: &str, expected: impl Into<String>) -> ModelError {
        ModelError::field(&self.file, key, expected, self.get(key).map_or("nothing".to_owned(), describe))
    }

    /// An integer in `range`; `None` if absent.
    pub fn opt_u64(&self, key: &str, range: RangeInclusive<u64>) -> Result<Option<u64>, ModelError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match integer(value).filter(|n| range.contains(n)) {
            Some(n) => Ok(Some(n)),
            None => Err(self.wrong(key, integer_range(&range))),
        }
    }

    /// An integer in `range`.
    pub fn u64(&self, key: &str, range: RangeInclusive<u64>) -> Result<u64, ModelError> {
        self.opt_u64(key, range.clone())?.ok_or_else(|| self.wrong(key, integer_range(&range)))
    }

    /// A size: an integer from 1 to [`MAX_SIZE`].
    pub fn size(&self, key: &str) -> Result<u64, ModelError> {
        self.u64(key, 1..=MAX_SIZE)
    }

    /// A size, or `None` if absent.
    pub fn opt_size(&self, key: &str) -> Result<Option<u64>, ModelError> {
        self.opt_u64(key, 1..=MAX_SIZE)
    }

    /// A token id; `None` if absent.
    pub fn opt_token_id(&self, key: &str) -> Result<Option<u32>, ModelError> {
        // The range makes the conversion exact.
        Ok(self.opt_u64(key, 0..=MAX_SIZE - 1)?.map(|id| id as u32))
    }

    /// A finite number in `range`; `None` if absent.
    pub fn opt_f64(&self, key: &str, range: RangeInclusive<f64>) -> Result<Option<f64>, ModelError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match number(value).filter(|x| x.is_finite() && range.contains(x)) {
            Some(x) => Ok(Some(x)),
            None => Err(self.wrong(key, number_range(&range))),
        }
    }

    /// A finite number in `range`.
    pub fn f64(&self, key: &str, range: RangeInclusive<f64>) -> Result<f64, ModelError> {
        self.opt_f64(key, range.clone())?.ok_or_else(|| self.wrong(key, number_range(&range)))
    }

    /// A truth value; `None` if absent.
    pub fn opt_bool(&self, key: &str) -> Result<Option<bool>, ModelError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(b)) => Ok(Some(*b)),
            Some(_) => Err(self.wrong(key, "true or false")),
        }
    }

    /// A string; `None` if absent.
    pub fn opt_str(&self, key: &str) -> Result<Option<&str>, ModelError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(s)) => Ok(Some(s)),
            Some(_) => Err(self.wrong(key, "a string")),
        }
    }

    /// A string.
    pub fn str(&self, key: &str) -> Result<&str, ModelError> {
        self.opt_str(key)?.ok_or_else(|| self.wrong(key, "a string"))
    }

    /// An array of strings; `None` if absent.
    pub fn opt_strings(&self, key: &str) -> Result<Option<&StringArray>, ModelError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(Array::Strings(strings))) => Ok(Some(strings)),
            Some(_) => Err(self.wrong(key, "an array of strings")),
        }
    }

    /// An array of strings.
    pub fn strings(&self, key: &str) -> Result<&StringArray, ModelError> {
        self.opt_strings(key)?.ok_or_else(|| self.wrong(key, "an array of strings"))
    }

    /// An array of integers that fit in i64; `None` if absent.
    pub fn opt_integers(&self, key: &str) -> Result<Option<Vec<i64>>, ModelError> {
        self.opt_scalars(key, "an array of integers", |value| match value {
            Value::Signed(n) => Some(n),
            Value::Unsigned(n) => i64::try_from(n).ok(),
            _ => None,
        })
    }

    /// An array of finite numbers, rounded to f32; `None` if absent.
    pub fn opt_f32s(&self, key: &str) -> Result<Option<Vec<f32>>, ModelError> {
        self.opt_scalars(key, "an array of finite numbers", |value| {
            number(&value).map(|x| x as f32).filter(|x| x.is_finite())
        })
    }

    /// Drops all arrays whose key starts with `prefix`.
    pub fn release_arrays(&mut self, prefix: &str) {
        self.values.retain(|key, value| !(key.starts_with(prefix) && matches!(value, Value::Array(_))));
    }

    fn opt_scalars<T>(
        &self,
        key: &str,
        expected: &str,
        convert: impl Fn(Value) -> Option<T>,
    ) -> Result<Option<Vec<T>>, ModelError> {
        let list = match self.get(key) {
            None => return Ok(None),
            Some(Value::Array(Array::Scalars(scalars))) => {
                scalars.iter().map(|v| v.and_then(&convert)).collect::<Option<Vec<T>>>()
            }
            Some(_) => None,
        };
        list.map(Some).ok_or_else(|| self.wrong(key, expected))
    }
}

fn integer(value: &Value) -> Option<u64> {
    match value {
        Value::Unsigned(n) => Some(*n),
        Value::Signed(n) => u64::try_from(*n).ok(),
        _ => None,
    }
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Float(x) => Some(*x),
        Value::Unsigned(n) => Some(*n as f64),
        Value::Signed(n) => Some(*n as f64),
        _ => None,
    }
}

/// A value as shown in an error: short, on one line.
fn describe(value: &Value) -> String {
    match value {
        Value::Unsigned(n) => n.to_string(),
        Value::Signed(n) => n.to_string(),
        Value::Float(x) => x.to_string(),
        Value::Bool(b) => b.to_string(),
        Value::String(s) => format!("{:?}", s.chars().take(60).collect::<String>()),
        Value::Array(Array::Scalars(a)) => format!("an array of {} values of type {:?}", a.len(), a.kind),
        Value::Array(Array::Strings(a)) => format!("an array of {} strings", a.len()),
        Value::Array(Array::Nested(a)) => format!("an array of {} arrays", a.len()),
    }
}
