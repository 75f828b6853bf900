//! What a grammar may be before it is compiled.
//!
//! The compiler's own fuel bounds most of its work; these bounds catch what it does not count: recursion on the stack, and
//! repetitions that it unrolls first. The compiler bounds the nesting of Lark grammars itself.

use std::collections::HashMap;

use serde_json::Value;

use super::GrammarError;

/// Bytes of a grammar; the largest published tool schemas have some 100 kB.
pub(super) const MAX_BYTES: usize = 256 << 10;
/// Bytes of a client's Lark grammar: the time to compile one grows with the square of a rule's length.
const MAX_LARK_BYTES: usize = 32 << 10;
/// Bytes of a regular expression.
const MAX_REGEX_BYTES: usize = 32 << 10;
/// Levels of brackets in a regular expression, or of values in a schema.
const MAX_DEPTH: usize = 64;
/// Largest count of a schema's keyword or of a regular expression.
const MAX_REPETITIONS: u64 = 20_000;
/// Alternatives that `anyOf` and `oneOf` may come to once `allOf` has multiplied them.
const MAX_ALTERNATIVES: u64 = 512;
/// Regular expressions that one string may have to match at once: their automata multiply.
const MAX_PATTERNS: u64 = 6;
/// Properties of all objects of a schema together.
const MAX_PROPERTIES: usize = 2000;
/// Keywords of JSON Schema that count.
const COUNTS: [&str; 6] = ["minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties"];

/// Checks the size of a grammar.
pub(super) fn check_size(bytes: usize, limit: usize) -> Result<(), GrammarError> {
    if bytes > limit { Err(GrammarError::TooLarge { bytes, limit }) } else { Ok(()) }
}

/// Checks a Lark grammar. Schemas within one would go unchecked, and have a way of their own.
pub(super) fn check_lark(lark: &str) -> Result<(), GrammarError> {
    check_size(lark.len(), MAX_LARK_BYTES)?;
    if lark.contains("%json") {
        return Err(GrammarError::Invalid("%json is not taken in a grammar; ask for a JSON schema instead".into()));
    }
    Ok(())
}

/// Checks a regular expression.
pub(super) fn check_regex(regex: &str) -> Result<(), GrammarError> {
    check_size(regex.len(), MAX_REGEX_BYTES)?;
    let (mut depth, mut bytes) = (0usize, regex.bytes());
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => {
                bytes.next();
            }
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return Err(GrammarError::TooDeep { limit: MAX_DEPTH });
        }
    }
    check_braces(regex)
}

/// Checks the counts in `{n,m}` and `{n}`, wherever such braces stand.
fn check_braces(text: &str) -> Result<(), GrammarError> {
    for (at, _) in text.match_indices('{') {
        let inner = text[at + 1..].split('}').next().unwrap_or_default();
        let counts = inner.split(',').map(str::trim);
        if !inner.bytes().all(|b| b.is_ascii_digit() || matches!(b, b',' | b' ')) {
            continue;
        }
        for count in counts.filter(|c| !c.is_empty()) {
            let count = count.parse().unwrap_or(u64::MAX);
            if count > MAX_REPETITIONS {
                let place = format!("{{{}}}", inner.chars().take(40).collect::<String>());
                return Err(GrammarError::TooManyRepetitions { place, count, limit: MAX_REPETITIONS });
            }
        }
    }
    Ok(())
}

/// Checks a JSON schema.
pub(super) fn check_schema(schema: &Value) -> Result<(), GrammarError> {
    let fields = schema.as_object().ok_or_else(|| GrammarError::Invalid("the schema must be an object".into()))?;
    if fields.contains_key("x-guidance") {
        return Err(GrammarError::Invalid("x-guidance is not a keyword of JSON Schema".into()));
    }
    check_value(schema, MAX_DEPTH)?;
    Merges::new(schema).check(schema)?;
    check_size(schema.to_string().len(), MAX_BYTES)
}

fn check_value(value: &Value, depth: usize) -> Result<(), GrammarError> {
    let inner = depth.checked_sub(1).ok_or(GrammarError::TooDeep { limit: MAX_DEPTH })?;
    match value {
        Value::Array(items) => items.iter().try_for_each(|item| check_value(item, inner)),
        Value::Object(fields) => fields.iter().try_for_each(|(key, value)| {
            check_keyword(key, value)?;
            check_value(value, inner)
        }),
        _ => Ok(()),
    }
}

