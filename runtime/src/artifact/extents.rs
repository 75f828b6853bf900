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
    /// i32 indexes, a buffer or a plain weight. Their values are nobody's promise: the kernel itself must be safe for any.
    Indexes,
    /// As [`Role::Indexes`], or null.
    OptionalIndexes,
    /// A packed weight.
    Packed,
    /// The step's metadata of that name: its indexes are checked in every step.
    Metadata(&'static str),
    /// As [`Role::Metadata`], or null.
    OptionalMetadata(&'static str),
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
    /// Pointers that are null.
    pub nulls: &'a [&'a str],
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

    fn is_null(&self, field: &str) -> bool {
        self.nulls.contains(&field)
    }

    /// Bytes of a page of keys alone (1 plane), or of keys and values (2).
    fn page(&self, planes: u64) -> Option<u64> {
        self.product(&["kv_heads", "head_dim"])?
            .checked_mul(planes * PAGE_TOKENS)?
            .checked_mul(self.dtype(0)?.element_bytes()?)
    }

    /// Rows of activations of a kernel with slots: all slots of a token may share one.
    fn slot_rows(&self) -> Option<u64> {
        let slots = if self.count("slots_share_x")? == 0 { self.count("slots")? } else { 1 };
        self.count("tokens")?.checked_mul(slots)
    }

    fn divides(&self, divisor: &str, field: &str) -> Option<bool> {
        let divisor = self.count(divisor)?;
        Some(divisor != 0 && self.count(field)?.is_multiple_of(divisor))
    }
}

const fn pointer(field: &'static str, role: Role, bytes: fn(&Call) -> Option<u64>) -> Pointer {
    Pointer { field, role, bytes }
}

/// Step metadata; the name is the field's in most kernels.
const fn metadata(field: &'static str, input: &'static str, bytes: fn(&Call) -> Option<u64>) -> Pointer {
    pointer(field, Role::Metadata(input), bytes)
}

