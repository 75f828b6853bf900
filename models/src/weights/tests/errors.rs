//! What cannot be read is refused in one line that names the field or the tensor.

use proptest::prelude::*;
use safetensors::Dtype;
use serde_json::{Value, json};

use super::support::{Written, brains, checkpoint, floats, halves, tensor, whole, words};
use crate::ModelError;
use crate::weights::{MatrixSource, Resolver, RowSelection, WeightReader, WeightSource, WeightTable};

/// The message of what fails first: the method, the matrix `[rows, cols]`, or reading it.
fn refusal(quantization: Value, tensors: &[Written], source: &MatrixSource, [rows, cols]: [u64; 2]) -> String {
    let (_folder, checkpoint) = checkpoint(quantization, tensors);
    let mut table = WeightTable::default();
    table.insert("w", WeightSource::Matrix(source.clone()));
    let read = || -> Result<(), ModelError> {
        Resolver::new(&checkpoint)?.matrix(source, rows, cols)?;
        WeightReader::new(&checkpoint, &table)?.read_rows("w", 0, 0, rows, &mut Vec::new())
    };
    let error = read().unwrap_err().to_string();
    assert!(!error.contains('\n'), "{error}");
    error
}

/// Checks that `m`, of 8 rows and 64 columns, is refused in words that include these.
fn refused(quantization: Value, tensors: &[Written], words: &[&str]) {
    let error = refusal(quantization.clone(), tensors, &whole("m"), [8, 64]);
    assert!(words.iter().all(|word| error.contains(word)), "{quantization}: {error}");
}

fn gptq() -> Value {
    json!({"quant_method": "gptq", "bits": 4, "group_size": 32})
}

fn gptq_tensors() -> [Written; 3] {
    [
        words("m.qweight", &[8, 8], &[0; 64]),
        words("m.qzeros", &[2, 1], &[0x7777_7777; 2]),
        halves("m.scales", &[2, 8], &[1.0; 16]),
    ]
}

#[test]
fn methods_and_settings() {
    let plain = [floats("m.weight", &[8, 64], &[0.0; 512])];
    let with = |mut config: Value, field: &str, value: Value| {
        *config.pointer_mut(field).unwrap_or_else(|| panic!("{field}")) = value;
        config
    };
    let compressed = |format: &str| {
        json!({
            "quant_method": "compressed-tensors", "format": format, "group_size": null,
            "config_groups": {"group_0": {"weights": {
                "num_bits": 4, "type": "int", "group_size": 32, "block_structure": null,
            }}},
        })
    };
    let gptq = json!({"quant_method": "gptq", "bits": 4, "group_size": 32, "checkpoint_format": "gptq"});
    let bitnet = json!({
        "quant_method": "bitnet", "quantization_mode": "offline", "linear_class": "bitlinear", "use_rms_norm": false,
    });
    let awq = json!({"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm"});
    let fp8 = json!({"quant_method": "fp8", "weight_block_size": [128, 128]});
    let weights = "/config_groups/group_0/weights";
    let cases: [(Value, &[&str]); 16] = [
        (json!({"quant_method": "hqq"}), &["quantization_config.quant_method", "gptq, awq", "\"hqq\""]),
        (json!({"bits": 4}), &["quantization_config.quant_method", "nothing"]),
        (with(gptq.clone(), "/bits", json!(3)), &["quantization_config.bits", "4", "found 3"]),
        (with(gptq.clone(), "/group_size", json!(48)), &["group_size", "-1 or a multiple of 32", "48"]),
        (with(gptq.clone(), "/group_size", json!(0)), &["group_size", "found 0"]),
        (with(gptq, "/checkpoint_format", json!("marlin")), &["checkpoint_format", "gptq_v2", "marlin"]),
        (with(awq.clone(), "/version", json!("gemv")), &["version", "gemm", "gemv"]),
        (with(awq, "/bits", json!(8)), &["quantization_config.bits", "found 8"]),
        (with(fp8.clone(), "/weight_block_size", json!([128, 100])), &["weight_block_size", "multiple of 128"]),
        (with(fp8.clone(), "/weight_block_size", json!([0, 128])), &["weight_block_size"]),
        (with(fp8, "/weight_block_size", json!("big")), &["weight_block_size", "big"]),
        (compressed("int-quantized"), &["quantization_config.format", "float-quantized"]),
        (compressed("float-quantized"), &["group_0.weights.type", "float"]),
        (
            with(compressed("pack-quantized"), &format!("{weights}/num_bits"), json!(8)),
            &["quantization_config.config_groups.group_0.weights.num_bits", "found 8"],
        ),
        (with(bitnet.clone(), "/quantization_mode", json!("later")), &["quantization_mode", "online"]),
        (with(bitnet, "/use_rms_norm", json!(true)), &["use_rms_norm", "norms inside linear layers"]),
    ];
    for (config, words) in cases {
        refused(config, &plain, words);
    }
}

