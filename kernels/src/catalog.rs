//! The catalog: every kernel, the fields of its parameter struct, its variants, its grid and its native implementation.
//!
//! A program names a kernel and a variant and gives each field a value; devices fill the struct by the offsets that stand
//! here and launch what the row says. The offsets come from the generated structs, so a field that does not exist does not
//! compile, and a row whose fields leave a gap fails to compile as well.
//!
//! The kernels of [`SERVICES`] an engine launches beside programs; they stand here for their structs and implementations.
//!
//! | kernel | variants |
//! |---|---|
//! | `embedding` | the table's format |
//! | `column_partials` | the router's type: `f32`, `f16`, `bf16` |
//! | `gather_rows`, `rms_norm`, `layer_norm`, `rope`, `concat`, `sigmoid_gate`, `permute_columns`, `combine`, `scale_columns`, `square_sums`, `scale_rows`, `finish_logits`, `norm_add`, `combine_add`, `sample`, `page_copy` | one, the empty word |
//! | `quantize_rows`, `norm_quantize` | what shares a scale of 8 bits: `block`, `row`; or `half`: f16, stored as f32 |
//! | `matmul` | `<weight format>.f32`, `<integer format>.q8x32` |
//! | `grouped_matmul`, `project`, `gate_up`, `combine_down` | `<weight format>.` and `f32`, or `f32.half` where the launch rounds; `<integer format>.` and `q8x32`, or `f32.block`, `f32.row` where the launch rounds |
//! | `qkv` | those of `combine_down`, then `.` and the cache's type |
//! | `router`, `router_weights`, `route` | `softmax`, `sigmoid`, `sparsemixer` |
//! | `kv_append`, `attention` | the cache's type: `f16`, `f32` |
//! | `binary` | `add`, `mul`, and `<activation>_mul`: `silu`, `gelu_tanh`, `gelu`, `relu2`, `clamped_swiglu` |
//! | `unary` | `scale`, `softcap` |

use std::ffi::c_void;
use std::mem::{offset_of, size_of};

use ir::types::DType;

use crate::abi::{
    AttentionParams, BinaryParams, ColumnPartialsParams, CombineAddParams, CombineDownParams, CombineParams,
    ConcatParams, EmbeddingParams, FinishLogitsParams, GateUpParams, GatherRowsParams, GroupedMatmulParams,
    KvAppendParams, LayerNormParams, MatmulParams, NormAddParams, NormQuantizeParams, PageCopyParams,
    PermuteColumnsParams, ProjectParams, QkvParams, QuantizeRowsParams, RmsNormParams, RopeParams, RouteParams,
    RouterParams, RouterWeightsParams, SampleParams, ScaleColumnsParams, ScaleRowsParams, SigmoidGateParams,
    SquareSumsParams, UnaryParams,
};
use crate::cpu::isa::Isa;
use crate::cpu::{
    CpuKernel, attention, binary, column_partials, combine, combine_add, combine_down, concat, embedding,
    finish_logits, gate_up, gather_rows, grouped_matmul, kv_append, layer_norm, matmul, norm_add, norm_quantize,
    page_copy, permute_columns, project, qkv, quantize_rows, rms_norm, rope, route, router, router_weights, sample,
    scale_columns, scale_rows, sigmoid_gate, square_sums, unary,
};

/// What a field of a parameter struct holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldKind {
    /// An address the kernel reads.
    In,
    /// An address the kernel writes, and possibly reads.
    Out,
    /// An unsigned 32-bit count.
    U32,
    /// An unsigned 64-bit count.
    U64,
    /// A binary32 number.
    F32,
}

impl FieldKind {
    /// Bytes of the field.
    pub const fn bytes(self) -> usize {
        match self {
            FieldKind::In | FieldKind::Out | FieldKind::U64 => 8,
            FieldKind::U32 | FieldKind::F32 => 4,
        }
    }
}

