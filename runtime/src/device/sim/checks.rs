//! Which of the simulator's checks count.

use std::fmt;
use std::str::FromStr;

use simulator::{Finding, Kind};

/// A set of checks: `all`, `none`, or names joined by commas. Accesses out of bounds, misaligned ones and writes to read-only memory
/// always count: what a kernel computes after one is worth nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checks {
    kinds: Vec<Kind>,
}

/// Words that name no check.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown check {word:?}; expected all, none, or some of {}", names())]
pub struct UnknownCheck {
    /// The word.
    pub word: String,
}

/// Checks that cannot be switched off.
const ALWAYS: [Kind; 3] = [Kind::OutOfBounds, Kind::Misaligned, Kind::ReadOnlyWrite];

/// A check's name on the command line and in JSON.
pub fn check_name(kind: Kind) -> &'static str {
    match kind {
        Kind::OutOfBounds => "out-of-bounds",
        Kind::Misaligned => "misaligned",
        Kind::Uninitialised => "uninitialised",
        Kind::SharedRace => "shared-race",
        Kind::GlobalRace => "global-race",
        Kind::DivergentBarrier => "divergent-barrier",
        Kind::MissingBarrier => "missing-barrier",
        Kind::InactiveShuffle => "inactive-shuffle",
        Kind::PartialMma => "partial-mma",
        Kind::InFlightRead => "in-flight-read",
        Kind::ReadOnlyWrite => "read-only-write",
        Kind::OffsetOverflow => "offset-overflow",
    }
}

fn names() -> String {
    Kind::ALL.map(check_name).join(", ")
}

impl Checks {
    /// Every check.
    pub fn all() -> Checks {
        Checks { kinds: Kind::ALL.to_vec() }
    }

    /// Those that cannot be switched off.
    pub fn none() -> Checks {
        Checks { kinds: Vec::new() }
    }

    /// Whether the simulator must watch more than what it always does.
    pub fn watches(&self) -> bool {
        !self.kinds.is_empty()
    }

    /// Whether a finding counts.
    pub fn counts(&self, finding: &Finding) -> bool {
        ALWAYS.contains(&finding.kind) || self.kinds.contains(&finding.kind)
    }
}

impl Default for Checks {
    fn default() -> Checks {
        Checks::all()
    }
}

impl FromStr for Checks {
    type Err = UnknownCheck;

    fn from_str(text: &str) -> Result<Checks, UnknownCheck> {
        match text {
            "all" => return Ok(Checks::all()),
            "none" => return Ok(Checks::none()),
            _ => {}
        }
        let kind = |word: &str| Kind::ALL.into_iter().find(|k| check_name(*k) == word);
        let kinds = text.split(',').map(|word| kind(word).ok_or_else(|| UnknownCheck { word: word.into() }));
        Ok(Checks { kinds: kinds.collect::<Result<_, _>>()? })
    }
}

impl fmt::Display for Checks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kinds.as_slice() {
            [] => f.write_str("no checks"),
            kinds if kinds.len() == Kind::ALL.len() => f.write_str("all checks"),
            kinds => write!(f, "checks {}", kinds.iter().map(|k| check_name(*k)).collect::<Vec<_>>().join(",")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_are_read_by_name() {
        assert_eq!("all".parse(), Ok(Checks::all()));
        assert_eq!("none".parse(), Ok(Checks::none()));
        let two: Checks = "shared-race,global-race".parse().unwrap();
        assert_eq!(two.to_string(), "checks shared-race,global-race");
        assert!(two.watches() && !Checks::none().watches());
        for word in ["", "races", "all,none", "shared-race,"] {
            let error = word.parse::<Checks>().unwrap_err().to_string();
            assert!(error.contains("offset-overflow"), "{error}");
        }
        for kind in Kind::ALL {
            assert_eq!(check_name(kind).parse(), Ok(Checks { kinds: vec![kind] }));
        }
    }

    #[test]
    fn what_ruins_results_always_counts() {
        let finding = |kind| Finding {
            kind,
            kernel: String::new(),
            source: String::new(),
            ptx_line: 1,
            instruction: String::new(),
            block: [0; 3],
            thread: [0; 3],
            address: 0,
            allocation: String::new(),
            message: String::new(),
        };
        let none = Checks::none();
        assert!(none.counts(&finding(Kind::OutOfBounds)) && !none.counts(&finding(Kind::SharedRace)));
        assert!(Checks::all().counts(&finding(Kind::SharedRace)));
    }
}
