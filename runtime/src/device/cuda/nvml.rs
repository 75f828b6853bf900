//! What the driver's management library (NVML) tells of a GPU: energy, power, free memory, versions.
//!
//! The library comes with the driver and is opened at run time; where it is absent, or does not tell something, the answer is `None` and nothing
//! else is different. GPUs are named by their place on the PCI bus: NVML and CUDA number them differently.

use nvml_wrapper::Nvml;
use nvml_wrapper::enum_wrappers::device::TemperatureSensor;

use crate::energy::EnergyMeter;

/// The management library, open.
#[derive(Debug)]
pub struct Management {
    nvml: Nvml,
}

/// What it tells of one GPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GpuState {
    /// Bytes of memory that nobody uses.
    pub free_bytes: Option<u64>,
    /// Whether memory has error correction switched on.
    pub ecc: Option<bool>,
    /// Degrees Celsius.
    pub temperature: Option<u32>,
    /// Power now, in milliwatts.
    pub milliwatts: Option<u32>,
    /// Most power it may take, in milliwatts.
    pub limit_milliwatts: Option<u32>,
}

impl Management {
    /// Opens the library; `None` where there is none that works.
    pub fn open() -> Option<Management> {
        Management::open_library("libnvidia-ml.so.1")
    }

    fn open_library(name: &str) -> Option<Management> {
        Some(Management { nvml: Nvml::builder().lib_path(name.as_ref()).init().ok()? })
    }

    /// The driver's version, as `550.54.14`.
    pub fn driver_version(&self) -> Option<String> {
        self.nvml.sys_driver_version().ok()
    }

    /// What can be known of the GPU at a place on the PCI bus, as `0000:65:00.0`.
    pub fn state(&self, pci_bus_id: &str) -> GpuState {
        let Ok(device) = self.nvml.device_by_pci_bus_id(pci_bus_id) else { return GpuState::default() };
        GpuState {
            free_bytes: device.memory_info().ok().map(|memory| memory.free),
            ecc: device.is_ecc_enabled().ok().map(|state| state.currently_enabled),
            temperature: device.temperature(TemperatureSensor::Gpu).ok(),
            milliwatts: device.power_usage().ok(),
            limit_milliwatts: device.enforced_power_limit().ok(),
        }
    }

    /// A meter of that GPU; `None` if NVML does not know it, or neither its energy nor its power.
    pub fn meter(self, pci_bus_id: &str) -> Option<NvmlMeter> {
        let mut meter = NvmlMeter { nvml: self.nvml, pci_bus_id: pci_bus_id.into() };
        let tells = meter.joules().or_else(|| meter.watts()).is_some();
        tells.then_some(meter)
    }
}

/// The meter of one GPU.
#[derive(Debug)]
pub struct NvmlMeter {
    nvml: Nvml,
    pci_bus_id: String,
}

impl EnergyMeter for NvmlMeter {
    /// From Volta on; other tenants of the GPU are counted too.
    fn joules(&mut self) -> Option<f64> {
        let device = self.nvml.device_by_pci_bus_id(self.pci_bus_id.as_str()).ok()?;
        device.total_energy_consumption().ok().map(|millijoules| millijoules as f64 / 1e3)
    }

    fn watts(&mut self) -> Option<f64> {
        let device = self.nvml.device_by_pci_bus_id(self.pci_bus_id.as_str()).ok()?;
        device.power_usage().ok().map(|milliwatts| f64::from(milliwatts) / 1e3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Wherever this runs, an answer comes and nothing panics; a GPU that is not there is not known.
    #[test]
    fn absence_is_no_error() {
        assert!(Management::open_library("libno-such-library.so").is_none());
        let Some(management) = Management::open() else { return };
        assert_eq!(management.state("ffff:ff:1f.7"), GpuState::default());
        assert!(management.meter("ffff:ff:1f.7").is_none());
    }
}