/// One field of a parameter struct.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// Its offset in bytes.
    pub offset: usize,
    /// What it holds.
    pub kind: FieldKind,
}

/// One kernel.
pub struct KernelInfo {
    /// Its name in programs.
    pub name: &'static str,
    /// Fields of its parameter struct, in declaration order.
    pub fields: &'static [Field],
    /// Bytes of its parameter struct.
    pub params_bytes: usize,
    blocks: unsafe fn(variant: &str, params: *const c_void) -> usize,
    scratch: unsafe fn(variant: &str, params: *const c_void) -> usize,
    weight_bytes: unsafe fn(variant: &str, params: *const c_void) -> u64,
    select: fn(variant: &str, isa: Isa) -> Option<CpuKernel>,
}

impl KernelInfo {
    /// Whether there is such a variant.
    pub fn has_variant(&self, variant: &str) -> bool {
        (self.select)(variant, Isa::Portable).is_some()
    }

    /// The native implementation of a variant; `None` if there is none or this machine lacks the instruction set.
    pub fn select(&self, variant: &str, isa: Isa) -> Option<CpuKernel> {
        (self.select)(variant, isa)
    }

    /// Blocks of a launch's grid.
    ///
    /// # Safety
    /// `params` points to this kernel's parameter struct; its pointers are not followed.
    pub unsafe fn blocks(&self, variant: &str, params: *const c_void) -> usize {
        // SAFETY: passed on.
        unsafe { (self.blocks)(variant, params) }
    }

    /// Bytes of scratch memory a thread needs for a launch, or for any launch with smaller counts.
    ///
    /// # Safety
    /// As [`KernelInfo::blocks`].
    pub unsafe fn scratch_bytes(&self, variant: &str, params: *const c_void) -> usize {
        // SAFETY: passed on.
        unsafe { (self.scratch)(variant, params) }
    }

    /// Whether the kernel reads packed weights, of which a device counts the bytes.
    pub fn reads_weights(&self) -> bool {
        matches!(
            self.name,
            "matmul"
                | "grouped_matmul"
                | "embedding"
                | "column_partials"
                | "combine_down"
                | "qkv"
                | "project"
                | "gate_up"
        )
    }

    /// Bytes of packed weights a launch reads at least once: a whole matrix, the matrices selected, the panel of each token
    /// of an embedding. For a launch that selects experts itself, the most it can read, which one token does. 0 for kernels
    /// without packed weights.
    ///
    /// # Safety
    /// `params` points to this kernel's parameter struct. Of its pointers `experts`, if there is one, is followed, and must
    /// be null or valid for the counts beside it.
    pub unsafe fn weight_bytes(&self, variant: &str, params: *const c_void) -> u64 {
        // SAFETY: passed on.
        unsafe { (self.weight_bytes)(variant, params) }
    }
}

/// The kernel of that name.
pub fn lookup(name: &str) -> Option<&'static KernelInfo> {
    KERNELS.iter().find(|k| k.name == name)
}

/// Offset and kind of each field; checks that they cover the struct without a gap.
macro_rules! fields {
    ($params:ty { $($field:ident: $kind:ident),+ $(,)? }) => {{
        const FIELDS: &[Field] = &[$(Field {
            name: stringify!($field),
            offset: offset_of!($params, $field),
            kind: FieldKind::$kind,
        }),+];
        const _: () = assert!(is_dense(FIELDS, size_of::<$params>()));
        FIELDS
    }};
}

const fn is_dense(fields: &[Field], bytes: usize) -> bool {
    let (mut at, mut i) = (0, 0);
    while i < fields.len() {
        if fields[i].offset != at {
            return false;
        }
        at += fields[i].kind.bytes();
        i += 1;
    }
    at == bytes
}

