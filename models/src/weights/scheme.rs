//! The quantisation method that `config.json` names, and the settings that headers of tensors do not tell.

use serde_json::Value;

use crate::ModelError;
use crate::config::Fields;
use crate::source::{Checkpoint, Metadata};

/// The method of `quantization_config`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    /// None: tensors are what they are called.
    Plain,
    /// GPTQ (Frantar et al. 2022) as AutoGPTQ stores it.
    Gptq {
        /// Inputs of a group; `None` for all.
        group: Option<u64>,
        /// Whether all zeros are said to be 8.
        symmetric: bool,
        /// Whether stored zeros are one less than the zeros.
        offset_zeros: bool,
    },
    /// AWQ (Lin et al. 2023), "gemm" version.
    Awq {
        /// Inputs of a group; `None` for all.
        group: Option<u64>,
    },
    /// compressed-tensors, format "pack-quantized".
    PackedInt4 {
        /// Inputs of a group; `None` for all.
        group: Option<u64>,
        /// Whether there are no zero points.
        symmetric: bool,
    },
    /// 8-bit floats.
    Fp8 {
        /// Rows and columns of a block; `None` for one scale a row or tensor.
        block: Option<[u64; 2]>,
    },
    /// MXFP4: tensors say it all.
    Mxfp4,
    /// BitNet (Ma et al. 2024).
    Bitnet {
        /// Whether weights are made ternary when loaded.
        online: bool,
        /// Whether products are divided by the stored scale, as by class `bitlinear`; `autobitlinear` multiplies.
        divides: bool,
    },
}

/// The methods, for messages.
const METHODS: &str = "gptq, awq, compressed-tensors, fp8, mxfp4, bitnet";

impl Scheme {
    /// The method of a checkpoint.
    ///
    /// # Errors
    /// A method or a setting that is not supported, by field.
    pub fn of(checkpoint: &Checkpoint) -> Result<Scheme, ModelError> {
        let Metadata::HuggingFace(config) = checkpoint.metadata() else { return Ok(Scheme::Plain) };
        let Some(fields) = config.fields().opt_object("quantization_config")? else { return Ok(Scheme::Plain) };
        match fields.str("quant_method")? {
            "gptq" => gptq(&fields),
            "awq" => awq(&fields),
            "compressed-tensors" => compressed(&fields),
            "fp8" => Ok(Scheme::Fp8 { block: block_size(&fields, "weight_block_size")? }),
            "mxfp4" => Ok(Scheme::Mxfp4),
            "bitnet" => bitnet(&fields),
            _ => Err(fields.wrong("quant_method", format!("one of {METHODS}"))),
        }
    }

    /// What follows a module's name, where this method stores matrices under other names than `.weight`.
    pub fn suffix(self) -> Option<&'static str> {
        match self {
            Scheme::Gptq { .. } | Scheme::Awq { .. } => Some(".qweight"),
            Scheme::PackedInt4 { .. } => Some(".weight_packed"),
            Scheme::Mxfp4 => Some("_blocks"),
            Scheme::Plain | Scheme::Fp8 { .. } | Scheme::Bitnet { .. } => None,
        }
    }
}

fn gptq(fields: &Fields) -> Result<Scheme, ModelError> {
    expect_bits(fields, "bits", 4)?;
    let offset_zeros = match fields.opt_str("checkpoint_format")?.unwrap_or("gptq") {
        "gptq" => true,
        "gptq_v2" => false,
        _ => return Err(fields.wrong("checkpoint_format", "gptq or gptq_v2")),
    };
    let symmetric = fields.bool_or("sym", true)?;
    Ok(Scheme::Gptq { group: group_size(fields)?, symmetric, offset_zeros })
}

fn awq(fields: &Fields) -> Result<Scheme, ModelError> {
    expect_bits(fields, "bits", 4)?;
    if fields.opt_str("version")?.is_some_and(|version| !version.eq_ignore_ascii_case("gemm")) {
        return Err(fields.wrong("version", "gemm"));
    }
    Ok(Scheme::Awq { group: group_size(fields)? })
}

/// The weights of the first group of modules. Where others differ, their tensors have other shapes, which is found when
/// they are looked up.
fn compressed(fields: &Fields) -> Result<Scheme, ModelError> {
    let groups = fields.object("config_groups")?;
    let weights = groups.object("group_0")?.object("weights")?;
    let expect_type = |expected: &str| match weights.opt_str("type")? {
        Some(found) if found != expected => Err(weights.wrong("type", expected)),
        _ => Ok(()),
    };
    match fields.str("format")? {
        "pack-quantized" => {
            expect_type("int")?;
            expect_bits(&weights, "num_bits", 4)?;
            let one_group = weights.opt_str("strategy")? == Some("channel");
            let group = if one_group { None } else { group_size(&weights)? };
            Ok(Scheme::PackedInt4 { group, symmetric: weights.bool_or("symmetric", true)? })
        }
        "float-quantized" => {
            expect_type("float")?;
            expect_bits(&weights, "num_bits", 8)?;
            Ok(Scheme::Fp8 { block: block_size(&weights, "block_structure")? })
        }
        _ => Err(fields.wrong("format", "pack-quantized or float-quantized")),
    }
}

fn bitnet(fields: &Fields) -> Result<Scheme, ModelError> {
    let online = match fields.opt_str("quantization_mode")?.unwrap_or("offline") {
        "offline" => false,
        "online" => true,
        _ => return Err(fields.wrong("quantization_mode", "offline or online")),
    };
    let divides = match fields.opt_str("linear_class")?.unwrap_or("bitlinear") {
        "bitlinear" => true,
        "autobitlinear" => false,
        _ => return Err(fields.wrong("linear_class", "bitlinear or autobitlinear")),
    };
    match fields.bool_or("use_rms_norm", false)? {
        false => Ok(Scheme::Bitnet { online, divides }),
        true => Err(fields.wrong("use_rms_norm", "false; norms inside linear layers are not supported")),
    }
}

fn expect_bits(fields: &Fields, name: &str, bits: u64) -> Result<(), ModelError> {
    match fields.u64(name, 0..=64)? == bits {
        true => Ok(()),
        false => Err(fields.wrong(name, format!("{bits}, the only width that is supported here"))),
    }
}

/// `group_size`: a positive number, or -1 for one group a row.
fn group_size(fields: &Fields) -> Result<Option<u64>, ModelError> {
    const NAME: &str = "group_size";
    if fields.get(NAME).and_then(Value::as_i64) == Some(-1) {
        return Ok(None);
    }
    let size = fields.opt_size(NAME)?;
    match size {
        Some(n) if n % 32 != 0 => Err(fields.wrong(NAME, "-1 or a multiple of 32")),
        _ => Ok(size),
    }
}

/// Rows and columns of a block that shares a scale. Formats keep a scale for every 128 columns.
fn block_size(fields: &Fields, name: &str) -> Result<Option<[u64; 2]>, ModelError> {
    let Some(value) = fields.get(name).filter(|value| !value.is_null()) else { return Ok(None) };
    let sizes: Option<Vec<u64>> = value.as_array().map(|list| list.iter().filter_map(Value::as_u64).collect());
    match sizes.as_deref() {
        Some(&[rows, cols]) if rows > 0 && cols > 0 && cols.is_multiple_of(128) => Ok(Some([rows, cols])),
        _ => Err(fields.wrong(name, "two numbers: rows, and columns that are a multiple of 128")),
    }
}
