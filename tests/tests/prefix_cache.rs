//! What a cached prefix must not change: a sequence's logits have the same bits cold, from the device's pages, from the host's
//! memory, from disk and from a baked prompt, in any batch and any chunking.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use compiler::pipeline::CompileOptions;
use compiler::target::{Activations, Target};
use moesaic_tests::artifacts::{compile, compile_with, engine, logits, on_gpu, options, simulator};
use moesaic_tests::golden::{self, Golden};
use runtime::artifact::{Artifact, OpenOptions};
use runtime::engine::bake::copy_with_prompts;
use runtime::engine::{Chunk, Engine, EngineOptions, Rows};
use runtime::kv::PrefixCacheOptions;
use runtime::kv::pages::SequenceId;
use runtime::kv::salt::CacheSalt;
use runtime::serving::CachedTokens;

/// How long pages may take to get to disk.
const PATIENCE: Duration = Duration::from_secs(60);

/// Tokens of a text: six pages and a part.
const TOKENS: usize = 101;

/// Fixtures that keep their keys and values in different ways: grouped heads, windows, sinks, latent attention, a mixture, two
/// rotary tables, odd sizes.
const KINDS: [&str; 7] = ["smollm2", "gemma3", "gpt_oss", "deepseek_v3", "mixtral", "phi3_longrope", "odd_deepseek_v3"];

/// A text of the fixture's own tokens; different seeds give texts that differ from the first token on.
fn text(golden: &Golden, seed: usize) -> Vec<u32> {
    let known: Vec<u32> = golden.prompts.iter().flat_map(|p| p.ids.iter().copied()).collect();
    (0..TOKENS).map(|i| known[(i * (seed + 1) + seed * 3) % known.len()]).collect()
}

fn memory_only(host_bytes: u64) -> PrefixCacheOptions {
    PrefixCacheOptions { host_bytes, ..PrefixCacheOptions::default() }
}

fn cached_engine(artifact: &Arc<Artifact>, kv_tokens: u64, options: &PrefixCacheOptions) -> Engine {
    let longest = artifact.manifest().model.max_context.min(128);
    let engine_options = EngineOptions { threads: Some(1), max_model_len: Some(longest), ..EngineOptions::default() };
    let mut engine = engine(artifact, kv_tokens, engine_options);
    engine.enable_prefix_cache(options).expect("a prefix cache");
    engine
}

/// The logits of the tokens of a prompt that were not known, given in pieces.
fn ask(engine: &mut Engine, prompt: &[u32], chunk: usize) -> (CachedTokens, Vec<f32>) {
    let (sequence, cached) = engine.open_cached(&CacheSalt::PUBLIC, prompt).expect("a sequence");
    let mut rows = Vec::new();
    for tokens in prompt[cached.total() as usize..].chunks(chunk) {
        let step = [Chunk { sequence, tokens, logits: Rows::All }];
        engine.step_each(&step, |row| rows.extend_from_slice(row.logits)).expect("a step");
    }
    engine.close_sequence(sequence).expect("an open sequence");
    (cached, rows)
}

/// Whether these are the last rows of the whole text's.
fn assert_tail(whole: &[f32], rows: &[f32], place: &str) {
    assert!(!rows.is_empty() && whole.ends_with(rows), "{place}: the bits differ");
}

