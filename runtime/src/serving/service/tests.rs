//! Services over fake devices: what callers see of a thread that answers, drains, fails and is replaced.

use super::*;
use crate::artifact::Manifest;
use crate::device::cuda::driver::codes;
use crate::device::cuda::tests::{Tiny, driver};
use crate::sample::SamplingParams;
use crate::serving::{Event, FinishReason};
use crate::testing::{FakeDevice, Faults, FaultyDevice, TinyModel, shapes};

struct Fake {
    service: Service,
    faults: Arc<Mutex<Faults>>,
    /// Engines made, and whether more can be.
    engines: Arc<(AtomicUsize, AtomicBool)>,
}

fn manifest() -> Manifest {
    let folder = tempfile::tempdir().unwrap();
    TinyModel::new().write(folder.path())
}

fn fake(options: ServiceOptions) -> Fake {
    let (manifest, faults) = (manifest(), Arc::new(Mutex::new(Faults::default())));
    let engines = Arc::new((AtomicUsize::new(0), AtomicBool::new(true)));
    let (made, given) = (engines.clone(), faults.clone());
    let factory = Box::new(move || {
        made.0.fetch_add(1, Ordering::Relaxed);
        if !made.1.load(Ordering::Relaxed) {
            return Err(EngineError::NoLogits);
        }
        let device = FaultyDevice::new(&manifest, 32, given.clone());
        Ok(Engine::with_device(&manifest, Box::new(device), shapes::MAX_CONTEXT))
    });
    let service = Service::start_with(factory, false, &options, Arc::new(SystemClock::start())).unwrap();
    Fake { service, faults, engines }
}

fn request(prompt: &[u32], max_tokens: u64) -> Request {
    Request::new(prompt.to_vec(), SamplingParams::greedy(), max_tokens)
}

/// The greedy continuation by the fake device's rule.
fn continuation(prompt: &[u32], count: usize) -> Vec<u32> {
    let mut history = prompt.to_vec();
    for _ in 0..count {
        let row = FakeDevice::row(&history, shapes::VOCABULARY);
        history.push(row.iter().position(|v| *v == 1.0).unwrap() as u32);
    }
    history.split_off(prompt.len())
}

/// Tokens of the first answer and how the request ended.
fn read(stream: &mut EventStream) -> (Vec<u32>, Result<FinishReason, RequestError>) {
    let mut tokens = Vec::new();
    while let Some(event) = stream.blocking_next() {
        match event {
            Event::Token { token, .. } => tokens.push(token),
            Event::Finished { reason, .. } => return (tokens, Ok(reason)),
            Event::Failed(error) => return (tokens, Err(error)),
            _ => {}
        }
    }
    panic!("the stream ended without an end: {tokens:?}");
}

fn wait_until(what: impl Fn() -> bool) {
    while !what() {
        std::thread::yield_now();
    }
}

#[test]
fn requests_are_answered_together_and_counted() {
    let Fake { service, .. } = fake(ServiceOptions::default());
    let prompts: Vec<Vec<u32>> = (1..9).map(|n| (0..n * 5).collect()).collect();
    let mut streams: Vec<_> = prompts.iter().map(|p| service.submit(request(p, 12)).unwrap()).collect();
    for (stream, prompt) in streams.iter_mut().zip(&prompts) {
        assert_eq!(read(stream), (continuation(prompt, 12), Ok(FinishReason::Length)));
    }
    wait_until(|| service.is_idle());
    let metrics = service.metrics();
    assert_eq!((metrics.generation_tokens, metrics.prompt_tokens, metrics.answers_length), (96, 180, 8));
    assert_eq!((metrics.num_requests_running, metrics.num_requests_waiting), (0, 0));
    assert_eq!((metrics.time_to_first_token.count(), metrics.inter_token_latency.count()), (8, 88));
    assert_eq!((metrics.e2e_request_latency.count(), metrics.request_decode_time.count()), (8, 8));
    assert_eq!(service.health(), Health::Ready);
}

#[test]
fn the_queue_is_bounded_and_bad_requests_are_refused() {
    let Fake { service, .. } = fake(ServiceOptions { max_waiting: 2, max_num_seqs: 1, ..ServiceOptions::default() });
    // Nobody reads the first, which rests with its only seat, but lets others pass: they are not read either.
    let mut streams = Vec::new();
    let refused = loop {
        match service.submit(request(&[1, 2], 120)) {
            Ok(stream) => streams.push(stream),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, SubmitError::QueueFull { waiting: 2, .. }), "{refused:?}");
    assert!(matches!(service.submit(request(&[], 1)), Err(SubmitError::Invalid { field: "prompt", .. })));
    assert!(matches!(service.submit(request(&[1; 200], 1)), Err(SubmitError::TooLong { prompt_tokens: 200, .. })));
    for stream in &mut streams {
        assert_eq!(read(stream).0, continuation(&[1, 2], 120));
    }
    wait_until(|| service.is_idle());
    assert!(service.submit(request(&[1], 1)).is_ok());
}

#[test]
fn a_reader_that_leaves_ends_its_request() {
    let Fake { service, .. } = fake(ServiceOptions::default());
    // Too many tokens for the channel: without a reader they would rest.
    drop(service.submit(request(&[1, 2, 3], 120)).unwrap());
    wait_until(|| service.is_idle());
    let mut stream = service.submit(request(&[1, 2, 3], 120)).unwrap();
    assert!(matches!(stream.blocking_next(), Some(Event::Started { .. })));
    stream.end_answer(0);
    assert_eq!(read(&mut stream).1, Ok(FinishReason::Cancelled));
    wait_until(|| service.is_idle() && service.metrics().answers_cancelled == 2);
}

