//! What the tensors of a model are taken to be where only its configuration is at hand.
//!
//! Shapes follow from the configuration; formats from its dtype and its quantisation method, which the methods apply to the
//! products inside layers, but never to routers. Where headers would tell more than the configuration (activation order,
//! patterns that only a regular expression engine understands) the answer is an error that asks for the weights.

use ir::types::DType;

use super::groups::Grouping;
use super::scheme::Scheme;
use crate::ModelError;
use crate::config::Fields;
use crate::source::{Checkpoint, Metadata};

/// Families that store projections of one input in one matrix: `model_type`, the module they lack, the one they have.
const FUSED: &[(&str, &str, &str)] = &[
    ("phi3", ".self_attn.q_proj", ".self_attn.qkv_proj"),
    ("phi3", ".mlp.gate_proj", ".mlp.gate_up_proj"),
    ("gpt_oss", ".mlp.experts.0.gate_proj", ".mlp.experts.gate_up_proj"),
    ("granitemoe", ".mlp.experts.0.gate_proj", ".block_sparse_moe.input_linear"),
];

/// Modules that only converters to other containers write.
const NEVER: &[&str] = &[".k_b_proj", ".v_b_proj"];

/// The formats of a checkpoint without tensors.
#[derive(Debug)]
pub(super) struct AssumedFormats {
    floats: DType,
    model_type: String,
    scheme: Scheme,
    /// Modules that keep floats, as the quantisation method lists them.
    kept: Vec<Pattern>,
}

impl AssumedFormats {
    /// The formats that the configuration implies; `None` for a checkpoint that has tensors.
    ///
    /// # Errors
    /// A configuration that does not say enough, by field.
    pub fn of(checkpoint: &Checkpoint, scheme: Scheme) -> Result<Option<AssumedFormats>, ModelError> {
        let (true, Metadata::HuggingFace(config)) = (checkpoint.is_assumed(), checkpoint.metadata()) else {
            return Ok(None);
        };
        let fields = config.fields();
        let quantisation = fields.opt_object("quantization_config")?;
        let kept = quantisation.map_or(Ok(Vec::new()), |q| kept_modules(&q))?;
        let model_type = fields.str("model_type")?.to_owned();
        Ok(Some(AssumedFormats { floats: float_dtype(&fields)?, model_type, scheme, kept }))
    }

    /// Whether a checkpoint of this family has a module, of those that stand for each other.
    pub fn has(&self, module: &str) -> bool {
        let rows = || FUSED.iter().filter(|(model_type, ..)| *model_type == self.model_type);
        let is_missing = rows().any(|(_, own, _)| module.ends_with(own)) || NEVER.iter().any(|n| module.ends_with(n));
        !is_missing
    }

    /// The format of a module's matrix with rows of `cols` elements.
    pub fn dtype(&self, module: &str, cols: u64) -> DType {
        let in_layer = module.starts_with("model.layers.");
        if !in_layer || is_router(module) || self.kept.iter().any(|pattern| pattern.matches(module)) {
            return self.floats;
        }
        match self.scheme {
            Scheme::Plain => self.floats,
            Scheme::Gptq { group, symmetric, .. } | Scheme::PackedInt4 { group, symmetric } => {
                Grouping::new(cols, group).dtype(symmetric)
            }
            Scheme::Awq { group } => Grouping::new(cols, group).dtype(false),
            Scheme::Fp8 { .. } => DType::F8_E4M3,
            Scheme::Mxfp4 if module.contains(".experts") => DType::MXFP4,
            Scheme::Mxfp4 => self.floats,
            Scheme::Bitnet { .. } => DType::T2,
        }
    }
}

/// Routers and gates of a shared expert.
fn is_router(module: &str) -> bool {
    let last = module.rsplit('.').next().unwrap_or(module);
    matches!(last, "gate" | "router" | "shared_expert_gate") || module.ends_with(".router.layer")
}

