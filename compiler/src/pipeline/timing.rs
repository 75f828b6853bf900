//! How long each pass took and how large what it read and made is.

use std::fmt;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// How large what stands between two passes is, all buckets together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// Nothing is there yet, or it is no text.
    None,
    /// Nodes of graphs.
    Nodes(usize),
    /// Launches of programs.
    Launches(usize),
    /// Kernels in machine code.
    Kernels(usize),
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Size::None => f.write_str("-"),
            Size::Nodes(n) => write!(f, "{n} nodes"),
            Size::Launches(n) => write!(f, "{n} launches"),
            Size::Kernels(n) => write!(f, "{n} kernels"),
        }
    }
}

impl Size {
    fn to_json(self) -> Value {
        match self {
            Size::None => Value::Null,
            Size::Nodes(n) => json!({ "nodes": n }),
            Size::Launches(n) => json!({ "launches": n }),
            Size::Kernels(n) => json!({ "kernels": n }),
        }
    }
}

/// One step of a compilation.
#[derive(Clone, Debug)]
pub struct PassTime {
    /// The pass, or `calibrate`, or `package`.
    pub pass: &'static str,
    /// Wall time.
    pub time: Duration,
    /// What it was given.
    pub before: Size,
    /// What it made.
    pub after: Size,
}

/// The steps of a compilation, in order.
#[derive(Clone, Debug, Default)]
pub struct Timings(pub Vec<PassTime>);

impl Timings {
    /// Notes a step that began at `start` and ends now.
    pub fn note(&mut self, pass: &'static str, start: Instant, before: Size, after: Size) {
        self.0.push(PassTime { pass, time: start.elapsed(), before, after });
    }

    /// One object a step: `pass`, `ms`, `before`, `after`.
    pub fn to_json(&self) -> Value {
        let row = |t: &PassTime| json!({"pass": t.pass, "ms": milliseconds(t.time), "before": t.before.to_json(), "after": t.after.to_json()});
        self.0.iter().map(row).collect()
    }
}

impl fmt::Display for Timings {
    /// A table with a line of headings and a line of totals.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut row = |pass: &str, ms: &str, before: &str, after: &str| {
            writeln!(f, "{pass:<10} {ms:>10}  {before:>15}  {after:>15}")
        };
        row("pass", "ms", "in", "out")?;
        for t in &self.0 {
            row(t.pass, &format!("{:.2}", milliseconds(t.time)), &t.before.to_string(), &t.after.to_string())?;
        }
        let total = self.0.iter().map(|t| t.time).sum();
        row("total", &format!("{:.2}", milliseconds(total)), "", "")
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
