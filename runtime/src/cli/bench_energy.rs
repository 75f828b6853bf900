//! What `bench` says of joules: those that generating takes, from the last prompt's first token on.
//!
//! Only the GPU's own consumption is read, with whoever else uses it; the processor's is not.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::args::DeviceArgs;
use crate::device::cuda::nvml::Management;
use crate::device::cuda::{self, CudaStatus};
use crate::energy::{EnergyMeter, EnergySpan};
use crate::engine::generate::{GenerationRequest, Timings, generate};
use crate::engine::{Engine, EngineError};

/// Generates and adds up what it takes.
pub(super) struct Consumption {
    meter: Option<Box<dyn EnergyMeter>>,
    joules: f64,
    tokens: u64,
}

impl Consumption {
    /// With the meter of the device, if it has one that can be read.
    pub fn of(engine: &Engine, device: &DeviceArgs) -> Consumption {
        let on_gpu = engine.device_name().starts_with("cuda");
        let meter = if on_gpu { gpu_meter(device.gpu) } else { None };
        Consumption { meter, joules: 0.0, tokens: 0 }
    }

    /// Generates once.
    pub fn generate(&mut self, engine: &mut Engine, requests: &[GenerationRequest]) -> Result<Timings, EngineError> {
        let start = Instant::now();
        let mut watch = self.meter.as_deref_mut().map(|meter| Watch::new(meter, requests.len()));
        let (_, timings) = generate(engine, requests, |event| {
            if let Some(watch) = &mut watch {
                watch.token(event.index, start.elapsed());
            }
            ControlFlow::Continue(())
        })?;
        if let Some((joules, tokens)) = watch.and_then(|watch| watch.end(start.elapsed())) {
            self.joules += joules;
            self.tokens += tokens;
        }
        Ok(timings)
    }

    /// Joules a token so far; `None` if none were measured.
    pub fn joules_per_token(&self) -> Option<f64> {
        (self.tokens > 0).then(|| self.joules / self.tokens as f64)
    }
}

/// One generation: energy counts from when the last request has its first token, and so do tokens.
struct Watch<'a> {
    meter: &'a mut dyn EnergyMeter,
    prompts: usize,
    span: Option<EnergySpan>,
    tokens: u64,
}

impl Watch<'_> {
    fn new(meter: &mut dyn EnergyMeter, requests: usize) -> Watch<'_> {
        Watch { meter, prompts: requests, span: None, tokens: 0 }
    }

    /// A request's token of that index was chosen.
    fn token(&mut self, index: usize, now: Duration) {
        if index == 0 {
            self.prompts = self.prompts.saturating_sub(1);
            if self.prompts == 0 {
                self.span = EnergySpan::begin(self.meter, now);
            }
        } else if let Some(span) = &mut self.span {
            self.tokens += 1;
            span.sample(self.meter, now);
        }
    }

    /// Joules and the tokens they were taken for.
    fn end(self, now: Duration) -> Option<(f64, u64)> {
        Some((self.span?.end(self.meter, now)?, self.tokens))
    }
}

/// The meter of a GPU by the driver's number.
fn gpu_meter(ordinal: u32) -> Option<Box<dyn EnergyMeter>> {
    let CudaStatus::Gpus(gpus) = cuda::probe() else { return None };
    let meter = Management::open()?.meter(&gpus.get(ordinal as usize)?.pci_bus_id)?;
    Some(Box::new(meter))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives its readings one after the other.
    struct Counter(Vec<f64>);

    impl EnergyMeter for Counter {
        fn joules(&mut self) -> Option<f64> {
            (!self.0.is_empty()).then(|| self.0.remove(0))
        }

        fn watts(&mut self) -> Option<f64> {
            None
        }
    }

    #[test]
    fn energy_counts_from_the_last_first_token() {
        let mut counter = Counter(vec![500.0, 620.0]);
        let mut watch = Watch::new(&mut counter, 2);
        let mut milliseconds = 0;
        // The first request is a token ahead when the second has its first: that one is not counted.
        for index in [0, 1, 0, 2, 1, 3, 2] {
            milliseconds += 200;
            watch.token(index, Duration::from_millis(milliseconds));
        }
        assert_eq!(watch.end(Duration::from_millis(milliseconds)), Some((120.0, 4)));
    }

    #[test]
    fn a_meter_that_tells_nothing_gives_no_figure() {
        let mut counter = Counter(Vec::new());
        let mut watch = Watch::new(&mut counter, 1);
        watch.token(0, Duration::ZERO);
        watch.token(1, Duration::from_secs(1));
        assert_eq!(watch.end(Duration::from_secs(2)), None);
    }
}
