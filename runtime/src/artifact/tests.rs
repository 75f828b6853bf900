//! Damaged artifacts: every one is refused in one line that names file and field, and nothing panics.

use std::fs;
use std::path::Path;

use ir::types::DType;
use proptest::prelude::*;

use super::*;
use crate::testing::{TinyModel, write_manifest};

const WEIGHTS: &str = "weights-00001.safetensors";
const PROGRAM: &str = "programs/tokens-4.ir";

fn tiny() -> (tempfile::TempDir, Manifest) {
    tiny_in(Layout::Rows16)
}

fn tiny_in(layout: Layout) -> (tempfile::TempDir, Manifest) {
    let folder = tempfile::tempdir().unwrap();
    let manifest = TinyModel::new().write_in(layout, folder.path());
    (folder, manifest)
}

fn open(folder: &Path) -> Result<Artifact, ArtifactError> {
    Artifact::open(folder, &OpenOptions::default())
}

/// The one-line error of an artifact that cannot be opened.
fn refused(folder: &Path) -> String {
    let text = open(folder).err().expect("the artifact must be refused").to_string();
    assert!(!text.contains('\n'), "{text}");
    text
}

/// Replaces a file's content and makes the manifest agree with it.
fn replace(folder: &Path, manifest: &mut Manifest, name: &str, content: &[u8]) {
    fs::write(folder.join(name), content).unwrap();
    let info = FileInfo { bytes: content.len() as u64, blake3: blake3::hash(content).to_hex().to_string() };
    manifest.files.insert(name.into(), info);
    write_manifest(folder, manifest);
}

#[test]
fn a_good_artifact_opens_mapped_and_read() {
    let (folder, manifest) = tiny();
    for mmap in [true, false] {
        for verify in [Verify::Full, Verify::Sizes] {
            let artifact = Artifact::open(folder.path(), &OpenOptions { verify, mmap }).unwrap();
            assert_eq!(artifact.manifest(), &manifest);
            assert_eq!(artifact.programs().len(), 3);
            let norm = artifact.weight("norm").unwrap();
            let expected: Vec<u8> = TinyModel::new().weights["norm"].2.iter().flat_map(|v| v.to_le_bytes()).collect();
            assert_eq!(norm, expected);
            assert!(artifact.weight("absent").is_none());
            assert_eq!(artifact.generation_defaults().unwrap().top_k, Some(7));
            assert!(artifact.read_file("tokenizer.json").unwrap().is_none());
            artifact.check_intact().unwrap();
        }
    }
}

#[test]
fn missing_and_damaged_files_are_named() {
    let (folder, manifest) = tiny();
    let path = folder.path();
    assert!(refused(&path.join("elsewhere")).contains("manifest.json: no such file"));
    for name in manifest.files.keys() {
        let file = path.join(name);
        let content = fs::read(&file).unwrap();
        fs::remove_file(&file).unwrap();
        assert!(refused(path).contains(name.as_str()));
        fs::write(&file, &content[..content.len() - 1]).unwrap();
        assert!(refused(path).contains(&format!("{name}: {} bytes, expected {}", content.len() - 1, content.len())));
        let mut flipped = content.clone();
        *flipped.last_mut().unwrap() ^= 1;
        fs::write(&file, flipped).unwrap();
        let text = refused(path);
        assert!(text.contains(name.as_str()) && text.contains("BLAKE3"), "{text}");
        fs::write(&file, content).unwrap();
    }
    open(path).unwrap();
}

