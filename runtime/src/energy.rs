//! What work costs in joules, read from a power meter while it goes on.
//!
//! A meter that counts energy is read at both ends; one that only tells power is read as often as something happens and integrated between
//! readings by the trapezoid rule, which is exact only as far as power changes slowly. Either is renewed by the driver a few times a second, so
//! that a short piece of work gives no figure rather than a wrong one.

use std::time::Duration;

/// Something that knows what a device consumes.
pub trait EnergyMeter {
    /// Energy since some time in the past, in joules; `None` if it does not count energy.
    fn joules(&mut self) -> Option<f64>;

    /// Power now, in watts; `None` if it does not tell.
    fn watts(&mut self) -> Option<f64>;
}

/// Work shorter than this is within a few periods of a meter's own clock, of 20 to 100 ms.
const LEAST_TIME: Duration = Duration::from_millis(400);

/// Power is read no more often than this.
const LEAST_INTERVAL: Duration = Duration::from_millis(10);

/// The consumption of one piece of work that is going on. Times count from any one moment.
#[derive(Clone, Copy, Debug)]
pub struct EnergySpan {
    begun: Duration,
    how: How,
}

#[derive(Clone, Copy, Debug)]
enum How {
    Counted { joules: f64 },
    Integrated { joules: f64, last: (Duration, f64) },
}

impl EnergySpan {
    /// Starts at `now`; `None` if the meter tells nothing.
    pub fn begin(meter: &mut dyn EnergyMeter, now: Duration) -> Option<EnergySpan> {
        let counted = meter.joules().map(|joules| How::Counted { joules });
        let how = counted.or_else(|| Some(How::Integrated { joules: 0.0, last: (now, meter.watts()?) }))?;
        Some(EnergySpan { begun: now, how })
    }

    /// Takes note of the power at `now`, where it is integrated and was not read just before.
    pub fn sample(&mut self, meter: &mut dyn EnergyMeter, now: Duration) {
        if let How::Integrated { last: (time, _), .. } = self.how
            && now.saturating_sub(time) >= LEAST_INTERVAL
        {
            self.integrate(meter, now);
        }
    }

    /// Joules until `now`; `None` if the meter has failed since, its counter has started again, or the time was too short for it.
    pub fn end(mut self, meter: &mut dyn EnergyMeter, now: Duration) -> Option<f64> {
        self.integrate(meter, now);
        let joules = match self.how {
            How::Counted { joules } => meter.joules()? - joules,
            How::Integrated { joules, .. } => joules,
        };
        (now.saturating_sub(self.begun) >= LEAST_TIME && joules > 0.0).then_some(joules)
    }

    fn integrate(&mut self, meter: &mut dyn EnergyMeter, now: Duration) {
        let How::Integrated { joules, last: (time, before) } = self.how else { return };
        // A reading that fails leaves the power as it was.
        let watts = meter.watts().unwrap_or(before);
        let added = now.saturating_sub(time).as_secs_f64() * (before + watts) / 2.0;
        self.how = How::Integrated { joules: joules + added, last: (now, watts) };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Gives its readings one after the other, then the last for ever.
    struct Fake {
        joules: Vec<f64>,
        watts: Vec<f64>,
    }

    fn next(readings: &mut Vec<f64>) -> Option<f64> {
        if readings.len() > 1 { Some(readings.remove(0)) } else { readings.first().copied() }
    }

    impl EnergyMeter for Fake {
        fn joules(&mut self) -> Option<f64> {
            next(&mut self.joules)
        }

        fn watts(&mut self) -> Option<f64> {
            next(&mut self.watts)
        }
    }

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn a_counter_is_read_at_both_ends() {
        let mut meter = Fake { joules: vec![1000.0, 1350.0], watts: vec![9.0] };
        let mut span = EnergySpan::begin(&mut meter, ms(100)).unwrap();
        span.sample(&mut meter, ms(500));
        assert_eq!(span.end(&mut meter, ms(1100)), Some(350.0));
    }

    #[test]
    fn power_is_integrated_between_readings() {
        let mut meter = Fake { joules: vec![], watts: vec![100.0, 300.0, 500.0] };
        let mut span = EnergySpan::begin(&mut meter, ms(0)).unwrap();
        span.sample(&mut meter, ms(500));
        span.sample(&mut meter, ms(505));
        // 0.5 s at 200 W on average, then 0.5 s at 400 W: the sample in between came too soon to be read.
        assert_eq!(span.end(&mut meter, ms(1000)), Some(300.0));
    }

    #[test]
    fn what_cannot_be_known_is_no_figure() {
        assert!(EnergySpan::begin(&mut Fake { joules: vec![], watts: vec![] }, ms(0)).is_none());
        let end = |joules: Vec<f64>, at| {
            let mut meter = Fake { joules, watts: vec![] };
            EnergySpan::begin(&mut meter, ms(0)).unwrap().end(&mut meter, at)
        };
        assert_eq!(end(vec![10.0, 90.0], ms(100)), None, "too short");
        assert_eq!(end(vec![90.0, 10.0], ms(900)), None, "the counter started again");
        assert_eq!(end(vec![90.0], ms(900)), None, "the counter stands still");
    }

    proptest! {
        /// Constant power is power times time, however often it is read.
        #[test]
        fn constant_power_is_exact(watts in 1.0f64..1000.0, steps in prop::collection::vec(0u64..300, 1..40)) {
            let mut meter = Fake { joules: vec![], watts: vec![watts] };
            let mut span = EnergySpan::begin(&mut meter, ms(0)).unwrap();
            let mut now = 0;
            for step in steps {
                now += step;
                span.sample(&mut meter, ms(now));
            }
            let expected = watts * now as f64 / 1e3;
            match span.end(&mut meter, ms(now)) {
                Some(joules) => prop_assert!((joules - expected).abs() <= 1e-9 * expected),
                None => prop_assert!(ms(now) < LEAST_TIME),
            }
        }
    }
}
