//! The catalog: every kernel, the fields of its parameter struct, its variants, its grid and its native implementation.
//!
//! A program names a kernel and a variant and gives each field a value; devices fill the struct by the offsets that stand
//! here and launch what the row says. The offsets come from the generated structs, so a field that does not exist does not
//! compile, and a row whose fields leave a gap fails to compile as well.
//!
//! | kernel | variants |
//! |---|---|
//! | `embedding` | the table's format |
//! | `gather_rows`, `rms_norm`, `quantize_rows`, `rope` | one, the empty word |
//! | `matmul` | `<weight format>.f32`, `<block format>.q8x32` |
//! | `kv_append`, `attention` | the cache's type: `f16`, `f32` |
//! | `binary` | `add`, `mul`, `silu_mul` |

use std::ffi::c_void;
use std::mem::{offset_of, size_of};

use ir::types::DType;

use crate::abi::{
    AttentionParams, BinaryParams, EmbeddingParams, GatherRowsParams, KvAppendParams, MatmulParams, QuantizeRowsParams,
    RmsNormParams, RopeParams,
};
use crate::cpu::isa::Isa;
use crate::cpu::{
    CpuKernel, attention, binary, embedding, gather_rows, kv_append, matmul, quantize_rows, rms_norm, rope,
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
     select: $select:expr $(,)?) => {{
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
        KernelInfo {
            name: $name,
            fields: fields!($params { $($field: $kind),+ }),
            params_bytes: size_of::<$params>(),
            blocks,
            scratch,
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
        "quantize_rows",
        QuantizeRowsParams { x: In, out: Out, rows: U32, cols: U32 },
        blocks: |_, p| quantize_rows::blocks(p),
        scratch: |_, _| quantize_rows::scratch_bytes(),
        select: |variant, isa| variant.is_empty().then(|| quantize_rows::select(isa))?,
    ),
    kernel!(
        "matmul",
        MatmulParams { x: In, w: In, bias: In, out: Out, tokens: U32, rows: U32, cols: U32, reserved: U32 },
        blocks: |variant, p| matmul_types(variant).map_or(0, |(_, x)| matmul::blocks(x, p)),
        scratch: |variant, p| matmul_types(variant)
            .map_or(0, |(_, x)| matmul::scratch_bytes(x, p.tokens as usize, p.cols as usize)),
        select: |variant, isa| matmul_types(variant).and_then(|(w, x)| matmul::select(w, x, isa)),
    ),
    kernel!(
        "rope",
        RopeParams {
            x: In, positions: In, inv_freq: In, out: Out,
            tokens: U32, heads: U32, head_dim: U32, pairs: U32, interleaved: U32, scale: F32,
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
            q: In, kv: In, positions: In, sequences: In, page_table: In, out: Out,
            tokens: U32, heads: U32, kv_heads: U32, head_dim: U32,
            page_table_stride: U32, window: U32, scale: F32, softcap: F32,
        },
        blocks: |_, p| attention::blocks(p),
        scratch: |_, p| attention::scratch_bytes(p),
        select: attention::select,
    ),
    kernel!(
        "binary",
        BinaryParams { a: In, b: In, out: Out, count: U64 },
        blocks: |_, p| binary::blocks(p),
        scratch: |_, _| 0,
        select: binary::select,
    ),
];

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
        assert_eq!(KERNELS.len(), 9);
        for (kernel, variant) in [
            ("matmul", "q4_1.q8x32"),
            ("matmul", "f16.f32"),
            ("embedding", "q6_k"),
            ("attention", "f16"),
            ("binary", "silu_mul"),
            ("rope", ""),
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
            with("embedding", &["f32"]),
            ["gather_rows", "rms_norm", "quantize_rows", "rope"].map(|kernel| (kernel, "")).to_vec(),
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
}
