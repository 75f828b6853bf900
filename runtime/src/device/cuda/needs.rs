//! What the device reserves of a GPU's memory, before anything is reserved.

use ir::program::Program;
use kernels::cuda::COUNTER_BYTES;

use super::metadata::MetadataLayout;
use crate::artifact::Artifact;
use crate::device::budget::Needs;
use crate::device::sizes::{input_limits, most_pages};
use crate::device::{DeviceError, DeviceMemory, InputLimits, launches};

/// Estimate of what a context with its modules takes, in bytes. It is taken before anything here, so that what is free does not hold it.
pub const CONTEXT_BYTES: u64 = 384 << 20;

/// Most recordings that are kept.
pub(super) const MOST_GRAPHS: usize = 32;

/// Estimate of what a launch takes in a recording, in bytes: its parameters and the driver's records of it.
const LAUNCH_BYTES: u64 = 8 << 10;

/// Sizes that do not depend on the number of pages.
#[derive(Clone, Debug)]
pub(super) struct Sizes {
    /// Bytes of each weights file.
    pub files: Vec<u64>,
    pub arena: u64,
    pub workspace: u64,
    graphs: u64,
    page: u64,
    most_pages: u64,
}

impl Sizes {
    /// Of an artifact.
    ///
    /// # Errors
    /// A launch whose parameters cannot be filled in.
    pub fn of(artifact: &Artifact) -> Result<Sizes, DeviceError> {
        let programs = artifact.programs();
        Ok(Sizes {
            files: artifact.weight_files().map(|file| file.len() as u64).collect(),
            arena: artifact.manifest().arena_bytes(),
            workspace: workspace_bytes(programs)?,
            graphs: graph_bytes(programs),
            page: artifact.manifest().page_bytes(),
            // One page is the device's own.
            most_pages: most_pages(programs).saturating_sub(1),
        })
    }

    /// What so many pages take.
    pub fn memory(&self, artifact: &Artifact, pages: u64) -> DeviceMemory {
        self.with_needs(artifact, |needs| needs.memory(pages))
    }

    /// The most pages that fit so many bytes.
    pub fn pages_within(&self, artifact: &Artifact, bytes: u64) -> u64 {
        self.with_needs(artifact, |needs| needs.pages_within(bytes))
    }

    fn with_needs<T>(&self, artifact: &Artifact, ask: impl FnOnce(&mut Needs) -> T) -> T {
        let fixed = CONTEXT_BYTES + self.workspace + self.graphs + self.page;
        // Metadata grows until every sequence has the longest context.
        let metadata = |pages| limits(artifact, pages).map_or(0, |limits| MetadataLayout::new(&limits).bytes());
        let mut other = |pages| fixed.saturating_add(metadata(pages));
        ask(&mut Needs {
            weights: self.files.iter().sum(),
            arena: self.arena,
            page_bytes: self.page,
            most_pages: self.most_pages,
            other: &mut other,
        })
    }
}

/// What steps may be with so many pages, beside which there is one that is the device's own.
pub(super) fn limits(artifact: &Artifact, pages: u64) -> Result<Vec<InputLimits>, DeviceError> {
    let most = most_pages(artifact.programs()).saturating_sub(1);
    if pages > most {
        let message = format!("{pages} KV pages are not from 1 to {most}");
        return Err(DeviceError::Option { option: "pages", message });
    }
    input_limits(artifact, pages)
}

/// Bytes that programs take on a GPU beside weights, results and KV pages, apart from a page and the metadata of steps: the kernels' workspace, and
/// estimates of the context and of recorded steps.
///
/// # Errors
/// A launch whose parameters cannot be filled in.
pub fn overhead_bytes(programs: &[Program]) -> Result<u64, DeviceError> {
    Ok(CONTEXT_BYTES + workspace_bytes(programs)? + graph_bytes(programs))
}

fn workspace_bytes(programs: &[Program]) -> Result<u64, DeviceError> {
    let all = programs.iter().map(launches::largest_workspace).collect::<Result<Vec<u64>, DeviceError>>()?;
    // Choosing tokens needs the counters alone.
    Ok(all.into_iter().max().unwrap_or(0).max(COUNTER_BYTES.into()))
}

/// Estimate of what all recordings take.
pub(super) fn graph_bytes(programs: &[Program]) -> u64 {
    let launches = programs.iter().map(|p| p.launches.len() as u64).max().unwrap_or(0);
    // A launch of a program is one or two of the GPU's; one more chooses tokens.
    MOST_GRAPHS as u64 * (launches * 2 + 1) * LAUNCH_BYTES
}
