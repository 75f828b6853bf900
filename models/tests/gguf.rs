//! GGUF files: what a valid one gives, and which faults are found before anything is allocated.

mod support;

use models::source::gguf::Value;
use models::{Checkpoint, Metadata, ModelError, TensorDType};
use support::{GgufWriter, Meta, sample_gguf};

fn open_bytes(bytes: &[u8]) -> Result<Checkpoint, ModelError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    std::fs::write(&path, bytes).unwrap();
    Checkpoint::open(&path)
}

fn open(writer: GgufWriter) -> Result<Checkpoint, ModelError> {
    open_bytes(&writer.bytes())
}

fn message(writer: GgufWriter) -> String {
    let text = open(writer).unwrap_err().to_string();
    assert!(text.contains("model.gguf: ") && !text.contains('\n'), "{text}");
    text
}

#[test]
fn tensors_are_listed_row_major_and_read() {
    let checkpoint = open(sample_gguf()).unwrap();
    let embedding = checkpoint.expect_shape("token_embd.weight", &[5, 32]).unwrap();
    assert_eq!((&embedding.dtype, embedding.bytes), (&TensorDType::Known(ir::types::DType::Q8_0), 170));
    let mut data = Vec::new();
    checkpoint.read("token_embd.weight", &mut data).unwrap();
    assert_eq!(data, (0..170).map(|i| i as u8).collect::<Vec<u8>>());
    let mut part = [0; 4];
    checkpoint.read_range("output_norm.weight", 4 * 31, &mut part).unwrap();
    assert_eq!(f32::from_le_bytes(part), 31.0);
    assert_eq!(checkpoint.tensors().len(), 3);
    assert_eq!(checkpoint.total_bytes(), sample_gguf().bytes().len() as u64);

    let range = checkpoint.read_range("output_norm.weight", 4 * 31 + 1, &mut part).unwrap_err().to_string();
    assert!(
        range.contains("tensor output_norm.weight: the range of 4 bytes at 125 is not inside the tensor"),
        "{range}"
    );
    let range = checkpoint.read_range("output_norm.weight", u64::MAX, &mut part).unwrap_err().to_string();
    assert!(range.contains("is not inside"), "{range}");
    let missing = checkpoint.tensor("output.weight").unwrap_err().to_string();
    assert!(missing.contains("tensor output.weight is missing; the nearest name is output_norm.weight"), "{missing}");
    let shape = checkpoint.expect_shape("token_embd.weight", &[32, 5]).unwrap_err().to_string();
    assert!(shape.contains("expected shape [32, 5], found [5, 32]"), "{shape}");
}

#[test]
fn unsupported_types_matter_only_when_read() {
    let checkpoint = open(sample_gguf()).unwrap();
    assert_eq!(checkpoint.tensor("blk.0.odd").unwrap().dtype, TensorDType::Other("Q2_K".to_owned()));
    let text = checkpoint.read("blk.0.odd", &mut Vec::new()).unwrap_err().to_string();
    assert!(text.contains("tensor blk.0.odd has type Q2_K") && text.contains("Q4_K"), "{text}");
    let checkpoint = open(GgufWriter::new().tensor("new", &[7], 99, vec![])).unwrap();
    assert!(checkpoint.dtype("new").unwrap_err().to_string().contains("has type number 99"));
}