/// A row: name, parameter struct with its fields, grid, scratch memory, implementation.
macro_rules! kernel {
    ($name:literal, $params:ident { $($field:ident: $kind:ident),+ $(,)? },
     blocks: |$bv:pat_param, $bp:pat_param| $blocks:expr, scratch: |$sv:pat_param, $sp:pat_param| $scratch:expr,
     $(weights: |$wv:pat_param, $wp:pat_param| $weights:expr,)? select: $select:expr $(,)?) => {{
        unsafe fn blocks($bv: &str, params: *const c_void) -> usize {
            // SAFETY: the caller passes this kernel's struct.
            let $bp = unsafe { &*params.cast::<$params>() };
            $blocks
        }
        unsafe fn scratch($sv: &str, params: *const c_void) -> usize {
            // SAFETY: the caller passes this kernel's struct.
            let $sp = unsafe { &*params.cast::<$params>() };
            $scratch
        }
        unsafe fn weight_bytes(_variant: &str, _params: *const c_void) -> u64 {
            $(
                let $wv = _variant;
                // SAFETY: the caller passes this kernel's struct.
                let $wp = unsafe { &*_params.cast::<$params>() };
                // Not every row follows a pointer.
                #[allow(unused_unsafe)]
                // SAFETY: the caller's experts are valid.
                return unsafe { $weights };
            )?
            #[allow(unreachable_code)]
            0
        }
        KernelInfo {
            name: $name,
            fields: fields!($params { $($field: $kind),+ }),
            params_bytes: size_of::<$params>(),
            blocks,
            scratch,
            weight_bytes,
            select: $select,
        }
    }};
}

