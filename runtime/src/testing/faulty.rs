//! A fake device that fails when told to.

use std::sync::{Arc, Mutex};

use super::FakeDevice;
use crate::artifact::Manifest;
use crate::device::{ChoosingStep, Device, DeviceError, DeviceMemory, StepInputs};

/// What goes wrong.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// The next step fails, or where tokens are chosen on the device, its submission.
    pub fail_once: bool,
    /// The next step panics, or its submission.
    pub panic_once: bool,
    /// Collecting the next step fails.
    pub fail_collect_once: bool,
    /// Collecting the next step panics.
    pub panic_collect_once: bool,
    /// Steps with this token fail.
    pub poison: Option<u32>,
    /// The device is lost.
    pub lost: bool,
}

/// A fake device with faults, whose hidden states are its logits.
pub struct FaultyDevice {
    inner: FakeDevice,
    faults: Arc<Mutex<Faults>>,
}

impl FaultyDevice {
    /// A device for the manifest's buckets with so many pages, and faults to be set while it runs.
    pub fn new(manifest: &Manifest, pages: u64, faults: Arc<Mutex<Faults>>) -> FaultyDevice {
        FaultyDevice { inner: FakeDevice::new(manifest, pages), faults }
    }

    /// As [`FaultyDevice::new`], a device that chooses tokens.
    pub fn choosing(manifest: &Manifest, pages: u64, faults: Arc<Mutex<Faults>>) -> FaultyDevice {
        FaultyDevice { inner: FakeDevice::choosing(manifest, pages), faults }
    }

    /// Fails or panics as `which` says.
    fn meet(&self, ids: &[i32], which: impl Fn(&mut Faults) -> (&mut bool, &mut bool)) -> Result<(), DeviceError> {
        let mut faults = self.faults.lock().unwrap();
        if faults.lost {
            return Err(DeviceError::Lost { message: "told to be lost".into() });
        }
        let poisoned = faults.poison.is_some_and(|token| ids.contains(&(token as i32)));
        let (fails, panics) = which(&mut faults);
        if poisoned || std::mem::take(fails) {
            return Err(DeviceError::Option { option: "faulty", message: "told to fail".into() });
        }
        let panics = std::mem::take(panics);
        drop(faults);
        // `resume_unwind` does not print a message, as a panic would.
        if panics {
            std::panic::resume_unwind(Box::new("told to panic"));
        }
        Ok(())
    }
}

impl Device for FaultyDevice {
    fn name(&self) -> String {
        "faulty".into()
    }

    fn pages(&self) -> u64 {
        self.inner.pages()
    }

    fn step(&mut self, bucket: usize, inputs: &StepInputs) -> Result<(), DeviceError> {
        self.meet(inputs.ids, |faults| (&mut faults.fail_once, &mut faults.panic_once))?;
        self.inner.step(bucket, inputs)
    }

    fn chooses(&self) -> bool {
        self.inner.chooses()
    }

    fn submit(&mut self, bucket: usize, step: &ChoosingStep) -> Result<(), DeviceError> {
        self.meet(&[], |faults| (&mut faults.fail_once, &mut faults.panic_once))?;
        self.inner.submit(bucket, step)
    }

    /// What poisons a step shows when it is carried out.
    fn collect(&mut self, tokens: &mut Vec<i32>) -> Result<(), DeviceError> {
        let ids = self.inner.next_ids().unwrap_or_default();
        let met = self.meet(&ids, |faults| (&mut faults.fail_collect_once, &mut faults.panic_collect_once));
        if let Err(error) = met {
            self.inner.give_up();
            return Err(error);
        }
        self.inner.collect(tokens)
    }

    fn output(&self, name: &str) -> Option<&[f32]> {
        self.inner.output(if name == "hidden" { "logits" } else { name })
    }

    fn output_ints(&self, name: &str) -> Option<&[i32]> {
        self.inner.output_ints(name)
    }

    fn memory(&self) -> DeviceMemory {
        self.inner.memory()
    }

    fn weight_bytes_read(&self) -> u64 {
        self.inner.weight_bytes_read()
    }

    fn arithmetic(&self) -> String {
        self.inner.arithmetic()
    }

    fn read_page(&self, page: u32, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.inner.read_page(page, bytes)
    }

    fn write_page(&mut self, page: u32, bytes: &[u8]) -> Result<(), DeviceError> {
        self.inner.write_page(page, bytes)
    }

    fn copy_page(&mut self, from: u32, to: u32) -> Result<(), DeviceError> {
        self.inner.copy_page(from, to)
    }
}
