//! Arithmetic of a launch: products with matrices at the rate of their activations' type, everything else at the f32 rate.

use ir::program::Arg;
use ir::types::DType;

use super::TargetSpec;
use super::call::Call;
use super::traffic::{routing_blocks, scaling_blocks};

/// Operations a launch takes.
pub(super) struct Work {
    /// Of products with matrices and of attention.
    pub products: u64,
    /// Of everything else.
    pub elementwise: u64,
    activations: Option<DType>,
}

impl Work {
    /// How many of its product operations a target does in a second.
    pub fn rate(&self, spec: &TargetSpec) -> f64 {
        match self.activations {
            Some(DType::Q8X32) => spec.int8_ops_per_s,
            Some(DType::F16 | DType::BF16) => spec.f16_ops_per_s,
            _ => spec.f32_ops_per_s,
        }
    }
}

/// Operations of rounding an element: magnitude, largest, times the inverse, nearest.
const ROUND: u64 = 4;

/// What an element takes in kernels that are not products. An exponential or tangent counts as eight.
const PER_ELEMENT: &[(&str, u64)] = &[
    ("rms_norm", 4),
    ("layer_norm", 6),
    ("norm_quantize", 4 + ROUND),
    ("norm_add", 5),
    ("quantize_rows", ROUND),
    ("square_sums", 2),
    ("rope", 4),
    ("combine", 2),
    ("combine_add", 2),
    ("sigmoid_gate", 8),
];

/// What an element of a staged row takes for each kind of inline norm: none, rms, layer, scale.
const INLINE_NORM: [u64; 4] = [0, 4, 6, 1];

/// Operations of a launch.
pub(super) fn operations(call: &Call, spec: &TargetSpec) -> Work {
    let activations = call.activations();
    if let Some(products) = attention(call) {
        return Work { products, elementwise: 0, activations: None };
    }
    let product = |m| -> u64 { call.product_rows(&m).saturating_mul(m.rows).saturating_mul(m.cols).saturating_mul(2) };
    let products = call.matrices().fold(0u64, |sum, (_, m)| sum.saturating_add(product(m)));
    let elementwise = if products > 0 { prologue(call, spec) } else { elementwise(call) };
    Work { products, elementwise, activations }
}

/// Scores and weighted sums of every token over the positions it sees.
fn attention(call: &Call) -> Option<u64> {
    call.operand("kv").filter(|_| call.launch.kernel == "attention")?;
    let key = call.count("head_dim")?;
    let value = call.count("value_dim").filter(|d| *d > 0).unwrap_or(key);
    let pair = call.count("heads")?.saturating_mul(2 * key.saturating_add(value));
    Some(call.attended_pairs().saturating_mul(pair))
}

/// What blocks do before their product, or the launch that prepares it does once: norm and rounding of rows, the routing of a step.
fn prologue(call: &Call, spec: &TargetSpec) -> u64 {
    let kind = call.count("norm").and_then(|kind| INLINE_NORM.get(usize::try_from(kind).ok()?));
    let per_element = kind.copied().unwrap_or(0) + if call.rounds() { ROUND } else { 0 };
    let staged = match call.activations_read().filter(|_| call.prepares(spec)) {
        Some(x) => call.elements(x),
        None => call.staged_rows(spec).saturating_mul(call.staged_cols()),
    };
    let elements = |field: &str| call.operand(field).map_or(0, |ty| call.elements(ty));
    let scales = elements("squares").saturating_mul(scaling_blocks(call, spec));
    let partials = elements("route_squares").saturating_add(elements("route_partials"));
    // A launch that routes goes through the logits of every token once a slot.
    let logits = || call.tokens().saturating_mul(call.stack().map_or(0, |(experts, _)| experts));
    let passes = call.operand("experts_out").map_or(0, |_| logits().saturating_mul(call.slots()));
    let routes = partials.saturating_add(passes).saturating_mul(routing_blocks(call, spec));
    staged.saturating_mul(per_element).saturating_add(scales).saturating_add(routes)
}

/// One operation, or what the kernel is known to take, for each element of the largest operand.
fn elementwise(call: &Call) -> u64 {
    let tensors = call.launch.args.iter().filter(|(_, arg)| matches!(arg, Arg::Buffer(..)));
    // An embedding's table is not gone through: only results and intermediates count.
    let largest = tensors.filter_map(|(_, arg)| call.ty(arg)).map(|ty| call.elements(ty)).max().unwrap_or(0);
    let known = PER_ELEMENT.iter().find(|(kernel, _)| *kernel == call.launch.kernel);
    let per_element = known.map(|(_, n)| *n).or_else(|| activation(call)).unwrap_or(1);
    largest.saturating_mul(per_element)
}

/// `binary` and `unary` with an activation or a tangent in them.
fn activation(call: &Call) -> Option<u64> {
    let curved = call.launch.variant.ends_with("_mul") || call.launch.variant == "softcap";
    (curved && matches!(call.launch.kernel.as_str(), "binary" | "unary")).then_some(10)
}
