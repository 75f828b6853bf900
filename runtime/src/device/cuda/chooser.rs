//! The launch behind a program's that chooses a token from each of its rows of logits.

use std::sync::Arc;

use ir::program::{Access, Arg, BufferId, Launch, Program};
use ir::types::Dim;
use kernels::cpu::sample::MOST_TOKENS;
use kernels::params;

use super::code::{LoadedCode, LoadedKernel};
use super::driver::{DeviceAddress, KernelLaunch};
use super::plan::{Plan, Workspace, add_launches};
use crate::artifact::Artifact;
use crate::device::DeviceError;
use crate::device::launches::{Resolved, params_error, resolve_launch};

/// The kernel's name in the catalog.
const KERNEL: &str = "sample";

/// The pointers of a launch, in the order of the kernel's fields.
const LOGITS: Arg = Arg::Buffer(BufferId(0), Access::Read);
const SETTINGS: Arg = Arg::Input(0);
const CHOSEN: Arg = Arg::Buffer(BufferId(1), Access::Write);

/// Where the kernel finds rows and settings, and leaves tokens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Places {
    /// f32 `[rows, vocabulary]`.
    pub logits: DeviceAddress,
    /// `SampleSettings` `[rows]`.
    pub settings: DeviceAddress,
    /// i32 `[rows]`.
    pub chosen: DeviceAddress,
}

/// The kernel, loaded.
pub(super) struct Chooser {
    found: Resolved<Arc<LoadedKernel>>,
    vocabulary: u64,
}

impl Chooser {
    /// For the programs of an artifact; `None` if its tokens are too many, or it has no code: it was compiled before there was any.
    ///
    /// # Errors
    /// Code that the driver does not take.
    pub fn load<'a>(
        artifact: &Artifact,
        loaded: &mut LoadedCode,
        mut plans: impl Iterator<Item = &'a Plan>,
    ) -> Result<Option<Chooser>, DeviceError> {
        let vocabulary = artifact.manifest().model.vocab_size;
        let Some(program) = artifact.programs().first() else { return Ok(None) };
        if vocabulary > MOST_TOKENS.into() || plans.any(|plan| plan.logits(vocabulary).is_none()) {
            return Ok(None);
        }
        let mut code = |specialisation, _: &str| match artifact.manifest().compiled(&specialisation) {
            Some(_) => loaded.get(specialisation).map(Some),
            None => Ok(None),
        };
        let found = resolve_launch(program, &launch(1, vocabulary), &mut code)?;
        let Resolved { kernel, code } = found;
        Ok(code.map(|code| Chooser { found: Resolved { kernel, code }, vocabulary }))
    }

    /// Adds the launch that chooses from so many rows to a program's.
    ///
    /// # Errors
    /// More workspace than there is.
    pub fn add(
        &self,
        all: &mut Vec<KernelLaunch>,
        (program, rows): (&Program, usize),
        places: Places,
        workspace: Workspace,
        overlaps: bool,
    ) -> Result<(), DeviceError> {
        let launch = launch(rows as u64, self.vocabulary);
        let address = |arg: &Arg| match arg {
            Arg::Input(_) => Some(places.settings.0),
            Arg::Buffer(BufferId(0), _) => Some(places.logits.0),
            _ => Some(places.chosen.0),
        };
        let params = params::fill(&launch, &[], address).map_err(|e| params_error(program, &e))?;
        add_launches(all, &self.found, &launch, &params, workspace, overlaps)
    }
}

/// A launch for so many rows, without penalties, masks and log-probabilities.
fn launch(rows: u64, vocabulary: u64) -> Launch {
    let count = |n| Arg::Size(vec![Dim::Const(n)]);
    let args = [
        ("logits", LOGITS),
        ("settings", SETTINGS),
        ("history_offsets", Arg::Null),
        ("history_tokens", Arg::Null),
        ("history_counts", Arg::Null),
        ("allowed", Arg::Null),
        ("out", CHOSEN),
        ("logprobs", Arg::Null),
        ("rows", count(rows)),
        ("vocab", count(vocabulary)),
    ];
    let args = args.into_iter().map(|(name, arg)| (name.to_string(), arg)).collect();
    Launch { kernel: KERNEL.into(), variant: String::new(), args, label: "choose tokens".into() }
}
