//! A device without kernels: it keeps token ids in its pages and answers with a row that depends on a token's whole
//! history as read back through the page table. Wrong positions, pages or rows give wrong answers.

use std::cell::RefCell;
use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex};

use kernels::abi::SampleSettings;

use crate::artifact::Manifest;
use crate::device::{
    Carried, ChoosingStep, Device, DeviceError, DeviceMemory, InputLimits, MOST_UNDER_WAY, PageShape, StepInputs,
};
use crate::sample::{History, Sampler, SamplingParams};

/// What a fake device was asked to do: bucket, tokens and rows of each step.
pub type StepLog = Arc<Mutex<Vec<(usize, usize, usize)>>>;

/// The fake device. If it chooses tokens, it does nothing of a step before somebody asks for its tokens or touches a page: who looks too early
/// finds what was there before.
pub struct FakeDevice {
    limits: Vec<InputLimits>,
    /// Behind what was submitted, which calls that only read carry out first.
    memory: RefCell<Memory>,
    /// Of the last step that brought them to the host.
    logits: Vec<f32>,
    pages: u64,
    page_bytes: usize,
    log: StepLog,
    chooses: bool,
    /// Steps left until one fails.
    pub fail_after: Option<usize>,
}

/// What steps change.
#[derive(Default)]
struct Memory {
    /// The token in each place of each page.
    slots: Vec<Option<u32>>,
    /// What was submitted and not collected, the oldest first.
    under_way: VecDeque<Submitted>,
    /// What was chosen by the step carried out last.
    chosen: Vec<i32>,
}

/// A copy of a step that was submitted.
struct Submitted {
    ids: Vec<i32>,
    positions: Vec<i32>,
    sequences: Vec<i32>,
    page_table: Vec<i32>,
    page_columns: usize,
    logit_rows: Vec<i32>,
    settings: Vec<SampleSettings>,
    carried: Vec<Carried>,
    vocabulary: usize,
    outputs: bool,
    /// Its rows of logits, and what it chose from them, once it is carried out.
    done: Option<(Vec<f32>, Vec<i32>)>,
}

impl FakeDevice {
    /// What the device adds to a seed: tokens that are drawn are others than those of the host, so that it shows who chose them.
    pub const SEED: u64 = 0x5eed;

    /// As [`FakeDevice::new`], a device that chooses tokens.
    pub fn choosing(manifest: &Manifest, pages: u64) -> FakeDevice {
        FakeDevice { chooses: true, ..FakeDevice::new(manifest, pages) }
    }

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
            memory: RefCell::new(Memory { slots: vec![None; pages as usize * 16], ..Memory::default() }),
            logits: Vec::new(),
            pages,
            page_bytes: manifest.page_bytes() as usize,
            log: StepLog::default(),
            chooses: false,
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

