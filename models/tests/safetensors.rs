//! Hugging Face folders: the golden ones, sharded ones, and which faults are found.

mod support;

use ir::types::DType;
use models::chat_template::ChatTemplate;
use models::generation::GenerationConfig;
use models::{Checkpoint, Metadata, TensorDType};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use std::path::Path;
use support::{golden, sample_gguf};
use tempfile::TempDir;

const FIXTURES: &[&str] = &["llama31", "smollm2", "mistral", "qwen2", "qwen3", "qwen3_rope_parameters"];

#[test]
fn golden_checkpoints_read_as_the_library_reads_them() {
    for name in FIXTURES {
        let checkpoint = Checkpoint::open(golden(name)).unwrap();
        let file = std::fs::read(golden(name).join("model.safetensors")).unwrap();
        let reference = SafeTensors::deserialize(&file).unwrap();
        assert_eq!(checkpoint.tensors().len(), reference.len());
        let mut data = Vec::new();
        for (tensor, view) in reference.iter() {
            checkpoint.read(tensor, &mut data).unwrap();
            assert_eq!(data, view.data(), "{name} {tensor}");
            let shape: Vec<u64> = view.shape().iter().map(|&d| d as u64).collect();
            checkpoint.expect_shape(tensor, &shape).unwrap();
            assert_eq!(checkpoint.dtype(tensor).unwrap(), DType::F32);
        }
        assert_eq!(checkpoint.total_bytes(), file.len() as u64);
        let Metadata::HuggingFace(config) = checkpoint.metadata() else { panic!("no config") };
        assert_eq!(config.fields().size("num_attention_heads").unwrap() % 2, 0);
    }
}

#[test]
fn golden_chat_templates_and_end_tokens() {
    let checkpoint = Checkpoint::open(golden("llama31")).unwrap();
    let chat = ChatTemplate::read(&checkpoint).unwrap();
    assert!(chat.template.unwrap().starts_with("{%- if messages[0]['role'] == 'system' -%}"));
    assert_eq!((chat.bos_token, chat.eos_token.as_deref()), (None, Some("<|im_end|>")));
    assert_eq!(chat.pad_token.as_deref(), Some("<|endoftext|>"));
    let generation = GenerationConfig::read(&checkpoint).unwrap();
    assert_eq!(
        (generation.eos_token_ids, generation.bos_token_id, generation.pad_token_id),
        (vec![510], Some(508), Some(508))
    );

    let checkpoint = Checkpoint::open(golden("mistral")).unwrap();
    let chat = ChatTemplate::read(&checkpoint).unwrap();
    assert_eq!(chat.template.unwrap(), std::fs::read_to_string(golden("mistral").join("chat_template.jinja")).unwrap());
    assert_eq!((chat.bos_token.as_deref(), chat.unk_token.as_deref()), (Some("<s>"), Some("<unk>")));

    let chat = ChatTemplate::read(&Checkpoint::open(golden("smollm2")).unwrap()).unwrap();
    assert_eq!(chat, ChatTemplate::default());
}

#[test]
fn gguf_chat_template_and_end_tokens() {
    let folder = tempfile::tempdir().unwrap();
    sample_gguf().write(&folder.path().join("m.gguf"));
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let chat = ChatTemplate::read(&checkpoint).unwrap();
    assert_eq!(chat.template.as_deref(), Some("{{ messages }}"));
    assert_eq!(chat.eos_token.as_deref(), Some("<|end|>"));
    let generation = GenerationConfig::read(&checkpoint).unwrap();
    assert_eq!(generation.eos_token_ids, [0]);
    assert_eq!(generation.temperature, None);
}

/// A folder with a config and the given files.
fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), br#"{"eos_token_id": [3, 5, 3]}"#).unwrap();
    for (name, bytes) in files {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    folder
}

/// A safetensors file with the given tensors of four elements.
fn shard(tensors: &[(&str, Dtype)]) -> Vec<u8> {
    let data: Vec<u8> = (0..64).collect();
    let view = |dtype: Dtype| TensorView::new(dtype, vec![2, 2], &data[..4 * dtype.bitsize() / 8]).unwrap();
    safetensors::serialize(tensors.iter().map(|&(name, dtype)| (name, view(dtype))), None).unwrap()
}

