//! Reading calls as the dialects write them: an object with name and arguments, a list of such, or a name before its arguments.

use super::json::{Scan, Scanner, is_space};

/// What a character did to a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing to tell yet.
    More,
    /// The call is certain: its name. The character opens its arguments.
    Begin(String),
    /// The character is part of its arguments.
    Argument,
    /// The character ends its arguments and the call.
    LastArgument,
    /// Name and arguments at once, complete.
    Whole(String, String),
    /// It is complete.
    End,
    /// It is no call, or no longer one.
    Malformed,
}

/// Reads `{"name": "f", "arguments": {…}}`, in any order, with `parameters` for arguments and `function` for the name, and
/// other fields ignored.
#[derive(Clone, Debug, Default)]
pub(super) struct ObjectReader {
    place: Place,
    name: Option<String>,
    /// Arguments that came before the name.
    early: Option<String>,
    begun: bool,
    /// Only an object of arguments makes it a call.
    needs_arguments: bool,
}

#[derive(Clone, Debug, Default)]
enum Place {
    #[default]
    Start,
    /// Before a key, or the end where `true`.
    BeforeKey(bool),
    Key(Scanner, String),
    Colon(Field),
    BeforeValue(Field),
    Value(Field, Scanner, String),
    /// The arguments of a call that has begun.
    Streaming(Scanner),
    AfterValue,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Name,
    Arguments,
    Other,
}

impl ObjectReader {
    /// A reader that takes for a call only what has an object of arguments.
    pub(super) fn strict() -> Self {
        Self { needs_arguments: true, ..Self::default() }
    }

    /// Takes a character, from the opening brace on.
    pub(super) fn push(&mut self, c: char) -> Step {
        match std::mem::replace(&mut self.place, Place::AfterValue) {
            Place::Start if c == '{' => self.go(Place::BeforeKey(true)),
            Place::BeforeKey(may_end) => match c {
                _ if is_space(c) => self.go(Place::BeforeKey(may_end)),
                '"' => self.quote(),
                '}' if may_end => self.end(),
                _ => Step::Malformed,
            },
            Place::Key(scanner, text) => self.key(scanner, text, c),
            Place::Colon(field) => match c {
                ':' => self.go(Place::BeforeValue(field)),
                _ if is_space(c) => self.go(Place::Colon(field)),
                _ => Step::Malformed,
            },
            Place::BeforeValue(field) if is_space(c) => self.go(Place::BeforeValue(field)),
            Place::BeforeValue(field) => self.first_of_value(field, c),
            Place::Value(field, scanner, text) => self.value(field, scanner, text, c),
            Place::Streaming(scanner) => self.stream(scanner, c),
            Place::AfterValue => match c {
                ',' => self.go(Place::BeforeKey(false)),
                '}' => self.end(),
                _ if is_space(c) => Step::More,
                _ => Step::Malformed,
            },
            Place::Start => Step::Malformed,
        }
    }

    fn go(&mut self, place: Place) -> Step {
        self.place = place;
        Step::More
    }

    fn quote(&mut self) -> Step {
        let mut scanner = Scanner::default();
        scanner.push('"');
        self.go(Place::Key(scanner, "\"".to_owned()))
    }

    fn key(&mut self, mut scanner: Scanner, mut text: String, c: char) -> Step {
        text.push(c);
        match scanner.push(c) {
            Scan::Inside => self.go(Place::Key(scanner, text)),
            Scan::Last => {
                let field = match serde_json::from_str::<String>(&text).as_deref() {
                    Ok("name" | "function") => Field::Name,
                    Ok("arguments" | "parameters") => Field::Arguments,
                    Ok(_) => Field::Other,
                    Err(_) => return Step::Malformed,
                };
                self.go(Place::Colon(field))
            }
            Scan::After | Scan::Malformed => Step::Malformed,
        }
    }

    fn first_of_value(&mut self, field: Field, c: char) -> Step {
        let repeated = match field {
            Field::Name => self.name.is_some(),
            Field::Arguments => self.begun || self.early.is_some(),
            Field::Other => false,
        };
        // Only an object is handed on as it comes: a string may hold the object, and has to be unquoted.
        if let (Field::Arguments, '{', false, Some(name)) = (field, c, repeated, &self.name) {
            let (name, mut scanner) = (name.clone(), Scanner::default());
            scanner.push(c);
            (self.begun, self.place) = (true, Place::Streaming(scanner));
            return Step::Begin(name);
        }
        if repeated {
            return Step::Malformed;
        }
        self.value(field, Scanner::default(), String::new(), c)
    }