    /// Memory after everything that was submitted.
    fn settled(&self) -> std::cell::RefMut<'_, Memory> {
        let mut memory = self.memory.borrow_mut();
        memory.carry_out(usize::MAX);
        memory
    }

    /// The token ids of the step that is to be collected next, which is carried out for that.
    pub fn next_ids(&self) -> Option<Vec<i32>> {
        let mut memory = self.memory.borrow_mut();
        memory.carry_out(1);
        memory.under_way.front().map(|step| step.ids.clone())
    }

    /// Gives up what was submitted and not collected, done or not.
    pub fn give_up(&mut self) {
        self.memory.get_mut().under_way.clear();
    }

    fn fail(&mut self) -> Result<(), DeviceError> {
        match &mut self.fail_after {
            Some(0) => Err(DeviceError::Option { option: "fake", message: "told to fail".into() }),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl Memory {
    /// Carries out the first `count` of the steps under way.
    fn carry_out(&mut self, count: usize) {
        for i in 0..self.under_way.len().min(count) {
            if self.under_way[i].done.is_some() {
                continue;
            }
            let mut step = self.under_way.remove(i).unwrap();
            step.carried.iter().for_each(|c| step.ids[c.token] = self.chosen[c.row]);
            let rows = self.run(&step.inputs(), step.vocabulary);
            let choose = |(row, settings): (&[f32], &SampleSettings)| choose(row, settings);
            self.chosen = rows.chunks_exact(step.vocabulary).zip(&step.settings).map(choose).collect();
            step.done = Some((rows, self.chosen.clone()));
            self.under_way.insert(i, step);
        }
    }

    /// Writes the tokens of a step and gives its rows of logits.
    fn run(&mut self, inputs: &StepInputs, vocabulary: usize) -> Vec<f32> {
        let (mut written, mut last) = (HashSet::new(), None);
        for t in 0..inputs.ids.len() {
            let (sequence, position) = (inputs.sequences[t] as usize, inputs.positions[t] as usize);
            match last {
                Some((s, p)) if s == sequence => assert_eq!(position, p + 1, "tokens of a sequence are in order"),
                Some((s, _)) => assert!(sequence > s, "tokens of a sequence are adjacent"),
                None => {}
            }
            last = Some((sequence, position));
            let slot = slot(inputs, sequence, position);
            assert!(written.insert(slot), "two tokens in one slot");
            self.slots[slot] = Some(inputs.ids[t] as u32);
        }
        let row = |t: &i32| {
            let (sequence, position) = (inputs.sequences[*t as usize] as usize, inputs.positions[*t as usize] as usize);
            let token = |p| self.slots[slot(inputs, sequence, p)].expect("a slot is read before it is written");
            let history: Vec<u32> = (0..=position).map(token).collect();
            FakeDevice::row(&history, vocabulary)
        };
        inputs.logit_rows.iter().flat_map(row).collect()
    }
}

impl Submitted {
    fn inputs(&self) -> StepInputs<'_> {
        StepInputs {
            ids: &self.ids,
            positions: &self.positions,
            sequences: &self.sequences,
            page_table: &self.page_table,
            page_columns: self.page_columns,
            logit_rows: &self.logit_rows,
            rope_tables: &[],
        }
    }
}

fn slot(inputs: &StepInputs, sequence: usize, position: usize) -> usize {
    let page = inputs.page_table[sequence * inputs.page_columns + position / 16];
    page as usize * 16 + position % 16
}

/// The host's choice with another seed.
fn choose(row: &[f32], settings: &SampleSettings) -> i32 {
    let params = SamplingParams {
        temperature: settings.temperature,
        top_k: settings.top_k as usize,
        top_p: settings.top_p,
        min_p: settings.min_p,
        seed: settings.seed.wrapping_add(FakeDevice::SEED),
        ..SamplingParams::default()
    };
    let history = History { prompt: &[], output: &[] };
    // Rows that nobody looks at come with settings that say nothing.
    match params.validate() {
        Ok(()) => Sampler::new().sample(row, history, &params, settings.position).unwrap() as i32,
        Err(_) => 0,
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
        self.fail()?;
        inputs.check(&self.limits[bucket])?;
        self.log.lock().unwrap().push((bucket, inputs.ids.len(), inputs.logit_rows.len()));
        let vocabulary = self.limits[bucket].vocabulary as usize;
        let memory = self.memory.get_mut();
        assert!(memory.under_way.is_empty(), "a step that is waited for while others are under way");
        self.logits = memory.run(inputs, vocabulary);
        Ok(())
    }

    fn chooses(&self) -> bool {
        self.chooses
    }

    fn submit(&mut self, bucket: usize, step: &ChoosingStep) -> Result<(), DeviceError> {
        self.fail()?;
        assert!(self.chooses, "this device does not choose");
        let memory = self.memory.get_mut();
        let before = memory.under_way.back().map_or(0, |last| last.logit_rows.len());
        step.check(&self.limits[bucket], memory.under_way.len(), before)?;
        assert!(memory.under_way.len() < MOST_UNDER_WAY);
        let inputs = &step.inputs;
        self.log.lock().unwrap().push((bucket, inputs.ids.len(), inputs.logit_rows.len()));
        let mut ids = inputs.ids.to_vec();
        // Whoever takes what stands there for a token has a wrong one.
        step.carried.iter().for_each(|c| ids[c.token] = -7);
        memory.under_way.push_back(Submitted {
            ids,
            positions: inputs.positions.to_vec(),
            sequences: inputs.sequences.to_vec(),
            page_table: inputs.page_table.to_vec(),
            page_columns: inputs.page_columns,
            logit_rows: inputs.logit_rows.to_vec(),
            settings: step.settings.to_vec(),
            carried: step.carried.to_vec(),
            vocabulary: self.limits[bucket].vocabulary as usize,
            outputs: step.outputs,
            done: None,
        });
        Ok(())
    }

    fn collect(&mut self, tokens: &mut Vec<i32>) -> Result<(), DeviceError> {
        if let Err(error) = self.fail() {
            self.give_up();
            return Err(error);
        }
        let memory = self.memory.get_mut();
        memory.carry_out(1);
        let step = memory.under_way.pop_front();
        let nothing = DeviceError::Option { option: "fake", message: "nothing was submitted".into() };
        let (is_wanted, (logits, chosen)) = step.and_then(|step| Some((step.outputs, step.done?))).ok_or(nothing)?;
        *tokens = chosen;
        self.logits = if is_wanted { logits } else { Vec::new() };
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
        for (word, slot) in bytes.chunks_exact_mut(4).zip(&self.settled().slots[page as usize * 16..][..16]) {
            word.copy_from_slice(&slot.map_or(0, |token| token + 1).to_le_bytes());
        }
        Ok(())
    }

    fn write_page(&mut self, page: u32, bytes: &[u8]) -> Result<(), DeviceError> {
        self.shape().check(page, bytes.len())?;
        for (word, slot) in bytes.chunks_exact(4).zip(&mut self.settled().slots[page as usize * 16..][..16]) {
            *slot = u32::from_le_bytes(word.try_into().unwrap()).checked_sub(1);
        }
        Ok(())
    }

    fn copy_page(&mut self, from: u32, to: u32) -> Result<(), DeviceError> {
        self.shape().check_page(from)?;
        self.shape().check_page(to)?;
        self.settled().slots.copy_within(from as usize * 16..from as usize * 16 + 16, to as usize * 16);
        Ok(())
    }

    fn memory(&self) -> DeviceMemory {
        DeviceMemory::default()
    }
}
