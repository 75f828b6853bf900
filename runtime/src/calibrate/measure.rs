//! Measures this machine with the kernels and the team of threads that models run on.
//!
//! Each figure comes from a small program in which one term of the cost model outweighs the others: a product of one token with
//! a matrix larger than any cache (memory), with one that caches hold (cache), of many tokens (operations), and a chain of
//! products too small to take time (launches). The best of a few repetitions counts: a busy machine only ever makes them slower.

use std::time::{Duration, Instant};

use ir::program::Program;
use ir::quant::packed_bytes;
use ir::text::parse_program;
use ir::types::DType;

use super::TargetSpec;
use crate::artifact::{Layout, WeightInfo};
use crate::device::cpu::{ProgramRunner, usable_cores};
use crate::device::{DeviceError, LoadOptions, StepInputs};

/// Bytes of the matrix that memory is measured with, where the machine has room: more than the caches of most processors.
const MATRIX_BYTES: u64 = 256 << 20;

/// Bytes of the matrix that the shared cache is measured with.
const CACHED_BYTES: u64 = 4 << 20;

/// How long each figure is measured: five of them stay below the few seconds a user waits for.
const BUDGET: Duration = Duration::from_millis(500);

/// Fewest repetitions of each.
const REPETITIONS: usize = 3;

/// Rows of a matrix that a thread takes at a time; what the compiler's table says of every processor.
const BLOCK_ROWS: u64 = 64;

/// This machine's row and what it was measured with.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// The row.
    pub spec: TargetSpec,
    /// Threads.
    pub threads: usize,
    /// How long the measurement took.
    pub seconds: f64,
}

/// Measures the cpu device on `threads` threads, by default one for each core this process may use.
///
/// # Errors
/// Memory or threads that the system refuses.
pub fn measure(threads: Option<usize>) -> Result<Measured, DeviceError> {
    measure_for(threads, MATRIX_BYTES, BUDGET)
}

fn measure_for(threads: Option<usize>, matrix_bytes: u64, budget: Duration) -> Result<Measured, DeviceError> {
    let start = Instant::now();
    let threads = threads.unwrap_or_else(usable_cores);
    let run = |experiment: &Experiment| experiment.seconds(threads, budget);
    // An eighth of what is free at most: the measurement must not push a machine into swapping.
    let room = crate::memory::available_bytes().map_or(matrix_bytes, |free| matrix_bytes.min(free / 8));
    let launch_s = run(&Experiment::launches())?;
    let memory = Experiment::reading(room);
    let cached = Experiment::reading(CACHED_BYTES.min(room));
    let floats = Experiment::multiplying(DType::F32);
    let integers = Experiment::multiplying(DType::Q8X32);
    let (f32_rate, int8_rate) = (floats.operations() / run(&floats)?, integers.operations() / run(&integers)?);
    let rate = |e: &Experiment| -> Result<f64, DeviceError> { Ok(e.weight_bytes() as f64 / run(e)?) };
    let (bytes_per_s, cached_bytes_per_s) = (rate(&memory)?, rate(&cached)?);
    let spec = TargetSpec {
        name: "cpu".into(),
        bytes_per_s,
        // A cache that seems slower than the memory behind it was measured while something else used it.
        cached_bytes_per_s: cached_bytes_per_s.max(bytes_per_s),
        f32_ops_per_s: f32_rate,
        // Native kernels compute in f32 what is stored in f16.
        f16_ops_per_s: f32_rate,
        int8_ops_per_s: int8_rate,
        launch_s,
        units: threads as u64,
        block_rows: BLOCK_ROWS,
    };
    Ok(Measured { spec, threads, seconds: start.elapsed().as_secs_f64() })
}

/// A chain of equal products, every one with the same matrix.
struct Experiment {
    tokens: u64,
    rows: u64,
    cols: u64,
    launches: usize,
    weights: DType,
    activations: DType,
}

impl Experiment {
    /// One token with so many bytes of integers, in the format whose product is closest to reading alone.
    fn reading(bytes: u64) -> Experiment {
        let cols = 2048;
        let row = packed_bytes(DType::Q8_0, 16, cols).map_or(u64::MAX, |panel| panel / 16);
        let rows = (bytes / row).next_multiple_of(BLOCK_ROWS);
        // A small matrix is read often enough for a launch to be short beside it.
        let launches = (64u64 << 20).checked_div(bytes).map_or(1, |n| n.clamp(1, 16)) as usize;
        Experiment { tokens: 1, rows, cols, launches, weights: DType::Q8_0, activations: DType::Q8X32 }
    }

    /// Many tokens with a matrix that caches hold.
    fn multiplying(activations: DType) -> Experiment {
        let weights = if activations == DType::F32 { DType::F16 } else { DType::Q8_0 };
        Experiment { tokens: 64, rows: 1024, cols: 1024, launches: 1, weights, activations }
    }

    /// Nothing to compute, and yet more than one block in each launch.
    fn launches() -> Experiment {
        let (rows, cols) = (BLOCK_ROWS * 4, 32);
        Experiment { tokens: 1, rows, cols, launches: 512, weights: DType::F16, activations: DType::F32 }
    }

    /// Of one launch.
    fn operations(&self) -> f64 {
        2.0 * self.tokens as f64 * self.rows as f64 * self.cols as f64
    }