#[test]
fn logits_have_the_same_bits_from_every_tier() {
    for golden in golden::fixtures().into_iter().filter(|g| KINDS.contains(&&*g.name())) {
        let name = golden.name();
        let (_folder, artifact) = compile(&golden.folder, Activations::F32);
        let (prompt, other) = (text(&golden, 0), text(&golden, 1));
        let mut plain = engine(&artifact, 128, EngineOptions { threads: Some(1), ..EngineOptions::default() });
        let whole = logits(&mut plain, &prompt, usize::MAX);
        let dir = tempfile::tempdir().unwrap();
        let on_disk = PrefixCacheOptions { dir: Some(dir.path().into()), ..memory_only(0) };

        let mut cold = cached_engine(&artifact, 256, &on_disk);
        let (cached, rows) = ask(&mut cold, &prompt, 7);
        assert_eq!((cached, rows == whole), (CachedTokens::default(), true), "{name}, cold");
        for chunk in [1, 3, usize::MAX] {
            let (cached, rows) = ask(&mut cold, &prompt, chunk);
            assert_eq!(cached, CachedTokens { device: 96, ..CachedTokens::default() }, "{name}");
            assert_tail(&whole, &rows, &format!("{name}, memory, chunks of {chunk}"));
        }
        // The last of whole pages is copied, and only its last token computed.
        let (cached, rows) = ask(&mut cold, &prompt[..96], 16);
        assert_eq!(cached.device, 95, "{name}");
        let row = whole.len() / TOKENS;
        assert_eq!(rows, whole[95 * row..96 * row], "{name}, copied page");
        assert!(cold.flush_prefix_cache(PATIENCE).unwrap());
        drop(cold);

        let (cached, rows) = ask(&mut cached_engine(&artifact, 256, &on_disk), &prompt, 2);
        assert_eq!(cached, CachedTokens { disk: 96, ..CachedTokens::default() }, "{name}");
        assert_tail(&whole, &rows, &format!("{name}, disk"));

        let mut small = cached_engine(&artifact, 112, &memory_only(1 << 30));
        ask(&mut small, &prompt, 101);
        ask(&mut small, &other, 101);
        let (cached, rows) = ask(&mut small, &prompt, 5);
        assert_eq!((cached.total(), cached.host > 0), (96, true), "{name}");
        assert_tail(&whole, &rows, &format!("{name}, host"));

        if on_gpu() {
            // Prompts are baked by the processor, whose bits are others.
            continue;
        }
        let baked = bake(&artifact, &prompt[..70], dir.path());
        // In the smaller cache the prompt may not take half of the pages, and the rest of it comes from the host. Six tokens are of
        // a page that was not full.
        for (kv_tokens, device, host) in [(256, 70, 0), (112, 54, 16)] {
            let (cached, rows) = ask(&mut cached_engine(&baked, kv_tokens, &memory_only(0)), &prompt, 9);
            // The page is filled up with a token that the prompt may happen to go on with.
            assert!((device..device + 3).contains(&cached.device), "{name}: {cached:?}");
            assert_eq!((cached.host, cached.disk), (host, 0), "{name}");
            assert_tail(&whole, &rows, &format!("{name}, baked"));
        }
    }
}

/// A copy of an artifact with a baked prompt.
fn bake(artifact: &Arc<Artifact>, prompt: &[u32], dir: &Path) -> Arc<Artifact> {
    let folder = dir.join("baked");
    copy_with_prompts(artifact, &[prompt.to_vec()], &folder).unwrap();
    Arc::new(Artifact::open(&folder, &OpenOptions::default()).unwrap())
}

/// A sequence of the shuffled test: which text, and how much of it is in.
struct Running {
    sequence: SequenceId,
    text: usize,
    end: usize,
}

/// Numbers that look random.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % bound
    }
}

