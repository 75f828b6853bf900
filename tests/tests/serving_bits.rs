//! Served answers have the same bits whatever else is served: alone or together, in any chunks, with a cold or a cached prefix, and after
//! preemptions. Tokens and log-probabilities of real models on the cpu device are compared bit for bit.

use std::sync::Arc;

use compiler::target::Activations;
use moesaic_tests::artifacts::compile;
use moesaic_tests::golden::{self, Golden};
use runtime::artifact::Artifact;
use runtime::engine::EngineOptions;
use runtime::kv::PrefixCacheOptions;
use runtime::sample::{SamplingParams, TokenLogProbs};
use runtime::serving::{Event, EventStream, Request, Service, ServiceMetrics, ServiceOptions};

/// A dense model, one whose rotary table depends on the length, a mixture, one with windows.
const FIXTURES: [&str; 4] = ["odd_llama", "phi3_longrope", "mixtral", "gemma3"];

/// Longest sequence: past the length at which phi3_longrope changes its rotary table.
const MAX_LEN: u64 = 96;

/// A small generator of numbers that look random: xorshift64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }

    fn shuffled<T>(&mut self, mut items: Vec<T>) -> Vec<T> {
        (1..items.len()).rev().for_each(|i| items.swap(i, self.below(i + 1)));
        items
    }
}

/// A prompt and how it is to be answered.
#[derive(Clone)]
struct Question {
    prompt: Vec<u32>,
    sampling: SamplingParams,
    answers: u32,
    max_tokens: u64,
}

impl Question {
    fn request(&self) -> Request {
        let mut request = Request::new(self.prompt.clone(), self.sampling.clone(), self.max_tokens);
        (request.answers, request.logprobs) = (self.answers, Some(4));
        request
    }
}

/// The bits of one answer: token, and of each log-probability token and value.
type Bits = Vec<(u32, Vec<(u32, u32)>)>;

fn bits(logprobs: &TokenLogProbs) -> Vec<(u32, u32)> {
    std::iter::once(&logprobs.chosen).chain(&logprobs.top).map(|l| (l.token, l.logprob.to_bits())).collect()
}

fn read(mut stream: EventStream, answers: u32) -> Vec<Bits> {
    let mut all = vec![Bits::new(); answers as usize];
    while let Some(event) = stream.blocking_next() {
        match event {
            Event::Token { answer, token, logprobs } => {
                all[answer as usize].push((token, bits(&logprobs.expect("they were asked for"))));
            }
            Event::Failed(error) => panic!("{error}"),
            _ => {}
        }
    }
    all
}

/// Prompts that share a beginning with others, some past the change of rotary tables.
fn questions(vocabulary: u32, dice: &mut Dice) -> Vec<Question> {
    let text: Vec<u32> = (0..60).map(|i| 3 + (i * 37 + 11) % (vocabulary - 3)).collect();
    let lengths = [1, 16, 17, 33, 40, 47, 50, 60];
    let question = |(i, length): (usize, usize)| {
        let own = (0..1 + dice.below(4)).map(|_| 3 + dice.below(vocabulary as usize - 3) as u32).collect::<Vec<_>>();
        let sampling = match i % 2 {
            0 => SamplingParams::greedy(),
            _ => {
                SamplingParams { seed: i as u64, temperature: 0.9, presence_penalty: 0.3, ..SamplingParams::default() }
            }
        };
        let (answers, max_tokens) = (1 + (i as u32 == 5) as u32 * 2, 18 + dice.below(14) as u64);
        Question { prompt: [&text[..length], &own].concat(), sampling, answers, max_tokens }
    };
    lengths.into_iter().enumerate().map(question).collect()
}

/// How a service is made, and in which order the questions come.
struct Setting {
    kv_tokens: u64,
    max_num_seqs: usize,
    max_num_batched_tokens: usize,
    cache: bool,
}

fn serve(artifact: &Arc<Artifact>, setting: &Setting) -> Service {
    let engine = EngineOptions {
        threads: Some(2),
        max_model_len: Some(MAX_LEN),
        kv_tokens: Some(setting.kv_tokens),
        ..EngineOptions::default()
    };
    let prefix_cache =
        setting.cache.then(|| PrefixCacheOptions { host_bytes: 1 << 16, ..PrefixCacheOptions::default() });
    let options = ServiceOptions {
        engine,
        max_num_seqs: setting.max_num_seqs,
        max_num_batched_tokens: Some(setting.max_num_batched_tokens),
        prefix_cache,
        ..ServiceOptions::default()
    };
    Service::start(artifact.clone(), options).expect("a service")
}

/// The questions' answers, asked together in that order.
fn ask(service: &Service, questions: &[Question], order: &[usize]) -> Vec<Vec<Bits>> {
    let streams: Vec<_> = order.iter().map(|i| (*i, service.submit(questions[*i].request()).expect("taken"))).collect();
    let mut answers = vec![Vec::new(); questions.len()];
    streams.into_iter().for_each(|(i, stream)| answers[i] = read(stream, questions[i].answers));
    answers
}

#[test]
fn answers_have_the_same_bits_alone_together_in_chunks_cached_and_preempted() {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    for name in FIXTURES {
        let fixture = Golden::read(&golden::folder().join(name));
        let (_folder, artifact) = compile(&fixture.folder, Activations::F32);
        let questions = questions(artifact.manifest().model.vocab_size as u32, &mut dice);
        let alone = Setting { kv_tokens: 1024, max_num_seqs: 64, max_num_batched_tokens: 512, cache: false };
        let reference = serve(&artifact, &alone);
        let expected: Vec<_> = (0..questions.len()).flat_map(|i| ask(&reference, &questions[i..=i], &[0])).collect();
        let mut totals = ServiceMetrics::default();
        for (max_num_seqs, max_num_batched_tokens, kv_tokens) in [(16, 17, 1024), (3, 19, 128), (5, 512, 192)] {
            for cache in [false, true] {
                let service = serve(&artifact, &Setting { kv_tokens, max_num_seqs, max_num_batched_tokens, cache });
                // The second time prefixes are cached, and have been evicted in part.
                for _ in 0..2 {
                    let order = dice.shuffled((0..questions.len()).collect());
                    let found = ask(&service, &questions, &order);
                    assert_eq!(
                        found, expected,
                        "{name}: {max_num_seqs} sequences, {max_num_batched_tokens} tokens, {order:?}"
                    );
                }
                totals.preemptions += service.metrics().preemptions;
                totals.prefix_cache_hits += service.metrics().prefix_cache_hits;
            }
        }
        assert!(
            totals.preemptions > 0 && totals.prefix_cache_hits > 0,
            "{name}: nothing was put to the test: {totals:?}"
        );
    }
}
