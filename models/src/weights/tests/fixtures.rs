//! Every quantised matrix of the golden fixtures against the formats' definitions in the fixtures' README.

use ir::types::DType;

use super::support::{e2m1, e4m3, golden, nibble, plain, raw, raw_floats, raw_words, values, whole};
use crate::source::Checkpoint;
use crate::weights::{MatrixSource, Resolver, WeightSource};

/// Modules that have a tensor with this suffix, with its shape.
fn modules(checkpoint: &Checkpoint, suffix: &str) -> Vec<(String, Vec<usize>)> {
    let with_shape = |info: &crate::TensorInfo| {
        let module = info.name.strip_suffix(suffix)?.to_string();
        Some((module, info.shape.iter().map(|d| *d as usize).collect()))
    };
    let found: Vec<_> = checkpoint.tensors().filter_map(with_shape).collect();
    assert!(!found.is_empty(), "no {suffix} in {}", checkpoint.path().display());
    found
}

/// Checks a module's format and values, `expected(row, column)`, with columns in the stored order.
fn check(
    checkpoint: &Checkpoint,
    source: &MatrixSource,
    dtype: DType,
    [rows, cols]: [usize; 2],
    expected: impl Fn(usize, usize) -> f32,
) {
    let name = &source.module;
    let resolved = Resolver::new(checkpoint).unwrap().matrix(source, rows as u64, cols as u64).unwrap();
    assert_eq!(resolved.dtype, dtype, "{name}");
    let order: Vec<usize> = match &resolved.column_order {
        None => (0..cols).collect(),
        Some(module) => {
            let source = WeightSource::ColumnOrder { modules: vec![module.clone()], stacked: false };
            plain(checkpoint, source).into_iter().map(|b| u32::from_le_bytes(b) as usize).collect()
        }
    };
    let found = values(checkpoint, source, rows as u64, 48);
    assert_eq!(found.len(), rows * cols, "{name}");
    for (at, value) in found.into_iter().enumerate() {
        assert_eq!(value, expected(at / cols, order[at % cols]), "{name} at {at}");
    }
}

fn check_gptq(fixture: &str, dtype: DType, in_order: bool) {
    let checkpoint = golden(fixture);
    let mut reordered = 0;
    for (module, shape) in modules(&checkpoint, ".qweight") {
        let (rows, cols) = (shape[1], shape[0] * 8);
        let part = |part: &str| format!("{module}.{part}");
        let (q, z) = (raw_words(&checkpoint, &part("qweight")), raw_words(&checkpoint, &part("qzeros")));
        let (scales, g_idx) = (raw_floats(&checkpoint, &part("scales")), raw_words(&checkpoint, &part("g_idx")));
        reordered += usize::from(!g_idx.is_sorted());
        check(&checkpoint, &whole(&module), dtype, [rows, cols], |o, i| {
            let g = g_idx[i] as usize;
            let zero = nibble(&z, g * (rows / 8) + o / 8, o % 8) + 1.0;
            scales[g * rows + o] * (nibble(&q, i / 8 * rows + o, i % 8) - zero)
        });
    }
    assert_eq!(reordered == 0, in_order, "{fixture}");
}

#[test]
fn gptq() {
    check_gptq("llama_gptq", DType::Q4_0, true);
    check_gptq("mixtral_gptq", DType::Q4_0, true);
    check_gptq("llama_gptq_asym", DType::Q4Z32, true);
    check_gptq("llama_gptq_desc_act", DType::Q4_0, false);
    check_gptq("qwen3_moe_gptq_desc_act", DType::Q4_0, false);
}

#[test]
fn modules_of_one_input_share_their_order() {
    let checkpoint = golden("llama_gptq_desc_act");
    let resolver = Resolver::new(&checkpoint).unwrap();
    let order = |module: &str, rows| {
        let source = whole(&format!("model.layers.1.self_attn.{module}"));
        resolver.matrix(&source, rows, 128).unwrap().column_order
    };
    let query = order("q_proj", 128);
    assert_eq!(query.as_deref(), Some("model.layers.1.self_attn.q_proj"));
    assert_eq!([order("k_proj", 64), order("v_proj", 64)], [query.clone(), query]);
}

