//! GPTQ, AWQ and pack-quantized integers against their definitions.

use ir::types::DType;
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::support::{Written, brains, checkpoint, halves, nibble, plain, scales, tensor, values, whole, words};
use crate::weights::{Resolver, StackOrder, WeightSource};

/// The content of a module: shape, group and random words, enough for any use.
#[derive(Clone, Debug)]
struct Module {
    rows: usize,
    cols: usize,
    /// Columns of a group; as many as there are for -1.
    group: i64,
    qweight: Vec<u32>,
    qzeros: Vec<u32>,
    scales: Vec<f32>,
    /// Rows that are read at a time.
    step: u64,
}

impl Module {
    fn size(&self) -> usize {
        usize::try_from(self.group).unwrap_or(self.cols)
    }

    fn groups(&self) -> usize {
        self.cols.div_ceil(self.size())
    }

    /// `qzeros` and `scales` by group.
    fn by_group(&self, zeros: &[u32]) -> [Written; 2] {
        let (groups, rows) = (self.groups(), self.rows);
        [
            words("m.qzeros", &[groups, rows / 8], &zeros[..groups * rows / 8]),
            halves("m.scales", &[groups, rows], &self.scales[..groups * rows]),
        ]
    }

    fn gptq(&self, zeros: &[u32], g_idx: Option<&[u32]>) -> Vec<Written> {
        let weight = &self.qweight[..self.cols / 8 * self.rows];
        let mut tensors = vec![words("m.qweight", &[self.cols / 8, self.rows], weight)];
        tensors.extend(self.by_group(zeros));
        tensors.extend(g_idx.map(|g| words("m.g_idx", &[self.cols], g)));
        tensors
    }

    /// `w[o, i] = scale[g(i), o] · (q[i, o] - zero[g(i), o])`, from the format's description.
    fn gptq_values(&self, zeros: &[u32], offset: f32, group_of: impl Fn(usize) -> usize) -> Vec<f32> {
        let each = |o: usize, i: usize| {
            let (g, rows) = (group_of(i), self.rows);
            let zero = nibble(zeros, g * (rows / 8) + o / 8, o % 8) + offset;
            self.scales[g * rows + o] * (nibble(&self.qweight, i / 8 * rows + o, i % 8) - zero)
        };
        (0..self.rows).flat_map(|o| (0..self.cols).map(move |i| (o, i))).map(|(o, i)| each(o, i)).collect()
    }
}

fn modules() -> impl Strategy<Value = Module> {
    let shape = (1usize..4, 1usize..24, prop_oneof![Just(32i64), Just(64), Just(96), Just(128), Just(256), Just(-1)]);
    (shape, 1u64..20).prop_flat_map(|((panels, eights, group), step)| {
        let (rows, cols) = (8 * panels, 8 * eights);
        let random = (vec(any::<u32>(), rows * cols / 8), vec(any::<u32>(), rows * cols), vec(scales(), rows * cols));
        random.prop_map(move |(qweight, qzeros, scales)| Module { rows, cols, group, qweight, qzeros, scales, step })
    })
}

fn config(module: &Module, more: Value) -> Value {
    let mut config = json!({"quant_method": "gptq", "bits": 4, "group_size": module.group});
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    config
}

/// The format that a module is found in, and its values.
fn read(config: Value, tensors: &[Written], module: &Module) -> (DType, Vec<f32>) {
    let (_folder, checkpoint) = checkpoint(config, tensors);
    let (rows, cols) = (module.rows as u64, module.cols as u64);
    let resolved = Resolver::new(&checkpoint).unwrap().matrix(&whole("m"), rows, cols).unwrap();
    assert_eq!(resolved.column_order, None);
    (resolved.dtype, values(&checkpoint, &whole("m"), rows, module.step))
}

