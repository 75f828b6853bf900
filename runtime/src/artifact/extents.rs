//! How much memory each kernel touches behind each pointer, as a function of its counts.
//!
//! The program verifier knows buffers but not kernels; this table knows kernels. Together they prove, before anything is
//! executed, that a program read from disk stays inside its memory. A kernel without a row here cannot be loaded; the catalog's
//! services have none.

use ir::op::{PANEL_COLUMNS, page_bytes};
use ir::quant::row_bytes;
use ir::types::DType;
use kernels::cpu::gate_up::{ACTIVATIONS, SCORINGS};
use kernels::cpu::project::ROUTER_TYPES;

use super::manifest::Layout;

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
    /// A packed weight, in either layout.
    Packed,
    /// As [`Role::Packed`], or null.
    OptionalPacked,
    /// A packed router of the type that `router_type` numbers, or null.
    OptionalRouter,
    /// The step's metadata of that name: its indexes are checked in every step.
    Metadata(&'static str),
    /// As [`Role::Metadata`], or null.
    OptionalMetadata(&'static str),
    /// A buffer that is written. It may be the one of these fields.
    Result(&'static [&'static str]),
    /// As [`Role::Result`], or null.
    OptionalResult(&'static [&'static str]),
    /// Pages that are read.
    PagesRead,
    /// Pages that are written.
    PagesWritten,
    /// As [`Role::PagesWritten`], or null.
    OptionalPagesWritten,
}

