//! How the matrix of a module is stored: found from the tensors the module has, with every shape checked.

use ir::quant;
use ir::types::DType;

use super::groups::{Grouping, group_dtype};
use crate::ModelError;
use crate::config::Fields;
use crate::source::{Checkpoint, Metadata, TensorDType, TensorInfo};

/// The method that `quantization_config` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    /// None: tensors are what they are called.
    Plain,
    Gptq {
        /// Inputs of a group; `None` for all.
        group: Option<u64>,
        symmetric: bool,
        /// Whether stored zeros are one less than the zeros.
        offset_zeros: bool,
    },
    Awq {
        group: Option<u64>,
    },
    CompressedTensors {
        group: Option<u64>,
    },
    Fp8 {
        /// Rows and columns of a block; `None` for one scale a row or tensor.
        block: Option<[u64; 2]>,
    },
    Mxfp4,
    Bitnet {
        /// Whether weights are made ternary when loaded.
        online: bool,
    },
}

const METHODS: &str = "gptq, awq, compressed-tensors, fp8, mxfp4, bitnet";

impl Scheme {
    pub fn of(checkpoint: &Checkpoint) -> Result<Scheme, ModelError> {
        let Metadata::HuggingFace(config) = checkpoint.metadata() else { return Ok(Scheme::Plain) };
        let Some(fields) = config.fields().opt_object("quantization_config")? else { return Ok(Scheme::Plain) };
        match fields.str("quant_method")? {
            "gptq" => Scheme::gptq(&fields),
            "awq" => {
                expect_bits(&fields, "bits")?;
                if fields.opt_str("version")?.is_some_and(|v| !v.eq_ignore_ascii_case("gemm")) {
                    return Err(fields.wrong("version", "gemm"));
                }
                Ok(Scheme::Awq { group: group_size(&fields, "group_size")? })
            }
            "compressed-tensors" => compressed(&fields),
            "fp8" => Ok(Scheme::Fp8 { block: block_size(&fields)? }),
            "mxfp4" => Ok(Scheme::Mxfp4),
            "bitnet" => match fields.opt_str("quantization_mode")?.unwrap_or("offline") {
                "offline" => Ok(Scheme::Bitnet { online: false }),
                "online" => Ok(Scheme::Bitnet { online: true }),
                _ => Err(fields.wrong("quantization_mode", "offline or online")),
            },
            _ => Err(fields.wrong("quant_method", format!("one of {METHODS}"))),
        }
    }

    fn gptq(fields: &Fields) -> Result<Scheme, ModelError> {
        expect_bits(fields, "bits")?;
        let offset_zeros = match fields.opt_str("checkpoint_format")?.unwrap_or("gptq") {
            "gptq" => true,
            "gptq_v2" => false,
            _ => return Err(fields.wrong("checkpoint_format", "gptq or gptq_v2")),
        };
        let symmetric = fields.bool_or("sym", true)?;
        Ok(Scheme::Gptq { group: group_size(fields, "group_size")?, symmetric, offset_zeros })
    }
}

fn expect_bits(fields: &Fields, name: &str) -> Result<(), ModelError> {
    match fields.u64(name, 0..=64)? {
        4 => Ok(()),
        _ => Err(fields.wrong(name, "4, the only width of integers that is supported here")),
    }
}

/// A positive number, or -1 for one group a row.
fn group_size(fields: &Fields, name: &str) -> Result<Option<u64>, ModelError> {
    if fields.get(name).and_then(serde_json::Value::as_i64) == Some(-1) {
        return Ok(None);
    }
    let size = fields.opt_size(name)?;
    match size {
        Some(n) if n % 32 != 0 => Err(fields.wrong(name, "-1 or a multiple of 32")),
        _ => Ok(size),
    }
}

fn block_size(fields: &Fields) -> Result<Option<[u64; 2]>, ModelError> {
    if !fields.has("weight_block_size") {
        return Ok(None);
    }
    let sizes = fields.opt_f64s("weight_block_size")?.unwrap_or_default();
    match sizes.as_slice() {
        [rows, cols] if *rows >= 1.0 && *cols >= 128.0 && cols % 128.0 == 0.0 => Ok(Some([*rows as u64, *cols as u64])),
        _ => Err(fields.wrong("weight_block_size", "rows, and columns that are a multiple of 128")),
    }
}

