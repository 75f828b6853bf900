//! Steps whose tokens the GPU chooses: what is called in which order, and what a failure leaves.

use kernels::abi::SampleSettings;

use super::*;
use crate::device::{Carried, ChoosingStep};

/// A step of one token for each of so many sequences.
struct Decode {
    ids: Vec<i32>,
    sequences: Vec<i32>,
    positions: Vec<i32>,
    pages: Vec<i32>,
    settings: Vec<SampleSettings>,
}

impl Decode {
    fn new(count: usize) -> Decode {
        let numbers: Vec<i32> = (0..count as i32).collect();
        let settings = vec![SampleSettings::default(); count];
        Decode { ids: vec![1; count], sequences: numbers.clone(), positions: vec![3; count], pages: numbers, settings }
    }

    fn step<'a>(&'a self, carried: &'a [Carried], outputs: bool) -> ChoosingStep<'a> {
        let inputs = StepInputs {
            ids: &self.ids,
            positions: &self.positions,
            sequences: &self.sequences,
            page_table: &self.pages,
            page_columns: 1,
            logit_rows: &self.sequences,
            rope_tables: &[0; 8][..self.ids.len()],
        };
        ChoosingStep { inputs, settings: &self.settings, carried, outputs }
    }
}

fn carried(pairs: &[(usize, usize)]) -> Vec<Carried> {
    pairs.iter().map(|(token, row)| Carried { token: *token, row: *row }).collect()
}

const BUCKET: usize = 1;

/// Calls but for the size of the metadata, which is small.
fn shape(calls: Vec<Call>) -> Vec<Call> {
    let shape = |call| match call {
        Call::Upload { bytes } => {
            assert!(bytes < 4096, "{bytes}");
            Call::Upload { bytes: 0 }
        }
        other => other,
    };
    calls.into_iter().map(shape).collect()
}

#[test]
fn a_step_is_handed_over_before_the_one_before_is_waited_for() {
    let (tiny, driver) = (Tiny::new(), driver());
    let mut device = tiny.load(&driver).unwrap();
    assert!(device.chooses());
    let (decode, mut tokens) = (Decode::new(3), Vec::new());
    // Recorded once, beside the recording of the same counts that chooses nothing.
    device.submit(BUCKET, &decode.step(&[], false)).unwrap();
    device.collect(&mut tokens).unwrap();
    let launches = tiny.artifact.programs()[BUCKET].launches.len();
    let recorded = driver.take_calls().into_iter().filter(|c| matches!(c, Call::Launch { .. })).count();
    assert!(recorded > launches);

    let upload = Call::Upload { bytes: 0 };
    let (graph, ids) = (Call::LaunchGraph, Call::Download { bytes: 3 * 4 });
    device.submit(BUCKET, &decode.step(&[], false)).unwrap();
    assert_eq!(shape(driver.take_calls()), [upload, graph, ids, Call::Record]);
    // All sequences go on in their order: one copy.
    device.submit(BUCKET, &decode.step(&carried(&[(0, 0), (1, 1), (2, 2)]), false)).unwrap();
    assert_eq!(shape(driver.take_calls()), [upload, Call::Copy { bytes: 12 }, graph, ids, Call::Record]);
    let third = device.submit(BUCKET, &decode.step(&[], false)).unwrap_err();
    assert!(matches!(third, DeviceError::Inputs(_)), "{third}");
    assert!(step(&mut device, BUCKET, 3).unwrap_err().to_string().contains("under way"));
    device.collect(&mut tokens).unwrap();
    assert_eq!(driver.take_calls(), [Call::Wait]);
    // One has ended, and others have changed places.
    device.submit(BUCKET, &decode.step(&carried(&[(0, 2), (1, 0)]), false)).unwrap();
    let copy = Call::Copy { bytes: 4 };
    assert_eq!(shape(driver.take_calls()), [upload, copy, copy, graph, ids, Call::Record]);
    device.collect(&mut tokens).unwrap();
    device.collect(&mut tokens).unwrap();
    assert_eq!((driver.take_calls(), tokens.len()), (vec![Call::Wait, Call::Wait], 3));
    assert!(device.collect(&mut tokens).is_err());
    // Rows come back only where they are asked for.
    assert!(device.output("logits").is_none());
    device.submit(BUCKET, &decode.step(&[], true)).unwrap();
    device.collect(&mut tokens).unwrap();
    let rows = Call::Download { bytes: 3 * 4 * crate::testing::shapes::VOCABULARY as u64 };
    assert_eq!(shape(driver.take_calls()), [upload, graph, rows, ids, Call::Record, Call::Wait]);
    assert_eq!(device.output("logits").unwrap().len(), 3 * crate::testing::shapes::VOCABULARY);
    drop(device);
    assert_eq!((driver.live(), driver.violations()), (0, Vec::new()));
}

