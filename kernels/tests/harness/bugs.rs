//! Bugs put into a launch, to see that they are caught: a change of a kernel's text, or of what the host hands over.

use kernels::cuda::{self, CudaLaunch};
use simulator::{Kind, SimError};

use super::{Case, Simulated};

/// A text of `kernels/cuda` with one place changed.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    /// The file, which the kernel is or includes.
    pub file: &'static str,
    /// What stands there exactly once.
    pub find: &'static str,
    /// What is put in its place.
    pub replace: &'static str,
}

/// What is wrong with a launch.
#[derive(Clone, Copy, Debug)]
pub enum Bug {
    /// The kernel's text.
    Text(Change),
    /// Grids, threads, shared memory, or the order of launches.
    Launch(fn(&mut Vec<CudaLaunch>)),
    /// A buffer lacks its last bytes.
    Short(&'static str, usize),
    /// An operand was never written.
    Withheld(&'static str),
    /// A result is a read-only allocation.
    ReadOnly(&'static str),
}

impl Change {
    /// The name and the new text of the file that changes, out of a source and the headers it includes.
    pub(super) fn apply(
        &self,
        name: &'static str,
        text: &'static str,
        headers: &[(&'static str, &'static str)],
    ) -> (&'static str, &'static str) {
        let mut files = headers.iter().copied().chain([(name, text)]);
        let (name, text) = files.find(|f| f.0 == self.file).unwrap_or_else(|| panic!("{name} lacks {}", self.file));
        assert_eq!(text.matches(self.find).count(), 1, "{} has not once: {}", self.file, self.find);
        // As long as the process lives, like the texts themselves.
        (name, text.replacen(self.find, self.replace, 1).leak())
    }
}

impl Bug {
    /// Why a change of text cannot be made, if it cannot: what it looks for has been rewritten.
    pub fn stale(&self) -> Option<String> {
        let Change { file, find, .. } = self.text()?;
        let text = cuda::source(file).or_else(|| cuda::headers().iter().find(|h| h.0 == *file).map(|h| h.1));
        let found = text.map_or(0, |text| text.matches(find).count());
        (found != 1).then(|| format!("{file} has {found} times, not once: {find}"))
    }

    pub(super) fn text(&self) -> Option<&Change> {
        if let Bug::Text(change) = self { Some(change) } else { None }
    }

    pub(super) fn missing_bytes(&self, field: &str) -> usize {
        if let Bug::Short(name, bytes) = self
            && *name == field
        {
            *bytes
        } else {
            0
        }
    }

    pub(super) fn withholds(&self, field: &str) -> bool {
        matches!(self, Bug::Withheld(name) if *name == field)
    }

    pub(super) fn protects(&self, field: &str) -> bool {
        matches!(self, Bug::ReadOnly(name) if *name == field)
    }

    pub(super) fn launches(&self, mut launches: Vec<CudaLaunch>) -> Vec<CudaLaunch> {
        if let Bug::Launch(change) = self {
            change(&mut launches);
        }
        launches
    }
}

/// What came of a launch with a bug.
pub struct Symptoms {
    /// Kinds of the findings, each once, in ascending order.
    pub kinds: Vec<Kind>,
    /// The findings, a line each.
    pub findings: Vec<String>,
    /// Its results.
    pub simulated: Simulated,
}

impl Case {
    /// A launch with a bug, with every check on.
    ///
    /// # Errors
    /// If it does not end.
    pub fn run_with(&self, architecture: &str, bug: &Bug) -> Result<Symptoms, SimError> {
        let simulated = self.simulate(architecture, Some(bug))?;
        let all = || simulated.launches.iter().flat_map(|(_, report)| &report.findings);
        let mut kinds: Vec<Kind> = all().map(|finding| finding.kind).collect();
        kinds.sort_unstable();
        kinds.dedup();
        let findings = all().map(ToString::to_string).collect();
        Ok(Symptoms { kinds, findings, simulated })
    }
}
