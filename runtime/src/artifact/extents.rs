//! How much memory each kernel touches behind each pointer, as a function of its counts.
//!
//! The program verifier knows buffers but not kernels; this table knows kernels. Together they prove, before anything is
//! executed, that a program read from disk stays inside its memory. A kernel without a row here cannot be loaded.

use ir::op::PAGE_TOKENS;
use ir::quant::{packed_bytes, row_bytes};
use ir::types::DType;

/// What stands behind a pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Values that are read: a buffer or a plain weight.
    Values,
    /// As [`Role::Values`], or null.
    OptionalValues,
    /// A packed weight.
    Packed,
    /// The step's metadata of that name: its indexes are checked in every step.
    Metadata(&'static str),
    /// A buffer that is written. It may be the one of these fields.
    Result(&'static [&'static str]),
    /// Pages that are read.
    PagesRead,
    /// Pages that are written.
    PagesWritten,
}

/// One pointer field.
pub(super) struct Pointer {
    pub field: &'static str,
    pub role: Role,
    /// Bytes it needs, of one page for pages; `None` on overflow or if the variant or shape is impossible.
    pub bytes: fn(&Call) -> Option<u64>,
}

/// A condition on the counts and its name.
type Rule = (&'static str, fn(&Call) -> Option<bool>);

/// One kernel's row.
pub(super) struct Extents {
    pub kernel: &'static str,
    pub pointers: &'static [Pointer],
    /// What else must hold of the counts, in words.
    pub rules: &'static [Rule],
}

/// Variant and counts of a launch, at their upper bounds.
pub(super) struct Call<'a> {
    pub variant: &'a str,
    pub counts: &'a [(&'a str, u64)],
    /// Most tokens of a step.
    pub max_tokens: u64,
    /// Tokens of the vocabulary.
    pub vocabulary: u64,
}

impl Call<'_> {
    fn count(&self, field: &str) -> Option<u64> {
        self.counts.iter().find(|(name, _)| *name == field).map(|(_, n)| *n)
    }

    fn product(&self, fields: &[&str]) -> Option<u64> {
        fields.iter().try_fold(1u64, |product, f| product.checked_mul(self.count(f)?))
    }

    /// Bytes of f32 or i32 of these dimensions.
    fn words(&self, fields: &[&str]) -> Option<u64> {
        self.product(fields)?.checked_mul(4)
    }

    /// Bytes of row-major rows.
    fn rows(&self, dtype: DType, rows: &str, cols: &str) -> Option<u64> {
        row_bytes(dtype, self.count(cols)?)?.checked_mul(self.count(rows)?)
    }

    fn packed(&self, dtype: DType) -> Option<u64> {
        packed_bytes(dtype, self.count("rows")?, self.count("cols")?)
    }

    /// The types in a variant such as `q8_0.f32`, or the only one.
    fn dtype(&self, i: usize) -> Option<DType> {
        DType::from_name(self.variant.split('.').nth(i)?)
    }

    fn page(&self) -> Option<u64> {
        self.product(&["kv_heads", "head_dim"])?
            .checked_mul(2 * PAGE_TOKENS)?
            .checked_mul(self.dtype(0)?.element_bytes()?)
    }

    fn divides(&self, divisor: &str, field: &str) -> Option<bool> {
        let divisor = self.count(divisor)?;
        Some(divisor != 0 && self.count(field)?.is_multiple_of(divisor))
    }
}

const fn pointer(field: &'static str, role: Role, bytes: fn(&Call) -> Option<u64>) -> Pointer {
    Pointer { field, role, bytes }
}

/// Step metadata; the name is the field's in all kernels but two.
const fn metadata(field: &'static str, input: &'static str, bytes: fn(&Call) -> Option<u64>) -> Pointer {
    pointer(field, Role::Metadata(input), bytes)
}

const TOKENS: fn(&Call) -> Option<u64> = |c| c.words(&["tokens"]);
const HEADS: fn(&Call) -> Option<u64> = |c| c.words(&["tokens", "heads", "head_dim"]);
const KV_HEADS: fn(&Call) -> Option<u64> = |c| c.words(&["tokens", "kv_heads", "head_dim"]);
const MATRIX: fn(&Call) -> Option<u64> = |c| c.words(&["rows", "cols"]);
const ELEMENTS: fn(&Call) -> Option<u64> = |c| c.words(&["count"]);
/// At least one row; the check that it is the page table itself covers the others.
const TABLE: fn(&Call) -> Option<u64> = |c| c.words(&["page_table_stride"]);