fn has_zeros(dtype: DType) -> bool {
    dtype.name().starts_with("q4z")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn gptq_without_symmetry(module in modules(), version_two in any::<bool>()) {
        let (name, offset) = if version_two { ("gptq_v2", 0.0) } else { ("gptq", 1.0) };
        let config = config(&module, json!({"sym": false, "checkpoint_format": name}));
        let g_idx: Vec<u32> = (0..module.cols).map(|i| (i / module.size()) as u32).collect();
        let (dtype, found) = read(config, &module.gptq(&module.qzeros, Some(&g_idx)), &module);
        prop_assert!(has_zeros(dtype));
        prop_assert_eq!(found, module.gptq_values(&module.qzeros, offset, |i| i / module.size()));
    }

    #[test]
    fn gptq_with_symmetry(module in modules(), version_two in any::<bool>()) {
        let (name, offset, word) =
            if version_two { ("gptq_v2", 0.0, 0x8888_8888) } else { ("gptq", 1.0, 0x7777_7777) };
        let zeros = vec![word; module.qzeros.len()];
        let config = config(&module, json!({"sym": true, "checkpoint_format": name}));
        let (dtype, found) = read(config, &module.gptq(&zeros, None), &module);
        // Rows of Q4_0 are whole blocks; the others take a format with zeros.
        prop_assert!(!has_zeros(dtype) || !module.cols.is_multiple_of(32));
        prop_assert_eq!(found, module.gptq_values(&zeros, offset, |i| i / module.size()));
    }

    /// One zero that is not 8 is enough for the format that keeps it.
    #[test]
    fn gptq_that_is_only_called_symmetric(module in modules(), at in any::<prop::sample::Index>(), bit in 0u32..32) {
        let mut zeros = vec![0x7777_7777; module.qzeros.len()];
        zeros[at.index(module.groups() * module.rows / 8)] ^= 1 << bit;
        let (dtype, found) = read(config(&module, json!({"sym": true})), &module.gptq(&zeros, None), &module);
        prop_assert!(has_zeros(dtype));
        prop_assert_eq!(found, module.gptq_values(&zeros, 1.0, |i| i / module.size()));
    }

    /// Columns stand in the order that the order says, and belong to the groups that g_idx says.
    #[test]
    fn gptq_in_activation_order(module in modules(), shuffled in any::<u64>()) {
        let mut g_idx: Vec<u32> = (0..module.cols).map(|i| (i / module.size()) as u32).collect();
        let mut state = shuffled;
        for i in (1..g_idx.len()).rev() {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            g_idx.swap(i, (state >> 33) as usize % (i + 1));
        }
        let config = config(&module, json!({"sym": false, "desc_act": true}));
        let (_folder, checkpoint) = checkpoint(config, &module.gptq(&module.qzeros, Some(&g_idx)));
        let (rows, cols) = (module.rows as u64, module.cols as u64);
        let resolver = Resolver::new(&checkpoint).unwrap();
        let resolved = resolver.matrix(&whole("m"), rows, cols).unwrap();
        prop_assert_eq!(resolved.column_order.is_some(), !g_idx.is_sorted());
        let source = WeightSource::ColumnOrder { modules: vec!["m".into()], stacked: false };
        let order: Vec<usize> =
            plain(&checkpoint, source).into_iter().map(|b| u32::from_le_bytes(b) as usize).collect();
        let mut sorted: Vec<usize> = (0..module.cols).collect();
        sorted.sort_by_key(|i| g_idx[*i]);
        prop_assert_eq!(&order, &sorted);
        let own = module.gptq_values(&module.qzeros, 1.0, |i| g_idx[i] as usize);
        let expected: Vec<f32> =
            own.chunks(module.cols).flat_map(|row| order.iter().map(|i| row[*i])).collect();
        prop_assert_eq!(values(&checkpoint, &whole("m"), rows, module.step), expected);
    }

    #[test]
    fn awq(module in modules()) {
        const ORDER: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];
        let (rows, cols) = (module.rows, module.cols);
        let mut tensors = vec![words("m.qweight", &[cols, rows / 8], &module.qweight[..cols * rows / 8])];
        tensors.extend(module.by_group(&module.qzeros));
        let config = config(&module, json!({"quant_method": "awq", "version": "gemm", "zero_point": true}));
        let (dtype, found) = read(config, &tensors, &module);
        prop_assert!(has_zeros(dtype));
        let mut expected = vec![0.0; rows * cols];
        for (i, c, j) in (0..cols).flat_map(|i| (0..rows).map(move |o| (i, o / 8, o % 8))) {
            let (g, output) = (i / module.size(), 8 * c + ORDER[j]);
            let zero = nibble(&module.qzeros, g * (rows / 8) + c, j);
            expected[output * cols + i] =
                module.scales[g * rows + output] * (nibble(&module.qweight, i * (rows / 8) + c, j) - zero);
        }
        prop_assert_eq!(found, expected);
    }

    /// Any number of rows and columns: words are padded.
    #[test]
    fn pack_quantized(module in modules(), less_rows in 0usize..8, less_cols in 0usize..8, symmetric in any::<bool>()) {
        let module = Module { rows: module.rows - less_rows, cols: module.cols - less_cols, ..module };
        let (rows, cols, groups, size) = (module.rows, module.cols, module.groups(), module.size());
        let across = cols.div_ceil(8);
        let shape: Vec<u8> = [rows as u64, cols as u64].iter().flat_map(|n| n.to_le_bytes()).collect();
        let mut tensors = vec![
            words("m.weight_packed", &[rows, across], &module.qweight[..rows * across]),
            brains("m.weight_scale", &[rows, groups], &module.scales[..rows * groups]),
            tensor("m.weight_shape", safetensors::Dtype::I64, &[2], shape),
        ];
        if !symmetric {
            let down = rows.div_ceil(8);
            tensors.push(words("m.weight_zero_point", &[down, groups], &module.qzeros[..down * groups]));
        }
        let strategy = if module.group < 0 { json!({"strategy": "channel"}) } else { json!({"group_size": size}) };
        let mut weights = json!({"num_bits": 4, "type": "int", "symmetric": symmetric});
        weights.as_object_mut().unwrap().extend(strategy.as_object().unwrap().clone());
        let config = json!({
            "quant_method": "compressed-tensors", "format": "pack-quantized",
            "config_groups": {"group_0": {"weights": weights}},
        });
        let (dtype, found) = read(config, &tensors, &module);
        prop_assert!(has_zeros(dtype) != symmetric || !cols.is_multiple_of(32));
        let each = |o: usize, i: usize| {
            let zero = if symmetric { 8.0 } else { nibble(&module.qzeros, o / 8 * groups + i / size, o % 8) };
            (nibble(&module.qweight, o * across + i / 8, i % 8) - zero) * module.scales[o * groups + i / size]
        };
        let expected: Vec<f32> =
            (0..rows).flat_map(|o| (0..cols).map(move |i| (o, i))).map(|(o, i)| each(o, i)).collect();
        prop_assert_eq!(found, expected);
    }
}

