//! Time as the scheduler sees it, so that tests decide what time it is.

use std::time::{Duration, Instant};

/// Tells the time since some origin of its own.
pub trait Clock: Send + Sync {
    /// Time since the origin; never less than an earlier answer.
    fn now(&self) -> Duration;
}

/// The system's monotonic clock, from when it was made.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock(Instant);

impl SystemClock {
    /// A clock that starts now.
    pub fn start() -> SystemClock {
        SystemClock(Instant::now())
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}
