//! Every dependency has a licence that this project may be distributed under.

use std::collections::BTreeSet;

use anyhow::{Result, bail};

use crate::workspace::metadata;

/// Accepted SPDX identifiers.
const ACCEPTED: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Checks the whole dependency graph.
pub fn run() -> Result<()> {
    let metadata = metadata()?;
    let refused: BTreeSet<String> = metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|p| !accepts(p["license"].as_str().unwrap_or("")))
        .map(|p| {
            format!("{} ({})", p["name"].as_str().unwrap_or("?"), p["license"].as_str().unwrap_or("no licence given"))
        })
        .collect();
    if !refused.is_empty() {
        let refused: Vec<_> = refused.into_iter().collect();
        bail!("not an accepted licence: {}", refused.join(", "));
    }
    Ok(())
}

/// Whether an SPDX expression can be met with accepted licences. `/` is an old spelling of OR.
fn accepts(expression: &str) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut tokens = spaced.split_whitespace().peekable();
    let accepted = alternatives(&mut tokens);
    accepted && tokens.next().is_none()
}

type Tokens<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn alternatives(tokens: &mut Tokens) -> bool {
    let mut accepted = conjunction(tokens);
    while tokens.next_if_eq(&"OR").is_some() {
        accepted |= conjunction(tokens);
    }
    accepted
}

fn conjunction(tokens: &mut Tokens) -> bool {
    let mut accepted = term(tokens);
    while tokens.next_if_eq(&"AND").is_some() {
        accepted &= term(tokens);
    }
    accepted
}

fn term(tokens: &mut Tokens) -> bool {
    if tokens.next_if_eq(&"(").is_some() {
        return alternatives(tokens) & tokens.next_if_eq(&")").is_some();
    }
    let Some(name) = tokens.next() else { return false };
    if tokens.next_if_eq(&"WITH").is_some() {
        let exception = tokens.next().unwrap_or_default();
        return ACCEPTED.contains(&format!("{name} WITH {exception}").as_str());
    }
    ACCEPTED.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::accepts;

    #[test]
    fn expressions_are_evaluated() {
        for good in [
            "MIT",
            "MIT OR GPL-3.0",
            "MIT/Apache-2.0",
            "(MIT OR GPL-2.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception OR GPL-3.0",
        ] {
            assert!(accepts(good), "{good}");
        }
        for bad in ["", "GPL-3.0", "MIT AND GPL-3.0", "(MIT", "MIT)", "MIT MIT", "Apache-2.0 WITH Other-exception"] {
            assert!(!accepts(bad), "{bad}");
        }
    }
}
