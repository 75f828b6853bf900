//! Whole folders: what is written opens again, equal seeds give equal bytes, a failed write leaves nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use half::bf16;
use ir::graph::{Node, NodeKind};
use proptest::prelude::*;
use safetensors::SafeTensors;

use super::*;
use crate::source::Checkpoint;

const INT4: WeightFormat = WeightFormat::Int4 { group_size: 32 };

fn options(name: &str, format: WeightFormat, seed: u64) -> SynthOptions {
    SynthOptions { preset: find_preset(name).unwrap(), format, seed, layers: None }
}

fn model(format: WeightFormat, seed: u64) -> SynthModel {
    SynthModel::new(&options("aix-tiny", format, seed)).unwrap()
}

fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    entries.map(|p| (p.file_name().unwrap().to_string_lossy().into_owned(), fs::read(p).unwrap())).collect()
}

/// The files of a model written by so many threads in shards of so many bytes.
fn written(model: SynthModel, shard_bytes: u64, threads: usize) -> BTreeMap<String, Vec<u8>> {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("model");
    let done = AtomicU64::new(0);
    let advance = |n| {
        done.fetch_add(n, Ordering::Relaxed);
    };
    let report = model.write_with(&folder, shard_bytes, &Filling { seed: 7, threads, advance: &advance }).unwrap();
    assert_eq!(done.into_inner(), report.bytes);
    assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);
    Checkpoint::open(&folder).unwrap();
    files(&folder)
}

#[test]
fn parameters_are_those_of_the_model_pages() {
    // Millions in total, and per token as the page counts them; whether it counts a table that is only looked up.
    for (name, total, active, lookup) in [
        ("aix-4b", 4_081.0, 647.0, false),
        ("aix-1b", 1_020.0, 176.0, false),
        ("mixtral-8x7b", 46_703.0, 12_879.0, true),
        ("llama-3.1-8b", 8_030.0, 8_030.0, true),
        ("phi-3-mini", 3_821.0, 3_821.0, true),
        ("gemma-2-2b", 2_614.0, 2_614.0, false),
        ("qwen3-30b-a3b", 30_532.0, 3_350.0, true),
        ("gpt-oss-20b", 20_910.0, 3_610.0, false),
    ] {
        let count = find_preset(name).unwrap().parameters().unwrap();
        let found = count.active + if lookup { count.lookup } else { 0 };
        let close = |found: u64, expected: f64| (found as f64 / 1e6 / expected - 1.0).abs() < 0.005;
        assert!(close(count.total, total), "{name}: {} in total", count.total);
        assert!(close(found, active), "{name}: {found} active");
        assert!(count.active + count.lookup <= count.total, "{name}");
    }
}

#[test]
fn every_preset_can_be_laid_out_in_every_format() {
    for preset in PRESETS {
        // The large ones are laid out with two layers: the others are the same.
        for format in [WeightFormat::F32, WeightFormat::F16, WeightFormat::BF16, INT4] {
            let options = SynthOptions { preset, format, seed: 0, layers: Some(2) };
            let model = SynthModel::new(&options).unwrap();
            let types = model.config.get("layer_types").map(|t| t.as_array().unwrap().len());
            assert!(types.is_none_or(|n| n == 2), "{}", preset.name);
            let floats: u64 = model.weights.iter().map(Weight::parameters).sum::<u64>();
            match format {
                WeightFormat::F32 => assert_eq!(model.bytes(), 4 * floats),
                WeightFormat::F16 | WeightFormat::BF16 => assert_eq!(model.bytes(), 2 * floats),
                WeightFormat::Int4 { .. } => assert!(model.bytes() < 2 * floats),
            }
            assert_eq!(model.config.contains_key("quantization_config"), format == INT4);
        }
    }
}

