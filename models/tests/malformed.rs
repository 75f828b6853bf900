//! Any bytes give a checkpoint or an error: no panic, and no allocation out of proportion to the file.
//!
//! Valid files are damaged at random (bytes set, spans removed or doubled, the end cut off) and everything that reads them is
//! run. An allocator counts what is live, so a length that is believed before it is checked shows up.

mod support;

use models::chat_template::ChatTemplate;
use models::generation::GenerationConfig;
use models::{Checkpoint, ModelError, tokenizer};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;
use support::{golden, sample_gguf};

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

/// Counts the bytes each thread has live, and the most it had.
struct Counting;

fn count(change: isize) {
    // Fails only while the thread is being torn down, when nobody looks any more.
    let _ = LIVE.try_with(|live| {
        live.set(live.get() + change);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(live.get())));
    });
}

// SAFETY: every call is handed on to the system allocator unchanged; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller keeps `alloc_zeroed`'s contract.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller keeps `dealloc`'s contract.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as isize - layout.size() as isize);
        // SAFETY: the caller keeps `realloc`'s contract.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Runs `work` and returns the most bytes it had live on this thread.
fn peak_of(work: impl FnOnce()) -> usize {
    let before = LIVE.get();
    PEAK.set(before);
    work();
    (PEAK.get() - before).max(0) as usize
}

/// One injury to a file; positions are fractions of its length.
#[derive(Clone, Debug)]
enum Damage {
    Set(f64, u8),
    Flip(f64, u8),
    Word(f64, u64),
    Remove(f64, usize),
    Double(f64, usize),
    Cut(f64),
}

fn damage() -> impl Strategy<Value = Damage> {
    let at = 0.0..1.0f64;
    let word = prop_oneof![
        any::<u64>(),
        Just(0),
        Just(u64::MAX),
        Just(1 << 31),
        (0..4096u64),
        (0..60u32).prop_map(|n| 1 << n)
    ];
    prop_oneof![
        4 => (at.clone(), any::<u8>()).prop_map(|(at, byte)| Damage::Set(at, byte)),
        4 => (at.clone(), 0..8u8).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        4 => (at.clone(), word).prop_map(|(at, word)| Damage::Word(at, word)),
        1 => (at.clone(), 1..20usize).prop_map(|(at, n)| Damage::Remove(at, n)),
        1 => (at.clone(), 1..20usize).prop_map(|(at, n)| Damage::Double(at, n)),
        1 => at.prop_map(Damage::Cut),
    ]
}

/// Applies injuries to the first `extent` bytes: the data behind a header is only ever copied.
fn damaged(mut bytes: Vec<u8>, extent: usize, injuries: &[Damage]) -> Vec<u8> {
    for injury in injuries {
        let place = |at: f64| ((at * extent.min(bytes.len()) as f64) as usize).min(bytes.len().saturating_sub(1));
        let span = |at: f64, n: usize| place(at)..(place(at) + n).min(bytes.len());
        match *injury {
            _ if bytes.is_empty() => {}
            Damage::Set(at, byte) => {
                let at = place(at);
                bytes[at] = byte;
            }
            Damage::Flip(at, bit) => {
                let at = place(at);
                bytes[at] ^= 1 << bit;
            }
            Damage::Word(at, word) => {
                let range = span(at, 8);
                let n = range.len();
                bytes[range].copy_from_slice(&word.to_le_bytes()[..n]);
            }
            Damage::Remove(at, n) => drop(bytes.drain(span(at, n))),
            Damage::Double(at, n) => {
                let copy = bytes[span(at, n)].to_vec();
                let at = place(at);
                bytes.splice(at..at, copy);
            }
            Damage::Cut(at) => bytes.truncate(place(at)),
        }
    }
    bytes
}

/// An error must be one line, and no panic of a library in disguise.
fn one_line(error: ModelError) {
    let text = error.to_string();
    assert!(!text.contains('\n') && !text.contains("contradicts itself"), "{text}");
}

