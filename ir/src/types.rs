//! Types of tensors: element type, symbolic dimensions, shape.
//!
//! A dimension is a constant or a named symbol with a range, so that one graph serves every number of
//! tokens in a bucket and the memory plan can be made at the upper bound. There is no arithmetic on
//! dimensions: a shape that would need it is written as a symbol of its own.

use std::fmt;

macro_rules! dtypes {
    ($($variant:ident $name:literal $doc:literal),+ $(,)?) => {
        /// Element type of a tensor. Quantised types are stored in blocks along the last dimension; their layouts
        /// stand in [`crate::quant`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[allow(non_camel_case_types)]
        pub enum DType { $(#[doc = $doc] $variant),+ }

        impl DType {
            /// Every element type, in declaration order.
            pub const ALL: &'static [DType] = &[$(DType::$variant),+];

            /// The name used in text form, manifests and messages.
            pub const fn name(self) -> &'static str {
                match self { $(DType::$variant => $name),+ }
            }
        }
    };
}

dtypes! {
    F32 "f32" "IEEE binary32.",
    F16 "f16" "IEEE binary16.",
    BF16 "bf16" "bfloat16.",
    I32 "i32" "Signed 32-bit integer: token ids, positions, page ids.",
    Q4_0 "q4_0" "GGUF Q4_0: 4 bits, symmetric, blocks of 32.",
    Q4_1 "q4_1" "GGUF Q4_1: 4 bits, affine, blocks of 32.",
    Q5_0 "q5_0" "GGUF Q5_0: 5 bits, symmetric, blocks of 32.",
    Q5_1 "q5_1" "GGUF Q5_1: 5 bits, affine, blocks of 32.",
    Q8_0 "q8_0" "GGUF Q8_0: 8 bits, symmetric, blocks of 32.",
    Q4_K "q4_k" "GGUF Q4_K: 4 bits, affine, 8 groups of 32 in a block of 256.",
    Q5_K "q5_k" "GGUF Q5_K: 5 bits, affine, 8 groups of 32 in a block of 256.",
    Q6_K "q6_k" "GGUF Q6_K: 6 bits, symmetric, 16 groups of 16 in a block of 256.",
    Q4G64 "q4g64" "4 bits, symmetric, an f16 scale a row and 64 columns.",
    Q4G128 "q4g128" "4 bits, symmetric, an f16 scale a row and 128 columns.",
    Q4Z32 "q4z32" "4 bits, an f16 scale and an integer zero a row and 32 columns.",
    Q4Z64 "q4z64" "4 bits, an f16 scale and an integer zero a row and 64 columns.",
    Q4Z128 "q4z128" "4 bits, an f16 scale and an integer zero a row and 128 columns.",
    Q8C "q8c" "8 bits, symmetric, one f32 scale a row.",
    F8_E4M3 "f8_e4m3" "OCP E4M3 (finite), an f32 scale a row and 128 columns.",
    MXFP4 "mxfp4" "OCP MXFP4: E2M1, a power of two a row and 32 columns.",
    T2 "t2" "Ternary in 2 bits, one f32 scale a row.",
    Q8X32 "q8x32" "Activations: 8 bits, symmetric, blocks of 32 with f32 scale and partial sums.",
    INT8 "int8" "KV cache: 8 bits, symmetric, an f16 scale a row, which is one head's vector of one token.",
}

impl DType {
    /// Looks a type up by [`DType::name`].
    pub fn from_name(name: &str) -> Option<DType> {
        DType::ALL.iter().copied().find(|d| d.name() == name)
    }

    /// Bytes of one element; `None` for types stored in blocks.
    pub const fn element_bytes(self) -> Option<u64> {
        match self {
            DType::F32 | DType::I32 => Some(4),
            DType::F16 | DType::BF16 => Some(2),
            _ => None,
        }
    }

    /// Whether values are stored in blocks along the last dimension.
    pub const fn is_block(self) -> bool {
        self.element_bytes().is_none()
    }

    /// Whether the type holds real numbers (everything but integers).
    pub const fn is_real(self) -> bool {
        !matches!(self, DType::I32)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A named dimension with its inclusive range.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Symbol {
    /// Identifier, unique in its graph: `T` tokens of this step, `S` sequences, `R` logit rows, `P` pages a sequence.
    pub name: String,
    /// Smallest value.
    pub min: u64,
    /// Largest value: what the memory plan reserves for.
    pub max: u64,
}

/// Index of a [`Symbol`] in its graph's or program's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SymbolId(pub u32);

/// One dimension of a shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dim {
    /// A fixed size.
    Const(u64),
    /// A symbol's value.
    Sym(SymbolId),
}

impl Dim {
    /// The value under an assignment of symbols; `None` when a symbol has none.
    pub fn value(self, symbols: &[u64]) -> Option<u64> {
        match self {
            Dim::Const(n) => Some(n),
            Dim::Sym(id) => symbols.get(id.0 as usize).copied(),
        }
    }
}

impl From<u64> for Dim {
    fn from(n: u64) -> Dim {
        Dim::Const(n)
    }
}

impl From<SymbolId> for Dim {
    fn from(id: SymbolId) -> Dim {
        Dim::Sym(id)
    }
}

/// Element type and shape of a tensor, row-major.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TensorType {
    /// Element type.
    pub dtype: DType,
    /// Dimensions, outermost first.
    pub shape: Vec<Dim>,
}

impl TensorType {
    /// A tensor type from its parts.
    pub fn new(dtype: DType, shape: impl Into<Vec<Dim>>) -> TensorType {
        TensorType { dtype, shape: shape.into() }
    }

    /// Bytes of the row-major tensor under an assignment of symbols. Block types are counted in whole blocks a row.
    /// `None` on overflow, an unknown symbol or a block type of rank 0.
    pub fn bytes(&self, symbols: &[u64]) -> Option<u64> {
        let dims: Option<Vec<u64>> = self.shape.iter().map(|d| d.value(symbols)).collect();
        let dims = dims?;
        let Some(element) = self.dtype.element_bytes() else {
            let (cols, outer) = dims.split_last()?;
            let rows = outer.iter().try_fold(1u64, |a, &d| a.checked_mul(d))?;
            return rows.checked_mul(crate::quant::row_bytes(self.dtype, *cols)?);
        };
        dims.iter().try_fold(element, |a, &d| a.checked_mul(d))
    }
}