#[test]
fn tensors_that_are_missing_or_of_another_kind() {
    let refused_gptq = |tensors: &[Written], words: &[&str]| refused(gptq(), tensors, words);
    refused_gptq(&[floats("other.weight", &[8, 64], &[0.0; 512])], &["m.qweight or m.weight is missing"]);
    refused(json!(null), &[floats("other.weight", &[8, 64], &[0.0; 512])], &["tensor m.weight is missing"]);
    refused(json!(null), &gptq_tensors(), &["m.qweight", "neither gptq nor awq"]);
    let [weight, zeros, scales] = gptq_tensors();
    refused_gptq(&[weight, zeros], &["m.scales is missing"]);
    let [weight, zeros, _] = gptq_tensors();
    refused_gptq(&[weight, zeros, halves("m.scales", &[1, 8], &[1.0; 8])], &["m.scales", "[2, 8]", "[1, 8]"]);
    let [weight, zeros, _] = gptq_tensors();
    refused_gptq(&[weight, zeros, words("m.scales", &[2, 8], &[1; 16])], &["m.scales", "f16", "i32"]);
    let [weight, ..] = gptq_tensors();
    refused_gptq(&[weight, words("m.qzeros", &[1, 1], &[0]), scales], &["m.qzeros", "[2, 1]"]);
    let [_, zeros, scales] = gptq_tensors();
    refused_gptq(&[floats("m.qweight", &[8, 8], &[0.0; 64]), zeros, scales], &["m.qweight", "type I32, found f32"]);
    let odd = [
        words("m.qweight", &[8, 12], &[0; 96]),
        words("m.qzeros", &[2, 1], &[0; 2]),
        halves("m.scales", &[2, 12], &[1.0; 24]),
    ];
    refused_gptq(&odd, &["m.qweight", "multiple of 8 outputs, found 12"]);
    let bytes = tensor("m.weight", Dtype::F8_E4M3, &[8, 64], vec![0; 512]);
    refused(json!(null), &[bytes], &["m.weight", "F8_E4M3", "quantization_config"]);
    refused(json!(null), &[words("m.weight", &[8, 64], &[0; 512])], &["m.weight", "i32 holds no real numbers"]);
    let blocks = tensor("m_blocks", Dtype::U8, &[1, 8, 64], vec![0; 512]);
    refused(json!({"quant_method": "mxfp4"}), &[blocks], &["m_blocks", "[experts, rows, groups, 16]"]);
}

#[test]
fn g_idx_with_groups_of_other_sizes() {
    let [weight, zeros, scales] = gptq_tensors();
    let mut g_idx = [1u32; 64];
    g_idx[..31].fill(0);
    refused(gptq(), &[weight, zeros, scales, words("m.g_idx", &[64], &g_idx)], &["m.g_idx", "32 columns", "2 groups"]);
}