#[test]
fn a_shutdown_answers_what_was_taken() {
    let Fake { service, .. } = fake(ServiceOptions::default());
    let mut stream = service.submit(request(&[1, 2, 3], 30)).unwrap();
    service.shutdown(Duration::from_secs(600));
    assert_eq!(read(&mut stream), (continuation(&[1, 2, 3], 30), Ok(FinishReason::Length)));
    assert_eq!(service.submit(request(&[1], 1)).unwrap_err(), SubmitError::ShuttingDown);
    assert_eq!(service.health(), Health::Draining);
}

#[test]
fn past_its_deadline_a_shutdown_fails_what_is_left() {
    let Fake { service, .. } = fake(ServiceOptions::default());
    // It rests for its reader, who reads nothing before the end.
    let mut stream = service.submit(request(&[1, 2, 3], 120)).unwrap();
    service.shutdown(Duration::ZERO);
    let (tokens, end) = read(&mut stream);
    assert!(tokens.len() < 120 && end == Err(RequestError::ShuttingDown), "{end:?}");
    assert!(service.is_idle());
}

#[test]
fn without_handles_the_rest_is_answered() {
    let Fake { service, .. } = fake(ServiceOptions::default());
    let mut stream = service.submit(request(&[4], 100)).unwrap();
    drop(service);
    assert_eq!(read(&mut stream), (continuation(&[4], 100), Ok(FinishReason::Length)));
}

#[test]
fn a_lost_device_fails_all_requests_and_shows_in_the_health() {
    let Fake { service, faults, .. } = fake(ServiceOptions::default());
    faults.lock().unwrap().lost = true;
    let mut stream = service.submit(request(&[1], 5)).unwrap();
    assert!(matches!(read(&mut stream), (_, Err(RequestError::DeviceLost(_)))));
    assert!(matches!(service.health(), Health::Lost(message) if message.contains("told to be lost")));
    assert!(matches!(service.submit(request(&[1], 5)), Err(SubmitError::DeviceLost(_))));
    service.shutdown(Duration::ZERO);
}

/// A fault of a kernel, through the whole engine: with a step under way, and while an answer is given.
#[test]
fn a_gpu_whose_context_is_lost_shows_in_the_health() {
    let (tiny, driver) = (Tiny::new(), driver());
    let (given, artifact) = (driver.clone(), tiny.artifact.clone());
    let factory = Box::new(move || {
        let device = tiny.load(&given).map_err(EngineError::from)?;
        Ok(Engine::with_device(artifact.manifest(), Box::new(device), shapes::MAX_CONTEXT))
    });
    let clock = Arc::new(SystemClock::start());
    let service = Service::start_with(factory, false, &ServiceOptions::default(), clock).unwrap();
    // Nothing is executed, so that every token is 0.
    let mut stream = service.submit(request(&[1, 2], 5)).unwrap();
    assert_eq!(read(&mut stream), (vec![0; 5], Ok(FinishReason::Length)));
    let mut streams = [service.submit(request(&[1, 2], 100)).unwrap(), service.submit(request(&[3], 100)).unwrap()];
    assert!(matches!(streams[0].blocking_next(), Some(Event::Started { .. })));
    driver.fail_at(30, codes::ILLEGAL_ADDRESS);
    for stream in &mut streams {
        let (tokens, end) = read(stream);
        assert!(
            matches!(&end, Err(RequestError::DeviceLost(message)) if message.contains("ILLEGAL_ADDRESS")),
            "{end:?}"
        );
        assert!(tokens.iter().all(|token| *token == 0));
    }
    assert!(matches!(service.health(), Health::Lost(message) if message.contains("ILLEGAL_ADDRESS")));
    assert!(matches!(service.submit(request(&[1], 5)), Err(SubmitError::DeviceLost(_))));
    service.shutdown(Duration::ZERO);
    drop(service);
    assert_eq!((driver.live(), driver.violations()), (0, Vec::new()));
}

#[test]
fn an_engine_that_panics_is_replaced_as_long_as_there_is_another() {
    let Fake { service, faults, engines } = fake(ServiceOptions::default());
    faults.lock().unwrap().panic_once = true;
    let mut stream = service.submit(request(&[1], 5)).unwrap();
    assert!(matches!(read(&mut stream), (_, Err(RequestError::Step(_)))));
    let mut next = service.submit(request(&[2], 5)).unwrap();
    assert_eq!(read(&mut next), (continuation(&[2], 5), Ok(FinishReason::Length)));
    assert_eq!((engines.0.load(Ordering::Relaxed), service.health()), (2, Health::Ready));
    engines.1.store(false, Ordering::Relaxed);
    faults.lock().unwrap().panic_once = true;
    assert!(read(&mut service.submit(request(&[1], 5)).unwrap()).1.is_err());
    wait_until(|| matches!(service.health(), Health::Lost(_)));
}

#[test]
fn options_out_of_range_are_named() {
    for (options, name) in [
        (ServiceOptions { max_num_seqs: 0, ..ServiceOptions::default() }, "max_num_seqs"),
        (ServiceOptions { max_waiting: 0, ..ServiceOptions::default() }, "max_waiting"),
        (ServiceOptions { max_num_batched_tokens: Some(0), ..ServiceOptions::default() }, "max_num_batched_tokens"),
    ] {
        let factory = Box::new(|| -> Result<Engine, EngineError> { panic!("no engine is made") });
        let error = Service::start_with(factory, false, &options, Arc::new(SystemClock::start())).err().unwrap();
        assert!(error.to_string().contains(name));
    }
}
