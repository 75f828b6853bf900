//! Parts, stacks, transposes and vectors.

use ir::types::DType;
use proptest::collection::vec;
use proptest::prelude::*;
use safetensors::Dtype;
use serde_json::json;

use super::support::{brains, checkpoint, floats, halves, plain, tensor, values, whole, words};
use crate::weights::{MatrixSource, Resolver, RowSelection, WeightReader, WeightSource, WeightTable};

#[test]
fn selections_count_rows() {
    let rows = |s: RowSelection| (0..5).map(|i| s.row(i)).collect::<Vec<_>>();
    assert_eq!(rows(RowSelection::all()), [0, 1, 2, 3, 4]);
    assert_eq!(rows(RowSelection::range(7)), [7, 8, 9, 10, 11]);
    assert_eq!(rows(RowSelection::every(1, 2)), [1, 3, 5, 7, 9]);
    assert_eq!(rows(RowSelection::heads(2, 2, 8)), [2, 3, 10, 11, 18]);
    assert_eq!(RowSelection::heads(2, 2, 8).last(4), 11);
    assert_eq!(RowSelection::heads(2, 2, 8).adjacent(1, 9), 1);
    assert_eq!(RowSelection::range(2).adjacent(1, 9), 9);
    assert_eq!(RowSelection::range(3).bounded(2).row(1), 4);
    assert_eq!(RowSelection::range(3).bounded(2).row(2), u64::MAX);
    assert_eq!(RowSelection::every(0, u64::MAX).last(u64::MAX), u64::MAX);
}

