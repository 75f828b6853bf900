//! Tokenizers: the golden ones as they are, and after a journey through GGUF metadata, must encode and decode every
//! recorded case exactly.

mod support;

use models::{Checkpoint, ModelError, tokenizer};
use serde_json::Value;
use std::collections::HashMap;
use std::path::Path;
use support::{GgufWriter, Meta, golden};
use tokenizers::Tokenizer;

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Checks all cases; with `added` false only those that do not depend on which tokens are added around a text.
fn check_cases(tokenizer: &Tokenizer, name: &str) {
    let cases = read_json(&golden("tokenizers").join(name).join("tokenizer_golden.json"));
    let ids = |v: &Value| -> Vec<u32> { v.as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as u32).collect() };
    let encode = cases["encode"].as_array().unwrap();
    for case in encode {
        let (text, special) = (case["text"].as_str().unwrap(), case["add_special_tokens"].as_bool().unwrap());
        let encoding = tokenizer.encode(text, special).unwrap();
        assert_eq!(encoding.get_ids(), ids(&case["ids"]), "{name}: encoding {text:?}");
    }
    let decode = cases["decode"].as_array().unwrap();
    for case in decode {
        let text = tokenizer.decode(&ids(&case["ids"]), case["skip_special_tokens"].as_bool().unwrap()).unwrap();
        assert_eq!(text, case["text"].as_str().unwrap(), "{name}: decoding {}", case["ids"]);
    }
    assert!(encode.len() > 50 && decode.len() > 20);
    assert_eq!(tokenizer.get_vocab_size(true) as u64, cases["vocab_size"].as_u64().unwrap());
}

/// Texts of all tokens by id, with GGUF token types.
fn vocabulary(json: &Value) -> (Vec<String>, Vec<i32>) {
    let mut by_id: HashMap<u64, (String, i32)> = HashMap::new();
    for (text, id) in json["model"]["vocab"].as_object().unwrap() {
        let byte = text.len() == 6 && text.starts_with("<0x") && text.ends_with('>');
        by_id.insert(id.as_u64().unwrap(), (text.clone(), if byte { 6 } else { 1 }));
    }
    for token in json["added_tokens"].as_array().unwrap() {
        let text = token["content"].as_str().unwrap().to_owned();
        let kind = match (token["special"].as_bool().unwrap(), text == "<unk>") {
            (_, true) => 2,
            (true, _) => 3,
            (false, _) => 4,
        };
        by_id.insert(token["id"].as_u64().unwrap(), (text, kind));
    }
    (0..by_id.len() as u64).map(|id| by_id.remove(&id).unwrap()).unzip()
}

fn merges(json: &Value) -> Vec<(String, String)> {
    let text = |v: &Value| v.as_str().unwrap().to_owned();
    json["model"]["merges"].as_array().unwrap().iter().map(|m| (text(&m[0]), text(&m[1]))).collect()
}

/// What llama.cpp's converter writes for a byte-level BPE tokenizer.
fn byte_level_gguf(json: &Value, pre: &str) -> GgufWriter {
    let (tokens, types) = vocabulary(json);
    let merges = merges(json).into_iter().map(|(l, r)| format!("{l} {r}")).collect();
    GgufWriter::new()
        .str("general.architecture", "llama")
        .str("tokenizer.ggml.model", "gpt2")
        .str("tokenizer.ggml.pre", pre)
        .meta("tokenizer.ggml.tokens", Meta::Strs(tokens))
        .meta("tokenizer.ggml.token_type", Meta::I32s(types))
        .meta("tokenizer.ggml.merges", Meta::Strs(merges))
}

/// What it writes for a SentencePiece one: the score of a piece is minus the rank of the merge that makes it.
fn sentencepiece_gguf(json: &Value) -> GgufWriter {
    let (tokens, types) = vocabulary(json);
    let ranks: HashMap<String, usize> =
        merges(json).into_iter().enumerate().map(|(rank, (l, r))| (l + &r, rank)).collect();
    let score = |t: &String| ranks.get(t).map_or(-1e6, |&rank| -(rank as f32));
    let scores = tokens.iter().map(score).collect();
    GgufWriter::new()
        .str("general.architecture", "llama")
        .str("tokenizer.ggml.model", "llama")
        .meta("tokenizer.ggml.tokens", Meta::Strs(tokens))
        .meta("tokenizer.ggml.scores", Meta::F32s(scores))
        .meta("tokenizer.ggml.token_type", Meta::I32s(types))
        .meta("tokenizer.ggml.bos_token_id", Meta::U32(1))
        .meta("tokenizer.ggml.eos_token_id", Meta::U32(2))
        .meta("tokenizer.ggml.unknown_token_id", Meta::U32(0))
}

fn build(writer: &GgufWriter) -> Result<Tokenizer, ModelError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    writer.write(&path);
    let json = tokenizer::tokenizer_json(&Checkpoint::open(&path)?)?.expect("the file has a vocabulary");
    tokenizer::load(&json, &path)
}

#[test]
fn folders_hand_out_their_own_file() {
    for (fixture, name) in [("llama31", "chatml_bpe"), ("qwen3", "chatml_bpe"), ("mistral", "inst_spm")] {
        let json = tokenizer::tokenizer_json(&Checkpoint::open(golden(fixture)).unwrap()).unwrap().unwrap();
        assert_eq!(json, std::fs::read(golden(fixture).join("tokenizer.json")).unwrap());
        check_cases(&tokenizer::load(&json, Path::new("tokenizer.json")).unwrap(), name);
    }
    assert_eq!(tokenizer::tokenizer_json(&Checkpoint::open(golden("smollm2")).unwrap()).unwrap(), None);
}

