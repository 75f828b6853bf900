//! Recorded steps, kept by their counts.
//!
//! A step is recorded when its counts first come up, not at load: most processes use a handful of the sizes there are, and recording one takes the
//! time of a few steps. What is recorded is bounded; what was used longest ago goes first.

use std::collections::HashMap;

use super::metadata::Counts;
use super::needs::MOST_GRAPHS;
use super::resources::{Graph, Stream, out_of_memory};
use crate::device::DeviceError;

/// Which recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct GraphKey {
    /// The bucket, whose program it is of.
    pub bucket: usize,
    /// The counts of the step.
    pub counts: Counts,
    /// Whether it chooses tokens.
    pub chooses: bool,
}

/// A recording and when it was last used.
struct Kept {
    graph: Graph,
    used: u64,
}

/// All recordings.
#[derive(Default)]
pub(super) struct Graphs {
    kept: HashMap<GraphKey, Kept>,
    uses: u64,
}

impl Graphs {
    /// Whether a step is recorded.
    pub fn has(&self, key: &GraphKey) -> bool {
        self.kept.contains_key(key)
    }

    /// Records a step's launches. Where the GPU's memory does not suffice, all other recordings are given up for it.
    ///
    /// # Errors
    /// The driver's, or too little memory.
    pub fn record(
        &mut self,
        key: GraphKey,
        stream: &Stream,
        launches: &[super::driver::KernelLaunch],
    ) -> Result<(), DeviceError> {
        if self.kept.len() >= MOST_GRAPHS {
            // It may be under way.
            stream.synchronize()?;
            let oldest = self.kept.iter().min_by_key(|(_, kept)| kept.used).map(|(key, _)| *key);
            oldest.and_then(|key| self.kept.remove(&key));
        }
        let graph = match stream.capture(launches) {
            Err(DeviceError::Driver { source, .. }) if source.is_out_of_memory() && !self.kept.is_empty() => {
                stream.synchronize()?;
                self.kept.clear();
                stream.capture(launches)
            }
            other => other,
        };
        let bytes = launches.iter().map(|l| l.params.len() as u64).sum();
        let graph = graph.map_err(|e| out_of_memory(stream.gpu(), "a recorded step", bytes, e))?;
        self.kept.insert(key, Kept { graph, used: self.uses });
        Ok(())
    }

    /// Puts a recorded step into the stream; `None` if it is not recorded.
    pub fn launch(&mut self, key: &GraphKey, stream: &Stream) -> Option<Result<(), DeviceError>> {
        let kept = self.kept.get_mut(key)?;
        self.uses += 1;
        kept.used = self.uses;
        Some(stream.launch(&kept.graph))
    }
}
