//! How the matrix of a module is stored: found from the tensors the module has, with every shape checked.

use ir::quant;
use ir::types::DType;

use super::columnwise::{self, Layout};
use super::groups::Grouping;
use super::scheme::Scheme;
use crate::ModelError;
use crate::source::{Checkpoint, TensorDType, TensorInfo};

/// The tensors a matrix is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// One tensor in a format of its own.
    Plain { tensor: String },
    /// `qweight`, `qzeros`, `scales`, and `g_idx` if `ordered`.
    Columnwise { layout: Layout, grouping: Grouping, ordered: bool },
    /// `weight_packed`, `weight_scale`, and `weight_zero_point` unless `symmetric`.
    PackedInt4 { grouping: Grouping, symmetric: bool },
    /// `weight` and its scales: the tensor, and rows and columns that share one.
    Fp8 { scales: String, block: [u64; 2] },
    /// `_blocks` and `_scales`.
    Mxfp4,
    /// `weight` with four rows a byte, and `weight_scale`, of which `divides` takes the inverse.
    TernaryPacked { divides: bool },
    /// A float `weight` that is made ternary.
    TernaryOnline { tensor: String },
}

impl Form {
    /// Whether it can only be decoded as a whole.
    pub fn is_whole(&self) -> bool {
        matches!(self, Form::Columnwise { .. } | Form::TernaryPacked { .. } | Form::TernaryOnline { .. })
    }
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
///
/// # Errors
/// Tensors that are missing, of a type or shape that does not fit the others, or of a method that `quantization_config` does
/// not name.
pub(super) fn find(checkpoint: &Checkpoint, scheme: Scheme, module: &str) -> Result<Stored, ModelError> {
    let place = Place { checkpoint, module };
    if place.has(".qweight") {
        return match scheme {
            Scheme::Gptq { group, symmetric, offset_zeros } => place.gptq(group, symmetric, offset_zeros),
            Scheme::Awq { group } => place.awq(group),
            _ => Err(place.wrong(".qweight", "quantization_config names neither gptq nor awq")),
        };
    }
    if place.has(".weight_packed") {
        return match scheme {
            Scheme::PackedInt4 { group, symmetric } => place.packed_int4(group, symmetric),
            _ => Err(place.wrong(".weight_packed", "quantization_config does not name format pack-quantized")),
        };
    }
    if place.has("_blocks") {
        return place.mxfp4();
    }
    let tensor = if place.has("") { module.to_string() } else { place.name(".weight") };
    let info = checkpoint.tensor(&tensor).map_err(|e| place.missing(e, scheme))?;
    match (&info.dtype, scheme) {
        (TensorDType::Other(name), Scheme::Bitnet { divides, .. }) if name == "U8" => place.ternary(info, divides),
        (TensorDType::Other(name), Scheme::Fp8 { block }) if name == "F8_E4M3" => place.fp8(info, block),
        (TensorDType::Other(name), _) if name == "F8_E4M3" => {
            Err(wrong_tensor(checkpoint, &tensor, "has type F8_E4M3, but quantization_config names no method of it"))
        }
        _ => plain(checkpoint, scheme, info),
    }
}

fn wrong_tensor(checkpoint: &Checkpoint, tensor: &str, problem: impl Into<String>) -> ModelError {
    ModelError::tensor(checkpoint.path(), tensor, problem)
}

fn plain(checkpoint: &Checkpoint, scheme: Scheme, info: &TensorInfo) -> Result<Stored, ModelError> {
    let (tensor, dtype) = (info.name.clone(), checkpoint.dtype(&info.name)?);
    // A vector is a matrix of one row: llama.cpp stores gates of one output so.
    let (matrices, rows, cols) = match info.shape.as_slice() {
        &[cols] => (None, 1, cols),
        &[rows, cols] => (None, rows, cols),
        &[matrices, rows, cols] => (Some(matrices), rows, cols),
        other => return Err(wrong_tensor(checkpoint, &tensor, format!("expected a matrix, found shape {other:?}"))),
    };
    if quant::format(dtype).is_none() {
        return Err(wrong_tensor(checkpoint, &tensor, format!("{dtype} holds no real numbers")));
    }
    let in_layer = tensor.starts_with("model.layers.");
    if matches!(scheme, Scheme::Bitnet { online: true, .. }) && in_layer && info.shape.len() == 2 {
        return Ok(Stored { form: Form::TernaryOnline { tensor }, matrices, rows, cols, dtype: DType::T2 });
    }
    Ok(Stored { form: Form::Plain { tensor }, matrices, rows, cols, dtype })
}

/// A module of a checkpoint.
struct Place<'a> {
    checkpoint: &'a Checkpoint,
    module: &'a str,
}

