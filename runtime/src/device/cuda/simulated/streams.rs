//! Streams of the simulated driver: work waits in them until somebody waits for it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::device::cuda::driver::{DeviceAddress, EventHandle, HostAddress, KernelLaunch};

/// A piece of work.
#[derive(Clone)]
pub(super) enum Work {
    Fill { at: DeviceAddress, value: u8, bytes: u64 },
    Upload { to: DeviceAddress, from: HostAddress, bytes: u64 },
    Download { to: HostAddress, from: DeviceAddress, bytes: u64 },
    Copy { to: DeviceAddress, from: DeviceAddress, bytes: u64 },
    Launches(Arc<Vec<KernelLaunch>>),
    Mark { event: EventHandle },
}

/// A stream.
#[derive(Default)]
pub(super) struct Stream {
    /// What was put into it and is not done.
    pub queue: VecDeque<Work>,
    /// What is being recorded.
    pub recording: Option<Vec<KernelLaunch>>,
}

/// All streams.
pub(super) type Streams = HashMap<u64, Stream>;

impl Work {
    /// Ranges of the GPU's memory that it touches by itself, not those of kernels.
    pub fn device_ranges(&self) -> Vec<(DeviceAddress, u64)> {
        match *self {
            Work::Fill { at, bytes, .. } => vec![(at, bytes)],
            Work::Upload { to, bytes, .. } => vec![(to, bytes)],
            Work::Download { from, bytes, .. } => vec![(from, bytes)],
            Work::Copy { to, from, bytes } => vec![(to, bytes), (from, bytes)],
            Work::Launches(_) | Work::Mark { .. } => Vec::new(),
        }
    }

    /// The range of the host's memory that it touches.
    pub fn host_range(&self) -> Option<(HostAddress, u64)> {
        match *self {
            Work::Upload { from, bytes, .. } => Some((from, bytes)),
            Work::Download { to, bytes, .. } => Some((to, bytes)),
            _ => None,
        }
    }
}

impl Stream {
    /// Takes the next piece of work: up to the last mark of an event, if one is given, else all.
    pub fn next(&mut self, until: Option<EventHandle>) -> Option<Work> {
        let marks = |work: &Work| matches!(work, Work::Mark { event } if Some(*event) == until);
        match until {
            Some(_) if !self.queue.iter().any(marks) => None,
            _ => self.queue.pop_front(),
        }
    }
}