/// `dtype`, which older files call `torch_dtype`.
fn float_dtype(fields: &Fields) -> Result<DType, ModelError> {
    let name = if fields.has("dtype") { "dtype" } else { "torch_dtype" };
    match fields.opt_str(name)? {
        Some("float32") => Ok(DType::F32),
        Some("float16") => Ok(DType::F16),
        Some("bfloat16") => Ok(DType::BF16),
        _ => Err(fields.wrong(name, "float32, float16 or bfloat16 (without weights nothing else tells their size)")),
    }
}

/// The modules that a quantisation method leaves alone.
fn kept_modules(fields: &Fields) -> Result<Vec<Pattern>, ModelError> {
    if fields.bool_or("desc_act", false)? {
        return Err(
            fields.wrong("desc_act", "false, or a folder that also holds the weights, whose order matters here")
        );
    }
    let mut kept = Vec::new();
    for name in ["modules_to_not_convert", "ignore"] {
        for entry in fields.opt_strs(name)?.unwrap_or_default() {
            let unknown =
                || fields.wrong(name, "plain names, or patterns of . * and $; else the folder with the weights");
            kept.push(Pattern::parse(entry).ok_or_else(unknown)?);
        }
    }
    Ok(kept)
}

/// Parts of a module's name in their order, whole between dots but where a star stands.
#[derive(Debug, PartialEq, Eq)]
struct Pattern {
    parts: Vec<String>,
    end: End,
}

/// What may follow the last part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Modules inside the one named.
    Inside,
    /// Anything.
    Anything,
    /// Nothing.
    Nothing,
}

impl Pattern {
    /// `None` for what needs a regular expression engine.
    fn parse(entry: &str) -> Option<Pattern> {
        let regex = entry.strip_prefix("re:");
        let text = regex.map_or_else(|| entry.to_owned(), |r| r.replace("\\.", ".").replace(".*", "*"));
        let end = match (regex.is_some() && text.ends_with('$'), text.ends_with('*')) {
            (true, _) => End::Nothing,
            (_, true) => End::Anything,
            _ => End::Inside,
        };
        let text = text.trim_start_matches('^').trim_end_matches('$');
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '*');
        let parts = text.split('*').filter(|part| !part.is_empty()).map(str::to_owned).collect();
        text.chars().all(is_plain).then_some(Pattern { parts, end })
    }

    fn matches(&self, module: &str) -> bool {
        let name = format!(".{module}.");
        let mut rest = name.as_str();
        for (i, part) in self.parts.iter().enumerate() {
            let is_last = i + 1 == self.parts.len();
            let mut wanted = if i == 0 { format!(".{}", part.trim_start_matches('.')) } else { part.clone() };
            if is_last && self.end != End::Anything {
                wanted = format!("{}.", wanted.trim_end_matches('.'));
            }
            let Some(at) = rest.find(&wanted) else { return false };
            rest = &rest[at + wanted.len()..];
        }
        self.end != End::Nothing || rest.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_names() {
        let cases = [
            ("lm_head", "lm_head", true),
            ("model.vision*", "model.vision_tower.conv", true),
            ("gate", "model.layers.0.mlp.gate", true),
            ("gate", "model.layers.0.mlp.gate_proj", false),
            ("model.layers.*.self_attn", "model.layers.11.self_attn.q_proj", true),
            ("model.layers.*.self_attn", "model.layers.11.mlp.up_proj", false),
            ("re:.*block_sparse_moe\\.gate$", "model.layers.3.block_sparse_moe.gate", true),
            ("re:.*mlp\\.gate$", "model.layers.3.mlp.gate.linear", false),
            ("model.layers.0.mlp.down_proj", "model.layers.0.mlp.down_proj", true),
            ("model.layers.0.mlp.down_proj", "model.layers.10.mlp.down_proj", false),
        ];
        for (pattern, module, expected) in cases {
            assert_eq!(Pattern::parse(pattern).unwrap().matches(module), expected, "{pattern} on {module}");
        }
        assert_eq!(Pattern::parse("re:model\\.layers\\.(0|1)\\..*"), None);
    }
}
