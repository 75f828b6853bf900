//! Where sources come from and what compiles them: the seams at which tests put others in their place.

use ir::program::Launch;
use kernels::cuda::{self, Constraint, Specialisation};
use kernels::params::Params;
use toolchain::cache::{CacheError, CachedNvrtc};
use toolchain::nvrtc::{Compiled, Source};

/// A set of kernels for GPUs.
pub trait KernelLibrary: Sync {
    /// What a launch is specialised by; `None` if there is no such kernel.
    fn specialise(&self, launch: &Launch, params: &Params) -> Option<Result<Specialisation, Constraint>>;

    /// What every artifact carries beside its programs' kernels: what an engine launches itself.
    fn services(&self) -> Vec<Specialisation>;

    /// File name and text of a specialisation's source.
    fn source(&self, specialisation: &Specialisation) -> Option<(&str, &str)>;

    /// Files that sources include: name, text.
    fn headers(&self) -> &[(&str, &str)];
}

/// The kernels this build carries.
#[derive(Clone, Copy, Debug, Default)]
pub struct BuiltIn;

impl KernelLibrary for BuiltIn {
    fn specialise(&self, launch: &Launch, params: &Params) -> Option<Result<Specialisation, Constraint>> {
        let kernel = cuda::lookup(&launch.kernel)?;
        // SAFETY: `params` was filled as the struct of this launch's kernel.
        Some(unsafe { kernel.specialise(&launch.variant, params.as_ptr()) })
    }

    fn services(&self) -> Vec<Specialisation> {
        cuda::services()
    }

    fn source(&self, specialisation: &Specialisation) -> Option<(&str, &str)> {
        let name = cuda::lookup(specialisation.kernel)?.source;
        Some((name, cuda::source(name)?))
    }

    fn headers(&self) -> &[(&str, &str)] {
        cuda::headers()
    }
}

/// What makes machine code of sources.
pub trait KernelCompiler: Sync {
    /// Major and minor version.
    fn version(&self) -> (i32, i32);

    /// Compute capabilities it compiles for, as 80 for 8.0.
    fn architectures(&self) -> &[u32];

    /// Compiles for an architecture such as `sm_80`; also says whether the result was kept from before.
    ///
    /// # Errors
    /// If the source does not compile or the result cannot be kept.
    fn compile(&self, source: &Source, architecture: &str, options: &[String]) -> Result<(Compiled, bool), CacheError>;
}

impl KernelCompiler for CachedNvrtc {
    fn version(&self) -> (i32, i32) {
        self.nvrtc().version()
    }

    fn architectures(&self) -> &[u32] {
        self.nvrtc().architectures()
    }

    fn compile(&self, source: &Source, architecture: &str, options: &[String]) -> Result<(Compiled, bool), CacheError> {
        CachedNvrtc::compile(self, source, architecture, options)
    }
}