#[test]
fn numbers_that_are_not_finite() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut values = [0.5; 512];
        values[300] = bad;
        for write in [floats, halves, brains] {
            refused(json!(null), &[write("m.weight", &[8, 64], &values)], &["m.weight", "NaN or an infinity"]);
        }
        let [weight, zeros, _] = gptq_tensors();
        let scales = halves("m.scales", &[2, 8], &values[296..312]);
        refused(gptq(), &[weight, zeros, scales], &["m.scales", "NaN or an infinity"]);
    }
    let mut codes = vec![0; 512];
    codes[77] = 0xff;
    let fp8 = [tensor("m.weight", Dtype::F8_E4M3, &[8, 64], codes), floats("m.weight_scale", &[1], &[1.0])];
    refused(json!({"quant_method": "fp8"}), &fp8, &["m.weight", "NaN"]);
    let mut exponents = vec![127; 16];
    exponents[15] = 255;
    let mxfp4 = [
        tensor("m_blocks", Dtype::U8, &[1, 8, 2, 16], vec![0; 256]),
        tensor("m_scales", Dtype::U8, &[1, 8, 2], exponents),
    ];
    let source = MatrixSource { expert: Some(0), ..whole("m") };
    let error = refusal(json!({"quant_method": "mxfp4"}), &mxfp4, &source, [8, 64]);
    assert!(error.contains("m_scales") && error.contains("NaN"), "{error}");
    let ternary = [tensor("m.weight", Dtype::U8, &[2, 64], vec![0; 128]), brains("m.weight_scale", &[1], &[0.0])];
    refused(json!({"quant_method": "bitnet"}), &ternary, &["m.weight_scale", "is 0"]);
    let three = [tensor("m.weight", Dtype::U8, &[2, 64], vec![0xff; 128]), brains("m.weight_scale", &[1], &[1.0])];
    refused(json!({"quant_method": "bitnet"}), &three, &["m.weight", "t2 cannot hold integer"]);
    // Beyond what f16 holds.
    let [weight, zeros, _] = gptq_tensors();
    let scales = floats("m.scales", &[2, 8], &[1e6; 16]);
    refused(gptq(), &[weight, zeros, scales], &["tensor m:", "q4_0 cannot hold scale 0"]);
}

#[test]
fn vectors_that_are_not_finite_or_no_vectors() {
    let tensors = [floats("v", &[2], &[1.0, f32::NAN]), floats("m", &[1, 2], &[1.0, 2.0])];
    let (_folder, checkpoint) = checkpoint(json!(null), &tensors);
    let table = WeightTable::default();
    let mut reader = WeightReader::new(&checkpoint, &table).unwrap();
    let mut refusal = |name: &str| reader.read_plain(name, &mut Vec::new()).unwrap_err().to_string();
    assert!(refusal("v").contains("tensor v: holds a NaN"), "{}", refusal("v"));
    assert!(refusal("m").contains("tensor m: it is no vector"), "{}", refusal("m"));
    assert!(refusal("w").contains("tensor w is missing"), "{}", refusal("w"));
}

#[test]
fn stacks_of_several_formats() {
    let tensors = [floats("a.weight", &[1, 2], &[1.0; 2]), brains("b.weight", &[1, 2], &[1.0; 2])];
    let (_folder, checkpoint) = checkpoint(json!(null), &tensors);
    let error = Resolver::new(&checkpoint).unwrap().stack(&[whole("a"), whole("b")], 1, 2).unwrap_err().to_string();
    assert!(error.contains("tensor b: stored as bf16, but a as f32"), "{error}");
}

proptest! {
    /// Selections of any numbers either are refused or give as many values as asked for.
    #[test]
    fn selections_outside_of_the_matrix(
        offset in any::<u64>(), run in any::<u64>(), period in any::<u64>(), small in any::<bool>(),
        transposed in any::<bool>(), expert in prop::option::of(0u64..3), rows in 1u64..9,
    ) {
        let shrink = |n: u64| if small { n % 7 } else { n };
        let (_folder, checkpoint) = checkpoint(json!(null), &[floats("m.weight", &[4, 5], &[0.25; 20])]);
        let selection = RowSelection::heads(shrink(offset), shrink(run), shrink(period));
        let source = MatrixSource { expert, rows: selection, transposed, ..whole("m") };
        let mut table = WeightTable::default();
        table.insert("w", WeightSource::Matrix(source.clone()));
        let mut reader = WeightReader::new(&checkpoint, &table).unwrap();
        let mut found = Vec::new();
        let accepted = Resolver::new(&checkpoint).unwrap().matrix(&source, rows, 5).is_ok();
        let read = reader.read_values("w", 0, 0, rows, &mut found);
        if accepted {
            prop_assert!(read.is_ok() && found == vec![0.25; rows as usize * 5], "{read:?}");
        }
    }
}
