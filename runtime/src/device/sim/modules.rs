//! Where the device gets the PTX of a kernel from: an artifact, or whoever compiles it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use kernels::cuda::Specialisation;
use simulator::Module;

use crate::artifact::{Artifact, architecture_number};
use crate::device::DeviceError;

/// Gives the PTX of kernels for one architecture.
pub trait ModuleSource {
    /// The architecture, such as `sm_80`.
    fn architecture(&self) -> &str;

    /// The PTX of a kernel with its constants, and a name for it in messages.
    ///
    /// # Errors
    /// If there is none, with what to do.
    fn ptx(&self, specialisation: &Specialisation) -> Result<(String, String), DeviceError>;
}

/// The PTX files of an artifact.
pub struct ArtifactModules {
    artifact: Arc<Artifact>,
    architecture: String,
}

impl ArtifactModules {
    /// For an architecture by name; without one the latest that the artifact's target can execute.
    ///
    /// # Errors
    /// If the artifact has no PTX for it; names those there are.
    pub fn open(artifact: &Arc<Artifact>, architecture: Option<&str>) -> Result<ArtifactModules, DeviceError> {
        let manifest = artifact.manifest();
        let available: BTreeSet<(Option<u32>, &str)> =
            manifest.kernels.iter().flat_map(|k| k.ptx.keys()).map(|a| (architecture_number(a), a.as_str())).collect();
        let target = architecture_number(&manifest.target);
        let chosen = match architecture {
            Some(name) => available.iter().find(|(_, a)| *a == name),
            None => available.iter().rev().find(|(number, _)| *number <= target),
        };
        let Some((_, chosen)) = chosen else { return Err(no_code(&manifest.target, architecture, &available)) };
        Ok(ArtifactModules { artifact: artifact.clone(), architecture: (*chosen).to_string() })
    }
}

fn no_code(target: &str, asked: Option<&str>, available: &BTreeSet<(Option<u32>, &str)>) -> DeviceError {
    let names: Vec<&str> = available.iter().map(|(_, name)| *name).collect();
    let message = match (asked, names.is_empty()) {
        (_, true) => format!(
            "sim executes PTX, and an artifact for target {target} without kernels has none; compile with --target sm_80 or another GPU"
        ),
        (Some(asked), _) => format!("there is no PTX for {asked}; the artifact has {}", names.join(", ")),
        (None, _) => format!("there is no PTX that {target} can execute; choose of {}", names.join(", ")),
    };
    DeviceError::Option { option: "arch", message }
}

impl ModuleSource for ArtifactModules {
    fn architecture(&self) -> &str {
        &self.architecture
    }

    fn ptx(&self, specialisation: &Specialisation) -> Result<(String, String), DeviceError> {
        let missing =
            |message: String| DeviceError::Kernel { kernel: specialisation.name(), label: "loading".into(), message };
        let compiled = self.artifact.manifest().compiled(specialisation);
        let compiled = compiled.ok_or_else(|| missing("the artifact has no code for it; compile it again".into()))?;
        let file = compiled.ptx.get(&self.architecture).ok_or_else(|| {
            missing(format!("the artifact has no PTX for {} of it; compile it again", self.architecture))
        })?;
        let text = self.artifact.read_file(file)?.ok_or_else(|| missing(format!("{file} is not in the artifact")))?;
        let text = String::from_utf8(text).map_err(|_| missing(format!("{file} is no UTF-8")))?;
        Ok((file.clone(), text))
    }
}

/// Parsed modules, each once.
pub(super) struct Modules<'a> {
    source: &'a dyn ModuleSource,
    parsed: HashMap<Specialisation, Arc<Module>>,
}

impl<'a> Modules<'a> {
    /// Of a source, none parsed yet.
    pub fn new(source: &'a dyn ModuleSource) -> Modules<'a> {
        Modules { source, parsed: HashMap::new() }
    }

    /// The module of a specialisation, for a launch of that label.
    pub fn get(&mut self, specialisation: Specialisation, label: &str) -> Result<Arc<Module>, DeviceError> {
        if let Some(module) = self.parsed.get(&specialisation) {
            return Ok(module.clone());
        }
        let (name, ptx) = self.source.ptx(&specialisation)?;
        let module = Module::parse(&ptx, &name).map_err(|error| DeviceError::Kernel {
            kernel: specialisation.name(),
            label: label.into(),
            message: error.to_string(),
        })?;
        Ok(self.parsed.entry(specialisation).or_insert_with(|| Arc::new(module)).clone())
    }
}