/// The weights of the first group of modules; groups of several kinds are not told apart.
fn compressed(fields: &Fields) -> Result<Scheme, ModelError> {
    let groups = fields.object("config_groups")?;
    let weights = groups.object("group_0")?.object("weights")?;
    match fields.str("format")? {
        "pack-quantized" => {
            expect_bits(&weights, "num_bits")?;
            let group = if weights.opt_str("strategy")? == Some("channel") {
                None
            } else {
                group_size(&weights, "group_size")?
            };
            Ok(Scheme::CompressedTensors { group })
        }
        "float-quantized" => {
            let block = if weights.has("block_structure") && !weights.get("block_structure").is_none_or(|v| v.is_null())
            {
                return Err(weights.wrong("block_structure", "null"));
            } else {
                None
            };
            Ok(Scheme::Fp8 { block })
        }
        _ => Err(fields.wrong("format", "pack-quantized or float-quantized")),
    }
}

/// The tensors a matrix is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// One tensor in a format of its own.
    Plain { tensor: String },
    /// `qweight`, `qzeros`, `scales`, possibly `g_idx`.
    Gptq { grouping: Grouping, offset_zeros: bool, ordered: bool },
    /// `qweight`, `qzeros`, `scales`.
    Awq { grouping: Grouping },
    /// `weight_packed`, `weight_scale`, possibly `weight_zero_point`.
    PackedInt4 { grouping: Grouping },
    /// `weight` and its scales: the tensor, and rows and columns that share one.
    Fp8 { scales: String, block: [u64; 2] },
    /// `_blocks` and `_scales`.
    Mxfp4,
    /// `weight` with four rows a byte and `weight_scale`.
    TernaryPacked,
    /// A float `weight` that is made ternary.
    TernaryOnline { tensor: String },
}

/// A module's matrix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub form: Form,
    /// Matrices in the tensor, if it has rank 3.
    pub matrices: Option<u64>,
    pub rows: u64,
    pub cols: u64,
    /// The format its rows are given in.
    pub dtype: DType,
}

/// Finds a module's matrix.
pub(super) fn find(checkpoint: &Checkpoint, scheme: Scheme, module: &str) -> Result<Stored, ModelError> {
    let part = |suffix: &str| format!("{module}{suffix}");
    if checkpoint.find(&part(".qweight")).is_some() {
        return match scheme {
            Scheme::Gptq { group, symmetric, offset_zeros } => gptq(checkpoint, module, group, symmetric, offset_zeros),
            Scheme::Awq { group } => awq(checkpoint, module, group),
            _ => Err(wrong_tensor(checkpoint, &part(".qweight"), "quantization_config names neither gptq nor awq")),
        };
    }
    if checkpoint.find(&part(".weight_packed")).is_some() {
        let Scheme::CompressedTensors { group } = scheme else {
            let problem = "quantization_config does not name compressed-tensors with format pack-quantized";
            return Err(wrong_tensor(checkpoint, &part(".weight_packed"), problem));
        };
        return packed_int4(checkpoint, module, group);
    }
    if checkpoint.find(&part("_blocks")).is_some() {
        return mxfp4(checkpoint, module);
    }
    let tensor = if checkpoint.find(module).is_some() { module.to_string() } else { part(".weight") };
    let info = checkpoint.tensor(&tensor)?;
    match &info.dtype {
        TensorDType::Other(name) if name == "U8" && matches!(scheme, Scheme::Bitnet { .. }) => {
            ternary(checkpoint, module, info)
        }
        TensorDType::Other(name) if name == "F8_E4M3" => fp8(checkpoint, module, info, scheme),
        _ => plain(checkpoint, scheme, &tensor),
    }
}

fn wrong_tensor(checkpoint: &Checkpoint, tensor: &str, problem: &str) -> ModelError {
    ModelError::tensor(checkpoint.path(), tensor, problem)
}

/// The two dimensions of a tensor.
fn matrix_shape(checkpoint: &Checkpoint, tensor: &str) -> Result<[u64; 2], ModelError> {
    match checkpoint.tensor(tensor)?.shape.as_slice() {
        [a, b] => Ok([*a, *b]),
        other => Err(wrong_tensor(checkpoint, tensor, &format!("expected a matrix, found shape {other:?}"))),
    }
}

fn times(checkpoint: &Checkpoint, tensor: &str, a: u64, b: u64) -> Result<u64, ModelError> {
    a.checked_mul(b).ok_or_else(|| wrong_tensor(checkpoint, tensor, "its dimensions overflow"))
}