fn check_keyword(key: &str, value: &Value) -> Result<(), GrammarError> {
    match (key, value) {
        ("pattern", Value::String(pattern)) => check_regex(pattern),
        ("patternProperties", Value::Object(patterns)) => patterns.keys().try_for_each(|pattern| check_regex(pattern)),
        (_, Value::Number(count)) if COUNTS.contains(&key) => {
            let count = count.as_f64().unwrap_or(f64::INFINITY);
            if count <= MAX_REPETITIONS as f64 {
                return Ok(());
            }
            let limit = MAX_REPETITIONS;
            Err(GrammarError::TooManyRepetitions { place: key.to_owned(), count: count as u64, limit })
        }
        _ => Ok(()),
    }
}

/// What a schema comes to when its combining keywords are merged, which the compiler does before it counts.
#[derive(Clone, Copy, Debug)]
struct Size {
    alternatives: u64,
    patterns: u64,
}

/// Estimates of the schemas of a document.
struct Merges<'a> {
    root: &'a Value,
    /// Those that were referred to; `None` while one is being looked at.
    known: HashMap<&'a str, Option<Size>>,
    properties: usize,
    /// References that are being followed.
    depth: usize,
}

impl<'a> Merges<'a> {
    fn new(root: &'a Value) -> Self {
        Merges { root, known: HashMap::new(), properties: 0, depth: 0 }
    }

    /// Checks a value and all within it.
    fn check(&mut self, value: &'a Value) -> Result<(), GrammarError> {
        let refused = |message: String| Err(GrammarError::Invalid(message));
        match value {
            Value::Array(items) => items.iter().try_for_each(|item| self.check(item)),
            Value::Object(fields) => {
                let size = self.size(value);
                if size.alternatives > MAX_ALTERNATIVES {
                    return refused(format!(
                        "anyOf, oneOf and allOf come to more than {MAX_ALTERNATIVES} alternatives"
                    ));
                }
                if size.patterns > MAX_PATTERNS {
                    return refused(format!("allOf demands more than {MAX_PATTERNS} patterns of one string"));
                }
                self.properties += value["properties"].as_object().map_or(0, serde_json::Map::len);
                if self.properties > MAX_PROPERTIES {
                    return refused(format!("the schema has more than {MAX_PROPERTIES} properties"));
                }
                fields.values().try_for_each(|field| self.check(field))
            }
            _ => Ok(()),
        }
    }

    fn size(&mut self, schema: &'a Value) -> Size {
        let mut total = Size { alternatives: 1, patterns: u64::from(schema["pattern"].is_string()) };
        let mut multiply = |other: Size| {
            total.alternatives = total.alternatives.saturating_mul(other.alternatives);
            total.patterns = total.patterns.saturating_add(other.patterns);
        };
        for key in ["anyOf", "oneOf"] {
            let members = schema[key].as_array().map_or(&[][..], Vec::as_slice);
            let sizes = members.iter().map(|m| self.size(m));
            let sum = |a: Size, b: Size| Size {
                alternatives: a.alternatives.saturating_add(b.alternatives),
                patterns: a.patterns.max(b.patterns),
            };
            if let Some(size) = sizes.reduce(sum) {
                multiply(size);
            }
        }
        for member in schema["allOf"].as_array().map_or(&[][..], Vec::as_slice) {
            multiply(self.size(member));
        }
        if let Some(reference) = schema["$ref"].as_str() {
            multiply(self.size_of_reference(reference));
        }
        total
    }

    /// The size of what is referred to. One that leads back to itself adds nothing: the compiler refuses it.
    fn size_of_reference(&mut self, reference: &'a str) -> Size {
        const ONE: Size = Size { alternatives: 1, patterns: 0 };
        if let Some(known) = self.known.get(reference) {
            return known.unwrap_or(ONE);
        }
        let root = self.root;
        let Some(target) = reference.strip_prefix('#').and_then(|pointer| root.pointer(pointer)) else { return ONE };
        if self.depth == MAX_DEPTH {
            return Size { alternatives: u64::MAX, patterns: 0 };
        }
        self.known.insert(reference, None);
        self.depth += 1;
        let size = self.size(target);
        self.depth -= 1;
        self.known.insert(reference, Some(size));
        size
    }
}