/// The full shapes, their data left out: names, shapes and configuration are what the importers expect.
#[test]
fn every_preset_is_imported_in_every_format() {
    for (preset, format) in PRESETS.iter().flat_map(|p| [WeightFormat::BF16, INT4].map(|f| (p, f))) {
        let layers = if preset.name == "qwen3-30b-a3b" { Some(4) } else { None };
        let model = SynthModel::new(&SynthOptions { preset, format, seed: 0, layers }).unwrap();
        let expected = shape::count(&model.weights).total as f64;
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("config.json"), pretty("", &Value::Object(model.config)).unwrap()).unwrap();
        shards::write_hollow(&folder.path().join("model.safetensors"), model.tensors).unwrap();
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        let options = crate::ImportOptions {
            max_tokens: 16,
            max_sequences: 1,
            max_model_len: 1024,
            kv_dtype: ir::types::DType::F16,
            trace_routing: false,
            embeddings: false,
        };
        let imported = crate::import(&checkpoint, &options);
        let imported = imported.unwrap_or_else(|e| panic!("{} as {format:?}: {e}", preset.name));
        assert_eq!(imported.hyper.vocabulary, model.vocabulary);
        let weights = imported.graph.nodes.iter().filter(|n| n.kind == NodeKind::Weight && n.ty.dtype.is_real());
        let elements = |n: &Node| n.ty.shape.iter().map(|d| d.value(&[]).unwrap_or(0)).product::<u64>();
        let found = weights.map(elements).sum::<u64>() as f64;
        // Rotary tables are weights of the graph too.
        assert!((found / expected - 1.0).abs() < 1e-4, "{}: {found} of {expected}", preset.name);
    }
}

#[test]
fn aix_4b_in_int4_takes_some_two_gigabytes() {
    let options = options("aix-4b", WeightFormat::Int4 { group_size: 128 }, 0);
    let bytes = SynthModel::new(&options).unwrap().bytes();
    assert!((2_400_000_000..2_600_000_000).contains(&bytes), "{bytes}");
}

#[test]
fn a_float_model_has_the_tensors_and_moments_of_its_shape() {
    let files = written(model(WeightFormat::BF16, 7), SHARD_BYTES, 2);
    let names: Vec<_> = files.keys().map(String::as_str).collect();
    let expected =
        ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];
    assert_eq!(names, expected);
    let tensors = SafeTensors::deserialize(&files["model.safetensors"]).unwrap();
    assert_eq!(tensors.len(), 2 * (2 + 4 + 1 + 3 * 16) + 3);
    for (name, shape, mean, std) in [
        ("model.embed_tokens.weight", [1024, 128].as_slice(), 0.0, 1.0),
        ("lm_head.weight", &[1024, 128], 0.0, 2.0 / 128f64.sqrt()),
        ("model.layers.1.self_attn.k_proj.weight", &[64, 128], 0.0, 1.0 / 128f64.sqrt()),
        ("model.layers.1.block_sparse_moe.experts.15.w2.weight", &[128, 128], 0.0, 1.0 / 128f64.sqrt()),
        ("model.norm.weight", &[128], 1.0, 0.1),
    ] {
        let tensor = tensors.tensor(name).unwrap();
        assert_eq!(tensor.shape(), shape, "{name}");
        let values: Vec<f64> =
            tensor.data().as_chunks::<2>().0.iter().map(|b| bf16::from_le_bytes(*b).to_f64()).collect();
        let n = values.len() as f64;
        let m = values.iter().sum::<f64>() / n;
        let s = (values.iter().map(|v| (v - m).powi(2)).sum::<f64>() / n).sqrt();
        // Five standard errors of the mean and of the deviation.
        assert!((m - mean).abs() < 5.0 * std / n.sqrt(), "{name}: mean {m}");
        assert!((s / std - 1.0).abs() < 5.0 / (2.0 * n).sqrt(), "{name}: deviation {s}");
    }
}