#[test]
fn other_schema_versions_are_refused_whatever_else_they_hold() {
    let (folder, _) = tiny();
    for (text, expected) in [
        (r#"{"schema": 1}"#, "schema: version 1, but this build reads version 3"),
        (r#"{"schema": -1}"#, "invalid value"),
        (r#"{"schema": 3}"#, "missing field `producer`"),
        ("", "EOF"),
        ("[]", "struct Version"),
    ] {
        fs::write(folder.path().join(MANIFEST_FILE), text).unwrap();
        let error = refused(folder.path());
        assert!(error.contains("manifest.json") && error.contains(expected), "{error}");
    }
}

#[test]
fn wrong_manifest_fields_are_named() {
    type Change = fn(&mut Manifest);
    let changes: &[(&str, Change)] = &[
        ("model.vocab_size", |m| m.model.vocab_size = 0),
        ("model.vocab_size", |m| m.model.vocab_size = u64::MAX),
        ("model.eos_ids", |m| m.model.eos_ids = vec![40]),
        ("output", |m| m.model.vocab_size = 39),
        ("model.max_context", |m| m.model.max_context = 0),
        ("sym P", |m| m.model.max_context = 1000),
        ("sym S", |m| m.max_sequences = 5),
        ("activations", |m| m.activations = "bf16".into()),
        ("target", |m| m.target.clear()),
        ("kv.dtype", |m| m.kv.dtype = "q8_0".into()),
        ("kv.page_tokens", |m| m.kv.page_tokens = 32),
        ("kv.page_bytes_per_layer", |m| m.kv.page_bytes_per_layer = 1),
        ("kv.page_bytes_per_layer", |m| m.kv.head_dim = 8),
        ("kv.planes", |m| m.kv.planes = 3),
        ("kv.page_bytes_per_layer", |m| m.kv.planes = 1),
        ("kv.page_bytes_per_layer", |m| (m.kv.head_dim, m.kv.heads) = (i32::MAX as u64, i32::MAX as u64)),
        ("kv.bytes_per_token", |m| m.kv.bytes_per_token += 1),
        ("kv.states", |m| m.kv.states.push("kv.0".into())),
        ("state \"kv.0\"", |m| m.kv.states[0] = "kv.1".into()),
        ("buckets", |m| m.buckets.clear()),
        ("buckets \"tokens-1\" max_tokens", |m| m.buckets.swap(0, 1)),
        ("max_logit_rows", |m| m.buckets[0].max_logit_rows = 2),
        ("sym T", |m| m.buckets[2].max_tokens = 17),
        ("program name", |m| m.buckets[0].name = "x".into()),
        ("arena", |m| m.buckets[0].arena_bytes += 256),
        ("launches", |m| m.buckets[0].launches += 1),
        ("program", |m| m.buckets[0].program = "programs/../manifest.json".into()),
        ("not listed", |m| m.buckets[0].program = "programs/none.ir".into()),
        ("relative path", |m| drop(m.files.insert("../x".into(), FileInfo { bytes: 0, blake3: String::new() }))),
        ("relative path", |m| drop(m.files.insert("/etc/passwd".into(), FileInfo { bytes: 0, blake3: String::new() }))),
        ("not listed", |m| m.weights[0].file = "../weights".into()),
        ("weights[0]", |m| m.weights[0].dtype = "q9".into()),
        ("weights[0]", |m| m.weights[0].dtype = "q8_0".into()),
        ("weights[0]", |m| m.weights[0].bytes -= 1),
        ("weights[0]", |m| m.weights[0].shape = vec![u64::MAX, u64::MAX]),
        ("weights[0]", |m| m.weights[0].layout = Layout::Plain),
        ("no such tensor", |m| m.weights[0].name = "other".into()),
        ("the name is taken", |m| m.weights.push(m.weights[0].clone())),
        ("weight \"embed\"", |m| m.weights.retain(|w| w.name != "embed")),
    ];
    for (field, change) in changes {
        let (folder, mut manifest) = tiny();
        change(&mut manifest);
        write_manifest(folder.path(), &manifest);
        let text = refused(folder.path());
        assert!(text.contains(field), "{field}: {text}");
    }
}

#[test]
fn programs_that_leave_their_memory_are_refused() {
    for (from, to, expected) in [
        ("arena ", "arena 1", "arena"),
        ("launch embedding", "launch embeding", "no such kernel"),
        ("launch embedding", "launch sample", "sample is launched by engines"),
        ("\"f32.f32\"", "\"q8_0.f32\"", "a variant for f32"),
        ("attention \"f32\"", "attention \"f16\"", "a variant for f32"),
        ("kv_append \"f32\"", "kv_append \"f16\"", "a variant for f32"),
        ("embedding \"f32\"", "embedding \"f16\"", "a variant for f32"),
        ("\"f32.f32\"", "\"f32\"", "no variant"),
        ("read %1, w = weight \"q\"", "read %8, w = weight \"q\"", "read before it is written"),
        ("buffer %2 : f32[T, 32]", "buffer %2 : f32[T, 31]", "out: 496"),
        ("tokens = T, rows = 40, cols = 32", "tokens = T, rows = 39, cols = 32", "vocabulary"),
        ("rows = 40, cols = 32, reserved = 0} \"embed\"", "rows = 49, cols = 32, reserved = 0} \"embed\"", "table"),
        ("tokens = R, rows = 40", "tokens = R, rows = 56", "w:"),
        ("tokens = T, heads = 2, head_dim = 16, pairs = 8", "tokens = T, heads = 3, head_dim = 16, pairs = 8", "x:"),
        ("pairs = 8", "pairs = 9", "head_dim must hold"),
        ("heads = 2, kv_heads = 1", "heads = 2, kv_heads = 0", "multiple of kv_heads"),
        (
            "kv_heads = 1, head_dim = 16, page_table_stride = P} \"append\"",
            "kv_heads = 2, head_dim = 16, page_table_stride = P} \"append\"",
            "k:",
        ),
        ("page_table_stride = P} \"append\"", "page_table_stride = 9} \"append\"", "page_table_stride"),
        ("rows = input \"logit_rows\"", "rows = input \"ids\"", "logit_rows"),
        ("positions = input \"positions\", inv", "positions = input \"ids\", inv", "positions"),
        ("cols = 32} \"rows\"", "cols = 64} \"rows\"", "x:"),
        ("count = T * 32", "count = T * 33", "a:"),
        ("count = T * 32", "count = T * 1000000000", "a:"),
        ("a = read %0", "a = weight \"embed\"", "layout"),
        ("w = weight \"q\"", "w = weight \"norm\"", "layout"),
        ("w = weight \"q\"", "w = read %0", "packed weight"),
        ("bias = null", "bias = weight \"rope.inv_freq\"", "bias"),
        ("x = read %0, weight", "x = null, weight", "x:"),
        ("%9,", "%8,", "write over its operand x"),
        ("kv = update state \"kv.0\"", "kv = read state \"kv.0\"", "kv"),
        ("cols = 32, eps = float 1e-5", "cols = float 1.0, eps = float 1e-5", "cols"),
        ("eps = float 1e-5, reserved", "epsilon = float 1e-5, reserved", "fields"),
        ("sym N in", "sym M in", "not declared"),
        ("input \"ids\" : i32[T]", "input \"ids\" : f32[T]", "input"),
        ("input \"ids\" : i32[T]", "input \"ids\" : i32[R]", "input"),
        ("output \"logits\" %10", "output \"logits\" %9", "output"),
        ("f32[N, 2, 1, 16, 16]", "f32[N, 2, 1, 16, 8]", "state"),
        ("sym T in 1", "sym T in 2", "sym T"),
    ] {
        let (folder, mut manifest) = tiny();
        let text = fs::read_to_string(folder.path().join(PROGRAM)).unwrap();
        assert!(text.contains(from), "{from}");
        replace(folder.path(), &mut manifest, PROGRAM, text.replace(from, to).as_bytes());
        assert!(open(folder.path()).is_err(), "{from} -> {to} is accepted");
        let error = refused(folder.path());
        assert!(error.contains(expected) && error.contains(PROGRAM), "{from} -> {to}: {error}");
    }
}

/// A device may convert matrices to the other layout, in which rows are not rounded up to as many columns.
#[test]
fn extents_hold_in_both_packed_layouts() {
    let (folder, mut manifest) = tiny_in(Layout::Fragments);
    let text = fs::read_to_string(folder.path().join(PROGRAM)).unwrap();
    assert_eq!(Layout::Fragments.bytes(DType::F32, &[40, 64]), Layout::Fragments.bytes(DType::F32, &[40, 32]));
    let longer = text.replace("cols = 32, reserved = 0} \"embed\"", "cols = 64, reserved = 0} \"embed\"");
    replace(folder.path(), &mut manifest, PROGRAM, longer.as_bytes());
    let error = refused(folder.path());
    assert!(error.contains("table: 6144, expected at least 12288 bytes"), "{error}");
}

#[test]
fn a_weight_in_another_layout_than_stated_is_refused() {
    for (stored, stated) in [(Layout::Rows16, Layout::Fragments), (Layout::Fragments, Layout::Rows16)] {
        let (folder, mut manifest) = tiny_in(stored);
        open(folder.path()).unwrap();
        manifest.weights.iter_mut().filter(|w| w.layout == stored).for_each(|w| w.layout = stated);
        write_manifest(folder.path(), &manifest);
        let error = refused(folder.path());
        assert!(error.contains("bytes, as type and shape say"), "{error}");
    }
}

#[test]
fn weight_headers_that_lie_are_refused() {
    let (folder, mut manifest) = tiny();
    let good = fs::read(folder.path().join(WEIGHTS)).unwrap();
    let header = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let huge = u64::MAX - 20;
    for content in [
        vec![],
        vec![1; 7],
        u64::MAX.to_le_bytes().to_vec(),
        [&(good.len() as u64).to_le_bytes()[..], &good[8..]].concat(),
        header("{"),
        header("{}"),
        header(r#"{"embed": {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]}}"#),
        header(&format!(r#"{{"embed": {{"dtype": "U8", "shape": [{huge}], "data_offsets": [0, {huge}]}}}}"#)),
        header(r#"{"embed": {"dtype": "U8", "shape": [0], "data_offsets": [9, 2]}}"#),
        [&good[..], &[0; 64]].concat(),
        // Data that starts at an odd place.
        [&((u64::from_le_bytes(good[..8].try_into().unwrap()) + 1).to_le_bytes())[..], b" ", &good[8..]].concat(),
    ] {
        replace(folder.path(), &mut manifest, WEIGHTS, &content);
        assert!(refused(folder.path()).contains(WEIGHTS));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Any bytes changed, cut or inserted anywhere, with a manifest that agrees: an error or a good artifact, no panic.
    #[test]
    fn mutated_files_never_panic(
        which in 0usize..5, at in 0usize..20000, bytes in prop::collection::vec(any::<u8>(), 0..6), keep in any::<bool>(),
    ) {
        let (folder, mut manifest) = tiny();
        let name = [WEIGHTS, PROGRAM, "programs/tokens-1.ir", "generation.json", MANIFEST_FILE][which];
        let mut content = fs::read(folder.path().join(name)).unwrap();
        let at = at % (content.len() + 1);
        let end = if keep { at + bytes.len() } else { at };
        content.splice(at..end.min(content.len()), bytes);
        if name == MANIFEST_FILE {
            fs::write(folder.path().join(name), content).unwrap();
        } else {
            replace(folder.path(), &mut manifest, name, &content);
        }
        if let Ok(artifact) = open(folder.path()) {
            let _ = artifact.generation_defaults();
        }
    }

    /// A program with numbers, names and accesses swapped is refused, or runs without leaving its memory.
    #[test]
    fn mutated_programs_are_refused_or_run(
        edits in prop::collection::vec((any::<u16>(), any::<u16>()), 1..4), layout in prop::sample::select(&Layout::PACKED[..]),
    ) {
        let (folder, mut manifest) = tiny_in(layout);
        let text = fs::read_to_string(folder.path().join("programs/tokens-4.ir")).unwrap();
        let mut words: Vec<String> = text.split_inclusive([' ', ',', '}']).map(str::to_string).collect();
        for (to, from) in edits {
            let (to, from) = (usize::from(to) % words.len(), usize::from(from) % words.len());
            words[to] = words[from].clone();
        }
        replace(folder.path(), &mut manifest, "programs/tokens-4.ir", words.concat().as_bytes());
        let Ok(artifact) = open(folder.path()) else { return Ok(()) };
        let options = crate::device::LoadOptions { pages: 2, threads: Some(1), isa: None };
        let Ok(mut device) = crate::device::cpu::CpuDevice::load(std::sync::Arc::new(artifact), &options) else { return Ok(()) };
        let inputs = crate::device::StepInputs {
            ids: &[1, 2, 39], positions: &[0, 1, 31], sequences: &[0, 0, 1], page_table: &[0, 1, 1, 0], page_columns: 2,
            logit_rows: &[1, 2], rope_tables: &[0, 0, 0],
        };
        let _ = crate::device::Device::step(&mut device, 1, &inputs);
    }
}
