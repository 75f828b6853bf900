//! Generated from kernels/cuda/params.h by `cargo xtask abi`; do not edit.
//!
//! One by-value parameter struct a kernel; the meaning of each field stands in the header.
#![allow(missing_docs, non_camel_case_types, clippy::all, clippy::undocumented_unsafe_blocks)]


#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct EmbeddingParams {
    pub ids: *const ::std::os::raw::c_int,
    pub table: *const ::std::os::raw::c_void,
    pub out: *mut f32,
    pub tokens: ::std::os::raw::c_uint,
    pub rows: ::std::os::raw::c_uint,
    pub cols: ::std::os::raw::c_uint,
    pub reserved: ::std::os::raw::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of EmbeddingParams"][::std::mem::size_of::<EmbeddingParams>() - 40usize];
    ["Alignment of EmbeddingParams"][::std::mem::align_of::<EmbeddingParams>() - 8usize];
    ["Offset of field: EmbeddingParams::ids"][::std::mem::offset_of!(EmbeddingParams, ids) - 0usize];
    ["Offset of field: EmbeddingParams::table"][::std::mem::offset_of!(EmbeddingParams, table) - 8usize];
    ["Offset of field: EmbeddingParams::out"][::std::mem::offset_of!(EmbeddingParams, out) - 16usize];
    ["Offset of field: EmbeddingParams::tokens"][::std::mem::offset_of!(EmbeddingParams, tokens) - 24usize];
    ["Offset of field: EmbeddingParams::rows"][::std::mem::offset_of!(EmbeddingParams, rows) - 28usize];
    ["Offset of field: EmbeddingParams::cols"][::std::mem::offset_of!(EmbeddingParams, cols) - 32usize];
    ["Offset of field: EmbeddingParams::reserved"][::std::mem::offset_of!(EmbeddingParams, reserved) - 36usize];
};
impl Default for EmbeddingParams {
    fn default() -> Self {
        let mut s = ::std::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::std::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct GatherRowsParams {
    pub x: *const f32,
    pub rows: *const ::std::os::raw::c_int,
    pub out: *mut f32,
    pub count: ::std::os::raw::c_uint,
    pub cols: ::std::os::raw::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of GatherRowsParams"][::std::mem::size_of::<GatherRowsParams>() - 32usize];
    ["Alignment of GatherRowsParams"][::std::mem::align_of::<GatherRowsParams>() - 8usize];
    ["Offset of field: GatherRowsParams::x"][::std::mem::offset_of!(GatherRowsParams, x) - 0usize];
    ["Offset of field: GatherRowsParams::rows"][::std::mem::offset_of!(GatherRowsParams, rows) - 8usize];
    ["Offset of field: GatherRowsParams::out"][::std::mem::offset_of!(GatherRowsParams, out) - 16usize];
    ["Offset of field: GatherRowsParams::count"][::std::mem::offset_of!(GatherRowsParams, count) - 24usize];
    ["Offset of field: GatherRowsParams::cols"][::std::mem::offset_of!(GatherRowsParams, cols) - 28usize];
};
impl Default for GatherRowsParams {
    fn default() -> Self {
        let mut s = ::std::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::std::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct RmsNormParams {
    pub x: *const f32,
    pub weight: *const f32,
    pub out: *mut f32,
    pub rows: ::std::os::raw::c_uint,
    pub cols: ::std::os::raw::c_uint,
    pub eps: f32,
    pub reserved: ::std::os::raw::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RmsNormParams"][::std::mem::size_of::<RmsNormParams>() - 40usize];
    ["Alignment of RmsNormParams"][::std::mem::align_of::<RmsNormParams>() - 8usize];
    ["Offset of field: RmsNormParams::x"][::std::mem::offset_of!(RmsNormParams, x) - 0usize];
    ["Offset of field: RmsNormParams::weight"][::std::mem::offset_of!(RmsNormParams, weight) - 8usize];
    ["Offset of field: RmsNormParams::out"][::std::mem::offset_of!(RmsNormParams, out) - 16usize];
    ["Offset of field: RmsNormParams::rows"][::std::mem::offset_of!(RmsNormParams, rows) - 24usize];
    ["Offset of field: RmsNormParams::cols"][::std::mem::offset_of!(RmsNormParams, cols) - 28usize];
    ["Offset of field: RmsNormParams::eps"][::std::mem::offset_of!(RmsNormParams, eps) - 32usize];
    ["Offset of field: RmsNormParams::reserved"][::std::mem::offset_of!(RmsNormParams, reserved) - 36usize];
};
impl Default for RmsNormParams {
    fn default() -> Self {
        let mut s = ::std::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::std::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct QuantizeRowsParams {
    pub x: *const f32,
    pub out: *mut ::std::os::raw::c_void,
    pub rows: ::std::os::raw::c_uint,
    pub cols: ::std::os::raw::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of QuantizeRowsParams"][::std::mem::size_of::<QuantizeRowsParams>() - 24usize];
    ["Alignment of QuantizeRowsParams"][::std::mem::align_of::<QuantizeRowsParams>() - 8usize];
    ["Offset of field: QuantizeRowsParams::x"][::std::mem::offset_of!(QuantizeRowsParams, x) - 0usize];
    ["Offset of field: QuantizeRowsParams::out"][::std::mem::offset_of!(QuantizeRowsParams, out) - 8usize];
    ["Offset of field: QuantizeRowsParams::rows"][::std::mem::offset_of!(QuantizeRowsParams, rows) - 16usize];
    ["Offset of field: QuantizeRowsParams::cols"][::std::mem::offset_of!(QuantizeRowsParams, cols) - 20usize];
};
impl Default for QuantizeRowsParams {
    fn default() -> Self {
        let mut s = ::std::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::std::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct MatmulParams {
    pub x: *const ::std::os::raw::c_void,
    pub w: *const ::std::os::raw::c_void,
    pub bias: *const f32,
    pub out: *mut f32,
    pub tokens: ::std::os::raw::c_uint,
    pub rows: ::std::os::raw::c_uint,
    pub cols: ::std::os::raw::c_uint,
    pub reserved: ::std::os::raw::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of MatmulParams"][::std::mem::size_of::<MatmulParams>() - 48usize];
    ["Alignment of MatmulParams"][::std::mem::align_of::<MatmulParams>() - 8usize];
    ["Offset of field: MatmulParams::x"][::std::mem::offset_of!(MatmulParams, x) - 0usize];
    ["Offset of field: MatmulParams::w"][::std::mem::offset_of!(MatmulParams, w) - 8usize];
    ["Offset of field: MatmulParams::bias"][::std::mem::offset_of!(MatmulParams, bias) - 16usize];
    ["Offset of field: MatmulParams::out"][::std::mem::offset_of!(MatmulParams, out) - 24usize];
    ["Offset of field: MatmulParams::tokens"][::std::mem::offset_of!(MatmulParams, tokens) - 32usize];
    ["Offset of field: MatmulParams::rows"][::std::mem::offset_of!(MatmulParams, rows) - 36usize];
    ["Offset of field: MatmulParams::cols"][::std::mem::offset_of!(MatmulParams, cols) - 40usize];
    ["Offset of field: MatmulParams::reserved"][::std::mem::offset_of!(MatmulParams, reserved) - 44usize];
};
impl Default for MatmulParams {
    fn default() -> Self {
        let mut s = ::std::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::std::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct RopeParams {
    pub x: *const f32,
    pub positions: *const ::std::os::raw::c_int,
    pub inv_freq: *const f32,
    pub out: *mut f32,
    pub tokens: ::std::os::raw::c_uint,
    pub heads: ::std::os::raw::c_uint,
    pub head_dim: ::std::os::raw::c_uint,
    pub pairs: ::std::os::raw::c_uint,
    pub interleaved: ::std::os::raw::c_uint,
    pub scale: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RopeParams"][::std::mem::size_of::<RopeParams>() - 56usize];
    ["Alignment of RopeParams"][::std::mem::align_of::<RopeParams>() - 8usize];
    ["Offset of field: RopeParams::x"][::std::mem::offset_of!(RopeParams, x) - 0usize];
    ["Offset of field: RopeParams::positions"][::std::mem::offset_of!(RopeParams, positions) - 8usize];
    ["Offset of field: RopeParams::inv_freq"][::std::mem::offset_of!(RopeParams, inv_freq) - 16usize];
    ["Offset of field: RopeParams::out"][::std::mem::offset_of!(RopeParams, out) - 24usize];
    ["Offset of field: RopeParams::tokens"][::std::mem::offset_of!(RopeParams, tokens) - 32usize];
    ["Offset of field: RopeParams::heads"][::std::mem::offset_of!(RopeParams, heads) - 36usize];
    ["Offset of field: RopeParams::head_dim"][::std::mem::offset_of!(RopeParams, head_dim) - 40usize];
    ["Offset of field: RopeParams::pairs"][::std::mem::offset_of!(RopeParams, pairs) - 44usize];
    ["Offset of field: RopeParams::interleaved"][::std::mem::offset_of!(RopeParams, interleaved) - 48usize];
    ["Offset of field: RopeParams::scale"][::std::mem::offset_of!(RopeParams, scale) - 52usize];
};
impl Default for RopeParams {
    fn default() -> Self {
        let mut s = ::std::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::std::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct KvAppendParams {
    pub k: *const f32,
    pub v: *const f32,
    pub positions: *const ::std::os::raw::c_int,
    pub sequences: *const ::std::os::raw::c_int,
    pub page_table: *const ::std::os::raw::c_int,
    pub kv: *mut ::std::os::raw::c_void,
    pub tokens: ::std::os::raw::c_uint,
    pub kv_heads: ::std::os::raw::c_uint,
    pub head_dim: ::std::os::raw::c_uint,
    pub page_table_stride: ::std::os::raw::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of KvAppendParams"][::std::mem::size_of::<KvAppendParams>() - 64usize];
    ["Alignment of KvAppendParams"][::std::mem::align_of::<KvAppendParams>() - 8usize];
    ["Offset of field: KvAppendParams::k"][::std::mem::offset_of!(KvAppendParams, k) - 0usize];
    ["Offset of field: KvAppendParams::v"][::std::mem::offset_of!(KvAppendParams, v) - 8usize];
    ["Offset of field: KvAppendParams::positions"][::std::mem::offset_of!(KvAppendParams, positions) - 16usize];
    ["Offset of field: KvAppendParams::sequences"][::std::mem::offset_of!(KvAppendParams, sequences) - 24usize];
    ["Offset of field: KvAppendParams::page_table"][::std::mem::offset_of!(KvAppendParams, page_table) - 32usize];
    ["Offset of field: KvAppendParams::kv"][::std::mem::offset_of!(KvAppendParams, kv) - 40usize];
    ["Offset of field: KvAppendParams::tokens"][::std::mem::offset_of!(KvAppendParams, tokens) - 48usize];
    ["Offset of field: KvAppendParams::kv_heads"][::std::mem::offset_of!(KvAppendParams, kv_heads) - 52usize];
    ["Offset of field: KvAppendParams::head_dim"][::std::mem::offset_of!(KvAppendParams, head_dim) - 56usize];
    ["Offset of field: KvAppendParams::page_table_stride"]
        [::std::mem::offset_of!(KvAppendParams, page_table_stride) - 60usize];
};
impl Default for KvAppendParams {
    fn default() -> Self {
        let mut s = ::std::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::std::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct AttentionParams {
    pub q: *const f32,
    pub kv: *const ::std::os::raw::c_void,
    pub positions: *const ::std::os::raw::c_int,
    pub sequences: *const ::std::os::raw::c_int,
    pub page_table: *const ::std::os::raw::c_int,
    pub out: *mut f32,
    pub tokens: ::std::os::raw::c_uint,
    pub heads: ::std::os::raw::c_uint,
    pub kv_heads: ::std::os::raw::c_uint,
    pub head_dim: ::std::os::raw::c_uint,
    pub page_table_stride: ::std::os::raw::c_uint,
    pub window: ::std::os::raw::c_uint,
    pub scale: f32,
    pub softcap: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of AttentionParams"][::std::mem::size_of::<AttentionParams>() - 80usize];
    ["Alignment of AttentionParams"][::std::mem::align_of::<AttentionParams>() - 8usize];
    ["Offset of field: AttentionParams::q"][::std::mem::offset_of!(AttentionParams, q) - 0usize];
    ["Offset of field: AttentionParams::kv"][::std::mem::offset_of!(AttentionParams, kv) - 8usize];
    ["Offset of field: AttentionParams::positions"][::std::mem::offset_of!(AttentionParams, positions) - 16usize];
    ["Offset of field: AttentionParams::sequences"][::std::mem::offset_of!(AttentionParams, sequences) - 24usize];
    ["Offset of field: AttentionParams::page_table"][::std::mem::offset_of!(AttentionParams, page_table) - 32usize];
    ["Offset of field: AttentionParams::out"][::std::mem::offset_of!(AttentionParams, out) - 40usize];
    ["Offset of field: AttentionParams::tokens"][::std::mem::offset_of!(AttentionParams, tokens) - 48usize];
    ["Offset of field: AttentionParams::heads"][::std::mem::offset_of!(AttentionParams, heads) - 52usize];
    ["Offset of field: AttentionParams::kv_heads"][::std::mem::offset_of!(AttentionParams, kv_heads) - 56usize];
    ["Offset of field: AttentionParams::head_dim"][::std::mem::offset_of!(AttentionParams, head_dim) - 60usize];
    ["Offset of field: AttentionParams::page_table_stride"]
        [::std::mem::offset_of!(AttentionParams, page_table_stride) - 64usize];
    ["Offset of field: AttentionParams::window"][::std::mem::offset_of!(AttentionParams, window) - 68usize];
    ["Offset of field: AttentionParams::scale"][::std::mem::offset_of!(AttentionParams, scale) - 72usize];
    ["Offset of field: AttentionParams::softcap"][::std::mem::offset_of!(AttentionParams, softcap) - 76usize];
};
impl Default for AttentionParams {
    fn default() -> Self {
        let mut s = ::std::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::std::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct BinaryParams {
    pub a: *const f32,
    pub b: *const f32,
    pub out: *mut f32,
    pub count: ::std::os::raw::c_ulonglong,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of BinaryParams"][::std::mem::size_of::<BinaryParams>() - 32usize];
    ["Alignment of BinaryParams"][::std::mem::align_of::<BinaryParams>() - 8usize];
    ["Offset of field: BinaryParams::a"][::std::mem::offset_of!(BinaryParams, a) - 0usize];
    ["Offset of field: BinaryParams::b"][::std::mem::offset_of!(BinaryParams, b) - 8usize];
    ["Offset of field: BinaryParams::out"][::std::mem::offset_of!(BinaryParams, out) - 16usize];
    ["Offset of field: BinaryParams::count"][::std::mem::offset_of!(BinaryParams, count) - 24usize];
};
impl Default for BinaryParams {
    fn default() -> Self {
        let mut s = ::std::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::std::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
