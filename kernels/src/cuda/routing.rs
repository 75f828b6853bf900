//! `router`, `router_weights` and `route`: one block a token, so that partial logits are read by all its warps at once.

use super::{Constraint, CudaKernel, CudaLaunch, Define, SHARED_BYTES, cuda_kernel};
use crate::abi::{RouteParams, RouterParams, RouterWeightsParams};
use crate::cpu::gate_up::SCORINGS;

/// Threads of a block that routes: `ROUTE_THREADS` in `route.cuh`.
const THREADS: u32 = 256;

/// Bytes of shared memory an expert takes while a block routes: `ROUTE_BYTES` in `route.cuh`.
const EXPERT_BYTES: u64 = 44;

/// Bytes a selected expert takes: its number and weight.
const SLOT_BYTES: u64 = 8;

/// Shared memory that blocks which route or sort use besides, at most, in bytes.
pub(super) const STATIC_BYTES: u32 = 1024;

/// Shared memory of a block that routes among `experts` and keeps `slots` of them, in bytes.
pub(super) fn route_bytes(experts: u32, slots: u32) -> u64 {
    EXPERT_BYTES * u64::from(experts) + SLOT_BYTES * u64::from(slots)
}

/// Refuses more than a block's shared memory holds.
pub(super) fn expect_route(kernel: &'static str, variant: &str, [experts, slots]: [u32; 2]) -> Result<(), Constraint> {
    let (bytes, most) = (route_bytes(experts, slots), u64::from(SHARED_BYTES - STATIC_BYTES));
    if bytes <= most {
        return Ok(());
    }
    let message = format!(
        "{experts} experts of which {slots} are selected take {bytes} bytes of shared memory, a block has {most}; \
         route among fewer experts, at most {}",
        most.saturating_sub(SLOT_BYTES * u64::from(slots)) / EXPERT_BYTES
    );
    Err(Constraint { kernel, variant: variant.into(), message })
}

/// The constants of a variant.
fn scoring(variant: &str) -> Vec<Define> {
    let number = SCORINGS.iter().position(|s| *s == variant);
    number.map(|number| Define::new("SCORING", number)).into_iter().collect()
}

/// One block a token.
fn launch(entry: &'static str, tokens: u32, threads: u32, shared_bytes: u64) -> Vec<CudaLaunch> {
    if tokens == 0 {
        return Vec::new();
    }
    vec![CudaLaunch { entry, grid: [tokens, 1, 1], threads, shared_bytes: shared_bytes as u32 }]
}

pub static ROUTER: CudaKernel = cuda_kernel!(
    "router", "router.cu", RouterParams,
    specialise: |variant, p| expect_route("router", variant, [p.experts, p.slots]).map(|_| scoring(variant)),
    launches: |_, p| launch("router", p.tokens, THREADS, route_bytes(p.experts, p.slots)),
    workspace: |_, _| 0,
);

pub static ROUTER_WEIGHTS: CudaKernel = cuda_kernel!(
    "router_weights", "router_weights.cu", RouterWeightsParams,
    specialise: |variant, p| {
        expect_route("router_weights", variant, [p.experts, p.slots]).map(|_| scoring(variant))
    },
    launches: |_, p| launch("router_weights", p.tokens, 32, SLOT_BYTES * u64::from(p.slots)),
    workspace: |_, _| 0,
);

pub static ROUTE: CudaKernel = cuda_kernel!(
    "route", "route.cu", RouteParams,
    specialise: |variant, p| expect_route("route", variant, [p.experts, p.slots]).map(|_| scoring(variant)),
    launches: |_, p| launch("route", p.tokens, THREADS, route_bytes(p.experts, p.slots)),
    workspace: |_, _| 0,
);