fn message(folder: &TempDir) -> String {
    let text = Checkpoint::open(folder.path()).unwrap_err().to_string();
    assert!(!text.contains('\n'), "{text}");
    text
}

#[test]
fn shards_are_joined() {
    let index =
        br#"{"metadata":{"total_size":24},"weight_map":{"a":"x.safetensors","b":"y.safetensors","c":"y.safetensors"}}"#;
    let x = shard(&[("a", Dtype::F32)]);
    let y = shard(&[("b", Dtype::BF16), ("c", Dtype::F8_E4M3)]);
    let files: &[(&str, &[u8])] =
        &[("model.safetensors.index.json", index), ("x.safetensors", &x), ("y.safetensors", &y)];
    let checkpoint = Checkpoint::open(folder(files).path()).unwrap();
    let names: Vec<&str> = checkpoint.tensors().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["a", "b", "c"]);
    assert_eq!(checkpoint.total_bytes(), (x.len() + y.len()) as u64);
    let mut data = Vec::new();
    checkpoint.read("b", &mut data).unwrap();
    assert_eq!(data, (0..8).collect::<Vec<u8>>());
    assert_eq!(checkpoint.tensor("c").unwrap().dtype, TensorDType::Other("F8_E4M3".to_owned()));
    let text = checkpoint.read("c", &mut data).unwrap_err().to_string();
    assert!(text.contains("y.safetensors: tensor c has type F8_E4M3") && text.contains("F32, F16, BF16"), "{text}");

    let without_y = folder(&files[..2]);
    assert!(message(&without_y).contains("index.json: names the shard y.safetensors, which is not in the folder"));
    let doubled = folder(&[files[0], files[1], ("y.safetensors", &shard(&[("a", Dtype::F32), ("b", Dtype::F32)]))]);
    assert!(message(&doubled).contains("y.safetensors: tensor a: stands in two shards"));
    let incomplete = folder(&[files[0], files[1], ("y.safetensors", &shard(&[("b", Dtype::F32)]))]);
    assert!(message(&incomplete).contains("tensor c: is not in y.safetensors"));
    let short = folder(&[files[0], files[1], ("y.safetensors", &y[..y.len() - 1])]);
    assert!(message(&short).contains("y.safetensors: header: describes a file of"));
}

#[test]
fn index_names_are_never_paths() {
    for bad in ["../model.safetensors", "/etc/passwd", "a/b.safetensors", ".."] {
        let index = format!(r#"{{"weight_map":{{"a":"{bad}"}}}}"#);
        let text = message(&folder(&[("model.safetensors.index.json", index.as_bytes())]));
        assert!(text.contains("a shard must be a plain file name, not a path"), "{text}");
    }
    assert!(message(&folder(&[("model.safetensors.index.json", b"{}")])).contains("missing field `weight_map`"));
}

#[test]
fn headers_are_checked() {
    let with_header = |len: u64, header: &str| {
        let bytes = [&len.to_le_bytes(), header.as_bytes()].concat();
        message(&folder(&[("model.safetensors", &bytes)]))
    };
    let sized = |header: &str| with_header(header.len() as u64, header);
    assert!(message(&folder(&[("model.safetensors", b"abc")])).contains("the file has 3 bytes, too few"));
    assert!(with_header(u64::MAX, "{}").contains("header: claims a length of 18446744073709551615 bytes"));
    assert!(with_header(3, "{}").contains("header: claims a length of 3 bytes, but the file has 10"));
    assert!(sized("[]").contains("model.safetensors: header: "));
    let huge = r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]}}"#;
    assert!(sized(huge).contains("model.safetensors: header: "));
    let end = 1u64 << 60;
    let past = format!(r#"{{"a":{{"dtype":"U8","shape":[{end}],"data_offsets":[0,{end}]}}}}"#);
    assert!(sized(&past).contains("describes a file of 11529215046068"));
    let gap = r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}"#;
    assert!(sized(gap).contains("model.safetensors: header: "));
}

