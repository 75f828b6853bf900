//! Sizes of memory as users write them: `24GiB`, `512MB`, `20G`.
//!
//! As in GNU coreutils, a letter alone or with `iB` is a power of 1024, with `B` a power of 1000.

use std::fmt;
use std::str::FromStr;

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// A word that is no size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a positive size such as 24GiB, 512MB or 20G, found {word:?}")]
pub struct ByteSizeError {
    /// The word.
    pub word: String,
}

const UNITS: &[(&str, u64)] = &[
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("KB", 1_000),
    ("T", 1 << 40),
    ("G", 1 << 30),
    ("M", 1 << 20),
    ("K", 1 << 10),
    ("k", 1 << 10),
    ("B", 1),
    ("", 1),
];

impl FromStr for ByteSize {
    type Err = ByteSizeError;

    fn from_str(text: &str) -> Result<ByteSize, ByteSizeError> {
        let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = (&text[..split], text[split..].trim_start());
        let unit = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, bytes)| *bytes);
        let bytes = unit.and_then(|unit| match number.parse::<u64>() {
            Ok(whole) => whole.checked_mul(unit),
            Err(_) => fraction(number, unit),
        });
        bytes.filter(|b| *b > 0).map(ByteSize).ok_or_else(|| ByteSizeError { word: text.into() })
    }
}

/// `1.5` of a unit, to the nearest byte.
fn fraction(number: &str, unit: u64) -> Option<u64> {
    let bytes = number.parse::<f64>().ok()? * unit as f64;
    // Above 2^53 a double no longer tells bytes apart.
    (bytes.is_finite() && bytes < 9e15).then(|| bytes.round() as u64)
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [("TiB", 1u64 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
        match units.into_iter().find(|(_, bytes)| self.0 >= *bytes) {
            Some((name, bytes)) => write!(f, "{:.2} {name}", self.0 as f64 / bytes as f64),
            None => write!(f, "{} B", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_every_unit() {
        let cases = [
            ("24GiB", 24 << 30),
            ("20G", 20 << 30),
            ("512MB", 512_000_000),
            ("1.5 GiB", 3 << 29),
            ("0.5k", 512),
            ("7", 7),
            ("100B", 100),
            ("2TB", 2_000_000_000_000),
        ];
        for (text, bytes) in cases {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        for wrong in ["", "0", "0GiB", "GiB", "-1G", "1.2.3G", "24gib", "24 parsecs", "99999999999T", "1e9", "24GiBs"] {
            let error = wrong.parse::<ByteSize>().unwrap_err();
            assert!(error.to_string().contains(&format!("{wrong:?}")), "{error}");
        }
    }

    #[test]
    fn sizes_are_shown_in_the_largest_unit() {
        let shown = [24 << 30, 3 << 29, 1 << 20, 1023].map(|b| ByteSize(b).to_string());
        assert_eq!(shown, ["24.00 GiB", "1.50 GiB", "1.00 MiB", "1023 B"]);
    }
}