#[test]
fn byte_level_bpe_survives_gguf() {
    let json = read_json(&golden("tokenizers/chatml_bpe/tokenizer.json"));
    check_cases(&build(&byte_level_gguf(&json, "qwen2")).unwrap(), "chatml_bpe");
}

#[test]
fn sentencepiece_survives_gguf() {
    let json = read_json(&golden("tokenizers/inst_spm/tokenizer.json"));
    check_cases(&build(&sentencepiece_gguf(&json)).unwrap(), "inst_spm");
}

#[test]
fn space_prefix_and_added_tokens_follow_the_file() {
    let json = read_json(&golden("tokenizers/inst_spm/tokenizer.json"));
    let writer = sentencepiece_gguf(&json)
        .meta("tokenizer.ggml.add_space_prefix", Meta::Bool(false))
        .meta("tokenizer.ggml.add_bos_token", Meta::Bool(false))
        .meta("tokenizer.ggml.add_eos_token", Meta::Bool(true));
    let tokenizer = build(&writer).unwrap();
    let encoding = tokenizer.encode("the </s>", true).unwrap();
    assert_eq!(encoding.get_tokens().last().unwrap(), "</s>");
    assert_eq!(encoding.get_ids()[encoding.len() - 2..], [2, 2]);
    assert!(!encoding.get_tokens()[0].starts_with('▁'), "{:?}", encoding.get_tokens());
    assert_eq!(tokenizer.decode(encoding.get_ids(), true).unwrap(), "the ");

    let json = read_json(&golden("tokenizers/chatml_bpe/tokenizer.json"));
    let writer = byte_level_gguf(&json, "llama-bpe").meta("tokenizer.ggml.bos_token_id", Meta::U32(508));
    assert_eq!(build(&writer).unwrap().encode("!", true).unwrap().get_ids(), [508, 0]);
    let writer = writer.meta("tokenizer.ggml.add_bos_token", Meta::Bool(false));
    assert_eq!(build(&writer).unwrap().encode("!", true).unwrap().get_ids(), [0]);
}

#[test]
fn faults_name_the_key() {
    let json = read_json(&golden("tokenizers/chatml_bpe/tokenizer.json"));
    let spm = read_json(&golden("tokenizers/inst_spm/tokenizer.json"));
    let message = |writer: GgufWriter| build(&writer).unwrap_err().to_string();

    let text = message(byte_level_gguf(&json, "klingon"));
    assert!(text.contains("tokenizer.ggml.pre") && text.contains("\"klingon\"") && text.contains("smollm"), "{text}");
    let text = message(byte_level_gguf(&json, "qwen2").meta("tokenizer.ggml.add_bos_token", Meta::Bool(true)));
    assert!(text.contains("tokenizer.ggml.bos_token_id: expected a token id"), "{text}");
    let text = message(sentencepiece_gguf(&spm).meta("tokenizer.ggml.add_eos_token", Meta::U32(1)));
    assert!(text.contains("tokenizer.ggml.add_eos_token: expected true or false, found 1"), "{text}");

    let base = |model: &str, tokens: &[&str]| {
        let tokens = tokens.iter().map(|&t| t.to_owned()).collect();
        GgufWriter::new().str("tokenizer.ggml.model", model).meta("tokenizer.ggml.tokens", Meta::Strs(tokens))
    };
    let text = message(base("bert", &["a"]));
    assert!(text.contains("\"bert\"") && text.contains("gpt2, llama"), "{text}");
    let text = message(base("gpt2", &["a", "b", "a"]));
    assert!(text.contains("\"a\" stands there twice, as 0 and 2"), "{text}");
    let text = message(base("gpt2", &["a"]));
    assert!(text.contains("tokenizer.ggml.merges: expected an array of strings, found nothing"), "{text}");
    let text = message(base("gpt2", &["a"]).meta("tokenizer.ggml.merges", Meta::Strs(vec!["ab".into()])));
    assert!(text.contains("merge \"ab\""), "{text}");
    let text = message(base("gpt2", &["a"]).meta("tokenizer.ggml.merges", Meta::Strs(vec!["a z".into()])));
    assert!(text.contains("tokenizer: ") && text.contains('z'), "{text}");
    let text = message(base("llama", &["a", "b"]).meta("tokenizer.ggml.scores", Meta::F32s(vec![1.0])));
    assert!(text.contains("tokenizer.ggml.scores: expected as many numbers as"), "{text}");
    let text = message(base("gpt2", &["a"]).meta("tokenizer.ggml.token_type", Meta::I32s(vec![1, 1])));
    assert!(text.contains("tokenizer.ggml.token_type"), "{text}");
}

#[test]
fn a_broken_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(golden("smollm2").join(file), folder.path().join(file)).unwrap();
    }
    let read = || tokenizer::tokenizer_json(&Checkpoint::open(folder.path()).unwrap()).unwrap_err().to_string();
    std::fs::write(folder.path().join("tokenizer.model"), b"x").unwrap();
    assert!(read().contains("tokenizer.model: a tokenizer without tokenizer.json is not supported"));
    std::fs::write(folder.path().join("tokenizer.json"), b"{\"model\":").unwrap();
    assert!(read().contains("tokenizer.json: tokenizer: "));
}
