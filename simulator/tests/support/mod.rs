//! Launching kernels in a line or two.
#![allow(dead_code)]

use simulator::{Access, Finding, Kind, Launch, Memory, Module, Options, Pointer, Report, SimError, run};

/// Parameters laid out as the driver lays them out: each aligned to its size.
#[derive(Default)]
pub struct Params(Vec<u8>);

impl Params {
    pub fn new() -> Params {
        Params::default()
    }

    fn push(mut self, bytes: &[u8]) -> Params {
        self.0.resize(self.0.len().next_multiple_of(bytes.len()), 0);
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn pointer(self, p: Pointer) -> Params {
        self.push(&p.0.to_le_bytes())
    }

    pub fn int(self, value: i32) -> Params {
        self.push(&value.to_le_bytes())
    }

    pub fn float(self, value: f32) -> Params {
        self.push(&value.to_le_bytes())
    }

    /// The bytes, padded to `align` as a struct is.
    pub fn bytes(mut self, align: usize) -> Vec<u8> {
        self.0.resize(self.0.len().next_multiple_of(align), 0);
        self.0
    }
}

pub fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

pub fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

pub fn halves(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect()
}

pub fn read_floats(memory: &Memory, at: Pointer, count: usize) -> Vec<f32> {
    let bytes = memory.read(at, 4 * count).unwrap();
    bytes.chunks_exact(4).map(|c| f32::from_le_bytes(c.try_into().unwrap())).collect()
}

pub fn read_words(memory: &Memory, at: Pointer, count: usize) -> Vec<u32> {
    let bytes = memory.read(at, 4 * count).unwrap();
    bytes.chunks_exact(4).map(|c| u32::from_le_bytes(c.try_into().unwrap())).collect()
}

pub fn everything() -> Options {
    Options { checks: true, counters: true, ..Options::default() }
}

/// Numbers between −1 and 1 that are the same on every run.
pub fn noise(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// A kernel of one pointer parameter `p`, loaded into `%rd0`, around `body`.
pub fn kernel(body: &str) -> String {
    format!(
        ".version 8.8\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 p)\n{{\n\
         .reg .b16 %h<16>; .reg .b32 %r<64>; .reg .f32 %f<64>; .reg .b64 %rd<32>; .reg .f64 %fd<8>; .reg .pred %p<16>;\n\
         ld.param.u64 %rd0, [p];\nmov.u32 %r0, %tid.x;\n{body}\nret;\n}}\n"
    )
}

/// Runs such a kernel over a buffer of `bytes` zeros (or not initialised at all).
pub fn run_body(
    body: &str,
    grid: u32,
    block: u32,
    bytes: usize,
    initialised: bool,
) -> Result<(Report, Vec<u32>), SimError> {
    let module = Module::parse(&kernel(body), "k.ptx")?;
    let mut memory = Memory::new();
    let buffer = match initialised {
        true => memory.allocate_with("buffer", vec![0; bytes], Access::ReadWrite),
        false => memory.allocate("buffer", bytes, Access::ReadWrite),
    };
    let launch = Launch::new([grid, 1, 1], [block, 1, 1], Params::new().pointer(buffer).bytes(8));
    let report = run(&module, "k", &launch, &mut memory, &everything())?;
    Ok((report, read_words(&memory, buffer, bytes / 4)))
}

pub fn kinds(findings: &[Finding]) -> Vec<Kind> {
    findings.iter().map(|f| f.kind).collect()
}