#[test]
fn shuffled_batches_chunks_and_cache_states_leave_every_bit() {
    let fixtures = golden::fixtures();
    let golden = fixtures.iter().find(|g| g.name() == "smollm2").unwrap_or(&fixtures[0]);
    let (_folder, artifact) = compile(&golden.folder, Activations::Int8);
    let mut plain = engine(&artifact, 128, EngineOptions { threads: Some(1), ..EngineOptions::default() });
    // Texts that share beginnings of 0, 40 and 64 tokens with the first.
    let base = text(golden, 0);
    let texts: Vec<Vec<u32>> =
        [101, 64, 40, 0].map(|shared| [&base[..shared], &text(golden, 2)[shared..]].concat()).into();
    let expected: Vec<Vec<f32>> = texts.iter().map(|t| logits(&mut plain, t, usize::MAX)).collect();
    let row = expected[0].len() / TOKENS;
    let dir = tempfile::tempdir().unwrap();
    let page = artifact.manifest().page_bytes();
    let tiers = PrefixCacheOptions { host_bytes: 4 * page, dir: Some(dir.path().into()), disk_bytes: 40 * page };
    let (mut random, mut found) = (Random(7), CachedTokens::default());
    for _ in 0..6 {
        let mut engine = cached_engine(&artifact, 20 * 16, &tiers);
        let mut running: Vec<Running> = Vec::new();
        for _ in 0..60 {
            if running.len() < 3 {
                let (text, tenant) = (random.below(texts.len()), random.below(2));
                let salt = [CacheSalt::PUBLIC, CacheSalt::new(Some("tenant"), None)][tenant];
                let (sequence, cached) = engine.open_cached(&salt, &texts[text]).unwrap();
                found.device += cached.device;
                found.host += cached.host;
                found.disk += cached.disk;
                running.push(Running { sequence, text, end: cached.total() as usize });
            }
            let steps: Vec<(usize, usize)> = (0..running.len())
                .filter_map(|i| {
                    let left = TOKENS - running[i].end;
                    let count = (1 + random.below(40)).min(left);
                    (random.below(3) > 0 && count > 0).then_some((i, count))
                })
                .collect();
            let needed: u64 = steps
                .iter()
                .map(|(i, n)| engine.pool().pages_to_append(running[*i].sequence, *n as u64).unwrap())
                .sum();
            if !steps.is_empty() && needed <= engine.available_pages() {
                let chunks: Vec<Chunk> = steps
                    .iter()
                    .map(|(i, n)| {
                        let Running { sequence, text, end } = running[*i];
                        Chunk { sequence, tokens: &texts[text][end..end + n], logits: Rows::All }
                    })
                    .collect();
                engine
                    .step_each(&chunks, |got| {
                        let Running { text, end, .. } = running[steps[got.chunk].0];
                        let at = end + got.token;
                        assert!(got.logits == &expected[text][at * row..(at + 1) * row], "text {text}, token {at}");
                    })
                    .unwrap();
                steps.iter().for_each(|(i, n)| running[*i].end += n);
            }
            let full = engine.available_pages() < 4;
            if let Some(i) = running.iter().position(|r| r.end == TOKENS || full) {
                engine.close_sequence(running.swap_remove(i).sequence).unwrap();
            }
        }
        assert!(engine.flush_prefix_cache(PATIENCE).unwrap());
    }
    assert!(found.device > 0 && found.host > 0 && found.disk > 0, "every tier was used: {found:?}");
}

#[test]
fn a_prompt_is_baked_when_a_model_is_compiled() {
    let fixtures = golden::fixtures();
    let Some(golden) = fixtures.iter().find(|g| g.folder.join("tokenizer.json").exists()) else {
        panic!("no fixture has a tokenizer")
    };
    let folder = tempfile::tempdir().unwrap();
    let prompt = folder.path().join("prompt.txt");
    fs::write(&prompt, "the quick brown fox jumps over the lazy dog. ".repeat(6)).unwrap();
    let asked = |threads| CompileOptions { bake_prompts: vec![prompt.clone()], threads, ..options(Activations::F32) };
    let [(_one, one), (_two, two)] = [1, 2].map(|threads| compile_with(&golden.folder, &asked(threads)));
    assert_eq!(one.manifest(), two.manifest(), "the same bytes for any number of threads");
    let baked = &one.prefixes()[0];
    let mut engine = cached_engine(&one, 256, &memory_only(0));
    let question = [baked.tokens().get(..96).unwrap_or(baked.tokens()), &[1, 2]].concat();
    let (cached, rows) = ask(&mut engine, &question, 50);
    assert_eq!(cached.device, question.len() as u64 - 2);
    let (_plain, plain) = compile(&golden.folder, Activations::F32);
    let mut plain = moesaic_tests::artifacts::engine(&plain, 256, EngineOptions::default());
    assert_tail(&logits(&mut plain, &question, usize::MAX), &rows, "baked at compile time");

    let absent = CompileOptions { bake_prompts: vec![folder.path().join("absent")], ..options(Activations::F32) };
    let mut checkpoint = models::Checkpoint::open(&golden.folder).unwrap();
    let registry = compiler::lower::Registry::default();
    let output = folder.path().join("out.moesaic");
    let error = compiler::pipeline::compile(&mut checkpoint, &output, &absent, &registry, &compiler::progress::Silent);
    assert!(error.err().unwrap().to_string().contains("absent") && !output.exists());
}

