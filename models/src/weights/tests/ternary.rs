//! BitNet's weights against their definitions.

use ir::types::DType;
use proptest::collection::vec;
use proptest::prelude::*;
use safetensors::Dtype;
use serde_json::{Value, json};

use super::support::{brains, checkpoint, scales, tensor, values, whole};
use crate::weights::Resolver;

fn bitnet(mode: &str, class: &str) -> Value {
    json!({"quant_method": "bitnet", "quantization_mode": mode, "linear_class": class})
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn packed(
        (quarter, cols, bytes) in (1usize..6, 1usize..70).prop_flat_map(|(q, c)| {
            // Four numbers of 0 to 2 a byte.
            let byte = (0u8..3, 0u8..3, 0u8..3, 0u8..3).prop_map(|(a, b, c, d)| a | b << 2 | c << 4 | d << 6);
            (Just(q), Just(c), vec(byte, q * c))
        }),
        scale in scales(),
        divides in any::<bool>(),
        step in 1u64..30,
    ) {
        let tensors = [
            tensor("m.weight", Dtype::U8, &[quarter, cols], bytes.clone()),
            brains("m.weight_scale", &[1], &[scale]),
        ];
        let class = if divides { "bitlinear" } else { "autobitlinear" };
        let (_folder, checkpoint) = checkpoint(bitnet("offline", class), &tensors);
        let rows = 4 * quarter;
        let resolved = Resolver::new(&checkpoint).unwrap().matrix(&whole("m"), rows as u64, cols as u64).unwrap();
        prop_assert_eq!(resolved.dtype, DType::T2);
        let factor = if divides { 1.0 / scale } else { scale };
        let mut expected = vec![0.0; rows * cols];
        for (k, r, c) in (0..4).flat_map(|k| (0..quarter * cols).map(move |at| (k, at / cols, at % cols))) {
            expected[(k * quarter + r) * cols + c] = (f32::from(bytes[r * cols + c] >> (2 * k) & 3) - 1.0) * factor;
        }
        prop_assert_eq!(values(&checkpoint, &whole("m"), rows as u64, step), expected);
    }

    /// Made ternary by the mean of the whole matrix, whatever part is read.
    #[test]
    fn online(
        (rows, cols, weights) in (1usize..300, 1usize..8)
            .prop_flat_map(|(r, c)| (Just(r), Just(c), vec((-16i8..=16).prop_map(|n| f32::from(n) / 8.0), r * c))),
        step in 1u64..40,
    ) {
        let name = "model.layers.0.m";
        let weight = brains("model.layers.0.m.weight", &[rows, cols], &weights);
        let (_folder, checkpoint) = checkpoint(bitnet("online", "autobitlinear"), &[weight]);
        let resolved = Resolver::new(&checkpoint).unwrap().matrix(&whole(name), rows as u64, cols as u64).unwrap();
        prop_assert_eq!(resolved.dtype, DType::T2);
        // Sums of multiples of 1/8 are exact.
        let mean = weights.iter().map(|w| f64::from(w.abs())).sum::<f64>() / weights.len() as f64;
        let scale = mean.max(1e-5) as f32;
        let each = |w: &f32| (w / scale).round_ties_even().clamp(-1.0, 1.0) * scale;
        let expected: Vec<f32> = weights.iter().map(each).collect();
        prop_assert_eq!(values(&checkpoint, &whole(name), rows as u64, step), expected);
    }
}

#[test]
fn online_weights_outside_of_layers_stay_as_they_are() {
    let weight = brains("lm_head.weight", &[2, 2], &[1.0, 0.25, -3.0, 0.0]);
    let (_folder, checkpoint) = checkpoint(bitnet("online", "autobitlinear"), &[weight]);
    assert_eq!(Resolver::new(&checkpoint).unwrap().matrix(&whole("lm_head"), 2, 2).unwrap().dtype, DType::BF16);
    assert_eq!(values(&checkpoint, &whole("lm_head"), 2, 2), [1.0, 0.25, -3.0, 0.0]);
}