#[test]
fn metadata_is_typed() {
    let mut checkpoint = open(sample_gguf()).unwrap();
    let Metadata::Gguf(metadata) = checkpoint.metadata() else { panic!("not GGUF") };
    assert_eq!(metadata.size("llama.block_count").unwrap(), 2);
    assert_eq!(metadata.f64("llama.rope.freq_base", 1.0..=1e9).unwrap(), 10_000.0);
    assert_eq!(metadata.u64("a.u64", 0..=u64::MAX).unwrap(), 1 << 40);
    assert_eq!(metadata.get("a.i32"), Some(&Value::Signed(-5)));
    assert_eq!(metadata.opt_bool("a.bool").unwrap(), Some(true));
    let tokens: Vec<&str> = metadata.strings("tokenizer.ggml.tokens").unwrap().iter().collect();
    assert_eq!(tokens, ["<|end|>", "a", "b", "ab", "Ġ"]);
    assert_eq!(metadata.opt_integers("tokenizer.ggml.token_type").unwrap().unwrap(), [3, 1, 1, 1, 1]);

    let text = |e: ModelError| e.to_string();
    assert!(text(metadata.size("a.u64").unwrap_err()).contains("field a.u64: expected a positive integer"));
    assert!(text(metadata.size("a.i32").unwrap_err()).ends_with("found -5"));
    assert!(text(metadata.size("llama.heads").unwrap_err()).ends_with("found nothing"));
    assert!(text(metadata.f64("a.f64", f64::MIN..=f64::MAX).unwrap_err()).ends_with("found NaN"));
    assert!(text(metadata.str("a.bool").unwrap_err()).contains("expected a string, found true"));
    assert!(text(metadata.strings("a.nested").unwrap_err()).contains("found an array of 1 arrays"));

    checkpoint.release_vocabulary();
    let Metadata::Gguf(metadata) = checkpoint.metadata() else { panic!("not GGUF") };
    assert_eq!(metadata.opt_strings("tokenizer.ggml.tokens").unwrap(), None);
    assert_eq!(metadata.str("tokenizer.ggml.model").unwrap(), "gpt2");
}

#[test]
fn version_2_is_read_and_others_are_not() {
    let versioned = |version| GgufWriter { version, ..sample_gguf() };
    assert_eq!(open(versioned(2)).unwrap().tensors().len(), 3);
    assert!(message(versioned(1)).contains("GGUF version 1 (2 and 3 are) is not supported"));
    assert!(message(versioned(4)).contains("GGUF version 4"));
    assert!(message(versioned(3u32.swap_bytes())).contains("big-endian"));
    let text = open_bytes(b"GGML followed by something").unwrap_err().to_string();
    assert!(text.contains("does not begin with the magic"), "{text}");
    let text = open_bytes(b"").unwrap_err().to_string();
    assert!(text.contains("magic: claims 1 items of at least 4 bytes, but 0 bytes are left"), "{text}");
}

#[test]
fn alignment_is_honoured_and_checked() {
    let aligned = |n: u32| {
        GgufWriter { alignment: n.clamp(1, 128) as usize, ..sample_gguf() }.meta("general.alignment", Meta::U32(n))
    };
    let checkpoint = open(aligned(128)).unwrap();
    let mut data = Vec::new();
    checkpoint.read("output_norm.weight", &mut data).unwrap();
    assert_eq!(data[4..8], 1f32.to_le_bytes());
    for bad in [0, 24, u32::MAX] {
        let text = message(aligned(bad));
        assert!(
            text.contains(&format!("general.alignment: expected a power of two, at most 2^30, found {bad}")),
            "{text}"
        );
    }
    let text = message(GgufWriter { alignment: 8, ..sample_gguf() });
    assert!(text.contains("is no multiple of the alignment 32"), "{text}");
}