#[test]
fn damaged_baked_prompts_are_refused() {
    let fixtures = golden::fixtures();
    let (folder, artifact) = compile(&fixtures[0].folder, Activations::F32);
    let baked = bake(&artifact, &text(&fixtures[0], 0), folder.path());
    let path = baked.path().to_path_buf();
    let open = || Artifact::open(&path, &OpenOptions { verify: runtime::artifact::Verify::Sizes, mmap: true });
    let (name, manifest) = ("prefixes/0.safetensors", fs::read_to_string(path.join("manifest.json")).unwrap());
    let whole = fs::read(path.join(name)).unwrap();
    for (from, to) in [
        ("\"tokens\": 112", "\"tokens\": 111"),
        ("\"tokens\": 112", "\"tokens\": 0"),
        ("\"tokens\": 112", "\"tokens\": 128"),
        ("\"tokens\": 112", "\"tokens\": 96"),
        ("\"rope_table\": 0", "\"rope_table\": 7"),
        ("\"rope_table\": 0", "\"rope_table\": -1"),
        ("\"file\": \"prefixes/0.safetensors\"", "\"file\": \"../0.safetensors\""),
    ] {
        assert!(manifest.contains(from), "{from}");
        fs::write(path.join("manifest.json"), manifest.replace(from, to)).unwrap();
        let error = open().err().expect(to).to_string();
        assert!(error.contains("prefix") && !error.contains('\n'), "{error}");
    }
    fs::write(path.join("manifest.json"), &manifest).unwrap();
    for at in [0, 1, 7, 9, 30] {
        let mut bad = whole.clone();
        bad[at] ^= 0x55;
        fs::write(path.join(name), bad).unwrap();
        assert!(open().is_err(), "byte {at} of the header");
    }
    // A token past the vocabulary, right after the header.
    let mut bad = whole.clone();
    let header = 8 + u64::from_le_bytes(*whole.first_chunk().unwrap()) as usize;
    bad[header..header + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    fs::write(path.join(name), bad).unwrap();
    assert!(open().err().unwrap().to_string().contains("tokens"));
    fs::write(path.join(name), &whole).unwrap();
    assert!(open().is_ok());
}

/// The artifact of a GPU: its pages move in the simulator's memory as in the processor's, where its prompts are baked.
#[test]
fn pages_of_a_gpu_artifact_move_and_its_prompts_are_baked_on_the_processor() {
    let fixtures = golden::fixtures();
    let golden = fixtures.iter().find(|g| g.name() == "llama31").unwrap_or(&fixtures[0]);
    let target: Target = "sm_80".parse().unwrap();
    let asked = CompileOptions { threads: 1, ..CompileOptions::new(target, Activations::F16) };
    let (_folder, artifact) = compile_with(&golden.folder, &asked);
    let (prompt, other) = (&text(golden, 0)[..40], &text(golden, 1)[..40]);
    let whole = logits(&mut simulator(&artifact, "sm_80", 64), prompt, usize::MAX);
    let mut engine = simulator(&artifact, "sm_80", 48);
    engine.enable_prefix_cache(&memory_only(1 << 30)).unwrap();
    assert!(ask(&mut engine, prompt, 40).1 == whole);
    let (cached, rows) = ask(&mut engine, prompt, 40);
    assert_eq!(cached.device, 32);
    assert_tail(&whole, &rows, "simulator, memory");
    let (cached, rows) = ask(&mut engine, &prompt[..32], 1);
    assert_eq!(cached.device, 31);
    assert_eq!(rows, whole[31 * rows.len()..32 * rows.len()], "simulator, copied page");
    ask(&mut engine, other, 40);
    let (cached, rows) = ask(&mut engine, prompt, 40);
    assert!(cached.host > 0);
    assert_tail(&whole, &rows, "simulator, host");

    // A fork within a page goes on with slots that nothing was written to.
    let sequence = engine.open_sequence();
    engine.step(&[Chunk { sequence, tokens: &prompt[..20], logits: Rows::None }]).unwrap();
    let fork = engine.fork_sequence(sequence, 18).unwrap();
    let row = whole.len() / prompt.len();
    let found = engine.step(&[Chunk { sequence: fork, tokens: &prompt[18..19], logits: Rows::Last }]).unwrap();
    assert_eq!(found.values(), &whole[18 * row..19 * row], "simulator, fork");

    let dir = tempfile::tempdir().unwrap();
    let baked = bake(&artifact, prompt, dir.path());
    let cpu = |artifact| cached_engine(artifact, 128, &memory_only(0));
    let (_, cold) = ask(&mut cpu(&artifact), prompt, 40);
    let (cached, rows) = ask(&mut cpu(&baked), prompt, 40);
    assert_eq!(cached.device, 39);
    assert_tail(&cold, &rows, "a GPU's artifact on the processor, baked");
}