/// Every kernel.
pub static KERNELS: &[KernelInfo] = &[
    kernel!(
        "embedding",
        EmbeddingParams { ids: In, table: In, out: Out, tokens: U32, rows: U32, cols: U32, reserved: U32 },
        blocks: |_, p| embedding::blocks(p),
        scratch: |_, _| embedding::scratch_bytes(),
        weights: |variant, p| u64::from(p.tokens)
            * DType::from_name(variant).map_or(0, |table| matrix_bytes(table, LANES, p.cols)),
        select: |variant, isa| embedding::select(DType::from_name(variant)?, isa),
    ),
    kernel!(
        "gather_rows",
        GatherRowsParams { x: In, rows: In, out: Out, count: U32, cols: U32 },
        blocks: |_, p| gather_rows::blocks(p),
        scratch: |_, _| 0,
        select: |variant, _| variant.is_empty().then(gather_rows::select),
    ),
    kernel!(
        "rms_norm",
        RmsNormParams { x: In, weight: In, out: Out, rows: U32, cols: U32, eps: F32, reserved: U32 },
        blocks: |_, p| rms_norm::blocks(p),
        scratch: |_, _| 0,
        select: |variant, isa| variant.is_empty().then(|| rms_norm::select(isa))?,
    ),
    kernel!(
        "layer_norm",
        LayerNormParams { x: In, weight: In, bias: In, out: Out, rows: U32, cols: U32, eps: F32, reserved: U32 },
        blocks: |_, p| layer_norm::blocks(p),
        scratch: |_, _| 0,
        select: |variant, isa| variant.is_empty().then(|| layer_norm::select(isa))?,
    ),
    kernel!(
        "quantize_rows",
        QuantizeRowsParams { x: In, out: Out, rows: U32, cols: U32 },
        blocks: |_, p| quantize_rows::blocks(p),
        scratch: |_, _| quantize_rows::scratch_bytes(),
        select: quantize_rows::select,
    ),
    kernel!(
        "matmul",
        MatmulParams { x: In, w: In, bias: In, out: Out, tokens: U32, rows: U32, cols: U32, reserved: U32 },
        blocks: |variant, p| matmul_types(variant).map_or(0, |(_, x)| matmul::blocks(x, p)),
        scratch: |variant, p| matmul_types(variant)
            .map_or(0, |(_, x)| matmul::scratch_bytes(x, p.tokens as usize, p.cols as usize)),
        weights: |variant, p| matmul_types(variant).map_or(0, |(w, _)| matrix_bytes(w, p.rows, p.cols)),
        select: |variant, isa| matmul_types(variant).and_then(|(w, x)| matmul::select(w, x, isa)),
    ),
    kernel!(
        "grouped_matmul",
        GroupedMatmulParams {
            x: In, w: In, experts: In, bias: In, out: Out,
            tokens: U32, slots: U32, matrices: U32, rows: U32, cols: U32, slots_share_x: U32,
        },
        blocks: |variant, p| grouped_matmul::blocks(variant, p),
        scratch: |variant, p| grouped_matmul::scratch_bytes(variant, p),
        weights: |variant, p| weights_of(variant)
            .map_or(0, |w| grouped_matmul::matrices_read(p) as u64 * matrix_bytes(w, p.rows, p.cols)),
        select: grouped_matmul::select,
    ),
    kernel!(
        "router",
        RouterParams {
            logits: In, bias: In, out: Out,
            tokens: U32, experts: U32, slots: U32, groups: U32, top_groups: U32, reserved: U32,
        },
        blocks: |_, p| router::blocks(p),
        scratch: |_, p| router::scratch_bytes(p),
        select: router::select,
    ),
    kernel!(
        "router_weights",
        RouterWeightsParams {
            logits: In, selected: In, out: Out,
            tokens: U32, experts: U32, slots: U32, renormalise: U32, scale: F32, jitter: F32,
        },
        blocks: |_, p| router_weights::blocks(p),
        scratch: |_, _| 0,
        select: router_weights::select,
    ),
    kernel!(
        "combine",
        CombineParams { y: In, weights: In, out: Out, tokens: U32, slots: U32, cols: U32, reserved: U32 },
        blocks: |_, p| combine::blocks(p),
        scratch: |_, _| 0,
        select: |variant, isa| variant.is_empty().then(|| combine::select(isa))?,
    ),
    kernel!(
        "rope",
        RopeParams {
            x: In, positions: In, inv_freq: In, table: In, out: Out,
            tokens: U32, heads: U32, head_dim: U32, pairs: U32, tables: U32, interleaved: U32, scale: F32, reserved: U32,
        },
        blocks: |_, p| rope::blocks(p),
        scratch: |_, p| rope::scratch_bytes(p),
        select: |variant, isa| variant.is_empty().then(|| rope::select(isa))?,
    ),
    kernel!(
        "kv_append",
        KvAppendParams {
            k: In, v: In, positions: In, sequences: In, page_table: In, kv: Out,
            tokens: U32, kv_heads: U32, head_dim: U32, page_table_stride: U32,
        },
        blocks: |_, p| kv_append::blocks(p),
        scratch: |_, _| 0,
        select: kv_append::select,
    ),
    kernel!(
        "attention",
        AttentionParams {
            q: In, kv: In, positions: In, sequences: In, page_table: In, sinks: In, out: Out,
            tokens: U32, heads: U32, kv_heads: U32, head_dim: U32,
            page_table_stride: U32, window: U32, value_dim: U32, reserved: U32, scale: F32, softcap: F32,
        },
        blocks: |_, p| attention::blocks(p),
        scratch: |_, p| attention::scratch_bytes(p),
        select: attention::select,
    ),
    kernel!(
        "binary",
        BinaryParams { a: In, b: In, out: Out, count: U64, limit: F32, reserved: U32 },
        blocks: |_, p| binary::blocks(p),
        scratch: |_, _| 0,
        select: binary::select,
    ),
    kernel!(
        "unary",
        UnaryParams { x: In, out: Out, count: U64, value: F32, reserved: U32 },
        blocks: |_, p| unary::blocks(p),
        scratch: |_, _| 0,
        select: unary::select,
    ),
    kernel!(
        "sigmoid_gate",
        SigmoidGateParams { x: In, gate: In, out: Out, rows: U32, cols: U32 },
        blocks: |_, p| sigmoid_gate::blocks(p),
        scratch: |_, _| 0,
        select: |variant, isa| variant.is_empty().then(|| sigmoid_gate::select(isa))?,
    ),
    kernel!(
        "concat",
        ConcatParams { a: In, b: In, out: Out, rows: U32, a_cols: U32, b_cols: U32, reserved: U32 },
        blocks: |_, p| concat::blocks(p),
        scratch: |_, _| 0,
        select: |variant, _| variant.is_empty().then(concat::select),
    ),
    kernel!(
        "permute_columns",
        PermuteColumnsParams {
            x: In, index: In, experts: In, out: Out,
            tokens: U32, slots: U32, matrices: U32, cols: U32, slots_share_x: U32, reserved: U32,
        },
        blocks: |_, p| permute_columns::blocks(p),
        scratch: |_, _| 0,
        select: |variant, _| variant.is_empty().then(permute_columns::select),
    ),
    kernel!(
        "scale_columns",
        ScaleColumnsParams { x: In, w: In, out: Out, rows: U32, cols: U32 },
        blocks: |_, p| scale_columns::blocks(p),
        scratch: |_, _| 0,
        select: |variant, isa| variant.is_empty().then(|| scale_columns::select(isa))?,
    ),
    kernel!(
        "square_sums",
        SquareSumsParams { x: In, out: Out, rows: U32, cols: U32 },
        blocks: |_, p| square_sums::blocks(p),
        scratch: |_, _| 0,
        select: |variant, isa| variant.is_empty().then(|| square_sums::select(isa))?,
    ),
    kernel!(
        "scale_rows",
        ScaleRowsParams {
            y: In, squares: In, bias: In, out: Out,
            tokens: U32, slots: U32, cols: U32, width: U32, eps: F32, reserved: U32,
        },
        blocks: |_, p| scale_rows::blocks(p),
        scratch: |_, _| 0,
        select: |variant, isa| variant.is_empty().then(|| scale_rows::select(isa))?,
    ),
    kernel!(
        "column_partials",
        ColumnPartialsParams { x: In, norm: In, w: In, out: Out, tokens: U32, cols: U32, experts: U32, reserved: U32 },
        blocks: |_, p| column_partials::blocks(p),
        scratch: |_, _| 0,
        weights: |variant, p| DType::from_name(variant).map_or(0, |w| matrix_bytes(w, p.experts, p.cols)),
        select: column_partials::select,
    ),
    kernel!(
        "finish_logits",
        FinishLogitsParams {
            partials: In, squares: In, bias: In, out: Out, tokens: U32, experts: U32, width: U32, eps: F32,
        },
        blocks: |_, p| finish_logits::blocks(p),
        scratch: |_, _| 0,
        select: |variant, isa| variant.is_empty().then(|| finish_logits::select(isa))?,
    ),
    kernel!(
        "norm_quantize",
        NormQuantizeParams { x: In, weight: In, bias: In, out: Out, rows: U32, cols: U32, norm: U32, eps: F32 },
        blocks: |_, p| norm_quantize::blocks(p),
        scratch: |_, p| norm_quantize::scratch_bytes(p),
        select: norm_quantize::select,
    ),
    kernel!(
        "norm_add",
        NormAddParams {
            x: In, weight: In, residual: In, out: Out, squares: Out, rows: U32, cols: U32, eps: F32, factor: F32,
        },
        blocks: |_, p| norm_add::blocks(p),
        scratch: |_, _| 0,
        select: |variant, isa| variant.is_empty().then(|| norm_add::select(isa))?,
    ),
    kernel!(
        "combine_add",
        CombineAddParams {
            y: In, weights: In, residual: In, out: Out, squares: Out, tokens: U32, slots: U32, cols: U32, factor: F32,
        },
        blocks: |_, p| combine_add::blocks(p),
        scratch: |_, _| 0,
        select: |variant, isa| variant.is_empty().then(|| combine_add::select(isa))?,
    ),
    kernel!(
        "combine_down",
        CombineDownParams {
            h: In, w: In, experts: In, weights: In, bias: In, residual: In, out: Out, squares: Out,
            tokens: U32, slots: U32, matrices: U32, rows: U32, cols: U32, factor: F32,
        },
        blocks: |_, p| combine_down::blocks(p),
        scratch: |variant, p| combine_down::scratch_bytes(variant, p),
        weights: |variant, p| weights_of(variant)
            .map_or(0, |w| combine_down::matrices_read(p) as u64 * matrix_bytes(w, p.rows, p.cols)),
        select: combine_down::select,
    ),
    kernel!(
        "qkv",
        QkvParams {
            x: In, wq: In, wk: In, wv: In, norm_weight: In, norm_bias: In, squares: In, bq: In, bk: In, bv: In,
            q_norm: In, k_norm: In, positions: In, sequences: In, page_table: In, inv_freq: In, table: In, out: Out, kv: Out,
            tokens: U32, cols: U32, heads: U32, kv_heads: U32, head_dim: U32, pairs: U32,
            tables: U32, interleaved: U32, page_table_stride: U32, norm: U32,
            eps: F32, norm_eps: F32, head_eps: F32, scale: F32,
        },
        blocks: |_, p| qkv::blocks(p),
        scratch: |variant, p| qkv::scratch_bytes(variant, p),
        weights: |variant, p| weights_of(variant).map_or(0, |w| {
            let kv = if p.wk.is_null() { 0 } else { matrix_bytes(w, p.kv_heads * p.head_dim, p.cols) };
            matrix_bytes(w, p.heads * p.head_dim, p.cols) + 2 * kv
        }),
        select: qkv::select,
    ),
    kernel!(
        "project",
        ProjectParams {
            x: In, w: In, norm_weight: In, norm_bias: In, squares: In, bias: In, gate: In, residual: In, router_norm: In,
            router: In, out: Out, squares_out: Out, partials_out: Out, tokens: U32, rows: U32, cols: U32, norm: U32,
            router_rows: U32, router_type: U32, eps: F32, norm_eps: F32, factor: F32, softcap: F32,
        },
        blocks: |variant, p| project::blocks(variant, p),
        scratch: |variant, p| project::scratch_bytes(variant, p),
        weights: |variant, p| weights_of(variant).map_or(0, |w| {
            let router = project::ROUTER_TYPES.get(p.router_type as usize).filter(|_| !p.router.is_null());
            matrix_bytes(w, p.rows, p.cols) + router.map_or(0, |w| matrix_bytes(*w, p.router_rows, p.rows))
        }),
        select: project::select,
    ),
    kernel!(
        "gate_up",
        GateUpParams {
            x: In, w_gate: In, w_up: In, experts: In, norm_weight: In, norm_bias: In, squares: In, gate_bias: In, up_bias: In,
            logits: In, route_partials: In, route_squares: In, route_bias: In, correction: In,
            out: Out, experts_out: Out, weights_out: Out,
            tokens: U32, slots: U32, matrices: U32, rows: U32, cols: U32, slots_share_x: U32,
            activation: U32, norm: U32, routing: U32, scoring: U32, groups: U32, top_groups: U32, renormalise: U32,
            route_width: U32, eps: F32, norm_eps: F32, limit: F32, route_eps: F32, scale: F32, jitter: F32,
        },
        blocks: |variant, p| gate_up::blocks(variant, p),
        scratch: |variant, p| gate_up::scratch_bytes(variant, p),
        weights: |variant, p| weights_of(variant)
            .map_or(0, |w| 2 * gate_up::matrices_read(p) as u64 * matrix_bytes(w, p.rows, p.cols)),
        select: gate_up::select,
    ),
    kernel!(
        "route",
        RouteParams {
            logits: In, partials: In, squares: In, logits_bias: In, bias: In, selected: Out, weights: Out,
            tokens: U32, experts: U32, slots: U32, groups: U32, top_groups: U32, renormalise: U32, width: U32,
            eps: F32, scale: F32, jitter: F32,
        },
        blocks: |_, p| route::blocks(p),
        scratch: |_, p| route::scratch_bytes(p),
        select: route::select,
    ),
    kernel!(
        "sample",
        SampleParams {
            logits: In, settings: In, history_offsets: In, history_tokens: In, history_counts: In, allowed: In,
            out: Out, logprobs: Out, rows: U32, vocab: U32,
        },
        blocks: |_, p| sample::blocks(p),
        scratch: |_, p| sample::scratch_bytes(p),
        select: |variant, isa| variant.is_empty().then(|| sample::select(isa))?,
    ),
    kernel!(
        "page_copy",
        PageCopyParams { pages: In, kv: Out, page_bytes: U64, count: U32, reserved: U32 },
        blocks: |_, p| page_copy::blocks(p),
        scratch: |_, _| 0,
        select: |variant, _| variant.is_empty().then(page_copy::select),
    ),
];

