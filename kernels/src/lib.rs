//! The kernels: their parameter ABI, their native implementations and the catalog that describes them.

#[rustfmt::skip] // generated
pub mod abi;
pub mod catalog;
pub mod cpu;
pub mod cuda;
pub mod params;
pub mod philox;
