//! Progress of long steps: a bar on a terminal, nothing elsewhere.

use indicatif::{ProgressBar, ProgressStyle};

/// Shown the advance of one step at a time.
pub trait Progress {
    /// A step begins that will take `total` bytes.
    fn begin(&self, what: &str, total: u64);

    /// A step begins that will take `total` pieces of work.
    fn begin_count(&self, what: &str, total: u64);

    /// So many bytes, or pieces, more are done.
    fn advance(&self, bytes: u64);

    /// The step is done.
    fn finish(&self);
}

/// Shows nothing.
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _: &str, _: u64) {}

    fn begin_count(&self, _: &str, _: u64) {}

    fn advance(&self, _: u64) {}

    fn finish(&self) {}
}

/// A bar on standard error, drawn only if that is a terminal.
pub struct Bar(ProgressBar);

impl Default for Bar {
    fn default() -> Bar {
        Bar(ProgressBar::new(0))
    }
}

impl Bar {
    fn start(&self, template: &str, what: &str, total: u64) {
        let style = ProgressStyle::with_template(template);
        self.0.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        self.0.reset();
        self.0.set_length(total);
        self.0.set_message(what.to_string());
    }
}

impl Progress for Bar {
    fn begin(&self, what: &str, total: u64) {
        self.start("{msg:20} {wide_bar} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}", what, total);
    }

    fn begin_count(&self, what: &str, total: u64) {
        self.start("{msg:20} {wide_bar} {pos}/{len} {eta}", what, total);
    }

    fn advance(&self, bytes: u64) {
        self.0.inc(bytes);
    }

    fn finish(&self) {
        self.0.finish_and_clear();
    }
}
