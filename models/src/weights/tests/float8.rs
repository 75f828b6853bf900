//! FP8 and MXFP4 against their definitions.

use ir::types::DType;
use proptest::collection::vec;
use proptest::prelude::*;
use safetensors::Dtype;
use serde_json::json;

use super::support::{brains, checkpoint, e2m1, e4m3, floats, scales, tensor, values, whole};
use crate::weights::{MatrixSource, Resolver};

/// Any code but NaN.
fn codes(n: usize) -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>().prop_map(|code| if code & 0x7f == 0x7f { code & 0x80 } else { code }), n)
}

/// What shares a scale.
#[derive(Clone, Copy, Debug)]
enum Sharing {
    Tensor,
    Channel,
    Block(usize, usize),
}

fn shared() -> impl Strategy<Value = Sharing> {
    let block = (prop_oneof![Just(4usize), Just(128)], prop_oneof![Just(128usize), Just(256)]);
    prop_oneof![Just(Sharing::Tensor), Just(Sharing::Channel), block.prop_map(|(r, c)| Sharing::Block(r, c))]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn fp8(
        (rows, cols, codes, all) in (1usize..12, 1usize..400)
            .prop_flat_map(|(r, c)| (Just(r), Just(c), codes(r * c), vec(scales(), r * c + 1))),
        sharing in shared(),
        step in 1u64..8,
    ) {
        let (r, c) = match sharing {
            Sharing::Tensor => (rows, cols),
            Sharing::Channel => (1, cols),
            Sharing::Block(r, c) => (r, c),
        };
        let blocks = [rows.div_ceil(r), cols.div_ceil(c)];
        let all = &all[..blocks[0] * blocks[1]];
        let weights = |structure| json!({
            "quant_method": "compressed-tensors", "format": "float-quantized",
            "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "float", "block_structure": structure}}},
        });
        let (config, scale) = match sharing {
            Sharing::Tensor => (json!({"quant_method": "fp8"}), floats("m.weight_scale", &[], all)),
            Sharing::Channel => (weights(json!(null)), brains("m.weight_scale", &[rows, 1], all)),
            Sharing::Block(4, _) => (weights(json!([r, c])), brains("m.weight_scale", &blocks, all)),
            Sharing::Block(..) => {
                (json!({"quant_method": "fp8", "weight_block_size": [r, c]}), floats("m.weight_scale_inv", &blocks, all))
            }
        };
        let weight = tensor("m.weight", Dtype::F8_E4M3, &[rows, cols], codes.clone());
        let (_folder, checkpoint) = checkpoint(config, &[weight, scale]);
        let resolved = Resolver::new(&checkpoint).unwrap().matrix(&whole("m"), rows as u64, cols as u64).unwrap();
        prop_assert_eq!(resolved.dtype, DType::F8_E4M3);
        let each = |(at, code): (usize, &u8)| e4m3(*code) * all[at / cols / r * blocks[1] + at % cols / c];
        let expected: Vec<f32> = codes.iter().enumerate().map(each).collect();
        prop_assert_eq!(values(&checkpoint, &whole("m"), rows as u64, step), expected);
    }

    #[test]
    fn mxfp4(
        (experts, rows, groups, bytes, exponents) in (1usize..4, 1usize..6, 1usize..5).prop_flat_map(|(e, r, g)| {
            (Just(e), Just(r), Just(g), vec(any::<u8>(), e * r * g * 16), vec(0u8..=252, e * r * g))
        }),
        step in 1u64..4,
    ) {
        let tensors = [
            tensor("m_blocks", Dtype::U8, &[experts, rows, groups, 16], bytes.clone()),
            tensor("m_scales", Dtype::U8, &[experts, rows, groups], exponents.clone()),
        ];
        let (_folder, checkpoint) = checkpoint(json!({"quant_method": "mxfp4"}), &tensors);
        for expert in 0..experts {
            let source = MatrixSource { expert: Some(expert as u64), ..whole("m") };
            let resolver = Resolver::new(&checkpoint).unwrap();
            let resolved = resolver.matrix(&source, rows as u64, groups as u64 * 32).unwrap();
            prop_assert_eq!(resolved.dtype, DType::MXFP4);
            let each = |at: usize| {
                let byte = bytes[(expert * rows * groups * 32 + at) / 2];
                let code = byte >> (4 * (at % 2)) & 15;
                let exponent = exponents[expert * rows * groups + at / 32];
                (f64::from(e2m1(code)) * (f64::from(exponent) - 127.0).exp2()) as f32
            };
            let expected: Vec<f32> = (0..rows * groups * 32).map(each).collect();
            prop_assert_eq!(values(&checkpoint, &source, rows as u64, step), expected);
        }
    }
}
