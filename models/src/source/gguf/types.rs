//! Tensor types of GGUF: a flat table of ggml's type numbers.

use crate::source::TensorDType;
use ir::types::DType;

/// One tensor type: `block` elements are stored in `bytes` bytes.
pub(super) struct GgmlType {
    id: u32,
    name: &'static str,
    pub block: u64,
    pub bytes: u64,
    dtype: Option<DType>,
}

const fn known(id: u32, name: &'static str, block: u64, bytes: u64, dtype: DType) -> GgmlType {
    GgmlType { id, name, block, bytes, dtype: Some(dtype) }
}

const fn other(id: u32, name: &'static str, block: u64, bytes: u64) -> GgmlType {
    GgmlType { id, name, block, bytes, dtype: None }
}

/// Types with a format here, then those that are only recognised, so that their extent can be checked.
const TYPES: &[GgmlType] = &[
    known(0, "F32", 1, 4, DType::F32),
    known(1, "F16", 1, 2, DType::F16),
    known(2, "Q4_0", 32, 18, DType::Q4_0),
    known(3, "Q4_1", 32, 20, DType::Q4_1),
    known(6, "Q5_0", 32, 22, DType::Q5_0),
    known(7, "Q5_1", 32, 24, DType::Q5_1),
    known(8, "Q8_0", 32, 34, DType::Q8_0),
    known(12, "Q4_K", 256, 144, DType::Q4_K),
    known(13, "Q5_K", 256, 176, DType::Q5_K),
    known(14, "Q6_K", 256, 210, DType::Q6_K),
    known(30, "BF16", 1, 2, DType::BF16),
    known(39, "MXFP4", 32, 17, DType::MXFP4),
    other(9, "Q8_1", 32, 36),
    other(10, "Q2_K", 256, 84),
    other(11, "Q3_K", 256, 110),
    other(15, "Q8_K", 256, 292),
    other(16, "IQ2_XXS", 256, 66),
    other(17, "IQ2_XS", 256, 74),
    other(18, "IQ3_XXS", 256, 98),
    other(19, "IQ1_S", 256, 50),
    other(20, "IQ4_NL", 32, 18),
    other(21, "IQ3_S", 256, 110),
    other(22, "IQ2_S", 256, 82),
    other(23, "IQ4_XS", 256, 136),
    other(24, "I8", 1, 1),
    other(25, "I16", 1, 2),
    other(26, "I32", 1, 4),
    other(27, "I64", 1, 8),
    other(28, "F64", 1, 8),
    other(29, "IQ1_M", 256, 56),
    other(34, "TQ1_0", 256, 54),
    other(35, "TQ2_0", 256, 66),
];

impl GgmlType {
    /// The type of this number, if the table has it.
    pub fn find(id: u32) -> Option<&'static GgmlType> {
        TYPES.iter().find(|t| t.id == id)
    }

    pub fn dtype(&self) -> TensorDType {
        self.dtype.map_or_else(|| TensorDType::Other(self.name.to_owned()), TensorDType::Known)
    }
}

/// The names of the types that can be used as weights, for messages.
pub(in crate::source) fn supported_types() -> String {
    let names: Vec<&str> = TYPES.iter().filter(|t| t.dtype.is_some()).map(|t| t.name).collect();
    names.join(", ")
}