#[test]
fn an_int4_model_is_a_compressed_tensors_checkpoint() {
    let files = written(model(INT4, 7), SHARD_BYTES, 2);
    let config: Value = serde_json::from_slice(&files["config.json"]).unwrap();
    let scheme = &config["quantization_config"];
    assert_eq!(scheme["format"], "pack-quantized");
    assert_eq!(scheme["config_groups"]["group_0"]["weights"]["group_size"], 32);
    assert_eq!(scheme["ignore"], json!(["lm_head", "re:.*block_sparse_moe\\.gate$"]));
    let tensors = SafeTensors::deserialize(&files["model.safetensors"]).unwrap();
    let module = "model.layers.0.block_sparse_moe.experts.3.w1";
    let part = |part: &str| tensors.tensor(&format!("{module}.weight_{part}")).unwrap();
    assert_eq!((part("packed").dtype(), part("packed").shape()), (safetensors::Dtype::I32, [128, 16].as_slice()));
    assert_eq!((part("scale").dtype(), part("scale").shape()), (safetensors::Dtype::BF16, [128, 4].as_slice()));
    let shape: Vec<i64> = part("shape").data().as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect();
    assert_eq!(shape, [128, 128]);
    assert!(tensors.tensor(&format!("{module}.weight")).is_err());
    for whole in ["lm_head.weight", "model.layers.0.block_sparse_moe.gate.weight"] {
        assert_eq!(tensors.tensor(whole).unwrap().dtype(), safetensors::Dtype::BF16);
    }
}

#[test]
fn gpt_oss_in_int4_has_its_experts_as_mxfp4() {
    let mut options = options("gpt-oss-20b", INT4, 0);
    options.layers = Some(1);
    let model = SynthModel::new(&options).unwrap();
    let shape = |name: &str| {
        let name = format!("model.layers.0.mlp.experts.{name}");
        model.tensors.iter().find(|t| t.name == name).map(|t| t.shape.clone())
    };
    assert_eq!(shape("gate_up_proj_blocks"), Some(vec![32, 5760, 90, 16]));
    assert_eq!(shape("gate_up_proj_scales"), Some(vec![32, 5760, 90]));
    assert_eq!(shape("down_proj_blocks"), Some(vec![32, 2880, 90, 16]));
    assert_eq!(shape("gate_up_proj_bias"), Some(vec![32, 5760]));
    assert_eq!(model.config["quantization_config"]["quant_method"], "mxfp4");
    options.format = WeightFormat::BF16;
    let floats = SynthModel::new(&options).unwrap();
    let stacked = floats.tensors.iter().find(|t| t.name == "model.layers.0.mlp.experts.gate_up_proj").unwrap();
    assert_eq!(stacked.shape, [32, 2880, 5760]);
}

#[test]
fn equal_seeds_give_equal_bytes_whatever_the_threads_and_other_seeds_others() {
    let write = |format, seed, threads| written_seeded(format, seed, threads);
    for format in [WeightFormat::F16, INT4] {
        let one = write(format, 1, 1);
        assert!(one == write(format, 1, 5), "{format:?}");
        let other = write(format, 2, 5);
        assert!(one["model.safetensors"] != other["model.safetensors"], "{format:?}");
        assert!(one["tokenizer.json"] == other["tokenizer.json"]);
    }
}

fn written_seeded(format: WeightFormat, seed: u64, threads: usize) -> BTreeMap<String, Vec<u8>> {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("model");
    let filling = Filling { seed, threads, advance: &|_| () };
    model(format, seed).write_with(&folder, SHARD_BYTES, &filling).unwrap();
    files(&folder)
}

#[test]
fn shards_hold_the_same_tensors_as_one_file() {
    let one = written(model(INT4, 7), SHARD_BYTES, 2);
    let many = written(model(INT4, 7), 200_000, 2);
    let index: Value = serde_json::from_slice(&many["model.safetensors.index.json"]).unwrap();
    let whole = SafeTensors::deserialize(&one["model.safetensors"]).unwrap();
    let map = index["weight_map"].as_object().unwrap();
    assert_eq!(map.len(), whole.len());
    let shards: BTreeMap<_, _> = many
        .iter()
        .filter(|(name, _)| name.starts_with("model-"))
        .map(|(name, bytes)| (name.as_str(), SafeTensors::deserialize(bytes).unwrap()))
        .collect();
    assert!(shards.len() > 3, "{}", shards.len());
    for (tensor, shard) in map {
        let (a, b) = (whole.tensor(tensor).unwrap(), shards[shard.as_str().unwrap()].tensor(tensor).unwrap());
        assert!(a.data() == b.data() && a.shape() == b.shape(), "{tensor}");
    }
}