#[test]
fn awq() {
    const NIBBLE_OF_OUTPUT: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];
    for checkpoint in [golden("llama_awq"), golden("mixtral_awq")] {
        for (module, shape) in modules(&checkpoint, ".qweight") {
            let (rows, cols) = (shape[1] * 8, shape[0]);
            let part = |part: &str| format!("{module}.{part}");
            let (q, z) = (raw_words(&checkpoint, &part("qweight")), raw_words(&checkpoint, &part("qzeros")));
            let scales = raw_floats(&checkpoint, &part("scales"));
            check(&checkpoint, &whole(&module), DType::Q4Z32, [rows, cols], |o, i| {
                let (c, j, g) = (o / 8, NIBBLE_OF_OUTPUT[o % 8], i / 32);
                scales[g * rows + o] * (nibble(&q, i * (rows / 8) + c, j) - nibble(&z, g * (rows / 8) + c, j))
            });
        }
    }
}

#[test]
fn pack_quantized() {
    let checkpoint = golden("llama_w4a16");
    for (module, shape) in modules(&checkpoint, ".weight_packed") {
        let (rows, cols) = (shape[0], shape[1] * 8);
        let q = raw_words(&checkpoint, &format!("{module}.weight_packed"));
        let scales = raw_floats(&checkpoint, &format!("{module}.weight_scale"));
        check(&checkpoint, &whole(&module), DType::Q4_0, [rows, cols], |o, i| {
            (nibble(&q, o * (cols / 8) + i / 8, i % 8) - 8.0) * scales[o * (cols / 32) + i / 32]
        });
    }
}

#[test]
fn fp8() {
    for (fixture, suffix) in [("llama_fp8_channel", ".weight_scale"), ("qwen3_fp8_block", ".weight_scale_inv")] {
        let checkpoint = golden(fixture);
        for (module, scale_shape) in modules(&checkpoint, suffix) {
            let shape = checkpoint.tensor(&format!("{module}.weight")).unwrap().shape.clone();
            let [rows, cols] = [shape[0] as usize, shape[1] as usize];
            let block = if scale_shape[0] == rows { [1, cols] } else { [128, 128] };
            let codes = raw(&checkpoint, &format!("{module}.weight"));
            let scales = raw_floats(&checkpoint, &format!("{module}{suffix}"));
            check(&checkpoint, &whole(&module), DType::F8_E4M3, [rows, cols], |o, i| {
                e4m3(codes[o * cols + i]) * scales[o / block[0] * scale_shape[1] + i / block[1]]
            });
        }
    }
}

#[test]
fn mxfp4() {
    let checkpoint = golden("gpt_oss_mxfp4");
    for (module, shape) in modules(&checkpoint, "_blocks") {
        let [experts, rows, groups, _] = shape[..] else { panic!("{shape:?}") };
        let blocks = raw(&checkpoint, &format!("{module}_blocks"));
        let exponents = raw(&checkpoint, &format!("{module}_scales"));
        for expert in 0..experts {
            let source = MatrixSource { expert: Some(expert as u64), ..whole(&module) };
            check(&checkpoint, &source, DType::MXFP4, [rows, groups * 32], |o, i| {
                let row = expert * rows + o;
                let byte = blocks[row * groups * 16 + i / 2];
                let power = 2f32.powi(i32::from(exponents[row * groups + i / 32]) - 127);
                e2m1(byte >> (4 * (i % 2)) & 15) * power
            });
        }
    }
}

#[test]
fn bitnet() {
    let checkpoint = golden("bitnet_packed");
    for (module, _) in modules(&checkpoint, ".weight_scale") {
        let shape = checkpoint.tensor(&format!("{module}.weight")).unwrap().shape.clone();
        let [quarter, cols] = [shape[0] as usize, shape[1] as usize];
        let bytes = raw(&checkpoint, &format!("{module}.weight"));
        let scale = raw_floats(&checkpoint, &format!("{module}.weight_scale"))[0];
        check(&checkpoint, &whole(&module), DType::T2, [4 * quarter, cols], |o, i| {
            (f32::from(bytes[o % quarter * cols + i] >> (2 * (o / quarter)) & 3) - 1.0) * scale
        });
    }
    let checkpoint = golden("bitnet_online");
    for (module, shape) in modules(&checkpoint, "_proj.weight") {
        let weights = raw_floats(&checkpoint, &format!("{module}_proj.weight"));
        let mean = weights.iter().map(|w| f64::from(w.abs())).sum::<f64>() / weights.len() as f64;
        let scale = mean as f32;
        check(&checkpoint, &whole(&format!("{module}_proj")), DType::T2, [shape[0], shape[1]], |o, i| {
            (weights[o * shape[1] + i] / scale).round_ties_even().clamp(-1.0, 1.0) * scale
        });
    }
}
