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
pub struct LayerNormParams {
    pub x: *const f32,
    pub weight: *const f32,
    pub bias: *const f32,
    pub out: *mut f32,
    pub rows: ::std::os::raw::c_uint,
    pub cols: ::std::os::raw::c_uint,
    pub eps: f32,
    pub reserved: ::std::os::raw::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of LayerNormParams"][::std::mem::size_of::<LayerNormParams>() - 48usize];
    ["Alignment of LayerNormParams"][::std::mem::align_of::<LayerNormParams>() - 8usize];
    ["Offset of field: LayerNormParams::x"][::std::mem::offset_of!(LayerNormParams, x) - 0usize];
    ["Offset of field: LayerNormParams::weight"][::std::mem::offset_of!(LayerNormParams, weight) - 8usize];
    ["Offset of field: LayerNormParams::bias"][::std::mem::offset_of!(LayerNormParams, bias) - 16usize];
    ["Offset of field: LayerNormParams::out"][::std::mem::offset_of!(LayerNormParams, out) - 24usize];
    ["Offset of field: LayerNormParams::rows"][::std::mem::offset_of!(LayerNormParams, rows) - 32usize];
    ["Offset of field: LayerNormParams::cols"][::std::mem::offset_of!(LayerNormParams, cols) - 36usize];
    ["Offset of field: LayerNormParams::eps"][::std::mem::offset_of!(LayerNormParams, eps) - 40usize];
    ["Offset of field: LayerNormParams::reserved"][::std::mem::offset_of!(LayerNormParams, reserved) - 44usize];
};
impl Default for LayerNormParams {
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
pub struct GroupedMatmulParams {
    pub x: *const ::std::os::raw::c_void,
    pub w: *const ::std::os::raw::c_void,
    pub experts: *const ::std::os::raw::c_int,
    pub bias: *const f32,
    pub out: *mut f32,
    pub tokens: ::std::os::raw::c_uint,
    pub slots: ::std::os::raw::c_uint,
    pub matrices: ::std::os::raw::c_uint,
    pub rows: ::std::os::raw::c_uint,
    pub cols: ::std::os::raw::c_uint,
    pub slots_share_x: ::std::os::raw::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of GroupedMatmulParams"][::std::mem::size_of::<GroupedMatmulParams>() - 64usize];
    ["Alignment of GroupedMatmulParams"][::std::mem::align_of::<GroupedMatmulParams>() - 8usize];
    ["Offset of field: GroupedMatmulParams::x"][::std::mem::offset_of!(GroupedMatmulParams, x) - 0usize];
    ["Offset of field: GroupedMatmulParams::w"][::std::mem::offset_of!(GroupedMatmulParams, w) - 8usize];
    ["Offset of field: GroupedMatmulParams::experts"][::std::mem::offset_of!(GroupedMatmulParams, experts) - 16usize];
    ["Offset of field: GroupedMatmulParams::bias"][::std::mem::offset_of!(GroupedMatmulParams, bias) - 24usize];
    ["Offset of field: GroupedMatmulParams::out"][::std::mem::offset_of!(GroupedMatmulParams, out) - 32usize];
    ["Offset of field: GroupedMatmulParams::tokens"][::std::mem::offset_of!(GroupedMatmulParams, tokens) - 40usize];
    ["Offset of field: GroupedMatmulParams::slots"][::std::mem::offset_of!(GroupedMatmulParams, slots) - 44usize];
    ["Offset of field: GroupedMatmulParams::matrices"][::std::mem::offset_of!(GroupedMatmulParams, matrices) - 48usize];
    ["Offset of field: GroupedMatmulParams::rows"][::std::mem::offset_of!(GroupedMatmulParams, rows) - 52usize];
    ["Offset of field: GroupedMatmulParams::cols"][::std::mem::offset_of!(GroupedMatmulParams, cols) - 56usize];
    ["Offset of field: GroupedMatmulParams::slots_share_x"]
        [::std::mem::offset_of!(GroupedMatmulParams, slots_share_x) - 60usize];
};
impl Default for GroupedMatmulParams {
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
pub struct RouterParams {
    pub logits: *const f32,
    pub bias: *const f32,
    pub out: *mut ::std::os::raw::c_int,
    pub tokens: ::std::os::raw::c_uint,
    pub experts: ::std::os::raw::c_uint,
    pub slots: ::std::os::raw::c_uint,
    pub groups: ::std::os::raw::c_uint,
    pub top_groups: ::std::os::raw::c_uint,
    pub reserved: ::std::os::raw::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RouterParams"][::std::mem::size_of::<RouterParams>() - 48usize];
    ["Alignment of RouterParams"][::std::mem::align_of::<RouterParams>() - 8usize];
    ["Offset of field: RouterParams::logits"][::std::mem::offset_of!(RouterParams, logits) - 0usize];
    ["Offset of field: RouterParams::bias"][::std::mem::offset_of!(RouterParams, bias) - 8usize];
    ["Offset of field: RouterParams::out"][::std::mem::offset_of!(RouterParams, out) - 16usize];
    ["Offset of field: RouterParams::tokens"][::std::mem::offset_of!(RouterParams, tokens) - 24usize];
    ["Offset of field: RouterParams::experts"][::std::mem::offset_of!(RouterParams, experts) - 28usize];
    ["Offset of field: RouterParams::slots"][::std::mem::offset_of!(RouterParams, slots) - 32usize];
    ["Offset of field: RouterParams::groups"][::std::mem::offset_of!(RouterParams, groups) - 36usize];
    ["Offset of field: RouterParams::top_groups"][::std::mem::offset_of!(RouterParams, top_groups) - 40usize];
    ["Offset of field: RouterParams::reserved"][::std::mem::offset_of!(RouterParams, reserved) - 44usize];
};
impl Default for RouterParams {
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
pub struct RouterWeightsParams {
    pub logits: *const f32,
    pub selected: *const ::std::os::raw::c_int,
    pub out: *mut f32,
    pub tokens: ::std::os::raw::c_uint,
    pub experts: ::std::os::raw::c_uint,
    pub slots: ::std::os::raw::c_uint,
    pub renormalise: ::std::os::raw::c_uint,
    pub scale: f32,
    pub jitter: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RouterWeightsParams"][::std::mem::size_of::<RouterWeightsParams>() - 48usize];
    ["Alignment of RouterWeightsParams"][::std::mem::align_of::<RouterWeightsParams>() - 8usize];
    ["Offset of field: RouterWeightsParams::logits"][::std::mem::offset_of!(RouterWeightsParams, logits) - 0usize];
    ["Offset of field: RouterWeightsParams::selected"][::std::mem::offset_of!(RouterWeightsParams, selected) - 8usize];
    ["Offset of field: RouterWeightsParams::out"][::std::mem::offset_of!(RouterWeightsParams, out) - 16usize];
    ["Offset of field: RouterWeightsParams::tokens"][::std::mem::offset_of!(RouterWeightsParams, tokens) - 24usize];
    ["Offset of field: RouterWeightsParams::experts"][::std::mem::offset_of!(RouterWeightsParams, experts) - 28usize];
    ["Offset of field: RouterWeightsParams::slots"][::std::mem::offset_of!(RouterWeightsParams, slots) - 32usize];
    ["Offset of field: RouterWeightsParams::renormalise"]
        [::std::mem::offset_of!(RouterWeightsParams, renormalise) - 36usize];
    ["Offset of field: RouterWeightsParams::scale"][::std::mem::offset_of!(RouterWeightsParams, scale) - 40usize];
    ["Offset of field: RouterWeightsParams::jitter"][::std::mem::offset_of!(RouterWeightsParams, jitter) - 44usize];
};
impl Default for RouterWeightsParams {
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
pub struct CombineParams {
    pub y: *const f32,
    pub weights: *const f32,
    pub out: *mut f32,
    pub tokens: ::std::os::raw::c_uint,
    pub slots: ::std::os::raw::c_uint,
    pub cols: ::std::os::raw::c_uint,
    pub reserved: ::std::os::raw::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of CombineParams"][::std::mem::size_of::<CombineParams>() - 40usize];
    ["Alignment of CombineParams"][::std::mem::align_of::<CombineParams>() - 8usize];
    ["Offset of field: CombineParams::y"][::std::mem::offset_of!(CombineParams, y) - 0usize];
    ["Offset of field: CombineParams::weights"][::std::mem::offset_of!(CombineParams, weights) - 8usize];
    ["Offset of field: CombineParams::out"][::std::mem::offset_of!(CombineParams, out) - 16usize];
    ["Offset of field: CombineParams::tokens"][::std::mem::offset_of!(CombineParams, tokens) - 24usize];
    ["Offset of field: CombineParams::slots"][::std::mem::offset_of!(CombineParams, slots) - 28usize];
    ["Offset of field: CombineParams::cols"][::std::mem::offset_of!(CombineParams, cols) - 32usize];
    ["Offset of field: CombineParams::reserved"][::std::mem::offset_of!(CombineParams, reserved) - 36usize];
};
impl Default for CombineParams {
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
pub struct PermuteColumnsParams {
    pub x: *const f32,
    pub index: *const ::std::os::raw::c_int,
    pub experts: *const ::std::os::raw::c_int,
    pub out: *mut f32,
    pub tokens: ::std::os::raw::c_uint,
    pub slots: ::std::os::raw::c_uint,
    pub matrices: ::std::os::raw::c_uint,
    pub cols: ::std::os::raw::c_uint,
    pub slots_share_x: ::std::os::raw::c_uint,
    pub reserved: ::std::os::raw::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of PermuteColumnsParams"][::std::mem::size_of::<PermuteColumnsParams>() - 56usize];
    ["Alignment of PermuteColumnsParams"][::std::mem::align_of::<PermuteColumnsParams>() - 8usize];
    ["Offset of field: PermuteColumnsParams::x"][::std::mem::offset_of!(PermuteColumnsParams, x) - 0usize];
    ["Offset of field: PermuteColumnsParams::index"][::std::mem::offset_of!(PermuteColumnsParams, index) - 8usize];
    ["Offset of field: PermuteColumnsParams::experts"][::std::mem::offset_of!(PermuteColumnsParams, experts) - 16usize];
    ["Offset of field: PermuteColumnsParams::out"][::std::mem::offset_of!(PermuteColumnsParams, out) - 24usize];
    ["Offset of field: PermuteColumnsParams::tokens"][::std::mem::offset_of!(PermuteColumnsParams, tokens) - 32usize];
    ["Offset of field: PermuteColumnsParams::slots"][::std::mem::offset_of!(PermuteColumnsParams, slots) - 36usize];
    ["Offset of field: PermuteColumnsParams::matrices"]
        [::std::mem::offset_of!(PermuteColumnsParams, matrices) - 40usize];
    ["Offset of field: PermuteColumnsParams::cols"][::std::mem::offset_of!(PermuteColumnsParams, cols) - 44usize];
    ["Offset of field: PermuteColumnsParams::slots_share_x"]
        [::std::mem::offset_of!(PermuteColumnsParams, slots_share_x) - 48usize];
    ["Offset of field: PermuteColumnsParams::reserved"]
        [::std::mem::offset_of!(PermuteColumnsParams, reserved) - 52usize];
};
impl Default for PermuteColumnsParams {
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
pub struct ConcatParams {
    pub a: *const f32,
    pub b: *const f32,
    pub out: *mut f32,
    pub rows: ::std::os::raw::c_uint,
    pub a_cols: ::std::os::raw::c_uint,
    pub b_cols: ::std::os::raw::c_uint,
    pub reserved: ::std::os::raw::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of ConcatParams"][::std::mem::size_of::<ConcatParams>() - 40usize];
    ["Alignment of ConcatParams"][::std::mem::align_of::<ConcatParams>() - 8usize];
    ["Offset of field: ConcatParams::a"][::std::mem::offset_of!(ConcatParams, a) - 0usize];
    ["Offset of field: ConcatParams::b"][::std::mem::offset_of!(ConcatParams, b) - 8usize];
    ["Offset of field: ConcatParams::out"][::std::mem::offset_of!(ConcatParams, out) - 16usize];
    ["Offset of field: ConcatParams::rows"][::std::mem::offset_of!(ConcatParams, rows) - 24usize];
    ["Offset of field: ConcatParams::a_cols"][::std::mem::offset_of!(ConcatParams, a_cols) - 28usize];
    ["Offset of field: ConcatParams::b_cols"][::std::mem::offset_of!(ConcatParams, b_cols) - 32usize];
    ["Offset of field: ConcatParams::reserved"][::std::mem::offset_of!(ConcatParams, reserved) - 36usize];
};
impl Default for ConcatParams {
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
pub struct SigmoidGateParams {
    pub x: *const f32,
    pub gate: *const f32,
    pub out: *mut f32,
    pub rows: ::std::os::raw::c_uint,
    pub cols: ::std::os::raw::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of SigmoidGateParams"][::std::mem::size_of::<SigmoidGateParams>() - 32usize];
    ["Alignment of SigmoidGateParams"][::std::mem::align_of::<SigmoidGateParams>() - 8usize];
    ["Offset of field: SigmoidGateParams::x"][::std::mem::offset_of!(SigmoidGateParams, x) - 0usize];
    ["Offset of field: SigmoidGateParams::gate"][::std::mem::offset_of!(SigmoidGateParams, gate) - 8usize];
    ["Offset of field: SigmoidGateParams::out"][::std::mem::offset_of!(SigmoidGateParams, out) - 16usize];
    ["Offset of field: SigmoidGateParams::rows"][::std::mem::offset_of!(SigmoidGateParams, rows) - 24usize];
    ["Offset of field: SigmoidGateParams::cols"][::std::mem::offset_of!(SigmoidGateParams, cols) - 28usize];
};
impl Default for SigmoidGateParams {
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
pub struct UnaryParams {
    pub x: *const f32,
    pub out: *mut f32,
    pub count: ::std::os::raw::c_ulonglong,
    pub value: f32,
    pub reserved: ::std::os::raw::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of UnaryParams"][::std::mem::size_of::<UnaryParams>() - 32usize];
    ["Alignment of UnaryParams"][::std::mem::align_of::<UnaryParams>() - 8usize];
    ["Offset of field: UnaryParams::x"][::std::mem::offset_of!(UnaryParams, x) - 0usize];
    ["Offset of field: UnaryParams::out"][::std::mem::offset_of!(UnaryParams, out) - 8usize];
    ["Offset of field: UnaryParams::count"][::std::mem::offset_of!(UnaryParams, count) - 16usize];
    ["Offset of field: UnaryParams::value"][::std::mem::offset_of!(UnaryParams, value) - 24usize];
    ["Offset of field: UnaryParams::reserved"][::std::mem::offset_of!(UnaryParams, reserved) - 28usize];
};
impl Default for UnaryParams {
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
    pub table: *const ::std::os::raw::c_int,
    pub out: *mut f32,
    pub tokens: ::std::os::raw::c_uint,
    pub heads: ::std::os::raw::c_uint,
    pub head_dim: ::std::os::raw::c_uint,
    pub pairs: ::std::os::raw::c_uint,
    pub tables: ::std::os::raw::c_uint,
    pub interleaved: ::std::os::raw::c_uint,
    pub scale: f32,
    pub reserved: ::std::os::raw::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RopeParams"][::std::mem::size_of::<RopeParams>() - 72usize];
    ["Alignment of RopeParams"][::std::mem::align_of::<RopeParams>() - 8usize];
    ["Offset of field: RopeParams::x"][::std::mem::offset_of!(RopeParams, x) - 0usize];
    ["Offset of field: RopeParams::positions"][::std::mem::offset_of!(RopeParams, positions) - 8usize];
    ["Offset of field: RopeParams::inv_freq"][::std::mem::offset_of!(RopeParams, inv_freq) - 16usize];
    ["Offset of field: RopeParams::table"][::std::mem::offset_of!(RopeParams, table) - 24usize];
    ["Offset of field: RopeParams::out"][::std::mem::offset_of!(RopeParams, out) - 32usize];
    ["Offset of field: RopeParams::tokens"][::std::mem::offset_of!(RopeParams, tokens) - 40usize];
    ["Offset of field: RopeParams::heads"][::std::mem::offset_of!(RopeParams, heads) - 44usize];
    ["Offset of field: RopeParams::head_dim"][::std::mem::offset_of!(RopeParams, head_dim) - 48usize];
    ["Offset of field: RopeParams::pairs"][::std::mem::offset_of!(RopeParams, pairs) - 52usize];
    ["Offset of field: RopeParams::tables"][::std::mem::offset_of!(RopeParams, tables) - 56usize];
    ["Offset of field: RopeParams::interleaved"][::std::mem::offset_of!(RopeParams, interleaved) - 60usize];
    ["Offset of field: RopeParams::scale"][::std::mem::offset_of!(RopeParams, scale) - 64usize];
    ["Offset of field: RopeParams::reserved"][::std::mem::offset_of!(RopeParams, reserved) - 68usize];
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
    pub sinks: *const f32,
    pub out: *mut f32,
    pub tokens: ::std::os::raw::c_uint,
    pub heads: ::std::os::raw::c_uint,
    pub kv_heads: ::std::os::raw::c_uint,
    pub head_dim: ::std::os::raw::c_uint,
    pub page_table_stride: ::std::os::raw::c_uint,
    pub window: ::std::os::raw::c_uint,
    pub value_dim: ::std::os::raw::c_uint,
    pub reserved: ::std::os::raw::c_uint,
    pub scale: f32,
    pub softcap: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of AttentionParams"][::std::mem::size_of::<AttentionParams>() - 96usize];
    ["Alignment of AttentionParams"][::std::mem::align_of::<AttentionParams>() - 8usize];
    ["Offset of field: AttentionParams::q"][::std::mem::offset_of!(AttentionParams, q) - 0usize];
    ["Offset of field: AttentionParams::kv"][::std::mem::offset_of!(AttentionParams, kv) - 8usize];
    ["Offset of field: AttentionParams::positions"][::std::mem::offset_of!(AttentionParams, positions) - 16usize];
    ["Offset of field: AttentionParams::sequences"][::std::mem::offset_of!(AttentionParams, sequences) - 24usize];
    ["Offset of field: AttentionParams::page_table"][::std::mem::offset_of!(AttentionParams, page_table) - 32usize];
    ["Offset of field: AttentionParams::sinks"][::std::mem::offset_of!(AttentionParams, sinks) - 40usize];
    ["Offset of field: AttentionParams::out"][::std::mem::offset_of!(AttentionParams, out) - 48usize];
    ["Offset of field: AttentionParams::tokens"][::std::mem::offset_of!(AttentionParams, tokens) - 56usize];
    ["Offset of field: AttentionParams::heads"][::std::mem::offset_of!(AttentionParams, heads) - 60usize];
    ["Offset of field: AttentionParams::kv_heads"][::std::mem::offset_of!(AttentionParams, kv_heads) - 64usize];
    ["Offset of field: AttentionParams::head_dim"][::std::mem::offset_of!(AttentionParams, head_dim) - 68usize];
    ["Offset of field: AttentionParams::page_table_stride"]
        [::std::mem::offset_of!(AttentionParams, page_table_stride) - 72usize];
    ["Offset of field: AttentionParams::window"][::std::mem::offset_of!(AttentionParams, window) - 76usize];
    ["Offset of field: AttentionParams::value_dim"][::std::mem::offset_of!(AttentionParams, value_dim) - 80usize];
    ["Offset of field: AttentionParams::reserved"][::std::mem::offset_of!(AttentionParams, reserved) - 84usize];
    ["Offset of field: AttentionParams::scale"][::std::mem::offset_of!(AttentionParams, scale) - 88usize];
    ["Offset of field: AttentionParams::softcap"][::std::mem::offset_of!(AttentionParams, softcap) - 92usize];
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
    pub limit: f32,
    pub reserved: ::std::os::raw::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of BinaryParams"][::std::mem::size_of::<BinaryParams>() - 40usize];
    ["Alignment of BinaryParams"][::std::mem::align_of::<BinaryParams>() - 8usize];
    ["Offset of field: BinaryParams::a"][::std::mem::offset_of!(BinaryParams, a) - 0usize];
    ["Offset of field: BinaryParams::b"][::std::mem::offset_of!(BinaryParams, b) - 8usize];
    ["Offset of field: BinaryParams::out"][::std::mem::offset_of!(BinaryParams, out) - 16usize];
    ["Offset of field: BinaryParams::count"][::std::mem::offset_of!(BinaryParams, count) - 24usize];
    ["Offset of field: BinaryParams::limit"][::std::mem::offset_of!(BinaryParams, limit) - 32usize];
    ["Offset of field: BinaryParams::reserved"][::std::mem::offset_of!(BinaryParams, reserved) - 36usize];
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
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct ScaleColumnsParams {
    pub x: *const f32,
    pub w: *const f32,
    pub out: *mut f32,
    pub rows: ::std::os::raw::c_uint,
    pub cols: ::std::os::raw::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of ScaleColumnsParams"][::std::mem::size_of::<ScaleColumnsParams>() - 32usize];
    ["Alignment of ScaleColumnsParams"][::std::mem::align_of::<ScaleColumnsParams>() - 8usize];
    ["Offset of field: ScaleColumnsParams::x"][::std::mem::offset_of!(ScaleColumnsParams, x) - 0usize];
    ["Offset of field: ScaleColumnsParams::w"][::std::mem::offset_of!(ScaleColumnsParams, w) - 8usize];
    ["Offset of field: ScaleColumnsParams::out"][::std::mem::offset_of!(ScaleColumnsParams, out) - 16usize];
    ["Offset of field: ScaleColumnsParams::rows"][::std::mem::offset_of!(ScaleColumnsParams, rows) - 24usize];
    ["Offset of field: ScaleColumnsParams::cols"][::std::mem::offset_of!(ScaleColumnsParams, cols) - 28usize];
};
impl Default for ScaleColumnsParams {
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
pub struct SquareSumsParams {
    pub x: *const f32,
    pub out: *mut f32,
    pub rows: ::std::os::raw::c_uint,
    pub cols: ::std::os::raw::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of SquareSumsParams"][::std::mem::size_of::<SquareSumsParams>() - 24usize];
    ["Alignment of SquareSumsParams"][::std::mem::align_of::<SquareSumsParams>() - 8usize];
    ["Offset of field: SquareSumsParams::x"][::std::mem::offset_of!(SquareSumsParams, x) - 0usize];
    ["Offset of field: SquareSumsParams::out"][::std::mem::offset_of!(SquareSumsParams, out) - 8usize];
    ["Offset of field: SquareSumsParams::rows"][::std::mem::offset_of!(SquareSumsParams, rows) - 16usize];
    ["Offset of field: SquareSumsParams::cols"][::std::mem::offset_of!(SquareSumsParams, cols) - 20usize];
};
impl Default for SquareSumsParams {
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
pub struct ScaleRowsParams {
    pub y: *const f32,
    pub squares: *const f32,
    pub bias: *const f32,
    pub out: *mut f32,
    pub tokens: ::std::os::raw::c_uint,
    pub slots: ::std::os::raw::c_uint,
    pub cols: ::std::os::raw::c_uint,
    pub width: ::std::os::raw::c_uint,
    pub eps: f32,
    pub reserved: ::std::os::raw::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of ScaleRowsParams"][::std::mem::size_of::<ScaleRowsParams>() - 56usize];
    ["Alignment of ScaleRowsParams"][::std::mem::align_of::<ScaleRowsParams>() - 8usize];
    ["Offset of field: ScaleRowsParams::y"][::std::mem::offset_of!(ScaleRowsParams, y) - 0usize];
    ["Offset of field: ScaleRowsParams::squares"][::std::mem::offset_of!(ScaleRowsParams, squares) - 8usize];
    ["Offset of field: ScaleRowsParams::bias"][::std::mem::offset_of!(ScaleRowsParams, bias) - 16usize];
    ["Offset of field: ScaleRowsParams::out"][::std::mem::offset_of!(ScaleRowsParams, out) - 24usize];
    ["Offset of field: ScaleRowsParams::tokens"][::std::mem::offset_of!(ScaleRowsParams, tokens) - 32usize];
    ["Offset of field: ScaleRowsParams::slots"][::std::mem::offset_of!(ScaleRowsParams, slots) - 36usize];
    ["Offset of field: ScaleRowsParams::cols"][::std::mem::offset_of!(ScaleRowsParams, cols) - 40usize];
    ["Offset of field: ScaleRowsParams::width"][::std::mem::offset_of!(ScaleRowsParams, width) - 44usize];
    ["Offset of field: ScaleRowsParams::eps"][::std::mem::offset_of!(ScaleRowsParams, eps) - 48usize];
    ["Offset of field: ScaleRowsParams::reserved"][::std::mem::offset_of!(ScaleRowsParams, reserved) - 52usize];
};
impl Default for ScaleRowsParams {
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
pub struct ColumnPartialsParams {
    pub x: *const f32,
    pub norm: *const f32,
    pub w: *const ::std::os::raw::c_void,
    pub out: *mut f32,
    pub tokens: ::std::os::raw::c_uint,
    pub cols: ::std::os::raw::c_uint,
    pub experts: ::std::os::raw::c_uint,
    pub reserved: ::std::os::raw::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of ColumnPartialsParams"][::std::mem::size_of::<ColumnPartialsParams>() - 48usize];
    ["Alignment of ColumnPartialsParams"][::std::mem::align_of::<ColumnPartialsParams>() - 8usize];
    ["Offset of field: ColumnPartialsParams::x"][::std::mem::offset_of!(ColumnPartialsParams, x) - 0usize];
    ["Offset of field: ColumnPartialsParams::norm"][::std::mem::offset_of!(ColumnPartialsParams, norm) - 8usize];
    ["Offset of field: ColumnPartialsParams::w"][::std::mem::offset_of!(ColumnPartialsParams, w) - 16usize];
    ["Offset of field: ColumnPartialsParams::out"][::std::mem::offset_of!(ColumnPartialsParams, out) - 24usize];
    ["Offset of field: ColumnPartialsParams::tokens"][::std::mem::offset_of!(ColumnPartialsParams, tokens) - 32usize];
    ["Offset of field: ColumnPartialsParams::cols"][::std::mem::offset_of!(ColumnPartialsParams, cols) - 36usize];
    ["Offset of field: ColumnPartialsParams::experts"][::std::mem::offset_of!(ColumnPartialsParams, experts) - 40usize];
    ["Offset of field: ColumnPartialsParams::reserved"]
        [::std::mem::offset_of!(ColumnPartialsParams, reserved) - 44usize];
};
impl Default for ColumnPartialsParams {
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
pub struct FinishLogitsParams {
    pub partials: *const f32,
    pub squares: *const f32,
    pub bias: *const f32,
    pub out: *mut f32,
    pub tokens: ::std::os::raw::c_uint,
    pub experts: ::std::os::raw::c_uint,
    pub width: ::std::os::raw::c_uint,
    pub eps: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of FinishLogitsParams"][::std::mem::size_of::<FinishLogitsParams>() - 48usize];
    ["Alignment of FinishLogitsParams"][::std::mem::align_of::<FinishLogitsParams>() - 8usize];
    ["Offset of field: FinishLogitsParams::partials"][::std::mem::offset_of!(FinishLogitsParams, partials) - 0usize];
    ["Offset of field: FinishLogitsParams::squares"][::std::mem::offset_of!(FinishLogitsParams, squares) - 8usize];
    ["Offset of field: FinishLogitsParams::bias"][::std::mem::offset_of!(FinishLogitsParams, bias) - 16usize];
    ["Offset of field: FinishLogitsParams::out"][::std::mem::offset_of!(FinishLogitsParams, out) - 24usize];
    ["Offset of field: FinishLogitsParams::tokens"][::std::mem::offset_of!(FinishLogitsParams, tokens) - 32usize];
    ["Offset of field: FinishLogitsParams::experts"][::std::mem::offset_of!(FinishLogitsParams, experts) - 36usize];
    ["Offset of field: FinishLogitsParams::width"][::std::mem::offset_of!(FinishLogitsParams, width) - 40usize];
    ["Offset of field: FinishLogitsParams::eps"][::std::mem::offset_of!(FinishLogitsParams, eps) - 44usize];
};
impl Default for FinishLogitsParams {
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
pub struct NormQuantizeParams {
    pub x: *const f32,
    pub weight: *const f32,
    pub bias: *const f32,
    pub out: *mut ::std::os::raw::c_void,
    pub rows: ::std::os::raw::c_uint,
    pub cols: ::std::os::raw::c_uint,
    pub norm: ::std::os::raw::c_uint,
    pub eps: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of NormQuantizeParams"][::std::mem::size_of::<NormQuantizeParams>() - 48usize];
    ["Alignment of NormQuantizeParams"][::std::mem::align_of::<NormQuantizeParams>() - 8usize];
    ["Offset of field: NormQuantizeParams::x"][::std::mem::offset_of!(NormQuantizeParams, x) - 0usize];
    ["Offset of field: NormQuantizeParams::weight"][::std::mem::offset_of!(NormQuantizeParams, weight) - 8usize];
    ["Offset of field: NormQuantizeParams::bias"][::std::mem::offset_of!(NormQuantizeParams, bias) - 16usize];
    ["Offset of field: NormQuantizeParams::out"][::std::mem::offset_of!(NormQuantizeParams, out) - 24usize];
    ["Offset of field: NormQuantizeParams::rows"][::std::mem::offset_of!(NormQuantizeParams, rows) - 32usize];
    ["Offset of field: NormQuantizeParams::cols"][::std::mem::offset_of!(NormQuantizeParams, cols) - 36usize];
    ["Offset of field: NormQuantizeParams::norm"][::std::mem::offset_of!(NormQuantizeParams, norm) - 40usize];
    ["Offset of field: NormQuantizeParams::eps"][::std::mem::offset_of!(NormQuantizeParams, eps) - 44usize];
};
impl Default for NormQuantizeParams {
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
pub struct NormAddParams {
    pub x: *const f32,
    pub weight: *const f32,
    pub residual: *const f32,
    pub out: *mut f32,
    pub squares: *mut f32,
    pub rows: ::std::os::raw::c_uint,
    pub cols: ::std::os::raw::c_uint,
    pub eps: f32,
    pub factor: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of NormAddParams"][::std::mem::size_of::<NormAddParams>() - 56usize];
    ["Alignment of NormAddParams"][::std::mem::align_of::<NormAddParams>() - 8usize];
    ["Offset of field: NormAddParams::x"][::std::mem::offset_of!(NormAddParams, x) - 0usize];
    ["Offset of field: NormAddParams::weight"][::std::mem::offset_of!(NormAddParams, weight) - 8usize];
    ["Offset of field: NormAddParams::residual"][::std::mem::offset_of!(NormAddParams, residual) - 16usize];
    ["Offset of field: NormAddParams::out"][::std::mem::offset_of!(NormAddParams, out) - 24usize];
    ["Offset of field: NormAddParams::squares"][::std::mem::offset_of!(NormAddParams, squares) - 32usize];
    ["Offset of field: NormAddParams::rows"][::std::mem::offset_of!(NormAddParams, rows) - 40usize];
    ["Offset of field: NormAddParams::cols"][::std::mem::offset_of!(NormAddParams, cols) - 44usize];
    ["Offset of field: NormAddParams::eps"][::std::mem::offset_of!(NormAddParams, eps) - 48usize];
    ["Offset of field: NormAddParams::factor"][::std::mem::offset_of!(NormAddParams, factor) - 52usize];
};
impl Default for NormAddParams {
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
pub struct CombineAddParams {
    pub y: *const f32,
    pub weights: *const f32,
    pub residual: *const f32,
    pub out: *mut f32,
    pub squares: *mut f32,
    pub tokens: ::std::os::raw::c_uint,
    pub slots: ::std::os::raw::c_uint,
    pub cols: ::std::os::raw::c_uint,
    pub factor: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of CombineAddParams"][::std::mem::size_of::<CombineAddParams>() - 56usize];
    ["Alignment of CombineAddParams"][::std::mem::align_of::<CombineAddParams>() - 8usize];
    ["Offset of field: CombineAddParams::y"][::std::mem::offset_of!(CombineAddParams, y) - 0usize];
    ["Offset of field: CombineAddParams::weights"][::std::mem::offset_of!(CombineAddParams, weights) - 8usize];
    ["Offset of field: CombineAddParams::residual"][::std::mem::offset_of!(CombineAddParams, residual) - 16usize];
    ["Offset of field: CombineAddParams::out"][::std::mem::offset_of!(CombineAddParams, out) - 24usize];
    ["Offset of field: CombineAddParams::squares"][::std::mem::offset_of!(CombineAddParams, squares) - 32usize];
    ["Offset of field: CombineAddParams::tokens"][::std::mem::offset_of!(CombineAddParams, tokens) - 40usize];
    ["Offset of field: CombineAddParams::slots"][::std::mem::offset_of!(CombineAddParams, slots) - 44usize];
    ["Offset of field: CombineAddParams::cols"][::std::mem::offset_of!(CombineAddParams, cols) - 48usize];
    ["Offset of field: CombineAddParams::factor"][::std::mem::offset_of!(CombineAddParams, factor) - 52usize];
};
impl Default for CombineAddParams {
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
pub struct CombineDownParams {
    pub h: *const ::std::os::raw::c_void,
    pub w: *const ::std::os::raw::c_void,
    pub experts: *const ::std::os::raw::c_int,
    pub weights: *const f32,
    pub bias: *const f32,
    pub residual: *const f32,
    pub out: *mut f32,
    pub squares: *mut f32,
    pub tokens: ::std::os::raw::c_uint,
    pub slots: ::std::os::raw::c_uint,
    pub matrices: ::std::os::raw::c_uint,
    pub rows: ::std::os::raw::c_uint,
    pub cols: ::std::os::raw::c_uint,
    pub factor: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of CombineDownParams"][::std::mem::size_of::<CombineDownParams>() - 88usize];
    ["Alignment of CombineDownParams"][::std::mem::align_of::<CombineDownParams>() - 8usize];
    ["Offset of field: CombineDownParams::h"][::std::mem::offset_of!(CombineDownParams, h) - 0usize];
    ["Offset of field: CombineDownParams::w"][::std::mem::offset_of!(CombineDownParams, w) - 8usize];
    ["Offset of field: CombineDownParams::experts"][::std::mem::offset_of!(CombineDownParams, experts) - 16usize];
    ["Offset of field: CombineDownParams::weights"][::std::mem::offset_of!(CombineDownParams, weights) - 24usize];
    ["Offset of field: CombineDownParams::bias"][::std::mem::offset_of!(CombineDownParams, bias) - 32usize];
    ["Offset of field: CombineDownParams::residual"][::std::mem::offset_of!(CombineDownParams, residual) - 40usize];
    ["Offset of field: CombineDownParams::out"][::std::mem::offset_of!(CombineDownParams, out) - 48usize];
    ["Offset of field: CombineDownParams::squares"][::std::mem::offset_of!(CombineDownParams, squares) - 56usize];
    ["Offset of field: CombineDownParams::tokens"][::std::mem::offset_of!(CombineDownParams, tokens) - 64usize];
    ["Offset of field: CombineDownParams::slots"][::std::mem::offset_of!(CombineDownParams, slots) - 68usize];
    ["Offset of field: CombineDownParams::matrices"][::std::mem::offset_of!(CombineDownParams, matrices) - 72usize];
    ["Offset of field: CombineDownParams::rows"][::std::mem::offset_of!(CombineDownParams, rows) - 76usize];
    ["Offset of field: CombineDownParams::cols"][::std::mem::offset_of!(CombineDownParams, cols) - 80usize];
    ["Offset of field: CombineDownParams::factor"][::std::mem::offset_of!(CombineDownParams, factor) - 84usize];
};
impl Default for CombineDownParams {
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
pub struct QkvParams {
    pub x: *const ::std::os::raw::c_void,
    pub wq: *const ::std::os::raw::c_void,
    pub wk: *const ::std::os::raw::c_void,
    pub wv: *const ::std::os::raw::c_void,
    pub norm_weight: *const f32,
    pub norm_bias: *const f32,
    pub squares: *const f32,
    pub bq: *const f32,
    pub bk: *const f32,
    pub bv: *const f32,
    pub q_norm: *const f32,
    pub k_norm: *const f32,
    pub positions: *const ::std::os::raw::c_int,
    pub sequences: *const ::std::os::raw::c_int,
    pub page_table: *const ::std::os::raw::c_int,
    pub inv_freq: *const f32,
    pub table: *const ::std::os::raw::c_int,
    pub out: *mut f32,
    pub kv: *mut ::std::os::raw::c_void,
    pub tokens: ::std::os::raw::c_uint,
    pub cols: ::std::os::raw::c_uint,
    pub heads: ::std::os::raw::c_uint,
    pub kv_heads: ::std::os::raw::c_uint,
    pub head_dim: ::std::os::raw::c_uint,
    pub pairs: ::std::os::raw::c_uint,
    pub tables: ::std::os::raw::c_uint,
    pub interleaved: ::std::os::raw::c_uint,
    pub page_table_stride: ::std::os::raw::c_uint,
    pub norm: ::std::os::raw::c_uint,
    pub eps: f32,
    pub norm_eps: f32,
    pub head_eps: f32,
    pub scale: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of QkvParams"][::std::mem::size_of::<QkvParams>() - 208usize];
    ["Alignment of QkvParams"][::std::mem::align_of::<QkvParams>() - 8usize];
    ["Offset of field: QkvParams::x"][::std::mem::offset_of!(QkvParams, x) - 0usize];
    ["Offset of field: QkvParams::wq"][::std::mem::offset_of!(QkvParams, wq) - 8usize];
    ["Offset of field: QkvParams::wk"][::std::mem::offset_of!(QkvParams, wk) - 16usize];
    ["Offset of field: QkvParams::wv"][::std::mem::offset_of!(QkvParams, wv) - 24usize];
    ["Offset of field: QkvParams::norm_weight"][::std::mem::offset_of!(QkvParams, norm_weight) - 32usize];
    ["Offset of field: QkvParams::norm_bias"][::std::mem::offset_of!(QkvParams, norm_bias) - 40usize];
    ["Offset of field: QkvParams::squares"][::std::mem::offset_of!(QkvParams, squares) - 48usize];
    ["Offset of field: QkvParams::bq"][::std::mem::offset_of!(QkvParams, bq) - 56usize];
    ["Offset of field: QkvParams::bk"][::std::mem::offset_of!(QkvParams, bk) - 64usize];
    ["Offset of field: QkvParams::bv"][::std::mem::offset_of!(QkvParams, bv) - 72usize];
    ["Offset of field: QkvParams::q_norm"][::std::mem::offset_of!(QkvParams, q_norm) - 80usize];
    ["Offset of field: QkvParams::k_norm"][::std::mem::offset_of!(QkvParams, k_norm) - 88usize];
    ["Offset of field: QkvParams::positions"][::std::mem::offset_of!(QkvParams, positions) - 96usize];
    ["Offset of field: QkvParams::sequences"][::std::mem::offset_of!(QkvParams, sequences) - 104usize];
    ["Offset of field: QkvParams::page_table"][::std::mem::offset_of!(QkvParams, page_table) - 112usize];
    ["Offset of field: QkvParams::inv_freq"][::std::mem::offset_of!(QkvParams, inv_freq) - 120usize];
    ["Offset of field: QkvParams::table"][::std::mem::offset_of!(QkvParams, table) - 128usize];
    ["Offset of field: QkvParams::out"][::std::mem::offset_of!(QkvParams, out) - 136usize];
    ["Offset of field: QkvParams::kv"][::std::mem::offset_of!(QkvParams, kv) - 144usize];
    ["Offset of field: QkvParams::tokens"][::std::mem::offset_of!(QkvParams, tokens) - 152usize];
    ["Offset of field: QkvParams::cols"][::std::mem::offset_of!(QkvParams, cols) - 156usize];
    ["Offset of field: QkvParams::heads"][::std::mem::offset_of!(QkvParams, heads) - 160usize];
    ["Offset of field: QkvParams::kv_heads"][::std::mem::offset_of!(QkvParams, kv_heads) - 164usize];
    ["Offset of field: QkvParams::head_dim"][::std::mem::offset_of!(QkvParams, head_dim) - 168usize];
    ["Offset of field: QkvParams::pairs"][::std::mem::offset_of!(QkvParams, pairs) - 172usize];
    ["Offset of field: QkvParams::tables"][::std::mem::offset_of!(QkvParams, tables) - 176usize];
    ["Offset of field: QkvParams::interleaved"][::std::mem::offset_of!(QkvParams, interleaved) - 180usize];
    ["Offset of field: QkvParams::page_table_stride"][::std::mem::offset_of!(QkvParams, page_table_stride) - 184usize];
    ["Offset of field: QkvParams::norm"][::std::mem::offset_of!(QkvParams, norm) - 188usize];
    ["Offset of field: QkvParams::eps"][::std::mem::offset_of!(QkvParams, eps) - 192usize];
    ["Offset of field: QkvParams::norm_eps"][::std::mem::offset_of!(QkvParams, norm_eps) - 196usize];
    ["Offset of field: QkvParams::head_eps"][::std::mem::offset_of!(QkvParams, head_eps) - 200usize];
    ["Offset of field: QkvParams::scale"][::std::mem::offset_of!(QkvParams, scale) - 204usize];
};
impl Default for QkvParams {
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
pub struct ProjectParams {
    pub x: *const ::std::os::raw::c_void,
    pub w: *const ::std::os::raw::c_void,
    pub norm_weight: *const f32,
    pub norm_bias: *const f32,
    pub squares: *const f32,
    pub bias: *const f32,
    pub gate: *const f32,
    pub residual: *const f32,
    pub router_norm: *const f32,
    pub router: *const ::std::os::raw::c_void,
    pub out: *mut f32,
    pub squares_out: *mut f32,
    pub partials_out: *mut f32,
    pub tokens: ::std::os::raw::c_uint,
    pub rows: ::std::os::raw::c_uint,
    pub cols: ::std::os::raw::c_uint,
    pub norm: ::std::os::raw::c_uint,
    pub router_rows: ::std::os::raw::c_uint,
    pub router_type: ::std::os::raw::c_uint,
    pub eps: f32,
    pub norm_eps: f32,
    pub factor: f32,
    pub softcap: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of ProjectParams"][::std::mem::size_of::<ProjectParams>() - 144usize];
    ["Alignment of ProjectParams"][::std::mem::align_of::<ProjectParams>() - 8usize];
    ["Offset of field: ProjectParams::x"][::std::mem::offset_of!(ProjectParams, x) - 0usize];
    ["Offset of field: ProjectParams::w"][::std::mem::offset_of!(ProjectParams, w) - 8usize];
    ["Offset of field: ProjectParams::norm_weight"][::std::mem::offset_of!(ProjectParams, norm_weight) - 16usize];
    ["Offset of field: ProjectParams::norm_bias"][::std::mem::offset_of!(ProjectParams, norm_bias) - 24usize];
    ["Offset of field: ProjectParams::squares"][::std::mem::offset_of!(ProjectParams, squares) - 32usize];
    ["Offset of field: ProjectParams::bias"][::std::mem::offset_of!(ProjectParams, bias) - 40usize];
    ["Offset of field: ProjectParams::gate"][::std::mem::offset_of!(ProjectParams, gate) - 48usize];
    ["Offset of field: ProjectParams::residual"][::std::mem::offset_of!(ProjectParams, residual) - 56usize];
    ["Offset of field: ProjectParams::router_norm"][::std::mem::offset_of!(ProjectParams, router_norm) - 64usize];
    ["Offset of field: ProjectParams::router"][::std::mem::offset_of!(ProjectParams, router) - 72usize];
    ["Offset of field: ProjectParams::out"][::std::mem::offset_of!(ProjectParams, out) - 80usize];
    ["Offset of field: ProjectParams::squares_out"][::std::mem::offset_of!(ProjectParams, squares_out) - 88usize];
    ["Offset of field: ProjectParams::partials_out"][::std::mem::offset_of!(ProjectParams, partials_out) - 96usize];
    ["Offset of field: ProjectParams::tokens"][::std::mem::offset_of!(ProjectParams, tokens) - 104usize];
    ["Offset of field: ProjectParams::rows"][::std::mem::offset_of!(ProjectParams, rows) - 108usize];
    ["Offset of field: ProjectParams::cols"][::std::mem::offset_of!(ProjectParams, cols) - 112usize];
    ["Offset of field: ProjectParams::norm"][::std::mem::offset_of!(ProjectParams, norm) - 116usize];
    ["Offset of field: ProjectParams::router_rows"][::std::mem::offset_of!(ProjectParams, router_rows) - 120usize];
    ["Offset of field: ProjectParams::router_type"][::std::mem::offset_of!(ProjectParams, router_type) - 124usize];
    ["Offset of field: ProjectParams::eps"][::std::mem::offset_of!(ProjectParams, eps) - 128usize];
    ["Offset of field: ProjectParams::norm_eps"][::std::mem::offset_of!(ProjectParams, norm_eps) - 132usize];
    ["Offset of field: ProjectParams::factor"][::std::mem::offset_of!(ProjectParams, factor) - 136usize];
    ["Offset of field: ProjectParams::softcap"][::std::mem::offset_of!(ProjectParams, softcap) - 140usize];
};
impl Default for ProjectParams {
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
pub struct RouteParams {
    pub logits: *const f32,
    pub partials: *const f32,
    pub squares: *const f32,
    pub logits_bias: *const f32,
    pub bias: *const f32,
    pub selected: *mut ::std::os::raw::c_int,
    pub weights: *mut f32,
    pub tokens: ::std::os::raw::c_uint,
    pub experts: ::std::os::raw::c_uint,
    pub slots: ::std::os::raw::c_uint,
    pub groups: ::std::os::raw::c_uint,
    pub top_groups: ::std::os::raw::c_uint,
    pub renormalise: ::std::os::raw::c_uint,
    pub width: ::std::os::raw::c_uint,
    pub eps: f32,
    pub scale: f32,
    pub jitter: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RouteParams"][::std::mem::size_of::<RouteParams>() - 96usize];
    ["Alignment of RouteParams"][::std::mem::align_of::<RouteParams>() - 8usize];
    ["Offset of field: RouteParams::logits"][::std::mem::offset_of!(RouteParams, logits) - 0usize];
    ["Offset of field: RouteParams::partials"][::std::mem::offset_of!(RouteParams, partials) - 8usize];
    ["Offset of field: RouteParams::squares"][::std::mem::offset_of!(RouteParams, squares) - 16usize];
    ["Offset of field: RouteParams::logits_bias"][::std::mem::offset_of!(RouteParams, logits_bias) - 24usize];
    ["Offset of field: RouteParams::bias"][::std::mem::offset_of!(RouteParams, bias) - 32usize];
    ["Offset of field: RouteParams::selected"][::std::mem::offset_of!(RouteParams, selected) - 40usize];
    ["Offset of field: RouteParams::weights"][::std::mem::offset_of!(RouteParams, weights) - 48usize];
    ["Offset of field: RouteParams::tokens"][::std::mem::offset_of!(RouteParams, tokens) - 56usize];
    ["Offset of field: RouteParams::experts"][::std::mem::offset_of!(RouteParams, experts) - 60usize];
    ["Offset of field: RouteParams::slots"][::std::mem::offset_of!(RouteParams, slots) - 64usize];
    ["Offset of field: RouteParams::groups"][::std::mem::offset_of!(RouteParams, groups) - 68usize];
    ["Offset of field: RouteParams::top_groups"][::std::mem::offset_of!(RouteParams, top_groups) - 72usize];
    ["Offset of field: RouteParams::renormalise"][::std::mem::offset_of!(RouteParams, renormalise) - 76usize];
    ["Offset of field: RouteParams::width"][::std::mem::offset_of!(RouteParams, width) - 80usize];
    ["Offset of field: RouteParams::eps"][::std::mem::offset_of!(RouteParams, eps) - 84usize];
    ["Offset of field: RouteParams::scale"][::std::mem::offset_of!(RouteParams, scale) - 88usize];
    ["Offset of field: RouteParams::jitter"][::std::mem::offset_of!(RouteParams, jitter) - 92usize];
};
impl Default for RouteParams {
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
pub struct GateUpParams {
    pub x: *const ::std::os::raw::c_void,
    pub w_gate: *const ::std::os::raw::c_void,
    pub w_up: *const ::std::os::raw::c_void,
    pub experts: *const ::std::os::raw::c_int,
    pub norm_weight: *const f32,
    pub norm_bias: *const f32,
    pub squares: *const f32,
    pub gate_bias: *const f32,
    pub up_bias: *const f32,
    pub logits: *const f32,
    pub route_partials: *const f32,
    pub route_squares: *const f32,
    pub route_bias: *const f32,
    pub correction: *const f32,
    pub out: *mut f32,
    pub experts_out: *mut ::std::os::raw::c_int,
    pub weights_out: *mut f32,
    pub tokens: ::std::os::raw::c_uint,
    pub slots: ::std::os::raw::c_uint,
    pub matrices: ::std::os::raw::c_uint,
    pub rows: ::std::os::raw::c_uint,
    pub cols: ::std::os::raw::c_uint,
    pub slots_share_x: ::std::os::raw::c_uint,
    pub activation: ::std::os::raw::c_uint,
    pub norm: ::std::os::raw::c_uint,
    pub routing: ::std::os::raw::c_uint,
    pub scoring: ::std::os::raw::c_uint,
    pub groups: ::std::os::raw::c_uint,
    pub top_groups: ::std::os::raw::c_uint,
    pub renormalise: ::std::os::raw::c_uint,
    pub route_width: ::std::os::raw::c_uint,
    pub eps: f32,
    pub norm_eps: f32,
    pub limit: f32,
    pub route_eps: f32,
    pub scale: f32,
    pub jitter: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of GateUpParams"][::std::mem::size_of::<GateUpParams>() - 216usize];
    ["Alignment of GateUpParams"][::std::mem::align_of::<GateUpParams>() - 8usize];
    ["Offset of field: GateUpParams::x"][::std::mem::offset_of!(GateUpParams, x) - 0usize];
    ["Offset of field: GateUpParams::w_gate"][::std::mem::offset_of!(GateUpParams, w_gate) - 8usize];
    ["Offset of field: GateUpParams::w_up"][::std::mem::offset_of!(GateUpParams, w_up) - 16usize];
    ["Offset of field: GateUpParams::experts"][::std::mem::offset_of!(GateUpParams, experts) - 24usize];
    ["Offset of field: GateUpParams::norm_weight"][::std::mem::offset_of!(GateUpParams, norm_weight) - 32usize];
    ["Offset of field: GateUpParams::norm_bias"][::std::mem::offset_of!(GateUpParams, norm_bias) - 40usize];
    ["Offset of field: GateUpParams::squares"][::std::mem::offset_of!(GateUpParams, squares) - 48usize];
    ["Offset of field: GateUpParams::gate_bias"][::std::mem::offset_of!(GateUpParams, gate_bias) - 56usize];
    ["Offset of field: GateUpParams::up_bias"][::std::mem::offset_of!(GateUpParams, up_bias) - 64usize];
    ["Offset of field: GateUpParams::logits"][::std::mem::offset_of!(GateUpParams, logits) - 72usize];
    ["Offset of field: GateUpParams::route_partials"][::std::mem::offset_of!(GateUpParams, route_partials) - 80usize];
    ["Offset of field: GateUpParams::route_squares"][::std::mem::offset_of!(GateUpParams, route_squares) - 88usize];
    ["Offset of field: GateUpParams::route_bias"][::std::mem::offset_of!(GateUpParams, route_bias) - 96usize];
    ["Offset of field: GateUpParams::correction"][::std::mem::offset_of!(GateUpParams, correction) - 104usize];
    ["Offset of field: GateUpParams::out"][::std::mem::offset_of!(GateUpParams, out) - 112usize];
    ["Offset of field: GateUpParams::experts_out"][::std::mem::offset_of!(GateUpParams, experts_out) - 120usize];
    ["Offset of field: GateUpParams::weights_out"][::std::mem::offset_of!(GateUpParams, weights_out) - 128usize];
    ["Offset of field: GateUpParams::tokens"][::std::mem::offset_of!(GateUpParams, tokens) - 136usize];
    ["Offset of field: GateUpParams::slots"][::std::mem::offset_of!(GateUpParams, slots) - 140usize];
    ["Offset of field: GateUpParams::matrices"][::std::mem::offset_of!(GateUpParams, matrices) - 144usize];
    ["Offset of field: GateUpParams::rows"][::std::mem::offset_of!(GateUpParams, rows) - 148usize];
    ["Offset of field: GateUpParams::cols"][::std::mem::offset_of!(GateUpParams, cols) - 152usize];
    ["Offset of field: GateUpParams::slots_share_x"][::std::mem::offset_of!(GateUpParams, slots_share_x) - 156usize];
    ["Offset of field: GateUpParams::activation"][::std::mem::offset_of!(GateUpParams, activation) - 160usize];
    ["Offset of field: GateUpParams::norm"][::std::mem::offset_of!(GateUpParams, norm) - 164usize];
    ["Offset of field: GateUpParams::routing"][::std::mem::offset_of!(GateUpParams, routing) - 168usize];
    ["Offset of field: GateUpParams::scoring"][::std::mem::offset_of!(GateUpParams, scoring) - 172usize];
    ["Offset of field: GateUpParams::groups"][::std::mem::offset_of!(GateUpParams, groups) - 176usize];
    ["Offset of field: GateUpParams::top_groups"][::std::mem::offset_of!(GateUpParams, top_groups) - 180usize];
    ["Offset of field: GateUpParams::renormalise"][::std::mem::offset_of!(GateUpParams, renormalise) - 184usize];
    ["Offset of field: GateUpParams::route_width"][::std::mem::offset_of!(GateUpParams, route_width) - 188usize];
    ["Offset of field: GateUpParams::eps"][::std::mem::offset_of!(GateUpParams, eps) - 192usize];
    ["Offset of field: GateUpParams::norm_eps"][::std::mem::offset_of!(GateUpParams, norm_eps) - 196usize];
    ["Offset of field: GateUpParams::limit"][::std::mem::offset_of!(GateUpParams, limit) - 200usize];
    ["Offset of field: GateUpParams::route_eps"][::std::mem::offset_of!(GateUpParams, route_eps) - 204usize];
    ["Offset of field: GateUpParams::scale"][::std::mem::offset_of!(GateUpParams, scale) - 208usize];
    ["Offset of field: GateUpParams::jitter"][::std::mem::offset_of!(GateUpParams, jitter) - 212usize];
};
impl Default for GateUpParams {
    fn default() -> Self {
        let mut s = ::std::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::std::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct SampleSettings {
    pub seed: ::std::os::raw::c_ulonglong,
    pub position: ::std::os::raw::c_ulonglong,
    pub temperature: f32,
    pub top_k: ::std::os::raw::c_uint,
    pub top_p: f32,
    pub min_p: f32,
    pub repetition_penalty: f32,
    pub presence_penalty: f32,
    pub frequency_penalty: f32,
    pub reserved: ::std::os::raw::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of SampleSettings"][::std::mem::size_of::<SampleSettings>() - 48usize];
    ["Alignment of SampleSettings"][::std::mem::align_of::<SampleSettings>() - 8usize];
    ["Offset of field: SampleSettings::seed"][::std::mem::offset_of!(SampleSettings, seed) - 0usize];
    ["Offset of field: SampleSettings::position"][::std::mem::offset_of!(SampleSettings, position) - 8usize];
    ["Offset of field: SampleSettings::temperature"][::std::mem::offset_of!(SampleSettings, temperature) - 16usize];
    ["Offset of field: SampleSettings::top_k"][::std::mem::offset_of!(SampleSettings, top_k) - 20usize];
    ["Offset of field: SampleSettings::top_p"][::std::mem::offset_of!(SampleSettings, top_p) - 24usize];
    ["Offset of field: SampleSettings::min_p"][::std::mem::offset_of!(SampleSettings, min_p) - 28usize];
    ["Offset of field: SampleSettings::repetition_penalty"]
        [::std::mem::offset_of!(SampleSettings, repetition_penalty) - 32usize];
    ["Offset of field: SampleSettings::presence_penalty"]
        [::std::mem::offset_of!(SampleSettings, presence_penalty) - 36usize];
    ["Offset of field: SampleSettings::frequency_penalty"]
        [::std::mem::offset_of!(SampleSettings, frequency_penalty) - 40usize];
    ["Offset of field: SampleSettings::reserved"][::std::mem::offset_of!(SampleSettings, reserved) - 44usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct SampleParams {
    pub logits: *const f32,
    pub settings: *const SampleSettings,
    pub history_offsets: *const ::std::os::raw::c_uint,
    pub history_tokens: *const ::std::os::raw::c_uint,
    pub history_counts: *const ::std::os::raw::c_uint,
    pub allowed: *const ::std::os::raw::c_uint,
    pub out: *mut ::std::os::raw::c_int,
    pub logprobs: *mut f32,
    pub rows: ::std::os::raw::c_uint,
    pub vocab: ::std::os::raw::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of SampleParams"][::std::mem::size_of::<SampleParams>() - 72usize];
    ["Alignment of SampleParams"][::std::mem::align_of::<SampleParams>() - 8usize];
    ["Offset of field: SampleParams::logits"][::std::mem::offset_of!(SampleParams, logits) - 0usize];
    ["Offset of field: SampleParams::settings"][::std::mem::offset_of!(SampleParams, settings) - 8usize];
    ["Offset of field: SampleParams::history_offsets"][::std::mem::offset_of!(SampleParams, history_offsets) - 16usize];
    ["Offset of field: SampleParams::history_tokens"][::std::mem::offset_of!(SampleParams, history_tokens) - 24usize];
    ["Offset of field: SampleParams::history_counts"][::std::mem::offset_of!(SampleParams, history_counts) - 32usize];
    ["Offset of field: SampleParams::allowed"][::std::mem::offset_of!(SampleParams, allowed) - 40usize];
    ["Offset of field: SampleParams::out"][::std::mem::offset_of!(SampleParams, out) - 48usize];
    ["Offset of field: SampleParams::logprobs"][::std::mem::offset_of!(SampleParams, logprobs) - 56usize];
    ["Offset of field: SampleParams::rows"][::std::mem::offset_of!(SampleParams, rows) - 64usize];
    ["Offset of field: SampleParams::vocab"][::std::mem::offset_of!(SampleParams, vocab) - 68usize];
};
impl Default for SampleParams {
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
pub struct PageCopyParams {
    pub pages: *const ::std::os::raw::c_int,
    pub kv: *mut ::std::os::raw::c_void,
    pub page_bytes: ::std::os::raw::c_ulonglong,
    pub count: ::std::os::raw::c_uint,
    pub reserved: ::std::os::raw::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of PageCopyParams"][::std::mem::size_of::<PageCopyParams>() - 32usize];
    ["Alignment of PageCopyParams"][::std::mem::align_of::<PageCopyParams>() - 8usize];
    ["Offset of field: PageCopyParams::pages"][::std::mem::offset_of!(PageCopyParams, pages) - 0usize];
    ["Offset of field: PageCopyParams::kv"][::std::mem::offset_of!(PageCopyParams, kv) - 8usize];
    ["Offset of field: PageCopyParams::page_bytes"][::std::mem::offset_of!(PageCopyParams, page_bytes) - 16usize];
    ["Offset of field: PageCopyParams::count"][::std::mem::offset_of!(PageCopyParams, count) - 24usize];
    ["Offset of field: PageCopyParams::reserved"][::std::mem::offset_of!(PageCopyParams, reserved) - 28usize];
};
impl Default for PageCopyParams {
    fn default() -> Self {
        let mut s = ::std::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::std::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