    fn value(&mut self, field: Field, mut scanner: Scanner, mut text: String, c: char) -> Step {
        match scanner.push(c) {
            Scan::Inside => {
                text.push(c);
                self.go(Place::Value(field, scanner, text))
            }
            Scan::Last => {
                text.push(c);
                self.end_of_value(field, &text)
            }
            Scan::After => match self.end_of_value(field, &text) {
                Step::More => self.push(c),
                // A number or a word is neither a name nor arguments, so nothing was told that would be lost here.
                other => other,
            },
            Scan::Malformed => Step::Malformed,
        }
    }

    fn end_of_value(&mut self, field: Field, text: &str) -> Step {
        match field {
            Field::Other => return Step::More,
            Field::Name => match serde_json::from_str::<String>(text) {
                Ok(name) if !name.is_empty() => self.name = Some(name),
                _ => return Step::Malformed,
            },
            Field::Arguments => match arguments(text) {
                Some(json) if !self.needs_arguments || text.starts_with('{') => self.early = Some(json),
                _ => return Step::Malformed,
            },
        }
        Step::More
    }

    fn stream(&mut self, mut scanner: Scanner, c: char) -> Step {
        match scanner.push(c) {
            Scan::Inside => self.place = Place::Streaming(scanner),
            Scan::Last => self.place = Place::AfterValue,
            Scan::After | Scan::Malformed => return Step::Malformed,
        }
        Step::Argument
    }

    fn end(&mut self) -> Step {
        match (self.begun, self.name.take(), self.early.take()) {
            (true, ..) => Step::End,
            (false, Some(name), Some(json)) => Step::Whole(name, json),
            (false, Some(name), None) if !self.needs_arguments => Step::Whole(name, "{}".to_owned()),
            _ => Step::Malformed,
        }
    }
}

/// Arguments that did not come as an object: a string that holds them, or null for none.
fn arguments(text: &str) -> Option<String> {
    match text {
        "null" => Some("{}".to_owned()),
        _ if text.starts_with('{') => Some(text.to_owned()),
        _ => serde_json::from_str::<String>(text).ok(),
    }
}

/// How a name stands before its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Naming {
    /// Mistral: `name{…}`, `name[ARGS]{…}`, `name[CALL_ID]id[ARGS]{…}`.
    Brackets,
    /// DeepSeek: `name<｜tool▁sep｜>{…}`, or `function<｜tool▁sep｜>name` and a fenced block.
    Separator,
}

/// DeepSeek's mark between a call's parts.
pub(super) const SEPARATOR: &str = "<｜tool▁sep｜>";
const LONGEST_NAME: usize = 256;

/// Reads a call whose name stands before its arguments.
#[derive(Clone, Debug)]
pub(super) struct NamedReader {
    naming: Naming,
    /// What stands before the arguments so far.
    head: String,
    body: Option<Scanner>,
}

impl NamedReader {
    pub(super) fn new(naming: Naming) -> Self {
        Self { naming, head: String::new(), body: None }
    }

    pub(super) fn push(&mut self, c: char) -> Step {
        if let Some(scanner) = &mut self.body {
            return match scanner.push(c) {
                Scan::Inside => Step::Argument,
                Scan::Last => Step::LastArgument,
                Scan::After | Scan::Malformed => Step::Malformed,
            };
        }
        if c != '{' {
            self.head.push(c);
            return if self.may_become_name() { Step::More } else { Step::Malformed };
        }
        match self.name() {
            Some(name) => {
                let mut scanner = Scanner::default();
                scanner.push(c);
                self.body = Some(scanner);
                Step::Begin(name)
            }
            None => Step::Malformed,
        }
    }

    fn may_become_name(&self) -> bool {
        if self.head.len() > LONGEST_NAME {
            return false;
        }
        match self.naming {
            Naming::Brackets => {
                let (name, marks) = self.head.split_once('[').map_or((&*self.head, None), |(n, m)| (n, Some(m)));
                let known = marks.is_none_or(|m| {
                    "ARGS]".starts_with(m.trim_end()) || m.starts_with("CALL_ID]") || "CALL_ID]".starts_with(m)
                });
                known && is_name_so_far(name)
            }
            Naming::Separator => true,
        }
    }

    fn name(&self) -> Option<String> {
        let head = self.head.trim();
        let name = match self.naming {
            Naming::Brackets => match head.split_once('[') {
                Some((name, marks)) => marks.ends_with("ARGS]").then_some(name)?,
                None => head,
            },
            Naming::Separator => {
                let (first, rest) = head.split_once(SEPARATOR)?;
                match rest.trim() {
                    "" => first,
                    // The older syntax: the type, then the name, then the opening fence.
                    rest => rest.strip_suffix("```json")?,
                }
            }
        };
        let name = name.trim();
        (!name.is_empty() && is_name_so_far(name)).then(|| name.to_owned())
    }
}

fn is_name_so_far(text: &str) -> bool {
    text.trim().chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | ':' | '/'))
}
