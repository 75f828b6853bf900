//! What CUDA offers on this machine. The driver is loaded at run time; a machine without one is an answer, not an error.

use std::ffi::{CStr, c_char, c_int};
use std::fmt;
use std::panic::catch_unwind;

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUdevice_attribute};

/// One GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CudaGpu {
    /// The driver's name for it.
    pub name: String,
    /// Compute capability, major and minor.
    pub capability: (i32, i32),
    /// Bytes of its memory.
    pub memory_bytes: u64,
    /// Its place on the PCI bus, as `0000:65:00.0`, by which other tools know it; empty where the driver does not tell.
    pub pci_bus_id: String,
}

impl CudaGpu {
    /// What a compiler calls code for it: `sm_90`.
    pub fn architecture(&self) -> String {
        let (major, minor) = self.capability;
        format!("sm_{major}{minor}")
    }
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CudaStatus {
    /// There is no driver library.
    NoDriver,
    /// The library is there but refuses to work.
    Failed(String),
    /// The driver works; there may be no GPU.
    Gpus(Vec<CudaGpu>),
}

/// Looks for a CUDA driver and its GPUs.
pub fn probe() -> CudaStatus {
    // SAFETY: opens the driver's shared library, as any use of CUDA does, and closes it again.
    if !unsafe { sys::is_culib_present() } {
        return CudaStatus::NoDriver;
    }
    // The bindings panic when a library has not all functions they know, as a very old driver's.
    match catch_unwind(gpus) {
        Ok(Ok(gpus)) => CudaStatus::Gpus(gpus),
        Ok(Err(error)) => CudaStatus::Failed(format!("the driver answers {error:?}")),
        Err(_) => CudaStatus::Failed("the driver lacks functions this build needs".into()),
    }
}

/// The newest CUDA that the driver can execute, major and minor; `None` without a driver.
pub fn driver_cuda_version() -> Option<(u32, u32)> {
    // SAFETY: as in `probe`.
    if !unsafe { sys::is_culib_present() } {
        return None;
    }
    let ask = || {
        let mut version: c_int = 0;
        // SAFETY: the driver writes one integer; this may be asked before it is initialised.
        unsafe { sys::cuDriverGetVersion(&mut version) }.result().ok()?;
        u32::try_from(version).ok()
    };
    let version = catch_unwind(ask).ok().flatten()?;
    Some((version / 1000, version % 1000 / 10))
}

fn gpus() -> Result<Vec<CudaGpu>, DriverError> {
    match result::init() {
        Err(DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE)) => return Ok(Vec::new()),
        other => other?,
    }
    (0..result::device::get_count()?).map(gpu).collect()
}

fn gpu(ordinal: i32) -> Result<CudaGpu, DriverError> {
    let device = result::device::get(ordinal)?;
    // SAFETY: `device` was just given by the driver.
    let attribute = |which| unsafe { result::device::get_attribute(device, which) };
    // SAFETY: as above.
    let memory = unsafe { result::device::total_mem(device) }?;
    Ok(CudaGpu {
        name: result::device::get_name(device)?,
        capability: (
            attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        memory_bytes: memory as u64,
        pci_bus_id: pci_bus_id(device),
    })
}

fn pci_bus_id(device: sys::CUdevice) -> String {
    let mut text = [0 as c_char; 32];
    // SAFETY: the driver writes a text that ends within the length given.
    let answer = unsafe { sys::cuDeviceGetPCIBusId(text.as_mut_ptr(), text.len() as c_int, device) };
    if answer.result().is_err() {
        return String::new();
    }
    // SAFETY: zeros ended the array before, and the text does where the driver wrote one.
    let text = unsafe { CStr::from_ptr(text.as_ptr()) };
    text.to_string_lossy().into_owned()
}

impl fmt::Display for CudaStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CudaStatus::NoDriver => f.write_str("no CUDA driver"),
            CudaStatus::Failed(why) => f.write_str(why),
            CudaStatus::Gpus(gpus) if gpus.is_empty() => f.write_str("a CUDA driver, but no GPU"),
            CudaStatus::Gpus(gpus) => {
                let texts: Vec<String> = gpus.iter().map(CudaGpu::to_string).collect();
                f.write_str(&texts.join("; "))
            }
        }
    }
}

impl fmt::Display for CudaGpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}, {:.1} GiB", self.name, self.architecture(), self.memory_bytes as f64 / (1u64 << 30) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On any machine the answer is one line and nothing panics.
    #[test]
    fn probing_answers_in_one_line() {
        let text = probe().to_string();
        assert!(!text.is_empty() && !text.contains('\n'));
    }

    #[test]
    fn gpus_are_described() {
        let gpu = CudaGpu { name: "GPU".into(), capability: (9, 0), memory_bytes: 3 << 30, pci_bus_id: String::new() };
        assert_eq!(CudaStatus::Gpus(vec![gpu]).to_string(), "GPU, sm_90, 3.0 GiB");
        assert_eq!(CudaStatus::Gpus(vec![]).to_string(), "a CUDA driver, but no GPU");
    }
}
