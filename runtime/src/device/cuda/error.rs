//! Why a GPU cannot be used at all: each says what is missing and what to do.

use super::driver::{CudaVersion, codes};
use super::real::NoDriver;

/// Why there is no GPU for an artifact.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GpuError {
    /// There is no driver that works.
    #[error("no CUDA driver: {0}; install an NVIDIA driver of version 525 or later, or use --device cpu")]
    NoDriver(NoDriver),
    /// The driver is older than anything that is compiled.
    #[error(
        "the CUDA driver serves CUDA {found}, but the artifact's code needs {needed}; install a newer NVIDIA driver, or use \
         --device cpu"
    )]
    OldDriver {
        /// What it serves.
        found: CudaVersion,
        /// The least that would do.
        needed: CudaVersion,
    },
    /// The driver knows of no GPU.
    #[error("a CUDA driver, but no GPU: none is plugged in, or CUDA_VISIBLE_DEVICES hides it; use --device cpu")]
    NoGpu,
    /// No GPU of that number.
    #[error("--gpu {ordinal}: there {}, counted from 0", if *.count == 1 { "is 1 GPU".to_string() } else { format!("are {} GPUs", .count) })]
    NoSuchGpu {
        /// The number.
        ordinal: u32,
        /// GPUs there are.
        count: u32,
    },
    /// The artifact has no code that the GPU can execute.
    #[error("{gpu} is sm_{major}{minor}, but the artifact has {code}; compile with --target sm_{major}{minor}")]
    NoCode {
        /// The GPU's name.
        gpu: String,
        /// Its compute capability.
        major: u32,
        /// Its compute capability.
        minor: u32,
        /// What code the artifact has.
        code: String,
    },
    /// PTX of a CUDA that the driver does not know yet.
    #[error(
        "the artifact has PTX of {compiler} for sm_{major}{minor}, but the driver serves CUDA {found} only; compile with --target \
         sm_{major}{minor}, or install a newer NVIDIA driver"
    )]
    NewPtx {
        /// What wrote the PTX.
        compiler: String,
        /// The GPU's compute capability.
        major: u32,
        /// The GPU's compute capability.
        minor: u32,
        /// What the driver serves.
        found: CudaVersion,
    },
}

impl From<NoDriver> for GpuError {
    /// A driver that starts for no GPU is there all the same.
    fn from(why: NoDriver) -> GpuError {
        match why {
            NoDriver::Refuses(error) if error.code == codes::NO_DEVICE => GpuError::NoGpu,
            why => GpuError::NoDriver(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cuda::driver::DriverError;

    #[test]
    fn a_driver_without_a_gpu_is_no_missing_driver() {
        let refuses = |code| {
            let (name, text) = ("CUDA_ERROR_X".into(), "words".into());
            GpuError::from(NoDriver::Refuses(DriverError { call: "cuInit", code, name, text })).to_string()
        };
        assert!(refuses(codes::NO_DEVICE).contains("no GPU"));
        assert!(refuses(803).contains("no CUDA driver") && refuses(803).contains("CUDA_ERROR_X"));
        let missing = GpuError::from(NoDriver::Missing).to_string();
        assert!(missing.starts_with("no CUDA driver: libcuda") && missing.contains("525"), "{missing}");
    }
}