/// Modules of the same order go by one name; stacks tell a shared order from orders of their own.
#[test]
fn orders_are_shared_where_they_are_equal() {
    let orders: [(&str, [u32; 2]); 4] = [("a", [1, 0]), ("b", [1, 0]), ("c", [0, 1]), ("d", [0, 1])];
    let mut tensors = Vec::new();
    for (name, halves_of) in orders {
        let mut g_idx: Vec<u32> = halves_of.iter().flat_map(|g| vec![*g; 32]).collect();
        if name == "d" {
            g_idx.swap(0, 40);
        }
        tensors.push(words(&format!("{name}.qweight"), &[8, 8], &[0x89ab_cdef; 64]));
        tensors.push(words(&format!("{name}.qzeros"), &[2, 1], &[0x7777_7777; 2]));
        tensors.push(halves(&format!("{name}.scales"), &[2, 8], &[0.5; 16]));
        tensors.push(words(&format!("{name}.g_idx"), &[64], &g_idx));
    }
    let config = json!({"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": true});
    let (_folder, checkpoint) = checkpoint(config, &tensors);
    let resolver = Resolver::new(&checkpoint).unwrap();
    let order = |name: &str| resolver.matrix(&whole(name), 8, 64).unwrap().column_order;
    assert_eq!(["a", "b", "c", "d"].map(order), [Some("a".into()), Some("a".into()), None, Some("d".into())]);
    let stack = |names: &[&str]| {
        let sources: Vec<_> = names.iter().map(|name| whole(name)).collect();
        resolver.stack(&sources, 8, 64).unwrap()
    };
    assert_eq!(stack(&["b", "a"]), (DType::Q4_0, StackOrder::Shared("a".into())));
    assert_eq!(stack(&["a", "c"]), (DType::Q4_0, StackOrder::PerExpert));
    assert_eq!(stack(&["a", "d"]), (DType::Q4_0, StackOrder::PerExpert));
    assert_eq!(stack(&["c", "c"]), (DType::Q4_0, StackOrder::None));
    let source = WeightSource::ColumnOrder { modules: vec!["a".into(), "c".into()], stacked: true };
    let found: Vec<u32> = plain(&checkpoint, source).into_iter().map(u32::from_le_bytes).collect();
    assert_eq!(found, (32..64).chain(0..32).chain(0..64).collect::<Vec<_>>());
}