/// Every kernel.
pub(super) const EXTENTS: &[Extents] = &[
    Extents {
        kernel: "embedding",
        pointers: &[
            metadata("ids", "ids", TOKENS),
            pointer("table", Role::Packed, |c| c.packed(c.dtype(0)?)),
            pointer("out", Role::Result(&[]), |c| c.words(&["tokens", "cols"])),
        ],
        rules: &[("rows must cover the vocabulary", |c| Some(c.count("rows")? >= c.vocabulary))],
    },
    Extents {
        kernel: "gather_rows",
        pointers: &[
            pointer("x", Role::Values, |c| c.words(&["cols"])?.checked_mul(c.max_tokens)),
            metadata("rows", "logit_rows", ELEMENTS),
            pointer("out", Role::Result(&[]), |c| c.words(&["count", "cols"])),
        ],
        rules: &[],
    },
    Extents {
        kernel: "rms_norm",
        pointers: &[
            pointer("x", Role::Values, MATRIX),
            pointer("weight", Role::Values, |c| c.words(&["cols"])),
            pointer("out", Role::Result(&[]), MATRIX),
        ],
        rules: &[],
    },
    Extents {
        kernel: "quantize_rows",
        pointers: &[
            pointer("x", Role::Values, MATRIX),
            pointer("out", Role::Result(&[]), |c| c.rows(DType::Q8X32, "rows", "cols")),
        ],
        rules: &[],
    },
    Extents {
        kernel: "matmul",
        pointers: &[
            pointer("x", Role::Values, |c| c.rows(c.dtype(1)?, "tokens", "cols")),
            pointer("w", Role::Packed, |c| c.packed(c.dtype(0)?)),
            pointer("bias", Role::OptionalValues, |c| c.words(&["rows"])),
            pointer("out", Role::Result(&[]), |c| c.words(&["tokens", "rows"])),
        ],
        rules: &[],
    },
    Extents {
        kernel: "rope",
        pointers: &[
            pointer("x", Role::Values, HEADS),
            metadata("positions", "positions", TOKENS),
            pointer("inv_freq", Role::Values, |c| c.words(&["pairs"])),
            pointer("out", Role::Result(&["x"]), HEADS),
        ],
        rules: &[("head_dim must hold all pairs", |c| Some(c.count("pairs")?.checked_mul(2)? <= c.count("head_dim")?))],
    },
    Extents {
        kernel: "kv_append",
        pointers: &[
            pointer("k", Role::Values, KV_HEADS),
            pointer("v", Role::Values, KV_HEADS),
            metadata("positions", "positions", TOKENS),
            metadata("sequences", "sequences", TOKENS),
            metadata("page_table", "page_table", TABLE),
            pointer("kv", Role::PagesWritten, |c| c.page()),
        ],
        rules: &[],
    },
    Extents {
        kernel: "attention",
        pointers: &[
            pointer("q", Role::Values, HEADS),
            pointer("kv", Role::PagesRead, |c| c.page()),
            metadata("positions", "positions", TOKENS),
            metadata("sequences", "sequences", TOKENS),
            metadata("page_table", "page_table", TABLE),
            pointer("out", Role::Result(&[]), HEADS),
        ],
        rules: &[("heads must be a multiple of kv_heads", |c| c.divides("kv_heads", "heads"))],
    },
    Extents {
        kernel: "binary",
        pointers: &[
            pointer("a", Role::Values, ELEMENTS),
            pointer("b", Role::Values, ELEMENTS),
            pointer("out", Role::Result(&["a", "b"]), ELEMENTS),
        ],
        rules: &[],
    },
];

/// The row of a kernel.
pub(super) fn lookup(kernel: &str) -> Option<&'static Extents> {
    EXTENTS.iter().find(|e| e.kernel == kernel)
}

#[cfg(test)]
mod tests {
    use kernels::catalog::{FieldKind, KERNELS};

    use super::*;

    /// Every kernel of the catalog has a row with all its pointers, each in the right direction.
    #[test]
    fn the_table_covers_the_catalog() {
        for kernel in KERNELS {
            let row = lookup(kernel.name).unwrap_or_else(|| panic!("no row for {}", kernel.name));
            let pointers: Vec<_> =
                kernel.fields.iter().filter(|f| matches!(f.kind, FieldKind::In | FieldKind::Out)).collect();
            assert_eq!(pointers.len(), row.pointers.len(), "{}", kernel.name);
            for (field, pointer) in pointers.iter().zip(row.pointers) {
                assert_eq!(field.name, pointer.field, "{}", kernel.name);
                let written = matches!(pointer.role, Role::Result(_) | Role::PagesWritten);
                assert_eq!(field.kind == FieldKind::Out, written, "{} {}", kernel.name, field.name);
            }
        }
        assert_eq!(KERNELS.len(), EXTENTS.len());
    }

    #[test]
    fn counts_become_bytes_without_overflow() {
        let counts = [("tokens", 2), ("rows", 20), ("cols", 64)];
        let call = Call { variant: "q8_0.q8x32", counts: &counts, max_tokens: 4, vocabulary: 1 };
        let bytes: Vec<_> = lookup("matmul").unwrap().pointers.iter().map(|p| (p.bytes)(&call)).collect();
        let packed = packed_bytes(DType::Q8_0, 20, 64);
        assert_eq!(bytes, [Some(2 * 2 * 44), packed, Some(80), Some(160)]);
        let huge = [("tokens", u64::MAX), ("rows", 20), ("cols", u64::MAX - 31)];
        let call = Call { counts: &huge, ..call };
        assert!(lookup("matmul").unwrap().pointers.iter().all(|p| p.field == "bias" || (p.bytes)(&call).is_none()));
    }
}