/// Reads everything there is to read.
fn exercise(path: &Path, with_tokenizer: bool) {
    let checkpoint = match Checkpoint::open(path) {
        Ok(checkpoint) => checkpoint,
        Err(e) => return one_line(e),
    };
    let mut data = Vec::new();
    let names: Vec<String> = checkpoint.tensors().map(|t| t.name.clone()).collect();
    for name in names {
        checkpoint.read(&name, &mut data).unwrap_or_else(one_line);
    }
    ChatTemplate::read(&checkpoint).map(drop).unwrap_or_else(one_line);
    GenerationConfig::read(&checkpoint).map(drop).unwrap_or_else(one_line);
    if with_tokenizer {
        tokenizer::tokenizer_json(&checkpoint).map(drop).unwrap_or_else(one_line);
    }
}

/// Bytes a file may cost: its own size some times over, for JSON trees and tables, and what the libraries need at least.
fn allowance(file: usize, fixed: usize) -> usize {
    64 * file + fixed
}

/// The same damage in every run; `PROPTEST_RNG_SEED` and `MOESAIC_FUZZ_CASES` vary and lengthen it.
fn config(cases: u32) -> ProptestConfig {
    let default = ProptestConfig::default();
    let rng_seed = match default.rng_seed {
        RngSeed::Random => RngSeed::Fixed(1),
        fixed => fixed,
    };
    let cases = std::env::var("MOESAIC_FUZZ_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(cases);
    ProptestConfig { cases, rng_seed, failure_persistence: None, ..default }
}

proptest! {
    #![proptest_config(config(1500))]

    #[test]
    fn gguf(injuries in proptest::collection::vec(damage(), 1..4)) {
        let bytes = damaged(sample_gguf().bytes(), 900, &injuries);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        std::fs::write(&path, &bytes).unwrap();
        let peak = peak_of(|| exercise(&path, false));
        prop_assert!(peak < allowance(bytes.len(), 1 << 18), "{peak} bytes for a file of {}", bytes.len());
    }

    #[test]
    fn safetensors(injuries in proptest::collection::vec(damage(), 1..4)) {
        let file = std::fs::read(golden("qwen2").join("model.safetensors")).unwrap();
        let header = 8 + u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
        let bytes = damaged(file, header, &injuries);
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("model.safetensors"), &bytes).unwrap();
        std::fs::write(folder.path().join("config.json"), b"{}").unwrap();
        let peak = peak_of(|| exercise(folder.path(), false));
        prop_assert!(peak < 2 * bytes.len() + (1 << 18), "{peak} bytes for a file of {}", bytes.len());
    }

    #[test]
    fn descriptions(injuries in proptest::collection::vec(damage(), 1..4), which in 0..6usize) {
        let names = ["config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json",
            "chat_template.jinja", "model.safetensors.index.json"];
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            let text = std::fs::read(golden("mistral").join(name)).or_else(|_| std::fs::read(golden("llama31").join(name)));
            let text = text.unwrap_or_else(|_| br#"{"metadata":{},"weight_map":{"w":"a.safetensors"}}"#.to_vec());
            let text = if name == names[which] { damaged(text.clone(), text.len(), &injuries) } else { text };
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let header = br#"{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#;
        let weights = [&(header.len() as u64).to_le_bytes(), &header[..], &[0]].concat();
        std::fs::write(folder.path().join("a.safetensors"), weights).unwrap();
        let peak = peak_of(|| exercise(folder.path(), false));
        prop_assert!(peak < 1 << 20, "{peak} bytes");
    }
}

proptest! {
    #![proptest_config(config(150))]

    #[test]
    fn tokenizers_from_folders(injuries in proptest::collection::vec(damage(), 1..3), which in 0..2usize) {
        let name = ["chatml_bpe", "inst_spm"][which];
        let file = std::fs::read(golden("tokenizers").join(name).join("tokenizer.json")).unwrap();
        // The vocabulary makes up most of the file; the structure stands before it.
        let bytes = damaged(file, 3000, &injuries);
        let peak = peak_of(|| match tokenizer::load(&bytes, Path::new("tokenizer.json")) {
            Ok(_) => {}
            Err(e) => one_line(e),
        });
        prop_assert!(peak < allowance(bytes.len(), 8 << 20), "{peak} bytes");
    }

    #[test]
    fn tokenizers_from_gguf(injuries in proptest::collection::vec(damage(), 1..3)) {
        let bytes = damaged(sample_gguf().bytes(), 900, &injuries);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        std::fs::write(&path, &bytes).unwrap();
        let peak = peak_of(|| exercise(&path, true));
        prop_assert!(peak < allowance(bytes.len(), 8 << 20), "{peak} bytes for a file of {}", bytes.len());
    }
}