/// Checks that a tensor stores words or bytes of this type.
fn expect_type(checkpoint: &Checkpoint, tensor: &str, expected: &str) -> Result<(), ModelError> {
    let found = match &checkpoint.tensor(tensor)?.dtype {
        TensorDType::Known(DType::I32) => "I32".to_string(),
        other => other.to_string(),
    };
    if found == expected {
        return Ok(());
    }
    Err(wrong_tensor(checkpoint, tensor, &format!("expected elements of type {expected}, found {found}")))
}

/// Checks that scales are floats.
fn expect_floats(checkpoint: &Checkpoint, tensor: &str) -> Result<(), ModelError> {
    match checkpoint.dtype(tensor)? {
        DType::F32 | DType::F16 | DType::BF16 => Ok(()),
        other => {
            Err(wrong_tensor(checkpoint, tensor, &format!("expected scales of type f32, f16 or bf16, found {other}")))
        }
    }
}

fn plain(checkpoint: &Checkpoint, scheme: Scheme, tensor: &str) -> Result<Stored, ModelError> {
    let (info, dtype) = (checkpoint.tensor(tensor)?, checkpoint.dtype(tensor)?);
    let (matrices, rows, cols) = match info.shape.as_slice() {
        [rows, cols] => (None, *rows, *cols),
        [matrices, rows, cols] => (Some(*matrices), *rows, *cols),
        other => return Err(wrong_tensor(checkpoint, tensor, &format!("expected a matrix, found shape {other:?}"))),
    };
    if quant::format(dtype).is_none() {
        return Err(wrong_tensor(checkpoint, tensor, &format!("{dtype} holds no real numbers")));
    }
    let in_layer = tensor.starts_with("model.layers.");
    if scheme == (Scheme::Bitnet { online: true }) && in_layer && matrices.is_none() {
        let form = Form::TernaryOnline { tensor: tensor.into() };
        return Ok(Stored { form, matrices, rows, cols, dtype: DType::T2 });
    }
    Ok(Stored { form: Form::Plain { tensor: tensor.into() }, matrices, rows, cols, dtype })
}

fn gptq(
    checkpoint: &Checkpoint,
    module: &str,
    group: Option<u64>,
    symmetric: bool,
    offset_zeros: bool,
) -> Result<Stored, ModelError> {
    let qweight = format!("{module}.qweight");
    expect_type(checkpoint, &qweight, "I32")?;
    let [words, rows] = matrix_shape(checkpoint, &qweight)?;
    let cols = times(checkpoint, &qweight, words, 8)?;
    let grouping = Grouping::new(cols, group);
    expect_group_tensors(checkpoint, module, grouping, rows)?;
    let g_idx = format!("{module}.g_idx");
    let ordered = checkpoint.find(&g_idx).is_some();
    if ordered {
        expect_type(checkpoint, &g_idx, "I32")?;
        checkpoint.expect_shape(&g_idx, &[cols])?;
    }
    let dtype = group_dtype(grouping, symmetric);
    let form = Form::Gptq { grouping, offset_zeros, ordered };
    Ok(Stored { form, matrices: None, rows, cols, dtype })
}

fn awq(checkpoint: &Checkpoint, module: &str, group: Option<u64>) -> Result<Stored, ModelError> {
    let qweight = format!("{module}.qweight");
    expect_type(checkpoint, &qweight, "I32")?;
    let [cols, words] = matrix_shape(checkpoint, &qweight)?;
    let rows = times(checkpoint, &qweight, words, 8)?;
    let grouping = Grouping::new(cols, group);
    expect_group_tensors(checkpoint, module, grouping, rows)?;
    Ok(Stored { form: Form::Awq { grouping }, matrices: None, rows, cols, dtype: group_dtype(grouping, false) })
}

/// `qzeros` and `scales`, which stand group by group.
fn expect_group_tensors(
    checkpoint: &Checkpoint,
    module: &str,
    grouping: Grouping,
    rows: u64,
) -> Result<(), ModelError> {
    let (qzeros, scales) = (format!("{module}.qzeros"), format!("{module}.scales"));
    expect_type(checkpoint, &qzeros, "I32")?;
    checkpoint.expect_shape(&qzeros, &[grouping.count(), rows / 8])?;
    expect_floats(checkpoint, &scales)?;
    checkpoint.expect_shape(&scales, &[grouping.count(), rows])?;
    Ok(())
}