#[test]
fn incomplete_folders_say_what_is_missing() {
    assert!(message(&folder(&[])).contains("holds config.json but neither model.safetensors nor"));
    assert!(message(&folder(&[("pytorch_model.bin", b"x")])).contains("convert them to safetensors first"));
    let without_config = tempfile::tempdir().unwrap();
    std::fs::write(without_config.path().join("model.safetensors"), b"x").unwrap();
    assert!(message(&without_config).contains("holds safetensors but no config.json"));
    let text = Checkpoint::open(Path::new("no/such/model")).unwrap_err().to_string();
    assert!(text.starts_with("no/such/model: cannot open: "), "{text}");
}

/// A valid folder with further files, opened.
fn checkpoint_with(files: &[(&str, &str)]) -> (TempDir, Checkpoint) {
    let weights = shard(&[("a", Dtype::F32)]);
    let mut all: Vec<(&str, &[u8])> = vec![("model.safetensors", &weights)];
    all.extend(files.iter().map(|&(name, text)| (name, text.as_bytes())));
    let folder = folder(&all);
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    (folder, checkpoint)
}

#[test]
fn generation_settings_come_from_their_own_file_first() {
    let read = |files: &[(&str, &str)]| {
        let (_folder, checkpoint) = checkpoint_with(files);
        GenerationConfig::read(&checkpoint)
    };
    assert_eq!(read(&[]).unwrap().eos_token_ids, [3, 5]);
    let own =
        r#"{"eos_token_id":7,"temperature":0.6,"top_k":20,"top_p":0.9,"do_sample":true,"repetition_penalty":1.05}"#;
    let generation = read(&[("generation_config.json", own)]).unwrap();
    assert_eq!(generation.eos_token_ids, [7]);
    assert_eq!((generation.temperature, generation.top_k, generation.top_p), (Some(0.6), Some(20), Some(0.9)));
    assert_eq!((generation.do_sample, generation.repetition_penalty), (Some(true), Some(1.05)));
    for (bad, field) in [
        (r#"{"top_p":1.5}"#, "top_p"),
        (r#"{"eos_token_id":-1}"#, "eos_token_id"),
        (r#"{"temperature":"x"}"#, "temperature"),
    ] {
        let text = read(&[("generation_config.json", bad)]).unwrap_err().to_string();
        assert!(text.contains(&format!("generation_config.json: field {field}: expected")), "{text}");
    }
}

#[test]
fn chat_templates_come_in_several_forms() {
    let read = |files: &[(&str, &str)]| {
        let (_folder, checkpoint) = checkpoint_with(files);
        ChatTemplate::read(&checkpoint)
    };
    let template = |config: &str| read(&[("tokenizer_config.json", config)]).map(|c| c.template);
    assert_eq!(template(r#"{"chat_template":"T"}"#).unwrap().as_deref(), Some("T"));
    let named = r#"{"chat_template":[{"name":"tool_use","template":"U"},{"name":"default","template":"D"}]}"#;
    assert_eq!(template(named).unwrap().as_deref(), Some("D"));
    assert_eq!(template(r#"{"chat_template":[{"name":"rag","template":"R"}]}"#).unwrap().as_deref(), Some("R"));
    assert_eq!(template(r#"{"chat_template":null}"#).unwrap(), None);
    let two = r#"{"chat_template":[{"name":"x","template":"U"},{"name":"y","template":"D"}]}"#;
    assert!(template(two).unwrap_err().to_string().contains("field chat_template: expected one of the templates"));
    assert!(template(r#"{"chat_template":5}"#).unwrap_err().to_string().contains("expected a string, found 5"));
    assert!(template(r#"{"chat_template":[1]}"#).unwrap_err().to_string().contains("a list of objects"));

    let files = [
        ("chat_template.jinja", "J"),
        ("tokenizer_config.json", r#"{"chat_template":"T","bos_token":{"content":"<s>","lstrip":false}}"#),
        ("special_tokens_map.json", r#"{"bos_token":"no","eos_token":{"content":"</s>"}}"#),
    ];
    let chat = read(&files).unwrap();
    assert_eq!(chat.template.as_deref(), Some("J"));
    assert_eq!((chat.bos_token.as_deref(), chat.eos_token.as_deref()), (Some("<s>"), Some("</s>")));
    let text = read(&[("tokenizer_config.json", r#"{"bos_token":7}"#)]).unwrap_err().to_string();
    assert!(text.contains("tokenizer_config.json: field bos_token"), "{text}");
}