    /// Of the matrix.
    fn weight_bytes(&self) -> u64 {
        packed_bytes(self.weights, self.rows, self.cols).unwrap_or(u64::MAX)
    }

    /// The program: the activations are rounded first if the product takes integers.
    fn program(&self) -> Result<Program, DeviceError> {
        let Experiment { tokens, rows, cols, weights, activations, .. } = self;
        let rounded = *activations == DType::Q8X32;
        let bytes = |ty: &str, c: u64| if ty == "f32" { tokens * c * 4 } else { tokens * c * 2 };
        let x_end = bytes(activations.name(), *cols).next_multiple_of(256);
        let mut text = format!(
            "program \"calibration\" {{\n  sym T in {tokens}..={tokens}\n  arena {}\n  input \"x\" : f32[T, {cols}]\n  \
             weight \"w\" : {weights}[{rows}, {cols}]\n",
            x_end + (tokens * rows * 4).next_multiple_of(256),
        );
        text += &format!("  buffer %0 : {activations}[T, {cols}] at 0\n  buffer %1 : f32[T, {rows}] at {x_end}\n");
        text += "  output \"y\" %1\n";
        let x = if rounded {
            text += &format!(
                "  launch quantize_rows \"block\" {{x = input \"x\", out = write %0, rows = T, cols = {cols}}} \"x\"\n"
            );
            "read %0"
        } else {
            "input \"x\""
        };
        let launch = format!(
            "  launch matmul \"{weights}.{activations}\" {{x = {x}, w = weight \"w\", bias = null, out = write %1, \
             tokens = T, rows = {rows}, cols = {cols}, reserved = 0}} \"product\"\n"
        );
        text += &launch.repeat(self.launches);
        text += "}\n";
        let fault =
            |e: &dyn std::fmt::Display| DeviceError::Program { program: "calibration".into(), message: e.to_string() };
        parse_program(&text).map_err(|e| fault(&e))
    }

    /// Seconds of one launch: of the fastest run of the chain.
    fn seconds(&self, threads: usize, budget: Duration) -> Result<f64, DeviceError> {
        let weight = WeightInfo {
            name: "w".into(),
            dtype: self.weights.name().into(),
            layout: Layout::Rows16,
            shape: vec![self.rows, self.cols],
            file: String::new(),
            bytes: self.weight_bytes(),
        };
        let options = LoadOptions { pages: 1, threads: Some(threads), isa: None };
        let mut runner = ProgramRunner::new(&self.program()?, std::slice::from_ref(&weight), 1, &options)?;
        // Memory that was never written is one page of zeros, which caches hold. Small bytes are finite in every format here.
        if let Some(bytes) = runner.weight_mut("w") {
            bytes.fill(0x11);
        }
        let zeros = vec![0; self.tokens as usize];
        let inputs = StepInputs {
            ids: &zeros,
            positions: &zeros,
            sequences: &zeros,
            page_table: &[0],
            page_columns: 1,
            logit_rows: &[0],
            rope_tables: &zeros,
        };
        let x: Vec<f32> = (0..self.tokens * self.cols).map(|i| (i % 17) as f32 / 8.0 - 1.0).collect();
        let (start, mut best, mut repetitions) = (Instant::now(), f64::INFINITY, 0);
        // The first run also wakes the threads and fills the caches.
        runner.step(&inputs, &[("x", &x)])?;
        while repetitions < REPETITIONS || start.elapsed() < budget {
            let before = Instant::now();
            runner.step(&inputs, &[])?;
            best = best.min(before.elapsed().as_secs_f64());
            repetitions += 1;
        }
        Ok(best / self.launches as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rates are of this machine, so only their order is known: every figure is usable, integers and caches are no slower by much, and a
    /// launch takes less than a millisecond.
    #[test]
    fn a_measurement_gives_a_usable_row() {
        let measured = measure_for(Some(2), 8 << 20, Duration::from_millis(5)).unwrap();
        let spec = &measured.spec;
        assert_eq!(spec.fault(), None, "{spec:?}");
        assert_eq!((spec.units, measured.threads), (2, 2));
        assert!(spec.bytes_per_s > 1e7 && spec.cached_bytes_per_s >= spec.bytes_per_s, "{spec:?}");
        assert!(spec.f32_ops_per_s > 1e7 && spec.int8_ops_per_s > 1e7, "{spec:?}");
        assert!(spec.launch_s > 1e-9 && spec.launch_s < 1e-1, "{spec:?}");
        assert!(measured.seconds > 0.0);
    }

    #[test]
    fn experiments_are_what_they_say() {
        let reading = Experiment::reading(8 << 20);
        let bytes = reading.weight_bytes();
        assert!(((8 << 20)..(8 << 20) + (1 << 18)).contains(&bytes), "{bytes}");
        assert_eq!((reading.tokens, reading.launches), (1, 8));
        assert_eq!(Experiment::multiplying(DType::F32).operations(), 134_217_728.0);
        for experiment in [
            reading,
            Experiment::launches(),
            Experiment::multiplying(DType::F32),
            Experiment::multiplying(DType::Q8X32),
        ] {
            let program = experiment.program().unwrap();
            let rounding = usize::from(experiment.activations == DType::Q8X32);
            assert_eq!(program.launches.len(), experiment.launches + rounding);
            assert!(ir::verify::verify_program(&program).is_ok());
        }
    }
}