const TOKENS: fn(&Call) -> Option<u64> = |c| c.words(&["tokens"]);
const HEADS: fn(&Call) -> Option<u64> = |c| c.words(&["tokens", "heads", "head_dim"]);
const KV_HEADS: fn(&Call) -> Option<u64> = |c| c.words(&["tokens", "kv_heads", "head_dim"]);
const MATRIX: fn(&Call) -> Option<u64> = |c| c.words(&["rows", "cols"]);
const PAIRS: fn(&Call) -> Option<u64> = |c| c.words(&["tokens", "slots"]);
const EXPERTS: fn(&Call) -> Option<u64> = |c| c.words(&["tokens", "experts"]);
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
        kernel: "layer_norm",
        pointers: &[
            pointer("x", Role::Values, MATRIX),
            pointer("weight", Role::Values, |c| c.words(&["cols"])),
            pointer("bias", Role::OptionalValues, |c| c.words(&["cols"])),
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
        kernel: "grouped_matmul",
        pointers: &[
            pointer("x", Role::Values, |c| row_bytes(c.dtype(1)?, c.count("cols")?)?.checked_mul(c.slot_rows()?)),
            pointer("w", Role::Packed, |c| c.packed(c.dtype(0)?)?.checked_mul(c.count("matrices")?)),
            pointer("experts", Role::OptionalIndexes, PAIRS),
            pointer("bias", Role::OptionalValues, |c| c.words(&["matrices", "rows"])),
            pointer("out", Role::Result(&[]), |c| c.words(&["tokens", "slots", "rows"])),
        ],
        rules: &[],
    },
    Extents {
        kernel: "router",
        pointers: &[
            pointer("logits", Role::Values, EXPERTS),
            pointer("bias", Role::OptionalValues, |c| c.words(&["experts"])),
            pointer("out", Role::Result(&[]), PAIRS),
        ],
        rules: &[],
    },
    Extents {
        kernel: "router_weights",
        pointers: &[
            pointer("logits", Role::Values, EXPERTS),
            pointer("selected", Role::Indexes, PAIRS),
            pointer("out", Role::Result(&[]), PAIRS),
        ],
        rules: &[],
    },
    Extents {
        kernel: "combine",
        pointers: &[
            pointer("y", Role::Values, |c| c.words(&["tokens", "slots", "cols"])),
            pointer("weights", Role::Values, PAIRS),
            pointer("out", Role::Result(&[]), |c| c.words(&["tokens", "cols"])),
        ],
        rules: &[],
    },
    Extents {
        kernel: "rope",
        pointers: &[
            pointer("x", Role::Values, HEADS),
            metadata("positions", "positions", TOKENS),
            pointer("inv_freq", Role::Values, |c| c.words(&["tables", "pairs"])),
            pointer("table", Role::OptionalMetadata("rope_tables"), TOKENS),
            pointer("out", Role::Result(&["x"]), HEADS),
        ],
        rules: &[
            ("head_dim must hold all pairs", |c| Some(c.count("pairs")?.checked_mul(2)? <= c.count("head_dim")?)),
            ("tables must be at least 1", |c| Some(c.count("tables")? > 0)),
        ],
    },
    Extents {
        kernel: "kv_append",
        pointers: &[
            pointer("k", Role::Values, KV_HEADS),
            pointer("v", Role::OptionalValues, KV_HEADS),
            metadata("positions", "positions", TOKENS),
            metadata("sequences", "sequences", TOKENS),
            metadata("page_table", "page_table", TABLE),
            pointer("kv", Role::PagesWritten, |c| c.page(if c.is_null("v") { 1 } else { 2 })),
        ],
        rules: &[],
    },
    Extents {
        kernel: "attention",
        pointers: &[
            pointer("q", Role::Values, HEADS),
            pointer("kv", Role::PagesRead, |c| c.page(if c.count("value_dim")? > 0 { 1 } else { 2 })),
            metadata("positions", "positions", TOKENS),
            metadata("sequences", "sequences", TOKENS),
            metadata("page_table", "page_table", TABLE),
            pointer("sinks", Role::OptionalValues, |c| c.words(&["heads"])),
            pointer("out", Role::Result(&[]), |c| {
                c.words(&["tokens", "heads", if c.count("value_dim")? > 0 { "value_dim" } else { "head_dim" }])
            }),
        ],
        rules: &[
            ("heads must be a multiple of kv_heads", |c| c.divides("kv_heads", "heads")),
            ("head_dim must hold value_dim", |c| Some(c.count("value_dim")? <= c.count("head_dim")?)),
        ],
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
    Extents {
        kernel: "unary",
        pointers: &[pointer("x", Role::Values, ELEMENTS), pointer("out", Role::Result(&["x"]), ELEMENTS)],
        rules: &[],
    },
    Extents {
        kernel: "sigmoid_gate",
        pointers: &[
            pointer("x", Role::Values, MATRIX),
            pointer("gate", Role::Values, |c| c.words(&["rows"])),
            pointer("out", Role::Result(&["x"]), MATRIX),
        ],
        rules: &[],
    },
    Extents {
        kernel: "concat",
        pointers: &[
            pointer("a", Role::Values, |c| c.words(&["rows", "a_cols"])),
            pointer("b", Role::Values, |c| c.words(&["rows", "b_cols"])),
            pointer("out", Role::Result(&[]), |c| {
                let cols = c.count("a_cols")?.checked_add(c.count("b_cols")?)?;
                c.words(&["rows"])?.checked_mul(cols)
            }),
        ],
        rules: &[],
    },
    Extents {
        kernel: "permute_columns",
        pointers: &[
            pointer("x", Role::Values, |c| c.words(&["cols"])?.checked_mul(c.slot_rows()?)),
            pointer("index", Role::Indexes, |c| c.words(&["matrices", "cols"])),
            pointer("experts", Role::OptionalIndexes, PAIRS),
            pointer("out", Role::Result(&[]), |c| c.words(&["tokens", "slots", "cols"])),
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
    use crate::artifact::check_unpackaged;
    use crate::artifact::manifest::{Layout, WeightInfo};

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

    /// A null `v` and a value_dim both say that pages hold keys alone.
    #[test]
    fn latent_pages_are_half_as_long() {
        let counts = |value_dim| {
            [
                ("tokens", 3),
                ("heads", 4),
                ("kv_heads", 1),
                ("head_dim", 24),
                ("page_table_stride", 2),
                ("value_dim", value_dim),
            ]
        };
        let bytes = |kernel: &str, field: &str, value_dim: u64, nulls: &[&str]| {
            let counts = counts(value_dim);
            let call = Call { variant: "f16", counts: &counts, max_tokens: 4, vocabulary: 1, nulls };
            lookup(kernel).unwrap().pointers.iter().find(|p| p.field == field).and_then(|p| (p.bytes)(&call))
        };
        let keys = 24 * 16 * 2;
        assert_eq!(bytes("kv_append", "kv", 0, &[]), Some(2 * keys));
        assert_eq!(bytes("kv_append", "kv", 0, &["v"]), Some(keys));
        assert_eq!(bytes("attention", "kv", 0, &[]), Some(2 * keys));
        assert_eq!(bytes("attention", "kv", 16, &[]), Some(keys));
        assert_eq!(bytes("attention", "out", 0, &[]), Some(3 * 4 * 24 * 4));
        assert_eq!(bytes("attention", "out", 16, &[]), Some(3 * 4 * 16 * 4));
    }

    /// Indexes are of i32, whatever their values; a table of frequencies is named by the input that is checked for it.
    #[test]
    fn indexes_have_their_type_and_size() {
        let good = r#"program "p" {
          sym T in 1..=4
          arena 512
          input "x" : f32[T, 16]
          input "positions" : i32[T]
          input "rope_tables" : i32[T]
          weight "order" : i32[16]
          weight "inv_freq" : f32[2, 8]
          buffer %0 : f32[T, 16] at 0
          buffer %1 : f32[T, 16] at 256
          output "y" %1
          launch permute_columns "" {x = input "x", index = weight "order", experts = null, out = write %0, tokens = T,
            slots = 1, matrices = 1, cols = 16, slots_share_x = 0, reserved = 0} "permute"
          launch rope "" {x = read %0, positions = input "positions", inv_freq = weight "inv_freq",
            table = input "rope_tables", out = write %1, tokens = T, heads = 1, head_dim = 16, pairs = 8, tables = 2,
            interleaved = 0, scale = float 1.0, reserved = 0} "rope"
        }"#;
        let weight = |name: &str, dtype: &str, shape: &[u64]| WeightInfo {
            name: name.into(),
            dtype: dtype.into(),
            layout: Layout::Plain,
            shape: shape.into(),
            file: String::new(),
            bytes: 64,
        };
        let weights = [weight("order", "i32", &[16]), weight("inv_freq", "f32", &[2, 8])];
        let check = |text: &str| check_unpackaged(&ir::text::parse_program(text).unwrap(), &weights, 1);
        assert_eq!(check(good), Ok(()));
        assert_eq!(check(&good.replace("table = input \"rope_tables\"", "table = null")), Ok(()));
        for (from, to, expected) in [
            ("index = weight \"order\"", "index = weight \"inv_freq\"", "index"),
            ("experts = null", "experts = input \"rope_tables\"", "experts"),
            ("index = weight \"order\"", "index = null", "index"),
            ("matrices = 1", "matrices = 2", "index"),
            ("slots = 1", "slots = 2", "x:"),
            ("table = input \"rope_tables\"", "table = input \"positions\"", "table"),
            ("tables = 2", "tables = 3", "inv_freq"),
            ("tables = 2", "tables = 0", "tables must be"),
        ] {
            assert!(good.contains(from), "{from}");
            let error = check(&good.replace(from, to)).unwrap_err();
            assert!(error.contains(expected), "{from} -> {to}: {error}");
        }
    }

    #[test]
    fn counts_become_bytes_without_overflow() {
        let counts = [("tokens", 2), ("rows", 20), ("cols", 64)];
        let call = Call { variant: "q8_0.q8x32", counts: &counts, max_tokens: 4, vocabulary: 1, nulls: &[] };
        let bytes: Vec<_> = lookup("matmul").unwrap().pointers.iter().map(|p| (p.bytes)(&call)).collect();
        let packed = packed_bytes(DType::Q8_0, 20, 64);
        assert_eq!(bytes, [Some(2 * 2 * 44), packed, Some(80), Some(160)]);
        let huge = [("tokens", u64::MAX), ("rows", 20), ("cols", u64::MAX - 31)];
        let call = Call { counts: &huge, ..call };
        assert!(lookup("matmul").unwrap().pointers.iter().all(|p| p.field == "bias" || (p.bytes)(&call).is_none()));
    }
}