#[test]
fn tensor_table_is_checked() {
    let one = |dims: &[u64], type_id, len| GgufWriter::new().tensor("w", dims, type_id, vec![0; len]);
    assert!(open(one(&[], 0, 4)).is_ok());
    assert!(message(one(&[1; 5], 0, 4)).contains("tensor w: has 5 dimensions, at most 4"));
    assert!(message(one(&[0, 4], 0, 4)).contains("tensor w: has a dimension of 0"));
    assert!(message(one(&[1 << 40, 1 << 40], 0, 4)).contains("tensor w: has more than 2^64 elements"));
    assert!(message(one(&[1 << 63], 0, 4)).contains("tensor w: has more than 2^64 bytes"));
    assert!(
        message(one(&[33], 8, 34)).contains("tensor w: has rows of 33 elements, no multiple of q8_0's block of 32")
    );
    assert!(message(one(&[64], 8, 34)).contains("tensor w: its 68 bytes"));
    let twice = one(&[4], 0, 16).tensor("w", &[4], 0, vec![0; 16]);
    assert!(message(twice).contains("tensor w: stands in the tensor table twice"));
    let overlapping = one(&[16], 0, 32).tensor("v", &[8], 0, vec![0; 32]);
    assert!(message(overlapping).contains("tensor v: its data at 32 overlaps another tensor's, which ends at 64"));
    let text = message(GgufWriter::new().tensor("", &[4], 0, vec![0; 16]));
    assert!(text.contains("name of tensor 0: must have 1 to 65535 bytes"), "{text}");
}

#[test]
fn metadata_is_checked() {
    let twice = sample_gguf().meta("a.bool", Meta::Bool(false));
    assert!(message(twice).contains("key a.bool: stands in the file twice"));
    assert!(open(GgufWriter::new().meta("deep", Meta::Nested(4))).is_ok());
    assert!(
        message(GgufWriter::new().meta("deep", Meta::Nested(5))).contains("key deep: nests arrays more than 4 deep")
    );
    let split = GgufWriter::new().meta("split.count", Meta::U32(3));
    assert!(message(split).contains("split.count) is not supported; merge them"));
}

/// Overwrites the eight bytes after `marker`'s first occurrence.
fn with_length(mut bytes: Vec<u8>, marker: &[u8], skip: usize, length: u64) -> Vec<u8> {
    let at = bytes.windows(marker.len()).position(|w| w == marker).unwrap() + marker.len() + skip;
    bytes[at..at + 8].copy_from_slice(&length.to_le_bytes());
    bytes
}

#[test]
fn lengths_are_checked_against_the_file() {
    let text = |bytes: Vec<u8>| open_bytes(&bytes).unwrap_err().to_string();
    for huge in [u64::MAX, u64::MAX / 4 + 1, 1 << 40, 100_000] {
        let string = with_length(sample_gguf().bytes(), b"general.architecture", 4, huge);
        assert!(text(string).contains("key general.architecture: claims"));
        let array = with_length(sample_gguf().bytes(), b"tokenizer.ggml.tokens", 8, huge);
        assert!(text(array).contains("key tokenizer.ggml.tokens: claims"));
        let tensors = with_length(sample_gguf().bytes(), b"GGUF", 4, huge);
        assert!(text(tensors).contains("number of tensors: claims"));
        let pairs = with_length(sample_gguf().bytes(), b"GGUF", 12, huge);
        assert!(text(pairs).contains("number of metadata pairs: claims"));
        let offset = with_length(sample_gguf().bytes(), b"output_norm.weight", 16, huge & !31);
        assert!(text(offset).contains("tensor output_norm.weight: its"));
    }
}

#[test]
fn a_folder_may_hold_one_gguf_file() {
    let folder = tempfile::tempdir().unwrap();
    let text = || Checkpoint::open(folder.path()).unwrap_err().to_string();
    assert!(text().contains("holds no model; give a Hugging Face folder"));
    sample_gguf().write(&folder.path().join("a.gguf"));
    std::fs::write(folder.path().join("config.json"), b"{}").unwrap();
    assert_eq!(Checkpoint::open(folder.path()).unwrap().tensors().len(), 3);
    sample_gguf().write(&folder.path().join("b.GGUF"));
    assert!(text().contains("holds several .gguf files; name one of them"));
}

#[test]
fn a_file_cut_while_open_gives_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    sample_gguf().write(&path);
    let checkpoint = Checkpoint::open(&path).unwrap();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(900).unwrap();
    let text = checkpoint.read("output_norm.weight", &mut Vec::new()).unwrap_err().to_string();
    assert!(text.contains("model.gguf: cannot read 128 bytes at"), "{text}");
}