#[test]
fn failures_leave_nothing_and_touch_nothing() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("model");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("kept"), b"1").unwrap();
    let error = model(INT4, 0).write(&folder, &|_| ()).unwrap_err();
    assert!(matches!(error, SynthError::Occupied { .. }), "{error}");
    assert_eq!(files(&folder)["kept"], b"1");
    fs::remove_file(folder.join("kept")).unwrap();

    // The destination is occupied while the weights are written: the rename must fail, and the staged files go.
    let intruder = folder.join("intruder");
    let error = model(INT4, 0).write(&folder, &|_| fs::write(&intruder, b"2").unwrap()).unwrap_err();
    assert!(error.to_string().contains("move the model into place"), "{error}");
    assert_eq!(files(&folder).len(), 1);
    assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);

    fs::remove_file(&intruder).unwrap();
    model(INT4, 0).write(&folder, &|_| ()).unwrap();
    assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);
}

#[test]
fn what_a_killed_writer_left_is_swept() {
    let parent = tempfile::tempdir().unwrap();
    let stale = parent.path().join(".model.partial-1");
    fs::create_dir(&stale).unwrap();
    fs::write(stale.join("model.safetensors"), b"half").unwrap();
    model(INT4, 0).write(&parent.path().join("model"), &|_| ()).unwrap();
    assert!(!stale.exists());
}

#[test]
fn options_out_of_range_are_named() {
    let message = find_preset("gpt-5").unwrap_err().to_string();
    assert!(message.contains("gpt-5") && message.contains("aix-4b") && message.contains("gpt-oss-20b"), "{message}");
    let with = |format, layers| SynthModel::new(&SynthOptions { layers, ..options("aix-tiny", format, 0) });
    for (layers, group_size, part) in
        [(Some(0), 32, "--layers"), (Some(5000), 32, "--layers"), (None, 48, "--group-size")]
    {
        let message = with(WeightFormat::Int4 { group_size }, layers).err().unwrap().to_string();
        assert!(message.contains(part), "{message}");
    }
    let weight =
        Weight { name: "w".into(), layout: shape::Layout::Linear(4, 96), mean: 0.0, std: 1.0, used: shape::Use::Whole };
    let message = storage::stored(&weight, WeightFormat::Int4 { group_size: 64 }).unwrap_err().to_string();
    assert!(message.contains("tensor w: 96 columns") && message.contains("64"), "{message}");
}

#[test]
fn tokenizer_template_and_generation_settings_belong_together() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("model");
    model(INT4, 0).write(&folder, &|_| ()).unwrap();
    let checkpoint = Checkpoint::open(&folder).unwrap();
    let json = crate::tokenizer::tokenizer_json(&checkpoint).unwrap().unwrap();
    let tokenizer = tokenizers::Tokenizer::from_bytes(json).unwrap();
    assert_eq!(tokenizer.get_vocab_size(true), 1024);
    let chat = crate::chat_template::ChatTemplate::read(&checkpoint).unwrap();
    assert!(chat.template.unwrap().contains("<|im_start|>"));
    assert_eq!(chat.eos_token.as_deref(), Some("<|im_end|>"));
    let generation = crate::generation::GenerationConfig::read(&checkpoint).unwrap();
    assert_eq!(generation.eos_token_ids, [1023, 1021]);
    assert_eq!(tokenizer.token_to_id("<|im_end|>"), Some(1023));
    assert_eq!(tokenizer.token_to_id("<|endoftext|>"), Some(1021));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Chunks lie one behind the other and cover every byte.
    #[test]
    fn chunks_tile_the_file(lengths in prop::collection::vec(1u64..600_000, 1..8)) {
        shards::check_tiling(&lengths);
    }
}