impl Role {
    /// The layouts that its extent must hold in: a packed weight may be converted to the other one for a device.
    pub fn layouts(self) -> &'static [Layout] {
        match self {
            Role::Packed | Role::OptionalPacked | Role::OptionalRouter => &Layout::PACKED,
            _ => &[Layout::Plain],
        }
    }
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
    /// The layout that packed matrices are thought in.
    pub layout: Layout,
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

    /// Bytes of rows rounded as the variant says: to f16 they are stored as f32.
    fn rounded_rows(&self) -> Option<u64> {
        self.rows(if self.variant == "half" { DType::F32 } else { DType::Q8X32 }, "rows", "cols")
    }

    /// Bytes of an f32 a row and panel of 16 columns.
    fn panel_words(&self, rows: &str, cols: &str) -> Option<u64> {
        self.count(rows)?.checked_mul(self.count(cols)?.div_ceil(PANEL_COLUMNS))?.checked_mul(4)
    }

    /// Bytes of a packed matrix.
    fn matrix(&self, dtype: DType, rows: u64, cols: u64) -> Option<u64> {
        self.layout.bytes(dtype, &[rows, cols])
    }

    fn packed(&self, dtype: DType) -> Option<u64> {
        self.matrix(dtype, self.count("rows")?, self.count("cols")?)
    }

    /// The types in a variant such as `q8_0.f32`, or the only one.
    fn dtype(&self, i: usize) -> Option<DType> {
        DType::from_name(self.variant.split('.').nth(i)?)
    }

    fn is_null(&self, field: &str) -> bool {
        self.nulls.contains(&field)
    }

    /// The last type in a variant.
    fn last_dtype(&self) -> Option<DType> {
        DType::from_name(self.variant.split('.').next_back()?)
    }

    /// Bytes of a page of keys alone (1 plane), or of keys and values (2), in the variant's type.
    fn page(&self, planes: u64) -> Option<u64> {
        self.page_of(self.dtype(0)?, planes)
    }

    fn page_of(&self, dtype: DType, planes: u64) -> Option<u64> {
        page_bytes(dtype, planes, self.count("kv_heads")?, self.count("head_dim")?)
    }

    /// Bytes of a packed matrix whose rows are the dimensions of heads.
    fn head_rows(&self, heads: &str) -> Option<u64> {
        self.matrix(self.dtype(0)?, self.product(&[heads, "head_dim"])?, self.count("cols")?)
    }

    /// Whether a norm has what it needs: a number there is, weights, and rows of f32.
    fn norm_is_possible(&self) -> Option<bool> {
        let is_given = self.count("norm")? != 0 && !self.is_null("norm_weight") && self.dtype(1)? == DType::F32;
        Some(self.count("norm")? == 0 || is_given && self.count("norm")? <= 3)
    }

    /// Bytes of the router of an emission, 0 without one.
    fn router_bytes(&self) -> Option<u64> {
        if self.is_null("router") {
            return Some(0);
        }
        let dtype = ROUTER_TYPES.get(usize::try_from(self.count("router_type")?).ok()?)?;
        self.matrix(*dtype, self.count("router_rows")?, self.count("rows")?)
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
        pointers: &[pointer("x", Role::Values, MATRIX), pointer("out", Role::Result(&[]), |c| c.rounded_rows())],
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
    Extents {
        kernel: "scale_columns",
        pointers: &[
            pointer("x", Role::Values, MATRIX),
            pointer("w", Role::Values, |c| c.words(&["cols"])),
            pointer("out", Role::Result(&["x"]), MATRIX),
        ],
        rules: &[],
    },
    Extents {
        kernel: "square_sums",
        pointers: &[
            pointer("x", Role::Values, MATRIX),
            pointer("out", Role::Result(&[]), |c| c.panel_words("rows", "cols")),
        ],
        rules: &[],
    },
    Extents {
        kernel: "scale_rows",
        pointers: &[
            pointer("y", Role::Values, |c| c.words(&["tokens", "slots", "cols"])),
            pointer("squares", Role::Values, |c| c.panel_words("tokens", "width")),
            pointer("bias", Role::OptionalValues, |c| c.words(&["cols"])),
            pointer("out", Role::Result(&["y"]), |c| c.words(&["tokens", "slots", "cols"])),
        ],
        rules: &[],
    },
    Extents {
        kernel: "column_partials",
        pointers: &[
            pointer("x", Role::Values, |c| c.words(&["tokens", "cols"])),
            pointer("norm", Role::Values, |c| c.words(&["cols"])),
            pointer("w", Role::Packed, |c| c.matrix(c.dtype(0)?, c.count("experts")?, c.count("cols")?)),
            pointer("out", Role::Result(&[]), |c| c.panel_words("tokens", "cols")?.checked_mul(c.count("experts")?)),
        ],
        rules: &[],
    },
    Extents {
        kernel: "finish_logits",
        pointers: &[
            pointer("partials", Role::Values, |c| c.panel_words("tokens", "width")?.checked_mul(c.count("experts")?)),
            pointer("squares", Role::Values, |c| c.panel_words("tokens", "width")),
            pointer("bias", Role::OptionalValues, |c| c.words(&["experts"])),
            pointer("out", Role::Result(&[]), EXPERTS),
        ],
        rules: &[],
    },
    Extents {
        kernel: "norm_quantize",
        pointers: &[
            pointer("x", Role::Values, MATRIX),
            pointer("weight", Role::Values, |c| c.words(&["cols"])),
            pointer("bias", Role::OptionalValues, |c| c.words(&["cols"])),
            pointer("out", Role::Result(&[]), |c| c.rounded_rows()),
        ],
        rules: &[],
    },
    Extents {
        kernel: "norm_add",
        pointers: &[
            pointer("x", Role::Values, MATRIX),
            pointer("weight", Role::Values, |c| c.words(&["cols"])),
            pointer("residual", Role::Values, MATRIX),
            pointer("out", Role::Result(&["x", "residual"]), MATRIX),
            pointer("squares", Role::OptionalResult(&[]), |c| c.panel_words("rows", "cols")),
        ],
        rules: &[],
    },
    Extents {
        kernel: "combine_add",
        pointers: &[
            pointer("y", Role::Values, |c| c.words(&["tokens", "slots", "cols"])),
            pointer("weights", Role::Values, PAIRS),
            pointer("residual", Role::Values, |c| c.words(&["tokens", "cols"])),
            pointer("out", Role::Result(&["residual"]), |c| c.words(&["tokens", "cols"])),
            pointer("squares", Role::OptionalResult(&[]), |c| c.panel_words("tokens", "cols")),
        ],
        rules: &[],
    },
    Extents {
        kernel: "combine_down",
        pointers: &[
            pointer("h", Role::Values, |c| c.rows(c.dtype(1)?, "tokens", "cols")?.checked_mul(c.count("slots")?)),
            pointer("w", Role::Packed, |c| c.packed(c.dtype(0)?)?.checked_mul(c.count("matrices")?)),
            pointer("experts", Role::Indexes, PAIRS),
            pointer("weights", Role::Values, PAIRS),
            pointer("bias", Role::OptionalValues, |c| c.words(&["matrices", "rows"])),
            pointer("residual", Role::OptionalValues, |c| c.words(&["tokens", "rows"])),
            pointer("out", Role::Result(&["residual"]), |c| c.words(&["tokens", "rows"])),
            pointer("squares", Role::OptionalResult(&[]), |c| c.panel_words("tokens", "rows")),
        ],
        rules: &[],
    },
    Extents {
        kernel: "qkv",
        pointers: &[
            pointer("x", Role::Values, |c| c.rows(c.dtype(1)?, "tokens", "cols")),
            pointer("wq", Role::Packed, |c| c.head_rows("heads")),
            pointer("wk", Role::OptionalPacked, |c| c.head_rows("kv_heads")),
            pointer("wv", Role::OptionalPacked, |c| c.head_rows("kv_heads")),
            pointer("norm_weight", Role::OptionalValues, |c| c.words(&["cols"])),
            pointer("norm_bias", Role::OptionalValues, |c| c.words(&["cols"])),
            pointer("squares", Role::OptionalValues, |c| c.panel_words("tokens", "cols")),
            pointer("bq", Role::OptionalValues, |c| c.words(&["heads", "head_dim"])),
            pointer("bk", Role::OptionalValues, |c| c.words(&["kv_heads", "head_dim"])),
            pointer("bv", Role::OptionalValues, |c| c.words(&["kv_heads", "head_dim"])),
            pointer("q_norm", Role::OptionalValues, |c| c.words(&["head_dim"])),
            pointer("k_norm", Role::OptionalValues, |c| c.words(&["head_dim"])),
            pointer("positions", Role::OptionalMetadata("positions"), TOKENS),
            pointer("sequences", Role::OptionalMetadata("sequences"), TOKENS),
            pointer("page_table", Role::OptionalMetadata("page_table"), TABLE),
            pointer("inv_freq", Role::OptionalValues, |c| c.words(&["tables", "pairs"])),
            pointer("table", Role::OptionalMetadata("rope_tables"), TOKENS),
            pointer("out", Role::Result(&[]), HEADS),
            pointer("kv", Role::OptionalPagesWritten, |c| c.page_of(c.last_dtype()?, 2)),
        ],
        rules: &[
            ("keys and values must be there together, with cache and metadata, or not at all", |c| {
                let nulls = ["wk", "wv", "kv"].map(|field| c.is_null(field));
                let metadata = ["positions", "sequences", "page_table"].iter().all(|field| !c.is_null(field));
                Some(nulls == [true; 3] || nulls == [false; 3] && metadata)
            }),
            ("a norm must be of a kind there is, have weights, and rows of f32", |c| c.norm_is_possible()),
            ("frequencies must have positions", |c| Some(c.is_null("inv_freq") || !c.is_null("positions"))),
            ("head_dim must hold all pairs", |c| Some(c.count("pairs")?.checked_mul(2)? <= c.count("head_dim")?)),
            ("tables must be at least 1", |c| Some(c.is_null("inv_freq") || c.count("tables")? > 0)),
        ],
    },
    Extents {
        kernel: "project",
        pointers: &[
            pointer("x", Role::Values, |c| c.rows(c.dtype(1)?, "tokens", "cols")),
            pointer("w", Role::Packed, |c| c.packed(c.dtype(0)?)),
            pointer("norm_weight", Role::OptionalValues, |c| c.words(&["cols"])),
            pointer("norm_bias", Role::OptionalValues, |c| c.words(&["cols"])),
            pointer("squares", Role::OptionalValues, |c| c.panel_words("tokens", "cols")),
            pointer("bias", Role::OptionalValues, |c| c.words(&["rows"])),
            pointer("gate", Role::OptionalValues, TOKENS),
            pointer("residual", Role::OptionalValues, |c| c.words(&["tokens", "rows"])),
            pointer("router_norm", Role::OptionalValues, |c| c.words(&["rows"])),
            pointer("router", Role::OptionalRouter, |c| c.router_bytes()),
            pointer("out", Role::Result(&["residual"]), |c| c.words(&["tokens", "rows"])),
            pointer("squares_out", Role::OptionalResult(&[]), |c| c.panel_words("tokens", "rows")),
            pointer("partials_out", Role::OptionalResult(&[]), |c| {
                c.panel_words("tokens", "rows")?.checked_mul(c.count("router_rows")?)
            }),
        ],
        rules: &[
            ("a norm must be of a kind there is, have weights, and rows of f32", |c| c.norm_is_possible()),
            ("router, router_norm and partials_out must be there together, or not at all", |c| {
                let nulls = ["router", "router_norm", "partials_out"].map(|field| c.is_null(field));
                Some(nulls == [true; 3] || nulls == [false; 3])
            }),
        ],
    },
    Extents {
        kernel: "gate_up",
        pointers: &[
            pointer("x", Role::Values, |c| row_bytes(c.dtype(1)?, c.count("cols")?)?.checked_mul(c.slot_rows()?)),
            pointer("w_gate", Role::Packed, |c| c.packed(c.dtype(0)?)?.checked_mul(c.count("matrices")?)),
            pointer("w_up", Role::Packed, |c| c.packed(c.dtype(0)?)?.checked_mul(c.count("matrices")?)),
            pointer("experts", Role::OptionalIndexes, PAIRS),
            pointer("norm_weight", Role::OptionalValues, |c| c.words(&["cols"])),
            pointer("norm_bias", Role::OptionalValues, |c| c.words(&["cols"])),
            pointer("squares", Role::OptionalValues, |c| c.panel_words("tokens", "cols")),
            pointer("gate_bias", Role::OptionalValues, |c| c.words(&["matrices", "rows"])),
            pointer("up_bias", Role::OptionalValues, |c| c.words(&["matrices", "rows"])),
            pointer("logits", Role::OptionalValues, |c| c.words(&["tokens", "matrices"])),
            pointer("route_partials", Role::OptionalValues, |c| {
                c.panel_words("tokens", "route_width")?.checked_mul(c.count("matrices")?)
            }),
            pointer("route_squares", Role::OptionalValues, |c| c.panel_words("tokens", "route_width")),
            pointer("route_bias", Role::OptionalValues, |c| c.words(&["matrices"])),
            pointer("correction", Role::OptionalValues, |c| c.words(&["matrices"])),
            pointer("out", Role::Result(&[]), |c| c.words(&["tokens", "slots", "rows"])),
            pointer("experts_out", Role::OptionalResult(&[]), PAIRS),
            pointer("weights_out", Role::OptionalResult(&[]), PAIRS),
        ],
        rules: &[
            ("a norm must be of a kind there is, have weights, and rows of f32", |c| c.norm_is_possible()),
            ("activation must be one there is", |c| Some(c.count("activation")? < ACTIVATIONS.len() as u64)),
            ("scoring must be one there is", |c| Some(c.count("scoring")? < SCORINGS.len() as u64)),
            ("routing must have its experts, or logits and results", |c| match c.count("routing")? {
                0 => Some(true),
                1 => Some(!c.is_null("experts")),
                2 => {
                    let partials = !c.is_null("route_partials") && !c.is_null("route_squares");
                    let results = !c.is_null("experts_out") && !c.is_null("weights_out");
                    Some(results && (partials || !c.is_null("logits")))
                }
                _ => Some(false),
            }),
        ],
    },
    Extents {
        kernel: "route",
        pointers: &[
            pointer("logits", Role::OptionalValues, EXPERTS),
            pointer("partials", Role::OptionalValues, |c| {
                c.panel_words("tokens", "width")?.checked_mul(c.count("experts")?)
            }),
            pointer("squares", Role::OptionalValues, |c| c.panel_words("tokens", "width")),
            pointer("logits_bias", Role::OptionalValues, |c| c.words(&["experts"])),
            pointer("bias", Role::OptionalValues, |c| c.words(&["experts"])),
            pointer("selected", Role::Result(&[]), PAIRS),
            pointer("weights", Role::Result(&[]), PAIRS),
        ],
        rules: &[("there must be logits, or partials and squares", |c| {
            Some(!c.is_null("logits") || !c.is_null("partials") && !c.is_null("squares"))
        })],
    },
];

/// The row of a kernel.
pub(super) fn lookup(kernel: &str) -> Option<&'static Extents> {
    EXTENTS.iter().find(|e| e.kernel == kernel)
}

#[cfg(test)]
mod tests;
