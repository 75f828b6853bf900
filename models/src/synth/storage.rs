//! How the weights of a model are stored: as floats, or quantised as published checkpoints are.
//!
//! int4 is the "pack-quantized" layout of compressed-tensors, symmetric, for every linear layer inside the decoder; for
//! stacked experts it is the MXFP4 layout gpt-oss is published in. Codes and scales are drawn directly, never computed from
//! float weights.

use serde_json::{Value, json};

use super::SynthError;
use super::shape::{Layout, Weight};
use super::values::{Element, Fill};

/// Columns of an MXFP4 block.
const MX_BLOCK: u64 = 32;

/// Codes of one I32 word.
const CODES_PER_WORD: u64 = 8;

/// What weights are stored as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightFormat {
    /// 32-bit floats.
    F32,
    /// 16-bit IEEE floats.
    F16,
    /// The upper half of 32-bit floats.
    BF16,
    /// 4-bit integers with one bf16 scale for this many columns of a row; stacked experts as MXFP4, whatever the group.
    Int4 {
        /// Columns of a group: 32, 64 or 128.
        group_size: u64,
    },
}

impl WeightFormat {
    /// `torch_dtype` of what is not quantised.
    pub(super) fn torch_dtype(self) -> &'static str {
        match self {
            WeightFormat::F32 => "float32",
            WeightFormat::F16 => "float16",
            WeightFormat::BF16 | WeightFormat::Int4 { .. } => "bfloat16",
        }
    }

    fn element(self) -> Element {
        match self {
            WeightFormat::F32 => Element::F32,
            WeightFormat::F16 => Element::F16,
            WeightFormat::BF16 | WeightFormat::Int4 { .. } => Element::BF16,
        }
    }
}

/// One tensor of a checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct StoredTensor {
    pub name: String,
    pub element: Element,
    /// Row-major, outermost first.
    pub shape: Vec<u64>,
    pub fill: Fill,
}

impl StoredTensor {
    fn new(name: String, element: Element, shape: &[u64], fill: Fill) -> StoredTensor {
        StoredTensor { name, element, shape: shape.to_vec(), fill }
    }

    /// Number of elements.
    pub fn elements(&self) -> u64 {
        self.shape.iter().product()
    }

    /// Length of the data.
    pub fn bytes(&self) -> u64 {
        self.elements() * self.element.bytes()
    }
}

/// The tensors a weight is stored as.
///
/// # Errors
/// A matrix that does not consist of whole groups.
pub(super) fn stored(weight: &Weight, format: WeightFormat) -> Result<Vec<StoredTensor>, SynthError> {
    let floats = |name: String, shape: &[u64]| {
        let fill = Fill::Normal { mean: weight.mean, std: weight.std };
        vec![StoredTensor::new(name, format.element(), shape, fill)]
    };
    let name = || weight.name.clone();
    Ok(match (weight.layout, format) {
        (Layout::Vector(n), _) => floats(name(), &[n]),
        (Layout::Table(rows, cols), _) => floats(name(), &[rows, cols]),
        (Layout::Linear(out, input), WeightFormat::Int4 { group_size }) => int4(weight, out, input, group_size)?,
        (Layout::Linear(out, input), _) => floats(format!("{}.weight", weight.name), &[out, input]),
        (Layout::Experts(experts, out, input), WeightFormat::Int4 { .. }) => mxfp4(weight, experts, out, input)?,
        (Layout::Experts(experts, out, input), _) => floats(name(), &[experts, input, out]),
    })
}

fn int4(weight: &Weight, out: u64, input: u64, group: u64) -> Result<Vec<StoredTensor>, SynthError> {
    whole_groups(weight, input, group)?;
    let name = |part: &str| format!("{}.weight_{part}", weight.name);
    let shape = Fill::Integers(vec![out as i64, input as i64]);
    let scales = Fill::Int4Scales { std: weight.std };
    Ok(vec![
        StoredTensor::new(name("packed"), Element::I32, &[out, input / CODES_PER_WORD], Fill::Int4Words),
        StoredTensor::new(name("scale"), Element::BF16, &[out, input / group], scales),
        StoredTensor::new(name("shape"), Element::I64, &[2], shape),
    ])
}

fn mxfp4(weight: &Weight, experts: u64, out: u64, input: u64) -> Result<Vec<StoredTensor>, SynthError> {
    whole_groups(weight, input, MX_BLOCK)?;
    let name = |part: &str| format!("{}_{part}", weight.name);
    let (blocks, exponents) = (input / MX_BLOCK, Fill::E2m1Exponents { std: weight.std });
    Ok(vec![
        StoredTensor::new(name("blocks"), Element::U8, &[experts, out, blocks, MX_BLOCK / 2], Fill::E2m1Pairs),
        StoredTensor::new(name("scales"), Element::U8, &[experts, out, blocks], exponents),
    ])
}

fn whole_groups(weight: &Weight, columns: u64, group: u64) -> Result<(), SynthError> {
    match columns.is_multiple_of(group) {
        true => Ok(()),
        false => Err(SynthError::Group { tensor: weight.name.clone(), columns, group }),
    }
}

/// The `quantization_config` of a model of these weights; `None` if nothing is quantised.
pub(super) fn quantization_config(weights: &[Weight], format: WeightFormat) -> Option<Value> {
    let WeightFormat::Int4 { group_size } = format else { return None };
    if weights.iter().any(|w| matches!(w.layout, Layout::Experts(..))) {
        return Some(json!({
            "modules_to_not_convert":
                ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"],
            "quant_method": "mxfp4",
        }));
    }
    let routers = weights.iter().find_map(|w| w.name.strip_prefix("model.layers.0.")?.strip_suffix("gate.weight"));
    let mut ignore = vec!["lm_head".to_owned()];
    ignore.extend(routers.map(|block| format!("re:.*{}gate$", block.replace('.', "\\."))));
    Some(json!({
        "config_groups": { "group_0": {
            "input_activations": null,
            "output_activations": null,
            "targets": ["Linear"],
            "weights": {
                "actorder": null, "block_structure": null, "dynamic": false, "group_size": group_size, "num_bits": 4,
                "observer": "minmax", "observer_kwargs": {}, "strategy": "group", "symmetric": true, "type": "int",
            },
        } },
        "format": "pack-quantized",
        "global_compression_ratio": null,
        "ignore": ignore,
        "kv_cache_scheme": null,
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
    }))
}