/// Any selection, and how many rows to take.
fn selections() -> impl Strategy<Value = (RowSelection, u64)> {
    let selection = prop_oneof![
        (0u64..9).prop_map(RowSelection::range),
        (0u64..4, 1u64..7).prop_map(|(offset, step)| RowSelection::every(offset, step)),
        (0u64..4, 1u64..4, 4u64..9).prop_map(|(offset, run, period)| RowSelection::heads(offset, run, period)),
    ];
    (selection, 1u64..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Rows selected are the rows of the whole matrix, of formats that are sliced and of such that are decoded as a whole.
    #[test]
    fn parts_are_rows_of_the_whole((rows, count) in selections(), step in 1u64..5, ternary in any::<bool>()) {
        let (stored, cols) = (112u64, 6u64);
        let (config, tensors) = if ternary {
            let packed = (0..28 * 6).map(|i| [0x00, 0x19, 0x92, 0x55][i * i % 7 % 4]).collect();
            let tensors = vec![tensor("m.weight", Dtype::U8, &[28, 6], packed), brains("m.weight_scale", &[1], &[0.5])];
            (json!({"quant_method": "bitnet"}), tensors)
        } else {
            let values: Vec<f32> = (0..stored * cols).map(|i| i as f32).collect();
            (json!(null), vec![floats("m.weight", &[112, 6], &values)])
        };
        let (_folder, checkpoint) = checkpoint(config, &tensors);
        let source = MatrixSource { rows: rows.clone(), ..whole("m") };
        Resolver::new(&checkpoint).unwrap().matrix(&source, count, cols).unwrap();
        let all = values(&checkpoint, &whole("m"), stored, stored);
        let row = |i: u64| &all[(rows.row(i) * cols) as usize..][..cols as usize];
        let expected: Vec<f32> = (0..count).flat_map(|i| row(i).to_vec()).collect();
        prop_assert_eq!(values(&checkpoint, &source, count, step), expected);
    }

    /// Experts stored `[in, out]`: rows are selected after transposing, elements keep their type.
    #[test]
    fn transposed_experts(numbers in vec(-100i32..100, 3 * 4 * 10), step in 1u64..6, odd in 0u64..2) {
        let numbers: Vec<f32> = numbers.into_iter().map(|n| n as f32).collect();
        let (_folder, checkpoint) = checkpoint(json!(null), &[brains("m", &[3, 4, 10], &numbers)]);
        let source = |e| MatrixSource {
            expert: Some(e), rows: RowSelection::every(odd, 2), transposed: true, ..whole("m")
        };
        let sources: Vec<_> = (0..3).map(source).collect();
        let resolved = Resolver::new(&checkpoint).unwrap().stack(&sources, 5, 4).unwrap();
        prop_assert_eq!(resolved.0, DType::BF16);
        for (e, source) in sources.iter().enumerate() {
            let each = |row: usize, col: usize| numbers[(e * 4 + col) * 10 + 2 * row + odd as usize];
            let expected: Vec<f32> = (0..5).flat_map(|r| (0..4).map(move |c| (r, c))).map(|(r, c)| each(r, c)).collect();
            prop_assert_eq!(values(&checkpoint, source, 5, step), expected);
        }
    }

    /// The transpose of some rows of a GPTQ matrix in activation order has its rows in the order of the inputs.
    #[test]
    fn transposed_rows_of_a_quantised_matrix(qweight in vec(any::<u32>(), 8 * 16), step in 1u64..70) {
        let g_idx: Vec<u32> = (0..64).map(|i| (i % 2) ^ 1).collect();
        let scales: Vec<f32> = (1..=32).map(|i| i as f32 / 64.0).collect();
        let tensors = [
            words("m.qweight", &[8, 16], &qweight),
            words("m.qzeros", &[2, 2], &[0x7777_7777; 4]),
            halves("m.scales", &[2, 16], &scales),
            words("m.g_idx", &[64], &g_idx),
        ];
        let (_folder, checkpoint) = checkpoint(json!({"quant_method": "gptq", "bits": 4, "group_size": 32}), &tensors);
        let source = MatrixSource { rows: RowSelection::range(5).bounded(7), transposed: true, ..whole("m") };
        let resolved = Resolver::new(&checkpoint).unwrap().matrix(&source, 64, 7).unwrap();
        prop_assert_eq!(resolved.dtype, DType::F32);
        prop_assert_eq!(resolved.column_order, None);
        let each = |input: usize, output: usize| {
            let code = (qweight[input / 8 * 16 + output] >> (4 * (input % 8)) & 15) as f32;
            (code - 8.0) * scales[g_idx[input] as usize * 16 + output]
        };
        let expected: Vec<f32> = (0..64).flat_map(|i| (5..12).map(move |o| (i, o))).map(|(i, o)| each(i, o)).collect();
        prop_assert_eq!(values(&checkpoint, &source, 64, step), expected);
    }
}

#[test]
fn stacks_take_each_matrix_from_its_source() {
    let tensors =
        [floats("a.weight", &[2, 2], &[1.0, 2.0, 3.0, 4.0]), floats("b.weight", &[2, 2], &[5.0, 6.0, 7.0, 8.0])];
    let (_folder, checkpoint) = checkpoint(json!(null), &tensors);
    let mut table = WeightTable::default();
    table.insert("s", WeightSource::Stack(vec![whole("b"), whole("a")]));
    let mut reader = WeightReader::new(&checkpoint, &table).unwrap();
    let (mut bytes, mut found) = (Vec::new(), Vec::new());
    reader.read_values("s", 0, 1, 1, &mut found).unwrap();
    assert_eq!(found, [7.0, 8.0]);
    reader.read_rows("s", 1, 0, 1, &mut bytes).unwrap();
    assert_eq!(bytes, [1f32.to_le_bytes(), 2f32.to_le_bytes()].concat());
    let past = reader.read_rows("s", 2, 0, 1, &mut bytes).unwrap_err();
    assert!(past.to_string().ends_with("tensor s: it has no matrix 2"), "{past}");
    // A weight without a source is the tensor of its own name.
    reader.read_values("a.weight", 0, 0, 2, &mut found).unwrap();
    assert_eq!(found, [1.0, 2.0, 3.0, 4.0]);
}

#[test]
fn a_vector_is_a_matrix_of_one_row() {
    let (_folder, checkpoint) = checkpoint(json!(null), &[floats("m.weight", &[3], &[1.0, 2.0, 3.0])]);
    assert_eq!(Resolver::new(&checkpoint).unwrap().matrix(&whole("m"), 1, 3).unwrap().dtype, DType::F32);
    assert_eq!(values(&checkpoint, &whole("m"), 1, 1), [1.0, 2.0, 3.0]);
}

#[test]
fn vectors_are_widened_and_selected() {
    let tensors = [
        brains("norm.weight", &[3], &[0.5, -1.0, 2.0]),
        halves("biases", &[2, 4], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]),
        floats("fused.bias", &[4], &[1.0, 2.0, 3.0, 4.0]),
    ];
    let (_folder, checkpoint) = checkpoint(json!(null), &tensors);
    let read = |source| plain(&checkpoint, source).into_iter().map(f32::from_le_bytes).collect::<Vec<_>>();
    let vector = |tensor: &str, rows, add| WeightSource::Vector { tensor: tensor.into(), rows, add };
    assert_eq!(read(vector("norm.weight", RowSelection::all(), 1.0)), [1.5, 0.0, 3.0]);
    assert_eq!(read(vector("fused.bias", RowSelection::range(1).bounded(2), 0.0)), [2.0, 3.0]);
    let rows = |tensor: &str, row, rows| (tensor.to_string(), row, rows);
    let stack = vec![
        rows("biases", Some(1), RowSelection::every(1, 2)),
        rows("biases", Some(0), RowSelection::every(0, 2)),
        rows("fused.bias", None, RowSelection::range(2)),
    ];
    assert_eq!(read(WeightSource::VectorStack(stack)), [5.0, 7.0, 0.0, 2.0, 3.0, 4.0]);
}
