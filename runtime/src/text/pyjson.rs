//! JSON as Python's `json.dumps` writes it, for the `tojson` filter.
//!
//! Models were trained on prompts that Python rendered, so separators, float spelling, and the absence of HTML escapes
//! are part of the prompt format. The template engine's own filter escapes `<`, `>`, `&` and `'`.

use minijinja::formatting::{FormatStyle, format};
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Value};

/// Values nested deeper than this are refused.
const MAX_DEPTH: usize = 128;

/// The `tojson` filter of Hugging Face: `tojson(ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
pub(super) fn tojson(value: &Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<Value> = options.get("indent")?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    let mut writer = PythonJson {
        out: String::new(),
        ensure_ascii: options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sort_keys: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        indent: indent.filter(|i| !i.is_none()).map(indent_text).transpose()?,
        item_separator: String::new(),
        key_separator: ": ".to_owned(),
        depth: 0,
    };
    options.assert_all_used()?;
    // Python drops the space after the comma when it breaks lines.
    writer.item_separator = if writer.indent.is_some() { ",".to_owned() } else { ", ".to_owned() };
    match separators.as_deref() {
        None => {}
        Some([item, key]) => (writer.item_separator, writer.key_separator) = (item.clone(), key.clone()),
        Some(_) => return Err(invalid("tojson: separators must be a pair of strings")),
    }
    writer.value(value)?;
    Ok(writer.out)
}

fn indent_text(indent: Value) -> Result<String, Error> {
    match indent.as_str() {
        Some(text) => Ok(text.to_owned()),
        None => indent
            .as_usize()
            .filter(|&width| width <= 64)
            .map(|width| " ".repeat(width))
            .ok_or_else(|| invalid("tojson: indent must be a string or a number from 0 to 64")),
    }
}

fn invalid(detail: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, detail)
}

struct PythonJson {
    out: String,
    ensure_ascii: bool,
    sort_keys: bool,
    indent: Option<String>,
    item_separator: String,
    key_separator: String,
    depth: usize,
}

impl PythonJson {
    fn value(&mut self, value: &Value) -> Result<(), Error> {
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.number(value)?,
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => self.sequence(value)?,
            ValueKind::Map => self.map(value)?,
            kind => return Err(Error::new(ErrorKind::BadSerialization, format!("{kind} is not JSON serializable"))),
        }
        Ok(())
    }

    fn number(&mut self, value: &Value) -> Result<(), Error> {
        match f64::try_from(value.clone()) {
            Ok(number) if !value.is_integer() && !number.is_finite() => self.out.push_str(match number {
                n if n.is_nan() => "NaN",
                n if n > 0.0 => "Infinity",
                _ => "-Infinity",
            }),
            // Python's str() of a number is what json.dumps writes.
            _ => self.out.push_str(&format(FormatStyle::Printf, "%s", std::slice::from_ref(value))?),
        }
        Ok(())
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                c if c < ' ' || (self.ensure_ascii && c > '~') => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        self.out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }

    fn sequence(&mut self, value: &Value) -> Result<(), Error> {
        let items: Vec<Value> = value.try_iter()?.collect();
        self.container('[', ']', &items, |writer, item| writer.value(item))
    }

    fn map(&mut self, value: &Value) -> Result<(), Error> {
        let mut keys: Vec<Value> = value.try_iter()?.collect();
        if self.sort_keys {
            keys.sort();
        }
        self.container('{', '}', &keys, |writer, key| {
            writer.key(key)?;
            let separator = std::mem::take(&mut writer.key_separator);
            writer.out.push_str(&separator);
            writer.key_separator = separator;
            writer.value(&value.get_item(key)?)
        })
    }

    fn key(&mut self, key: &Value) -> Result<(), Error> {
        match key.kind() {
            ValueKind::String => self.value(key),
            ValueKind::None | ValueKind::Bool | ValueKind::Number => {
                self.out.push('"');
                self.value(key)?;
                self.out.push('"');
                Ok(())
            }
            kind => Err(Error::new(ErrorKind::BadSerialization, format!("{kind} cannot be a JSON key"))),
        }
    }

    fn container(
        &mut self,
        open: char,
        close: char,
        items: &[Value],
        mut write: impl FnMut(&mut Self, &Value) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if self.depth == MAX_DEPTH {
            return Err(invalid("tojson: the value is nested too deeply"));
        }
        self.depth += 1;
        self.out.push(open);
        for (place, item) in items.iter().enumerate() {
            if place > 0 {
                self.out.push_str(&self.item_separator);
            }
            self.break_line();
            write(self, item)?;
        }
        self.depth -= 1;
        if !items.is_empty() {
            self.break_line();
        }
        self.out.push(close);
        Ok(())
    }

    fn break_line(&mut self) {
        if let Some(indent) = &self.indent {
            self.out.push('\n');
            for _ in 0..self.depth {
                self.out.push_str(indent);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dumps(expression: &str) -> String {
        let mut env = minijinja::Environment::new();
        env.add_filter("tojson", tojson);
        env.render_str(&format!("{{{{ ({expression})|tojson }}}}"), ()).expect("renders")
    }

    fn dumps_with(expression: &str, options: &str) -> String {
        let mut env = minijinja::Environment::new();
        env.add_filter("tojson", tojson);
        env.render_str(&format!("{{{{ ({expression})|tojson({options}) }}}}"), ()).expect("renders")
    }

    /// Expected values are the output of CPython 3.11's `json.dumps`.
    #[test]
    fn agrees_with_python() {
        assert_eq!(dumps("{'b': [1, 2.0, 1e-7], 'a': {}}"), r#"{"b": [1, 2.0, 1e-07], "a": {}}"#);
        assert_eq!(dumps("[1e16, 0.1, -3, true, none, []]"), "[1e+16, 0.1, -3, true, null, []]");
        assert_eq!(dumps(r#"'<é>&\'\n"\t日'"#), r#""<é>&'\n\"\t日""#);
        assert_eq!(dumps("{1: 2, true: none}"), r#"{"1": 2, "true": null}"#);
        assert_eq!(dumps_with("'é😀'", "ensure_ascii=true"), r#""\u00e9\ud83d\ude00""#);
        assert_eq!(dumps_with("{'b': 1, 'a': 2}", "sort_keys=true"), r#"{"a": 2, "b": 1}"#);
        assert_eq!(dumps_with("[1, {'a': 2}]", "separators=(',', ':')"), r#"[1,{"a":2}]"#);
    }

    #[test]
    fn indents_like_python() {
        let expected = "{\n    \"a\": [\n        1,\n        2\n    ],\n    \"b\": {}\n}";
        assert_eq!(dumps_with("{'a': [1, 2], 'b': {}}", "indent=4"), expected);
    }

    #[test]
    fn undefined_is_an_error() {
        let mut env = minijinja::Environment::new();
        env.add_filter("tojson", tojson);
        let error = env.render_str("{{ nothing|tojson }}", ()).expect_err("undefined");
        assert!(error.to_string().contains("undefined is not JSON serializable"), "{error}");
    }
}