fn packed_int4(checkpoint: &Checkpoint, module: &str, group: Option<u64>) -> Result<Stored, ModelError> {
    let (packed, scales) = (format!("{module}.weight_packed"), format!("{module}.weight_scale"));
    let (shape, zeros) = (format!("{module}.weight_shape"), format!("{module}.weight_zero_point"));
    expect_type(checkpoint, &packed, "I32")?;
    if checkpoint.find(&format!("{module}.weight_g_idx")).is_some() {
        return Err(wrong_tensor(
            checkpoint,
            &format!("{module}.weight_g_idx"),
            "activation order is not supported for compressed-tensors; use a checkpoint without it",
        ));
    }
    let [rows, words] = matrix_shape(checkpoint, &packed)?;
    let mut cols = times(checkpoint, &packed, words, 8)?;
    if checkpoint.find(&shape).is_some() {
        checkpoint.expect_shape(&shape, &[2])?;
        let given = read_shape(checkpoint, &shape)?;
        if given[0] != rows || given[1] > cols || given[1].div_ceil(8) != words {
            let problem = format!("expected rows {rows} and columns for {words} words, found {given:?}");
            return Err(wrong_tensor(checkpoint, &shape, &problem));
        }
        cols = given[1];
    }
    let grouping = Grouping::new(cols, group);
    expect_floats(checkpoint, &scales)?;
    checkpoint.expect_shape(&scales, &[rows, grouping.count()])?;
    let symmetric = checkpoint.find(&zeros).is_none();
    if !symmetric {
        expect_type(checkpoint, &zeros, "I32")?;
        checkpoint.expect_shape(&zeros, &[rows.div_ceil(8), grouping.count()])?;
    }
    let dtype = group_dtype(grouping, symmetric);
    Ok(Stored { form: Form::PackedInt4 { grouping }, matrices: None, rows, cols, dtype })
}

fn read_shape(checkpoint: &Checkpoint, tensor: &str) -> Result<[u64; 2], ModelError> {
    expect_type(checkpoint, tensor, "I64")?;
    let mut bytes = [0; 16];
    checkpoint.read_bytes(tensor, 0, &mut bytes)?;
    let value = |half: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[8 * half + i]));
    Ok([value(0), value(1)])
}

fn fp8(checkpoint: &Checkpoint, module: &str, info: &TensorInfo, scheme: Scheme) -> Result<Stored, ModelError> {
    let Scheme::Fp8 { block } = scheme else {
        return Err(wrong_tensor(checkpoint, &info.name, "quantization_config names no fp8 method"));
    };
    let [rows, cols] = matrix_shape(checkpoint, &info.name)?;
    let scales = format!("{module}.{}", if block.is_some() { "weight_scale_inv" } else { "weight_scale" });
    expect_floats(checkpoint, &scales)?;
    let found = checkpoint.tensor(&scales)?.shape.clone();
    let block = match (block, found.as_slice()) {
        (Some(block), _) => {
            checkpoint.expect_shape(&scales, &[rows.div_ceil(block[0]), cols.div_ceil(block[1])])?;
            block
        }
        (None, [] | [1]) => [rows.max(1), cols.max(1)],
        (None, _) => {
            checkpoint.expect_shape(&scales, &[rows, 1])?;
            [1, cols.max(1)]
        }
    };
    Ok(Stored { form: Form::Fp8 { scales, block }, matrices: None, rows, cols, dtype: DType::F8_E4M3 })
}

fn mxfp4(checkpoint: &Checkpoint, module: &str) -> Result<Stored, ModelError> {
    let (blocks, scales) = (format!("{module}_blocks"), format!("{module}_scales"));
    expect_type(checkpoint, &blocks, "U8")?;
    expect_type(checkpoint, &scales, "U8")?;
    let shape = checkpoint.tensor(&blocks)?.shape.clone();
    let &[matrices, rows, groups, 16] = shape.as_slice() else {
        let problem = format!("expected [experts, rows, groups, 16], found shape {shape:?}");
        return Err(wrong_tensor(checkpoint, &blocks, &problem));
    };
    checkpoint.expect_shape(&scales, &[matrices, rows, groups])?;
    let cols = times(checkpoint, &blocks, groups, 32)?;
    Ok(Stored { form: Form::Mxfp4, matrices: Some(matrices), rows, cols, dtype: DType::MXFP4 })
}

fn ternary(checkpoint: &Checkpoint, module: &str, info: &TensorInfo) -> Result<Stored, ModelError> {
    let [quarter, cols] = matrix_shape(checkpoint, &info.name)?;
    let scale = format!("{module}.weight_scale");
    expect_floats(checkpoint, &scale)?;
    checkpoint.expect_shape(&scale, &[1])?;
    let rows = times(checkpoint, &info.name, quarter, 4)?;
    Ok(Stored { form: Form::TernaryPacked, matrices: None, rows, cols, dtype: DType::T2 })
}