/// Kernels that an engine launches beside programs: no program may launch them, and every artifact for GPUs carries them.
pub const SERVICES: &[&str] = &["sample", "page_copy"];

/// Rows of a panel of packed weights.
const LANES: u32 = ir::quant::PANEL_ROWS as u32;

/// Bytes of a packed matrix; 0 if there is no such matrix.
fn matrix_bytes(weights: DType, rows: u32, cols: u32) -> u64 {
    ir::quant::packed_bytes(weights, rows.into(), cols.into()).unwrap_or(0)
}

/// The weights' type in a variant that begins with it.
fn weights_of(variant: &str) -> Option<DType> {
    DType::from_name(variant.split('.').next()?)
}

/// Types of weights and activations of a matmul variant.
fn matmul_types(variant: &str) -> Option<(DType, DType)> {
    let (weights, activations) = variant.split_once('.')?;
    Some((DType::from_name(weights)?, DType::from_name(activations)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_found_by_name_and_variant() {
        assert_eq!(KERNELS.len(), 33);
        for (kernel, variant) in [
            ("matmul", "q4_1.q8x32"),
            ("matmul", "f16.f32"),
            ("embedding", "q6_k"),
            ("attention", "f16"),
            ("binary", "silu_mul"),
            ("rope", ""),
            ("quantize_rows", "row"),
            ("unary", "softcap"),
        ] {
            assert!(lookup(kernel).unwrap().has_variant(variant), "{kernel} {variant}");
        }
        for (kernel, variant) in
            [("matmul", "f16.q8x32"), ("matmul", "q4_1"), ("attention", "bf16"), ("binary", "sub"), ("rope", "x")]
        {
            assert!(!lookup(kernel).unwrap().has_variant(variant), "{kernel} {variant}");
        }
        assert!(lookup("fft").is_none());
    }

    /// Each cache type, operation and format a kernel lists has a row here, and launches without work have no blocks.
    #[test]
    fn variants_are_those_of_the_kernels() {
        let with = |kernel: &'static str, variants: &[&'static str]| {
            variants.iter().map(move |v| (kernel, *v)).collect::<Vec<_>>()
        };
        let rows = [
            with("attention", attention::VARIANTS),
            with("kv_append", kv_append::VARIANTS),
            with("binary", binary::VARIANTS),
            with("matmul", &["f32.f32", "q8_0.q8x32"]),
            with("grouped_matmul", &["f32.f32", "q8_0.q8x32", "q4_0.f32.block", "bf16.f32.half"]),
            with("router", router::VARIANTS),
            with("router_weights", router_weights::VARIANTS),
            with("combine", &[""]),
            with("embedding", &["f32"]),
            with("quantize_rows", quantize_rows::VARIANTS),
            with("unary", unary::VARIANTS),
            with("project", &["f32.f32", "q8_0.q8x32", "q4_k.f32.row", "f32.f32.half"]),
            with("gate_up", &["f32.f32", "q8_0.q8x32", "q4_k.f32.block", "f16.f32.half"]),
            with("route", route::VARIANTS),
            with("combine_down", &["f32.f32", "q8_0.q8x32", "q4_k.f32.row", "q4_k.f32.half"]),
            with("qkv", &["bf16.f32.f16", "q8_0.q8x32.f32", "q4_k.f32.block.int8", "bf16.f32.half.f16"]),
            with("column_partials", column_partials::VARIANTS),
            with("norm_quantize", norm_quantize::VARIANTS),
            ["scale_columns", "square_sums", "scale_rows", "finish_logits", "norm_add", "combine_add"]
                .map(|kernel| (kernel, ""))
                .to_vec(),
            SERVICES.iter().map(|kernel| (*kernel, "")).collect(),
            ["gather_rows", "rms_norm", "layer_norm", "rope", "concat", "sigmoid_gate", "permute_columns"]
                .map(|kernel| (kernel, ""))
                .to_vec(),
        ];
        for (name, variant) in rows.concat() {
            let kernel = lookup(name).unwrap();
            for &isa in Isa::available() {
                assert!(kernel.select(variant, isa).is_some(), "{name} {variant} {isa}");
            }
            let params = vec![0u64; kernel.params_bytes.div_ceil(8)];
            // SAFETY: zeros are a value of every parameter struct; no pointer is followed.
            assert_eq!(unsafe { kernel.blocks(variant, params.as_ptr().cast()) }, 0, "{name}");
        }
    }

    #[test]
    fn launches_know_the_weights_they_read() {
        let bytes = |rows| ir::quant::packed_bytes(DType::Q4_0, rows, 64).unwrap();
        let read = |name: &str, variant: &str, params: *const c_void| {
            // SAFETY: the parameters are the kernel's and their experts valid.
            unsafe { lookup(name).unwrap().weight_bytes(variant, params) }
        };
        let matmul = MatmulParams { tokens: 5, rows: 40, cols: 64, ..MatmulParams::default() };
        assert_eq!(read("matmul", "q4_0.q8x32", (&raw const matmul).cast()), bytes(40));
        let embedding = EmbeddingParams { tokens: 5, rows: 40, cols: 64, ..EmbeddingParams::default() };
        assert_eq!(read("embedding", "q4_0", (&raw const embedding).cast()), 5 * bytes(16));
        for (experts, matrices, distinct) in
            [(&[3, 1, 3, -1][..], 8, 2), (&[0, 9, 2, 1, 2, 2], 3, 3), (&[4, 4], 4, 0), (&[], 3, 0)]
        {
            let (tokens, slots) = (experts.len() as u32 / 2, 2);
            let experts = experts.as_ptr();
            let (rows, cols) = (40, 64);
            let grouped =
                GroupedMatmulParams { experts, tokens, slots, matrices, rows, cols, ..GroupedMatmulParams::default() };
            assert_eq!(read("grouped_matmul", "q4_0.f32", (&raw const grouped).cast()), distinct * bytes(40));
        }
        let (heads, rows, cols) = (6, 40, 64);
        let (slots, matrices) = (heads, heads);
        let by_head = GroupedMatmulParams { tokens: 3, slots, matrices, rows, cols, ..GroupedMatmulParams::default() };
        assert_eq!(read("grouped_matmul", "q4_0.f32", (&raw const by_head).cast()), 6 * bytes(40));
        let combine = CombineParams { tokens: 3, slots, cols, ..CombineParams::default() };
        assert_eq!(read("combine", "", (&raw const combine).cast()), 0);
    }
}
