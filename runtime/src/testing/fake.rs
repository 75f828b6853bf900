//! A device without kernels: it keeps token ids in its pages and answers with a row that depends on a token's whole
//! history as read back through the page table. Wrong positions, pages or rows give wrong answers.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use crate::artifact::Manifest;
use crate::device::{Device, DeviceError, DeviceMemory, InputLimits, PageShape, StepInputs};

/// What a fake device was asked to do: bucket, tokens and rows of each step.
pub type StepLog = Arc<Mutex<Vec<(usize, usize, usize)>>>;

/// The fake device.
pub struct FakeDevice {
    limits: Vec<InputLimits>,
    slots: Vec<Option<u32>>,
    logits: Vec<f32>,
    pages: u64,
    page_bytes: usize,
    log: StepLog,
    /// Steps left until one fails.
    pub fail_after: Option<usize>,
}

impl FakeDevice {
    /// A device for the manifest's buckets with so many pages.
    pub fn new(manifest: &Manifest, pages: u64) -> FakeDevice {
        let limits = manifest.buckets.iter().map(|b| InputLimits {
            tokens: b.max_tokens as usize,
            logit_rows: b.max_logit_rows as usize,
            sequences: manifest.max_sequences as usize,
            page_columns: manifest.model.max_context.div_ceil(16) as usize,
            vocabulary: manifest.model.vocab_size,
            pages,
        });
        FakeDevice {
            limits: limits.collect(),
            slots: vec![None; pages as usize * 16],
            logits: Vec::new(),
            pages,
            page_bytes: manifest.page_bytes() as usize,
            log: StepLog::default(),
            fail_after: None,
        }
    }

    /// The record of steps, shared.
    pub fn log(&self) -> StepLog {
        self.log.clone()
    }

    /// The row for a history: a one-hot of its sum, with the length in the first element.
    pub fn row(history: &[u32], vocabulary: usize) -> Vec<f32> {
        let hash = history.iter().fold(7u64, |h, t| h.wrapping_mul(31).wrapping_add(u64::from(*t)));
        let mut row = vec![-1.0; vocabulary];
        row[1 + hash as usize % (vocabulary - 1)] = 1.0;
        row[0] = -(history.len() as f32);
        row
    }

    fn shape(&self) -> PageShape {
        PageShape { pages: self.pages, layers: 1, layer_bytes: self.page_bytes }
    }

    fn slot(&self, inputs: &StepInputs, sequence: usize, position: usize) -> usize {
        let page = inputs.page_table[sequence * inputs.page_columns + position / 16];
        page as usize * 16 + position % 16
    }
}

impl Device for FakeDevice {
    fn name(&self) -> String {
        "fake".into()
    }

    fn pages(&self) -> u64 {
        self.pages
    }

    fn step(&mut self, bucket: usize, inputs: &StepInputs) -> Result<(), DeviceError> {
        if let Some(left) = &mut self.fail_after {
            if *left == 0 {
                return Err(DeviceError::Option { option: "fake", message: "told to fail".into() });
            }
            *left -= 1;
        }
        inputs.check(&self.limits[bucket])?;
        self.log.lock().unwrap().push((bucket, inputs.ids.len(), inputs.logit_rows.len()));
        let (mut written, mut last) = (HashSet::new(), None);
        for t in 0..inputs.ids.len() {
            let (sequence, position) = (inputs.sequences[t] as usize, inputs.positions[t] as usize);
            match last {
                Some((s, p)) if s == sequence => assert_eq!(position, p + 1, "tokens of a sequence are in order"),
                Some((s, _)) => assert!(sequence > s, "tokens of a sequence are adjacent"),
                None => {}
            }
            last = Some((sequence, position));
            let slot = self.slot(inputs, sequence, position);
            assert!(written.insert(slot), "two tokens in one slot");
            self.slots[slot] = Some(inputs.ids[t] as u32);
        }
        let vocabulary = self.limits[bucket].vocabulary as usize;
        self.logits = inputs
            .logit_rows
            .iter()
            .flat_map(|t| {
                let (sequence, position) =
                    (inputs.sequences[*t as usize] as usize, inputs.positions[*t as usize] as usize);
                let history: Vec<u32> = (0..=position)
                    .map(|p| self.slots[self.slot(inputs, sequence, p)].expect("a slot is read before it is written"))
                    .collect();
                FakeDevice::row(&history, vocabulary)
            })
            .collect();
        Ok(())
    }

    fn output(&self, name: &str) -> Option<&[f32]> {
        (name == "logits").then_some(self.logits.as_slice())
    }

    fn output_ints(&self, _: &str) -> Option<&[i32]> {
        None
    }

    fn weight_bytes_read(&self) -> u64 {
        0
    }

    fn arithmetic(&self) -> String {
        "fake".into()
    }

    /// A page's bytes are its tokens plus one, as little-endian words; 0 for an empty slot. The rest is zero.
    fn read_page(&self, page: u32, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.shape().check(page, bytes.len())?;
        bytes.fill(0);
        for (word, slot) in bytes.chunks_exact_mut(4).zip(&self.slots[page as usize * 16..][..16]) {
            word.copy_from_slice(&slot.map_or(0, |token| token + 1).to_le_bytes());
        }
        Ok(())
    }

    fn write_page(&mut self, page: u32, bytes: &[u8]) -> Result<(), DeviceError> {
        self.shape().check(page, bytes.len())?;
        for (word, slot) in bytes.chunks_exact(4).zip(&mut self.slots[page as usize * 16..][..16]) {
            *slot = u32::from_le_bytes(word.try_into().unwrap()).checked_sub(1);
        }
        Ok(())
    }

    fn copy_page(&mut self, from: u32, to: u32) -> Result<(), DeviceError> {
        self.shape().check_page(from)?;
        self.shape().check_page(to)?;
        self.slots.copy_within(from as usize * 16..from as usize * 16 + 16, to as usize * 16);
        Ok(())
    }

    fn memory(&self) -> DeviceMemory {
        DeviceMemory::default()
    }
}