impl Place<'_> {
    fn name(&self, suffix: &str) -> String {
        format!("{}{suffix}", self.module)
    }

    fn has(&self, suffix: &str) -> bool {
        self.checkpoint.find(&self.name(suffix)).is_some()
    }

    fn wrong(&self, suffix: &str, problem: impl Into<String>) -> ModelError {
        wrong_tensor(self.checkpoint, &self.name(suffix), problem)
    }

    /// An error about a missing `.weight`, which also names the tensor that the method would have.
    fn missing(&self, error: ModelError, scheme: Scheme) -> ModelError {
        match (error, scheme.suffix()) {
            (ModelError::MissingTensor { path, tensor, hint }, Some(suffix)) => {
                ModelError::MissingTensor { path, tensor: format!("{} or {tensor}", self.name(suffix)), hint }
            }
            (error, _) => error,
        }
    }

    /// The two dimensions of a tensor.
    fn matrix_shape(&self, suffix: &str) -> Result<[u64; 2], ModelError> {
        match self.checkpoint.tensor(&self.name(suffix))?.shape.as_slice() {
            &[rows, cols] => Ok([rows, cols]),
            other => Err(self.wrong(suffix, format!("expected a matrix, found shape {other:?}"))),
        }
    }

    /// A dimension of which `each` stand in an element.
    fn times(&self, suffix: &str, elements: u64, each: u64) -> Result<u64, ModelError> {
        elements.checked_mul(each).ok_or_else(|| self.wrong(suffix, "its dimensions overflow"))
    }

    /// Checks that a tensor has this type and shape.
    fn expect(&self, suffix: &str, expected: &str, shape: &[u64]) -> Result<(), ModelError> {
        self.expect_type(suffix, expected)?;
        self.checkpoint.expect_shape(&self.name(suffix), shape).map(drop)
    }

    /// Checks that a tensor stores words or bytes of this type.
    fn expect_type(&self, suffix: &str, expected: &str) -> Result<(), ModelError> {
        let dtype = self.checkpoint.tensor(&self.name(suffix))?.dtype.to_string();
        match dtype.eq_ignore_ascii_case(expected) {
            true => Ok(()),
            false => Err(self.wrong(suffix, format!("expected elements of type {expected}, found {dtype}"))),
        }
    }

    /// Checks that scales are floats of this shape.
    fn expect_scales(&self, suffix: &str, shape: &[u64]) -> Result<(), ModelError> {
        let name = self.name(suffix);
        match self.checkpoint.dtype(&name)? {
            DType::F32 | DType::F16 | DType::BF16 => self.checkpoint.expect_shape(&name, shape).map(drop),
            other => Err(self.wrong(suffix, format!("expected scales of type f32, f16 or bf16, found {other}"))),
        }
    }

    fn gptq(&self, group: Option<u64>, symmetric: bool, offset_zeros: bool) -> Result<Stored, ModelError> {
        let [words, rows] = self.matrix_shape(".qweight")?;
        let cols = self.times(".qweight", words, 8)?;
        if !rows.is_multiple_of(8) {
            return Err(self.wrong(".qweight", format!("expected a multiple of 8 outputs, found {rows}")));
        }
        let grouping = Grouping::new(cols, group);
        self.expect_columnwise(grouping, rows)?;
        let ordered = self.has(".g_idx");
        if ordered {
            self.expect(".g_idx", "I32", &[cols])?;
        }
        // What is called symmetric may have other zeros all the same, and then needs the format that keeps them.
        let symmetric = symmetric && columnwise::is_symmetric(self.checkpoint, &self.name(".qzeros"), offset_zeros)?;
        let form = Form::Columnwise { layout: Layout::Gptq { offset_zeros }, grouping, ordered };
        Ok(Stored { form, matrices: None, rows, cols, dtype: grouping.dtype(symmetric) })
    }

    fn awq(&self, group: Option<u64>) -> Result<Stored, ModelError> {
        let [cols, words] = self.matrix_shape(".qweight")?;
        let rows = self.times(".qweight", words, 8)?;
        let grouping = Grouping::new(cols, group);
        self.expect_columnwise(grouping, rows)?;
        let form = Form::Columnwise { layout: Layout::Awq, grouping, ordered: false };
        Ok(Stored { form, matrices: None, rows, cols, dtype: grouping.dtype(false) })
    }

    /// Types, and the shapes of `qzeros` and `scales`, which stand group by group.
    fn expect_columnwise(&self, grouping: Grouping, rows: u64) -> Result<(), ModelError> {
        self.expect_type(".qweight", "I32")?;
        self.expect(".qzeros", "I32", &[grouping.count(), rows / 8])?;
        self.expect_scales(".scales", &[grouping.count(), rows])
    }

    fn packed_int4(&self, group: Option<u64>, symmetric: bool) -> Result<Stored, ModelError> {
        self.expect_type(".weight_packed", "I32")?;
        if self.has(".weight_g_idx") {
            let problem = "activation order is not supported for compressed-tensors; use a checkpoint without it";
            return Err(self.wrong(".weight_g_idx", problem));
        }
        let [rows, words] = self.matrix_shape(".weight_packed")?;
        let cols = self.unpadded(rows, words)?;
        let grouping = Grouping::new(cols, group);
        self.expect_scales(".weight_scale", &[rows, grouping.count()])?;
        let symmetric = symmetric && !self.has(".weight_zero_point");
        if !symmetric {
            self.expect(".weight_zero_point", "I32", &[rows.div_ceil(8), grouping.count()])?;
        }
        let form = Form::PackedInt4 { grouping, symmetric };
        Ok(Stored { form, matrices: None, rows, cols, dtype: grouping.dtype(symmetric) })
    }

    /// Columns in rows of `words` words of eight, the last of which may be padded: as `weight_shape` says, if it is there.
    fn unpadded(&self, rows: u64, words: u64) -> Result<u64, ModelError> {
        const SHAPE: &str = ".weight_shape";
        let padded = self.times(".weight_packed", words, 8)?;
        if !self.has(SHAPE) {
            return Ok(padded);
        }
        self.expect(SHAPE, "I64", &[2])?;
        let mut bytes = [0; 16];
        self.checkpoint.read_bytes(&self.name(SHAPE), 0, &mut bytes)?;
        let [given_rows, cols] = [0, 8].map(|at| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i])));
        match given_rows == rows && cols.div_ceil(8) == words {
            true => Ok(cols),
            false => {
                let problem = format!("says [{given_rows}, {cols}], but weight_packed has shape [{rows}, {words}]");
                Err(self.wrong(SHAPE, problem))
            }
        }
    }

    fn fp8(&self, info: &TensorInfo, block: Option<[u64; 2]>) -> Result<Stored, ModelError> {
        let &[rows, cols] = info.shape.as_slice() else {
            let problem = format!("expected a matrix, found shape {:?}", info.shape);
            return Err(wrong_tensor(self.checkpoint, &info.name, problem));
        };
        let suffix = if self.has(".weight_scale_inv") { ".weight_scale_inv" } else { ".weight_scale" };
        let scales = self.checkpoint.tensor(&self.name(suffix))?.shape.clone();
        let (block, shape) = match (block, scales.as_slice()) {
            (Some(block), _) => (block, vec![rows.div_ceil(block[0]), cols.div_ceil(block[1])]),
            (None, [] | [1] | [1, 1]) => ([rows.max(1), cols.max(1)], scales.clone()),
            (None, [_]) => ([1, cols.max(1)], vec![rows]),
            (None, _) => ([1, cols.max(1)], vec![rows, 1]),
        };
        self.expect_scales(suffix, &shape)?;
        let form = Form::Fp8 { scales: self.name(suffix), block };
        Ok(Stored { form, matrices: None, rows, cols, dtype: DType::F8_E4M3 })
    }

    fn mxfp4(&self) -> Result<Stored, ModelError> {
        self.expect_type("_blocks", "U8")?;
        let shape = self.checkpoint.tensor(&self.name("_blocks"))?.shape.as_slice();
        let &[matrices, rows, groups, 16] = shape else {
            return Err(self.wrong("_blocks", format!("expected [experts, rows, groups, 16], found shape {shape:?}")));
        };
        self.expect("_scales", "U8", &[matrices, rows, groups])?;
        let cols = self.times("_blocks", groups, 32)?;
        Ok(Stored { form: Form::Mxfp4, matrices: Some(matrices), rows, cols, dtype: DType::MXFP4 })
    }

    fn ternary(&self, info: &TensorInfo, divides: bool) -> Result<Stored, ModelError> {
        let &[quarter, cols] = info.shape.as_slice() else {
            let problem = format!("expected a matrix, found shape {:?}", info.shape);
            return Err(wrong_tensor(self.checkpoint, &info.name, problem));
        };
        self.expect_scales(".weight_scale", &[1])?;
        let rows = self.times(".weight", quarter, 4)?;
        Ok(Stored { form: Form::TernaryPacked { divides }, matrices: None, rows, cols, dtype: DType::T2 })
    }
}