#[test]
fn a_device_goes_with_steps_under_way() {
    let (tiny, driver) = (Tiny::new(), driver());
    let mut device = tiny.load(&driver).unwrap();
    device.submit(BUCKET, &Decode::new(2).step(&[], false)).unwrap();
    device.submit(BUCKET, &Decode::new(2).step(&carried(&[(0, 1)]), false)).unwrap();
    drop(device);
    assert_eq!((driver.live(), driver.violations()), (0, Vec::new()));
}

/// Two steps under way and their tokens; how many of four calls went well.
fn pipelined(device: &mut CudaDevice) -> (usize, Option<DeviceError>) {
    let (decode, carried, mut tokens) = (Decode::new(3), carried(&[(0, 0), (2, 1)]), Vec::new());
    let results = [
        device.submit(BUCKET, &decode.step(&[], false)),
        device.submit(BUCKET, &decode.step(&carried, false)),
        device.collect(&mut tokens),
        device.collect(&mut tokens),
    ];
    let good = results.iter().filter(|r| r.is_ok()).count();
    (good, results.into_iter().find_map(Result::err))
}

#[test]
fn steps_that_fail_at_any_call_leave_the_device_usable_or_lost() {
    let tiny = Tiny::new();
    let calls = {
        let driver = driver();
        let mut device = tiny.load(&driver).unwrap();
        let before = driver.call_count();
        assert_eq!(pipelined(&mut device).0, 4);
        driver.call_count() - before
    };
    assert!(calls > 20);
    for call in 0..calls {
        for (code, sticky) in [(codes::OUT_OF_MEMORY, false), (1, false), (codes::ILLEGAL_ADDRESS, true)] {
            let driver = driver();
            let mut device = tiny.load(&driver).unwrap();
            driver.fail_at(call, code);
            let (good, error) = pipelined(&mut device);
            let asked = driver.call_count();
            let again = pipelined(&mut device);
            match sticky {
                true => {
                    assert!(good < 4 && error.as_ref().is_some_and(is_lost), "call {call}: {error:?}");
                    assert!(again.1.as_ref().is_some_and(is_lost));
                    assert_eq!(driver.call_count(), asked, "a lost device is asked");
                }
                // Only the return of a template may fail unnoticed.
                false => assert_eq!(again.0, 4, "call {call}: {error:?}, then {:?}", again.1),
            }
            drop(device);
            assert_eq!(driver.live(), 0);
            let wrong: Vec<_> = driver.violations().into_iter().filter(|v| !released_in_vain(v)).collect();
            assert!(wrong.is_empty(), "call {call}, code {code}: {wrong:?}");
        }
    }
}

/// As of artifacts that were compiled before there was such a kernel.
#[test]
fn without_the_kernel_the_host_chooses() {
    let tiny = Tiny::without(&["sample"]);
    let driver = driver();
    let mut device = tiny.load(&driver).unwrap();
    assert!(!device.chooses());
    let error = device.submit(BUCKET, &Decode::new(1).step(&[], false)).unwrap_err();
    assert!(error.to_string().contains("does not choose"), "{error}");
    step(&mut device, BUCKET, 1).unwrap();
}
