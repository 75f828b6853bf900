//! Steps under way: the driver has them, and the host goes on until it needs what they chose.
//!
//! Everything is in one stream, so that a step finds what the one before it chose in the GPU's memory, and pages are read and written in the
//! order they were asked for. Only what the host writes and reads is there twice.

use std::sync::Arc;

use super::driver::DeviceAddress;
use super::graphs::GraphKey;
use super::resources::{Event, Gpu, Pinned};
use super::{CudaDevice, ladder};
use crate::device::choosing::{ChoosingStep, MOST_UNDER_WAY};
use crate::device::{DeviceError, StepInputs, does_not_choose};

/// What a step has on the host for itself.
pub(super) struct Slot {
    /// As the GPU's metadata: what is copied there, and behind it what is chosen.
    pub block: Pinned,
    /// Reached when the step is done and what it chose is here.
    done: Event,
}

/// One for each step that may be under way.
pub(super) type Slots = [Slot; MOST_UNDER_WAY];

impl Slot {
    /// Reserves a slot with so many bytes of metadata.
    pub fn new(gpu: &Arc<Gpu>, bytes: u64) -> Result<Slot, DeviceError> {
        Ok(Slot { block: Pinned::new(gpu, "step metadata on the host", bytes)?, done: Event::new(gpu)? })
    }
}

/// A step under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Submitted {
    bucket: usize,
    slot: usize,
    tokens: u64,
    rows: usize,
    outputs: bool,
}

impl CudaDevice {
    /// The slot that no step under way has.
    fn free_slot(&self) -> usize {
        self.under_way.back().map_or(0, |last| (last.slot + 1) % MOST_UNDER_WAY)
    }

    /// Refuses what is for times when no step is under way.
    pub(super) fn expect_idle(&self) -> Result<(), DeviceError> {
        match self.under_way.len() {
            0 => Ok(()),
            count => Err(under_way_error(format!("{count} steps are under way, and were not collected"))),
        }
    }

    /// Puts a step into the stream: its metadata, what the step before chose, its launches, its results.
    pub(super) fn enqueue(
        &mut self,
        key: &GraphKey,
        inputs: &StepInputs,
        step: Option<&ChoosingStep>,
    ) -> Result<(), DeviceError> {
        let (slot, scratch_page) = (self.free_slot(), self.pages as u32);
        let layout = &self.memory.layout;
        let (metadata, chosen) = (self.memory.metadata.at(), layout.chosen());
        let ids = layout.offset("ids").unwrap_or(0);
        let settings = step.map_or(&[][..], |step| step.settings);
        let slot = &mut self.staging.slots[slot];
        let bytes = layout.write(slot.block.bytes_mut(), inputs, settings, &key.counts, scratch_page);
        self.stream.upload(metadata, &slot.block, 0, bytes)?;
        for (first, count) in step.into_iter().flat_map(ChoosingStep::carried_runs) {
            let word = |start: u64, index: usize| -> DeviceAddress { metadata.offset(start + 4 * index as u64) };
            self.stream.copy(word(ids, first.token), word(chosen, first.row), 4 * count as u64)?;
        }
        self.launch(key)?;
        if step.is_none_or(|step| step.outputs) {
            self.download_outputs()?;
        }
        let Some(step) = step else { return Ok(()) };
        let slot = &self.staging.slots[self.free_slot()];
        self.stream.download(&slot.block, chosen, metadata.offset(chosen), 4 * step.settings.len() as u64)?;
        self.stream.record(&slot.done)
    }

    /// [`crate::device::Device::submit`].
    pub(super) fn submit_step(&mut self, bucket: usize, step: &ChoosingStep) -> Result<(), DeviceError> {
        if self.chooser.is_none() {
            return Err(does_not_choose());
        }
        let limits = &self.loaded(bucket)?.limits;
        step.check(limits, self.under_way.len(), self.under_way.back().map_or(0, |last| last.rows))?;
        let (tokens, rows) = (step.inputs.ids.len() as u64, step.settings.len());
        let key = GraphKey { bucket, counts: ladder::counts(&step.inputs, limits), chooses: true };
        self.gpu.bind()?;
        self.record(key)?;
        if step.outputs {
            self.last = None;
            self.prepare_outputs(bucket, &step.inputs)?;
        }
        let slot = self.free_slot();
        if let Err(error) = self.enqueue(&key, &step.inputs, Some(step)) {
            // What was put into the stream reads the slot; if this fails too, the error is the first.
            let _ = self.stream.synchronize();
            return Err(error);
        }
        self.under_way.push_back(Submitted { bucket, slot, tokens, rows, outputs: step.outputs });
        Ok(())
    }

    /// [`crate::device::Device::collect`].
    pub(super) fn collect_step(&mut self, tokens: &mut Vec<i32>) -> Result<(), DeviceError> {
        tokens.clear();
        let Some(step) = self.under_way.pop_front() else {
            return Err(under_way_error("none is under way".into()));
        };
        let slot = &self.staging.slots[step.slot];
        if let Err(error) = self.gpu.bind().and_then(|()| slot.done.wait()) {
            let _ = self.stream.synchronize();
            self.under_way.clear();
            return Err(error);
        }
        let chosen = slot.block.words::<i32>(self.memory.layout.chosen() as usize, step.rows);
        tokens.extend_from_slice(chosen.unwrap_or_default());
        self.weight_bytes += self.programs[step.bucket].plan.reads.bytes(step.tokens);
        if step.outputs {
            self.last = Some(step.bucket);
        }
        Ok(())
    }
}

fn under_way_error(message: String) -> DeviceError {
    DeviceError::Option { option: "steps under way", message }
}
